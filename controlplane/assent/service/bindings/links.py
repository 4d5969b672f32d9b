# SPDX-License-Identifier: Apache-2.0
"""Links: what a binding gives to the owner of covenants, and the bounds that all bindings share.

A link carries whole TCP/UP frames (seed, section 2) both ways, in order, until it closes. The owner
is told of the end exactly once, whoever brought it about; it is the end of the covenants that were
negotiated there (seed, section 5.3).
"""

from __future__ import annotations

import enum
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, Literal, Protocol
from uuid import UUID

from assent.errors import InvalidArgument, RemoteError
from assent.wire.cellid import CellID
from assent.wire.tcpup import FRAME_OVERHEAD, PAYLOAD_MAX

log = logging.getLogger(__name__)

FRAME_MAX: Final = PAYLOAD_MAX + FRAME_OVERHEAD
"""Bytes of the longest frame that a binding moves."""

Kind = Literal["websocket", "http2", "fabric"]

_LENGTH_AT: Final = slice(12, 16)
_LOGGED_PER_SECOND: Final = 10
_LOGGED_BURST: Final = 100


class Refusal(enum.StrEnum):
    """Why a binding refused a connection, a stream or a frame."""

    CROWDED = "crowded"
    TLS = "tls"
    ALPN = "alpn"
    SLOW = "slow"
    REQUEST = "request"
    TEXT = "text"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    FLOOD = "flood"
    OVERFLOW = "overflow"
    PROTOCOL = "protocol"


class BindingError(RemoteError):
    """A peer broke the rules of a binding.

    Attributes:
        refusal: What it is counted as.
    """

    def __init__(self, refusal: Refusal, problem: str) -> None:
        super().__init__(problem)
        self.refusal = refusal


class Link(Protocol):
    """A way to one peer and back."""

    @property
    def name(self) -> str:
        """For logs: the binding, and the peer's address or cell."""

    @property
    def kind(self) -> Kind:
        """The binding."""

    @property
    def peer_cell(self) -> CellID | None:
        """The cell at the other end, as its session proves it; None where there is no session."""

    @property
    def local_cell(self) -> CellID | None:
        """The cell at this end; None where there is no session."""

    @property
    def claimed_agent(self) -> UUID | None:
        """The agent that the peer says it is, unverified; None where the binding has no word."""

    @property
    def is_open(self) -> bool:
        """Whether frames still go both ways."""

    def send(self, frame: bytes) -> None:
        """Queues one whole frame, and never waits; on a closed link, does nothing.

        A peer that takes too little, too late, loses the link.

        Raises:
            InvalidArgument: It is not one whole frame.
        """

    def close(self, reason: str) -> None:
        """Sends what is queued, if the peer takes it soon, and ends. Idempotent."""


class LinkOwner(Protocol):
    """Whoever owns the covenants on links. Called on the event loop; must not raise."""

    def opened(self, link: Link) -> None:
        """A link is there; nothing has been received on it."""

    def received(self, link: Link, frame: bytes) -> None:
        """One whole frame came; nothing but its length has been looked at."""

    def closed(self, link: Link, reason: str) -> None:
        """A link that was opened is no more: nothing is received on it, nothing sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a binding. Times are in seconds.

    Attributes:
        connections: A listener's, at once, those that still shake hands included.
        connections_per_peer: The same from one IPv4 address, or one /64 of IPv6.
        streams: Links at once on one HTTP/2 connection.
        queued_bytes: What may wait on a link for a slow peer; two of the longest frames at least.
        handshake_timeout: For TLS, and again for the request that follows.
        first_frame_timeout: From a link's opening to its first frame.
        close_timeout: What a peer has to take the last words.
        empty_timeout: How long an HTTP/2 connection may stay without a stream.
        control_rate: Frames a second that move nothing (PING, SETTINGS, PRIORITY, empty ones).
        control_burst: How many of them may come at once.
        reset_rate: Streams a second that end by reset, from either side, or are refused.
        reset_burst: How many of them may at once.
        fragments: Pieces that a WebSocket message may come in.
    """

    connections: int = 1024
    connections_per_peer: int = 64
    streams: int = 128
    queued_bytes: int = 4 * FRAME_MAX
    handshake_timeout: float = 5.0
    first_frame_timeout: float = 10.0
    close_timeout: float = 2.0
    empty_timeout: float = 60.0
    control_rate: float = 20.0
    control_burst: float = 200.0
    reset_rate: float = 5.0
    reset_burst: float = 50.0
    fragments: int = 256

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) <= 0:
                raise InvalidArgument(one.name, "must be more than 0")
        if self.queued_bytes < 2 * FRAME_MAX:
            raise InvalidArgument("queued_bytes", f"must be at least {2 * FRAME_MAX}")


class Meter:
    """A token bucket: so many at once, so many a second.

    Args:
        rate: A second.
        burst: At once.
        clock: Monotonic seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def spend(self) -> bool:
        """Takes one; False where there is none left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Refusals:
    """Counts refusals by reason, and logs them, within reason: strangers cause them.

    Args:
        kind: The binding, for the log.
        clock: Monotonic seconds.
    """

    def __init__(self, kind: Kind, clock: Callable[[], float]) -> None:
        self.counts: Counter[Refusal] = Counter()
        self._kind = kind
        self._meter = Meter(_LOGGED_PER_SECOND, _LOGGED_BURST, clock)
        self._unlogged = 0

    def add(self, refusal: Refusal, peer: str, problem: str) -> None:
        """Counts one."""
        self.counts[refusal] += 1
        if not self._meter.spend():
            self._unlogged += 1
            return
        log.info(
            "binding refused",
            extra={
                "binding": self._kind,
                "peer": peer,
                "refusal": refusal.value,
                "reason": problem,
                "unlogged": self._unlogged,
            },
        )
        self._unlogged = 0


def require_whole(frame: bytes) -> None:
    """Makes sure that these bytes are one TCP/UP frame by its length (seed, section 2.1).

    No more is looked at: what is wrong with a frame is for the immune layer to see, and no reason
    to end the other covenants of its link.

    Raises:
        BindingError: They are fewer or more, or more than any frame has.
    """
    if len(frame) < FRAME_OVERHEAD:
        raise BindingError(Refusal.MALFORMED, f"{len(frame)} bytes are no whole frame")
    if len(frame) > FRAME_MAX:
        raise BindingError(Refusal.OVERSIZED, f"a frame has at most {FRAME_MAX} bytes")
    length = FRAME_OVERHEAD + int.from_bytes(frame[_LENGTH_AT], "big")
    if length != len(frame):
        raise BindingError(
            Refusal.MALFORMED, f"{len(frame)} bytes where a frame says that it has {length}"
        )


def require_sendable(frame: bytes) -> None:
    """Makes sure that a frame of ours is one.

    Raises:
        InvalidArgument: It is not.
    """
    try:
        require_whole(frame)
    except BindingError as error:
        raise InvalidArgument("frame", str(error)) from None
