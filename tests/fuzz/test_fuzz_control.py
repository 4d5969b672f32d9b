# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz_control.py: for some seconds, or, under `make fuzz`, for FUZZ_RUNS inputs.

Atheris is in the extra "fuzz"; where it is not installed, the seeds alone are read.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KEPT = HERE.parents[1] / "build" / "fuzz"
RUNS = os.environ.get("FUZZ_RUNS")
SHORT_SECONDS = 4

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="Atheris is not installed"
)


def target(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "fuzz_control.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")


def test_control(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    written = target("--seeds", seeds)
    assert written.returncode == 0, written.stderr
    KEPT.mkdir(parents=True, exist_ok=True)
    corpus = KEPT / "control" if RUNS else tmp_path / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    effort = f"-runs={RUNS}" if RUNS else f"-max_total_time={SHORT_SECONDS}"
    done = target(
        *(effort, "-seed=1", "-max_len=8192", "-print_final_stats=1"),
        *(f"-artifact_prefix={KEPT}/crash-control-", corpus, seeds),
    )
    assert done.returncode == 0, done.stderr[-6000:]
    (line,) = (line for line in done.stderr.splitlines() if "number_of_executed_units" in line)
    assert int(line.split()[-1]) >= int(RUNS or 1000)
