# SPDX-License-Identifier: Apache-2.0
"""Measurements as a Markdown page."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Ratios to the peer that the project wants of its gate, at most.
GOALS = {"admit": 5.5, "unknown_dst": 1.3, "pass_ipv4": 0.7}


def processor() -> str:
    """The processor's name, as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def markdown(verdict: Mapping[str, Any]) -> str:
    """A page of what `assent.bench.verdict.measure` returned."""
    lines = [
        "# Measurements",
        "",
        f"{processor()}, {os.cpu_count()} CPUs, kernel {verdict['kernel']}",
        "",
        f"Verdicts: BPF_PROG_TEST_RUN, median of {verdict['runs']} runs of {verdict['repeat']:,} "
        "frames; the ratio is to xdp-filter's `xdpfilt_alw_eth` in the same rounds.",
        "",
        "| verdict | ns | ratio | wanted |",
        "|---|---|---|---|",
    ]
    for name, ratio in verdict["ratio"].items():
        goal = f"at most {GOALS[name]}" if name in GOALS else ""
        lines.append(f"| {name} | {verdict['xdp'][f'{name}_ns']} | {ratio} | {goal} |")
    lines += [
        f"| {name.removesuffix('_ns')} | {ns} | 1 | |" for name, ns in verdict["peer"].items()
    ]
    return "\n".join([*lines, ""])
