# SPDX-License-Identifier: Apache-2.0
"""What the values of a covenant have in common: how their fields are checked, read and written.

A value checks itself when it is made: a bad field raises `InvalidArgument`, which names it. Read
from a peer, by `Body.from_body`, the same fault is a `PayloadError`. Types are exact: True is no
integer.

Keys that a map has beyond those known here are kept in `extensions` and written back as they stood,
so that a hash made by whoever knows them still holds. A key that says what its absence says too is
kept in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, TypeVar, cast
from uuid import UUID

from assent.errors import InvalidArgument, RemoteError
from assent.wire import cbor

NAME_MAX: Final = 64
"""Bytes of an id, a role or a type."""
TEXT_MAX: Final = 4096
"""Bytes of what people write."""
LIST_MAX: Final = 64
_SHARED_MAX: Final = 4096
"""Bytes of a value that is kept to be shared; so all of them together have a bound."""
U32_MAX: Final = 0xFFFF_FFFF
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF

Extensions = Mapping[str, object]
NONE: Final[Extensions] = MappingProxyType({})

# They change the order in which a terminal shows other characters.
_REORDERING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_UNSHOWN: Final = frozenset([*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *_REORDERING])


class PayloadError(RemoteError):
    """A peer's payload that is malformed, or asks for more than the bounds allow."""


def check_name(field: str, value: object) -> None:
    """An id, a role or a type: 1 to 64 bytes of UTF-8, all of them printable.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(value) is str and 0 < len(value) <= NAME_MAX and value.isprintable():
        if value.isascii() or len(value.encode()) <= NAME_MAX:
            return
    elif type(value) is not str:
        raise InvalidArgument(field, "is missing" if value is None else "must be text")
    raise InvalidArgument(field, f"must have 1 to {NAME_MAX} bytes, all of them printable")


def check_text(field: str, value: object, low: int = 0) -> None:
    """What people write: `low` to 4,096 bytes of UTF-8, nothing that a terminal would act on.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(value) is not str:
        raise InvalidArgument(field, "is missing" if value is None else "must be text")
    if not value.isprintable() and not _UNSHOWN.isdisjoint(value):
        raise InvalidArgument(field, "must not contain control characters")
    try:
        length = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(field, "is not text") from None
    if not low <= length <= TEXT_MAX:
        raise InvalidArgument(field, f"must have {low} to {TEXT_MAX} bytes")


def check_int(field: str, value: object, low: int = 0, high: int = U64_MAX) -> None:
    """An integer from `low` to `high`.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(value) is not int or not low <= value <= high:
        missing = "is missing" if value is None else f"must be an integer from {low} to {high}"
        raise InvalidArgument(field, missing)


def check_bytes(field: str, value: object, *lengths: int) -> None:
    """A byte string of one of these lengths.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(value) is not bytes or len(value) not in lengths:
        needed = " or ".join(map(str, lengths))
        raise InvalidArgument(field, "is missing" if value is None else f"needs {needed} bytes")


def check_count(field: str, values: object, low: int = 0) -> tuple[Any, ...]:
    """A tuple of `low` to 64 elements, which is returned.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(values) is not tuple or not low <= len(values) <= LIST_MAX:
        raise InvalidArgument(field, f"must be a list of {low} to {LIST_MAX} elements")
    return values


def check_kind(field: str, value: object, kind: type) -> None:
    """An instance of exactly this class.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(value) is not kind:
        raise InvalidArgument(field, "is missing" if value is None else f"must be {kind.__name__}")


def check_kinds(field: str, values: object, kind: type, low: int = 0) -> None:
    """A tuple of `low` to 64 instances of exactly this class.

    Raises:
        InvalidArgument: It is anything else.
    """
    for at, value in enumerate(check_count(field, values, low)):
        if type(value) is not kind:
            raise InvalidArgument(f"{field}[{at}]", f"must be {kind.__name__}")


def check_names(field: str, values: object) -> None:
    """A tuple of at most 64 names.

    Raises:
        InvalidArgument: It is anything else.
    """
    for at, value in enumerate(check_count(field, values)):
        check_name(f"{field}[{at}]", value)


class Body:
    """A value that stands in a payload as a map with text keys: the names of its fields.

    Attributes:
        OPTIONAL: Fields that are left out where they have this value.
        UNREAD: Fields that are maps or lists of maps themselves: read in their own turn.
        SHARED: Whether the same value comes again and again, so that bytes that were read once are
            not read anew.
    """

    __slots__ = ("_digest", "_encoded")
    OPTIONAL: ClassVar[Extensions] = NONE
    UNREAD: ClassVar[frozenset[str]] = frozenset()
    SHARED: ClassVar[bool] = False
    _encoded: bytes
    _digest: bytes

    @property
    def encoded(self) -> bytes:
        """The value's canonical CBOR, made once.

        Raises:
            InvalidArgument: An extension is not CBOR.
        """
        try:
            return self._encoded
        except AttributeError:
            object.__setattr__(self, "_encoded", encode_map(self.members()))
            return self._encoded

    @property
    def digest(self) -> bytes:
        """SHA-256 of `encoded`, made once."""
        try:
            return self._digest
        except AttributeError:
            object.__setattr__(self, "_digest", hashlib.sha256(self.encoded).digest())
            return self._digest

    def members(self) -> dict[str, Any]:
        """What stands in the map, extensions included, in the order of its keys."""
        found = {}
        for name, absent in _layout(cast("Any", type(self))):
            value = getattr(self, name)
            if absent is _NEEDED or value != absent:
                found[name] = value
        extensions: Extensions = self.extensions  # type: ignore[attr-defined]
        return in_order(found | dict(extensions)) if extensions else found

    def to_body(self) -> dict[str, object]:
        """The value as a CBOR map."""
        return {name: plain(value) for name, value in self.members().items()}

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map.

        Raises:
            InvalidArgument: A field is missing, of the wrong type, or out of range.
        """
        raise NotImplementedError

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Reads a peer's map.

        Raises:
            PayloadError: A field is missing, of the wrong type, or out of range.
        """
        try:
            return cls.read(body)
        except InvalidArgument as refusal:
            raise PayloadError(str(refusal)) from None

    @classmethod
    def read_raw(cls, checked: bytes) -> Self:
        """Reads canonical CBOR that has been checked.

        Raises:
            InvalidArgument: A field is missing, of the wrong type, or out of range.
        """
        parts = cbor.split(checked, cls.UNREAD) if cls.UNREAD else None
        value = cls.read(parts or cbor.loads(checked))
        object.__setattr__(value, "_encoded", bytes(checked))
        return value


def in_order(members: dict[str, Any]) -> dict[str, Any]:
    """The same members, in the order that canonical CBOR gives their keys."""
    return dict(sorted(members.items(), key=lambda entry: cbor.key_of(entry[0])))


_NEEDED: Final = object()


@cache
def _layout(kind: Any) -> tuple[tuple[str, object], ...]:
    """The fields of a class in the order of canonical CBOR, each with what it is where left out."""
    names = sorted(_known(kind), key=cbor.key_of)
    return tuple((name, kind.OPTIONAL.get(name, _NEEDED)) for name in names)


def plain(value: object) -> object:
    """A member as CBOR has it: maps for values, lists for tuples, bytes for UUIDs."""
    if isinstance(value, Body):
        return value.to_body()
    if type(value) is tuple:
        return [plain(each) for each in value]
    return value.bytes if type(value) is UUID else value


def encode_map(members: Mapping[str, Any]) -> bytes:
    """Canonical CBOR of a map whose keys are in order.

    Raises:
        InvalidArgument: A member is not CBOR.
    """
    pieces = [cbor.head(cbor.MAP, len(members))]
    for name, value in members.items():
        pieces += (cbor.key_of(name), _encode(value))
    return b"".join(pieces)


def _encode(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        raw: bytes = value.encode()
        return cbor.head(cbor.TEXT, len(raw)) + raw
    if kind is bytes:
        return cbor.head(cbor.BYTES, len(value)) + bytes(value)
    if kind is int and value >= 0:
        return cbor.head(cbor.UNSIGNED, value)
    if kind is tuple:
        return cbor.head(cbor.ARRAY, len(value)) + b"".join(map(_encode, value))
    if kind is UUID:
        return _UUID_HEAD + bytes(value.bytes)
    if isinstance(value, Body):
        return value.encoded
    return cbor.encode(value)


_UUID_HEAD: Final = cbor.head(cbor.BYTES, 16)
_B = TypeVar("_B", bound=Body)


@lru_cache(maxsize=512)
def _shared(kind: Any, checked: bytes) -> Any:
    return kind.read_raw(checked)


@lru_cache(maxsize=512)
def _all_shared(kind: Any, checked: bytes) -> tuple[Any, ...]:
    return _read_list("", kind, cbor.loads(checked))


def opened(body: object) -> dict[str, Any]:
    """A copy of a map, for its fields to be taken out; what is left are its extensions.

    Raises:
        InvalidArgument: It is not a map, or its keys are not text.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("", "is missing" if body is None else "must be a map")
    return dict(body)


def take(left: dict[str, Any], key: str, default: Any) -> Any:
    """Takes an optional field; one that says what its absence says stays among the extensions.

    Raises:
        InvalidArgument: It is there, but null.
    """
    if key not in left:
        return default
    value = left[key]
    if value is None:
        raise InvalidArgument(key, "must not be null")
    if type(value) is not type(default) or value != default:
        del left[key]
    return value


def inside(place: str, refusal: InvalidArgument) -> InvalidArgument:
    """The same refusal, seen from one map further out."""
    path = f"{place}.{refusal.field}" if refusal.field else place
    return InvalidArgument(path, refusal.problem)


def read_one(field: str, kind: type[_B], body: object) -> _B:
    """Reads a map in a map.

    Raises:
        InvalidArgument: It is not one of that kind.
    """
    try:
        if type(body) is not cbor.Raw:
            return kind.read(body)
        if kind.SHARED and len(body) <= _SHARED_MAX:
            shared: _B = _shared(cast("Any", kind), bytes(body))
            return shared
        return kind.read_raw(body)
    except InvalidArgument as refusal:
        raise inside(field, refusal) from None


def read_all(field: str, kind: type[_B], bodies: object) -> tuple[_B, ...]:
    """Reads a list of at most 64 maps.

    Raises:
        InvalidArgument: It is not a list of that kind.
    """
    try:
        if type(bodies) is not cbor.Raw:
            return _read_list("", kind, bodies)
        if kind.SHARED and len(bodies) <= _SHARED_MAX:
            return _all_shared(cast("Any", kind), bytes(bodies))
        return _read_list("", kind, cbor.loads(bodies))
    except InvalidArgument as refusal:
        raise InvalidArgument(f"{field}{refusal.field}", refusal.problem) from None


def _read_list(field: str, kind: type[_B], bodies: object) -> tuple[_B, ...]:
    read: list[_B] = []
    for body in listed(field, bodies):
        try:
            read.append(kind.read(body))
        except InvalidArgument as refusal:
            raise inside(f"{field}[{len(read)}]", refusal) from None
    return tuple(read)


def listed(field: str, values: object) -> tuple[Any, ...]:
    """The elements of a list of at most 64.

    Raises:
        InvalidArgument: It is anything else.
    """
    if type(values) is not list:
        raise InvalidArgument(field, "is missing" if values is None else "must be a list")
    if len(values) > LIST_MAX:
        raise InvalidArgument(field, f"must be a list of 0 to {LIST_MAX} elements")
    return tuple(values)


@cache
def _known(kind: Any) -> frozenset[str]:
    return frozenset(each.name for each in fields(kind)) - {"extensions"}


def keep_extensions(value: Any, more: Iterable[str] = ()) -> None:
    """Checks a value's extensions and keeps a copy that cannot be changed.

    Args:
        value: A value with `extensions`, which is being made.
        more: Keys that are known besides the names of its fields.

    Raises:
        InvalidArgument: A key is not text, is that of a field, or there are more than 64.
    """
    extensions = value.extensions
    if not isinstance(extensions, Mapping) or len(extensions) > LIST_MAX:
        raise InvalidArgument("extensions", f"must be a map of 0 to {LIST_MAX} entries")
    known, optional = _known(cast("Any", type(value))), value.OPTIONAL
    for key, content in extensions.items():
        if type(key) is not str:
            raise InvalidArgument("extensions", "keys must be text")
        check_text("extensions", key)
        if key in optional and key not in more and _says_nothing(value, key, content):
            continue
        if key in known or key in more:
            raise InvalidArgument(key, "is a field, and none of the extensions")
    object.__setattr__(value, "extensions", MappingProxyType(dict(extensions)))


def _says_nothing(value: Body, key: str, content: object) -> bool:
    """Whether this content says of a field what its absence says, and the field does not differ."""
    absent = value.OPTIONAL[key]
    return (
        absent is not None
        and type(content) is type(absent)
        and content == absent == getattr(value, key, content)
    )
