# SPDX-License-Identifier: Apache-2.0
"""Who listens for flows that peers define. Each offer goes to one listener, or is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from assent.errors import ResourceExhausted
from assent.service.definitions import Definition
from assent.wire.cellid import CellID

LISTENERS_MAX: Final = 256
WAITING_MAX: Final = 256
"""Offers that wait for one listener. More than the flows of a peer, so that one cannot fill it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A flow that a peer has defined.

    Attributes:
        remote: The peer.
        local: The cell of this host.
        session: Its session's id.
        definition: What was asked for.
        decline: Gives the flow up, where nobody takes it after all.
    """

    remote: CellID
    local: CellID
    session: int
    definition: Definition
    decline: Callable[[], None] = field(repr=False, compare=False)


class Listener:
    """One application: what it listens for, and the offers that it has not taken yet."""

    def __init__(self, local: CellID, remote: CellID | None, label: str) -> None:
        self._local = local
        self._remote = remote
        self._label = label
        self.waiting: deque[Offer] = deque()
        self._arrived = asyncio.Event()

    @property
    def is_for_one(self) -> bool:
        """Whether it listens for one remote cell alone."""
        return self._remote is not None

    def add(self, offer: Offer) -> None:
        """Hands it an offer."""
        self.waiting.append(offer)
        self._arrived.set()

    async def take(self) -> Offer:
        """The next offer, once there is one."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self.waiting.popleft()

    def wants(self, local: CellID, remote: CellID, label: str) -> bool:
        """Whether a flow is for it."""
        return self._local == local and self._label == label and self._remote in (None, remote)


class FlowBoard:
    """Hands each offer to one listener."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def is_heard(self, local: CellID, remote: CellID, label: str) -> bool:
        """Whether somebody listens for such a flow."""
        return any(listener.wants(local, remote, label) for listener in self._listeners)

    def post(self, offer: Offer) -> bool:
        """Hands an offer over; False where nobody listens for it, or has room for it.

        Who listens for that very cell goes before who listens for any; among equals, who has the
        fewest waiting.
        """
        label = offer.definition.label
        wanted_by = [
            listener
            for listener in self._listeners
            if listener.wants(offer.local, offer.remote, label)
            and len(listener.waiting) < WAITING_MAX
        ]
        if not wanted_by:
            return False
        chosen = min(wanted_by, key=lambda one: (not one.is_for_one, len(one.waiting)))
        chosen.add(offer)
        return True

    @contextlib.contextmanager
    def listening(
        self, local: CellID, remote: CellID | None = None, label: str = ""
    ) -> Iterator[Listener]:
        """Listens while the block lasts; offers that are untaken then are passed on, or declined.

        Args:
            local: At this cell of the host.
            remote: Only of this remote cell; of all where None.
            label: Only flows for this label.

        Raises:
            ResourceExhausted: Too many listen already.
        """
        if len(self._listeners) >= LISTENERS_MAX:
            raise ResourceExhausted(f"{LISTENERS_MAX} applications listen for flows already")
        listener = Listener(local, remote, label)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            for offer in listener.waiting:
                if not self.post(offer):
                    offer.decline()

    def forget(self, session: int) -> None:
        """Drops the offers of a session that has ended."""
        for listener in self._listeners:
            kept = [offer for offer in listener.waiting if offer.session != session]
            listener.waiting.clear()
            listener.waiting.extend(kept)
