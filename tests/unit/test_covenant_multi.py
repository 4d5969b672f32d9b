# SPDX-License-Identifier: Apache-2.0
"""Covenants of three: A offers to B and C, and all that B and C say to each other passes through A.

B --- A --- C
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from assent.covenant import payloads
from assent.covenant.document import SignedVersion, export, verify_export
from assent.covenant.machine import State
from assent.covenant.payloads import Bind, Violation
from assent.covenant.terms import Deferrals, PayloadSize
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition
from assent.identity.keys import Identity
from assent.wire.tcpup import FrameFlag, FrameType

from .covenant_world import (
    JUSTIFICATION,
    NOTICE,
    OTHER_QUESTIONS,
    QUESTIONS,
    SECOND,
    TEXT,
    World,
    agent,
    identity_of,
    proposal,
    timer,
)

COVENANTED, AMENDING, REVOKING, TERMINATED = (
    State.COVENANTED,
    State.AMENDING,
    State.REVOKING,
    State.TERMINATED,
)
IDLE, ACCEPTED, BINDING = State.IDLE, State.ACCEPTED, State.BINDING
EVERYBODY = pytest.mark.parametrize("who", "ABC")
NEW_KEY = Identity.from_seed(b"\x09" * 32)


def offered(wanted: Proposal | None = None) -> World:
    """B and C have A's offer."""
    world = World("ABC")
    world.offer(wanted)
    world.settle()
    return world


def bound(wanted: Proposal | None = None) -> World:
    """All three are in covenant."""
    return World("ABC").covenanted(wanted)


def all_accept(world: World) -> None:
    """B, then C."""
    for name in "BC":
        world[name].engine.accept(1, world.now)


def versions(world: World) -> tuple[int, ...]:
    """Which is in force at each."""
    return tuple(one.covenant.version for one in world.agents.values())


def check_histories(world: World) -> None:
    """All three hold the same document, with everybody's signature."""
    files = {
        export([SignedVersion(one.document, one.rotation) for one in each.covenant.history])
        for each in world.agents.values()
    }
    assert len(files) == 1
    assert len(verify_export(files.pop()).versions) == world["A"].covenant.version


# The handshake


def test_all_bind_and_the_first_acceptor_names_the_covenant():
    world = bound()
    assert {one.covenant.covenant_id for one in world.agents.values()} == {ord("B") << 24 | 1}
    assert [one.kind.name for one in world.log] == (
        ["OFFER"] * 2 + ["ACCEPT"] * 2 + ["BIND"] * 2 + ["BIND"] * 2 + ["BIND"] * 2
    )
    multi = FrameFlag.MULTI
    assert [one.frame.flags for one in world.log[4:]] == [multi] * 4 + [
        multi | FrameFlag.MUTUAL
    ] * 2
    assert world.log[0].frame.flags == multi | FrameFlag.MISERICORDIA
    check_histories(world)


@pytest.mark.parametrize("order", list(permutations("BC")), ids="".join)
def test_they_may_accept_in_any_order(order: tuple[str, ...]):
    world = offered()
    for name in order:
        world[name].engine.accept(1, world.now)
        world.settle()
    assert world.states() == (COVENANTED,) * 3
    assert world["A"].covenant.covenant_id == ord("B") << 24 | 1


def test_one_that_takes_its_time_is_waited_for():
    world = offered()
    world["B"].engine.accept(1, world.now)
    world.settle()
    world.wait(29)
    world["C"].engine.accept(1, world.now)
    world.settle()
    assert world.states() == (COVENANTED,) * 3


@pytest.mark.parametrize("first", ["accept", ""])
@pytest.mark.parametrize("who", "BC")
def test_one_that_rejects_ends_it_for_all(who: str, first: str):
    world = offered()
    other = "C" if who == "B" else "B"
    if first:
        world[other].engine.accept(1, world.now)
        world.settle()
    world[who].engine.reject(1, JUSTIFICATION)
    world.settle()
    assert world["A"].state is IDLE
    assert world["A"].told("rejected")[0].agent_id == agent(who)
    world.wait(1_000)
    assert world.states() == (IDLE,) * 3


def test_one_that_never_answers_ends_it_for_all():
    world = offered()
    world["B"].engine.accept(1, world.now)
    world.settle()
    assert world.states() == (ACCEPTED, ACCEPTED, State.OFFER_RECEIVED)
    world.wait(30)
    assert world["A"].state is IDLE
    world.wait(1_000)
    assert world.states() == (IDLE,) * 3


@pytest.mark.parametrize("early", [False, True])
def test_one_that_defers_is_answered_and_all_bind(early: bool):
    world = offered()
    if early:
        world["B"].engine.accept(1, world.now)
        world.settle()
    world["C"].engine.defer(1, QUESTIONS, world.now)
    world.settle()
    assert world["A"].state is State.DEFERRED
    if not early:
        world["B"].engine.accept(1, world.now)
        world.settle()
    world.wait(100)
    world["A"].engine.inform(1, TEXT, b"so much", world.now)
    world.settle()
    assert world["C"].told("informed")
    assert not world["B"].told("informed")
    world["C"].engine.accept(1, world.now)
    world.settle()
    assert world.states() == (COVENANTED,) * 3


def test_one_answer_serves_all_who_asked():
    world = offered(proposal(Deferrals(2)))
    world["B"].engine.defer(1, QUESTIONS, world.now)
    world["C"].engine.defer(1, OTHER_QUESTIONS, world.now)
    world.settle()
    world["A"].engine.inform(1, TEXT, b"so much", world.now)
    world.settle()
    assert world["B"].told("informed")
    assert world["C"].told("informed")
    all_accept(world)
    world.settle()
    assert world.states() == (COVENANTED,) * 3


@pytest.mark.parametrize("after", [IDLE, COVENANTED])
def test_a_lost_bind_leads_out_for_all(after: State):
    """The first one, or the last one: after that, A and the other are in force for a while."""
    world = offered()
    all_accept(world)
    world.collect()
    while world["A"].state is not (BINDING if after is IDLE else COVENANTED):
        world.deliver(world.under_way.pop(0))
    world.under_way = [one for one in world.under_way if one.receiver != "C"]
    world.settle()
    assert world["A"].state is (BINDING if after is IDLE else COVENANTED)
    world.wait(1_000)
    assert not any(one.covenant.in_force for one in world.agents.values())


def test_a_bind_with_all_signatures_but_one_is_dropped():
    world = offered()
    all_accept(world)
    world.collect()
    while world["A"].state is not COVENANTED:
        world.deliver(world.under_way.pop(0))
    [sent] = [one for one in world.lose() if one.receiver == "C"]
    bind = payloads.decode(FrameType.BIND, sent.frame.payload)
    assert isinstance(bind, Bind)
    before = world["C"].everything()
    for signers in (bind.bound_agents[:1], bind.bound_agents[1:]):
        body = payloads.encode(replace(bind, bound_agents=signers))
        frame = replace(sent.frame, payload=body, signature=b"")
        world.inject("C", frame.signed(identity_of("A").sign).encode())
    assert world["C"].engine.refused == {"bad_signature": 2}
    assert world["C"].everything() == before
    world.deliver(sent)
    assert world["C"].state is COVENANTED


# In force


@EVERYBODY
def test_data_reaches_all_others(who: str):
    world = bound()
    world[who].engine.send(1, TEXT, b"all", world.now)
    world.settle()
    for name in "ABC":
        got = [one.agent_id for one in world[name].told("data")]
        assert got == ([] if name == who else [agent(who)])


def test_data_of_a_quarantined_member_is_not_passed_on_until_it_is_cleared():
    world = bound(proposal(PayloadSize(4)))
    covenant = world["C"].covenant
    named = covenant.covenant_id
    for _ in range(3):
        data = payloads.Data(named, TEXT, b"12345")
        world.inject("A", world.forge("C", FrameType.DATA, data), world.link("C"))
        covenant.tx_sequence += 1
        world.settle()
    assert agent("C") in world["A"].engine.quarantined
    for name in "BC":
        found = [one.violation for one in world[name].told("violation")]
        accused = [one for one in found if isinstance(one, Violation)]
        assert {one.violating_agent for one in accused} == {agent("C")}
    passed = len(world["B"].told("data"))
    world["C"].covenant.suspended_by.clear()
    world.jump(2)
    world["C"].engine.send(1, TEXT, b"psst", world.now)
    world.settle()
    assert len(world["B"].told("data")) == passed
    world["A"].engine.review(1, "clear", "")
    world["B"].engine.clear(agent("C"))
    world.settle()
    world.jump(1)
    world["C"].engine.send(1, TEXT, b"good", world.now)
    world.settle()
    assert world["B"].told("data")[-1].data == payloads.Data(named, TEXT, b"good")


@EVERYBODY
def test_each_may_propose_a_version_and_all_others_must_agree(who: str):
    world = bound()
    others = [name for name in "ABC" if name != who]
    world[who].engine.amend(1, proposal(notice=5 * SECOND), world.now)
    world.settle()
    assert world.states() == (AMENDING,) * 3
    world[others[0]].engine.accept(1, world.now)
    world.settle()
    assert versions(world) == (1, 1, 1)
    with pytest.raises(FailedPrecondition, match="waits for the other"):
        world[others[0]].engine.accept(1, world.now)
    world[others[1]].engine.accept(1, world.now)
    world.settle()
    assert versions(world) == (2, 2, 2)
    assert world.states() == (COVENANTED,) * 3
    check_histories(world)


@EVERYBODY
def test_one_that_does_not_agree_keeps_the_terms_for_all(who: str):
    world = bound()
    others = [name for name in "ABC" if name != who]
    world[who].engine.amend(1, proposal(notice=5 * SECOND), world.now)
    world.settle()
    world[others[1]].engine.accept(1, world.now)
    world.settle()
    world[others[0]].engine.reject(1, JUSTIFICATION)
    world.settle()
    assert versions(world) == (1, 1, 1)
    assert world.states() == (COVENANTED,) * 3


def test_two_proposals_at_once_do_not_lock_anybody():
    world = bound()
    for name in "BC":
        world[name].engine.amend(1, proposal(notice=ord(name)), world.now)
    world.settle()
    world.wait(60)
    assert world.states() == (COVENANTED,) * 3
    assert versions(world) == (1, 1, 1)


def test_a_late_agreement_counts_with_all_who_had_agreed():
    world = bound(proposal(timer("T_amend", 5)))
    world["A"].engine.amend(1, proposal(notice=5 * SECOND), world.now)
    world.settle()
    world["B"].engine.accept(1, world.now)
    world.settle()
    world.jump(4.9)
    world["C"].engine.accept(1, world.now)
    world.collect()
    world.jump(0.2)
    world.tick()
    assert versions(world) == (1, 1, 2)
    world.settle()
    assert versions(world) == (2, 2, 2)
    check_histories(world)


@EVERYBODY
def test_an_agreement_that_one_has_missed_is_repeated_after_a_review(who: str):
    """Whoever has missed it: those who hold the new version show everybody's signature."""
    world = bound(proposal(timer("T_amend", 5), durable=True))
    newer = proposal(notice=5 * SECOND, durable=True)
    world["B"].engine.amend(1, newer, world.now)
    world.settle()
    names = [name for name in "AC" if name != who] + ([who] if who != "B" else [])
    for name in names:
        world[name].engine.accept(1, world.now)
        world.collect()
        world.under_way = [one for one in world.under_way if one.receiver != who or name == who]
        world.settle()
    world.wait(6)
    if who != "B":
        # It has agreed itself, and takes the others' agreement from the first review.
        assert versions(world).count(2) >= 1
    else:
        assert versions(world) == (2, 1, 2)
    world["A"].engine.review(1, "check", "")
    world.settle()
    world["C"].engine.review(1, "check", "")
    world.settle()
    assert versions(world) == (2, 2, 2)
    check_histories(world)


@EVERYBODY
def test_each_may_rotate_its_key(who: str):
    world = bound()
    world[who].engine.rotate(1, NEW_KEY, world.now)
    world.settle()
    for name in "ABC":
        if name != who:
            world[name].engine.accept(1, world.now)
            world.settle()
    assert versions(world) == (2, 2, 2)
    world[who].engine.send(1, TEXT, b"new", world.now)
    world.settle()
    for name in "ABC":
        assert bool(world[name].told("data")) is (name != who)
        assert not world[name].engine.refused
    check_histories(world)


@EVERYBODY
def test_each_may_revoke_and_the_notice_runs_for_all(who: str):
    world = bound()
    world[who].engine.revoke(1, "enough", world.now)
    world.settle()
    assert world.states() == (REVOKING,) * 3
    world.wait(NOTICE / SECOND - 0.001)
    assert world.states() == (REVOKING,) * 3
    world.wait(0.001)
    assert world.states() == (TERMINATED,) * 3


def test_it_ends_early_when_all_and_not_just_two_agree():
    world = bound()
    for name in "AB":
        world[name].engine.revoke(1, "enough", world.now)
        world.settle()
    assert world.states() == (REVOKING,) * 3
    world["C"].engine.revoke(1, "enough", world.now)
    world.settle()
    assert world.states() == (TERMINATED,) * 3


@EVERYBODY
def test_each_may_end_it_without_notice(who: str):
    world = bound()
    world[who].engine.revoke(1, "now", world.now, graceful=False)
    world.settle()
    assert world.states() == (TERMINATED,) * 3


def test_one_that_is_lost_ends_it_for_all():
    world = bound()
    world.disconnect(world.link("C"))
    world.settle()
    assert world.states() == (TERMINATED,) * 3
    assert world["B"].covenant.reason == "its transport was closed"


def test_one_that_falls_silent_is_noticed_though_the_other_is_heard():
    world = bound()
    while world["A"].state is COVENANTED:
        engine = world["A"].engine
        world.now = min(
            at for at in (engine.next_deadline(), world["B"].engine.next_deadline()) if at
        )
        for name in "AB":
            world[name].engine.tick(world.now)
        world.collect()
        world.under_way = [one for one in world.under_way if one.receiver != "C"]
        world.settle()
    assert world["A"].state is REVOKING
    accused = [one.agent_id for one in world["A"].told("violation")]
    assert accused == [agent("C")]
    assert world["B"].state is REVOKING


def test_a_durable_one_goes_on_for_all_after_the_offerer_restarts():
    world = bound(proposal(durable=True))
    world.restart("A")
    for name in "BC":
        link = world.connect("A", name, label="2")
        world["A"].engine.attach(1, agent(name), link)
    world.settle()
    for name in "ABC":
        world[name].engine.send(1, TEXT, name.encode(), world.now)
        world.settle()
    for name in "ABC":
        assert len(world[name].told("data")) == 2
        assert not world[name].engine.quarantined


def test_a_durable_one_goes_on_for_all_after_an_acceptor_restarts():
    world = bound(proposal(durable=True))
    world.restart("C")
    link = world.connect("A", "C", label="2")
    world["C"].engine.attach(1, agent("A"), link)
    world.settle()
    for name in "ABC":
        world[name].engine.send(1, TEXT, name.encode(), world.now)
        world.settle()
    for name in "ABC":
        assert len(world[name].told("data")) == 2
        assert not world[name].engine.quarantined


def test_a_frame_that_the_offerer_passes_on_twice_accuses_nobody_else():
    world = bound()
    for data in (b"1", b"2"):
        world["B"].engine.send(1, TEXT, data, world.now)
        world.settle()
    first = next(one for one in world.sent(FrameType.DATA, "A") if one.receiver == "C")
    world.inject("C", first.raw, world.link("C"))
    assert world["C"].engine.refused == {"replay": 1}
    assert not world["C"].engine.quarantined


def test_frames_that_all_have_prove_nothing_of_a_link():
    world = World("ABC", proved=False)
    world.covenanted()
    world.inject("C", world.forge("A", FrameType.HEARTBEAT, signer="Z"), world.link("C"))
    assert world["C"].engine.refused == {"bad_signature": 1}
    assert not world["C"].engine.quarantined
