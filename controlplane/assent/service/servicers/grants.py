# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Grants."""

from __future__ import annotations

from typing import Final

from assent.credit.policy import CreditPolicy
from assent.errors import InvalidArgument
from assent.service import fields
from assent.service.handshakes import FLOW_MAX
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import grants_pb2
from assent.v1.grants_pb2_grpc import GrantsServicer as Base
from assent.wire.control import GRANT_SHIFT_MAX, GRANT_UNITS_MAX

WINDOW_MAX: Final = GRANT_UNITS_MAX << GRANT_SHIFT_MAX
"""Half of the grant field's range, in the largest units; blocks."""


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
        least = 0 if request.lamp else 1
        window = fields.number("window_blocks", request.window_blocks, least, WINDOW_MAX)
        return translate.grant(self._registry.set_grant(ref, flow, window, lamp=request.lamp))

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
        policy = translate.credit_policy(self._registry.credit.policy)
        return grants_pb2.ListGrantsResponse(grants=grants, policy=policy)

    async def Delete(  # noqa: N802
        self, request: grants_pb2.DeleteGrantRequest, context: Context
    ) -> grants_pb2.DeleteGrantResponse:
        """Removes the window of a flow."""
        ref = translate.cell_ref("remote", request.remote)
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        self._registry.delete_grant(ref, flow)
        return grants_pb2.DeleteGrantResponse()

    async def SetPolicy(  # noqa: N802
        self, request: grants_pb2.SetCreditPolicyRequest, context: Context
    ) -> grants_pb2.CreditPolicy:
        """Sets how windows come about."""
        old = self._registry.credit.policy
        policy = CreditPolicy(
            translate.credit_policy_kind("kind", request.kind),
            _blocks(request, "floor_blocks", old.floor),
            _blocks(request, "ceiling_blocks", old.ceiling),
        )
        self._registry.credit.set_policy(policy)
        return translate.credit_policy(policy)

    async def GetPolicy(  # noqa: N802
        self, request: grants_pb2.GetCreditPolicyRequest, context: Context
    ) -> grants_pb2.CreditPolicy:
        """How windows come about."""
        return translate.credit_policy(self._registry.credit.policy)

    async def SetShift(  # noqa: N802
        self, request: grants_pb2.SetGrantShiftRequest, context: Context
    ) -> grants_pb2.SetGrantShiftResponse:
        """The unit of a remote cell's grants."""
        ref = translate.cell_ref("remote", request.remote)
        shift = None
        if request.HasField("shift"):
            shift = fields.number("shift", request.shift, 0, GRANT_SHIFT_MAX)
        self._registry.set_grant_shift(ref, shift)
        return grants_pb2.SetGrantShiftResponse()


def _blocks(request: grants_pb2.SetCreditPolicyRequest, field: str, old: int) -> int:
    if not request.HasField(field):
        return old
    blocks: int = getattr(request, field)
    if blocks > WINDOW_MAX:
        raise InvalidArgument(field, f"needs at most {WINDOW_MAX}, got {blocks}")
    return blocks
