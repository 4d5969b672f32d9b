# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Keys over the socket of a running daemon."""

from __future__ import annotations

import time

import pytest
from grpc import StatusCode

from assent.identity.keys import Identity
from assent.v1 import keys_pb2

from .conftest import PSK, Api, Place, by_name, refused

KEY = Identity.from_seed(b"\x01" * 32).public_key
SetPsk = keys_pb2.SetPskRequest
DeletePsk = keys_pb2.DeletePskRequest


@pytest.fixture
async def away(api: Api, dummy: str) -> bytes:
    """The pair (remote, local) of a host that knows one peer."""
    home = await api.local("home", dummy)
    return (await api.remote("away", KEY)).id.value + home.id.value


async def listed(api: Api) -> list[keys_pb2.KeyInfo]:
    return list((await api.keys.List(keys_pb2.ListKeysRequest())).keys)


async def test_a_key_makes_the_peer_known_to_the_gate(api: Api, place: Place, away: bytes):
    started = int(time.time())
    await api.psk("away")
    assert list(place.map("sessions")) == [away]
    (info,) = await listed(api)
    assert (info.remote_name, info.has_psk) == ("away", True)
    assert started <= info.psk_set_at <= time.time()


@pytest.mark.usefixtures("away")
async def test_a_key_never_comes_out(api: Api):
    await api.psk("away")
    (info,) = await listed(api)
    assert PSK not in info.SerializeToString()


async def test_a_deleted_key_makes_the_peer_unknown(api: Api, place: Place, away: bytes):
    before = place.everything()
    await api.psk("away")
    await api.keys.DeletePsk(DeletePsk(remote=by_name("away")))
    assert place.everything() == before
    (info,) = await listed(api)
    assert (info.has_psk, info.psk_set_at) == (False, 0)


async def test_a_key_is_replaced_only_when_asked(api: Api, place: Place, away: bytes):
    await api.psk("away")
    before = place.everything()
    code, message = await refused(api.psk("away", b"x" * 32))
    assert code is StatusCode.ALREADY_EXISTS
    assert message.startswith("psk: one is set")
    assert place.everything() == before
    await api.psk("away", b"x" * 32, replace=True)
    assert place.map("sessions")[away] != before["sessions"][away]  # type: ignore[index]


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (SetPsk(psk=PSK), StatusCode.INVALID_ARGUMENT, "remote: needs the id or the name"),
        (
            SetPsk(remote=by_name("away"), psk=b"short"),
            StatusCode.INVALID_ARGUMENT,
            "psk: needs 32 bytes, got 5",
        ),
        (
            SetPsk(remote=by_name("away"), psk=bytes(32)),
            StatusCode.INVALID_ARGUMENT,
            "psk: is all zeros",
        ),
        (SetPsk(remote=by_name("nobody"), psk=PSK), StatusCode.NOT_FOUND, "no cell 'nobody'"),
        (SetPsk(remote=by_name("home"), psk=PSK), StatusCode.NOT_FOUND, "cell 'home' lives on"),
    ],
)
async def test_a_bad_key_changes_nothing(
    api: Api, place: Place, request_: keys_pb2.SetPskRequest, code: StatusCode, said: str
):
    before = place.everything()
    found, message = await refused(api.keys.SetPsk(request_))
    assert found is code
    assert message.startswith(said)
    assert place.everything() == before


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (DeletePsk(), StatusCode.INVALID_ARGUMENT, "remote: needs the id or the name"),
        (DeletePsk(remote=by_name("nobody")), StatusCode.NOT_FOUND, "no cell 'nobody'"),
        (DeletePsk(remote=by_name("away")), StatusCode.NOT_FOUND, "no pre-shared key is set"),
    ],
)
async def test_a_key_that_is_not_there_is_not_deleted(
    api: Api, place: Place, request_: keys_pb2.DeletePskRequest, code: StatusCode, said: str
):
    before = place.everything()
    found, message = await refused(api.keys.DeletePsk(request_))
    assert found is code
    assert message.startswith(said)
    assert place.everything() == before


@pytest.mark.usefixtures("away")
async def test_a_key_is_in_no_log_line(api: Api, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    await api.psk("away", b"S" * 32)
    await refused(api.psk("away", b"S" * 31))
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "SSSSSSSS" not in text
    assert (b"S" * 8).hex() not in text
