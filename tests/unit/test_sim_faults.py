"""The engine behind the real verdict, over whatever hypothesis thinks of.

SIM_EXAMPLES says how many plans each test plays (`make soak` plays many); a plan that fails is
printed as it is, and played again it fails again.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assent.sim.world import MICROSECOND, MILLISECOND, SECOND, START, Link, Traffic
from assent.wire.control import Delivery

from .sim_pair import Plan, assert_honest, both, check, play

EXAMPLES = int(os.environ.get("SIM_EXAMPLES", "60"))
hostile = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

RATES = st.sampled_from([1_000_000, 10_000_000, 100_000_000, 10_000_000_000])
DELAYS = st.sampled_from(
    [5 * MICROSECOND, 50 * MICROSECOND, MILLISECOND, 40 * MILLISECOND, 300 * MILLISECOND]
)


LOSSES = st.floats(0, 0.3)


@st.composite
def links(draw, delays=DELAYS, losses=LOSSES, worst=0.02):
    """One direction of a link, in any weather; `worst`: how often bursts of loss begin."""
    delay = draw(delays)
    kind = draw(st.sampled_from(["fair", "lossy", "bursty", "wild"]))
    if kind == "fair":
        return Link(draw(RATES), delay)
    if kind == "lossy":
        return Link(draw(RATES), delay, loss=draw(losses))
    bursts = {
        "burst_enter": draw(st.floats(0, worst)),
        "burst_leave": draw(st.floats(0.05, 1)),
        "burst_loss": draw(st.floats(0, 1)),
    }
    if kind == "bursty":
        return Link(draw(RATES), delay, **bursts)
    return Link(
        draw(RATES),
        delay,
        jitter=draw(st.integers(0, delay)),
        loss=draw(losses),
        duplicate=draw(st.floats(0, 0.3)),
        reorder=draw(st.floats(0, 0.5)),
        reorder_delay=draw(st.integers(0, 4 * delay)),
        outages=draw(outages(delay)),
        **bursts,
    )


@st.composite
def outages(draw, delay):
    """Up to two intervals in which nothing passes, each shorter than anybody's patience."""
    longest = 5 * SECOND
    made = []
    for _ in range(draw(st.integers(0, 2))):
        begin = START + draw(st.integers(0, 20 * delay))
        made.append((begin, begin + draw(st.integers(0, longest))))
    return tuple(made)


@st.composite
def traffic(draw, limit=200_000):
    """Messages of one side: not more than `limit` bytes of them."""
    least = draw(st.sampled_from([8, 8, 64, 1000]))
    most = draw(st.integers(least, max(least, draw(st.sampled_from([8, 1300, 5000, 100_000])))))
    count = draw(st.integers(0, max(1, min(300, limit // most))))
    return Traffic(count, (least, most), coalesce=draw(st.booleans()))


NEAR = links()


@st.composite
def plans(draw, link=NEAR):
    """Two hosts, their links and what they have to tell each other."""
    delivery = draw(st.sampled_from(Delivery))
    shift = draw(st.sampled_from([0, 0, 0, 1, 3, 6]))
    units = st.integers(8, 512).map(lambda count: max(count << shift, 256))
    forward, backward = draw(link), draw(link)
    sides = draw(traffic()), draw(traffic())
    if delivery is not Delivery.ORDERED:
        sides = tuple(_of_one_frame(side) for side in sides)
    return Plan(
        (forward, backward),
        sides,
        seed=draw(st.integers(0, 2**32)),
        delivery=delivery,
        windows=(draw(units), draw(units)),
        rates=draw(st.sampled_from([(0, 0), (0, 0), (20_000, 0), (0, 20_000), (5000, 5000)])),
        grant_shift=shift,
        replay_len=draw(st.sampled_from([2048, 4096, 8192])),
        receipt_fraction=draw(st.sampled_from([0, 2, 8, 16])),
        rtt_hint=draw(st.sampled_from([0, forward.delay + backward.delay])),
        interface=draw(st.sampled_from([0, 10**9])),
    )


def _of_one_frame(side):
    least, most = side.size
    return Traffic(side.messages, (least, max(least, min(most, 1300))), coalesce=side.coalesce)


SLOW = both(Link(1_000_000, 5 * MICROSECOND))
STEP = SLOW[0], Link(10_000_000, 5 * MICROSECOND)
FEW = {"windows": (256, 256)}
ENDS = (Traffic(), Traffic())


def small(count, size=8, **more):
    return Traffic(count, (size, size), **more)


def stalled(seconds, count=0, size=8):
    return small(count, size, stall=(START, START + seconds * SECOND))


# Each of these was lost, stalled or given up once.
REMEMBERED = {
    "an end of best effort that is lost": Plan(
        both(Link(1_000_000_000, 500 * MICROSECOND, loss=0.1)),
        (Traffic(300, (8, 1000)), Traffic(50, (8, 1000))),
        delivery=Delivery.BEST_EFFORT,
    ),
    "a tail in units, its receipt lost, twenty minutes away": Plan(
        both(Link(1_000_000, 600 * SECOND, loss=0.01)),
        (small(50, 65_536), Traffic()),
        windows=(32_768, 131_072),
        grant_shift=3,
        replay_len=8192,
        rtt_hint=1200 * SECOND,
    ),
    "an end below the receipt step, ten minutes away": Plan(
        (Link(1_000_000, 1280 * MILLISECOND), Link(1_000_000, 600 * SECOND)),
        (Traffic(), small(15)),
        rtt_hint=601_280 * MILLISECOND,
        **FEW,
    ),
    "an end in units to one that grants by a rate": Plan(
        SLOW, ENDS, rates=(20_000, 0), grant_shift=3, **FEW
    ),
    "a stall longer than the silence limit": Plan(SLOW, (small(95), stalled(72)), **FEW),
    "the same with credit for one frame more": Plan(SLOW, (small(92), stalled(72)), **FEW),
    "a stall that makes the peer mute": Plan(SLOW, (small(95), stalled(31, 136, 1000)), **FEW),
    "a long stall of one that is done": Plan(
        STEP, (small(12, 1000, coalesce=True), stalled(31, 127, 1000)), receipt_fraction=16, **FEW
    ),
    "a short stall, and then quiet": Plan(
        STEP, (small(12, 1000, coalesce=True), stalled(1, 127, 1000)), receipt_fraction=16, **FEW
    ),
    "both links out while both hurry at a rate": Plan(
        (
            Link(10_000_000, 5 * MICROSECOND, outages=((START, START + 11_420_793),)),
            Link(
                *(10_000_000, 50 * MICROSECOND),
                jitter=1,
                burst_loss=1.0,
                reorder_delay=1,
                outages=((START, START + 11_445_308),),
            ),
        ),
        (Traffic(297, (64, 167)), Traffic(23, (8, 1128))),
        seed=0,
        delivery=Delivery.BEST_EFFORT,
        rates=(5000, 5000),
        replay_len=8192,
        receipt_fraction=16,
        rtt_hint=55_000,
        **FEW,
    ),
    "gaps on the short way back": Plan(
        (Link(1_000_000, 300 * MILLISECOND), Link(1_000_000, 5 * MICROSECOND, loss=0.25)),
        (Traffic(), small(59)),
        seed=0,
        **FEW,
    ),
    "gaps that close while they are being asked for": Plan(
        both(
            Link(
                *(10_000_000, 5 * MICROSECOND),
                jitter=11,
                loss=0.01,
                burst_enter=0.012,
                burst_leave=0.71,
                burst_loss=0.45,
                duplicate=0.13,
                reorder=0.15,
                reorder_delay=419,
                outages=((START + 8192, START + 62_468_439),),
            )
        ),
        (Traffic(15, (1000, 2681), coalesce=True), Traffic()),
        seed=1_158_355_783,
        windows=(284, 284),
        replay_len=4096,
        receipt_fraction=8,
    ),
}


@pytest.mark.parametrize("name", REMEMBERED)
def test_what_failed_once_holds(name):
    plan = REMEMBERED[name]
    assert check(play(plan, 10**17)) == play(plan, 10**17)


@hostile
@given(plans())
def test_whatever_the_links_do_messages_arrive_as_the_flow_promises(plan):
    check(play(plan))


GENTLE = st.builds(Link, RATES, DELAYS)


def stall_right(plan, begin, seconds):
    stall = (START + begin * MILLISECOND, START + begin * MILLISECOND + seconds * SECOND)
    left, right = plan.traffic
    stalled = Traffic(right.messages, right.size, coalesce=right.coalesce, stall=stall)
    return Plan(**{**_fields(plan), "traffic": (left, stalled)})


@hostile
@given(plans(), st.integers(0, 5), st.integers(1, 20))
def test_a_reader_that_stops_stops_its_sender_and_loses_nothing(plan, begin, seconds):
    check(play(stall_right(plan, begin, seconds)))


@hostile
@given(plans(GENTLE), st.integers(0, 5), st.integers(20, 300))
def test_a_reader_may_stop_for_longer_than_the_silence_limit(plan, begin, seconds):
    """Where nothing is lost and nobody is held to a rate."""
    free = replace(plan, rates=(0, 0))
    check(play(stall_right(free, begin, seconds)))


@hostile
@given(plans(), st.integers(0, 500))
def test_a_peer_that_is_gone_is_told_of_within_the_limit(plan, after):
    """The links go for good at some moment: who has something to send fails, with a sentence.

    Who only listens is told by the session, whose heartbeats have a limit of their own.
    """
    gone = START + after * MILLISECOND
    cut = tuple(Link(**{**_fields(link), "outages": ((gone, 2**64 - 1),)}) for link in plan.links)
    played = play(Plan(**{**_fields(plan), "links": cut}), 1000 * SECOND)
    for flow in played.flows:
        if not flow.drained_at:
            assert flow.error == -110
            assert "silent" in flow.sentence
            assert START + 30 * SECOND <= flow.failed_at <= gone + 31 * SECOND + 10 * plan.rtt
    assert_honest(played)


@hostile
@given(plans())
def test_the_same_seed_is_the_same_run(plan):
    assert play(plan) == play(plan)


FAR = links(
    delays=st.sampled_from([1280 * MILLISECOND, 600 * SECOND, 1320 * SECOND]),
    losses=st.floats(0, 0.005),
    # There are three questions within the silence limit: a burst would take them all.
    worst=0,
)


@hostile
@given(plans(FAR))
def test_the_same_rules_hold_at_any_distance(plan):
    distance = sum(link.delay for link in plan.links)
    check(play(Plan(**{**_fields(plan), "rtt_hint": distance, "rates": (0, 0)}), 10**17))


def _fields(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
