# SPDX-License-Identifier: Apache-2.0
"""Runs test_ring.c, built with the sanitizers; its cases are listed by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from . import cases

SOURCE = cases.HERE / "test_ring.c"
NATIVE = cases.HERE.parents[1] / "controlplane" / "assent" / "native"
ENGINE = ("flow", "aead", "pool", "gaps", "records")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ring") / "test_ring"
    sources = sorted(path for name in ENGINE for path in NATIVE.glob(f"{name}*.c"))
    command = [
        "gcc", *cases.FLAGS, "-D_GNU_SOURCE", f"-I{cases.INCLUDE}", f"-I{NATIVE}",
        str(SOURCE), *map(str, sources), "-lcrypto", "-o", str(made),
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return made


@pytest.mark.parametrize("case", cases.names(SOURCE))
def test_ring(program: Path, case: str) -> None:
    cases.run(program, case)


def test_no_case_is_forgotten(program: Path) -> None:
    cases.none_is_forgotten(program, SOURCE)
