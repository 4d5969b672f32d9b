# SPDX-License-Identifier: Apache-2.0
"""Hosts in network namespaces, with daemons that start fast, and die where they are told to.

A daemon's process is forked by a launcher that has imported all; see mortal.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.client import Client
from assent.dataplane.gate import Gate
from assent.dataplane.tables import SEC

from .faults import Fault

HERE = Path(__file__).resolve().parent
PATIENCE_S = 30.0


class UndeadError(AssertionError):
    """A daemon that should be dead, or alive, is not."""


class Launcher:
    """The process that forks daemons; see mortal.py. They all die with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "mortal.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, **request: Any) -> int:
        """Starts a daemon; returns its process's number."""
        return int(self._ask(request)["pid"])

    def reap(self, pid: int, patience: float = PATIENCE_S) -> int:
        """Waits for a daemon's end; returns its exit status, or minus its signal.

        Raises:
            UndeadError: it does not end.
        """
        status = self._ask({"reap": pid, "patience": patience})["status"]
        if status is None:
            raise UndeadError(f"daemon {pid} goes on after {patience:.0f} s")
        return int(status)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the launcher died"
        return dict(json.loads(answer))

    def close(self) -> None:
        """Ends it, and all daemons that are still there."""
        self._process.kill()
        self._process.communicate()


@dataclass
class Site:
    """One host: its namespace, its directories, and its daemon where it runs."""

    instance: str
    namespace: str
    root: Path
    pin_root: Path
    launcher: Launcher
    pid: int = 0

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def pins(self) -> Path:
        return self.pin_root / self.instance

    @property
    def log(self) -> Path:
        return self.root / "log"

    def start(
        self, *, fault: Fault | None = None, record: Path | None = None, gate: Path | None = None
    ) -> None:
        """Starts the daemon, which may be one that dies at a fault, or has another gate."""
        arguments = {
            "instance": self.instance,
            "state-dir": self.state_dir,
            "run-dir": self.run_dir,
            "pin-root": self.pin_root,
            "profile": "chapter",
            "log-level": "warning",
            "config": self.root / "config.toml",
        }
        self.pid = self.launcher.start(
            netns=f"/run/netns/{self.namespace}",
            arguments=[f"--{name}={value}" for name, value in arguments.items()],
            log=str(self.log),
            gate=None if gate is None else str(gate),
            fault=None if fault is None else [fault.step, fault.moment, fault.nth],
            record=None if record is None else str(record),
        )

    def await_api(self) -> bool:
        """Waits until the daemon answers; returns False where it has ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            # gRPC waits a second after a failed attempt, so it is not the one that tries.
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(str(self.run_dir / "api.sock"))
                return True
            if not self.is_running:
                return False
            time.sleep(0.005)
        raise UndeadError(f"the daemon does not answer:\n{self.log.read_text()}")

    @property
    def is_running(self) -> bool:
        """Whether the daemon's process has not ended."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def kill(self) -> None:
        """Kills the daemon outright."""
        os.kill(self.pid, signal.SIGKILL)
        self.reap()

    def reap(self, patience: float = PATIENCE_S) -> int:
        """Waits for the daemon's end; returns its exit status, or minus its signal."""
        status = self.launcher.reap(self.pid, patience)
        self.pid = 0
        return status

    def client(self) -> Client:
        return Client(self.run_dir / "api.sock", timeout_s=PATIENCE_S)

    def remove(self) -> None:
        """Removes pins and directories."""
        Gate.remove(self.instance, self.pin_root)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def open_site(name: str, pin_root: Path, launcher: Launcher) -> Iterator[Site]:
    """A host with a namespace of its own; gone when the context is left."""
    label = f"races-{os.getpid()}-{name}"
    # Session keys belong on tmpfs, and a database there need not wait for a disk.
    root = Path(tempfile.mkdtemp(prefix=f"{label}-", dir="/dev/shm"))
    # A daemon that is killed every second never comes to its heartbeat: the peer must not mind.
    (root / "config.toml").write_text(f"peer_timeout_ns = {24 * 3600 * SEC}\n")
    site = Site(label, label, root, pin_root, launcher)
    with ExitStack() as undo:
        undo.callback(site.remove)
        ip("netns", "add", label)
        undo.callback(ip, "netns", "del", label)
        undo.callback(lambda: site.pid and site.kill())
        yield site


def ip(*arguments: str) -> None:
    """Runs iproute2."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
