# SPDX-License-Identifier: Apache-2.0
"""`assent ping`: how long a message and its answer take."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli.context import JsonFlag, wants_json
from assent.cli.flows import (
    BackendName,
    BackendOption,
    BusyPollOption,
    LocalOption,
    ServeOption,
    endpoint,
    open_by,
    tell,
)

if TYPE_CHECKING:
    from assent.transport.blocking import Flow

LABEL = "ping"

_HEAD = struct.Struct("!Q")
_ANSWER_S = 10.0


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(ping)


@dataclass(slots=True)
class Times:
    """Round-trip times, microseconds."""

    sent: int = 0
    took: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Their statistics; none of no answer."""
        result: dict[str, Any] = {"sent": self.sent, "received": len(self.took)}
        if not self.took:
            return result
        ordered, count = sorted(self.took), len(self.took)
        mean = sum(ordered) / count
        variance = max(0.0, sum(each * each for each in ordered) / count - mean * mean)
        figures = {
            "min_us": ordered[0],
            "avg_us": mean,
            "max_us": ordered[-1],
            "stddev_us": variance**0.5,
            "p50_us": ordered[count // 2],
            "p99_us": ordered[min(count - 1, count * 99 // 100)],
        }
        return result | {name: round(value, 1) for name, value in figures.items()}


def ping(
    ctx: typer.Context,
    remote: Annotated[
        str | None, typer.Argument(metavar="[REMOTE]", help="Name or id of the other cell.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-c", min=1, help="Stop after so many.")
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.0, help="Seconds from one to the next.")
    ] = 1.0,
    size: Annotated[int, typer.Option("--size", "-s", min=8, help="Bytes of a message.")] = 56,
    flow: Annotated[
        int | None, typer.Option(min=1, max=7, help="The flow; both sides name the same one.")
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="LABEL", help="Which listener is meant, where no flow is named.")
    ] = LABEL,
    serve: ServeOption = False,
    backend: BackendOption = BackendName.AUTO,
    busy_poll: BusyPollOption = 0,
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure round trips to a remote cell where `assent ping --serve` runs.

    Ends after --count, or with Ctrl-C; then shows what was measured.
    """
    from assent.cli import render
    from assent.cli.failure import CommandError

    with endpoint(ctx, local, backend, peer=remote, busy_poll_us=busy_poll) as opened:
        if serve:
            if flow is not None:
                if remote is None:
                    raise CommandError("a flow belongs to a remote cell", "name it too")
                with opened.connect(remote).flow(flow) as link:
                    tell(f"flow {flow} is open")
                    echo(link)
                return
            with opened.listen(label, remote) as listener:
                tell(f"answering as {opened.local.short}; Ctrl-C ends it")
                for_each(listener, echo)
            return
        if remote is None:
            raise CommandError("nobody to ping", "name a remote cell, or pass --serve")
        times = Times()
        as_json = wants_json(ctx, json)
        with (
            open_by(opened.connect(remote), flow, label) as link,
            contextlib.suppress(KeyboardInterrupt),
        ):
            _measure(link, times, count, interval, size, quiet=as_json)
        summary = times.summary()
        if as_json:
            render.print_json(summary)
        else:
            _show(remote, summary)


def echo(link: Flow) -> None:
    """Sends back whatever comes, to the end."""
    for message in link:
        link.send(message)


def for_each(listener: Any, work: Any) -> None:
    """Does the work for each flow that comes, each in a thread; until interrupted."""
    from assent.errors import AssentError

    def serve(link: Flow) -> None:
        try:
            with link:
                work(link)
        except AssentError as error:
            tell(f"flow {link.number} with {link.remote.short}: {error}")

    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                link = listener.accept(timeout=0.2)
            except TimeoutError:
                continue
            name = f"assent flow {link.number}"
            threading.Thread(target=serve, args=(link,), name=name, daemon=True).start()


def _measure(
    link: Flow, times: Times, count: int | None, interval: float, size: int, *, quiet: bool
) -> None:
    from assent.cli import render

    rest = os.urandom(size - _HEAD.size)
    while count is None or times.sent < count:
        started = time.perf_counter_ns()
        link.send((_HEAD.pack(times.sent), rest))
        times.sent += 1
        answer = link.recv(timeout=_ANSWER_S)
        took = (time.perf_counter_ns() - started) / 1000
        times.took.append(took)
        if not quiet:
            number = _HEAD.unpack_from(answer)[0]
            render.line(f"{len(answer)} bytes: number {number}, {took:.1f} us")
        left = interval - (time.perf_counter_ns() - started) / 1e9
        if left > 0 and times.sent != count:
            time.sleep(left)


def _show(remote: str, summary: dict[str, Any]) -> None:
    from assent.cli import render

    render.line(f"{remote}: {summary['sent']} sent, {summary['received']} answered")
    if summary["received"]:
        render.line(
            "min/avg/p50/p99/max/stddev = "
            + "/".join(
                str(summary[f"{name}_us"]) for name in ("min", "avg", "p50", "p99", "max", "stddev")
            )
            + " us"
        )
