# SPDX-License-Identifier: Apache-2.0
"""Arrays over a flow: announced, checked, gathered, and received in place.

An array is one message: a TENSOR tag that says where its bytes belong, then the bytes. The receiver
looks the region up before it reads them: what it refuses is let go unread, what it takes is read
straight into the region. Either way it answers with a TENSOR tag of the same `ref`. The sender does
not wait for that before it sends the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from assent.errors import InvalidArgument, LocalError, RemoteError
from assent.tensor.regions import Array, Region, Regions, dtype_of, spans_of
from assent.transport.errors import EndedError
from assent.wire.control import (
    MAX_REASON,
    TAG_MAX_LEN,
    ControlTag,
    FlowClass,
    Tag,
    Tensor,
    decode_tag,
    encode_tags,
    tag_len,
)
from assent.wire.control_tensor import item_size
from assent.wire.fabric import BLOCK_LEN

if TYPE_CHECKING:
    from assent.transport import Endpoint
    from assent.wire.cellid import CellID

LABEL: Final = "tensor"
"""Which of a peer's listeners is meant. A peer where no application listens refuses."""


class TensorError(RemoteError):
    """A peer that does not keep to the exchange."""


class RefusedError(LocalError):
    """The peer has no such region, or it is another one there than it was taken for."""


class MessageFlow(Protocol):
    """A flow of `assent.transport`, as far as it is needed here."""

    async def send(self, data: Any) -> None:
        """Sends one message, gathered."""

    async def recv(self, max_size: int = ...) -> bytes:
        """The next message; `EndedError` where the peer has ended."""

    async def recv_some(self, buffer: Any) -> tuple[int, bool]:
        """A part of the message at hand, into memory: its length, and whether that was the end."""

    async def discard(self) -> int:
        """Lets the message at hand go."""


@dataclass(frozen=True, slots=True)
class Landed:
    """Bytes that are in place.

    Attributes:
        region: Which; its array may be used until the next `receive`.
        offset: Where they begin, bytes in C order.
        size: How many there are.
    """

    region: Region
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Coming:
    """An announcement, of which the bytes are still to be read.

    Attributes:
        ref: Ties the answer to it.
        tensor: What was announced.
        ended: Whether there are no bytes.
    """

    ref: int
    tensor: Tensor
    ended: bool


class TensorSender:
    """Sends arrays to the regions of the peer at the other end of a flow.

    Args:
        flow: Reliable and ordered; it has no other use.
    """

    def __init__(self, flow: MessageFlow) -> None:
        self._flow = flow
        self._sending = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._ref = 0

    async def send(
        self, name: str, array: Array, *, shape: tuple[int, ...] | None = None, row: int = 0
    ) -> None:
        """Sends an array, and waits until it is in place.

        Several may be under way: they are sent one after the other.

        Args:
            name: The region.
            array: What to send, of whatever layout; not copied. It must not change meanwhile.
            shape: Of the region, where the array is but a part of it: some of its rows.
            row: The first of these rows.

        Raises:
            InvalidArgument: The array is no part of such a region, or is in too many pieces.
            RefusedError: The peer refuses it; its region is as it was.
            TensorError: The peer does not keep to the exchange.
            FlowError: The flow broke.
        """
        tensor = _announced(name, array, tuple(array.shape) if shape is None else shape, row)
        spans = spans_of(array)
        async with self._sending:
            ref = self._ref = self._ref + 1
            tag = ControlTag(Tag.TENSOR, self._ref, tensor.to_body())
            await self._flow.send([encode_tags([tag]), *spans])
            # Taken here, so that answers are read in the order of their questions.
            await self._reading.acquire()
        try:
            answer = await self._answer(ref)
        finally:
            self._reading.release()
        if not answer.accepted:
            raise RefusedError(f"the peer refuses {name!r}: {answer.reason}")

    async def _answer(self, ref: int) -> Tensor:
        while True:
            tag, _ = decode_tag(await self._flow.recv(TAG_MAX_LEN))
            told, answer = _tensor_of(tag)
            if answer.accepted is None:
                raise TensorError("a question where an answer is due")
            if told == ref:
                return answer
            # What somebody had asked who was cancelled.
            if told > ref:
                raise TensorError("an answer to what was not asked")


class TensorReceiver:
    """Receives arrays into registered memory from the peer at the other end of a flow.

    Args:
        flow: Reliable and ordered; it has no other use.
        regions: Where peers may write to.
    """

    def __init__(self, flow: MessageFlow, regions: Regions) -> None:
        self._flow = flow
        self._regions = regions
        # Announced, and not yet in place.
        self._coming: _Coming | None = None

    async def receive(self) -> Landed:
        """Waits until something is in place; what is refused meanwhile is answered.

        Cancelled, it loses nothing: the next call goes on.

        Raises:
            EndedError: The peer has ended.
            ControlError: The peer's announcement is malformed.
            TensorError: The peer does not keep to the exchange.
            FlowError: The flow broke.
        """
        while True:
            if self._coming is None:
                self._coming = await self._announcement()
            coming = self._coming
            try:
                region = self._regions.find(coming.tensor.name)
                place = region.place(coming.tensor)
            except LocalError as refusal:
                if not coming.ended:
                    await self._flow.discard()
                self._coming = None
                await self._answer(coming, str(refusal))
                continue
            await self._land(place, coming)
            self._coming = None
            await self._answer(coming, "")
            return Landed(region, coming.tensor.offset, coming.tensor.size)

    async def __aiter__(self) -> AsyncIterator[Landed]:
        """What comes into place, until the peer ends."""
        while True:
            try:
                landed = await self.receive()
            except EndedError:
                return
            yield landed

    async def _announcement(self) -> _Coming:
        head = bytearray(BLOCK_LEN)
        have, ended = await self._flow.recv_some(head)
        if have == BLOCK_LEN and not ended and (more := tag_len(head) - BLOCK_LEN) > 0:
            rest = bytearray(more)
            have, ended = await self._flow.recv_some(rest)
            head += rest[:have]
        tag, _ = decode_tag(bytes(head))
        ref, tensor = _tensor_of(tag)
        if tensor.accepted is not None:
            raise TensorError("an answer where a question is due")
        return _Coming(ref, tensor, ended)

    async def _land(self, place: memoryview, coming: _Coming) -> None:
        size, ended = 0, coming.ended
        if not ended and len(place):
            size, ended = await self._flow.recv_some(place)
        if size != len(place):
            raise TensorError(f"{size} bytes, not the {len(place)} announced")
        if not ended and await self._flow.discard():
            raise TensorError(f"more bytes than the {len(place)} announced")

    async def _answer(self, coming: _Coming, refusal: str) -> None:
        reason = refusal.encode()[:MAX_REASON].decode(errors="ignore")
        answer = replace(coming.tensor, accepted=not refusal, reason=reason)
        await self._flow.send(encode_tags([ControlTag(Tag.TENSOR, coming.ref, answer.to_body())]))


@contextlib.asynccontextmanager
async def open_sender(endpoint: Endpoint, remote: CellID | str) -> AsyncIterator[TensorSender]:
    """A sender to a peer that listens for arrays, on a flow of its own.

    Raises:
        ApiError: Nobody listens there, or no flow is free.
    """
    flow = await endpoint.open_flow(remote, label=LABEL, flow_class=FlowClass.TENSOR)
    async with flow:
        yield TensorSender(flow)


def _announced(name: str, array: Array, shape: tuple[int, ...], row: int) -> Tensor:
    """What is said of an array that is all of a region, or some of its rows."""
    own = tuple(array.shape)
    whole = Tensor(name, dtype_of(array), shape, 0, 0)
    if own == shape and not row:
        return replace(whole, size=whole.region_size)
    if not shape or len(own) != len(shape) or own[1:] != shape[1:]:
        raise InvalidArgument("shape", f"{shape} has no rows like those of {own}")
    if not 0 <= row <= shape[0] - own[0]:
        raise InvalidArgument("row", f"{row} is not where {own[0]} of {shape[0]} rows can begin")
    each = item_size(whole.dtype) * math.prod(shape[1:])
    return replace(whole, offset=row * each, size=own[0] * each)


def _tensor_of(tag: ControlTag | None) -> tuple[int, Tensor]:
    if tag is None or tag.tag != Tag.TENSOR:
        raise TensorError("a message that does not begin with a TENSOR tag")
    return tag.ref, Tensor.from_body(tag.body)
