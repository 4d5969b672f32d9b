# SPDX-License-Identifier: Apache-2.0
"""Groups of shreds that survive losses: Reed-Solomon over GF(2^8) (seed 3 and 5.1).

A group is `data` shreds and `coding` shreds that are made of them, all of one length; any `data` of
them give back the rest. The arithmetic is ISA-L's, through liberasurecode and PyECLib. That library
puts a header before each of its fragments, which depends on nothing but the group's shape and the
length of its shreds: it is made here, never sent, and so never read from the network.

The wire says how many shreds a group has, `fec_total`, and which of them a packet is, `shred_idx`.
How many of them are data follows from the total (`Shape.of_total`). Recovery takes time that grows
with the cube of the data shreds, so groups are bounded: 128 shreds, and 64 is what Turbine uses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyeclib.ec_iface import ECDriver

from assent.errors import InvalidArgument
from assent.numiport.wire import PACKET_MAX, Fault, NumiportError

TOTAL_MAX: Final = 128
SHRED_MAX: Final = PACKET_MAX
PERMILLE: Final = 1000
HALF: Final = 500
"""The share of coding shreds by default, in thousandths: Turbine's 32 of 64."""
_HEADER_LEN: Final = 80
_SHAPES_KEPT: Final = 64


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """How many shreds a group has.

    Raises:
        InvalidArgument: There is no such group.
    """

    data: int
    coding: int

    def __post_init__(self) -> None:
        if self.data < 1 or self.coding < 1 or self.total > TOTAL_MAX:
            raise InvalidArgument("shape", f"needs data and coding shreds, {TOTAL_MAX} at most")

    @property
    def total(self) -> int:
        """Data and coding shreds."""
        return self.data + self.coding

    @classmethod
    def of_total(cls, total: int, coding_permille: int = HALF) -> Shape:
        """The shape of a group of `total` shreds, where so many thousandths of them are coding.

        Raises:
            InvalidArgument: There is no such group.
        """
        coding = max(1, total * coding_permille // PERMILLE)
        return cls(total - coding, coding)


def encode(shape: Shape, data: Sequence[bytes]) -> list[bytes]:
    """Makes the coding shreds.

    Args:
        shape: Of the group.
        data: Its data shreds, all of one length of 1 byte or more, such as a packet holds.

    Raises:
        InvalidArgument: They do not make such a group.
    """
    if len(data) != shape.data:
        raise InvalidArgument("data", f"needs {shape.data} shreds, got {len(data)}")
    length = len(data[0])
    if not 1 <= length <= SHRED_MAX:
        raise InvalidArgument("data", f"needs shreds of 1 to {SHRED_MAX} bytes, got {length}")
    if any(len(shred) != length for shred in data):
        raise InvalidArgument("data", "needs shreds of one length")
    fragments = _driver(shape).encode(b"".join(data))
    return [fragment[_HEADER_LEN:] for fragment in fragments[shape.data :]]


def recover(shape: Shape, present: Mapping[int, bytes]) -> list[bytes]:
    """Gives back all data shreds of a group.

    Args:
        shape: Of the group.
        present: Shreds by index, data first; `shape.data` of them or more, all of one length.

    Raises:
        InvalidArgument: They are too few, or not of one group.
    """
    if len(present) < shape.data:
        raise InvalidArgument("present", f"needs {shape.data} shreds, got {len(present)}")
    if not all(0 <= index < shape.total for index in present):
        raise InvalidArgument("present", "has an index that is not in the group")
    length = len(next(iter(present.values())))
    if not 1 <= length <= SHRED_MAX or any(len(shred) != length for shred in present.values()):
        raise InvalidArgument("present", f"needs shreds of one length of 1 to {SHRED_MAX} bytes")
    if all(index in present for index in range(shape.data)):
        return [present[index] for index in range(shape.data)]
    headers = _headers(shape, length)
    # Data first: each data shred that is there is one row of the matrix less to be solved for.
    chosen = sorted(present)[: shape.data]
    block = _driver(shape).decode([headers[index] + present[index] for index in chosen])
    return [block[at : at + length] for at in range(0, shape.data * length, length)]


@functools.lru_cache(maxsize=_SHAPES_KEPT)
def _driver(shape: Shape) -> ECDriver:
    return ECDriver(k=shape.data, m=shape.coding, ec_type="isa_l_rs_cauchy", chksum_type="none")


@functools.lru_cache(maxsize=_SHAPES_KEPT)
def _headers(shape: Shape, length: int) -> tuple[bytes, ...]:
    fragments = _driver(shape).encode(bytes(shape.data * length))
    return tuple(fragment[:_HEADER_LEN] for fragment in fragments)


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """Which group a shred belongs to.

    Attributes:
        slot: The slot.
        first: What names the group within it: the block's index of its first shred, where shreds
            say it themselves; of shreds that come from one peer, `seq - shred_idx`.
    """

    slot: int
    first: int


@dataclass(slots=True)
class _Group:
    shape: Shape
    length: int
    shreds: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Counts:
    """What became of shreds and groups, since the start."""

    complete: int = 0
    recovered: int = 0
    duplicates: int = 0
    evicted: int = 0
    refused: int = 0


class Groups:
    """The groups that are being received: bounded in number and bytes.

    A group that is complete gives back its memory, and is remembered as complete until its slot is
    forgotten. Where there are too many groups or bytes, the oldest slot is forgotten as a whole: it
    is repaired, or not at all. Within the newest slot, what goes beyond the bounds is not taken.

    Whether shreds are genuine is not for a code to say: of one that is not, it makes others.

    Args:
        coding_permille: The share of coding shreds in every group.
        most_groups: Groups that are remembered, complete ones among them.
        most_bytes: Of shreds in groups that are not complete.
    """

    __slots__ = (
        "_bytes",
        "_coding_permille",
        "_done",
        "_floor",
        "_most_bytes",
        "_most_groups",
        "_open",
        "_slots",
        "counts",
    )

    def __init__(
        self,
        coding_permille: int = HALF,
        most_groups: int = 4096,
        most_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if not 1 <= coding_permille < PERMILLE:
            raise InvalidArgument("coding_permille", f"needs 1 to {PERMILLE - 1}")
        if most_groups < 1 or most_bytes < TOTAL_MAX * SHRED_MAX:
            raise InvalidArgument("most_bytes", "needs room for one group of the largest kind")
        self._coding_permille = coding_permille
        self._most_groups = most_groups
        self._most_bytes = most_bytes
        self._open: dict[GroupKey, _Group] = {}
        self._done: dict[GroupKey, Shape] = {}
        self._slots: dict[int, set[GroupKey]] = {}
        self._bytes = 0
        self._floor = 0
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._open) + len(self._done)

    @property
    def bytes_held(self) -> int:
        """Of shreds in groups that are not complete."""
        return self._bytes

    def add(self, key: GroupKey, total: int, index: int, shred: bytes) -> dict[int, bytes] | None:
        """Takes a shred.

        Args:
            key: The group that it belongs to.
            total: Shreds of the group, as its packet says (`fec_total`).
            index: Its place among them (`shred_idx`).
            shred: Its bytes.

        Returns:
            When this shred makes the group complete: the data shreds that had not arrived and have
            been recovered, by index, perhaps none. Else None.

        Raises:
            NumiportError: There is no such group, or it contradicts what came of it before.
        """
        shape = self._shape(total, index, shred)
        if key.slot < self._floor:
            self.counts.refused += 1
            return None
        known = self._done.get(key)
        if known is not None:
            self._agree(shape == known)
            self.counts.duplicates += 1
            return None
        group = self._open.get(key)
        if group is not None:
            self._agree(group.shape == shape and group.length == len(shred))
            if index in group.shreds:
                self.counts.duplicates += 1
                return None
        if not self._make_room(key.slot, len(shred), 0 if group else 1):
            self.counts.refused += 1
            return None
        if group is None:
            group = self._open[key] = _Group(shape, len(shred))
            self._slots.setdefault(key.slot, set()).add(key)
        group.shreds[index] = shred
        self._bytes += len(shred)
        return self._complete(key, group) if len(group.shreds) >= shape.data else None

    def is_complete(self, key: GroupKey) -> bool:
        """Whether all its data shreds have been there."""
        return key in self._done

    def missing(self, slot: int) -> Iterator[tuple[GroupKey, int]]:
        """The data shreds of a slot that must be repaired: no more of a group than it needs."""
        for key in sorted(self._slots.get(slot, ())):
            if key in self._done:
                continue
            group = self._open[key]
            absent = [index for index in range(group.shape.data) if index not in group.shreds]
            for index in absent[: group.shape.data - len(group.shreds)]:
                yield key, index

    def forget_before(self, slot: int) -> None:
        """Forgets all slots before this one, for good."""
        self._floor = max(self._floor, slot)
        for old in [old for old in self._slots if old < slot]:
            for key in self._slots.pop(old):
                if self._done.pop(key, None) is None:
                    self._drop(key)

    def _shape(self, total: int, index: int, shred: bytes) -> Shape:
        try:
            shape = Shape.of_total(total, self._coding_permille)
        except InvalidArgument as error:
            raise NumiportError(Fault.MALFORMED, f"a group of {total} shreds") from error
        if not 0 <= index < total:
            raise NumiportError(Fault.MALFORMED, "an index of a shred outside its group")
        if not 1 <= len(shred) <= SHRED_MAX:
            raise NumiportError(Fault.MALFORMED, f"a shred of {len(shred)} bytes")
        return shape

    def _agree(self, agrees: bool) -> None:
        if not agrees:
            raise NumiportError(Fault.MALFORMED, "a shred that contradicts its group")

    def _complete(self, key: GroupKey, group: _Group) -> dict[int, bytes]:
        data = recover(group.shape, group.shreds)
        recovered = {index: shred for index, shred in enumerate(data) if index not in group.shreds}
        self._drop(key)
        self._done[key] = group.shape
        self.counts.complete += 1
        self.counts.recovered += len(recovered)
        return recovered

    def _make_room(self, slot: int, length: int, groups: int) -> bool:
        """Forgets older slots until there is room; False: there is none."""
        while len(self) + groups > self._most_groups or self._bytes + length > self._most_bytes:
            oldest = min(self._slots)
            if oldest >= slot:
                return False
            self.counts.evicted += sum(key in self._open for key in self._slots[oldest])
            self.forget_before(oldest + 1)
        return True

    def _drop(self, key: GroupKey) -> None:
        group = self._open.pop(key)
        self._bytes -= group.length * len(group.shreds)
