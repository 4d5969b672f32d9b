# SPDX-License-Identifier: Apache-2.0
"""Processes that need not import everything anew: a daemon takes longer for that than to start.

They come from a server that has imported the daemon's modules and done nothing else: no thread, no
socket, no channel. From then on each is a process like any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

_CLONE_NEWNET = 0x40000000
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["assent.service.daemon", "assent.service.main"])


class Process:
    """A running process, as `subprocess.Popen` would have it.

    Args:
        path: A Python program.
        arguments: Of the program.
        log: What it says is appended there.
        environment: What it has besides our own; None = what it has not.
        namespace: A network namespace to enter before; None = ours.
    """

    def __init__(
        self,
        path: Path,
        arguments: Sequence[object],
        log: Path,
        environment: Mapping[str, str | None] | None = None,
        namespace: Path | None = None,
    ) -> None:
        # As from the file itself: what a test's module is called is nothing to the server.
        target = {
            "PROGRAM": (str(path), *map(str, arguments)),
            "LOG": str(log),
            "ENVIRONMENT": {**os.environ, **(environment or {})},
            "NAMESPACE": namespace and str(namespace),
        }
        # It ends with us, and does not outlive a test's worker.
        self._process = _CONTEXT.Process(
            target=runpy.run_path, args=(__file__, target, "forked"), daemon=True
        )
        with _without_main():
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """With which it ended; a signal's is negative."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, having looked."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Waits for its end.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        self._process.join(seconds)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            assert self.pid is not None
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keeps multiprocessing from loading our main program, pytest, in the new process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _become(
    program: Sequence[str], log: str, environment: Mapping[str, str | None], namespace: str | None
) -> None:
    """What the forked process does."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for number in (1, 2):
        os.dup2(fd, number)
    os.environ.clear()
    os.environ.update({name: value for name, value in environment.items() if value is not None})
    if namespace is not None:
        where = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        if ctypes.CDLL(None, use_errno=True).setns(where, _CLONE_NEWNET):
            raise SystemExit("setns failed")
        os.close(where)
    sys.argv = list(program)
    sys.path.insert(0, str(Path(program[0]).parent))
    runpy.run_path(program[0], run_name="__main__")


if __name__ == "forked":
    _become(PROGRAM, LOG, ENVIRONMENT, NAMESPACE)  # type: ignore[name-defined]  # noqa: F821
