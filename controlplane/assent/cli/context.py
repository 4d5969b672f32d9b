# SPDX-License-Identifier: Apache-2.0
"""What every command shares: global options, the way to the daemon, and names of cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from assent.client import Client
    from assent.v1.cells_pb2 import CellRef

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Globals:
    """Options given before the command.

    Attributes:
        socket: The API's socket; None where the environment decides.
        json: Whether JSON was asked for, for whatever command follows.
    """

    socket: Path | None
    json: bool


def wants_json(ctx: typer.Context, flag: bool) -> bool:
    """Whether JSON was asked for, before the command or after it."""
    return flag or _globals(ctx).json


def connect(ctx: typer.Context) -> Client:
    """A client of the daemon that the global options name."""
    from assent.client import Client

    return Client(_globals(ctx).socket)


def socket_of(ctx: typer.Context) -> Path | None:
    """The API's socket as the global options name it; None where the environment decides."""
    return _globals(ctx).socket


def cell_ref(text: str) -> CellRef:
    """A cell as people name it: 32 hexadecimal digits are its id, all else is its name.

    Raises:
        InvalidArgument: It has colons, as only an id has, but is not an id.
    """
    from assent import naming

    return naming.cell_ref(text)


def _globals(ctx: typer.Context) -> Globals:
    return ctx.find_object(Globals) or Globals(socket=None, json=False)
