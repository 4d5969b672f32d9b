# SPDX-License-Identifier: Apache-2.0
"""What the node promises and has promised: policy, windows of live sessions, and the books.

A window is reserved before anybody is told of it, and given back when nothing is owed under it any
more. What is owed outlives a crash in two places: the windows in the gate's lines, and for those
that were replaced by narrower ones, `held` in the store.

What covenants grant is not divided here: their terms say it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from assent.credit.lamp import funds_reply, reply_window
from assent.credit.ledger import Ledger
from assent.credit.policy import Claim, CreditPolicy, fair_shares, next_windows
from assent.errors import FailedPrecondition, NotFound, ResourceExhausted
from assent.service.handshakes import FLOW_MAX, UNITS_MIN, shift_for, usable_window
from assent.service.live import LiveSession, Phase
from assent.service.records import RemoteCell, StandingGrant
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.wire.cellid import CellID
from assent.wire.control import GRANT_UNITS_MAX

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
AT_WORK: Final = 5 * SECOND
"""A flow that has had a block in so long is at work."""
NEWCOMERS: Final = 8
"""Fair share keeps so many floors free, but no more than one part in so many of all."""

Key = tuple[CellID, int]
"""A remote cell and a flow."""
Promises = Ledger[Key]
"""What is reserved, by remote cell and flow: for all local cells together."""
_Place = tuple[CellID, CellID, int]
"""A remote cell, a local one and a flow."""


class CreditSteward:
    """Keeps the books true, and the windows of live sessions what policy says.

    Args:
        store: Grants and policy.
        ledger: The books.
        sessions: The live sessions.
        now: Monotonic clock, ns.
    """

    def __init__(
        self,
        store: Store,
        ledger: Promises,
        sessions: SessionManager,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._sessions = sessions
        self._now = now
        self._stale: set[CellID] = set()
        # Of each place, the blocks that had arrived, and when that last changed.
        self._seen: dict[_Place, tuple[int, int]] = {}
        sessions.on_credit = self._stale.add
        sessions.on_open = self.fund_reply

    # Books

    def open_books(self) -> None:
        """Enters what is promised, once, at the start; then has sessions go on from there.

        Raises:
            ResourceExhausted: The node has not that much.
        """
        for grant in self._store.grants():
            if grant.held:
                # Of sessions that have ended since, nothing is owed any more.
                self._forget(grant)
        self._ledger.settle(self.needs(self._store.locals_count()))
        for live in self._sessions.all_live():
            self._steer(live)

    def needs(self, locals_count: int) -> dict[Key, int]:
        """What must be reserved, if there were so many local cells."""
        lives: dict[CellID, list[LiveSession]] = defaultdict(list)
        for live in self._sessions.all_live():
            lives[live.stored.remote].append(live)
        found = self._needed(self._store.grants(), lives, locals_count)
        return {key: blocks for key, blocks in found.items() if blocks}

    @contextlib.contextmanager
    def backed(self, locals_count: int) -> Iterator[None]:
        """Backs all windows for another number of local cells, or takes that back.

        Raises:
            ResourceExhausted: The node has not that much.
        """
        before = self._ledger.windows()
        self._ledger.settle(self.needs(locals_count))
        try:
            yield
        except BaseException:
            self._ledger.settle(before)
            raise

    def settle(self, remote: CellID) -> None:
        """Gives back what is owed to a remote cell no longer."""
        for grant in self._store.grants(remote):
            self._forget(grant)
        if self._is_negotiated(remote):
            return
        needed = self._needed_of(remote)
        for flow in range(1, FLOW_MAX + 1):
            self._hold((remote, flow), needed.get((remote, flow), 0))

    # What an operator sets

    @property
    def policy(self) -> CreditPolicy:
        """How windows come about."""
        return self._store.credit_policy()

    def set_policy(self, policy: CreditPolicy) -> None:
        """Sets how windows come about; those of live sessions follow.

        Raises:
            FailedPrecondition: The floor is too small for the unit of some cell's grants.
            ResourceExhausted: The node has not that much. Nothing has changed.
        """
        self._settle_stale()
        windows: dict[CellID, dict[int, int]] = defaultdict(dict)
        for grant in self._store.standing_grants():
            windows[grant.remote][grant.flow] = grant.window_blocks
        for remote, of_remote in windows.items():
            self._check_units(policy, self._store.remote(remote).grant_shift, of_remote)
        before = self._ledger.windows()
        try:
            with self._store.transaction():
                self._store.set_credit_policy(policy)
                self._ledger.settle(self.needs(self._store.locals_count()))
        except BaseException:
            self._ledger.settle(before)
            raise
        self._sessions.stop_all_handshakes("the policy of windows was changed")
        for live in self._sessions.all_live():
            self._steer(live)

    def set_grant(self, remote: RemoteCell, flow: int, window: int, *, lamp: bool) -> bool:
        """Sets a window; live sessions follow, a narrower one as its credit is used up.

        Returns:
            Whether sessions begin with a narrower one than before.

        Raises:
            FailedPrecondition: A static session has been promised more, or the window is too small
                for the unit of the cell's grants.
            ResourceExhausted: The node cannot back it.
        """
        self._settle_stale()
        static = self._sessions.static_window(remote.id, flow)
        if window < static:
            raise FailedPrecondition(
                f"window_blocks: the static session was promised {static}, and has no flow 0 to "
                "change that: end it first"
            )
        policy = self.policy
        windows = {grant.flow: grant.window_blocks for grant in self._store.grants(remote.id)}
        before = windows.get(flow, 0)
        windows[flow] = window
        self._check_units(policy, remote.grant_shift, windows)
        key = remote.id, flow
        with self._restored(key), self._store.transaction():
            self._store.set_grant(StandingGrant(remote.id, flow, window, lamp))
            self._hold(key, self._needed_of(remote.id).get(key, 0))
        for live in self._lives(remote.id):
            self._steer(live)
        return policy.first(window) < policy.first(before)

    def check_shift(self, remote: RemoteCell, shift: int | None) -> None:
        """Looks whether a remote cell's windows can be counted in a unit.

        Raises:
            FailedPrecondition: They are too small for it, or too large.
        """
        windows = {grant.flow: grant.window_blocks for grant in self._store.grants(remote.id)}
        self._check_units(self.policy, shift, windows)

    def delete_grant(self, remote: CellID, flow: int) -> None:
        """Takes a window back.

        Raises:
            NotFound: None is set.
            FailedPrecondition: A live session has been promised it.
        """
        self._settle_stale()
        promised = [live.rx_window(flow) for live in self._lives(remote)]
        if max((self._sessions.static_window(remote, flow), *promised)):
            raise FailedPrecondition(
                f"flow: flow {flow} is open in a live session: close the session first"
            )
        self._store.delete_grant(remote, flow)
        self._ledger.release((remote, flow))

    def _check_units(
        self, policy: CreditPolicy, shift: int | None, windows: Mapping[int, int]
    ) -> None:
        """All windows of a cell are counted in one unit: each must be some, and none too many.

        Raises:
            FailedPrecondition: One of them is not.
        """
        widest = max(map(policy.most, windows.values()), default=0)
        if shift is None:
            shift = max(self._sessions.terms.grant_shift, shift_for(widest))
        least = min((policy.first(blocks) for blocks in windows.values() if blocks), default=0)
        if shift and 0 < least < UNITS_MIN << shift:
            raise FailedPrecondition(
                f"window_blocks: this cell's grants count units of {1 << shift} blocks, and a "
                f"window has {UNITS_MIN} of them at the least: {least} blocks are too few"
            )
        if widest > GRANT_UNITS_MAX << shift:
            raise FailedPrecondition(
                f"window_blocks: this cell's grants count units of {1 << shift} blocks, and a "
                f"window has {GRANT_UNITS_MAX} of them at the most: {widest} blocks are too many"
            )

    # Live sessions

    def tick(self) -> None:
        """Gives back what is owed no longer and, under fair share, divides anew."""
        self._settle_stale()
        policy = self.policy
        if policy.is_shared:
            self._share(policy)

    def fund_reply(self, live: LiveSession, flow: int) -> None:
        """Grants the peer one answer, where a local application may speak under LAMP alone.

        Raises:
            ResourceExhausted: The node cannot back it.
        """
        line = live.line(flow)
        if not funds_reply(
            lit_by_peer=live.stored.lamp,
            our_window=live.windows.target(flow),
            their_window=line.tx_window,
        ):
            return
        remote = live.stored.remote
        if any(grant.flow == flow for grant in self._store.grants(remote)):
            return  # what an operator says of the flow holds: it hears LAMP, and grants nothing
        self._settle_stale()
        window = reply_window(live.mtu)
        units = max(UNITS_MIN, -(-window >> line.grant_shift)) if line.grant_shift else window
        window = units << line.grant_shift
        self._widen(live, flow, window, window - live.rx_window(flow))

    def _steer(self, live: LiveSession) -> None:
        """Has a session's windows be what was set; under fair share, within its bounds."""
        if live.phase not in {Phase.ESTABLISHED, Phase.UNCONFIRMED}:
            return
        if self._is_negotiated(live.stored.remote):
            return
        policy = self.policy
        for grant in self._store.grants(live.stored.remote):
            if not live.has_flow(grant.flow):
                continue
            wanted = grant.window_blocks
            if policy.is_shared:
                least, most = policy.first(wanted), policy.most(wanted)
                wanted = min(max(live.windows.target(grant.flow), least), most)
            self._want(live, grant.flow, wanted)

    def _share(self, policy: CreditPolicy) -> None:
        claims: dict[_Place, Claim] = {}
        lives: dict[_Place, LiveSession] = {}
        held: dict[_Place, int] = {}
        now = self._now()
        grants: dict[CellID, list[StandingGrant]] = defaultdict(list)
        for grant in self._store.standing_grants():
            grants[grant.remote].append(grant)
        for live in self._sessions.all_live():
            remote, local = live.stored.remote, live.stored.local
            if live.phase is not Phase.ESTABLISHED:
                continue
            for grant in grants.get(remote, ()):
                place = remote, local, grant.flow
                if not (grant.window_blocks and live.has_flow(grant.flow)):
                    continue
                first, most = policy.first(grant.window_blocks), policy.most(grant.window_blocks)
                most = min(most, live.windows.widest(grant.flow))
                at_work = self._is_at_work(place, live, now)
                claims[place] = Claim(first, max(first, most), is_active=at_work)
                held[place] = max(first, live.rx_window(grant.flow))
                lives[place] = live
        self._seen = {place: seen for place, seen in self._seen.items() if place in claims}
        # Some is kept for those who are yet to come.
        reserve = min(NEWCOMERS * policy.floor, self._ledger.capacity // NEWCOMERS)
        free = self._ledger.left - reserve
        least = sum(claim.least for claim in claims.values())
        shares = fair_shares(max(least, free + sum(held.values())), claims)
        once = dict.fromkeys(claims, 1)
        for place, blocks in next_windows(max(0, free), held, shares, once).items():
            live, flow = lives[place], place[2]
            if blocks > held[place]:
                self._widen(live, flow, blocks, blocks - held[place])
            else:
                self._want(live, flow, blocks)

    def _is_at_work(self, place: _Place, live: LiveSession, now: int) -> bool:
        spent = int(live.line(place[2]).rx_spent)
        before, since = self._seen.get(place, (0, now - AT_WORK))
        if spent != before:
            since = now
        self._seen[place] = spent, since
        return now - since < AT_WORK

    def _widen(self, live: LiveSession, flow: int, blocks: int, more: int) -> None:
        """Reserves so many blocks more for a wider window of one session, and asks for it.

        Raises:
            ResourceExhausted: The node cannot back it.
        """
        key = live.stored.remote, flow
        if more > 0:
            self._hold(key, self._ledger.held(key) + more)
        self._want(live, flow, blocks)

    def _want(self, live: LiveSession, flow: int, blocks: int) -> None:
        """Asks for a window that is reserved, as far as the session's grants can express it."""
        blocks = min(blocks, live.windows.widest(flow))
        blocks = usable_window(blocks, live.line(flow).grant_shift)
        if blocks != live.windows.target(flow):
            self._remember(live.stored.remote, flow, blocks)
            live.windows.want(flow, blocks, self._now())
            # A window that was to become wider still, and is not now, is owed no longer.
            self._stale.add(live.stored.remote)
            self._sessions.spoken(live)

    # Within

    def _needed_of(self, remote: CellID) -> dict[Key, int]:
        lives = {remote: self._lives(remote)}
        return self._needed(self._store.grants(remote), lives, self._store.locals_count())

    def _needed(
        self,
        grants: Iterable[StandingGrant],
        lives: Mapping[CellID, list[LiveSession]],
        locals_count: int,
    ) -> dict[Key, int]:
        """What each of some grants needs: a first window for each local cell, and what is beyond.

        A session's flow may also be open without a grant: for the answer to a LAMP.
        """
        policy = self.policy
        times = max(locals_count, 1)
        firsts: dict[Key, int] = {}
        for grant in grants:
            first = grant.window_blocks
            if policy.is_shared and not self._is_negotiated(grant.remote):
                static = self._sessions.static_window(grant.remote, grant.flow)
                first = max(policy.first(first), static)
            firsts[grant.remote, grant.flow] = first
        needed = {key: first * times for key, first in firsts.items()}
        for remote, sessions in lives.items():
            if not sessions or self._is_negotiated(remote):
                continue  # what is beyond a covenant's windows, the gatekeeper sees to
            for live in sessions:
                for flow in live.open_flows():
                    key = remote, flow
                    beyond = max(0, live.rx_window(flow) - firsts.get(key, 0))
                    needed[key] = needed.get(key, 0) + beyond
        return needed

    def _forget(self, grant: StandingGrant) -> None:
        """Writes down that no more is owed than live sessions have been promised."""
        lives = self._lives(grant.remote)
        owed = max((live.rx_window(grant.flow) for live in lives), default=0)
        if grant.held > owed:
            self._store.set_held(grant.remote, grant.flow, owed)

    def _remember(self, remote: CellID, flow: int, blocks: int) -> None:
        """Writes down what may come to be owed, before any window changes."""
        owed = max((live.rx_window(flow) for live in self._lives(remote)), default=0)
        with contextlib.suppress(NotFound):
            if self._store.grant(remote, flow).held < max(owed, blocks):
                self._store.set_held(remote, flow, max(owed, blocks))

    def _settle_stale(self) -> None:
        # What is steered here becomes stale again, for the next time.
        for remote in [self._stale.pop() for _ in range(len(self._stale))]:
            try:
                self.settle(remote)
            except ResourceExhausted as error:
                log.error("books not settled", extra={"remote": str(remote), "reason": str(error)})
            # What was set while hands were being shaken.
            for live in self._lives(remote):
                self._steer(live)

    def _lives(self, remote: CellID) -> list[LiveSession]:
        return self._sessions.live_with(remote)

    def _is_negotiated(self, remote: CellID) -> bool:
        try:
            return self._store.remote(remote).consent.is_negotiated
        except NotFound:
            return False

    @contextlib.contextmanager
    def _restored(self, key: Key) -> Iterator[None]:
        before = self._ledger.held(key)
        try:
            yield
        except BaseException:
            self._hold(key, before)
            raise

    def _hold(self, key: Key, blocks: int) -> None:
        held = self._ledger.held(key)
        if 0 < held <= blocks:
            self._ledger.widen(key, blocks)
        elif held != blocks:
            self._ledger.release(key)
            if blocks:
                self._ledger.reserve(key, blocks)
