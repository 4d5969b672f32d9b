# SPDX-License-Identifier: Apache-2.0
"""Static sessions at work: sessions whose keys an orchestrator has handed to both sides.

They stand in the gate and in the store, and nowhere else: no object and no timer for each. The gate
takes one in before the store does (see provisioner.py), so what the store has was live once:

    in the gate, under its id     it is live, and nothing of it is ever touched: its sequence
                                  numbers and replay windows go on
    not in the gate               it is lost, after a reboot or by another hand. It is not put
                                  back: its numbers would begin at 1 again under keys that have
                                  been used, so nonces would repeat, and what was captured would be
                                  admitted once more. Its keys are erased; it needs new ones, in a
                                  later epoch

Nothing is sent on flow 0, and nothing is taken there: no heartbeats, no manifests, no farewell. Who
has made both ends removes both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.dataplane.tables import FlowTable, SessionEntry, SessionTable
from assent.service.live import FlowState, flow_states
from assent.service.placement import Placement
from assent.service.static_records import StaticSession
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

_SLICE: Final = 1024


@dataclass(frozen=True, slots=True)
class StaticView:
    """A static session and its flows; without any where it is lost."""

    session: StaticSession
    entry: SessionEntry | None
    flows: tuple[FlowState, ...]


class StaticSessions:
    """The static sessions of a daemon.

    Args:
        store: Keeps them.
        table: The gate's sessions.
        flows: The gate's flows.
        placement: Keeps the locks of flows.
    """

    def __init__(
        self, store: Store, table: SessionTable, flows: FlowTable, placement: Placement
    ) -> None:
        self._store = store
        self._table = table
        self._flows = flows
        self._placement = placement

    def take_stock(self) -> set[int]:
        """Finds those that the gate has; all others are lost. Returns the ids of those it has."""
        for _ in self._steps():
            pass
        return self._store.static.ids()

    async def sweep(self) -> None:
        """The same, a slice at a time, while others work."""
        steps = self._steps()
        while True:
            started = time.monotonic()
            if next(steps, self) is self:
                return
            # A fifth of one CPU at most, however many there are.
            await asyncio.sleep(4 * (time.monotonic() - started))

    def count(self) -> int:
        """How many are live."""
        return self._store.static.count()

    def views(self) -> Iterator[list[StaticView]]:
        """All of them, lost ones too, in slices: others may work between two of them."""
        after = b""
        while page := self._store.static.after(after, _SLICE):
            after = page[-1].stored.remote.raw
            yield [self._view(session) for session in page]

    def find(self, remote: CellID, local: CellID | None = None) -> StaticView | None:
        """That of a remote cell, lost or not; of a local cell where one is named."""
        found = self._store.static.get(remote)
        if found is None or local not in (None, found.stored.local):
            return None
        return self._view(found)

    def remove(self, remote: CellID) -> bool:
        """Ends that of a remote cell, here and now. Returns whether there was one."""
        found = self._store.static.get(remote)
        if found is None:
            return False
        if self._entry(found) is not None:
            self._table.uninstall(remote, found.stored.local)
        self._store.static.delete(remote)
        self._placement.forget_locks({found.stored.id})
        log.info("static session removed", extra={"session": found.stored.id})
        return True

    def replaced(self, remote: CellID, local: CellID) -> None:
        """A handshake has put another session in the place of a pair's static one."""
        found = self._store.static.get(remote)
        if found is not None and found.stored.local == local:
            self._store.static.delete(remote)
            self._placement.forget_locks({found.stored.id})
            log.info("static session replaced", extra={"session": found.stored.id})

    def _view(self, session: StaticSession) -> StaticView:
        entry = self._entry(session)
        flows = () if entry is None else tuple(flow_states(self._flows, entry))
        return StaticView(session, entry, flows)

    def _entry(self, session: StaticSession) -> SessionEntry | None:
        if session.is_lost:
            return None
        return self._placement.entry(session.stored)

    def _steps(self) -> Iterator[None]:
        after = b""
        while page := self._store.static.live_after(after, _SLICE):
            after = page[-1][0]
            pairs = [(CellID(remote), CellID(local), ident) for remote, local, ident in page]
            alive = self._table.live_many(pairs)
            gone = [pair for pair, lives in zip(pairs, alive, strict=True) if not lives]
            if gone:
                self._lose(gone)
            yield

    def _lose(self, gone: list[tuple[CellID, CellID, int]]) -> None:
        lost = []
        for remote, local, ident in gone:
            if self._store.session(remote, local) is not None:
                # A handshake was put in its place, and a crash came between.
                self._store.static.delete(remote)
            else:
                lost.append((remote, ident))
        with self._store.transaction():
            self._store.static.lose([remote.raw for remote, _ in lost])
        self._placement.forget_locks({ident for _, _, ident in gone})
        if lost:
            log.warning(
                "static sessions lost by the gate: they need new keys in a later epoch",
                extra={"count": len(lost), "first": str(lost[0][0])},
            )
