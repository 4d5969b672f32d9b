"""The API of applications between two hosts; what each end does is in ends.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assent.demo.nodes import Nodes

from .conftest import widen

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

ENDS = Path(__file__).with_name("ends.py")
LONG = os.environ.get("SOAK") == "1"


class End:
    """One end: a process on a host."""

    def __init__(self, nodes: Nodes, side: str, case: str, args: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            nodes[side].host.command(
                *(sys.executable, "-X", "dev", "-W", "error", str(ENDS)),
                *(str(nodes[side].socket), case, side, json.dumps(args)),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def result(self, timeout_s: float = 60) -> Any:
        said, _ = self._process.communicate(timeout=timeout_s)
        assert self._process.returncode == 0, said
        return json.loads(said.splitlines()[-1])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(ValueError):
            self._process.communicate()


@contextlib.contextmanager
def ends(nodes: Nodes, case: str, **args: Any) -> Iterator[tuple[End, End]]:
    """Left and right; right has said that it is ready."""
    with contextlib.ExitStack() as undo:
        right = End(nodes, "right", case, args)
        undo.callback(right.close)
        right.wait_ready()
        left = End(nodes, "left", case, args)
        undo.callback(left.close)
        yield left, right


@pytest.fixture
def flows(pair: Nodes) -> Nodes:
    """The pair, with room on all flows."""
    widen(pair, 2, 3, window=4096)
    return pair


@pytest.mark.parametrize("flavour", ["blocking", "asyncio"])
def test_messages_of_every_delivery_come_back_as_they_were(flows, flavour):
    for delivery, sizes in (
        ("ORDERED", [0, 1, 1400, 5_000_000, 0, 70_000]),
        ("UNORDERED", [0, 1, 64, 1000] * 20),
        ("BEST_EFFORT", [0, 1, 64, 1000] * 20),
    ):
        with ends(flows, flavour, delivery=delivery, sizes=sizes) as (left, right):
            assert left.result()["same"], delivery
            got = right.result()
            assert got["got"] == len(sizes) + 1


def test_a_receiver_that_stops_reading_stops_the_sender_within_a_window_and_loses_nothing(flows):
    with ends(flows, "pressure") as (left, right):
        left.wait_ready()
        right.say()
        sent, got = left.result(), right.result()
    assert sent["timed_out"]
    assert sent["blocks"] <= 32_767
    assert sent["left"] < 200
    assert got == {"in_order": True, "got": sent["sent"]}


def test_who_sleeps_while_its_peer_takes_all_and_leaves_hears_of_it_afterwards(flows):
    with ends(flows, "asleep") as (left, right):
        for end in (left, right):
            end.wait_ready()
        left.signal(signal.SIGSTOP)
        right.say()
        assert right.result() == {"got": 500_000}
        left.signal(signal.SIGCONT)
        assert left.result() == {"written": 500_000, "receipted": 500_000}


def test_batches_arrive_whole_and_share_frames(flows):
    with ends(flows, "batches") as (left, right):
        sent, got = left.result(), right.result()
    assert got["digest"] == sent["digest"]
    assert got["count"] == sent["count"] == 21_000
    assert got["calls"] < got["count"] / 10
    # Twenty fit a frame. Where credit comes in drops, what is open leaves before it is full.
    assert sent["frames"] < 20_000 / 4 + 3 * 500


def test_what_is_cancelled_loses_nothing_and_breaks_no_message(flows):
    with ends(flows, "cancel") as (left, right):
        left.wait_ready()
        right.say()
        result = left.result()
    assert result["cancelled"] == ["CancelledError"] * 3
    assert result["answer"] == [8 << 20, len(b"after")]


def test_a_peer_that_is_killed_is_an_error_within_thirty_seconds(pair):
    with ends(pair, "crash") as (left, right):
        left.wait_ready()
        right.kill()
        killed = time.time()
        result = left.result()
    assert "silent" in result["error"]
    assert result["at"] - killed < 32


def test_a_peer_that_leaves_without_a_word_is_an_error_at_once(flows):
    with ends(flows, "leave") as (left, right):
        result = left.result()
        assert right.result() == {"first": "one"}
    assert result["error"] == "the peer has left without ending the flow"
    assert result["took"] < 8


def test_a_connection_survives_that_its_session_is_renewed(pair):
    with ends(pair, "renew") as (left, right):
        left.wait_ready()
        pair.cli("right", "sessions", "connect", "left", "--renew")
        left.say()
        left.result()
        assert right.result() == {"got": ["before", "after"]}


@pytest.mark.parametrize("backend", ["AF_XDP", "AF_PACKET"])
def test_a_healthy_link_carries_no_word_of_repair(pair, backend):
    size = (1 << 30) if LONG else (128 << 20)
    with ends(pair, "quiet", size=size, backend=backend) as (left, right):
        sent, got = left.result(120), right.result(120)
    assert got["total"] == size
    for stats in (sent["stats"], got["stats"]):
        for repair in ("nacks_sent", "nacks_received", "gaps_sent", "gaps_received"):
            assert stats[repair] == 0
        assert stats["voids_sent"] == 0
    # Where a busy machine lets the sender wait for credit: a probe has a copy, and who has none
    # left to probe with says again what it said. The receiver says receipts again while it waits.
    again = sent["stats"]["retransmissions"]
    assert again <= sent["stats"]["probes_sent"] + sent["stats"]["tx_frames"] / 100
    # A receipt an eighth of the window, and those that were asked for.
    blocks = sent["stats"]["tx_frames"] * 23
    asked = sent["stats"]["probes_sent"]
    assert got["stats"]["receipts_sent"] <= blocks / (32_767 / 8) + asked + 2


def test_the_syscall_pair_carries_payloads_by_cellid_alone(flows):
    with ends(flows, "utcp") as (left, right):
        sent, got = left.result(), right.result()
    assert sent["answers"] == ["ONE", "", "THREE"]
    assert got["got"] == ["one", "", "three"]
    cards = {
        name: json.loads(flows.cli(name, "cells", "show", name, "--json"))["id"]
        for name in ("left", "right")
    }
    assert got["from"] == cards["left"]
    assert sent["from"] == cards["right"]
