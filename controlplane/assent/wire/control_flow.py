# SPDX-License-Identifier: Apache-2.0
"""What is said of a flow on flow 0: DEFINE, GRANT, GAPS, CLOSE."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import (
    MAX_REASON,
    U16_MAX,
    U32_MAX,
    U64_MAX,
    ControlError,
    check_answer,
    check_int,
    check_text,
    from_peer,
    put_answer,
    take,
    take_all,
    take_answer,
    take_if,
)
from assent.wire.control_hail import MTU_MIN

MAX_LABEL: Final = 63
MAX_GAPS: Final = 128
GAPS_SPAN: Final = (1 << 31) - 1
"""Numbers wrap; what one list tells of is less than half of them."""


class Delivery(enum.IntEnum):
    """What a flow promises of its messages; numbered as `enum an_delivery`."""

    ORDERED = 0
    UNORDERED = 1
    BEST_EFFORT = 2


class FlowClass(enum.IntEnum):
    """Whose frames go first, by strict priority; numbered as `enum an_class`."""

    URGENT = 0
    TENSOR = 1
    STANDARD = 2
    BULK = 3


_DELIVERIES: Final = frozenset(Delivery)
_CLASSES: Final = frozenset(FlowClass)


@dataclass(frozen=True, slots=True)
class Define:
    """Asks for a flow, or answers that (DEFINE).

    Attributes:
        flow: 1 to 65,535.
        delivery: What it promises of its messages.
        flow_class: Its priority.
        mtu: The largest fabric frame on it, bytes, from 512.
        label: Which of the peer's listeners is meant; at most 63 bytes.
        accepted: None in a question; in its answer, whether the flow is there now.
        reason: For people; in a refusal alone; at most 255 bytes.
    """

    flow: int
    delivery: Delivery
    flow_class: FlowClass
    mtu: int
    label: str = ""
    accepted: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        check_int("flow", self.flow, 1, U16_MAX)
        check_int("mtu", self.mtu, MTU_MIN, U16_MAX)
        check_text("label", self.label, 0, MAX_LABEL)
        check_answer(self.accepted, self.reason)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {
            "flow": self.flow,
            "delivery": int(self.delivery),
            "class": int(self.flow_class),
            "mtu": self.mtu,
            "label": self.label,
        }
        return put_answer(body, self.accepted, self.reason)

    @classmethod
    def from_body(cls, body: object) -> Define:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        flow, mtu, label = take(body, "flow", int), take(body, "mtu", int), take(body, "label", str)
        delivery, flow_class = take(body, "delivery", int), take(body, "class", int)
        if delivery not in _DELIVERIES:
            raise ControlError("delivery: is not a known one")
        if flow_class not in _CLASSES:
            raise ControlError("class: is not a known one")
        accepted, reason = take_answer(body)
        return from_peer(
            lambda: cls(
                flow,
                Delivery(delivery),
                FlowClass(flow_class),
                mtu,
                label,
                accepted,
                reason,
            )
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """An explicit grant (GRANT), for a receiver that has nothing else to send.

    Attributes:
        flow: 1 to 65,535.
        granted: Blocks of 64 bytes granted since the session began, cumulative, 64 bits.
        window: Blocks that may be outstanding from now on, 64 bits; None where that stays.
    """

    flow: int
    granted: int
    window: int | None = None

    def __post_init__(self) -> None:
        check_int("flow", self.flow, 1, U16_MAX)
        check_int("granted", self.granted, 0, U64_MAX)
        if self.window is not None:
            check_int("window", self.window, 0, U64_MAX)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {"flow": self.flow, "granted": self.granted}
        if self.window is not None:
            body["window"] = self.window
        return body

    @classmethod
    def from_body(cls, body: object) -> Grant:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        flow, granted = take(body, "flow", int), take(body, "granted", int)
        window = take_if(body, "window", int)
        return from_peer(lambda: cls(flow, granted, window))


@dataclass(frozen=True, slots=True)
class Gaps:
    """Ranges of numbers that are missing (GAPS); alone in the sealed payload of a NACK frame.

    On the wire each range after the first is told by its distance: `[first, count, skip, count,
    skip, count, ...]`, where `skip` numbers lie between one range and the next.

    Attributes:
        gaps: 1 to 128 pairs of first number (32 bits) and count (from 1), rising, with at least one
            number between them; from the first number to the last, less than half of all numbers.
            Numbers wrap.
    """

    gaps: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.gaps) <= MAX_GAPS:
            raise InvalidArgument("gaps", f"must be 1 to {MAX_GAPS}")
        span = -1
        for first, count in self.gaps:
            check_int("gaps", first, 0, U32_MAX)
            check_int("gaps", count, 1, GAPS_SPAN)
            start = (first - self.gaps[0][0]) & U32_MAX
            if start <= span:
                raise InvalidArgument("gaps", "must rise, with a number between two")
            span = start + count
            if span > GAPS_SPAN:
                raise InvalidArgument("gaps", "must lie within half of all numbers")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        told: list[int] = list(self.gaps[0])
        for (first, count), (later, later_count) in itertools.pairwise(self.gaps):
            told += (later - first - count) & U32_MAX, later_count
        return {"gaps": told}

    @classmethod
    def from_body(cls, body: object) -> Gaps:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        told = take_all(body, "gaps", int)
        if len(told) % 2:
            raise ControlError("gaps: a range lacks its count")
        if not all(0 <= number <= U32_MAX for number in told):
            raise ControlError("gaps: a number has 32 bits")
        return from_peer(lambda: cls(tuple(_ranges(told))))


def _ranges(told: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First number and count of each range."""
    after = 0
    for skip, count in zip(told[::2], told[1::2], strict=True):
        first = (after + skip) & U32_MAX
        yield first, count
        after = first + count


@dataclass(frozen=True, slots=True)
class Close:
    """Why a session ends, or that its sender is done with one flow (CLOSE).

    Attributes:
        reason: For people; at most 255 bytes, no control characters.
        flow: 1 to 65,535; None where the whole session ends.
        seq: The last number that its sender has used, or given up, on that flow; None where that is
            not known. Whoever drives the flow next begins after it.
        spent: With `seq`: blocks that its sender has spent on that flow, cumulative, 64 bits.
        awaited: The number on that flow that its sender would have taken next: all before it are
            consumed; None where that is not known.
    """

    reason: str
    flow: int | None = None
    seq: int | None = None
    spent: int | None = None
    awaited: int | None = None

    def __post_init__(self) -> None:
        check_text("reason", self.reason, 0, MAX_REASON)
        if self.flow is not None:
            check_int("flow", self.flow, 1, U16_MAX)
        if (self.seq is None) != (self.spent is None) or (
            self.flow is None and self.seq is not None
        ):
            raise InvalidArgument("seq", "goes with a flow, and with what was spent on it")
        if self.seq is not None and self.spent is not None:
            check_int("seq", self.seq, 0, U32_MAX)
            check_int("spent", self.spent, 0, U64_MAX)
        if self.awaited is not None:
            check_int("awaited", self.awaited, 0, U32_MAX)
            if self.flow is None:
                raise InvalidArgument("awaited", "goes with a flow")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {"reason": self.reason}
        for name in ("flow", "seq", "spent", "awaited"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body

    @classmethod
    def from_body(cls, body: object) -> Close:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        reason, flow = take(body, "reason", str), take_if(body, "flow", int)
        seq, spent = take_if(body, "seq", int), take_if(body, "spent", int)
        awaited = take_if(body, "awaited", int)
        return from_peer(lambda: cls(reason, flow, seq, spent, awaited))
