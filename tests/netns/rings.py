# SPDX-License-Identifier: Apache-2.0
"""Two hosts with a gate each, and sessions between them that no daemon made.

    left  fab0 ---- fab0  right        or, switched, all four on one bridge
          fab1 ---- fab1

One session, its flows as many as are asked for. Processes that drive rings run ring_peer.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import DEFAULT
from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.demo.lab import inside, links_of, make_namespace
from assent.wire.cellid import CellID

from .ring_peer import CELLS, keys_of

INTERFACES = ("fab0", "fab1")
WINDOW = 30_000
_ADMISSION = bytes(16)


@dataclass(slots=True)
class Side:
    """One host.

    Attributes:
        base: slot of the session's flow 0 in the gate's `flows`.
        macs: of its interfaces, by name.
    """

    name: str
    netns: str
    gate: Gate
    macs: dict[str, str]
    base: int = 0
    peers: list[Peer] = field(default_factory=list)

    @property
    def maps(self) -> str:
        """Where the gate's maps are pinned."""
        return str(PIN_ROOT / self.gate.instance / "maps")

    def refused(self) -> dict[str, int]:
        """Frames that the gate did not admit, by reason."""
        return {
            name: totals.frames
            for name, totals in self.gate.tables.counters.read().items()
            if totals.frames and name != "admitted"
        }

    def unplug(self, interface: str) -> None:
        """Takes an interface away."""
        with links_of(self.netns) as links:
            links.link("del", ifname=interface)

    def peer(self, *, uid: int = 0) -> Peer:
        """Starts a process that drives a ring in this host."""
        return Peer(self, uid)


class Peer:
    """A process of ring_peer.py."""

    def __init__(self, side: Side, uid: int) -> None:
        self.side = side
        command = ["nsenter", f"--net=/run/netns/{side.netns}", "--"]
        if uid:
            command += [
                "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                "--inh-caps=-all", "--bounding-set=-all", "--",
            ]  # fmt: skip
        self.process = subprocess.Popen(
            [*command, sys.executable, str(Path(__file__).with_name("ring_peer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        side.peers.append(self)

    def begin(self, do: str, **command: Any) -> None:
        """Gives a command; end() awaits its answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """The answer to the oldest command without one."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, do: str, **command: Any) -> dict[str, Any]:
        """Gives a command, and returns its answer."""
        self.begin(do, **command)
        answer = self.end()
        assert "failed" not in answer, answer["failed"]
        return answer

    def open(self, interface: str = "fab0", **options: Any) -> dict[str, Any]:
        """Opens a ring on an interface."""
        return self.do("open", interface=interface, maps=self.side.maps, **options)

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


class World:
    """Both hosts."""

    def __init__(
        self,
        flows: int = 4,
        window: int = WINDOW,
        replay_len: int | None = None,
        *,
        switched: bool = False,
    ) -> None:
        self._flows = flows
        self._switched = switched
        self._window = window
        self._replay_len = replay_len
        self._undo = contextlib.ExitStack()
        self.sides: dict[str, Side] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._lay_out(undo)
            for side in self.sides.values():
                self._let_in(side)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for side in self.sides.values():
            for peer in side.peers:
                peer.stop()
        self._undo.close()

    @property
    def left(self) -> Side:
        return self.sides["left"]

    @property
    def right(self) -> Side:
        return self.sides["right"]

    def add(self, peer: Peer, *flows: int, interface: str = "fab0", **options: Any) -> None:
        """Adds flows to a peer's ring."""
        macs = {name: side.macs[interface] for name, side in self.sides.items()}
        name, base = peer.side.name, peer.side.base
        for flow in flows:
            peer.do("add", flow=flow, side=name, slot=base + flow, macs=macs, **options)

    def pair(self, *flows: int, **options: Any) -> tuple[Peer, Peer]:
        """A ring on each side, with these flows."""
        peers = self.left.peer(), self.right.peer()
        for peer in peers:
            peer.open(**options)
            self.add(peer, *flows)
        return peers

    def _lay_out(self, undo: contextlib.ExitStack) -> None:
        label = f"ring{os.getpid()}"
        names = {side: f"{label}-{side}" for side in CELLS}
        for namespace in names.values():
            make_namespace(namespace, undo)
        if self._switched:
            self._add_switch(f"{label}-switch", names, undo)
        else:
            self._join(names)
        for side, namespace in names.items():
            with links_of(namespace) as links:
                macs = {}
                for interface in INTERFACES:
                    links.link("set", ifname=interface, state="up")
                    found = links.link("get", ifname=interface)[0]
                    macs[interface] = found.get_attr("IFLA_ADDRESS")
            with inside(namespace):
                gate = Gate.open(namespace, DEFAULT)
                undo.callback(gate.destroy)
                for interface in INTERFACES:
                    gate.attach(interface)
            self.sides[side] = Side(side, namespace, gate, macs)

    @staticmethod
    def _join(names: dict[str, str]) -> None:
        with links_of(names["left"]) as left:
            for interface in INTERFACES:
                peer = {"ifname": interface, "net_ns_fd": names["right"]}
                left.link("add", ifname=interface, kind="veth", peer=peer)

    @staticmethod
    def _add_switch(switch_ns: str, names: dict[str, str], undo: contextlib.ExitStack) -> None:
        make_namespace(switch_ns, undo)
        with links_of(switch_ns) as switch:
            switch.link("add", ifname="br0", kind="bridge")
            switch.link("set", ifname="br0", state="up")
            bridge = switch.link_lookup(ifname="br0")[0]
            for side, namespace in names.items():
                for interface in INTERFACES:
                    port = f"{side}-{interface}"
                    peer = {"ifname": interface, "net_ns_fd": namespace}
                    switch.link("add", ifname=port, kind="veth", peer=peer)
                    switch.link("set", ifname=port, master=bridge, state="up")

    def _let_in(self, side: Side) -> None:
        tables = side.gate.tables
        other = "right" if side.name == "left" else "left"
        local, remote = CellID(CELLS[side.name]), CellID(CELLS[other])
        tables.locals.put(local, 0)
        tables.sessions.provision(remote, local, _ADMISSION, covenanted=True)
        spec = SessionSpec(
            remote,
            local,
            session_id=1,
            rx_header_key=keys_of(other, 0)[1],
            tx_header_key=keys_of(side.name, 0)[1],
            clock_offset=time.clock_gettime_ns(time.CLOCK_TAI) - time.monotonic_ns(),
            flows=tuple(
                FlowSpec(flow, self._window, self._window, self._replay_len)
                for flow in range(1, self._flows + 1)
            ),
        )
        side.base = tables.sessions.install(spec).flow_base
