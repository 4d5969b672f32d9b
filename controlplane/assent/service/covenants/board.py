# SPDX-License-Identifier: Apache-2.0
"""Tells watchers what becomes of covenants: bounded queues, one a watcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

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

    async def watch(self, handle: int = 0) -> AsyncGenerator[CovenantNews, None]:
        """What becomes of one covenant, or of all.

        Raises:
            ResourceExhausted: There are too many watchers, or this one did not keep up.
        """
        if len(self._queues) >= WATCHERS_MAX:
            raise ResourceExhausted(f"{WATCHERS_MAX} watch covenants already")
        queue: asyncio.Queue[CovenantNews | None] = asyncio.Queue(QUEUE_MAX)
        self._queues[queue] = handle
        try:
            while (news := await queue.get()) is not None:
                yield news
            raise ResourceExhausted("too much has happened since the last news was taken")
        finally:
            self._queues.pop(queue, None)
