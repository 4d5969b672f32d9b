"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (Noise specification, revision 34), one handshake.

    <- s                          the responder's static key is known beforehand
    ...
    -> e, es, s, ss               message 1
    <- e, ee, se, psk             message 2

The library underneath keeps its state in place and loses it when a message does not verify. What a
handshake has seen is therefore remembered here, and `clone` makes a second one that stands at the
same point: a message from the network is tried on a clone, which takes the original's place only if
all is well. The clone takes the library's state with it, and the original makes itself a new one
from what it remembers if it is asked again: only who is sent forged messages pays for them.

Of the library's functions, those that hash are replaced: its own go through two more layers for
each of some sixty hashes of a handshake.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from hashlib import blake2s
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from noise.backends.default import DefaultNoiseBackend
from noise.backends.default.hashes import BLAKE2sHash
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseInvalidMessage, NoiseValueError

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.wire.cellid import CellID

PROTOCOL: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
KEY_LEN: Final = 32
MESSAGE_MAX: Final = 1200
# e, then s and the payload, each with the 16 bytes of its tag.
_OVERHEAD: Final = (32 + 32 + 16 + 16, 32 + 16)

_PROLOGUE: Final = b"assent-utcp-v1"


class _Hash(BLAKE2sHash):  # type: ignore[misc]
    def hash(self, data: bytes) -> bytes:
        return blake2s(data).digest()


_BLOCK_LEN: Final = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def _hmac(key: bytes, data: bytes, algorithm: object) -> bytes:
    """HMAC (RFC 2104) with BLAKE2s, under one of Noise's own keys: none is longer than a block."""
    block = key.ljust(_BLOCK_LEN, b"\0")
    inner = blake2s(block.translate(_INNER) + data).digest()
    return blake2s(block.translate(_OUTER) + inner).digest()


class _Backend(DefaultNoiseBackend):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.hashes["BLAKE2s"] = _Hash
        self.hmac = _hmac


_BACKEND: Final = _Backend()


# A host has few static keys, and to expand one costs more than to use it.
_static_pair: Final = lru_cache(maxsize=16)(KeyPair25519.from_private_bytes)


class HandshakeError(RemoteError):
    """A handshake message that is not what the right peer would have sent.

    Which check failed is not told: to a forger it would be a hint, to an operator it is always the
    same few causes (another pre-shared key, another identity key, a damaged or forged frame).
    """


def prologue(src: CellID, dst: CellID) -> bytes:
    """What both sides mix in first: the protocol's name and both cells (design, "Flow 0").

    Args:
        src: The initiator.
        dst: The responder.
    """
    return _PROLOGUE + src.raw + dst.raw


class NoiseIK:
    """One side of one handshake: two messages, then `split`."""

    def __init__(
        self,
        *,
        initiator: bool,
        static: bytes,
        remote_static: bytes | None,
        psk: bytes,
        ephemeral: bytes,
        prologue: bytes,
    ) -> None:
        """Use `initiate` or `respond`."""
        for name, key in (
            ("static", static),
            ("remote_static", remote_static),
            ("psk", psk),
            ("ephemeral", ephemeral),
        ):
            if key is not None and len(key) != KEY_LEN:
                raise InvalidArgument(name, f"needs {KEY_LEN} bytes, not {len(key)}")
        self._initiator = initiator
        self._static = static
        self._remote = remote_static
        self._psk = psk
        self._ephemeral = ephemeral
        self._prologue = prologue
        self._remote_seen: bytes | None = remote_static
        # Each message so far: what was written as payload, or read as message.
        self._transcript: list[bytes] = []
        self._live = True
        self._state: Any = self._begin()

    @classmethod
    def initiate(
        cls, *, static: bytes, remote_static: bytes, psk: bytes, ephemeral: bytes, prologue: bytes
    ) -> NoiseIK:
        """The side that sends message 1.

        Args:
            static: Our X25519 private key, 32 bytes.
            remote_static: The responder's X25519 public key, 32 bytes.
            psk: The pre-shared key, 32 bytes.
            ephemeral: An X25519 private key that is used here and never again, 32 random bytes.
            prologue: See `prologue`.

        Raises:
            InvalidArgument: A key has another length.
        """
        return cls(
            initiator=True,
            static=static,
            remote_static=remote_static,
            psk=psk,
            ephemeral=ephemeral,
            prologue=prologue,
        )

    @classmethod
    def respond(cls, *, static: bytes, psk: bytes, ephemeral: bytes, prologue: bytes) -> NoiseIK:
        """The side that sends message 2; the arguments are those of `initiate`.

        Raises:
            InvalidArgument: A key has another length.
        """
        return cls(
            initiator=False,
            static=static,
            remote_static=None,
            psk=psk,
            ephemeral=ephemeral,
            prologue=prologue,
        )

    # The library carries no type annotations, so its objects are Any here and nowhere else.
    def _begin(self) -> Any:
        state = NoiseConnection.from_name(PROTOCOL, _BACKEND)
        if self._initiator:
            state.set_as_initiator()
            state.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self._remote)
        else:
            state.set_as_responder()
        state.noise_protocol.keypairs["s"] = _static_pair(self._static)
        state.set_psks(psk=self._psk)
        state.set_prologue(self._prologue)
        # The library would draw its ephemeral key from the system. Ours is injected.
        ephemeral = KeyPair25519.from_private_bytes(self._ephemeral)
        state.noise_protocol.dh_fn.generate_keypair = lambda: ephemeral
        state.start_handshake()
        return state

    def clone(self) -> NoiseIK:
        """A second handshake at the same point, independent of this one."""
        twin = copy.copy(self)
        twin._transcript = self._transcript.copy()
        # What has failed is not handed on.
        twin._state = self._state if self._live else None
        twin._live = True
        self._state = None
        return twin

    def _held_state(self) -> Any:
        """The library's state; made anew where a clone has taken it."""
        if self._state is None:
            self._state = self._begin()
            for turn, content in enumerate(self._transcript):
                if self._writes(turn):
                    self._state.write_message(content)
                else:
                    self._state.read_message(content)
        return self._state

    def _writes(self, turn: int) -> bool:
        return (turn == 0) == self._initiator

    def _expect(self, *, writing: bool) -> int:
        turn = len(self._transcript)
        if not self._live or turn >= len(_OVERHEAD) or self._writes(turn) != writing:
            raise FailedPrecondition("the handshake does not stand at that message")
        return turn

    def write_message(self, payload: bytes) -> bytes:
        """Writes our message, with `payload` sealed in it.

        Raises:
            FailedPrecondition: It is not our turn.
            InvalidArgument: The message would be longer than 1200 bytes.
            HandshakeError: The peer's keys lead nowhere (a point of low order).
        """
        turn = self._expect(writing=True)
        if len(payload) + _OVERHEAD[turn] > MESSAGE_MAX:
            raise InvalidArgument("payload", "is too long for a handshake message")
        try:
            message = bytes(self._held_state().write_message(payload))
        except ValueError:
            self._live = False
            raise HandshakeError("the handshake message does not verify") from None
        self._transcript.append(payload)
        return message

    def read_message(self, message: bytes) -> bytes:
        """Reads the peer's message and returns the payload that was sealed in it.

        After a failure the handshake is of no further use; see `clone`.

        Raises:
            FailedPrecondition: It is not the peer's turn.
            HandshakeError: The message is malformed or does not verify.
        """
        turn = self._expect(writing=False)
        if not _OVERHEAD[turn] <= len(message) <= MESSAGE_MAX:
            raise HandshakeError("a handshake message of impossible length")
        # Taken before: the library drops this object when it reads the last message.
        state = self._held_state()
        handshake = state.noise_protocol.handshake_state
        try:
            payload = bytes(state.read_message(message))
        except (InvalidTag, NoiseInvalidMessage, NoiseValueError, ValueError):
            self._live = False
            raise HandshakeError("the handshake message does not verify") from None
        self._remote_seen = bytes(handshake.rs.public_bytes)
        self._transcript.append(message)
        return payload

    @property
    def remote_static(self) -> bytes:
        """The peer's X25519 public key, 32 bytes. Whose it is, is for the caller to check.

        Raises:
            FailedPrecondition: The responder has not read message 1.
        """
        if self._remote_seen is None:
            raise FailedPrecondition("the initiator's key is not known before message 1")
        return self._remote_seen

    def split(self) -> tuple[bytes, bytes]:
        """The two 32-byte keys of Split(): initiator to responder, then responder to initiator.

        Raises:
            FailedPrecondition: Not both messages have passed.
        """
        if not self._live or len(self._transcript) != len(_OVERHEAD):
            raise FailedPrecondition("the handshake is not complete")
        protocol = self._held_state().noise_protocol
        ours, theirs = protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
        return (bytes(ours), bytes(theirs)) if self._initiator else (bytes(theirs), bytes(ours))

    @property
    def handshake_hash(self) -> bytes:
        """The transcript hash, 32 bytes. Public: it names the handshake and is never a key.

        Raises:
            FailedPrecondition: Not both messages have passed.
        """
        if not self._live or len(self._transcript) != len(_OVERHEAD):
            raise FailedPrecondition("the handshake is not complete")
        return bytes(self._held_state().get_handshake_hash())
