# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric over the socket of a running daemon."""

from __future__ import annotations

import platform
import socket
import uuid

import pytest
from grpc import StatusCode

from assent.dataplane.libbpf import Program
from assent.identity.keys import Identity
from assent.v1 import fabric_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header

from .conftest import PIN_ROOT, Api, Place, daemon_in, ip, refused

NATIVE = fabric_pb2.ATTACH_MODE_NATIVE
GENERIC = fabric_pb2.ATTACH_MODE_GENERIC


def attach(interface: str, mode: int = 0) -> fabric_pb2.AttachRequest:
    return fabric_pb2.AttachRequest(interface=interface, mode=mode)  # type: ignore[arg-type]


async def test_status_tells_what_runs(api: Api, place: Place, dummy: str):
    await api.local("home", dummy)
    await api.attach(dummy)
    status = await api.status()
    assert status.instance == place.instance
    assert status.profile == "chapter"
    assert status.adopted is False
    assert status.pin_directory == str(PIN_ROOT / place.instance)
    assert status.program_id > 0
    assert status.kernel == platform.release()
    assert [interface.name for interface in status.interfaces] == [dummy]
    assert (status.local_cells, status.remote_cells, status.sessions) == (1, 0, 0)
    assert status.uptime_ns > 0


async def test_an_interface_is_gated_natively_unless_said_otherwise(api: Api, dummy: str):
    found = await api.fabric.Attach(attach(dummy))
    assert (found.name, found.mode) == (dummy, NATIVE)
    assert found.index == socket.if_nametoindex(dummy)
    assert found.mtu == 1500
    assert len(found.mac) == 17
    assert await api.fabric.Attach(attach(dummy, NATIVE)) == found


async def test_generic_is_used_when_asked_for(api: Api, dummy: str):
    assert (await api.fabric.Attach(attach(dummy, GENERIC))).mode == GENERIC
    code, message = await refused(api.fabric.Attach(attach(dummy, NATIVE)))
    assert code is StatusCode.ALREADY_EXISTS
    assert "generic" in message
    assert [each.mode for each in (await api.status()).interfaces] == [GENERIC]


async def test_a_detached_interface_is_no_longer_gated(api: Api, dummy: str):
    await api.attach(dummy)
    await api.fabric.Detach(fabric_pb2.DetachRequest(interface=dummy))
    assert not (await api.status()).interfaces
    code, _ = await refused(api.fabric.Detach(fabric_pb2.DetachRequest(interface=dummy)))
    assert code is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("call", "request_", "code", "said"),
    [
        ("Attach", attach(""), StatusCode.INVALID_ARGUMENT, "interface: needs the name"),
        ("Attach", attach("a b"), StatusCode.INVALID_ARGUMENT, "interface: needs the name"),
        ("Attach", attach("lo", 7), StatusCode.INVALID_ARGUMENT, "mode: needs NATIVE or GENERIC"),
        ("Attach", attach("no0"), StatusCode.FAILED_PRECONDITION, "interface: there is no"),
        (
            "Detach",
            fabric_pb2.DetachRequest(),
            StatusCode.INVALID_ARGUMENT,
            "interface: needs the name",
        ),
    ],
)
async def test_a_bad_request_attaches_nothing(
    api: Api, call: str, request_: object, code: StatusCode, said: str
):
    found, message = await refused(getattr(api.fabric, call)(request_))
    assert found is code
    assert message.startswith(said)
    assert not (await api.status()).interfaces


async def test_every_reason_has_a_counter(api: Api):
    counters = await api.counters()
    assert {"admitted", "unknown_source", "no_covenant", "replay", "no_credit"} <= set(counters)


async def test_the_gate_stays_when_the_daemon_goes(place: Place, dummy: str):
    async with daemon_in(place) as api:
        await api.attach(dummy)
        before = await api.status()
    async with daemon_in(place) as api:
        after = await api.status()
    assert (before.adopted, after.adopted) == (False, True)
    assert before.program_id == after.program_id
    assert before.interfaces == after.interfaces


async def test_an_interface_that_is_gone_is_not_listed(api: Api):
    name = f"t{uuid.uuid4().hex[:10]}"
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        await api.attach(name)
    finally:
        ip("link", "del", name)
    assert not (await api.status()).interfaces


class TestCounters:
    FRAME = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + bytes(64)

    async def test_by_interface(self, api: Api, place: Place, dummy: str):
        """An interface counts on its own from the moment that it is gated."""
        await api.attach(dummy)
        index = socket.if_nametoindex(dummy)
        ip("link", "set", dummy, "up")
        with Program.open_pinned(place.pins / "programs" / "gate") as gate:
            gate.test_run(self.FRAME, 5, ifindex=index)
            gate.test_run(self.FRAME, 3)
        reply = await api.fabric.GetCounters(fabric_pb2.GetCountersRequest(interfaces=True))
        found = {
            (each.name, each.index): sum(line.frames for line in each.arriving)
            for each in reply.interfaces
        }
        assert found == {("", 0): 3, (dummy, index): 5}
        total = next(line for line in reply.counters if line.reason == "bare_frame" or line.frames)
        assert total.frames == 8
        assert all(
            line.events + line.suppressed == line.frames + line.would_drop
            for line in reply.counters
            if line.reason not in ("admitted", "relayed")
        )

    async def test_by_pair(self, api: Api, place: Place, dummy: str):
        """The busiest first; who has never sent is left out."""
        home = CellID((await api.local("home", dummy)).id.value)
        cells = {}
        for number, name in enumerate(("quiet", "busy", "still"), 1):
            key = Identity.from_seed(bytes([number]) * 32).public_key
            cells[name] = CellID((await api.remote(name, key)).id.value)
            await api.psk(name)
        with Program.open_pinned(place.pins / "programs" / "gate") as gate:
            for name, count in (("quiet", 2), ("busy", 9)):
                header = Header(cells[name], home, 1, Flags.DATA | Flags.BLOCK, 0, 1)
                gate.test_run(self.FRAME[:14] + header.encode(), count)
        reply = await api.fabric.GetCounters(fabric_pb2.GetCountersRequest(pairs_max=5))
        assert [(each.remote_name, each.dropped) for each in reply.pairs] == [
            ("busy", 9),
            ("quiet", 2),
        ]
        assert [(line.reason, line.frames) for line in reply.pairs[0].reasons] == [
            ("no_session", 9)
        ]
        assert (reply.other_pairs, reply.others.dropped) == (0, 0)
        one = await api.fabric.GetCounters(fabric_pb2.GetCountersRequest(pairs_max=1))
        assert list(one.pairs) == list(reply.pairs)[:1]
        none = await api.fabric.GetCounters(fabric_pb2.GetCountersRequest())
        assert not none.pairs
        assert not none.interfaces

    async def test_too_many_pairs(self, api: Api):
        request = fabric_pb2.GetCountersRequest(pairs_max=10_001)
        code, message = await refused(api.fabric.GetCounters(request))
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith("pairs_max: at most")
