# SPDX-License-Identifier: Apache-2.0
"""An owner of background tasks: each has a name, each is awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)


class TaskOwner:
    """Runs tasks until its block ends; then cancels and awaits them.

    A task that fails is logged and reported through `failed`: the daemon then stops, since half of
    one is worse than none. Use it as an async context manager.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[BaseException] | None = None

    async def __aenter__(self) -> Self:
        self._failed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._tasks:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Starts a task."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def failed(self) -> BaseException:
        """Waits for the first task that fails, and returns its error."""
        if self._failed is None:
            raise RuntimeError("the owner has not been entered")
        return await asyncio.shield(self._failed)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("task failed", extra={"task": task.get_name()}, exc_info=error)
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(error)
