# SPDX-License-Identifier: Apache-2.0
"""Local cells that go to another interface, and the table of where cells are.

  left                     switch                     right
+-------------+          +--------+          +-------------+
| fab0 [gate]-|----------|        |----------|-[gate] fab0 |
| fab1 [gate]-|----------|        |          +-------------+
+-------------+          +--------+
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from grpc import StatusCode

from assent.identity.hint import hint_of
from assent.identity.keys import Identity
from assent.service.store import Store
from assent.v1 import cells_pb2, sessions_pb2
from assent.wire.cellid import CellID

from .conftest import (
    INTERFACE,
    Api,
    Cable,
    Host,
    Place,
    by_name,
    eventually,
    housed,
    ip,
    refused,
    switched,
)

SPARE = "fab1"


@dataclass
class Moving:
    """Both hosts in session, left with a second way to the switch."""

    left: Host
    right: Host
    here: Api
    there: Api
    switch: str

    async def move(self, **request: str) -> cells_pb2.Cell:
        return await self.here.cells.Move(
            cells_pb2.MoveCellRequest(cell=by_name("left"), **request)
        )

    async def mac(self, interface: str) -> str:
        found = (await self.here.status()).interfaces
        return next(one.mac for one in found if one.name == interface)

    async def heard_at(self, mac: str) -> None:
        """Waits until the right host has found the left one at an address."""

        async def there() -> bool:
            session = await self.there.session("left")
            return session is not None and session.remote_mac == mac

        await eventually(there, f"the peer is found at {mac}")

    async def announce(self) -> None:
        """Something that needs an answer from the other side."""
        item = sessions_pb2.ManifestItem(name="a", size=1, digest=bytes(32), algorithm="sha256")
        await self.here.sessions.Announce(
            sessions_pb2.AnnounceRequest(remote=by_name("right"), flow=1, items=[item])
        )


@pytest.fixture
async def moving() -> AsyncIterator[Moving]:
    left, right = (Host(name, Place()) for name in ("left", "right"))
    with housed([left, right]), switched([left, right]) as switch:
        peer = ("peer", "name", SPARE, "netns", left.namespace)
        ip("link", "add", "left1", "netns", switch, "type", "veth", *peer)
        ip("-n", switch, "link", "set", "left1", "master", "sw0", "up")
        ip("-n", left.namespace, "link", "set", SPARE, "up")
        for host in (left, right):
            host.launch()
        for host in (left, right):
            await host.answers()
        await Cable(left, right).introduce()
        async with left.enter() as here, right.enter() as there:
            await here.attach(SPARE)
            await here.connect("right")
            yield Moving(left, right, here, there, switch)


async def test_a_cell_moves_and_its_session_stays(moving: Moving):
    before = await moving.here.session("right")
    assert before is not None
    cell = await moving.move(interface=SPARE)
    assert cell.interface == SPARE
    mac = await moving.mac(SPARE)
    assert mac != await moving.mac(INTERFACE)
    await moving.heard_at(mac)
    after = await moving.here.session("right")
    assert after is not None
    assert (after.id, after.epoch) == (before.id, before.epoch)
    await moving.announce()
    # It is stored on either side.
    for host in (moving.left, moving.right):
        host.stop()
        await host.start()
    found = await moving.here.cells.Get(cells_pb2.GetCellRequest(cell=by_name("left")))
    assert found.interface == SPARE
    await moving.heard_at(mac)
    await moving.announce()


async def test_applications_are_told(moving: Moving):
    watch = moving.here.sessions.WatchSession(sessions_pb2.WatchSessionRequest())
    await watch.initial_metadata()
    await moving.move(interface=SPARE)
    event = await watch.read()
    assert event.kind == sessions_pb2.SessionEvent.KIND_MOVED
    assert event.interface == SPARE
    watch.cancel()


async def test_a_cell_goes_to_the_interface_that_stands_by_and_back(moving: Moving):
    assert (await moving.move(standby=SPARE)).standby == SPARE
    mac, spare_mac = await moving.mac(INTERFACE), await moving.mac(SPARE)
    ip("-n", moving.switch, "link", "set", "left", "down")
    await moving.heard_at(spare_mac)
    found = await moving.here.cells.Get(cells_pb2.GetCellRequest(cell=by_name("left")))
    assert (found.interface, found.standby) == (SPARE, INTERFACE)
    ip("-n", moving.switch, "link", "set", "left", "up")
    ip("-n", moving.left.namespace, "link", "set", SPARE, "down")
    await moving.heard_at(mac)
    await moving.announce()


# What is refused


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (cells_pb2.MoveCellRequest(interface="lo"), 3, "cell: needs the id or the name"),
        (cells_pb2.MoveCellRequest(cell=by_name("none"), interface="lo"), 5, "no cell 'none'"),
        (
            cells_pb2.MoveCellRequest(cell=by_name("away"), interface="lo"),
            5,
            "cell 'away' does not",
        ),
        (cells_pb2.MoveCellRequest(cell=by_name("here"), interface=""), 3, "interface: needs the"),
        (
            cells_pb2.MoveCellRequest(cell=by_name("here"), interface="gone0"),
            9,
            "interface: there is no interface 'gone0'",
        ),
        (
            cells_pb2.MoveCellRequest(cell=by_name("here"), interface="lo"),
            9,
            "interface: 'lo' is not gated",
        ),
        (
            cells_pb2.MoveCellRequest(cell=by_name("here"), standby="gone0"),
            9,
            "interface: there is no interface 'gone0'",
        ),
        (cells_pb2.MoveCellRequest(cell=by_name("here"), standby="a/b"), 3, "standby: needs the"),
    ],
)
async def test_a_move_that_cannot_be_changes_nothing(
    api: Api, place: Place, dummy: str, request_: cells_pb2.MoveCellRequest, code: int, said: str
):
    await api.local("here", dummy)
    await api.remote("away", Identity.from_seed(b"\x01" * 32).public_key)
    before = place.everything()
    found, message = await refused(api.cells.Move(request_))
    assert found.value[0] == code
    assert message.startswith(said)
    assert place.everything() == before


async def test_a_cell_does_not_stand_by_for_itself(api: Api, dummy: str):
    await api.local("here", dummy)
    request = cells_pb2.MoveCellRequest(cell=by_name("here"), standby=dummy)
    code, message = await refused(api.cells.Move(request))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith("standby: is the interface that the cell speaks through")


# Where cells are


async def rows(api: Api) -> dict[str, cells_pb2.CellTableRow]:
    reply = await api.cells.ListTable(cells_pb2.ListCellTableRequest())
    return {row.name: row for row in reply.rows}


async def test_the_table_tells_who_is_there_and_who_was(moving: Moving):
    found = await rows(moving.here)
    right = found["right"]
    key = (await moving.here.cells.Get(cells_pb2.GetCellRequest(cell=by_name("right")))).public_key
    assert (right.valid, right.stale, right.relay) == (True, False, False)
    assert right.mac == (await moving.there.status()).interfaces[0].mac
    assert right.lwf_hint == bytes(hint_of(key))[:2]
    assert found["left"].valid
    assert found["left"].mac == await moving.mac(INTERFACE)
    await moving.here.sessions.Close(sessions_pb2.CloseSessionRequest(remote=by_name("right")))
    right = (await rows(moving.here))["right"]
    assert (right.valid, right.stale) == (False, True)


async def test_who_has_never_been_seen_is_not_in_the_table(api: Api):
    await api.remote("away", Identity.from_seed(b"\x01" * 32).public_key)
    assert await rows(api) == {}


async def test_control_blocks_are_shown(moving: Moving):
    reply = await moving.here.sessions.ListControlBlocks(sessions_pb2.ListControlBlocksRequest())
    (block,) = reply.blocks
    assert reply.capacity == 16
    assert block.state == sessions_pb2.SESSION_STATE_ESTABLISHED
    assert block.remote_name == "right"
    assert block.local_seq >= 1
    assert block.dkh_trust == 0
    assert block.last_active_unix_ns > 0
    with Store(moving.left.place.config.state_dir / "state.db") as store:
        assert store.session(CellID(block.remote.value), CellID(block.local.value)) is not None
