# SPDX-License-Identifier: Apache-2.0
"""A control plane is killed at every step of a change of covenants, and another one takes over.

Whatever was under way, then: a pair is open in the gate if, and only if, a covenant in force in the
store says so; a quarantine that was stored holds; a session is whole or absent; and each local cell
has the key that the store names.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.identity.keys import Identity
from assent.service.faults import VARIABLE, Point, reach
from assent.service.store import Store

from .conftest import PIN_ROOT, unique
from .covenant_driver import Driver
from .forked import Process

_DRIVER = Path(__file__).with_name("covenant_driver.py")
_CHANGE = (
    Point.CHANGE_BEGUN,
    Point.CHANGE_STORED,
    Point.CHANGE_FOLLOWED,
    Point.CHANGE_COMMITTED,
)
STEPS: dict[str, tuple[Point, ...]] = {
    "admit": (*_CHANGE, Point.ADMIT_GATES, Point.ADMIT_KEYS, Point.ADMIT_GRANTS),
    "adjust": (*_CHANGE, Point.ADJUST_GATES, Point.ADJUST_GRANTS),
    "close": (
        *_CHANGE,
        Point.CLOSE_ENDED,
        Point.CLOSE_GATES,
        Point.CLOSE_KEYS,
        Point.CLOSE_TOLD,
        Point.CLOSE_DROPPED,
        Point.REMOVE_UNINSTALLED,
        Point.REMOVE_DELETED,
    ),
    "quarantine": (Point.QUARANTINE_STORED, Point.CHANGE_FOLLOWED, Point.CHANGE_COMMITTED),
    "clear": (Point.QUARANTINE_STORED, Point.CHANGE_FOLLOWED, Point.CHANGE_COMMITTED),
    "rekey-remote": (*_CHANGE[:3], Point.REKEY_RENAMED, Point.REKEY_COMMITTED),
    "rekey-local": (*_CHANGE[:3], Point.REKEY_RENAMED, Point.REKEY_COMMITTED),
    "put": (Point.PUT_ESCROWED, Point.PUT_INSTALLED, Point.PUT_STORED),
    "remove": (Point.REMOVE_UNINSTALLED, Point.REMOVE_DELETED),
}
CASES = [(change, point) for change, points in STEPS.items() for point in points]


class Place:
    """Where a driver keeps its state and its maps."""

    def __init__(self) -> None:
        self.instance = unique("flt")
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.instance}-"))

    def run(self, change: str, fault: str) -> tuple[int, str]:
        """Exit code, and what it said."""
        log = self.root / "log"
        environment = {"ASSENT_DRIVER_FAULT": fault, VARIABLE: None}
        process = Process(_DRIVER, (self.root, self.instance, PIN_ROOT, change), log, environment)
        try:
            return process.wait(60), log.read_text()
        finally:
            process.kill()

    def remove(self) -> None:
        Gate.remove(self.instance, PIN_ROOT)
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.remove()


def in_force(store: Store) -> set[tuple[bytes, bytes]]:
    """The pairs that a covenant in force speaks of, as the store has them."""
    handles = {one.handle for one in store.covenants.open() if one.state == "covenanted"}
    return {
        (gate.remote.raw, gate.local.raw)
        for gate in store.covenants.all_gates()
        if gate.handle in handles
    }


def check(driver: Driver) -> None:
    """What must hold whenever a control plane is at work."""
    store, table = driver.store, driver.gate.tables.sessions
    entries = {(entry.remote.raw, entry.local.raw): entry for entry in table.list()}
    agreed = in_force(store)
    apart = store.covenants.quarantined_cells()
    assert {pair for pair, entry in entries.items() if entry.covenanted} == agreed
    for (remote, local), entry in entries.items():
        assert entry.control
        assert entry.quarantined == (remote in apart)
        stored = store.session(entry.remote, entry.local)
        assert entry.established == (stored is not None)
        assert (entry.limits is not None) == ((remote, local) in agreed)
    assert len(entries) == len(store.locals()) * len(store.remotes()) == 1
    promised = {(one.remote.raw, one.flow) for one in store.grants()}
    governed = {
        (gate.remote.raw, flow) for gate in store.covenants.all_gates() for flow in gate.flows
    }
    assert promised == governed
    for cell in store.locals():
        assert Identity.load(cell.key_file).cell_id == cell.id
    files = set((driver.root / "keys").iterdir())
    assert files == {cell.key_file for cell in store.locals()}
    kept = {path.name for path in (driver.root / "sessions").iterdir()}
    assert kept == {f"{one.id}.key" for one in store.sessions()}
    assert not driver.reconciler.apply_all(), "the maps follow at once, not with a later sweep"


async def take_over(place: Place) -> None:
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Store(place.root / "state.db"))
        profile = replace(CHAPTER, sessions=16)
        gate = stack.enter_context(Gate.open(place.instance, profile, PIN_ROOT))
        driver = Driver(place.root, gate, store, stack)
        assert driver.ended == 0, "the covenant is durable"
        await driver.start()
        check(driver)


@pytest.mark.parametrize(
    ("change", "point"), CASES, ids=[f"{change}-{point.value}" for change, point in CASES]
)
async def test_a_kill_leaves_store_and_gate_in_agreement(place: Place, change: str, point: Point):
    code, said = place.run(change, point.value)
    assert code == -signal.SIGKILL, said
    assert "done" not in said
    await take_over(place)


@pytest.mark.parametrize("change", STEPS)
async def test_without_a_kill_the_change_is_made(place: Place, change: str):
    code, said = place.run(change, "")
    assert (code, said.splitlines()[-1:]) == (0, ["done"]), said
    await take_over(place)


def test_every_point_is_come_to():
    assert {point for _, point in CASES} == set(Point)


def test_where_nothing_is_armed_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    for point in Point:
        reach(point)
    monkeypatch.setenv(VARIABLE, "no such point")
    for point in Point:
        reach(point)
