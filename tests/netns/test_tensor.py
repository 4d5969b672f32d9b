# SPDX-License-Identifier: Apache-2.0
"""Arrays of two hosts on a switch: in place, in pieces, and before bulk flows."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from assent.demo.nodes import Nodes

from .conftest import python, widen

pytestmark = pytest.mark.netns

RECEIVER = """
import asyncio, contextlib, json, sys
from pathlib import Path
import numpy
from assent.tensor import LABEL, Regions, TensorReceiver
from assent.transport import Endpoint, FlowError

async def waste(flows):
    room = bytearray(1 << 17)
    flow = await anext(flows)
    with contextlib.suppress(FlowError):
        while True:
            await flow.recv_some(room)
            await asyncio.sleep(0)
    await flow.abort()

async def main():
    regions, target = Regions(), numpy.zeros((1024, 2048), "<f4")
    regions.register("grad", target)
    landed = []
    async with Endpoint(socket=Path(sys.argv[1])) as endpoint:
        async with endpoint.listen("bulk") as bulks, endpoint.listen(LABEL) as tensors:
            print("listening", flush=True)
            wasting = asyncio.create_task(waste(bulks))
            async with await anext(tensors) as flow:
                async for each in TensorReceiver(flow, regions):
                    landed.append(each.size)
            wasting.cancel()
            await asyncio.gather(wasting, return_exceptions=True)
    print(json.dumps({"landed": landed, "sum": float(target.sum())}), flush=True)

asyncio.run(main())
"""

SENDER = """
import asyncio, json, sys, time
from pathlib import Path
import numpy
from assent.tensor import RefusedError, open_sender
from assent.transport import Endpoint, FlowClass

async def bulk(flow):
    while True:
        await flow.send(bytes(64 << 20))
        await asyncio.sleep(0)

async def main():
    # Of each row, the last 16 columns stay at home: 1,024 pieces.
    padded = numpy.full((1024, 2048 + 16), 9, "<f4")
    padded[:, :2048] = numpy.arange(2048) % 8
    said = {"seconds": [], "bulk": []}
    async with (
        Endpoint(socket=Path(sys.argv[1])) as endpoint,
        open_sender(endpoint, "right") as sender,
    ):
        try:
            await sender.send("other", padded)
        except RefusedError as refusal:
            said["refused"] = str(refusal)
        other = await endpoint.open_flow("right", label="bulk", flow_class=FlowClass.BULK)
        running = asyncio.create_task(bulk(other))
        if sys.argv[2] == "bulk":
            while other.stats.tx_payload < 16 << 20:
                await asyncio.sleep(0.01)
        else:
            running.cancel()
        for _ in range(4):
            before, began = other.stats.tx_payload, time.monotonic()
            await sender.send("grad", padded[:, :2048])
            said["seconds"].append(time.monotonic() - began)
            said["bulk"].append(other.stats.tx_payload - before)
        said["running"] = not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await other.abort()
    print(json.dumps(said), flush=True)

asyncio.run(main())
"""

SIZE = 1024 * 2048 * 4


@contextlib.contextmanager
def running(nodes: Nodes, name: str, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with python(nodes, name, code, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def talk(pair):
    widen(pair, 1, 2, window=16384)

    def both(how: str):
        with running(pair, "right", RECEIVER) as receiver:
            assert receiver.stdout.readline() == "listening\n"
            with running(pair, "left", SENDER, how) as sender:
                sent, _ = sender.communicate(timeout=60)
            received, _ = receiver.communicate(timeout=60)
        return json.loads(sent), json.loads(received)

    return both


def check(sent, received) -> None:
    assert sent["refused"] == "the peer refuses 'other': there is no region 'other'"
    assert received["landed"] == [SIZE] * 4
    assert received["sum"] == 1024 * 2048 / 8 * sum(range(8))


def test_arrays_in_pieces_land_in_place_and_overtake_a_bulk_transfer(talk):
    check(*talk("alone"))
    sent, received = talk("bulk")
    check(sent, received)
    assert sent["running"], "what was sent first is still under way"
