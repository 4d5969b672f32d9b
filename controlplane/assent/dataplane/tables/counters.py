# SPDX-License-Identifier: Apache-2.0
"""counters and tallies: what the gate has decided, by reason, interface, direction and pair."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from assent.dataplane.btf import Btf, Layout
from assent.dataplane.libbpf import Map, possible_cpus
from assent.dataplane.reasons import Reasons
from assent.dataplane.tables.units import index, present

Direction = Literal["arriving", "leaving"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("arriving", "leaving")
ELSEWHERE: Final = 0
"""The block of all interfaces that have none of their own."""
Place = tuple[int, Direction, str, int]
"""Where one CPU counts: block, direction, reason, CPU."""
_TALLIES_AT_ONCE: Final = 4096
# Bounds the memory that a batch takes: 256 bytes a slot and CPU.
_CLEARED_AT_ONCE: Final = 4096
STRIDE: Final = 64  # ASSENT_COUNTER_STRIDE: a macro, and BTF has no macros


@dataclass(frozen=True, slots=True)
class CounterTotals:
    """One verdict's counts, over all CPUs.

    Of a refusal, events + suppressed = frames + observed.

    Attributes:
        frames: that met it.
        bytes: of those, Ethernet headers included.
        observed: frames that would have met it, were their sessions not observed.
        events: how many of all those were told to watchers.
        suppressed: how many were not.
    """

    frames: int = 0
    bytes: int = 0
    observed: int = 0
    events: int = 0
    suppressed: int = 0

    def __add__(self, other: CounterTotals) -> CounterTotals:
        return CounterTotals(
            self.frames + other.frames,
            self.bytes + other.bytes,
            self.observed + other.observed,
            self.events + other.events,
            self.suppressed + other.suppressed,
        )

    def __bool__(self) -> bool:
        return bool(self.frames or self.observed)


class Suppressed(NamedTuple):
    """How many frames one CPU has not told of, and how many of those before its last event."""

    frames: int
    told: int


class CounterTable:
    """What interfaces count.

    An interface counts in a block of its own from the moment that it is attached. Blocks are never
    given to another one, so that no count ever falls; who comes when all are taken, or whose number
    falls on another one's slot, counts under ELSEWHERE.
    """

    def __init__(self, btf: Btf, counters: Map, interfaces: Map, reasons: Reasons) -> None:
        self._counters = counters
        self._interfaces = interfaces
        self._reasons = reasons
        self._interface = btf.map_value("interfaces")
        layout = btf.map_value("counters")
        self._codec, self._at = _words(layout)
        self._suppressed_at = layout.offsetof("suppressed") // 8
        self._told_at = layout.offsetof("told") // 8
        self._blocks = counters.max_entries // (len(DIRECTIONS) * STRIDE)
        self._directions = {
            name: btf.enum("assent_direction")[f"ASSENT_{name.upper()}"] for name in DIRECTIONS
        }

    def give_block(self, ifindex: int) -> int:
        """Returns the block of an interface, which gets one if there is one left."""
        slot = index(ifindex % self._interfaces.max_entries)
        held = self._interface.unpack(present(self._interfaces.lookup(slot)))
        if held.block != ELSEWHERE:
            return int(held.block) if held.ifindex == ifindex else ELSEWHERE
        used = set(self._taken().values())
        free = next((block for block in range(1, self._blocks) if block not in used), ELSEWHERE)
        if free != ELSEWHERE:
            self._interfaces.update(slot, self._interface.pack(ifindex=ifindex, block=free))
        return free

    def read(self, direction: Direction = "arriving") -> dict[str, CounterTotals]:
        """Returns every verdict's totals over all interfaces, by name."""
        return self._sum({ELSEWHERE, *self._taken().values()}, direction)

    def by_interface(
        self, direction: Direction = "arriving"
    ) -> dict[int, dict[str, CounterTotals]]:
        """Returns the totals of every interface that has a block, by its number; 0 = elsewhere."""
        blocks = {0: ELSEWHERE, **self._taken()}
        return {ifindex: self._sum([block], direction) for ifindex, block in blocks.items()}

    def _taken(self) -> dict[int, int]:
        entries = self._interfaces.read_range(0, self._interfaces.max_entries)
        size = self._interface.size
        rows = (
            self._interface.unpack(entries[at : at + size])
            for at in range(0, len(entries), size)
            if any(entries[at : at + size])
        )
        return {row.ifindex: row.block for row in rows}

    def suppressed(self, reasons: Collection[str]) -> dict[Place, Suppressed]:
        """Returns how far some reasons have come wherever they have occurred."""
        found = {}
        for block in {ELSEWHERE, *self._taken().values()}:
            for direction in DIRECTIONS:
                for reason, cpu, words in self._rows(block, direction):
                    now = Suppressed(words[self._suppressed_at], words[self._told_at])
                    if now.frames and reason in reasons:
                        found[block, direction, reason, cpu] = now
        return found

    def _sum(self, blocks: Iterable[int], direction: Direction) -> dict[str, CounterTotals]:
        totals = dict.fromkeys(self._reasons.names, CounterTotals())
        for block in blocks:
            for reason, _, words in self._rows(block, direction):
                totals[reason] += CounterTotals(*(words[at] for at in self._at))
        return totals

    def _rows(self, block: int, direction: Direction) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Yields (reason, CPU, words) of the counters in use; one system call."""
        first = (block * len(DIRECTIONS) + self._directions[direction]) * STRIDE
        names = self._reasons.names
        raw = self._counters.read_range(first, len(names))
        cpus = len(raw) // self._codec.size // len(names)
        for row, words in enumerate(self._codec.iter_unpack(raw)):
            if any(words):
                yield names[row // cpus], row % cpus, words


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of one pair's frames, over all CPUs.

    Attributes:
        frames: by verdict; those that never were are left out.
        bytes: of admitted frames.
        observed: admitted frames that policy would have refused.
    """

    frames: dict[str, int]
    bytes: int
    observed: int = 0


class TallyTable:
    """What pairs count."""

    def __init__(self, table: Map, layout: Layout, reasons: Reasons) -> None:
        self._table = table
        self._reasons = reasons
        self._codec = struct.Struct(f"={layout.size // 8}Q")
        self.capacity = table.max_entries

    def read(self, slot: int) -> Tally:
        """Returns the counts of a slot."""
        return self._tally(self._table.read_range(slot, 1))

    def read_all(self) -> dict[int, Tally]:
        """Returns the counts of every slot that has any, by slot."""
        found = {}
        size = self._table.value_size * possible_cpus()
        nothing = bytes(size)
        for first in range(0, self.capacity, _TALLIES_AT_ONCE):
            count = min(_TALLIES_AT_ONCE, self.capacity - first)
            raw = self._table.read_range(first, count)
            for at in range(count):
                one = raw[at * size : (at + 1) * size]
                if one != nothing:
                    found[first + at] = self._tally(one)
        return found

    def clear(self, slots: Iterable[int]) -> None:
        """Sets counts to zero, before others count there: of many slots with one system call."""
        wanted = list(slots)
        for at in range(0, len(wanted), _CLEARED_AT_ONCE):
            part = array("I", wanted[at : at + _CLEARED_AT_ONCE])
            zeros = bytes(len(part) * self._table.packed_size)
            self._table.update_packed(part.tobytes(), zeros, len(part))

    def _tally(self, raw: bytes) -> Tally:
        size, observed, *frames = map(sum, zip(*self._codec.iter_unpack(raw), strict=True))
        named = {self._reasons.name(at): count for at, count in enumerate(frames) if count}
        return Tally(named, size, observed)


def _words(layout: Layout) -> tuple[struct.Struct, tuple[int, ...]]:
    """How to read a counter at once: a codec, and where CounterTotals' members are in its words."""
    at = tuple(layout.offsetof(name) // 8 for name in CounterTotals.__slots__)
    return struct.Struct(f"={layout.size // 8}Q"), at
