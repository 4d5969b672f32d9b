# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric.WatchEvents and Explain over the socket of a running daemon."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from grpc import StatusCode

from assent.dataplane.libbpf import Program
from assent.dataplane.reasons import Reasons
from assent.dataplane.tables import Event
from assent.errors import InvalidArgument
from assent.service.events import EventHub, Interest, Sighting
from assent.service.examiner import DATA_MAX, FRAMES_MAX
from assent.v1 import cells_pb2, common_pb2, fabric_pb2
from assent.wire.captures import HEAD_LEN
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header

from .conftest import Api, Place, by_name, daemon_in, eventually, refused

STRANGER = CellID(b"\x40" * 16)
OTHER = CellID(b"\x50" * 16)
PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
HEADER = Header(STRANGER, OTHER, 9, Flags.DATA | Flags.BLOCK, 0, 3)
# A reason's next event comes 10 ms after the one before.
PAUSE_SECONDS = 0.02


def frame(header: Header = HEADER, ethertype: int = ETHERTYPE) -> bytes:
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ethertype).encode() + header.encode()


@pytest.fixture
def arrive(api: Api, place: Place) -> Iterator[Callable[[bytes], None]]:
    """Has the daemon's gate decide on a frame, as if it had arrived at the loopback interface."""
    with Program.open_pinned(place.pins / "programs" / "gate") as gate:
        yield lambda data: (gate.test_run(data), None)[1]


async def watching(api: Api, **request: Any) -> Any:
    """A stream of events that is being served."""
    stream = api.fabric.WatchEvents(fabric_pb2.WatchEventsRequest(**request))
    await stream.initial_metadata()
    return stream


async def first(stream: Any) -> fabric_pb2.Event:
    return await asyncio.wait_for(stream.read(), 10)


class TestWatch:
    async def test_an_event_says_all_that_is_known(self, api: Api, arrive: Callable[[bytes], None]):
        stream = await watching(api)
        arrive(frame())
        event = await first(stream)
        assert event.reason == "unknown_destination"
        assert abs(event.time_unix_ns - time.time_ns()) < 5 * 10**9
        assert event.interface == socket.if_indextoname(1)
        assert (event.src.value, event.dst.value) == (bytes(STRANGER), bytes(OTHER))
        assert (event.src_name, event.dst_name, event.session_id) == ("", "", 0)
        assert (event.flow, event.seq, event.flags) == (3, 9, Flags.DATA | Flags.BLOCK)
        assert (event.payload_len, event.frame_len) == (0, HEAD_LEN)
        assert event.head == frame()
        assert event.suppressed == 0
        stream.cancel()

    async def test_known_cells_have_names(self, api: Api, dummy: str, arrive: Any):
        home = await api.local("home", dummy)
        peer = await api.remote("peer", PUBLIC_KEY, common_pb2.CONSENT_NONE)
        await api.psk("peer")
        stream = await watching(api)
        src, dst = CellID(peer.id.value), CellID(home.id.value)
        arrive(frame(replace(HEADER, src=src, dst=dst)))
        event = await first(stream)
        assert (event.reason, event.src_name, event.dst_name) == ("no_covenant", "peer", "home")
        stream.cancel()

    async def test_a_frame_without_a_header(self, api: Api, arrive: Any):
        stream = await watching(api)
        arrive(frame()[:40])
        event = await first(stream)
        assert (event.reason, event.frame_len) == ("malformed_length", 40)
        assert event.head == frame()[:14]
        assert not event.HasField("src")
        stream.cancel()

    async def test_reasons_are_filtered(self, api: Api, arrive: Any):
        stream = await watching(api, reasons=["malformed_length", "replay"])
        arrive(frame())
        arrive(frame()[:40])
        assert (await first(stream)).reason == "malformed_length"
        stream.cancel()

    @pytest.mark.parametrize("name", ["no_such_reason", "", "admitted"])
    async def test_an_unknown_reason(self, api: Api, name: str):
        stream = api.fabric.WatchEvents(fabric_pb2.WatchEventsRequest(reasons=["replay", name]))
        code, message = await refused(stream.read())
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith(f"reasons: {name!r} is none of malformed_length, ")
        assert "bad_tag" in message
        assert "admitted," not in message

    @pytest.mark.parametrize("cell", [STRANGER, OTHER])
    async def test_one_cell_by_its_id(self, api: Api, arrive: Any, cell: CellID):
        ref = cells_pb2.CellRef(id=common_pb2.CellId(value=bytes(cell)))
        stream = await watching(api, cell=ref)
        arrive(frame(replace(HEADER, src=CellID(b"\1" * 16), dst=CellID(b"\2" * 16))))
        await asyncio.sleep(PAUSE_SECONDS)
        arrive(frame())
        event = await first(stream)
        assert bytes(cell) in (event.src.value, event.dst.value)
        stream.cancel()

    async def test_one_cell_by_its_name(self, api: Api, dummy: str, arrive: Any):
        home = await api.local("home", dummy)
        stream = await watching(api, cell=by_name("home"))
        arrive(frame())
        arrive(frame(replace(HEADER, dst=CellID(home.id.value))))
        assert (await first(stream)).dst_name == "home"
        stream.cancel()

    async def test_no_such_cell(self, api: Api):
        request = fabric_pb2.WatchEventsRequest(cell=by_name("nobody"))
        code, _ = await refused(api.fabric.WatchEvents(request).read())
        assert code is StatusCode.NOT_FOUND

    async def test_everybody_sees_everything(self, api: Api, arrive: Any):
        streams = [await watching(api) for _ in range(3)]
        arrive(frame())
        assert len({(await first(stream)).time_unix_ns for stream in streams}) == 1
        for stream in streams:
            stream.cancel()

    async def test_what_came_before_is_not_told(self, api: Api, arrive: Any):
        """The ring is drained though nobody watches: nothing old is in it for who comes later."""
        arrive(frame()[:40])
        await asyncio.sleep(PAUSE_SECONDS)
        stream = await watching(api)
        arrive(frame())
        assert (await first(stream)).reason == "unknown_destination"
        stream.cancel()

    async def test_a_watcher_that_goes_is_forgotten(self, place: Place):
        async with daemon_in(place) as api:
            stream = await watching(api)
            stream.cancel()
            assert (await api.status()).instance == place.instance


def sighting(seq: int, reason: str = "replay") -> Sighting:
    return Sighting(seq, reason, "eth0", 0, HEAD_LEN, frame(), replace(HEADER, seq=seq))


class Ring:
    """A ring that the test fills."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.pending: list[Event] = []
        self.closed = False

    @property
    def fd(self) -> int:
        return self._near.fileno()

    def fill(self, *seqs: int) -> None:
        heads = (frame(replace(HEADER, seq=seq)) for seq in seqs)
        self.pending += [Event(1, "replay", 5, 0, HEAD_LEN, head) for head in heads]
        self._far.send(b"x")

    def read(self, limit: int = 4096) -> list[Event]:
        self._near.recv(64)
        taken, self.pending = self.pending, []
        return taken

    def close(self) -> None:
        self._near.close()
        self._far.close()
        self.closed = True


class TestHub:
    @pytest.fixture
    def ring(self) -> Ring:
        return Ring()

    @pytest.fixture
    async def hub(self, ring: Ring) -> AsyncIterator[EventHub]:
        async with EventHub(lambda: ring, 3, lambda index: f"if{index}") as hub:  # type: ignore[arg-type,return-value]
            yield hub
        assert ring.closed

    async def test_what_a_slow_watcher_misses_is_counted(self, ring: Ring, hub: EventHub):
        with hub.watch(Interest()) as slow, hub.watch(Interest()) as quick:
            quick_seen = []
            for start in (1, 4, 7):
                ring.fill(*range(start, start + 3))
                quick_seen += [await anext(quick) for _ in range(3)]
            assert [(seen.header.seq, missed) for seen, missed in quick_seen if seen.header] == [
                (seq, 0) for seq in range(1, 10)
            ]
            slow_seen = [await anext(slow) for _ in range(3)]
            ring.fill(10)
            slow_seen.append(await anext(slow))
        found = [(seen.header.seq, missed) for seen, missed in slow_seen if seen.header]
        assert found == [(1, 6), (2, 0), (3, 0), (10, 0)]

    async def test_drained_though_nobody_watches(self, ring: Ring, hub: EventHub):
        ring.fill(1, 2, 3)
        await eventually(lambda: not ring.pending, "the ring is empty")
        with hub.watch(Interest()) as watch:
            ring.fill(4)
            seen, _ = await anext(watch)
        assert seen.header is not None
        assert (seen.header.seq, seen.interface) == (4, "if5")

    def test_interest(self):
        known = Reasons(("admitted", "replay", "bad_tag"))
        with pytest.raises(InvalidArgument, match="'x' is none of replay, bad_tag"):
            Interest.checked(["replay", "x"], None, known)
        assert Interest.checked([], None, known).takes(sighting(1))
        assert not Interest.checked(["bad_tag"], None, known).takes(sighting(1))
        assert Interest.checked(["replay"], STRANGER, known).takes(sighting(1))
        assert not Interest.checked(["replay"], CellID(b"\1" * 16), known).takes(sighting(1))
        bare = replace(sighting(1), header=None)
        assert not Interest(cell=STRANGER).takes(bare)
        assert Interest().takes(bare)


async def explained(api: Api, *frames: fabric_pb2.Frame) -> list[fabric_pb2.Explanation]:
    return [each async for each in api.fabric.Explain(iter(frames))]


class TestExplain:
    async def test_each_frame_has_its_answer(self, api: Api, place: Place, dummy: str):
        home = await api.local("home", dummy)
        ours = replace(HEADER, dst=CellID(home.id.value))
        before = place.everything(), await api.counters()
        found = await explained(
            api,
            fabric_pb2.Frame(data=frame()),
            fabric_pb2.Frame(data=frame(ours)),
            fabric_pb2.Frame(data=frame(ethertype=0x0800)),
            fabric_pb2.Frame(data=frame()[:30], original_len=78),
            fabric_pb2.Frame(data=b""),
        )
        assert (place.everything(), await api.counters()) == before
        assert [(each.index, each.verdict, each.reason, each.stage) for each in found] == [
            (0, "drop", "unknown_destination", "destination"),
            (1, "drop", "unknown_source", "source"),
            (2, "pass", "not_fabric", "ethertype"),
            (3, "undecided", "truncated", "capture"),
            (4, "pass", "not_fabric", "ethertype"),
        ]
        assert [each.ethertype for each in found] == [ETHERTYPE, ETHERTYPE, 0x0800, ETHERTYPE, 0]
        assert [each.HasField("src_cell") for each in found] == [True, True, False, False, False]
        assert (found[1].dst_name, found[1].flow, found[1].seq) == ("home", 3, 9)
        assert [(each.map, each.found) for each in found[1].consulted] == [
            ("locals", True),
            ("sessions", False),
        ]

    async def test_nothing_is_reported_or_counted(self, api: Api, arrive: Any):
        stream = await watching(api)
        await explained(api, fabric_pb2.Frame(data=frame()))
        arrive(frame()[:40])
        assert (await first(stream)).reason == "malformed_length"
        stream.cancel()

    async def test_the_largest_frame(self, api: Api):
        (found,) = await explained(api, fabric_pb2.Frame(data=frame().ljust(DATA_MAX, b"\0")))
        assert found.reason == "malformed_length"

    async def test_no_frames(self, api: Api):
        assert await explained(api) == []

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (fabric_pb2.Frame(data=bytes(DATA_MAX + 1)), "data: takes 65536 bytes"),
            (fabric_pb2.Frame(data=bytes(20), original_len=19), "original_len: is 19"),
        ],
    )
    async def test_a_bad_frame(self, api: Api, given: fabric_pb2.Frame, said: str):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await explained(api, given)
        assert failure.value.code() is StatusCode.INVALID_ARGUMENT
        assert (failure.value.details() or "").startswith(said)

    async def test_a_call_is_bounded(self, api: Api):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await explained(api, *[fabric_pb2.Frame()] * (FRAMES_MAX + 1))
        assert failure.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert len(await explained(api, *[fabric_pb2.Frame()] * FRAMES_MAX)) == FRAMES_MAX
