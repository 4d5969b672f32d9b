# SPDX-License-Identifier: Apache-2.0
"""Consent that covenants decide on, over the socket of a running daemon, and in the store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from grpc import StatusCode

from assent.covenant.consent import Consent
from assent.errors import NotFound
from assent.identity.keys import Identity
from assent.service.records import LocalCell, RemoteCell, StandingGrant, StoredPsk
from assent.service.schema import MIGRATIONS
from assent.service.store import Store
from assent.v1 import cells_pb2, common_pb2, grants_pb2

from .conftest import Api, Place, by_name, daemon_in, refused

KEY = Identity.from_seed(b"\x01" * 32).public_key
HOME, AWAY = Identity.from_seed(b"\x02" * 32), Identity.from_seed(b"\x03" * 32)
COVENANT = common_pb2.CONSENT_COVENANT


async def set_consent(api: Api, consent: common_pb2.Consent) -> cells_pb2.Cell:
    request = cells_pb2.SetConsentRequest(cell=by_name("away"), consent=consent)
    return await api.cells.SetConsent(request)


async def test_a_cell_can_be_left_to_covenants_from_the_beginning(api: Api):
    cell = await api.remote("away", KEY, COVENANT)
    assert cell.consent == COVENANT
    assert (await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("away")))).consent == COVENANT


async def test_it_survives_a_restart(place: Place):
    async with daemon_in(place) as api:
        await api.remote("away", KEY, COVENANT)
    async with daemon_in(place) as api:
        cell = await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("away")))
        assert cell.consent == COVENANT


async def test_an_operator_s_grants_end_where_covenants_decide(api: Api):
    await api.remote("away", KEY)
    await api.grant("away", 1, 500)
    assert (await set_consent(api, COVENANT)).consent == COVENANT
    assert not (await api.grants.List(grants_pb2.ListGrantsRequest())).grants
    assert (await api.status()).credit_promised_blocks == 0
    assert (await set_consent(api, common_pb2.CONSENT_STANDING)).consent == (
        common_pb2.CONSENT_STANDING
    )
    await api.grant("away", 1, 500)


async def test_windows_are_not_set_by_hand_where_covenants_decide(api: Api, place: Place):
    await api.remote("away", KEY, COVENANT)
    before = place.everything()
    request = grants_pb2.SetGrantRequest(remote=by_name("away"), flow=1, window_blocks=1)
    code, message = await refused(api.grants.Set(request))
    assert code is StatusCode.FAILED_PRECONDITION
    assert message == "remote: the covenant's terms set the windows of cell 'away'"
    delete = grants_pb2.DeleteGrantRequest(remote=by_name("away"), flow=1)
    code, _ = await refused(api.grants.Delete(delete))
    assert code is StatusCode.FAILED_PRECONDITION
    assert place.everything() == before


async def test_a_consent_that_is_unknown_is_refused(api: Api, place: Place):
    await api.remote("away", KEY)
    before = place.everything()
    request = cells_pb2.SetConsentRequest(cell=by_name("away"), consent=99)
    code, message = await refused(api.cells.SetConsent(request))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message == "consent: needs NONE, STANDING, QUARANTINED or COVENANT"
    assert place.everything() == before


# The store


@pytest.mark.parametrize("consent", Consent)
def test_every_consent_is_read_as_it_was_written(tmp_path: Path, consent: Consent):
    with Store(tmp_path / "state.db") as store:
        store.add_remote(RemoteCell(AWAY.cell_id, "away", AWAY.public_key, consent, None))
        assert store.remote("away").consent is consent
        (row,) = store.bulk.wanted_of([AWAY.cell_id.raw])
        assert row.consent == consent.value
        store.bulk.delete_cells([AWAY.cell_id.raw])
        store.bulk.add_remotes([RemoteCell(AWAY.cell_id, "away", AWAY.public_key, consent, None)])
        assert store.remote("away").consent is consent
        for other in Consent:
            store.set_consent(AWAY.cell_id, other)
            assert store.remote("away").consent is other
            store.set_consent(AWAY.cell_id, consent)


def test_a_file_from_before_covenants_takes_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With its cells, keys and grants as they were; none of them is left to covenants."""
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    for step in MIGRATIONS[:5]:
        db.executescript(step)
    db.execute("PRAGMA user_version = 5")
    db.execute(
        "INSERT INTO cells (id, name, public_key, local, consent) VALUES (?, 'away', ?, 0, ?)",
        (AWAY.cell_id.raw, AWAY.public_key, "standing"),
    )
    db.execute("INSERT INTO psks VALUES (?, ?, 1)", (AWAY.cell_id.raw, b"p" * 32))
    db.execute("INSERT INTO grants VALUES (?, 1, 5)", (AWAY.cell_id.raw,))
    db.commit()
    db.close()
    with Store(path) as store:
        assert store.remote("away").consent is Consent.STANDING
        assert store.psk(AWAY.cell_id) == StoredPsk(AWAY.cell_id, b"p" * 32, 1)
        assert store.grants() == [StandingGrant(AWAY.cell_id, 1, 5)]
        assert store.covenants.open() == []


def test_what_is_left_to_covenants_cannot_be_the_operator_s_too(tmp_path: Path):
    """A file that another hand wrote is refused by its own rules."""
    with Store(tmp_path / "state.db") as store:
        store.add_remote(RemoteCell(AWAY.cell_id, "away", AWAY.public_key, Consent.COVENANT, None))
        with pytest.raises(sqlite3.IntegrityError):
            store._db.execute("UPDATE cells SET consent = 'standing'")
        assert store.remote("away").consent is Consent.COVENANT


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "state.db") as opened:
        opened.add_local(
            LocalCell(HOME.cell_id, "home", HOME.public_key, "eth0", tmp_path / "home.pem")
        )
        opened.add_remote(RemoteCell(AWAY.cell_id, "away", AWAY.public_key, Consent.COVENANT, None))
        yield opened


def test_a_policy_of_its_own_goes_before_that_for_all_others(store: Store):
    records = store.covenants
    assert records.policy(HOME.cell_id, AWAY.cell_id) is None
    records.set_policy(HOME.cell_id, None, b"all")
    assert records.policy(HOME.cell_id, AWAY.cell_id) == b"all"
    records.set_policy(HOME.cell_id, AWAY.cell_id, b"its own")
    assert records.policy(HOME.cell_id, AWAY.cell_id) == b"its own"
    assert records.policies(HOME.cell_id) == {None: b"all", AWAY.cell_id: b"its own"}
    records.delete_policy(HOME.cell_id, AWAY.cell_id)
    assert records.policy(HOME.cell_id, AWAY.cell_id) == b"all"
    with pytest.raises(NotFound):
        records.delete_policy(HOME.cell_id, AWAY.cell_id)


def test_a_local_cell_takes_its_covenants_and_policies_along(store: Store):
    records = store.covenants
    handle = records.add(HOME.cell_id, 1, "offer-sent", b"", durable=False, updated_at=1)
    records.set_policy(HOME.cell_id, None, b"all")
    store.set_psk(StoredPsk(AWAY.cell_id, b"p" * 32, 1, handle), replace=False)
    store.delete_cell(HOME.cell_id)
    with pytest.raises(NotFound):
        records.get(handle)
    assert records.policies(HOME.cell_id) == {}
    assert store.psk(AWAY.cell_id) is None
