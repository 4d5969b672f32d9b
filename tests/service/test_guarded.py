# SPDX-License-Identifier: Apache-2.0
"""Interfaces that are to be gated: remembered, gated again, and never opened but by detaching."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from assent.dataplane import clsact
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.service import daemon
from assent.service.interfaces import is_up
from assent.v1 import fabric_pb2

from .conftest import PIN_ROOT, Api, Place, daemon_in, eventually, ip, refused, unique

ATTACHED = fabric_pb2.EGRESS_STATE_ATTACHED


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens here happens because the kernel announced it."""
    monkeypatch.setattr(daemon, "SWEEP_SECONDS", 3600.0)


@pytest.fixture
def others() -> Iterator[Gate]:
    """Another gate, whose interfaces are taken."""
    instance = unique("other")
    gate = Gate.open(instance, CHAPTER, PIN_ROOT)
    try:
        yield gate
    finally:
        gate.close()
        Gate.remove(instance, PIN_ROOT)


def add_link(name: str) -> None:
    add_link_with_peer(name, f"{name}p")


def add_link_with_peer(name: str, peer: str) -> None:
    ip("link", "add", name, "type", "veth", "peer", "name", peer)


@pytest.fixture
def fickle() -> Iterator[str]:
    """An interface that a test may delete and make again."""
    name = f"t{uuid.uuid4().hex[:10]}"
    add_link(name)
    try:
        yield name
    finally:
        with contextlib.suppress(AssertionError):
            ip("link", "del", name)


def wanted(place: Place) -> list[tuple[str, str, int]]:
    db = sqlite3.connect(place.config.state_dir / "state.db")
    try:
        return db.execute("SELECT name, mode, up FROM interfaces ORDER BY name").fetchall()
    finally:
        db.close()


def sockets_on(interface: str) -> int:
    """Packet sockets for fabric frames that are bound to an interface."""
    index = socket.if_nametoindex(interface)
    rows = (line.split() for line in Path("/proc/net/packet").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[3].lower() == "88b5" and int(row[4]) == index)


async def test_both_halves_are_attached_and_remembered(api: Api, place: Place, dummy: str):
    found = await api.attach(dummy)
    assert found.egress == ATTACHED
    index = socket.if_nametoindex(dummy)
    assert [each.name for each in clsact.filters(index)] == [f"assent:{place.instance}"]
    assert wanted(place) == [(dummy, "native", 0)]
    await api.fabric.Detach(fabric_pb2.DetachRequest(interface=dummy))
    assert not clsact.exists(index)
    assert wanted(place) == []


async def test_an_interface_is_set_up_once_it_is_gated(api: Api, place: Place, dummy: str):
    request = fabric_pb2.AttachRequest(interface=dummy, bring_up=True)
    assert not (await api.fabric.Attach(request)).was_up
    assert is_up(dummy)
    assert wanted(place) == [(dummy, "native", 1)]
    assert not (await api.attach(dummy)).was_up, "nothing passed: it was gated all the time"
    await api.fabric.Detach(fabric_pb2.DetachRequest(interface=dummy))
    assert (await api.attach(dummy)).was_up


async def test_a_cell_has_a_socket_only_where_the_gate_is(api: Api, dummy: str):
    await api.local("home", dummy)
    assert sockets_on(dummy) == 0
    await api.attach(dummy)
    assert sockets_on(dummy) == 1
    await api.fabric.Detach(fabric_pb2.DetachRequest(interface=dummy))
    assert sockets_on(dummy) == 0


async def test_a_new_daemon_opens_sockets_where_it_finds_the_gate(place: Place, dummy: str):
    async with daemon_in(place) as api:
        await api.local("home", dummy)
        await api.attach(dummy)
    assert sockets_on(dummy) == 0
    async with daemon_in(place):
        assert sockets_on(dummy) == 1


async def test_what_is_not_attached_is_not_remembered(
    api: Api, place: Place, dummy: str, others: Gate
):
    others.attach(dummy)
    before = clsact.filters(socket.if_nametoindex(dummy))
    code, _ = await refused(api.attach(dummy))
    assert code is StatusCode.ALREADY_EXISTS
    assert wanted(place) == []
    assert clsact.filters(socket.if_nametoindex(dummy)) == before
    others.detach(dummy)


async def test_an_interface_that_comes_back_is_gated_and_listened_to(
    api: Api, place: Place, fickle: str
):
    await api.local("home", fickle)
    await api.fabric.Attach(fabric_pb2.AttachRequest(interface=fickle, bring_up=True))
    ip("link", "del", fickle)
    status = await api.status()
    assert not status.interfaces
    assert [(each.name, each.reason) for each in status.ungated] == [
        (fickle, "there is no such interface")
    ]

    add_link(fickle)
    await eventually(lambda: sockets_on(fickle), "its cell listens again")
    (found,) = (await api.status()).interfaces
    assert (found.name, found.egress) == (fickle, ATTACHED)
    assert is_up(fickle)
    assert wanted(place) == [(fickle, "native", 1)]


async def test_an_interface_that_came_back_meanwhile_is_gated_at_the_start(
    place: Place, fickle: str
):
    async with daemon_in(place) as api:
        await api.attach(fickle)
    ip("link", "del", fickle)
    add_link(fickle)
    async with daemon_in(place) as api:
        assert [each.name for each in (await api.status()).interfaces] == [fickle]


async def test_why_an_interface_is_not_gated_is_told(
    api: Api, place: Place, fickle: str, others: Gate
):
    await api.attach(fickle)
    ip("link", "del", fickle)
    taken = f"{fickle}x"
    add_link(taken)
    others.attach(taken)
    ip("link", "set", taken, "name", fickle)

    async def told() -> bool:
        (found,) = (await api.status()).ungated
        return "another XDP program is attached" in found.reason

    await eventually(told, "the reason is known")
    others.detach(taken)
    ip("link", "set", fickle, "name", taken)
    ip("link", "set", taken, "name", fickle)

    async def gated() -> bool:
        status = await api.status()
        return not status.ungated and [each.name for each in status.interfaces] == [fickle]

    await eventually(gated, "it is gated as soon as it can be")


async def test_who_takes_the_name_of_a_gated_interface_is_not_taken_for_it(api: Api, fickle: str):
    await api.local("home", fickle)
    await api.attach(fickle)
    other = f"{fickle}x"
    ip("link", "set", fickle, "name", other)
    add_link_with_peer(fickle, f"{fickle}q")
    try:

        async def told() -> bool:
            return [each.name for each in (await api.status()).ungated] == [fickle]

        await eventually(told, "the newcomer is not gated")
        assert sockets_on(fickle) == 0
        assert (await api.status()).interfaces == []
    finally:
        ip("link", "del", other)


async def test_detaching_forgets_an_interface_that_is_not_there(
    api: Api, place: Place, fickle: str
):
    await api.attach(fickle)
    ip("link", "del", fickle)
    await api.fabric.Detach(fabric_pb2.DetachRequest(interface=fickle))
    assert wanted(place) == []
    assert not (await api.status()).ungated
    code, _ = await refused(api.fabric.Detach(fabric_pb2.DetachRequest(interface=fickle)))
    assert code is StatusCode.NOT_FOUND


async def test_what_an_earlier_daemon_attached_is_adopted(place: Place, dummy: str):
    with Gate.open(place.instance, CHAPTER, PIN_ROOT) as gate:
        gate.attach(dummy, "generic")
    async with daemon_in(place) as api:
        assert [each.egress for each in (await api.status()).interfaces] == [ATTACHED]
    assert wanted(place) == [(dummy, "generic", 0)]
