# SPDX-License-Identifier: Apache-2.0
"""The demo's covenants: how right comes to hear left and rogue, and stops hearing rogue.

left offers too much, right rejects that with a justification and counter-terms, and accepts what
left offers then. Rogue's small offer lies within a policy, so right accepts it by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from assent.demo.nodes import DemoError, Nodes

WINDOW_BLOCKS: Final = 32_767
ROGUE_CREDIT: Final = 64

_CLAUSE: Final = """
[[clauses]]
type = "protection"
description = "Whoever runs out of means says so, and is not held to be an attacker."
trigger = "a REVIEW that asks for help"
action = "new terms are negotiated before anything else follows"
"""
_ANSWER: Final = """
[[permissions]]
id = "answer"
party = "responder"
action = "send"
flows = [1]
"""
GREEDY: Final = f"""
[[permissions]]
id = "send"
party = "initiator"
action = "send"
flows = [1, 2, 3]

[[constraints]]
id = "burst"
party = "initiator"
kind = "burst"
blocks = {WINDOW_BLOCKS}
{_ANSWER}{_CLAUSE}"""
AGREED: Final = f"""
[[permissions]]
id = "send"
party = "initiator"
action = "send"
flows = [1]
content_types = ["application/octet-stream"]

[[constraints]]
id = "burst"
party = "initiator"
kind = "burst"
blocks = {WINDOW_BLOCKS}

[[constraints]]
id = "rate"
party = "initiator"
kind = "rate"
blocks_per_second = 8000000
{_ANSWER}{_CLAUSE}"""
MODEST: Final = f"""
[[permissions]]
id = "send"
party = "initiator"
action = "send"
flows = [1]
content_types = ["application/octet-stream"]

[[constraints]]
id = "burst"
party = "initiator"
kind = "burst"
blocks = {ROGUE_CREDIT}
{_ANSWER}{_CLAUSE}"""

_WAIT_S: Final = 20.0
_T = TypeVar("_T")


def agree(nodes: Nodes) -> None:
    """Brings both covenants into force, and their sessions with them."""
    greedy, agreed, modest = (
        _terms(nodes, name, text)
        for name, text in (("greedy", GREEDY), ("agreed", AGREED), ("modest", MODEST))
    )
    nodes.cli("left", "covenant", "offer", "right", "--terms", str(greedy), show=True)
    handle = _with(nodes, "right", "left", "offer_received")
    nodes.cli("right", "covenant", "show", handle, show=True)
    nodes.cli(
        "right",
        *("covenant", "reject", handle),
        *("--because", "send: one flow is enough for files, and it must say what it carries"),
        *("--because", "burst (insufficient): without a rate it has no end"),
        *("--understood", "left wants to send anything on three flows, as fast as it can"),
        *("--counter", str(agreed)),
        show=True,
    )
    rejected = _when(
        partial(_find, nodes, "left", "right", "idle", ended=True), "the rejection at left"
    )
    nodes.cli("left", "covenant", "show", rejected, show=True)

    nodes.cli("left", "covenant", "offer", "right", "--terms", str(agreed), show=True)
    handle = _with(nodes, "right", "left", "offer_received")
    nodes.cli("right", "covenant", "accept", handle, show=True)
    _with(nodes, "left", "right", "covenanted")
    document = nodes.scratch / "left-right.covenant"
    nodes.cli("right", "covenant", "export", handle, "--output", str(document))
    nodes.cli("left", "covenant", "verify", str(document), show=True)

    limit = str(ROGUE_CREDIT)
    nodes.cli("right", "covenant", "policy", "set", "rogue", "--flow", "1", "--burst-max", limit)
    offer = ("covenant", "offer", "right", "--terms", str(modest), "--wait")
    nodes.cli("rogue", *offer, show=True)
    for name in ("left", "rogue"):
        _when(partial(_has_flow, nodes, name), f"a session of {name} with right")
    nodes.cli("right", "covenant", "list", show=True)


def quarantine_of(nodes: Nodes, host: str, peer: str) -> str:
    """The condition for which a host's AIOS holds a peer apart; "" where it does not."""
    for covenant in _list(nodes, host):
        for party in covenant["peers"]:
            if party["name"] == peer and party["quarantined"]:
                return str(party["quarantined"])
    return ""


def handle_of(nodes: Nodes, host: str, peer: str) -> str:
    """The covenant in force that a host has with a peer."""
    return _with(nodes, host, peer, "covenanted")


def _terms(nodes: Nodes, name: str, text: str) -> Path:
    path = nodes.scratch / f"{name}.toml"
    path.write_text(text)
    return path


def _with(nodes: Nodes, host: str, peer: str, state: str) -> str:
    return _when(
        partial(_find, nodes, host, peer, state),
        f"a covenant of {host} with {peer} that is {state}",
    )


def _find(nodes: Nodes, host: str, peer: str, state: str, *, ended: bool = False) -> str:
    for covenant in _list(nodes, host, ended=ended):
        names = [party["name"] for party in covenant["peers"]]
        if covenant["state"] == state and peer in names:
            return str(covenant["handle"])
    return ""


def _list(nodes: Nodes, host: str, *, ended: bool = False) -> list[dict[str, Any]]:
    said = nodes.ask(host, "covenant", "list", "--json", *(["--all"] if ended else []))
    found: list[dict[str, Any]] = json.loads(said)["covenants"]
    return found


def _has_flow(nodes: Nodes, host: str) -> bool:
    """Whether a host is in session with right, and may send on flow 1."""
    sessions = json.loads(nodes.ask(host, "sessions", "list", "--json"))["sessions"]
    return any(
        flow["flow"] == 1 and flow["tx_granted_blocks"]
        for session in sessions
        for flow in session["flows"]
    )


def _when(look: Callable[[], _T], what: str) -> _T:
    """Waits until a look finds something.

    Raises:
        DemoError: It does not, for 20 s.
    """
    deadline = time.monotonic() + _WAIT_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise DemoError(f"not within {_WAIT_S:.0f} s: {what}")
        time.sleep(0.05)
    return found
