# SPDX-License-Identifier: Apache-2.0
"""Processes that take session ids, each killed at another line: see test_numi_sessions.

Each is a fork of this process, which has no threads and has imported all that it needs. It is
killed with SIGKILL when it comes to the n-th line of sessions.py, n rising until one of them gets
to its end. What each has been given by then goes to standard output, a line a process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from assent.numiport import sessions
from assent.numiport.sessions import SessionIds

TAKES = 5
BLOCK = 2


def trace_until(last: int) -> Any:
    """A trace function that ends the process at a line of sessions.py."""
    come_to = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal come_to
        if frame.f_code.co_filename != sessions.__file__:
            return None
        if event == "line":
            come_to += 1
            if come_to == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def live(directory: Path, last: int, pipe: int) -> None:
    """Takes ids from a clock that stands still, and says so as soon as it has each."""
    sys.settrace(trace_until(last))
    with SessionIds(directory, random=bytes, block=BLOCK) as ids:
        for _ in range(TAKES):
            os.write(pipe, ids.take(0))
    sys.settrace(None)


def main(directory: Path) -> None:
    """Forks until one gets through."""
    last = 0
    while True:
        last += 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            live(directory, last, writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            given = file.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"killed": killed, "status": status, "given": given.hex()}))
        if not killed:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
