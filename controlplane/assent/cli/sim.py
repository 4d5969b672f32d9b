# SPDX-License-Identifier: Apache-2.0
"""`assent sim`: the engine over links of any distance, in virtual time; needs no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assent.cli.context import JsonFlag, wants_json
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.sim.scenarios import Scenario


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="The engine over links of any distance, in virtual time.")
    noun.command("list")(list_)
    noun.command()(run)
    root.add_typer(noun, name="sim")


def list_() -> None:
    """Tell the scenarios, and what is sent in each."""
    from rich.console import Console
    from rich.table import Table

    from assent.sim.report import describe, duration
    from assent.sim.scenarios import SCENARIOS

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("name", "what", "least possible"):
        table.add_column(head)
    for one in SCENARIOS:
        table.add_row(one.name, f"{one.title}\n[dim]{describe(one)}[/dim]", duration(one.bound))
    Console().print(table)


def run(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Scenarios; all if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weather; says all of a run.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where table.md, results.json and the pictures are written."
        ),
    ] = None,
    distances: Annotated[
        bool, typer.Option(help="Also send one file over ever longer links.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Run scenarios with Assent and with a model of TCP, beside what is possible at best."""
    from rich.console import Console

    from assent.sim import plots, report

    chosen = _chosen(names or [], seed)
    console = Console(stderr=True)
    results = []
    for scenario in chosen:
        with console.status(scenario.title):
            results.append(report.compare(scenario))
    with console.status("ever farther away"):
        farther = report.by_distance() if distances and not names else []
    if wants_json(ctx, json):
        typer.echo(report.as_json(results, farther))
    else:
        Console().print(report.render(results))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "table.md").write_text(report.markdown(results, farther), encoding="utf-8")
        (output / "results.json").write_text(report.as_json(results, farther), encoding="utf-8")
        for made in plots.draw(results, farther, output):
            console.print(f"wrote {made}")


def _chosen(names: list[str], seed: int) -> list[Scenario]:
    from assent.sim.scenarios import SCENARIOS, find, with_seed

    chosen = []
    for name in names:
        one = find(name)
        if one is None:
            known = ", ".join(scenario.name for scenario in SCENARIOS)
            raise InvalidArgument("name", f"{name!r} is no scenario; there are {known}")
        chosen.append(one)
    return [with_seed(one, seed) for one in chosen or SCENARIOS]
