# SPDX-License-Identifier: Apache-2.0
"""Two daemons in two network namespaces, through gates attached in the drivers (native XDP)."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from grpc import StatusCode

from assent.identity.keys import Identity
from assent.service.store import Store
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, keys_pb2, sessions_pb2
from assent.wire.cellid import CellID

from .conftest import (
    INTERFACE,
    WAIT_SECONDS,
    Api,
    Cable,
    Host,
    Place,
    api_at,
    both_established,
    by_name,
    eventually,
    ip,
    refused,
)

ESTABLISHED = sessions_pb2.SESSION_STATE_ESTABLISHED
Close = sessions_pb2.CloseSessionRequest
Announce = sessions_pb2.AnnounceRequest
Watch = sessions_pb2.WatchManifestsRequest
OpenFlow = sessions_pb2.OpenFlowRequest
KEY = Identity.from_seed(b"\x01" * 32).public_key


class Two:
    """Both hosts and their APIs."""

    def __init__(self, cable: Cable, left: Api, right: Api) -> None:
        self.cable = cable
        self.left = left
        self.right = right

    async def both_established(self, epoch: int | None = None) -> tuple[int, int]:
        return await both_established(self.left, self.right, epoch)


@pytest.fixture
async def two(cable: Cable) -> AsyncIterator[Two]:
    """Two hosts that know each other, with 1,000 blocks for flow 1 either way, not connected."""
    await cable.introduce()
    async with cable.left.enter() as left, cable.right.enter() as right:
        yield Two(cable, left, right)


@pytest.fixture
async def joined(two: Two) -> Two:
    """The same, in session."""
    await two.left.connect("right")
    await two.both_established()
    return two


def item(name: str = "a.bin", size: int = 5) -> sessions_pb2.ManifestItem:
    digest = hashlib.sha256(name.encode()).digest()
    return sessions_pb2.ManifestItem(
        name=name, size=size, digest=digest, algorithm="sha256", content_type="text/plain"
    )


# Handshakes


async def test_a_renewal_that_a_kill_cut_short_is_taken_up_again(cable: Cable):
    """The peer may hold the newer session already, and have given up the older one."""
    await cable.introduce()
    async with cable.right.enter() as right:
        async with cable.left.enter() as left:
            await left.connect("right")
            await Two(cable, left, right).both_established(1)
            local = CellID((await left.session("right")).local.value)
            remote = CellID((await left.session("right")).remote.value)
        cable.left.stop(signal.SIGKILL)
        # As it stands after a SYN has left that proposed the next epoch.
        with Store(cable.left.place.config.state_dir / "state.db") as store:
            memory = store.handshake(remote, local)
            store.remember_handshake(remote, local, replace(memory, last_epoch=2))
        await cable.left.start()
        async with cable.left.enter() as left:
            await Two(cable, left, right).both_established(3)


async def test_two_hosts_shake_hands_and_both_see_the_session(cable: Cable):
    await cable.introduce({1: 1000, 3: 500})
    async with cable.left.enter() as left, cable.right.enter() as right:
        await left.connect("right")
        await Two(cable, left, right).both_established()
        here, there = await left.session("right"), await right.session("left")
        interfaces = (await left.status()).interfaces
        assert [each.mode for each in interfaces] == [fabric_pb2.ATTACH_MODE_NATIVE]
        assert (here.initiator, there.initiator) == (True, False)
        assert here.epoch == there.epoch == 1
        assert (here.remote, here.local) == (there.local, there.remote)
        assert here.remote_mac == (await right.status()).interfaces[0].mac
        assert here.established_at_unix_ns > 0
        for session in (here, there):
            assert [
                (flow.flow, flow.rx_granted_blocks, flow.tx_granted_blocks)
                for flow in session.flows
            ] == [(0, 0, 0), (1, 1000, 1000), (3, 500, 500)]
            # One host, one clock.
            assert abs(session.clock_offset_ns) < 1_000_000_000
        for api in (left, right):
            assert (await api.status()).sessions == 1
            counters = await api.counters()
            assert counters["admitted"] > 0
            assert counters["bad_tag"] == counters["replay"] == 0


async def test_each_side_grants_what_it_has_room_for(cable: Cable):
    await cable.introduce({})
    async with cable.left.enter() as left, cable.right.enter() as right:
        await left.grant("right", 1, 100)
        await right.grant("left", 1, 70)
        await right.grant("left", 2, 30)
        session = await left.connect("right")
        assert [
            (flow.flow, flow.rx_granted_blocks, flow.tx_granted_blocks) for flow in session.flows
        ] == [(0, 0, 0), (1, 100, 70), (2, 0, 30)]


async def test_both_sides_may_begin_at_once(two: Two):
    await asyncio.gather(two.left.connect("right"), two.right.connect("left"))
    await two.both_established()


async def test_the_peer_is_found_where_it_is_and_remembered(two: Two):
    """A wrong address is tried first; then everyone on the link is asked."""
    key = (await two.left.cells.Get(cells_pb2.GetCellRequest(cell=by_name("right")))).public_key
    await two.left.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("right")))
    await two.left.remote("right", key, mac="02:00:00:00:00:77")
    await two.left.psk("right")
    await two.left.connect("right")
    cell = await two.left.cells.Get(cells_pb2.GetCellRequest(cell=by_name("right")))
    assert cell.mac == (await two.right.status()).interfaces[0].mac


async def test_a_live_session_is_returned_as_it_is(joined: Two):
    before = await joined.left.session("right")
    assert await joined.left.connect("right") == before


async def test_a_renewed_session_takes_the_old_one_s_place(joined: Two):
    old = await joined.both_established()
    session = await joined.left.connect("right", renew=True)
    assert session.epoch == 2
    new = await joined.both_established(2)
    assert new[0] > old[0]
    assert new[1] > old[1]
    for host, ident in zip((joined.cable.left, joined.cable.right), new, strict=True):
        keys = [path.name for path in (host.place.config.run_dir / "sessions").iterdir()]
        assert keys == [f"{ident}.key"]
        assert len(host.place.map("sessions")) == 1


async def test_either_side_may_renew(joined: Two):
    await joined.right.connect("left", renew=True)
    await joined.both_established(2)
    await joined.left.connect("right", renew=True)
    await joined.both_established(3)


async def test_the_grants_of_a_renewed_session_are_those_of_now(joined: Two):
    await joined.right.grant("left", 4, 40)
    session = await joined.left.connect("right", renew=True)
    assert [(flow.flow, flow.tx_granted_blocks) for flow in session.flows] == [
        (0, 0),
        (1, 1000),
        (4, 40),
    ]


async def test_without_consent_there_no_answer_comes(two: Two):
    await two.right.cells.SetConsent(
        cells_pb2.SetConsentRequest(cell=by_name("left"), consent=common_pb2.CONSENT_NONE)
    )
    before = two.cable.right.place.rows()
    request = sessions_pb2.ConnectRequest(remote=by_name("right"))
    code, _ = await refused(two.left.sessions.Connect(request, timeout=1.5))
    assert code is StatusCode.DEADLINE_EXCEEDED
    assert (await two.right.counters())["no_covenant"] > 0
    assert await two.right.session("left") is None
    assert two.cable.right.place.rows() == before


async def test_with_different_keys_no_answer_comes(two: Two):
    await two.right.psk("left", b"x" * 32, replace=True)
    request = sessions_pb2.ConnectRequest(remote=by_name("right"))
    code, _ = await refused(two.left.sessions.Connect(request, timeout=1.5))
    assert code is StatusCode.DEADLINE_EXCEEDED
    assert (await two.right.counters())["bad_tag"] > 0


async def test_a_handshake_ends_with_the_key_that_it_was_made_with(two: Two):
    await two.right.keys.DeletePsk(keys_pb2.DeletePskRequest(remote=by_name("left")))
    request = sessions_pb2.ConnectRequest(remote=by_name("right"))
    waiting = asyncio.ensure_future(two.left.sessions.Connect(request))

    async def under_way() -> bool:
        session = await two.left.session("right")
        return session is not None and session.state == sessions_pb2.SESSION_STATE_SYN_SENT

    await eventually(under_way, "the SYN is sent")
    await two.left.psk("right", b"x" * 32, replace=True)
    code, message = await refused(waiting)
    assert code is StatusCode.UNAVAILABLE
    assert "the pre-shared key was replaced" in message


# Refusals of Connect, OpenFlow and the others, on one host


@pytest.mark.parametrize(
    ("prepare", "code", "said"),
    [
        ("", StatusCode.NOT_FOUND, "no cell 'away'"),
        ("remote", StatusCode.FAILED_PRECONDITION, "local: this host has no local cell"),
        ("remote local psk", StatusCode.FAILED_PRECONDITION, "interface: "),
        ("remote local attach", StatusCode.FAILED_PRECONDITION, "no pre-shared key is set"),
        (
            "silent local attach psk",
            StatusCode.FAILED_PRECONDITION,
            "consent: cell 'away' has none",
        ),
        (
            "remote local second attach psk",
            StatusCode.FAILED_PRECONDITION,
            "local: this host has 2",
        ),
    ],
)
async def test_connect_says_what_is_missing(
    api: Api, place: Place, dummy: str, prepare: str, code: StatusCode, said: str
):
    steps = {
        "remote": lambda: api.remote("away", KEY),
        "silent": lambda: api.remote("away", KEY, common_pb2.CONSENT_NONE),
        "local": lambda: api.local("home", dummy),
        "second": lambda: api.local("home-2", dummy),
        "attach": lambda: api.attach(dummy),
        "psk": lambda: api.psk("away"),
    }
    for step in prepare.split():
        await steps[step]()
    before = place.everything()
    found, message = await refused(
        api.sessions.Connect(sessions_pb2.ConnectRequest(remote=by_name("away")))
    )
    assert found is code
    assert message.startswith(said)
    assert place.everything() == before


@pytest.mark.parametrize(
    ("call", "request_", "code", "said"),
    [
        ("Connect", sessions_pb2.ConnectRequest(), 3, "remote: needs the id or the name"),
        (
            "Connect",
            sessions_pb2.ConnectRequest(remote=by_name("away"), local=by_name("away")),
            5,
            "cell 'away' does not live on this host",
        ),
        ("Get", sessions_pb2.GetSessionRequest(), 3, "remote: needs the id or the name"),
        ("Get", sessions_pb2.GetSessionRequest(remote=by_name("away")), 5, "no session with"),
        ("Get", sessions_pb2.GetSessionRequest(remote=by_name("nobody")), 5, "no cell 'nobody'"),
        ("Close", Close(), 3, "remote: needs the id or the name"),
        ("Close", Close(remote=by_name("away")), 5, "no session with cell 'away'"),
        ("OpenFlow", OpenFlow(flow=1), 3, "remote: needs the id or the name"),
        ("OpenFlow", OpenFlow(remote=by_name("away")), 3, "flow: needs 1 to 7, got 0"),
        ("OpenFlow", OpenFlow(remote=by_name("away"), flow=1), 5, "no session with cell"),
        ("Announce", Announce(flow=1, items=[item()]), 3, "remote: needs the id or the name"),
        ("Announce", Announce(remote=by_name("away"), items=[item()]), 3, "flow: needs 1 to 7"),
        ("Announce", Announce(remote=by_name("away"), flow=1), 3, "items: needs 1 to 256, got 0"),
        (
            "Announce",
            Announce(remote=by_name("away"), flow=1, items=[item(), item("../x")]),
            3,
            "items[1].name: must be a plain file name",
        ),
        (
            "Announce",
            Announce(
                remote=by_name("away"),
                flow=1,
                items=[sessions_pb2.ManifestItem(name="a", digest=b"x", algorithm="sha256")],
            ),
            3,
            "items[0].digest: is not",
        ),
        ("Announce", Announce(remote=by_name("away"), flow=1, items=[item()]), 5, "no session"),
    ],
)
async def test_a_bad_session_request_changes_nothing(
    api: Api, place: Place, call: str, request_: object, code: int, said: str
):
    await api.remote("away", KEY)
    before = place.everything()
    found, message = await refused(getattr(api.sessions, call)(request_))
    assert found.value[0] == code
    assert message.startswith(said)
    assert place.everything() == before


async def test_watching_an_unknown_cell_is_refused(api: Api):
    for request, code in ((Watch(remote=by_name("nobody")), 5), (Watch(flow=8), 3)):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await api.sessions.WatchManifests(request).read()
        assert failure.value.code().value[0] == code


# The end of a session


async def test_closing_ends_it_on_both_sides(joined: Two):
    await joined.left.sessions.Close(Close(remote=by_name("right")))
    assert await joined.left.session("right") is None

    async def gone() -> bool:
        return await joined.right.session("left") is None

    await eventually(gone, "the other side has closed too")
    for host in (joined.cable.left, joined.cable.right):
        config = host.place.config
        assert list((config.run_dir / "sessions").iterdir()) == []
        assert not any("INTO sessions" in row for row in host.place.rows())
        (entry,) = host.place.map("sessions").values()
        assert int.from_bytes(entry[32:36], "little") & 0x1 == 0
    await joined.right.connect("left")
    await joined.both_established(2)


async def test_closing_without_an_answer_ends_it_here(joined: Two):
    joined.cable.right.stop(signal.SIGKILL)
    await joined.left.sessions.Close(Close(remote=by_name("right")), timeout=WAIT_SECONDS)
    assert await joined.left.session("right") is None


async def test_consent_taken_back_ends_the_session(joined: Two):
    await joined.left.cells.SetConsent(
        cells_pb2.SetConsentRequest(cell=by_name("right"), consent=common_pb2.CONSENT_NONE)
    )
    assert await joined.left.session("right") is None

    async def gone() -> bool:
        return await joined.right.session("left") is None

    await eventually(gone, "the peer was told")


async def test_a_suspended_session_goes_on_when_consent_returns(joined: Two):
    async def consent(to: common_pb2.Consent) -> None:
        await joined.left.cells.SetConsent(
            cells_pb2.SetConsentRequest(cell=by_name("right"), consent=to)
        )

    before = await joined.left.session("right")
    await consent(common_pb2.CONSENT_QUARANTINED)
    assert await joined.left.session("right") == before
    await consent(common_pb2.CONSENT_STANDING)
    assert await joined.left.session("right") == before
    await joined.right.sessions.Announce(
        Announce(remote=by_name("left"), flow=1, items=[item()]), timeout=WAIT_SECONDS
    )


@pytest.mark.parametrize("what", ["remote", "local", "psk"])
async def test_what_a_session_rests_on_takes_it_along(joined: Two, what: str):
    if what == "psk":
        await joined.left.keys.DeletePsk(keys_pb2.DeletePskRequest(remote=by_name("right")))
    else:
        name = "right" if what == "remote" else "left"
        await joined.left.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name(name)))
    assert joined.cable.left.place.map("sessions") == {}
    assert (await joined.left.status()).sessions == 0
    assert list((joined.cable.left.place.config.run_dir / "sessions").iterdir()) == []

    async def gone() -> bool:
        return await joined.right.session("left") is None

    await eventually(gone, "the peer was told")


# Grants


async def test_a_wider_grant_applies_from_the_next_session_on(joined: Two):
    grant = await joined.left.grant("right", 1, 1500)
    assert (grant.window_blocks, grant.granted_blocks) == (1500, 1000)
    session = await joined.right.session("left")
    assert session is not None
    assert session.flows[1].tx_granted_blocks == 1000
    await joined.left.sessions.Connect(
        sessions_pb2.ConnectRequest(remote=by_name("right"), renew=True)
    )
    assert (await joined.left.grant("right", 1, 1500)).granted_blocks == 1500


async def test_a_live_window_is_not_taken_back(joined: Two):
    place = joined.cable.left.place
    before = place.everything()
    request = grants_pb2.DeleteGrantRequest(remote=by_name("right"), flow=1)
    code, message = await refused(joined.left.grants.Delete(request))
    assert code is StatusCode.FAILED_PRECONDITION
    assert message.startswith("flow: flow 1 is open in a live session")
    assert place.everything() == before
    await joined.left.sessions.Close(Close(remote=by_name("right")))
    await joined.left.grants.Delete(request)


# Manifests


async def test_an_announced_manifest_arrives_once(joined: Two):
    items = [item("a.bin", 1 << 40), item("ä ö.txt", 0)]
    watch = joined.right.sessions.WatchManifests(Watch(remote=by_name("left")))
    await joined.left.sessions.Announce(Announce(remote=by_name("right"), flow=1, items=items))
    manifest = await asyncio.wait_for(watch.read(), WAIT_SECONDS)
    assert (manifest.remote_name, manifest.flow) == ("left", 1)
    assert list(manifest.items) == items
    await joined.left.sessions.Announce(
        Announce(remote=by_name("right"), flow=1, items=[item("second")])
    )
    second = await asyncio.wait_for(watch.read(), WAIT_SECONDS)
    assert [each.name for each in second.items] == ["second"]
    watch.cancel()


async def test_a_manifest_waits_for_somebody_to_take_it(joined: Two):
    await joined.left.sessions.Announce(Announce(remote=by_name("right"), flow=1, items=[item()]))
    watch = joined.right.sessions.WatchManifests(Watch())
    manifest = await asyncio.wait_for(watch.read(), WAIT_SECONDS)
    assert manifest.items[0] == item()
    watch.cancel()


async def test_what_does_not_fit_a_frame_is_announced_in_several(joined: Two):
    items = [item(f"{number:03d}" + "x" * 200) for number in range(12)]
    await joined.left.sessions.Announce(Announce(remote=by_name("right"), flow=1, items=items))
    watch = joined.right.sessions.WatchManifests(Watch())
    found: list[sessions_pb2.ManifestItem] = []
    while len(found) < len(items):
        found += (await asyncio.wait_for(watch.read(), WAIT_SECONDS)).items
    watch.cancel()
    assert found == items


async def test_a_manifest_that_nobody_answers_fails_in_the_end(joined: Two):
    joined.cable.right.stop(signal.SIGKILL)
    code, message = await refused(
        joined.left.sessions.Announce(Announce(remote=by_name("right"), flow=1, items=[item()]))
    )
    assert code is StatusCode.DEADLINE_EXCEEDED
    assert message == "the peer did not take the manifest in time"


async def test_a_flow_that_is_not_open_is_named(joined: Two):
    code, message = await refused(
        joined.left.sessions.Announce(Announce(remote=by_name("right"), flow=2, items=[item()]))
    )
    assert (code, message) == (
        StatusCode.FAILED_PRECONDITION,
        "flow: the session has no flow 2",
    )
    code, message = await refused(
        joined.left.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=2))
    )
    assert code is StatusCode.NOT_FOUND
    assert message == "flow: the session with 'right' has no flow 2"


# Flows


async def test_a_flow_is_handed_out_with_matching_keys(joined: Two):
    left = await joined.left.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=1))
    right = await joined.right.sessions.OpenFlow(OpenFlow(remote=by_name("left"), flow=1))
    assert left.tx_payload_key == right.rx_payload_key
    assert left.rx_payload_key == right.tx_payload_key
    assert left.tx_payload_key != left.rx_payload_key
    assert left.tx_header_key != right.tx_header_key
    assert (len(left.tx_payload_key), len(left.tx_header_key)) == (32, 16)
    assert (left.local_mac, left.remote_mac) == (right.remote_mac, right.local_mac)
    assert (left.interface, left.mtu, left.flow) == (INTERFACE, 1500, 1)
    assert left.session.state == ESTABLISHED
    maps = joined.cable.left.place.pins / "maps"
    assert (left.flows_pin, left.sockets_pin) == (str(maps / "flows"), str(maps / "sockets"))
    assert {"flows", "sockets"} <= {path.name for path in maps.iterdir()}
    lock = Path(left.lock_path)
    assert lock.name == f"{left.session.id}-1.lock"
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700


async def test_the_mtu_is_the_smaller_one(two: Two):
    ip("-n", two.cable.right.namespace, "link", "set", INTERFACE, "mtu", "1400")
    await two.left.connect("right")
    await two.both_established()
    flow = await two.left.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=1))
    assert flow.mtu == 1400


# Crashes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_daemon_takes_over_what_its_predecessor_left(joined: Two, number: int):
    host: Host = joined.cable.left
    before = await joined.left.status()
    session = await joined.left.session("right")
    entries, rows = host.place.map("sessions"), host.place.rows()
    flow = await joined.left.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=1))
    host.stop(number)
    await host.start()
    async with api_at(host.place.config.socket) as api:
        after = await api.status()
        assert after.adopted
        assert after.program_id == before.program_id
        assert after.interfaces == before.interfaces
        assert (after.sessions, after.credit_promised_blocks) == (
            before.sessions,
            before.credit_promised_blocks,
        )
        assert host.place.map("sessions") == entries
        assert host.place.rows() == rows
        assert await api.session("right") == session
        again = await api.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=1))
        assert again == flow
        # And it works: flow 0 goes on where it stopped, in both directions.
        await api.sessions.Announce(
            Announce(remote=by_name("right"), flow=1, items=[item()]), timeout=WAIT_SECONDS
        )
        await joined.right.sessions.Announce(
            Announce(remote=by_name("left"), flow=1, items=[item()]), timeout=WAIT_SECONDS
        )
        await api.connect("right", renew=True)
        await joined.both_established(2)


async def test_a_sequence_number_is_not_used_twice_across_a_crash(joined: Two):
    """tx_seq of flow 0 lies in the map before a frame carries it."""
    host = joined.cable.left

    def tx_seq() -> int:
        # struct assent_flow: four 64-bit counters, rx_highest, tx_seq; flow 0 has the lowest slot.
        lines = [line for line in host.place.map("flows").values() if any(line)]
        return max(int.from_bytes(line[36:40], "little") for line in lines)

    async def announce(api: Api) -> None:
        await api.sessions.Announce(
            Announce(remote=by_name("right"), flow=1, items=[item()]), timeout=WAIT_SECONDS
        )

    await announce(joined.left)
    before = tx_seq()
    assert before >= 1
    host.stop(signal.SIGKILL)
    await host.start()
    async with api_at(host.place.config.socket) as api:
        await announce(api)
    assert tx_seq() > before
    assert (await joined.right.counters())["replay"] == 0


@pytest.mark.parametrize("lost", ["escrow", "row", "entry"])
async def test_a_session_that_is_not_whole_is_removed(joined: Two, lost: str):
    import sqlite3

    from assent.dataplane.libbpf import Map

    host = joined.cable.left
    host.stop(signal.SIGKILL)
    if lost == "escrow":
        for path in (host.place.config.run_dir / "sessions").iterdir():
            path.unlink()
    elif lost == "row":
        db = sqlite3.connect(host.place.config.state_dir / "state.db", isolation_level=None)
        db.execute("DELETE FROM sessions")
        db.close()
    else:
        with Map.open_pinned(host.place.pins / "maps" / "sessions") as table:
            table.delete(next(iter(host.place.map("sessions"))))
    await host.start()
    async with api_at(host.place.config.socket) as api:
        assert await api.session("right") is None
        assert list((host.place.config.run_dir / "sessions").iterdir()) == []
        assert not any("INTO sessions" in row for row in host.place.rows())
        # The peer stays provisioned, without a session; a new handshake works.
        (entry,) = host.place.map("sessions").values()
        assert int.from_bytes(entry[32:36], "little") & 0x1 == 0
        await api.connect("right")
        await joined.both_established()


async def test_no_secret_reaches_the_log(joined: Two):
    flow = await joined.left.sessions.OpenFlow(OpenFlow(remote=by_name("right"), flow=1))
    log = joined.cable.left.log.read_text()
    assert "session established" in log
    for secret in (flow.tx_payload_key, flow.rx_payload_key, flow.tx_header_key):
        assert secret.hex() not in log
        assert repr(secret)[2:-1] not in log
