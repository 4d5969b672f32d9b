# SPDX-License-Identifier: Apache-2.0
"""`assent perf`: how much a flow carries, and how fast, between two hosts."""

from __future__ import annotations

import json as codec
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli.context import JsonFlag, wants_json
from assent.cli.flows import (
    BackendName,
    BackendOption,
    BusyPollOption,
    ClassName,
    ClassOption,
    DeliveryName,
    DeliveryOption,
    LocalOption,
    ServeOption,
    endpoint,
    progress,
    tell,
)
from assent.cli.ping import Times, for_each

if TYPE_CHECKING:
    from assent.transport.blocking import Flow
    from assent.transport.ring import PortInfo

LABEL = "perf"

_REPORT_S = 60.0
_BATCH_LEN = 256 << 10
_TELL_S = 0.2


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(perf)


def perf(
    ctx: typer.Context,
    remote: Annotated[
        str | None, typer.Argument(metavar="[REMOTE]", help="Name or id of the other cell.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", "-t", min=0.1, help="How long.")] = 10.0,
    size: Annotated[int, typer.Option("--size", "-s", min=1, help="Bytes of a message.")] = 65536,
    delivery: DeliveryOption = DeliveryName.ORDERED,
    flow_class: ClassOption = ClassName.STANDARD,
    coalesce: Annotated[
        bool, typer.Option("--coalesce", help="Let short messages share frames.")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure round trips instead of throughput.")
    ] = False,
    serve: ServeOption = False,
    backend: BackendOption = BackendName.AUTO,
    busy_poll: BusyPollOption = 0,
    local: LocalOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure a flow to a remote cell where `assent perf --serve` runs."""
    from assent.cli import render
    from assent.cli.failure import CommandError
    from assent.wire.control import Delivery, FlowClass

    with endpoint(ctx, local, backend, peer=remote, busy_poll_us=busy_poll) as opened:
        if serve:
            with opened.listen(LABEL, remote) as listener:
                tell(f"measuring with others as {opened.local.short}; Ctrl-C ends it")
                for_each(listener, answer)
            return
        if remote is None:
            raise CommandError("nobody to measure with", "name a remote cell, or pass --serve")
        with opened.open_flow(
            remote,
            label=LABEL,
            delivery=Delivery[delivery.name],
            flow_class=FlowClass[flow_class.name],
        ) as link:
            if link.delivery is not Delivery.ORDERED and size > link.message_max:
                raise CommandError(
                    f"a message of this flow has at most {link.message_max} bytes",
                    "pass a smaller --size",
                )
            wanted = {"size": size, "latency": latency}
            link.send(codec.dumps(wanted).encode())
            link.recv(timeout=_REPORT_S)
            measured = (
                _round_trips(link, seconds, size)
                if latency
                else _throughput(link, seconds, size, coalesce=coalesce)
            )
            result = _described(link, opened.info, size) | measured
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show(result)


def answer(link: Flow) -> None:
    """The other side of a measurement: counts, or sends back."""
    wanted = codec.loads(link.recv(4096))
    link.send(b"ready")
    if wanted["latency"]:
        for message in link:
            link.send(message)
        return
    from assent.transport.errors import EndedError

    memory = bytearray(max(1 << 20, int(wanted["size"]) + 1))
    messages = received = 0
    started = ended = 0
    try:
        while True:
            batch = link.recv_many(memory)
            ended = time.perf_counter_ns()
            started = started or ended
            messages += len(batch)
            received += sum(map(len, batch))
    except EndedError:
        told = {"messages": messages, "bytes": received, "seconds": (ended - started) / 1e9}
        link.send(codec.dumps(told).encode())


def _throughput(link: Flow, seconds: float, size: int, *, coalesce: bool) -> dict[str, Any]:
    """Sends for so long; the figures are the receiver's, from the first message to the last."""
    many = coalesce and size < _BATCH_LEN
    batch = max(1, _BATCH_LEN // size) if many else 1
    block = memoryview(bytes(size * batch))
    sent = 0
    started = told = time.monotonic()
    until = started + seconds
    with progress("measuring", int(seconds * 10)) as show:
        while (now := time.monotonic()) < until:
            if now - told > _TELL_S:
                told = now
                show(int((now - started) * 10))
            if many:
                link.send_many(block, size)
            else:
                link.send(block)
            sent += batch
        show(int(seconds * 10))
    link.finish()
    report = codec.loads(link.recv(timeout=_REPORT_S))
    took = max(report["seconds"], 1e-9)
    return {
        "sent": sent,
        "received": report["messages"],
        "bytes": report["bytes"],
        "seconds": round(took, 6),
        "mbit_s": round(report["bytes"] * 8 / took / 1e6, 1),
        "messages_s": round(report["messages"] / took, 1),
    }


def _round_trips(link: Flow, seconds: float, size: int) -> dict[str, Any]:
    block, times = bytes(size), Times()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter_ns()
        link.send(block)
        times.sent += 1
        link.recv(timeout=_REPORT_S)
        times.took.append((time.perf_counter_ns() - started) / 1000)
    return times.summary()


def _described(link: Flow, info: PortInfo | None, size: int) -> dict[str, Any]:
    return {
        "size": size,
        "delivery": link.delivery.name.lower(),
        "class": link.flow_class.name.lower(),
        "backend": "" if info is None else info.backend.name.lower(),
        "fallback_reason": "" if info is None else info.fallback_reason,
        "stats": asdict(link.stats),
    }


def _show(result: dict[str, Any]) -> None:
    from assent.cli import render

    if "mbit_s" in result:
        render.line(
            f"{result['mbit_s']} Mbit/s, {result['messages_s']:.0f} messages/s of "
            f"{result['size']} bytes, {result['received']} of {result['sent']} arrived"
        )
        return
    render.line(
        f"{result['received']} round trips of {result['size']} bytes: p50 {result['p50_us']} us, "
        f"p99 {result['p99_us']} us, max {result['max_us']} us"
    )
