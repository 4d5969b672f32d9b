# SPDX-License-Identifier: Apache-2.0
"""Output: JSON that mirrors the API, and tables for people.

In JSON every field of a message is there, under its proto name. Bytes and CellIDs are hexadecimal,
enums their lower-case names, and what is not set is null where the API can tell.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from assent.cli.failure import one_line

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.message import Message
    from rich.console import Console
    from rich.text import Text

# A pipe has no width: tables are as wide as their contents, nothing is folded.
_UNBOUNDED = 10_000

OBSERVED = "observe: what policy refuses is admitted"
BARE = "40-byte frames are admitted, which prove nothing"

_STYLES = {
    OBSERVED: "bold red",
    BARE: "yellow",
    "observe": "bold red",
    "observe+bare": "bold red",
    "bare": "yellow",
    "standing": "green",
    "covenant": "green",
    "quarantined": "yellow",
    "established": "green",
    "covenanted": "green",
    "amending": "green",
    "revoking": "yellow",
    "offer-received": "yellow",
    "deferred": "yellow",
    "admitted": "green",
    "not gated": "bold red",
    "missing": "bold red",
    "no_clsact": "bold red",
    "other_program": "bold red",
    "bypassed": "bold red",
}


def emit(as_json: bool, message: Message, human: Callable[[], None]) -> None:
    """Prints a message of the API as JSON, or what `human` prints."""
    if as_json:
        print_json(to_dict(message))
    else:
        human()


def print_json(value: object) -> None:
    """Prints a value as indented JSON, ASCII only."""
    print(json.dumps(value, indent=2))


def line(text: str) -> None:
    """Prints one line; whatever could drive a terminal is escaped."""
    print(one_line(text))


def fields(rows: Mapping[str, object]) -> None:
    """Prints names and values in two columns; what is empty is a dash."""
    _table(None, [(name, _shown(value)) for name, value in rows.items()], numbers=())


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Prints a table.

    Args:
        headings: One a column; columns of numbers are aligned to the right.
        rows: Values in the order of the headings.
        empty: What to print where there are no rows.
    """
    listed = [list(row) for row in rows]
    if not listed:
        line(empty)
        return
    numbers = tuple(
        index for index in range(len(headings)) if all(_is_number(row[index]) for row in listed)
    )
    _table(headings, [[_shown(value) for value in row] for row in listed], numbers)


def to_dict(message: Message) -> dict[str, Any]:
    """A message as a dictionary that JSON can hold; secrets are left out."""
    return {
        field.name: _field_value(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.GetOptions().debug_redact
    }


def enum_name(enum: EnumDescriptor, number: int) -> str | None:
    """A value's name without the enum's own: CONSENT_STANDING of Consent is `standing`.

    Returns:
        The name, None for the unspecified value, and the number of one that is newer than this
        program.
    """
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    name = value.name.removeprefix(prefix).lower()
    return None if name == "unspecified" else name


def when(unix_ns: int) -> str:
    """A time in UTC, to the second; "" for 0."""
    if not unix_ns:
        return ""
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# Descriptors have two classes, of Python and of C, which the type hints tell apart.
def _field_value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    # How a descriptor says `repeated` depends on protobuf's version; what it holds does not.
    if isinstance(value, MutableSequence):
        return [_plain(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _plain(field, value)


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name == "assent.v1.CellId":
            return value.value.hex()
        return to_dict(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value.hex() if isinstance(value, bytes) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return one_line(str(value))


def _console() -> Console:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    # Rich heeds NO_COLOR itself; FORCE_COLOR would put escapes into pipes, so it is not asked.
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else _UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _table(
    headings: Sequence[str] | None, rows: Iterable[Sequence[str]], numbers: tuple[int, ...]
) -> None:
    from rich.table import Table

    rows = list(rows)
    grid = Table(
        box=None,
        show_header=headings is not None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index in range(len(rows[0])):
        grid.add_column(
            headings[index] if headings else "",
            justify="right" if index in numbers else "left",
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    _console().print(grid)


def _cell(value: str) -> Text:
    from rich.text import Text

    return Text(value, style=_STYLES.get(value, ""))
