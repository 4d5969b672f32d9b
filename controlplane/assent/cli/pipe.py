# SPDX-License-Identifier: Apache-2.0
"""`assent pipe`: standard input and output of two hosts, joined crosswise."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.flows import (
    BackendName,
    BackendOption,
    LocalOption,
    announce_open,
    endpoint,
    tell,
)

if TYPE_CHECKING:
    from assent.transport.blocking import Endpoint, Flow

_CHUNK = 256 << 10


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(pipe)


def pipe(
    ctx: typer.Context,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the other cell.")],
    flow: Annotated[
        int | None, typer.Option(min=1, max=7, help="The flow; both sides name the same one.")
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="LABEL", help="Which listener is meant, where no flow is named.")
    ] = "pipe",
    listen: Annotated[bool, typer.Option("--listen", help="Wait for the other side.")] = False,
    backend: BackendOption = BackendName.AUTO,
    local: LocalOption = None,
) -> None:
    """Join this host's standard input to the other's standard output, and the other way round.

    One side waits with --listen; or both name the same --flow. Each direction ends where its input
    does, and the command when both have.
    """
    with (
        endpoint(ctx, local, backend, peer=remote) as opened,
        _joined(opened, remote, flow, label, listen) as link,
    ):
        announce_open(opened, link)
        failures: list[BaseException] = []
        feeder = threading.Thread(
            target=_feed, args=(link, failures), name="assent pipe", daemon=True
        )
        feeder.start()
        _drink(link)
        # What is still to be said is said to a peer that has no more to say.
        while feeder.is_alive():
            feeder.join(0.1)
        if failures:
            raise failures[0]


def _joined(opened: Endpoint, remote: str, flow: int | None, label: str, listen: bool) -> Flow:
    if flow is not None:
        return opened.connect(remote).flow(flow)
    if not listen:
        return opened.connect(remote).open_flow(label)
    with opened.listen(label, remote) as listener:
        tell(f"waiting for {remote}")
        return listener.accept()


def _feed(link: Flow, failures: list[BaseException]) -> None:
    """Standard input to the flow, to its end."""
    source = sys.stdin.fileno()
    try:
        while chunk := os.read(source, _CHUNK):
            link.send(chunk)
        link.finish()
    except BaseException as error:
        failures.append(error)


def _drink(link: Flow) -> None:
    """The flow to standard output, to its end."""
    from assent.transport.errors import EndedError

    sink = sys.stdout.buffer
    memory = memoryview(bytearray(_CHUNK))
    with contextlib.suppress(EndedError):
        while True:
            count, _ = link.recv_some(memory)
            sink.write(memory[:count])
            sink.flush()
