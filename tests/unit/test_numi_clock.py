# SPDX-License-Identifier: Apache-2.0
"""The slot clock: a line through beacons, some of which are wrong."""

from __future__ import annotations

from random import Random

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.clock import DOUBTED, KEPT, LOCKED_AFTER, Beacon, Slot, SlotClock
from assent.numiport.profiles import INTRA_DC, SLOT_MOST
from assent.numiport.wire import Fault, NumiportError

MS = 1_000_000
TAI = 1_700_000_000_000_000_000
LENGTH = 412 * MS
SLOTS = INTRA_DC.slots


class Chain:
    """Slots as they truly are, and beacons of their leaders."""

    def __init__(self, length=LENGTH, seed=1):
        self.length = length
        self.random = Random(seed)

    def start(self, slot):
        return TAI + slot * self.length

    def beacon(self, clock, slot, jitter=0, lie=0, path=0):
        """Shows the clock a beacon sent somewhere in the slot."""
        elapsed = self.random.randint(0, 100 * MS)
        delay = path + (self.random.randint(0, jitter) if jitter else 0)
        arrived = self.start(slot) + elapsed + delay
        return clock.observe(Beacon(slot, elapsed + lie), arrived, path)

    def error(self, clock, slot):
        return abs(clock.slot(slot).start - self.start(slot))


def made(guess=0):
    return SlotClock(SLOTS, Slot(guess, TAI + 77 * MS, 400 * MS))


# Beacons.


def test_a_beacon_is_a_small_cbor_map():
    beacon = Beacon(300_000_000, 123_456)
    assert cbor2.loads(beacon.encode()) == {"e": 123_456, "s": 300_000_000}
    assert len(Beacon(2**64 - 1, SLOT_MOST).encode()) <= 24
    assert Beacon.decode(beacon.encode()) == beacon


@given(st.integers(0, 2**64 - 1), st.integers(0, SLOT_MOST))
def test_any_beacon_is_read_as_it_was_written(slot, elapsed):
    beacon = Beacon(slot, elapsed)
    assert Beacon.decode(beacon.encode()) == beacon


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "is CBOR"),
        (b"\xff", "is CBOR"),
        (bytes(65), "is CBOR"),
        (cbor2.dumps([1, 2]), "is a map"),
        (cbor2.dumps({"e": 1}), "is a map"),
        (cbor2.dumps({"e": 1, "s": 2, "x": 3}), "is a map"),
        (cbor2.dumps({"s": 2, "e": 1}), "is CBOR"),
        (cbor2.dumps({"e": 1, "s": True}), "whole numbers"),
        (cbor2.dumps({"e": 1, "s": "2"}), "whole numbers"),
        (cbor2.dumps({"e": None, "s": 2}), "whole numbers"),
        (cbor2.dumps({"e": -1, "s": 2}), "elapsed"),
        (cbor2.dumps({"e": SLOT_MOST + 1, "s": 2}), "elapsed"),
        (cbor2.dumps({"e": 1, "s": -1}), "slot"),
    ],
)
def test_what_is_no_beacon_is_the_peers_mistake(payload, problem):
    with pytest.raises(NumiportError) as caught:
        Beacon.decode(payload)
    assert caught.value.fault is Fault.MALFORMED
    assert problem in str(caught.value)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_beacon_or_refused(payload):
    try:
        beacon = Beacon.decode(payload)
    except NumiportError:
        return
    assert beacon.encode() == payload


@pytest.mark.parametrize(
    ("slot", "elapsed", "field"),
    [(-1, 0, "slot"), (2**64, 0, "slot"), (0, -1, "elapsed"), (0, SLOT_MOST + 1, "elapsed")],
)
def test_a_beacon_that_cannot_be_is_the_callers_mistake(slot, elapsed, field):
    with pytest.raises(InvalidArgument) as caught:
        Beacon(slot, elapsed)
    assert caught.value.field == field


# The line.


def test_it_is_exact_where_beacons_are():
    clock, chain = made(), Chain()
    for slot in range(100, 110):
        assert chain.beacon(clock, slot)
    assert clock.slot(109) == Slot(109, chain.start(109), LENGTH)
    assert chain.error(clock, 209) <= 1
    assert clock.uncertainty(chain.start(109)) == 0


def test_before_any_beacon_there_is_the_guess_and_no_trust_in_it():
    clock = made(7)
    assert clock.slot_at(TAI + 77 * MS) == Slot(7, TAI + 77 * MS, 400 * MS)
    assert not clock.is_locked
    assert clock.uncertainty(TAI) == 400 * MS


def test_the_first_beacon_moves_the_guess_and_some_more_lock_it():
    clock, chain = made(), Chain()
    for count in range(1, LOCKED_AFTER + 1):
        chain.beacon(clock, 100 + count)
        assert clock.slot_at(chain.start(100 + count) + MS).number == 100 + count
        assert clock.is_locked == (count == LOCKED_AFTER)


def test_the_known_part_of_the_way_is_taken_off():
    clock, chain = made(), Chain()
    for slot in range(10):
        chain.beacon(clock, slot, path=30 * MS)
    assert chain.error(clock, 10) <= 1


@pytest.mark.parametrize("jitter", [100_000, 2 * MS, 20 * MS])
def test_jitter_widens_the_uncertainty_and_the_truth_is_within(jitter):
    clock, chain = made(), Chain()
    for slot in range(0, 200, 2):
        chain.beacon(clock, slot, jitter)
    near = clock.uncertainty(chain.start(200))
    # Jitter is never negative, so the line lies about half of it after the truth.
    assert chain.error(clock, 200) <= near
    assert jitter // 4 <= near <= 3 * jitter


def test_silence_widens_the_uncertainty_up_to_a_slot():
    clock, chain = made(), Chain()
    for slot in range(40):
        chain.beacon(clock, slot, jitter=MS)
    spans = [clock.uncertainty(chain.start(40) + at * 1000 * MS) for at in range(0, 4000, 100)]
    assert spans == sorted(spans)
    assert spans[1] - spans[0] == 100_000 * MS * SLOTS.drift_ppm // 1_000_000
    assert spans[-1] == clock.slot(40).length


def test_slots_that_grow_longer_are_followed():
    clock, at = made(), TAI
    for slot in range(200):
        length = 400 * MS + min(slot, 100) * MS
        clock.observe(Beacon(slot, 5), at + 5)
        at += length
    assert abs(clock.slot(200).start - at) <= MS
    assert abs(clock.slot(200).length - 500 * MS) <= MS // 100
    assert clock.stats().restarts == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(-600 * MS, 600 * MS),
    st.integers(300 * MS, 700 * MS),
)
def test_liars_do_not_move_it(seed, lie, length):
    """Every sixth leader lies, always the same way, once some honest ones have been heard."""
    clock, chain = made(), Chain(length, seed)
    for slot in range(120):
        wrong = lie if slot > 8 and slot % 6 == 0 else 0
        arrived = chain.start(slot) + 600 * MS + chain.random.randint(0, MS)
        clock.observe(Beacon(slot, 600 * MS + wrong), arrived)
    assert chain.error(clock, 120) <= 2 * MS
    assert abs(clock.slot(120).length - length) <= MS // 10


def test_an_outlier_is_counted_and_changes_nothing():
    clock, chain = made(), Chain()
    for slot in range(10):
        chain.beacon(clock, slot)
    before = clock.slot(20), clock.uncertainty(chain.start(10))
    assert not chain.beacon(clock, 11, lie=150 * MS)
    assert (clock.slot(20), clock.uncertainty(chain.start(10))) == before
    assert clock.stats().outliers == 1


def test_a_slot_far_away_is_an_outlier():
    clock, chain = made(), Chain()
    for slot in range(10):
        chain.beacon(clock, slot)
    before = clock.slot(10)
    assert not clock.observe(Beacon(2**64 - 1, 0), chain.start(10))
    assert clock.slot(10) == before


def test_a_slot_is_told_of_once():
    clock, chain = made(), Chain()
    for slot in range(5):
        chain.beacon(clock, slot)
    before = clock.slot(5)
    assert not chain.beacon(clock, 4, lie=MS)
    assert clock.slot(5) == before
    assert clock.stats().repeated == 1


def test_it_begins_anew_where_all_beacons_say_so():
    clock, chain = made(), Chain()
    for slot in range(KEPT):
        chain.beacon(clock, slot)
    later = Chain()
    later.start = lambda slot: chain.start(slot) + 130 * MS
    for slot in range(KEPT, KEPT + DOUBTED - 1):
        assert not later.beacon(clock, slot)
        assert chain.error(clock, slot) <= 1
    later.beacon(clock, KEPT + DOUBTED)
    assert later.error(clock, 100) <= 1
    assert clock.stats().restarts == 1


def test_outliers_that_do_not_agree_give_nothing_up():
    clock, chain = made(), Chain()
    for slot in range(KEPT):
        chain.beacon(clock, slot)
    before = clock.slot(100)
    for slot in range(KEPT, KEPT + 3 * DOUBTED):
        elapsed = chain.random.randint(0, SLOT_MOST)
        clock.observe(Beacon(slot, elapsed), chain.start(slot) - 7000 * MS)
    assert clock.slot(100) == before
    assert clock.stats().restarts == 0


def test_lengths_that_no_slot_has_are_not_believed():
    clock = made()
    for slot in range(20):
        clock.observe(Beacon(slot, 0), TAI + slot * 100 * MS)
    assert clock.slot(20).length == SLOTS.least_ns


@given(st.integers(-(10**12), 10**13))
def test_every_moment_lies_in_its_slot(shift):
    clock, chain = made(), Chain(412_345_679)
    for slot in range(50, 60):
        chain.beacon(clock, slot, jitter=MS)
    found = clock.slot_at(TAI + shift)
    assert found.number == 0 or found.start <= TAI + shift
    assert TAI + shift < found.end
    assert found == clock.slot(found.number)
    assert found.end == clock.slot(found.number + 1).start


def test_the_same_beacons_make_the_same_line():
    lines = []
    for _ in range(2):
        clock, chain = made(), Chain(seed=5)
        for slot in range(50):
            chain.beacon(clock, slot, jitter=3 * MS)
        lines.append((clock.slot(60), clock.uncertainty(chain.start(60)), clock.stats()))
    assert lines[0] == lines[1]
