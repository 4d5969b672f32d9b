# SPDX-License-Identifier: Apache-2.0
"""`assent sessions`: handshakes, and what they have set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json

if TYPE_CHECKING:
    from assent.v1.sessions_pb2 import ControlBlock, Session

Remote = Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the other cell.")]

_MILLISECOND_NS = 1_000_000


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Sessions with remote cells.")
    noun.command("connect")(connect_session)
    noun.command("list")(list_sessions)
    noun.command()(show)
    noun.command()(close)
    root.add_typer(noun, name="sessions")


def connect_session(
    ctx: typer.Context,
    remote: Remote,
    renew: Annotated[
        bool, typer.Option("--renew", help="Shake hands even if a session is live.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Shake hands with a remote cell and wait for the outcome."""
    from assent.cli import render
    from assent.v1.sessions_pb2 import ConnectRequest

    with connect(ctx) as client:
        session = client.sessions.Connect(ConnectRequest(remote=cell_ref(remote), renew=renew))
    said = f"{session.remote_name}: session {session.id} is {_state(session)}"
    render.emit(wants_json(ctx, json), session, lambda: render.line(said))


def list_sessions(
    ctx: typer.Context,
    pcb: Annotated[
        bool, typer.Option("--pcb", help="As control blocks: states, numbers, last activity.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """List all sessions."""
    from assent.cli import render
    from assent.v1.sessions_pb2 import ListSessionsRequest

    if pcb:
        _list_blocks(ctx, json=json)
        return

    with connect(ctx) as client:
        reply = client.sessions.List(ListSessionsRequest())
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("REMOTE", "ID", "STATE", "ORIGIN", "EPOCH", "FLOWS", "MAC", "SINCE"),
            [_row(session) for session in reply.sessions],
            empty="no sessions: see `assent sessions connect --help`",
        ),
    )


def show(ctx: typer.Context, remote: Remote, json: JsonFlag = False) -> None:
    """Show the session with a remote cell, and its flows."""
    from assent.cli import render
    from assent.v1.sessions_pb2 import GetSessionRequest

    with connect(ctx) as client:
        session = client.sessions.Get(GetSessionRequest(remote=cell_ref(remote)))
    render.emit(wants_json(ctx, json), session, lambda: _show(session))


def close(ctx: typer.Context, remote: Remote, json: JsonFlag = False) -> None:
    """Close the session with a remote cell."""
    from assent.cli import render
    from assent.v1.sessions_pb2 import CloseSessionRequest

    with connect(ctx) as client:
        reply = client.sessions.Close(CloseSessionRequest(remote=cell_ref(remote)))
    render.emit(wants_json(ctx, json), reply, lambda: render.line(f"{remote}: session is closed"))


def _show(session: Session) -> None:
    from assent.cli import render

    render.fields(
        {
            "session": str(session.id),
            "state": _state(session),
            "origin": _origin(session),
            "remote": f"{session.remote_name} ({session.remote.value.hex()})",
            "remote mac": session.remote_mac,
            "local": session.local.value.hex(),
            "role": _role(session),
            "epoch": session.epoch,
            "established": render.when(session.established_at_unix_ns),
            "clock offset": f"{session.clock_offset_ns / _MILLISECOND_NS:+.3f} ms",
        }
    )
    render.line("")
    render.table(
        ("FLOW", "RX GRANTED", "RX SPENT", "RX SEQ", "TX GRANTED", "TX SPENT", "TX SEQ"),
        [
            (
                flow.flow,
                flow.rx_granted_blocks,
                flow.rx_spent_blocks,
                flow.rx_highest_seq,
                flow.tx_granted_blocks,
                flow.tx_spent_blocks,
                flow.tx_seq,
            )
            for flow in session.flows
        ],
        empty="no flows: see `assent grants set --help`",
    )


def _list_blocks(ctx: typer.Context, *, json: bool) -> None:
    from assent.cli import render
    from assent.v1.sessions_pb2 import ListControlBlocksRequest

    with connect(ctx) as client:
        reply = client.sessions.ListControlBlocks(ListControlBlocksRequest())
    rows = [
        (
            block.remote_name,
            block.remote.value.hex(),
            _state(block),
            block.local_seq,
            block.remote_seq,
            render.when(block.last_active_unix_ns),
            block.dkh_trust,
        )
        for block in reply.blocks
    ]
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("REMOTE", "CELL", "STATE", "LOCAL SEQ", "REMOTE SEQ", "LAST ACTIVE", "DKH TRUST"),
            rows,
            empty="no connections: see `assent sessions connect --help`",
        ),
    )


def _row(session: Session) -> tuple[object, ...]:
    from assent.cli import render

    return (
        session.remote_name,
        str(session.id),
        _state(session),
        _origin(session),
        session.epoch,
        len(session.flows),
        session.remote_mac,
        render.when(session.established_at_unix_ns),
    )


def _state(session: Session | ControlBlock) -> str | None:
    from assent.cli import render
    from assent.v1.sessions_pb2 import SessionState

    return render.enum_name(SessionState.DESCRIPTOR, session.state)


def _origin(session: Session) -> str | None:
    from assent.cli import render
    from assent.v1.sessions_pb2 import SessionOrigin

    return render.enum_name(SessionOrigin.DESCRIPTOR, session.origin)


def _role(session: Session) -> str | None:
    from assent.v1.sessions_pb2 import SESSION_ORIGIN_STATIC

    if session.origin == SESSION_ORIGIN_STATIC:
        return None
    return "initiator" if session.initiator else "responder"
