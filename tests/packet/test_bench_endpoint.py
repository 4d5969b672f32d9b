# SPDX-License-Identifier: Apache-2.0
"""What is measured of endpoints is what it says, or fails. How fast is not asked here."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from assent.bench import extra, fabric, handshake, incast, memory, report, traffic
from assent.bench.hosts import ADDRESSES, PAIR, Losses, introduce, switched, wire
from assent.bench.peers.crowd import members
from assent.bench.peers.part import Gathering, Job, Meter
from assent.demo.nodes import Nodes
from assent.errors import FailedPrecondition, NotFound
from assent.handshake.utcp import Connection

from .twin import IN_VM

pytestmark = [
    pytest.mark.skipif(IN_VM, reason="a stopwatch is of no use where the CPU is emulated"),
    pytest.mark.timeout(240),
]


class TestHandshake:
    def test_in_memory(self) -> None:
        figures = handshake.in_memory(handshakes=3, rounds=3)
        assert (figures["handshakes"], figures["rounds"]) == (3, 3)
        kinds = ("handshakes", "noise", "floor", "quic")
        assert min(figures[f"{kind}_per_second"] for kind in kinds) > 0
        # It cannot be faster than what it is made of.
        assert 1 < figures["noise_ratio"] < figures["floor_ratio"]

    def test_one_that_does_not_end_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Connection, "frames_to_send", lambda _: [])
        with pytest.raises(FailedPrecondition, match="syn-sent and closed after 0 frames"):
            handshake.in_memory(handshakes=1, rounds=1)

    def test_between_daemons(self) -> None:
        figures = handshake.between_daemons(renewals=2 * handshake.PAIRS)
        assert figures["renewals"] == 2 * handshake.PAIRS
        assert min(figures["handshakes_per_second"], figures["per_cpu_second"]) > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]


def test_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "PEERS", ("aioquic", "nothing_of_the_kind"))
    for measure in (fabric.measure, handshake.measure):
        with pytest.raises(NotFound, match="'nothing_of_the_kind' is missing: run `make bench`"):
            measure()


@pytest.fixture(scope="class")
def nodes() -> Iterator[Nodes]:
    with Nodes(PAIR, Console(file=io.StringIO()), wire) as nodes:
        nodes.start_all()
        introduce(nodes)
        yield nodes


class TestPrograms:
    """Each receives what the other side of it sends, and all of it."""

    def test_ours(self, nodes: Nodes) -> None:
        job = Job("bulk", "", 0.2, 1400, options=fabric.options_of(nodes))
        outcome = traffic.run(nodes.lab, "fabric", job)
        assert outcome.received["bytes"] == outcome.sent["stats"]["tx_payload"] > 0
        assert outcome.received["messages"] == outcome.sent["stats"]["messages_sent"]
        assert traffic.rate_of(outcome, "bytes") > 0
        # A frame each, and the one that says that there are no more.
        frames = outcome.sent["stats"]["tx_frames"]
        assert frames >= outcome.received["messages"] + 1

    def test_messages_that_share_frames(self, nodes: Nodes) -> None:
        job = Job("bulk", "", 0.2, 64, options=fabric.options_of(nodes, coalesce=True))
        outcome = traffic.run(nodes.lab, "fabric", job)
        assert outcome.received["messages"] == outcome.sent["stats"]["messages_sent"]
        assert 10 * outcome.sent["stats"]["tx_frames"] < outcome.received["messages"]

    def test_ours_answers(self, nodes: Nodes) -> None:
        job = Job("ping", "", size=64, count=50, options=fabric.options_of(nodes))
        assert len(traffic.run(nodes.lab, "fabric", job).sent["nanoseconds"]) == 50

    def test_udp_answers(self, nodes: Nodes) -> None:
        job = Job("ping", ADDRESSES[PAIR[1]], size=64, count=50)
        taken = traffic.run(nodes.lab, "sockets", job).sent["nanoseconds"]
        assert len(taken) == 50
        assert min(taken) > 0

    def test_peers_in_bulk(self, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> None:
        found = fabric.Wire(nodes, tmp_path_factory.mktemp("papers"), 0.2).bulk(
            1, {"window": 1 << 20, "batch": 10}
        )
        assert set(found["gbit_per_second"]) == {"fabric", "mesh", "quic", "tcp"}
        assert min(found["gbit_per_second"].values()) > 0
        assert set(found["ratio"]) == {"mesh", "quic", "tcp"}
        assert found["backend"] == "af_xdp"

    def test_one_that_fails_is_named(self, nodes: Nodes, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(FailedPrecondition, match="fabric failed"):
            traffic.run(nodes.lab, "fabric", Job("bulk", "", options={"sockets": {}}))
        assert "KeyError" in capfd.readouterr().err

    def test_a_peer_whose_sender_fails_does_not_wait(
        self, nodes: Nodes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        job = Job("bulk", ADDRESSES[PAIR[1]], options={"window": "wide", "batch": 1})
        with pytest.raises(FailedPrecondition, match="mesh failed"):
            traffic.run(nodes.lab, "mesh", job)
        assert "window_bytes" in capfd.readouterr().err


def test_loss() -> None:
    with Nodes(PAIR, Console(file=io.StringIO()), switched) as nodes:
        nodes.start_all()
        introduce(nodes)
        figures = fabric.through_loss(nodes, seconds=0.5, rounds=1)
        assert figures["lost"] == pytest.approx(0.3, abs=0.05)
        assert min(figures["whole_gbit"], figures["gbit"], figures["surviving"]) > 0
        with Losses(nodes.lab) as losses:
            job = Job("ping", "", size=64, count=20, options=fabric.options_of(nodes))
            traffic.run(nodes.lab, "fabric", job)
            counts = losses.read()
            assert counts.lost == 0
            assert counts.seen >= 40


def test_incast() -> None:
    figures = incast.measure(senders=20, size=8192, rounds=2)
    assert (figures["senders"], figures["size"], figures["rounds"]) == (20, 8192, 2)
    ours, tcp = figures["fabric"], figures["tcp"]
    assert (ours["dropped"], ours["promised_blocks"]) == ({}, 20 * incast.BLOCKS)
    for one in (ours, tcp):
        assert 0 <= one["first_ms"] <= 1e3 * one["seconds"]
        assert 1 / 20 <= one["fairness"] <= 1
        assert one["gbit"] > 0


def test_fairness_is_jains() -> None:
    assert incast.fairness([5, 5, 5, 5]) == 1
    assert incast.fairness([20, 0, 0, 0]) == 0.25
    assert incast.fairness([1, 3]) == pytest.approx(0.8)


def test_memory() -> None:
    figures = memory.measure(connections=200)
    assert figures["connections"] == 200
    assert figures["application_bytes"] > 0
    assert figures["kernel_bytes"] > 3 * 512
    assert figures["idle_cpu"] >= 0


def test_a_meter_begins_with_the_first_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 11.0, 14.5))
    monkeypatch.setattr("assent.bench.peers.part.time.monotonic", lambda: next(clock))
    meter = Meter()
    for size in (100, 200, 300):
        meter.add(size)
    assert meter.report() == {"bytes": 600, "messages": 3, "seconds": 4.5}


def test_what_is_gathered_is_known_at_half_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((1.0, 2.0, 3.0, 4.0))
    monkeypatch.setattr("assent.bench.peers.part.time.monotonic", lambda: next(clock))
    gathering = Gathering(2, 10)
    assert not gathering.add(0, 4)
    assert gathering.add(0, 6)
    assert not gathering.add(1, 9)
    assert gathering.add(1, 1)
    assert gathering.report() == {"seconds": [1.0, 3.0], "half": [10, 0]}


def test_a_crowd_follows_from_its_seed() -> None:
    crowd = members("seed", 3)
    assert crowd == members("seed", 3)
    assert len({member.cell for member in crowd + members("another", 3)}) == 6
    assert len({member.tx_payload for member in crowd}) == 3
    assert crowd[0].tx_payload.hex() not in repr(crowd[0])


def test_a_job_survives_its_command_line() -> None:
    job = Job("bulk", "192.0.2.1", 1.5, 7, 3, {"a": [1]}, {"b": "c"})
    assert Job(**json.loads(replace(job, size=8).encode())) == replace(job, size=8)


def test_the_report_has_every_figure_and_its_goal() -> None:
    pages = {
        report.handshake_section: {
            "in_memory": {
                "handshakes": 11, "rounds": 12, "handshakes_per_second": 1301,
                "noise_per_second": 1302, "noise_ratio": 1.31, "floor_per_second": 1303,
                "floor_ratio": 1.32, "quic_per_second": 1304, "quic_ratio": 1.33,
            },
            "daemons": {
                "renewals": 1, "handshakes_per_second": 1305, "per_cpu_second": 1306,
                "p50_ms": 1.34, "p99_ms": 1.35,
            },
            "goals": {"handshakes_per_second": 1307},
        },
        report.fabric_section: {
            "bulk": {
                "gbit_per_second": {"fabric": 2.01, "mesh": 2.02, "quic": 2.03, "tcp": 2.04},
                "ratio": {"mesh": 2.05, "quic": 2.06, "tcp": 2.07},
                "backend": "af_xdp", "fallback_reason": "because", "retransmissions": 0,
            },
            "small": {"per_second": {"single": 2101, "shared": 2102, "mesh": 2103}},
            "questions": {
                "p50_us": {"fabric": 2.11, "udp": 2.12}, "p99_us": {"fabric": 2.13, "udp": 2.14},
                "ratio_p50": 2.15, "ratio_p99": 2.16,
            },
            "loss": {
                "chance": 0.21, "lost": 0.222, "whole_gbit": 2.17, "gbit": 2.18, "surviving": 0.23,
            },
            "mesh": {"window": 2104, "batch": 2105},
            "payload": 2106, "mtu": 2107, "seconds": 2.19, "rounds": 28,
            "goals": {
                "gbit_per_second": 2.21, "ratio_quic": 2.22, "ratio_mesh": 2.23,
                "single_per_second": 2108, "shared_per_second": 2109, "latency_ratio": 2.24,
                "surviving": 0.24,
            },
        },
        report.incast_section: {
            "senders": 3101, "size": 3102, "rounds": 31,
            "fabric": {
                "seconds": 3.01, "gbit": 3.02, "fairness": 0.33, "first_ms": 1.0,
                "dropped": {"no_credit": 3103}, "repeated": 0, "nacks": 0, "retransmissions": 3104,
                "promised_blocks": 3105, "backend": "af_packet",
            },
            "tcp": {
                "seconds": 3.03, "gbit": 3.04, "fairness": 0.34, "first_ms": 1.0,
                "retransmissions": 3106,
            },
            "goals": {"dropped": 0},
        },
        report.memory_section: {
            "connections": 4101, "application_bytes": 4102, "idle_cpu": 0.041,
            "kernel_bytes": 4103, "kernel_tally_bytes": 4104, "daemon_bytes": 4105,
            "goals": {"application_bytes": 4106},
        },
    }  # fmt: skip
    for section, figures in pages.items():
        page = "\n".join(section(figures))
        for text in texts_of(figures):
            assert text in page or text.replace(",", "") in page, text
    assert "3,103 no_credit" in "\n".join(report.incast_section(pages[report.incast_section]))


LEFT_OUT = {"renewals", "first_ms", "nacks", "dropped", "repeated", "retransmissions"}


def texts_of(figures: dict[str, object]) -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from () if name == "dropped" else texts_of(value)
        elif isinstance(value, str):
            yield value
        elif name not in LEFT_OUT and isinstance(value, float) and value < 1:
            yield (
                f"{value:.1%}"
                if name in {"lost", "idle_cpu"}
                else (f"{value:g}" if name == "fairness" else f"{value:.0%}")
            )
        elif name not in LEFT_OUT:
            yield f"{value:,}"
