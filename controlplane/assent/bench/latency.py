# SPDX-License-Identifier: Apache-2.0
"""From the call that quarantines a cell to the first frame that is refused for it.

A daemon of its own, with a live session in its gate, answers on its socket. Another process sends
frames of that session through the pinned gate as fast as it can, with a wrong tag: `bad_tag`
before, `quarantined` after. The time runs from just before the call to the first such verdict.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, Final

from assent.bench import daemon
from assent.client import Client
from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.reasons import reasons
from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.dataplane.tables.counters import STRIDE
from assent.errors import FailedPrecondition
from assent.handshake.keys import SessionKeys
from assent.identity.keys import Identity
from assent.service.escrow import Escrow
from assent.service.records import StoredSession
from assent.service.store import Store
from assent.v1 import cells_pb2, common_pb2, keys_pb2, sessions_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header

TIMES: Final = 300
GOAL_MS: Final = 5.0
"""What 99 of 100 calls should take at most."""
_FLOW: Final = 1
_PEER: Final = cells_pb2.CellRef(name="peer")
# A pipe has no place in the gate: frames that are run by hand come from the loopback interface.
_LOOPBACK: Final = "lo"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the measured daemon lives."""

    instance: str
    root: Path

    @property
    def pins(self) -> Path:
        return PIN_ROOT / self.instance

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"


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
    with _place() as place:
        with _daemon(place) as client:
            local, remote = _introduce(client)
        _seed(place, local, remote)
        with _daemon(place) as client, _sentinel(place) as sentinel:
            if not client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions:
                raise FailedPrecondition("the daemon has not taken the session over")
            frame = _frame(local, remote).hex()
            for _ in range(times):
                sentinel.watch(frame)
                started = time.monotonic_ns()
                _consent(client, common_pb2.CONSENT_QUARANTINED)
                calls.append(time.monotonic_ns() - started)
                taken.append(sentinel.moment() - started)
                _consent(client, common_pb2.CONSENT_STANDING)
    return {
        "times": times,
        "p50_ms": _ms(median(taken)),
        "p99_ms": _ms(sorted(taken)[ceil(0.99 * times) - 1]),
        "max_ms": _ms(max(taken)),
        "call_p50_ms": _ms(median(calls)),
        "kernel": os.uname().release,
    }


class _Sentinel:
    """The process that sends the frames; see sentinel.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def watch(self, frame: str) -> None:
        """Has it send a frame, and returns when the gate has decided on it once."""
        self._say(frame)
        if self._hear() != "ready":
            raise FailedPrecondition("the sentinel is not ready")

    def moment(self) -> int:
        """When the verdict changed, monotonic ns; waits for that."""
        return int(self._hear())

    def _say(self, line: str) -> None:
        if self._process.stdin is None:
            raise FailedPrecondition("the sentinel has no standard input")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise FailedPrecondition("the sentinel has ended")
        return line.strip()


@contextlib.contextmanager
def _place() -> Iterator[_Place]:
    instance = f"bench-{os.getpid()}"
    # On tmpfs, as session keys should be; of a short name, as sockets must be.
    with tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/run") as root:
        try:
            yield _Place(instance, Path(root))
        finally:
            Gate.remove(instance)


@contextlib.contextmanager
def _daemon(place: _Place) -> Iterator[Client]:
    """Runs a daemon, and yields a client that it answers."""
    where = place.instance, CHAPTER.name, place.run_dir, place.state_dir
    with daemon.running(*where) as (_, client):
        yield client


@contextlib.contextmanager
def _sentinel(place: _Place) -> Iterator[_Sentinel]:
    quarantined = reasons().number("quarantined")
    with Gate.open(place.instance, CHAPTER) as gate:
        blocks = gate.map("counters").max_entries // (2 * STRIDE)
    # Whichever block the loopback interface counts in, of what arrives.
    counters = ",".join(str(2 * block * STRIDE + quarantined) for block in range(min(blocks, 2)))
    command = [
        *(sys.executable, "-m", "assent.bench.sentinel"),
        *(str(place.pins / "programs" / "gate"), str(place.pins / "maps" / "counters"), counters),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Sentinel(process)
        finally:
            process.kill()


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


def _seed(place: _Place, local: CellID, remote: CellID) -> None:
    """Leaves a session behind as a daemon does that stops: the next one takes it over."""
    keys = SessionKeys(1, *(secrets.token_bytes(size) for size in (32, 16, 32, 16)))
    with Store(place.state_dir / "state.db") as store, Gate.open(place.instance, CHAPTER) as gate:
        ident = store.next_session_id()
        Escrow(place.run_dir / "sessions").put(ident, remote, local, keys)
        gate.tables.sessions.install(
            SessionSpec(remote, local, ident, keys.rx_header, flows=(FlowSpec(_FLOW, 64),))
        )
        store.put_session(
            StoredSession(ident, remote, local, 1, True, b"\x02" * 6, time.time_ns(), 0, 0, 1500)
        )


def _frame(local: CellID, remote: CellID) -> bytes:
    """A data frame of the session with a tag that nobody made."""
    header = Header(remote, local, 1, Flags.DATA | Flags.BLOCK, 0, _FLOW)
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()


def _consent(client: Client, consent: common_pb2.Consent) -> None:
    client.cells.SetConsent(cells_pb2.SetConsentRequest(cell=_PEER, consent=consent))


def _ms(ns: float) -> float:
    return round(ns / 1e6, 3)
