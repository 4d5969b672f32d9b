# SPDX-License-Identifier: Apache-2.0
"""covenant/fellowship.py: a covenant in force between two, until it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assent.covenant import payloads
from assent.covenant.agreement import signed
from assent.covenant.document import (
    SignedVersion,
    bind_bytes,
    export,
    make_rotation,
    verify_export,
)
from assent.covenant.fellowship import LAPSED_MAX
from assent.covenant.machine import State
from assent.covenant.payloads import Accept, Amend, Data, Review, Revoke, Violation
from assent.covenant.terms import Burst, DailyWindow, PayloadSize, Rate, terms_hash
from assent.errors import FailedPrecondition, InvalidArgument
from assent.identity.keys import Identity
from assent.wire.tcpup import FrameFlag, FrameType

from .covenant_world import (
    JUSTIFICATION,
    NOTICE,
    SECOND,
    TEXT,
    World,
    agent,
    identity_of,
    proposal,
    terms,
    timer,
)

COVENANTED, AMENDING, REVOKING, TERMINATED = (
    State.COVENANTED,
    State.AMENDING,
    State.REVOKING,
    State.TERMINATED,
)
NEW_KEY = Identity.from_seed(b"\x07" * 32)
SHORTER = proposal(notice=5 * SECOND)


def amending(wanted: object = None, first: object = None) -> World:
    """B has A's amendment."""
    world = World().covenanted(first)  # type: ignore[arg-type]
    world["A"].engine.amend(1, wanted or SHORTER, world.now)  # type: ignore[arg-type]
    world.settle()
    assert world.states() == (AMENDING, AMENDING)
    return world


def amended(world: World, wanted: object) -> None:
    """A proposes a version and B agrees."""
    world.jump(0.001)
    world["A"].engine.amend(1, wanted, world.now)  # type: ignore[arg-type]
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()


def versions(world: World) -> tuple[int, ...]:
    """Which version is in force at each."""
    return tuple(one.covenant.version for one in world.agents.values())


def check_histories(world: World) -> None:
    """Everybody holds the same versions, and a third party finds them in order."""
    files = {
        export([SignedVersion(one.document, one.rotation) for one in each.covenant.history])
        for each in world.agents.values()
    }
    assert len(files) == 1
    report = verify_export(files.pop())
    assert len(report.versions) == world["A"].covenant.version


# DATA


@pytest.mark.parametrize("state", [COVENANTED, AMENDING, REVOKING])
def test_data_passes_both_ways_while_the_covenant_is_in_force(state: State):
    world = World().covenanted()
    if state is AMENDING:
        world["A"].engine.amend(1, SHORTER, world.now)
    elif state is REVOKING:
        world["B"].engine.revoke(1, "", world.now)
    world.settle()
    for name in "AB":
        world[name].engine.send(1, TEXT, name.encode(), world.now)
    world.settle()
    assert world.states() == (state, state)
    for name, other in ("AB", "BA"):
        assert [one.data.data for one in world[name].told("data")] == [other.encode()]  # type: ignore[union-attr]


# What the terms say, what is sent, and what becomes of it.
BREACHES = {
    "type": ({"types": ("image/*",)}, [], TEXT, b"x"),
    "size": ({}, [PayloadSize(4)], TEXT, b"12345"),
    "before the start": ({"start": 2**62}, [], TEXT, b"x"),
    "outside the window": ({}, [DailyWindow(0, 1, (0,))], TEXT, b"x"),
}


@pytest.mark.parametrize("case", BREACHES)
def test_data_outside_of_the_terms_is_not_sent(case: str):
    options, limits, kind, data = BREACHES[case]
    world = World().covenanted(proposal(*limits, **options))  # type: ignore[arg-type]
    before = world["A"].everything()
    with pytest.raises(FailedPrecondition):
        world["A"].engine.send(1, kind, data, world.now)
    assert world["A"].everything() == before
    assert not world["A"].engine.take_frames()


def test_who_has_no_permission_sends_nothing():
    wanted = replace(
        proposal(),
        terms=replace(terms(), permissions=(replace(terms().permissions[0], party="initiator"),)),
    )
    world = World().covenanted(wanted)
    world["A"].engine.send(1, TEXT, b"", world.now)
    with pytest.raises(FailedPrecondition, match="do not let"):
        world["B"].engine.send(1, TEXT, b"", world.now)


def test_data_too_large_for_a_frame_is_refused_and_changes_nothing():
    world = World().covenanted()
    before = world["A"].everything()
    with pytest.raises(InvalidArgument):
        world["A"].engine.send(1, TEXT, bytes(256 * 1024), world.now)
    assert world["A"].everything() == before


RATED = (Rate(10), Burst(20))


def test_a_sender_keeps_to_the_rate_that_it_agreed_to():
    world = World().covenanted(proposal(*RATED))
    # Two blocks each: one of data, one of header; 20 may be under way, and one more begins.
    for _ in range(11):
        world["A"].engine.send(1, TEXT, bytes(64), world.now)
    with pytest.raises(FailedPrecondition, match="more than the 10 blocks a second"):
        world["A"].engine.send(1, TEXT, bytes(64), world.now)
    world.jump(0.2)
    world["A"].engine.send(1, TEXT, bytes(64), world.now)


def test_what_was_sent_at_the_agreed_rate_is_no_breach_when_it_arrives_all_at_once():
    world = World().covenanted(proposal(*RATED, timer("T_clock_skew", 60)))
    for _ in range(40):
        world["A"].engine.send(1, TEXT, bytes(64), world.now)
        world.collect()
        world.jump(0.2)
    world.settle()
    assert len(world["B"].told("data")) == 40
    assert not world["B"].told("violation")


def test_what_was_sent_within_the_window_is_no_breach_when_it_arrives_after_it():
    # The epoch of the tests is a Thursday, 20:26:40 UTC and 5,000 s.
    world = World()
    minute = world.wall // (60 * SECOND) % 1_440
    day = (world.wall // (86_400 * SECOND) + 3) % 7
    world.covenanted(proposal(DailyWindow(minute, minute + 1, (day,))))
    world.now += (60 * SECOND - world.wall % (60 * SECOND)) * 1_000 - 1_000_000
    world["A"].engine.send(1, TEXT, b"in time", world.now)
    world.collect()
    world.jump(5)
    world.settle()
    assert world["B"].told("data")
    with pytest.raises(FailedPrecondition, match="at this time"):
        world["A"].engine.send(1, TEXT, b"late", world.now)


# AMEND


def test_an_amendment_that_is_agreed_to_is_the_next_version():
    world = amending()
    assert world["A"].covenant.proposal.exit_protocol.notice_period == NOTICE
    world["B"].engine.accept(1, world.now)
    world.settle()
    assert world.states() == (COVENANTED, COVENANTED)
    assert versions(world) == (2, 2)
    for name in "AB":
        assert world[name].covenant.proposal == SHORTER
        assert world[name].kinds()[-2:] == ["amending", "amended"]
    check_histories(world)


def test_an_amendment_that_is_rejected_leaves_the_terms_as_they_are():
    world = amending()
    world["B"].engine.reject(1, JUSTIFICATION)
    world.settle()
    assert world.states() == (COVENANTED, COVENANTED)
    assert versions(world) == (1, 1)
    for name in "AB":
        assert world[name].covenant.proposal == proposal()
        assert world[name].covenant.rejection is not None


@pytest.mark.parametrize("seconds", [None, 7])
def test_an_amendment_that_nobody_decides_on_is_abandoned(seconds: int | None):
    first = proposal(*([] if seconds is None else [timer("T_amend", seconds)]))
    world = amending(first=first)
    world.wait((seconds or 60) - 0.001)
    assert world.states() == (AMENDING, AMENDING)
    world.wait(0.001)
    assert world.states() == (COVENANTED, COVENANTED)
    assert versions(world) == (1, 1)


def test_only_the_others_decide_on_an_amendment():
    world = amending()
    before = world["A"].everything()
    for call in (
        lambda: world["A"].engine.accept(1, world.now),
        lambda: world["A"].engine.reject(1, JUSTIFICATION),
    ):
        with pytest.raises(FailedPrecondition, match="waits for the other parties"):
            call()
    assert world["A"].everything() == before


def test_there_are_as_many_versions_as_were_agreed():
    world = World().covenanted(proposal(most=2))
    amended(world, proposal(most=2, notice=3))
    with pytest.raises(FailedPrecondition, match="2 versions at most"):
        world["A"].engine.amend(1, proposal(most=9), world.now)
    assert world.states() == (COVENANTED, COVENANTED)


def test_that_it_is_durable_cannot_be_amended():
    world = World().covenanted()
    with pytest.raises(InvalidArgument, match="durable"):
        world["A"].engine.amend(1, proposal(durable=True), world.now)
    assert world["A"].state is COVENANTED


def test_of_two_amendments_at_once_that_of_the_lower_uuid_goes_first():
    world = World().covenanted()
    world["A"].engine.amend(1, proposal(notice=1), world.now)
    world["B"].engine.amend(1, proposal(notice=2), world.now)
    world.settle()
    first, second = ("A", "B") if agent("A").bytes < agent("B").bytes else ("B", "A")
    assert world[first].covenant.amendment.proposer == agent(first)  # type: ignore[union-attr]
    assert world[second].covenant.amendment.proposer == agent(first)  # type: ignore[union-attr]
    assert world[first].engine.refused == {"out_of_place": 1}
    world[second].engine.accept(1, world.now)
    world.settle()
    assert versions(world) == (2, 2)
    check_histories(world)


@pytest.mark.parametrize("lower", [True, False])
def test_of_two_amendments_at_once_one_goes_first_even_after_t_amend(lower: bool):
    """Were both agreed to, two documents would be the same version of one covenant."""
    world = World().covenanted(proposal(timer("T_amend", 5)))
    first, second = sorted("AB", key=lambda name: agent(name).bytes)
    for name in (first, second):
        world[name].engine.amend(1, proposal(notice=ord(name)), world.now)
    early = {one.sender: one for one in world.lose()}
    world.jump(6)
    world.tick()
    assert world.states() == (COVENANTED, COVENANTED)
    who = first if lower else second
    other = second if lower else first
    world.deliver(early[other])
    if lower:
        assert world[who].engine.refused == {"out_of_place": 1}
        assert world[who].state is COVENANTED
    else:
        world[who].engine.accept(1, world.now)
        world.settle()
        assert versions(world) == (2, 2)
        check_histories(world)


def test_an_amendment_made_after_ours_was_heard_of_can_be_agreed_to():
    world = World().covenanted(proposal(timer("T_amend", 5)))
    first, second = sorted("AB", key=lambda name: agent(name).bytes)
    world[first].engine.amend(1, SHORTER, world.now)
    world.settle()
    world.wait(6)
    world[second].engine.amend(1, proposal(notice=9), world.now)
    world.settle()
    world[first].engine.accept(1, world.now)
    world.settle()
    assert versions(world) == (2, 2)
    check_histories(world)


def test_an_acceptance_that_comes_after_t_amend_still_counts():
    world = amending(first=proposal(timer("T_amend", 5)))
    world["B"].engine.accept(1, world.now)
    world.collect()
    world.jump(6)
    world.tick()
    assert world.states() == (COVENANTED, COVENANTED)
    assert versions(world) == (1, 2)
    world.settle()
    assert versions(world) == (2, 2)
    check_histories(world)


def test_an_acceptance_that_was_lost_is_repeated_when_a_review_shows_it():
    world = amending(first=proposal(timer("T_amend", 5)))
    world["B"].engine.accept(1, world.now)
    world.lose()
    world.wait(6)
    assert versions(world) == (1, 2)
    world["A"].engine.review(1, "check", "")
    world.settle()
    assert versions(world) == (2, 2)
    check_histories(world)


def test_an_acceptance_that_was_lost_counts_before_anything_proposed_since():
    world = amending(first=proposal(timer("T_amend", 5)))
    world["B"].engine.accept(1, world.now)
    world.lose()
    world.wait(6)
    world["A"].engine.amend(1, proposal(notice=77), world.now)
    world.settle()
    assert world["B"].engine.refused == {"terms_differ": 1}
    world["B"].engine.review(1, "report", "")
    world.settle()
    assert world.states() == (COVENANTED, COVENANTED)
    assert versions(world) == (2, 2)
    assert world["A"].covenant.proposal == SHORTER
    check_histories(world)


def test_of_amendments_that_lapsed_only_the_last_few_are_kept():
    world = World().covenanted(proposal(timer("T_amend", 1)))
    for turn in range(LAPSED_MAX + 2):
        world["A"].engine.amend(1, proposal(timer("T_amend", 1), notice=turn), world.now)
        world.lose()
        world.wait(1)
    assert len(world["A"].covenant.lapsed) == LAPSED_MAX
    assert world["A"].state is COVENANTED


def amends(world: World) -> dict[str, Amend]:
    """AMENDs of B that are wrong in one way each."""
    covenant, identity = world["B"].covenant, world["B"].identity
    right = covenant.draft(2, SHORTER, world.wall)

    def made(document: object, **changes: object) -> Amend:
        amend = Amend(covenant.covenant_id, 2, document, identity.sign(bind_bytes(document)))  # type: ignore[arg-type]
        return replace(amend, **changes)  # type: ignore[arg-type]

    rotation = make_rotation(
        agent("B"),
        identity.public_key,
        NEW_KEY.public_key,
        covenant.covenant_id,
        2,
        old_sign=identity.sign,
        new_sign=NEW_KEY.sign,
    )
    of_a = make_rotation(
        agent("A"),
        identity_of("A").public_key,
        NEW_KEY.public_key,
        covenant.covenant_id,
        2,
        old_sign=identity_of("A").sign,
        new_sign=NEW_KEY.sign,
    )
    rekeyed = covenant.draft(2, SHORTER, world.wall, {agent("B"): NEW_KEY.public_key})
    return {
        "covenant id": made(right, covenant_id=5),
        "object id": made(replace(right, id=5)),
        "version": made(right, covenant_version=3),
        "object version": made(replace(right, version=3), covenant_version=3),
        "same version": made(replace(right, version=1), covenant_version=1),
        "agents": made(replace(right, agents=right.agents[::-1])),
        "key without rotation": made(rekeyed),
        "rotation of another": made(right, rotation=of_a),
        "signature": made(right, bind_signature=bytes(64)),
        "rotation without proof": made(rekeyed, rotation=replace(rotation, proof=bytes(64))),
        "rotation without authorization": made(
            rekeyed, rotation=replace(rotation, authorization=bytes(64))
        ),
        "rotation signed by the old key": made(rekeyed, rotation=rotation),
    }


UNSIGNED = {
    "signature",
    "rotation without proof",
    "rotation without authorization",
    "rotation signed by the old key",
}


@pytest.mark.parametrize("case", amends(World().covenanted()))
def test_an_amendment_that_cannot_be_is_dropped_and_changes_nothing(case: str):
    world = World().covenanted()
    raw = world.forge(
        "B",
        FrameType.AMEND,
        amends(world)[case],
        FrameFlag.VERSIONED | FrameFlag.MISERICORDIA,
    )
    before = world["A"].everything()
    world.inject("A", raw)
    why = "bad_signature" if case in UNSIGNED else "terms_differ"
    assert world["A"].engine.refused == {why: 1}
    assert world["A"].everything() == before


def test_more_versions_than_agreed_are_dropped():
    world = World().covenanted(proposal(most=1))
    covenant = world["B"].covenant
    document = covenant.draft(2, SHORTER, world.wall)
    signature = world["B"].identity.sign(bind_bytes(document))
    amend = Amend(covenant.covenant_id, 2, document, signature)
    before = world["A"].everything()
    world.inject("A", world.forge("B", FrameType.AMEND, amend, FrameFlag.VERSIONED))
    assert world["A"].engine.refused == {"terms_differ": 1}
    assert world["A"].everything() == before


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"covenant_id": 5}, "terms_differ"),
        ({"terms_hash": bytes(32)}, "terms_differ"),
        ({"extensions": {}}, "terms_differ"),
        ({"extensions": {"bind_signature": "text"}}, "terms_differ"),
        ({"extensions": {"bind_signature": bytes(64)}}, "bad_signature"),
    ],
)
def test_an_acceptance_of_another_amendment_is_dropped_and_changes_nothing(
    changes: dict[str, object], why: str
):
    world = amending()
    world["B"].engine.accept(1, world.now)
    [sent] = world.lose()
    accept = payloads.decode(FrameType.ACCEPT, sent.frame.payload)
    assert isinstance(accept, Accept)
    before = world["A"].everything()
    body = payloads.encode(replace(accept, **changes))  # type: ignore[arg-type]
    frame = replace(sent.frame, payload=body, signature=b"")
    world.inject("A", frame.signed(identity_of("B").sign).encode())
    assert world["A"].engine.refused == {why: 1}
    assert world["A"].everything() == before
    world.deliver(sent)
    assert versions(world) == (2, 2)


# Keys


def rotated() -> World:
    """A's key is another one, as both agree; A's first frame under it has not been sent."""
    world = World().covenanted()
    world["A"].engine.rotate(1, NEW_KEY, world.now)
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    return world


def test_a_key_is_rotated_by_an_amendment():
    world = rotated()
    assert versions(world) == (2, 2)
    assert world["A"].covenant.public_key == NEW_KEY.public_key
    assert world["B"].covenant.parties[agent("A")].public_key == NEW_KEY.public_key
    for name in "AB":
        assert [one.agent_id for one in world[name].told("rotated")] == [agent("A")]
    check_histories(world)
    world["A"].engine.send(1, TEXT, b"new", world.now)
    world.settle()
    assert world["B"].told("data")


def test_the_old_key_is_good_until_the_first_frame_under_the_new_one_and_no_longer():
    world = rotated()
    party = world["B"].covenant.parties[agent("A")]
    old = world.forge("A", FrameType.HEARTBEAT)
    world.inject("B", old)
    assert not world["B"].engine.refused
    assert party.former_key == world["A"].identity.public_key
    world["A"].covenant.tx_sequence += 1
    world["A"].engine.send(1, TEXT, b"new", world.now)
    world.settle()
    assert party.former_key == b""
    taken = party.rx_sequence
    world.inject("B", world.forge("A", FrameType.HEARTBEAT))
    assert world["B"].engine.refused == {"bad_signature": 1}
    assert party.rx_sequence == taken


def test_a_rotation_that_is_rejected_leaves_the_key_as_it_was():
    world = World().covenanted()
    world["A"].engine.rotate(1, NEW_KEY, world.now)
    world.settle()
    world["B"].engine.reject(1, JUSTIFICATION)
    world.settle()
    world["A"].engine.send(1, TEXT, b"still", world.now)
    world.settle()
    assert world["B"].told("data")
    assert world["A"].covenant.public_key == world["A"].identity.public_key


def test_keys_change_as_often_as_they_like():
    world = World().covenanted()
    for turn in range(3):
        world.jump(0.001)
        world["A"].engine.rotate(1, Identity.from_seed(bytes([turn] * 32)), world.now)
        world.settle()
        world["B"].engine.accept(1, world.now)
        world.settle()
    assert versions(world) == (4, 4)
    check_histories(world)


# REVIEW


def test_a_check_is_answered_with_a_report():
    world = World().covenanted()
    world["A"].engine.review(1, "check", "how is it")
    world.settle()
    assert [one.text for one in world["B"].told("reviewed")] == ["check: how is it"]
    assert [one.text for one in world["A"].told("reviewed")] == ["report"]


@pytest.mark.parametrize("seconds", [20, 0.000001])
def test_reviews_come_as_often_as_agreed_but_not_more_often_than_each_second(seconds: float):
    world = World().covenanted(proposal(review=round(seconds * SECOND)))
    world.wait(40.5)
    expected = int(40.5 / max(seconds, 1))
    assert world["A"].kinds().count("reviewed") == 2 * expected


def test_a_review_of_another_covenant_is_dropped():
    world = World().covenanted()
    before = world["A"].everything()
    review = Review(5, 1, terms_hash(terms()), "check", "")
    world.inject("A", world.forge("B", FrameType.REVIEW, review))
    assert world["A"].engine.refused == {"terms_differ": 1}
    assert world["A"].everything() == before


def test_who_holds_another_version_is_told_to_people():
    world = World().covenanted()
    review = Review(world["B"].covenant.covenant_id, 7, bytes(32), "report", "")
    world.inject("A", world.forge("B", FrameType.REVIEW, review))
    assert world["A"].told("failed")[0].text == "a party holds version 7, we hold 1"


# REVOKE


@pytest.mark.parametrize("who", "AB")
def test_a_notice_period_runs_to_its_end(who: str):
    world = World().covenanted()
    world[who].engine.revoke(1, "enough", world.now)
    world.settle()
    assert world.states() == (REVOKING, REVOKING)
    ends = world.wall + NOTICE
    assert {world[name].covenant.notice_ends for name in "AB"} == {ends}
    world.wait(29.999)
    assert world.states() == (REVOKING, REVOKING)
    world.wait(0.001)
    assert world.states() == (TERMINATED, TERMINATED)
    assert {world[name].covenant.reason for name in "AB"} == {"enough"}


def test_both_may_agree_to_end_it_early():
    world = World().covenanted()
    world["A"].engine.revoke(1, "enough", world.now)
    world.settle()
    world["B"].engine.revoke(1, "gladly", world.now)
    world.settle()
    assert world.states() == (TERMINATED, TERMINATED)
    assert world["A"].covenant.reason == "enough"


def test_two_revocations_at_once_end_it():
    world = World().covenanted()
    for name in "AB":
        world[name].engine.revoke(1, name, world.now)
    world.settle()
    assert world.states() == (TERMINATED, TERMINATED)


def test_nobody_revokes_twice():
    world = World().covenanted()
    world["A"].engine.revoke(1, "enough", world.now)
    world.settle()
    before = world["A"].everything()
    with pytest.raises(FailedPrecondition, match="already"):
        world["A"].engine.revoke(1, "enough", world.now)
    assert world["A"].everything() == before


@pytest.mark.parametrize("state", [COVENANTED, AMENDING, REVOKING])
def test_consent_can_be_withdrawn_without_notice(state: State):
    world = World().covenanted()
    if state is AMENDING:
        world["A"].engine.amend(1, SHORTER, world.now)
    elif state is REVOKING:
        world["A"].engine.revoke(1, "enough", world.now)
    world.settle()
    world["B"].engine.revoke(1, "now", world.now, graceful=False)
    world.settle()
    assert world.states() == (TERMINATED, TERMINATED)
    assert world["A"].covenant.amendment is None
    assert world["A"].engine.next_deadline() is None


@pytest.mark.parametrize("flags", [FrameFlag(0), FrameFlag.GRACEFUL])
def test_a_revocation_of_another_covenant_is_dropped(flags: FrameFlag):
    world = World().covenanted()
    before = world["A"].everything()
    world.inject("A", world.forge("B", FrameType.REVOKE, Revoke(5, ""), flags))
    assert world["A"].engine.refused == {"terms_differ": 1}
    assert world["A"].everything() == before


def test_heartbeats_go_on_during_the_notice():
    world = World().covenanted(proposal(timer("T_heartbeat", 5), notice=60 * SECOND))
    world["A"].engine.revoke(1, "enough", world.now)
    world.settle()
    count = len(world.sent(FrameType.HEARTBEAT, "A"))
    world.wait(21)
    assert len(world.sent(FrameType.HEARTBEAT, "A")) == count + 4


# Time


@pytest.mark.parametrize("limits", [[], [timer("T_heartbeat", 5)]])
def test_heartbeats_are_sent_at_their_interval(limits: list[object]):
    world = World().covenanted(proposal(*limits))  # type: ignore[arg-type]
    every = 5 if limits else 60
    world.wait(3 * every)
    for name in "AB":
        assert len(world.sent(FrameType.HEARTBEAT, name)) == 3
    assert world.states() == (COVENANTED, COVENANTED)


@pytest.mark.parametrize("timeout", [None, 90])
@pytest.mark.parametrize("state", [COVENANTED, AMENDING])
def test_silence_is_a_liveness_failure_and_ends_it(state: State, timeout: float | None):
    limits = [timer("T_amend", 1_000)]
    limits += [timer("T_heartbeat_timeout", timeout)] if timeout else []
    world = World().covenanted(proposal(*limits))
    if state is AMENDING:
        world["A"].engine.amend(1, SHORTER, world.now)
        world.settle()
    engine, began = world["A"].engine, world.now
    due = began + round((timeout or 180) * 1e9)
    while (at := engine.next_deadline()) is not None and at < due:
        engine.tick(at)
        world.collect()
    assert world["A"].state is state
    world.now = due
    engine.tick(due)
    world.collect()
    assert world["A"].state is REVOKING
    [found] = world["A"].told("violation")
    assert isinstance(found.violation, Violation)
    assert (found.violation.violation_class, found.violation.response_level) == (
        "systemic_stress",
        "notice",
    )
    revoke = world.sent(FrameType.REVOKE, "A")[0]
    assert revoke.frame.flags == FrameFlag.GRACEFUL
    world.lose()
    world.wait(30)
    assert world["A"].state is TERMINATED


def test_any_frame_is_a_sign_of_life():
    world = World().covenanted(proposal(timer("T_heartbeat", 170)))
    for _ in range(10):
        world.wait(100)
        world["B"].engine.send(1, TEXT, b"here", world.now)
        world["A"].engine.send(1, TEXT, b"here", world.now)
        world.settle()
    assert world.states() == (COVENANTED, COVENANTED)


@pytest.mark.parametrize("state", [COVENANTED, REVOKING])
def test_it_ends_with_its_duration(state: State):
    world = World()
    world.covenanted(proposal(end=world.wall + 100 * SECOND, notice=500 * SECOND))
    if state is REVOKING:
        world["A"].engine.revoke(1, "", world.now)
        world.settle()
    world.wait(99.9)
    assert world.states() == (state, state)
    world.wait(0.2)
    assert world.states() == (TERMINATED, TERMINATED)


def test_after_the_end_its_frames_are_of_no_covenant():
    world = World().covenanted()
    raw = world.forge("B", FrameType.DATA, Data(world["B"].covenant.covenant_id, TEXT, b"x"))
    world["A"].engine.revoke(1, "", world.now, graceful=False)
    world.settle()
    before = world["A"].everything()
    world.inject("A", raw)
    assert world["A"].engine.refused == {"unknown_covenant": 1}
    assert world["A"].everything() == before


def test_signatures_find_their_place():
    world = World().covenanted()
    document = world["A"].covenant.draft(3, SHORTER, 1)
    assert signed(document, {agent("B"): b"s" * 64}).agents[1].bind_signature == b"s" * 64
