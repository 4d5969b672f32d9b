# SPDX-License-Identifier: Apache-2.0
"""Refused frames, from the gate's one ring to everybody who watches.

The gate tells of what somebody wants to hear: the hub says so to it, as the union of its watchers'
interests, and gives each watcher its part. Nobody watches: nothing is told. The ring has one reader
a daemon. Each watcher has a queue of its own; the slowest one holds up nobody.

What is told and what is suppressed adds up to what is counted, for the gate and for each watcher:

    gate     each CPU counts the frames of a reason, interface and direction (a Place) that it has
             not told of. An event says by how much that has risen since the event before, so the
             sum of those is the CPU's count as of its last event: the place's position.
    watcher  knows the position up to which it has been told, which began with the count at the
             moment when it came. Its next event's `suppressed` is what lies between, and the events
             for which its queue had no room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from assent.dataplane.reasons import Reasons
from assent.dataplane.stages import verdict_of
from assent.dataplane.tables import DIRECTIONS, EventReader, Place, Suppressed, Tables
from assent.errors import AssentError, InvalidArgument, LocalError
from assent.service.sightings import Sighting
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

QUEUE_MAX: Final = 1024
"""Events that may wait for one watcher: in the worst flood, what the gate reports in a second."""
SUMMARY_SECONDS: Final = 2.0
_READ_MAX: Final = 4096


def refusals(known: Reasons) -> list[str]:
    """The reasons to refuse a frame, in the gate's order."""
    return [name for name in known.names if verdict_of(name) == "drop"]


@dataclass(frozen=True, slots=True)
class Interest:
    """What a watcher wants to see.

    Attributes:
        reasons: Names.
        cell: Only frames from or to it; None = all.
    """

    reasons: frozenset[str]
    cell: CellID | None = None

    @classmethod
    def checked(cls, names: Sequence[str], cell: CellID | None, known: Reasons) -> Interest:
        """Makes one of what a client asked for; no names = all reasons.

        Raises:
            InvalidArgument: A name is none of the reasons to refuse a frame.
        """
        possible = refusals(known)
        for name in names:
            if name not in possible:
                raise InvalidArgument("reasons", f"{name[:64]!r} is none of {', '.join(possible)}")
        return cls(frozenset(names or possible), cell)

    def takes(self, seen: Sighting) -> bool:
        """Whether an event is of interest."""
        if seen.reason not in self.reasons:
            return False
        if self.cell is None:
            return True
        return seen.header is not None and self.cell in (seen.header.src, seen.header.dst)


@dataclass(frozen=True, slots=True)
class Told:
    """An event for one watcher.

    Attributes:
        seen: The frame.
        rule: What decided, in words.
        suppressed: Frames of its reason that the watcher has not been told of before.
    """

    seen: Sighting
    rule: str
    suppressed: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How one reason stands for one watcher; counted = told + suppressed."""

    reason: str
    told: int
    suppressed: int

    @property
    def counted(self) -> int:
        """What the gate has counted since the watch began."""
        return self.told + self.suppressed


@dataclass(frozen=True, slots=True)
class Summary:
    """How things stand for one watcher.

    Attributes:
        reasons: Those that have occurred, by name.
        last: The watch is over.
    """

    reasons: tuple[Standing, ...]
    last: bool = False


class Watch:
    """One watcher's queue: iterate it for events and summaries, until it is finished.

    What does not fit is the newest: a watcher sees an unbroken beginning, and then how much of the
    rest it was too slow for.

    Args:
        interest: What it wants.
        limit: Events that may wait.
        start: How far the gate's counts have come.
    """

    def __init__(self, interest: Interest, limit: int, start: Mapping[Place, int]) -> None:
        self.interest = interest
        self._limit = limit
        self._accounted = dict(start)
        self._queue: deque[Told | Summary] = deque()
        self._waiting = 0
        self._told: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._said: tuple[Standing, ...] = ()
        self._failure: AssentError | None = None
        self._over = False
        self._filled = asyncio.Event()

    def offer(self, seen: Sighting, rule: str, place: Place, position: int) -> None:
        """Takes note of an event, and queues it if it is of interest and there is room.

        Args:
            seen: The event.
            rule: What decided.
            place: Where it was counted.
            position: Frames that have been suppressed there before it.
        """
        reason = seen.reason
        if reason not in self.interest.reasons:
            return
        known = self._accounted.get(place, 0)
        # An event from before the watch may be read after its beginning: nothing lies between.
        if position > known:
            self._unsaid[reason] += position - known
            self._accounted[place] = position
        if not self.interest.takes(seen) or self._waiting >= self._limit:
            self._unsaid[reason] += 1
            return
        suppressed = self._unsaid.pop(reason, 0)
        self._told[reason] += 1
        self._suppressed[reason] += suppressed
        self._waiting += 1
        self._put(Told(seen, rule, suppressed))

    def summarize(self, now: Mapping[Place, Suppressed], *, last: bool = False) -> None:
        """Queues a summary, if anything has been counted since the one before.

        Args:
            now: How far the gate's counts have come, of all events so far at the least.
            last: The watch is over.
        """
        suppressed = self._suppressed + self._unsaid
        for place, count in now.items():
            reason = place[2]
            if reason in self.interest.reasons:
                suppressed[reason] += max(count.frames - self._accounted.get(place, 0), 0)
        standing = tuple(
            Standing(reason, self._told[reason], suppressed[reason])
            for reason in sorted(self.interest.reasons)
            if self._told[reason] or suppressed[reason]
        )
        if standing != self._said or last:
            self._said = standing
            self._over = last
            if self._queue and isinstance(self._queue[-1], Summary):
                self._queue.pop()  # nobody has read it, and it is out of date
            self._put(Summary(standing, last))

    def fail(self, failure: AssentError) -> None:
        """Ends the watch with an error, which the iteration raises."""
        self._failure = failure
        self._filled.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told | Summary:
        while not self._queue:
            if self._over:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            self._filled.clear()
            await self._filled.wait()
        item = self._queue.popleft()
        self._waiting -= isinstance(item, Told)
        return item

    def _put(self, item: Told | Summary) -> None:
        self._queue.append(item)
        self._filled.set()


class Source(Protocol):
    """The gate, as the hub needs it."""

    def events(self) -> EventReader:
        """Opens the ring."""

    def listen(self, reasons: frozenset[str], cells: frozenset[CellID]) -> None:
        """Says what is to be told: these reasons, of these cells; no cells = all."""

    def settle(self) -> None:
        """Returns when what the gate was told applies to every frame."""

    def suppressed(self, reasons: frozenset[str]) -> dict[Place, Suppressed]:
        """How far the counts of these reasons have come."""

    @property
    def refusals(self) -> frozenset[str]:
        """All reasons to refuse a frame."""


class GateSource:
    """A gate's tables as a Source."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def events(self) -> EventReader:
        """Opens the ring."""
        return self._tables.events()

    def listen(self, reasons: frozenset[str], cells: frozenset[CellID]) -> None:
        """See Source."""
        self._tables.config.listen(reasons, cells, self._tables.reasons)

    def settle(self) -> None:
        """See Source."""
        from assent._native import lib

        lib.an_wait_for_readers()

    def suppressed(self, reasons: frozenset[str]) -> dict[Place, Suppressed]:
        """See Source."""
        return self._tables.counters.suppressed(reasons)

    @property
    def refusals(self) -> frozenset[str]:
        """See Source."""
        return frozenset(refusals(self._tables.reasons))


class EventHub:
    """Reads the ring and hands out what it holds. Use it as an async context manager.

    Args:
        source: The gate.
        rule_of: Says what decided, in words.
        queue_max: Events that may wait for one watcher.
        name_of: Name of an interface by its number; "" where there is none.
        summary_seconds: From one summary to the next.
    """

    def __init__(
        self,
        source: Source,
        rule_of: Callable[[Sighting], str],
        queue_max: int = QUEUE_MAX,
        name_of: Callable[[int], str] | None = None,
        summary_seconds: float = SUMMARY_SECONDS,
    ) -> None:
        self._source = source
        self._rule_of = rule_of
        self._queue_max = queue_max
        self._name_of = name_of or interface_name
        self._summary_seconds = summary_seconds
        self._reader: EventReader | None = None
        self._watches: set[Watch] = set()
        self._positions: dict[Place, int] = {}
        self._listening: tuple[frozenset[str], frozenset[CellID]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        # What a daemon that died wanted to hear, nobody wants any more.
        self._listen()
        self._source.settle()
        self._reader = self._source.events()
        while self._reader.read(_READ_MAX):
            pass
        known = self._source.suppressed(self._source.refusals)
        self._positions = {place: count.told for place, count in known.items()}
        asyncio.get_running_loop().add_reader(self._reader.fd, self._drain)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watches.clear()
        self._stop_timer()
        self._listen()
        reader, self._reader = self._reader, None
        if reader is not None:
            asyncio.get_running_loop().remove_reader(reader.fd)
            reader.close()

    @contextlib.contextmanager
    def watch(self, interest: Interest) -> Iterator[Watch]:
        """Watches from entering to leaving the block."""
        self._drain()
        start = self._source.suppressed(interest.reasons)
        watch = Watch(
            interest, self._queue_max, {place: count.frames for place, count in start.items()}
        )
        self._watches.add(watch)
        try:
            self._listen()
            self._start_timer()
            yield watch
        finally:
            self._watches.discard(watch)
            if not self._watches:
                self._stop_timer()
            self._listen()

    def finish(self, watch: Watch) -> None:
        """Ends a watch: it still gives what it has, then how everything stands, and no more."""
        self._drain()
        watch.summarize(self._source.suppressed(watch.interest.reasons), last=True)
        self._watches.discard(watch)

    def _listen(self) -> None:
        """Has the gate tell what anybody wants to hear."""
        interests = [watch.interest for watch in self._watches]
        reasons = frozenset[str]().union(*(each.reasons for each in interests))
        cells = frozenset(each.cell for each in interests if each.cell is not None)
        if any(each.cell is None for each in interests):
            cells = frozenset()
        if self._listening != (reasons, cells):
            self._listening = reasons, cells
            self._source.listen(reasons, cells)

    def _start_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._summary_seconds, self._summarize)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _summarize(self) -> None:
        self._timer = None
        self._start_timer()
        self._drain()
        try:
            now = self._source.suppressed(
                frozenset[str]().union(*(watch.interest.reasons for watch in self._watches))
            )
        except LocalError:
            log.exception("counters cannot be read: no summary")
            return
        for watch in self._watches:
            watch.summarize(now)

    def _drain(self) -> None:
        while self._reader is not None:
            try:
                events = self._reader.read(_READ_MAX)
            except LocalError:
                # Called by the event loop, which would only say that some callback failed.
                log.exception("event ring cannot be read: nothing can be watched any more")
                asyncio.get_running_loop().remove_reader(self._reader.fd)
                return
            if not events:
                return
            wall_offset = time.time_ns() - time.monotonic_ns()
            names: dict[int, str] = {}
            for event in events:
                place = (event.block, DIRECTIONS[event.leaving], event.reason, event.cpu)
                position = self._positions.get(place, 0) + event.suppressed
                self._positions[place] = position
                if not self._watches:
                    continue
                if event.ifindex not in names:
                    names[event.ifindex] = self._name_of(event.ifindex)
                seen = Sighting.of(event, wall_offset, names[event.ifindex])
                rule = self._rule_of(seen)
                for watch in self._watches:
                    watch.offer(seen, rule, place, position)


def interface_name(index: int) -> str:
    """Name of an interface by its number; "" where there is none."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
