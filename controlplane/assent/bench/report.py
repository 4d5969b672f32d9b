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


def handshake_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.handshake.measure` returned."""
    memory, daemons, goals = result["in_memory"], result["daemons"], result["goals"]
    return [
        f"Handshakes: in memory, both sides on one core, median of {memory['rounds']} rounds of "
        f"{memory['handshakes']}; the ratio is of a handshake's time to the other's.",
        "",
        "| in memory | a second | ratio | wanted |",
        "|---|---|---|---|",
        f"| full handshakes | {memory['handshakes_per_second']:,} | 1 | "
        f"at least {goals['handshakes_per_second']:,} |",
        f"| their Noise alone, by noiseprotocol | {memory['noise_per_second']:,} | "
        f"{memory['noise_ratio']} | |",
        f"| their X25519 alone | {memory['floor_per_second']:,} | {memory['floor_ratio']} | |",
        f"| QUIC's (TLS 1.3), by aioquic | {memory['quic_per_second']:,} | "
        f"{memory['quic_ratio']} | |",
        "",
        f"Between two daemons, over the API: {daemons['handshakes_per_second']:,} a second one "
        f"after the other ({daemons['p50_ms']} ms in the median, {daemons['p99_ms']} ms for 99 of "
        f"100), {daemons['per_cpu_second']:,} a second of both daemons' CPU time.",
    ]


def fabric_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.fabric.measure` returned."""
    bulk, small, asked = result["bulk"], result["small"]["per_second"], result["questions"]
    loss, goals, ratio = result["loss"], result["goals"], result["bulk"]["ratio"]
    speed = bulk["gbit_per_second"]
    why = f" ({bulk['fallback_reason']})" if bulk["fallback_reason"] else ""
    return [
        f"One flow over veth, MTU {result['mtu']}, {bulk['backend']}{why}: median of "
        f"{result['rounds']} rounds of {result['seconds']:g} s; messages of {result['payload']:,} "
        "bytes, each in a frame of its own. A ratio is of our figure to the other's.",
        "",
        "| goodput | Gbit/s | ratio | wanted |",
        "|---|---|---|---|",
        f"| fabric, sealed | {speed['fabric']} | 1 | at least {goals['gbit_per_second']:g} |",
        f"| net-mesh, reliable, sealed (window {result['mesh']['window']:,}, batches of "
        f"{result['mesh']['batch']}) | {speed['mesh']} | {ratio['mesh']} | "
        f"at least {goals['ratio_mesh']:g} |",
        f"| aioquic, sealed | {speed['quic']} | {ratio['quic']} | "
        f"at least {goals['ratio_quic']:g} |",
        f"| TCP, in the clear | {speed['tcp']} | {ratio['tcp']} | |",
        "",
        "| messages of 64 bytes | a second | wanted |",
        "|---|---|---|",
        f"| fabric, a frame each | {small['single']:,} | at least {goals['single_per_second']:,} |",
        f"| fabric, sharing frames | {small['shared']:,} | "
        f"at least {goals['shared_per_second']:,} |",
        f"| net-mesh, reliable | {small['mesh']:,} | |",
        "",
        "| question and answer, µs | median | 99 of 100 |",
        "|---|---|---|",
        f"| fabric | {asked['p50_us']['fabric']} | {asked['p99_us']['fabric']} |",
        f"| UDP sockets | {asked['p50_us']['udp']} | {asked['p99_us']['udp']} |",
        f"| ratio (wanted: at most {goals['latency_ratio']:g}) | {asked['ratio_p50']} | "
        f"{asked['ratio_p99']} |",
        "",
        f"Through a switch that loses {loss['chance']:.0%} of all frames both ways (it lost "
        f"{loss['lost']:.1%}): {loss['gbit']} Gbit/s for {loss['whole_gbit']} without loss, "
        f"{loss['surviving']:.0%} of the capacity that survives (wanted: at least "
        f"{goals['surviving']:.0%}).",
    ]


def incast_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.incast.measure` returned."""
    ours, tcp = result["fabric"], result["tcp"]
    dropped = ", ".join(f"{count:,} {why}" for why, count in ours["dropped"].items()) or "0"
    return [
        f"{result['senders']:,} senders of {result['size']:,} bytes each to one receiver, all at "
        f"once; median of {result['rounds']} rounds, drops of all of them together. The receiver "
        f"promises {ours['promised_blocks']:,} blocks at a time.",
        "",
        "| incast | s to the last byte | Gbit/s | Jain's index | refused at the receiver "
        "(wanted: 0) | sent again |",
        "|---|---|---|---|---|---|",
        f"| fabric, {ours['backend']} | {ours['seconds']} | {ours['gbit']} | {ours['fairness']} | "
        f"{dropped} | {ours['retransmissions']:,} |",
        f"| TCP | {tcp['seconds']} | {tcp['gbit']} | {tcp['fairness']} | | "
        f"{tcp['retransmissions']:,} |",
    ]


def memory_section(result: Mapping[str, Any]) -> list[str]:
    """Lines about what `assent.bench.memory.measure` returned."""
    return [
        f"An idle connection, of {result['connections']:,} on one ring; while all are idle, the "
        f"thread that drives it takes {result['idle_cpu']:.1%} of a CPU.",
        "",
        "| memory of one | bytes | wanted |",
        "|---|---|---|",
        f"| in the application | {result['application_bytes']:,} | "
        f"under {result['goals']['application_bytes']:,} |",
        f"| in the gate's maps | {result['kernel_bytes']:,}, and "
        f"{result['kernel_tally_bytes']:,} where it counts on its own | |",
        f"| in the daemon | {result['daemon_bytes']:,} | |",
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
