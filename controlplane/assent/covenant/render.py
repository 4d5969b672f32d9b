# SPDX-License-Identifier: Apache-2.0
"""The terms of a covenant in words: one line a term, and what a change of terms changes.

Blocks are those of the fabric, 64 bytes each; sizes are decimal (1 kB is 1,000 bytes), times of day
are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from assent.covenant.terms import (
    ALL,
    SEND,
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
    allowance,
)

BLOCK_LEN: Final = 64

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_UNITS: Final = (
    ("day", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
)
_WAITS: Final[Mapping[str, str]] = {
    "T_offer": "an offer waits {} for an answer",
    "T_defer": "a deferred offer waits {} for more information",
    "T_bind": "a bind waits {} for the other side's",
    "T_heartbeat": "a heartbeat is sent every {}",
    "T_heartbeat_timeout": "who is silent for {} counts as gone",
    "T_amend": "an amendment waits {} for an answer",
    "T_clock_skew": "a frame may come up to {} late",
}

Term = Obligation | Permission | Constraint


def describe(terms: TermSet, names: Mapping[str, str] | None = None) -> list[str]:
    """The terms, one line each: first what each party may send, then term by term.

    Args:
        terms: What to describe.
        names: Who plays a role, where that says more than the role does.
    """
    named = names or {}
    lines = [_summary(terms, role, named) for role in _senders(terms)]
    return lines + [f"{term.id}: {_sentence(term, named)}" for term in _all(terms)]


def changes(old: TermSet, new: TermSet, names: Mapping[str, str] | None = None) -> list[str]:
    """What a change of terms changes, one line each; none if they say the same.

    Args:
        old: The terms so far.
        new: The terms from then on.
        names: Who plays a role, where that says more than the role does.
    """
    named = names or {}
    before = {term.id: term for term in _all(old)}
    after = {term.id: term for term in _all(new)}
    lines = []
    for key, term in before.items():
        if key not in after:
            lines.append(f"removed {key}: {_sentence(term, named)}")
    for key, term in after.items():
        if key not in before:
            lines.append(f"added {key}: {_sentence(term, named)}")
        elif term != before[key]:
            lines.append(f"changed {key}: {_difference(before[key], term, named)}")
    if old.extensions != new.extensions:
        lines.append("changed: what the terms say beyond what is understood here")
    return lines


def duration_text(microseconds: int) -> str:
    """A length of time in the largest units that say it exactly, as in "1 min 30 s"."""
    left, words = microseconds, []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        if count:
            words.append(f"{count:,} {unit}{'s' if unit == 'day' and count > 1 else ''}")
    if left or not words:
        words.append(f"{left} µs")
    return " ".join(words)


def size_text(size: int) -> str:
    """A number of bytes with three digits that count, as in "65.5 kB"."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1_000
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def _all(terms: TermSet) -> Iterator[Term]:
    yield from terms.obligations
    yield from terms.permissions
    yield from terms.constraints


def _senders(terms: TermSet) -> list[str]:
    roles = [each.party for each in terms.permissions if each.action == SEND]
    return list(dict.fromkeys(roles))


def _who(party: str, names: Mapping[str, str]) -> str:
    return "every party" if party == ALL else names.get(party, party)


def _summary(terms: TermSet, role: str, names: Mapping[str, str]) -> str:
    """What a party may send, all its terms taken together."""
    allowed = allowance(terms, role)
    flows = ", ".join(map(str, allowed.flows))
    rate = allowed.rate_blocks_per_second
    parts = [f"at most {_rate(rate)}" if rate else "at any rate"]
    bursts = sorted(set(allowed.flows.values()))
    if len(bursts) == 1:
        parts.append(f"{_blocks(bursts[0])} under way")
    else:
        each = ", ".join(f"{blocks:,} on {flow}" for flow, blocks in allowed.flows.items())
        parts.append(f"blocks under way: {each}")
    if allowed.payload_max:
        parts.append(f"payloads up to {size_text(allowed.payload_max)}")
    parts.append(", ".join(allowed.content_types) or "any content")
    parts.append(" and ".join(map(_window, allowed.windows)) or "at any time")
    plural = "s" if len(allowed.flows) > 1 else ""
    return f"{_who(role, names)} may send on flow{plural} {flows}: {'; '.join(parts)}"


def _sentence(term: Term, names: Mapping[str, str]) -> str:
    who = _who(term.party, names)
    match term:
        case Obligation():
            text = f"{who} owes: {term.duty}"
        case Permission():
            text = f"{who} may {_permission(term)}"
        case Constraint(limit=TermTimer() | Deferrals() | Other() | Unknown()):
            text = _limit(term.limit)
        case Constraint():
            text = f"{who} sends {_limit(term.limit)}"
    described = f"{text} ({term.description})" if term.description else text
    if not term.extensions or isinstance(getattr(term, "limit", None), Unknown):
        return described
    return f"{described}; says more than is understood here: {', '.join(term.extensions)}"


def _permission(term: Permission) -> str:
    flows = f" on flow{'s' if len(term.flows) > 1 else ''} {_listed(term.flows, '')}"
    where = flows if term.flows else ""
    content = _listed(term.content_types, "any content")
    return f"{term.action}{where}: {content}" if term.action == SEND else f"{term.action}{where}"


def _limit(limit: Limit) -> str:
    match limit:
        case Rate(blocks):
            return f"at most {_rate(blocks)}"
        case Burst(blocks, flow):
            where = f"on flow {flow}" if flow else "on each flow"
            return f"with at most {_blocks(blocks)} under way {where}"
        case PayloadSize(size):
            return f"payloads of at most {size:,} bytes"
        case DailyWindow():
            return _window(limit)
        case TermTimer(timer, microseconds):
            return _WAITS[timer].format(duration_text(microseconds))
        case Deferrals(count):
            return f"an offer may be deferred {count} time{'' if count == 1 else 's'}"
        case Other(value):
            return f"{value} (not enforced by the gate)"
        case Unknown(name):
            return f"a constraint of the kind {name!r}, not understood here and not enforced"


def _rate(blocks: int) -> str:
    return f"{blocks:,} block{'' if blocks == 1 else 's'}/s ({size_text(blocks * BLOCK_LEN)}/s)"


def _blocks(blocks: int) -> str:
    return f"{blocks:,} block{'' if blocks == 1 else 's'} ({size_text(blocks * BLOCK_LEN)})"


def _window(window: DailyWindow) -> str:
    begins, ends = _clock(window.from_minute), _clock(window.to_minute)
    ends += " the next day" if window.to_minute < window.from_minute else ""
    return f"{_days(window.days)} from {begins} to {ends} UTC"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days(days: Sequence[int]) -> str:
    """Runs of three days and more as their ends: "Mon to Fri, Sun"."""
    if len(days) == len(_DAYS):
        return "daily"
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    words = []
    for run in runs:
        names = [_DAYS[day] for day in run]
        words += [f"{names[0]} to {names[-1]}"] if len(run) > 2 else names
    return ", ".join(words)


def _difference(old: Term, new: Term, names: Mapping[str, str]) -> str:
    """Field by field where both are of one kind; else the whole of both."""
    if type(old) is not type(new) or getattr(old, "kind", "") != getattr(new, "kind", ""):
        return f"{_sentence(old, names)} -> {_sentence(new, names)}"
    found = []
    if old.party != new.party:
        found.append(f"party: {_who(old.party, names)} -> {_who(new.party, names)}")
    if isinstance(old, Obligation) and isinstance(new, Obligation) and old.duty != new.duty:
        found.append(f"duty: {old.duty} -> {new.duty}")
    if isinstance(old, Permission) and isinstance(new, Permission):
        found += _permission_difference(old, new)
    if isinstance(old, Constraint) and isinstance(new, Constraint) and old.limit != new.limit:
        found.append(f"{_limit(old.limit)} -> {_limit(new.limit)}")
    if old.description != new.description:
        found.append(f"description: {old.description or 'none'} -> {new.description or 'none'}")
    if old.extensions != new.extensions:
        found.append("what it says beyond what is understood here")
    return "; ".join(found)


def _permission_difference(old: Permission, new: Permission) -> Iterator[str]:
    if old.action != new.action:
        yield f"action: {old.action} -> {new.action}"
    if old.flows != new.flows:
        yield f"flows: {_listed(old.flows, 'none')} -> {_listed(new.flows, 'none')}"
    if old.content_types != new.content_types:
        yield f"content: {_listed(old.content_types, 'any')} -> {_listed(new.content_types, 'any')}"


def _listed(values: Sequence[object], none: str) -> str:
    return ", ".join(map(str, values)) or none
