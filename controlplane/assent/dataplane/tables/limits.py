# SPDX-License-Identifier: Apache-2.0
"""What the terms of a covenant say of a sender's data, as the gate holds it to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assent.dataplane.tables.units import SEC
from assent.errors import InvalidArgument

_MAX_INTERVAL: Final = 3600 * SEC
"""A block an hour. A frame has at most 1,025 blocks, and their sum stays within 64 bits."""
_MAX_TIME: Final = (1 << 63) - 1
_MAX_LIMIT: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class TermLimits:
    """Limits of the data that one pair's sender may send; 0 = this one is not set.

    An interval that ends before it begins is never open.

    Attributes:
        interval_ns: what a 64-byte block costs, ns: 1/rate; 0 = any rate.
        burst_ns: how far the sender may run ahead of that rate, ns. A frame whose blocks cost more
            than that never fits.
        payload_limit: bytes that a frame may carry.
        open_from: monotonic ns at which its data begins to be admitted.
        open_until: monotonic ns at which it ends.

    Raises:
        InvalidArgument: a number is out of its range.
    """

    interval_ns: int = 0
    burst_ns: int = 0
    payload_limit: int = 0
    open_from: int = 0
    open_until: int = 0

    def __post_init__(self) -> None:
        _check("interval_ns", self.interval_ns, _MAX_INTERVAL)
        _check("burst_ns", self.burst_ns, _MAX_TIME)
        _check("payload_limit", self.payload_limit, _MAX_LIMIT)
        _check("open_from", self.open_from, _MAX_TIME)
        _check("open_until", self.open_until, _MAX_TIME)


def _check(field: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise InvalidArgument(field, f"must be from 0 to {most}")


NO_LIMITS: Final = TermLimits()
