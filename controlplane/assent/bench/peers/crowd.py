# SPDX-License-Identifier: Apache-2.0
"""Many cells that one process is: sessions of each with one peer, put into a gate by hand.

A daemon would make a key pair and a name for each; here they follow from a seed, so that the peer's
side can be provisioned with the same sessions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from pyroute2 import IPRoute

from assent.bench.peers.part import crowd_instance
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import DEFAULT, Profile
from assent.dataplane.tables import SEC, FlowSpec, PairSpec, SessionSpec
from assent.demo.lab import HOST_INTERFACE
from assent.identity.keys import Identity
from assent.transport.access import FlowAccess
from assent.transport.driver import Driver
from assent.transport.errors import FlowError
from assent.transport.lines import Lines
from assent.transport.ring import PortConfig, PortInfo, Ring, RingFlow
from assent.wire.cellid import CellID
from assent.wire.ethernet import parse_mac

FLOW: Final = 1
EPOCH: Final = 1
_KEYS: Final = (32, 16, 32, 16)


@dataclass(frozen=True, slots=True)
class Member:
    """One cell, and what it shares with the peer.

    Attributes:
        public_key: its Ed25519 key.
        cell: follows from that.
        tx_payload, tx_header, rx_payload, rx_header: keys, as the cell itself sees them.
    """

    public_key: bytes
    cell: CellID
    tx_payload: bytes = field(repr=False)
    tx_header: bytes = field(repr=False)
    rx_payload: bytes = field(repr=False)
    rx_header: bytes = field(repr=False)


def members(seed: str, count: int) -> list[Member]:
    """So many cells; the same for the same seed."""
    return [_member(f"{seed} {number}".encode()) for number in range(count)]


def _member(name: bytes) -> Member:
    material = hashlib.shake_256(name).digest(32 + sum(_KEYS))
    identity = Identity.from_seed(material[:32])
    keys, at = [], 32
    for size in _KEYS:
        keys.append(material[at : at + size])
        at += size
    return Member(identity.public_key, identity.cell_id, *keys)


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom all of them are in session with."""

    cell: CellID
    mac: bytes
    mtu: int


class Crowd:
    """All of these cells on one ring, each with one flow. A context manager; nothing of it is left.

    In the network namespace of the calling thread.

    Args:
        cells: who they are.
        peer: whom they talk to.
        blocks: the window of each flow, both ways.
    """

    def __init__(self, cells: Sequence[Member], peer: Peer, blocks: int) -> None:
        self._cells = cells
        self._peer = peer
        self._blocks = blocks
        self._undo = contextlib.ExitStack()
        self.ring: Ring
        self.flows: list[RingFlow] = []

    def __enter__(self) -> Self:
        instance = crowd_instance(os.getpid())
        with contextlib.ExitStack() as undo:
            undo.callback(Gate.remove, instance)
            gate = undo.enter_context(Gate.open(instance, _profile(len(self._cells))))
            gate.attach(HOST_INTERFACE)
            slots = self._settle(gate)
            lines = Lines(PIN_ROOT / instance / "maps" / "flows")
            undo.callback(lines.close)
            self.ring = Ring(PortConfig(HOST_INTERFACE, sockets_map=gate.map("sockets").fd))
            undo.callback(self.ring.close)
            self._slots, self._lines = slots, lines
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def open(self) -> None:
        """Opens all flows."""
        with IPRoute() as links:
            mac = parse_mac(links.link("get", ifname=HOST_INTERFACE)[0].get_attr("IFLA_ADDRESS"))
        for member, slot in zip(self._cells, self._slots, strict=True):
            access = FlowAccess(
                local=member.cell,
                remote=self._peer.cell,
                local_mac=mac,
                remote_mac=self._peer.mac,
                interface=HOST_INTERFACE,
                mtu=self._peer.mtu,
                epoch=EPOCH,
                flow=FLOW,
                slot=slot,
                flows_pin=Path(),
                sockets_pin=Path(),
                lock_path=Path(),
                tx_payload_key=member.tx_payload,
                rx_payload_key=member.rx_payload,
                tx_header_key=member.tx_header,
            )
            self.flows.append(self.ring.add(access, self._lines.native(slot)))

    def info(self) -> PortInfo:
        """What the ring is."""
        return self.ring.info()

    def _settle(self, gate: Gate) -> list[int]:
        """Puts all sessions into the gate; returns the slots of their flows."""
        offset = time.clock_gettime_ns(time.CLOCK_TAI) - time.monotonic_ns()
        window = (FlowSpec(FLOW, self._blocks, self._blocks),)
        tables = gate.tables
        # Not by tables.locals.put, which reads them all each time: a host has a few.
        names = gate.map("locals")
        for member in self._cells:
            names.update(bytes(member.cell), bytes(names.value_size))
        tables.locals.settle()
        tables.sessions.install_many(
            [
                SessionSpec(
                    self._peer.cell,
                    member.cell,
                    number,
                    member.rx_header,
                    clock_offset=offset,
                    skew_limit=30 * SEC,
                    flows=window,
                )
                for number, member in enumerate(self._cells, start=1)
            ],
            [
                PairSpec(self._peer.cell, member.cell, os.urandom(16), covenanted=True)
                for member in self._cells
            ],
        )
        entries = {entry.local: entry.flow_base for entry in tables.sessions.list()}
        return [entries[member.cell] + FLOW for member in self._cells]


@contextlib.contextmanager
def driven(ring: Ring) -> Iterator[None]:
    """A thread moves the ring's frames meanwhile."""

    def fail(error: FlowError) -> None:
        raise error

    driver = Driver(ring, fail)
    driver.start()
    try:
        yield
    finally:
        driver.stop()


def _profile(cells: int) -> Profile:
    """As the default, with room for so many cells here."""
    return replace(
        DEFAULT,
        name="crowd",
        locals=max(DEFAULT.locals, 2 * cells),
    )
