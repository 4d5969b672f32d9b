# SPDX-License-Identifier: Apache-2.0
"""What a look at the bloom filter costs: a program that looks, beside one that does not."""

from __future__ import annotations

from statistics import median
from typing import Final

from assent.bench.crowd import Crowd
from assent.dataplane.profiles import DEFAULT

GOAL_NS: Final = 10.0
_STRANGERS: Final = 65_536


def cost(repeat: int, runs: int, cells: int) -> float:
    """Returns ns a look, for strangers in random order: the median of the differences.

    Args:
        repeat: frames a measurement.
        runs: measurements of either program.
        cells: that the filter knows.
    """
    with Crowd(DEFAULT, _STRANGERS) as crowd:
        crowd.settle(cells)
        crowd.strangers(_STRANGERS)
        for program in ("bench_bloom", "bench_copy"):
            crowd.run(program, min(repeat, _STRANGERS))  # warm caches
        rounds = [
            crowd.run("bench_bloom", repeat).ns - crowd.run("bench_copy", repeat).ns
            for _ in range(runs)
        ]
    return median(rounds)
