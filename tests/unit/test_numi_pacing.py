# SPDX-License-Identifier: Apache-2.0
"""The guard's tuning, launch times, and the pacer without ETF."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.pacing import CLEAN_WINDOWS, GuardTuner, Launcher, SoftwarePacer
from assent.numiport.profiles import INTRA_DC, Guard
from assent.numiport.sched import Departure

US = 1_000
GUARD = INTRA_DC.guard


def play(tuner, needs, packets, seed=1, batch=50):
    """Launches packets whose lead must be at least what `needs` draws; returns (sent, late)."""
    random = Random(seed)
    sent = late = 0
    while sent < packets:
        dropped = sum(1 for _ in range(batch) if needs(random) > tuner.guard())
        tuner.record(batch, dropped)
        sent += batch
        late += dropped
    return sent, late


# The guard.


def test_two_late_in_a_thousand_lengthen_it_by_a_step_at_once():
    tuner = GuardTuner(GUARD)
    tuner.record(10, 1)
    assert tuner.tuned == 500 * US
    tuner.record(10, 1)
    assert tuner.tuned == 550 * US
    assert tuner.totals == (20, 2)


def test_one_late_in_a_thousand_is_the_target():
    tuner = GuardTuner(GUARD)
    for _ in range(40):
        tuner.record(999, 0)
        tuner.record(1, 1)
    assert tuner.tuned == 500 * US


def test_a_large_batch_is_held_to_its_own_size():
    tuner = GuardTuner(GUARD)
    tuner.record(10_000, 10)
    assert tuner.tuned == 500 * US
    tuner.record(10_000, 11)
    assert tuner.tuned == 550 * US


def test_clean_windows_shorten_it_by_a_step():
    tuner = GuardTuner(GUARD)
    for _ in range(CLEAN_WINDOWS - 1):
        tuner.record(1000, 0)
    assert tuner.tuned == 500 * US
    tuner.record(1000, 0)
    assert tuner.tuned == 450 * US


@pytest.mark.parametrize(("late", "bound"), [(0, 200 * US), (1000, 2000 * US)])
def test_it_stays_within_its_bounds(late, bound):
    tuner = GuardTuner(GUARD)
    seen = []
    for _ in range(300):
        before = tuner.tuned
        tuner.record(1000, late)
        assert abs(tuner.tuned - before) in (0, 50 * US)
        assert 200 * US <= tuner.tuned <= 2000 * US
        seen.append(tuner.tuned)
    assert seen[-1] == bound
    assert tuner.is_pinned == (bound == 2000 * US)


@pytest.mark.parametrize("need", [180, 300, 730, 1_210, 1_900])
def test_it_settles_where_the_target_is_met(need):
    """A host whose wake-ups take up to `need` us."""
    tuner = GuardTuner(GUARD)

    def needs(random):
        return random.randint(0, need * US)

    play(tuner, needs, 150_000)
    sent, late = play(tuner, needs, 300_000, seed=2)
    assert late * 1000 <= sent
    assert tuner.tuned <= max(200, need + 100) * US


def test_it_finds_out_that_a_host_became_quiet():
    tuner = GuardTuner(GUARD)
    play(tuner, lambda random: random.randint(0, 1_500 * US), 200_000)
    assert tuner.tuned >= 1_300 * US
    play(tuner, lambda random: random.randint(0, 100 * US), 600_000)
    assert tuner.tuned == 200 * US


def test_an_unsure_clock_widens_it_up_to_the_bound():
    tuner = GuardTuner(GUARD)
    assert tuner.guard(300 * US) == 800 * US
    assert tuner.guard(10**9) == 2000 * US
    assert tuner.guard(-5) == tuner.tuned == 500 * US


def test_other_targets_have_other_windows():
    tuner = GuardTuner(Guard(target_permille=3))
    tuner.record(300, 1)
    assert tuner.tuned == 500 * US
    tuner.record(10, 1)
    assert tuner.tuned == 550 * US


@pytest.mark.parametrize(("sent", "late", "field"), [(-1, 0, "sent"), (1, -1, "late")])
def test_negative_counts_are_the_callers_mistake(sent, late, field):
    tuner = GuardTuner(GUARD)
    with pytest.raises(InvalidArgument) as caught:
        tuner.record(sent, late)
    assert caught.value.field == field
    assert tuner.totals == (0, 0)


# Launch times.


def departures(times):
    return [Departure(at, time, 1, 100) for at, time in enumerate(times)]


def test_packets_have_their_lead_and_keep_their_times():
    made = Launcher().launch(departures([100, 900, 5000]), now=1000, guard=500)
    assert [one.time for one in made] == [1500, 1500, 5000]
    assert [one.handle for one in made] == [0, 1, 2]


def test_later_batches_are_never_launched_before_earlier_ones():
    launcher = Launcher()
    launcher.launch(departures([9000]), now=0, guard=10)
    assert [one.time for one in launcher.launch(departures([8000, 9500]), 100, 10)] == [9000, 9500]


def test_late_packets_are_not_launched():
    late = Departure(7, 50, 1, 100, is_late=True)
    assert Launcher().launch([late], now=0, guard=10) == []


# The pacer.


def test_packets_leave_at_their_times_and_not_before():
    pacer = SoftwarePacer()
    assert pacer.add("a", departures([10, 20, 30])) == 3
    assert pacer.next_at() == 10
    assert pacer.due(9) == []
    assert [one.handle for _, one in pacer.due(20)] == [0, 1]
    assert pacer.next_at() == 30


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=60),
    st.lists(st.integers(0, 80), max_size=20),
)
def test_order_to_a_peer_is_kept_and_times_are_held(packets, moments):
    pacer = SoftwarePacer(tolerance=0)
    for at, (peer, time) in enumerate(packets):
        pacer.add(peer, [Departure(at, time, 1, 100)])
    out = []
    for now in [*sorted(moments), 80]:
        while found := pacer.due(now, most=7):
            assert all(one.time <= now for _, one in found)
            out += found
    assert len(out) == len(packets)
    for peer in "abc":
        mine = [one.handle for to, one in out if to == peer]
        assert mine == sorted(mine)
    assert pacer.next_at() is None
    assert pacer.stats().waiting == 0


def test_peers_are_interleaved_by_time():
    pacer = SoftwarePacer()
    pacer.add("a", departures([10, 30]))
    pacer.add("b", departures([20, 40]))
    assert [peer for peer, _ in pacer.due(100)] == ["a", "b", "a", "b"]


def test_what_there_is_no_room_for_is_not_taken():
    pacer = SoftwarePacer(most=3)
    assert pacer.add("a", departures([1, 2])) == 2
    assert pacer.add("b", departures([1, 2])) == 1
    assert pacer.add("b", departures([1])) == 0
    assert pacer.stats().waiting == 3
    pacer.due(1, most=1)
    assert pacer.add("b", departures([1])) == 1


def test_overruns_are_counted():
    pacer = SoftwarePacer(tolerance=100)
    pacer.add("a", departures([10, 1000, 2000]))
    pacer.due(110)
    assert pacer.stats().overruns == 0
    pacer.due(1101)
    stats = pacer.stats()
    assert (stats.overruns, stats.worst_ns, stats.released) == (1, 101, 2)


@pytest.mark.parametrize(("most", "tolerance"), [(0, 0), (1, -1)])
def test_a_pacer_without_bounds_is_refused(most, tolerance):
    with pytest.raises(InvalidArgument):
        SoftwarePacer(most, tolerance)
