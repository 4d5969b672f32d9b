# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Grants."""

from __future__ import annotations

from typing import Final

from assent.service import fields
from assent.service.handshakes import FLOW_MAX
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import grants_pb2
from assent.v1.grants_pb2_grpc import GrantsServicer as Base
from assent.wire.control import GRANT_UNITS_MAX

WINDOW_MAX: Final = GRANT_UNITS_MAX
"""Half of the grant field's range, in blocks."""


class GrantsServicer(Base):
    """Standing credit, per remote cell and flow."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Set(  # noqa: N802
        self, request: grants_pb2.SetGrantRequest, context: Context
    ) -> grants_pb2.Grant:
        """Sets the window of a flow."""
        ref = translate.cell_ref("remote", request.remote)
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        window = fields.number("window_blocks", request.window_blocks, 1, WINDOW_MAX)
        return translate.grant(self._registry.set_grant(ref, flow, window))

    async def Get(  # noqa: N802
        self, request: grants_pb2.GetGrantRequest, context: Context
    ) -> grants_pb2.Grant:
        """One window."""
        ref = translate.cell_ref("remote", request.remote)
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        return translate.grant(self._registry.grant(ref, flow))

    async def List(  # noqa: N802
        self, request: grants_pb2.ListGrantsRequest, context: Context
    ) -> grants_pb2.ListGrantsResponse:
        """All windows."""
        grants = [translate.grant(grant) for grant in self._registry.grants()]
        return grants_pb2.ListGrantsResponse(grants=grants)

    async def Delete(  # noqa: N802
        self, request: grants_pb2.DeleteGrantRequest, context: Context
    ) -> grants_pb2.DeleteGrantResponse:
        """Removes the window of a flow."""
        ref = translate.cell_ref("remote", request.remote)
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        self._registry.delete_grant(ref, flow)
        return grants_pb2.DeleteGrantResponse()
