# SPDX-License-Identifier: Apache-2.0
"""What the commands that use flows share: options, the endpoint, progress, Ctrl-C."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import cell_ref, connect, socket_of

if TYPE_CHECKING:
    from assent.transport.blocking import Connection, Endpoint, Flow

FlowOption = Annotated[int, typer.Option(min=1, max=7, help="The flow, as granted.")]
LocalOption = Annotated[
    str | None,
    typer.Option("--local", metavar="CELL", help="Of this host's cells, the one to speak as."),
]
BusyPollOption = Annotated[
    int, typer.Option(min=0, metavar="US", help="Microseconds that the kernel polls the driver.")
]
ServeOption = Annotated[bool, typer.Option("--serve", help="Answer others, until interrupted.")]


class BackendName(enum.StrEnum):
    """How frames reach the interface."""

    AUTO = "auto"
    AF_XDP = "af_xdp"
    AF_PACKET = "af_packet"


BackendOption = Annotated[
    BackendName, typer.Option(help="auto tries AF_XDP and falls back to AF_PACKET.")
]


class DeliveryName(enum.StrEnum):
    """What a flow promises of its messages."""

    ORDERED = "ordered"
    UNORDERED = "unordered"
    BEST_EFFORT = "best-effort"


class ClassName(enum.StrEnum):
    """Priority of a flow."""

    URGENT = "urgent"
    TENSOR = "tensor"
    STANDARD = "standard"
    BULK = "bulk"


DeliveryOption = Annotated[DeliveryName, typer.Option(help="What the flow promises of messages.")]
ClassOption = Annotated[ClassName, typer.Option("--class", help="The flow's priority.")]


@contextlib.contextmanager
def endpoint(
    ctx: typer.Context,
    local: str | None,
    backend: BackendName = BackendName.AUTO,
    *,
    peer: str | None = None,
    busy_poll_us: int = 0,
) -> Iterator[Endpoint]:
    """The endpoint of a cell of this host.

    Args:
        ctx: of the command.
        local: the cell as the user named it; None where it is clear.
        backend: how frames reach the interface.
        peer: with whom: of several cells the one that is in session with it is meant.
        busy_poll_us: as of the option.
    """
    from assent.transport.blocking import Endpoint
    from assent.transport.ring import Backend

    with Endpoint(
        local or _in_session_with(ctx, peer),
        socket=socket_of(ctx),
        backend=Backend[backend.name],
        busy_poll_us=busy_poll_us,
    ) as opened:
        yield opened


def announce_open(opened: Endpoint, flow: Flow) -> None:
    """Says that a flow is open, and over what."""
    info = opened.info
    if info is not None:
        reason = f" ({info.fallback_reason})" if info.fallback_reason else ""
        tell(f"flow {flow.number} is open, over {info.backend.name}{reason}")


def open_by(connection: Connection, number: int | None, label: str) -> Flow:
    """A flow by its number, where one is given, or for whoever listens for a label."""
    return connection.flow(number) if number else connection.open_flow(label)


def tell(text: str) -> None:
    """A line to stderr, where what the command does for its caller does not go."""
    from assent.cli.failure import one_line

    print(f"assent: {one_line(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal, a line at every quarter where it is not."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _quarters(title, size)
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task(title, total=size)
        yield lambda done: bar.update(task, completed=done)


def _quarters(title: str, size: int) -> Callable[[int], None]:
    told = -1

    def show(done: int) -> None:
        nonlocal told
        quarter = 4 * done // size if size else 4
        if quarter > told:
            told = quarter
            tell(f"{title}: {25 * quarter} %")

    return show


def _in_session_with(ctx: typer.Context, peer: str | None) -> str | None:
    """Of several cells of this host, the only one that is in session with a peer; else None."""
    from assent.v1.cells_pb2 import ListCellsRequest
    from assent.v1.sessions_pb2 import ListSessionsRequest

    if peer is None:
        return None
    with connect(ctx) as client:
        cells = client.cells.List(ListCellsRequest()).cells
        if sum(cell.local for cell in cells) < 2:
            return None
        ref = cell_ref(peer)
        sessions = client.sessions.List(ListSessionsRequest()).sessions
    found = {
        session.local.value.hex()
        for session in sessions
        if ref.name in (session.remote_name, "") and ref.id.value in (session.remote.value, b"")
    }
    return found.pop() if len(found) == 1 else None
