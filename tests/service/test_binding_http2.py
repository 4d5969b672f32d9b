# SPDX-License-Identifier: Apache-2.0
"""bindings/http2.py, against Node.js (nghttp2), and against a client that does as it is told."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from tests.service.binding_rig import BUG, HOST, Authority, Owner, Party, frame, stranger
from tests.service.conftest import eventually

from assent.errors import InvalidArgument, ResourceExhausted, Unavailable
from assent.service.bindings import tls
from assent.service.bindings.http2 import Connector, Listener
from assent.service.bindings.links import FRAME_MAX, Limits, Refusal

USUAL = Limits(handshake_timeout=20, first_frame_timeout=20, close_timeout=1)
SHORT = 0.3
BIG = frame(bytes(FRAME_MAX - len(frame(b""))))
AGENT = UUID("0192f0c1-2d3e-7f40-8a51-b6c7d8e9f001")
EventT = TypeVar("EventT", bound=h2.events.Event)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("http2"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Party:
    return authority.party("localhost")


Listen = Callable[..., AbstractAsyncContextManager[tuple[Listener, Owner]]]


@pytest.fixture
def listen(server: Party) -> Listen:
    @asynccontextmanager
    async def listening(limits: Limits = USUAL) -> AsyncIterator[tuple[Listener, Owner]]:
        context = tls.server_context(server.certificate, server.key, alpn=tls.ALPN_HTTP2)
        owner = Owner(echo=True)
        async with Listener(HOST, 0, context, owner, limits) as listener:
            yield listener, owner
        # Whoever came has gone, and both were told.
        assert listener.connections == 0
        assert len(owner.ends) == len(owner.links)

    return listening


@pytest.fixture
def ours(authority: Authority) -> ssl.SSLContext:
    return tls.client_context(alpn=tls.ALPN_HTTP2, ca=authority.path)


@pytest.fixture
def theirs(authority: Authority) -> ssl.SSLContext:
    return stranger(authority.path, tls.ALPN_HTTP2)


def url(port: int) -> str:
    return f"https://localhost:{port}/covenant"


class Client:
    """Speaks HTTP/2 as well or as badly as a test asks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        # What must not be sent is what the tests send.
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, validate_outbound_headers=False, header_encoding="utf-8"
            )
        )
        self.events: list[h2.events.Event] = []

    @classmethod
    @asynccontextmanager
    async def dial(
        cls, port: int, context: ssl.SSLContext, settings: dict[SettingCodes, int] | None = None
    ) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        client = cls(reader, writer)
        try:
            client.h2.initiate_connection()
            client.h2.update_settings(
                settings
                if settings is not None
                else {
                    SettingCodes.MAX_FRAME_SIZE: 1 << 20,
                    SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20,
                }
            )
            client.h2.increment_flow_control_window(1 << 24)
            client.flush()
            yield client
        finally:
            writer.transport.abort()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def request(self, changes: dict[str, str | None] | None = None, *, end: bool = False) -> int:
        headers: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": "/covenant",
            "content-type": "application/cbor",
            "x-tcpup-version": "1",
            "x-tcpup-agent-id": AGENT.hex,
            **(changes or {}),
        }
        number = self.h2.get_next_available_stream_id()
        kept = [(key, value) for key, value in headers.items() if value is not None]
        self.h2.send_headers(number, kept, end_stream=end)
        self.flush()
        return number

    def data(self, number: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(number, data, end_stream=end)
        self.flush()

    async def until(self, kind: type[EventT], number: int | None = None) -> EventT:
        """The first event of a kind that has not been asked for yet."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and number in (None, getattr(event, "stream_id", None)):
                    self.events.remove(event)
                    return event
            data = await asyncio.wait_for(self.reader.read(1 << 16), 10)
            if not data:
                raise EOFError("the connection is gone")
            for event in self.h2.receive_data(data):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()

    async def status(self, number: int) -> str:
        event = await self.until(h2.events.ResponseReceived, number)
        return dict(event.headers or [])[":status"]

    async def received(self, number: int) -> bytes:
        return (await self.until(h2.events.DataReceived, number)).data or b""

    async def settled(self) -> None:
        """Until the server's settings are known, and hold."""
        await self.until(h2.events.RemoteSettingsChanged)
        while self.h2.max_outbound_frame_size < FRAME_MAX:
            await self.until(h2.events.RemoteSettingsChanged)


# Those who behave

NODE = """
const http2 = require('node:http2');
const fs = require('node:fs');
const tls = require('node:tls');
const [port, ca] = process.argv.slice(1);
const head = (n) => { const b = Buffer.alloc(72); b[0] = 0x15; b.writeUInt32BE(n, 12); return b; };
const frame = (text) => Buffer.concat([head(text.length), Buffer.from(text), Buffer.alloc(32)]);
const session = http2.connect(`https://localhost:${port}`, {
  // Left to itself, it would insist on 'h2'.
  createConnection: () => tls.connect({
    port, host: 'localhost', servername: 'localhost',
    ca: fs.readFileSync(ca), ALPNProtocols: ['h2-tcpup'],
  }),
  settings: { maxFrameSize: 1048576, initialWindowSize: 1048576 },
});
const out = [];
let left = 2;
let opened = false;
const open = (name) => {
  const stream = session.request({
    ':method': 'POST', ':path': '/covenant', 'content-type': 'application/cbor',
    'x-tcpup-version': '1', 'x-tcpup-agent-id': '0192f0c1-2d3e-7f40-8a51-b6c7d8e9f001',
  });
  const got = [];
  stream.on('response', (headers) => {
    got.push(headers[':status']);
    stream.write(frame(name + ' one'));
    setImmediate(() => stream.write(frame(name + ' two')));
  });
  stream.on('data', (data) => {
    got.push(data.subarray(72, data.length - 32).toString());
    if (got.length === 3) stream.end();
  });
  stream.on('end', () => {
    out.push(got);
    if (--left === 0) { console.log(JSON.stringify(out.sort())); session.close(); }
  });
};
session.on('remoteSettings', () => {
  if (!opened) { opened = true; open('a'); open('b'); }
});
session.on('error', (error) => { console.error(error); process.exit(1); });
"""


async def test_a_stock_client_holds_two_streams_at_once(listen: Listen, authority: Authority):
    node = shutil.which("node") or shutil.which("nodejs")
    assert node, "Debian: nodejs"
    async with listen() as (listener, owner):
        process = await asyncio.create_subprocess_exec(
            node,
            "-e",
            textwrap.dedent(NODE),
            str(listener.port),
            str(authority.path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, problems = await asyncio.wait_for(process.communicate(), 30)
        assert not problems.decode()
        assert json.loads(out) == [[200, "a one", "a two"], [200, "b one", "b two"]]
        await eventually(lambda: len(owner.ends) == 2, "the ends")
    assert {link.claimed_agent for link in owner.links} == {AGENT}
    assert {link.kind for link in owner.links} == {"http2"}
    assert {reason for _, reason in owner.ends} == {"ended by the peer"}
    assert not listener.refusals.counts


async def test_both_sides_are_ours(listen: Listen, ours: ssl.SSLContext):
    owner = Owner()
    async with listen() as (listener, far), Connector(url(listener.port), ours, owner) as connector:
        first = await connector.open_stream(AGENT)
        second = await connector.open_stream(AGENT)
        assert owner.links == [first, second]
        for link, sent in ((first, frame(b"1")), (second, BIG), (first, BIG)):
            link.send(sent)
        await eventually(lambda: len(owner.frames) == 3, "the echoes")
        assert [got for link, got in owner.frames if link is first] == [frame(b"1"), BIG]
        assert [got for link, got in owner.frames if link is second] == [BIG]
        assert listener.connections == 1
        first.close("enough")
        first.close("again")
        first.send(frame(b"into the void"))
        await eventually(lambda: far.ends, "the end")
        assert owner.ends == [(first, "enough")]
        assert [reason for _, reason in far.ends] == ["ended by the peer"]
        second.send(frame(b"still there"))
        await eventually(lambda: len(owner.frames) == 4, "the echo")
    assert owner.ends[1:] == [(second, "this side stops")]


async def test_what_is_queued_goes_before_the_end(listen: Listen, ours: ssl.SSLContext):
    async with (
        listen() as (listener, far),
        Connector(url(listener.port), ours, Owner()) as connector,
    ):
        link = await connector.open_stream(AGENT)
        sent = [frame(bytes([n]) * 100_000) for n in range(8)]
        for one in sent:
            link.send(one)
        link.close("that was all")
        await eventually(lambda: far.ends, "the end")
        assert [got for _, got in far.frames] == sent


async def test_the_header_of_the_response_comes_before_the_request_ends(
    listen: Listen, theirs: ssl.SSLContext
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request()
        assert await client.status(number) == "200"
        owner.links[0].send(frame(b"the server begins"))
        assert await client.received(number) == frame(b"the server begins")


async def test_the_peer_s_end_is_answered_by_ours(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request()
        client.data(number, frame(), end=True)
        assert await client.received(number) == frame()
        await client.until(h2.events.StreamEnded, number)
        assert [reason for _, reason in owner.ends] == ["ended by the peer"]
        assert not listener.refusals.counts


async def test_a_frame_waits_until_the_stream_s_window_has_room_for_all_of_it(
    listen: Listen, theirs: ssl.SSLContext
):
    narrow = {SettingCodes.INITIAL_WINDOW_SIZE: 150, SettingCodes.MAX_FRAME_SIZE: 1 << 20}
    async with listen() as (listener, owner), Client.dial(listener.port, theirs, narrow) as client:
        blocked, free = client.request(), client.request()
        await client.status(blocked)
        await client.status(free)
        long, short = frame(bytes(100)), frame(b"short")
        owner.links[0].send(long)
        owner.links[0].send(short)
        owner.links[1].send(short)
        assert await client.received(free) == short
        assert not [one for one in client.events if isinstance(one, h2.events.DataReceived)]
        client.h2.increment_flow_control_window(1000, blocked)
        client.flush()
        assert await client.received(blocked) == long
        assert await client.received(blocked) == short


async def test_a_frame_waits_for_the_connection_s_window_and_is_not_overtaken(
    listen: Listen, theirs: ssl.SSLContext
):
    wide = {SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20, SettingCodes.MAX_FRAME_SIZE: 1 << 20}
    async with listen() as (listener, owner), Client.dial(listener.port, theirs, wide) as client:
        one, two = client.request(), client.request()
        await client.status(one)
        await client.status(two)
        # As though the client had given nothing beyond the first window of all connections.
        owner.links[0]._wire._h2.outbound_flow_control_window = 65_535
        owner.links[0].send(frame(bytes(65_536)))
        owner.links[1].send(frame(b"after it"))
        assert owner.links[1]._wire._h2.outbound_flow_control_window == 65_535
        client.h2.increment_flow_control_window(1 << 20)
        client.flush()
        assert await client.received(one) == frame(bytes(65_536))
        assert await client.received(two) == frame(b"after it")


async def test_a_frame_that_the_peer_could_never_take_whole_ends_its_stream_alone(
    listen: Listen, theirs: ssl.SSLContext
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs, {}) as client:
        small, other = client.request(), client.request()
        await client.status(small)
        await client.status(other)
        owner.links[0].send(frame(bytes(16_384)))
        await client.until(h2.events.StreamReset, small)
        assert [reason for _, reason in owner.ends] == ["the peer takes no more than 16384 bytes"]
        assert listener.refusals.counts == {Refusal.OVERFLOW: 1}
        client.data(other, frame())
        assert await client.received(other) == frame()


async def test_a_peer_that_opens_no_window_loses_the_stream(listen: Listen, theirs: ssl.SSLContext):
    narrow = {SettingCodes.INITIAL_WINDOW_SIZE: 0, SettingCodes.MAX_FRAME_SIZE: 1 << 20}
    async with listen() as (listener, owner), Client.dial(listener.port, theirs, narrow) as client:
        number = client.request()
        await client.status(number)
        for _ in range(USUAL.queued_bytes // len(BIG) + 1):
            owner.links[0].send(BIG)
        reset = await client.until(h2.events.StreamReset, number)
        assert reset.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert listener.refusals.counts == {Refusal.OVERFLOW: 1}
        assert len(owner.ends) == 1


# TLS


@pytest.mark.parametrize("alpn", [None, "h2"])
async def test_a_connection_that_did_not_settle_on_the_protocol_is_closed(
    listen: Listen, authority: Authority, alpn: str | None
):
    async with listen() as (listener, owner):
        context = stranger(authority.path, alpn)
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=context)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert listener.refusals.counts == {Refusal.ALPN: 1}
        assert not owner.links


async def test_tls_12_is_refused(listen: Listen, theirs: ssl.SSLContext):
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listen() as (listener, owner):
        with pytest.raises(OSError):
            await asyncio.open_connection("localhost", listener.port, ssl=theirs)
        await eventually(lambda: listener.refusals.counts == {Refusal.TLS: 1}, "the refusal")
        assert not owner.links


async def test_a_client_refuses_a_server_that_did_not_settle_on_the_protocol(
    server: Party, ours: ssl.SSLContext
):
    context = tls.server_context(server.certificate, server.key, alpn="h2")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    owner = Owner()
    async with await asyncio.start_server(silent, HOST, 0, ssl=context) as other:
        port = other.sockets[0].getsockname()[1]
        async with Connector(url(port), ours, owner) as connector:
            with pytest.raises(Unavailable, match="did not settle on h2-tcpup"):
                await connector.open_stream(AGENT)
    assert not owner.links


@pytest.mark.parametrize("bad", ["http://localhost/covenant", "wss://localhost/covenant"])
async def test_a_url_of_another_scheme_is_refused(bad: str, ours: ssl.SSLContext):
    with pytest.raises(InvalidArgument, match="https://"):
        Connector(bad, ours, Owner())


async def test_an_agent_of_no_known_form_is_not_named(listen: Listen, ours: ssl.SSLContext):
    async with (
        listen() as (listener, owner),
        Connector(url(listener.port), ours, Owner()) as connector,
    ):
        with pytest.raises(InvalidArgument, match="agent_id"):
            await connector.open_stream(UUID(int=0))
        assert not owner.links


# The request


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({":path": "/"}, "404"),
        ({":path": "/covenant?x"}, "404"),
        ({":method": "GET"}, "405"),
        ({":method": "PUT"}, "405"),
        ({":scheme": "http"}, "400"),
        ({"content-type": "application/json"}, "415"),
        ({"content-type": None}, "415"),
        ({"x-tcpup-version": "2"}, "400"),
        ({"x-tcpup-version": None}, "400"),
        ({"x-tcpup-agent-id": None}, "400"),
        ({"x-tcpup-agent-id": "0" * 32}, "400"),
        ({"x-tcpup-agent-id": AGENT.hex[:-1]}, "400"),
        ({"x-tcpup-agent-id": "{" + str(AGENT) + "}"}, "400"),
        ({"x-tcpup-agent-id": AGENT.hex[:12] + "f" + AGENT.hex[13:]}, "400"),
    ],
)
async def test_a_wrong_request_is_answered_and_refused(
    listen: Listen, theirs: ssl.SSLContext, changes: dict[str, str | None], status: str
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request(changes)
        assert await client.status(number) == status
        await client.until(h2.events.StreamEnded, number)
        assert listener.refusals.counts == {Refusal.REQUEST: 1}
        assert not owner.links
        good = client.request()
        assert await client.status(good) == "200"


@pytest.mark.parametrize("text", [AGENT.hex, AGENT.hex.upper(), str(AGENT)])
async def test_an_agent_may_be_written_with_dashes(
    listen: Listen, theirs: ssl.SSLContext, text: str
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request({"x-tcpup-agent-id": text})
        assert await client.status(number) == "200"
        assert owner.links[0].claimed_agent == AGENT


async def test_large_headers_end_the_connection(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        await client.settled()
        client.request({"x-filler": "x" * 20_000})
        await client.until(h2.events.ConnectionTerminated)
        assert listener.refusals.counts == {Refusal.PROTOCOL: 1}
        assert not owner.links


async def test_what_is_no_http_2_is_refused(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=theirs)
        writer.write(b"GET /covenant HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert listener.refusals.counts == {Refusal.PROTOCOL: 1}
        assert not owner.links


async def test_a_refused_stream_is_said_so_to_a_client(
    listen: Listen, ours: ssl.SSLContext, server: Party
):
    owner = Owner()
    limits = replace(USUAL, streams=1)
    async with (
        listen(limits) as (listener, _),
        Connector(url(listener.port), ours, owner) as connector,
    ):
        link = await connector.open_stream(AGENT)
        with pytest.raises(ResourceExhausted):
            await connector.open_stream(AGENT)
        assert owner.links == [link]
        assert link.is_open


# DATA frames


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ([b""], Refusal.MALFORMED),
        ([frame()[:50], frame()[50:]], Refusal.MALFORMED),
        ([frame()[:-1]], Refusal.MALFORMED),
        ([frame() + b"x"], Refusal.MALFORMED),
        ([frame() + frame()], Refusal.MALFORMED),
        ([BIG + b"x"], Refusal.OVERSIZED),
    ],
    ids=["empty", "halves", "short", "long", "two", "oversized"],
)
async def test_a_wrong_data_frame_resets_its_stream_and_no_other(
    listen: Listen, theirs: ssl.SSLContext, data: Iterable[bytes], refusal: Refusal
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        await client.settled()
        wrong, other = client.request(), client.request()
        await client.status(wrong)
        await client.status(other)
        while client.h2.local_flow_control_window(wrong) < FRAME_MAX + 1:
            await client.until(h2.events.WindowUpdated)
        for one in data:
            client.data(wrong, one)
        reset = await client.until(h2.events.StreamReset, wrong)
        assert reset.error_code == ErrorCodes.PROTOCOL_ERROR
        assert listener.refusals.counts == {refusal: 1}
        assert [link for link, _ in owner.ends] == [owner.links[0]]
        assert not owner.frames
        client.data(other, frame(b"undisturbed"))
        assert await client.received(other) == frame(b"undisturbed")


async def test_trailers_reset_their_stream(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request()
        await client.status(number)
        client.h2.send_headers(number, [("x-more", "1")], end_stream=True)
        client.flush()
        await client.until(h2.events.StreamReset, number)
        assert listener.refusals.counts == {Refusal.PROTOCOL: 1}
        assert len(owner.ends) == 1


async def test_a_bug_of_the_owner_s_costs_one_connection(
    listen: Listen, theirs: ssl.SSLContext, caplog: pytest.LogCaptureFixture
):
    async with (
        listen() as (listener, _),
        Client.dial(listener.port, theirs) as other,
        Client.dial(listener.port, theirs) as client,
    ):
        client.data(client.request(), BUG)
        with pytest.raises((EOFError, OSError)):
            await client.until(h2.events.ConnectionTerminated)
        number = other.request()
        other.data(number, frame())
        assert await other.received(number) == frame()
    assert "link failed" in caplog.text


# Floods


async def test_rapid_resets_end_the_connection_and_no_other(listen: Listen, theirs: ssl.SSLContext):
    async with (
        listen() as (listener, owner),
        Client.dial(listener.port, theirs) as other,
        Client.dial(listener.port, theirs) as client,
    ):
        for _ in range(2 * int(USUAL.reset_burst)):
            client.h2.reset_stream(client.request(), ErrorCodes.CANCEL)
        client.flush()
        ended = await client.until(h2.events.ConnectionTerminated)
        assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert listener.refusals.counts == {Refusal.FLOOD: 1}
        assert len(owner.ends) == len(owner.links)
        number = other.request()
        other.data(number, frame())
        assert await other.received(number) == frame()


async def test_wrong_requests_without_end_end_the_connection(
    listen: Listen, theirs: ssl.SSLContext
):
    async with listen() as (listener, _), Client.dial(listener.port, theirs) as client:
        for _ in range(2 * int(USUAL.reset_burst)):
            client.request({":path": "/"}, end=True)
        ended = await client.until(h2.events.ConnectionTerminated)
        assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert listener.refusals.counts[Refusal.FLOOD] == 1


@pytest.mark.parametrize(
    "flood",
    [
        lambda client, number: client.h2.ping(b"12345678"),
        lambda client, number: client.h2.update_settings({SettingCodes.MAX_FRAME_SIZE: 1 << 20}),
        lambda client, number: client.h2.prioritize(number, weight=7),
        lambda client, number: client.h2.increment_flow_control_window(1, number),
    ],
    ids=["ping", "settings", "priority", "window"],
)
async def test_a_flood_of_frames_that_move_nothing_ends_the_connection(
    listen: Listen, theirs: ssl.SSLContext, flood: Callable[[Client, int], None]
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request()
        await client.status(number)
        for _ in range(2 * int(USUAL.control_burst)):
            flood(client, number)
        client.flush()
        ended = await client.until(h2.events.ConnectionTerminated)
        assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert listener.refusals.counts == {Refusal.FLOOD: 1}
        assert len(owner.ends) == 1


async def test_more_streams_than_allowed_end_the_connection(listen: Listen, theirs: ssl.SSLContext):
    limits = replace(USUAL, streams=2)
    async with listen(limits) as (listener, owner), Client.dial(listener.port, theirs) as client:
        await client.settled()
        await client.status(client.request())
        await client.status(client.request())
        # As though the client had not understood.
        client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
        client.h2.remote_settings.acknowledge()
        client.request()
        await client.until(h2.events.ConnectionTerminated)
        assert listener.refusals.counts == {Refusal.PROTOCOL: 1}
        assert len(owner.ends) == len(owner.links) == 2


# The slow


async def test_a_slow_request_is_cut(listen: Listen, theirs: ssl.SSLContext):
    limits = replace(USUAL, handshake_timeout=SHORT)
    async with listen(limits) as (listener, owner), Client.dial(listener.port, theirs) as client:
        ended = await client.until(h2.events.ConnectionTerminated)
        assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert listener.refusals.counts == {Refusal.SLOW: 1}
        assert not owner.links


async def test_a_slow_first_frame_is_cut_on_its_stream_alone(
    listen: Listen, theirs: ssl.SSLContext
):
    limits = replace(USUAL, first_frame_timeout=SHORT)
    async with listen(limits) as (listener, owner), Client.dial(listener.port, theirs) as client:
        quick, slow = client.request(), client.request()
        client.data(quick, frame())
        assert await client.received(quick) == frame()
        await client.until(h2.events.StreamReset, slow)
        assert [reason for _, reason in owner.ends] == ["no first frame in time"]
        assert listener.refusals.counts == {Refusal.SLOW: 1}
        client.data(quick, frame(b"still there"))
        assert await client.received(quick) == frame(b"still there")


async def test_a_connection_without_streams_is_closed_after_a_while(
    listen: Listen, theirs: ssl.SSLContext
):
    limits = replace(USUAL, empty_timeout=SHORT)
    async with listen(limits) as (listener, _), Client.dial(listener.port, theirs) as client:
        number = client.request()
        client.data(number, frame(), end=True)
        await client.until(h2.events.ConnectionTerminated)
        assert listener.refusals.counts == {Refusal.SLOW: 1}


# The end


async def test_a_cut_connection_ends_each_of_its_links_once(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        async with Client.dial(listener.port, theirs) as client:
            for _ in range(3):
                await client.status(client.request())
        await eventually(lambda: listener.connections == 0, "the end")
        assert [link for link, _ in owner.ends] == owner.links
        assert len(owner.links) == 3


async def test_a_stream_that_is_reset_ends_its_link_alone(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        gone, other = client.request(), client.request()
        await client.status(gone)
        await client.status(other)
        client.h2.reset_stream(gone, ErrorCodes.CANCEL)
        client.data(other, frame())
        assert await client.received(other) == frame()
        assert owner.ends == [(owner.links[0], "reset by the peer, CANCEL")]


async def test_a_frame_and_a_reset_in_one_breath_disturb_nobody(
    listen: Listen, theirs: ssl.SSLContext
):
    async with listen() as (listener, owner), Client.dial(listener.port, theirs) as client:
        gone, other = client.request(), client.request()
        await client.status(gone)
        await client.status(other)
        # The owner answers the frame when the library knows of the reset already.
        client.h2.send_data(gone, frame())
        client.h2.reset_stream(gone, ErrorCodes.CANCEL)
        client.flush()
        client.data(other, frame())
        assert await client.received(other) == frame()
        assert len(owner.ends) == 1
        assert not listener.refusals.counts


async def test_a_stream_whose_other_half_does_not_end_is_cut(
    listen: Listen, theirs: ssl.SSLContext
):
    limits = replace(USUAL, close_timeout=SHORT)
    async with listen(limits) as (listener, owner), Client.dial(listener.port, theirs) as client:
        number = client.request()
        await client.status(number)
        owner.links[0].close("enough")
        await client.until(h2.events.StreamEnded, number)
        reset = await client.until(h2.events.StreamReset, number)
        assert reset.error_code == ErrorCodes.CANCEL
        assert owner.ends == [(owner.links[0], "enough")]


async def test_a_listener_that_stops_ends_its_links_and_a_connector_dials_anew(
    listen: Listen, ours: ssl.SSLContext, server: Party
):
    owner = Owner()
    context = tls.server_context(server.certificate, server.key, alpn=tls.ALPN_HTTP2)
    async with listen() as (listener, far):
        port = listener.port
        connector = Connector(url(port), ours, owner)
        first = await connector.open_stream(AGENT)
    async with connector:
        assert far.ends == [(far.links[0], "this side stops")]
        await eventually(lambda: owner.ends, "the end")
        assert owner.ends[0][0] is first
        with pytest.raises(Unavailable):
            await connector.open_stream(AGENT)
        async with Listener(HOST, port, context, Owner(), USUAL):
            second = await connector.open_stream(AGENT)
            assert second.is_open
