# SPDX-License-Identifier: Apache-2.0
"""Sessions for covenants, and transports for durable ones: background work, tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from assent.covenant.agreement import Covenant, Party
from assent.covenant.engine import Engine
from assent.errors import AssentError, FailedPrecondition, LocalError, NotFound
from assent.identity.cellid import from_public_key
from assent.service.bindings.links import Link
from assent.service.covenants.homes import Homes
from assent.service.covenants.transports import RemoteTarget, Transports
from assent.service.records import LocalCell
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.service.tasks import TaskOwner
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

_PAUSES: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each try to put a session in place of the one that a covenant makes outdated."""


class Reaching:
    """Reaches other agents.

    Args:
        store: The desired state.
        homes: The engines.
        sessions: The live sessions.
        tasks: Owns background work.
        carry_out: Carries out what an engine says has happened.
    """

    def __init__(
        self,
        store: Store,
        homes: Homes,
        sessions: SessionManager,
        tasks: TaskOwner,
        carry_out: Callable[[Engine], None],
    ) -> None:
        self._store = store
        self._homes = homes
        self._sessions = sessions
        self._tasks = tasks
        self._carry_out = carry_out
        self._transports: Transports | None = None
        self._running: dict[tuple[str, CellID, CellID], asyncio.Task[None]] = {}

    def use(self, transports: Transports) -> None:
        """From now on agents can be reached."""
        self._transports = transports

    async def reach(self, home: LocalCell, target: RemoteTarget) -> Link:
        """A transport to an agent, given to the engine of a local cell.

        Raises:
            FailedPrecondition: No session can be made, or the daemon is still starting.
            TimeoutError: The peer does not answer.
            Unavailable: It cannot be reached.
        """
        if self._transports is None:
            raise FailedPrecondition("the daemon is still starting")
        engine = self._homes.engine(home.id)
        remote = self._store.remote(target.cell)
        link = await self._transports.reach(home, remote, target.url, engine.agent_id)
        self._homes.assign(link, home.id)
        return link

    # Sessions

    def establish(self, covenant: Covenant, local: CellID) -> None:
        """One side of each pair puts a session in place that has the windows agreed on."""
        first = covenant.order[0]
        for party in covenant.parties.values():
            ours = covenant.agent_id == first or (
                party.agent_id != first and covenant.agent_id.bytes < party.agent_id.bytes
            )
            if ours:
                remote = from_public_key(party.public_key)
                self.start("session", remote, local, self._put_session(remote, local))

    async def _put_session(self, remote: CellID, local: CellID) -> None:
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            try:
                if self._store.covenants.governor(remote, local) is None:
                    return
                cell, home = self._store.remote(remote), self._store.local(local)
                await self._sessions.connect(cell, home, renew=True)
            except NotFound:
                return
            except (AssentError, TimeoutError) as error:
                log.warning(
                    "no session for a covenant yet",
                    extra={"remote": str(remote), "reason": str(error)},
                )
            else:
                return

    # Transports of durable covenants

    def session_up(self, remote: CellID, local: CellID) -> None:
        """A pair is in session: durable covenants go on over it."""
        engine = self._homes.engine_of(local)
        if engine is None or self._transports is None:
            return
        for covenant, party in list(_unreached(engine)):
            if from_public_key(party.public_key) == remote and not party.url:
                link = self._transports.fabric_link(remote, local)
                self._homes.assign(link, local)
                engine.attach(covenant.handle, party.agent_id, link)
        self._carry_out(engine)

    def sweep(self) -> None:
        """Looks for parties that are not reached."""
        for local, engine in self._homes.engines():
            for covenant, party in list(_unreached(engine)):
                remote = from_public_key(party.public_key)
                work = self._reach_again(local, covenant.handle, party, remote)
                self.start("reach", remote, local, work)

    async def _reach_again(self, local: CellID, handle: int, party: Party, remote: CellID) -> None:
        try:
            link = await self.reach(self._store.local(local), RemoteTarget(remote, party.url))
            engine = self._homes.engine(local)
            if party.link is None and not engine.covenant(handle).ended:
                engine.attach(handle, party.agent_id, link)
                self._carry_out(engine)
        except (LocalError, TimeoutError) as error:
            log.info("a party is not reached", extra={"covenant": handle, "reason": str(error)})

    def start(
        self, what: str, remote: CellID, local: CellID, work: Coroutine[Any, Any, None]
    ) -> None:
        """Starts work for a pair, unless the same is under way."""
        key = what, remote, local
        running = self._running.get(key)
        if running is not None and not running.done():
            work.close()
            return
        task = self._tasks.start(work, f"{what} {remote.short}")
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))


def _unreached(engine: Engine) -> Iterator[tuple[Covenant, Party]]:
    """The parties of durable covenants in force that no transport leads to."""
    for covenant in engine.covenants():
        if covenant.in_force and covenant.durable:
            for party in covenant.reached():
                if party.link is None:
                    yield covenant, party
