# SPDX-License-Identifier: Apache-2.0
"""The native ring (native/ring.c), typed: one port, and the flows that are driven through it.

Thin: a method is a call of C. Any thread may call; calls that can take long let other threads run.
No message is copied on its way out: frames are sealed straight from the caller's memory.
"""

from __future__ import annotations

import enum
import errno
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from assent import _native
from assent.errors import FailedPrecondition, InvalidArgument
from assent.transport.access import FlowAccess
from assent.transport.errors import (
    ClosedError,
    EndedError,
    FlowError,
    MessageTooLongError,
    PortError,
    SessionOverError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_ERROR_LEN = 256
_AGAIN = -errno.EAGAIN
_FIRED_AT_ONCE = 64


class Backend(enum.Enum):
    """How frames reach the interface."""

    AUTO = 0
    AF_XDP = _lib.AN_BACKEND_AF_XDP
    AF_PACKET = _lib.AN_BACKEND_AF_PACKET


class Ready(enum.IntFlag):
    """What a flow is ready for."""

    READABLE = _lib.AN_READABLE
    WRITABLE = _lib.AN_WRITABLE
    DRAINED = _lib.AN_DRAINED
    ENDED = _lib.AN_ENDED
    BROKEN = _lib.AN_BROKEN


@dataclass(frozen=True, slots=True)
class FlowStats:
    """Counts since the flow was opened; payload is in plain bytes, the rest as on the wire."""

    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int
    tx_payload: int
    rx_payload: int
    retransmissions: int
    nacks_sent: int
    nacks_received: int
    gaps_sent: int
    gaps_received: int
    voids_sent: int
    voids_received: int
    lamps_sent: int
    receipts_sent: int
    probes_sent: int
    credit_waits: int
    moves: int
    rtt_ns: int
    messages_sent: int
    messages_received: int
    foreign: int
    aead_failures: int


@dataclass(frozen=True, slots=True)
class PortConfig:
    """What a ring is opened on.

    Attributes:
        interface: its name.
        queue: of the interface.
        sockets_map: file descriptor of the gate's `sockets` map; -1: AF_XDP is not tried.
        backend: AUTO tries AF_XDP and falls back to AF_PACKET, with the reason kept.
        busy_poll_us: microseconds that the kernel polls the driver for; 0 = interrupts.
        spin_us: microseconds that a waiting caller looks for frames before it sleeps.
        lent: descriptors of a lent ring, which says all else: its socket, the memory of its frames
            or -1, its bell and its page; None = it is opened here.
    """

    interface: str
    queue: int = 0
    sockets_map: int = -1
    backend: Backend = Backend.AUTO
    busy_poll_us: int = 0
    spin_us: int = 0
    lent: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class PortInfo:
    """What a ring is.

    Attributes:
        backend: the one in use.
        zero_copy: whether the driver writes frames into our memory itself.
        need_wakeup: whether the kernel says when it wants to be woken.
        busy_poll: whether the kernel polls the driver.
        interface: its name.
        fallback_reason: why the backend is not AF_XDP; empty where it is.
    """

    backend: Backend
    zero_copy: bool
    need_wakeup: bool
    busy_poll: bool
    interface: str
    fallback_reason: str


class Part(NamedTuple):
    """What was read.

    Attributes:
        have: bytes of the message that are in the room now.
        ended: whether they are all of it.
    """

    have: int
    ended: bool


class Spans:
    """A message's parts, where they lie; pinned until they are released.

    Raises:
        InvalidArgument: a part is not one contiguous piece of memory.
    """

    __slots__ = ("_pins", "count", "native", "size")

    def __init__(self, data: Buffer | Sequence[Buffer]) -> None:
        parts = data if isinstance(data, list | tuple) else (data,)
        self._pins: list[Any] = []
        try:
            self._pins.extend(map(_pin, parts))
        except BaseException:
            self.release()
            raise
        self.count = len(self._pins)
        self.native = _ffi.new("struct an_span[]", self.count)
        self.size = 0
        for span, pin in zip(self.native, self._pins, strict=True):
            span.data, span.len = pin, len(pin)
            self.size += len(pin)

    def after(self, skip: int) -> Spans:
        """The same message, with a copy of all bytes but the first `skip`, which nobody reads."""
        rest, left = bytearray(), skip
        for pin in self._pins:
            rest += _ffi.buffer(pin)[left:]
            left = max(0, left - len(pin))
        copy = Spans(rest)
        copy.native = _ffi.new("struct an_span[]", [(copy.native[0].data, skip), copy.native[0]])
        copy.count, copy.size = 2, self.size
        return copy

    def release(self) -> None:
        """Lets the memory go. Idempotent."""
        for pin in self._pins:
            _ffi.release(pin)
        self._pins.clear()


class Room:
    """Memory that can be written to, pinned until it is released.

    Raises:
        InvalidArgument: it is read-only, or not one contiguous piece of memory.
    """

    __slots__ = ("native", "size")

    def __init__(self, buffer: Buffer) -> None:
        self.native = _pin(buffer, writable=True)
        self.size = len(self.native)

    def release(self) -> None:
        """Lets the memory go. Idempotent."""
        _ffi.release(self.native)


def _pin(buffer: Buffer, *, writable: bool = False) -> Any:
    try:
        return _ffi.from_buffer("uint8_t[]", buffer, require_writable=writable)
    except (BufferError, ValueError) as error:
        raise InvalidArgument("buffer", str(error)) from None


class Lengths:
    """Room for the lengths of so many messages."""

    __slots__ = ("count", "native")

    def __init__(self, lengths: int | Sequence[int]) -> None:
        self.native = _ffi.new("uint32_t[]", lengths)
        self.count = len(self.native)

    def __getitem__(self, at: int) -> int:
        length: int = self.native[at]
        return length


class Ring:
    """One port with its flows.

    Raises:
        PortError: the interface cannot be used.
    """

    def __init__(self, config: PortConfig) -> None:
        error = _ffi.new("char[]", _ERROR_LEN)
        self._handle = _lib.an_ring_open(_port_config(config), error, _ERROR_LEN)
        if not self._handle:
            raise PortError(_text(error), _ffi.errno)
        self._error = error
        self._fired = _ffi.new("an_flow *[]", _FIRED_AT_ONCE)
        self._flows: dict[Any, RingFlow] = {}
        self.fd: int = _lib.an_ring_fd(self._handle)

    @property
    def handle(self) -> Any:
        """The native ring.

        Raises:
            ClosedError: it has been closed.
        """
        if self._handle is None:
            raise ClosedError("this endpoint has been closed")
        return self._handle

    def close(self) -> None:
        """Shuts all flows and closes the port. No other thread may be in a call. Idempotent."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            _lib.an_ring_close(handle)

    def info(self) -> PortInfo:
        """What it is."""
        raw = _ffi.new("struct an_ring_info *")
        _lib.an_ring_describe(self.handle, raw)
        return PortInfo(
            backend=Backend(raw.backend),
            zero_copy=bool(raw.zero_copy),
            need_wakeup=bool(raw.need_wakeup),
            busy_poll=bool(raw.busy_poll),
            interface=_text(raw.interface),
            fallback_reason=_text(raw.fallback_reason),
        )

    def drive(self, milliseconds: int) -> None:
        """Moves frames for about that long; for the one thread that drives the ring.

        Raises:
            PortError: the interface cannot be used any more.
        """
        status = _lib.an_ring_drive(self.handle, milliseconds, self._error, _ERROR_LEN)
        if status < 0:
            raise PortError(_text(self._error), -status)

    def wake(self) -> None:
        """Makes `drive` return soon."""
        _lib.an_ring_wake(self.handle)

    def catch_up(self) -> None:
        """Takes in all that has arrived by now."""
        _lib.an_ring_catch_up(self.handle)

    def move(self, config: PortConfig, local_mac: bytes) -> None:
        """Goes on through another interface; the flows stay.

        Raises:
            PortError: it cannot be used; nothing has changed.
        """
        error = _ffi.new("char[]", _ERROR_LEN)
        status = _lib.an_ring_move(self.handle, _port_config(config), local_mac, error, _ERROR_LEN)
        if status < 0:
            raise PortError(_text(error), -status)

    def fired(self) -> list[RingFlow]:
        """The flows of which the descriptor has told since it was last asked."""
        found: list[RingFlow] = []
        while True:
            count = _lib.an_ring_fired(self.handle, self._fired, len(self._fired))
            found += filter(None, map(self._flows.get, self._fired[0:count]))
            if count < len(self._fired):
                return found

    def add(self, access: FlowAccess, line: Any, doorbell: int = -1) -> RingFlow:
        """Opens a flow.

        Args:
            access: from the daemon.
            line: the flow's 64 bytes of the gate's table, as cffi knows them.
            doorbell: of a lent ring, whose line is that of its page.

        Raises:
            FailedPrecondition: it cannot be used; an earlier driver left it unfinished, for one.
        """
        config = _ffi.new("struct an_flow_config *")
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
        config.epoch = access.epoch
        config.flow = access.flow
        config.mtu = access.mtu
        config.rx_blocks_per_second = access.rx_blocks_per_second
        config.line = line
        config.lent, config.doorbell = doorbell >= 0, doorbell
        config.delivery = access.delivery
        config.class_ = access.flow_class
        config.lamp = access.lamp
        config.rtt_hint = access.rtt_ns
        error = _ffi.new("char[]", _ERROR_LEN)
        handle = _lib.an_ring_add(self.handle, config, error, _ERROR_LEN)
        _ffi.buffer(config)[:] = bytes(_ffi.sizeof(config[0]))  # the keys in it
        if not handle:
            raise FailedPrecondition(_text(error))
        flow = self._flows[handle] = RingFlow(self, handle)
        return flow

    def remove(self, handle: Any) -> None:
        """Lets a flow go."""
        del self._flows[handle]
        _lib.an_ring_remove(self.handle, handle)


class RingFlow:
    """One flow of a ring: at most one thread at a time may write, and one read.

    Whatever cannot go on raises FlowError, with what the flow broke on; what cannot go on now
    returns None or 0.
    """

    __slots__ = ("_end", "_error", "_handle", "_life", "_ring", "_span", "_totals")

    def __init__(self, ring: Ring, handle: Any) -> None:
        self._ring = ring
        self._handle = handle
        self._life = threading.Lock()
        self._totals: FlowStats | None = None
        # Of the one who writes, and of the one who reads.
        self._span = _ffi.new("struct an_span *")
        self._end = _ffi.new("int *")
        self._error = _ffi.new("char[]", _ERROR_LEN)

    def write_one(self, data: Buffer, flags: int) -> tuple[int, int]:
        """As `write`, of one buffer, the quickest way; how much was taken, and of how much."""
        with _pin(data) as pin:
            size = len(pin)
            self._span.data, self._span.len = pin, size
            taken: int = _lib.an_ring_write(
                self._ring.handle, self._flow(), self._span, 1, 0, flags
            )
        if taken == _AGAIN:
            # Of an empty message nothing is taken either; it is tried again.
            return (0, size) if size else (-1, 0)
        return self._checked(taken), size

    def recv_one(self, room: Room, milliseconds: int) -> Part:
        """As `recv_all` from the beginning of a message, the quickest way."""
        got: int = _lib.an_ring_recv_all(
            self._ring.handle,
            self._flow(),
            room.native,
            room.size,
            0,
            self._end,
            milliseconds,
            self._error,
            _ERROR_LEN,
        )
        return Part(self._checked(got, self._error), bool(self._end[0]))

    def write(self, spans: Spans, skip: int, flags: int) -> int | None:
        """Takes of a message what credit and window allow.

        Args:
            spans: the message.
            skip: bytes of it that were taken before.
            flags: AN_COALESCE or 0.

        Returns:
            How many bytes were taken now; None where nothing could be.
        """
        taken: int = _lib.an_ring_write(
            self._ring.handle, self._flow(), spans.native, spans.count, skip, flags
        )
        return None if taken == _AGAIN else self._checked(taken)

    def write_many(
        self,
        spans: Spans,
        at: int,
        size: int,
        lengths: Lengths | None,
        done: int,
        count: int,
        flags: int,
    ) -> int:
        """Takes messages that lie back to back.

        Args:
            spans: one buffer, in which they lie.
            at: where in it the first begins.
            size: of each, where `lengths` is None.
            lengths: of each, and of those before.
            done: how many are before.
            count: how many there are.
            flags: AN_COALESCE or 0.

        Returns:
            How many were taken, whole.
        """
        taken: int = _lib.an_ring_write_many(
            self._ring.handle,
            self._flow(),
            spans.native[0].data + at,
            size,
            _ffi.NULL if lengths is None else lengths.native + done,
            count,
            flags,
        )
        return 0 if taken == _AGAIN else self._checked(taken)

    def send_all(self, spans: Spans, skip: int, flags: int, milliseconds: int) -> int:
        """As `write`, until all is taken or time is up; returns all that was taken so far."""
        error = _ffi.new("char[]", _ERROR_LEN)
        taken: int = _lib.an_ring_send_all(
            self._ring.handle,
            self._flow(),
            spans.native,
            spans.count,
            skip,
            flags,
            milliseconds,
            error,
            _ERROR_LEN,
        )
        return self._checked(taken, error)

    def read(self, room: Room, have: int) -> Part | None:
        """Reads what is there of the message at hand; None where there is nothing.

        Args:
            room: where it goes.
            have: bytes of the message that are in the room already.
        """
        end = _ffi.new("int *")
        got: int = _lib.an_ring_read(
            self._ring.handle, self._flow(), room.native + have, room.size - have, end
        )
        return None if got == _AGAIN else Part(have + self._checked(got), bool(end[0]))

    def read_many(self, room: Room, lengths: Lengths) -> int:
        """Reads whole messages, packed back to back; returns how many.

        Raises:
            MessageTooLongError: the first is longer than the room.
        """
        got: int = _lib.an_ring_read_many(
            self._ring.handle, self._flow(), room.native, room.size, lengths.native, lengths.count
        )
        return 0 if got == _AGAIN else self._checked(got)

    def recv_all(self, room: Room, have: int, milliseconds: int) -> Part:
        """As `read`, until the message is whole, the room full, or time is up."""
        error, end = _ffi.new("char[]", _ERROR_LEN), _ffi.new("int *")
        got: int = _lib.an_ring_recv_all(
            self._ring.handle,
            self._flow(),
            room.native,
            room.size,
            have,
            end,
            milliseconds,
            error,
            _ERROR_LEN,
        )
        return Part(self._checked(got, error), bool(end[0]))

    def finish(self) -> bool:
        """Says that no message follows; False where there is no credit for that now."""
        status: int = _lib.an_ring_finish(self._ring.handle, self._flow())
        return status != _AGAIN and not self._checked(status)

    def wait(self, wanted: Ready, milliseconds: int) -> Ready:
        """Drives the ring until one of these is there; what of them is there, none at time's end.

        A flow that breaks meanwhile raises FlowError.
        """
        error = _ffi.new("char[]", _ERROR_LEN)
        found: int = _lib.an_ring_wait(
            self._ring.handle, self._flow(), wanted, milliseconds, error, _ERROR_LEN
        )
        return Ready(self._checked(found, error))

    def watch(self, wanted: Ready) -> Ready:
        """What of these is there; where nothing is, the ring's descriptor will tell of it once."""
        return Ready(_lib.an_ring_watch(self._ring.handle, self._flow(), wanted))

    def taken(self, awaited: int) -> None:
        """The peer has consumed all numbers before this one."""
        _lib.an_ring_taken(self._ring.handle, self._flow(), awaited)

    def check(self) -> None:
        """Raises FlowError where the flow is broken."""
        error = _ffi.new("char[]", _ERROR_LEN)
        number = _lib.an_ring_error(self._ring.handle, self._flow(), error, _ERROR_LEN)
        if number:
            raise _broken(number, _text(error))

    def message_max(self) -> int:
        """Bytes of a message that fits one frame."""
        size: int = _lib.an_ring_message_max(self._ring.handle, self._flow())
        return size

    def stats(self) -> FlowStats:
        """The counts so far; of a flow that is closed, the last ones."""
        with self._life:
            return self._totals or self._count()

    def close(self) -> None:
        """Lets the flow go. No other thread may be in a call but `stats`. Idempotent."""
        with self._life:
            if self._handle is not None:
                self._totals = self._count()
                handle, self._handle = self._handle, None
                self._ring.remove(handle)

    def _count(self) -> FlowStats:
        raw = _ffi.new("struct an_stats *")
        _lib.an_ring_stats(self._ring.handle, self._flow(), raw)
        return FlowStats(**{each.name: getattr(raw, each.name) for each in fields(FlowStats)})

    def _flow(self) -> Any:
        if self._handle is None:
            raise ClosedError("this flow has been closed")
        return self._handle

    def _checked(self, result: int, error: Any = None) -> int:
        if result >= 0:
            return result
        if result == -errno.EMSGSIZE:
            raise MessageTooLongError("the message is longer than what it must fit into")
        if result == -errno.ENETDOWN:
            raise PortError("the interface is gone", errno.ENETDOWN)
        if result == -errno.ESHUTDOWN:
            raise ClosedError("this flow has been closed")
        if result == -errno.EPIPE:
            raise EndedError("the peer has ended the flow")
        if error is None or not error[0]:
            self.check()
        raise _broken(result, _text(error) if error else f"the flow is broken (error {-result})")


def _broken(number: int, text: str) -> FlowError:
    return SessionOverError(text) if abs(number) == errno.ENOTCONN else FlowError(text)


def _port_config(config: PortConfig) -> Any:
    raw = _ffi.new("struct an_ring_config *")
    raw.interface = config.interface.encode()
    raw.queue = config.queue
    raw.sockets_map = config.sockets_map
    raw.backend = config.backend.value
    raw.busy_poll_us = config.busy_poll_us
    raw.spin_us = config.spin_us
    for at, fd in enumerate(config.lent or (-1, -1, -1, -1)):
        raw.lent_fds[at] = fd
    return raw


def _text(raw: Any) -> str:
    text: bytes = _ffi.string(raw)
    return text.decode(errors="replace")
