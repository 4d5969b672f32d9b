# SPDX-License-Identifier: Apache-2.0
"""A ring that the daemon lends to an application that may not use its API.

    with LentPort(socket, token) as port:
        name = port.connect("bob")[1]
        flow = port.define("bob", Delivery.ORDERED, FlowClass.STANDARD, "echo")

The port asks and listens; the frames are moved by a ring (ring.py) on the descriptors that it was
given. Any thread may call. Everything that was lent ends with the port, and with the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket as sockets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from assent.client import ApiError
from assent.closing import Closing
from assent.transport.errors import ClosedError
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass
from assent.wire.lending import (
    FDS_MAX,
    MESSAGE_MAX,
    Event,
    LendingError,
    LentFlow,
    LentRing,
    Op,
    decode,
    encode,
    flow_in,
    ring_in,
    take,
)

log = logging.getLogger(__name__)

ANSWER_S: Final = 45.0
"""Longer than a handshake may take, so that it is the daemon that says why one failed."""
ALL: Final = -1
"""The index of an event that is about all flows of a port."""

OnEvent = Callable[[Event, int, str], None]
"""Told what becomes of the flow at an index, and why; in the port's own thread."""


def default_socket() -> Path:
    """Where rings are asked for: $ASSENT_LEND_SOCKET, else that of $ASSENT_INSTANCE."""
    named = os.environ.get("ASSENT_LEND_SOCKET")
    if named:
        return Path(named)
    return Path("/run/assent-rings") / f"{os.environ.get('ASSENT_INSTANCE') or 'default'}.sock"


@dataclass(slots=True)
class _Waiting:
    """Somebody who has asked."""

    done: threading.Event
    answer: dict[str, object] | None = None


class LentListener:
    """Takes the flows that peers define for a label."""

    def __init__(self, port: LentPort, label: str) -> None:
        self._port = port
        self._label = label
        self._offers: queue.SimpleQueue[LentFlow | None] = queue.SimpleQueue()

    def take(self, timeout_s: float | None = None) -> LentFlow | None:
        """The next flow; None when time is up.

        Raises:
            ClosedError: the port has been closed, or the daemon is gone.
        """
        try:
            offer = self._offers.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if offer is None:
            self._offers.put(None)  # for whoever else waits
            raise ClosedError("the daemon lends no more")
        return offer

    def put(self, offer: LentFlow | None) -> None:
        """Hands over a flow; None = there will be no more."""
        self._offers.put(offer)

    def close(self) -> None:
        """Listens no more; flows that nobody has taken are given back. Idempotent."""
        self._port.mute(self._label)
        with contextlib.suppress(queue.Empty, ApiError, ClosedError):
            while (offer := self._offers.get_nowait()) is not None:
                self._port.release(offer.index)


class LentPort(Closing):
    """A connection to the daemon, and the ring that it lends over it.

    Args:
        socket: the daemon's; see `default_socket`.
        token: what an administrator has made with `assent tokens create`.
        cell: to be sure of; None = whichever the token is for.

    Raises:
        ApiError: nobody lends there, or not to this process.
    """

    def __init__(self, socket: Path, token: str, cell: CellID | str | None = None) -> None:
        self.on_event: OnEvent = lambda event, index, reason: None
        self._guard = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._listeners: dict[str, LentListener] = {}
        self._last_ask = 0
        self._fds_are_ours = True
        self._is_over = False
        self._connection = _connect(socket)
        try:
            self.ring, self.lent_fds, self.doorbell = self._borrow(token, cell)
        except BaseException:
            self._connection.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="assent lent ring", daemon=True)
        self._thread.start()

    @property
    def local(self) -> CellID:
        """The cell that the ring is for."""
        return CellID(self.ring.local)

    def handed_over(self) -> None:
        """The descriptors are the ring's from now on."""
        self._fds_are_ours = False

    # What it may ask for

    def connect(self, remote: CellID | str) -> tuple[CellID, str]:
        """The session with a remote cell; shakes hands where there is none.

        Returns:
            Its id and its name on this host.

        Raises:
            ApiError: the daemon cannot.
        """
        said = self._ask(Op.CONNECT, remote=_named(remote))
        return CellID(take(said, "remote", bytes)), take(said, "name", str)

    def open_flow(self, remote: CellID | str, flow: int) -> LentFlow:
        """A flow by its number; nothing is agreed with the peer.

        Raises:
            ApiError: it cannot be had, or may not be.
        """
        return flow_in(self._ask(Op.OPEN, remote=_named(remote), flow=flow))

    def define(
        self,
        remote: CellID | str,
        delivery: Delivery,
        flow_class: FlowClass,
        label: str,
        flow: int = 0,
    ) -> LentFlow:
        """Agrees with a listener of the peer on a flow; 0 = any that is free.

        Raises:
            ApiError: nobody listens for that there, or it may not be had.
        """
        wanted = {"delivery": int(delivery), "class": int(flow_class), "label": label}
        return flow_in(self._ask(Op.DEFINE, remote=_named(remote), flow=flow, **wanted))

    def listen(self, label: str, remote: CellID | str | None = None) -> LentListener:
        """Listens for flows that peers define for a label.

        Raises:
            ApiError: it may not, or does already.
        """
        listener = LentListener(self, label)
        with self._guard:
            if label in self._listeners:
                raise ApiError("ALREADY_EXISTS", f"label: {label!r} is listened for already")
            self._listeners[label] = listener
        try:
            only = {} if remote is None else {"remote": _named(remote)}
            self._ask(Op.LISTEN, label=label, **only)
        except BaseException:
            self._listeners.pop(label, None)
            raise
        return listener

    def mute(self, label: str) -> None:
        """Listens for a label no more. Idempotent."""
        if self._listeners.pop(label, None) is not None:
            with contextlib.suppress(ApiError, ClosedError):
                self._ask(Op.MUTE, label=label)

    def release(self, index: int) -> None:
        """Gives a flow back; its ring must have let it go.

        Raises:
            ApiError: no flow is lent there.
        """
        self._ask(Op.RELEASE, index=index)

    def close(self) -> None:
        """Gives everything back. Idempotent."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(sockets.SHUT_RDWR)
        if self._thread is not threading.current_thread():
            self._thread.join()
        with self._guard:
            doorbell, self.doorbell = self.doorbell, -1
        if doorbell >= 0:
            os.close(doorbell)
            self._connection.close()
            for fd in self.lent_fds if self._fds_are_ours else ():
                if fd >= 0:
                    os.close(fd)

    # Messages

    def _borrow(
        self, token: str, cell: CellID | str | None
    ) -> tuple[LentRing, tuple[int, int, int, int], int]:
        """Shows the token; nothing else is said before that is answered."""
        request: dict[str, object] = {"ask": 0, "op": Op.RING.value, "token": token}
        if cell is not None:
            request["cell"] = _named(cell)
        self._connection.settimeout(ANSWER_S)
        fds: list[int] = []
        try:
            self._connection.send(encode(request))
            raw, fds, _, _ = sockets.recv_fds(self._connection, MESSAGE_MAX, FDS_MAX)
            ring = ring_in(_checked(decode(raw) if raw else None))
            if len(fds) not in (FDS_MAX - 1, FDS_MAX):
                raise LendingError("a ring comes with four or five descriptors")
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError):
                raise ApiError("UNAVAILABLE", "the daemon lends nothing to this user") from None
            raise
        self._connection.settimeout(None)
        socket, *umem, bell, page, doorbell = fds
        return ring, (socket, umem[0] if umem else -1, bell, page), doorbell

    def _ask(self, op: Op, **values: object) -> dict[str, object]:
        waiting = _Waiting(threading.Event())
        with self._guard:
            if self._is_over:
                raise ClosedError("the daemon lends no more")
            self._last_ask += 1
            ask = self._last_ask
            self._waiting[ask] = waiting
        try:
            self._connection.send(encode({"ask": ask, "op": op.value, **values}))
            if not waiting.done.wait(ANSWER_S):
                raise ApiError("DEADLINE_EXCEEDED", "the daemon does not answer")
        except OSError:
            raise ClosedError("the daemon lends no more") from None
        finally:
            with self._guard:
                self._waiting.pop(ask, None)
        return _checked(waiting.answer)

    def _listen(self) -> None:
        """Reads what the daemon says, until it ends."""
        try:
            while raw := self._connection.recv(MESSAGE_MAX):
                self._hear(decode(raw))
        except (OSError, LendingError) as error:
            log.debug("lent ring is over: %s", error)
        with self._guard:
            self._is_over = True
            waiting = list(self._waiting.values())
            listeners = list(self._listeners.values())
        for each in waiting:
            each.done.set()
        for listener in listeners:
            listener.put(None)
        self.on_event(Event.ENDED, ALL, "the daemon lends no more")

    def _hear(self, message: Mapping[str, object]) -> None:
        if "ask" in message:
            with self._guard:
                waiting = self._waiting.get(take(message, "ask", int))
            if waiting is not None:
                waiting.answer = dict(message)
                waiting.done.set()
            return
        event = Event(take(message, "event", str))
        if event is not Event.OFFER:
            self.on_event(event, take(message, "index", int), take(message, "reason", str))
            return
        flow = flow_in(take(message, "flow", dict))
        with self._guard:
            listener = self._listeners.get(take(message, "label", str))
        if listener is not None:
            listener.put(flow)


def _connect(path: Path) -> sockets.socket:
    connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise ApiError("UNAVAILABLE", f"no rings are lent at {path}: {error.strerror}") from None
    return connection


def _checked(answer: Mapping[str, object] | None) -> dict[str, Any]:
    if answer is None:
        raise ClosedError("the daemon lends no more")
    if "error" in answer:
        raise ApiError(take(answer, "error", str), take(answer, "message", str))
    return take(answer, "ok", dict)


def _named(cell: CellID | str) -> bytes | str:
    return bytes(cell) if isinstance(cell, CellID) else cell
