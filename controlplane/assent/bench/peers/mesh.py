# SPDX-License-Identifier: Apache-2.0
"""The PyPI package `net-mesh`: one reliable stream between two nodes, encrypted, over UDP.

`job.options` has `window` and `batch`: bytes of the stream's window, and how many events are handed
over at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from net import Identity, NetMesh

from assent.bench.peers.part import PORT, Job, Meter, main, ready

_STREAM: Final = 7
_SECRET: Final = "5a" * 32
_END: Final = "end"
_POLL: Final = 4096
_PAUSE_S: Final = 0.0002
"""Between looks that have found nothing: its Python interface cannot be waited on."""
_LINGER_S: Final = 2.0
_SENDER, _RECEIVER = (bytes([number]) * 32 for number in (1, 2))


def receive_bulk(job: Job) -> Mapping[str, Any]:
    """Takes what one stream brings, up to the event that ends it."""
    meter = Meter()
    with NetMesh(f"{job.address}:{PORT}", _SECRET, identity_seed=_RECEIVER) as node:
        ready(public_key=node.public_key, node_id=node.node_id)
        node.accept(Identity.from_seed(_SENDER).node_id)
        node.start()
        while True:
            events = [event.raw for event in node.poll(_POLL)]
            if not events:
                time.sleep(_PAUSE_S)
                continue
            ended = events[-1] == _END
            if ended:
                events.pop()
            if events:
                meter.add(sum(map(len, events)), len(events))
            if ended:
                break
    return meter.report()


def send_bulk(job: Job) -> Mapping[str, Any]:
    """Fills one stream, waiting wherever its window is full."""
    batch = [b"x" * job.size] * job.options["batch"]
    with NetMesh("0.0.0.0:0", _SECRET, identity_seed=_SENDER) as node:
        receiver = job.found["node_id"]
        node.connect(f"{job.address}:{PORT}", job.found["public_key"], receiver)
        node.start()
        stream = node.open_stream(receiver, _STREAM, "reliable", job.options["window"])
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            node.send_blocking(stream, batch)
        node.send_blocking(stream, [_END.encode()])
        # What is sent is not yet there, and a node that shuts down takes it along. The receiver may
        # be gone before it has said that it has all.
        end = time.monotonic() + _LINGER_S
        while time.monotonic() < end and (stats := node.stream_stats(receiver, _STREAM)):
            if stats.tx_credit_remaining >= job.options["window"]:
                break
            time.sleep(_PAUSE_S)
    return {}


if __name__ == "__main__":
    main({("receive", "bulk"): receive_bulk, ("send", "bulk"): send_bulk})
