# SPDX-License-Identifier: Apache-2.0
"""A thousand senders to one receiver at once: what is dropped, how long it takes, how fair it is.

Each sender has the same amount of data. Ours: the receiver's daemon has been provisioned with a
static session for each sender, and stands for the credit of all of them; an application there
drives all flows on one ring, and one on the other host is all the senders. TCP: as many
connections, on the other link of the same hosts, one process on either side as well.

Fairness is Jain's index over what each sender had delivered when half of all had arrived. 1 = all
the same; 1/n = one had sent all of it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

from rich.console import Console

from assent.bench.figures import gbit, ms
from assent.bench.hosts import ADDRESSES, MTU, PAIR, wire
from assent.bench.peers.crowd import EPOCH, FLOW, members
from assent.bench.peers.part import Job
from assent.bench.traffic import Outcome, run
from assent.client import Client
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import DEFAULT
from assent.dataplane.reasons import ADMITTED
from assent.demo.lab import HOST_INTERFACE, links_of
from assent.demo.nodes import Nodes
from assent.provisioning import install_requests
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, provisioning_pb2

SENDERS: Final = 1000
SIZE: Final = 64 << 10
ROUNDS: Final = 5
_REPLAY: Final = "replay"
BLOCKS: Final = 128
"""A window of five full frames: those of all senders together fit the receiver's buffers."""


def measure(senders: int = SENDERS, size: int = SIZE, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures both.

    Args:
        senders: so many.
        size: bytes that each sends.
        rounds: medians are over them.

    Returns:
        {"senders", "size", "rounds", "fabric": {"seconds": to the last byte of all, "gbit",
        "fairness", "first_ms", "dropped": frames that the receiver's gate refused, by why,
        "repeated": frames that it refused as it had them already,
        "retransmissions", "nacks", "promised_blocks": by the receiver to all,
        "backend"}, "tcp": {"seconds", "gbit", "fairness", "first_ms", "retransmissions"}, "goals":
        {"dropped": 0}, "kernel"}.

    Raises:
        FailedPrecondition: BPF is not permitted, or one failed.
    """
    job = Job("incast", ADDRESSES[PAIR[1]], size=size, count=senders)
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    with Nodes(PAIR, Console(quiet=True), wire) as nodes, contextlib.ExitStack() as undo:
        nodes.start_all()
        client = undo.enter_context(nodes.client(PAIR[1]))
        settle(client)
        gate = undo.enter_context(Gate.open(nodes[PAIR[1]].instance, DEFAULT))
        before = _refused(gate)
        for _ in range(rounds):
            seed = secrets.token_hex(16)
            install(client, mac_of(nodes), seed, senders, BLOCKS)
            options = {"socket": str(nodes[PAIR[1]].socket), "seed": seed, "blocks": BLOCKS}
            ours.append(run(nodes.lab, "incast_fabric", replace(job, options=options)))
            theirs.append(run(nodes.lab, "incast_tcp", job))
        dropped = _since(before, _refused(gate))
        repeated = dropped.pop(_REPLAY, 0)
    return {
        "senders": senders,
        "size": size,
        "rounds": rounds,
        "fabric": {
            **_figures(ours, size),
            "dropped": dropped,
            "repeated": repeated,
            "nacks": sum(one.received["stats"]["nacks_sent"] for one in ours),
            "retransmissions": sum(one.sent["stats"]["retransmissions"] for one in ours),
            "promised_blocks": senders * BLOCKS,
            "backend": ours[-1].received["backend"],
        },
        "tcp": {
            **_figures(theirs, size),
            "retransmissions": sum(one.sent["retransmissions"] for one in theirs),
        },
        "goals": {"dropped": 0},
        "kernel": os.uname().release,
    }


def settle(client: Client) -> None:
    """Makes the receiver's cell, and gates its interface."""
    client.cells.CreateLocal(cells_pb2.CreateLocalRequest(name=PAIR[1], interface=HOST_INTERFACE))
    client.fabric.Attach(fabric_pb2.AttachRequest(interface=HOST_INTERFACE))


def mac_of(nodes: Nodes) -> str:
    """The address of the senders' interface."""
    with links_of(nodes.lab.hosts[PAIR[0]].netns) as links:
        mac: str = links.link("get", ifname=HOST_INTERFACE)[0].get_attr("IFLA_ADDRESS")
    return mac


def install(client: Client, mac: str, seed: str, count: int, blocks: int) -> None:
    """Gives the receiver's daemon a static session with each of so many cells, all of them new.

    Args:
        client: the daemon.
        mac: where all of them are.
        seed: what they follow from.
        count: so many.
        blocks: the window of each, both ways.
    """
    window = provisioning_pb2.Window(flow=FLOW, window_blocks=blocks)
    items = [
        provisioning_pb2.InstallItem(
            name=f"cell-{number}",
            public_key=member.public_key,
            consent=common_pb2.CONSENT_STANDING,
            mac=mac,
            grants=[window],
            session=provisioning_pb2.StaticSession(
                epoch=EPOCH,
                peer_grants=[window],
                mtu=MTU,
                synchronized=True,
                # What they send with, we receive with.
                tx_payload_key=member.rx_payload,
                tx_header_key=member.rx_header,
                rx_payload_key=member.tx_payload,
                rx_header_key=member.tx_header,
            ),
        )
        for number, member in enumerate(members(seed, count))
    ]
    client.provisioning.Install(install_requests(items, replace=True))


def fairness(shares: Sequence[float]) -> float:
    """Jain's index (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _figures(outcomes: Sequence[Outcome], size: int) -> dict[str, Any]:
    done = [one.received["seconds"] for one in outcomes]
    return {
        "seconds": round(median(one[-1] for one in done), 4),
        "gbit": gbit(median(len(one) * size / one[-1] for one in done)),
        "fairness": round(median(fairness(one.received["half"]) for one in outcomes), 3),
        "first_ms": ms(median(one[0] for one in done) * 1e9),
    }


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {why: count - before[why] for why, count in after.items() if count != before[why]}


def _refused(gate: Gate) -> Mapping[str, int]:
    """Frames that the gate has refused so far, by why."""
    counters = gate.tables.counters.read()
    return {why: totals.frames for why, totals in counters.items() if why != ADMITTED}
