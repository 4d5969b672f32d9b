# SPDX-License-Identifier: Apache-2.0
"""Cells by the thousand: what the store keeps of them, read and written set by set."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from assent.service.records import RemoteCell, StandingGrant, StoredPsk, spelled

# Values that one statement takes; SQLite's own limit is 32,766.
_AT_ONCE: Final = 4096
_WANTED: Final = (
    "SELECT c.id, c.name, iif(c.negotiated, 'covenant', c.consent), c.observe, c.bare, "
    "p.psk, s.local, s.guard FROM cells c "
    "LEFT JOIN psks p ON p.remote = c.id LEFT JOIN static_sessions s ON s.remote = c.id "
    "WHERE c.local = 0"
)


@dataclass(slots=True)  # not frozen: a sweep makes one of every cell, and that takes twice as long
class WantedRow:
    """What the session table should have of a remote cell.

    Attributes:
        remote: its id, 16 bytes.
        name: its name.
        consent: the value of a Consent.
        observe, bare: what is relaxed for it.
        psk: 32 bytes; with one, there is a pair with each local cell.
        static_local: the local cell with which it has a static session; with that one there is a
            pair in any case. 16 bytes.
        guard: stands for the pre-shared key where there is none.
    """

    remote: bytes
    name: str
    consent: str
    observe: int
    bare: int
    psk: bytes | None = field(repr=False)
    static_local: bytes | None
    guard: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownCell:
    """A cell whose name or id is taken."""

    id: bytes
    name: str
    is_local: bool


class BulkRecords:
    """Many rows of a store's database; transactions are the store's.

    Args:
        db: The store's connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # Reading

    def wanted_after(self, name: str, limit: int) -> list[WantedRow]:
        """The first remote cells by name after `name`: for going through many in slices."""
        rows = self._db.execute(f"{_WANTED} AND c.name > ? ORDER BY c.name LIMIT ?", (name, limit))
        return [WantedRow(*row) for row in rows]

    def wanted_of(self, remotes: Iterable[bytes]) -> list[WantedRow]:
        """The remote cells of these ids; those that are not there are left out."""
        rows = self._in(f"{_WANTED} AND c.id IN", remotes)
        return [WantedRow(*row) for row in rows]

    def partners_of(self, remotes: Iterable[bytes]) -> dict[bytes, tuple[bool, bytes | None]]:
        """With whom remote cells have pairs, by id; those that are not there are left out.

        Returns:
            Whether with all local cells; and if not, with which one, or None.
        """
        rows = self._in(
            "SELECT c.id, p.remote IS NOT NULL, s.local FROM cells c "
            "LEFT JOIN psks p ON p.remote = c.id LEFT JOIN static_sessions s ON s.remote = c.id "
            "WHERE c.local = 0 AND c.id IN",
            remotes,
        )
        return {ident: (bool(with_all), with_one) for ident, with_all, with_one in rows}

    def known(self, names: Iterable[str], ids: Iterable[bytes]) -> list[KnownCell]:
        """The cells that have one of these names or ids."""
        columns = "SELECT id, name, local FROM cells WHERE"
        found = {row[0]: row for row in self._in(f"{columns} name IN", names)}
        found |= {row[0]: row for row in self._in(f"{columns} id IN", ids)}
        return [KnownCell(ident, name, bool(local)) for ident, name, local in found.values()]

    def last_epochs(self, remotes: Iterable[bytes]) -> dict[tuple[bytes, bytes], int]:
        """The newest epoch that each pair (remote, local) has used; it outlives the cell.

        Not that of a static session that is there: its row tells it, until that is deleted.
        """
        rows = self._in("SELECT remote, local, last_epoch FROM handshakes WHERE remote IN", remotes)
        return {(remote, local): epoch for remote, local, epoch in rows}

    # Writing

    def add_remotes(self, cells: Iterable[RemoteCell]) -> None:
        """Adds remote cells; none of their names, ids and keys is taken."""
        self._db.executemany(
            "INSERT INTO cells (id, name, public_key, local, consent, negotiated, mac, observe, "
            "bare) VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)",
            [
                (
                    cell.id.raw,
                    cell.name,
                    cell.public_key,
                    *spelled(cell.consent),
                    cell.mac,
                    int(cell.observe),
                    int(cell.bare),
                )
                for cell in cells
            ],
        )

    def delete_cells(self, ids: Iterable[bytes]) -> None:
        """Removes cells with their keys, grants and sessions."""
        self._db.executemany("DELETE FROM cells WHERE id = ?", [(ident,) for ident in ids])

    def add_psks(self, psks: Iterable[StoredPsk]) -> None:
        """Adds pre-shared keys of cells that have none."""
        self._db.executemany(
            "INSERT INTO psks (remote, psk, set_at) VALUES (?, ?, ?)",
            [(psk.remote.raw, psk.psk, psk.set_at) for psk in psks],
        )

    def add_grants(self, grants: Iterable[StandingGrant]) -> None:
        """Adds windows of flows that have none."""
        self._db.executemany(
            "INSERT INTO grants (remote, flow, window_blocks) VALUES (?, ?, ?)",
            [(grant.remote.raw, grant.flow, grant.window_blocks) for grant in grants],
        )

    def next_session_ids(self, count: int) -> list[int]:
        """Numbers for new sessions; see Store.next_session_id."""
        (last,) = self._db.execute("SELECT last FROM session_ids").fetchone()
        taken = [(last + i) % 0xFFFFFFFF + 1 for i in range(count)]
        if taken:
            self._db.execute("UPDATE session_ids SET last = ?", (taken[-1],))
        return taken

    def _in(self, statement: str, values: Iterable[object]) -> Iterator[tuple[Any, ...]]:
        for part in _parts(values):
            marks = ",".join("?" * len(part))
            yield from self._db.execute(f"{statement} ({marks})", part)


def _parts(values: Iterable[object]) -> Iterator[Sequence[object]]:
    left = iter(values)
    while part := tuple(islice(left, _AT_ONCE)):
        yield part
