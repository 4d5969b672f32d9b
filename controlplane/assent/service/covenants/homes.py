# SPDX-License-Identifier: Apache-2.0
"""One engine a local cell, and where each covenant and each transport belongs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

from assent.covenant import payloads, snapshot
from assent.covenant.agreement import Covenant
from assent.covenant.engine import Engine
from assent.covenant.machine import State
from assent.covenant.payloads import Offer
from assent.errors import FailedPrecondition, NotFound, RemoteError
from assent.identity.keys import Identity
from assent.service.bindings.links import Link
from assent.service.covenants.directory import StoreDirectory
from assent.service.covenants.gatekeeper import Gatekeeper
from assent.service.covenants.records import StoredCovenant
from assent.service.locals import LocalCells
from assent.service.records import LocalCell
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.tcpup import CovenantFrame, FrameType


class Homes:
    """The engines of a host.

    Args:
        store: The desired state.
        gatekeeper: Numbers covenants.
        cells: The local cells at work.
        wall: Unix µs.
        random: Source of covenant ids.
        monotonic: Monotonic clock, ns.
    """

    def __init__(
        self,
        store: Store,
        gatekeeper: Gatekeeper,
        cells: LocalCells,
        wall: Callable[[], int],
        random: Callable[[int], bytes],
        monotonic: Callable[[], int],
    ) -> None:
        self.directory = StoreDirectory(store)
        self._store = store
        self._gatekeeper = gatekeeper
        self._cells = cells
        self._wall = wall
        self._random = random
        self._monotonic = monotonic
        self._engines: dict[CellID, Engine] = {}
        self._handles: dict[int, CellID] = {}
        self._links: dict[Link, CellID | None] = {}

    # Engines

    def engine(self, local: CellID) -> Engine:
        """The engine of a local cell, made when it is first needed.

        Raises:
            NotFound: There is no such cell.
            FailedPrecondition: Its key cannot be used.
        """
        found = self._engines.get(local)
        if found is not None:
            return found
        identity, cell = self._cells.identity(local), self._store.local(local)
        agent_id = self.directory.id_of(cell)
        if self.directory.key_of(agent_id) is None:
            self._gatekeeper.bind_agent(agent_id, cell.public_key)
        made = Engine(
            agent_id,
            identity,
            self.directory,
            self._wall,
            self._random,
            lambda: self._gatekeeper.begin(self.home(made), 0, State.IDLE.value, b""),
            self.condemned(local),
            monotonic=self._monotonic,
        )
        self._engines[local] = made
        return made

    def condemned(self, local: CellID) -> Mapping[UUID, str]:
        """The agents that are in quarantine for a local cell, and why."""
        engine = self._engines.get(local)
        if engine is not None:
            return engine.quarantined
        agents = self._store.covenants.agents()
        return {one.agent_id: one.condition for one in agents if one.quarantined}

    def engines(self) -> list[tuple[CellID, Engine]]:
        """All engines, each with its local cell."""
        return list(self._engines.items())

    def engine_of(self, local: CellID) -> Engine | None:
        """The engine of a local cell, where it has needed one."""
        return self._engines.get(local)

    def home(self, engine: Engine) -> CellID:
        """The local cell of an engine: its key may change, and with it the cell."""
        return next(local for local, one in self._engines.items() if one is engine)

    def rename(self, old: CellID, new: CellID, identity: Identity) -> Engine:
        """A local cell has another key."""
        engine = self._engines.pop(old)
        engine.use_key(identity)
        self._engines[new] = engine
        self._handles = {
            handle: new if home == old else home for handle, home in self._handles.items()
        }
        self._links = {link: new if home == old else home for link, home in self._links.items()}
        return engine

    # Covenants

    def add(self, handle: int, local: CellID) -> None:
        """A covenant is open."""
        self._handles[handle] = local

    def remove(self, handle: int) -> None:
        """A covenant is over: what is known of it is in the store."""
        self._engines[self._handles.pop(handle)].forget(handle)

    def is_open(self, handle: int) -> bool:
        """Whether a covenant is open."""
        return handle in self._handles

    def open(self, handle: int) -> tuple[CellID, Engine, Covenant]:
        """A covenant that is open.

        Raises:
            NotFound: There is none of that handle.
            FailedPrecondition: It has ended.
        """
        local = self._handles.get(handle)
        if local is None:
            self.find(handle)
            raise FailedPrecondition(f"covenant {handle} has ended")
        engine = self._engines[local]
        return local, engine, engine.covenant(handle)

    def find(self, handle: int) -> tuple[Covenant, CellID]:
        """A covenant, open or ended.

        Raises:
            NotFound: There is none of that handle.
        """
        local = self._handles.get(handle)
        if local is not None:
            return self._engines[local].covenant(handle), local
        with contextlib.suppress(NotFound):
            stored = self._store.covenants.get(handle)
            if stored.snapshot:
                return recalled(stored), stored.local
        raise NotFound(f"no covenant {handle}")

    def covenants(self) -> Iterator[tuple[CellID, Engine, Covenant]]:
        """All that are open."""
        for local, engine in self.engines():
            for covenant in engine.covenants():
                yield local, engine, covenant

    # Transports

    def link_opened(self, link: Link) -> None:
        """A transport is there; whose it is may show with its first frame."""
        self._links[link] = None
        if link.local_cell is not None:
            self.assign(link, link.local_cell)

    def link_closed(self, link: Link) -> Engine | None:
        """A transport is gone; the engine that had it."""
        local = self._links.pop(link, None)
        return None if local is None else self._engines.get(local)

    def assign(self, link: Link, local: CellID) -> None:
        """Gives a transport to a local cell, once."""
        if self._links.get(link) is not None:
            return
        engine = self.engine(local)
        self._links[link] = local
        agent_id = None
        if link.peer_cell is not None:
            with contextlib.suppress(NotFound):
                agent_id = self.directory.id_of(self._store.remote(link.peer_cell))
        engine.link_opened(link, agent_id=agent_id, single=link.kind == "http2")

    def engine_for(self, link: Link, frame: bytes) -> Engine | None:
        """The engine that a frame is for; None where it is for no agent of this host."""
        local = self._links.get(link)
        if local is not None:
            return self.engine(local)
        cells = self._store.locals()
        if len(cells) > 1:
            cells = [cell for cell in cells if self._is_for(cell, frame)]
        if not cells:
            return None
        self.assign(link, cells[0].id)
        return self.engine(cells[0].id)

    def _is_for(self, cell: LocalCell, raw: bytes) -> bool:
        with contextlib.suppress(RemoteError):
            frame = CovenantFrame.decode(raw)
            if frame.kind is not FrameType.OFFER:
                return self.engine(cell.id).has(frame.agent_id, frame.covenant_id)
            offer = payloads.decode(FrameType.OFFER, frame.payload)
            return isinstance(offer, Offer) and any(
                agent.public_key == cell.public_key for agent in offer.agents
            )
        return False


def recalled(stored: StoredCovenant) -> Covenant:
    """A covenant that is not open any more, as it ended."""
    covenant = snapshot.load(stored.snapshot)
    if covenant.state.value != stored.state:
        # Nobody was there to write it down.
        covenant.state, covenant.amendment = State(stored.state), None
        covenant.reason, covenant.updated_at = "it ended with the daemon", stored.updated_at
    return covenant
