# SPDX-License-Identifier: Apache-2.0
"""When each packet to one peer leaves (seed 5.4 and 10.5), as Python drives it.

Everything per packet is in C (native/sched.h, which is the manual); here are whole batches, a
peer's phase, and how budgets are shared out by stake. Times are ns on whatever clock the caller
keeps, sizes are bytes. A scheduler belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any, Final, TypeVar

from assent._numi import ffi, lib
from assent.closing import Closing
from assent.errors import InvalidArgument, ResourceExhausted
from assent.numiport.clock import Slot
from assent.numiport.profiles import Profile

NEVER: Final = 2**64 - 1
AHEAD: Final[int] = lib.NUMI_SCHED_AHEAD
BATCH: Final = 256

Peer = TypeVar("Peer", bound=Hashable)


class Verdict(IntEnum):
    """What became of a packet that was offered.

    Members:
        TAKEN: It waits for its turn.
        FULL: Its class's queue has no room: back-pressure.
        LATE: Its deadline has passed.
        EARLY: Its slot is more than `AHEAD` slots ahead.
        INVALID: No such class, or a length that no packet has.
        MEMORY: There is no memory for it.
    """

    TAKEN = lib.NUMI_SCHED_TAKEN
    FULL = lib.NUMI_SCHED_FULL
    LATE = lib.NUMI_SCHED_LATE
    EARLY = lib.NUMI_SCHED_EARLY
    INVALID = lib.NUMI_SCHED_INVALID
    MEMORY = lib.NUMI_SCHED_MEMORY


@dataclass(frozen=True, slots=True)
class Offer:
    """A packet that is to leave.

    Attributes:
        handle: The caller's name for it, 64 bits.
        cls: 0 to 3.
        slot: By the end of which, less the class's margin, it must have left.
        length: Bytes that are charged.
    """

    handle: int
    cls: int
    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Departure:
    """A packet that leaves, or that is given back.

    Attributes:
        handle: As it was offered.
        time: ns at which it leaves; where it is late, at which that was seen.
        cls: 0 to 3.
        length: Bytes.
        is_late: It does not leave: its deadline has passed.
    """

    handle: int
    time: int
    cls: int
    length: int
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class ClassStats:
    """One class towards one peer.

    Attributes:
        queued_packets: That wait.
        queued_bytes: And their bytes.
        credit: Bytes that it may send at once.
        budget: Bytes per slot, scaled.
        sent_packets: That have left.
        sent_bytes: And their bytes.
        late: Packets whose deadline passed, before they were taken or after.
        refused: For lack of room.
        slot_bytes: That have left in this slot.
    """

    queued_packets: int
    queued_bytes: int
    credit: int
    budget: int
    sent_packets: int
    sent_bytes: int
    late: int
    refused: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A scheduler as it stands.

    Attributes:
        classes: By class number.
        slot: Its number.
        slot_start: ns.
        slot_end: ns.
        time: Up to which departures are decided, ns.
        phase: After the slot's start, ns.
        scale: Of this slot's credits, thousandths.
        calm: Slots in a row with next to no CE marks.
        clamps_p0: Turns that P0 gave up after a burst.
        clamps_p1: The same of P1.
        floor_hits: Turns that P2 had ahead of P1 for its floor.
    """

    classes: tuple[ClassStats, ClassStats, ClassStats, ClassStats]
    slot: int
    slot_start: int
    slot_end: int
    time: int
    phase: int
    scale: int
    calm: int
    clamps_p0: int
    clamps_p1: int
    floor_hits: int


_CLASS_STATS: Final = tuple(ClassStats.__dataclass_fields__)
_STATS: Final = tuple(Stats.__dataclass_fields__)[1:]


class Scheduler(Closing):
    """Queues, credits and turns towards one peer. Use it with `with`: its memory is C's.

    Args:
        profile: Says the settings.
        slot: The present one; buckets are full at its start.
        draw: Of the peer's phase, 64 bits: see `phase_draw`.
        line: Bytes per second of the line, 0 = packets take no time on it.

    Raises:
        InvalidArgument: The slot, the draw or the line is out of bounds.
        ResourceExhausted: There is no memory.
    """

    def __init__(self, profile: Profile, slot: Slot, draw: int = 0, line: int = 0) -> None:
        if not 0 <= draw <= NEVER:
            raise InvalidArgument("draw", "needs 64 bits")
        if not 0 <= line <= lib.NUMI_SCHED_TIME_MAX:
            raise InvalidArgument("line", "is out of bounds")
        _check(slot)
        config = ffi.new("struct numi_sched_config *", _config(profile, draw, line))
        self._sched = lib.numi_sched_new(config, slot.number, slot.start, slot.length)
        if self._sched == ffi.NULL:
            raise ResourceExhausted("no memory for a scheduler")
        self._room = BATCH
        self._out = ffi.new("struct numi_departure[]", self._room)

    def close(self) -> None:
        """Frees it; packets that wait are forgotten. Idempotent."""
        sched, self._sched = self._sched, ffi.NULL
        lib.numi_sched_free(sched)

    def push(self, now: int, offers: Iterable[Offer]) -> list[Verdict]:
        """Offers packets.

        Args:
            now: ns.
            offers: In the order in which they are to leave where deadlines are equal.

        Returns:
            A verdict for each; whoever reads FULL offers it again when some have left.

        Raises:
            InvalidArgument: A number has no place in its field.
        """
        rows = [(one.handle, one.slot, one.length, one.cls) for one in offers]
        try:
            batch = ffi.new("struct numi_offer[]", rows)
        except OverflowError as error:
            raise InvalidArgument("offers", str(error)) from None
        lib.numi_sched_push(self._alive, now, batch, len(rows))
        return [Verdict(batch[at].verdict) for at in range(len(rows))]

    def run(self, now: int, until: int, most: int = BATCH) -> list[Departure]:
        """Decides what leaves up to a moment.

        Args:
            now: ns.
            until: The last moment, ns, this one included. What is decided stays decided: what
                comes later, however urgent, leaves after it.
            most: Departures at a time; whoever gets so many calls again.

        Returns:
            What leaves, in the order of time, and what is late.
        """
        if most > self._room:
            self._room = most
            self._out = ffi.new("struct numi_departure[]", most)
        count = lib.numi_sched_run(self._alive, now, until, self._out, most)
        return [
            Departure(one.handle, one.time, one.cls, one.len, bool(one.late))
            for one in self._out[0:count]
        ]

    def next_at(self, now: int) -> int | None:
        """The first moment at which `run` finds something, ns; None: not in this slot."""
        t: int = lib.numi_sched_next(self._alive, now)
        return None if t == NEVER else t

    def mark(self, marked: int, total: int) -> None:
        """Counts CE marks among packets of the present slot.

        Args:
            marked: Packets with a mark; of a peer's ECN_SUMMARY, its thousandths.
            total: All of them; of an ECN_SUMMARY, 1000.

        Raises:
            InvalidArgument: There are more marks than packets, or more than 32 bits hold.
        """
        if not 0 <= marked <= total <= 0xFFFF_FFFF:
            raise InvalidArgument("marked", f"needs 0 to {total}, got {marked}")
        lib.numi_sched_mark(self._alive, marked, total)

    def begin(self, slot: Slot) -> None:
        """Begins a slot: its length counts, and credits are scaled by the last one's marks.

        Raises:
            InvalidArgument: It is not later than the present one, or out of bounds.
        """
        _check(slot)
        if lib.numi_sched_slot(self._alive, slot.number, slot.start, slot.length):
            raise InvalidArgument("slot", "is not later than the present one")

    def cap(self, cls: int, credit: int) -> None:
        """Sets a class's credit from the next slot on: see `stake_caps`.

        Args:
            cls: 0 to 3.
            credit: Bytes per slot; the profile's floor and ceiling of the class hold.

        Raises:
            InvalidArgument: There is no such class, or the credit is no number of bytes.
        """
        if not 0 <= credit <= NEVER:
            raise InvalidArgument("credit", "is out of bounds")
        if not 0 <= cls < lib.NUMI_CLASSES or lib.numi_sched_cap(self._alive, cls, credit):
            raise InvalidArgument("cls", "needs 0 to 3")

    def widen(self, uncertainty: int) -> None:
        """Sets what is added to the margins of packets offered from now on, ns."""
        lib.numi_sched_widen(self._alive, max(0, min(uncertainty, NEVER)))

    def stats(self) -> Stats:
        """What it holds and has done."""
        found = ffi.new("struct numi_sched_stats *")
        lib.numi_sched_stats(self._alive, found)
        p0, p1, p2, p3 = (
            ClassStats(*(getattr(one, name) for name in _CLASS_STATS)) for one in found.classes
        )
        return Stats((p0, p1, p2, p3), *(getattr(found, name) for name in _STATS))

    @property
    def _alive(self) -> Any:
        if self._sched == ffi.NULL:
            raise InvalidArgument("scheduler", "is closed")
        return self._sched


def _check(slot: Slot) -> None:
    if not 0 <= slot.number <= NEVER or not 0 <= slot.start < lib.NUMI_SCHED_TIME_MAX:
        raise InvalidArgument("slot", "its number or its start is out of bounds")
    if not lib.NUMI_SCHED_SLOT_LEAST <= slot.length <= lib.NUMI_SCHED_SLOT_MOST:
        raise InvalidArgument("slot", "its length needs 1 ms to 8 s")


def _config(profile: Profile, draw: int, line: int) -> dict[str, object]:
    turns, ecn = profile.arbitration, profile.ecn
    return {
        "classes": [
            {
                "credit": one.credit,
                "floor": one.floor,
                "ceiling": one.ceiling,
                "queue_packets": one.queue_packets,
                "queue_bytes": one.queue_bytes,
                "margin": one.margin_ns,
            }
            for one in profile.classes.in_order()
        ],
        "burst_p0": turns.burst_p0,
        "burst_p1": turns.burst_p1,
        "quantum_p1": turns.quantum_p1,
        "quantum_p2": turns.quantum_p2,
        "bursts": turns.bursts,
        "high_permille": ecn.high_permille,
        "high_scale": ecn.high_scale,
        "raised_permille": ecn.raised_permille,
        "raised_scale": ecn.raised_scale,
        "calm_permille": ecn.calm_permille,
        "calm_scale": ecn.calm_scale,
        "calm_slots": ecn.calm_slots,
        "step_permille": ecn.step_permille,
        "line": line,
        "phase": draw,
    }


def phase_draw(local: bytes, remote: bytes) -> int:
    """A peer's draw of its phase, the same whenever it is asked for: 64 bits.

    Both ids count, so that neither what one host sends to many nor what many send to one begins
    all at once.

    Args:
        local: The sender's id.
        remote: The receiver's.
    """
    ids = len(local).to_bytes(8, "big") + local + remote
    return int.from_bytes(hashlib.blake2b(ids, digest_size=8, person=b"numi-phase").digest(), "big")


def stake_caps(total: int, stakes: Mapping[Peer, int], floor: int, ceiling: int) -> dict[Peer, int]:
    """Shares a node's bytes per slot out among its peers by their stakes.

    Nobody gets less than the floor, so a small validator is not starved by large ones, nor more
    than the ceiling; what these leave is shared in proportion to stakes.

    Args:
        total: Bytes per slot of all together.
        stakes: Of each peer; 0 is one.
        floor: Bytes per slot of each, at the least.
        ceiling: And at the most.

    Returns:
        A cap for each. Together they are no more than the total.

    Raises:
        InvalidArgument: Floors alone are more than the total, a stake is negative, or the ceiling
            is below the floor.
    """
    if any(stake < 0 for stake in stakes.values()):
        raise InvalidArgument("stakes", "a stake is negative")
    if not 0 <= floor <= ceiling:
        raise InvalidArgument("ceiling", f"needs at least the floor of {floor}")
    if floor * len(stakes) > total:
        raise InvalidArgument("total", f"is less than {len(stakes)} floors of {floor}")
    rate = _rate(total, sorted(stakes.values()), floor, ceiling)
    return {
        peer: max(floor, min(ceiling, stake * rate.numerator // rate.denominator))
        for peer, stake in stakes.items()
    }


def _rate(total: int, stakes: list[int], floor: int, ceiling: int) -> Fraction:
    """Bytes per unit of stake at which the total is used up, or all are at the ceiling.

    What all get grows with the rate, and bends where one leaves the floor or meets the ceiling;
    between two bends it is a line.
    """

    def used(rate: Fraction) -> Fraction:
        return sum(
            (max(Fraction(floor), min(Fraction(ceiling), stake * rate)) for stake in stakes),
            Fraction(0),
        )

    paying = [stake for stake in stakes if stake]
    bends = sorted({Fraction(edge, stake) for edge in (floor, ceiling) for stake in paying})
    if not bends or used(bends[-1]) <= total:
        return bends[-1] if bends else Fraction(0)
    # bends[high] takes more than there is; at the first one all are at the floor.
    low, high = 1, len(bends) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if used(bends[middle]) > total else (middle + 1, high)
    start, end = bends[low - 1], bends[low]
    at_start = used(start)
    return start + (end - start) * (total - at_start) / (used(end) - at_start)
