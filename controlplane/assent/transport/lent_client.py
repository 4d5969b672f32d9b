# SPDX-License-Identifier: Apache-2.0
"""The daemon as an application without privileges sees it: what an endpoint asks, of a lent port.

An endpoint asks the API. Where that is not permitted, the same questions are answered from here,
over the socket where rings are lent; the ring's own lines and locks are the daemon's business.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from assent import _native
from assent.client import ApiError, Client, resolve_socket
from assent.errors import InvalidArgument
from assent.naming import cell_ref
from assent.transport.errors import ClosedError
from assent.transport.lent import ALL, LentListener, LentPort, default_socket
from assent.transport.ring import Ring
from assent.v1.cells_pb2 import Cell, CellRef, ListCellsRequest, ListCellsResponse
from assent.v1.common_pb2 import CellId
from assent.v1.sessions_pb2 import (
    AcceptFlowsRequest,
    ConnectRequest,
    DefineFlowRequest,
    FlowHandle,
    FlowOffer,
    GetSessionRequest,
    OpenFlowRequest,
    ReleaseFlowRequest,
    ReleaseFlowResponse,
    Session,
    SessionEvent,
    SessionState,
    WatchSessionRequest,
)
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass
from assent.wire.lending import Event, LentFlow

_ffi: Any = _native.ffi
_lib: Any = _native.lib

_VARIABLE: Final = "ASSENT_TOKEN"
_FILE_VARIABLE: Final = "ASSENT_TOKEN_FILE"


def open_client(socket: Path | None, token: str | None, cell: CellID | str | None) -> Any:
    """The daemon's API; or a lent port, where a token is given or the API is not permitted.

    Args:
        socket: of the API, or, with a token, where rings are lent; None = the usual one.
        token: None where the environment decides.
        cell: that the endpoint is for; None = the only one.

    Raises:
        ApiError: no ring is lent.
        InvalidArgument: the environment's token cannot be read.
    """
    if isinstance(cell, str) and (ref := cell_ref(cell)).WhichOneof("ref") == "id":
        cell = CellID(ref.id.value)
    if token is not None:
        return LentClient(LentPort(socket or default_socket(), token, cell), cell)
    path = resolve_socket(socket)
    if os.access(path, os.W_OK):
        return Client(path)
    token = _token_of_environment()
    if token is None:
        return Client(path)
    return LentClient(LentPort(default_socket(), token, cell), cell)


def _token_of_environment() -> str | None:
    if os.environ.get(_VARIABLE):
        return os.environ[_VARIABLE].strip()
    if not os.environ.get(_FILE_VARIABLE):
        return None
    try:
        return Path(os.environ[_FILE_VARIABLE]).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InvalidArgument(_FILE_VARIABLE, "cannot be read") from None


class LentClient:
    """A lent port in the API's place, as far as endpoints need it.

    Args:
        port: owned from here on.
        cell: as it was asked for.
    """

    def __init__(self, port: LentPort, cell: CellID | str | None) -> None:
        self.port = port
        self.cells = _Cells(port, cell if isinstance(cell, str) else "")
        self.sessions = _Sessions(port)

    def close(self) -> None:
        """Gives everything back."""
        self.port.close()


class LentLock:
    """In the place of a flow's lock: the daemon holds that while it lends."""

    def __init__(self, client: LentClient, index: int) -> None:
        self._client = client
        self._index = index

    def release(self) -> None:
        """Gives the flow back."""
        self._client.sessions.give_back(self._index)


class LentLines:
    """The page of a lent ring, in the place of the gate's lines."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def native(self, index: int) -> Any:
        """A flow's line, as cffi knows it."""
        return _ffi.cast("uint8_t *", _lib.an_ring_lent_line(self._ring.handle, index))

    def credit(self, index: int) -> int:
        """Blocks of 64 bytes that may be sent on a flow now."""
        return int(_lib.an_line_credit(self.native(index)))

    def close(self) -> None:
        """Nothing: the page is the ring's."""


class _Cells:
    def __init__(self, port: LentPort, name: str) -> None:
        self._port = port
        self._name = name

    def List(self, request: ListCellsRequest) -> ListCellsResponse:  # noqa: N802
        """The one cell that the ring is for."""
        ring = self._port.ring
        cell = Cell(id=CellId(value=ring.local), name=self._name, local=True)
        cell.interface = ring.interface
        return ListCellsResponse(cells=[cell])


class _Sessions:
    def __init__(self, port: LentPort) -> None:
        self._port = port
        self._flows: dict[int, LentFlow] = {}
        self._events: queue.SimpleQueue[tuple[Event, int, str] | None] = queue.SimpleQueue()
        port.on_event = lambda event, index, reason: self._events.put((event, index, reason))

    def Connect(self, request: ConnectRequest) -> Session:  # noqa: N802
        """Shakes hands where there is no session."""
        remote, name = self._port.connect(_named(request.remote))
        return Session(
            remote=CellId(value=bytes(remote)),
            remote_name=name,
            local=CellId(value=self._port.ring.local),
            state=SessionState.SESSION_STATE_ESTABLISHED,
        )

    def Get(self, request: GetSessionRequest) -> Session:  # noqa: N802
        """Sessions are not shown to borrowers: they are told when one ends."""
        raise ApiError("PERMISSION_DENIED", "a borrower is not shown sessions", "Sessions")

    def OpenFlow(self, request: OpenFlowRequest) -> FlowHandle:  # noqa: N802
        """A flow by its number."""
        return self._handle(self._port.open_flow(_named(request.remote), request.flow))

    def DefineFlow(self, request: DefineFlowRequest) -> FlowHandle:  # noqa: N802
        """A flow that is agreed on with the peer."""
        lent = self._port.define(
            _named(request.remote),
            # The API's numbers begin with "unspecified".
            Delivery(max(request.delivery - 1, 0)),
            FlowClass(request.flow_class - 1) if request.flow_class else FlowClass.STANDARD,
            request.label,
            request.flow,
        )
        return self._handle(lent)

    def ReleaseFlow(self, request: ReleaseFlowRequest) -> ReleaseFlowResponse:  # noqa: N802
        """Nothing more: a flow is given back with its lock."""
        return ReleaseFlowResponse()

    def AcceptFlows(self, request: AcceptFlowsRequest) -> _Offers:  # noqa: N802
        """Flows that peers define for a label."""
        remote = _named(request.remote) if request.HasField("remote") else None
        try:
            return _Offers(self, self._port.listen(request.label, remote))
        except ClosedError as error:
            raise ApiError("FAILED_PRECONDITION", str(error), "Sessions") from None

    def WatchSession(self, request: WatchSessionRequest) -> _News:  # noqa: N802
        """What becomes of the flows that are lent."""
        return _News(self, self._events)

    def give_back(self, index: int) -> None:
        """The flow at an index is not driven any more. Idempotent."""
        if self._flows.pop(index, None) is not None:
            try:
                self._port.release(index)
            except (ApiError, ClosedError):
                return  # it has been taken back

    def offer(self, lent: LentFlow) -> FlowOffer:
        """A flow that a peer has defined, as the API would say it."""
        handle = self._handle(lent)
        return FlowOffer(
            session=handle.session,
            flow=handle.flow,
            delivery=handle.delivery,
            flow_class=handle.flow_class,
            label=lent.label,
            handle=handle,
        )

    def events(self, event: Event, index: int, reason: str) -> Iterator[SessionEvent]:
        """What was told, as the API would say it."""
        flows = list(self._flows.values()) if index == ALL else [self._flows.get(index)]
        for lent in flows:
            if lent is None:
                continue
            if event is Event.ENDED:
                self._flows.pop(lent.index, None)
            yield SessionEvent(
                kind=(
                    SessionEvent.KIND_ENDED
                    if event is Event.ENDED
                    else SessionEvent.KIND_FLOW_CLOSED
                ),
                local=CellId(value=self._port.ring.local),
                remote=CellId(value=lent.remote),
                remote_name=lent.remote_name,
                session=lent.session,
                flow=lent.flow,
                reason=reason,
            )

    def _handle(self, lent: LentFlow) -> FlowHandle:
        self._flows[lent.index] = lent
        ring = self._port.ring
        return FlowHandle(
            session=Session(
                id=lent.session,
                local=CellId(value=ring.local),
                remote=CellId(value=lent.remote),
                remote_name=lent.remote_name,
                epoch=lent.epoch,
                state=SessionState.SESSION_STATE_ESTABLISHED,
            ),
            flow=lent.flow,
            interface=ring.interface,
            local_mac=lent.local_mac.hex(":"),
            remote_mac=lent.remote_mac.hex(":"),
            mtu=lent.mtu,
            tx_payload_key=lent.tx_payload_key,
            rx_payload_key=lent.rx_payload_key,
            tx_header_key=lent.tx_header_key,
            flow_slot=lent.index,
            rx_blocks_per_second=lent.rate,
            delivery=lent.delivery + 1,  # type: ignore[arg-type]
            flow_class=lent.flow_class + 1,  # type: ignore[arg-type]
            rtt_ns=lent.rtt,
            lamp=lent.lamp,
        )


class _Offers:
    """A listener, as a stream of the API."""

    def __init__(self, sessions: _Sessions, listener: LentListener) -> None:
        self._sessions = sessions
        self._listener = listener
        self._is_over = False

    def initial_metadata(self) -> None:
        """Listening already."""

    def cancel(self) -> None:
        """Listens no more."""
        self._is_over = True
        self._listener.close()
        self._listener.put(None)

    def __iter__(self) -> Iterator[FlowOffer]:
        while True:
            try:
                lent = self._listener.take()
            except ClosedError as error:
                if self._is_over:
                    return
                raise ApiError("FAILED_PRECONDITION", str(error), "Sessions") from None
            if lent is not None:
                yield self._sessions.offer(lent)


class _News:
    """What the port tells, as a stream of the API."""

    def __init__(
        self, sessions: _Sessions, told: queue.SimpleQueue[tuple[Event, int, str] | None]
    ) -> None:
        self._sessions = sessions
        self._told = told

    def initial_metadata(self) -> None:
        """Told of everything already."""

    def cancel(self) -> None:
        """Watches no more."""
        self._told.put(None)

    def __iter__(self) -> Iterator[SessionEvent]:
        while (told := self._told.get()) is not None:
            yield from self._sessions.events(*told)


def _named(ref: CellRef) -> CellID | str:
    return CellID(ref.id.value) if ref.WhichOneof("ref") == "id" else ref.name
