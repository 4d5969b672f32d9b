# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from assent.errors import FailedPrecondition, InvalidArgument, NotFound
from assent.service import fields
from assent.service.flow_calls import Accepted, FlowCalls
from assent.service.flow_desk import Wanted
from assent.service.handshakes import FLOW_MAX
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.service.session_news import News
from assent.service.sessions import OpenedFlow, SessionManager
from assent.v1 import cells_pb2, sessions_pb2
from assent.v1.sessions_pb2_grpc import SessionsServicer as Base
from assent.wire.cellid import CellID
from assent.wire.control import ANY_CONTENT, MAX_LABEL, ManifestItem
from assent.wire.control_body import check_text

ITEMS_MAX: Final = 256
_UNIX: Final = "unix:"


class SessionsServicer(Base):
    """Handshakes, and what they have set up.

    Args:
        registry: Finds cells.
        sessions: Does the work.
        calls: Does that of defined flows.
        maps_dir: Where the gate's maps are pinned.
    """

    def __init__(
        self, registry: Registry, sessions: SessionManager, calls: FlowCalls, maps_dir: Path
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._calls = calls
        self._maps_dir = maps_dir

    async def Connect(  # noqa: N802
        self, request: sessions_pb2.ConnectRequest, context: Context
    ) -> sessions_pb2.Session:
        """Shakes hands with a remote cell and waits for the outcome."""
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        if request.HasField("local"):
            local = self._registry.local(translate.cell_ref("local", request.local))
        else:
            local = self._registry.only_local()
        return translate.session(await self._sessions.connect(remote, local, renew=request.renew))

    async def Get(  # noqa: N802
        self, request: sessions_pb2.GetSessionRequest, context: Context
    ) -> sessions_pb2.Session:
        """The session with a remote cell."""
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        return translate.session(self._sessions.view(remote, self._local(request)))

    async def List(  # noqa: N802
        self, request: sessions_pb2.ListSessionsRequest, context: Context
    ) -> sessions_pb2.ListSessionsResponse:
        """All sessions."""
        found = [translate.session(view) for view in self._sessions.views()]
        for page in self._sessions.static_views():
            found += [translate.session(view) for view in page]
            await asyncio.sleep(0)
        found.sort(key=lambda one: (one.remote_name, one.local.value))
        return sessions_pb2.ListSessionsResponse(sessions=found)

    async def Close(  # noqa: N802
        self, request: sessions_pb2.CloseSessionRequest, context: Context
    ) -> sessions_pb2.CloseSessionResponse:
        """Ends the session with a remote cell."""
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        await self._sessions.close(remote, self._local(request))
        return sessions_pb2.CloseSessionResponse()

    async def ListControlBlocks(  # noqa: N802
        self, request: sessions_pb2.ListControlBlocksRequest, context: Context
    ) -> sessions_pb2.ListControlBlocksResponse:
        """All connections."""
        blocks = [translate.control_block(block) for block in self._sessions.control_blocks()]
        capacity = self._sessions.capacity or 0
        return sessions_pb2.ListControlBlocksResponse(blocks=blocks, capacity=capacity)

    async def OpenFlow(  # noqa: N802
        self, request: sessions_pb2.OpenFlowRequest, context: Context
    ) -> sessions_pb2.FlowHandle:
        """Hands out what it takes to drive a flow, keys among it.

        Who may ask is decided by the socket: its directory (0750) and its mode (0660) let in the
        daemon's own user and the group that was given the API, and nobody else. A caller that came
        in any other way than through that unix socket is refused.
        """
        _require_unix(context)
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        return self._handle(self._sessions.open_flow(remote, self._local(request), flow))

    async def DefineFlow(  # noqa: N802
        self, request: sessions_pb2.DefineFlowRequest, context: Context
    ) -> sessions_pb2.FlowHandle:
        """Agrees with the peer on a flow, and hands it out; to whom OpenFlow does."""
        _require_unix(context)
        wanted = Wanted(
            fields.number("flow", request.flow, 0, FLOW_MAX),
            translate.delivery("delivery", request.delivery),
            translate.flow_class("flow_class", request.flow_class),
            _label(request.label),
        )
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        return self._handle(await self._calls.define(remote, self._local(request), wanted))

    async def AcceptFlows(  # noqa: N802
        self, request: sessions_pb2.AcceptFlowsRequest, context: Context
    ) -> AsyncIterator[sessions_pb2.FlowOffer]:
        """Flows that peers define for this listener, while the call lasts."""
        _require_unix(context)
        local = self._local(request) or self._registry.only_local().id
        remote = self._asked_remote(request)
        with self._calls.listening(local, remote, _label(request.label)) as accepted:
            # The client learns that it is listening before anything is offered.
            await context.send_initial_metadata(())
            async for each in accepted:
                yield self._offer(each)

    async def ReleaseFlow(  # noqa: N802
        self, request: sessions_pb2.ReleaseFlowRequest, context: Context
    ) -> sessions_pb2.ReleaseFlowResponse:
        """This side is done with a flow."""
        _require_unix(context)
        remote = self._registry.remote(translate.cell_ref("remote", request.remote))
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        self._calls.release(remote, self._local(request), flow)
        return sessions_pb2.ReleaseFlowResponse()

    async def WatchSession(  # noqa: N802
        self, request: sessions_pb2.WatchSessionRequest, context: Context
    ) -> AsyncIterator[sessions_pb2.SessionEvent]:
        """What becomes of sessions, from now on."""
        remote = self._asked_remote(request)
        with self._sessions.news.watching(remote, self._local(request)) as watcher:
            # The client learns that it is being served before anything happens.
            await context.send_initial_metadata(())
            while True:
                yield self._event(await watcher.take())

    async def Announce(  # noqa: N802
        self, request: sessions_pb2.AnnounceRequest, context: Context
    ) -> sessions_pb2.AnnounceResponse:
        """Announces to the peer what is about to be sent."""
        ref = translate.cell_ref("remote", request.remote)
        flow = fields.number("flow", request.flow, 1, FLOW_MAX)
        if not 1 <= len(request.items) <= ITEMS_MAX:
            raise InvalidArgument("items", f"needs 1 to {ITEMS_MAX}, got {len(request.items)}")
        items = tuple(_item(f"items[{at}]", item) for at, item in enumerate(request.items))
        remote = self._registry.remote(ref)
        await self._sessions.announce(remote, self._local(request), flow, items)
        return sessions_pb2.AnnounceResponse()

    async def WatchManifests(  # noqa: N802
        self, request: sessions_pb2.WatchManifestsRequest, context: Context
    ) -> AsyncIterator[sessions_pb2.Manifest]:
        """What peers announce, from now on, and what nobody has taken yet."""
        remote = self._asked_remote(request)
        flow = fields.number("flow", request.flow, 0, FLOW_MAX) or None
        # The client learns that it is being served before anything has been announced.
        await context.send_initial_metadata(())
        async with contextlib.aclosing(self._sessions.watch(remote, flow)) as announcements:
            async for announced in announcements:
                yield sessions_pb2.Manifest(
                    remote=translate.cell_id(announced.remote),
                    remote_name=self._registry.remote(announced.remote).name,
                    flow=announced.manifest.flow,
                    items=[
                        sessions_pb2.ManifestItem(
                            name=item.name,
                            size=item.size,
                            digest=item.digest,
                            algorithm=item.algorithm,
                            content_type=item.content_type,
                        )
                        for item in announced.manifest.items
                    ],
                )

    def _offer(self, accepted: Accepted) -> sessions_pb2.FlowOffer:
        handle = self._handle(accepted.opened)
        return sessions_pb2.FlowOffer(
            session=handle.session,
            flow=handle.flow,
            delivery=handle.delivery,
            flow_class=handle.flow_class,
            label=accepted.definition.label,
            handle=handle,
        )

    def _handle(self, opened: OpenedFlow) -> sessions_pb2.FlowHandle:
        return sessions_pb2.FlowHandle(
            session=translate.session(opened.view),
            flow=opened.flow,
            interface=opened.interface,
            local_mac=fields.mac_text(opened.local_mac),
            remote_mac=fields.mac_text(opened.remote_mac),
            mtu=opened.mtu,
            tx_payload_key=opened.tx_payload_key,
            rx_payload_key=opened.rx_payload_key,
            tx_header_key=opened.tx_header_key,
            flow_slot=opened.slot,
            flows_pin=str(self._maps_dir / "flows"),
            sockets_pin=str(self._maps_dir / "sockets"),
            lock_path=str(opened.lock_path),
            rx_blocks_per_second=opened.rx_blocks_per_second,
            delivery=translate.delivery_out(opened.delivery),
            flow_class=translate.flow_class_out(opened.flow_class),
            rtt_ns=opened.rtt,
            grant_shift=opened.grant_shift,
            lamp=opened.lamp,
        )

    def _event(self, news: News) -> sessions_pb2.SessionEvent:
        event = sessions_pb2.SessionEvent(
            kind=translate.news_kind(news.kind),
            local=translate.cell_id(news.local),
            session=news.session,
            flow=news.flow,
            reason=news.reason,
            interface=news.interface,
            local_mac=fields.mac_text(news.mac),
            mtu=news.mtu,
            awaited=news.awaited,
        )
        if news.remote is not None:
            event.remote.CopyFrom(translate.cell_id(news.remote))
            with contextlib.suppress(NotFound):  # its end may be that of the cell
                event.remote_name = self._registry.remote(news.remote).name
        return event

    def _local(
        self,
        request: sessions_pb2.GetSessionRequest
        | sessions_pb2.CloseSessionRequest
        | sessions_pb2.OpenFlowRequest
        | sessions_pb2.DefineFlowRequest
        | sessions_pb2.AcceptFlowsRequest
        | sessions_pb2.ReleaseFlowRequest
        | sessions_pb2.WatchSessionRequest
        | sessions_pb2.AnnounceRequest,
    ) -> CellID | None:
        if not request.HasField("local"):
            return None
        ref: cells_pb2.CellRef = request.local
        return self._registry.local(translate.cell_ref("local", ref)).id

    def _asked_remote(
        self,
        request: sessions_pb2.AcceptFlowsRequest
        | sessions_pb2.WatchSessionRequest
        | sessions_pb2.WatchManifestsRequest,
    ) -> CellID | None:
        if not request.HasField("remote"):
            return None
        return self._registry.remote(translate.cell_ref("remote", request.remote)).id


def _require_unix(context: Context) -> None:
    if not context.peer().startswith(_UNIX):
        raise FailedPrecondition("flows are handed out over the unix socket only")


def _label(label: str) -> str:
    check_text("label", label, 0, MAX_LABEL)
    return label


def _item(field: str, item: sessions_pb2.ManifestItem) -> ManifestItem:
    try:
        content_type = item.content_type or ANY_CONTENT
        return ManifestItem(item.name, item.size, item.digest, item.algorithm, content_type)
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}.{error.field}", error.problem) from None
