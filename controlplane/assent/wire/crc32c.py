# SPDX-License-Identifier: Apache-2.0
"""CRC-32C (Castagnoli's polynomial, RFC 3720, appendix B.4), for the few frames that carry one."""

from __future__ import annotations

from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # 0x1EDC6F41, its bits reversed
_ONES: Final = 0xFFFF_FFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(_entry(value) for value in range(256))


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`: 32 bits."""
    value = _ONES
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ _ONES
