# SPDX-License-Identifier: Apache-2.0
"""Hosts that introduce themselves over the world's links: the real handshake, in virtual time.

Each pair has a `Connection` of handshake/utcp.py at either end. What it sends crosses the links
like any other frame and has to pass the gate; what it settles (keys, windows, the unit of grants,
the offset between the clocks) is what the session and the flows are then made of.

A side opens its flows as soon as it has keys: the responder before its SYN-ACK leaves, so that what
follows the ACK finds them. The initiator's engines start with the round trip that the handshake has
measured. The responder has not measured any by then; its engines start with what its timers are
set for, where that is more than the seed's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from assent.errors import RemoteError
from assent.handshake.keys import SessionKeys, admission_key
from assent.handshake.utcp import (
    LIFETIME,
    RESEND_FIRST,
    Connection,
    Established,
    Event,
    KeysReady,
    LocalOffer,
    PeerIdentity,
    State,
    Timers,
)
from assent.identity.keys import Identity
from assent.sim.world import SECOND, START, World
from assent.wire.control import HailPayload
from assent.wire.fabric import Frame

SKEW_LIMIT: Final = 30 * SECOND
_EPOCH_OF_WALL: Final = 1_700_000_000 * SECOND
_APART: Final = 7 * SECOND  # by which the wall clocks of neighbours differ


def wall_offset(host: int) -> int:
    """A host's wall clock less the world's time, ns: no two hosts agree."""
    return _EPOCH_OF_WALL + host * _APART


def timers_for(rtt: int) -> Timers:
    """Timers for a round trip of so many ns; the seed's, where those are long enough."""
    first = max(RESEND_FIRST, rtt + rtt // 4)
    return Timers(lifetime=max(LIFETIME, 8 * first), resend_first=first)


@dataclass(frozen=True, slots=True)
class Session:
    """One side of a session that two hosts have agreed on.

    Attributes:
        host: Whose side it is.
        peer: The other host.
        initiator: Whether this side began.
        keys: Its keys.
        offered: What this side offered.
        agreed: What the peer offered.
        rtt: ns, for the engines to begin with; 0 = not known.
        at: When it had its keys, ns.
    """

    host: int
    peer: int
    initiator: bool
    keys: SessionKeys
    offered: LocalOffer
    agreed: HailPayload
    rtt: int
    at: int

    @property
    def grant_shift(self) -> int:
        """The unit of grants: the larger of both offers'."""
        return max(self.offered.grant_shift, self.agreed.grant_shift)


@dataclass(frozen=True, slots=True)
class _End:
    host: int
    peer: int
    connection: Connection
    offer: LocalOffer


class Meeting:
    """Makes sessions between hosts of a world.

    Args:
        world: Its links must be there.
        hosts: How many hosts it has.
        seed: Of their identities and their secrets.
        timers: Of all connections.
        rtt_hint: ns that a responder's engines begin with; 0 = not known.
        opened: Called for each side as soon as it has keys.
    """

    def __init__(
        self,
        world: World,
        hosts: int,
        seed: int,
        timers: Timers,
        rtt_hint: int,
        opened: Callable[[Session], None],
    ) -> None:
        self._world = world
        self._timers = timers
        self._rtt_hint = rtt_hint
        self._opened = opened
        self._random = random.Random(f"assent.sim {seed}")  # noqa: S311 - repeatable, no secret
        self._identities = [Identity.from_seed(self._random.randbytes(32)) for _ in range(hosts)]
        self._ends: dict[tuple[int, int], _End] = {}
        for host, identity in enumerate(self._identities):
            world.set_cell(host, identity.cell_id.raw)

    def introduce(
        self, initiator: int, responder: int, offers: tuple[LocalOffer, LocalOffer]
    ) -> None:
        """Two hosts learn each other's keys, and the first one connects.

        Args:
            initiator: Connects.
            responder: Answers.
            offers: The initiator's and the responder's.
        """
        psk = self._random.randbytes(32)
        for host, peer, offer in (
            (initiator, responder, offers[0]),
            (responder, initiator, offers[1]),
        ):
            self._add_end(host, peer, psk, offer)
        connection = self._ends[initiator, responder].connection
        connection.connect(self._world.now, 1)
        self._flush(self._ends[initiator, responder])

    def _add_end(self, host: int, peer: int, psk: bytes, offer: LocalOffer) -> None:
        me, other = self._identities[host], self._identities[peer]
        connection = Connection(
            me,
            PeerIdentity(other.cell_id, other.public_key, psk),
            offer,
            lambda: self._world.now + wall_offset(host),
            self._random.randbytes,
            timers=self._timers,
        )
        self._ends[host, peer] = _End(host, peer, connection, offer)
        self._world.introduce(host, peer, admission_key(psk, other.cell_id, me.cell_id))

    def next_deadline(self) -> int | None:
        """When `tick` is due; None while every connection is established, or given up."""
        due = [
            deadline
            for end in self._ends.values()
            if end.connection.state is not State.ESTABLISHED
            and (deadline := end.connection.next_deadline()) is not None
        ]
        return min(due, default=None)

    def tick(self) -> None:
        """Sends again what was not answered in time. Sessions are kept alive by their data."""
        for end in self._ends.values():
            if end.connection.state is not State.ESTABLISHED:
                end.connection.tick(self._world.now)
                self._flush(end)

    def take(self) -> None:
        """Takes in the control frames that have arrived."""
        for host, peer, buf in self._world.arrived():
            end = self._ends[host, peer]
            frame = Frame.decode(buf)
            try:
                events = end.connection.receive(frame.header, frame.payload, self._world.now)
            except RemoteError:
                # A late copy, which the connection refuses without a trace.
                continue
            for event in events:
                self._follow(end, event)
            self._flush(end)

    def _follow(self, end: _End, event: Event) -> None:
        if isinstance(event, KeysReady):
            self._open(end, event, self._rtt_hint)
        elif isinstance(event, Established) and event.initiator:
            self._open(end, event, event.rtt)

    def _open(self, end: _End, event: KeysReady | Established, rtt: int) -> None:
        self._world.establish(
            end.host, end.peer, event.keys.rx_header, event.clock_offset, SKEW_LIMIT
        )
        self._opened(
            Session(
                end.host,
                end.peer,
                event.initiator,
                event.keys,
                end.offer,
                event.peer_offer,
                rtt,
                self._world.now - START,
            )
        )

    def _flush(self, end: _End) -> None:
        for frame in end.connection.frames_to_send():
            self._world.send(end.host, end.peer, frame.encode())
