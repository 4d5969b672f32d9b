# SPDX-License-Identifier: Apache-2.0
"""The covenants of a daemon, as operators and transports see them.

    calls  ->  engine  ->  outcomes: store, gate, evidence, news, frames
    links  ->    |
    time   ->    |

Each part has a module: `homes` (an engine a local cell), `outcomes`, `deciding` (policies),
`reaching` (sessions and transports), `rotation` (keys).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from assent.covenant import document, snapshot
from assent.covenant.agreement import Covenant
from assent.covenant.desk import Happened
from assent.covenant.engine import Engine, Invited
from assent.covenant.machine import State
from assent.covenant.payloads import Defer, Justification
from assent.covenant.policy import Policy
from assent.covenant.terms import TermSet
from assent.covenant.values import CovenantView, Proposal
from assent.errors import FailedPrecondition, InvalidArgument, LocalError
from assent.identity.cellid import from_public_key
from assent.service.bindings.links import Link
from assent.service.covenants.arrivals import Arrivals, names_in
from assent.service.covenants.board import News, NewsBoard
from assent.service.covenants.deciding import Deciding
from assent.service.covenants.evidence import EvidenceLog
from assent.service.covenants.gatekeeper import Gatekeeper
from assent.service.covenants.homes import Homes, recalled
from assent.service.covenants.outcomes import Outcomes
from assent.service.covenants.pledges import windows
from assent.service.covenants.reaching import Reaching
from assent.service.covenants.rotation import Rotation
from assent.service.covenants.transports import RemoteTarget, Transports
from assent.service.covenants.views import view_of
from assent.service.key_files import KeyFiles
from assent.service.locals import LocalCells
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.service.tasks import TaskOwner
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
GRACE_US: Final = 2_000_000
"""After new terms are in force here, a peer may still be going by the old ones."""
_ROLE: Final = "initiator"
_OTHER_ROLE: Final = "responder"
_ON_THE_TABLE: Final = frozenset({"offer-received", "informed", "amending"})


class CovenantKeeper:
    """All covenants of a host. Use it as a context manager, once the gate is in order.

    Args:
        store: The desired state.
        gatekeeper: Opens and closes the gate.
        cells: The local cells at work.
        sessions: The live sessions.
        key_files: Where private keys are kept.
        evidence: The log of what happened.
        tasks: Owns background work.
        monotonic: Monotonic clock, ns.
        wall: Unix µs.
        random: Source of covenant ids and keys.
    """

    def __init__(
        self,
        store: Store,
        gatekeeper: Gatekeeper,
        cells: LocalCells,
        sessions: SessionManager,
        key_files: KeyFiles,
        evidence: EvidenceLog,
        tasks: TaskOwner,
        *,
        monotonic: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._gatekeeper = gatekeeper
        self._evidence = evidence
        self._now = monotonic
        self._wall = wall
        self._arrivals = Arrivals(evidence, monotonic)
        self._board = NewsBoard()
        self._homes = Homes(store, gatekeeper, cells, wall, random, monotonic)
        self._outcomes = Outcomes(
            store, self._homes, gatekeeper, cells, evidence, self._board, wall
        )
        self._reaching = Reaching(store, self._homes, sessions, tasks, self._carry_out)
        self._rotation = Rotation(
            store,
            self._homes,
            gatekeeper,
            key_files,
            self._reaching,
            random,
            monotonic,
            self._carry_out,
        )
        self._deciding = Deciding(store, self._homes, self, wall)
        self._outcomes.followers += [self._follow, self._rotation.follow]
        self._timer: asyncio.TimerHandle | None = None
        self.homeless = 0
        """Frames that were for no agent of this host."""

    def __enter__(self) -> Self:
        self._restore()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._outcomes.save()

    def use(self, transports: Transports) -> None:
        """From now on agents can be reached."""
        self._reaching.use(transports)

    def _restore(self) -> None:
        """Takes over what was in force before the restart; all else ended with the last daemon."""
        for stored in self._store.covenants.open():
            covenant = snapshot.load(stored.snapshot) if stored.snapshot else None
            if covenant is None or not (covenant.in_force and covenant.durable):
                self._gatekeeper.close(stored.handle, State.IDLE.value, stored.snapshot)
                continue
            self._homes.engine(stored.local).restore(covenant, self._now())
            self._homes.add(stored.handle, stored.local)
            log.info("covenant taken over", extra={"covenant": stored.handle})
        for local, _, covenant in self._homes.covenants():
            self._rotation.catch_up(covenant, local)
        for cell in self._store.locals():
            self._rotation.resume(cell.id)
        self._schedule()

    # Calls

    async def offer(
        self,
        local: CellID,
        remotes: Sequence[RemoteTarget],
        proposal: Proposal,
        roles: Sequence[str] = (),
    ) -> CovenantView:
        """Offers a covenant.

        Args:
            local: The cell that offers.
            remotes: To whom; the first one names the covenant.
            proposal: What is proposed.
            roles: Of the remotes, where we are the "initiator"; none = "responder", numbered from
                the second on.

        Raises:
            NotFound: There is no such cell.
            InvalidArgument: The roles or the terms make no sense.
            FailedPrecondition: The consent of a cell is not decided by covenants; or it cannot be
                reached now.
            ResourceExhausted: The node could not back the windows, or too many are open.
            TimeoutError: A cell does not answer.
            Unavailable: It cannot be reached.
        """
        home = self._store.local(local)
        names = _roles(roles, len(remotes))
        engine = self._homes.engine(local)
        invited, urls = [], {}
        for target, role in zip(remotes, names, strict=True):
            remote = self._store.remote(target.cell)
            if not remote.consent.is_negotiated:
                raise FailedPrecondition(
                    f"consent: that of cell {remote.name!r} is {remote.consent.value}, not "
                    "decided by covenants"
                )
            agent_id = self._homes.directory.id_of(remote)
            link = await self._reaching.reach(home, target)
            invited.append(Invited(agent_id, remote.public_key, link, role))
            urls[agent_id] = target.url
        covenant = engine.offer(proposal, invited, self._now())
        self._homes.add(covenant.handle, local)
        for party in covenant.parties.values():
            party.url = urls[party.agent_id]
        try:
            self._bind(covenant)
            self._require_room(covenant, local)
        except LocalError as error:
            engine.abort(covenant.handle, str(error))
            raise
        finally:
            self._carry_out(engine)
        return self.view(covenant.handle)

    def accept(self, handle: int) -> CovenantView:
        """Accepts an offer or an amendment.

        Raises:
            NotFound: There is no such covenant open.
            FailedPrecondition: There is nothing to accept.
            ResourceExhausted: The node cannot back the windows.
        """
        local, _, covenant = self._homes.open(handle)
        self._require_room(covenant, local)
        return self._call(handle, lambda engine: engine.accept(handle, self._now()))

    def reject(
        self, handle: int, justification: Justification, counter_terms: TermSet | None
    ) -> CovenantView:
        """Rejects an offer or an amendment, and says why."""
        return self._call(
            handle, lambda engine: engine.reject(handle, justification, counter_terms)
        )

    def defer(self, handle: int, defer: Defer) -> CovenantView:
        """Asks before deciding."""
        return self._call(handle, lambda engine: engine.defer(handle, defer, self._now()))

    def inform(self, handle: int, content_type: str, data: bytes) -> CovenantView:
        """Answers questions about an offer."""
        return self._call(
            handle, lambda engine: engine.inform(handle, content_type, data, self._now())
        )

    def send(self, handle: int, content_type: str, data: bytes) -> CovenantView:
        """Sends application data over the covenant's own transport."""
        _, _, covenant = self._homes.open(handle)
        if not any(party.link is not None for party in covenant.parties.values()):
            raise FailedPrecondition(f"covenant {handle}: no party is reached now")
        return self._call(
            handle, lambda engine: engine.send(handle, content_type, data, self._now())
        )

    def amend(self, handle: int, proposal: Proposal) -> CovenantView:
        """Proposes new terms."""
        return self._call(handle, lambda engine: engine.amend(handle, proposal, self._now()))

    def review(self, handle: int, kind: str, note: str) -> CovenantView:
        """Asks for or gives an account; "clear" ends the quarantine of the parties.

        That is possible after the covenant's end too: what was never agreed to can be reviewed.
        """
        if kind == "clear" and not self._homes.is_open(handle):
            return self._clear(handle)
        return self._call(handle, lambda engine: engine.review(handle, kind, note))

    def _clear(self, handle: int) -> CovenantView:
        covenant, local = self._homes.find(handle)
        engine = self._homes.engine(local)
        for agent_id in covenant.parties:
            engine.clear(agent_id)
        self._carry_out(engine)
        return self.view(handle)

    def revoke(self, handle: int, reason: str, now: bool) -> CovenantView:
        """Withdraws consent, after the notice period or now."""
        return self._call(
            handle, lambda engine: engine.revoke(handle, reason, self._now(), graceful=not now)
        )

    def rotate(self, local: CellID) -> list[CovenantView]:
        """Gives a local cell a new key: by an AMEND of every covenant that it is bound by.

        Once each party has agreed, the cell has its new key; a covenant whose parties do not agree
        ends.

        Raises:
            NotFound: There is no such local cell.
            FailedPrecondition: A rotation is under way, or a covenant is being amended or revoked.
        """
        return [self.view(handle) for handle in self._rotation.begin(local)]

    # What there is

    def views(self, ended: bool = False) -> list[CovenantView]:
        """All covenants that are open, and those that have ended, by handle."""
        found = [
            view_of(covenant, local, self._store, engine.quarantined)
            for local, engine, covenant in self._homes.covenants()
        ]
        if ended:
            for stored in self._store.covenants.ended():
                if stored.snapshot and not self._homes.is_open(stored.handle):
                    condemned = self._homes.condemned(stored.local)
                    found.append(view_of(recalled(stored), stored.local, self._store, condemned))
        return sorted(found, key=lambda view: view.handle)

    def view(self, handle: int) -> CovenantView:
        """A covenant, open or ended.

        Raises:
            NotFound: There is none of that handle.
        """
        covenant, local = self._homes.find(handle)
        return view_of(covenant, local, self._store, self._homes.condemned(local))

    def export(self, handle: int) -> bytes:
        """All versions with all signatures, as `assent covenant verify` reads them.

        Raises:
            NotFound: There is none of that handle.
            FailedPrecondition: It was never in force.
        """
        covenant, _ = self._homes.find(handle)
        if not covenant.history:
            raise FailedPrecondition(f"covenant {handle} was never in force")
        return document.export(
            [document.SignedVersion(one.document, one.rotation) for one in covenant.history]
        )

    def evidence(self, count: int, handle: int | None = None) -> list[Mapping[str, Any]]:
        """The newest records of the evidence log, oldest first."""
        found = self._evidence.tail(count, covenant=handle)
        return [{"number": one.number, "at": one.at, **one.record} for one in found]

    def watch(self, handle: int = 0) -> News:
        """What becomes of one covenant, or of all."""
        return self._board.watch(handle)

    def policy(self, local: CellID, remote: CellID | None) -> Policy | None:
        """What is accepted by itself of one remote cell, or of those without a policy."""
        raw = self._store.covenants.policies(local).get(remote)
        return None if raw is None else Policy.decode(raw)

    def set_policy(self, local: CellID, remote: CellID | None, wanted: Policy | None) -> None:
        """Sets or removes that."""
        self._store.local(local)
        if wanted is not None:
            self._store.covenants.set_policy(local, remote, wanted.encode())
        else:
            self._store.covenants.delete_policy(local, remote)

    # Links

    def opened(self, link: Link) -> None:
        """A transport is there."""
        self._homes.link_opened(link)

    def received(self, link: Link, frame: bytes) -> None:
        """A whole frame came."""
        engine = self._homes.engine_for(link, frame)
        if engine is None:
            self.homeless += 1
            self._arrivals.refused(link, frame, "homeless", 0)
            return
        handle = engine.handle_of(*names_in(frame))
        why = engine.receive(link, frame, self._now())
        if why:
            self._arrivals.refused(link, frame, why, handle)
        else:
            self._arrivals.took(frame, handle or engine.handle_of(*names_in(frame)))
        self._carry_out(engine)

    def closed(self, link: Link, reason: str) -> None:
        """A transport is gone."""
        engine = self._homes.link_closed(link)
        if engine is not None:
            engine.link_closed(link, self._now())
            self._carry_out(engine)

    def session_up(self, remote: CellID, local: CellID) -> None:
        """A pair is in session."""
        self._reaching.session_up(remote, local)

    # Time, and what others see

    def sweep(self) -> None:
        """Stores what has only counted up, and looks for parties that are not reached."""
        self._outcomes.save()
        self._reaching.sweep()

    def report_breach(self, remote: CellID, local: CellID, what: str, count: int = 1) -> None:
        """Somebody who watches for AIOS has seen a remote cell break its covenant's terms."""
        engine = self._homes.engine_of(local)
        governor = self._store.covenants.governor(remote, local)
        if engine is None or governor is None:
            return
        covenant = engine.covenant(governor.handle)
        since = covenant.history[-1].draft.creation_time
        if covenant.version > 1 and self._wall() - since < GRACE_US:
            return
        for party in covenant.parties.values():
            if from_public_key(party.public_key) == remote:
                engine.report_breach(covenant.handle, party.agent_id, what, count, self._now())
        self._carry_out(engine)

    def _tick(self) -> None:
        self._timer = None
        for _, engine in self._homes.engines():
            engine.tick(self._now())
            self._outcomes.carry_out(engine)
        self._schedule()

    def _schedule(self) -> None:
        deadlines = [engine.next_deadline() for _, engine in self._homes.engines()]
        due = min((at for at in deadlines if at is not None), default=None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            delay = max(0, due - self._now()) / SECOND
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    # Within

    def _call(self, handle: int, act: Callable[[Engine], object]) -> CovenantView:
        _, engine, _ = self._homes.open(handle)
        act(engine)
        self._carry_out(engine)
        return self.view(handle)

    def _carry_out(self, engine: Engine) -> None:
        self._outcomes.carry_out(engine)
        self._schedule()

    def _follow(self, covenant: Covenant, local: CellID, event: Happened) -> None:
        """Goes on after something has become of a covenant."""
        if event.kind == "offer-received":
            self._bind(covenant)
        if event.kind in ("covenanted", "amended"):
            self._reaching.establish(covenant, local)
        if event.kind in _ON_THE_TABLE:
            asyncio.get_running_loop().call_soon(self._deciding.judge, covenant.handle)

    def _require_room(self, covenant: Covenant, local: CellID) -> None:
        for party in covenant.parties.values():
            remote = from_public_key(party.public_key)
            self._gatekeeper.room_for(local, remote, windows(covenant, party))

    def _bind(self, covenant: Covenant) -> None:
        """The UUIDs of known agents stand for their keys from now on."""
        directory = self._homes.directory
        for agent_id, party in covenant.parties.items():
            if directory.is_known(party.public_key) and directory.key_of(agent_id) is None:
                self._gatekeeper.bind_agent(agent_id, party.public_key)


def _roles(given: Sequence[str], others: int) -> list[str]:
    """The roles of the others.

    Raises:
        InvalidArgument: There are not as many as agents, or one is given twice, or ours.
    """
    if not given:
        return [_OTHER_ROLE, *(f"{_OTHER_ROLE}-{number}" for number in range(2, others + 1))]
    if len(given) != others or len({_ROLE, *given}) != others + 1:
        raise InvalidArgument("roles", f"needs {others}, each another one, and none {_ROLE!r}")
    return list(given)
