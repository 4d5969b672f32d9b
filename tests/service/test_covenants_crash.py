# SPDX-License-Identifier: Apache-2.0
"""A daemon killed at every moment of a covenant's life, while its peer's goes on.

One pair of hosts serves all moments: left is started with a fault armed, and lives through an
offer, an amendment, a quarantine, a rotation and an end until it dies of it. Started again, its
gate lets a peer's data pass if and only if a covenant in force says so, in its store and its API;
the same holds at right.
"""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio
import pytest

from assent.service.faults import VARIABLE, Point
from assent.v1 import covenants_pb2 as pb

from .conftest import Cable, Host, eventually
from .covenant_hosts import (
    COVENANTED,
    IN_FORCE,
    TERMINATED,
    Side,
    entered,
    in_session,
    introduce,
    proposal,
    terms,
)

POINTS = list(Point)
HALVES = [pytest.param(POINTS[at::2], at, id=("first", "second")[at]) for at in (0, 1)]
BOTH = {1: 64, 2: 64}


async def live(left: Side, right: Side, *, durable: bool) -> None:
    """A covenant's whole life; right agrees to everything by itself."""
    what = proposal(durable=durable, notice=0.1, both=True)
    ours = await left.offer("right", what=what)
    await left.until(ours, COVENANTED)
    await in_session(left, right)
    await left.covenants.Amend(pb.AmendRequest(handle=ours, terms=terms(flows=(1, 2), both=True)))

    async def amended() -> bool:
        return (await left.get(ours)).version == 2

    await eventually(amended, "the amendment is in force")
    await in_session(left, right, BOTH)
    await left.open_flow("right")

    async def condemned() -> bool:
        await right.send(left, size=1024)
        return bool(await left.quarantined("right"))

    await eventually(condemned, "left has had enough of right")
    await left.covenants.Review(
        pb.ReviewRequest(handle=ours, kind=pb.REVIEW_KIND_CLEAR, note="a test")
    )
    cell = await left.cell()
    await left.covenants.Rotate(pb.RotateRequest())

    async def rotated() -> bool:
        return await left.cell() != cell

    await eventually(rotated, "left has another key")
    await in_session(left, right, BOTH)
    await left.revoke(ours)
    await left.until(ours, TERMINATED)


async def until_death(host: Host, life: object) -> None:
    """Lives until the daemon dies of its fault."""
    process = host.process
    assert process is not None
    living = asyncio.ensure_future(life)  # type: ignore[call-overload]

    async def dead() -> bool:
        return process.poll() is not None or (living.done() and not living.exception())

    watching = asyncio.ensure_future(eventually(dead, "it dies", 30))
    await asyncio.wait({living, watching}, return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if living.done():
            living.result()
    await watching
    living.cancel()
    await asyncio.gather(living, return_exceptions=True)
    assert process.poll() is not None, "its fault was never come to"
    host.process = None


async def clear_away(*sides: Side) -> None:
    """Ends what is in force, and forgives everybody."""

    async def nothing() -> bool:
        for side in sides:
            for one in await side.list():
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await side.covenants.Review(
                        pb.ReviewRequest(handle=one.handle, kind=pb.REVIEW_KIND_CLEAR)
                    )
                    await side.revoke(one.handle, now=True)
        left_over = [one.state for side in sides for one in await side.list()]
        return not IN_FORCE & set(left_over)

    await eventually(nothing, "nothing is in force")


@pytest.mark.parametrize(("points", "odd"), HALVES)
async def test_a_covenant_is_in_the_gate_if_and_only_if_it_is_in_force(
    cable: Cable, points: list[Point], odd: int
):
    left_host = cable.left
    async with entered(left_host, cable.right) as (left, right):
        await introduce(left, right)
        await right.policy(pb.CovenantPolicy(durable=True, amendments=True))
        for at, point in enumerate(points):
            left_host.stop()
            left_host.environment = {VARIABLE: point.value}
            await left_host.start()
            durable = (at + odd) % 2 == 0
            await until_death(left_host, live(left, right, durable=durable))
            left_host.environment = {}
            await left_host.start()
            for side, other in ((left, "right"), (right, "left")):
                await side.open_for(other)
            await clear_away(left, right)
            # What a handshake that was cut short leaves behind is another test's matter.
            await left.api.connect("right", renew=True)
            for side, other in ((left, "right"), (right, "left")):
                assert not await side.open_for(other)
                assert side.derived() == []
