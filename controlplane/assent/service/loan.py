# SPDX-License-Identifier: Apache-2.0
"""A ring that is lent: the daemon's end of it (native/lend.h)."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any, Final

from assent import _native
from assent.closing import Closing
from assent.dataplane.libbpf import Map
from assent.errors import FailedPrecondition, ResourceExhausted
from assent.transport.lines import Lines
from assent.wire.cellid import CellID

_ffi: Any = _native.ffi
_lib: Any = _native.lib

LINES: Final = 64
"""Flows that one ring has room for."""
_ERROR_LEN: Final = 256
_BUSY: Final = os.strerror(errno.EBUSY)


class BusyInterface(FailedPrecondition):
    """Another ring is on the interface; or one was a moment ago: the kernel takes its time."""


@dataclass(frozen=True, slots=True)
class LoanInfo:
    """What was lent.

    Attributes:
        backend: `enum an_backend`.
        zero_copy: Whether the driver does not copy frames.
        reason: Why it is not AF_XDP; "" where it is.
        fds: To be passed to the application, in order; they stay the loan's.
        doorbell: Readable when the application wishes something.
    """

    backend: int
    zero_copy: bool
    reason: str
    fds: tuple[int, ...]
    doorbell: int


class Loan(Closing):
    """One ring on an interface. Use it as a context manager, or close it.

    Args:
        interface: In the daemon's network namespace.
        sockets: The gate's `sockets` map.
        lines: The gate's `flows` map.
        packets: Whether it may be an AF_PACKET socket where it cannot be an AF_XDP one.

    Raises:
        BusyInterface: Another one is there.
        FailedPrecondition: The interface gives none.
    """

    def __init__(self, interface: str, sockets: Map, lines: Lines, *, packets: bool) -> None:
        self._lines = lines
        self._taken: set[int] = set()
        self._error = _ffi.new("char[]", _ERROR_LEN)
        config = _ffi.new("struct an_ring_config *")
        config.interface = interface.encode()
        config.sockets_map = sockets.fd
        config.backend = 0 if packets else _lib.AN_BACKEND_AF_XDP
        for at in range(len(config.lent_fds)):
            config.lent_fds[at] = -1
        self._handle = _lib.an_loan_open(config, LINES, self._error, _ERROR_LEN)
        if not self._handle:
            self._handle = None
            said = self._message()
            raise BusyInterface(said) if _BUSY in said else FailedPrecondition(said)

    def info(self) -> LoanInfo:
        """What was lent."""
        raw = _ffi.new("struct an_loan_info *")
        _lib.an_loan_describe(self._handle, raw)
        fds = (raw.socket, raw.umem, raw.bell, raw.page, raw.doorbell)
        reason: bytes = _ffi.string(raw.fallback_reason)
        return LoanInfo(
            raw.backend,
            bool(raw.zero_copy),
            reason.decode(errors="replace"),
            tuple(fd for fd in fds if fd >= 0),
            raw.doorbell,
        )

    def lend(self, local: CellID, flow: int, slot: int) -> int:
        """Lends a flow; returns its place on the page.

        Args:
            local: The cell of this host.
            flow: Its number.
            slot: Of its line in the gate.

        Raises:
            ResourceExhausted: The page is full.
            FailedPrecondition: The ring is for another cell.
        """
        index = next((at for at in range(LINES) if at not in self._taken), None)
        if index is None:
            raise ResourceExhausted(f"a lent ring has room for {LINES} flows")
        line = self._lines.native(slot)
        status = _lib.an_loan_lend(
            self._handle, index, bytes(local), flow, line, self._error, _ERROR_LEN
        )
        if status < 0:
            raise FailedPrecondition(self._message())
        self._taken.add(index)
        return index

    def apply(self) -> None:
        """Grants what is wished and due, and tells what has changed. Takes the doorbell's ring."""
        _lib.an_loan_apply(self._handle)

    def take_back(self, index: int) -> None:
        """The application drives a flow no more; how far it has come is in the gate."""
        _lib.an_loan_take_back(self._handle, index)
        self._taken.discard(index)

    def close(self) -> None:
        """Takes everything back. Idempotent."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            _lib.an_loan_close(handle)

    def _message(self) -> str:
        text: bytes = _ffi.string(self._error)
        return text.decode(errors="replace")
