# SPDX-License-Identifier: Apache-2.0
"""Sources of LWF frames ask to be found where they are: who proves to be allowed to, is.

The gate passes RELAY_FORWARD frames up that name an allowed source, at that source's rate, and
believes nothing more. What is believed here is what the source has signed, once: its timestamps
must rise. Where a frame came from (interface and Ethernet source) is not signed; whoever can hold a
frame back and send it from elsewhere, before its source sends another one, is taken for the way.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.errors import AssentError, FailedPrecondition, LocalError, NotFound, RemoteError
from assent.identity.hint import verify_frame
from assent.service.interfaces import describe
from assent.service.relay_records import TIMESTAMP_MAX, RelaySource
from assent.service.store import Store
from assent.wire.ethernet import ETHERNET_HEADER_LEN, EthernetHeader, FrameError
from assent.wire.lwf import ETHERTYPE, Frame, Header, Hint, Service

log = logging.getLogger(__name__)


class UnauthorizedSource(RemoteError):  # noqa: N818 - says what it is
    """A frame whose source may not register here."""


class Replayed(RemoteError):  # noqa: N818 - says what it is
    """A frame no newer than one by which its source has registered."""


@dataclass(frozen=True, slots=True)
class Registrations:
    """What came of a source's frames since the daemon began.

    Attributes:
        accepted: How many registered.
        refused: How many did not, by the name of the error.
    """

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Registrar:
    """Turns RELAY_FORWARD frames into routes.

    Args:
        store: Who may register, and the times of their newest frames.
        table: The relay's maps.
        lifetime: How long a route stands after its source has registered last, ns.
        clock: Monotonic, ns.
    """

    def __init__(
        self,
        store: Store,
        table: RelayTable,
        lifetime: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._table = table
        self._lifetime = lifetime
        self._clock = clock
        self._accepted: Counter[Hint] = Counter()
        self._refused: dict[Hint, Counter[str]] = {}

    def receive(self, interface: str, frame: bytes) -> None:
        """Takes a frame from its Ethernet header on; what is wrong with it is logged and counted.

        Args:
            interface: Where it arrived.
            frame: All of it.
        """
        try:
            route = self.register(interface, frame)
        except AssentError as error:
            self._count_refusal(frame, error)
            log.info(
                "registration refused",
                extra={
                    "interface": interface,
                    "error": type(error).__name__,
                    "reason": str(error),
                },
            )
        else:
            log.debug("source registered", extra={"hint": str(route.hint), "interface": interface})

    def register(self, interface: str, frame: bytes) -> Route:
        """Registers the source of a frame where the frame came from.

        Raises:
            FrameError: It is no RELAY_FORWARD frame for this relay, or is damaged.
            UnauthorizedSource: Its source may not register.
            Replayed: It is no newer than another one.
            SignatureError: It is not from its source.
            FailedPrecondition: An operator has set the way to that source, or there is no such
                interface.
            ResourceExhausted: There is no room for another route. Nothing has changed.
        """
        ethernet = EthernetHeader.decode(frame)
        if ethernet.ethertype != ETHERTYPE or ethernet.src[0] & 1 or not any(ethernet.src):
            raise FrameError("not an LWF frame from one station")
        lwf = Frame.decode(frame[ETHERNET_HEADER_LEN:])
        if lwf.header.service != Service.RELAY_FORWARD or not self._is_for_us(lwf.header.dest):
            raise FrameError("not a registration at this relay")
        source = self._source(lwf.header)
        self._check_time(lwf.header)
        verify_frame(lwf, source.public_key)
        route = self._route(interface, source, ethernet.src)
        with self._store.transaction():
            self._store.relay.remember(source.hint, lwf.header.timestamp)
            self._table.put_route(route)
        self._accepted[source.hint] += 1
        return route

    def of(self, hint: Hint) -> Registrations:
        """What came of a source's frames."""
        return Registrations(self._accepted[hint], dict(self._refused.get(hint, {})))

    def forget(self, hint: Hint) -> None:
        """Drops the counts of a source that is removed."""
        self._accepted.pop(hint, None)
        self._refused.pop(hint, None)

    def _is_for_us(self, dest: Hint) -> bool:
        if not dest:
            return True
        static = self._store.relay.route(dest)
        return static is not None and static.interface is None

    def _source(self, header: Header) -> RelaySource:
        try:
            return self._store.relay.source(header.source)
        except NotFound:
            raise UnauthorizedSource(f"{header.source} may not register") from None

    def _check_time(self, header: Header) -> None:
        newest = self._store.relay.newest(header.source)
        if newest is not None and header.timestamp <= newest:
            raise Replayed("its timestamp does not rise")
        if header.timestamp > TIMESTAMP_MAX:
            raise FrameError("its timestamp is beyond 63 bits")

    def _route(self, interface: str, source: RelaySource, mac: bytes) -> Route:
        if self._store.relay.route(source.hint) is not None:
            raise FailedPrecondition(f"an operator has set the way to {source.name!r}")
        info = describe(interface)
        hop = NextHop(info.index, mac, info.mac)
        expires = self._clock() + self._lifetime
        return Route(source.hint, hop, registered=True, expires=expires)

    def _count_refusal(self, frame: bytes, error: AssentError) -> None:
        """By the source that the frame names, where that one is known."""
        try:
            hint = Header.decode(frame[ETHERNET_HEADER_LEN:]).source
            self._store.relay.source(hint)
        except (FrameError, LocalError):
            return
        self._refused.setdefault(hint, Counter())[type(error).__name__] += 1
