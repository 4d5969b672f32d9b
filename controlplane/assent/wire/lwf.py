# SPDX-License-Identifier: Apache-2.0
"""The Libertaria Wire Frame (EtherType 0x4C57), docs/lwf-relay.md.

A frame is a header of 88 bytes, a payload, and a trailer. Integers are big-endian. Of the two
trailers that exist, this is the codec of the one that holds an Ed25519 signature: 64 bytes of it,
then a CRC-32C of everything before. Who makes and checks the signature is `assent.identity.hint`.

`Header.decode` takes any 88 bytes that begin with the magic for what they say, so that a refused
frame can still be shown to someone. `Frame.decode` is the strict one.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.crc32c import crc32c
from assent.wire.ethernet import FrameError

__all__ = [
    "ETHERTYPE",
    "HEADER_LEN",
    "HINT_LEN",
    "MAGIC",
    "NOBODY",
    "SHORT_TRAILER_LEN",
    "SIGNATURE_LEN",
    "TRAILER_LEN",
    "Flags",
    "Frame",
    "FrameClass",
    "FrameError",
    "Header",
    "Hint",
    "Service",
]

ETHERTYPE: Final = 0x4C57
MAGIC: Final = b"LWF\0"
HINT_LEN: Final = 24
SESSION_LEN: Final = 16
HEADER_LEN: Final = 88
SIGNATURE_LEN: Final = 64
TRAILER_LEN: Final = SIGNATURE_LEN + 4
SHORT_TRAILER_LEN: Final = 36
"""Of the other generation, whose signature field has 32 bytes: relayed, never written."""
UNSIGNED: Final = 0x01
"""Version 1's only flag."""

_LAYOUT: Final = struct.Struct("!4s24s24s16sIHHBBBBQ")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")


class Flags(enum.IntFlag):
    """What version 2 says of a frame."""

    ENCRYPTED = 0x01
    SIGNED = 0x02
    RELAYABLE = 0x04
    HAS_ENTROPY = 0x08
    FRAGMENTED = 0x10
    PRIORITY = 0x20


class Service(enum.IntEnum):
    """What a payload is. Other numbers may come, and are kept."""

    DATA_TRANSPORT = 0x0001
    SLASH = 0x0002
    IDENTITY_SIGNAL = 0x0003
    ECONOMIC_SETTLEMENT = 0x0004
    RELAY_FORWARD = 0x0005
    STREAM_AUDIO = 0x0800
    STREAM_VIDEO = 0x0801
    STREAM_DATA = 0x0802
    SWARM_MANIFEST = 0x0B00
    SWARM_HAVE = 0x0B01
    SWARM_REQUEST = 0x0B02
    SWARM_BLOCK = 0x0B03


class FrameClass(enum.IntEnum):
    """How long a frame may be, trailer included."""

    MICRO = 0
    MINI = 1
    STANDARD = 2
    BIG = 3
    JUMBO = 4
    VARIABLE = 255

    @property
    def longest(self) -> int:
        """Bytes; what payload_len can say is the only bound of VARIABLE."""
        return _LONGEST[self]

    @classmethod
    def of(cls, length: int) -> FrameClass:
        """The smallest class that holds a frame of `length` bytes."""
        return min((each for each in cls if each.longest >= length), key=lambda each: each.longest)


_LONGEST: Final = {
    FrameClass.MICRO: 128,
    FrameClass.MINI: 512,
    FrameClass.STANDARD: 1350,
    FrameClass.BIG: 4096,
    FrameClass.JUMBO: 9000,
    FrameClass.VARIABLE: HEADER_LEN + 0xFFFF + TRAILER_LEN,
}


@dataclass(frozen=True, slots=True, order=True, repr=False)
class Hint:
    """Where a frame is to go, or comes from: the beginning of a hash of somebody's public key.

    Attributes:
        raw: The 24 bytes as they stand in a header.

    Raises:
        InvalidArgument: `raw` does not have 24 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != HINT_LEN:
            raise InvalidArgument("hint", f"needs {HINT_LEN} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Hint:
        """Reads 48 hexadecimal digits.

        Raises:
            InvalidArgument: The text is anything else.
        """
        if len(text) != 2 * HINT_LEN or not _HEX.fullmatch(text):
            raise InvalidArgument("hint", f"must be {2 * HINT_LEN} hexadecimal digits")
        return cls(bytes.fromhex(text))

    def __bool__(self) -> bool:
        return any(self.raw)

    def __bytes__(self) -> bytes:
        return self.raw

    def __repr__(self) -> str:
        return f"Hint({self})"

    def __str__(self) -> str:
        return self.raw.hex()


NOBODY: Final = Hint(bytes(HINT_LEN))
"""As the destination of a RELAY_FORWARD frame: whichever relay hears it."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header.

    Attributes:
        dest: Where it is to go.
        source: Where it comes from; nothing of it need be true.
        service: See `Service`; numbers that are not known are kept.
        payload_len: Bytes, 16 bits.
        frame_class: See `FrameClass`; numbers that are not known are kept.
        session: 16 bytes.
        sequence: 32 bits.
        version: 1 or 2.
        flags: 8 bits; see `Flags` for version 2, and UNSIGNED for version 1.
        entropy_difficulty: 8 bits.
        timestamp: ns, 64 bits.
    """

    dest: Hint
    source: Hint
    service: int = Service.DATA_TRANSPORT
    payload_len: int = 0
    frame_class: int = FrameClass.VARIABLE
    session: bytes = bytes(SESSION_LEN)
    sequence: int = 0
    version: int = 1
    flags: int = 0
    entropy_difficulty: int = 0
    timestamp: int = 0

    def encode(self) -> bytes:
        """The header as 88 bytes.

        Raises:
            InvalidArgument: A field does not fit its place.
        """
        for field, bits in _WIDTHS.items():
            if not 0 <= getattr(self, field) < 1 << bits:
                raise InvalidArgument(field, f"does not fit {bits} bits")
        if len(self.session) != SESSION_LEN:
            raise InvalidArgument("session", f"needs {SESSION_LEN} bytes, not {len(self.session)}")
        return _LAYOUT.pack(
            MAGIC,
            self.dest.raw,
            self.source.raw,
            self.session,
            self.sequence,
            self.service,
            self.payload_len,
            self.frame_class,
            self.version,
            self.flags,
            self.entropy_difficulty,
            self.timestamp,
        )

    @classmethod
    def decode(cls, buf: bytes) -> Header:
        """Reads the first 88 bytes of `buf`, with no opinion on what they say.

        Raises:
            FrameError: There are fewer, or they do not begin with the magic.
        """
        if len(buf) < HEADER_LEN:
            raise FrameError(f"a header has {HEADER_LEN} bytes, not {len(buf)}")
        magic, dest, source, session, sequence, service, payload_len, *rest = _LAYOUT.unpack_from(
            buf
        )
        if magic != MAGIC:
            raise FrameError("it does not begin with LWF's magic")
        frame_class, version, flags, entropy_difficulty, timestamp = rest
        return cls(
            Hint(dest),
            Hint(source),
            service,
            payload_len,
            frame_class,
            session,
            sequence,
            version,
            flags,
            entropy_difficulty,
            timestamp,
        )


_WIDTHS: Final = {
    "sequence": 32,
    "service": 16,
    "payload_len": 16,
    "frame_class": 8,
    "version": 8,
    "flags": 8,
    "entropy_difficulty": 8,
    "timestamp": 64,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame with the trailer that holds an Ed25519 signature.

    Attributes:
        header: Its `payload_len` equals the payload's length.
        payload: 0 to 65,535 bytes.
        signature: 64 bytes, over `signed_bytes`.
    """

    header: Header
    payload: bytes = b""
    signature: bytes = bytes(SIGNATURE_LEN)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is made over: header and payload.

        Raises:
            InvalidArgument: `payload_len` is not the payload's length, or a field does not fit.
        """
        if self.header.payload_len != len(self.payload):
            raise InvalidArgument("payload_len", "is not the length of the payload")
        return self.header.encode() + self.payload

    def encode(self) -> bytes:
        """The frame as it stands on the wire after the Ethernet header.

        Raises:
            InvalidArgument: `payload_len` is not the payload's length, the frame does not fit its
                class, or a field does not fit its place.
        """
        if len(self.signature) != SIGNATURE_LEN:
            raise InvalidArgument("signature", f"needs {SIGNATURE_LEN} bytes")
        body = self.signed_bytes + self.signature
        whole = body + crc32c(body).to_bytes(4, "big")
        if problem := _problem(self.header, len(whole)):
            raise InvalidArgument(*problem)
        return whole

    @classmethod
    def decode(cls, buf: bytes) -> Frame:
        """Reads a whole frame and refuses every deviation; the signature is not checked here.

        Raises:
            FrameError: Magic, version, class or length are wrong, or the CRC is.
        """
        header = Header.decode(buf)
        end = HEADER_LEN + header.payload_len
        if len(buf) != end + TRAILER_LEN:
            raise FrameError("the frame's length and payload_len disagree")
        if problem := _problem(header, len(buf)):
            raise FrameError(": ".join(problem))
        if crc32c(buf[:-4]) != int.from_bytes(buf[-4:], "big"):
            raise FrameError("the CRC-32C is wrong")
        return cls(header, bytes(buf[HEADER_LEN:end]), bytes(buf[end:-4]))


def _problem(header: Header, length: int) -> tuple[str, str] | None:
    """The field that is wrong in a frame of that length, and why."""
    if header.version not in {1, 2}:
        return "version", "must be 1 or 2"
    if header.frame_class not in list(FrameClass):
        return "frame_class", "there is no such class"
    if length > FrameClass(header.frame_class).longest:
        return "frame_class", f"does not hold {length} bytes"
    return None
