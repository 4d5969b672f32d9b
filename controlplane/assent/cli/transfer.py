# SPDX-License-Identifier: Apache-2.0
"""`assent send` and `assent recv`: files over a flow, with a progress bar."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.cli.flows import (
    BackendName,
    BackendOption,
    FlowOption,
    LocalOption,
    announce_open,
    endpoint,
    progress,
)

if TYPE_CHECKING:
    from assent.transport.blocking import Endpoint, Flow
    from assent.v1.cells_pb2 import CellRef
    from assent.wire.control import ManifestItem


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    root.command()(send)
    root.command()(recv)


def send(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, or directories of files.")
    ],
    to: Annotated[str, typer.Option(metavar="REMOTE", help="Name or id of the receiving cell.")],
    flow: FlowOption = 1,
    backend: BackendOption = BackendName.AUTO,
    content_type: Annotated[
        str, typer.Option(metavar="TYPE/SUBTYPE", help="What it is, as covenants name it.")
    ] = "application/octet-stream",
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Send files to a remote cell and wait until it has verified all of them.

    If that breaks off, the same command goes on where it broke off.
    """
    from assent.transport.transfer import files_in, manifest_of, send_files

    items = [(path, manifest_of(path, content_type)) for path in files_in(files)]
    with (
        endpoint(ctx, local, backend, peer=to) as opened,
        _Report(ctx, json, "sent", opened) as report,
        opened.connect(to).flow(flow) as link,
        _Bars("sending") as bars,
    ):
        announce_open(opened, link)
        report.begin(link)
        resumed = send_files(link, items, _announcer(ctx, cell_ref(to), opened, flow), bars.show)
        for path, item in items:
            report.add(path, item, resumed[item.name])


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
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Receive the files that a remote cell sends next, and check them."""
    from assent.cli.failure import CommandError
    from assent.transport.transfer import receive_files

    if not directory.is_dir():
        raise CommandError(
            f"{directory} is not a directory", "create it, or name another with --dir"
        )
    with (
        endpoint(ctx, local, backend, peer=sender) as opened,
        _Report(ctx, json, "received", opened) as report,
        opened.connect(sender).flow(flow) as link,
        _Bars("receiving") as bars,
        _announced(ctx, cell_ref(sender), flow) as manifests,
    ):
        announce_open(opened, link)
        first = next(manifests)
        report.begin(link)
        batches = _chain(first, manifests)
        for item, path, resumed in receive_files(link, batches, directory, bars.show):
            report.add(path, item, resumed)


def _announcer(
    ctx: typer.Context, remote: CellRef, opened: Endpoint, flow: int
) -> Callable[[Sequence[ManifestItem]], None]:
    from assent.v1.sessions_pb2 import AnnounceRequest
    from assent.v1.sessions_pb2 import ManifestItem as Item

    def announce(batch: Sequence[ManifestItem]) -> None:
        items = [
            Item(
                name=item.name,
                size=item.size,
                digest=item.digest,
                algorithm=item.algorithm,
                content_type=item.content_type,
            )
            for item in batch
        ]
        request = AnnounceRequest(
            remote=remote, local=cell_ref(str(opened.local)), flow=flow, items=items
        )
        with connect(ctx) as client:
            client.sessions.Announce(request)

    return announce


@contextlib.contextmanager
def _announced(
    ctx: typer.Context, remote: CellRef, flow: int
) -> Iterator[Iterator[Sequence[ManifestItem]]]:
    """What a remote cell announces for a flow, batch after batch."""
    from assent.v1.sessions_pb2 import WatchManifestsRequest
    from assent.wire.control import ManifestItem

    with connect(ctx) as client:
        stream = client.sessions.WatchManifests(WatchManifestsRequest(remote=remote, flow=flow))
        yield (
            [
                ManifestItem(item.name, item.size, item.digest, item.algorithm, item.content_type)
                for item in manifest.items
            ]
            for manifest in stream
        )
        stream.cancel()


def _chain(
    first: Sequence[ManifestItem], others: Iterator[Sequence[ManifestItem]]
) -> Iterator[Sequence[ManifestItem]]:
    yield first
    yield from others


class _Bars:
    """A progress bar a file, one after the other."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._name = ""
        self._bar = contextlib.ExitStack()
        self._tell: Callable[[int], None]

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, item: ManifestItem, done: int) -> None:
        """So many bytes of a file have been moved."""
        if item.name != self._name:
            self._bar.close()
            self._name = item.name
            self._tell = self._bar.enter_context(progress(f"{self._verb} {item.name}", item.size))
        self._tell(done)


class _Report:
    """What has been done, for the user; printed when all of it is."""

    def __init__(self, ctx: typer.Context, json: bool, verb: str, opened: Endpoint) -> None:
        self._as_json = wants_json(ctx, json)
        self._verb = verb
        self._endpoint = opened
        self._flow: Flow
        self._started = self._ended = 0
        self._files: list[dict[str, Any]] = []

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._print()

    def begin(self, flow: Flow) -> None:
        """From here on it is measured."""
        self._flow = flow
        self._started = time.monotonic_ns()

    def add(self, path: Path, item: ManifestItem, resumed: int) -> None:
        """A file is through."""
        self._ended = time.monotonic_ns()
        self._files.append(
            {
                "file": str(path),
                "bytes": item.size,
                "blake3": item.digest.hex(),
                "resumed": resumed,
            }
        )

    def _print(self) -> None:
        from assent.cli import render
        from assent.cli.sizes import show_bytes

        seconds = max(self._ended - self._started, 1) / 1e9
        size = sum(each["bytes"] for each in self._files)
        moved = size - sum(each["resumed"] for each in self._files)
        goodput = round(moved * 8 / seconds / 1e6, 1)
        if not self._as_json:
            for each in self._files:
                there = f", {show_bytes(each['resumed'])} of it before" if each["resumed"] else ""
                render.line(
                    f"{self._verb} {each['file']}: {show_bytes(each['bytes'])}{there}, "
                    f"blake3 {each['blake3'][:16]}..."
                )
            render.line(f"{show_bytes(moved)} in {seconds:.2f} s, {goodput} Mbit/s")
            return
        info = self._endpoint.info
        only = self._files[0] if len(self._files) == 1 else {}
        render.print_json(
            {
                "file": only.get("file"),
                "bytes": size,
                "blake3": only.get("blake3"),
                "files": self._files,
                "seconds": round(seconds, 6),
                "goodput_mbit_s": goodput,
                "backend": info.backend.name.lower() if info else "",
                "fallback_reason": info.fallback_reason if info else "",
                "stats": asdict(self._flow.stats),
            }
        )
