# SPDX-License-Identifier: Apache-2.0
"""Covenants by the thousand in one daemon: its memory, and how fast they come.

A daemon of its own listens for HTTP/2. As many agents as covenants are wanted are made known to it,
with consent by covenant, and a policy accepts what they offer. Then this process is all of those
agents: each opens a stream, offers, and signs, many of them at the same time. When the last one has
the daemon's signature, all are in force; none of them ends before the daemon's memory is read.

Heartbeats are put off by the terms. In the daemon's figure is all that a covenant changes there:
the store (on disk, each step committed), the gate, and the evidence log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from assent.bench import daemon
from assent.bench.agents import BLOCKS, Agents, accept_all
from assent.bench.authority import NAME, Authority
from assent.bench.listening import free_port, listener
from assent.client import Client
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import DEFAULT, LARGE
from assent.errors import FailedPrecondition
from assent.identity.keys import Identity
from assent.provisioning import install_requests
from assent.service.bindings import http2, tls
from assent.v1 import cells_pb2, common_pb2, covenants_pb2, provisioning_pb2

COVENANTS: Final = 10_000
GOAL_MIB: Final = 1024
"""The daemon's memory with so many, at most."""
AT_ONCE: Final = 64
"""Covenants that are negotiated at the same time: as many offers of one agent may be undecided."""
_STREAMS: Final = 125
"""On one connection; a listener takes 128."""
_CONNECTIONS: Final = 50
"""From one address; a listener takes 64."""
_LOOPBACK: Final = "lo"
_T = TypeVar("_T")


def measure(covenants: int = COVENANTS) -> dict[str, Any]:
    """Brings so many covenants up, and keeps them until all are there.

    Args:
        covenants: How many; an agent has 65,536 at most.

    Returns:
        {"covenants", "seconds", "covenants_per_second", "daemon_cpu_seconds", "memory_mib",
        "memory_before_mib", "memory_known_mib"}: before anything, and with the agents known, but
        without a covenant.

    Raises:
        FailedPrecondition: BPF is not permitted, the daemon does not start, or a covenant does not
            come into force.
    """
    instance = f"bench-covenants-{os.getpid()}"
    identities = [Identity.generate() for _ in range(covenants)]
    profile = DEFAULT if covenants < DEFAULT.sessions else LARGE
    # On tmpfs, as session keys should be; of a short name, as sockets must be. The store is on
    # disk: what a covenant says must survive a power cut.
    with (
        tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/run") as run,
        tempfile.TemporaryDirectory(prefix="assent-bench-", dir="/var/tmp") as state,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(Gate.remove, instance)
        authority, port = Authority(Path(run)), free_port()
        settings = Path(run) / "assentd.toml"
        settings.write_text(
            f"credit_capacity_blocks = {2 * covenants * BLOCKS}\n" + listener(authority, port)
        )
        process, client = undo.enter_context(
            daemon.running(instance, profile.name, Path(run) / "run", Path(state) / "s", settings)
        )
        before = daemon.memory_mib(process)
        public_key = _introduce(client, identities)
        known, worked = daemon.memory_mib(process), daemon.cpu_seconds(process)

        def look() -> tuple[float, float]:
            """The daemon's memory, and the CPU seconds that it took; it is not needed any more."""
            found = daemon.memory_mib(process), daemon.cpu_seconds(process) - worked
            _check(client, covenants)
            # The agents are still there, so that nothing has ended; nor need it, one by one.
            process.kill()
            process.wait()
            return found

        joining = _join_all(Agents(public_key), identities, authority, port, look)
        with asyncio.Runner(loop_factory=_ManyAddresses) as runner:
            seconds, (memory, cpu) = runner.run(joining)
    return {
        "covenants": covenants,
        "seconds": round(seconds, 3),
        "covenants_per_second": round(covenants / seconds),
        "daemon_cpu_seconds": round(cpu, 3),
        "memory_mib": memory,
        "memory_before_mib": before,
        "memory_known_mib": known,
    }


def _introduce(client: Client, identities: Sequence[Identity]) -> bytes:
    """Makes the agents known, and has their offers accepted; returns the daemon's public key."""
    local = client.cells.CreateLocal(
        cells_pb2.CreateLocalRequest(name="local", interface=_LOOPBACK)
    )
    client.provisioning.Install(install_requests(_items(identities)))
    accept_all(client)
    return local.public_key


def _items(identities: Sequence[Identity]) -> Iterator[provisioning_pb2.InstallItem]:
    for number, identity in enumerate(identities):
        yield provisioning_pb2.InstallItem(
            name=f"agent-{number}",
            public_key=identity.public_key,
            consent=common_pb2.CONSENT_COVENANT,
        )


class _ManyAddresses(asyncio.SelectorEventLoop):
    """Dials from one address of 127.0.0.0/8 after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._dialled = 0

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, from the next address."""
        address = f"127.0.0.{1 + self._dialled // _CONNECTIONS}"
        self._dialled += 1
        return await super().create_connection(*args, local_addr=(address, 0), **kwargs)


async def _join_all(
    agents: Agents,
    identities: Sequence[Identity],
    authority: Authority,
    port: int,
    look: Callable[[], _T],
) -> tuple[float, _T]:
    """Has every agent make its covenant.

    Returns:
        The seconds that it took, and what `look` finds, which is called while all are in force.
    """
    url, waiting = f"https://{NAME}:{port}{tls.PATH}", iter(enumerate(identities))
    async with contextlib.AsyncExitStack() as stack:
        connectors = [
            await stack.enter_async_context(
                http2.Connector(
                    url, tls.client_context(alpn=tls.ALPN_HTTP2, ca=authority.path), agents
                )
            )
            for _ in range(-(-len(identities) // _STREAMS))
        ]

        async def work() -> None:
            for number, identity in waiting:
                await agents.join(identity, connectors[number // _STREAMS])

        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(identities))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        seconds = time.monotonic() - started
        return seconds, await asyncio.to_thread(look)


def _check(client: Client, covenants: int) -> None:
    """All of them are in force in the daemon.

    Raises:
        FailedPrecondition: They are not.
    """
    listed = client.covenants.List(covenants_pb2.ListCovenantsRequest(), timeout=600).covenants
    states = {one.state for one in listed}
    if len(listed) != covenants or states != {covenants_pb2.COVENANT_STATE_COVENANTED}:
        raise FailedPrecondition(f"{len(listed)} covenants are in the daemon, in states {states}")
