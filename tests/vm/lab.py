# SPDX-License-Identifier: Apache-2.0
"""The lab of this machine: netem in the switch's ports, and a new session for each test."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from assent.bench.hosts import PAIR
from assent.demo.lab import links_of
from assent.demo.nodes import Nodes
from assent.v1.cells_pb2 import CellRef
from assent.v1.sessions_pb2 import ConnectRequest


def renew(nodes: Nodes) -> None:
    """Puts the hosts in a new session: what a test finds is its own."""
    with nodes.client(PAIR[0]) as client:
        client.sessions.Connect(ConnectRequest(remote=CellRef(name=PAIR[1]), renew=True))


@contextlib.contextmanager
def netem(nodes: Nodes, link: str) -> Iterator[None]:
    """Both ports treat what they send so meanwhile; what netem still held at the end is gone."""
    with contextlib.ExitStack() as undo:
        for name in PAIR if link else ():
            _qdisc(nodes, "add", "dev", name, "root", "netem", *link.split())
            undo.callback(_qdisc, nodes, "del", "dev", name, "root")
        yield


def netem_drops(nodes: Nodes, port: str) -> int:
    """Frames that netem has lost in a port so far."""
    with links_of(nodes.lab.switch.netns) as links:
        return queue_of(links, port)["drops"]


def queue_of(links: Any, interface: str) -> dict[str, int]:
    """What an interface's root qdisc counts: `qlen`, `drops` and others, in frames.

    Over netlink: to start `tc` takes an emulated CPU longer than most of what is counted.
    """
    index = links.link_lookup(ifname=interface)[0]
    counts: dict[str, int] = (
        links.get_qdiscs(index)[0].get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")
    )
    return counts


def _qdisc(nodes: Nodes, *args: str) -> None:
    subprocess.run(nodes.lab.switch.command("tc", "qdisc", *args), check=True, capture_output=True)
