# SPDX-License-Identifier: Apache-2.0
"""The scheduler of seed 5.4 and 10.5 once more: slow, obvious, and in fractions.

What native/sched.c does with remainders and heaps is done here with `Fraction` and sorted lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

from assent.numiport.clock import Slot
from assent.numiport.profiles import PACKET_MAX, Profile
from assent.numiport.sched import AHEAD, Departure, Offer, Verdict

P0, P1, P2, P3 = range(4)
CLASSES = range(4)
SECOND = 1_000_000_000


@dataclass(order=True)
class Waiting:
    """A packet in a queue; the order of fields is EDF's, then that of arrival."""

    deadline: int
    order: int
    handle: int = field(compare=False)
    length: int = field(compare=False)


class Model:
    """Takes the calls of Scheduler and gives its answers."""

    def __init__(self, profile: Profile, slot: Slot, draw: int = 0, line: int = 0) -> None:
        self.settings = profile.classes.in_order()
        self.turns, self.ecn, self.draw, self.line = profile.arbitration, profile.ecn, draw, line
        self.queues: list[list[Waiting]] = [[] for _ in CLASSES]
        self.nominal = [one.credit for one in self.settings]
        self.budget = list(self.nominal)
        self.level = [Fraction(one) for one in self.budget]
        self.filled_at = slot.start
        self.free = Fraction(slot.start)
        self.deficit = {P1: 0, P2: 0}
        self.visited, self.has_quantum = P1, False
        self.served: list[int] = []
        self.order = 0
        self.marked = self.total = self.calm = self.unsure = 0
        self.scale = 1000
        self.sent = [0] * 4
        self.late = [0] * 4
        self.refused = [0] * 4
        self.clamps_p0 = self.clamps_p1 = self.floor_hits = 0
        self.enter(slot)

    # Slots.

    def enter(self, slot: Slot) -> None:
        self.slot = slot
        self.phase = self.draw * (slot.length // self.turns.bursts) // 2**64
        self.slot_bytes = [0] * 4

    def begin(self, slot: Slot) -> None:
        self.refill(max(slot.start, self.time))
        for unknown in range(slot.number - self.slot.number):
            if unknown > 1000:
                break
            self.rescale()
        self.level = [
            Fraction(min(floor(level), budget))
            for level, budget in zip(self.level, self.budget, strict=True)
        ]
        self.enter(slot)

    def rescale(self) -> None:
        """s of section 5.4, and B_c' = clamp(s * B_c, [B_min, B_max]), step by step."""
        ratio = Fraction(self.marked, self.total) if self.total else None
        self.marked = self.total = 0
        ecn = self.ecn
        is_calm = ratio is not None and ratio < Fraction(ecn.calm_permille, 1000)
        self.calm = self.calm + 1 if is_calm else 0
        self.scale = 1000
        if ratio is not None:
            if ratio >= Fraction(ecn.high_permille, 1000):
                self.scale = ecn.high_scale
            elif ratio >= Fraction(ecn.raised_permille, 1000):
                self.scale = ecn.raised_scale
            elif self.calm >= ecn.calm_slots:
                self.scale = ecn.calm_scale
        for cls, one in enumerate(self.settings):
            goal = floor(Fraction(self.scale, 1000) * self.nominal[cls])
            goal = max(one.floor, min(one.ceiling, goal))
            step = ceil(Fraction(ecn.step_permille, 1000) * self.nominal[cls])
            self.budget[cls] += max(-step, min(step, goal - self.budget[cls]))

    def mark(self, marked: int, total: int) -> None:
        self.marked += marked
        self.total += total

    def cap(self, cls: int, credit: int) -> None:
        one = self.settings[cls]
        self.nominal[cls] = max(one.floor, min(one.ceiling, credit))

    def widen(self, unsure: int) -> None:
        self.unsure = min(unsure, 8 * SECOND)

    # Credit.

    @property
    def time(self) -> int:
        return floor(self.free)

    def refill(self, t: int) -> None:
        if t > self.filled_at:
            passed = Fraction(t - self.filled_at, self.slot.length)
            self.level = [
                min(Fraction(budget), level + budget * passed)
                for level, budget in zip(self.level, self.budget, strict=True)
            ]
            self.filled_at = t

    def covered_at(self, cls: int) -> int:
        missing = self.queues[cls][0].length - self.level[cls]
        if missing <= 0:
            return self.filled_at
        return self.filled_at + ceil(missing * self.slot.length / self.budget[cls])

    # Turns.

    def in_a_row(self, cls: int) -> int:
        """How many of a class were served last, one after the other."""
        count = 0
        for served in reversed(self.served):
            if served != cls:
                break
            count += 1
        return count

    def due_of_floor(self, t: int) -> int:
        spread = self.slot.length - self.slot.length // 8
        elapsed = max(0, min(t - self.slot.start, spread))
        return floor(Fraction(self.settings[P2].floor * elapsed, spread))

    def choose(self, t: int) -> int | None:
        ready = [bool(self.queues[cls]) and self.covered_at(cls) <= t for cls in CLASSES]
        if ready[P0]:
            if self.in_a_row(P0) < self.turns.burst_p0 or not (ready[P1] or ready[P2]):
                return P0
            self.clamps_p0 += 1
        if ready[P1] or ready[P2]:
            if ready[P2] and self.slot_bytes[P2] < self.due_of_floor(t):
                self.floor_hits += ready[P1]
                return P2
            cls = self.round_robin(ready)
            if cls == P1 and ready[P2] and self.in_a_row(P1) >= self.turns.burst_p1:
                self.clamps_p1 += 1
                return P2
            return cls
        if ready[P3] and not (self.queues[P0] or self.queues[P1] or self.queues[P2]):
            return P3
        return None

    def round_robin(self, ready: list[bool]) -> int:
        quanta = {P1: self.turns.quantum_p1, P2: self.turns.quantum_p2}
        while True:
            cls = self.visited
            if ready[cls]:
                if not self.has_quantum:
                    self.deficit[cls] += quanta[cls]
                    self.has_quantum = True
                if self.deficit[cls] >= self.queues[cls][0].length:
                    return cls
            else:
                self.deficit[cls] = min(self.deficit[cls], 0)
            self.visited, self.has_quantum = P1 + P2 - cls, False

    # Calls.

    def push(self, now: int, offers: list[Offer]) -> list[Verdict]:
        return [self.judge(now, one) for one in offers]

    def judge(self, now: int, one: Offer) -> Verdict:
        if one.cls not in CLASSES or not 1 <= one.length <= PACKET_MAX:
            return Verdict.INVALID
        if one.slot - self.slot.number > AHEAD:
            return Verdict.EARLY
        settings, queue = self.settings[one.cls], self.queues[one.cls]
        end = self.slot.end + (one.slot - self.slot.number) * self.slot.length
        deadline = end - settings.margin_ns - self.unsure
        if one.slot < self.slot.number or deadline < max(0, now):
            self.late[one.cls] += 1
            return Verdict.LATE
        held = sum(other.length for other in queue)
        if len(queue) == settings.queue_packets or held + one.length > settings.queue_bytes:
            self.refused[one.cls] += 1
            return Verdict.FULL
        queue.append(Waiting(deadline, self.order, one.handle, one.length))
        queue.sort()
        self.order += 1
        return Verdict.TAKEN

    def next_time(self) -> int | None:
        times = []
        for cls in CLASSES:
            if self.queues[cls]:
                times.append(self.queues[cls][0].deadline + 1)
                if cls != P3 or not (self.queues[P0] or self.queues[P1] or self.queues[P2]):
                    times.append(self.covered_at(cls))
        return min(times, default=None)

    def next_at(self, now: int) -> int | None:
        t = self.next_time()
        if t is None:
            return None
        t = max(t, now, self.time, self.slot.start + self.phase)
        return t if t < self.slot.end else None

    def run(self, now: int, until: int, most: int) -> list[Departure]:
        out: list[Departure] = []
        t = max(now, self.time, self.slot.start + self.phase)
        while len(out) < most and t <= until and t < self.slot.end:
            if t > self.time:
                self.free = Fraction(t)
            self.refill(t)
            late = next(
                (c for c in CLASSES if self.queues[c] and self.queues[c][0].deadline < t), None
            )
            if late is not None:
                one = self.queues[late].pop(0)
                self.late[late] += 1
                out.append(Departure(one.handle, t, late, one.length, True))
                continue
            cls = self.choose(t)
            if cls is None:
                following = self.next_time()
                if following is None:
                    break
                t = following
                continue
            out.append(self.leave(cls, t))
            t = self.time
        return out

    def leave(self, cls: int, t: int) -> Departure:
        one = self.queues[cls].pop(0)
        assert self.level[cls] >= one.length
        self.level[cls] -= one.length
        if cls in self.deficit:
            self.deficit[cls] -= one.length
        self.deficit[P2] = max(self.deficit[P2], -self.turns.quantum_p2)
        self.served.append(cls)
        self.slot_bytes[cls] += one.length
        self.sent[cls] += one.length
        if self.line:
            self.free += Fraction(one.length * SECOND, self.line)
        return Departure(one.handle, t, cls, one.length)
