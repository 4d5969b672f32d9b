# SPDX-License-Identifier: Apache-2.0
"""A control plane that makes one change of covenants, to be killed while it does.

    python covenant_driver.py ROOT INSTANCE PIN_ROOT CHANGE

Prepares what the change needs, arms the fault that ASSENT_DRIVER_FAULT names, makes the change, and
says `done`. All parts are the daemon's own; there is no API, no socket, and no peer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from assent.covenant.consent import Consent
from assent.credit.ledger import Ledger
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.handshake.keys import SessionKeys
from assent.identity.keys import Identity
from assent.service.covenants.clocks import Clocks
from assent.service.covenants.gatekeeper import GateGrant, Gatekeeper, end_unfinished
from assent.service.escrow import Escrow
from assent.service.fabric import Guarded
from assent.service.faults import VARIABLE
from assent.service.key_files import KeyFiles
from assent.service.live import Dataplane
from assent.service.locals import LocalCells
from assent.service.manifests import ManifestBoard
from assent.service.placement import Placement
from assent.service.reconciler import Reconciler
from assent.service.records import LocalCell, RemoteCell, StoredPsk, StoredSession
from assent.service.sessions import SessionManager
from assent.service.static_sessions import StaticSessions
from assent.service.store import Store
from assent.wire.cellid import CellID

HOME, OTHER_HOME = Identity.from_seed(b"\x01" * 32), Identity.from_seed(b"\x02" * 32)
AWAY, ELSEWHERE = Identity.from_seed(b"\x03" * 32), Identity.from_seed(b"\x04" * 32)
AGENT = UUID("018f4a5e-7c3b-8d2a-9e1f-0123456789ab")
SECOND = 1_000_000_000


class Driver:
    """The parts of a daemon that covenants move."""

    def __init__(self, root: Path, gate: Gate, store: Store, stack: AsyncExitStack) -> None:
        self.store, self.gate, self.root, self.stack = store, gate, root, stack
        self.clocks = Clocks()
        self.ended = end_unfinished(store, self.clocks)
        self.reconciler = Reconciler(store, gate, self.clocks)
        self.reconciler.apply_all()

    async def start(self) -> None:
        store, gate = self.store, self.gate
        key_files = KeyFiles(self.root / "keys")
        key_files.settle(store.locals())
        cells = await self.stack.enter_async_context(LocalCells(store, Guarded(gate, store)))
        escrow = Escrow(self.root / "sessions")
        self.placement = Placement(store, gate.tables.sessions, escrow, self.root / "flows")
        statics = StaticSessions(store, gate.tables.sessions, gate.tables.flows, self.placement)
        self.key_files, self.cells = key_files, cells
        self.sessions = await self.stack.enter_async_context(
            SessionManager(
                store,
                self.placement,
                Dataplane(gate.tables.flows),
                cells,
                ManifestBoard(),
                statics,
                skew_limit=30 * SECOND,
                patience=300 * SECOND,
            )
        )
        ledger: Ledger[tuple[CellID, int]] = Ledger(1 << 20)
        ledger.settle({(one.remote, one.flow): one.window_blocks for one in store.grants()})
        self.keeper = Gatekeeper(
            store,
            self.reconciler,
            ledger,
            cells,
            self.sessions,
            key_files,
            gate.tables.config,
            self.clocks,
        )
        self.keeper.refresh()

    def introduce(self) -> None:
        path = self.key_files.path("home")
        HOME.save(path)
        with self.reconciler.change(local_cells=[HOME.cell_id], remotes=[AWAY.cell_id]):
            self.store.add_local(LocalCell(HOME.cell_id, "home", HOME.public_key, "eth0", path))
            self.store.add_remote(
                RemoteCell(AWAY.cell_id, "away", AWAY.public_key, Consent.COVENANT, None)
            )
            self.store.set_psk(StoredPsk(AWAY.cell_id, b"p" * 32, 1), replace=False)
        self.cells.add(self.store.local("home"), HOME, need_socket=False)
        self.keeper.bind_agent(AGENT, AWAY.public_key)

    def begin(self) -> int:
        return self.keeper.begin(HOME.cell_id, 7, "offer-sent", b"1", durable=True)

    def admit(self, handle: int, blocks: int = 100) -> None:
        grant = GateGrant(HOME.cell_id, AWAY.cell_id, {1: blocks}, leased=False)
        self.keeper.admit(handle, "covenanted", b"2", [grant])

    def put(self) -> StoredSession:
        """Puts a session of the pair in place."""
        keys = SessionKeys(1, b"a" * 32, b"b" * 16, b"c" * 32, b"d" * 16)
        stored = StoredSession(
            self.store.next_session_id(), AWAY.cell_id, HOME.cell_id, 1, True, b"\x02" * 6,
            1, 0, 0, 1500,
        )  # fmt: skip
        spec = SessionSpec(
            AWAY.cell_id, HOME.cell_id, stored.id, keys.rx_header, flows=(FlowSpec(1, 100, 100),)
        )
        self.placement.put(stored, keys, spec, None)
        return stored

    async def make(self, change: str) -> None:
        """Prepares a change, arms the fault, and makes the change."""
        handle = self.begin()
        if change != "admit":
            self.admit(handle)
        stored = None
        if change in {"close", "remove", "rekey-remote", "rekey-local"}:
            stored = self.put()
            # As after a restart: the session manager takes it over.
            await self.start()
        if change == "clear":
            self.keeper.quarantine(AGENT, "flooding")
        os.environ[VARIABLE] = os.environ.get("ASSENT_DRIVER_FAULT", "")
        if change == "admit":
            self.admit(handle)
        elif change == "adjust":
            grant = GateGrant(HOME.cell_id, AWAY.cell_id, {2: 9}, payload_limit=64, leased=False)
            self.keeper.adjust(handle, "covenanted", b"3", [grant])
        elif change == "close":
            self.keeper.close(handle, "terminated", b"3")
        elif change == "quarantine":
            self.keeper.quarantine(AGENT, "flooding")
        elif change == "clear":
            self.keeper.clear(AGENT)
        elif change == "rekey-remote":
            self.keeper.rekey_remote(AWAY.cell_id, ELSEWHERE.public_key)
        elif change == "rekey-local":
            self.keeper.rekey_local(HOME.cell_id, OTHER_HOME)
        elif change == "put":
            self.put()
        elif change == "remove" and stored is not None:
            self.placement.remove(stored)


async def main(root: Path, instance: str, pin_root: Path, change: str) -> None:
    profile = replace(CHAPTER, sessions=16)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(root / "state.db"))
        gate = stack.enter_context(Gate.open(instance, profile, pin_root))
        driver = Driver(root, gate, store, stack)
        await driver.start()
        driver.introduce()
        await driver.make(change)
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
