"""A world and its checks, the meeting of its hosts, and what an engine must do in plain weather."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assent.errors import InvalidArgument
from assent.handshake.utcp import LIFETIME, RESEND_FIRST, LocalOffer
from assent.sim.meeting import Meeting, timers_for, wall_offset
from assent.sim.world import (
    FOREVER,
    MICROSECOND,
    MILLISECOND,
    SECOND,
    START,
    Broken,
    Link,
    Stop,
    Traffic,
    World,
)
from assent.wire.control import Delivery

from .sim_pair import LEFT, RIGHT, Plan, both, check, config, pair, play

GOOD = both(Link(1_000_000_000, MILLISECOND))
NOTHING = Traffic()


def plan(messages=20, size=10_000, **more):
    return Plan(**{"links": GOOD, "traffic": (Traffic(messages, (size, size)), NOTHING), **more})


# -- what must hold is looked at


def opened(world, ours, **changes):
    """A pair as planned, but for what is changed on the left side."""
    forward, backward = (world.add_link(link) for link in ours.links)
    world.route(LEFT, RIGHT, forward)
    world.route(RIGHT, LEFT, backward)
    for host in (LEFT, RIGHT):
        world.set_cell(host, bytes([host + 1]) * 16)
    for host in (LEFT, RIGHT):
        world.introduce(host, 1 - host, bytes(16))
        world.establish(host, 1 - host, bytes([2 - host]) * 16, 0, 0)
    world.add_flow(**{**config(ours, LEFT), **changes})
    world.add_flow(**config(ours, RIGHT))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tx_window": 32_000}, "more credit is believed in than the peer gave"),
        ({"messages": 21}, "read a message that nobody wrote"),
        ({"size_min": 9_999, "size_max": 9_999}, "otherwise than it was written"),
        ({"size_min": 10_008, "size_max": 10_008}, "has no end"),
        ({"pattern": 77}, "otherwise than it was written"),
    ],
)
def test_what_does_not_hold_stops_the_world(changes, sentence):
    with World(1) as world:
        opened(world, plan(), **changes)
        with pytest.raises(Broken, match=sentence):
            world.run(START + SECOND)
        # And it stays broken.
        with pytest.raises(Broken, match=sentence):
            world.run(START + SECOND)


def test_another_key_is_refused_by_the_gate():
    with World(1) as world:
        opened(world, plan(), tx_header_key=bytes(16))
        world.run(START + SECOND)
        assert world.gate(RIGHT).admitted == 0
        assert world.gate(RIGHT).refused > 0
        assert world.flow(1).bytes_read == 0


def test_another_payload_key_breaks_the_flow_with_a_sentence():
    with World(1) as world:
        opened(world, plan(), tx_payload_key=bytes(32))
        world.run(START + 10 * MILLISECOND)
        assert world.flow(1).error
        assert "tampered" in world.flow(1).sentence
        assert world.flow(1).bytes_read == 0


def test_a_flow_needs_its_session_and_its_number():
    with World(1) as world:
        for host in (LEFT, RIGHT):
            world.set_cell(host, bytes([host + 1]) * 16)
        with pytest.raises(InvalidArgument, match="flow"):
            world.add_flow(**config(plan(), LEFT))
        world.introduce(LEFT, RIGHT, bytes(16))
        world.establish(LEFT, RIGHT, bytes(16), 0, 0)
        with pytest.raises(InvalidArgument, match="flow"):
            world.add_flow(**{**config(plan(), LEFT), "number": 2})
        with pytest.raises(InvalidArgument, match="flow"):
            world.add_flow(**{**config(plan(), LEFT), "host": 7})


def test_a_session_needs_an_introduction():
    with World(1) as world, pytest.raises(InvalidArgument, match="peer"):
        world.establish(LEFT, RIGHT, bytes(16), 0, 0)


def test_time_does_not_pass_by_itself_and_does_not_go_back():
    with World(1) as world:
        assert world.now == START
        assert world.run(START + 5) is Stop.REACHED
        assert world.run(START + 3) is Stop.REACHED
        assert world.now == START + 5


def test_that_all_is_done_is_said_once():
    with World(1) as world:
        pair(world, plan())
        assert world.run(FOREVER - 1) is Stop.DONE
        assert world.run(world.now + SECOND) is Stop.REACHED


# -- plain weather


@pytest.mark.parametrize("delivery", list(Delivery), ids=lambda one: one.name.lower())
@pytest.mark.parametrize(
    "delay",
    [5 * MICROSECOND, MILLISECOND, 300 * MILLISECOND, 600 * SECOND],
    ids=["5 us", "1 ms", "300 ms", "10 min"],
)
def test_a_healthy_link_carries_no_nack(delivery, delay):
    healthy = plan(
        2000,
        1000,
        links=both(Link(100_000_000, delay)),
        delivery=delivery,
        windows=(16_384, 131_072),
        grant_shift=3,
        replay_len=8192,
        rtt_hint=2 * delay,
    )
    played = check(play(healthy))
    for flow in played.flows:
        assert flow.nacks == flow.gaps == 0
        # Of the tail, what waits for its receipt may be repeated where it could have been lost.
        assert flow.retransmissions <= 2
    assert played.flows[RIGHT].messages_read == 2000


def test_a_receipt_comes_once_in_the_fraction_that_was_asked_for():
    for fraction in (2, 8, 32):
        played = check(play(plan(200, 65_536, receipt_fraction=fraction)))
        spent = played.flows[LEFT].books.tx_spent
        assert played.flows[RIGHT].receipts <= fraction * spent / 16_384 + 4


def test_a_reader_that_stops_stops_its_sender_within_one_window():
    stall = (START, START + 20 * SECOND)
    ours = plan(500, 10_000, traffic=(Traffic(500, (10_000, 10_000)), Traffic(stall=stall)))
    with World(1) as world:
        left, right = pair(world, ours)
        world.run(START + 19 * SECOND)
        books = world.flow(right).books
        assert world.flow(right).bytes_read == 0
        # It holds nearly all of the window, and not a block more.
        assert 0.95 * 16_384 <= books.rx_spent <= 16_384
        assert world.flow(left).bytes_written < 500 * 10_000
    check(play(ours))


def test_messages_are_written_no_faster_than_they_come():
    slow = Traffic(10, (100, 100), gap=SECOND)
    played = check(play(plan(traffic=(slow, NOTHING))))
    assert 9 * SECOND <= played.flows[RIGHT].last_read_at - START <= 9 * SECOND + 3 * MILLISECOND


def test_coalesced_messages_share_frames():
    many = Traffic(2000, (64, 64), coalesce=True)
    together = check(play(plan(traffic=(many, NOTHING))))
    apart = check(play(plan(traffic=(replace(many, coalesce=False), NOTHING))))
    assert together.flows[LEFT].tx_frames * 10 < apart.flows[LEFT].tx_frames


def test_an_empty_flow_ends_on_both_sides():
    check(play(plan(0, 8)))


def test_a_third_of_loss_leaves_most_of_what_survives():
    """Goodput at 30 % loss is at least 60 % of what the link lets through."""
    rough = plan(
        400,
        65_536,
        links=both(Link(1_000_000_000, 500 * MICROSECOND, loss=0.3)),
        windows=(16_384, 32_000),
        rtt_hint=MILLISECOND,
    )
    played = check(play(rough))
    taken = played.flows[RIGHT].last_read_at - START
    assert 400 * 65_536 * 8 / (taken / SECOND) >= 0.6 * 0.7 * 1_000_000_000


# -- the meeting


def meet(link, *, seed=1, rtt=0, until=1000 * SECOND):
    """Two hosts that introduce themselves; returns their sessions and when it was over."""
    with World(seed) as world:
        forward, backward = world.add_link(link), world.add_link(link)
        world.route(0, 1, forward)
        world.route(1, 0, backward)
        sessions = []
        meeting = Meeting(world, 2, seed, timers_for(rtt), rtt, sessions.append)
        meeting.introduce(1, 0, (LocalOffer({1: 100}, 2), LocalOffer({1: 200}, 3)))
        while world.now < START + until:
            deadline = meeting.next_deadline()
            if deadline is None and len(sessions) == 2:
                break
            stop = world.run(min(deadline or START + until, START + until))
            if stop is Stop.CONTROL:
                meeting.take()
            elif deadline is not None and world.now >= deadline:
                meeting.tick()
        return sessions, world.now - START


def test_hosts_meet_in_a_round_trip_and_agree():
    (answers, begins), over = meet(Link(1_000_000_000, 50 * MILLISECOND))
    assert (answers.host, begins.host) == (0, 1)
    assert begins.initiator
    assert not answers.initiator
    assert begins.keys.tx_payload == answers.keys.rx_payload
    assert begins.keys.rx_header == answers.keys.tx_header
    assert answers.at == pytest.approx(50 * MILLISECOND, rel=0.01)
    assert begins.at == pytest.approx(100 * MILLISECOND, rel=0.01)
    assert over == pytest.approx(150 * MILLISECOND, rel=0.01)
    assert begins.rtt == pytest.approx(100 * MILLISECOND, rel=0.01)


def test_the_larger_unit_of_grants_is_agreed_and_the_windows_are_told():
    answers, begins = meet(Link(1_000_000_000, MILLISECOND))[0]
    assert answers.grant_shift == begins.grant_shift == 3
    assert dict(begins.agreed.grants) == {1: 200}
    assert dict(answers.agreed.grants) == {1: 100}


@pytest.mark.parametrize("seed", range(10))
def test_hosts_meet_whatever_is_lost(seed):
    rough = Link(10_000_000, 20 * MILLISECOND, loss=0.4, duplicate=0.2, reorder=0.2)
    sessions, _ = meet(rough, seed=seed)
    assert {one.host for one in sessions} == {0, 1}


@pytest.mark.parametrize("minutes", [8, 20, 44])
def test_hosts_meet_between_planets(minutes):
    rtt = minutes * 60 * SECOND
    sessions, over = meet(Link(1_000_000, rtt // 2), rtt=rtt, until=10 * rtt)
    assert len(sessions) == 2
    # Nothing was sent twice: each frame had its time.
    assert over == pytest.approx(1.5 * rtt, rel=0.001)


def test_timers_are_the_seeds_where_those_are_long_enough():
    assert timers_for(0).lifetime == LIFETIME
    assert timers_for(600 * MILLISECOND).resend_first == RESEND_FIRST
    far = timers_for(1200 * SECOND)
    assert far.resend_first == 1500 * SECOND
    assert far.lifetime > 5 * far.resend_first


def test_no_two_hosts_have_the_same_time():
    assert len({wall_offset(host) for host in range(100)}) == 100
