# SPDX-License-Identifier: Apache-2.0
"""From the call that quarantines a cell to the first frame that is refused for it.

A daemon of its own, with a live session in its gate, answers on its socket. Another process sends
frames of that session through the pinned gate as fast as it can, with a wrong tag: `bad_tag`
before, `quarantined` after. The time runs from just before the call to the first such verdict.
"""

from __future__ import annotations

import os
import secrets
import time
from statistics import median
from typing import Any, Final

from assent.bench.figures import ms, p99
from assent.bench.place import place, require_session
from assent.bench.sentry import posted, untagged
from assent.client import Client
from assent.dataplane.profiles import CHAPTER
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, keys_pb2
from assent.wire.cellid import CellID

TIMES: Final = 300
GOAL_MS: Final = 5.0
"""What 99 of 100 calls should take at most."""
_PEER: Final = cells_pb2.CellRef(name="peer")
# A pipe has no place in the gate: frames that are run by hand come from the loopback interface.
_LOOPBACK: Final = "lo"


def measure(times: int = TIMES) -> dict[str, Any]:
    """Measures quarantine, again and again.

    Args:
        times: so many calls.

    Returns:
        {"times": ..., "p50_ms": ..., "p99_ms": ..., "max_ms": ..., "call_p50_ms": ..., "kernel":
        its release}; `call` is the whole call, until the change is on disk and answered.

    Raises:
        FailedPrecondition: BPF is not permitted, or the daemon does not start.
    """
    taken, calls = [], []
    with place() as where:
        with where.daemon() as client:
            local, remote = _introduce(client)
        where.leave_session(remote, local)
        with where.daemon() as client, posted(where.instance, CHAPTER, "quarantined") as sentry:
            require_session(client)
            frame = untagged(remote, local).hex()
            for _ in range(times):
                sentry.watch(frame)
                started = time.monotonic_ns()
                _consent(client, common_pb2.CONSENT_QUARANTINED)
                calls.append(time.monotonic_ns() - started)
                taken.append(sentry.moment() - started)
                _consent(client, common_pb2.CONSENT_STANDING)
    return {
        "times": times,
        "p50_ms": ms(median(taken)),
        "p99_ms": ms(p99(taken)),
        "max_ms": ms(max(taken)),
        "call_p50_ms": ms(median(calls)),
        "kernel": os.uname().release,
    }


def _introduce(client: Client) -> tuple[CellID, CellID]:
    """Makes a cell here and one elsewhere known to each other; returns their ids."""
    local = client.cells.CreateLocal(cells_pb2.CreateLocalRequest(name="home", interface=_LOOPBACK))
    remote = client.cells.CreateRemote(
        cells_pb2.CreateRemoteRequest(
            name=_PEER.name,
            public_key=Identity.generate().public_key,
            consent=common_pb2.CONSENT_STANDING,
        )
    )
    client.keys.SetPsk(keys_pb2.SetPskRequest(remote=_PEER, psk=secrets.token_bytes(32)))
    return CellID(local.id.value), CellID(remote.id.value)


def _consent(client: Client, consent: common_pb2.Consent) -> None:
    client.cells.SetConsent(cells_pb2.SetConsentRequest(cell=_PEER, consent=consent))
