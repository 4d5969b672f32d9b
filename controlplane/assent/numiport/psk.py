# SPDX-License-Identifier: Apache-2.0
"""Pre-shared keys and their rotation (seed Numiport, sections 5.8 and 12).

    epoch 7   ......=====================......
    epoch 8                     ......=====================......
                                  ^   ^   ^
                   8 is accepted -'   |   '- 7 is no longer accepted
                            8 is sent -'

Both ends change at one time of one clock, which nobody has exactly: around the change, an overlap
before and an overlap after, either key is taken. Keys follow each other by at least two overlaps,
so that no more than two are taken at any time.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.identity.keys import PSK_LEN
from assent.numiport.keys import PEER_ID_LEN, Secrets
from assent.numiport.wire import Fault, NumiportError

OVERLAP: Final = 60_000_000_000
PEERS_MAX: Final = 4096
# The one before, the one now, the one to come.
PER_PEER: Final = 3

_ID_MAX: Final = 0xFFFF_FFFF
_EPOCH_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True, eq=False)
class Psk:
    """A key that two peers share for one epoch.

    Attributes:
        psk_id: How packets name it, 32 bits.
        peer: Whom it is shared with: an Ed25519 public key, 32 bytes.
        epoch: 64 bits; a later key of the same peer has a higher one.
        starts: From when on it is sent with, CLOCK_TAI, ns.
        key: 32 bytes. Secret.
        secrets: What follows from it. Secret.

    Raises:
        InvalidArgument: A value is out of range, or the key is all zeros.
    """

    psk_id: int
    peer: bytes
    epoch: int
    starts: int
    key: bytes = field(repr=False)
    secrets: Secrets = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.psk_id <= _ID_MAX:
            raise InvalidArgument("psk_id", "does not fit 32 bits")
        if len(self.peer) != PEER_ID_LEN:
            raise InvalidArgument("peer", f"needs {PEER_ID_LEN} bytes, not {len(self.peer)}")
        if not 0 <= self.epoch <= _EPOCH_MAX:
            raise InvalidArgument("epoch", "does not fit 64 bits")
        if len(self.key) != PSK_LEN:
            raise InvalidArgument("key", f"needs {PSK_LEN} bytes, not {len(self.key)}")
        # Noise takes a key of zeros for "no key": whoever wrote it has not chosen one.
        if not any(self.key):
            raise InvalidArgument("key", "is all zeros")
        object.__setattr__(self, "secrets", Secrets.from_master(self.key))


class PskStore:
    """The keys that this node shares with its peers, by peer and by id.

    Args:
        overlap: How long before a change the next key is taken, and after it the former; ns.
        peers_max: How many peers may have keys.

    Raises:
        InvalidArgument: `overlap` is negative, or `peers_max` is not positive.
    """

    def __init__(self, *, overlap: int = OVERLAP, peers_max: int = PEERS_MAX) -> None:
        if overlap < 0:
            raise InvalidArgument("overlap", "is negative")
        if peers_max < 1:
            raise InvalidArgument("peers_max", "must be positive")
        self._overlap = overlap
        self._peers_max = peers_max
        self._by_id: dict[int, Psk] = {}
        # In the order of their epochs, which is that of their starts.
        self._by_peer: dict[bytes, list[Psk]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"PskStore({len(self._by_id)} keys of {len(self._by_peer)} peers)"

    def add(self, psk: Psk) -> None:
        """Takes in the first key of a peer, or the one that follows its last.

        Raises:
            AlreadyExists: Its id is another key's.
            InvalidArgument: Its epoch is not later than that of the peer's last key, it starts less
                than two overlaps after that, or the peer has had these very bytes.
            FailedPrecondition: The peer has a former, a current and a next key; see `expire`.
            ResourceExhausted: There are as many peers as there may be.
        """
        if psk.psk_id in self._by_id:
            raise AlreadyExists(f"a pre-shared key with id {psk.psk_id} is there already")
        keys = self._by_peer.get(psk.peer, [])
        if not keys and len(self._by_peer) >= self._peers_max:
            raise ResourceExhausted(f"{self._peers_max} peers have pre-shared keys already")
        if len(keys) >= PER_PEER:
            raise FailedPrecondition("this peer has a former, a current and a next key already")
        if keys:
            self._check_successor(keys, psk)
        self._by_peer.setdefault(psk.peer, []).append(psk)
        self._by_id[psk.psk_id] = psk

    def _check_successor(self, keys: list[Psk], psk: Psk) -> None:
        last = keys[-1]
        if psk.epoch <= last.epoch:
            raise InvalidArgument("epoch", f"must be above {last.epoch}, the peer's last")
        if psk.starts - last.starts < max(2 * self._overlap, 1):
            raise InvalidArgument("starts", "must be two overlaps after the peer's last key")
        if any(hmac.compare_digest(psk.key, other.key) for other in keys):
            raise InvalidArgument("key", "is one that this peer has already")

    def remove(self, psk_id: int, now: int) -> None:
        """Forgets a key at once, as one that others have come to know.

        One that has not started leaves its place to the one before it, which goes on. With one that
        has, those before it go too: a grace is not to grow longer by this.

        Args:
            psk_id: Of the key.
            now: CLOCK_TAI, ns.

        Raises:
            NotFound: There is none with this id.
        """
        psk = self._by_id.get(psk_id)
        if psk is None:
            raise NotFound(f"no pre-shared key with id {psk_id}")
        keys = self._by_peer[psk.peer]
        first = 0 if psk.starts <= now else keys.index(psk)
        for gone in keys[first : keys.index(psk) + 1]:
            self._drop(gone)

    def _drop(self, psk: Psk) -> None:
        del self._by_id[psk.psk_id]
        keys = self._by_peer[psk.peer]
        keys.remove(psk)
        if not keys:
            del self._by_peer[psk.peer]

    def expire(self, now: int) -> tuple[int, ...]:
        """Forgets the keys that are no longer taken.

        Args:
            now: CLOCK_TAI, ns.

        Returns:
            Their ids.
        """
        over = [psk for psk in self._by_id.values() if self._is_over(psk, now)]
        for psk in over:
            self._drop(psk)
        return tuple(psk.psk_id for psk in over)

    def find(self, psk_id: int, now: int) -> Psk:
        """The key that a packet names.

        Args:
            psk_id: Of the packet.
            now: CLOCK_TAI, ns.

        Raises:
            NumiportError: UNKNOWN_PSK: there is none, or it is not taken now.
        """
        psk = self._by_id.get(psk_id)
        if psk is None or not self._is_taken(psk, now):
            raise NumiportError(Fault.UNKNOWN_PSK, "names a pre-shared key that is not taken")
        return psk

    def current(self, peer: bytes, now: int, advertised: Collection[int] | None = None) -> Psk:
        """The key to send with.

        Args:
            peer: To whom.
            now: CLOCK_TAI, ns.
            advertised: The ids that the peer has said it takes, if it has. Where the current key is
                not among them, the newest is sent with that both take.

        Raises:
            NotFound: There is none.
        """
        keys = self._by_peer.get(peer, [])
        started = [psk for psk in keys if psk.starts <= now and self._is_taken(psk, now)]
        if advertised is None:
            usable = started
        else:
            # A peer whose clock is ahead may have let the former key go.
            taken = [psk for psk in keys if self._is_taken(psk, now) and psk.psk_id in advertised]
            usable = [psk for psk in taken if psk in started] or taken
        if not usable:
            raise NotFound("no pre-shared key of this peer can be sent with now")
        return usable[-1]

    def accepted(self, peer: bytes, now: int) -> tuple[int, ...]:
        """The ids that a peer may name, to be advertised to it: one or, near a change, two.

        Args:
            peer: Which.
            now: CLOCK_TAI, ns.
        """
        keys = self._by_peer.get(peer, ())
        return tuple(psk.psk_id for psk in keys if self._is_taken(psk, now))

    def next_change(self, now: int) -> int | None:
        """When what is taken or sent with changes next, CLOCK_TAI, ns; None if it does not."""
        times = [
            time
            for psk in self._by_id.values()
            for time in (psk.starts - self._overlap, psk.starts, psk.starts + self._overlap)
            if time > now
        ]
        return min(times, default=None)

    def _is_taken(self, psk: Psk, now: int) -> bool:
        return psk.starts - self._overlap <= now and not self._is_over(psk, now)

    def _is_over(self, psk: Psk, now: int) -> bool:
        keys = self._by_peer[psk.peer]
        successor = keys.index(psk) + 1
        return successor < len(keys) and now >= keys[successor].starts + self._overlap
