# SPDX-License-Identifier: Apache-2.0
"""`assent bench`: what a verdict costs on this host; needs root, but no daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from assent.cli.context import JsonFlag, wants_json


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Measurements on this host.")
    # Typer makes a group of one command that command, unless the group has a function of its own.
    noun.callback()(_group)
    noun.command()(verdict)
    noun.command()(latency)
    noun.command()(scale)
    noun.command()(install)
    noun.command()(covenant)
    noun.command()(fabric)
    noun.command()(handshake)
    noun.command()(incast)
    noun.command()(memory)
    noun.command("all")(all_)
    root.add_typer(noun, name="bench")


def verdict(
    ctx: typer.Context,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Frames a measurement; a million if left out.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Measurements a case; five if left out.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure the gate's verdicts beside xdp-filter's simplest rule."""
    from assent.bench.verdict import REPEAT, RUNS, measure
    from assent.cli import render

    result = measure(repeat=repeat or REPEAT, runs=runs or RUNS)
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show(result)


def latency(
    ctx: typer.Context,
    times: Annotated[int | None, typer.Option(min=1, help="Calls; 300 if left out.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure from the call that quarantines a cell to the first frame refused for it."""
    from assent.bench.latency import TIMES, measure
    from assent.cli import render

    result = measure(times=times or TIMES)
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show_latency(result)


def scale(
    ctx: typer.Context,
    cells: Annotated[
        int | None, typer.Option(min=1, help="In session; a million if left out.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=10, help="Of random cells; a million if left out.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure frames of random cells among a million, beside the same among a thousand."""
    from assent.bench.scale import CELLS, FRAMES, measure
    from assent.cli import render

    result = measure(cells=cells or CELLS, frames=frames or FRAMES)
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show_scale(result)


def install(
    ctx: typer.Context,
    cells: Annotated[
        int | None, typer.Option(min=1, help="With a live session each; 100,000 if left out.")
    ] = None,
    psks: Annotated[bool, typer.Option("--psks", help="Each with a pre-shared key too.")] = False,
    json: JsonFlag = False,
) -> None:
    """Measure how long installing cells with sessions takes, by the API and in the maps alone."""
    from assent.bench.install import CELLS, measure
    from assent.cli import render

    result = measure(cells or CELLS, with_psks=psks)
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show_install(result)


def covenant(
    ctx: typer.Context,
    covenants: Annotated[
        int | None, typer.Option(min=1, max=60_000, help="At once; 10,000 if left out.")
    ] = None,
    times: Annotated[
        int | None, typer.Option(min=1, help="Rounds of what gates are timed in; 60 and 200.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure covenants: a second in memory, at once in a daemon, and how fast gates follow."""
    from assent.bench import covenant_crowd, covenant_gate, covenant_quarantine
    from assent.bench.covenant import measure
    from assent.cli import render

    result = measure(
        covenants or covenant_crowd.COVENANTS,
        times or covenant_gate.TIMES,
        times or covenant_quarantine.TIMES,
    )
    if wants_json(ctx, json):
        render.print_json(result)
    else:
        _show_covenant(result)


def fabric(
    ctx: typer.Context,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Of each measurement; 2 if left out.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Five if left out.")] = None,
    questions: Annotated[
        int | None, typer.Option(min=100, help="A round; 5,000 if left out.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure one flow beside net-mesh, aioquic, TCP and UDP: bulk, small, latency, loss."""
    from assent.bench import fabric as bench
    from assent.bench import report

    result = bench.measure(
        seconds or bench.SECONDS, rounds or bench.ROUNDS, questions or bench.QUESTIONS
    )
    _print(ctx, json, result, report.fabric_section)


def handshake(
    ctx: typer.Context,
    handshakes: Annotated[
        int | None, typer.Option(min=1, help="In memory, a round; 100 if left out.")
    ] = None,
    renewals: Annotated[
        int | None, typer.Option(min=1, help="Between daemons; 200 if left out.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure full handshakes a second beside Noise alone and QUIC's."""
    from assent.bench import handshake as bench
    from assent.bench import report

    result = bench.measure(
        handshakes=handshakes or bench.HANDSHAKES, renewals=renewals or bench.RENEWALS
    )
    _print(ctx, json, result, report.handshake_section)


def incast(
    ctx: typer.Context,
    senders: Annotated[
        int | None, typer.Option(min=2, max=2000, help="At once; 1,000 if left out.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Bytes that each sends; 65,536 if left out.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Five if left out.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure many senders to one receiver beside as many TCP connections."""
    from assent.bench import incast as bench
    from assent.bench import report

    result = bench.measure(senders or bench.SENDERS, size or bench.SIZE, rounds or bench.ROUNDS)
    _print(ctx, json, result, report.incast_section)


def memory(
    ctx: typer.Context,
    connections: Annotated[
        int | None, typer.Option(min=100, max=30_000, help="Idle; 10,000 if left out.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure what an idle connection costs in the application, the kernel and the daemon."""
    from assent.bench import memory as bench
    from assent.bench import report

    _print(ctx, json, bench.measure(connections or bench.CONNECTIONS), report.memory_section)


def all_(
    output: Annotated[Path, typer.Option(help="Where the table goes, as Markdown.")],
) -> None:
    """Measure everything and write a table with the machine and the kernel in it."""
    from assent.bench import (
        covenant,
        extra,
        fabric,
        handshake,
        incast,
        install,
        latency,
        memory,
        report,
        scale,
        verdict,
    )
    from assent.cli import render

    extra.require_peers()  # now, and not when half of it is done

    table = report.markdown(
        verdict.measure(),
        report.latency_section(latency.measure()),
        report.scale_section(scale.measure()),
        report.install_section(install.measure()),
        report.covenant_section(covenant.measure()),
        report.fabric_section(fabric.measure()),
        report.handshake_section(handshake.measure()),
        report.incast_section(incast.measure()),
        report.memory_section(memory.measure()),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(table)
    print(table)
    render.line(f"written to {output}")


def _group() -> None:
    """Measurements on this host."""


def _print(
    ctx: typer.Context,
    json: bool,
    result: Mapping[str, Any],
    section: Callable[[Mapping[str, Any]], list[str]],
) -> None:
    """Prints a result as it is, or the lines that a report has of it."""
    from assent.cli import render

    if wants_json(ctx, json):
        render.print_json(result)
    else:
        for line in section(result):
            render.line(line)


def _show_latency(result: Mapping[str, Any]) -> None:
    from assent.cli import render

    render.fields(
        {
            "first frame refused": f"{result['p50_ms']} ms in the median, "
            f"{result['p99_ms']} ms for 99 of 100, {result['max_ms']} ms at most",
            "call answered": f"{result['call_p50_ms']} ms in the median",
            "calls": result["times"],
        }
    )


def _show_scale(result: Mapping[str, Any]) -> None:
    from assent.cli import render

    bloom = result["bloom"]
    render.fields(
        {
            f"{result['cells']:,} cells": f"{result['admit_ns']} ns a frame",
            f"{result['few']:,} cells": f"{result['admit_few_ns']} ns a frame",
            "ratio": result["ratio"],
            f"{result['in_a_row']} frames in a row": f"{result['admit_rows_ns']} ns a frame",
            "of that, the bench itself": f"{result['copy_ns']} ns",
            "bloom filter": f"{bloom['ns']} ns, {bloom['words']:,} words, "
            f"{bloom['fill']:.1%} of its bits set",
            "strangers past it": f"{bloom['measured_rate']:.3%} of {bloom['strangers']:,} "
            f"(expected {bloom['expected_rate']:.3%})",
        }
    )


def _show_install(result: Mapping[str, Any]) -> None:
    from assent.cli import render

    api = result["api"]
    ways = (("over the API", api), ("into the maps", result["maps"]))
    rows: dict[str, object] = {
        name: f"{one['seconds']} s, of which CPU {one['cpu_seconds']} s; "
        f"{one['cells_per_second']:,} cells a second"
        for name, one in ways
    }
    memory = f"{api['memory_mib']} MiB, {api['memory_before_mib']} MiB before"
    render.fields({"cells": result["cells"], **rows, "daemon": memory})


def _show_covenant(result: Mapping[str, Any]) -> None:
    from assent.cli import render

    memory, crowd, goals = result["in_memory"], result["at_once"], result["goals"]
    first, quarantine = result["first_frame"], result["quarantine"]
    render.fields(
        {
            "covenants a second": f"{memory['covenants_per_second']:,} on one core "
            f"(wanted: {goals['covenants_per_second']:,})",
            "their signatures alone": f"{memory['floor_per_second']:,}; a covenant takes "
            f"{memory['floor_ratio']} times as long",
            "mutual TLS 1.3": f"{memory['tls_per_second']:,} handshakes a second; a covenant takes "
            f"{memory['tls_ratio']} times as long",
            f"{crowd['covenants']:,} at once": f"{crowd['memory_mib']} MiB, "
            f"{crowd['memory_before_mib']} MiB before (wanted: {goals['memory_mib']:,}); "
            f"{crowd['seconds']} s, {crowd['covenants_per_second']:,} a second",
            "last BIND to first frame": f"{first['p50_ms']} ms in the median, "
            f"{first['p99_ms']} ms for 99 of 100 (wanted: {goals['first_frame_p99_ms']:g}), "
            f"{first['max_ms']} ms at most",
            "verdict to first refusal": f"{quarantine['p50_ms']} ms in the median, "
            f"{quarantine['p99_ms']} ms for 99 of 100 (wanted: {goals['quarantine_p99_ms']:g}), "
            f"{quarantine['max_ms']} ms at most",
        }
    )


def _show(result: Mapping[str, Any]) -> None:
    """Prints one line a verdict, in the order in which they were measured, and the peer's last."""
    from assent.cli import render

    rows = [
        (name, f"{result['xdp'][f'{name}_ns']:.2f}", f"{ratio:.3f}")
        for name, ratio in result["ratio"].items()
    ]
    rows += [
        (name.removesuffix("_ns"), f"{value:.2f}", "1.000")
        for name, value in result["peer"].items()
    ]
    render.table(("VERDICT", "NS", "RATIO"), rows, empty="nothing was measured")
    rows = [("a look at the bloom filter", f"{result['bloom']['check_ns']:.2f}", "")]
    render.table(("PART", "NS", ""), rows, empty="")
    render.line("")
    render.line(
        f"kernel {result['kernel']}, median of {result['runs']} runs of {result['repeat']:,} frames"
    )
