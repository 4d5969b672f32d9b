# SPDX-License-Identifier: Apache-2.0
"""What follows from covenants in the rest of the store and in the node's books.

Transactions are the caller's; whoever changes the books undoes that by `restored`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from assent.credit.ledger import Ledger
from assent.errors import NotFound
from assent.service.faults import Point, reach
from assent.service.handshakes import FLOW_MAX
from assent.service.records import StandingGrant
from assent.service.store import Store
from assent.wire.cellid import CellID

_FLOWS = range(1, FLOW_MAX + 1)


def widest(all_windows: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The largest window of each flow."""
    found: dict[int, int] = {}
    for windows in all_windows:
        for flow, blocks in windows.items():
            found[flow] = max(blocks, found.get(flow, 0))
    return found


def settle_grants(store: Store, remote: CellID) -> dict[int, int]:
    """Has the grants of a remote cell be what governs its pairs.

    Where an operator decides on its consent, they are the operator's, and stay.

    Returns:
        Its grants: window in blocks, by flow.
    """
    before = {grant.flow: grant.window_blocks for grant in store.grants(remote)}
    try:
        negotiated = store.remote(remote).consent.is_negotiated
    except NotFound:
        return {}
    if not negotiated:
        return before
    windows = widest(gate.flows for gate in store.covenants.governors(remote))
    for flow in before.keys() - windows.keys():
        store.delete_grant(remote, flow)
    for flow, blocks in windows.items():
        store.set_grant(StandingGrant(remote, flow, blocks))
    return windows


def take_from_pairs(store: Store, handle: int) -> None:
    """Removes what a covenant says of pairs, and the keys that went with it alone."""
    store.covenants.delete_gates(handle)
    reach(Point.CLOSE_GATES)
    store.covenants.hand_over_psks(handle)
    store.covenants.delete_psks(handle)
    reach(Point.CLOSE_KEYS)


def hold(ledger: Ledger[tuple[CellID, int]], remote: CellID, wanted: Mapping[int, int]) -> None:
    """Backs these windows of a remote cell, in blocks by flow, in place of those held so far.

    Raises:
        ResourceExhausted: The node has not that much. Some may have changed: see `restored`.
    """
    # What is given back first makes room for what is asked for.
    for flow in _FLOWS:
        if ledger.held((remote, flow)) > wanted.get(flow, 0):
            ledger.release((remote, flow))
    for flow, blocks in wanted.items():
        if ledger.held((remote, flow)):
            ledger.widen((remote, flow), blocks)
        else:
            ledger.reserve((remote, flow), blocks)


@contextlib.contextmanager
def restored(ledger: Ledger[tuple[CellID, int]], remotes: Collection[CellID]) -> Iterator[None]:
    """Takes back what was promised to some remote cells, where the block comes to nothing."""
    before = {(remote, flow): ledger.held((remote, flow)) for remote in remotes for flow in _FLOWS}
    try:
        yield
    except BaseException:
        for key in before:
            ledger.release(key)
        for key, blocks in before.items():
            if blocks:
                ledger.reserve(key, blocks)
        raise
