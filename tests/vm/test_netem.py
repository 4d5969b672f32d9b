# SPDX-License-Identifier: Apache-2.0
"""A link that loses a third, doubles a third and reorders changes no verdict.

    sender ---[ netem ]--- veth ---[ gate ]

Genuine frames and hostile ones of each kind go in, mixed. What leaves the sender's port is recorded
behind netem, so it is known what the gate was given: of a genuine number, the first is admitted and
all others are replays; a hostile frame is refused as what it is, however often it comes.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from assent.dataplane import bpffs
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import SEC, FlowSpec
from assent.demo.lab import inside
from assent.wire.cellid import CellID
from assent.wire.fabric import Flags

from ..packet.conftest import Rig
from .lab import queue_of

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

NETEM = "limit 10000 delay 4ms 1ms loss 30% duplicate 30% reorder 25% 50%"
SENDER, GUARDED = "sender", "guarded"
UNHEARD, SUSPENDED = CellID(b"\x61" * 16), CellID(b"\x62" * 16)
OF_A_KIND = 150
BATCH = 64  # doubled, it fits the veth's ring: nothing but netem loses a frame
SETTLED_WITHIN = 2000  # looks
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4


def frames_of(rig: Any) -> dict[str, Callable[[int], bytes]]:
    """By verdict: the frame of a number. Each is another frame, all of them on the wire at once."""
    frame: Callable[..., bytes] = rig.frame
    return {
        "admitted": lambda n: frame(seq=n, payload_len=n % 200),
        "bad_tag": lambda n: frame(seq=n, flip=1 << n % 64),
        "unknown_source": lambda n: frame(seq=n, src=rig.stranger),
        "unknown_destination": lambda n: frame(seq=n, dst=rig.stranger),
        "malformed_length": lambda n: frame(seq=n, payload_len=200, length=100 + n % 90),
        "malformed_flags": lambda n: frame(seq=n, flags=Flags.BLOCK | 0x4000),
        "bare_frame": lambda n: frame(seq=n, flags=Flags.DATA),
        "no_session": lambda n: frame(seq=n, src=rig.guest),
        "no_covenant": lambda n: frame(seq=n, src=UNHEARD),
        "quarantined": lambda n: frame(seq=n, src=SUSPENDED),
        "unknown_flow": lambda n: frame(seq=n, flow=3),
        "clock_skew": lambda n: frame(seq=n, timestamp=rig.peer_time + 3600 * SEC),
        "no_endpoint": lambda n: frame(seq=n, flow=5),
        "no_credit": lambda n: frame(seq=n, flow=2),
    }


class Link:
    """The sender's port, and what was seen to leave it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._links = IPRoute()
        # A socket is not shown what it sends itself.
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind((SENDER, 0))
        self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._tap.bind((SENDER, ETH_P_ALL))
        self._tap.setblocking(False)
        self.offered: Counter[bytes] = Counter()

    def close(self) -> None:
        self._links.close()
        self._raw.close()
        self._tap.close()

    def send(self, batch: list[bytes]) -> None:
        """Sends frames, and awaits that the gate has counted each that came out of netem."""
        for frame in batch:
            self._raw.send(frame)
            self._look()
        for _ in range(SETTLED_WITHIN):
            queued = queue_of(self._links, SENDER)["qlen"]
            self._look()
            counted = sum(each.frames for each in self._rig.tables.counters.read().values())
            if not queued and counted == self.offered.total():
                return
        pytest.fail(f"the gate counted {counted} of {self.offered.total()} frames")

    def _look(self) -> None:
        while True:
            try:
                frame, address = self._tap.recvfrom(2048)
            except BlockingIOError:
                return
            if address[2] == PACKET_OUTGOING and frame[12:14] == b"\x88\xb5":
                self.offered[frame] += 1


@pytest.fixture
def link() -> Iterator[tuple[Rig, Link]]:
    netns = f"assent-netem-{os.getpid()}"
    bpffs.ensure(PIN_ROOT)
    root = Path(f"{PIN_ROOT}-netem-{os.getpid()}")
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        with inside(netns):
            for words in (
                f"ip link add {SENDER} type veth peer name {GUARDED}",
                f"ip link set {SENDER} up",
                f"ip link set {GUARDED} up",
                f"tc qdisc add dev {SENDER} root netem {NETEM}",
            ):
                subprocess.run(words.split(), check=True)
            with Gate.open("netem", CHAPTER, root) as gate:
                gate.attach(GUARDED)
                # What the sender sends is its own affair here; what arrives is looked at.
                rig = Rig(gate)
                flows = (FlowSpec(1, 4 * OF_A_KIND), FlowSpec(2), FlowSpec(5, 100))
                rig.install(flows=flows, skew_limit=300 * SEC)
                for cell in (UNHEARD, SUSPENDED):
                    rig.tables.sessions.provision(
                        cell, rig.local, rig.admission_key, cell == SUSPENDED, cell == SUSPENDED
                    )
                link = Link(rig)
                yield rig, link
                link.close()
                gate.detach(GUARDED)
    finally:
        Gate.remove("netem", root)
        subprocess.run(["ip", "netns", "del", netns], check=True)


def test_every_frame_gets_the_verdict_that_its_kind_demands(link: tuple[Rig, Link]) -> None:
    rig, wire = link
    order = random.Random(7)
    kinds = frames_of(rig)
    kind_of: dict[bytes, str] = {}
    for number in range(1, OF_A_KIND + 1):
        for kind, make in kinds.items():
            kind_of[make(number)] = kind
    assert len(kind_of) == len(kinds) * OF_A_KIND
    sent = list(kind_of)
    # In the order of their numbers, more or less: a replay window is 2,048 numbers.
    for at in range(0, len(sent), BATCH):
        batch = sent[at : at + BATCH]
        order.shuffle(batch)
        wire.send(batch)

    offered: Counter[str] = Counter()
    distinct: Counter[str] = Counter()
    for frame, times in wire.offered.items():
        offered[kind_of[frame]] += times
        distinct[kind_of[frame]] += 1
    # The link was as bad as it should be, to each kind.
    for kind in kinds:
        assert 0 < distinct[kind] < OF_A_KIND
        assert offered[kind] > distinct[kind]
    counted = {name: each.frames for name, each in rig.tables.counters.read().items() if each}
    expected = dict(offered)
    expected["admitted"] = distinct["admitted"]
    expected["replay"] = offered["admitted"] - distinct["admitted"]
    assert counted == expected
    # Charged once a number, and nothing but genuine ones.
    arrived = [frame for frame in wire.offered if kind_of[frame] == "admitted"]
    assert rig.flow(1).rx_spent == sum((len(frame) - 14) // 64 for frame in arrived)
