# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Cells over the socket of a running daemon."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest
from grpc import StatusCode

from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, keys_pb2

from .conftest import Api, Place, by_name, refused

STANDING = common_pb2.CONSENT_STANDING
KEY = Identity.from_seed(b"\x01" * 32).public_key
OTHER_KEY = Identity.from_seed(b"\x02" * 32).public_key

CreateLocal = cells_pb2.CreateLocalRequest
CreateRemote = cells_pb2.CreateRemoteRequest
SetConsent = cells_pb2.SetConsentRequest
Ref = cells_pb2.CellRef


def remote_request(**changes: object) -> cells_pb2.CreateRemoteRequest:
    usual: dict[str, object] = {"name": "away", "public_key": KEY, "consent": STANDING}
    return CreateRemote(**(usual | changes))  # type: ignore[arg-type]


async def test_a_local_cell_is_made_stored_and_told_to_the_gate(api: Api, place: Place, dummy: str):
    cell = await api.local("home", dummy)
    assert (cell.name, cell.local, cell.interface) == ("home", True, dummy)
    assert cell.id.value == bytes(from_public_key(cell.public_key))
    assert list(place.map("locals")) == [cell.id.value]
    key_file = place.config.state_dir / "keys" / "home.pem"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert Identity.load(key_file).public_key == cell.public_key
    assert await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("home"))) == cell


async def test_a_remote_cell_without_a_key_is_unknown_to_the_gate(
    api: Api, place: Place, dummy: str
):
    await api.local("home", dummy)
    cell = await api.remote("away", KEY, mac="02:00:00:00:00:01")
    assert (cell.local, cell.consent, cell.mac, cell.has_psk) == (
        False,
        STANDING,
        "02:00:00:00:00:01",
        False,
    )
    assert place.map("sessions") == {}


async def test_cells_are_listed_local_ones_first(api: Api, dummy: str):
    await api.remote("a-remote", KEY)
    await api.local("z-local", dummy)
    reply = await api.cells.List(cells_pb2.ListCellsRequest())
    assert [cell.name for cell in reply.cells] == ["z-local", "a-remote"]


async def test_a_cell_is_found_by_its_id(api: Api):
    cell = await api.remote("away", KEY)
    assert await api.cells.Get(cells_pb2.GetCellRequest(cell=Ref(id=cell.id))) == cell


@pytest.mark.parametrize(
    ("call", "request_of", "said"),
    [
        ("CreateLocal", lambda: CreateLocal(name="", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="A", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="../x", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="x" * 64, interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface=""), "interface: needs the name"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface="a/b"), "interface: needs"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface="x" * 16), "interface: needs"),
        ("CreateRemote", lambda: remote_request(name="a b"), "name: needs 1 to 63"),
        (
            "CreateRemote",
            lambda: remote_request(public_key=b"short"),
            "public_key: needs 32 bytes, got 5",
        ),
        ("CreateRemote", lambda: remote_request(public_key=bytes(32)), "public_key: is not"),
        ("CreateRemote", lambda: remote_request(consent=0), "consent: needs NONE"),
        ("CreateRemote", lambda: remote_request(consent=9), "consent: needs NONE"),
        ("CreateRemote", lambda: remote_request(mac="nonsense"), "mac: needs six pairs"),
        (
            "CreateRemote",
            lambda: remote_request(mac="ff:ff:ff:ff:ff:ff"),
            "mac: needs a unicast address",
        ),
        ("Get", lambda: cells_pb2.GetCellRequest(), "cell: needs the id or the name"),
        (
            "Get",
            lambda: cells_pb2.GetCellRequest(cell=Ref(id=common_pb2.CellId(value=b"x"))),
            "cell.id: needs 16 bytes, got 1",
        ),
        ("Get", lambda: cells_pb2.GetCellRequest(cell=by_name("A")), "cell.name: needs 1 to 63"),
        ("SetConsent", lambda: SetConsent(consent=STANDING), "cell: needs the id or the name"),
        ("SetConsent", lambda: SetConsent(cell=by_name("away")), "consent: needs NONE"),
        ("Delete", lambda: cells_pb2.DeleteCellRequest(), "cell: needs the id or the name"),
    ],
)
async def test_what_can_never_be_is_refused_by_its_field(
    api: Api, place: Place, dummy: str, call: str, request_of: Callable[[], object], said: str
):
    await api.local("home", dummy)
    before = place.everything()
    code, message = await refused(getattr(api.cells, call)(request_of()))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(said)
    assert place.everything() == before


@pytest.mark.parametrize(
    ("call", "request_of"),
    [
        ("Get", lambda: cells_pb2.GetCellRequest(cell=by_name("nobody"))),
        ("SetConsent", lambda: SetConsent(cell=by_name("nobody"), consent=STANDING)),
        ("SetConsent", lambda: SetConsent(cell=by_name("home"), consent=STANDING)),
        ("Delete", lambda: cells_pb2.DeleteCellRequest(cell=by_name("nobody"))),
    ],
)
async def test_what_is_not_there_is_not_found(
    api: Api, place: Place, dummy: str, call: str, request_of: Callable[[], object]
):
    await api.local("home", dummy)
    before = place.everything()
    code, message = await refused(getattr(api.cells, call)(request_of()))
    assert code is StatusCode.NOT_FOUND
    assert "cell" in message
    assert place.everything() == before


async def test_an_interface_that_is_missing_is_named(api: Api, place: Place):
    before = place.everything()
    code, message = await refused(api.local("home", "nowhere0"))
    assert code is StatusCode.FAILED_PRECONDITION
    assert message == "interface: there is no interface 'nowhere0'"
    assert place.everything() == before


async def test_a_name_is_taken_once(api: Api, place: Place, dummy: str):
    await api.local("home", dummy)
    before = place.everything()
    for call in (api.local("home", dummy), api.remote("home", KEY)):
        code, message = await refused(call)
        assert (code, message) == (
            StatusCode.ALREADY_EXISTS,
            "name: a cell named 'home' exists",
        )
    assert place.everything() == before


async def test_a_key_is_taken_once(api: Api, place: Place):
    await api.remote("away", KEY)
    before = place.everything()
    code, message = await refused(api.remote("again", KEY))
    assert (code, message) == (
        StatusCode.ALREADY_EXISTS,
        "public_key: it is the key of cell 'away'",
    )
    assert place.everything() == before


async def test_a_private_key_that_lies_there_is_never_overwritten(
    api: Api, place: Place, dummy: str
):
    orphan = place.config.state_dir / "keys" / "home.pem"
    orphan.write_text("somebody's")
    before = place.everything()
    code, _ = await refused(api.local("home", dummy))
    assert code is StatusCode.ALREADY_EXISTS
    assert orphan.read_text() == "somebody's"
    assert place.everything() == before


async def test_consent_is_in_the_gate_when_the_call_returns(api: Api, place: Place, dummy: str):
    home = await api.local("home", dummy)
    away = await api.remote("away", KEY, common_pb2.CONSENT_NONE)
    await api.psk("away")
    pair = away.id.value + home.id.value
    # enum assent_session_flag: covenanted 0x4, quarantined 0x8; flags follow the 32-byte state.
    for consent, flags in (
        (common_pb2.CONSENT_STANDING, 0x4),
        (common_pb2.CONSENT_QUARANTINED, 0xC),
        (common_pb2.CONSENT_NONE, 0x0),
    ):
        cell = await api.cells.SetConsent(SetConsent(cell=by_name("away"), consent=consent))
        assert cell.consent == consent
        assert int.from_bytes(place.map("sessions")[pair][32:36], "little") == flags


async def test_a_deleted_remote_cell_leaves_nothing(api: Api, place: Place, dummy: str):
    await api.local("home", dummy)
    before = place.everything()
    await api.remote("away", KEY)
    await api.psk("away")
    await api.grant("away", 1, 100)
    assert len(place.map("sessions")) == 1
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("away")))
    assert place.everything() == before
    assert (await api.status()).credit_promised_blocks == 0


async def test_a_deleted_local_cell_leaves_nothing(api: Api, place: Place, dummy: str):
    await api.remote("away", KEY)
    await api.psk("away")
    before = place.everything()
    await api.local("home", dummy)
    assert len(place.map("sessions")) == 1
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("home")))
    assert place.everything() == before


async def test_every_local_cell_knows_every_remote_one_with_a_key(
    api: Api, place: Place, dummy: str
):
    ids = {(await api.local(name, dummy)).id.value for name in ("one", "two")}
    away = await api.remote("away", KEY)
    other = await api.remote("other", OTHER_KEY)
    await api.psk("away")
    await api.psk("other")
    third = (await api.local("three", dummy)).id.value
    expected = {peer.id.value + local for peer in (away, other) for local in (*ids, third)}
    assert set(place.map("sessions")) == expected


async def test_a_full_table_of_local_cells_leaves_nothing_half_made(
    api: Api, place: Place, dummy: str
):
    """The chapter profile has room for 64 cells of this host."""
    for number in range(64):
        await api.local(f"cell-{number}", dummy)
    before = place.everything()
    code, message = await refused(api.local("one-too-many", dummy))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert "locals" in message
    assert place.everything() == before


async def test_a_full_table_of_sessions_leaves_nothing_half_made(
    api: Api, place: Place, dummy: str
):
    """The chapter profile has room for 16 pairs: two local cells and eight remote ones."""
    await api.local("one", dummy)
    await api.local("two", dummy)
    for number in range(9):
        key = Identity.from_seed(bytes([number + 1]) * 32).public_key
        await api.remote(f"remote-{number}", key)
    for number in range(8):
        await api.psk(f"remote-{number}")
    before = place.everything()
    code, message = await refused(api.psk("remote-8"))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert "sessions" in message
    assert place.everything() == before

    # Half of a ninth pair would fit now, and half is not enough.
    await api.keys.DeletePsk(keys_pb2.DeletePskRequest(remote=by_name("remote-0")))
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("two")))
    for number in (0, 8):
        await api.psk(f"remote-{number}")
    before = place.everything()
    assert len(place.map("sessions")) == 9
    code, _ = await refused(api.local("three", dummy))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert place.everything() == before
