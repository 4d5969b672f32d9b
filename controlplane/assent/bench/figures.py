# SPDX-License-Identifier: Apache-2.0
"""How times are told."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def p99(taken: Sequence[int]) -> int:
    """What 99 of 100 took at most; of fewer than 100, the longest."""
    return sorted(taken)[ceil(0.99 * len(taken)) - 1]


def ms(ns: float) -> float:
    """Milliseconds of nanoseconds, to the microsecond."""
    return round(ns / 1e6, 3)


def gbit(bytes_per_second: float) -> float:
    """Gbit a second of bytes a second, to the Mbit."""
    return round(bytes_per_second * 8 / 1e9, 3)
