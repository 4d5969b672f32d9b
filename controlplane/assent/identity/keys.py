"""A node's one key pair, and the secrets that it shares with its peers.

A node has a single Ed25519 key (RFC 8032). Its Curve25519 image, by libsodium's conversion, is the
static key of Noise handshakes, so that knowing a peer's public key is enough for both.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl import bindings
from nacl.exceptions import CryptoError

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RemoteError,
)
from assent.identity.cellid import PUBLIC_KEY_LEN, CellID, from_public_key

SEED_LEN: Final = 32
SIGNATURE_LEN: Final = 64
PSK_LEN: Final = 32

_KEY_FILE_MAX: Final = 4096

Random = Callable[[int], bytes]


class SignatureError(RemoteError):
    """A signature that is not the claimed signer's over these bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """What makes a node itself.

    Attributes:
        seed: The Ed25519 seed, 32 bytes. Secret.
        public_key: The Ed25519 public key, 32 bytes.
        cell_id: The name that follows from the public key.
        noise_private: The Curve25519 image of the secret, 32 bytes. Secret.
        noise_public: The Curve25519 image of the public key, 32 bytes.

    The key that signs is kept expanded: deriving it anew costs as much as a signature.
    """

    seed: bytes = field(repr=False)
    public_key: bytes = field(init=False, repr=False)
    cell_id: CellID = field(init=False)
    noise_private: bytes = field(init=False, repr=False)
    noise_public: bytes = field(init=False, repr=False)
    _signing: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_LEN:
            raise InvalidArgument("seed", f"needs {SEED_LEN} bytes, not {len(self.seed)}")
        public_key, secret_key = bindings.crypto_sign_seed_keypair(self.seed)
        image = bindings.crypto_sign_ed25519_sk_to_curve25519(secret_key)
        object.__setattr__(self, "public_key", public_key)
        object.__setattr__(self, "_signing", secret_key)
        object.__setattr__(self, "cell_id", from_public_key(public_key))
        object.__setattr__(self, "noise_private", image)
        object.__setattr__(self, "noise_public", noise_public_of(public_key))

    @classmethod
    def generate(cls, random: Random = os.urandom) -> Identity:
        """A new identity from 32 bytes of `random`."""
        return cls(random(SEED_LEN))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte seed.

        Raises:
            InvalidArgument: The seed does not have 32 bytes.
        """
        return cls(seed)

    def sign(self, message: bytes) -> bytes:
        """Signs with Ed25519 (RFC 8032, section 5.1.6); 64 bytes, R then S."""
        signed: bytes = bindings.crypto_sign(message, self._signing)
        return signed[:SIGNATURE_LEN]

    def save(self, path: Path) -> None:
        """Writes the key as PEM PKCS #8 (RFC 8410), readable by its owner alone.

        The file appears whole or not at all, and is never replaced.

        Raises:
            AlreadyExists: There is a file at `path`.
            NotFound: Its directory does not exist.
        """
        pem = Ed25519PrivateKey.from_private_bytes(self.seed).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_private(path, pem)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Reads what `save` wrote.

        Raises:
            NotFound: There is no file at `path`.
            FailedPrecondition: Others than its owner may touch the file, or it does not hold an
                unencrypted Ed25519 key.
        """
        pem = _read_private(path)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            raise FailedPrecondition(f"{path} is not an unencrypted PEM private key") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise FailedPrecondition(f"{path} does not hold an Ed25519 key")
        return cls(key.private_bytes_raw())


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Checks an Ed25519 signature (RFC 8032, section 5.1.7).

    Args:
        public_key: The signer's key, 32 bytes.
        message: What was signed.
        signature: 64 bytes, R then S.

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes.
        SignatureError: The signature is not that of this key over this message.
    """
    if len(public_key) != PUBLIC_KEY_LEN:
        raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(public_key)}")
    if len(signature) != SIGNATURE_LEN:
        raise SignatureError("the signature does not verify")
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except CryptoError:
        raise SignatureError("the signature does not verify") from None


def noise_public_of(public_key: bytes) -> bytes:
    """The Curve25519 image of an Ed25519 public key, 32 bytes.

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes, is not a point on the curve, has low
            order, or lies outside the prime-order subgroup.
    """
    if len(public_key) != PUBLIC_KEY_LEN:
        raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(public_key)}")
    try:
        image: bytes = bindings.crypto_sign_ed25519_pk_to_curve25519(public_key)
    except (CryptoError, RuntimeError):
        raise InvalidArgument("public_key", "is not a usable Ed25519 public key") from None
    return image


def generate_psk(random: Random = os.urandom) -> bytes:
    """A new pre-shared key: 32 bytes of `random`."""
    return random(PSK_LEN)


def parse_psk(text: str) -> bytes:
    """Reads a pre-shared key written as 64 hexadecimal digits or as 44 characters of base64.

    Returns:
        The key, 32 bytes.

    Raises:
        InvalidArgument: The text is neither, or the key is all zeros. The text is not repeated.
    """
    stripped = text.strip()
    psk = b""
    with contextlib.suppress(ValueError, binascii.Error):
        if len(stripped) == 2 * PSK_LEN:
            psk = bytes.fromhex(stripped)
        elif len(stripped) == 44:
            psk = base64.b64decode(stripped, validate=True)
    if len(psk) != PSK_LEN:
        raise InvalidArgument("psk", "must be 64 hexadecimal digits or 44 characters of base64")
    # Noise takes a key of zeros for "no key": whoever wrote it has not chosen one.
    if not any(psk):
        raise InvalidArgument("psk", "is all zeros")
    return psk


def _write_private(path: Path, content: bytes) -> None:
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    except FileNotFoundError:
        raise NotFound(f"{path.parent} is not there") from None
    draft = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails where something stands already.
        os.link(draft, path)
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already, and keys are not overwritten") from None
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def require_private(path: Path, status: os.stat_result) -> None:
    """Makes sure that a file that holds a secret is its owner's alone.

    Raises:
        FailedPrecondition: It is not, or it is no regular file.
    """
    if not stat.S_ISREG(status.st_mode):
        raise FailedPrecondition(f"{path} is not a regular file")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FailedPrecondition(
            f"{path} is open to others than its owner; chmod 600 it, or make a new key"
        )


def _read_private(path: Path) -> bytes:
    # Non-blocking, so that a FIFO in the key's place cannot hang the caller.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"{path} is not there") from None
    with os.fdopen(fd, "rb") as file:
        require_private(path, os.fstat(file.fileno()))
        return file.read(_KEY_FILE_MAX)
