# SPDX-License-Identifier: Apache-2.0
"""Frames that leave through the kernel's stack, on real interfaces, and interfaces that open late.

here: raw AF_PACKET sender --> clsact, egress --> fab0 ----veth---- fab0 --> gate :there
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from assent.dataplane import bpffs, clsact
from assent.dataplane.egress import EgressState
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.libbpf import Object, Program
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import FlowSpec
from assent.demo.lab import HOST_INTERFACE, inside
from assent.demo.nodes import Nodes
from assent.v1 import fabric_pb2
from assent.v1.fabric_pb2 import GetCountersRequest, GetStatusRequest
from assent.wire.fabric import ETHERTYPE, signed_bytes
from assent.wire.siphash import siphash24

from ..packet.two_gates import (
    HERE,
    KEY,
    STRANGER,
    THERE,
    VLAN,
    WINDOW,
    TwoGates,
    header_of,
)

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

ALL_PROTOCOLS = 0x0003
OUTGOING = 4
WAIT_SECONDS = 20.0
ASIDE = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Ends the classification: whoever comes after it is not asked. */
SEC("tc") int lets_go(struct __sk_buff *ctx) { return TC_ACT_OK; }

SEC("tc") int tags(struct __sk_buff *ctx)
{
	bpf_skb_vlan_push(ctx, bpf_htons(0x8100), 7);
	return TC_ACT_UNSPEC;
}

SEC("tc") int tags_for_service(struct __sk_buff *ctx)
{
	bpf_skb_vlan_push(ctx, bpf_htons(0x88A8), 7);
	return TC_ACT_UNSPEC;
}
char LICENSE[] SEC("license") = "GPL";
"""


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def eventually(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not check():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.02)


class Wire:
    """Two namespaces, a cable between them, a gate at either end; the sender's judges what leaves.

    Attributes:
        gates: Of both, in session with each other.
        index: Of the sender's interface.
    """

    def __init__(self, here: str, there: str, gates: TwoGates) -> None:
        self.here = here
        self.there = there
        self.gates = gates
        self.index = self.index_in(here)

    @staticmethod
    def index_in(namespace: str) -> int:
        with inside(namespace):
            return socket.if_nametoindex(HOST_INTERFACE)

    @property
    def state(self) -> EgressState:
        with inside(self.here):
            return self.gates.sender.egress.state(self.index)

    @contextlib.contextmanager
    def socket(self, namespace: str, protocol: int) -> Iterator[socket.socket]:
        with inside(namespace):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with raw:
            raw.bind((HOST_INTERFACE, protocol))
            raw.settimeout(WAIT_SECONDS)
            yield raw

    def send(self, *frames: bytes) -> list[bool]:
        """Sends; says of each frame whether the kernel let it go."""
        let_go = []
        with self.socket(self.here, 0) as raw:
            for frame in frames:
                try:
                    raw.send(frame)
                    let_go.append(True)
                except OSError:
                    let_go.append(False)
        return let_go

    @contextlib.contextmanager
    def in_front(self, program: Program) -> Iterator[None]:
        """Another filter, which is asked before the egress program."""
        with inside(self.here):
            clsact.put(self.index, 0x77, "aside", program)
        try:
            yield
        finally:
            with inside(self.here):
                clsact.take(self.index, 0x77)


@pytest.fixture
def wire() -> Iterator[Wire]:
    name = f"egress-{uuid.uuid4().hex[:8]}"
    here, there = f"{name}-here", f"{name}-there"
    root = PIN_ROOT.parent / f"assent-{name}"
    bpffs.ensure(root)
    with contextlib.ExitStack() as undo:
        for namespace in (here, there):
            ip("netns", "add", namespace)
            undo.callback(ip, "netns", "del", namespace)
        peer = ("peer", "name", HOST_INTERFACE, "netns", there)
        ip("link", "add", HOST_INTERFACE, "netns", here, "type", "veth", *peer)
        opened = []
        for namespace in (here, there):
            ip("-n", namespace, "link", "set", HOST_INTERFACE, "up")
            gate = undo.enter_context(Gate.open(namespace, CHAPTER, root))
            undo.callback(Gate.remove, namespace, root)
            with inside(namespace):
                gate.attach(HOST_INTERFACE)
            opened.append(gate)
        yield Wire(here, there, TwoGates(*opened))
    assert not root.exists()


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Program]]:
    """Programs of others, by name."""
    folder = tmp_path_factory.mktemp("aside")
    source, made = folder / "aside.c", folder / "aside.o"
    source.write_text(ASIDE)
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    flags = ["-target", "bpf", "-O2", "-g", "-isystem", include]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(made)], check=True)
    with contextlib.ExitStack() as undo:
        loaded = undo.enter_context(Object.open(made))
        loaded.load()
        yield lambda name: undo.enter_context(loaded.program(name))


def test_a_raw_sender_s_frame_is_stamped_and_admitted_by_the_peer(wire: Wire):
    gates = wire.gates
    sent = gates.frame()
    with wire.socket(wire.there, ETHERTYPE) as listener:
        assert wire.send(sent) == [True]
        got = listener.recv(4096)
    header = header_of(got)
    assert (header.grant, header.tag) == (WINDOW, siphash24(KEY, signed_bytes(header)))
    assert got[78:] == sent[78:]
    assert gates.receiver.tables.counters.read()["admitted"].frames == 1
    # Both count for the interface that it was.
    assert gates.sender.tables.counters.by_interface("leaving")[wire.index]["admitted"].frames == 1
    assert gates.line().tx_spent == 3
    assert gates.receiver.tables.flows.read(gates.receiving.flow_base + 1).rx_spent == 3


def test_what_may_not_leave_is_not_on_the_wire(wire: Wire):
    gates = wire.gates
    refused = [
        gates.frame(src=STRANGER),
        gates.frame(src=THERE, dst=HERE),
        gates.frame(dst=STRANGER),
        gates.frame(tag=1),
        gates.frame(flow=2),
        gates.frame(flow=3),
        gates.frame(length=63),
        gates.frame(tags=VLAN * 2),
    ]
    foreign = gates.frame()[:12] + b"\x08\x00" + bytes(range(64))
    with wire.socket(wire.there, ALL_PROTOCOLS) as listener:
        assert wire.send(*refused, foreign) == [False] * len(refused) + [True]
        while True:
            frame, address = listener.recvfrom(65536)
            assert address[1] not in (ETHERTYPE, 0x8100)
            if frame == foreign:
                break
    assert sum(found.frames for found in gates.counted().values()) == len(refused)
    assert sum(each.frames for each in gates.receiver.tables.counters.read().values()) == 0


def test_a_frame_in_several_pieces_is_stamped(wire: Wire):
    """Frames of more than a page lie in several, of which the first holds the addresses alone."""
    gates = wire.gates
    # Such an interface takes no XDP program, at either end: only what leaves is decided on here.
    for namespace, gate in ((wire.here, gates.sender), (wire.there, gates.receiver)):
        with inside(namespace):
            gate.detach(HOST_INTERFACE)
    for namespace in (wire.here, wire.there):
        ip("-n", namespace, "link", "set", HOST_INTERFACE, "mtu", "40000")
    with inside(wire.here):
        gates.sender.egress.attach(wire.index)
    gates.install(flows=(FlowSpec(1, WINDOW, 1000),))
    sent = gates.frame(payload_len=33_000)
    with wire.socket(wire.there, ETHERTYPE) as listener:
        assert wire.send(sent, gates.frame(payload_len=33_000, seq=2, length=33_000)) == [
            True,
            False,
        ]
        got = listener.recv(65536)
    header = header_of(got)
    assert header.tag == siphash24(KEY, signed_bytes(header))
    assert got[78:] == sent[78:]
    assert gates.line().tx_spent == 1 + -(-33_000 // 64)


@pytest.mark.parametrize(
    ("program", "tags", "verdict"),
    [
        ("tags", b"", "admitted"),
        ("tags", VLAN, "stacked_vlan"),
        ("tags_for_service", b"", "stacked_vlan"),
    ],
)
def test_a_vlan_tag_beside_the_frame_counts_as_one(
    wire: Wire, aside: Callable[[str], Program], program: str, tags: bytes, verdict: str
):
    gates = wire.gates
    foreign = gates.frame()[:12] + b"\x08\x00" + bytes(64)
    with wire.in_front(aside(program)):
        let_go = wire.send(gates.frame(tags=tags), foreign)
    assert let_go == [verdict == "admitted", True]
    assert {name: found.frames for name, found in gates.counted().items()} == {verdict: 1}


def test_where_the_program_stands_is_seen(wire: Wire, aside: Callable[[str], Program]):
    egress = wire.gates.sender.egress
    assert wire.state is EgressState.ATTACHED
    forged = wire.gates.frame(src=STRANGER)
    assert wire.send(forged) == [False]

    with wire.in_front(aside("lets_go")):
        assert wire.state is EgressState.BYPASSED
        assert wire.send(forged) == [True]
    assert wire.state is EgressState.ATTACHED

    filter_at = [*("-n", wire.here, "filter"), "del", "dev", HOST_INTERFACE, "egress"]
    subprocess.run(["tc", *filter_at, "pref", "1"], check=True)
    assert wire.state is EgressState.MISSING
    assert wire.send(forged) == [True]
    with inside(wire.here):
        assert egress.attach(wire.index)
        assert not egress.attach(wire.index)
    assert wire.state is EgressState.ATTACHED

    clsact_at = ["-n", wire.here, "qdisc", "del", "dev", HOST_INTERFACE, "clsact"]
    subprocess.run(["tc", *clsact_at], check=True)
    assert wire.state is EgressState.NO_CLSACT
    with inside(wire.here):
        assert egress.attach(wire.index)
    assert wire.send(forged) == [False]

    handle = next(each.handle for each in filters(wire))
    with inside(wire.here):
        clsact.put(wire.index, handle, "not it", aside("lets_go"))
    assert wire.state is EgressState.OTHER_PROGRAM
    with inside(wire.here):
        egress.attach(wire.index)
    assert wire.state is EgressState.ATTACHED


def filters(wire: Wire) -> list[clsact.Filter]:
    with inside(wire.here):
        return clsact.filters(wire.index)


def test_detaching_leaves_the_filters_of_others(wire: Wire, aside: Callable[[str], Program]):
    with wire.in_front(aside("tags")):
        with inside(wire.here):
            wire.gates.sender.detach(HOST_INTERFACE)
        assert [each.name for each in filters(wire)] == ["aside"]
        with inside(wire.here):
            wire.gates.sender.attach(HOST_INTERFACE)
    with inside(wire.here):
        wire.gates.sender.detach(HOST_INTERFACE)
        assert not clsact.exists(wire.index)


def test_what_cannot_be_gated_as_a_whole_is_not_gated_by_half(wire: Wire):
    """The interface is another gate's: neither half of this one stays."""
    root = PIN_ROOT.parent / f"assent-half-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as undo:
        undo.callback(Gate.remove, "half", root)
        gate = undo.enter_context(Gate.open("half", CHAPTER, root))
        before = filters(wire)
        with inside(wire.here), pytest.raises(Exception, match="another XDP program"):
            gate.attach(HOST_INTERFACE)
        assert filters(wire) == before
        assert gate.attachments() == []


def test_a_newer_program_takes_the_place_of_the_old_one(
    wire: Wire, aside: Callable[[str], Program]
):
    gate = wire.gates.sender
    root = PIN_ROOT.parent / wire.here.removesuffix("-here").replace("egress-", "assent-egress-")
    pin = root / gate.instance / "programs" / "egress"
    # As an earlier version would have left it.
    old = aside("lets_go")
    pin.unlink()
    old.pin(pin)
    handle = filters(wire)[0].handle
    with inside(wire.here):
        clsact.put(wire.index, handle, "older", old)
        with Gate.open(gate.instance, CHAPTER, root) as adopted:
            assert adopted.adopted
            assert adopted.egress.state(wire.index) is EgressState.ATTACHED
            assert [each.program_id for each in filters(wire)] == [adopted.egress.program.id]
            with Program.open_pinned(pin) as pinned:
                assert pinned.id == adopted.egress.program.id


# With a daemon


@pytest.fixture
def lone() -> Iterator[Nodes]:
    """A host with a daemon, on a switch; nothing is attached."""
    with Nodes(("left",), Console(file=io.StringIO())) as nodes:
        nodes.start_all()
        yield nodes


def status_of(nodes: Nodes) -> fabric_pb2.Status:
    with nodes.client("left") as client:
        return client.fabric.GetStatus(GetStatusRequest())


def egress_of(nodes: Nodes) -> int:
    (interface,) = status_of(nodes).interfaces
    return interface.egress


def tc(nodes: Nodes, *arguments: str) -> None:
    namespace = nodes["left"].host.netns
    command = ["tc", "-n", namespace, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # The daemon may be repairing it at this moment.
    assert done.returncode in (0, 2), done.stderr


@pytest.mark.parametrize(
    ("command", "state"),
    [
        (("filter", "del", "dev", HOST_INTERFACE, "egress"), fabric_pb2.EGRESS_STATE_MISSING),
        (("qdisc", "del", "dev", HOST_INTERFACE, "clsact"), fabric_pb2.EGRESS_STATE_NO_CLSACT),
    ],
)
def test_a_removed_program_is_reported_and_put_back(
    lone: Nodes, command: tuple[str, ...], state: int
):
    lone.cli("left", "attach", HOST_INTERFACE)
    assert egress_of(lone) == fabric_pb2.EGRESS_STATE_ATTACHED

    def seen() -> bool:
        tc(lone, *command)
        return egress_of(lone) == state

    eventually(seen, "the removal shows")
    eventually(lambda: egress_of(lone) == fabric_pb2.EGRESS_STATE_ATTACHED, "it is put back")


def test_a_program_in_front_is_reported_and_not_argued_with(
    lone: Nodes, aside: Callable[[str], Program]
):
    lone.cli("left", "attach", HOST_INTERFACE)
    with inside(lone["left"].host.netns):
        index = socket.if_nametoindex(HOST_INTERFACE)
        clsact.put(index, 0x77, "aside", aside("lets_go"))
    assert egress_of(lone) == fabric_pb2.EGRESS_STATE_BYPASSED
    assert "bypassed" in lone.cli("left", "status")
    with inside(lone["left"].host.netns):
        assert next(each.handle for each in clsact.filters(index)) == 0x77
        clsact.take(index, 0x77)
    assert egress_of(lone) == fabric_pb2.EGRESS_STATE_ATTACHED


def test_a_killed_daemon_leaves_both_halves_and_the_next_one_adopts_them(lone: Nodes):
    lone.cli("left", "attach", HOST_INTERFACE)
    namespace = lone["left"].host.netns

    def programs() -> list[int]:
        with inside(namespace):
            index = socket.if_nametoindex(HOST_INTERFACE)
            return [each.program_id for each in clsact.filters(index)]

    before = programs()
    assert len(before) == 1
    lone.kill("left")
    assert programs() == before
    lone.start("left")
    lone.wait_ready("left")
    assert programs() == before
    assert egress_of(lone) == fabric_pb2.EGRESS_STATE_ATTACHED


def replug(nodes: Nodes) -> None:
    """The host's interface goes, and one of its name comes."""
    host, switch = nodes["left"].host.netns, nodes.lab.switch.netns
    ip("-n", host, "link", "del", HOST_INTERFACE)
    peer = ("peer", "name", "left", "netns", switch)
    ip("link", "add", HOST_INTERFACE, "netns", host, "type", "veth", *peer)
    ip("-n", switch, "link", "set", "left", "up")


def test_an_interface_that_comes_back_is_gated_again(lone: Nodes):
    namespace = lone["left"].host.netns
    lone.cli("left", "attach", HOST_INTERFACE, "--up")
    before = status_of(lone).interfaces[0].index
    ip("-n", namespace, "link", "del", HOST_INTERFACE)
    status = status_of(lone)
    assert not status.interfaces
    assert [(each.name, each.reason) for each in status.ungated] == [
        (HOST_INTERFACE, "there is no such interface")
    ]
    assert "not gated" in lone.cli("left", "status")
    lone.kill("left")  # and the daemon forgets nothing
    lone.start("left")
    lone.wait_ready("left")
    assert [each.name for each in status_of(lone).ungated] == [HOST_INTERFACE]

    peer = ("peer", "name", "left", "netns", lone.lab.switch.netns)
    ip("link", "add", HOST_INTERFACE, "netns", namespace, "type", "veth", *peer)
    eventually(lambda: status_of(lone).interfaces, "it is gated again")
    (interface,) = status_of(lone).interfaces
    assert interface.index != before
    assert interface.egress == fabric_pb2.EGRESS_STATE_ATTACHED
    assert not status_of(lone).ungated

    def is_up() -> bool:
        shown = subprocess.run(
            ["ip", "-j", "-n", namespace, "link", "show", HOST_INTERFACE],
            capture_output=True,
            check=True,
        )
        return "UP" in json.loads(shown.stdout)[0]["flags"]

    eventually(is_up, "it is set up")


def test_a_detached_interface_stays_open_when_it_comes_back(lone: Nodes):
    lone.cli("left", "attach", HOST_INTERFACE)
    lone.cli("left", "detach", HOST_INTERFACE)
    replug(lone)
    lone.kill("left")
    lone.start("left")
    lone.wait_ready("left")
    status = status_of(lone)
    assert not status.interfaces
    assert not status.ungated


@contextlib.contextmanager
def flood(namespace: str, interface: str, frame: bytes) -> Iterator[None]:
    """Sends a frame over and over, whether it can leave or not."""
    with inside(namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((interface, 0))
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                raw.send(frame)

    sender = threading.Thread(target=run, name="flood", daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()
        raw.close()


def taken(listener: socket.socket) -> int:
    """How many fabric frames from outside a listener has got."""
    count = 0
    while True:
        try:
            _, address = listener.recvfrom(64)
        except BlockingIOError:
            return count
        except OSError:
            continue  # the interface was down meanwhile
        count += address[1] == ETHERTYPE and address[2] != OUTGOING


@pytest.mark.parametrize("down_first", [True, False])
def test_no_frame_passes_between_link_up_and_gate(lone: Nodes, down_first: bool):
    """A sender floods from before. On an interface that is gated while it is down, a listener that
    was there all the time gets not one frame; on one that is up already, it does."""
    host, switch = lone["left"].host.netns, lone.lab.switch.netns
    if down_first:
        ip("-n", host, "link", "set", HOST_INTERFACE, "down")
    frame = b"\xff" * 6 + b"\x04" * 6 + ETHERTYPE.to_bytes(2, "big") + bytes(40)
    frame = frame[:50] + struct.pack("!HH", 0x8008, 0) + bytes(24)
    with inside(host):
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    listener.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    listener.bind((HOST_INTERFACE, ALL_PROTOCOLS))
    with listener, flood(switch, "left", frame):
        if not down_first:
            eventually(lambda: taken(listener), "frames pass an open interface")
        said = lone.cli("left", "attach", HOST_INTERFACE, "--up", "--json")
        assert json.loads(said)["was_up"] is not down_first

        def refused() -> bool:
            with lone.client("left") as client:
                reply = client.fabric.GetCounters(GetCountersRequest())
            return any(line.frames > 1000 for line in reply.counters if line.reason != "admitted")

        eventually(refused, "the gate refuses what floods")
        if not down_first:
            taken(listener)
            eventually(refused, "the gate goes on")
        assert taken(listener) == 0


def test_pins_of_a_gate_have_both_programs(wire: Wire):
    root = PIN_ROOT.parent / wire.here.removesuffix("-here").replace("egress-", "assent-egress-")
    found = sorted(path.name for path in Path(root / wire.here / "programs").iterdir())
    assert found == ["egress", "gate"]
