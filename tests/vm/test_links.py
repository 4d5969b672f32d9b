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

from assent.bench.hosts import PAIR
from assent.demo.nodes import Nodes

from .lab import netem, renew

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


class Talkers:
    """talk.py on both hosts: started when it is asked for, and anew where it was ended."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._running: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        for name in PAIR:
            if name not in self._running:
                script, socket = Path(__file__).with_name("talk.py"), self.nodes[name].socket
                self._running[name] = subprocess.Popen(
                    self.nodes.lab.hosts[name].command(sys.executable, str(script), str(socket)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )

    def end(self) -> None:
        while self._running:
            _, process = self._running.popitem()
            process.kill()
            process.communicate()

    def ask(self, host: str, *words: object) -> None:
        stdin = self._running[host].stdin
        assert stdin is not None
        print(*words, file=stdin, flush=True)

    def answer(self, host: str) -> str:
        stdout = self._running[host].stdout
        assert stdout is not None
        line = stdout.readline()
        assert line, f"talk.py on {host} has ended: what it said is above"
        return line

    def converse(
        self, link: str, delivery: str, count: int, size: int
    ) -> tuple[list[int], dict[str, int]]:
        """Returns the numbers that arrived, and the sender's counts."""
        self.start()
        renew(self.nodes)
        try:
            with netem(self.nodes, link):
                self.ask("right", "receive", delivery, count, size)
                assert self.answer("right") == "ready\n"
                self.ask("left", "send", delivery, count, size)
                sent, received = (json.loads(self.answer(name)) for name in PAIR)
        except BaseException:
            self.end()
            raise
        return received["numbers"], sent["stats"]


@pytest.fixture(scope="module")
def talkers(nodes: Nodes) -> Iterator[Talkers]:
    talkers = Talkers(nodes)
    yield talkers
    talkers.end()


@pytest.mark.parametrize("link", LINKS)
def test_ordered(talkers: Talkers, link: str) -> None:
    numbers, stats = talkers.converse(LINKS[link], "ORDERED", MESSAGES, SIZE)
    assert numbers == list(range(MESSAGES))
    if link in {"lossy", "bursty", "everything"}:
        assert stats["retransmissions"] > 0
    if link in {"far", "doubling"}:
        assert (stats["nacks_received"], stats["gaps_received"]) == (0, 0)


def test_ordered_messages_longer_than_a_frame(talkers: Talkers) -> None:
    numbers, stats = talkers.converse(LINKS["everything"], "ORDERED", 60, LONG)
    assert numbers == list(range(60))
    assert stats["tx_frames"] > 60 * LONG // 1500


@pytest.mark.parametrize("link", ["shuffling", "everything"])
def test_unordered(talkers: Talkers, link: str) -> None:
    numbers, _ = talkers.converse(LINKS[link], "UNORDERED", MESSAGES, SIZE)
    assert sorted(numbers) == list(range(MESSAGES))


@pytest.mark.parametrize("link", ["doubling", "everything"])
def test_best_effort(talkers: Talkers, link: str) -> None:
    numbers, stats = talkers.converse(LINKS[link], "BEST_EFFORT", MESSAGES, SIZE)
    assert len(set(numbers)) == len(numbers)
    assert stats["tx_payload"] == MESSAGES * SIZE
    if link == "doubling":
        assert numbers == list(range(MESSAGES))
    else:
        assert MESSAGES // 2 < len(numbers) < MESSAGES
