# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Relay."""

from __future__ import annotations

from assent.errors import InvalidArgument
from assent.identity.cellid import PUBLIC_KEY_LEN
from assent.identity.hint import hint_of
from assent.identity.keys import noise_public_of
from assent.service import fields
from assent.service.relay import RelayRegistry, RouteView, SourceView
from assent.service.servicers.context import Context
from assent.v1 import relay_pb2
from assent.v1.relay_pb2_grpc import RelayServicer as Base
from assent.wire.lwf import HINT_LEN, Hint


class RelayServicer(Base):
    """Ways through this host."""

    def __init__(self, relay: RelayRegistry) -> None:
        self._relay = relay

    async def AddSource(  # noqa: N802
        self, request: relay_pb2.AddSourceRequest, context: Context
    ) -> relay_pb2.RelaySource:
        """Allows a source to register."""
        name = fields.name("name", request.name)
        return _source(self._relay.add_source(name, _public_key("public_key", request.public_key)))

    async def RemoveSource(  # noqa: N802
        self, request: relay_pb2.RemoveSourceRequest, context: Context
    ) -> relay_pb2.RemoveSourceResponse:
        """Takes that back."""
        self._relay.remove_source(_source_ref("source", request.source))
        return relay_pb2.RemoveSourceResponse()

    async def ListSources(  # noqa: N802
        self, request: relay_pb2.ListSourcesRequest, context: Context
    ) -> relay_pb2.ListSourcesResponse:
        """All sources."""
        sources = [_source(source) for source in self._relay.sources()]
        return relay_pb2.ListSourcesResponse(sources=sources)

    async def SetRoute(  # noqa: N802
        self, request: relay_pb2.SetRouteRequest, context: Context
    ) -> relay_pb2.RelayRoute:
        """Sets the way to a destination."""
        hint = self._destination("destination", request.destination)
        if request.local is request.HasField("next_hop"):
            raise InvalidArgument("next_hop", "must be given, but for a local route")
        if request.local:
            return _route(self._relay.set_local(hint))
        interface = fields.interface("next_hop.interface", request.next_hop.interface)
        mac = fields.optional_mac("next_hop.mac", request.next_hop.mac)
        if mac is None:
            raise InvalidArgument("next_hop.mac", "needs a unicast address")
        return _route(self._relay.set_route(hint, interface, mac))

    async def DeleteRoute(  # noqa: N802
        self, request: relay_pb2.DeleteRouteRequest, context: Context
    ) -> relay_pb2.DeleteRouteResponse:
        """Removes the way to a destination."""
        self._relay.delete_route(self._destination("destination", request.destination))
        return relay_pb2.DeleteRouteResponse()

    async def ListRoutes(  # noqa: N802
        self, request: relay_pb2.ListRoutesRequest, context: Context
    ) -> relay_pb2.ListRoutesResponse:
        """All ways."""
        routes = [_route(route) for route in self._relay.routes()]
        return relay_pb2.ListRoutesResponse(routes=routes)

    def _destination(self, field: str, given: relay_pb2.Destination) -> Hint:
        kind = given.WhichOneof("destination")
        if kind == "hint":
            return _hint(f"{field}.hint", given.hint)
        if kind == "public_key":
            return hint_of(_public_key(f"{field}.public_key", given.public_key))
        if kind == "source_name":
            name = fields.name(f"{field}.source_name", given.source_name)
            return self._relay.source(name).source.hint
        raise InvalidArgument(field, "needs a hint, a public key, or the name of a source")


def _public_key(field: str, value: bytes) -> bytes:
    key = fields.exact_bytes(field, value, PUBLIC_KEY_LEN)
    # Not every 32 bytes are a key that somebody could sign with.
    noise_public_of(key)
    return key


def _hint(field: str, value: bytes) -> Hint:
    hint = Hint(fields.exact_bytes(field, value, HINT_LEN))
    if not hint:
        raise InvalidArgument(field, "is all zeros, which is nobody's")
    return hint


def _source_ref(field: str, ref: relay_pb2.SourceRef) -> Hint | str:
    kind = ref.WhichOneof("ref")
    if kind == "hint":
        return _hint(f"{field}.hint", ref.hint)
    if kind == "name":
        return fields.name(f"{field}.name", ref.name)
    raise InvalidArgument(field, "needs the hint or the name of a source")


def _source(view: SourceView) -> relay_pb2.RelaySource:
    return relay_pb2.RelaySource(
        name=view.source.name,
        hint=bytes(view.source.hint),
        public_key=view.source.public_key,
        newest_timestamp=view.newest,
        registrations=view.registrations.accepted,
        refusals=[
            relay_pb2.Refusal(reason=reason, frames=frames)
            for reason, frames in sorted(view.registrations.refused.items())
        ],
    )


def _route(view: RouteView) -> relay_pb2.RelayRoute:
    return relay_pb2.RelayRoute(
        hint=bytes(view.hint),
        source_name=view.source_name,
        interface=view.interface,
        mac=fields.mac_text(view.mac),
        local=view.mac is None and not view.registered,
        registered=view.registered,
        expires_in_ns=view.expires_in,
        installed=view.installed,
    )
