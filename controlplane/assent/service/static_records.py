# SPDX-License-Identifier: Apache-2.0
"""What the store keeps of static sessions: those whose keys an orchestrator has set."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from assent.handshake.keys import HEADER_KEY_LEN, PAYLOAD_KEY_LEN, SessionKeys
from assent.service.records import StoredSession
from assent.wire.cellid import CellID

_COLUMNS: Final = (
    "remote, local, id, epoch, keys, digest, guard, mac, established_at, clock_offset, "
    "clock_ahead, mtu"
)
_AT_ONCE: Final = 4096


@dataclass(frozen=True, slots=True)
class StaticSession:
    """A static session.

    Attributes:
        stored: its public part.
        keys: its keys; None once the gate has lost it.
        digest: tells one that is repeated, 32 bytes: the first half is of the keys, the second of
            all the rest.
        guard: stands for the pair's pre-shared key where there is none, 32 bytes.
    """

    stored: StoredSession
    keys: SessionKeys | None = field(repr=False)
    digest: bytes = field(repr=False)
    guard: bytes = field(repr=False)

    @property
    def is_lost(self) -> bool:
        """Whether the gate has lost it, so that it needs other keys."""
        return self.keys is None


class StaticRecords:
    """The table of static sessions in a store's database; transactions are the store's.

    Args:
        db: The store's connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, sessions: Iterable[StaticSession]) -> None:
        """Adds sessions of remote cells that have none."""
        marks = ",".join("?" * len(_COLUMNS.split(",")))
        self._db.executemany(
            f"INSERT INTO static_sessions ({_COLUMNS}) VALUES ({marks})",  # noqa: S608
            [
                (
                    one.stored.remote.raw,
                    one.stored.local.raw,
                    one.stored.id,
                    one.stored.epoch,
                    None if one.keys is None else _packed(one.keys),
                    one.digest,
                    one.guard,
                    one.stored.mac,
                    one.stored.established_at,
                    one.stored.clock_offset,
                    one.stored.clock_ahead,
                    one.stored.mtu,
                )
                for one in sessions
            ],
        )

    def get(self, remote: CellID) -> StaticSession | None:
        """The static session of a remote cell, lost or not."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM static_sessions WHERE remote = ?",  # noqa: S608
            (remote.raw,),
        ).fetchone()
        return None if row is None else _session(row)

    def of(self, remotes: list[bytes]) -> dict[bytes, StaticSession]:
        """Those of some remote cells."""
        found: dict[bytes, StaticSession] = {}
        for at in range(0, len(remotes), _AT_ONCE):
            part = remotes[at : at + _AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM static_sessions WHERE remote IN ({marks})",  # noqa: S608
                part,
            )
            found.update((row[0], _session(row)) for row in rows)
        return found

    def after(self, remote: bytes, limit: int) -> list[StaticSession]:
        """The first by id of the remote cell after `remote`: for going through many in slices."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM static_sessions WHERE remote > ? "  # noqa: S608
            "ORDER BY remote LIMIT ?",
            (remote, limit),
        )
        return [_session(row) for row in rows]

    def live_after(self, remote: bytes, limit: int) -> list[tuple[bytes, bytes, int]]:
        """Like `after`, of those that are not lost: (remote, local, session id)."""
        rows = self._db.execute(
            "SELECT remote, local, id FROM static_sessions "
            "WHERE keys IS NOT NULL AND remote > ? ORDER BY remote LIMIT ?",
            (remote, limit),
        )
        return rows.fetchall()

    def count(self) -> int:
        """How many are not lost."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM static_sessions WHERE keys IS NOT NULL"
        ).fetchone()
        return int(count)

    def ids(self) -> set[int]:
        """The session ids of all that are not lost."""
        return {
            ident
            for (ident,) in self._db.execute(
                "SELECT id FROM static_sessions WHERE keys IS NOT NULL"
            )
        }

    def lose(self, remotes: Iterable[bytes]) -> None:
        """Notes that the gate has lost sessions; their keys are erased."""
        self._db.executemany(
            "UPDATE static_sessions SET keys = NULL WHERE remote = ?",
            [(remote,) for remote in remotes],
        )

    def delete(self, remote: CellID) -> None:
        """Forgets the session of a remote cell; none is not an error."""
        self._db.execute("DELETE FROM static_sessions WHERE remote = ?", (remote.raw,))


def _packed(keys: SessionKeys) -> bytes:
    return keys.tx_payload + keys.tx_header + keys.rx_payload + keys.rx_header


def _session(row: tuple[Any, ...]) -> StaticSession:
    remote, local, ident, epoch, keys, digest, guard, mac, since, offset, ahead, mtu = row
    stored = StoredSession(
        id=ident,
        remote=CellID(remote),
        local=CellID(local),
        epoch=epoch,
        initiator=False,
        mac=mac,
        established_at=since,
        clock_offset=offset,
        clock_ahead=ahead,
        mtu=mtu,
    )
    return StaticSession(stored, None if keys is None else _unpacked(epoch, keys), digest, guard)


def _unpacked(epoch: int, packed: bytes) -> SessionKeys:
    half = PAYLOAD_KEY_LEN + HEADER_KEY_LEN
    return SessionKeys(
        epoch,
        tx_payload=packed[:PAYLOAD_KEY_LEN],
        tx_header=packed[PAYLOAD_KEY_LEN:half],
        rx_payload=packed[half : half + PAYLOAD_KEY_LEN],
        rx_header=packed[half + PAYLOAD_KEY_LEN :],
    )
