# SPDX-License-Identifier: Apache-2.0
"""A daemon to be measured: started, awaited and stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from assent.client import ApiError, Client
from assent.errors import FailedPrecondition
from assent.v1 import fabric_pb2

_START_S: Final = 120.0
_STOP_S: Final = 60.0


@contextlib.contextmanager
def running(
    instance: str, profile: str, run_dir: Path, state_dir: Path, config: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Runs a daemon, and yields its process and a client that it answers.

    Args:
        instance: Its pins are under that name, and stay when it stops.
        profile: Sizes of its maps.
        run_dir: Short, for its socket is in there.
        state_dir: Its store.
        config: Further settings; None = none.

    Raises:
        FailedPrecondition: It does not start.
    """
    flags: dict[str, object] = {
        "--instance": instance,
        "--state-dir": state_dir,
        "--run-dir": run_dir,
        "--profile": profile,
        "--log-level": "error",
    }
    if config is not None:
        flags["--config"] = config
    command = [str(part) for pair in flags.items() for part in pair]
    with subprocess.Popen([sys.executable, "-m", "assent.service.main", *command]) as process:
        try:
            with Client(run_dir / "api.sock") as client:
                _await(client, process)
                yield process, client
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def memory_mib(process: subprocess.Popen[Any]) -> float:
    """Resident memory; the gate's maps are the kernel's, and are not in it."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise FailedPrecondition("the daemon has ended")


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """CPU time that it has taken so far, in user mode and in the kernel."""
    # Its name may have spaces, but ends with the last parenthesis; then comes field 3.
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _await(client: Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            client.fabric.GetStatus(fabric_pb2.GetStatusRequest())
        except ApiError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise FailedPrecondition("the daemon to be measured does not start") from error
            time.sleep(0.02)
        else:
            return
