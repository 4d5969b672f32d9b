# SPDX-License-Identifier: Apache-2.0
"""The API on its unix socket, with health and reflection."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from assent.errors import Unavailable
from assent.service.directories import group_id, make_shared
from assent.service.errors import ErrorInterceptor

REQUEST_MAX: Final = 2 << 20
"""Largest request, bytes: a manifest of a thousand items with long names, or 4,096 new cells."""
RESPONSE_MAX: Final = 64 << 20
"""Largest response, bytes: the list of a full default profile's cells fits."""
_STREAMS_MAX: Final = 256
_GRACE_SECONDS: Final = 2.0

Registration = tuple[str, Callable[[grpc.aio.Server], None]]


class ApiServer:
    """Serves the registered services. Use it as an async context manager.

    The socket is made in a directory that others cannot enter (0750), then given mode 0660: who may
    open it is root and the group, whatever the umask.

    Args:
        path: Of the unix socket. A stale one is replaced: the caller holds the daemon's lock.
        group: Owner group of the socket and its directory; None leaves root's.
        services: Full name of each service, and what adds it to a server.

    Raises:
        FailedPrecondition: On entering, where there is no such group.
        Unavailable: On entering, where the socket cannot be bound.
    """

    def __init__(self, path: Path, group: str | None, services: Sequence[Registration]) -> None:
        self._path = path
        self._group = group
        self._services = services
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def __aenter__(self) -> Self:
        gid = group_id(self._group)
        make_shared(self._path.parent, gid)
        self._path.unlink(missing_ok=True)
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=[
                ("grpc.max_receive_message_length", REQUEST_MAX),
                ("grpc.max_send_message_length", RESPONSE_MAX),
                ("grpc.max_concurrent_streams", _STREAMS_MAX),
                ("grpc.so_reuseport", 0),
            ],
        )
        names = [name for name, _ in self._services]
        for _, register in self._services:
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        try:
            server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise Unavailable(f"socket: cannot listen on {self._path}") from error
        await server.start()
        self._server = server
        self._path.chmod(0o660)
        if gid is not None:
            os.chown(self._path, -1, gid)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(_GRACE_SECONDS)
            self._server = None
        self._path.unlink(missing_ok=True)
