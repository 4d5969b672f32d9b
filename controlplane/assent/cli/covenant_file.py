# SPDX-License-Identifier: Apache-2.0
"""Terms files: what is proposed, as TOML.

    [[permissions]]
    id = "reports"
    party = "initiator"
    flows = [1]
    content_types = ["text/*"]

    [[constraints]]
    id = "pace"
    party = "initiator"
    kind = "rate"
    blocks_per_second = 2000

    [[clauses]]
    type = "protection"
    description = "Whoever cannot keep up is heard first."
    trigger = "an agent asks for a review"
    action = "no violation is charged until it has been held"

    [exit]
    notice = "30s"

docs/covenants.md has all of it. A table or key that is not known is refused: a term that is
misspelt must not be one that is missing. Bounds are checked by the daemon, which knows them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from assent.cli import covenant_spans as spans
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1 import covenants_pb2 as pb

# The largest frame of the protocol has 256 KiB.
_FILE_MAX = 1 << 20
_UINT32_MAX: Final = (1 << 32) - 1
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_KINDS: Final = ("rate", "burst", "payload_size", "time_window", "timer", "deferrals", "other")
_CLOCK = re.compile(r"(\d{2}):(\d{2})", re.ASCII)

DEFAULT_REVIEW_US: Final = 7 * 86_400 * spans.SECOND_US
DEFAULT_NOTICE_US: Final = 30 * spans.SECOND_US
DEFAULT_FALLBACK: Final = "isolation"

Value = TypeVar("Value")
Default = TypeVar("Default")


def read(path: Path) -> pb.CovenantProposal:
    """Reads what is proposed; what the file does not say is unset.

    Raises:
        InvalidArgument: It is not such a file; the error names the table and the key.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise InvalidArgument(str(path), f"has more than {_FILE_MAX:,} bytes")
    try:
        return parse(str(path), data.decode())
    except UnicodeDecodeError as error:
        raise InvalidArgument(str(path), f"is not TOML: {error}") from None


def parse(name: str, text: str) -> pb.CovenantProposal:
    """Reads what is proposed; what the text does not say is unset.

    Args:
        name: Where it comes from.
        text: TOML.

    Raises:
        InvalidArgument: It proposes nothing that could be; the error names the table and the key.
    """
    from assent.v1 import covenants_pb2 as pb

    try:
        top = _Table("", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidArgument(name, f"is not TOML: {error}") from None
    proposal = pb.CovenantProposal(
        terms=_terms(top),
        misericordia_clauses=top.tables("clauses", _clause),
        durable=top.get("durable", _truth, False),
    )
    if (found := top.table("duration")) is not None:
        proposal.duration.CopyFrom(_duration(found))
    if (found := top.table("exit")) is not None:
        proposal.exit_protocol.CopyFrom(_exit(found))
    top.done()
    return proposal


def read_terms(path: Path) -> pb.Terms:
    """Reads the terms of a file, for a counter-proposal; whatever else it says is checked, too.

    Raises:
        InvalidArgument: As `read`, or there are no terms.
        OSError: It cannot be read.
    """
    proposal = read(path)
    if not proposal.HasField("terms"):
        raise InvalidArgument(str(path), "has no obligations, permissions or constraints")
    return proposal.terms


class _Table:
    """A table of the file: gives out its values, and knows which nobody has asked for."""

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self._path = path
        self._values = dict(values)

    def field(self, key: str) -> str:
        """What errors call a key."""
        return f"{self._path}.{key}" if self._path else key

    def get(
        self, key: str, parse: Callable[[str, object], Value], default: Default
    ) -> Value | Default:
        """A value, or the default where it is left out."""
        return parse(self.field(key), self._values.pop(key)) if key in self._values else default

    def need(self, key: str, parse: Callable[[str, object], Value]) -> Value:
        """A value that may not be left out."""
        if key not in self._values:
            raise InvalidArgument(self.field(key), "is missing")
        return parse(self.field(key), self._values.pop(key))

    def table(self, key: str) -> _Table | None:
        """A table, None where it is left out."""
        if key not in self._values:
            return None
        value = self._values.pop(key)
        if not isinstance(value, dict):
            raise InvalidArgument(self.field(key), f"needs a table, as in [{key}]")
        return _Table(self.field(key), value)

    def tables(self, key: str, read: Callable[[_Table], Value]) -> list[Value]:
        """What the tables of an array stand for."""
        values = self._values.pop(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise InvalidArgument(self.field(key), f"needs tables, as in [[{key}]]")
        found = []
        for at, value in enumerate(values):
            table = _Table(f"{self.field(key)}[{at}]", value)
            found.append(read(table))
            table.done()
        return found

    def done(self) -> None:
        """Refuses what nobody has asked for."""
        for key in self._values:
            raise InvalidArgument(self.field(key), "is not a key that is known here")


def _terms(top: _Table) -> pb.Terms | None:
    from assent.v1 import covenants_pb2 as pb

    terms = pb.Terms(
        obligations=top.tables("obligations", _obligation),
        permissions=top.tables("permissions", _permission),
        constraints=top.tables("constraints", _constraint),
    )
    return terms if terms.ByteSize() else None


def _obligation(table: _Table) -> pb.Obligation:
    from assent.v1 import covenants_pb2 as pb

    return pb.Obligation(
        id=table.need("id", _text),
        party=table.get("party", _text, "*"),
        duty=table.need("duty", _text),
        description=table.get("description", _text, ""),
    )


def _permission(table: _Table) -> pb.Permission:
    from assent.v1 import covenants_pb2 as pb

    return pb.Permission(
        id=table.need("id", _text),
        party=table.get("party", _text, "*"),
        action=table.get("action", _text, "send"),
        flows=table.get("flows", _numbers, None),
        content_types=table.get("content_types", _texts, None),
        description=table.get("description", _text, ""),
    )


def _constraint(table: _Table) -> pb.Constraint:
    from assent.v1 import covenants_pb2 as pb

    constraint = pb.Constraint(
        id=table.need("id", _text),
        party=table.get("party", _text, "*"),
        description=table.get("description", _text, ""),
    )
    match table.need("kind", _text):
        case "rate":
            constraint.rate_blocks_per_second = table.need("blocks_per_second", _blocks)
        case "burst":
            constraint.burst.blocks = table.need("blocks", _blocks)
            constraint.burst.flow = table.get("flow", _number, 0)
        case "payload_size":
            constraint.payload_bytes = table.need("bytes", _number)
        case "time_window":
            constraint.time_window.from_minute = table.need("from", _minute)
            constraint.time_window.to_minute = table.need("to", _minute)
            constraint.time_window.days.extend(table.get("days", _days, list(range(7))))
        case "timer":
            constraint.timer.timer = table.need("timer", _text)
            constraint.timer.microseconds = table.need("span", _span)
        case "deferrals":
            constraint.deferrals = table.need("count", _number)
        case "other":
            constraint.other = table.need("value", _text)
        case _:
            raise InvalidArgument(table.field("kind"), f"needs one of {', '.join(_KINDS)}")
    return constraint


def _clause(table: _Table) -> pb.Clause:
    from assent.v1 import covenants_pb2 as pb

    return pb.Clause(
        type=table.need("type", _text),
        description=table.need("description", _text),
        trigger=table.need("trigger", _text),
        action=table.need("action", _text),
    )


def _duration(table: _Table) -> pb.CovenantDuration:
    from assent.v1 import covenants_pb2 as pb

    now = spans.now()
    start = table.get("start", lambda field, value: spans.parse_moment(field, value, now), 0)
    duration = pb.CovenantDuration(
        start_unix_us=start,
        review_interval_us=table.get("review_interval", _span, DEFAULT_REVIEW_US),
        end_unix_us=table.get(
            "end", lambda field, value: spans.parse_moment(field, value, start or now), 0
        ),
        max_versions=table.get("max_versions", _number, 0),
    )
    table.done()
    return duration


def _exit(table: _Table) -> pb.ExitProtocol:
    from assent.v1 import covenants_pb2 as pb

    protocol = pb.ExitProtocol(
        notice_period_us=table.get("notice", _span, DEFAULT_NOTICE_US),
        mutual_required=table.get("mutual", _truth, False),
        fallback_state=table.get("fallback", _text, DEFAULT_FALLBACK),
    )
    table.done()
    return protocol


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(field, "needs text")
    return value


def _texts(field: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise InvalidArgument(field, "needs a list of texts")
    return [_text(f"{field}[{at}]", each) for at, each in enumerate(value)]


def _truth(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(field, "needs true or false")
    return value


def _number(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _UINT32_MAX:
        raise InvalidArgument(field, f"needs a whole number from 0 to {_UINT32_MAX}")
    return value


def _numbers(field: str, value: object) -> list[int]:
    if not isinstance(value, list):
        raise InvalidArgument(field, "needs a list of whole numbers")
    return [_number(f"{field}[{at}]", each) for at, each in enumerate(value)]


def _blocks(field: str, value: object) -> int:
    """Blocks of 64 bytes, or a size like "256KiB"."""
    from assent.cli import sizes

    if isinstance(value, str):
        try:
            value = sizes.parse_blocks(value)
        except InvalidArgument as error:
            raise InvalidArgument(field, error.problem) from None
    return _number(field, value)


def _span(field: str, value: object) -> int:
    return spans.parse(field, _text(field, value))


def _minute(field: str, value: object) -> int:
    """A time of day in UTC, as minutes; 24:00 is its end."""
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is not None and int(match[2]) < 60:
        minute = int(match[1]) * 60 + int(match[2])
        if minute <= 1440:
            return minute
    raise InvalidArgument(field, 'needs a time of day in UTC, as in "08:30"')


def _days(field: str, value: object) -> list[int]:
    names = [name.lower() for name in _texts(field, value)]
    for name in names:
        if name not in _DAYS:
            raise InvalidArgument(field, f"needs days out of {', '.join(_DAYS)}")
    return [_DAYS.index(name) for name in names]
