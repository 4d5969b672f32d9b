# SPDX-License-Identifier: Apache-2.0
"""Runs test_lwf.c, built with the sanitizers; its cases are listed by itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .test_host import FLAGS, INCLUDE

SOURCE = Path(__file__).with_suffix(".c")
CASES = [
    line.strip()[5:-2] for line in SOURCE.read_text().splitlines() if line.startswith("    CASE(")
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    assert compiler is not None, "install Debian's package gcc"
    made = tmp_path_factory.mktemp("host") / "test_lwf"
    command = [compiler, *FLAGS, f"-I{INCLUDE}", str(SOURCE), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return made


@pytest.mark.parametrize("case", CASES)
def test_lwf(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_case_is_forgotten(program: Path) -> None:
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    written = SOURCE.read_text().count("\nstatic void test_")
    assert listed == CASES
    assert len(listed) == written > 0
