# SPDX-License-Identifier: Apache-2.0
"""Endpoints for threads: the names of `assent.transport`, and calls that block.

    with Endpoint("left") as endpoint:
        connection = endpoint.connect("right")
        connection.send(b"hello")
        answer = connection.recv(timeout=1.0)

Whatever waits takes a `timeout` in seconds and raises TimeoutError when it has passed, with nothing
lost: what cancelling means in `assent.transport.aio` holds for that, and for Ctrl-C, with one
difference. The rest of a message that has left in part does not follow by itself here: it goes out
with the next call that sends, drains, finishes or closes.

Threads may share a flow: one at a time sends and one receives. While a thread waits it moves the
frames itself, which is the quickest way that there is.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

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
from assent.transport.ring import Backend
from assent.transport.steps import SLICE_MS, Deadline, Progress, Steps, run_blocking
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")


class Endpoint(EndpointFace):
    """A cell of this host, in this process; arguments as of `assent.transport.Endpoint`."""

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
        self._open: set[Flow] = set()

    def __enter__(self) -> Self:
        """Finds the cell.

        Raises:
            ApiError: the daemon cannot be asked.
            InvalidArgument: this host has no such cell.
        """
        try:
            run_blocking(self._core.open())
        except BaseException:
            self._core.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes what is open: in good order, or at once where an exception passes."""
        try:
            if error is None:
                for flow in list(self._open):
                    flow.close()
        finally:
            self._core.close()

    def connect(self, cell: CellID | str) -> Connection:
        """The session with a remote cell; shakes hands where there is none.

        Raises:
            ApiError: the daemon cannot; its message says why.
        """
        return Connection(self, run_blocking(self._core.connect(cell)))

    def open_flow(
        self,
        cell: CellID | str,
        *,
        label: str = "",
        delivery: Delivery = Delivery.ORDERED,
        flow_class: FlowClass = FlowClass.STANDARD,
    ) -> Flow:
        """`connect`, and `Connection.open_flow`."""
        return self.connect(cell).open_flow(label, delivery=delivery, flow_class=flow_class)

    def listen(self, label: str = "", remote: CellID | str | None = None) -> Listener:
        """Flows that peers define for this label; a context, and an iterator of Flow."""
        return Listener(self, label, remote)

    # For this module's other classes.

    def adopt(self, core: FlowCore) -> Flow:
        """The face of a flow that was just opened."""
        flow = Flow(self, core)
        self._open.add(flow)
        return flow

    def forget(self, flow: Flow) -> None:
        """It is closed."""
        self._open.discard(flow)


class Connection(ConnectionFace):
    """The session with one remote cell; see `assent.transport.Connection`."""

    def __init__(self, endpoint: Endpoint, core: ConnectionCore) -> None:
        super().__init__(core)
        self._endpoint = endpoint
        self._default: Flow | None = None
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes its default flow: in good order, or at once where an exception passes."""
        if error is None:
            self.close()
        elif self._default is not None:
            self._default.abort()

    def flow(self, number: int = DEFAULT_FLOW) -> Flow:
        """Opens a flow by its number; the peer does the same, nothing is agreed."""
        return self._endpoint.adopt(run_blocking(self._core.flow(number)))

    def open_flow(
        self,
        label: str = "",
        *,
        delivery: Delivery = Delivery.ORDERED,
        flow_class: FlowClass = FlowClass.STANDARD,
        number: int = 0,
    ) -> Flow:
        """Agrees on a flow with whoever listens for this label at the peer."""
        steps = self._core.open_flow(delivery, flow_class, label, number)
        return self._endpoint.adopt(run_blocking(steps))

    def send(
        self,
        data: Buffer | Sequence[Buffer],
        *,
        coalesce: bool = False,
        timeout: float | None = None,
    ) -> None:
        """`Flow.send` on the default flow."""
        self._on_default(lambda flow: flow.send(data, coalesce=coalesce, timeout=timeout))

    def recv(self, max_size: int = MESSAGE_LIMIT, *, timeout: float | None = None) -> bytes:
        """`Flow.recv` on the default flow."""
        return self._on_default(lambda flow: flow.recv(max_size, timeout=timeout))

    def recv_into(self, buffer: Buffer, *, timeout: float | None = None) -> int:
        """`Flow.recv_into` on the default flow."""
        return self._on_default(lambda flow: flow.recv_into(buffer, timeout=timeout))

    def drain(self, *, timeout: float | None = None) -> None:
        """`Flow.drain` on the default flow."""
        self._on_default(lambda flow: flow.drain(timeout=timeout))

    def finish(self, *, timeout: float | None = None) -> None:
        """`Flow.finish` on the default flow."""
        self._on_default(lambda flow: flow.finish(timeout=timeout))

    def close(self, *, timeout: float | None = None) -> None:
        """Closes the default flow, if it is open. The session stays, and so do other flows."""
        if self._default is not None:
            self._default.close(timeout=timeout)

    def _on_default(self, operation: Callable[[Flow], T]) -> T:
        while True:
            with self._opening:
                if self._default is None:
                    self._default = self.flow()
                flow = self._default
            try:
                return operation(flow)
            except SessionOverError:
                flow.abort()
                if self._default is flow:
                    self._default = None
                if not run_blocking(self._core.can_reopen(flow.core)):
                    raise


class Flow(FlowFace):
    """Messages, both ways, with one remote cell; see `assent.transport.Flow`."""

    def __init__(self, endpoint: Endpoint, core: FlowCore) -> None:
        super().__init__(core)
        self._endpoint = endpoint
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it: in good order, or at once where an exception passes."""
        if error is None:
            self.close()
        else:
            self.abort()

    def __iter__(self) -> Iterator[bytes]:
        """Its messages, until the peer has ended it."""
        with contextlib.suppress(EndedError):
            while True:
                yield self.recv()

    # Sending

    def send(
        self,
        data: Buffer | Sequence[Buffer],
        *,
        coalesce: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Sends a message, of one buffer or of several, which are not copied.

        Args:
            data: the message; may be empty.
            coalesce: lets it wait a moment for another message to share a frame with.
            timeout: seconds.
            progress: told now and then how many bytes have been taken.
        """
        with self._turn(self._sending, timeout) as deadline:
            taken = 0 if progress else self._core.send_at_once(data, coalesce)
            if taken is not None:
                run_blocking(self._core.send(data, coalesce, progress, taken), deadline)

    def send_many(
        self,
        messages: Buffer | Iterable[Buffer],
        lengths: int | Sequence[int] | None = None,
        *,
        coalesce: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Sends messages one after the other."""
        self._run(self._sending, self._core.send_many(messages, lengths, coalesce), timeout)

    def send_nowait(self, data: Buffer | Sequence[Buffer], *, coalesce: bool = False) -> None:
        """As `send`, without waiting.

        Raises:
            WouldBlockError: there is no credit, or another thread is sending; nothing was sent.
        """
        if not self._sending.acquire(blocking=False):
            raise WouldBlockError("another message is being sent")
        try:
            self._core.send_nowait(data, coalesce)
        finally:
            self._sending.release()

    def drain(self, *, timeout: float | None = None) -> None:
        """Waits until the peer's application has taken all; best effort: until it has left."""
        self._run(self._sending, self._core.drain(), timeout)

    def finish(self, *, timeout: float | None = None) -> None:
        """Says that no message follows. The peer may go on sending."""
        self._run(self._sending, self._core.finish(), timeout)

    # Receiving

    def recv(self, max_size: int = MESSAGE_LIMIT, *, timeout: float | None = None) -> bytes:
        """Receives a message."""
        with self._turn(self._receiving, timeout) as deadline:
            message = self._core.recv_at_once(
                max_size, deadline.slice_ms() if deadline else SLICE_MS
            )
            if message is None:
                message = run_blocking(self._core.recv(max_size), deadline)
            return message

    def recv_into(
        self, buffer: Buffer, *, timeout: float | None = None, progress: Progress | None = None
    ) -> int:
        """Receives a message straight into a buffer; returns its length."""
        return self._run(self._receiving, self._core.recv_into(buffer, progress), timeout)

    def recv_some(self, buffer: Buffer, *, timeout: float | None = None) -> tuple[int, bool]:
        """Receives as much of the message at hand as fits; its length, and whether that was all."""
        return self._run(self._receiving, self._core.recv_some(buffer), timeout)

    def recv_many(
        self, buffer: Buffer | None = None, most: int = 4096, *, timeout: float | None = None
    ) -> list[memoryview]:
        """Receives all whole messages that are there, and at least one."""
        return self._run(self._receiving, self._core.recv_many(buffer, most), timeout)

    def discard(self, *, timeout: float | None = None) -> int:
        """Lets the message at hand go without holding it; returns its length."""
        return self._run(self._receiving, self._core.discard(), timeout)

    # Its end

    def close(self, *, timeout: float | None = None) -> None:
        """Ends it in good order: `finish`, then waits until all is receipted. Idempotent.

        Raises:
            FlowError: what was sent may not have arrived; the flow is closed all the same.
            TimeoutError: so it may not, either.
        """
        try:
            self._run(self._sending, self._core.end(), timeout)
        finally:
            self.abort()

    def abort(self) -> None:
        """Closes it as it is: what is not receipted may be lost. Idempotent."""
        # Whoever is in a call leaves it first.
        self._core.leaving = True
        with self._sending, self._receiving:
            run_blocking(self._core.abort())
        self._endpoint.forget(self)

    def _run(self, turn: threading.Lock, steps: Steps[T], timeout: float | None) -> T:
        with self._turn(turn, timeout) as deadline:
            return run_blocking(steps, deadline)

    def _turn(self, turn: threading.Lock, timeout: float | None) -> _Turn:
        return _Turn(turn, None if timeout is None else Deadline(timeout))


class _Turn:
    """The right to send, or to receive; its value is the deadline.

    Raises:
        TimeoutError: another thread had it for too long.
    """

    __slots__ = ("_deadline", "_lock")

    def __init__(self, lock: threading.Lock, deadline: Deadline | None) -> None:
        self._lock = lock
        self._deadline = deadline

    def __enter__(self) -> Deadline | None:
        left = self._deadline.left() if self._deadline else None
        if not self._lock.acquire(timeout=-1 if left is None else left):
            raise TimeoutError("time is up: another thread is at it")
        return self._deadline

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class Listener:
    """Flows that peers define; made by `Endpoint.listen`."""

    def __init__(self, endpoint: Endpoint, label: str, remote: CellID | str | None) -> None:
        self._endpoint = endpoint
        self._label = label
        self._remote = remote
        self._arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._listening: Listening | None = None

    def __enter__(self) -> Self:
        """Listens from now on.

        Raises:
            ApiError: the daemon will not have it.
        """
        deliver = self._arrived.put
        self._listening = Listening(self._endpoint.core, self._label, self._remote, deliver)
        self._listening.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listens no more; flows that were taken stay."""
        if self._listening is not None:
            self._listening.stop()
            self._listening = None

    def __iter__(self) -> Iterator[Flow]:
        while True:
            yield self.accept()

    def accept(self, *, timeout: float | None = None) -> Flow:
        """The next flow.

        Raises:
            ApiError: the daemon will not go on.
            FailedPrecondition: the flow that came cannot be driven; the next one may.
            TimeoutError: none came.
        """
        if self._listening is None:
            self.__enter__()
        try:
            arrival = self._arrived.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("time is up: no flow came") from None
        if isinstance(arrival, AssentError):
            raise arrival
        return self._endpoint.adopt(run_blocking(self._endpoint.core.accept(arrival)))
