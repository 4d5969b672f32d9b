# SPDX-License-Identifier: Apache-2.0
"""`assent grants`: what this host has room for, per remote cell and flow."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.grants_pb2 import CreditPolicy, Grant

Remote = Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the sender.")]
FlowNumber = Annotated[int, typer.Argument(metavar="FLOW", min=0, max=0xFFFFFFFF)]


_SHIFT_MAX = 15


class PolicyName(StrEnum):
    """How windows come about."""

    FIXED = "fixed"
    FAIR_SHARE = "fair-share"


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Standing credit: how far a sender may be ahead of this host.")
    noun.command("set")(set_grant)
    noun.command("list")(list_grants)
    noun.command()(show)
    noun.command()(remove)
    noun.command()(policy)
    noun.command()(shift)
    root.add_typer(noun, name="grants")


def set_grant(
    ctx: typer.Context,
    remote: Remote,
    flow: FlowNumber,
    blocks: Annotated[
        str | None,
        typer.Argument(metavar="[BLOCKS]", help="Blocks of 64 bytes, or a size like 256KiB."),
    ] = None,
    lamp: Annotated[
        bool,
        typer.Option(
            "--lamp", help="Hear frames under LAMP, which need no credit, even without BLOCKS."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Set the window of a flow, live sessions included; a size is rounded down to whole blocks."""
    from assent.cli import render, sizes
    from assent.v1.grants_pb2 import SetGrantRequest

    if blocks is None and not lamp:
        raise InvalidArgument("BLOCKS", "is missing, and --lamp is not said")
    window_blocks = 0 if blocks is None else sizes.parse_blocks(blocks)
    request = SetGrantRequest(
        remote=cell_ref(remote), flow=flow, window_blocks=window_blocks, lamp=lamp
    )
    with connect(ctx) as client:
        grant = client.grants.Set(request)
    window = sizes.show_blocks(grant.window_blocks)
    said = f"{grant.remote_name}, flow {grant.flow}: window is {window} blocks"
    if grant.lamp:
        said += ", open for LAMP"
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
        lambda: _show_all(list(reply.grants), reply.policy),
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
        "in force": f"{sizes.show_blocks(grant.live_window_blocks)} blocks",
        "reserved": f"{sizes.show_blocks(grant.reserved_blocks)} blocks",
        "lamp": grant.lamp,
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


def policy(
    ctx: typer.Context,
    name: Annotated[
        PolicyName | None, typer.Argument(metavar="[fixed|fair-share]", help="Shown if left out.")
    ] = None,
    floor: Annotated[
        str | None, typer.Option(metavar="BLOCKS", help="Fair share: each window's least.")
    ] = None,
    ceiling: Annotated[
        str | None,
        typer.Option(metavar="BLOCKS", help="And its most; 0 = what the window was set to."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say or show how windows come about: as they were set, or by fair share.

    Fair share divides what the node may promise equally among the flows that are at work.
    """
    from assent.cli import render, sizes
    from assent.v1.grants_pb2 import GetCreditPolicyRequest, SetCreditPolicyRequest

    if name is None and (floor is not None or ceiling is not None):
        raise InvalidArgument("--floor, --ceiling", "belong to a policy: say fair-share")
    with connect(ctx) as client:
        if name is None:
            found = client.grants.GetPolicy(GetCreditPolicyRequest())
        else:
            request = SetCreditPolicyRequest(kind=f"CREDIT_POLICY_KIND_{name.name}")
            if floor is not None:
                request.floor_blocks = sizes.parse_blocks(floor)
            if ceiling is not None:
                request.ceiling_blocks = 0 if ceiling == "0" else sizes.parse_blocks(ceiling)
            found = client.grants.SetPolicy(request)
    render.emit(wants_json(ctx, json), found, lambda: render.line(_shown_policy(found)))


def shift(
    ctx: typer.Context,
    remote: Remote,
    value: Annotated[
        str, typer.Argument(metavar="SHIFT|auto", help="Grants count units of 64 << SHIFT bytes.")
    ],
    json: JsonFlag = False,
) -> None:
    """Set the unit of a remote cell's grants, from the next session on; the larger one counts."""
    from assent.cli import render
    from assent.v1.grants_pb2 import SetGrantShiftRequest

    request = SetGrantShiftRequest(remote=cell_ref(remote))
    if value != "auto":
        if not value.isdecimal() or int(value) > _SHIFT_MAX:
            raise InvalidArgument("SHIFT", f"needs 0 to {_SHIFT_MAX}, or auto, got {value!r}")
        request.shift = int(value)
    with connect(ctx) as client:
        reply = client.grants.SetShift(request)
    said = f"{remote}: grant shift is {value}, from the next session on"
    render.emit(wants_json(ctx, json), reply, lambda: render.line(said))


def _show_all(grants: list[Grant], policy: CreditPolicy) -> None:
    from assent.cli import render

    render.line(f"policy: {_shown_policy(policy)}")
    render.table(
        ("REMOTE", "FLOW", "WINDOW", "LAMP", "IN FORCE", "RESERVED", "GRANTED", "SPENT"),
        [_row(grant) for grant in grants],
        empty="nothing is granted: see `assent grants set --help`",
    )


def _shown_policy(policy: CreditPolicy) -> str:
    from assent.cli import sizes
    from assent.v1.grants_pb2 import CREDIT_POLICY_KIND_FAIR_SHARE

    if policy.kind != CREDIT_POLICY_KIND_FAIR_SHARE:
        return "fixed: each window is what it was set to"
    most = "what each was set to"
    if policy.ceiling_blocks:
        most = f"{sizes.show_blocks(policy.ceiling_blocks)} blocks"
    least = sizes.show_blocks(policy.floor_blocks)
    return f"fair share: windows from {least} blocks to {most}"


def _row(grant: Grant) -> tuple[object, ...]:
    return (
        grant.remote_name,
        grant.flow,
        grant.window_blocks,
        grant.lamp,
        grant.live_window_blocks,
        grant.reserved_blocks,
        grant.granted_blocks,
        grant.spent_blocks,
    )
