# SPDX-License-Identifier: Apache-2.0
"""covenant/negotiation.py: from OFFER to BIND, seen by both sides, and what prevents it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from assent.covenant import payloads
from assent.covenant.document import object_hash, verify_bind
from assent.covenant.machine import State
from assent.covenant.payloads import Accept, Bind, Data, Defer, Offer, Reject
from assent.covenant.terms import Deferrals, Limit, Obligation, TermSet, terms_hash
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition, InvalidArgument, NotFound
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

from .covenant_world import (
    JUSTIFICATION,
    OTHER_QUESTIONS,
    QUESTIONS,
    SECOND,
    TEXT,
    Sent,
    World,
    agent,
    identity_of,
    proposal,
    terms,
    timer,
)

IDLE, SENT, RECEIVED, DEFERRED = (
    State.IDLE,
    State.OFFER_SENT,
    State.OFFER_RECEIVED,
    State.DEFERRED,
)
ACCEPTED, BINDING, COVENANTED = State.ACCEPTED, State.BINDING, State.COVENANTED


def offered(wanted: Proposal | None = None) -> World:
    """B has A's offer."""
    world = World()
    world.offer(wanted)
    world.settle()
    return world


def deferred(wanted: Proposal | None = None, questions: Defer = QUESTIONS) -> World:
    """B has asked."""
    world = offered(wanted)
    world["B"].engine.defer(1, questions, world.now)
    world.settle()
    return world


def accepted() -> World:
    """B has accepted, and its ACCEPT is under way."""
    world = offered()
    world["B"].engine.accept(1, world.now)
    world.collect()
    return world


def rewritten(world: World, sent: Sent, signer: str | None = None, **changes: object) -> bytes:
    """A frame under way with something else in its payload, signed anew."""
    frame = sent.frame
    payload = replace(payloads.decode(frame.kind, frame.payload), **changes)  # type: ignore[type-var]
    body = payloads.encode(payload)
    return (
        replace(frame, payload=body, signature=b"")
        .signed(identity_of(signer or sent.sender).sign)
        .encode()
    )


# The seed's sequences (4.5)


def test_the_happy_path_takes_four_frames():
    world = World()
    world.offer()
    assert world["A"].state is SENT
    world.deliver(world.under_way.pop())
    assert world.states() == (SENT, RECEIVED)
    world["B"].engine.accept(1, world.now)
    world.collect()
    assert world.states() == (SENT, ACCEPTED)
    world.deliver(world.under_way.pop())
    assert world.states() == (BINDING, ACCEPTED)
    world.deliver(world.under_way.pop())
    assert world.states() == (BINDING, COVENANTED)
    world.deliver(world.under_way.pop())
    assert world.states() == (COVENANTED, COVENANTED)
    assert [one.kind.name for one in world.log] == ["OFFER", "ACCEPT", "BIND", "BIND"]
    assert [one.frame.flags for one in world.log[2:]] == [FrameFlag.MUTUAL] * 2
    assert world["A"].kinds() == ["offered", "accepted", "bound", "bound", "covenanted"]
    assert world["B"].kinds() == ["offer-received", "accepted", "bound", "covenanted"]


def test_both_hold_one_object_with_both_signatures():
    world = World().covenanted()
    documents = [world[name].covenant.history[0].document for name in "AB"]
    assert documents[0] == documents[1]
    for name in "AB":
        signature = next(
            one.bind_signature for one in documents[0].agents if one.agent_id == agent(name)
        )
        verify_bind(documents[0], agent(name), signature)


def test_the_acceptor_names_the_covenant_at_random():
    world = World().covenanted()
    [accept] = world.sent(FrameType.ACCEPT)
    assert world.sent(FrameType.OFFER)[0].frame.covenant_id == 0
    assert accept.frame.covenant_id == world["B"].covenant.covenant_id
    assert world["A"].covenant.covenant_id == accept.frame.covenant_id == (ord("B") << 24 | 1)


def test_an_id_that_is_in_use_or_zero_is_not_taken_again():
    world = World().covenanted()
    engine = world["B"].engine
    numbers = iter([0, world["B"].covenant.covenant_id, 99])
    engine._random = lambda size: next(numbers).to_bytes(size, "big")
    world.offer()
    world.settle()
    engine.accept(2, world.now)
    world.settle()
    assert world["A"].covenant.covenant_id == 99


def test_sequences_start_at_zero_for_the_offer_and_rise():
    world = World().covenanted()
    for name in "AB":
        assert [one.frame.sequence for one in world.log if one.sender == name] == [0, 1]


@pytest.mark.parametrize("durable", [False, True])
def test_an_offer_says_that_it_is_durable_and_merciful(durable: bool):
    world = offered(proposal(durable=durable))
    flags = world.log[0].frame.flags
    assert flags == FrameFlag.MISERICORDIA | (FrameFlag.DURABLE if durable else FrameFlag(0))
    assert world["B"].covenant.durable is durable


def test_a_deferral_is_answered_and_the_offer_evaluated_again():
    world = deferred()
    assert world.states() == (DEFERRED, DEFERRED)
    assert world["A"].covenant.questions == QUESTIONS
    assert world.log[-1].frame.flags == FrameFlag.EVIDENCE
    world["A"].engine.inform(1, TEXT, b"1,000 a day", world.now)
    world.settle()
    assert world.states() == (SENT, RECEIVED)
    assert world["B"].told("informed")[0].data == Data(0, TEXT, b"1,000 a day")
    world["B"].engine.accept(1, world.now)
    world.settle()
    assert world.states() == (COVENANTED, COVENANTED)


def test_a_justified_rejection_ends_it_and_both_know_why():
    world = offered()
    counter = terms(timer("T_bind", 3))
    world["B"].engine.reject(1, JUSTIFICATION, counter)
    world.settle()
    assert world.states() == (IDLE, IDLE)
    assert world["A"].covenant.rejection == Reject(JUSTIFICATION, counter)
    assert world["A"].told("rejected")[0].text == "push: not today"
    assert world.log[-1].frame.flags == FrameFlag.JUSTIFIED


def test_after_a_rejection_the_offer_can_be_revised_and_made_again():
    world = offered()
    world["B"].engine.reject(1, JUSTIFICATION)
    world.settle()
    world.offer(proposal(notice=1), again=1)
    world.settle()
    assert world["A"].state is SENT
    assert world["A"].handle == 1
    world["B"].engine.accept(2, world.now)
    world.settle()
    assert world.states() == (COVENANTED, COVENANTED)


def test_after_the_end_a_new_offer_keeps_the_history():
    world = World().covenanted()
    first = world["A"].covenant.history
    world["A"].engine.revoke(1, "over", world.now, graceful=False)
    world.settle()
    world.offer(proposal(notice=1), again=1)
    world.settle()
    assert world["A"].covenant.history == first
    world["B"].engine.accept(2, world.now)
    world.settle()
    again = world["A"].covenant
    assert again.past == [tuple(first)]
    assert [one.document.version for one in again.history] == [1]
    assert again.history[0].document.id != first[0].document.id


def test_an_offer_again_needs_something_that_has_ended():
    world = offered()
    with pytest.raises(FailedPrecondition):
        world.offer(again=1)
    with pytest.raises(NotFound):
        world.offer(again=9)
    assert len(world.sent(FrameType.OFFER)) == 1


# Timers


def _lose_everything(world: World) -> World:
    world.lose()
    return world


# How a wait begins, who waits, T, and its default in seconds.
WAITS: dict[str, tuple[Callable[[Proposal], World], str, str, float]] = {
    "offerer": (lambda wanted: _lose_everything(offered(wanted)), "A", "T_offer", 30),
    "evaluation": (offered, "B", "T_offer", 30),
    "questions": (deferred, "A", "T_defer", 120),
    "deferring": (deferred, "B", "T_defer", 120),
    "accepted": (lambda wanted: _bind_lost(wanted, 1), "B", "T_bind", 10),
    "binding": (lambda wanted: _bind_lost(wanted, 2), "A", "T_bind", 10),
}


def _bind_lost(wanted: Proposal, passed: int) -> World:
    """The acceptance goes on for so many frames; the rest is lost."""
    world = offered(wanted)
    world["B"].engine.accept(1, world.now)
    world.collect()
    for _ in range(passed - 1):
        world.deliver(world.under_way.pop(0))
    world.lose()
    return world


@pytest.mark.parametrize("seconds", [None, 2.5])
@pytest.mark.parametrize("wait", WAITS)
def test_a_timer_leads_out_at_its_time_and_not_before(wait: str, seconds: float | None):
    begin, who, name, default = WAITS[wait]
    limits: list[Limit] = [] if seconds is None else [timer(name, seconds)]
    world = begin(proposal(*limits))
    waits = seconds or default
    state = world[who].state
    world.wait(waits - 0.001)
    assert world[who].state is state
    world.wait(0.001)
    assert world[who].state is IDLE
    assert world[who].covenant.reason == f"{name} expired"
    assert world[who].kinds()[-1] == "timeout"
    assert world[who].engine.next_deadline() is None


def test_an_acceptance_just_before_the_offer_expires_is_waited_for_with_t_bind():
    world = offered()
    world.jump(29)
    world["B"].engine.accept(1, world.now)
    world.lose()
    world.wait(9.999)
    assert world["B"].state is ACCEPTED
    world.wait(0.001)
    assert world["B"].state is IDLE


def test_who_defers_may_wait_for_less_than_the_terms_say():
    world = deferred(questions=replace(QUESTIONS, timeout=5 * SECOND))
    world.wait(5)
    assert world.states() == (IDLE, IDLE)


def test_who_defers_does_not_wait_for_longer_than_the_terms_say():
    world = deferred(questions=replace(QUESTIONS, timeout=500 * SECOND))
    world.wait(120)
    assert world.states() == (IDLE, IDLE)


def test_the_answer_to_questions_starts_t_offer_again():
    world = deferred()
    world.wait(100)
    world["A"].engine.inform(1, TEXT, b"", world.now)
    world.settle()
    world.wait(29.999)
    assert world.states() == (SENT, RECEIVED)
    world.wait(0.001)
    assert world.states() == (IDLE, IDLE)


def test_who_gives_up_on_bind_tells_whoever_may_be_bound():
    world = accepted()
    world.deliver(world.under_way.pop())
    world.deliver(world.under_way.pop())
    world.lose()
    assert world.states() == (BINDING, COVENANTED)
    world.wait(10)
    assert world.states() == (IDLE, State.TERMINATED)
    assert world["B"].covenant.reason == "T_bind expired"


# Deferrals


@pytest.mark.parametrize("most", [0, 1, 3])
def test_an_offer_is_deferred_as_often_as_the_terms_say_and_no_more(most: int):
    world = offered(proposal(Deferrals(most)))
    for turn in range(most):
        asked = replace(QUESTIONS, current_understanding=str(turn), evidence_needed=(str(turn),))
        world["B"].engine.defer(1, asked, world.now)
        world.settle()
        world["A"].engine.inform(1, TEXT, b"", world.now)
        world.settle()
    before = world["B"].everything()
    with pytest.raises(FailedPrecondition, match="as often as it may be"):
        world["B"].engine.defer(1, QUESTIONS, world.now)
    assert world["B"].everything() == before
    assert world.states() == (SENT, RECEIVED)


def test_a_peer_that_defers_too_often_ends_it():
    world = offered(proposal(Deferrals(1)))
    world["B"].engine.defer(1, QUESTIONS, world.now)
    world.settle()
    world["A"].engine.inform(1, TEXT, b"", world.now)
    world.settle()
    raw = world.forge("B", FrameType.DEFER, OTHER_QUESTIONS)
    world.inject("A", raw)
    assert world["A"].state is IDLE
    assert world["A"].covenant.reason == "deferred too often"


def test_only_who_has_offered_answers_questions():
    world = deferred()
    before = world["B"].everything()
    with pytest.raises(FailedPrecondition, match="only who has offered"):
        world["B"].engine.inform(1, TEXT, b"", world.now)
    assert world["B"].everything() == before


# What is not as it was offered. Each: the frame, changes of its payload, why it is dropped.

ACCEPTS = {
    "covenant id": ({"covenant_id": 5}, "terms_differ"),
    "terms": ({"terms_hash": bytes(32)}, "terms_differ"),
}


def confirmations(accept: Accept) -> dict[str, tuple[dict[str, object], str]]:
    """ACCEPTs of others, or that were not signed."""
    said = accept.agent_confirmation
    stranger = identity_of("Z")
    return {
        "agent": ({"agent_confirmation": replace(said, agent_id=agent("Z"))}, "terms_differ"),
        "key": (
            {"agent_confirmation": replace(said, public_key=stranger.public_key)},
            "terms_differ",
        ),
        "signature": ({"agent_confirmation": replace(said, signature=bytes(64))}, "bad_signature"),
        "unlabelled": (
            {
                "agent_confirmation": replace(
                    said, signature=identity_of("B").sign(accept.terms_hash)
                )
            },
            "bad_signature",
        ),
    }


@pytest.mark.parametrize("case", [*ACCEPTS, "agent", "key", "signature", "unlabelled"])
def test_an_accept_of_something_else_is_dropped_and_changes_nothing(case: str):
    world = accepted()
    [sent] = world.lose()
    accept = payloads.decode(FrameType.ACCEPT, sent.frame.payload)
    assert isinstance(accept, Accept)
    changes, why = {**ACCEPTS, **confirmations(accept)}[case]
    before = world["A"].everything()
    world.inject("A", rewritten(world, sent, **changes))
    assert world["A"].engine.refused == {why: 1}
    assert world["A"].everything() == before
    world.deliver(sent)
    assert world["A"].state is BINDING


def test_an_accept_with_the_id_of_another_covenant_is_dropped_and_t_offer_leads_out():
    world = World().covenanted()
    taken = world["B"].covenant.covenant_id
    world.offer()
    world.settle()
    world["B"].engine.accept(2, world.now)
    [sent] = world.lose()
    body = rewritten(world, sent, covenant_id=taken)
    frame = replace(CovenantFrame.decode(body), covenant_id=taken, sequence=9, signature=b"")
    before = world["A"].everything()
    world.inject("A", frame.signed(identity_of("B").sign).encode())
    # Found by its id, it speaks of the covenant in force, in which nobody waits for an ACCEPT.
    assert world["A"].engine.refused == {"out_of_place": 1}
    assert world["A"].everything() == before
    world.wait(30)
    assert world["A"].state is IDLE


def binds(bind: Bind) -> dict[str, dict[str, object]]:
    """BINDs of something else."""
    other = bind.covenant_object
    changed = {
        "object id": replace(other, id=5),
        "object version": replace(other, version=2),
        "object terms": replace(other, terms=terms(timer("T_bind", 1))),
        "object duration": replace(other, duration=replace(other.duration, end=2**60)),
        "object exit": replace(other, exit_protocol=replace(other.exit_protocol, notice_period=1)),
        "object agents": replace(other, agents=other.agents[::-1]),
        "object role": replace(other, agents=(replace(other.agents[0], role="x"), other.agents[1])),
    }
    return {
        "covenant id": {"covenant_id": 5},
        "version": {"covenant_version": 2},
        "terms": {"terms_hash": bytes(32)},
        **{name: {"covenant_object": each} for name, each in changed.items()},
    }


BINDS = [
    "covenant id",
    "version",
    "terms",
    "object id",
    "object version",
    "object terms",
    "object duration",
    "object exit",
    "object agents",
    "object role",
]


@pytest.mark.parametrize("receiver", "BA")
@pytest.mark.parametrize("case", BINDS)
def test_a_bind_of_something_else_is_dropped_and_changes_nothing(case: str, receiver: str):
    world = accepted()
    world.deliver(world.under_way.pop())
    if receiver == "A":
        world.deliver(world.under_way.pop())
    [sent] = world.lose()
    bind = payloads.decode(FrameType.BIND, sent.frame.payload)
    assert isinstance(bind, Bind)
    before = world[receiver].everything()
    world.inject(receiver, rewritten(world, sent, **binds(bind)[case]))
    assert world[receiver].engine.refused == {"terms_differ": 1}
    assert world[receiver].everything() == before
    world.deliver(sent)
    assert world[receiver].state is COVENANTED


@pytest.mark.parametrize("signature", [b"", bytes(64)], ids=["none", "wrong"])
@pytest.mark.parametrize("receiver", "BA")
def test_a_bind_without_its_senders_signature_is_dropped(receiver: str, signature: bytes):
    world = accepted()
    world.deliver(world.under_way.pop())
    if receiver == "A":
        world.deliver(world.under_way.pop())
    [sent] = world.lose()
    bind = payloads.decode(FrameType.BIND, sent.frame.payload)
    assert isinstance(bind, Bind)
    bound = tuple(replace(one, bind_signature=signature) for one in bind.bound_agents)
    before = world[receiver].everything()
    world.inject(receiver, rewritten(world, sent, bound_agents=bound))
    assert world[receiver].engine.refused == {"bad_signature": 1}
    assert world[receiver].everything() == before


def test_a_bind_made_long_ago_is_dropped():
    world = accepted()
    world.deliver(world.under_way.pop())
    [sent] = world.lose()
    bind = payloads.decode(FrameType.BIND, sent.frame.payload)
    assert isinstance(bind, Bind)
    old = replace(bind.covenant_object, creation_time=world.wall - 61 * SECOND)
    world.inject("B", rewritten(world, sent, covenant_object=old))
    assert world["B"].engine.refused == {"terms_differ": 1}
    assert world["B"].state is ACCEPTED


def test_a_bind_of_two_that_says_multi_is_dropped():
    world = accepted()
    world.deliver(world.under_way.pop())
    [sent] = world.lose()
    frame = replace(sent.frame, flags=FrameFlag.MUTUAL | FrameFlag.MULTI, signature=b"")
    before = world["B"].everything()
    world.inject("B", frame.signed(identity_of("A").sign).encode())
    assert world["B"].engine.refused == {"terms_differ": 1}
    assert world["B"].everything() == before


def test_a_bind_without_mutual_is_noted_and_the_one_with_it_completes():
    world = accepted()
    world.deliver(world.under_way.pop())
    world.deliver(world.under_way.pop())
    [sent] = world.lose()
    quiet = replace(sent.frame, flags=FrameFlag(0), signature=b"")
    world.inject("A", quiet.signed(identity_of("B").sign).encode())
    assert world["A"].state is BINDING
    loud = replace(sent.frame, sequence=sent.frame.sequence + 1, signature=b"")
    world.inject("A", loud.signed(identity_of("B").sign).encode())
    assert world["A"].state is COVENANTED


def test_information_that_names_a_covenant_is_dropped():
    world = deferred()
    before = world["B"].everything()
    world.inject("B", world.forge("A", FrameType.DATA, Data(5, TEXT, b""), covenant_id=0))
    assert world["B"].engine.refused == {"terms_differ": 1}
    assert world["B"].everything() == before


# Calls that cannot be


@pytest.mark.parametrize("who", "AB")
def test_who_negotiates_may_give_up(who: str):
    world = offered()
    world[who].engine.revoke(1, "changed my mind", world.now)
    world.settle()
    assert world[who].state is IDLE
    assert world[who].covenant.reason == "changed my mind"
    world.wait(30)
    assert world.states() == (IDLE, IDLE)


def test_one_offer_at_a_time_waits_on_a_link():
    world = offered()
    with pytest.raises(FailedPrecondition, match="waits for its answer"):
        world.offer()
    assert len(list(world["A"].engine.covenants())) == 1
    world["B"].engine.accept(1, world.now)
    world.settle()
    world.offer()
    assert world["A"].state is SENT


def test_both_may_offer_at_once_and_both_offers_can_be_accepted():
    world = World()
    world.offer()
    back = replace(
        world.invited("B")[0], agent_id=agent("A"), public_key=identity_of("A").public_key
    )
    world["B"].engine.offer(proposal(notice=5), [back], world.now)
    world.settle()
    for name in "AB":
        world[name].engine.accept(2, world.now)
    world.settle()
    for name in "AB":
        assert [one.state for one in world[name].engine.covenants()] == [COVENANTED] * 2


def test_an_offer_too_large_to_be_bound_is_not_made():
    plain = payloads.decode(FrameType.OFFER, offered().log[0].frame.payload)

    def heavy(size: int) -> TermSet:
        duties = tuple(Obligation(f"o{at:02}", "*", "x", "y" * size) for at in range(64))
        return TermSet(duties, terms().permissions)

    def fits(size: int) -> bool:
        with contextlib.suppress(InvalidArgument):
            return bool(payloads.encode(replace(plain, terms=heavy(size))))  # type: ignore[call-arg]
        return False

    most = next(size for size in range(4096, 0, -1) if fits(size))
    world = World()
    with pytest.raises(InvalidArgument):
        world.offer(replace(proposal(), terms=heavy(most)))
    assert not list(world["A"].engine.covenants())
    assert world["A"].engine.next_deadline() is None
    assert not world.log


def test_the_offer_on_the_wire_says_what_was_proposed():
    wanted = proposal(timer("T_bind", 3), durable=True)
    world = offered(wanted)
    offer = payloads.decode(FrameType.OFFER, world.log[0].frame.payload)
    assert isinstance(offer, Offer)
    assert world["B"].covenant.proposal == wanted
    assert terms_hash(offer.terms) == terms_hash(wanted.terms)
    assert [one.role for one in offer.agents] == ["initiator", "responder"]


def test_the_object_is_the_same_whoever_draws_it_up():
    world = World().covenanted()
    drafts = [world[name].covenant.draft(1, proposal(), 5) for name in "AB"]
    assert object_hash(drafts[0]) == object_hash(drafts[1])
