# SPDX-License-Identifier: Apache-2.0
"""`assent cells import` and `assent cells drop`: remote cells by the thousand.

A file for `import` has one JSON object a line:

    {"name": "cell-1", "public_key": "<64 hexadecimal digits>", "consent": "standing",
     "mac": "02:00:00:00:00:01", "psk": "<64 digits, or base64>", "grants": {"1": 1000},
     "session": {"local": "this-host", "epoch": 1, "tx_payload_key": "<64 digits>",
                 "tx_header_key": "<32>", "rx_payload_key": "<64>", "rx_header_key": "<32>",
                 "peer_grants": {"1": 1000}, "mtu": 1500, "clock": "synchronized",
                 "skew_limit_ms": 30000}}

Needed are `name` and `public_key`; of a `session`, all but `local`, `peer_grants` and
`skew_limit_ms`. `clock` is "synchronized", or the peer's clock minus this host's monotonic one in
nanoseconds. Empty lines are skipped. For `drop`, a line is the name or id of a cell, or such an
object.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from assent.cli import public_key as public_keys
from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.cells_pb2 import CellRef
    from assent.v1.provisioning_pb2 import InstallItem, StaticSession, Window

_CONSENTS: Final = ("none", "standing", "quarantined", "covenant")
_CELL_KEYS: Final = {"name", "public_key", "id", "consent", "mac", "psk", "grants", "session"}
_SESSION_KEYS: Final = {
    "local", "epoch", "tx_payload_key", "tx_header_key", "rx_payload_key", "rx_header_key",
    "peer_grants", "mtu", "clock", "skew_limit_ms",
}  # fmt: skip

Source = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON lines; see docs/operating.md.")]


def register(noun: typer.Typer) -> None:
    """Adds the commands of this module to `assent cells`."""
    noun.command("import")(import_cells)
    noun.command("drop")(drop_cells)


def import_cells(
    ctx: typer.Context,
    source: Source,
    replace: Annotated[
        bool, typer.Option("--replace", help="Cells of the same names give way.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make many remote cells known, with keys, grants and static sessions, from JSON lines."""
    from assent.cli import render
    from assent.provisioning import install_requests

    with connect(ctx) as client, _opened(source) as file, _counting() as tell:
        items = _Source(_lines(file, _item), tell)
        with items.blamed():
            summary = client.provisioning.Install(install_requests(items, replace=replace))
    said = (
        f"{summary.cells} cells are known ({summary.replaced} took another's place), with "
        f"{summary.sessions} sessions, {summary.psks} keys and {summary.grants} grants"
    )
    render.emit(wants_json(ctx, json), summary, lambda: render.line(said))


def drop_cells(ctx: typer.Context, source: Source, json: JsonFlag = False) -> None:
    """Remove many remote cells, named line by line, with their sessions and keys."""
    from assent.cli import render
    from assent.provisioning import remove_requests

    with connect(ctx) as client, _opened(source) as file, _counting() as tell:
        refs = _Source(_lines(file, _reference), tell)
        with refs.blamed():
            summary = client.provisioning.Remove(remove_requests(refs))
    render.emit(
        wants_json(ctx, json), summary, lambda: render.line(f"{summary.cells} cells are removed")
    )


@contextlib.contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    """Opens a file, or standard input for `-`; keys in a file that others may read are told of."""
    if source == "-":
        yield sys.stdin
        return
    with Path(source).open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            print(
                f"assent: {source} can be read or changed by others than its owner; if it has "
                f"keys, run `chmod 600 {source}` and change them",
                file=sys.stderr,
            )
        yield file


def _lines(file: TextIO, read: Callable[[str], Any]) -> Iterator[Any]:
    """Reads each line that is not empty; an error says which."""
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield read(line.strip())
            except InvalidArgument as error:
                raise InvalidArgument(f"line {number}: {error.field}", error.problem) from None


def _item(line: str) -> InstallItem:
    from assent.cli import psk_file
    from assent.v1.provisioning_pb2 import InstallItem

    cell = _object(line)
    _refuse_unknown(cell, _CELL_KEYS)
    consent = cell.get("consent", "none")
    if consent not in _CONSENTS:
        raise InvalidArgument("consent", f"needs one of {', '.join(_CONSENTS)}")
    item = InstallItem(
        name=_text(cell, "name"),
        public_key=public_keys.parse("public_key", _text(cell, "public_key")),
        consent=f"CONSENT_{consent.upper()}",
        mac=_text(cell, "mac", ""),
        grants=_windows(cell, "grants"),
    )
    if "psk" in cell:
        item.psk = psk_file.parse(_text(cell, "psk").encode())
    if "session" in cell:
        item.session.CopyFrom(_session(cell["session"]))
    return item


def _session(session: object) -> StaticSession:
    from assent.v1.provisioning_pb2 import StaticSession

    if not isinstance(session, dict):
        raise InvalidArgument("session", "needs an object")
    _refuse_unknown(session, _SESSION_KEYS)
    message = StaticSession(
        epoch=_number(session, "epoch", 32),
        mtu=_number(session, "mtu", 32),
        peer_grants=_windows(session, "peer_grants"),
        tx_payload_key=_secret(session, "tx_payload_key"),
        tx_header_key=_secret(session, "tx_header_key"),
        rx_payload_key=_secret(session, "rx_payload_key"),
        rx_header_key=_secret(session, "rx_header_key"),
    )
    if "local" in session:
        message.local.CopyFrom(cell_ref(_text(session, "local")))
    if session.get("clock") == "synchronized":
        message.synchronized = True
    else:
        message.clock_offset_ns = _number(session, "clock", 64)
    if "skew_limit_ms" in session:
        message.skew_limit_ms = _number(session, "skew_limit_ms", 32)
    return message


def _reference(line: str) -> CellRef:
    return cell_ref(_text(_object(line), "name") if line.startswith("{") else line)


def _object(line: str) -> dict[str, Any]:
    try:
        found = jsonlib.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument("FILE", "is not a JSON object")
    return found


def _refuse_unknown(found: dict[str, Any], known: set[str]) -> None:
    for name in found:
        if name not in known:
            raise InvalidArgument(name, "is no field of a cell or session")


def _text(found: dict[str, Any], name: str, default: str | None = None) -> str:
    value = found.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(name, "is missing" if value is None else "needs text")
    return value


def _number(found: dict[str, Any], name: str, bits: int) -> int:
    value = found.get(name)
    # bool is an int in Python, not in a file.
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(name, "needs a whole number")
    low = -(1 << 63) if bits == 64 else 0
    if not low <= value < 1 << (63 if bits == 64 else bits):
        raise InvalidArgument(name, f"does not fit {bits} bits")
    return value


def _secret(found: dict[str, Any], name: str) -> bytes:
    text = _text(found, name)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidArgument(name, "needs hexadecimal digits") from None


def _windows(found: dict[str, Any], name: str) -> list[Window]:
    from assent.v1.provisioning_pb2 import Window

    windows = found.get(name, {})
    if not isinstance(windows, dict) or not all(flow.isdecimal() for flow in windows):
        raise InvalidArgument(name, 'needs an object like {"1": 1000}')
    for flow in windows:
        _number(windows, flow, 32)
        _number({"flow": int(flow)}, "flow", 32)
    return [Window(flow=int(flow), window_blocks=blocks) for flow, blocks in windows.items()]


class _Source:
    """What is read while it is sent. gRPC hides the errors of whoever makes requests."""

    def __init__(self, values: Iterator[Any], tell: Callable[[int], None]) -> None:
        self._values = values
        self._tell = tell
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for number, value in enumerate(self._values, start=1):
                yield value
                self._tell(number)
        except Exception as error:
            self._error = error
            raise

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Around the call: where reading failed, that is its error."""
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise


@contextlib.contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A counter on stderr where that is a terminal; nothing where it is not."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = SpinnerColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("cells", total=None)
        yield lambda done: bar.update(task, completed=done)
