# SPDX-License-Identifier: Apache-2.0
"""A host that goes to another link in the middle of a transfer.

    left                 switch                 right
+-----------+          +--------+          +-----------+
| fab0 -----|----------|        |----------|---- fab0  |   goes down
+-----------+          |        |----------|---- fab1  |   takes over
                       +--------+          +-----------+
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.demo.lab import BRIDGE, HOST_INTERFACE, Lab, links_of
from assent.demo.nodes import Nodes
from assent.v1.sessions_pb2 import ListSessionsRequest

from .conftest import highest_seq, open_daemons

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

SPARE = "fab1"
MARK = 4000
"""Frames that are through when the receiver moves: a small part of the file."""


@pytest.fixture
def daemons() -> Iterator[Nodes]:
    """Of one test alone: it changes their links."""
    with open_daemons() as nodes:
        yield nodes


def add_link(lab: Lab, host: str) -> None:
    """A second link from a host to the switch; both ends vanish with their namespaces."""
    port = f"{host}-{SPARE}"
    with links_of(lab.switch.netns) as switch, links_of(lab.hosts[host].netns) as inside:
        switch.link("add", ifname=port, kind="veth", peer={"ifname": SPARE})
        far = switch.link_lookup(ifname=SPARE)[0]
        switch.link("set", index=far, net_ns_fd=lab.hosts[host].netns)
        bridge = switch.link_lookup(ifname=BRIDGE)[0]
        switch.link("set", ifname=port, master=bridge, state="up")
        inside.link("set", ifname=SPARE, state="up")


def cut(lab: Lab, host: str) -> None:
    with links_of(lab.switch.netns) as switch:
        switch.link("set", ifname=host, state="down")


def mac_of_right(nodes: Nodes) -> str:
    with nodes.client("left") as client:
        return client.sessions.List(ListSessionsRequest()).sessions[0].remote_mac


@pytest.mark.parametrize("mover", ["right", "left"], ids=["receiver moves", "sender moves"])
def test_a_transfer_goes_on_when_a_host_moves_to_another_link(
    pair: Nodes, random_file, digest, mover: str, tmp_path: Path
):
    add_link(pair.lab, mover)
    pair.cli(mover, "attach", SPARE)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    file = random_file("moving.bin", 96 << 20)
    receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    before = mac_of_right(pair)
    deadline = time.monotonic() + 30
    while highest_seq(pair, "right") < MARK and time.monotonic() < deadline:
        time.sleep(0.005)
    cut(pair.lab, mover)
    assert sender.running, "the transfer was over before the link was cut"
    pair.cli(mover, "cells", "move", mover, "--interface", SPARE)
    sent, received = sender.result(90), receiver.result(90)
    assert sent["blake3"] == received["blake3"] == digest(file)
    assert (inbox / file.name).read_bytes() == file.read_bytes()
    moved = sent if mover == "right" else received
    assert moved["stats"]["moves"] >= 1, "the other side followed"
    if mover == "right":
        assert mac_of_right(pair) != before
    cells = json.loads(pair.cli(mover, "cells", "list", "--json"))["cells"]
    assert SPARE in {cell["interface"] for cell in cells}
    assert HOST_INTERFACE not in {cell["interface"] for cell in cells}
