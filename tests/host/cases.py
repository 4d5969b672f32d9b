# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the programs of cases.h, with the sanitizers: each case is a test of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "bpf" / "include"
FLAGS = [
    *("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"),
]


def names(source: Path) -> list[str]:
    """The cases of the source's table."""
    lines = (line.strip() for line in source.read_text().splitlines())
    return [line[5:-2] for line in lines if line.startswith("CASE(") and line.endswith("),")]


def build(source: Path, folder: Path) -> Path:
    """Compiles a source into a folder; returns the program."""
    compiler = shutil.which("gcc")
    assert compiler is not None, "install Debian's package gcc"
    made = folder / source.stem
    command = [compiler, *FLAGS, f"-I{INCLUDE}", str(source), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return made


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
