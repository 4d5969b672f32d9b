"""A daemon is killed in mid-transfer.

left: send ---> switch ---> right: gate, recv
                            right: assentd, killed with SIGKILL and started again
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.demo.nodes import Nodes
from assent.demo.tally import Tally
from assent.v1.fabric_pb2 import GetStatusRequest
from assent.v1.sessions_pb2 import ListSessionsRequest

from .conftest import highest_seq, open_daemons

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

SIZE = 384 << 20


@pytest.fixture
def daemons() -> Iterator[Nodes]:
    """Of one test alone: it kills them."""
    with open_daemons() as nodes:
        yield nodes


def test_the_transfer_goes_on_and_the_new_daemon_adopts_the_dataplane(pair, random_file, digest):
    file = random_file("large.bin", SIZE)
    inbox = pair.scratch / "inbox"
    inbox.mkdir()
    receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
    with pair.client("right") as right:
        before = right.fabric.GetStatus(GetStatusRequest())
        session = right.sessions.List(ListSessionsRequest()).sessions[0]
        drops = Tally.take(right).drops
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    deadline = time.monotonic() + 30
    while highest_seq(pair, "right") < 2000 and time.monotonic() < deadline:
        pass

    pair.kill("right")
    assert sender.running
    assert receiver.running
    pair.start("right")
    pair.wait_ready("right")

    sent, received = sender.result(120), receiver.result(120)
    assert digest(Path(received["file"])) == digest(file) == sent["blake3"]
    with pair.client("right") as right:
        after = right.fabric.GetStatus(GetStatusRequest())
        adopted = right.sessions.List(ListSessionsRequest()).sessions[0]
        tally = Tally.take(right)
    assert not before.adopted
    assert after.adopted
    assert after.program_id == before.program_id
    assert (adopted.id, adopted.epoch, adopted.state) == (session.id, session.epoch, session.state)
    # Not one genuine frame was refused, but for a retransmission that crossed its own repair.
    assert {reason for reason in tally.drops if reason not in drops} <= {"replay"}
    assert (
        tally.admitted == tally.genuine or tally.admitted > tally.genuine
    )  # handshakes have no flow


def test_a_second_transfer_runs_over_the_adopted_session(pair, random_file, digest):
    pair.kill("right")
    pair.kill("left")
    for name in ("left", "right"):
        pair.start(name)
    for name in ("left", "right"):
        pair.wait_ready(name)
    for turn in range(2):
        file = random_file(f"{turn}.bin", 3 << 20)
        receiver = pair.background(
            "right", "recv", "--from", "left", "--dir", str(pair.scratch), "--json"
        )
        sender = pair.background("left", "send", str(file), "--to", "right", "--json")
        assert sender.result(60)["blake3"] == receiver.result(60)["blake3"] == digest(file)
    status = json.loads(pair.cli("right", "status", "--json"))
    assert status["adopted"] is True
