"""Both ends of what test_transport.py looks at: `ends.py SOCKET CASE SIDE [JSON]`, a process each.

A line "ready" says that the other end may begin; the last line is what the test gets, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assent import transport
from assent.errors import AssentError
from assent.transport import Delivery, EndedError, FlowError, WouldBlockError, blocking

# What comes before the other end is there is lost, where nothing is sent again.
KNOCK = b"knock, knock"
SOCKET = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
CASES: dict[tuple[str, str], Callable[[Any], Any]] = {}


def case(name: str, side: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        CASES[name, side] = function
        return function

    return register


def ready() -> None:
    print("ready", flush=True)


def await_word() -> None:
    """Until the test says so."""
    sys.stdin.readline()


def messages_of(sizes: list[int], seed: int = 0) -> list[bytes]:
    return [
        hashlib.shake_128(f"{seed}.{at}".encode()).digest(size) for at, size in enumerate(sizes)
    ]


def endpoint(**options: Any) -> blocking.Endpoint:
    return blocking.Endpoint(socket=SOCKET, **options)


# Every delivery, both flavours


@case("blocking", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.listen("case") as flows:
        ready()
        with flows.accept(timeout=30) as flow:
            got = []
            for message in flow:
                if message == KNOCK:
                    flow.send(KNOCK)
                else:
                    got.append(message)
            for message in got:
                flow.send(message)
            flow.finish()
            return {"got": len(got), "label": flow.label, "delivery": flow.delivery.name}


@case("blocking", "left")
def _(args: Any) -> Any:
    delivery = Delivery[args["delivery"]]
    with (
        endpoint() as here,
        here.open_flow("right", label="case", delivery=delivery) as flow,
    ):
        sent = messages_of([*args["sizes"], flow.message_max])
        answered = False
        while not answered:
            flow.send(KNOCK)
            with contextlib.suppress(TimeoutError):
                answered = flow.recv(timeout=0.3) == KNOCK
        for message in sent:
            flow.send([message[:7], memoryview(message)[7:]])
        flow.finish()
        got = [message for message in flow if message != KNOCK]
        same = got == sent if delivery is Delivery.ORDERED else sorted(got) == sorted(sent)
        return {"same": same, "stats": asdict(flow.stats)}


@case("asyncio", "right")
async def _(args: Any) -> Any:
    async with transport.Endpoint(socket=SOCKET) as here, here.listen("case") as flows:
        ready()
        async for flow in flows:
            async with flow:
                count = 0
                async for message in flow:
                    await flow.send(message)
                    count += message != KNOCK
            return {"got": count}
    return None


@case("asyncio", "left")
async def _(args: Any) -> Any:
    delivery = Delivery[args["delivery"]]
    async with transport.Endpoint(socket=SOCKET) as here:
        flow = await here.open_flow("right", label="case", delivery=delivery)
        async with flow:
            sent = messages_of([*args["sizes"], flow.message_max])
            answered = False
            while not answered:
                await flow.send(KNOCK)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.3):
                        answered = await flow.recv() == KNOCK

            async def write() -> None:
                for message in sent:
                    await flow.send(message)
                await flow.finish()

            writing = asyncio.create_task(write())
            got = [message async for message in flow if message != KNOCK]
            await writing
        same = got == sent if delivery is Delivery.ORDERED else sorted(got) == sorted(sent)
        return {"same": same}


# Windows that change


@case("stream", "right")
def _(args: Any) -> Any:
    digest, count = hashlib.sha256(), 0
    with endpoint() as here, here.listen("case") as flows:
        ready()
        with flows.accept(timeout=30) as flow:
            for message in flow:
                digest.update(message)
                count += 1
            flow.finish()
    return {"messages": count, "digest": digest.hexdigest()}


@case("stream", "left")
def _(args: Any) -> Any:
    digest, count = hashlib.sha256(), 0
    until = time.monotonic() + args["seconds"]
    with endpoint() as here, here.open_flow("right", label="case") as flow:
        while time.monotonic() < until:
            message = count.to_bytes(8) * (1 + count * 7919 % 500)
            flow.send(message)
            digest.update(message)
            count += 1
        flow.finish()
        assert list(flow) == []
    return {"messages": count, "digest": digest.hexdigest()}


# Back-pressure


@case("pressure", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.listen("case") as flows:
        ready()
        with flows.accept(timeout=30) as flow:
            await_word()
            got = [int.from_bytes(message[:8]) for message in flow]
            return {"in_order": got == list(range(len(got))), "got": len(got)}


@case("pressure", "left")
def _(args: Any) -> Any:
    body = bytes(992)
    with endpoint() as here, here.open_flow("right", label="case") as flow:
        number = refused = 0
        while not refused:
            try:
                flow.send_nowait([number.to_bytes(8), body])
                number += 1
            except WouldBlockError:
                refused += 1
        blocks = (flow.stats.tx_frames - flow.stats.retransmissions) * 17
        try:
            flow.send([number.to_bytes(8), body], timeout=0.3)
            timed_out = False
            number += 1
        except TimeoutError:
            timed_out = True
        left = flow.credit
        ready()
        # The receiver begins to read; what was refused is sent now.
        for more in range(number, number + 2000):
            flow.send([more.to_bytes(8), body])
        flow.finish()
        return {
            "sent": number + 2000,
            "blocks": blocks,
            "left": left,
            "timed_out": timed_out,
        }


# A peer that is done and gone before this side looks again


@case("asleep", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.listen("case") as flows:
        ready()
        with flows.accept(timeout=30) as flow:
            flow.send(KNOCK)
            got = sum(len(flow.recv()) for _ in range(100))
            ready()
            await_word()
            return {"got": got + sum(len(message) for message in flow)}


@case("asleep", "left")
def _(args: Any) -> Any:
    with endpoint() as here, here.open_flow("right", label="case") as flow:
        flow.recv()
        for _ in range(100):
            flow.send(bytes(5000))
        flow.finish()
        ready()
        with contextlib.suppress(EndedError):
            flow.recv()
    return {"written": 500_000, "receipted": flow.stats.tx_payload}


# Batches


@case("batches", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.listen("case") as flows:
        ready()
        with flows.accept(timeout=30) as flow:
            room, calls, got = bytearray(1 << 20), 0, []
            try:
                while True:
                    batch = flow.recv_many(room)
                    calls += 1
                    got += [bytes(message) for message in batch]
            except EndedError:
                pass
            return {"digest": digest(got), "count": len(got), "calls": calls}


@case("batches", "left")
def _(args: Any) -> Any:
    with endpoint() as here, here.open_flow("right", label="case") as flow:
        even = os.urandom(64 * 20_000)
        odd = messages_of([(7 * at) % 1300 for at in range(500)])
        flow.send_many(even, 64)
        flow.send_many(odd)
        flow.send_many(b"".join(odd), [len(message) for message in odd], coalesce=False)
        sent = [even[at : at + 64] for at in range(0, len(even), 64)] + odd + odd
        flow.finish()
        flow.drain()
        return {"digest": digest(sent), "count": len(sent), "frames": flow.stats.tx_frames}


def digest(messages: list[bytes]) -> str:
    total = hashlib.sha256()
    for message in messages:
        total.update(len(message).to_bytes(4))
        total.update(message)
    return total.hexdigest()


# Cancelling


@case("cancel", "right")
async def _(args: Any) -> Any:
    async with transport.Endpoint(socket=SOCKET) as here, here.listen("case") as flows:
        ready()
        async for flow in flows:
            async with flow:
                await asyncio.to_thread(await_word)
                got = [len(message) async for message in flow]
                await flow.send(json.dumps(got).encode())
                return {"got": got}
    return None


@case("cancel", "left")
async def _(args: Any) -> Any:
    async with transport.Endpoint(socket=SOCKET) as here:
        flow = await here.open_flow("right", label="case")
        waiting = asyncio.create_task(flow.recv())
        # More than the window: it leaves in part, and is given up.
        large = asyncio.create_task(flow.send(bytes(8 << 20)))
        while flow.stats.tx_frames == 0 or flow.credit > 200:  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.01)
        large.cancel()
        # Nothing of these leaves before they are given up.
        behind = asyncio.create_task(flow.send(b"never"))
        await asyncio.sleep(0.05)
        behind.cancel()
        outcomes = await asyncio.gather(large, behind, return_exceptions=True)
        waiting.cancel()
        outcomes += await asyncio.gather(waiting, return_exceptions=True)
        ready()
        await flow.send(b"after")
        await flow.finish()
        answer = json.loads(await flow.recv())
        await flow.close()
        return {"cancelled": [type(each).__name__ for each in outcomes], "answer": answer}


# Ends that are not in good order


@case("crash", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.connect("left").flow(1) as flow:
        ready()
        flow.recv_into(bytearray(1 << 30))
        return None


@case("crash", "left")
def _(args: Any) -> Any:
    with endpoint() as here:
        flow = here.connect("right").flow(1)
        ready()
        try:
            while True:
                flow.send(bytes(1 << 20))
        except FlowError as error:
            last = error
        flow.abort()
        return {"error": str(last), "at": time.time()}


@case("leave", "right")
def _(args: Any) -> Any:
    with endpoint() as here, here.listen("case") as flows:
        ready()
        flow = flows.accept(timeout=30)
        first = flow.recv()
        flow.abort()
        return {"first": first.decode()}


@case("leave", "left")
def _(args: Any) -> Any:
    with endpoint() as here:
        flow = here.open_flow("right", label="case")
        flow.send(b"one")
        started = time.monotonic()
        try:
            flow.recv()
        except FlowError as error:
            last = error
        took = time.monotonic() - started
        flow.abort()
        return {"error": str(last), "took": took}


@case("renew", "right")
async def _(args: Any) -> Any:
    async with transport.Endpoint(socket=SOCKET) as here:
        connection = await here.connect("left")
        ready()
        async with connection:
            got = [await connection.recv()]
            await connection.send(b"heard")
            got.append(await connection.recv())
        return {"got": [message.decode() for message in got]}


@case("renew", "left")
async def _(args: Any) -> Any:
    async with transport.Endpoint(socket=SOCKET) as here:
        connection = await here.connect("right")
        async with connection:
            await connection.send(b"before")
            await connection.recv()
            await connection.drain()
            ready()
            await asyncio.to_thread(await_word)
            await connection.send(b"after")
            await connection.drain()
        return {}


# A healthy link


@case("quiet", "right")
def _(args: Any) -> Any:
    with endpoint(backend=transport.Backend[args["backend"]]) as here:
        with here.connect("left").flow(1) as flow:
            ready()
            room, total = bytearray(4 << 20), 0
            ended = False
            while not ended:
                count, ended = flow.recv_some(room)
                total += count
            flow.send(b"whole")
            flow.finish()
        return {"total": total, "stats": asdict(flow.stats)}


@case("quiet", "left")
def _(args: Any) -> Any:
    size = args["size"]
    with endpoint(backend=transport.Backend[args["backend"]]) as here:
        with here.connect("right").flow(1) as flow:
            started = time.monotonic()
            flow.send(memoryview(bytearray(size)))
            assert flow.recv(timeout=60) == b"whole"
            seconds = time.monotonic() - started
            flow.finish()
        return {"stats": asdict(flow.stats), "mbit_s": size * 8 / seconds / 1e6}


# The syscall pair


@case("utcp", "right")
def _(args: Any) -> Any:
    os.environ["ASSENT_SOCKET"] = str(SOCKET)
    import threading

    got: list[tuple[str, bytes]] = []

    def serve() -> None:
        for _ in range(3):
            sender, payload = transport.utcp_recv()
            got.append((str(sender), payload))
            transport.utcp_send(sender, payload.upper())

    serving = threading.Thread(target=serve)
    serving.start()
    # The first call of either has this process listen.
    deadline = time.monotonic() + 20
    while transport.utcp.LABEL not in listening() and time.monotonic() < deadline:
        time.sleep(0.01)
    ready()
    serving.join()
    return {"got": [payload.decode() for _, payload in got], "from": got[0][0]}


def listening() -> set[str]:
    """What the hidden endpoint listens for."""
    hidden = transport.utcp.process.current
    return {transport.utcp.LABEL} if hidden is not None else set()


@case("utcp", "left")
def _(args: Any) -> Any:
    os.environ["ASSENT_SOCKET"] = str(SOCKET)
    answers = []
    for payload in (b"one", b"", b"three"):
        transport.utcp_send("right", payload)
        sender, answer = transport.utcp_recv()
        answers.append(answer.decode())
    return {"answers": answers, "from": str(sender)}


def main() -> None:
    _, _, name, side, *rest = sys.argv
    args = json.loads(rest[0]) if rest else {}
    try:
        result = CASES[name, side](args)
        if isinstance(result, Awaitable):
            result = asyncio.run(result)  # type: ignore[arg-type]
    except AssentError as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
        raise
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
