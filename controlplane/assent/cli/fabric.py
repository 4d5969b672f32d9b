# SPDX-License-Identifier: Apache-2.0
"""`assent status`, `attach`, `detach` and `counters`: the host's dataplane."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, connect, wants_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assent.v1.fabric_pb2 import Interface, Status


class Mode(StrEnum):
    """Where an interface is gated; there is no fallback from one to the other."""

    NATIVE = "native"
    GENERIC = "generic"


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (status, attach, detach, counters):
        root.command()(command)


def status(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show what the daemon has set up on this host."""
    from assent.cli import render
    from assent.v1.fabric_pb2 import GetStatusRequest

    with connect(ctx) as client:
        reply = client.fabric.GetStatus(GetStatusRequest())
    render.emit(wants_json(ctx, json), reply, lambda: _show_status(reply))


def attach(
    ctx: typer.Context,
    interface: Annotated[str, typer.Argument(metavar="IFACE")],
    mode: Annotated[
        Mode, typer.Option(help="In the driver, or in the stack where a driver has no XDP.")
    ] = Mode.NATIVE,
    json: JsonFlag = False,
) -> None:
    """Gate an interface."""
    from assent.cli import render
    from assent.v1.fabric_pb2 import AttachRequest

    request = AttachRequest(interface=interface, mode=f"ATTACH_MODE_{mode.name}")
    with connect(ctx) as client:
        reply = client.fabric.Attach(request)
    shown = _mode(reply)
    render.emit(
        wants_json(ctx, json), reply, lambda: render.line(f"{reply.name} is gated ({shown})")
    )


def detach(
    ctx: typer.Context,
    interface: Annotated[str, typer.Argument(metavar="IFACE")],
    json: JsonFlag = False,
) -> None:
    """Take the gate off an interface: from then on nothing is decided there."""
    from assent.cli import render
    from assent.v1.fabric_pb2 import DetachRequest

    with connect(ctx) as client:
        reply = client.fabric.Detach(DetachRequest(interface=interface))
    render.emit(
        wants_json(ctx, json), reply, lambda: render.line(f"{interface} is no longer gated")
    )


def counters(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also reasons that have not occurred.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show what the gate has decided, by reason."""
    from assent.cli import render
    from assent.v1.fabric_pb2 import Counters, GetCountersRequest

    with connect(ctx) as client:
        reply = client.fabric.GetCounters(GetCountersRequest())
    shown = Counters(counters=[line for line in reply.counters if everything or line.frames])
    render.emit(
        wants_json(ctx, json),
        shown,
        lambda: render.table(
            ("REASON", "FRAMES", "BYTES"),
            [(line.reason, line.frames, line.bytes) for line in shown.counters],
            empty="the gate has not seen a frame yet",
        ),
    )


def _show_status(status: Status) -> None:
    from assent.cli import render, sizes

    capacity = sizes.show_blocks(status.credit_capacity_blocks)
    promised = sizes.show_blocks(status.credit_promised_blocks)
    render.fields(
        {
            "version": status.version,
            "instance": f"{status.instance}, up {sizes.show_duration(status.uptime_ns)}",
            "profile": status.profile,
            "kernel": status.kernel,
            "dataplane": f"program {status.program_id}, "
            + ("found in place" if status.adopted else "loaded by this daemon"),
            "pins": status.pin_directory,
            "cells": f"{status.local_cells} local, {status.remote_cells} remote",
            "sessions": status.sessions,
            "credit": f"{promised} of {capacity} blocks promised",
        }
    )
    render.line("")
    _show_interfaces(status.interfaces)


def _show_interfaces(interfaces: Iterable[Interface]) -> None:
    from assent.cli import render

    render.table(
        ("INTERFACE", "INDEX", "MODE", "MAC", "MTU"),
        [(each.name, str(each.index), _mode(each), each.mac, str(each.mtu)) for each in interfaces],
        empty="no interface is gated: see `assent attach --help`",
    )


def _mode(interface: Interface) -> str | None:
    from assent.cli import render
    from assent.v1.fabric_pb2 import AttachMode

    return render.enum_name(AttachMode.DESCRIPTOR, interface.mode)
