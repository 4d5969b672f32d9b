# SPDX-License-Identifier: Apache-2.0
"""Carries out what an engine says has happened: in gate, store, evidence and news; then it speaks.

    events  ->  gatekeeper (gate, store)  ->  evidence  ->  news
    frames  ->  links, after that

When the other side hears that a covenant is in force, the gate is open. Where an event cannot be
carried out, the frames that tell of it are taken back, and nothing was agreed. An end is the other
way round: it is said first, for the session that carries the word may end with the covenant.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Final, cast

from assent.covenant import snapshot
from assent.covenant.agreement import Covenant
from assent.covenant.desk import Happened
from assent.covenant.engine import Engine
from assent.covenant.values import CovenantNews
from assent.errors import FailedPrecondition, LocalError, NotFound
from assent.identity.cellid import from_public_key
from assent.service.bindings.links import Link
from assent.service.covenants.arrivals import UNNAMED
from assent.service.covenants.board import NewsBoard
from assent.service.covenants.evidence import EvidenceLog
from assent.service.covenants.gatekeeper import GateGrant, Gatekeeper
from assent.service.covenants.homes import Homes
from assent.service.covenants.pledges import pledge
from assent.service.covenants.views import view_of
from assent.service.locals import LocalCells
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.tcpup import FrameType

log = logging.getLogger(__name__)

_QUIET: Final = frozenset({"data", "reviewed"})
"""What changes nothing but sequence numbers: stored with the next sweep."""

Follower = Callable[[Covenant, CellID, Happened], None]


class Outcomes:
    """See the module.

    Args:
        store: The desired state.
        homes: The engines.
        gatekeeper: Opens and closes the gate.
        cells: The local cells at work.
        evidence: The log of what happened.
        board: Tells watchers.
        wall: Unix µs.
    """

    def __init__(
        self,
        store: Store,
        homes: Homes,
        gatekeeper: Gatekeeper,
        cells: LocalCells,
        evidence: EvidenceLog,
        board: NewsBoard,
        wall: Callable[[], int],
    ) -> None:
        self._store = store
        self._homes = homes
        self._gatekeeper = gatekeeper
        self._cells = cells
        self._evidence = evidence
        self._board = board
        self._wall = wall
        self._unsaved: set[int] = set()
        self._over: set[int] = set()
        self.followers: list[Follower] = []
        """Told of every event of a covenant, once it has been carried out."""

    def carry_out(self, engine: Engine) -> None:
        """Carries out all that has happened, and sends what is to be sent."""
        while events := engine.take_events():
            # What closes the gate comes first.
            events.sort(key=lambda event: event.kind != "quarantined")
            for handle, some in _by_covenant(events):
                self._carry_out(engine, handle, some)
        while self._over:
            self._homes.remove(self._over.pop())
        for link in engine.take_useless():
            cast("Link", link).close("nothing but junk came")
        self._speak(engine)

    def save(self) -> None:
        """Stores what has only counted up."""
        unsaved, self._unsaved = self._unsaved, set()
        for handle in sorted(unsaved):
            with contextlib.suppress(NotFound, FailedPrecondition):
                _, _, covenant = self._homes.open(handle)
                self._note(covenant)

    def _carry_out(self, engine: Engine, handle: int, events: list[Happened]) -> None:
        try:
            if handle:
                self._of_covenant(engine, handle, events)
            else:
                self._of_agents(events)
        except LocalError as error:
            log.error(
                "covenant not carried out",
                extra={"covenant": handle, "event": events[-1].kind, "reason": str(error)},
            )
            if handle and events[-1].kind != "failed":
                engine.abort(handle, str(error))

    # Agents

    def _of_agents(self, events: list[Happened]) -> None:
        for event in events:
            self._of_agent(event)

    def _of_agent(self, event: Happened) -> None:
        agent_id = event.agent_id
        assert agent_id is not None  # noqa: S101 - what is about an agent names it
        if event.kind == "quarantined":
            took = self._gatekeeper.quarantine(agent_id, event.text)
            log.warning(
                "agent quarantined",
                extra={"agent": str(agent_id), "condition": event.text, "ms": round(took * 1e3, 2)},
            )
        else:
            self._gatekeeper.clear(agent_id)
        for _, engine in self._homes.engines():
            if event.kind == "quarantined":
                engine.condemn(agent_id, event.text)
            else:
                engine.absolve(agent_id)
        self._evidence.append(
            {"event": event.kind, "agent": agent_id, "text": event.text}, sync=True
        )
        for local, engine, covenant in self._homes.covenants():
            if agent_id in covenant.parties:
                self._post(engine, covenant, local, event)

    # Covenants

    def _of_covenant(self, engine: Engine, handle: int, events: list[Happened]) -> None:
        covenant, local = engine.covenant(handle), self._homes.home(engine)
        self._homes.add(handle, local)
        self._follow(engine, covenant, local, {event.kind for event in events})
        for event in events:
            self._record(covenant, event)
            self._post(engine, covenant, local, event)
            for follower in self.followers:
                follower(covenant, local, event)

    def _follow(self, engine: Engine, covenant: Covenant, local: CellID, kinds: Set[str]) -> None:
        """Store and gate follow all that happened to a covenant at once.

        The snapshot is of how it stands after that: it is never stored without what it means for
        the gate.
        """
        handle, state = covenant.handle, covenant.state.value
        if handle in self._over:
            return
        if covenant.ended:
            self._speak(engine)
            self._gatekeeper.close(handle, state, snapshot.dump(covenant))
            self._over.add(handle)
            self._unsaved.discard(handle)
        elif "covenanted" in kinds:
            self._gatekeeper.admit(
                handle,
                state,
                snapshot.dump(covenant),
                self._pledges(covenant, local),
                covenant_id=covenant.covenant_id,
                durable=covenant.durable,
            )
        elif "amended" in kinds:
            raw = snapshot.dump(covenant)
            self._gatekeeper.adjust(handle, state, raw, self._pledges(covenant, local))
        elif "revoking" in kinds:
            raw = snapshot.dump(covenant)
            self._gatekeeper.adjust(handle, state, raw, until_us=covenant.notice_ends)
        elif kinds <= _QUIET:
            self._unsaved.add(handle)
        else:
            self._note(covenant)

    def _note(self, covenant: Covenant) -> None:
        self._gatekeeper.note(
            covenant.handle,
            covenant.state.value,
            snapshot.dump(covenant),
            covenant_id=covenant.covenant_id,
            durable=covenant.durable,
        )

    def _pledges(self, covenant: Covenant, local: CellID) -> list[GateGrant]:
        """What the gate is told of those parties that the operator has made known."""
        identity = self._cells.identity(local)
        found = []
        for party in covenant.parties.values():
            # Whose key was rotated speaks for a while as the cell of the former one.
            cells = [from_public_key(key) for key in (party.public_key, party.former_key) if key]
            known = next(filter(self._is_known, cells), None)
            if known is not None:
                found.append(replace(pledge(covenant, party, identity, local), remote=known))
        return found

    def _is_known(self, remote: CellID) -> bool:
        try:
            return self._store.remote(remote).consent.is_negotiated
        except NotFound:
            return False

    # Telling

    def _speak(self, engine: Engine) -> None:
        for outgoing in engine.take_frames():
            self._watch(outgoing.frame, outgoing.handle)
            cast("Link", outgoing.link).send(outgoing.frame)

    def _watch(self, raw: bytes, handle: int) -> None:
        """AIOS keeps the names of the frames that decide something."""
        kind = FrameType(raw[0] & 0xF)
        if kind not in UNNAMED:
            self._evidence.append({"frame": kind.name, "covenant": handle, "way": "sent"})

    def _record(self, covenant: Covenant, event: Happened) -> None:
        if event.kind in _QUIET:
            return
        record: dict[str, object] = {
            "event": event.kind,
            "covenant": covenant.handle,
            "id": covenant.covenant_id,
            "state": covenant.state.value,
            "text": event.text,
        }
        if event.agent_id is not None:
            record["agent"] = event.agent_id
        if event.violation is not None:
            record["violation"] = event.violation.to_body()
        self._evidence.append(record, sync=event.violation is not None)
        told = {"event": event.kind, "covenant": covenant.handle, "text": event.text}
        log.info("covenant", extra=told)

    def _post(self, engine: Engine, covenant: Covenant, local: CellID, event: Happened) -> None:
        view = view_of(covenant, local, self._store, engine.quarantined)
        self._board.post(
            CovenantNews(view, event.kind, event.text, event.data, event.violation, self._wall())
        )


def _by_covenant(events: Sequence[Happened]) -> list[tuple[int, list[Happened]]]:
    """What happened to each covenant, in the order in which their first events came."""
    found: dict[int, list[Happened]] = {}
    for event in events:
        found.setdefault(event.handle, []).append(event)
    return list(found.items())
