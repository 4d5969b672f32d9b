# SPDX-License-Identifier: Apache-2.0
"""Decides on offers and amendments by policy, where there is one; else they wait for people."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from assent.covenant import policy
from assent.covenant.agreement import Covenant, proposal_of
from assent.covenant.machine import State
from assent.covenant.payloads import Defer, Justification
from assent.covenant.policy import Excess, Policy
from assent.covenant.terms import TermSet
from assent.covenant.values import CovenantView, Proposal
from assent.errors import LocalError
from assent.identity.cellid import from_public_key
from assent.service.covenants.homes import Homes
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)


class Decider(Protocol):
    """Carries a decision out."""

    def accept(self, handle: int) -> CovenantView:
        """Accepts what is on the table."""

    def reject(
        self, handle: int, justification: Justification, counter_terms: TermSet | None
    ) -> CovenantView:
        """Rejects it."""

    def defer(self, handle: int, defer: Defer) -> CovenantView:
        """Asks first."""


class Deciding:
    """Judges what is on the table.

    Args:
        store: Holds the policies.
        homes: The engines.
        decider: Carries decisions out.
        wall: Unix µs.
    """

    def __init__(
        self, store: Store, homes: Homes, decider: Decider, wall: Callable[[], int]
    ) -> None:
        self._store = store
        self._homes = homes
        self._decider = decider
        self._wall = wall

    def judge(self, handle: int) -> None:
        """Decides on what is on the table of a covenant, if it is ours to decide."""
        if not self._homes.is_open(handle):
            return
        local, _, covenant = self._homes.open(handle)
        proposal, bounds = _to_decide(covenant), self._bounds(covenant, local)
        if proposal is None or bounds is None:
            return
        if covenant.state is State.AMENDING and not bounds.amendments:
            return
        senders = [party.role for party in covenant.parties.values()]
        excess = policy.judge(bounds, proposal, senders, self._wall())
        try:
            self._decide(covenant, excess)
        except LocalError as error:
            log.warning("not decided on", extra={"covenant": handle, "reason": str(error)})

    def _decide(self, covenant: Covenant, excess: list[Excess]) -> None:
        handle = covenant.handle
        if not excess:
            self._decider.accept(handle)
        elif covenant.state is State.AMENDING or covenant.deferrals:
            # The offer as it stands lies outside: to ask the same again would bring nothing new.
            self._decider.reject(handle, policy.refusal(excess), None)
        else:
            self._decider.defer(handle, policy.questions(excess))

    def _bounds(self, covenant: Covenant, local: CellID) -> Policy | None:
        asking = covenant.amendment.proposer if covenant.amendment else covenant.order[0]
        party = covenant.parties.get(asking)
        if party is None:
            return None
        raw = self._store.covenants.policy(local, from_public_key(party.public_key))
        return None if raw is None else Policy.decode(raw)


def _to_decide(covenant: Covenant) -> Proposal | None:
    """What waits for our decision."""
    if covenant.state is State.OFFER_RECEIVED:
        return covenant.proposal
    amendment = covenant.amendment
    if amendment is None or covenant.agent_id in amendment.signatures:
        return None
    return proposal_of(amendment.document, durable=covenant.durable)
