# SPDX-License-Identifier: Apache-2.0
"""The desired state of a host, in SQLite.

Only the daemon's event loop uses a store, so a transaction is never interleaved with another. Every
commit reaches the disk before it returns (synchronous=FULL): what an API call acknowledged survives
a power cut. The exceptions are what sessions leave behind: they end with a boot, so it is enough
that it outlives the daemon.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assent.closing import Closing
from assent.covenant.consent import Consent
from assent.credit.policy import CreditPolicy, PolicyKind
from assent.errors import AlreadyExists, NotFound
from assent.service.bulk_records import BulkRecords
from assent.service.covenants.records import CovenantRecords
from assent.service.records import (
    HandshakeMemory,
    LocalCell,
    RemoteCell,
    StandingGrant,
    StoredPsk,
    StoredSession,
    WantedInterface,
    consent_of,
    spelled,
)
from assent.service.relay_records import RelayRecords
from assent.service.schema import migrate
from assent.service.static_records import StaticRecords
from assent.service.tokens import TokenRecords
from assent.wire.cellid import CellID

# SQLite's integers have a sign; a header's timestamp has not.
_INT_MAX = (1 << 63) - 1
_CELL = (
    "id, name, public_key, local, consent, mac, interface, key_file, observe, bare, negotiated, "
    "grant_shift, standby"
)
_SESSION = (
    "id, remote, local, epoch, initiator, mac, established_at, clock_offset, clock_ahead, mtu, lamp"
)
_GRANT = "remote, flow, window_blocks, lamp, held"

# What follows a cell that gets another id: everything but sessions and the memory of handshakes.
_CELL_REFERENCES = (
    ("psks", "remote"),
    ("grants", "remote"),
    ("covenants", "local"),
    ("covenant_gates", "local"),
    ("covenant_gates", "remote"),
    ("covenant_policies", "local"),
    ("tokens", "cell"),
    ("covenant_policies", "remote"),
)


class Store(Closing):
    """The tables of one daemon.

    Use it as a context manager. Statements commit by themselves; `transaction` binds several.

    Args:
        path: The database file; made, with its directory, where it is missing. Mode 0600 and 0700.

    Raises:
        SchemaError: The file was written by a later version.
        sqlite3.DatabaseError: The file is not a database, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its write-ahead log the mode of the database file, so this is enough.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._depth = 0
        self.bulk = BulkRecords(self._db)
        """Cells by the thousand."""
        self.static = StaticRecords(self._db)
        """The sessions that an orchestrator has set."""
        self.relay = RelayRecords(self._db)
        """What it keeps for the LWF relay."""
        self.covenants = CovenantRecords(self._db)
        """Covenants, the agents that made them, and what they say of pairs."""
        self.tokens = TokenRecords(self._db)
        """What applications may show to be lent rings."""
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            # Cells by the thousand touch every page of their tables: those are to be held in
            # memory, and copied from the log into the file once for many changes.
            self._db.execute("PRAGMA cache_size = -65536")  # KiB
            self._db.execute("PRAGMA wal_autocheckpoint = 32768")  # pages of 4 KiB
            self._db.execute("PRAGMA journal_size_limit = 16777216")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            # A deleted key must not linger in free pages.
            self._db.execute("PRAGMA secure_delete = ON")
            migrate(self._db)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[None]:
        """All or nothing: an exception inside takes back what was written. Nests by joining.

        Args:
            synced: Whether it is to survive a power cut, or only the daemon; that of the outermost
                one counts.
        """
        if self._depth:
            yield
            return
        if not synced:
            self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0
            if not synced:
                self._db.execute("PRAGMA synchronous = FULL")

    # Cells

    def add_local(self, cell: LocalCell) -> None:
        """Adds a cell of this host.

        Raises:
            AlreadyExists: Its name or its key is taken.
        """
        policy = int(cell.observe), 0, 0, None, cell.standby
        self._add_cell(cell, (1, None, None, cell.interface, str(cell.key_file), *policy))

    def add_remote(self, cell: RemoteCell) -> None:
        """Adds a known cell.

        Raises:
            AlreadyExists: Its name or its key is taken.
        """
        consent, negotiated = spelled(cell.consent)
        policy = int(cell.observe), int(cell.bare), negotiated, cell.grant_shift, None
        self._add_cell(cell, (0, consent, cell.mac, None, None, *policy))

    def _add_cell(self, cell: LocalCell | RemoteCell, rest: tuple[object, ...]) -> None:
        taken = self._db.execute(
            "SELECT name, id FROM cells WHERE name = ? OR id = ? OR public_key = ?",
            (cell.name, bytes(cell.id), cell.public_key),
        ).fetchone()
        if taken is not None:
            by_name = taken[0] == cell.name
            raise AlreadyExists(
                f"name: a cell named {cell.name!r} exists"
                if by_name
                else f"public_key: it is the key of cell {taken[0]!r}"
            )
        self._db.execute(
            f"INSERT INTO cells ({_CELL}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (bytes(cell.id), cell.name, cell.public_key, *rest),
        )

    def cell(self, ref: CellID | str) -> LocalCell | RemoteCell:
        """A cell by its id or name.

        Raises:
            NotFound: There is none.
        """
        column, value = ("name", ref) if isinstance(ref, str) else ("id", bytes(ref))
        row = self._db.execute(
            f"SELECT {_CELL} FROM cells WHERE {column} = ?",  # noqa: S608
            (value,),
        ).fetchone()
        if row is None:
            shown = repr(ref) if isinstance(ref, str) else str(ref)
            raise NotFound(f"no cell {shown}")
        return _cell(row)

    def local(self, ref: CellID | str) -> LocalCell:
        """A local cell by its id or name.

        Raises:
            NotFound: There is none, or it is a remote one.
        """
        cell = self.cell(ref)
        if not isinstance(cell, LocalCell):
            raise NotFound(f"cell {cell.name!r} does not live on this host")
        return cell

    def remote(self, ref: CellID | str) -> RemoteCell:
        """A remote cell by its id or name.

        Raises:
            NotFound: There is none, or it is a local one.
        """
        cell = self.cell(ref)
        if not isinstance(cell, RemoteCell):
            raise NotFound(f"cell {cell.name!r} lives on this host, a remote one is needed")
        return cell

    def locals(self) -> list[LocalCell]:
        """All local cells, by name."""
        rows = self._db.execute(f"SELECT {_CELL} FROM cells WHERE local = 1 ORDER BY name")  # noqa: S608
        return [cell for cell in map(_cell, rows) if isinstance(cell, LocalCell)]

    def remotes(self) -> list[RemoteCell]:
        """All remote cells, by name."""
        rows = self._db.execute(f"SELECT {_CELL} FROM cells WHERE local = 0 ORDER BY name")  # noqa: S608
        return [cell for cell in map(_cell, rows) if isinstance(cell, RemoteCell)]

    def remotes_after(self, name: str, limit: int) -> list[RemoteCell]:
        """The first remote cells by name after `name`: for going through many in slices."""
        rows = self._db.execute(
            f"SELECT {_CELL} FROM cells WHERE local = 0 AND name > ? ORDER BY name LIMIT ?",  # noqa: S608
            (name, limit),
        )
        return [cell for cell in map(_cell, rows) if isinstance(cell, RemoteCell)]

    def counts(self) -> tuple[int, int]:
        """How many local and how many remote cells there are."""
        (local, total) = self._db.execute(
            "SELECT coalesce(sum(local), 0), count(*) FROM cells"
        ).fetchone()
        return local, total - local

    def locals_count(self) -> int:
        """How many local cells there are; cheap however many remote ones there are."""
        (count,) = self._db.execute("SELECT count(*) FROM cells WHERE local = 1").fetchone()
        return int(count)

    def set_consent(self, remote: CellID, consent: Consent) -> None:
        """Sets what the local cells agreed to.

        Raises:
            NotFound: There is no such remote cell.
        """
        done = self._db.execute(
            "UPDATE cells SET consent = ?, negotiated = ? WHERE id = ? AND local = 0",
            (*spelled(consent), bytes(remote)),
        )
        _expect_row(done, f"no remote cell {remote}")

    def set_policy(self, cell: CellID, *, observe: bool, bare: bool) -> None:
        """Sets what is relaxed for a cell; `bare` of a remote one only.

        Raises:
            NotFound: There is no such cell.
        """
        done = self._db.execute(
            "UPDATE cells SET observe = ?, bare = ? WHERE id = ?",
            (int(observe), int(bare), bytes(cell)),
        )
        _expect_row(done, f"no cell {cell}")

    def relaxed(self, limit: int) -> list[LocalCell | RemoteCell]:
        """The first cells, by name, for which something is relaxed."""
        rows = self._db.execute(
            f"SELECT {_CELL} FROM cells WHERE observe = 1 OR bare = 1 ORDER BY name LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [_cell(row) for row in rows]

    def relaxed_counts(self) -> tuple[int, int]:
        """How many cells are observed, and of how many bare frames are admitted."""
        observed, bare = self._db.execute(
            "SELECT coalesce(sum(observe), 0), coalesce(sum(bare), 0) FROM cells"
        ).fetchone()
        return observed, bare

    def set_mac(self, remote: CellID, mac: bytes) -> None:
        """Remembers where a remote cell was seen; a cell that is gone is not an error."""
        with self.transaction(synced=False):
            self._db.execute(
                "UPDATE cells SET mac = ? WHERE id = ? AND local = 0", (mac, bytes(remote))
            )

    def set_session_mac(self, remote: CellID, local: CellID, mac: bytes) -> None:
        """Remembers where the peer of a live session is; one that is gone is not an error."""
        with self.transaction(synced=False):
            self._db.execute(
                "UPDATE sessions SET mac = ? WHERE remote = ? AND local = ?",
                (mac, bytes(remote), bytes(local)),
            )

    def set_interface(self, local: CellID, interface: str, standby: str | None) -> None:
        """Sets where a local cell speaks, and where it goes when that fails.

        Raises:
            NotFound: There is no such local cell.
        """
        done = self._db.execute(
            "UPDATE cells SET interface = ?, standby = ? WHERE id = ? AND local = 1",
            (interface, standby, bytes(local)),
        )
        _expect_row(done, f"no local cell {local}")

    def set_grant_shift(self, remote: CellID, shift: int | None) -> None:
        """Sets the unit of grants that is asked of a remote cell; None = as it comes.

        Raises:
            NotFound: There is no such remote cell.
        """
        done = self._db.execute(
            "UPDATE cells SET grant_shift = ? WHERE id = ? AND local = 0", (shift, bytes(remote))
        )
        _expect_row(done, f"no remote cell {remote}")

    def delete_cell(self, cell: CellID) -> None:
        """Removes a cell with its keys, grants and sessions.

        Raises:
            NotFound: There is none.
        """
        done = self._db.execute("DELETE FROM cells WHERE id = ?", (bytes(cell),))
        _expect_row(done, f"no cell {cell}")

    def set_key_file(self, local: CellID, key_file: Path) -> None:
        """Sets where the private key of a local cell is kept.

        Raises:
            NotFound: There is no such local cell.
        """
        done = self._db.execute(
            "UPDATE cells SET key_file = ? WHERE id = ? AND local = 1",
            (str(key_file), bytes(local)),
        )
        _expect_row(done, f"no local cell {local}")

    def rename_cell(self, old: CellID, new: CellID, public_key: bytes) -> None:
        """Gives a cell another key, and with it another id; all that it has stays with it.

        Its sessions and handshakes are not among that: they were made with the old key.

        Raises:
            AlreadyExists: The key is another cell's.
            NotFound: There is no such cell.
        """
        taken = self._db.execute(
            "SELECT name FROM cells WHERE (id = ? OR public_key = ?) AND id != ?",
            (bytes(new), public_key, bytes(old)),
        ).fetchone()
        if taken is not None:
            raise AlreadyExists(f"public_key: it is the key of cell {taken[0]!r}")
        with self.transaction():
            # Until the commit, the rows that refer to the cell name one that is not there.
            self._db.execute("PRAGMA defer_foreign_keys = ON")
            done = self._db.execute(
                "UPDATE cells SET id = ?, public_key = ? WHERE id = ?",
                (bytes(new), public_key, bytes(old)),
            )
            _expect_row(done, f"no cell {old}")
            for table, column in _CELL_REFERENCES:
                self._db.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608
                    (bytes(new), bytes(old)),
                )
            for table in ("sessions", "static_sessions"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE remote = ?1 OR local = ?1",  # noqa: S608
                    (bytes(old),),
                )
            # What a remote cell of the old id has said stays known, should it come back.
            self._db.execute("DELETE FROM handshakes WHERE local = ?", (bytes(old),))

    # Interfaces

    def want_interface(self, wanted: WantedInterface) -> None:
        """Has an interface guarded, new or not."""
        self._db.execute(
            "INSERT OR REPLACE INTO interfaces (name, mode, up) VALUES (?, ?, ?)",
            (wanted.name, wanted.mode, int(wanted.up)),
        )

    def interfaces(self) -> list[WantedInterface]:
        """All interfaces that are to be guarded, by name."""
        rows = self._db.execute("SELECT name, mode, up FROM interfaces ORDER BY name")
        return [WantedInterface(name, mode, bool(up)) for name, mode, up in rows]

    def forget_interface(self, name: str) -> bool:
        """Has an interface guarded no longer. Returns whether it was."""
        done = self._db.execute("DELETE FROM interfaces WHERE name = ?", (name,))
        return done.rowcount > 0

    # Pre-shared keys

    def set_psk(self, psk: StoredPsk, *, replace: bool) -> None:
        """Sets the key shared with a remote cell.

        Raises:
            AlreadyExists: There is one, and it is not to be replaced.
        """
        if not replace and self.psk(psk.remote) is not None:
            raise AlreadyExists("psk: one is set; say `replace` to replace it")
        self._db.execute(
            "INSERT OR REPLACE INTO psks (remote, psk, set_at, covenant) VALUES (?, ?, ?, ?)",
            (bytes(psk.remote), psk.psk, psk.set_at, psk.covenant),
        )

    def psk(self, remote: CellID) -> StoredPsk | None:
        """The key shared with a remote cell."""
        row = self._db.execute(
            "SELECT remote, psk, set_at, covenant FROM psks WHERE remote = ?", (bytes(remote),)
        ).fetchone()
        return None if row is None else StoredPsk(CellID(row[0]), *row[1:])

    def psk_times(self) -> dict[CellID, int]:
        """When each key was set (Unix time, seconds); never the keys."""
        rows = self._db.execute("SELECT remote, set_at FROM psks")
        return {CellID(remote): set_at for remote, set_at in rows}

    def delete_psk(self, remote: CellID) -> None:
        """Removes the key shared with a remote cell.

        Raises:
            NotFound: There is none.
        """
        done = self._db.execute("DELETE FROM psks WHERE remote = ?", (bytes(remote),))
        _expect_row(done, "no pre-shared key is set for this cell")

    # Grants

    def set_grant(self, grant: StandingGrant) -> None:
        """Sets the window of a flow, new or not; what is held for a wider one stays held."""
        self._db.execute(
            "INSERT INTO grants (remote, flow, window_blocks, lamp, held) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (remote, flow) DO UPDATE SET window_blocks = excluded.window_blocks, "
            "lamp = excluded.lamp",
            (
                bytes(grant.remote),
                grant.flow,
                grant.window_blocks,
                int(grant.lamp),
                grant.held,
            ),
        )

    def set_held(self, remote: CellID, flow: int, blocks: int) -> None:
        """Remembers what may be promised still; a grant that is gone is not an error."""
        with self.transaction(synced=False):
            self._db.execute(
                "UPDATE grants SET held = ? WHERE remote = ? AND flow = ?",
                (blocks, bytes(remote), flow),
            )

    def grant(self, remote: CellID, flow: int) -> StandingGrant:
        """The window of a flow.

        Raises:
            NotFound: None is set.
        """
        row = self._db.execute(
            f"SELECT {_GRANT} FROM grants WHERE remote = ? AND flow = ?",  # noqa: S608
            (bytes(remote), flow),
        ).fetchone()
        if row is None:
            raise NotFound(f"no grant for flow {flow} of this cell")
        return _grant(row)

    def grants(self, remote: CellID | None = None) -> list[StandingGrant]:
        """All windows, or those of one remote cell, by flow."""
        rows = self._db.execute(
            f"SELECT {_GRANT} FROM grants "  # noqa: S608
            "WHERE ?1 IS NULL OR remote = ?1 ORDER BY remote, flow",
            (None if remote is None else bytes(remote),),
        )
        return [_grant(row) for row in rows]

    def standing_grants(self) -> list[StandingGrant]:
        """All windows but those that covenants set."""
        rows = self._db.execute(
            "SELECT grants.remote, flow, window_blocks, lamp, held FROM grants "
            "JOIN cells ON cells.id = grants.remote WHERE negotiated = 0 ORDER BY remote, flow"
        )
        return [_grant(row) for row in rows]

    def credit_policy(self) -> CreditPolicy:
        """How windows come about."""
        row = self._db.execute("SELECT kind, floor, ceiling FROM credit_policy").fetchone()
        return CreditPolicy() if row is None else CreditPolicy(PolicyKind(row[0]), *row[1:])

    def set_credit_policy(self, policy: CreditPolicy) -> None:
        """Sets how windows come about."""
        self._db.execute(
            "INSERT OR REPLACE INTO credit_policy (only, kind, floor, ceiling) VALUES (1, ?, ?, ?)",
            (policy.kind.value, policy.floor, policy.ceiling),
        )

    def delete_grant(self, remote: CellID, flow: int) -> None:
        """Removes the window of a flow.

        Raises:
            NotFound: None is set.
        """
        done = self._db.execute(
            "DELETE FROM grants WHERE remote = ? AND flow = ?", (bytes(remote), flow)
        )
        _expect_row(done, f"no grant for flow {flow} of this cell")

    # Sessions

    def put_session(self, session: StoredSession) -> None:
        """Records a live session; it takes the place of the pair's former one."""
        with self.transaction(synced=False):
            self._db.execute(
                f"INSERT OR REPLACE INTO sessions ({_SESSION}) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    session.id,
                    bytes(session.remote),
                    bytes(session.local),
                    session.epoch,
                    int(session.initiator),
                    session.mac,
                    session.established_at,
                    session.clock_offset,
                    session.clock_ahead,
                    session.mtu,
                    int(session.lamp),
                ),
            )

    def session(self, remote: CellID, local: CellID) -> StoredSession | None:
        """The live session of a pair."""
        row = self._db.execute(
            f"SELECT {_SESSION} FROM sessions WHERE remote = ? AND local = ?",  # noqa: S608
            (bytes(remote), bytes(local)),
        ).fetchone()
        return None if row is None else _session(row)

    def sessions(self) -> list[StoredSession]:
        """All live sessions, by id."""
        rows = self._db.execute(f"SELECT {_SESSION} FROM sessions ORDER BY id")  # noqa: S608
        return [_session(row) for row in rows]

    def next_session_id(self) -> int:
        """A number for a new session: from 1, 32 bits, each other than the ones before."""
        with self.transaction(synced=False):
            (ident,) = self._db.execute(
                "UPDATE session_ids SET last = last % 4294967295 + 1 RETURNING last"
            ).fetchone()
            return int(ident)

    def delete_session(self, remote: CellID, local: CellID) -> None:
        """Forgets the session of a pair; none is not an error."""
        with self.transaction(synced=False):
            self._db.execute(
                "DELETE FROM sessions WHERE remote = ? AND local = ?", (bytes(remote), bytes(local))
            )

    # Memory of handshakes

    def handshake(self, remote: CellID, local: CellID) -> HandshakeMemory:
        """What a pair's sessions left behind, static ones too; zeros where there was none."""
        row = self._db.execute(
            "SELECT coalesce(max(last_timestamp), 0), coalesce(max(newest_hail), 0), "
            "coalesce(max(last_epoch), 0) FROM (SELECT last_timestamp, newest_hail, last_epoch "
            "FROM handshakes WHERE remote = ?1 AND local = ?2 UNION ALL "
            "SELECT 0, 0, epoch FROM static_sessions WHERE remote = ?1 AND local = ?2)",
            (bytes(remote), bytes(local)),
        ).fetchone()
        return HandshakeMemory(*row)

    def remember_handshake(self, remote: CellID, local: CellID, memory: HandshakeMemory) -> None:
        """Raises what is remembered of a pair; no number ever falls.

        A time in the far future is kept at the limit of its column, which refuses all others too.
        """
        with self.transaction(synced=False):
            self._db.execute(
                "INSERT INTO handshakes (remote, local, last_timestamp, newest_hail, last_epoch) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (remote, local) DO UPDATE SET "
                "last_timestamp = max(last_timestamp, excluded.last_timestamp), "
                "newest_hail = max(newest_hail, excluded.newest_hail), "
                "last_epoch = max(last_epoch, excluded.last_epoch)",
                (
                    bytes(remote),
                    bytes(local),
                    min(memory.last_timestamp, _INT_MAX),
                    min(memory.newest_hail, _INT_MAX),
                    memory.last_epoch,
                ),
            )


def _cell(row: tuple[Any, ...]) -> LocalCell | RemoteCell:
    ident, name, public_key, local, consent, mac, interface, key_file, observe, bare, neg = row[:11]
    shift, standby = row[11:]
    if local:
        return LocalCell(
            CellID(ident), name, public_key, interface, Path(key_file), bool(observe), standby
        )
    return RemoteCell(
        CellID(ident),
        name,
        public_key,
        consent_of(consent, neg),
        mac,
        bool(observe),
        bool(bare),
        shift,
    )


def _grant(row: tuple[Any, ...]) -> StandingGrant:
    remote, flow, window, lamp, held = row
    return StandingGrant(CellID(remote), flow, window, bool(lamp), held)


def _session(row: tuple[Any, ...]) -> StoredSession:
    return StoredSession(
        id=row[0],
        remote=CellID(row[1]),
        local=CellID(row[2]),
        epoch=row[3],
        initiator=bool(row[4]),
        mac=row[5],
        established_at=row[6],
        clock_offset=row[7],
        clock_ahead=row[8],
        mtu=row[9],
        lamp=bool(row[10]),
    )


def _expect_row(done: sqlite3.Cursor, message: str) -> None:
    if done.rowcount == 0:
        raise NotFound(message)
