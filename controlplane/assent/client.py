# SPDX-License-Identifier: Apache-2.0
"""A synchronous client of assentd's API, over its unix socket.

    with Client() as client:
        status = client.fabric.GetStatus(fabric_pb2.GetStatusRequest())

A failed call raises `ApiError`: gRPC's own errors are wrapped here, once, and callers need not know
of them.
"""

from __future__ import annotations

import os
import re
import socket as sockets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc

from assent.closing import Closing
from assent.errors import AssentError, InvalidArgument
from assent.v1.cells_pb2_grpc import CellsStub
from assent.v1.covenants_pb2_grpc import CovenantsStub
from assent.v1.fabric_pb2_grpc import FabricStub
from assent.v1.grants_pb2_grpc import GrantsStub
from assent.v1.keys_pb2_grpc import KeysStub
from assent.v1.provisioning_pb2_grpc import ProvisioningStub
from assent.v1.relay_pb2_grpc import RelayStub
from assent.v1.sessions_pb2_grpc import SessionsStub
from assent.v1.tokens_pb2_grpc import TokensStub

DEFAULT_TIMEOUT_S = 40.0
"""Longer than a handshake may take, so that it is the daemon that says why one failed."""

# The daemon's own limit: the list of a full profile's cells is larger than gRPC's default.
_RESPONSE_MAX = 64 << 20
# A unix socket address holds 108 bytes with its final zero.
_SOCKET_PATH_MAX = 107
_INSTANCE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62})")


class ApiError(AssentError):
    """The daemon refused a call, or could not answer it.

    Attributes:
        code: Name of the gRPC status, as in `NOT_FOUND`.
        detail: What the daemon said, in its own words.
        service: The service that was called, as in `Cells`; "" where none was reached.
    """

    def __init__(self, code: str, detail: str, service: str = "") -> None:
        super().__init__(f"{detail or 'the daemon gave no reason'} ({code})")
        self.code = code
        self.detail = detail
        self.service = service


class DaemonUnreachableError(ApiError):
    """Nothing answers at the socket; the message names it.

    Attributes:
        socket: Where the daemon was looked for.
        may_start: Whether starting the daemon would help.
    """

    def __init__(self, socket: Path, problem: str, *, may_start: bool) -> None:
        super().__init__("UNAVAILABLE", problem)
        self.args = (problem,)
        self.socket = socket
        self.may_start = may_start


def resolve_socket(socket: Path | None = None) -> Path:
    """Finds the API's socket: as given, else $ASSENT_SOCKET, else that of $ASSENT_INSTANCE.

    Args:
        socket: Path of the socket; None where the environment decides.

    Returns:
        An absolute path, which need not exist.

    Raises:
        InvalidArgument: $ASSENT_INSTANCE is not the name of an instance, or the path is longer than
            the address of a socket can be.
    """
    if socket is None and os.environ.get("ASSENT_SOCKET"):
        socket = Path(os.environ["ASSENT_SOCKET"])
    if socket is not None:
        socket = socket.absolute()
        if len(bytes(socket)) > _SOCKET_PATH_MAX:
            raise InvalidArgument("socket", f"a path has at most {_SOCKET_PATH_MAX} bytes")
        return socket
    instance = os.environ.get("ASSENT_INSTANCE") or "default"
    # The name becomes a part of a path: it must not lead out of /run/assent.
    if not _INSTANCE.fullmatch(instance):
        raise InvalidArgument("ASSENT_INSTANCE", "needs 1 to 63 of a-z, 0-9 and '-'")
    return Path("/run/assent") / instance / "api.sock"


class Client(Closing):
    """A connection to one daemon; connects at its first call.

    Args:
        socket: Path of the API's socket; see `resolve_socket` for what None means.
        timeout_s: Seconds that a call may take unless it brings its own timeout.

    Attributes:
        socket: The socket in use.
        cells, covenants, fabric, grants, keys, provisioning, relay, sessions, tokens: Stubs of the
            services.
    """

    def __init__(self, socket: Path | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.socket = resolve_socket(socket)
        # The target is a URI: anything else in the path would be read as its syntax.
        plain = grpc.insecure_channel(
            f"unix:{quote(str(self.socket))}",
            options=[("grpc.max_receive_message_length", _RESPONSE_MAX)],
        )
        channel = grpc.intercept_channel(
            plain, _UnaryErrors(self.socket, timeout_s), _StreamErrors(self.socket)
        )
        self._channel = plain
        self.cells = CellsStub(channel)
        self.covenants = CovenantsStub(channel)
        self.fabric = FabricStub(channel)
        self.grants = GrantsStub(channel)
        self.keys = KeysStub(channel)
        self.provisioning = ProvisioningStub(channel)
        self.relay = RelayStub(channel)
        self.sessions = SessionsStub(channel)
        self.tokens = TokensStub(channel)

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._channel.close()


class _CallDetails(NamedTuple):
    """What gRPC asks of a call's details; its own class for them is private."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _UnaryErrors(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Gives calls their default timeout and makes their failures ApiErrors.

    Calls that stream requests may take as long as they go on.
    """

    def __init__(self, socket: Path, timeout_s: float) -> None:
        self._socket = socket
        self._timeout_s = timeout_s

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request: Any,
    ) -> Any:
        details = client_call_details
        if details.timeout is None:
            details = _CallDetails(
                details.method,
                self._timeout_s,
                details.metadata,
                details.credentials,
                details.wait_for_ready,
                details.compression,
            )
        return self._answered(continuation(details, request), details.method)

    def intercept_stream_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        call = continuation(client_call_details, request_iterator)
        return self._answered(call, client_call_details.method)

    def _answered(self, call: Any, method: str) -> Any:
        if call.code() is not grpc.StatusCode.OK:
            # What is raised on this side, gRPC disguises as a status: it is a bug of the caller.
            error = call.exception()
            if not isinstance(error, grpc.RpcError):
                raise error
            raise _wrap(error, self._socket, method) from error
        return call


class _StreamErrors(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Makes failures of response streams ApiErrors, whenever they occur."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def intercept_unary_stream(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request: Any,
    ) -> Any:
        call = continuation(client_call_details, request)
        return _Stream(call, self._socket, client_call_details.method)

    def intercept_stream_stream(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        call = continuation(client_call_details, request_iterator)
        return _Stream(call, self._socket, client_call_details.method)


class _Stream:
    """A response stream; everything but iteration is the call's own."""

    def __init__(self, call: Any, socket: Path, method: str) -> None:
        self._call = call
        self._socket = socket
        self._method = method

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise _wrap(error, self._socket, self._method) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _wrap(error: Any, socket: Path, method: str) -> ApiError:
    """Says what a failed call means; gRPC's errors are the calls that failed."""
    code: grpc.StatusCode = error.code()
    if code is grpc.StatusCode.UNAVAILABLE and (found := _why_unreachable(socket)):
        return found
    # "/assent.v1.Cells/Get"
    service = method.split("/")[1].rpartition(".")[2]
    return ApiError(code.name, error.details() or "", service)


def _why_unreachable(path: Path) -> DaemonUnreachableError | None:
    """Asks the kernel why a socket cannot be reached; gRPC only has it in prose.

    Returns:
        The reason, or None where somebody listens there.
    """
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return DaemonUnreachableError(path, f"there is no socket at {path}", may_start=True)
        except ConnectionRefusedError:
            return DaemonUnreachableError(path, f"nothing listens at {path}", may_start=True)
        except OSError as error:
            return DaemonUnreachableError(path, f"{path}: {error.strerror}", may_start=False)
    return None
