# SPDX-License-Identifier: Apache-2.0
"""Many flows on one ring, all of them idle: what they hold of this process's memory.

`job.options` has `seed`. Only a sending side; the peer is not there.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from assent.bench.hosts import MTU
from assent.bench.peers.crowd import Crowd, Peer, driven, members
from assent.bench.peers.part import Job, main
from assent.wire.cellid import CELLID_LEN, CellID

_BLOCKS: Final = 128
_NOBODY: Final = Peer(CellID(b"\x02" * CELLID_LEN), b"\x02" * 6, MTU)
_IDLE_S: Final = 1.0


def open_all(job: Job) -> Mapping[str, Any]:
    """Opens the flows, and lets them be for a while.

    Returns:
        {"bytes": of one flow, its Python objects among them; "driver_cpu_seconds": in a second in
        which nothing happens on any of them}.
    """
    cells = members(job.options["seed"], job.count)
    with Crowd(cells, _NOBODY, _BLOCKS) as crowd:
        before = _own_memory()
        crowd.open()
        held = _own_memory() - before
        with driven(crowd.ring):
            time.sleep(_IDLE_S / 2)  # for what a new flow has to say
            worked = time.process_time()
            time.sleep(_IDLE_S)
            worked = time.process_time() - worked
        return {"bytes": held / job.count, "driver_cpu_seconds": worked}


def _own_memory() -> int:
    """Resident bytes that are this process's alone: the gate's maps are the kernel's."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no RssAnon")


if __name__ == "__main__":
    main({("send", "idle"): open_all})
