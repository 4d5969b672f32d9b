# SPDX-License-Identifier: Apache-2.0
"""Makes the relay's maps equal to what they should be.

    store                     maps
    sources                   lwf_sources[hint]
    static routes             lwf_routes[hint], where their interface is there
    -                         lwf_routes[hint] that a source registered: kept while it is allowed
                              to, the route has not expired, and its interface is there

A static route goes before a registered one. Addresses of this host's interfaces are kept true.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache

from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.errors import FailedPrecondition, LocalError
from assent.service.interfaces import InterfaceInfo, describe
from assent.service.relay_records import StaticRoute
from assent.service.store import Store
from assent.wire.lwf import Hint

log = logging.getLogger(__name__)

Describe = Callable[[str], InterfaceInfo]


@dataclass(slots=True)
class RelayChanges:
    """What a sweep did to the maps."""

    sources_added: int = 0
    sources_removed: int = 0
    routes_written: int = 0
    routes_removed: int = 0
    routes_expired: int = 0
    failures: int = 0

    def counts(self) -> dict[str, int]:
        """The counts that are not zero, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: number for name, number in named.items() if number}


class RelayReconciler:
    """Owns the relay's sources and routes in one gate's maps.

    Args:
        store: What should be.
        table: What is.
        clock: Monotonic, ns.
    """

    def __init__(
        self, store: Store, table: RelayTable, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._store = store
        self._table = table
        self._clock = clock

    @contextlib.contextmanager
    def change(self, hint: Hint) -> Iterator[None]:
        """A change of the store that the maps follow before it is committed, or that never was.

        Args:
            hint: Whose source or route the block changes.

        Raises:
            ResourceExhausted: A map is full. Store and maps are as before.
        """
        try:
            with self._store.transaction():
                yield
                self._apply(hint)
        except BaseException:
            # The store has been rolled back; what the maps took in already goes the same way.
            try:
                self._apply(hint)
            except LocalError:
                log.exception("relay's maps not taken back: the next sweep tries again")
            raise

    def sweep(self) -> RelayChanges:
        """Compares and repairs everything."""
        changes = RelayChanges()
        records, look = self._store.relay, cache(describe)
        allowed = {source.hint for source in records.sources()}
        present = self._table.sources()
        for hint in present ^ allowed:
            with _counted(changes):
                self._apply_source(hint, hint in allowed, changes)
        static = {route.hint: route for route in records.routes()}
        routes = {route.hint: route for route in self._table.routes()}
        # What goes makes room for what comes.
        for hint in sorted(static.keys() | routes.keys(), key=lambda hint: hint in static):
            wanted = self._wanted(static.get(hint), routes.get(hint), hint in allowed, look)
            with _counted(changes):
                self._apply_route(hint, wanted, routes.get(hint), changes)
        if changes.counts():
            log.info("relay's maps put right", extra=changes.counts())
        return changes

    def _apply(self, hint: Hint) -> None:
        records, changes = self._store.relay, RelayChanges()
        allowed = any(source.hint == hint for source in records.sources())
        self._apply_source(hint, allowed, changes)
        found = self._table.route(hint)
        wanted = self._wanted(records.route(hint), found, allowed, describe)
        self._apply_route(hint, wanted, found, changes)

    def _apply_source(self, hint: Hint, allowed: bool, changes: RelayChanges) -> None:
        present = self._table.is_source(hint)
        if allowed and not present:
            self._table.add_source(hint)
            changes.sources_added += 1
        elif present and not allowed:
            self._table.delete_source(hint)
            changes.sources_removed += 1

    def _apply_route(
        self, hint: Hint, wanted: Route | None, found: Route | None, changes: RelayChanges
    ) -> None:
        if wanted == found:
            return
        if wanted is not None:
            self._table.put_route(wanted)
            changes.routes_written += 1
            return
        self._table.delete_route(hint)
        if found is not None and found.registered and found.expires <= self._clock():
            changes.routes_expired += 1
        else:
            changes.routes_removed += 1

    def _wanted(
        self, static: StaticRoute | None, found: Route | None, allowed: bool, look: Describe
    ) -> Route | None:
        if static is not None:
            return _resolved(static, look)
        if found is None or not found.registered or not allowed or found.next_hop is None:
            return None
        if found.expires <= self._clock():
            return None
        try:
            info = look(socket.if_indextoname(found.next_hop.ifindex))
        except (OSError, FailedPrecondition):
            return None
        return replace(found, next_hop=replace(found.next_hop, src=info.mac))


def _resolved(static: StaticRoute, look: Describe) -> Route | None:
    """The route as the maps have it; None while its interface is missing."""
    if static.interface is None or static.mac is None:
        return Route(static.hint, None, local=True)
    try:
        info = look(static.interface)
    except FailedPrecondition:
        return None
    return Route(static.hint, NextHop(info.index, static.mac, info.mac))


@contextlib.contextmanager
def _counted(changes: RelayChanges) -> Iterator[None]:
    """One entry that cannot be put right must not keep the others from it."""
    try:
        yield
    except LocalError as error:
        changes.failures += 1
        log.error("relay: not reconciled", extra={"reason": str(error)})
