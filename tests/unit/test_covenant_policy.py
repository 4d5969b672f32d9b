# SPDX-License-Identifier: Apache-2.0
"""covenant/policy.py: what a host accepts by itself, at the bounds."""

from __future__ import annotations

import pytest

from assent.covenant.payloads import Clause, Duration, ExitProtocol
from assent.covenant.policy import Policy, judge, questions, refusal
from assent.covenant.terms import Burst, Constraint, Limit, PayloadSize, Permission, Rate, TermSet
from assent.covenant.values import Proposal
from assent.errors import InvalidArgument

NOW = 1_780_000_000_000_000
SECOND = 1_000_000
ROLE = "initiator"


def wanted(
    *limits: Limit,
    flows: tuple[int, ...] = (1,),
    types: tuple[str, ...] = ("text/plain",),
    end: int = 0,
    notice: int = 0,
    durable: bool = False,
    party: str = ROLE,
) -> Proposal:
    """An offer of somebody who wants to send."""
    terms = TermSet(
        (),
        (Permission("push", party, "send", flows, types),),
        tuple(Constraint(f"limit{at}", party, each) for at, each in enumerate(limits)),
    )
    return Proposal(
        terms,
        Duration(0, 0, end),
        (Clause("protection", "d", "t", "a"),),
        ExitProtocol(notice, False, "isolated"),
        durable,
    )


def outside(policy: Policy, proposal: Proposal) -> list[str]:
    """What lies outside, by name."""
    return [one.about for one in judge(policy, proposal, [ROLE], NOW)]


SENDING = [f"what {ROLE} may send"]
CASES: list[tuple[Policy, Proposal, list[str]]] = [
    (Policy(), wanted(flows=(1, 7), durable=True), []),
    (Policy(flows=(1, 2)), wanted(flows=(1, 2)), []),
    (Policy(flows=(1,)), wanted(flows=(1, 2)), SENDING),
    (Policy(rate_max=10), wanted(Rate(10)), []),
    (Policy(rate_max=10), wanted(Rate(11)), SENDING),
    (Policy(rate_max=10), wanted(), SENDING),
    (Policy(burst_max=4), wanted(Burst(4)), []),
    (Policy(burst_max=4), wanted(Burst(5)), SENDING),
    (Policy(burst_max=4095), wanted(), SENDING),
    (Policy(burst_max=4096), wanted(), []),
    (Policy(payload_max=8), wanted(PayloadSize(8)), []),
    (Policy(payload_max=8), wanted(PayloadSize(9)), SENDING),
    (Policy(payload_max=8), wanted(), SENDING),
    (Policy(content_types=("text/plain",)), wanted(), []),
    (Policy(content_types=("text/*",)), wanted(), []),
    (Policy(content_types=("text/*",)), wanted(types=("text/*",)), []),
    (Policy(content_types=("*/*",)), wanted(types=("image/png",)), []),
    (Policy(content_types=("text/plain",)), wanted(types=("text/*",)), SENDING),
    (Policy(content_types=("text/*",)), wanted(types=("text/plain", "image/png")), SENDING),
    (Policy(content_types=("text/*",)), wanted(types=()), SENDING),
    (Policy(duration_max=SECOND), wanted(end=NOW + SECOND), []),
    (Policy(duration_max=SECOND), wanted(end=NOW + SECOND + 1), ["duration"]),
    (Policy(duration_max=SECOND), wanted(), ["duration"]),
    (Policy(notice_max=SECOND), wanted(notice=SECOND), []),
    (Policy(notice_max=SECOND), wanted(notice=SECOND + 1), ["exit_protocol"]),
    (Policy(durable=True), wanted(durable=True), []),
    (Policy(durable=False), wanted(), []),
    (Policy(durable=False), wanted(durable=True), ["durable"]),
    # What we may send binds nobody to let us.
    (Policy(flows=(1,), rate_max=1), wanted(flows=(7,), party="responder"), []),
    # All that lies outside is said at once.
    (
        Policy(flows=(2,), rate_max=1, burst_max=1, payload_max=1, content_types=("a/b",)),
        wanted(),
        SENDING * 5,
    ),
]


@pytest.mark.parametrize(("policy", "proposal", "expected"), CASES)
def test_an_offer_lies_within_or_outside(policy: Policy, proposal: Proposal, expected: list[str]):
    assert outside(policy, proposal) == expected


def test_all_others_are_judged():
    policy, proposal = Policy(flows=(2,)), wanted(party="*")
    found = judge(policy, proposal, ["initiator", "third"], NOW)
    assert [one.about for one in found] == ["what initiator may send", "what third may send"]


def test_what_lies_outside_is_asked_about_and_at_last_refused_for():
    excess = judge(Policy(rate_max=1, durable=False), wanted(durable=True), [ROLE], NOW)
    defer, justification = questions(excess), refusal(excess)
    assert [one.about for one in defer.questions] == ["durable", *SENDING]
    assert defer.evidence_needed
    assert [one.term_ref for one in justification.rejection_reasons] == ["durable", *SENDING]
    assert justification.rejection_reasons[1].rationale == "needed: a rate of at most 1 blocks/s"


@pytest.mark.parametrize(
    ("bounds", "field"),
    [
        ({"flows": (0,)}, "flows"),
        ({"flows": (8,)}, "flows"),
        ({"rate_max": -1}, "rate_max"),
        ({"burst_max": -1}, "burst_max"),
        ({"payload_max": -1}, "payload_max"),
        ({"duration_max": -1}, "duration_max"),
        ({"notice_max": -1}, "notice_max"),
        ({"content_types": ("text",)}, "content_types"),
        ({"content_types": ("a/b/c",)}, "content_types"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(bounds: dict[str, object], field: str):
    with pytest.raises(InvalidArgument) as refusal_:
        Policy(**bounds)  # type: ignore[arg-type]
    assert refusal_.value.field == field


@pytest.mark.parametrize("policy", [case[0] for case in CASES])
def test_a_policy_comes_back_from_the_store(policy: Policy):
    assert Policy.decode(policy.encode()) == policy


def test_the_longest_role_can_be_asked_about_and_refused():
    role = "r" * 64
    excess = judge(Policy(flows=(2,)), wanted(party=role), [role], NOW)
    assert questions(excess).questions
    assert refusal(excess).rejection_reasons
