# SPDX-License-Identifier: Apache-2.0
"""Two gates, of which one sends and the other one judges what it let go.

raw sender --> [egress] sender's gate        receiver's gate [ingress] -->
                 local  = here                  local  = there
                 remote = there                 remote = here
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import TestRun
from assent.dataplane.objects import packaged
from assent.dataplane.tables import FlowSpec, SessionEntry, SessionSpec
from assent.dataplane.tables.counters import CounterTotals
from assent.wire.cellid import CellID
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, Flags, Header, padded_len, signed_bytes
from assent.wire.siphash import siphash24

XDP_DROP, XDP_PASS = 1, 2
TC_UNSPEC, TC_OK, TC_SHOT = -1, 0, 2
VLAN, S_VLAN = b"\x81\x00\x00\x07", b"\x88\xa8\x00\x07"
HERE = CellID(bytes.fromhex("10" * 16))
THERE = CellID(bytes.fromhex("20" * 16))
GUEST = CellID(bytes.fromhex("30" * 16))
STRANGER = CellID(bytes.fromhex("40" * 16))
KEY, BACK_KEY = bytes(range(16)), bytes(range(16, 32))
ADMISSION, BACK_ADMISSION = bytes(range(32, 48)), bytes(range(48, 64))
CREDIT = 50
"""Blocks that `here` may send on flow 1."""
WINDOW = 1000
"""Blocks that `there` may send on flow 1."""
Books = dict[str, dict[bytes, object]]

_MACS = b"\x02" * 6 + b"\x04" * 6


class TwoGates:
    """`here` is in session with `there`; `guest` is provisioned only, and has no departing key.

    Flow 1 has credit, flow 2 has none; there is no flow 3.
    """

    def __init__(self, sender: Gate, receiver: Gate) -> None:
        self.sender = sender
        self.receiver = receiver
        for gate, local in ((sender, HERE), (receiver, THERE)):
            tables = gate.tables
            tables.locals.put(local, 0)
            tables.config.listen(tables.reasons.names, (), tables.reasons)
        self.provision()
        sender.tables.sessions.provision(GUEST, HERE, BACK_ADMISSION, covenanted=True)
        receiver.tables.sessions.provision(HERE, THERE, ADMISSION, covenanted=True)
        self.session = self.install()
        offset = time.clock_gettime_ns(time.CLOCK_TAI) - time.monotonic_ns()
        flows = (FlowSpec(1, CREDIT, WINDOW), FlowSpec(2))
        spec = SessionSpec(HERE, THERE, 9, KEY, BACK_KEY, clock_offset=offset, flows=flows)
        self.receiving = receiver.tables.sessions.install(spec)
        receiver.tables.flows.set_open(self.receiving.flow_base + 1, True)

    def provision(self, *, covenanted: bool = True, **policy: Any) -> None:
        """Sets what `here` agreed to hear from `there`."""
        self.sender.tables.sessions.provision(
            THERE, HERE, BACK_ADMISSION, covenanted, departing_key=ADMISSION, **policy
        )

    def install(self, **changes: object) -> SessionEntry:
        """Makes the sender's session live: the usual one, or one that differs in some fields."""
        flows = (FlowSpec(1, WINDOW, CREDIT), FlowSpec(2))
        usual = SessionSpec(THERE, HERE, 7, BACK_KEY, KEY, flows=flows)
        self.session = self.sender.tables.sessions.install(replace(usual, **changes))  # type: ignore[arg-type]
        return self.session

    def frame(
        self,
        *,
        key: bytes | None = None,
        tags: bytes = b"",
        length: int | None = None,
        **fields: object,
    ) -> bytes:
        """A frame as a raw sender makes it, without a tag; or tagged under `key`.

        Args:
            key: of the tag.
            tags: VLAN tags.
            length: bytes after the Ethernet header, where they are not what the header says.
            **fields: of the header.
        """
        usual = Header(HERE, THERE, seq=1, flags=Flags.DATA | Flags.BLOCK, flow=1, payload_len=100)
        header = replace(usual, **fields)  # type: ignore[arg-type]
        if key is not None:
            header = replace(header, timestamp=time.clock_gettime_ns(time.CLOCK_TAI))
            header = replace(header, tag=siphash24(key, signed_bytes(header)))
        body = header.encode() + b"\xa5" * padded_len(header.payload_len)
        if length is not None:
            body = body.ljust(length, b"\0")[:length]
        return _MACS + tags + ETHERTYPE.to_bytes(2, "big") + body

    def line(self, flow: int = 1) -> object:
        """A flow's accounting at the sender."""
        return self.sender.tables.flows.read(self.session.flow_base + flow)

    def set_line(self, flow: int = 1, **values: int) -> None:
        """Writes members of it."""
        layout = Btf.from_object(packaged("gate")).map_value("flows")
        key = (self.session.flow_base + flow).to_bytes(4, "little")
        table = self.sender.map("flows")
        table.update(key, layout.unpack(table.lookup(key) or b"").replace(**values).pack())

    def counted(self) -> dict[str, CounterTotals]:
        """What the sender's gate has counted of what leaves, zeros left out."""
        return {
            name: found
            for name, found in self.sender.tables.counters.read("leaving").items()
            if found
        }

    def books(self) -> Books:
        """All that the sender's gate keeps, but for counters and the ring of events."""
        names = ("locals", "bloom", "sessions", "flows", "replay", "config", "interfaces")
        books: Books = {name: dict(self.sender.map(name).items()) for name in names}
        for name in ("tallies",):
            books[name] = dict(self.sender.map(name).items_per_cpu())
        return books

    def leave(self, frame: bytes) -> tuple[str | None, TestRun]:
        """Sends a frame: what was counted (None = nothing), and what came of it."""
        before = self.sender.tables.counters.read("leaving")
        arriving = self.sender.tables.counters.read()
        run = self.sender.egress.program.test_run(frame)
        after = self.sender.tables.counters.read("leaving")
        moved = [name for name in after if after[name].frames != before[name].frames]
        assert self.sender.tables.counters.read() == arriving
        assert len(moved) <= 1
        for name in moved:
            assert after[name].frames == before[name].frames + 1
            assert after[name].bytes == before[name].bytes + len(frame)
        return (moved[0] if moved else None), run

    def pass_out(self, frame: bytes) -> bytes:
        """Sends a frame that is let go, and returns what it has become."""
        verdict, run = self.leave(frame)
        assert (verdict, run.retval) == ("admitted", TC_OK)
        return run.data

    def refuse(self, frame: bytes, reason: str) -> None:
        """Asserts the reason, and that nothing but its counter changed, the frame neither."""
        before = self.books()
        verdict, run = self.leave(frame)
        assert (verdict, run.retval) == (reason, TC_SHOT)
        assert run.data == frame
        assert self.books() == before

    def ignore(self, frame: bytes) -> None:
        """Asserts that a frame passes both ways, unchanged, and that nothing at all changed."""
        before = self.books(), self.counted(), self.sender.tables.counters.read()
        assert self.leave(frame)[0] is None
        run = self.sender.egress.program.test_run(frame)
        assert (run.retval, run.data) == (TC_UNSPEC, frame)
        run = self.sender.program.test_run(frame)
        assert (run.retval, run.data) == (XDP_PASS, frame)
        assert (self.books(), self.counted(), self.sender.tables.counters.read()) == before

    def arrive(self, frame: bytes) -> str:
        """What the receiver's gate says of a frame."""
        before = self.receiver.tables.counters.read()
        run = self.receiver.program.test_run(frame)
        after = self.receiver.tables.counters.read()
        (moved,) = (name for name in after if after[name].frames != before[name].frames)
        assert run.retval == (XDP_PASS if moved == "admitted" else XDP_DROP)
        return moved


def header_of(frame: bytes, offset: int = ETHERNET_HEADER_LEN) -> Header:
    """The header of a frame."""
    return Header.decode(frame[offset : offset + HEADER_LEN])


def foreign_frames() -> list[bytes]:
    """Frames that are none of ours, of all kinds that matter, some of them oddly made."""
    kinds = (0x0800, 0x86DD, 0x0806, 0x0000, 0xFFFF)
    plain = [
        _MACS + kind.to_bytes(2, "big") + bytes(range(length))
        for kind in kinds
        # The kernel runs no program on an IP frame without an IP header.
        for length in ((46, 200) if kind in (0x0800, 0x86DD) else (0, 1, 46, 200))
    ]
    return [
        *plain,
        *(_MACS + VLAN + kind.to_bytes(2, "big") + bytes(64) for kind in kinds),
        _MACS + S_VLAN + VLAN + b"\x08\x00" + bytes(64),
        _MACS + VLAN,
        _MACS + VLAN[:2],
    ]
