# SPDX-License-Identifier: Apache-2.0
"""TCP/UP over WebSocket (seed, section 5; RFC 6455): one link a connection, one frame a message.

The library does the protocol without doing input or output; this module moves its bytes. Messages
are binary and not compressed. They may come in pieces, and leave whole.
"""

from __future__ import annotations

import asyncio
import http
import logging
import ssl as tls_library
from abc import abstractmethod
from typing import Final, Literal
from uuid import UUID

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from assent.service.bindings import listening
from assent.service.bindings.links import (
    FRAME_MAX,
    BindingError,
    Limits,
    Link,
    LinkOwner,
    Meter,
    Refusal,
    Refusals,
    require_sendable,
    require_whole,
)
from assent.service.bindings.sockets import Wire, dial
from assent.service.bindings.tls import HTTPS_PORT, PATH, require_strict, split_url
from assent.wire.cellid import CellID

SUBPROTOCOL: Final = Subprotocol("tcpup.covenant.v1")
"""Seed, section 5.1."""

_REASON_MAX: Final = 123
"""Bytes that fit a close frame behind its code (RFC 6455, section 5.5)."""
_CODES: Final = {
    Refusal.TEXT: CloseCode.UNSUPPORTED_DATA,
    Refusal.MALFORMED: CloseCode.INVALID_DATA,
    Refusal.OVERSIZED: CloseCode.MESSAGE_TOO_BIG,
    Refusal.PROTOCOL: CloseCode.PROTOCOL_ERROR,
}

# The library logs each connection; here that is the owner's to do.
_silent = logging.getLogger(f"{__name__}.library")
_silent.disabled = True


class _WebSocket(Wire):
    """A connection that is a link."""

    def __init__(
        self,
        peer: str,
        protocol: ServerProtocol | ClientProtocol,
        owner: LinkOwner,
        limits: Limits,
        refusals: Refusals,
    ) -> None:
        super().__init__(peer, limits, refusals)
        self._protocol = protocol
        self._owner = owner
        self._controls = Meter(
            limits.control_rate, limits.control_burst, asyncio.get_running_loop().time
        )
        self._pieces: list[bytes] = []
        self._opened = False
        self._closed = False

    # What the owner sees

    @property
    def name(self) -> str:
        """For logs."""
        return f"websocket {self.peer}"

    @property
    def kind(self) -> Literal["websocket"]:
        """The binding."""
        return "websocket"

    @property
    def peer_cell(self) -> CellID | None:
        """Not known here."""
        return None

    @property
    def local_cell(self) -> CellID | None:
        """Not a cell."""
        return None

    @property
    def claimed_agent(self) -> UUID | None:
        """Not said here."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether frames still go both ways."""
        return self._opened and not self._closed

    def send(self, frame: bytes) -> None:
        """Queues one whole frame; see `Link`."""
        require_sendable(frame)
        if self.is_open:
            self._protocol.send_binary(frame)
            self._flush()

    def close(self, reason: str) -> None:
        """Says farewell (RFC 6455, section 7.1.1); see `Link`."""
        self._because(reason)
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.GOING_AWAY, _cut(reason))
            self._flush()
            self._finish(self._limits.close_timeout)
        elif self._protocol.state is State.CONNECTING:
            self.abort(reason)
        self._end(reason)

    # What the connection brings

    def _take(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            else:
                self._shake_hands(event)
        self._flush()
        self._look_for_the_end()

    @abstractmethod
    def _shake_hands(self, event: Request | Response) -> None:
        """The other side's half of the upgrade came."""

    def _begun(self) -> None:
        """The link stands."""
        self._expect("first frame", self._limits.first_frame_timeout)
        self._opened = True
        self._owner.opened(self)
        if not self.ready.done():
            self.ready.set_result(None)

    def _frame(self, frame: Frame) -> None:
        if not self.is_open:
            return
        if frame.opcode in {Opcode.PING, Opcode.PONG}:
            self._spend_control()
        elif frame.opcode is Opcode.TEXT:
            raise BindingError(Refusal.TEXT, "a text message, where all are binary")
        elif frame.opcode in {Opcode.BINARY, Opcode.CONT}:
            self._piece(frame)

    def _piece(self, frame: Frame) -> None:
        self._pieces.append(bytes(frame.data))
        if not frame.fin:
            if len(self._pieces) >= self._limits.fragments:
                raise BindingError(
                    Refusal.FLOOD, f"a message in more than {self._limits.fragments} pieces"
                )
            if len(self._pieces) == 1:
                self._expect("end of a message", self._limits.first_frame_timeout)
            return
        message, self._pieces = b"".join(self._pieces), []
        require_whole(message)
        self._expected()
        self._owner.received(self, message)

    def _spend_control(self) -> None:
        if not self._controls.spend():
            raise BindingError(Refusal.FLOOD, "too many pings and pongs")

    # The end

    def _look_for_the_end(self) -> None:
        """What the library has found wrong by itself, or the peer's farewell."""
        error = self._protocol.parser_exc
        if error is not None:
            if self.is_open:
                sent = self._protocol.close_sent
                oversized = sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG
                refusal = Refusal.OVERSIZED if oversized else Refusal.PROTOCOL
                self._refuse(BindingError(refusal, str(error)))
        elif self._protocol.close_rcvd is not None:
            self._because(f"closed by the peer: {self._protocol.close_rcvd}")
            self._end(self._reason)
            self._hang_up()

    def _refused(self, error: BindingError) -> None:
        if self._protocol.state in {State.OPEN, State.CLOSING}:
            if self._protocol.state is State.OPEN:
                self._protocol.fail(
                    _CODES.get(error.refusal, CloseCode.POLICY_VIOLATION), _cut(str(error))
                )
            self._flush()
            self._end(str(error))
            self._finish(self._limits.close_timeout)
        else:
            self.abort(str(error))

    def _over(self, reason: str) -> None:
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.is_open:
            self._closed = True
            self._owner.closed(self, reason)

    def _flush(self) -> None:
        # An empty string stands for the end, which has its own way here.
        for data in filter(None, self._protocol.data_to_send()):
            self._write(data)


class _Served(_WebSocket):
    """The server's side."""

    def __init__(self, peer: str, owner: LinkOwner, limits: Limits, refusals: Refusals) -> None:
        self._server = ServerProtocol(
            subprotocols=[SUBPROTOCOL],
            extensions=None,
            max_size=FRAME_MAX,
            logger=_silent,
        )
        super().__init__(peer, self._server, owner, limits, refusals)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._expect("upgrade request", self._limits.handshake_timeout)

    def _take(self, data: bytes) -> None:
        super()._take(data)
        error = self._server.handshake_exc
        if error is not None and not self._reason:
            raise BindingError(Refusal.REQUEST, str(error))

    def _shake_hands(self, event: Request | Response) -> None:
        if not isinstance(event, Request):
            raise TypeError("a response on the server's side")
        response = self._answer(event)
        self._server.send_response(response)
        self._flush()
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            problem = f"{response.status_code} {response.reason_phrase}"
            raise BindingError(Refusal.REQUEST, problem)
        self._begun()

    def _answer(self, request: Request) -> Response:
        if request.path != PATH:
            return self._server.reject(http.HTTPStatus.NOT_FOUND, f"Covenants are at {PATH}.\n")
        response = self._server.accept(request)
        if (
            response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS
            and self._server.subprotocol != SUBPROTOCOL
        ):
            return self._server.reject(
                http.HTTPStatus.BAD_REQUEST, f"Ask for the subprotocol {SUBPROTOCOL}.\n"
            )
        return response

    def _refused(self, error: BindingError) -> None:
        if error.refusal is Refusal.REQUEST:
            self._finish(self._limits.close_timeout)
        else:
            super()._refused(error)


class _Dialled(_WebSocket):
    """The client's side."""

    def __init__(
        self, peer: str, url: str, owner: LinkOwner, limits: Limits, refusals: Refusals
    ) -> None:
        self._client = ClientProtocol(
            parse_uri(url),
            subprotocols=[SUBPROTOCOL],
            extensions=None,
            max_size=FRAME_MAX,
            logger=_silent,
        )
        super().__init__(peer, self._client, owner, limits, refusals)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._expect("answer to the upgrade request", self._limits.handshake_timeout)
        self._client.send_request(self._client.connect())
        self._flush()

    def _take(self, data: bytes) -> None:
        super()._take(data)
        error = self._client.handshake_exc
        if error is not None and not self._reason:
            raise BindingError(Refusal.REQUEST, _handshake_problem(error))

    def _begun(self) -> None:
        # Who was asked for a covenant owes no first frame; the engine has a timer for its answer.
        super()._begun()
        self._expected()

    def _shake_hands(self, event: Request | Response) -> None:
        if self._client.handshake_exc is not None:
            return
        if self._client.subprotocol != SUBPROTOCOL:
            raise BindingError(Refusal.REQUEST, f"the peer does not speak {SUBPROTOCOL}")
        self._begun()


class Listener(listening.Listener):
    """Takes links from clients; see `listening.Listener`."""

    KIND = "websocket"

    def _serve(self, peer: str, owner: LinkOwner, limits: Limits) -> Wire:
        """See `listening.Listener`."""
        return _Served(peer, owner, limits, self.refusals)


async def connect(
    url: str, ssl: tls_library.SSLContext, owner: LinkOwner, limits: Limits | None = None
) -> Link:
    """Opens a link to a listener; `owner` has been told of it when this returns.

    Args:
        url: `wss://host[:port]/covenant`.
        ssl: See `tls.client_context`.
        owner: Gets the link.
        limits: Bounds.

    Raises:
        InvalidArgument: The URL is of another form, or `ssl` is too lenient.
        Unavailable: There is no such peer, or not one that speaks this.
    """
    parts = split_url(url, "wss")
    require_strict(ssl, client=True)
    limits = limits or Limits()
    host, port = parts.hostname or "", parts.port or HTTPS_PORT
    refusals = Refusals("websocket", asyncio.get_running_loop().time)
    return await dial(
        host,
        port,
        ssl,
        limits,
        lambda: _Dialled(f"{host}:{port}", url, owner, limits, refusals),
    )


def _cut(reason: str) -> str:
    return reason.encode()[:_REASON_MAX].decode(errors="ignore")


def _handshake_problem(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        return f"the peer answers with status {error.response.status_code}"
    if isinstance(error, InvalidHandshake):
        return str(error)
    return "the peer does not speak WebSocket"
