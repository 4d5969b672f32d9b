# SPDX-License-Identifier: Apache-2.0
"""covenant/machine.py: the seed's table, and everything that is not in it.

The table is written down a second time here, as the seed has it. What is legal is then tried
through the engine: in every state, every frame, properly signed, and every call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from assent.covenant import payloads
from assent.covenant.agreement import Covenant, signed
from assent.covenant.document import bind_bytes, confirmation_bytes
from assent.covenant.machine import (
    ADDITIONS,
    ENDED,
    IN_FORCE,
    MULTI_STEPS,
    STEPS,
    TRANSITIONS,
    Action,
    Input,
    State,
)
from assent.covenant.payloads import (
    Accept,
    AgentConfirmation,
    Amend,
    Bind,
    Data,
    Escalate,
    Payload,
    Reject,
    Review,
    Revoke,
    Violation,
)
from assent.covenant.terms import Deferrals, terms_hash
from assent.errors import FailedPrecondition
from assent.identity.keys import Identity
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

from .covenant_world import (
    JUSTIFICATION,
    QUESTIONS,
    TEXT,
    World,
    agent,
    identity_of,
    proposal,
)

S, E, A = State, Input, Action

# The seed's section 4.3, row by row: state, event, next state, action.
SEED = [
    (S.IDLE, E.SEND_OFFER, S.OFFER_SENT, A.START_OFFER),
    (S.IDLE, E.RECEIVE_OFFER, S.OFFER_RECEIVED, A.EVALUATE),
    (S.OFFER_SENT, E.RECEIVE_ACCEPT, S.ACCEPTED, A.PREPARE_BIND),
    (S.OFFER_SENT, E.RECEIVE_REJECT, S.IDLE, A.LOG_REJECTION),
    # The seed leaves the next state open: what is no rejection leaves the offer standing.
    (S.OFFER_SENT, E.RECEIVE_BLIND_REJECT, S.OFFER_SENT, A.REPORT_BLIND),
    (S.OFFER_SENT, E.RECEIVE_DEFER, S.DEFERRED, A.PARSE_QUESTIONS),
    (S.OFFER_SENT, E.OFFER_TIMEOUT, S.IDLE, A.LOG_TIMEOUT),
    (S.OFFER_RECEIVED, E.SEND_ACCEPT, S.ACCEPTED, A.TRANSMIT),
    (S.OFFER_RECEIVED, E.SEND_REJECT, S.IDLE, A.TRANSMIT),
    (S.OFFER_RECEIVED, E.SEND_DEFER, S.DEFERRED, A.PARSE_QUESTIONS),
    (S.DEFERRED, E.RECEIVE_INFO, S.OFFER_RECEIVED, A.REEVALUATE),
    (S.DEFERRED, E.SEND_INFO, S.OFFER_SENT, A.RESUME_OFFER),
    (S.DEFERRED, E.DEFER_TIMEOUT, S.IDLE, A.LOG_TIMEOUT),
    (S.DEFERRED, E.DEFERRALS_SPENT, S.IDLE, A.LOG_TIMEOUT),
    (S.ACCEPTED, E.SEND_BIND, S.BINDING, A.START_BIND),
    (S.BINDING, E.RECEIVE_MUTUAL_BIND, S.COVENANTED, A.ACTIVATE),
    (S.BINDING, E.BIND_TIMEOUT, S.IDLE, A.LOG_TIMEOUT),
    (S.COVENANTED, E.SEND_DATA, S.COVENANTED, A.TRANSMIT),
    (S.COVENANTED, E.RECEIVE_DATA, S.COVENANTED, A.NONE),
    (S.COVENANTED, E.SEND_AMEND, S.AMENDING, A.PROPOSE),
    (S.COVENANTED, E.RECEIVE_AMEND, S.AMENDING, A.EVALUATE_AMEND),
    (S.COVENANTED, E.SEND_REVOKE, S.REVOKING, A.BEGIN_NOTICE),
    (S.COVENANTED, E.RECEIVE_REVOKE, S.REVOKING, A.BEGIN_NOTICE),
    (S.COVENANTED, E.VIOLATION, S.COVENANTED, A.RESPOND),
    (S.COVENANTED, E.HEARTBEAT_TIMEOUT, S.REVOKING, A.BEGIN_NOTICE),
    (S.AMENDING, E.AMEND_AGREED, S.COVENANTED, A.UPDATE),
    (S.AMENDING, E.AMEND_REFUSED, S.COVENANTED, A.REVERT),
    (S.AMENDING, E.AMEND_TIMEOUT, S.COVENANTED, A.REVERT),
    (S.REVOKING, E.NOTICE_EXPIRED, S.TERMINATED, A.END),
    (S.REVOKING, E.ALL_CONFIRMED, S.TERMINATED, A.END),
    (S.TERMINATED, E.SEND_OFFER, S.OFFER_SENT, A.START_OFFER),
]


def test_the_table_is_the_seeds_row_by_row():
    rows = [(state, what, *step) for (state, what), step in TRANSITIONS.items()]
    assert rows == SEED


def test_there_are_ten_states_and_what_is_added_contradicts_no_row():
    assert len(State) == 10
    assert not TRANSITIONS.keys() & ADDITIONS.keys()
    assert not STEPS.keys() & MULTI_STEPS.keys()
    assert {*TRANSITIONS, *ADDITIONS} == STEPS.keys()


def test_every_state_can_be_reached_and_left():
    table = {**STEPS, **MULTI_STEPS}
    reached, waiting = {S.IDLE}, [S.IDLE]
    while waiting:
        state = waiting.pop()
        following = {after for (before, _), (after, _) in table.items() if before is state}
        waiting += following - reached
        reached |= following
    assert reached == set(State)
    for state in State:
        assert any(
            after is not state for (before, _), (after, _) in STEPS.items() if before is state
        )


@pytest.mark.parametrize("names", ["AB", "ABC"])
@pytest.mark.parametrize("state", State, ids=str)
def test_a_covenant_takes_the_steps_of_the_tables_and_no_others(state: State, names: str):
    world = World(names)
    world.offer()
    covenant = world["A"].covenant
    table = {**STEPS, **MULTI_STEPS} if len(names) > 2 else STEPS
    for what in Input:
        covenant.state = state
        if (state, what) in table:
            after, action = table[state, what]
            assert covenant.allows(what)
            assert covenant.step(what) is action
            assert covenant.state is after
        else:
            assert not covenant.allows(what)
            with pytest.raises(FailedPrecondition):
                covenant.step(what)
            with pytest.raises(FailedPrecondition):
                covenant.require(what)
            assert covenant.state is state


# Every state, through the engine


def _idle(world: World) -> str:
    world.offer()
    world.settle()
    world["B"].engine.reject(world["B"].handle, JUSTIFICATION)
    world.settle()
    return "A"


def _sent(world: World) -> str:
    world.offer()
    world.settle()
    return "A"


def _received(world: World) -> str:
    world.offer()
    world.settle()
    return "B"


def _deferred(world: World) -> str:
    world.offer()
    world.settle()
    world["B"].engine.defer(world["B"].handle, QUESTIONS, world.now)
    world.settle()
    return "A"


def _deferring(world: World) -> str:
    _deferred(world)
    return "B"


def _accepted(world: World) -> str:
    world.offer()
    world.settle()
    world["B"].engine.accept(world["B"].handle, world.now)
    world.lose()
    return "B"


def _binding(world: World) -> str:
    world.offer()
    world.settle()
    world["B"].engine.accept(world["B"].handle, world.now)
    world.collect()
    world.deliver(world.under_way.pop())
    world.lose()
    return "A"


def _answered_binding(world: World) -> str:
    """An offerer that leaves MUTUAL out has an acceptor that waits for more."""
    _accepted(world)
    world.inject("B", frame_for(world, "B", "A", FrameType.BIND, FrameFlag(0)))
    world.lose()
    return "B"


def _covenanted(world: World) -> str:
    world.covenanted()
    return "A"


def _amending(world: World) -> str:
    world.covenanted()
    world["A"].engine.amend(world["A"].handle, proposal(notice=5), world.now)
    world.settle()
    return "A"


def _asked_to_amend(world: World) -> str:
    _amending(world)
    return "B"


def _revoking(world: World) -> str:
    world.covenanted()
    world["A"].engine.revoke(world["A"].handle, "enough", world.now)
    world.settle()
    return "A"


def _revoked(world: World) -> str:
    _revoking(world)
    return "B"


def _terminated(world: World) -> str:
    world.covenanted()
    world["A"].engine.revoke(world["A"].handle, "enough", world.now, graceful=False)
    world.settle()
    return "A"


F = FrameType
NEWS = frozenset({F.VIOLATION, F.ESCALATE})
LIFE = NEWS | {F.DATA, F.REVIEW, F.REVOKE, F.HEARTBEAT}

# How a state is reached, and what has a place in it: frames of the peer, and calls.
PLACES: dict[str, tuple[Callable[[World], str], State, frozenset[FrameType], frozenset[str]]] = {
    "idle": (_idle, S.IDLE, frozenset(), frozenset({"offer"})),
    "offer-sent": (
        _sent,
        S.OFFER_SENT,
        NEWS | {F.ACCEPT, F.REJECT, F.DEFER},
        frozenset({"revoke", "end"}),
    ),
    "offer-received": (
        _received,
        S.OFFER_RECEIVED,
        NEWS,
        frozenset({"accept", "reject", "defer", "revoke", "end"}),
    ),
    "deferred": (_deferred, S.DEFERRED, NEWS, frozenset({"inform", "revoke", "end"})),
    "deferring": (_deferring, S.DEFERRED, NEWS | {F.DATA}, frozenset({"revoke", "end"})),
    "accepted": (_accepted, S.ACCEPTED, NEWS | {F.BIND}, frozenset({"revoke", "end"})),
    "binding": (_binding, S.BINDING, NEWS | {F.BIND}, frozenset({"revoke", "end"})),
    "binding-acceptor": (
        _answered_binding,
        S.BINDING,
        NEWS | {F.BIND},
        frozenset({"revoke", "end"}),
    ),
    "covenanted": (
        _covenanted,
        S.COVENANTED,
        LIFE | {F.AMEND},
        frozenset({"send", "amend", "rotate", "review", "revoke", "end"}),
    ),
    "amending": (
        _amending,
        S.AMENDING,
        LIFE | {F.ACCEPT, F.REJECT},
        frozenset({"send", "review", "revoke", "end"}),
    ),
    "asked-to-amend": (
        _asked_to_amend,
        S.AMENDING,
        LIFE,
        frozenset({"accept", "reject", "send", "review", "revoke", "end"}),
    ),
    "revoking": (_revoking, S.REVOKING, LIFE, frozenset({"send", "review", "end"})),
    "revoked": (_revoked, S.REVOKING, LIFE, frozenset({"send", "review", "revoke", "end"})),
    "terminated": (_terminated, S.TERMINATED, frozenset(), frozenset({"offer"})),
}
UNDECIDED = {
    S.OFFER_SENT,
    S.OFFER_RECEIVED,
    S.DEFERRED,
    S.ACCEPTED,
    S.BINDING,
}
DROPPED = {"out_of_place", "unknown_covenant"}


def payload_for(covenant: Covenant, sender: str, kind: FrameType, wall: int) -> Payload | None:
    """A payload with which a party's frame would be right, if it had a place."""
    identity, named = identity_of(sender), covenant.covenant_id
    terms = covenant.amendment.document.terms if covenant.amendment else covenant.proposal.terms
    digest, document = terms_hash(terms), covenant.draft(1, covenant.proposal, wall)
    following = covenant.draft(covenant.version + 1, proposal(notice=7), wall)
    if covenant.amendment:
        document = covenant.amendment.document
    elif covenant.document:
        document = covenant.document
    signature = identity.sign(bind_bytes(document))
    confirmation = AgentConfirmation(
        agent(sender), identity.public_key, identity.sign(confirmation_bytes(digest))
    )
    bound = signed(document, {agent(sender): signature})
    found: dict[FrameType, Payload] = {
        F.ACCEPT: Accept(named or 77, digest, confirmation, {"bind_signature": signature}),
        F.REJECT: Reject(JUSTIFICATION),
        F.DEFER: QUESTIONS,
        F.BIND: Bind(named, document.version, digest, bound.agents, bound),
        F.DATA: Data(named if covenant.state is not S.DEFERRED else 0, TEXT, b"data"),
        F.AMEND: Amend(named, following.version, following, identity.sign(bind_bytes(following))),
        F.REVIEW: Review(named, covenant.version, digest, "report", ""),
        F.REVOKE: Revoke(named, "enough"),
        F.VIOLATION: Violation(named, "error", agent(sender), (), "notice", "seen"),
        F.ESCALATE: Escalate(named, "error", agent(sender), (), "seen"),
    }
    return found.get(kind)


FLAGS = {
    F.REJECT: FrameFlag.JUSTIFIED,
    F.AMEND: FrameFlag.VERSIONED | FrameFlag.MISERICORDIA,
    F.REVOKE: FrameFlag.GRACEFUL,
    F.BIND: FrameFlag.MUTUAL,
}


def frame_for(
    world: World, subject: str, sender: str, kind: FrameType, flags: FrameFlag | None = None
) -> bytes:
    """A party's next frame to a subject, right in everything but perhaps its place."""
    covenant = world[subject].covenant
    party = covenant.parties[agent(sender)]
    payload = payload_for(covenant, sender, kind, world.wall)
    named = covenant.covenant_id
    if kind is F.ACCEPT:
        named = named or 77
    elif kind is F.DATA and covenant.state is S.DEFERRED:
        named = 0
    frame = CovenantFrame(
        kind,
        FLAGS.get(kind, FrameFlag(0)) if flags is None else flags,
        named,
        party.rx_sequence + 1,
        agent(sender),
        world.wall,
        payloads.encode(payload) if payload else b"",
    )
    return frame.signed(identity_of(sender).sign).encode()


def test_the_places_are_all_states():
    assert {place[1] for place in PLACES.values()} == set(State)


@pytest.mark.parametrize("kind", [kind for kind in F if kind is not F.OFFER], ids=lambda k: k.name)
@pytest.mark.parametrize("place", PLACES)
def test_a_frame_is_taken_in_its_place_and_dropped_elsewhere(place: str, kind: FrameType):
    reach, state, taken, _ = PLACES[place]
    world = World()
    subject = world[reach(world)]
    assert subject.state is state
    peer = "B" if subject.name == "A" else "A"
    raw, before, refused = (
        frame_for(world, subject.name, peer, kind),
        subject.everything(),
        subject.engine.refused.copy(),
    )
    world.inject(subject.name, raw)
    counted = subject.engine.refused - refused
    if kind in taken:
        assert not counted
        assert (
            subject.covenant.parties[agent(peer)].rx_signature
            == CovenantFrame.decode(raw).signature
        )
    elif kind is F.DATA and state in UNDECIDED:
        # AIOS has a word on that: see test_covenant_immune.py.
        assert counted == {"early_data": 1}
        assert not subject.told("data")
    else:
        assert counted.total() == 1
        assert counted.keys() <= DROPPED
        assert subject.everything() == before


@pytest.mark.parametrize("place", PLACES)
def test_an_offer_opens_a_negotiation_of_its_own_where_none_of_its_sender_is_undecided(place: str):
    reach, state, _, _ = PLACES[place]
    world = World()
    subject = world[reach(world)]
    peer = "B" if subject.name == "A" else "A"
    other = World()
    other.now = world.now
    if peer == "A":
        other.offer(proposal(notice=9))
    else:
        link = other.link()
        other["B"].engine.offer(
            proposal(notice=9),
            [
                replace(
                    other.invited("B", link=link)[0],
                    agent_id=agent("A"),
                    public_key=identity_of("A").public_key,
                )
            ],
            other.now,
        )
        other.collect()
    before, count = subject.everything(), len(list(subject.engine.covenants()))
    world.inject(subject.name, other.log[-1].raw)
    undecided = state in {S.OFFER_RECEIVED, S.DEFERRED} and subject.name == "B"
    if undecided:
        assert subject.engine.refused == {"out_of_place": 1}
        assert subject.everything() == before
    else:
        assert len(list(subject.engine.covenants())) == count + 1
        assert subject.state is S.OFFER_RECEIVED


CALLS: dict[str, Callable[[World, str], object]] = {
    "accept": lambda w, who: w[who].engine.accept(w[who].handle, w.now),
    "reject": lambda w, who: w[who].engine.reject(w[who].handle, JUSTIFICATION),
    "defer": lambda w, who: w[who].engine.defer(w[who].handle, QUESTIONS, w.now),
    "inform": lambda w, who: w[who].engine.inform(w[who].handle, TEXT, b"so much", w.now),
    "send": lambda w, who: w[who].engine.send(w[who].handle, TEXT, b"data", w.now),
    "amend": lambda w, who: w[who].engine.amend(w[who].handle, proposal(notice=7), w.now),
    "rotate": lambda w, who: w[who].engine.rotate(
        w[who].handle, Identity.from_seed(bytes(32)), w.now
    ),
    "review": lambda w, who: w[who].engine.review(w[who].handle, "check", ""),
    "revoke": lambda w, who: w[who].engine.revoke(w[who].handle, "enough", w.now),
    "end": lambda w, who: w[who].engine.revoke(w[who].handle, "enough", w.now, graceful=False),
    "offer": lambda w, who: w[who].engine.offer(
        proposal(), w.invited("B"), w.now, again=w[who].handle
    ),
}


@pytest.mark.parametrize(("place", "call"), list(product(PLACES, CALLS)))
def test_a_call_has_its_place_and_elsewhere_is_refused_and_changes_nothing(place: str, call: str):
    reach, _, _, legal = PLACES[place]
    world = World()
    subject = world[reach(world)]
    before = subject.everything()
    if call == "offer" and subject.name == "B":
        return
    if call in legal:
        CALLS[call](world, subject.name)
        return
    with pytest.raises(FailedPrecondition):
        CALLS[call](world, subject.name)
    assert not subject.engine.take_frames()
    assert not subject.engine.take_events()
    assert subject.everything() == before


MULTI: dict[str, tuple[tuple[str, ...], State]] = {
    "sent": ((), S.OFFER_SENT),
    "accepted": (("accept",), S.ACCEPTED),
    "deferred": (("defer",), S.DEFERRED),
}


@pytest.mark.parametrize("kind", [kind for kind in F if kind is not F.OFFER], ids=lambda k: k.name)
@pytest.mark.parametrize("place", MULTI)
def test_the_offerer_of_three_hears_the_third_whatever_the_second_has_said(
    place: str, kind: FrameType
):
    steps, state = MULTI[place]
    world = World("ABC")
    world.offer(proposal(Deferrals(5)))
    world.settle()
    for step in steps:
        CALLS[step](world, "B")
        world.settle()
    subject = world["A"]
    assert subject.state is state
    raw, before = frame_for(world, "A", "C", kind), subject.everything()
    world.inject("A", raw, world.link("C"))
    if kind in NEWS | {F.ACCEPT, F.REJECT, F.DEFER}:
        assert not subject.engine.refused
        assert subject.covenant.parties[agent("C")].rx_sequence == 0
    elif kind is F.DATA:
        assert subject.engine.refused == {"early_data": 1}
    else:
        assert subject.engine.refused.total() == 1
        assert subject.engine.refused.keys() <= DROPPED
        assert subject.everything() == before


@pytest.mark.parametrize(
    ("step", "kind"),
    [("accept", F.ACCEPT), ("accept", F.DEFER), ("defer", F.DEFER), ("defer", F.ACCEPT)],
)
def test_an_acceptor_of_three_answers_once(step: str, kind: FrameType):
    world = World("ABC")
    world.offer()
    world.settle()
    CALLS[step](world, "B")
    world.settle()
    subject, raw = world["A"], frame_for(world, "A", "B", kind)
    before = subject.everything()
    world.inject("A", raw)
    assert subject.engine.refused == {"out_of_place": 1}
    assert subject.everything() == before


def test_in_force_and_ended_are_what_they_say():
    assert {S.COVENANTED, S.AMENDING, S.REVOKING} == IN_FORCE
    assert {S.IDLE, S.TERMINATED} == ENDED
    assert set(State) == UNDECIDED | IN_FORCE | ENDED
