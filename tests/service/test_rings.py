# SPDX-License-Identifier: Apache-2.0
"""Lent rings: tokens, who is refused what, and two unprivileged applications that talk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from assent.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from assent.identity.keys import Identity
from assent.service.config import Application, Config, ConfigError
from assent.service.records import LocalCell
from assent.service.rings import CONNECTIONS_OF_USER_MAX
from assent.service.store import Store
from assent.service.tokens import LIFETIME_MAX_S, TOKENS_MAX, UID_MAX, Tokens
from assent.v1 import cells_pb2, sessions_pb2, tokens_pb2
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass
from assent.wire.lending import (
    FDS_MAX,
    MESSAGE_MAX,
    LendingError,
    LentFlow,
    LentRing,
    decode,
    encode,
    flow_in,
    flow_out,
    ring_in,
    ring_out,
    take,
)

from .conftest import (
    INTERFACE,
    WAIT_SECONDS,
    Api,
    Cable,
    Host,
    Place,
    api_at,
    by_name,
    daemon_in,
    eventually,
    housed,
    join,
    refused,
)

NOBODY = 65534
STRANGER = 65533
APP = Path(__file__).with_name("lent_app.py")
REFUSAL = "the token opens nothing: it is unknown, has expired, or is not for this"
CELL = CellID(b"c" * 16)


# Tokens


class Desk:
    """Tokens in a store of their own, under a clock of the test's."""

    def __init__(self, store: Store) -> None:
        self.now = 1_000_000.0
        self.secrets = iter(bytes([number]) * 32 for number in range(1, 200))
        store._db.execute("PRAGMA foreign_keys = OFF")
        self.records = store.tokens
        self.tokens = Tokens(store.tokens, lambda _: next(self.secrets), lambda: self.now)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Store(tmp_path / "state.db") as store:
        yield Desk(store)


def test_a_token_opens_what_it_was_made_for(desk: Desk, tmp_path: Path):
    record, text = desk.tokens.create(1000, CELL, 60)
    assert desk.tokens.check(text, 1000) == record
    assert (record.uid, record.cell, record.created_at) == (1000, CELL, 1_000_000)
    assert record.expires_at == 1_000_060
    assert desk.tokens.all() == [record]
    # Neither the secret nor anything that it follows from is kept.
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"\x01" * 32 not in content
    assert text.partition(".")[2].encode() not in content
    assert "AQEB" not in repr(record)


def spoilt(text: str) -> list[str]:
    number, _, secret = text.partition(".")
    flipped = ("B" if secret[0] != "B" else "C") + secret[1:]
    return [
        "",
        ".",
        number,
        secret,
        f"{number}.",
        f"{number}.{flipped}",
        f"{number}.{secret[:-2]}",
        f"{number}.{secret}AA",
        f"{number}.{secret}\n",
        f"{int(number) + 1}.{secret}",
        f"-{number}.{secret}",
        f"99999999999.{secret}",
        f"{number}.é",
        f"٣.{secret}",
    ]


@pytest.mark.parametrize("at", range(14))
def test_any_other_token_opens_nothing(desk: Desk, at: int):
    _, text = desk.tokens.create(1000, CELL, 60)
    with pytest.raises(FailedPrecondition, match=f"^{REFUSAL}$"):
        desk.tokens.check(spoilt(text)[at], 1000)
    desk.tokens.check(text, 1000)


def test_a_token_is_for_one_user_and_for_a_time(desk: Desk):
    record, text = desk.tokens.create(1000, CELL, 60)
    for uid in (0, 1001):
        with pytest.raises(FailedPrecondition, match=f"^{REFUSAL}$"):
            desk.tokens.check(text, uid)
    desk.now += 59.9
    assert desk.tokens.is_good(record)
    desk.tokens.check(text, 1000)
    desk.now += 0.1
    with pytest.raises(FailedPrecondition, match=f"^{REFUSAL}$"):
        desk.tokens.check(text, 1000)
    assert not desk.tokens.is_good(record)
    assert desk.tokens.all() == []


def test_a_revoked_token_opens_nothing_and_its_number_does_not_come_back(desk: Desk):
    record, text = desk.tokens.create(1000, CELL, 60)
    desk.tokens.revoke(record.id)
    with pytest.raises(FailedPrecondition, match=f"^{REFUSAL}$"):
        desk.tokens.check(text, 1000)
    with pytest.raises(NotFound, match="no token 1"):
        desk.tokens.revoke(record.id)
    assert desk.tokens.create(1000, CELL, 60)[0].id == record.id + 1


def test_a_token_follows_its_cell_and_goes_with_it(tmp_path: Path):
    old, new = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
    with Store(tmp_path / "state.db") as store:
        store.add_local(LocalCell(old.cell_id, "left", old.public_key, "eth0", tmp_path / "key"))
        tokens = Tokens(store.tokens)
        record, text = tokens.create(1000, old.cell_id, 60)
        store.rename_cell(old.cell_id, new.cell_id, new.public_key)
        assert tokens.check(text, 1000).cell == new.cell_id
        store.delete_cell(new.cell_id)
        assert tokens.all() == []
        assert not tokens.is_good(record)


@pytest.mark.parametrize(
    ("uid", "lifetime", "message"),
    [
        (0, 60, "uid: needs an unprivileged user's number"),
        (UID_MAX + 1, 60, "uid: needs an unprivileged user's number"),
        (1000, 0, "lifetime_s: needs 1 to"),
        (1000, LIFETIME_MAX_S + 1, "lifetime_s: needs 1 to"),
    ],
)
def test_tokens_that_cannot_be(desk: Desk, uid: int, lifetime: int, message: str):
    with pytest.raises(InvalidArgument, match=message):
        desk.tokens.create(uid, CELL, lifetime)
    assert desk.records.count() == 0


def test_tokens_are_bounded_and_those_that_expired_make_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    assert TOKENS_MAX >= 3
    monkeypatch.setattr("assent.service.tokens.TOKENS_MAX", 3)
    for lifetime in (10, 60, 60):
        desk.tokens.create(1000, CELL, lifetime)
    with pytest.raises(ResourceExhausted, match="3 tokens already"):
        desk.tokens.create(1000, CELL, 60)
    desk.now += 10
    desk.tokens.create(1000, CELL, 60)


# The form of messages


def lent_flow() -> LentFlow:
    return LentFlow(
        1, 2, 3, 4, b"r" * 16, "right", b"m" * 6, b"n" * 6, 1500, Delivery.UNORDERED,
        FlowClass.BULK, "echo", 5, True, 6, b"a" * 32, b"b" * 32, b"c" * 16,
    )  # fmt: skip


def test_what_is_said_is_heard():
    ring = LentRing(b"l" * 16, "fab0", b"m" * 6, 1500, 1, True, 64, "")
    assert ring_in(decode(encode(ring_out(ring)))) == ring
    flow = lent_flow()
    assert flow_in(decode(encode(flow_out(flow)))) == flow
    assert "aaaa" not in repr(flow)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"\x01", b"\x80", b"\xa1\x01\x02", b"\xbf\xff", bytes(MESSAGE_MAX + 1)],
)
def test_what_is_not_of_the_form_is_refused(raw: bytes):
    with pytest.raises(LendingError):
        decode(raw)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index", "1"), ("index", -1), ("index", True), ("remote", "right"), ("lamp", 1),
        ("delivery", 3), ("flow_class", 4), ("label", None),
    ],
)  # fmt: skip
def test_a_flow_with_a_field_of_another_kind_is_refused(key: str, value: object):
    with pytest.raises(LendingError):
        flow_in(flow_out(lent_flow()) | {key: value})
    message = flow_out(lent_flow())
    del message[key]
    with pytest.raises(LendingError):
        flow_in(message)


def test_numbers_are_not_negative():
    with pytest.raises(LendingError, match="ask: out of range"):
        take({"ask": -1}, "ask", int)


# Who may, by the configuration


def tables(**change: object) -> dict[str, object]:
    table: dict[str, object] = {"user": NOBODY, "cells": ["left"], "labels": ["echo"]}
    return {"lend_socket": "/run/elsewhere/rings.sock", "applications": [table | change]}


def test_applications_of_the_configuration():
    (found,) = Config.build(tables(user="nobody", flows=[1, 3], rings=2)).applications
    assert found == Application(
        uid=NOBODY,
        cells=frozenset({"left"}),
        labels=frozenset({"echo"}),
        flows=frozenset({1, 3}),
        rings=2,
    )
    assert found.may_use("echo")
    assert not found.may_use("other")
    (any_label,) = Config.build(tables(labels=["*"])).applications
    assert any_label.may_use("")
    assert Config.build({}).applications == ()
    assert Config.build({}).lend_socket is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"applications": [{}]}, "lend_socket: is needed with applications"),
        ({"lend_socket": "rings.sock"}, "lend_socket: needs an absolute path"),
        ({"lend_socket": "/run/assent/default/r"}, "lend_socket: needs a directory of its own"),
        ({"lend_socket": "/" + "x" * 107}, "lend_socket: a unix socket's path has at most"),
        ({"lend_packet_sockets": 1}, "lend_packet_sockets: needs true or false, got a number"),
        (tables() | {"applications": {}}, r"applications: needs tables, \[\[applications\]\]"),
        (tables() | {"applications": [1]}, "applications: needs tables"),
        (tables(user=0), r"applications\[0\].user: needs the name or the number of an unpriv"),
        (tables(user="root"), r"applications\[0\].user: needs the name or the number"),
        (tables(user="no such user"), r"applications\[0\].user: this host has no user"),
        (tables(user=True), r"applications\[0\].user: needs the name"),
        (tables(cells=[]), r"applications\[0\].cells: needs a list of text"),
        (tables(cells="left"), r"applications\[0\].cells: needs a list of text"),
        (tables(labels=[1]), r"applications\[0\].labels: needs a list of text"),
        (tables(flows=[0]), r"applications\[0\].flows: needs a list of numbers from 1 to 7"),
        (tables(flows=[True]), r"applications\[0\].flows: needs a list of numbers"),
        (tables(rings=0), r"applications\[0\].rings: needs 1 to 64, got 0"),
        (tables(group="x"), r"applications\[0\].group: no such setting"),
    ],
)
def test_applications_that_cannot_be(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Config.build(values)


# One host, and an application that speaks for itself


class Lending:
    """A daemon in this process that lends rings on an interface that leads nowhere."""

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
        self.path = path

    async def token(self, uid: int = NOBODY, cell: str = "left", lifetime_s: int = 60) -> str:
        request = tokens_pb2.CreateTokenRequest(uid=uid, cell=by_name(cell), lifetime_s=lifetime_s)
        return (await self.api.tokens.Create(request)).secret

    @contextlib.asynccontextmanager
    async def connected(self, uid: int = NOBODY) -> AsyncIterator[Raw]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.seteuid(uid)
        try:
            connection.connect(str(self.path))
        finally:
            os.seteuid(0)
        with connection:
            connection.setblocking(False)
            yield Raw(connection)

    async def tokens(self) -> list[tokens_pb2.Token]:
        return list((await self.api.tokens.List(tokens_pb2.ListTokensRequest())).tokens)


class Raw:
    """A connection, and what is said over it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.fds: list[int] = []
        self.asked = 0

    def send(self, raw: bytes) -> None:
        self.connection.send(raw)

    async def read(self) -> dict[str, Any]:
        """The next message; an empty one where the connection has ended."""

        def arrived() -> bytes | None:
            with contextlib.suppress(BlockingIOError):
                try:
                    raw, fds, _, _ = socket.recv_fds(self.connection, MESSAGE_MAX, FDS_MAX)
                except ConnectionResetError:
                    return b"\xa0"
                for fd in fds:
                    os.close(fd)
                self.fds += fds
                return raw or b"\xa0"
            return None

        return decode(await eventually(arrived, "an answer"))

    async def ask(self, op: str, **values: object) -> dict[str, Any]:
        self.asked += 1
        self.send(encode({"ask": self.asked, "op": op, **values}))
        answer = await self.read()
        assert answer.get("ask", self.asked) == self.asked
        return answer

    async def error(self, op: str, **values: object) -> tuple[str, str]:
        answer = await self.ask(op, **values)
        return answer["error"], answer["message"]

    async def is_cut(self) -> bool:
        return await self.read() == {}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="assent-lend-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def lending(shared: Path, dummy: str) -> AsyncIterator[Lending]:
    path = shared / "rings.sock"
    place = Place(
        lend_socket=str(path),
        applications=[
            {"user": NOBODY, "cells": ["left"], "labels": ["echo"], "flows": [1], "rings": 2}
        ],
    )
    try:
        async with daemon_in(place) as api:
            await api.local("left", dummy)
            await api.local("other", dummy)
            await api.attach(dummy)
            yield Lending(api, path)
    finally:
        place.remove()


async def test_a_ring_is_lent_to_whom_user_and_token_allow_it(lending: Lending, dummy: str):
    token = await lending.token()
    assert lending.path.parent.stat().st_mode & 0o777 == 0o755
    async with lending.connected() as borrower:
        answer = await borrower.ask("ring", token=token)
        ring = ring_in(answer["ok"])
        assert (ring.interface, ring.mtu, ring.lines, ring.reason) == (dummy, 1500, 64, "")
        assert len(borrower.fds) == FDS_MAX
        (shown,) = await lending.tokens()
        assert (shown.uid, shown.cell_name, shown.rings) == (NOBODY, "left", 1)
        assert token.partition(".")[2] not in str(shown)

    async def returned() -> bool:
        return (await lending.tokens())[0].rings == 0

    await eventually(returned, "the ring is taken back")


async def test_who_is_refused_a_ring(lending: Lending):
    good, others = await lending.token(), await lending.token(uid=STRANGER)
    elsewhere = await lending.token(cell="other")
    for uid, token, cell, message in (
        (NOBODY, others, None, REFUSAL),
        (NOBODY, good + "A", None, REFUSAL),
        (NOBODY, "", None, REFUSAL),
        (NOBODY, good, "other", "the token is for cell 'left'"),
        (NOBODY, elsewhere, None, "this user may not borrow rings of cell 'other'"),
    ):
        async with lending.connected(uid) as borrower:
            values = {"token": token} | ({"cell": cell} if cell else {})
            assert await borrower.error("ring", **values) == ("FAILED_PRECONDITION", message)
            assert await borrower.is_cut()
            assert borrower.fds == []
    assert all(token.rings == 0 for token in await lending.tokens())


@pytest.mark.parametrize("uid", [0, STRANGER])
async def test_a_user_that_the_configuration_does_not_know_is_not_heard(lending: Lending, uid: int):
    async with lending.connected(uid) as borrower:
        assert await borrower.is_cut()


async def test_rings_of_a_user_are_bounded(lending: Lending):
    token = await lending.token()
    async with lending.connected() as one, lending.connected() as two, lending.connected() as three:
        assert "ok" in await one.ask("ring", token=token)
        # The interface's queue has one AF_XDP socket, and AF_PACKET ones are not to be lent.
        kind, message = await two.error("ring", token=token)
        assert kind == "FAILED_PRECONDITION"
        assert "Device or resource busy" in message
        assert await three.error("ring", token="1.A") == ("FAILED_PRECONDITION", REFUSAL)


async def test_connections_of_a_user_are_bounded(lending: Lending):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_OF_USER_MAX):
            await stack.enter_async_context(lending.connected())
        async with lending.connected() as borrower:
            assert await borrower.is_cut()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"\xa0",
        encode({"ask": 1}),
        encode({"ask": -1, "op": "ring"}),
        encode({"ask": 1, "op": "no such"}),
        encode({"ask": 1, "op": "define"}),
        encode({"ask": 1, "op": "ring"}),
        encode({"ask": 1, "op": "ring", "token": b"bytes"}),
        encode({"ask": 1, "op": "ring", "token": "x" * 3000}) + bytes(2000),
    ],
)
async def test_who_says_nonsense_is_cut_off(lending: Lending, raw: bytes):
    async with lending.connected() as borrower:
        borrower.send(raw)
        assert await borrower.is_cut()
    assert (await lending.api.status()).sessions == 0


async def test_nonsense_ends_a_ring_too(lending: Lending):
    token = await lending.token()
    for message in (
        {"ask": 2, "op": "ring", "token": token},
        {"ask": 2, "op": "release", "index": "0"},
        {"ask": 2, "op": "define", "remote": 5, "label": "echo"},
        {"ask": 2, "op": "listen", "label": 1},
    ):
        async with lending.connected() as borrower:
            assert "ok" in await borrower.ask("ring", token=token)
            borrower.send(encode(message))
            assert await borrower.is_cut()


@pytest.mark.parametrize(
    ("op", "values", "kind", "message"),
    [
        ("connect", {"remote": "nobody"}, "NOT_FOUND", "no cell 'nobody'"),
        ("connect", {"remote": b"short"}, "INVALID_ARGUMENT", "remote: "),
        ("open", {"remote": "nobody", "flow": 1}, "NOT_FOUND", "no cell 'nobody'"),
        ("open", {"remote": "away", "flow": 2}, "FAILED_PRECONDITION", "may not open flow 2"),
        ("open", {"remote": "away", "flow": 1}, "NOT_FOUND", "no session with cell 'away'"),
        ("listen", {"label": "other"}, "FAILED_PRECONDITION", "label: this user may not use"),
        ("listen", {"label": "x" * 64}, "INVALID_ARGUMENT", "label: must have 0 to 63"),
        ("listen", {"label": "echo", "remote": "nobody"}, "NOT_FOUND", "no cell 'nobody'"),
        ("release", {"index": 0}, "NOT_FOUND", "index: no flow is lent at 0"),
        (
            "define",
            {"remote": "away", "flow": 0, "delivery": 0, "class": 2, "label": "secret"},
            "FAILED_PRECONDITION",
            "label: this user may not use 'secret'",
        ),
        (
            "define",
            {"remote": "away", "flow": 9, "delivery": 0, "class": 2, "label": "echo"},
            "INVALID_ARGUMENT",
            "flow: needs 0 to 7, got 9",
        ),
        (
            "define",
            {"remote": "away", "flow": 0, "delivery": 0, "class": 2, "label": "echo"},
            "NOT_FOUND",
            "no session with cell 'away'",
        ),
    ],
)
async def test_what_a_borrower_is_refused(
    lending: Lending, op: str, values: dict[str, object], kind: str, message: str
):
    await lending.api.remote("away", Identity.from_seed(b"\x01" * 32).public_key)
    async with lending.connected() as borrower:
        assert "ok" in await borrower.ask("ring", token=await lending.token())
        found = await borrower.error(op, **values)
        assert found[0] == kind
        assert message in found[1]
        # It goes on all the same.
        assert await borrower.ask("listen", label="echo") == {"ask": borrower.asked, "ok": {}}
        assert (await borrower.error("listen", label="echo"))[0] == "ALREADY_EXISTS"
        assert await borrower.ask("mute", label="echo") == {"ask": borrower.asked, "ok": {}}
        assert await borrower.ask("listen", label="echo") == {"ask": borrower.asked, "ok": {}}


async def test_a_revoked_token_s_ring_is_taken_back(lending: Lending):
    token = await lending.token()
    async with lending.connected() as borrower:
        assert "ok" in await borrower.ask("ring", token=token)
        (shown,) = await lending.tokens()
        await lending.api.tokens.Revoke(tokens_pb2.RevokeTokenRequest(id=shown.id))
        assert await borrower.is_cut()
    assert await lending.tokens() == []
    async with lending.connected() as borrower:
        assert await borrower.error("ring", token=token) == ("FAILED_PRECONDITION", REFUSAL)
    code, message = await refused(
        lending.api.tokens.Revoke(tokens_pb2.RevokeTokenRequest(id=shown.id))
    )
    assert (code, message) == (StatusCode.NOT_FOUND, f"no token {shown.id}")


async def test_a_ring_ends_with_its_token_s_time(lending: Lending):
    token = await lending.token(lifetime_s=1)
    async with lending.connected() as borrower:
        await borrower.ask("ring", token=token)
        assert await borrower.is_cut()


async def test_a_token_goes_with_its_cell(lending: Lending):
    token = await lending.token()
    async with lending.connected() as borrower:
        assert "ok" in await borrower.ask("ring", token=token)
        await lending.api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("left")))
        assert await borrower.is_cut()
    assert await lending.tokens() == []


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (tokens_pb2.CreateTokenRequest(uid=NOBODY, lifetime_s=60), 9, "this host has 2 local"),
        (
            tokens_pb2.CreateTokenRequest(uid=NOBODY, cell=by_name("none"), lifetime_s=60),
            5,
            "no cell 'none'",
        ),
        (
            tokens_pb2.CreateTokenRequest(uid=0, cell=by_name("left"), lifetime_s=60),
            3,
            "uid: needs an unprivileged user's number",
        ),
        (tokens_pb2.CreateTokenRequest(uid=1, cell=by_name("left")), 3, "lifetime_s: needs 1"),
    ],
)
async def test_tokens_that_the_api_refuses(
    lending: Lending, request_: tokens_pb2.CreateTokenRequest, code: int, message: str
):
    status, said = await refused(lending.api.tokens.Create(request_))
    assert status.value[0] == code
    assert message in said
    assert await lending.tokens() == []


# Two hosts, and an application of an unprivileged user on each


class Pair:
    """Both hosts, what they lend, and the applications that were started."""

    def __init__(self, cable: Cable, left: Api, right: Api, shared: Path) -> None:
        self.cable = cable
        self.left = left
        self.right = right
        self.shared = shared
        self.started: list[subprocess.Popen[str]] = []

    async def app(self, side: str, *arguments: str) -> subprocess.Popen[str]:
        api: Api = getattr(self, side)
        request = tokens_pb2.CreateTokenRequest(uid=NOBODY, lifetime_s=600)
        token = (await api.tokens.Create(request)).secret
        path = self.shared / side / "rings.sock"
        made = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [
                "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                "--no-new-privs", sys.executable, str(APP), str(path), token, *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.started.append(made)
        return made

    def end(self) -> None:
        for app in self.started:
            app.kill()
            app.wait()
            for stream in (app.stdin, app.stdout):
                if stream is not None:
                    stream.close()


async def said(app: subprocess.Popen[str], wanted: str) -> dict[str, Any]:
    """What an application says that has this key."""

    def read() -> dict[str, Any]:
        assert app.stdout is not None
        heard = []
        for line in app.stdout:
            heard.append(line)
            with contextlib.suppress(ValueError):
                if wanted in (found := json.loads(line)):
                    return dict(found)
        pytest.fail("".join(heard))

    return await asyncio.wait_for(asyncio.to_thread(read), 2 * WAIT_SECONDS)


def lends(host: Host, shared: Path, packets: bool) -> None:
    host.settings = host.place.root / "assentd.toml"
    host.settings.write_text(
        f'lend_socket = "{shared / host.name / "rings.sock"}"\n'
        f"lend_packet_sockets = {str(packets).lower()}\n"
        f'[[applications]]\nuser = "nobody"\ncells = ["{host.name}"]\nlabels = ["echo"]\n'
    )


@pytest.fixture
async def pair(shared: Path) -> AsyncIterator[Pair]:
    hosts = [Host(name, Place()) for name in ("left", "right")]
    for host in hosts:
        lends(host, shared, packets=False)
    with housed(hosts):
        join(*hosts)
        for host in hosts:
            host.launch()
        for host in hosts:
            await host.answers()
        cable = Cable(*hosts)
        await cable.introduce({1: 200, 2: 200})
        async with cable.left.enter() as left, cable.right.enter() as right:
            made = Pair(cable, left, right, shared)
            try:
                yield made
            finally:
                made.end()


async def test_two_unprivileged_applications_talk_through_lent_rings(pair: Pair):
    server = await pair.app("right", "serve", "echo")
    await said(server, "listening")
    for _ in range(3):
        client = await pair.app("left", "ask", "right", "echo", "30", "3000")
        ring = await said(client, "ring")
        assert ring == {"ring": INTERFACE, "backend": "AF_XDP", "uid": NOBODY}
        # Windows of 200 blocks: 30 messages there and back need eight of them.
        assert await said(client, "right") == {"right": 30}
        assert client.wait(WAIT_SECONDS) == 0
        assert await said(server, "echoed") == {"echoed": 30}
    for api in (pair.left, pair.right):
        counters = await api.counters()
        # A busy machine may have a frame sent again that had arrived: a replay.
        assert (counters["bad_tag"], counters["no_credit"]) == (0, 0)


async def test_an_application_that_dies_gives_everything_back(pair: Pair):
    server = await pair.app("right", "serve", "echo")
    await said(server, "listening")
    await pair.left.connect("right")
    first = await pair.app("left", "hold", "right", "echo")
    assert (await said(first, "holding"))["holding"] == 5000
    before = await pair.left.session("right")
    assert before is not None
    first.kill()
    second = await pair.app("left", "ask", "right", "echo", "5", "2000")
    # Flow 1 is the server's still, which has not seen an end of it.
    assert (await said(second, "right"))["right"] == 5
    after = await pair.left.session("right")
    assert after is not None
    for old, new in zip(before.flows, after.flows, strict=True):
        assert new.tx_seq >= old.tx_seq

    async def returned() -> bool:
        return {token.rings for token in await tokens_of(pair.left)} == {0}

    await eventually(returned, "both rings are taken back")


async def tokens_of(api: Api) -> list[tokens_pb2.Token]:
    return list((await api.tokens.List(tokens_pb2.ListTokensRequest())).tokens)


async def test_a_session_s_end_takes_its_flows_back(pair: Pair):
    server = await pair.app("right", "serve", "echo")
    await said(server, "listening")
    await pair.left.connect("right")
    holder = await pair.app("left", "hold", "right", "echo")
    await said(holder, "holding")
    await pair.left.connect("right", renew=True)
    over = await said(holder, "over")
    # Its ring may see that before the daemon's word comes.
    assert over["over"] == "SessionOverError"
    assert over["reason"].startswith("the session has ended: ")


async def test_what_was_lent_when_the_daemon_was_killed_is_not_lent_again(pair: Pair):
    """How far the application has come since, nobody knows; no number may be used twice."""
    server = await pair.app("right", "serve", "echo")
    await said(server, "listening")
    await pair.left.connect("right")
    holder = await pair.app("left", "hold", "right", "echo")
    await said(holder, "holding")
    host = pair.cable.left
    host.stop(signal.SIGKILL)
    assert "the daemon lends no more" in (await said(holder, "over"))["reason"]
    holder.kill()  # its socket is its own until then
    await host.start()
    async with api_at(host.place.config.socket) as api:
        code, message = await refused(
            api.sessions.OpenFlow(sessions_pb2.OpenFlowRequest(remote=by_name("right"), flow=1))
        )
        assert code is StatusCode.FAILED_PRECONDITION
        assert "was lent when a daemon was killed: renew the session" in message
        again = await pair.app("left", "ask", "right", "echo", "3", "100")
        # On flow 2.
        assert await said(again, "right") == {"right": 3}
