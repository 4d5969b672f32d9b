# SPDX-License-Identifier: Apache-2.0
"""The `assent` command: global options, and the one place where failures end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from assent.cli import (
    bench,
    cells,
    covenant,
    demo,
    dissect,
    explain,
    fabric,
    grants,
    keys,
    perf,
    ping,
    pipe,
    probe,
    relay,
    sessions,
    sim,
    store,
    tokens,
    top,
    transfer,
    version,
    watch,
)
from assent.cli.context import Globals
from assent.cli.failure import EXIT_INTERRUPTED, report


class _Root(TyperGroup):
    """Typer's own way with errors takes several lines, and its exit codes differ by version."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            # A pipe that its reader has closed must fail here, not while the interpreter ends.
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
            code = 1
        except Exception as error:
            code = report(error)
        sys.exit(code)


app = typer.Typer(
    name="assent",
    cls=_Root,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    socket: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The daemon's socket; else $ASSENT_SOCKET, else that of $ASSENT_INSTANCE.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    """Assent, a default-deny network fabric: who may send to this host, and how much."""
    ctx.obj = Globals(socket=socket, json=json)
    if show_version:
        version.show(ctx)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


_NOUNS = (
    fabric,
    watch,
    explain,
    dissect,
    top,
    cells,
    keys,
    grants,
    sessions,
    covenant,
    relay,
    tokens,
    transfer,
    pipe,
    ping,
    perf,
    store,
    demo,
    bench,
    sim,
    probe,
)
for noun in (*_NOUNS, version):
    noun.register(app)


def main() -> None:
    """Runs the command line of this process."""
    # gRPC's core writes its own lines to stderr, beside the one that explains the failure.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="assent")


if __name__ == "__main__":
    main()
