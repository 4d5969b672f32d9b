# SPDX-License-Identifier: Apache-2.0
"""`assent explain`: what the gate would decide on the frames of a capture."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli.context import JsonFlag, connect, wants_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assent.client import Client
    from assent.v1.fabric_pb2 import Explanation, Frame

_CALL_MAX = 10_000
"""Frames that the daemon takes in one call."""


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(explain)


def explain(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pcap or pcapng file.")],
    json: JsonFlag = False,
) -> None:
    """Say what the gate would decide on each frame of a capture if it arrived now, and why.

    Nothing is changed by asking: no credit is charged and no number is marked.
    """
    from assent.cli import render

    frames = _frames(file)
    with connect(ctx) as client:
        explained = _explained(client, frames)
        if wants_json(ctx, json):
            render.print_json([_as_dict(each) for each in explained])
            return
        for each in explained:
            _show(each)
    if not frames:
        render.line(f"{file} holds no frames")


def _frames(file: Path) -> list[Frame]:
    """The beginnings of a capture's frames.

    Raises:
        CommandError: The file is no capture that can be read.
    """
    from assent.cli.failure import CommandError
    from assent.v1.fabric_pb2 import Frame
    from assent.wire.captures import VERDICT_LEN, CaptureError, read_capture

    try:
        with file.open("rb") as opened:
            if not file.stat().st_size:
                raise CaptureError("is empty")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as buf:
                # mmap slices into bytes, and nothing of a file is read but its frames' beginnings.
                return [
                    Frame(data=frame.data[:VERDICT_LEN], original_len=frame.original_len)
                    for frame in read_capture(buf)  # type: ignore[arg-type]
                ]
    except CaptureError as error:
        raise CommandError(
            f"{file}: {error}", "give it an Ethernet capture as tcpdump or Wireshark write it"
        ) from error


def _explained(client: Client, frames: list[Frame]) -> Iterator[Explanation]:
    for start in range(0, len(frames), _CALL_MAX):
        for each in client.fabric.Explain(iter(frames[start : start + _CALL_MAX])):
            each.index += start
            yield each


def _as_dict(each: Explanation) -> dict[str, Any]:
    from assent.cli.render import to_dict

    shown = to_dict(each)
    if not each.HasField("src_cell"):
        # Such a frame has no flow and no number, not flow 0 and number 0.
        shown |= {"flow": None, "seq": None}
    return shown


def _show(each: Explanation) -> None:
    from assent.cli import render
    from assent.cli.failure import one_line

    said = f"{each.index}: {each.verdict}, {each.reason} (decided by: {each.stage})"
    if each.HasField("src_cell"):
        source = each.src_name or each.src_cell.value.hex()
        destination = each.dst_name or each.dst_cell.value.hex()
        said += f", {source} > {destination}, flow {each.flow}, seq {each.seq}"
    else:
        said += f", ethertype {each.ethertype:#06x}" if each.ethertype else ", no ethertype"
    if each.would_drop:
        said += f", would_drop: {each.would_drop}"
    render.line(said)
    for entry in each.consulted:
        print(f"    {one_line(f'{entry.map}[{entry.key}]: {entry.says or _absent(entry)}')}")


def _absent(entry: Any) -> str:
    return "there" if entry.found else "no such entry"
