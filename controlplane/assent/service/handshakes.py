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
from dataclasses import dataclass, field
from typing import Final

from assent.credit.lamp import LAMP_CAP
from assent.dataplane.tables.sessions import DATA_REPLAY_LEN
from assent.errors import FailedPrecondition
from assent.handshake.utcp import (
    Connection,
    LocalOffer,
    PeerIdentity,
    State,
    Timers,
    UnexpectedFrame,
)
from assent.identity.keys import Identity
from assent.service.records import HandshakeMemory, RemoteCell
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.control import GRANT_SHIFT_MAX, GRANT_UNITS_MAX, MTU_MIN, HailPayload
from assent.wire.fabric import Flags, Header

FLOW_MAX: Final = 7
REPLAY_LONG: Final = 8192
"""Numbers in the replay window of a flow that much may be under way on."""
UNITS_MIN: Final = 4
"""Units of 64 << grant_shift bytes that a window has at the least, or it is none."""
_REPLAY_CAP: Final = f"replay-{REPLAY_LONG}"
_MTU_MAX: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Terms:
    """What this host brings into every handshake.

    Attributes:
        timers: How long it waits.
        grant_shift: The least that it asks for, unless a remote cell has one of its own.
        replay_len: Numbers in a data flow's replay window, at the least.
        lamp: Whether it hears frames under LAMP.
    """

    timers: Timers = field(default_factory=Timers)
    grant_shift: int = 0
    replay_len: int = DATA_REPLAY_LEN
    lamp: bool = True


def shift_for(window: int) -> int:
    """The smallest unit of grants in which a window of so many blocks can be expressed."""
    return min(max(0, window.bit_length() - GRANT_UNITS_MAX.bit_length()), GRANT_SHIFT_MAX)


def usable_window(blocks: int, shift: int) -> int:
    """The window that is left of an offered one: whole units, and enough of them to go on with."""
    units = blocks >> shift
    return units << shift if units >= UNITS_MIN or not shift else 0


def agreed_shift(ours: LocalOffer, theirs: HailPayload) -> int:
    """The unit of grants of a session: the larger one that was asked for."""
    return max(ours.grant_shift, theirs.grant_shift)


def agreed_replay(ours: LocalOffer, theirs: HailPayload) -> int:
    """The length of a session's replay windows: the longer one that was asked for."""
    is_long = _REPLAY_CAP in ours.caps or _REPLAY_CAP in theirs.caps
    return REPLAY_LONG if is_long else DATA_REPLAY_LEN


def hears_lamps(theirs: HailPayload) -> bool:
    """Whether a peer says that it hears frames under LAMP."""
    return LAMP_CAP in theirs.caps


def wall_clock() -> int:
    """This host's clock, ns of TAI where the host keeps it; what timestamps are read from."""
    return time.clock_gettime_ns(time.CLOCK_TAI)


@dataclass(slots=True)
class Handshake:
    """One handshake of a pair.

    Attributes:
        connection: Its state machine.
        offer: What we offered.
        ask_everyone: Whether its frames go to all stations of the link: the peer did not answer at
            the address that was known.
    """

    connection: Connection
    offer: LocalOffer
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
        terms: What is offered to everybody.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int] = wall_clock,
        random: Callable[[int], bytes] = os.urandom,
        terms: Terms = Terms(),
    ) -> None:
        self._terms = terms
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
        offer = self._offer(remote, identity.cell_id, min(max(mtu, MTU_MIN), _MTU_MAX))
        memory = self._store.handshake(remote.id, identity.cell_id)
        connection = Connection(
            identity,
            PeerIdentity(remote.id, remote.public_key, psk.psk),
            offer,
            self._clock,
            self._random,
            last_timestamp=memory.last_timestamp,
            newest_hail_time=memory.newest_hail,
            last_epoch=memory.last_epoch,
            timers=self._terms.timers,
        )
        return Handshake(connection, offer)

    def _offer(self, remote: RemoteCell, local: CellID, mtu: int) -> LocalOffer:
        windows, widest = self._windows(remote, local)
        shift = remote.grant_shift
        if shift is None:
            shift = max(self._terms.grant_shift, shift_for(widest))
        caps = [LAMP_CAP] if self._terms.lamp else []
        if widest > GRANT_UNITS_MAX or self._terms.replay_len > DATA_REPLAY_LEN:
            caps.append(_REPLAY_CAP)
        most = GRANT_UNITS_MAX << shift
        offered = {flow: min(blocks, most) for flow, blocks in windows.items()}
        return LocalOffer(offered, shift, mtu, tuple(caps))

    def _windows(self, remote: RemoteCell, local: CellID) -> tuple[Mapping[int, int], int]:
        """The windows that a remote cell gets, by flow, and the widest that one may become."""
        if remote.consent.is_negotiated:
            governor = self._store.covenants.governor(remote.id, local)
            flows = {} if governor is None else dict(governor.flows)
            return flows, max(flows.values(), default=0)
        policy = self._store.credit_policy()
        grants = self._store.grants(remote.id)
        widest = max((policy.most(grant.window_blocks) for grant in grants), default=0)
        return {grant.flow: policy.first(grant.window_blocks) for grant in grants}, widest


def is_syn(header: Header) -> bool:
    """Whether a flow-0 frame begins a handshake."""
    return header.flags & ~Flags.BLOCK == Flags.SYN
