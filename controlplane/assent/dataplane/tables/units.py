# SPDX-License-Identifier: Apache-2.0
"""What the tables share: keys as the maps have them, and units of time."""

from __future__ import annotations

import sys
from typing import Final

from assent.errors import InvalidArgument, NotFound
from assent.wire.cellid import CellID
from assent.wire.siphash import KEY_LEN

SEC: Final = 1_000_000_000
MS: Final = 1_000_000
BYTE_ORDER: Final = sys.byteorder
ONLY: Final = bytes(4)
"""Key of the first entry of an array."""
STATE_LEN: Final = 32
"""Bytes of struct assent_sip."""


def index(number: int) -> bytes:
    """Returns an array's key."""
    return number.to_bytes(4, BYTE_ORDER)


def number(key: bytes) -> int:
    """Returns the number that an array's key stands for."""
    return int.from_bytes(key, BYTE_ORDER)


def pair(sender: CellID, receiver: CellID) -> bytes:
    """Returns struct assent_pair: who speaks to whom."""
    return bytes(sender) + bytes(receiver)


def pair_state(key: bytes, sender: CellID, receiver: CellID) -> bytes:
    """Returns struct assent_sip: the hash's state after the key, then the pair.

    Raises:
        InvalidArgument: the key has not 16 bytes.
    """
    if len(key) != KEY_LEN:
        raise InvalidArgument("key", f"takes {KEY_LEN} bytes, these are {len(key)}")
    return pair_states(key, pair(sender, receiver))


def pair_states(keys: bytes, pairs: bytes) -> bytes:
    """Returns many states, one after the other.

    Args:
        keys: 16 bytes each.
        pairs: 32 bytes each, as many.
    """
    from assent._native import ffi, lib

    count = len(keys) // KEY_LEN
    states = ffi.new("uint8_t[]", count * STATE_LEN)
    lib.an_pair_states(keys, pairs, count, states)
    return bytes(ffi.buffer(states))


def present(value: bytes | None) -> bytes:
    """Returns the value of an array's first entry.

    Raises:
        NotFound: it has none, so it is none of ours.
    """
    if value is None:
        raise NotFound("an array map has no first entry: it is none of ours")
    return value
