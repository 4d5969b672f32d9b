# SPDX-License-Identifier: Apache-2.0
"""A reliable flow of messages between two ends in one process, as far as the tests need it."""

import asyncio

from assent.transport.errors import EndedError, FlowError, MessageTooLongError


class MemoryFlow:
    """One end; its window is four messages."""

    def __init__(self, come, go):
        self.come, self.go = come, go
        self.at_hand = None
        self.left = None
        self.sent = []

    async def send(self, message):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise FlowError("the peer is silent")
        parts = message if isinstance(message, list | tuple) else [message]
        self.sent.append(parts)
        await self.go.put(b"".join(parts))

    async def recv(self, max_size=1 << 30):
        await self.await_one()
        if len(self.at_hand) > max_size:
            raise MessageTooLongError("the message is too long")
        return bytes(self.taken(len(self.at_hand)))

    async def recv_some(self, buffer):
        await self.await_one()
        view = memoryview(buffer).cast("B")
        assert len(view)
        part = self.taken(min(len(view), len(self.at_hand)))
        view[: len(part)] = part
        return len(part), self.at_hand is None

    async def discard(self):
        await self.await_one()
        return len(self.taken(len(self.at_hand)))

    async def finish(self):
        await self.go.put(None)

    async def await_one(self):
        if self.at_hand is None:
            message = await self.come.get()
            if message is None:
                # Whoever asks again is told again.
                self.come.put_nowait(None)
                raise EndedError("the peer has ended")
            self.at_hand = memoryview(message)

    def taken(self, size):
        part, self.at_hand = self.at_hand[:size], self.at_hand[size:] or None
        return part


def flow_pair():
    one, two = asyncio.Queue(4), asyncio.Queue(4)
    return MemoryFlow(one, two), MemoryFlow(two, one)
