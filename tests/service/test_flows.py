# SPDX-License-Identifier: Apache-2.0
"""Flows that two daemons agree on, over real frames: defined, accepted, released, lost."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.dataplane.tables.flows import FlowTable
from assent.identity.keys import Identity
from assent.service.config import DELIVERIES, FLOW_CLASSES, Config, ConfigError
from assent.service.flow_desk import FlowPolicy
from assent.service.session_news import WAITING_MAX, WATCHERS_MAX, News, NewsKind, SessionNews
from assent.v1 import cells_pb2, common_pb2, grants_pb2, sessions_pb2
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass

from .conftest import (
    WAIT_SECONDS,
    Api,
    Cable,
    Host,
    Place,
    api_at,
    both_established,
    by_name,
    daemon_in,
    eventually,
    refused,
    unique,
)


def key(number: int) -> bytes:
    return Identity.from_seed(bytes([number]) * 32).public_key


Accept = sessions_pb2.AcceptFlowsRequest
Close = sessions_pb2.CloseSessionRequest
Define = sessions_pb2.DefineFlowRequest
Event = sessions_pb2.SessionEvent
Open = sessions_pb2.OpenFlowRequest
Release = sessions_pb2.ReleaseFlowRequest
Watch = sessions_pb2.WatchSessionRequest


class Two:
    """Both hosts and their APIs, in session, with windows for flows 1 to 3."""

    def __init__(self, cable: Cable, left: Api, right: Api) -> None:
        self.cable = cable
        self.left = left
        self.right = right

    async def define(self, **wanted: Any) -> sessions_pb2.FlowHandle:
        """The left asks the right."""
        request = Define(remote=by_name("right"), **wanted)
        return await self.left.sessions.DefineFlow(request, timeout=WAIT_SECONDS)


@pytest.fixture
async def two(cable: Cable) -> AsyncIterator[Two]:
    await cable.introduce({1: 1000, 2: 1000, 3: 1000})
    async with cable.left.enter() as left, cable.right.enter() as right:
        await left.connect("right")
        await both_established(left, right)
        yield Two(cable, left, right)


@contextlib.asynccontextmanager
async def listening(api: Api, **request: Any) -> AsyncIterator[Any]:
    """A listener that is there when the block begins."""
    call = api.sessions.AcceptFlows(Accept(**request))
    await call.initial_metadata()
    try:
        yield call
    finally:
        call.cancel()


@contextlib.asynccontextmanager
async def watching(api: Api, **request: Any) -> AsyncIterator[Any]:
    call = api.sessions.WatchSession(Watch(**request))
    await call.initial_metadata()
    try:
        yield call
    finally:
        call.cancel()


async def read(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), WAIT_SECONDS)


class Application:
    """What an endpoint does to be known: it holds the flow's lock, and has the gate let frames in.

    Args:
        handle: Of the flow.
    """

    def __init__(self, handle: sessions_pb2.FlowHandle) -> None:
        self._slot = handle.flow_slot
        self._pin = Path(handle.flows_pin)
        self._fd = os.open(handle.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._open(True)

    def die(self) -> None:
        """As by SIGKILL: the line stays as it is."""
        os.close(self._fd)

    def leave(self) -> None:
        self._open(False)
        os.close(self._fd)

    def _open(self, is_open: bool) -> None:
        with Map.open_pinned(self._pin) as table:
            lines = FlowTable(table, Btf.from_object(packaged("gate")))
            try:
                lines.set_open(self._slot, is_open)
            finally:
                lines.close()


# Agreeing


async def test_a_flow_is_defined_here_and_accepted_there(two: Two):
    async with listening(two.right, label="echo") as listener:
        mine = await two.define(
            flow=2,
            delivery=sessions_pb2.DELIVERY_UNORDERED,
            flow_class=sessions_pb2.FLOW_CLASS_BULK,
            label="echo",
        )
        offer = await read(listener)
    theirs = offer.handle
    assert (offer.flow, offer.label, offer.session) == (2, "echo", theirs.session)
    for handle in (mine, theirs, offer):
        assert handle.flow == 2
        assert handle.delivery == sessions_pb2.DELIVERY_UNORDERED
        assert handle.flow_class == sessions_pb2.FLOW_CLASS_BULK
    assert mine.tx_payload_key == theirs.rx_payload_key
    assert mine.lock_path.endswith(f"{mine.session.id}-2.lock")
    for handle in (mine, theirs):
        # Two daemons on one machine: less than a second, and not nothing.
        assert 0 < handle.rtt_ns < 1_000_000_000


async def test_what_is_not_asked_for_is_ordered_and_standard_and_any_flow(two: Two):
    async with listening(two.right) as listener:
        mine = await two.define()
        offer = await read(listener)
    assert (mine.flow, offer.flow) == (1, 1)
    assert mine.delivery == offer.delivery == sessions_pb2.DELIVERY_ORDERED
    assert mine.flow_class == offer.flow_class == sessions_pb2.FLOW_CLASS_STANDARD
    # Who opens it by number finds what was agreed on.
    opened = await two.right.sessions.OpenFlow(Open(remote=by_name("left"), flow=1))
    assert opened == offer.handle


async def test_both_sides_define_at_once(two: Two):
    async with listening(two.right) as there, listening(two.left) as here:
        request = Define(remote=by_name("left"))
        handles = await asyncio.gather(
            two.define(), two.right.sessions.DefineFlow(request), two.define()
        )
        assert len({handle.flow for handle in handles}) == 3
        assert {(await read(there)).flow, (await read(there)).flow} == {
            handles[0].flow,
            handles[2].flow,
        }
        assert (await read(here)).flow == handles[1].flow
        code, message = await refused(two.define())
        assert code is StatusCode.FAILED_PRECONDITION
        assert message == "flow: the session has no flow that is free"


async def test_a_listener_may_want_one_cell_alone(two: Two):
    async with (
        listening(two.right, remote=by_name("left"), local=by_name("right")) as special,
        listening(two.right) as general,
    ):
        await two.define()
        assert (await read(special)).flow == 1
        general.cancel()


# Refusals


async def test_where_nobody_listens_it_is_said_and_nothing_is_kept(two: Two):
    async with listening(two.right, label="other"):
        code, message = await refused(two.define(label="echo"))
    assert code is StatusCode.UNAVAILABLE
    assert message == "nobody listens for 'echo' at cell 'right'"
    async with listening(two.right, label="echo"):
        assert (await two.define(label="echo")).flow == 1


async def test_a_listener_that_has_gone_listens_no_more(two: Two):
    async with listening(two.right):
        pass

    async def gone() -> bool:
        code, _ = await refused(two.define(flow=3, label="probe"))
        return code is StatusCode.UNAVAILABLE

    await eventually(gone, "the listener is gone")


async def test_a_taken_flow_is_refused_by_number(two: Two):
    async with listening(two.right):
        await two.define(flow=2)
        code, message = await refused(two.define(flow=2))
        assert (code, message) == (
            StatusCode.FAILED_PRECONDITION,
            "flow: flow 2: the flow is taken",
        )
        # One that an application there drives without a word.
        handle = await two.right.sessions.OpenFlow(Open(remote=by_name("left"), flow=3))
        application = Application(handle)
        code, message = await refused(two.define(flow=3))
        application.leave()
    assert (code, message) == (
        StatusCode.FAILED_PRECONDITION,
        "cell 'right' refuses flow 3: the flow is taken",
    )


async def test_a_peer_that_does_not_answer_is_given_up(two: Two):
    async with listening(two.right):
        two.cable.right.process.send_signal(signal.SIGSTOP)
        try:
            code, message = await refused(two.define(flow=1))
        finally:
            two.cable.right.process.send_signal(signal.SIGCONT)
        assert (code, message) == (StatusCode.DEADLINE_EXCEEDED, "the peer does not answer")

        async def free() -> bool:
            with contextlib.suppress(Exception):
                await two.left.sessions.ReleaseFlow(Release(remote=by_name("right"), flow=1))
                return False
            return True

        await eventually(free, "the flow is free again")


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("DefineFlow", Define(), 3, "remote: needs the id or the name"),
        ("DefineFlow", Define(remote=by_name("away"), flow=8), 3, "flow: needs 0 to 7, got 8"),
        ("DefineFlow", Define(remote=by_name("away"), delivery=9), 3, "delivery: needs ORDERED"),
        ("DefineFlow", Define(remote=by_name("away"), flow_class=9), 3, "flow_class: needs URGENT"),
        ("DefineFlow", Define(remote=by_name("away"), label="x" * 64), 3, "label: must have 0 to"),
        ("DefineFlow", Define(remote=by_name("away"), label="\n"), 3, "label: must not contain"),
        ("DefineFlow", Define(remote=by_name("nobody")), 5, "no cell 'nobody'"),
        ("DefineFlow", Define(remote=by_name("away")), 5, "no session with cell 'away'"),
        ("ReleaseFlow", Release(remote=by_name("away"), flow=0), 3, "flow: needs 1 to 7, got 0"),
        ("ReleaseFlow", Release(remote=by_name("away"), flow=1), 5, "no session with cell 'away'"),
    ],
)
async def test_what_cannot_be_asked_for(
    api: Api, dummy: str, method: str, request_: Any, code: int, message: str
):
    await api.local("here", dummy)
    await api.remote("away", key(1))
    status, said = await refused(getattr(api.sessions, method)(request_))
    assert status.value[0] == code
    assert message in said


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("AcceptFlows", Accept(), 9, "this host has no local cell"),
        ("AcceptFlows", Accept(local=by_name("nobody")), 5, "no cell 'nobody'"),
        ("AcceptFlows", Accept(label="x" * 64), 9, "this host has no local cell"),
        ("WatchSession", Watch(remote=by_name("nobody")), 5, "no cell 'nobody'"),
    ],
)
async def test_what_cannot_be_listened_for(
    api: Api, method: str, request_: Any, code: int, message: str
):
    status, said = await refused(getattr(api.sessions, method)(request_).read())
    assert status.value[0] == code
    assert message in said


# Releasing


async def test_a_released_flow_may_be_defined_again(two: Two):
    async with listening(two.right) as listener, watching(two.right) as news:
        await two.define(flow=1)
        await read(listener)
        for _ in range(2):
            await two.left.sessions.ReleaseFlow(Release(remote=by_name("right"), flow=1))
        event = await read(news)
        assert (event.kind, event.flow, event.remote_name) == (Event.KIND_FLOW_CLOSED, 1, "left")
        code, _ = await refused(two.define(flow=1))
        assert code is StatusCode.FAILED_PRECONDITION
        await two.right.sessions.ReleaseFlow(Release(remote=by_name("left"), flow=1))

        async def again() -> bool:
            with contextlib.suppress(Exception):
                return (await two.define(flow=1)).flow == 1
            return False

        await eventually(again, "flow 1 is free")
        assert (await read(listener)).flow == 1


async def test_the_peer_of_an_application_that_died_is_told(two: Two):
    async with listening(two.right) as listener, watching(two.left) as news:
        mine = Application(await two.define())
        theirs = Application((await read(listener)).handle)
        theirs.die()
        event = await read(news)
        assert (event.kind, event.flow) == (Event.KIND_FLOW_CLOSED, 1)
        mine.leave()


# Watching


async def test_watchers_are_told_of_sessions(two: Two):
    async with (
        watching(two.right) as news,
        watching(two.right, remote=by_name("left"), local=by_name("right")) as same,
    ):
        old = await two.right.session("left")
        await two.left.connect("right", renew=True)
        for call in (news, same):
            event = await read(call)
            assert (event.kind, event.remote_name) == (Event.KIND_RENEWED, "left")
            assert event.session > old.id
        await two.left.sessions.Close(Close(remote=by_name("right")))
        for call in (news, same):
            event = await read(call)
            assert (event.kind, event.reason) == (Event.KIND_ENDED, "closed by the peer")
        await two.left.connect("right")
        for call in (news, same):
            assert (await read(call)).kind == Event.KIND_ESTABLISHED


async def test_a_renewal_ends_what_was_agreed(two: Two):
    async with listening(two.right) as listener:
        for flow in (1, 2, 3):
            await two.define(flow=flow)
        await two.left.connect("right", renew=True)
        await both_established(two.left, two.right)
        code, _ = await refused(
            two.left.sessions.ReleaseFlow(Release(remote=by_name("right"), flow=1))
        )
        assert code is StatusCode.NOT_FOUND
        assert (await two.define()).flow == 1
        for host in (two.cable.left, two.cable.right):
            kept = list((host.place.config.run_dir / "definitions").iterdir())
            assert len(kept) == 1
        listener.cancel()


async def test_one_who_falls_behind_is_told_so():
    from assent.errors import ResourceExhausted

    news = SessionNews()
    local, remote = CellID(b"l" * 16), CellID(b"r" * 16)
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(news.watching())
        for number in range(WAITING_MAX + 5):
            news.post(News(NewsKind.FLOW_CLOSED, local, remote, number))
        for number in range(WAITING_MAX):
            assert (await watcher.take()).session == number
        with pytest.raises(ResourceExhausted, match="news were not taken"):
            await watcher.take()
        for _ in range(WATCHERS_MAX - 1):
            stack.enter_context(news.watching())
        with pytest.raises(ResourceExhausted, match="watch sessions already"):
            stack.enter_context(news.watching())


async def test_a_watcher_hears_of_its_cells_alone():
    news = SessionNews()
    local, remote, other = (CellID(bytes([number]) * 16) for number in (1, 2, 3))
    with news.watching(remote, local) as watcher:
        news.post(News(NewsKind.ENDED, local, other, 1))
        news.post(News(NewsKind.ENDED, other, remote, 2))
        news.moved(other, "eth1", bytes(6), 1500)
        news.moved(local, "eth2", bytes(6), 1400)
        news.post(News(NewsKind.ENDED, local, remote, 3))
        moved = await watcher.take()
        assert (moved.kind, moved.interface, moved.mtu) == (NewsKind.MOVED, "eth2", 1400)
        assert (await watcher.take()).session == 3


# Crashes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("side", ["left", "right"])
async def test_what_is_agreed_outlives_a_daemon(two: Two, side: str, number: int):
    host: Host = getattr(two.cable, side)
    other = by_name("right" if side == "left" else "left")
    async with listening(two.right) as listener:
        await two.define(flow=2, delivery=sessions_pb2.DELIVERY_BEST_EFFORT)
        await read(listener)
        with api_of(host) as api:
            before = await api.sessions.OpenFlow(Open(remote=other, flow=2))
            application = Application(before)
            host.stop(number)
    await host.start()
    async with host.enter() as api:
        after = await api.sessions.OpenFlow(Open(remote=other, flow=2))
        assert after.session.id == before.session.id
        for handle in (before, after):
            handle.ClearField("session")  # flow 0's numbers go on
        assert after == before
        async with watching(two.left if side == "right" else two.right) as news:
            application.die()
            event = await read(news)
            assert (event.kind, event.flow) == (Event.KIND_FLOW_CLOSED, 2)


@contextlib.contextmanager
def api_of(host: Host) -> Iterator[Api]:
    import grpc.aio

    yield Api(grpc.aio.insecure_channel(f"unix:{host.place.config.socket}"))


async def test_a_daemon_that_is_killed_while_it_asks_gives_the_flow_back(two: Two):
    """The peer has accepted, and never hears of it again until the next daemon says so."""
    async with listening(two.right) as listener, watching(two.right) as news:
        two.cable.right.process.send_signal(signal.SIGSTOP)
        asking = asyncio.ensure_future(two.define(flow=1))

        def asked() -> bool:
            directory = two.cable.left.place.config.run_dir / "definitions"
            return any(directory.iterdir())

        await eventually(asked, "the question is written down")
        two.cable.left.stop(signal.SIGKILL)
        two.cable.right.process.send_signal(signal.SIGCONT)
        await refused(asking)
        await two.cable.left.start()
        assert (await read(listener)).flow == 1
        assert (await read(news)).kind == Event.KIND_FLOW_CLOSED
    async with api_at(two.cable.left.place.config.socket) as api:

        async def free() -> bool:
            code, _ = await refused(
                api.sessions.ReleaseFlow(Release(remote=by_name("right"), flow=1))
            )
            return code is StatusCode.NOT_FOUND

        await eventually(free, "the asker has nothing left")


async def test_what_was_defined_is_gone_with_a_session_that_is_not_whole(two: Two):
    async with listening(two.right):
        await two.define(flow=1)
    host = two.cable.left
    host.stop(signal.SIGKILL)
    for path in (host.place.config.run_dir / "sessions").iterdir():
        path.unlink()
    await host.start()
    assert list((host.place.config.run_dir / "definitions").iterdir()) == []


# Windows that nobody has to type


@pytest.fixture
def generous() -> Iterator[Place]:
    made = Place(default_flows=3, default_window_blocks=100, credit_capacity_blocks=1000)
    try:
        yield made
    finally:
        made.remove()


async def test_a_cell_with_consent_is_given_its_first_windows(generous: Place, dummy: str):
    async with daemon_in(generous) as api:
        await api.local("here", dummy)
        await api.remote("one", key(1))
        grants = (await api.grants.List(grants_pb2.ListGrantsRequest())).grants
        assert [(each.remote_name, each.flow, each.window_blocks) for each in grants] == [
            ("one", flow, 100) for flow in (1, 2, 3)
        ]
        assert (await api.status()).credit_promised_blocks == 300
        # They take half of what there is at most; one that has some is given no more.
        await api.remote("two", key(2))
        await api.remote("three", key(3))
        assert (await api.status()).credit_promised_blocks == 500
        await api.grants.Delete(grants_pb2.DeleteGrantRequest(remote=by_name("one"), flow=3))
        consent = cells_pb2.SetConsentRequest(
            cell=by_name("one"), consent=common_pb2.CONSENT_STANDING
        )
        await api.cells.SetConsent(consent)
        assert (await api.status()).credit_promised_blocks == 400


async def test_a_cell_without_consent_is_given_none_until_it_has_it(generous: Place, dummy: str):
    async with daemon_in(generous) as api:
        await api.local("here", dummy)
        for consent in (common_pb2.CONSENT_NONE, common_pb2.CONSENT_COVENANT):
            name = unique("cell")
            await api.remote(name, key(consent), consent)
        assert (await api.status()).credit_promised_blocks == 0
        await api.cells.SetConsent(
            cells_pb2.SetConsentRequest(cell=by_name(name), consent=common_pb2.CONSENT_STANDING)
        )
        assert (await api.status()).credit_promised_blocks == 300


def test_names_in_the_configuration_are_those_of_the_wire():
    assert FlowPolicy.named(DELIVERIES, FLOW_CLASSES) == FlowPolicy()
    some = Config.build({"flow_deliveries": ["best-effort"], "flow_classes": ["bulk", "tensor"]})
    policy = FlowPolicy.named(some.flow_deliveries, some.flow_classes)
    assert policy.deliveries == {Delivery.BEST_EFFORT}
    assert policy.classes == {FlowClass.BULK, FlowClass.TENSOR}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"default_flows": 8}, "default_flows: needs 0 to 7, got 8"),
        ({"default_flows": -1}, "default_flows: needs 0 to 7, got -1"),
        ({"default_flows": True}, "default_flows: needs a whole number, got a truth value"),
        ({"default_window_blocks": 0}, "default_window_blocks: needs 1 to 32767, got 0"),
        ({"default_window_blocks": 32768}, "default_window_blocks: needs 1 to 32767"),
        ({"flow_deliveries": []}, "flow_deliveries: needs a list of some of ordered, unordered"),
        ({"flow_deliveries": "ordered"}, "flow_deliveries: needs a list of some of"),
        ({"flow_classes": ["urgent", "best"]}, "flow_classes: needs a list of some of urgent"),
        ({"flow_classes": [["urgent"]]}, "flow_classes: needs a list of some of urgent"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Config.build(values)
