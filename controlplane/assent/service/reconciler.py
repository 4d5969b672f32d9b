# SPDX-License-Identifier: Apache-2.0
"""Makes the gate's maps equal to the desired state.

Every change of the desired state runs inside `change`: the store's transaction commits only after
the maps have followed, and where they cannot, both are taken back. A sweep compares everything, at
the start and every few seconds, so that what a crash or another hand left behind is put right.

    store                                   maps
    local cells                             locals[cell]
    local x remote cell with a psk          sessions[(remote, local)]: admission key, consent
    anything else                           nothing

Live sessions, their flows and their credit belong to the session manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Final

from assent.covenant.consent import GateBits
from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.errors import LocalError, NotFound
from assent.handshake.keys import admission_key
from assent.service.records import RemoteCell
from assent.service.store import Store
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.siphash import SipState

log = logging.getLogger(__name__)

# Pairs compared between two turns of the event loop: some 10 ms.
_SLICE: Final = 128


@dataclass(slots=True)
class Changes:
    """What a reconciliation did to the maps."""

    locals_added: int = 0
    locals_removed: int = 0
    pairs_added: int = 0
    pairs_changed: int = 0
    pairs_removed: int = 0
    failures: int = 0

    def __bool__(self) -> bool:
        return bool(self.counts())

    def counts(self) -> dict[str, int]:
        """The counts that are not zero, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: number for name, number in named.items() if number}


@dataclass(frozen=True, slots=True)
class _Admission:
    """What follows from a pre-shared key for one pair."""

    psk: bytes = field(repr=False)
    key: bytes = field(repr=False)
    state: bytes = field(repr=False)


class Reconciler:
    """Owns the pairs and the local cells in one gate's maps."""

    def __init__(self, store: Store, gate: Gate) -> None:
        self._store = store
        self._locals = gate.tables.locals
        self._sessions = gate.tables.sessions
        self._raw = _RawSessions(gate)
        # Deriving an admission state costs as much as a hundred comparisons.
        self._states: dict[tuple[CellID, CellID], _Admission] = {}

    @contextlib.contextmanager
    def change(
        self, *, remotes: Iterable[CellID] = (), local_cells: Iterable[CellID] = ()
    ) -> Iterator[None]:
        """A change of the store that the maps follow before it is committed, or that never was.

        The block must not await: nothing may come between the parts of a transaction.

        Args:
            remotes: Remote cells whose pairs the block changes.
            local_cells: Local cells that it adds or removes.

        Raises:
            ResourceExhausted: A map is full. Store and maps are as before.
        """
        touched = tuple(remotes), tuple(local_cells)
        try:
            with self._store.transaction():
                yield
                self._apply(*touched)
        except BaseException:
            # The store has been rolled back; what the maps took in already goes the same way.
            try:
                self._apply(*touched)
            except LocalError:
                log.exception("maps not taken back: the next sweep tries again")
            raise

    def apply_all(self) -> Changes:
        """Compares and repairs everything at once; for the start, when nobody is waiting."""
        changes = Changes()
        for _ in self._steps(changes):
            pass
        return changes

    async def sweep(self) -> Changes:
        """Compares and repairs everything, a slice at a time. Drift is logged."""
        changes = Changes()
        steps = self._steps(changes)
        while True:
            started = time.monotonic()
            if next(steps, self) is self:
                break
            # A fifth of one CPU at most, however many pairs there are.
            await asyncio.sleep(4 * (time.monotonic() - started))
        if changes:
            log.warning("drift repaired", extra=changes.counts())
        return changes

    def _apply(self, remotes: tuple[CellID, ...], local_cells: tuple[CellID, ...]) -> None:
        changes = Changes()
        if local_cells:
            self._apply_locals(changes)
            for remote in self._store.remotes():
                for local in local_cells:
                    self._apply_pair(remote.id, local, changes)
            # A local cell that is gone leaves pairs with remote cells that may be gone as well.
            present = {local.id for local in self._store.locals()}
            for local in local_cells:
                if local not in present:
                    self._remove_pairs_of(local, changes)
        for remote_id in remotes:
            for cell in self._store.locals():
                self._apply_pair(remote_id, cell.id, changes)

    def _steps(self, changes: Changes) -> Iterator[None]:
        """All comparisons, in slices. Each looks at the store as it is at that moment."""
        with self._counted(changes):
            self._apply_locals(changes)
        yield
        after = ""
        while page := self._store.remotes_after(after, _SLICE):
            after = page[-1].name
            for remote in page:
                for local in self._store.locals():
                    with self._counted(changes):
                        self._apply_pair(remote.id, local.id, changes, known=remote)
            yield
        for number, (remote_id, local_id) in enumerate(self._raw.pairs()):
            with self._counted(changes):
                if not self._is_wanted(remote_id, local_id):
                    self._apply_pair(remote_id, local_id, changes)
            if number % _SLICE == _SLICE - 1:
                yield

    @contextlib.contextmanager
    def _counted(self, changes: Changes) -> Iterator[None]:
        """One pair that cannot be put right must not keep the others from it."""
        try:
            yield
        except LocalError as error:
            changes.failures += 1
            log.error("not reconciled", extra={"reason": str(error)})

    def _apply_locals(self, changes: Changes) -> None:
        found = {row.cell: row.index for row in self._locals.list()}
        wanted = {cell.id for cell in self._store.locals()}
        for cell in found.keys() - wanted:
            self._locals.delete(cell)
            changes.locals_removed += 1
        taken = {found[cell] for cell in found.keys() & wanted}
        # A cell keeps its number as long as it is in the map.
        free = (number for number in count() if number not in taken)
        for cell in sorted(wanted - found.keys()):
            self._locals.put(cell, next(free))
            changes.locals_added += 1

    def _is_wanted(self, remote: CellID, local: CellID) -> bool:
        try:
            self._store.remote(remote)
            self._store.local(local)
        except NotFound:
            return False
        return self._store.psk(remote) is not None

    def _apply_pair(
        self, remote: CellID, local: CellID, changes: Changes, known: RemoteCell | None = None
    ) -> None:
        wanted = self._wanted(remote, local, known)
        state = self._raw.admission(remote, local)
        if wanted is None:
            self._states.pop((remote, local), None)
            if state is not None:
                self._sessions.delete(remote, local)
                changes.pairs_removed += 1
            return
        key, expected, bits = wanted
        if state is None:
            self._sessions.provision(remote, local, key, bits.covenanted, bits.quarantined)
            changes.pairs_added += 1
            return
        entry = self._sessions.get(remote, local)
        if state != expected:
            self._sessions.provision(remote, local, key, bits.covenanted, bits.quarantined)
            changes.pairs_changed += 1
        elif GateBits(entry.covenanted, entry.quarantined) != bits:
            self._sessions.set_consent(remote, local, bits.covenanted, bits.quarantined)
            changes.pairs_changed += 1

    def _wanted(
        self, remote: CellID, local: CellID, known: RemoteCell | None
    ) -> tuple[bytes, bytes, GateBits] | None:
        """Admission key, the state that follows from it, and consent; None for no entry."""
        try:
            cell = known or self._store.remote(remote)
            self._store.local(local)
        except NotFound:
            return None
        psk = self._store.psk(remote)
        if psk is None:
            return None
        cached = self._states.get((remote, local))
        if cached is None or cached.psk != psk.psk:
            key = admission_key(psk.psk, remote, local)
            cached = _Admission(psk.psk, key, _state_after(key, remote, local))
            self._states[remote, local] = cached
        return cached.key, cached.state, cell.consent.bits

    def _remove_pairs_of(self, local: CellID, changes: Changes) -> None:
        for remote, owner in list(self._raw.pairs()):
            if owner == local:
                self._apply_pair(remote, local, changes)


class _RawSessions:
    """The session map's keys and admission states, which the typed table does not show."""

    def __init__(self, gate: Gate) -> None:
        self._map: Map = gate.map("sessions")
        layout = Btf.from_object(packaged("gate")).map_value("sessions")
        self._at = layout.offsetof("admission")

    def admission(self, remote: CellID, local: CellID) -> bytes | None:
        """The state that checks handshake frames of a pair; None where the pair has no entry."""
        value = self._map.lookup(bytes(remote) + bytes(local))
        return None if value is None else value[self._at : self._at + 32]

    def pairs(self) -> Iterator[tuple[CellID, CellID]]:
        """All pairs (remote, local) in the map."""
        for key, _ in self._map.items():  # noqa: PERF102 - a map of the kernel's
            yield CellID(key[:CELLID_LEN]), CellID(key[CELLID_LEN:])


def _state_after(key: bytes, remote: CellID, local: CellID) -> bytes:
    """`struct assent_sip`: the hash's state after the pair, in the host's byte order."""
    state = SipState(key)
    pair = bytes(remote) + bytes(local)
    for at in range(0, len(pair), 8):
        state.absorb(pair[at : at + 8])
    return b"".join(word.to_bytes(8, sys.byteorder) for word in state.words)
