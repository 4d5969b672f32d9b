# SPDX-License-Identifier: Apache-2.0
"""Hands out runs of consecutive slots of an array, and takes them back.

A run that the dataplane may still be reading is retired, not released: it is used again only after
a grace, and only when no other space will do. Knows nothing of maps; the clock is passed in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable

from assent.errors import ResourceExhausted


class RunAllocator:
    """First fit over runs of free slots.

    Attributes:
        capacity: slots in all.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        grace_ns: int,
        clock: Callable[[], int],
        used: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Starts with everything free but `used`.

        Args:
            name: of the slots, for messages.
            capacity: slots in all.
            grace_ns: how long a retired run stays unused.
            clock: monotonic, ns.
            used: runs (start, length) in use already, in any order.
        """
        self._name = name
        self.capacity = capacity
        self._grace_ns = grace_ns
        self._clock = clock
        self._retired: deque[tuple[int, int, int]] = deque()  # (since, start, length), oldest first
        self._free: list[tuple[int, int]] = []  # (start, end), sorted, neither touching nor empty
        at = 0
        for start, length in sorted(used):
            if start > at:
                self._free.append((at, start))
            at = max(at, start + length)
        if at < capacity:
            self._free.append((at, capacity))

    @property
    def free(self) -> int:
        """Slots that are free, in runs of any length; retired ones are not among them."""
        return sum(end - start for start, end in self._free)

    @property
    def retiring(self) -> int:
        """Slots that wait for their grace to pass, or for being needed again."""
        return sum(length for _, _, length in self._retired)

    def allocate(self, length: int) -> int:
        """Returns the first slot of a run.

        Raises:
            ResourceExhausted: there is no free run of that length.
        """
        start = self._take(length)
        if start is None:
            self._recycle()
            start = self._take(length)
        if start is None:
            raise ResourceExhausted(
                f"no {length} consecutive {self._name} are free: {self.free} of {self.capacity} "
                f"are, and {self.retiring} wait to be used again. Use a larger profile"
            )
        return start

    def allocate_many(self, count: int, length: int) -> list[tuple[int, int]]:
        """Takes `count` runs of `length` slots each; all or none.

        Returns:
            (first slot, how many runs lie there side by side), as few as the free space allows.

        Raises:
            ResourceExhausted: there is not that much room. Nothing has been taken.
        """
        taken: list[tuple[int, int]] = []
        left = piece = count
        try:
            while left:
                piece = min(piece, left)
                start = self.allocate(length) if piece == 1 else self._take(piece * length)
                if start is None:
                    piece = (piece + 1) // 2
                    continue
                taken.append((start, piece))
                left -= piece
        except ResourceExhausted:
            for start, runs in taken:
                self.release(start, runs * length)
            raise
        return taken

    def release(self, start: int, length: int) -> None:
        """Takes back a run that the dataplane never saw."""
        end = start + length
        at = bisect_left(self._free, (start, end))
        if at < len(self._free) and self._free[at][0] == end:
            end = self._free.pop(at)[1]
        if at and self._free[at - 1][1] == start:
            at -= 1
            start = self._free.pop(at)[0]
        self._free.insert(at, (start, end))

    def retire(self, start: int, length: int) -> None:
        """Takes back a run that the dataplane may still be reading."""
        self._retired.append((self._clock(), start, length))

    def _take(self, length: int) -> int | None:
        for i, (start, end) in enumerate(self._free):
            if end - start > length:
                self._free[i] = (start + length, end)
                return start
            if end - start == length:
                del self._free[i]
                return start
        return None

    def _recycle(self) -> None:
        until = self._clock() - self._grace_ns
        while self._retired and self._retired[0][0] <= until:
            _, start, length = self._retired.popleft()
            self.release(start, length)
