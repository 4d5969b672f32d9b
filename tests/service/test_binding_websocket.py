# SPDX-License-Identifier: Apache-2.0
"""bindings/websocket.py, against aiohttp's client, the library's own server, and the ill-willed."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from tests.service.binding_rig import BUG, HOST, Authority, Owner, Party, frame, stranger
from tests.service.conftest import eventually
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from assent.errors import InvalidArgument, Unavailable
from assent.service.bindings import tls, websocket
from assent.service.bindings.links import FRAME_MAX, Limits, Refusal
from assent.service.bindings.websocket import SUBPROTOCOL, Listener

USUAL = Limits(handshake_timeout=20, first_frame_timeout=20, close_timeout=1)
SHORT = 0.3
BIG = frame(bytes(FRAME_MAX - len(frame(b""))))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("websocket"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Party:
    return authority.party("localhost")


Listen = Callable[..., AbstractAsyncContextManager[tuple[Listener, Owner]]]


@pytest.fixture
def listen(authority: Authority, server: Party) -> Listen:
    @asynccontextmanager
    async def listening(
        limits: Limits = USUAL, **settings: Any
    ) -> AsyncIterator[tuple[Listener, Owner]]:
        context = tls.server_context(
            server.certificate, server.key, alpn=tls.ALPN_WEBSOCKET, **settings
        )
        owner = Owner(echo=True)
        async with Listener(HOST, 0, context, owner, limits) as listener:
            yield listener, owner
        # Whoever came has gone, and both were told.
        assert listener.connections == 0
        assert len(owner.ends) == len(owner.links)

    return listening


def url(port: int, path: str = "/covenant") -> str:
    return f"wss://localhost:{port}{path}"


@pytest.fixture
def ours(authority: Authority) -> ssl.SSLContext:
    return tls.client_context(alpn=tls.ALPN_WEBSOCKET, ca=authority.path)


@pytest.fixture
def theirs(authority: Authority) -> ssl.SSLContext:
    return stranger(authority.path)


def dial(port: int, context: ssl.SSLContext, **settings: Any) -> websockets.asyncio.client.connect:
    """The library's whole client, which can be told to misbehave."""
    usual: dict[str, Any] = {"subprotocols": [SUBPROTOCOL], "compression": None, "max_size": None}
    return websockets.asyncio.client.connect(
        url(port, settings.pop("path", "/covenant")), ssl=context, **{**usual, **settings}
    )


async def close_code(connection: Any) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(connection.recv(), 5)
    return closed.value.rcvd.code if closed.value.rcvd else None


# Those who behave


async def test_a_stock_client_exchanges_frames(listen: Listen, theirs: ssl.SSLContext):
    async with (
        listen() as (listener, owner),
        aiohttp.ClientSession() as session,
        session.ws_connect(
            url(listener.port), protocols=[SUBPROTOCOL], ssl=theirs, max_msg_size=0
        ) as client,
    ):
        assert client.protocol == SUBPROTOCOL
        for sent in (frame(b""), frame(b"two"), BIG):
            await client.send_bytes(sent)
            assert await client.receive_bytes() == sent
        assert (owner.links[0].kind, owner.links[0].peer_cell) == ("websocket", None)
        await client.close()
        await eventually(lambda: owner.ends, "the end")
    assert "closed by the peer" in owner.ends[0][1]
    assert not listener.refusals.counts


async def test_a_stock_server_exchanges_frames(server: Party, ours: ssl.SSLContext):
    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    context = tls.server_context(server.certificate, server.key, alpn=tls.ALPN_WEBSOCKET)
    owner = Owner()
    async with websockets.asyncio.server.serve(
        echo, HOST, 0, ssl=context, subprotocols=[SUBPROTOCOL], max_size=None
    ) as listener:
        port = listener.sockets[0].getsockname()[1]
        link = await websocket.connect(url(port), ours, owner)
        assert owner.links == [link]
        link.send(frame(b"one"))
        link.send(BIG)
        await eventually(lambda: len(owner.frames) == 2, "the echo")
        assert [got for _, got in owner.frames] == [frame(b"one"), BIG]
        link.close("enough")
        assert owner.ends == [(link, "enough")]
        link.send(frame(b"into the void"))
        link.close("again")
    assert len(owner.ends) == 1


async def test_both_sides_are_ours(listen: Listen, ours: ssl.SSLContext):
    owner = Owner()
    async with listen() as (listener, far):
        link = await websocket.connect(url(listener.port), ours, owner)
        link.send(frame(b"here"))
        await eventually(lambda: owner.frames, "the echo")
        assert owner.frames == [(link, frame(b"here"))]
        far.links[0].close("goodbye")
        await eventually(lambda: owner.ends, "the end")
    assert "goodbye" in owner.ends[0][1]
    assert far.ends == [(far.links[0], "goodbye")]


async def test_a_frame_may_come_in_pieces(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), dial(listener.port, theirs) as client:
        whole = frame(b"in pieces")
        await client.send([whole[:10], whole[10:11], whole[11:]])
        assert await client.recv() == whole
        assert [got for _, got in owner.frames] == [whole]


async def test_compression_is_not_agreed_to(listen: Listen, theirs: ssl.SSLContext):
    async with (
        listen() as (listener, _),
        dial(listener.port, theirs, compression="deflate") as client,
    ):
        assert client.protocol.extensions == []


async def test_idleness_after_the_first_frame_is_fine(listen: Listen, theirs: ssl.SSLContext):
    limits = replace(USUAL, first_frame_timeout=SHORT)
    async with listen(limits) as (listener, owner), dial(listener.port, theirs) as client:
        await client.send(frame())
        assert await client.recv() == frame()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 3 * SHORT)
        assert not owner.ends


# TLS


async def test_only_a_client_of_the_authority_is_let_in_where_one_is_named(
    listen: Listen, authority: Authority, ours: ssl.SSLContext
):
    member = authority.party("member")
    known = tls.client_context(
        alpn=tls.ALPN_WEBSOCKET,
        ca=authority.path,
        certificate=member.certificate,
        key=member.key,
    )
    async with listen(client_ca=authority.path) as (listener, owner):
        with pytest.raises(Unavailable):
            await websocket.connect(url(listener.port), ours, owner)
        await eventually(lambda: listener.refusals.counts[Refusal.TLS], "the refusal")
        assert not owner.links
        link = await websocket.connect(url(listener.port), known, Owner())
        assert len(owner.links) == 1
        link.close("done")


async def test_tls_12_is_refused(
    listen: Listen, theirs: ssl.SSLContext, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listen() as (listener, owner):
        with pytest.raises(OSError):
            await asyncio.open_connection("localhost", listener.port, ssl=theirs)
        await eventually(lambda: listener.refusals.counts == {Refusal.TLS: 1}, "the refusal")
        assert not owner.links
    (record,) = [one for one in caplog.records if one.message == "binding refused"]
    assert vars(record)["reason"] == "UNSUPPORTED_PROTOCOL"


async def test_plain_text_is_refused(listen: Listen):
    async with listen() as (listener, owner):
        reader, writer = await asyncio.open_connection(HOST, listener.port)
        writer.write(b"GET /covenant HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await eventually(lambda: listener.refusals.counts == {Refusal.TLS: 1}, "the refusal")
        assert not owner.links


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("ws://localhost/covenant", "ws:// is not encrypted"),
        ("http://localhost/covenant", "http:// is not encrypted"),
        ("https://localhost/covenant", "must be wss://"),
        ("wss:///covenant", "must be wss://"),
        ("wss://localhost", "must end in /covenant"),
        ("wss://localhost/covenant?x=1", "must end in /covenant"),
        ("wss://me@localhost/covenant", "must end in /covenant"),
        ("wss://localhost:99999/covenant", "is not a URL"),
    ],
)
async def test_a_url_of_another_form_is_refused(bad: str, problem: str, ours: ssl.SSLContext):
    owner = Owner()
    with pytest.raises(InvalidArgument, match=problem):
        await websocket.connect(bad, ours, owner)
    assert not owner.links


async def test_a_lenient_context_is_refused(server: Party):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(InvalidArgument, match="TLS 1\\.3"):
        Listener(HOST, 0, old, Owner())
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.minimum_version = ssl.TLSVersion.TLSv1_3
    blind.check_hostname = False
    with pytest.raises(InvalidArgument, match="certificate and its name"):
        await websocket.connect("wss://localhost/covenant", blind, Owner())


async def test_a_server_of_another_name_is_refused(
    authority: Authority, listen: Listen, tmp_path_factory: pytest.TempPathFactory
):
    other = Authority(tmp_path_factory.mktemp("other"))
    strange = tls.client_context(alpn=tls.ALPN_WEBSOCKET, ca=other.path)
    async with listen() as (listener, owner):
        with pytest.raises(Unavailable, match="TLS failed"):
            await websocket.connect(url(listener.port), strange, Owner())
        assert not owner.links


async def test_nobody_at_the_address_is_said_so(ours: ssl.SSLContext):
    with pytest.raises(Unavailable):
        await websocket.connect("wss://localhost:1/covenant", ours, Owner())


# The request


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"path": "/"}, 404),
        ({"path": "/covenant/"}, 404),
        ({"path": "/covenant?x"}, 404),
        ({"subprotocols": None}, 400),
        ({"subprotocols": ["tcpup.covenant.v2"]}, 400),
    ],
)
async def test_a_wrong_request_is_answered_and_refused(
    listen: Listen, theirs: ssl.SSLContext, settings: dict[str, Any], status: int
):
    async with listen() as (listener, owner):
        with pytest.raises(InvalidStatus) as refusal:
            await dial(listener.port, theirs, **settings)
        assert refusal.value.response.status_code == status
        assert listener.refusals.counts == {Refusal.REQUEST: 1}
        assert not owner.links


async def test_large_headers_are_refused(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        with pytest.raises(InvalidHandshake):
            await dial(listener.port, theirs, additional_headers={"x-long": "x" * 9000})
        assert listener.refusals.counts == {Refusal.REQUEST: 1}
        assert not owner.links


async def test_what_is_no_request_is_refused(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=theirs)
        writer.write(b"\x00\x01\x02 nothing of the kind\r\n\r\n")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert listener.refusals.counts == {Refusal.REQUEST: 1}
        assert not owner.links


async def test_a_server_without_the_subprotocol_is_refused(server: Party, ours: ssl.SSLContext):
    async def silent(connection: websockets.asyncio.server.ServerConnection) -> None:
        await connection.wait_closed()

    context = tls.server_context(server.certificate, server.key, alpn=tls.ALPN_WEBSOCKET)
    owner = Owner()
    async with websockets.asyncio.server.serve(silent, HOST, 0, ssl=context) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=r"tcpup\.covenant\.v1"):
            await websocket.connect(url(port), ours, owner)
    assert not owner.links


# Messages


@pytest.mark.parametrize(
    ("message", "code", "refusal"),
    [
        ("text", 1003, Refusal.TEXT),
        (frame()[:-1], 1007, Refusal.MALFORMED),
        (frame() + b"x", 1007, Refusal.MALFORMED),
        (frame() + frame(), 1007, Refusal.MALFORMED),
        (b"", 1007, Refusal.MALFORMED),
        (BIG + b"x", 1009, Refusal.OVERSIZED),
        ([BIG[:1000], BIG[1000:] + b"x"], 1009, Refusal.OVERSIZED),
        ([b"x"] * (USUAL.fragments + 1), 1008, Refusal.FLOOD),
    ],
    ids=["text", "half", "more", "two", "empty", "oversized", "oversized in pieces", "crumbs"],
)
async def test_a_wrong_message_ends_its_connection_and_no_other(
    listen: Listen, theirs: ssl.SSLContext, message: Any, code: int, refusal: Refusal
):
    async with (
        listen() as (listener, owner),
        dial(listener.port, theirs) as other,
        dial(listener.port, theirs) as client,
    ):
        await other.send(frame())
        assert await other.recv() == frame()
        with contextlib.suppress(ConnectionClosed):
            await client.send(message)
        assert await close_code(client) == code
        assert listener.refusals.counts == {refusal: 1}
        assert [got for _, got in owner.frames] == [frame()]
        await other.send(frame(b"undisturbed"))
        assert await other.recv() == frame(b"undisturbed")
        assert len(owner.ends) == 1


async def test_a_bug_of_the_owner_s_costs_one_connection(
    listen: Listen, theirs: ssl.SSLContext, caplog: pytest.LogCaptureFixture
):
    async with (
        listen() as (listener, _),
        dial(listener.port, theirs) as other,
        dial(listener.port, theirs) as client,
    ):
        await client.send(BUG)
        await close_code(client)
        await other.send(frame())
        assert await other.recv() == frame()
    assert "link failed" in caplog.text


async def test_a_flood_of_pings_is_refused(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner), dial(listener.port, theirs) as client:
        with contextlib.suppress(ConnectionClosed):
            for number in range(2 * int(USUAL.control_burst)):
                await client.ping(str(number))
        assert await close_code(client) == 1008
        assert listener.refusals.counts == {Refusal.FLOOD: 1}
        assert len(owner.ends) == 1


async def test_what_is_not_a_frame_is_not_sent(listen: Listen, ours: ssl.SSLContext):
    owner = Owner()
    async with listen() as (listener, far):
        link = await websocket.connect(url(listener.port), ours, owner)
        for bad in (b"", frame()[:-1], frame() + b"x", BIG + b"x"):
            with pytest.raises(InvalidArgument, match="frame"):
                link.send(bad)
        assert link.is_open
        assert not far.frames
        link.close("done")


async def test_a_peer_that_does_not_read_loses_its_link(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        client = await dial(listener.port, theirs)
        client.transport.pause_reading()
        link = await eventually(lambda: owner.links and owner.links[0], "the link")
        for _ in range(1000):
            link.send(BIG)
            await asyncio.sleep(0)
            if owner.ends:
                break
        assert owner.ends == [(link, "the peer takes too little of what it is sent")]
        assert listener.refusals.counts == {Refusal.OVERFLOW: 1}
        client.transport.abort()


# The slow and the many


async def test_a_slow_tls_handshake_is_cut(listen: Listen):
    async with listen(replace(USUAL, handshake_timeout=SHORT)) as (listener, _):
        reader, writer = await asyncio.open_connection(HOST, listener.port)
        writer.write(b"\x16\x03")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await eventually(lambda: listener.refusals.counts == {Refusal.SLOW: 1}, "the refusal")


async def test_a_slow_request_is_cut(listen: Listen, theirs: ssl.SSLContext):
    async with listen(replace(USUAL, handshake_timeout=SHORT)) as (listener, owner):
        reader, writer = await asyncio.open_connection("localhost", listener.port, ssl=theirs)
        writer.write(b"GET /covenant HTTP/1.1\r\nHost: loc")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert listener.refusals.counts == {Refusal.SLOW: 1}
        assert not owner.links


async def test_a_slow_first_frame_is_cut(listen: Listen, theirs: ssl.SSLContext):
    limits = replace(USUAL, first_frame_timeout=SHORT)
    async with listen(limits) as (listener, owner), dial(listener.port, theirs) as client:
        await client.ping()
        assert await close_code(client) == 1008
        assert listener.refusals.counts == {Refusal.SLOW: 1}
        assert [reason for _, reason in owner.ends] == ["no first frame in time"]


async def test_a_message_that_stops_halfway_is_cut(listen: Listen, theirs: ssl.SSLContext):
    limits = replace(USUAL, first_frame_timeout=SHORT)

    async def halfway() -> AsyncIterator[bytes]:
        yield frame()[:50]
        await asyncio.sleep(30)
        yield frame()[50:]

    async with listen(limits) as (listener, owner), dial(listener.port, theirs) as client:
        await client.send(frame())
        assert await client.recv() == frame()
        sending = asyncio.create_task(client.send(halfway()))
        assert await close_code(client) == 1008
        sending.cancel()
        await asyncio.wait([sending])
        assert listener.refusals.counts == {Refusal.SLOW: 1}
        assert [reason for _, reason in owner.ends] == ["no end of a message in time"]


@pytest.mark.parametrize("bound", ["connections", "connections_per_peer"])
async def test_connections_are_bounded(listen: Listen, theirs: ssl.SSLContext, bound: str):
    limits = replace(USUAL, **{bound: 2})
    async with listen(limits) as (listener, _):
        async with dial(listener.port, theirs), dial(listener.port, theirs):
            with pytest.raises((OSError, EOFError)):
                await asyncio.open_connection("localhost", listener.port, ssl=theirs)
            assert listener.refusals.counts == {Refusal.CROWDED: 1}
        await eventually(lambda: listener.connections == 0, "room")
        async with dial(listener.port, theirs) as client:
            await client.send(frame())
            assert await client.recv() == frame()


# The end


async def test_a_cut_connection_ends_its_link_once(listen: Listen, theirs: ssl.SSLContext):
    async with listen() as (listener, owner):
        client = await dial(listener.port, theirs)
        await eventually(lambda: owner.links, "the link")
        client.transport.abort()
        await eventually(lambda: owner.ends, "the end")
        await eventually(lambda: listener.connections == 0, "the end")
        assert len(owner.ends) == 1


async def test_a_listener_that_stops_says_goodbye(listen: Listen, ours: ssl.SSLContext):
    owner = Owner()
    async with listen() as (listener, far):
        link = await websocket.connect(url(listener.port), ours, owner)
    assert far.ends == [(far.links[0], "this side stops")]
    await eventually(lambda: owner.ends, "the end")
    assert owner.ends[0][0] is link
    assert "this side stops" in owner.ends[0][1]


async def test_an_address_in_use_is_said_so(listen: Listen, server: Party):
    context = tls.server_context(server.certificate, server.key, alpn=tls.ALPN_WEBSOCKET)
    async with listen() as (listener, _):
        with pytest.raises(Unavailable, match="cannot listen"):
            async with Listener(HOST, listener.port, context, Owner()):
                pass
