# SPDX-License-Identifier: Apache-2.0
"""Flow 0 of a live session: control tags sealed into frames, and frames opened into tags.

A frame is refused whole or taken whole. Repetition is the gate's business: its replay window admits
each sequence number once.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from assent.errors import RemoteError
from assent.handshake.keys import AEAD_TAG_LEN, SessionKeys, open_, seal
from assent.wire.cellid import CellID
from assent.wire.control import ControlTag, decode_tags, encode_tags
from assent.wire.fabric import (
    BLOCK_LEN,
    HEADER_LEN,
    Flags,
    Frame,
    Header,
    signed_bytes,
)
from assent.wire.siphash import siphash24

CONTROL_FLOW: Final = 0
DATA: Final = Flags.DATA | Flags.BLOCK
FIN: Final = Flags.FIN | Flags.BLOCK
FIN_ACK: Final = Flags.FIN | Flags.ACK | Flags.BLOCK

_HANDSHAKE: Final = frozenset({Flags.SYN, Flags.ACK, Flags.SYN | Flags.ACK})
_IN_SESSION: Final = frozenset({DATA, FIN, FIN_ACK})


class ForgedFrame(RemoteError):  # noqa: N818 - says what it is
    """A frame whose tag was not made with the session's header key, or of no known kind."""


def is_handshake(flags: Flags) -> bool:
    """Whether a flow-0 frame belongs to a handshake; FIN's answer does not."""
    return flags & ~Flags.BLOCK in _HANDSHAKE


def room_for_tags(mtu: int) -> int:
    """Bytes that `encode_tags` may return for a frame of at most `mtu` bytes, in whole blocks."""
    sealed = (mtu - HEADER_LEN) // BLOCK_LEN * BLOCK_LEN
    return (sealed - AEAD_TAG_LEN) // BLOCK_LEN * BLOCK_LEN


@dataclass(frozen=True, slots=True)
class Opened:
    """What a frame said.

    Attributes:
        flags: DATA, FIN or FIN_ACK.
        tags: The tags that are known.
        skipped: How many were not.
    """

    flags: Flags
    tags: tuple[ControlTag, ...]
    skipped: int


class FlowZero:
    """Makes and reads the flow-0 frames of one session.

    Args:
        local: The cell of this host.
        remote: The peer.
        keys: Of the session.
        clock: This host's wall clock, ns of TAI.
    """

    def __init__(
        self, local: CellID, remote: CellID, keys: SessionKeys, clock: Callable[[], int]
    ) -> None:
        self._local = local
        self._remote = remote
        self._keys = keys
        self._clock = clock

    def frame(self, seq: int, flags: Flags, tags: Sequence[ControlTag] = ()) -> bytes:
        """One sealed frame, from the fabric header on.

        Args:
            seq: Recorded as used before; never used again.
            flags: DATA, FIN or FIN_ACK.
            tags: May be none: a heartbeat.
        """
        payload = encode_tags(tags)
        if payload:
            payload = seal(
                self._keys.tx_payload,
                payload,
                src=self._local,
                dst=self._remote,
                epoch=self._keys.epoch,
                flow=CONTROL_FLOW,
                seq=seq,
            )
        header = Header(
            self._local,
            self._remote,
            seq,
            flags,
            len(payload),
            flow=CONTROL_FLOW,
            timestamp=self._clock(),
        )
        tag = siphash24(self._keys.tx_header, signed_bytes(header))
        return Frame(replace(header, tag=tag), payload).encode()

    def open(self, header: Header, payload: bytes) -> Opened:
        """Reads a frame from the peer.

        Raises:
            ForgedFrame: Its tag is not the peer's, or it is of no kind that a session knows.
            SealError: Its payload is not the peer's.
            ControlError: Its tags are malformed.
        """
        expected = siphash24(self._keys.rx_header, signed_bytes(header)).to_bytes(8, "little")
        if not hmac.compare_digest(expected, header.tag.to_bytes(8, "little")):
            raise ForgedFrame("the tag does not verify")
        if header.flags not in _IN_SESSION:
            raise ForgedFrame("a frame with no meaning in a session")
        if not payload:
            return Opened(header.flags, (), 0)
        content = open_(
            self._keys.rx_payload,
            payload,
            src=self._remote,
            dst=self._local,
            epoch=self._keys.epoch,
            flow=CONTROL_FLOW,
            seq=header.seq,
        )
        tags, skipped = decode_tags(content)
        return Opened(header.flags, tags, skipped)
