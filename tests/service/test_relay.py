# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Relay over the socket of a running daemon."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

from assent.dataplane.libbpf import Map
from assent.dataplane.profiles import CHAPTER
from assent.identity.hint import hint_of
from assent.identity.keys import Identity
from assent.service.interfaces import describe
from assent.v1 import relay_pb2
from assent.v1.relay_pb2_grpc import RelayStub

from .conftest import Api, Place, daemon_in, eventually, ip, refused

KEYS = [Identity.from_seed(bytes([number]) * 32).public_key for number in range(1, 80)]
KEY = KEYS[0]
HINT = bytes(hint_of(KEY))
ELSEWHERE = b"\x55" * 24
MAC = "02:00:00:00:00:09"


@pytest.fixture
async def relay(api: Api) -> Any:
    return RelayStub(api.channel)  # type: ignore[no-untyped-call]


def everything(place: Place) -> dict[str, object]:
    """What a refused call must not have changed."""
    maps = {name: place.map(name) for name in ("lwf_routes", "lwf_sources", "lwf_config")}
    return {**place.everything(), **maps}


def source(name: str = "away", key: bytes = KEY) -> relay_pb2.AddSourceRequest:
    return relay_pb2.AddSourceRequest(name=name, public_key=key)


def to(hint: bytes = ELSEWHERE) -> relay_pb2.Destination:
    return relay_pb2.Destination(hint=hint)


def way(
    interface: str, mac: str = MAC, dest: relay_pb2.Destination | None = None
) -> relay_pb2.SetRouteRequest:
    hop = relay_pb2.NextHop(interface=interface, mac=mac)
    return relay_pb2.SetRouteRequest(destination=dest or to(), next_hop=hop)


def here(hint: bytes = ELSEWHERE) -> relay_pb2.SetRouteRequest:
    return relay_pb2.SetRouteRequest(destination=to(hint), local=True)


async def routes(relay: Any) -> list[relay_pb2.RelayRoute]:
    return list((await relay.ListRoutes(relay_pb2.ListRoutesRequest())).routes)


async def sources(relay: Any) -> list[relay_pb2.RelaySource]:
    return list((await relay.ListSources(relay_pb2.ListSourcesRequest())).sources)


class TestSources:
    async def test_one_that_is_added_is_in_the_gate(self, relay: Any, place: Place) -> None:
        added = await relay.AddSource(source())
        assert (added.name, added.hint, added.public_key) == ("away", HINT, KEY)
        assert not added.HasField("newest_timestamp")
        assert place.map("lwf_sources").keys() == {HINT}
        assert await sources(relay) == [added]

    @pytest.mark.parametrize("by", ["name", "hint"])
    async def test_one_that_is_removed_is_not(self, relay: Any, place: Place, by: str) -> None:
        await relay.AddSource(source())
        ref = relay_pb2.SourceRef(**{by: "away" if by == "name" else HINT})
        await relay.RemoveSource(relay_pb2.RemoveSourceRequest(source=ref))
        assert place.map("lwf_sources") == {}
        assert await sources(relay) == []

    async def test_a_name_and_a_key_are_taken_once(self, relay: Any, place: Place) -> None:
        await relay.AddSource(source())
        before = everything(place)
        assert await refused(relay.AddSource(source("away", KEYS[1]))) == (
            StatusCode.ALREADY_EXISTS,
            "name: a source named 'away' exists",
        )
        assert await refused(relay.AddSource(source("other", KEY))) == (
            StatusCode.ALREADY_EXISTS,
            "public_key: it is the key of source 'away'",
        )
        assert everything(place) == before

    async def test_more_than_the_gate_holds_are_refused(self, relay: Any, place: Place) -> None:
        for number in range(CHAPTER.relay_sources):
            await relay.AddSource(source(f"s{number}", KEYS[number]))
        before = everything(place)
        code, said = await refused(relay.AddSource(source("more", KEYS[-1])))
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert said == "the relay has 64 sources, and room for no more"
        assert everything(place) == before


class TestRoutes:
    async def test_one_that_is_set_is_in_the_gate(
        self, relay: Any, place: Place, dummy: str
    ) -> None:
        route = await relay.SetRoute(way(dummy))
        assert (route.hint, route.interface, route.mac) == (ELSEWHERE, dummy, MAC)
        assert (route.local, route.registered, route.installed) == (False, False, True)
        (value,) = place.map("lwf_routes").values()
        assert bytes.fromhex(MAC.replace(":", "")) + describe(dummy).mac in value
        assert await routes(relay) == [route]

    async def test_it_is_replaced_and_deleted(self, relay: Any, place: Place, dummy: str) -> None:
        await relay.SetRoute(way(dummy))
        route = await relay.SetRoute(here())
        assert (route.local, route.interface, route.mac) == (True, "", "")
        assert await routes(relay) == [route]
        await relay.DeleteRoute(relay_pb2.DeleteRouteRequest(destination=to()))
        assert place.map("lwf_routes") == {}
        assert await routes(relay) == []

    async def test_a_destination_has_three_names(self, relay: Any, dummy: str) -> None:
        await relay.AddSource(source())
        for dest in (
            relay_pb2.Destination(hint=HINT),
            relay_pb2.Destination(public_key=KEY),
            relay_pb2.Destination(source_name="away"),
        ):
            route = await relay.SetRoute(way(dummy, dest=dest))
            assert (route.hint, route.source_name) == (HINT, "away")
            await relay.DeleteRoute(relay_pb2.DeleteRouteRequest(destination=dest))
        assert await routes(relay) == []

    async def test_more_than_the_gate_holds_are_refused(self, relay: Any, place: Place) -> None:
        for number in range(CHAPTER.relay_routes):
            await relay.SetRoute(here(bytes([number + 1]) * 24))
        before = everything(place)
        code, said = await refused(relay.SetRoute(here(b"\xff" * 24)))
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert said == "the relay has 64 routes, and room for no more"
        assert everything(place) == before

    async def test_one_waits_for_its_interface(self, relay: Any, dummy: str) -> None:
        """It is gone from the gate with the interface, and back with it, by its new number."""
        await relay.SetRoute(way(dummy))

        async def is_installed(wanted: bool) -> bool:
            (route,) = await routes(relay)
            return bool(route.installed is wanted)

        ip("link", "del", dummy)
        await eventually(lambda: is_installed(False), "the route is out of the gate")
        ip("link", "add", dummy, "type", "veth", "peer", "name", f"{dummy}p")
        await eventually(lambda: is_installed(True), "the route is back")

    async def test_a_way_needs_an_interface_that_is_there(self, relay: Any, place: Place) -> None:
        before = everything(place)
        code, said = await refused(relay.SetRoute(way("nowhere0")))
        assert (code, said) == (
            StatusCode.FAILED_PRECONDITION,
            "interface: there is no interface 'nowhere0'",
        )
        assert everything(place) == before


BAD: list[tuple[str, object, int, str]] = [
    ("AddSource", source("", KEY), 3, "name: needs 1 to 63"),
    ("AddSource", source("Away", KEY), 3, "name: needs 1 to 63"),
    ("AddSource", source("away", b"short"), 3, "public_key: needs 32 bytes, got 5"),
    ("AddSource", source("away", bytes(32)), 3, "public_key: is not a usable"),
    ("RemoveSource", relay_pb2.RemoveSourceRequest(), 3, "source: needs the hint or the name"),
    (
        "RemoveSource",
        relay_pb2.RemoveSourceRequest(source=relay_pb2.SourceRef(name="nobody")),
        5,
        "no source 'nobody'",
    ),
    (
        "RemoveSource",
        relay_pb2.RemoveSourceRequest(source=relay_pb2.SourceRef(hint=b"x")),
        3,
        "source.hint: needs 24 bytes, got 1",
    ),
    ("SetRoute", relay_pb2.SetRouteRequest(), 3, "destination: needs a hint, a public key"),
    ("SetRoute", relay_pb2.SetRouteRequest(destination=to()), 3, "next_hop: must be given"),
    ("SetRoute", way("lo", dest=to(b"x")), 3, "destination.hint: needs 24 bytes, got 1"),
    ("SetRoute", way("lo", dest=to(bytes(24))), 3, "destination.hint: is all zeros"),
    ("SetRoute", way("lo", ""), 3, "next_hop.mac: needs a unicast address"),
    ("SetRoute", way("lo", "ff:ff:ff:ff:ff:ff"), 3, "next_hop.mac: needs a unicast address"),
    ("SetRoute", way("lo", "nonsense"), 3, "next_hop.mac: needs six pairs"),
    ("SetRoute", way("a/b"), 3, "next_hop.interface: needs the name of an interface"),
    (
        "SetRoute",
        relay_pb2.SetRouteRequest(destination=to(), next_hop=relay_pb2.NextHop(), local=True),
        3,
        "next_hop: must be given, but for a local route",
    ),
    (
        "SetRoute",
        way("lo", dest=relay_pb2.Destination(source_name="nobody")),
        5,
        "no source 'nobody'",
    ),
    (
        "SetRoute",
        way("lo", dest=relay_pb2.Destination(public_key=b"x")),
        3,
        "destination.public_key: needs 32 bytes, got 1",
    ),
    (
        "DeleteRoute",
        relay_pb2.DeleteRouteRequest(destination=to()),
        5,
        f"no route is set to {ELSEWHERE.hex()}",
    ),
]


@pytest.mark.parametrize(("call", "request_", "code", "said"), BAD)
async def test_a_bad_request_changes_nothing(
    relay: Any, place: Place, call: str, request_: object, code: int, said: str
) -> None:
    before = everything(place)
    found, message = await refused(getattr(relay, call)(request_))
    assert (found.value[0], message[: len(said)]) == (code, said)
    assert everything(place) == before


async def test_it_outlives_the_daemon(place: Place, dummy: str) -> None:
    async with daemon_in(place) as api:
        relay = RelayStub(api.channel)  # type: ignore[no-untyped-call]
        await relay.AddSource(source())
        await relay.SetRoute(way(dummy))
        before = await sources(relay), await routes(relay)
        maps = everything(place)
    async with daemon_in(place) as api:
        relay = RelayStub(api.channel)  # type: ignore[no-untyped-call]
        assert (await sources(relay), await routes(relay)) == before
        assert everything(place) == maps


async def test_what_another_hand_did_to_the_maps_is_put_right(place: Place) -> None:
    async with daemon_in(place) as api:
        relay = RelayStub(api.channel)  # type: ignore[no-untyped-call]
        await relay.AddSource(source())
        await relay.SetRoute(here())
        routes_then, sources_then = place.map("lwf_routes"), place.map("lwf_sources")
        with Map.open_pinned(place.pins / "maps" / "lwf_routes") as table:
            table.update(b"\x01" * 24, next(iter(routes_then.values())))
            table.delete(ELSEWHERE)
        with Map.open_pinned(place.pins / "maps" / "lwf_sources") as table:
            table.update(b"\x01" * 24, next(iter(sources_then.values())))
            table.delete(HINT)
        await eventually(
            lambda: (
                place.map("lwf_routes") == routes_then and place.map("lwf_sources") == sources_then
            ),
            "the sweep puts it right",
        )
