# SPDX-License-Identifier: Apache-2.0
"""Ours: one reliable, ordered flow, through the API that applications use.

`job.options` has `sockets`, the daemons' by host, and `coalesce`: whether messages may share
frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from assent.bench.hosts import PAIR
from assent.bench.peers.part import WARM_UP, Job, Meter, ask, main, ready
from assent.errors import FailedPrecondition
from assent.transport.blocking import Endpoint, Flow
from assent.transport.errors import EndedError

_LABEL: Final = "bench"
_LEFT, _RIGHT = PAIR
_BATCH_BYTES: Final = 256 << 10
_ROOM: Final = 4 << 20
_AT_ONCE: Final = 65_536
_PATIENCE_S: Final = 60.0


@contextmanager
def _endpoint(job: Job, host: str) -> Iterator[Endpoint]:
    with Endpoint(socket=Path(job.options["sockets"][host])) as endpoint:
        yield endpoint


@contextmanager
def _accepted(job: Job) -> Iterator[tuple[Flow, Endpoint]]:
    """The flow that the sender opens."""
    with _endpoint(job, _RIGHT) as endpoint, endpoint.listen(_LABEL) as flows:
        ready()
        yield next(iter(flows)), endpoint


@contextmanager
def _opened(job: Job) -> Iterator[Flow]:
    with _endpoint(job, _LEFT) as endpoint:
        yield endpoint.open_flow(_RIGHT, label=_LABEL)


def _told(flow: Flow, endpoint: Endpoint) -> dict[str, Any]:
    info = endpoint.info
    return {
        "stats": asdict(flow.stats),
        "backend": info.backend.name.lower() if info else "",
        "fallback_reason": info.fallback_reason if info else "",
    }


def _part(flow: Flow) -> None:
    """Ends a flow whose other end waits for that to end it, too."""
    flow.finish(timeout=_PATIENCE_S)
    with suppress(EndedError):
        flow.recv(timeout=_PATIENCE_S)


def receive_bulk(job: Job) -> Mapping[str, Any]:
    """Takes what the flow brings.

    Raises:
        FailedPrecondition: A message is not as long as those that are sent.
    """
    meter, room = Meter(), bytearray(_ROOM)
    with _accepted(job) as (flow, endpoint):
        try:
            while True:
                messages = flow.recv_many(room, _AT_ONCE, timeout=_PATIENCE_S)
                if not len(messages[0]) == len(messages[-1]) == job.size:
                    raise FailedPrecondition("a message has another length than was sent")
                meter.add(len(messages) * job.size, len(messages))
        except EndedError:
            flow.finish(timeout=_PATIENCE_S)
        return {**meter.report(), **_told(flow, endpoint)}


def send_bulk(job: Job) -> Mapping[str, Any]:
    """Fills the flow, waiting wherever there is no credit."""
    batch = bytes(max(1, _BATCH_BYTES // job.size) * job.size)
    with _opened(job) as flow:
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            flow.send_many(batch, job.size, coalesce=job.options["coalesce"])
        _part(flow)
        return {"stats": asdict(flow.stats)}


def receive_ping(job: Job) -> Mapping[str, Any]:
    """Sends each message back."""
    with _accepted(job) as (flow, endpoint):
        for _ in range(WARM_UP + job.count):
            flow.send(flow.recv(timeout=_PATIENCE_S), timeout=_PATIENCE_S)
        _part(flow)
        return _told(flow, endpoint)


def send_ping(job: Job) -> Mapping[str, Any]:
    """Sends a message and waits for it to come back, again and again."""
    question = bytes(job.size)
    with _opened(job) as flow:

        def once() -> None:
            flow.send(question, timeout=_PATIENCE_S)
            flow.recv(timeout=_PATIENCE_S)

        answer = ask(job.count, once)
        _part(flow)
        return {**answer, "stats": asdict(flow.stats)}


if __name__ == "__main__":
    main(
        {
            ("receive", "bulk"): receive_bulk,
            ("send", "bulk"): send_bulk,
            ("receive", "ping"): receive_ping,
            ("send", "ping"): send_ping,
        }
    )
