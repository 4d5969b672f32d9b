# SPDX-License-Identifier: Apache-2.0
"""What a captured fabric frame says, to its last byte.

Header, padding, seal, records or control tags: each byte of a frame is accounted for, or the frame
is refused with the reason. Without the session's keys, a sealed payload stays closed.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from assent.errors import RemoteError
from assent.handshake.keys import AEAD_TAG_LEN, open_
from assent.wire.cellid import CellID
from assent.wire.control import ControlTag, Gaps, Tag, decode_gaps, decode_tags
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import ETHERTYPE, Flags, Frame, FrameError, Header, header_tag
from assent.wire.records import Record, decode_records

PAYLOAD_KEY_LEN: Final = 32
HEADER_KEY_LEN: Final = 16

_VLAN: Final = b"\x81\x00"
_HANDSHAKE: Final = frozenset({Flags.SYN, Flags.SYN | Flags.ACK, Flags.ACK})


class DissectError(RemoteError):
    """A frame with bytes, or a combination of flags, that mean nothing."""


class Kind(enum.StrEnum):
    """What a frame is for."""

    HANDSHAKE = "handshake"
    CONTROL = "control"
    HEARTBEAT = "heartbeat"
    CLOSE = "close"
    DATA = "data"
    PROBE = "probe"
    RECEIPT = "receipt"
    ACK = "ack"
    NACK = "nack"
    GAPS = "gaps"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class DirectionKeys:
    """What opens the frames from one cell to another, within one session.

    Attributes:
        src: The sender.
        dst: The receiver.
        epoch: Of the session.
        payload_key: 32 bytes.
        header_key: 16 bytes; None where tags are not to be checked.
    """

    src: CellID
    dst: CellID
    epoch: int
    payload_key: bytes = field(repr=False)
    header_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Dissected:
    """A frame.

    Attributes:
        kind: What it is for.
        header: As it stands.
        records: Of a data frame that was opened.
        tags: Of a frame with control tags that was opened.
        skipped: Tags that are not known.
        closed: Whether its payload is sealed, and no key opens it.
    """

    kind: Kind
    header: Header
    records: tuple[Record, ...] = ()
    tags: tuple[ControlTag, ...] = ()
    skipped: int = 0
    closed: bool = False

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """First number and count of the ranges that it asks for."""
        if self.kind is Kind.GAPS and self.tags:
            return Gaps.from_body(self.tags[0].body).gaps
        return ((self.header.nack_slot, 1),) if self.header.flags & Flags.NACK else ()


Keyring = Mapping[tuple[CellID, CellID], tuple[DirectionKeys, ...]]


def keyring(keys: Iterable[DirectionKeys]) -> Keyring:
    """Keys by sender and receiver; of several epochs, all are tried."""
    ring: dict[tuple[CellID, CellID], tuple[DirectionKeys, ...]] = {}
    for key in keys:
        ring[key.src, key.dst] = (*ring.get((key.src, key.dst), ()), key)
    return ring


def dump_keys(keys: Iterable[DirectionKeys]) -> str:
    """Keys as a file holds them: JSON, an object a line."""
    return "".join(
        json.dumps(
            {
                "src": key.src.raw.hex(),
                "dst": key.dst.raw.hex(),
                "epoch": key.epoch,
                "payload_key": key.payload_key.hex(),
                "header_key": None if key.header_key is None else key.header_key.hex(),
            }
        )
        + "\n"
        for key in keys
    )


def load_keys(text: str) -> list[DirectionKeys]:
    """Reads what `dump_keys` wrote.

    Raises:
        DissectError: It is something else. The message does not repeat it.
    """
    try:
        return [_key_of(json.loads(line)) for line in text.splitlines() if line.strip()]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DissectError("a file of keys has one JSON object a line, as written") from None


def dissect(captured: bytes, keys: Keyring) -> Dissected | None:
    """Reads an Ethernet frame, with one VLAN tag or none.

    Args:
        captured: All of it.
        keys: Of the sessions.

    Returns:
        What it says; None if it is no fabric frame.

    Raises:
        FrameError: It is malformed.
        DissectError: Its tag is not its sender's, or its flags mean nothing.
        SealError: Its payload is not what its sender sealed.
        RecordError: Its payload is no sequence of records.
        ControlError: Its tags are malformed.
    """
    at = ETHERNET_HEADER_LEN + 4 * (captured[12:14] == _VLAN)
    if captured[at - 2 : at] != ETHERTYPE.to_bytes(2, "big"):
        return None
    frame = Frame.decode(captured[at:])
    kind = _kind_of(frame)
    if kind is Kind.HANDSHAKE:
        # Under the admission key; its Noise message is for its receiver alone.
        tags, skipped = decode_tags(frame.payload)
        if [tag.tag for tag in tags] != [Tag.HAIL]:
            raise DissectError("a handshake frame carries one HAIL")
        return Dissected(kind, frame.header, tags=tags, skipped=skipped)
    key = _key_for(frame.header, keys)
    if not frame.payload:
        return Dissected(kind, frame.header)
    if key is None:
        return Dissected(kind, frame.header, closed=True)
    return _opened(kind, frame, key)


def _opened(kind: Kind, frame: Frame, key: DirectionKeys) -> Dissected:
    header = frame.header
    plain = open_(
        key.payload_key,
        frame.payload,
        src=header.src,
        dst=header.dst,
        epoch=key.epoch,
        flow=header.flow,
        seq=header.seq,
    )
    if kind is Kind.DATA:
        return Dissected(kind, header, records=decode_records(plain))
    if kind is Kind.GAPS and decode_gaps(plain).gaps[0][0] != header.nack_slot:
        raise DissectError("nack_slot is not the first of the gaps")
    tags, skipped = decode_tags(plain)
    return Dissected(kind, header, tags=tags, skipped=skipped)


def _kind_of(frame: Frame) -> Kind:
    flags = frame.header.flags & ~Flags.BLOCK
    if 0 < len(frame.payload) <= AEAD_TAG_LEN and flags not in _HANDSHAKE:
        raise FrameError("a payload that is shorter than its seal")
    if frame.header.flow:
        return _kind_of_data(flags, bool(frame.payload))
    if flags in _HANDSHAKE:
        return Kind.HANDSHAKE
    if flags == Flags.DATA:
        return Kind.CONTROL if frame.payload else Kind.HEARTBEAT
    if flags in {Flags.FIN, Flags.FIN | Flags.ACK}:
        return Kind.CLOSE
    raise DissectError(f"flags 0x{flags:04x} mean nothing on flow 0")


def _kind_of_data(flags: Flags, payload: bool) -> Kind:
    """Of a data flow's frame; NACK may stand beside whatever else it is."""
    known = {
        (Flags.DATA, True): Kind.DATA,
        (Flags.DATA | Flags.LAMP, True): Kind.DATA,
        (Flags.DATA, False): Kind.PROBE,
        (Flags.ACK, False): Kind.ACK,
        (Flags.FIN, False): Kind.VOID,
        (Flags(0), False): Kind.RECEIPT,
        (Flags.NACK, False): Kind.NACK,
        (Flags.NACK, True): Kind.GAPS,
    }
    bare = flags & ~Flags.NACK
    kind = known.get((flags, payload)) or known.get((bare, payload))
    # In these, nack_slot says something else.
    if kind is None or (flags != bare and kind in {Kind.ACK, Kind.VOID}):
        raise DissectError(f"flags 0x{flags:04x} mean nothing on a data flow")
    return kind


def _key_for(header: Header, keys: Keyring) -> DirectionKeys | None:
    candidates = keys.get((header.src, header.dst), ())
    if not candidates:
        return None
    for key in candidates:
        if key.header_key is None or header_tag(key.header_key, header) == header.tag:
            return key
    raise DissectError("the tag was made with none of the keys")


def _key_of(said: Mapping[str, str | int | None]) -> DirectionKeys:
    epoch, header_key = said["epoch"], said["header_key"]
    payload_key = bytes.fromhex(str(said["payload_key"]))
    checked = None if header_key is None else bytes.fromhex(str(header_key))
    if type(epoch) is not int or len(payload_key) != PAYLOAD_KEY_LEN:
        raise ValueError
    if checked is not None and len(checked) != HEADER_KEY_LEN:
        raise ValueError
    src, dst = (CellID(bytes.fromhex(str(said[name]))) for name in ("src", "dst"))
    return DirectionKeys(src, dst, epoch, payload_key, checked)
