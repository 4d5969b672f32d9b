# SPDX-License-Identifier: Apache-2.0
"""`assent covenant`: what is agreed on with other agents, and what is still to be decided."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assent.cli import covenant_offer, covenant_policy, covenant_verify, covenant_watch
from assent.cli import covenant_spans as spans
from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.cli.covenant_offer import LocalOption
from assent.cli.covenant_words import Handle, question, reason
from assent.cli.failure import one_line
from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.covenants_pb2 import Covenant

# A frame's payload is smaller.
_DATA_MAX = 256 << 10

Understood = Annotated[
    str, typer.Option(metavar="TEXT", help="What was understood of the offer, in your own words.")
]
Content = Annotated[
    str | None, typer.Argument(metavar="[TEXT]", help="What to send, if it is not in a file.")
]
ContentFile = Annotated[
    str | None, typer.Option("--file", "-f", metavar="FILE|-", help="What to send.")
]
ContentType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="As in text/plain, which it is for TEXT.")
]


def register(root: typer.Typer) -> None:
    """Adds the commands of this module, and of those beside it."""
    noun = typer.Typer(help="Covenants: what is agreed on with other agents, and how it stands.")
    covenant_offer.register(noun)
    noun.command("list")(list_covenants)
    for command in (show, accept, reject, defer, inform, send, review, revoke, rotate):
        noun.command()(command)
    covenant_watch.register(noun)
    noun.command()(evidence)
    noun.command()(export)
    covenant_verify.register(noun)
    covenant_policy.register(noun)
    root.add_typer(noun, name="covenant")


def list_covenants(
    ctx: typer.Context,
    ended: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """List covenants and negotiations, the newest last."""
    from assent.cli import covenant_page, render
    from assent.v1.covenants_pb2 import ListCovenantsRequest, ListCovenantsResponse

    with connect(ctx) as client:
        reply = client.covenants.List(ListCovenantsRequest(ended=ended))
    covenants = sorted(reply.covenants, key=lambda covenant: covenant.handle)
    render.emit(
        wants_json(ctx, json),
        ListCovenantsResponse(covenants=covenants),
        lambda: render.table(
            covenant_page.HEADINGS,
            [covenant_page.row(covenant) for covenant in covenants],
            empty="no covenants: see `assent covenant offer --help`",
        ),
    )


def show(ctx: typer.Context, handle: Handle, json: JsonFlag = False) -> None:
    """Show one covenant: who, how it stands, its terms."""
    from assent.cli import covenant_page, render
    from assent.v1.covenants_pb2 import GetCovenantRequest

    with connect(ctx) as client:
        covenant = client.covenants.Get(GetCovenantRequest(handle=handle))
    render.emit(wants_json(ctx, json), covenant, lambda: covenant_page.show(covenant))


def accept(ctx: typer.Context, handle: Handle, json: JsonFlag = False) -> None:
    """Accept what is on the table: the offer, or the amendment."""
    from assent.v1.covenants_pb2 import AcceptRequest

    with connect(ctx) as client:
        covenant = client.covenants.Accept(AcceptRequest(handle=handle))
    _say(ctx, json, covenant)


def reject(
    ctx: typer.Context,
    handle: Handle,
    because: Annotated[
        list[str],
        typer.Option(
            metavar="TERM: WHY",
            help="May be given again. TERM (insufficient) or (unclear), where it is not wrong.",
        ),
    ],
    understood: Understood,
    counter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Terms that would be accepted, as TOML.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Reject what is on the table, and say why.

    It takes proof that what is rejected was understood.
    """
    from assent.cli import covenant_file
    from assent.v1.covenants_pb2 import Justification, RejectRequest

    request = RejectRequest(
        handle=handle,
        justification=Justification(
            comprehension_proof=_said("--understood", understood),
            rejection_reasons=[reason(text) for text in because],
        ),
        counter_terms=covenant_file.read_terms(counter) if counter is not None else None,
    )
    with connect(ctx) as client:
        covenant = client.covenants.Reject(request)
    _say(ctx, json, covenant)


def defer(
    ctx: typer.Context,
    handle: Handle,
    ask: Annotated[
        list[str], typer.Option(metavar="TERM: WHAT", help="A question; may be given again.")
    ],
    understood: Understood,
    need: Annotated[
        list[str],
        typer.Option(metavar="TEXT", help="Evidence that would settle it; may be given again."),
    ],
    timeout: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long to wait; else as the terms say.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Ask for more before deciding on an offer."""
    from assent.v1.covenants_pb2 import Deferral, DeferRequest

    deferral = Deferral(
        questions=[question(text) for text in ask],
        current_understanding=_said("--understood", understood),
        evidence_needed=[_said("--need", text) for text in need],
        timeout_us=spans.parse("--timeout", timeout) if timeout is not None else 0,
    )
    with connect(ctx) as client:
        covenant = client.covenants.Defer(DeferRequest(handle=handle, deferral=deferral))
    _say(ctx, json, covenant)


def inform(
    ctx: typer.Context,
    handle: Handle,
    text: Content = None,
    file: ContentFile = None,
    content_type: ContentType = None,
    json: JsonFlag = False,
) -> None:
    """Answer the questions of a peer that has deferred."""
    from assent.v1.covenants_pb2 import InformRequest

    kind, data = _content(text, file, content_type)
    with connect(ctx) as client:
        covenant = client.covenants.Inform(
            InformRequest(handle=handle, content_type=kind, data=data)
        )
    _say(ctx, json, covenant)


def send(
    ctx: typer.Context,
    handle: Handle,
    text: Content = None,
    file: ContentFile = None,
    content_type: ContentType = None,
    json: JsonFlag = False,
) -> None:
    """Send a message over the covenant's own transport.

    Files go over a flow, by `assent send`.
    """
    from assent.cli import render
    from assent.v1.covenants_pb2 import SendRequest

    kind, data = _content(text, file, content_type)
    with connect(ctx) as client:
        covenant = client.covenants.Send(SendRequest(handle=handle, content_type=kind, data=data))
    said = f"covenant {covenant.handle}: sent {len(data):,} bytes as {kind}"
    render.emit(wants_json(ctx, json), covenant, lambda: render.line(said))


def review(
    ctx: typer.Context,
    handle: Handle,
    note: Annotated[str, typer.Argument(metavar="[NOTE]", help="For the other side.")] = "",
    clear: Annotated[
        bool, typer.Option("--clear", help="End the quarantine that this host has imposed.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Say how it is doing, without being asked.")
    ] = False,
    request: Annotated[
        bool, typer.Option("--request", help="Ask for a review, as a quarantined agent may.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Ask how a covenant is doing; or say it, or clear its quarantine."""
    from assent.v1.covenants_pb2 import ReviewRequest

    chosen = [
        kind
        for kind, wanted in (("CLEAR", clear), ("REPORT", report), ("REQUEST", request))
        if wanted
    ]
    if len(chosen) > 1:
        raise InvalidArgument("--clear, --report, --request", "only one of them at a time")
    kind = f"REVIEW_KIND_{chosen[0] if chosen else 'CHECK'}"
    with connect(ctx) as client:
        covenant = client.covenants.Review(ReviewRequest(handle=handle, kind=kind, note=note))
    _say(ctx, json, covenant)


def revoke(
    ctx: typer.Context,
    handle: Handle,
    why: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the other side.")],
    now: Annotated[bool, typer.Option("--now", help="At once, without the notice period.")] = False,
    json: JsonFlag = False,
) -> None:
    """End a covenant, after its notice period; or withdraw an offer."""
    from assent.v1.covenants_pb2 import RevokeRequest

    request = RevokeRequest(handle=handle, reason=_said("--reason", why), now=now)
    with connect(ctx) as client:
        covenant = client.covenants.Revoke(request)
    _say(ctx, json, covenant)


def rotate(ctx: typer.Context, local: LocalOption = None, json: JsonFlag = False) -> None:
    """Give a local agent a new key.

    Every covenant that it is bound by is amended; one whose parties do not agree ends.
    """
    from assent.cli import covenant_page, render
    from assent.v1.covenants_pb2 import RotateRequest

    request = RotateRequest(local=cell_ref(local) if local is not None else None)
    with connect(ctx) as client:
        reply = client.covenants.Rotate(request)
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            covenant_page.HEADINGS,
            [covenant_page.row(covenant) for covenant in reply.covenants],
            empty="the key is changed; no covenant had to be amended",
        ),
    )


def evidence(
    ctx: typer.Context,
    handle: Annotated[
        int, typer.Argument(metavar="[HANDLE]", min=0, help="Only of this covenant.")
    ] = 0,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=10_000, metavar="N", help="At most so many.")
    ] = 20,
    json: JsonFlag = False,
) -> None:
    """Show the newest records of the evidence log."""
    from assent.cli import render
    from assent.v1.covenants_pb2 import EvidenceRequest

    with connect(ctx) as client:
        reply = client.covenants.Evidence(EvidenceRequest(count=count, handle=handle))
    records = [jsonlib.loads(record) for record in reply.records]
    if wants_json(ctx, json):
        render.print_json(records)
        return
    for record in records:
        render.line(_record(record))
    if not records:
        render.line("no evidence has been recorded")


def export(
    ctx: typer.Context,
    handle: Handle,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file; never replaced.")
    ],
    json: JsonFlag = False,
) -> None:
    """Write a covenant with all its signatures to a file.

    `assent covenant verify` checks it, on any host.
    """
    from assent.cli import render
    from assent.v1.covenants_pb2 import ExportRequest

    with connect(ctx) as client:
        document = client.covenants.Export(ExportRequest(handle=handle)).document
    with output.open("xb") as file:
        file.write(document)
    if wants_json(ctx, json):
        render.print_json({"file": str(output), "bytes": len(document)})
        return
    render.line(f"{output} holds covenant {handle}: see `assent covenant verify {output}`")


def _say(ctx: typer.Context, json: bool, covenant: Covenant) -> None:
    from assent.cli import covenant_page, render

    said = covenant_page.sentence(covenant)
    if hint := covenant_page.note(covenant):
        said += f": {hint}"
    render.emit(wants_json(ctx, json), covenant, lambda: render.line(said))


def _said(option: str, text: str) -> str:
    if not text.strip():
        raise InvalidArgument(option, "must say something")
    return text.strip()


def _content(text: str | None, file: str | None, content_type: str | None) -> tuple[str, bytes]:
    """The type and the bytes of what is to be sent."""
    if (text is None) == (file is None):
        raise InvalidArgument("TEXT", "or --file is needed, and not both")
    if text is not None:
        data, usual = text.encode(), "text/plain"
    else:
        data, usual = _read(str(file)), "application/octet-stream"
    if len(data) > _DATA_MAX:
        raise InvalidArgument("--file", f"has more than {_DATA_MAX:,} bytes: send it on a flow")
    return content_type if content_type is not None else usual, data


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read(_DATA_MAX + 1)
    with Path(source).open("rb") as file:
        return file.read(_DATA_MAX + 1)


def _record(record: dict[str, Any]) -> str:
    """A record as a line: when, then the rest as the log names it."""
    rest = dict(record)
    inner = rest.pop("record", None)
    if isinstance(inner, dict):
        rest |= inner
    at = rest.pop("at", None)
    says = [spans.show_moment(at)] if isinstance(at, int) else []
    says += [f"{name}={_plain(value)}" for name, value in rest.items() if value not in ("", None)]
    return one_line(" ".join(says))


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value if value and not any(char.isspace() for char in value) else repr(value)
    return jsonlib.dumps(value)
