# SPDX-License-Identifier: Apache-2.0
"""service/credit.py: the books of a node with several live sessions, on a gate of its own.

Peers answer when the test says so; what gate and endpoints write, the test writes.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.packet.recycled import private_gate

from assent.covenant.consent import Consent
from assent.credit.ledger import Ledger
from assent.credit.policy import CreditPolicy, PolicyKind
from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.objects import packaged
from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.errors import FailedPrecondition, ResourceExhausted
from assent.handshake.keys import SessionKeys
from assent.identity.keys import Identity
from assent.service.credit import AT_WORK, NEWCOMERS, CreditSteward, Promises
from assent.service.handshakes import Terms
from assent.service.live import SECOND, Dataplane, LiveSession
from assent.service.manifests import ManifestBoard
from assent.service.records import RemoteCell, StandingGrant, StoredSession
from assent.service.store import Store
from assent.wire.cellid import CellID

LOCAL = CellID(b"l" * 16)
KEYS = SessionKeys(7, b"a" * 32, b"b" * 16, b"c" * 32, b"d" * 16)
CAPACITY = 1000
RESERVE = CAPACITY // NEWCOMERS
FAIR = CreditPolicy(PolicyKind.FAIR_SHARE, 50, 0)
LAYOUT = Btf.from_object(packaged("gate")).map_value("flows")


@dataclass
class Sessions:
    """Stands for the session manager."""

    terms: Terms = field(default_factory=Terms)
    live: dict[CellID, LiveSession] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    static: int = 0
    on_credit: Any = None
    on_open: Any = None

    def all_live(self) -> list[LiveSession]:
        return list(self.live.values())

    def live_with(self, remote: CellID) -> list[LiveSession]:
        return [self.live[remote]] if remote in self.live else []

    def static_window(self, _remote: CellID, _flow: int) -> int:
        return self.static

    def stop_all_handshakes(self, reason: str) -> None:
        self.stopped.append(reason)

    def spoken(self, _live: LiveSession) -> None:
        """Timers are the test's."""


class Rig:
    """A node with so many peers, each with flow 1; its daemon may be restarted."""

    def __init__(self, gate: Gate, store: Store) -> None:
        self.gate, self.store = gate, store
        self.flows = gate.tables.flows
        self.now = 1_000 * SECOND
        self.entries: dict[CellID, Any] = {}
        self.remotes: list[RemoteCell] = []
        self.numbers = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        """Another daemon: the gate and the store are as they were."""
        self.sessions = Sessions()
        self.ledger: Promises = Ledger(CAPACITY)
        self.steward = CreditSteward(
            self.store,
            self.ledger,
            self.sessions,
            lambda: self.now,  # type: ignore[arg-type]
        )
        for remote in self.entries:
            self._go_live(remote, fresh=False)
        self.steward.open_books()

    def peer(self, window: int = 0, *, live: bool = True) -> RemoteCell:
        identity = Identity.from_seed(bytes([100 + next(self.numbers)]) * 32)
        remote = RemoteCell(
            identity.cell_id,
            f"peer-{len(self.remotes)}",
            identity.public_key,
            Consent.STANDING,
            None,
        )
        self.store.add_remote(remote)
        self.remotes.append(remote)
        if window:
            self.steward.set_grant(remote, 1, window, lamp=False)
        if live:
            self.up(remote)
        return remote

    def up(self, remote: RemoteCell, tx_window: int = 0, *, lamp: bool = False) -> LiveSession:
        """Hands have been shaken: the session has what was offered."""
        grants = {one.flow: one.window_blocks for one in self.store.grants(remote.id)}
        first = self.steward.policy.first(grants.get(1, 0))
        sessions = self.gate.tables.sessions
        sessions.provision(remote.id, LOCAL, b"k" * 16, covenanted=True)
        flows = (FlowSpec(1, first, tx_window),)
        self.entries[remote.id] = sessions.install(
            SessionSpec(remote.id, LOCAL, next(self.numbers), KEYS.rx_header, flows=flows)
        )
        live = self._go_live(remote.id, fresh=True, lamp=lamp)
        self.sessions.on_credit(remote.id)
        return live

    def down(self, remote: RemoteCell) -> None:
        self.gate.tables.sessions.uninstall(remote.id, LOCAL)
        del self.sessions.live[remote.id], self.entries[remote.id]
        self.sessions.on_credit(remote.id)

    def _go_live(self, remote: CellID, *, fresh: bool, lamp: bool = False) -> LiveSession:
        owed = {} if fresh else {one.flow: one.held for one in self.store.grants(remote)}
        live = LiveSession(
            StoredSession(1, remote, LOCAL, 7, True, b"\x02" * 6, 0, 0, 0, 1500, lamp),
            KEYS,
            self.entries[remote],
            Dataplane(self.flows),
            ManifestBoard(),
            clock=lambda: 1,
            transmit=lambda _: None,
            on_end=lambda *_: None,
            mtu=1500,
            patience=1 << 60,
            now=self.now,
            confirmed=True,
            owed=owed,
            fresh=fresh,
            on_freed=lambda: self.sessions.on_credit(remote),
        )
        self.sessions.live[remote] = live
        return live

    def line(self, remote: RemoteCell) -> Any:
        return self.sessions.live[remote.id].line(1)

    def answer(self, *remotes: RemoteCell) -> None:
        """Peers answer what they were asked; all of them where none is named."""
        for remote in remotes or self.remotes:
            live = self.sessions.live.get(remote.id)
            if live is not None:
                window = live.windows._windows[1]
                live.windows._write(1, window.answered(window.question))

    def use(self, remote: RemoteCell, blocks: int) -> None:
        """So many blocks arrive and are consumed, and the endpoint grants anew."""
        line = self.line(remote)
        spent = line.rx_spent + min(blocks, line.rx_granted - line.rx_spent)
        self._write(
            remote,
            rx_spent=spent,
            rx_granted=max(line.rx_granted, spent + line.rx_window),
            rx_highest=line.rx_highest + 1,
            rx_next=line.rx_highest + 2,
        )

    def _write(self, remote: RemoteCell, **values: int) -> None:
        slot = self.sessions.live[remote.id].slot(1)
        at = slot * LAYOUT.size
        self.flows._memory[at : at + LAYOUT.size] = self.line(remote).replace(**values).pack()

    def pass_time(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += SECOND
            for live in self.sessions.all_live():
                live.tick(self.now)
            self.steward.tick()
            self.check()

    def windows(self) -> list[int]:
        return [
            self.line(one).rx_window if one.id in self.sessions.live else 0 for one in self.remotes
        ]

    def check(self) -> None:
        """The universe is finite: what may still arrive is reserved, and that is not too much."""
        outstanding = 0
        for remote in self.remotes:
            if remote.id in self.sessions.live:
                line = self.line(remote)
                owed = line.rx_granted - line.rx_spent
                assert owed <= self.ledger.held((remote.id, 1))
                outstanding += owed
        assert outstanding <= self.ledger.promised <= CAPACITY


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with private_gate() as made:
        yield made


@pytest.fixture
def rig(gate: Gate, tmp_path: Path) -> Iterator[Rig]:
    with Store(tmp_path / "state.db") as store:
        made = Rig(gate, store)
        yield made
        for remote in list(made.entries):
            gate.tables.sessions.delete(remote, LOCAL)


class TestFixed:
    def test_a_wider_window_is_reserved_before_it_is_told(self, rig: Rig):
        remote = rig.peer(100)
        rig.steward.set_grant(remote, 1, 300, lamp=False)
        assert (rig.ledger.promised, rig.windows()) == (300, [100])
        rig.answer()
        assert rig.windows() == [300]

    def test_what_the_node_cannot_back_changes_nothing(self, rig: Rig):
        remote = rig.peer(600)
        rig.peer(300)
        with pytest.raises(ResourceExhausted, match="200 blocks of credit asked for, 100 of"):
            rig.steward.set_grant(remote, 1, 800, lamp=False)
        assert rig.store.grant(remote.id, 1).window_blocks == 600
        assert (rig.ledger.promised, rig.windows()) == (900, [600, 300])
        assert rig.sessions.live[remote.id].windows.promised(1) == 600

    def test_a_narrower_one_is_given_back_as_it_is_used(self, rig: Rig):
        remote = rig.peer(600)
        rig.steward.set_grant(remote, 1, 200, lamp=False)
        assert (rig.ledger.promised, rig.windows()) == (600, [200])
        rig.use(remote, 150)
        rig.pass_time(3)
        assert rig.ledger.promised == 450
        rig.use(remote, 450)
        rig.pass_time(2)
        assert rig.ledger.promised == 200

    def test_a_session_that_ends_gives_it_back_at_once(self, rig: Rig):
        remote = rig.peer(600)
        rig.steward.set_grant(remote, 1, 200, lamp=False)
        rig.down(remote)
        rig.pass_time()
        assert rig.ledger.promised == 200
        assert rig.store.grant(remote.id, 1).held == 0

    def test_a_restart_knows_what_is_owed(self, rig: Rig):
        remote = rig.peer(600)
        rig.steward.set_grant(remote, 1, 200, lamp=False)
        rig.restart()
        assert rig.ledger.promised == 600
        rig.use(remote, 600)
        rig.pass_time(3)
        rig.restart()
        assert rig.ledger.promised == 200

    def test_what_was_set_while_hands_were_shaken_is_made_up_for(self, rig: Rig):
        remote = rig.peer(100, live=False)
        rig.up(remote)
        rig.store.set_grant(StandingGrant(remote.id, 1, 250))
        rig.ledger.widen((remote.id, 1), 250)
        rig.sessions.on_credit(remote.id)
        rig.pass_time()
        rig.answer()
        assert rig.windows() == [250]

    def test_a_static_window_is_not_narrowed(self, rig: Rig):
        remote = rig.peer(300, live=False)
        rig.sessions.static = 300
        with pytest.raises(FailedPrecondition, match="the static session was promised 300"):
            rig.steward.set_grant(remote, 1, 299, lamp=False)
        assert rig.store.grant(remote.id, 1).window_blocks == 300

    @pytest.mark.parametrize(("before", "after", "narrower"), [(9, 8, True), (8, 9, False)])
    def test_it_says_whether_offers_are_too_wide_now(
        self, rig: Rig, before: int, after: int, narrower: bool
    ):
        remote = rig.peer(before, live=False)
        assert rig.steward.set_grant(remote, 1, after, lamp=False) is narrower


class TestFairShare:
    @pytest.fixture
    def shared(self, rig: Rig) -> Rig:
        rig.steward.set_policy(FAIR)
        return rig

    def settle(self, rig: Rig, *at_work: RemoteCell, seconds: int = 20) -> None:
        """Peers at work use all that they have, for a while."""
        for _ in range(seconds):
            for remote in at_work:
                rig.use(remote, 40)
            rig.pass_time()
            rig.answer()

    def test_who_comes_has_the_floor_and_who_works_gets_what_is_left(self, shared: Rig):
        first, _ = shared.peer(2000), shared.peer(2000)
        assert shared.windows() == [50, 50]
        self.settle(shared, first)
        assert shared.windows() == [950 - RESERVE, 50]

    def test_all_at_work_get_equal_shares(self, shared: Rig):
        peers = [shared.peer(2000) for _ in range(4)]
        self.settle(shared, *peers)
        assert shared.windows() == [(CAPACITY - RESERVE) // 4] * 4

    def test_a_ceiling_leaves_room_for_others(self, shared: Rig):
        small, large = shared.peer(100), shared.peer(2000)
        self.settle(shared, small, large)
        assert shared.windows() == [100, 900 - RESERVE]

    def test_who_comes_later_gets_a_share_as_it_is_given_back(self, shared: Rig):
        early = shared.peer(2000)
        self.settle(shared, early)
        assert shared.windows() == [CAPACITY - RESERVE]
        late = shared.peer(2000)
        assert shared.windows()[1] == 50
        self.settle(shared, early, late, seconds=60)
        assert all(abs(one - (CAPACITY - RESERVE) // 2) < 60 for one in shared.windows())

    def test_who_has_gone_idle_gives_back_what_it_uses(self, shared: Rig):
        one, two = shared.peer(2000), shared.peer(2000)
        self.settle(shared, one)
        shared.pass_time(AT_WORK // SECOND + 1)
        assert shared.windows() == [50, 50]
        self.settle(shared, two)
        # Credit in hand is not taken away, so there is nothing to be given.
        assert shared.windows() == [50, 50]
        shared.use(one, 900)
        self.settle(shared, two)
        assert shared.windows()[1] > 400

    def test_another_policy_is_followed_at_once_and_stops_offers(self, shared: Rig):
        shared.peer(300)
        shared.steward.set_policy(CreditPolicy())
        shared.answer()
        assert shared.windows() == [300]
        assert shared.ledger.promised == 300
        assert shared.sessions.stopped == ["the policy of windows was changed"] * 2

    def test_a_policy_that_the_node_cannot_back_changes_nothing(self, shared: Rig):
        for _ in range(3):
            shared.peer(600)
        with pytest.raises(ResourceExhausted, match="1800 blocks of credit asked for in all"):
            shared.steward.set_policy(CreditPolicy())
        assert shared.steward.policy == FAIR
        assert shared.ledger.promised == 150


class TestLamp:
    def test_an_answer_is_reserved_and_given_back(self, rig: Rig):
        remote = rig.peer(live=False)
        live = rig.up(remote, lamp=True)
        rig.steward.fund_reply(live, 1)
        assert rig.ledger.promised == 23
        rig.answer()
        assert rig.windows() == [23]
        rig.steward.fund_reply(live, 1)
        assert rig.ledger.promised == 23
        rig.restart()
        assert rig.ledger.promised == 23
        rig.down(remote)
        rig.pass_time()
        assert rig.ledger.promised == 0

    @pytest.mark.parametrize(("tx_window", "lamp"), [(100, True), (0, False)])
    def test_who_has_credit_or_no_ear_pays_for_nothing(self, rig: Rig, tx_window: int, lamp: bool):
        live = rig.up(rig.peer(live=False), tx_window, lamp=lamp)
        rig.steward.fund_reply(live, 1)
        assert rig.ledger.promised == 0

    def test_an_answer_that_the_node_cannot_back_is_refused(self, rig: Rig):
        rig.peer(990)
        live = rig.up(rig.peer(live=False), lamp=True)
        with pytest.raises(ResourceExhausted):
            rig.steward.fund_reply(live, 1)
        assert rig.ledger.promised == 990


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1 << 32))
@example(11534)
def test_the_universe_is_finite_whatever_happens(gate: Gate, tmp_path: Path, seed: int):
    chance = random.Random(seed)
    with Store(tmp_path / f"{len(list(tmp_path.iterdir()))}.db") as store:
        rig = Rig(gate, store)
        for _ in range(4):
            rig.peer(100)
        try:
            for _ in range(60):
                _step(rig, chance)
                rig.check()
        finally:
            for remote in list(rig.entries):
                gate.tables.sessions.delete(remote, LOCAL)


def _step(rig: Rig, chance: random.Random) -> None:
    remote = chance.choice(rig.remotes)
    is_live = remote.id in rig.sessions.live
    match chance.choice(("set", "use", "use", "use", "answer", "tick", "end", "kill", "policy")):
        case "set":
            with contextlib.suppress(ResourceExhausted):
                rig.steward.set_grant(remote, 1, chance.randrange(1, 600), lamp=False)
        case "use" if is_live:
            rig.use(remote, chance.randrange(200))
        case "answer":
            rig.answer(remote)
        case "tick":
            rig.pass_time(chance.randrange(1, 4))
        case "end":
            if is_live:
                rig.down(remote)
            else:
                rig.up(remote)
        case "kill":
            rig.restart()
        case "policy":
            with contextlib.suppress(ResourceExhausted):
                rig.steward.set_policy(chance.choice((FAIR, CreditPolicy())))
