# SPDX-License-Identifier: Apache-2.0
"""`assent grants`: what this host has room for, per remote cell and flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json

if TYPE_CHECKING:
    from assent.v1.grants_pb2 import Grant

Remote = Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the sender.")]
FlowNumber = Annotated[int, typer.Argument(metavar="FLOW", min=0, max=0xFFFFFFFF)]


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Standing credit: how far a sender may be ahead of this host.")
    noun.command("set")(set_grant)
    noun.command("list")(list_grants)
    noun.command()(show)
    noun.command()(remove)
    root.add_typer(noun, name="grants")


def set_grant(
    ctx: typer.Context,
    remote: Remote,
    flow: FlowNumber,
    blocks: Annotated[
        str, typer.Argument(metavar="BLOCKS", help="Blocks of 64 bytes, or a size like 256KiB.")
    ],
    json: JsonFlag = False,
) -> None:
    """Set the window of a flow; a size is rounded down to whole blocks."""
    from assent.cli import render, sizes
    from assent.v1.grants_pb2 import SetGrantRequest

    request = SetGrantRequest(
        remote=cell_ref(remote), flow=flow, window_blocks=sizes.parse_blocks(blocks)
    )
    with connect(ctx) as client:
        grant = client.grants.Set(request)
    window = sizes.show_blocks(grant.window_blocks)
    said = f"{grant.remote_name}, flow {grant.flow}: window is {window} blocks"
    render.emit(wants_json(ctx, json), grant, lambda: render.line(said))


def list_grants(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List all grants and, where a session is live, what of them is used."""
    from assent.cli import render
    from assent.v1.grants_pb2 import ListGrantsRequest

    with connect(ctx) as client:
        reply = client.grants.List(ListGrantsRequest())
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("REMOTE", "FLOW", "WINDOW", "GRANTED", "SPENT"),
            [_row(grant) for grant in reply.grants],
            empty="nothing is granted: see `assent grants set --help`",
        ),
    )


def show(ctx: typer.Context, remote: Remote, flow: FlowNumber, json: JsonFlag = False) -> None:
    """Show one grant."""
    from assent.cli import render, sizes
    from assent.v1.grants_pb2 import GetGrantRequest

    with connect(ctx) as client:
        grant = client.grants.Get(GetGrantRequest(remote=cell_ref(remote), flow=flow))
    rows = {
        "remote": grant.remote_name,
        "id": grant.remote.value.hex(),
        "flow": grant.flow,
        "window": f"{sizes.show_blocks(grant.window_blocks)} blocks",
        "granted": grant.granted_blocks,
        "spent": grant.spent_blocks,
    }
    render.emit(wants_json(ctx, json), grant, lambda: render.fields(rows))


def remove(ctx: typer.Context, remote: Remote, flow: FlowNumber, json: JsonFlag = False) -> None:
    """Remove the grant of a flow."""
    from assent.cli import render
    from assent.v1.grants_pb2 import DeleteGrantRequest

    with connect(ctx) as client:
        reply = client.grants.Delete(DeleteGrantRequest(remote=cell_ref(remote), flow=flow))
    said = f"{remote}, flow {flow}: grant is removed"
    render.emit(wants_json(ctx, json), reply, lambda: render.line(said))


def _row(grant: Grant) -> tuple[object, ...]:
    return (
        grant.remote_name,
        grant.flow,
        grant.window_blocks,
        grant.granted_blocks,
        grant.spent_blocks,
    )
