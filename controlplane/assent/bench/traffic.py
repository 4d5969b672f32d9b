# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of `assent.bench.peers`, one on either host, and reads what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from assent.bench.hosts import PAIR
from assent.bench.peers.part import Job, crowd_instance
from assent.dataplane.gate import Gate
from assent.demo.lab import Lab
from assent.errors import FailedPrecondition

_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Contender:
    """Who takes part in a comparison.

    Attributes:
        name: in the result.
        program: a module of `assent.bench.peers`.
        job: what it does.
    """

    name: str
    program: str
    job: Job


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sender has printed, and what the receiver has."""

    sent: Mapping[str, Any]
    received: Mapping[str, Any]


def alternate(lab: Lab, contenders: Sequence[Contender], rounds: int) -> dict[str, list[Outcome]]:
    """Has each do its job, one after the other, in each round. Returns outcomes by name."""
    found: dict[str, list[Outcome]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            found[each.name].append(run(lab, each.program, each.job))
    return found


def rate_of(outcome: Outcome, what: str) -> float:
    """What the receiver got a second: "bytes" or "messages"."""
    rate: float = outcome.received[what] / outcome.received["seconds"]
    return rate


def run(lab: Lab, program: str, job: Job) -> Outcome:
    """Does one job: `left` sends, `right` receives.

    Args:
        lab: the hosts.
        program: a module of `assent.bench.peers`.
        job: what it is to do.

    Raises:
        FailedPrecondition: One of both failed, or did not end.
    """
    with _start(lab, PAIR[1], program, "receive", job) as receiver:
        try:
            found = json.loads(_line(receiver, program))
            with _start(lab, PAIR[0], program, "send", replace(job, found=found)) as sender:
                sent = _result(sender, program, job)
            return Outcome(sent, _result(receiver, program, job))
        finally:
            receiver.kill()


def run_alone(lab: Lab, program: str, job: Job) -> Mapping[str, Any]:
    """Does a job that has no receiver. Returns what its sender, on `left`, has printed.

    Raises:
        FailedPrecondition: It failed, or did not end.
    """
    with _start(lab, PAIR[0], program, "send", job) as process:
        return _result(process, program, job)


def _start(lab: Lab, host: str, program: str, side: str, job: Job) -> subprocess.Popen[str]:
    module = f"assent.bench.peers.{program}"
    command = lab.hosts[host].command(sys.executable, "-m", module, side, job.encode())
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str], program: str) -> str:
    line: str = process.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise FailedPrecondition(f"{program} failed; its last words are above")
    return line


def _result(process: subprocess.Popen[str], program: str, job: Job) -> Mapping[str, Any]:
    try:
        said, _ = process.communicate(timeout=job.seconds + _PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        Gate.remove(crowd_instance(process.pid))  # what it could not take along
        raise FailedPrecondition(f"{program} did not end") from None
    if process.returncode:
        raise FailedPrecondition(f"{program} failed; its last words are above")
    result: Mapping[str, Any] = json.loads(said.splitlines()[-1])
    return result
