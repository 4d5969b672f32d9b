# SPDX-License-Identifier: Apache-2.0
"""service/store.py: the desired state of a host."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assent.covenant.consent import Consent
from assent.errors import AlreadyExists, NotFound
from assent.identity.cellid import from_public_key
from assent.service.records import (
    HandshakeMemory,
    LocalCell,
    RemoteCell,
    StandingGrant,
    StoredPsk,
    StoredSession,
    WantedInterface,
)
from assent.service.schema import MIGRATIONS, SchemaError
from assent.service.store import Store
from assent.wire.cellid import CellID


def local_cell(number: int = 1, name: str = "home") -> LocalCell:
    key = bytes([number]) * 32
    return LocalCell(from_public_key(key), name, key, "eth0", Path("/keys/home.pem"))


def remote_cell(number: int = 2, name: str = "away", mac: bytes | None = None) -> RemoteCell:
    key = bytes([number]) * 32
    return RemoteCell(from_public_key(key), name, key, Consent.STANDING, mac)


def live_session(remote: CellID, local: CellID, ident: int = 7) -> StoredSession:
    return StoredSession(ident, remote, local, 3, True, b"\x02" * 6, 1_000, -5, 3, 1500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "assent.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


def rows(path: Path) -> list[str]:
    """Everything that a store holds, as another process sees it."""
    db = sqlite3.connect(path)
    try:
        return [
            line
            for line in db.iterdump()
            if line.startswith("INSERT") and "session_ids" not in line
        ]
    finally:
        db.close()


def test_the_file_and_its_directory_are_root_s_alone(store: Store, path: Path):
    store.add_local(local_cell())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_file_that_was_open_to_others_is_closed_to_them(path: Path):
    path.parent.mkdir()
    path.touch(mode=0o644)
    with Store(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_commits_reach_the_disk(store: Store):
    pragmas = {
        name: store._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
    }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def test_cells_come_back_as_they_went_in(store: Store, path: Path):
    home, away = local_cell(), remote_cell(mac=b"\x02\0\0\0\0\x01")
    store.add_local(home)
    store.add_remote(away)
    store.close()
    with Store(path) as again:
        assert again.locals() == [home]
        assert again.remotes() == [away]
        assert again.cell("away") == again.cell(away.id) == again.remote("away") == away
        assert again.local(home.id) == home
        assert again.counts() == (1, 1)


def test_a_name_is_taken_once(store: Store, path: Path):
    store.add_local(local_cell(1, "same"))
    before = rows(path)
    with pytest.raises(AlreadyExists, match="name: a cell named 'same' exists"):
        store.add_remote(remote_cell(2, "same"))
    assert rows(path) == before


def test_a_key_is_taken_once(store: Store, path: Path):
    store.add_local(local_cell(1, "home"))
    before = rows(path)
    with pytest.raises(AlreadyExists, match="public_key: it is the key of cell 'home'"):
        store.add_remote(remote_cell(1, "other"))
    assert rows(path) == before


@pytest.mark.parametrize("ref", ["nobody", CellID(bytes(16))])
def test_an_unknown_cell_is_not_found(store: Store, ref: str | CellID):
    with pytest.raises(NotFound, match="no cell"):
        store.cell(ref)


def test_local_and_remote_are_not_taken_for_each_other(store: Store):
    store.add_local(local_cell())
    store.add_remote(remote_cell())
    with pytest.raises(NotFound, match="lives on this host"):
        store.remote("home")
    with pytest.raises(NotFound, match="does not live on this host"):
        store.local("away")


def test_consent_and_place_change(store: Store):
    away = remote_cell()
    store.add_remote(away)
    store.set_consent(away.id, Consent.QUARANTINED)
    store.set_mac(away.id, b"\x02" * 6)
    assert store.remote("away") == RemoteCell(
        away.id, "away", away.public_key, Consent.QUARANTINED, b"\x02" * 6
    )


def test_consent_needs_a_remote_cell(store: Store):
    home = local_cell()
    store.add_local(home)
    with pytest.raises(NotFound):
        store.set_consent(home.id, Consent.NONE)


def test_a_deleted_cell_takes_everything_with_it_but_the_memory_of_its_hails(store: Store):
    home, away = local_cell(), remote_cell()
    store.add_local(home)
    store.add_remote(away)
    store.set_psk(StoredPsk(away.id, b"k" * 32, 5), replace=False)
    store.set_grant(StandingGrant(away.id, 1, 100))
    store.put_session(live_session(away.id, home.id))
    store.remember_handshake(away.id, home.id, HandshakeMemory(11, 9, 2))
    store.delete_cell(away.id)
    assert (store.remotes(), store.psk(away.id), store.grants(), store.sessions()) == (
        [],
        None,
        [],
        [],
    )
    assert store.handshake(away.id, home.id) == HandshakeMemory(11, 9, 2)


def test_a_cell_is_deleted_once(store: Store):
    away = remote_cell()
    store.add_remote(away)
    store.delete_cell(away.id)
    with pytest.raises(NotFound):
        store.delete_cell(away.id)


def test_a_psk_is_replaced_only_when_asked(store: Store):
    away = remote_cell()
    store.add_remote(away)
    store.set_psk(StoredPsk(away.id, b"a" * 32, 5), replace=False)
    with pytest.raises(AlreadyExists, match="psk"):
        store.set_psk(StoredPsk(away.id, b"b" * 32, 6), replace=False)
    assert store.psk(away.id) == StoredPsk(away.id, b"a" * 32, 5)
    store.set_psk(StoredPsk(away.id, b"b" * 32, 6), replace=True)
    assert store.psk(away.id) == StoredPsk(away.id, b"b" * 32, 6)
    assert store.psk_times() == {away.id: 6}
    store.delete_psk(away.id)
    with pytest.raises(NotFound, match="no pre-shared key"):
        store.delete_psk(away.id)


def test_a_psk_is_not_shown(store: Store):
    shown = repr(StoredPsk(CellID(bytes(16)), b"secret-secret-secret-secret-1234", 5))
    assert "secret" not in shown


def test_a_deleted_psk_does_not_linger_in_the_file(store: Store, path: Path):
    away, secret = remote_cell(), b"0123456789abcdef0123456789ABCDEF"
    store.add_remote(away)
    store.set_psk(StoredPsk(away.id, secret, 5), replace=False)
    store.delete_psk(away.id)
    store.close()
    assert secret not in path.read_bytes()


def test_grants_are_set_read_and_deleted(store: Store):
    away = remote_cell()
    store.add_remote(away)
    store.set_grant(StandingGrant(away.id, 2, 50))
    store.set_grant(StandingGrant(away.id, 1, 100))
    store.set_grant(StandingGrant(away.id, 2, 70))
    assert store.grant(away.id, 2) == StandingGrant(away.id, 2, 70)
    assert [grant.flow for grant in store.grants(away.id)] == [1, 2]
    store.delete_grant(away.id, 1)
    with pytest.raises(NotFound, match="no grant for flow 1"):
        store.delete_grant(away.id, 1)
    with pytest.raises(NotFound, match="no grant for flow 1"):
        store.grant(away.id, 1)


@pytest.mark.parametrize(("flow", "window"), [(0, 1), (8, 1), (1, 0), (1, (32_767 << 15) + 1)])
def test_the_tables_themselves_refuse_what_no_grant_may_be(store: Store, flow: int, window: int):
    away = remote_cell()
    store.add_remote(away)
    with pytest.raises(sqlite3.IntegrityError):
        store.set_grant(StandingGrant(away.id, flow, window))


def test_a_pair_has_one_session(store: Store):
    home, away = local_cell(), remote_cell()
    store.add_local(home)
    store.add_remote(away)
    store.put_session(live_session(away.id, home.id, 7))
    store.put_session(live_session(away.id, home.id, 8))
    assert store.sessions() == [live_session(away.id, home.id, 8)]
    assert store.session(away.id, home.id) == live_session(away.id, home.id, 8)
    store.delete_session(away.id, home.id)
    store.delete_session(away.id, home.id)
    assert store.session(away.id, home.id) is None


def test_session_ids_are_not_used_again(store: Store, path: Path):
    assert [store.next_session_id(), store.next_session_id()] == [1, 2]
    store.close()
    with Store(path) as again:
        assert again.next_session_id() == 3
        again._db.execute("UPDATE session_ids SET last = 4294967295")
        assert again.next_session_id() == 1


def test_the_memory_of_handshakes_never_falls(store: Store):
    home = local_cell()
    store.add_local(home)
    peer = CellID(bytes(16))
    assert store.handshake(peer, home.id) == HandshakeMemory(0, 0, 0)
    store.remember_handshake(peer, home.id, HandshakeMemory(20, 10, 1))
    store.remember_handshake(peer, home.id, HandshakeMemory(15, 5, 2))
    assert store.handshake(peer, home.id) == HandshakeMemory(20, 10, 2)


def test_a_hail_from_the_far_future_fits(store: Store):
    """A header's timestamp has 64 bits, SQLite's integers have 63: it is kept at their limit."""
    home = local_cell()
    store.add_local(home)
    store.remember_handshake(CellID(bytes(16)), home.id, HandshakeMemory(1, (1 << 64) - 1, 1))
    assert store.handshake(CellID(bytes(16)), home.id).newest_hail == (1 << 63) - 1


def test_interfaces_are_wanted_until_they_are_forgotten(store: Store):
    store.want_interface(WantedInterface("eth2", "native", up=False))
    store.want_interface(WantedInterface("eth1.7", "generic", up=True))
    store.want_interface(WantedInterface("eth2", "generic", up=True))
    assert store.interfaces() == [
        WantedInterface("eth1.7", "generic", up=True),
        WantedInterface("eth2", "generic", up=True),
    ]
    assert store.forget_interface("eth2")
    assert not store.forget_interface("eth2")
    assert [wanted.name for wanted in store.interfaces()] == ["eth1.7"]


def test_a_transaction_is_all_or_nothing(store: Store, path: Path):
    before = rows(path)

    def halfway() -> None:
        with store.transaction():
            store.add_remote(remote_cell())
            with store.transaction():
                store.set_grant(StandingGrant(remote_cell().id, 1, 5))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        halfway()
    assert rows(path) == before


def test_an_uncommitted_row_is_seen_by_nobody_else(store: Store, path: Path):
    with store.transaction():
        store.add_remote(remote_cell())
        assert rows(path) == []
    assert len(rows(path)) == 1


def test_a_new_file_takes_every_step(store: Store):
    assert store._db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_a_step_that_fails_leaves_the_version_where_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Store(path) as store:
        store.add_remote(remote_cell())
    broken = (*MIGRATIONS, "CREATE TABLE more (id INTEGER) STRICT; CREATE TABLE cells (id)")
    monkeypatch.setattr("assent.service.schema.MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError):
        Store(path)
    monkeypatch.undo()
    with Store(path) as store:
        assert [cell.name for cell in store.remotes()] == ["away"]
        tables = store._db.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall()
        assert tables == []


def test_a_later_version_s_file_is_refused(path: Path):
    with Store(path) as store:
        store._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(SchemaError, match="schema"):
        Store(path)


def test_policy(store: Store) -> None:
    """Nothing is relaxed unless it is said; bare frames are a matter of remote cells."""
    home, away = local_cell(), remote_cell()
    store.add_local(home)
    store.add_remote(away)
    assert store.relaxed(10) == []
    store.set_policy(home.id, observe=True, bare=False)
    store.set_policy(away.id, observe=False, bare=True)
    assert store.local(home.id) == replace(home, observe=True)
    assert store.remote(away.id) == replace(away, bare=True)
    assert store.relaxed_counts() == (1, 1)
    assert [cell.id for cell in store.relaxed(1)] == [store.remote(away.id).id]
    with pytest.raises(sqlite3.IntegrityError):
        store.set_policy(home.id, observe=True, bare=True)
    with pytest.raises(NotFound):
        store.set_policy(CellID(b"\x77" * 16), observe=True, bare=False)
