# SPDX-License-Identifier: Apache-2.0
"""What arrives, as evidence: the names of frames that were taken, and all of those that were not.

Seed TCP/UP, section 7.1. Refused frames cost whoever sends them nothing. So only so many of them
are written down, lest they push everything else out of the log; the rest is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final
from uuid import UUID

from assent.service.bindings.links import Link
from assent.service.covenants.evidence import EvidenceLog
from assent.wire.tcpup import FrameType

BURST: Final = 64
"""Refused frames that are written down at once."""
INTERVAL_NS: Final = 1_000_000_000
"""After that, one each second."""
KEPT: Final = 4_096
"""Bytes of a refused frame; of the rest, the hash must do."""
UNNAMED: Final = frozenset({FrameType.DATA, FrameType.HEARTBEAT})
"""What is too frequent to be written down each time, and decides nothing."""


def names_in(frame: bytes) -> tuple[UUID, int]:
    """Who a whole frame says that it is of, and of which covenant; unverified."""
    return UUID(bytes=frame[16:32]), int.from_bytes(frame[4:8], "big")


class Arrivals:
    """Writes them down.

    Args:
        evidence: The log.
        monotonic: Monotonic clock, ns.
    """

    def __init__(self, evidence: EvidenceLog, monotonic: Callable[[], int]) -> None:
        self._evidence = evidence
        self._now = monotonic
        self._due = 0
        self._left_out = 0

    def took(self, frame: bytes, handle: int) -> None:
        """A frame was taken; `handle` is its covenant's, 0 where that has none yet."""
        kind = FrameType(frame[0] & 0xF)
        if kind not in UNNAMED:
            self._evidence.append({"frame": kind.name, "covenant": handle, "way": "received"})

    def refused(self, link: Link, frame: bytes, why: str, handle: int) -> None:
        """A frame was dropped.

        Args:
            link: By which it came.
            frame: All of it.
            why: As the engine counts it.
            handle: Of the covenant that it names; 0 where there is none.
        """
        now = self._now()
        self._due = max(self._due, now)
        if self._due > now + (BURST - 1) * INTERVAL_NS:
            self._left_out += 1
            return
        self._due += INTERVAL_NS
        record: dict[str, object] = {
            "refused": why,
            "covenant": handle,
            "link": link.name,
            "bytes": frame[:KEPT],
            "length": len(frame),
            "sha256": hashlib.sha256(frame).digest(),
        }
        if self._left_out:
            record["left_out"], self._left_out = self._left_out, 0
        self._evidence.append(record)
