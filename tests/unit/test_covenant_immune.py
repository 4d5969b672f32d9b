# SPDX-License-Identifier: Apache-2.0
"""covenant/immune.py: what AIOS finds, whom it holds it against, and what follows (seed 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from assent.covenant import payloads
from assent.covenant.engine import BAD_MAX
from assent.covenant.immune import (
    REPEAT_NS,
    RESPONSES,
    STRIKES,
    Condition,
    Immune,
    Level,
    ThreatClass,
)
from assent.covenant.machine import State
from assent.covenant.payloads import Data, Escalate, Reject, Violation
from assent.covenant.terms import PayloadSize
from assent.errors import FailedPrecondition
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

from .covenant_world import (
    JUSTIFICATION,
    QUESTIONS,
    TEXT,
    World,
    agent,
    identity_of,
    proposal,
)

SMALL = PayloadSize(4)

# The seed's table (8.2); the breach of terms, "error or malice", is an error until it is repeated.
SEED = {
    Condition.FORGED_SIGNATURE: ("malice", "quarantine"),
    Condition.BLIND_REJECT: ("error", "notice"),
    Condition.EARLY_DATA: ("malice", "quarantine"),
    Condition.HEARTBEAT_TIMEOUT: ("systemic_stress", "notice"),
    Condition.TERMS_BREACHED: ("error", "notice"),
    Condition.TERMS_BREACHED_AGAIN: ("malice", "quarantine"),
    Condition.REPEATED_DEFER: ("ignorance", "notice"),
    Condition.SEQUENCE_REGRESSION: ("malice", "quarantine"),
    Condition.CLOCK_ANOMALY: ("malice", "escalate"),
}


def test_the_table_is_the_seeds():
    found = {each: (threat.value, level.value) for each, (threat, level) in RESPONSES.items()}
    assert found == SEED
    assert {each.value for each in ThreatClass} == set(payloads.VIOLATION_CLASSES)
    assert {each.value for each in Level} == set(payloads.RESPONSE_LEVELS)


# How B makes each condition true, with A watching.


def forge_signature(world: World) -> None:
    world.covenanted(proposal(SMALL))
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, signer="Z"))


def reject_blindly(world: World) -> None:
    world.offer()
    world.settle()
    world.inject("A", world.forge("B", FrameType.REJECT, Reject(None)))


def reject_without_saying_so(world: World) -> None:
    """There is a justification in it, but JUSTIFIED is not set."""
    world.offer()
    world.settle()
    world.inject("A", world.forge("B", FrameType.REJECT, Reject(JUSTIFICATION)))


def reject_an_amendment_blindly(world: World) -> None:
    world.covenanted()
    world["A"].engine.amend(1, proposal(notice=1), world.now)
    world.settle()
    world.inject("A", world.forge("B", FrameType.REJECT, Reject(None), FrameFlag.JUSTIFIED))


def send_before_bind(world: World) -> None:
    world.offer()
    world.settle()
    world.inject("A", world.forge("B", FrameType.DATA, Data(0, TEXT, b"x")))


def send_before_the_last_bind(world: World) -> None:
    world.offer()
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.collect()
    world.deliver(world.under_way.pop())
    world.lose()
    named = world["A"].covenant.covenant_id
    world.inject("A", world.forge("B", FrameType.DATA, Data(named, TEXT, b"x")))


def fall_silent(world: World) -> None:
    world.covenanted()
    engine = world["A"].engine
    while not world["A"].told("violation"):
        world.now = engine.next_deadline() or 0
        engine.tick(world.now)
        world.collect()


def breach(world: World, times: int = 1) -> None:
    world.covenanted(proposal(SMALL))
    for _ in range(times):
        covenant = world["B"].covenant
        world.inject(
            "A", world.forge("B", FrameType.DATA, Data(covenant.covenant_id, TEXT, b"12345"))
        )
        covenant.tx_sequence += 1


def breach_again(world: World) -> None:
    breach(world, STRIKES)


def defer_again(world: World) -> None:
    world.offer()
    world.settle()
    for turn in range(2):
        world["B"].engine.defer(1, QUESTIONS, world.now)
        world.settle()
        if not turn:
            world["A"].engine.inform(1, TEXT, b"all there is", world.now)
            world.settle()


def go_back_in_sequence(world: World) -> None:
    world.covenanted()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, sequence=0))


def be_ahead_of_time(world: World) -> None:
    world.covenanted()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, timestamp=world.wall + 31_000_000))


def go_back_in_time(world: World) -> None:
    world.covenanted()
    taken = world["A"].covenant.parties[agent("B")].rx_time
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, timestamp=taken - 1))


OFFENCES: dict[str, tuple[Callable[[World], None], Condition]] = {
    "forged": (forge_signature, Condition.FORGED_SIGNATURE),
    "blind": (reject_blindly, Condition.BLIND_REJECT),
    "unmarked": (reject_without_saying_so, Condition.BLIND_REJECT),
    "blind to an amendment": (reject_an_amendment_blindly, Condition.BLIND_REJECT),
    "early": (send_before_bind, Condition.EARLY_DATA),
    "early by a bind": (send_before_the_last_bind, Condition.EARLY_DATA),
    "silent": (fall_silent, Condition.HEARTBEAT_TIMEOUT),
    "breach": (breach, Condition.TERMS_BREACHED),
    "breaches": (breach_again, Condition.TERMS_BREACHED_AGAIN),
    "asks again": (defer_again, Condition.REPEATED_DEFER),
    "sequence": (go_back_in_sequence, Condition.SEQUENCE_REGRESSION),
    "future": (be_ahead_of_time, Condition.CLOCK_ANOMALY),
    "past": (go_back_in_time, Condition.CLOCK_ANOMALY),
}


def test_every_condition_has_an_offence():
    assert {condition for _, condition in OFFENCES.values()} == set(Condition)


@pytest.mark.parametrize("offence", OFFENCES)
def test_an_offence_is_found_judged_and_told_to_all(offence: str):
    commit, condition = OFFENCES[offence]
    world = World()
    commit(world)
    threat, level = SEED[condition]
    found = world["A"].told("violation") + world["A"].told("escalated")
    verdict = found[-1].verdict
    assert verdict is not None
    assert (verdict.condition, verdict.agent_id) == (condition, agent("B"))
    violation = payloads.decode(
        FrameType.VIOLATION, world.sent(FrameType.VIOLATION, "A")[-1].frame.payload
    )
    assert isinstance(violation, Violation)
    assert (violation.violation_class, violation.response_level) == (threat, level)
    assert violation.violating_agent == agent("B")
    assert len(violation.evidence_chain) == 1
    urgent = level in ("quarantine", "escalate")
    flags = world.sent(FrameType.VIOLATION, "A")[-1].frame.flags
    assert flags == (FrameFlag.URGENT if urgent else FrameFlag(0))
    escalations = [
        payloads.decode(FrameType.ESCALATE, one.frame.payload)
        for one in world.sent(FrameType.ESCALATE, "A")
    ]
    assert [isinstance(one, Escalate) for one in escalations] == [True] * (level == "escalate")
    assert world["A"].engine.quarantined == ({agent("B"): condition.value} if urgent else {})


def test_a_blind_rejection_leaves_the_offer_standing():
    world = World()
    reject_blindly(world)
    assert world["A"].state is State.OFFER_SENT
    world["B"].covenant.tx_sequence += 1
    world["B"].engine.accept(1, world.now)
    world.settle()
    assert world["A"].state is State.COVENANTED


def test_the_evidence_holds_the_frame():
    world = World()
    go_back_in_sequence(world)
    verdict = world["A"].told("violation")[0].verdict
    assert verdict is not None
    content = verdict.evidence[0].content
    assert isinstance(content, dict)
    assert CovenantFrame.decode(content["frame"]).kind is FrameType.HEARTBEAT
    assert content["length"] == len(content["frame"])


# Quarantine

ALLOWED = {FrameType.HEARTBEAT, FrameType.REVIEW, FrameType.REVOKE}


def quarantined() -> World:
    """A holds B in quarantine."""
    world = World()
    breach_again(world)
    assert world["A"].engine.quarantined
    world.settle()
    world.jump(2)
    return world


def test_a_quarantined_agent_has_its_heartbeat_review_and_revoke():
    world = quarantined()
    before = len(world["A"].events)
    world.inject("A", world.forge("B", FrameType.HEARTBEAT))
    world["B"].covenant.tx_sequence += 1
    world["B"].engine.review(1, "request", "let me explain")
    world.settle()
    assert [one.kind for one in world["A"].events[before:]] == ["reviewed"]
    world["B"].engine.revoke(1, "then not", world.now)
    world.settle()
    assert world["A"].state is State.REVOKING
    assert not world["A"].engine.refused


@pytest.mark.parametrize(
    "kind", [kind for kind in FrameType if kind not in ALLOWED], ids=lambda kind: kind.name
)
def test_nothing_else_of_it_is_taken(kind: FrameType):
    world = quarantined()
    covenant = world["B"].covenant
    flags = {
        FrameType.OFFER: FrameFlag.MISERICORDIA,
        FrameType.AMEND: FrameFlag.VERSIONED,
        FrameType.REJECT: FrameFlag.JUSTIFIED,
    }.get(kind, FrameFlag(0))
    payload: payloads.Payload | bytes = b"anything"
    changes: dict[str, object] = {}
    if kind is FrameType.OFFER:
        payload = payloads.decode(kind, world.log[0].frame.payload)
        assert isinstance(payload, payloads.Offer)
        payload = replace(
            payload,
            agents=tuple(
                replace(one, role=role)
                for one, role in zip(payload.agents[::-1], ("x", "y"), strict=True)
            ),
        )
        changes = {"covenant_id": 0, "sequence": 0}
    elif kind is FrameType.DATA:
        payload = Data(covenant.covenant_id, TEXT, b"x")
    raw = world.forge("B", kind, payload, flags, **changes)
    before = world["A"].everything()
    world.inject("A", raw)
    assert world["A"].engine.refused == {"quarantined": 1}
    assert world["A"].everything() == before


def test_who_is_quarantined_is_told_and_sends_nothing_until_it_is_cleared():
    world = quarantined()
    assert world["B"].told("violation")
    with pytest.raises(FailedPrecondition, match="quarantined us"):
        world["B"].engine.send(1, TEXT, b"x", world.now)
    world["A"].engine.review(1, "clear", "explained")
    world.settle()
    assert world["A"].engine.quarantined == {}
    assert world["A"].told("cleared")[0].agent_id == agent("B")
    world["B"].engine.send(1, TEXT, b"x", world.now)
    world.settle()
    assert world["A"].told("data")


def test_after_it_is_cleared_an_agent_begins_anew():
    world = quarantined()
    world["A"].engine.review(1, "clear", "")
    world.settle()
    named = world["B"].covenant.covenant_id
    world.inject("A", world.forge("B", FrameType.DATA, Data(named, TEXT, b"12345")))
    assert world["A"].engine.quarantined == {}
    verdict = world["A"].told("violation")[-1].verdict
    assert verdict is not None
    assert verdict.condition is Condition.TERMS_BREACHED


def test_it_cannot_clear_itself():
    world = quarantined()
    world["B"].engine.review(1, "clear", "I am fine")
    world.settle()
    assert world["A"].engine.quarantined


def test_with_it_nothing_is_negotiated():
    world = World()
    send_before_bind(world)
    assert world["A"].state is State.IDLE
    assert world["A"].covenant.reason == "a party is quarantined"
    with pytest.raises(FailedPrecondition, match="quarantined"):
        world.offer()


def test_its_offer_from_before_cannot_be_accepted():
    world = World().covenanted(proposal(SMALL))
    world.offer()
    world.settle()
    raw = world["A"].engine
    raw.covenant(1).tx_sequence = 0
    raw.review(1, "report", "")
    world.settle()
    assert world["B"].engine.quarantined == {agent("A"): "sequence number regression"}
    before = world["B"].everything()
    with pytest.raises(FailedPrecondition, match="quarantined"):
        world["B"].engine.accept(2, world.now)
    assert world["B"].everything() == before


def test_who_was_quarantined_before_a_restart_still_is():
    world = World()
    engine = type(world["A"].engine)(
        agent("A"),
        identity_of("A"),
        world["A"].directory,
        lambda: world.wall,
        bytes,
        lambda: 1,
        {agent("B"): "frame signature invalid"},
    )
    engine.link_opened("link")
    with pytest.raises(FailedPrecondition, match="frame signature invalid"):
        engine.offer(proposal(), [replace(world.invited("B")[0], link="link")], world.now)


# Attribution


def test_a_forgery_on_a_link_that_has_proved_nobody_accuses_nobody():
    world = World(proved=False)
    world.offer()
    [sent] = world.lose()
    forged = replace(sent.frame, signature=b"").signed(identity_of("Z").sign).encode()
    before = world["B"].everything()
    world.inject("B", forged)
    assert world["B"].engine.refused == {"bad_signature": 1}
    assert world["B"].everything() == before


def test_a_forgery_accuses_who_is_at_the_other_end():
    world = World().covenanted()
    world.inject("B", world.forge("A", FrameType.HEARTBEAT, signer="Z"))
    assert world["B"].engine.quarantined == {agent("A"): "frame signature invalid"}
    assert world["B"].state is State.COVENANTED


def test_a_forged_offer_on_a_proved_link_accuses_its_end():
    world = World().covenanted()
    other = World("CB")
    other.now = world.now
    other["C"].engine.offer(
        proposal(), [replace(other.invited("B")[0], link=("C", "B"))], other.now
    )
    other.collect()
    frame = replace(other.log[0].frame, signature=b"").signed(identity_of("Z").sign)
    world.inject("B", frame.encode())
    assert world["B"].engine.quarantined == {agent("A"): "frame signature invalid"}
    assert agent("C") not in world["B"].engine.quarantined


def test_the_first_frame_of_a_pair_proves_who_is_there():
    world = World(proved=False).covenanted()
    world.inject("A", world.forge("B", FrameType.HEARTBEAT, signer="Z"))
    assert world["A"].engine.quarantined == {agent("B"): "frame signature invalid"}


@pytest.mark.parametrize("durable", [False, True])
def test_a_frame_kept_and_sent_again_on_another_link_accuses_nobody(durable: bool):
    world = World(proved=False).covenanted(proposal(durable=durable))
    world["B"].engine.send(1, TEXT, b"once", world.now)
    world.settle()
    kept = world.log[-1].raw
    world["B"].engine.send(1, TEXT, b"twice", world.now)
    world.settle()
    elsewhere = world.connect("A", "B", label="2")
    before = world["A"].everything()
    world.inject("A", kept, elsewhere)
    assert world["A"].engine.refused == {"replay" if durable else "other_link": 1}
    assert world["A"].everything() == before
    assert not world["A"].engine.quarantined


def test_a_late_frame_of_a_covenant_that_is_over_is_not_early_data_of_the_next():
    world = World().covenanted()
    world["B"].engine.send(1, TEXT, b"late", world.now)
    late = world.lose()
    world["A"].engine.revoke(1, "", world.now, graceful=False)
    world.lose()
    back = replace(
        world.invited("B")[0], agent_id=agent("A"), public_key=identity_of("A").public_key
    )
    world["B"].engine.revoke(1, "", world.now, graceful=False)
    world.lose()
    world["B"].engine.offer(proposal(), [back], world.now)
    world.settle()
    assert world["A"].state is State.OFFER_RECEIVED
    for sent in late:
        world.deliver(sent)
    assert world["A"].engine.refused == {"unknown_covenant": 1}
    assert not world["A"].engine.quarantined
    assert world["A"].state is State.OFFER_RECEIVED


# Reports of others who watch


def test_breaches_that_others_have_seen_count():
    world = World().covenanted()
    engine = world["A"].engine
    engine.report_breach(1, agent("B"), "over its rate", 1, world.now)
    assert not engine.quarantined
    engine.report_breach(1, agent("B"), "over its rate", STRIKES, world.now)
    assert engine.quarantined == {agent("B"): Condition.TERMS_BREACHED_AGAIN.value}


@pytest.mark.parametrize("whom", ["A", "Z"])
def test_reports_about_who_is_no_other_party_are_ignored(whom: str):
    world = World().covenanted()
    before = world["A"].everything()
    world["A"].engine.report_breach(1, agent(whom), "over its rate", 9, world.now)
    world.collect()
    assert world["A"].everything() == before


def test_reports_about_what_has_ended_are_ignored():
    world = World().covenanted()
    world["A"].engine.revoke(1, "", world.now, graceful=False)
    world.settle()
    before = world["A"].everything()
    world["A"].engine.report_breach(1, agent("B"), "over its rate", 9, world.now)
    world.collect()
    assert world["A"].everything() == before


@pytest.mark.parametrize("kind", [FrameType.VIOLATION, FrameType.ESCALATE])
def test_what_another_has_found_is_told_to_people(kind: FrameType):
    world = World().covenanted()
    named = world["B"].covenant.covenant_id
    found: payloads.Payload = Violation(named, "error", agent("A"), (), "notice", "a breach")
    if kind is FrameType.ESCALATE:
        found = Escalate(named, "malice", agent("A"), (), "a breach")
    world.inject("A", world.forge("B", kind, found))
    event = world["A"].events[-1]
    assert event.kind == ("escalated" if kind is FrameType.ESCALATE else "violation")
    assert (event.text, event.violation, event.verdict) == ("a breach", found, None)


@pytest.mark.parametrize("kind", [FrameType.VIOLATION, FrameType.ESCALATE])
def test_what_another_has_found_elsewhere_is_dropped(kind: FrameType):
    world = World().covenanted()
    found: payloads.Payload = Violation(5, "malice", agent("A"), (), "quarantine", "")
    if kind is FrameType.ESCALATE:
        found = Escalate(5, "malice", agent("A"), (), "")
    before = world["A"].everything()
    world.inject("A", world.forge("B", kind, found))
    assert world["A"].engine.refused == {"terms_differ": 1}
    assert world["A"].everything() == before


# The judge itself


def judge(immune: Immune, now: int, condition: Condition = Condition.BLIND_REJECT) -> bool:
    return immune.judge(condition, agent("B"), 7, "text", now) is not None


def test_the_same_is_not_said_twice_within_a_second():
    immune = Immune("A", lambda: 0)
    assert judge(immune, 0)
    assert not judge(immune, REPEAT_NS - 1)
    assert judge(immune, REPEAT_NS - 1, Condition.REPEATED_DEFER)
    assert judge(immune, REPEAT_NS)


def test_verdicts_do_not_answer_each_other_for_ever():
    world = World()
    reject_blindly(world)
    for _ in range(50):
        world["B"].covenant.tx_sequence += 1
        world.inject("A", world.forge("B", FrameType.REJECT, Reject(None)))
        world.jump(0.1)
    assert len(world.sent(FrameType.VIOLATION, "A")) == 5


@pytest.mark.parametrize(
    ("counts", "last"),
    [
        ([1], Condition.TERMS_BREACHED),
        ([1] * (STRIKES - 1), Condition.TERMS_BREACHED),
        ([1] * STRIKES, Condition.TERMS_BREACHED_AGAIN),
        ([STRIKES], Condition.TERMS_BREACHED_AGAIN),
    ],
)
def test_breaches_are_an_error_until_there_are_too_many(counts: list[int], last: Condition):
    immune = Immune("A", lambda: 0)
    found = [immune.breach(agent("B"), 7, count) for count in counts]
    assert found[-1] is last
    assert immune.breach(agent("B"), 8) is Condition.TERMS_BREACHED


def test_a_transport_of_junk_is_given_up_once():
    world = World()
    for _ in range(BAD_MAX - 1):
        world.inject("A", b"junk")
    assert world["A"].engine.take_useless() == []
    for _ in range(BAD_MAX):
        world.inject("A", b"junk")
    assert world["A"].engine.take_useless() == [world.link()]
    assert world["A"].engine.refused == {"malformed": 2 * BAD_MAX - 1}
