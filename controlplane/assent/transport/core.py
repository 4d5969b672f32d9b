# SPDX-License-Identifier: Apache-2.0
"""What an endpoint, a connection and a flow do, whichever way their caller waits.

    Endpoint   a local cell on its interface: one ring, the thread that drives it (driver.py), and
               the daemon's news of its sessions (news.py)
    Connection the session with one remote cell; flows are opened on it
    Flow       messages, both ways

Operations are generators of steps (steps.py); aio.py and blocking.py go through them. On one flow
at a time one operation sends and one receives: both flavours see to that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from assent import _native
from assent.client import ApiError, Client
from assent.dataplane.libbpf import Map
from assent.errors import FailedPrecondition, InvalidArgument
from assent.naming import cell_ref
from assent.transport.access import FlowAccess, access_of
from assent.transport.driver import Driver
from assent.transport.errors import (
    ClosedError,
    EndedError,
    FlowError,
    MessageTooLongError,
    PortError,
    WouldBlockError,
)
from assent.transport.lent_client import LentClient, LentLines, LentLock, open_client
from assent.transport.lines import Lines
from assent.transport.news import SessionNews
from assent.transport.ring import (
    Backend,
    FlowStats,
    Lengths,
    PortConfig,
    PortInfo,
    Ready,
    Ring,
    RingFlow,
    Room,
    Spans,
)
from assent.transport.steps import Call, Pause, Progress, Pull, Push, Steps, Turn, Until
from assent.v1.cells_pb2 import CellRef, ListCellsRequest
from assent.v1.sessions_pb2 import (
    ConnectRequest,
    DefineFlowRequest,
    FlowHandle,
    FlowOffer,
    GetSessionRequest,
    OpenFlowRequest,
    ReleaseFlowRequest,
    SessionState,
)
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass

if TYPE_CHECKING:
    from typing_extensions import Buffer

_lib: Any = _native.lib

DEFAULT_FLOW: Final = 1
"""What a connection sends and receives on by itself; both sides open it, nothing is agreed."""
MESSAGE_LIMIT: Final = 64 << 20
"""Bytes of the longest message that `recv` puts together, unless it is told otherwise."""

_LOCK_TRIES: Final = 4
_LOCK_RETRY_S: Final = 0.003
_SCRATCH_LEN: Final = 64 << 10
_MANY_LEN: Final = 1 << 20
_MANY: Final = 65_536
_PATIENCE_S: Final = 1.0
_PATIENCE_RTTS: Final = 4
_QUIET_S: Final = 0.02
_QUIET_RTTS: Final = 3
_LINGER_ROUNDS: Final = 50

_scratch = threading.local()


def _scratch_room() -> tuple[bytearray, Room]:
    """This thread's memory for messages that are copied out at once."""
    if not hasattr(_scratch, "room"):
        _scratch.memory = bytearray(_SCRATCH_LEN)
        _scratch.room = Room(_scratch.memory)
    return _scratch.memory, _scratch.room


class FlowLock:
    """The right to drive a flow: a file that one process at a time has locked.

    Raises:
        FailedPrecondition: another has it.
    """

    def __init__(self, path: Path, flow: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not any(self._try() for _ in range(_LOCK_TRIES)):
            os.close(self._fd)
            raise FailedPrecondition(f"flow {flow} is driven by another process (it holds {path})")

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The daemon looks at locks now and then, which takes it no longer than that.
            time.sleep(_LOCK_RETRY_S)
            return False
        return True

    def release(self) -> None:
        """Gives it back."""
        os.close(self._fd)


class EndpointCore:
    """A local cell's ring in this process.

    Args:
        local: the cell of this host; None where it has one alone.
        interface: to be sure of; None = whichever the cell is on.
        socket: the daemon's; None where the environment decides.
        port: what the ring is to be, but for its interface.
        token: to be lent a ring; None where the environment decides.
    """

    def __init__(
        self,
        local: CellID | str | None,
        interface: str | None,
        socket: Path | None,
        port: PortConfig,
        token: str | None = None,
    ) -> None:
        self._token = token
        self._named = local
        self._interface = interface
        self._socket = socket
        self._port = port
        self._guard = threading.RLock()
        self._flows: dict[tuple[CellID, int], FlowCore] = {}
        self._client: Client | LentClient | None = None
        self._ring: Ring | None = None
        self._sockets: Map | None = None
        self._lines: Lines | LentLines | None = None
        self._driver: Driver | None = None
        self._news: SessionNews | None = None
        self._local: CellID | None = None
        self.failure: FlowError | None = None
        # Told when something has become of a flow that its ring does not know of.
        self.on_news: Callable[[FlowCore], None] = lambda flow: None

    # Its life

    def open(self) -> Steps[None]:
        """Finds the cell; the ring is opened with the first flow."""
        if self._client is not None:
            raise FailedPrecondition("this endpoint is open already")
        self._client = yield Call(lambda: open_client(self._socket, self._token, self._named))
        self._local = yield Call(self._find_local)

    def close(self) -> None:
        """Lets all flows go as they are, and then everything else. Idempotent."""
        for flow in self.flows():
            flow.release()
        if self._driver is not None:
            self._driver.stop()
        if self._news is not None:
            self._news.stop()
        with self._guard:
            for owned in (self._ring, self._lines, self._sockets, self._client):
                if owned is not None:
                    owned.close()
            self._ring = self._lines = self._sockets = self._client = None

    @property
    def client(self) -> Client | LentClient:
        """The daemon.

        Raises:
            ClosedError: the endpoint is not open.
        """
        if self._client is None:
            raise ClosedError("this endpoint is not open")
        return self._client

    @property
    def local(self) -> CellID:
        """The cell of this host.

        Raises:
            ClosedError: the endpoint has not been opened.
        """
        if self._local is None:
            raise ClosedError("this endpoint is not open")
        return self._local

    @property
    def ring(self) -> Ring:
        """The ring.

        Raises:
            ClosedError: there is none: the endpoint is closed, or has had no flow yet.
        """
        if self._ring is None:
            raise ClosedError("this endpoint has no flow open")
        return self._ring

    def info(self) -> PortInfo | None:
        """What the ring is; None before the first flow is opened."""
        with self._guard:
            return None if self._ring is None else self._ring.info()

    def flows(self) -> list[FlowCore]:
        """The flows that are open."""
        with self._guard:
            return list(self._flows.values())

    # Connections

    def connect(self, cell: CellID | str) -> Steps[ConnectionCore]:
        """The session with a remote cell; shakes hands where there is none.

        Raises:
            ApiError: the daemon cannot.
        """
        request = ConnectRequest(remote=cell_ref(cell), local=cell_ref(self.local))
        session = yield Call(lambda: self.client.sessions.Connect(request))
        return ConnectionCore(self, CellID(session.remote.value), session.remote_name)

    def accept(self, offer: FlowOffer) -> Steps[FlowCore]:
        """Drives a flow that a peer has defined.

        Raises:
            FailedPrecondition: it cannot be used.
        """
        flow: FlowCore = yield Call(lambda: self.attach(offer.handle, offer.label))
        return flow

    def attach(self, handle: FlowHandle, label: str | None = None) -> FlowCore:
        """Drives a flow that the daemon has handed out.

        Args:
            handle: from the daemon.
            label: what it was defined for; None where it was not.

        Raises:
            FailedPrecondition: another process drives it, or it cannot be used.
            PortError: the interface cannot be used.
        """
        access = access_of(handle)
        if self._interface not in (None, access.interface):
            raise FailedPrecondition(
                f"the cell is on {access.interface}, and not on {self._interface}"
            )
        with self._guard, contextlib.ExitStack() as undo:
            lock: FlowLock | LentLock
            doorbell = -1
            if isinstance(self.client, LentClient):
                lock, doorbell = LentLock(self.client, access.slot), self.client.port.doorbell
            else:
                lock = FlowLock(access.lock_path, access.flow)
            undo.callback(lock.release)
            ring, lines = self._ring_for(access)
            driven = ring.add(access, lines.native(access.slot), doorbell)
            undo.pop_all()
            flow = FlowCore(self, access, driven, lines, lock, label)
            self._flows[access.remote, access.flow] = flow
        return flow

    def detach(self, flow: FlowCore) -> None:
        """Forgets a flow that has been let go."""
        with self._guard:
            self._flows.pop((flow.access.remote, flow.access.flow), None)

    # What the driver and the news tell

    def fail(self, error: FlowError) -> None:
        """The port is broken for good."""
        self.failure = error
        for flow in self.flows():
            self.on_news(flow)

    def moved(self, interface: str, local_mac: bytes) -> None:
        """The cell is on another interface now: the ring follows.

        Raises:
            PortError: it cannot be used yet.
        """
        with self._guard:
            if self._ring is not None:
                config = self._config(interface)
                self._ring.move(config, local_mac)
                self._port = config

    def session_over(self, remote: CellID, session: int, error: FlowError) -> None:
        """A session has ended, or another one has taken its place.

        Args:
            remote: the peer.
            session: the only one that there is now; 0 = none.
            error: for those who use a flow of another.
        """
        for flow in self.flows():
            if flow.access.remote == remote and flow.access.session != session:
                flow.failure = flow.failure or error
                self.on_news(flow)

    def peer_left(self, remote: CellID, number: int, awaited: int) -> None:
        """The peer's application is done with a flow.

        Args:
            remote: the peer.
            number: of the flow.
            awaited: all numbers before this one were consumed there; 0 = not known.
        """
        with self._guard:
            flow = self._flows.get((remote, number))
            if flow is None or self._ring is None:
                return
            # What it sent before it left, its last receipts among it, came before this word.
            self._ring.catch_up()
            if awaited:
                flow.ring.taken(awaited)
            flow.departed = True
        self.on_news(flow)

    # Inside

    def _find_local(self) -> CellID:
        cells = self.client.cells.List(ListCellsRequest()).cells
        here = [cell for cell in cells if cell.local]
        if self._named is not None:
            ref = cell_ref(self._named)
            here = [cell for cell in here if ref in (CellRef(id=cell.id), CellRef(name=cell.name))]
            if not here:
                raise InvalidArgument("local", f"no cell of this host is {self._named}")
        if len(here) != 1:
            raise InvalidArgument("local", f"this host has {len(here)} cells: name one of them")
        return CellID(here[0].id.value)

    def _ring_for(self, access: FlowAccess) -> tuple[Ring, Lines | LentLines]:
        if self._ring is not None and self._lines is not None:
            if self._port.interface != access.interface:
                self.moved(access.interface, access.local_mac)
            return self._ring, self._lines
        if isinstance(self.client, LentClient):
            self._port = replace(self._config(access.interface), lent=self.client.port.lent_fds)
            self._ring = Ring(self._port)
            self.client.port.handed_over()
            self._lines = LentLines(self._ring)
        else:
            with contextlib.ExitStack() as undo:
                self._lines = Lines(access.flows_pin)
                undo.callback(self._lines.close)
                self._sockets = Map.open_pinned(access.sockets_pin)
                undo.callback(self._sockets.close)
                self._port = self._config(access.interface)
                self._ring = Ring(self._port)
                undo.pop_all()
        self._driver = Driver(self._ring, self.fail)
        self._driver.start()
        self._news = SessionNews(self, self.client)
        self._news.start()
        return self._ring, self._lines

    def _config(self, interface: str) -> PortConfig:
        sockets = -1 if self._sockets is None else self._sockets.fd
        return PortConfig(
            interface,
            self._port.queue,
            sockets,
            self._port.backend,
            self._port.busy_poll_us,
            self._port.spin_us,
        )


class ConnectionCore:
    """The session with a remote cell, as one endpoint uses it.

    Attributes:
        remote: the peer.
        name: what this host calls it.
    """

    def __init__(self, endpoint: EndpointCore, remote: CellID, name: str) -> None:
        self._endpoint = endpoint
        self.remote = remote
        self.name = name

    def flow(self, number: int) -> Steps[FlowCore]:
        """Opens a flow by its number; nothing is agreed with the peer, which does the same.

        Raises:
            ApiError: the session has no such flow.
            FailedPrecondition: another process drives it, or it cannot be used.
        """
        endpoint = self._endpoint
        request = OpenFlowRequest(remote=self._ref(), local=cell_ref(endpoint.local), flow=number)
        flow: FlowCore = yield Call(
            lambda: endpoint.attach(endpoint.client.sessions.OpenFlow(request))
        )
        return flow

    def open_flow(
        self, delivery: Delivery, flow_class: FlowClass, label: str, number: int = 0
    ) -> Steps[FlowCore]:
        """Agrees with a listener of the peer on a flow.

        Args:
            delivery: what it promises of its messages.
            flow_class: its priority at both ends.
            label: which listener.
            number: 0 = any that is free.

        Raises:
            ApiError: nobody listens for that there, or no flow is free.
        """
        endpoint = self._endpoint
        request = DefineFlowRequest(
            remote=self._ref(),
            local=cell_ref(endpoint.local),
            flow=number,
            # The API's numbers begin with "unspecified".
            delivery=delivery + 1,  # type: ignore[arg-type]
            flow_class=flow_class + 1,  # type: ignore[arg-type]
            label=label,
        )
        flow: FlowCore = yield Call(
            lambda: endpoint.attach(endpoint.client.sessions.DefineFlow(request), label)
        )
        return flow

    def can_reopen(self, flow: FlowCore) -> Steps[bool]:
        """Whether a flow whose session is over may be opened anew, and nothing is lost by that."""
        if flow.may_be_lost:
            return False
        endpoint = self._endpoint
        request = GetSessionRequest(remote=self._ref(), local=cell_ref(endpoint.local))
        try:
            session = yield Call(lambda: endpoint.client.sessions.Get(request))
        except ApiError:
            return False
        renewed: bool = (
            session.state == SessionState.SESSION_STATE_ESTABLISHED
            and session.id != flow.access.session
        )
        return renewed

    def _ref(self) -> CellRef:
        return cell_ref(self.remote)


class FlowCore:
    """One flow: messages both ways.

    Attributes:
        access: what it is.
        ring: the native flow.
        label: what it was defined for; None where it was not.
        failure: why it is over though its ring does not know; None where it is not.
        departed: the peer's application is done with it.
        leaving: it is about to be closed: who waits is to give up.
    """

    def __init__(
        self,
        endpoint: EndpointCore,
        access: FlowAccess,
        ring: RingFlow,
        lines: Lines | LentLines,
        lock: FlowLock | LentLock,
        label: str | None,
    ) -> None:
        self._endpoint = endpoint
        self.access = access
        self.ring = ring
        self._lines = lines
        self._lock = lock
        self.label = label
        self.failure: FlowError | None = None
        self.departed = False
        self.leaving = False
        self._rest: Push | None = None
        # What was read of the message at hand and not taken, and whether that is all of it.
        self._held = bytearray()
        self._held_ended = False
        self._finished = False
        self._released = False
        self._written = 0

    # What there is to see

    def check(self, wanted: Ready) -> None:
        """Raises what stands against waiting for one of these, other than what the ring knows."""
        if self._released or self.leaving:
            raise ClosedError("this flow has been closed")
        if self._endpoint.failure is not None:
            raise self._endpoint.failure
        if self.failure is not None:
            raise self.failure
        if self.departed and wanted and not self._has(wanted & ~Ready.WRITABLE):
            if wanted & Ready.READABLE:
                raise FlowError("the peer has left without ending the flow")
            raise EndedError("the peer has closed the flow")

    @property
    def credit(self) -> int:
        """Blocks of 64 bytes that may be sent now."""
        self._check_open()
        return self._lines.credit(self.access.slot)

    @property
    def stats(self) -> FlowStats:
        """The counts so far."""
        return self.ring.stats()

    @property
    def has_rest(self) -> bool:
        """Whether a message has left in part and the rest waits to follow."""
        return self._rest is not None

    @property
    def may_be_lost(self) -> bool:
        """Whether something was sent that has not been receipted."""
        return self._rest is not None or self.stats.tx_payload < self._written

    # Sending

    def send(
        self,
        data: Buffer | Sequence[Buffer],
        coalesce: bool,
        tell: Progress | None = None,
        taken: int = 0,
    ) -> Steps[None]:
        """Sends a message; ends when all of it is taken.

        Whoever gives up before that takes it back, where nothing of it has left; else its rest is
        copied and goes out before whatever is sent next.

        Args:
            data: the message.
            coalesce: it may wait for others to share a frame with.
            tell: told how much has been taken.
            taken: bytes of it that `send_at_once` has taken.
        """
        yield from self.push_rest()
        with self._pushing(data, coalesce, tell, taken) as push:
            yield push

    def send_at_once(self, data: Buffer | Sequence[Buffer], coalesce: bool) -> int | None:
        """Sends a message of one buffer, if that can be done without a step.

        Returns:
            None where it is done; else how many bytes were taken, for `send` to go on from.
        """
        if self._rest is not None or isinstance(data, list | tuple):
            return 0
        self._check_may_send()
        self.check(Ready.WRITABLE)
        taken, size = self.ring.write_one(cast("Buffer", data), _flags(coalesce))
        if taken != size:
            return max(0, taken)
        self._written += taken
        return None

    def send_nowait(self, data: Buffer | Sequence[Buffer], coalesce: bool) -> None:
        """Sends a message, where credit and window allow for its beginning at least.

        Raises:
            WouldBlockError: nothing of it was taken.
        """
        if self._rest is not None and not self._rest.attempt():
            raise WouldBlockError("the message before it still waits for credit")
        self._drop_rest()
        with self._pushing(data, coalesce) as push:
            if not push.attempt() and not push.taken:
                raise WouldBlockError("there is no credit now")

    def send_many(
        self,
        messages: Buffer | Iterable[Buffer],
        lengths: int | Sequence[int] | None,
        coalesce: bool,
    ) -> Steps[None]:
        """Sends messages one after the other.

        Args:
            messages: themselves; or, with `lengths`, one buffer in which they lie back to back.
            lengths: of each, or of all of them.
            coalesce: several may share a frame.

        Raises:
            InvalidArgument: the lengths are not those of the buffer.
        """
        if lengths is None:
            parts: list[Buffer] = list(messages)  # type: ignore[arg-type]
            sizes = [memoryview(part).nbytes for part in parts]
            yield from self._send_packed(b"".join(parts), sizes, coalesce)
        else:
            yield from self._send_packed(messages, lengths, coalesce)  # type: ignore[arg-type]

    def push_rest(self) -> Steps[None]:
        """Sends the rest of a message whose sending was given up."""
        if self._rest is not None:
            yield self._rest
            self._drop_rest()

    def drain(self) -> Steps[None]:
        """Until the peer's application has taken all that was sent; best effort: until it left.

        Raises:
            FlowError: that cannot be known any more.
        """
        yield from self.push_rest()
        yield Until(self, Ready.DRAINED)

    def finish(self) -> Steps[None]:
        """Says that no message follows, once all that was sent is gone."""
        yield from self.push_rest()
        while not self._finished:
            self.check(Ready.WRITABLE)
            if self.ring.finish():
                self._finished = True
            else:
                yield Until(self, Ready.WRITABLE)

    # Receiving

    def recv_at_once(self, max_size: int, milliseconds: int) -> bytes | None:
        """A message, if that comes so soon; of one that does not, nothing is lost."""
        if self._held or self._held_ended:
            return None
        self.check(Ready(0))
        memory, room = _scratch_room()
        try:
            got = self.ring.recv_one(room, milliseconds)
        except PortError:
            return None  # as the steps see it
        if got.ended and got.have <= max_size:
            return bytes(memoryview(memory)[: got.have])
        self._held += memoryview(memory)[: got.have]
        self._held_ended = got.ended
        return None

    def recv(self, max_size: int) -> Steps[bytes]:
        """A message.

        Whoever gives up loses nothing: what has come of it is there for the next who reads.

        Raises:
            EndedError: the peer has said that none follows.
            MessageTooLongError: it is longer than that; it stays, to be read in parts.
        """
        while not self._held_ended and len(self._held) <= max_size:
            # Fetched anew each time: while this one waits, others read into the same memory.
            memory, room = _scratch_room()
            got = self.ring.read(room, 0)
            if got is None:
                yield Until(self, Ready.READABLE)
                continue
            if got.ended and not self._held and got.have <= max_size:
                return bytes(memoryview(memory)[: got.have])
            self._held += memoryview(memory)[: got.have]
            self._held_ended = got.ended
        if len(self._held) > max_size:
            raise MessageTooLongError(f"the message is longer than {max_size} bytes")
        whole = bytes(self._held)
        self._held, self._held_ended = bytearray(), False
        return whole

    def recv_into(self, buffer: Buffer, tell: Progress | None = None) -> Steps[int]:
        """A message, straight into memory; its length.

        Raises:
            EndedError: the peer has said that none follows.
            MessageTooLongError: it is longer than that; it stays, to be read in parts.
        """
        have, ended = yield from self._fill(buffer, tell)
        if not ended:
            self._hold(buffer, have)
            raise MessageTooLongError(f"the message is longer than {have} bytes")
        return have

    def recv_some(self, buffer: Buffer) -> Steps[tuple[int, bool]]:
        """A part of the message at hand: its length, and whether the message ends with it.

        The buffer is filled, but for a message's last part.
        """
        return self._fill(buffer, None)

    def recv_many(self, buffer: Buffer | None, most: int) -> Steps[list[memoryview]]:
        """All whole messages that are there, at least one, and no more than fit the buffer.

        Args:
            buffer: where they go; None = memory of their own.
            most: messages.

        Raises:
            EndedError: the peer has said that none follows.
            MessageTooLongError: the first is longer than the buffer.
        """
        target = memoryview(bytearray(_MANY_LEN) if buffer is None else buffer).cast("B")
        if not self._held and not self._held_ended:
            room, lengths = Room(target), Lengths(min(most, _MANY))
            try:
                while not (count := self.ring.read_many(room, lengths)):
                    yield Until(self, Ready.READABLE)
                return _split(target, lengths, count)
            except MessageTooLongError:
                pass  # The first does not lie in one frame: it is read by itself.
            finally:
                room.release()
        return [target[: (yield from self.recv_into(target))]]

    def discard(self) -> Steps[int]:
        """Lets the message at hand go, as it comes; its length."""
        waste, gone = bytearray(_SCRATCH_LEN), 0
        while True:
            have, ended = yield from self._fill(waste, None)
            gone += have
            if ended:
                return gone

    # Its end

    def end(self) -> Steps[None]:
        """Ends it in good order: all is receipted, and so is what the peer sent.

        Raises:
            FlowError: what was sent may not have arrived.
        """
        if self._released:
            return
        try:
            yield from self.finish()
            # Once every byte is receipted it is the peer's affair whether it reads that we end.
            while not (yield Until(self, Ready.DRAINED, self._patience_s)) and self.may_be_lost:
                pass
            yield from self._linger()
        except FlowError:
            if self.may_be_lost:
                raise

    def abort(self) -> Steps[None]:
        """Lets it go as it is."""
        if self._released:
            return
        self.release()
        if self.label is not None and self.failure is None:
            access = self.access
            request = ReleaseFlowRequest(
                remote=cell_ref(access.remote), local=cell_ref(access.local), flow=access.flow
            )
            # Without a word from us, the daemon finds it released by itself.
            with contextlib.suppress(ApiError, ClosedError):
                yield Call(lambda: self._endpoint.client.sessions.ReleaseFlow(request))

    def release(self) -> None:
        """Gives back what it holds in this process. Idempotent."""
        if not self._released:
            self._released = True
            self._endpoint.detach(self)
            self._drop_rest()
            self.ring.close()
            self._lock.release()
            self._endpoint.on_news(self)

    # Inside

    def _has(self, wanted: Ready) -> bool:
        """Whether one of these is there already."""
        return bool(wanted and self.ring.wait(wanted, 0))

    def _check_open(self) -> None:
        if self._released:
            raise ClosedError("this flow has been closed")

    def _check_may_send(self) -> None:
        self._check_open()
        if self._finished:
            raise ClosedError("this side has ended the flow")

    @contextlib.contextmanager
    def _pushing(
        self,
        data: Buffer | Sequence[Buffer],
        coalesce: bool,
        tell: Progress | None = None,
        taken: int = 0,
    ) -> Iterator[Push]:
        """The sending of a message; however it ends, what has begun to leave will leave whole.

        Without its end the peer could read no message any more.
        """
        self._check_may_send()
        spans = Spans(data)
        push = Push(self, spans, _flags(coalesce), tell)
        push.taken = taken
        try:
            yield push
        except FlowError:
            raise
        except BaseException:
            self._keep_rest(push)
            raise
        else:
            self._keep_rest(push)
        finally:
            self._written += push.taken
            spans.release()

    def _keep_rest(self, push: Push) -> None:
        if 0 < push.taken < push.spans.size and not self._released:
            self._rest = push.copied()

    def _drop_rest(self) -> None:
        if self._rest is not None:
            self._rest.spans.release()
            self._rest = None

    def _send_packed(
        self, base: Buffer, lengths: int | Sequence[int], coalesce: bool
    ) -> Steps[None]:
        yield from self.push_rest()
        self._check_may_send()
        whole = memoryview(base).cast("B")
        sizes = _sizes(whole, lengths)
        size, native = (lengths, None) if isinstance(lengths, int) else (0, Lengths(lengths))
        spans = Spans(whole)
        at = done = 0
        try:
            while done < len(sizes):
                self.check(Ready.WRITABLE)
                taken = self.ring.write_many(
                    spans, at, size, native, done, len(sizes) - done, _flags(coalesce)
                )
                gone = sum(sizes[done : done + taken])
                self._written += gone
                at, done = at + gone, done + taken
                yield Turn()
                if done < len(sizes) and not taken:
                    # Waits for credit; one that is longer than that leaves piece by piece.
                    yield from self.send(whole[at : at + sizes[done]], coalesce)
                    at, done = at + sizes[done], done + 1
        finally:
            spans.release()

    def _fill(self, buffer: Buffer, tell: Progress | None) -> Steps[tuple[int, bool]]:
        """Reads until the message ends or the buffer is full."""
        view = memoryview(buffer).cast("B")
        if not view.nbytes:
            raise InvalidArgument("buffer", "needs room for a byte at least")
        have = self._take_held(view)
        if have == view.nbytes or (self._held_ended and not self._held):
            ended = self._held_ended and not self._held
            self._held_ended = self._held_ended and not ended
            return have, ended
        room = Room(view)
        pull = Pull(self, room, have, tell)
        try:
            yield pull
        except BaseException:
            self._hold(view, pull.have)
            raise
        finally:
            room.release()
        return pull.have, pull.ended

    def _hold(self, buffer: Buffer, have: int) -> None:
        """What was read of a message is there for the next who reads."""
        self._held[:0] = memoryview(buffer).cast("B")[:have]

    def _take_held(self, view: memoryview) -> int:
        """Takes what was held, as much as there is room for; how many bytes."""
        have = min(len(self._held), view.nbytes)
        view[:have] = self._held[:have]
        del self._held[:have]
        return have

    @property
    def _patience_s(self) -> float:
        """Seconds in which a peer that is there answers."""
        return max(_PATIENCE_S, _PATIENCE_RTTS * self.stats.rtt_ns / 1e9)

    def _linger(self) -> Steps[None]:
        """Stays until the peer has been quiet for a while: it may ask for its last receipt."""
        heard = self.stats.rx_frames
        for _ in range(_LINGER_ROUNDS if heard else 0):
            if self.departed:
                return
            yield Pause(max(_QUIET_S, _QUIET_RTTS * self.stats.rtt_ns / 1e9))
            # A rate may hold back what it asks for.
            yield Until(self, Ready.DRAINED, self._patience_s)
            before, heard = heard, self.stats.rx_frames
            if heard == before:
                return


def _flags(coalesce: bool) -> int:
    return int(_lib.AN_COALESCE) if coalesce else 0


def _sizes(whole: memoryview, lengths: int | Sequence[int]) -> Sequence[int]:
    """The lengths of messages that lie back to back.

    Raises:
        InvalidArgument: they do not add up to the buffer.
    """
    if isinstance(lengths, int):
        if lengths <= 0 or whole.nbytes % lengths:
            raise InvalidArgument("lengths", "must divide the buffer")
        return [lengths] * (whole.nbytes // lengths)
    if min(lengths, default=0) < 0 or sum(lengths) != whole.nbytes:
        raise InvalidArgument("lengths", "must add up to the buffer")
    return lengths


def _split(packed: memoryview, lengths: Lengths, count: int) -> list[memoryview]:
    found, at = [], 0
    for index in range(count):
        found.append(packed[at : at + lengths[index]])
        at += lengths[index]
    return found


def port_config(backend: Backend, queue: int, busy_poll_us: int, spin_us: int) -> PortConfig:
    """What a ring is to be; its interface is the cell's."""
    return PortConfig("", queue, -1, backend, busy_poll_us, spin_us)
