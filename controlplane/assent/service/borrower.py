# SPDX-License-Identifier: Apache-2.0
"""One application that is lent a ring: what it may ask for, and what it holds.

Everything that it has ends with its connection: its flows are taken back and released, its ring is
closed. It may lie on its page, say nonsense, or stop reading; then it is cut off, and that is all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from assent.errors import (
    AlreadyExists,
    AssentError,
    FailedPrecondition,
    InvalidArgument,
    LocalError,
    NotFound,
    RemoteError,
    ResourceExhausted,
    Unavailable,
)
from assent.service import fields
from assent.service.config import Application
from assent.service.flow_calls import FlowCalls
from assent.service.flow_desk import Wanted
from assent.service.handshakes import FLOW_MAX
from assent.service.interfaces import describe
from assent.service.loan import LINES, BusyInterface, Loan
from assent.service.locals import LocalCells
from assent.service.records import RemoteCell, StoredSession
from assent.service.sessions import OpenedFlow, SessionManager
from assent.service.store import Store
from assent.service.tokens import TokenRecord
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.control import MAX_LABEL, Delivery, FlowClass
from assent.wire.control_body import check_text
from assent.wire.lending import (
    MESSAGE_MAX,
    Event,
    LendingError,
    LentFlow,
    LentRing,
    Op,
    decode,
    encode,
    flow_out,
    ring_out,
    take,
)

log = logging.getLogger(__name__)

ASKED_MAX: Final = 16
"""Questions that may be open at a time."""
LISTENS_MAX: Final = 16
BUSY_PAUSES: Final = (0.02, 0.05, 0.1, 0.2)
"""Seconds between tries where an interface has a ring already."""
FIRST_SECONDS: Final = 10.0
"""How long an application may take to show its token."""

_KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (InvalidArgument, "INVALID_ARGUMENT"),
    (AlreadyExists, "ALREADY_EXISTS"),
    (NotFound, "NOT_FOUND"),
    (ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (FailedPrecondition, "FAILED_PRECONDITION"),
    (Unavailable, "UNAVAILABLE"),
    (TimeoutError, "DEADLINE_EXCEEDED"),
)

Message = Mapping[str, object]
Answer = tuple[dict[str, object], tuple[int, ...]]
"""What is answered, and the descriptors that go with it."""


@dataclass(frozen=True, slots=True)
class Lender:
    """What lending takes.

    Attributes:
        store: Names cells.
        cells: The local cells at work.
        sessions: The live sessions.
        calls: Defines and releases flows.
        admit: Who shows this token: what it may, or FailedPrecondition. Counts its rings.
        open_loan: Makes a ring on an interface.
        is_lent: Whether a flow is lent to anybody, by session id and flow.
        lock_path: Of a flow.
    """

    store: Store
    cells: LocalCells
    sessions: SessionManager
    calls: FlowCalls
    admit: Callable[[str, int], tuple[TokenRecord, Application]]
    open_loan: Callable[[str], Loan]
    is_lent: Callable[[int, int], bool]
    lock_path: Callable[[int, int], Path]


@dataclass(frozen=True, slots=True)
class _Held:
    """A flow that is lent.

    `lock`: a descriptor that keeps others from driving it.
    """

    session: int
    flow: int
    remote: RemoteCell
    local: CellID
    lock: int


class Borrower:
    """One connection.

    Args:
        connection: To the application; non-blocking, and owned from here on.
        uid: Its user, as the kernel says.
        lender: What lending takes.
    """

    def __init__(self, connection: socket.socket, uid: int, lender: Lender) -> None:
        self.uid = uid
        self.token: TokenRecord | None = None
        """What it has shown."""
        self.application: Application | None = None
        self._connection = connection
        self._lender = lender
        self._loan: Loan | None = None
        self._local: CellID | None = None
        self._interface = ""
        self._held: dict[int, _Held] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._is_cut = False

    # Its life

    async def serve(self) -> None:
        """Answers until the application goes, or is cut off; then takes all back."""
        try:
            async with asyncio.timeout(FIRST_SECONDS) as first:
                while (raw := await self._receive()) and not self._is_cut:
                    await self._hear(raw)
                    if self._loan is None:
                        break  # it has been told why
                    first.reschedule(None)
        except (TimeoutError, OSError, RemoteError) as error:
            log.info("borrower cut off", extra={"uid": self.uid, "reason": str(error) or "silent"})
        finally:
            await self._close()

    def cut(self, reason: str) -> None:
        """Ends it: it reads the end of its connection."""
        if not self._is_cut:
            self._is_cut = True
            log.info("borrower cut off", extra={"uid": self.uid, "reason": reason})
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def refresh(self) -> None:
        """Brings its page and the gate in step; once a second, whatever it says."""
        if self._loan is not None:
            self._loan.apply()

    def holds(self, session: int, flow: int) -> bool:
        """Whether it is lent a flow."""
        return any((each.session, each.flow) == (session, flow) for each in self._held.values())

    def is_on(self, local: CellID) -> bool:
        """Whether it speaks for a cell of this host."""
        return self._local == local

    def session_over(self, stored: StoredSession, reason: str) -> None:
        """Takes back the flows of a session that is over, while their lines are still theirs."""
        for index, held in list(self._held.items()):
            if held.session == stored.id:
                self._take_back(index)
                self._tell(Event.ENDED, index=index, reason=reason)

    def flow_closed(self, session: int, flow: int, reason: str) -> None:
        """The peer's application is done with a flow."""
        for index, held in self._held.items():
            if (held.session, held.flow) == (session, flow):
                self._tell(Event.CLOSED, index=index, reason=reason)

    async def _close(self) -> None:
        self._is_cut = True
        tasks = [*self._asked, *self._listening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for index in list(self._held):
            self._release(index)
        if self._loan is not None:
            asyncio.get_running_loop().remove_reader(self._loan.info().doorbell)
            self._loan.close()
            self._loan = None
        self._connection.close()

    # Messages

    async def _receive(self) -> bytes:
        raw = await asyncio.get_running_loop().sock_recv(self._connection, MESSAGE_MAX + 1)
        if len(raw) > MESSAGE_MAX:
            raise LendingError(f"a message has at most {MESSAGE_MAX} bytes")
        return raw

    async def _hear(self, raw: bytes) -> None:
        message = decode(raw)
        ask, name = take(message, "ask", int), take(message, "op", str)
        try:
            op = Op(name)
        except ValueError:
            raise LendingError("nothing that can be asked for") from None
        if (op is Op.RING) == (self._loan is not None):
            raise LendingError("a connection has one ring, and first of all")
        if len(self._asked) >= ASKED_MAX:
            raise LendingError(f"more than {ASKED_MAX} questions are open")
        work = self._answer(ask, self._handlers()[op], message)
        if op is Op.RING:
            await work
            return
        task = asyncio.create_task(work, name=f"borrower {op.value}")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def _handlers(self) -> dict[Op, Callable[[Message], Awaitable[Answer]]]:
        return {
            Op.RING: self._on_ring,
            Op.CONNECT: self._on_connect,
            Op.OPEN: self._on_open,
            Op.DEFINE: self._on_define,
            Op.LISTEN: self._on_listen,
            Op.MUTE: self._on_mute,
            Op.RELEASE: self._on_release,
        }

    async def _answer(
        self, ask: int, handler: Callable[[Message], Awaitable[Answer]], message: Message
    ) -> None:
        try:
            said, fds = await handler(message)
        except RemoteError as error:
            # Not of the form that was agreed on: there is nothing to be said to that.
            self.cut(str(error))
        except (LocalError, TimeoutError) as error:
            kind = next(name for each, name in _KINDS if isinstance(error, each))
            self._send({"ask": ask, "error": kind, "message": str(error)})
        except Exception:
            log.exception("borrower's question failed", extra={"uid": self.uid})
            self._send({"ask": ask, "error": "INTERNAL", "message": "see the daemon's log"})
        else:
            self._send({"ask": ask, "ok": said}, fds)

    def _tell(self, event: Event, **values: object) -> None:
        self._send({"event": event.value, **values})

    def _send(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        if self._is_cut:
            return
        try:
            socket.send_fds(self._connection, [encode(message)], list(fds))
        except BlockingIOError:
            self.cut("it does not read what it is told")
        except OSError as error:
            self.cut(error.strerror or "its connection is broken")

    # What it asks for

    async def _on_ring(self, message: Message) -> Answer:
        text, cell = take(message, "token", str), _cell(message, "cell", optional=True)
        token, application = self._lender.admit(text, self.uid)
        local = self._lender.store.local(token.cell)
        if cell not in (None, local.id, local.name):
            raise FailedPrecondition(f"the token is for cell {local.name!r}")
        if local.name not in application.cells:
            raise FailedPrecondition(f"this user may not borrow rings of cell {local.name!r}")
        self._lender.cells.require_gated(local)
        interface = describe(local.interface)
        loan = await self._open_loan(interface.name)
        info = loan.info()
        asyncio.get_running_loop().add_reader(info.doorbell, loan.apply)
        self.token, self.application = token, application
        self._loan, self._local, self._interface = loan, local.id, interface.name
        log.info(
            "ring lent",
            extra={"uid": self.uid, "token": token.id, "cell": local.name, "reason": info.reason},
        )
        ring = LentRing(
            bytes(local.id), interface.name, interface.mac, interface.mtu,
            info.backend, info.zero_copy, LINES, info.reason,
        )  # fmt: skip
        return ring_out(ring), info.fds

    async def _open_loan(self, interface: str) -> Loan:
        """A ring; waits for one that is just being given up."""
        for pause in BUSY_PAUSES:
            with contextlib.suppress(BusyInterface):
                return self._lender.open_loan(interface)
            await asyncio.sleep(pause)
        return self._lender.open_loan(interface)

    async def _on_connect(self, message: Message) -> Answer:
        remote = self._remote(message)
        local = self._lender.store.local(self._own())
        await self._lender.sessions.connect(remote, local, renew=False)
        return {"remote": bytes(remote.id), "name": remote.name}, ()

    async def _on_open(self, message: Message) -> Answer:
        remote, flow = self._remote(message), take(message, "flow", int)
        if flow not in self._allowed().flows:
            raise FailedPrecondition(f"flow: this user may not open flow {flow} by its number")
        opened = self._lender.sessions.open_flow(remote, self._own(), flow)
        return flow_out(self._lend(opened, "")), ()

    async def _on_define(self, message: Message) -> Answer:
        remote, label = self._remote(message), self._label(message)
        try:
            delivery = Delivery(take(message, "delivery", int))
            flow_class = FlowClass(take(message, "class", int))
        except ValueError as error:
            raise LendingError(str(error)) from None
        flow = fields.number("flow", take(message, "flow", int), 0, FLOW_MAX)
        wanted = Wanted(flow, delivery, flow_class, label)
        opened = await self._lender.calls.define(remote, self._own(), wanted)
        try:
            return flow_out(self._lend(opened, label)), ()
        except BaseException:
            self._give_up(remote, opened.flow)
            raise

    async def _on_listen(self, message: Message) -> Answer:
        label = self._label(message)
        remote = self._remote(message).id if "remote" in message else None
        if label in self._listening:
            raise AlreadyExists(f"label: {label!r} is listened for already")
        if len(self._listening) >= LISTENS_MAX:
            raise ResourceExhausted(f"{LISTENS_MAX} labels are listened for already")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        work = self._listen(label, remote, ready)
        self._listening[label] = asyncio.create_task(work, name="borrower listens")
        await ready
        return {}, ()

    async def _on_mute(self, message: Message) -> Answer:
        task = self._listening.pop(self._label(message), None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return {}, ()

    async def _on_release(self, message: Message) -> Answer:
        index = take(message, "index", int)
        if index not in self._held:
            raise NotFound(f"index: no flow is lent at {index}")
        self._release(index)
        return {}, ()

    async def _listen(self, label: str, remote: CellID | None, ready: asyncio.Future[None]) -> None:
        try:
            with self._lender.calls.listening(self._own(), remote, label) as accepted:
                ready.set_result(None)
                async for each in accepted:
                    self._offer(each.opened, label)
        except AssentError as error:
            self._listening.pop(label, None)
            if not ready.done():
                ready.set_exception(error)

    def _offer(self, opened: OpenedFlow, label: str) -> None:
        try:
            lent = self._lend(opened, label)
        except AssentError as error:
            log.warning("offer not lent", extra={"uid": self.uid, "reason": str(error)})
            self._give_up(opened.view.remote, opened.flow)
        else:
            self._tell(Event.OFFER, flow=flow_out(lent), label=label)

    # Lending

    def _lend(self, opened: OpenedFlow, label: str) -> LentFlow:
        """Puts a flow on the page, and sees to it that nobody else drives it."""
        stored, loan = opened.view.stored, self._loan
        if stored is None or loan is None or opened.view.is_static:
            raise FailedPrecondition("flows of static sessions are not lent")
        if opened.interface != self._interface:
            raise FailedPrecondition("the cell is on another interface now: borrow another ring")
        if self._lender.is_lent(stored.id, opened.flow):
            raise FailedPrecondition(f"flow: flow {opened.flow} is lent already")
        remote, local = opened.view.remote, stored.local
        lock = _lock(self._lender.lock_path(stored.id, opened.flow), opened.flow)
        try:
            # Written down first: who is killed from here on must know.
            self._lender.calls.lend(remote, local, opened.flow)
            try:
                index = loan.lend(local, opened.flow, opened.slot)
            except BaseException:
                self._lender.calls.take_back(remote, local, stored.id, opened.flow)
                raise
        except BaseException:
            os.close(lock)
            raise
        self._held[index] = _Held(stored.id, opened.flow, remote, local, lock)
        return LentFlow(
            index=index,
            flow=opened.flow,
            session=stored.id,
            epoch=stored.epoch,
            remote=bytes(remote.id),
            remote_name=remote.name,
            local_mac=opened.local_mac,
            remote_mac=opened.remote_mac,
            mtu=opened.mtu,
            delivery=opened.delivery,
            flow_class=opened.flow_class,
            label=label,
            rtt=opened.rtt,
            lamp=opened.lamp,
            rate=opened.rx_blocks_per_second,
            tx_payload_key=opened.tx_payload_key,
            rx_payload_key=opened.rx_payload_key,
            tx_header_key=opened.tx_header_key,
        )

    def _release(self, index: int) -> None:
        """The application is done with a flow."""
        held = self._held[index]
        self._take_back(index)
        with contextlib.suppress(AssentError):
            self._lender.calls.take_back(held.remote, held.local, held.session, held.flow)
        self._give_up(held.remote, held.flow)

    def _take_back(self, index: int) -> None:
        held = self._held.pop(index)
        if self._loan is not None:
            self._loan.take_back(index)
        os.close(held.lock)

    def _give_up(self, remote: RemoteCell, flow: int) -> None:
        """Says that this side is done; nothing where nothing was agreed, or the session is over."""
        with contextlib.suppress(AssentError):
            self._lender.calls.release(remote, self._own(), flow)

    # What it may

    def _own(self) -> CellID:
        if self._local is None:
            raise LendingError("a ring first")
        return self._local

    def _allowed(self) -> Application:
        if self.application is None:
            raise LendingError("a ring first")
        return self.application

    def _remote(self, message: Message) -> RemoteCell:
        ref = _cell(message, "remote")
        return self._lender.store.remote(ref)

    def _label(self, message: Message) -> str:
        label = take(message, "label", str)
        check_text("label", label, 0, MAX_LABEL)
        if not self._allowed().may_use(label):
            raise FailedPrecondition(f"label: this user may not use {label!r}")
        return label


def _cell(message: Message, key: str, *, optional: bool = False) -> Any:
    """A cell by its id or its name; None where it may be left out, and is."""
    value = message.get(key)
    if value is None and optional:
        return None
    if isinstance(value, bytes):
        return CellID(fields.exact_bytes(key, value, CELLID_LEN))
    return fields.name(key, take(message, key, str))


def _lock(path: Path, flow: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FailedPrecondition(f"flow: flow {flow} is driven by another process") from None
    return fd
