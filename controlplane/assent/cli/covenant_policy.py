# SPDX-License-Identifier: Apache-2.0
"""`assent covenant policy`: what is accepted without asking anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli import covenant_spans as spans
from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.cli.covenant_offer import LocalOption
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from assent.v1.covenants_pb2 import CovenantPolicy

_UINT32_MAX = (1 << 32) - 1
_NONE = "none: what is offered waits for a decision"

Remote = Annotated[
    str | None,
    typer.Argument(metavar="[REMOTE]", help="For this cell alone; else for all the others."),
]


def register(noun: typer.Typer) -> None:
    """Adds the commands of this module."""
    policy = typer.Typer(help="Bounds within which an offer is accepted by itself.")
    policy.command("show")(show)
    policy.command("set")(set_policy)
    noun.add_typer(policy, name="policy")


def show(
    ctx: typer.Context, remote: Remote = None, local: LocalOption = None, json: JsonFlag = False
) -> None:
    """Show a policy."""
    from assent.v1.covenants_pb2 import GetCovenantPolicyRequest

    request = GetCovenantPolicyRequest(
        local=cell_ref(local) if local is not None else None,
        remote=cell_ref(remote) if remote is not None else None,
    )
    with connect(ctx) as client:
        reply = client.covenants.GetPolicy(request)
    _show(wants_json(ctx, json), reply, reply.policy if reply.HasField("policy") else None)


def set_policy(
    ctx: typer.Context,
    remote: Remote = None,
    flow: Annotated[
        list[int] | None,
        typer.Option(min=1, max=7, metavar="N", help="That others may send on; again for more."),
    ] = None,
    rate_max: Annotated[
        str | None, typer.Option(metavar="BLOCKS", help="A second; or a size like 2MiB.")
    ] = None,
    burst_max: Annotated[
        str | None, typer.Option(metavar="BLOCKS", help="Or a size like 256KiB.")
    ] = None,
    payload_max: Annotated[
        int, typer.Option(min=0, max=_UINT32_MAX, metavar="BYTES", help="0 = any.")
    ] = 0,
    content_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="As in text/plain or image/*; again for more."),
    ] = None,
    duration_max: Annotated[
        str | None, typer.Option(metavar="SPAN", help="As in 30d; else any.")
    ] = None,
    notice_max: Annotated[
        str | None, typer.Option(metavar="SPAN", help="As in 5m; else any.")
    ] = None,
    durable: Annotated[bool, typer.Option("--durable", help="Durable covenants too.")] = False,
    amendments: Annotated[bool, typer.Option("--amendments", help="Judge amendments too.")] = False,
    nothing: Annotated[
        bool, typer.Option("--none", help="Remove it: everything waits for a decision.")
    ] = False,
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Set a policy as a whole: what is not said is not bounded."""
    from assent.v1.covenants_pb2 import CovenantPolicy, SetCovenantPolicyRequest

    policy = CovenantPolicy(
        flows=sorted(set(flow or [])),
        rate_max_blocks_per_second=_blocks("--rate-max", rate_max),
        burst_max_blocks=_blocks("--burst-max", burst_max),
        payload_max_bytes=payload_max,
        content_types=content_type or [],
        duration_max_us=_span("--duration-max", duration_max),
        notice_max_us=_span("--notice-max", notice_max),
        durable=durable,
        amendments=amendments,
    )
    if nothing and policy.ByteSize():
        raise InvalidArgument("--none", "leaves nothing to be bounded")
    if not nothing and not _bounds(policy):
        raise InvalidArgument("--flow", "or another bound is needed: else all offers are accepted")
    request = SetCovenantPolicyRequest(
        local=cell_ref(local) if local is not None else None,
        remote=cell_ref(remote) if remote is not None else None,
        policy=None if nothing else policy,
    )
    with connect(ctx) as client:
        reply = client.covenants.SetPolicy(request)
    _show(wants_json(ctx, json), reply, reply.policy if reply.HasField("policy") else None)


def _show(as_json: bool, reply: Message, policy: CovenantPolicy | None) -> None:
    from assent.cli import covenant_page, render

    if policy is None:
        render.emit(as_json, reply, lambda: render.line(_NONE))
    else:
        rows = covenant_page.policy_rows(policy)
        render.emit(as_json, reply, lambda: render.fields(rows))


def _bounds(policy: CovenantPolicy) -> bool:
    """Whether it would refuse any offer that is not durable."""
    from assent.v1.covenants_pb2 import CovenantPolicy

    return policy != CovenantPolicy(durable=policy.durable, amendments=policy.amendments)


def _blocks(option: str, text: str | None) -> int:
    from assent.cli import sizes

    if text is None:
        return 0
    try:
        blocks = sizes.parse_blocks(text)
    except InvalidArgument as error:
        raise InvalidArgument(option, error.problem) from None
    if blocks > _UINT32_MAX:
        raise InvalidArgument(option, f"needs at most {_UINT32_MAX} blocks")
    return blocks


def _span(option: str, text: str | None) -> int:
    return spans.parse(option, text) if text is not None else 0
