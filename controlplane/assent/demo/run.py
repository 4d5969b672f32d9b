# SPDX-License-Identifier: Apache-2.0
"""The demo's course of events; see docs/demo.md."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from assent.client import Client
from assent.demo import attacks, covenants
from assent.demo.lab import HOST_INTERFACE
from assent.demo.nodes import Background, DemoError, Nodes, sweep
from assent.demo.report import AttackResult, Report
from assent.demo.tally import Tally, VerdictTimer, minus, settle
from assent.demo.wiretap import capture, raw_socket, send_all
from assent.errors import FailedPrecondition, InvalidArgument
from assent.transport.access import access_of
from assent.v1.cells_pb2 import CellRef, GetCellRequest
from assent.v1.sessions_pb2 import OpenFlowRequest
from assent.wire.cellid import CellID
from assent.wire.ethernet import parse_mac

DEFAULT_FILE_MIN = 64 << 20
# A tenth more than is asked for: a link may lose some, and the count at the gate is what counts.
ATTACK_FRAMES = 11_000
HOSTS = ("left", "right", "rogue")

_CAPTURE_FRAMES = 256
_TRANSFER_S = 300
_SLICE = 500


def run(file: Path | None, output: Path, console: Console) -> int:
    """Runs the demo.

    Args:
        file: what to send; None picks one of at least 64 MiB that is on the host.
        output: where the JSON goes.
        console: where everything else goes.

    Returns:
        0 when everything held, 1 otherwise.

    Raises:
        AssentError: it could not be carried through; everything has been undone.
    """
    chosen = _choose(file)
    sweep()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    report = Report(file=str(chosen), file_bytes=chosen.stat().st_size)
    with Nodes(HOSTS, console) as nodes:
        _heading(console, "1. Three hosts on one switch, a daemon on each")
        nodes.start_all()
        _heading(console, "2. Identities, introductions, keys")
        provision(nodes)
        report.xdp_mode = json.loads(nodes.cli("right", "status", "--json"))["interfaces"][0][
            "mode"
        ]
        _heading(console, "3. Covenants: offered, rejected with a reason, agreed on")
        covenants.agree(nodes)
        nodes.cli("right", "sessions", "list", show=True)
        _heading(console, "4. A file from left to right, while rogue attacks right")
        _transfer_under_attack(nodes, chosen, report)
    report.write(output)
    _heading(console, "6. What happened")
    report.show(console)
    failures = report.failures()
    for failure in failures:
        console.print(f"[bold red]FAILED[/bold red] {failure}")
    if not failures:
        console.print(f"[bold green]All of it held.[/bold green] The figures are in {output}.")
    return 1 if failures else 0


def provision(nodes: Nodes) -> None:
    """Identities, introductions, keys: all by commands that a user could type."""
    for name in HOSTS:
        nodes.cli(name, "cells", "create", name, "--interface", HOST_INTERFACE)
        nodes.cli(name, "attach", HOST_INTERFACE)
        card = nodes.cli(name, "cells", "export", name)
        (nodes.scratch / f"{name}.cell").write_text(card)
    for one in ("left", "rogue"):
        psk = nodes.scratch / f"{one}-right.psk"
        nodes.cli(one, "keys", "generate-psk", "--output", str(psk))
        for here, there in ((one, "right"), ("right", one)):
            card = str(nodes.scratch / f"{there}.cell")
            nodes.cli(here, "cells", "add", "--from", card, "--consent", "covenant")
            nodes.cli(here, "keys", "set-psk", there, "--file", str(psk))


def _transfer_under_attack(nodes: Nodes, file: Path, report: Report) -> None:
    inbox = nodes.scratch / "inbox"
    inbox.mkdir()
    with nodes.client("right") as right:
        prepared = _Rogue(nodes, right)
        to_inbox = ("--dir", str(inbox), "--json")
        receiver = nodes.background("right", "recv", "--from", "left", *to_inbox)
        # Rogue's flow is open too, so that what stops it is its credit and nothing else.
        nodes.background("right", "recv", "--from", "rogue", "--backend", "af_packet", *to_inbox)
        before = Tally.take(right)
        with VerdictTimer(nodes["right"].instance) as timer:
            sender = nodes.on_terminal("left", "send", str(file), "--to", "right", "--json")
            report.attacks = prepared.attack(sender)
            sent = sender.result(_TRANSFER_S)
            received = receiver.result(_TRANSFER_S)
        report.verdict_ns = timer.median_ns()
        _heading(nodes.console, "5. Rogue, which has agreed to terms, breaks them")
        report.attacks["overspend"] = prepared.overspend()
        report.quarantined_for = covenants.quarantine_of(nodes, "right", "rogue")
        handle = covenants.handle_of(nodes, "right", "rogue")
        nodes.cli("right", "covenant", "show", handle, show=True)
        after = Tally.take(right)
    report.frames_admitted = after.admitted - before.admitted
    report.frames_admitted_unexplained = max(
        0, report.frames_admitted - (after.genuine - before.genuine)
    )
    report.drops = minus(after.drops, before.drops)
    _compare(report, file, sent, received)


def _compare(report: Report, file: Path, sent: dict[str, Any], received: dict[str, Any]) -> None:
    report.sha256_sent = _sha256(file)
    report.sha256_received = _sha256(Path(received["file"]))
    report.sha256_match = report.sha256_sent == report.sha256_received
    report.goodput_mbit_s = sent["goodput_mbit_s"]
    report.seconds = sent["seconds"]
    report.io_backend = received["backend"]
    report.io_fallback_reason = received["fallback_reason"]
    report.sender = sent["stats"]
    report.receiver = received["stats"]


class _Rogue:
    """The attacker: makes its frames beforehand, so that it can be quick when the time comes."""

    def __init__(self, nodes: Nodes, right: Client) -> None:
        self._nodes = nodes
        self._right = right
        self._target = self._know(right)
        with nodes.client("rogue") as rogue:
            spender = access_of(
                rogue.sessions.OpenFlow(OpenFlowRequest(remote=_named("right"), flow=1))
            )
        rng = random.Random(0x88B5)  # noqa: S311 - junk need not be secret
        self._paid = attacks.spend_all(spender, 1, covenants.ROGUE_CREDIT)
        self._unpaid = attacks.overspend(spender, len(self._paid) + 1, ATTACK_FRAMES)
        self._plans = [
            attacks.unknown_destination(self._target, ATTACK_FRAMES, rng),
            attacks.unknown_source(self._target, ATTACK_FRAMES, rng),
            attacks.forged_tag(self._target, ATTACK_FRAMES, rng),
            attacks.malformed_length(self._target, ATTACK_FRAMES, rng),
        ]

    def attack(self, transfer: Background) -> dict[str, AttackResult]:
        """Captures genuine frames off the switch, then attacks in all ways at once.

        Each kind of attack has a drop reason of its own, so the counts tell them apart.
        """
        lab = self._nodes.lab
        friend = bytes(self._target.friend)
        captured = capture(lab.switch, "right", friend, _CAPTURE_FRAMES, timeout_s=20)
        if not captured:
            raise DemoError("no genuine frame came by to be captured: the transfer did not start")
        plans = [attacks.replay(captured, ATTACK_FRAMES), *self._plans]
        drops_before = settle(self._right)
        lost_before = lab.link_drops("right")
        with raw_socket(lab.hosts["rogue"], HOST_INTERFACE) as raw:
            sent, meanwhile = _interleaved(raw, plans, transfer)
        dropped = minus(settle(self._right), drops_before)
        # The port's losses may have been anyone's; what was counted did reach the gate.
        lost = lab.link_drops("right") - lost_before
        return {
            plan.name: AttackResult.judge(
                sent=sent[plan.name],
                sent_during_transfer=meanwhile[plan.name],
                lost=lost,
                dropped={plan.reason: dropped.get(plan.reason, 0)},
            )
            for plan in plans
        }

    def overspend(self) -> AttackResult:
        """Spends all of rogue's credit, and goes on: first without credit, then quarantined."""
        lab = self._nodes.lab
        before, lost_before = settle(self._right), lab.link_drops("right")
        with raw_socket(lab.hosts["rogue"], HOST_INTERFACE) as raw:
            send_all(raw, self._paid)
            sent = sum(
                send_all(raw, self._unpaid.frames[at : at + _SLICE])
                for at in range(0, ATTACK_FRAMES, _SLICE)
            )
        dropped = minus(settle(self._right), before)
        return AttackResult.judge(
            sent=sent,
            sent_during_transfer=0,
            lost=lab.link_drops("right") - lost_before,
            dropped={name: dropped.get(name, 0) for name in (self._unpaid.reason, "quarantined")},
        )

    def _know(self, right: Client) -> attacks.Target:
        friend = right.cells.Get(GetCellRequest(cell=_named("left")))
        victim = right.cells.Get(GetCellRequest(cell=_named("right")))
        hosts = self._nodes.lab.hosts
        return attacks.Target(
            victim=CellID(victim.id.value),
            victim_mac=parse_mac(hosts["right"].mac),
            friend=CellID(friend.id.value),
            own_mac=parse_mac(hosts["rogue"].mac),
        )


def _interleaved(
    raw: socket.socket, plans: Sequence[attacks.Attack], transfer: Background
) -> tuple[Counter[str], Counter[str]]:
    """Sends a slice of each attack in turn; returns frames sent, and those during the transfer."""
    sent: Counter[str] = Counter()
    meanwhile: Counter[str] = Counter()
    for at in range(0, ATTACK_FRAMES, _SLICE):
        for plan in plans:
            count = send_all(raw, plan.frames[at : at + _SLICE])
            sent[plan.name] += count
            if transfer.running:
                meanwhile[plan.name] += count
    return sent, meanwhile


def _choose(file: Path | None) -> Path:
    if file is not None:
        if not file.is_file():
            raise InvalidArgument("file", f"{file} is not a regular file")
        return file.resolve()
    # The build needs clang, so LLVM's library is on any host that came this far.
    candidates = [
        *Path("/usr/lib").glob("*/libLLVM*.so*"),
        *Path("/usr/lib").glob("llvm-*/lib/*.so*"),
    ]
    real = {path.resolve() for path in candidates if path.is_file()}
    large = sorted(path for path in real if path.stat().st_size >= DEFAULT_FILE_MIN)
    if not large:
        raise FailedPrecondition(
            "no file of 64 MiB or more was found to send; name one with make demo FILE=/path"
        )
    return large[0]


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]", highlight=False)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _named(name: str) -> CellRef:
    return CellRef(name=name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
