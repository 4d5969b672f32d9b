# SPDX-License-Identifier: Apache-2.0
"""The replay window as Python has it, against a model that forgets nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.replay import NO_CLOCK, SEQS, SLOTS, ReplayWindow
from assent.numiport.wire import Fault, NumiportError


def fault_of(window: ReplayWindow, slot: int, seq: int, latest: int = NO_CLOCK) -> Fault | None:
    """Takes a packet; `check` says the same before, and what is refused changes nothing."""
    before = (window.newest, window.occupancy())
    foretold = refusal(window.check, slot, seq, latest)
    assert (window.newest, window.occupancy()) == before
    found = refusal(window.take, slot, seq, latest)
    assert found is foretold
    if found:
        assert (window.newest, window.occupancy()) == before
    return found


def refusal(
    call: Callable[[int, int, int], None], slot: int, seq: int, latest: int
) -> Fault | None:
    try:
        call(slot, seq, latest)
    except NumiportError as refused:
        return refused.fault
    return None


@given(
    first=st.sampled_from([0, 1000, (1 << 32) - 10, (1 << 31) - 10, (1 << 63) - 10]),
    slots=st.integers(4, 9),
    packets=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(0, 30)), max_size=200
    ),
)
def test_it_says_what_the_model_says(
    first: int, slots: int, packets: list[tuple[int, int, int]]
) -> None:
    window = ReplayWindow(first, slots, 32)
    taken: set[tuple[int, int]] = set()
    newest = slots - 1
    for slot, seq, latest in packets:
        expected: Fault | None = None
        if slot > latest:
            expected = Fault.FUTURE_SLOT
        elif slot <= newest - slots:
            expected = Fault.STALE_SLOT
        elif seq >= 32 or (slot, seq) in taken:
            expected = Fault.REPLAY
        assert fault_of(window, first + slot, seq, first + latest) is expected
        if expected is None:
            taken.add((slot, seq))
            newest = max(newest, slot)
        assert window.newest == first + newest
    assert window.count(first + newest) == len([1 for slot, _ in taken if slot == newest])


@given(seed=st.integers(0, 1 << 32))
def test_within_w_slots_no_order_makes_a_packet_look_old(seed: int) -> None:
    window = ReplayWindow(97)
    packets = [(slot, seq) for slot in range(97, 97 + SLOTS) for seq in range(0, SEQS, 97)]
    random.Random(seed).shuffle(packets)
    for slot, seq in packets:
        window.take(slot, seq)
    assert window.occupancy() == len(packets)
    for slot, seq in packets:
        with pytest.raises(NumiportError) as refused:
            window.take(slot, seq)
        assert refused.value.kind == "replay"


def test_what_is_stale_stays_stale() -> None:
    window = ReplayWindow(97)
    assert fault_of(window, 96, 0) is Fault.STALE_SLOT
    assert fault_of(window, 97, 0) is None
    assert fault_of(window, 104, 0) is None
    for slot in range(101):
        assert fault_of(window, slot, 7) is Fault.STALE_SLOT
    assert window.count(97) == 0


def test_it_begins_where_it_is_told_to() -> None:
    for first in (0, 1, 1000, 1 << 32, NO_CLOCK - 3):
        window = ReplayWindow(first)
        if first:
            assert fault_of(window, first - 1, 0) is Fault.STALE_SLOT
        assert fault_of(window, first, 0) is None
        assert fault_of(window, first, 0) is Fault.REPLAY


@pytest.mark.parametrize(("slots", "seqs"), [(3, 64), (65, 64), (4, 16), (4, 63), (4, 1 << 17)])
def test_windows_that_there_are_not(slots: int, seqs: int) -> None:
    with pytest.raises(InvalidArgument):
        ReplayWindow(0, slots, seqs)
