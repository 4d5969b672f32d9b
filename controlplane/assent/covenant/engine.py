# SPDX-License-Identifier: Apache-2.0
"""All covenants of one local agent: bytes and time in, frames and events out (seed TCP/UP).

Theory of operation
===================

A link is a transport to one agent: a WebSocket, an HTTP/2 stream, flow 0 of a pair of cells. Links
deliver whole frames in order, once. A frame is checked in full before anything changes:

    form -> sender known here -> signature -> sequence -> time -> quarantine -> payload -> place

and what fails is dropped, counted, and where it is one of AIOS's conditions, answered. Before its
signature has been verified, a frame costs no state: a forged one is held against the agent at the
other end of the link, once that agent has proved itself there, and else against nobody. Frames of a
covenant of three or more prove nothing of a link: others have them too, and pass them on.

While an offer is undecided its frames carry the covenant id 0; a link has at most one such offer
each way. From ACCEPT on, a covenant is found by its id and the sender's UUID.

Sequence numbers rise by sender and covenant. The very frame that was taken last, come again, is
what a transport may do that resumes after a crash: it is ignored. Everything else that is not newer
is a regression.

Timestamps are held against the peer's clock as its first frame showed it, carried on by our
monotonic clock and followed slowly: a step of our own wall clock accuses nobody. Frames that are
late are dropped; those from the future, or older than the one before, show a manipulated clock. As
long as the peer's clock is not known, it may be ours that is wrong: then they are only dropped.

The owner calls `tick` when `next_deadline` has come. After every call it takes `take_events`,
carries them out, and then sends `take_frames`.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol
from uuid import UUID

from assent.covenant import payloads
from assent.covenant.agreement import (
    Covenant,
    Link,
    OutOfPlace,
    Party,
    Timer,
)
from assent.covenant.desk import DRIFT, SKEW_US, Desk, Happened, Outgoing, Signer
from assent.covenant.document import make_rotation
from assent.covenant.fellowship import REVIEW_MIN_US, Fellowship, RotationOrder
from assent.covenant.fields import PayloadError
from assent.covenant.immune import Condition, Immune
from assent.covenant.machine import Input, State
from assent.covenant.negotiation import Negotiation, TermsDiffer
from assent.covenant.payloads import (
    Accept,
    AgentDescriptor,
    Amend,
    Bind,
    Data,
    Defer,
    Escalate,
    Justification,
    Offer,
    Payload,
    Reason,
    Reject,
    Review,
    Revoke,
    Violation,
)
from assent.covenant.terms import TermSet, Timers
from assent.covenant.values import Proposal
from assent.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RemoteError,
    ResourceExhausted,
)
from assent.identity.agent import agent_id_of
from assent.identity.keys import SignatureError, verify
from assent.wire.cbor import CborError
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType, TcpupError

log = logging.getLogger(__name__)

COVENANTS_MAX: Final = 65_536
"""Covenants and negotiations at once."""
AGENTS_MAX: Final = 16
"""Agents of one covenant."""
OFFERS_MAX: Final = 64
"""Undecided offers of one agent at once."""
BAD_MAX: Final = 32
"""Frames of a transport that were forged or malformed, after which it is given up."""
SEQUENCE_RESERVE: Final = 1 << 20
"""Frames that may have been sent since a covenant was stored."""
_DERIVED: Final = 8
"""Version of the UUIDs that `identity.agent` derives."""
_ROLES: Final = ("initiator", "responder")
_RECENT_MAX: Final = 4_096
_ALLOWED_IN_QUARANTINE: Final = frozenset({FrameType.HEARTBEAT, FrameType.REVIEW, FrameType.REVOKE})


class Directory(Protocol):
    """What is known of other agents."""

    def key_of(self, agent_id: UUID) -> bytes | None:
        """The key that a UUID is bound to; None where it is not."""

    def agent_of(self, public_key: bytes) -> UUID | None:
        """The UUID that a key is bound to; None where it is not."""

    def is_known(self, public_key: bytes) -> bool:
        """Whether the operator has made its owner known, and lets covenants decide about it."""


class Dropped(RemoteError):  # noqa: N818 - says what became of it
    """A frame that is dropped; `why` is its count's name."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True, slots=True)
class Invited:
    """An agent that an offer is made to.

    Attributes:
        agent_id: Its UUID.
        public_key: Ed25519, 32 bytes.
        link: By which it is reached.
        role: In the covenant.
    """

    agent_id: UUID
    public_key: bytes
    link: Link
    role: str = _ROLES[1]


@dataclass(slots=True, eq=False)
class _LinkState:
    """What is known of a link.

    Attributes:
        agent_id: Who has proved to be at the other end.
        single: It serves one covenant only.
        ours: Our undecided offer on it.
        theirs: The other's.
        handles: Covenants that it has served.
        bad: Frames on it that were not their sender's, or not frames.
    """

    agent_id: UUID | None
    single: bool
    ours: Covenant | None = None
    theirs: Covenant | None = None
    handles: set[int] = field(default_factory=set)
    bad: int = 0


class Engine:
    """The TCP/UP agent, without I/O.

    Args:
        agent_id: Our UUID.
        signer: Our key.
        directory: What is known of others.
        wall: Unix µs.
        random: Returns as many random bytes as it is asked for.
        next_handle: Numbers covenants on this host.
        quarantined: Agents that were in quarantine before, and why.
        monotonic: ns, of the clock that `now` is of; with it, our own timestamps do not step when
            the wall clock does.
    """

    def __init__(
        self,
        agent_id: UUID,
        signer: Signer,
        directory: Directory,
        wall: Callable[[], int],
        random: Callable[[int], bytes],
        next_handle: Callable[[], int],
        quarantined: Mapping[UUID, str] = MappingProxyType({}),
        monotonic: Callable[[], int] | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.public_key = signer.public_key
        self.refused: Counter[str] = Counter()
        """Frames that were dropped, by why."""
        self._directory = directory
        self._wall = wall
        self._random = random
        self._next_handle = next_handle
        self._immune = Immune(str(agent_id), wall)
        self._desk = Desk(agent_id, signer, self._immune, wall, quarantined, monotonic)
        self._fellowship = Fellowship(self._desk, self._renamed)
        self._negotiation = Negotiation(
            self._desk, self._name_covenant, self._enter, self._fellowship.activate
        )
        self._covenants: dict[int, Covenant] = {}
        self._index: dict[tuple[UUID, int], Covenant] = {}
        self._links: dict[Link, _LinkState] = {}
        self._useless: list[Link] = []
        self._undecided: dict[int, list[_LinkState]] = {}
        self._offers: Counter[UUID] = Counter()
        self._recent: OrderedDict[bytes, int] = OrderedDict()
        self._due: list[tuple[int, int]] = []
        self._scheduled: dict[int, int] = {}

    # What there is

    def covenant(self, handle: int) -> Covenant:
        """A covenant or negotiation.

        Raises:
            NotFound: There is none of that handle.
        """
        found = self._covenants.get(handle)
        if found is None:
            raise NotFound(f"no covenant {handle}")
        return found

    def covenants(self) -> Iterator[Covenant]:
        """All of them, by handle."""
        return iter(list(self._covenants.values()))

    def has(self, agent_id: UUID, covenant_id: int) -> bool:
        """Whether an agent has a covenant of that id with us."""
        return (agent_id, covenant_id) in self._index

    def handle_of(self, agent_id: UUID, covenant_id: int) -> int:
        """The handle of the covenant of that id that an agent has with us; 0 where it has none."""
        found = self._index.get((agent_id, covenant_id))
        return 0 if found is None else found.handle

    @property
    def quarantined(self) -> Mapping[UUID, str]:
        """Agents that have nothing left but HEARTBEAT, REVIEW and REVOKE, and why."""
        return MappingProxyType(self._desk.quarantined)

    def take_events(self) -> list[Happened]:
        """What has happened, oldest first."""
        return self._desk.take_events()

    def take_frames(self) -> list[Outgoing]:
        """What is to be sent, oldest first."""
        return self._desk.take_frames()

    # Links

    def link_opened(
        self, link: Link, *, agent_id: UUID | None = None, single: bool = False
    ) -> None:
        """A transport is there.

        Args:
            link: The transport.
            agent_id: Who is at the other end, where the transport itself has proved it.
            single: It serves one covenant.
        """
        self._links[link] = _LinkState(agent_id, single)

    def link_closed(self, link: Link, now: int) -> None:
        """A transport is gone, and with it what was bound to it (seed 5.3)."""
        state = self._links.pop(link, None)
        if state is None:
            return
        for handle in sorted(state.handles):
            covenant = self._covenants.get(handle)
            if covenant is not None:
                self._lose(covenant, link)
                self._settle(covenant)

    def _lose(self, covenant: Covenant, link: Link) -> None:
        lost = [party for party in covenant.parties.values() if party.link == link]
        for party in lost:
            party.link = None
        if not lost or covenant.ended or (covenant.in_force and covenant.durable):
            return
        reason = "its transport was closed"
        if covenant.in_force:
            # Those who are still reached are to know that it is over.
            self._desk.send(covenant, FrameType.REVOKE, Revoke(covenant.covenant_id, reason))
        covenant.step(Input.LINK_LOST)
        covenant.amendment = None
        covenant.reason = reason
        kind = "terminated" if covenant.state is State.TERMINATED else "timeout"
        self._desk.tell(covenant, kind, covenant.reason)

    # Calls

    def offer(
        self,
        proposal: Proposal,
        invited: Sequence[Invited],
        now: int,
        *,
        role: str = _ROLES[0],
        again: int = 0,
    ) -> Covenant:
        """Offers a covenant.

        Args:
            proposal: What is proposed.
            invited: To whom; the first one names the covenant.
            now: Monotonic ns.
            role: Ours.
            again: Handle of one that has ended, whose history is kept.

        Raises:
            InvalidArgument: The agents or the terms make no sense together.
            NotFound: There is no covenant of the handle `again`.
            FailedPrecondition: A link is gone, or waits for an answer already.
            ResourceExhausted: There are too many covenants.
        """
        covenant = self.covenant(again) if again else None
        if covenant is not None:
            covenant.require(Input.SEND_OFFER)
        self._check_invited(invited, role)
        timers = Timers.of(proposal.terms)
        if covenant is None and len(self._covenants) >= COVENANTS_MAX:
            raise ResourceExhausted(f"{COVENANTS_MAX} covenants are open, and no more may be")
        parties = {
            one.agent_id: Party(one.agent_id, one.role, one.public_key, link=one.link)
            for one in invited
        }
        order = (self.agent_id, *parties)
        fresh = Covenant(
            covenant.handle if covenant else self._next_handle(),
            self.agent_id,
            self.public_key,
            role,
            True,
            proposal,
            parties,
            order,
            state=covenant.state if covenant else State.IDLE,
            history=covenant.history if covenant else [],
            past=covenant.past if covenant else [],
            timers=timers,
        )
        self._negotiation.offer(fresh, now)
        self._keep(fresh)
        for one in invited:
            state = self._links[one.link]
            state.ours = fresh
            state.handles.add(fresh.handle)
        self._undecided[fresh.handle] = [self._links[one.link] for one in invited]
        self._settle(fresh)
        return fresh

    def _check_invited(self, invited: Sequence[Invited], role: str) -> None:
        agents = [one.agent_id for one in invited]
        if not agents or len(agents) > AGENTS_MAX - 1:
            raise InvalidArgument("agents", f"needs 1 to {AGENTS_MAX - 1} others")
        if len(set(agents)) < len(agents) or self.agent_id in agents:
            raise InvalidArgument("agents", "each takes part once")
        for one in invited:
            state = self._links.get(one.link)
            if state is None:
                raise FailedPrecondition("the transport is closed")
            if state.ours is not None or (state.single and state.handles):
                raise FailedPrecondition("an offer on this transport waits for its answer already")
        self._require_free(agents)

    def _require_free(self, agents: Iterable[UUID]) -> None:
        for agent_id in agents:
            condition = self._desk.quarantined.get(agent_id)
            if condition is not None:
                raise FailedPrecondition(f"agent {agent_id} is quarantined: {condition}")

    def accept(self, handle: int, now: int) -> Covenant:
        """Accepts an offer, or an amendment."""

        def act(covenant: Covenant) -> None:
            if covenant.state is State.AMENDING:
                self._fellowship.accept_amendment(covenant, now)
                return
            covenant.require(Input.SEND_ACCEPT)
            self._require_free(covenant.parties)
            self._negotiation.accept(covenant, now)

        return self._call(handle, act)

    def reject(
        self, handle: int, justification: Justification, counter_terms: TermSet | None = None
    ) -> Covenant:
        """Rejects an offer, or an amendment."""
        return self._call(
            handle,
            lambda covenant: (
                self._fellowship.reject_amendment(covenant, justification, counter_terms)
                if covenant.state is State.AMENDING
                else self._negotiation.reject(covenant, justification, counter_terms)
            ),
        )

    def defer(self, handle: int, defer: Defer, now: int) -> Covenant:
        """Asks before deciding."""
        return self._call(handle, lambda covenant: self._negotiation.defer(covenant, defer, now))

    def inform(self, handle: int, content_type: str, data: bytes, now: int) -> Covenant:
        """Answers a DEFER."""
        return self._call(
            handle, lambda covenant: self._negotiation.inform(covenant, content_type, data, now)
        )

    def send(self, handle: int, content_type: str, data: bytes, now: int) -> Covenant:
        """Sends application data."""
        return self._call(
            handle, lambda covenant: self._fellowship.send_data(covenant, content_type, data, now)
        )

    def amend(self, handle: int, proposal: Proposal, now: int) -> Covenant:
        """Proposes a new version."""
        return self._call(handle, lambda covenant: self._fellowship.amend(covenant, proposal, now))

    def rotate(self, handle: int, signer: Signer, now: int) -> Covenant:
        """Proposes a new version in which our key is another one (seed 7.4)."""

        def propose(covenant: Covenant) -> None:
            self._desk.add_signer(signer)
            rotation = make_rotation(
                self.agent_id,
                covenant.public_key,
                signer.public_key,
                covenant.covenant_id,
                covenant.version + 1,
                old_sign=lambda message: self._desk.sign(covenant, message),
                new_sign=signer.sign,
            )
            order = RotationOrder(signer.public_key, signer.sign, rotation)
            self._fellowship.amend(covenant, covenant.proposal, now, order)

        return self._call(handle, propose)

    def add_signer(self, signer: Signer) -> None:
        """A key of ours that covenants may be rotated to, or have been."""
        self._desk.add_signer(signer)

    def use_key(self, signer: Signer) -> None:
        """Every covenant has been rotated to a key: it is ours from now on."""
        self.add_signer(signer)
        self.public_key = signer.public_key

    def review(self, handle: int, kind: str, note: str) -> Covenant:
        """Asks for, or gives, an account; "clear" clears the quarantine of its parties."""

        def act(covenant: Covenant) -> None:
            self._fellowship.review(covenant, kind, note)
            if kind == "clear":
                for agent_id in covenant.parties:
                    self.clear(agent_id)

        return self._call(handle, act)

    def revoke(self, handle: int, reason: str, now: int, *, graceful: bool = True) -> Covenant:
        """Withdraws consent; from an undecided offer too."""

        def act(covenant: Covenant) -> None:
            if covenant.allows(Input.WITHDRAW):
                self._withdraw(covenant, reason or "withdrawn by us")
            else:
                self._fellowship.revoke(covenant, reason, now, graceful=graceful)

        return self._call(handle, act)

    def condemn(self, agent_id: UUID, condition: str) -> None:
        """Another engine of this host has found an agent to be in breach."""
        self._desk.quarantined[agent_id] = condition

    def absolve(self, agent_id: UUID) -> None:
        """Another engine of this host has been told that an agent is cleared."""
        if self._desk.quarantined.pop(agent_id, None) is not None:
            self._immune.forgive(agent_id)

    def clear(self, agent_id: UUID) -> None:
        """A REVIEW has cleared an agent."""
        if self._desk.quarantined.pop(agent_id, None) is not None:
            self._immune.forgive(agent_id)
            self._desk.tell_of_agent("cleared", "cleared by a review", agent_id)

    def report_breach(self, handle: int, agent_id: UUID, what: str, count: int, now: int) -> None:
        """Others that watch for AIOS have seen an agent break the terms of a covenant."""
        covenant = self.covenant(handle)
        known = agent_id in covenant.parties and agent_id not in self._desk.quarantined
        if known and covenant.allows(Input.VIOLATION):
            self._fellowship.breached(covenant, agent_id, what, now, count=count)

    def abort(self, handle: int, reason: str) -> None:
        """What was agreed cannot be carried out here: nothing of it is sent, and it is over.

        An offer goes back to idle; what was in force already ends without notice.
        """
        covenant = self.covenant(handle)
        self._desk.take_back(handle)
        if covenant.allows(Input.REVOKE_NOW):
            if covenant.history and covenant.tx_sequence >= 0:
                self._desk.send(covenant, FrameType.REVOKE, Revoke(covenant.covenant_id, reason))
            covenant.step(Input.REVOKE_NOW)
            covenant.amendment = None
        elif covenant.allows(Input.WITHDRAW):
            self._fall_back(covenant, Input.WITHDRAW, reason)
        covenant.reason = reason
        self._desk.tell(covenant, "failed", reason)
        self._settle(covenant)

    def forget(self, handle: int) -> None:
        """Drops a covenant that has ended."""
        covenant = self._covenants.get(handle)
        if covenant is not None and covenant.ended:
            self._settle(covenant)
            for state in self._links.values():
                if not state.single:
                    state.handles.discard(handle)
            del self._covenants[handle]

    def restore(self, covenant: Covenant, now: int) -> None:
        """Takes over a covenant that was in force before a restart; it has no transport yet.

        What was sent after it was stored is not known any more, and its numbers must not come
        again: so many are left out.
        """
        self._keep(covenant)
        covenant.tx_sequence += SEQUENCE_RESERVE
        for agent_id, party in covenant.parties.items():
            self._index[agent_id, covenant.covenant_id] = covenant
            party.heard_at = now
        covenant.arm(Timer.HEARTBEAT, now, covenant.timers.heartbeat)
        if covenant.state is State.REVOKING:
            left = max(0, covenant.notice_ends - self._wall())
            covenant.arm(Timer.NOTICE, now, left)
        else:
            covenant.arm(Timer.LIVENESS, now, covenant.timers.heartbeat_timeout)
            if covenant.state is State.AMENDING:
                covenant.arm(Timer.AMEND, now, covenant.timers.amend)
        duration = covenant.proposal.duration
        if duration.review_interval and covenant.state is not State.REVOKING:
            covenant.arm(Timer.REVIEW, now, max(duration.review_interval, REVIEW_MIN_US))
        if duration.end:
            covenant.arm(Timer.END, now, max(0, duration.end - self._wall()))
        self._settle(covenant)

    def attach(self, handle: int, agent_id: UUID, link: Link) -> None:
        """Gives a party of a durable covenant a new transport, and says what we hold.

        Raises:
            NotFound: There is no such covenant, or no such party.
            FailedPrecondition: It does not outlive its transport, or the new one is gone or taken.
        """
        covenant = self.covenant(handle)
        party, state = covenant.parties.get(agent_id), self._links.get(link)
        if party is None:
            raise NotFound(f"covenant {handle} has no party {agent_id}")
        if not (covenant.in_force and covenant.durable):
            raise FailedPrecondition(f"covenant {handle} does not outlive its transport")
        if state is None or _taken(state, covenant):
            raise FailedPrecondition("the transport is closed, or serves another covenant")
        self._attach(covenant, party, link)
        if covenant.state in (State.COVENANTED, State.AMENDING):
            self._fellowship.review(covenant, "check", "")

    def _call(self, handle: int, act: Callable[[Covenant], object]) -> Covenant:
        covenant = self.covenant(handle)
        act(covenant)
        self._settle(covenant)
        return covenant

    def _withdraw(self, covenant: Covenant, reason: str) -> None:
        self._fall_back(covenant, Input.WITHDRAW, reason)
        covenant.reason = reason
        self._desk.tell(covenant, "timeout", reason)

    def _fall_back(self, covenant: Covenant, what: Input, reason: str) -> None:
        """A negotiation has come to nothing."""
        if covenant.state is State.BINDING:
            # Our signature is out, and may have put the covenant in force for who has it.
            self._desk.send(covenant, FrameType.REVOKE, Revoke(covenant.covenant_id, reason))
        covenant.step(what)

    # Frames

    def receive(self, link: Link, raw: bytes, now: int) -> str:
        """Takes in one frame. Never raises: what is wrong is dropped, counted and logged.

        Returns:
            Why it was dropped, as in `refused`; "" where it was taken.
        """
        state = self._links.get(link)
        if state is None:
            self.refused["closed_link"] += 1
            return "closed_link"
        why = ""
        try:
            frame = CovenantFrame.decode(raw)
            if frame.kind is FrameType.OFFER:
                self._receive_offer(link, state, frame, raw, now)
            else:
                self._receive_in_covenant(link, state, frame, raw, now)
        except Dropped as drop:
            why = self._drop(drop.why, drop)
        except (TcpupError, CborError, PayloadError) as error:
            why = self._drop("malformed", error)
            self._blame(link, state)
        except SignatureError as error:
            why = self._drop("bad_signature", error)
            self._blame(link, state)
        except OutOfPlace as error:
            why = self._drop("out_of_place", error)
        except TermsDiffer as error:
            why = self._drop("terms_differ", error)
        except (RemoteError, InvalidArgument) as error:
            # The latter: what it asks for would make a frame of ours too large.
            why = self._drop("refused", error)
        return why

    def _drop(self, why: str, error: Exception) -> str:
        self.refused[why] += 1
        log.info("covenant frame dropped", extra={"why": why, "reason": str(error)})
        return why

    def _blame(self, link: Link, state: _LinkState) -> None:
        """A transport that brings nothing but junk is given up: verifying it costs time."""
        state.bad += 1
        if state.bad == BAD_MAX:
            self._useless.append(link)

    def take_useless(self) -> list[Link]:
        """Transports that the owner is to close."""
        links, self._useless = self._useless, []
        return links

    # OFFER

    def _receive_offer(
        self, link: Link, state: _LinkState, frame: CovenantFrame, raw: bytes, now: int
    ) -> None:
        offer = payloads.decode(FrameType.OFFER, frame.payload)
        assert isinstance(offer, Offer)  # noqa: S101 - what decode returns for OFFER
        sender = self._sender_of(offer, frame)
        self._verify_or_report(link, state, frame, raw, sender.public_key, now)
        if frame.covenant_id or frame.sequence:
            raise OutOfPlace("an OFFER has covenant id 0 and sequence 0")
        self._check_fresh(frame)
        if frame.agent_id in self._desk.quarantined:
            raise Dropped("quarantined", f"an OFFER of {frame.agent_id}, which is quarantined")
        if state.theirs is not None or (state.single and state.handles):
            raise OutOfPlace("an OFFER while another one on this transport is undecided")
        if not self._directory.is_known(sender.public_key):
            self._answer_stranger(link, offer)
            raise Dropped("unknown_agent", f"an OFFER of {frame.agent_id}, which is not known")
        self._check_room(frame.agent_id)
        covenant = self._evaluate(link, frame, offer)
        self._remember(frame)
        self._prove(state, covenant, frame)
        state.theirs = covenant
        state.handles.add(covenant.handle)
        party = covenant.parties[frame.agent_id]
        self._take(party, frame, now)
        covenant.step(Input.RECEIVE_OFFER)
        covenant.arm(Timer.OFFER, now, covenant.timers.offer)
        self._keep(covenant)
        self._undecided[covenant.handle] = [state]
        self._offers[frame.agent_id] += 1
        self._desk.tell(covenant, "offer-received", "offer received", agent_id=frame.agent_id)
        self._settle(covenant)

    def _sender_of(self, offer: Offer, frame: CovenantFrame) -> AgentDescriptor:
        """The sender as its OFFER describes it.

        Raises:
            Dropped: The OFFER is not for us, or the sender's key is not the one it is known by.
        """
        agents = {one.agent_id: one for one in offer.agents}
        sender, me = agents.get(frame.agent_id), agents.get(self.agent_id)
        if sender is None or offer.agents[0] is not sender:
            raise Dropped("malformed", "an OFFER names its sender first")
        if me is None or me.public_key != self.public_key or me is sender:
            raise Dropped("not_for_us", "an OFFER in which we do not take part")
        if len(agents) < len(offer.agents):
            raise Dropped("malformed", "an OFFER names an agent twice")
        if bool(frame.flags & FrameFlag.MULTI) != (len(agents) > 2):
            raise Dropped("malformed", "MULTI is not as the agents are")
        bound = self._directory.key_of(frame.agent_id)
        holder = self._directory.agent_of(sender.public_key)
        if bound is not None and bound != sender.public_key:
            raise Dropped("binding", f"the UUID {frame.agent_id} is bound to another key")
        if holder is not None and holder != frame.agent_id:
            raise Dropped("binding", f"the key of {frame.agent_id} is bound to another UUID")
        derived = bound is None and frame.agent_id.version == _DERIVED
        if derived and frame.agent_id != agent_id_of(sender.public_key):
            # A UUID of this version follows from a key; nobody takes another key's.
            raise Dropped("binding", f"the UUID {frame.agent_id} follows from another key")
        return sender

    def _check_fresh(self, frame: CovenantFrame) -> None:
        """An OFFER is of now, and has not been seen.

        Raises:
            Dropped: It is not.
        """
        if abs(frame.timestamp - self._wall()) > SKEW_US:
            raise Dropped("stale", "an OFFER from another time: the clocks differ, or it is old")
        if frame.signature in self._recent:
            raise Dropped("replay", "an OFFER that was seen before")

    def _remember(self, frame: CovenantFrame) -> None:
        wall = self._wall()
        self._recent[frame.signature] = wall
        while self._recent:
            oldest, seen = next(iter(self._recent.items()))
            if len(self._recent) <= _RECENT_MAX and wall - seen <= 2 * SKEW_US:
                break
            del self._recent[oldest]

    def _check_room(self, agent_id: UUID) -> None:
        if self._offers[agent_id] >= OFFERS_MAX or len(self._covenants) >= COVENANTS_MAX:
            raise Dropped("too_many", f"too many undecided offers of {agent_id}")

    def _evaluate(self, link: Link, frame: CovenantFrame, offer: Offer) -> Covenant:
        """The negotiation that an OFFER opens.

        Raises:
            PayloadError: Its terms contradict themselves.
        """
        try:
            timers = Timers.of(offer.terms)
        except InvalidArgument as error:
            raise Dropped("malformed", f"OFFER: {error}") from None
        parties = {
            one.agent_id: Party(one.agent_id, one.role, one.public_key, one.capabilities, link=link)
            for one in offer.agents
            if one.agent_id != self.agent_id
        }
        mine = next(one for one in offer.agents if one.agent_id == self.agent_id)
        proposal = Proposal(
            offer.terms,
            offer.duration,
            offer.misericordia_clauses,
            offer.exit_protocol,
            bool(frame.flags & FrameFlag.DURABLE),
        )
        order = tuple(one.agent_id for one in offer.agents)
        return Covenant(
            self._next_handle(),
            self.agent_id,
            self.public_key,
            mine.role,
            False,
            proposal,
            parties,
            order,
            timers=timers,
        )

    def _answer_stranger(self, link: Link, offer: Offer) -> None:
        """A stranger is told why; nothing of it is kept."""
        count = len(offer.terms.permissions)
        reason = Reason("agents", "this host has not been introduced to you", "insufficient")
        justification = Justification(
            f"An offer of a covenant with {count} permissions, from an agent not known here.",
            (reason,),
            (),
        )
        self._desk.answer_stranger(
            link,
            self.public_key,
            FrameType.REJECT,
            Reject(justification, None),
            FrameFlag.JUSTIFIED,
        )

    # Everything else

    def _receive_in_covenant(
        self, link: Link, state: _LinkState, frame: CovenantFrame, raw: bytes, now: int
    ) -> None:
        covenant = self._find(state, frame)
        if covenant is None:
            raise Dropped("unknown_covenant", f"{frame.kind.name} of no covenant of ours")
        party = covenant.parties[frame.agent_id]
        key = self._key_under(party, frame, link, state, raw, now)
        if party.link != link:
            self._check_move(covenant, party, state)
        self._check_order(covenant, party, state, frame, raw, now)
        self._check_quarantine(party, frame)
        payload = (
            None
            if frame.kind is FrameType.HEARTBEAT
            else payloads.decode(frame.kind, frame.payload)
        )
        if party.link != link:
            self._attach(covenant, party, link)
        self._prove(state, covenant, frame)
        was_in_force = covenant.in_force
        try:
            self._dispatch(covenant, party, frame, payload, raw, now)
        finally:
            self._settle(covenant)
        if key == party.public_key:
            party.former_key = b""
        self._take(party, frame, now)
        self._fellowship.heard(covenant, party, now)
        if was_in_force and covenant.multi and covenant.initiator and frame.kind in _FORWARDED:
            self._desk.forward(covenant, raw, party)
        self._settle(covenant)

    def _find(self, state: _LinkState, frame: CovenantFrame) -> Covenant | None:
        """The covenant that a frame speaks of, in which its sender takes part."""
        sender, kind = frame.agent_id, frame.kind
        found = self._index.get((sender, frame.covenant_id))
        if found is not None:
            return found
        if kind is FrameType.ACCEPT or (kind in _ANSWERS and not frame.covenant_id):
            candidates: tuple[Covenant | None, ...] = (state.ours,)
        elif kind is FrameType.BIND:
            # Another acceptor has named the covenant of three or more.
            candidates = (self._waiting_for_bind(state, sender),)
        elif not frame.covenant_id:
            candidates = (state.theirs, state.ours)
        else:
            return None
        for covenant in candidates:
            if covenant is not None and sender in covenant.parties:
                return covenant
        return None

    def _waiting_for_bind(self, state: _LinkState, agent_id: UUID) -> Covenant | None:
        for handle in state.handles:
            covenant = self._covenants.get(handle)
            if (
                covenant is not None
                and covenant.multi
                and covenant.state is State.ACCEPTED
                and covenant.order[0] == agent_id
            ):
                return covenant
        return None

    def _key_under(
        self,
        party: Party,
        frame: CovenantFrame,
        link: Link,
        state: _LinkState,
        raw: bytes,
        now: int,
    ) -> bytes:
        """The key of a party that a frame is signed with."""
        if party.former_key:
            try:
                verify(party.former_key, frame.signed_bytes(), frame.signature)
            except SignatureError:
                pass
            else:
                return party.former_key
        self._verify_or_report(link, state, frame, raw, party.public_key, now)
        return party.public_key

    def _verify_or_report(
        self,
        link: Link,
        state: _LinkState,
        frame: CovenantFrame,
        raw: bytes,
        key: bytes,
        now: int,
    ) -> None:
        """Checks a signature; a forged one is held against who is at the link's other end."""
        try:
            verify(key, frame.signed_bytes(), frame.signature)
        except SignatureError:
            if state.agent_id is not None and state.agent_id not in self._desk.quarantined:
                self._report_on_link(
                    state, Condition.FORGED_SIGNATURE, f"{frame.kind.name} frame", now, raw
                )
            raise

    def _report_on_link(
        self, state: _LinkState, condition: Condition, text: str, now: int, raw: bytes
    ) -> None:
        """Reports an agent in a covenant that it has with us over a link."""
        agent_id = state.agent_id
        assert agent_id is not None  # noqa: S101 - asked by the caller
        for handle in sorted(state.handles):
            covenant = self._covenants.get(handle)
            if covenant is not None and agent_id in covenant.parties and not covenant.ended:
                self._desk.report(covenant, condition, agent_id, text, now, raw)
                self._end_if_negotiating(covenant)
                self._settle(covenant)
                return

    def _check_move(self, covenant: Covenant, party: Party, state: _LinkState) -> None:
        """A durable covenant may move to another transport; others may not."""
        ends = {None, party.agent_id, *(one.agent_id for one in covenant.reached())}
        moves = covenant.durable and covenant.in_force and not _taken(state, covenant)
        if not moves or state.agent_id not in ends:
            raise Dropped("other_link", "a frame on another transport than its covenant's")

    def _prove(self, state: _LinkState, covenant: Covenant, frame: CovenantFrame) -> None:
        """A frame that only its sender and we have shows who is at a link's other end."""
        if state.agent_id is None and not covenant.multi:
            state.agent_id = frame.agent_id

    def _check_order(
        self,
        covenant: Covenant,
        party: Party,
        state: _LinkState,
        frame: CovenantFrame,
        raw: bytes,
        now: int,
    ) -> None:
        """Sequence and timestamp (seed 7.2).

        Raises:
            Dropped: The frame is not newer than the last one, late, or from another time.
        """
        if frame.sequence <= party.rx_sequence:
            if frame.signature == party.rx_signature:
                raise Dropped("duplicate", "the frame that was taken last, again")
            text = f"sequence {frame.sequence} after {party.rx_sequence}"
            if state.agent_id == party.agent_id:
                # Elsewhere, somebody else may have kept the frame and sent it again.
                self._accuse(covenant, party, Condition.SEQUENCE_REGRESSION, text, raw, now)
            raise Dropped("replay", text)
        wall, ahead, skew = self._wall(), party.clock_ahead, covenant.timers.clock_skew
        expected = wall if ahead is None else now // 1_000 + ahead
        early = frame.timestamp - expected
        if -early > skew:
            raise Dropped("stale", f"it is {-early / 1e6:.1f} s late")
        if frame.timestamp < party.rx_time:
            text = "its clock went back"
        elif early > skew and frame.timestamp > wall + skew:
            text = f"it is {early / 1e6:.1f} s ahead of its time"
        else:
            return
        if ahead is not None:
            self._accuse(covenant, party, Condition.CLOCK_ANOMALY, text, raw, now)
        raise Dropped("clock", text)

    def _check_quarantine(self, party: Party, frame: CovenantFrame) -> None:
        if party.agent_id in self._desk.quarantined and frame.kind not in _ALLOWED_IN_QUARANTINE:
            raise Dropped("quarantined", f"{frame.kind.name} of an agent in quarantine")

    def _accuse(
        self,
        covenant: Covenant,
        party: Party,
        condition: Condition,
        text: str,
        raw: bytes,
        now: int,
    ) -> None:
        if party.agent_id in self._desk.quarantined:
            return
        self._desk.report(covenant, condition, party.agent_id, text, now, raw)
        self._end_if_negotiating(covenant)
        self._settle(covenant)

    def _end_if_negotiating(self, covenant: Covenant) -> None:
        """With an agent in quarantine nothing is negotiated."""
        if covenant.allows(Input.WITHDRAW) and any(
            agent in self._desk.quarantined for agent in covenant.parties
        ):
            self._withdraw(covenant, "a party is quarantined")

    def _dispatch(
        self,
        covenant: Covenant,
        party: Party,
        frame: CovenantFrame,
        payload: Payload | None,
        raw: bytes,
        now: int,
    ) -> None:
        negotiation, fellowship = self._negotiation, self._fellowship
        amending = covenant.in_force
        match payload:
            case Accept() if amending:
                fellowship.on_accept(covenant, party, payload, now)
            case Accept():
                negotiation.on_accept(covenant, party, frame, payload, now)
            case Reject() if payload.justification is None or not (
                frame.flags & FrameFlag.JUSTIFIED
            ):
                self._blind(covenant, party, raw, now)
            case Reject() if amending:
                fellowship.on_reject(covenant, party, payload)
            case Reject():
                negotiation.on_reject(covenant, party, payload)
            case Defer():
                negotiation.on_defer(covenant, party, payload, raw, now)
            case Bind():
                negotiation.on_bind(covenant, party, frame, payload, now)
            case Data():
                self._on_data(covenant, party, frame, payload, raw, now)
            case Amend():
                fellowship.on_amend(covenant, party, payload, now)
            case Review():
                fellowship.on_review(covenant, party, payload, now)
            case Revoke():
                graceful = bool(frame.flags & FrameFlag.GRACEFUL)
                fellowship.on_revoke(covenant, party, payload, now, graceful=graceful)
            case Violation() | Escalate():
                fellowship.on_violation(covenant, party, payload)
            case _:
                covenant.expect(Input.HEARTBEAT)

    def _blind(self, covenant: Covenant, party: Party, raw: bytes, now: int) -> None:
        if covenant.in_force:
            covenant.expect(Input.AMEND_REFUSED)
            text = "it gave no reason against the amendment"
            self._desk.report(covenant, Condition.BLIND_REJECT, party.agent_id, text, now, raw)
        else:
            self._negotiation.on_blind_reject(covenant, party, raw, now)

    def _on_data(
        self,
        covenant: Covenant,
        party: Party,
        frame: CovenantFrame,
        data: Data,
        raw: bytes,
        now: int,
    ) -> None:
        if covenant.in_force:
            if not frame.covenant_id:
                raise OutOfPlace("DATA without a covenant id")
            self._fellowship.on_data(covenant, party, data, frame.timestamp, raw, now)
        elif (
            covenant.state is State.DEFERRED
            and not covenant.initiator
            and not frame.covenant_id
            and party.agent_id == covenant.order[0]
        ):
            self._negotiation.on_info(covenant, party, data, now)
        elif covenant.ended:
            raise OutOfPlace(f"DATA while {covenant.state.value}")
        else:
            # Silently for the sender's application, not for AIOS (seed 8.2).
            self._accuse(
                covenant, party, Condition.EARLY_DATA, f"while {covenant.state.value}", raw, now
            )
            raise Dropped("early_data", f"DATA while {covenant.state.value}")

    def _take(self, party: Party, frame: CovenantFrame, now: int) -> None:
        """A frame has been taken: nothing older is."""
        party.rx_sequence = frame.sequence
        party.rx_time = frame.timestamp
        party.rx_signature = frame.signature
        ahead, seen = party.clock_ahead, frame.timestamp - now // 1_000
        if ahead is None:
            party.clock_ahead = seen
        else:
            # Clocks drift, and of two frames the one that was under way for less time is right.
            slack = (now - party.heard_at) // 1_000 // DRIFT
            plausible = frame.timestamp <= self._wall() + SKEW_US
            most = max(seen, ahead) if plausible else ahead + slack
            party.clock_ahead = min(max(seen, ahead - slack), most)
        party.heard_at = now

    def _attach(self, covenant: Covenant, party: Party, link: Link) -> None:
        """A party is reached by a link from now on, and so is whoever it passes frames on for."""
        passed_on = covenant.multi and party in covenant.reached() and not covenant.initiator
        for one in covenant.parties.values() if passed_on else (party,):
            one.link = link
        self._links[link].handles.add(covenant.handle)

    # Time

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns."""
        while self._due:
            at, handle = self._due[0]
            if self._scheduled.get(handle) == at:
                return at
            heapq.heappop(self._due)
        return None

    def tick(self, now: int) -> None:
        """Does what is due."""
        while (at := self.next_deadline()) is not None and at <= now:
            _, handle = heapq.heappop(self._due)
            del self._scheduled[handle]
            covenant = self._covenants[handle]
            due = [timer for timer, when in covenant.deadlines.items() if when <= now]
            for timer in sorted(due, key=covenant.deadlines.__getitem__):
                if covenant.deadlines.get(timer, now + 1) <= now:
                    self._expire(covenant, timer, now)
            self._settle(covenant)

    def _expire(self, covenant: Covenant, timer: Timer, now: int) -> None:
        what = _NEGOTIATION_TIMERS.get(timer)
        if what is None:
            self._fellowship.tick(covenant, timer, now)
            return
        reason = f"{timer.value} expired"
        self._fall_back(covenant, what, reason)
        covenant.reason = reason
        self._desk.tell(covenant, "timeout", reason)

    # Books

    def _keep(self, covenant: Covenant) -> None:
        self._covenants[covenant.handle] = covenant

    def _enter(self, covenant: Covenant, covenant_id: int) -> None:
        """Enters a covenant under the id that it was given.

        Raises:
            TermsDiffer: A party uses the id for another covenant with us.
        """
        for agent_id in covenant.parties:
            other = self._index.get((agent_id, covenant_id))
            if other is not None and other is not covenant:
                raise TermsDiffer(f"covenant id {covenant_id:#010x} is in use")
        for agent_id in covenant.parties:
            if covenant.covenant_id:
                self._index.pop((agent_id, covenant.covenant_id), None)
            self._index[agent_id, covenant_id] = covenant
        covenant.covenant_id = covenant_id

    def _name_covenant(self, agents: Iterable[UUID]) -> int:
        agents = list(agents)
        while True:
            name = int.from_bytes(self._random(4), "big")
            if name and all((agent_id, name) not in self._index for agent_id in agents):
                return name

    def _renamed(self, covenant: Covenant, agent_id: UUID, key: bytes) -> None:
        """A rotation is in force in one covenant."""
        if agent_id == self.agent_id:
            covenant.public_key = key
        else:
            party = covenant.parties[agent_id]
            party.former_key, party.public_key = party.public_key, key
        self._desk.tell(covenant, "rotated", "a key was rotated", agent_id=agent_id)

    def _settle(self, covenant: Covenant) -> None:
        """After any change: what is undecided, what is over, when it is due next."""
        if covenant.covenant_id or covenant.ended:
            self._decide(covenant)
        if covenant.ended:
            for agent_id in covenant.parties:
                if self._index.get((agent_id, covenant.covenant_id)) is covenant:
                    del self._index[agent_id, covenant.covenant_id]
        at = covenant.next_deadline()
        if at is None:
            self._scheduled.pop(covenant.handle, None)
        elif self._scheduled.get(covenant.handle) != at:
            self._scheduled[covenant.handle] = at
            heapq.heappush(self._due, (at, covenant.handle))

    def _decide(self, covenant: Covenant) -> None:
        """An offer that is decided makes room for the next one on its transport."""
        for state in self._undecided.pop(covenant.handle, ()):
            if state.ours is covenant:
                state.ours = None
            if state.theirs is covenant:
                state.theirs = None
                sender = covenant.order[0]
                self._offers[sender] -= 1
                if not self._offers[sender]:
                    del self._offers[sender]


def _taken(state: _LinkState, covenant: Covenant) -> bool:
    """Whether a link serves one covenant, and that is another one."""
    return state.single and bool(state.handles - {covenant.handle})


_NEGOTIATION_TIMERS: Final[Mapping[Timer, Input]] = MappingProxyType(
    {
        Timer.OFFER: Input.OFFER_TIMEOUT,
        Timer.DEFER: Input.DEFER_TIMEOUT,
        Timer.BIND: Input.BIND_TIMEOUT,
    }
)
_ANSWERS: Final = frozenset({FrameType.REJECT, FrameType.DEFER})
_FORWARDED: Final = frozenset(
    {
        FrameType.DATA,
        FrameType.AMEND,
        FrameType.ACCEPT,
        FrameType.REJECT,
        FrameType.REVIEW,
        FrameType.REVOKE,
        FrameType.VIOLATION,
        FrameType.ESCALATE,
    }
)
"""What the offerer of a covenant of three or more passes on once it is in force."""
