# SPDX-License-Identifier: Apache-2.0
"""One daemon: its parts, in the order in which they depend on each other."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from assent.credit.lamp import LampAllowance
from assent.credit.ledger import Ledger
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import profile
from assent.errors import AssentError, FailedPrecondition
from assent.handshake.utcp import Timers
from assent.service import preflight
from assent.service.cell_table import CellTable
from assent.service.config import Config
from assent.service.covenants.clocks import Clocks
from assent.service.covenants.gatekeeper import Gatekeeper, end_unfinished
from assent.service.covenants.part import CovenantPart, FabricDoor
from assent.service.credit import CreditSteward, Promises
from assent.service.definitions import Definitions
from assent.service.directories import group_id, make_shared
from assent.service.escrow import Escrow
from assent.service.events import EventHub, GateSource
from assent.service.examiner import Examiner
from assent.service.fabric import Guarded
from assent.service.flow_calls import FlowCalls
from assent.service.flow_desk import FlowPolicy
from assent.service.handshakes import Terms
from assent.service.key_files import KeyFiles
from assent.service.link_watch import LinkWatch
from assent.service.live import Dataplane
from assent.service.locals import LocalCells
from assent.service.manifests import ManifestBoard
from assent.service.placement import Placement
from assent.service.provisioner import Provisioner
from assent.service.reconciler import Reconciler
from assent.service.registry import DefaultGrants, Registry
from assent.service.relay_part import RelayPart
from assent.service.rings import RingService
from assent.service.rules import Rules
from assent.service.schema import SchemaError
from assent.service.server import ApiServer, Registration
from assent.service.servicers.cells import CellsServicer
from assent.service.servicers.covenants import CovenantsServicer
from assent.service.servicers.fabric import FabricServicer, HostFacts
from assent.service.servicers.grants import GrantsServicer
from assent.service.servicers.keys import KeysServicer
from assent.service.servicers.provisioning import ProvisioningServicer
from assent.service.servicers.relay import RelayServicer
from assent.service.servicers.sessions import SessionsServicer
from assent.service.servicers.tokens import TokensServicer
from assent.service.sessions import SessionManager
from assent.service.static_sessions import StaticSessions
from assent.service.store import Store
from assent.service.tasks import TaskOwner
from assent.service.tokens import Tokens
from assent.v1.cells_pb2_grpc import add_CellsServicer_to_server
from assent.v1.covenants_pb2_grpc import add_CovenantsServicer_to_server
from assent.v1.fabric_pb2_grpc import add_FabricServicer_to_server
from assent.v1.grants_pb2_grpc import add_GrantsServicer_to_server
from assent.v1.keys_pb2_grpc import add_KeysServicer_to_server
from assent.v1.provisioning_pb2_grpc import add_ProvisioningServicer_to_server
from assent.v1.relay_pb2_grpc import add_RelayServicer_to_server
from assent.v1.sessions_pb2_grpc import add_SessionsServicer_to_server
from assent.v1.tokens_pb2_grpc import add_TokensServicer_to_server

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 5.0
CREDIT_SECONDS: Final = 1.0


class StartError(Exception):
    """The daemon cannot start; the message says why, in its first line."""


class DaemonFailed(Exception):  # noqa: N818 - says what happened
    """A part of a running daemon failed; the cause is chained."""


class Daemon:
    """A control plane at work. Use it as an async context manager.

    Leaving the block stops the control plane and nothing else: the dataplane goes on, and the next
    daemon takes it over.

    Args:
        config: Its settings.

    Raises:
        StartError: On entering. Whatever had been started is stopped again.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = contextlib.AsyncExitStack()
        self._tasks: TaskOwner | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except (AssentError, SchemaError, sqlite3.Error, OSError) as error:
            await self._stack.aclose()
            raise StartError(str(error)) from error
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        log.info("daemon stopped", extra={"instance": self._config.instance})

    async def run_until(self, stop: asyncio.Event) -> None:
        """Waits for the signal to stop.

        Raises:
            DaemonFailed: A task failed before that.
        """
        if self._tasks is None:
            raise DaemonFailed("the daemon has not been entered")
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        failing = asyncio.create_task(self._tasks.failed(), name="task failure")
        try:
            await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise DaemonFailed("a task failed") from failing.result()
        finally:
            for task in (stopping, failing):
                task.cancel()
            await asyncio.gather(stopping, failing, return_exceptions=True)

    async def _start(self) -> None:
        config, stack = self._config, self._stack
        started_at = time.monotonic_ns()
        sizes = profile(config.profile)
        preflight.check(config.pin_root)
        make_shared(config.run_dir, group_id(config.socket_group))
        stack.enter_context(_locked(config.run_dir / "daemon.lock"))

        store = stack.enter_context(Store(config.state_dir / "state.db"))
        gate = stack.enter_context(Gate.open(config.instance, sizes, config.pin_root))

        clocks = Clocks()
        end_unfinished(store, clocks)
        reconciler = Reconciler(store, gate, clocks)
        changes = reconciler.apply_all()
        log.info(
            "dataplane ready",
            extra={"instance": config.instance, "adopted": gate.adopted, **changes.counts()},
        )

        guarded = Guarded(gate, store)
        key_files = KeyFiles(config.state_dir / "keys")
        key_files.settle(store.locals())
        cells = await stack.enter_async_context(LocalCells(store, guarded))
        followers = [guarded.refresh]
        await stack.enter_async_context(LinkWatch(partial(_follow_links, followers)))
        escrow = Escrow(config.run_dir / "sessions")
        definitions = Definitions(config.run_dir / "definitions")
        placement = Placement(
            store, gate.tables.sessions, escrow, config.run_dir / "flows", definitions
        )
        statics = StaticSessions(store, gate.tables.sessions, gate.tables.flows, placement)
        door = FabricDoor()
        lamp = LampAllowance(config.lamp_blocks_per_second, config.lamp_burst_blocks)
        terms = Terms(
            Timers(config.handshake_patience_ns), config.grant_shift, sizes.replay_len, lamp.is_lit
        )
        gate_config = gate.tables.config
        gate_config.write(
            replace(gate_config.read(), lamp_interval=lamp.interval_ns, lamp_burst=lamp.burst_ns)
        )
        sessions = await stack.enter_async_context(
            SessionManager(
                store,
                placement,
                Dataplane(gate.tables.flows),
                cells,
                ManifestBoard(),
                statics,
                skew_limit=config.skew_limit_ns,
                patience=config.peer_timeout_ns,
                covenants=door.ears,
                on_breach=door.breach,
                definitions=definitions,
                flow_policy=FlowPolicy.named(config.flow_deliveries, config.flow_classes),
                terms=terms,
                connections=sizes.connections,
            )
        )
        relay = await stack.enter_async_context(
            RelayPart(store, gate, guarded.is_guarded, config.relay_route_lifetime_ns)
        )
        ledger: Promises = Ledger(config.credit_capacity_blocks)
        defaults = DefaultGrants(config.default_flows, config.default_window_blocks)
        registry = Registry(store, reconciler, ledger, cells, sessions, key_files, defaults)
        registry.open_books()
        followers.append(registry.fail_over)
        gatekeeper = Gatekeeper(
            store, reconciler, ledger, cells, sessions, key_files, gate.tables.config, clocks
        )
        gatekeeper.refresh()

        self._tasks = await stack.enter_async_context(TaskOwner())
        covenants = await stack.enter_async_context(
            CovenantPart(
                config, store, gate, gatekeeper, cells, sessions, key_files, door, self._tasks
            )
        )
        self._tasks.start(
            _keep_true(guarded, registry, cells, reconciler, sessions, statics, relay, covenants),
            "reconciler",
        )
        self._tasks.start(_keep_fair(registry.credit), "credit")
        hub = await stack.enter_async_context(
            EventHub(GateSource(gate.tables), Rules(store, gate.tables).of)
        )
        calls = FlowCalls(store, sessions)
        tokens = Tokens(store.tokens)
        rings = await stack.enter_async_context(
            RingService(
                config.lend_socket,
                config.applications,
                tokens,
                store,
                cells,
                sessions,
                calls,
                placement.lock_path,
                config.pin_root / config.instance / "maps",
                packets=config.lend_packet_sockets,
            )
        )
        examiner = stack.enter_context(Examiner(gate))
        pins = config.pin_root / config.instance
        facts = HostFacts(config.instance, config.profile, pins, started_at)
        services: list[Registration] = [
            (
                "assent.v1.Cells",
                partial(
                    add_CellsServicer_to_server,
                    CellsServicer(registry, CellTable(store, sessions, relay.registry)),
                ),
            ),
            (
                "assent.v1.Covenants",
                partial(
                    add_CovenantsServicer_to_server,
                    CovenantsServicer(registry, covenants.keeper),
                ),
            ),
            (
                "assent.v1.Fabric",
                partial(
                    add_FabricServicer_to_server,
                    FabricServicer(facts, gate, guarded, registry, sessions, ledger, hub, examiner),
                ),
            ),
            ("assent.v1.Grants", partial(add_GrantsServicer_to_server, GrantsServicer(registry))),
            ("assent.v1.Keys", partial(add_KeysServicer_to_server, KeysServicer(registry))),
            (
                "assent.v1.Provisioning",
                partial(
                    add_ProvisioningServicer_to_server,
                    ProvisioningServicer(
                        Provisioner(
                            store,
                            reconciler,
                            gate.tables.sessions,
                            ledger,
                            sessions,
                            skew_limit=config.skew_limit_ns,
                        )
                    ),
                ),
            ),
            (
                "assent.v1.Relay",
                partial(add_RelayServicer_to_server, RelayServicer(relay.registry)),
            ),
            (
                "assent.v1.Sessions",
                partial(
                    add_SessionsServicer_to_server,
                    SessionsServicer(registry, sessions, calls, pins / "maps"),
                ),
            ),
            (
                "assent.v1.Tokens",
                partial(add_TokensServicer_to_server, TokensServicer(registry, tokens, rings)),
            ),
        ]
        await stack.enter_async_context(ApiServer(config.socket, config.socket_group, services))
        log.info("api ready", extra={"socket": str(config.socket)})


def _follow_links(followers: Iterable[Callable[[], None]]) -> None:
    """What follows from a change of interfaces is done at once, not at the next sweep."""
    try:
        for follow in followers:
            follow()
    except (AssentError, sqlite3.Error, OSError):
        log.exception("interfaces not looked at: the next sweep tries again")


async def _keep_fair(credit: CreditSteward) -> None:
    """Has windows follow what is used of them, for as long as the daemon runs."""
    took = 0.0
    while True:
        # A tenth of one CPU at most, however many sessions there are.
        await asyncio.sleep(max(CREDIT_SECONDS, 10 * took))
        began = time.monotonic()
        try:
            credit.tick()
        except (AssentError, sqlite3.Error):
            log.exception("windows not divided: trying again")
        took = time.monotonic() - began


async def _keep_true(
    guarded: Guarded,
    registry: Registry,
    cells: LocalCells,
    reconciler: Reconciler,
    sessions: SessionManager,
    statics: StaticSessions,
    relay: RelayPart,
    covenants: CovenantPart,
) -> None:
    """Compares what is with what should be, for as long as the daemon runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            guarded.refresh()
            cells.refresh()  # a socket may be lost on an interface that stays
            registry.fail_over()
            relay.sweep()
            covenants.sweep()
            await reconciler.sweep()
            sessions.verify()
            sessions.sweep_flows()
            await statics.sweep()
        except (AssentError, sqlite3.Error, OSError):
            # Such trouble may pass; the gate decides meanwhile by what it has been told.
            log.exception("sweep failed: trying again")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the daemon's lock.

    Raises:
        FailedPrecondition: Another daemon holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise FailedPrecondition(f"run_dir: another daemon works in {path.parent}") from error
    try:
        yield
    finally:
        os.close(fd)
