"""Control tags: what flow 0 carries (design, "Flow 0: control tags").

A flow-0 payload is a sequence of tags, each on a 64-byte boundary: `tag` u16, `length` u16, `ref`
u32, big-endian; then a CBOR body of `length` bytes; then zeros up to the boundary.

Bodies keep to a small, deterministic part of CBOR (RFC 8949, section 4.2.1): definite lengths,
shortest forms, no CBOR tags, text keys without repetition. The one exception is the map `grants`,
whose keys are flow numbers. Every body is measured item by item before a decoder builds anything
from it, so that a few hostile bytes cannot ask for much memory or depth.

A typed body checks its own values: made locally, a bad one raises `InvalidArgument`; read from a
peer, `ControlError`. Keys that a body does not know are ignored.
"""

from __future__ import annotations

import enum
import re
import struct
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import cbor2

from assent.errors import InvalidArgument, RemoteError
from assent.wire.fabric import BLOCK_LEN, padded_len

MAX_TAGS: Final = 16
MAX_BODY: Final = 1400
MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 256
MAX_NAME: Final = 255
MAX_CONTENT_TYPE: Final = 127
ANY_CONTENT: Final = "application/octet-stream"
"""The content type of what nothing is known of."""
MAX_REASON: Final = 255
MAX_CAPS: Final = 32
MAX_CAP_LEN: Final = 64
MAX_VERSIONS: Final = 16
MTU_MIN: Final = 512
GRANT_SHIFT_MAX: Final = 15
# Half of the range of a header's grant field: more could not be told from less.
GRANT_UNITS_MAX: Final = 0x7FFF
DIGEST_LEN: Final[Mapping[str, int]] = types.MappingProxyType({"sha256": 32})

BEYOND_LEN: Final = 8

_HEAD: Final = struct.Struct("!HHI")
TAG_HEAD_LEN: Final = _HEAD.size
# RFC 6838, section 4.2: restricted names, of which only one spelling is taken.
_CONTENT_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
_INT_KEYED: Final = b"\x66grants"
_U16_MAX: Final = 0xFFFF
_U32_MAX: Final = 0xFFFF_FFFF
_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF

_T = TypeVar("_T")


class ControlError(RemoteError):
    """A flow-0 payload that is malformed, or asks for more than the bounds allow."""


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
        tag, length, ref = _HEAD.unpack_from(buf, offset)
        start = offset + _HEAD.size
        end = start + length
        offset = padded_len(end)
        if offset > len(buf):
            raise ControlError("a tag runs over the end of the payload")
        if any(buf[end:offset]):
            raise ControlError("padding is not zero")
        if tag in _KNOWN_TAGS:
            known.append(ControlTag(Tag(tag), ref, decode_body(buf[start:end])))
        else:
            skipped += 1
    return tuple(known), skipped


def encode_body(body: object) -> bytes:
    """Canonical CBOR of one body.

    Raises:
        InvalidArgument: The body does not fit the bounds of this module.
    """
    try:
        encoded = cbor2.dumps(body, canonical=True)
        _measure(encoded)
    except (cbor2.CBOREncodeError, ValueError, RecursionError, ControlError):
        raise InvalidArgument("body", "is not CBOR within the bounds of a control tag") from None
    return encoded


def decode_body(buf: bytes) -> object:
    """Reads one CBOR body.

    Raises:
        ControlError: The body breaks the bounds of this module.
    """
    _measure(buf)
    try:
        body: object = cbor2.loads(buf)
    except (cbor2.CBORDecodeError, ValueError):
        raise ControlError("a body is not CBOR") from None
    return body


class _Major(enum.IntEnum):
    """CBOR's major types (RFC 8949, section 3.1)."""

    UNSIGNED = 0
    NEGATIVE = 1
    BYTES = 2
    TEXT = 3
    ARRAY = 4
    MAP = 5
    TAG = 6
    SIMPLE = 7


_FLOAT_LEN: Final = {25: 2, 26: 4, 27: 8}
_SIMPLE_KNOWN: Final = frozenset({20, 21, 22})


@dataclass(slots=True)
class _Container:
    """An array or map that is being measured.

    Attributes:
        left: Items still to come; a map counts keys and values.
        keys: Encoded keys seen so far, for a map; None for an array.
        int_keys: Whether the keys are unsigned integers instead of text.
        last_key: The newest encoded key.
    """

    left: int
    keys: set[bytes] | None = None
    int_keys: bool = False
    last_key: bytes = b""


def _measure(buf: bytes) -> None:
    """Walks over one CBOR item without building it, and refuses what the bounds do not allow."""
    if len(buf) > MAX_BODY:
        raise ControlError(f"a body has at most {MAX_BODY} bytes, not {len(buf)}")
    stack: list[_Container] = []
    offset = items = 0
    while True:
        items += 1
        if items > MAX_ITEMS:
            raise ControlError(f"a body has more than {MAX_ITEMS} items")
        major, argument, end = _item(buf, offset)
        top = stack[-1] if stack else None
        if top is not None:
            _place(top, major, buf[offset:end])
        offset = end
        if major in {_Major.ARRAY, _Major.MAP}:
            if len(stack) == MAX_DEPTH:
                raise ControlError(f"a body nests deeper than {MAX_DEPTH}")
            # An item takes a byte at least, so a claim of more than the bound is already wrong.
            if argument > MAX_ITEMS:
                raise ControlError(f"a body has more than {MAX_ITEMS} items")
            if major == _Major.ARRAY:
                stack.append(_Container(argument))
            else:
                grants = len(stack) == 1 and top is not None and top.last_key == _INT_KEYED
                stack.append(_Container(2 * argument, set(), grants))
        while stack and not stack[-1].left:
            stack.pop()
        if not stack:
            break
    if offset != len(buf):
        raise ControlError("bytes after the end of a body")


def _item(buf: bytes, offset: int) -> tuple[_Major, int, int]:
    """Major type, argument and end of the item at `offset`; the end of a string includes it."""
    if offset >= len(buf):
        raise ControlError("a body ends early")
    major, info = _Major(buf[offset] >> 5), buf[offset] & 0x1F
    offset += 1
    if major == _Major.TAG:
        raise ControlError("CBOR tags have no place in a body")
    if major == _Major.SIMPLE:
        if info not in _SIMPLE_KNOWN and info not in _FLOAT_LEN:
            raise ControlError("a simple value that no body uses")
        argument, end = 0, offset + _FLOAT_LEN.get(info, 0)
    elif info < 24:
        argument, end = info, offset
    elif info < 28:
        width = 1 << (info - 24)
        end = offset + width
        if end > len(buf):
            raise ControlError("a body ends early")
        argument = int.from_bytes(buf[offset:end], "big")
        # One value has one encoding; without that, one key could stand twice in a map.
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise ControlError("a number is not in its shortest form")
    else:
        raise ControlError("indefinite lengths have no place in a body")
    if major in {_Major.BYTES, _Major.TEXT}:
        end += argument
    if end > len(buf):
        raise ControlError("a body ends early")
    return major, argument, end


def _place(top: _Container, major: _Major, encoded: bytes) -> None:
    """Accounts for one item in its container; `encoded` is all of a string or number."""
    top.left -= 1
    if top.keys is None or top.left % 2 == 0:
        return
    if major != (_Major.UNSIGNED if top.int_keys else _Major.TEXT):
        raise ControlError("a map has a key of the wrong kind")
    if encoded in top.keys:
        raise ControlError("a map has a key twice")
    top.keys.add(encoded)
    top.last_key = encoded


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidArgument(name, f"must be an integer from {low} to {high}")


def _check_text(name: str, value: str, low: int, high: int) -> None:
    """Bounds in bytes of UTF-8. Control characters would act on a terminal that shows the text."""
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(name, "is not text") from None
    if not low <= length <= high:
        raise InvalidArgument(name, f"must have {low} to {high} bytes")
    if any(char < " " or "\x7f" <= char < "\xa0" for char in value):
        raise InvalidArgument(name, "must not contain control characters")


def _take(body: object, key: str, kind: type[_T]) -> _T:
    """The value at `key` of a map, which must be of exactly this type (True is no integer)."""
    if not isinstance(body, dict):
        raise ControlError("a body must be a map")
    value = body.get(key)
    if type(value) is not kind:
        raise ControlError(f"{key}: missing, or not {kind.__name__}")
    return value


def _take_all(body: object, key: str, kind: type[_T]) -> tuple[_T, ...]:
    values = _take(body, key, list)
    if any(type(value) is not kind for value in values):
        raise ControlError(f"{key}: an item is not {kind.__name__}")
    return tuple(values)


def _from_peer(build: Callable[[], _T]) -> _T:
    """Builds a value out of a peer's fields: what it refuses is the peer's mistake, not ours."""
    try:
        return build()
    except InvalidArgument as refusal:
        raise ControlError(str(refusal)) from None


@dataclass(frozen=True, slots=True)
class Hail:
    """The clear outside of a handshake message (HAIL).

    Attributes:
        noise: A Noise handshake message; in the last frame of a handshake, the confirmation.
        version: Version of this envelope.
    """

    noise: bytes
    version: int = 1

    def __post_init__(self) -> None:
        _check_int("v", self.version, 1, _U16_MAX)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"v": self.version, "noise": self.noise}

    @classmethod
    def from_body(cls, body: object) -> Hail:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        noise, version = _take(body, "noise", bytes), _take(body, "v", int)
        return _from_peer(lambda: cls(noise, version))


@dataclass(frozen=True, slots=True)
class HailPayload:
    """What a cell says of itself inside a Noise message, where only its peer can read it.

    Attributes:
        versions: Protocol versions that it speaks, 1 to 16 of them.
        caps: Names of capabilities, at most 32 of at most 64 bytes.
        grant_shift: Its grants count units of `64 << grant_shift` bytes; 0 to 15.
        epoch: The session epoch that it proposes or, answering, settles; 32 bits, from 1.
        time: Its clock in ns of TAI, moved ahead by `lead`; newer in each handshake.
        grants: Blocks that it grants from the start, by flow (1 to 65,535).
        mtu: The largest fabric frame that it takes, bytes, from 512.
        lead: How far, in ns, its timestamps run ahead of its clock. Not 0 only after the clock was
            set back, because timestamps never go back.
    """

    versions: tuple[int, ...]
    caps: tuple[str, ...]
    grant_shift: int
    epoch: int
    time: int
    grants: Mapping[int, int] = field(hash=False)
    mtu: int
    lead: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.versions) <= MAX_VERSIONS:
            raise InvalidArgument("versions", f"must be 1 to {MAX_VERSIONS} of them")
        for version in self.versions:
            _check_int("versions", version, 1, _U16_MAX)
        if len(self.caps) > MAX_CAPS:
            raise InvalidArgument("caps", f"must be at most {MAX_CAPS}")
        for cap in self.caps:
            _check_text("caps", cap, 1, MAX_CAP_LEN)
        _check_int("grant_shift", self.grant_shift, 0, GRANT_SHIFT_MAX)
        _check_int("epoch", self.epoch, 1, _U32_MAX)
        _check_int("time", self.time, 1, _U64_MAX)
        _check_int("mtu", self.mtu, MTU_MIN, _U16_MAX)
        _check_int("lead", self.lead, 0, self.time)
        for flow, blocks in self.grants.items():
            _check_int("grants", flow, 1, _U16_MAX)
            _check_int("grants", blocks, 0, GRANT_UNITS_MAX << self.grant_shift)
        object.__setattr__(self, "grants", types.MappingProxyType(dict(self.grants)))

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {
            "versions": list(self.versions),
            "caps": list(self.caps),
            "grant_shift": self.grant_shift,
            "epoch": self.epoch,
            "time": self.time,
            "grants": dict(self.grants),
            "mtu": self.mtu,
            "lead": self.lead,
        }

    @classmethod
    def from_body(cls, body: object) -> HailPayload:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        versions = _take_all(body, "versions", int)
        caps = _take_all(body, "caps", str)
        shift, epoch = _take(body, "grant_shift", int), _take(body, "epoch", int)
        time, mtu, lead = (_take(body, key, int) for key in ("time", "mtu", "lead"))
        grants = _take(body, "grants", dict)
        return _from_peer(lambda: cls(versions, caps, shift, epoch, time, grants, mtu, lead))


@dataclass(frozen=True, slots=True)
class Grant:
    """An explicit grant (GRANT), for a receiver that has nothing else to send.

    Attributes:
        flow: 1 to 65,535.
        granted: Blocks of 64 bytes granted since the session began, cumulative, 64 bits.
    """

    flow: int
    granted: int

    def __post_init__(self) -> None:
        _check_int("flow", self.flow, 1, _U16_MAX)
        _check_int("granted", self.granted, 0, _U64_MAX)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"flow": self.flow, "granted": self.granted}

    @classmethod
    def from_body(cls, body: object) -> Grant:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        flow, granted = _take(body, "flow", int), _take(body, "granted", int)
        return _from_peer(lambda: cls(flow, granted))


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """One thing that is about to be sent.

    Attributes:
        name: A plain file name of at most 255 bytes: no path, nothing that a terminal would act on.
        size: Bytes, 64 bits.
        digest: Hash of the content.
        algorithm: How the digest was made: "sha256".
        content_type: "type/subtype", lower case, at most 127 bytes. Left out of a body where
            nothing is known.
    """

    name: str
    size: int
    digest: bytes
    algorithm: str = "sha256"
    content_type: str = ANY_CONTENT

    def __post_init__(self) -> None:
        _check_text("name", self.name, 1, MAX_NAME)
        if self.name in {".", ".."} or "/" in self.name or "\\" in self.name:
            raise InvalidArgument("name", "must be a plain file name")
        _check_int("size", self.size, 0, _U64_MAX)
        if DIGEST_LEN.get(self.algorithm) != len(self.digest):
            raise InvalidArgument("digest", "is not of a known algorithm and its length")
        _check_text("content_type", self.content_type, 1, MAX_CONTENT_TYPE)
        if not _CONTENT_TYPE.fullmatch(self.content_type):
            raise InvalidArgument("content_type", "must be like text/plain, in lower case")

    def to_body(self) -> dict[str, object]:
        """The item as a CBOR map."""
        body: dict[str, object] = {
            "name": self.name,
            "size": self.size,
            "digest": self.digest,
            "algorithm": self.algorithm,
        }
        if self.content_type != ANY_CONTENT:
            body["content_type"] = self.content_type
        return body

    @classmethod
    def from_body(cls, body: object) -> ManifestItem:
        """Reads an item.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        name, size = _take(body, "name", str), _take(body, "size", int)
        digest, algorithm = _take(body, "digest", bytes), _take(body, "algorithm", str)
        content_type = ANY_CONTENT
        if isinstance(body, dict) and "content_type" in body:
            content_type = _take(body, "content_type", str)
        return _from_peer(lambda: cls(name, size, digest, algorithm, content_type))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is about to be sent on a flow (MANIFEST).

    Attributes:
        flow: 1 to 65,535.
        items: At least one; as many as fit a body.
    """

    flow: int
    items: tuple[ManifestItem, ...]

    def __post_init__(self) -> None:
        _check_int("flow", self.flow, 1, _U16_MAX)
        if not self.items:
            raise InvalidArgument("items", "must not be empty")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"flow": self.flow, "items": [item.to_body() for item in self.items]}

    @classmethod
    def from_body(cls, body: object) -> Manifest:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        flow = _take(body, "flow", int)
        items = tuple(map(ManifestItem.from_body, _take_all(body, "items", dict)))
        return _from_peer(lambda: cls(flow, items))


@dataclass(frozen=True, slots=True)
class Close:
    """Why a session ends (CLOSE).

    Attributes:
        reason: For people; at most 255 bytes, no control characters.
    """

    reason: str

    def __post_init__(self) -> None:
        _check_text("reason", self.reason, 0, MAX_REASON)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"reason": self.reason}

    @classmethod
    def from_body(cls, body: object) -> Close:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        reason = _take(body, "reason", str)
        return _from_peer(lambda: cls(reason))


@dataclass(frozen=True, slots=True)
class CovenantPiece:
    """A part of a TCP/UP frame.

    Attributes:
        number: Counts the pieces between two incarnations, from 0, over all frames; 64 bits.
        last: Whether its frame ends with it.
        data: At least one byte, as many as fit.
    """

    number: int
    last: bool
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_int("number", self.number, 0, _U64_MAX)
        if not self.data:
            raise InvalidArgument("data", "must not be empty")

    def to_body(self) -> dict[str, object]:
        """The piece as a CBOR map."""
        return {"number": self.number, "last": self.last, "data": self.data}

    @classmethod
    def from_body(cls, body: object) -> CovenantPiece:
        """Reads a piece.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        number, last = _take(body, "number", int), _take(body, "last", bool)
        data = _take(body, "data", bytes)
        return _from_peer(lambda: cls(number, last, data))


@dataclass(frozen=True, slots=True)
class CovenantParcel:
    """Carries TCP/UP over flow 0 (COVENANT): what has arrived, and perhaps one piece more.

    Attributes:
        sender: The incarnation that speaks: 64 random bits, not 0, new whenever it has forgotten
            what was said.
        receiver: The incarnation that it speaks to; 0 = not known yet, and nothing but this.
        next: The first piece that has not arrived.
        beyond: Bit i of byte i / 8, from the least significant on, says that piece `next + 1 + i`
            has; at most 8 bytes.
        piece: None where there is only to acknowledge.
    """

    sender: int
    receiver: int
    next: int = 0
    beyond: bytes = b""
    piece: CovenantPiece | None = None

    def __post_init__(self) -> None:
        _check_int("from", self.sender, 1, _U64_MAX)
        _check_int("to", self.receiver, 0, _U64_MAX)
        _check_int("next", self.next, 0, _U64_MAX)
        if len(self.beyond) > BEYOND_LEN:
            raise InvalidArgument("beyond", f"must have at most {BEYOND_LEN} bytes")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {
            "from": self.sender,
            "to": self.receiver,
            "next": self.next,
            "beyond": self.beyond,
        }
        if self.piece is not None:
            body["piece"] = self.piece.to_body()
        return body

    @classmethod
    def from_body(cls, body: object) -> CovenantParcel:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        sender, receiver = _take(body, "from", int), _take(body, "to", int)
        arrived, beyond = _take(body, "next", int), _take(body, "beyond", bytes)
        piece = None
        if isinstance(body, dict) and "piece" in body:
            piece = CovenantPiece.from_body(body["piece"])
        return _from_peer(lambda: cls(sender, receiver, arrived, beyond, piece))
