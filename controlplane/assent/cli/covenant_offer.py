# SPDX-License-Identifier: Apache-2.0
"""`assent covenant offer` and `amend`: what is proposed, and what becomes of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from assent.cli import covenant_spans as spans
from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.cli.covenant_words import Handle, split_pair
from assent.cli.failure import EXIT_FAILED, CommandError
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from assent.client import Client
    from assent.v1.covenants_pb2 import Covenant, CovenantProposal, OfferRemote

# Of each scheme, the paths that it may have.
_PATHS: Final = {"wss": ("/covenant",), "h2": ("", "/covenant")}
_AGREED: Final = frozenset({"covenanted", "amending", "revoking"})
_ENDED: Final = frozenset({"idle", "terminated"})

NoticeOption = Annotated[
    str | None,
    typer.Option(metavar="SPAN", help="How long it still holds once revoked, as in 30s or 5m."),
]
ReviewOption = Annotated[
    str | None, typer.Option(metavar="SPAN", help="From one review to the next, as in 7d.")
]
EndOption = Annotated[
    str | None, typer.Option(metavar="SPAN|TIME", help="When it ends by itself; 0s = never.")
]
LocalOption = Annotated[
    str | None, typer.Option(metavar="CELL", help="The local cell, where there are several.")
]


def register(noun: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun.command()(offer)
    noun.command()(amend)


def offer(
    ctx: typer.Context,
    remotes: Annotated[
        list[str], typer.Argument(metavar="REMOTE", help="Names or ids of the other cells.")
    ],
    terms: Annotated[
        Path, typer.Option(metavar="FILE", help="What is proposed, as TOML: see docs/covenants.md.")
    ],
    via: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[REMOTE=]URL",
            help="wss://HOST[:PORT]/covenant or h2://HOST[:PORT]; over the fabric if left out.",
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="[REMOTE=]ROLE", help="Of the other party; else responder."),
    ] = None,
    local: LocalOption = None,
    durable: Annotated[
        bool | None,
        typer.Option("--durable/--no-durable", help="It survives its transport and a restart."),
    ] = None,
    notice: NoticeOption = None,
    review_interval: ReviewOption = None,
    end: EndOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is agreed on; exit code 1 if it is not.")
    ] = False,
    timeout: Annotated[str, typer.Option(metavar="SPAN", help="How long to wait.")] = "3m",
    json: JsonFlag = False,
) -> None:
    """Offer a covenant to one agent or more. What is said here goes before what the file says."""
    from assent.cli import covenant_page, render
    from assent.v1.covenants_pb2 import OfferRequest

    proposal = _proposal(terms)
    _override(proposal, notice, review_interval, end)
    if durable is not None:
        proposal.durable = durable
    request = OfferRequest(
        local=cell_ref(local) if local is not None else None,
        remotes=_remotes(remotes, via or [], role or []),
        proposal=proposal,
    )
    as_json = wants_json(ctx, json)
    seconds = _seconds(timeout)
    with connect(ctx) as client:
        covenant = client.covenants.Offer(request)
        if not wait:
            said = covenant_page.sentence(covenant)
            render.emit(as_json, covenant, lambda: render.line(said))
            return
        covenant = _outcome(client, covenant, seconds, quiet=as_json)
    agreed = covenant_page.state(covenant) in _AGREED
    if as_json:
        render.print_json(render.to_dict(covenant))
    elif agreed:
        render.line(covenant_page.sentence(covenant))
    else:
        covenant_page.show_end(covenant)
    if not agreed:
        raise typer.Exit(EXIT_FAILED)


def amend(
    ctx: typer.Context,
    handle: Handle,
    terms: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What shall be otherwise, as TOML.")
    ] = None,
    notice: NoticeOption = None,
    review_interval: ReviewOption = None,
    end: EndOption = None,
    json: JsonFlag = False,
) -> None:
    """Propose a change; what is not said stays as it is."""
    from assent.cli import covenant_file, covenant_page, render
    from assent.v1.covenants_pb2 import AmendRequest, CovenantProposal

    if terms is None and notice is None and review_interval is None and end is None:
        raise InvalidArgument("--terms", "or another option is needed: nothing would change")
    proposal = covenant_file.read(terms) if terms is not None else CovenantProposal()
    if proposal.durable:
        raise InvalidArgument("durable", "is settled by the offer, and cannot be amended")
    with connect(ctx) as client:
        _fill(client, handle, proposal, notice, review_interval, end)
        covenant = client.covenants.Amend(
            AmendRequest(
                handle=handle,
                terms=proposal.terms if proposal.HasField("terms") else None,
                duration=proposal.duration if proposal.HasField("duration") else None,
                misericordia_clauses=proposal.misericordia_clauses,
                exit_protocol=(
                    proposal.exit_protocol if proposal.HasField("exit_protocol") else None
                ),
            )
        )
    render.emit(wants_json(ctx, json), covenant, lambda: covenant_page.show_amendment(covenant))


def _proposal(terms: Path) -> CovenantProposal:
    """What the file proposes, with the usual duration and exit where it is silent on them."""
    from assent.cli import covenant_file
    from assent.v1.covenants_pb2 import CovenantDuration, ExitProtocol

    proposal = covenant_file.read(terms)
    if not proposal.HasField("terms"):
        raise InvalidArgument(str(terms), "has no obligations, permissions or constraints")
    if not proposal.misericordia_clauses:
        raise InvalidArgument("clauses", "needs at least one: what protects an agent at risk")
    if not proposal.HasField("duration"):
        proposal.duration.CopyFrom(
            CovenantDuration(review_interval_us=covenant_file.DEFAULT_REVIEW_US)
        )
    if not proposal.HasField("exit_protocol"):
        proposal.exit_protocol.CopyFrom(
            ExitProtocol(
                notice_period_us=covenant_file.DEFAULT_NOTICE_US,
                fallback_state=covenant_file.DEFAULT_FALLBACK,
            )
        )
    return proposal


def _fill(
    client: Client,
    handle: int,
    proposal: CovenantProposal,
    notice: str | None,
    review_interval: str | None,
    end: str | None,
) -> None:
    """A duration or exit of which one thing changes is otherwise that in force."""
    from assent.v1.covenants_pb2 import CovenantProposal, GetCovenantRequest

    # Bad options ask nothing.
    _override(CovenantProposal(), notice, review_interval, end)
    for_exit = notice is not None and not proposal.HasField("exit_protocol")
    for_duration = (review_interval, end) != (None, None) and not proposal.HasField("duration")
    if for_exit or for_duration:
        now = client.covenants.Get(GetCovenantRequest(handle=handle)).proposal
        if for_exit:
            proposal.exit_protocol.CopyFrom(now.exit_protocol)
        if for_duration:
            proposal.duration.CopyFrom(now.duration)
    _override(proposal, notice, review_interval, end)


def _override(
    proposal: CovenantProposal, notice: str | None, review_interval: str | None, end: str | None
) -> None:
    if notice is not None:
        proposal.exit_protocol.notice_period_us = spans.parse("--notice", notice)
    if review_interval is not None:
        span = spans.parse("--review-interval", review_interval)
        proposal.duration.review_interval_us = span
    if end is not None:
        now = spans.now()
        moment = spans.parse_moment("--end", end, now)
        proposal.duration.end_unix_us = 0 if moment == now else moment


def _remotes(names: list[str], via: list[str], roles: list[str]) -> list[OfferRemote]:
    from assent.v1.covenants_pb2 import OfferRemote

    if len(set(names)) < len(names):
        raise InvalidArgument("REMOTE", "is named twice")
    urls = _by_remote("--via", names, via, _url)
    parts = _by_remote("--role", names, roles, lambda _, role: role)
    return [
        OfferRemote(cell=cell_ref(name), url=urls.get(name, ""), role=parts.get(name, ""))
        for name in names
    ]


def _by_remote(
    option: str, names: list[str], values: list[str], check: Callable[[str, str], str]
) -> dict[str, str]:
    """Values by the remote that each is for, which need not be named where there is but one."""
    found: dict[str, str] = {}
    for value in values:
        name, said = split_pair(value, "=")
        if not said:
            if len(names) > 1:
                raise InvalidArgument(option, "needs REMOTE= before it where there are several")
            name, said = names[0], value
        if name not in names:
            raise InvalidArgument(option, f"{name} is not among the remotes")
        if name in found:
            raise InvalidArgument(option, f"is given twice for {name}")
        found[name] = check(option, said)
    return found


def _url(option: str, url: str) -> str:
    """A transport that there is; one without encryption is not even tried."""
    try:
        parts = urlsplit(url)
        usable = parts.path.rstrip("/") in _PATHS.get(parts.scheme, ()) and bool(parts.hostname)
        # A port that is none raises.
        usable = usable and parts.port != 0 and not parts.query
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(option, "needs wss://HOST[:PORT]/covenant or h2://HOST[:PORT]")
    return url


def _seconds(timeout: str) -> float:
    span = spans.parse("--timeout", timeout)
    if not span:
        raise InvalidArgument("--timeout", "needs more than no time")
    return span / spans.SECOND_US


def _outcome(client: Client, covenant: Covenant, seconds: float, *, quiet: bool) -> Covenant:
    """Waits until it is decided.

    Raises:
        CommandError: It is not, in that time.
    """
    from assent.cli import covenant_page
    from assent.client import ApiError
    from assent.v1.covenants_pb2 import GetCovenantRequest, WatchCovenantsRequest

    deadline = time.monotonic() + seconds
    call = client.covenants.Watch(WatchCovenantsRequest(handle=covenant.handle), timeout=seconds)
    try:
        # Once it says that it watches, nothing is missed between this look and the first news.
        call.initial_metadata()
        covenant = client.covenants.Get(GetCovenantRequest(handle=covenant.handle))
        while covenant_page.state(covenant) not in _AGREED | _ENDED:
            news = next(call, None)
            if news is None:
                break
            covenant = news.covenant
            if news.kind == "deferred" and not quiet:
                covenant_page.show_questions(covenant)
                sys.stdout.flush()
    except ApiError as error:
        if error.code != "DEADLINE_EXCEEDED" or time.monotonic() < deadline:
            raise
        # Of news that got lost, nobody tells.
        covenant = client.covenants.Get(GetCovenantRequest(handle=covenant.handle))
    finally:
        call.cancel()
    if covenant_page.state(covenant) not in _AGREED | _ENDED:
        raise CommandError(
            f"{covenant_page.sentence(covenant)} after {seconds:g} s",
            f"it is still open: see `assent covenant show {covenant.handle}`",
        )
    return covenant
