# SPDX-License-Identifier: Apache-2.0
"""The seed's pair of system calls (UTCP, Syscalls 0x702 and 0x703), as two functions.

    utcp_send(cell, b"payload")
    sender, payload = utcp_recv()

Payloads travel as messages of reliable, ordered flows under the label "utcp", one flow a peer,
defined with the first payload. A process has one hidden endpoint, of the host's only cell or of the
one that $ASSENT_CELL names; it listens from the first call of either function to the end of the
process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from assent.errors import AssentError
from assent.transport.aio import Endpoint, Flow, Listener
from assent.transport.errors import FlowError
from assent.wire.cellid import CellID

if TYPE_CHECKING:
    from typing_extensions import Buffer

LABEL: Final = "utcp"
WAITING_MAX: Final = 64
"""Payloads that wait for `utcp_recv`; more wait in their flows, unread, and hold their senders."""

T = TypeVar("T")


def utcp_send(cell_id: CellID | str, payload: Buffer) -> None:
    """Sends a payload to a cell; waits while that has no room for it.

    Raises:
        ApiError: the peer cannot be reached, or does not listen.
        FlowError: the flow to it broke.
    """
    process.hidden().call(lambda post: post.send(cell_id, payload))


def utcp_recv() -> tuple[CellID, bytes]:
    """Waits for the next payload from whichever cell.

    Returns:
        Who sent it, and the payload.

    Raises:
        ApiError: the daemon cannot be asked.
    """
    return process.hidden().call(lambda post: post.recv())


class _Post:
    """The hidden endpoint, within its event loop."""

    def __init__(self) -> None:
        self._endpoint = Endpoint(os.environ.get("ASSENT_CELL") or None)
        self._flows: dict[CellID, Flow] = {}
        self._names: dict[CellID | str, CellID] = {}
        self._opening = asyncio.Lock()
        self._arrived: asyncio.Queue[tuple[CellID, bytes]] = asyncio.Queue(WAITING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._undo = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Finds the cell and listens."""
        await self._undo.enter_async_context(self._endpoint)
        listener = await self._undo.enter_async_context(self._endpoint.listen(LABEL))
        self._spawn(self._accept(listener))

    async def close(self) -> None:
        """Ends it: what was sent is receipted first."""
        await self._undo.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send(self, cell: CellID | str, payload: Buffer) -> None:
        flow = await self._flow_to(cell)
        await flow.send(payload)

    async def recv(self) -> tuple[CellID, bytes]:
        return await self._arrived.get()

    async def _flow_to(self, cell: CellID | str) -> Flow:
        async with self._opening:
            known = self._names.get(cell)
            if known is None or known not in self._flows:
                connection = await self._endpoint.connect(cell)
                known = self._names[cell] = connection.remote
                if known not in self._flows:
                    self._take(await connection.open_flow(LABEL))
            return self._flows[known]

    async def _accept(self, listener: Listener) -> None:
        async for flow in listener:
            self._take(flow)

    def _take(self, flow: Flow) -> None:
        """Reads a flow, and writes to it what goes to its peer, unless another one does already."""
        self._flows.setdefault(flow.remote, flow)
        self._spawn(self._read(flow))

    async def _read(self, flow: Flow) -> None:
        try:
            async for payload in flow:
                await self._arrived.put((flow.remote, payload))
            await flow.close()
        except FlowError:
            await flow.abort()
        finally:
            if self._flows.get(flow.remote) is flow:
                del self._flows[flow.remote]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="assent utcp")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Hidden:
    """The event loop of `_Post`, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="assent utcp", daemon=True
        )
        self._thread.start()
        try:
            self._post = self._do(self._opened())
        except BaseException:
            self._stop()
            raise

    def call(self, operation: Callable[[_Post], Coroutine[Any, Any, T]]) -> T:
        """Goes through an operation; a caller that is interrupted gives it up."""
        return self._do(operation(self._post))

    def close(self) -> None:
        """Ends it, as far as it can be ended in good order."""
        with contextlib.suppress(AssentError):
            self._do(self._post.close())
        self._stop()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _opened(self) -> _Post:
        post = _Post()
        await post.open()
        return post

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Process:
    """The one hidden endpoint of this process.

    Attributes:
        current: it, once it listens; None before.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.current: _Hidden | None = None

    def hidden(self) -> _Hidden:
        """It, which listens from now on.

        Raises:
            ApiError: the daemon cannot be asked.
        """
        with self._guard:
            if self.current is None:
                self.current = _Hidden()
                atexit.register(self.current.close)
            return self.current


process = Process()
