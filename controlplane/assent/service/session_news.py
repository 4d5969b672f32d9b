# SPDX-License-Identifier: Apache-2.0
"""What becomes of sessions and their flows, for the applications that use them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from assent.errors import ResourceExhausted
from assent.wire.cellid import CellID

WATCHERS_MAX: Final = 256
WAITING_MAX: Final = 1024
"""News that wait for one watcher; one that falls behind further is told so, and begins anew."""


class NewsKind(enum.Enum):
    """What has happened."""

    ESTABLISHED = "established"
    RENEWED = "renewed"
    ENDED = "ended"
    MOVED = "moved"
    FLOW_CLOSED = "flow closed"


@dataclass(frozen=True, slots=True)
class News:
    """One thing that has happened to a session.

    Attributes:
        kind: What.
        local: The cell of this host.
        remote: The peer; None in MOVED, which is about all of the local cell's sessions.
        session: Its id; 0 in MOVED.
        flow: In FLOW_CLOSED.
        reason: Why it ended, for people.
        interface: Of the local cell, in MOVED.
        mac: The same, 6 bytes.
        mtu: The same, bytes.
        awaited: In FLOW_CLOSED: all numbers before this one were consumed; 0 = not known.
    """

    kind: NewsKind
    local: CellID
    remote: CellID | None = None
    session: int = 0
    flow: int = 0
    reason: str = ""
    interface: str = ""
    mac: bytes | None = None
    mtu: int = 0
    awaited: int = 0


class Watcher:
    """One application, and the news that it has not taken yet."""

    def __init__(self, remote: CellID | None, local: CellID | None) -> None:
        self._remote = remote
        self._local = local
        self._waiting: deque[News] = deque()
        self._arrived = asyncio.Event()
        self._is_behind = False

    async def take(self) -> News:
        """What has happened next, once it has.

        Raises:
            ResourceExhausted: Too much was left untaken, and what followed is lost.
        """
        while not self._waiting:
            if self._is_behind:
                raise ResourceExhausted(
                    f"more than {WAITING_MAX} news were not taken: look at the sessions anew"
                )
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def add(self, news: News) -> None:
        """Hands it news, where they are what it watches."""
        if self._local not in (None, news.local):
            return
        if None not in (self._remote, news.remote) and self._remote != news.remote:
            return
        self._is_behind = self._is_behind or len(self._waiting) >= WAITING_MAX
        if not self._is_behind:
            self._waiting.append(news)
        self._arrived.set()


class SessionNews:
    """Hands news to every watcher that wants them; without one, they are gone."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []
        self._subscribers: list[Callable[[News], None]] = []

    def subscribe(self, hear: Callable[[News], None]) -> None:
        """Has a part of the daemon told at once. It must not raise."""
        self._subscribers.append(hear)

    def unsubscribe(self, hear: Callable[[News], None]) -> None:
        """Has it told no more."""
        self._subscribers.remove(hear)

    def post(self, news: News) -> None:
        """Tells what has happened."""
        for hear in self._subscribers:
            hear(news)
        for watcher in self._watchers:
            watcher.add(news)

    def moved(self, local: CellID, interface: str, mac: bytes, mtu: int) -> None:
        """Tells that a local cell speaks through another interface, or one that has changed."""
        self.post(News(NewsKind.MOVED, local, interface=interface, mac=mac, mtu=mtu))

    @contextlib.contextmanager
    def watching(
        self, remote: CellID | None = None, local: CellID | None = None
    ) -> Iterator[Watcher]:
        """Watches while the block lasts, from now on.

        Args:
            remote: Only sessions with this remote cell; all where None.
            local: Only sessions of this local cell; of all where None.

        Raises:
            ResourceExhausted: Too many watch already.
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise ResourceExhausted(f"{WATCHERS_MAX} applications watch sessions already")
        watcher = Watcher(remote, local)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)
