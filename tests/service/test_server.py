# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process among others: its socket, its lock, its health, its errors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from assent.service import store as store_module
from assent.service.daemon import Daemon, StartError

from .conftest import Api, Place, api_at, daemon_in, refused

SERVICES = ("Cells", "Covenants", "Fabric", "Grants", "Keys", "Sessions")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_files_and_sockets_have_their_modes_under_any_umask(place: Place):
    async with daemon_in(place) as api:
        await api.status()
        config = place.config
        assert mode(config.socket) == 0o660
        assert mode(config.run_dir) == 0o750
        assert mode(config.run_dir / "daemon.lock") & 0o077 == 0
        for directory in ("sessions", "flows"):
            assert mode(config.run_dir / directory) == 0o700
        assert mode(config.state_dir / "state.db") == 0o600


@pytest.mark.parametrize("service", ["", *(f"assent.v1.{name}" for name in SERVICES)])
async def test_health_says_serving(api: Api, service: str):
    stub = health_pb2_grpc.HealthStub(api.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_what_is_not_served_is_not_found(api: Api):
    stub = health_pb2_grpc.HealthStub(api.channel)
    code, _ = await refused(stub.Check(health_pb2.HealthCheckRequest(service="other")))
    assert code is StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(api: Api):
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)

    async def ask():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    replies = [reply async for reply in stub.ServerReflectionInfo(ask())]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {f"assent.v1.{name}" for name in SERVICES} <= names


async def test_a_second_daemon_is_refused_and_harms_nothing(place: Place):
    async with daemon_in(place) as api:
        with pytest.raises(StartError, match="run_dir: another daemon works in"):
            await Daemon(place.config).__aenter__()
        assert (await api.status()).instance == place.instance


async def test_a_stopped_daemon_leaves_its_place_to_the_next(place: Place):
    for _ in range(2):
        async with daemon_in(place) as api:
            await api.status()
        assert not place.config.socket.exists()


async def test_a_stale_socket_is_replaced(place: Place):
    place.config.run_dir.mkdir()
    place.config.socket.touch()
    async with daemon_in(place) as api:
        await api.status()


async def test_a_store_of_a_later_version_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch):
    with store_module.Store(place.config.state_dir / "state.db") as store:
        store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(StartError, match="schema 99"):
        await Daemon(place.config).__aenter__()
    # What had been started before has been stopped: the lock is free again.
    monkeypatch.setattr("assent.service.schema.MIGRATIONS", ("",) * 99)
    async with daemon_in(place) as api:
        await api.status()


async def test_an_unknown_profile_is_named():
    place = Place("enormous")
    try:
        with pytest.raises(StartError, match="no profile 'enormous'"):
            await Daemon(place.config).__aenter__()
        assert not place.pins.exists()
    finally:
        place.remove()


async def test_an_unknown_group_is_named():
    place = Place(socket_group="no-such-group")
    try:
        with pytest.raises(StartError, match="socket_group: no group named 'no-such-group'"):
            await Daemon(place.config).__aenter__()
    finally:
        place.remove()


async def test_the_socket_s_group_owns_it():
    place = Place(socket_group="daemon")
    try:
        async with Daemon(place.config), api_at(place.config.socket):
            assert place.config.socket.group() == place.config.run_dir.group() == "daemon"
    finally:
        place.remove()


async def test_a_bug_is_told_to_the_log_and_not_to_the_client(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(_: object) -> None:
        raise RuntimeError("inner workings")

    monkeypatch.setattr(store_module.Store, "counts", broken)
    code, message = await refused(api.status())
    assert (code, message) == (StatusCode.INTERNAL, "internal error: see the daemon's log")
    assert "inner workings" in caplog.text


async def test_a_request_that_is_too_large_is_refused(api: Api):
    code, _ = await refused(api.psk("away", bytes(2 << 20)))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    await api.status()


async def test_over_tcp_there_would_be_no_keys(api: Api, place: Place):
    """Flows are handed out over the unix socket only, whatever else may serve the API."""
    from unittest.mock import Mock

    from assent.errors import FailedPrecondition
    from assent.service.servicers.sessions import SessionsServicer
    from assent.v1 import sessions_pb2

    servicer = SessionsServicer(Mock(), Mock(), Mock(), place.pins)
    context = Mock(spec=grpc.aio.ServicerContext)
    context.peer.return_value = "ipv4:127.0.0.1:1"
    with pytest.raises(FailedPrecondition, match="unix socket only"):
        await servicer.OpenFlow(sessions_pb2.OpenFlowRequest(), context)
