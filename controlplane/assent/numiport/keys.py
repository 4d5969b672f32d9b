# SPDX-License-Identifier: Apache-2.0
"""From one secret that two peers share to the seal of each packet (seed Numiport, section 5.8).

    pre-shared key, or Noise's Split()  =  master
    master --HKDF--> header MAC key     told from junk before anything else is done (mac.py)
           '-------> AEAD keys          one a suite
           '-------> salt               one a session, its two ends and epoch
    salt --BLAKE3--> nonce              one a slot, stream, sequence number and direction

One AEAD key serves both directions and every session of a master, so that no two packets of all of
these may have one nonce. Three things see to it:

- The ids of both ends stand in the salt in one order, the initiator's first, whoever derives it,
  and the direction is told from there.
- Each direction is salted with the session id of its *sender*. A receiver that has been started
  again would otherwise answer under a session that it has answered under before.
- A session id is persisted before it is used, and no place in a session is sealed twice
  (sessions.py).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl import bindings
from nacl.exceptions import CryptoError

from assent.errors import FailedPrecondition, InvalidArgument
from assent.numiport.wire import Class, Fault, NumiportError

MASTER_LEN: Final = 32
KEY_LEN: Final = 32
SALT_LEN: Final = 32
SESSION_ID_LEN: Final = 16
PEER_ID_LEN: Final = 32
TAG_LEN: Final = 16
PAYLOAD_MAX: Final = 0xFFFF

_MAC_LABEL: Final = b"numiport/hmac"
_AEAD_LABEL: Final = b"numiport/aead"
# No key is used in two algorithms.
_SIV_LABEL: Final = b"numiport/aead/aes-256-gcm-siv"
_SALT_LABEL: Final = b"nonce-salt"

_PLACE: Final = struct.Struct("!QIIB")
_EPOCH_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF


class Suite(enum.Enum):
    """How packets are sealed; the value is how a configuration spells it."""

    XCHACHA20_POLY1305 = "xchacha20-poly1305"
    """The default: the nonce is as long as what BLAKE3 makes of a place."""
    AES_256_GCM_SIV = "aes-256-gcm-siv"
    """RFC 8452, whose 12-byte nonce is the first half of the other's. Two places may so come to
    have one nonce, once in 2**48 packets or so; of these, it tells only whether they are equal."""

    @property
    def nonce_len(self) -> int:
        """Bytes of a nonce."""
        return 24 if self is Suite.XCHACHA20_POLY1305 else 12


class Direction(enum.IntEnum):
    """Which way a packet goes; the value is the nonce's last byte."""

    TO_RESPONDER = 0
    TO_INITIATOR = 1


@dataclass(frozen=True, slots=True)
class Ends:
    """The two peers of a session, each named by its Ed25519 public key, 32 bytes.

    Attributes:
        initiator: Who began the handshake; with a pre-shared key, see `of_psk`.
        responder: The other.

    Raises:
        InvalidArgument: An id has another length, or both are one peer.
    """

    initiator: bytes
    responder: bytes

    def __post_init__(self) -> None:
        for name in ("initiator", "responder"):
            length = len(getattr(self, name))
            if length != PEER_ID_LEN:
                raise InvalidArgument(name, f"needs {PEER_ID_LEN} bytes, not {length}")
        if self.initiator == self.responder:
            raise InvalidArgument("responder", "is the initiator")

    @classmethod
    def of_psk(cls, one: bytes, other: bytes) -> Ends:
        """The ends where no handshake says who began: the lower id stands first.

        Raises:
            InvalidArgument: An id has another length, or both are one peer.
        """
        return cls(min(one, other), max(one, other))

    def direction_from(self, sender: bytes) -> Direction:
        """Which way the packets of a peer go.

        Raises:
            InvalidArgument: It is none of the two.
        """
        if sender == self.initiator:
            return Direction.TO_RESPONDER
        if sender == self.responder:
            return Direction.TO_INITIATOR
        raise InvalidArgument("sender", "is not an end of this session")


@dataclass(frozen=True, slots=True)
class Secrets:
    """What two peers derive from their master secret, once for all its sessions.

    Attributes:
        mac: Of the header MAC, HMAC-SHA256, 32 bytes. Secret.
        aead: Of XChaCha20-Poly1305, 32 bytes. Secret.
        siv: Of AES-256-GCM-SIV, 32 bytes. Secret.
    """

    _master: bytes = field(repr=False)
    mac: bytes = field(init=False, repr=False)
    aead: bytes = field(init=False, repr=False)
    siv: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, label in (("mac", _MAC_LABEL), ("aead", _AEAD_LABEL), ("siv", _SIV_LABEL)):
            object.__setattr__(self, name, _hkdf(self._master, label))

    @classmethod
    def from_master(cls, master: bytes) -> Secrets:
        """The secrets of a master secret, 32 bytes.

        Raises:
            InvalidArgument: It has another length.
        """
        return cls(master)

    def salt(self, session_id: bytes, ends: Ends, epoch: int) -> bytes:
        """What sets the nonces of one session apart from all others'; 32 bytes, secret.

        Args:
            session_id: Of the packets' sender, 16 bytes.
            ends: The session's.
            epoch: Of the master secret, 64 bits.

        Raises:
            InvalidArgument: The session id has another length, or the epoch does not fit.
        """
        if len(session_id) != SESSION_ID_LEN:
            raise InvalidArgument(
                "session_id", f"needs {SESSION_ID_LEN} bytes, not {len(session_id)}"
            )
        if not 0 <= epoch <= _EPOCH_MAX:
            raise InvalidArgument("epoch", "does not fit 64 bits")
        # Each part has one length, so that no two sessions spell the same bytes.
        place = session_id + ends.initiator + ends.responder + epoch.to_bytes(8, "big")
        return _hkdf(self._master, _SALT_LABEL + place)


def nonce(salt: bytes, slot: int, stream: int, seq: int, direction: Direction) -> bytes:
    """The 24-byte nonce of a place in a session.

    Args:
        salt: See `Secrets.salt`.
        slot: 64 bits.
        stream: 32 bits.
        seq: 32 bits.
        direction: Which way the packet goes.

    Raises:
        InvalidArgument: The salt has another length, or a number does not fit its place.
    """
    if len(salt) != SALT_LEN:
        raise InvalidArgument("salt", f"needs {SALT_LEN} bytes, not {len(salt)}")
    try:
        place = _PLACE.pack(slot, stream, seq, direction)
    except struct.error:
        raise InvalidArgument("place", "slot, stream or seq is out of range") from None
    return blake3(place, key=salt).digest(length=Suite.XCHACHA20_POLY1305.nonce_len)


@dataclass(frozen=True, slots=True)
class Suites:
    """Which suite seals which class. Both ends are configured alike: nothing on the wire says it.

    Attributes:
        p0: Of votes and of what is critical to leaders. All else has XChaCha20-Poly1305.

    Raises:
        FailedPrecondition: The OpenSSL that is there has no such suite.
    """

    p0: Suite = Suite.XCHACHA20_POLY1305

    def __post_init__(self) -> None:
        if self.p0 is Suite.AES_256_GCM_SIV:
            _siv(bytes(KEY_LEN))

    def of(self, cls: int) -> Suite:
        """The suite of a class."""
        return self.p0 if cls == Class.P0 else Suite.XCHACHA20_POLY1305


class Lane:
    """One direction of one session: its sender seals with it, its receiver opens.

    Args:
        secrets: The two peers'.
        session_id: Of the sender, 16 bytes.
        ends: The session's.
        sender: Whose packets these are, one of the ends.
        epoch: Of the master secret, 64 bits.
        suites: Which suite seals which class.

    Raises:
        InvalidArgument: A value has another length or does not fit.
    """

    __slots__ = ("_direction", "_key", "_salt", "_siv", "_suites", "session_id")

    def __init__(
        self,
        secrets: Secrets,
        session_id: bytes,
        ends: Ends,
        *,
        sender: bytes,
        epoch: int,
        suites: Suites | None = None,
    ) -> None:
        self.session_id = session_id
        self._salt = secrets.salt(session_id, ends, epoch)
        self._direction = ends.direction_from(sender)
        self._suites = suites or Suites()
        self._key = secrets.aead
        uses_siv = self._suites.p0 is Suite.AES_256_GCM_SIV
        self._siv = _siv(secrets.siv) if uses_siv else None

    def seal(
        self, plaintext: bytes, aad: bytes, *, cls: int, slot: int, stream: int, seq: int
    ) -> bytes:
        """Seals a payload; 16 bytes longer than the plaintext.

        The caller never uses one (slot, stream, seq) twice: see `sessions.Places`.

        Args:
            plaintext: At most 65,535 bytes.
            aad: What is covered besides, as `wire` says.
            cls: The packet's class, of which the suite follows.
            slot: Of its header, as the next two.
            stream: 32 bits.
            seq: 32 bits.

        Raises:
            InvalidArgument: The payload is too long, or a number does not fit its place.
        """
        if len(plaintext) > PAYLOAD_MAX:
            raise InvalidArgument("plaintext", f"is longer than {PAYLOAD_MAX} bytes")
        number = nonce(self._salt, slot, stream, seq, self._direction)
        if self._siv is not None and self._suites.of(cls) is Suite.AES_256_GCM_SIV:
            short = number[: Suite.AES_256_GCM_SIV.nonce_len]
            return self._siv.encrypt(short, plaintext, aad)
        sealed: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            plaintext, aad, number, self._key
        )
        return sealed

    def open(
        self, sealed: bytes, aad: bytes, *, cls: int, slot: int, stream: int, seq: int
    ) -> bytes:
        """Opens what `seal` made; the arguments are the same.

        Raises:
            NumiportError: AEAD_FAIL: it is not what the sender sealed for this place.
            InvalidArgument: A number does not fit its place.
        """
        number = nonce(self._salt, slot, stream, seq, self._direction)
        # PyNaCl would take it for a message of negative length.
        if len(sealed) < TAG_LEN:
            raise NumiportError(Fault.AEAD_FAIL, "a sealed payload is shorter than its tag")
        try:
            if self._siv is not None and self._suites.of(cls) is Suite.AES_256_GCM_SIV:
                short = number[: Suite.AES_256_GCM_SIV.nonce_len]
                return self._siv.decrypt(short, sealed, aad)
            payload: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, aad, number, self._key
            )
        except (InvalidTag, CryptoError):
            raise NumiportError(Fault.AEAD_FAIL, "a sealed payload does not open") from None
        return payload


def _hkdf(master: bytes, info: bytes) -> bytes:
    if len(master) != MASTER_LEN:
        raise InvalidArgument("master", f"needs {MASTER_LEN} bytes, not {len(master)}")
    return HKDF(hashes.SHA256(), KEY_LEN, None, info).derive(master)


def _siv(key: bytes) -> AESGCMSIV:
    try:
        return AESGCMSIV(key)
    except UnsupportedAlgorithm:
        raise FailedPrecondition("this OpenSSL has no AES-256-GCM-SIV; it came with 3.2") from None
