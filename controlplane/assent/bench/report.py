# SPDX-License-Identifier: Apache-2.0
"""Measurements as a Markdown page."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assent.bench import bloom, install, latency, scale

# Ratios to the peer that the project wants of its gate, at most.
GOALS = {
    "admit": 4.0,
    "unknown_dst": 1.0,
    "unknown_src": 1.3,
    "bad_tag": 3.0,
    "pass_ipv4": 0.5,
}


def processor() -> str:
    """The processor's name, as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def markdown(verdict: Mapping[str, Any], *sections: list[str]) -> str:
    """A page of what `assent.bench.verdict.measure` returned, and of further sections' lines."""
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
    lines += [
        f"| a look at the bloom filter | {verdict['bloom']['check_ns']} | | "
        f"at most {bloom.GOAL_NS:g} ns |"
    ]
    for section in sections:
        lines += ["", *section]
    return "\n".join([*lines, ""])


def latency_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.latency.measure` returned."""
    return [
        f"From the call that quarantines a cell to the first frame refused for it: "
        f"{result['times']} calls to a daemon.",
        "",
        "| quarantine | ms | wanted |",
        "|---|---|---|",
        f"| median | {result['p50_ms']} | |",
        f"| 99 of 100 | {result['p99_ms']} | at most {latency.GOAL_MS:g} |",
        f"| longest | {result['max_ms']} | |",
    ]


def scale_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.scale.measure` returned."""
    filter_ = result["bloom"]
    return [
        f"Frames of random cells, each admitted once ({result['frames']:,} of them; the copy of "
        f"their headers, {result['copy_ns']} ns, is part of either figure).",
        "",
        "| cells in session | ns | ratio | wanted |",
        "|---|---|---|---|",
        f"| {result['few']:,} | {result['admit_few_ns']} | 1 | |",
        f"| {result['cells']:,} | {result['admit_ns']} | {result['ratio']} | "
        f"at most {scale.GOAL:g} |",
        f"| {result['cells']:,}, {result['in_a_row']} frames in a row | {result['admit_rows_ns']} "
        f"| {result['admit_rows_ns'] / result['admit_few_ns']:.2f} | |",
        "",
        f"Bloom filter of {result['cells']:,} pairs: {filter_['ns']} ns, "
        f"{filter_['fill']:.1%} of its bits set; of {filter_['strangers']:,} strangers "
        f"{filter_['measured_rate']:.2%} got past it (by its bits, "
        f"{filter_['expected_rate']:.2%}).",
    ]


def install_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.install.measure` returned."""
    api, maps = result["api"], result["maps"]
    return [
        f"{result['cells']:,} cells with a live session each. The daemon's memory: "
        f"{api['memory_mib']} MiB, {api['memory_before_mib']} MiB before.",
        "",
        "| installed | s | of that CPU | cells a second | wanted for 100,000 |",
        "|---|---|---|---|---|",
        f"| over the API | {api['seconds']} | {api['cpu_seconds']} | "
        f"{api['cells_per_second']:,} | at most {install.GOAL_API_S:g} s |",
        f"| into the maps alone | {maps['seconds']} | {maps['cpu_seconds']} | "
        f"{maps['cells_per_second']:,} | at most {install.GOAL_MAPS_S:g} s |",
    ]


def covenant_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.covenant.measure` returned."""
    memory, crowd, goals = result["in_memory"], result["at_once"], result["goals"]
    first, quarantine = result["first_frame"], result["quarantine"]
    return [
        f"Covenants: in memory, both sides on one core, median of {memory['rounds']} rounds of "
        f"{memory['covenants']}; the ratio is to a covenant's time. {crowd['covenants']:,} in one "
        f"daemon took {crowd['seconds']} s ({crowd['covenants_per_second']:,} a second), of which "
        f"the daemon's CPU {crowd['daemon_cpu_seconds']} s.",
        "",
        "| in memory | a second | ratio | wanted |",
        "|---|---|---|---|",
        f"| full covenants | {memory['covenants_per_second']:,} | 1 | "
        f"at least {goals['covenants_per_second']:,} |",
        f"| their {memory['signatures']} signatures alone, made and verified | "
        f"{memory['floor_per_second']:,} | {memory['floor_ratio']} | |",
        f"| TLS 1.3 handshakes, certificates on both sides | {memory['tls_per_second']:,} | "
        f"{memory['tls_ratio']} | |",
        "",
        "| in daemons | median | 99 of 100 | longest | wanted |",
        "|---|---|---|---|---|",
        f"| {crowd['covenants']:,} covenants at once, MiB ({crowd['memory_before_mib']} before) | "
        f"{crowd['memory_mib']} | | | at most {goals['memory_mib']:,} |",
        f"| last BIND to first admitted frame, ms | {first['p50_ms']} | {first['p99_ms']} | "
        f"{first['max_ms']} | at most {goals['first_frame_p99_ms']:g} |",
        f"| of that, until the offerer agreed | {first['agreed_p50_ms']} | | | |",
        f"| of that, until the sender had its flow | {first['flow_p50_ms']} | | | |",
        f"| AIOS's verdict to first refused frame, ms | {quarantine['p50_ms']} | "
        f"{quarantine['p99_ms']} | {quarantine['max_ms']} | "
        f"at most {goals['quarantine_p99_ms']:g} |",
        f"| the same from the offending frame | {quarantine['frame_p50_ms']} | "
        f"{quarantine['frame_p99_ms']} | | |",
    ]
