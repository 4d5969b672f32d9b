"""FNV-1a with 128 bits (Fowler, Noll and Vo; RFC 9923), which names cells that have no key yet.

It is not a cryptographic hash: whoever can choose a MAC address can choose what it maps to.
"""

from __future__ import annotations

from typing import Final

FNV_PRIME_128: Final = (1 << 88) + 0x13B
FNV_OFFSET_128: Final = 0x6C62272E07BB014262B821756295C58D

_MASK: Final = (1 << 128) - 1


def fnv1a_128(data: bytes) -> int:
    """The 128-bit FNV-1a hash of `data`, as an integer below 2**128."""
    value = FNV_OFFSET_128
    for byte in data:
        value = (value ^ byte) * FNV_PRIME_128 & _MASK
    return value
