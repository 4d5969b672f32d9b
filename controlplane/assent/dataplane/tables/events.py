# SPDX-License-Identifier: Apache-2.0
"""The ring of events: frames that were refused, or would have been."""

from __future__ import annotations

from dataclasses import dataclass

from assent.closing import Closing
from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Map, RingBuffer
from assent.dataplane.reasons import Reasons


@dataclass(frozen=True, slots=True)
class Event:
    """A refused frame.

    Attributes:
        time: monotonic, ns, in the steps of the kernel's tick.
        reason: name of the verdict.
        ifindex: where it arrived, or was to leave.
        session_id: 0 where no session was found.
        frame_len: bytes, Ethernet header included.
        head: its first bytes, at most 106.
        suppressed: frames of this reason, interface and CPU since the last event, of which the
            gate did not tell.
        leaving: whether it was on its way out.
        observed: it was admitted, for its session is observed.
        block: of counters that it was counted in.
        cpu: that decided on it.
    """

    time: int
    reason: str
    ifindex: int
    session_id: int
    frame_len: int
    head: bytes
    suppressed: int = 0
    leaving: bool = False
    observed: bool = False
    block: int = 0
    cpu: int = 0


class EventReader(Closing):
    """Reads refused frames off the event ring. One reader a gate: what it takes, no other sees."""

    def __init__(self, table: Map, btf: Btf, reasons: Reasons) -> None:
        self._ring = RingBuffer(table)
        self._layout = btf.struct("assent_event")
        self._leaving = btf.enum("assent_direction")["ASSENT_LEAVING"]
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

    def _decode(self, raw: bytes) -> Event:
        # A ring's records are padded to 8 bytes.
        record = self._layout.unpack(raw[: self._layout.size])
        return Event(
            time=record.time,
            reason=self._reasons.name(record.reason),
            ifindex=record.ifindex,
            session_id=record.session_id,
            frame_len=record.frame_len,
            head=record.head[: record.head_len],
            suppressed=record.suppressed,
            leaving=record.direction == self._leaving,
            observed=bool(record.observed),
            block=record.block,
            cpu=record.cpu,
        )
