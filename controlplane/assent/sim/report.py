# SPDX-License-Identifier: Apache-2.0
"""What the scenarios came to, as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assent.sim.run import Outcome, run_fabric, run_tcp
from assent.sim.scenarios import DISTANCES, Scenario
from assent.sim.world import SECOND

_HEADS: Final = (
    "protocol",
    "time",
    "x least",
    "goodput",
    "use",
    "resent",
    "control",
    "drops",
)
# So that the tables of all scenarios stand in line; 80 columns with the gaps.
_WIDTHS: Final = (14, 8, 7, 11, 6, 6, 7, 5)


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario, and what each protocol made of it."""

    scenario: Scenario
    outcomes: tuple[Outcome, ...]


def compare(scenario: Scenario) -> Result:
    """Runs a scenario with the fabric and with TCP; where that fails, with patient timers too."""
    outcomes = [run_fabric(scenario), run_tcp(scenario)]
    if not outcomes[-1].time:
        outcomes.append(run_tcp(scenario, patient=True))
    return Result(scenario, tuple(outcomes))


def by_distance() -> list[Result]:
    """The same file over ever longer links; every protocol everywhere."""
    return [
        Result(one, (run_fabric(one), run_tcp(one), run_tcp(one, patient=True)))
        for one in DISTANCES
    ]


def duration(ns: float) -> str:
    """A time with three digits, for readers."""
    for unit, factor in (("h", 3600 * SECOND), ("min", 60 * SECOND), ("s", SECOND), ("ms", 1e6)):
        # A minute and a half reads better as 90 s.
        if ns >= factor * (2 if unit in {"h", "min"} else 1):
            return f"{_digits(ns / factor)} {unit}"
    return f"{_digits(ns / 1e3)} µs"


def rate(bits: float) -> str:
    """A rate with three digits, for readers."""
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= factor:
            return f"{_digits(bits / factor)} {unit}"
    return f"{_digits(bits)} bit/s"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cells(scenario: Scenario, outcome: Outcome) -> tuple[str, ...]:
    if not outcome.time:
        got_there = (outcome.failure, "", "", "")
    else:
        got_there = (
            duration(outcome.time),
            f"{outcome.time / scenario.bound:.2f}",
            rate(outcome.goodput),
            f"{outcome.use:.1%}",
        )
    return (
        outcome.protocol,
        *got_there,
        f"{outcome.retransmissions:,}",
        f"{outcome.control:,}",
        f"{outcome.dropped:,}",
    )


def _bound_cells(scenario: Scenario) -> tuple[str, ...]:
    best = scenario.senders * scenario.carried * 8 * SECOND / scenario.bound
    return ("least possible", duration(scenario.bound), "1.00", rate(best), "", "", "", "")


def volume(count: float) -> str:
    """Bytes with three digits, for readers."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{_digits(count / factor)} {unit}"
    return f"{count:.0f} bytes"


def describe(scenario: Scenario) -> str:
    """A line about what is sent, and in what windows."""
    many = f"{scenario.senders} x " if scenario.senders > 1 else ""
    flows = f"{scenario.flows} flows" if scenario.flows > 1 else "1 flow"
    windows = scenario.senders * scenario.window_bytes
    return (
        f"{many}{scenario.carried >> 20} MiB in {flows}, windows of {scenario.blocks:,} blocks "
        f"({volume(windows)} in all); bandwidth x delay {volume(scenario.product)}"
    )


def render(results: Iterable[Result]) -> Group:
    """All scenarios, for the terminal."""
    parts: list[RenderableType] = []
    for result in results:
        parts += [
            Text(result.scenario.title, style="bold"),
            Text(describe(result.scenario), style="dim"),
            _table(result),
            *(
                Text(f"{one.protocol} {one.failure}", style="red")
                for one in result.outcomes
                if not one.time
            ),
            Text(),
        ]
    return Group(*parts[:-1])


def _table(result: Result) -> Table:
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head, width in zip(_HEADS, _WIDTHS, strict=True):
        left = head == "protocol"
        made.add_column(head, justify="left" if left else "right", min_width=width, no_wrap=True)
    made.add_row(*_bound_cells(result.scenario), style="dim")
    for outcome in result.outcomes:
        if outcome.time:
            made.add_row(*_cells(result.scenario, outcome))
    return made


def markdown(results: Sequence[Result], distances: Sequence[Result]) -> str:
    """All of it as a page."""
    lines = ["# Any distance", ""]
    for result in results:
        scenario = result.scenario
        lines += [
            f"## {scenario.title}",
            "",
            f"{describe(scenario)}.",
            "",
            f"| {' | '.join(_HEADS)} |",
            f"|---|{'---:|' * (len(_HEADS) - 1)}",
            f"| {' | '.join(_bound_cells(scenario))} |",
            *(f"| {' | '.join(_cells(scenario, one))} |" for one in result.outcomes),
            "",
        ]
    if distances:
        lines += _distance_lines(distances)
    return "\n".join(lines)


def _distance_lines(distances: Sequence[Result]) -> list[str]:
    protocols = [one.protocol for one in distances[0].outcomes]
    return [
        "## The same file, ever farther away",
        "",
        "10 MiB at 10 Mbit/s with 0.1 % loss each way, one flow or connection.",
        "",
        f"| round trip | least possible | {' | '.join(protocols)} |",
        f"|---|{'---:|' * (len(protocols) + 1)}",
        *(
            f"| {result.scenario.name} | {duration(result.scenario.bound)} | "
            + " | ".join(duration(one.time) if one.time else one.failure for one in result.outcomes)
            + " |"
            for result in distances
        ),
        "",
    ]


def as_json(results: Sequence[Result], distances: Sequence[Result]) -> str:
    """All of it for programs; times in ns, rates in bit/s."""
    return json.dumps(
        {
            "scenarios": [_plain(result) for result in results],
            "distances": [_plain(result) for result in distances],
        },
        indent=1,
    )


def _plain(result: Result) -> dict[str, Any]:
    scenario = result.scenario
    return {
        "name": scenario.name,
        "title": scenario.title,
        "seed": scenario.seed,
        "rate": scenario.rate,
        "rtt": scenario.rtt,
        "loss": scenario.loss,
        "senders": scenario.senders,
        "flows": scenario.flows,
        "bytes": scenario.carried,
        "window_blocks": scenario.blocks,
        "grant_shift": scenario.grant_shift,
        "bound": scenario.bound,
        "window_bound": scenario.window_bound,
        "outcomes": [_plain_outcome(one) for one in result.outcomes],
    }


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "protocol": outcome.protocol,
        "time": outcome.time,
        "goodput": round(outcome.goodput),
        "delivered": outcome.delivered,
        "use": round(outcome.use, 4),
        "frames": outcome.frames,
        "retransmissions": outcome.retransmissions,
        "control": outcome.control,
        "dropped": outcome.dropped,
        "failure": outcome.failure,
        "sample": outcome.sample,
        "samples": list(outcome.samples),
    }
