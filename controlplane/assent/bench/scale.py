# SPDX-License-Identifier: Apache-2.0
"""What a million sessions cost: frames of random cells, against the same with a thousand cells.

With one frame over and over, all that a verdict reads is in the CPU's first cache. Here each frame
is of another cell: with a thousand, their entries are in the second cache; with a million, nearly
every read goes to memory. Both run in the same rounds, one after the other, so that a change of the
CPU's clock cancels.
"""

from __future__ import annotations

import contextlib
import os
from statistics import median
from typing import Any, Final

from assent.bench.crowd import Crowd
from assent.dataplane.profiles import LARGE, Profile
from assent.dataplane.reasons import ADMITTED
from assent.errors import FailedPrecondition

FRAMES: Final = 1_000_000
CELLS: Final = 1_000_000
FEW: Final = 1_000
ROUNDS: Final = 10
IN_A_ROW: Final = 16
"""Frames of one cell, where a sender has more than one to send."""
GOAL: Final = 2.0
"""Times the figure of few cells that many cells may cost."""


def measure(
    cells: int = CELLS, few: int = FEW, frames: int = FRAMES, profile: Profile = LARGE
) -> dict[str, Any]:
    """Measures admission of random cells' frames, and the bloom filter at its design fill.

    Args:
        cells: in session, in the large case.
        few: in the small one.
        frames: of each, in ROUNDS rounds.
        profile: of both gates.

    Returns:
        {"cells": ..., "few": ..., "frames": ..., "admit_ns": ..., "admit_few_ns": ...,
        "admit_rows_ns": ..., "in_a_row": ..., "copy_ns": ..., "ratio": ..., "bloom": {"ns": ...,
        "words": ..., "fill": ..., "expected_rate": ..., "measured_rate": ..., "strangers": ...},
        "kernel": its release}. The ns of admission include those of the copy; `rows` is the same
        with many cells, each of which sends `in_a_row` frames when it is its turn.

    Raises:
        FailedPrecondition: BPF is not permitted, or a frame met another verdict than planned.
        ResourceExhausted: No memory for maps of that size.
    """
    turn = frames // ROUNDS
    with contextlib.ExitStack() as stack:
        many_cells = stack.enter_context(Crowd(profile, frames))
        few_cells = stack.enter_context(Crowd(profile, frames))
        many_cells.settle(cells)
        few_cells.settle(few)
        for crowd in (many_cells, few_cells):
            crowd.speak(turn * ROUNDS)
        rounds = [(_admit(many_cells, turn), _admit(few_cells, turn)) for _ in range(ROUNDS)]
        many_cells.speak(turn * ROUNDS, IN_A_ROW)
        rows = [_admit(many_cells, turn) for _ in range(ROUNDS)]
        bloom = _strangers(many_cells, turn)
        copy = median(many_cells.run("bench_copy", turn).ns for _ in range(ROUNDS))
    return {
        "cells": cells,
        "few": few,
        "frames": turn * ROUNDS,
        "admit_ns": round(median(one for one, _ in rounds), 1),
        "admit_few_ns": round(median(one for _, one in rounds), 1),
        "admit_rows_ns": round(median(rows), 1),
        "in_a_row": IN_A_ROW,
        "copy_ns": round(copy, 1),
        "ratio": round(median(one / other for one, other in rounds), 2),
        "bloom": bloom,
        "kernel": os.uname().release,
    }


def _admit(crowd: Crowd, count: int) -> float:
    turn = crowd.run("bench_random", count)
    if turn.verdicts != {ADMITTED: count}:
        raise FailedPrecondition(
            f"the bench measures the wrong thing: {count} frames were to be admitted, and it "
            f"counts {turn.verdicts}"
        )
    return turn.ns


def _strangers(crowd: Crowd, turn: int) -> dict[str, Any]:
    """What the filter costs, and how many of those that nobody knows get past it."""
    count = turn * ROUNDS
    crowd.strangers(count)
    rounds = [
        (crowd.run("bench_bloom", turn).ns, crowd.run("bench_copy", turn).ns) for _ in range(ROUNDS)
    ]
    # The one that is counted takes each header once.
    crowd.rewind(count)
    crowd.run("bench_bloom", count)
    bloom = crowd.tables.bloom
    return {
        "ns": round(median(one - other for one, other in rounds), 2),
        "words": bloom.words,
        "fill": round(bloom.fill, 4),
        "expected_rate": round(bloom.rate, 5),
        "measured_rate": round(crowd.passed() / count, 5),
        "strangers": count,
    }
