# SPDX-License-Identifier: Apache-2.0
"""What of covenants outlives a daemon, what ends with it, and how a cell gets another key."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode

from assent.covenant.document import verify_export
from assent.service.covenants.evidence import EvidenceLog
from assent.service.covenants.gatekeeper import LEASE_NS
from assent.service.faults import VARIABLE, Point
from assent.v1 import covenants_pb2 as pb
from assent.wire.cellid import CellID

from .conftest import Cable, Host, Place, by_name, eventually, housed, refused, switched
from .covenant_hosts import (
    AMENDING,
    COVENANTED,
    RECEIVED,
    TERMINATED,
    TEXT,
    WHY,
    WINDOW,
    Side,
    agree,
    entered,
    flags_of,
    in_session,
    introduce,
    proposal,
)

Two = tuple[Side, Side]


@pytest.fixture
async def two(cable: Cable) -> AsyncIterator[Two]:
    async with entered(cable.left, cable.right) as (left, right):
        await introduce(left, right)
        yield left, right


# Restarts


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_durable_covenant_outlives_the_daemon_and_its_gate_stays_open(
    two: Two, cable: Cable, end: int
):
    left, right = two
    ours, theirs = await agree(left, right, proposal(durable=True, both=True))
    await in_session(left, right)
    await right.open_flow("left")
    voice = await left.voice(right)
    before = await right.get(theirs)
    cable.right.stop(end)
    assert right.decide(voice()) == "admitted"
    await cable.right.start()
    assert right.decide(voice()) == "admitted"
    assert await right.open_for("left")
    after = await right.get(theirs)
    for one in (before, after):
        one.peers[0].link, one.updated_unix_us = "", 0
    assert after == before

    async def linked() -> bool:
        return bool((await right.get(theirs)).peers[0].link)

    await eventually(linked, "right reaches left again")
    # Sequence numbers go on: what is said now is newer than all that was said before.
    news = left.covenants.Watch(pb.WatchCovenantsRequest(handle=ours))
    await news.initial_metadata()
    await right.covenants.Send(pb.SendRequest(handle=theirs, content_type=TEXT, data=b"again"))
    while (await news.read()).data.data != b"again":
        pass


async def test_others_end_with_the_daemon_before_its_api_answers(two: Two, cable: Cable):
    left, right = two
    ours, theirs = await agree(left, right)
    await in_session(left, right)
    await right.open_flow("left")
    voice = await left.voice(right)
    cable.right.stop(signal.SIGKILL)
    # Nobody renews the lease: the gate lets data pass no longer than that.
    until, now = right.lease()
    assert 0 < until - now <= LEASE_NS
    entry = right.entry(await left.cell("left"), await left.cell("right"))
    assert entry is not None
    assert "leased" in flags_of(entry)
    assert right.decide(voice()) == "admitted"
    right.end_lease()
    assert right.decide(voice()) == "lease_expired"
    assert right.decide(voice(flow=0)) == "admitted"

    await cable.right.start()
    assert (await right.get(theirs)).state == TERMINATED
    assert not await right.open_for("left")
    await left.until(ours, TERMINATED)
    assert not await left.open_for("right")


async def test_a_quarantine_outlives_the_daemon_and_ends_by_a_review(two: Two, cable: Cable):
    left, right = two
    _, theirs = await agree(left, right, proposal(durable=True))
    await in_session(left, right)
    await right.open_flow("left")

    async def condemned() -> bool:
        await left.send(right, size=1024)
        return bool(await right.quarantined("left"))

    await eventually(condemned, "right has had enough")
    voice = await left.voice(right)
    cable.right.stop(signal.SIGKILL)
    assert right.decide(voice()) == "quarantined"
    await cable.right.start()
    assert right.decide(voice()) == "quarantined"
    assert right.decide(voice(flow=0)) == "admitted"
    assert await right.quarantined("left")
    code, text = await refused(right.covenants.Offer(_offer()))
    assert (code, "quarantined" in text) == (StatusCode.FAILED_PRECONDITION, True)
    await right.covenants.Review(pb.ReviewRequest(handle=theirs, kind=pb.REVIEW_KIND_CLEAR))
    assert right.decide(voice()) != "quarantined"
    assert await right.quarantined("left") == ""


def _offer() -> pb.OfferRequest:
    return pb.OfferRequest(remotes=[pb.OfferRemote(cell=by_name("left"))], proposal=proposal())


# Keys


async def test_a_cell_gets_another_key_and_everything_goes_on(
    two: Two, cable: Cable, tmp_path: Path
):
    left, right = two
    ours, theirs = await agree(left, right, proposal(durable=True))
    await in_session(left, right)
    old = await left.cell()
    reply = await left.covenants.Rotate(pb.RotateRequest())
    assert [one.handle for one in reply.covenants] == [ours]
    await right.until(theirs, AMENDING)
    assert await left.cell() == old, "not before all have agreed"
    await right.accept(theirs)

    await _renamed_to_the_same(left, right, old)
    await in_session(left, right)
    await right.open_flow("left")
    assert await left.send(right) == "admitted"
    for side, handle in ((left, ours), (right, theirs)):
        assert (await side.get(handle)).version == 2
        reply = await side.covenants.Export(pb.ExportRequest(handle=handle))
        report = verify_export(reply.document)
        assert report is not None
    assert len({bytes(await left.cell()), bytes(old)}) == 2


async def test_a_peer_that_refuses_the_new_key_ends_its_covenant(two: Two):
    left, right = two
    ours, theirs = await agree(left, right, proposal(durable=True))
    await in_session(left, right)
    old = await left.cell()
    await left.covenants.Rotate(pb.RotateRequest())
    await right.until(theirs, AMENDING)
    await right.covenants.Reject(pb.RejectRequest(handle=theirs, justification=WHY))
    found = await left.until(ours, TERMINATED)
    assert "rotated" in found.reason
    await right.until(theirs, TERMINATED)
    for side, other in ((left, "right"), (right, "left")):
        assert not await side.open_for(other)

    async def rotated() -> bool:
        return await left.cell() != old

    await eventually(rotated, "left has its new key all the same")
    assert await right.cell("left") == old


@pytest.mark.parametrize("durable", [False, True])
async def test_a_rotation_that_was_agreed_on_is_finished_after_a_crash(
    two: Two, cable: Cable, durable: bool
):
    """Right knows left by the new key from then on, even if the crash ends their covenant."""
    left, right = two
    cable.left.stop()
    cable.left.environment = {VARIABLE: Point.REKEY_RENAMED.value}
    await cable.left.start()
    cable.left.environment = {}
    _, theirs = await agree(left, right, proposal(durable=durable))
    await in_session(left, right)
    old, process = await left.cell(), cable.left.process
    assert process is not None
    await left.covenants.Rotate(pb.RotateRequest())
    await right.until(theirs, AMENDING)
    await right.accept(theirs)
    await eventually(lambda: process.poll() is not None, "left dies of it")

    async def known() -> bool:
        return await right.cell("left") != old

    await eventually(known, "right knows left by its new key")
    await cable.left.start()
    await _renamed_to_the_same(left, right, old)
    await left.api.connect("right", renew=True)


async def test_a_rotation_that_is_undecided_goes_on_after_a_crash(two: Two, cable: Cable):
    left, right = two
    ours, theirs = await agree(left, right, proposal(durable=True))
    await in_session(left, right)
    old = await left.cell()
    await left.covenants.Rotate(pb.RotateRequest())
    await right.until(theirs, AMENDING)
    cable.left.stop(signal.SIGKILL)
    await cable.left.start()
    assert await left.cell() == old

    async def linked() -> bool:
        return bool((await right.get(theirs)).peers[0].link)

    await eventually(linked, "right reaches left again")
    await right.accept(theirs)
    await _renamed_to_the_same(left, right, old)
    await in_session(left, right)
    assert (await left.get(ours)).version == 2


async def _renamed_to_the_same(left: Side, right: Side, old: CellID) -> None:
    async def rotated() -> bool:
        return old != await left.cell() == await right.cell("left")

    await eventually(rotated, "both know the new key")


# Three


async def test_three_agree_on_one_offer_and_one_of_them_ends_it():
    hosts = [Host(name, Place()) for name in ("left", "right", "third")]
    with housed(hosts), switched(hosts):
        for host in hosts:
            host.launch()
        for host in hosts:
            await host.answers()
        async with entered(*hosts) as sides:
            left, right, third = sides
            await introduce(*sides)
            ours = await left.offer("right", "third", what=proposal(both=True, notice=0))
            handles = {"left": ours}
            for side in (right, third):
                handles[side.name] = (await side.newest(RECEIVED)).handle
                await side.accept(handles[side.name])
            for side in sides:
                assert (await side.until(handles[side.name], COVENANTED)).multi
            for here in sides:
                for there in sides:
                    if here is not there:
                        await in_session(here, there, {1: WINDOW})
                        assert await there.open_for(here.name)
            await third.revoke(handles["third"], now=True)
            for side in sides:
                await side.until(handles[side.name], TERMINATED)
            for here in sides:
                for there in sides:
                    if here is not there:
                        assert not await there.open_for(here.name)


# Evidence


async def test_the_evidence_of_all_this_is_one_unbroken_chain(two: Two, cable: Cable):
    left, right = two
    ours, theirs = await agree(left, right)
    await left.revoke(ours, now=True)
    await right.until(theirs, TERMINATED)
    frames = {
        way: [one["frame"] for one in await right.evidence() if one.get("way") == way]
        for way in ("received", "sent")
    }
    assert frames == {"received": ["OFFER", "BIND", "REVOKE"], "sent": ["ACCEPT", "BIND"]}
    assert [one["number"] for one in await right.evidence()] == list(
        range(1, len(await right.evidence()) + 1)
    )
    cable.right.stop()
    with EvidenceLog(right.place.config.state_dir / "evidence.log") as log:
        assert log.verify() >= len(frames)
