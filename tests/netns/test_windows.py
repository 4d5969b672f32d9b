# SPDX-License-Identifier: Apache-2.0
"""Windows that change under a transfer, with the real engine on both sides of a real gate."""

from __future__ import annotations

import itertools
import time

import pytest

from assent.v1.cells_pb2 import CellRef
from assent.v1.grants_pb2 import Grant, ListGrantsRequest, SetGrantRequest, SetGrantShiftRequest

from .test_transport import ends

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

FINAL = 512


@pytest.mark.parametrize("shift", [0, 4])
def test_a_transfer_goes_on_while_its_window_changes(pair, shift):
    """Narrower and wider, again and again: all arrives, and both sides end with what was said."""
    with pair.client("right") as client:
        client.grants.SetShift(SetGrantShiftRequest(remote=CellRef(name="left"), shift=shift))
        pair.cli("left", "sessions", "connect", "right", "--renew")

        def want(blocks: int) -> Grant:
            request = SetGrantRequest(remote=CellRef(name="left"), flow=1, window_blocks=blocks)
            return client.grants.Set(request)

        with ends(pair, "stream", seconds=4) as (left, right):
            windows = itertools.cycle((64, 20_000, 300, 8000, 128, 32_767))
            until = time.monotonic() + 3
            changes = 0
            while time.monotonic() < until:
                want(next(windows))
                changes += 1
                # Long enough for some of them to settle, and too short for others.
                time.sleep(0.1 * (1 + changes % 5))
            want(FINAL)
            sent, got = left.result(), right.result()
        assert changes >= 5
        assert sent["messages"] > 100
        assert got == {"messages": sent["messages"], "digest": sent["digest"]}
        deadline = time.monotonic() + 20
        while (grant := client.grants.List(ListGrantsRequest()).grants[0]).reserved_blocks != FINAL:
            assert time.monotonic() < deadline, grant
            time.sleep(0.2)
    assert grant.live_window_blocks == FINAL
    # What the sender has to go on with is that window, and not a block more.
    assert grant.granted_blocks - grant.spent_blocks == FINAL
