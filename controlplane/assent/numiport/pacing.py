# SPDX-License-Identifier: Apache-2.0
"""Launch times (seed 5.5 and 10.6): the guard's tuning, offsets, and a pacer without ETF.

    Scheduler.run -> Launcher.launch -> SCM_TXTIME, with ETF
                                     -> SoftwarePacer.add, due, without

ETF drops what reaches it later than its launch time less the guard delta. So a packet is handed
over with a lead of at least the guard; the tuner makes the guard so long that no more than one
packet in a thousand comes late, and no longer. Sans-IO: times are ns, of the clock that the caller
keeps.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from assent.errors import InvalidArgument
from assent.numiport.profiles import PERMILLE, Guard
from assent.numiport.sched import Departure

CLEAN_WINDOWS: Final = 4
"""Windows in a row without one late packet after which the guard is tried shorter."""
PATIENCE_MOST: Final = 64 * CLEAN_WINDOWS

Peer = TypeVar("Peer", bound=Hashable)


class GuardTuner:
    """Finds the shortest guard under which few enough packets are late.

    A window is as many packets as the target can be told by: one late packet in it meets the
    target, two miss it. It ends at once when it is missed, and the guard grows by a step. After
    some windows without a late packet a guard shorter by a step is tried. Where that is missed, the
    next trial has twice as long to wait, up to 64 times; where it holds, the usual time. So the
    guard settles, trials cost little, and a host that has become quiet is found out.

    Args:
        settings: Bounds, step and target.
    """

    def __init__(self, settings: Guard) -> None:
        self._settings = settings
        self._window = -(-PERMILLE // settings.target_permille)
        self._tuned = settings.initial_ns
        self._sent = self._late = self._clean = 0
        self._patience = CLEAN_WINDOWS
        self._on_trial = False
        self._sent_total = self._late_total = 0

    @property
    def tuned(self) -> int:
        """What tuning has arrived at, ns."""
        return self._tuned

    @property
    def is_pinned(self) -> bool:
        """Whether the guard is as long as it may be: worth an alarm if packets are late still."""
        return self._tuned == self._settings.most_ns

    @property
    def totals(self) -> tuple[int, int]:
        """Packets launched, and of those late."""
        return self._sent_total, self._late_total

    def guard(self, uncertainty: int = 0) -> int:
        """The lead that packets need, ns: longer where the slot clock is unsure, within bounds.

        Args:
            uncertainty: Of the slot clock, ns.
        """
        return min(self._tuned + max(0, uncertainty), self._settings.most_ns)

    def record(self, sent: int, late: int) -> None:
        """Counts packets that were launched.

        Args:
            sent: All that were handed over since the last call.
            late: Of those that were reported as dropped since then; reports may come later than
                the packets were counted.

        Raises:
            InvalidArgument: A count is negative.
        """
        if sent < 0 or late < 0:
            raise InvalidArgument("sent" if sent < 0 else "late", "is negative")
        self._sent_total += sent
        self._late_total += late
        self._sent += sent
        self._late += late
        # A window that is not full yet is missed by what would miss a full one.
        counted = max(self._sent, self._window)
        if self._late * PERMILLE > counted * self._settings.target_permille:
            self._lengthen()
        elif self._sent >= self._window:
            self._end_window()

    def _lengthen(self) -> None:
        if self._on_trial:
            self._patience = min(2 * self._patience, PATIENCE_MOST)
        self._tuned = min(self._tuned + self._settings.step_ns, self._settings.most_ns)
        self._on_trial = False
        self._sent = self._late = self._clean = 0

    def _end_window(self) -> None:
        # However many packets were counted at once, they are one window: one thing was seen.
        self._clean = 0 if self._late else self._clean + 1
        self._sent = self._late = 0
        if self._on_trial and self._clean >= CLEAN_WINDOWS:
            self._patience = CLEAN_WINDOWS
        if self._clean < self._patience:
            return
        self._clean = 0
        self._on_trial = self._tuned > self._settings.least_ns
        self._tuned = max(self._tuned - self._settings.step_ns, self._settings.least_ns)


class Launcher:
    """Launch times towards one peer: with the lead that is needed, and in order."""

    def __init__(self) -> None:
        self._last = 0

    def launch(self, departures: Iterable[Departure], now: int, guard: int) -> list[Departure]:
        """Gives each packet the time at which it is to be launched.

        Args:
            departures: As the scheduler decided, in its order; late ones are left out.
            now: ns.
            guard: The lead, ns.

        Returns:
            Those that leave, none before now + guard nor before the one that was decided earlier.
        """
        launched = []
        for one in departures:
            if one.is_late:
                continue
            self._last = max(self._last, one.time, now + guard)
            launched.append(replace(one, time=self._last))
        return launched


@dataclass(frozen=True, slots=True)
class PacerStats:
    """What the software pacer holds and has done.

    Attributes:
        waiting: Packets.
        released: Packets.
        overruns: Of these, released later than the tolerance after their time.
        worst_ns: The most that one was late by.
    """

    waiting: int
    released: int
    overruns: int
    worst_ns: int


class SoftwarePacer(Generic[Peer]):
    """Holds packets until their launch times, where no qdisc does.

    Packets to one peer stay in the order in which they were added; those to several peers leave in
    the order of their times.

    Args:
        most: Packets that may wait.
        tolerance: ns after its time within which a release is no overrun.

    Raises:
        InvalidArgument: A bound is not positive.
    """

    def __init__(self, most: int = 65_536, tolerance: int = 200_000) -> None:
        if most < 1 or tolerance < 0:
            raise InvalidArgument("most" if most < 1 else "tolerance", "is out of bounds")
        self._most = most
        self._tolerance = tolerance
        self._heap: list[tuple[int, int, Peer, Departure]] = []
        # Of peers for which something waits: how much, and the time of the last.
        self._peers: dict[Peer, tuple[int, int]] = {}
        self._order = 0
        self._released = self._overruns = self._worst = 0

    def add(self, peer: Peer, departures: Iterable[Departure]) -> int:
        """Takes packets.

        Args:
            peer: Whom they are for.
            departures: With their launch times; one that is earlier than that of the packet before
                it leaves after it all the same.

        Returns:
            How many were taken, from the first on: less than all is back-pressure.
        """
        taken = 0
        for one in departures:
            if len(self._heap) >= self._most:
                break
            waiting, last = self._peers.get(peer, (0, 0))
            time = max(one.time, last)
            heapq.heappush(self._heap, (time, self._order, peer, one))
            self._peers[peer] = (waiting + 1, time)
            self._order += 1
            taken += 1
        return taken

    def due(self, now: int, most: int = 256) -> list[tuple[Peer, Departure]]:
        """Releases what is due.

        Args:
            now: ns.
            most: Packets at a time.

        Returns:
            Peers and packets, in the order in which they are to be sent.
        """
        found: list[tuple[Peer, Departure]] = []
        while self._heap and len(found) < most and self._heap[0][0] <= now:
            time, _, peer, one = heapq.heappop(self._heap)
            waiting, last = self._peers.pop(peer)
            if waiting > 1:
                self._peers[peer] = (waiting - 1, last)
            self._released += 1
            self._overruns += now - time > self._tolerance
            self._worst = max(self._worst, now - time)
            found.append((peer, one))
        return found

    def next_at(self) -> int | None:
        """When the next packet is due, ns; None: nothing waits."""
        return self._heap[0][0] if self._heap else None

    def stats(self) -> PacerStats:
        """What it holds and has done."""
        return PacerStats(len(self._heap), self._released, self._overruns, self._worst)
