"""What goes into a UTCP connection and what comes out of it: identities, offers, events, errors."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.handshake.keys import SessionKeys
from assent.identity.cellid import from_public_key
from assent.identity.keys import PSK_LEN, noise_public_of
from assent.wire.cellid import CellID
from assent.wire.control import HailPayload, encode_body
from assent.wire.fabric import Header

VERSION: Final = 1
OFFER_MAX: Final = 1024

SECOND: Final = 1_000_000_000
LIFETIME: Final = 30 * SECOND
RESEND_FIRST: Final = 1 * SECOND
_U32_MAX: Final = 0xFFFF_FFFF
_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF


class AdmissionError(RemoteError):
    """A frame that is not between these two cells, or whose tag is not theirs."""


class HailRefused(RemoteError):  # noqa: N818 - a verdict, as the table calls it
    """An authentic offer that cannot be taken: another key, an old time, no common version."""


class UnexpectedFrame(RemoteError):  # noqa: N818
    """A frame that has no place in the state that the connection is in."""


class IllegalTransition(FailedPrecondition):
    """A call that has no place in the state that the connection is in."""


class CloseReason(enum.StrEnum):
    """Why a connection is closed."""

    LOCAL = "closed here"
    PEER = "closed by the peer"
    TIMEOUT = "no answer in time"


@dataclass(frozen=True, slots=True)
class Timers:
    """How long a connection waits. The defaults are the seed's, for links within a planet.

    Attributes:
        lifetime: Silence after which it is given up, ns. Longer than a round trip, by some
            repetitions.
        resend_first: After which a frame is sent again, ns; then after twice that, and so on, up to
            2/15 of the lifetime.

    Raises:
        InvalidArgument: Nothing would be sent a second time.
    """

    lifetime: int = LIFETIME
    resend_first: int = RESEND_FIRST

    def __post_init__(self) -> None:
        if not 0 < self.resend_first <= self.resend_max:
            raise InvalidArgument("lifetime", "is too short for a frame to be sent again")

    @property
    def resend_max(self) -> int:
        """The longest time between two sendings of one frame, ns."""
        return 2 * self.lifetime // 15


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The cell at the other end, as it was introduced.

    Attributes:
        cell_id: Follows from `public_key`.
        public_key: Ed25519, 32 bytes.
        psk: The pre-shared key, 32 bytes. Secret.
        noise_public: The Curve25519 image of `public_key`, 32 bytes; follows from it.

    Raises:
        InvalidArgument: A length is wrong, the key is not usable, or the CellID is not the key's.
    """

    cell_id: CellID
    public_key: bytes
    psk: bytes = field(repr=False)
    noise_public: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.psk) != PSK_LEN:
            raise InvalidArgument("psk", f"needs {PSK_LEN} bytes")
        if from_public_key(self.public_key) != self.cell_id:
            raise InvalidArgument("cell_id", "does not follow from the public key")
        object.__setattr__(self, "noise_public", noise_public_of(self.public_key))


@dataclass(frozen=True, slots=True)
class LocalOffer:
    """What this side offers in its HAIL.

    Attributes:
        grants: Blocks granted to the peer from the start, by flow (1 to 65,535).
        grant_shift: Our grants count units of `64 << grant_shift` bytes; 0 to 15.
        mtu: The largest fabric frame that we take, bytes.
        caps: Names of capabilities.

    Raises:
        InvalidArgument: A value is out of range, or all of it is too long for a handshake frame.
    """

    grants: Mapping[int, int] = field(default_factory=dict, hash=False)
    grant_shift: int = 0
    mtu: int = 1500
    caps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "grants", MappingProxyType(dict(self.grants)))
        longest = self.at(epoch=_U32_MAX, time=_U64_MAX, lead=_U64_MAX)
        if len(encode_body(longest.to_body())) > OFFER_MAX:
            raise InvalidArgument("offer", f"has more than {OFFER_MAX} bytes")

    def at(self, *, epoch: int, time: int, lead: int) -> HailPayload:
        """The offer as it is made in one handshake."""
        return HailPayload(
            (VERSION,), self.caps, self.grant_shift, epoch, time, self.grants, self.mtu, lead
        )


@dataclass(frozen=True, slots=True)
class SynReceived:
    """A peer has asked for a connection, and is being answered."""

    peer: CellID


@dataclass(frozen=True, slots=True)
class KeysReady:
    """The responder has keys, and the SYN-ACK that lets the peer use them is about to be sent.

    Attributes:
        keys: The session's keys, from our side.
        peer_offer: What the peer offers.
        clock_offset: The peer's clock minus our monotonic clock, ns.
        session_epoch: The epoch that both use.
        initiator: Whether this side began.
    """

    keys: SessionKeys
    peer_offer: HailPayload
    clock_offset: int
    session_epoch: int
    initiator: bool


@dataclass(frozen=True, slots=True)
class Established:
    """The connection is ready. The attributes are those of `KeysReady`, and one more.

    Attributes:
        rtt: ns from our frame to its answer. Where the frame had to be sent again, counted from the
            first time: too long rather than too short, for timers begin with it.
    """

    keys: SessionKeys
    peer_offer: HailPayload
    clock_offset: int
    session_epoch: int
    initiator: bool
    rtt: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """A DATA frame has arrived.

    Attributes:
        header: As it arrived.
        payload: What was sealed in the frame; empty where it had no payload.
    """

    header: Header
    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is gone, and its keys with it."""

    reason: CloseReason


Event = SynReceived | KeysReady | Established | Deliver | Closed
