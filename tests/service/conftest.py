# SPDX-License-Identifier: Apache-2.0
"""Daemons to test: one in this process, or two in network namespaces joined by a cable.

      left namespace              right namespace
    +-----------------+         +-----------------+
    | assentd         |         | assentd         |
    |    fab0 [gate]--|--veth---|--[gate] fab0    |
    +-----------------+         +-----------------+

Everything has a name of its own, so that tests can run side by side, and everything is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.service import main
from assent.service.config import Config
from assent.service.daemon import Daemon
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, keys_pb2, sessions_pb2
from assent.v1.cells_pb2_grpc import CellsStub
from assent.v1.fabric_pb2_grpc import FabricStub
from assent.v1.grants_pb2_grpc import GrantsStub
from assent.v1.keys_pb2_grpc import KeysStub
from assent.v1.sessions_pb2_grpc import SessionsStub
from assent.v1.tokens_pb2_grpc import TokensStub

from .forked import Process

PIN_ROOT = Path("/sys/fs/bpf/assent-test-service")
INTERFACE = "fab0"
PSK = bytes(range(1, 33))
WAIT_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests load BPF programs and make network namespaces: run them as root")


def ip(*arguments: str) -> None:
    """Runs iproute2; `ip netns exec` is not used: it would hide /sys/fs/bpf."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def unique(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


async def eventually(check: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Waits until `check()` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.02)


def by_name(name: str) -> cells_pb2.CellRef:
    return cells_pb2.CellRef(name=name)


class Api:
    """The services of one daemon, and shortcuts for what most tests need."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.cells: Any = CellsStub(channel)
        self.fabric: Any = FabricStub(channel)
        self.grants: Any = GrantsStub(channel)
        self.keys: Any = KeysStub(channel)
        self.sessions: Any = SessionsStub(channel)
        self.tokens: Any = TokensStub(channel)

    async def local(self, name: str, interface: str = INTERFACE) -> cells_pb2.Cell:
        request = cells_pb2.CreateLocalRequest(name=name, interface=interface)
        return await self.cells.CreateLocal(request)

    async def remote(
        self,
        name: str,
        public_key: bytes,
        consent: common_pb2.Consent = common_pb2.CONSENT_STANDING,
        mac: str = "",
    ) -> cells_pb2.Cell:
        return await self.cells.CreateRemote(
            cells_pb2.CreateRemoteRequest(
                name=name, public_key=public_key, consent=consent, mac=mac
            )
        )

    async def psk(self, name: str, psk: bytes = PSK, *, replace: bool = False) -> None:
        await self.keys.SetPsk(
            keys_pb2.SetPskRequest(remote=by_name(name), psk=psk, replace=replace)
        )

    async def grant(self, name: str, flow: int, blocks: int) -> grants_pb2.Grant:
        return await self.grants.Set(
            grants_pb2.SetGrantRequest(remote=by_name(name), flow=flow, window_blocks=blocks)
        )

    async def attach(self, interface: str = INTERFACE) -> fabric_pb2.Interface:
        return await self.fabric.Attach(fabric_pb2.AttachRequest(interface=interface))

    async def connect(self, name: str, *, renew: bool = False) -> sessions_pb2.Session:
        request = sessions_pb2.ConnectRequest(remote=by_name(name), renew=renew)
        return await self.sessions.Connect(request, timeout=WAIT_SECONDS)

    async def session(self, name: str) -> sessions_pb2.Session | None:
        """The session with a cell; None where there is none."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await self.sessions.Get(sessions_pb2.GetSessionRequest(remote=by_name(name)))
        return None

    async def status(self) -> fabric_pb2.Status:
        return await self.fabric.GetStatus(fabric_pb2.GetStatusRequest())

    async def counters(self) -> dict[str, int]:
        reply = await self.fabric.GetCounters(fabric_pb2.GetCountersRequest())
        return {counter.reason: counter.frames for counter in reply.counters}


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the message with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value.code(), failure.value.details() or ""


async def both_established(left: Api, right: Api, epoch: int | None = None) -> tuple[int, int]:
    """Waits until the cells `left` and `right` say so of each other; returns the session ids."""

    async def there() -> tuple[int, int] | None:
        found = (await left.session("right"), await right.session("left"))
        if any(
            each is None
            or each.state != sessions_pb2.SESSION_STATE_ESTABLISHED
            or epoch not in (None, each.epoch)
            for each in found
        ):
            return None
        return found[0].id, found[1].id

    return await eventually(there, "both sides are ESTABLISHED")


class Place:
    """The directories and pins of one daemon, and what stands there.

    Args:
        profile: Sizes of the maps.
    """

    def __init__(self, profile: str = "chapter", **settings: object) -> None:
        self.instance = unique("svc")
        # A unix socket's path is short.
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.instance}-", dir="/tmp"))
        self.config = Config.build(
            {
                "instance": self.instance,
                "state_dir": str(self.root / "state"),
                "run_dir": str(self.root / "run"),
                "pin_root": str(PIN_ROOT),
                "profile": profile,
                **settings,
            }
        )

    @property
    def pins(self) -> Path:
        return PIN_ROOT / self.instance

    def map(self, name: str) -> dict[bytes, bytes]:
        """A map's entries."""
        with Map.open_pinned(self.pins / "maps" / name) as table:
            return dict(table.items())

    def rows(self) -> list[str]:
        """All that the store holds, but for what every handshake changes."""
        import sqlite3

        db = sqlite3.connect(self.config.state_dir / "state.db")
        try:
            return [line for line in db.iterdump() if line.startswith("INSERT")]
        finally:
            db.close()

    def files(self) -> list[str]:
        """All files but the database's own and those of the running daemon."""
        skip = {"state.db", "state.db-wal", "state.db-shm"}
        return sorted(
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.is_file() and path.name not in skip
        )

    def everything(self) -> dict[str, object]:
        """Desired state and maps, for showing that a refused call changed nothing."""
        return {
            "rows": self.rows(),
            "files": self.files(),
            "locals": self.map("locals"),
            "sessions": self.map("sessions"),
        }

    def tell_all(self) -> None:
        """Has the gate tell of every frame that is watched, however many come at a time."""
        layout = Btf.from_object(packaged("gate")).map_value("config")
        with Map.open_pinned(self.pins / "maps" / "config") as table:
            config = layout.unpack(table.lookup(bytes(4)) or b"")
            table.update(bytes(4), config.replace(event_interval=0).pack())

    def remove(self) -> None:
        Gate.remove(self.instance, PIN_ROOT)
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.remove()


@contextlib.asynccontextmanager
async def api_at(socket: Path) -> AsyncIterator[Api]:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        yield Api(channel)


@contextlib.asynccontextmanager
async def daemon_in(place: Place) -> AsyncIterator[Api]:
    """A daemon in this process and a client on its socket."""
    async with Daemon(place.config), api_at(place.config.socket) as api:
        yield api


@pytest.fixture
async def api(place: Place) -> AsyncIterator[Api]:
    async with daemon_in(place) as made:
        yield made


@pytest.fixture
def dummy() -> Iterator[str]:
    """An interface of this namespace that leads nowhere."""
    name = f"t{uuid.uuid4().hex[:10]}"
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        yield name
    finally:
        ip("link", "del", name)


@dataclass
class Host:
    """A network namespace with one interface, and a daemon in it."""

    name: str
    place: Place
    process: Process | None = None
    log: Path = field(init=False)
    environment: dict[str, str] = field(default_factory=dict)
    """Beside the test's own, for the daemon."""
    settings: Path | None = None
    """A file with more of them than the flags below."""

    def __post_init__(self) -> None:
        self.log = self.place.root / "log"

    @property
    def namespace(self) -> str:
        return f"{self.place.instance}-{self.name}"

    def launch(self) -> None:
        """Starts the daemon's process; `start` waits for its API too."""
        config = self.place.config
        arguments = {
            "--instance": config.instance,
            "--state-dir": config.state_dir,
            "--run-dir": config.run_dir,
            "--pin-root": config.pin_root,
            "--profile": config.profile,
            "--log-level": "debug",
        }
        if self.settings is not None:
            arguments["--config"] = self.settings
        for setting in ("certificate", "key", "ca"):
            if (path := getattr(config, f"covenant_{setting}")) is not None:
                arguments[f"--covenant-{setting}"] = path
        for binding in ("wss", "h2"):
            if (listener := getattr(config, f"covenant_{binding}")) is not None:
                arguments[f"--covenant-{binding}"] = "{}:{}".format(*listener)
        flags = [str(part) for pair in arguments.items() for part in pair]
        self.process = Process(
            Path(main.__file__),
            flags,
            self.log,
            self.environment,
            Path("/run/netns", self.namespace),
        )

    async def start(self) -> None:
        """Starts the daemon."""
        self.launch()
        await self.answers()

    async def answers(self) -> None:
        """Waits until the daemon's API answers."""

        async def answers() -> bool:
            if self.process is None or self.process.poll() is not None:
                pytest.fail(f"assentd ended:\n{self.log.read_text()}")
            async with self.enter() as api:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await api.status()
                    return True
            return False

        await eventually(answers, f"{self.name} answers")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process = None
        return code

    def enter(self) -> contextlib.AbstractAsyncContextManager[Api]:
        return api_at(self.place.config.socket)


@dataclass
class Cable:
    """Two hosts."""

    left: Host
    right: Host

    async def introduce(self, windows: dict[int, int] | None = None) -> None:
        """Makes a cell on either side, and makes it known to the other one with consent and key."""
        keys = {}
        for host in (self.left, self.right):
            async with host.enter() as api:
                keys[host.name] = (await api.local(host.name)).public_key
                await api.attach()
        for here, there in ((self.left, self.right), (self.right, self.left)):
            async with here.enter() as api:
                await api.remote(there.name, keys[there.name])
                await api.psk(there.name)
                for flow, blocks in ({1: 1000} if windows is None else windows).items():
                    await api.grant(there.name, flow, blocks)


@contextlib.contextmanager
def housed(hosts: Sequence[Host]) -> Iterator[None]:
    """A namespace for each host; its daemon is killed with it."""
    with contextlib.ExitStack() as undo:
        for host in hosts:
            undo.callback(host.place.remove)
            ip("netns", "add", host.namespace)
            undo.callback(ip, "netns", "del", host.namespace)
            undo.callback(host.stop, signal.SIGKILL)
        yield


def join(here: Host, there: Host) -> None:
    """A cable between two hosts."""
    peer = ("peer", "name", INTERFACE, "netns", there.namespace)
    ip("link", "add", INTERFACE, "netns", here.namespace, "type", "veth", *peer)
    for host in (here, there):
        ip("-n", host.namespace, "link", "set", INTERFACE, "up")


@contextlib.contextmanager
def switched(hosts: Sequence[Host]) -> Iterator[str]:
    """A switch, in a namespace of its own, to which all hosts are joined; yields its name."""
    switch = unique("switch")
    ip("netns", "add", switch)
    try:
        ip("-n", switch, "link", "add", "sw0", "type", "bridge")
        ip("-n", switch, "link", "set", "sw0", "up")
        for host in hosts:
            peer = ("peer", "name", INTERFACE, "netns", host.namespace)
            ip("link", "add", host.name, "netns", switch, "type", "veth", *peer)
            ip("-n", switch, "link", "set", host.name, "master", "sw0", "up")
            ip("-n", host.namespace, "link", "set", INTERFACE, "up")
        yield switch
    finally:
        ip("netns", "del", switch)


@pytest.fixture
async def cable() -> AsyncIterator[Cable]:
    """Two hosts with running daemons, gates not attached yet."""
    hosts = [Host(name, Place()) for name in ("left", "right")]
    with housed(hosts):
        join(*hosts)
        for host in hosts:
            host.launch()
        for host in hosts:
            await host.answers()
        yield Cable(*hosts)
