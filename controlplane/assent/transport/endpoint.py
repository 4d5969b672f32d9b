# SPDX-License-Identifier: Apache-2.0
"""One flow, driven from this process: the Python face of the native endpoint.

The daemon hands out a :class:`FlowAccess` (keys, slot, addresses). From then on the endpoint runs
on the pinned maps and its own socket alone, so it goes on while the daemon is down.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from assent import _native
from assent.dataplane.libbpf import Map
from assent.errors import AssentError, FailedPrecondition
from assent.wire.cellid import CellID

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_ERROR_LEN = 256
FLOW_LINE_LEN = 64


class FlowError(AssentError):
    """The flow cannot go on: a silent peer, a broken rule, or a frame that was tampered with."""


class Backend(enum.Enum):
    """How frames reach the interface."""

    AUTO = 0
    AF_XDP = _lib.AN_BACKEND_AF_XDP
    AF_PACKET = _lib.AN_BACKEND_AF_PACKET


class Progress(enum.Enum):
    """Why :meth:`FlowEndpoint.run` returned."""

    RUNNING = _lib.AN_RUNNING
    SENT = _lib.AN_SENT
    RECEIVED = _lib.AN_RECEIVED


@dataclass(frozen=True, slots=True)
class FlowAccess:
    """What it takes to drive one flow of a session. Holds keys.

    Attributes:
        rx_blocks_per_second: What the peer is granted on this flow in a second, beyond the window
            that it began with; 0 = all that was consumed, at once. Of a rate that several flows
            share, this flow's part.
    """

    local: CellID
    remote: CellID
    local_mac: bytes
    remote_mac: bytes
    interface: str
    mtu: int
    epoch: int
    flow: int
    slot: int
    flows_pin: Path
    sockets_pin: Path
    lock_path: Path
    tx_payload_key: bytes = field(repr=False)
    rx_payload_key: bytes = field(repr=False)
    tx_header_key: bytes = field(repr=False)
    rx_blocks_per_second: int = 0


@dataclass(frozen=True, slots=True)
class FlowStats:
    """Counts since the endpoint was opened; payload is in plain bytes, the rest as on the wire."""

    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int
    tx_payload: int
    rx_payload: int
    retransmissions: int
    nacks_sent: int
    nacks_received: int
    receipts_sent: int
    probes_sent: int
    credit_waits: int
    foreign: int
    aead_failures: int


class FlowEndpoint:
    """A flow's one driver in this host, while the context is entered.

    Args:
        access: from the daemon.
        backend: AUTO tries AF_XDP and falls back to AF_PACKET, with the reason kept.

    Raises:
        FailedPrecondition: on entry, where another process drives the flow, the interface or the
            maps cannot be used, or an earlier endpoint left the flow unfinished.
    """

    def __init__(self, access: FlowAccess, backend: Backend = Backend.AUTO) -> None:
        self._access = access
        self._wanted = backend
        self._error = _ffi.new("char[]", _ERROR_LEN)
        self._handle: Any = None
        self._memory: mmap.mmap | None = None
        self._sockets: Map | None = None
        self._lock = -1
        self._lines: Any = None

    def __enter__(self) -> Self:
        """Locks the flow, binds the socket, and opens the gate for the flow's frames."""
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Shuts the gate for the flow's frames and lets everything go."""
        self._close()

    @property
    def backend(self) -> Backend:
        """The backend in use."""
        return Backend(_lib.an_endpoint_backend(self._handle))

    @property
    def fallback_reason(self) -> str:
        """Why the backend is not AF_XDP; empty where it is."""
        text: bytes = _ffi.string(_lib.an_endpoint_fallback_reason(self._handle))
        return text.decode(errors="replace")

    @contextlib.contextmanager
    def sending(self, source: Any) -> Iterator[None]:
        """Sends from any object with a buffer, left unchanged; run until ``SENT`` inside."""
        buffer = _ffi.from_buffer("uint8_t[]", source)
        _lib.an_endpoint_send(self._handle, buffer, len(buffer))
        try:
            yield
        finally:
            _lib.an_endpoint_send(self._handle, _ffi.NULL, 0)
            _ffi.release(buffer)

    @contextlib.contextmanager
    def receiving(self, sink: Any) -> Iterator[None]:
        """Receives into any object with a writable buffer; run until ``RECEIVED`` inside."""
        buffer = _ffi.from_buffer("uint8_t[]", sink, require_writable=True)
        _lib.an_endpoint_receive(self._handle, buffer, len(buffer))
        try:
            yield
        finally:
            _lib.an_endpoint_receive(self._handle, _ffi.NULL, 0)
            _ffi.release(buffer)

    def run(self, milliseconds: int) -> Progress:
        """Moves frames for about that long, or until there is something to report.

        Raises:
            FlowError: the flow cannot go on.
        """
        status = _lib.an_endpoint_run(self._handle, milliseconds, self._error, _ERROR_LEN)
        if status == _lib.AN_FAILED:
            raise FlowError(self._message())
        return Progress(status)

    def linger(self, milliseconds: int) -> None:
        """Stays to answer the peer's probes until it has been quiet for that long.

        Where the peer is held to a rate, also until all that it sent is granted again, as that is
        its receipt; which may take as long as its window takes at that rate.
        """
        status = _lib.AN_RUNNING
        while status == _lib.AN_RUNNING:
            status = _lib.an_endpoint_linger(self._handle, milliseconds, self._error, _ERROR_LEN)
        if status == _lib.AN_FAILED:
            raise FlowError(self._message())

    def stats(self) -> FlowStats:
        """The counts so far."""
        raw = _ffi.new("struct an_stats *")
        _lib.an_endpoint_stats(self._handle, raw)
        return FlowStats(**{each.name: getattr(raw, each.name) for each in fields(FlowStats)})

    def _message(self) -> str:
        text: bytes = _ffi.string(self._error)
        return text.decode(errors="replace")

    def _take_lock(self) -> None:
        path = self._access.lock_path
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"flow {self._access.flow} is driven by another process (it holds {path})"
            ) from None

    def _open(self) -> None:
        access = self._access
        self._take_lock()
        flows = Map.open_pinned(access.flows_pin)
        try:
            length = -(-flows.max_entries * FLOW_LINE_LEN // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory = mmap.mmap(flows.fd, length)
        finally:
            flows.close()
        self._sockets = Map.open_pinned(access.sockets_pin)

        config = _ffi.new("struct an_endpoint_config *")
        for name, value in (
            ("local_cell", bytes(access.local)),
            ("remote_cell", bytes(access.remote)),
            ("local_mac", access.local_mac),
            ("remote_mac", access.remote_mac),
            ("tx_payload_key", access.tx_payload_key),
            ("rx_payload_key", access.rx_payload_key),
            ("tx_header_key", access.tx_header_key),
        ):
            _ffi.memmove(getattr(config, name), value, len(value))
        config.interface = access.interface.encode()
        config.epoch = access.epoch
        config.flow = access.flow
        config.mtu = access.mtu
        config.rx_blocks_per_second = access.rx_blocks_per_second
        self._lines = _ffi.from_buffer("uint8_t[]", self._memory, require_writable=True)
        config.line = self._lines + access.slot * FLOW_LINE_LEN
        config.sockets_map = self._sockets.fd
        config.backend = self._wanted.value
        self._handle = _lib.an_endpoint_open(config, self._error, _ERROR_LEN)
        _ffi.buffer(config)[:] = bytes(_ffi.sizeof(config[0]))  # the keys in it
        if not self._handle:
            self._handle = None
            raise FailedPrecondition(self._message())

    def _close(self) -> None:
        if self._handle is not None:
            _lib.an_endpoint_close(self._handle)
            self._handle = None
        if self._lines is not None:
            _ffi.release(self._lines)
            self._lines = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
