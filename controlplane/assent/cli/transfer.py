# SPDX-License-Identifier: Apache-2.0
"""`assent send` and `assent recv`: files over a flow, with a progress bar."""

from __future__ import annotations

import contextlib
import enum
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json

if TYPE_CHECKING:
    from assent.client import Client
    from assent.transport.endpoint import FlowEndpoint
    from assent.v1.cells_pb2 import CellRef

FlowOption = Annotated[int, typer.Option(min=1, max=7, help="The flow, as granted.")]


class BackendName(enum.StrEnum):
    """How frames reach the interface."""

    AUTO = "auto"
    AF_XDP = "af_xdp"
    AF_PACKET = "af_packet"


BackendOption = Annotated[
    BackendName, typer.Option(help="auto tries AF_XDP and falls back to AF_PACKET.")
]


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    root.command()(send)
    root.command()(recv)


def send(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to send.")],
    to: Annotated[str, typer.Option(metavar="REMOTE", help="Name or id of the receiving cell.")],
    flow: FlowOption = 1,
    backend: BackendOption = BackendName.AUTO,
    content_type: Annotated[
        str, typer.Option(metavar="TYPE/SUBTYPE", help="What it is, as covenants name it.")
    ] = "application/octet-stream",
    json: JsonFlag = False,
) -> None:
    """Send a file to a remote cell and wait until all of it is receipted."""
    from assent.transport.transfer import manifest_of, send_file
    from assent.v1.sessions_pb2 import AnnounceRequest, ManifestItem

    item = replace(manifest_of(file), content_type=content_type)
    remote = cell_ref(to)
    with connect(ctx) as client, _endpoint(client, remote, flow, backend) as endpoint:
        client.sessions.Announce(
            AnnounceRequest(
                remote=remote,
                flow=flow,
                items=[
                    ManifestItem(
                        name=item.name,
                        size=item.size,
                        digest=item.digest,
                        algorithm=item.algorithm,
                        content_type=item.content_type,
                    )
                ],
            )
        )
        started = time.monotonic_ns()
        with _progress(f"sending {item.name}", item.size) as on_progress:
            send_file(endpoint, file, item.size, on_progress)
        _report(ctx, json, "sent", endpoint, file, item.size, item.digest, started)


def recv(
    ctx: typer.Context,
    sender: Annotated[
        str, typer.Option("--from", metavar="REMOTE", help="Name or id of the sending cell.")
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where files go.", file_okay=False)
    ] = Path(),
    flow: FlowOption = 1,
    backend: BackendOption = BackendName.AUTO,
    json: JsonFlag = False,
) -> None:
    """Receive the files that a remote cell announces next, and check them."""
    from assent.cli.failure import CommandError
    from assent.transport.transfer import receive_file
    from assent.v1.sessions_pb2 import WatchManifestsRequest
    from assent.wire.control import ManifestItem

    if not directory.is_dir():
        raise CommandError(
            f"{directory} is not a directory", "create it, or name another with --dir"
        )
    remote = cell_ref(sender)
    with connect(ctx) as client, _endpoint(client, remote, flow, backend) as endpoint:
        announced = client.sessions.WatchManifests(WatchManifestsRequest(remote=remote))
        manifest = next(each for each in announced if each.flow == flow)
        # All that follows runs without the daemon.
        announced.cancel()
        for raw in manifest.items:
            item = ManifestItem(raw.name, raw.size, raw.digest, raw.algorithm)
            started = time.monotonic_ns()
            with _progress(f"receiving {item.name}", item.size) as on_progress:
                path = receive_file(endpoint, item, directory, on_progress)
            _report(ctx, json, "received", endpoint, path, item.size, item.digest, started)


@contextlib.contextmanager
def _endpoint(
    client: Client, remote: CellRef, flow: int, backend: BackendName
) -> Iterator[FlowEndpoint]:
    from assent.transport.access import access_of
    from assent.transport.endpoint import Backend, FlowEndpoint
    from assent.v1.sessions_pb2 import OpenFlowRequest

    handle = client.sessions.OpenFlow(OpenFlowRequest(remote=remote, flow=flow))
    with FlowEndpoint(access_of(handle), Backend[backend.name]) as endpoint:
        del handle
        used = endpoint.backend.name
        reason = f" ({endpoint.fallback_reason})" if endpoint.fallback_reason else ""
        print(f"assent: flow {flow} is open, over {used}{reason}", file=sys.stderr, flush=True)
        yield endpoint


@contextlib.contextmanager
def _progress(title: str, size: int) -> Iterator[Callable[[int], None]]:
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

    def tell(done: int) -> None:
        nonlocal told
        quarter = 4 * done // size if size else 4
        if quarter > told:
            told = quarter
            print(f"assent: {title}: {25 * quarter} %", file=sys.stderr, flush=True)

    return tell


def _report(
    ctx: typer.Context,
    json: bool,
    verb: str,
    endpoint: FlowEndpoint,
    path: Path,
    size: int,
    digest: bytes,
    started_ns: int,
) -> None:
    from assent.cli import render
    from assent.cli.sizes import show_bytes

    seconds = max(time.monotonic_ns() - started_ns, 1) / 1e9
    result: dict[str, Any] = {
        "file": str(path),
        "bytes": size,
        "sha256": digest.hex(),
        "seconds": round(seconds, 6),
        "goodput_mbit_s": round(size * 8 / seconds / 1e6, 1),
        "backend": endpoint.backend.name.lower(),
        "fallback_reason": endpoint.fallback_reason,
        "stats": asdict(endpoint.stats()),
    }
    if wants_json(ctx, json):
        render.print_json(result)
        return
    render.line(
        f"{verb} {path}: {show_bytes(size)} in {seconds:.2f} s, "
        f"{result['goodput_mbit_s']} Mbit/s, sha256 {result['sha256'][:16]}..."
    )
