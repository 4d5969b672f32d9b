# SPDX-License-Identifier: Apache-2.0
"""What peers have announced: kept until somebody takes it, and never more than a bounded amount."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from assent.errors import ResourceExhausted
from assent.wire.cellid import CellID
from assent.wire.control import Manifest

PENDING_MAX: Final = 64
"""Manifests of one remote cell that wait to be taken."""
WATCHERS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Announced:
    """A manifest and the remote cell that it came from."""

    remote: CellID
    manifest: Manifest


class _Watcher:
    """One reader: which manifests it wants, and those that it has not taken yet."""

    def __init__(self, remote: CellID | None, flow: int | None) -> None:
        self._remote = remote
        self._flow = flow
        self.waiting: deque[Announced] = deque()
        self.arrived = asyncio.Event()

    def wants(self, announced: Announced) -> bool:
        return self._remote in (None, announced.remote) and self._flow in (
            None,
            announced.manifest.flow,
        )

    def add(self, announced: Announced) -> None:
        self.waiting.append(announced)
        self.arrived.set()


class ManifestBoard:
    """Hands each manifest to every watcher that wants it; with none, keeps it for the next one."""

    def __init__(self) -> None:
        self._pending: dict[CellID, deque[Announced]] = {}
        self._watchers: list[_Watcher] = []

    def post(self, announced: Announced) -> bool:
        """Takes in a manifest; False where there is no room, and the peer shall announce again."""
        wanted_by = [watcher for watcher in self._watchers if watcher.wants(announced)]
        if any(len(watcher.waiting) >= PENDING_MAX for watcher in wanted_by):
            return False
        if wanted_by:
            for watcher in wanted_by:
                watcher.add(announced)
            return True
        pending = self._pending.setdefault(announced.remote, deque())
        if len(pending) >= PENDING_MAX:
            return False
        pending.append(announced)
        return True

    def forget(self, remote: CellID) -> None:
        """Drops what a remote cell has announced and nobody has taken."""
        self._pending.pop(remote, None)

    async def watch(
        self, remote: CellID | None, flow: int | None = None
    ) -> AsyncGenerator[Announced, None]:
        """Yields what waits, and then what arrives, until it is closed.

        Args:
            remote: Only of this remote cell; of all where None.
            flow: Only for this flow; for all where None.

        Raises:
            ResourceExhausted: Too many watch already.
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise ResourceExhausted(f"{WATCHERS_MAX} clients watch manifests already")
        watcher = _Watcher(remote, flow)
        self._take_pending(watcher)
        self._watchers.append(watcher)
        try:
            while True:
                while watcher.waiting:
                    yield watcher.waiting.popleft()
                watcher.arrived.clear()
                await watcher.arrived.wait()
        finally:
            self._watchers.remove(watcher)
            self._put_back(watcher)

    def _take_pending(self, watcher: _Watcher) -> None:
        for remote, pending in list(self._pending.items()):
            kept: deque[Announced] = deque()
            for announced in pending:
                if watcher.wants(announced):
                    watcher.add(announced)
                else:
                    kept.append(announced)
            if kept:
                self._pending[remote] = kept
            else:
                del self._pending[remote]

    def _put_back(self, watcher: _Watcher) -> None:
        """What a watcher leaves untaken waits for the next one, unless another has had it."""
        for announced in watcher.waiting:
            if not any(other.wants(announced) for other in self._watchers):
                self.post(announced)
