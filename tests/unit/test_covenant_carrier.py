# SPDX-License-Identifier: Apache-2.0
"""covenant/carrier.py: TCP/UP frames, exactly once and in order, over a flow 0 that is neither.

    near ---bodies---> [ lost, doubled, overtaken ] ---> far
         <------------ [ lost, doubled, overtaken ] ----

Both ends are joined in memory, and time is a number.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.covenant.carrier import (
    ACKNOWLEDGE_WITHIN,
    BACKLOG_MAX,
    FRAME_MAX,
    MILLISECOND,
    PARCEL_OVERHEAD,
    PATIENCE,
    REPEAT_FIRST,
    REPEAT_MOST,
    ROOM_MIN,
    SECOND,
    WINDOW,
    Carrier,
    CarrierError,
    Pace,
)
from assent.errors import InvalidArgument, ResourceExhausted
from assent.wire.control import (
    MAX_BODY,
    ControlError,
    CovenantParcel,
    CovenantPiece,
    decode_body,
    encode_body,
)

ROOM = 400
NEAR, FAR = 0xA, 0xB
Body = dict[str, object]


def carrier(incarnation: int, room: int = ROOM, **settings: object) -> Carrier:
    return Carrier(room, incarnation, **settings)  # type: ignore[arg-type]


def acquainted() -> tuple[Carrier, Carrier]:
    """Two carriers that know each other, with nothing under way."""
    near, far = carrier(NEAR), carrier(FAR)
    near.send(b"first", 0)
    exchange(near, far, 0)
    assert near.is_idle
    return near, far


def exchange(near: Carrier, far: Carrier, now: int) -> tuple[list[bytes], list[bytes]]:
    """Passes everything both ways until both are silent; returns what came near, and far."""
    here: list[bytes] = []
    there: list[bytes] = []
    while True:
        out, back = near.bodies_to_send(now), far.bodies_to_send(now)
        if not out and not back:
            return here, there
        for body in out:
            there += far.receive(body, now)
        for body in back:
            here += near.receive(body, now)


def test_the_first_frame_waits_until_the_peer_has_said_who_it_is():
    near, far = carrier(NEAR), carrier(FAR)
    near.send(b"frame", 0)
    assert near.bodies_to_send(0) == [CovenantParcel(NEAR, 0).to_body()]
    assert near.bodies_to_send(0) == []
    assert far.receive(CovenantParcel(NEAR, 0).to_body(), 0) == []
    assert far.bodies_to_send(0) == [CovenantParcel(FAR, NEAR).to_body()]
    assert near.receive(CovenantParcel(FAR, NEAR).to_body(), 0) == []
    piece = CovenantPiece(0, True, b"frame")
    assert near.bodies_to_send(0) == [CovenantParcel(NEAR, FAR, piece=piece).to_body()]


def test_a_hello_is_repeated_ever_more_slowly():
    near = carrier(NEAR)
    near.send(b"frame", 0)
    times = []
    now = 0
    while now < 20 * SECOND:
        if near.bodies_to_send(now):
            times.append(now)
        deadline = near.next_deadline()
        assert deadline is not None
        assert deadline > now
        now = deadline
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[:4] == [REPEAT_FIRST, 2 * REPEAT_FIRST, 4 * REPEAT_FIRST, 8 * REPEAT_FIRST]
    assert gaps[-1] == REPEAT_MOST


def test_a_frame_arrives_whole_whatever_its_length():
    near, far = acquainted()
    piece = near.piece_len
    frames = [bytes([n % 256]) * n for n in (1, piece - 1, piece, piece + 1, 10 * piece)]
    for frame in frames:
        near.send(frame, 0)
    _, there = exchange(near, far, 0)
    assert there == frames
    assert near.is_idle
    assert near.backlog == 0


def test_frames_go_both_ways_at_once():
    near, far = acquainted()
    near.send(b"n" * 1000, 0)
    far.send(b"f" * 1000, 0)
    assert exchange(near, far, 0) == ([b"f" * 1000], [b"n" * 1000])


def test_the_longest_frame_arrives_and_the_window_is_never_passed():
    near, far = acquainted()
    frame = random.Random(1).randbytes(FRAME_MAX)
    near.send(frame, 0)
    arrived: list[bytes] = []
    now = 0
    while not near.is_idle:
        sent = near.bodies_to_send(now)
        assert len(sent) <= WINDOW
        for body in sent:
            arrived += far.receive(body, now)
        for body in far.bodies_to_send(now):
            near.receive(body, now)
        deadline = near.next_deadline()
        now = max(now + 1, now if deadline is None else deadline)
    assert arrived == [frame]
    assert now < 5 * SECOND


def test_bodies_fit_the_room_and_the_bounds_of_control_tags():
    for room in (ROOM_MIN, 1336, MAX_BODY, 9000):
        near = carrier(2**64 - 1, room)
        piece = CovenantPiece(2**64 - 1, True, bytes(near.piece_len))
        parcel = CovenantParcel(2**64 - 1, 2**64 - 1, 2**64 - 1, b"\xff" * 8, piece)
        encoded = encode_body(parcel.to_body())
        assert len(encoded) <= min(room, MAX_BODY)
        assert CovenantParcel.from_body(decode_body(encoded)) == parcel
        assert len(encoded) - near.piece_len <= PARCEL_OVERHEAD


def test_a_lost_piece_alone_is_repeated():
    near, far = acquainted()
    near.send(bytes(4 * near.piece_len), 0)
    bodies = near.bodies_to_send(0)
    assert len(bodies) == 4
    for body in (bodies[0], bodies[2], bodies[3]):
        assert far.receive(body, 0) == []
    for body in far.bodies_to_send(ACKNOWLEDGE_WITHIN):
        near.receive(body, ACKNOWLEDGE_WITHIN)
    repeated = near.bodies_to_send(REPEAT_FIRST)
    numbers = [CovenantParcel.from_body(body).piece for body in repeated]
    assert [piece.number for piece in numbers if piece] == [2]
    assert far.receive(repeated[0], REPEAT_FIRST) == [bytes(4 * near.piece_len)]


def test_what_comes_twice_is_taken_once_and_acknowledged_again():
    near, far = acquainted()
    near.send(b"frame", 0)
    (body,) = near.bodies_to_send(0)
    assert far.receive(body, 0) == [b"frame"]
    first = far.bodies_to_send(0)
    assert far.receive(body, 1) == []
    assert far.bodies_to_send(1) == first


def test_a_lone_piece_is_acknowledged_after_a_while():
    near, far = acquainted()
    near.send(bytes(2 * near.piece_len), 0)
    body = near.bodies_to_send(0)[0]
    far.receive(body, 0)
    assert far.bodies_to_send(0) == []
    assert far.next_deadline() == ACKNOWLEDGE_WITHIN
    (answer,) = far.bodies_to_send(ACKNOWLEDGE_WITHIN)
    assert CovenantParcel.from_body(answer).next == 2


def test_the_pace_is_kept_and_the_deadline_says_when_it_goes_on():
    pace = Pace(interval=10 * MILLISECOND, burst=4)
    near, far = carrier(NEAR, pace=pace), carrier(FAR)
    near.send(bytes(20 * near.piece_len), 0)
    exchange(near, far, 0)
    sent = 0
    now = near.next_deadline()
    assert now is not None
    start = now
    while sent < 10:
        count = len(near.bodies_to_send(now))
        assert count == 1
        sent += count
        deadline = near.next_deadline()
        assert deadline is not None
        now = deadline
    assert now - start == 10 * pace.interval


def test_a_peer_that_began_anew_gets_what_the_old_one_did_not_acknowledge():
    near, far = acquainted()
    near.send(b"one", 0)
    near.send(b"two", 0)
    bodies = near.bodies_to_send(0)
    assert far.receive(bodies[0], 0) == [b"one"]
    for body in far.bodies_to_send(0):
        near.receive(body, 0)
    anew = carrier(0xC)
    assert anew.receive(bodies[1], 0) == []
    _, there = exchange(near, anew, 0)
    assert there == [b"two"]
    assert near.is_idle


def test_one_that_began_anew_is_heard_and_what_it_left_halfway_is_forgotten():
    near, far = acquainted()
    near.send(bytes(2 * near.piece_len), 0)
    far.receive(near.bodies_to_send(0)[0], 0)
    assert not far.is_idle
    anew = carrier(0xC)
    anew.send(b"new", 0)
    _, there = exchange(anew, far, 0)
    assert there == [b"new"]
    assert far.is_idle


def test_one_that_began_anew_and_has_nothing_to_say_is_found_out():
    near, far = acquainted()
    near.send(bytes(2 * near.piece_len), 0)
    far.receive(near.bodies_to_send(0)[0], 0)
    far.bodies_to_send(ACKNOWLEDGE_WITHIN)
    assert not far.is_idle
    anew = carrier(0xC)
    now = ACKNOWLEDGE_WITHIN + REPEAT_MOST
    assert far.next_deadline() == now
    assert exchange(anew, far, now) == ([], [])
    assert far.is_idle
    assert far.next_deadline() is None


def test_nothing_of_an_incarnation_that_is_no_more_is_taken_however_late():
    near, far = acquainted()
    near.send(b"old", 0)
    (late,) = near.bodies_to_send(0)
    anew = carrier(0xC)
    anew.send(b"new", 0)
    assert exchange(anew, far, 0) == ([], [b"new"])
    assert far.receive(late, 1) == []
    assert far.bodies_to_send(SECOND) == []
    anew.send(b"newer", 1)
    assert exchange(anew, far, 1) == ([], [b"newer"])


def test_what_was_meant_for_a_predecessor_is_answered_by_name_and_not_taken():
    far = carrier(FAR)
    piece = CovenantPiece(0, True, b"frame")
    stale = CovenantParcel(NEAR, 0xDEAD, piece=piece)
    assert far.receive(stale.to_body(), 0) == []
    assert far.bodies_to_send(0) == [CovenantParcel(FAR, NEAR).to_body()]
    assert far.bodies_to_send(SECOND) == []


def test_a_peer_that_is_silent_is_given_up():
    near, _ = acquainted()
    near.send(b"frame", 0)
    near.tick(PATIENCE - 1)
    with pytest.raises(CarrierError, match="acknowledges nothing"):
        near.tick(PATIENCE)


def test_a_frame_that_stops_halfway_is_given_up():
    near, far = acquainted()
    near.send(bytes(2 * near.piece_len), 0)
    far.receive(near.bodies_to_send(0)[0], 0)
    far.bodies_to_send(PATIENCE - 1)
    assert far.next_deadline() == PATIENCE
    far.tick(PATIENCE - 1)
    with pytest.raises(CarrierError, match="stopped halfway"):
        far.tick(PATIENCE)


def test_who_has_nothing_to_do_has_no_deadline():
    near, far = acquainted()
    assert near.next_deadline() is None
    near.tick(1 << 62)
    assert far.bodies_to_send(0) == []
    assert far.next_deadline() is None


def test_an_acknowledgement_of_what_was_never_sent_is_refused():
    near, far = acquainted()
    with pytest.raises(CarrierError, match="never sent"):
        near.receive(CovenantParcel(FAR, NEAR, 2).to_body(), 0)
    near.send(b"frame", 0)
    assert exchange(near, far, 0) == ([], [b"frame"])


def test_more_than_a_frame_is_refused():
    _, far = acquainted()
    body = bytes(1300)
    for number in range(1, FRAME_MAX // len(body) + 1):
        piece = CovenantPiece(number, False, body)
        far.receive(CovenantParcel(NEAR, FAR, 0, piece=piece).to_body(), 0)
    piece = CovenantPiece(number + 1, True, body)
    with pytest.raises(CarrierError, match="more than a frame may have"):
        far.receive(CovenantParcel(NEAR, FAR, 0, piece=piece).to_body(), 0)


def test_a_piece_beyond_the_window_is_not_kept():
    near, far = acquainted()
    piece = CovenantPiece(1 + WINDOW, True, b"far ahead")
    assert far.receive(CovenantParcel(NEAR, FAR, 0, piece=piece).to_body(), 0) == []
    assert far.is_idle
    near.send(b"frame", 0)
    assert exchange(near, far, 0) == ([], [b"frame"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"from": 0}, "from"),
        ({"from": 2**64}, "from"),
        ({"from": True}, "from"),
        ({"to": -1}, "to"),
        ({"next": "1"}, "next"),
        ({"beyond": bytes(9)}, "beyond"),
        ({"beyond": 1}, "beyond"),
        ({"piece": []}, "a body must be a map"),
        ({"piece": {"number": 0, "last": 1, "data": b"x"}}, "last"),
        ({"piece": {"number": 0, "last": True, "data": b""}}, "data"),
        ({"piece": {"number": -1, "last": True, "data": b"x"}}, "number"),
        ({"piece": {"number": 0, "last": True, "data": "x"}}, "data"),
    ],
)
def test_a_malformed_body_is_refused_by_name_and_changes_nothing(change: Body, problem: str):
    near, far = acquainted()
    good = CovenantParcel(NEAR, FAR, 0, piece=CovenantPiece(1, True, b"frame")).to_body()
    with pytest.raises(ControlError, match=problem):
        far.receive({**good, **change}, 0)
    assert far.next_deadline() is None
    near.send(b"frame", 0)
    assert exchange(near, far, 0) == ([], [b"frame"])


@pytest.mark.parametrize("body", [None, 1, [], "text"])
def test_a_body_that_is_no_map_is_refused(body: object):
    with pytest.raises(ControlError, match="a body must be a map"):
        carrier(FAR).receive(body, 0)


@pytest.mark.parametrize("frame", [b"", bytes(FRAME_MAX + 1)])
def test_a_frame_of_no_frame_s_length_is_not_queued(frame: bytes):
    near = carrier(NEAR)
    with pytest.raises(InvalidArgument, match="frame"):
        near.send(frame, 0)
    assert near.is_idle


def test_the_backlog_is_bounded():
    near = carrier(NEAR)
    for _ in range(BACKLOG_MAX // FRAME_MAX):
        near.send(bytes(FRAME_MAX), 0)
    with pytest.raises(ResourceExhausted):
        near.send(b"x", 0)
    assert near.backlog == BACKLOG_MAX


def test_too_little_room_is_refused():
    with pytest.raises(InvalidArgument, match="room"):
        carrier(NEAR, ROOM_MIN - 1)


# A hostile channel


class Channel:
    """Loses, doubles and delays bodies, so that they overtake each other; by its own dice."""

    def __init__(self, dice: random.Random, loss: float, doubling: float) -> None:
        self._dice = dice
        self._loss = loss
        self._doubling = doubling
        self._way: list[tuple[int, int, int, Body]] = []
        self._count = 0
        self.is_calm = False

    def put(self, side: int, body: Body, now: int) -> None:
        copies = 1
        if not self.is_calm:
            copies = (self._dice.random() >= self._loss) + (self._dice.random() < self._doubling)
        for _ in range(copies):
            self._count += 1
            at = now + self._dice.randrange(100 * MILLISECOND)
            heapq.heappush(self._way, (at, self._count, side, body))

    def arrived(self, now: int) -> Iterator[tuple[int, Body]]:
        while self._way and self._way[0][0] <= now:
            _, _, side, body = heapq.heappop(self._way)
            yield side, body

    def next(self) -> int | None:
        return self._way[0][0] if self._way else None


class Rig:
    """Two carriers that begin anew now and then, and what each incarnation was given."""

    def __init__(self, channel: Channel, dice: random.Random) -> None:
        self.channel = channel
        self._dice = dice
        self.ends = [self._carrier(), self._carrier()]
        self.sent: list[list[list[bytes]]] = [[[]], [[]]]  # by side, incarnation
        self.given: list[list[list[bytes]]] = [[[]], [[]]]
        self.now = 0
        self._serial = 0

    def _carrier(self) -> Carrier:
        return Carrier(ROOM, self._dice.getrandbits(64) or 1)

    def send(self, side: int, length: int) -> None:
        self._serial += 1
        frame = self._serial.to_bytes(4, "big") + bytes(length)
        self.ends[side].send(frame, self.now)
        self.sent[side][-1].append(frame)

    def begin_anew(self, side: int) -> None:
        self.ends[side] = self._carrier()
        self.sent[side].append([])
        self.given[side].append([])

    def run(self, until: int) -> None:
        while self.now < until:
            for side, body in self.channel.arrived(self.now):
                encoded = decode_body(encode_body(body))
                self.given[side][-1] += self.ends[side].receive(encoded, self.now)
            for side, end in enumerate(self.ends):
                end.tick(self.now)
                for body in end.bodies_to_send(self.now):
                    self.channel.put(1 - side, body, self.now)
            due = [self.channel.next(), *(end.next_deadline() for end in self.ends)]
            self.now = min(until, max(self.now + 1, min((at for at in due if at), default=until)))

    def drain(self) -> None:
        self.channel.is_calm = True
        self.run(self.now + 50 * SECOND)


_actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(0, 5 * ROOM)),
        st.tuples(st.just("run"), st.just(0), st.integers(1, 600)),
        st.tuples(st.just("anew"), st.integers(0, 1), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(_actions, st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([0, 0.4]))
def test_each_frame_is_delivered_once_in_order_and_nothing_stays_behind(
    actions: list[tuple[str, int, int]], seed: int, loss: float, doubling: float
):
    dice = random.Random(seed)
    rig = Rig(Channel(dice, loss, doubling), dice)
    for action, side, number in actions:
        if action == "send":
            rig.send(side, number)
        elif action == "anew":
            rig.begin_anew(side)
        else:
            rig.run(rig.now + number * MILLISECOND)
    rig.drain()
    for side in (0, 1):
        everything = [frame for frames in rig.sent[side] for frame in frames]
        order = {frame: place for place, frame in enumerate(everything)}
        for given_to in rig.given[1 - side]:
            places = [order[frame] for frame in given_to]
            # Rising: in order, and none twice to one incarnation.
            assert places == sorted(set(places))
        delivered = {frame for frames in rig.given[1 - side] for frame in frames}
        # An incarnation that was lost took with it what it had not handed over.
        assert set(rig.sent[side][-1]) <= delivered
        assert rig.ends[side].is_idle
        if len(rig.given[0]) == len(rig.given[1]) == 1:
            assert rig.given[1 - side][0] == everything
