# SPDX-License-Identifier: Apache-2.0
"""Bodies of control tags: a small, deterministic part of CBOR (RFC 8949, section 4.2.1).

Definite lengths, shortest forms, no CBOR tags, text keys without repetition. The one exception is
the map `grants`, whose keys are flow numbers. Every body is measured item by item before a decoder
builds anything from it, so that a few hostile bytes cannot ask for much memory or depth.

What the typed bodies share stands here too: a value made locally that is out of range raises
`InvalidArgument`; read from a peer, `ControlError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import cbor2

from assent._native import lib
from assent.errors import InvalidArgument, RemoteError

MAX_BODY: Final = 1400
MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 320
MAX_REASON: Final = 255

U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFF_FFFF
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF

_INT_KEYED: Final = b"\x66grants"

_T = TypeVar("_T")


class ControlError(RemoteError):
    """A flow-0 payload that is malformed, or asks for more than the bounds allow."""


def encode_body(body: object) -> bytes:
    """Canonical CBOR of one body.

    Raises:
        InvalidArgument: The body does not fit the bounds of this module.
    """
    try:
        encoded = cbor2.dumps(body, canonical=True)
        _measure(encoded)
    except (cbor2.CBOREncodeError, ValueError, RecursionError, ControlError):
        raise InvalidArgument("body", "is not CBOR within the bounds of a control tag") from None
    return encoded


def decode_body(buf: bytes) -> object:
    """Reads one CBOR body.

    Raises:
        ControlError: The body breaks the bounds of this module.
    """
    _measure(buf)
    try:
        body: object = cbor2.loads(buf)
    except (cbor2.CBORDecodeError, ValueError):
        raise ControlError("a body is not CBOR") from None
    return body


# CBOR's major types (RFC 8949, section 3.1).
_UNSIGNED: Final = 0
_TEXT: Final = 3
_ARRAY: Final = 4
_TAG: Final = 6
_SIMPLE: Final = 7
_STRINGS: Final = frozenset({2, _TEXT})
_CONTAINERS: Final = frozenset({_ARRAY, 5})

_FLOAT_LEN: Final = {25: 2, 26: 4, 27: 8}
_SIMPLE_KNOWN: Final = frozenset({20, 21, 22})


@dataclass(slots=True)
class _Container:
    """An array or map that is being measured.

    Attributes:
        left: Items still to come; a map counts keys and values.
        keys: Encoded keys seen so far, for a map; None for an array.
        int_keys: Whether the keys are unsigned integers instead of text.
        last_key: The newest encoded key.
    """

    left: int
    keys: set[bytes] | None = None
    int_keys: bool = False
    last_key: bytes = b""


def _measure(buf: bytes) -> None:
    """Refuses what the bounds do not allow, before anything is built of it."""
    if len(buf) > MAX_BODY:
        raise ControlError(f"a body has at most {MAX_BODY} bytes, not {len(buf)}")
    # What is fully deterministic is known to be right in a microsecond; a peer's keys may have
    # another order.
    if lib.an_cbor_check_numbered(buf, len(buf), MAX_DEPTH, MAX_ITEMS, _INT_KEYED, len(_INT_KEYED)):
        walk(buf)


def walk(buf: bytes) -> None:
    """Goes over one CBOR item without building it.

    Raises:
        ControlError: The bounds do not allow it.
    """
    stack: list[_Container] = []
    offset = items = 0
    while True:
        items += 1
        if items > MAX_ITEMS:
            raise ControlError(f"a body has more than {MAX_ITEMS} items")
        major, argument, end = _item(buf, offset)
        top = stack[-1] if stack else None
        if top is not None:
            _place(top, major, buf[offset:end])
        offset = end
        if major in _CONTAINERS:
            if len(stack) == MAX_DEPTH:
                raise ControlError(f"a body nests deeper than {MAX_DEPTH}")
            # An item takes a byte at least, so a claim of more than the bound is already wrong.
            if argument > MAX_ITEMS:
                raise ControlError(f"a body has more than {MAX_ITEMS} items")
            if major == _ARRAY:
                stack.append(_Container(argument))
            else:
                grants = len(stack) == 1 and top is not None and top.last_key == _INT_KEYED
                stack.append(_Container(2 * argument, set(), grants))
        while stack and not stack[-1].left:
            stack.pop()
        if not stack:
            break
    if offset != len(buf):
        raise ControlError("bytes after the end of a body")


def _item(buf: bytes, offset: int) -> tuple[int, int, int]:
    """Major type, argument and end of the item at `offset`; the end of a string includes it."""
    if offset >= len(buf):
        raise ControlError("a body ends early")
    major, info = buf[offset] >> 5, buf[offset] & 0x1F
    offset += 1
    if major == _TAG:
        raise ControlError("CBOR tags have no place in a body")
    if major == _SIMPLE:
        if info not in _SIMPLE_KNOWN and info not in _FLOAT_LEN:
            raise ControlError("a simple value that no body uses")
        argument, end = 0, offset + _FLOAT_LEN.get(info, 0)
    elif info < 24:
        argument, end = info, offset
    elif info < 28:
        width = 1 << (info - 24)
        end = offset + width
        if end > len(buf):
            raise ControlError("a body ends early")
        argument = int.from_bytes(buf[offset:end], "big")
        # One value has one encoding; without that, one key could stand twice in a map.
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise ControlError("a number is not in its shortest form")
    else:
        raise ControlError("indefinite lengths have no place in a body")
    if major in _STRINGS:
        end += argument
    if end > len(buf):
        raise ControlError("a body ends early")
    return major, argument, end


def _place(top: _Container, major: int, encoded: bytes) -> None:
    """Accounts for one item in its container; `encoded` is all of a string or number."""
    top.left -= 1
    if top.keys is None or top.left % 2 == 0:
        return
    if major != (_UNSIGNED if top.int_keys else _TEXT):
        raise ControlError("a map has a key of the wrong kind")
    if encoded in top.keys:
        raise ControlError("a map has a key twice")
    top.keys.add(encoded)
    top.last_key = encoded


def check_int(name: str, value: int, low: int, high: int) -> None:
    """Refuses what is no integer from `low` to `high`.

    Raises:
        InvalidArgument: It is not one.
    """
    if type(value) is not int or not low <= value <= high:
        raise InvalidArgument(name, f"must be an integer from {low} to {high}")


def check_text(name: str, value: str, low: int, high: int) -> None:
    """Refuses text out of bounds, which are in bytes of UTF-8.

    Raises:
        InvalidArgument: It is out of bounds, or has control characters, which would act on a
            terminal that shows it.
    """
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(name, "is not text") from None
    if not low <= length <= high:
        raise InvalidArgument(name, f"must have {low} to {high} bytes")
    if any(char < " " or "\x7f" <= char < "\xa0" for char in value):
        raise InvalidArgument(name, "must not contain control characters")


def take(body: object, key: str, kind: type[_T]) -> _T:
    """The value at `key` of a map.

    Raises:
        ControlError: It is not there, or not of exactly this type (True is no integer).
    """
    if not isinstance(body, dict):
        raise ControlError("a body must be a map")
    value = body.get(key)
    if type(value) is not kind:
        raise ControlError(f"{key}: missing, or not {kind.__name__}")
    return value


def take_if(body: object, key: str, kind: type[_T]) -> _T | None:
    """The value at `key` of a map, None where the map has no such key.

    Raises:
        ControlError: It is there, but not of exactly this type.
    """
    if isinstance(body, dict) and key not in body:
        return None
    return take(body, key, kind)


def take_all(body: object, key: str, kind: type[_T]) -> tuple[_T, ...]:
    """The items of the array at `key` of a map.

    Raises:
        ControlError: It is not there, or an item is not of exactly this type.
    """
    values = take(body, key, list)
    if any(type(value) is not kind for value in values):
        raise ControlError(f"{key}: an item is not {kind.__name__}")
    return tuple(values)


def from_peer(build: Callable[[], _T]) -> _T:
    """Builds a value out of a peer's fields: what it refuses is the peer's mistake, not ours.

    Raises:
        ControlError: It is refused.
    """
    try:
        return build()
    except InvalidArgument as refusal:
        raise ControlError(str(refusal)) from None


def check_answer(accepted: bool | None, reason: str) -> None:
    """A question has neither; a refusal alone has a reason, for people."""
    check_text("reason", reason, 0, MAX_REASON)
    if reason and accepted is not False:
        raise InvalidArgument("reason", "belongs to a refusal")


def put_answer(body: dict[str, object], accepted: bool | None, reason: str) -> dict[str, object]:
    """Adds what an answer says."""
    if accepted is not None:
        body["accepted"] = accepted
    if reason:
        body["reason"] = reason
    return body


def take_answer(body: object) -> tuple[bool | None, str]:
    """What it says: whether it accepts, None in a question, and why not."""
    return take_if(body, "accepted", bool), take_if(body, "reason", str) or ""
