# SPDX-License-Identifier: Apache-2.0
"""Endpoints for asyncio: every wait is awaited, and may be cancelled.

    async with Endpoint("left") as endpoint:
        connection = await endpoint.connect("right")
        await connection.send(b"hello")
        answer = await connection.recv()

What cancelling means: a `recv` that is cancelled loses nothing, the next one returns the message. A
`send` that is cancelled before any byte of its message has left has not sent it; after that the
message goes out whole by itself, before whatever is sent next, from a copy of what was left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from assent.errors import AssentError
from assent.transport.core import (
    DEFAULT_FLOW,
    MESSAGE_LIMIT,
    ConnectionCore,
    EndpointCore,
    FlowCore,
    port_config,
)
from assent.transport.errors import EndedError, SessionOverError, WouldBlockError
from assent.transport.faces import ConnectionFace, EndpointFace, FlowFace
from assent.transport.listening import Arrival, Listening
from assent.transport.ring import Backend, Ready, RingFlow
from assent.transport.steps import Steps, run_async
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

# A task that never has to wait keeps the others from their turn no longer than that.
_BREATH_S = 0.001


class _Waiters:
    """Who waits for which flows; told by the ring's descriptor, and by the daemon's news."""

    def __init__(self, endpoint: EndpointCore) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[RingFlow, list[tuple[Ready, asyncio.Future[Ready]]]] = {}
        self._fd = -1
        self._breathed = 0.0
        endpoint.on_news = self._tell

    async def breathe(self) -> None:
        """Lets other tasks have their turn, where this one could go on and on."""
        if self._loop.time() - self._breathed > _BREATH_S:
            await asyncio.sleep(0)
            self._breathed = self._loop.time()

    async def ready(self, flow: FlowCore, wanted: Ready) -> Ready:
        """What of these is there, as soon as something is."""
        if self._fd < 0:
            self._fd = self._endpoint.ring.fd
            self._loop.add_reader(self._fd, self._on_fired)
        future: asyncio.Future[Ready] = self._loop.create_future()
        mine = (wanted, future)
        waiting = self._waiting.setdefault(flow.ring, [])
        waiting.append(mine)
        try:
            self._arm(flow.ring)
            if future.done():
                await self.breathe()
            return await future
        finally:
            waiting.remove(mine)
            if not waiting:
                self._waiting.pop(flow.ring, None)

    def stop(self) -> None:
        """Looks at the descriptor no more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1

    def _on_fired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        for flow in self._endpoint.ring.fired():
            self._arm(flow)

    def _arm(self, flow: RingFlow) -> None:
        """Resolves who has what it waits for, and has the ring tell of what the others wait for."""
        while waiting := [each for each in self._waiting.get(flow, ()) if not each[1].done()]:
            union = Ready(0)
            for wanted, _ in waiting:
                union |= wanted
            try:
                found = flow.watch(union)
            except AssentError as error:
                for _, future in waiting:
                    future.set_exception(error)
                return
            if not found:
                return
            for wanted, future in waiting:
                if wanted & found:
                    future.set_result(wanted & found)

    def _tell(self, flow: FlowCore) -> None:
        """From another thread: something has become of a flow that its ring does not know."""
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self._loop.call_soon_threadsafe(self._wake, flow.ring)

    def _wake(self, flow: RingFlow) -> None:
        for _, future in self._waiting.get(flow, ()):
            if not future.done():
                future.set_result(Ready.BROKEN)


class Endpoint(EndpointFace):
    """A cell of this host, in this process.

    Args:
        local: the cell, by name or id; None where this host has one alone.
        interface: to be sure of; None = whichever the cell is on, wherever it moves.
        socket: of the daemon; None where the environment decides.
        token: to be lent a ring, where this process may not use the API; `socket` is then where
            rings are lent. None: $ASSENT_TOKEN or $ASSENT_TOKEN_FILE, where the API is not open.
        backend: AUTO tries AF_XDP and falls back to AF_PACKET, see `info`.
        queue: of the interface.
        busy_poll_us: microseconds that the kernel polls the driver for; 0 = interrupts.
        spin_us: microseconds that the ring looks for frames before it sleeps.
    """

    def __init__(
        self,
        local: CellID | str | None = None,
        interface: str | None = None,
        *,
        socket: Path | None = None,
        token: str | None = None,
        backend: Backend = Backend.AUTO,
        queue: int = 0,
        busy_poll_us: int = 0,
        spin_us: int = 0,
    ) -> None:
        port = port_config(backend, queue, busy_poll_us, spin_us)
        super().__init__(EndpointCore(local, interface, socket, port, token))
        self._waiters: _Waiters
        self._open: set[Flow] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Finds the cell.

        Raises:
            ApiError: the daemon cannot be asked.
            InvalidArgument: this host has no such cell.
        """
        self._waiters = _Waiters(self._core)
        try:
            await self.run(self._core.open())
        except BaseException:
            self._core.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes what is open: in good order, or at once where an exception passes."""
        try:
            if error is None:
                await asyncio.gather(*(flow.close() for flow in list(self._open)))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._waiters.stop()
            # The endpoint's threads are waited for.
            await asyncio.to_thread(self._core.close)

    async def connect(self, cell: CellID | str) -> Connection:
        """The session with a remote cell; shakes hands where there is none.

        Raises:
            ApiError: the daemon cannot; its message says why.
        """
        return Connection(self, await self.run(self._core.connect(cell)))

    async def open_flow(
        self,
        cell: CellID | str,
        *,
        label: str = "",
        delivery: Delivery = Delivery.ORDERED,
        flow_class: FlowClass = FlowClass.STANDARD,
    ) -> Flow:
        """`connect`, and `Connection.open_flow`."""
        connection = await self.connect(cell)
        return await connection.open_flow(label, delivery=delivery, flow_class=flow_class)

    def listen(self, label: str = "", remote: CellID | str | None = None) -> Listener:
        """Flows that peers define for this label; a context, and an async iterator of Flow.

        Args:
            label: at most 63 bytes.
            remote: of this remote cell alone; None = of all.
        """
        return Listener(self, label, remote)

    # For this module's other classes.

    async def run(self, steps: Steps[T]) -> T:
        """Goes through an operation."""
        await self._waiters.breathe()
        return await run_async(steps, self._waiters)

    def adopt(self, core: FlowCore) -> Flow:
        """The face of a flow that was just opened."""
        flow = Flow(self, core)
        self._open.add(flow)
        return flow

    def forget(self, flow: Flow) -> None:
        """It is closed."""
        self._open.discard(flow)

    def in_background(self, work: Any) -> None:
        """Lets it run beside everything else, until the endpoint is closed."""
        task = asyncio.create_task(work, name="assent rest of a message")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Connection(ConnectionFace):
    """The session with one remote cell; made by `Endpoint.connect`.

    It survives that the session is renewed or the cell moves to another interface. `send` and
    `recv` use a flow of their own, number 1, which both sides open without a word; where the
    session was renewed they open it anew, and raise SessionOverError only if something sent before
    may be lost.
    """

    def __init__(self, endpoint: Endpoint, core: ConnectionCore) -> None:
        super().__init__(core)
        self._endpoint = endpoint
        self._default: Flow | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes its default flow: in good order, or at once where an exception passes."""
        if error is None:
            await self.close()
        elif self._default is not None:
            await self._default.abort()

    async def flow(self, number: int = DEFAULT_FLOW) -> Flow:
        """Opens a flow by its number; the peer does the same, nothing is agreed.

        Raises:
            ApiError: the session has no such flow.
            FailedPrecondition: another process drives it, or an earlier one left it unfinished.
        """
        return self._endpoint.adopt(await self._endpoint.run(self._core.flow(number)))

    async def open_flow(
        self,
        label: str = "",
        *,
        delivery: Delivery = Delivery.ORDERED,
        flow_class: FlowClass = FlowClass.STANDARD,
        number: int = 0,
    ) -> Flow:
        """Agrees on a flow with whoever listens for this label at the peer.

        Args:
            label: at most 63 bytes.
            delivery: what the flow promises of its messages.
            flow_class: its priority at both ends, strict.
            number: of the flow; 0 = any that is free.

        Raises:
            ApiError: nobody listens for that there, or no flow is free.
        """
        steps = self._core.open_flow(delivery, flow_class, label, number)
        return self._endpoint.adopt(await self._endpoint.run(steps))

    async def send(self, data: Buffer | Sequence[Buffer], *, coalesce: bool = False) -> None:
        """`Flow.send` on the default flow."""
        await self._on_default(lambda flow: flow.send(data, coalesce=coalesce))

    async def recv(self, max_size: int = MESSAGE_LIMIT) -> bytes:
        """`Flow.recv` on the default flow."""
        return await self._on_default(lambda flow: flow.recv(max_size))

    async def recv_into(self, buffer: Buffer) -> int:
        """`Flow.recv_into` on the default flow."""
        return await self._on_default(lambda flow: flow.recv_into(buffer))

    async def drain(self) -> None:
        """`Flow.drain` on the default flow."""
        await self._on_default(lambda flow: flow.drain())

    async def finish(self) -> None:
        """`Flow.finish` on the default flow."""
        await self._on_default(lambda flow: flow.finish())

    async def close(self) -> None:
        """Closes the default flow, if it is open. The session stays, and so do other flows."""
        if self._default is not None:
            await self._default.close()

    async def _on_default(self, operation: Callable[[Flow], Awaitable[T]]) -> T:
        while True:
            async with self._opening:
                if self._default is None:
                    self._default = await self.flow()
                flow = self._default
            try:
                return await operation(flow)
            except SessionOverError:
                await flow.abort()
                if self._default is flow:
                    self._default = None
                if not await self._endpoint.run(self._core.can_reopen(flow.core)):
                    raise


class Flow(FlowFace):
    """Messages, both ways, with one remote cell.

    One task at a time sends and one receives; others wait for their turn.
    """

    def __init__(self, endpoint: Endpoint, core: FlowCore) -> None:
        super().__init__(core)
        self._endpoint = endpoint
        self._sending = asyncio.Lock()
        self._receiving = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it: in good order, or at once where an exception passes."""
        await (self.close() if error is None else self.abort())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its messages, until the peer has ended it."""
        with contextlib.suppress(EndedError):
            while True:
                yield await self.recv()

    # Sending

    async def send(self, data: Buffer | Sequence[Buffer], *, coalesce: bool = False) -> None:
        """Sends a message, of one buffer or of several, which are not copied.

        Returns when all of it is taken: then the buffers are free again. Waits while there is no
        credit, that is, while the peer's application does not read.

        Args:
            data: the message; may be empty.
            coalesce: lets it wait a moment for another message to share a frame with.

        Raises:
            EndedError: the peer has closed the flow.
            FlowError: it is broken; the message says by what.
            MessageTooLongError: it must fit a frame on this flow, and does not.
        """
        await self._send(self._core.send(data, coalesce))

    async def send_many(
        self,
        messages: Buffer | Iterable[Buffer],
        lengths: int | Sequence[int] | None = None,
        *,
        coalesce: bool = True,
    ) -> None:
        """Sends messages one after the other.

        Args:
            messages: themselves; or, with `lengths`, one buffer in which they lie back to back.
            lengths: of each, or of all of them.
            coalesce: several may share a frame.

        Raises:
            As `send`; those before the one that failed are sent.
        """
        await self._send(self._core.send_many(messages, lengths, coalesce))

    def send_nowait(self, data: Buffer | Sequence[Buffer], *, coalesce: bool = False) -> None:
        """As `send`, without waiting.

        Raises:
            WouldBlockError: there is no credit, or another task is sending; nothing was sent.
        """
        if self._sending.locked():
            raise WouldBlockError("another message is being sent")
        try:
            self._core.send_nowait(data, coalesce)
        finally:
            self._follow_up()

    async def drain(self) -> None:
        """Waits until the peer's application has taken all; best effort: until it has left.

        Raises:
            FlowError: that cannot be known any more.
        """
        await self._send(self._core.drain())

    async def finish(self) -> None:
        """Says that no message follows. The peer may go on sending."""
        await self._send(self._core.finish())

    # Receiving

    async def recv(self, max_size: int = MESSAGE_LIMIT) -> bytes:
        """Receives a message.

        Raises:
            EndedError: the peer has said that none follows.
            FlowError: the flow is broken; the message says by what.
            MessageTooLongError: it is longer than `max_size`; it stays, to be read otherwise.
        """
        async with self._receiving:
            return await self._endpoint.run(self._core.recv(max_size))

    async def recv_into(self, buffer: Buffer) -> int:
        """Receives a message straight into a buffer; returns its length.

        Raises:
            As `recv`; MessageTooLongError where the buffer is too small.
        """
        async with self._receiving:
            return await self._endpoint.run(self._core.recv_into(buffer))

    async def recv_some(self, buffer: Buffer) -> tuple[int, bool]:
        """Receives as much of the message at hand as fits; its length, and whether that was all."""
        async with self._receiving:
            return await self._endpoint.run(self._core.recv_some(buffer))

    async def recv_many(self, buffer: Buffer | None = None, most: int = 4096) -> list[memoryview]:
        """Receives all whole messages that are there, and at least one.

        Args:
            buffer: where they go, back to back; None = memory of their own.
            most: messages.

        Returns:
            Views into that memory.

        Raises:
            As `recv`; MessageTooLongError where not even the first fits.
        """
        async with self._receiving:
            return await self._endpoint.run(self._core.recv_many(buffer, most))

    async def discard(self) -> int:
        """Lets the message at hand go without holding it; returns its length."""
        async with self._receiving:
            return await self._endpoint.run(self._core.discard())

    # Its end

    async def close(self) -> None:
        """Ends it in good order: `finish`, then waits until all is receipted. Idempotent.

        Raises:
            FlowError: what was sent may not have arrived; the flow is closed all the same.
        """
        try:
            async with self._sending:
                await self._endpoint.run(self._core.end())
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Closes it as it is: what is not receipted may be lost. Idempotent."""
        self._endpoint.forget(self)
        await self._endpoint.run(self._core.abort())

    async def _send(self, steps: Steps[T]) -> T:
        try:
            async with self._sending:
                return await self._endpoint.run(steps)
        finally:
            self._follow_up()

    def _follow_up(self) -> None:
        if self._core.has_rest:
            self._endpoint.in_background(self._push_rest())

    async def _push_rest(self) -> None:
        # Where the flow breaks, whoever uses it next is told.
        with contextlib.suppress(AssentError):
            async with self._sending:
                await self._endpoint.run(self._core.push_rest())


class Listener:
    """Flows that peers define; made by `Endpoint.listen`."""

    def __init__(self, endpoint: Endpoint, label: str, remote: CellID | str | None) -> None:
        self._endpoint = endpoint
        self._label = label
        self._remote = remote
        self._arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        self._listening: Listening | None = None

    async def __aenter__(self) -> Self:
        """Listens from now on.

        Raises:
            ApiError: the daemon will not have it.
        """
        loop = asyncio.get_running_loop()

        def deliver(arrival: Arrival) -> None:
            loop.call_soon_threadsafe(self._arrived.put_nowait, arrival)

        self._listening = Listening(self._endpoint.core, self._label, self._remote, deliver)
        await asyncio.to_thread(self._listening.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listens no more; flows that were taken stay."""
        if self._listening is not None:
            await asyncio.to_thread(self._listening.stop)
            self._listening = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Flow:
        """The next flow.

        Raises:
            ApiError: the daemon will not go on.
            FailedPrecondition: the flow that came cannot be driven; the next one may.
        """
        if self._listening is None:
            await self.__aenter__()
        arrival = await self._arrived.get()
        if isinstance(arrival, AssentError):
            raise arrival
        return self._endpoint.adopt(await self._endpoint.run(self._endpoint.core.accept(arrival)))
