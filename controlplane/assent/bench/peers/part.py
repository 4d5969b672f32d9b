# SPDX-License-Identifier: Apache-2.0
"""What every program here is told, and how it answers.

A program is one side of one job. The receiving side says that it is ready, and what the sending
side needs to know, as one line of JSON; then it works until the sender is done. Both end with one
more line: what they have counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

PORT: Final = 9000
WARM_UP: Final = 200
"""Questions of a ping that are not counted."""


def crowd_instance(pid: int) -> str:
    """What the gate of a process that is many cells is called."""
    return f"bench-crowd-{pid}"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        workload: "bulk" or "ping".
        address: IPv4 address on which the receiver is reached.
        seconds: how long the sender goes on, of a bulk job.
        size: bytes of one message.
        count: questions, of a ping; the connections of an incast.
        options: what one program alone needs.
        found: what the receiver has said when it was ready.
    """

    workload: str
    address: str
    seconds: float = 1.0
    size: int = 1400
    count: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> str:
        """As an argument of a command line."""
        return json.dumps(asdict(self))


class Meter:
    """Counts what arrives, from the first to the last of it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.messages = 0
        self._first = 0.0
        self._last = 0.0

    def add(self, size: int, messages: int = 1) -> None:
        """Notes that so many bytes have arrived just now."""
        self._last = time.monotonic()
        if not self._first:
            self._first = self._last
        self.bytes += size
        self.messages += messages

    def report(self) -> dict[str, Any]:
        """{"bytes", "messages", "seconds"}: of all that has arrived."""
        return {
            "bytes": self.bytes,
            "messages": self.messages,
            "seconds": self._last - self._first,
        }


class Gathering:
    """What has arrived of messages of one size, one from each of so many senders."""

    def __init__(self, senders: int, size: int) -> None:
        self._left = [size] * senders
        self._size = size
        self._missing = senders * size
        self._half: list[int] = []
        self._done: list[float] = []
        self._first = 0.0

    def add(self, sender: int, size: int) -> bool:
        """Notes that so many bytes of that sender have arrived just now; whether that is all."""
        now = time.monotonic()
        self._first = self._first or now
        self._left[sender] -= size
        self._missing -= size
        if not self._half and 2 * self._missing <= len(self._left) * self._size:
            self._half = [self._size - left for left in self._left]
        if self._left[sender] <= 0:
            self._done.append(now - self._first)
        return self._left[sender] <= 0

    def report(self) -> dict[str, Any]:
        """When each sender was done, and how far each was at half-time.

        Returns:
            {"seconds": of each, from the first arrival on, "half": bytes of each, at the moment at
            which half of all had arrived}.
        """
        return {"seconds": self._done, "half": self._half}


def ready(**found: Any) -> None:
    """Says that the receiver waits, and what its sender needs to know."""
    print(json.dumps(found), flush=True)


def ask(count: int, question: Callable[[], None]) -> dict[str, Any]:
    """Times questions, one after the other. Returns {"nanoseconds": of each}."""
    taken = []
    for number in range(WARM_UP + count):
        started = time.monotonic_ns()
        question()
        if number >= WARM_UP:
            taken.append(time.monotonic_ns() - started)
    return {"nanoseconds": taken}


def main(roles: Mapping[tuple[str, str], Callable[[Job], Mapping[str, Any]]]) -> None:
    """Plays the role that the command line names.

    Args:
        roles: By side ("receive" or "send") and workload.
    """
    side, raw = sys.argv[1:3]
    job = Job(**json.loads(raw))
    print(json.dumps(roles[side, job.workload](job)), flush=True)
