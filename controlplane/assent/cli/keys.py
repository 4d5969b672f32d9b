# SPDX-License-Identifier: Apache-2.0
"""`assent keys`: secrets that two cells share. They go in and never come out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json

Remote = Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the other cell.")]

_SECOND_NS = 1_000_000_000


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Pre-shared keys.")
    noun.command()(set_psk)
    noun.command()(generate_psk)
    noun.command("list")(list_keys)
    noun.command()(remove)
    root.add_typer(noun, name="keys")


def set_psk(
    ctx: typer.Context,
    remote: Remote,
    # Any number, so that a key typed here by mistake is refused by a message that does not echo it.
    stdin: Annotated[
        list[str] | None, typer.Argument(metavar="[-]", help="Read it from standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Hexadecimal, base64 or 32 bytes; mode 0600."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if there is one already.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Set the pre-shared key of a remote cell; it is never taken from the command line."""
    from assent.cli import psk_file, render
    from assent.v1.keys_pb2 import SetPskRequest

    psk = psk_file.read(_source(stdin or [], file), remote)
    request = SetPskRequest(remote=cell_ref(remote), psk=psk, replace=replace)
    with connect(ctx) as client:
        reply = client.keys.SetPsk(request)
    said = f"{remote}: pre-shared key is set"
    render.emit(wants_json(ctx, json), reply, lambda: render.line(said))


def generate_psk(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new file, mode 0600; else standard output."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make a new pre-shared key, to be set on both hosts; the daemon is not asked."""
    from assent.cli import psk_file, render
    from assent.identity import keys

    psk = keys.generate_psk()
    as_json = wants_json(ctx, json)
    if output is None:
        # The one place where a secret is printed: it is what was asked for, and is stored nowhere.
        render.print_json({"psk": psk.hex()}) if as_json else print(psk.hex())
        return
    psk_file.write_new(output, psk)
    if as_json:
        render.print_json({"output": str(output)})
    else:
        render.line(f"{output} holds a new pre-shared key")


def list_keys(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List which remote cells have a key; never the keys."""
    from assent.cli import render
    from assent.v1.keys_pb2 import ListKeysRequest

    with connect(ctx) as client:
        reply = client.keys.List(ListKeysRequest())
    rows = [
        (
            key.remote_name,
            key.remote.value.hex(),
            key.has_psk,
            render.when(key.psk_set_at * _SECOND_NS),
        )
        for key in reply.keys
    ]
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("REMOTE", "ID", "PSK", "SET AT"),
            rows,
            empty="no remote cells: see `assent cells add --help`",
        ),
    )


def remove(ctx: typer.Context, remote: Remote, json: JsonFlag = False) -> None:
    """Remove the pre-shared key of a remote cell."""
    from assent.cli import render
    from assent.v1.keys_pb2 import DeletePskRequest

    with connect(ctx) as client:
        reply = client.keys.DeletePsk(DeletePskRequest(remote=cell_ref(remote)))
    said = f"{remote}: pre-shared key is removed"
    render.emit(wants_json(ctx, json), reply, lambda: render.line(said))


def _source(stdin: list[str], file: str | None) -> str:
    from assent.cli.failure import EXIT_USAGE, CommandError

    if stdin not in ([], ["-"]):
        raise CommandError(
            "a key is never taken from the command line, where all users of this host can see it",
            "name a file with --file, or give `-` and the key on standard input",
            EXIT_USAGE,
        )
    if (file is None) == (not stdin):
        raise CommandError(
            "a key comes from one place", "give either --file FILE or `-`", EXIT_USAGE
        )
    return file or "-"
