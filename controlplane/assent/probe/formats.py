# SPDX-License-Identifier: Apache-2.0
"""Tracepoints' own descriptions, read from tracefs: where fields lie differs between kernels.

Uses the standard library alone: `collector` runs it under the system's Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")

_FIELD = re.compile(
    r"field:(?P<type>.+?)\s(?P<name>\w+);\s*offset:(?P<at>\d+);\s*size:(?P<size>\d+);"
)
_NAMED = re.compile(r'\{ (-?\d+), "(\w+)" \}')


@dataclass(frozen=True)
class Tracepoint:
    """One tracepoint.

    Attributes:
        name: as in "skb:kfree_skb".
        fields: offset and size in bytes, by name.
        names: of the numbers that its printed form spells out.
    """

    name: str
    fields: dict[str, tuple[int, int]]
    names: dict[int, str]


def parse(name: str, text: str) -> Tracepoint:
    """Reads the text of a tracepoint's `format` file."""
    fields = {
        match["name"]: (int(match["at"]), int(match["size"])) for match in _FIELD.finditer(text)
    }
    names = {int(number): label for number, label in _NAMED.findall(text)}
    return Tracepoint(name, fields, names)


def read(name: str, root: Path = TRACEFS) -> Tracepoint | None:
    """A tracepoint of this kernel; None where it has none of that name."""
    try:
        text = (root / "events" / name.replace(":", "/") / "format").read_text()
    except FileNotFoundError:
        return None
    return parse(name, text)
