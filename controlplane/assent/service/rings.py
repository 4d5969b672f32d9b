# SPDX-License-Identifier: Apache-2.0
"""Lent rings: where unprivileged applications are handed what they drive their flows with.

Whoever may use the API can drive flows with the gate's own maps. All others ask here. The kernel
says whose process it is (SO_PEERCRED), the configuration what that user may, and a token, which is
good for that user and one cell, that it is meant to. Then it is given a bound socket with the
memory of its frames, and a page with the books of its own flows: see native/lend.h.

What it cannot do: receive what is not for its flows' cell, grant more than its windows, or write
another's books. What it can: send whatever it likes through its socket, which peers' gates judge as
they judge all frames, and read all flows of the sessions that it shares, for a session's keys are
those of all its flows. Applications that must not trust each other therefore need cells of their
own.

A lent ring ends with the daemon, for grants are the daemon's to give.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from assent.dataplane.libbpf import Map
from assent.errors import FailedPrecondition, ResourceExhausted, Unavailable
from assent.service.borrower import Borrower, Lender
from assent.service.config import Application
from assent.service.flow_calls import FlowCalls
from assent.service.loan import Loan
from assent.service.locals import LocalCells
from assent.service.records import StoredSession
from assent.service.session_news import News, NewsKind
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.service.tasks import TaskOwner
from assent.service.tokens import TokenRecord, Tokens
from assent.transport.lines import Lines

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 128
CONNECTIONS_OF_USER_MAX: Final = 64
REFRESH_SECONDS: Final = 1.0

_PEER: Final = struct.Struct("iII")  # struct ucred


class RingService:
    """Lends rings. Use it as an async context manager.

    Args:
        path: Of the socket; None = nobody is lent any.
        applications: Which users may ask, and what for.
        packets: Whether AF_PACKET sockets are lent where AF_XDP cannot be had.
        tokens: Says whose a token is.
        store: Names cells.
        cells: The local cells at work.
        sessions: The live sessions.
        calls: Defines and releases flows.
        lock_path: Of a flow, by session id and flow.
        maps: Where the gate's maps are pinned.
    """

    def __init__(
        self,
        path: Path | None,
        applications: tuple[Application, ...],
        tokens: Tokens,
        store: Store,
        cells: LocalCells,
        sessions: SessionManager,
        calls: FlowCalls,
        lock_path: Callable[[int, int], Path],
        maps: Path,
        *,
        packets: bool,
    ) -> None:
        self._path = path
        self._applications = applications
        self._packets = packets
        self._tokens = tokens
        self._sessions = sessions
        self._maps = maps
        self._stack = contextlib.AsyncExitStack()
        self._borrowers: set[Borrower] = set()
        self._lender = Lender(
            store, cells, sessions, calls, self._admit, self._open_loan, self._is_lent, lock_path
        )
        self._lines: Lines | None = None
        self._sockets: Map | None = None

    async def __aenter__(self) -> Self:
        if self._path is None:
            return self
        try:
            await self._start(self._path)
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

    def rings(self, token: int) -> int:
        """How many rings are lent on a token."""
        return sum(
            borrower.token is not None and borrower.token.id == token
            for borrower in self._borrowers
        )

    def revoke(self, token: int) -> None:
        """Takes back what is lent on a token."""
        for borrower in list(self._borrowers):
            if borrower.token is not None and borrower.token.id == token:
                borrower.cut("its token was revoked")

    async def _start(self, path: Path) -> None:
        stack = self._stack
        self._lines = Lines(self._maps / "flows")
        stack.callback(self._lines.close)
        self._sockets = stack.enter_context(Map.open_pinned(self._maps / "sockets"))
        listener = _listen(path)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(listener.close)
        tasks = await stack.enter_async_context(TaskOwner())
        self._sessions.on_session_over = self._session_over
        self._sessions.news.subscribe(self._hear)
        stack.callback(self._sessions.news.unsubscribe, self._hear)
        stack.callback(self._forget_sessions)
        tasks.start(self._accept(listener, tasks), "lent rings")
        tasks.start(self._refresh(), "lent rings' books")
        log.info("rings are lent", extra={"socket": str(path)})

    def _forget_sessions(self) -> None:
        self._sessions.on_session_over = lambda *_: None

    # Connections

    async def _accept(self, listener: socket.socket, tasks: TaskOwner) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("no connection taken", extra={"reason": error.strerror})
                await asyncio.sleep(REFRESH_SECONDS)
                continue
            connection.setblocking(False)
            _, uid, _ = _PEER.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )
            if not self._has_room(uid):
                log.info("borrower refused", extra={"uid": uid})
                connection.close()
                continue
            borrower = Borrower(connection, uid, self._lender)
            self._borrowers.add(borrower)
            tasks.start(self._serve(borrower), "borrower")

    async def _serve(self, borrower: Borrower) -> None:
        try:
            await borrower.serve()
        except Exception:
            # One borrower's trouble is none of the others'.
            log.exception("borrower failed", extra={"uid": borrower.uid})
        finally:
            self._borrowers.discard(borrower)

    def _has_room(self, uid: int) -> bool:
        """Whether a user may connect: unknown ones may not even wait."""
        mine = sum(borrower.uid == uid for borrower in self._borrowers)
        return (
            any(application.uid == uid for application in self._applications)
            and len(self._borrowers) < CONNECTIONS_MAX
            and mine < CONNECTIONS_OF_USER_MAX
        )

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for borrower in list(self._borrowers):
                borrower.refresh()
                with contextlib.suppress(sqlite3.Error):  # said at the next sweep, and to the API
                    if borrower.token is not None and not self._tokens.is_good(borrower.token):
                        borrower.cut("its token is good no more")

    # What borrowers need

    def _admit(self, token: str, uid: int) -> tuple[TokenRecord, Application]:
        record = self._tokens.check(token, uid)
        cell = self._lender.store.local(record.cell).name
        found = [each for each in self._applications if each.uid == uid and cell in each.cells]
        if not found:
            raise FailedPrecondition(f"this user may not borrow rings of cell {cell!r}")
        application = found[0]
        lent = sum(borrower.application is application for borrower in self._borrowers)
        if lent >= application.rings:
            raise ResourceExhausted(f"this user may have {application.rings} rings at a time")
        return record, application

    def _open_loan(self, interface: str) -> Loan:
        if self._lines is None or self._sockets is None:
            raise Unavailable("no rings are lent")
        return Loan(interface, self._sockets, self._lines, packets=self._packets)

    def _is_lent(self, session: int, flow: int) -> bool:
        return any(borrower.holds(session, flow) for borrower in self._borrowers)

    def _session_over(self, stored: StoredSession, reason: str) -> None:
        for borrower in self._borrowers:
            borrower.session_over(stored, reason)

    def _hear(self, news: News) -> None:
        for borrower in self._borrowers:
            if news.kind is NewsKind.FLOW_CLOSED:
                borrower.flow_closed(news.session, news.flow, news.reason)
            elif news.kind is NewsKind.MOVED and borrower.is_on(news.local):
                borrower.cut("its cell is on another interface now")


def _listen(path: Path) -> socket.socket:
    """A socket that every user may connect to: who may have anything is decided afterwards."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise Unavailable(f"lend_socket: cannot listen on {path}: {error.strerror}") from error
    return listener
