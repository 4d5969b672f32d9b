"""The fabric frame (EtherType 0x88B5), design section "Fabric frame".

A header is 64 bytes. Its first 40 are UTCP's (seed UTCP, Packet Format), the other 24 are Tether's.
All integers are big-endian but the tag, which is SipHash's little-endian output. The payload
follows, padded with zeros to whole 64-byte blocks.

`Header.decode` takes any 64 bytes for what they say, so that a refused frame can still be shown to
someone. `Frame.decode` is the strict one, for frames that are to be believed.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from assent._native import lib
from assent.errors import InvalidArgument
from assent.wire.cellid import CellID
from assent.wire.ethernet import FrameError

__all__ = [
    "BLOCK_LEN",
    "ETHERTYPE",
    "FLAGS_KNOWN",
    "HEADER_LEN",
    "PAYLOAD_MAX",
    "SIGNED_LEN",
    "Flags",
    "Frame",
    "FrameError",
    "Header",
    "block_cost",
    "header_tag",
    "padded_len",
    "serial_before",
    "signed_bytes",
    "with_tag",
]

ETHERTYPE: Final = 0x88B5
HEADER_LEN: Final = 64
HEADER_KEY_LEN: Final = 16
BLOCK_LEN: Final = 64
SIGNED_LEN: Final = 56
PAYLOAD_MAX: Final = 0xFFFF

_LAYOUT: Final = struct.Struct("!16s16sIHHHHIQ")
_SERIAL_MASK: Final = 0xFFFF_FFFF
_SERIAL_HALF: Final = 0x8000_0000


class Flags(enum.IntFlag):
    """What a frame is. The low byte is UTCP's, the high byte Tether's."""

    SYN = 0x0001
    ACK = 0x0002
    FIN = 0x0004
    DATA = 0x0008
    NACK = 0x0010
    LAMP = 0x0100
    BLOCK = 0x8000


FLAGS_KNOWN: Final = 0x811F


def padded_len(payload_len: int) -> int:
    """Bytes that a payload of `payload_len` bytes occupies on the wire: whole blocks."""
    return (payload_len + BLOCK_LEN - 1) // BLOCK_LEN * BLOCK_LEN


def block_cost(payload_len: int) -> int:
    """Credit that a frame costs, in 64-byte blocks: its header and every block of payload begun."""
    return 1 + padded_len(payload_len) // BLOCK_LEN


def serial_before(a: int, b: int) -> bool:
    """Whether sequence number `a` comes before `b` (RFC 1982, section 3.2, 32 bits).

    Two numbers exactly 2**31 apart have no order there; for them the answer is False both ways.
    """
    return 0 < ((b - a) & _SERIAL_MASK) < _SERIAL_HALF


@dataclass(frozen=True, slots=True)
class Header:
    """One fabric header.

    Attributes:
        src: Who sends.
        dst: Who is to receive.
        seq: Per (src, dst, flow), from 1, 32 bits.
        flags: See `Flags`; bits that are not known are kept.
        payload_len: Bytes after the header, AEAD tag included, padding not.
        flow: 0 is control; data flows from 1.
        grant: Cumulative grant of the sender to the receiver for this flow, modulo 2**16, in units
            of `64 << grant_shift` bytes.
        nack_slot: A sequence number missing in the other direction; meaningful with NACK.
        timestamp: The sender's clock, ns, 64 bits.
        tag: SipHash-2-4 over bytes 0 to 55 as an integer, 64 bits.
    """

    src: CellID
    dst: CellID
    seq: int
    flags: Flags
    payload_len: int = 0
    flow: int = 0
    grant: int = 0
    nack_slot: int = 0
    timestamp: int = 0
    tag: int = 0

    def encode(self) -> bytes:
        """The header as 64 bytes.

        Raises:
            InvalidArgument: A field does not fit its place.
        """
        try:
            return signed_bytes(self) + self.tag.to_bytes(8, "little")
        except OverflowError:
            raise InvalidArgument("tag", "does not fit 64 bits") from None

    @classmethod
    def decode(cls, buf: bytes) -> Header:
        """Reads the first 64 bytes of `buf`, with no opinion on what they say.

        Raises:
            FrameError: There are fewer.
        """
        if len(buf) < HEADER_LEN:
            raise FrameError(f"a header has {HEADER_LEN} bytes, not {len(buf)}")
        src, dst, seq, flags, payload_len, flow, grant, nack_slot, timestamp = _LAYOUT.unpack_from(
            buf
        )
        return cls(
            CellID(src),
            CellID(dst),
            seq,
            Flags(flags),
            payload_len,
            flow,
            grant,
            nack_slot,
            timestamp,
            int.from_bytes(buf[SIGNED_LEN:HEADER_LEN], "little"),
        )


def signed_bytes(header: Header) -> bytes:
    """Bytes 0 to 55 of the encoded header: what the tag is made over.

    Raises:
        InvalidArgument: A field does not fit its place.
    """
    try:
        return _LAYOUT.pack(
            header.src.raw,
            header.dst.raw,
            header.seq,
            header.flags,
            header.payload_len,
            header.flow,
            header.grant,
            header.nack_slot,
            header.timestamp,
        )
    except struct.error:
        raise InvalidArgument(*_misfit(header)) from None


def _misfit(header: Header) -> tuple[str, str]:
    for field, bits in (
        ("seq", 32),
        ("flags", 16),
        ("payload_len", 16),
        ("flow", 16),
        ("grant", 16),
        ("nack_slot", 32),
    ):
        if not 0 <= getattr(header, field) < 1 << bits:
            return field, f"does not fit {bits} bits"
    return "timestamp", "does not fit 64 bits"


def header_tag(key: bytes, header: Header) -> int:
    """The tag that a header should have: SipHash-2-4 over its signed bytes, as an integer.

    Args:
        key: 16 bytes.
        header: Its own tag does not matter.

    Raises:
        InvalidArgument: The key has another length, or a field does not fit its place.
    """
    if len(key) != HEADER_KEY_LEN:
        raise InvalidArgument("key", f"needs {HEADER_KEY_LEN} bytes, not {len(key)}")
    tag: int = lib.an_header_tag(key, signed_bytes(header) + bytes(HEADER_LEN - SIGNED_LEN))
    return tag


def with_tag(header: bytes, tag: int) -> bytes:
    """An encoded header with its last 8 bytes replaced by `tag`.

    Args:
        header: 56 signed bytes, or all 64.
        tag: 64 bits; written little-endian.

    Raises:
        InvalidArgument: `header` has another length, or the tag does not fit.
    """
    if len(header) not in {SIGNED_LEN, HEADER_LEN}:
        raise InvalidArgument("header", f"needs {SIGNED_LEN} or {HEADER_LEN} bytes")
    if not 0 <= tag < 1 << 64:
        raise InvalidArgument("tag", "does not fit 64 bits")
    return header[:SIGNED_LEN] + tag.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Frame:
    """A header and its payload, without the padding.

    Attributes:
        header: Its `payload_len` equals the payload's length.
        payload: 0 to 65,535 bytes.
    """

    header: Header
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame as it stands on the wire after the Ethernet header: whole 64-byte blocks.

        Raises:
            InvalidArgument: `payload_len` is not the payload's length, or a field does not fit.
        """
        if self.header.payload_len != len(self.payload):
            raise InvalidArgument("payload_len", "is not the length of the payload")
        padding = padded_len(len(self.payload)) - len(self.payload)
        return self.header.encode() + self.payload + bytes(padding)

    @classmethod
    def decode(cls, buf: bytes) -> Frame:
        """Reads a whole frame and refuses every deviation.

        Raises:
            FrameError: The length is not 64 plus the payload in whole blocks, the padding is not
                zero, BLOCK is not set, or a flag is unknown.
        """
        header = Header.decode(buf)
        if not header.flags & Flags.BLOCK:
            raise FrameError("a bare frame: BLOCK is not set")
        if header.flags & ~FLAGS_KNOWN:
            raise FrameError(f"unknown flags 0x{header.flags & ~FLAGS_KNOWN:04x}")
        if len(buf) != HEADER_LEN + padded_len(header.payload_len):
            raise FrameError("the frame's length and payload_len disagree")
        end = HEADER_LEN + header.payload_len
        if any(buf[end:]):
            raise FrameError("padding is not zero")
        return cls(header, bytes(buf[HEADER_LEN:end]))
