# SPDX-License-Identifier: Apache-2.0
"""What is measured of covenants is what it says, or fails. How fast is not asked here."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from pathlib import Path

import pytest

from assent.bench import (
    agents,
    covenant,
    covenant_crowd,
    covenant_gate,
    covenant_memory,
    covenant_quarantine,
    report,
)
from assent.bench.authority import Authority
from assent.covenant.desk import Happened
from assent.covenant.engine import Engine
from assent.dataplane.gate import PIN_ROOT
from assent.errors import FailedPrecondition
from assent.identity.keys import Identity

from .twin import IN_VM

pytestmark = [
    pytest.mark.skipif(IN_VM, reason="a stopwatch is of no use where the CPU is emulated"),
    pytest.mark.timeout(180),
]


def left_behind() -> list[str]:
    """Pins of this process's measurements, which are to be none."""
    return [one.name for one in PIN_ROOT.glob(f"bench-*{os.getpid()}")]


def test_in_memory() -> None:
    figures = covenant_memory.measure(covenants=5, rounds=3)
    assert (figures["covenants"], figures["rounds"], figures["signatures"]) == (5, 3, 7)
    assert min(figures[f"{what}_per_second"] for what in ("covenants", "floor", "tls")) > 0
    assert figures["floor_ratio"] > 1


def test_a_covenant_that_does_not_come_about_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "accept", lambda self, handle, _: self.covenant(handle))
    with pytest.raises(FailedPrecondition, match="offer-sent and offer-received"):
        covenant_memory.measure(covenants=1, rounds=1)


def test_other_signatures_than_thought_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covenant_memory, "SIGNATURES", 6)
    with pytest.raises(FailedPrecondition, match="7 signatures, not 6"):
        covenant_memory.measure(covenants=1, rounds=1)


def test_both_sides_of_the_handshake_show_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[ssl.SSLContext] = []
    shake_hands = covenant_memory._shake_hands

    def watched(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        contexts.extend((server, client))
        shake_hands(server, client)

    monkeypatch.setattr(covenant_memory, "_shake_hands", watched)
    covenant_memory._handshakes(tmp_path)()
    assert [one.verify_mode for one in contexts] == [ssl.CERT_REQUIRED] * 2
    client = ssl.create_default_context(cafile=str(Authority(tmp_path).path))
    with pytest.raises(ssl.SSLError):  # of another authority, and with nothing to show
        shake_hands(contexts[0], client)


def test_at_once() -> None:
    figures = covenant_crowd.measure(covenants=150)
    assert figures["covenants"] == 150
    assert 0 < figures["memory_before_mib"] <= figures["memory_mib"] < 1024
    assert figures["covenants_per_second"] > 0
    assert left_behind() == []


def test_covenants_that_are_not_all_there_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    join_all = covenant_crowd._join_all

    async def all_but_one(joining, identities, *others):  # type: ignore[no-untyped-def]
        return await join_all(joining, identities[1:], *others)

    monkeypatch.setattr(covenant_crowd, "_join_all", all_but_one)
    with pytest.raises(FailedPrecondition, match="1 covenants are in the daemon"):
        covenant_crowd.measure(covenants=2)
    assert left_behind() == []


def test_first_frame() -> None:
    figures = covenant_gate.measure(times=3)
    assert figures["times"] == 3
    assert 0 < figures["agreed_p50_ms"] < figures["flow_p50_ms"] < figures["p50_ms"]
    assert figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]


def test_quarantine() -> None:
    figures = covenant_quarantine.measure(times=3)
    assert figures["times"] == 3
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["p50_ms"] < figures["frame_p50_ms"]
    assert left_behind() == []


def test_a_verdict_without_evidence_fails() -> None:
    with pytest.raises(FailedPrecondition, match="without evidence"):
        covenant_quarantine._verdict_time(Happened(1, "violation", "something"))


def test_an_agent_that_is_refused_says_why() -> None:
    async def refuse() -> None:
        owner = agents.Agents(Identity.generate().public_key)
        link = object()
        owner._agents[link] = agent = agents._Agent(agents.engine(Identity.generate()))  # type: ignore[index]
        agent.news.put_nowait(Happened(1, "deferred", "asked first"))
        await owner.expect(link, "covenanted")  # type: ignore[arg-type]

    with pytest.raises(FailedPrecondition, match="asked first"):
        asyncio.run(refuse())


def test_a_measurement_that_is_told_to_end_unwinds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(covenant_memory, "measure", lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        covenant.measure()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_report_has_every_figure_and_its_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        covenant_memory: {
            "covenants": 1, "rounds": 2, "covenants_per_second": 1003, "floor_per_second": 1004,
            "floor_ratio": 1.05, "tls_per_second": 1006, "tls_ratio": 1.07, "signatures": 7,
        },
        covenant_crowd: {
            "covenants": 1008, "seconds": 1.09, "covenants_per_second": 1010,
            "daemon_cpu_seconds": 1.11, "memory_mib": 1.12, "memory_before_mib": 1.13,
        },
        covenant_gate: {
            "times": 3, "p50_ms": 1.14, "p99_ms": 1.15, "max_ms": 1.16, "agreed_p50_ms": 1.17,
            "flow_p50_ms": 1.18,
        },
        covenant_quarantine: {
            "times": 4, "p50_ms": 1.19, "p99_ms": 1.2, "max_ms": 1.21, "frame_p50_ms": 1.22,
            "frame_p99_ms": 1.23,
        },
    }  # fmt: skip
    for module, figures in parts.items():
        monkeypatch.setattr(module, "measure", lambda *_, figures=figures: figures)
    page = "\n".join(report.covenant_section(covenant.measure()))
    for number in (*range(1003, 1005), 1006, 1008, 1010):
        assert f"{number:,}" in page
    for hundredths in (105, 107, 109, *range(111, 124)):
        assert f"{hundredths / 100:g}" in page
    for goal in ("at least 1,000", "at most 1,024", "at most 20", "at most 5"):
        assert goal in page
