# SPDX-License-Identifier: Apache-2.0
"""Many senders to one receiver, all at once; each sends one message of `job.size` bytes.

The receiver's host has a daemon, which has been given the sessions and stands for their credit. The
senders are one process, a cell and a flow each, on one ring.

`job.options` has `socket`, the receiver's daemon; `seed`; and `blocks`, the window of each flow.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from assent.bench.peers.crowd import FLOW, Crowd, Peer, driven, members
from assent.bench.peers.part import Gathering, Job, main, ready
from assent.client import Client
from assent.dataplane.libbpf import Map
from assent.errors import FailedPrecondition
from assent.transport.access import FlowAccess, access_of
from assent.transport.lines import Lines
from assent.transport.ring import PortConfig, Ready, Ring, RingFlow, Room, Spans
from assent.v1 import cells_pb2, sessions_pb2
from assent.wire.cellid import CellID

_ROOM: Final = 1 << 20
_PATIENCE_MS: Final = 30_000
_QUIET_S: Final = 0.5
_COUNTED: Final = (
    "retransmissions",
    "nacks_sent",
    "nacks_received",
    "gaps_sent",
    "probes_sent",
    "tx_frames",
    "rx_frames",
)


def receive(job: Job) -> Mapping[str, Any]:
    """Takes what all flows bring.

    Returns:
        What Gathering tells; "stats": of all flows; "backend".
    """
    with Client(Path(job.options["socket"])) as client:
        accesses = [
            access_of(
                client.sessions.OpenFlow(
                    sessions_pb2.OpenFlowRequest(
                        remote=cells_pb2.CellRef(name=f"cell-{number}"), flow=FLOW
                    )
                )
            )
            for number in range(job.count)
        ]
    with _ring(accesses[0]) as (ring, lines), driven(ring):
        flows = [ring.add(access, lines.native(access.slot)) for access in accesses]
        first = accesses[0]
        ready(cell=bytes(first.local).hex(), mac=first.local_mac.hex(), mtu=first.mtu)
        gathering = _take(ring, flows, job.size)
        return {
            **gathering.report(),
            "stats": _settled(flows),
            "backend": ring.info().backend.name.lower(),
        }


def send(job: Job) -> Mapping[str, Any]:
    """Has each flow send its message, as far as its credit goes at a time.

    Returns:
        {"stats": of all flows, "backend"}.
    """
    peer = Peer(
        CellID(bytes.fromhex(job.found["cell"])),
        bytes.fromhex(job.found["mac"]),
        job.found["mtu"],
    )
    cells = members(job.options["seed"], job.count)
    with Crowd(cells, peer, job.options["blocks"]) as crowd:
        crowd.open()
        with driven(crowd.ring):
            _give(crowd.ring, crowd.flows, job.size)
            for flow in crowd.flows:
                if not flow.wait(Ready.DRAINED, _PATIENCE_MS):
                    raise FailedPrecondition("a sender's message was not receipted")
        return {
            "stats": _totals(crowd.flows),
            "backend": crowd.info().backend.name.lower(),
        }


@contextlib.contextmanager
def _ring(access: FlowAccess) -> Iterator[tuple[Ring, Lines]]:
    with contextlib.ExitStack() as undo:
        lines = Lines(access.flows_pin)
        undo.callback(lines.close)
        sockets = undo.enter_context(Map.open_pinned(access.sockets_pin))
        ring = Ring(PortConfig(access.interface, sockets_map=sockets.fd))
        undo.callback(ring.close)
        yield ring, lines


def _give(ring: Ring, flows: Sequence[RingFlow], size: int) -> None:
    message = Spans(bytes(size))
    at = dict.fromkeys(flows, 0)
    for flow in _turns(ring, flows, Ready.WRITABLE, at):
        taken = flow.write(message, at[flow], 0)
        at[flow] += taken or 0
        if at[flow] == size:
            del at[flow]
    message.release()


def _take(ring: Ring, flows: Sequence[RingFlow], size: int) -> Gathering:
    gathering = Gathering(len(flows), size)
    room = Room(bytearray(_ROOM))
    numbers = {flow: number for number, flow in enumerate(flows)}
    for flow in _turns(ring, flows, Ready.READABLE, numbers):
        part = flow.read(room, 0)
        if part is None:
            continue
        if gathering.add(numbers[flow], part.have) != part.ended:
            raise FailedPrecondition("a message has another length than was sent")
        if part.ended:
            del numbers[flow]
    room.release()
    return gathering


def _turns(
    ring: Ring, flows: Sequence[RingFlow], wanted: Ready, open_: Mapping[RingFlow, int]
) -> Iterator[RingFlow]:
    """Those that can go on, in turns, for as long as one is in `open_`."""
    can = deque(flows)
    poll = select.poll()
    poll.register(ring.fd, select.POLLIN)
    while open_:
        while can:
            flow = can.popleft()
            yield flow
            if flow not in open_:
                continue
            if flow.watch(wanted | Ready.BROKEN):
                flow.check()
                can.append(flow)
        if not open_:
            return
        if not poll.poll(_PATIENCE_MS):
            raise FailedPrecondition(f"{len(open_)} flows are stuck")
        os.read(ring.fd, 8)
        can.extend(ring.fired())


def _settled(flows: Sequence[RingFlow]) -> dict[str, int]:
    """The counts once nobody asks anything any more."""
    before: dict[str, int] = {}
    while (totals := _totals(flows)) != before:
        before = totals
        time.sleep(_QUIET_S)
    return totals


def _totals(flows: Sequence[RingFlow]) -> dict[str, int]:
    counts = [asdict(flow.stats()) for flow in flows]
    return {name: sum(one[name] for one in counts) for name in _COUNTED}


if __name__ == "__main__":
    main({("receive", "incast"): receive, ("send", "incast"): send})
