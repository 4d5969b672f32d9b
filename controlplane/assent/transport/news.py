# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells of an endpoint's sessions: renewed, ended, moved, left by the peer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from assent.client import ApiError, Client
from assent.naming import cell_ref
from assent.transport.errors import PortError, RenewedError, SessionOverError
from assent.transport.lent_client import LentClient
from assent.v1.sessions_pb2 import SessionEvent, WatchSessionRequest
from assent.wire.cellid import CellID
from assent.wire.ethernet import parse_mac

if TYPE_CHECKING:
    from assent.transport.core import EndpointCore

_RETRY_S: Final = 0.5
_SERVED_S: Final = 2.0


class SessionNews:
    """Reads the daemon's news in a thread of its own, whenever there is a daemon.

    Flows go on without one: what only it knows comes later then.
    """

    def __init__(self, endpoint: EndpointCore, client: Client | LentClient) -> None:
        self._endpoint = endpoint
        self._client = client
        self._stopping = threading.Event()
        self._served = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="assent news", daemon=True)

    def start(self) -> None:
        """Begins, and waits until the daemon tells what happens; not for long, where it is away.

        A peer may leave as soon as it is sent something, and nobody would hear of it.
        """
        self._thread.start()
        self._served.wait(_SERVED_S)

    def stop(self) -> None:
        """Ends, and waits for the end."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()
        self._thread.join()

    def _run(self) -> None:
        request = WatchSessionRequest(local=cell_ref(self._endpoint.local))
        while not self._stopping.is_set():
            try:
                self._stream = self._client.sessions.WatchSession(request)
                if self._stopping.is_set():
                    self._stream.cancel()
                self._stream.initial_metadata()
                self._served.set()
                for event in self._stream:
                    self._take(event)
            except ApiError:
                # Cancelled by us, or the daemon is away.
                self._stopping.wait(_RETRY_S)

    def _take(self, event: SessionEvent) -> None:
        endpoint = self._endpoint
        if event.kind == SessionEvent.KIND_MOVED:  # it is about all sessions, and names no peer
            self._follow(event)
            return
        remote = CellID(event.remote.value)
        match event.kind:
            case SessionEvent.KIND_RENEWED:
                error = RenewedError("the session has been renewed: open the flow anew")
                endpoint.session_over(remote, event.session, error)
            case SessionEvent.KIND_ENDED:
                reason = f": {event.reason}" if event.reason else ""
                endpoint.session_over(remote, 0, SessionOverError(f"the session has ended{reason}"))
            case SessionEvent.KIND_FLOW_CLOSED:
                endpoint.peer_left(remote, event.flow, event.awaited)
            case _:
                pass

    def _follow(self, event: SessionEvent) -> None:
        try:
            self._endpoint.moved(event.interface, parse_mac(event.local_mac))
        except PortError:
            # The new one cannot be used: the ring's own thread says so when it is for good.
            return
