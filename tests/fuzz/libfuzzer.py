# SPDX-License-Identifier: Apache-2.0
"""A run of a fuzz target, in C or in Python: for some seconds, or for FUZZ_RUNS inputs.

`make fuzz` sets FUZZ_RUNS: the corpus that such a run finds is kept in build/fuzz/<target>, and
the next one goes on from there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "build" / "fuzz"
RUNS = os.environ.get("FUZZ_RUNS")
SHORT_SECONDS = 4


def run(
    name: str,
    command: Sequence[str],
    seeds: Path,
    scratch: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Fuzzes a target.

    Args:
        name: Of the target; what breaks a claim is left in build/fuzz as crash-<name>-*.
        command: That takes libFuzzer's options, and folders.
        seeds: What it begins with, beside what was found before.
        scratch: Of this test.
        environment: Beside the test's own.
    """
    corpus = KEPT / name if RUNS else scratch / "corpus"
    for folder in (KEPT, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            *command,
            f"-runs={RUNS}" if RUNS else f"-max_total_time={SHORT_SECONDS}",
            *("-seed=1", "-max_len=8192", "-print_final_stats=1"),
            f"-artifact_prefix={KEPT}/crash-{name}-",
            *(str(corpus), str(seeds)),
        ],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-6000:]
    print(done.stderr[-1500:])
    (line,) = (line for line in done.stderr.splitlines() if "number_of_executed_units" in line)
    assert int(line.split()[-1]) >= int(RUNS or 1000)
