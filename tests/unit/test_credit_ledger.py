# SPDX-License-Identifier: Apache-2.0
"""credit/ledger.py: a node never promises more room than it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.credit.ledger import Ledger
from assent.errors import InvalidArgument, LocalError, NotFound, ResourceExhausted


def test_reserving_takes_from_what_is_left():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    assert (ledger.promised, ledger.left, ledger.held("a")) == (60, 40, 60)


def test_more_than_is_left_is_refused_by_the_numbers_and_changes_nothing():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    with pytest.raises(ResourceExhausted, match="41 blocks of credit asked for, 40 of 100 left"):
        ledger.reserve("b", 41)
    assert (ledger.promised, ledger.held("b"), ledger.windows()) == (60, 0, {"a": 60})


def test_the_last_block_can_be_promised():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 100)
    assert ledger.left == 0


def test_a_key_holds_one_window():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 10)
    with pytest.raises(InvalidArgument, match="window_blocks"):
        ledger.reserve("a", 10)
    assert ledger.promised == 10


@pytest.mark.parametrize("blocks", [0, -1])
def test_an_empty_window_is_no_window(blocks: int):
    ledger: Ledger[str] = Ledger(100)
    with pytest.raises(InvalidArgument, match="window_blocks: needs at least 1 block"):
        ledger.reserve("a", blocks)
    assert ledger.windows() == {}


def test_widening_charges_the_difference_only():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    ledger.widen("a", 100)
    assert (ledger.promised, ledger.held("a")) == (100, 100)


def test_widening_beyond_what_is_left_keeps_the_old_window():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    ledger.reserve("b", 30)
    with pytest.raises(ResourceExhausted, match="11 blocks of credit asked for, 10 of 100 left"):
        ledger.widen("a", 71)
    assert (ledger.promised, ledger.held("a")) == (90, 60)


def test_a_window_is_not_narrowed():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    with pytest.raises(InvalidArgument, match="59 is less than the 60 promised"):
        ledger.widen("a", 59)
    assert ledger.held("a") == 60


def test_what_is_not_held_cannot_be_widened():
    with pytest.raises(NotFound):
        Ledger[str](100).widen("a", 1)


def test_releasing_gives_back_once():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    assert (ledger.release("a"), ledger.release("a")) == (60, 0)
    assert ledger.left == 100


def test_a_capacity_is_not_negative():
    with pytest.raises(InvalidArgument, match="capacity"):
        Ledger[str](-1)


def test_settling_replaces_everything_or_nothing():
    ledger: Ledger[str] = Ledger(100)
    ledger.reserve("a", 60)
    with pytest.raises(ResourceExhausted, match="101 blocks of credit asked for in all"):
        ledger.settle({"b": 50, "c": 51})
    with pytest.raises(InvalidArgument):
        ledger.settle({"b": 0})
    assert (ledger.promised, ledger.windows()) == (60, {"a": 60})
    ledger.settle({"b": 50, "c": 50})
    assert (ledger.promised, ledger.windows()) == (100, {"b": 50, "c": 50})


_step = st.tuples(
    st.sampled_from(["reserve", "widen", "release", "settle"]),
    st.integers(0, 4),
    st.integers(-5, 1200),
)


@given(capacity=st.integers(0, 1000), steps=st.lists(_step, max_size=60))
def test_no_sequence_of_operations_promises_more_than_there_is(
    capacity: int, steps: list[tuple[str, int, int]]
):
    """After every step, 0 <= promised <= capacity; the sum is right; a refusal changed nothing."""
    ledger: Ledger[int] = Ledger(capacity)
    model: dict[int, int] = {}
    for action, key, blocks in steps:
        before = (ledger.promised, ledger.windows())
        try:
            if action == "reserve":
                ledger.reserve(key, blocks)
                model[key] = blocks
            elif action == "widen":
                ledger.widen(key, blocks)
                model[key] = blocks
            elif action == "settle":
                ledger.settle({key: blocks, key + 1: blocks})
                model = {key: blocks, key + 1: blocks}
            else:
                assert ledger.release(key) == model.pop(key, 0)
        except LocalError:
            assert (
                ledger.promised,
                ledger.windows(),
            ) == before
        assert 0 <= ledger.promised <= ledger.capacity
        assert ledger.promised == sum(model.values())
        assert ledger.promised + ledger.left == capacity
