# SPDX-License-Identifier: Apache-2.0
"""Layouts and enums from BTF, the type information that the compiler put into the BPF objects.

This is how Python and C share one truth: nothing here knows any struct by name, but for the one
whose values are secret.

Format: Documentation/bpf/btf.rst of the kernel. Integers are in the host's byte order, as are the
tables that the layouts describe.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from assent.dataplane import libbpf
from assent.errors import FailedPrecondition, InvalidArgument, NotFound

# States of a keyed hash: whoever has one can make tags, so they are never shown.
SECRET_STRUCTS = frozenset({"assent_sip"})

_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC_PROTO = 8, 9, 10, 11, 13
_VAR, _DATASEC, _DECL_TAG, _TYPE_TAG, _ENUM64 = 14, 15, 17, 18, 19
_MODIFIERS = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_SIGNED = 1
# What follows each kind's common 12 bytes: (fixed bytes, bytes for each of vlen members).
_EXTRA = {
    _INT: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _FUNC_PROTO: (0, 8),
    _VAR: (4, 0),
    _DATASEC: (0, 12),
    _DECL_TAG: (4, 0),
    _ENUM64: (0, 12),
}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ORDER = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a struct.

    Attributes:
        name: as in C.
        offset: bytes from the struct's start.
        size: bytes.
        kind: "int" (enums too), "bytes" (an array of u8 or of structs), "ints" (another array of
            integers) or "struct".
        signed: whether integers have a sign.
        count: elements of an array; 1 otherwise.
        layout: of a nested struct.
    """

    name: str
    offset: int
    size: int
    kind: str
    signed: bool = False
    count: int = 1
    layout: Layout | None = None

    @property
    def _codec(self) -> struct.Struct:
        return _codec(self.size // self.count, self.signed, self.count)

    def _unpack(self, data: bytes) -> object:
        raw = data[self.offset : self.offset + self.size]
        if self.layout is not None:
            return self.layout.unpack(raw)
        if self.kind == "bytes":
            return raw
        values = self._codec.unpack(raw)
        return values if self.kind == "ints" else values[0]

    def _pack(self, value: Any) -> bytes:
        try:
            if self.layout is not None:
                if isinstance(value, Record):
                    value = value.as_dict()
                if isinstance(value, Mapping):
                    return self.layout.pack(**value)
                raw = bytes(value)
            elif self.kind == "bytes":
                if isinstance(value, int):  # bytes(3) is three zeros, never what is meant
                    raise TypeError
                raw = bytes(value)
            elif self.kind == "ints":
                return self._codec.pack(*value)
            else:
                return self._codec.pack(value)
        except (struct.error, TypeError):
            # The value itself stays out of the message: it may be a key.
            raise InvalidArgument(self.name, f"does not fit {self._described()}") from None
        if len(raw) != self.size:
            raise InvalidArgument(self.name, f"takes {self.size} bytes, these are {len(raw)}")
        return raw

    def _described(self) -> str:
        bits = 8 * self.size // self.count
        number = f"{'a signed' if self.signed else 'an unsigned'} {bits}-bit integer"
        return {
            "int": number,
            "ints": f"{self.count} times {number}",
            "bytes": f"{self.size} bytes",
        }.get(self.kind, f"struct {self.layout.name if self.layout else ''}")


@cache
def _codec(size: int, signed: bool, count: int) -> struct.Struct:
    code = _CODES[size]
    return struct.Struct(f"{_ORDER}{count}{code.lower() if signed else code}")


class Record:
    """A struct's value; members are attributes. Equal when type and all members are."""

    __slots__ = ("_layout", "_values")

    def __init__(self, layout: Layout, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_values", dict(values))

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_values")[name]
        except KeyError:
            raise AttributeError(f"struct {self._layout.name} has no member {name}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("records do not change: see replace()")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return bool(self._layout.name == other._layout.name and self._values == other._values)

    def __hash__(self) -> int:
        return hash((self._layout.name, tuple(self._values.items())))

    def __repr__(self) -> str:
        if self._layout.name in SECRET_STRUCTS:
            return "<secret>"
        members = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{self._layout.name}({members})"

    def as_dict(self) -> dict[str, Any]:
        """Returns the members by name. Secret ones are among them."""
        return dict(self._values)

    def replace(self, **changes: Any) -> Record:
        """Returns a copy with some members changed."""
        layout: Layout = self._layout
        return layout.unpack(layout.pack(**{**self._values, **changes}))

    def pack(self) -> bytes:
        """Returns the struct's bytes."""
        layout: Layout = self._layout
        return layout.pack(**self._values)


@dataclass(frozen=True)
class Layout:
    """A struct: where each member lies.

    Attributes:
        name: as in C.
        size: bytes.
        fields: members in order. Padding is not among them, and is zero when packed.
    """

    name: str
    size: int
    fields: tuple[Field, ...]

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def pack(self, **values: Any) -> bytes:
        """Returns the struct's bytes; members that are not given are zero.

        Args:
            **values: integers; bytes or a sequence of integers for arrays; a Record, a mapping or
                bytes for nested structs.

        Raises:
            InvalidArgument: no such member, or a value that does not fit.
        """
        data = bytearray(self.size)
        for name, value in values.items():
            field = self._field(name)
            data[field.offset : field.offset + field.size] = field._pack(value)
        return bytes(data)

    def unpack(self, data: bytes) -> Record:
        """Returns the struct's value.

        Raises:
            InvalidArgument: not exactly `size` bytes.
        """
        if len(data) != self.size:
            raise InvalidArgument(
                "data", f"struct {self.name} has {self.size} bytes, these are {len(data)}"
            )
        return Record(self, {field.name: field._unpack(data) for field in self.fields})

    def offsetof(self, name: str) -> int:
        """Returns a member's distance from the struct's start, in bytes.

        Raises:
            InvalidArgument: no such member.
        """
        return self._field(name).offset

    def sizeof(self, name: str) -> int:
        """Returns a member's size, in bytes.

        Raises:
            InvalidArgument: no such member.
        """
        return self._field(name).size

    def _field(self, name: str) -> Field:
        try:
            return self._by_name[name]
        except KeyError:
            raise InvalidArgument(name, f"struct {self.name} has no such member") from None


@dataclass(frozen=True, slots=True)
class MapDeclaration:
    """What an object says of one of its maps.

    Attributes:
        type: enum bpf_map_type.
        max_entries: entries, or bytes of a ring.
        flags: BPF_F_*.
        key, value: layouts; None where it names none.
    """

    type: int
    max_entries: int
    flags: int
    key: Layout | None
    value: Layout | None


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    vlen: int
    size_or_type: int
    extra: bytes

    def members(self, form: str) -> Iterator[tuple[int, ...]]:
        return struct.iter_unpack(form, self.extra)


class Btf:
    """The types of one compiled object."""

    def __init__(self, raw: bytes, source: str) -> None:
        """Parses BTF.

        Args:
            raw: the data, header included.
            source: where it came from, for messages.

        Raises:
            FailedPrecondition: this is not BTF of the host's byte order.
        """
        self._source = source
        try:
            self._types, self._text = _parse(raw)
        except (struct.error, ValueError):
            raise FailedPrecondition(f"{source}: unreadable BTF, or of another machine") from None
        self._layouts: dict[int, Layout] = {}

    @classmethod
    def from_object(cls, path: Path) -> Btf:
        """Reads the BTF of an object file.

        Raises:
            NotFound: no such file.
            FailedPrecondition: it has no BTF.
        """
        return cls(libbpf.btf_of_file(path), str(path))

    @classmethod
    def from_kernel(cls, btf_id: int) -> Btf:
        """Reads BTF that the kernel holds (see `libbpf.Map.btf_id`)."""
        return cls(libbpf.btf_of_kernel(btf_id), f"kernel BTF {btf_id}")

    def struct(self, name: str) -> Layout:
        """Returns a struct's layout.

        Raises:
            NotFound: no such struct.
        """
        return self._layout(self._find(name, (_STRUCT,)))

    def enum(self, name: str) -> dict[str, int]:
        """Returns an enum's names and numbers, in the order of C.

        Raises:
            NotFound: no such enum.
        """
        found = self._types[self._find(name, (_ENUM, _ENUM64))]
        values = {}
        if found.kind == _ENUM:
            for offset, value in found.members(_ORDER + "Ii"):
                values[self._string(offset)] = value
        else:
            for offset, low, high in found.members(_ORDER + "III"):
                values[self._string(offset)] = high << 32 | low
        return values

    def map_value(self, map_name: str) -> Layout:
        """Returns the layout of a map's values, as its declaration says.

        Raises:
            NotFound: no such map, or its values are no struct.
        """
        section = self._types[self._find(".maps", (_DATASEC,))]
        for var_id, _, _ in section.members(_ORDER + "III"):
            var = self._types[var_id]
            if var.name != map_name:
                continue
            declaration = self._types[self._resolve(var.size_or_type)]
            for offset, type_id, _ in declaration.members(_ORDER + "III"):
                if self._string(offset) == "value":
                    target = self._resolve(self._types[type_id].size_or_type)
                    if self._types[target].kind == _STRUCT:
                        return self._layout(target)
        raise NotFound(f"{self._source} describes no map {map_name!r} with a struct for its values")

    @property
    def map_names(self) -> tuple[str, ...]:
        """Maps that the object declares."""
        return tuple(self._declarations)

    def map_declaration(self, name: str) -> MapDeclaration:
        """Returns what the object says of a map.

        Raises:
            NotFound: no such map.
        """
        try:
            members = self._declarations[name]
        except KeyError:
            raise NotFound(f"{self._source} describes no map {name!r}") from None
        numbers = {"type": 0, "max_entries": 0, "map_flags": 0}
        shapes: dict[str, Layout | None] = {"key": None, "value": None}
        for offset, type_id, _ in members.members(_ORDER + "III"):
            member = self._string(offset)
            # Numbers are lengths of arrays, types are what a pointer points to.
            target = self._resolve(self._types[self._resolve(type_id)].size_or_type)
            if member in shapes:
                shapes[member] = self.shape_of(target)
            elif member in numbers:
                (numbers[member],) = struct.unpack_from(_ORDER + "I", self._types[target].extra, 8)
        return MapDeclaration(
            numbers["type"], numbers["max_entries"], numbers["map_flags"], **shapes
        )

    def shape_of(self, type_id: int) -> Layout:
        """As layout_of(); of a plain integer, a struct without a name and with that one member.

        Raises:
            NotFound: the type is neither.
        """
        type_id = self._resolve(type_id)
        found = self._types[type_id]
        if found.kind not in (_INT, _ENUM, _ENUM64):
            return self.layout_of(type_id)
        size = found.size_or_type
        return Layout("", size, (Field("value", 0, size, "int", self._is_signed(found)),))

    @cached_property
    def _declarations(self) -> dict[str, _Type]:
        section = self._types[self._find(".maps", (_DATASEC,))]
        declared = [self._types[var_id] for var_id, _, _ in section.members(_ORDER + "III")]
        return {var.name: self._types[self._resolve(var.size_or_type)] for var in declared}

    def layout_of(self, type_id: int) -> Layout:
        """Returns the layout of the struct with a number (see `libbpf.Map.btf_value_type_id`).

        Raises:
            NotFound: that type is no struct.
        """
        type_id = self._resolve(type_id)
        if self._types[type_id].kind != _STRUCT:
            raise NotFound(f"{self._source}: type {type_id} is no struct")
        return self._layout(type_id)

    def _string(self, offset: int) -> str:
        return _text_at(self._text, offset)

    def _find(self, name: str, kinds: tuple[int, ...]) -> int:
        for type_id, found in enumerate(self._types):
            if found.name == name and found.kind in kinds:
                return type_id
        raise NotFound(
            f"{self._source} does not describe {name!r}: was it built from these sources?"
        )

    def _resolve(self, type_id: int) -> int:
        while self._types[type_id].kind in _MODIFIERS:
            type_id = self._types[type_id].size_or_type
        return type_id

    def _layout(self, type_id: int) -> Layout:
        if type_id not in self._layouts:
            found = self._types[type_id]
            fields = tuple(
                self._field(self._string(offset), bits, member)
                for offset, member, bits in found.members(_ORDER + "III")
            )
            self._layouts[type_id] = Layout(found.name, found.size_or_type, fields)
        return self._layouts[type_id]

    def _field(self, name: str, bits: int, type_id: int) -> Field:
        offset = bits // 8
        found = self._types[self._resolve(type_id)]
        if found.kind == _STRUCT:
            layout = self._layout(self._resolve(type_id))
            return Field(name, offset, layout.size, "struct", layout=layout)
        if found.kind in (_INT, _ENUM, _ENUM64):
            return Field(name, offset, found.size_or_type, "int", self._is_signed(found))
        if found.kind == _PTR:
            return Field(name, offset, 8, "int")
        if found.kind == _ARRAY:
            element_id, _, count = struct.unpack(_ORDER + "III", found.extra)
            element = self._types[self._resolve(element_id)]
            if element.kind == _INT:
                size, signed = element.size_or_type, self._is_signed(element)
                kind = "bytes" if size == 1 and not signed else "ints"
                return Field(name, offset, size * count, kind, signed, count)
            if element.kind == _STRUCT:  # one after the other, as they lie
                return Field(name, offset, element.size_or_type * count, "bytes", count=count)
        raise FailedPrecondition(f"{self._source}: member {name} is of a kind not supported here")

    @staticmethod
    def _is_signed(found: _Type) -> bool:
        if found.kind != _INT:
            return False
        (encoding,) = struct.unpack(_ORDER + "I", found.extra)
        return bool(encoding >> 24 & _SIGNED)


def _text_at(text: bytes, offset: int) -> str:
    return text[offset : text.index(0, offset)].decode()


def _parse(raw: bytes) -> tuple[list[_Type], bytes]:
    """Returns the types, number 0 (void) included, and the table of strings."""
    magic, _, _, head_len, type_at, type_len, text_at, text_len = struct.unpack_from(
        _ORDER + "HBBIIIII", raw
    )
    if magic != _MAGIC:
        raise ValueError("not BTF")
    at, end = head_len + type_at, head_len + type_at + type_len
    text = raw[head_len + text_at : head_len + text_at + text_len]
    types = [_Type("void", 0, 0, 0, b"")]
    while at < end:
        name_at, info, size_or_type = struct.unpack_from(_ORDER + "III", raw, at)
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        fixed, each = _EXTRA.get(kind, (0, 0))
        at += 12
        extra = raw[at : at + fixed + each * vlen]
        at += len(extra)
        types.append(_Type(_text_at(text, name_at), kind, vlen, size_or_type, extra))
    return types, text
