# SPDX-License-Identifier: Apache-2.0
import asyncio
import io
import os

import pytest

from assent.errors import RemoteError
from assent.storage import dag as dags
from assent.storage.blocks import BlockStore
from assent.storage.engine import StorageEngine, Synced
from assent.storage.session import Exchange
from assent.transport.errors import FlowError

from .memory_flow import flow_pair

MIB = 1 << 20


@pytest.fixture
def stores(tmp_path):
    with (
        BlockStore.create(tmp_path / "l", 64 * MIB) as left,
        BlockStore.create(tmp_path / "r", 64 * MIB) as right,
    ):
        yield left, right


def add(store, data):
    root = dags.put_file(store, io.BytesIO(data), "file").root
    dags.commit(store, "notes", root)
    return root


def client(store, events):
    engine = StorageEngine(store, share=None, follow=("notes",))
    return Exchange(engine, events.append, lambda: engine.settled("notes"))


def server(store, events):
    return Exchange(StorageEngine(store, share=None, follow=("notes",)), events.append)


async def both(ours, theirs, flows=None):
    """Runs both; the client's end ends the server."""
    near, far = flows or flow_pair()
    serving = asyncio.create_task(theirs.run(far))
    try:
        await asyncio.wait_for(ours.run(near), 20)
        await near.finish()
        await asyncio.wait_for(serving, 20)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_both_directions_at_once_over_a_narrow_window(stores):
    left, right = stores
    roots = [add(store, os.urandom(5 * MIB)) for store in stores]
    near, far = [], []
    await both(client(left, near), server(right, far))
    for store in stores:
        for root in roots:
            assert sum(map(len, dags.read_file(store, root))) == 5 * MIB
    assert left.heads("notes") == right.heads("notes")
    assert [type(event) for event in near + far] == [Synced, Synced]


async def test_a_broken_flow_is_told_and_the_next_one_goes_on(stores):
    left, right = stores
    root = add(right, os.urandom(8 * MIB))
    events = []
    ours, theirs = client(left, events), server(right, [])
    flows = flow_pair()
    flows[1].left = 12
    reading = asyncio.create_task(ours.run(flows[0]))
    with pytest.raises(FlowError, match="silent"):
        await asyncio.wait_for(theirs.run(flows[1]), 20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    had = set(left.names())
    assert had
    assert events == []
    await both(ours, theirs)
    assert sum(map(len, dags.read_file(left, root))) == 8 * MIB
    (synced,) = events
    assert synced.blocks + len(had) == len(list(left.names()))


async def test_a_peer_that_does_not_keep_to_it_ends_the_exchange(stores):
    left, _ = stores
    near, far = flow_pair()
    await far.send([b"no message"])
    with pytest.raises(RemoteError, match="over the end"):
        await asyncio.wait_for(client(left, []).run(near), 20)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("storage-")]


async def test_a_peer_that_ends_ends_the_exchange(stores):
    left, _ = stores
    near, far = flow_pair()
    await far.finish()
    await asyncio.wait_for(client(left, []).run(near), 20)
