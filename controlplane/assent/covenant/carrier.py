# SPDX-License-Identifier: Apache-2.0
"""TCP/UP frames over flow 0, where bodies are small and may be lost, doubled and overtaken.

There is one carrier a pair of cells on each side. It cuts frames into pieces, numbers the pieces,
keeps a bounded number of them in flight, and repeats those that are not acknowledged, each on its
own timer. Whatever a carrier sends also says what has arrived (`CovenantParcel`).

    this one            the other one
    hello (to 0)   ->                    speaks to nobody it knows yet
                   <-   hello (to us)    now we know whom we speak to
    pieces (to it) ->                    and it knows us, since we know it
                   <-   pieces, or what has arrived

Every carrier has an incarnation, drawn anew whenever its memory is: 64 random bits. Pieces are
taken only where they name both incarnations rightly. So nothing that was said to, or by, a carrier
that is no more can be taken for something new, however late it arrives. One that hears a piece
meant for its predecessor says hello. Whoever learns of a new incarnation forgets what came from the
old one, and numbers anew the frames that the old one has not acknowledged.

Between two incarnations each frame is delivered exactly once, in order. A frame that was not
acknowledged when its receiver was lost is sent to the next incarnation as well: whether the old one
had taken it cannot be known. TCP/UP's own sequence numbers refuse it a second time.

Time and the random incarnation are passed in; times are monotonic ns.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from assent.errors import InvalidArgument, RemoteError, ResourceExhausted
from assent.wire.control import BEYOND_LEN, MAX_BODY, CovenantParcel, CovenantPiece
from assent.wire.tcpup import FRAME_OVERHEAD, PAYLOAD_MAX

MILLISECOND: Final = 1_000_000
SECOND: Final = 1000 * MILLISECOND

FRAME_MAX: Final = PAYLOAD_MAX + FRAME_OVERHEAD
BACKLOG_MAX: Final = 4 * FRAME_MAX
"""Bytes of frames that may wait for their acknowledgement."""
WINDOW: Final = 8 * BEYOND_LEN
"""Pieces in flight: as many as a parcel can acknowledge out of order."""
PARCEL_OVERHEAD: Final = 96
"""Bytes of a body that are not of the piece, at the most."""
ROOM_MIN: Final = 256
REPEAT_FIRST: Final = 250 * MILLISECOND
REPEAT_MOST: Final = 4 * SECOND
ACKNOWLEDGE_WITHIN: Final = 20 * MILLISECOND
ACKNOWLEDGE_AFTER: Final = 8
"""Pieces."""
PATIENCE: Final = 60 * SECOND

_RETIRED_KEPT: Final = 64


class CarrierError(RemoteError):
    """The other carrier is silent, or breaks the rules: this one cannot go on."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast bodies may go out.

    The gate lets a peer send a flow-0 frame every millisecond, 256 at once, heartbeats and
    announcements included. What goes beyond is dropped there; so a carrier stays well below.

    Attributes:
        interval: ns a body.
        burst: Bodies at once.
    """

    interval: int = 2 * MILLISECOND
    burst: int = 64


@dataclass(slots=True)
class _Outgoing:
    """A frame that the peer may not have in full yet.

    Attributes:
        frame: It.
        cut: Bytes of it that have been put into pieces.
        last: Number of its last piece, once all of it is cut.
    """

    frame: bytes
    cut: int = 0
    last: int | None = None


@dataclass(slots=True)
class _Flight:
    """A piece that is not acknowledged.

    Attributes:
        piece: It.
        due: When it is to be sent, for the first time or again.
        tries: How many times it has been sent.
    """

    piece: CovenantPiece
    due: int
    tries: int = 0


class Carrier:
    """One end of a pair.

    Args:
        room: Bytes that a COVENANT body may have.
        incarnation: 64 random bits, not 0; never used before.
        pace: How fast bodies may go out.
        patience: Silence after which a frame that is under way is given up, ns.

    Raises:
        InvalidArgument: There is less room than `ROOM_MIN`.
    """

    def __init__(
        self, room: int, incarnation: int, *, pace: Pace | None = None, patience: int = PATIENCE
    ) -> None:
        if room < ROOM_MIN:
            raise InvalidArgument("room", f"must be at least {ROOM_MIN} bytes")
        self.piece_len = piece_len(room)
        self._incarnation = incarnation
        self._pace = pace or Pace()
        self._patience = patience
        self._peer = 0
        self._retired: deque[int] = deque(maxlen=_RETIRED_KEPT)
        self._pace_due = 0
        # Going out.
        self._frames: deque[_Outgoing] = deque()
        self._backlog = 0
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        self._acknowledged = 0
        self._number = 0
        self._progress_at = 0
        self._hello_due: int | None = None
        self._hello_tries = 0
        self._greet = 0
        # Coming in.
        self._next = 0
        self._beyond: dict[int, CovenantPiece] = {}
        self._partial = bytearray()
        self._arrived_at = 0
        self._owed = 0
        self._answer_due: int | None = None

    @property
    def is_idle(self) -> bool:
        """Whether everything that was sent has been acknowledged, and nothing came halfway."""
        return not (self._frames or self._partial or self._beyond)

    @property
    def backlog(self) -> int:
        """Bytes of frames that are not acknowledged."""
        return self._backlog

    def send(self, frame: bytes, now: int) -> None:
        """Queues one frame.

        Raises:
            InvalidArgument: It is empty, or longer than any frame.
            ResourceExhausted: Too much is waiting.
        """
        if not 1 <= len(frame) <= FRAME_MAX:
            raise InvalidArgument("frame", f"must have 1 to {FRAME_MAX} bytes")
        if self._backlog + len(frame) > BACKLOG_MAX:
            raise ResourceExhausted("too many frames wait for the peer")
        if not self._frames:
            self._progress_at = now
        self._frames.append(_Outgoing(frame))
        self._backlog += len(frame)
        if self._peer:
            self._fill(now)
        elif self._hello_due is None:
            self._hello_due = now

    def receive(self, body: object, now: int) -> list[bytes]:
        """Takes in a COVENANT body.

        Returns:
            The frames that are now complete, in order.

        Raises:
            ControlError: The body is malformed. Nothing has changed.
            CarrierError: The peer acknowledges what was never sent, or sends more than a frame.
        """
        parcel = CovenantParcel.from_body(body)
        if parcel.sender in self._retired:
            return []
        if parcel.receiver != self._incarnation:
            # It does not know us, or knew who was here before.
            self._greet = parcel.sender
            return []
        if parcel.sender != self._peer:
            self._adopt(parcel.sender, now)
        if parcel.next > self._number:
            raise CarrierError("the peer acknowledges what was never sent")
        self._acknowledge(parcel, now)
        return [] if parcel.piece is None else self._take(parcel.piece, now)

    def bodies_to_send(self, now: int) -> list[dict[str, object]]:
        """What is due, as far as the pace allows: COVENANT bodies, one a control tag."""
        parcels: list[CovenantParcel] = []
        for parcel in self._due(now):
            parcels.append(parcel)
            self._pace_due = max(self._pace_due, now) + self._pace.interval
            if self._too_fast(now):
                break
        return [parcel.to_body() for parcel in parcels]

    def next_deadline(self) -> int | None:
        """When `tick` and `bodies_to_send` have something to do; None = not before it arrives."""
        wanted = [flight.due for flight in self._flights.values()]
        if self._greet:
            wanted.append(0)
        wanted.extend(at for at in (self._hello_due, self._answer_due) if at is not None)
        sends = max(min(wanted), self._pace_free_at()) if wanted else None
        ends = []
        if self._frames:
            ends.append(self._progress_at + self._patience)
        if self._partial or self._beyond:
            ends.append(self._arrived_at + self._patience)
        return min((at for at in (sends, *ends) if at is not None), default=None)

    def tick(self, now: int) -> None:
        """Looks at the clock.

        Raises:
            CarrierError: The peer has been silent for too long.
        """
        if self._frames and now >= self._progress_at + self._patience:
            raise CarrierError("the peer acknowledges nothing")
        if (self._partial or self._beyond) and now >= self._arrived_at + self._patience:
            raise CarrierError("a frame has stopped halfway")

    # Whom we speak to

    def _adopt(self, peer: int, now: int) -> None:
        """The peer is new, or began anew: both directions begin with piece 0."""
        if self._peer:
            self._retired.append(self._peer)
        self._peer = peer
        self._hello_due, self._hello_tries = None, 0
        if self._greet == peer:
            self._greet = 0
        self._next = 0
        self._beyond.clear()
        self._partial.clear()
        self._owed, self._answer_due = 0, None
        self._flights.clear()
        self._acknowledged = self._number = 0
        for outgoing in self._frames:
            outgoing.cut, outgoing.last = 0, None
        self._progress_at = now
        self._fill(now)

    # Going out

    def _fill(self, now: int) -> None:
        """Puts pieces in flight, until the window is full."""
        for outgoing in self._frames:
            while outgoing.last is None:
                if self._number - self._acknowledged >= WINDOW:
                    return
                data = outgoing.frame[outgoing.cut : outgoing.cut + self.piece_len]
                outgoing.cut += len(data)
                is_last = outgoing.cut == len(outgoing.frame)
                piece = CovenantPiece(self._number, is_last, data)
                self._flights[self._number] = _Flight(piece, now)
                if is_last:
                    outgoing.last = self._number
                self._number += 1

    def _acknowledge(self, parcel: CovenantParcel, now: int) -> None:
        arrived = [number for number in self._flights if number < parcel.next]
        bits = int.from_bytes(parcel.beyond, "little")
        arrived += [
            number
            for number in self._flights
            if number > parcel.next and bits >> (number - parcel.next - 1) & 1
        ]
        for number in arrived:
            del self._flights[number]
        if arrived:
            self._progress_at = now
        if parcel.next > self._acknowledged:
            self._acknowledged = parcel.next
            while self._frames and (last := self._frames[0].last) is not None:
                if last >= parcel.next:
                    break
                self._backlog -= len(self._frames.popleft().frame)
            self._fill(now)

    def _due(self, now: int) -> Iterator[CovenantParcel]:
        """What is due, the most urgent first. What is taken from here is sent."""
        if self._too_fast(now):
            return
        if self._greet:
            greeted, self._greet = self._greet, 0
            if greeted != self._peer:
                yield CovenantParcel(self._incarnation, greeted)
            else:
                yield self._parcel(now)
        if self._hello_due is not None and now >= self._hello_due:
            self._hello_due = now + _repeat_after(self._hello_tries)
            self._hello_tries += 1
            yield CovenantParcel(self._incarnation, 0)
        for flight in self._flights.values():
            if now >= flight.due:
                flight.due = now + _repeat_after(flight.tries)
                flight.tries += 1
                yield replace(self._parcel(now), piece=flight.piece)
        if self._answer_due is not None and now >= self._answer_due:
            yield self._parcel(now)

    def _parcel(self, now: int) -> CovenantParcel:
        """What has arrived; so that needs no answer of its own any more."""
        self._owed, self._answer_due = 0, None
        if self._partial or self._beyond:
            # A sender that began anew meanwhile has nothing to repeat, but will say who it is.
            self._answer_due = now + REPEAT_MOST
        bits = sum(1 << (number - self._next - 1) for number in self._beyond)
        beyond = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        return CovenantParcel(self._incarnation, self._peer, self._next, beyond)

    def _too_fast(self, now: int) -> bool:
        return now < self._pace_free_at()

    def _pace_free_at(self) -> int:
        return self._pace_due - (self._pace.burst - 1) * self._pace.interval

    # Coming in

    def _take(self, piece: CovenantPiece, now: int) -> list[bytes]:
        self._arrived_at = now
        self._owed += 1
        in_order = piece.number == self._next
        if self._next <= piece.number < self._next + WINDOW:
            self._beyond.setdefault(piece.number, piece)
        frames = self._put_together()
        # What came twice, or not in turn, is what the sender waits to hear of.
        hurry = not in_order or frames or self._owed >= ACKNOWLEDGE_AFTER
        due = now if hurry else now + ACKNOWLEDGE_WITHIN
        self._answer_due = due if self._answer_due is None else min(due, self._answer_due)
        return frames

    def _put_together(self) -> list[bytes]:
        frames: list[bytes] = []
        while (piece := self._beyond.pop(self._next, None)) is not None:
            self._next += 1
            if len(self._partial) + len(piece.data) > FRAME_MAX:
                raise CarrierError("the peer sends more than a frame may have")
            self._partial += piece.data
            if piece.last:
                frames.append(bytes(self._partial))
                self._partial.clear()
        return frames


def piece_len(room: int) -> int:
    """Bytes of a frame that go into one piece, where a body may have `room`."""
    return min(room, MAX_BODY) - PARCEL_OVERHEAD


def _repeat_after(tries: int) -> int:
    return min(REPEAT_FIRST << min(tries, 16), REPEAT_MOST)
