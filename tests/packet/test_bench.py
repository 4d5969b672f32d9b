# SPDX-License-Identifier: Apache-2.0
"""The stopwatch measures what it says, or fails. How fast is not asked here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assent.bench import latency, report, scale, verdict
from assent.bench.crowd import Crowd
from assent.dataplane.profiles import CHAPTER, DEFAULT
from assent.dataplane.reasons import ADMITTED
from assent.errors import FailedPrecondition, NotFound

from .twin import IN_VM

pytestmark = pytest.mark.skipif(IN_VM, reason="a stopwatch is of no use where the CPU is emulated")
NAMES = {
    "admit",
    "unknown_dst",
    "unknown_src",
    "bad_tag",
    "replay",
    "no_credit",
    "pass_ipv4",
}


def test_figures() -> None:
    figures = verdict.measure(repeat=1000, runs=3)
    assert set(figures["xdp"]) == {f"{name}_ns" for name in NAMES}
    assert set(figures["ratio"]) == NAMES
    assert set(figures["peer"]) == {"xdp_filter_ns"}
    assert all(value > 0 for value in figures["xdp"].values())
    assert (figures["repeat"], figures["runs"]) == (1000, 3)
    assert set(figures["bloom"]) == {"check_ns"}


def test_the_wrong_verdict_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rewind, the second frame is a replay."""
    monkeypatch.setattr(verdict, "_aim", lambda *_: None)
    with pytest.raises(FailedPrecondition, match="admit should count"):
        verdict.measure(repeat=10, runs=1)


def test_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "_PEER_FOLDERS", ("/nonexistent",))
    with pytest.raises(NotFound, match="xdp-tools"):
        verdict.measure(repeat=10, runs=1)


class TestCrowd:
    """Frames of many cells, each genuine and each used once."""

    @pytest.fixture
    def crowd(self) -> Iterator[Crowd]:
        with Crowd(DEFAULT, 500) as crowd:
            crowd.settle(40)
            yield crowd

    def test_every_frame_is_admitted_once(self, crowd: Crowd) -> None:
        crowd.speak(500)
        assert crowd.run("bench_random", 300).verdicts == {ADMITTED: 300}
        assert crowd.run("bench_random", 200).verdicts == {ADMITTED: 200}
        # Then it begins anew.
        assert crowd.run("bench_random", 500).verdicts == {"replay": 500}
        crowd.speak(500)
        assert crowd.run("bench_random", 500).verdicts == {ADMITTED: 500}

    def test_they_are_of_all_cells(self, crowd: Crowd) -> None:
        crowd.speak(500)
        crowd.run("bench_random", 500)
        entries = crowd.tables.sessions.list()
        tallies = [crowd.tables.tallies.read(entry.tally) for entry in entries]
        assert len(entries) == 40
        assert all(tally.frames[ADMITTED] > 1 for tally in tallies)
        assert sum(tally.frames[ADMITTED] for tally in tallies) == 500

    def test_the_filter_alone_counts_nothing(self, crowd: Crowd) -> None:
        crowd.speak(500)
        assert crowd.run("bench_bloom", 500).verdicts == {}
        assert crowd.passed() == 500  # it knows them all
        crowd.strangers(500)
        assert crowd.run("bench_copy", 500).verdicts == {}
        assert crowd.passed() == 0
        crowd.run("bench_bloom", 500)
        assert crowd.passed() < 50
        assert crowd.run("bench_random", 500).verdicts.keys() == {"unknown_source"}


def test_scale() -> None:
    figures = scale.measure(cells=200, few=20, frames=1000, profile=DEFAULT)
    assert (figures["cells"], figures["few"], figures["frames"]) == (200, 20, 1000)
    assert min(figures["admit_ns"], figures["admit_few_ns"], figures["copy_ns"]) > 0
    bloom = figures["bloom"]
    assert bloom["strangers"] == 1000
    assert 0 < bloom["fill"] < 0.2
    assert bloom["measured_rate"] < 0.05
    assert any("200" in line for line in report.scale_section(figures))


def test_scale_of_the_wrong_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that are not genuine, or not new, fail the measurement."""
    monkeypatch.setattr(Crowd, "speak", Crowd.strangers)
    with pytest.raises(FailedPrecondition, match="were to be admitted"):
        scale.measure(cells=20, few=10, frames=100, profile=CHAPTER)


def test_latency() -> None:
    figures = latency.measure(times=3)
    assert figures["times"] == 3
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert any("quarantine" in line for line in report.latency_section(figures))
