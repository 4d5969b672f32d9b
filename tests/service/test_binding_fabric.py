# SPDX-License-Identifier: Apache-2.0
"""bindings/fabric.py: two cells agree over flow 0, joined here in memory by a wire with a switch.

near: FabricLinks ---body---> wire ---body---> FabricLinks :far
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.service.binding_rig import BUG, Owner, frame
from tests.service.conftest import eventually

from assent.covenant import carrier
from assent.covenant.carrier import Pace
from assent.errors import FailedPrecondition, InvalidArgument, Unavailable
from assent.identity.keys import Identity
from assent.service.bindings.fabric import FabricLinks, has_arrived
from assent.service.bindings.links import FRAME_MAX, Link, Refusal
from assent.wire.control import CovenantParcel, CovenantPiece

LEFT, RIGHT, OTHER = (Identity.from_seed(bytes([n] * 32)).cell_id for n in (1, 2, 3))
ROOM = 600
BIG = frame(bytes(FRAME_MAX - len(frame(b""))))
FAST = Pace(interval=1, burst=1 << 20)


class Wire:
    """Two ends in session; `broken` says that nothing is sent, `lossy` that some is lost."""

    def __init__(self, **settings: Any) -> None:
        self.owners = Owner(), Owner(echo=True)
        self.near = FabricLinks(self.owners[0], pace=FAST, **settings)
        self.far = FabricLinks(self.owners[1], pace=FAST, **settings)
        self.broken = False
        self.loss = 0.0
        self.dice = random.Random(1)
        self.bodies = 0

    def up(self, room: int = ROOM) -> None:
        self.near.session_up(RIGHT, LEFT, room, self._way(self.far, LEFT, RIGHT))
        self.far.session_up(LEFT, RIGHT, room, self._way(self.near, RIGHT, LEFT))

    def down(self) -> None:
        self.near.session_down(RIGHT, LEFT)
        self.far.session_down(LEFT, RIGHT)

    def _way(self, to: FabricLinks, source: Any, target: Any) -> Any:
        def send(body: dict[str, object]) -> None:
            self.bodies += 1
            if self.broken:
                raise Unavailable("the interface is down")
            if self.dice.random() >= self.loss:
                asyncio.get_running_loop().call_soon(to.receive, source, target, body)

        return send


@pytest.fixture
async def wire():
    wire = Wire()
    wire.up()
    yield wire
    wire.near.close()
    wire.far.close()


async def test_a_link_is_opened_at_its_first_use_and_at_the_first_arrival(wire: Wire):
    near, far = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    assert near.links == [link]
    assert wire.near.link(RIGHT, LEFT) is link
    assert (link.kind, link.peer_cell, link.claimed_agent) == ("fabric", RIGHT, None)
    assert not far.links
    link.send(frame(b"one"))
    await eventually(lambda: near.frames, "the echo")
    assert near.frames == [(link, frame(b"one"))]
    assert [one.peer_cell for one in far.links] == [LEFT]


async def test_frames_of_all_lengths_survive_loss(wire: Wire):
    near, far = wire.owners
    wire.loss = 0.2
    link = wire.near.link(RIGHT, LEFT)
    sent = [frame(bytes(n)) for n in (0, 1, 400, 600, 5000)]
    for one in sent:
        link.send(one)
    await eventually(lambda: len(near.frames) == len(sent), "the echoes")
    assert [got for _, got in near.frames] == sent
    assert [got for _, got in far.frames] == sent


async def test_the_longest_frame_arrives(wire: Wire):
    wire.near.link(RIGHT, LEFT).send(BIG)
    await eventually(lambda: wire.owners[0].frames, "the echo")
    assert wire.owners[0].frames[0][1] == BIG


async def test_a_renewed_session_is_not_noticed(wire: Wire):
    near, _ = wire.owners
    wire.broken = True
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame(b"under way"))
    wire.broken = False
    wire.up(2 * ROOM)
    await eventually(lambda: near.frames, "the echo")
    assert near.frames == [(link, frame(b"under way"))]
    assert not near.ends


async def test_smaller_frames_in_a_renewed_session_end_the_link(wire: Wire):
    near, _ = wire.owners
    old = wire.near.link(RIGHT, LEFT)
    wire.up(ROOM // 2)
    assert near.ends == [(old, "the session's frames have become smaller")]
    new = wire.near.link(RIGHT, LEFT)
    new.send(frame(b"anew"))
    await eventually(lambda: near.frames, "the echo")
    assert near.frames == [(new, frame(b"anew"))]


async def test_the_end_of_the_session_ends_the_link_once(wire: Wire):
    near, far = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame())
    await eventually(lambda: near.frames, "the echo")
    wire.down()
    wire.down()
    assert near.ends == [(link, "the session has ended")]
    assert [reason for _, reason in far.ends] == ["the session has ended"]
    bodies = wire.bodies
    link.send(frame(b"into the void"))
    link.close("again")
    assert wire.bodies == bodies
    with pytest.raises(FailedPrecondition, match="no session"):
        wire.near.link(RIGHT, LEFT)


async def test_a_link_that_was_closed_comes_back_with_the_next_frame(wire: Wire):
    near, _ = wire.owners
    first = wire.near.link(RIGHT, LEFT)
    first.send(frame(b"last words"))
    first.close("enough")
    assert near.ends == [(first, "enough")]
    await eventually(lambda: near.frames, "the echo")
    assert len(near.links) == 2
    assert near.frames == [(near.links[1], frame(b"last words"))]


async def test_one_end_that_began_anew_goes_on(wire: Wire):
    near, far = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame(b"one"))
    await eventually(lambda: near.frames, "the echo")
    wire.far.session_down(LEFT, RIGHT)
    wire.far.session_up(LEFT, RIGHT, ROOM, wire._way(wire.near, RIGHT, LEFT))
    link.send(frame(b"two"))
    await eventually(lambda: len(near.frames) == 2, "the echo")
    assert [got for _, got in far.frames] == [frame(b"one"), frame(b"two")]
    assert not near.ends


async def test_a_frame_has_arrived_once_its_owner_is_done_with_it_and_not_before(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    """Who is killed in the middle has acknowledged nothing."""
    far = wire.owners[1]

    def received(link: Link, raw: bytes) -> None:
        far.frames.append((link, raw))
        wire.broken = True

    monkeypatch.setattr(far, "received", received)
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame(b"one"))
    await eventually(lambda: far.frames, "it is taken in")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not has_arrived(link)
    wire.broken = False
    await eventually(lambda: has_arrived(link), "it is acknowledged")
    assert [raw for _, raw in far.frames] == [frame(b"one")]


async def test_what_comes_without_a_session_is_nobody_s(wire: Wire):
    body = CovenantParcel(1, 0).to_body()
    wire.near.receive(OTHER, LEFT, body)
    wire.near.receive(LEFT, RIGHT, body)
    assert wire.bodies == 0
    assert not wire.near.refusals.counts


@pytest.mark.parametrize("body", [None, {}, {"from": 0, "to": 0, "next": 0, "beyond": b""}])
async def test_a_malformed_body_is_counted_and_nothing_else(wire: Wire, body: object):
    link = wire.near.link(RIGHT, LEFT)
    wire.near.receive(RIGHT, LEFT, body)
    assert wire.near.refusals.counts == {Refusal.MALFORMED: 1}
    assert link.is_open
    assert wire.bodies == 0


async def test_what_is_no_frame_is_counted_and_not_delivered(wire: Wire):
    near, _ = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame())
    await eventually(lambda: near.frames, "the echo")
    # A carrier of the peer's that carries anything.
    for what in (b"no frame", frame(b"but this is one")):
        wire.far._pairs[LEFT, RIGHT].send(what)
    await eventually(lambda: len(near.frames) == 2, "the frame")
    assert near.frames[1] == (link, frame(b"but this is one"))
    assert wire.near.refusals.counts == {Refusal.MALFORMED: 1}


async def test_a_bug_of_the_owner_s_costs_one_frame(wire: Wire, caplog: pytest.LogCaptureFixture):
    near, _ = wire.owners
    link = wire.far.link(LEFT, RIGHT)
    link.send(BUG)
    link.send(frame(b"the next"))
    await eventually(lambda: len(near.frames) == 2, "the frames")
    assert link.is_open
    assert "link failed" in caplog.text


async def test_a_peer_that_breaks_the_rules_loses_the_link(wire: Wire):
    near, _ = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame())
    await eventually(lambda: near.frames, "the echo")
    pair = wire.near._pairs[RIGHT, LEFT]._carrier
    body = CovenantParcel(
        pair._peer, pair._incarnation, 1 << 40, piece=CovenantPiece(0, True, b"x")
    ).to_body()
    wire.near.receive(RIGHT, LEFT, body)
    assert near.ends == [(link, "the peer acknowledges what was never sent")]
    assert wire.near.refusals.counts == {Refusal.PROTOCOL: 1}
    again = wire.near.link(RIGHT, LEFT)
    again.send(frame(b"anew"))
    await eventually(lambda: len(near.frames) == 2, "the echo")


async def test_a_peer_that_is_silent_loses_the_link():
    now = [1]
    wire = Wire(clock=lambda: now[0])
    wire.up()
    wire.broken = True
    link = wire.near.link(RIGHT, LEFT)
    link.send(frame())
    now[0] += carrier.PATIENCE
    # As the pair's timer does, which here would wait for a clock that stands still.
    wire.near._pairs[RIGHT, LEFT]._tick()
    assert wire.owners[0].ends == [(link, "the peer acknowledges nothing")]
    assert wire.near.refusals.counts == {Refusal.SLOW: 1}
    wire.near.close()
    wire.far.close()


async def test_a_peer_that_takes_too_little_loses_the_link(wire: Wire):
    wire.broken = True
    near, _ = wire.owners
    link = wire.near.link(RIGHT, LEFT)
    for _ in range(carrier.BACKLOG_MAX // len(BIG)):
        link.send(BIG)
    assert link.is_open
    link.send(frame())
    assert near.ends == [(link, "too many frames wait for the peer")]
    assert wire.near.refusals.counts == {Refusal.OVERFLOW: 1}


async def test_what_is_not_a_frame_is_not_sent(wire: Wire):
    link = wire.near.link(RIGHT, LEFT)
    with pytest.raises(InvalidArgument, match="frame"):
        link.send(frame()[:-1])
    assert link.is_open
    assert wire.bodies == 0


async def test_too_little_room_is_refused():
    wire = Wire()
    with pytest.raises(InvalidArgument, match="room"):
        wire.up(100)
    with pytest.raises(FailedPrecondition):
        wire.near.link(RIGHT, LEFT)
