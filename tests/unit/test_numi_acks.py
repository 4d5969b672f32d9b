# SPDX-License-Identifier: Apache-2.0
"""Receipts: when they are due, what they say, what is asked for and what is sent again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.acks import SEQS_MAX, WATCHED_MAX, Receiver, Sender, Summary
from assent.numiport.profiles import Reliability
from assent.numiport.wire import AckRange, Class, Stream, Tlvs

MS = 1_000_000
SLOT = 400 * MS
START = 1_000 * SLOT
"""Of slot 1000, whose times these are."""
END = START + SLOT


def noted(seqs: list[int], slot: int = 1000, now: int = START) -> Receiver:
    receiver = Receiver()
    for seq in seqs:
        receiver.note(slot, Stream.SHRED, seq, now)
    return receiver


def numbers(ranges: tuple[AckRange, ...]) -> set[int]:
    return {seq for one in ranges for seq in range(one.start, one.end)}


def sent(sender: Sender, seq: int, cls: Class = Class.P1, **more: int) -> bool:
    how = {"slot": 1000, "size": 1300, "now": START, "handle": seq, "length": SLOT} | more
    stream = Stream.VOTE if cls is Class.P0 else Stream.SHRED
    return sender.sent(
        how["slot"],
        stream,
        seq,
        cls=cls,
        size=how["size"],
        slot_length=how["length"],
        now=how["now"],
        handle=how["handle"],
    )


# -- the receiver ---------------------------------------------------------------------------------


def test_a_receipt_is_due_after_sixteen_packets() -> None:
    receiver = Receiver()
    for seq in range(16):
        assert receiver.due(START + seq) is None
        receiver.note(1000, Stream.SHRED, seq, START + seq)
    assert receiver.due(START + 15) == (1000, Stream.SHRED)
    assert receiver.write(1000, Stream.SHRED) == (AckRange(0, 16),)
    assert receiver.due(START + SLOT) is None
    assert receiver.next_deadline() is None


def test_or_five_milliseconds_after_the_first() -> None:
    receiver = noted([0, 1])
    receiver.note(1000, Stream.VOTE, 9, START + 2 * MS)
    assert receiver.next_deadline() == START + 5 * MS
    assert receiver.due(START + 5 * MS - 1) is None
    assert receiver.due(START + 7 * MS) == (1000, Stream.SHRED)
    receiver.write(1000, Stream.SHRED)
    assert receiver.next_deadline() == START + 7 * MS
    assert receiver.due(START + 7 * MS) == (1000, Stream.VOTE)


def test_receipts_call_for_none() -> None:
    receiver = Receiver()
    for seq in range(40):
        assert receiver.note(1000, Stream.SHRED, seq, START, calls_for_receipt=False)
    assert receiver.next_deadline() is None
    receiver.note(1000, Stream.SHRED, 40, START)
    assert receiver.write(1000, Stream.SHRED) == (AckRange(0, 41),)


@given(st.lists(st.integers(0, 90), max_size=120))
def test_it_says_nothing_but_what_arrived_and_the_newest_of_that(seqs: list[int]) -> None:
    ranges = noted(seqs).write(1000, Stream.SHRED)
    Tlvs(ack_rle=ranges)
    told = numbers(ranges)
    assert told <= set(seqs)
    assert all(a.end < b.start for a, b in itertools.pairwise(ranges))
    runs = [seq for seq in sorted(set(seqs)) if seq - 1 not in seqs]
    if len(runs) <= 16:
        assert told == set(seqs)
    else:
        assert len(ranges) == 16
        assert max(seqs) in told


def test_of_too_many_ranges_the_highest_are_told() -> None:
    ranges = noted(list(range(0, 200, 2))).write(1000, Stream.SHRED)
    assert [one.start for one in ranges] == list(range(168, 200, 2))
    ranges = noted(list(range(198, -1, -2))).write(1000, Stream.SHRED)
    assert [one.start for one in ranges] == list(range(168, 200, 2))


def test_the_ends_of_the_numbers() -> None:
    receiver = noted([65535, 65534, 0])
    assert not receiver.note(1000, Stream.SHRED, 65536, START)
    assert receiver.write(1000, Stream.SHRED) == (AckRange(0, 1), AckRange(65534, 2))


def test_a_slot_as_full_as_can_be() -> None:
    assert noted(list(range(SEQS_MAX))).write(1000, Stream.SHRED) == (AckRange(0, 65535),)


def test_slots_and_streams_are_kept_apart() -> None:
    receiver = Receiver()
    for slot in range(1000, 1004):
        for stream in Stream:
            receiver.note(slot, stream, slot - 1000 + stream, START)
    for slot in range(1000, 1004):
        for stream in Stream:
            assert receiver.write(slot, stream) == (AckRange(slot - 1000 + stream, 1),)


def test_a_new_slot_takes_the_place_of_an_old_one() -> None:
    receiver = noted([1])
    assert receiver.note(1004, Stream.SHRED, 2, START)
    assert not receiver.note(1000, Stream.SHRED, 3, START)
    assert receiver.write(1000, Stream.SHRED) == ()
    assert receiver.write(1004, Stream.SHRED) == (AckRange(2, 1),)


# -- what is asked for ----------------------------------------------------------------------------


def test_missing_numbers_are_asked_for_once_and_late_in_the_slot() -> None:
    receiver = noted([0, 2, 5, 30])
    ask = (1000, Stream.SHRED, Class.P1, END)
    assert receiver.missing(*ask, END - 10 * MS - 1) == ()
    assert receiver.missing(*ask, END) == ()
    assert receiver.missing(*ask, END - 10 * MS) == (1, 3, 4, 6, 7, 8, 9, 10)
    assert receiver.missing(*ask, END - 9 * MS) == tuple(range(11, 19))
    receiver.note(1000, Stream.SHRED, 20, END - 8 * MS)
    assert receiver.missing(*ask, END - 8 * MS) == (19, *range(21, 28))
    assert receiver.missing(*ask, END - 8 * MS) == (28, 29)
    assert receiver.missing(*ask, END - 8 * MS) == ()


@pytest.mark.parametrize("cls", [Class.P2, Class.P3])
def test_nothing_is_asked_for_of_other_classes(cls: Class) -> None:
    assert noted([0, 2]).missing(1000, Stream.SHRED, cls, END, END - MS) == ()


def test_nothing_is_asked_for_that_arrived_and_was_forgotten() -> None:
    receiver = noted(list(range(0, 200, 2)))
    asked: list[int] = []
    while some := receiver.missing(1000, Stream.SHRED, Class.P1, END, END - MS):
        asked += some
    assert asked == list(range(135, 199, 2))


@given(st.lists(st.integers(0, 60), max_size=60))
def test_what_is_asked_for_is_missing(seqs: list[int]) -> None:
    receiver = noted(seqs)
    asked: list[int] = []
    while some := receiver.missing(1000, Stream.SHRED, Class.P1, END, END - MS):
        assert len(some) <= 8
        asked += some
    assert asked == sorted(set(asked))
    assert not set(asked) & set(seqs)
    runs = [seq for seq in set(seqs) if seq - 1 not in seqs]
    if len(runs) <= 32:
        assert asked == [seq for seq in range(max(seqs, default=0)) if seq not in seqs]


# -- the sender -----------------------------------------------------------------------------------


@given(
    out=st.sets(st.integers(0, 255), max_size=100),
    receipts=st.lists(
        st.lists(st.integers(0, 400), max_size=32, unique=True).map(
            lambda marks: [
                AckRange(a, b - a)
                for a, b in zip(sorted(marks)[::2], sorted(marks)[1::2], strict=False)
            ]
        ),
        max_size=5,
    ),
)
def test_receipts_count_once_and_only_what_was_sent(
    out: set[int], receipts: list[list[AckRange]]
) -> None:
    sender = Sender(seqs=256)
    for seq in out:
        assert sent(sender, seq, size=seq + 100)
    acked: set[int] = set()
    unsent = 0
    for ranges in receipts:
        told = numbers(tuple(ranges))
        assert sender.acked(1000, Stream.SHRED, ranges) == (len((told & out) - acked) if out else 0)
        acked |= told & out
        unsent += len(told - out) if out else 0
    assert sender.counts.unsent == unsent
    summary = sender.summary(1000, Stream.SHRED)
    if not out:
        assert summary is None
        return
    assert summary == Summary(
        len(out),
        len(acked),
        max((seq + 100 for seq in acked), default=0),
        max((seq + 100 for seq in out - acked), default=0),
    )
    assert summary.lost_permille == (len(out) - len(acked)) * 1000 // len(out)


def test_a_vote_is_sent_again_once_after_twenty_milliseconds() -> None:
    sender = Sender()
    sent(sender, 3, Class.P0, handle=77)
    assert sender.next_deadline() == START + 20 * MS
    assert sender.resend(START + 20 * MS - 1) == ()
    assert sender.resend(START + 20 * MS) == (77,)
    assert sender.resend(START + SLOT) == ()
    assert sender.next_deadline() is None
    assert sender.counts.resent == 1


def test_or_after_an_eighth_of_a_short_slot() -> None:
    sender = Sender()
    sent(sender, 3, Class.P0, length=80 * MS)
    assert sender.next_deadline() == START + 10 * MS


def test_a_vote_that_arrived_is_not_sent_again() -> None:
    sender = Sender()
    for seq in range(4):
        sent(sender, seq, Class.P0)
    assert sender.acked(1000, Stream.VOTE, [AckRange(1, 2)]) == 2
    assert sender.acked(1000, Stream.SHRED, [AckRange(0, 4)]) == 0
    assert sender.acked(999, Stream.VOTE, [AckRange(0, 4)]) == 0
    assert sorted(sender.resend(START + 20 * MS)) == [0, 3]


@pytest.mark.parametrize("cls", [Class.P1, Class.P2, Class.P3])
def test_nothing_else_is_sent_again(cls: Class) -> None:
    sender = Sender()
    sent(sender, 3, cls)
    assert sender.next_deadline() is None
    assert sender.resend(START + 10 * SLOT) == ()


def nacked(sender: Sender, seqs: list[int], cls: Class = Class.P0, **more: int) -> int:
    how = {"slot": 1000, "slack": 5 * MS, "now": END - 5 * MS} | more
    stream = Stream.VOTE if cls is Class.P0 else Stream.SHRED
    return sender.nacked(
        how["slot"], stream, cls, seqs, slot_end=END, slack=how["slack"], now=how["now"]
    )


def test_a_vote_that_is_asked_for_goes_at_once_and_no_third_time() -> None:
    sender = Sender()
    sent(sender, 3, Class.P0, now=END - 7 * MS)
    assert nacked(sender, [3]) == 1
    assert sender.resend(END - 5 * MS) == (3,)
    assert nacked(sender, [3], now=END - 4 * MS) == 1
    assert sender.resend(END + SLOT) == ()
    assert sender.counts.resent == 1


@pytest.mark.parametrize(
    ("seqs", "more"),
    [
        ([4], {}),
        ([65536], {}),
        ([1 << 31], {}),
        ([3] * 9, {}),
        ([3], {"now": END - 10 * MS - 1}),
        ([3], {"now": END + 5 * MS}),
        ([3], {"slot": 999}),
    ],
)
def test_what_is_asked_for_out_of_order_is_not_heeded(
    seqs: list[int], more: dict[str, int]
) -> None:
    sender = Sender()
    sent(sender, 3, Class.P0, now=END - MS)
    assert nacked(sender, seqs, Class.P0, **more) == 0
    assert (sender.counts.nacked, sender.counts.nacks_unheeded) == (0, len(seqs))
    assert sender.resend(END - MS) == ()


def test_a_shred_that_is_asked_for_is_not_sent_again_in_its_slot() -> None:
    sender = Sender()
    sent(sender, 3, Class.P1)
    assert nacked(sender, [3], Class.P1) == 1
    assert sender.resend(END + SLOT) == ()


def test_nacks_of_other_classes_are_not_heeded() -> None:
    sender = Sender()
    sent(sender, 3, Class.P2)
    assert nacked(sender, [3], Class.P2) == 0
    assert sender.counts.nacks_unheeded == 1


def test_what_waits_for_a_receipt_is_bounded() -> None:
    sender = Sender()
    for seq in range(WATCHED_MAX + 10):
        sent(sender, seq, Class.P0, now=START + seq)
    assert sender.counts.unwatched == 10
    again: list[int] = []
    while some := sender.resend(END):
        again += some
    assert again == list(range(10, WATCHED_MAX + 10))


@pytest.mark.parametrize("more", [{"size": 65536}, {"slot": 996}])
def test_what_no_books_are_kept_of(more: dict[str, int]) -> None:
    sender = Sender()
    assert sent(sender, 1)
    assert not sent(sender, 3, Class.P1, **more)
    assert not sent(sender, 4096)
    assert sender.summary(1000, Stream.SHRED) == Summary(1, 0, 0, 1300)


def test_a_new_slot_begins_empty() -> None:
    sender = Sender()
    sent(sender, 1)
    sender.acked(1000, Stream.SHRED, [AckRange(1, 1)])
    assert sent(sender, 2, slot=1004)
    assert sender.summary(1000, Stream.SHRED) is None
    assert sender.summary(1004, Stream.SHRED) == Summary(1, 0, 0, 1300)
    assert sender.acked(1000, Stream.SHRED, [AckRange(1, 1)]) == 0


def test_settings_are_heeded() -> None:
    settings = replace(Reliability(), ack_packets=2, ack_bytes=4, nack_entries=1, replay_slots=64)
    receiver = Receiver(settings)
    for seq in (1, 3):
        receiver.note(1000, Stream.SHRED, seq, START)
    assert receiver.due(START) == (1000, Stream.SHRED)
    assert receiver.write(1000, Stream.SHRED) == (AckRange(3, 1),)
    assert receiver.missing(1000, Stream.SHRED, Class.P1, END, END - MS) == (0,)


@pytest.mark.parametrize("seqs", [0, 32, 100, 1 << 17])
def test_books_of_a_size_that_there_is_not(seqs: int) -> None:
    with pytest.raises(InvalidArgument):
        Sender(seqs=seqs)
