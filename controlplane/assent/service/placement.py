# SPDX-License-Identifier: Apache-2.0
"""The three places of a live session: escrow, gate and store, filled and emptied in a fixed order.

    put     escrow (keys)  ->  gate (one map update)  ->  store (public part)
    remove  gate  ->  store  ->  escrow

A crash between any two steps leaves nothing that `take_stock` could mistake for a whole session:
one is whole if all three places have it and agree. Everything else is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from assent.dataplane.tables import SessionEntry, SessionSpec, SessionTable
from assent.errors import LocalError, NotFound
from assent.handshake.keys import SessionKeys
from assent.service.definitions import Definitions
from assent.service.escrow import Escrow
from assent.service.faults import Point, reach
from assent.service.records import StoredSession
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placed:
    """A session that is in all three places."""

    stored: StoredSession
    keys: SessionKeys
    entry: SessionEntry


class Placement:
    """Puts sessions in place and removes them.

    Args:
        store: Keeps the public part.
        table: The gate's session table.
        escrow: Keeps the keys.
        lock_dir: Holds the lock of each flow that an application drives; made where it is missing.
        definitions: What is agreed on flows; it goes with the session. None where nobody defines
            any.
    """

    def __init__(
        self,
        store: Store,
        table: SessionTable,
        escrow: Escrow,
        lock_dir: Path,
        definitions: Definitions | None = None,
    ) -> None:
        self._store = store
        self._table = table
        self._escrow = escrow
        self._lock_dir = lock_dir
        self._definitions = definitions
        lock_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock_path(self, session: int, flow: int) -> Path:
        """Whoever drives a flow locks this file."""
        return self._lock_dir / f"{session}-{flow}.lock"

    def is_driven(self, session: int, flow: int) -> bool:
        """Whether somebody drives a flow, and therefore holds its lock."""
        try:
            fd = os.open(self.lock_path(session, flow), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Let go with the descriptor; shared, so that two who look are not in each other's way.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def put(
        self, stored: StoredSession, keys: SessionKeys, spec: SessionSpec, old: int | None
    ) -> Placed:
        """Puts a session in place; in the gate it takes the old one's place in one step.

        Args:
            stored: The public part.
            keys: The keys.
            spec: What the gate is told.
            old: Id of the pair's former session, whose keys go.

        Raises:
            ResourceExhausted: The gate has no room. All three places are as before.
            LocalError: The gate refuses for another reason. All three places are as before.
        """
        self._escrow.put(stored.id, stored.remote, stored.local, keys)
        reach(Point.PUT_ESCROWED)
        try:
            entry = self._table.install(spec)
        except BaseException:
            self._escrow.remove(stored.id)
            raise
        reach(Point.PUT_INSTALLED)
        try:
            self._store.put_session(stored)
            reach(Point.PUT_STORED)
        except BaseException:
            # The old session has left the gate already, so nothing is left to go back to.
            self.remove(stored)
            raise
        finally:
            if old is not None:
                self._forget_files(old)
        return Placed(stored, keys, entry)

    def remove(self, stored: StoredSession) -> None:
        """Removes a session from wherever it still is. Idempotent."""
        if self.entry(stored) is not None:
            self._table.uninstall(stored.remote, stored.local)
        reach(Point.REMOVE_UNINSTALLED)
        kept = self._store.session(stored.remote, stored.local)
        if kept is not None and kept.id == stored.id:
            self._store.delete_session(stored.remote, stored.local)
        reach(Point.REMOVE_DELETED)
        self._forget_files(stored.id)

    def entry(self, stored: StoredSession) -> SessionEntry | None:
        """The session's live entry in the gate; None where it is not there."""
        with contextlib.suppress(NotFound):
            entry = self._table.get(stored.remote, stored.local)
            if entry.established and entry.session_id == stored.id:
                return entry
        return None

    def take_stock(self, others: Set[int] = frozenset()) -> list[Placed]:
        """Finds the sessions that are whole, touches none of them, and removes what is not.

        Args:
            others: Ids of sessions in the gate that somebody else keeps; they are not touched.
        """
        whole = []
        for stored in self._store.sessions():
            keys = self._escrow.get(stored.id, stored.remote, stored.local)
            entry = self.entry(stored)
            if keys is None or entry is None or keys.epoch != stored.epoch:
                log.warning(
                    "session removed: it is not whole",
                    extra={
                        "session": stored.id,
                        "keys": keys is not None,
                        "in_gate": entry is not None,
                    },
                )
                self.remove(stored)
                continue
            whole.append(Placed(stored, keys, entry))
        ids = {placed.stored.id for placed in whole}
        self._clean_gate(ids | others)
        self._escrow.retain(ids)
        if self._definitions is not None:
            self._definitions.retain(ids)
        self._clean_locks(ids | others)
        return whole

    def _clean_gate(self, ids: set[int]) -> None:
        for entry in self._table.list():
            if entry.established and entry.session_id not in ids:
                self._uninstall_stray(entry.remote, entry.local)

    def _uninstall_stray(self, remote: CellID, local: CellID) -> None:
        try:
            self._table.uninstall(remote, local)
        except LocalError as error:
            log.error("stray session stays in the gate", extra={"reason": str(error)})
        else:
            log.warning("stray session removed from the gate", extra={"remote": str(remote)})

    def _clean_locks(self, ids: set[int]) -> None:
        for path in self._lock_dir.glob("*.lock"):
            ident = path.name.partition("-")[0]
            if not (ident.isdecimal() and int(ident) in ids):
                path.unlink(missing_ok=True)

    def forget_locks(self, ids: Set[int]) -> None:
        """Removes the locks of sessions that are gone."""
        for path in self._lock_dir.glob("*.lock"):
            ident = path.name.partition("-")[0]
            if ident.isdecimal() and int(ident) in ids:
                path.unlink(missing_ok=True)

    def _forget_files(self, session: int) -> None:
        self._escrow.remove(session)
        if self._definitions is not None:
            self._definitions.remove(session)
        for path in self._lock_dir.glob(f"{session}-*.lock"):
            path.unlink(missing_ok=True)
