# SPDX-License-Identifier: Apache-2.0
"""How long it takes to install cells with live sessions: over the API, and into the maps alone.

Over the API: a daemon of its own with the profile `large`, asked on its unix socket; the time runs
from the first request to the answer, by when all is in the gate and on disk. Into the maps alone:
SessionTable.install_many on a gate of its own, pairs and sessions in one step.

Either is followed by frames through the gate's own program: some of the sessions' peers must be
admitted and a stranger refused, or the measurement fails. CPU seconds are told beside seconds: the
first are the work, the second depend on who else works.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from nacl import bindings

from assent.bench import daemon
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.libbpf import Program
from assent.dataplane.profiles import LARGE
from assent.dataplane.tables import SEC, FlowSpec, PairSpec, SessionSpec
from assent.errors import FailedPrecondition
from assent.identity.cellid import from_public_keys
from assent.provisioning import install_requests
from assent.v1 import cells_pb2, common_pb2, provisioning_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

CELLS: Final = 100_000
GOAL_API_S: Final = 10.0
GOAL_MAPS_S: Final = 1.0
"""What the project wants for 100,000 cells, at most."""
SAMPLES: Final = 64
_BLOCKS: Final = 8
_MTU: Final = 1500
_MAC: Final = "02:00:00:00:00:01"
_LOOPBACK: Final = "lo"
_XDP_DROP, _XDP_PASS = 1, 2  # uapi/linux/bpf.h, enum xdp_action


@dataclass(frozen=True, slots=True)
class _Peer:
    """A remote cell and the keys that it shares with us, in the order of StaticSession."""

    public_key: bytes
    cell: CellID
    keys: tuple[bytes, bytes, bytes, bytes] = field(repr=False)

    @property
    def rx_header(self) -> bytes:
        return self.keys[3]


def measure(cells: int = CELLS, *, with_psks: bool = False) -> dict[str, Any]:
    """Measures both ways.

    Args:
        cells: so many; 1,000,000 at most, in the profile `large`.
        with_psks: whether each has a pre-shared key too, so that its public key is checked.

    Returns:
        {"cells": ..., "api": {"seconds", "cpu_seconds", "cells_per_second", "memory_mib",
        "memory_before_mib", "start_seconds"}, "maps": {"seconds", "cpu_seconds",
        "cells_per_second"}, "kernel": its release}.

    Raises:
        FailedPrecondition: BPF is not permitted, the daemon does not start, or a frame met another
            verdict than it should.
    """
    peers = _peers(cells)
    return {
        "cells": cells,
        "api": _over_the_api(peers, with_psks=with_psks),
        "maps": _into_the_maps(peers),
        "kernel": os.uname().release,
    }


def _peers(count: int) -> list[_Peer]:
    """Cells with real public keys, each a point on the curve."""
    publics = [bindings.crypto_sign_seed_keypair(os.urandom(32))[0] for _ in range(count)]
    return [
        _Peer(public, cell, (os.urandom(32), os.urandom(16), os.urandom(32), os.urandom(16)))
        for public, cell in zip(publics, from_public_keys(publics), strict=True)
    ]


def _into_the_maps(peers: Sequence[_Peer]) -> dict[str, Any]:
    local = CellID(os.urandom(16))
    offset = time.clock_gettime_ns(time.CLOCK_TAI) - time.monotonic_ns()
    flows = (FlowSpec(1, _BLOCKS, _BLOCKS),)
    pairs = [
        PairSpec(peer.cell, local, os.urandom(16), True, departing_key=os.urandom(16))
        for peer in peers
    ]
    specs = [
        SessionSpec(
            peer.cell, local, ident, peer.rx_header, peer.keys[1], offset, 30 * SEC, flows=flows
        )
        for ident, peer in enumerate(peers, start=1)
    ]
    with Gate.private(LARGE) as gate:
        gate.tables.locals.put(local, 0)
        sessions = gate.tables.sessions
        started, worked = time.monotonic(), time.process_time()
        sessions.install_many(specs, pairs)
        seconds, cpu = time.monotonic() - started, time.process_time() - worked
        _verify(gate.program, local, peers)
    return _rates(len(peers), seconds, cpu)


def _over_the_api(peers: Sequence[_Peer], *, with_psks: bool) -> dict[str, Any]:
    items = [_item(number, peer, with_psks) for number, peer in enumerate(peers)]
    instance = f"bench-install-{os.getpid()}"
    # On tmpfs, as session keys should be; of a short name, as sockets must be. The store is on
    # disk: what the API acknowledges must survive a power cut.
    with (
        tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/run") as run,
        tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/var/tmp") as state,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(Gate.remove, instance)
        started = time.monotonic()
        settings = Path(run) / "assentd.toml"
        settings.write_text(f"credit_capacity_blocks = {len(items) * _BLOCKS}\n")
        process, client = undo.enter_context(
            daemon.running(instance, LARGE.name, Path(run) / "run", Path(state) / "state", settings)
        )
        start_seconds = time.monotonic() - started
        request = cells_pb2.CreateLocalRequest(name="local", interface=_LOOPBACK)
        local = CellID(client.cells.CreateLocal(request).id.value)
        before, worked = daemon.memory_mib(process), daemon.cpu_seconds(process)
        started = time.monotonic()
        summary = client.provisioning.Install(install_requests(items))
        seconds = time.monotonic() - started
        cpu = daemon.cpu_seconds(process) - worked
        if (summary.cells, summary.sessions) != (len(peers), len(peers)):
            raise FailedPrecondition(f"the daemon installed something else: {summary}")
        with Program.open_pinned(PIN_ROOT / instance / "programs" / "gate") as program:
            _verify(program, local, peers)
        memory = daemon.memory_mib(process)
    return {
        **_rates(len(peers), seconds, cpu),
        "memory_mib": memory,
        "memory_before_mib": before,
        "start_seconds": round(start_seconds, 3),
    }


def _item(number: int, peer: _Peer, with_psks: bool) -> provisioning_pb2.InstallItem:
    window = provisioning_pb2.Window(flow=1, window_blocks=_BLOCKS)
    tx_payload, tx_header, rx_payload, rx_header = peer.keys
    return provisioning_pb2.InstallItem(
        name=f"cell-{number}",
        public_key=peer.public_key,
        consent=common_pb2.CONSENT_STANDING,
        mac=_MAC,
        psk=os.urandom(32) if with_psks else b"",
        grants=[window],
        session=provisioning_pb2.StaticSession(
            epoch=1,
            peer_grants=[window],
            mtu=_MTU,
            synchronized=True,
            tx_payload_key=tx_payload,
            tx_header_key=tx_header,
            rx_payload_key=rx_payload,
            rx_header_key=rx_header,
        ),
    )


def _verify(program: Program, local: CellID, peers: Sequence[_Peer]) -> None:
    """Sends a frame of some peers through the gate, and one of a stranger.

    Raises:
        FailedPrecondition: A verdict is not the right one.
    """
    chosen = [peers[0], peers[-1], *random.sample(peers, min(SAMPLES, len(peers)))]
    for peer in {one.cell: one for one in chosen}.values():
        if program.test_run(_frame(peer.cell, local, peer.rx_header)).retval != _XDP_PASS:
            raise FailedPrecondition(f"a genuine frame of {peer.cell} was refused")
    for source, key in ((CellID(os.urandom(16)), peers[0].rx_header), (peers[0].cell, bytes(16))):
        if program.test_run(_frame(source, local, key)).retval != _XDP_DROP:
            raise FailedPrecondition("a frame of a stranger was admitted")


def _frame(remote: CellID, local: CellID, key: bytes) -> bytes:
    """A heartbeat: flow 0, without payload."""
    header = Header(
        remote,
        local,
        seq=1,
        flags=Flags.DATA | Flags.BLOCK,
        flow=0,
        timestamp=time.clock_gettime_ns(time.CLOCK_TAI),
    )
    header = replace(header, tag=siphash24(key, signed_bytes(header)))
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()


def _rates(cells: int, seconds: float, cpu: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "cells_per_second": round(cells / seconds),
    }
