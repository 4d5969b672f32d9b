# SPDX-License-Identifier: Apache-2.0
"""Waiting for the flows that peers define."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from assent.client import ApiError
from assent.naming import cell_ref
from assent.v1.sessions_pb2 import AcceptFlowsRequest, FlowOffer
from assent.wire.cellid import CellID

if TYPE_CHECKING:
    from assent.transport.core import EndpointCore

_RETRY_S: Final = 0.5
# How a stream ends whose daemon goes; it will be back.
_PASSING: Final = frozenset({"UNAVAILABLE", "CANCELLED"})

Arrival: TypeAlias = FlowOffer | ApiError


class Listening:
    """The daemon's offers, read in a thread of its own.

    Args:
        endpoint: whose cell is defined flows for.
        label: which flows.
        remote: of which remote cell; None = of all.
        deliver: gets each offer; and, as the last, why there are no more.
    """

    def __init__(
        self,
        endpoint: EndpointCore,
        label: str,
        remote: CellID | str | None,
        deliver: Callable[[Arrival], None],
    ) -> None:
        self._endpoint = endpoint
        self._request = AcceptFlowsRequest(
            local=cell_ref(endpoint.local),
            remote=None if remote is None else cell_ref(remote),
            label=label,
        )
        self._deliver = deliver
        self._stopping = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="assent offers", daemon=True)

    def start(self) -> None:
        """Listens from now on.

        Raises:
            ApiError: the daemon will not have it.
        """
        self._listen()
        self._thread.start()

    def stop(self) -> None:
        """Listens no more. Idempotent."""
        self._stopping.set()
        if self._stream is not None:
            self._stream.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _listen(self) -> None:
        self._stream = self._endpoint.client.sessions.AcceptFlows(self._request)
        # The daemon answers with its metadata as soon as it listens for us.
        self._stream.initial_metadata()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                for offer in self._stream:
                    self._deliver(offer)
            except ApiError as error:
                if error.code not in _PASSING:
                    self._deliver(error)
                    return
            self._stopping.wait(_RETRY_S)
            if not self._stopping.is_set():
                self._stream = self._endpoint.client.sessions.AcceptFlows(self._request)
