# SPDX-License-Identifier: Apache-2.0
"""TLS connections: let in one by one, timed, bounded, and ended once.

    accept -> places left, for all and for this address? -> TLS, in time -> Wire

Connections are accepted by hand, so that one that has no place costs neither memory nor a TLS
handshake. What one peer does wrong ends that peer's connection, and shows in the counts alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from assent.errors import RemoteError, Unavailable
from assent.service.bindings.links import BindingError, Limits, Refusal, Refusals
from assent.service.tasks import TaskOwner

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
# The process has no descriptors left: others may give some back meanwhile.
_EXHAUSTED_PAUSE: Final = 0.1
_IPV6_SITE: Final = 64

_WireT = TypeVar("_WireT", bound="Wire")


class Wire(asyncio.Protocol, ABC):
    """One TLS connection, as its binding sees it.

    Args:
        peer: The other side's address, for logs.
        limits: Bounds.
        refusals: Where the peer's mistakes are counted.
    """

    def __init__(self, peer: str, limits: Limits, refusals: Refusals) -> None:
        self.peer = peer
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the binding's own handshake is; failed where it was refused."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""
        self._limits = limits
        self._refusals = refusals
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reason = ""
        self._paused = False

    # What a binding does

    @abstractmethod
    def _begin(self, transport: asyncio.Transport) -> None:
        """TLS stands.

        Raises:
            RemoteError: Not as it should.
        """

    @abstractmethod
    def _take(self, data: bytes) -> None:
        """Bytes came.

        Raises:
            RemoteError: They break the binding's rules.
        """

    @abstractmethod
    def _refused(self, error: BindingError) -> None:
        """Tells the peer what it did wrong, in the binding's own words, and ends."""

    @abstractmethod
    def _over(self, reason: str) -> None:
        """The connection is gone. Called once."""

    @abstractmethod
    def close(self, reason: str) -> None:
        """Ends in good order; the connection is cut where that takes too long."""

    def _drained(self) -> None:
        """There is room in the buffer to the peer again."""

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._guarded(lambda: self._begin(cast("asyncio.Transport", transport)))

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._guarded(lambda: self._take(data))

    def pause_writing(self) -> None:
        """The peer takes less than it is sent."""
        self._paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._paused = False
        self._guarded(self._drained)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._expected()
        self._because(
            f"the connection broke: {error}" if error else "the peer closed the connection"
        )
        reason = self._reason
        self._transport = None
        try:
            self._over(reason)
        except Exception:
            log.exception("link failed", extra={"peer": self.peer})
        finally:
            if not self.ready.done():
                self.ready.set_exception(Unavailable(f"{self.peer}: {reason}"))
                # Who dialled looks at it; nobody else has to.
                self.ready.exception()
            if not self.lost.done():
                self.lost.set_result(None)

    # For bindings

    def abort(self, reason: str) -> None:
        """Cuts the connection here and now."""
        self._because(reason)
        if self._transport is not None:
            self._transport.abort()

    def _because(self, reason: str) -> None:
        """Keeps the first reason: the others follow from it."""
        self._reason = self._reason or reason

    def _write(self, data: bytes) -> None:
        """Sends; cuts off a peer that lets too much pile up, answers to its own frames included."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._limits.queued_bytes:
            problem = "the peer takes too little of what it is sent"
            self._refusals.add(Refusal.OVERFLOW, self.peer, problem)
            self.abort(problem)

    def _expect(self, what: str, seconds: float) -> None:
        """Cuts the connection where `_expected` is not called in time."""
        self._expected()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._late, what)

    def _expected(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, seconds: float) -> None:
        """Ends the connection as soon as the peer does, or then.

        Until then it is read from. Were it closed with bytes unread, TCP would reset it, and the
        peer might lose the last words.
        """
        self._expected()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._hang_up)

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()
            # A peer that reads nothing would keep what is in the buffer, and with it this, alive.
            self._expected()
            self._timer = asyncio.get_running_loop().call_later(
                self._limits.close_timeout, self.abort, "the peer does not let go"
            )

    def _late(self, what: str) -> None:
        self._timer = None
        self._guarded(lambda: _raise_slow(what))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BindingError as error:
            self._refuse(error)
        except RemoteError as error:
            self._refuse(BindingError(Refusal.PROTOCOL, str(error)))
        except Exception:
            # A bug in one connection's handling must not stop the others.
            log.exception("link failed", extra={"peer": self.peer})
            self.abort("an error of this side")

    def _refuse(self, error: BindingError) -> None:
        self._refusals.add(error.refusal, self.peer, str(error))
        self._because(str(error))
        try:
            self._refused(error)
        except Exception:
            log.exception("link failed", extra={"peer": self.peer})
            self.abort(str(error))


def _raise_slow(what: str) -> None:
    raise BindingError(Refusal.SLOW, f"no {what} in time")


class Acceptor:
    """Lets connections in. Use it as an async context manager.

    Args:
        host: Address to listen at.
        port: TCP port; 0 = any.
        context: TLS of this side.
        limits: Bounds.
        refusals: Where refused connections are counted.
        make: Makes a binding's half of a connection, given the peer's address.

    Raises:
        Unavailable: On entering, where the address cannot be listened at.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        limits: Limits,
        refusals: Refusals,
        make: Callable[[str], Wire],
    ) -> None:
        self._address = host, port
        self._context = context
        self._limits = limits
        self._refusals = refusals
        self._make = make
        self._tasks = TaskOwner()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._wires: set[Wire] = set()
        self._places: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The TCP port, while the context is entered."""
        if self._socket is None:
            raise RuntimeError("not listening")
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections at present, those that still shake hands included."""
        return self._places.total()

    async def __aenter__(self) -> Self:
        try:
            self._socket = await _listen(*self._address)
        except OSError as error:
            host, port = self._address
            raise Unavailable(f"cannot listen at {host} port {port}: {error.strerror}") from error
        await self._tasks.__aenter__()
        self._accepting = self._tasks.start(self._accept(self._socket), "binding-accept")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._accepting is not None and self._socket is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._socket.close()
            self._socket = None
        await end_all(self._wires, self._limits.close_timeout)
        await self._tasks.__aexit__(kind, error, traceback)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning("no connection taken", extra={"reason": error.strerror})
                await asyncio.sleep(_EXHAUSTED_PAUSE)
                continue
            self._admit(sock, address[0], f"{address[0]}:{address[1]}")

    def _admit(self, sock: socket.socket, host: str, peer: str) -> None:
        site = _site(host)
        if self.connections >= self._limits.connections:
            problem = f"{self.connections} connections are there"
        elif self._places[site] >= self._limits.connections_per_peer:
            problem = f"{self._places[site]} connections come from there"
        else:
            self._places[site] += 1
            self._tasks.start(self._serve(sock, site, peer), f"binding-{peer}")
            return
        self._refusals.add(Refusal.CROWDED, peer, problem)
        sock.close()

    async def _serve(self, sock: socket.socket, site: str, peer: str) -> None:
        """One connection's life."""
        wire = self._make(peer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: wire,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_timeout,
                ssl_shutdown_timeout=self._limits.close_timeout,
            )
            self._wires.add(wire)
            await asyncio.wait([wire.lost])
        except OSError as error:  # of which TimeoutError and ssl.SSLError are kinds
            self._refusals.add(_tls_refusal(error), peer, _tls_problem(error))
        finally:
            wire.abort("this side stops")
            self._wires.discard(wire)
            self._places[site] -= 1
            if not self._places[site]:
                del self._places[site]


async def dial(
    host: str, port: int, context: ssl.SSLContext, limits: Limits, make: Callable[[], _WireT]
) -> _WireT:
    """Connects, and waits until the binding's own handshake is over.

    Raises:
        Unavailable: There is no such peer, or not one that speaks this.
    """
    peer = f"{host}:{port}"
    wire: _WireT | None = None
    try:
        async with asyncio.timeout(2 * limits.handshake_timeout):
            _, wire = await asyncio.get_running_loop().create_connection(
                make,
                host,
                port,
                ssl=context,
                server_hostname=host,
                ssl_handshake_timeout=limits.handshake_timeout,
                ssl_shutdown_timeout=limits.close_timeout,
            )
            await asyncio.wait([wire.ready])
            wire.ready.result()
            return wire
    except ssl.SSLError as error:
        raise Unavailable(f"{peer}: TLS failed: {_tls_problem(error)}") from error
    except TimeoutError as error:
        raise Unavailable(f"{peer}: no answer in time") from error
    except OSError as error:
        raise Unavailable(f"{peer}: {error.strerror or error}") from error
    finally:
        if wire is not None and not (wire.ready.done() and wire.ready.exception() is None):
            wire.abort("never mind")


async def end_all(wires: Iterable[Wire], patience: float) -> None:
    """Ends connections: in good order as far as patience, in seconds, reaches."""
    ending = list(wires)
    if not ending:
        return
    for wire in ending:
        wire.close("this side stops")
    await asyncio.wait([wire.lost for wire in ending], timeout=patience)
    for wire in ending:
        wire.abort("this side stops")
    await asyncio.wait([wire.lost for wire in ending])


async def _listen(host: str, port: int) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _site(host: str) -> str:
    """Whom an address counts for: one customer has a /64 of IPv6 addresses at the least."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)


def _tls_refusal(error: OSError) -> Refusal:
    late = isinstance(error, TimeoutError) or "taking longer than" in str(error)
    return Refusal.SLOW if late else Refusal.TLS


def _tls_problem(error: OSError) -> str:
    if _tls_refusal(error) is Refusal.SLOW:
        return "no TLS handshake in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or "no TLS"
    return error.strerror or str(error) or type(error).__name__
