# SPDX-License-Identifier: Apache-2.0
"""Sessions with peers that share no key with us yet (seed Numiport, section 5.8).

    Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, prologue "numiport-noise": assent.handshake.noise

    <- s                                        the responder's key is its identity
    -> e, es, s, ss   peer id 32, session id 16, epoch u64, offer
    <- e, ee, se, psk session id 16, offer

One round trip. An offer is up to 256 bytes that the messages protect and this module does not read,
for what the two want to tell each other at once. The master secret is HKDF-SHA256 of both keys of
Split(), with the transcript's hash in its info.

What is expensive here is done after the source has shown a cookie (cookies.py), and nothing that is
known of a peer changes by message 1 alone, for that can be captured and sent again: its session is
pending until a packet under its keys has come. Per peer one is, and newer ones (by the session id's
number) take the place of older ones.

The key of IKpsk2 may be one that the whole mesh shares. Where there is none it is zeros, as Noise
has it: the handshake then proves who both are by their identity keys alone.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assent.errors import FailedPrecondition, InvalidArgument
from assent.handshake.noise import HandshakeError, NoiseIK
from assent.handshake.values import Timers
from assent.identity.keys import PSK_LEN, Identity, Random, noise_public_of
from assent.numiport.keys import (
    MASTER_LEN,
    PEER_ID_LEN,
    SESSION_ID_LEN,
    Ends,
    Lane,
    Secrets,
    Suites,
)
from assent.numiport.sessions import Places, number_of
from assent.numiport.wire import Fault, NumiportError

PROLOGUE: Final = b"numiport-noise"
NO_PSK: Final = bytes(PSK_LEN)
OFFER_MAX: Final = 256
TIMERS: Final = Timers(lifetime=3_000_000_000, resend_first=200_000_000)
COOKIES_MAX: Final = 4
"""How many cookies one handshake follows: whoever forges them can delay it by as many sendings."""
SESSIONS_MAX: Final = 4096
PENDING_MAX: Final = 256

_MASTER_LABEL: Final = b"numiport/noise"
_HELLO: Final = struct.Struct(f"!{PEER_ID_LEN}s{SESSION_ID_LEN}sQ")
_EPOCH_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
_EPHEMERAL_LEN: Final = 32


@dataclass(slots=True, eq=False)
class Session:
    """What two peers share for an epoch.

    Attributes:
        peer: The other, an Ed25519 public key.
        epoch: Of the session.
        local_id: Our session id.
        remote_id: The peer's.
        offer: What the peer's message told.
        secrets: Header MAC and AEAD keys.
        tx: Seals what we send.
        rx: Opens what arrives.
        places: Of `tx`, those that are not used.
    """

    peer: bytes
    epoch: int
    local_id: bytes
    remote_id: bytes
    offer: bytes
    secrets: Secrets = field(repr=False)
    tx: Lane = field(repr=False)
    rx: Lane = field(repr=False)
    places: Places = field(default_factory=Places, repr=False)


def _session(
    noise: NoiseIK,
    ends: Ends,
    *,
    local: bytes,
    local_id: bytes,
    remote_id: bytes,
    epoch: int,
    offer: bytes,
    suites: Suites | None,
) -> Session:
    there, back = noise.split()
    info = _MASTER_LABEL + noise.handshake_hash
    secrets = Secrets.from_master(
        HKDF(hashes.SHA256(), MASTER_LEN, None, info).derive(there + back)
    )
    peer = ends.responder if local == ends.initiator else ends.initiator
    return Session(
        peer=peer,
        epoch=epoch,
        local_id=local_id,
        remote_id=remote_id,
        offer=offer,
        secrets=secrets,
        tx=Lane(secrets, local_id, ends, sender=local, epoch=epoch, suites=suites),
        rx=Lane(secrets, remote_id, ends, sender=peer, epoch=epoch, suites=suites),
    )


def _check_offer(offer: bytes) -> None:
    if len(offer) > OFFER_MAX:
        raise InvalidArgument("offer", f"is longer than {OFFER_MAX} bytes")


class Initiator:
    """The side that begins, for one session.

    Args:
        identity: Ours.
        peer: The responder's Ed25519 public key, 32 bytes.
        epoch: Of the session to be, 64 bits.
        session_id: Ours, never used before (sessions.py), 16 bytes.
        now: Monotonic, ns.
        psk: Of the mesh, 32 bytes.
        offer: What the peer is told.
        suites: Which suite seals which class.
        timers: How long it waits, and when it sends again.
        random: Where the ephemeral key comes from.

    Raises:
        InvalidArgument: A value has another length or does not fit, or the peer is ourselves or no
            usable key.
    """

    def __init__(
        self,
        identity: Identity,
        peer: bytes,
        epoch: int,
        session_id: bytes,
        now: int,
        *,
        psk: bytes = NO_PSK,
        offer: bytes = b"",
        suites: Suites | None = None,
        timers: Timers = TIMERS,
        random: Random = os.urandom,
    ) -> None:
        _check_offer(offer)
        number_of(session_id)  # or it is no session id
        if not 0 <= epoch <= _EPOCH_MAX:
            raise InvalidArgument("epoch", "does not fit 64 bits")
        self._ends = Ends(identity.public_key, peer)
        self._epoch = epoch
        self._session_id = session_id
        self._suites = suites
        self._timers = timers
        self._noise = NoiseIK.initiate(
            static=identity.noise_private,
            remote_static=noise_public_of(peer),
            psk=psk,
            ephemeral=random(_EPHEMERAL_LEN),
            prologue=PROLOGUE,
        )
        hello = _HELLO.pack(identity.public_key, session_id, epoch) + offer
        self._message = self._noise.write_message(hello)
        self._cookie: bytes | None = None
        self._cookies = 0
        self._due = now
        self._wait = timers.resend_first
        self._gives_up = now + timers.lifetime
        self._over = False

    @property
    def cookie(self) -> bytes | None:
        """What the responder wants to see beside the message."""
        return self._cookie

    def next_deadline(self) -> int | None:
        """When to call `data_to_send` next, ns; None after the end."""
        return None if self._over else min(self._due, self._gives_up)

    def data_to_send(self, now: int) -> bytes | None:
        """Message 1, where it is due; it is the same each time.

        Args:
            now: Monotonic, ns.

        Raises:
            FailedPrecondition: It has waited for as long as it may, or is over.
        """
        if now >= self._gives_up:
            self._over = True
        if self._over:
            raise FailedPrecondition("the handshake is over")
        if now < self._due:
            return None
        self._due = now + self._wait
        self._wait = min(2 * self._wait, self._timers.resend_max)
        return self._message

    def retry(self, cookie: bytes, now: int) -> None:
        """Takes a cookie: the message is due at once, and carries it from now on.

        Whether the cookie is the responder's cannot be seen, so only a few are followed.

        Args:
            cookie: Of a RETRY_COOKIE that came from the responder's address.
            now: Monotonic, ns.

        Raises:
            NumiportError: BAD_COOKIE: there were too many.
        """
        if self._cookies >= COOKIES_MAX:
            raise NumiportError(Fault.BAD_COOKIE, "is one cookie too many")
        self._cookies += 1
        self._cookie = cookie
        self._due = now

    def receive(self, message: bytes) -> Session:
        """Message 2: the session, which may be used at once.

        A forged message changes nothing.

        Raises:
            NumiportError: AEAD_FAIL: it is not what the responder would have sent. MALFORMED: it
                is, and says too little or too much.
            FailedPrecondition: The handshake is over.
        """
        if self._over:
            raise FailedPrecondition("the handshake is over")
        noise = self._noise.clone()
        answer = _read(noise, message)
        if not SESSION_ID_LEN <= len(answer) <= SESSION_ID_LEN + OFFER_MAX:
            raise NumiportError(Fault.MALFORMED, "answers with another length")
        self._over = True
        return _session(
            noise,
            self._ends,
            local=self._ends.initiator,
            local_id=self._session_id,
            remote_id=answer[:SESSION_ID_LEN],
            epoch=self._epoch,
            offer=answer[SESSION_ID_LEN:],
            suites=self._suites,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    session: Session
    reply: bytes
    ends: int


class SessionCache:
    """The sessions with all peers, by peer and epoch, and those that are pending. Bounded.

    Args:
        sessions_max: Of sessions; the one that was unused for longest goes first.
        pending_max: Of pending ones; the oldest goes first.
        lifetime: Of pending ones, ns.

    Raises:
        InvalidArgument: One of them is not positive.
    """

    def __init__(
        self,
        *,
        sessions_max: int = SESSIONS_MAX,
        pending_max: int = PENDING_MAX,
        lifetime: int = TIMERS.lifetime,
    ) -> None:
        for name, value in (
            ("sessions_max", sessions_max),
            ("pending_max", pending_max),
            ("lifetime", lifetime),
        ):
            if value < 1:
                raise InvalidArgument(name, "must be positive")
        self._sessions_max = sessions_max
        self._pending_max = pending_max
        self._lifetime = lifetime
        # By peer and epoch, in the order of their last use; and the same by peer.
        self._sessions: OrderedDict[tuple[bytes, int], Session] = OrderedDict()
        self._epochs: dict[bytes, dict[int, Session]] = {}
        # By peer, in the order of arrival; and the same by the digest of message 1.
        self._pending: OrderedDict[bytes, tuple[bytes, _Pending]] = OrderedDict()
        self._replies: dict[bytes, _Pending] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def pending(self) -> int:
        """How many sessions are pending."""
        return len(self._pending)

    def get(self, peer: bytes, epoch: int) -> Session | None:
        """The session with a peer in an epoch."""
        session = self._sessions.get((peer, epoch))
        if session is not None:
            self._sessions.move_to_end((peer, epoch))
        return session

    def candidates(self, peer: bytes, now: int) -> tuple[Session, ...]:
        """Under which sessions a packet of a peer may be: newest epoch first, pending last.

        Args:
            peer: Whose it is.
            now: Monotonic, ns.
        """
        self._expire(now)
        held = self._epochs.get(peer, {})
        live = [held[epoch] for epoch in sorted(held, reverse=True)]
        waiting = self._pending.get(peer)
        return (*live, waiting[1].session) if waiting else tuple(live)

    def put(self, session: Session) -> None:
        """Keeps a session that both sides have, in place of the one of that peer and epoch."""
        key = (session.peer, session.epoch)
        if key in self._sessions:
            self._remove(key)
        while len(self._sessions) >= self._sessions_max:
            self._remove(next(iter(self._sessions)))
        self._sessions[key] = session
        self._epochs.setdefault(session.peer, {})[session.epoch] = session

    def _remove(self, key: tuple[bytes, int]) -> None:
        del self._sessions[key]
        peer, epoch = key
        held = self._epochs[peer]
        del held[epoch]
        if not held:
            del self._epochs[peer]

    def confirm(self, session: Session) -> None:
        """Keeps a pending session: a packet has come whose header MAC and seal are under its keys.

        One that is no longer pending, nor a former one, is kept the same.
        """
        waiting = self._pending.get(session.peer)
        if waiting is not None and waiting[1].session is session:
            self._forget(session.peer)
        self.put(session)

    def retire(self, before: int) -> int:
        """Forgets the sessions of all epochs before one; returns how many."""
        old = [key for key in self._sessions if key[1] < before]
        for key in old:
            self._remove(key)
        return len(old)

    def drop(self, peer: bytes) -> None:
        """Forgets all sessions with a peer; none is no error."""
        for epoch in list(self._epochs.get(peer, ())):
            self._remove((peer, epoch))
        self._forget(peer)

    def reply_to(self, digest: bytes, now: int) -> bytes | None:
        """What a message 1 was answered with, while its session is pending."""
        self._expire(now)
        waiting = self._replies.get(digest)
        return None if waiting is None else waiting.reply

    def newest_number(self, peer: bytes) -> int:
        """The highest number of any session id that this peer has been heard with; or -1."""
        held = self._epochs.get(peer, {}).values()
        numbers = [number_of(session.remote_id) for session in held]
        waiting = self._pending.get(peer)
        if waiting is not None:
            numbers.append(number_of(waiting[1].session.remote_id))
        return max(numbers, default=-1)

    def await_proof(self, digest: bytes, session: Session, reply: bytes, now: int) -> None:
        """Keeps a session pending, in place of the one of that peer."""
        self._expire(now)
        self._forget(session.peer)
        while len(self._pending) >= self._pending_max:
            self._forget(next(iter(self._pending)))
        waiting = _Pending(session, reply, now + self._lifetime)
        self._pending[session.peer] = digest, waiting
        self._replies[digest] = waiting

    def _forget(self, peer: bytes) -> None:
        waiting = self._pending.pop(peer, None)
        if waiting is not None:
            del self._replies[waiting[0]]

    def _expire(self, now: int) -> None:
        while self._pending:
            peer, (_, waiting) = next(iter(self._pending.items()))
            if now < waiting.ends:
                return
            self._forget(peer)


class Responder:
    """The side that answers, for all peers.

    Args:
        identity: Ours.
        cache: Where sessions go.
        take_id: Makes a session id, from the time in ns of CLOCK_TAI: `SessionIds.take`.
        permit: Whether sessions are had with this peer, an Ed25519 public key.
        psk: Of the mesh, 32 bytes.
        suites: Which suite seals which class.
        random: Where ephemeral keys come from.

    Raises:
        InvalidArgument: `psk` has another length.
    """

    def __init__(
        self,
        identity: Identity,
        cache: SessionCache,
        take_id: Callable[[int], bytes],
        permit: Callable[[bytes], bool],
        *,
        psk: bytes = NO_PSK,
        suites: Suites | None = None,
        random: Random = os.urandom,
    ) -> None:
        if len(psk) != PSK_LEN:
            raise InvalidArgument("psk", f"needs {PSK_LEN} bytes, not {len(psk)}")
        self._identity = identity
        self._cache = cache
        self._take_id = take_id
        self._permit = permit
        self._psk = psk
        self._suites = suites
        self._random = random

    def answer(
        self,
        message: bytes,
        *,
        epochs: Collection[int],
        now: int,
        tai: int,
        offer: bytes = b"",
        begun: Collection[bytes] = (),
    ) -> bytes | None:
        """Message 2 for a message 1; the session is pending in the cache.

        The same message is answered the same, for as long as its session is pending. Where both
        peers have begun, the lower id goes on, and the other lets its own handshake go.

        Args:
            message: From a source that has shown a good cookie.
            epochs: Those of which sessions are had now.
            now: Monotonic, ns.
            tai: CLOCK_TAI, ns.
            offer: What the peer is told.
            begun: The peers with whom a handshake of our own is under way.

        Returns:
            Message 2; None where our own handshake with that peer goes on.

        Raises:
            NumiportError: AEAD_FAIL: it is not for us. MALFORMED: it says too little or too much.
                UNKNOWN_PEER: it names a peer that its sender is not, or with whom no sessions are
                had. UNKNOWN_PSK: its epoch is none of these. REPLAY: the peer has been heard with a
                newer session. Nothing is kept of any of them.
            InvalidArgument: The offer is too long.
        """
        _check_offer(offer)
        digest = hashlib.blake2s(message).digest()
        known = self._cache.reply_to(digest, now)
        if known is not None:
            return known
        noise = NoiseIK.respond(
            static=self._identity.noise_private,
            psk=self._psk,
            ephemeral=self._random(_EPHEMERAL_LEN),
            prologue=PROLOGUE,
        )
        hello = _read(noise, message)
        ends, remote_id, epoch = self._checked(hello, noise.remote_static, epochs)
        if ends.initiator in begun and ends.responder < ends.initiator:
            return None
        session_id = self._take_id(tai)
        reply = noise.write_message(session_id + offer)
        session = _session(
            noise,
            ends,
            local=ends.responder,
            local_id=session_id,
            remote_id=remote_id,
            epoch=epoch,
            offer=hello[_HELLO.size :],
            suites=self._suites,
        )
        self._cache.await_proof(digest, session, reply, now)
        return reply

    def _checked(
        self, hello: bytes, static: bytes, epochs: Collection[int]
    ) -> tuple[Ends, bytes, int]:
        if not _HELLO.size <= len(hello) <= _HELLO.size + OFFER_MAX:
            raise NumiportError(Fault.MALFORMED, "begins with another length")
        peer, session_id, epoch = _HELLO.unpack_from(hello)
        try:
            ends = Ends(peer, self._identity.public_key)
            image = noise_public_of(peer)
        except InvalidArgument:
            raise NumiportError(Fault.UNKNOWN_PEER, "names a peer that cannot be") from None
        # Both public.
        if image != static:
            raise NumiportError(Fault.UNKNOWN_PEER, "names a peer that its sender is not")
        if not self._permit(peer):
            raise NumiportError(Fault.UNKNOWN_PEER, "is from a peer with whom no sessions are had")
        if epoch not in epochs:
            raise NumiportError(Fault.UNKNOWN_PSK, "is of an epoch that is not now")
        if number_of(session_id) <= self._cache.newest_number(peer):
            raise NumiportError(Fault.REPLAY, "is older than the peer's newest session")
        return ends, session_id, epoch


def _read(noise: NoiseIK, message: bytes) -> bytes:
    try:
        return noise.read_message(message)
    except HandshakeError:
        raise NumiportError(Fault.AEAD_FAIL, "a handshake message does not verify") from None
