# SPDX-License-Identifier: Apache-2.0
"""A gate of one's own, one peer in session with it, and a way to ask what a frame did."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assent.dataplane import bpffs
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.libbpf import TestRun
from assent.dataplane.tables import SEC, FlowSpec, SessionEntry, SessionSpec, Tally
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, padded_len, signed_bytes
from assent.wire.siphash import siphash24

from .recycled import private_gate

XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4
State = dict[str, dict[bytes, object]]


def tagged(frame: bytes, *ethertypes: int) -> bytes:
    """The frame under VLAN tags, outermost first."""
    tags = b"".join(kind.to_bytes(2, "big") + (7).to_bytes(2, "big") for kind in ethertypes)
    return frame[:12] + tags + frame[12:]


class Rig:
    """A private gate. `remote` is in session with `local`; `guest` is provisioned only.

    Flow 1 has credit, flow 2 has none, there is no flow 3, flow 4 is like flow 1, flow 5 has credit
    and no endpoint; there is no flow 6.
    """

    header_key = bytes(range(16))
    admission_key = bytes(range(16, 32))
    local = CellID(bytes.fromhex("10" * 16))
    remote = CellID(bytes.fromhex("20" * 16))
    guest = CellID(bytes.fromhex("30" * 16))
    stranger = CellID(bytes.fromhex("40" * 16))
    mtu_payload = 1408
    rx_window = 1000
    tx_window = 50
    # The peer's clock is not ours: 1.7e18 is TAI's order of magnitude.
    clock_offset = 1_700_000_000 * SEC
    skew_limit = 30 * SEC

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.tables = gate.tables
        self.listen()
        self.tables.locals.put(self.local, 0)
        self.tables.sessions.provision(self.remote, self.local, self.admission_key, covenanted=True)
        self.tables.sessions.provision(self.guest, self.local, self.admission_key, covenanted=True)
        self.session = self.install()

    def listen(self, reasons: Collection[str] | None = None, *cells: CellID) -> None:
        """Has the gate tell of refused frames: of some reasons, or all; of some cells, or all."""
        known = self.tables.reasons
        self.tables.config.listen(known.names if reasons is None else reasons, cells, known)

    def spec(self, **changes: object) -> SessionSpec:
        """The usual session, or one that differs in some fields."""
        usual = SessionSpec(
            self.remote,
            self.local,
            session_id=7,
            rx_header_key=self.header_key,
            clock_offset=self.clock_offset,
            skew_limit=self.skew_limit,
            flows=(
                FlowSpec(1, self.rx_window, self.tx_window),
                FlowSpec(2),
                FlowSpec(4, self.rx_window),
                FlowSpec(5, self.rx_window),
            ),
        )
        return replace(usual, **changes)  # type: ignore[arg-type]

    def install(self, **changes: object) -> SessionEntry:
        self.session = self.tables.sessions.install(self.spec(**changes))
        for flow in (1, 2, 4):
            if flow < self.session.flow_count:
                self.tables.flows.set_open(self.tables.flows.slot_of(self.session, flow), True)
        return self.session

    @property
    def peer_time(self) -> int:
        """What the peer's clock shows, ns."""
        return time.monotonic_ns() + self.clock_offset

    def header(self, **fields: object) -> Header:
        """A data frame's header on flow 1, or one that differs in some fields."""
        usual = Header(
            self.remote,
            self.local,
            seq=1,
            flags=Flags.DATA | Flags.BLOCK,
            flow=1,
            grant=self.tx_window,
            timestamp=self.peer_time,
        )
        return replace(usual, **fields)  # type: ignore[arg-type]

    def frame(
        self,
        *,
        key: bytes | None = None,
        flip: int = 0,
        length: int | None = None,
        **fields: object,
    ) -> bytes:
        """An Ethernet frame.

        Args:
            key: of the tag.
            flip: bits of the tag that are turned.
            length: bytes after the Ethernet header, where they are not what the header says.
            **fields: of the header.
        """
        header = self.header(**fields)
        tag = siphash24(key or self.header_key, signed_bytes(header)) ^ flip
        body = replace(header, tag=tag).encode() + bytes(padded_len(header.payload_len))
        if length is not None:
            body = body.ljust(length, b"\0")[:length]
        return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body

    def bare(self, seq: int = 1, payload: bytes = b"", **fields: object) -> bytes:
        """A 40-byte UTCP frame, as Ethernet pads it."""
        usual = {"seq": seq, "payload_len": len(payload), "flags": Flags.DATA}
        header = self.header(**{**usual, **fields})
        body = (header.encode()[:40] + payload).ljust(46, b"\0")
        return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body

    def handshake(self, kind: Flags = Flags.SYN, **fields: object) -> bytes:
        """A handshake frame of `guest`."""
        usual = {"src": self.guest, "flow": 0, "key": self.admission_key, "grant": 0}
        return self.frame(**{**usual, "flags": kind | Flags.BLOCK, **fields})  # type: ignore[arg-type]

    def control(self, **fields: object) -> bytes:
        """A flow-0 frame within the session."""
        return self.frame(**{"flow": 0, **fields})  # type: ignore[arg-type]

    def flow(self, number: int = 1) -> object:
        return self.tables.flows.read(self.tables.flows.slot_of(self.session, number))

    def state(self) -> State:
        """Everything that the gate keeps, but for the ring of events."""
        state: State = {
            name: dict(self.gate.map(name).items())
            for name in ("locals", "bloom", "sessions", "flows", "replay", "config", "interfaces")
        }
        state["counters"] = dict(self.gate.map("counters").items_per_cpu())
        return state

    def tallies(self) -> dict[int, Tally]:
        """What pairs have counted, by slot."""
        return {slot: self.tables.tallies.read(slot) for slot in range(8)}

    def run(self, frame: bytes) -> tuple[str | None, TestRun]:
        """Returns the verdict that was counted (None = no counter moved), and what came of it."""
        before = self.tables.counters.read()
        run = self.gate.program.test_run(frame)
        moved = {
            name: (totals.frames - before[name].frames, totals.bytes - before[name].bytes)
            for name, totals in self.tables.counters.read().items()
            if totals.frames != before[name].frames
        }
        assert len(moved) <= 1, "one frame, one verdict"
        assert run.data == frame, "the gate changes no frame"
        for name, counted in moved.items():
            assert counted == (1, len(frame))
            return name, run
        return None, run

    def admit(self, frame: bytes, retval: int = XDP_PASS) -> None:
        verdict, run = self.run(frame)
        assert (verdict, run.retval) == ("admitted", retval)

    def refuse(self, frame: bytes, reason: str) -> None:
        """Asserts the reason, and that nothing but its counter and its pair's tally changed."""
        before, tallies = self.state(), self.tallies()
        verdict, run = self.run(frame)
        after = self.state()
        for slot, tally in self.tallies().items():
            if tally != tallies[slot]:
                more = tallies[slot].frames.get(reason, 0) + 1
                assert tally == replace(tallies[slot], frames=tallies[slot].frames | {reason: more})
        assert (verdict, run.retval) == (reason, XDP_DROP)
        number = self.tables.reasons.number(reason).to_bytes(4, "little")
        assert before["counters"].pop(number) != after["counters"].pop(number)
        assert before == after

    def ignore(self, frame: bytes) -> None:
        """Asserts that a frame passes, and that nothing at all changed."""
        before = self.state()
        verdict, run = self.run(frame)
        assert (verdict, run.retval) == (None, XDP_PASS)
        assert before == self.state()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with private_gate() as gate:
        yield Rig(gate)


@pytest.fixture
def pin_root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory in the BPF file system for this test alone."""
    bpffs.ensure(PIN_ROOT)
    root = PIN_ROOT.parent / f"assent-test-{os.getpid()}-{abs(hash(request.node.nodeid)):x}"
    yield root
    if root.is_dir():
        for path in list(root.iterdir()):
            if not path.name.startswith("_"):
                Gate.remove(path.name, root)
    assert not root.exists(), f"left over: {list(root.iterdir())}"
