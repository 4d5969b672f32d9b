"""At full rate for long: nothing grows, and a link that loses nothing is asked nothing.

SOAK=1 makes it ten minutes, and a gibibyte at the least.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from assent.bench.fabric import options_of
from assent.bench.hosts import FLOW, PAIR, Losses, introduce, switched
from assent.bench.peers.part import Job
from assent.demo.nodes import Nodes

LONG = "SOAK" in os.environ
SECONDS = 600 if LONG else 20
LEAST_BYTES = 1 << 30 if LONG else 1 << 20
# A veth's ring has 256 places. What is under way at most fits, so that the link loses nothing even
# where a busy machine does not let the receiver run.
WINDOW = 4096
GROWTH_KIB = 1024
SAMPLES = 40

pytestmark = [pytest.mark.netns, pytest.mark.timeout(SECONDS + 120)]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes(PAIR, Console(file=io.StringIO()), switched) as nodes:
        nodes.start_all()
        introduce(nodes, {FLOW: WINDOW})
        yield nodes


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has ended")


def started(nodes: Nodes, host: str, side: str, job: Job) -> subprocess.Popen[str]:
    # Each on a CPU of its own: the kernel queues what a thread sends with the CPU that it is on, so
    # frames of one that moves can overtake each other, which looks like a loss.
    cpus = sorted(os.sched_getaffinity(0))
    pinned = ("taskset", "--cpu-list", str(cpus[PAIR.index(host) % len(cpus)]))
    program = (sys.executable, "-m", "assent.bench.peers.fabric", side, job.encode())
    return subprocess.Popen(
        nodes.lab.hosts[host].command(*pinned, *program), stdout=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen[str]) -> dict[str, object]:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(said.splitlines()[-1])


def test_at_full_rate_nothing_grows_and_nobody_asks_for_anything(nodes: Nodes) -> None:
    job = Job("bulk", "", SECONDS, 1400, options=options_of(nodes))
    with Losses(nodes.lab) as link, started(nodes, PAIR[1], "receive", job) as receiver:
        assert receiver.stdout is not None
        found = json.loads(receiver.stdout.readline())
        link.lose(0.0)
        with started(nodes, PAIR[0], "send", replace(job, found=found)) as sender:
            watched = {
                "sender": sender.pid,
                "receiver": receiver.pid,
                **{f"daemon of {name}": nodes.process(name).pid for name in PAIR},
            }
            # The first fifth is for buffers to reach their size.
            time.sleep(SECONDS / 5)
            samples = {name: [resident_kib(pid)] for name, pid in watched.items()}
            for _ in range(SAMPLES):
                time.sleep(0.75 * SECONDS / SAMPLES)
                for name, pid in watched.items():
                    samples[name].append(resident_kib(pid))
            sent = answer(sender)
        received = answer(receiver)
        counts = link.read()
    growth = {name: grown(of) for name, of in samples.items()}
    print(f"{received['bytes']:,} bytes; growth in KiB: {growth}")
    assert max(growth.values()) < GROWTH_KIB, samples
    assert received["bytes"] >= LEAST_BYTES
    assert counts.seen > received["messages"]
    assert (counts.lost, counts.acks) == (0, 0)
    # A sender that the scheduler moves to another CPU overtakes itself now and then.
    assert counts.nacks <= counts.seen // 100_000
    asked = sum(received["stats"][name] for name in ("nacks_sent", "gaps_sent"))
    assert asked <= counts.nacks
    assert sent["stats"]["voids_sent"] == received["stats"]["voids_sent"] == 0


def grown(samples: list[int]) -> float:
    """What a straight line through them gains over their time (least squares)."""
    middle = (len(samples) - 1) / 2
    mean = sum(samples) / len(samples)
    steep = sum((at - middle) * (value - mean) for at, value in enumerate(samples))
    spread = sum((at - middle) ** 2 for at in range(len(samples)))
    return steep / spread * (len(samples) - 1)
