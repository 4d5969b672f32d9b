# SPDX-License-Identifier: Apache-2.0
"""service/sessions.py: two managers joined in memory; the test owns the link and the clock."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.packet.recycled import private_gate

from assent.covenant.consent import Consent
from assent.errors import ResourceExhausted, Unavailable
from assent.handshake.utcp import State
from assent.identity.keys import Identity
from assent.service.escrow import Escrow
from assent.service.live import Dataplane, Phase
from assent.service.manifests import ManifestBoard
from assent.service.placement import Placement
from assent.service.reconciler import Reconciler
from assent.service.records import LocalCell, RemoteCell, StandingGrant, StoredPsk
from assent.service.sessions import SessionManager
from assent.service.static_sessions import StaticSessions
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.ethernet import BROADCAST, ETHERNET_HEADER_LEN
from assent.wire.fabric import Flags, Header

from .conftest import PSK

SECOND = 1_000_000_000
SYN, SYN_ACK, ACK = Flags.SYN, Flags.SYN | Flags.ACK, Flags.ACK
Filter = Callable[[Flags], bool]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000 * SECOND


class Cells:
    """Stands for LocalCells: keeps what is sent instead of sending it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.receiver: Any = None

    def identity(self, _: CellID) -> Identity:
        return self._node.identity

    def require_gated(self, _: LocalCell) -> None:
        """Every interface is."""

    def send(self, _: CellID, mac: bytes, frame: bytes) -> None:
        self._node.outbox.append((mac, frame))


class Node:
    """One host without a network: what it sends waits in `outbox`."""

    def __init__(self, name: str, seed: int, directory: Path, clock: Clock) -> None:
        self.name = name
        self.identity = Identity.from_seed(bytes([seed]) * 32)
        self.mac = bytes([2, 0, 0, 0, 0, seed])
        self.directory = directory
        self.outbox: list[tuple[bytes, bytes]] = []
        self.clock = clock
        self.cells = Cells(self)
        self.wall_ahead = 1_700_000_000 * SECOND

    async def start(self, stack: AsyncExitStack, peer: Node) -> None:
        self.store = stack.enter_context(Store(self.directory / "state" / "state.db"))
        self.gate = stack.enter_context(private_gate())
        key_file = self.directory / "key"
        self.local = LocalCell(
            self.identity.cell_id, self.name, self.identity.public_key, "lo", key_file
        )
        self.remote = RemoteCell(
            peer.identity.cell_id, peer.name, peer.identity.public_key, Consent.STANDING, None
        )
        self.store.add_local(self.local)
        self.store.add_remote(self.remote)
        self.store.set_psk(StoredPsk(self.remote.id, PSK, 1), replace=False)
        self.store.set_grant(StandingGrant(self.remote.id, 1, 100))
        Reconciler(self.store, self.gate).apply_all()
        self.escrow = self.directory / "sessions"
        tables = self.gate.tables
        placement = Placement(
            self.store, tables.sessions, Escrow(self.escrow), self.directory / "flows"
        )
        self.manager = await stack.enter_async_context(
            SessionManager(
                self.store,
                placement,
                Dataplane(tables.flows),
                self.cells,  # type: ignore[arg-type]
                ManifestBoard(),
                StaticSessions(self.store, tables.sessions, tables.flows, placement),
                skew_limit=30 * SECOND,
                patience=300 * SECOND,
                monotonic=lambda: self.clock.now,
                wall=lambda: self.clock.now + self.wall_ahead,
            )
        )

    def receive(self, frame: bytes, source: bytes) -> None:
        self.cells.receiver(self.local.id, b"\xff" * 6 + source + b"\x88\xb5" + frame)

    @property
    def pair(self) -> Any:
        return self.manager._pairs[self.remote.id, self.local.id]

    def phase(self) -> Phase | None:
        live = self.pair.live
        return None if live is None else live.phase

    def places(self) -> tuple[int, int, int]:
        """How many sessions are in the escrow, in the gate and in the store."""
        entries = [entry for entry in self.gate.tables.sessions.list() if entry.established]
        return len(list(self.escrow.iterdir())), len(entries), len(self.store.sessions())

    async def begin(self) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(self.manager.connect(self.remote, self.local, renew=True))
        await asyncio.sleep(0)
        return task


class Link:
    """A cable that loses what the test wants lost, and shows all that has passed."""

    def __init__(self, here: Node, there: Node) -> None:
        self.here, self.there = here, there
        self.passed: list[tuple[str, Flags]] = []

    def carry(self, lose: Filter = lambda _: False) -> None:
        """Carries frames to and fro until none is left."""
        while self.here.outbox or self.there.outbox:
            for sender, receiver in ((self.here, self.there), (self.there, self.here)):
                frames, sender.outbox[:] = list(sender.outbox), []
                for _, frame in frames:
                    flags = Header.decode(frame).flags & ~Flags.BLOCK
                    if not lose(flags):
                        self.passed.append((sender.name, flags))
                        receiver.receive(frame, sender.mac)

    def wait(self, seconds: float) -> None:
        """Time passes; what is due on either side is done."""
        clock = self.here.clock
        clock.now += int(seconds * SECOND)
        for node in (self.here, self.there):
            for pair in list(node.manager._pairs.values()):
                node.manager._tick(pair)


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Under one clock, and known to each other."""
    clock = Clock()
    here = Node("here", 1, directory / "here", clock)
    there = Node("there", 2, directory / "there", clock)
    async with AsyncExitStack() as stack:
        await here.start(stack, there)
        await there.start(stack, here)
        yield here, there


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    async with two_nodes(tmp_path) as nodes:
        yield Link(*nodes)


async def test_three_frames_make_a_session(link: Link):
    connecting = await link.here.begin()
    link.carry()
    view = await connecting
    assert (view.state, view.mac) == (State.ESTABLISHED, link.there.mac)
    assert link.passed == [("here", SYN), ("there", SYN_ACK), ("here", ACK)]
    assert link.here.phase() is link.there.phase() is Phase.ESTABLISHED
    assert link.here.places() == link.there.places() == (1, 1, 1)


@pytest.mark.parametrize("lost", [SYN, SYN_ACK, ACK])
async def test_a_frame_that_is_lost_is_sent_again(link: Link, lost: Flags):
    connecting = await link.here.begin()
    link.carry(lambda flags: flags == lost)
    link.wait(1)
    link.carry()
    await connecting
    assert link.here.phase() is link.there.phase() is Phase.ESTABLISHED
    assert link.here.places() == link.there.places() == (1, 1, 1)


async def test_the_responder_is_ready_before_its_answer_leaves(link: Link):
    await link.here.begin()
    ((_, syn),) = link.here.outbox
    link.there.receive(syn, link.here.mac)
    assert len(link.there.outbox) == 1
    assert link.there.phase() is Phase.UNCONFIRMED
    assert link.there.places() == (1, 1, 1)
    assert link.there.manager.views()[0].state is State.SYN_RCVD


async def test_a_session_that_is_never_confirmed_is_removed(link: Link):
    connecting = await link.here.begin()
    link.carry(lambda flags: flags == ACK)
    await connecting
    assert link.there.phase() is Phase.UNCONFIRMED
    for _ in range(30):
        link.wait(1.1)
        link.carry(lambda flags: flags == ACK)
    assert link.there.phase() is None
    assert link.there.places() == (0, 0, 0)
    # The initiator was told.
    assert link.here.places() == (0, 0, 0)


async def test_no_answer_at_all_times_out_and_leaves_nothing(link: Link):
    connecting = await link.here.begin()
    link.carry(lambda _: True)
    for _ in range(31):
        link.wait(1)
    with pytest.raises(TimeoutError, match="cell 'there' does not answer"):
        await connecting
    assert link.here.places() == (0, 0, 0)
    assert link.here.manager.views() == []


async def test_a_syn_that_is_not_answered_is_repeated_to_everyone(link: Link):
    connecting = await link.here.begin()
    link.carry()
    await connecting
    await link.here.begin()
    assert [mac for mac, _ in link.here.outbox] == [link.there.mac]
    link.carry(lambda _: True)
    link.wait(1)
    assert [mac for mac, _ in link.here.outbox] == [BROADCAST]
    link.carry()


async def test_a_captured_handshake_is_of_no_use(link: Link):
    connecting = await link.here.begin()
    captured = [frame for _, frame in link.here.outbox]
    link.carry()
    await connecting
    before = (link.there.places(), link.there.store.sessions(), link.there.pair.live)
    refused = link.there.manager.refused
    for frame in captured:
        link.there.receive(frame, b"\x02\0\0\0\0\x66")
    assert not link.there.outbox
    assert link.there.manager.refused == refused + 1
    assert (link.there.places(), link.there.store.sessions(), link.there.pair.live) == before
    assert link.there.pair.mac == link.here.mac


async def test_a_peer_that_begins_anew_in_the_middle_is_answered(link: Link):
    """Its daemon was restarted between its SYN and our SYN-ACK."""
    first = await link.here.begin()
    link.carry(lambda flags: flags == SYN_ACK)
    assert link.there.phase() is Phase.UNCONFIRMED
    link.here.manager.stop_handshakes(link.here.remote.id, "restart")
    with pytest.raises(Unavailable, match="restart"):
        await first
    link.here.clock.now += SECOND
    second = await link.here.begin()
    link.carry()
    await second
    assert link.there.phase() is Phase.ESTABLISHED
    assert link.here.places() == link.there.places() == (1, 1, 1)
    assert link.here.store.sessions()[0].epoch == link.there.store.sessions()[0].epoch


@pytest.mark.parametrize("higher", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_who_wants_a_session_does_not_wait_for_a_peer_that_has_given_up(
    link: Link, higher: bool, late: bool
):
    """It was told to: a covenant ended between its SYN and our SYN-ACK."""
    nodes = sorted((link.here, link.there), key=lambda node: node.identity.cell_id, reverse=higher)
    peer, ours = nodes
    given_up = await peer.begin()
    link.carry(lambda flags: flags == SYN_ACK)
    peer.manager.stop_handshakes(peer.remote.id, "its covenant has ended")
    with pytest.raises(Unavailable, match="covenant has ended"):
        await given_up
    if late:
        link.wait(1)
        link.carry()
        connecting = await ours.begin()
        # Its answer was repeated in vain: there is nothing to wait for.
    else:
        connecting = await ours.begin()
        link.carry()
        link.wait(1)
        link.carry()
        assert ours.manager.views()[0].state is State.SYN_RCVD
        assert not connecting.done(), "the peer may be slow"
        link.wait(2)
    link.carry()
    view = await connecting
    assert view.stored is not None
    assert view.stored.initiator
    assert ours.phase() is peer.phase() is Phase.ESTABLISHED
    assert ours.places() == peer.places() == (1, 1, 1)


@pytest.mark.parametrize("lost", [SYN_ACK, ACK])
@pytest.mark.parametrize("higher", [False, True])
async def test_a_peer_that_still_takes_part_is_waited_for(link: Link, higher: bool, lost: Flags):
    nodes = sorted((link.here, link.there), key=lambda node: node.identity.cell_id, reverse=higher)
    peer, ours = nodes
    asking = await peer.begin()
    link.carry(lambda flags: flags == SYN_ACK)
    connecting = await ours.begin()
    for _ in range(3):
        link.wait(1)
        link.carry(lambda flags: flags == lost)
    link.wait(4)
    link.carry()
    await asking
    view = await connecting
    assert view.stored is not None
    assert not view.stored.initiator
    assert ours.phase() is peer.phase() is Phase.ESTABLISHED
    assert (SYN, ours.name) not in {(flags, name) for name, flags in link.passed}


async def test_nobody_begins_anew_for_a_peer_that_has_given_up_unless_somebody_waits(link: Link):
    given_up = await link.there.begin()
    link.carry(lambda flags: flags == SYN_ACK)
    link.there.manager.stop_handshakes(link.there.remote.id, "its covenant has ended")
    with pytest.raises(Unavailable):
        await given_up
    for _ in range(30):
        link.wait(1.1)
        link.carry()
    assert ("here", SYN) not in link.passed
    assert link.here.places() == link.there.places() == (0, 0, 0)
    assert link.here.manager.views() == []


async def test_a_renewal_goes_on_with_the_old_session_until_it_is_done(link: Link):
    connecting = await link.here.begin()
    link.carry()
    await connecting
    old = link.here.pair.live
    renewing = await link.here.begin()
    assert link.here.pair.live is old
    assert old.phase is Phase.ESTABLISHED
    link.carry()
    await renewing
    assert old.phase is Phase.ENDED
    assert link.here.pair.live.stored.epoch == old.stored.epoch + 1
    assert link.here.places() == link.there.places() == (1, 1, 1)


async def test_a_gate_without_room_fails_the_initiator_and_leaves_nothing(
    link: Link, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link.here.gate.tables.sessions, "install", _full)
    connecting = await link.here.begin()
    link.carry()
    with pytest.raises(ResourceExhausted, match="no room"):
        await connecting
    assert link.here.places() == (0, 0, 0)
    # The peer was not told that it could go on.
    assert ("here", ACK) not in link.passed


async def test_a_gate_without_room_keeps_the_responder_silent(
    link: Link, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link.there.gate.tables.sessions, "install", _full)
    await link.here.begin()
    link.carry()
    assert link.passed == [("here", SYN)]
    assert link.there.places() == (0, 0, 0)


async def test_a_renewal_without_room_keeps_the_old_session(
    link: Link, monkeypatch: pytest.MonkeyPatch
):
    connecting = await link.here.begin()
    link.carry()
    await connecting
    old = link.here.pair.live
    monkeypatch.setattr(link.here.gate.tables.sessions, "install", _full)
    renewing = await link.here.begin()
    link.carry()
    with pytest.raises(ResourceExhausted):
        await renewing
    assert link.here.pair.live is old
    assert old.phase is Phase.ESTABLISHED
    assert link.here.places() == (1, 1, 1)


async def test_a_store_that_fails_leaves_no_session(link: Link, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(link.here.store, "put_session", fail)
    connecting = await link.here.begin()
    link.carry()
    with pytest.raises(Unavailable, match="cannot be put in place"):
        await connecting
    assert link.here.places() == (0, 0, 0)
    assert link.here.phase() is None


async def test_a_grant_made_during_the_handshake_waits_for_the_next_one(link: Link):
    """What was offered is what both sides reckon with."""
    connecting = await link.here.begin()
    link.here.store.set_grant(StandingGrant(link.here.remote.id, 1, 150))
    link.carry()
    view = await connecting
    assert [(state.flow, state.rx_granted) for state in view.flows] == [(0, 0), (1, 100)]
    assert link.there.pair.live.flows()[1].tx_granted == 100


async def test_a_session_that_the_gate_lost_ends(link: Link):
    connecting = await link.here.begin()
    link.carry()
    await connecting
    link.here.gate.tables.sessions.uninstall(link.here.remote.id, link.here.local.id)
    assert link.here.manager.verify() == 1
    assert link.here.places() == (0, 0, 0)
    assert link.here.manager.verify() == 0


@pytest.mark.parametrize("step", [3600, -3600])
async def test_a_clock_that_was_set_is_learned_anew(
    link: Link, step: int, caplog: pytest.LogCaptureFixture
):
    connecting = await link.here.begin()
    link.carry()
    await connecting
    link.here.wall_ahead += 14 * SECOND
    link.here.manager.verify()
    assert not link.here.outbox
    link.here.wall_ahead += step * SECOND
    link.here.manager.verify()
    assert "clock was set" in caplog.text
    link.carry()
    for node in (link.here, link.there):
        assert node.phase() is Phase.ESTABLISHED
        assert node.store.sessions()[0].epoch == 2
    # Each side expects the clock that the other has now; timestamps differ by a few ns.
    for node, peer in ((link.here, link.there), (link.there, link.here)):
        learned = node.store.sessions()[0].clock_offset
        assert abs(learned - peer.wall_ahead) < 1000
    link.here.manager.verify()
    assert not link.here.outbox


async def test_a_tick_that_fails_is_tried_again_and_not_at_once(
    link: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    connecting = await link.here.begin()
    link.carry()
    await connecting

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(link.here.pair.live, "tick", fail)
    before = asyncio.get_running_loop().time()
    link.wait(11)
    assert "session not kept up" in caplog.text
    timer = link.here.pair.timer
    assert timer.when() >= before + 0.01


@pytest.mark.parametrize(
    "frame", [b"", b"\0" * 13, b"\0" * 40, b"\xff" * 78, b"\0" * ETHERNET_HEADER_LEN + b"\0" * 64]
)
async def test_junk_is_counted_and_nothing_else(link: Link, frame: bytes):
    before = link.here.manager.refused
    link.here.cells.receiver(link.here.local.id, frame)
    assert link.here.manager.refused == before + 1
    assert not link.here.outbox


def _full(*_: object) -> None:
    raise ResourceExhausted("no room")


def test_the_namespace_of_fakes_is_complete():
    """The fake stands for LocalCells: what the manager asks of it, it has."""
    from assent.service.locals import LocalCells

    assert all(hasattr(LocalCells, name) for name in ("identity", "require_gated", "send"))
