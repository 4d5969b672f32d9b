# SPDX-License-Identifier: Apache-2.0
"""service/cell_table.py: the seed's CellID table, as a view of store, sessions and relay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from assent.covenant.consent import Consent
from assent.identity.hint import hint_of
from assent.identity.keys import Identity
from assent.service.cell_table import CellFlag, CellRow, CellTable
from assent.service.records import LocalCell, RemoteCell
from assent.service.relay import RouteView
from assent.service.relay_records import RelaySource
from assent.service.store import Store
from assent.wire.cellid import CellID

CELLS = [Identity.from_seed(bytes([n]) * 32) for n in range(1, 6)]
MAC, OTHER_MAC = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"


@dataclass
class Sessions:
    """Stands for the session manager."""

    there: set[CellID] = field(default_factory=set)

    def present(self) -> set[CellID]:
        return self.there


@dataclass
class Relay:
    """Stands for the relay's registry."""

    ways: list[RouteView] = field(default_factory=list)

    def routes(self) -> list[RouteView]:
        return self.ways


class Rig:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.sessions = Sessions()
        self.relay = Relay()

    def remote(self, name: str, identity: Identity, mac: bytes | None) -> None:
        self.store.add_remote(
            RemoteCell(identity.cell_id, name, identity.public_key, Consent.STANDING, mac)
        )

    def registered(self, name: str, identity: Identity, mac: bytes, **changes: Any) -> None:
        hint = hint_of(identity.public_key)
        self.store.relay.add_source(RelaySource(hint, name, identity.public_key))
        values = {"registered": True, "expires_in": 1, "installed": True} | changes
        self.relay.ways.append(RouteView(hint, name, "fab0", mac, **values))

    def rows(self) -> list[CellRow]:
        table = CellTable(self.store, self.sessions, self.relay)  # type: ignore[arg-type]
        return [row for page in table.pages() for row in page]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Store(tmp_path / "state.db") as store:
        yield Rig(store)


def row(name: str, identity: Identity, mac: bytes, flags: CellFlag) -> CellRow:
    hint = bytes(hint_of(identity.public_key))[:2]
    return CellRow(identity.cell_id, name, mac, hint, flags)


def test_a_local_cell_is_where_its_interface_is(rig: Rig):
    mine, lost = CELLS[:2]
    for name, identity, interface in (("mine", mine, "lo"), ("lost", lost, "gone0")):
        rig.store.add_local(
            LocalCell(identity.cell_id, name, identity.public_key, interface, Path("/key"))
        )
    assert rig.rows() == [row("mine", mine, bytes(6), CellFlag.VALID)]


def test_a_remote_cell_is_valid_in_session_and_stale_afterwards(rig: Rig):
    here, gone, unseen = CELLS[:3]
    rig.remote("here", here, MAC)
    rig.remote("gone", gone, OTHER_MAC)
    rig.remote("unseen", unseen, None)
    rig.sessions.there = {here.cell_id}
    assert rig.rows() == [
        row("gone", gone, OTHER_MAC, CellFlag.STALE),
        row("here", here, MAC, CellFlag.VALID),
    ]


def test_who_registered_by_relay_forward_is_there_too(rig: Rig):
    known, unseen, stranger, static, run_out = CELLS
    rig.remote("known", known, MAC)
    rig.remote("unseen", unseen, None)
    rig.registered("known", known, OTHER_MAC)
    rig.registered("unseen", unseen, OTHER_MAC)
    rig.registered("stranger", stranger, OTHER_MAC)
    rig.registered("static", static, OTHER_MAC, registered=False)
    rig.registered("run-out", run_out, OTHER_MAC, installed=False)
    relay = CellFlag.RELAY | CellFlag.VALID
    found = {one.name: one for one in rig.rows()}
    assert found == {
        # Where frames of the fabric go is where the handshake was.
        "known": row("known", known, MAC, CellFlag.STALE | CellFlag.RELAY),
        "unseen": row("unseen", unseen, OTHER_MAC, relay),
        "stranger": row("stranger", stranger, OTHER_MAC, relay),
        "run-out": row("run-out", run_out, OTHER_MAC, CellFlag.STALE | CellFlag.RELAY),
    }
