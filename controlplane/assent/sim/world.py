# SPDX-License-Identifier: Apache-2.0
"""A world in virtual time, as Python drives it: hosts, links, flows, and one call that runs it.

Everything per frame is in C (sim.h, which is the manual). All times are ns since the world began,
a moment that is `START`; rates are bit/s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from assent._sim import ffi, lib
from assent.closing import Closing
from assent.errors import InvalidArgument, ResourceExhausted

START: Final[int] = lib.SIM_START
FOREVER: Final = 2**64 - 1
MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
FRAME_MAX: Final = 2048


class Broken(AssertionError):  # noqa: N818 - as SIM_BROKEN
    """Something that must hold in every world did not; the message says what, where and when."""


class Stop(IntEnum):
    """Why a world stopped running."""

    REACHED = lib.SIM_REACHED
    CONTROL = lib.SIM_CONTROL
    DONE = lib.SIM_DONE


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a link.

    Attributes:
        rate: bit/s.
        delay: ns one way.
        jitter: ns at most on top of the delay; frames stay in order.
        queue: bytes that may wait for the transmitter; 0 = any number.
        loss: probability that a frame is lost.
        burst_enter: probability, a frame, of going over to the bad state (Gilbert and Elliott).
        burst_leave: probability of coming back.
        burst_loss: probability of loss in the bad state.
        duplicate: probability that a frame arrives twice.
        reorder: probability that a frame is held back, and overtaken.
        reorder_delay: ns at most that it is held back for.
        outages: intervals, ns, in which whatever leaves is lost.
    """

    rate: int
    delay: int
    jitter: int = 0
    queue: int = 0
    loss: float = 0.0
    burst_enter: float = 0.0
    burst_leave: float = 1.0
    burst_loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: int = 0
    outages: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an application writes on one side of a flow, and how it reads.

    Attributes:
        messages: How many it writes.
        size: bytes of each: the least and the most.
        gap: ns from one message to the next; 0 = as fast as the flow takes them.
        coalesce: Small messages may share frames.
        stall: An interval, ns, in which it reads nothing.
    """

    messages: int = 0
    size: tuple[int, int] = (65_536, 65_536)
    gap: int = 0
    coalesce: bool = False
    stall: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Books:
    """A side's credit, in blocks since the session began."""

    rx_granted: int
    rx_spent: int
    rx_window: int
    tx_granted: int
    tx_spent: int
    tx_window: int


@dataclass(frozen=True, slots=True)
class FlowReport:
    """What became of one side of a fabric flow. Times are ns; 0 = it has not happened.

    Attributes:
        drained_at: All was written, ended, and receipted.
        ended_at: The peer's end was read.
        error: The engine's negative errno; 0 = none.
        sentence: What it said.
        rtt: ns, as the engine has measured it.
    """

    messages_written: int
    messages_read: int
    bytes_written: int
    bytes_read: int
    first_read_at: int
    last_read_at: int
    drained_at: int
    ended_at: int
    failed_at: int
    error: int
    sentence: str
    tx_frames: int
    tx_bytes: int
    retransmissions: int
    nacks: int
    gaps: int
    receipts: int
    probes: int
    voids: int
    lamps: int
    credit_waits: int
    rtt: int
    books: Books

    @property
    def control_frames(self) -> int:
        """Frames that carried no message."""
        return self.nacks + self.gaps + self.receipts + self.probes + self.voids


@dataclass(frozen=True, slots=True)
class TcpReport:
    """What became of a connection of the TCP model. Times are ns; 0 = it has not happened."""

    segments: int
    retransmissions: int
    timeouts: int
    reductions: int
    acks: int
    bytes_read: int
    first_read_at: int
    last_read_at: int
    completed_at: int
    failed_at: int
    window: float
    threshold: float
    srtt: int


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What became of the frames that were handed to a link."""

    frames: int
    bytes: int
    busy: int
    queue_max: int
    overflowed: int
    obscured: int
    lost: int
    duplicated: int
    held_back: int


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate said of the frames that arrived.

    Attributes:
        admitted: How many it let through.
        replayed: How many it refused for having seen their number.
        refused: How many for anything else.
        last: The last of those reasons (enum assent_reason); 0 = there was none.
    """

    admitted: int
    replayed: int
    refused: int
    last: int


_BOOKS: Final = tuple(Books.__dataclass_fields__)
_FLOW: Final = tuple(FlowReport.__dataclass_fields__)
_TCP: Final = tuple(TcpReport.__dataclass_fields__)
_GATE: Final = tuple(GateReport.__dataclass_fields__)
_LINK: Final = tuple(LinkReport.__dataclass_fields__)


class World(Closing):
    """Hosts, links and flows under one clock. Use it with `with`: its memory is C's.

    Args:
        seed: Says, with the calls, all that happens.
        hosts: How many there are.
        flows_per_pair: The highest number that a data flow may have.

    Raises:
        ResourceExhausted: There is no memory for so many.
    """

    def __init__(self, seed: int, hosts: int = 2, flows_per_pair: int = 1) -> None:
        self._world = lib.sim_new(seed % 2**64, hosts, flows_per_pair)
        if self._world == ffi.NULL:
            raise ResourceExhausted("no memory for a world of this size")
        self._frame = ffi.new("uint8_t[]", FRAME_MAX)

    def close(self) -> None:
        """Gives the memory back; nothing else may be called afterwards."""
        if self._world != ffi.NULL:
            lib.sim_free(self._world)
            self._world = ffi.NULL

    @property
    def now(self) -> int:
        """Virtual time, ns."""
        return int(lib.sim_now(self._world))

    # ---- what there is

    def add_link(self, link: Link) -> int:
        """Makes a link; returns its number.

        Raises:
            InvalidArgument: It has no rate, or too many outages.
        """
        config = ffi.new("struct sim_link_config *")
        for name in (
            *("rate", "delay", "jitter", "queue", "loss", "burst_enter", "burst_leave"),
            *("burst_loss", "duplicate", "reorder", "reorder_delay"),
        ):
            setattr(config, name, getattr(link, name))
        number = self._checked(lib.sim_add_link(self._world, config), "link")
        for begin, end in link.outages:
            self._checked(lib.sim_add_outage(self._world, number, begin, end), "outages")
        return number

    def route(self, sender: int, receiver: int, link: int) -> None:
        """Frames from one host to the other go over this link."""
        self._checked(lib.sim_route(self._world, sender, receiver, link), "link")

    def set_interface(self, host: int, rate: int) -> None:
        """What the host's interface sends at, bit/s; without that it follows the link."""
        self._checked(lib.sim_set_interface(self._world, host, rate), "host")

    # ---- what the control plane writes

    def set_cell(self, host: int, cell: bytes) -> None:
        """Which cell lives on the host."""
        self._checked(lib.sim_set_cell(self._world, host, cell), "cell")

    def introduce(self, host: int, peer: int, admission_key: bytes) -> None:
        """From now on the host's gate knows the peer's handshake frames."""
        self._checked(lib.sim_introduce(self._world, host, peer, admission_key), "peer")

    def establish(
        self, host: int, peer: int, header_key: bytes, clock_offset: int, skew_limit: int
    ) -> None:
        """The host's gate has a session with the peer: its key, and its clock less ours, ns."""
        limit = skew_limit // MILLISECOND
        self._checked(
            lib.sim_establish(self._world, host, peer, header_key, clock_offset, limit), "peer"
        )

    def send(self, host: int, peer: int, frame: bytes) -> None:
        """Sends a control frame, fabric header first."""
        self._checked(lib.sim_send(self._world, host, peer, frame, len(frame)), "frame")

    def arrived(self) -> Iterator[tuple[int, int, bytes]]:
        """Takes the control frames that were admitted: at which host, from which, and the frame."""
        ends = ffi.new("uint32_t[2]")
        while True:
            length = lib.sim_take(self._world, ends, ends + 1, self._frame, FRAME_MAX)
            if not length:
                return
            yield ends[0], ends[1], bytes(ffi.buffer(self._frame, length))

    # ---- flows

    def add_flow(self, **config: Any) -> int:
        """Opens one side of a flow (`struct sim_flow_config`); returns its number in the world.

        Raises:
            Broken: The engine did not open it; the message is the engine's.
            InvalidArgument: There is no such host, session or flow.
        """
        made = ffi.new("struct sim_flow_config *", config)
        number = lib.sim_add_flow(self._world, made)
        self._hold()
        return self._checked(number, "flow")

    def add_tcp(
        self,
        host: int,
        peer: int,
        size: int,
        *,
        window: int,
        start: int = START,
        patient_rtt: int = 0,
        sample: int = 0,
    ) -> int:
        """Opens a connection of the TCP model that carries `size` bytes; returns its number.

        Args:
            host: Sends.
            peer: Receives.
            size: bytes.
            window: bytes that the receiver has room for.
            start: When its SYN leaves.
            patient_rtt: ns; other than 0: timers follow it and have no upper limit.
            sample: ns of a bucket of `samples`; 0 = none.
        """
        config = ffi.new(
            "struct sim_tcp_config *",
            {
                "host": host,
                "peer": peer,
                "bytes": size,
                "window": window,
                "start": start,
                "patient_rtt": patient_rtt,
                "sample": sample,
            },
        )
        return self._checked(lib.sim_add_tcp(self._world, config), "connection")

    # ---- time

    def run(self, until: int) -> Stop:
        """Lets the world go on until then, or until there is something to say.

        Raises:
            Broken: Something did not hold.
        """
        stop = lib.sim_run(self._world, until)
        self._hold()
        return Stop(stop)

    # ---- what became of it

    def flow(self, number: int) -> FlowReport:
        """What became of one side of a fabric flow."""
        stats = ffi.new("struct sim_flow_stats *")
        self._checked(lib.sim_flow_read(self._world, number, stats), "flow")
        values = {name: getattr(stats, name) for name in _FLOW if name not in {"books", "sentence"}}
        books = Books(**{name: getattr(stats, name) for name in _BOOKS})
        sentence = ffi.string(stats.sentence).decode()
        return FlowReport(**values, books=books, sentence=sentence)

    def tcp(self, number: int) -> TcpReport:
        """What became of a connection of the TCP model."""
        stats = ffi.new("struct sim_tcp_stats *")
        self._checked(lib.sim_tcp_read(self._world, number, stats), "connection")
        return TcpReport(**{name: getattr(stats, name) for name in _TCP})

    def link(self, number: int) -> LinkReport:
        """What became of the frames that were handed to a link."""
        stats = ffi.new("struct sim_link_stats *")
        self._checked(lib.sim_link_read(self._world, number, stats), "link")
        return LinkReport(**{name: getattr(stats, name) for name in _LINK})

    def samples(self, number: int) -> list[int]:
        """Bytes read in each bucket of a flow's time, from the world's beginning on.

        A connection of the TCP model reads at its receiver, whose number is one higher.
        """
        buckets = ffi.new("uint64_t **")
        count = lib.sim_samples(self._world, number, buckets)
        return list(buckets[0][0:count])

    def gate(self, host: int) -> GateReport:
        """What the host's gate said of the frames that arrived."""
        stats = ffi.new("struct sim_gate_stats *")
        self._checked(lib.sim_gate_read(self._world, host, stats), "host")
        return GateReport(**{name: getattr(stats, name) for name in _GATE})

    def _hold(self) -> None:
        sentence = ffi.string(lib.sim_error(self._world)).decode()
        if sentence:
            raise Broken(f"at {(self.now - START) / SECOND:.9f} s: {sentence}")

    @staticmethod
    def _checked(result: int, what: str) -> int:
        if result < 0:
            raise InvalidArgument(what, f"the world does not take it: {os.strerror(-result)}")
        return int(result)
