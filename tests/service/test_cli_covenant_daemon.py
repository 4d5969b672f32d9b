# SPDX-License-Identifier: Apache-2.0
"""`assent covenant` against two running daemons, and files under its terms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from blake3 import blake3
from rich.console import Console

from assent.client import Client
from assent.demo.lab import HOST_INTERFACE
from assent.demo.nodes import Nodes
from assent.v1 import covenants_pb2 as pb
from assent.v1 import sessions_pb2

TERMS = """
[[permissions]]
id = "send"
party = "initiator"
action = "send"
flows = [1]

[[permissions]]
id = "answer"
party = "responder"
action = "send"
flows = [1]

[[constraints]]
id = "burst"
party = "initiator"
kind = "burst"
blocks = 4096

[[clauses]]
type = "protection"
description = "A party that falls silent is asked before it is left."
trigger = "a missed heartbeat"
action = "a review before the end"
"""

pytestmark = pytest.mark.netns


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Nodes]:
    """left and right, gated, each of which leaves the other's consent to covenants."""
    with Nodes(("left", "right"), Console(file=StringIO())) as nodes:
        nodes.start_all()
        for name in ("left", "right"):
            nodes.cli(name, "cells", "create", name, "--interface", HOST_INTERFACE)
            nodes.cli(name, "attach", HOST_INTERFACE)
            (tmp_path / f"{name}.cell").write_text(nodes.cli(name, "cells", "export", name))
        nodes.cli("left", "keys", "generate-psk", "--output", str(tmp_path / "psk"))
        for here, there in (("left", "right"), ("right", "left")):
            card = str(tmp_path / f"{there}.cell")
            nodes.cli(here, "cells", "add", "--from", card, "--consent", "covenant")
            nodes.cli(here, "keys", "set-psk", there, "--file", str(tmp_path / "psk"))
        yield nodes


def listed(nodes: Nodes, host: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        nodes.cli(host, "covenant", "list", "--all", "--json")
    )["covenants"]
    return found


def until(nodes: Nodes, host: str, state: str) -> None:
    """Waits until a host's one covenant is in a state, and `assent covenant list` says so."""
    wanted = pb.CovenantState.Value(f"COVENANT_STATE_{state.upper()}")
    deadline = time.monotonic() + 20
    with nodes.client(host) as client:
        while (found := _states(client)) != [wanted]:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
    assert [one["state"] for one in listed(nodes, host)] == [state]


def _states(client: Client) -> list[int]:
    reply = client.covenants.List(pb.ListCovenantsRequest(ended=True))
    return [one.state for one in reply.covenants]


def _granted(client: Client) -> bool:
    """Whether a session has credit for flow 1."""
    reply = client.sessions.List(sessions_pb2.ListSessionsRequest())
    return any(flow.flow == 1 for session in reply.sessions for flow in session.flows)


def test_a_file_arrives_under_a_covenant_and_everything_is_shown(pair: Nodes, tmp_path: Path):
    """The responder may send too: it says what of the file it has already."""
    terms, file, inbox = tmp_path / "terms.toml", tmp_path / "file", tmp_path / "inbox"
    terms.write_text(TERMS)
    file.write_bytes(os.urandom(4 << 20))
    inbox.mkdir()
    offer = ("covenant", "offer", "right", "--terms", str(terms), "--notice", "1s")
    pair.cli("left", *offer)
    until(pair, "right", "offer_received")
    assert "left" in pair.cli("right", "covenant", "show", "1")
    pair.cli("right", "covenant", "accept", "1")
    for host in ("left", "right"):
        until(pair, host, "covenanted")
    deadline = time.monotonic() + 20
    with pair.client("left") as client:
        while not _granted(client):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    (session,) = json.loads(pair.cli("left", "sessions", "list", "--json"))["sessions"]
    assert 1 in [flow["flow"] for flow in session["flows"]]
    receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    digest = blake3(file.read_bytes()).hexdigest()
    assert sender.result(60)["blake3"] == receiver.result(60)["blake3"] == digest

    exported = tmp_path / "covenant"
    pair.cli("left", "covenant", "export", "1", "--output", str(exported))
    done = subprocess.run(
        [sys.executable, "-m", "assent.cli.main", "covenant", "verify", str(exported)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pair.cli("left", "covenant", "revoke", "1", "--reason", "done", "--now")
    for host in ("left", "right"):
        until(pair, host, "terminated")
    evidence = pair.cli("right", "covenant", "evidence")
    for word in ("OFFER", "ACCEPT", "BIND", "REVOKE"):
        assert word in evidence
