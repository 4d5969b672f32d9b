# SPDX-License-Identifier: Apache-2.0
"""One end of conversations: numbered messages on a flow of one delivery, and what came of them.

    talk.py SOCKET

Each line of stdin is a conversation: `send` or `receive`, DELIVERY, COUNT and SIZE. Lines of stdout
answer: `ready` when a receiver listens, and JSON at the end. To start a process takes an emulated
CPU longer than a conversation, so one process has many.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from assent.transport.blocking import Endpoint, Flow
from assent.transport.errors import EndedError
from assent.wire.control import Delivery

PATIENCE_S = 240.0
LABEL = "talk"
GO = b"go"
RETRY_S = 1.0


def message(number: int, size: int) -> bytes:
    """A message that says its number in every part of it."""
    return (number.to_bytes(4, "big") * -(-size // 4))[:size]


def send(endpoint: Endpoint, delivery: Delivery, count: int, size: int) -> dict[str, object]:
    with endpoint.open_flow("right", label=LABEL, delivery=delivery) as flow:
        if flow.recv(timeout=PATIENCE_S) != GO:
            raise SystemExit("the receiver says something else")
        for number in range(count):
            flow.send(message(number, size), timeout=PATIENCE_S)
        flow.close(timeout=PATIENCE_S)
        return {"stats": asdict(flow.stats)}


def receive(endpoint: Endpoint, delivery: Delivery, count: int, size: int) -> dict[str, object]:
    numbers: list[int] = []
    with endpoint.listen(LABEL) as flows:
        say("ready")
        with next(iter(flows)) as flow:
            if flow.delivery is not delivery:
                raise SystemExit(f"the sender promises something else: {flow.delivery.name}")
            got = first(flow)
            with contextlib.suppress(EndedError):
                while True:
                    number = int.from_bytes(got[:4], "big")
                    if number >= count or got != message(number, size):
                        raise SystemExit(f"a message that nobody sent: {got[:16]!r}")
                    numbers.append(number)
                    got = flow.recv(timeout=PATIENCE_S)
            return {"numbers": numbers, "stats": asdict(flow.stats)}


def first(flow: Flow) -> bytes:
    """Has the sender begin, and takes its first message.

    Best effort alone loses what is sent before the peer has the flow open. Elsewhere one word is
    enough, and one that nobody reads would keep the flow from being closed in good order.
    """
    flow.send(GO, timeout=PATIENCE_S)
    if flow.delivery is not Delivery.BEST_EFFORT:
        return flow.recv(timeout=PATIENCE_S)
    while True:
        with contextlib.suppress(TimeoutError):
            return flow.recv(timeout=RETRY_S)
        flow.send(GO, timeout=PATIENCE_S)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    (socket,) = sys.argv[1:]
    sides = {"send": send, "receive": receive}
    for line in sys.stdin:
        side, delivery, count, size = line.split()
        with Endpoint(socket=Path(socket)) as endpoint:
            result = sides[side](endpoint, Delivery[delivery], int(count), int(size))
        say(json.dumps(result))


if __name__ == "__main__":
    main()
