# SPDX-License-Identifier: Apache-2.0
"""Amounts as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import pairwise

from assent.errors import InvalidArgument

BLOCK_BYTES = 64
UINT64_MAX = (1 << 64) - 1

_AMOUNT = re.compile(r"(\d{1,20}(?:\.\d{1,20})?) ?([A-Za-z]*)", re.ASCII)
_UNIT_BYTES = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
    "KB": 1000,
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_SECOND_NS = 1_000_000_000


def parse_blocks(text: str) -> int:
    """Reads an amount of credit: a bare number counts blocks, one with a unit bytes.

    Args:
        text: As in `4096`, `256KiB`, `1.5MiB` or `100kB`.

    Returns:
        Blocks of 64 bytes, rounded down.

    Raises:
        InvalidArgument: It is not an amount, or less than one block or more than the API can say.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[2] and match[2] not in _UNIT_BYTES):
        raise InvalidArgument("BLOCKS", "needs a number of 64-byte blocks, or a size like 256KiB")
    amount = Decimal(match[1])
    if match[2]:
        amount = amount * _UNIT_BYTES[match[2]] / BLOCK_BYTES
    elif amount != int(amount):
        raise InvalidArgument("BLOCKS", "needs a whole number of blocks")
    blocks = int(amount)
    if not 1 <= blocks <= UINT64_MAX:
        raise InvalidArgument("BLOCKS", f"is not between one 64-byte block and {UINT64_MAX}")
    return blocks


def parse_bytes(field: str, text: str) -> int:
    """Reads an amount of bytes.

    Args:
        field: What it is for, as the user knows it.
        text: As in `4096`, `256KiB`, `1.5MiB` or `100kB`.

    Raises:
        InvalidArgument: It is not an amount.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[2] and match[2] not in _UNIT_BYTES):
        raise InvalidArgument(field, "needs a number of bytes, or a size like 10GiB")
    return int(Decimal(match[1]) * _UNIT_BYTES[match[2] or "B"])


def show_bytes(count: int) -> str:
    """An amount of bytes in the largest unit that it fills, as in `1.5 MiB`."""
    for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        unit = 1024**power
        if count >= unit:
            return f"{count / unit:.1f}".removesuffix(".0") + f" {prefix}iB"
    return f"{count} B"


def show_blocks(blocks: int) -> str:
    """An amount of blocks and what it is in bytes, as in `4,096 (256 KiB)`."""
    return f"{blocks:,} ({show_bytes(blocks * BLOCK_BYTES)})"


def show_duration(span_ns: int) -> str:
    """A span of time in its two largest units, as in `3 d 4 h`."""
    seconds = span_ns // _SECOND_NS
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    for (size, name), (next_size, next_name) in pairwise(units):
        if seconds >= size:
            return f"{seconds // size} {name} {seconds % size // next_size} {next_name}"
    return f"{seconds} s"
