# SPDX-License-Identifier: Apache-2.0
"""Stations in network namespaces of their own, joined by veth cables; each with a gate.

    a --- r1 --- r2 --- b        interface `to-r1` in a, `to-a` in r1, and so on

Frames that XDP sends to a veth are lost unless XDP listens at its other end, so every station has a
gate, the ends too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.demo.lab import inside
from assent.identity.hint import hint_of, signed
from assent.identity.keys import Identity
from assent.service.interfaces import InterfaceInfo, describe
from assent.wire.ethernet import EthernetHeader
from assent.wire.lwf import ETHERTYPE, Frame, Header, Hint

PIN_ROOT = Path(f"/sys/fs/bpf/assent-test-relay-{os.getpid()}")
WAIT_SECONDS = 20.0


def ip(*arguments: str) -> None:
    """Runs iproute2, for links alone: it would hide /sys/fs/bpf from what it starts."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def eventually(check: Callable[[], Any], what: str) -> Any:
    """Waits until `check()` returns something true, and returns it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Station:
    """A namespace. Its gate is there from `gated` on."""

    name: str
    identity: Identity = field(default_factory=Identity.generate)
    gate: Gate | None = None

    @property
    def namespace(self) -> str:
        return f"assent-relay-{os.getpid()}-{self.name}"

    @property
    def hint(self) -> Hint:
        return hint_of(self.identity.public_key)

    def interface(self, towards: str) -> InterfaceInfo:
        with inside(self.namespace):
            return describe(f"to-{towards}")

    def gated(self, *towards: str) -> RelayTable:
        """Opens a gate on the interfaces towards those; frames to the own hint go up."""
        with inside(self.namespace):
            self.gate = Gate.open(self.name, CHAPTER, PIN_ROOT)
            for other in towards:
                self.gate.attach(f"to-{other}")
            table = RelayTable(self.gate)
            table.put_route(Route(self.hint, None, local=True))
        return table

    def route(self, hint: Hint, by: Station) -> None:
        """Sets the way to a destination by the next station."""
        assert self.gate is not None
        here, there = self.interface(by.name), by.interface(self.name)
        with inside(self.namespace):
            RelayTable(self.gate).put_route(Route(hint, NextHop(here.index, there.mac, here.mac)))

    def count(self, reason: str) -> int:
        assert self.gate is not None
        return self.gate.tables.counters.read()[reason].frames

    def frame(self, dest: Hint, payload: bytes = b"", **fields: Any) -> bytes:
        """A frame from this station, signed, from its LWF header on."""
        header = Header(dest, self.hint, payload_len=len(payload), **fields)
        return signed(Frame(header, payload), self.identity).encode()

    def send(self, towards: Station, frame: bytes, vlan: bytes = b"") -> None:
        """Sends an LWF frame to a neighbour."""
        here, there = self.interface(towards.name), towards.interface(self.name)
        ethernet = EthernetHeader(there.mac, here.mac, ETHERTYPE).encode()
        with self.listening(towards) as sock:
            sock.send(ethernet[:12] + vlan + ethernet[12:] + frame)

    @contextlib.contextmanager
    def listening(self, towards: Station) -> Iterator[socket.socket]:
        """A socket that gets what arrives from a neighbour, and is let through."""
        with inside(self.namespace):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        with sock:
            sock.bind((f"to-{towards.name}", ETHERTYPE))
            sock.settimeout(WAIT_SECONDS)
            yield sock


@contextlib.contextmanager
def stations(
    names: Sequence[str], cables: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Station]]:
    """Lays out stations and cables, and takes all of it away again."""
    made = {name: Station(name) for name in names}
    with contextlib.ExitStack() as undo:
        for station in made.values():
            ip("netns", "add", station.namespace)
            undo.callback(ip, "netns", "del", station.namespace)
        for left, right in cables:
            here, there = made[left].namespace, made[right].namespace
            peer = ("peer", "name", f"to-{left}", "netns", there)
            ip("link", "add", f"to-{right}", "netns", here, "type", "veth", *peer)
            ip("-n", here, "link", "set", f"to-{right}", "up")
            ip("-n", there, "link", "set", f"to-{left}", "up")
        for station in made.values():
            undo.callback(_close, station)
        yield made


def _close(station: Station) -> None:
    if station.gate is not None:
        with inside(station.namespace):
            station.gate.destroy()
