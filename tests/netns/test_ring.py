"""Rings through real gates: messages both ways, many flows, neighbours, other links, loans."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .rings import Peer, World

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

AF_XDP, AF_PACKET = 1, 2
READABLE, DRAINED, BROKEN = 1, 4, 16
EBUSY, ENETDOWN, ESHUTDOWN = 16, 100, 108
NOBODY = 65534
BACKENDS = pytest.mark.parametrize("backend", [AF_XDP, AF_PACKET], ids=["af_xdp", "af_packet"])


@pytest.fixture
def world() -> Iterator[World]:
    with World() as laid_out:
        yield laid_out


@pytest.fixture
def switched() -> Iterator[World]:
    with World(switched=True) as laid_out:
        yield laid_out


def drive(*peers: Peer) -> None:
    for peer in peers:
        peer.do("drive")


def assert_all_admitted(world: World) -> None:
    """Frames that were sent again in vain apart: a slow machine's timers fire."""
    for side in (world.left, world.right):
        assert side.refused().keys() <= {"replay"}


def transfer(sender: Peer, receiver: Peer, flow: int, **what: int) -> None:
    receiver.begin("recv", flow=flow, **what)
    sender.do("send", flow=flow, **what)
    answer = receiver.end()
    assert "failed" not in answer, answer["failed"]


@BACKENDS
def test_messages_of_all_sizes_go_both_ways(world, backend):
    left, right = world.pair(1, backend=backend)
    drive(left, right)
    for size in (0, 1, 64, 1373, 1374, 1375, 1376, 100_000):
        transfer(left, right, 1, count=20, size=size, seed=size)
        transfer(right, left, 1, count=20, size=size, seed=size + 7)
    for peer in (left, right):
        stats = peer.do("stats", flow=1)
        assert stats["nacks_sent"] == stats["gaps_sent"] == stats["aead_failures"] == 0
        assert stats["messages_sent"] == stats["messages_received"] == 160
        assert peer.do("describe")["dropped"] == 0
    assert_all_admitted(world)


@BACKENDS
def test_more_than_a_window_goes_both_ways_at_once(world, backend):
    left, right = world.pair(1, 2, backend=backend)
    drive(left, right)
    left.begin("send", flow=1, count=40, size=200_000)
    right.begin("recv", flow=1, count=40, size=200_000)
    assert "failed" not in right.end()
    assert "failed" not in left.end()
    right.begin("echo", flow=2, count=200, size=3000)
    assert left.do("ask", flow=2, count=200, size=3000)["p50"] > 0
    right.end()
    assert right.do("describe")["dropped"] == 0


@pytest.mark.parametrize("backend", [AF_XDP, AF_PACKET], ids=["af_xdp", "af_packet"])
@pytest.mark.parametrize("count", [3, 100])
def test_one_ring_carries_many_flows(backend, count):
    flows = list(range(1, count + 1))
    with World(flows=count, window=2048) as world:
        left, right = world.pair(backend=backend)
        for peer in (left, right):
            world.add(peer, *flows)
        drive(left, right)
        right.begin("recv_each", flows=flows, count=5, size=5000)
        left.do("send_each", flows=flows, count=5, size=5000)
        answer = right.end()
        assert "failed" not in answer, answer["failed"]
        assert right.do("describe")["flows"] == count
        assert_all_admitted(world)
        # Half of them go, and the others go on.
        for flow in flows[: count // 2]:
            left.do("remove", flow=flow)
            right.do("remove", flow=flow)
        transfer(left, right, flows[-1], count=3, size=9000)


def test_a_queue_that_is_taken_falls_back_and_neither_sees_the_others_frames(world):
    first = world.pair(1)
    second = world.pair(2)
    for peer in second:
        info = peer.do("describe")
        assert info["backend"] == "af_packet"
        reason = info["fallback_reason"]
        assert re.fullmatch(r"AF_XDP on fab0: binding the socket: .*busy", reason)
    drive(*first, *second)
    second[1].begin("recv", flow=2, count=30, size=100_000)
    second[0].begin("send", flow=2, count=30, size=100_000)
    transfer(*first, 1, count=30, size=100_000)
    assert "failed" not in second[0].end()
    assert "failed" not in second[1].end()
    for peer in (*first, *second):
        info = peer.do("describe")
        assert (info["foreign"], info["dropped"]) == (0, 0)
    assert first[0].do("describe")["fallback_reason"] == ""


def test_af_xdp_that_is_demanded_is_not_replaced(world):
    world.pair(1)
    other = world.left.peer()
    other.begin("open", interface="fab0", maps=world.left.maps, backend=AF_XDP)
    assert re.search("binding the socket: .*busy", other.end()["failed"])
    other.begin("open", interface="nowhere", maps=world.left.maps)
    assert re.search("AF_PACKET on nowhere: finding the interface", other.end()["failed"])


def test_two_interfaces_of_one_gate_have_an_af_xdp_ring_each(world):
    pairs = []
    for flow, interface in ((1, "fab0"), (2, "fab1")):
        peers = world.left.peer(), world.right.peer()
        for peer in peers:
            assert peer.open(interface)["backend"] == "af_xdp"
            world.add(peer, flow, interface=interface)
        drive(*peers)
        pairs.append((flow, peers))
    for flow, (left, right) in pairs:
        transfer(left, right, flow, count=10, size=50_000)


@pytest.mark.parametrize(
    ("before", "after"),
    [(AF_XDP, AF_XDP), (AF_XDP, AF_PACKET), (AF_PACKET, AF_XDP)],
    ids=["af_xdp", "to_af_packet", "from_af_packet"],
)
def test_a_transfer_goes_on_while_its_receiver_moves_to_another_interface(switched, before, after):
    left, right = switched.pair(1, backend=before)
    drive(left, right)
    left.begin("send", flow=1, count=60, size=200_000)
    right.do("recv", flow=1, count=20, size=200_000)
    mac = switched.right.macs["fab1"]
    moved = right.do("move", interface="fab1", mac=mac, maps=switched.right.maps, backend=after)
    assert moved["interface"] == "fab1"
    assert moved["backend"] == {AF_XDP: "af_xdp", AF_PACKET: "af_packet"}[after]
    right.do("recv", flow=1, count=40, size=200_000, seed=20)
    assert "failed" not in left.end()
    assert left.do("stats", flow=1)["moves"] >= 1
    # And the other way, after the dust has settled.
    transfer(right, left, 1, count=5, size=50_000)


def test_an_interface_that_is_gone_is_named_and_a_move_mends_it(switched):
    left, right = switched.pair(1)
    drive(left, right)
    transfer(left, right, 1, count=2, size=5000)
    switched.right.unplug("fab0")
    right.begin("await", flow=1, bits=READABLE, milliseconds=20_000)
    assert re.search("100: the interface fab0 is gone", right.end()["failed"])
    mac = switched.right.macs["fab1"]
    right.do("move", interface="fab1", mac=mac, maps=switched.right.maps)
    transfer(left, right, 1, count=10, size=50_000)
    driver = right.do("close")["driver"]
    assert driver == {"errno": ENETDOWN, "why": "the interface fab0 is gone"}


def test_a_flow_is_driven_once_and_a_removed_flow_ends_its_waits(world):
    left, _ = world.pair(1)
    drive(left)
    left.begin("add", flow=1, side="left", slot=world.left.base + 1, macs={"left": "", "right": ""})
    assert "driven already" in left.end()["failed"]
    left.do("wait_apart", flow=1, bits=READABLE)
    left.do("remove", flow=1)
    waited = left.do("waited")
    assert waited == {"result": -ESHUTDOWN, "why": "the flow was closed meanwhile"}
    line = world.left.gate.tables.flows.read(world.left.base + 1)
    assert (line.rx_open, line.tx_pending) == (0, 0)


def test_closing_a_ring_ends_its_waits_and_its_driver(world):
    left, right = world.pair(1, 2)
    drive(left, right)
    transfer(left, right, 1, count=2, size=5000)
    left.do("wait_apart", flow=2, bits=READABLE)
    left.do("close")
    assert left.do("waited")["result"] == -ESHUTDOWN
    for flow in (1, 2):
        assert world.left.gate.tables.flows.read(world.left.base + flow).rx_open == 0


def test_a_session_that_ends_ends_waits_on_its_flows(world):
    left, _ = world.pair(1)
    drive(left)
    left.do("wait_apart", flow=1, bits=READABLE)
    world.left.gate.tables.flows.shut(world.left.base + 1)
    waited = left.do("waited")
    assert waited["result"] < 0
    assert "the session has ended" in waited["why"]


@BACKENDS
def test_an_unprivileged_process_drives_a_lent_ring(world, backend):
    with tempfile.TemporaryDirectory(prefix="assent-lend-") as directory:
        Path(directory).chmod(0o755)
        lender, left = world.right.peer(), world.left.peer()
        left.open()
        world.add(left, 1, 2)
        path = f"{directory}/lend"
        base = world.right.base
        lent = lender.do(
            "lend", path=path, interface="fab0", maps=world.right.maps, side="right",
            slots=[base + 1, base + 2], backend=backend,
        )  # fmt: skip
        assert lent["fallback_reason"] == ""
        borrower = world.right.peer(uid=NOBODY)
        info = borrower.do("borrow", path=path)
        assert info["backend"] == {AF_XDP: "af_xdp", AF_PACKET: "af_packet"}[backend]
        for index in (0, 1):
            world.add(borrower, index + 1, index=index)
        borrower.begin("describe_maps", maps=world.right.maps)
        assert "ermission" in borrower.end()["failed"]
        drive(left, borrower)

        # Four windows each way: each block beyond the first is granted by the lender.
        transfer(left, borrower, 1, count=40, size=200_000)
        transfer(borrower, left, 2, count=40, size=200_000)
        assert_all_admitted(world)
        flows = world.right.gate.tables.flows
        assert flows.read(base + 2).tx_pending == 1

        # A wish beyond what has arrived and the window is not granted.
        borrower.do("wish", index=0, name="taken", value=1 << 40)
        borrower.do("wish", index=1, name="tx_seq", value=1)
        transfer(borrower, left, 2, count=1, size=10)
        line = flows.read(base + 1)
        assert line.rx_granted <= line.rx_spent + line.rx_window

        borrower.stop()
        for index in (0, 1):
            lender.do("take_back", index=index)
        line = flows.read(base + 2)
        assert line.rx_open == flows.read(base + 1).rx_open == line.tx_pending == 0
        assert line.tx_seq >= left.do("stats", flow=2)["rx_frames"]


def test_a_lender_says_why_it_cannot(world):
    lender = world.right.peer()
    lender.begin(
        "lend", path="/nonexistent", interface="nowhere", maps=world.right.maps, side="right",
        slots=[world.right.base + 1],
    )  # fmt: skip
    assert re.match("lending AF_PACKET on nowhere: finding the interface", lender.end()["failed"])
