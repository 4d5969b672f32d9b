# SPDX-License-Identifier: Apache-2.0
"""Refused frames, from the gate's one ring to everybody who watches.

The ring has one reader a daemon. It is read whether or not somebody watches: a full ring would show
a later watcher what happened long ago. Each watcher has a queue of its own, and is told of what did
not fit into it; the slowest one holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from assent.dataplane.reasons import ADMITTED, Reasons
from assent.dataplane.tables import Event, EventReader
from assent.errors import InvalidArgument, LocalError
from assent.wire.captures import HEAD_LEN
from assent.wire.cellid import CellID
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import Header

log = logging.getLogger(__name__)

QUEUE_MAX: Final = 1024
"""Events that may wait for one watcher: in the worst flood, what the gate reports in a second."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A refused frame, as told to watchers.

    Attributes:
        time: Unix time, ns.
        reason: Why it was refused.
        interface: Where it arrived; "" where that is gone.
        session_id: 0 where no session was found.
        frame_len: Bytes, Ethernet header included.
        head: Its first bytes, as many as the gate kept of it.
        header: Its fabric header; None where the frame is too short for one.
    """

    time: int
    reason: str
    interface: str
    session_id: int
    frame_len: int
    head: bytes
    header: Header | None

    @classmethod
    def of(cls, event: Event, wall_offset: int, interface: str) -> Sighting:
        """Makes one of what the gate wrote.

        Args:
            event: From the ring.
            wall_offset: Unix time minus monotonic time, ns.
            interface: Name of the interface that the event has the number of.
        """
        # The gate keeps the whole head, or the Ethernet header alone: the rest is zeros of its own.
        whole = event.frame_len >= HEAD_LEN
        head = event.head[: HEAD_LEN if whole else min(event.frame_len, ETHERNET_HEADER_LEN)]
        return cls(
            time=event.time + wall_offset,
            reason=event.reason,
            interface=interface,
            session_id=event.session_id,
            frame_len=event.frame_len,
            head=head,
            header=Header.decode(head[ETHERNET_HEADER_LEN:]) if whole else None,
        )


@dataclass(frozen=True, slots=True)
class Interest:
    """What a watcher wants to see.

    Attributes:
        reasons: Names; none = all.
        cell: Only frames from or to it; None = all.
    """

    reasons: frozenset[str] = frozenset()
    cell: CellID | None = None

    @classmethod
    def checked(cls, names: Sequence[str], cell: CellID | None, known: Reasons) -> Interest:
        """Makes one of what a client asked for.

        Raises:
            InvalidArgument: A name is none of the reasons to refuse a frame.
        """
        refusals = [name for name in known.names if name != ADMITTED]
        for name in names:
            if name not in refusals:
                raise InvalidArgument("reasons", f"{name[:64]!r} is none of {', '.join(refusals)}")
        return cls(frozenset(names), cell)

    def takes(self, seen: Sighting) -> bool:
        """Whether an event is of interest."""
        if self.reasons and seen.reason not in self.reasons:
            return False
        if self.cell is None:
            return True
        return seen.header is not None and self.cell in (seen.header.src, seen.header.dst)


class Watch:
    """One watcher's queue: iterate it for (event, events missed since the one before).

    What does not fit is the newest: a watcher sees an unbroken beginning, and then how much of the
    rest it was too slow for.
    """

    def __init__(self, interest: Interest, limit: int) -> None:
        self._interest = interest
        self._limit = limit
        self._queue: deque[Sighting] = deque()
        self._missed = 0
        self._filled = asyncio.Event()

    def offer(self, seen: Sighting) -> None:
        """Queues an event, if it is of interest and there is room."""
        if not self._interest.takes(seen):
            return
        if len(self._queue) >= self._limit:
            self._missed += 1
            return
        self._queue.append(seen)
        self._filled.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Sighting, int]:
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        missed, self._missed = self._missed, 0
        return self._queue.popleft(), missed


class EventHub:
    """Reads the ring and hands out what it holds. Use it as an async context manager.

    Args:
        open_reader: Opens the ring; called on entering.
        queue_max: Events that may wait for one watcher.
        interface_name: Name of an interface by its number; "" where there is none.
    """

    def __init__(
        self,
        open_reader: Callable[[], EventReader],
        queue_max: int = QUEUE_MAX,
        interface_name: Callable[[int], str] | None = None,
    ) -> None:
        self._open_reader = open_reader
        self._queue_max = queue_max
        self._interface_name = interface_name or _interface_name
        self._reader: EventReader | None = None
        self._watches: set[Watch] = set()

    async def __aenter__(self) -> Self:
        self._reader = self._open_reader()
        asyncio.get_running_loop().add_reader(self._reader.fd, self._drain)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            asyncio.get_running_loop().remove_reader(reader.fd)
            reader.close()

    @contextlib.contextmanager
    def watch(self, interest: Interest) -> Iterator[AsyncIterator[tuple[Sighting, int]]]:
        """Watches from entering to leaving the block."""
        watch = Watch(interest, self._queue_max)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def _drain(self) -> None:
        if self._reader is None:
            return
        try:
            events = self._reader.read()
        except LocalError:
            # Called by the event loop, which would only say that some callback failed.
            log.exception("event ring cannot be read: nothing can be watched any more")
            asyncio.get_running_loop().remove_reader(self._reader.fd)
            return
        if not self._watches:
            return
        wall_offset = time.time_ns() - time.monotonic_ns()
        names: dict[int, str] = {}
        for event in events:
            if event.ifindex not in names:
                names[event.ifindex] = self._interface_name(event.ifindex)
            seen = Sighting.of(event, wall_offset, names[event.ifindex])
            for watch in self._watches:
                watch.offer(seen)


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
