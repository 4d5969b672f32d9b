# SPDX-License-Identifier: Apache-2.0
"""Deterministic CBOR within bounds (RFC 8949, section 4.2.1).

What is signed or hashed has to have one encoding: definite lengths, shortest forms, no CBOR tags,
text keys in the order of their encodings and none twice. `check` holds bytes to that, and to bounds
of size, depth and count, in C, before a decoder builds anything from them.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

import cbor2

from assent._native import ffi, lib
from assent.errors import InvalidArgument, RemoteError

MAX_SIZE: Final = 256 * 1024
MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 4096

_FAULTS: Final = {
    lib.AN_CBOR_SHORT: "it ends early",
    lib.AN_CBOR_TRAILING: "bytes after the end",
    lib.AN_CBOR_TAG: "CBOR tags have no place here",
    lib.AN_CBOR_INDEFINITE: "indefinite lengths have no place here",
    lib.AN_CBOR_SIMPLE: "a simple value that nothing uses",
    lib.AN_CBOR_LONG_FORM: "a number is not in its shortest form",
    lib.AN_CBOR_UTF8: "a text is not UTF-8",
    lib.AN_CBOR_KEY_KIND: "a map has a key that is not text",
    lib.AN_CBOR_UNSORTED: "a map's keys are not in order",
    lib.AN_CBOR_KEY_TWICE: "a map has a key twice",
    lib.AN_CBOR_DEPTH: f"it nests deeper than {MAX_DEPTH}",
    lib.AN_CBOR_ITEMS: "it has too many items",
}
_SPLIT_MAX: Final = 128


class CborError(RemoteError):
    """Bytes that are not deterministic CBOR within the bounds."""


class Raw(bytes):
    """Canonical CBOR that has been checked and not been read."""

    __slots__ = ()


def check(buf: bytes, max_size: int = MAX_SIZE, max_items: int = MAX_ITEMS) -> None:
    """Checks that `buf` is one item of deterministic CBOR within the bounds.

    Args:
        buf: The item.
        max_size: Bytes that it may have.
        max_items: Items that it may have, itself and all that it contains.

    Raises:
        CborError: It is not, or it nests deeper than 16.
    """
    if len(buf) > max_size:
        raise CborError(f"it has at most {max_size} bytes, not {len(buf)}")
    fault = lib.an_cbor_check(buf, len(buf), MAX_DEPTH, max_items)
    if fault:
        raise CborError(_FAULTS[fault])


def decode(buf: bytes, max_size: int = MAX_SIZE, max_items: int = MAX_ITEMS) -> object:
    """Reads one item.

    Raises:
        CborError: `check` refuses it.
    """
    check(buf, max_size, max_items)
    return loads(buf)


def loads(checked: bytes) -> Any:
    """Reads one item that has been checked."""
    return cbor2.loads(checked)


def encode(value: object, max_size: int = MAX_SIZE, max_items: int = MAX_ITEMS) -> bytes:
    """The one encoding of a value.

    Raises:
        InvalidArgument: It has none within the bounds.
    """
    try:
        encoded = cbor2.dumps(value, canonical=True)
        check(encoded, max_size, max_items)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError):
        raise InvalidArgument("body", "is not CBOR within the bounds") from None
    except CborError as refusal:
        raise InvalidArgument("body", str(refusal)) from None
    return encoded


def split(checked: bytes, unread: Collection[str]) -> dict[str, Any] | None:
    """Reads a map that has been checked, but not the values of some of its keys.

    Args:
        checked: The map.
        unread: Keys whose values are left as they are.

    Returns:
        The map, with those values as `Raw`; None if it is not a map of at most 128 entries.
    """
    spans = ffi.new("uint32_t[]", 3 * _SPLIT_MAX)
    count = lib.an_cbor_split(checked, len(checked), spans, _SPLIT_MAX)
    if count < 0:
        return None
    places = iter(ffi.unpack(spans, 3 * count))
    read: dict[str, Any] = {}
    for begins, ends, value_ends in zip(places, places, places, strict=True):
        key = checked[begins:ends].decode()
        if key in unread:
            read[key] = Raw(checked[ends:value_ends])
        elif checked[ends] < 24:
            read[key] = checked[ends]
        else:
            read[key] = cbor2.loads(checked[ends:value_ends])
    return read


def head(major: int, argument: int) -> bytes:
    """The head of an item: its major type (RFC 8949, section 3.1) and its argument."""
    kind = major << 5
    if argument < 24:
        return _SHORT_HEADS[kind | argument]
    if argument < 0x100:
        return bytes((kind | 24, argument))
    if argument < 0x1_0000:
        return bytes((kind | 25,)) + argument.to_bytes(2, "big")
    if argument < 0x1_0000_0000:
        return bytes((kind | 26,)) + argument.to_bytes(4, "big")
    return bytes((kind | 27,)) + argument.to_bytes(8, "big")


_SHORT_HEADS: Final = tuple(bytes((byte,)) for byte in range(256))

UNSIGNED: Final = 0
BYTES: Final = 2
TEXT: Final = 3
ARRAY: Final = 4
MAP: Final = 5


@lru_cache(maxsize=4096)
def key_of(name: str) -> bytes:
    """The encoding of a map's key."""
    raw = name.encode()
    return head(TEXT, len(raw)) + raw
