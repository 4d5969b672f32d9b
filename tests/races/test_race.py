# SPDX-License-Identifier: Apache-2.0
"""The same frames, put to the gate by several CPUs at once, with duplicates and out of order.

      CPU 0: 1 2 4 3 3 5 ...  ---+
                                 +--> gate: each admitted at most once, no more than was granted
      CPU 1: 1 3 2 2 4 5 ...  ---+

`make soak` has each CPU send 10,000,000 different frames, `make test` some hundred thousand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from assent.dataplane.tables import SEC, TermLimits

from .racetrack import UNLIMITED, Entry, Outcome, Racetrack, cpus
from .sizes import RACE_FRAMES, SOAK

pytestmark = [
    pytest.mark.skipif(len(cpus()) < 2, reason="a race takes two CPUs"),
    pytest.mark.timeout(1800 if SOAK else 180),
]

HOUR = 3600 * SEC
Shown = Callable[[Outcome], None]


@pytest.fixture(scope="module")
def track() -> Iterator[Racetrack]:
    with Racetrack.open(RACE_FRAMES) as track:
        yield track


@pytest.fixture
def shown(record_property: Callable[[str, object], None]) -> Shown:
    """Writes figures into the test's report, and where pytest is asked to show output."""

    def show(outcome: Outcome) -> None:
        record_property("outcome", str(outcome))
        print(outcome)

    return show


@pytest.mark.parametrize("lead", [2, 500])
def test_every_data_frame_is_admitted_once(track: Racetrack, shown: Shown, lead: int) -> None:
    """With credit for all. A CPU may lose a compare-and-swap too often to be sure: then the frame
    is refused as contended, and may be missing. Nothing else may."""
    entry = track.data()
    track.admit_peer(window=track.items * entry.cost)
    outcome = track.race(entry, lead=lead)
    shown(outcome)
    outcome.check_once()
    assert set(outcome.verdicts) <= {"admitted", "replay", "contended", "no_credit"}
    refused = outcome.verdicts.get("contended", 0) + outcome.verdicts.get("no_credit", 0)
    assert outcome.missing <= refused
    assert track.flow.rx_spent == outcome.admitted * entry.cost <= track.flow.rx_granted
    assert outcome.outrun > 0, "the CPUs never met"


def test_every_control_frame_is_admitted_once(track: Racetrack, shown: Shown) -> None:
    track.admit_peer(config=UNLIMITED)
    outcome = track.race(track.control())
    shown(outcome)
    outcome.check_once()
    assert set(outcome.verdicts) <= {"admitted", "replay", "contended", "rate_limited"}
    assert outcome.missing <= outcome.verdicts.get("contended", 0) + outcome.verdicts.get(
        "rate_limited", 0
    )


def test_no_more_is_spent_than_was_granted(track: Racetrack, shown: Shown) -> None:
    """Credit for a third of the frames, and a remainder that is too small for one."""
    entry = track.data()
    granted = track.items // 3 * entry.cost + entry.cost - 1
    track.admit_peer(window=granted)
    outcome = track.race(entry)
    shown(outcome)
    outcome.check_once()
    assert outcome.verdicts["no_credit"] > 0
    assert track.flow.rx_granted == granted
    assert track.flow.rx_spent == outcome.admitted * entry.cost == granted - (entry.cost - 1)


def test_grants_that_rise_meanwhile(track: Racetrack, shown: Shown) -> None:
    """An endpoint raises the grant by shared memory, without a system call, as data is consumed."""
    entry = track.data()
    track.admit_peer(window=entry.cost)
    total = track.items * entry.cost
    done = threading.Event()
    steps = 0

    def grant() -> None:
        nonlocal steps
        while not done.is_set():
            flow = track.flow
            # A window that closes again and again; odd steps leave remainders.
            if flow.rx_granted - flow.rx_spent < 40 * entry.cost and flow.rx_granted < total:
                steps += 1
                track.tables.flows.raise_rx_granted(
                    track.slot, min(total, flow.rx_granted + 61 * entry.cost - steps % entry.cost)
                )

    granting = threading.Thread(target=grant, name="grants")
    granting.start()
    try:
        outcome = track.race(entry)
    finally:
        done.set()
        granting.join()
    shown(outcome)
    outcome.check_once()
    assert steps > 1
    assert outcome.verdicts["no_credit"] > 0
    assert track.flow.rx_spent == outcome.admitted * entry.cost <= track.flow.rx_granted <= total


def _handshake(track: Racetrack) -> Entry:
    track.admit_peer()
    return track.handshake()


def _unopened(track: Racetrack) -> Entry:
    track.admit_peer(observed=True)
    return track.unopened()


def _bare(track: Racetrack) -> Entry:
    track.admit_peer(bare=True)
    return track.bare()


@pytest.mark.parametrize("prepare", [_handshake, _unopened, _bare])
def test_no_frame_outside_a_replay_window_is_admitted_twice(
    track: Racetrack, shown: Shown, prepare: Callable[[Racetrack], Entry]
) -> None:
    """Timestamps that must rise, and the one word of numbers of bare frames: late frames are
    refused there, but none comes through twice."""
    outcome = track.race(prepare(track))
    shown(outcome)
    outcome.check_once()
    assert set(outcome.verdicts) <= {"admitted", "replay", "contended", "rate_limited"}


ALLOWED = 1000
"""Frames that an allowance has room for, in the tests below."""


def _bounded(track: Racetrack, kind: str, interval: int, burst: int) -> Entry:
    """A session whose frames of that kind cost `interval` ns each, `burst` ns in advance."""
    config, limits, window = UNLIMITED, None, 0
    # Of data, the burst is the whole allowance, not what comes after the first frame.
    cost = track.data().cost
    if kind == "handshake":
        config = replace(config, handshake_interval=interval, handshake_burst=burst)
    elif kind == "lamp":
        config = replace(config, lamp_interval=interval // cost, lamp_burst=burst + interval)
    elif kind == "data":
        limits = TermLimits(interval // cost, burst + interval)
        window = track.items * cost
    else:
        config = replace(config, control_interval=interval, control_burst=burst)
    track.admit_peer(window, config, bare=kind == "bare", limits=limits)
    return track.data(lamp=True) if kind == "lamp" else getattr(track, kind)()


REFUSED = {
    "handshake": "rate_limited",
    "control": "rate_limited",
    "bare": "rate_limited",
    "lamp": "no_lamp",
    "data": "over_rate",
}


def _spent(track: Racetrack, kind: str, outcome: Outcome) -> int:
    """Blocks of credit that such a race should have cost."""
    return outcome.admitted * track.data().cost if kind == "data" else 0


@pytest.mark.parametrize("kind", REFUSED)
def test_an_allowance_is_never_exceeded(track: Racetrack, shown: Shown, kind: str) -> None:
    """So slow a rate that what is allowed in advance is all there is."""
    interval = HOUR
    outcome = track.race(_bounded(track, kind, interval, (ALLOWED - 1) * interval))
    shown(outcome)
    outcome.check_once()
    assert outcome.elapsed < interval
    assert 0 < outcome.admitted <= ALLOWED
    assert outcome.verdicts[REFUSED[kind]] > 0
    assert track.flow.rx_spent == _spent(track, kind, outcome)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_rate_is_never_exceeded(track: Racetrack, shown: Shown, kind: str) -> None:
    """Frames <= time x rate + burst, by the gate's own clock."""
    interval = SEC // 20_000
    outcome = track.race(_bounded(track, kind, interval, (ALLOWED - 1) * interval))
    shown(outcome)
    outcome.check_once()
    assert 0 < outcome.admitted <= ALLOWED + outcome.elapsed // interval
    assert outcome.verdicts[REFUSED[kind]] > 0
    assert track.flow.rx_spent == _spent(track, kind, outcome)


def test_a_second_admission_would_be_seen(track: Racetrack) -> None:
    """The count of admissions is kept while the replay window is forgotten."""
    entry = track.data()
    window = track.items * entry.cost
    track.admit_peer(window)
    assert track.race(entry).most == 1
    track.admit_peer(window, keep_admissions=True)
    outcome = track.race(entry)
    assert outcome.most == 2
    with pytest.raises(AssertionError):
        outcome.check_once()


def test_overspending_would_be_seen(track: Racetrack) -> None:
    entry = track.data()
    track.admit_peer(window=entry.cost)
    track.rewrite_flow(rx_spent=entry.cost + 1)
    outcome = track.race(entry)
    assert outcome.overspent == outcome.runs
    with pytest.raises(AssertionError):
        outcome.check_books()
