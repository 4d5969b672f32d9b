# SPDX-License-Identifier: Apache-2.0
"""What a connection costs that nobody uses: in the application, in the kernel and in the daemon.

Application: a process opens flows on one ring, one a cell, and its resident memory grows by so
much; what Python holds of them is in it. Kernel: sizes of what a session has in the gate's maps,
computed, for they are allocated whole when the gate is made. Daemon: its resident memory grows by
so much when it is given as many static sessions, with their cells, keys and grants.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Any, Final

from rich.console import Console

from assent.bench import daemon
from assent.bench.hosts import ADDRESSES, PAIR, wire
from assent.bench.incast import install, mac_of, settle
from assent.bench.peers.part import Job
from assent.bench.traffic import run_alone
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import possible_cpus
from assent.dataplane.profiles import DEFAULT
from assent.demo.nodes import Nodes

CONNECTIONS: Final = 10_000
GOAL_BYTES: Final = 4096
_BLOCKS: Final = 8
_FLOWS: Final = 2
"""Control, and one for data."""
_CHUNKS: Final = 3
"""Of replay windows: one for control, two for 2,048 numbers of the other."""
_HASH_OVERHEAD: Final = 48
"""struct htab_elem, and a bucket's share."""


def measure(connections: int = CONNECTIONS) -> dict[str, Any]:
    """Measures all three.

    Returns:
        {"connections", "application_bytes", "idle_cpu": what the driver takes of a CPU while all
        of them are idle, "kernel_bytes", "kernel_tally_bytes": on top, where a pair counts on its
        own, "daemon_bytes", "goals": {"application_bytes": at most}, "kernel"}; of one connection.

    Raises:
        FailedPrecondition: BPF is not permitted, or the daemon does not start.
    """
    seed = secrets.token_hex(16)
    with Nodes(PAIR, Console(quiet=True), wire) as nodes, contextlib.ExitStack() as undo:
        nodes.start_all()
        job = Job("idle", ADDRESSES[PAIR[1]], count=connections, options={"seed": seed})
        idle = run_alone(nodes.lab, "idle", job)
        client = undo.enter_context(nodes.client(PAIR[1]))
        settle(client)
        process = nodes.process(PAIR[1])
        before = daemon.memory_mib(process)
        install(client, mac_of(nodes), seed, connections, _BLOCKS)
        held = (daemon.memory_mib(process) - before) * (1 << 20) / connections
        gate = undo.enter_context(Gate.open(nodes[PAIR[1]].instance, DEFAULT))
        kernel, tally = _in_kernel(gate)
    return {
        "connections": connections,
        "application_bytes": round(idle["bytes"]),
        "idle_cpu": round(idle["driver_cpu_seconds"], 4),
        "kernel_bytes": kernel,
        "kernel_tally_bytes": tally,
        "daemon_bytes": round(held),
        "goals": {"application_bytes": GOAL_BYTES},
        "kernel": os.uname().release,
    }


def _in_kernel(gate: Gate) -> tuple[int, int]:
    """Bytes that one session has in the gate's maps, and those of a tally of its own."""
    sessions, flows, replay, tallies = (
        gate.map(name) for name in ("sessions", "flows", "replay", "tallies")
    )
    entry = sessions.key_size + sessions.value_size + _HASH_OVERHEAD
    return (
        entry + _FLOWS * flows.value_size + _CHUNKS * replay.value_size,
        tallies.value_size * possible_cpus(),
    )
