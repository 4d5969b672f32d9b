# SPDX-License-Identifier: Apache-2.0
"""What the listeners of both bindings are."""

from __future__ import annotations

import asyncio
import ssl as ssl_library
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from assent.service.bindings.links import Kind, Limits, LinkOwner, Refusals
from assent.service.bindings.sockets import Acceptor, Wire
from assent.service.bindings.tls import require_strict


class Listener(ABC):
    """Takes links from clients of one binding. Use it as an async context manager.

    Args:
        host: Address to listen at.
        port: TCP port; 0 = any.
        ssl: See `tls.server_context`.
        owner: Gets the links.
        limits: Bounds.

    Raises:
        InvalidArgument: `ssl` speaks TLS older than 1.3.
        Unavailable: On entering, where the address cannot be listened at.
    """

    KIND: ClassVar[Kind]

    def __init__(
        self,
        host: str,
        port: int,
        ssl: ssl_library.SSLContext,
        owner: LinkOwner,
        limits: Limits | None = None,
    ) -> None:
        require_strict(ssl, client=False)
        limits = limits or Limits()
        self.refusals = Refusals(self.KIND, asyncio.get_running_loop().time)
        self._acceptor = Acceptor(
            host,
            port,
            ssl,
            limits,
            self.refusals,
            lambda peer: self._serve(peer, owner, limits),
        )

    @abstractmethod
    def _serve(self, peer: str, owner: LinkOwner, limits: Limits) -> Wire:
        """The server's end of a new connection."""

    @property
    def port(self) -> int:
        """The TCP port, while the context is entered."""
        return self._acceptor.port

    @property
    def connections(self) -> int:
        """Connections at present."""
        return self._acceptor.connections

    async def __aenter__(self) -> Self:
        await self._acceptor.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._acceptor.__aexit__(kind, error, traceback)
