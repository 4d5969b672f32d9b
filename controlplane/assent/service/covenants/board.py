# SPDX-License-Identifier: Apache-2.0
"""Tells watchers what becomes of covenants: bounded queues, one a watcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Self

from assent.covenant.values import CovenantNews
from assent.errors import ResourceExhausted

QUEUE_MAX: Final = 1024
WATCHERS_MAX: Final = 64


class NewsBoard:
    """Hands each piece of news to everybody who watches."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[CovenantNews | None], int] = {}

    def post(self, news: CovenantNews) -> None:
        """Tells the watchers; one that does not keep up is ended."""
        for queue, handle in list(self._queues.items()):
            if handle in (0, news.view.handle):
                if queue.full():
                    del self._queues[queue]
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(news)

    def watch(self, handle: int = 0) -> News:
        """What becomes of one covenant, or of all, from this call on. Close it after use.

        Raises:
            ResourceExhausted: There are too many watchers; later on, this one did not keep up.
        """
        if len(self._queues) >= WATCHERS_MAX:
            raise ResourceExhausted(f"{WATCHERS_MAX} watch covenants already")
        queue: asyncio.Queue[CovenantNews | None] = asyncio.Queue(QUEUE_MAX)
        self._queues[queue] = handle
        return News(queue, lambda: self._queues.pop(queue, None))


class News:
    """What one watcher is told, from the moment on that it was made.

    A generator would begin with the first question only, and one that was never asked would never
    be closed.
    """

    def __init__(
        self, queue: asyncio.Queue[CovenantNews | None], forget: Callable[[], object]
    ) -> None:
        self._queue = queue
        self._forget = forget

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CovenantNews:
        news = await self._queue.get()
        if news is None:
            raise ResourceExhausted("too much has happened since the last news was taken")
        return news

    async def aclose(self) -> None:
        """Nothing more is kept for this watcher."""
        self._forget()
