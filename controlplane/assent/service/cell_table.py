# SPDX-License-Identifier: Apache-2.0
"""Where cells are: the seed's CellID table, as a view of what this host knows (seed UTCP).

There it is an array of 64 entries in a kernel. Here the store and the gate's maps hold what is in
it, and the profile says how many pairs they have room for.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.errors import FailedPrecondition
from assent.identity.cellid import from_public_key
from assent.identity.hint import hint_of
from assent.service.interfaces import describe
from assent.service.records import RemoteCell
from assent.service.relay import RelayRegistry, RouteView
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.wire.cellid import CellID

LWF_HINT_LEN: Final = 2
"""Bytes of a cell's 24-byte hint that the table has: the relay's first index."""
_PAGE: Final = 512


class CellFlag(enum.Flag):
    """What is known of where a cell is."""

    VALID = 1
    """It is there: a local cell on its interface, or a remote one that is in session."""
    STALE = 2
    """It was there once."""
    RELAY = 4
    """It has registered itself by RELAY_FORWARD."""


@dataclass(frozen=True, slots=True)
class CellRow:
    """Where a cell is.

    Attributes:
        cell: Its id.
        name: As this host calls it.
        mac: Where frames to it go, 6 bytes.
        lwf_hint: The first two bytes of its hint.
        flags: How sure that is.
    """

    cell: CellID
    name: str
    mac: bytes
    lwf_hint: bytes
    flags: CellFlag


class CellTable:
    """Where cells are: this host's own, those that shook hands, and those that registered.

    Args:
        store: Cells and what was last seen of them.
        sessions: Tells who is there.
        relay: The ways that were registered.
    """

    def __init__(self, store: Store, sessions: SessionManager, relay: RelayRegistry) -> None:
        self._store = store
        self._sessions = sessions
        self._relay = relay

    def pages(self) -> Iterator[list[CellRow]]:
        """All rows, the local cells first, in slices: others may work between two of them."""
        relayed = self._relayed()
        yield list(self._locals())
        present = self._sessions.present()
        after = ""
        while cells := self._store.remotes_after(after, _PAGE):
            after = cells[-1].name
            rows = (self._remote(cell, present, relayed.pop(cell.id, None)) for cell in cells)
            yield [row for row in rows if row is not None]
        yield list(relayed.values())

    def _locals(self) -> Iterator[CellRow]:
        for cell in self._store.locals():
            # A cell whose interface is gone is nowhere.
            with contextlib.suppress(FailedPrecondition):
                mac = describe(cell.interface).mac
                yield CellRow(cell.id, cell.name, mac, _hint(cell.public_key), CellFlag.VALID)

    def _remote(
        self, cell: RemoteCell, present: set[CellID], relayed: CellRow | None
    ) -> CellRow | None:
        if cell.mac is None:
            return relayed
        flags = CellFlag.VALID if cell.id in present else CellFlag.STALE
        if relayed is not None:
            flags |= CellFlag.RELAY
        return CellRow(cell.id, cell.name, cell.mac, _hint(cell.public_key), flags)

    def _relayed(self) -> dict[CellID, CellRow]:
        routes = {route.hint: route for route in self._relay.routes()}
        found = {}
        for source in self._store.relay.sources():
            route = routes.get(source.hint)
            if route is None or not route.registered or route.mac is None:
                continue
            cell = from_public_key(source.public_key)
            hint = bytes(source.hint)[:LWF_HINT_LEN]
            found[cell] = CellRow(cell, source.name, route.mac, hint, _relay_flags(route))
        return found


def _relay_flags(route: RouteView) -> CellFlag:
    return CellFlag.RELAY | (CellFlag.VALID if route.installed else CellFlag.STALE)


def _hint(public_key: bytes) -> bytes:
    return bytes(hint_of(public_key))[:LWF_HINT_LEN]
