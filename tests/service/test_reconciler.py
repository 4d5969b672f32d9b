# SPDX-License-Identifier: Apache-2.0
"""service/reconciler.py: the maps follow the store, and drift is put right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assent.covenant.consent import Consent
from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER
from assent.errors import ResourceExhausted
from assent.identity.cellid import from_public_key
from assent.service.reconciler import Changes, Reconciler
from assent.service.records import LocalCell, RemoteCell, StoredPsk
from assent.service.store import Store
from assent.wire.cellid import CellID


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate.private(replace(CHAPTER, sessions=16)) as private:
        yield private


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state" / "state.db") as opened:
        yield opened


@pytest.fixture
def reconciler(store: Store, gate: Gate) -> Reconciler:
    return Reconciler(store, gate)


def add_local(store: Store, number: int) -> CellID:
    key = bytes([number]) * 32
    cell = from_public_key(key)
    store.add_local(LocalCell(cell, f"local-{number}", key, "eth0", Path("/nonexistent")))
    return cell


def add_remote(store: Store, number: int, *, psk: bool = True) -> CellID:
    key = bytes([100 + number]) * 32
    cell = from_public_key(key)
    store.add_remote(RemoteCell(cell, f"remote-{number}", key, Consent.STANDING, None))
    if psk:
        store.set_psk(StoredPsk(cell, bytes([number + 1]) * 32, 1), replace=False)
    return cell


def dump(gate: Gate) -> dict[str, dict[bytes, bytes]]:
    """The maps, but for where a pair counts: one that comes back counts elsewhere for a while."""
    at = Btf.from_object(packaged("gate")).map_value("sessions").offsetof("tally")
    sessions = gate.map("sessions").items()
    return {
        "locals": dict(gate.map("locals").items()),
        "sessions": {key: value[:at] + value[at + 4 :] for key, value in sessions},
    }


def test_an_empty_store_makes_empty_maps(reconciler: Reconciler, gate: Gate):
    gate.tables.locals.put(CellID(b"x" * 16), 0)
    gate.tables.sessions.provision(CellID(b"y" * 16), CellID(b"x" * 16), b"k" * 16, True)
    changes = reconciler.apply_all()
    assert changes == Changes(locals_removed=1, pairs_removed=1)
    assert dump(gate) == {"locals": {}, "sessions": {}}


def test_everything_is_put_in_place_once(reconciler: Reconciler, gate: Gate, store: Store):
    locals_ = [add_local(store, number) for number in (1, 2)]
    remotes = [add_remote(store, number) for number in (1, 2, 3)]
    add_remote(store, 4, psk=False)
    assert reconciler.apply_all() == Changes(locals_added=2, pairs_added=6)
    entries = {(entry.remote, entry.local) for entry in gate.tables.sessions.list()}
    assert entries == {(remote, local) for remote in remotes for local in locals_}
    before = dump(gate)
    assert not reconciler.apply_all()
    assert dump(gate) == before


def test_a_second_reconciler_finds_nothing_to_do(reconciler: Reconciler, gate: Gate, store: Store):
    """What a restarted daemon sees: entries are recognized, not rewritten."""
    add_local(store, 1)
    add_remote(store, 1)
    reconciler.apply_all()
    before = dump(gate)
    assert not Reconciler(store, gate).apply_all()
    assert dump(gate) == before


async def test_drift_is_seen_repaired_and_logged(
    reconciler: Reconciler, gate: Gate, store: Store, caplog: pytest.LogCaptureFixture
):
    local = add_local(store, 1)
    remotes = [add_remote(store, number) for number in (1, 2, 3)]
    reconciler.apply_all()
    before = dump(gate)
    assert not await reconciler.sweep()
    assert not caplog.records

    sessions = gate.tables.sessions
    sessions.delete(remotes[0], local)
    sessions.set_consent(remotes[1], local, covenanted=False)
    sessions.provision(remotes[2], local, b"wrong key 123456", covenanted=True)
    sessions.provision(CellID(b"y" * 16), local, b"k" * 16, covenanted=True)
    gate.tables.locals.delete(local)
    gate.tables.locals.put(CellID(b"x" * 16), 1)
    changes = await reconciler.sweep()
    assert changes == Changes(
        locals_added=1, locals_removed=1, pairs_added=1, pairs_changed=2, pairs_removed=1
    )
    assert dump(gate) == before
    assert "drift repaired" in caplog.text
    assert not sessions.tidy(), "the bloom filter follows with the sweep"


async def test_a_sweep_covers_more_than_one_slice(
    reconciler: Reconciler, gate: Gate, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assent.service.reconciler._SLICE", 2)
    add_local(store, 1)
    for number in range(7):
        add_remote(store, number)
    assert (await reconciler.sweep()).pairs_added == 7
    for number in range(5):
        local = CellID(bytes([number]) * 16)
        gate.tables.sessions.provision(CellID(b"z" * 16), local, b"k" * 16, covenanted=False)
    assert (await reconciler.sweep()).pairs_removed == 5
    assert len(dump(gate)["sessions"]) == 7


def test_one_pair_that_does_not_fit_does_not_keep_out_the_others(
    reconciler: Reconciler, store: Store, gate: Gate
):
    add_local(store, 1)
    for number in range(18):
        add_remote(store, number)
    changes = reconciler.apply_all()
    assert (changes.pairs_added, changes.failures) == (16, 2)
    assert len(dump(gate)["sessions"]) == 16


def test_a_change_that_the_maps_cannot_follow_never_was(
    reconciler: Reconciler, store: Store, gate: Gate
):
    """Two local cells, room for one more pair: the first half is taken back with the second."""
    for number in (1, 2):
        add_local(store, number)
    for number in range(7):
        add_remote(store, number)
    reconciler.apply_all()
    gate.tables.sessions.provision(CellID(b"z" * 16), CellID(b"z" * 16), b"k" * 16, covenanted=True)
    before, cells = dump(gate), store.remotes()
    cell = from_public_key(bytes([200]) * 32)

    def change() -> None:
        with reconciler.change(remotes=[cell]):
            store.add_remote(RemoteCell(cell, "new", bytes([200]) * 32, Consent.STANDING, None))
            store.set_psk(StoredPsk(cell, b"p" * 32, 1), replace=False)

    with pytest.raises(ResourceExhausted, match="sessions is full"):
        change()
    assert dump(gate) == before
    assert store.remotes() == cells


def test_an_error_after_the_change_takes_the_maps_back(
    reconciler: Reconciler, store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    """The maps have followed, and then the disk is full."""
    local = add_local(store, 1)
    remote = add_remote(store, 1)
    reconciler.apply_all()
    before = dump(gate)

    def commit_fails() -> None:
        with reconciler.change(remotes=[remote]):
            store.set_consent(remote, Consent.NONE)
            original = reconciler._apply

            def apply_then_fail(*touched: tuple[CellID, ...]) -> None:
                original(*touched)
                monkeypatch.setattr(reconciler, "_apply", original)
                raise OSError("disk full")

            monkeypatch.setattr(reconciler, "_apply", apply_then_fail)

    with pytest.raises(OSError, match="disk full"):
        commit_fails()
    assert store.remote(remote).consent is Consent.STANDING
    assert dump(gate) == before
    assert gate.tables.sessions.get(remote, local).covenanted


async def test_policy_that_has_drifted_is_put_right(
    reconciler: Reconciler, gate: Gate, store: Store
):
    """In either direction: what was relaxed behind the daemon's back, and what was not."""
    local, other = add_local(store, 1), add_local(store, 2)
    observed, plain = add_remote(store, 1), add_remote(store, 2)
    store.set_policy(observed, observe=True, bare=True)
    store.set_policy(other, observe=True, bare=False)
    reconciler.apply_all()
    sessions = gate.tables.sessions
    wanted = {
        (observed, local): (True, True),
        (observed, other): (True, True),
        (plain, local): (False, False),
        (plain, other): (True, False),
    }

    def found() -> dict[tuple[CellID, CellID], tuple[bool, bool]]:
        return {(row.remote, row.local): (row.observed, row.bare) for row in sessions.list()}

    assert found() == wanted
    sessions.set_consent(observed, local, covenanted=True)
    sessions.set_consent(plain, local, covenanted=True, observed=True, bare=True)
    assert await reconciler.sweep() == Changes(pairs_changed=2)
    assert found() == wanted
