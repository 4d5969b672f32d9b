# SPDX-License-Identifier: Apache-2.0
"""What the demo found, as JSON and as a table, and whether all of it held."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

LEAST_FRAMES = 10_000


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack.

    Attributes:
        sent: frames that rogue's kernel took.
        sent_during_transfer: of those, the ones sent while the file was on its way.
        reached_gate: of those sent, the ones that the link did not lose.
        admitted: frames that the gate let through.
        dropped: frames refused for the reasons that are this attack's own.
    """

    sent: int
    sent_during_transfer: int
    reached_gate: int
    admitted: int
    dropped: dict[str, int]

    @classmethod
    def judge(
        cls, *, sent: int, sent_during_transfer: int, lost: int, dropped: dict[str, int]
    ) -> AttackResult:
        """Draws the conclusions from what was sent, lost on the link, and counted by the gate."""
        counted = sum(dropped.values())
        reached = max(sent - lost, min(sent, counted))
        return cls(sent, sent_during_transfer, reached, max(0, reached - counted), dropped)

    def failures(self, name: str) -> list[str]:
        """What did not hold, in words."""
        reasons, counted = " or ".join(self.dropped), sum(self.dropped.values())
        found = []
        if counted < LEAST_FRAMES:
            found.append(
                f"{name}: {counted} frames were counted as {reasons}, {LEAST_FRAMES} were wanted"
            )
        if self.admitted:
            found.append(f"{name}: {self.admitted} frames were not refused as {reasons}")
        return found


@dataclass(slots=True)
class Report:
    """Everything that the demo measured; see docs/demo.md for the meaning of each figure."""

    file: str
    file_bytes: int
    sha256_match: bool = False
    sha256_sent: str = ""
    sha256_received: str = ""
    goodput_mbit_s: float = 0.0
    seconds: float = 0.0
    io_backend: str = ""
    io_fallback_reason: str = ""
    xdp_mode: str = ""
    frames_admitted: int = 0
    frames_admitted_unexplained: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    attacks: dict[str, AttackResult] = field(default_factory=dict)
    verdict_ns: float = 0.0
    quarantined_for: str = ""
    sender: dict[str, int] = field(default_factory=dict)
    receiver: dict[str, int] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """What did not hold, in words; nothing when the demo is a success."""
        found = []
        if not self.sha256_match:
            found.append("the file that arrived is not the file that was sent")
        if self.frames_admitted_unexplained > 0:
            found.append(
                f"{self.frames_admitted_unexplained} admitted frames belong to no genuine flow"
            )
        if self.receiver.get("aead_failures"):
            found.append(f"{self.receiver['aead_failures']} admitted frames failed to decrypt")
        if not self.quarantined_for:
            found.append("rogue broke its covenant and was not quarantined")
        if not self.verdict_ns:
            found.append("the verdict's time was not measured")
        for name, attack in self.attacks.items():
            found += attack.failures(name)
        return found

    def write(self, path: Path) -> None:
        """Writes build/demo.json."""
        content: dict[str, Any] = asdict(self)
        content["failures"] = self.failures()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Prints the tables."""
        facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        facts.add_row("file", f"{self.file}, {self.file_bytes:,} bytes")
        facts.add_row("sha256", "the same at both ends" if self.sha256_match else "DIFFERENT")
        facts.add_row("goodput", f"{self.goodput_mbit_s:,.0f} Mbit/s over {self.seconds:.2f} s")
        backend = self.io_backend + (
            f" ({self.io_fallback_reason})" if self.io_fallback_reason else ""
        )
        facts.add_row("sockets", f"{backend}, XDP {self.xdp_mode}")
        facts.add_row(
            "frames admitted",
            f"{self.frames_admitted:,}, of which unexplained: {self.frames_admitted_unexplained}",
        )
        facts.add_row("median verdict", f"{self.verdict_ns:.0f} ns, as measured in the kernel")
        facts.add_row("rogue is quarantined for", self.quarantined_for or "NOTHING")
        console.print(facts)

        attacks = _table("What rogue sent to right")
        attacks.add_column("attack", no_wrap=True)
        attacks.add_column("sent", justify="right")
        attacks.add_column("meanwhile", justify="right")
        attacks.add_column("admitted", justify="right")
        attacks.add_column("refused as", no_wrap=True)
        attacks.add_column("frames", justify="right")
        for name, attack in self.attacks.items():
            numbers = (attack.sent, attack.sent_during_transfer, attack.admitted)
            shown = (name, *(f"{number:,}" for number in numbers))
            for reason, counted in attack.dropped.items():
                attacks.add_row(*shown, reason, f"{counted:,}")
                shown = ("",) * len(shown)
        console.print(attacks)

        drops = _table("All that right's gate refused")
        drops.add_column("reason")
        drops.add_column("frames", justify="right")
        for reason, frames in self.drops.items():
            drops.add_row(reason, f"{frames:,}")
        console.print(drops)


def _table(title: str) -> Table:
    return Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
