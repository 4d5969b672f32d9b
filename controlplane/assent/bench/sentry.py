# SPDX-License-Identifier: Apache-2.0
"""The other end of the sentinel: says when it shall send, and hears when the verdict changed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import Profile
from assent.dataplane.reasons import reasons
from assent.dataplane.tables.counters import STRIDE
from assent.errors import FailedPrecondition
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header

FLOW: Final = 1
"""That its frames are of."""


class Sentry:
    """The process that sends the frames; see sentinel.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def watch(self, frame: str) -> None:
        """Has it send a frame, and returns when the gate has decided on it once.

        Args:
            frame: In hexadecimal digits.
        """
        self._say(frame)
        if self._hear() != "ready":
            raise FailedPrecondition("the sentinel is not ready")

    def moment(self) -> int:
        """When the verdict changed, monotonic ns; waits for that."""
        return int(self._hear())

    def _say(self, line: str) -> None:
        if self._process.stdin is None:
            raise FailedPrecondition("the sentinel has no standard input")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise FailedPrecondition("the sentinel has ended")
        return line.strip()


@contextlib.contextmanager
def posted(instance: str, profile: Profile, reason: str) -> Iterator[Sentry]:
    """Posts one that watches for a reason to refuse frames of the loopback interface.

    Args:
        instance: Its gate is watched.
        profile: The gate's.
        reason: As the counters call it.
    """
    number = reasons().number(reason)
    with Gate.open(instance, profile) as gate:
        blocks = gate.map("counters").max_entries // (2 * STRIDE)
    # Whichever block the loopback interface counts in, of what arrives.
    counters = ",".join(str(2 * block * STRIDE + number) for block in range(min(blocks, 2)))
    pins: Path = PIN_ROOT / instance
    command = [
        *(sys.executable, "-m", "assent.bench.sentinel"),
        *(str(pins / "programs" / "gate"), str(pins / "maps" / "counters"), counters),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Sentry(process)
        finally:
            process.kill()


def untagged(remote: CellID, local: CellID) -> bytes:
    """A data frame of a session with a tag that nobody made."""
    header = Header(remote, local, 1, Flags.DATA | Flags.BLOCK, 0, FLOW)
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()
