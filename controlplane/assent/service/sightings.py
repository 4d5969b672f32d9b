# SPDX-License-Identifier: Apache-2.0
"""A refused frame as people are told of it: what the gate wrote, read and put into values."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from assent.dataplane.tables import Event
from assent.wire.cellid import CellID
from assent.wire.ethernet import ETHERNET_HEADER_LEN, FrameError
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, Flags, Header
from assent.wire.lwf import ETHERTYPE as LWF_ETHERTYPE
from assent.wire.lwf import HEADER_LEN as LWF_HEADER_LEN
from assent.wire.lwf import Header as LwfHeader

BARE_LEN: Final = 40
"""Bytes of a UTCP header, with which a fabric header begins."""
_VLAN_ETHERTYPES: Final = frozenset({0x8100, 0x88A8})
_VLAN_LEN: Final = 4
_VLAN_ID: Final = 0xFFF


@dataclass(frozen=True, slots=True)
class Sighting:
    """A refused frame, as told to watchers.

    Attributes:
        time: Unix time, ns.
        reason: Why it was refused, or would have been.
        interface: Where it arrived, or was to leave; "" where that is gone.
        session_id: 0 where no session was found.
        frame_len: Bytes, Ethernet header included.
        head: Its first bytes, as many as the gate kept of it.
        header: Its fabric header, of a bare frame with zeros for what that lacks; None where the
            frame is too short for one, or not of the fabric.
        lwf: Its LWF header, where it has one.
        vlan: The number in its outermost VLAN tag; None where it has none.
        leaving: It was on its way out.
        would_drop: It was admitted: its cells are observed.
    """

    time: int
    reason: str
    interface: str
    session_id: int
    frame_len: int
    head: bytes
    header: Header | None = None
    lwf: LwfHeader | None = None
    vlan: int | None = None
    leaving: bool = False
    would_drop: bool = False

    @classmethod
    def of(cls, event: Event, wall_offset: int, interface: str) -> Sighting:
        """Makes one of what the gate wrote.

        Args:
            event: From the ring.
            wall_offset: Unix time minus monotonic time, ns.
            interface: Name of the interface that the event has the number of.
        """
        kind, vlan, body = _opened(event.head)
        return cls(
            time=event.time + wall_offset,
            reason=event.reason,
            interface=interface,
            session_id=event.session_id,
            frame_len=event.frame_len,
            head=event.head,
            header=_fabric(body) if kind == ETHERTYPE else None,
            lwf=_lwf(body) if kind == LWF_ETHERTYPE else None,
            vlan=vlan,
            leaving=event.leaving,
            would_drop=event.observed,
        )

    @property
    def is_bare(self) -> bool:
        """Whether it is a 40-byte UTCP frame, which has no flow and no tag."""
        return self.header is not None and not self.header.flags & Flags.BLOCK

    @property
    def remote(self) -> CellID | None:
        """The cell at the other end, as the frame claims."""
        if self.header is None:
            return None
        return self.header.dst if self.leaving else self.header.src

    @property
    def local(self) -> CellID | None:
        """The cell at this end, as the frame claims."""
        if self.header is None:
            return None
        return self.header.src if self.leaving else self.header.dst


def _opened(head: bytes) -> tuple[int, int | None, bytes]:
    """EtherType behind all VLAN tags, number of the outermost of those, and what follows."""
    at, vlan = ETHERNET_HEADER_LEN, None
    kind = int.from_bytes(head[at - 2 : at], "big")
    while kind in _VLAN_ETHERTYPES and len(head) >= at + _VLAN_LEN:
        if vlan is None:
            vlan = int.from_bytes(head[at : at + 2], "big") & _VLAN_ID
        at += _VLAN_LEN
        kind = int.from_bytes(head[at - 2 : at], "big")
    return kind, vlan, head[at:]


def _fabric(body: bytes) -> Header | None:
    if len(body) < BARE_LEN:
        return None
    header = Header.decode(body[:BARE_LEN].ljust(HEADER_LEN, b"\0"))
    if not header.flags & Flags.BLOCK:
        return header
    return Header.decode(body) if len(body) >= HEADER_LEN else None


def _lwf(body: bytes) -> LwfHeader | None:
    if len(body) >= LWF_HEADER_LEN:
        with contextlib.suppress(FrameError):
            return LwfHeader.decode(body)
    return None
