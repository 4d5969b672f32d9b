# SPDX-License-Identifier: Apache-2.0
"""Each delivery keeps its promise on links of each kind, as netem makes them.

        left            right
          | veth          | veth
        --+---------------+--     the switch; netem stands in its ports

Numbered messages go from left to right. Ordered: all of them, in order. Unordered: all of them,
each once. Best effort: none twice, and none that was not sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from assent.bench.hosts import PAIR, introduce, switched
from assent.demo.nodes import Nodes

from .test_transfer import clear, tc

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

LINKS = {
    "far": "limit 10000 delay 40ms",
    "lossy": "limit 10000 loss 20%",
    "doubling": "limit 10000 duplicate 50%",
    "shuffling": "limit 10000 delay 5ms 4ms reorder 50%",
    "bursty": "limit 10000 loss gemodel 2% 30% 90% 0%",
    "everything": "limit 10000 delay 15ms 5ms loss 10% duplicate 20% reorder 25% 50%",
}
MESSAGES = 1500
SIZE = 700
LONG = 20_000  # more than a frame: ordered alone has such messages
CONVERSATION_S = 300


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patient, Nodes(PAIR, Console(), switched) as nodes:
        # An emulated CPU takes its time: two daemons start at once.
        patient.setattr("assent.demo.nodes._START_S", 150)
        nodes.start_all()
        introduce(nodes, {1: 8192})
        yield nodes


def start(nodes: Nodes, host: str, side: str, *args: object) -> subprocess.Popen[str]:
    script = str(Path(__file__).with_name("talk.py"))
    command = (sys.executable, script, side, str(nodes[host].socket), *map(str, args))
    return subprocess.Popen(
        nodes.lab.hosts[host].command(*command), stdout=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    said, _ = process.communicate(timeout=CONVERSATION_S)
    assert process.returncode == 0
    return json.loads(said.splitlines()[-1])


def converse(
    nodes: Nodes, link: str, delivery: str, count: int, size: int
) -> tuple[list[int], dict[str, int]]:
    """Returns the numbers that arrived, and the sender's counts."""
    nodes.cli("left", "sessions", "connect", "right", "--renew")
    for name in PAIR:
        tc(nodes, "add", "dev", name, "root", "netem", *link.split())
    try:
        with start(nodes, "right", "receive", delivery, count, size) as receiver:
            try:
                assert receiver.stdout is not None
                assert receiver.stdout.readline() == "ready\n"
                with start(nodes, "left", "send", delivery, count, size) as sender:
                    sent = result(sender)
                received = result(receiver)
            finally:
                receiver.kill()
    finally:
        clear(nodes)
    return received["numbers"], sent["stats"]  # type: ignore[return-value]


@pytest.mark.parametrize("link", LINKS)
def test_ordered(nodes: Nodes, link: str) -> None:
    numbers, stats = converse(nodes, LINKS[link], "ORDERED", MESSAGES, SIZE)
    assert numbers == list(range(MESSAGES))
    if link in {"lossy", "bursty", "everything"}:
        assert stats["retransmissions"] > 0
    if link in {"far", "doubling"}:
        assert (stats["nacks_received"], stats["gaps_received"]) == (0, 0)


def test_ordered_messages_longer_than_a_frame(nodes: Nodes) -> None:
    numbers, stats = converse(nodes, LINKS["everything"], "ORDERED", 60, LONG)
    assert numbers == list(range(60))
    assert stats["tx_frames"] > 60 * LONG // 1500


@pytest.mark.parametrize("link", ["shuffling", "everything"])
def test_unordered(nodes: Nodes, link: str) -> None:
    numbers, _ = converse(nodes, LINKS[link], "UNORDERED", MESSAGES, SIZE)
    assert sorted(numbers) == list(range(MESSAGES))


@pytest.mark.parametrize("link", ["doubling", "everything"])
def test_best_effort(nodes: Nodes, link: str) -> None:
    numbers, stats = converse(nodes, LINKS[link], "BEST_EFFORT", MESSAGES, SIZE)
    assert len(set(numbers)) == len(numbers)
    assert stats["tx_payload"] == MESSAGES * SIZE
    if link == "doubling":
        assert numbers == list(range(MESSAGES))
    else:
        assert MESSAGES // 2 < len(numbers) < MESSAGES
