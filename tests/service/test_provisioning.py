# SPDX-License-Identifier: Apache-2.0
"""Provisioning: cells and static sessions by the thousand, whole or not at all, kept in crashes."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tests.service.conftest import (
    PIN_ROOT,
    Api,
    Cable,
    Place,
    by_name,
    daemon_in,
    eventually,
    refused,
)

from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Program
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import SessionTable
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, provisioning_pb2, sessions_pb2
from assent.v1.provisioning_pb2_grpc import ProvisioningStub
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

XDP_DROP, XDP_PASS = 1, 2
MAC = "02:00:00:00:00:01"


def public_key(number: int) -> bytes:
    return Identity.from_seed(number.to_bytes(32, "big")).public_key


def keys(number: int, epoch: int = 1) -> dict[str, bytes]:
    """Each side's keys, different in every epoch."""
    seed = bytes([number, epoch])
    return {
        "tx_payload_key": (seed + b"tp").ljust(32, b"."),
        "tx_header_key": (seed + b"th").ljust(16, b"."),
        "rx_payload_key": (seed + b"rp").ljust(32, b"."),
        "rx_header_key": (seed + b"rh").ljust(16, b"."),
    }


def session(number: int, epoch: int = 1, **changes: Any) -> provisioning_pb2.StaticSession:
    usual: dict[str, Any] = {
        "epoch": epoch,
        "peer_grants": [provisioning_pb2.Window(flow=1, window_blocks=20)],
        "mtu": 1500,
        "synchronized": True,
        **keys(number, epoch),
    }
    return provisioning_pb2.StaticSession(**{**usual, **changes})


def item(number: int, **changes: Any) -> provisioning_pb2.InstallItem:
    usual: dict[str, Any] = {
        "name": f"remote-{number}",
        "public_key": public_key(number),
        "consent": common_pb2.CONSENT_STANDING,
        "mac": MAC,
        "grants": [provisioning_pb2.Window(flow=1, window_blocks=10)],
        "session": session(number),
    }
    return provisioning_pb2.InstallItem(
        **{name: value for name, value in {**usual, **changes}.items() if value is not None}
    )


async def install(
    api: Api, *requests: Iterable[provisioning_pb2.InstallItem], replace: bool = False
) -> provisioning_pb2.InstallSummary:
    stub: Any = ProvisioningStub(api.channel)
    made = [
        provisioning_pb2.InstallRequest(items=list(items), replace=replace) for items in requests
    ]
    return await stub.Install(iter(made))


async def remove(api: Api, *names: str) -> provisioning_pb2.RemoveSummary:
    stub: Any = ProvisioningStub(api.channel)
    request = provisioning_pb2.RemoveRequest(cells=[by_name(name) for name in names])
    return await stub.Remove(iter([request]))


async def sessions(api: Api) -> dict[str, sessions_pb2.Session]:
    found = await api.sessions.List(sessions_pb2.ListSessionsRequest())
    return {one.remote_name: one for one in found.sessions}


def frame(number: int, local: CellID, *, epoch: int = 1, seq: int = 1) -> bytes:
    header = Header(
        from_public_key(public_key(number)),
        local,
        seq=seq,
        flags=Flags.DATA | Flags.BLOCK,
        flow=0,
        timestamp=time.clock_gettime_ns(time.CLOCK_TAI),
    )
    tag = siphash24(keys(number, epoch)["rx_header_key"], signed_bytes(header))
    header = replace(header, tag=tag)
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()


def verdict(place: Place, raw: bytes) -> int:
    with Program.open_pinned(PIN_ROOT / place.instance / "programs" / "gate") as program:
        return program.test_run(raw).retval


async def home(api: Api, interface: str) -> CellID:
    return CellID((await api.local("home", interface)).id.value)


async def test_cells_with_sessions_are_live_when_the_call_returns(
    api: Api, place: Place, dummy: str
):
    local = await home(api, dummy)
    summary = await install(
        api,
        [item(1), item(2, psk=b"p" * 32)],
        [item(3, session=None, mac=None), item(4, consent=common_pb2.CONSENT_QUARANTINED)],
    )
    assert summary == provisioning_pb2.InstallSummary(cells=4, psks=1, grants=4, sessions=3)
    assert [verdict(place, frame(number, local)) for number in (1, 2, 3, 4)] == [
        XDP_PASS, XDP_PASS, XDP_DROP, XDP_DROP,
    ]  # fmt: skip
    found = await sessions(api)
    assert sorted(found) == ["remote-1", "remote-2", "remote-4"]
    shown = found["remote-1"]
    assert shown.state == sessions_pb2.SESSION_STATE_ESTABLISHED
    assert (shown.origin, shown.epoch) == (sessions_pb2.SESSION_ORIGIN_STATIC, 1)
    assert [
        (flow.flow, flow.rx_granted_blocks, flow.tx_granted_blocks) for flow in shown.flows
    ] == [
        (0, 0, 0),
        (1, 10, 20),
    ]
    assert (await api.status()).sessions == 3


async def test_a_flow_is_handed_to_an_endpoint_with_its_keys(api: Api, dummy: str):
    await home(api, dummy)
    await install(api, [item(1)])
    handle = await api.sessions.OpenFlow(
        sessions_pb2.OpenFlowRequest(remote=by_name("remote-1"), flow=1)
    )
    expected = keys(1)
    assert handle.tx_payload_key == expected["tx_payload_key"]
    assert handle.rx_payload_key == expected["rx_payload_key"]
    assert handle.tx_header_key == expected["tx_header_key"]
    assert (handle.remote_mac, handle.session.epoch) == (MAC, 1)
    code, _ = await refused(
        api.sessions.OpenFlow(sessions_pb2.OpenFlowRequest(remote=by_name("remote-1"), flow=2))
    )
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "UPPER"}, "name"),
        ({"public_key": b"short"}, "public_key"),
        ({"consent": common_pb2.CONSENT_UNSPECIFIED}, "consent"),
        ({"mac": "no mac"}, "mac"),
        ({"mac": ""}, "mac"),
        ({"psk": b"short"}, "psk"),
        ({"psk": bytes(32)}, "psk"),
        ({"psk": b"p" * 32, "public_key": b"\x00" * 32}, "public_key"),
        ({"grants": [provisioning_pb2.Window(flow=0, window_blocks=1)]}, "grants[0].flow"),
        ({"grants": [provisioning_pb2.Window(flow=1)]}, "grants[0].window_blocks"),
        ({"session": session(9, epoch=0)}, "session.epoch"),
        ({"session": session(9, tx_header_key=b"short")}, "session.tx_header_key"),
        ({"session": session(9, rx_payload_key=bytes(32))}, "session.rx_payload_key"),
        (
            {"session": session(9, rx_header_key=keys(9)["tx_header_key"])},
            "session.rx_header_key",
        ),
        ({"session": session(9, mtu=10)}, "session.mtu"),
        ({"session": session(9, synchronized=False)}, "session.clock"),
        ({"session": session(9, local=by_name("nobody"))}, "session.local"),
        ({"consent": common_pb2.CONSENT_COVENANT, "session": None}, "grants"),
        ({"consent": common_pb2.CONSENT_COVENANT, "grants": None}, "session"),
    ],
)
async def test_a_wrong_item_is_named_and_nothing_of_its_request_stays(
    api: Api, place: Place, dummy: str, changes: dict[str, Any], field: str
):
    """The request before it stays, as a whole."""
    await home(api, dummy)
    await install(api, [item(8)])
    before = place.everything()
    code, message = await refused(install(api, [item(1), item(9, **changes)]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(f"items[1].{field}:")
    assert place.everything() == before
    _, message = await refused(install(api, [item(1), item(2)], [item(3), item(9, **changes)]))
    assert message.startswith(f"items[3].{field}:")
    assert sorted(await sessions(api)) == ["remote-1", "remote-2", "remote-8"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"name": "remote-1"}, "name"), ({"public_key": public_key(1)}, "public_key")],
)
async def test_what_is_taken_is_refused(
    api: Api, place: Place, dummy: str, changes: dict[str, Any], field: str
):
    await home(api, dummy)
    await install(api, [item(1)])
    before = place.everything()
    for first, second in ((item(3), item(2, **changes)), (item(1), item(2))):
        where = 0 if first.name == "remote-1" else 1
        code, message = await refused(install(api, [first, second]))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        expected = field if where else "name"
        assert message.startswith(f"items[{where}].{expected}:")
    assert place.everything() == before


async def test_too_many_for_the_gate_change_nothing(api: Api, place: Place, dummy: str):
    """The chapter profile has room for 16 live sessions."""
    await home(api, dummy)
    await install(api, [item(number) for number in range(1, 11)])
    before = place.everything()
    code, message = await refused(install(api, [item(number) for number in range(11, 18)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "no more than 16" in message
    assert place.everything() == before
    assert (await install(api, [item(number) for number in range(11, 17)])).sessions == 6


async def test_too_much_credit_changes_nothing():
    place = Place(credit_capacity_blocks=35)
    try:
        async with daemon_in(place) as api:
            await api.local("home", "lo")
            await install(api, [item(1)])
            before = place.everything()
            code, _ = await refused(install(api, [item(2), item(3), item(4)]))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert place.everything() == before
            assert (await install(api, [item(2), item(3)])).grants == 2
    finally:
        place.remove()


async def test_a_repeated_session_is_kept_and_its_numbers_are_never_used_twice(
    api: Api, place: Place, dummy: str
):
    local = await home(api, dummy)
    await install(api, [item(1), item(2)])
    assert verdict(place, frame(1, local)) == XDP_PASS
    before = place.map("sessions"), place.map("flows"), place.map("replay")
    summary = await install(api, [item(1), item(2)], replace=True)
    assert (summary.replaced, summary.sessions, summary.sessions_kept) == (2, 2, 2)
    assert (place.map("sessions"), place.map("flows"), place.map("replay")) == before
    assert verdict(place, frame(1, local)) == XDP_DROP, "a replay"
    # The same epoch with anything changed, an old one, or old keys in a new one: refused.
    for wrong, field in (
        (session(1, mtu=1400), "session.epoch"),
        (session(1, epoch=2, **keys(1, 1)), "session.tx_payload_key"),
    ):
        code, message = await refused(install(api, [item(1, session=wrong)], replace=True))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith(f"items[0].{field}")
    assert (place.map("sessions"), place.map("flows"), place.map("replay")) == before
    # A new epoch with new keys begins anew.
    await install(api, [item(1, session=session(1, epoch=2))], replace=True)
    assert verdict(place, frame(1, local, seq=2)) == XDP_DROP
    assert verdict(place, frame(1, local, epoch=2)) == XDP_PASS


async def test_epochs_are_remembered_when_a_cell_is_gone(api: Api, place: Place, dummy: str):
    local = await home(api, dummy)
    await install(api, [item(1, session=session(1, epoch=5))])
    assert (await remove(api, "remote-1")).cells == 1
    assert verdict(place, frame(1, local, epoch=5)) == XDP_DROP
    assert (await api.status()).sessions == 0
    code, message = await refused(install(api, [item(1, session=session(1, epoch=5))]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "must be above 5" in message
    await install(api, [item(1, session=session(1, epoch=6))])
    assert verdict(place, frame(1, local, epoch=6)) == XDP_PASS


async def test_cells_can_be_left_to_covenants(api: Api, dummy: str):
    await home(api, dummy)
    negotiated = {"consent": common_pb2.CONSENT_COVENANT, "session": None, "grants": None}
    assert (await install(api, [item(1, psk=b"p" * 32, **negotiated)])).cells == 1
    cell = await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("remote-1")))
    assert cell.consent == common_pb2.CONSENT_COVENANT


async def test_removal_names_what_is_not_there_and_then_removes_nothing(
    api: Api, place: Place, dummy: str
):
    await home(api, dummy)
    await install(api, [item(1), item(2)])
    before = place.everything()
    for names, code in (
        (("remote-1", "nobody"), grpc.StatusCode.NOT_FOUND),
        (("remote-1", "home"), grpc.StatusCode.INVALID_ARGUMENT),
        (("remote-1", "remote-1"), grpc.StatusCode.NOT_FOUND),
    ):
        found, message = await refused(remove(api, *names))
        assert found is code
        assert "cells[1]" in message
    assert place.everything() == before
    assert (await remove(api, "remote-1", "remote-2")).cells == 2
    assert place.map("sessions") == {}


@pytest.mark.parametrize("way", ["close", "consent", "delete"])
async def test_a_static_session_ends_as_others_do(api: Api, place: Place, dummy: str, way: str):
    local = await home(api, dummy)
    await install(api, [item(1), item(2)])
    ref = by_name("remote-1")
    if way == "close":
        await api.sessions.Close(sessions_pb2.CloseSessionRequest(remote=ref))
    elif way == "consent":
        await api.cells.SetConsent(
            cells_pb2.SetConsentRequest(cell=ref, consent=common_pb2.CONSENT_NONE)
        )
    else:
        await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=ref))
    assert sorted(await sessions(api)) == ["remote-2"]
    assert verdict(place, frame(1, local)) == XDP_DROP
    assert verdict(place, frame(2, local)) == XDP_PASS


async def test_a_quarantined_session_waits(api: Api, place: Place, dummy: str):
    local = await home(api, dummy)
    await install(api, [item(1)])
    for consent, expected in (
        (common_pb2.CONSENT_QUARANTINED, XDP_DROP),
        (common_pb2.CONSENT_STANDING, XDP_PASS),
    ):
        request = cells_pb2.SetConsentRequest(cell=by_name("remote-1"), consent=consent)
        await api.cells.SetConsent(request)
        assert verdict(place, frame(1, local)) == expected


async def test_a_promised_window_is_not_taken_back(api: Api, dummy: str):
    await home(api, dummy)
    await install(api, [item(1)])
    code, _ = await refused(api.grant("remote-1", 1, 9))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_restarted_daemon_takes_sessions_over_untouched(place: Place, dummy: str):
    async with daemon_in(place) as api:
        local = await home(api, dummy)
        await install(api, [item(number) for number in range(1, 6)])
        assert verdict(place, frame(1, local)) == XDP_PASS
    before = place.map("sessions"), place.map("flows"), place.map("replay")
    async with daemon_in(place) as api:
        assert (place.map("sessions"), place.map("flows"), place.map("replay")) == before
        assert len(await sessions(api)) == 5
        handle = await api.sessions.OpenFlow(
            sessions_pb2.OpenFlowRequest(remote=by_name("remote-1"), flow=1)
        )
        assert handle.tx_payload_key == keys(1)["tx_payload_key"]
    assert verdict(place, frame(1, local)) == XDP_DROP, "a replay"
    assert verdict(place, frame(1, local, seq=2)) == XDP_PASS


async def test_a_session_that_the_gate_lost_is_not_put_back(place: Place, dummy: str):
    """As after a reboot: the pins are gone, the store is not."""
    async with daemon_in(place) as api:
        local = await home(api, dummy)
        await install(api, [item(1), item(2)])
    Gate.remove(place.instance, PIN_ROOT)
    async with daemon_in(place) as api:
        found = await sessions(api)
        assert {one.state for one in found.values()} == {sessions_pb2.SESSION_STATE_LOST}
        assert (await api.status()).sessions == 0
        assert verdict(place, frame(1, local)) == XDP_DROP
        code, message = await refused(
            api.sessions.OpenFlow(sessions_pb2.OpenFlowRequest(remote=by_name("remote-1"), flow=1))
        )
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "new keys" in message
        with closing(sqlite3.connect(place.config.state_dir / "state.db")) as db:
            assert db.execute("SELECT keys FROM static_sessions").fetchall() == [(None,), (None,)]
        # Not even where the orchestrator says the same again.
        code, _ = await refused(install(api, [item(1)], replace=True))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        await install(api, [item(1, session=session(1, epoch=2))], replace=True)
        assert verdict(place, frame(1, local, epoch=2)) == XDP_PASS


async def test_a_session_lost_at_run_time_is_noticed(
    place: Place, dummy: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assent.service.daemon.SWEEP_SECONDS", 0.05)
    async with daemon_in(place) as api:
        local = await home(api, dummy)
        await install(api, [item(1), item(2)])
        with Gate.open(place.instance, CHAPTER, PIN_ROOT) as gate:
            gate.tables.sessions.delete(from_public_key(public_key(1)), local)

        async def lost() -> bool:
            state = (await sessions(api))["remote-1"].state
            return state == sessions_pb2.SESSION_STATE_LOST

        await eventually(lost, "the loss is noticed")
        assert (await sessions(api))["remote-2"].state == sessions_pb2.SESSION_STATE_ESTABLISHED


async def test_a_failure_after_the_gate_takes_the_gate_back(
    api: Api, place: Place, dummy: str, monkeypatch: pytest.MonkeyPatch
):
    """The gate has taken everything in, and then something else fails."""
    await home(api, dummy)
    await install(api, [item(1)])
    before = place.everything()
    original: Callable[..., int] = SessionTable.delete_many

    def fail_once(table: SessionTable, pairs: Any) -> int:
        monkeypatch.setattr(SessionTable, "delete_many", original)
        assert len(place.map("sessions")) == 3
        raise OSError("disk full")

    monkeypatch.setattr(SessionTable, "delete_many", fail_once)
    code, _ = await refused(install(api, [item(2), item(3)]))
    assert code is grpc.StatusCode.INTERNAL
    assert place.everything() == before
    assert (await install(api, [item(2), item(3)])).sessions == 2


async def test_a_killed_daemon_leaves_sessions_that_the_next_one_takes_over(cable: Cable):
    host = cable.left
    async with host.enter() as api:
        local = await home(api, "fab0")
        await install(api, [item(number) for number in range(1, 11)])
    before = host.place.map("sessions"), host.place.map("flows")
    host.stop(signal.SIGKILL)
    await host.start()
    async with host.enter() as api:
        assert len(await sessions(api)) == 10
    assert (host.place.map("sessions"), host.place.map("flows")) == before
    assert verdict(host.place, frame(7, local)) == XDP_PASS


async def test_a_handshake_takes_a_static_session_s_place(cable: Cable):
    """And its epoch is above that of the static one."""
    await cable.introduce()
    async with cable.left.enter() as left, cable.right.enter() as right:
        found = await left.cells.Get(cells_pb2.GetCellRequest(cell=by_name("right")))
        mac = (await right.cells.Get(cells_pb2.GetCellRequest(cell=by_name("left")))).mac or MAC
        await install(
            left,
            [
                item(
                    1,
                    name="right",
                    public_key=found.public_key,
                    mac=mac,
                    psk=bytes(range(1, 33)),
                    session=session(1, epoch=40),
                )
            ],
            replace=True,
        )
        static = (await sessions(left))["right"]
        assert static.origin == sessions_pb2.SESSION_ORIGIN_STATIC
        await right.connect("left")

        async def renewed() -> sessions_pb2.Session | None:
            shown = (await sessions(left)).get("right")
            is_new = shown and shown.origin == sessions_pb2.SESSION_ORIGIN_HANDSHAKE
            return shown if is_new else None

        shown = await eventually(renewed, "the handshake's session")
        assert shown.epoch > 40
        assert len(await sessions(left)) == 1
