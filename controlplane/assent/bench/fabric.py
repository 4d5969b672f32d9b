# SPDX-License-Identifier: Apache-2.0
"""What one flow carries, beside what the field uses: all in the same rounds, over the same wire.

Two hosts are joined by veth links (see `hosts.wire`), sender and receiver are processes of their
own, and everybody is measured at the receiver: bytes of messages, from the first to the last
arrival.

- Bulk: messages of 1,400 bytes. Ours: one reliable, ordered flow, each message a frame of its own:
  a header of 64 bytes, then 1,400 of the message, 2 of its record and 16 of the seal in 23 blocks.
  net-mesh: one reliable stream, with the best of several windows and batches, tried out first.
  aioquic: one stream, full datagrams, without its event loop. All three seal what they send with
  ChaCha20-Poly1305 or AES-GCM. TCP stands beside them for reference: it seals nothing, and the link
  cuts its segments for free.
- Small: messages of 64 bytes, each in a frame of its own, and sharing frames; net-mesh too.
- Questions: a message of 64 bytes and its answer, one after the other; UDP sockets do the same, in
  the same language.
- Loss: two other hosts, on a switch that loses 30 % of all frames both ways. What survives of the
  same switch's capacity without loss is 70 %; of that, the goodput with loss is a share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console

from assent.bench import extra
from assent.bench.authority import Authority
from assent.bench.figures import gbit, p99
from assent.bench.hosts import ADDRESSES, MTU, PAIR, Losses, introduce, switched, wire
from assent.bench.peers.part import Job
from assent.bench.traffic import Contender, alternate, rate_of
from assent.demo.nodes import Nodes

SECONDS: Final = 2.0
ROUNDS: Final = 5
QUESTIONS: Final = 5000
SIZE: Final = 1400
SMALL: Final = 64
CHANCE: Final = 0.3
"""Of a frame's being lost, either way."""
GOAL_GBIT: Final = 3.0
GOAL_QUIC: Final = 10.0
GOAL_MESH: Final = 1.5
"""Times the goodput of the peer."""
GOAL_SINGLE: Final = 500_000
GOAL_SHARED: Final = 3_000_000
"""Messages of 64 bytes a second, at least."""
GOAL_LATENCY: Final = 1.3
"""Times UDP's, p50 and p99, at most."""
GOAL_SURVIVING: Final = 0.6
"""Part of the capacity that survives the loss, at least."""
_UDP_OVERHEAD: Final = 28
_TRIAL_S: Final = 0.4
_MESH_SETTINGS: Final = tuple(
    {"window": window, "batch": batch}
    for window in (256 << 10, 1 << 20, 4 << 20)
    for batch in (5, 10, 40, 200)
    if 2 * batch * SIZE < window
)
"""Five messages of 1,400 bytes fill one of its packets; a batch that its window does not take whole
never leaves."""


def measure(
    seconds: float = SECONDS, rounds: int = ROUNDS, questions: int = QUESTIONS
) -> dict[str, Any]:
    """Measures all of it.

    Args:
        seconds: of each measurement of throughput.
        rounds: medians are over them, ratios within one.
        questions: a round.

    Returns:
        {"bulk": {"gbit_per_second", "ratio": ours over the other's, "backend",
        "fallback_reason", "retransmissions"}, "small": {"per_second"}, "questions": {"p50_us",
        "p99_us", "ratio_p50", "ratio_p99"}, "loss": see `through_loss`, "mesh": its best settings,
        "payload": bytes of messages in a frame, "mtu", "goals", "kernel"}, by contender where
        there are several.

    Raises:
        FailedPrecondition: BPF is not permitted, or a contender failed.
        NotFound: A peer is not installed.
    """
    extra.require_peers()
    with tempfile.TemporaryDirectory(prefix="assent-bench-") as folder:
        with Nodes(PAIR, Console(quiet=True), wire) as nodes:
            nodes.start_all()
            introduce(nodes)
            found = Wire(nodes, Path(folder), seconds).compare(rounds, questions)
        with Nodes(PAIR, Console(quiet=True), switched) as nodes:
            nodes.start_all()
            introduce(nodes)
            found["loss"] = through_loss(nodes, seconds, rounds)
    return {
        **found,
        "payload": SIZE,
        "mtu": MTU,
        "seconds": seconds,
        "rounds": rounds,
        "goals": {
            "gbit_per_second": GOAL_GBIT,
            "ratio_quic": GOAL_QUIC,
            "ratio_mesh": GOAL_MESH,
            "single_per_second": GOAL_SINGLE,
            "shared_per_second": GOAL_SHARED,
            "latency_ratio": GOAL_LATENCY,
            "surviving": GOAL_SURVIVING,
        },
        "kernel": os.uname().release,
    }


def options_of(nodes: Nodes, *, coalesce: bool = False) -> dict[str, Any]:
    """What the program `fabric` is told: where the daemons are, and who may share a frame."""
    sockets = {name: str(nodes[name].socket) for name in PAIR}
    return {"sockets": sockets, "coalesce": coalesce}


class Wire:
    """All contenders on one wire.

    Args:
        nodes: its hosts, in session.
        folder: for certificates.
        seconds: of each measurement of throughput.
    """

    def __init__(self, nodes: Nodes, folder: Path, seconds: float) -> None:
        self._lab = nodes.lab
        self._seconds = seconds
        papers = Authority(folder).issue("server")
        self._quic = {
            "certificate": str(papers.certificate),
            "key": str(papers.key),
            "datagram": MTU - _UDP_OVERHEAD,
        }
        self._ours = options_of(nodes)
        self._shared = options_of(nodes, coalesce=True)

    def compare(self, rounds: int, questions: int) -> dict[str, Any]:
        """All but the loss."""
        settings = self._best_mesh(SIZE)
        return {
            "bulk": self.bulk(rounds, settings),
            "small": self._small(rounds),
            "questions": self._questions(rounds, questions),
            "mesh": settings,
        }

    def bulk(self, rounds: int, mesh: Mapping[str, Any]) -> dict[str, Any]:
        """Goodput of everybody; `mesh` is net-mesh's settings."""
        contenders = (
            self._filling("fabric", "fabric", SIZE, self._ours),
            self._filling("mesh", "mesh", SIZE, mesh),
            self._filling("quic", "quic", SIZE, self._quic),
            self._filling("tcp", "sockets", SIZE, {}),
        )
        found = alternate(self._lab, contenders, rounds)
        rates = {name: [rate_of(one, "bytes") for one in of] for name, of in found.items()}
        last = found["fabric"][-1].received
        return {
            "gbit_per_second": {name: gbit(median(of)) for name, of in rates.items()},
            "ratio": {
                name: round(median(map(truediv, rates["fabric"], of)), 2)
                for name, of in rates.items()
                if name != "fabric"
            },
            "backend": last["backend"],
            "fallback_reason": last["fallback_reason"],
            "retransmissions": sum(one.sent["stats"]["retransmissions"] for one in found["fabric"]),
        }

    def _small(self, rounds: int) -> dict[str, Any]:
        contenders = (
            self._filling("single", "fabric", SMALL, self._ours),
            self._filling("shared", "fabric", SMALL, self._shared),
            self._filling("mesh", "mesh", SMALL, self._best_mesh(SMALL)),
        )
        found = alternate(self._lab, contenders, rounds)
        return {
            "per_second": {
                name: round(median(rate_of(one, "messages") for one in of))
                for name, of in found.items()
            }
        }

    def _questions(self, rounds: int, questions: int) -> dict[str, Any]:
        job = Job("ping", ADDRESSES[PAIR[1]], size=SMALL, count=questions)
        contenders = (
            Contender("fabric", "fabric", replace(job, options=self._ours)),
            Contender("udp", "sockets", job),
        )
        found = alternate(self._lab, contenders, rounds)
        taken = {
            name: [sorted(one.sent["nanoseconds"]) for one in of] for name, of in found.items()
        }
        quantiles = {"p50": lambda of: of[len(of) // 2], "p99": p99}
        result: dict[str, Any] = {}
        for label, quantile in quantiles.items():
            values = {name: list(map(quantile, of)) for name, of in taken.items()}
            result[f"{label}_us"] = {
                name: round(median(of) / 1e3, 1) for name, of in values.items()
            }
            result[f"ratio_{label}"] = round(
                median(map(truediv, values["fabric"], values["udp"])), 2
            )
        return result

    def _filling(self, name: str, program: str, size: int, options: Mapping[str, Any]) -> Contender:
        job = Job("bulk", ADDRESSES[PAIR[1]], self._seconds, size, options=options)
        return Contender(name, program, job)

    def _best_mesh(self, size: int) -> Mapping[str, Any]:
        """The settings with which net-mesh is fastest at messages of that size."""
        scale = max(1, SIZE // size)
        trials = [{**each, "batch": each["batch"] * scale} for each in _MESH_SETTINGS]
        job = Job("bulk", ADDRESSES[PAIR[1]], _TRIAL_S, size)
        found = []
        for options in trials:
            contender = Contender("mesh", "mesh", replace(job, options=options))
            found.append(rate_of(alternate(self._lab, [contender], 1)["mesh"][0], "bytes"))
        return trials[found.index(max(found))]


def through_loss(nodes: Nodes, seconds: float, rounds: int) -> dict[str, Any]:
    """Fills a flow on a switch that loses nothing, then on one that loses a part, in each round.

    Returns:
        {"chance": of a frame's being lost, "lost": the part that was, "whole_gbit": without loss,
        "gbit": with it, "surviving": of the capacity that is left}.
    """
    job = Job("bulk", "", seconds, SIZE, options=options_of(nodes))
    contender = Contender("fabric", "fabric", job)
    found: list[tuple[float, float, float]] = []
    with Losses(nodes.lab) as losses:
        for _ in range(rounds):
            rates = []
            for chance in (0.0, CHANCE):
                losses.lose(chance)
                outcome = alternate(nodes.lab, [contender], 1)["fabric"][0]
                rates.append(rate_of(outcome, "bytes"))
            counts = losses.read()
            found.append((rates[0], rates[1], counts.lost / counts.seen))
    whole, rest, lost = (list(column) for column in zip(*found, strict=True))
    return {
        "chance": CHANCE,
        "lost": round(median(lost), 3),
        "whole_gbit": gbit(median(whole)),
        "gbit": gbit(median(rest)),
        "surviving": round(median(map(truediv, rest, whole)) / (1 - CHANCE), 3),
    }
