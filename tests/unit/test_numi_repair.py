# SPDX-License-Identifier: Apache-2.0
"""Repair after the slot: what is lost is asked for and given, within bounds and credit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.fec import GroupKey, Groups, Shape
from assent.numiport.fec import encode as encode_group
from assent.numiport.repair import (
    ASKED_MAX,
    MS,
    RUNS_MAX,
    SECOND,
    Ask,
    Denial,
    Deny,
    Give,
    Message,
    Requester,
    Run,
    Server,
    Settings,
    Shred,
    decode,
    encode,
    runs_of,
)
from assent.numiport.wire import PACKET_MAX, Fault, NumiportError

A, B, C = b"a", b"b", b"c"
SLOT = 1000
KEY = GroupKey(SLOT, 64)
SETTINGS = Settings()


def asked(*indexes: int, slot: int = SLOT, ident: int = 1) -> Ask:
    return Ask(ident, slot, tuple(runs_of((GroupKey(slot, 64), index) for index in indexes)))


def give(ask: Ask, key: GroupKey = KEY, index: int = 0, shred: bytes = b"x") -> Give:
    return Give(ask.id, key, index, 64, shred)


def serving(shreds: dict[Shred, bytes], settings: Settings = SETTINGS) -> Server:
    return Server(
        lambda key, index: (64, shreds[key, index]) if (key, index) in shreds else None, settings
    )


# -- messages -------------------------------------------------------------------------------------

runs = st.builds(
    Run, st.integers(0, (1 << 32) - 1), st.integers(0, 100), st.integers(1, 28)
)  # fmt: skip
numbers = st.integers(0, (1 << 32) - 1)
slots = st.integers(0, (1 << 64) - 1)
some_runs = st.lists(runs, min_size=1, max_size=2).map(tuple)
messages = st.one_of(
    st.builds(Ask, numbers, slots, some_runs),
    st.builds(Deny, numbers, slots, st.sampled_from(Denial), some_runs),
    st.builds(
        Give,
        numbers,
        st.builds(GroupKey, slots, numbers),
        st.integers(0, 63),
        st.integers(64, 128),
        st.binary(min_size=1, max_size=50),
    ),
)


@given(messages)
def test_messages_come_back_as_they_were(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_malformed(payload: bytes) -> None:
    try:
        message = decode(payload)
    except NumiportError as refused:
        assert refused.kind == "malformed"  # noqa: PT017
    else:
        assert encode(message) == payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        encode(asked(1))[:-1],
        encode(asked(1)) + b"\0",
        b"\x01\x00" + encode(asked(1))[2:16],
        b"\x01\x01\x00\x01" + encode(asked(1))[4:],
        b"\x04" + encode(asked(1))[1:],
        b"\x03\x01\x00\x00" + encode(asked(1))[4:],
        b"\x03\x01\x00\x04" + encode(asked(1))[4:],
        encode(asked(1))[:-2] + b"\x00\x00",
        encode(asked(1))[:-2] + b"\x00\x41",
        encode(asked(1))[:-4] + b"\x00\x80\x00\x01",
        encode(give(asked(1)))[:24],
        encode(give(asked(1), index=64)),
        encode(replace(give(asked(1)), total=129)),
        b"\x02\x01" + encode(give(asked(1)))[2:],
        encode(give(asked(1)))[:23] + b"\x01x",
        b"\x01\x21" + encode(asked(1))[2:16] + bytes.fromhex("0000004000010001") * 33,
    ],
)
def test_payloads_that_are_no_message(payload: bytes) -> None:
    with pytest.raises(NumiportError) as refused:
        decode(payload)
    assert refused.value.fault is Fault.MALFORMED


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 127)), min_size=1, max_size=60))
def test_runs_name_each_shred_once(wanted: list[tuple[int, int]]) -> None:
    shreds = [(GroupKey(SLOT, first), index) for first, index in wanted]
    named = [
        (GroupKey(SLOT, run.first), run.index + at)
        for run in runs_of(shreds)
        for at in range(run.run)
    ]
    assert named == sorted(set(shreds))


# -- asking ---------------------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_in_runs() -> None:
    requester = Requester(SETTINGS)
    assert requester.want([(KEY, index) for index in (1, 2, 3, 7)], [A]) == 4
    ((peer, ask),) = requester.poll(0)
    assert (peer, ask.slot, ask.runs) == (A, SLOT, (Run(64, 1, 3), Run(64, 7, 1)))
    assert requester.poll(0) == []
    assert requester.next_deadline() == SETTINGS.timeout


def test_what_is_given_is_wanted_no_more() -> None:
    requester = Requester(SETTINGS)
    requester.want([(KEY, 1), (KEY, 2)], [A])
    ((_, ask),) = requester.poll(0)
    assert requester.given(A, give(ask, index=1))
    assert not requester.given(A, give(ask, index=1))
    assert requester.given(A, give(ask, index=2))
    assert (len(requester), requester.next_deadline()) == (0, None)
    assert (requester.counts.given, requester.counts.unasked) == (2, 1)


def test_what_nobody_asked_for_is_not_taken() -> None:
    requester = Requester(SETTINGS)
    requester.want([(KEY, 1)], [A])
    ((_, ask),) = requester.poll(0)
    for peer, message in (
        (B, give(ask, index=1)),
        (A, give(ask, index=2)),
        (A, give(ask, GroupKey(SLOT, 0), 1)),
        (A, give(replace(ask, id=9), index=1)),
    ):
        assert not requester.given(peer, message)
    requester.denied(B, Deny(ask.id, SLOT, Denial.BUSY, ask.runs))
    requester.denied(A, Deny(ask.id, SLOT, Denial.BUSY, asked(5).runs))
    assert requester.counts.unasked == 6
    assert len(requester) == 1
    assert requester.poll(0) == []


def test_after_a_timeout_the_next_peer_is_asked() -> None:
    requester = Requester(replace(SETTINGS, tries=3))
    requester.want([(KEY, 1)], [A, B])
    peers = []
    for turn in range(5):
        for peer, _ in requester.poll(turn * SETTINGS.timeout):
            peers.append(peer)
    assert sorted(peers[:2]) == [A, B]
    assert peers[2] == peers[0]
    assert len(peers) == 3
    assert (requester.counts.timeouts, requester.counts.given_up, len(requester)) == (3, 1, 0)


def test_a_denial_sends_what_it_names_to_the_next_peer() -> None:
    requester = Requester(SETTINGS)
    requester.want([(KEY, 1), (KEY, 2)], [A, B])
    ((first, ask),) = requester.poll(0)
    requester.denied(first, Deny(ask.id, SLOT, Denial.NOT_THERE, asked(2).runs))
    ((second, again),) = requester.poll(1)
    assert {first, second} == {A, B}
    assert again.shreds == [(KEY, 2)]
    assert requester.given(first, give(ask, index=1))
    assert not requester.given(first, give(ask, index=2))


def test_shreds_are_spread_over_peers_and_requests_are_bounded() -> None:
    requester = Requester(SETTINGS)
    shreds = [(GroupKey(SLOT, first), index) for first in range(0, 640, 64) for index in range(32)]
    requester.want(shreds, [A, B, C])
    asks = requester.poll(0)
    assert {peer for peer, _ in asks} == {A, B, C}
    assert sorted(shred for _, ask in asks for shred in ask.shreds) == sorted(shreds)
    for _, ask in asks:
        assert len(ask.shreds) <= ASKED_MAX
        assert len(ask.runs) <= RUNS_MAX
        assert len(encode(ask)) < 300


def test_scattered_shreds_fit_their_requests() -> None:
    requester = Requester(SETTINGS)
    requester.want([(KEY, index) for index in range(0, 128, 2)], [A])
    assert [len(ask.runs) for _, ask in requester.poll(0)] == [32, 32]


def test_a_run_may_end_one_request_and_begin_the_next() -> None:
    requester = Requester(SETTINGS)
    requester.want([(KEY, index) for index in range(100)], [A])
    sizes = [(len(ask.runs), len(ask.shreds)) for _, ask in requester.poll(0)]
    assert sum(shreds for _, shreds in sizes) == 100
    assert all(runs == 1 for runs, _ in sizes)


def test_no_peer_is_asked_for_more_than_it_may_owe() -> None:
    requester = Requester(replace(SETTINGS, out_most=10))
    requester.want([(KEY, index) for index in range(25)], [A])
    ((_, ask),) = requester.poll(0)
    assert len(ask.shreds) == 10
    for index in range(4):
        requester.given(A, give(ask, index=ask.shreds[index][1]))
    assert sum(len(more.shreds) for _, more in requester.poll(0)) == 4


def test_what_is_wanted_is_bounded() -> None:
    requester = Requester(replace(SETTINGS, wanted_most=5))
    assert requester.want([(KEY, index) for index in range(9)], [A]) == 5
    assert requester.want([(KEY, 0)], [A]) == 0
    assert (len(requester), requester.counts.refused) == (5, 4)


def test_what_arrived_otherwise_is_wanted_no_more() -> None:
    requester = Requester(SETTINGS)
    old = GroupKey(SLOT - 1, 0)
    requester.want([(KEY, 1), (KEY, 2), (old, 3)], [A])
    ((_, first), *_) = requester.poll(0)
    requester.want([(old, 4)], [A])
    requester.arrived([(KEY, 1), (KEY, 9)])
    requester.forget_before(SLOT)
    assert len(requester) == 1
    assert not requester.given(A, give(first, old, 3))
    asks = requester.poll(SETTINGS.timeout)
    assert [shred for _, ask in asks for shred in ask.shreds] == [(KEY, 2)]


def test_what_is_wanted_anew_is_asked_for_once() -> None:
    requester = Requester(replace(SETTINGS, out_most=1))
    for _ in range(3):
        requester.want([(KEY, 1)], [A])
        requester.arrived([(KEY, 1)])
    requester.want([(KEY, 1)], [A])
    ((_, ask),) = requester.poll(0)
    assert ask.shreds == [(KEY, 1)]
    assert requester.given(A, give(ask, index=1))
    requester.want([(KEY, 2)], [A])
    assert len(requester.poll(0)) == 1


def test_there_must_be_somebody_to_ask() -> None:
    with pytest.raises(InvalidArgument):
        Requester(SETTINGS).want([(KEY, 1)], [])


# -- giving ---------------------------------------------------------------------------------------


def test_what_is_there_is_given_and_the_rest_denied() -> None:
    server = serving({(KEY, 1): b"one", (KEY, 3): b"three"})
    ask = asked(1, 2, 3)
    assert server.asked(A, ask, SLOT + 1, 0) == Deny(1, SLOT, Denial.NOT_THERE, asked(2).runs)
    assert server.poll(0) == [(A, Give(1, KEY, 1, 64, b"one")), (A, Give(1, KEY, 3, 64, b"three"))]
    assert server.poll(0) == []
    assert (server.counts.given, server.counts.bytes_given, server.counts.not_there) == (2, 8, 1)


@pytest.mark.parametrize(
    ("slot", "reason"),
    [
        (SLOT, Denial.NOT_OVER),
        (SLOT - 5, Denial.NOT_OVER),
        (SLOT + 513, Denial.NOT_THERE),
    ],
)
def test_slots_that_are_not_served(slot: int, reason: Denial) -> None:
    server = serving({(KEY, 1): b"one"})
    assert server.asked(A, asked(1), slot, 0) == Deny(1, SLOT, reason, asked(1).runs)
    assert server.poll(0) == []
    assert server.next_deadline(0) is None


@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=64),
    steps=st.lists(st.integers(0, 40 * MS), min_size=1, max_size=40),
)
def test_no_peer_has_more_than_its_credit(sizes: list[int], steps: list[int]) -> None:
    settings = replace(SETTINGS, burst=PACKET_MAX, rate=100_000, timeout=10 * SECOND)
    server = serving({(KEY, index): bytes(size) for index, size in enumerate(sizes)}, settings)
    now = total = 0
    for step in steps:
        now += step
        server.asked(A, asked(*range(len(sizes))), SLOT + 1, now)
        total += sum(len(message.shred) for _, message in server.poll(now, 1000))
        assert total * SECOND <= settings.burst * SECOND + now * settings.rate
    assert total == server.counts.bytes_given


def test_it_says_when_there_is_credit_again() -> None:
    settings = replace(SETTINGS, burst=PACKET_MAX, rate=1000, timeout=10 * SECOND)
    server = serving({(KEY, 0): bytes(PACKET_MAX), (KEY, 1): bytes(500)}, settings)
    server.asked(A, asked(0, 1), SLOT + 1, 0)
    assert server.next_deadline(0) == 0
    assert [message.index for _, message in server.poll(0)] == [0]
    assert server.next_deadline(0) == SECOND // 2
    assert server.poll(SECOND // 2 - 1) == []
    assert [message.index for _, message in server.poll(SECOND // 2)] == [1]


def test_what_waited_too_long_is_not_given() -> None:
    settings = replace(SETTINGS, burst=PACKET_MAX, rate=1000)
    server = serving({(KEY, 0): bytes(PACKET_MAX), (KEY, 1): bytes(5000)}, settings)
    server.asked(A, asked(0, 1), SLOT + 1, 0)
    server.poll(0)
    assert server.next_deadline(0) == settings.timeout
    assert server.poll(settings.timeout) == []
    assert (server.next_deadline(settings.timeout), server.counts.expired) == (None, 1)


def test_peers_take_turns() -> None:
    shreds = {(KEY, index): bytes(100) for index in range(64)}
    server = serving(shreds)
    server.asked(A, asked(*range(64)), SLOT + 1, 0)
    server.asked(B, asked(*range(10)), SLOT + 1, 0)
    first = [peer for peer, _ in server.poll(0, 9)]
    assert sorted(first) == [A] * 5 + [B] * 4
    assert [peer for peer, _ in server.poll(0, 2)] == [B, A]


def test_queues_are_bounded() -> None:
    settings = replace(SETTINGS, queue_most=64, burst=PACKET_MAX, rate=1)
    server = serving({(KEY, index): bytes(PACKET_MAX) for index in range(64)}, settings)
    assert server.asked(A, asked(*range(64)), SLOT + 1, 0) is None
    assert server.asked(A, asked(0), SLOT + 1, 0) == Deny(1, SLOT, Denial.BUSY, asked(0).runs)
    assert server.counts.busy == 1


def test_peers_are_bounded_and_none_gets_new_credit_by_being_forgotten() -> None:
    settings = replace(SETTINGS, peers_most=2, burst=PACKET_MAX, rate=1000)
    server = serving({(KEY, 0): bytes(1000)}, settings)
    for peer in (A, B):
        assert server.asked(peer, asked(0), SLOT + 1, 0) is None
    assert server.asked(C, asked(0), SLOT + 1, 0) == Deny(1, SLOT, Denial.BUSY, asked(0).runs)
    assert len(server.poll(0)) == 2
    assert server.asked(C, asked(0), SLOT + 1, SECOND - 1) is not None
    assert server.asked(C, asked(0), SLOT + 1, SECOND) is None
    assert len(server) == 2


def test_what_is_gone_meanwhile_or_fits_no_packet_is_not_given() -> None:
    shreds = {(KEY, 0): b"x", (KEY, 1): bytes(PACKET_MAX + 1), (KEY, 2): b""}
    server = serving(shreds)
    denied = server.asked(A, asked(0, 1, 2), SLOT + 1, 0)
    assert denied == Deny(1, SLOT, Denial.NOT_THERE, asked(1, 2).runs)
    shreds.clear()
    assert server.poll(0) == []
    assert server.next_deadline(0) is None


@pytest.mark.parametrize(
    ("field", "value"), [("timeout", 0), ("tries", 0), ("burst", PACKET_MAX - 1), ("rate", 0)]
)
def test_settings_that_leave_nothing(field: str, value: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        replace(SETTINGS, **{field: value})
    assert refused.value.field == field


# -- both, with groups ----------------------------------------------------------------------------


@given(seed=st.integers(0, 1 << 32), loss=st.floats(0, 0.6))
def test_a_slot_is_whole_after_repair_over_a_link_that_loses(seed: int, loss: float) -> None:
    draw = random.Random(seed)
    shape = Shape(16, 16)
    block: dict[Shred, bytes] = {}
    for first in range(0, 4 * shape.total, shape.total):
        data = [draw.randbytes(40) for _ in range(shape.data)]
        for index, shred in enumerate(data + encode_group(shape, data)):
            block[GroupKey(SLOT, first), index] = shred
    groups = Groups()
    whole: dict[Shred, bytes] = {}

    def take(key: GroupKey, index: int, shred: bytes) -> None:
        whole[key, index] = shred
        recovered = groups.add(key, shape.total, index, shred)
        if recovered is not None:
            whole.update({(key, at): found for at, found in recovered.items()})
            requester.arrived([(key, at) for at in range(shape.total)])

    requester = Requester(replace(SETTINGS, tries=60))
    servers = {peer: Server(lambda k, i: (shape.total, block[k, i]), SETTINGS) for peer in (A, B)}
    for (key, index), shred in block.items():
        if draw.random() >= loss:
            take(key, index, shred)
    requester.want(groups.missing(SLOT), [A, B])
    now = 0
    while len(requester):
        assert now < 60 * SETTINGS.timeout
        for peer, ask in requester.poll(now):
            if draw.random() >= loss:
                heard = decode(encode(ask))
                assert isinstance(heard, Ask)
                assert servers[peer].asked(b"me", heard, SLOT + 1, now) is None
        for peer, server in servers.items():
            for _, message in server.poll(now):
                if draw.random() >= loss and requester.given(peer, message):
                    take(message.key, message.index, message.shred)
        now += SETTINGS.timeout // 2
    data_shreds = {shred: found for shred, found in block.items() if shred[1] < shape.data}
    assert {shred: whole.get(shred) for shred in data_shreds} == data_shreds
    assert all(groups.is_complete(key) for key, _ in block)
