# SPDX-License-Identifier: Apache-2.0
"""Captures in either format, told apart by their first bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import HEADER_LEN
from assent.wire.lwf import HEADER_LEN as LWF_HEADER_LEN
from assent.wire.pcap import CapturedFrame, CaptureError, is_pcap, read_pcap
from assent.wire.pcapng import is_pcapng, read_pcapng

__all__ = ["HEAD_LEN", "VERDICT_LEN", "CaptureError", "CapturedFrame", "read_capture"]

HEAD_LEN: Final = ETHERNET_HEADER_LEN + HEADER_LEN
"""Bytes of a frame that a verdict reads, and that the gate's events keep."""

VERDICT_LEN: Final = ETHERNET_HEADER_LEN + 4 + LWF_HEADER_LEN
"""Bytes of a frame that any verdict reads: a VLAN tag and the longest header of all."""


def read_capture(buf: bytes) -> Iterator[CapturedFrame]:
    """Yields the frames of a capture.

    Args:
        buf: The whole file; whatever slices into bytes will do, a mapped file too.

    Raises:
        CaptureError: It is no capture, is damaged, or holds other frames than Ethernet's.
    """
    if not len(buf):
        raise CaptureError("is empty")
    if is_pcapng(buf):
        return read_pcapng(buf)
    if is_pcap(buf):
        return read_pcap(buf)
    raise CaptureError("is neither a pcap nor a pcapng file")
