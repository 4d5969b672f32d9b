# SPDX-License-Identifier: Apache-2.0
"""A gate and its twin: the program in the kernel, and the same source compiled for a process.

    snapshot of the maps --> differential (tests/host/differential.c) <-- descriptors of the same

The native program runs each frame through both and compares. It is compiled with ASan and UBSan
into build/host, where it stays until a source is newer.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.dataplane.relay import RelayConfig, RelayTable

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "tests" / "host"
BUILD = ROOT / "build" / "host"
# The virtual machine sees the repository and cannot write to it.
ELSEWHERE = Path(tempfile.gettempdir()) / "assent-host"
HEADERS = [*(ROOT / "bpf").glob("*.h"), *(ROOT / "bpf" / "include" / "assent").glob("*.h")]
INCLUDES = [f"-I{ROOT / 'bpf'}", f"-I{ROOT / 'bpf' / 'include'}", f"-I{HOST}"]
WARNINGS = [*("-Wall", "-Wextra", "-Werror"), *("-Wno-unused-parameter", "-Wno-unused-variable")]
# BPF reads a header at any alignment, and so does this build of it: nothing here is vectorized.
SANITIZERS = [
    *("-fsanitize=address,undefined", "-fno-sanitize=alignment"),
    *("-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
]

# A virtual machine may be an emulated one, and thirty times as slow.
IN_VM = "ASSENT_VM" in os.environ
NOT_OURS = -1
RINGBUF, XSKMAP, DEVMAP = 27, 17, 14
# With these a rate limit does not depend on how fast a test runs: see frames.c.
HUGE_INTERVAL, HUGE_BURST = 1 << 40, 1 << 62


class DifferenceError(AssertionError):
    """The two sides disagree, or the host's side broke a rule of its own."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of the native program found: frames, seconds, and how often each verdict."""

    frames: int
    seconds: float
    verdicts: dict[str, int]


def compiled(
    name: str,
    compiler: str,
    sources: list[Path],
    flags: list[str],
    headers: Iterable[Path] = (),
) -> Path:
    """Compiles a program into build/host, unless it is there and newer than all it is made of.

    `headers`: those that it includes besides the gate's and those of tests/host.
    """
    command = [
        *(compiler, "-std=gnu11", "-O2", "-g", *WARNINGS, *SANITIZERS, *INCLUDES),
        *(*map(str, sources), "-rdynamic", *flags),
    ]
    return kept(name, command, [*sources, *headers, *HEADERS, *HOST.glob("*.h"), Path(__file__)])


def kept(name: str, command: list[str], inputs: Iterable[Path]) -> Path:
    """Compiles into build/host, unless it is there and newer than its inputs.

    Whoever comes second, as another process that runs tests, waits for the first.

    Args:
        name: Of what is made.
        command: The compiler's, without where it puts it.
        inputs: All that it is made of.
    """
    newest = max(path.stat().st_mtime for path in inputs)
    for folder in (BUILD, ELSEWHERE):
        made = folder / name
        if made.exists() and made.stat().st_mtime > newest:
            return made
    with _alone(name) as folder:
        made = folder / name
        if made.exists() and made.stat().st_mtime > newest:
            return made
        fresh = folder / f"{name}.{os.getpid()}"
        command = [*command, "-o", str(fresh)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        fresh.rename(made)
    return made


def kept_in(name: str, make: Callable[[Path], None]) -> Path:
    """Has a folder in build/host filled, unless it is there; its name says all of its inputs."""
    for folder in (BUILD, ELSEWHERE):
        if (folder / name).exists():
            return folder / name
    with _alone(name) as folder:
        if not (folder / name).exists():
            fresh = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
            make(fresh)
            fresh.rename(folder / name)
        return folder / name


@contextlib.contextmanager
def _alone(name: str) -> Iterator[Path]:
    """The folder to build in, while no other process makes the same."""
    folder = BUILD if os.access(ROOT, os.W_OK) else ELSEWHERE
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def build() -> Path:
    """Compiles the native program where that is due, and returns it."""
    names = ("differential.c", "frames.c", "frames_lwf.c", "gate_host.c", "maps.c")
    flags = ["-fno-tree-vectorize", "-lbpf"]
    return compiled("differential", "gcc", [HOST / name for name in names], flags)


@functools.cache
def program() -> Path:
    """Returns the native program, made of the same headers as the packaged gate."""
    newest = max(path.stat().st_mtime for path in HEADERS)
    assert packaged("gate").stat().st_mtime >= newest, "the gate is out of date: run `make build`"
    return build()


def snapshot(gate: Gate, path: Path) -> None:
    """Writes what the gate's maps hold; tests/host/maps.h has the format."""
    with path.open("wb") as file:
        for name in gate.map_names:
            table = gate.map(name)
            entries = list(_entries(table))
            file.write(
                struct.pack(
                    "=32s5I",
                    name.encode(),
                    *(table.type, table.key_size, table.value_size, table.max_entries),
                    len(entries),
                )
            )
            file.writelines(key + value for key, value in entries)


def _entries(table: Map) -> Iterator[tuple[bytes, bytes]]:
    """Yields what a map holds; of a per-CPU map, the sum of all CPUs, word by word."""
    if table.type in (RINGBUF, XSKMAP):
        return
    if table.type == DEVMAP:  # the kernel lists none of them in one go
        keys = (number.to_bytes(4, sys.byteorder) for number in range(table.max_entries))
        yield from ((key, value) for key in keys if (value := table.lookup(key)) is not None)
        return
    if not table.per_cpu:
        yield from table.items()
        return
    words = struct.Struct(f"={table.value_size // 8}Q")
    for key, values in table.items_per_cpu():
        columns = zip(*(words.unpack(value) for value in values), strict=True)
        yield key, words.pack(*(sum(column) % 2**64 for column in columns))


class Twin:
    """A gate, to be compared with its source compiled for the host."""

    def __init__(self, gate: Gate, scratch: Path) -> None:
        self.gate = gate
        self._snapshot = scratch / "snapshot"
        config = gate.tables.config.read()
        gate.tables.config.write(
            replace(
                config,
                handshake_interval=HUGE_INTERVAL,
                handshake_burst=HUGE_BURST,
                control_interval=HUGE_INTERVAL,
                control_burst=HUGE_BURST,
                lamp_interval=HUGE_INTERVAL,
                lamp_burst=HUGE_BURST,
                event_interval=0,  # every refused frame is an event
            )
        )
        RelayTable(gate).configure(RelayConfig(HUGE_INTERVAL, HUGE_BURST))

    def generate(self, frames: int, seed: int) -> Report:
        """Runs generated frames.

        Raises:
            DifferenceError: with the frame at which it showed.
        """
        return self._report(self._run("generate", str(seed), str(frames)))

    def feed(self, frames: Iterable[bytes]) -> list[str | None]:
        """Runs these frames, in order; each that is not admitted must leave no mark.

        Returns:
            The verdict on each; None = not ours.

        Raises:
            DifferenceError: with the frame at which it showed.
        """
        records = b"".join(struct.pack("=H", len(frame)) + frame for frame in frames)
        found = self._run("feed", records=records)
        return [self._name(reason) for reason in found["reasons"]]

    def _run(self, mode: str, *arguments: str, records: bytes = b"") -> dict[str, Any]:
        snapshot(self.gate, self._snapshot)
        maps: dict[str, Map] = {name: self.gate.map(name) for name in self.gate.map_names}
        fds = [self.gate.program.fd, *(table.fd for table in maps.values())]
        done = subprocess.run(
            [
                *(str(program()), mode, str(self._snapshot), str(fds[0]), *arguments),
                *(f"{name}={table.fd}" for name, table in maps.items()),
            ],
            input=records,
            capture_output=True,
            check=False,
            pass_fds=fds,
            timeout=170,
        )
        if done.returncode:
            raise DifferenceError(done.stdout.decode() + done.stderr.decode())
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _report(self, found: dict[str, Any]) -> Report:
        verdicts = {self._name(int(reason)): count for reason, count in found["verdicts"].items()}
        return Report(
            frames=found["frames"],
            seconds=found["seconds"],
            verdicts={name or "not_ours": count for name, count in verdicts.items()},
        )

    def _name(self, reason: int) -> str | None:
        return None if reason == NOT_OURS else self.gate.tables.reasons.name(reason)
