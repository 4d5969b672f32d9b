# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz programs in Python: briefly, or, under `make fuzz`, for longer.

Atheris is in the extra `dev`, but for machines and Pythons that it has no wheels for: there these
are skipped.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from . import libfuzzer

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="Atheris is not installed"
)


@pytest.mark.parametrize("name", ["control", "covenant", "numi"])
def test_python(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / f"fuzz_{name}.py")]
    seeds = tmp_path / "seeds"
    written = subprocess.run(
        [*command, "--seeds", str(seeds)], capture_output=True, text=True, check=False
    )
    assert written.returncode == 0, written.stderr
    libfuzzer.run(name, command, seeds, tmp_path)
