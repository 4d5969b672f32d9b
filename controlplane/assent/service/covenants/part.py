# SPDX-License-Identifier: Apache-2.0
"""Covenants as a part of the daemon: the keeper, its transports, and who watches for AIOS."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from assent.dataplane.gate import Gate
from assent.service.bindings.fabric import FabricLinks
from assent.service.config import Config
from assent.service.covenants.breaches import BreachWatch
from assent.service.covenants.doorway import Doorway, SessionEars
from assent.service.covenants.evidence import EvidenceLog
from assent.service.covenants.gatekeeper import Gatekeeper
from assent.service.covenants.keeper import CovenantKeeper
from assent.service.covenants.transports import Transports
from assent.service.key_files import KeyFiles
from assent.service.live import ANNOUNCE_PATIENCE
from assent.service.locals import LocalCells
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.service.tasks import TaskOwner
from assent.wire.cellid import CellID


class FabricDoor:
    """What the sessions of a daemon need of its covenants before those are there.

    Args:
        monotonic: Monotonic clock, ns.

    Attributes:
        ears: Takes COVENANT tags.
    """

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._now = monotonic
        self._doorway = Doorway()
        self.links = FabricLinks(self._doorway)
        self.ears = SessionEars(self.links)
        self._keeper: CovenantKeeper | None = None
        self._told: dict[tuple[CellID, CellID, str], int] = {}

    def breach(self, remote: CellID, local: CellID, what: str) -> None:
        """A remote cell has announced what its covenant's terms do not allow.

        An announcement that is not answered comes again and again: it is one breach.
        """
        now, key = self._now(), (remote, local, what)
        recent = {one: at for one, at in self._told.items() if now - at < ANNOUNCE_PATIENCE}
        self._told = {key: now} | recent
        if self._keeper is not None and key not in recent:
            self._keeper.report_breach(remote, local, what)

    def open(self, keeper: CovenantKeeper) -> None:
        """From now on `keeper` hears everything; first what has come meanwhile."""
        self._keeper = keeper
        self.ears.on_session = keeper.session_up
        self._doorway.open(keeper)

    def shut(self) -> None:
        """Nobody hears anything any more."""
        self._keeper = None
        self.ears.on_session = lambda remote, local: None
        self._doorway.shut()
        self.links.close()


class CovenantPart:
    """Use it as an async context manager, once sessions and gate are in order.

    Args:
        config: Where to listen.
        store: The desired state.
        gate: Counts what its frames do.
        gatekeeper: Opens and closes the gate.
        cells: The local cells at work.
        sessions: The live sessions.
        key_files: Where private keys are kept.
        door: What the sessions were given.
        tasks: Owns background work.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        gate: Gate,
        gatekeeper: Gatekeeper,
        cells: LocalCells,
        sessions: SessionManager,
        key_files: KeyFiles,
        door: FabricDoor,
        tasks: TaskOwner,
    ) -> None:
        self._evidence = EvidenceLog(config.state_dir / "evidence.log")
        self._door = door
        self._tasks = tasks
        self._gatekeeper = gatekeeper
        self.keeper = CovenantKeeper(
            store, gatekeeper, cells, sessions, key_files, self._evidence, tasks
        )
        self._transports = Transports(config, door.links, sessions, self.keeper)
        self._breaches = BreachWatch(gate, self.keeper.report_breach)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._evidence)
            stack.enter_context(self.keeper)
            await stack.enter_async_context(self._transports)
            self.keeper.use(self._transports)
            stack.callback(self._door.shut)
            self._door.open(self.keeper)
            # Sessions were taken over before anybody asked for them.
            self._gatekeeper.end_orphans()
            self.keeper.sweep()
            self._tasks.start(self._breaches.run(), "covenant breaches")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def sweep(self) -> None:
        """Does what time asks for."""
        self._gatekeeper.refresh()
        self.keeper.sweep()
