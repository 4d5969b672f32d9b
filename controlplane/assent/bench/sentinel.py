# SPDX-License-Identifier: Apache-2.0
"""Sends one frame through a pinned gate, over and over, and says when its verdict changes.

A process of its own, beside the one that makes the change:

    python -m assent.bench.sentinel PROGRAM COUNTERS INDEX[,INDEX...]

Each line on its standard input is a frame in hexadecimal digits. It answers "ready" when the gate
has decided on it once, then, when a counter has moved, the monotonic time in ns right after the
verdict that moved it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from assent.dataplane.libbpf import Map, Program


def main(program: str, counters: str, first: str) -> None:
    """Serves until its standard input ends.

    Args:
        program: path of the pinned program.
        counters: path of the pinned counters.
        first: numbers of the counters to look at, with commas between them.
    """
    indices = [int(index).to_bytes(4, sys.byteorder) for index in first.split(",")]
    with Program.open_pinned(Path(program)) as gate, Map.open_pinned(Path(counters)) as table:

        def counted() -> list[list[bytes] | None]:
            return [table.lookup_per_cpu(index) for index in indices]

        for line in sys.stdin:
            frame = bytes.fromhex(line)
            gate.test_run(frame)
            before = counted()
            print("ready", flush=True)
            while True:
                gate.test_run(frame)
                moment = time.monotonic_ns()
                if counted() != before:
                    break
            print(moment, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
