# SPDX-License-Identifier: Apache-2.0
"""covenant/engine.py: who may speak, in which order, at what time, and over which link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from assent.covenant import engine as engine_module
from assent.covenant import payloads
from assent.covenant.engine import OFFERS_MAX, SEQUENCE_RESERVE, Invited
from assent.covenant.machine import State
from assent.covenant.payloads import Data, Offer, Reject
from assent.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType, TcpupError

from .covenant_world import (
    JUSTIFICATION,
    QUESTIONS,
    SECOND,
    TEXT,
    World,
    agent,
    identity_of,
    proposal,
    timer,
)

COVENANTED, TERMINATED = State.COVENANTED, State.TERMINATED


def offer_frame(world: World, **changes: object) -> tuple[CovenantFrame, Offer]:
    """A's OFFER to B, taken off its way."""
    world.offer()
    [sent] = world.lose()
    offer = payloads.decode(FrameType.OFFER, sent.frame.payload)
    assert isinstance(offer, Offer)
    return replace(sent.frame, signature=b"", **changes), offer  # type: ignore[arg-type]


def resigned(frame: CovenantFrame, offer: Offer, signer: str = "A") -> bytes:
    """An OFFER with another payload, signed."""
    body = payloads.encode(offer)
    return replace(frame, payload=body).signed(identity_of(signer).sign).encode()


# Who an OFFER is from, and for. Each: what is changed of a right one, and why it is dropped.


def other_order(offer: Offer) -> Offer:
    return replace(offer, agents=offer.agents[::-1])


def without_sender(offer: Offer) -> Offer:
    stranger = replace(offer.agents[0], agent_id=agent("Z"))
    return replace(offer, agents=(stranger, offer.agents[1]))


def without_us(offer: Offer) -> Offer:
    stranger = replace(offer.agents[1], agent_id=agent("Z"))
    return replace(offer, agents=(offer.agents[0], stranger))


def with_another_key_of_ours(offer: Offer) -> Offer:
    wrong = replace(offer.agents[1], public_key=identity_of("Z").public_key)
    return replace(offer, agents=(offer.agents[0], wrong))


def with_a_third(offer: Offer) -> Offer:
    third = replace(
        offer.agents[1], agent_id=agent("C"), public_key=identity_of("C").public_key, role="third"
    )
    return replace(offer, agents=(*offer.agents, third))


IDENTITIES: dict[str, tuple[Callable[[Offer], Offer], str]] = {
    "sender not first": (other_order, "malformed"),
    "sender not there": (without_sender, "malformed"),
    "receiver not there": (without_us, "not_for_us"),
    "receiver with another key": (with_another_key_of_ours, "not_for_us"),
    "three without MULTI": (with_a_third, "malformed"),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_an_offer_of_the_wrong_agents_is_dropped(case: str):
    world = World()
    frame, offer = offer_frame(world)
    change, why = IDENTITIES[case]
    before = world["B"].everything()
    world.inject("B", resigned(frame, change(offer)))
    assert world["B"].engine.refused == {why: 1}
    assert world["B"].everything() == before


def test_multi_with_two_agents_is_dropped():
    world = World()
    frame, offer = offer_frame(world)
    flags = FrameFlag.MISERICORDIA | FrameFlag.MULTI
    world.inject("B", resigned(replace(frame, flags=flags), offer))
    assert world["B"].engine.refused == {"malformed": 1}
    assert not list(world["B"].engine.covenants())


def test_an_offer_that_names_an_agent_twice_is_dropped():
    world = World()
    frame, offer = offer_frame(world)
    twice = Offer.__new__(Offer)
    for name in Offer.__slots__:
        if hasattr(offer, name):
            object.__setattr__(twice, name, getattr(offer, name))
    object.__setattr__(twice, "agents", (*offer.agents, offer.agents[1]))
    world.inject("B", resigned(frame, twice))
    assert world["B"].engine.refused == {"malformed": 1}
    assert not list(world["B"].engine.covenants())


def test_a_uuid_that_is_bound_to_another_key_is_not_believed():
    world = World()
    frame, offer = offer_frame(world)
    world["B"].directory.keys[agent("A")] = identity_of("Z").public_key
    world.inject("B", resigned(frame, offer))
    assert world["B"].engine.refused == {"binding": 1}
    assert not list(world["B"].engine.covenants())


def test_a_key_that_is_bound_to_another_uuid_is_not_believed():
    world = World()
    frame, offer = offer_frame(world)
    world["B"].directory.keys[agent("Z")] = identity_of("A").public_key
    world.inject("B", resigned(frame, offer))
    assert world["B"].engine.refused == {"binding": 1}
    assert not list(world["B"].engine.covenants())


@pytest.mark.parametrize(("version", "taken"), [(8, False), (4, True), (7, True)])
def test_a_uuid_that_follows_from_a_key_follows_from_the_right_one(version: int, taken: bool):
    """Agents of other systems have UUIDs of other versions, which say nothing of a key."""
    world = World()
    frame, offer = offer_frame(world)
    other = UUID(int=(agent("A").int ^ 1) & ~(0xF << 76) | version << 76)
    offer = replace(offer, agents=(replace(offer.agents[0], agent_id=other), offer.agents[1]))
    world.inject("B", resigned(replace(frame, agent_id=other), offer))
    assert bool(list(world["B"].engine.covenants())) is taken
    assert world["B"].engine.refused == ({} if taken else {"binding": 1})


@pytest.mark.parametrize("raw", [bytes(16), b"\xff" * 16], ids=["nil", "foreign variant"])
def test_what_is_no_uuid_is_dropped(raw: bytes):
    world = World()
    frame, offer = offer_frame(world)
    good = resigned(frame, offer)
    bad = good[:16] + raw + good[32:]
    with pytest.raises(TcpupError):
        CovenantFrame.decode(bad)
    world.inject("B", bad)
    assert world["B"].engine.refused == {"malformed": 1}
    assert not list(world["B"].engine.covenants())


def test_a_stranger_is_told_why_and_nothing_of_it_is_kept():
    world = World()
    world["B"].directory.strangers.add(identity_of("A").public_key)
    before = world["B"].everything()
    world.offer()
    world.settle()
    assert world["B"].engine.refused == {"unknown_agent": 1}
    assert world["B"].everything() == before
    answer = world.sent(FrameType.REJECT, "B")[0].frame
    assert answer.flags == FrameFlag.JUSTIFIED
    reject = payloads.decode(FrameType.REJECT, answer.payload)
    assert isinstance(reject, Reject)
    assert reject.justification is not None
    assert world["A"].state is State.IDLE
    assert "introduced" in world["A"].told("rejected")[0].text


# Offers: place, time, number


@pytest.mark.parametrize("changes", [{"covenant_id": 1}, {"sequence": 1}])
def test_an_offer_begins_at_zero(changes: dict[str, object]):
    world = World()
    frame, offer = offer_frame(world, **changes)
    world.inject("B", resigned(frame, offer))
    assert world["B"].engine.refused == {"out_of_place": 1}
    assert not list(world["B"].engine.covenants())


@pytest.mark.parametrize(("seconds", "taken"), [(-31, False), (-29, True), (29, True), (31, False)])
def test_an_offer_is_of_now(seconds: int, taken: bool):
    world = World()
    frame, offer = offer_frame(world)
    frame = replace(frame, timestamp=frame.timestamp + seconds * SECOND)
    world.inject("B", resigned(frame, offer))
    assert bool(list(world["B"].engine.covenants())) is taken
    assert world["B"].engine.refused == ({} if taken else {"stale": 1})
    assert not world["B"].engine.quarantined


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_offer_is_taken_once(elsewhere: bool):
    world = World()
    world.offer()
    world.settle()
    world["B"].engine.reject(1, JUSTIFICATION)
    world.settle()
    link = world.connect("A", "B", label="2") if elsewhere else world.link()
    before = world["B"].everything()
    world.inject("B", world.log[0].raw, link)
    assert world["B"].engine.refused == {"replay": 1}
    assert world["B"].everything() == before


def test_what_is_remembered_of_offers_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "_RECENT_MAX", 3)
    world = World()
    for _ in range(9):
        world.offer()
        world.settle()
        world["B"].engine.reject(world["B"].handle, JUSTIFICATION)
        world.settle()
    assert len(world["B"].engine._recent) == 3
    world.jump(61)
    world.offer()
    world.settle()
    assert len(world["B"].engine._recent) == 1


def test_an_agent_has_so_many_undecided_offers_and_no_more():
    world = World()
    for at in range(OFFERS_MAX + 1):
        link = world.connect("A", "B", label=str(at))
        world.jump(0.001)
        world["A"].engine.offer(proposal(), world.invited("B", link=link), world.now)
    world.settle()
    assert world["B"].engine.refused == {"too_many": 1}
    assert len(list(world["B"].engine.covenants())) == OFFERS_MAX
    world["B"].engine.reject(1, JUSTIFICATION)
    world.settle()
    link = world.connect("A", "B", label="more")
    world["A"].engine.offer(proposal(), world.invited("B", link=link), world.now)
    world.settle()
    assert len(list(world["B"].engine.covenants())) == OFFERS_MAX + 1


def test_there_are_so_many_covenants_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "COVENANTS_MAX", 1)
    world = World().covenanted()
    with pytest.raises(ResourceExhausted):
        world.offer()
    monkeypatch.setattr(engine_module, "COVENANTS_MAX", 2)
    world.offer()
    monkeypatch.setattr(engine_module, "COVENANTS_MAX", 1)
    before = world["B"].everything()
    world.settle()
    assert world["B"].engine.refused == {"too_many": 1}
    assert world["B"].everything() == before
    world["B"].engine.revoke(1, "", world.now, graceful=False)
    world["B"].engine.forget(1)
    assert not list(world["B"].engine.covenants())


def test_what_has_not_ended_is_not_forgotten():
    world = World().covenanted()
    world["A"].engine.forget(1)
    assert world["A"].state is COVENANTED
    with pytest.raises(NotFound):
        world["A"].engine.covenant(9)


# Whom an offer can be made to


@pytest.mark.parametrize(
    ("names", "problem"), [("", "needs 1 to 15"), ("BB", "once"), ("A", "once")]
)
def test_an_offer_is_made_to_others_each_once(names: str, problem: str):
    world = World()
    world.connect("A", "A")
    invited = [
        Invited(agent(name), identity_of(name).public_key, ("A", name), f"r{at}")
        for at, name in enumerate(names)
    ]
    with pytest.raises(InvalidArgument, match=problem):
        world["A"].engine.offer(proposal(), invited, world.now)
    assert not list(world["A"].engine.covenants())


def test_two_in_one_role_make_no_covenant():
    world = World("ABC")
    invited = [replace(one, role="responder") for one in world.invited("B", "C")]
    with pytest.raises(InvalidArgument, match="role"):
        world["A"].engine.offer(proposal(), invited, world.now)
    assert not list(world["A"].engine.covenants())


def test_nobody_offers_over_a_link_that_is_gone():
    world = World()
    world.disconnect(world.link())
    with pytest.raises(FailedPrecondition, match="closed"):
        world.offer()
    world.inject("B", b"anything")
    assert world["B"].engine.refused == {"closed_link": 1}


# Replays. A frame, and where it comes again.


def talked() -> World:
    """B has sent two DATA frames in a covenant with A."""
    world = World().covenanted()
    for data in (b"first", b"second"):
        world["B"].engine.send(1, TEXT, data, world.now)
        world.settle()
    return world


def test_the_last_frame_again_is_ignored():
    world = talked()
    before = world["A"].everything()
    world.inject("A", world.log[-1].raw)
    assert world["A"].engine.refused == {"duplicate": 1}
    assert world["A"].everything() == before
    assert len(world["A"].told("data")) == 2


def test_an_older_frame_again_is_a_regression():
    world = talked()
    world.inject("A", world.log[-2].raw)
    assert world["A"].engine.refused == {"replay": 1}
    assert len(world["A"].told("data")) == 2
    assert world["A"].engine.quarantined == {agent("B"): "sequence number regression"}


def test_another_frame_of_the_same_number_is_a_regression():
    world = talked()
    number = world["B"].covenant.tx_sequence
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, sequence=number))
    assert world["A"].engine.refused == {"replay": 1}
    assert world["A"].engine.quarantined


def test_a_frame_of_one_covenant_has_no_place_in_another():
    world = talked()
    world.offer()
    world.settle()
    world["B"].engine.accept(2, world.now)
    world.settle()
    named = world["B"].engine.covenant(2).covenant_id
    frame = world.log[-1].frame
    kept = next(one for one in reversed(world.log) if one.kind is FrameType.DATA).frame
    moved = replace(kept, covenant_id=named)
    before = world["A"].everything()
    other = world.connect("A", "B", label="2")
    world.inject("A", moved.encode(), other)
    assert world["A"].engine.refused == {"bad_signature": 1}
    assert world["A"].everything()[0] == before[0]
    assert frame.kind is FrameType.BIND


def test_an_accept_of_one_negotiation_has_no_place_in_another():
    world = World()
    world.offer()
    world.settle()
    world["B"].engine.accept(1, world.now)
    [accept] = world.lose()
    world["A"].engine.revoke(1, "", world.now)
    world.jump(1)
    world.offer(proposal(timer("T_bind", 3)))
    world.collect()
    before = world["A"].everything()
    world.deliver(accept)
    assert world["A"].engine.refused == {"terms_differ": 1}
    assert world["A"].everything() == before


def test_frames_of_a_covenant_that_is_over_are_of_no_covenant():
    world = talked()
    world["A"].engine.revoke(1, "", world.now, graceful=False)
    world.settle()
    before = world["A"].everything()
    frames = [one for one in world.log if one.sender == "B"]
    for sent in frames:
        world.inject("A", sent.raw)
    assert world["A"].engine.refused == {"unknown_covenant": len(frames)}
    assert world["A"].everything() == before


def test_an_agent_has_no_part_in_the_covenants_of_others():
    world = World("ABC")
    link = world.link("B")
    world["A"].engine.offer(proposal(), world.invited("B"), world.now)
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    covenant = world["B"].covenant
    frame = CovenantFrame(
        FrameType.DATA,
        FrameFlag(0),
        covenant.covenant_id,
        5,
        agent("C"),
        world.wall,
        payloads.encode(Data(covenant.covenant_id, TEXT, b"x")),
    )
    before = world["A"].everything()
    for where in (link, world.link("C")):
        world.inject("A", frame.signed(identity_of("C").sign).encode(), where)
    assert world["A"].engine.refused == {"unknown_covenant": 2}
    assert world["A"].everything() == before


def test_gaps_in_the_sequence_are_no_offence():
    world = World().covenanted()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, sequence=2**32 - 1))
    assert not world["A"].engine.refused


# Time. Each: seconds that a frame's timestamp is off, the skew in the terms, what becomes of it.


@pytest.mark.parametrize(
    ("off", "skew", "why", "accused"),
    [
        (-29.9, None, "clock", True),
        (29.9, None, "", False),
        (30.1, None, "clock", True),
        (4.9, 5, "", False),
        (5.1, 5, "clock", True),
    ],
)
def test_a_timestamp_is_neither_older_than_the_last_nor_ahead_of_its_time(
    off: float, skew: float | None, why: str, accused: bool
):
    limits = [] if skew is None else [timer("T_clock_skew", skew)]
    world = World().covenanted(proposal(*limits))
    stamp = world.wall + round(off * SECOND)
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, timestamp=stamp))
    assert world["A"].engine.refused == ({why: 1} if why else {})
    assert bool(world["A"].engine.quarantined) is accused
    assert bool(world.sent(FrameType.ESCALATE, "A")) is accused


@pytest.mark.parametrize(
    ("late", "skew", "taken"), [(29, None, True), (31, None, False), (6, 5, False)]
)
def test_a_frame_that_is_late_is_dropped_and_accuses_nobody(
    late: float, skew: float | None, taken: bool
):
    limits = [] if skew is None else [timer("T_clock_skew", skew)]
    world = World().covenanted(proposal(*limits))
    world["B"].engine.send(1, TEXT, b"x", world.now)
    world.collect()
    world.jump(late)
    before = world["A"].everything()
    world.deliver(world.under_way.pop())
    assert bool(world["A"].told("data")) is taken
    if not taken:
        assert world["A"].engine.refused == {"stale": 1}
        assert world["A"].everything() == before


HOUR = 3_600 * SECOND


@pytest.mark.parametrize("step", [-HOUR, -31 * SECOND, 31 * SECOND, HOUR])
@pytest.mark.parametrize("who", "AB")
def test_a_step_of_a_hosts_wall_clock_accuses_nobody(who: str, step: int):
    world = World().covenanted()
    for _ in range(3):
        world[who].wall_off += step
        world.wait(65)
        for name in "AB":
            world[name].engine.send(1, TEXT, b"x", world.now)
        world.settle()
    assert world.states() == (COVENANTED, COVENANTED)
    for name in "AB":
        assert not world[name].engine.refused
        assert not world[name].engine.quarantined
        assert len(world[name].told("data")) == 3


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_step_between_offer_and_answer_accuses_nobody(step: int):
    world = World()
    world.offer()
    world["A"].wall_off = step
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    assert world["A"].engine.refused.keys() <= {"stale", "clock"}
    assert not world["A"].engine.quarantined
    world.wait(30)
    assert world.states() == (State.IDLE, State.IDLE)


def test_clocks_may_drift_apart_over_months():
    slow = timer("T_heartbeat", 600), timer("T_heartbeat_timeout", 2_000)
    world = World().covenanted(proposal(*slow))
    for _ in range(400):
        world["B"].wall_off += 60_000
        world.wait(600)
    assert world.states() == (COVENANTED, COVENANTED)
    assert not world["A"].engine.refused


def test_a_clock_that_creeps_ahead_is_found_out():
    world = World().covenanted()
    for _ in range(10):
        world["B"].covenant.tx_sequence += 1
        world.wait(1)
        ahead = world["A"].covenant.parties[agent("B")].rx_time + 20 * SECOND
        world.inject("A", world.forge("B", FrameType.HEARTBEAT, timestamp=ahead))
    assert world["A"].engine.quarantined == {agent("B"): "timestamp anomaly"}


# Links


def test_a_closed_link_ends_its_covenants_and_negotiations():
    world = World().covenanted()
    world.offer()
    world.settle()
    world.disconnect(world.link())
    for name in "AB":
        states = [one.state for one in world[name].engine.covenants()]
        assert states == [TERMINATED, State.IDLE]
        assert world[name].covenant.reason == "its transport was closed"
        assert world[name].engine.next_deadline() is None
    # And nothing is left of the link.
    world["A"].engine.link_closed(world.link(), world.now)
    world.collect()


@pytest.mark.parametrize(
    ("step", "after"),
    [
        ("offered", State.IDLE),
        ("deferred", State.IDLE),
        ("accepted", State.IDLE),
        ("covenanted", COVENANTED),
        ("amending", State.AMENDING),
        ("revoking", State.REVOKING),
    ],
)
def test_a_durable_covenant_outlives_its_link_once_it_is_in_force(step: str, after: State):
    world = World()
    world.offer(proposal(durable=True))
    world.settle()
    if step == "deferred":
        world["B"].engine.defer(1, QUESTIONS, world.now)
    elif step != "offered":
        world["B"].engine.accept(1, world.now)
    if step == "accepted":
        world.lose()
        assert world["B"].state is State.ACCEPTED
    else:
        world.settle()
    if step == "amending":
        world["A"].engine.amend(1, proposal(durable=True, notice=1), world.now)
    elif step == "revoking":
        world["A"].engine.revoke(1, "", world.now)
    world.settle()
    world.disconnect(world.link())
    assert world.states() == (after, after)
    if after is not State.IDLE:
        assert world["A"].covenant.parties[agent("B")].link is None


def resume(world: World, way: str) -> None:
    """A and B find each other again over a new link."""
    link = world.connect("A", "B", label="2")
    if way == "attach":
        world["A"].engine.attach(1, agent("B"), link)
    else:
        raw = world.forge("B", FrameType.HEARTBEAT)
        world["B"].covenant.tx_sequence += 1
        world.inject("A", raw, link)
    world.settle()


@pytest.mark.parametrize("proved", [False, True])
@pytest.mark.parametrize("way", ["attach", "frame"])
def test_a_durable_covenant_goes_on_over_a_new_link(way: str, proved: bool):
    world = World(proved=proved).covenanted(proposal(durable=True))
    world.disconnect(world.link())
    resume(world, way)
    world["A"].engine.send(1, TEXT, b"again", world.now)
    world.settle()
    assert world["B"].told("data")
    world["B"].engine.send(1, TEXT, b"and back", world.now)
    world.settle()
    assert world["A"].told("data")


@pytest.mark.parametrize("name", "AB")
@pytest.mark.parametrize("step", ["covenanted", "amending", "revoking"])
def test_a_durable_covenant_goes_on_after_a_restart(step: str, name: str):
    world = World().covenanted(proposal(durable=True))
    if step == "amending":
        world["A"].engine.amend(1, proposal(durable=True, notice=1), world.now)
    elif step == "revoking":
        world["A"].engine.revoke(1, "", world.now)
    world.settle()
    before = world.states()
    world.restart(name)
    assert world.states() == before
    link = world.connect("A", "B", label="2")
    world[name].engine.attach(1, agent("B" if name == "A" else "A"), link)
    if step == "revoking":
        world[name].engine.review(1, "check", "")
    world.settle()
    if step == "amending":
        world["B"].engine.accept(1, world.now)
        world.settle()
        assert world["A"].covenant.version == 2
    else:
        world["A"].engine.send(1, TEXT, b"again", world.now)
        world.settle()
        assert world["B"].told("data")
    assert not world["A"].engine.quarantined
    assert not world["B"].engine.quarantined
    world.wait(31)
    assert world.states() == ((TERMINATED,) * 2 if step == "revoking" else (COVENANTED,) * 2)


def test_numbers_used_after_a_covenant_was_stored_do_not_come_again():
    world = World().covenanted(proposal(durable=True))
    stored = world["A"].covenant.tx_sequence
    world.restart("A")
    assert world["A"].covenant.tx_sequence == stored + SEQUENCE_RESERVE


def test_a_durable_covenant_that_nobody_resumes_ends():
    world = World().covenanted(proposal(durable=True))
    world.disconnect(world.link())
    world.wait(180)
    assert world.states() == (State.REVOKING, State.REVOKING)
    world.wait(30)
    assert world.states() == (TERMINATED, TERMINATED)


def test_a_covenant_that_is_not_durable_stays_on_its_link():
    world = World().covenanted()
    link = world.connect("A", "B", label="2")
    with pytest.raises(FailedPrecondition, match="outlive"):
        world["A"].engine.attach(1, agent("B"), link)
    before = world["A"].everything()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT), link)
    assert world["A"].engine.refused == {"other_link": 1}
    assert world["A"].everything() == before


def test_a_durable_covenant_does_not_move_to_the_link_of_another_agent():
    world = World("ABC")
    world["A"].engine.offer(proposal(durable=True), world.invited("B"), world.now)
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    before = world["A"].everything()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT), world.link("C"))
    assert world["A"].engine.refused == {"other_link": 1}
    assert world["A"].everything() == before


def test_attach_refuses_what_cannot_be():
    world = World().covenanted(proposal(durable=True))
    with pytest.raises(NotFound):
        world["A"].engine.attach(1, agent("Z"), world.link())
    with pytest.raises(FailedPrecondition, match="closed"):
        world["A"].engine.attach(1, agent("B"), ("A9", "B"))


def test_a_link_for_one_covenant_serves_no_other():
    world = World()
    link = world.connect("A", "B", single=True, label="1")
    invited = world.invited("B", link=link)
    world["A"].engine.offer(proposal(), invited, world.now)
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    with pytest.raises(FailedPrecondition, match="waits for its answer"):
        world["A"].engine.offer(proposal(), invited, world.now)
    other = world.connect("A", "B", label="2")
    world.jump(1)
    world["A"].engine.offer(proposal(), world.invited("B", link=other), world.now)
    [sent] = world.lose()
    before = world["B"].everything()
    world.inject("B", sent.raw, link)
    assert world["B"].engine.refused == {"out_of_place": 1}
    assert world["B"].everything() == before


# Form. For every kind: what is not its payload.

KINDS = [kind for kind in FrameType if kind is not FrameType.HEARTBEAT]


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xa0", b"\x80", b"\xa1\x61x\x01"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_no_payload_of_its_kind_is_dropped(kind: FrameType, body: bytes):
    world = World().covenanted()
    flags = {FrameType.OFFER: FrameFlag.MISERICORDIA, FrameType.AMEND: FrameFlag.VERSIONED}
    raw = world.forge("B", kind, body, flags.get(kind, FrameFlag(0)))
    before = world["A"].everything()
    world.inject("A", raw)
    blind = kind is FrameType.REJECT and body not in (b"", b"\xff", b"\x80")
    assert world["A"].engine.refused == {"out_of_place" if blind else "malformed": 1}
    assert world["A"].everything() == before


@pytest.mark.parametrize("length", [0, 1, 15, 16, 71, 103])
def test_what_is_no_frame_is_dropped(length: int):
    world = World().covenanted()
    raw = world.forge("B", FrameType.HEARTBEAT)
    before = world["A"].everything()
    world.inject("A", raw[:length])
    world.inject("A", raw + b"x")
    assert world["A"].engine.refused == {"malformed": 2}
    assert world["A"].everything() == before


# Aborting


@pytest.mark.parametrize("who", "AB")
def test_what_cannot_be_carried_out_is_taken_back(who: str):
    world = World()
    world.offer()
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.collect()
    while world[who].state is not COVENANTED:
        sent = world.under_way.pop(0)
        world[sent.receiver].engine.receive(sent.link, sent.raw, world.now)
        if world[who].state is not COVENANTED:
            world.collect()
    world[who].engine.abort(1, "there is no room")
    world.settle()
    world.wait(10)
    assert not any(one.covenant.in_force for one in world.agents.values())
    assert world[who].told("failed")[0].text == "there is no room"


def test_an_offer_that_cannot_be_carried_out_is_not_sent():
    world = World()
    world["A"].engine.offer(proposal(), world.invited("B"), world.now)
    world["A"].engine.abort(1, "there is no room")
    world.settle()
    assert world["A"].state is State.IDLE
    assert not world.log
