# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric.WatchEvents and Explain over the socket of a running daemon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from grpc import StatusCode

from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Map, Program
from assent.dataplane.objects import packaged
from assent.dataplane.reasons import Reasons, reasons
from assent.dataplane.tables import Event, Suppressed
from assent.dataplane.tables import Place as Place_
from assent.errors import InvalidArgument
from assent.service.events import EventHub, Interest, Standing, Summary, Told
from assent.service.examiner import DATA_MAX, FRAMES_MAX
from assent.service.sightings import Sighting
from assent.v1 import cells_pb2, common_pb2, fabric_pb2
from assent.wire.captures import HEAD_LEN
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header
from assent.wire.lwf import Header as LwfHeader
from assent.wire.lwf import Hint

from .conftest import Api, Place, by_name, daemon_in, eventually, refused

STRANGER = CellID(b"\x40" * 16)
OTHER = CellID(b"\x50" * 16)
PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
HEADER = Header(STRANGER, OTHER, 9, Flags.DATA | Flags.BLOCK, 0, 3)


def frame(header: Header = HEADER, ethertype: int = ETHERTYPE) -> bytes:
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ethertype).encode() + header.encode()


@pytest.fixture
def eager(api: Api, place: Place) -> None:
    """A gate that tells of every frame that somebody watches."""
    place.tell_all()


@pytest.fixture
def arrive(api: Api, place: Place) -> Iterator[Callable[[bytes], None]]:
    """Has the daemon's gate decide on a frame, as if it had arrived at the loopback interface."""
    with Program.open_pinned(place.pins / "programs" / "gate") as gate:
        yield lambda data: (gate.test_run(data), None)[1]


class Stream:
    """A watch that is being served."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.summaries: list[fabric_pb2.WatchSummary] = []

    async def read(self) -> fabric_pb2.Event:
        """The next event; fails where none comes."""
        while True:
            told = await asyncio.wait_for(self._call.read(), 10)
            assert told is not grpc.aio.EOF
            if told.HasField("event"):
                return told.event
            self.summaries.append(told.summary)

    async def finish(self) -> tuple[list[fabric_pb2.Event], dict[str, tuple[int, int, int]]]:
        """Says that this is enough.

        Returns:
            The events that were left, and (counted, told, suppressed) by reason.
        """
        await self._call.done_writing()
        left = []
        while (told := await asyncio.wait_for(self._call.read(), 10)) is not grpc.aio.EOF:
            if told.HasField("event"):
                left.append(told.event)
            else:
                self.summaries.append(told.summary)
        assert [each.last for each in self.summaries] == [False] * (len(self.summaries) - 1) + [
            True
        ]
        return left, {
            each.reason: (each.counted, each.told, each.suppressed)
            for each in self.summaries[-1].reasons
        }

    def cancel(self) -> None:
        self._call.cancel()


async def watching(api: Api, **request: Any) -> Stream:
    """A stream of events that is being served."""
    call = api.fabric.WatchEvents()
    await call.write(fabric_pb2.WatchEventsRequest(**request))
    await call.initial_metadata()
    return Stream(call)


async def watch_refused(api: Api, *requests: fabric_pb2.WatchEventsRequest) -> tuple[Any, str]:
    call = api.fabric.WatchEvents(iter(requests))
    return await refused(call.read())


async def first(stream: Stream) -> fabric_pb2.Event:
    return await stream.read()


def heard(place: Place) -> Any:
    """What the gate has been told that somebody watches."""
    layout = Btf.from_object(packaged("gate")).map_value("config")
    (value,) = place.map("config").values()
    return layout.unpack(value)


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
        assert event.direction == fabric_pb2.DIRECTION_ARRIVING
        assert not event.would_drop
        assert not event.HasField("vlan")
        assert event.rule == f"cells of this host: {OTHER.raw.hex()[:16]} is none"
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
        assert event.head == frame()[:40]
        assert not event.HasField("src")
        stream.cancel()

    async def test_reasons_are_filtered(self, api: Api, arrive: Any):
        stream = await watching(api, reasons=["malformed_length", "replay"])
        arrive(frame())
        arrive(frame()[:40])
        assert (await first(stream)).reason == "malformed_length"
        stream.cancel()

    @pytest.mark.parametrize("name", ["no_such_reason", "", "admitted", "relayed"])
    async def test_an_unknown_reason(self, api: Api, name: str):
        request = fabric_pb2.WatchEventsRequest(reasons=["replay", name])
        code, message = await watch_refused(api, request)
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith(f"reasons: {name!r} is none of malformed_length, ")
        assert "bad_tag" in message
        assert "admitted," not in message

    @pytest.mark.parametrize("cell", [STRANGER, OTHER])
    async def test_one_cell_by_its_id(self, api: Api, arrive: Any, cell: CellID):
        ref = cells_pb2.CellRef(id=common_pb2.CellId(value=bytes(cell)))
        stream = await watching(api, cell=ref)
        arrive(frame(replace(HEADER, src=CellID(b"\1" * 16), dst=CellID(b"\2" * 16))))
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
        code, _ = await watch_refused(api, request)
        assert code is StatusCode.NOT_FOUND

    async def test_everybody_sees_everything(self, api: Api, arrive: Any):
        streams = [await watching(api) for _ in range(3)]
        arrive(frame())
        assert len({(await first(stream)).time_unix_ns for stream in streams}) == 1
        for stream in streams:
            stream.cancel()

    async def test_what_came_before_is_not_told(self, api: Api, arrive: Any):
        """While nobody watches, nothing is put on the ring, nor told as missed to who comes."""
        arrive(frame()[:40])
        arrive(frame())
        stream = await watching(api)
        arrive(frame())
        event = await first(stream)
        assert (event.reason, event.suppressed) == ("unknown_destination", 0)
        assert await stream.finish() == ([], {"unknown_destination": (1, 1, 0)})

    async def test_a_watcher_that_goes_is_forgotten(self, place: Place):
        async with daemon_in(place) as api:
            stream = await watching(api)
            assert heard(place).event_reasons
            stream.cancel()
            await eventually(lambda: not heard(place).event_reasons, "the gate tells nothing")
            assert (await api.status()).instance == place.instance

    async def test_one_request(self, api: Api):
        code, message = await watch_refused(api)
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith("request: is missing")
        request = fabric_pb2.WatchEventsRequest()
        code, message = await watch_refused(api, request, request)
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith("request: one says")


class TestSums:
    """Told and suppressed is what was counted, always."""

    async def counted(self, api: Api, reason: str) -> int:
        request = fabric_pb2.GetCountersRequest()
        lines = (await api.fabric.GetCounters(request)).counters
        (line,) = (each for each in lines if each.reason == reason)
        assert line.events + line.suppressed == line.frames + line.would_drop
        return line.frames

    async def test_a_flood(self, api: Api, place: Place):
        """On several CPUs at once, while it is watched; what was before is none of its business."""
        with Program.open_pinned(place.pins / "programs" / "gate") as gate:
            gate.test_run(frame(), 1000)
            before = await self.counted(api, "unknown_destination")
            stream = await watching(api, reasons=["unknown_destination"])
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(asyncio.to_thread(gate.test_run, frame(), 20_000))
                events = [await first(stream)]
                gate.test_run(frame()[:40], 100)  # another reason
            left, sums = await stream.finish()
            events += left
        after = await self.counted(api, "unknown_destination")
        counted, told, suppressed = sums.pop("unknown_destination")
        assert not sums
        assert counted == after - before == 80_000
        assert told == len(events) < counted
        assert counted == told + suppressed
        # All but those after the last event on each CPU have been told as suppressed by an event.
        assert sum(event.suppressed for event in events) <= suppressed

    async def test_two_watchers(self, api: Api, place: Place):
        """Who comes later begins to count later; who has other reasons counts those."""
        with Program.open_pinned(place.pins / "programs" / "gate") as gate:
            early = await watching(api, reasons=["unknown_destination"])
            gate.test_run(frame(), 3000)
            late = await watching(api)
            gate.test_run(frame(), 500)
            gate.test_run(frame()[:40], 70)
            early_events, early_sums = await early.finish()
            gate.test_run(frame()[:40], 7)
            late_events, late_sums = await late.finish()
        assert early_sums["unknown_destination"][0] == 3500
        assert {reason: sums[0] for reason, sums in late_sums.items()} == {
            "unknown_destination": 500,
            "malformed_length": 77,
        }
        assert {event.reason for event in early_events} == {"unknown_destination"}
        for events, sums in ((early_events, early_sums), (late_events, late_sums)):
            for reason, (counted, told, suppressed) in sums.items():
                mine = [event for event in events if event.reason == reason]
                assert len(mine) == told
                assert counted == told + suppressed
                assert sum(event.suppressed for event in mine) <= suppressed

    async def test_a_summary_while_it_runs(self, api: Api, place: Place):
        stream = await watching(api, reasons=["malformed_length"])
        with Program.open_pinned(place.pins / "programs" / "gate") as gate:
            gate.test_run(frame()[:40], 5000)
        told = 1
        await first(stream)
        while not stream.summaries:
            item = await asyncio.wait_for(stream._call.read(), 10)
            told += item.HasField("event")
            if item.HasField("summary"):
                stream.summaries.append(item.summary)
        (summary,) = stream.summaries
        (line,) = summary.reasons
        assert not summary.last
        assert (line.reason, line.counted, line.told) == ("malformed_length", 5000, told)
        assert line.suppressed == 5000 - told
        stream.cancel()

    async def test_one_cell(self, api: Api, arrive: Any):
        """The gate counts by reason, so the sums are of all cells, and say so."""
        cell = cells_pb2.CellRef(id=common_pb2.CellId(value=bytes(STRANGER)))
        stream = await watching(api, cell=cell)
        for number in range(10):
            arrive(frame(replace(HEADER, src=CellID(bytes([number]) * 16))))
        arrive(frame())
        left, sums = await stream.finish()
        assert [event.src.value for event in left] == [bytes(STRANGER)]
        assert sums == {"unknown_destination": (11, 1, 10)}
        assert stream.summaries[-1].of_all_cells


class TestListening:
    """The gate tells what somebody wants to hear, and nothing else."""

    async def test_the_union(self, api: Api, place: Place):
        number = reasons().number
        assert heard(place).event_reasons == 0
        one = await watching(api, reasons=["replay"])
        two = await watching(api, reasons=["bad_tag"])
        both = 1 << number("replay") | 1 << number("bad_tag")
        assert heard(place).event_reasons == both
        two.cancel()
        await eventually(lambda: heard(place).event_reasons != both, "one watcher is left")
        assert heard(place).event_reasons == 1 << number("replay")
        await one.finish()
        await eventually(lambda: not heard(place).event_reasons, "nobody watches")

    async def test_cells(self, api: Api, place: Place):
        cells = [CellID(bytes([number]) * 16) for number in range(1, 6)]
        streams = []
        for count, cell in enumerate(cells, 1):
            ref = cells_pb2.CellRef(id=common_pb2.CellId(value=bytes(cell)))
            streams.append(await watching(api, cell=ref))
            # More than the gate has room for: it tells of all, and the daemon looks for itself.
            assert heard(place).event_cells == (count if count <= 4 else 0)
        streams.pop().cancel()
        await eventually(lambda: heard(place).event_cells == 4, "four cells are left")
        everything = await watching(api)
        assert heard(place).event_cells == 0
        everything.cancel()
        for stream in streams:
            stream.cancel()

    async def test_a_dead_daemons_wishes_are_forgotten(self, place: Place):
        async with daemon_in(place) as api:
            await watching(api)
        with Map.open_pinned(place.pins / "maps" / "config") as table:
            layout = Btf.from_object(packaged("gate")).map_value("config")
            table.update(bytes(4), heard(place).replace(event_reasons=2**20 - 1).pack())
            assert layout.size == table.value_size
        async with daemon_in(place):
            assert heard(place).event_reasons == 0


@pytest.mark.usefixtures("eager")
class TestRules:
    """Events name what decided."""

    async def seen(self, api: Api, arrive: Any, header: Header) -> fabric_pb2.Event:
        stream = await watching(api)
        arrive(frame(header))
        event = await first(stream)
        await stream.finish()
        return event

    async def test_known_cells(self, api: Api, dummy: str, arrive: Any):
        home = await api.local("home", dummy)
        bob = await api.remote("bob", PUBLIC_KEY, common_pb2.CONSENT_NONE)
        header = replace(HEADER, src=CellID(bob.id.value), dst=CellID(home.id.value))
        event = await self.seen(api, arrive, replace(header, src=STRANGER))
        assert event.rule == f"cells that home knows: {STRANGER.raw.hex()[:16]} is none"
        assert (await self.seen(api, arrive, header)).rule == "pre-shared key with bob: none is set"
        await api.psk("bob")
        assert (await self.seen(api, arrive, header)).rule == "consent of bob: none"
        for consent, rule in (
            (common_pb2.CONSENT_QUARANTINED, "consent of bob: quarantined"),
            (common_pb2.CONSENT_STANDING, "session with bob: none is live"),
        ):
            await api.cells.SetConsent(
                cells_pb2.SetConsentRequest(cell=by_name("bob"), consent=consent)
            )
            assert (await self.seen(api, arrive, header)).rule == rule

    async def test_a_bare_frame(self, api: Api, dummy: str, arrive: Any):
        home = await api.local("home", dummy)
        bob = await api.remote("bob", PUBLIC_KEY)
        await api.psk("bob")
        header = replace(
            HEADER,
            src=CellID(bob.id.value),
            dst=CellID(home.id.value),
            flags=Flags.DATA,
        )
        stream = await watching(api)
        arrive(frame(header)[: 14 + 40])
        event = await first(stream)
        assert (event.reason, event.rule) == ("bare_frame", "bare frames of bob: not allowed")
        assert (event.src_name, event.seq) == ("bob", 9)
        await stream.finish()
        await api.cells.SetPolicy(cells_pb2.SetPolicyRequest(cell=by_name("bob"), allow_bare=True))
        before = await api.counters()
        arrive(frame(header)[: 14 + 40])
        assert (await api.counters())["admitted"] == before["admitted"] + 1

    async def test_under_a_vlan_tag(self, api: Api, arrive: Any):
        stream = await watching(api)
        tagged = frame()[:12] + b"\x81\x00\x61\x23" + frame()[12:]
        arrive(tagged)
        event = await first(stream)
        assert (event.reason, event.vlan) == ("unknown_destination", 0x123)
        assert (event.src.value, event.head) == (bytes(STRANGER), tagged)
        arrive(frame()[:12] + b"\x81\x00\x00\x05" + tagged[12:])
        event = await first(stream)
        assert (event.reason, event.vlan) == ("stacked_vlan", 5)
        assert event.rule == "frame format: at most one VLAN tag, of 802.1Q"
        stream.cancel()

    async def test_an_lwf_frame(self, api: Api, arrive: Any):
        header = LwfHeader(Hint(b"\x07" * 24), Hint(b"\x08" * 24), version=2, flags=4)
        body = header.encode() + bytes(68)
        stream = await watching(api)
        arrive(EthernetHeader(b"\x02" * 6, b"\x04" * 6, 0x4C57).encode() + body)
        event = await first(stream)
        assert event.reason == "lwf_unknown_hint"
        assert event.rule == f"relay routes: none to {'07' * 8}"
        assert (event.lwf_destination, event.lwf_source) == (b"\x07" * 24, b"\x08" * 24)
        assert not event.HasField("src")
        stream.cancel()


def sighting(seq: int, reason: str = "replay") -> Sighting:
    return Sighting(seq, reason, "eth0", 0, HEAD_LEN, frame(), replace(HEADER, seq=seq))


class Ring:
    """A gate whose ring the test fills: every second frame of one reason is told of."""

    refusals = frozenset({"replay", "bad_tag"})

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.pending: list[Event] = []
        self.closed = False
        self.listening: frozenset[str] | None = None
        self.silent = 100  # before anybody came

    @property
    def fd(self) -> int:
        return self._near.fileno()

    def events(self) -> Any:
        return self

    def listen(self, reasons: frozenset[str], cells: frozenset[CellID]) -> None:
        assert not cells
        self.listening = reasons

    def settle(self) -> None:
        assert self.listening == frozenset()

    def suppressed(self, reasons: frozenset[str]) -> dict[Place_, Suppressed]:
        return {(0, "arriving", "replay", 0): Suppressed(self.silent, self.silent)}

    def fill(self, *seqs: int) -> None:
        heads = [frame(replace(HEADER, seq=seq)) for seq in seqs]
        self.pending += [Event(1, "replay", 5, 0, HEAD_LEN, head, suppressed=1) for head in heads]
        self.silent += len(heads)
        self._far.send(b"x")

    def read(self, limit: int = 4096) -> list[Event]:
        with contextlib.suppress(BlockingIOError):
            self._near.recv(64)
        taken, self.pending = self.pending, []
        return taken

    def close(self) -> None:
        self._near.close()
        self._far.close()
        self.closed = True


def numbers(told: list[Any]) -> list[tuple[int, int]]:
    return [(each.seen.header.seq, each.suppressed) for each in told]


class TestHub:
    @pytest.fixture
    def ring(self) -> Ring:
        return Ring()

    @pytest.fixture
    async def hub(self, ring: Ring) -> AsyncIterator[EventHub]:
        async with EventHub(ring, lambda seen: "because", 3, lambda index: f"if{index}") as hub:
            yield hub
        assert ring.closed
        assert ring.listening == frozenset()

    async def test_what_a_slow_watcher_misses_is_counted(self, ring: Ring, hub: EventHub):
        everything = Interest(ring.refusals)
        with hub.watch(everything) as slow, hub.watch(everything) as quick:
            quick_seen = []
            for start in (1, 4, 7):
                ring.fill(*range(start, start + 3))
                quick_seen += [await anext(quick) for _ in range(3)]
            assert numbers(quick_seen) == [(seq, 1) for seq in range(1, 10)]
            slow_seen = [await anext(slow) for _ in range(3)]
            ring.fill(10)
            slow_seen.append(await anext(slow))
            assert numbers(slow_seen) == [(1, 1), (2, 1), (3, 1), (10, 13)]
            hub.finish(slow)
            (summary,) = [item async for item in slow]
        assert summary == Summary((Standing("replay", told=4, suppressed=16),), last=True)
        assert summary.reasons[0].counted == 20

    async def test_what_is_in_no_queue_is_in_the_summary(self, ring: Ring, hub: EventHub):
        with hub.watch(Interest(ring.refusals)) as watch:
            ring.fill(*range(1, 6))
            ring.silent += 1000  # after the last event
            hub.finish(watch)
            items = [item async for item in watch]
        assert numbers(items[:-1]) == [(1, 1), (2, 1), (3, 1)]
        assert items[-1] == Summary((Standing("replay", told=3, suppressed=1007),), last=True)

    async def test_an_event_from_before_the_watch(self, ring: Ring, hub: EventHub):
        """It was counted as suppressed when the watch began: nothing is told twice."""
        ring.silent += 7
        with hub.watch(Interest(ring.refusals)) as watch:
            ring.silent -= 7
            ring.fill(1)
            told = await anext(watch)
            ring.silent += 7
            hub.finish(watch)
            (summary,) = [item async for item in watch]
        assert numbers([told]) == [(1, 0)]
        assert summary == Summary((Standing("replay", told=1, suppressed=1),), last=True)

    async def test_summaries_that_nobody_reads_do_not_pile_up(self, ring: Ring):
        async with EventHub(ring, lambda seen: "", 3, str, summary_seconds=0.001) as hub:
            with hub.watch(Interest(ring.refusals)) as watch:
                for _ in range(5):
                    ring.silent += 1
                    await asyncio.sleep(0.005)
                assert len(watch._queue) == 1

    async def test_drained_though_nobody_watches(self, ring: Ring, hub: EventHub):
        ring.fill(1, 2, 3)
        await eventually(lambda: not ring.pending, "the ring is empty")
        with hub.watch(Interest(ring.refusals)) as watch:
            ring.fill(4)
            told = await anext(watch)
        assert isinstance(told, Told)
        assert numbers([told]) == [(4, 1)]
        assert (told.seen.interface, told.rule) == ("if5", "because")

    def test_interest(self):
        known = Reasons(("admitted", "replay", "bad_tag", "relayed"))
        with pytest.raises(InvalidArgument, match="'x' is none of replay, bad_tag"):
            Interest.checked(["replay", "x"], None, known)
        assert Interest.checked([], None, known).takes(sighting(1))
        assert not Interest.checked(["bad_tag"], None, known).takes(sighting(1))
        assert Interest.checked(["replay"], STRANGER, known).takes(sighting(1))
        assert not Interest.checked(["replay"], CellID(b"\1" * 16), known).takes(sighting(1))
        bare = replace(sighting(1), header=None)
        assert not Interest.checked([], STRANGER, known).takes(bare)
        assert Interest.checked([], None, known).takes(bare)


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
            (1, "drop", "unknown_source", "bloom"),
            (2, "pass", "not_fabric", "ethertype"),
            (3, "undecided", "truncated", "capture"),
            (4, "pass", "not_fabric", "ethertype"),
        ]
        assert [each.ethertype for each in found] == [ETHERTYPE, ETHERTYPE, 0x0800, ETHERTYPE, 0]
        assert [each.HasField("src_cell") for each in found] == [True, True, False, False, False]
        assert (found[1].dst_name, found[1].flow, found[1].seq) == ("home", 3, 9)
        assert [(each.map, each.found) for each in found[1].consulted] == [
            ("locals", True),
            ("bloom", False),
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
