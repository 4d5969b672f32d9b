# SPDX-License-Identifier: Apache-2.0
"""Reading captures in the classic pcap format (draft-ietf-opsawg-pcap, sections 4 and 5).

Either byte order, timestamps in microseconds or nanoseconds: they differ in the magic number alone,
and a verdict does not ask when a frame was captured.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.errors import RemoteError

LINKTYPE_ETHERNET: Final = 1
CAPTURED_MAX: Final = 1 << 18
"""Most bytes of one frame that a capture may hold: what tcpdump and Wireshark take for sane."""

# As the first four bytes of a file read.
_ORDERS: Final = {
    bytes.fromhex("a1b2c3d4"): ">",  # microseconds
    bytes.fromhex("a1b23c4d"): ">",  # nanoseconds
    bytes.fromhex("d4c3b2a1"): "<",
    bytes.fromhex("4d3cb2a1"): "<",
}
_FILE_HEADER_LEN: Final = 24
_RECORD_HEADER_LEN: Final = 16
_LINKTYPE_AT: Final = 20
_LINKTYPE_MASK: Final = 0xFFFF
_FCS_PRESENT: Final = 1 << 26


class CaptureError(RemoteError):
    """A file that is not the capture it should be; the message says where it fails."""


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame of a capture.

    Attributes:
        data: What was kept of it, from its beginning.
        original_len: Bytes that it had.
    """

    data: bytes
    original_len: int


def is_pcap(buf: bytes) -> bool:
    """Whether a file begins as this format does."""
    return buf[:4] in _ORDERS


def read_pcap(buf: bytes) -> Iterator[CapturedFrame]:
    """Yields the frames of a file.

    Raises:
        CaptureError: It is damaged, or holds other frames than Ethernet's.
    """
    order = _ORDERS.get(buf[:4])
    if order is None:
        raise CaptureError("is not a pcap file")
    if len(buf) < _FILE_HEADER_LEN:
        raise CaptureError("ends within its file header")
    (network,) = struct.unpack_from(f"{order}I", buf, _LINKTYPE_AT)
    check_linktype(network & _LINKTYPE_MASK)
    if network & _FCS_PRESENT:
        raise CaptureError("its frames end in a check sequence, which the gate never sees")
    record = struct.Struct(f"{order}8xII")
    at, count = _FILE_HEADER_LEN, 0
    while at < len(buf):
        count += 1
        if at + _RECORD_HEADER_LEN > len(buf):
            raise CaptureError(f"ends within the header of frame {count}")
        captured, original = record.unpack_from(buf, at)
        at += _RECORD_HEADER_LEN
        if captured > CAPTURED_MAX or captured > original:
            raise CaptureError(f"frame {count} has an impossible length ({captured} of {original})")
        if at + captured > len(buf):
            raise CaptureError(f"ends within frame {count}")
        yield CapturedFrame(bytes(buf[at : at + captured]), original)
        at += captured


def check_linktype(linktype: int) -> None:
    """Makes sure that a capture's frames have Ethernet headers.

    Raises:
        CaptureError: They have others.
    """
    if linktype != LINKTYPE_ETHERNET:
        raise CaptureError(
            f"its frames are of link type {linktype}, not {LINKTYPE_ETHERNET} (Ethernet)"
        )
