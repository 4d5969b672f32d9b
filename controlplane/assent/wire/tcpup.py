# SPDX-License-Identifier: Apache-2.0
"""The TCP/UP frame (seed TCP/UP, sections 2 and 10), docs/wire-covenant.md.

A header of 72 bytes, a payload, a tail of 32. Integers are big-endian. An Ed25519 signature has 64
bytes, and the header has room for 32: its first half, R, stands there, and its second, S, in the
tail, outside of the payload's length. It is made over the header up to R, then the payload.

The codec refuses every frame that no sender may send, with one exception: a REJECT without
JUSTIFIED is read, because the immune layer has to see it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from uuid import UUID

from assent.errors import InvalidArgument, RemoteError

VERSION: Final = 1
SIGNED_LEN: Final = 40
"""Bytes of the header before the signature."""
HEADER_LEN: Final = 72
TAIL_LEN: Final = 32
FRAME_OVERHEAD: Final = HEADER_LEN + TAIL_LEN
PREFIX_LEN: Final = 16
"""Bytes of a frame after which its length is known."""
PAYLOAD_MAX: Final = 256 * 1024
SIGNATURE_LEN: Final = 64

_LAYOUT: Final = struct.Struct("!BHBIII16sQ")
_WIDTHS: Final = MappingProxyType({"covenant_id": 32, "sequence": 32, "timestamp": 64})


class TcpupError(RemoteError):
    """Bytes that are no TCP/UP frame, or one that may not be sent."""


class FrameType(enum.IntEnum):
    """What a frame is (seed 2.3)."""

    OFFER = 0x0
    ACCEPT = 0x1
    REJECT = 0x2
    DEFER = 0x3
    BIND = 0x4
    DATA = 0x5
    AMEND = 0x6
    REVIEW = 0x7
    REVOKE = 0x8
    HEARTBEAT = 0x9
    VIOLATION = 0xA
    ESCALATE = 0xB


class FrameFlag(enum.IntFlag):
    """What a frame says of itself (seed 2.4); bit 0 there is the most significant one here."""

    MISERICORDIA = 0x8000
    VERSIONED = 0x4000
    MULTI = 0x2000
    DURABLE = 0x1000
    JUSTIFIED = 0x0800
    EVIDENCE = 0x0400
    MUTUAL = 0x0200
    GRACEFUL = 0x0100
    URGENT = 0x0080
    ENCRYPTED = 0x0040
    COMPRESSED = 0x0020


_T, _F = FrameType, FrameFlag
_ALLOWED: Final[Mapping[int, int]] = MappingProxyType(
    {
        _T.OFFER: _F.MISERICORDIA | _F.MULTI | _F.DURABLE,
        _T.ACCEPT: 0,
        _T.REJECT: _F.JUSTIFIED,
        _T.DEFER: _F.JUSTIFIED | _F.EVIDENCE,
        _T.BIND: _F.MULTI | _F.MUTUAL,
        _T.DATA: _F.ENCRYPTED | _F.COMPRESSED,
        _T.AMEND: _F.MISERICORDIA | _F.VERSIONED,
        _T.REVIEW: 0,
        _T.REVOKE: _F.GRACEFUL,
        _T.HEARTBEAT: 0,
        _T.VIOLATION: _F.URGENT,
        _T.ESCALATE: _F.URGENT,
    }
)
_REQUIRED: Final[Mapping[int, int]] = MappingProxyType(
    {_T.OFFER: _F.MISERICORDIA, _T.AMEND: _F.VERSIONED}
)


@lru_cache(maxsize=4096)
def agent_uuid(raw: bytes) -> UUID:
    """Reads an agent's id.

    Args:
        raw: 16 bytes.

    Raises:
        InvalidArgument: They are not a UUID of RFC 9562 with a version from 1 to 8.
    """
    if len(raw) != 16:
        raise InvalidArgument("agent_id", "needs 16 bytes")
    uuid = UUID(bytes=bytes(raw))
    check_agent_id("agent_id", uuid)
    return uuid


def check_agent_id(field: str, value: object) -> None:
    """Checks that a value is an agent's id: no nil, no foreign variant.

    Raises:
        InvalidArgument: It is not a UUID of RFC 9562 with a version from 1 to 8.
    """
    if type(value) is not UUID:
        raise InvalidArgument(field, "is missing" if value is None else "must be a UUID")
    # Straight from the number: variant 10 in bits 62 and 63, the version in bits 76 to 79.
    number = value.int
    if number >> 62 & 3 != 2 or not 1 <= number >> 76 & 15 <= 8:
        raise InvalidArgument(field, "is not a UUID of RFC 9562 with a version from 1 to 8")


@dataclass(frozen=True, slots=True)
class CovenantFrame:
    """One frame.

    Attributes:
        kind: What it is.
        flags: Those that its kind may have.
        covenant_id: 32 bits; 0 until the acceptor has assigned one.
        sequence: 32 bits, rising within a covenant.
        agent_id: Its sender.
        timestamp: When it was sent, in microseconds since the Unix epoch.
        payload: CBOR (`assent.covenant.payloads`); none in a HEARTBEAT.
        signature: 64 bytes, R then S; empty until it is signed.
    """

    kind: FrameType
    flags: FrameFlag
    covenant_id: int
    sequence: int
    agent_id: UUID
    timestamp: int
    payload: bytes = b""
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature is made over: the header's first 40 bytes, then the payload.

        Raises:
            InvalidArgument: A field does not fit its place, or the flags are not those of its kind.
        """
        kind, flags = self.kind.value, self.flags.value
        problem = _flag_problem(kind, flags)
        if problem:
            raise InvalidArgument("flags", problem)
        if self.kind is FrameType.HEARTBEAT and self.payload:
            raise InvalidArgument("payload", "a HEARTBEAT has none")
        if len(self.payload) > PAYLOAD_MAX:
            raise InvalidArgument("payload", f"has at most {PAYLOAD_MAX} bytes")
        check_agent_id("agent_id", self.agent_id)
        try:
            head = _LAYOUT.pack(
                VERSION << 4 | kind,
                flags,
                0,
                self.covenant_id,
                self.sequence,
                len(self.payload),
                self.agent_id.bytes,
                self.timestamp,
            )
        except struct.error:
            raise InvalidArgument(*self._misfit()) from None
        return head + self.payload

    def _misfit(self) -> tuple[str, str]:
        for name, bits in _WIDTHS.items():
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 1 << bits:
                return name, f"does not fit {bits} bits"
        return "frame", "a field does not fit"

    def signed(self, sign: Callable[[bytes], bytes]) -> CovenantFrame:
        """The same frame with its signature.

        Args:
            sign: Signs a message with the sender's key; 64 bytes, R then S.

        Raises:
            InvalidArgument: `signed_bytes` refuses it.
        """
        return replace(self, signature=sign(self.signed_bytes()))

    def encode(self) -> bytes:
        """The frame as it stands on the wire.

        Raises:
            InvalidArgument: It is not signed, or `signed_bytes` refuses it.
        """
        if len(self.signature) != SIGNATURE_LEN:
            raise InvalidArgument("signature", f"needs {SIGNATURE_LEN} bytes")
        return _joined(self.signed_bytes(), self.signature)

    def sealed(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The frame as it stands on the wire, signed now: `signed` and `encode` in one.

        Raises:
            InvalidArgument: `signed_bytes` refuses it.
        """
        signed = self.signed_bytes()
        return _joined(signed, sign(signed))

    @classmethod
    def decode(cls, buf: bytes, payload_max: int = PAYLOAD_MAX) -> CovenantFrame:
        """Reads one whole frame; the signature is not checked here.

        Args:
            buf: The frame, no more and no less.
            payload_max: Bytes that its payload may have.

        Raises:
            TcpupError: It is malformed, too large, of a reserved type, or has flags that its type
                may not have; or its agent's id is no UUID.
        """
        length = frame_length(buf, payload_max)
        if len(buf) != length:
            raise TcpupError(f"a frame of {length} bytes comes as {len(buf)}")
        first, flags, _, covenant_id, sequence, _, agent_id, timestamp = _LAYOUT.unpack_from(buf)
        try:
            agent = agent_uuid(agent_id)
        except InvalidArgument as refusal:
            raise TcpupError(str(refusal)) from None
        end = length - TAIL_LEN
        return cls(
            _KINDS[first & 15],
            FrameFlag(flags),
            covenant_id,
            sequence,
            agent,
            timestamp,
            buf[HEADER_LEN:end],
            buf[SIGNED_LEN:HEADER_LEN] + buf[end:],
        )


_KINDS: Final = tuple(FrameType)


def _joined(signed: bytes, signature: bytes) -> bytes:
    """The halves of a signature in their places, before and behind the payload."""
    return b"".join(
        (signed[:SIGNED_LEN], signature[:TAIL_LEN], signed[SIGNED_LEN:], signature[TAIL_LEN:])
    )


def frame_length(prefix: bytes, payload_max: int = PAYLOAD_MAX) -> int:
    """How long a frame is, from its first 16 bytes, which are checked on the way.

    Raises:
        TcpupError: There are fewer, the frame is of another version or of a reserved type, a
            reserved bit is set, its flags are not those of its type, or it is too large.
    """
    if len(prefix) < PREFIX_LEN:
        raise TcpupError(f"a frame begins with {PREFIX_LEN} bytes, not {len(prefix)}")
    version, kind = prefix[0] >> 4, prefix[0] & 15
    if version != VERSION:
        raise TcpupError(f"version {version}, and this is version {VERSION}")
    if kind not in _ALLOWED:
        raise TcpupError(f"type {kind:#x} is reserved")
    if prefix[3]:
        raise TcpupError("the reserved byte is not zero")
    problem = _flag_problem(kind, prefix[1] << 8 | prefix[2])
    if problem:
        raise TcpupError(problem)
    payload_len = int.from_bytes(prefix[12:16], "big")
    if payload_len > payload_max:
        raise TcpupError(f"a payload has at most {payload_max} bytes, not {payload_len}")
    if payload_len and kind == _T.HEARTBEAT.value:
        raise TcpupError("a HEARTBEAT has no payload")
    return FRAME_OVERHEAD + payload_len


@lru_cache(maxsize=4096)
def _flag_problem(kind: int, flags: int) -> str:
    allowed, required = _ALLOWED[kind], _REQUIRED.get(kind, 0)
    if flags & ~allowed:
        return f"{FrameType(kind).name} does not have the flags {flags & ~allowed:#06x}"
    if required & ~flags:
        return f"{FrameType(kind).name} needs the flag {FrameFlag(required).name}"
    return ""
