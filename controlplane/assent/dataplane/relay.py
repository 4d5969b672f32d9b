# SPDX-License-Identifier: Apache-2.0
"""The LWF relay's maps as typed tables. lwf.h says what each field means and who writes it.

One process writes: the control plane.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from assent.dataplane.btf import Btf, Layout, Record
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import NOEXIST, BpfError, Map
from assent.dataplane.objects import packaged
from assent.dataplane.tables.units import ONLY, SEC, index, number, present
from assent.errors import InvalidArgument, NotFound, ResourceExhausted
from assent.wire.ethernet import MAC_LEN
from assent.wire.lwf import Hint
from assent.wire.siphash import KEY_LEN, SipState

_FLAGS: Final = "assent_lwf_route_flag"
_LOCAL: Final = "ASSENT_LWF_ROUTE_LOCAL"
_REGISTERED: Final = "ASSENT_LWF_ROUTE_REGISTERED"


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What applies to all sources.

    Attributes:
        register_interval: ns that one RELAY_FORWARD frame costs its source: 1/rate.
        register_burst: ns that a source may run ahead of that rate.
    """

    register_interval: int = SEC // 2
    register_burst: int = (8 - 1) * SEC // 2


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where frames go on.

    Attributes:
        ifindex: The interface by which they leave.
        dst: Address of the next hop, 6 bytes.
        src: Address that they leave with, 6 bytes.
    """

    ifindex: int
    dst: bytes
    src: bytes

    def __post_init__(self) -> None:
        for field in ("dst", "src"):
            if len(getattr(self, field)) != MAC_LEN:
                raise InvalidArgument(field, f"needs {MAC_LEN} bytes")


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a destination.

    Attributes:
        hint: The destination.
        next_hop: None = this host's own stack; also where the interface has gone.
        local: It leads to this host's own stack.
        registered: The destination asked for it itself.
        expires: Monotonic ns; 0 = never.
    """

    hint: Hint
    next_hop: NextHop | None
    local: bool = False
    registered: bool = False
    expires: int = 0


class RelayTable:
    """Routes, ports, sources and what was seen.

    Ports are given out as routes need them, and are free again when no route names them; an
    interface that disappears leaves its port empty, and its routes lead nowhere from that moment.

    Args:
        gate: Whose maps; it must outlive this. One without a secret for its fingerprints gets one.
        random: Makes that secret.
    """

    def __init__(self, gate: Gate, random: Callable[[int], bytes] = os.urandom) -> None:
        btf = Btf.from_object(packaged("gate"))
        self._routes, self._route = gate.map("lwf_routes"), btf.map_value("lwf_routes")
        self._sources, self._source = gate.map("lwf_sources"), btf.map_value("lwf_sources")
        self._ports = gate.map("lwf_ports")
        self._seen = gate.map("lwf_seen")
        self._config: tuple[Map, Layout] = gate.map("lwf_config"), btf.map_value("lwf_config")
        flags = btf.enum(_FLAGS)
        self._local, self._registered = flags[_LOCAL], flags[_REGISTERED]
        self._give_secret(random)

    @property
    def capacity(self) -> int:
        """Routes that there is room for."""
        return self._routes.max_entries

    @property
    def sources_capacity(self) -> int:
        """Sources that there is room for."""
        return self._sources.max_entries

    # Config

    def config(self) -> RelayConfig:
        """Returns what applies."""
        record = self._record()
        return RelayConfig(record.register_interval, record.register_burst)

    def configure(self, config: RelayConfig) -> None:
        """Makes another configuration apply, from the next frame on."""
        table, _ = self._config
        record = self._record().replace(
            register_interval=config.register_interval, register_burst=config.register_burst
        )
        table.update(ONLY, record.pack())

    # Routes

    def routes(self) -> list[Route]:
        """Returns all routes, by hint."""
        ports = self.ports()
        found = (self._read(key, value, ports) for key, value in self._routes.items())
        return sorted(found, key=lambda route: route.hint)

    def route(self, hint: Hint) -> Route | None:
        """Returns the way to a destination; None where there is none."""
        value = self._routes.lookup(bytes(hint))
        return None if value is None else self._read(bytes(hint), value, self.ports())

    def put_route(self, route: Route) -> None:
        """Adds a route, or replaces it in one step.

        Raises:
            InvalidArgument: It leads both here and elsewhere, or neither.
            ResourceExhausted: The table is full, or all ports are taken. The routes are as before.
            NotFound: There is no such interface in this network namespace.
        """
        if route.local is (route.next_hop is not None):
            raise InvalidArgument("next_hop", "must be given, but for a local route")
        hop = route.next_hop
        flags = self._local if route.local else 0
        flags |= self._registered if route.registered else 0
        value = self._route.pack(
            expires=route.expires,
            port=0 if hop is None else self._port_of(hop.ifindex),
            flags=flags,
            dst=bytes(MAC_LEN) if hop is None else hop.dst,
            src=bytes(MAC_LEN) if hop is None else hop.src,
        )
        try:
            self._routes.update(bytes(route.hint), value)
        except ResourceExhausted:
            raise ResourceExhausted(
                f"the relay has {self.capacity} routes, and room for no more"
            ) from None

    def delete_route(self, hint: Hint) -> None:
        """Removes a route: frames to that destination are refused from now on.

        Raises:
            NotFound: It is not there.
        """
        self._routes.delete(bytes(hint))

    def ports(self) -> dict[int, int]:
        """Returns the interface behind each port that has one."""
        # Maps of devices are not listed in one go, but they are small.
        looked = (
            (port, self._ports.lookup(index(port))) for port in range(self._ports.max_entries)
        )
        return {port: number(value) for port, value in looked if value is not None}

    # Sources

    def sources(self) -> set[Hint]:
        """Returns who may register."""
        return {Hint(key) for key, _ in self._sources.items()}

    def is_source(self, hint: Hint) -> bool:
        """Whether a source may register."""
        return self._sources.lookup(bytes(hint)) is not None

    def add_source(self, hint: Hint) -> None:
        """Allows a source to register. One that may already keeps what it has used of its rate.

        Raises:
            ResourceExhausted: The table is full.
        """
        if self.is_source(hint):
            return
        try:
            self._sources.update(bytes(hint), self._source.pack(), NOEXIST)
        except ResourceExhausted:
            raise ResourceExhausted(
                f"the relay has {self.sources_capacity} sources, and room for no more"
            ) from None

    def delete_source(self, hint: Hint) -> None:
        """Takes back a source's right to register; the route that it has stays.

        Raises:
            NotFound: It has none.
        """
        self._sources.delete(bytes(hint))

    # Inside

    def _read(self, key: bytes, value: bytes, ports: dict[int, int]) -> Route:
        record = self._route.unpack(value)
        local = bool(record.flags & self._local)
        hop = None
        if not local and record.port in ports:
            hop = NextHop(ports[record.port], record.dst, record.src)
        registered = bool(record.flags & self._registered)
        return Route(Hint(key), hop, local, registered, record.expires)

    def _port_of(self, ifindex: int) -> int:
        """The port of an interface, which gets one where it has none."""
        ports = self.ports()
        for port, found in ports.items():
            if found == ifindex:
                return port
        # A port that lost its interface is not given away while a route still names it.
        named = {self._route.unpack(value).port for _, value in self._elsewhere()}
        free = [port for port in range(self._ports.max_entries) if port not in named]
        if not free:
            raise ResourceExhausted(
                f"the relay has {self._ports.max_entries} interfaces, and room for no more"
            )
        chosen = min(free, key=lambda port: (port in ports, port))
        try:
            self._ports.update(index(chosen), index(ifindex))
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            raise NotFound(f"no interface {ifindex} in this network namespace") from None
        return chosen

    def _elsewhere(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._routes.items():
            if not self._route.unpack(value).flags & self._local:
                yield key, value

    def _record(self) -> Record:
        table, layout = self._config
        return layout.unpack(present(table.lookup(ONLY)))

    def _give_secret(self, random: Callable[[int], bytes]) -> None:
        table, layout = self._config
        record = self._record()
        if any(record.fingerprint.as_dict().values()):
            return
        words = SipState(random(KEY_LEN)).words
        state = dict(zip(("v0", "v1", "v2", "v3"), words, strict=True))
        usual = RelayConfig()
        table.update(
            ONLY,
            layout.pack(
                fingerprint=state,
                register_interval=usual.register_interval,
                register_burst=usual.register_burst,
            ),
        )
