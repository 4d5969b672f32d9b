# SPDX-License-Identifier: Apache-2.0
"""Spans and moments of time as people write and read them; inside, all are microseconds."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime

from assent.errors import InvalidArgument

SECOND_US = 1_000_000
_UINT64_MAX = (1 << 64) - 1

_SPAN = re.compile(r"(?:\d{1,19}(?:us|ms|[smhdw]))+", re.ASCII)
_PART = re.compile(r"(\d+)(us|ms|[smhdw])", re.ASCII)
_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND_US,
    "m": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "d": 86_400 * SECOND_US,
    "w": 7 * 86_400 * SECOND_US,
}
_SHOWN = (
    (86_400 * SECOND_US, "d"),
    (3_600 * SECOND_US, "h"),
    (60 * SECOND_US, "min"),
    (SECOND_US, "s"),
    (1_000, "ms"),
    (1, "µs"),
)


def now() -> int:
    """Unix time, µs."""
    return time.time_ns() // 1_000


def parse(field: str, text: str) -> int:
    """Reads a span as in `30s`, `1h30m`, `250ms` or `7d`.

    Returns:
        Microseconds.

    Raises:
        InvalidArgument: It is not a span, or longer than the API can say.
    """
    text = text.strip().lower()
    if not _SPAN.fullmatch(text):
        raise InvalidArgument(field, "needs a span of time like 30s, 5m, 2h or 7d")
    span = sum(int(amount) * _UNIT_US[unit] for amount, unit in _PART.findall(text))
    if span > _UINT64_MAX:
        raise InvalidArgument(field, "is longer than can be said in microseconds")
    return span


def parse_moment(field: str, value: object, start: int) -> int:
    """Reads a moment: a span counts from `start`; else it is a date, or a time with its offset.

    Args:
        field: How errors call it.
        value: Text, or a date of a TOML file.
        start: Unix µs.

    Returns:
        Unix time, µs.

    Raises:
        InvalidArgument: It is neither, or lies before 1970.
    """
    if isinstance(value, str):
        if _SPAN.fullmatch(value.strip().lower()):
            return start + parse(field, value)
        value = _date(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgument(field, "needs a span like 30d, or a time like 2030-01-31T12:00:00Z")
    moment = int(value.timestamp() * SECOND_US)
    if moment <= 0:
        raise InvalidArgument(field, "lies before 1970")
    return moment


def _date(text: str) -> date | None:
    """A day, or a time of one; None where it is neither."""
    for kind in (date, datetime):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    return None


def show(span: int) -> str:
    """A span in the units that it is made of, as in `1 h 30 min`."""
    parts = []
    for size, unit in _SHOWN:
        count, span = divmod(span, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts) or "0 s"


def show_moment(unix_us: int) -> str:
    """A moment in UTC, to the second; one that no calendar has is shown in seconds."""
    try:
        moment = datetime.fromtimestamp(unix_us // SECOND_US, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{unix_us // SECOND_US:,} s after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def show_clock(unix_us: int) -> str:
    """The time of day of a moment in UTC, to the millisecond."""
    seconds, rest = divmod(unix_us, SECOND_US)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%H:%M:%S}.{rest // 1_000:03d}Z"
