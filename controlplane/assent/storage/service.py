# SPDX-License-Identifier: Apache-2.0
"""Stores of two hosts, kept alike through an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from assent.errors import AssentError, FailedPrecondition
from assent.storage.blocks import BlockStore
from assent.storage.engine import Event, Failed, StorageEngine
from assent.storage.session import LABEL, Exchange
from assent.transport.errors import FlowError
from assent.wire.control import FlowClass

if TYPE_CHECKING:
    from assent.transport import Endpoint, Flow
    from assent.wire.cellid import CellID

PEERS_MAX: Final = 64
"""Flows that are served at once; others wait."""

OnEvent = Callable[["CellID", Event | AssentError], None]


async def serve(
    endpoint: Endpoint,
    store: BlockStore,
    on_event: OnEvent,
    *,
    share: Collection[str] | None = None,
    follow: Collection[str] = (),
    on_open: Callable[[], None] = lambda: None,
) -> None:
    """Serves a store to peers until it is cancelled.

    Args:
        endpoint: Whose cell is asked.
        store: What is served.
        on_event: Told by which peer a DAG was changed, or why an exchange broke off.
        share: DAGs that are told to peers; None = all.
        follow: DAGs that peers may add to.
        on_open: Told when peers are heard from now on.

    Raises:
        ApiError: The daemon does not let this cell listen.
    """
    places = asyncio.Semaphore(PEERS_MAX)

    async def one(flow: Flow) -> None:
        engine = StorageEngine(store, share=share, follow=follow)
        try:
            async with flow:
                exchange = Exchange(engine, lambda event: on_event(flow.remote, event))
                await exchange.run(flow)
        except AssentError as error:
            on_event(flow.remote, error)
        finally:
            places.release()

    async with endpoint.listen(LABEL) as flows, asyncio.TaskGroup() as tasks:
        on_open()
        while True:
            await places.acquire()
            # A flow that cannot be driven is gone; its peer asks for another.
            with contextlib.suppress(FailedPrecondition):
                flow = await anext(flows)
                tasks.create_task(one(flow), name=f"storage {flow.remote}")
                continue
            places.release()


async def synchronize(
    endpoint: Endpoint,
    remote: CellID | str,
    store: BlockStore,
    dags: Collection[str],
    on_event: Callable[[Event], None],
    *,
    share: bool = True,
    thorough: bool = False,
) -> None:
    """Fetches what a peer has of some DAGs, and lets it fetch what it lacks, if it wants that.

    A flow that breaks is opened anew, as long as each one brings something: what was fetched is
    kept, so that nothing is fetched twice.

    Args:
        endpoint: Of this host's cell.
        remote: The peer.
        store: Where it goes.
        dags: Which.
        on_event: Told what has become of each.
        share: Whether the peer is told of our own heads.
        thorough: Whether what is here already is checked too.

    Raises:
        ApiError: The peer serves no store, or cannot be reached.
        FailedPrecondition: A DAG could not be fetched; what was fetched of it is kept.
        FlowError: The flow broke, and has brought nothing.
        RemoteError: The peer does not keep to the exchange.
    """
    failed: list[Failed] = []

    def note(event: Event) -> None:
        if isinstance(event, Failed):
            failed.append(event)
        on_event(event)

    engine = StorageEngine(store, share=dags if share else (), follow=dags, thorough=thorough)
    exchange = Exchange(engine, note, lambda: all(map(engine.settled, dags)))
    while True:
        before = engine.fetched
        try:
            async with await endpoint.open_flow(
                remote, label=LABEL, flow_class=FlowClass.BULK
            ) as flow:
                await exchange.run(flow)
                if not all(map(engine.settled, dags)):
                    raise FlowError("the peer has left before all was fetched")
            break
        except FlowError:
            if engine.fetched == before:
                raise
    if failed:
        raise FailedPrecondition(f"{failed[0].dag!r} could not be fetched: {failed[0].reason}")
