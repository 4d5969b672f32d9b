# SPDX-License-Identifier: Apache-2.0
"""Checks of what arrives over the API. Each error names the field and says what it needs."""

from __future__ import annotations

import re

from assent.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_INTERFACE_MAX = 15


def exact_bytes(field: str, value: bytes, size: int) -> bytes:
    """A value of exactly `size` bytes."""
    if len(value) != size:
        raise InvalidArgument(field, f"needs {size} bytes, got {len(value)}")
    return value


def number(field: str, value: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    if not low <= value <= high:
        raise InvalidArgument(field, f"needs {low} to {high}, got {value}")
    return value


def name(field: str, value: str) -> str:
    """The name of a cell."""
    if not _NAME.fullmatch(value):
        raise InvalidArgument(field, f"needs 1 to 63 of a-z, 0-9 and '-', got {_shown(value)}")
    return value


def interface(field: str, value: str) -> str:
    """A name that the kernel could give an interface."""
    usable = value not in {"", ".", ".."} and not any(
        char == "/" or char == ":" or char.isspace() or not char.isprintable() for char in value
    )
    if not usable or len(value.encode()) > _INTERFACE_MAX:
        raise InvalidArgument(field, f"needs the name of an interface, got {_shown(value)}")
    return value


def optional_mac(field: str, value: str) -> bytes | None:
    """A unicast MAC address, 6 bytes; None where the text is empty."""
    if not value:
        return None
    if not _MAC.fullmatch(value):
        raise InvalidArgument(field, f"needs six pairs like 02:00:00:00:00:01, got {_shown(value)}")
    mac = bytes.fromhex(value.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise InvalidArgument(field, f"needs a unicast address, got {value}")
    return mac


def mac_text(mac: bytes | None) -> str:
    """A MAC address as people write it; "" where there is none."""
    return "" if mac is None else mac.hex(":")


def _shown(value: str) -> str:
    return repr(value) if len(value) <= 64 else f"{value[:61]!r}... ({len(value)} characters)"
