# SPDX-License-Identifier: Apache-2.0
"""Failures as people see them: a line that says what is wrong and what to do, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from assent.errors import AssentError, InvalidArgument, LocalError

if TYPE_CHECKING:
    from pathlib import Path

    from assent.client import ApiError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_OWN_LIST = {
    "Cells": "see `assent cells list`",
    "Covenants": "see `assent covenant list` and `assent cells list`",
    "Fabric": "see `assent status` and `ip link`",
    "Grants": "see `assent grants list` and `assent cells list`",
    "Keys": "see `assent keys list`",
    "Sessions": "see `assent sessions list` and `assent cells list`",
}

# What to do, by status and service; a status under "" is the same for all services.
_REMEDIES: dict[tuple[str, str], str] = {
    **{("NOT_FOUND", service): remedy for service, remedy in _OWN_LIST.items()},
    ("ALREADY_EXISTS", "Cells"): "choose another name, or remove it first: see `assent cells list`",
    ("ALREADY_EXISTS", "Keys"): "pass --replace to change it",
    ("INVALID_ARGUMENT", "Grants"): "flows are 1 to 7, a window has 1 to 32767 blocks of 64 bytes",
    ("INVALID_ARGUMENT", ""): "correct it and try again",
    ("RESOURCE_EXHAUSTED", ""): "ask for less or free some: see `assent status`",
    ("FAILED_PRECONDITION", "Covenants"): "see `assent covenant list`",
    ("FAILED_PRECONDITION", ""): "see `assent status` and `assent cells list`",
    ("DEADLINE_EXCEEDED", "Sessions"): (
        "check that the peer is up, knows this cell and has the same pre-shared key"
    ),
    ("DEADLINE_EXCEEDED", ""): "the daemon is slow or stuck: see its log",
    ("PERMISSION_DENIED", ""): "run it as the daemon's user",
    ("UNIMPLEMENTED", ""): "daemon and command differ in version: see `assent status`",
    ("UNAVAILABLE", ""): "try again in a moment",
}
_NO_REMEDY = "see the daemon's log"


class CommandError(LocalError):
    """A command cannot do what it was asked for.

    Attributes:
        remedy: What to do about it.
        exit_code: Of the process.
    """

    def __init__(self, problem: str, remedy: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(problem)
        self.remedy = remedy
        self.exit_code = exit_code


def report(error: BaseException) -> int:
    """Prints the line of a failure to stderr.

    With ASSENT_DEBUG=1 a traceback precedes it.

    Returns:
        The exit code that belongs to it.
    """
    if os.environ.get("ASSENT_DEBUG") == "1":
        traceback.print_exception(error)
    problem, remedy, code = explain(error)
    said = f"{problem}; {remedy}" if remedy else problem
    print(f"assent: {one_line(said)}", file=sys.stderr, flush=True)
    return code


def explain(error: BaseException) -> tuple[str, str, int]:
    """What is wrong, what to do, and the exit code."""
    if isinstance(error, CommandError):
        return str(error), error.remedy, error.exit_code
    if isinstance(error, InvalidArgument):
        return str(error), "correct it and try again", EXIT_USAGE
    if isinstance(error, AssentError):
        return _explain_api(error)
    if hasattr(error, "format_message"):
        # Typer's complaints about the command line; where their class lives depends on its version.
        return _explain_usage(error)
    if isinstance(error, UnicodeEncodeError):
        return "an argument is not valid UTF-8", "correct it and try again", EXIT_USAGE
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror}", "check the path and its permissions", EXIT_FAILED
    return (
        f"unexpected {type(error).__name__}: {error}",
        "this is a bug, ASSENT_DEBUG=1 shows where",
        EXIT_FAILED,
    )


def one_line(text: str) -> str:
    """Text that cannot break a line or drive a terminal: what is not printable is escaped."""
    joined = " ".join(text.split())
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined
    )


def _explain_api(error: AssentError) -> tuple[str, str, int]:
    # Imported by now if it is an API error; the import of grpc is not for those who mistype a flag.
    client = sys.modules.get("assent.client")
    if client is None or not isinstance(error, client.ApiError):
        # Of the package's own layers, in this process: their messages say what to do.
        return str(error), "", EXIT_FAILED
    if isinstance(error, client.DaemonUnreachableError):
        remedy = "name another with --socket, or run it as root or in the daemon's socket_group"
        if error.may_start:
            remedy = (
                f"start the daemon with `{_start(error.socket)}`, or name its socket with --socket"
            )
        return str(error), remedy, EXIT_FAILED
    code = EXIT_USAGE if error.code in {"INVALID_ARGUMENT", "OUT_OF_RANGE"} else EXIT_FAILED
    return str(error), _remedy(error), code


def _start(socket: Path) -> str:
    """The command line of a daemon that would listen at a socket."""
    match socket.parts:
        case ("/", "run", "assent", "default", "api.sock"):
            return "assentd"
        case ("/", "run", "assent", instance, "api.sock"):
            return f"assentd --instance {instance}"
        case _:
            return f"assentd --socket {socket}"


def _remedy(error: ApiError) -> str:
    common = _REMEDIES.get((error.code, ""), _NO_REMEDY)
    return _REMEDIES.get((error.code, error.service), common)


def _explain_usage(error: BaseException) -> tuple[str, str, int]:
    message = str(error.format_message()).strip().rstrip(".")  # type: ignore[attr-defined]
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx is not None else "assent"
    return message[:1].lower() + message[1:], f"see `{command} --help`", EXIT_USAGE
