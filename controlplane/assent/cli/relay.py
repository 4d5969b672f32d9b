# SPDX-License-Identifier: Apache-2.0
"""`assent relay`: LWF frames through this host, and who may ask to be found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, connect, wants_json
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.relay_pb2 import Destination, RelayRoute, RelaySource, SourceRef

_HINT = re.compile(r"[0-9a-fA-F]{48}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")
_SEC = 1_000_000_000

Where = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION",
        help="A hint (48 digits), a public key (64, or @FILE), or the name of a source.",
    ),
]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Its name or its hint.")]


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="The LWF relay: ways to destinations, and who may register one.")
    noun.command("add-source")(add_source)
    noun.command("remove-source")(remove_source)
    noun.command()(sources)
    noun.command("set-route")(set_route)
    noun.command("delete-route")(delete_route)
    noun.command()(routes)
    noun.command()(hint)
    root.add_typer(noun, name="relay")


def add_source(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    public_key: Annotated[str, typer.Option(metavar="HEX|@FILE", help="Its Ed25519 public key.")],
    json: JsonFlag = False,
) -> None:
    """Allow the owner of a key to register where it is to be found."""
    from assent.cli import public_key as keys
    from assent.cli import render
    from assent.v1.relay_pb2 import AddSourceRequest

    key = keys.read("--public-key", public_key)
    with connect(ctx) as client:
        source = client.relay.AddSource(AddSourceRequest(name=name, public_key=key))
    said = f"{source.name} may register as {source.hint.hex()}"
    render.emit(wants_json(ctx, json), source, lambda: render.line(said))


def remove_source(ctx: typer.Context, source: Source, json: JsonFlag = False) -> None:
    """Take that back; the way that the source registered goes too."""
    from assent.cli import render
    from assent.v1.relay_pb2 import RemoveSourceRequest

    request = RemoveSourceRequest(source=_source_ref(source))
    with connect(ctx) as client:
        reply = client.relay.RemoveSource(request)
    said = f"{source} may not register any more"
    render.emit(wants_json(ctx, json), reply, lambda: render.line(said))


def sources(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List who may register, and how often they did since the daemon began."""
    from assent.cli import render
    from assent.v1.relay_pb2 import ListSourcesRequest

    with connect(ctx) as client:
        reply = client.relay.ListSources(ListSourcesRequest())
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("NAME", "HINT", "REGISTERED", "REFUSED"),
            [_source_row(source) for source in reply.sources],
            empty="nobody may register: see `assent relay add-source --help`",
        ),
    )


def set_route(
    ctx: typer.Context,
    destination: Where,
    interface: Annotated[
        str | None, typer.Option(metavar="IFACE", help="By which frames leave.")
    ] = None,
    via: Annotated[str | None, typer.Option(metavar="MAC", help="The next hop's address.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="To this host's own stack instead.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Set the way to a destination; it goes before one that the destination registers."""
    from assent.cli import render
    from assent.v1.relay_pb2 import NextHop, SetRouteRequest

    if local and (interface is not None or via is not None):
        raise InvalidArgument("--local", "leads to no interface and no next hop")
    if not local and (interface is None or via is None):
        raise InvalidArgument("--interface", "and --via are needed, or --local")
    hop = None if local else NextHop(interface=interface, mac=via)
    request = SetRouteRequest(destination=_destination(destination), next_hop=hop, local=local)
    with connect(ctx) as client:
        route = client.relay.SetRoute(request)
    said = f"{_name(route)}: {_way(route)}"
    render.emit(wants_json(ctx, json), route, lambda: render.line(said))


def delete_route(ctx: typer.Context, destination: Where, json: JsonFlag = False) -> None:
    """Remove the way to a destination, whoever made it."""
    from assent.cli import render
    from assent.v1.relay_pb2 import DeleteRouteRequest

    request = DeleteRouteRequest(destination=_destination(destination))
    with connect(ctx) as client:
        reply = client.relay.DeleteRoute(request)
    render.emit(wants_json(ctx, json), reply, lambda: render.line(f"{destination}: no way there"))


def routes(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List all ways: those that are set, and those that their destinations registered."""
    from assent.cli import render
    from assent.v1.relay_pb2 import ListRoutesRequest

    with connect(ctx) as client:
        reply = client.relay.ListRoutes(ListRoutesRequest())
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("DESTINATION", "NAME", "INTERFACE", "VIA", "KIND", "EXPIRES", "IN FORCE"),
            [_route_row(route) for route in reply.routes],
            empty="no ways are known: see `assent relay set-route --help`",
        ),
    )


def hint(
    ctx: typer.Context,
    public_key: Annotated[str, typer.Argument(metavar="HEX|@FILE", help="An Ed25519 public key.")],
    json: JsonFlag = False,
) -> None:
    """Print the hint of a public key."""
    from assent.cli import public_key as keys
    from assent.cli import render
    from assent.identity.hint import hint_of

    found = str(hint_of(keys.read("PUBLIC_KEY", public_key)))
    if wants_json(ctx, json):
        render.print_json({"hint": found})
    else:
        render.line(found)


def _destination(text: str) -> Destination:
    from assent.cli import public_key as keys
    from assent.v1.relay_pb2 import Destination

    if _HINT.fullmatch(text):
        return Destination(hint=bytes.fromhex(text))
    if text.startswith("@") or _KEY.fullmatch(text):
        return Destination(public_key=keys.read("DESTINATION", text))
    return Destination(source_name=text)


def _source_ref(text: str) -> SourceRef:
    from assent.v1.relay_pb2 import SourceRef

    if _HINT.fullmatch(text):
        return SourceRef(hint=bytes.fromhex(text))
    return SourceRef(name=text)


def _source_row(source: RelaySource) -> tuple[object, ...]:
    refused = sum(refusal.frames for refusal in source.refusals)
    return source.name, source.hint.hex(), source.registrations, refused


def _route_row(route: RelayRoute) -> tuple[object, ...]:
    kind = "registered" if route.registered else "local" if route.local else "static"
    expires = f"{-(-route.expires_in_ns // _SEC)} s" if route.expires_in_ns else ""
    return (
        route.hint.hex(),
        route.source_name,
        route.interface,
        route.mac,
        kind,
        expires,
        route.installed,
    )


def _name(route: RelayRoute) -> str:
    return route.source_name or route.hint.hex()


def _way(route: RelayRoute) -> str:
    if route.local:
        return "to this host's own stack"
    said = f"by {route.interface} to {route.mac}"
    return said if route.installed else f"{said}, when the interface is there"
