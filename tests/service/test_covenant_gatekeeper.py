# SPDX-License-Identifier: Apache-2.0
"""service/covenants/gatekeeper.py: store, books and gate follow a covenant, or nothing does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from assent.covenant.consent import Consent
from assent.covenant.terms import DailyWindow
from assent.credit.ledger import Ledger
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import SEC, FlowSpec, SessionEntry, SessionSpec, TermLimits
from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity
from assent.service.covenants.clocks import Clocks
from assent.service.covenants.gatekeeper import (
    LEASE_NS,
    RENEWAL_NS,
    GateGrant,
    Gatekeeper,
    end_unfinished,
)
from assent.service.covenants.records import HISTORY_MAX
from assent.service.key_files import KeyFiles
from assent.service.reconciler import GRAIN_NS, Reconciler
from assent.service.records import LocalCell, RemoteCell, StandingGrant, StoredPsk
from assent.service.registry import Registry
from assent.service.store import Store
from assent.wire.cellid import CellID

CAPACITY = 10_000
HOME, OTHER_HOME = Identity.from_seed(b"\x01" * 32), Identity.from_seed(b"\x02" * 32)
AWAY, ELSEWHERE = Identity.from_seed(b"\x03" * 32), Identity.from_seed(b"\x04" * 32)
AGENT = UUID("018f4a5e-7c3b-8d2a-9e1f-0123456789ab")
PSK = b"p" * 32
DAY_US = 86_400_000_000
# A Monday, at midnight UTC.
MONDAY_US = 19_723 * DAY_US
SESSION = 7


class FakeClocks(Clocks):
    """Clocks that the test owns."""

    def __init__(self) -> None:
        self.unix = MONDAY_US * 1_000
        self.monotonic = 1_000_000 * SEC
        super().__init__(lambda: self.unix, lambda: self.monotonic)

    def advance(self, seconds: float) -> None:
        self.unix += int(seconds * SEC)
        self.monotonic += int(seconds * SEC)


@dataclass
class FakeLive:
    """A live session, as far as the gatekeeper asks."""

    windows: dict[int, int] = field(default_factory=dict)

    def rx_window(self, flow: int) -> int:
        return self.windows.get(flow, 0)


@dataclass
class FakeSessions:
    """Writes down what is asked of the sessions."""

    said: list[tuple[Any, ...]] = field(default_factory=list)
    live: dict[CellID, FakeLive] = field(default_factory=dict)

    def all_live(self) -> list[FakeLive]:
        return []

    def live_with(self, remote: CellID) -> list[FakeLive]:
        return [self.live[remote]] if remote in self.live else []

    def farewell(self, cell: CellID, local: CellID | None = None) -> None:
        self.said.append(("farewell", cell, local))

    def drop(self, cell: CellID, reason: str, local: CellID | None = None) -> None:
        self.said.append(("drop", cell, local))
        self.live.pop(cell, None)

    def forget(self, cell: CellID) -> None:
        self.said.append(("forget", cell))

    def suspend_again(self, cell: CellID) -> None:
        self.said.append(("suspend", cell))


@dataclass
class FakeCells:
    """Writes down which local cells are at work."""

    at_work: dict[CellID, Identity] = field(default_factory=dict)

    def add(self, cell: LocalCell, identity: Identity, *, need_socket: bool) -> None:
        assert cell.key_file.exists()
        self.at_work[cell.id] = identity

    def remove(self, cell: CellID) -> None:
        self.at_work.pop(cell, None)


class Rig:
    """A host with one local cell and one remote one that covenants decide on."""

    def __init__(self, gate: Gate, root: Path) -> None:
        self.gate = gate
        self.store = Store(root / "state.db")
        self.clocks = FakeClocks()
        self.reconciler = Reconciler(self.store, gate, self.clocks)
        self.ledger: Ledger[tuple[CellID, int]] = Ledger(CAPACITY)
        self.sessions, self.cells = FakeSessions(), FakeCells()
        self.key_files = KeyFiles(root / "keys")
        self.keeper = Gatekeeper(
            self.store,
            self.reconciler,
            self.ledger,
            cast("Any", self.cells),
            cast("Any", self.sessions),
            self.key_files,
            gate.tables.config,
            self.clocks,
        )
        self.home = self.add_local("home", HOME)
        self.away = self.add_remote("away", AWAY)
        self.reconciler.apply_all()

    def add_local(self, name: str, identity: Identity) -> CellID:
        path = self.key_files.path(name)
        identity.save(path)
        cell = LocalCell(identity.cell_id, name, identity.public_key, "eth0", path)
        self.store.add_local(cell)
        self.cells.at_work[cell.id] = identity
        return cell.id

    def add_remote(
        self, name: str, identity: Identity, consent: Consent = Consent.COVENANT
    ) -> CellID:
        cell = RemoteCell(identity.cell_id, name, identity.public_key, consent, None)
        self.store.add_remote(cell)
        self.store.set_psk(StoredPsk(cell.id, PSK, 1), replace=False)
        return cell.id

    def begin(self, *, durable: bool = False) -> int:
        return self.keeper.begin(self.home, 77, "offer-sent", b"1", durable=durable)

    def grant(self, **changes: Any) -> GateGrant:
        return replace(GateGrant(self.home, self.away, {1: 100}), **changes)

    def admitted(self, *, durable: bool = False, **changes: Any) -> int:
        """A covenant that is in force."""
        handle = self.begin(durable=durable)
        self.keeper.admit(handle, "covenanted", b"2", [self.grant(**changes)])
        return handle

    def entry(self, remote: CellID | None = None, local: CellID | None = None) -> SessionEntry:
        return self.gate.tables.sessions.get(remote or self.away, local or self.home)

    def grants(self) -> dict[tuple[CellID, int], int]:
        return {(one.remote, one.flow): one.window_blocks for one in self.store.grants()}

    def everything(self) -> dict[str, object]:
        """Store, books and maps, for showing that nothing has changed."""
        return {
            "rows": list(self.store._db.iterdump()),
            "books": self.ledger.windows(),
            "sessions": sorted(self.gate.tables.sessions.list(), key=lambda one: one.remote),
            "said": list(self.sessions.said),
        }


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with Gate.private(replace(CHAPTER, sessions=16)) as private:
        yield private


@pytest.fixture
def rig(gate: Gate, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(gate, tmp_path)
    try:
        yield made
    finally:
        made.store.close()


# Before, in, and after force


def test_without_a_covenant_nothing_but_control_passes(rig: Rig):
    entry = rig.entry()
    assert entry.control
    assert not entry.covenanted
    assert not entry.quarantined
    assert entry.limits is None


def test_a_negotiation_does_nothing_to_the_gate(rig: Rig):
    before = rig.entry()
    handle = rig.begin()
    rig.keeper.note(handle, "accepted", b"2", covenant_id=5, durable=True)
    found = rig.store.covenants.get(handle)
    assert (found.state, found.snapshot, found.covenant_id) == ("accepted", b"2", 5)
    assert found.durable
    assert not found.ended
    assert rig.entry() == before


def test_a_covenant_that_comes_into_force_opens_the_gate_within_its_terms(rig: Rig):
    handle = rig.begin()
    offset = rig.clocks.offset_ns()
    rig.keeper.admit(
        handle,
        "covenanted",
        b"2",
        [
            rig.grant(
                flows={1: 100, 3: 7},
                rate=1000,
                burst=50,
                payload_limit=512,
                open_from_us=MONDAY_US - 1,
                open_until_us=MONDAY_US + DAY_US,
            )
        ],
    )
    entry = rig.entry()
    assert entry.covenanted
    assert entry.control
    assert entry.leased
    assert entry.limits == TermLimits(
        interval_ns=SEC // 1000,
        burst_ns=50 * SEC // 1000 + GRAIN_NS,
        payload_limit=512,
        open_from=(MONDAY_US - 1) * 1000 + offset,
        open_until=(MONDAY_US + DAY_US) * 1000 + offset,
    )
    assert rig.grants() == {(rig.away, 1): 100, (rig.away, 3): 7}
    assert rig.ledger.windows() == rig.grants()
    assert rig.store.covenants.get(handle).state == "covenanted"


def test_a_durable_covenant_has_no_lease(rig: Rig):
    rig.admitted(leased=False)
    assert not rig.entry().leased


def test_a_rate_without_a_burst_has_the_largest_window(rig: Rig):
    rig.admitted(flows={1: 10, 2: 30}, rate=2)
    limits = rig.entry().limits
    assert limits is not None
    assert limits.burst_ns - GRAIN_NS == 30 * limits.interval_ns == 30 * SEC // 2


def test_windows_are_backed_for_each_local_cell(rig: Rig):
    rig.add_local("other", OTHER_HOME)
    rig.admitted()
    assert rig.ledger.windows() == {(rig.away, 1): 200}


def test_a_covenant_that_ends_closes_the_gate_and_gives_everything_back(rig: Rig):
    handle = rig.admitted()
    rig.keeper.close(handle, "terminated", b"3")
    entry = rig.entry()
    assert not entry.covenanted
    assert entry.control
    assert entry.limits is None
    assert rig.grants() == {}
    assert rig.ledger.promised == 0
    found = rig.store.covenants.get(handle)
    assert (found.state, found.snapshot, found.ended) == ("terminated", b"3", True)
    assert rig.sessions.said == [("farewell", rig.away, rig.home), ("drop", rig.away, rig.home)]


def test_a_negotiation_that_comes_to_nothing_drops_no_session(rig: Rig):
    standing = rig.admitted()
    handle = rig.begin()
    rig.keeper.close(handle, "terminated", b"3")
    assert rig.sessions.said == []
    assert rig.entry().covenanted
    assert [one.handle for one in rig.store.covenants.open()] == [standing]


def test_the_newest_in_force_governs_and_then_the_one_before(rig: Rig):
    first = rig.admitted(flows={1: 100}, payload_limit=100)
    second = rig.admitted(flows={2: 50}, payload_limit=200)
    assert rig.entry().limits == TermLimits(payload_limit=200)
    assert rig.grants() == {(rig.away, 2): 50}
    rig.keeper.close(second, "terminated", b"")
    assert rig.entry().limits == TermLimits(payload_limit=100)
    assert rig.grants() == {(rig.away, 1): 100}
    assert rig.sessions.said == [], "an older covenant governs again"
    rig.keeper.close(first, "terminated", b"")
    assert not rig.entry().covenanted
    assert rig.grants() == {}


def test_a_covenant_that_governs_nothing_ends_without_a_word(rig: Rig):
    first, _ = rig.admitted(payload_limit=100), rig.admitted(payload_limit=200)
    rig.keeper.close(first, "terminated", b"")
    assert rig.entry().limits == TermLimits(payload_limit=200)
    assert rig.sessions.said == []


def test_each_pair_has_its_own_governor(rig: Rig):
    """Windows are the remote cell's, so they are the widest of all its pairs."""
    other = rig.add_local("other", OTHER_HOME)
    rig.reconciler.apply_all()
    rig.admitted(flows={1: 100, 2: 5})
    handle = rig.keeper.begin(other, 78, "offer-sent", b"")
    rig.keeper.admit(handle, "covenanted", b"", [GateGrant(other, rig.away, {2: 50})])
    assert rig.entry(local=other).covenanted
    assert rig.grants() == {(rig.away, 1): 100, (rig.away, 2): 50}
    governor = rig.store.covenants.governor(rig.away, other)
    assert governor is not None
    assert dict(governor.flows) == {2: 50}
    rig.keeper.close(handle, "terminated", b"")
    assert not rig.entry(local=other).covenanted
    assert rig.entry().covenanted
    assert rig.sessions.said == [("farewell", rig.away, other), ("drop", rig.away, other)]


# What cannot be


def test_windows_that_the_node_cannot_back_change_nothing(rig: Rig):
    handle = rig.begin()
    before = rig.everything()
    with pytest.raises(ResourceExhausted, match="10001 blocks of credit asked for, 10000"):
        rig.keeper.admit(handle, "covenanted", b"2", [rig.grant(flows={1: CAPACITY + 1})])
    assert rig.everything() == before


def test_a_change_that_cannot_be_backed_leaves_the_covenant_as_it_was(rig: Rig):
    handle = rig.admitted(flows={1: 100, 2: 9})
    before = rig.everything()
    with pytest.raises(ResourceExhausted):
        rig.keeper.adjust(handle, "covenanted", b"3", [rig.grant(flows={1: 32_767})])
    assert rig.everything() == before


def test_a_disk_that_fails_after_the_maps_takes_all_back(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    handle = rig.begin()
    before = rig.everything()

    def fail(_: object) -> None:
        monkeypatch.undo()
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr("assent.service.reconciler.reach", fail)
    with pytest.raises(sqlite3.OperationalError, match="disk full"):
        rig.keeper.admit(handle, "covenanted", b"2", [rig.grant()])
    assert rig.everything() == before


def test_a_cell_whose_consent_is_the_operator_s_is_not_admitted(rig: Rig):
    standing = rig.add_remote("standing", ELSEWHERE, Consent.STANDING)
    handle = rig.begin()
    before = rig.everything()
    with pytest.raises(FailedPrecondition, match="consent: that of cell 'standing' is standing"):
        rig.keeper.admit(handle, "covenanted", b"", [rig.grant(remote=standing)])
    assert rig.everything() == before


def test_what_is_not_there_is_not_found(rig: Rig):
    handle = rig.admitted()
    rig.keeper.close(handle, "terminated", b"")
    before = rig.everything()
    nobody = CellID(b"n" * 16)
    for call in (
        lambda: rig.keeper.begin(nobody, 1, "idle", b""),
        lambda: rig.keeper.note(999, "idle", b""),
        lambda: rig.keeper.note(handle, "idle", b""),
        lambda: rig.keeper.admit(handle, "covenanted", b"", [rig.grant()]),
        lambda: rig.keeper.admit(999, "covenanted", b"", [rig.grant()]),
        lambda: rig.keeper.admit(handle, "covenanted", b"", [rig.grant(remote=nobody)]),
        lambda: rig.keeper.adjust(handle, "revoking", b"", until_us=1),
        lambda: rig.keeper.close(handle, "terminated", b""),
        lambda: rig.keeper.quarantine(AGENT, "why"),
        lambda: rig.keeper.clear(AGENT),
        lambda: rig.keeper.rekey_remote(nobody, ELSEWHERE.public_key),
        lambda: rig.keeper.rekey_local(nobody, ELSEWHERE),
    ):
        with pytest.raises(NotFound):
            call()
    assert rig.everything() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"flows": {0: 1}},
        {"flows": {8: 1}},
        {"flows": {1: 0}},
        {"flows": {1: 0x8000}},
        {"psk": b"short"},
        {"psk": bytes(32)},
        {"rate": -1},
        {"burst": -1},
        {"payload_limit": -1},
        {"open_from_us": -1},
        {"open_until_us": -1},
    ],
)
def test_a_grant_that_makes_no_sense(wrong: dict[str, Any]):
    with pytest.raises(InvalidArgument):
        replace(GateGrant(HOME.cell_id, AWAY.cell_id, {1: 1}), **wrong)


def test_room_is_asked_for_without_taking_it(rig: Rig):
    rig.admitted(flows={1: 9_000})
    before = rig.everything()
    rig.keeper.room_for(rig.home, rig.away, {1: 10_000})
    rig.keeper.room_for(rig.home, rig.away, {2: 1_000})
    with pytest.raises(ResourceExhausted, match="1001 blocks of credit asked for, 1000 of 10000"):
        rig.keeper.room_for(rig.home, rig.away, {2: 1_001})
    assert rig.everything() == before


# Changes of one in force


def test_an_amendment_takes_the_place_of_what_was_said(rig: Rig):
    handle = rig.admitted(flows={1: 100, 2: 9}, rate=10)
    rig.keeper.adjust(handle, "covenanted", b"3", [rig.grant(flows={1: 200}, payload_limit=64)])
    assert rig.entry().limits == TermLimits(payload_limit=64)
    assert rig.grants() == {(rig.away, 1): 200}
    assert rig.ledger.windows() == {(rig.away, 1): 200}
    assert rig.store.covenants.get(handle).snapshot == b"3"


def test_a_party_that_an_amendment_leaves_out_is_shut_out(rig: Rig):
    elsewhere = rig.add_remote("elsewhere", ELSEWHERE)
    rig.reconciler.apply_all()
    handle = rig.begin()
    both = [rig.grant(), rig.grant(remote=elsewhere)]
    rig.keeper.admit(handle, "covenanted", b"", both)
    assert rig.entry(elsewhere).covenanted
    rig.keeper.adjust(handle, "covenanted", b"", both[:1])
    assert not rig.entry(elsewhere).covenanted
    assert rig.entry().covenanted
    assert rig.grants() == {(rig.away, 1): 100}


def test_a_notice_ends_in_the_gate_by_itself_and_never_later_than_agreed(rig: Rig):
    handle = rig.admitted(open_until_us=MONDAY_US + 100)
    offset = rig.clocks.offset_ns()
    rig.keeper.adjust(handle, "revoking", b"", until_us=MONDAY_US + 50)
    limits = rig.entry().limits
    assert limits is not None
    assert limits.open_until == (MONDAY_US + 50) * 1000 + offset
    rig.keeper.adjust(handle, "revoking", b"", until_us=MONDAY_US + 75)
    again = rig.entry().limits
    assert again is not None
    assert again.open_until == limits.open_until


# Pre-shared keys


def test_a_derived_key_comes_and_goes_with_its_covenant(rig: Rig):
    rig.store.delete_psk(rig.away)
    rig.reconciler.apply_all()
    handle = rig.admitted(psk=b"d" * 32)
    stored = rig.store.psk(rig.away)
    assert stored is not None
    assert (stored.psk, stored.covenant) == (b"d" * 32, handle)
    assert rig.entry().covenanted
    rig.keeper.close(handle, "terminated", b"")
    assert rig.store.psk(rig.away) is None
    with pytest.raises(NotFound):
        rig.entry()


def test_a_key_that_is_set_is_kept(rig: Rig):
    handle = rig.admitted(psk=b"d" * 32)
    rig.keeper.close(handle, "terminated", b"")
    stored = rig.store.psk(rig.away)
    assert stored is not None
    assert (stored.psk, stored.covenant) == (PSK, None)


def test_a_derived_key_stays_as_long_as_a_covenant_needs_it(rig: Rig):
    rig.store.delete_psk(rig.away)
    first = rig.admitted(psk=b"d" * 32)
    second = rig.admitted(psk=b"e" * 32)
    rig.keeper.close(first, "terminated", b"")
    stored = rig.store.psk(rig.away)
    assert stored is not None
    assert (stored.psk, stored.covenant) == (b"d" * 32, second)
    assert rig.entry().covenanted
    rig.keeper.close(second, "terminated", b"")
    assert rig.store.psk(rig.away) is None


# Sessions that keep what they began with


def test_a_session_s_windows_stay_backed_until_it_is_renewed(rig: Rig):
    handle = rig.admitted(flows={1: 100, 2: 30})
    rig.sessions.live[rig.away] = FakeLive({1: 100, 2: 30})
    rig.keeper.adjust(handle, "covenanted", b"", [rig.grant(flows={1: 40})])
    assert rig.grants() == {(rig.away, 1): 40}
    assert rig.ledger.windows() == {(rig.away, 1): 100, (rig.away, 2): 30}
    rig.sessions.live[rig.away] = FakeLive({1: 40})
    rig.clocks.advance(5)
    rig.keeper.refresh()
    assert rig.ledger.windows() == {(rig.away, 1): 40}
    assert rig.sessions.said == []


def test_a_session_that_is_not_renewed_in_time_ends(rig: Rig):
    handle = rig.admitted(flows={1: 100, 2: 30})
    rig.sessions.live[rig.away] = FakeLive({1: 100, 2: 30})
    rig.keeper.adjust(handle, "covenanted", b"", [rig.grant(flows={1: 40})])
    rig.clocks.advance(RENEWAL_NS / SEC - 1)
    rig.keeper.refresh()
    assert rig.sessions.said == []
    rig.clocks.advance(1)
    rig.keeper.refresh()
    assert rig.sessions.said == [("drop", rig.away, None)]
    assert rig.ledger.windows() == {(rig.away, 1): 40}


# Time


def test_the_lease_is_renewed_with_each_sweep(rig: Rig):
    rig.keeper.refresh()
    config = rig.gate.tables.config
    assert config.read().lease_until == rig.clocks.monotonic + LEASE_NS
    rig.clocks.advance(5)
    rig.keeper.refresh()
    assert config.read().lease_until == rig.clocks.monotonic + LEASE_NS


HOURS = DailyWindow(from_minute=60, to_minute=120, days=(0, 1))


def _bounds(rig: Rig) -> tuple[int, int]:
    """When the gate is open, hours since Monday began."""
    limits = rig.entry().limits
    assert limits is not None
    offset = rig.clocks.offset_ns()
    hour = 3600 * SEC
    monday = MONDAY_US * 1_000 + offset
    return round((limits.open_from - monday) / hour), round((limits.open_until - monday) / hour)


def test_hours_of_the_day_follow_the_clock(rig: Rig):
    rig.admitted(windows=(HOURS,))
    assert _bounds(rig) == (1, 2)
    for hours, expected in ((1.5, (1, 2)), (1, (25, 26)), (24, (7 * 24 + 1, 7 * 24 + 2))):
        rig.clocks.advance(hours * 3600)
        rig.keeper.refresh()
        assert _bounds(rig) == expected


def test_hours_of_the_day_stay_within_the_covenant(rig: Rig):
    rig.admitted(windows=(HOURS,), open_until_us=MONDAY_US + 90 * 60_000_000)
    limits = rig.entry().limits
    assert limits is not None
    assert limits.open_until - limits.open_from == 30 * 60 * SEC


def test_a_clock_that_is_set_back_opens_the_hours_of_that_time(rig: Rig):
    rig.clocks.advance(26 * 3600)
    rig.admitted(windows=(HOURS,))
    assert _bounds(rig) == (7 * 24 + 1, 7 * 24 + 2)
    rig.clocks.unix -= 26 * 3600 * SEC
    rig.keeper.refresh()
    rig.reconciler.apply_all()
    assert _bounds(rig) == (1, 2)


def test_jitter_of_the_clocks_is_no_drift_and_a_step_is_followed(rig: Rig):
    rig.admitted(open_until_us=MONDAY_US + DAY_US)
    before = rig.entry().limits
    assert before is not None
    for jitter in (50_000_000, -50_000_000, 9, 0):
        rig.clocks.unix += jitter
        assert not rig.reconciler.apply_all()
    rig.clocks.unix += 60 * SEC
    assert rig.reconciler.apply_all().pairs_changed == 1
    after = rig.entry().limits
    assert after is not None
    assert before.open_until - after.open_until == pytest.approx(60 * SEC, abs=SEC // 5)


def test_bounds_before_the_host_was_up(rig: Rig):
    """What began before is open from the beginning; what ended before is over."""
    rig.clocks.monotonic = SEC
    rig.admitted(open_from_us=MONDAY_US - DAY_US, open_until_us=MONDAY_US - DAY_US // 2)
    assert rig.entry().limits == TermLimits(open_from=0, open_until=1)


# Quarantine


def test_quarantine_is_in_the_gate_when_it_returns_and_soon(rig: Rig):
    rig.admitted()
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    took = rig.keeper.quarantine(AGENT, "flooding")
    entry = rig.entry()
    assert entry.quarantined
    assert entry.covenanted
    assert entry.control
    agent = rig.store.covenants.agent(AGENT)
    assert (agent.quarantined, agent.condition, agent.since) == (True, "flooding", MONDAY_US)
    assert 0 < took < 1, "a second would be a broken machine; what it takes is measured apart"
    rig.keeper.clear(AGENT)
    assert not rig.entry().quarantined
    assert not rig.store.covenants.agent(AGENT).quarantined
    assert rig.sessions.said == [("suspend", rig.away)] * 2


def test_quarantine_survives_a_new_reconciler_and_a_sweep(rig: Rig):
    rig.admitted()
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    rig.keeper.quarantine(AGENT, "flooding")
    assert not Reconciler(rig.store, rig.gate, rig.clocks).apply_all()
    rig.gate.tables.sessions.set_consent(rig.away, rig.home, covenanted=True)
    assert rig.reconciler.apply_all().pairs_changed == 1
    assert rig.entry().quarantined


def test_quarantine_holds_whoever_decides_on_consent(rig: Rig):
    standing = rig.add_remote("standing", ELSEWHERE, Consent.STANDING)
    rig.reconciler.apply_all()
    rig.keeper.bind_agent(AGENT, ELSEWHERE.public_key)
    rig.keeper.quarantine(AGENT, "flooding")
    assert rig.entry(standing).quarantined
    assert not rig.entry().quarantined


def test_a_new_key_does_not_shake_off_a_quarantine(rig: Rig):
    elsewhere = rig.add_remote("elsewhere", ELSEWHERE)
    rig.reconciler.apply_all()
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    rig.keeper.quarantine(AGENT, "flooding")
    rig.keeper.bind_agent(AGENT, ELSEWHERE.public_key)
    assert rig.entry(elsewhere).quarantined
    assert not rig.entry().quarantined


def test_a_key_has_one_agent(rig: Rig):
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    before = rig.everything()
    with pytest.raises(AlreadyExists, match="another agent's"):
        rig.keeper.bind_agent(UUID(int=AGENT.int ^ 1), AWAY.public_key)
    assert rig.everything() == before


# The start


def test_what_is_not_durable_ends_with_the_daemon(rig: Rig):
    rig.store.delete_psk(rig.away)
    ended = rig.admitted(psk=b"d" * 32)
    negotiated = rig.begin()
    elsewhere = rig.add_remote("elsewhere", ELSEWHERE)
    rig.reconciler.apply_all()
    durable = rig.admitted(durable=True, remote=elsewhere)
    assert end_unfinished(rig.store, rig.clocks) == 2
    rig.reconciler.apply_all()
    assert [one.handle for one in rig.store.covenants.open()] == [durable]
    states = {one.handle: one.state for one in rig.store.covenants.ended()}
    assert states == {ended: "terminated", negotiated: "terminated"}
    assert rig.entry(elsewhere).covenanted
    assert rig.store.psk(rig.away) is None
    assert rig.grants() == {(elsewhere, 1): 100}
    with pytest.raises(NotFound):
        rig.entry()
    assert end_unfinished(rig.store, rig.clocks) == 0


def test_the_caller_may_say_which_go_on(rig: Rig):
    kept, durable = rig.admitted(), rig.admitted(durable=True)
    assert end_unfinished(rig.store, rig.clocks, {kept}) == 1
    assert [one.handle for one in rig.store.covenants.open()] == [kept]
    assert rig.store.covenants.get(durable).ended


# Keys that change


def test_a_remote_cell_with_another_key_keeps_all_but_its_sessions(rig: Rig):
    handle = rig.admitted(rate=10)
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    rig.store.covenants.set_policy(rig.home, rig.away, b"policy")
    limits = rig.entry().limits
    spec = SessionSpec(rig.away, rig.home, SESSION, b"k" * 16, flows=(FlowSpec(1, 100, 1),))
    rig.gate.tables.sessions.install(spec)
    new = rig.keeper.rekey_remote(rig.away, ELSEWHERE.public_key)
    assert new == ELSEWHERE.cell_id
    entry = rig.entry(new)
    assert entry.covenanted
    assert not entry.established
    assert entry.limits == limits
    with pytest.raises(NotFound):
        rig.entry()
    cell = rig.store.remote("away")
    assert (cell.id, cell.public_key, cell.consent) == (new, ELSEWHERE.public_key, Consent.COVENANT)
    assert rig.grants() == rig.ledger.windows() == {(new, 1): 100}
    assert [gate.remote for gate in rig.store.covenants.gates(handle)] == [new]
    assert rig.store.covenants.policy(rig.home, new) == b"policy"
    assert rig.store.covenants.agent(AGENT).public_key == ELSEWHERE.public_key
    assert rig.sessions.said == [("farewell", rig.away, None), ("forget", rig.away)]
    assert not rig.reconciler.apply_all()


def test_an_agent_that_has_the_new_key_already_keeps_it(rig: Rig):
    rig.admitted()
    rig.keeper.bind_agent(AGENT, ELSEWHERE.public_key)
    new = rig.keeper.rekey_remote(rig.away, ELSEWHERE.public_key)
    assert rig.store.remote(new).public_key == ELSEWHERE.public_key
    assert rig.store.covenants.agent(AGENT).public_key == ELSEWHERE.public_key


def test_another_agent_s_key_is_not_taken(rig: Rig):
    rig.keeper.bind_agent(AGENT, AWAY.public_key)
    rig.keeper.bind_agent(UUID(int=AGENT.int ^ 1), ELSEWHERE.public_key)
    before = rig.everything()
    with pytest.raises(AlreadyExists, match="another agent's"):
        rig.keeper.rekey_remote(rig.away, ELSEWHERE.public_key)
    assert rig.everything() == before


def test_a_local_cell_with_another_key_keeps_all_but_its_sessions(rig: Rig):
    handle = rig.admitted()
    old_file = rig.store.local("home").key_file
    new = rig.keeper.rekey_local(rig.home, OTHER_HOME)
    cell = rig.store.local("home")
    assert (cell.id, cell.public_key) == (new, OTHER_HOME.public_key)
    assert Identity.load(cell.key_file).cell_id == new
    assert not old_file.exists()
    assert rig.cells.at_work == {new: OTHER_HOME}
    assert rig.entry(local=new).covenanted
    with pytest.raises(NotFound):
        rig.entry()
    assert [row.cell for row in rig.gate.tables.locals.list()] == [new]
    assert rig.store.covenants.get(handle).local == new
    assert rig.sessions.said == [("farewell", rig.home, None), ("forget", rig.home)]
    assert not rig.reconciler.apply_all()


def test_a_key_that_is_taken_changes_nothing(rig: Rig):
    rig.admitted()
    elsewhere = rig.add_remote("elsewhere", ELSEWHERE)
    rig.reconciler.apply_all()
    before, files = rig.everything(), sorted(rig.key_files.path("x").parent.iterdir())
    with pytest.raises(AlreadyExists, match="it is the key of cell 'elsewhere'"):
        rig.keeper.rekey_remote(rig.away, ELSEWHERE.public_key)
    with pytest.raises(AlreadyExists, match="it is the key of cell 'elsewhere'"):
        rig.keeper.rekey_local(rig.home, ELSEWHERE)
    assert rig.everything() == before
    assert sorted(rig.key_files.path("x").parent.iterdir()) == files
    assert elsewhere == from_public_key(ELSEWHERE.public_key)


def test_a_key_that_no_handshake_could_use_changes_nothing(rig: Rig):
    rig.admitted()
    before = rig.everything()
    with pytest.raises(InvalidArgument):
        rig.keeper.rekey_remote(rig.away, b"\xff" * 32)
    assert rig.everything() == before


# History


def test_what_ended_long_ago_is_forgotten(rig: Rig):
    handles = [rig.begin() for _ in range(5)]
    for handle in handles[:4]:
        rig.store.covenants.end(handle, "terminated", 1)
    assert rig.store.covenants.prune(2) == 2
    assert [one.handle for one in rig.store.covenants.ended()] == [handles[3], handles[2]]
    assert [one.handle for one in rig.store.covenants.open()] == [handles[4]]
    assert HISTORY_MAX == 1_000


def test_a_handle_is_never_used_again(rig: Rig):
    handle = rig.begin()
    rig.store.covenants.end(handle, "terminated", 1)
    rig.store.covenants.prune(0)
    with pytest.raises(NotFound):
        rig.store.covenants.get(handle)
    assert rig.begin() > handle


# A remote cell that leaves, and one whose consent changes hands


def test_a_remote_cell_that_is_deleted_takes_its_gates_along(rig: Rig):
    handle = rig.admitted()
    with rig.reconciler.change(remotes=[rig.away]):
        rig.store.delete_cell(rig.away)
    assert rig.store.covenants.gates(handle) == []
    rig.keeper.close(handle, "terminated", b"")
    assert rig.store.covenants.get(handle).ended


def test_a_local_cell_that_is_deleted_takes_what_its_covenants_granted(rig: Rig):
    rig.add_local("other", OTHER_HOME)
    rig.admitted()
    assert rig.ledger.windows() == {(rig.away, 1): 200}
    registry = Registry(
        rig.store,
        rig.reconciler,
        rig.ledger,
        cast("Any", rig.cells),
        cast("Any", rig.sessions),
        rig.key_files,
    )
    registry.delete_cell("home")
    assert rig.grants() == {}
    assert rig.ledger.promised == 0
    assert rig.store.covenants.all_gates() == []


def test_the_operator_s_consent_goes_before_covenants(rig: Rig):
    rig.admitted()
    with rig.reconciler.change(remotes=[rig.away]):
        rig.store.set_consent(rig.away, Consent.NONE)
    entry = rig.entry()
    assert not entry.covenanted
    assert not entry.control
    assert entry.limits is None


def test_an_operator_s_grants_are_left_alone(rig: Rig):
    handle = rig.admitted()
    rig.store.set_consent(rig.away, Consent.STANDING)
    rig.store.set_grant(StandingGrant(rig.away, 5, 55))
    rig.keeper.close(handle, "terminated", b"")
    assert rig.grants() == {(rig.away, 1): 100, (rig.away, 5): 55}
