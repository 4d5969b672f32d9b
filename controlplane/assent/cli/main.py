# SPDX-License-Identifier: Apache-2.0
"""The `assent` command: global options, and the one place where failures end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_name, get_group

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
    version,
)
_STYLE: Any = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


class _Commands(Mapping[str, Any]):
    """The commands by name, each built when it is asked for.

    To build them all takes longer than nearly any of them runs.
    """

    def __init__(self) -> None:
        whole = typer.Typer()
        for noun in _NOUNS:
            noun.register(whole)
        self._parts: dict[str, typer.Typer] = {}
        for command in whole.registered_commands:
            name = command.name or get_command_name(getattr(command.callback, "__name__", ""))
            self._part(name).registered_commands.append(command)
        for group in whole.registered_groups:
            self._part(str(group.name)).registered_groups.append(group)
        self._built: dict[str, Any] = {}

    def _part(self, name: str) -> typer.Typer:
        return self._parts.setdefault(name, typer.Typer(**_STYLE))

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = get_group(self._parts[name]).commands[name]
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class _Root(TyperGroup):
    """Typer's own way with errors takes several lines, and its exit codes differ by version."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = _Commands()  # type: ignore[assignment]

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
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_STYLE,
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


def main() -> None:
    """Runs the command line of this process."""
    # gRPC's core writes its own lines to stderr, beside the one that explains the failure.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="assent")


if __name__ == "__main__":
    main()
