# SPDX-License-Identifier: Apache-2.0
"""`assent store`: blocks on this host, and keeping them alike with a peer's."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from assent.cli.context import JsonFlag, socket_of, wants_json
from assent.cli.flows import BackendName, BackendOption, LocalOption, tell

if TYPE_CHECKING:
    from assent.errors import AssentError
    from assent.storage.blocks import BlockStore
    from assent.storage.dag import Entry
    from assent.storage.engine import Event
    from assent.transport import Endpoint
    from assent.wire.cellid import CellID

_ROOT = re.compile(r"[0-9a-f]{64}")

StoreOption = Annotated[
    Path,
    typer.Option("--store", envvar="ASSENT_STORE", metavar="DIR", help="Where the store is."),
]
DagOption = Annotated[str, typer.Option("--dag", metavar="NAME", help="Which of its histories.")]
_STORE = Path("/var/lib/assent/store")
_DAG = "files"


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Files as blocks named by their hash, kept alike with a peer's.")
    for command in (init, put, get, ls, drop, gc, serve, sync):
        noun.command()(command)
    root.add_typer(noun, name="store")


def init(
    ctx: typer.Context,
    limit: Annotated[
        str, typer.Option(metavar="SIZE", help="How much it may hold, as in 10GiB.")
    ] = "10GiB",
    store: StoreOption = _STORE,
    json: JsonFlag = False,
) -> None:
    """Make an empty store. Without one, nothing of storage is active on this host."""
    from assent.cli import render
    from assent.cli.sizes import parse_bytes, show_bytes
    from assent.storage.blocks import BlockStore

    with BlockStore.create(store, parse_bytes("limit", limit)) as made:
        if wants_json(ctx, json):
            render.print_json({"store": str(store), "limit": made.limit})
        else:
            render.line(f"{store} may hold {show_bytes(made.limit)}")


def put(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What to keep.")],
    dag: DagOption = _DAG,
    store: StoreOption = _STORE,
    json: JsonFlag = False,
) -> None:
    """Keep files, and add them to a history."""
    from assent.cli import render
    from assent.cli.failure import CommandError
    from assent.storage.dag import commit, put_file

    kept = []
    with _opened(store) as opened:
        for file in files:
            if not file.is_file():
                raise CommandError(f"{file} is not a regular file", "name files that can be read")
            with file.open("rb") as source:
                entry = put_file(opened, source, file.name)
            commit(opened, dag, entry.root)
            kept.append(entry)
    _list(wants_json(ctx, json), {dag: kept}, render)


def get(
    what: Annotated[
        str, typer.Argument(metavar="ROOT|NAME", help="Its hash; or its name, for the newest one.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE|-", help="Where to; else its own name, here."),
    ] = None,
    dag: DagOption = _DAG,
    store: StoreOption = _STORE,
) -> None:
    """Write a kept file's bytes, each block checked against its hash."""
    from assent.storage.dag import read_file

    with _opened(store) as opened:
        entry = _find(opened, dag, what)
        with _sink(output, entry) as sink:
            for part in read_file(opened, entry.root):
                sink.write(part)


def ls(
    ctx: typer.Context,
    dag: Annotated[
        str | None, typer.Option("--dag", metavar="NAME", help="This history alone.")
    ] = None,
    store: StoreOption = _STORE,
    json: JsonFlag = False,
) -> None:
    """List the files of all histories, the newest first, and what room there is."""
    from assent.cli import render
    from assent.cli.sizes import show_bytes
    from assent.storage.dag import entries

    with _opened(store) as opened:
        names = opened.dags() if dag is None else [dag]
        listed = {name: list(entries(opened, name)) for name in names}
        as_json = wants_json(ctx, json)
        _list(as_json, listed, render, {"usage": opened.usage, "limit": opened.limit})
        if not as_json:
            render.line(f"{show_bytes(opened.usage)} of {show_bytes(opened.limit)} in use")


def drop(
    dag: Annotated[str, typer.Argument(metavar="DAG", help="The history to forget.")],
    store: StoreOption = _STORE,
) -> None:
    """Forget a history; `gc` frees what no other one needs."""
    with _opened(store) as opened:
        opened.drop(dag)


def gc(
    ctx: typer.Context,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What is younger stays.")
    ] = 3600,
    store: StoreOption = _STORE,
    json: JsonFlag = False,
) -> None:
    """Remove the blocks that no history needs."""
    from assent.cli import render
    from assent.cli.sizes import show_bytes
    from assent.storage.dag import collect

    with _opened(store) as opened:
        done = collect(opened, grace)
    if wants_json(ctx, json):
        render.print_json({"blocks": done.blocks, "freed": done.freed, "kept": done.kept})
    else:
        freed = show_bytes(done.freed)
        render.line(f"{done.blocks} blocks removed, {freed} freed; {done.kept} blocks kept")


def serve(
    ctx: typer.Context,
    share: Annotated[
        list[str] | None,
        typer.Option("--share", metavar="DAG", help="Tell peers of this one; else of all."),
    ] = None,
    follow: Annotated[
        list[str] | None, typer.Option("--follow", metavar="DAG", help="Peers may add to it.")
    ] = None,
    store: StoreOption = _STORE,
    backend: BackendOption = BackendName.AUTO,
    local: LocalOption = None,
) -> None:
    """Serve a store to the cells that this host has sessions with, until interrupted."""
    from assent.storage import service

    async def run() -> None:
        with _opened(store) as opened:
            async with _endpoint(ctx, local, backend) as endpoint:
                await service.serve(
                    endpoint,
                    opened,
                    _tell_of,
                    share=share,
                    follow=follow or (),
                    on_open=lambda: tell(f"{store} is open to peers"),
                )

    import asyncio

    asyncio.run(run())


def sync(
    ctx: typer.Context,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the other cell.")],
    dag: Annotated[
        list[str] | None, typer.Option("--dag", metavar="NAME", help="Which; else `files`.")
    ] = None,
    pull_only: Annotated[
        bool, typer.Option("--pull-only", help="Offer nothing of this host's.")
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Check what is here too, and mend it.")
    ] = False,
    store: StoreOption = _STORE,
    backend: BackendOption = BackendName.AUTO,
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Fetch what a peer's store has and this one lacks; the peer takes ours if it follows.

    What breaks off goes on where it broke off, the next time too.
    """
    from assent.cli import render
    from assent.storage import service

    names = dag or [_DAG]
    events: list[Event] = []

    async def run() -> None:
        with _opened(store) as opened:
            async with _endpoint(ctx, local, backend) as endpoint:
                await service.synchronize(
                    endpoint,
                    remote,
                    opened,
                    names,
                    events.append,
                    share=not pull_only,
                    thorough=thorough,
                )

    import asyncio

    asyncio.run(run())
    if wants_json(ctx, json):
        render.print_json([_event(event) for event in events])
        return
    for event in events:
        render.line(_said(event))
    if not events:
        render.line("nothing was lacking")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BlockStore]:
    from assent.storage.blocks import BlockStore

    with BlockStore(path) as store:
        yield store


def _endpoint(ctx: typer.Context, local: str | None, backend: BackendName) -> Endpoint:
    from assent.transport import Backend, Endpoint

    return Endpoint(local, socket=socket_of(ctx), backend=Backend[backend.name])


def _find(store: BlockStore, dag: str, what: str) -> Entry:
    from assent.errors import NotFound
    from assent.storage.dag import Node, entries, entry_of

    if _ROOT.fullmatch(what):
        root = bytes.fromhex(what)
        found = entry_of(root, Node.decode(store.get(root)))
    else:
        found = next((entry for entry in entries(store, dag) if entry.name == what), None)
    if found is None:
        raise NotFound(f"there is no file {what!r} in {dag!r}; see `assent store ls`")
    return found


@contextlib.contextmanager
def _sink(output: str | None, entry: Entry) -> Iterator[BinaryIO]:
    """Where a file's bytes go; a file appears under its name when it is whole."""
    if output == "-":
        yield sys.stdout.buffer
        return
    target = Path(entry.name if output is None else output)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _list(
    as_json: bool, listed: dict[str, list[Entry]], render: Any, more: dict[str, int] | None = None
) -> None:
    if as_json:
        dags = {
            dag: [
                {"root": entry.root.hex(), "name": entry.name, "size": entry.size}
                for entry in entries
            ]
            for dag, entries in listed.items()
        }
        render.print_json({"dags": dags, **(more or {})})
        return
    from assent.cli.sizes import show_bytes

    rows = [
        (dag, entry.name, show_bytes(entry.size), entry.root.hex())
        for dag, entries in listed.items()
        for entry in entries
    ]
    render.table(("DAG", "NAME", "SIZE", "ROOT"), rows, "no files")


def _tell_of(remote: CellID, event: Event | AssentError) -> None:
    from assent.errors import AssentError

    said = str(event) if isinstance(event, AssentError) else _said(event)
    tell(f"{remote}: {said}")


def _said(event: Event) -> str:
    from assent.cli.sizes import show_bytes
    from assent.storage.engine import Failed

    if isinstance(event, Failed):
        return f"{event.dag}: {event.reason}"
    return f"{event.dag}: {event.blocks} blocks fetched, {show_bytes(event.fetched)}"


def _event(event: Event) -> dict[str, object]:
    from assent.storage.engine import Failed

    if isinstance(event, Failed):
        return {"dag": event.dag, "reason": event.reason}
    heads = [head.hex() for head in event.heads]
    return {"dag": event.dag, "heads": heads, "blocks": event.blocks, "fetched": event.fetched}
