# SPDX-License-Identifier: Apache-2.0
"""The exchange of blocks over a flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar

from assent.storage.engine import MESSAGE_MAX, Event, Message, StorageEngine
from assent.transport.errors import EndedError

LABEL: Final = "storage"
"""Which of a peer's listeners is meant. A peer that serves no store has none, and refuses."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class MessageFlow(Protocol):
    """A flow of `assent.transport`, as far as it is needed here."""

    async def send(self, message: Message) -> None:
        """Sends one message, gathered."""

    async def recv(self, max_size: int = ...) -> bytes:
        """The next message; `EndedError` where the peer has ended."""


class Exchange:
    """An engine and the flow that it has for now.

    Args:
        engine: Of this peer alone.
        on_event: Told what has become of a DAG.
        done: Asked after each message whether this side may end; never, where it serves.
    """

    def __init__(
        self,
        engine: StorageEngine,
        on_event: Callable[[Event], None],
        done: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._on_event = on_event
        self._done = done
        # The engine is used in threads, for it waits for the disk; one at a time.
        self._turn = asyncio.Lock()
        self._due = asyncio.Event()

    async def run(self, flow: MessageFlow) -> None:
        """Talks to the peer until either side ends. May be called again with another flow.

        Args:
            flow: To the peer; it stays open.

        Raises:
            RemoteError: The peer does not keep to the exchange, or the flow broke.
        """
        await self._call(self._engine.begin)
        self._due.set()
        writer = asyncio.create_task(self._write(flow), name="storage-writer")
        reader = asyncio.create_task(self._read(flow), name="storage-reader")
        try:
            ended, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, flow: MessageFlow) -> None:
        while True:
            try:
                message = await flow.recv(MESSAGE_MAX)
            except EndedError:
                return
            for event in await self._call(self._engine.receive, message):
                self._on_event(event)
            self._due.set()

    async def _write(self, flow: MessageFlow) -> None:
        """Ends where all is done and said."""
        while True:
            message = await self._call(self._engine.next_message)
            if message is not None:
                await flow.send(message)
            elif self._done():
                return
            else:
                await self._due.wait()
                self._due.clear()

    async def _call(self, function: Callable[_P, _T], *given: _P.args, **named: _P.kwargs) -> _T:
        async with self._turn:
            call = asyncio.create_task(asyncio.to_thread(function, *given, **named))
            try:
                return await asyncio.shield(call)
            finally:
                # Cancelled or not: nobody uses the engine any more when this is over.
                await asyncio.gather(call, return_exceptions=True)
