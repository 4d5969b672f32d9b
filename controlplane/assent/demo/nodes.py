# SPDX-License-Identifier: Apache-2.0
"""A daemon on every host of a lab, and `assent` as a user would type it there."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyroute2 import netns
from rich.console import Console

from assent.client import Client
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.demo.lab import Host, Lab, open_lab
from assent.errors import AssentError, FailedPrecondition
from assent.v1.fabric_pb2 import GetStatusRequest

_RUN_ROOT = Path("/run/assent")
_START_S = 30

Layout = Callable[[Sequence[str]], contextlib.AbstractContextManager[Lab]]


class DemoError(AssentError):
    """The fabric could not be carried through its paces; the message says where it stopped."""


@dataclass(frozen=True, slots=True)
class Node:
    """A host with its daemon."""

    host: Host
    instance: str
    socket: Path
    run_dir: Path
    state_dir: Path


class Nodes:
    """The hosts of a lab with their daemons. Leaving the context undoes all of it.

    Args:
        names: of the hosts.
        console: where commands are shown.
        layout: how the hosts are joined.
    """

    def __init__(self, names: Sequence[str], console: Console, layout: Layout = open_lab) -> None:
        self._names = names
        self._layout = layout
        self.console = console
        self._undo = contextlib.ExitStack()
        self._daemons: dict[str, subprocess.Popen[str]] = {}
        self._commands: list[subprocess.Popen[str]] = []
        self._nodes: dict[str, Node] = {}
        self.lab: Lab
        self.scratch: Path

    def __enter__(self) -> Self:
        """Lays out the hosts; daemons are started by start()."""
        with contextlib.ExitStack() as undo:
            self.scratch = Path(
                undo.enter_context(tempfile.TemporaryDirectory(prefix="assent-demo-"))
            )
            self.lab = undo.enter_context(self._layout(self._names))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops processes, removes pins and namespaces: in the reverse order of their making."""
        self._undo.close()

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def process(self, name: str) -> subprocess.Popen[str]:
        """A host's daemon."""
        return self._daemons[name]

    def client(self, name: str) -> Client:
        """A client of a host's daemon."""
        return Client(self._nodes[name].socket)

    def start_all(self) -> None:
        """Starts assentd on every host and waits until each answers."""
        for name, host in self.lab.hosts.items():
            instance = f"{self.lab.label.removeprefix('assent-')}-{name}"
            run_dir = _RUN_ROOT / instance
            node = Node(host, instance, run_dir / "api.sock", run_dir, self.scratch / name)
            self._undo.callback(_remove_node, node)
            self._nodes[name] = node
            self.start(name)
        for name in self._nodes:
            self.wait_ready(name)

    def start(self, name: str) -> None:
        """Starts a host's daemon."""
        node = self._nodes[name]
        command = [
            _program("assentd"),
            f"--instance={node.instance}",
            f"--state-dir={node.state_dir}",
            f"--run-dir={node.run_dir}",
            f"--socket={node.socket}",
            "--log-level=warning",
        ]
        self._echo(name, command, "&")
        self._daemons[name] = self._spawn(node, command)

    def wait_ready(self, name: str) -> None:
        """Waits until a host's daemon answers.

        Raises:
            DemoError: it ended, or does not answer.
        """
        deadline = time.monotonic() + _START_S
        while True:
            # A call in vain takes more of the CPU than a look.
            if self._nodes[name].socket.exists():
                with contextlib.suppress(AssentError), self.client(name) as client:
                    client.fabric.GetStatus(GetStatusRequest())
                    return
            if self._daemons[name].poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"assentd on {name} did not come up; its last words are above")
            time.sleep(0.02)

    def kill(self, name: str) -> None:
        """Kills a host's daemon outright, as a crash would."""
        self._daemons[name].kill()
        self._daemons[name].wait()

    def cli(self, name: str, *args: str, show: bool = False) -> str:
        """Runs `assent` on a host, as a user would type it; returns what it printed.

        Raises:
            DemoError: it failed; the message is its own.
        """
        self._echo(name, ["assent", *args])
        said = self.ask(name, *args)
        if show:
            self.console.print(said.rstrip(), markup=False, highlight=False, soft_wrap=True)
        return said

    def ask(self, name: str, *args: str) -> str:
        """As cli(), without showing anything.

        Raises:
            DemoError: it failed; the message is its own.
        """
        node = self._nodes[name]
        done = subprocess.run(
            node.host.command(_program("assent"), "--socket", str(node.socket), *args),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"on {name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def background(self, name: str, *args: str) -> Background:
        """Starts `assent send` or `assent recv` on a host and waits until its flow is open.

        Raises:
            DemoError: it failed; the message is its own.
        """
        background = self._in_background(name, args, stderr=subprocess.PIPE)
        background.wait_open()
        return background

    def on_terminal(self, name: str, *args: str) -> Background:
        """The same, for a command whose progress bar the user is to see; does not wait.

        Where there is no terminal its stderr is passed on line by line, like the others'.
        """
        stderr = None if self.console.is_terminal else subprocess.PIPE
        return self._in_background(name, args, stderr=stderr)

    def stop_commands(self) -> None:
        """Ends the commands that still run in the background; the daemons go on."""
        while self._commands:
            _stop(self._commands.pop())

    def _in_background(self, name: str, args: Sequence[str], stderr: int | None) -> Background:
        node = self._nodes[name]
        self._echo(name, ["assent", *args], "&")
        command = [_program("assent"), "--socket", str(node.socket), *args]
        process = self._spawn(node, command, stdout=subprocess.PIPE, stderr=stderr)
        self._commands.append(process)
        return Background(name, process, self.console)

    def _spawn(
        self,
        node: Node,
        command: Sequence[str],
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # Whatever happens to this process, its children do not outlive it. Not a preexec_fn:
            # between fork and exec of a process with threads, Python code may hang.
            node.host.command("setpriv", "--pdeathsig", "KILL", "--", *command),
            text=True,
            stdout=stdout,
            stderr=stderr,
        )
        self._undo.callback(_stop, process)
        return process

    def _echo(self, name: str, command: Sequence[str], suffix: str = "") -> None:
        shown = shlex.join([Path(command[0]).name, *command[1:]])
        self.console.print(
            f"{name}# {shown} {suffix}".rstrip(), markup=False, highlight=False, soft_wrap=True
        )


def sweep() -> None:
    """Removes what is left of demos whose process was killed outright."""
    for name in netns.listnetns():
        if _is_orphan(name.removeprefix("assent-")):
            netns.remove(name)
    for root, remove in ((PIN_ROOT, Gate.remove), (_RUN_ROOT, _remove_run_dir)):
        for path in list(root.iterdir()) if root.is_dir() else []:
            if _is_orphan(path.name):
                remove(path.name)


class Background:
    """A command that runs while other things happen; its stderr is passed on line by line."""

    def __init__(self, name: str, process: subprocess.Popen[str], console: Console) -> None:
        self._name = name
        self._process = process
        self.console = console
        self._open = threading.Event()
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, name=f"stderr of {name}", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_open(self) -> None:
        """Waits until the command says that its flow is open."""
        deadline = time.monotonic() + _START_S
        while not self._open.wait(0.02):
            if not self.running or time.monotonic() > deadline:
                self._reader.join(1)
                status = f"no answer (exit status {self._process.poll()})"
                raise DemoError(f"on {self._name}: {' '.join(self._said) or status}")

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Waits for the end; returns the JSON that it printed.

        Raises:
            DemoError: it failed, or took longer than that.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DemoError(f"on {self._name}: no end after {timeout_s:.0f} s") from None
        self._reader.join(1)
        if self._process.returncode:
            raise DemoError(f"on {self._name}: {' '.join(self._said[-1:])}")
        # A few hundred bytes: they fit the pipe, so the process never waited for a reader.
        result: dict[str, Any] = json.loads(self._process.stdout.read())  # type: ignore[union-attr]
        return result

    def kill(self) -> None:
        """Kills it outright, as a crash would."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self._said.append(line.strip())
            # On a terminal the sender's bar says how far it is.
            if not (self.console.is_terminal and line.rstrip().endswith("%")):
                self.console.print(
                    f"  {self._name}: {line.rstrip()}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            if "is open" in line:
                self._open.set()


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FailedPrecondition(f"{name} is not installed beside this Python; run `make build`")
    return found


def _is_orphan(instance: str) -> bool:
    """Whether a name is one that a demo gave, and its process is gone."""
    match = re.fullmatch(r"demo-(\d+)-[a-z]+", instance)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def _remove_node(node: Node) -> None:
    Gate.remove(node.instance)
    _remove_run_dir(node.instance)


def _remove_run_dir(instance: str) -> None:
    shutil.rmtree(_RUN_ROOT / instance, ignore_errors=True)
    with contextlib.suppress(OSError):  # others may be there
        _RUN_ROOT.rmdir()


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
