# SPDX-License-Identifier: Apache-2.0
"""Decisions that a host makes by itself: within bounds an offer is accepted, else it is deferred.

A policy bounds what the others may send to us; what they let us send binds nobody to send it. It
never forces a decision: what lies outside is asked about once, and where people do not decide
otherwise upon the answer, the offer is rejected with the same reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import cbor2

from assent.covenant.fields import NAME_MAX
from assent.covenant.payloads import Defer, Justification, Question, Reason
from assent.covenant.terms import Allowance, allowance
from assent.covenant.values import Proposal
from assent.errors import InvalidArgument

_FLOW_MAX: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The bounds within which an offer is accepted; 0 and empty: not bounded.

    Attributes:
        flows: On which others may send to us.
        rate_max: Blocks of 64 bytes a second; an offer without a rate lies outside.
        burst_max: Blocks on a flow.
        payload_max: Bytes; an offer without a bound lies outside.
        content_types: That may be sent to us; "type/*" for all subtypes.
        duration_max: µs from now; an offer without an end lies outside.
        notice_max: µs of notice.
        durable: It may outlive its transport.
        amendments: Amendments are judged as well; else they wait for the operator.

    Raises:
        InvalidArgument: A bound makes no sense.
    """

    flows: tuple[int, ...] = ()
    rate_max: int = 0
    burst_max: int = 0
    payload_max: int = 0
    content_types: tuple[str, ...] = ()
    duration_max: int = 0
    notice_max: int = 0
    durable: bool = True
    amendments: bool = False

    def __post_init__(self) -> None:
        for flow in self.flows:
            if not 1 <= flow <= _FLOW_MAX:
                raise InvalidArgument("flows", f"are 1 to {_FLOW_MAX}, not {flow}")
        for name in ("rate_max", "burst_max", "payload_max", "duration_max", "notice_max"):
            if getattr(self, name) < 0:
                raise InvalidArgument(name, "cannot be negative")
        for kind in self.content_types:
            if kind.count("/") != 1:
                raise InvalidArgument("content_types", f"{kind!r} is not type/subtype")

    def encode(self) -> bytes:
        """For the store."""
        body = {each.name: getattr(self, each.name) for each in fields(self)}
        return cbor2.dumps(body, canonical=True)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """What `encode` made."""
        body: Mapping[str, Any] = cbor2.loads(raw)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in body.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Excess:
    """What of an offer lies outside a policy.

    Attributes:
        about: The term.
        wanted: What would lie inside.
    """

    about: str
    wanted: str


def judge(policy: Policy, proposal: Proposal, senders: Iterable[str], unix_us: int) -> list[Excess]:
    """What of an offer lies outside a policy; nothing: it can be accepted.

    Args:
        policy: The bounds.
        proposal: What is on the table.
        senders: The roles of the others.
        unix_us: Now.
    """
    found = list(_of_the_whole(policy, proposal, unix_us))
    for role in senders:
        found += _of_sender(policy, role, allowance(proposal.terms, role))
    return found


def questions(excess: Iterable[Excess]) -> Defer:
    """The DEFER that asks about what lies outside."""
    listed = list(excess)
    return Defer(
        tuple(Question(one.about, one.wanted) for one in listed),
        "The offer is understood; parts of it lie outside of what this host accepts by itself.",
        tuple(f"{one.about}: {one.wanted}" for one in listed),
    )


def refusal(excess: Iterable[Excess]) -> Justification:
    """The justification of a REJECT for what lies outside."""
    return Justification(
        "The offer is understood; parts of it lie outside of what this host accepts.",
        tuple(Reason(_short(one.about), f"needed: {one.wanted}", "incompatible") for one in excess),
        (),
    )


def _of_the_whole(policy: Policy, proposal: Proposal, unix_us: int) -> Iterator[Excess]:
    if proposal.durable and not policy.durable:
        yield Excess("durable", "a covenant that ends with its transport")
    end = proposal.duration.end
    if policy.duration_max and not 0 < end <= unix_us + policy.duration_max:
        yield Excess("duration", f"an end within {policy.duration_max / 1e6:g} s")
    if policy.notice_max and proposal.exit_protocol.notice_period > policy.notice_max:
        yield Excess("exit_protocol", f"a notice period of at most {policy.notice_max / 1e6:g} s")


def _of_sender(policy: Policy, role: str, sent: Allowance) -> Iterator[Excess]:
    if not sent.flows:
        return
    about = f"what {role} may send"
    if policy.flows and (outside := sorted(set(sent.flows) - set(policy.flows))):
        yield Excess(about, f"no flow {', '.join(map(str, outside))}")
    rate = sent.rate_blocks_per_second
    if policy.rate_max and not 0 < rate <= policy.rate_max:
        yield Excess(about, f"a rate of at most {policy.rate_max} blocks/s")
    if policy.burst_max and max(sent.flows.values()) > policy.burst_max:
        yield Excess(about, f"a burst of at most {policy.burst_max} blocks")
    if policy.payload_max and not 0 < sent.payload_max <= policy.payload_max:
        yield Excess(about, f"payloads of at most {policy.payload_max} bytes")
    if policy.content_types:
        allowed = policy.content_types
        outside_types = [kind for kind in sent.content_types if not _covered(kind, allowed)]
        if outside_types or not sent.content_types:
            yield Excess(about, f"content types among {', '.join(allowed)}")


def _short(about: str) -> str:
    """A reference to a term is no longer than a name; a role may be as long as that alone."""
    return about.encode()[:NAME_MAX].decode(errors="ignore")


def _covered(kind: str, allowed: tuple[str, ...]) -> bool:
    family = kind.partition("/")[0] + "/*"
    return kind in allowed or family in allowed or "*/*" in allowed
