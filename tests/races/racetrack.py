# SPDX-License-Identifier: Apache-2.0
"""Several CPUs that put frames to one gate at the same time. bpf/race.bpf.c says what each does."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Map, Object, Program
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import (
    SEC,
    FlowSpec,
    GateConfig,
    SessionEntry,
    SessionSpec,
    Tables,
    TermLimits,
)
from assent.dataplane.tables.units import index, pair_state
from assent.errors import NotFound
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, block_cost, padded_len

SPAN = 64  # RACE_SPAN: a macro, and BTF has no macros
LANES_MAX = 4
"""So many times `lead` and SPAN are still less than the shortest replay window."""
CLOCK_MONOTONIC_COARSE = 6
"""The gate's clock (linux/time.h)."""
UNLIMITED = GateConfig(
    handshake_interval=0, handshake_burst=SEC, control_interval=0, control_burst=SEC
)
_CHUNK = 20_000
_BARE_LEN, _LEAST_PAYLOAD = 40, 46


def cpus() -> list[int]:
    """The CPUs that race."""
    return sorted(os.sched_getaffinity(0))[:LANES_MAX]


@dataclass(frozen=True)
class Entry:
    """What kind of frames race.

    Attributes:
        kind: member of enum race_kind, in lower case, without its prefix.
        frame: from the Ethernet header; the program writes what differs.
        state: the hash's state after key and pair, for the tags.
        cost: blocks of credit that one costs.
        flow: whose window and credit are watched.
    """

    kind: str
    frame: bytes
    state: bytes
    cost: int
    flow: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a race ended.

    Attributes:
        most: times that the most often admitted item was admitted.
        missing: items that were never admitted.
        items: admissions of all items.
        runs: frames that were put to the gate, as those said who put them.
        ran: the same, as the lanes counted.
        admitted: as the lanes counted.
        overspent: times that somebody saw more credit spent than granted.
        outrun: frames that looked new until another CPU was faster, or that found no room.
        verdicts: by reason, as the gate counted; those that never were are left out.
        elapsed: ns of the gate's clock, at the most.
    """

    most: int
    missing: int
    items: int
    runs: int
    ran: int
    admitted: int
    overspent: int
    outrun: int
    verdicts: dict[str, int]
    elapsed: int

    def check_books(self) -> None:
        """Asserts what is true of every race: nothing was lost, everything was counted once."""
        assert self.ran == self.runs, "the program gave up"
        assert sum(self.verdicts.values()) == self.runs
        assert self.items == self.admitted == self.verdicts.get("admitted", 0)
        assert self.overspent == 0

    def check_once(self) -> None:
        """The same, and that no item was admitted twice."""
        self.check_books()
        assert self.most == 1


class Racetrack:
    """A gate of one's own, with one peer, and lanes for some CPUs.

    The peer's session has flow 1 with `window` blocks, and no other data flow.
    """

    key = bytes(range(16))
    admission_key = bytes(range(16, 32))
    local = CellID(bytes.fromhex("10" * 16))
    remote = CellID(bytes.fromhex("20" * 16))
    payload_len = 100

    def __init__(self, items: int, loaded: Object, btf: Btf, maps: dict[str, Map]) -> None:
        self.items = items
        self.program: Program = loaded.program("race")
        self.tables = Tables(btf, maps)
        self.session: SessionEntry
        self._btf = btf
        self._maps = maps
        self._admissions = mmap.mmap(
            maps["race_admissions"].fd,
            -(-items * 8 // mmap.PAGESIZE) * mmap.PAGESIZE,
            mmap.MAP_SHARED,
        )
        self.tables.locals.put(self.local, 0)

    @classmethod
    @contextlib.contextmanager
    def open(cls, items: int) -> Iterator[Racetrack]:
        """Loads the program; a race goes over so many items, which are whole spans."""
        assert items % SPAN == 0
        path = packaged("race")
        with contextlib.ExitStack() as stack:
            loaded = stack.enter_context(Object.open(path))
            for name, count in CHAPTER.capacities().items():
                loaded.set_max_entries(name, count)
            loaded.set_max_entries("race_admissions", items)
            loaded.load()
            maps = {name: stack.enter_context(loaded.map(name)) for name in loaded.map_names}
            track = cls(items, loaded, Btf.from_object(path), maps)
            stack.enter_context(track.program)
            stack.callback(track.tables.close)
            stack.callback(track._admissions.close)
            yield track

    def admit_peer(
        self,
        window: int = 0,
        config: GateConfig = UNLIMITED,
        *,
        observed: bool = False,
        bare: bool = False,
        limits: TermLimits | None = None,
        keep_admissions: bool = False,
    ) -> None:
        """Sets the rates, and puts a fresh session in place: whatever was seen is forgotten."""
        self.tables.config.write(config)
        with contextlib.suppress(NotFound):
            self.tables.sessions.delete(self.remote, self.local)
        self.tables.sessions.provision(
            self.remote,
            self.local,
            self.admission_key,
            True,
            observed=observed,
            bare=bare,
            limits=limits,
        )
        self.session = self.tables.sessions.install(
            SessionSpec(
                self.remote,
                self.local,
                session_id=1,
                rx_header_key=self.key,
                clock_offset=self._clock_offset,
                skew_limit=0 if observed else 30 * SEC,
                flows=(FlowSpec(1, window),),
            )
        )
        self.tables.flows.set_open(self.slot, True)
        if not keep_admissions:
            self._admissions[:] = bytes(len(self._admissions))

    @property
    def slot(self) -> int:
        """Of flow 1."""
        return self.tables.flows.slot_of(self.session, 1)

    @property
    def flow(self) -> Record:
        """Flow 1's accounting."""
        return self.tables.flows.read(self.slot)

    # The frames

    def data(self, *, flow: int = 1, lamp: bool = False) -> Entry:
        """Data of a flow, from its credit or under LAMP."""
        flags = Flags.DATA | Flags.BLOCK | (Flags.LAMP if lamp else Flags(0))
        header = self._header(flags, payload_len=self.payload_len, flow=flow)
        return self._entry("seq", header, self.key)

    def control(self) -> Entry:
        """Frames of flow 0 within the session."""
        entry = self._entry("seq", self._header(Flags.DATA | Flags.BLOCK), self.key)
        return replace(entry, flow=0)

    def handshake(self) -> Entry:
        """SYNs, each with a timestamp of its own."""
        return self._entry("time", self._header(Flags.SYN | Flags.BLOCK), self.admission_key)

    def unopened(self) -> Entry:
        """Data of a flow that is not open: an observed session admits it if timestamps rise."""
        return replace(self.data(flow=3), kind="time")

    def bare(self) -> Entry:
        """40-byte frames."""
        raw = self._header(Flags.DATA).encode()[:_BARE_LEN].ljust(_LEAST_PAYLOAD, b"\0")
        return Entry("bare", _ethernet(raw), bytes(32), 0)

    def _header(self, flags: Flags, **fields: Any) -> Header:
        return Header(self.remote, self.local, 0, flags, **fields)

    def _entry(self, kind: str, header: Header, key: bytes) -> Entry:
        raw = header.encode() + bytes(padded_len(header.payload_len))
        state = pair_state(key, self.remote, self.local)
        return Entry(kind, _ethernet(raw), state, block_cost(header.payload_len))

    # The race

    def race(self, entry: Entry, *, lead: int = 2, seed: int = 1) -> Outcome:
        """All CPUs go through all items; returns when each has sent every one of them.

        Args:
            entry: the frames.
            lead: how many items a CPU may be ahead of the next one.
            seed: of the lanes' order of frames and repetitions.
        """
        racing = cpus()
        before = self.tables.counters.read()
        self._set_up(entry, racing, lead, seed)
        started = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
        given_up = threading.Event()
        with ThreadPoolExecutor(len(racing)) as pool:
            lanes = [pool.submit(self._drive, cpu, entry.frame, given_up) for cpu in racing]
            runs = sum(lane.result() for lane in lanes)
        elapsed = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) - started
        verdicts = {
            name: totals.frames - before[name].frames
            for name, totals in self.tables.counters.read().items()
            if totals.frames != before[name].frames
        }
        lines = [self._lane(cpu) for cpu in racing]
        with memoryview(self._admissions) as raw, raw.cast("Q") as words:
            times = words[: self.items].tolist()
        return Outcome(
            max(times),
            times.count(0),
            sum(times),
            runs,
            sum(lane.runs for lane in lines),
            sum(lane.admitted for lane in lines),
            sum(lane.overspent for lane in lines),
            sum(lane.outrun for lane in lines),
            verdicts,
            elapsed,
        )

    def _set_up(self, entry: Entry, racing: list[int], lead: int, seed: int) -> None:
        plan = self._btf.map_value("race_plans").pack(
            state=entry.state,
            clock_offset=self._clock_offset,
            kind=self._btf.enum("race_kind")[f"RACE_{entry.kind.upper()}"],
            items=self.items,
            lead=lead,
            slot=self.tables.flows.slot_of(self.session, entry.flow),
        )
        self._maps["race_plans"].update(bytes(4), plan)
        lane = self._btf.map_value("race_lanes")
        for number, cpu in enumerate(racing):
            following = racing[(number + 1) % len(racing)]
            value = lane.pack(random=seed * 64 + cpu, stride=4 * number + 3, next=following)
            self._maps["race_lanes"].update(index(cpu), value)

    def _drive(self, cpu: int, frame: bytes, given_up: threading.Event) -> int:
        """Runs the program on one CPU until that lane is through; returns how many frames it put.

        The system call is made without Python's lock, so that the lanes do run at once.
        """
        os.sched_setaffinity(0, {cpu})  # of this thread
        runs = 0
        try:
            while self._lane(cpu).cursor < self.items and not given_up.is_set():
                self.program.test_run(frame, _CHUNK)
                runs += _CHUNK
        except BaseException:
            given_up.set()  # the other lanes wait for this one
            raise
        return runs

    def _lane(self, cpu: int) -> Record:
        value = self._maps["race_lanes"].lookup(index(cpu))
        assert value is not None
        return self._btf.map_value("race_lanes").unpack(value)

    def rewrite_flow(self, **values: int) -> None:
        """Overwrites members of flow 1's accounting, as nobody ever should."""
        self._maps["flows"].update(index(self.slot), self.flow.replace(**values).pack())

    # The peer's clock is not ours: 1.7e18 is TAI's order of magnitude.
    _clock_offset = 1_700_000_000 * SEC


def _ethernet(body: bytes) -> bytes:
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body
