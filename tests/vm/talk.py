# SPDX-License-Identifier: Apache-2.0
"""One end of a conversation: numbered messages on a flow of one delivery, and what came of them.

talk.py send SOCKET DELIVERY COUNT SIZE
talk.py receive SOCKET DELIVERY COUNT SIZE
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


def send(socket: Path, delivery: Delivery, count: int, size: int) -> dict[str, object]:
    with (
        Endpoint(socket=socket) as endpoint,
        endpoint.open_flow("right", label=LABEL, delivery=delivery) as flow,
    ):
        if flow.recv(timeout=PATIENCE_S) != GO:
            raise SystemExit("the receiver says something else")
        for number in range(count):
            flow.send(message(number, size), timeout=PATIENCE_S)
        flow.close(timeout=PATIENCE_S)
        return {"stats": asdict(flow.stats)}


def receive(socket: Path, count: int, size: int) -> dict[str, object]:
    numbers: list[int] = []
    with Endpoint(socket=socket) as endpoint, endpoint.listen(LABEL) as flows:
        print("ready", flush=True)
        with next(iter(flows)) as flow:
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
    """Has the sender begin; what either side sends before the other has the flow open is lost."""
    while True:
        flow.send(GO, timeout=PATIENCE_S)
        with contextlib.suppress(TimeoutError):
            return flow.recv(timeout=RETRY_S)


def main() -> None:
    side, socket, delivery, count, size = sys.argv[1:]
    path, messages, length = Path(socket), int(count), int(size)
    if side == "send":
        result = send(path, Delivery[delivery], messages, length)
    else:
        result = receive(path, messages, length)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
