# SPDX-License-Identifier: Apache-2.0
"""`assent bench`: what a verdict costs on this host; needs root, but no daemon."""

from __future__ import annotations

from collections.abc import Mapping
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


def all_(
    output: Annotated[Path, typer.Option(help="Where the table goes, as Markdown.")],
) -> None:
    """Measure everything and write a table with the machine and the kernel in it."""
    from assent.bench.report import markdown
    from assent.bench.verdict import measure
    from assent.cli import render

    table = markdown(measure())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(table)
    print(table)
    render.line(f"written to {output}")


def _group() -> None:
    """Measurements on this host."""


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
    render.line("")
    render.line(
        f"kernel {result['kernel']}, median of {result['runs']} runs of {result['repeat']:,} frames"
    )
