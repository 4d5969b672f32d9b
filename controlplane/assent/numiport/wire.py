# SPDX-License-Identifier: Apache-2.0
"""Numiport's packets (docs/numiport.md, "Wire"): one work unit, one datagram.

A packet is a header of 32 bytes, TLVs, the payload, and a tag where it is sealed. What is a packet
is decided in C, by the functions that the gate itself is compiled with
(bpf/include/assent/numiport.h); here they become values.

`decode` refuses a datagram before anything is made of it. Whether a packet is genuine is for
`assent.numiport.mac` to say, and then for whoever opens the payload; both need `covered`.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, field
from typing import Any, Final

from assent._numi import ffi, lib
from assent.errors import InvalidArgument, RemoteError

__all__ = [
    "COOKIE_MAX",
    "HEADER_LEN",
    "HEAD_MAX",
    "MAC_LEN",
    "NACKS_MAX",
    "PACKET_MAX",
    "PSK_IDS_MAX",
    "RANGES_MAX",
    "SESSION_LEN",
    "TAG_LEN",
    "AckRange",
    "Cap",
    "Caps",
    "Class",
    "Fault",
    "Flags",
    "Flaw",
    "Header",
    "MalformedError",
    "NumiportError",
    "Packet",
    "Stream",
    "TlvType",
    "Tlvs",
    "covered",
    "decode",
    "encode",
]

HEADER_LEN: Final[int] = lib.ASSENT_NUMI_HEADER_LEN
HEAD_MAX: Final[int] = lib.ASSENT_NUMI_HEAD_MAX
"""Bytes that header and TLVs fit into."""
PACKET_MAX: Final[int] = lib.ASSENT_NUMI_PACKET_MAX
TAG_LEN: Final[int] = lib.ASSENT_NUMI_TAG_LEN
MAC_LEN: Final[int] = lib.ASSENT_NUMI_MAC_LEN
COOKIE_MAX: Final[int] = lib.ASSENT_NUMI_COOKIE_MAX
SESSION_LEN: Final[int] = lib.ASSENT_NUMI_SESSION_LEN
RANGES_MAX: Final[int] = lib.ASSENT_NUMI_RANGES_MAX
NACKS_MAX: Final[int] = lib.ASSENT_NUMI_NACKS_MAX
PSK_IDS_MAX: Final[int] = lib.ASSENT_NUMI_PSK_IDS_MAX
CE_MAX: Final[int] = lib.ASSENT_NUMI_CE_MAX


class Class(enum.IntEnum):
    """How urgent a packet is: what it is scheduled by (seed 5.2)."""

    P0 = lib.ASSENT_NUMI_P0
    P1 = lib.ASSENT_NUMI_P1
    P2 = lib.ASSENT_NUMI_P2
    P3 = lib.ASSENT_NUMI_P3


class Stream(enum.IntEnum):
    """What a packet is part of; each numbers its packets by itself, slot by slot."""

    SHRED = lib.ASSENT_NUMI_SHRED
    VOTE = lib.ASSENT_NUMI_VOTE
    REPAIR = lib.ASSENT_NUMI_REPAIR
    CTRL = lib.ASSENT_NUMI_CTRL


class Flags(enum.IntFlag):
    """What is there to be found in a packet; all but ACK_ONLY follow from the rest of it."""

    ACK_ONLY = lib.ASSENT_NUMI_FLAG_ACK_ONLY
    NACK = lib.ASSENT_NUMI_FLAG_NACK
    FEC = lib.ASSENT_NUMI_FLAG_FEC
    PSK_ID = lib.ASSENT_NUMI_FLAG_PSK_ID
    CTRL = lib.ASSENT_NUMI_FLAG_CTRL
    ECN_SUMMARY = lib.ASSENT_NUMI_FLAG_ECN


class TlvType(enum.IntEnum):
    """The types of TLVs; each may occur once, and END does."""

    END = lib.ASSENT_NUMI_END
    CAPS = lib.ASSENT_NUMI_CAPS
    PSK_ID = lib.ASSENT_NUMI_PSK_ID
    ACK_RLE = lib.ASSENT_NUMI_ACK_RLE
    NACK_LIST = lib.ASSENT_NUMI_NACK_LIST
    PMTU = lib.ASSENT_NUMI_PMTU
    ECN_SUMMARY = lib.ASSENT_NUMI_ECN_SUMMARY
    RETRY_COOKIE = lib.ASSENT_NUMI_RETRY_COOKIE
    HDR_MAC = lib.ASSENT_NUMI_HDR_MAC
    SESSION_ID = lib.ASSENT_NUMI_SESSION_ID


class Cap(enum.IntFlag):
    """What a host can do. Bits that are not known are kept, and mean nothing."""

    ETF = lib.ASSENT_NUMI_CAP_ETF
    GSO = lib.ASSENT_NUMI_CAP_GSO
    AF_XDP = lib.ASSENT_NUMI_CAP_AF_XDP
    IO_URING = lib.ASSENT_NUMI_CAP_IO_URING
    ECN = lib.ASSENT_NUMI_CAP_ECN
    PMTU = lib.ASSENT_NUMI_CAP_PMTU
    ZEROCOPY = lib.ASSENT_NUMI_CAP_ZEROCOPY
    AES_GCM_SIV = lib.ASSENT_NUMI_CAP_AES_GCM_SIV


class Fault(enum.IntEnum):
    """Why a datagram is refused: what is counted, and nothing else is kept of it."""

    MALFORMED = lib.ASSENT_NUMI_MALFORMED
    HDR_MAC_FAIL = lib.ASSENT_NUMI_HDR_MAC_FAIL
    AEAD_FAIL = lib.ASSENT_NUMI_AEAD_FAIL
    REPLAY = lib.ASSENT_NUMI_REPLAY
    STALE_SLOT = lib.ASSENT_NUMI_STALE_SLOT
    FUTURE_SLOT = lib.ASSENT_NUMI_FUTURE_SLOT
    UNKNOWN_PEER = lib.ASSENT_NUMI_UNKNOWN_PEER
    UNKNOWN_PSK = lib.ASSENT_NUMI_UNKNOWN_PSK
    NO_COOKIE = lib.ASSENT_NUMI_NO_COOKIE
    BAD_COOKIE = lib.ASSENT_NUMI_BAD_COOKIE
    AMPLIFICATION = lib.ASSENT_NUMI_AMPLIFICATION

    @property
    def counter(self) -> str:
        """The name that it is counted under, such as `hdr_mac_fail`."""
        name: bytes = ffi.string(lib.numi_fault_name(self.value))
        return name.decode()


class Flaw(enum.IntEnum):
    """What is wrong with a malformed datagram."""

    LENGTH = lib.ASSENT_NUMI_FLAW_LENGTH
    VERSION = lib.ASSENT_NUMI_FLAW_VERSION
    RESERVED = lib.ASSENT_NUMI_FLAW_RESERVED
    STREAM = lib.ASSENT_NUMI_FLAW_STREAM
    FEC = lib.ASSENT_NUMI_FLAW_FEC
    UNENDED = lib.ASSENT_NUMI_FLAW_UNENDED
    TLV_TYPE = lib.ASSENT_NUMI_FLAW_TLV_TYPE
    TLV_TWICE = lib.ASSENT_NUMI_FLAW_TLV_TWICE
    TLV_LENGTH = lib.ASSENT_NUMI_FLAW_TLV_LENGTH
    TLV_PADDING = lib.ASSENT_NUMI_FLAW_TLV_PADDING
    TLV_VALUE = lib.ASSENT_NUMI_FLAW_TLV_VALUE
    FLAGS = lib.ASSENT_NUMI_FLAW_FLAGS
    NACK_CLASS = lib.ASSENT_NUMI_FLAW_NACK_CLASS
    PLEN = lib.ASSENT_NUMI_FLAW_PLEN


_PROBLEMS: Final = {
    Flaw.LENGTH: "a datagram shorter or longer than any packet",
    Flaw.VERSION: "a version other than 1",
    Flaw.RESERVED: "reserved bytes that are not zero",
    Flaw.STREAM: "a stream that there is not",
    Flaw.FEC: "an index of a shred outside its group",
    Flaw.UNENDED: "TLVs that run over the end",
    Flaw.TLV_TYPE: "a TLV of a type that there is not",
    Flaw.TLV_TWICE: "a TLV of a type that was there before",
    Flaw.TLV_LENGTH: "a TLV of a length that its type cannot have",
    Flaw.TLV_PADDING: "padding that is not zero",
    Flaw.TLV_VALUE: "a TLV with a value that its type cannot have",
    Flaw.FLAGS: "flags that the rest of the packet denies",
    Flaw.NACK_CLASS: "a list of what is missing in class P2 or P3",
    Flaw.PLEN: "a payload of another length than is said",
}


class NumiportError(RemoteError):
    """A datagram that is refused.

    Attributes:
        fault: What it is counted as.
    """

    def __init__(self, fault: Fault, problem: str) -> None:
        super().__init__(problem)
        self.fault = fault

    @property
    def kind(self) -> str:
        """The name of the counter, such as `malformed`."""
        return self.fault.counter


class MalformedError(NumiportError):
    """A datagram that is no packet.

    Attributes:
        flaw: What is wrong with it.
    """

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(Fault.MALFORMED, _PROBLEMS[flaw])
        self.flaw = flaw


def _check(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise InvalidArgument(name, f"does not fit {bits} bits")


def _check_count(name: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidArgument(name, f"has {count}, and {most} are the most")


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed header, but for what follows from the rest of the packet.

    Attributes:
        cls: Its class.
        slot: The slot that it belongs to, 64 bits.
        stream: Its stream.
        seq: Rises from packet to packet of a peer, slot and stream; 32 bits.
        fec_total: Shreds of the group, data and coding, 16 bits; 0 = it is of no group.
        shred_idx: Its place in the group, less than `fec_total`; 0 where there is none.

    Raises:
        InvalidArgument: A field does not fit its place, or there is no such place in the group.
    """

    cls: Class
    slot: int
    stream: Stream
    seq: int
    fec_total: int = 0
    shred_idx: int = 0

    def __post_init__(self) -> None:
        _check("slot", self.slot, 64)
        _check("seq", self.seq, 32)
        _check("fec_total", self.fec_total, 16)
        _check("shred_idx", self.shred_idx, 16)
        if self.shred_idx and self.shred_idx >= self.fec_total:
            raise InvalidArgument("shred_idx", "is not less than fec_total")


_NOTHING: Final = Cap(0)


@dataclass(frozen=True, slots=True)
class Caps:
    """What a host can do (CAPS); of two hosts counts what both can.

    Attributes:
        bitmap: 32 bits; see `Cap`.
        pmtu: Bytes, 16 bits: a hint, where the bitmap has `Cap.PMTU`.
        ecn: Whether it reads marks of congestion.
        psk_ids: The keys that it accepts (seed 5.8), four at most.

    Raises:
        InvalidArgument: A field does not fit its place.
    """

    bitmap: Cap = _NOTHING
    pmtu: int = 0
    ecn: bool = False
    psk_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check("bitmap", self.bitmap, 32)
        _check("pmtu", self.pmtu, 16)
        _check_count("psk_ids", len(self.psk_ids), PSK_IDS_MAX)
        for number in self.psk_ids:
            _check("psk_ids", number, 32)

    def common(self, other: Caps) -> Caps:
        """What both can (Appendix A): bits and keys of both; of two hints, the smaller one."""
        bitmap = self.bitmap & other.bitmap
        return Caps(
            bitmap,
            min(self.pmtu, other.pmtu) if bitmap & Cap.PMTU else 0,
            self.ecn and other.ecn,
            tuple(number for number in self.psk_ids if number in other.psk_ids),
        )


@dataclass(frozen=True, slots=True, order=True)
class AckRange:
    """Numbers in a row that have arrived.

    Attributes:
        start: The first, 16 bits.
        run: How many, from 1; none of them is above 65,535.

    Raises:
        InvalidArgument: There is none, or they do not fit 16 bits.
    """

    start: int
    run: int

    def __post_init__(self) -> None:
        _check("start", self.start, 16)
        if not 1 <= self.run <= min(0xFFFF, 0x10000 - self.start):
            raise InvalidArgument("run", "is 0, or goes beyond 16 bits")

    @property
    def end(self) -> int:
        """The first number after it."""
        return self.start + self.run


@dataclass(frozen=True, slots=True)
class Tlvs:
    """What stands between header and payload; None = not there.

    Attributes:
        caps: What the sender can do.
        psk_id: The key that the packet is protected by, 32 bits.
        ack_rle: What has arrived of the packet's slot and stream: at most 16 ranges, which rise and
            do not overlap.
        nack_list: What is missing of it: at most 8 numbers of 32 bits.
        pmtu: The path's, bytes, 16 bits.
        ecn_summary: The part of packets that came marked, in thousandths.
        retry_cookie: At most 32 bytes.
        hdr_mac: 16 bytes.
        session_id: 16 bytes: the sender's, which its nonces are made with.

    Raises:
        InvalidArgument: A field does not fit its place, or ranges overlap.
    """

    caps: Caps | None = None
    psk_id: int | None = None
    ack_rle: tuple[AckRange, ...] | None = None
    nack_list: tuple[int, ...] | None = None
    pmtu: int | None = None
    ecn_summary: int | None = None
    retry_cookie: bytes | None = None
    hdr_mac: bytes | None = None
    session_id: bytes | None = None

    def __post_init__(self) -> None:
        _check("psk_id", self.psk_id or 0, 32)
        _check("pmtu", self.pmtu or 0, 16)
        _check_count("ack_rle", len(self.ack_rle or ()), RANGES_MAX)
        _check_count("nack_list", len(self.nack_list or ()), NACKS_MAX)
        _check_count("retry_cookie", len(self.retry_cookie or b""), COOKIE_MAX)
        for before, after in itertools.pairwise(self.ack_rle or ()):
            if after.start < before.end:
                raise InvalidArgument("ack_rle", "ranges must rise and not overlap")
        for number in self.nack_list or ():
            _check("nack_list", number, 32)
        if not 0 <= (self.ecn_summary or 0) <= CE_MAX:
            raise InvalidArgument("ecn_summary", f"is not from 0 to {CE_MAX}")
        for name, value, length in (
            ("hdr_mac", self.hdr_mac, MAC_LEN),
            ("session_id", self.session_id, SESSION_LEN),
        ):
            if value is not None and len(value) != length:
                raise InvalidArgument(name, f"needs {length} bytes, not {len(value)}")


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet.

    Attributes:
        header: Its class, slot, stream and number.
        tlvs: What stands before the payload.
        payload: Plain, or sealed without its tag.
        tag: 16 bytes of a sealed payload; None = it is plain.
        ack_only: It carries nothing but receipts: there is no payload, but `ack_rle` or
            `nack_list`.

    Raises:
        InvalidArgument: The tag does not have 16 bytes, `ack_only` does not fit the rest, or a
            `nack_list` is in class P2 or P3.
    """

    header: Header
    tlvs: Tlvs = Tlvs()
    payload: bytes = field(default=b"", repr=False)
    tag: bytes | None = field(default=None, repr=False)
    ack_only: bool = False

    def __post_init__(self) -> None:
        if self.tag is not None and len(self.tag) != TAG_LEN:
            raise InvalidArgument("tag", f"needs {TAG_LEN} bytes, not {len(self.tag)}")
        if self.tlvs.nack_list is not None and self.header.cls > Class.P1:
            raise InvalidArgument("nack_list", "is for P0 and P1 alone")
        if self.ack_only and (self.payload or not self._tells_of_others):
            raise InvalidArgument("ack_only", "needs receipts, and no payload")
        _check("payload", len(self.payload), 16)

    @property
    def _tells_of_others(self) -> bool:
        return self.tlvs.ack_rle is not None or self.tlvs.nack_list is not None

    @property
    def flags(self) -> Flags:
        """The header's six bits."""
        flags = Flags.ACK_ONLY if self.ack_only else Flags(0)
        if self.tlvs.nack_list is not None:
            flags |= Flags.NACK
        if self.header.fec_total:
            flags |= Flags.FEC
        if self.tlvs.psk_id is not None:
            flags |= Flags.PSK_ID
        if self.header.stream is Stream.CTRL:
            flags |= Flags.CTRL
        if self.tlvs.ecn_summary is not None:
            flags |= Flags.ECN_SUMMARY
        return flags


def encode(packet: Packet) -> bytes:
    """The packet as it is sent, TLVs by their types' numbers.

    Raises:
        InvalidArgument: It is longer than a packet may be.
    """
    out = ffi.new("uint8_t[]", HEAD_MAX)
    length = lib.numi_encode(_native(packet), out)
    if length < 0:
        raise InvalidArgument("packet", _PROBLEMS[Flaw(-length)])
    return bytes(ffi.buffer(out, length)) + packet.payload + (packet.tag or b"")


def decode(datagram: bytes) -> Packet:
    """Reads a whole datagram, and refuses every deviation; MAC and tag are not checked here.

    Raises:
        MalformedError: It is no packet.
    """
    head = ffi.new("struct numi_head *")
    if flaw := lib.numi_decode(datagram, len(datagram), head):
        raise MalformedError(Flaw(flaw))
    end = head.head_len + head.plen
    return Packet(
        Header(
            Class(head.cls),
            head.slot,
            Stream(head.stream),
            head.seq,
            head.fec_total,
            head.shred_idx,
        ),
        _tlvs(head),
        datagram[head.head_len : end],
        datagram[end:] if head.sealed else None,
        bool(head.flags & Flags.ACK_ONLY),
    )


def covered(datagram: bytes) -> bytes:
    """What header MAC and seal are made over: the head without HDR_MAC and RETRY_COOKIE (seed 5.1).

    The payload's length is in it, and its bytes are not: it is the same before a packet is sealed
    and after.

    Args:
        datagram: A whole one, sent or received; TLVs count in the order that they have in it.

    Raises:
        MalformedError: It is no packet.
    """
    out = ffi.new("uint8_t[]", HEAD_MAX)
    length = lib.numi_covered(datagram, len(datagram), out)
    if length < 0:
        raise MalformedError(Flaw(-length))
    return bytes(ffi.buffer(out, length))


def _native(packet: Packet) -> Any:
    """A packet's head as C has it."""
    head = ffi.new("struct numi_head *")
    header, tlvs = packet.header, packet.tlvs
    head.cls, head.flags = header.cls, packet.flags
    head.slot, head.stream, head.seq = header.slot, header.stream, header.seq
    head.fec_total, head.shred_idx = header.fec_total, header.shred_idx
    head.plen, head.sealed = len(packet.payload), packet.tag is not None
    if tlvs.caps is not None:
        head.present |= 1 << TlvType.CAPS
        head.caps, head.caps_pmtu, head.caps_ecn = tlvs.caps.bitmap, tlvs.caps.pmtu, tlvs.caps.ecn
        head.psk_id_count = len(tlvs.caps.psk_ids)
        head.psk_ids[0 : head.psk_id_count] = tlvs.caps.psk_ids
    if tlvs.psk_id is not None:
        head.present |= 1 << TlvType.PSK_ID
        head.psk_id = tlvs.psk_id
    if tlvs.ack_rle is not None:
        head.present |= 1 << TlvType.ACK_RLE
        head.range_count = len(tlvs.ack_rle)
        head.range_start[0 : head.range_count] = [each.start for each in tlvs.ack_rle]
        head.range_run[0 : head.range_count] = [each.run for each in tlvs.ack_rle]
    if tlvs.nack_list is not None:
        head.present |= 1 << TlvType.NACK_LIST
        head.nack_count = len(tlvs.nack_list)
        head.nacks[0 : head.nack_count] = tlvs.nack_list
    if tlvs.pmtu is not None:
        head.present |= 1 << TlvType.PMTU
        head.pmtu = tlvs.pmtu
    if tlvs.ecn_summary is not None:
        head.present |= 1 << TlvType.ECN_SUMMARY
        head.ce_ratio = tlvs.ecn_summary
    if tlvs.retry_cookie is not None:
        head.present |= 1 << TlvType.RETRY_COOKIE
        head.cookie_len = len(tlvs.retry_cookie)
        head.cookie[0 : head.cookie_len] = tlvs.retry_cookie
    if tlvs.hdr_mac is not None:
        head.present |= 1 << TlvType.HDR_MAC
        head.mac = tlvs.hdr_mac
    if tlvs.session_id is not None:
        head.present |= 1 << TlvType.SESSION_ID
        head.session = tlvs.session_id
    return head


def _tlvs(head: Any) -> Tlvs:
    """The TLVs of a head that C has read."""

    def has(kind: TlvType) -> bool:
        return bool(head.present & 1 << kind)

    return Tlvs(
        caps=_caps(head) if has(TlvType.CAPS) else None,
        psk_id=head.psk_id if has(TlvType.PSK_ID) else None,
        ack_rle=_ranges(head) if has(TlvType.ACK_RLE) else None,
        nack_list=tuple(head.nacks[0 : head.nack_count]) if has(TlvType.NACK_LIST) else None,
        pmtu=head.pmtu if has(TlvType.PMTU) else None,
        ecn_summary=head.ce_ratio if has(TlvType.ECN_SUMMARY) else None,
        retry_cookie=bytes(head.cookie[0 : head.cookie_len]) if has(TlvType.RETRY_COOKIE) else None,
        hdr_mac=bytes(head.mac) if has(TlvType.HDR_MAC) else None,
        session_id=bytes(head.session) if has(TlvType.SESSION_ID) else None,
    )


def _caps(head: Any) -> Caps:
    return Caps(
        Cap(head.caps),
        head.caps_pmtu,
        bool(head.caps_ecn),
        tuple(head.psk_ids[0 : head.psk_id_count]),
    )


def _ranges(head: Any) -> tuple[AckRange, ...]:
    count = head.range_count
    pairs = zip(head.range_start[0:count], head.range_run[0:count], strict=True)
    return tuple(AckRange(start, run) for start, run in pairs)
