# SPDX-License-Identifier: Apache-2.0
"""What applications may ask of flows: to define, to accept and to release them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from assent.errors import FailedPrecondition, LocalError, NotFound, Unavailable
from assent.service.definitions import Definition
from assent.service.flow_board import Listener, Offer
from assent.service.flow_desk import FlowDesk, FlowRefused, Refusal, Wanted
from assent.service.live import LiveSession
from assent.service.records import RemoteCell
from assent.service.sessions import OpenedFlow, SessionManager
from assent.service.store import Store
from assent.wire.cellid import CellID


@dataclass(frozen=True, slots=True)
class Accepted:
    """A flow that a peer has defined, ready to be driven."""

    definition: Definition
    opened: OpenedFlow


class FlowCalls:
    """Carries them out.

    Args:
        store: Names cells.
        sessions: The live sessions.
        monotonic: Monotonic clock, ns.
    """

    def __init__(
        self,
        store: Store,
        sessions: SessionManager,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._now = monotonic

    async def define(self, remote: RemoteCell, local: CellID | None, wanted: Wanted) -> OpenedFlow:
        """Agrees with a peer on a flow.

        Raises:
            NotFound: There is no session.
            FailedPrecondition: The session is not established, or the flow is taken, not open, or
                not permitted by the peer.
            Unavailable: Nobody there listens for it, or the session ended meanwhile.
            TimeoutError: The peer does not answer.
        """
        live = self._sessions.established(remote, local)
        answer = _desk(live).define(wanted, self._now())
        self._sessions.spoken(live)
        try:
            definition = await answer
        except FlowRefused as refusal:
            raise _explained(refusal, remote.name, wanted) from None
        finally:
            # Where the caller has gone, the desk must see that soon.
            self._sessions.spoken(live)
        try:
            return self._sessions.open_flow(remote, live.stored.local, definition.flow)
        except LocalError:
            self._give_back(live, definition.flow)
            raise

    @contextlib.contextmanager
    def listening(
        self, local: CellID, remote: CellID | None, label: str
    ) -> Iterator[AsyncIterator[Accepted]]:
        """Listens while the block lasts; gives the flows that peers define for this listener.

        Raises:
            ResourceExhausted: Too many listen already.
        """
        with self._sessions.flow_board.listening(local, remote, label) as listener:
            yield self._accepted(listener)

    async def _accepted(self, listener: Listener) -> AsyncIterator[Accepted]:
        while True:
            offer = await listener.take()
            try:
                opened = self._open(offer)
            except LocalError:
                # Its session has ended meanwhile, and the flow with it.
                continue
            yield Accepted(offer.definition, opened)

    def release(self, remote: RemoteCell, local: CellID | None, flow: int) -> None:
        """This side is done with a flow.

        Raises:
            NotFound: There is no session, or it has no such definition.
        """
        live = self._sessions.established(remote, local)
        _desk(live).release(flow, self._now())
        self._sessions.spoken(live)

    def lend(self, remote: RemoteCell, local: CellID, flow: int) -> None:
        """Writes down that a flow's numbers are kept by an application from now on.

        Raises:
            NotFound: There is no session.
        """
        _desk(self._sessions.established(remote, local)).lend(flow)

    def take_back(self, remote: RemoteCell, local: CellID, session: int, flow: int) -> None:
        """Its numbers are in the gate again, unless the session is over anyway.

        Raises:
            NotFound: There is no session.
        """
        live = self._sessions.established(remote, local)
        if live.stored.id == session:
            _desk(live).take_back(flow)

    def _open(self, offer: Offer) -> OpenedFlow:
        remote = self._store.remote(offer.remote)
        opened = self._sessions.open_flow(remote, offer.local, offer.definition.flow)
        if opened.view.stored is None or opened.view.stored.id != offer.session:
            raise NotFound("the session has been renewed since")
        return opened

    def _give_back(self, live: LiveSession, flow: int) -> None:
        with contextlib.suppress(LocalError):
            _desk(live).release(flow, self._now())
            self._sessions.spoken(live)


def _desk(live: LiveSession) -> FlowDesk:
    if live.desk is None:
        raise FailedPrecondition("flows cannot be defined on this host")
    return live.desk


def _explained(refusal: FlowRefused, cell: str, wanted: Wanted) -> LocalError:
    if refusal.reason == Refusal.UNHEARD.value:
        return Unavailable(f"nobody listens for {wanted.label!r} at cell {cell!r}")
    return FailedPrecondition(f"cell {cell!r} refuses flow {refusal.flow}: {refusal.reason}")
