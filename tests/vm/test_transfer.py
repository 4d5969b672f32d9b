# SPDX-License-Identifier: Apache-2.0
"""Files cross the demo's lab on Debian's kernel, over a good link and over a very bad one.

        left            right
          | veth          | veth
        --+---------------+--     the switch; netem stands in its ports

What leaves the ports is recorded behind netem, so it is known which frames the gates saw: how many
of them were the first of their number, and how many came again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from assent.bench.hosts import PAIR
from assent.demo.nodes import Nodes
from assent.demo.tally import Tally, minus, settle
from assent.demo.wiretap import raw_socket
from assent.wire.fabric import ETHERTYPE

from .lab import netem, netem_drops, renew

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

BAD = "limit 10000 delay 4ms 1ms loss 30% duplicate 30% reorder 25% 50%"
TRANSFER_S = 300

_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_PACKET_STATISTICS = 6
_SOL_PACKET = 263
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it
_TAP_BUFFER = 256 << 20


class Tap:
    """Keeps what a port of the switch sends out."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _TAP_BUFFER)
        raw.setblocking(False)
        self._raw = raw

    def numbers(self) -> Counter[bytes]:
        """How often each (flow, number) went out since the last call."""
        _, lost = struct.unpack("II", self._raw.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert lost == 0, "the tap itself lost frames"
        seen: Counter[bytes] = Counter()
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._raw.recvfrom(2048)
                if address[1] == ETHERTYPE and address[2] == _PACKET_OUTGOING:
                    body = frame[14:]
                    seen[body[40:42] + body[32:36]] += 1
        return seen


@dataclass(frozen=True)
class Books:
    """One port's side of a transfer: what went out, and what the gate behind it made of that."""

    offered: Counter[bytes]
    lost: int
    admitted: int
    drops: dict[str, int]

    @property
    def repeated(self) -> int:
        return self.offered.total() - len(self.offered)

    @property
    def balanced(self) -> bool:
        """Every frame that was offered has been counted."""
        return self.admitted + sum(self.drops.values()) + self.lost == self.offered.total()

    def check(self) -> None:
        """Every frame has its right verdict: its number's first is admitted, the others replays.

        But for what comes after its endpoint is done and gone: that is refused for want of one.
        """
        assert set(self.drops) <= {"replay", "no_endpoint"}
        assert self.balanced
        # Frames that the link itself lost, the port's counter tells; which ones, nobody knows.
        late = self.lost + self.drops.get("no_endpoint", 0)
        assert len(self.offered) - late <= self.admitted <= len(self.offered)


def transfer(nodes: Nodes, file: Path, backend: str, link: str = "") -> dict[str, Books]:
    """Sends a file from left to right over a new session; returns both ports' books."""
    renew(nodes)
    inbox = nodes.scratch / f"inbox-{file.name}"
    inbox.mkdir()
    with contextlib.ExitStack() as undo:
        clients = {name: undo.enter_context(nodes.client(name)) for name in PAIR}
        taps = {
            name: Tap(undo.enter_context(raw_socket(nodes.lab.switch, name, _ETH_P_ALL)))
            for name in PAIR
        }
        lost = {name: nodes.lab.link_drops(name) for name in PAIR}
        before = {name: Tally.take(clients[name]) for name in PAIR}
        options = ("--backend", backend, "--json")
        into = ("--dir", str(inbox))
        with netem(nodes, link):
            receiver = nodes.background("right", "recv", "--from", "left", *into, *options)
            sender = nodes.background("left", "send", str(file), "--to", "right", *options)
            sent, received = sender.result(TRANSFER_S), receiver.result(TRANSFER_S)
            if link:
                assert all(netem_drops(nodes, name) > 0 for name in PAIR)
        assert sent["backend"] == received["backend"] == backend
        assert sent["blake3"] == digest(file) == digest(Path(received["file"]))
        offered = {name: Counter[bytes]() for name in PAIR}
        # Control frames go on, so the two sides are read until they speak of the same moment.
        for _ in range(20):
            for name in PAIR:
                offered[name] += taps[name].numbers()
            after = {name: (settle(clients[name]), Tally.take(clients[name]))[1] for name in PAIR}
            books = {
                name: Books(
                    offered[name],
                    nodes.lab.link_drops(name) - lost[name],
                    after[name].admitted - before[name].admitted,
                    minus(after[name].drops, before[name].drops),
                )
                for name in PAIR
            }
            if all(each.balanced for each in books.values()):
                break
        return books


def random_file(nodes: Nodes, name: str, size: int) -> Path:
    path = nodes.scratch / name
    path.write_bytes(os.urandom(size))
    return path


def digest(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("backend", ["af_xdp", "af_packet"])
def test_a_good_link(nodes, backend):
    books = transfer(nodes, random_file(nodes, f"good-{backend}", 1 << 20), backend)
    for each in books.values():
        each.check()


@pytest.mark.parametrize("backend", ["af_xdp", "af_packet"])
def test_a_third_is_lost_a_third_comes_twice_and_nothing_in_order(nodes, backend):
    books = transfer(nodes, random_file(nodes, f"bad-{backend}", 3 << 20), backend, BAD)
    for each in books.values():
        each.check()
        assert each.repeated > 0
    assert len(books["right"].offered) > (3 << 20) // 1500
