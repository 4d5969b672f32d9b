"""The key schedule: from a pre-shared key and a Noise Split() to the keys of frames.

    static secret --HKDF--> psk          where a covenant joins two cells, and none was set
    psk --HKDF--> admission key          tags handshake frames
    Split() --HKDF--> payload key 32     ChaCha20-Poly1305, one each way
                 |--> header key 16      SipHash-2-4, one each way
                 '--> confirmation key   the initiator's proof that it has the others

All of them are HKDF with SHA-256 (RFC 5869). The info of each names its use, the epoch and the
direction, so that no two keys of any two sessions coincide unless a whole handshake does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_scalarmult

from assent.errors import InvalidArgument, RemoteError
from assent.wire.cellid import CellID

PAYLOAD_KEY_LEN: Final = 32
HEADER_KEY_LEN: Final = 16
SECRET_LEN: Final = 32
AEAD_TAG_LEN: Final = 16

_PAYLOAD_LABEL: Final = b"assent payload v1"
_HEADER_LABEL: Final = b"assent header v1"
_CONFIRM_LABEL: Final = b"assent confirm v1"
_COVENANT_LABEL: Final = b"assent covenant psk v1"
_ADMISSION_SALT: Final = b"assent-admission-v1"

Split = tuple[bytes, bytes]


class SealError(RemoteError):
    """A sealed payload that does not open: damaged, forged, or not for this place."""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The four keys of one session, as one side sees them.

    Attributes:
        epoch: The session's epoch, 32 bits.
        tx_payload: Seals what we send, 32 bytes. Secret.
        tx_header: Tags what we send, 16 bytes. Secret.
        rx_payload: Opens what arrives, 32 bytes. Secret.
        rx_header: Checks what arrives, 16 bytes. Secret.
    """

    epoch: int
    tx_payload: bytes = field(repr=False)
    tx_header: bytes = field(repr=False)
    rx_payload: bytes = field(repr=False)
    rx_header: bytes = field(repr=False)


def _hkdf(secret: bytes, length: int, info: bytes, salt: bytes | None = None) -> bytes:
    if len(secret) != SECRET_LEN:
        raise InvalidArgument("secret", f"needs {SECRET_LEN} bytes, not {len(secret)}")
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def _info(label: bytes, epoch: int, src: CellID, dst: CellID) -> bytes:
    if not 0 <= epoch < 1 << 32:
        raise InvalidArgument("epoch", "does not fit 32 bits")
    return label + epoch.to_bytes(4, "big") + src.raw + dst.raw


def derive_session_keys(
    split: Split, *, initiator: bool, local: CellID, peer: CellID, epoch: int
) -> SessionKeys:
    """The keys of a session. Both sides get the same four, with tx and rx exchanged.

    Args:
        split: Initiator to responder, responder to initiator; 32 bytes each.
        initiator: Whether `local` is the initiator.
        local: Our cell.
        peer: The other cell.
        epoch: The epoch that the responder settled, 32 bits.

    Raises:
        InvalidArgument: A length or the epoch is out of range.
    """
    tx, rx = split if initiator else (split[1], split[0])
    return SessionKeys(
        epoch,
        tx_payload=_hkdf(tx, PAYLOAD_KEY_LEN, _info(_PAYLOAD_LABEL, epoch, local, peer)),
        tx_header=_hkdf(tx, HEADER_KEY_LEN, _info(_HEADER_LABEL, epoch, local, peer)),
        rx_payload=_hkdf(rx, PAYLOAD_KEY_LEN, _info(_PAYLOAD_LABEL, epoch, peer, local)),
        rx_header=_hkdf(rx, HEADER_KEY_LEN, _info(_HEADER_LABEL, epoch, peer, local)),
    )


def confirmation_key(split: Split, initiator: CellID, responder: CellID, epoch: int) -> bytes:
    """The key under which the initiator proves that it has derived the others; 32 bytes.

    Raises:
        InvalidArgument: A length or the epoch is out of range.
    """
    return _hkdf(split[0], PAYLOAD_KEY_LEN, _info(_CONFIRM_LABEL, epoch, initiator, responder))


def covenant_psk(private: bytes, peer_public: bytes, digest: bytes) -> bytes:
    """The pre-shared key of two cells that a covenant joins; 32 bytes, the same for both.

    HKDF of their static Curve25519 secret: who is none of the two cannot make it. It lets
    handshake frames be told from junk; the handshake proves both keys again.

    Args:
        private: Our Curve25519 key, 32 bytes.
        peer_public: The peer's, 32 bytes.
        digest: Of the covenant, 32 bytes.
    """
    return _hkdf(crypto_scalarmult(private, peer_public), SECRET_LEN, _COVENANT_LABEL + digest)


def admission_key(psk: bytes, src: CellID, dst: CellID) -> bytes:
    """The key that tags handshake frames from `src` to `dst`; 16 bytes.

    Args:
        psk: The pre-shared key of the two cells, 32 bytes.
        src: The sender of the frames.
        dst: Their receiver.

    Raises:
        InvalidArgument: `psk` does not have 32 bytes.
    """
    return _hkdf(psk, HEADER_KEY_LEN, src.raw + dst.raw, _ADMISSION_SALT)


def admission_keys(psks: Sequence[bytes], pairs: Sequence[tuple[CellID, CellID]]) -> list[bytes]:
    """Many admission keys: what `admission_key` returns for each, by the native library.

    Args:
        psks: 32 bytes each.
        pairs: As many: sender and receiver.

    Raises:
        InvalidArgument: A key does not have 32 bytes, or there are not as many pairs.
    """
    from assent._native import ffi, lib

    if any(len(psk) != SECRET_LEN for psk in psks):
        raise InvalidArgument("psks", f"need {SECRET_LEN} bytes each")
    if len(psks) != len(pairs):
        raise InvalidArgument("pairs", "needs one for each key")
    keys = ffi.new("uint8_t[]", max(len(psks), 1) * HEADER_KEY_LEN)
    cells = b"".join([src.raw + dst.raw for src, dst in pairs])
    if lib.an_admission_keys(b"".join(psks), cells, len(psks), keys):
        raise MemoryError("no memory for the key derivation")
    raw = bytes(ffi.buffer(keys))
    return [
        raw[at : at + HEADER_KEY_LEN] for at in range(0, len(psks) * HEADER_KEY_LEN, HEADER_KEY_LEN)
    ]


def nonce(epoch: int, flow: int, seq: int) -> bytes:
    """The 12-byte nonce of a payload: two zero bytes, epoch, flow, seq (design, "Fabric frame").

    Raises:
        InvalidArgument: A number does not fit its place.
    """
    try:
        return struct.pack("!2xIHI", epoch, flow, seq)
    except struct.error:
        raise InvalidArgument("nonce", "epoch, flow or seq is out of range") from None


def aad(src: CellID, dst: CellID, seq: int, flow: int) -> bytes:
    """The 38 bytes that a payload's seal covers besides the payload (design, "Fabric frame").

    Raises:
        InvalidArgument: A number does not fit its place.
    """
    try:
        return struct.pack("!16s16sIH", src.raw, dst.raw, seq, flow)
    except struct.error:
        raise InvalidArgument("aad", "seq or flow is out of range") from None


def seal(
    key: bytes, plaintext: bytes, *, src: CellID, dst: CellID, epoch: int, flow: int, seq: int
) -> bytes:
    """Seals a payload with ChaCha20-Poly1305 (RFC 8439); 16 bytes longer than the plaintext.

    The caller never uses one (key, flow, seq) twice with different plaintexts.

    Raises:
        InvalidArgument: A number does not fit its place.
    """
    return ChaCha20Poly1305(key).encrypt(
        nonce(epoch, flow, seq), plaintext, aad(src, dst, seq, flow)
    )


def open_(
    key: bytes, sealed: bytes, *, src: CellID, dst: CellID, epoch: int, flow: int, seq: int
) -> bytes:
    """Opens what `seal` made.

    Raises:
        InvalidArgument: A number does not fit its place.
        SealError: It is not what `src` sealed for this place.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(
            nonce(epoch, flow, seq), sealed, aad(src, dst, seq, flow)
        )
    except InvalidTag:
        raise SealError("a sealed payload does not open") from None
