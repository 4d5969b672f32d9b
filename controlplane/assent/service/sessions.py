# SPDX-License-Identifier: Apache-2.0
"""All sessions of a host: how they come to be, are taken over, replaced and removed.

A pair of a local and a remote cell has at most one handshake under way and one live session. The
session that a handshake yields is put in place before the frame leaves that tells the peer so.
Sessions outlive the daemon in the gate; at the start, those that are whole are taken over
untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, Self

from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.errors import (
    AssentError,
    FailedPrecondition,
    LocalError,
    NotFound,
    RemoteError,
    ResourceExhausted,
    Unavailable,
)
from assent.handshake.utcp import (
    Closed,
    Established,
    Event,
    KeysReady,
    State,
    UnexpectedFrame,
)
from assent.service.definitions import Definition, Definitions
from assent.service.flow_board import FlowBoard
from assent.service.flow_desk import FlowOffice, FlowPolicy
from assent.service.flow_zero import CONTROL_FLOW, is_handshake
from assent.service.handshakes import (
    FLOW_MAX,
    Handshake,
    Handshakes,
    Terms,
    agreed_replay,
    agreed_shift,
    hears_lamps,
    is_syn,
    usable_window,
    wall_clock,
)
from assent.service.interfaces import describe
from assent.service.live import Dataplane, FlowState, LiveSession, Phase, open_flows
from assent.service.locals import LocalCells
from assent.service.manifests import Announced, ManifestBoard
from assent.service.placement import Placed, Placement
from assent.service.records import LocalCell, RemoteCell, StoredSession
from assent.service.session_news import News, NewsKind, SessionNews
from assent.service.static_sessions import StaticSessions, StaticView
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.control import Close, Delivery, FlowClass, Manifest, ManifestItem
from assent.wire.ethernet import BROADCAST, ETHERNET_HEADER_LEN, EthernetHeader
from assent.wire.fabric import Frame, Header

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
_NUMBERS: Final = 1 << 32
_GROUP_ADDRESS: Final = 0x01
"""In the first byte of a MAC address that is not one station's."""
_LEAST_DELAY: Final = SECOND // 50

Breach = Callable[[CellID, CellID, str], None]
"""Told what a remote cell did to a local one against the covenant that governs them."""

_STATES: Final = {
    Phase.UNCONFIRMED: State.SYN_RCVD,
    Phase.ESTABLISHED: State.ESTABLISHED,
    Phase.CLOSING: State.FIN_WAIT,
    Phase.ENDED: State.CLOSED,
}


@dataclass(frozen=True, slots=True)
class ControlBlock:
    """A connection, under way or not yet (seed UTCP, PCB).

    Attributes:
        state: As in the seed's state machine.
        remote: The peer.
        local: The cell of this host.
        local_seq: The next number that is sent on flow 0.
        remote_seq: The next one that is expected there.
        last_active: When the peer was heard last, Unix time, ns; 0 = not known.
        dkh_trust: Reserved in the seed, and 0.
    """

    state: State
    remote: RemoteCell
    local: CellID
    local_seq: int
    remote_seq: int
    last_active: int
    dkh_trust: int = 0


@dataclass(frozen=True, slots=True)
class SessionView:
    """What there is to see of a pair's session or handshake.

    Attributes:
        stored: The public part; None while only a handshake is under way.
        remote: The peer.
        local: The cell of this host.
        state: As in the seed's state machine.
        flows: The books of flow 0 and of the open data flows.
        mac: The peer's, 6 bytes; None where not known.
        is_static: Its keys come from an orchestrator, not from a handshake.
    """

    stored: StoredSession | None
    remote: RemoteCell
    local: CellID
    state: State
    flows: tuple[FlowState, ...]
    mac: bytes | None
    is_static: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether it is a static one that the gate has lost."""
        return self.is_static and self.state is State.CLOSED


@dataclass(frozen=True, slots=True)
class OpenedFlow:
    """What a local application needs to drive one flow. Holds keys.

    `rx_blocks_per_second`: what it is to grant the peer beyond the first window; 0 = no bound.
    `rtt`: of the handshake, ns; 0 = not known.
    """

    view: SessionView
    flow: int
    slot: int
    interface: str
    local_mac: bytes
    remote_mac: bytes
    mtu: int
    lock_path: Path
    tx_payload_key: bytes = field(repr=False)
    rx_payload_key: bytes = field(repr=False)
    tx_header_key: bytes = field(repr=False)
    rx_blocks_per_second: int
    grant_shift: int
    delivery: Delivery = Delivery.ORDERED
    flow_class: FlowClass = FlowClass.STANDARD
    rtt: int = 0
    lamp: bool = False


class FabricSink(Protocol):
    """Takes the COVENANT tags of sessions. Must not raise, but where `session_up` says so."""

    def session_up(
        self, remote: CellID, local: CellID, room: int, send: Callable[[object], None]
    ) -> None:
        """A pair is in session: what `send` is given leaves as a tag's body, and may be lost.

        Called again where a renewed session has other room.

        Args:
            remote: The peer.
            local: The cell of this host.
            room: Bytes of CBOR that a body may have.
            send: Sends one; nothing happens once the session has ended.

        Raises:
            LocalError: There is too little room.
        """

    def session_down(self, remote: CellID, local: CellID) -> None:
        """A pair is in session no more; a renewal is none of that."""

    def receive(self, remote: CellID, local: CellID, body: object) -> None:
        """The peer has sent a tag with this body."""


@dataclass(slots=True, eq=False)
class _Pair:
    """One local cell and one remote cell.

    Attributes:
        remote: The peer's id.
        local: The local cell's id.
        mac: Where the peer was heard last.
        handshake: The newest, under way or not.
        live: The session in the gate.
        renewed: Whether it has taken another one's place.
        waiters: Calls that wait for the handshake's outcome.
        timer: The one wake-up for all of the pair's deadlines.
        newest: The newest number that was heard on flow 0 of the live session.
        is_sought: Whether frames go to all stations of the link, until the peer is heard again.
        room: What covenants were told a tag's body may have, bytes; None = that there is no
            session.
    """

    remote: CellID
    local: CellID
    mac: bytes | None
    handshake: Handshake | None = None
    live: LiveSession | None = None
    renewed: bool = False
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    newest: int = 0
    is_sought: bool = False
    room: int | None = None


class SessionManager:
    """Owns every session of a daemon. Use it as an async context manager.

    Leaving the block leaves the sessions in the gate: they go on without the daemon.

    Args:
        store: The desired state.
        placement: Puts sessions in place and removes them.
        dataplane: The flow tables.
        cells: The local cells and their sockets.
        board: Takes manifests.
        statics: The sessions that need no handshake.
        skew_limit: ns either way that a peer's timestamps may be off.
        patience: Silence after which a peer is given up, ns.
        covenants: Takes COVENANT tags; None = they are not known.
        on_breach: Told of announcements that a covenant does not permit.
        definitions: Where it is kept what is agreed on flows; None = none can be defined.
        flow_policy: What flows peers may define.
        terms: What is offered in handshakes.
        connections: How many there may be, those under way among them; None = as the gate can hold.
        monotonic: Monotonic clock, ns.
        wall: Wall clock, ns of TAI.
    """

    def __init__(
        self,
        store: Store,
        placement: Placement,
        dataplane: Dataplane,
        cells: LocalCells,
        board: ManifestBoard,
        statics: StaticSessions,
        *,
        skew_limit: int,
        patience: int,
        covenants: FabricSink | None = None,
        on_breach: Breach | None = None,
        definitions: Definitions | None = None,
        flow_policy: FlowPolicy | None = None,
        terms: Terms = Terms(),  # noqa: B008 - it cannot be changed
        connections: int | None = None,
        monotonic: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = wall_clock,
    ) -> None:
        self._store = store
        self._placement = placement
        self._dataplane = dataplane
        self._cells = cells
        self._board = board
        self._statics = statics
        self._skew_limit = skew_limit
        # A responder hears nothing until its answer has been answered.
        self._patience = max(patience, terms.timers.lifetime)
        self._terms = terms
        self._connections = connections
        self._covenants = covenants
        self._on_breach = on_breach
        self._now = monotonic
        self._wall = wall
        self._handshakes = Handshakes(store, wall, terms=terms)
        self._pairs: dict[tuple[CellID, CellID], _Pair] = {}
        self.refused = 0
        """Control frames that passed the gate and were refused here."""
        self.on_credit: Callable[[CellID], None] = lambda _: None
        """Called with a remote cell to which less is promised than before."""
        self.on_open: Callable[[LiveSession, int], None] = lambda _live, _flow: None
        """Called before a local application is handed a flow of a session."""
        self.news = SessionNews()
        """What becomes of sessions, for applications."""
        self.flow_board = FlowBoard()
        """Who listens for flows that peers define."""
        self.on_session_over: Callable[[StoredSession, str], None] = lambda *_: None
        """Called when a session is over, before its lines in the gate become another's."""
        self._office: FlowOffice | None = None
        if definitions is not None:
            self._office = FlowOffice(
                self.flow_board,
                definitions,
                flow_policy or FlowPolicy(),
                placement.is_driven,
                self._flow_closed,
                lambda stored, reason: self.on_session_over(stored, reason),
            )

    async def __aenter__(self) -> Self:
        for placed in self._placement.take_stock(self._statics.take_stock()):
            pair = self._pair(self._store.remote(placed.stored.remote), placed.stored.local)
            pair.mac = placed.stored.mac
            pair.live = self._make_live(pair, placed, confirmed=True, fresh=False)
            self._schedule(pair)
            self._link_up(pair)
            log.info("session taken over", extra={"session": placed.stored.id})
        self._cells.receiver = self._receive
        self._finish_renewals()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cells.receiver = None
        for pair in self._pairs.values():
            self._cancel_timer(pair)
            self._fail(pair, Unavailable("the daemon is stopping"))
            if pair.live is not None:
                pair.live.abandon("the daemon is stopping")

    # What there is

    def count(self) -> int:
        """How many sessions are live."""
        live = sum(pair.live is not None for pair in self._pairs.values())
        return live + self._statics.count()

    def static_views(self) -> Iterator[list[SessionView]]:
        """Every static session, in slices: others may work between two of them."""
        for page in self._statics.views():
            yield [self._static_view(found) for found in page]

    def views(self) -> list[SessionView]:
        """Every session that a handshake made, and every handshake under way."""
        found = (self._view(pair) for pair in self._pairs.values())
        views = [view for view in found if view is not None]
        return sorted(views, key=lambda view: (view.remote.name, view.local))

    def view(self, remote: RemoteCell, local: CellID | None) -> SessionView:
        """The session with a remote cell.

        Raises:
            NotFound: There is none.
            FailedPrecondition: Several local cells have one, and none is named.
        """
        static = self._static(remote, local)
        shown = self._static_view(static) if static else self._view(self._held(remote, local))
        if shown is None:
            raise NotFound(f"no session with cell {remote.name!r}")
        return shown

    def live_with(self, remote: CellID) -> list[LiveSession]:
        """The live sessions with a remote cell, of all local cells."""
        return [
            pair.live
            for pair in self._pairs.values()
            if pair.remote == remote and pair.live is not None
        ]

    def control_blocks(self) -> list[ControlBlock]:
        """Every connection that a handshake made or is making; static ones have none."""
        blocks = (self._control_block(pair) for pair in self._pairs.values())
        found = [block for block in blocks if block is not None]
        return sorted(found, key=lambda block: (block.remote.name, block.local))

    @property
    def terms(self) -> Terms:
        """What is offered in handshakes."""
        return self._terms

    @property
    def capacity(self) -> int | None:
        """How many connections there may be; None = as the gate can hold."""
        return self._connections

    def present(self) -> set[CellID]:
        """The remote cells that are in session."""
        return {
            pair.remote
            for pair in self._pairs.values()
            if pair.live is not None and pair.live.phase is Phase.ESTABLISHED
        }

    def all_live(self) -> list[LiveSession]:
        """The live sessions of all pairs, static ones aside."""
        return [pair.live for pair in self._pairs.values() if pair.live is not None]

    # Handshakes

    async def connect(self, remote: RemoteCell, local: LocalCell, *, renew: bool) -> SessionView:
        """Shakes hands, unless a session is live and is not to be renewed; waits for the outcome.

        Raises:
            FailedPrecondition: No consent, no key, or no gated interface.
            ResourceExhausted: The gate has no room for the session.
            TimeoutError: The peer does not answer.
            Unavailable: The handshake was overtaken by a change of the cell or its keys.
        """
        pair = self._pair(remote, local.id)
        if not renew and pair.live is not None and pair.live.phase is Phase.ESTABLISHED:
            return self.view(remote, local.id)
        if self._is_refused(remote):
            raise FailedPrecondition(
                f"consent: cell {remote.name!r} has none, so its answer would be refused"
            )
        self._begin(pair, remote, local)
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pair.waiters.append(outcome)
        self._flush(pair)
        try:
            async with asyncio.timeout(self._terms.timers.lifetime / SECOND):
                await outcome
        except TimeoutError:
            raise TimeoutError(f"cell {remote.name!r} does not answer") from None
        finally:
            if outcome in pair.waiters:
                pair.waiters.remove(outcome)
        try:
            return self.view(remote, local.id)
        except NotFound:
            raise Unavailable("the session ended as soon as it was established") from None

    def _begin(self, pair: _Pair, remote: RemoteCell, local: LocalCell) -> None:
        """Begins a handshake where none is under way that the peer still takes part in."""
        held = pair.handshake
        if held is not None and held.pending and not held.connection.is_forsaken:
            return
        identity = self._cells.identity(local.id)
        self._cells.require_gated(local)
        self._make_room(pair)
        mtu = describe(local.interface).mtu
        pair.handshake = self._handshakes.begin(identity, remote, mtu, self._now())

    def _make_room(self, pair: _Pair) -> None:
        """Sees to it that one more connection has a place: that of a silent one is taken.

        Raises:
            ResourceExhausted: All of them are at work.
        """
        if self._connections is None or _is_open(pair):
            return
        if len(self._pairs) + self._statics.count() < self._connections:
            return
        others = [other for other in self._pairs.values() if _is_open(other)]
        if len(others) + self._statics.count() < self._connections:
            return
        lives = [other.live for other in others if other.live and not other.live.suspended]
        oldest = min(lives, key=lambda live: live.heard_at, default=None)
        silent = self._now() - self._terms.timers.lifetime
        if oldest is None or oldest.heard_at > silent:
            raise ResourceExhausted(
                f"there are {self._connections} connections, and no more may be. Use a larger "
                "profile"
            )
        oldest.drop("silent, and its place was needed")

    # Live sessions

    async def close(self, remote: RemoteCell, local: CellID | None) -> None:
        """Ends a session on both sides.

        Raises:
            NotFound: There is none.
        """
        if self._static(remote, local) is not None:
            self._statics.remove(remote.id)
            return
        pair = self._held(remote, local)
        self._stop_handshake(pair, "the session is being closed")
        if pair.live is None:
            return
        live = pair.live
        live.begin_close(self._now())
        self._schedule(pair)
        await live.wait_ended()

    async def announce(
        self, remote: RemoteCell, local: CellID | None, flow: int, items: tuple[ManifestItem, ...]
    ) -> None:
        """Announces items to a peer; see `LiveSession.announce`."""
        if self._static(remote, local) is not None:
            raise FailedPrecondition("a static session has no announcements: agree otherwise")
        await self._established(remote, local).announce(flow, items)

    def watch(self, remote: CellID | None, flow: int | None) -> AsyncGenerator[Announced, None]:
        """What peers announce; see `ManifestBoard.watch`."""
        return self._board.watch(remote, flow)

    def open_flow(self, remote: RemoteCell, local: CellID | None, flow: int) -> OpenedFlow:
        """What an application needs to drive a flow by itself.

        Raises:
            NotFound: There is no session, or it has no such flow.
            FailedPrecondition: The session is not established, or its interface is gone.
        """
        static = self._static(remote, local)
        if static is not None:
            if static.session.keys is None or static.entry is None:
                raise FailedPrecondition(
                    f"the gate has lost the static session with {remote.name!r}: it needs new keys"
                )
            stored, keys, entry = static.session.stored, static.session.keys, static.entry
            view = self._static_view(static)
            definition, rtt, lamp = None, 0, False
        else:
            live = self._established(remote, local)
            stored, keys, entry = live.stored, live.keys, live.entry
            view = self.view(remote, stored.local)
            definition, rtt, lamp = None, 0, stored.lamp
            if live.has_flow(flow):
                self.on_open(live, flow)
            if live.desk is not None:
                live.desk.require_sound(flow)
                live.desk.note()
                definition, rtt = live.desk.definition(flow), live.desk.rtt
        if flow not in open_flows(self._dataplane.flows, entry):
            raise NotFound(f"flow: the session with {remote.name!r} has no flow {flow}")
        interface = describe(self._store.local(stored.local).interface)
        mtu = min(stored.mtu, interface.mtu)
        slot = self._dataplane.flows.slot_of(entry, flow)
        opened = OpenedFlow(
            view=view,
            flow=flow,
            slot=slot,
            interface=interface.name,
            local_mac=interface.mac,
            remote_mac=view.mac or stored.mac,
            mtu=mtu,
            lock_path=self._placement.lock_path(stored.id, flow),
            tx_payload_key=keys.tx_payload,
            rx_payload_key=keys.rx_payload,
            tx_header_key=keys.tx_header,
            rx_blocks_per_second=self._rate_of_flow(remote, stored.local),
            grant_shift=self._dataplane.flows.read(slot).grant_shift,
            rtt=rtt,
            lamp=lamp,
        )
        return opened if definition is None else _as_agreed(opened, definition)

    def established(self, remote: RemoteCell, local: CellID | None) -> LiveSession:
        """The established session with a remote cell that a handshake has made.

        Raises:
            NotFound: There is none.
            FailedPrecondition: It is static or not established, or `local` has to be named.
        """
        if self._static(remote, local) is not None:
            raise FailedPrecondition("a static session has no flow 0: agree on flows otherwise")
        return self._established(remote, local)

    def spoken(self, live: LiveSession) -> None:
        """A session has been made to say something: its timers have changed."""
        for pair in self._pairs_of(live.stored.remote, live.stored.local):
            self._schedule(pair)

    def sweep_flows(self) -> None:
        """Gives up defined flows whose applications are gone."""
        for pair in list(self._pairs.values()):
            live = pair.live
            if live is not None and live.desk is not None and live.desk.sweep(self._now()):
                self._schedule(pair)

    def _flow_closed(self, stored: StoredSession, flow: int, close: Close) -> None:
        self.news.post(
            News(
                NewsKind.FLOW_CLOSED,
                stored.local,
                stored.remote,
                stored.id,
                flow,
                close.reason,
                awaited=close.awaited or 0,
            )
        )

    def _rate_of_flow(self, remote: RemoteCell, local: CellID) -> int:
        """A flow's share of the rate that the governing covenant allows a peer; 0 = any."""
        governor = None
        if remote.consent.is_negotiated:
            governor = self._store.covenants.governor(remote.id, local)
        if governor is None or not governor.rate:
            return 0
        # Each flow is paced by itself, the gate counts them together.
        return max(1, governor.rate // max(1, len(governor.flows)))

    # Changes of the desired state

    def moved(self, local: CellID) -> None:
        """A local cell speaks through another interface: its peers and applications are told.

        Where the peers are on the new link is not known, so all of its stations are spoken to
        until they answer.
        """
        interface = describe(self._store.local(local).interface)
        now = self._now()
        for pair in self._pairs_of(local):
            if pair.local != local:
                continue
            pair.is_sought = True
            if pair.live is not None:
                pair.live.mtu = min(pair.live.stored.mtu, interface.mtu)
                pair.live.windows.ask_again(now)
                pair.live.beat(now)
            self._schedule(pair)
        self.news.moved(local, interface.name, interface.mac, interface.mtu)

    def suspend_again(self, remote: CellID) -> None:
        """While the gate refuses a peer by our own will, its silence is not held against it.

        To be called when consent or quarantine has changed; a cell that is gone is not an error.
        """
        found = self.live_with(remote)
        if found:
            suspended = self._is_refused(self._store.remote(remote))
            for live in found:
                live.suspended = suspended

    def stop_handshakes(self, remote: CellID, reason: str) -> None:
        """Gives up handshakes whose offer, key or consent no longer holds."""
        for pair in self._pairs_of(remote):
            self._stop_handshake(pair, reason)

    def stop_all_handshakes(self, reason: str) -> None:
        """As stop_handshakes(), for all remote cells."""
        for pair in list(self._pairs.values()):
            self._stop_handshake(pair, reason)

    def farewell(self, cell: CellID, local: CellID | None = None) -> None:
        """Tells a cell's peers that drop() is about to follow, as long as the gate lets us."""
        for pair in self._pairs_of(cell, local):
            if pair.live is not None:
                pair.live.farewell()

    def drop(self, cell: CellID, reason: str, local: CellID | None = None) -> None:
        """Ends all that a remote or local cell has under way, at once; the peers are told once.

        Args:
            cell: Remote or local.
            reason: For the log, and for those who wait.
            local: Of a remote cell, only what it has with this one.
        """
        for pair in self._pairs_of(cell, local):
            self._stop_handshake(pair, reason)
            if pair.live is not None:
                pair.live.drop(reason)

    def end_static(self, remote: CellID) -> None:
        """Ends the static session of a remote cell, where it has one."""
        self._statics.remove(remote)

    def static_flows(self, remote: CellID) -> tuple[FlowState, ...]:
        """The flows of the static session of a remote cell; none where it has none."""
        found = self._statics.find(remote)
        return () if found is None else found.flows

    def static_window(self, remote: CellID, flow: int) -> int:
        """The window that we promised for a flow of a static session, in blocks; or 0."""
        found = self._statics.find(remote)
        if found is None or found.entry is None or flow >= found.entry.flow_count:
            return 0
        slot = self._dataplane.flows.slot_of(found.entry, flow)
        return int(self._dataplane.flows.read(slot).rx_window)

    def farewell_many(self, cells: Set[CellID]) -> None:
        """As farewell(), for many remote cells."""
        for pair in self._pairs.values():
            if pair.remote in cells and pair.live is not None:
                pair.live.farewell()

    def drop_many(self, cells: Set[CellID], statics: Set[int], reason: str) -> None:
        """As drop(), for many remote cells; `statics`: ids of static sessions that have ended."""
        for pair in [pair for pair in self._pairs.values() if pair.remote in cells]:
            self._stop_handshake(pair, reason)
            if pair.live is not None:
                pair.live.drop(reason)
        if statics:
            self._placement.forget_locks(statics)

    def forget_many(self, cells: Set[CellID], statics: Set[int]) -> None:
        """As forget(), for many remote cells; `statics`: ids of static sessions that have ended."""
        self.drop_many(cells, statics, "the cell was deleted")
        for pair in [pair for pair in self._pairs.values() if pair.remote in cells]:
            self._cancel_timer(pair)
            del self._pairs[pair.remote, pair.local]
        for cell in cells:
            self._board.forget(cell)

    def forget(self, cell: CellID) -> None:
        """Drops what is left of a cell that is gone."""
        self.drop(cell, "the cell was deleted")
        for pair in self._pairs_of(cell):
            self._cancel_timer(pair)
            del self._pairs[pair.remote, pair.local]
        self._board.forget(cell)

    def verify(self) -> int:
        """Compares live sessions with the gate; one that the gate lost ends. Returns how many."""
        lost = 0
        for pair in list(self._pairs.values()):
            if pair.live is None:
                continue
            if self._placement.entry(pair.live.stored) is not None:
                self._check_clock(pair, pair.live.stored)
                continue
            lost += 1
            live, pair.live = pair.live, None
            live.abandon("the gate has lost it")
            self._placement.remove(live.stored)
            self.on_credit(pair.remote)
            self._link_down(pair)
            self._tell_end(live.stored, "the gate has lost it")
            log.warning("session lost", extra={"session": live.stored.id})
        return lost

    def _check_clock(self, pair: _Pair, stored: StoredSession) -> None:
        """A clock that was set is seen, told, and learned anew by the peer in a new handshake.

        The peer compares our timestamps with the clock that we had when the session began, and
        refuses them once they are off by more than its limit.
        """
        if not self._skew_limit:  # nobody's clock is held against anybody here
            return
        began_at = stored.clock_offset - stored.clock_ahead
        step = self._wall() - self._now() - began_at
        if abs(step) <= self._skew_limit // 2 or (pair.handshake and pair.handshake.pending):
            return
        log.warning("this host's clock was set", extra={"session": stored.id, "step_ns": step})
        self._renew(pair, stored)

    def _finish_renewals(self) -> None:
        """Renews what was being renewed when the last daemon was killed.

        The peer may hold the newer session, and have dropped the one that was taken over here.
        """
        for pair in self._pairs.values():
            if pair.live is None:
                continue
            stored = pair.live.stored
            if self._store.handshake(pair.remote, pair.local).last_epoch > stored.epoch:
                log.warning("a renewal was interrupted", extra={"session": stored.id})
                self._renew(pair, stored)

    def _renew(self, pair: _Pair, stored: StoredSession) -> None:
        """Shakes hands anew, unprompted; where that cannot be, the session goes on as it is."""
        try:
            remote = self._store.remote(pair.remote)
            if not self._is_refused(remote):
                self._begin(pair, remote, self._store.local(pair.local))
        except LocalError as error:
            log.warning("not renewed", extra={"session": stored.id, "reason": str(error)})
        self._flush(pair)

    # Frames and time

    def _receive(self, local: CellID, raw: bytes) -> None:
        """Takes in a flow-0 frame from the socket of a local cell. Never raises."""
        try:
            ethernet = EthernetHeader.decode(raw)
            frame = Frame.decode(raw[ETHERNET_HEADER_LEN:])
            remote = self._store.remote(frame.header.src)
            if not remote.consent.admits:
                raise FailedPrecondition("no consent")
            pair = self._pair(remote, local)
            try:
                if is_handshake(frame.header.flags):
                    self._receive_handshake(pair, remote, frame, ethernet.src)
                elif pair.live is None:
                    raise UnexpectedFrame("a session frame without a session")
                else:
                    live = pair.live
                    live.receive(frame.header, frame.payload, self._now())
                    if live is pair.live:
                        self._heard(pair, frame.header, ethernet.src)
            finally:
                self._flush(pair)
        except RemoteError as error:
            self.refused += 1
            log.debug("control frame refused", extra={"cell": str(local), "reason": str(error)})
        except LocalError as error:
            self.refused += 1
            log.warning("control frame not taken", extra={"cell": str(local), "reason": str(error)})
        except Exception:
            # A bug in one frame's handling must not stop the others.
            self.refused += 1
            log.exception("control frame failed")

    def _receive_handshake(self, pair: _Pair, remote: RemoteCell, frame: Frame, mac: bytes) -> None:
        cell = self._store.local(pair.local)
        identity = self._cells.identity(pair.local)
        mtu = describe(cell.interface).mtu
        now = self._now()
        if is_syn(frame.header):
            self._make_room(pair)
        shake = self._handshakes.answer(identity, remote, mtu, pair.handshake, frame.header)
        try:
            events = shake.connection.receive(frame.header, frame.payload, now)
        except UnexpectedFrame:
            if not self._may_restart(pair, shake, frame.header):
                raise
            shake = self._handshakes.restart(identity, remote, mtu)
            events = shake.connection.receive(frame.header, frame.payload, now)
        pair.handshake = shake
        self._handshakes.remember(pair.remote, pair.local, shake)
        self._found_at(pair, mac)
        self._handle(pair, shake, events)

    def _heard(self, pair: _Pair, header: Header, mac: bytes) -> None:
        """Follows a peer that speaks from elsewhere: what it said last counts (RFC 1982)."""
        if not 0 < (header.seq - pair.newest) % _NUMBERS < _NUMBERS // 2:
            return
        pair.newest = header.seq
        self._found_at(pair, mac)

    def _found_at(self, pair: _Pair, mac: bytes) -> None:
        """An authentic frame came from this address."""
        if mac[0] & _GROUP_ADDRESS:
            return
        pair.is_sought = False
        if mac != pair.mac:
            if pair.mac is not None:
                log.info("peer moved", extra={"remote": str(pair.remote), "mac": mac.hex(":")})
            pair.mac = mac
            self._store.set_mac(pair.remote, mac)
            self._store.set_session_mac(pair.remote, pair.local, mac)

    def _may_restart(self, pair: _Pair, shake: Handshake, header: Header) -> bool:
        """Whether a SYN that does not fit is a peer that began anew while we answered it."""
        return (
            shake is pair.handshake and shake.connection.state is State.SYN_RCVD and is_syn(header)
        )

    def _handle(self, pair: _Pair, shake: Handshake, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, KeysReady):
                self._install(pair, shake, event, confirmed=False)
            elif isinstance(event, Established):
                if event.initiator:
                    self._install(pair, shake, event, confirmed=True)
                elif pair.live is not None and pair.live.stored.epoch == event.session_epoch:
                    pair.live.confirm()
                if pair.live is not None and pair.live.desk is not None:
                    pair.live.desk.rtt = event.rtt
                self._link_up(pair)
                self._tell_up(pair)
                self._succeed(pair)
                log.info(
                    "session established",
                    extra={
                        "remote": str(pair.remote),
                        "epoch": event.session_epoch,
                        "initiator": event.initiator,
                    },
                )
            elif isinstance(event, Closed):
                self._handshake_over(pair, shake)

    def _handshake_over(self, pair: _Pair, shake: Handshake) -> None:
        pair.handshake = None
        live = pair.live
        if live is not None and live.phase is Phase.UNCONFIRMED:
            live.drop("the handshake was never confirmed")
        self._fail(pair, TimeoutError("the peer does not answer"))

    def _flush(self, pair: _Pair) -> None:
        """Sends what the handshake has queued, and sets the pair's timer anew."""
        shake = pair.handshake
        if shake is not None:
            frames = shake.connection.frames_to_send()
            if frames:
                self._handshakes.remember(pair.remote, pair.local, shake)
            mac = BROADCAST if shake.ask_everyone else _address(pair)
            for frame in frames:
                self._cells.send(pair.local, mac, frame.encode())
        self._schedule(pair)

    def _schedule(self, pair: _Pair) -> None:
        self._cancel_timer(pair)
        due = []
        if pair.handshake is not None and pair.handshake.pending:
            due.append(pair.handshake.connection.next_deadline())
        if pair.live is not None:
            due.append(pair.live.next_deadline())
        deadline = min((at for at in due if at is not None), default=None)
        if deadline is not None:
            # What is overdue because it failed must not be tried in a tight loop.
            delay = max(_LEAST_DELAY, deadline - self._now()) / SECOND
            pair.timer = asyncio.get_running_loop().call_later(delay, self._tick, pair)

    def _cancel_timer(self, pair: _Pair) -> None:
        if pair.timer is not None:
            pair.timer.cancel()
            pair.timer = None

    def _tick(self, pair: _Pair) -> None:
        pair.timer = None
        now = self._now()
        try:
            shake = pair.handshake
            if shake is not None and shake.pending:
                due = shake.connection.next_deadline()
                if due is not None and now >= due:
                    # Who does not answer at the address that is known may have moved.
                    shake.ask_everyone = shake.connection.state is State.SYN_SENT
                    is_forsaken = shake.connection.is_forsaken
                    self._handle(pair, shake, shake.connection.tick(now))
                    if is_forsaken and pair.waiters:
                        remote, local = self._store.remote(pair.remote), pair.local
                        self._begin(pair, remote, self._store.local(local))
            if pair.live is not None:
                pair.live.tick(now)
            self._flush(pair)
        except Exception as error:
            # Whatever it was, the pair's other deadlines must still be met.
            log.error(
                "session not kept up",
                extra={"remote": str(pair.remote)},
                exc_info=None if isinstance(error, AssentError) else error,
            )
            self._schedule(pair)

    # Putting in place, and removing

    def _install(
        self, pair: _Pair, shake: Handshake, ready: KeysReady | Established, *, confirmed: bool
    ) -> None:
        try:
            self._put_in_place(pair, shake, ready, confirmed=confirmed)
        except AssentError as error:
            # Nothing is half-installed, and the peer is not told that it could go on.
            pair.handshake = None
            self._fail(pair, error)
            raise
        except Exception:
            pair.handshake = None
            self._fail(pair, Unavailable("the session cannot be put in place"))
            raise

    def _put_in_place(
        self, pair: _Pair, shake: Handshake, ready: KeysReady | Established, *, confirmed: bool
    ) -> None:
        offer = ready.peer_offer
        stored = StoredSession(
            id=self._store.next_session_id(),
            remote=pair.remote,
            local=pair.local,
            epoch=ready.session_epoch,
            initiator=ready.initiator,
            mac=pair.mac or BROADCAST,
            established_at=time.time_ns(),
            clock_offset=ready.clock_offset,
            clock_ahead=ready.clock_offset - (self._wall() - self._now()),
            mtu=offer.mtu,
            lamp=hears_lamps(offer),
        )
        ours = shake.offer.grants
        shift = agreed_shift(shake.offer, offer)
        replay_len = agreed_replay(shake.offer, offer)
        flows = sorted(flow for flow in ours.keys() | offer.grants.keys() if 1 <= flow <= FLOW_MAX)
        spec = SessionSpec(
            remote=pair.remote,
            local=pair.local,
            session_id=stored.id,
            rx_header_key=ready.keys.rx_header,
            tx_header_key=ready.keys.tx_header,
            clock_offset=ready.clock_offset,
            skew_limit=self._skew_limit,
            grant_shift=shift,
            flows=tuple(
                FlowSpec(
                    flow,
                    usable_window(ours.get(flow, 0), shift),
                    usable_window(offer.grants.get(flow, 0), shift),
                    replay_len,
                )
                for flow in flows
            ),
        )
        for flow in flows:
            if ours.get(flow) and not usable_window(ours[flow], shift):
                log.warning(
                    "a window is too small for the unit of grants that the peer asks for",
                    extra={"remote": str(pair.remote), "flow": flow, "grant_shift": shift},
                )
        old = pair.live
        try:
            placed = self._placement.put(stored, ready.keys, spec, old.stored.id if old else None)
        except BaseException:
            if old is not None and self._placement.entry(old.stored) is None:
                self._replace(pair, None)
                self._link_down(pair)
                self._tell_end(old.stored, "its renewal failed")
            raise
        self._statics.replaced(pair.remote, pair.local)
        self._replace(pair, self._make_live(pair, placed, confirmed=confirmed))
        pair.renewed = old is not None

    def _replace(self, pair: _Pair, live: LiveSession | None) -> None:
        if pair.live is not None:
            pair.live.abandon("renewed")
        pair.live = live
        self.on_credit(pair.remote)

    def _make_live(
        self, pair: _Pair, placed: Placed, *, confirmed: bool, fresh: bool = True
    ) -> LiveSession:
        interface = self._store.local(pair.local).interface
        mtu = placed.stored.mtu
        with contextlib.suppress(FailedPrecondition):
            mtu = min(mtu, describe(interface).mtu)
        live = LiveSession(
            placed.stored,
            placed.keys,
            placed.entry,
            self._dataplane,
            self._board,
            clock=self._wall,
            transmit=lambda frame: self._cells.send(pair.local, _address(pair), frame),
            on_end=lambda live, reason: self._ended(pair, live, reason),
            on_covenant=lambda body: self._take_covenant(pair, body),
            permits=lambda manifest: self._permits(pair, manifest),
            mtu=mtu,
            patience=self._patience,
            now=self._now(),
            confirmed=confirmed,
            office=self._office,
            owed={} if fresh else {one.flow: one.held for one in self._store.grants(pair.remote)},
            fresh=fresh,
            on_freed=lambda: self.on_credit(pair.remote),
        )
        live.suspended = self._is_refused(self._store.remote(pair.remote))
        pair.newest = live.line(CONTROL_FLOW).rx_highest
        return live

    def _ended(self, pair: _Pair, live: LiveSession, reason: str) -> None:
        is_last = pair.live is live
        if is_last:
            pair.live = None
        self._placement.remove(live.stored)
        self.on_credit(pair.remote)
        if is_last:
            self._link_down(pair)
            self._tell_end(live.stored, reason)
        log.info("session ended", extra={"session": live.stored.id, "reason": reason})

    def _tell_up(self, pair: _Pair) -> None:
        if pair.live is not None:
            kind = NewsKind.RENEWED if pair.renewed else NewsKind.ESTABLISHED
            self.news.post(News(kind, pair.local, pair.remote, pair.live.stored.id))

    def _tell_end(self, stored: StoredSession, reason: str) -> None:
        self.news.post(News(NewsKind.ENDED, stored.local, stored.remote, stored.id, reason=reason))

    # Covenants

    def _link_up(self, pair: _Pair) -> None:
        live = pair.live
        if self._covenants is None or live is None or pair.room == live.covenant_room:
            return
        pair.room = live.covenant_room
        try:
            self._covenants.session_up(
                pair.remote, pair.local, pair.room, lambda body: self._send_covenant(pair, body)
            )
        except LocalError as error:
            # The session is none the worse for it.
            log.warning(
                "no covenants over this session",
                extra={"remote": str(pair.remote), "reason": str(error)},
            )

    def _link_down(self, pair: _Pair) -> None:
        if self._covenants is not None and pair.room is not None:
            pair.room = None
            self._covenants.session_down(pair.remote, pair.local)

    def _send_covenant(self, pair: _Pair, body: object) -> None:
        """Sends a tag over the session that is live now; without one, it is lost."""
        if pair.live is not None:
            pair.live.send_covenant(body)

    def _take_covenant(self, pair: _Pair, body: object) -> bool:
        if self._covenants is None:
            return False
        # Before the handshake is confirmed there is no link: what comes early is sent again.
        if pair.room is not None:
            self._covenants.receive(pair.remote, pair.local, body)
        return True

    def _permits(self, pair: _Pair, manifest: Manifest) -> bool:
        """Whether what governs a pair lets the peer announce this; what breaks it is told."""
        remote = self._store.remote(pair.remote)
        if not remote.consent.is_negotiated:
            return True
        governor = self._store.covenants.governor(pair.remote, pair.local)
        if governor is None:
            # It may not know yet that there is nothing in force.
            return False
        for item in manifest.items:
            if not governor.permits(item.content_type):
                log.warning("manifest refused", extra={"remote": str(pair.remote)})
                if self._on_breach is not None:
                    what = f"announced content of type {item.content_type}"
                    self._on_breach(pair.remote, pair.local, what)
                return False
        return True

    # Finding, and telling those who wait

    def _pair(self, remote: RemoteCell, local: CellID) -> _Pair:
        key = remote.id, local
        if key not in self._pairs:
            self._pairs[key] = _Pair(remote.id, local, remote.mac)
        return self._pairs[key]

    def _pairs_of(self, cell: CellID, local: CellID | None = None) -> list[_Pair]:
        return [
            pair
            for pair in self._pairs.values()
            if cell in (pair.remote, pair.local) and local in (None, pair.local)
        ]

    def _is_refused(self, remote: RemoteCell) -> bool:
        """Whether the gate refuses even handshakes of a remote cell."""
        if remote.consent.is_negotiated:
            return False
        return not remote.consent.admits or (
            remote.id.raw in self._store.covenants.quarantined_cells()
        )

    def _held(self, remote: RemoteCell, local: CellID | None) -> _Pair:
        found = [
            pair
            for pair in self._pairs.values()
            if pair.remote == remote.id
            and local in (None, pair.local)
            and (pair.live is not None or (pair.handshake is not None and pair.handshake.pending))
        ]
        if not found:
            raise NotFound(f"no session with cell {remote.name!r}")
        if len(found) > 1:
            raise FailedPrecondition(
                f"local: {len(found)} local cells have a session with {remote.name!r}, name one"
            )
        return found[0]

    def _established(self, remote: RemoteCell, local: CellID | None) -> LiveSession:
        live = self._held(remote, local).live
        if live is None or live.phase is not Phase.ESTABLISHED:
            raise FailedPrecondition(f"the session with {remote.name!r} is not established")
        return live

    def _control_block(self, pair: _Pair) -> ControlBlock | None:
        remote = self._store.remote(pair.remote)
        live, shake = pair.live, pair.handshake
        if live is not None:
            line = live.line(CONTROL_FLOW)
            heard: int | None = live.heard_at
            numbers = int(line.tx_seq) + 1, int(line.rx_highest) + 1
            state = _STATES[live.phase]
        elif shake is not None and shake.pending:
            heard = shake.connection.last_active
            numbers = shake.connection.next_seq, 1
            state = shake.connection.state
        else:
            return None
        at = 0 if heard is None else time.time_ns() - (self._now() - heard)
        return ControlBlock(state, remote, pair.local, *numbers, at)

    def _view(self, pair: _Pair) -> SessionView | None:
        if pair.live is not None:
            stored: StoredSession | None = pair.live.stored
            state = _STATES[pair.live.phase]
            flows = tuple(pair.live.flows())
        elif pair.handshake is not None and pair.handshake.pending:
            stored, state, flows = None, pair.handshake.connection.state, ()
        else:
            return None
        remote = self._store.remote(pair.remote)
        return SessionView(stored, remote, pair.local, state, flows, pair.mac)

    def _static(self, remote: RemoteCell, local: CellID | None) -> StaticView | None:
        """The static session of a remote cell, where no handshake's stands beside it.

        Raises:
            FailedPrecondition: Another local cell has one as well, and none is named.
        """
        found = self._statics.find(remote.id, local)
        if (
            found is not None
            and local is None
            and any(
                pair.remote == remote.id and pair.live is not None for pair in self._pairs.values()
            )
        ):
            raise FailedPrecondition(
                f"local: several local cells have a session with {remote.name!r}, name one"
            )
        return found

    def _static_view(self, found: StaticView) -> SessionView:
        stored = found.session.stored
        return SessionView(
            stored,
            self._store.remote(stored.remote),
            stored.local,
            State.CLOSED if found.entry is None else State.ESTABLISHED,
            found.flows,
            stored.mac,
            is_static=True,
        )

    def _stop_handshake(self, pair: _Pair, reason: str) -> None:
        if pair.handshake is None:
            return
        pending, pair.handshake = pair.handshake.pending, None
        if pending and pair.live is not None and pair.live.phase is Phase.UNCONFIRMED:
            pair.live.drop(reason)
        self._fail(pair, Unavailable(f"the handshake was given up: {reason}"))

    def _succeed(self, pair: _Pair) -> None:
        waiters, pair.waiters = pair.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, pair: _Pair, error: Exception) -> None:
        waiters, pair.waiters = pair.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)


def _is_open(pair: _Pair) -> bool:
    """Whether a pair takes up a place in the table of connections."""
    return pair.live is not None or (pair.handshake is not None and pair.handshake.pending)


def _address(pair: _Pair) -> bytes:
    """Where frames to a peer go."""
    return BROADCAST if pair.is_sought or pair.mac is None else pair.mac


def _as_agreed(opened: OpenedFlow, definition: Definition) -> OpenedFlow:
    return replace(
        opened,
        mtu=min(opened.mtu, definition.mtu),
        delivery=definition.delivery,
        flow_class=definition.flow_class,
    )
