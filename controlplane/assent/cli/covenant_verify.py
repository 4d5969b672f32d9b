# SPDX-License-Identifier: Apache-2.0
"""`assent covenant verify`: an exported covenant, checked without a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from assent.cli import covenant_spans as spans
from assent.cli.context import JsonFlag, wants_json
from assent.cli.failure import CommandError

if TYPE_CHECKING:
    from assent.covenant.document import Report, Verified

# An export is at most 1 MiB; whatever is longer is none.
_FILE_MAX: Final = (1 << 20) + 1


def register(noun: typer.Typer) -> None:
    """Adds the command of this module."""
    noun.command()(verify)


def verify(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `assent covenant export` has written.")
    ],
    json: JsonFlag = False,
) -> None:
    """Check an exported covenant; needs no daemon.

    All signatures, hashes and versions must hold; else the exit code is 1.
    """
    from assent.cli import render
    from assent.covenant.document import VerifyError, verify_export

    with file.open("rb") as opened:
        raw = opened.read(_FILE_MAX)
    try:
        report = verify_export(raw)
    except VerifyError as error:
        raise CommandError(f"{file} does not hold: {error}", "do not rely on it") from None
    if wants_json(ctx, json):
        render.print_json(_plain(report))
    else:
        _show(file, report)


def _show(file: Path, report: Report) -> None:
    from assent.cli import covenant_page, render

    newest = report.versions[-1].covenant_object
    count, agents = len(report.versions), len(newest.agents)
    render.line(
        f"{file} holds: covenant {report.covenant_id:#010x}, {count} version{'s' * (count != 1)}, "
        f"each signed by all of its {agents} agents"
    )
    render.line("")
    render.table(
        ("VERSION", "MADE", "SHA-256 OF ITS TERMS", "KEY CHANGED"),
        [
            (
                str(each.covenant_object.version),
                spans.show_moment(each.covenant_object.creation_time),
                each.terms_hash.hex(),
                each.rotated and str(each.rotated),
            )
            for each in report.versions
        ],
        empty="",
    )
    render.line("")
    render.table(
        ("AGENT", "ROLE", "PUBLIC KEY"),
        [(str(agent.agent_id), agent.role, agent.public_key.hex()) for agent in newest.agents],
        empty="",
    )
    render.line("")
    covenant_page.show_terms(newest.version, _words(report.versions[-1]))
    render.line("")
    render.line("who the owners of these keys are is not in the file: compare them with yours")


def _words(version: Verified) -> list[str]:
    from assent.covenant.render import describe

    return describe(version.covenant_object.terms)


def _plain(report: Report) -> dict[str, Any]:
    return {
        "covenant_id": report.covenant_id,
        "sha256": report.sha256.hex(),
        "versions": [
            {
                "version": each.covenant_object.version,
                "created_unix_us": each.covenant_object.creation_time,
                "terms_hash": each.terms_hash.hex(),
                "object_hash": each.object_hash.hex(),
                "rotated": str(each.rotated) if each.rotated else None,
                "agents": [
                    {
                        "agent_id": str(agent.agent_id),
                        "role": agent.role,
                        "public_key": agent.public_key.hex(),
                    }
                    for agent in each.covenant_object.agents
                ],
                "in_words": _words(each),
            }
            for each in report.versions
        ],
    }
