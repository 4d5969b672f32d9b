# SPDX-License-Identifier: Apache-2.0
"""service/sessions.py where covenants decide: two managers in one process, joined in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from assent.covenant.consent import Consent
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.errors import FailedPrecondition, InvalidArgument
from assent.identity.keys import Identity
from assent.service.covenants.records import StoredGate
from assent.service.escrow import Escrow
from assent.service.live import Dataplane
from assent.service.manifests import ManifestBoard
from assent.service.placement import Placement
from assent.service.reconciler import Reconciler
from assent.service.records import LocalCell, RemoteCell, StoredPsk
from assent.service.sessions import SessionManager
from assent.service.static_sessions import StaticSessions
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.control import MAX_BODY, ManifestItem
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE

from .conftest import eventually

LEFT, RIGHT = Identity.from_seed(b"\x01" * 32), Identity.from_seed(b"\x02" * 32)
SECOND = 1_000_000_000
TEXT = ManifestItem("a.txt", 1, bytes(32), content_type="text/plain")


@dataclass
class Sink:
    """Writes down what the sessions tell covenants."""

    said: list[tuple[Any, ...]] = field(default_factory=list)
    send: Callable[[object], None] | None = None

    def session_up(
        self, remote: CellID, local: CellID, room: int, send: Callable[[object], None]
    ) -> None:
        self.said.append(("up", remote, local, room))
        self.send = send

    def session_down(self, remote: CellID, local: CellID) -> None:
        self.said.append(("down", remote, local))

    def receive(self, remote: CellID, local: CellID, body: object) -> None:
        self.said.append(("body", body))


class Cells:
    """One local cell, whose frames go to the other side."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.receiver: Callable[[CellID, bytes], None] | None = None
        self.other: Cells | None = None

    def identity(self, cell: CellID) -> Identity:
        return self._identity

    def require_gated(self, cell: LocalCell) -> None:
        return

    def send(self, cell: CellID, mac: bytes, frame: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, frame)

    def _deliver(self, frame: bytes) -> None:
        other = self.other
        if other is not None and other.receiver is not None:
            header = EthernetHeader(b"\x02" * 6, b"\x06" * 6, ETHERTYPE).encode()
            other.receiver(other._identity.cell_id, header + frame)


class Side:
    """A host without a daemon: a store, a gate that nothing is attached to, and its sessions."""

    def __init__(self, root: Path, gate: Gate, us: Identity, peer: Identity) -> None:
        self.us, self.peer = us, peer
        self.root, self.gate = root, gate
        self.store = Store(root / "state.db")
        self.store.add_local(LocalCell(us.cell_id, "us", us.public_key, "lo", root / "unused.pem"))
        self.store.add_remote(
            RemoteCell(peer.cell_id, "peer", peer.public_key, Consent.COVENANT, b"\x06" * 6)
        )
        self.store.set_psk(StoredPsk(peer.cell_id, b"p" * 32, 1), replace=False)
        self.reconciler = Reconciler(self.store, gate)
        self.reconciler.apply_all()
        self.cells = Cells(us)
        self.sink = Sink()
        self.breaches: list[tuple[CellID, CellID, str]] = []
        self.board = ManifestBoard()
        self.sessions = self.manager()

    def manager(self) -> SessionManager:
        tables = self.gate.tables
        placement = Placement(
            self.store, tables.sessions, Escrow(self.root / "sessions"), self.root / "flows"
        )
        return SessionManager(
            self.store,
            placement,
            Dataplane(tables.flows),
            cast("Any", self.cells),
            self.board,
            StaticSessions(self.store, tables.sessions, tables.flows, placement),
            skew_limit=30 * SECOND,
            patience=300 * SECOND,
            covenants=self.sink,
            on_breach=lambda *what: self.breaches.append(what),
        )

    def agree(self, flows: dict[int, int], content_types: tuple[str, ...] = ()) -> None:
        """A covenant is in force."""
        handle = self.store.covenants.add(
            self.us.cell_id, 1, "covenanted", b"", durable=True, updated_at=1
        )
        gate = StoredGate(
            handle, self.us.cell_id, self.peer.cell_id, open=True, leased=False, flows=flows,
            rate=0, burst=0, payload_limit=0, content_types=content_types, windows=(),
            bound_from=0, bound_until=0, open_from=0, open_until=0,
        )  # fmt: skip
        self.store.covenants.put_gate(gate)

    async def connect(self, *, renew: bool = False) -> None:
        remote, local = self.store.remote("peer"), self.store.local("us")
        await self.sessions.connect(remote, local, renew=renew)

    async def announce(self, item: ManifestItem) -> None:
        await self.sessions.announce(self.store.remote("peer"), None, 1, (item,))


@dataclass
class Two:
    """Both sides."""

    left: Side
    right: Side


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    profile = replace(CHAPTER, sessions=16)
    async with AsyncExitStack() as stack:
        sides = []
        for name, us, peer in (("left", LEFT, RIGHT), ("right", RIGHT, LEFT)):
            gate = stack.enter_context(Gate.private(profile))
            side = Side(tmp_path / name, gate, us, peer)
            stack.callback(side.store.close)
            await stack.enter_async_context(side.sessions)
            sides.append(side)
        left, right = sides
        left.cells.other, right.cells.other = right.cells, left.cells
        yield Two(left, right)


async def joined(two: Two) -> Two:
    await two.left.connect()
    await eventually(lambda: two.right.sink.said, "the responder is told")
    return two


async def test_hands_are_shaken_without_a_covenant_and_no_flow_is_open(two: Two):
    await joined(two)
    (live,) = two.left.sessions.live_with(RIGHT.cell_id)
    assert [state.flow for state in live.flows()] == [0]
    assert not live.suspended


async def test_both_sides_are_told_of_a_session_and_of_its_room(two: Two):
    await joined(two)
    assert two.left.sink.said == [("up", RIGHT.cell_id, LEFT.cell_id, MAX_BODY)]
    assert two.right.sink.said == [("up", LEFT.cell_id, RIGHT.cell_id, MAX_BODY)]


@pytest.mark.parametrize("body", [{"part": b"x" * 700}, b"\x00" * (MAX_BODY - 3), [1, "two"]])
async def test_bodies_arrive_as_they_were_sent(two: Two, body: object):
    await joined(two)
    assert two.left.sink.send is not None
    two.left.sink.send(body)
    await eventually(lambda: len(two.right.sink.said) > 1, "a body arrives")
    assert two.right.sink.said[1:] == [("body", body)]


async def test_a_body_that_does_not_fit_is_refused_and_takes_no_number(two: Two):
    await joined(two)
    (live,) = two.left.sessions.live_with(RIGHT.cell_id)
    before = live.flows()
    assert two.left.sink.send is not None
    with pytest.raises(InvalidArgument):
        two.left.sink.send(b"x" * (MAX_BODY + 1))
    assert live.flows() == before


async def test_a_renewal_is_no_end_and_the_link_goes_on_over_it(two: Two):
    await joined(two)
    (before,) = two.left.sessions.live_with(RIGHT.cell_id)
    await two.left.connect(renew=True)
    (after,) = two.left.sessions.live_with(RIGHT.cell_id)
    assert after.stored.id != before.stored.id
    assert [what[0] for what in two.left.sink.said] == ["up"]
    assert two.left.sink.send is not None
    two.left.sink.send({"n": 1})
    await eventually(lambda: len(two.right.sink.said) > 1, "a body arrives")
    assert [what[0] for what in two.right.sink.said] == ["up", "body"]


async def test_a_session_goes_on_where_covenants_have_no_use_for_it(
    two: Two, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: object) -> None:
        raise InvalidArgument("room", "is too little")

    monkeypatch.setattr(two.left.sink, "session_up", refuse)
    await two.left.connect()
    assert len(two.left.sessions.live_with(RIGHT.cell_id)) == 1
    assert "no covenants over this session" in caplog.text


async def test_the_end_is_told_on_both_sides_and_what_is_sent_after_it_is_lost(two: Two):
    await joined(two)
    two.left.sessions.drop(RIGHT.cell_id, "enough", LEFT.cell_id)
    await eventually(lambda: len(two.right.sink.said) > 1, "the peer is told")
    assert two.left.sink.said[1:] == [("down", RIGHT.cell_id, LEFT.cell_id)]
    assert two.right.sink.said[1:] == [("down", LEFT.cell_id, RIGHT.cell_id)]
    assert two.left.sink.send is not None
    two.left.sink.send({"n": 1})
    await asyncio.sleep(0)
    assert len(two.right.sink.said) == 2


async def test_only_the_pair_that_is_named_is_dropped(two: Two):
    await joined(two)
    two.left.sessions.farewell(RIGHT.cell_id, CellID(b"o" * 16))
    two.left.sessions.drop(RIGHT.cell_id, "another pair", CellID(b"o" * 16))
    assert len(two.left.sessions.live_with(RIGHT.cell_id)) == 1


async def test_a_session_that_is_taken_over_is_told_too(two: Two):
    await joined(two)
    left = two.left
    async with left.manager():
        assert left.sink.said[1:] == [("up", RIGHT.cell_id, LEFT.cell_id, MAX_BODY)]


async def test_a_session_that_the_gate_has_lost_is_down(two: Two):
    await joined(two)
    two.left.gate.tables.sessions.uninstall(RIGHT.cell_id, LEFT.cell_id)
    assert two.left.sessions.verify() == 1
    assert two.left.sink.said[1:] == [("down", RIGHT.cell_id, LEFT.cell_id)]


async def test_handshakes_offer_what_governs_the_pair(two: Two):
    two.left.agree({1: 40, 3: 7})
    await joined(two)
    (live,) = two.left.sessions.live_with(RIGHT.cell_id)
    assert {state.flow: live.rx_window(state.flow) for state in live.flows()[1:]} == {1: 40, 3: 7}
    (peer,) = two.right.sessions.live_with(LEFT.cell_id)
    assert {state.flow: state.tx_granted for state in peer.flows()[1:]} == {1: 40, 3: 7}


async def test_a_manifest_within_the_terms_is_taken(two: Two):
    two.right.agree({1: 40}, ("text/*",))
    await joined(two)
    await two.left.announce(TEXT)
    assert two.right.breaches == []


async def test_content_that_the_terms_do_not_allow_is_not_acknowledged_and_told(
    two: Two, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assent.service.live.ANNOUNCE_PATIENCE", SECOND // 2)
    two.right.agree({1: 40}, ("text/*", "image/png"))
    await joined(two)
    with pytest.raises(TimeoutError, match="did not take the manifest"):
        await two.left.announce(replace(TEXT, content_type="image/jpeg"))
    assert two.right.breaches[0] == (
        LEFT.cell_id, RIGHT.cell_id, "announced content of type image/jpeg"
    )  # fmt: skip
    assert not two.right.board._pending


async def test_without_a_covenant_an_announcement_is_refused_without_blame(
    two: Two, monkeypatch: pytest.MonkeyPatch
):
    """The peer may not know yet that there is none."""
    monkeypatch.setattr("assent.service.live.ANNOUNCE_PATIENCE", SECOND // 2)
    two.right.agree({1: 40})
    await joined(two)
    two.right.store.covenants.delete_gates(1)
    with pytest.raises(TimeoutError):
        await two.left.announce(TEXT)
    assert two.right.breaches == []


async def test_quarantine_does_not_hold_silence_against_who_may_still_negotiate(two: Two):
    await joined(two)
    _quarantine(two.left, RIGHT)
    (live,) = two.left.sessions.live_with(RIGHT.cell_id)
    assert not live.suspended, "flow 0 passes"
    two.left.store.set_consent(RIGHT.cell_id, Consent.STANDING)
    two.left.sessions.suspend_again(RIGHT.cell_id)
    assert live.suspended
    with pytest.raises(FailedPrecondition, match="its answer would be refused"):
        await two.left.connect(renew=True)


def _quarantine(side: Side, peer: Identity) -> None:
    agent = UUID("018f4a5e-7c3b-8d2a-9e1f-0123456789ab")
    side.store.covenants.bind_agent(agent, peer.public_key)
    side.store.covenants.set_quarantine(agent, "flooding", 1)
    side.sessions.suspend_again(peer.cell_id)
