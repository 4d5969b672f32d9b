# SPDX-License-Identifier: Apache-2.0
"""The cells of this host at work: their identities, and the sockets where they are spoken to."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from assent.errors import AssentError, FailedPrecondition
from assent.identity.keys import Identity
from assent.service.control_socket import ControlSocket
from assent.service.fabric import Guarded
from assent.service.interfaces import describe
from assent.service.records import LocalCell
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

Receiver = Callable[[CellID, bytes], None]


@dataclass(slots=True)
class _Active:
    """One cell; without a socket while its interface is missing or not gated."""

    cell: LocalCell
    identity: Identity
    socket: ControlSocket | None = None
    index: int = 0


class LocalCells:
    """Owns the identities and control sockets. Use it as an async context manager.

    Args:
        store: Which cells there are.
        guarded: Tells which interfaces are gated.
    """

    def __init__(self, store: Store, guarded: Guarded) -> None:
        self._store = store
        self._guarded = guarded
        self._active: dict[CellID, _Active] = {}
        guarded.changed = self.refresh
        self.receiver: Receiver | None = None
        """Takes each frame, with the local cell that it is for. Must not raise."""

    async def __aenter__(self) -> Self:
        for cell in self._store.locals():
            try:
                self.add(cell, Identity.load(cell.key_file), need_socket=False)
            except AssentError as error:
                log.error("cell is out of work", extra={"cell": cell.name, "reason": str(error)})
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for cell in list(self._active):
            self.remove(cell)

    def add(self, cell: LocalCell, identity: Identity, *, need_socket: bool) -> None:
        """Puts a cell to work.

        Args:
            cell: As stored.
            identity: Its keys.
            need_socket: Whether it is an error that a gated interface gives no socket; else it is
                tried again. One that is not gated is awaited in any case.

        Raises:
            FailedPrecondition: The key is not the cell's, or there is no such interface.
            Unavailable: The system refuses a socket.
        """
        if identity.cell_id != cell.id:
            raise FailedPrecondition(f"{cell.key_file} is not the key of cell {cell.name!r}")
        active = _Active(cell, identity)
        try:
            if self._guarded.is_guarded(cell.interface):
                self._open(active)
        except AssentError as error:
            if need_socket:
                raise
            log.warning("cell has no socket", extra={"cell": cell.name, "reason": str(error)})
        self._active[cell.id] = active

    def move(self, cell: LocalCell) -> None:
        """Has a cell speak through the interface that it is stored with now.

        Args:
            cell: As stored now.

        Raises:
            FailedPrecondition: There is no such interface, or it is not gated.
            Unavailable: The system refuses a socket. The cell is where it was.
        """
        active = self._active.get(cell.id)
        if active is None:
            raise FailedPrecondition("the local cell's key cannot be used: see the daemon's log")
        describe(cell.interface)
        if not self._guarded.is_guarded(cell.interface):
            raise FailedPrecondition(f"interface: {cell.interface!r} is not gated: attach it first")
        moved = _Active(cell, active.identity)
        self._open(moved)
        self._active[cell.id] = moved
        if active.socket is not None:
            active.socket.close()

    def remove(self, cell: CellID) -> None:
        """Takes a cell out of work. Idempotent."""
        active = self._active.pop(cell, None)
        if active is not None and active.socket is not None:
            active.socket.close()

    def refresh(self) -> None:
        """Has a socket on each interface that is gated now, and on no other.

        What nobody has decided on is not even queued. An interface that went and came back under
        its name is another one.
        """
        for active in self._active.values():
            index = 0
            if self._guarded.is_guarded(active.cell.interface):
                with contextlib.suppress(OSError):
                    index = socket.if_nametoindex(active.cell.interface)
            if active.socket is not None and (not active.socket.is_open or index != active.index):
                active.socket.close()
                active.socket = None
            if active.socket is None and index:
                with contextlib.suppress(AssentError):
                    self._open(active)

    def identity(self, cell: CellID) -> Identity:
        """The keys of a cell.

        Raises:
            FailedPrecondition: Its key file cannot be used.
        """
        active = self._active.get(cell)
        if active is None:
            raise FailedPrecondition("the local cell's key cannot be used: see the daemon's log")
        return active.identity

    def require_gated(self, cell: LocalCell) -> None:
        """Makes sure that a cell can hear what it is answered.

        Raises:
            FailedPrecondition: Its interface is missing or not gated.
        """
        describe(cell.interface)
        if not self._guarded.is_guarded(cell.interface):
            raise FailedPrecondition(
                f"interface: {cell.interface!r} of {cell.name!r} is not gated: attach it first"
            )
        active = self._active.get(cell.id)
        if active is None or active.socket is None:
            raise FailedPrecondition(
                f"interface: {cell.interface!r} of {cell.name!r} has no socket"
            )

    def send(self, cell: CellID, mac: bytes, frame: bytes) -> None:
        """Sends a fabric frame; where there is no socket, it is lost."""
        active = self._active.get(cell)
        if active is not None and active.socket is not None:
            active.socket.send(mac, frame)

    def _open(self, active: _Active) -> None:
        cell = active.cell
        opened = ControlSocket(
            cell.id,
            cell.interface,
            gated=lambda: self._guarded.is_guarded(cell.interface),
            receive=lambda frame: self._deliver(cell.id, frame),
        )
        opened.open()
        active.socket, active.index = opened, opened.index

    def _deliver(self, cell: CellID, frame: bytes) -> None:
        if self.receiver is not None:
            self.receiver(cell, frame)
