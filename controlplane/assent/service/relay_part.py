# SPDX-License-Identifier: Apache-2.0
"""The daemon's part that runs the LWF relay: its maps, its registrations, its operators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from assent.dataplane.gate import Gate
from assent.dataplane.relay import RelayTable
from assent.service.registrar import Registrar
from assent.service.relay import RelayRegistry
from assent.service.relay_reconciler import RelayReconciler
from assent.service.relay_socket import RelaySocket
from assent.service.store import Store


class RelayPart:
    """A relay at work. Use it as an async context manager.

    Leaving the block stops registrations and repairs; the gate goes on relaying by its maps.

    Args:
        store: The desired state.
        gate: Whose relay it is.
        gated: Whether the gate decides on an interface.
        lifetime: How long a route stands after its source has registered last, ns.

    Raises:
        Unavailable: On entering, where the system refuses a socket.
    """

    def __init__(
        self, store: Store, gate: Gate, gated: Callable[[str], bool], lifetime: int
    ) -> None:
        table = RelayTable(gate)
        registrar = Registrar(store, table, lifetime)
        self._reconciler = RelayReconciler(store, table)
        self._socket = RelaySocket(gated, registrar.receive)
        self._stack = contextlib.AsyncExitStack()
        self.registry = RelayRegistry(store, self._reconciler, table, registrar)

    async def __aenter__(self) -> Self:
        self.sweep()
        await self._stack.enter_async_context(self._socket)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def sweep(self) -> None:
        """Compares what is with what should be, and puts it right."""
        self._reconciler.sweep()
