# SPDX-License-Identifier: Apache-2.0
"""From OFFER to BIND: how a covenant comes to be (seed TCP/UP, sections 3.1 to 3.5 and 4.5).

    offerer                                                 acceptor
    OFFER_SENT   --- OFFER {terms, agents} ------------->   OFFER_RECEIVED
                 <-- ACCEPT {covenant id, terms hash} ---   ACCEPTED
    BINDING      --- BIND {object, signature} ---------->   BINDING
    COVENANTED   <-- BIND {object, both signatures} -----   COVENANTED

The offerer of a covenant of three or more offers to all at once. The acceptor that stands first in
the OFFER names the covenant. When all have accepted, BIND goes out without MUTUAL, each answers
with its signature, and a BIND with MUTUAL carries them all to everybody.

Everything of a frame is checked before anything changes.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from assent.covenant.agreement import (
    Covenant,
    OutOfPlace,
    Party,
    Timer,
    Version,
    digest_of,
    signed,
)
from assent.covenant.desk import Desk
from assent.covenant.document import bind_bytes, confirmation_bytes
from assent.covenant.immune import Condition
from assent.covenant.machine import Input, State
from assent.covenant.payloads import (
    Accept,
    AgentConfirmation,
    Bind,
    BoundAgent,
    CovenantObject,
    Data,
    Defer,
    Justification,
    Offer,
    Reject,
    encode,
)
from assent.covenant.terms import TermSet, terms_hash
from assent.errors import FailedPrecondition, RemoteError
from assent.identity.keys import verify
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

CREATION_SLACK_US: Final = 60_000_000
"""How far the creation time of a covenant object may be off our clock."""
_SURELY_BINDABLE: Final = 2_048
"""Bytes of an OFFER whose BIND has neither too many nor too many items."""


class TermsDiffer(RemoteError):  # noqa: N818 - says what it is
    """A frame that speaks of other terms, agents or numbers than were offered."""


class Negotiation:
    """The steps that lead to a covenant, for all covenants of one agent.

    Args:
        desk: What the engine's parts share.
        name_covenant: Chooses an id that no party of a covenant uses with us.
        enter: Enters a covenant under the id that it was given.
        activate: Called with a covenant whose terms have come into force.
    """

    def __init__(
        self,
        desk: Desk,
        name_covenant: Callable[[Iterable[UUID]], int],
        enter: Callable[[Covenant, int], None],
        activate: Callable[[Covenant, int], None],
    ) -> None:
        self._desk = desk
        self._name_covenant = name_covenant
        self._enter = enter
        self._activate = activate

    # Calls

    def offer(self, covenant: Covenant, now: int) -> None:
        """Puts the proposal on the table."""
        covenant.require(Input.SEND_OFFER)
        offer = covenant.offer()
        flags = FrameFlag.MISERICORDIA
        if covenant.multi:
            flags |= FrameFlag.MULTI
        if covenant.durable:
            flags |= FrameFlag.DURABLE
        _check_bindable(covenant, offer)
        self._desk.send(covenant, FrameType.OFFER, offer, flags, covenant_id=0)
        covenant.step(Input.SEND_OFFER)
        covenant.arm(Timer.OFFER, now, covenant.timers.offer)
        self._desk.tell(covenant, "offered", "offer sent")

    def accept(self, covenant: Covenant, now: int) -> None:
        """Accepts what was offered, and names the covenant."""
        covenant.require(Input.SEND_ACCEPT)
        desk = self._desk
        covenant_id = self._name_covenant(covenant.parties)
        digest = terms_hash(covenant.proposal.terms)
        accept = Accept(
            covenant_id,
            digest,
            AgentConfirmation(
                covenant.agent_id,
                covenant.public_key,
                desk.sign(covenant, confirmation_bytes(digest)),
            ),
        )
        covenant.step(Input.SEND_ACCEPT)
        # It is not the offer that is waited for any more, but what the others say of it.
        covenant.deadlines.clear()
        covenant.arm(Timer.BIND, now, _patience(covenant))
        self._enter(covenant, covenant_id)
        desk.send(covenant, FrameType.ACCEPT, accept, to=_offerer(covenant))
        desk.tell(covenant, "accepted", "offer accepted")

    def reject(
        self,
        covenant: Covenant,
        justification: Justification,
        counter_terms: TermSet | None,
    ) -> None:
        """Rejects what was offered, and says why."""
        covenant.require(Input.SEND_REJECT)
        rejection = Reject(justification, counter_terms)
        self._desk.send(
            covenant, FrameType.REJECT, rejection, FrameFlag.JUSTIFIED, to=_offerer(covenant)
        )
        covenant.step(Input.SEND_REJECT)
        covenant.rejection, covenant.reason = rejection, "rejected by us"
        self._desk.tell(covenant, "rejected", "offer rejected by us")

    def defer(self, covenant: Covenant, defer: Defer, now: int) -> None:
        """Asks before deciding.

        Raises:
            FailedPrecondition: The offer has been deferred as often as it may be.
        """
        covenant.require(Input.SEND_DEFER)
        if covenant.deferrals >= covenant.timers.max_deferrals:
            raise FailedPrecondition(
                f"covenant {covenant.handle} has been deferred {covenant.deferrals} times, "
                "which is as often as it may be: accept or reject it"
            )
        flags = FrameFlag.EVIDENCE if defer.evidence_needed else FrameFlag(0)
        self._desk.send(covenant, FrameType.DEFER, defer, flags, to=_offerer(covenant))
        covenant.step(Input.SEND_DEFER)
        covenant.deferrals += 1
        covenant.questions = defer
        covenant.arm(Timer.DEFER, now, _wait_of(covenant, defer))
        self._desk.tell(covenant, "deferred", "deferred by us")

    def inform(self, covenant: Covenant, content_type: str, data: bytes, now: int) -> None:
        """Answers a DEFER."""
        if not covenant.initiator:
            raise FailedPrecondition("only who has offered can answer questions about the offer")
        covenant.require(Input.SEND_INFO)
        info = Data(0, content_type, data)
        # One answer serves all who have asked.
        for party in covenant.parties.values():
            if party.deferring:
                self._desk.send(covenant, FrameType.DATA, info, to=party, covenant_id=0)
                party.deferring = False
        covenant.step(Input.SEND_INFO)
        covenant.arm(Timer.OFFER, now, covenant.timers.offer)
        self._desk.tell(covenant, "informed", "additional information sent")

    # Frames; each is the sender's, new, and in its place

    def on_accept(
        self, covenant: Covenant, party: Party, frame: CovenantFrame, accept: Accept, now: int
    ) -> None:
        """An acceptor agrees.

        Raises:
            OutOfPlace: It has no place here.
            TermsDiffer: It agrees to something else, or as somebody else.
            SignatureError: The confirmation is not signed by the acceptor.
        """
        if not covenant.initiator or party.covenant_id or party.deferring:
            raise OutOfPlace("an ACCEPT that nobody waits for")
        covenant.expect(Input.RECEIVE_ACCEPT)
        digest = terms_hash(covenant.proposal.terms)
        confirmed = accept.agent_confirmation
        if frame.covenant_id != accept.covenant_id or not accept.covenant_id:
            raise TermsDiffer("ACCEPT: the covenant id is not that of the frame")
        if not hmac.compare_digest(accept.terms_hash, digest):
            raise TermsDiffer("ACCEPT: the terms hash is not that of the offer")
        if (confirmed.agent_id, confirmed.public_key) != (party.agent_id, party.public_key):
            raise TermsDiffer("ACCEPT: the confirmation is another agent's")
        verify(party.public_key, confirmation_bytes(digest), confirmed.signature)
        self._enter_if_last(covenant, party, accept.covenant_id)
        covenant.step(Input.RECEIVE_ACCEPT)
        party.covenant_id = accept.covenant_id
        if covenant.multi and covenant.state is State.ACCEPTED:
            covenant.arm(Timer.OFFER, now, covenant.timers.offer)
        self._desk.tell(covenant, "accepted", "offer accepted", agent_id=party.agent_id)
        self._bind_if_all_accepted(covenant, now)

    def on_reject(self, covenant: Covenant, party: Party, reject: Reject) -> None:
        """An acceptor does not agree, and says why."""
        if not covenant.initiator:
            raise OutOfPlace("a REJECT of an offer that is not ours")
        covenant.expect(Input.RECEIVE_REJECT)
        covenant.step(Input.RECEIVE_REJECT)
        covenant.rejection, covenant.reason = reject, "rejected"
        self._desk.tell(covenant, "rejected", _because(reject), agent_id=party.agent_id)

    def on_blind_reject(self, covenant: Covenant, party: Party, raw: bytes, now: int) -> None:
        """An acceptor does not agree, and does not say why: the offer stands."""
        if not covenant.initiator:
            raise OutOfPlace("a REJECT of an offer that is not ours")
        covenant.expect(Input.RECEIVE_BLIND_REJECT)
        covenant.step(Input.RECEIVE_BLIND_REJECT)
        self._desk.report(
            covenant, Condition.BLIND_REJECT, party.agent_id, "it gave no reason", now, raw
        )

    def on_defer(
        self, covenant: Covenant, party: Party, defer: Defer, raw: bytes, now: int
    ) -> None:
        """An acceptor asks."""
        if not covenant.initiator or party.deferring or party.covenant_id:
            raise OutOfPlace("a DEFER that nobody waits for")
        covenant.expect(Input.RECEIVE_DEFER)
        covenant.step(Input.RECEIVE_DEFER)
        covenant.deferrals += 1
        covenant.questions = defer
        party.deferring = True
        digest = digest_of(defer)
        if covenant.deferrals > covenant.timers.max_deferrals:
            covenant.step(Input.DEFERRALS_SPENT)
            covenant.reason = "deferred too often"
            self._desk.tell(covenant, "timeout", covenant.reason, agent_id=party.agent_id)
            return
        covenant.arm(Timer.DEFER, now, _wait_of(covenant, defer))
        self._desk.tell(covenant, "deferred", "questions asked", agent_id=party.agent_id)
        if digest == party.defer_digest:
            self._desk.report(
                covenant,
                Condition.REPEATED_DEFER,
                party.agent_id,
                "it asks what it has asked before",
                now,
                raw,
            )
        party.defer_digest = digest

    def on_info(self, covenant: Covenant, party: Party, info: Data, now: int) -> None:
        """The offerer answers our questions.

        Raises:
            TermsDiffer: It names a covenant, and there is none yet.
        """
        covenant.expect(Input.RECEIVE_INFO)
        if info.covenant_id:
            raise TermsDiffer("DATA: the covenant id is not that of the frame")
        covenant.step(Input.RECEIVE_INFO)
        covenant.arm(Timer.OFFER, now, covenant.timers.offer)
        self._desk.tell(
            covenant, "informed", "additional information", data=info, agent_id=party.agent_id
        )

    def on_bind(
        self, covenant: Covenant, party: Party, frame: CovenantFrame, bind: Bind, now: int
    ) -> None:
        """A party has signed.

        Raises:
            OutOfPlace: It has no place here.
            TermsDiffer: It has signed something else.
            SignatureError: A signature is not that of its agent.
        """
        mutual = bool(frame.flags & FrameFlag.MUTUAL)
        what = Input.RECEIVE_MUTUAL_BIND if mutual else Input.RECEIVE_BIND
        covenant.expect(what)
        if bool(frame.flags & FrameFlag.MULTI) != covenant.multi:
            raise TermsDiffer("BIND: MULTI is not as in the offer")
        if covenant.initiator:
            self._take_answer(covenant, party, bind, what, now)
        elif covenant.state is State.ACCEPTED:
            self._take_first(covenant, party, frame, bind, what, now)
        else:
            self._take_last(covenant, party, bind, what, now)

    # The offerer's side of BIND

    def _enter_if_last(self, covenant: Covenant, party: Party, covenant_id: int) -> None:
        """The last ACCEPT settles the name: the one that the first acceptor has chosen."""
        others = [one for one in covenant.parties.values() if one is not party]
        if all(one.covenant_id for one in others):
            first = covenant.parties[covenant.order[1]]
            self._enter(covenant, covenant_id if first is party else first.covenant_id)

    def _bind_if_all_accepted(self, covenant: Covenant, now: int) -> None:
        if covenant.state is not State.ACCEPTED or not covenant.covenant_id:
            return
        draft = covenant.draft(1, covenant.proposal, self._desk.wall())
        own = self._desk.sign(covenant, bind_bytes(draft))
        self._send_bind(covenant, draft, {covenant.agent_id: own}, mutual=not covenant.multi)
        covenant.document, covenant.signature = draft, own
        covenant.step(Input.SEND_BIND)
        covenant.arm(Timer.BIND, now, covenant.timers.bind)
        self._desk.tell(covenant, "bound", "signed by us")

    def _take_answer(
        self, covenant: Covenant, party: Party, bind: Bind, what: Input, now: int
    ) -> None:
        """An acceptor's signature, which completes the covenant or does not yet."""
        document = covenant.document
        completes = what is Input.RECEIVE_MUTUAL_BIND and not covenant.multi
        if document is None or (party.signature and not completes):
            raise OutOfPlace("a BIND that nobody waits for")
        _check_same(bind, document)
        signature = _signature_in(bind, party.agent_id)
        verify(party.public_key, bind_bytes(document), signature)
        party.signature = signature
        self._desk.tell(covenant, "bound", "signed by a party", agent_id=party.agent_id)
        if not covenant.multi:
            if what is Input.RECEIVE_MUTUAL_BIND:
                covenant.step(what)
                self._in_force(covenant, now)
            return
        if all(each.signature for each in covenant.parties.values()):
            self._send_bind(covenant, document, _signatures(covenant), mutual=True)
            covenant.step(Input.RECEIVE_MUTUAL_BIND)
            self._in_force(covenant, now)

    # The acceptor's side of BIND

    def _take_first(
        self,
        covenant: Covenant,
        party: Party,
        frame: CovenantFrame,
        bind: Bind,
        what: Input,
        now: int,
    ) -> None:
        """The offerer's signature: ours answers it."""
        desk = self._desk
        if party is not _offerer(covenant):
            raise OutOfPlace("a BIND of another than the offerer")
        document = self._agreed_document(covenant, frame, bind)
        signature, to_sign = _signature_in(bind, party.agent_id), bind_bytes(document)
        verify(party.public_key, to_sign, signature)
        # The object names the covenant; where another acceptor did, we did not know the name.
        if document.id != covenant.covenant_id:
            self._enter(covenant, document.id)
        own = desk.sign(covenant, to_sign)
        mutual = what is Input.RECEIVE_MUTUAL_BIND and not covenant.multi
        signatures = {covenant.agent_id: own}
        if not covenant.multi:
            signatures[party.agent_id] = signature
        self._send_bind(covenant, document, signatures, mutual=mutual)
        party.signature = signature
        covenant.document, covenant.signature = document, own
        covenant.step(what)
        covenant.arm(Timer.BIND, now, covenant.timers.bind)
        desk.tell(covenant, "bound", "signed by the offerer and by us")
        if mutual:
            covenant.step(Input.RECEIVE_MUTUAL_BIND)
            self._in_force(covenant, now)

    def _take_last(
        self, covenant: Covenant, party: Party, bind: Bind, what: Input, now: int
    ) -> None:
        """Everybody's signature."""
        document = covenant.document
        if document is None or what is not Input.RECEIVE_MUTUAL_BIND:
            raise OutOfPlace("a BIND that nobody waits for")
        _check_same(bind, document)
        to_sign = bind_bytes(document)
        signatures = {agent_id: _signature_in(bind, agent_id) for agent_id in covenant.parties}
        for agent_id, signature in signatures.items():
            verify(covenant.parties[agent_id].public_key, to_sign, signature)
        for agent_id, signature in signatures.items():
            covenant.parties[agent_id].signature = signature
        covenant.step(what)
        self._in_force(covenant, now)

    def _agreed_document(
        self, covenant: Covenant, frame: CovenantFrame, bind: Bind
    ) -> CovenantObject:
        """The object that the offerer has signed, which must be what it offered."""
        document = bind.covenant_object
        if not covenant.multi and frame.covenant_id != covenant.covenant_id:
            raise TermsDiffer("BIND: the covenant id is not the one that we assigned")
        expected = covenant.draft(1, covenant.proposal, document.creation_time)
        if bind.covenant_id != frame.covenant_id or document.id != frame.covenant_id:
            raise TermsDiffer("BIND: the covenant ids differ")
        if expected.id != document.id:
            expected = replace(expected, id=document.id)
        if not _is_same(document, expected):
            raise TermsDiffer("BIND: the covenant object is not what was offered")
        if bind.covenant_version != 1:
            raise TermsDiffer("BIND: the first version is 1")
        if not hmac.compare_digest(bind.terms_hash, terms_hash(covenant.proposal.terms)):
            raise TermsDiffer("BIND: the terms hash is not that of the offer")
        if abs(document.creation_time - self._desk.wall()) > CREATION_SLACK_US:
            raise TermsDiffer("BIND: the creation time is not now")
        return expected

    def _send_bind(
        self,
        covenant: Covenant,
        document: CovenantObject,
        signatures: Mapping[UUID, bytes],
        *,
        mutual: bool,
    ) -> None:
        """Sends the object, unsigned, and beside it the signatures that are there."""
        bound = tuple(
            BoundAgent(one.agent_id, one.role, one.public_key, signatures[one.agent_id])
            for one in document.agents
            if one.agent_id in signatures
        )
        flags = FrameFlag.MUTUAL if mutual else FrameFlag(0)
        if covenant.multi:
            flags |= FrameFlag.MULTI
        payload = Bind(document.id, document.version, terms_hash(document.terms), bound, document)
        self._desk.send(covenant, FrameType.BIND, payload, flags)

    def _in_force(self, covenant: Covenant, now: int) -> None:
        document = covenant.document
        assert document is not None  # noqa: S101 - made by the caller
        if covenant.history:
            covenant.past.append(tuple(covenant.history))
        covenant.history = [Version(document, _signatures(covenant))]
        self._activate(covenant, now)


def _offerer(covenant: Covenant) -> Party:
    """The party that has offered, of a covenant that we have not."""
    return covenant.parties[covenant.order[0]]


def _wait_of(covenant: Covenant, defer: Defer) -> int:
    """How long a DEFER is waited on, µs: T_defer, or less where it says so."""
    return min(covenant.timers.defer, defer.timeout or covenant.timers.defer)


def _patience(covenant: Covenant) -> int:
    """How long BIND may take to come after our ACCEPT, µs: others may still think it over."""
    timers = covenant.timers
    if not covenant.multi:
        return timers.bind
    deferred = timers.max_deferrals * (timers.offer + timers.defer)
    return timers.bind + len(covenant.parties) * timers.offer + deferred


def _check_bindable(covenant: Covenant, offer: Offer) -> None:
    """Refuses an offer of which no BIND could be made, because the BIND says more.

    Raises:
        InvalidArgument: It is too large.
    """
    if len(encode(offer)) > _SURELY_BINDABLE:
        draft = covenant.draft(1, covenant.proposal, 2**63)
        full = signed(draft, dict.fromkeys(covenant.order, bytes(64)))
        encode(Bind(0xFFFF_FFFF, 1, terms_hash(full.terms), full.agents, full))


def _signatures(covenant: Covenant) -> dict[UUID, bytes]:
    """All signatures over the first version."""
    others = {agent_id: party.signature for agent_id, party in covenant.parties.items()}
    return {covenant.agent_id: covenant.signature, **others}


def _is_same(document: CovenantObject, own: CovenantObject) -> bool:
    """Whether a peer's object is ours but for the signatures that it may hold."""
    return document.encoded == own.encoded or document.digest == own.digest


def _check_same(bind: Bind, document: CovenantObject) -> None:
    """Whether a BIND speaks of the object that we have signed."""
    if not _is_same(bind.covenant_object, document):
        raise TermsDiffer("BIND: the covenant object is not the one that we have signed")
    if bind.covenant_id != document.id or bind.covenant_version != document.version:
        raise TermsDiffer("BIND: the covenant id or version is another one")
    if not hmac.compare_digest(bind.terms_hash, terms_hash(document.terms)):
        raise TermsDiffer("BIND: the terms hash is another one")


def _signature_in(bind: Bind, agent_id: UUID) -> bytes:
    """An agent's signature in a BIND; b"" where there is none."""
    return next((one.bind_signature for one in bind.bound_agents if one.agent_id == agent_id), b"")


def _because(reject: Reject) -> str:
    if reject.justification is None:
        return "no reason given"
    reasons = reject.justification.rejection_reasons
    return "; ".join(f"{one.term_ref}: {one.rationale}" for one in reasons)


__all__ = ["CREATION_SLACK_US", "Negotiation", "TermsDiffer"]
