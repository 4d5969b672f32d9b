# SPDX-License-Identifier: Apache-2.0
"""`assent top`: the gate's counters as they move."""

from __future__ import annotations

import itertools
import json as jsonlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, connect, wants_json

if TYPE_CHECKING:
    from rich.table import Table

    from assent.client import Client
    from assent.v1.fabric_pb2 import Counters


@dataclass(frozen=True, slots=True)
class Row:
    """One reason: totals, and what came of it a second since the look before."""

    reason: str
    frames: int
    bytes: int
    frames_s: float
    bytes_s: float


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


def rates(before: Counters, after: Counters, seconds: float, everything: bool) -> list[Row]:
    """What happened between two looks, by reason in the gate's order.

    Args:
        before: The first look.
        after: The second one.
        seconds: Between them.
        everything: Also reasons that have not occurred.
    """
    known = {line.reason: line for line in before.counters}
    rows = []
    for line in after.counters:
        if not (everything or line.frames):
            continue
        old = known.get(line.reason)
        # A gate that was made anew counts from 0 again.
        since = old if old is not None and old.frames <= line.frames else None
        rows.append(
            Row(
                line.reason,
                line.frames,
                line.bytes,
                round((line.frames - (since.frames if since else 0)) / seconds, 1),
                round((line.bytes - (since.bytes if since else 0)) / seconds, 1),
            )
        )
    return rows


def _looks(client: Client, interval: float, everything: bool) -> Iterator[list[Row]]:
    from assent.v1.fabric_pb2 import GetCountersRequest

    before, then = client.fabric.GetCounters(GetCountersRequest()), time.monotonic()
    while True:
        time.sleep(interval)
        after, now = client.fabric.GetCounters(GetCountersRequest()), time.monotonic()
        yield rates(before, after, now - then, everything)
        before, then = after, now


def _plain(rows: list[Row]) -> None:
    """One line a reason, with the time: for logs and scripts, which need no headings."""
    now = time.strftime("%H:%M:%SZ", time.gmtime())
    for row in rows:
        print(
            f"{now} {row.reason:<19} {row.frames:>14} frames {row.frames_s:>12.1f}/s"
            f" {row.bytes:>16} bytes {row.bytes_s:>14.1f}/s"
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
    grid.add_column("REASON")
    for heading in ("FRAMES", "FRAMES/S", "BYTES", "BYTES/S"):
        grid.add_column(heading, justify="right")
    for row in rows:
        # What moves stands out from what has merely happened once.
        style = ("green" if row.reason == "admitted" else "bold red") if row.frames_s else ""
        grid.add_row(
            row.reason,
            f"{row.frames:,}",
            f"{row.frames_s:,.1f}",
            f"{row.bytes:,}",
            f"{row.bytes_s:,.1f}",
            style=style,
        )
    return grid
