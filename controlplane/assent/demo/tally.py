# SPDX-License-Identifier: Apache-2.0
"""The books of a gate: what it counted, what its flows account for, and how long it took."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass

from assent.client import Client
from assent.dataplane.gate import PIN_ROOT
from assent.dataplane.libbpf import Program, enable_run_stats
from assent.v1.fabric_pb2 import GetCountersRequest
from assent.v1.sessions_pb2 import ListSessionsRequest


@dataclass(frozen=True, slots=True)
class Tally:
    """A host's books at one moment: what its gate counted, and what its flows account for."""

    admitted: int
    genuine: int
    drops: dict[str, int]

    @classmethod
    def take(cls, host: Client) -> Tally:
        """Asks the host's daemon."""
        counters = {
            each.reason: each.frames
            for each in host.fabric.GetCounters(GetCountersRequest()).counters
        }
        admitted = counters.pop("admitted", 0)
        # A flow admits each number once, so the highest one says how many frames it admitted.
        sessions = host.sessions.List(ListSessionsRequest()).sessions
        genuine = sum(flow.rx_highest_seq for session in sessions for flow in session.flows)
        return cls(admitted, genuine, {name: count for name, count in counters.items() if count})


class VerdictTimer:
    """Samples the kernel's own statistics of a gate: the mean time per run, many times a second."""

    _INTERVAL_S = 0.02

    def __init__(self, instance: str) -> None:
        self._pin = PIN_ROOT / instance / "programs" / "gate"
        self._means: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="verdict timer", daemon=True)

    def __enter__(self) -> VerdictTimer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def median_ns(self) -> float:
        """Median of the intervals' means, ns; 0 where nothing ran."""
        return round(statistics.median(self._means), 1) if self._means else 0.0

    def _sample(self) -> None:
        with enable_run_stats(), Program.open_pinned(self._pin) as program:
            runs, spent = program.run_stats()
            while not self._stop.wait(self._INTERVAL_S):
                now_runs, now_spent = program.run_stats()
                if now_runs > runs:
                    self._means.append((now_spent - spent) / (now_runs - runs))
                runs, spent = now_runs, now_spent


def settle(host: Client) -> dict[str, int]:
    """Waits until frames on their way have been counted; returns the counts of refusals.

    They have been when two looks in a row see the same; others may go on meanwhile, so the wait is
    bounded.
    """
    drops = Tally.take(host).drops
    for _ in range(100):
        time.sleep(0.002)
        last, drops = drops, Tally.take(host).drops
        if drops == last:
            break
    return drops


def minus(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What has been added, name by name."""
    return {
        name: count - before.get(name, 0)
        for name, count in after.items()
        if count > before.get(name, 0)
    }
