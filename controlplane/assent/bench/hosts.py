# SPDX-License-Identifier: Apache-2.0
"""Two hosts to be measured, and how they are joined.

    wire                                    lossy switch

    left            right                   left            right
    fab0 ---------- fab0   gated            fab0            fab0   gated
    ip0 ----------- ip0    for IP             |               |
                                            --+---- sw0 ------+--  its ports lose frames at random

Both links of the wire are veth pairs of the same MTU in the same namespaces. What uses IP has one
of its own, without a program in its way: that is how its users have it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Self

from assent.client import Client
from assent.dataplane import clsact
from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Map, Object
from assent.dataplane.objects import packaged
from assent.demo.lab import (
    HOST_INTERFACE,
    PREFIX,
    Host,
    Lab,
    inside,
    links_of,
    make_namespace,
    open_lab,
)
from assent.demo.nodes import Nodes
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, keys_pb2, sessions_pb2

PAIR: Final = ("left", "right")
MTU: Final = 1536
"""The least that takes a frame with 1,400 bytes in it: a header of 64 and 23 blocks of payload."""
WINDOW: Final = 32_767
FLOW: Final = 1
PLAIN_INTERFACE: Final = "ip0"
ADDRESSES: Final[Mapping[str, str]] = MappingProxyType(
    {"left": "192.0.2.1", "right": "192.0.2.2"}  # RFC 5737
)
_PREFIX_LEN: Final = 24
_MOVING: Final = "moving0"
_HANDLE: Final = 1
_CHANCES: Final = 1 << 32


# Layouts


@contextlib.contextmanager
def wire(names: Sequence[str]) -> Iterator[Lab]:
    """Lays out two hosts with two links between them, and takes them away again."""
    label = f"{PREFIX}{os.getpid()}"
    with contextlib.ExitStack() as undo:
        places = [f"{label}-{name}" for name in names]
        for place in places:
            make_namespace(place, undo)
        hosts = {name: Host(name, place, "") for name, place in zip(names, places, strict=True)}
        near, far = hosts.values()
        for interface in (HOST_INTERFACE, PLAIN_INTERFACE):
            _join(near.netns, far.netns, interface)
        for host in hosts.values():
            _address(host)
        yield Lab(label, hosts, near)


@contextlib.contextmanager
def switched(names: Sequence[str]) -> Iterator[Lab]:
    """Lays out hosts on a switch whose links take frames as long as the wire's."""
    with open_lab(names) as lab:
        with links_of(lab.switch.netns) as switch:
            for name in names:
                switch.link("set", ifname=name, mtu=MTU)
        for host in lab.hosts.values():
            with links_of(host.netns) as links:
                links.link("set", ifname=HOST_INTERFACE, mtu=MTU)
        yield lab


def _join(near: str, far: str, interface: str) -> None:
    with links_of(near) as here, links_of(far) as there:
        here.link("add", ifname=interface, kind="veth", peer={"ifname": _MOVING})
        moving = here.link_lookup(ifname=_MOVING)[0]
        here.link("set", index=moving, net_ns_fd=far)
        arrived = there.link_lookup(ifname=_MOVING)[0]
        there.link("set", index=arrived, ifname=interface)
        for links in (here, there):
            links.link("set", ifname=interface, mtu=MTU, state="up")


def _address(host: Host) -> None:
    with links_of(host.netns) as links:
        index = links.link_lookup(ifname=PLAIN_INTERFACE)[0]
        links.addr("add", index=index, address=ADDRESSES[host.name], prefixlen=_PREFIX_LEN)


class Losses:
    """Has a switch lose frames on their way to its hosts, until the context is left."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stack = contextlib.ExitStack()
        self._map: Map
        self._values = Btf.from_object(packaged("lossy")).map_value("lossy_links")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            loaded = undo.enter_context(Object.open(packaged("lossy")))
            loaded.load()
            self._map = undo.enter_context(loaded.map("lossy_links"))
            program = undo.enter_context(loaded.program("lossy"))
            with links_of(self._lab.switch.netns) as switch:
                ports = [switch.link_lookup(ifname=name)[0] for name in self._lab.hosts]
            # They are gone with the switch.
            with inside(self._lab.switch.netns):
                for port in ports:
                    clsact.ensure(port)
                    clsact.put(port, _HANDLE, "lossy", program)
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lose(self, chance: float) -> None:
        """From now on, each frame is lost with that probability; the counts begin anew."""
        value = self._values.pack(chance=min(round(chance * _CHANCES), _CHANCES - 1))
        self._map.update(bytes(4), value)

    def read(self) -> Record:
        """Frames since then: `seen`, `lost`; of data flows, with flag NACK `nacks`, ACK `acks`."""
        return self._values.unpack(self._map.lookup(bytes(4)) or b"")


# Daemons


def introduce(
    nodes: Nodes,
    windows: Mapping[int, int] = MappingProxyType({FLOW: WINDOW}),
    others: Sequence[str] = PAIR[1:],
) -> None:
    """Makes two hosts' cells known to each other, gates both, and puts them in session.

    Args:
        nodes: with daemons that answer.
        windows: of each flow, in blocks; the same both ways.
        others: the cells of `right`; the one of `left` is in session with each.
    """
    psk = secrets.token_bytes(32)
    names = dict(zip(PAIR, (PAIR[:1], others), strict=True))
    with contextlib.ExitStack() as stack:
        clients = {host: stack.enter_context(nodes.client(host)) for host in PAIR}
        keys = {host: _settle(clients[host], names[host]) for host in PAIR}
        for host, other in (PAIR, PAIR[::-1]):
            for name, public_key in zip(names[other], keys[other], strict=True):
                _meet(clients[host], name, public_key, psk, windows)
        for name in others:
            remote = cells_pb2.CellRef(name=name)
            clients[PAIR[0]].sessions.Connect(sessions_pb2.ConnectRequest(remote=remote))


def _settle(client: Client, names: Sequence[str]) -> list[bytes]:
    """Makes cells of a host, on its gated interface; returns their public keys."""
    requests = [cells_pb2.CreateLocalRequest(name=name, interface=HOST_INTERFACE) for name in names]
    keys = [client.cells.CreateLocal(request).public_key for request in requests]
    client.fabric.Attach(fabric_pb2.AttachRequest(interface=HOST_INTERFACE))
    return keys


def _meet(
    client: Client, name: str, public_key: bytes, psk: bytes, windows: Mapping[int, int]
) -> None:
    remote, consent = cells_pb2.CellRef(name=name), common_pb2.CONSENT_STANDING
    client.cells.CreateRemote(
        cells_pb2.CreateRemoteRequest(name=name, public_key=public_key, consent=consent)
    )
    client.keys.SetPsk(keys_pb2.SetPskRequest(remote=remote, psk=psk))
    for flow, blocks in windows.items():
        client.grants.Set(
            grants_pb2.SetGrantRequest(remote=remote, flow=flow, window_blocks=blocks)
        )
