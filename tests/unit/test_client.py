# SPDX-License-Identifier: Apache-2.0
"""The API client against a real gRPC server on a real unix socket."""

from __future__ import annotations

import os
import socket as sockets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from assent.client import ApiError, Client, DaemonUnreachableError, resolve_socket
from assent.errors import AssentError, InvalidArgument
from assent.v1 import cells_pb2, cells_pb2_grpc, sessions_pb2, sessions_pb2_grpc


class FakeCells(cells_pb2_grpc.CellsServicer):
    """Answers by the name that it is asked for."""

    def __init__(self) -> None:
        self.seconds_left: float | None = None
        self.released = threading.Event()

    def Get(self, request, context):  # noqa: N802
        self.seconds_left = context.time_remaining()
        name = request.cell.name
        if name == "slow":
            self.released.wait(30)
        if name in grpc.StatusCode.__members__:
            context.abort(grpc.StatusCode[name], "" if name == "ABORTED" else f"it is {name}")
        return cells_pb2.Cell(name=name, local=True)

    def List(self, request, context):  # noqa: N802
        return cells_pb2.ListCellsResponse(cells=[cells_pb2.Cell(mac="m" * 6_000_000)])


class FakeSessions(sessions_pb2_grpc.SessionsServicer):
    """Two manifests, then a failure."""

    def WatchManifests(self, request, context):  # noqa: N802
        yield sessions_pb2.Manifest(flow=1)
        yield sessions_pb2.Manifest(flow=2)
        context.abort(grpc.StatusCode.NOT_FOUND, "the cell was removed")


@pytest.fixture
def cells() -> FakeCells:
    return FakeCells()


@pytest.fixture
def socket(tmp_path: Path, cells: FakeCells) -> Iterator[Path]:
    path = tmp_path / "api.sock"
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        cells_pb2_grpc.add_CellsServicer_to_server(cells, server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(FakeSessions(), server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        yield path
        cells.released.set()
        server.stop(None).wait()


def by_name(name: str) -> cells_pb2.GetCellRequest:
    return cells_pb2.GetCellRequest(cell=cells_pb2.CellRef(name=name))


class TestResolveSocket:
    def test_argument_beats_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASSENT_SOCKET", "/from/environment")
        assert resolve_socket(Path("/from/argument")) == Path("/from/argument")

    def test_socket_variable_beats_the_instance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASSENT_SOCKET", "/from/environment")
        monkeypatch.setenv("ASSENT_INSTANCE", "lab")
        assert resolve_socket() == Path("/from/environment")

    def test_instance_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASSENT_SOCKET", "")
        monkeypatch.setenv("ASSENT_INSTANCE", "lab")
        assert resolve_socket() == Path("/run/assent/lab/api.sock")

    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ASSENT_SOCKET", raising=False)
        monkeypatch.setenv("ASSENT_INSTANCE", "")
        assert resolve_socket() == Path("/run/assent/default/api.sock")

    @pytest.mark.parametrize("instance", ["../../tmp/evil", "a/b", "-a", "A", "a" * 64])
    def test_instance_cannot_lead_elsewhere(
        self, monkeypatch: pytest.MonkeyPatch, instance: str
    ) -> None:
        monkeypatch.delenv("ASSENT_SOCKET", raising=False)
        monkeypatch.setenv("ASSENT_INSTANCE", instance)
        with pytest.raises(InvalidArgument, match="ASSENT_INSTANCE"):
            resolve_socket()

    def test_path_longer_than_a_socket_address(self) -> None:
        assert resolve_socket(Path("/" + "a" * 106)) == Path("/" + "a" * 106)
        with pytest.raises(InvalidArgument, match=r"socket: .*107"):
            resolve_socket(Path("/" + "a" * 107))

    def test_relative_path_is_made_absolute(self) -> None:
        assert resolve_socket(Path("api.sock")) == Path.cwd() / "api.sock"


class TestCalls:
    def test_reply(self, socket: Path) -> None:
        with Client(socket) as client:
            assert client.cells.Get(by_name("alice")).name == "alice"

    def test_path_with_the_syntax_of_uris(self, tmp_path: Path, cells: FakeCells) -> None:
        path = tmp_path / "a %41?b#c.sock"
        with ThreadPoolExecutor(max_workers=1) as pool:
            server = grpc.server(pool)
            cells_pb2_grpc.add_CellsServicer_to_server(cells, server)
            server.add_insecure_port(f"unix:{tmp_path / 'plain.sock'}")
            server.start()
            (tmp_path / "plain.sock").rename(path)
            with Client(path) as client:
                assert client.cells.Get(by_name("alice")).local
            server.stop(None).wait()

    def test_reply_larger_than_the_default_of_grpc(self, socket: Path) -> None:
        with Client(socket) as client:
            reply = client.cells.List(cells_pb2.ListCellsRequest())
        assert len(reply.cells[0].mac) == 6_000_000

    def test_calls_have_a_deadline_unless_they_bring_their_own(
        self, socket: Path, cells: FakeCells
    ) -> None:
        with Client(socket, timeout_s=1000) as client:
            client.cells.Get(by_name("alice"))
            assert cells.seconds_left is not None
            assert 500 < cells.seconds_left < 1500  # gRPC rounds long ones up
            client.cells.Get(by_name("alice"), timeout=50)
            assert cells.seconds_left < 100

    def test_slow_daemon_is_a_deadline_exceeded(self, socket: Path) -> None:
        with Client(socket, timeout_s=0.05) as client, pytest.raises(ApiError) as caught:
            client.cells.Get(by_name("slow"))
        assert caught.value.code == "DEADLINE_EXCEEDED"

    def test_closed_client_makes_no_calls(self, socket: Path) -> None:
        with Client(socket) as client:
            client.cells.Get(by_name("alice"))
        with pytest.raises(ValueError, match="closed"):
            client.cells.Get(by_name("alice"))


class TestErrors:
    @pytest.mark.parametrize(
        "code", ["NOT_FOUND", "INVALID_ARGUMENT", "ALREADY_EXISTS", "INTERNAL", "UNAVAILABLE"]
    )
    def test_status_becomes_an_api_error(self, socket: Path, code: str) -> None:
        with Client(socket) as client, pytest.raises(ApiError) as caught:
            client.cells.Get(by_name(code))
        error = caught.value
        assert (error.code, error.detail, error.service) == (code, f"it is {code}", "Cells")
        assert str(error) == f"it is {code} ({code})"
        assert isinstance(error, AssentError)
        assert not isinstance(error, DaemonUnreachableError | grpc.RpcError)

    def test_status_without_a_word(self, socket: Path) -> None:
        with Client(socket) as client, pytest.raises(ApiError, match="no reason") as caught:
            client.cells.Get(by_name("ABORTED"))
        assert caught.value.detail == ""

    def test_stream_fails_where_it_fails(self, socket: Path) -> None:
        """What came before a failure is delivered; then comes the ApiError."""
        with Client(socket) as client:
            stream = client.sessions.WatchManifests(sessions_pb2.WatchManifestsRequest())
            assert [next(stream).flow, next(stream).flow] == [1, 2]
            with pytest.raises(ApiError) as caught:
                next(stream)
        assert (caught.value.code, caught.value.service) == ("NOT_FOUND", "Sessions")

    def test_stream_can_be_cancelled(self, socket: Path) -> None:
        with Client(socket) as client:
            stream = client.sessions.WatchManifests(sessions_pb2.WatchManifestsRequest())
            assert next(stream).flow == 1
            stream.cancel()
            with pytest.raises(ApiError) as caught:
                list(stream)
        assert caught.value.code == "CANCELLED"


class TestUnreachable:
    def fail(self, path: Path) -> DaemonUnreachableError:
        with Client(path) as client, pytest.raises(DaemonUnreachableError) as caught:
            client.cells.Get(by_name("alice"))
        assert caught.value.code == "UNAVAILABLE"
        assert caught.value.socket == path
        return caught.value

    def test_no_socket(self, tmp_path: Path) -> None:
        error = self.fail(tmp_path / "api.sock")
        assert str(error) == f"there is no socket at {tmp_path / 'api.sock'}"
        assert error.may_start

    def test_streams_say_it_too(self, tmp_path: Path) -> None:
        with Client(tmp_path / "api.sock") as client, pytest.raises(DaemonUnreachableError):
            next(client.sessions.WatchManifests(sessions_pb2.WatchManifestsRequest()))

    def test_socket_that_a_dead_daemon_left(self, tmp_path: Path) -> None:
        path = tmp_path / "api.sock"
        with sockets.socket(sockets.AF_UNIX) as left:
            left.bind(str(path))
        error = self.fail(path)
        assert str(error) == f"nothing listens at {path}"
        assert error.may_start

    def test_socket_behind_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        error = self.fail(tmp_path / "file" / "api.sock")
        assert os.strerror(20) in str(error)
        assert not error.may_start

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user to be refused as")
    def test_socket_that_this_user_may_not_use(self, tmp_path: Path) -> None:
        path = tmp_path / "api.sock"
        with sockets.socket(sockets.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            path.chmod(0o600)
            for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
                parent.chmod(0o711)
            os.seteuid(65534)
            try:
                error = self.fail(path)
            finally:
                os.seteuid(0)
        assert str(error) == f"{path}: Permission denied"
        assert not error.may_start
