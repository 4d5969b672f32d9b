# SPDX-License-Identifier: Apache-2.0
"""TCP/UP over the fabric itself: two cells in session agree without IP, over flow 0.

    session manager                  here                                owner
    session_up, receive     ->   one carrier a pair   ->   opened, received, closed
    send (one control tag)  <-     (carrier.py)       <-   Link.send

A pair's carrier lives as long as there is a session; a session that is renewed takes its place
without anyone's noticing. A link lies on top of it, from the first use or the first arrival on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal
from uuid import UUID

from assent.covenant.carrier import SECOND, Carrier, CarrierError, Pace, piece_len
from assent.errors import AssentError, FailedPrecondition, RemoteError, ResourceExhausted
from assent.service.bindings.links import (
    BindingError,
    Link,
    LinkOwner,
    Refusal,
    Refusals,
    require_sendable,
    require_whole,
)
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

# What is overdue must not be tried in a tight loop.
_LEAST_DELAY: Final = SECOND // 1000

SendBody = Callable[[dict[str, object]], None]


class _FabricLink:
    """A link over a pair's carrier."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._open = True

    @property
    def name(self) -> str:
        """For logs."""
        return f"fabric {self._pair.remote}"

    @property
    def kind(self) -> Literal["fabric"]:
        """The binding."""
        return "fabric"

    @property
    def peer_cell(self) -> CellID | None:
        """The cell at the other end: the session's keys prove it."""
        return self._pair.remote

    @property
    def local_cell(self) -> CellID | None:
        """The cell at this end."""
        return self._pair.local

    @property
    def claimed_agent(self) -> UUID | None:
        """Not said here."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether frames still go both ways."""
        return self._open

    def send(self, frame: bytes) -> None:
        """Queues one whole frame; see `Link`."""
        require_sendable(frame)
        if self._open:
            self._pair.send(frame)

    def close(self, reason: str) -> None:
        """Ends here; what is queued still goes. See `Link`."""
        self._pair.close(self, reason)

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent has arrived."""
        return not self._open or self._pair.is_idle

    def end(self) -> None:
        """No more frames."""
        self._open = False


class _Pair:
    """Two cells in session."""

    def __init__(
        self, links: FabricLinks, remote: CellID, local: CellID, room: int, send: SendBody
    ) -> None:
        self.remote = remote
        self.local = local
        self.link: _FabricLink | None = None
        self._links = links
        self._room = room
        self._send_body = send
        self._carrier = links.make_carrier(room)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent has arrived."""
        return self._carrier.is_idle

    def renew(self, room: int, send: SendBody) -> None:
        """Another session has taken the place of this pair's."""
        self._room, self._send_body = room, send
        if piece_len(room) < self._carrier.piece_len:
            # Pieces under way would not fit, and to cut them anew could double a frame.
            self._replace_carrier("the session's frames have become smaller")
        self._flush()

    def open(self) -> _FabricLink:
        """The link, made where there is none."""
        if self.link is None:
            self.link = _FabricLink(self)
            self._links.owner.opened(self.link)
        return self.link

    def close(self, link: _FabricLink, reason: str) -> None:
        """Takes the link off the pair."""
        if self.link is link:
            self.link = None
            link.end()
            self._links.owner.closed(link, reason)

    def send(self, frame: bytes) -> None:
        """Queues one frame."""
        try:
            self._carrier.send(frame, self._links.clock())
        except ResourceExhausted as error:
            self._fail(BindingError(Refusal.OVERFLOW, str(error)))
        self._flush()

    def receive(self, body: object) -> None:
        """Takes in one body.

        Raises:
            RemoteError: It is malformed.
        """
        try:
            frames = self._carrier.receive(body, self._links.clock())
        except CarrierError as error:
            self._fail(BindingError(Refusal.PROTOCOL, str(error)))
            frames = []
        for frame in frames:
            self._deliver(frame)
        # Not before: what has been acknowledged must not be lost, whatever ends us meanwhile.
        self._flush()

    def end(self, reason: str) -> None:
        """The session is no more."""
        self._cancel()
        if self.link is not None:
            self.close(self.link, reason)

    def _deliver(self, frame: bytes) -> None:
        try:
            require_whole(frame)
            self._links.owner.received(self.open(), frame)
        except BindingError as error:
            self._links.refusals.add(error.refusal, str(self.remote), str(error))
        except Exception:
            # A bug in one frame's handling must not stop the others.
            log.exception("link failed", extra={"peer": str(self.remote)})

    def _fail(self, error: BindingError) -> None:
        self._links.refusals.add(error.refusal, str(self.remote), str(error))
        self._replace_carrier(str(error))

    def _replace_carrier(self, reason: str) -> None:
        self._carrier = self._links.make_carrier(self._room)
        if self.link is not None:
            self.close(self.link, reason)

    def _flush(self) -> None:
        for body in self._carrier.bodies_to_send(self._links.clock()):
            try:
                self._send_body(body)
            except (AssentError, OSError) as error:
                # As if it were lost on the way: it goes again.
                log.debug("covenant body not sent", extra={"reason": str(error)})
        self._schedule()

    def _schedule(self) -> None:
        self._cancel()
        deadline = self._carrier.next_deadline()
        if deadline is not None and self._links.holds(self):
            delay = max(_LEAST_DELAY, deadline - self._links.clock()) / SECOND
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        try:
            self._carrier.tick(self._links.clock())
        except CarrierError as error:
            self._fail(BindingError(Refusal.SLOW, str(error)))
        self._flush()


def has_arrived(link: Link) -> bool:
    """Whether the end of a pair's session would lose nothing of what was sent over a link."""
    return not isinstance(link, _FabricLink) or link.is_idle


class FabricLinks:
    """Links over all sessions of a daemon. Called on the event loop.

    Args:
        owner: Gets the links.
        clock: Monotonic clock, ns.
        random: Random bits, as many as asked for.
        pace: How fast a pair's bodies may go out.
    """

    def __init__(
        self,
        owner: LinkOwner,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        random: Callable[[int], int] = secrets.randbits,
        pace: Pace | None = None,
    ) -> None:
        self.owner = owner
        self.clock = clock
        self.refusals = Refusals("fabric", lambda: clock() / SECOND)
        self._random = random
        self._pace = pace
        self._pairs: dict[tuple[CellID, CellID], _Pair] = {}

    def session_up(self, remote: CellID, local: CellID, room: int, send: SendBody) -> None:
        """A session stands, or has taken the place of the pair's last one.

        Args:
            remote: The peer.
            local: The cell of this host.
            room: Bytes that the body of a control tag may have in a frame of the session.
            send: Sends one COVENANT tag with this body.

        Raises:
            InvalidArgument: There is too little room for covenants.
        """
        pair = self._pairs.get((remote, local))
        if pair is None:
            self._pairs[remote, local] = _Pair(self, remote, local, room, send)
        else:
            pair.renew(room, send)

    def session_down(self, remote: CellID, local: CellID) -> None:
        """There is no session any more, and none takes its place at once."""
        pair = self._pairs.pop((remote, local), None)
        if pair is not None:
            pair.end("the session has ended")

    def receive(self, remote: CellID, local: CellID, body: object) -> None:
        """A COVENANT tag came in a session. Never raises."""
        pair = self._pairs.get((remote, local))
        if pair is None:
            return
        try:
            pair.receive(body)
        except RemoteError as error:
            self.refusals.add(Refusal.MALFORMED, str(remote), str(error))

    def link(self, remote: CellID, local: CellID) -> Link:
        """The pair's link, which is opened where there is none.

        Raises:
            FailedPrecondition: There is no session.
        """
        pair = self._pairs.get((remote, local))
        if pair is None:
            raise FailedPrecondition(f"no session with {remote}")
        return pair.open()

    def close(self) -> None:
        """Ends all links; the daemon stops."""
        while self._pairs:
            _, pair = self._pairs.popitem()
            pair.end("this side stops")

    def holds(self, pair: _Pair) -> bool:
        """Whether a pair's session stands."""
        return self._pairs.get((pair.remote, pair.local)) is pair

    def make_carrier(self, room: int) -> Carrier:
        """A carrier in a new incarnation."""
        return Carrier(room, self._random(64) or 1, pace=self._pace)
