# SPDX-License-Identifier: Apache-2.0
"""How long the gate takes to decide, beside xdp-filter's simplest rule set.

The kernel runs the programs on one frame over and over (BPF_PROG_TEST_RUN). The kernel's own
figure is a whole number of nanoseconds and includes the time in which others had the CPU; taken
here is the calling thread's CPU time over the system call, divided by the repeats: it has a
fraction, and leaves others out. The system call itself adds a few microseconds to a million runs.

All cases run once a round, peer included, and a round is repeated; a ratio is the median of the
rounds' own ratios, so that a change of the CPU's clock between rounds cancels.

Each frame's verdict is read off the gate's counters, before and after: a measurement of the wrong
verdict fails.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from assent.bench import bloom
from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Object, Program
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import DEFAULT
from assent.dataplane.reasons import ADMITTED
from assent.dataplane.tables import (
    SEC,
    FlowSpec,
    GateConfig,
    SessionEntry,
    SessionSpec,
    Tables,
)
from assent.errors import FailedPrecondition, NotFound
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Frame, Header, signed_bytes
from assent.wire.siphash import siphash24

REPEAT: Final = 1_000_000
RUNS: Final = 5
PAYLOAD_LEN: Final = 1408
# Entries beside the measured one, so that lookups are what they are on a host at work.
OTHERS: Final = 1000

XDP_DROP, XDP_PASS = 1, 2  # uapi/linux/bpf.h, enum xdp_action
_PEER = "xdp_filter"
_PEER_OBJECT = "xdpfilt_alw_eth.o"
_PEER_FOLDERS = ("/usr/lib/*/bpf", "/usr/lib/bpf", "/usr/lib64/bpf")
_KEY = bytes(range(16))
_SEQ = 100
_CREDIT_FLOW, _EMPTY_FLOW = 1, 2
_ENOUGH = (1 << 62) - 1
_IPV4 = EthernetHeader(b"\x02" * 6, b"\x04" * 6, 0x0800).encode() + bytes(50)


@dataclass(frozen=True, slots=True)
class _Case:
    """A program, a frame, and what must come of it; `reason` None = no verdict is counted."""

    name: str
    program: Program
    frame: bytes
    retval: int
    reason: str | None


def _cell(kind: int, number: int) -> CellID:
    return CellID(kind.to_bytes(8, "big") + number.to_bytes(8, "big"))


_REMOTE, _LOCAL = _cell(1, 0), _cell(2, 0)


def _on_wire(header: Header, flip: int = 0) -> bytes:
    """An Ethernet frame with the right tag, or with some of its bits flipped."""
    header = replace(header, tag=siphash24(_KEY, signed_bytes(header)) ^ flip)
    frame = Frame(header, bytes(header.payload_len)).encode()
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + frame


def _fill(tables: Tables) -> SessionEntry:
    """Makes the tables those of a host with many peers; returns the measured session."""
    now = time.monotonic_ns()
    tables.config.write(GateConfig())
    tables.locals.put(_LOCAL, 0)
    for number in range(1, OTHERS + 1):
        tables.sessions.provision(_cell(1, number), _LOCAL, _KEY, covenanted=True)
    tables.sessions.provision(_REMOTE, _LOCAL, _KEY, covenanted=True)
    session = tables.sessions.install(
        SessionSpec(
            _REMOTE,
            _LOCAL,
            session_id=1,
            rx_header_key=_KEY,
            clock_offset=-now,  # the frames are stamped 0; the limit outlasts the measurement
            skew_limit=3600 * SEC,
            flows=(FlowSpec(_CREDIT_FLOW), FlowSpec(_EMPTY_FLOW)),
        )
    )
    for flow in (_CREDIT_FLOW, _EMPTY_FLOW):
        tables.flows.set_open(tables.flows.slot_of(session, flow), True, to_ring=True)
    tables.flows.raise_rx_granted(tables.flows.slot_of(session, _CREDIT_FLOW), _ENOUGH)
    return session


def _aim(loaded: Object, btf: Btf, tables: Tables, session: SessionEntry, seq: int) -> None:
    """Tells the bench program which replay word to take back before each frame."""
    slot = tables.flows.slot_of(session, _CREDIT_FLOW)
    words = btf.map_value("replay").size // 8
    word = seq // 32
    target = btf.map_value("bench_targets").pack(
        slot=slot,
        chunk=tables.flows.read(slot).replay_base + word // words,
        word=word % words,
        highest=seq - 1,
    )
    with loaded.map("bench_targets") as table:
        table.update(bytes(4), target)


def _cases(gate: Program, admit: Program, peer: Program) -> list[_Case]:
    data = Header(_REMOTE, _LOCAL, _SEQ, Flags.DATA | Flags.BLOCK, PAYLOAD_LEN, flow=_CREDIT_FLOW)
    stranger = _cell(3, 0)
    to_stranger, from_stranger = replace(data, dst=stranger), replace(data, src=stranger)
    ours = [
        ("admit", admit, _on_wire(data), XDP_PASS, ADMITTED),
        ("unknown_dst", gate, _on_wire(to_stranger), XDP_DROP, "unknown_destination"),
        ("unknown_src", gate, _on_wire(from_stranger), XDP_DROP, "unknown_source"),
        ("bad_tag", gate, _on_wire(data, flip=1), XDP_DROP, "bad_tag"),
        ("replay", gate, _on_wire(data), XDP_DROP, "replay"),
        ("no_credit", gate, _on_wire(replace(data, flow=_EMPTY_FLOW)), XDP_DROP, "no_credit"),
        ("pass_ipv4", gate, _IPV4, XDP_PASS, None),
    ]  # fmt: skip
    return [*(_Case(*case) for case in ours), _Case(_PEER, peer, _IPV4, XDP_PASS, None)]


def _time(case: _Case, tables: Tables, repeat: int) -> float:
    """Returns ns a run.

    Raises:
        FailedPrecondition: the verdict is not the one that was to be measured.
    """
    before = tables.counters.read()
    run = case.program.test_run(case.frame, repeat)
    after = tables.counters.read()
    counted = {
        name: totals.frames - before[name].frames
        for name, totals in after.items()
        if totals.frames != before[name].frames
    }
    expected = {case.reason: repeat} if case.reason else {}
    if counted != expected or run.retval != case.retval:
        raise FailedPrecondition(
            f"the bench measures the wrong thing: {case.name} should count {expected} and return "
            f"{case.retval}, it counts {counted} and returns {run.retval}"
        )
    return run.cpu_ns / repeat


@contextlib.contextmanager
def _peer() -> Iterator[Program]:
    found = [
        path for folder in _PEER_FOLDERS for path in Path("/").glob(f"{folder[1:]}/{_PEER_OBJECT}")
    ]
    if not found:
        raise NotFound(
            f"{_PEER_OBJECT} is nowhere under /usr/lib: install Debian's package xdp-tools"
        )
    with Object.open(found[0]) as loaded:
        loaded.load()
        with loaded.program(loaded.program_names[0]) as program:
            yield program


def measure(repeat: int = REPEAT, runs: int = RUNS) -> dict[str, Any]:
    """Measures every verdict.

    Args:
        repeat: frames a measurement.
        runs: measurements a case; their median is what counts.

    Returns:
        {"xdp": {"admit_ns": ..., ...}, "peer": {"xdp_filter_ns": ...}, "ratio": {"admit": ...,
        ...}, "bloom": {"check_ns": ...}, "kernel": its release, "repeat": ..., "runs": ...}. A
        ratio above 1 = slower than the peer.

    Raises:
        NotFound: xdp-filter's objects are not installed.
        FailedPrecondition: BPF is not permitted, or a frame met another verdict than planned.
    """
    path = packaged("bench")
    btf = Btf.from_object(path)
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(_peer())
        loaded = stack.enter_context(Object.open(path))
        capacities = DEFAULT.capacities() | {"locals": 2 * OTHERS, "sessions": 4 * OTHERS}
        for name, count in capacities.items():
            loaded.set_max_entries(name, count)
        loaded.load()
        maps = {name: stack.enter_context(loaded.map(name)) for name in loaded.map_names}
        tables = Tables(btf, maps)
        stack.callback(tables.close)
        gate = stack.enter_context(loaded.program("gate"))
        admit = stack.enter_context(loaded.program("bench_admit"))
        _aim(loaded, btf, tables, _fill(tables), _SEQ)
        cases = _cases(gate, admit, peer)
        for case in cases:  # verdicts first, and warm caches
            _time(case, tables, 1)
        rounds = [{case.name: _time(case, tables, repeat) for case in cases} for _ in range(runs)]
    figures = {name: median(one[name] for one in rounds) for name in rounds[0]}
    ratios = {
        name: median(one[name] / one[_PEER] for one in rounds) for name in figures if name != _PEER
    }
    peer_ns = figures.pop(_PEER)
    return {
        "xdp": {f"{name}_ns": round(value, 2) for name, value in figures.items()},
        "peer": {f"{_PEER}_ns": round(peer_ns, 2)},
        "ratio": {name: round(value, 3) for name, value in ratios.items()},
        "bloom": {"check_ns": round(bloom.cost(repeat, runs, OTHERS), 2)},
        "kernel": os.uname().release,
        "repeat": repeat,
        "runs": runs,
    }
