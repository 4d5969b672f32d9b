# SPDX-License-Identifier: Apache-2.0
"""`assent dissect`: what the frames of a capture say, opened with the session's keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import cell_ref, connect
from assent.cli.flows import FlowOption, LocalOption

if TYPE_CHECKING:
    from assent.transport.dissect import Dissected


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Captured frames, read to their last byte.")
    noun.command()(frames)
    noun.command()(keys)
    root.add_typer(noun, name="dissect")


def frames(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pcap or pcapng file.")],
    key_file: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="As `assent dissect keys` wrote it."),
    ] = None,
) -> None:
    """Say what each fabric frame of a capture is, and, with the session's keys, what it carries.

    A frame with a byte that means nothing is told with the reason, and fails the command.
    """
    from assent.cli import render
    from assent.cli.failure import CommandError
    from assent.errors import RemoteError
    from assent.transport.dissect import dissect, keyring, load_keys
    from assent.wire.captures import CaptureError, read_capture

    ring = keyring([] if key_file is None else load_keys(key_file.read_text()))
    strange = 0
    try:
        for index, frame in enumerate(read_capture(file.read_bytes())):
            try:
                said = dissect(frame.data, ring)
            except RemoteError as refusal:
                strange += 1
                render.line(f"{index}: {refusal}")
                continue
            if said is not None:
                for part in _lines(said):
                    render.line(f"{index}: {part}")
    except CaptureError as error:
        raise CommandError(
            f"{file}: {error}", "give it an Ethernet capture as tcpdump or Wireshark write it"
        ) from error
    if strange:
        raise CommandError(
            f"{strange} frames are not what they should be", "they are told above, with the reason"
        )


def keys(
    ctx: typer.Context,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Name or id of the other cell.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file, for root alone.")
    ],
    flow: FlowOption = 1,
    local: LocalOption = None,
) -> None:
    """Write the keys of the session with a cell to a file: whoever has it can read the session."""
    from assent.cli import render
    from assent.cli.failure import CommandError
    from assent.transport.access import access_of
    from assent.transport.dissect import DirectionKeys, dump_keys
    from assent.v1.sessions_pb2 import OpenFlowRequest

    request = OpenFlowRequest(remote=cell_ref(remote), flow=flow)
    if local is not None:
        request.local.CopyFrom(cell_ref(local))
    with connect(ctx) as client:
        access = access_of(client.sessions.OpenFlow(request))
    here, there = access.local, access.remote
    said = dump_keys(
        [
            DirectionKeys(here, there, access.epoch, access.tx_payload_key, access.tx_header_key),
            DirectionKeys(there, here, access.epoch, access.rx_payload_key),
        ]
    )
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CommandError(f"{output} exists", "name another file, or remove it") from None
    with open(fd, "w", encoding="ascii") as opened:  # noqa: PTH123
        opened.write(said)
    render.line(f"the keys of epoch {access.epoch} are in {output}")


def _lines(said: Dissected) -> Iterator[str]:
    """A frame, and under it what it carries."""
    from assent.wire.control import Tag
    from assent.wire.fabric import Flags

    header = said.header
    yield (
        f"{header.src} > {header.dst}, flow {header.flow}, seq {header.seq}: {said.kind}"
        f"{', under LAMP' if header.flags & Flags.LAMP else ''}, grant {header.grant}"
        f"{', closed' if said.closed else ''}"
    )
    for first, count in said.missing:
        yield f"missing: {first}" + (f" to {first + count - 1}" if count > 1 else "")
    for record in said.records:
        if record.end:
            yield "end"
        else:
            yield f"record: {len(record.data)} bytes{', more' if record.more else ''}"
    for tag in said.tags:
        yield f"{Tag(tag.tag).name}, ref {tag.ref}: {tag.body!r}"
    if said.skipped:
        yield f"{said.skipped} tags that are not known"
