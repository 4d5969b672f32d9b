# SPDX-License-Identifier: Apache-2.0
"""Who is behind an LWF hint: BLAKE3 names a key, Ed25519 proves that its owner speaks."""

from __future__ import annotations

from dataclasses import replace

from blake3 import blake3

from assent.errors import InvalidArgument, RemoteError
from assent.identity.cellid import PUBLIC_KEY_LEN
from assent.identity.keys import Identity, verify
from assent.wire.lwf import HINT_LEN, Frame, Hint


class ForeignHintError(RemoteError):
    """A frame whose source hint is not that of the key it is checked against."""


def hint_of(public_key: bytes) -> Hint:
    """The hint of a key: the first 24 bytes of the BLAKE3 of the 32-byte Ed25519 public key.

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_LEN:
        raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(public_key)}")
    return Hint(blake3(public_key).digest(length=HINT_LEN))


def signed(frame: Frame, identity: Identity) -> Frame:
    """The same frame, from this identity and with its signature.

    Raises:
        InvalidArgument: The frame does not fit its form.
    """
    source = hint_of(identity.public_key)
    named = replace(frame, header=replace(frame.header, source=source))
    return replace(named, signature=identity.sign(named.signed_bytes))


def verify_frame(frame: Frame, public_key: bytes) -> None:
    """Checks that a frame is from the owner of a key.

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes.
        ForeignHintError: Its source is another one.
        SignatureError: Its signature is not that of this key over this frame.
    """
    if frame.header.source != hint_of(public_key):
        raise ForeignHintError("the source hint is not that of the key")
    verify(public_key, frame.signed_bytes, frame.signature)
