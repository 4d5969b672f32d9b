# SPDX-License-Identifier: Apache-2.0
"""`assent status`, `attach`, `detach` and `counters`: the host's dataplane."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, connect, wants_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assent.v1.fabric_pb2 import Counters, Interface, Status, UngatedInterface


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
    up: Annotated[
        bool, typer.Option("--up", help="Set the interface up, but not before it is gated.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Gate an interface, now and whenever it comes back."""
    from assent.cli import render
    from assent.v1.fabric_pb2 import AttachRequest

    request = AttachRequest(interface=interface, mode=f"ATTACH_MODE_{mode.name}", bring_up=up)
    with connect(ctx) as client:
        reply = client.fabric.Attach(request)
    render.emit(wants_json(ctx, json), reply, lambda: _show_attached(reply))


def detach(
    ctx: typer.Context,
    interface: Annotated[str, typer.Argument(metavar="IFACE")],
    json: JsonFlag = False,
) -> None:
    """Take the gate off an interface, for good: from then on nothing is decided there."""
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
    pairs: Annotated[
        int, typer.Option(min=0, max=10_000, metavar="N", help="So many of the busiest pairs.")
    ] = 20,
    json: JsonFlag = False,
) -> None:
    """Show what the gate has decided: by reason, by interface, and for the busiest pairs."""
    from assent.cli import render
    from assent.cli.counts import occurred
    from assent.v1.fabric_pb2 import GetCountersRequest

    with connect(ctx) as client:
        reply = client.fabric.GetCounters(GetCountersRequest(interfaces=True, pairs_max=pairs))
    if not everything:
        tables = [reply.counters, reply.leaving]
        for interface in reply.interfaces:
            tables += [interface.arriving, interface.leaving]
        for lines in tables:
            kept = [line for line in lines if occurred(line)]
            del lines[:]
            lines.extend(kept)
    render.emit(wants_json(ctx, json), reply, lambda: _show_counters(reply))


def _show_counters(reply: Counters) -> None:
    from assent.cli import render
    from assent.cli.counts import by_interface, by_pair, pair_reasons

    directions = (("in", reply.counters), ("out", reply.leaving))
    render.table(
        ("REASON", "WAY", "FRAMES", "BYTES", "WOULD_DROP", "EVENTS", "SUPPRESSED"),
        [
            (
                line.reason,
                way,
                line.frames,
                line.bytes,
                line.would_drop,
                line.events,
                line.suppressed,
            )
            for way, lines in directions
            for line in lines
        ],
        empty="the gate has not seen a frame yet",
    )
    interfaces = [
        (name, way, at.admitted, at.dropped, at.would_drop, at.events, at.suppressed, at.reasons)
        for name, way, at in by_interface(reply)
    ]
    if interfaces:
        render.line("")
        render.table(
            (
                *("INTERFACE", "WAY", "ADMITTED", "DROPPED"),
                *("WOULD_DROP", "EVENTS", "SUPPRESSED", "REASONS"),
            ),
            interfaces,
            empty="",
        )
    pairs = [
        (remote, local, at.admitted, at.bytes, at.dropped, at.would_drop, pair_reasons(at))
        for remote, local, at in by_pair(reply)
    ]
    if pairs:
        render.line("")
        render.table(
            ("REMOTE", "LOCAL", "ADMITTED", "BYTES", "DROPPED", "WOULD_DROP", "REASONS"),
            pairs,
            empty="",
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
    _show_ungated(status.ungated)
    _show_relaxed(status)


def _show_interfaces(interfaces: Iterable[Interface]) -> None:
    from assent.cli import render

    render.table(
        ("INTERFACE", "INDEX", "MODE", "EGRESS", "MAC", "MTU"),
        [
            (each.name, str(each.index), _mode(each), _egress(each), each.mac, str(each.mtu))
            for each in interfaces
        ],
        empty="no interface is gated: see `assent attach --help`",
    )


def _show_ungated(interfaces: Iterable[UngatedInterface]) -> None:
    from assent.cli import render

    listed = [(each.name, "not gated", each.reason) for each in interfaces]
    if listed:
        render.line("")
        render.table(("INTERFACE", "STATE", "REASON"), listed, empty="")


def _show_relaxed(status: Status) -> None:
    """Cells for which policy is relaxed: nobody shall forget them."""
    from assent.cli import render

    rows = [(name, render.OBSERVED) for name in status.observed_names]
    rows += [(name, render.BARE) for name in status.bare_names]
    if not rows:
        return
    render.line("")
    render.table(("CELL", "POLICY"), rows, empty="")
    more = status.observed_cells + status.bare_cells - len(rows)
    if more:
        render.line(f"and {more:,} more: see `assent cells list`")


def _show_attached(interface: Interface) -> None:
    from assent.cli import render

    render.line(f"{interface.name} is gated ({_mode(interface)})")
    if (egress := _egress(interface)) != "attached":
        render.line(f"note: what leaves is not decided on ({egress}): see `assent status`")
    if interface.was_up:
        render.line(
            f"note: {interface.name} was up before, so frames may have passed undecided; to leave "
            "no such moment, attach it while it is down, with --up"
        )


def _egress(interface: Interface) -> str | None:
    from assent.cli import render
    from assent.v1.fabric_pb2 import EgressState

    return render.enum_name(EgressState.DESCRIPTOR, interface.egress)


def _mode(interface: Interface | UngatedInterface) -> str | None:
    from assent.cli import render
    from assent.v1.fabric_pb2 import AttachMode

    return render.enum_name(AttachMode.DESCRIPTOR, interface.mode)
