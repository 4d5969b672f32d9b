# SPDX-License-Identifier: Apache-2.0
"""What covenants cost: their number a second, their number at once, and how fast gates follow."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

from assent.bench import covenant_crowd, covenant_gate, covenant_memory, covenant_quarantine
from assent.demo.nodes import sweep


def measure(
    covenants: int = covenant_crowd.COVENANTS,
    times: int = covenant_gate.TIMES,
    quarantines: int = covenant_quarantine.TIMES,
) -> dict[str, Any]:
    """Measures all that the project wants of covenants.

    Args:
        covenants: In one daemon at once.
        times: Rounds from the last BIND to the first admitted frame.
        quarantines: Rounds from AIOS's verdict to the first refused frame.

    Returns:
        {"in_memory", "at_once", "first_frame", "quarantine": what the modules of those measurements
        return, "goals": {"covenants_per_second": at least, "memory_mib", "first_frame_p99_ms",
        "quarantine_p99_ms": at most}, "kernel": its release}.

    Raises:
        FailedPrecondition: BPF is not permitted, a daemon does not start, or something else came
            of a covenant than should.
    """
    sweep()
    with _unwinding():
        return {
            "in_memory": covenant_memory.measure(),
            "at_once": covenant_crowd.measure(covenants),
            "first_frame": covenant_gate.measure(times),
            "quarantine": covenant_quarantine.measure(quarantines),
            "goals": {
                "covenants_per_second": covenant_memory.GOAL,
                "memory_mib": covenant_crowd.GOAL_MIB,
                "first_frame_p99_ms": covenant_gate.GOAL_MS,
                "quarantine_p99_ms": covenant_quarantine.GOAL_MS,
            },
            "kernel": os.uname().release,
        }


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """Being told to end undoes what was made, as an interrupt does."""
    before = {
        number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)
