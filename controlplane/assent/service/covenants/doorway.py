# SPDX-License-Identifier: Apache-2.0
"""Where links wait until somebody owns them: sessions are taken over before covenants are."""

from __future__ import annotations

from collections.abc import Callable

from assent.service.bindings.fabric import FabricLinks
from assent.service.bindings.links import Link, LinkOwner
from assent.wire.cellid import CellID


class Doorway:
    """The owner of all links; what comes early is handed on later, in its order."""

    def __init__(self) -> None:
        self._owner: LinkOwner | None = None
        self._waiting: list[Callable[[LinkOwner], None]] = []

    def open(self, owner: LinkOwner) -> None:
        """From now on `owner` is told."""
        self._owner = owner
        waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell(owner)

    def shut(self) -> None:
        """Nobody is told any more."""
        self._owner = None

    def opened(self, link: Link) -> None:
        """See LinkOwner."""
        self._tell(lambda owner: owner.opened(link))

    def received(self, link: Link, frame: bytes) -> None:
        """See LinkOwner."""
        self._tell(lambda owner: owner.received(link, frame))

    def closed(self, link: Link, reason: str) -> None:
        """See LinkOwner."""
        self._tell(lambda owner: owner.closed(link, reason))

    def _tell(self, tell: Callable[[LinkOwner], None]) -> None:
        if self._owner is None:
            self._waiting.append(tell)
        else:
            tell(self._owner)


class SessionEars:
    """Hears of sessions for the fabric's links, and passes on that a pair is in session.

    Args:
        links: Over flow 0.
    """

    def __init__(self, links: FabricLinks) -> None:
        self._links = links
        self.on_session: Callable[[CellID, CellID], None] = lambda remote, local: None
        """Called with the remote and the local cell of a pair that is in session."""

    def session_up(
        self, remote: CellID, local: CellID, room: int, send: Callable[[object], None]
    ) -> None:
        """See FabricSink."""
        self._links.session_up(remote, local, room, send)
        self.on_session(remote, local)

    def session_down(self, remote: CellID, local: CellID) -> None:
        """See FabricSink."""
        self._links.session_down(remote, local)

    def receive(self, remote: CellID, local: CellID, body: object) -> None:
        """See FabricSink."""
        self._links.receive(remote, local, body)
