# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Covenants."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from assent.covenant.policy import Policy
from assent.covenant.terms import TermSet
from assent.errors import InvalidArgument
from assent.service import fields
from assent.service.covenants.keeper import CovenantKeeper
from assent.service.covenants.transports import RemoteTarget
from assent.service.registry import Registry
from assent.service.servicers import covenant_messages as messages
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import cells_pb2
from assent.v1 import covenants_pb2 as pb
from assent.v1.covenants_pb2_grpc import CovenantsServicer as Base
from assent.wire.cellid import CellID

HANDLE_MAX: Final = (1 << 63) - 1
RECORDS_MAX: Final = 10_000
_US: Final = 1_000
"""ns"""


def unix_us() -> int:
    """Unix time, µs."""
    return time.time_ns() // _US


class CovenantsServicer(Base):
    """What is agreed on with other agents.

    Args:
        registry: Finds cells.
        keeper: Does the work.
        now: Unix time, µs: when an offer starts that does not say it.
    """

    def __init__(
        self, registry: Registry, keeper: CovenantKeeper, now: Callable[[], int] = unix_us
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._now = now

    async def Offer(  # noqa: N802
        self, request: pb.OfferRequest, context: Context
    ) -> pb.Covenant:
        """Offers a covenant."""
        if not request.remotes:
            raise InvalidArgument("remotes", "needs at least one")
        urls = [
            messages.url(f"remotes[{at}].url", remote.url)
            for at, remote in enumerate(request.remotes)
        ]
        roles = messages.roles("remotes", request.remotes)
        refs = [
            translate.cell_ref(f"remotes[{at}].cell", remote.cell)
            for at, remote in enumerate(request.remotes)
        ]
        proposal = messages.proposal("proposal", request.proposal, self._now())
        local = self._local(request)
        targets = [
            RemoteTarget(self._registry.remote(ref).id, url)
            for ref, url in zip(refs, urls, strict=True)
        ]
        return messages.covenant(await self._keeper.offer(local, targets, proposal, roles))

    async def Accept(  # noqa: N802
        self, request: pb.AcceptRequest, context: Context
    ) -> pb.Covenant:
        """Accepts what is on the table."""
        return messages.covenant(self._keeper.accept(_handle(request.handle)))

    async def Reject(  # noqa: N802
        self, request: pb.RejectRequest, context: Context
    ) -> pb.Covenant:
        """Rejects it."""
        handle = _handle(request.handle)
        why = messages.justification("justification", request.justification)
        counter: TermSet | None = None
        if request.HasField("counter_terms"):
            counter = messages.terms("counter_terms", request.counter_terms)
        return messages.covenant(self._keeper.reject(handle, why, counter))

    async def Defer(  # noqa: N802
        self, request: pb.DeferRequest, context: Context
    ) -> pb.Covenant:
        """Asks for more before deciding."""
        handle = _handle(request.handle)
        deferral = messages.deferral("deferral", request.deferral)
        return messages.covenant(self._keeper.defer(handle, deferral))

    async def Inform(  # noqa: N802
        self, request: pb.InformRequest, context: Context
    ) -> pb.Covenant:
        """Answers questions."""
        handle = _handle(request.handle)
        kind = _content_type(request.content_type)
        return messages.covenant(self._keeper.inform(handle, kind, request.data))

    async def Send(  # noqa: N802
        self, request: pb.SendRequest, context: Context
    ) -> pb.Covenant:
        """Sends application data."""
        handle = _handle(request.handle)
        kind = _content_type(request.content_type)
        return messages.covenant(self._keeper.send(handle, kind, request.data))

    async def Amend(  # noqa: N802
        self, request: pb.AmendRequest, context: Context
    ) -> pb.Covenant:
        """Proposes new terms."""
        handle = _handle(request.handle)
        proposal = messages.amended(request, self._keeper.view(handle).proposal)
        return messages.covenant(self._keeper.amend(handle, proposal))

    async def Review(  # noqa: N802
        self, request: pb.ReviewRequest, context: Context
    ) -> pb.Covenant:
        """Says or asks how it is doing, or clears a quarantine."""
        handle = _handle(request.handle)
        kind = messages.review_kind("kind", request.kind)
        return messages.covenant(self._keeper.review(handle, kind, request.note))

    async def Revoke(  # noqa: N802
        self, request: pb.RevokeRequest, context: Context
    ) -> pb.Covenant:
        """Ends it."""
        handle = _handle(request.handle)
        return messages.covenant(self._keeper.revoke(handle, request.reason, request.now))

    async def Rotate(  # noqa: N802
        self, request: pb.RotateRequest, context: Context
    ) -> pb.RotateResponse:
        """Gives a local agent a new key."""
        views = self._keeper.rotate(self._local(request))
        return pb.RotateResponse(covenants=[messages.covenant(view) for view in views])

    async def Get(  # noqa: N802
        self, request: pb.GetCovenantRequest, context: Context
    ) -> pb.Covenant:
        """One covenant."""
        return messages.covenant(self._keeper.view(_handle(request.handle)))

    async def List(  # noqa: N802
        self, request: pb.ListCovenantsRequest, context: Context
    ) -> pb.ListCovenantsResponse:
        """All covenants."""
        views = self._keeper.views(request.ended)
        return pb.ListCovenantsResponse(covenants=[messages.covenant(view) for view in views])

    async def Export(  # noqa: N802
        self, request: pb.ExportRequest, context: Context
    ) -> pb.ExportResponse:
        """The covenant object with all its versions."""
        return pb.ExportResponse(document=self._keeper.export(_handle(request.handle)))

    async def Evidence(  # noqa: N802
        self, request: pb.EvidenceRequest, context: Context
    ) -> pb.EvidenceResponse:
        """The newest records of the evidence log."""
        count = fields.number("count", request.count, 1, RECORDS_MAX)
        handle = fields.number("handle", request.handle, 0, HANDLE_MAX) or None
        records = self._keeper.evidence(count, handle)
        return pb.EvidenceResponse(records=[messages.record(each) for each in records])

    async def Watch(  # noqa: N802
        self, request: pb.WatchCovenantsRequest, context: Context
    ) -> AsyncIterator[pb.CovenantNews]:
        """What becomes of covenants, from now on."""
        handle = fields.number("handle", request.handle, 0, HANDLE_MAX)
        if handle:
            self._keeper.view(handle)
        async with contextlib.aclosing(self._keeper.watch(handle)) as found:
            # From here on the client misses nothing, and knows it.
            await context.send_initial_metadata(())
            async for each in found:
                yield messages.news(each)

    async def GetPolicy(  # noqa: N802
        self, request: pb.GetCovenantPolicyRequest, context: Context
    ) -> pb.GetCovenantPolicyResponse:
        """What is accepted without asking anybody."""
        found = self._keeper.policy(self._local(request), self._remote(request))
        policy = messages.policy_out(found) if found is not None else None
        return pb.GetCovenantPolicyResponse(policy=policy)

    async def SetPolicy(  # noqa: N802
        self, request: pb.SetCovenantPolicyRequest, context: Context
    ) -> pb.SetCovenantPolicyResponse:
        """Sets or removes that."""
        policy: Policy | None = None
        if request.HasField("policy"):
            policy = messages.policy("policy", request.policy)
        local, remote = self._local(request), self._remote(request)
        self._keeper.set_policy(local, remote, policy)
        found = self._keeper.policy(local, remote)
        return pb.SetCovenantPolicyResponse(
            policy=messages.policy_out(found) if found is not None else None
        )

    def _local(
        self,
        request: pb.OfferRequest
        | pb.RotateRequest
        | pb.GetCovenantPolicyRequest
        | pb.SetCovenantPolicyRequest,
    ) -> CellID:
        if not request.HasField("local"):
            return self._registry.only_local().id
        ref: cells_pb2.CellRef = request.local
        return self._registry.local(translate.cell_ref("local", ref)).id

    def _remote(
        self, request: pb.GetCovenantPolicyRequest | pb.SetCovenantPolicyRequest
    ) -> CellID | None:
        if not request.HasField("remote"):
            return None
        ref: cells_pb2.CellRef = request.remote
        return self._registry.remote(translate.cell_ref("remote", ref)).id


def _handle(value: int) -> int:
    return fields.number("handle", value, 1, HANDLE_MAX)


def _content_type(value: str) -> str:
    if not value:
        raise InvalidArgument("content_type", "is missing, as in text/plain")
    return value
