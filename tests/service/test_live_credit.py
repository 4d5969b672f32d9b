# SPDX-License-Identifier: Apache-2.0
"""Windows that change while sessions are live: two daemons, and the gate's lines on both hosts.

No data flows here: the test writes what gate and endpoint would write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from grpc import StatusCode

from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.identity.keys import Identity
from assent.v1 import grants_pb2, sessions_pb2

from .conftest import Api, Cable, Host, both_established, by_name, eventually, refused

FAIR = grants_pb2.CREDIT_POLICY_KIND_FAIR_SHARE
FIXED = grants_pb2.CREDIT_POLICY_KIND_FIXED
KEY = Identity.from_seed(b"\x01" * 32).public_key
LAYOUT = Btf.from_object(packaged("gate")).map_value("flows")


@dataclass
class Side:
    """One host, its API, and flow 1 as it lies in its gate."""

    host: Host
    api: Api

    def line(self) -> Record:
        return self._find()[1]

    def write(self, **values: int) -> None:
        """Does the gate's and the endpoint's part."""
        key, line = self._find()
        with Map.open_pinned(self.host.place.pins / "maps" / "flows") as table:
            table.update(key, line.replace(**values).pack())

    async def grant(self) -> grants_pb2.Grant:
        (grant,) = (await self.api.grants.List(grants_pb2.ListGrantsRequest())).grants
        return grant

    async def reserved(self) -> int:
        return (await self.api.status()).credit_promised_blocks

    def _find(self) -> tuple[bytes, Record]:
        lines = {key: LAYOUT.unpack(raw) for key, raw in self.host.place.map("flows").items()}
        # Flow 0 has a shorter replay window, and closed flows none.
        open_lines = [(key, line) for key, line in lines.items() if line.replay_len >= 2048]
        (found,) = open_lines
        return found


@dataclass
class Two:
    left: Side
    right: Side

    async def both(self, window: int) -> None:
        """Waits until both sides reckon with a window for what the right one sends."""

        def there() -> bool:
            return (self.left.line().rx_window, self.right.line().tx_window) == (window, window)

        await eventually(there, f"both reckon with {window} blocks")


@pytest.fixture
async def joined(cable: Cable) -> AsyncIterator[Two]:
    """Two hosts in session, with 1,000 blocks for flow 1 either way."""
    await cable.introduce()
    async with cable.left.enter() as left, cable.right.enter() as right:
        await left.connect("right")
        await both_established(left, right)
        yield Two(Side(cable.left, left), Side(cable.right, right))


async def test_a_live_window_is_widened_on_both_sides(joined: Two):
    before = joined.left.line()
    await joined.left.api.grant("right", 1, 2000)
    await joined.both(2000)
    grant = await joined.left.grant()
    assert (grant.window_blocks, grant.live_window_blocks, grant.reserved_blocks) == (
        2000, 2000, 2000
    )  # fmt: skip
    # Grants are the endpoint's: it grants by the new window as it consumes.
    assert joined.left.line() == before.replace(rx_window=2000)
    assert joined.right.line().rx_window == 1000


async def test_a_live_window_is_narrowed_as_its_credit_is_used_up(joined: Two):
    left = joined.left
    await left.api.grant("right", 1, 500)
    assert left.line().rx_window == 500
    assert joined.right.line().tx_window == 1000
    # What was promised stays promised.
    assert await left.reserved() == 1000
    left.write(rx_spent=300, rx_highest=1, rx_next=2)
    await eventually(lambda: joined.right.line().tx_window == 700, "part of it is told")

    async def less() -> bool:
        return await left.reserved() == 700

    await eventually(less, "part of it is given back")
    left.write(rx_spent=800, rx_highest=2, rx_next=3, rx_granted=1300)
    await joined.both(500)

    async def settled() -> bool:
        return await left.reserved() == 500

    await eventually(settled, "the rest is given back")


async def test_a_narrowing_goes_on_after_a_restart(joined: Two):
    left = joined.left
    await left.api.grant("right", 1, 500)
    left.host.stop()
    await left.host.start()
    assert await left.reserved() == 1000
    left.write(rx_spent=900, rx_highest=1, rx_next=2)
    await joined.both(500)

    async def settled() -> bool:
        return await left.reserved() == 500

    await eventually(settled, "it is given back")


async def test_a_widening_that_the_peer_was_down_for_is_made_up_for(joined: Two):
    joined.right.host.stop()
    await joined.left.api.grant("right", 1, 3000)
    assert joined.left.line().rx_window == 1000
    await joined.right.host.start()
    await joined.both(3000)


async def test_a_window_that_the_session_cannot_express_is_widened_as_far_as_it_goes(joined: Two):
    await joined.left.api.grant("right", 1, 100_000)
    await joined.both(32_767)
    await joined.left.api.connect("right", renew=True)

    def renewed() -> bool:
        line = joined.left.line()
        return (line.rx_window, line.grant_shift, line.replay_len) == (100_000, 2, 8192)

    await eventually(renewed, "the next session has it")
    right = joined.right.line()
    assert (right.tx_window, right.grant_shift, right.replay_len) == (100_000, 2, 8192)
    assert right.rx_window == 1000


async def test_the_larger_unit_is_agreed_on(joined: Two):
    await joined.right.api.grants.SetShift(
        grants_pb2.SetGrantShiftRequest(remote=by_name("left"), shift=4)
    )
    await joined.left.api.connect("right", renew=True)

    def agreed() -> bool:
        return joined.left.line().grant_shift == joined.right.line().grant_shift == 4

    await eventually(agreed, "both have the larger one")
    # Whole units of 16 blocks.
    assert joined.left.line().rx_window == joined.right.line().tx_window == 992


@pytest.fixture
async def known(api: Api) -> Api:
    """A host that knows one peer, with 1,000 blocks for flow 1, and no session."""
    await api.remote("right", KEY)
    await api.grant("right", 1, 1000)
    return api


async def only_grant(api: Api) -> grants_pb2.Grant:
    (grant,) = (await api.grants.List(grants_pb2.ListGrantsRequest())).grants
    return grant


async def test_a_window_of_too_few_units_is_refused(known: Api):
    grants = known.grants
    await grants.SetShift(grants_pb2.SetGrantShiftRequest(remote=by_name("right"), shift=7))
    before = await only_grant(known)
    code, message = await refused(known.grant("right", 1, 511))
    assert code is StatusCode.FAILED_PRECONDITION
    assert "511 blocks are too few" in message
    assert await only_grant(known) == before
    request = grants_pb2.SetGrantShiftRequest(remote=by_name("right"), shift=8)
    code, message = await refused(grants.SetShift(request))
    assert code is StatusCode.FAILED_PRECONDITION
    assert "1000 blocks are too few" in message
    policy = grants_pb2.SetCreditPolicyRequest(kind=FAIR, floor_blocks=500)
    code, message = await refused(grants.SetPolicy(policy))
    assert code is StatusCode.FAILED_PRECONDITION
    assert "500 blocks are too few" in message
    assert (await grants.GetPolicy(grants_pb2.GetCreditPolicyRequest())).kind == FIXED


async def test_a_window_that_a_unit_cannot_express_is_refused(known: Api):
    grants = known.grants
    await grants.SetShift(grants_pb2.SetGrantShiftRequest(remote=by_name("right"), shift=0))
    before = await only_grant(known)
    code, message = await refused(known.grant("right", 1, 32_768))
    assert code is StatusCode.FAILED_PRECONDITION
    assert "32768 blocks are too many" in message
    assert await only_grant(known) == before


async def test_under_fair_share_a_peer_at_work_is_given_more(joined: Two):
    left = joined.left
    policy = grants_pb2.SetCreditPolicyRequest(kind=FAIR, floor_blocks=64, ceiling_blocks=4000)
    assert (await left.api.grants.SetPolicy(policy)).floor_blocks == 64
    await left.api.connect("right", renew=True)
    await eventually(lambda: left.line().rx_window == 64, "the next session begins with the floor")
    assert joined.right.line().tx_window == 64
    left.write(rx_spent=10, rx_highest=1, rx_next=2)
    await joined.both(4000)
    grant = await left.grant()
    assert (grant.window_blocks, grant.live_window_blocks) == (1000, 4000)


async def test_policy_is_shown_and_set_back(api: Api):
    assert (await api.grants.GetPolicy(grants_pb2.GetCreditPolicyRequest())).kind == FIXED
    await api.grants.SetPolicy(
        grants_pb2.SetCreditPolicyRequest(kind=FAIR, floor_blocks=100, ceiling_blocks=0)
    )
    found = (await api.grants.List(grants_pb2.ListGrantsRequest())).policy
    assert (found.kind, found.floor_blocks, found.ceiling_blocks) == (FAIR, 100, 0)
    await api.grants.SetPolicy(grants_pb2.SetCreditPolicyRequest(kind=FIXED))
    found = await api.grants.GetPolicy(grants_pb2.GetCreditPolicyRequest())
    assert (found.kind, found.floor_blocks) == (FIXED, 100)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (grants_pb2.SetCreditPolicyRequest(), "kind: needs FIXED or FAIR_SHARE"),
        (grants_pb2.SetCreditPolicyRequest(kind=9), "kind: needs FIXED or FAIR_SHARE"),
        (grants_pb2.SetCreditPolicyRequest(kind=FAIR, floor_blocks=0), "floor_blocks: needs at"),
        (
            grants_pb2.SetCreditPolicyRequest(kind=FAIR, floor_blocks=9, ceiling_blocks=8),
            "ceiling_blocks: is less than the floor of 9",
        ),
        (
            grants_pb2.SetCreditPolicyRequest(kind=FAIR, ceiling_blocks=1 << 40),
            "ceiling_blocks: needs at most",
        ),
    ],
)
async def test_a_policy_that_makes_no_sense_changes_nothing(
    api: Api, request_: grants_pb2.SetCreditPolicyRequest, said: str
):
    before = await api.grants.GetPolicy(grants_pb2.GetCreditPolicyRequest())
    code, message = await refused(api.grants.SetPolicy(request_))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(said)
    assert await api.grants.GetPolicy(grants_pb2.GetCreditPolicyRequest()) == before


# Lamp


@pytest.fixture
async def lit(cable: Cable) -> AsyncIterator[Two]:
    """Two hosts in session; the left one hears flow 1 under LAMP and grants nothing."""
    await cable.introduce({})
    async with cable.left.enter() as left, cable.right.enter() as right:
        request = grants_pb2.SetGrantRequest(remote=by_name("right"), flow=1, lamp=True)
        grant = await left.grants.Set(request)
        assert (grant.window_blocks, grant.lamp, grant.reserved_blocks) == (0, True, 0)
        await left.connect("right")
        await both_established(left, right)
        yield Two(Side(cable.left, left), Side(cable.right, right))


async def test_who_speaks_under_lamp_funds_the_answer(lit: Two):
    line = lit.left.line()
    assert (line.rx_window, line.rx_granted, line.replay_len) == (0, 0, 2048)
    assert lit.right.line().tx_window == 0
    request = sessions_pb2.OpenFlowRequest(remote=by_name("left"), flow=1)
    handle = await lit.right.api.sessions.OpenFlow(request)
    assert handle.lamp
    answer = 1500 // 64

    def funded() -> bool:
        return (lit.right.line().rx_window, lit.left.line().tx_window) == (answer, answer)

    await eventually(funded, "one answer is paid for")
    assert await lit.right.reserved() == answer
    # Whoever hears it grants nothing of its own for that.
    await lit.left.api.sessions.OpenFlow(
        sessions_pb2.OpenFlowRequest(remote=by_name("right"), flow=1)
    )
    assert await lit.left.reserved() == 0
    await lit.right.api.sessions.Close(sessions_pb2.CloseSessionRequest(remote=by_name("left")))

    async def freed() -> bool:
        return await lit.right.reserved() == 0

    await eventually(freed, "it is given back with the session")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (grants_pb2.SetGrantRequest(flow=1, window_blocks=0), "window_blocks: needs 1 to"),
        (grants_pb2.SetGrantRequest(flow=8, lamp=True), "flow: needs 1 to 7"),
    ],
)
async def test_a_window_of_nothing_needs_lamp(
    known: Api, request_: grants_pb2.SetGrantRequest, said: str
):
    request_.remote.CopyFrom(by_name("right"))
    before = await only_grant(known)
    code, message = await refused(known.grants.Set(request_))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(said)
    assert await only_grant(known) == before
