# SPDX-License-Identifier: Apache-2.0
"""Groups of shreds: what is lost is given back, and what is kept is bounded."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.fec import (
    SHRED_MAX,
    TOTAL_MAX,
    GroupKey,
    Groups,
    Shape,
    encode,
    recover,
)
from assent.numiport.wire import Fault, NumiportError

KEY = GroupKey(slot=100, first=0)


def made(shape: Shape, length: int, seed: int = 1) -> list[bytes]:
    draw = random.Random(seed)
    data = [draw.randbytes(length) for _ in range(shape.data)]
    return data + encode(shape, data)


@given(
    data=st.integers(1, 40),
    coding=st.integers(1, 40),
    length=st.integers(1, 1300),
    seed=st.integers(0, 1 << 32),
)
def test_any_as_many_as_there_are_data_give_back_all(
    data: int, coding: int, length: int, seed: int
) -> None:
    shape = Shape(data, coding)
    shreds = made(shape, length, seed)
    assert all(len(shred) == length for shred in shreds)
    chosen = random.Random(seed).sample(range(shape.total), data)
    assert recover(shape, {index: shreds[index] for index in chosen}) == shreds[:data]


def test_every_choice_of_a_small_group() -> None:
    shape = Shape(4, 3)
    shreds = made(shape, 33)
    for count in range(4, 8):
        for chosen in itertools.combinations(range(7), count):
            assert recover(shape, {index: shreds[index] for index in chosen}) == shreds[:4]


def times(a: int, b: int) -> int:
    """In GF(2^8) modulo 0x11d."""
    product = 0
    while b:
        product ^= a * (b & 1)
        a = (a << 1) ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


@pytest.mark.parametrize(("data", "coding"), [(3, 2), (1, 1), (32, 32), (64, 64)])
def test_the_code_is_the_one_that_the_document_names(data: int, coding: int) -> None:
    """Two hosts, whatever their libraries: coding shred r has d_j / ((data + r) ^ j), summed up."""
    inverse = {a: b for a in range(1, 256) for b in range(1, 256) if times(a, b) == 1}
    shreds = made(Shape(data, coding), 3)
    for row in range(coding):
        expected = bytearray(3)
        for column in range(data):
            factor = inverse[(data + row) ^ column]
            for at in range(3):
                expected[at] ^= times(factor, shreds[column][at])
        assert shreds[data + row] == bytes(expected)


@pytest.mark.parametrize(
    ("total", "permille", "shape"),
    [
        (64, 500, (32, 32)),
        (2, 500, (1, 1)),
        (3, 500, (2, 1)),
        (2, 1, (1, 1)),
        (128, 500, (64, 64)),
        (96, 333, (65, 31)),
        (2, 999, (1, 1)),
    ],
)
def test_the_shape_follows_from_the_total(
    total: int, permille: int, shape: tuple[int, int]
) -> None:
    found = Shape.of_total(total, permille)
    assert (found.data, found.coding, found.total) == (*shape, total)


@pytest.mark.parametrize("total", [0, 1, TOTAL_MAX + 1, 65535])
def test_totals_that_make_no_group(total: int) -> None:
    with pytest.raises(InvalidArgument):
        Shape.of_total(total)


@pytest.mark.parametrize(
    "data", [[], [b"ab"], [b"ab"] * 3, [b"ab", b"abc"], [b"", b""], [bytes(SHRED_MAX + 1)] * 2]
)
def test_data_that_make_no_group(data: list[bytes]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        encode(Shape(2, 2), data)
    assert refused.value.field == "data"


@pytest.mark.parametrize(
    "present",
    [
        {},
        {0: b"ab"},
        {0: b"ab", 4: b"cd"},
        {-1: b"ab", 2: b"cd"},
        {0: b"ab", 2: b"cde"},
        {1: b"", 2: b""},
    ],
)
def test_shreds_that_give_nothing_back(present: dict[int, bytes]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        recover(Shape(2, 2), present)
    assert refused.value.field == "present"


@given(seed=st.integers(0, 1 << 32), lost=st.integers(0, 32))
def test_a_group_in_any_order_with_losses_and_repeats(seed: int, lost: int) -> None:
    shape = Shape(32, 32)
    shreds = made(shape, 64, seed)
    draw = random.Random(seed)
    order = list(range(64))
    draw.shuffle(order)
    arriving = order[lost:]
    arriving += draw.choices(arriving, k=10)
    draw.shuffle(arriving)
    groups = Groups()
    seen: set[int] = set()
    for index in arriving:
        fresh = index not in seen
        seen.add(index)
        recovered = groups.add(KEY, 64, index, shreds[index])
        assert (recovered is not None) == (fresh and len(seen) == 32)
        if recovered is not None:
            assert recovered == {i: shreds[i] for i in range(32) if i not in seen}
            assert groups.bytes_held == 0
    assert groups.is_complete(KEY)
    assert groups.counts.complete == 1


def test_what_is_missing_is_no_more_than_what_is_needed() -> None:
    groups = Groups()
    shreds = made(Shape(4, 4), 10)
    for index in (0, 5, 6):
        groups.add(KEY, 8, index, shreds[index])
    other = GroupKey(100, 8)
    groups.add(other, 8, 3, shreds[3])
    groups.add(GroupKey(101, 0), 8, 3, shreds[3])
    assert list(groups.missing(100)) == [(KEY, 1), (other, 0), (other, 1), (other, 2)]
    assert groups.add(KEY, 8, 2, shreds[2]) == {1: shreds[1], 3: shreds[3]}
    assert [key for key, _ in groups.missing(100)] == [other] * 3
    assert list(groups.missing(99)) == []


@pytest.mark.parametrize(
    ("total", "index", "shred"),
    [
        (0, 0, b"ab"),
        (1, 0, b"ab"),
        (TOTAL_MAX + 1, 0, b"ab"),
        (8, 8, b"ab"),
        (8, -1, b"ab"),
        (8, 1, b""),
        (8, 1, b"abc"),
        (10, 1, b"ab"),
    ],
)
def test_shreds_that_contradict_their_group(total: int, index: int, shred: bytes) -> None:
    groups = Groups()
    assert groups.add(KEY, 8, 0, b"ab") is None
    with pytest.raises(NumiportError) as refused:
        groups.add(KEY, total, index, shred)
    assert refused.value.fault is Fault.MALFORMED
    assert (len(groups), groups.bytes_held) == (1, 2)
    assert [index for _, index in groups.missing(100)] == [1, 2, 3]


def test_a_complete_group_does_not_begin_again() -> None:
    groups = Groups()
    shreds = made(Shape(1, 1), 10)
    assert groups.add(KEY, 2, 1, shreds[1]) == {0: shreds[0]}
    assert groups.add(KEY, 2, 0, shreds[0]) is None
    with pytest.raises(NumiportError):
        groups.add(KEY, 4, 0, shreds[0])
    assert (len(groups), groups.counts.duplicates, groups.counts.complete) == (1, 1, 1)


def test_the_oldest_slot_makes_room() -> None:
    groups = Groups(most_groups=3)
    for slot in (10, 11, 12):
        groups.add(GroupKey(slot, 0), 4, 0, b"ab")
    assert groups.add(GroupKey(9, 0), 4, 0, b"ab") is None
    assert groups.counts.refused == 1
    groups.add(GroupKey(12, 4), 4, 0, b"ab")
    assert (len(groups), groups.counts.evicted, groups.bytes_held) == (3, 1, 6)
    assert list(groups.missing(10)) == []
    groups.add(GroupKey(10, 0), 4, 1, b"ab")
    assert (len(groups), groups.counts.refused) == (3, 2)
    groups.add(GroupKey(12, 8), 4, 0, b"ab")
    groups.add(GroupKey(12, 12), 4, 0, b"ab")
    assert (len(groups), groups.counts.evicted, groups.counts.refused) == (3, 2, 3)


def test_bytes_are_bounded() -> None:
    most = TOTAL_MAX * SHRED_MAX
    groups = Groups(most_bytes=most)
    for first in range(0, 400, 4):
        for index in range(1):
            groups.add(GroupKey(5, first), 4, index, bytes(SHRED_MAX))
        assert groups.bytes_held <= most
    for first in range(0, 400, 4):
        groups.add(GroupKey(6, first), 4, 0, bytes(SHRED_MAX))
        assert groups.bytes_held <= most
    assert groups.counts.evicted > 0


def test_forgotten_slots_stay_forgotten() -> None:
    groups = Groups()
    shreds = made(Shape(1, 1), 10)
    groups.add(GroupKey(7, 0), 2, 0, shreds[0])
    groups.add(GroupKey(8, 0), 4, 0, shreds[0])
    groups.add(GroupKey(9, 0), 4, 0, shreds[0])
    groups.forget_before(9)
    groups.forget_before(3)
    assert (len(groups), groups.bytes_held) == (1, 10)
    assert groups.add(GroupKey(7, 0), 2, 0, shreds[0]) is None
    assert len(groups) == 1


@pytest.mark.parametrize(
    "bounds", [{"coding_permille": 0}, {"coding_permille": 1000}, {"most_groups": 0},
               {"most_bytes": 1}]
)  # fmt: skip
def test_bounds_that_leave_no_room(bounds: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        Groups(**bounds)
