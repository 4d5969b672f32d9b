# SPDX-License-Identifier: Apache-2.0
"""What the store keeps for the LWF relay: who may register, and the ways that an operator set."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from assent.errors import AlreadyExists, NotFound
from assent.wire.lwf import Hint

TIMESTAMP_MAX: Final = (1 << 63) - 1
"""SQLite's integers have a sign; a header's timestamp has not."""


@dataclass(frozen=True, slots=True)
class RelaySource:
    """One who may register a way to itself.

    Attributes:
        hint: Derived from the public key.
        name: Unique among sources.
        public_key: Ed25519, 32 bytes.
    """

    hint: Hint
    name: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A way that an operator set.

    Attributes:
        hint: The destination.
        interface: By which frames leave; None = they go to this host's own stack.
        mac: The next hop's address, 6 bytes; None with `interface`.
    """

    hint: Hint
    interface: str | None = None
    mac: bytes | None = None


class RelayRecords:
    """The relay's tables in a store's database; transactions are the store's.

    Args:
        db: The store's connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # Sources

    def add_source(self, source: RelaySource) -> None:
        """Adds a source.

        Raises:
            AlreadyExists: Its name or its key is taken.
        """
        taken = self._db.execute(
            "SELECT name FROM relay_sources WHERE name = ? OR hint = ? ORDER BY name = ? DESC",
            (source.name, bytes(source.hint), source.name),
        ).fetchone()
        if taken is not None:
            raise AlreadyExists(
                f"name: a source named {source.name!r} exists"
                if taken[0] == source.name
                else f"public_key: it is the key of source {taken[0]!r}"
            )
        self._db.execute(
            "INSERT INTO relay_sources (hint, name, public_key) VALUES (?, ?, ?)",
            (bytes(source.hint), source.name, source.public_key),
        )

    def source(self, ref: Hint | str) -> RelaySource:
        """A source by its hint or name.

        Raises:
            NotFound: There is none.
        """
        column, value = ("name", ref) if isinstance(ref, str) else ("hint", bytes(ref))
        row = self._db.execute(
            f"SELECT hint, name, public_key FROM relay_sources WHERE {column} = ?",  # noqa: S608
            (value,),
        ).fetchone()
        if row is None:
            raise NotFound(f"no source {ref!r}" if isinstance(ref, str) else f"no source {ref}")
        return RelaySource(Hint(row[0]), row[1], row[2])

    def sources(self) -> list[RelaySource]:
        """All sources, by name."""
        rows = self._db.execute("SELECT hint, name, public_key FROM relay_sources ORDER BY name")
        return [RelaySource(Hint(hint), name, key) for hint, name, key in rows]

    def delete_source(self, hint: Hint) -> None:
        """Removes a source; the time of its newest frame stays.

        Raises:
            NotFound: There is none.
        """
        done = self._db.execute("DELETE FROM relay_sources WHERE hint = ?", (bytes(hint),))
        if not done.rowcount:
            raise NotFound(f"no source {hint}")

    def newest(self, hint: Hint) -> int | None:
        """Timestamp of the newest frame by which a source registered, ns; None where none did."""
        row = self._db.execute(
            "SELECT newest FROM relay_times WHERE hint = ?", (bytes(hint),)
        ).fetchone()
        return None if row is None else int(row[0])

    def remember(self, hint: Hint, timestamp: int) -> None:
        """Raises the time of a source's newest frame; it never falls."""
        self._db.execute(
            "INSERT INTO relay_times (hint, newest) VALUES (?, ?) ON CONFLICT (hint) "
            "DO UPDATE SET newest = max(newest, excluded.newest)",
            (bytes(hint), timestamp),
        )

    # Routes

    def set_route(self, route: StaticRoute) -> None:
        """Sets the way to a destination, new or not."""
        self._db.execute(
            "INSERT OR REPLACE INTO relay_routes (hint, interface, mac) VALUES (?, ?, ?)",
            (bytes(route.hint), route.interface, route.mac),
        )

    def route(self, hint: Hint) -> StaticRoute | None:
        """The way to a destination; None where none is set."""
        row = self._db.execute(
            "SELECT hint, interface, mac FROM relay_routes WHERE hint = ?", (bytes(hint),)
        ).fetchone()
        return None if row is None else StaticRoute(Hint(row[0]), row[1], row[2])

    def routes(self) -> list[StaticRoute]:
        """All ways that are set, by hint."""
        rows = self._db.execute("SELECT hint, interface, mac FROM relay_routes ORDER BY hint")
        return [StaticRoute(Hint(hint), interface, mac) for hint, interface, mac in rows]

    def delete_route(self, hint: Hint) -> None:
        """Removes the way to a destination.

        Raises:
            NotFound: None is set.
        """
        done = self._db.execute("DELETE FROM relay_routes WHERE hint = ?", (bytes(hint),))
        if not done.rowcount:
            raise NotFound(f"no route is set to {hint}")
