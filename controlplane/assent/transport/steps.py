# SPDX-License-Identifier: Apache-2.0
"""What both flavours of the API are made of: operations as generators of steps.

An operation (core.py) yields a step wherever it has to wait, and gets the step's outcome back. A
step knows two ways to wait: `block` drives the ring in the calling thread until a deadline, and
`attend` is awaited while the endpoint's thread drives. So every rule of sending, receiving and
closing is written once, and what a cancelled operation must not lose is kept in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from assent.transport.errors import PortError
from assent.transport.ring import Part, Ready, Room, Spans

if TYPE_CHECKING:
    from assent.transport.core import FlowCore

T = TypeVar("T")

# A blocking call looks up so often: for a signal, for what the daemon says, for its deadline.
SLICE_MS = 100

Progress = Callable[[int], None]
"""Told how many bytes of a message have been moved so far."""


class Attendant(Protocol):
    """Who waits for flows in an event loop."""

    async def breathe(self) -> None:
        """Lets the loop's other tasks have their turn, where they have waited for a while."""
        ...

    async def ready(self, flow: FlowCore, wanted: Ready) -> Ready:
        """What of these is there, as soon as something is."""
        ...


class Deadline:
    """When an operation must have come to its end.

    Args:
        timeout_s: seconds from now; None = never.
    """

    __slots__ = ("_at",)

    def __init__(self, timeout_s: float | None) -> None:
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self) -> float | None:
        """Seconds that are left, at least 0; None = any time."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def slice_ms(self) -> int:
        """How long to wait in one go, milliseconds.

        Raises:
            TimeoutError: it has passed.
        """
        if self._at is None:
            return SLICE_MS
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("time is up")
        return max(1, min(int(left * 1000), SLICE_MS))


class Step(ABC):
    """Something that an operation waits for."""

    __slots__ = ()

    @abstractmethod
    def block(self, deadline: Deadline) -> Any:
        """Waits in the calling thread.

        Raises:
            TimeoutError: the deadline has passed.
        """

    @abstractmethod
    async def attend(self, attendant: Attendant) -> Any:
        """Waits in an event loop; may be cancelled."""


Steps: TypeAlias = Generator[Step, Any, T]


class Until(Step):
    """Until a flow is ready for one of some things; the outcome is what is there of them.

    Args:
        flow: the flow.
        wanted: for what.
        patience_s: seconds after which the outcome is that nothing is there; None = no end.
    """

    __slots__ = ("_flow", "_patience_s", "_wanted")

    def __init__(self, flow: FlowCore, wanted: Ready, patience_s: float | None = None) -> None:
        self._flow = flow
        self._wanted = wanted
        self._patience_s = patience_s

    def block(self, deadline: Deadline) -> Ready:
        """As `Step` says."""
        patience = Deadline(self._patience_s)
        found = Ready(0)
        while not found & self._wanted and patience.left() != 0:
            self._flow.check(self._wanted)
            with _Enduring():
                slice_ms = deadline.slice_ms()
                found = self._sound(self._flow.ring.wait(self._wanted | Ready.BROKEN, slice_ms))
        return found

    async def attend(self, attendant: Attendant) -> Ready:
        """As `Step` says."""
        found = Ready(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                while not found & self._wanted:
                    self._flow.check(self._wanted)
                    wanted = self._wanted | Ready.BROKEN
                    found = self._sound(await attendant.ready(self._flow, wanted))
        return found

    def _sound(self, found: Ready) -> Ready:
        if found & Ready.BROKEN:
            self._flow.ring.check()
        return found


class Push(Step):
    """Until a message is taken, every byte of it.

    Attributes:
        spans: the message.
        taken: bytes so far, however it ends.
    """

    __slots__ = ("_flags", "_flow", "_tell", "spans", "taken")

    def __init__(
        self, flow: FlowCore, spans: Spans, flags: int, tell: Progress | None = None
    ) -> None:
        self._flow = flow
        self.spans = spans
        self._flags = flags
        self._tell = tell
        self.taken = 0

    def block(self, deadline: Deadline) -> None:
        """As `Step` says."""
        while not self.attempt():
            slice_ms = deadline.slice_ms()
            with _Enduring():
                if not self.spans.size:
                    self._flow.ring.wait(Ready.WRITABLE | Ready.BROKEN, slice_ms)
                    continue
                self._took(self._flow.ring.send_all(self.spans, self.taken, self._flags, slice_ms))
                if self.taken == self.spans.size:
                    return

    async def attend(self, attendant: Attendant) -> None:
        """As `Step` says."""
        while not self.attempt():
            await attendant.ready(self._flow, Ready.WRITABLE | Ready.BROKEN)

    def attempt(self) -> bool:
        """Takes what can be taken now; whether that was all."""
        self._flow.check(Ready.WRITABLE)
        taken = self._flow.ring.write(self.spans, self.taken, self._flags)
        if taken is None:
            return False
        self._took(self.taken + taken)
        return self.taken == self.spans.size

    def copied(self) -> Push:
        """The same, of a copy of what has not been taken yet."""
        rest = Push(self._flow, self.spans.after(self.taken), self._flags)
        rest.taken = self.taken
        return rest

    def _took(self, taken: int) -> None:
        if self._tell is not None and taken != self.taken:
            self._tell(taken)
        self.taken = taken


class Pull(Step):
    """Until the message at hand is whole, or its room is full.

    Attributes:
        have: bytes so far, however it ends.
        ended: whether they are all of the message.
    """

    __slots__ = ("_flow", "_room", "_tell", "ended", "have")

    def __init__(self, flow: FlowCore, room: Room, have: int, tell: Progress | None = None) -> None:
        self._flow = flow
        self._room = room
        self._tell = tell
        self.have = have
        self.ended = False

    def block(self, deadline: Deadline) -> None:
        """As `Step` says."""
        while not self._attempt():
            self._flow.check(Ready.READABLE)
            with _Enduring():
                self._took(self._flow.ring.recv_all(self._room, self.have, deadline.slice_ms()))
                if self._is_done():
                    return

    async def attend(self, attendant: Attendant) -> None:
        """As `Step` says."""
        while not self._attempt():
            self._flow.check(Ready.READABLE)
            await attendant.ready(self._flow, Ready.READABLE | Ready.BROKEN)

    def _attempt(self) -> bool:
        """Takes what is there; whether that was all."""
        got = self._flow.ring.read(self._room, self.have)
        if got is None:
            return False
        self._took(got)
        return self._is_done()

    def _took(self, got: Part) -> None:
        if self._tell is not None and got.have != self.have:
            self._tell(got.have)
        self.have, self.ended = got

    def _is_done(self) -> bool:
        return self.ended or self.have == self._room.size


class _Enduring:
    """An outage of the interface is endured: the endpoint's thread knows when it is for good."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, PortError):
            time.sleep(SLICE_MS / 2000)
            return True
        return False


class Call(Step):
    """A call that takes its time, of the daemon for instance; the outcome is what it returns."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def block(self, deadline: Deadline) -> Any:
        """As `Step` says."""
        return self._function()

    async def attend(self, attendant: Attendant) -> Any:
        """As `Step` says."""
        return await asyncio.to_thread(self._function)


class Turn(Step):
    """Nothing but a chance for others, in the middle of what could go on."""

    __slots__ = ()

    def block(self, deadline: Deadline) -> None:
        """As `Step` says."""

    async def attend(self, attendant: Attendant) -> None:
        """As `Step` says."""
        await attendant.breathe()


class Pause(Step):
    """Some seconds."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def block(self, deadline: Deadline) -> None:
        """As `Step` says."""
        time.sleep(self._seconds)

    async def attend(self, attendant: Attendant) -> None:
        """As `Step` says."""
        await asyncio.sleep(self._seconds)


def run_blocking(steps: Steps[T], deadline: Deadline | None = None) -> T:
    """Goes through an operation in the calling thread.

    Raises:
        TimeoutError: it has not come to its end in time; nothing is lost, see the operation.
    """
    until = deadline or Deadline(None)
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.block(until)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


async def run_async(steps: Steps[T], attendant: Attendant) -> T:
    """Goes through an operation in an event loop; may be cancelled."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = await step.attend(attendant)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result
