# SPDX-License-Identifier: Apache-2.0
"""`assent watch` and `assent capture`: frames that the gate refuses, as it refuses them."""

from __future__ import annotations

import json as jsonlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.cli.failure import one_line

if TYPE_CHECKING:
    from assent.client import Client
    from assent.v1.fabric_pb2 import (
        Event,
        WatchEventsRequest,
        WatchEventsResponse,
        WatchSummary,
    )

ReasonOption = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help="Only this reason; may be given again."),
]
CellOption = Annotated[
    str | None,
    typer.Option("--cell", metavar="CELL", help="Only from or to this cell: its name or id."),
]

# What an operator looks for first: attacks and misuse, then the peer's own trouble.
_COLOURS = {
    "bad_tag": "red",
    "replay": "red",
    "unknown_source": "red",
    "malformed_length": "red",
    "malformed_flags": "red",
    "bare_frame": "red",
    "no_covenant": "magenta",
    "quarantined": "magenta",
}
_OTHER_COLOUR = "yellow"
# Admitted all the same: what an operator who observes is to be reminded of.
_WOULD_COLOUR = "bold red"
_NAME_WIDTH = 17
_REASON_WIDTH = 19


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    root.command()(watch)
    root.command()(capture)


def watch(
    ctx: typer.Context,
    reason: ReasonOption = None,
    cell: CellOption = None,
    json: JsonFlag = False,
) -> None:
    """Show refused frames as they come, until interrupted; then what was told, and what was not.

    Of a flood, the gate tells a part and counts the rest: for each reason, what was counted is what
    was told plus what was suppressed.
    """
    as_json = wants_json(ctx, json)
    show = _print_json if as_json else _printer()
    summary = None
    with connect(ctx) as client, _Stream(client, reason, cell) as stream:
        for told in stream:
            if told.HasField("event"):
                show(told.event)
            else:
                summary = told.summary
    if summary is not None:
        _close(summary, as_json)


def capture(
    ctx: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A pcapng file; it is replaced.")
    ],
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many frames.")
    ] = None,
    reason: ReasonOption = None,
    cell: CellOption = None,
    json: JsonFlag = False,
) -> None:
    """Write the beginnings of refused frames to a file for Wireshark, with the reason of each."""
    from assent.cli import render

    written = 0
    with (
        connect(ctx) as client,
        _CaptureFile(output) as file,
        _Stream(client, reason, cell) as stream,
    ):
        for told in stream:
            if told.HasField("event"):
                file.add(told.event)
                written += 1
                if written == count:
                    break
    if count is not None and written < count and stream.interrupted:
        # One without a count is ended so; this one has not got what was asked for.
        raise KeyboardInterrupt
    if wants_json(ctx, json):
        render.print_json({"file": str(output), "frames": written})
        return
    render.line(f"wrote {written} frames to {output}")


class _CaptureFile:
    """A pcapng file that is whole after every frame, and untouched until it has begun.

    It is opened first, so that a path that cannot be written is no surprise later, and emptied with
    the first frame or at the end: a capture that the daemon refuses costs nobody an older file.
    """

    def __init__(self, path: Path) -> None:
        from assent.wire.captures import VERDICT_LEN
        from assent.wire.pcapng import PcapngWriter

        self._writer = PcapngWriter("assent capture", VERDICT_LEN)
        self._path = path
        self._is_new = not path.exists()
        self._file = path.open("ab")
        self._begun = False

    def __enter__(self) -> _CaptureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._file:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._begin()
            elif self._is_new and not self._begun:
                self._path.unlink(missing_ok=True)

    def add(self, event: Event) -> None:
        """Appends a frame."""
        self._begin()
        comment = f"{_reason(event)}: {_who(event, 'src')} to {_who(event, 'dst')}"
        if event.rule:
            comment += f" ({one_line(event.rule)})"
        self._file.write(
            self._writer.frame(
                event.interface, event.time_unix_ns, event.head, event.frame_len, comment
            )
        )
        self._file.flush()

    def _begin(self) -> None:
        if not self._begun:
            self._file.truncate(0)
            self._file.write(self._writer.begin())
            self._file.flush()
            # Last: an interrupt on the way here finds a file that is still to be begun.
            self._begun = True


class _Stream:
    """What is refused from now on, until interrupted: then what is left, and a last summary.

    Interrupted once, it says so to the daemon, which tells the rest; twice, it gives up.

    Attributes:
        interrupted: Whether it was.
    """

    def __init__(self, client: Client, reasons: list[str] | None, cell: str | None) -> None:
        from assent.v1.fabric_pb2 import WatchEventsRequest

        self.interrupted = False
        self._enough = threading.Event()
        request = WatchEventsRequest(reasons=reasons or [], cell=cell_ref(cell) if cell else None)
        self._call = client.fabric.WatchEvents(self._requests(request))
        self._former: Any = None

    def __enter__(self) -> Self:
        # Raised in the middle of a read, an interrupt would leave gRPC's stream unreadable.
        self._former = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __iter__(self) -> Iterator[WatchEventsResponse]:
        return self._call

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._former)
        self._enough.set()
        self._call.cancel()

    def _requests(self, request: WatchEventsRequest) -> Iterator[WatchEventsRequest]:
        """Runs in a thread of gRPC's; its end tells the daemon that this is enough."""
        yield request
        self._enough.wait()

    def _interrupt(self, *_: object) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self._enough.set()


def _close(summary: WatchSummary, as_json: bool) -> None:
    """Says how it all adds up."""
    from assent.cli import render

    if as_json:
        print(jsonlib.dumps({"summary": render.to_dict(summary)}), flush=True)
        return
    for each in summary.reasons:
        render.line(
            f"{each.reason}: counted {each.counted} = told {each.told} "
            f"+ suppressed {each.suppressed}"
        )
    if not summary.reasons:
        render.line("nothing was counted")
    elif summary.of_all_cells:
        render.line("counted and suppressed are frames of all cells; told are this cell's alone")


def _print_json(event: Event) -> None:
    from assent.cli.render import to_dict

    print(jsonlib.dumps(to_dict(event)), flush=True)


def _printer() -> Callable[[Event], None]:
    """What prints an event for people: in colour on a terminal, whatever its width."""
    if not sys.stdout.isatty():
        return lambda event: print("".join(_parts(event)), flush=True)
    from rich.console import Console
    from rich.text import Text

    # NO_COLOR is heeded by Rich itself.
    console = Console(highlight=False, markup=False, emoji=False)

    def show(event: Event) -> None:
        before, reason, after = _parts(event)
        style = _WOULD_COLOUR if event.would_drop else _COLOURS.get(event.reason, _OTHER_COLOUR)
        console.print(Text.assemble(before, (reason, style), after), soft_wrap=True)

    return show


def _parts(event: Event) -> tuple[str, str, str]:
    """A line: what comes before the reason, the reason, and what comes after it."""
    moment = datetime.fromtimestamp(event.time_unix_ns // 10**9, UTC)
    milliseconds = event.time_unix_ns // 10**6 % 1000
    says = [
        f"{one_line(event.interface) or '-':<15}",
        _direction(event),
        f"{_who(event, 'src'):<{_NAME_WIDTH}} > {_who(event, 'dst'):<{_NAME_WIDTH}}",
        f"frame {event.frame_len:<5}",
    ]
    if event.HasField("src"):
        says.append(f"flow {event.flow:<5} seq {event.seq:<10} payload {event.payload_len:<5}")
        says.append(_flags(event.flags))
    elif event.lwf_source or event.lwf_destination:
        source, destination = event.lwf_source.hex()[:16], event.lwf_destination.hex()[:16]
        says.append(f"lwf {source} > {destination} payload {event.payload_len:<5}")
    if event.HasField("vlan"):
        says.append(f"vlan {event.vlan}")
    if event.session_id:
        says.append(f"session {event.session_id}")
    if event.suppressed:
        says.append(f"(+{event.suppressed} suppressed)")
    if event.rule:
        says.append(f"[{one_line(event.rule)}]")
    before = f"{moment:%H:%M:%S}.{milliseconds:03d}Z "
    return before, f"{_reason(event):<{_REASON_WIDTH}}", " " + " ".join(says)


def _reason(event: Event) -> str:
    """Why it was refused; marked where it was admitted all the same."""
    reason = one_line(event.reason)
    return f"would_drop:{reason}" if event.would_drop else reason


def _direction(event: Event) -> str:
    from assent.v1.fabric_pb2 import DIRECTION_LEAVING

    return "out" if event.direction == DIRECTION_LEAVING else "in "


def _who(event: Event, side: str) -> str:
    """A cell by its name, else by the beginning of its id; "?" where the frame names none."""
    name: str = getattr(event, f"{side}_name")
    if name:
        return one_line(name)
    if not event.HasField("src" if side == "src" else "dst"):
        return "?"
    return bytes(getattr(event, side).value).hex()[:16]


def _flags(flags: int) -> str:
    from assent.wire.fabric import Flags

    known = [flag.name or "" for flag in Flags if flags & flag and flag is not Flags.BLOCK]
    rest = flags & ~sum(Flags)
    return "+".join([*known, *([f"{rest:#x}"] if rest else [])]) or "-"
