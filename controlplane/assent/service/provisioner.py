# SPDX-License-Identifier: Apache-2.0
"""Cells by the thousand: made known, promised room and put in session in one step.

    store (transaction open)  ->  gate (a few batch operations)  ->  commit

So whoever is told that it is done finds it in both. A crash before the commit leaves sessions in
the gate that the store does not know, and the next start removes them. Why epochs must rise, and
what becomes of a session that the gate has lost, stands in static_sessions.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from assent.covenant.consent import Consent
from assent.dataplane.tables import FlowSpec, SessionSpec, SessionTable
from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LocalError,
    NotFound,
)
from assent.handshake.keys import SessionKeys
from assent.identity.cellid import from_public_keys
from assent.service.bulk_records import WantedRow
from assent.service.credit import Promises
from assent.service.handshakes import FLOW_MAX, wall_clock
from assent.service.reconciler import Reconciler
from assent.service.records import (
    LocalCell,
    RemoteCell,
    StandingGrant,
    StoredPsk,
    StoredSession,
)
from assent.service.sessions import SessionManager
from assent.service.static_records import StaticSession
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

EPOCH_MAX: Final = (1 << 31) - 1
"""Leaves room above for the epochs of handshakes."""
_SECRET_LEN: Final = 32
_HALF: Final = 16

Windows = tuple[tuple[int, int], ...]
"""(flow, blocks), by flow."""


@dataclass(frozen=True, slots=True)
class StaticOffer:
    """A static session as an orchestrator asks for it.

    Attributes:
        local: the cell of this host; None = the only one.
        keys: with their epoch.
        peer_grants: what the peer promises.
        mtu: the largest frame that the peer takes, bytes.
        clock_offset: the peer's clock minus this host's monotonic one, ns; None = both keep the
            same time.
        skew_limit: ns; None = the daemon's own.
    """

    local: CellID | str | None
    keys: SessionKeys = field(repr=False)
    peer_grants: Windows
    mtu: int
    clock_offset: int | None
    skew_limit: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """A remote cell with all that it is to have.

    Attributes:
        name: of the cell.
        public_key: 32 bytes.
        consent: to hear from it.
        mac: where it is; needed with a session.
        psk: 32 bytes; None = no handshakes.
        grants: what this host promises.
        session: its static session.
    """

    name: str
    public_key: bytes
    consent: Consent
    mac: bytes | None
    psk: bytes | None = field(repr=False)
    grants: Windows
    session: StaticOffer | None


@dataclass(slots=True)
class Installed:
    """What installations did; see InstallSummary in the API."""

    cells: int = 0
    replaced: int = 0
    psks: int = 0
    grants: int = 0
    sessions: int = 0
    sessions_kept: int = 0

    def __add__(self, other: Installed) -> Installed:
        return Installed(
            *(getattr(self, name) + getattr(other, name) for name in Installed.__slots__)
        )


@dataclass(slots=True)
class _Batch:
    """A request, as far as it has been worked out."""

    items: Sequence[Item]
    cells: list[RemoteCell]
    homes: dict[bytes, LocalCell]
    first: int
    gone: dict[bytes, StaticSession | None] = field(default_factory=dict)
    """Cells that leave, or come back as others; with the static session of each."""
    fresh: list[StaticSession] = field(default_factory=list)
    kept: list[StaticSession] = field(default_factory=list)
    specs: list[SessionSpec] = field(default_factory=list)
    promised: dict[tuple[CellID, int], int] = field(default_factory=dict)
    """What the ledger held for the windows that are touched."""
    in_gate: bool = False

    def at(self, index: int, field_name: str) -> str:
        """How an item's field is named in an error."""
        return f"items[{self.first + index}].{field_name}"


class Provisioner:
    """Installs and removes remote cells in batches.

    Args:
        store: The desired state.
        reconciler: Says what follows from it for the gate.
        table: The gate's sessions.
        ledger: What the node has promised.
        sessions: The live sessions.
        skew_limit: ns either way that a peer's timestamps may be off, where none is asked for.
        monotonic: Monotonic clock, ns.
        wall: Wall clock, ns of TAI.
    """

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        table: SessionTable,
        ledger: Promises,
        sessions: SessionManager,
        *,
        skew_limit: int,
        monotonic: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = wall_clock,
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._table = table
        self._ledger = ledger
        self._sessions = sessions
        self._skew_limit = skew_limit
        self._now = monotonic
        self._wall = wall

    def install(self, items: Sequence[Item], *, replace: bool, first: int = 0) -> Installed:
        """Installs all of the items, or nothing.

        Args:
            items: Checked one by one; nothing is known yet of how they fit what is there.
            replace: Whether a cell of an item's name gives way to it.
            first: Number of the first item, for errors.

        Raises:
            AlreadyExists: A name or key is taken; the message begins with `items[i].field`.
            InvalidArgument: A static session or a grant must not be, or there is no such local
                cell.
            FailedPrecondition: No local cell is named, and there is not one alone.
            ResourceExhausted: The gate has no room, or the node cannot back the grants.
        """
        homes = {home.id.raw: home for home in self._store.locals()}
        ids = from_public_keys([item.public_key for item in items])
        cells = [
            RemoteCell(ident, item.name, item.public_key, item.consent, item.mac)
            for ident, item in zip(ids, items, strict=True)
        ]
        batch = _Batch(items, cells, homes, first)
        _refuse_twice(batch)
        _refuse_promises_by_hand(batch)
        try:
            with self._books(batch), self._store.transaction():
                self._make_way(batch, replace=replace)
                self._settle_sessions(batch)
                self._promise(batch)
                self._write(batch)
                self._put_in_gate(batch)
        except BaseException:
            # The store has been rolled back, and the gate follows.
            self._take_from_gate(batch)
            raise
        kept = {one.stored.id for one in batch.kept}
        self._sessions.drop_many(
            {CellID(gone) for gone in batch.gone},
            {old.stored.id for old in batch.gone.values() if old} - kept,
            "the cell was replaced",
        )
        return Installed(
            cells=len(cells),
            replaced=len(batch.gone),
            psks=sum(item.psk is not None for item in items),
            grants=sum(len(item.grants) for item in items),
            sessions=len(batch.fresh) + len(batch.kept),
            sessions_kept=len(batch.kept),
        )

    def remove(self, refs: Sequence[CellID | str], *, first: int = 0) -> int:
        """Removes remote cells with all that they have; all, or none.

        Args:
            refs: Their ids or names.
            first: Number of the first, for errors.

        Returns:
            How many they were.

        Raises:
            NotFound: There is no such cell; the message begins with `cells[i]`.
            InvalidArgument: It lives on this host.
        """
        cells = self._resolve(refs, first)
        remotes = [CellID(cell) for cell in cells]
        locks = {old.stored.id for old in self._store.static.of(cells).values()}
        homes = [home.id for home in self._store.locals()]
        try:
            with self._store.transaction():
                self._store.bulk.delete_cells(cells)
                self._sessions.farewell_many(set(remotes))
                self._table.delete_many([(cell, home) for cell in remotes for home in homes])
        except BaseException:
            self._follow(remotes)
            raise
        for cell in remotes:
            for flow in range(1, FLOW_MAX + 1):
                self._ledger.release((cell, flow))
        self._sessions.forget_many(set(remotes), locks)
        return len(remotes)

    # In the order in which install() goes

    def _make_way(self, batch: _Batch, *, replace: bool) -> None:
        """Removes the cells that give way from the store.

        Raises:
            AlreadyExists: One must not.
        """
        names = {cell.name: at for at, cell in enumerate(batch.cells)}
        ids = {cell.id.raw: at for at, cell in enumerate(batch.cells)}
        # The first item that is wrong is the one that is told of.
        refused: list[tuple[int, str, str]] = []
        gone = []
        for known in self._store.bulk.known(names, ids):
            at = names.get(known.name)
            if at is not None and (known.is_local or not replace):
                refused.append((at, "name", f"a cell named {known.name!r} exists"))
            elif at is None:
                refused.append((ids[known.id], "public_key", f"it is the key of {known.name!r}"))
            else:
                gone.append(known.id)
        if refused:
            at, name, problem = min(refused)
            raise AlreadyExists(f"{batch.at(at, name)}: {problem}")
        statics = self._store.static.of(gone)
        batch.gone = {ident: statics.get(ident) for ident in gone}
        self._store.bulk.delete_cells(gone)

    def _settle_sessions(self, batch: _Batch) -> None:
        """Decides on each static session: new, kept, or not to be.

        Raises:
            InvalidArgument: No such local cell, or its numbers would repeat.
        """
        wanted = [(at, item.session) for at, item in enumerate(batch.items) if item.session]
        if not wanted:
            return
        names = {home.name: home for home in batch.homes.values()}
        epochs = self._store.bulk.last_epochs([batch.cells[at].id.raw for at, _ in wanted])
        guards = os.urandom(_SECRET_LEN * len(wanted))
        began_at, since = self._wall() - self._now(), time.time_ns()
        number = iter(self._store.bulk.next_session_ids(len(wanted)))
        flows: dict[tuple[Windows, Windows], tuple[FlowSpec, ...]] = {}
        for row, (at, offer) in enumerate(wanted):
            item, cell = batch.items[at], batch.cells[at]
            home = _home(batch, names, at, offer.local)
            digest = _digest(item, offer, home.id)
            old = batch.gone.get(cell.id.raw)
            if old is not None and not old.is_lost and old.digest == digest:
                batch.kept.append(old)
                continue
            last = epochs.get((cell.id.raw, home.id.raw), 0)
            if offer.keys.epoch <= last:
                raise InvalidArgument(
                    batch.at(at, "session.epoch"),
                    f"must be above {last}, the last that this pair has used: its numbers begin "
                    "at 1 again",
                )
            if old is not None and old.digest[:_HALF] == digest[:_HALF]:
                raise InvalidArgument(
                    batch.at(at, "session.tx_payload_key"),
                    f"these keys belong to epoch {old.stored.epoch}: a new one needs others",
                )
            offset = began_at if offer.clock_offset is None else offer.clock_offset
            stored = StoredSession(
                id=next(number),
                remote=cell.id,
                local=home.id,
                epoch=offer.keys.epoch,
                initiator=False,
                mac=item.mac or bytes(6),
                established_at=since,
                clock_offset=offset,
                clock_ahead=offset - began_at,
                mtu=offer.mtu,
            )
            guard = guards[row * _SECRET_LEN : (row + 1) * _SECRET_LEN]
            batch.fresh.append(StaticSession(stored, offer.keys, digest, guard))
            windows = item.grants, offer.peer_grants
            if windows not in flows:
                flows[windows] = _flows(*windows)
            batch.specs.append(
                SessionSpec(
                    cell.id,
                    home.id,
                    session_id=stored.id,
                    rx_header_key=offer.keys.rx_header,
                    tx_header_key=offer.keys.tx_header,
                    clock_offset=offset,
                    skew_limit=(self._skew_limit if offer.skew_limit is None else offer.skew_limit),
                    flows=flows[windows],
                )
            )

    def _promise(self, batch: _Batch) -> None:
        """Backs the grants."""
        times = max(len(batch.homes), 1)
        for gone in batch.gone:
            for flow in range(1, FLOW_MAX + 1):
                key = CellID(gone), flow
                batch.promised[key] = self._ledger.release(key)
        for item, cell in zip(batch.items, batch.cells, strict=True):
            for flow, blocks in item.grants:
                batch.promised.setdefault((cell.id, flow), 0)
                self._ledger.reserve((cell.id, flow), blocks * times)

    def _write(self, batch: _Batch) -> None:
        bulk = self._store.bulk
        bulk.add_remotes(batch.cells)
        now = int(time.time())
        both = list(zip(batch.items, batch.cells, strict=True))
        bulk.add_psks(StoredPsk(cell.id, item.psk, now) for item, cell in both if item.psk)
        bulk.add_grants(
            StandingGrant(cell.id, flow, blocks)
            for item, cell in both
            for flow, blocks in item.grants
        )
        self._store.static.add([*batch.fresh, *batch.kept])

    def _put_in_gate(self, batch: _Batch) -> None:
        statics = {one.stored.remote.raw: one for one in (*batch.fresh, *batch.kept)}
        rows = [
            WantedRow(
                cell.id.raw,
                cell.name,
                cell.consent.value,
                0,
                0,
                item.psk,
                static.stored.local.raw if static else None,
                static.guard if static else None,
            )
            for item, cell in zip(batch.items, batch.cells, strict=True)
            for static in (statics.get(cell.id.raw),)
        ]
        pairs = self._reconciler.wanted(rows)
        gone = {CellID(ident) for ident in batch.gone}
        self._sessions.farewell_many(gone)
        self._table.install_many(batch.specs, pairs)
        batch.in_gate = True
        # What the cells that gave way had there, and those in their place have not.
        stays = {(one.remote, one.local) for one in pairs}
        live = {(one.stored.remote, one.stored.local) for one in statics.values()}
        old = {(cell, home.id) for cell in gone for home in batch.homes.values()}
        self._table.delete_many(list(old - stays))
        for remote, local in (old & stays) - live:
            self._table.uninstall(remote, local)

    def _take_from_gate(self, batch: _Batch) -> None:
        if batch.in_gate:
            self._follow([cell.id for cell in batch.cells] + [CellID(gone) for gone in batch.gone])

    def _follow(self, remotes: Iterable[CellID]) -> None:
        """Makes the gate what the store says, after a failure."""
        try:
            self._reconciler.apply(remotes)
        except LocalError:
            log.exception("maps not taken back: the next sweep tries again")

    @contextlib.contextmanager
    def _books(self, batch: _Batch) -> Iterator[None]:
        """Takes back what was promised meanwhile, where it comes to nothing."""
        try:
            yield
        except BaseException:
            for key in batch.promised:
                self._ledger.release(key)
            for key, blocks in batch.promised.items():
                if blocks:
                    self._ledger.reserve(key, blocks)
            raise

    def _resolve(self, refs: Sequence[CellID | str], first: int) -> list[bytes]:
        names = [ref for ref in refs if isinstance(ref, str)]
        ids = [ref.raw for ref in refs if not isinstance(ref, str)]
        known = self._store.bulk.known(names, ids)
        by_name = {cell.name: cell for cell in known}
        by_id = {cell.id: cell for cell in known}
        found: dict[bytes, None] = {}
        for at, ref in enumerate(refs, start=first):
            cell = by_name.get(ref) if isinstance(ref, str) else by_id.get(ref.raw)
            if cell is None or cell.id in found:
                shown = repr(ref) if isinstance(ref, str) else str(ref)
                raise NotFound(
                    f"cells[{at}]: {shown} is named twice"
                    if cell
                    else f"cells[{at}]: no cell {shown}"
                )
            if cell.is_local:
                raise InvalidArgument(f"cells[{at}]", f"{cell.name!r} lives on this host")
            found[cell.id] = None
        return list(found)


def _refuse_twice(batch: _Batch) -> None:
    names: set[str] = set()
    ids: set[bytes] = set()
    for at, cell in enumerate(batch.cells):
        if cell.name in names:
            raise AlreadyExists(f"{batch.at(at, 'name')}: {cell.name!r} is given twice")
        if cell.id.raw in ids:
            raise AlreadyExists(f"{batch.at(at, 'public_key')}: it is given twice")
        names.add(cell.name)
        ids.add(cell.id.raw)


def _refuse_promises_by_hand(batch: _Batch) -> None:
    for at, item in enumerate(batch.items):
        if not item.consent.is_negotiated:
            continue
        if item.grants:
            raise InvalidArgument(batch.at(at, "grants"), "a covenant's terms set them")
        if item.session is not None:
            raise InvalidArgument(
                batch.at(at, "session"), "with a cell that covenants decide on, hands are shaken"
            )


def _home(
    batch: _Batch, names: dict[str, LocalCell], at: int, ref: CellID | str | None
) -> LocalCell:
    if ref is None:
        if len(batch.homes) != 1:
            raise FailedPrecondition(
                f"{batch.at(at, 'session.local')}: this host has {len(batch.homes)} local cells, "
                "and none is named"
            )
        return next(iter(batch.homes.values()))
    found = names.get(ref) if isinstance(ref, str) else batch.homes.get(ref.raw)
    if found is None:
        shown = repr(ref) if isinstance(ref, str) else str(ref)
        raise InvalidArgument(batch.at(at, "session.local"), f"no local cell {shown}")
    return found


def _flows(grants: Windows, peer_grants: Windows) -> tuple[FlowSpec, ...]:
    ours, theirs = dict(grants), dict(peer_grants)
    return tuple(
        FlowSpec(flow, ours.get(flow, 0), theirs.get(flow, 0))
        for flow in sorted(ours.keys() | theirs.keys())
    )


def _digest(item: Item, offer: StaticOffer, local: CellID) -> bytes:
    """Tells a session that is repeated: half of it is of the keys, half of all the rest."""
    keys = offer.keys
    secret = keys.tx_payload + keys.tx_header + keys.rx_payload + keys.rx_header
    rest = repr(
        (
            local.raw,
            keys.epoch,
            item.mac,
            item.grants,
            offer.peer_grants,
            offer.mtu,
            offer.clock_offset,
            offer.skew_limit,
        )
    )
    return hashlib.sha256(secret).digest()[:_HALF] + hashlib.sha256(rest.encode()).digest()[:_HALF]
