# SPDX-License-Identifier: Apache-2.0
"""Values of one layout, carried over into another one, member by member and by name.

A member that the new layout no longer has is dropped; one that the old layout did not have yet is
zero, or what the caller says. A number goes into a wider or narrower member where it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from assent.dataplane.btf import Field, Layout
from assent.dataplane.tables.units import BYTE_ORDER
from assent.errors import FailedPrecondition

_NUMBERS = frozenset({"int", "ints"})
_Step = Callable[[bytes, bytearray], None]


class Converter:
    """Makes values of the new layout out of those of the old one."""

    def __init__(
        self, owner: str, old: Layout, new: Layout, defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Compares the layouts.

        Args:
            owner: whose values these are, for messages: "map flows".
            old: layout of what goes in.
            new: layout of what comes out.
            defaults: for members that the old layout has not; zero where none is given.

        Raises:
            FailedPrecondition: a member has become something of another kind.
        """
        self._owner = owner
        self._struct = new.name or "its values"
        known = {field.name: field for field in old.fields}
        missing = {field.name for field in new.fields} - set(known)
        given = {name: value for name, value in (defaults or {}).items() if name in missing}
        self._blank = new.pack(**given)
        self._steps: list[_Step] = []
        run: tuple[int, int, int] | None = None  # bytes that lie together on both sides
        for field in new.fields:
            found = known.get(field.name)
            if found is None:
                continue
            if not _is_same(found, field):
                self._steps.append(self._step(found, field))
            elif run and found.offset - run[0] == field.offset - run[1] == run[2]:
                run = (run[0], run[1], run[2] + field.size)
            else:
                self._flush(run)
                run = (found.offset, field.offset, field.size)
        self._flush(run)

    def __call__(self, data: bytes) -> bytes:
        """Returns a value in the new layout.

        Raises:
            FailedPrecondition: a member has no room for what it would have to hold.
        """
        made = bytearray(self._blank)
        for step in self._steps:
            step(data, made)
        return bytes(made)

    def _flush(self, run: tuple[int, int, int] | None) -> None:
        if run is None:
            return
        source, target, size = run

        def copy(data: bytes, made: bytearray) -> None:
            made[target : target + size] = data[source : source + size]

        self._steps.append(copy)

    def _step(self, old: Field, new: Field) -> _Step:
        if old.layout is not None and new.layout is not None:
            return self._nested(old, new, old.layout, new.layout)
        if {old.kind, new.kind} <= _NUMBERS and old.kind == new.kind:
            return self._numbers(old, new)
        if old.kind == new.kind == "bytes" and _width(old) == _width(new):
            return self._bytes(old, new)
        raise FailedPrecondition(
            f"{self._owner}: member {new.name} of {self._struct} has become something of another "
            "kind, and cannot be carried over"
        )

    def _nested(self, old: Field, new: Field, inner: Layout, outer: Layout) -> _Step:
        convert = Converter(self._owner, inner, outer)

        def step(data: bytes, made: bytearray) -> None:
            held = convert(data[old.offset : old.offset + old.size])
            made[new.offset : new.offset + new.size] = held

        return step

    def _numbers(self, old: Field, new: Field) -> _Step:
        source, target = _width(old), _width(new)
        starts = range(old.offset, old.offset + old.size, source)

        def step(data: bytes, made: bytearray) -> None:
            numbers = [
                int.from_bytes(data[at : at + source], BYTE_ORDER, signed=old.signed)
                for at in starts
            ]
            if any(numbers[new.count :]):
                raise self._no_room(new)
            try:
                held = b"".join(
                    number.to_bytes(target, BYTE_ORDER, signed=new.signed)
                    for number in numbers[: new.count]
                )
            except OverflowError:
                raise self._no_room(new) from None
            made[new.offset : new.offset + len(held)] = held

        return step

    def _bytes(self, old: Field, new: Field) -> _Step:
        size = min(old.size, new.size)

        def step(data: bytes, made: bytearray) -> None:
            held = data[old.offset : old.offset + old.size]
            if any(held[size:]):
                raise self._no_room(new)
            made[new.offset : new.offset + size] = held[:size]

        return step

    def _no_room(self, field: Field) -> FailedPrecondition:
        # The value itself stays out of the message: it may be a key.
        return FailedPrecondition(
            f"{self._owner}: member {field.name} of {self._struct} holds what its new form has no "
            "room for"
        )


def _is_same(old: Field, new: Field) -> bool:
    """Whether a member's bytes mean the same on both sides, wherever they lie."""
    return (old.size, old.kind, old.signed, old.count, old.layout) == (
        new.size, new.kind, new.signed, new.count, new.layout,
    )  # fmt: skip


def _width(field: Field) -> int:
    return field.size // field.count
