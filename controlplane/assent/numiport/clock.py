# SPDX-License-Identifier: Apache-2.0
"""When slots begin (seed 5.6): a line through what leaders' beacons tell, and how sure it is.

    beacon -> how long ago its slot began -> observation (slot, start) -> slope, offset -> Slot

A beacon says how far into its slot the leader was when it sent it. So no leader's clock has to
agree with ours, and none is believed about the time of day; what remains is the path's delay, which
the caller takes off as far as it is known. The line is the median of the slopes of all pairs
(Theil and Sen) and the median of what is left: of the beacons kept, more than a quarter may be
wrong, by any amount, and move it no further than the honest ones lie apart.

All arithmetic is in whole numbers. Times are ns of CLOCK_TAI, or virtual.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.numiport.profiles import SLOT_MOST, Slots
from assent.numiport.wire import Fault, NumiportError
from assent.wire import cbor

KEPT: Final = 32
"""Beacons that the line is drawn through, at most."""
LOCKED_AFTER: Final = 4
"""Beacons without which there is no line yet."""
DOUBTED: Final = 16
"""Beacons in a row that the line contradicts before it is given up: then they are right."""
BEACON_MAX: Final = 64
AHEAD_MAX: Final = 1 << 32
"""Slots by which a beacon may be away from the line, when it is drawn anew."""
# The standard deviation of a normal distribution is 1.4826 times its median absolute deviation.
_SIGMA: Final = (14_826, 10_000)
# Slopes carry 16 binary digits below the ns, so that a line of many slots ends where it should.
_FRACTION: Final = 16
_UINT64_MAX: Final = 2**64 - 1
_FIELDS: Final = frozenset(("e", "s"))


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot in time.

    Attributes:
        number: Absolute.
        start: ns, CLOCK_TAI or virtual.
        length: ns.
    """

    number: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """When the next one starts, ns."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Beacon:
    """What a leader says of the slot it leads: a CTRL packet's payload.

    It is believed as far as its packet is: the peer's session authenticates it, and the caller
    knows whether the peer leads that slot.

    Attributes:
        slot: Its number.
        elapsed: ns since it began, when the beacon was sent.
    """

    slot: int
    elapsed: int

    def __post_init__(self) -> None:
        if not 0 <= self.slot <= _UINT64_MAX:
            raise InvalidArgument("slot", "needs 64 bits")
        if not 0 <= self.elapsed <= SLOT_MOST:
            raise InvalidArgument("elapsed", f"needs 0 to {SLOT_MOST} ns")

    def encode(self) -> bytes:
        """The payload: a CBOR map of `s`, the slot, and `e`, what has passed of it."""
        return cbor.encode({"e": self.elapsed, "s": self.slot})

    @classmethod
    def decode(cls, payload: bytes) -> Beacon:
        """Reads a payload.

        Raises:
            NumiportError: MALFORMED: it is not such a map in deterministic CBOR, or its numbers
                cannot be.
        """
        try:
            found = cbor.decode(payload, BEACON_MAX)
        except cbor.CborError as error:
            raise NumiportError(Fault.MALFORMED, f"a beacon is CBOR: {error}") from None
        if not isinstance(found, dict) or found.keys() != _FIELDS:
            raise NumiportError(Fault.MALFORMED, "a beacon is a map of e and s")
        # bool is an int in Python, not in CBOR.
        if any(type(value) is not int for value in found.values()):
            raise NumiportError(Fault.MALFORMED, "a beacon's values are whole numbers")
        try:
            return cls(found["s"], found["e"])
        except InvalidArgument as error:
            raise NumiportError(Fault.MALFORMED, f"a beacon's {error}") from None


@dataclass(frozen=True, slots=True)
class ClockStats:
    """What the servo has seen.

    Attributes:
        taken: Beacons that the line was drawn by.
        repeated: That told of a slot that another one had told of.
        outliers: That the line contradicts.
        restarts: How often the line was given up for what contradicted it.
        is_locked: There is a line.
    """

    taken: int
    repeated: int
    outliers: int
    restarts: int
    is_locked: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """start(slot) = at + (slot - slot0) * slope."""

    slot: int
    at: int
    slope: int

    def start(self, slot: int) -> int:
        return self.at + ((slot - self.slot) * self.slope >> _FRACTION)


class SlotClock:
    """Maps slots to time by the beacons that it is shown.

    Args:
        settings: How long slots are believed to be.
        slot: A guess to begin with; its length is the settings' where nothing has been seen.
    """

    def __init__(self, settings: Slots, slot: Slot) -> None:
        self._settings = settings
        self._line = _Line(slot.number, slot.start, settings.length_ns << _FRACTION)
        self._seen: deque[tuple[int, int]] = deque(maxlen=KEPT)
        self._doubts: deque[tuple[int, int]] = deque(maxlen=DOUBTED)
        self._spread = settings.length_ns
        self._newest = slot.start
        self._taken = self._repeated = self._outliers = self._restarts = 0

    @property
    def is_locked(self) -> bool:
        """Whether there are beacons enough to know."""
        return len(self._seen) >= LOCKED_AFTER

    def observe(self, beacon: Beacon, arrived: int, path: int = 0) -> bool:
        """Takes a beacon of the slot's leader.

        Args:
            beacon: What it says.
            arrived: When it came, ns.
            path: What is known of the way's delay, one way, ns.

        Returns:
            Whether it counts; otherwise it told of a slot that is known, or is an outlier.
        """
        seen = (beacon.slot, arrived - beacon.elapsed - path)
        if any(slot == beacon.slot for slot, _ in self._seen):
            self._repeated += 1
            return False
        if self.is_locked and not self._is_likely(seen, arrived):
            self._doubt(seen, arrived)
            return False
        self._doubts.clear()
        self._take(seen, arrived)
        return True

    def slot_at(self, now: int) -> Slot:
        """The slot that a moment lies in, as the line has it.

        Args:
            now: ns.
        """
        line = self._line
        number = max(0, line.slot + ((now - line.at) << _FRACTION) // line.slope)
        # Starts are whole ns, so the division may be one slot off at an edge.
        while line.start(number) > now and number:
            number -= 1
        while line.start(number + 1) <= now:
            number += 1
        return self.slot(number)

    def slot(self, number: int) -> Slot:
        """When a slot is, as the line has it."""
        start = self._line.start(number)
        return Slot(number, start, self._line.start(number + 1) - start)

    def uncertainty(self, now: int) -> int:
        """How far a slot's start may be from where the line has it, ns.

        Three times the spread of the beacons, and what clocks may have drifted since the newest;
        never more than a slot. Margins and guards widen by it (`Scheduler.widen`,
        `GuardTuner.guard`).

        Args:
            now: ns.
        """
        length = self._line.slope >> _FRACTION
        if not self.is_locked:
            return length
        drift = max(0, now - self._newest) * self._settings.drift_ppm // 1_000_000
        return min(3 * self._spread + drift, length)

    def stats(self) -> ClockStats:
        """What it has seen."""
        return ClockStats(
            self._taken, self._repeated, self._outliers, self._restarts, self.is_locked
        )

    def _is_likely(self, seen: tuple[int, int], arrived: int) -> bool:
        """Whether an observation is within a quarter of a slot of the line, and more if unsure."""
        slot, start = seen
        room = max(self._settings.length_ns // 4, self.uncertainty(arrived))
        return abs(self._line.start(slot) - start) <= room

    def _doubt(self, seen: tuple[int, int], arrived: int) -> None:
        """Counts an outlier. So many in a row that agree with each other are right."""
        self._outliers += 1
        if any(slot == seen[0] for slot, _ in self._doubts):
            return
        self._doubts.append(seen)
        if len(self._doubts) < DOUBTED or not self._agree(self._doubts):
            return
        doubts = list(self._doubts)
        self._doubts.clear()
        self._seen.clear()
        self._restarts += 1
        for one in doubts:
            self._take(one, arrived)

    def _agree(self, seen: deque[tuple[int, int]]) -> bool:
        """Whether a line of a slope that slots can have goes near most of the observations."""
        line, spread = self._drawn(list(seen))
        return line is not None and spread <= self._settings.length_ns // 4

    def _take(self, seen: tuple[int, int], arrived: int) -> None:
        self._taken += 1
        self._seen.append(seen)
        self._newest = max(self._newest, arrived)
        line, spread = self._drawn(list(self._seen))
        if line is not None:
            self._line, self._spread = line, spread
        elif len(self._seen) == 1:
            slot, start = seen
            self._line = _Line(slot, start, self._line.slope)

    def _drawn(self, seen: list[tuple[int, int]]) -> tuple[_Line | None, int]:
        """The line through observations, and their spread about it, ns."""
        seen = sorted(seen)
        slopes = sorted(
            ((later - start) << _FRACTION) // (after - slot)
            for at, (slot, start) in enumerate(seen)
            for after, later in seen[at + 1 :]
            if after - slot < AHEAD_MAX
        )
        if not slopes:
            return None, 0
        low, high = self._settings.least_ns << _FRACTION, self._settings.most_ns << _FRACTION
        slope = max(low, min(high, slopes[len(slopes) // 2]))
        last = seen[-1][0]
        flat = _Line(last, 0, slope)
        rests = sorted(start - flat.start(slot) for slot, start in seen)
        middle = rests[len(rests) // 2]
        off = sorted(abs(rest - middle) for rest in rests)
        spread = off[len(off) // 2] * _SIGMA[0] // _SIGMA[1]
        return _Line(last, middle, slope), spread
