# SPDX-License-Identifier: Apache-2.0
"""Control tags: what flow 0 carries (design, "Flow 0: control tags").

A payload is a sequence of tags, each on a 64-byte boundary: `tag` u16, `length` u16, `ref` u32,
big-endian; then a CBOR body of `length` bytes; then zeros up to the boundary. Messages of data
flows that need to say more than bytes (a resumed transfer, storage, tensors) begin in the same way.

The rules of a body stand in `control_body`, its kinds in the modules named after their tags; all
that others need of them is importable from here. Keys that a body does not know are ignored.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import (
    MAX_BODY,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_REASON,
    ControlError,
    decode_body,
    encode_body,
)
from assent.wire.control_covenant import (
    BEYOND_LEN,
    CovenantParcel,
    CovenantPiece,
)
from assent.wire.control_flow import (
    MAX_GAPS,
    MAX_LABEL,
    Close,
    Define,
    Delivery,
    FlowClass,
    Gaps,
    Grant,
)
from assent.wire.control_hail import (
    GRANT_SHIFT_MAX,
    GRANT_UNITS_MAX,
    MAX_CAP_LEN,
    MAX_CAPS,
    MAX_VERSIONS,
    MTU_MIN,
    Hail,
    HailPayload,
)
from assent.wire.control_manifest import (
    ANY_CONTENT,
    DIGEST_LEN,
    MAX_CONTENT_TYPE,
    MAX_NAME,
    Manifest,
    ManifestItem,
)
from assent.wire.control_storage import (
    HASH_LEN,
    MAX_BLOCK,
    MAX_HASHES,
    BlockPut,
    BlockWant,
    DagSync,
)
from assent.wire.control_tensor import (
    Tensor,
)
from assent.wire.fabric import BLOCK_LEN, padded_len

__all__ = [
    "ANY_CONTENT",
    "BEYOND_LEN",
    "DIGEST_LEN",
    "GRANT_SHIFT_MAX",
    "GRANT_UNITS_MAX",
    "HASH_LEN",
    "MAX_BLOCK",
    "MAX_BODY",
    "MAX_CAPS",
    "MAX_CAP_LEN",
    "MAX_CONTENT_TYPE",
    "MAX_DEPTH",
    "MAX_GAPS",
    "MAX_HASHES",
    "MAX_ITEMS",
    "MAX_LABEL",
    "MAX_NAME",
    "MAX_REASON",
    "MAX_TAGS",
    "MAX_VERSIONS",
    "MTU_MIN",
    "TAG_HEAD_LEN",
    "TAG_MAX_LEN",
    "BlockPut",
    "BlockWant",
    "Close",
    "ControlError",
    "ControlTag",
    "CovenantParcel",
    "CovenantPiece",
    "DagSync",
    "Define",
    "Delivery",
    "FlowClass",
    "Gaps",
    "Grant",
    "Hail",
    "HailPayload",
    "Manifest",
    "ManifestItem",
    "Tag",
    "Tensor",
    "decode_body",
    "decode_gaps",
    "decode_tag",
    "decode_tags",
    "encode_body",
    "encode_gaps",
    "encode_tags",
    "tag_len",
]

MAX_TAGS: Final = 16

_HEAD: Final = struct.Struct("!HHI")
TAG_HEAD_LEN: Final = _HEAD.size
TAG_MAX_LEN: Final = padded_len(TAG_HEAD_LEN + MAX_BODY)
"""Bytes that a tag takes at most."""


class Tag(enum.IntEnum):
    """What a control tag says."""

    HAIL = 1
    DEFINE = 2
    MANIFEST = 3
    GRANT = 4
    GAPS = 5
    COVENANT = 6
    BLOCK_WANT = 7
    BLOCK_PUT = 8
    DAG_SYNC = 9
    TENSOR = 10
    CLOSE = 11


_KNOWN_TAGS: Final = frozenset(Tag)


@dataclass(frozen=True, slots=True)
class ControlTag:
    """One control tag.

    Attributes:
        tag: A `Tag`, or a number that is not known yet; 16 bits.
        ref: Ties an answer to a question, 32 bits; 0 where there is none.
        body: A CBOR value within the bounds of this module.
    """

    tag: int
    ref: int
    body: object


def encode_tags(tags: Sequence[ControlTag]) -> bytes:
    """A flow-0 payload: whole 64-byte blocks, tag after tag.

    Args:
        tags: At most 16.

    Raises:
        InvalidArgument: There are more, or one does not fit the bounds of this module.
    """
    if len(tags) > MAX_TAGS:
        raise InvalidArgument("tags", f"at most {MAX_TAGS} fit a frame")
    payload = bytearray()
    for tag in tags:
        body = encode_body(tag.body)
        try:
            payload += _HEAD.pack(tag.tag, len(body), tag.ref)
        except struct.error:
            raise InvalidArgument("tags", "tag or ref is out of range") from None
        payload += body
        payload += bytes(padded_len(len(payload)) - len(payload))
    return bytes(payload)


def decode_tags(buf: bytes) -> tuple[tuple[ControlTag, ...], int]:
    """Reads a flow-0 payload.

    Returns:
        The tags that are known, in order, and how many unknown ones were skipped. The bodies of
        unknown tags are not looked at.

    Raises:
        ControlError: The payload is not whole blocks, holds more than 16 tags, a length runs over
            the end, padding is not zero, or a body breaks the bounds of this module.
    """
    if len(buf) % BLOCK_LEN:
        raise ControlError("a control payload is whole 64-byte blocks")
    known: list[ControlTag] = []
    skipped = offset = 0
    while offset < len(buf):
        if len(known) + skipped == MAX_TAGS:
            raise ControlError(f"more than {MAX_TAGS} tags")
        tag, offset = decode_tag(buf, offset)
        if tag is None:
            skipped += 1
        else:
            known.append(tag)
    return tuple(known), skipped


def decode_gaps(plain: bytes) -> Gaps:
    """Reads what a GAPS frame of a data flow carries: that one tag, to the bit.

    Raises:
        ControlError: It is anything else, or the same in another form.
    """
    tags, _ = decode_tags(plain)
    if [tag.tag for tag in tags] != [Tag.GAPS]:
        raise ControlError("a frame of gaps carries one GAPS")
    gaps = Gaps.from_body(tags[0].body)
    if encode_gaps(gaps) != plain:
        raise ControlError("a GAPS of another form than that of its frames")
    return gaps


def encode_gaps(gaps: Gaps) -> bytes:
    """What a GAPS frame of a data flow carries: whole 64-byte blocks."""
    return encode_tags([ControlTag(Tag.GAPS, 0, gaps.to_body())])


def tag_len(head: bytes | bytearray) -> int:
    """Bytes that a tag takes, padding included.

    Args:
        head: Its beginning, at least 8 bytes.

    Raises:
        ControlError: It says that its body is longer than a body may be.
    """
    length: int = _HEAD.unpack_from(head)[1]
    if length > MAX_BODY:
        raise ControlError(f"a body has at most {MAX_BODY} bytes, not {length}")
    return padded_len(TAG_HEAD_LEN + length)


def decode_tag(buf: bytes, offset: int = 0) -> tuple[ControlTag | None, int]:
    """Reads the tag at `offset`, with no opinion on what follows it.

    Returns:
        The tag, None if it is not known, and where its padding ends.

    Raises:
        ControlError: A length runs over the end, padding is not zero, or the body breaks the bounds
            of this module.
    """
    if offset + _HEAD.size > len(buf):
        raise ControlError("a tag runs over the end of the payload")
    tag, length, ref = _HEAD.unpack_from(buf, offset)
    start = offset + _HEAD.size
    end = start + length
    after = offset + padded_len(TAG_HEAD_LEN + length)
    if after > len(buf):
        raise ControlError("a tag runs over the end of the payload")
    if any(buf[end:after]):
        raise ControlError("padding is not zero")
    if tag not in _KNOWN_TAGS:
        return None, after
    return ControlTag(Tag(tag), ref, decode_body(buf[start:end])), after
