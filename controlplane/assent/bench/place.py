# SPDX-License-Identifier: Apache-2.0
"""Where a measured daemon lives, and a session that it finds there when it starts."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assent.bench import daemon
from assent.bench.sentry import FLOW
from assent.client import Client
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import FlowSpec, SessionSpec
from assent.errors import FailedPrecondition
from assent.handshake.keys import SessionKeys
from assent.service.escrow import Escrow
from assent.service.records import StoredSession
from assent.service.store import Store
from assent.v1 import sessions_pb2
from assent.wire.cellid import CellID

BLOCKS: Final = 64
"""The window of the session that is left behind."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the measured daemon lives."""

    instance: str
    root: Path

    @property
    def state_dir(self) -> Path:
        """Its store."""
        return self.root / "state"

    @property
    def run_dir(self) -> Path:
        """Its socket and its sessions' keys."""
        return self.root / "run"

    @property
    def settings(self) -> Path:
        """Further settings, if somebody has written any."""
        return self.root / "assentd.toml"

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Client]:
        """Runs a daemon of the profile `chapter` there, and yields a client that it answers."""
        settings = self.settings if self.settings.exists() else None
        where = self.instance, CHAPTER.name, self.run_dir, self.state_dir, settings
        with daemon.running(*where) as (_, client):
            yield client

    def leave_session(self, remote: CellID, local: CellID) -> None:
        """Leaves a session behind as a daemon does that stops: the next one takes it over."""
        keys = SessionKeys(1, *(secrets.token_bytes(size) for size in (32, 16, 32, 16)))
        with Store(self.state_dir / "state.db") as store:
            ident = store.next_session_id()
            Escrow(self.run_dir / "sessions").put(ident, remote, local, keys)
            self.install_session(remote, local, ident, keys.rx_header)
            now = time.time_ns()
            store.put_session(
                StoredSession(ident, remote, local, 1, True, b"\x02" * 6, now, 0, 0, 1500)
            )

    def install_session(self, remote: CellID, local: CellID, ident: int, rx_header: bytes) -> None:
        """Puts a session in the gate alone, with a daemon at work or without."""
        flows = (FlowSpec(FLOW, BLOCKS),)
        with Gate.open(self.instance, CHAPTER) as gate:
            gate.tables.sessions.install(SessionSpec(remote, local, ident, rx_header, flows=flows))


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """A place of its own, of which nothing is left."""
    instance = f"bench-{os.getpid()}"
    # On tmpfs, as session keys should be; of a short name, as sockets must be.
    with tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/run") as root:
        try:
            yield Place(instance, Path(root))
        finally:
            Gate.remove(instance)


def require_session(client: Client) -> None:
    """Makes sure that the daemon has taken the session over.

    Raises:
        FailedPrecondition: It has not.
    """
    if not client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions:
        raise FailedPrecondition("the daemon has not taken the session over")
