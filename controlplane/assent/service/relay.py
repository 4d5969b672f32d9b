# SPDX-License-Identifier: Apache-2.0
"""What an operator may change of the LWF relay: who may register, and ways that are set by hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from assent.dataplane.relay import RelayTable, Route
from assent.errors import FailedPrecondition
from assent.identity.hint import hint_of
from assent.service.interfaces import describe
from assent.service.registrar import Registrar, Registrations
from assent.service.relay_reconciler import RelayReconciler
from assent.service.relay_records import RelaySource, StaticRoute
from assent.service.store import Store
from assent.wire.lwf import Hint


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source, and what has come of its frames."""

    source: RelaySource
    newest: int | None
    registrations: Registrations


@dataclass(frozen=True, slots=True)
class RouteView:
    """A way to a destination.

    Attributes:
        hint: The destination.
        source_name: Of the source that has that hint; "" where none has.
        interface: By which frames leave; "" = they go to this host's own stack.
        mac: The next hop's address; None = this host.
        registered: By the destination itself, not by an operator.
        expires_in: ns; 0 = never.
        installed: The gate goes by it now. A static route waits for its interface.
    """

    hint: Hint
    source_name: str
    interface: str
    mac: bytes | None
    registered: bool
    expires_in: int
    installed: bool


class RelayRegistry:
    """Carries out changes of the relay's desired state. Each is in the gate when it returns.

    Args:
        store: The desired state.
        reconciler: Makes the maps follow.
        table: The maps.
        registrar: Counts what sources do.
        clock: Monotonic, ns.
    """

    def __init__(
        self,
        store: Store,
        reconciler: RelayReconciler,
        table: RelayTable,
        registrar: Registrar,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._table = table
        self._registrar = registrar
        self._clock = clock

    # Sources

    def add_source(self, name: str, public_key: bytes) -> SourceView:
        """Allows the owner of a key to register.

        Raises:
            AlreadyExists: The name or the key is taken.
            ResourceExhausted: The gate has no room.
        """
        source = RelaySource(hint_of(public_key), name, public_key)
        with self._reconciler.change(source.hint):
            self._store.relay.add_source(source)
        return self._view(source)

    def remove_source(self, ref: Hint | str) -> None:
        """Takes that back; the way that the source registered goes too.

        Raises:
            NotFound: There is no such source.
        """
        hint = self._store.relay.source(ref).hint
        with self._reconciler.change(hint):
            self._store.relay.delete_source(hint)
        self._registrar.forget(hint)

    def source(self, ref: Hint | str) -> SourceView:
        """A source by its hint or name.

        Raises:
            NotFound: There is none.
        """
        return self._view(self._store.relay.source(ref))

    def sources(self) -> list[SourceView]:
        """All sources, by name."""
        return [self._view(source) for source in self._store.relay.sources()]

    # Routes

    def set_route(self, hint: Hint, interface: str, mac: bytes) -> RouteView:
        """Sets the way to a destination; it goes before one that was registered.

        Raises:
            FailedPrecondition: There is no such interface.
            ResourceExhausted: The gate has no room.
        """
        describe(interface)
        return self._set(StaticRoute(hint, interface, mac))

    def set_local(self, hint: Hint) -> RouteView:
        """Has frames to a destination go to this host's own stack.

        Raises:
            ResourceExhausted: The gate has no room.
        """
        return self._set(StaticRoute(hint))

    def delete_route(self, hint: Hint) -> None:
        """Removes a way that was set, or one that was registered.

        Raises:
            NotFound: There is neither.
        """
        found = self._table.route(hint)
        if self._store.relay.route(hint) is None and found is not None and found.registered:
            self._table.delete_route(hint)
            return
        with self._reconciler.change(hint):
            self._store.relay.delete_route(hint)

    def routes(self) -> list[RouteView]:
        """All ways, by hint: those that are set, and those that were registered."""
        names = {source.hint: source.name for source in self._store.relay.sources()}
        static = {route.hint: route for route in self._store.relay.routes()}
        present = {route.hint: route for route in self._table.routes()}
        return [
            self._shown(hint, names.get(hint, ""), static.get(hint), present.get(hint))
            for hint in sorted(static.keys() | present.keys())
        ]

    def _set(self, route: StaticRoute) -> RouteView:
        if not route.hint:
            raise FailedPrecondition("destination: the hint of all zeros is nobody's")
        with self._reconciler.change(route.hint):
            self._store.relay.set_route(route)
        names = {source.hint: source.name for source in self._store.relay.sources()}
        name = names.get(route.hint, "")
        return self._shown(route.hint, name, route, self._table.route(route.hint))

    def _view(self, source: RelaySource) -> SourceView:
        newest = self._store.relay.newest(source.hint)
        return SourceView(source, newest, self._registrar.of(source.hint))

    def _shown(
        self, hint: Hint, name: str, static: StaticRoute | None, present: Route | None
    ) -> RouteView:
        if static is not None:
            installed = present is not None and not present.registered
            return RouteView(hint, name, static.interface or "", static.mac, False, 0, installed)
        hop = None if present is None else present.next_hop
        left = 0 if present is None or not present.expires else present.expires - self._clock()
        return RouteView(
            hint,
            name,
            "" if hop is None else _name_of(hop.ifindex),
            None if hop is None else hop.dst,
            present is not None and present.registered,
            # One that has run out is not one that never does.
            max(left, 1) if present is not None and present.expires else 0,
            hop is not None and left > 0,
        )


def _name_of(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""
