# SPDX-License-Identifier: Apache-2.0
"""Who is not known yet: retry cookies, and how much may be sent to it (seed Numiport, 5.8 and 8).

Whoever can send from an address can be sent to there, and forged addresses cannot. So a source that
is not authenticated gets a cookie, and is heard when it comes back with it. The node remembers
nothing meanwhile: what it would remember is in the cookie.

    offset  bytes
         0      1  generation: which secret
         1      7  random
         8      8  window: slot // 16
        16     16  HMAC-SHA256, first 16 bytes, over label, address, port and what stands above

The MAC's input is 48 bytes, so that a kernel program which keeps the states after the padded key
makes or checks a cookie with two compressions.

Peers from whose address too much fails show cookies too, for a while (`Door`).

Whatever is sent to such a source, cookies and handshakes alike, is at most three times what came
from it (`Allowance`), so that nobody is drowned by way of this node.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from assent.errors import InvalidArgument
from assent.identity.keys import Random
from assent.numiport.wire import Fault, NumiportError

COOKIE_LEN: Final = 32
SECRET_LEN: Final = 32
SECRET_LIFETIME: Final = 120_000_000_000
WINDOW_SLOTS: Final = 16
"""Of the slots that one window has; a cookie is good in its own and in the next."""

FACTOR: Final = 3
ROUND_TRIP: Final = 500_000_000
"""What the seed calls a nominal round trip, ns."""
SOURCES_MAX: Final = 4096

FAILURES_MAX: Final = 16
FAILURES_WINDOW: Final = 1_000_000_000
SUSPICION: Final = 10_000_000_000
"""How long a peer shows cookies after too much from its address has failed, ns."""

_LABEL: Final = b"numiport-retry"
_HEAD: Final = struct.Struct("!B7sQ")
_MAC_LEN: Final = 16
_GENERATIONS: Final = 256
_SLOT_END: Final = 1 << 64
_MAPPED: Final = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a packet came from.

    Attributes:
        address: Its IP address. An IPv4 address and the IPv6 address it is mapped to are one.
        port: Its UDP port.
        raw: Both, 18 bytes.

    Raises:
        InvalidArgument: The port does not fit 16 bits.
    """

    address: IPv4Address | IPv6Address = field(compare=False)
    port: int = field(compare=False)
    raw: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 0xFFFF:
            raise InvalidArgument("port", "does not fit 16 bits")
        packed = self.address.packed
        address = _MAPPED + packed if isinstance(self.address, IPv4Address) else packed
        object.__setattr__(self, "raw", address + self.port.to_bytes(2, "big"))


@dataclass(frozen=True, slots=True)
class Secret:
    """What cookies are made with; kernel programs are given these.

    Attributes:
        generation: Rises by one with each, modulo 256.
        key: Of HMAC-SHA256, 32 bytes. Secret.
        born: When it was drawn, ns.
    """

    generation: int
    key: bytes = field(repr=False)
    born: int


class CookieJar:
    """Makes cookies and checks them, under a secret that changes.

    A secret makes cookies for its lifetime, and is honoured for one more.

    Args:
        now: Monotonic, ns.
        random: Where secrets and cookies come from.
        lifetime: How long a secret makes cookies, ns. Longer than two windows of slots.

    Raises:
        InvalidArgument: `lifetime` is not positive.
    """

    def __init__(
        self, now: int, *, random: Random = os.urandom, lifetime: int = SECRET_LIFETIME
    ) -> None:
        if lifetime < 1:
            raise InvalidArgument("lifetime", "must be positive")
        self._random = random
        self._lifetime = lifetime
        # Not from 0: cookies of a former start are then mostly refused without a hash.
        first = random(1)[0]
        self._former = self._draw(first, now)
        self._current = self._draw(first + 1, now)

    def _draw(self, generation: int, now: int) -> Secret:
        return Secret(generation % _GENERATIONS, self._random(SECRET_LEN), now)

    def secrets(self, now: int) -> tuple[Secret, Secret]:
        """The secret that makes cookies, and the one before it, which still checks them.

        Args:
            now: Monotonic, ns.
        """
        self._turn(now)
        return self._current, self._former

    def _turn(self, now: int) -> None:
        age = now - self._current.born
        if age < self._lifetime:
            return
        # After a long silence both are too old to be honoured.
        outlived = age >= 2 * self._lifetime
        last = self._current.generation
        self._former = self._draw(last + 1, now) if outlived else self._current
        self._current = self._draw(self._former.generation + 1, now)

    def bake(self, source: Source, slot: int, now: int) -> bytes:
        """A cookie for a source, 32 bytes.

        Args:
            source: Whose packet is to be answered with it.
            slot: The slot now, 64 bits.
            now: Monotonic, ns.

        Raises:
            InvalidArgument: The slot is out of range.
        """
        secret, _ = self.secrets(now)
        head = _HEAD.pack(secret.generation, self._random(7), _window(slot))
        return head + _mac(secret, source, head)

    def check(self, source: Source, cookie: bytes, slot: int, now: int) -> None:
        """Makes sure that a source has been given a cookie here, a short while ago.

        Args:
            source: Whose packet carries it.
            cookie: What it carries.
            slot: The slot now, 64 bits.
            now: Monotonic, ns.

        Raises:
            NumiportError: BAD_COOKIE: it has not, or too long ago.
            InvalidArgument: The slot is out of range.
        """
        window = _window(slot)
        if len(cookie) != COOKIE_LEN:
            raise NumiportError(Fault.BAD_COOKIE, "has a cookie of another length")
        head, mac = cookie[: _HEAD.size], cookie[_HEAD.size :]
        generation, _, baked = _HEAD.unpack(head)
        # In the next window too; slots before the first are none.
        if not 0 <= window - baked <= 1:
            raise NumiportError(Fault.BAD_COOKIE, "has a cookie of another time")
        for secret in self.secrets(now):
            if generation == secret.generation:
                if hmac.compare_digest(mac, _mac(secret, source, head)):
                    return
                break
        raise NumiportError(Fault.BAD_COOKIE, "has a cookie that was not made here for it")


def _window(slot: int) -> int:
    if not 0 <= slot < _SLOT_END:
        raise InvalidArgument("slot", "does not fit 64 bits")
    return slot // WINDOW_SLOTS


def _mac(secret: Secret, source: Source, head: bytes) -> bytes:
    return hmac.digest(secret.key, _LABEL + source.raw + head, hashlib.sha256)[:_MAC_LEN]


@dataclass(slots=True)
class _Failures:
    began: int
    count: int = 0
    until: int = 0


class Door:
    """Who must show a cookie: whoever is not known, and peers from whose address much fails.

    What fails from a peer's address is mostly not the peer's: others forge it, and each packet of
    theirs costs a hash or a decryption. They cannot see the cookies that are sent there.

    Args:
        jar: Where cookies are from.
        failures_max: How many packets may fail within a window.
        window: Begins with the first that fails, ns.
        suspicion: How long cookies are demanded after the last window with too many, ns.
        sources_max: Of how many addresses failures are counted; the oldest count goes first.

    Attributes:
        forced: Everybody must show cookies, for instance as long as an alarm lasts (seed,
            section 12).

    Raises:
        InvalidArgument: A number is not positive.
    """

    def __init__(
        self,
        jar: CookieJar,
        *,
        failures_max: int = FAILURES_MAX,
        window: int = FAILURES_WINDOW,
        suspicion: int = SUSPICION,
        sources_max: int = SOURCES_MAX,
    ) -> None:
        for name, value in (
            ("failures_max", failures_max),
            ("window", window),
            ("suspicion", suspicion),
            ("sources_max", sources_max),
        ):
            if value < 1:
                raise InvalidArgument(name, "must be positive")
        self.forced = False
        self._jar = jar
        self._failures_max = failures_max
        self._window = window
        self._suspicion = suspicion
        self._sources_max = sources_max
        # In the order in which their windows began.
        self._failures: OrderedDict[bytes, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def check(
        self, source: Source, cookie: bytes | None, slot: int, now: int, *, known: bool
    ) -> None:
        """Makes sure that a packet is worth looking at; before its header MAC is.

        Args:
            source: Where it came from.
            cookie: What it carries, if it does.
            slot: The slot now, 64 bits.
            now: Monotonic, ns.
            known: Whether that is the address of a peer.

        Raises:
            NumiportError: NO_COOKIE: it must carry one, and is answered with one. BAD_COOKIE: so it
                does, but not a good one; answered the same.
            InvalidArgument: The slot is out of range.
        """
        if known and not self.forced and not self._suspected(source, now):
            return
        if cookie is None:
            raise NumiportError(Fault.NO_COOKIE, "has no cookie")
        self._jar.check(source, cookie, slot, now)

    def fail(self, source: Source, now: int) -> None:
        """Takes down that a packet from a peer's address failed: its header MAC or its seal.

        Args:
            source: Where it came from; of addresses that are no peer's nothing is to be kept.
            now: Monotonic, ns.
        """
        failures = self._failures.get(source.raw)
        if failures is None or now - failures.began >= self._window:
            until = failures.until if failures else 0
            self._failures.pop(source.raw, None)
            while len(self._failures) >= self._sources_max:
                self._failures.popitem(last=False)
            failures = self._failures[source.raw] = _Failures(now, until=until)
        failures.count += 1
        if failures.count > self._failures_max:
            failures.until = now + self._suspicion

    def _suspected(self, source: Source, now: int) -> bool:
        failures = self._failures.get(source.raw)
        return failures is not None and now < failures.until


@dataclass(slots=True)
class _Account:
    began: int
    received: int = 0
    sent: int = 0


class Allowance:
    """How much may be sent to each source before it is authenticated.

    What came from a source within a window, which begins with its first packet, may be answered
    threefold within that window. Windows end with what was left in them.

    Only so many sources are remembered. To forget one is safe, since what came from it and what was
    sent to it are forgotten together, and the second was at most three times the first: a flood
    from forged sources takes the others' rest of an allowance, and nothing else.

    Args:
        window: A nominal round trip, ns.
        sources_max: How many sources are remembered; the one whose window began first goes first.

    Raises:
        InvalidArgument: One of them is not positive.
    """

    def __init__(self, *, window: int = ROUND_TRIP, sources_max: int = SOURCES_MAX) -> None:
        for name, value in (("window", window), ("sources_max", sources_max)):
            if value < 1:
                raise InvalidArgument(name, "must be positive")
        self._window = window
        self._sources_max = sources_max
        # In the order in which their windows began.
        self._accounts: OrderedDict[bytes, _Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def receive(self, source: Source, size: int, now: int) -> None:
        """Takes down that a datagram came.

        Args:
            source: From whom.
            size: Its bytes, headers of UDP and IP apart; as in `spend`.
            now: Monotonic, ns.

        Raises:
            InvalidArgument: The size is negative.
        """
        if size < 0:
            raise InvalidArgument("size", "is negative")
        account = self._running(source, now)
        if account is None:
            # Its window begins anew, and so does its place in the order.
            self._accounts.pop(source.raw, None)
            while len(self._accounts) >= self._sources_max:
                self._accounts.popitem(last=False)
            account = self._accounts[source.raw] = _Account(now)
        account.received += size

    def spend(self, source: Source, size: int, now: int) -> None:
        """Takes down that a datagram is about to be sent; it is sent only if this returns.

        Args:
            source: To whom.
            size: Its bytes.
            now: Monotonic, ns.

        Raises:
            NumiportError: AMPLIFICATION: it would be more than three times what came from there.
                Nothing is taken down.
            InvalidArgument: The size is negative.
        """
        if size < 0:
            raise InvalidArgument("size", "is negative")
        account = self._running(source, now)
        if account is None or account.sent + size > FACTOR * account.received:
            raise NumiportError(Fault.AMPLIFICATION, "has not sent enough to be sent that much")
        account.sent += size

    def forget(self, source: Source) -> None:
        """Ends the account of a source, as of one that is authenticated now; none is no error."""
        self._accounts.pop(source.raw, None)

    def _running(self, source: Source, now: int) -> _Account | None:
        account = self._accounts.get(source.raw)
        if account is None or now - account.began >= self._window:
            return None
        return account
