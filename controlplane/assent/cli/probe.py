# SPDX-License-Identifier: Apache-2.0
"""`assent probe`: where fabric frames die outside the gate."""

from __future__ import annotations

import json as codec
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from assent.cli.context import JsonFlag, wants_json

SYSTEM_PYTHON = "/usr/bin/python3"


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(probe)


def probe(
    ctx: typer.Context,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to watch.")] = 10.0,
    json: JsonFlag = False,
) -> None:
    """Watch the kernel's tracepoints for frames that die outside the gate; needs root and BCC."""
    from assent.cli import render

    found = collect(seconds)
    if wants_json(ctx, json):
        render.print_json(found)
        return
    render.table(
        ("TRACEPOINT", "WHERE", "REASON", "FRAMES"),
        [(row["tracepoint"], row["where"], row["reason"], row["count"]) for row in found["deaths"]],
        empty="no fabric frame died outside the gate",
    )


def collect(seconds: float) -> dict[str, Any]:
    """Runs the collector under the system's Python, which has Debian's BCC.

    Returns:
        {"tracepoints": names, "deaths": [{"tracepoint", "where", "reason", "count"}, ...]}.

    Raises:
        CommandError: something is missing; the message names it.
    """
    from assent.cli.failure import CommandError

    script = Path(__file__).resolve().parent.parent / "probe" / "collector.py"
    try:
        done = subprocess.run(
            # -I: nothing of this environment's Python reaches that one.
            [SYSTEM_PYTHON, "-I", str(script), str(seconds)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise CommandError(
            f"{SYSTEM_PYTHON} is missing", "install Debian's package python3"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        problem, _, remedy = (said[-1] if said else "the collector failed").partition(": ")
        raise CommandError(problem, remedy or "run it again as root")
    result: dict[str, Any] = codec.loads(done.stdout)
    return result
