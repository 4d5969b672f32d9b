# SPDX-License-Identifier: Apache-2.0
"""Covenants between two daemons over the fabric, from the offer to what the gates let pass."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode

from assent.v1 import cells_pb2, common_pb2, grants_pb2, sessions_pb2
from assent.v1 import covenants_pb2 as pb
from assent.wire.fabric import BLOCK_LEN

from .conftest import Cable, by_name, eventually, refused
from .covenant_hosts import (
    AMENDING,
    COVENANTED,
    DEFERRED,
    IDLE,
    QUESTIONS,
    RECEIVED,
    REVOKING,
    SENT,
    TERMINATED,
    TEXT,
    WHY,
    WINDOW,
    Side,
    agree,
    entered,
    in_session,
    introduce,
    payload,
    proposal,
    rate,
    terms,
    timer,
)

Two = tuple[Side, Side]
CLOSED = {"control", "established"}
LEASED = {*CLOSED, "covenanted", "terms", "leased"}


@pytest.fixture
async def two(cable: Cable) -> AsyncIterator[Two]:
    """Two hosts that leave each other's consent to covenants, without one."""
    async with entered(cable.left, cable.right) as (left, right):
        await introduce(left, right)
        yield left, right


async def grants(side: Side, name: str) -> dict[int, int]:
    reply = await side.api.grants.List(grants_pb2.ListGrantsRequest())
    cell = bytes(await side.cell(name))
    return {grant.flow: grant.window_blocks for grant in reply.grants if grant.remote.value == cell}


# From the offer to the gate


async def test_an_offer_that_is_accepted_opens_the_gate_as_far_as_it_says(two: Two):
    left, right = two
    ours = await left.offer("right", what=proposal(rate(1_000_000), payload(512)))
    theirs = (await right.newest(RECEIVED)).handle
    assert (await left.get(ours)).state == SENT
    assert await right.says("left") == CLOSED
    assert await left.send(right, flow=0) == "admitted"
    assert await left.send(right) == "no_covenant"
    assert await grants(right, "left") == {}

    await right.accept(theirs)
    here, there = await left.until(ours, COVENANTED), await right.until(theirs, COVENANTED)
    assert here.covenant_id == there.covenant_id != 0
    assert [peer.bound for peer in (*here.peers, *there.peers)] == [True, True]
    await in_session(left, right)
    assert await right.says("left") == LEASED
    entry = await right.pair("left")
    assert entry.data_interval == 1000
    assert entry.data_burst >= WINDOW * 1000
    assert entry.payload_limit == 512 + 16
    assert (entry.open_from > 0, entry.open_until) == (True, 0)
    assert await grants(right, "left") == {1: WINDOW}

    await right.open_flow("left")
    assert await left.send(right) == "admitted"
    assert await left.send(right, size=528) == "admitted"
    assert await left.send(right, size=529) == "oversize"
    assert await left.send(right, flow=2) == "unknown_flow"
    assert await left.send(right, flow=0) == "admitted"


async def test_who_may_not_send_is_not_heard_but_for_receipts(two: Two):
    left, right = two
    await agree(left, right)
    await in_session(left, right)
    await left.open_flow("right")
    assert await right.send(left, size=17) == "oversize"
    assert await right.send(left) == "admitted"


async def test_data_and_reviews_go_both_ways_over_the_covenant_itself(two: Two):
    left, right = two
    ours, theirs = await agree(left, right, proposal(both=True))
    news = right.covenants.Watch(pb.WatchCovenantsRequest(handle=theirs))
    await news.initial_metadata()
    await left.covenants.Send(pb.SendRequest(handle=ours, content_type=TEXT, data=b"hello"))
    request = pb.ReviewRequest(handle=ours, kind=pb.REVIEW_KIND_CHECK, note="all well?")
    await left.covenants.Review(request)
    heard = [await news.read() for _ in range(2)]
    assert [one.kind for one in heard] == ["data", "reviewed"]
    assert heard[0].data == pb.CovenantData(content_type=TEXT, data=b"hello")


async def test_consent_that_is_not_left_to_covenants_cannot_be_offered_one(two: Two):
    left, right = two
    request = cells_pb2.SetConsentRequest(
        cell=by_name("right"), consent=common_pb2.CONSENT_STANDING
    )
    await left.api.cells.SetConsent(request)
    with pytest.raises(Exception, match="not decided by covenants"):
        await left.offer("right")
    assert await left.list(ended=True) == []
    assert await right.list(ended=True) == []


# Decisions


async def test_a_rejection_says_why_and_what_would_be_accepted(two: Two):
    left, right = two
    ours = await left.offer("right")
    theirs = (await right.newest(RECEIVED)).handle
    request = pb.RejectRequest(handle=theirs, justification=WHY, counter_terms=terms(rate(1000)))
    await right.covenants.Reject(request)
    found = await left.until(ours, IDLE)
    assert found.rejection.justification == WHY
    assert any(line.startswith("+") for line in found.rejection.counter_changes)
    assert (await right.get(theirs)).state == IDLE
    assert await right.says("left") == await left.says("right") == CLOSED
    # What was said in return can be offered.
    await agree(left, right, proposal(rate(1000)))


async def test_a_deferral_is_answered_before_the_decision(two: Two):
    left, right = two
    ours = await left.offer("right")
    theirs = (await right.newest(RECEIVED)).handle
    await right.covenants.Defer(pb.DeferRequest(handle=theirs, deferral=QUESTIONS))
    found = await left.until(ours, DEFERRED)
    assert list(found.questions.questions) == list(QUESTIONS.questions)
    await left.covenants.Inform(
        pb.InformRequest(handle=ours, content_type=TEXT, data=b"very little")
    )
    await right.until(theirs, RECEIVED)
    assert await right.says("left") == CLOSED
    await right.accept(theirs)
    await left.until(ours, COVENANTED)
    await in_session(left, right)


async def test_an_offer_that_nobody_answers_times_out_on_both_sides(two: Two):
    left, right = two
    ours = await left.offer("right", what=proposal(timer("T_offer", 0.3)))
    theirs = (await right.newest(RECEIVED, IDLE)).handle
    for side, handle in ((left, ours), (right, theirs)):
        assert "T_offer" in (await side.until(handle, IDLE)).reason


async def test_what_lies_within_a_policy_is_accepted_without_asking(two: Two):
    left, right = two
    await right.policy(pb.CovenantPolicy(flows=[1], burst_max_blocks=WINDOW))
    ours = await left.offer("right")
    await left.until(ours, COVENANTED)
    await in_session(left, right)


async def test_what_lies_outside_a_policy_is_asked_about_and_then_rejected(two: Two):
    left, right = two
    await right.policy(pb.CovenantPolicy(flows=[2]), "left")
    limit = pb.Constraint(id="patience", party="*", deferrals=1)
    ours = await left.offer("right", what=proposal(limit))
    await left.until(ours, DEFERRED)
    await left.covenants.Inform(pb.InformRequest(handle=ours, content_type=TEXT, data=b"please"))
    found = await left.until(ours, IDLE)
    assert "flow 1" in found.rejection.justification.rejection_reasons[0].rationale
    assert await right.says("left") == CLOSED


# Amendments


async def test_old_terms_hold_until_an_amendment_is_accepted(two: Two):
    left, right = two
    ours, theirs = await agree(left, right, proposal(rate(1_000_000)))
    await in_session(left, right)
    before = await right.pair("left")
    wider = terms(rate(2_000_000), flows=(1, 2))
    await left.covenants.Amend(pb.AmendRequest(handle=ours, terms=wider))
    found = await right.until(theirs, AMENDING)
    assert found.amendment_changes
    assert (await right.pair("left")).data_interval == before.data_interval == 1000
    assert await grants(right, "left") == {1: WINDOW}

    await right.accept(theirs)
    for side, handle in ((left, ours), (right, theirs)):
        assert (await side.until(handle, COVENANTED)).version == 2
    await in_session(left, right, {1: WINDOW, 2: WINDOW})
    assert (await right.pair("left")).data_interval == 500
    await right.open_flow("left", 2)
    assert await left.send(right, flow=2) == "admitted"


async def test_an_amendment_that_is_rejected_leaves_all_as_it_was(two: Two):
    left, right = two
    ours, theirs = await agree(left, right)
    await in_session(left, right)
    session = (await right.api.session("left")).id
    await right.covenants.Amend(pb.AmendRequest(handle=theirs, terms=terms(flows=(1, 2, 3))))
    await left.until(ours, AMENDING)
    await left.covenants.Reject(pb.RejectRequest(handle=ours, justification=WHY))
    for side, handle in ((left, ours), (right, theirs)):
        found = await side.until(handle, COVENANTED)
        assert (found.version, found.HasField("amendment")) == (1, False)
    assert found.rejection.justification == WHY
    assert (await right.api.session("left")).id == session
    assert await grants(right, "left") == {1: WINDOW}


# Ends


async def gone(side: Side, name: str) -> None:
    """Nothing is left of the covenant with a peer."""

    async def closed() -> bool:
        return await side.says(name) == {"control"} and await side.api.session(name) is None

    await eventually(closed, f"{side.name} has no session with {name}")
    assert await grants(side, name) == {}
    entry = await side.pair(name)
    assert (entry.data_interval, entry.open_until, entry.payload_limit) == (0, 0, 0)
    assert side.derived() == []


async def test_data_passes_until_the_notice_is_over_even_if_the_daemon_is_stopped(
    two: Two, cable: Cable
):
    left, right = two
    ours, theirs = await agree(left, right, proposal(notice=1.5))
    await in_session(left, right)
    await right.open_flow("left")
    await left.revoke(ours)
    found = await right.until(theirs, REVOKING)
    assert found.notice_ends_unix_us
    frame = await left.voice(right)
    process = cable.right.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        assert right.decide(frame()) == "admitted"

        async def closed() -> bool:
            return right.decide(frame()) == "outside_window"

        await eventually(closed, "the gate alone ends it")
    finally:
        process.send_signal(signal.SIGCONT)
    for side, handle, peer in ((left, ours, "right"), (right, theirs, "left")):
        await side.until(handle, TERMINATED)
        await gone(side, peer)


async def test_both_may_end_it_before_the_notice_is_over(two: Two):
    left, right = two
    ours, theirs = await agree(left, right, proposal(notice=3600))
    await left.revoke(ours)
    await right.until(theirs, REVOKING)
    await right.revoke(theirs)
    for side, handle in ((left, ours), (right, theirs)):
        await side.until(handle, TERMINATED)


async def test_consent_withdrawn_at_once_ends_it_at_once(two: Two):
    left, right = two
    ours, theirs = await agree(left, right, proposal(notice=3600))
    await in_session(left, right)
    found = await right.revoke(theirs, now=True)
    assert found.state == TERMINATED
    await left.until(ours, TERMINATED)
    await gone(left, "right")
    await gone(right, "left")
    code, text = await refused(left.revoke(ours))
    assert (code, text) == (StatusCode.FAILED_PRECONDITION, f"covenant {ours} has ended")


async def test_an_offer_is_withdrawn(two: Two):
    left, right = two
    ours = await left.offer("right")
    await right.newest(RECEIVED)
    assert (await left.revoke(ours)).state == IDLE
    assert await left.says("right") == await right.says("left")


# What travels


def item(kind: str) -> sessions_pb2.ManifestItem:
    return sessions_pb2.ManifestItem(
        name="a", size=1, digest=hashlib.sha256(b"a").digest(), algorithm="sha256",
        content_type=kind,
    )  # fmt: skip


async def test_what_was_not_agreed_on_cannot_be_announced(two: Two):
    left, right = two
    ours, _ = await agree(left, right, proposal(types=["text/*"]))
    await in_session(left, right)
    watch = right.api.sessions.WatchManifests(sessions_pb2.WatchManifestsRequest())
    await watch.initial_metadata()
    announce = sessions_pb2.AnnounceRequest(
        remote=by_name("right"), flow=1, items=[item("image/png")]
    )
    code, text = await refused(left.api.sessions.Announce(announce))
    assert (code, text) == (
        StatusCode.DEADLINE_EXCEEDED,
        "the peer did not take the manifest in time",
    )
    (found,) = [one for one in await right.evidence() if "violation" in one]
    assert "image/png" in found["text"]
    announce.items[0].content_type = TEXT
    await left.api.sessions.Announce(announce, timeout=15)
    assert (await watch.read()).items[0].content_type == TEXT
    assert (await left.get(ours)).state == COVENANTED


# Breaches


async def test_data_beyond_the_grant_leads_to_quarantine_and_a_review_out_of_it(two: Two):
    """A sender that is covenanted, and sends more than it has been granted, again and again."""
    left, right = two
    ours, theirs = await agree(left, right)
    await in_session(left, right)
    await right.open_flow("left")
    blocks = 1408 // BLOCK_LEN

    async def overspent() -> bool:
        await left.send(right, size=blocks * BLOCK_LEN)
        return bool(await right.quarantined("left"))

    await eventually(overspent, "right has had enough of it")
    assert "quarantined" in await right.says("left")
    assert await left.send(right) == "quarantined"
    assert await left.send(right, flow=0) == "admitted"
    violations = [one for one in await right.evidence() if one.get("event") == "violation"]
    assert violations
    await right.covenants.Review(
        pb.ReviewRequest(handle=theirs, kind=pb.REVIEW_KIND_CLEAR, note="a fault")
    )
    assert await right.quarantined("left") == ""
    assert await left.send(right) != "quarantined"
    assert (await left.get(ours)).state == COVENANTED
