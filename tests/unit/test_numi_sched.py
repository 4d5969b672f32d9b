# SPDX-License-Identifier: Apache-2.0
"""The scheduler towards a peer: held to a slow model, and to what the seed promises."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from math import floor
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.clock import Slot
from assent.numiport.profiles import CROSS_DC, INTRA_DC, KIB, MIB, PACKET_MAX, Arbitration
from assent.numiport.sched import (
    AHEAD,
    Departure,
    Offer,
    Scheduler,
    Verdict,
    phase_draw,
    stake_caps,
)

from .numi_sched_model import Model

MS = 1_000_000
START = 1_700_000_000_000_000_000
LENGTH = 400 * MS
FIRST = Slot(1000, START, LENGTH)
TEN_GBE = 1_250_000_000
SHRED = 1228


def following(slot, length=LENGTH, by=1):
    return Slot(slot.number + by, slot.end + (by - 1) * slot.length, length)


def with_classes(profile=INTRA_DC, **changes):
    return replace(profile, classes=replace(profile.classes, **changes))


def unbounded(cls, profile=INTRA_DC):
    """A class that neither credit nor queue holds back."""
    one = profile.classes.in_order()[cls]
    return replace(one, credit=1 << 30, ceiling=1 << 30, queue_packets=1 << 20, queue_bytes=1 << 30)


@contextmanager
def scheduler(profile=INTRA_DC, slot=FIRST, **more):
    with Scheduler(profile, slot, **more) as made:
        yield made


def offers(cls, count, length=SHRED, slot=FIRST.number, first=0):
    return [Offer(first + at, cls, slot, length) for at in range(count)]


def drain(sched, now, until):
    found = []
    while batch := sched.run(now, until):
        found += batch
    return found


def saturate(sched, classes, slot, until, length=SHRED):
    """Keeps queues full and takes what leaves up to `until`."""
    found = []
    now = slot.start
    while now < until:
        for cls in classes:
            room = 400 - sched.stats().classes[cls].queued_packets
            sched.push(now, offers(cls, max(0, room), length, slot.number + 2))
        now = min(until, now + MS)
        found += drain(sched, now - MS, now - 1)
    return found


def sent(departures, cls):
    return sum(one.length for one in departures if one.cls == cls and not one.is_late)


# Against the model.


def any_profile(random):
    """Budgets so small, and packets so large, that credit is short most of the time."""

    def one_class():
        floor_ = random.randint(PACKET_MAX, 200_000)
        credit = random.randint(floor_, 400_000)
        return replace(
            INTRA_DC.classes.p1,
            credit=credit,
            floor=floor_,
            ceiling=random.randint(credit, 600_000),
            margin_ns=random.choice([0, MS, 50 * MS, 200 * MS]),
            queue_packets=random.randint(3, 40),
            queue_bytes=random.randint(2 * PACKET_MAX, 20 * PACKET_MAX),
        )

    turns = Arbitration(
        burst_p0=random.randint(1, 4),
        burst_p1=random.randint(1, 4),
        quantum_p1=random.randint(KIB, 70_000),
        quantum_p2=random.randint(KIB, 70_000),
        bursts=random.choice([1, 2, 100]),
    )
    ecn = replace(
        INTRA_DC.ecn,
        calm_slots=random.randint(1, 3),
        step_permille=random.choice([1, 50, 300, 1000]),
    )
    made = with_classes(**{name: one_class() for name in ("p0", "p1", "p2", "p3")})
    return replace(made, arbitration=turns, ecn=ecn)


def any_length(random):
    kind = random.random()
    if kind < 0.02:
        return random.choice([0, PACKET_MAX + 1])
    return random.randint(1, 3000 if kind < 0.5 else PACKET_MAX)


def any_offers(random):
    kinds = random.choice([[0], [1], [2], [3], [1, 2], [0, 1, 2], [0, 1, 2, 3], [4]])
    return [
        (random.choice(kinds), random.choice([-1, 0, 0, 0, 0, 0, 1, 2]), any_length(random))
        for _ in range(random.randint(1, 12))
    ]


def any_span(random):
    passed = random.choice([0, 0, random.randint(0, 40 * MS), random.randint(0, 200 * MS)])
    return passed, random.choice([-1, 0, random.randint(0, 100 * MS)]), random.randint(1, 12)


def any_slot(random):
    shift = random.choice([0, random.randint(-20 * MS, 20 * MS)])
    return random.choice([1, 1, 1, 1, 2, 7, 2000]), shift, random.randint(40 * MS, 500 * MS)


STEPS = {
    "push": (10, any_offers),
    "run": (14, any_span),
    "begin": (3, any_slot),
    "mark": (3, lambda random: random.choice([(0, 1000), (1, 999), (2, 1000), (1, 100), (1, 50)])),
    "cap": (1, lambda random: (random.randint(0, 3), random.randint(0, 800_000))),
    "widen": (1, lambda random: random.choice([0, random.randint(0, 50 * MS)])),
}
WEIGHTS = [weight for weight, _ in STEPS.values()]


class Pair:
    """The scheduler and its model, which are told the same."""

    def __init__(self, profile, draw, line):
        self.sched = Scheduler(profile, FIRST, draw, line)
        self.model = Model(profile, FIRST, draw, line)
        self.slot = FIRST
        self.now = START
        self.handle = 0

    def push(self, rows):
        made = []
        for cls, ahead, length in rows:
            self.handle += 1
            made.append(Offer(self.handle, cls, self.slot.number + ahead, length))
        assert self.sched.push(self.now, made) == self.model.push(self.now, made)

    def run(self, what):
        passed, horizon, most = what
        self.now += passed
        until = self.now + horizon
        assert self.sched.next_at(self.now) == self.model.next_at(self.now)
        found = self.sched.run(self.now, until, most)
        assert found == self.model.run(self.now, until, most)

    def begin(self, what):
        by, shift, length = what
        start = max(self.slot.start + 1, self.slot.start + by * self.slot.length + shift)
        self.slot = Slot(self.slot.number + by, start, length)
        self.now = max(self.now, start)
        self.sched.begin(self.slot)
        self.model.begin(self.slot)

    def mark(self, what):
        self.sched.mark(*what)
        self.model.mark(*what)

    def cap(self, what):
        self.sched.cap(*what)
        self.model.cap(*what)

    def widen(self, what):
        self.sched.widen(what)
        self.model.widen(what)

    def compare(self):
        stats, model = self.sched.stats(), self.model
        assert (stats.slot, stats.slot_start, stats.slot_end) == (
            model.slot.number,
            model.slot.start,
            model.slot.end,
        )
        assert (stats.time, stats.phase) == (model.time, model.phase)
        assert (stats.scale, stats.calm) == (model.scale, model.calm)
        assert (stats.clamps_p0, stats.clamps_p1) == (model.clamps_p0, model.clamps_p1)
        assert stats.floor_hits == model.floor_hits
        model.refill(model.time)
        for cls, one in enumerate(stats.classes):
            assert one.queued_packets == len(model.queues[cls])
            assert one.queued_bytes == sum(each.length for each in model.queues[cls])
            assert (one.credit, one.budget) == (floor(model.level[cls]), model.budget[cls])
            assert one.credit <= one.budget
            assert (one.sent_bytes, one.slot_bytes) == (model.sent[cls], model.slot_bytes[cls])
            assert (one.late, one.refused) == (model.late[cls], model.refused[cls])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 500_000, 7_777_777, TEN_GBE]))
def test_schedules_are_the_models(seed, line):
    random = Random(seed)
    pair = Pair(any_profile(random), random.choice([0, random.getrandbits(64)]), line)
    with pair.sched:
        for name in random.choices(list(STEPS), WEIGHTS, k=60):
            getattr(pair, name)(STEPS[name][1](random))
            pair.compare()


# Credit.


def test_a_class_sends_its_budget_and_what_is_refilled():
    with scheduler() as sched:
        found = saturate(sched, [1], FIRST, FIRST.end)
    # Saved up: one slot's credit; refilled in the course of the slot: one more.
    assert 4 * MIB - SHRED - 2 * MIB // 400 < sent(found, 1) <= 4 * MIB


@pytest.mark.parametrize("line", [0, TEN_GBE, 20_000_000])
def test_no_span_sees_more_than_credit_and_refill(line):
    with scheduler(line=line) as sched:
        found = saturate(sched, [0, 1, 2], FIRST, START + 60 * MS)
    for cls, one in enumerate(INTRA_DC.classes.in_order()[:3]):
        mine = [each for each in found if each.cls == cls]
        assert mine
        total = 0
        for each in mine:
            total += each.length
            assert total <= one.credit + Fraction(one.credit * (each.time - START), LENGTH)


def test_credit_is_saved_up_to_one_slot_and_no_further():
    slot = FIRST
    with scheduler() as sched:
        for _ in range(5):
            slot = following(slot)
            sched.begin(slot)
        sched.run(slot.start + 10 * MS, slot.start + 10 * MS)
        assert [one.credit for one in sched.stats().classes] == [64 * KIB, 2 * MIB, MIB, 256 * KIB]


def test_what_is_not_covered_waits_for_the_very_ns():
    with scheduler(
        with_classes(p3=replace(INTRA_DC.classes.p3, credit=100_000, floor=65_507))
    ) as it:
        assert it.push(START, offers(3, 2, 60_000)) == [Verdict.TAKEN] * 2
        assert [one.time for one in it.run(START, START)] == [START]
        # 40,000 bytes are left and 20,000 missing: a fifth of a slot.
        assert it.next_at(START) == START + LENGTH // 5
        assert it.run(START, START + LENGTH // 5 - 1) == []
        assert it.run(START, FIRST.end) == [Departure(1, START + LENGTH // 5, 3, 60_000)]


# Order.


@given(slots=st.lists(st.integers(0, 20), min_size=1, max_size=60), cls=st.integers(0, 3))
def test_the_earliest_deadline_leaves_first_within_a_class(slots, cls):
    with scheduler() as sched:
        batch = [Offer(at, cls, FIRST.number + s, 100) for at, s in enumerate(slots)]
        sched.push(START, batch)
        found = drain(sched, START, FIRST.end)
    expected = sorted(range(len(slots)), key=lambda at: (slots[at], at))
    assert [one.handle for one in found] == expected


def test_p3_leaves_when_nothing_else_waits():
    with scheduler() as sched:
        for cls in (3, 2, 1, 0):
            sched.push(START, offers(cls, 3, 1000, first=10 * cls))
        found = drain(sched, START, FIRST.end)
    assert [one.cls for one in found[-3:]] == [3, 3, 3]
    assert [one.cls for one in found[:3]] == [0, 0, 0]


def test_p3_waits_even_where_what_waits_above_has_no_credit():
    profile = with_classes(p2=replace(INTRA_DC.classes.p2, credit=256 * KIB))
    with scheduler(profile) as sched:
        sched.push(START, [*offers(2, 5, 60_000), *offers(3, 1, 1000, first=90)])
        found = drain(sched, START, FIRST.end)
    assert [one.cls for one in found] == [2, 2, 2, 2, 2, 3]
    assert found[-1].time == found[-2].time > START


# Bursts and shares.


def test_after_m0_of_p0_another_class_has_a_turn():
    with scheduler() as sched:
        sched.push(START, [*offers(0, 40, 200), *offers(1, 5, SHRED)])
        found = drain(sched, START, FIRST.end)
        assert sched.stats().clamps_p0 == 4
    assert [one.cls for one in found] == ([0] * 8 + [1]) * 5


def test_p0_goes_on_where_nobody_else_is_ready():
    with scheduler() as sched:
        sched.push(START, [*offers(0, 40, 200), *offers(3, 1, 100)])
        found = drain(sched, START, FIRST.end)
        assert sched.stats().clamps_p0 == 0
    assert [one.cls for one in found] == [0] * 40 + [3]


def test_after_m1_of_p1_repair_has_a_turn():
    with scheduler() as sched:
        sched.push(START, [*offers(1, 40), *offers(2, 3, first=100)])
        found = drain(sched, START, FIRST.end)
        assert sched.stats().clamps_p1 == 3
    assert [one.cls for one in found] == ([1] * 8 + [2]) * 3 + [1] * 16


@pytest.mark.parametrize(("quantum_p1", "quantum_p2"), [(64, 64), (64, 16), (16, 64), (4, 6)])
def test_shares_are_the_quanta_within_one_round(quantum_p1, quantum_p2):
    turns = Arbitration(quantum_p1=quantum_p1 * KIB, quantum_p2=quantum_p2 * KIB)
    profile = replace(with_classes(p1=unbounded(1), p2=unbounded(2)), arbitration=turns)
    with scheduler(profile, line=TEN_GBE // 10) as sched:
        found = saturate(sched, [1, 2], FIRST, START + 100 * MS)
    shares = [Fraction(sent(found, cls)) for cls in (1, 2)]
    rounds = [shares[0] / turns.quantum_p1, shares[1] / turns.quantum_p2]
    packet = Fraction(SHRED, min(turns.quantum_p1, turns.quantum_p2))
    # P2's turns out of its turn are worth a quantum of its own, at most.
    assert abs(rounds[0] - rounds[1]) <= 2 + packet


def test_m1_holds_where_its_quantum_alone_would_not():
    turns = Arbitration(quantum_p1=MIB, quantum_p2=KIB)
    profile = replace(with_classes(p1=unbounded(1), p2=unbounded(2)), arbitration=turns)
    with scheduler(profile) as sched:
        sched.push(START, [*offers(1, 200), *offers(2, 20, first=1000)])
        found = drain(sched, START, FIRST.end)
    run = longest = 0
    for one in found[: found.index(next(x for x in reversed(found) if x.cls == 2))]:
        run = run + 1 if one.cls == 1 else 0
        longest = max(longest, run)
    assert longest == 8


@pytest.mark.parametrize("line", [1_000_000, 2_000_000, 20_000_000, TEN_GBE])
@pytest.mark.parametrize("loads", [[1, 2], [0, 1, 2]])
def test_the_floor_of_p2_holds_in_every_slot(line, loads):
    """Whatever P1 and P0 send, and though P2's own quantum would give it next to nothing."""
    turns = Arbitration(quantum_p1=MIB, quantum_p2=KIB, burst_p1=1 << 16)
    profile = replace(with_classes(p0=unbounded(0), p1=unbounded(1)), arbitration=turns)
    if 0 in loads:
        profile = with_classes(profile, p0=INTRA_DC.classes.p0)
    slot = FIRST
    with scheduler(profile, line=line) as sched:
        for _ in range(3):
            # Shreds, or on a fast line jumbo frames, so that there are fewer.
            saturate(sched, loads, slot, slot.end, 9000 if line == TEN_GBE else SHRED)
            assert sched.stats().classes[2].slot_bytes >= 256 * KIB
            assert sched.stats().classes[1].slot_bytes > 0
            slot = following(slot)
            sched.begin(slot)
        assert sched.stats().floor_hits > 0


def test_p0_without_a_bound_of_credit_leaves_p2_its_floor():
    profile = with_classes(p0=unbounded(0), p1=unbounded(1))
    with scheduler(profile, line=20_000_000) as sched:
        saturate(sched, [0, 1, 2], FIRST, FIRST.end)
        assert sched.stats().classes[2].slot_bytes >= 256 * KIB


def test_the_floor_holds_at_the_least_that_scaling_leaves():
    profile = with_classes(p1=unbounded(1), p2=replace(INTRA_DC.classes.p2, credit=300 * KIB))
    slot = FIRST
    with scheduler(profile, line=20_000_000) as sched:
        for _ in range(4):
            sched.mark(500, 1000)
            slot = following(slot)
            sched.begin(slot)
            saturate(sched, [1, 2], slot, slot.end)
            assert sched.stats().classes[2].budget == 256 * KIB
            assert sched.stats().classes[2].slot_bytes >= 256 * KIB - SHRED


# Time.


def test_what_is_late_is_given_back_and_counted():
    with scheduler() as sched:
        sched.push(START, offers(1, 2))
        margin = INTRA_DC.classes.p1.margin_ns
        at = FIRST.end - margin
        assert sched.run(at + 1, at + 1) == [
            Departure(0, at + 1, 1, SHRED, True),
            Departure(1, at + 1, 1, SHRED, True),
        ]
        one = sched.stats().classes[1]
        assert (one.late, one.sent_packets, one.credit) == (2, 0, 2 * MIB)
        assert one.queued_packets == one.queued_bytes == 0


def test_what_credit_will_not_cover_in_time_is_not_waited_for():
    p3 = replace(INTRA_DC.classes.p3, credit=100_000, floor=PACKET_MAX, margin_ns=350 * MS)
    with scheduler(with_classes(p3=p3)) as sched:
        sched.push(START, offers(3, 2, 60_000))
        sched.run(START, START)
        # Its credit would be there after 80 ms, and its deadline is after 50.
        after = START + 50 * MS + 1
        assert sched.next_at(START) == after
        assert sched.run(START, after - 1) == []
        assert sched.run(START, FIRST.end) == [Departure(1, after, 3, 60_000, True)]


def test_a_vote_waits_for_what_was_decided_before_it_and_no_longer():
    profile = with_classes(p1=unbounded(1), p2=unbounded(2))
    random = Random(7)
    with scheduler(profile, line=TEN_GBE) as sched:
        now, horizon, voted, waits = START, MS // 2, {}, []
        for turn in range(300):
            for cls in (1, 2):
                room = 900 - sched.stats().classes[cls].queued_packets
                sched.push(now, offers(cls, max(0, room), slot=FIRST.number + 2, first=10**6))
            if turn % 3 == 0:
                sched.push(now, offers(0, 1, 200, first=turn))
                voted[turn] = now
            found = drain(sched, now, now + horizon)
            waits += [one.time - voted[one.handle] for one in found if one.cls == 0]
            now += random.randint(0, horizon)
    assert len(waits) == len(voted) == 100
    assert max(waits) <= horizon + SHRED * 1_000_000_000 // TEN_GBE + 1


def test_the_last_moment_is_not_late():
    at = FIRST.end - INTRA_DC.classes.p1.margin_ns
    with scheduler() as sched:
        assert sched.push(at, offers(1, 1)) == [Verdict.TAKEN]
        assert sched.run(at, at) == [Departure(0, at, 1, SHRED)]
        assert sched.push(at + 1, offers(1, 1)) == [Verdict.LATE]
        assert sched.stats().classes[1].late == 1


def test_margins_widen_by_what_is_not_known():
    with scheduler(CROSS_DC) as sched:
        at = FIRST.end - CROSS_DC.classes.p1.margin_ns
        sched.widen(3 * MS)
        assert sched.push(at - 3 * MS + 1, offers(1, 1)) == [Verdict.LATE]
        assert sched.push(at - 3 * MS, offers(1, 1)) == [Verdict.TAKEN]


def test_nothing_leaves_before_the_phase_nor_after_the_slot():
    draw = 2**63
    phase = LENGTH // INTRA_DC.arbitration.bursts // 2
    with scheduler(draw=draw) as sched:
        assert sched.stats().phase == phase
        sched.push(START, offers(1, 2, slot=FIRST.number + 1))
        assert sched.next_at(START) == START + phase
        assert sched.run(START, START + phase - 1) == []
        assert sched.run(START, START + phase, most=1) == [Departure(0, START + phase, 1, SHRED)]
        assert sched.next_at(FIRST.end) is None
        assert sched.run(FIRST.end, FIRST.end + LENGTH) == []
        sched.begin(following(FIRST))
        assert sched.run(FIRST.end, FIRST.end + LENGTH) == [
            Departure(1, FIRST.end + phase, 1, SHRED)
        ]


def test_packets_take_their_time_on_the_line():
    with scheduler(line=3_000_000_000) as sched:
        sched.push(START, offers(1, 4, 1000))
        found = drain(sched, START, FIRST.end)
    # 333 1/3 ns each: nothing is lost in rounding.
    assert [one.time - START for one in found] == [0, 333, 666, 1000]


def test_phases_are_the_same_whenever_asked_and_spread_over_q():
    ids = [bytes([at]) * 32 for at in range(200)]
    quantum = LENGTH // INTRA_DC.arbitration.bursts
    phases = []
    for one in ids:
        draw = phase_draw(b"us", one)
        assert draw == phase_draw(b"us", one)
        with scheduler(draw=draw) as sched:
            phases.append(sched.stats().phase)
    assert all(0 <= one < quantum for one in phases)
    for tenth in range(10):
        count = sum(1 for one in phases if one * 10 // quantum == tenth)
        assert 5 <= count <= 40
    assert phase_draw(b"ab", b"c") != phase_draw(b"a", b"bc")
    assert phase_draw(b"a", b"b") != phase_draw(b"b", b"a")


@pytest.mark.parametrize(("draw", "phase"), [(0, 0), (2**64 - 1, 3_124_999)])
def test_the_phase_is_less_than_a_quantum(draw, phase):
    with scheduler(draw=draw) as sched:
        assert sched.stats().phase == phase


# ECN.


def scales(sched, ratios):
    """Budgets of P1 and scales, slot by slot, after slots of these marks in a thousand."""
    slot = FIRST
    found = []
    for marks in ratios:
        if marks is not None:
            sched.mark(marks, 1000)
        slot = following(slot)
        sched.begin(slot)
        stats = sched.stats()
        found.append((stats.scale, stats.classes[1].budget))
    return found


@pytest.mark.parametrize(
    ("marks", "scale"),
    [(1000, 700), (20, 700), (19, 850), (10, 850), (9, 1000), (2, 1000), (1, 1000), (0, 1000)],
)
def test_the_next_slot_is_scaled_by_the_formula(marks, scale):
    with scheduler() as sched:
        assert scales(sched, [marks]) == [(scale, 2 * MIB * scale // 1000)]


def test_marks_of_two_per_cent_are_compared_exactly():
    for marked, total, scale in [(1, 50, 700), (2, 101, 850), (1, 100, 850), (1, 101, 1000)]:
        with scheduler() as sched:
            sched.mark(marked, total)
            sched.begin(following(FIRST))
            assert sched.stats().scale == scale


def test_sixteen_calm_slots_scale_by_98_per_cent():
    with scheduler() as sched:
        found = scales(sched, [1] * 18 + [2] + [0] * 16 + [30, 0])
    assert [scale for scale, _ in found] == (
        [1000] * 15 + [980] * 3 + [1000] + [1000] * 15 + [980] + [700, 1000]
    )
    assert all(budget == 2 * MIB * scale // 1000 for scale, budget in found)


def test_a_slot_of_which_nothing_is_known_is_not_scaled():
    with scheduler() as sched:
        found = scales(sched, [0] * 15 + [None] + [0] * 15 + [0])
    assert [scale for scale, _ in found] == [1000] * 31 + [980]


def test_slots_that_were_skipped_are_unknown():
    with scheduler() as sched:
        sched.mark(30, 1000)
        sched.begin(following(FIRST, by=3))
        assert (sched.stats().scale, sched.stats().calm) == (1000, 0)
        assert sched.stats().classes[1].budget == 2 * MIB


def test_budgets_are_clamped_to_floor_and_ceiling():
    p1 = replace(INTRA_DC.classes.p1, floor=1_900_000, ceiling=2 * MIB)
    with scheduler(with_classes(p1=p1)) as sched:
        assert [budget for _, budget in scales(sched, [30, 15, 5])] == [1_900_000] * 2 + [2 * MIB]
        sched.cap(1, 10 * MIB)
        sched.begin(Slot(2000, START + 1000 * LENGTH, LENGTH))
        assert sched.stats().classes[1].budget == 2 * MIB


def test_votes_are_never_scaled_down():
    with scheduler() as sched:
        sched.mark(1000, 1000)
        sched.begin(following(FIRST))
        assert sched.stats().classes[0].budget == 64 * KIB


def test_budgets_change_by_a_step_a_slot():
    profile = replace(INTRA_DC, ecn=replace(INTRA_DC.ecn, step_permille=100))
    with scheduler(profile) as sched:
        found = scales(sched, [30, 30, 30, 30, 5, 5, 5, 5])
    goals = [(900, 800, 700, 700), (800, 900, 1000, 1000)]
    for (_, budget), permille in zip(found, [one for row in goals for one in row], strict=True):
        assert abs(budget - 2 * MIB * permille // 1000) <= 4


def test_a_smaller_budget_takes_what_was_saved():
    with scheduler() as sched:
        sched.mark(30, 1000)
        sched.begin(following(FIRST))
        one = sched.stats().classes[1]
        assert one.credit == one.budget == 2 * MIB * 7 // 10


def test_more_marks_than_packets_are_refused():
    with scheduler() as sched:
        with pytest.raises(InvalidArgument):
            sched.mark(2, 1)
        sched.begin(following(FIRST))
        assert sched.stats().scale == 1000


# Bounds.


def test_a_full_queue_pushes_back_and_takes_more_later():
    p1 = replace(INTRA_DC.classes.p1, queue_packets=3)
    with scheduler(with_classes(p1=p1)) as sched:
        assert sched.push(START, offers(1, 5)) == [Verdict.TAKEN] * 3 + [Verdict.FULL] * 2
        assert sched.push(START, offers(2, 1)) == [Verdict.TAKEN]
        one = sched.stats().classes[1]
        assert (one.queued_packets, one.refused) == (3, 2)
        sched.run(START, START, most=1)
        assert sched.push(START, offers(1, 1)) == [Verdict.TAKEN]


def test_a_queue_is_bounded_in_bytes():
    p1 = replace(INTRA_DC.classes.p1, queue_bytes=PACKET_MAX)
    with scheduler(with_classes(p1=p1)) as sched:
        assert sched.push(START, offers(1, 2, PACKET_MAX)) == [Verdict.TAKEN, Verdict.FULL]
        assert sched.push(START, offers(1, 1, 1)) == [Verdict.FULL]
        assert sched.stats().classes[1].queued_bytes == PACKET_MAX


@pytest.mark.parametrize(
    ("cls", "ahead", "length", "verdict"),
    [
        (4, 0, 100, Verdict.INVALID),
        (255, 0, 100, Verdict.INVALID),
        (1, 0, 0, Verdict.INVALID),
        (1, 0, PACKET_MAX + 1, Verdict.INVALID),
        (1, 0, 2**32 - 1, Verdict.INVALID),
        (1, -1, 100, Verdict.LATE),
        (1, AHEAD + 1, 100, Verdict.EARLY),
        (1, 2**64 - 1 - FIRST.number, 100, Verdict.EARLY),
        (1, AHEAD, 100, Verdict.TAKEN),
    ],
)
def test_what_cannot_leave_is_told_at_once(cls, ahead, length, verdict):
    with scheduler() as sched:
        assert sched.push(START, [Offer(7, cls, FIRST.number + ahead, length)]) == [verdict]
        queued = sum(one.queued_packets for one in sched.stats().classes)
        assert queued == (verdict is Verdict.TAKEN)


@pytest.mark.parametrize("row", [(-1, 1, 5, 5), (2**64, 1, 5, 5), (1, 256, 5, 5), (1, 1, -1, 5)])
def test_numbers_without_a_place_are_the_callers_mistake(row):
    with scheduler() as sched:
        with pytest.raises(InvalidArgument):
            sched.push(START, [Offer(*row)])
        assert sched.next_at(START) is None


@pytest.mark.parametrize(
    "slot",
    [
        FIRST,
        Slot(FIRST.number - 1, FIRST.end, LENGTH),
        Slot(FIRST.number + 1, START, LENGTH),
        Slot(FIRST.number + 1, FIRST.end, MS - 1),
        Slot(FIRST.number + 1, FIRST.end, 8_000 * MS + 1),
        Slot(FIRST.number + 1, 2**62, LENGTH),
        Slot(FIRST.number + 1, -1, LENGTH),
        Slot(2**64, FIRST.end, LENGTH),
    ],
)
def test_a_slot_that_cannot_follow_is_refused(slot):
    with scheduler() as sched:
        before = sched.stats()
        with pytest.raises(InvalidArgument):
            sched.begin(slot)
        assert sched.stats() == before


def test_bounds_of_a_new_scheduler():
    for more in ({"draw": -1}, {"draw": 2**64}, {"line": -1}, {"line": 2**62 + 1}):
        with pytest.raises(InvalidArgument):
            Scheduler(INTRA_DC, FIRST, **more)
    with pytest.raises(InvalidArgument):
        Scheduler(INTRA_DC, Slot(1, START, 0))


def test_no_such_class_has_no_cap():
    with scheduler() as sched:
        for cls, credit in ((4, MIB), (-1, MIB), (1, -1), (1, 2**64)):
            with pytest.raises(InvalidArgument):
                sched.cap(cls, credit)


def test_a_closed_scheduler_is_the_callers_mistake():
    made = Scheduler(INTRA_DC, FIRST)
    made.close()
    made.close()
    with pytest.raises(InvalidArgument):
        made.stats()


def test_a_batch_that_is_cut_goes_on_where_it_stopped():
    batch = [*offers(0, 20, 300), *offers(1, 50), *offers(2, 50, 900, first=100)]
    with scheduler(line=TEN_GBE) as whole, scheduler(line=TEN_GBE) as cut:
        whole.push(START, batch)
        cut.push(START, batch)
        found = whole.run(START, FIRST.end, most=1000)
        pieces = []
        while piece := cut.run(START, FIRST.end, most=7):
            pieces += piece
    assert pieces == found
    assert len(found) == 120


# Shares by stake.


def test_caps_follow_stakes_between_floor_and_ceiling():
    caps = stake_caps(1000, {"a": 700, "b": 250, "c": 50, "d": 0}, floor=60, ceiling=600)
    # 120 are c's and d's floors; a is at the ceiling, b has the rest.
    assert caps == {"a": 600, "b": 280, "c": 60, "d": 60}


@given(
    stakes=st.lists(st.integers(0, 10**18), max_size=30),
    floor_=st.integers(0, 1000),
    span=st.integers(0, 100_000),
    spare=st.integers(0, 10**6),
)
def test_caps_use_the_total_and_never_more(stakes, floor_, span, spare):
    total, ceiling = floor_ * len(stakes) + spare, floor_ + span
    caps = stake_caps(total, dict(enumerate(stakes)), floor_, ceiling)
    assert all(floor_ <= cap <= ceiling for cap in caps.values())
    assert sum(caps.values()) <= total
    for a, one in caps.items():
        for b, other in caps.items():
            assert stakes[a] != stakes[b] or one == other
            assert stakes[a] <= stakes[b] or one >= other
    paid = sum(1 for stake in stakes if stake)
    full = sum(ceiling if stake else floor_ for stake in stakes)
    assert sum(caps.values()) >= min(total, full) - paid


@pytest.mark.parametrize(
    ("total", "stakes", "floor_", "ceiling", "field"),
    [
        (99, [1, 1], 50, 100, "total"),
        (100, [1, -1], 1, 100, "stakes"),
        (100, [1], 60, 59, "ceiling"),
        (100, [1], -1, 5, "ceiling"),
    ],
)
def test_caps_that_cannot_be(total, stakes, floor_, ceiling, field):
    with pytest.raises(InvalidArgument) as caught:
        stake_caps(total, dict(enumerate(stakes)), floor_, ceiling)
    assert caught.value.field == field
