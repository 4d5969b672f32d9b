# SPDX-License-Identifier: Apache-2.0
"""TCP/UP over HTTP/2 (seed, section 6; RFC 9113): one link a stream, one frame a DATA frame.

The library does the protocol without doing input or output; this module moves its bytes and decides
when a DATA frame goes out. Since it holds one TCP/UP frame whole, it is never cut to fit a window:
it waits until the stream's window and the connection's both have room for all of it. What waits for
the connection's window is not overtaken, or small frames of others could starve a large one.

The response's header is sent at once, not after the request's body: both sides talk while the
stream is open. Whichever side ends its half ends the link; the other half ends after what is
queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl as tls_library
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Literal, Self
from uuid import UUID

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, NoAvailableStreamIDError
from h2.exceptions import ProtocolError as H2ProtocolError
from h2.settings import SettingCodes

from assent.errors import InvalidArgument, ResourceExhausted, Unavailable
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
from assent.service.bindings.sockets import Wire, dial, end_all
from assent.service.bindings.tls import (
    ALPN_HTTP2,
    HTTPS_PORT,
    PATH,
    require_strict,
    split_url,
)
from assent.wire.cellid import CellID
from assent.wire.tcpup import agent_uuid

CONTENT_TYPE: Final = "application/cbor"
VERSION: Final = "1"

# Some more than a frame, so that one that is too long costs its own stream alone.
_DATA_MAX: Final = FRAME_MAX + 1024
_STREAM_WINDOW: Final = 2 * _DATA_MAX
_CONNECTION_WINDOW: Final = 8 * _DATA_MAX
_FIRST_WINDOW: Final = 65_535
_HEADERS_MAX: Final = 8192
_UUID: Final = re.compile(
    r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", re.ASCII
)
_OK: Final = 200
# For the stream and for the connection, and as much again.
_UPDATES_PER_FRAME: Final = 4

_Headers = Sequence[tuple[bytes, bytes]]


class _RequestError(BindingError):
    """A request that is answered with a status, and its stream with no more than that."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(Refusal.REQUEST, problem)
        self.status = status


class _Stream:
    """A stream that is a link."""

    def __init__(self, wire: _Connection, number: int, agent: UUID | None) -> None:
        self.number = number
        self.queue: deque[bytes] = deque()
        self.is_ending = False
        """Whether our half ends once the queue is empty."""
        self.ours_ended = False
        self.theirs_ended = False
        self.timer: asyncio.TimerHandle | None = None
        self.answer: asyncio.Future[None] | None = None
        """For a client: done when the peer has accepted the stream."""
        self._wire = wire
        self._agent = agent
        self._queued = 0
        self._open = False

    @property
    def name(self) -> str:
        """For logs."""
        return f"http2 {self._wire.peer}/{self.number}"

    @property
    def kind(self) -> Literal["http2"]:
        """The binding."""
        return "http2"

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
        """On the server's side, who the request says that it comes from."""
        return self._agent

    @property
    def is_open(self) -> bool:
        """Whether frames still go both ways."""
        return self._open

    def send(self, frame: bytes) -> None:
        """Queues one whole frame; see `Link`."""
        require_sendable(frame)
        if not self._open:
            return
        self.queue.append(frame)
        self._queued += len(frame)
        self._wire.take_turn(self)
        if self._open and self._queued > self._wire.queued_max:
            self._wire.refuse_stream(
                self, BindingError(Refusal.OVERFLOW, "the peer takes too little of what it is sent")
            )

    def close(self, reason: str) -> None:
        """Ends our half after what is queued; see `Link`."""
        self._wire.close_stream(self, reason)

    def sent(self) -> None:
        """The first of the queue has gone."""
        self._queued -= len(self.queue.popleft())

    def begin(self) -> None:
        """Frames may go both ways."""
        self._open = True

    def end(self) -> bool:
        """No more frames; whether that is news."""
        was, self._open = self._open, False
        return was

    def stop_timer(self) -> None:
        """What was waited for is here, or matters no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class _Connection(Wire):
    """A connection with its streams."""

    def __init__(
        self, peer: str, owner: LinkOwner, limits: Limits, refusals: Refusals, *, client: bool
    ) -> None:
        super().__init__(peer, limits, refusals)
        self.queued_max = limits.queued_bytes
        self.streams: dict[int, _Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._h2 = H2Connection(
            H2Configuration(client_side=client, header_encoding=None, logger=None)
        )
        self._controls = Meter(limits.control_rate, limits.control_burst, self._loop.time)
        self._resets = Meter(limits.reset_rate, limits.reset_burst, self._loop.time)
        self._turns: OrderedDict[int, _Stream] = OrderedDict()
        """Streams that have something to send or to end, the next one first."""
        self._pumping = False
        self._updates_owed = 0
        """Window updates that the peer may still send for what it was sent."""
        self._is_closing = False
        self._said_goodbye = False

    # For streams

    def take_turn(self, stream: _Stream) -> None:
        """Sends what a stream has queued, after what others have."""
        self._turns.setdefault(stream.number, stream)
        self._pump()

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            self._send_in_turn()
        finally:
            self._pumping = False
        self._flush()

    def close_stream(self, stream: _Stream, reason: str) -> None:
        """Ends our half of a stream after what it has queued; cuts it where that takes long."""
        if not stream.end():
            return
        self._finish_stream(stream)
        self._owner.closed(stream, reason)

    def refuse_stream(
        self, stream: _Stream, error: BindingError, code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR
    ) -> None:
        """Cuts one stream for what the peer did on it; the others do not notice."""
        self._refusals.add(error.refusal, stream.name, str(error))
        if error.refusal is Refusal.OVERFLOW:
            code = ErrorCodes.ENHANCE_YOUR_CALM
        self._reset(stream, code, str(error))
        self._spend_reset()

    def close(self, reason: str) -> None:
        """Ends all streams and the connection, in good order."""
        self._because(reason)
        if self._transport is None or self._is_closing:
            return
        self._is_closing = True
        self._expected()
        self._timer = self._loop.call_later(
            self._limits.close_timeout, self._go_away, ErrorCodes.NO_ERROR
        )
        for stream in list(self.streams.values()):
            self.close_stream(stream, reason)
        if not self.streams:
            self._go_away(ErrorCodes.NO_ERROR)

    # What the connection brings

    def _begin(self, transport: asyncio.Transport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != ALPN_HTTP2:
            raise BindingError(Refusal.ALPN, f"TLS did not settle on {ALPN_HTTP2}")
        self._h2.initiate_connection()
        self._h2.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: self._limits.streams,
                SettingCodes.MAX_FRAME_SIZE: _DATA_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADERS_MAX,
                SettingCodes.ENABLE_PUSH: 0,
            }
        )
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - _FIRST_WINDOW)
        self._flush()

    def _take(self, data: bytes) -> None:
        if self._said_goodbye:
            return
        try:
            events = self._h2.receive_data(data)
        except H2ProtocolError as error:
            raise BindingError(Refusal.PROTOCOL, str(error) or type(error).__name__) from None
        for event in events:
            self._event(event)
        self._pump()

    def _event(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, StreamEnded):
            self._half_closed(event.stream_id)
        elif isinstance(event, RequestReceived | ResponseReceived):
            self._headers(event.stream_id, event.headers or [])
        elif isinstance(event, StreamReset):
            self._was_reset(event)
        elif isinstance(event, TrailersReceived):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                self.refuse_stream(stream, BindingError(Refusal.PROTOCOL, "trailers"))
        elif isinstance(event, ConnectionTerminated):
            self._gone_away()
        else:
            if isinstance(event, RemoteSettingsChanged):
                self._settings_known()
            if isinstance(event, WindowUpdated) and self._updates_owed:
                self._updates_owed -= 1
            else:
                self._spend_control()

    @abstractmethod
    def _headers(self, number: int, headers: _Headers) -> None:
        """A request or a response has begun."""

    @abstractmethod
    def _gone_away(self) -> None:
        """The peer opens no more streams, and takes none."""

    def _settings_known(self) -> None:
        """The peer has said what it takes."""

    def _data(self, event: DataReceived) -> None:
        data = event.data or b""
        # The owner has it before this returns; so its room is given back at once.
        if event.flow_controlled_length:
            with contextlib.suppress(H2Error):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self.streams.get(event.stream_id)
        if not data:
            self._spend_control()
            if event.stream_ended is not None:
                return
        if stream is None or not stream.is_open:
            return
        try:
            require_whole(data)
        except BindingError as error:
            self.refuse_stream(stream, error)
        else:
            stream.stop_timer()
            self._owner.received(stream, data)

    def _half_closed(self, number: int) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.theirs_ended = True
        self.close_stream(stream, "ended by the peer")
        self._forget_if_over(stream)

    def _was_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            self._forget(stream, f"reset by the peer, {_code(event.error_code)}")
        self._spend_reset()

    def _spend_control(self) -> None:
        if not self._controls.spend():
            raise BindingError(Refusal.FLOOD, "too many frames that move nothing")

    def _spend_reset(self) -> None:
        if not self._resets.spend():
            raise BindingError(Refusal.FLOOD, "too many streams that end by reset")

    # Streams

    def _opened(self, stream: _Stream) -> None:
        stream.begin()
        self._owner.opened(stream)

    def _finish_stream(self, stream: _Stream) -> None:
        stream.is_ending = True
        stream.stop_timer()
        stream.timer = self._loop.call_later(self._limits.close_timeout, self._cut, stream)
        self.take_turn(stream)

    def _cut(self, stream: _Stream) -> None:
        stream.timer = None
        self._guarded(lambda: self._reset(stream, ErrorCodes.CANCEL, "not ended in time"))

    def _reset(self, stream: _Stream, code: ErrorCodes, reason: str) -> None:
        if stream.number in self.streams:
            with contextlib.suppress(H2Error):
                self._h2.reset_stream(stream.number, code)
            self._flush()
            self._forget(stream, reason)

    def _forget_if_over(self, stream: _Stream) -> None:
        if stream.ours_ended and stream.theirs_ended:
            self._forget(stream, "over")

    def _forget(self, stream: _Stream, reason: str) -> None:
        """A stream is no more."""
        if self.streams.pop(stream.number, None) is None:
            return
        self._turns.pop(stream.number, None)
        stream.stop_timer()
        stream.queue.clear()
        if stream.answer is not None and not stream.answer.done():
            stream.answer.set_exception(Unavailable(f"{stream.name}: {reason}"))
        if stream.end():
            self._owner.closed(stream, reason)
        if self._is_closing and not self.streams:
            self._go_away(ErrorCodes.NO_ERROR)

    # Sending

    def _send_in_turn(self) -> None:
        waiting: list[_Stream] = []
        while self._turns and not self._paused and not self._said_goodbye:
            number, stream = next(iter(self._turns.items()))
            if stream.queue and len(stream.queue[0]) > self._h2.outbound_flow_control_window:
                break
            del self._turns[number]
            try:
                if self._send_first(stream):
                    self._turns.setdefault(number, stream)
                else:
                    waiting.append(stream)
            except H2Error:
                # The peer has ended the stream; the event that says so is on its way.
                continue
        self._turns.update((stream.number, stream) for stream in waiting if stream.queue)

    def _send_first(self, stream: _Stream) -> bool:
        """Sends one frame of a stream, or its end; False where that has to wait or is all."""
        if not stream.queue:
            if stream.is_ending and not stream.ours_ended:
                stream.ours_ended = True
                self._h2.end_stream(stream.number)
                self._flush()
                self._forget_if_over(stream)
            return False
        frame = stream.queue[0]
        if len(frame) > self._h2.max_outbound_frame_size:
            problem = f"the peer takes no more than {self._h2.max_outbound_frame_size} bytes"
            self.refuse_stream(stream, BindingError(Refusal.OVERFLOW, problem))
            return False
        if len(frame) > self._h2.local_flow_control_window(stream.number):
            return False
        self._h2.send_data(stream.number, frame)
        stream.sent()
        self._updates_owed += _UPDATES_PER_FRAME
        self._flush()
        return True

    def _drained(self) -> None:
        self._pump()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._write(data)

    # The end

    def _refused(self, error: BindingError) -> None:
        if error.refusal is Refusal.ALPN:
            self.abort(str(error))
            return
        calm = error.refusal in {Refusal.FLOOD, Refusal.SLOW}
        self._go_away(ErrorCodes.ENHANCE_YOUR_CALM if calm else ErrorCodes.PROTOCOL_ERROR)
        self._forget_all(str(error))

    def _go_away(self, code: ErrorCodes) -> None:
        if self._said_goodbye:
            return
        self._said_goodbye = True
        # After an error of the peer's, the library has said so itself.
        with contextlib.suppress(H2Error):
            self._h2.close_connection(code)
        self._flush()
        self._finish(self._limits.close_timeout)

    def _follow(self) -> None:
        """Ends as well: the peer has said its last words."""
        self.close("closed by the peer")
        self._hang_up()

    def _over(self, reason: str) -> None:
        self._forget_all(reason)

    def _forget_all(self, reason: str) -> None:
        for stream in list(self.streams.values()):
            self._forget(stream, reason)


class _Served(_Connection):
    """The server's side."""

    def __init__(self, peer: str, owner: LinkOwner, limits: Limits, refusals: Refusals) -> None:
        super().__init__(peer, owner, limits, refusals, client=False)

    def _begin(self, transport: asyncio.Transport) -> None:
        super()._begin(transport)
        self._expect("request", self._limits.handshake_timeout)

    def _headers(self, number: int, headers: _Headers) -> None:
        try:
            agent = _read_request(headers)
        except _RequestError as refused:
            self._answer(number, refused.status)
            self._refusals.add(refused.refusal, self.peer, str(refused))
            self._spend_reset()
            return
        if self._is_closing:
            self._h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        if not self._answer(number, _OK):
            return
        self._expected()
        stream = self.streams[number] = _Stream(self, number, agent)
        stream.timer = self._loop.call_later(
            self._limits.first_frame_timeout, self._no_frame, stream
        )
        self._opened(stream)

    def _answer(self, number: int, status: int) -> bool:
        """Sends a response's header; False where the stream has been reset meanwhile."""
        headers = [(":status", str(status)), ("x-tcpup-version", VERSION)]
        if status == _OK:
            headers.append(("content-type", CONTENT_TYPE))
        try:
            self._h2.send_headers(number, headers, end_stream=status != _OK)
            if status != _OK:
                # The client need not send what nobody will read (RFC 9113, section 8.1).
                self._h2.reset_stream(number, ErrorCodes.NO_ERROR)
        except H2Error:
            return False
        return True

    def _no_frame(self, stream: _Stream) -> None:
        stream.timer = None
        self._guarded(
            lambda: self.refuse_stream(stream, BindingError(Refusal.SLOW, "no first frame in time"))
        )

    def _forget(self, stream: _Stream, reason: str) -> None:
        super()._forget(stream, reason)
        if not self.streams and not self._reason:
            self._expect("request", self._limits.empty_timeout)

    def _gone_away(self) -> None:
        if not self.streams:
            self._follow()


class _Dialled(_Connection):
    """The client's side."""

    def __init__(
        self, peer: str, authority: str, owner: LinkOwner, limits: Limits, refusals: Refusals
    ) -> None:
        super().__init__(peer, owner, limits, refusals, client=True)
        self.usable = True
        self._authority = authority

    async def open_stream(self, agent: UUID) -> _Stream:
        """Asks for a stream, and waits until it is granted.

        Raises:
            ResourceExhausted: The peer takes no more of them on this connection.
            Unavailable: It does not grant it.
        """
        if self._h2.open_outbound_streams >= self._h2.remote_settings.max_concurrent_streams:
            raise ResourceExhausted(f"{self.peer} takes no more streams")
        try:
            number = self._h2.get_next_available_stream_id()
        except NoAvailableStreamIDError:
            self.usable = False
            raise Unavailable(f"{self.peer}: the connection has had all its streams") from None
        self._h2.send_headers(
            number,
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", self._authority),
                (":path", PATH),
                ("content-type", CONTENT_TYPE),
                ("x-tcpup-version", VERSION),
                ("x-tcpup-agent-id", agent.hex),
            ],
        )
        stream = self.streams[number] = _Stream(self, number, None)
        stream.answer = self._loop.create_future()
        self._flush()
        try:
            async with asyncio.timeout(self._limits.handshake_timeout):
                await stream.answer
        except TimeoutError:
            raise Unavailable(f"{stream.name}: no answer in time") from None
        finally:
            if not stream.answer.done() or stream.answer.cancelled():
                self._reset(stream, ErrorCodes.CANCEL, "never mind")
        return stream

    def _begin(self, transport: asyncio.Transport) -> None:
        super()._begin(transport)
        self._expect("settings", self._limits.handshake_timeout)

    def _settings_known(self) -> None:
        if not self.ready.done():
            self._expected()
            self.ready.set_result(None)

    def _headers(self, number: int, headers: _Headers) -> None:
        stream = self.streams.get(number)
        if stream is None or stream.answer is None or stream.answer.done():
            return
        status = dict(headers).get(b":status", b"").decode(errors="replace")
        if status == "200":
            stream.answer.set_result(None)
            self._opened(stream)
        else:
            self._reset(stream, ErrorCodes.CANCEL, f"the peer answers with status {status}")

    def _gone_away(self) -> None:
        self.usable = False
        if not self.streams:
            self._follow()

    def _forget(self, stream: _Stream, reason: str) -> None:
        super()._forget(stream, reason)
        if not self.streams and not self.usable:
            self._follow()

    def _over(self, reason: str) -> None:
        self.usable = False
        super()._over(reason)


class Listener(listening.Listener):
    """Takes links from clients; see `listening.Listener`."""

    KIND = "http2"

    def _serve(self, peer: str, owner: LinkOwner, limits: Limits) -> Wire:
        """See `listening.Listener`."""
        return _Served(peer, owner, limits, self.refusals)


class Connector:
    """Keeps one connection to a listener, made when it is needed. An async context manager.

    Args:
        url: `https://host[:port]/covenant`.
        ssl: See `tls.client_context`.
        owner: Gets the links.
        limits: Bounds.

    Raises:
        InvalidArgument: The URL is of another form, or `ssl` is too lenient.
    """

    def __init__(
        self, url: str, ssl: tls_library.SSLContext, owner: LinkOwner, limits: Limits | None = None
    ) -> None:
        parts = split_url(url, "https")
        require_strict(ssl, client=True)
        self.refusals = Refusals("http2", asyncio.get_running_loop().time)
        self._host, self._port = parts.hostname or "", parts.port or HTTPS_PORT
        self._authority = parts.netloc
        self._ssl = ssl
        self._owner = owner
        self._limits = limits or Limits()
        self._wires: set[_Dialled] = set()
        self._current: _Dialled | None = None
        self._dialling = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._current = None
        await end_all(self._wires, self._limits.close_timeout)

    async def open_stream(self, agent_id: UUID) -> Link:
        """Opens a link; the owner has been told of it when this returns.

        Args:
            agent_id: Who this side says that it is.

        Raises:
            InvalidArgument: No agent has such a name.
            ResourceExhausted: The peer takes no more streams.
            Unavailable: There is no such peer, or not one that speaks this, or it refuses.
        """
        try:
            _read_agent(agent_id.hex)
        except _RequestError as error:
            raise InvalidArgument("agent_id", str(error)) from None
        async with self._dialling:
            if self._current is None or not self._current.usable:
                self._current = await self._dial()
            wire = self._current
        return await wire.open_stream(agent_id)

    async def _dial(self) -> _Dialled:
        peer = f"{self._host}:{self._port}"
        wire = await dial(
            self._host,
            self._port,
            self._ssl,
            self._limits,
            lambda: _Dialled(peer, self._authority, self._owner, self._limits, self.refusals),
        )
        self._wires.add(wire)
        wire.lost.add_done_callback(lambda _: self._wires.discard(wire))
        return wire


def _read_request(headers: _Headers) -> UUID:
    """The agent that a request says it comes from (seed, section 6.2)."""
    found: dict[str, str] = {}
    for key, value in headers:
        name = key.decode("latin-1")
        if name in found and name.startswith(("x-tcpup-", "content-type")):
            raise _RequestError(400, f"{name} stands there twice")
        found[name] = value.decode("latin-1")
    if found.get(":path") != PATH:
        raise _RequestError(404, f"covenants are at {PATH}")
    if found.get(":method") != "POST":
        raise _RequestError(405, "a covenant begins with POST")
    if found.get(":scheme") != "https":
        raise _RequestError(400, "the scheme is not https")
    if found.get("content-type") != CONTENT_TYPE:
        raise _RequestError(415, f"the content is not {CONTENT_TYPE}")
    if found.get("x-tcpup-version") != VERSION:
        raise _RequestError(400, f"x-tcpup-version is not {VERSION}")
    return _read_agent(found.get("x-tcpup-agent-id", ""))


def _read_agent(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise _RequestError(400, "x-tcpup-agent-id is no UUID")
    try:
        return agent_uuid(bytes.fromhex(text.replace("-", "")))
    except InvalidArgument as error:
        raise _RequestError(400, f"x-tcpup-agent-id {error.problem}") from None


def _code(error: ErrorCodes | int | None) -> str:
    return error.name if isinstance(error, ErrorCodes) else str(error)
