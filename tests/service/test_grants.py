# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Grants over the socket of a running daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grpc import StatusCode

from assent.identity.keys import Identity
from assent.v1 import cells_pb2, grants_pb2

from .conftest import Api, Place, by_name, daemon_in, refused

KEY = Identity.from_seed(b"\x01" * 32).public_key
CAPACITY = 1000


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place(credit_capacity_blocks=CAPACITY)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
async def granting(api: Api) -> Api:
    """A host that knows one peer and has room for 1,000 blocks."""
    await api.remote("away", KEY)
    return api


def to(name: str, flow: int = 1, blocks: int = 100) -> grants_pb2.SetGrantRequest:
    return grants_pb2.SetGrantRequest(remote=by_name(name), flow=flow, window_blocks=blocks)


async def promised(api: Api) -> int:
    return (await api.status()).credit_promised_blocks


async def test_a_grant_is_held_against_the_node_s_capacity(granting: Api):
    grant = await granting.grants.Set(to("away", 1, 600))
    assert (grant.remote_name, grant.flow, grant.window_blocks) == ("away", 1, 600)
    assert (grant.granted_blocks, grant.spent_blocks) == (0, 0)
    status = await granting.status()
    assert (status.credit_capacity_blocks, status.credit_promised_blocks) == (CAPACITY, 600)


async def test_more_than_the_node_has_is_refused_by_the_numbers(granting: Api, place: Place):
    await granting.grants.Set(to("away", 1, 600))
    before = place.everything()
    code, message = await refused(granting.grants.Set(to("away", 2, 401)))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert message == "401 blocks of credit asked for, 400 of 1000 left"
    assert place.everything() == before
    assert await promised(granting) == 600


async def test_widening_and_narrowing_without_a_session(granting: Api):
    for blocks in (100, 1000, 50):
        await granting.grants.Set(to("away", 1, blocks))
        assert await promised(granting) == blocks


async def test_widening_beyond_capacity_keeps_the_old_window(granting: Api, place: Place):
    await granting.grants.Set(to("away", 1, 600))
    before = place.everything()
    code, _ = await refused(granting.grants.Set(to("away", 1, 1001)))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert place.everything() == before
    assert await promised(granting) == 600


async def test_grants_are_read_listed_and_deleted(granting: Api):
    for flow in (2, 1):
        await granting.grants.Set(to("away", flow, 100 * flow))
    reply = await granting.grants.List(grants_pb2.ListGrantsRequest())
    assert [(each.flow, each.window_blocks) for each in reply.grants] == [(1, 100), (2, 200)]
    get = grants_pb2.GetGrantRequest(remote=by_name("away"), flow=2)
    assert (await granting.grants.Get(get)).window_blocks == 200
    await granting.grants.Delete(grants_pb2.DeleteGrantRequest(remote=by_name("away"), flow=2))
    assert await promised(granting) == 100
    code, message = await refused(granting.grants.Get(get))
    assert (code, message) == (StatusCode.NOT_FOUND, "no grant for flow 2 of this cell")


@pytest.mark.parametrize(
    ("call", "request_", "code", "said"),
    [
        ("Set", grants_pb2.SetGrantRequest(flow=1, window_blocks=1), 3, "remote: needs the id"),
        ("Set", to("away", 0), 3, "flow: needs 1 to 7, got 0"),
        ("Set", to("away", 8), 3, "flow: needs 1 to 7, got 8"),
        ("Set", to("away", 1, 0), 3, "window_blocks: needs 1 to 1073709056, got 0"),
        ("Set", to("away", 1, 32_767 << 15 | 1), 3, "window_blocks: needs 1 to 1073709056"),
        ("Set", to("nobody"), 5, "no cell 'nobody'"),
        ("Get", grants_pb2.GetGrantRequest(remote=by_name("away")), 3, "flow: needs 1 to 7"),
        ("Get", grants_pb2.GetGrantRequest(remote=by_name("away"), flow=1), 5, "no grant for"),
        ("Delete", grants_pb2.DeleteGrantRequest(remote=by_name("away")), 3, "flow: needs 1 to 7"),
        ("Delete", grants_pb2.DeleteGrantRequest(remote=by_name("away"), flow=1), 5, "no grant"),
        ("Delete", grants_pb2.DeleteGrantRequest(remote=by_name("none"), flow=1), 5, "no cell"),
    ],
)
async def test_a_bad_request_changes_nothing(
    granting: Api, place: Place, call: str, request_: object, code: int, said: str
):
    before = place.everything()
    found, message = await refused(getattr(granting.grants, call)(request_))
    assert found.value[0] == code
    assert message.startswith(said)
    assert place.everything() == before
    assert await promised(granting) == 0


async def test_windows_are_backed_once_for_each_local_cell(granting: Api, place: Place, dummy: str):
    """Each local cell may be in session with the peer, and each session gets the windows."""
    await granting.grants.Set(to("away", 1, 500))
    await granting.local("one", dummy)
    assert await promised(granting) == 500
    await granting.local("two", dummy)
    assert await promised(granting) == 1000
    before = place.everything()
    code, message = await refused(granting.local("three", dummy))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert message == "1500 blocks of credit asked for in all, the node has 1000"
    assert place.everything() == before
    assert await promised(granting) == 1000
    await granting.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("two")))
    assert await promised(granting) == 500


async def test_promises_outlive_the_daemon(place: Place):
    async with daemon_in(place) as api:
        await api.remote("away", KEY)
        await api.grants.Set(to("away", 1, 600))
    async with daemon_in(place) as api:
        assert await promised(api) == 600
