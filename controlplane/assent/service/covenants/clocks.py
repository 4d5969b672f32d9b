# SPDX-License-Identifier: Apache-2.0
"""Unix time, in which covenants are written, as the gate's monotonic time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_GRID: Final = 100_000_000
"""ns. What two readings of two clocks differ by is far less; a step that matters is more."""
_US: Final = 1_000


class Clocks:
    """Turns Unix time into monotonic time, the same way each time, until the wall clock is set.

    The offset between the two clocks is kept on a grid of 0.1 s, and as long as it is off by no
    more than one step of that: what is converted again must not look like something else.

    Args:
        unix_ns: This host's wall clock, ns.
        monotonic_ns: Its monotonic clock, which is the gate's, ns.
    """

    def __init__(
        self,
        unix_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._unix_ns = unix_ns
        self._monotonic_ns = monotonic_ns
        self._offset: int | None = None

    def unix_us(self) -> int:
        """Unix time, microseconds."""
        return self._unix_ns() // _US

    def monotonic_ns(self) -> int:
        """Monotonic time, ns."""
        return self._monotonic_ns()

    def offset_ns(self) -> int:
        """What is to be added to Unix time to get monotonic time, ns; within 0.15 s."""
        found = self._monotonic_ns() - self._unix_ns()
        if self._offset is None or abs(found - self._offset) > _GRID:
            self._offset = round(found / _GRID) * _GRID
        return self._offset
