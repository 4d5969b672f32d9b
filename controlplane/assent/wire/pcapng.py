# SPDX-License-Identifier: Apache-2.0
"""Captures in the pcapng format: what is written is little-endian, what is read is either.

Follows draft-ietf-opsawg-pcapng: blocks are section 3.1, options 3.5, the Section Header Block 4.1,
the Interface Description Block 4.2, the Enhanced and Simple Packet Blocks 4.3 and 4.4, the obsolete
Packet Block its appendix. Blocks of other types are skipped, as the draft asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.wire.pcap import (
    CAPTURED_MAX,
    LINKTYPE_ETHERNET,
    CapturedFrame,
    CaptureError,
    check_linktype,
)

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 2
_SIMPLE: Final = 3
_ENHANCED: Final = 6
_MAGIC: Final = 0x1A2B3C4D

_OPT_COMMENT: Final = 1
_SHB_USERAPPL: Final = 4
_IF_NAME: Final = 2
_IF_TSRESOL: Final = 9
_NANOSECONDS: Final = b"\x09"

_BLOCK_MIN: Final = 12
_OPTION_MAX: Final = 0xFFFF


class PcapngWriter:
    """Makes the bytes of a file: `begin()` first, then `frame()` for each frame.

    Args:
        application: Name of the program, for the section's header.
        snaplen: Most bytes of a frame that are given; 0 = all.
    """

    def __init__(self, application: str, snaplen: int = 0) -> None:
        self._application = application
        self._snaplen = snaplen
        self._interfaces: dict[str, int] = {}

    def begin(self) -> bytes:
        """The section's header; its length is left open, as for a file that grows."""
        fixed = struct.pack("<IHHq", _MAGIC, 1, 0, -1)
        return _block(_SECTION, fixed + _options((_SHB_USERAPPL, self._application.encode())))

    def frame(
        self, interface: str, time_ns: int, data: bytes, original_len: int, comment: str = ""
    ) -> bytes:
        """A frame, and before it the description of its interface where that is a new one.

        Args:
            interface: Name of it.
            time_ns: Unix time, ns.
            data: What was kept of the frame.
            original_len: Bytes that it had.
            comment: Shown beside it; "" = none.
        """
        described = b""
        if interface not in self._interfaces:
            self._interfaces[interface] = len(self._interfaces)
            described = self._describe(interface)
        fixed = struct.pack(
            "<IIIII",
            self._interfaces[interface],
            time_ns >> 32,
            time_ns & 0xFFFF_FFFF,
            len(data),
            original_len,
        )
        comments = [(_OPT_COMMENT, comment.encode())] if comment else []
        return described + _block(_ENHANCED, fixed + _padded(data) + _options(*comments))

    def _describe(self, interface: str) -> bytes:
        fixed = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, self._snaplen)
        names = [(_IF_NAME, interface.encode())] if interface else []
        return _block(_INTERFACE, fixed + _options(*names, (_IF_TSRESOL, _NANOSECONDS)))


@dataclass(frozen=True, slots=True)
class _Interface:
    linktype: int
    snaplen: int


def is_pcapng(buf: bytes) -> bool:
    """Whether a file begins as this format does."""
    return buf[:4] == _SECTION.to_bytes(4, "big")


def read_pcapng(buf: bytes) -> Iterator[CapturedFrame]:
    """Yields the frames of a file, of all its sections.

    Raises:
        CaptureError: It is damaged, or holds other frames than Ethernet's.
    """
    if not is_pcapng(buf):
        raise CaptureError("is not a pcapng file")
    order = "<"
    interfaces: list[_Interface] = []
    at, count = 0, 0
    while at < len(buf):
        if len(buf) - at < _BLOCK_MIN:
            raise CaptureError(f"ends within the block at byte {at}")
        if buf[at : at + 4] == _SECTION.to_bytes(4, "big"):
            order, interfaces = _byte_order(buf, at), []
        kind, length = struct.unpack_from(f"{order}II", buf, at)
        if length < _BLOCK_MIN or length % 4:
            raise CaptureError(f"the block at byte {at} has an impossible length ({length})")
        if at + length > len(buf):
            raise CaptureError(f"ends within the block at byte {at}")
        if struct.unpack_from(f"{order}I", buf, at + length - 4) != (length,):
            raise CaptureError(f"the block at byte {at} has two lengths that differ")
        body = bytes(buf[at + 8 : at + length - 4])
        try:
            if kind == _INTERFACE:
                interfaces.append(_Interface(*struct.unpack_from(f"{order}H2xI", body)))
            elif kind in (_PACKET, _SIMPLE, _ENHANCED):
                count += 1
                yield _frame(kind, body, order, interfaces)
        except (struct.error, IndexError):
            raise CaptureError(f"the block at byte {at} is too short for its type") from None
        except _FrameFault as fault:
            raise CaptureError(f"frame {count} {fault}") from None
        at += length


class _FrameFault(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with the frame that is being read."""


def _byte_order(buf: bytes, at: int) -> str:
    magic = buf[at + 8 : at + 12]
    for order in "<>":
        if magic == struct.pack(f"{order}I", _MAGIC):
            return order
    raise CaptureError(f"the section at byte {at} has no byte order")


def _frame(kind: int, body: bytes, order: str, interfaces: list[_Interface]) -> CapturedFrame:
    number = 0
    if kind == _SIMPLE:
        (original,) = struct.unpack_from(f"{order}I", body)
        start = 4
    elif kind == _PACKET:
        number, captured, original = struct.unpack_from(f"{order}H10xII", body)
        start = 20
    else:
        number, captured, original = struct.unpack_from(f"{order}I8xII", body)
        start = 20
    if number >= len(interfaces):
        raise _FrameFault(f"is of interface {number}, which is not described")
    interface = interfaces[number]
    check_linktype(interface.linktype)
    if kind == _SIMPLE:
        # This block does not say how much of the frame it holds: the interface's limit does.
        captured = min(original, interface.snaplen) if interface.snaplen else original
    if captured > CAPTURED_MAX or captured > original or start + captured > len(body):
        raise _FrameFault(f"has an impossible length ({captured} of {original})")
    return CapturedFrame(body[start : start + captured], original)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    if not options:
        return b""
    encoded = b"".join(
        struct.pack("<HH", code, len(value[:_OPTION_MAX])) + _padded(value[:_OPTION_MAX])
        for code, value in options
    )
    return encoded + bytes(4)  # opt_endofopt


def _block(kind: int, body: bytes) -> bytes:
    length = _BLOCK_MIN + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)
