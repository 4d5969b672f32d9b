# SPDX-License-Identifier: Apache-2.0
"""Runs test_departure.c, built with the sanitizers; its cases are listed by itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .test_host import FLAGS, HERE, INCLUDE

SOURCE = HERE / "test_departure.c"


def case_names() -> list[str]:
    """Each CASE(name) of the source's table, so that each is a test of its own."""
    lines = (line.strip() for line in SOURCE.read_text().splitlines())
    return [line[5:-2] for line in lines if line.startswith("CASE(") and line.endswith("),")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    assert compiler is not None, "install Debian's package gcc"
    made = tmp_path_factory.mktemp("host") / "test_departure"
    command = [compiler, *FLAGS, f"-I{INCLUDE}", str(SOURCE), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return made


@pytest.mark.parametrize("case", case_names())
def test_departure(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_case_is_forgotten(program: Path) -> None:
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    written = [
        line.split("(")[0].removeprefix("static void test_")
        for line in SOURCE.read_text().splitlines()
        if line.startswith("static void test_")
    ]
    assert listed == case_names()
    assert sorted(listed) == sorted(written)
