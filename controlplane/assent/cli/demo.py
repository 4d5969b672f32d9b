# SPDX-License-Identifier: Apache-2.0
"""`assent demo`: a real file crosses a fabric of three hosts, under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command()(demo)


def demo(
    file: Annotated[
        Path | None,
        typer.Option(help="What to send; else a file of at least 64 MiB that is on this host."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/demo.json"),
) -> None:
    """Lay out three hosts, send a file from one to another, and attack it meanwhile; needs root."""
    from rich.console import Console

    from assent.dataplane.gate import PIN_ROOT
    from assent.demo.run import run
    from assent.service.preflight import check

    check(PIN_ROOT)
    raise typer.Exit(run(file, output, Console()))
