# SPDX-License-Identifier: Apache-2.0
"""The UTCP handshake over any distance: two connections, a link with a delay, virtual time."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.dataplane.profiles import DEEP_SPACE
from assent.errors import InvalidArgument, RemoteError
from assent.handshake.utcp import (
    LIFETIME,
    SECOND,
    Closed,
    CloseReason,
    Connection,
    Established,
    Event,
    LocalOffer,
    PeerIdentity,
    State,
    Timers,
)
from assent.identity.keys import Identity
from assent.wire.fabric import Frame

PSK = bytes(range(32))
WALL = 1_700_000_000 * SECOND
MINUTE = 60 * SECOND
MARS = 20 * MINUTE
DEEP = Timers(DEEP_SPACE.patience_ns)
CELLS = [Identity.from_seed(bytes([n]) * 32) for n in (1, 2)]


@dataclass
class Link:
    """Two connections with a delay between them; frames are lost as the test says."""

    rtt: int
    timers: Timers
    loss: float = 0.0
    seed: int = 0
    now: int = 0
    sent: int = 0
    flying: list[tuple[int, int, Frame]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.ends = [self._end(me, peer) for me, peer in (CELLS, CELLS[::-1])]
        self.events: list[list[Event]] = [[], []]

    def _end(self, me: Identity, peer: Identity) -> Connection:
        return Connection(
            me,
            PeerIdentity(peer.cell_id, peer.public_key, PSK),
            LocalOffer({1: 1000}),
            lambda: WALL + self.now,
            self.chance.randbytes,
            timers=self.timers,
        )

    def run(self, until: int) -> None:
        """Time passes from one event to the next."""
        while True:
            for side, end in enumerate(self.ends):
                for frame in end.frames_to_send():
                    self.sent += 1
                    if self.chance.random() >= self.loss:
                        self.flying.append((self.now + self.rtt // 2, 1 - side, frame))
            due = [at for at, _, _ in self.flying]
            due += [at for end in self.ends if (at := end.next_deadline()) is not None]
            at = min(due, default=until)
            if at >= until or all(end.state is State.ESTABLISHED for end in self.ends):
                return
            self.now = at
            arrived = [one for one in self.flying if one[0] <= at]
            self.flying = [one for one in self.flying if one[0] > at]
            for _, side, frame in arrived:
                # What comes too late, or twice, has no place any more.
                with contextlib.suppress(RemoteError):
                    self.events[side] += self.ends[side].receive(frame.header, frame.payload, at)
            for side, end in enumerate(self.ends):
                self.events[side] += end.tick(at)

    def shake(self) -> None:
        self.ends[0].connect(0, 1)
        self.run(10 * self.timers.lifetime)


def test_hands_are_shaken_over_twenty_minutes():
    link = Link(MARS, DEEP)
    link.shake()
    assert [end.state for end in link.ends] == [State.ESTABLISHED] * 2
    # The initiator after one round trip, the responder half a one later.
    assert link.now == 3 * MARS // 2
    (begun,) = (event for event in link.events[0] if isinstance(event, Established))
    assert begun.rtt == MARS
    # Each side repeats itself ever more seldom, and answers what is repeated.
    assert link.sent < 60


def test_the_seed_s_thirty_seconds_are_too_short_for_that():
    link = Link(MARS, Timers())
    link.shake()
    assert [end.state for end in link.ends] == [State.CLOSED] * 2
    assert link.events[0] == [Closed(CloseReason.TIMEOUT)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([10_000, SECOND // 10, 3 * SECOND, MARS]))
def test_losses_delay_it_and_nothing_else(seed: int, rtt: int):
    timers = DEEP if rtt == MARS else Timers()
    link = Link(rtt, timers, loss=0.2, seed=seed)
    for epoch in range(1, 50):
        if link.ends[0].state is State.CLOSED:
            link.ends[0].connect(link.now, max(epoch, link.ends[0].last_epoch + 1))
        link.run(link.now + 3 * timers.lifetime)
        if all(end.state is State.ESTABLISHED for end in link.ends):
            break
    begun = [
        [event for event in events if isinstance(event, Established)][-1] for events in link.events
    ]
    assert begun[0].keys.tx_payload == begun[1].keys.rx_payload


def test_the_usual_timers_are_the_seed_s():
    assert Timers().lifetime == LIFETIME == 30 * SECOND
    assert (Timers().resend_first, Timers().resend_max) == (SECOND, 4 * SECOND)


@pytest.mark.parametrize("timers", [(SECOND,), (30 * SECOND, 0), (30 * SECOND, 5 * SECOND)])
def test_timers_that_send_nothing_twice_are_refused(timers: tuple[int, ...]):
    with pytest.raises(InvalidArgument, match="lifetime"):
        Timers(*timers)
