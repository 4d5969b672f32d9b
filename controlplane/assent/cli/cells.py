# SPDX-License-Identifier: Apache-2.0
"""`assent cells`: who lives on this host, whom they know, and whom they agreed to hear."""

from __future__ import annotations

import json as jsonlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli import cells_bulk
from assent.cli import public_key as public_keys
from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.cells_pb2 import Cell, CellTableRow, CreateRemoteRequest

# An export is some 250 bytes; whatever is much longer is not one.
_EXPORT_MAX_BYTES = 65_536

CellName = Annotated[str, typer.Argument(metavar="NAME", help="Its name or its id.")]


class FirstConsent(StrEnum):
    """What a cell can be given when it is made known; nothing can be suspended yet."""

    NONE = "none"
    STANDING = "standing"
    COVENANT = "covenant"


class AnyConsent(StrEnum):
    """What a known cell can be given."""

    NONE = "none"
    STANDING = "standing"
    QUARANTINED = "quarantined"
    COVENANT = "covenant"


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Identities: local cells, and the remote ones that they know.")
    noun.command()(create)
    noun.command()(add)
    noun.command("list")(list_cells)
    noun.command()(show)
    noun.command()(remove)
    noun.command()(move)
    noun.command()(table)
    noun.command()(consent)
    noun.command()(policy)
    noun.command()(export)
    cells_bulk.register(noun)
    root.add_typer(noun, name="cells")


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    interface: Annotated[
        str, typer.Option(metavar="IFACE", help="The interface that it speaks through.")
    ],
    json: JsonFlag = False,
) -> None:
    """Make an identity on this host; its private key never leaves it."""
    from assent.cli import render
    from assent.v1.cells_pb2 import CreateLocalRequest

    with connect(ctx) as client:
        cell = client.cells.CreateLocal(CreateLocalRequest(name=name, interface=interface))
    said = f"{cell.name} lives on {cell.interface} as {cell.id.value.hex()}"
    render.emit(wants_json(ctx, json), cell, lambda: render.line(said))


def add(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="With --from, in place of its own.")
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(metavar="HEX|@FILE", help="Its Ed25519 public key.")
    ] = None,
    consent: Annotated[
        FirstConsent, typer.Option(help="Whether to hear from it; covenant: as agreed.")
    ] = FirstConsent.NONE,
    mac: Annotated[
        str | None, typer.Option(help="Where it is; found by the handshake if left out.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE|-", help="A line that `cells export` has printed."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make a remote cell known, by hand or from what its own host exported."""
    from assent.cli import render
    from assent.v1.cells_pb2 import CreateRemoteRequest

    request = _imported(source) if source is not None else _typed(name, public_key)
    if source is not None and public_key is not None:
        raise InvalidArgument("--public-key", "is already in what --from reads")
    request.MergeFrom(CreateRemoteRequest(name=name, mac=mac, consent=_consent(consent)))
    with connect(ctx) as client:
        cell = client.cells.CreateRemote(request)
    said = f"{cell.name} is known as {cell.id.value.hex()}, consent: {_shown_consent(cell)}"
    render.emit(wants_json(ctx, json), cell, lambda: render.line(said))


def list_cells(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List all cells, local ones first."""
    from assent.cli import render
    from assent.v1.cells_pb2 import ListCellsRequest, ListCellsResponse

    with connect(ctx) as client:
        reply = client.cells.List(ListCellsRequest())
    cells = sorted(reply.cells, key=lambda cell: (not cell.local, cell.name))
    rows = [
        (
            cell.name,
            cell.id.value.hex(),
            "local" if cell.local else "remote",
            _shown_consent(cell),
            _policy_mark(cell),
            None if cell.local else cell.has_psk,
            cell.interface,
            cell.mac,
        )
        for cell in cells
    ]
    render.emit(
        wants_json(ctx, json),
        ListCellsResponse(cells=cells),
        lambda: render.table(
            ("NAME", "ID", "KIND", "CONSENT", "POLICY", "PSK", "INTERFACE", "MAC"),
            rows,
            empty="no cells yet: see `assent cells create --help`",
        ),
    )


def show(ctx: typer.Context, name: CellName, json: JsonFlag = False) -> None:
    """Show one cell."""
    from assent.cli import render

    cell = _get(ctx, name)
    rows: dict[str, object] = {
        "name": cell.name,
        "id": cell.id.value.hex(),
        "public key": cell.public_key.hex(),
        "kind": "local" if cell.local else "remote",
        "mac": cell.mac,
    }
    if cell.local:
        rows["interface"] = cell.interface
        if cell.standby:
            rows["standby"] = cell.standby
    else:
        rows |= {"consent": _shown_consent(cell), "psk": cell.has_psk}
    if cell.observe:
        rows["observe"] = render.OBSERVED
    if cell.allow_bare:
        rows["bare frames"] = render.BARE
    render.emit(wants_json(ctx, json), cell, lambda: render.fields(rows))


def remove(ctx: typer.Context, name: CellName, json: JsonFlag = False) -> None:
    """Remove a cell with its sessions and keys."""
    from assent.cli import render
    from assent.v1.cells_pb2 import DeleteCellRequest

    with connect(ctx) as client:
        reply = client.cells.Delete(DeleteCellRequest(cell=cell_ref(name)))
    render.emit(wants_json(ctx, json), reply, lambda: render.line(f"{name} is removed"))


def move(
    ctx: typer.Context,
    name: CellName,
    interface: Annotated[
        str | None, typer.Option(metavar="IFACE", help="Where it goes; gated already.")
    ] = None,
    standby: Annotated[
        str | None,
        typer.Option(metavar="IFACE|none", help="Where it goes by itself when that one fails."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Have a local cell speak through another interface; its sessions go on."""
    from assent.cli import render
    from assent.v1.cells_pb2 import MoveCellRequest

    if interface is None and standby is None:
        raise InvalidArgument("--interface, --standby", "say at least one of them")
    request = MoveCellRequest(cell=cell_ref(name), interface=interface)
    if standby is not None:
        request.standby = "" if standby == "none" else standby
    with connect(ctx) as client:
        cell = client.cells.Move(request)
    spare = f", {cell.standby} stands by" if cell.standby else ""
    said = f"{cell.name} lives on {cell.interface}{spare}"
    render.emit(wants_json(ctx, json), cell, lambda: render.line(said))


def table(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show where cells are: MAC addresses, LWF hints, and how sure that is."""
    from assent.cli import render
    from assent.v1.cells_pb2 import ListCellTableRequest

    with connect(ctx) as client:
        reply = client.cells.ListTable(ListCellTableRequest())
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("CELL", "NAME", "MAC", "LWF HINT", "FLAGS"),
            [
                (row.cell.value.hex(), row.name, row.mac, row.lwf_hint.hex(), _flags_of(row))
                for row in reply.rows
            ],
            empty="nobody has been seen yet",
        ),
    )


def consent(
    ctx: typer.Context, name: CellName, consent: AnyConsent, json: JsonFlag = False
) -> None:
    """Agree to hear from a remote cell, suspend that, take it back, or leave it to covenants."""
    from assent.cli import render
    from assent.v1.cells_pb2 import SetConsentRequest

    request = SetConsentRequest(cell=cell_ref(name), consent=_consent(consent))
    with connect(ctx) as client:
        cell = client.cells.SetConsent(request)
    said = f"{cell.name}: consent is {_shown_consent(cell)}"
    render.emit(wants_json(ctx, json), cell, lambda: render.line(said))


def policy(
    ctx: typer.Context,
    name: CellName,
    observe: Annotated[
        bool | None,
        typer.Option(
            "--observe/--no-observe",
            help="Admit what policy refuses of its frames; count and tell it as would_drop.",
        ),
    ] = None,
    bare: Annotated[
        bool | None,
        typer.Option(
            "--bare/--no-bare", help="Admit its 40-byte frames, which prove nothing. Remote cells."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Relax policy for one cell, for a trial or for an old peer, or end that.

    Quarantine, proof of origin and replays are never relaxed.
    """
    from assent.cli import render
    from assent.v1.cells_pb2 import SetPolicyRequest

    if observe is None and bare is None:
        raise InvalidArgument("--observe, --bare", "say at least one of them, or its --no- form")
    request = SetPolicyRequest(cell=cell_ref(name), observe=observe, allow_bare=bare)
    with connect(ctx) as client:
        cell = client.cells.SetPolicy(request)
    said = f"{cell.name}: {_shown_policy(cell) or 'nothing is relaxed'}"
    render.emit(wants_json(ctx, json), cell, lambda: render.line(said))


def export(ctx: typer.Context, name: CellName, json: JsonFlag = False) -> None:
    """Print a cell's public part as one line, for `assent cells add --from -` elsewhere."""
    del json  # it is JSON in any case
    cell = _get(ctx, name)
    public = {
        "name": cell.name,
        "id": cell.id.value.hex(),
        "public_key": cell.public_key.hex(),
        "mac": cell.mac,
    }
    print(jsonlib.dumps(public))


def _get(ctx: typer.Context, name: str) -> Cell:
    from assent.v1.cells_pb2 import GetCellRequest

    with connect(ctx) as client:
        return client.cells.Get(GetCellRequest(cell=cell_ref(name)))


def _flags_of(row: CellTableRow) -> str:
    flags = {"valid": row.valid, "stale": row.stale, "relay": row.relay}
    return "+".join(name for name, is_set in flags.items() if is_set)


def _consent(choice: FirstConsent | AnyConsent) -> str:
    return f"CONSENT_{choice.name}"


def _shown_consent(cell: Cell) -> str | None:
    from assent.cli import render
    from assent.v1.common_pb2 import Consent

    return render.enum_name(Consent.DESCRIPTOR, cell.consent)


def _shown_policy(cell: Cell) -> str:
    from assent.cli import render

    said = [render.OBSERVED] * cell.observe + [f"bare: {render.BARE}"] * cell.allow_bare
    return "; ".join(said)


def _policy_mark(cell: Cell) -> str | None:
    """A word that the table colours."""
    return "+".join(["observe"] * cell.observe + ["bare"] * cell.allow_bare) or None


def _typed(name: str | None, public_key: str | None) -> CreateRemoteRequest:
    from assent.v1.cells_pb2 import CreateRemoteRequest

    if name is None:
        raise InvalidArgument("NAME", "is missing, and there is no --from")
    if public_key is None:
        raise InvalidArgument("--public-key", "is missing, and there is no --from")
    return CreateRemoteRequest(name=name, public_key=public_keys.read("--public-key", public_key))


def _imported(source: str) -> CreateRemoteRequest:
    """Reads what `export` has printed, from a file or, for `-`, from standard input."""
    from assent.v1.cells_pb2 import CreateRemoteRequest

    if source == "-":
        data = sys.stdin.buffer.read(_EXPORT_MAX_BYTES)
    else:
        with Path(source).open("rb") as file:
            data = file.read(_EXPORT_MAX_BYTES)
    try:
        exported = jsonlib.loads(data)
    except (ValueError, RecursionError):
        exported = None
    if not isinstance(exported, dict):
        raise InvalidArgument("--from", "is not a line that `assent cells export` has printed")
    public_key = public_keys.parse("public_key", _text(exported, "public_key"))
    _check_id(_text(exported, "id", ""), public_key)
    return CreateRemoteRequest(
        name=_text(exported, "name"), public_key=public_key, mac=_text(exported, "mac", "")
    )


def _text(exported: dict[str, Any], key: str, default: str | None = None) -> str:
    value = exported.get(key, default)
    if not isinstance(value, str):
        raise InvalidArgument("--from", f"lacks {key}")
    return value


def _check_id(exported_id: str, public_key: bytes) -> None:
    """An id that does not follow from its key means that the line was damaged or put together."""
    from assent.identity.cellid import from_public_key

    if exported_id and exported_id != str(from_public_key(public_key)):
        raise InvalidArgument("--from", "has an id that is not that of its public_key")
