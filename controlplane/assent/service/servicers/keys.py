# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Keys."""

from __future__ import annotations

from assent.errors import InvalidArgument
from assent.identity.keys import PSK_LEN
from assent.service import fields
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import keys_pb2
from assent.v1.keys_pb2_grpc import KeysServicer as Base


class KeysServicer(Base):
    """Secrets that two cells share: they go in and never come out."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def SetPsk(  # noqa: N802
        self, request: keys_pb2.SetPskRequest, context: Context
    ) -> keys_pb2.SetPskResponse:
        """Sets the pre-shared key with a remote cell."""
        ref = translate.cell_ref("remote", request.remote)
        psk = fields.exact_bytes("psk", request.psk, PSK_LEN)
        if not any(psk):
            raise InvalidArgument("psk", "is all zeros")
        self._registry.set_psk(ref, psk, replace=request.replace)
        return keys_pb2.SetPskResponse()

    async def DeletePsk(  # noqa: N802
        self, request: keys_pb2.DeletePskRequest, context: Context
    ) -> keys_pb2.DeletePskResponse:
        """Removes the pre-shared key with a remote cell."""
        self._registry.delete_psk(translate.cell_ref("remote", request.remote))
        return keys_pb2.DeletePskResponse()

    async def List(  # noqa: N802
        self, request: keys_pb2.ListKeysRequest, context: Context
    ) -> keys_pb2.ListKeysResponse:
        """Which remote cells have one."""
        keys = [
            keys_pb2.KeyInfo(
                remote=translate.cell_id(remote.id),
                remote_name=remote.name,
                has_psk=set_at is not None,
                psk_set_at=set_at or 0,
            )
            for remote, set_at in self._registry.psks()
        ]
        return keys_pb2.ListKeysResponse(keys=keys)
