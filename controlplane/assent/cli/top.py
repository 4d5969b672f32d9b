# SPDX-License-Identifier: Apache-2.0
"""`assent top`: the gate's counters as they move."""

from __future__ import annotations

import itertools
import json as jsonlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from assent.cli.context import JsonFlag, connect, wants_json
from assent.cli.counts import ADMITTED, by_interface, by_pair, occurred
from assent.cli.failure import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from assent.client import Client
    from assent.v1.fabric_pb2 import Counters

PAIRS_SHOWN: Final = 10
_NAME_WIDTH: Final = 35


@dataclass(frozen=True, slots=True)
class Row:
    """One line: totals, and what came of it a second since the look before.

    Attributes:
        kind: "reason", "interface" or "cells".
        name: of the reason; of the interface and its direction; of the pair of cells.
        frames: all of them.
        bytes: of a reason's frames; elsewhere, of admitted frames.
        dropped: of those frames.
        would_drop: frames that would have been refused, were their cells not observed.
        suppressed: frames that watchers were not told of; not counted by pairs.
        frames_s, bytes_s, dropped_s: a second.
    """

    kind: str
    name: str
    frames: int
    bytes: int
    dropped: int
    would_drop: int
    suppressed: int
    frames_s: float = 0.0
    bytes_s: float = 0.0
    dropped_s: float = 0.0


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(top)


def top(
    ctx: typer.Context,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many looks.")
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.05, metavar="SECONDS", help="From one look to the next.")
    ] = 1.0,
    everything: Annotated[
        bool, typer.Option("--all", help="Also reasons that have not occurred.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show what the gate decides and how often, renewed every second, until interrupted."""
    with connect(ctx) as client:
        looks = itertools.islice(_looks(client, interval, everything), count)
        if wants_json(ctx, json):
            for rows in looks:
                print(jsonlib.dumps([asdict(row) for row in rows]), flush=True)
        elif sys.stdout.isatty():
            _live(looks)
        else:
            for rows in looks:
                _plain(rows)


def rows_of(counters: Counters, everything: bool) -> list[Row]:
    """One look: reasons in the gate's order, interfaces, the busiest pairs.

    Args:
        counters: What the gate has counted.
        everything: Also reasons that have not occurred.
    """
    rows = []
    for way, lines in (("", counters.counters), ("out: ", counters.leaving)):
        for line in lines:
            if not (everything or occurred(line)):
                continue
            dropped = 0 if line.reason in ADMITTED else line.frames
            rows.append(
                Row(
                    "reason",
                    way + line.reason,
                    line.frames,
                    line.bytes,
                    dropped,
                    line.would_drop,
                    line.suppressed,
                )
            )
    rows += [
        Row(
            "interface",
            f"{name} {way}",
            sums.frames,
            sums.bytes,
            sums.dropped,
            sums.would_drop,
            sums.suppressed,
        )
        for name, way, sums in by_interface(counters)
    ]
    rows += [
        Row(
            "cells",
            f"{remote} > {local}",
            pair.admitted + pair.dropped,
            pair.bytes,
            pair.dropped,
            pair.would_drop,
            0,
        )
        for remote, local, pair in by_pair(counters)
    ]
    return rows


def rates(before: list[Row], after: list[Row], seconds: float) -> list[Row]:
    """What happened between two looks.

    Args:
        before: The first look.
        after: The second one.
        seconds: Between them.
    """
    known = {(row.kind, row.name): row for row in before}

    def a_second(now: int, then: int) -> float:
        return round((now - then) / seconds, 1)

    moved = []
    for row in after:
        old = known.get((row.kind, row.name))
        # A gate that was made anew counts from 0 again, and so does a pair.
        if old is None or old.frames > row.frames:
            old = replace(row, frames=0, bytes=0, dropped=0)
        moved.append(
            replace(
                row,
                frames_s=a_second(row.frames, old.frames),
                bytes_s=a_second(row.bytes, old.bytes),
                dropped_s=a_second(row.dropped, old.dropped),
            )
        )
    return moved


def _looks(client: Client, interval: float, everything: bool) -> Iterator[list[Row]]:
    from assent.v1.fabric_pb2 import GetCountersRequest

    request = GetCountersRequest(interfaces=True, pairs_max=PAIRS_SHOWN)

    def look() -> tuple[list[Row], float]:
        return rows_of(client.fabric.GetCounters(request), everything), time.monotonic()

    before, then = look()
    while True:
        time.sleep(interval)
        after, now = look()
        yield rates(before, after, now - then)
        before, then = after, now


def _plain(rows: list[Row]) -> None:
    """One line a row, with the time: for logs and scripts, which need no headings."""
    now = time.strftime("%H:%M:%SZ", time.gmtime())
    for row in rows:
        print(
            f"{now} {row.kind:<9} {one_line(row.name):<{_NAME_WIDTH}} {row.frames:>14} frames"
            f" {row.frames_s:>12.1f}/s {row.bytes:>16} bytes {row.bytes_s:>14.1f}/s"
            f" {row.dropped:>12} dropped {row.dropped_s:>12.1f}/s"
            f" {row.would_drop:>12} would_drop"
        )
    if not rows:
        print(f"{now} the gate has not seen a frame yet")
    sys.stdout.flush()


def _live(looks: Iterator[list[Row]]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False, highlight=False, emoji=False)
    with Live(_table([]), console=console, auto_refresh=False) as live:
        for rows in looks:
            live.update(_table(rows), refresh=True)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table

    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("REASON, INTERFACE, CELLS")
    headings = ("FRAMES", "FRAMES/S", "BYTES", "BYTES/S", "DROPPED/S", "WOULD_DROP", "SUPPRESSED")
    for heading in headings:
        grid.add_column(heading, justify="right")
    kind = "reason"
    for row in rows:
        if row.kind != kind:
            kind = row.kind
            grid.add_row("")
        grid.add_row(
            one_line(row.name),
            f"{row.frames:,}",
            f"{row.frames_s:,.1f}",
            f"{row.bytes:,}",
            f"{row.bytes_s:,.1f}",
            f"{row.dropped_s:,.1f}",
            f"{row.would_drop:,}",
            f"{row.suppressed:,}",
            style=_style(row),
        )
    return grid


def _style(row: Row) -> str:
    """What moves stands out from what has merely happened once."""
    if row.dropped_s:
        return "bold red"
    if row.frames_s:
        return "green"
    return "yellow" if row.would_drop else ""
