# SPDX-License-Identifier: Apache-2.0
"""The seed's state table and its table of control blocks, as the session manager keeps them.

Two managers joined in memory, see test_handshakes.py; frames pass one leg at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assent.dataplane.profiles import CHAPTER, DEEP_SPACE
from assent.errors import ResourceExhausted
from assent.handshake.utcp import State, Timers
from assent.service.handshakes import Handshakes, Terms
from assent.service.sessions import ControlBlock
from assent.wire.fabric import Flags, Header

from .test_handshakes import ACK, SECOND, SYN, SYN_ACK, Link, Node, two_nodes

DATA, FIN = Flags.DATA, Flags.FIN
FIN_ACK = Flags.FIN | Flags.ACK
HALF_OPEN_SECONDS = 30
SILENT_SECONDS = 300


@dataclass
class Stage(Link):
    """The link, and what has been begun on it."""

    here: Node
    there: Node
    passed: list[tuple[str, Flags]] = field(default_factory=list)
    tasks: list[asyncio.Task[object]] = field(default_factory=list)

    def leg(self, sender: Node) -> None:
        """What one side has to send reaches the other."""
        receiver = self.there if sender is self.here else self.here
        frames, sender.outbox[:] = list(sender.outbox), []
        for _, frame in frames:
            receiver.receive(frame, sender.mac)

    async def do(self, step: str) -> None:
        """One step of a row's history, as seen from `here`."""
        here, there = self.here, self.there
        match step:
            case "connect()":
                self.tasks.append(await here.begin())
            case "they connect()":
                self.tasks.append(await there.begin())
            case "send":
                self.leg(here)
            case "recv":
                self.leg(there)
            case "close()":
                closing = asyncio.ensure_future(here.manager.close(here.remote, here.local.id))
                self.tasks.append(closing)
                await asyncio.sleep(0)
            case "they close()":
                self.tasks.append(
                    asyncio.ensure_future(there.manager.close(there.remote, there.local.id))
                )
                await asyncio.sleep(0)
            case "they beat":
                there.pair.live.beat(self.here.clock.now)
            case "silence":
                self.there.outbox.clear()
                for _ in range(SILENT_SECONDS):
                    self.wait(1)
                    self.there.outbox.clear()
                    self.here.outbox.clear()
            case "30 s":
                for _ in range(HALF_OPEN_SECONDS):
                    self.wait(1)
                    self.there.outbox.clear()
                    self.here.outbox[:-1] = []
            case _:
                raise AssertionError(step)

    def state(self, node: Node | None = None) -> State:
        found = (node or self.here).manager.control_blocks()
        return found[0].state if found else State.CLOSED

    def sent(self) -> list[Flags]:
        """Kinds of frames that wait to leave `here`."""
        return [Header.decode(frame).flags & ~Flags.BLOCK for _, frame in self.here.outbox]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with two_nodes(tmp_path) as nodes:
        made = Stage(*nodes)
        yield made
        for task in made.tasks:
            task.cancel()
            with contextlib.suppress(BaseException):
                await task


UP = ["connect()", "send", "recv", "send"]
ROWS = [
    ("CLOSED: connect()", [], "connect()", State.SYN_SENT, [SYN]),
    ("SYN_SENT: recv SYN-ACK", ["connect()", "send"], "recv", State.ESTABLISHED, [ACK]),
    ("CLOSED: recv SYN", ["they connect()"], "recv", State.SYN_RCVD, [SYN_ACK]),
    ("SYN_RCVD: recv ACK", ["they connect()", "recv", "send"], "recv", State.ESTABLISHED, []),
    ("ESTABLISHED: recv DATA", [*UP, "they beat"], "recv", State.ESTABLISHED, []),
    ("ESTABLISHED: close()", UP, "close()", State.FIN_WAIT, [FIN]),
    ("ESTABLISHED: recv FIN", [*UP, "they close()"], "recv", State.CLOSED, [FIN_ACK]),
    ("FIN_WAIT: recv ACK", [*UP, "close()", "send"], "recv", State.CLOSED, []),
    ("SYN_SENT: 30 s timeout", ["connect()", "send"], "30 s", State.CLOSED, None),
    ("SYN_RCVD: 30 s timeout", ["they connect()", "recv"], "30 s", State.CLOSED, None),
    ("ESTABLISHED: silence", UP, "silence", State.CLOSED, None),
    ("FIN_WAIT: 30 s timeout", [*UP, "close()"], "30 s", State.CLOSED, None),
]


@pytest.mark.parametrize(
    ("before", "event", "after", "action"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
async def test_each_row_of_the_seed_s_table(
    stage: Stage, before: list[str], event: str, after: State, action: list[Flags] | None
):
    for step in before:
        await stage.do(step)
    if event == "recv":
        stage.here.outbox.clear()
    await stage.do(event)
    assert stage.state() is after
    if action is not None:
        assert stage.sent() == action
    if after is State.CLOSED:
        # The control block is cleaned up, and the gate knows of no session.
        assert stage.here.manager.control_blocks() == []
        assert stage.here.places() == (0, 0, 0)
    if after is State.ESTABLISHED:
        # The cell is registered where its frames came from.
        assert stage.here.store.remote(stage.here.remote.id).mac == stage.there.mac


async def test_a_control_block_has_what_the_seed_s_has(stage: Stage):
    for step in UP:
        await stage.do(step)
    stage.here.pair.live.beat(stage.here.clock.now)
    (block,) = stage.here.manager.control_blocks()
    assert isinstance(block, ControlBlock)
    assert (block.state, block.remote.id) == (State.ESTABLISHED, stage.there.identity.cell_id)
    # Flow 0 begins anew with each session; the gate, which counts arrivals, is not in this rig.
    assert (block.local_seq, block.remote_seq, block.dkh_trust) == (2, 1, 0)
    assert block.last_active > 0


async def test_a_half_open_block_counts_handshake_frames(stage: Stage):
    await stage.do("connect()")
    (block,) = stage.here.manager.control_blocks()
    assert (block.state, block.local_seq, block.remote_seq) == (State.SYN_SENT, 2, 1)


class TestRoom:
    """A table of one block."""

    async def test_no_more_than_the_profile_says(self, stage: Stage):
        for step in UP:
            await stage.do(step)
        stage.here.manager._connections = 1
        pair = stage.here.manager._pair(stage.here.remote, stage.there.local.id)
        with pytest.raises(ResourceExhausted, match="there are 1 connections"):
            stage.here.manager._make_room(pair)
        assert stage.state() is State.ESTABLISHED
        assert stage.here.places() == (1, 1, 1)

    async def test_one_that_is_silent_makes_way(self, stage: Stage):
        for step in UP:
            await stage.do(step)
        stage.here.manager._connections = 1
        stage.here.clock.now += HALF_OPEN_SECONDS * SECOND
        pair = stage.here.manager._pair(stage.here.remote, stage.there.local.id)
        stage.here.manager._make_room(pair)
        assert stage.here.manager.control_blocks() == []
        assert stage.here.places() == (0, 0, 0)

    async def test_a_renewal_needs_no_more_room(self, stage: Stage):
        for step in UP:
            await stage.do(step)
        stage.here.manager._connections = 1
        stage.here.manager._make_room(stage.here.pair)
        assert stage.state() is State.ESTABLISHED

    def test_the_chapter_has_the_seed_s_sizes(self):
        assert (CHAPTER.connections, CHAPTER.sessions) == (16, 64)


class TestAddress:
    """A peer is where its newest authentic frame came from."""

    NEW = b"\x02\x00\x00\x00\x00\x77"

    async def up(self, stage: Stage) -> tuple[bytes, bytes]:
        """In session; two heartbeats of the peer's, the older first."""
        for step in UP:
            await stage.do(step)
        stage.here.outbox.clear()
        beats = []
        for _ in range(2):
            stage.there.pair.live.beat(stage.there.clock.now)
            ((_, frame),) = stage.there.outbox
            beats.append(frame)
            stage.there.outbox.clear()
        return beats[0], beats[1]

    def known(self, stage: Stage) -> tuple[bytes | None, bytes | None, bytes]:
        here = stage.here
        stored = here.store.session(here.remote.id, here.local.id)
        assert stored is not None
        return here.pair.mac, here.store.remote(here.remote.id).mac, stored.mac

    async def test_it_follows(self, stage: Stage):
        _, newer = await self.up(stage)
        stage.here.receive(newer, self.NEW)
        assert self.known(stage) == (self.NEW,) * 3
        stage.here.pair.live.beat(stage.here.clock.now)
        assert stage.here.outbox[-1][0] == self.NEW

    async def test_an_older_frame_moves_nobody(self, stage: Stage):
        older, newer = await self.up(stage)
        stage.here.receive(newer, self.NEW)
        stage.here.receive(older, stage.there.mac)
        assert self.known(stage) == (self.NEW,) * 3

    async def test_a_forged_frame_moves_nobody(self, stage: Stage):
        _, newer = await self.up(stage)
        before = self.known(stage)
        forged = newer[:-1] + bytes([newer[-1] ^ 1])
        stage.here.receive(forged, self.NEW)
        assert self.known(stage) == before
        assert stage.here.manager.refused == 1

    async def test_a_group_address_is_nobody_s(self, stage: Stage):
        _, newer = await self.up(stage)
        before = self.known(stage)
        stage.here.receive(newer, b"\x03" + self.NEW[1:])
        assert self.known(stage) == before

    async def test_who_has_moved_tells_everybody_on_the_link_until_it_is_answered(
        self, stage: Stage
    ):
        await self.up(stage)
        heard = []
        stage.here.manager.news.moved = lambda *what: heard.append(what)  # type: ignore[method-assign]
        stage.here.manager.moved(stage.here.local.id)
        assert {mac for mac, _ in stage.here.outbox} == {b"\xff" * 6}
        assert heard[0][:2] == (stage.here.local.id, "lo")
        stage.leg(stage.here)
        stage.wait(0)
        stage.leg(stage.here)
        stage.leg(stage.there)
        stage.here.pair.live.beat(stage.here.clock.now)
        assert stage.here.outbox[-1][0] == stage.there.mac


async def test_a_session_lives_over_twenty_minutes_of_round_trip(stage: Stage):
    """Ten minutes either way, in steps of a minute: hands are shaken, and heartbeats are enough."""
    for node in (stage.here, stage.there):
        manager = node.manager
        manager._terms = Terms(Timers(DEEP_SPACE.patience_ns))
        manager._patience = DEEP_SPACE.peer_timeout_ns
        manager._handshakes = Handshakes(node.store, manager._wall, terms=manager._terms)
    await stage.do("connect()")
    flying: list[tuple[int, Node, bytes, bytes]] = []
    states = []
    for minute in range(180):
        for sender, receiver in ((stage.here, stage.there), (stage.there, stage.here)):
            flying += [(minute + 10, receiver, frame, sender.mac) for _, frame in sender.outbox]
            sender.outbox.clear()
        for _, receiver, frame, mac in [one for one in flying if one[0] == minute]:
            receiver.receive(frame, mac)
        flying = [one for one in flying if one[0] > minute]
        states.append((stage.state(), stage.state(stage.there)))
        stage.wait(60)
    assert states[9] == (State.SYN_SENT, State.CLOSED)
    assert states[19] == (State.SYN_SENT, State.SYN_RCVD)
    # An answer leaves a minute after what it answers has come.
    assert states[21] == (State.ESTABLISHED, State.SYN_RCVD)
    assert set(states[32:]) == {(State.ESTABLISHED, State.ESTABLISHED)}
