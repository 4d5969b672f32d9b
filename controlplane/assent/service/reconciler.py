# SPDX-License-Identifier: Apache-2.0
"""Makes the gate's maps equal to the desired state.

Every change of the desired state runs inside `change`: the store's transaction commits only after
the maps have followed, and where they cannot, both are taken back. A sweep compares everything, at
the start and every few seconds, so that what a crash or another hand left behind is put right.

    store                                   maps
    local cells                             locals[cell]
    local x remote cell with a psk          sessions[(remote, local)]: admission key, consent,
                                            whether observed, whether bare frames are admitted
    static session                          the same for its pair, whether there is a psk or not
    covenants, where they decide            the pair's consent and limits, by the one that governs
    agents held apart                       their cells' pairs are quarantined
    anything else                           nothing

Live sessions, their flows and their credit belong to the session manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import count
from typing import Final

from assent.covenant.consent import Consent, GateBits
from assent.dataplane.gate import Gate
from assent.dataplane.tables import SEC, PairSpec, TermLimits
from assent.dataplane.tables.batch import absent
from assent.errors import LocalError
from assent.handshake.keys import admission_keys
from assent.service.bulk_records import WantedRow
from assent.service.covenants.clocks import Clocks
from assent.service.covenants.records import GoverningRow
from assent.service.faults import Point, reach
from assent.service.store import Store
from assent.wire.cellid import CELLID_LEN, CellID

log = logging.getLogger(__name__)

_CLOCK_MONOTONIC_COARSE: Final = 6  # <linux/time.h>
# Remote cells compared between two turns of the event loop: some milliseconds.
_SLICE: Final = 512
GRAIN_NS: Final = round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * SEC)
"""Of the clock that the gate reads, ns: a tick of the kernel's timer."""
_BITS: Final[dict[str, GateBits]] = {consent.value: consent.bits for consent in Consent}
_NEGOTIATED: Final = Consent.COVENANT.value
_IN_FORCE: Final = GateBits(covenanted=True, quarantined=False, control=True)
_US: Final = 1_000
_INTERVAL_MAX: Final = 3600 * SEC


@dataclass(slots=True)
class Changes:
    """What a reconciliation did to the maps."""

    locals_added: int = 0
    locals_removed: int = 0
    locals_settled: int = 0
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


class Reconciler:
    """Owns the pairs and the local cells in one gate's maps.

    Args:
        store: The desired state.
        gate: Whose maps.
        clocks: Turns the times in covenants into the gate's.
    """

    def __init__(self, store: Store, gate: Gate, clocks: Clocks | None = None) -> None:
        self._store = store
        self._clocks = clocks or Clocks()
        self._locals = gate.tables.locals
        self._sessions = gate.tables.sessions

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
                reach(Point.CHANGE_FOLLOWED)
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

    def apply(self, remotes: Iterable[CellID]) -> None:
        """Makes the pairs of some remote cells what the store says.

        Raises:
            ResourceExhausted: A map is full.
        """
        self._apply(tuple(remotes), ())

    def _apply(self, remotes: tuple[CellID, ...], local_cells: tuple[CellID, ...]) -> None:
        changes = Changes()
        if local_cells:
            self._apply_locals(changes)
            for rows in self._pages():
                self._apply_page(rows, changes)
            # A local cell that is gone leaves pairs with remote cells that may be gone as well.
            present = {local.id for local in self._store.locals()}
            if set(local_cells) - present:
                for keys in self._sessions.key_batches():
                    self._remove_unwanted(keys, changes)
        if remotes:
            ids = [remote.raw for remote in remotes]
            self._apply_page(self._store.bulk.wanted_of(ids), changes)
            locals_ = [cell.id.raw for cell in self._store.locals()]
            self._remove_unwanted([ident + local for ident in ids for local in locals_], changes)

    def _steps(self, changes: Changes) -> Iterator[None]:
        """All comparisons, in slices. Each looks at the store as it is at that moment."""
        with self._counted(changes):
            self._apply_locals(changes)
        yield
        for rows in self._pages():
            try:
                self._apply_page(rows, changes)
            except LocalError:
                # One that does not fit must not keep the others out.
                for row in rows:
                    with self._counted(changes):
                        self._apply_page([row], changes)
            yield
        for keys in self._sessions.key_batches():
            with self._counted(changes):
                self._remove_unwanted(keys, changes)
            yield
        self._sessions.tidy()

    def _pages(self) -> Iterator[list[WantedRow]]:
        after = ""
        while rows := self._store.bulk.wanted_after(after, _SLICE):
            after = rows[-1].name
            yield rows

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
        # The copy of the few in config[0]: a crash may have come between the two.
        changes.locals_settled += self._locals.settle()

    def _apply_page(self, rows: list[WantedRow], changes: Changes) -> None:
        """Makes the pairs of some remote cells what they should be; all or none."""
        wanted = self.wanted(rows)
        if not wanted:
            return
        differences = self._sessions.compare_many(wanted)
        if not any(differences):
            return
        wrong = [spec for spec, differs in zip(wanted, differences, strict=True) if differs]
        self._sessions.provision_many(wrong)
        added = absent(differences)
        changes.pairs_added += added
        changes.pairs_changed += len(wrong) - added

    def wanted(self, rows: Iterable[WantedRow]) -> list[PairSpec]:
        """What the session table should say of some remote cells."""
        rows = list(rows)
        homes = {home.id.raw: home for home in self._store.locals()}
        pairs = [
            (row, homes[local], secret)
            for row in rows
            for local in (homes if row.psk is not None else (row.static_local,))
            if local in homes and (secret := row.psk or row.guard) is not None
        ]
        cells = [CellID(row.remote) for row, _, _ in pairs]
        secrets = [secret for _, _, secret in pairs]
        ways = list(zip(cells, (home.id for _, home, _ in pairs), strict=True))
        arriving = admission_keys(secrets, ways)
        departing = admission_keys(secrets, [(home, remote) for remote, home in ways])
        negotiated = [row.remote for row in rows if row.consent == _NEGOTIATED]
        governing = self._store.covenants.governing(negotiated) if negotiated else {}
        held_apart = self._store.covenants.quarantined_cells()
        # One offset for all: what was converted before is converted the same way now.
        offset = self._clocks.offset_ns()
        return [
            PairSpec(
                remote,
                home.id,
                key,
                (bits := _IN_FORCE if governor else _BITS[row.consent]).covenanted,
                bits.quarantined or row.remote in held_apart,
                departing_key=back,
                # A pair is observed where either of its cells is.
                observed=bool(row.observe or home.observe),
                bare=bool(row.bare),
                control=bits.control,
                leased=governor is not None and bool(governor.leased),
                limits=None if governor is None else _limits(governor, offset),
            )
            for (row, home, _), remote, key, back in zip(
                pairs, cells, arriving, departing, strict=True
            )
            for governor in (governing.get((row.remote, home.id.raw)),)
        ]

    def _remove_unwanted(self, keys: list[bytes], changes: Changes) -> None:
        """Removes those of some pairs that should not be there."""
        homes = {home.id.raw for home in self._store.locals()}
        partners = self._store.bulk.partners_of({key[:CELLID_LEN] for key in keys})
        unwanted = []
        for key in keys:
            remote, local = key[:CELLID_LEN], key[CELLID_LEN:]
            with_all, with_one = partners.get(remote, (False, None))
            if local not in homes or not (with_all or with_one == local):
                unwanted.append((CellID(remote), CellID(local)))
        if unwanted:
            changes.pairs_removed += self._sessions.delete_many(unwanted)


def _limits(row: GoverningRow, offset: int) -> TermLimits:
    return _term_limits(
        row.rate,
        row.burst,
        row.payload_limit,
        # A bound before this host was up is one all the same: from the beginning, or already over.
        max(row.open_from * _US + offset, 0) if row.open_from else 0,
        max(row.open_until * _US + offset, 1) if row.open_until else 0,
    )


@lru_cache(maxsize=4096)
def _term_limits(
    rate: int, burst: int, payload_limit: int, open_from: int, open_until: int
) -> TermLimits:
    interval = min(max(SEC // rate, 1), _INTERVAL_MAX) if rate else 0
    # Within one tick of the gate's clock all frames seem to come at once.
    allowance = burst * interval + GRAIN_NS if interval else 0
    return TermLimits(interval, allowance, payload_limit, open_from, open_until)
