# SPDX-License-Identifier: Apache-2.0
"""The gate's maps as typed tables. tables.h says what each field means and who writes it.

One process writes: the control plane. What the gate writes, it writes at the same time, and nothing
here overwrites it but where said.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from assent.dataplane.btf import Btf, Layout, Record
from assent.dataplane.libbpf import EXIST, NOEXIST, Map, RingBuffer
from assent.dataplane.reasons import Reasons
from assent.dataplane.slots import RunAllocator
from assent.errors import InvalidArgument, NotFound, ResourceExhausted
from assent.wire.cellid import CellID
from assent.wire.siphash import KEY_LEN, SipState

SEC = 1_000_000_000
# Longest that a CPU may go on with a session entry that has been replaced. It is one frame's
# verdict, some 100 ns; interrupts and a hypervisor may stretch it.
GRACE_NS = SEC
CONTROL_FLOW = 0
CONTROL_REPLAY_LEN = 1024
DATA_REPLAY_LEN = 2048
SEQ_MAX = 1 << 31
"""A session is renewed before half of the sequence space is used (RFC 1982 comparison)."""
_ONLY = bytes(4)
_BYTE_ORDER = sys.byteorder
# The rx_window and tx_window fields of a flow have 32 bits.
_MAX_WINDOW = (1 << 32) - 1
_Runs = list[tuple[int, int]]
# C compares credit as unsigned, and nothing may come near the wrap.
_MAX_BLOCKS = 1 << 62
_MAX_FLOW = 0xFFFF
_MAX_GRANT_SHIFT = 16


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What applies to all cells of a gate.

    Attributes:
        handshake_interval: ns that one handshake frame costs a peer: 1/rate.
        handshake_burst: ns that a peer may run ahead of that rate.
        control_interval: the same for flow 0 within a session.
        control_burst: ns.
        event_interval: least ns between two events of one reason on one CPU.
    """

    handshake_interval: int = SEC // 50
    handshake_burst: int = (16 - 1) * SEC // 50
    control_interval: int = SEC // 1000
    control_burst: int = (256 - 1) * SEC // 1000
    event_interval: int = SEC // 100


@dataclass(frozen=True, slots=True)
class Local:
    """A cell of this host. `index` is its stable small number here."""

    cell: CellID
    index: int


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """A flow to open.

    Attributes:
        flow: 0 = control, data from 1.
        rx_window: 64-byte blocks that the peer may send at first.
        tx_window: blocks that we may send at first.
        replay_len: sequence numbers in the replay window; None = 1,024 for flow 0, else 2,048.
    """

    flow: int
    rx_window: int = 0
    tx_window: int = 0
    replay_len: int | None = None

    @property
    def window_len(self) -> int:
        """The replay window in force."""
        if self.replay_len is not None:
            return self.replay_len
        return CONTROL_REPLAY_LEN if self.flow == CONTROL_FLOW else DATA_REPLAY_LEN


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session to install.

    Attributes:
        remote: the cell that sends.
        local: the cell of this host that receives.
        session_id: names the session in events.
        rx_header_key: 16 bytes, the key of arriving frames' tags.
        clock_offset: the sender's clock minus our monotonic clock, ns.
        skew_limit: ns either way that a timestamp may be off; 0 = not checked.
        grant_shift: the unit of the `grant` field is 64 << grant_shift bytes.
        flows: flows to open; flow 0 is opened in any case.
    """

    remote: CellID
    local: CellID
    session_id: int
    rx_header_key: bytes = field(repr=False)
    clock_offset: int = 0
    skew_limit: int = 30 * SEC
    grant_shift: int = 0
    flows: tuple[FlowSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """What stands in the session table, without its keys.

    Attributes:
        remote, local: the pair.
        established: a header key is live, so the flows below are.
        alternate: the neighbouring epoch's header key is live too.
        covenanted: the local cell has agreed to hear from the remote one.
        quarantined: and has suspended that.
        session_id, clock_offset, skew_limit: as installed; ns.
        flow_base, flow_count: slots in the flow table; flow f lives at flow_base + f.
        handshake_newest: timestamp of the newest handshake frame that the gate admitted, ns.
    """

    remote: CellID
    local: CellID
    established: bool
    alternate: bool
    covenanted: bool
    quarantined: bool
    session_id: int
    clock_offset: int
    skew_limit: int
    flow_base: int
    flow_count: int
    handshake_newest: int


@dataclass(frozen=True, slots=True)
class CounterTotals:
    """One verdict's counts, over all CPUs; `events` is how many of the frames were reported."""

    frames: int
    bytes: int
    events: int


@dataclass(frozen=True, slots=True)
class Event:
    """A refused frame.

    Attributes:
        time: monotonic, ns, in the steps of the kernel's tick.
        reason: name of the verdict.
        ifindex: where it arrived.
        session_id: 0 where no session was found.
        frame_len: bytes, Ethernet header included.
        head: its first 78 bytes, Ethernet and fabric header; zero past the frame's end.
    """

    time: int
    reason: str
    ifindex: int
    session_id: int
    frame_len: int
    head: bytes


class ConfigTable:
    """config[0]."""

    def __init__(self, table: Map, layout: Layout) -> None:
        self._table = table
        self._layout = layout

    def read(self) -> GateConfig:
        """Returns what applies."""
        record = self._layout.unpack(_present(self._table.lookup(_ONLY)))
        return GateConfig(**record.as_dict())

    def write(self, config: GateConfig) -> None:
        """Makes another configuration apply, from the next frame on."""
        values = {name: getattr(config, name) for name in GateConfig.__slots__}
        self._table.update(_ONLY, self._layout.pack(**values))


class LocalTable:
    """locals[cell]: the cells of this host."""

    def __init__(self, table: Map, layout: Layout) -> None:
        self._table = table
        self._layout = layout

    def put(self, cell: CellID, index: int) -> None:
        """Adds a cell, or renumbers it.

        Raises:
            ResourceExhausted: the table is full.
        """
        self._table.update(bytes(cell), self._layout.pack(index=index))

    def delete(self, cell: CellID) -> None:
        """Removes a cell: frames to it are refused from now on.

        Raises:
            NotFound: it is not there.
        """
        self._table.delete(bytes(cell))

    def list(self) -> list[Local]:
        """Returns all cells, by number."""
        rows = (
            Local(CellID(key), self._layout.unpack(value).index)
            for key, value in self._table.items()
        )
        return sorted(rows, key=lambda row: row.index)


class FlowTable:
    """flows[slot], shared memory: no system call to read it or to raise a grant."""

    def __init__(self, table: Map, layout: Layout) -> None:
        self._layout = layout
        self._count = table.max_entries
        length = -(-table.max_entries * layout.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(table.fd, length, mmap.MAP_SHARED)

    def read(self, slot: int) -> Record:
        """Returns a flow's accounting; each field is whole, the fields together are no snapshot."""
        at = self._at(slot)
        return self._layout.unpack(self._memory[at : at + self._layout.size])

    @staticmethod
    def slot_of(session: SessionEntry, flow: int) -> int:
        """Returns the slot of one of a session's flows.

        Raises:
            NotFound: the session has no such flow.
        """
        if not 0 <= flow < session.flow_count:
            raise NotFound(f"session {session.session_id} has no flow {flow}")
        return session.flow_base + flow

    def raise_rx_granted(self, slot: int, blocks: int) -> None:
        """Promises the peer more: the cumulative grant, in blocks; never lowers it."""
        self._raise(slot, "rx_granted", blocks)

    def raise_tx_granted(self, slot: int, blocks: int) -> None:
        """Takes in what the peer promised: cumulative, in blocks; never lowers it."""
        self._raise(slot, "tx_granted", blocks)

    def take_seq(self, slot: int) -> int:
        """The next number of a flow that the caller itself drives; recorded as used.

        It is in the map before a frame carries it: whoever is killed reads there how far it had
        come, and no nonce is ever used twice.

        Raises:
            ResourceExhausted: the session must be renewed first.
        """
        at = self._at(slot) + self._layout.offsetof("tx_seq")
        seq = int.from_bytes(self._memory[at : at + 4], _BYTE_ORDER) + 1
        if seq >= SEQ_MAX:
            raise ResourceExhausted("the session has used up its sequence numbers: renew it")
        self._memory[at : at + 4] = seq.to_bytes(4, _BYTE_ORDER)
        return seq

    def set_open(self, slot: int, is_open: bool) -> None:
        """Says whether an endpoint takes the flow's frames; endpoints say so themselves."""
        at = self._at(slot) + self._layout.offsetof("rx_open")
        self._memory[at : at + 2] = int(is_open).to_bytes(2, _BYTE_ORDER)

    def shut(self, slot: int) -> None:
        """Closes a flow: the gate refuses its frames as of an unknown flow."""
        # One aligned 16-bit field that only the control plane writes: a plain store will do.
        at = self._at(slot) + self._layout.offsetof("replay_len")
        self._memory[at : at + 2] = bytes(2)

    def close(self) -> None:
        """Unmaps the table. Idempotent."""
        self._memory.close()

    def _raise(self, slot: int, name: str, blocks: int) -> None:
        if not 0 <= blocks < _MAX_BLOCKS:
            raise InvalidArgument("blocks", "must be from 0 to 2**62")
        from assent._native import ffi, lib

        at = self._at(slot) + self._layout.offsetof(name)
        with ffi.from_buffer(self._memory) as base:
            lib.an_counter_raise(ffi.cast("uint64_t *", base + at), blocks)

    def _at(self, slot: int) -> int:
        if not 0 <= slot < self._count:
            raise InvalidArgument("slot", f"must be from 0 to {self._count - 1}")
        return slot * self._layout.size


class SessionTable:
    """sessions[(remote, local)], with the flow slots and replay windows that sessions own.

    An entry is provisioned (handshake frames can be told from junk), then installed (a session is
    live), then uninstalled or deleted. Every change is one map update: a frame meets the entry as
    it was or as it is, nothing between.

    A handshake frame that the gate admits in the microsecond between this table's read and its
    write is forgotten by `handshake_newest`, and the gate would admit its copy once more. The
    handshake itself refuses that copy.
    """

    def __init__(
        self,
        btf: Btf,
        maps: Mapping[str, Map],
        flows: FlowTable,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Takes stock of what the maps hold.

        Args:
            btf: of the gate's object.
            maps: by name: sessions, flows, replay.
            flows: the flow table on the same map.
            clock: monotonic, ns.
        """
        self._sessions = maps["sessions"]
        self._flow_map = maps["flows"]
        self._replay_map = maps["replay"]
        self._flows = flows
        self._session = btf.map_value("sessions")
        self._flow = btf.map_value("flows")
        self._chunk = btf.map_value("replay")
        flags = btf.enum("assent_session_flag")
        self._established = flags["ASSENT_SESSION_ESTABLISHED"]
        self._alternate = flags["ASSENT_SESSION_ALTERNATE"]
        self._covenanted = flags["ASSENT_SESSION_COVENANTED"]
        self._quarantined = flags["ASSENT_SESSION_QUARANTINED"]
        # struct assent_replay_chunk: 64-bit words, of which each holds 32 sequence numbers.
        words = self._chunk.size // 8
        self._chunk_numbers = words * 32
        slots = [(one.flow_base, one.flow_count) for one in self.list() if one.established]
        self._slots = RunAllocator("flow slots", self._flow_map.max_entries, GRACE_NS, clock, slots)
        self._chunks = RunAllocator(
            "replay chunks", self._replay_map.max_entries, GRACE_NS, clock, self._rings(slots)
        )

    def provision(
        self,
        remote: CellID,
        local: CellID,
        admission_key: bytes,
        covenanted: bool,
        quarantined: bool = False,
    ) -> None:
        """Makes a peer known, or changes its admission key and consent. A live session goes on.

        Args:
            remote: the cell that sends.
            local: the cell of this host.
            admission_key: 16 bytes, the key of the handshake frames' tags.
            covenanted: the local cell has agreed to hear from it.
            quarantined: and has suspended that.

        Raises:
            InvalidArgument: the key is not 16 bytes.
            ResourceExhausted: the table is full.
        """
        key = _pair(remote, local)
        admission = _pair_state(admission_key, remote, local)
        consent = self._consent(covenanted, quarantined)
        found = self._sessions.lookup(key)
        if found is None:
            self._sessions.update(
                key, self._session.pack(admission=admission, flags=consent), NOEXIST
            )
            return
        old = self._session.unpack(found)
        flags = self._without_consent(old.flags) | consent
        self._sessions.update(key, old.replace(admission=admission, flags=flags).pack(), EXIST)

    def set_consent(
        self, remote: CellID, local: CellID, covenanted: bool, quarantined: bool = False
    ) -> None:
        """Grants, suspends or withdraws consent; from the next frame on.

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        flags = self._without_consent(old.flags) | self._consent(covenanted, quarantined)
        self._sessions.update(_pair(remote, local), old.replace(flags=flags).pack(), EXIST)

    def install(self, spec: SessionSpec) -> SessionEntry:
        """Makes a session live. One that was live is replaced, its flows with it.

        A failure at any step leaves the table as it was.

        Raises:
            InvalidArgument: the specification makes no sense.
            NotFound: the pair is not provisioned.
            ResourceExhausted: no room for its flows or their replay windows.
        """
        flows = self._checked(spec)
        key = _pair(spec.remote, spec.local)
        current = _pair_state(spec.rx_header_key, spec.remote, spec.local)
        flow_count = max(flows) + 1
        # Packed before anything is allocated, so that a value that does not fit costs nothing.
        line0 = {
            "current": current,
            "flow_count": flow_count,
            "session_id": spec.session_id,
            "clock_offset": spec.clock_offset,
            "skew_limit": spec.skew_limit,
            "alternate": bytes(len(current)),
        }
        self._session.pack(**line0)
        self._record(spec.remote, spec.local)

        base = self._slots.allocate(flow_count)
        rings: _Runs = []
        try:
            lines = []
            for number in range(flow_count):
                values = {}
                if (flow := flows.get(number)) is not None:
                    count = self._ring_chunks(flow.window_len)
                    rings.append((self._chunks.allocate(count), count))
                    values = _flow_values(flow, spec.grant_shift, *rings[-1])
                lines.append(self._flow.pack(**values))
            self._clear_rings(rings)
            self._flow_map.update_batch(
                [_index(base + number) for number in range(flow_count)], lines
            )
            # Read again: as late as can be, for the sake of what the gate writes in the entry.
            old = self._record(spec.remote, spec.local)
            kept = old.flags & (self._covenanted | self._quarantined)
            fresh = old.replace(**line0, flow_base=base, flags=kept | self._established)
            self._sessions.update(key, fresh.pack(), EXIST)
        except BaseException:
            for ring in rings:
                self._chunks.release(*ring)
            self._slots.release(base, flow_count)
            raise
        self._retire(old)
        return self._entry(key, fresh)

    def rekey(
        self, remote: CellID, local: CellID, rx_header_key: bytes, alternate: bytes | None = None
    ) -> None:
        """Replaces a live session's header keys; its flows go on.

        Args:
            remote: the cell that sends.
            local: the cell of this host.
            rx_header_key: 16 bytes, of the current epoch.
            alternate: of the neighbouring epoch, in its grace window; None = there is none.

        Raises:
            InvalidArgument: a key is not 16 bytes.
            NotFound: the pair has no live session.
        """
        old = self._record(remote, local)
        if not old.flags & self._established:
            raise NotFound(f"{remote} has no live session with {local}")
        changes: dict[str, Any] = {
            "current": _pair_state(rx_header_key, remote, local),
            "alternate": bytes(32),
            "flags": old.flags & ~self._alternate,
        }
        if alternate is not None:
            changes["alternate"] = _pair_state(alternate, remote, local)
            changes["flags"] = old.flags | self._alternate
        self._sessions.update(_pair(remote, local), old.replace(**changes).pack(), EXIST)

    def uninstall(self, remote: CellID, local: CellID) -> None:
        """Ends a live session; the peer stays provisioned. Nothing happens where none is live.

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        bare = self._session.unpack(
            self._session.pack(
                flags=old.flags & (self._covenanted | self._quarantined),
                admission=old.admission,
                handshake_newest=old.handshake_newest,
                handshake_due=old.handshake_due,
                control_due=old.control_due,
            )
        )
        self._sessions.update(_pair(remote, local), bare.pack(), EXIST)
        self._retire(old)

    def delete(self, remote: CellID, local: CellID) -> None:
        """Forgets a peer, its live session included.

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        self._sessions.delete(_pair(remote, local))
        self._retire(old)

    def get(self, remote: CellID, local: CellID) -> SessionEntry:
        """Returns an entry.

        Raises:
            NotFound: the pair is not provisioned.
        """
        return self._entry(_pair(remote, local), self._record(remote, local))

    def list(self) -> list[SessionEntry]:
        """Returns all entries, in no order."""
        return [
            self._entry(key, self._session.unpack(value)) for key, value in self._sessions.items()
        ]

    def _checked(self, spec: SessionSpec) -> dict[int, FlowSpec]:
        flows = {flow.flow: flow for flow in spec.flows}
        if len(flows) != len(spec.flows):
            raise InvalidArgument("flows", "a flow is given twice")
        flows.setdefault(CONTROL_FLOW, FlowSpec(CONTROL_FLOW))
        if not 0 <= spec.grant_shift <= _MAX_GRANT_SHIFT:
            raise InvalidArgument("grant_shift", f"must be from 0 to {_MAX_GRANT_SHIFT}")
        for flow in flows.values():
            if not 0 <= flow.flow <= _MAX_FLOW:
                raise InvalidArgument("flow", f"must be from 0 to {_MAX_FLOW}")
            if (
                not 0
                <= min(flow.rx_window, flow.tx_window)
                <= max(flow.rx_window, flow.tx_window)
                <= _MAX_WINDOW
            ):
                raise InvalidArgument("window", "must be from 0 to 2**32 - 1 blocks")
            if not 1 <= flow.window_len <= self._max_replay:
                raise InvalidArgument("replay_len", f"must be from 1 to {self._max_replay}")
        return flows

    @cached_property
    def _max_replay(self) -> int:
        # ASSENT_REPLAY_MAX is a macro, and BTF has no macros: it is four chunks' worth.
        return 4 * self._chunk_numbers

    def _ring_chunks(self, replay_len: int) -> int:
        """Chunks of a ring that is long enough that no word inside the window has been reused."""
        needed = -(-(replay_len + 31) // self._chunk_numbers)
        return 1 << (needed - 1).bit_length()

    def _clear_rings(self, rings: _Runs) -> None:
        clear = bytes(self._chunk.size)
        # Numbers start at 1. Number 0 counts as seen: generation 0, bit 0 of the first word.
        first = self._chunk.pack(word=(1, *[0] * (self._chunk.size // 8 - 1)))
        keys, values = [], []
        for base, count in rings:
            keys += [_index(base + i) for i in range(count)]
            values += [first, *[clear] * (count - 1)]
        self._replay_map.update_batch(keys, values)

    def _retire(self, old: Record) -> None:
        if not old.flags & self._established:
            return
        for ring in self._rings([(old.flow_base, old.flow_count)]):
            self._chunks.retire(*ring)
        for slot in range(old.flow_base, old.flow_base + old.flow_count):
            self._flows.shut(slot)
        self._slots.retire(old.flow_base, old.flow_count)

    def _rings(self, slots: _Runs) -> Iterator[tuple[int, int]]:
        """Yields the runs of replay chunks that the flows in these runs of slots own."""
        for base, count in slots:
            for slot in range(base, base + count):
                flow = self._flows.read(slot)
                if flow.replay_len:
                    yield flow.replay_base, flow.replay_mask + 1

    def _consent(self, covenanted: bool, quarantined: bool) -> int:
        flags = self._covenanted if covenanted else 0
        return flags | (self._quarantined if quarantined else 0)

    def _without_consent(self, flags: int) -> int:
        return flags & ~(self._covenanted | self._quarantined)

    def _record(self, remote: CellID, local: CellID) -> Record:
        found = self._sessions.lookup(_pair(remote, local))
        if found is None:
            raise NotFound(f"{local} does not know {remote}: provision the pair first")
        return self._session.unpack(found)

    def _entry(self, key: bytes, record: Record) -> SessionEntry:
        half = len(key) // 2
        return SessionEntry(
            remote=CellID(key[:half]),
            local=CellID(key[half:]),
            established=bool(record.flags & self._established),
            alternate=bool(record.flags & self._alternate),
            covenanted=bool(record.flags & self._covenanted),
            quarantined=bool(record.flags & self._quarantined),
            session_id=record.session_id,
            clock_offset=record.clock_offset,
            skew_limit=record.skew_limit,
            flow_base=record.flow_base,
            flow_count=record.flow_count,
            handshake_newest=record.handshake_newest,
        )


class CounterTable:
    """counters[reason], one per CPU."""

    def __init__(self, table: Map, layout: Layout, reasons: Reasons) -> None:
        self._table = table
        self._layout = layout
        self._reasons = reasons

    def read(self) -> dict[str, CounterTotals]:
        """Returns every verdict's totals, by name."""
        totals = {}
        for key, values in self._table.items_per_cpu():
            cpus = [self._layout.unpack(value) for value in values]
            totals[self._reasons.name(_number(key))] = CounterTotals(
                frames=sum(cpu.frames for cpu in cpus),
                bytes=sum(cpu.bytes for cpu in cpus),
                events=sum(cpu.events for cpu in cpus),
            )
        return totals


class EventReader:
    """Reads refused frames off the event ring. One reader a gate: what it takes, no other sees."""

    def __init__(self, table: Map, layout: Layout, reasons: Reasons) -> None:
        self._ring = RingBuffer(table)
        self._layout = layout
        self._reasons = reasons

    @property
    def fd(self) -> int:
        """Becomes readable when there are events: for asyncio's add_reader."""
        return self._ring.fd

    def read(self, limit: int = 4096) -> list[Event]:
        """Takes the events that are there, at most `limit`, without waiting."""
        return [self._decode(raw) for raw in self._ring.consume(limit)]

    def close(self) -> None:
        """Stops reading. Idempotent."""
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decode(self, raw: bytes) -> Event:
        # A ring's records are padded to 8 bytes.
        record = self._layout.unpack(raw[: self._layout.size])
        return Event(
            time=record.time,
            reason=self._reasons.name(record.reason),
            ifindex=record.ifindex,
            session_id=record.session_id,
            frame_len=record.frame_len,
            head=record.head,
        )


class Tables:
    """All tables of one gate, on maps that someone else owns."""

    def __init__(
        self, btf: Btf, maps: Mapping[str, Map], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._btf = btf
        self._maps = maps
        self._clock = clock
        self.reasons = Reasons.from_btf(btf)
        self.config = ConfigTable(maps["config"], btf.map_value("config"))
        self.locals = LocalTable(maps["locals"], btf.map_value("locals"))
        self.counters = CounterTable(maps["counters"], btf.map_value("counters"), self.reasons)

    @cached_property
    def flows(self) -> FlowTable:
        """The flow table; mapped at first use."""
        return FlowTable(self._maps["flows"], self._btf.map_value("flows"))

    @cached_property
    def sessions(self) -> SessionTable:
        """The session table; takes stock of the maps at first use."""
        return SessionTable(self._btf, self._maps, self.flows, self._clock)

    def events(self) -> EventReader:
        """Returns a reader of refused frames; the caller closes it."""
        layout = self._btf.struct("assent_event")
        return EventReader(self._maps["events"], layout, self.reasons)

    def close(self) -> None:
        """Unmaps what is mapped. Idempotent."""
        if "flows" in self.__dict__:
            self.flows.close()


def _present(value: bytes | None) -> bytes:
    if value is None:
        raise NotFound("an array map has no first entry: it is none of ours")
    return value


def _pair(remote: CellID, local: CellID) -> bytes:
    return bytes(remote) + bytes(local)


def _index(number: int) -> bytes:
    return number.to_bytes(4, _BYTE_ORDER)


def _number(key: bytes) -> int:
    return int.from_bytes(key, _BYTE_ORDER)


def _pair_state(key: bytes, remote: CellID, local: CellID) -> bytes:
    """Returns struct assent_sip: the hash's state after the key, then src and dst."""
    if len(key) != KEY_LEN:
        raise InvalidArgument("key", f"takes {KEY_LEN} bytes, these are {len(key)}")
    state = SipState(key)
    pair = _pair(remote, local)
    for at in range(0, len(pair), 8):
        state.absorb(pair[at : at + 8])
    return b"".join(word.to_bytes(8, _BYTE_ORDER) for word in state.words)


def _flow_values(flow: FlowSpec, grant_shift: int, base: int, chunks: int) -> dict[str, int]:
    return {
        "rx_granted": flow.rx_window,
        "tx_granted": flow.tx_window,
        "rx_window": flow.rx_window,
        "tx_window": flow.tx_window,
        "replay_base": base,
        "replay_len": flow.window_len,
        "replay_mask": chunks - 1,
        "grant_shift": grant_shift,
    }
