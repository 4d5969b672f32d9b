# SPDX-License-Identifier: Apache-2.0
"""A covenant as people see it: a row of the list, a page of its own, a line of news.

Whatever a peer has written is made one line, in which nothing drives the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assent.cli import covenant_spans as spans
from assent.cli.failure import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from assent.v1.covenants_pb2 import (
        Covenant,
        CovenantNews,
        CovenantPeer,
        CovenantPolicy,
        CovenantProposal,
        Deferral,
        Rejection,
    )

HEADINGS: Final = ("HANDLE", "WITH", "STATE", "VERSION", "CHANGED", "NOTE")
KIND_WIDTH: Final = 18

# A pipe has no width: nothing is folded there.
_UNBOUNDED: Final = 10_000

_STATE_STYLES: Final = {
    "covenanted": "bold green",
    "amending": "bold green",
    "revoking": "bold yellow",
    "offer-received": "bold yellow",
    "deferred": "yellow",
    "terminated": "dim",
    "idle": "dim",
}
_CHANGE_STYLES: Final = {"+": "green", "-": "red", "~": "yellow"}
_KIND_STYLES: Final = {
    "covenanted": "green",
    "amended": "green",
    "cleared": "green",
    "offer-received": "yellow",
    "amending": "yellow",
    "deferred": "yellow",
    "revoking": "yellow",
    "timeout": "yellow",
    "rejected": "magenta",
    "amendment-rejected": "magenta",
    "violation": "red",
    "escalated": "bold red",
    "quarantined": "bold red",
    "failed": "red",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: a label (or a mark), what it says, and the style of it."""

    label: str
    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Some lines under a heading; the first section of a page has none."""

    heading: str
    lines: tuple[Line, ...]
    style: str = "bold"


def state(covenant: Covenant) -> str:
    """The state's name, as in the specification."""
    from assent.cli import render
    from assent.v1.covenants_pb2 import CovenantState

    name = render.enum_name(CovenantState.DESCRIPTOR, covenant.state) or "unknown"
    return name.replace("_", "-")


def others(covenant: Covenant) -> str:
    """The names of the other parties."""
    return ", ".join(_name(peer) for peer in covenant.peers) or "nobody"


def sentence(covenant: Covenant) -> str:
    """One line: what is how with whom."""
    said = f"covenant {covenant.handle} with {others(covenant)} is {state(covenant)}"
    if covenant.version:
        said += f", version {covenant.version}"
    return said


def row(covenant: Covenant) -> tuple[object, ...]:
    """A row under `HEADINGS`."""
    return (
        # No thousands' commas: it is typed back.
        str(covenant.handle),
        others(covenant),
        state(covenant),
        covenant.version or None,
        spans.show_moment(covenant.updated_unix_us) if covenant.updated_unix_us else None,
        note(covenant),
    )


def note(covenant: Covenant) -> str:
    """What an operator should know first; "" where all is as it should be."""
    quarantined = [_name(peer) for peer in covenant.peers if peer.quarantined]
    said = [f"quarantined: {', '.join(quarantined)}"] if quarantined else []
    return "; ".join([*said, *_pending(covenant)])


def _pending(covenant: Covenant) -> list[str]:
    match state(covenant):
        case "offer-received":
            return ["waits for your decision"]
        case "amending" if covenant.amendment_by_us:
            return ["waits for the others"]
        case "amending":
            return ["waits for your decision"]
        case "revoking" if covenant.notice_ends_unix_us:
            return [f"ends {spans.show_moment(covenant.notice_ends_unix_us)}"]
        case "deferred" if covenant.initiator:
            count = len(covenant.questions.questions)
            return [f"{count} question{'s' * (count != 1)} to answer"]
        case "deferred":
            return ["waits for their answer"]
        case "idle" | "terminated" if covenant.reason:
            return [covenant.reason]
    return []


def show(covenant: Covenant) -> None:
    """Prints a covenant's page."""
    _print(page(covenant))


def page(covenant: Covenant) -> list[Section]:
    """What there is to say of a covenant, the most important first."""
    sections = [_head(covenant), *_quarantine(covenant), *_questions(covenant)]
    if covenant.HasField("amendment"):
        sections.append(_amendment(covenant))
    sections.append(_words("terms", covenant.in_words))
    sections.append(_clauses(covenant.proposal))
    if covenant.HasField("rejection"):
        sections += rejection(covenant.rejection)
    return sections


def show_end(covenant: Covenant) -> None:
    """Prints why no covenant came about."""
    why = covenant.reason or "no reason was given"
    sections = [Section("", (Line("", sentence(covenant)), Line("", why)))]
    if covenant.HasField("rejection"):
        sections += rejection(covenant.rejection)
    _print(sections)


def show_terms(version: int, in_words: Iterable[str]) -> None:
    """Prints the terms of a version."""
    _print([_words(f"terms of version {version}", in_words)])


def show_amendment(covenant: Covenant) -> None:
    """Prints what has been proposed."""
    sections = [Section("", (Line("", sentence(covenant)),))]
    if covenant.HasField("amendment"):
        sections.append(_amendment(covenant))
    _print(sections)


def show_questions(covenant: Covenant) -> None:
    """Prints what a peer wants to know."""
    _print([Section("", (Line("", sentence(covenant)),)), *_questions(covenant)])


def rejection(rejected: Rejection) -> list[Section]:
    """Why something was rejected, and what would not have been."""
    why = rejected.justification
    lines = [Line("understood", why.comprehension_proof)]
    lines += [
        Line(reason.severity, f"{reason.term_ref}: {reason.rationale}")
        for reason in why.rejection_reasons
    ]
    lines += [
        Line("evidence", f"{item.source} ({item.type}): {item.content}")
        for item in why.evidence_chain
    ]
    sections = [Section("last rejection", tuple(lines))]
    if rejected.HasField("counter_terms"):
        changes = tuple(map(_change, rejected.counter_changes))
        sections.append(Section("counter-terms", changes or (Line("", "the same terms"),)))
    return sections


def news_parts(news: CovenantNews) -> tuple[str, str, str, str]:
    """A line of news: what comes before the kind, the kind, what comes after it, and its style."""
    covenant = news.covenant
    clock, who = spans.show_clock(news.time_unix_us), one_line(others(covenant))
    before = f"{clock} {covenant.handle:>4} {who:<15} "
    says = [news.text]
    if news.HasField("data"):
        says.append(f"[{news.data.content_type}, {len(news.data.data):,} bytes]")
    if news.HasField("finding"):
        found = news.finding
        says.append(f"[{found.violation_class}, {found.response_level}: {found.description}]")
    kind = one_line(news.kind)
    after = " " + one_line(" ".join(says))
    return before, f"{kind:<{KIND_WIDTH}}", after, _KIND_STYLES.get(kind, "")


def policy_rows(policy: CovenantPolicy) -> dict[str, object]:
    """The bounds of a policy, in words."""
    from assent.cli import sizes

    return {
        "flows": ", ".join(map(str, policy.flows)) or "any",
        "rate": f"up to {sizes.show_blocks(policy.rate_max_blocks_per_second)} blocks a second"
        if policy.rate_max_blocks_per_second
        else "any",
        "burst": f"up to {sizes.show_blocks(policy.burst_max_blocks)} blocks"
        if policy.burst_max_blocks
        else "any",
        "payload": f"up to {policy.payload_max_bytes:,} bytes"
        if policy.payload_max_bytes
        else "any",
        "content types": ", ".join(policy.content_types) or "any",
        "duration": f"up to {spans.show(policy.duration_max_us)}"
        if policy.duration_max_us
        else "any",
        "notice": f"up to {spans.show(policy.notice_max_us)}" if policy.notice_max_us else "any",
        "durable": "accepted too" if policy.durable else "deferred",
        "amendments": "judged too" if policy.amendments else "wait for a decision",
    }


def console() -> Console:
    """For a page: in colour and as wide as the terminal, or neither in a pipe."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else _UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _head(covenant: Covenant) -> Section:
    now = state(covenant)
    lines = [
        Line("state", _state_line(covenant, now), _STATE_STYLES.get(now, "bold")),
        Line("here", f"{covenant.local_name} as {covenant.role}, agent {covenant.agent_id}"),
        *(Line("there", _peer(peer)) for peer in covenant.peers),
    ]
    if covenant.covenant_id:
        lines.append(Line("id", f"{covenant.covenant_id:#010x}"))
    lines.append(Line("runs", _runs(covenant)))
    lines.append(Line("exit", _exit(covenant.proposal)))
    if covenant.reason:
        lines.append(Line("reason", covenant.reason))
    return Section(f"covenant {covenant.handle} with {others(covenant)}", tuple(lines))


def _state_line(covenant: Covenant, now: str) -> str:
    says = [now]
    if covenant.version:
        says.append(f"version {covenant.version}")
        if covenant.created_unix_us:
            says[-1] += f" of {spans.show_moment(covenant.created_unix_us)}"
    if covenant.deferrals:
        says.append(f"deferred {covenant.deferrals} time{'s' * (covenant.deferrals != 1)}")
    if now not in {"idle", "terminated"} and (said := note(covenant)):
        says.append(said)
    return ", ".join(says)


def _peer(peer: CovenantPeer) -> str:
    says = [f"{_name(peer)} as {peer.role}", f"agent {peer.agent_id}"]
    says.append("signed" if peer.bound else "not signed")
    says.append(f"over {peer.link}" if peer.link else "no link")
    return ", ".join(says)


def _runs(covenant: Covenant) -> str:
    duration = covenant.proposal.duration
    says = [
        f"from {spans.show_moment(duration.start_unix_us)}",
        f"to {spans.show_moment(duration.end_unix_us)}" if duration.end_unix_us else "open-ended",
    ]
    if duration.review_interval_us:
        says.append(f"reviewed every {spans.show(duration.review_interval_us)}")
    if duration.max_versions:
        says.append(f"at most {duration.max_versions:,} versions")
    says.append("survives its transport" if covenant.durable else "ends with its transport")
    return ", ".join(says)


def _exit(proposal: CovenantProposal) -> str:
    protocol = proposal.exit_protocol
    span = protocol.notice_period_us
    says = [f"{spans.show(span)} of notice" if span else "no notice"]
    if protocol.mutual_required:
        says.append("all must agree")
    if protocol.fallback_state:
        says.append(f"back to {protocol.fallback_state}")
    return ", ".join(says)


def _quarantine(covenant: Covenant) -> list[Section]:
    lines = tuple(
        Line(_name(peer), peer.quarantined, "red") for peer in covenant.peers if peer.quarantined
    )
    if not lines:
        return []
    how = f"`assent covenant review {covenant.handle} --clear`, or revoke it"
    return [Section("quarantine", (*lines, Line("to end it", how)), "bold red")]


def _questions(covenant: Covenant) -> list[Section]:
    if not covenant.HasField("questions"):
        return []
    asked: Deferral = covenant.questions
    lines = [Line(each.about, each.specificity) for each in asked.questions]
    lines += [Line("needed", what) for what in asked.evidence_needed]
    if asked.current_understanding:
        lines.append(Line("understood", asked.current_understanding))
    return [Section("questions", tuple(lines), "bold yellow")]


def _amendment(covenant: Covenant) -> Section:
    whose = "proposed by this host" if covenant.amendment_by_us else "proposed by the other side"
    changes = tuple(map(_change, covenant.amendment_changes))
    heading = f"amendment to version {covenant.version + 1}, {whose}"
    return Section(heading, changes or (Line("", "nothing changes"),), "bold yellow")


def _words(heading: str, said: Iterable[str]) -> Section:
    return Section(heading, tuple(Line("", text) for text in said) or (Line("", "none"),))


def _clauses(proposal: CovenantProposal) -> Section:
    lines = tuple(
        Line(clause.type, f"{clause.description} (when {clause.trigger}: {clause.action})")
        for clause in proposal.misericordia_clauses
    )
    return Section("misericordia", lines or (Line("", "none"),))


def _change(text: str) -> Line:
    mark, _, rest = text.partition(" ")
    if mark not in _CHANGE_STYLES:
        return Line("", text)
    return Line(mark, rest, _CHANGE_STYLES[mark])


def _name(peer: CovenantPeer) -> str:
    return peer.name or peer.cell.value.hex()[:16] or peer.agent_id


def _print(sections: Iterable[Section]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for at, section in enumerate(sections):
        if at:
            out.print()
        if section.heading:
            out.print(Text(one_line(section.heading), section.style), soft_wrap=True)
        grid = Table.grid(padding=(0, 2, 0, 0))
        has_labels = any(line.label for line in section.lines)
        if section.heading:
            grid.add_column(width=0)
        if has_labels:
            grid.add_column(overflow="fold")
        grid.add_column(overflow="fold")
        for line in section.lines:
            cells = [Text(one_line(line.label), line.style or "dim")] if has_labels else []
            cells.append(Text(one_line(line.text), line.style))
            grid.add_row(*([""] if section.heading else []), *cells)
        out.print(grid)
