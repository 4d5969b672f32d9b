# SPDX-License-Identifier: Apache-2.0
"""How other agents are reached: flow 0 of a session, or a URL."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import UUID

from assent.errors import FailedPrecondition, InvalidArgument
from assent.service.bindings import http2, tls, websocket
from assent.service.bindings.fabric import FabricLinks
from assent.service.bindings.links import Link, LinkOwner
from assent.service.config import Config
from assent.service.records import LocalCell, RemoteCell
from assent.service.sessions import SessionManager
from assent.wire.cellid import CellID

WEBSOCKET = "wss://"
HTTP2 = "h2://"


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """Whom an offer is made to.

    Attributes:
        cell: A remote one.
        url: "" = over the fabric; wss://host[:port]/covenant, or h2://host[:port].
    """

    cell: CellID
    url: str = ""


class Transports:
    """Listens and dials. Use it as an async context manager.

    Args:
        config: Where to listen, and with which certificates.
        fabric: Links over flow 0.
        sessions: Shakes hands where there is no session.
        owner: Gets the links.
    """

    def __init__(
        self, config: Config, fabric: FabricLinks, sessions: SessionManager, owner: LinkOwner
    ) -> None:
        self._config = config
        self._fabric = fabric
        self._sessions = sessions
        self._owner = owner
        self._connectors: dict[str, http2.Connector] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        config = self._config
        async with contextlib.AsyncExitStack() as stack:
            if config.covenant_wss is not None:
                context = self._server(tls.ALPN_WEBSOCKET)
                await stack.enter_async_context(
                    websocket.Listener(*config.covenant_wss, context, self._owner)
                )
            if config.covenant_h2 is not None:
                context = self._server(tls.ALPN_HTTP2)
                await stack.enter_async_context(
                    http2.Listener(*config.covenant_h2, context, self._owner)
                )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def reach(self, local: LocalCell, remote: RemoteCell, url: str, agent_id: UUID) -> Link:
        """A link to another agent.

        Args:
            local: The cell that speaks.
            remote: The cell that is spoken to.
            url: See RemoteTarget.
            agent_id: Of the local agent.

        Raises:
            InvalidArgument: The URL is none of these.
            FailedPrecondition: No session, and none can be made.
            TimeoutError: The peer does not answer.
            Unavailable: It cannot be reached.
        """
        if not url:
            await self._sessions.connect(remote, local, renew=False)
            return self.fabric_link(remote.id, local.id)
        if url.startswith(WEBSOCKET):
            return await websocket.connect(url, self._client(tls.ALPN_WEBSOCKET), self._owner)
        if url.startswith(HTTP2):
            return await (await self._connector(url)).open_stream(agent_id)
        raise InvalidArgument(
            "url", "needs wss://host[:port]/covenant or h2://host[:port]; ws:// is not spoken"
        )

    def fabric_link(self, remote: CellID, local: CellID) -> Link:
        """The link over flow 0 of a pair that is in session.

        Raises:
            FailedPrecondition: It is not.
        """
        return self._fabric.link(remote, local)

    async def _connector(self, url: str) -> http2.Connector:
        found = self._connectors.get(url)
        if found is None:
            place = url.removeprefix(HTTP2).removesuffix(tls.PATH)
            found = http2.Connector(
                f"https://{place}{tls.PATH}", self._client(tls.ALPN_HTTP2), self._owner
            )
            await self._stack.enter_async_context(found)
            self._connectors[url] = found
        return found

    def _client(self, alpn: str) -> ssl.SSLContext:
        config = self._config
        return tls.client_context(
            alpn=alpn,
            ca=config.covenant_ca,
            certificate=config.covenant_certificate,
            key=config.covenant_key,
        )

    def _server(self, alpn: str) -> ssl.SSLContext:
        config = self._config
        if config.covenant_certificate is None or config.covenant_key is None:
            raise FailedPrecondition("covenant_certificate: a listener needs one, and its key")
        return tls.server_context(
            config.covenant_certificate,
            config.covenant_key,
            alpn=alpn,
            client_ca=config.covenant_client_ca,
        )
