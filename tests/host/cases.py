# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the programs of cases.h, with the sanitizers: each case is a test of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..packet import twin

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "controlplane" / "assent" / "native"
NUMIPORT = HERE.parents[1] / "controlplane" / "assent" / "numiport" / "native"
# With the sanitizers, more than -O1 takes the compiler half as long again.
FLAGS = [
    *("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"),
    f"-I{HERE.parents[1] / 'bpf' / 'include'}",
]
ENGINE_FLAGS = ["-D_GNU_SOURCE", f"-I{NATIVE}"]


def names(source: Path) -> list[str]:
    """The cases of the source's table."""
    lines = (line.strip() for line in source.read_text().splitlines())
    return [line[5:-2] for line in lines if line.startswith("CASE(") and line.endswith("),")]


def build(source: Path, flags: Iterable[str] = (), more: Iterable[Path] = ()) -> Path:
    """Compiles a source, where that is due; returns the program.

    Args:
        source: With the program's main function.
        flags: Besides FLAGS; libraries go here.
        more: What it is linked with.
    """
    return _kept(source.stem, [source, *more], flags)


def engine() -> Path:
    """The endpoint's engine, compiled once for all that is linked with it."""
    parts = ("flow", "aead", "pool", "gaps", "records")
    sources = sorted(path for name in parts for path in NATIVE.glob(f"{name}*.c"))
    return _kept("engine.o", sources, ["-r", *ENGINE_FLAGS])


def _kept(name: str, sources: list[Path], flags: Iterable[str]) -> Path:
    compiler = shutil.which("gcc")
    assert compiler is not None, "install Debian's package gcc"
    headers = [*twin.HEADERS, *HERE.glob("*.h"), *NATIVE.glob("*.[ch]"), *NUMIPORT.glob("*.[ch]")]
    command = [compiler, *FLAGS, *map(str, sources), *flags]
    return twin.kept(name, command, [*sources, *headers, Path(__file__)])


def run(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def none_is_forgotten(program: Path, source: Path) -> None:
    """Every test function of the source is in its table, and the table is what the program has."""
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    written = [
        line.split("(")[0].removeprefix("static void test_")
        for line in source.read_text().splitlines()
        if line.startswith("static void test_")
    ]
    assert listed == names(source)
    assert sorted(listed) == sorted(written) != []
