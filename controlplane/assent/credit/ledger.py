# SPDX-License-Identifier: Apache-2.0
"""The finite universe: a node never promises more room than it has.

A window is reserved here before it is promised. The gate admits a frame only while
`rx_spent < rx_granted`, and an endpoint advances `rx_granted` only as it consumes what has arrived,
so at any moment `rx_granted - rx_spent` of a flow is at most its window. The sum of the windows
held here is therefore an upper bound of all that may still arrive, and

    0 <= promised <= capacity

holds after every operation. An operation that would break it raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from assent.errors import InvalidArgument, NotFound, ResourceExhausted

Key = TypeVar("Key", bound=Hashable)


class Ledger(Generic[Key]):
    """Windows promised, by key; all amounts are blocks of 64 bytes.

    Args:
        capacity: What the node may promise in all.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise InvalidArgument("capacity", f"needs 0 or more blocks, got {capacity}")
        self._capacity = capacity
        self._windows: dict[Key, int] = {}
        self._promised = 0

    @property
    def capacity(self) -> int:
        """What the node may promise in all."""
        return self._capacity

    @property
    def promised(self) -> int:
        """The sum of all windows held."""
        return self._promised

    @property
    def left(self) -> int:
        """What may still be promised."""
        return self._capacity - self._promised

    def held(self, key: Key) -> int:
        """The window held under a key; 0 where there is none."""
        return self._windows.get(key, 0)

    def windows(self) -> dict[Key, int]:
        """All windows held, as they are now; a copy."""
        return dict(self._windows)

    def reserve(self, key: Key, blocks: int) -> None:
        """Holds a new window.

        Raises:
            InvalidArgument: The window is empty, or the key holds one already.
            ResourceExhausted: The node has not that much left.
        """
        if key in self._windows:
            raise InvalidArgument("window_blocks", "a window is held for this flow already")
        self._take(key, 0, blocks)

    def widen(self, key: Key, blocks: int) -> None:
        """Raises the window of a key to `blocks`.

        Raises:
            NotFound: The key holds no window.
            InvalidArgument: The window would become narrower.
            ResourceExhausted: The node has not that much left.
        """
        held = self._windows.get(key)
        if held is None:
            raise NotFound("no window is held for this flow")
        if blocks < held:
            raise InvalidArgument("window_blocks", f"{blocks} is less than the {held} promised")
        self._take(key, held, blocks)

    def release(self, key: Key) -> int:
        """Gives a window back; returns its size, 0 where there was none."""
        held = self._windows.pop(key, 0)
        self._promised -= held
        return held

    def settle(self, windows: Mapping[Key, int]) -> None:
        """Holds exactly these windows instead of those held so far.

        Raises:
            InvalidArgument: One of them is empty.
            ResourceExhausted: Together they are more than the node has.
        """
        if any(blocks < 1 for blocks in windows.values()):
            raise InvalidArgument("window_blocks", "needs at least 1 block")
        total = sum(windows.values())
        if total > self._capacity:
            raise ResourceExhausted(
                f"{total} blocks of credit asked for in all, the node has {self._capacity}"
            )
        self._windows = dict(windows)
        self._promised = total

    def _take(self, key: Key, held: int, blocks: int) -> None:
        if blocks < 1:
            raise InvalidArgument("window_blocks", f"needs at least 1 block, got {blocks}")
        more = blocks - held
        if more > self.left:
            raise ResourceExhausted(
                f"{more} blocks of credit asked for, {self.left} of {self._capacity} left"
            )
        self._windows[key] = blocks
        self._promised += more
