# SPDX-License-Identifier: Apache-2.0
"""Connections, made from what the store remembers of a pair and written back before they speak.

A connection serves one handshake; what follows it belongs to the live session. The next handshake
of the pair gets a new connection, so that a live session goes on until the new one has replaced
it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from assent.errors import FailedPrecondition
from assent.handshake.utcp import Connection, LocalOffer, PeerIdentity, State, UnexpectedFrame
from assent.identity.keys import Identity
from assent.service.records import HandshakeMemory, RemoteCell
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.control import MTU_MIN
from assent.wire.fabric import Flags, Header

GRANT_SHIFT: Final = 0
FLOW_MAX: Final = 7
_MTU_MAX: Final = 0xFFFF


def wall_clock() -> int:
    """This host's clock, ns of TAI where the host keeps it; what timestamps are read from."""
    return time.clock_gettime_ns(time.CLOCK_TAI)


@dataclass(slots=True)
class Handshake:
    """One handshake of a pair.

    Attributes:
        connection: Its state machine.
        grants: What we offered, blocks by flow.
        ask_everyone: Whether its frames go to all stations of the link: the peer did not answer at
            the address that was known.
    """

    connection: Connection
    grants: Mapping[int, int]
    ask_everyone: bool = False

    @property
    def pending(self) -> bool:
        """Whether its outcome is open."""
        return self.connection.state in {State.SYN_SENT, State.SYN_RCVD}


class Handshakes:
    """Makes the handshakes of a host.

    Args:
        store: Remembers what must not be accepted or used twice.
        clock: This host's wall clock, ns of TAI.
        random: Source of ephemeral keys.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int] = wall_clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random

    def begin(self, identity: Identity, remote: RemoteCell, mtu: int, now: int) -> Handshake:
        """A handshake that this host initiates; its SYN is queued and remembered.

        Args:
            identity: Of the local cell.
            remote: The peer.
            mtu: Of the local interface, bytes.
            now: Monotonic ns.

        Raises:
            FailedPrecondition: No pre-shared key is set.
        """
        made = self._make(identity, remote, mtu)
        epoch = made.connection.last_epoch + 1
        made.connection.connect(now, epoch)
        # The epoch too: who is killed now must know that the peer may have gone on to it.
        self.remember(remote.id, identity.cell_id, made, epoch)
        return made

    def answer(
        self,
        identity: Identity,
        remote: RemoteCell,
        mtu: int,
        held: Handshake | None,
        header: Header,
    ) -> Handshake:
        """The handshake that is to take in an arriving frame.

        Args:
            identity: Of the local cell.
            remote: The sender.
            mtu: Of the local interface, bytes.
            held: The pair's handshake so far.
            header: Of the frame.

        Raises:
            UnexpectedFrame: The frame answers no handshake that is held.
            FailedPrecondition: No pre-shared key is set.
        """
        if held is not None and (held.pending or not is_syn(header)):
            return held
        if not is_syn(header):
            raise UnexpectedFrame("an answer to no handshake of ours")
        return self._make(identity, remote, mtu)

    def restart(self, identity: Identity, remote: RemoteCell, mtu: int) -> Handshake:
        """A fresh handshake for a SYN that the one held has no place for: the peer began anew."""
        return self._make(identity, remote, mtu)

    def remember(
        self, remote: CellID, local: CellID, handshake: Handshake, proposed: int = 0
    ) -> None:
        """Stores what must survive a crash; before the frames that depend on it are sent.

        Args:
            remote: The peer.
            local: The local cell.
            handshake: As it is now.
            proposed: The epoch that its SYN proposes; 0 = it has proposed none.
        """
        connection = handshake.connection
        self._store.remember_handshake(
            remote,
            local,
            HandshakeMemory(
                connection.last_timestamp,
                connection.newest_hail_time,
                max(connection.last_epoch, proposed),
            ),
        )

    def _make(self, identity: Identity, remote: RemoteCell, mtu: int) -> Handshake:
        psk = self._store.psk(remote.id)
        if psk is None:
            raise FailedPrecondition(f"no pre-shared key is set for cell {remote.name!r}")
        grants = self._offer(remote, identity.cell_id)
        memory = self._store.handshake(remote.id, identity.cell_id)
        connection = Connection(
            identity,
            PeerIdentity(remote.id, remote.public_key, psk.psk),
            LocalOffer(grants, GRANT_SHIFT, min(max(mtu, MTU_MIN), _MTU_MAX)),
            self._clock,
            self._random,
            last_timestamp=memory.last_timestamp,
            newest_hail_time=memory.newest_hail,
            last_epoch=memory.last_epoch,
        )
        return Handshake(connection, grants)

    def _offer(self, remote: RemoteCell, local: CellID) -> dict[int, int]:
        """The windows that a remote cell gets, by flow: its grants, or what governs this pair."""
        if remote.consent.is_negotiated:
            governor = self._store.covenants.governor(remote.id, local)
            return {} if governor is None else dict(governor.flows)
        return {grant.flow: grant.window_blocks for grant in self._store.grants(remote.id)}


def is_syn(header: Header) -> bool:
    """Whether a flow-0 frame begins a handshake."""
    return header.flags & ~Flags.BLOCK == Flags.SYN
