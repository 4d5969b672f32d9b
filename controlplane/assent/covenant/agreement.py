# SPDX-License-Identifier: Apache-2.0
"""What is known of one covenant by one of its parties, from the first OFFER to the end.

Data only: `negotiation` and `fellowship` act on it, `machine` says what they may.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import cbor2

from assent.covenant.machine import ENDED, IN_FORCE, MULTI_STEPS, STEPS, Action, Input, State
from assent.covenant.payloads import (
    AgentDescriptor,
    BoundAgent,
    CovenantObject,
    Defer,
    Offer,
    Reject,
    Rotation,
)
from assent.covenant.terms import Timers
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition, RemoteError

US: Final = 1_000
"""ns"""

Link = object
"""Whatever the owner of the sockets calls a transport; only compared here."""


class OutOfPlace(RemoteError):  # noqa: N818 - says what it is
    """A frame that has no place in the state that its covenant is in."""


class Timer(enum.Enum):
    """What a covenant waits for."""

    OFFER = "T_offer"
    DEFER = "T_defer"
    BIND = "T_bind"
    HEARTBEAT = "T_heartbeat"
    LIVENESS = "T_heartbeat_timeout"
    AMEND = "T_amend"
    NOTICE = "T_revoke_notice"
    REVIEW = "review_interval"
    END = "end"


@dataclass(slots=True, eq=False)
class Party:
    """Another party of a covenant.

    Attributes:
        agent_id: Its UUID.
        role: In the covenant.
        public_key: Its key now.
        capabilities: As declared.
        link: By which it is reached; None while there is none.
        rx_sequence: Of its newest frame that was taken; -1 before.
        rx_time: That frame's timestamp, Unix µs.
        rx_signature: That frame's signature: the same frame again is no regression.
        clock_ahead: Its clock minus our monotonic one, µs; None before its first frame.
        covenant_id: That it assigned in its ACCEPT; 0 before.
        deferring: It has deferred, and was not answered yet.
        defer_digest: Of what it asked last.
        signature: Over the version that is being made.
        former_key: Replaced, and good until the first frame under the new one.
        leaving: It has confirmed the termination.
        heard_at: When its newest frame was taken, monotonic ns.
        url: How our owner reached it first; "" where it did not, or needs no URL.
    """

    agent_id: UUID
    role: str
    public_key: bytes
    capabilities: tuple[str, ...] = ()
    link: Link | None = None
    rx_sequence: int = -1
    rx_time: int = 0
    rx_signature: bytes = b""
    clock_ahead: int | None = None
    covenant_id: int = 0
    deferring: bool = False
    defer_digest: bytes = b""
    signature: bytes = b""
    former_key: bytes = b""
    leaving: bool = False
    heard_at: int = 0
    url: str = ""


@dataclass(slots=True, eq=False)
class Amendment:
    """A new version on the table.

    Attributes:
        proposer: Who put it there.
        document: The new object, unsigned.
        signatures: Of those who have agreed, the proposer first.
        rotation: The proposer's change of key.
        sequence: Of its AMEND.
    """

    proposer: UUID
    document: CovenantObject
    signatures: dict[UUID, bytes]
    rotation: Rotation | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a covenant that all parties have signed.

    Attributes:
        draft: What they have signed.
        signatures: By agent.
        rotation: The change of a key that came with it.
    """

    draft: CovenantObject
    signatures: Mapping[UUID, bytes]
    rotation: Rotation | None = None

    @property
    def document(self) -> CovenantObject:
        """The object with everybody's signature in its place."""
        return signed(self.draft, self.signatures)

    @classmethod
    def of(cls, document: CovenantObject, rotation: Rotation | None) -> Version:
        """What `document` was made of."""
        signatures = {one.agent_id: one.bind_signature for one in document.agents}
        agents = tuple(one.unsigned for one in document.agents)
        return cls(replace(document, agents=agents), signatures, rotation)


@dataclass(slots=True, eq=False)
class Covenant:
    """One covenant or negotiation, as one party knows it.

    Attributes:
        handle: Names it on this host.
        agent_id: The local agent's UUID.
        role: Its role.
        initiator: Whether it offered.
        proposal: On the table, then in force.
        parties: The others, in the order of the OFFER.
        order: All agents' UUIDs, in the order of the OFFER.
        state: Where it stands.
        covenant_id: 0 until assigned.
        document: The version that is being made or in force, unsigned.
        signature: Our own, over the first version.
        history: All versions that were in force, oldest first.
        past: Those of the covenants that it follows, oldest covenant first.
        timers: Of its terms.
        deadlines: Monotonic ns.
        deferrals: How often it was deferred.
        tx_sequence: Of our newest frame; -1 before.
        tx_time: That frame's timestamp, Unix µs.
        clock_ahead: The clock that our timestamps are of, minus our monotonic one, µs.
        amendment: On the table beside what is in force.
        lapsed: Amendments that we have signed and that were not agreed to in time, as far as we
            have heard; the newest last.
        leaving: We have confirmed the termination.
        notice_ends: Unix µs.
        questions: Of the newest DEFER.
        rejection: The newest REJECT.
        reason: Why it ended.
        updated_at: Unix µs.
        data_due: When each agent's DATA will be level with its rate again, ns of the clock that it
            is held against: ours the monotonic one, the others' their timestamps.
        suspended_by: Parties that have quarantined us.
    """

    handle: int
    agent_id: UUID
    public_key: bytes
    role: str
    initiator: bool
    proposal: Proposal
    parties: dict[UUID, Party]
    order: tuple[UUID, ...]
    state: State = State.IDLE
    covenant_id: int = 0
    document: CovenantObject | None = None
    signature: bytes = b""
    history: list[Version] = field(default_factory=list)
    past: list[tuple[Version, ...]] = field(default_factory=list)
    timers: Timers = field(default_factory=Timers)
    deadlines: dict[Timer, int] = field(default_factory=dict)
    deferrals: int = 0
    tx_sequence: int = -1
    tx_time: int = 0
    clock_ahead: int | None = None
    amendment: Amendment | None = None
    lapsed: list[Amendment] = field(default_factory=list)
    leaving: bool = False
    notice_ends: int = 0
    questions: Defer | None = None
    rejection: Reject | None = None
    reason: str = ""
    updated_at: int = 0
    data_due: dict[UUID, int] = field(default_factory=dict)
    suspended_by: set[UUID] = field(default_factory=set)

    @property
    def multi(self) -> bool:
        """Whether more than two agents take part."""
        return len(self.order) > 2

    @property
    def durable(self) -> bool:
        """Whether it outlives its transport."""
        return self.proposal.durable

    @property
    def in_force(self) -> bool:
        """Whether its terms hold now."""
        return self.state in IN_FORCE

    @property
    def ended(self) -> bool:
        """Whether nothing is agreed or under way."""
        return self.state in ENDED

    @property
    def version(self) -> int:
        """In force, or last in force; 0 before."""
        return self.history[-1].draft.version if self.history else 0

    def links(self) -> Iterator[Link]:
        """The transports by which its parties are reached, each once."""
        seen = set()
        for party in self.parties.values():
            if party.link is not None and party.link not in seen:
                seen.add(party.link)
                yield party.link

    def reached(self) -> Iterator[Party]:
        """The parties that reach us themselves: the others' frames are passed on by the offerer."""
        if self.multi and not self.initiator:
            yield self.parties[self.order[0]]
        else:
            yield from self.parties.values()

    def role_of(self, agent_id: UUID) -> str:
        """The role of any of its agents."""
        return self.role if agent_id == self.agent_id else self.parties[agent_id].role

    def descriptors(self, capabilities: tuple[str, ...] = ()) -> tuple[AgentDescriptor, ...]:
        """All agents, as an OFFER names them."""
        return tuple(
            AgentDescriptor(self.agent_id, self.role, self.public_key, capabilities)
            if agent == self.agent_id
            else AgentDescriptor(
                agent,
                self.parties[agent].role,
                self.parties[agent].public_key,
                self.parties[agent].capabilities,
            )
            for agent in self.order
        )

    def draft(
        self,
        version: int,
        proposal: Proposal,
        created: int,
        keys: Mapping[UUID, bytes] | None = None,
    ) -> CovenantObject:
        """A version of the covenant object that nobody has signed yet.

        Args:
            version: Its number.
            proposal: What it says.
            created: Unix µs.
            keys: Keys that differ from those of now.
        """
        changed = keys or {}
        agents = tuple(
            BoundAgent(one.agent_id, one.role, changed.get(one.agent_id, one.public_key), b"")
            for one in self.descriptors()
        )
        return CovenantObject(
            self.covenant_id,
            version,
            proposal.terms,
            proposal.duration,
            proposal.misericordia_clauses,
            proposal.exit_protocol,
            created,
            agents,
        )

    def offer(self, capabilities: tuple[str, ...] = ()) -> Offer:
        """The OFFER that puts the proposal on the table."""
        proposal = self.proposal
        return Offer(
            proposal.terms,
            self.descriptors(capabilities),
            proposal.duration,
            proposal.misericordia_clauses,
            proposal.exit_protocol,
        )

    # Steps

    def allows(self, what: Input) -> bool:
        """Whether an input has a place in the state."""
        return self._find(what) is not None

    def require(self, what: Input) -> None:
        """Refuses a call that has no place in the state.

        Raises:
            FailedPrecondition: It has none.
        """
        if self._find(what) is None:
            raise FailedPrecondition(
                f"covenant {self.handle} is {self.state.value}: there is no {what.value} then"
            )

    def expect(self, what: Input) -> None:
        """Refuses a frame that has no place in the state.

        Raises:
            OutOfPlace: It has none.
        """
        if self._find(what) is None:
            raise OutOfPlace(f"{what.value} while {self.state.value}")

    def step(self, what: Input) -> Action:
        """Takes a step of the table, which the caller has asked about."""
        found = self._find(what)
        if found is None:
            raise FailedPrecondition(f"{what.value} while {self.state.value}")
        before, (self.state, action) = self.state, found
        if self.state is not before:
            self._leave(before)
        return action

    def _find(self, what: Input) -> tuple[State, Action] | None:
        found = STEPS.get((self.state, what))
        if found is None and self.multi:
            found = MULTI_STEPS.get((self.state, what))
        return found

    def _leave(self, before: State) -> None:
        """A timer belongs to the states that it leads out of."""
        kept = _CLOCKS.get(self.state, frozenset())
        for timer in [timer for timer in self.deadlines if timer not in kept]:
            del self.deadlines[timer]

    # Time

    def arm(self, timer: Timer, now: int, delay: int) -> None:
        """Sets a timer; `delay` in µs, `now` monotonic ns."""
        self.deadlines[timer] = now + delay * US

    def next_deadline(self) -> int | None:
        """When something is due, monotonic ns."""
        return min(self.deadlines.values(), default=None)


# Which timers run in which state.
_LIFE: Final = frozenset({Timer.HEARTBEAT, Timer.LIVENESS, Timer.REVIEW, Timer.END})
_CLOCKS: Final[Mapping[State, frozenset[Timer]]] = {
    State.OFFER_SENT: frozenset({Timer.OFFER}),
    State.OFFER_RECEIVED: frozenset({Timer.OFFER}),
    State.DEFERRED: frozenset({Timer.DEFER}),
    State.ACCEPTED: frozenset({Timer.OFFER, Timer.BIND}),
    State.BINDING: frozenset({Timer.BIND}),
    State.COVENANTED: _LIFE,
    State.AMENDING: _LIFE | {Timer.AMEND},
    State.REVOKING: frozenset({Timer.HEARTBEAT, Timer.NOTICE, Timer.END}),
}


def signed(document: CovenantObject, signatures: Mapping[UUID, bytes]) -> CovenantObject:
    """The object with everybody's signature in its place."""
    agents = tuple(
        replace(agent, bind_signature=signatures.get(agent.agent_id, agent.bind_signature))
        for agent in document.agents
    )
    return replace(document, agents=agents)


def proposal_of(document: CovenantObject, *, durable: bool) -> Proposal:
    """What a version of a covenant says."""
    return Proposal(
        document.terms,
        document.duration,
        document.misericordia_clauses,
        document.exit_protocol,
        durable,
    )


def digest_of(defer: Defer) -> bytes:
    """What a DEFER asks for: two of one digest ask for the same."""
    asked = [[(one.about, one.specificity) for one in defer.questions], list(defer.evidence_needed)]
    return hashlib.sha256(cbor2.dumps(asked, canonical=True)).digest()
