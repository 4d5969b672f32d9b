# SPDX-License-Identifier: Apache-2.0
"""Between the messages of assent.v1.Covenants and the values of the domain.

What the domain's values refuse is refused here too, under the name that the field has in the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from assent.covenant import render
from assent.covenant.payloads import (
    Clause,
    Data,
    Defer,
    Duration,
    Escalate,
    Evidence,
    ExitProtocol,
    Justification,
    Question,
    Reason,
    Reject,
    Violation,
)
from assent.covenant.policy import Policy
from assent.covenant.terms import (
    Burst,
    Constraint,
    DailyWindow,
    Deferrals,
    Limit,
    Obligation,
    Other,
    PayloadSize,
    Permission,
    Rate,
    TermSet,
    TermTimer,
    Unknown,
)
from assent.covenant.values import CovenantNews, CovenantView, PeerView, Proposal
from assent.errors import InvalidArgument
from assent.service.servicers import translate
from assent.v1 import covenants_pb2 as pb

# Schemes of transports, and the paths that each of them may have.
_PATHS: Final = {"wss": ("/covenant",), "h2": ("", "/covenant")}
_SECOND: Final = 1_000_000
"""µs"""
# How a change begins that `render` has put in words, and the mark that stands for it.
_MARKS: Final = {"added": "+", "removed": "-", "changed": "~"}
_REVIEWS: Final[dict[int, str]] = {
    pb.REVIEW_KIND_CHECK: "check",
    pb.REVIEW_KIND_REPORT: "report",
    pb.REVIEW_KIND_REQUEST: "request",
    pb.REVIEW_KIND_CLEAR: "clear",
}

Message = TypeVar("Message")
Value = TypeVar("Value")


# What comes in


def url(field: str, value: str) -> str:
    """Where a peer listens; "" = it is reached over the fabric.

    Raises:
        InvalidArgument: There is no such transport; one without encryption is none.
    """
    if not value:
        return value
    try:
        parts = urlsplit(value)
        usable = (
            parts.path.rstrip("/") in _PATHS.get(parts.scheme, ())
            and bool(parts.hostname)
            # A port that is none raises.
            and parts.port != 0
            and not (parts.username or parts.query or parts.fragment)
        )
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(field, "needs wss://HOST[:PORT]/covenant or h2://HOST[:PORT]")
    return value


def roles(field: str, remotes: Sequence[pb.OfferRemote]) -> tuple[str, ...]:
    """The roles of all remotes; none where none is given.

    Raises:
        InvalidArgument: They are given for some.
    """
    given = tuple(remote.role for remote in remotes)
    if not any(given):
        return ()
    for at, role in enumerate(given):
        if not role:
            raise InvalidArgument(f"{field}[{at}].role", "is missing: others have one")
    return given


def proposal(field: str, message: pb.CovenantProposal, now: int) -> Proposal:
    """What is proposed in an offer.

    Args:
        field: What it is called.
        message: All of it is needed.
        now: When it starts where it does not say: Unix µs.

    Raises:
        InvalidArgument: Something is missing, or cannot be.
    """
    for name in ("terms", "duration", "exit_protocol"):
        if not message.HasField(name):
            raise InvalidArgument(f"{field}.{name}", "is missing")
    if not message.misericordia_clauses:
        raise InvalidArgument(f"{field}.misericordia_clauses", "needs at least one")
    return Proposal(
        terms(f"{field}.terms", message.terms),
        _duration(f"{field}.duration", message.duration, now),
        _all(f"{field}.misericordia_clauses", message.misericordia_clauses, _clause),
        _exit_protocol(f"{field}.exit_protocol", message.exit_protocol),
        message.durable,
    )


def amended(message: pb.AmendRequest, current: Proposal) -> Proposal:
    """What is proposed in place of what is in force.

    Raises:
        InvalidArgument: Nothing would be another, or something cannot be.
    """
    changed = current
    if message.HasField("terms"):
        changed = replace(changed, terms=terms("terms", message.terms))
    if message.HasField("duration"):
        start = current.duration.start
        changed = replace(changed, duration=_duration("duration", message.duration, start))
    if message.misericordia_clauses:
        clauses = _all("misericordia_clauses", message.misericordia_clauses, _clause)
        changed = replace(changed, misericordia_clauses=clauses)
    if message.HasField("exit_protocol"):
        protocol = _exit_protocol("exit_protocol", message.exit_protocol)
        changed = replace(changed, exit_protocol=protocol)
    if changed == current:
        raise InvalidArgument("terms", "or something else must differ from what is in force")
    return changed


def terms(field: str, message: pb.Terms) -> TermSet:
    """A set of terms.

    Raises:
        InvalidArgument: A term is missing something, or cannot be.
    """
    obligations = _all(f"{field}.obligations", message.obligations, _obligation)
    permissions = _all(f"{field}.permissions", message.permissions, _permission)
    constraints = _all(f"{field}.constraints", message.constraints, _constraint)
    return _made(field, lambda: TermSet(obligations, permissions, constraints))


def justification(field: str, message: pb.Justification) -> Justification:
    """Why something is rejected.

    Raises:
        InvalidArgument: There is no reason, or no proof of comprehension.
    """
    reasons = _all(f"{field}.rejection_reasons", message.rejection_reasons, _reason)
    chain = _all(f"{field}.evidence_chain", message.evidence_chain, _evidence)
    return _made(field, lambda: Justification(message.comprehension_proof, reasons, chain))


def deferral(field: str, message: pb.Deferral) -> Defer:
    """What is asked before deciding.

    Raises:
        InvalidArgument: There is no question, or it cannot be one.
    """
    questions = _all(f"{field}.questions", message.questions, _question)
    return _made(
        field,
        lambda: Defer(
            questions,
            message.current_understanding,
            tuple(message.evidence_needed),
            message.timeout_us or None,
        ),
    )


def review_kind(field: str, value: int) -> str:
    """What a review is for.

    Raises:
        InvalidArgument: It is not said, or unknown.
    """
    kind = _REVIEWS.get(value)
    if kind is None:
        raise InvalidArgument(field, "needs CHECK, REPORT, REQUEST or CLEAR")
    return kind


def policy(field: str, message: pb.CovenantPolicy) -> Policy:
    """Bounds for decisions that nobody is asked for.

    Raises:
        InvalidArgument: One of them cannot be.
    """
    return _made(
        field,
        lambda: Policy(
            flows=tuple(message.flows),
            rate_max=message.rate_max_blocks_per_second,
            burst_max=message.burst_max_blocks,
            payload_max=message.payload_max_bytes,
            content_types=tuple(message.content_types),
            duration_max=message.duration_max_us,
            notice_max=message.notice_max_us,
            durable=message.durable,
            amendments=message.amendments,
        ),
    )


def _made(field: str, make: Callable[[], Value]) -> Value:
    """Makes a value; an error names the field as its caller knows it."""
    try:
        return make()
    except InvalidArgument as error:
        inner = f"{field}.{error.field}" if error.field else field
        raise InvalidArgument(inner, error.problem) from None


def _all(
    field: str, messages: Iterable[Message], read: Callable[[str, Message], Value]
) -> tuple[Value, ...]:
    return tuple(read(f"{field}[{at}]", message) for at, message in enumerate(messages))


def _obligation(field: str, message: pb.Obligation) -> Obligation:
    return _made(
        field,
        lambda: Obligation(message.id, message.party, message.duty, message.description),
    )


def _permission(field: str, message: pb.Permission) -> Permission:
    return _made(
        field,
        lambda: Permission(
            message.id,
            message.party,
            message.action,
            tuple(message.flows),
            tuple(message.content_types),
            message.description,
        ),
    )


def _constraint(field: str, message: pb.Constraint) -> Constraint:
    limit = _limit(field, message)
    return _made(field, lambda: Constraint(message.id, message.party, limit, message.description))


def _limit(field: str, message: pb.Constraint) -> Limit:
    kind = message.WhichOneof("limit")
    if kind is None:
        raise InvalidArgument(f"{field}.limit", "is missing: it says what is bounded")
    if kind == "unknown_kind":
        raise InvalidArgument(f"{field}.unknown_kind", "cannot be proposed: it is not known here")
    place = f"{field}.{kind}"
    if kind == "burst":
        return _made(place, lambda: Burst(message.burst.blocks, message.burst.flow))
    if kind == "time_window":
        window = message.time_window
        return _made(
            place, lambda: DailyWindow(window.from_minute, window.to_minute, tuple(window.days))
        )
    if kind == "timer":
        return _made(place, lambda: TermTimer(message.timer.timer, message.timer.microseconds))
    try:
        match kind:
            case "rate_blocks_per_second":
                return Rate(message.rate_blocks_per_second)
            case "payload_bytes":
                return PayloadSize(message.payload_bytes)
            case "deferrals":
                return Deferrals(message.deferrals)
            case _:
                return Other(message.other)
    except InvalidArgument as error:
        # These have one value, which the API gives the name of the whole.
        raise InvalidArgument(place, error.problem) from None


def _duration(field: str, message: pb.CovenantDuration, start: int) -> Duration:
    return _made(
        field,
        lambda: Duration(
            message.start_unix_us or start,
            message.review_interval_us,
            message.end_unix_us,
            message.max_versions,
        ),
    )


def _clause(field: str, message: pb.Clause) -> Clause:
    return _made(
        field,
        lambda: Clause(message.type, message.description, message.trigger, message.action),
    )


def _exit_protocol(field: str, message: pb.ExitProtocol) -> ExitProtocol:
    return _made(
        field,
        lambda: ExitProtocol(
            message.notice_period_us, message.mutual_required, message.fallback_state
        ),
    )


def _reason(field: str, message: pb.RejectionReason) -> Reason:
    return _made(field, lambda: Reason(message.term_ref, message.rationale, message.severity))


def _evidence(field: str, message: pb.EvidenceItem) -> Evidence:
    return _made(
        field,
        lambda: Evidence(message.type, message.content, message.time_unix_us, message.source),
    )


def _question(field: str, message: pb.Question) -> Question:
    return _made(field, lambda: Question(message.about, message.specificity))


# What goes out


def covenant(view: CovenantView) -> pb.Covenant:
    """A covenant, or a negotiation, as it stands."""
    names = _names(view)
    message = pb.Covenant(
        handle=view.handle,
        covenant_id=view.covenant_id,
        state=f"COVENANT_STATE_{view.state.name}",
        local=translate.cell_id(view.local),
        local_name=view.local_name,
        agent_id=str(view.agent_id),
        role=view.role,
        initiator=view.initiator,
        multi=view.multi,
        durable=view.durable,
        version=view.version,
        proposal=_proposal_out(view.proposal),
        in_words=render.describe(view.proposal.terms, names),
        amendment_by_us=view.amendment_by_us,
        peers=[_peer(peer) for peer in view.peers],
        deferrals=view.deferrals,
        created_unix_us=view.created_at,
        notice_ends_unix_us=view.notice_ends,
        reason=view.reason,
        updated_unix_us=view.updated_at,
    )
    if view.amendment is not None:
        message.amendment.CopyFrom(_proposal_out(view.amendment))
        message.amendment_changes.extend(_changes(view.proposal, view.amendment, names))
    if view.questions is not None:
        message.questions.CopyFrom(_deferral_out(view.questions))
    if view.rejection is not None:
        message.rejection.CopyFrom(_rejection(view.rejection, view.proposal.terms, names))
    return message


def news(value: CovenantNews) -> pb.CovenantNews:
    """Something that became of a covenant."""
    message = pb.CovenantNews(
        time_unix_us=value.time,
        kind=value.kind,
        text=value.text,
        covenant=covenant(value.view),
    )
    if value.data is not None:
        message.data.CopyFrom(_data(value.data))
    if value.violation is not None:
        message.finding.CopyFrom(_finding(value.violation))
    return message


def policy_out(value: Policy) -> pb.CovenantPolicy:
    """Bounds for decisions that nobody is asked for."""
    return pb.CovenantPolicy(
        flows=value.flows,
        rate_max_blocks_per_second=value.rate_max,
        burst_max_blocks=value.burst_max,
        payload_max_bytes=value.payload_max,
        content_types=value.content_types,
        duration_max_us=value.duration_max,
        notice_max_us=value.notice_max,
        durable=value.durable,
        amendments=value.amendments,
    )


def record(value: Mapping[str, object]) -> str:
    """A record of the evidence log, as a JSON object."""
    return json.dumps(_plain(value))


def _names(view: CovenantView) -> dict[str, str]:
    """Who plays each role, as this host calls them."""
    names = {peer.role: peer.name for peer in view.peers if peer.name}
    return names | ({view.role: view.local_name} if view.local_name else {})


def _term_changes(old: TermSet, new: TermSet, names: Mapping[str, str]) -> list[str]:
    lines = []
    for line in render.changes(old, new, names):
        kind, _, rest = line.partition(" ")
        lines.append(f"{_MARKS[kind.rstrip(':')]} {rest}")
    return lines


def _changes(old: Proposal, new: Proposal, names: Mapping[str, str]) -> list[str]:
    """What an amendment changes: its terms, and what stands around them."""
    lines = _term_changes(old.terms, new.terms, names)
    for name, before, after in (
        ("reviews", _reviews(old), _reviews(new)),
        ("start", _moment(old.duration.start), _moment(new.duration.start)),
        ("end", _moment(old.duration.end), _moment(new.duration.end)),
        ("versions at most", old.duration.max_versions, new.duration.max_versions),
        ("exit", _exit_words(old.exit_protocol), _exit_words(new.exit_protocol)),
    ):
        if before != after:
            lines.append(f"~ {name}: {before or 'none'} -> {after or 'none'}")
    had, has = old.misericordia_clauses, new.misericordia_clauses
    lines += [f"- {_clause_words(clause)}" for clause in had if clause not in has]
    lines += [f"+ {_clause_words(clause)}" for clause in has if clause not in had]
    return lines


def _reviews(value: Proposal) -> str:
    interval = value.duration.review_interval
    return f"every {render.duration_text(interval)}" if interval else ""


def _moment(unix_us: int) -> str:
    """A time in UTC, to the second; "" for none. One that no calendar has is a number."""
    if not unix_us:
        return ""
    try:
        moment = datetime.fromtimestamp(unix_us // _SECOND, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{unix_us // _SECOND:,} s after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _exit_words(value: ExitProtocol) -> str:
    notice = f"{render.duration_text(value.notice_period)} of notice"
    mutual = ", all must agree" if value.mutual_required else ""
    return f"{notice}{mutual}, back to {value.fallback_state or 'nothing'}"


def _clause_words(value: Clause) -> str:
    return f"{value.type} clause: {value.description}"


def _proposal_out(value: Proposal) -> pb.CovenantProposal:
    return pb.CovenantProposal(
        terms=_terms_out(value.terms),
        duration=pb.CovenantDuration(
            start_unix_us=value.duration.start,
            review_interval_us=value.duration.review_interval,
            end_unix_us=value.duration.end,
            max_versions=value.duration.max_versions,
        ),
        misericordia_clauses=[
            pb.Clause(
                type=clause.type,
                description=clause.description,
                trigger=clause.trigger,
                action=clause.action,
            )
            for clause in value.misericordia_clauses
        ],
        exit_protocol=pb.ExitProtocol(
            notice_period_us=value.exit_protocol.notice_period,
            mutual_required=value.exit_protocol.mutual_required,
            fallback_state=value.exit_protocol.fallback_state,
        ),
        durable=value.durable,
    )


def _terms_out(value: TermSet) -> pb.Terms:
    return pb.Terms(
        obligations=[
            pb.Obligation(
                id=term.id, party=term.party, duty=term.duty, description=term.description
            )
            for term in value.obligations
        ],
        permissions=[
            pb.Permission(
                id=term.id,
                party=term.party,
                action=term.action,
                flows=term.flows,
                content_types=term.content_types,
                description=term.description,
            )
            for term in value.permissions
        ],
        constraints=[_constraint_out(term) for term in value.constraints],
    )


def _constraint_out(term: Constraint) -> pb.Constraint:
    message = pb.Constraint(id=term.id, party=term.party, description=term.description)
    match term.limit:
        case Rate(blocks_per_second=rate):
            message.rate_blocks_per_second = rate
        case Burst(blocks=blocks, flow=flow):
            message.burst.CopyFrom(pb.Burst(blocks=blocks, flow=flow))
        case PayloadSize(bytes=size):
            message.payload_bytes = size
        case DailyWindow() as window:
            message.time_window.from_minute = window.from_minute
            message.time_window.to_minute = window.to_minute
            message.time_window.days.extend(window.days)
        case TermTimer(timer=timer, microseconds=microseconds):
            message.timer.CopyFrom(pb.TimerTerm(timer=timer, microseconds=microseconds))
        case Deferrals(count=count):
            message.deferrals = count
        case Other(value=value):
            message.other = value
        case Unknown(name=name):
            message.unknown_kind = name
    return message


def _peer(peer: PeerView) -> pb.CovenantPeer:
    return pb.CovenantPeer(
        agent_id=str(peer.agent_id),
        name=peer.name,
        role=peer.role,
        public_key=peer.public_key,
        cell=translate.cell_id(peer.cell),
        bound=peer.bound,
        quarantined=peer.quarantined,
        link=peer.link,
    )


def _deferral_out(value: Defer) -> pb.Deferral:
    return pb.Deferral(
        questions=[
            pb.Question(about=each.about, specificity=each.specificity) for each in value.questions
        ],
        current_understanding=value.current_understanding,
        evidence_needed=value.evidence_needed,
        timeout_us=value.timeout or 0,
    )


def _rejection(value: Reject, current: TermSet, names: Mapping[str, str]) -> pb.Rejection:
    message = pb.Rejection()
    if value.justification is not None:
        why = value.justification
        message.justification.CopyFrom(
            pb.Justification(
                comprehension_proof=why.comprehension_proof,
                rejection_reasons=[
                    pb.RejectionReason(
                        term_ref=each.term_ref, rationale=each.rationale, severity=each.severity
                    )
                    for each in why.rejection_reasons
                ],
                evidence_chain=_evidence_out(why.evidence_chain),
            )
        )
    if value.counter_terms is not None:
        message.counter_terms.CopyFrom(_terms_out(value.counter_terms))
        message.counter_changes.extend(_term_changes(current, value.counter_terms, names))
    return message


def _evidence_out(chain: Iterable[Evidence]) -> list[pb.EvidenceItem]:
    return [
        pb.EvidenceItem(
            type=each.type,
            content=_text(each.content),
            time_unix_us=each.timestamp,
            source=each.source,
        )
        for each in chain
    ]


def _data(value: Data) -> pb.CovenantData:
    return pb.CovenantData(content_type=value.content_type, data=value.data)


def _finding(value: Violation | Escalate) -> pb.Finding:
    if isinstance(value, Escalate):
        return pb.Finding(
            violation_class=value.threat_class,
            agent_id=str(value.subject_agent),
            response_level="escalate",
            description=value.description,
            evidence_chain=_evidence_out(value.evidence_chain),
        )
    return pb.Finding(
        violation_class=value.violation_class,
        agent_id=str(value.violating_agent),
        response_level=value.response_level,
        description=value.description,
        evidence_chain=_evidence_out(value.evidence_chain),
    )


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(_plain(content))


def _plain(value: object) -> object:
    """What JSON can hold of a value: bytes are hexadecimal, and what it has no form for is text."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else _text(key): _plain(each) for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value)
