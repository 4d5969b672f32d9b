# SPDX-License-Identifier: Apache-2.0
"""MANIFEST: what is about to be sent on a flow, and what of it its receiver holds already."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import (
    U16_MAX,
    U64_MAX,
    check_int,
    check_text,
    from_peer,
    take,
    take_all,
    take_if,
)

MAX_NAME: Final = 255
MAX_CONTENT_TYPE: Final = 127
ANY_CONTENT: Final = "application/octet-stream"
"""The content type of what nothing is known of."""
DIGEST_LEN: Final[Mapping[str, int]] = types.MappingProxyType({"blake3": 32, "sha256": 32})

# RFC 6838, section 4.2: restricted names, of which only one spelling is taken.
_CONTENT_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")


def check_name(name: str) -> None:
    """Refuses what is no plain file name: paths, and what a terminal would act on.

    Raises:
        InvalidArgument: It is none.
    """
    check_text("name", name, 1, MAX_NAME)
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise InvalidArgument("name", "must be a plain file name")


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """One thing that is about to be sent.

    Attributes:
        name: A plain file name of at most 255 bytes: no path, nothing that a terminal would act on.
        size: Bytes, 64 bits.
        digest: Hash of the content.
        algorithm: How the digest was made: "sha256" or "blake3".
        content_type: "type/subtype", lower case, at most 127 bytes. Left out of a body where
            nothing is known.
        have: In an answer alone: how many bytes of it, from its beginning, the receiver holds. None
            where nothing is said of that.
        have_digest: Hash of these bytes, by the same algorithm; empty where there are none.
    """

    name: str
    size: int
    digest: bytes
    algorithm: str = "sha256"
    content_type: str = ANY_CONTENT
    have: int | None = None
    have_digest: bytes = b""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_int("size", self.size, 0, U64_MAX)
        if DIGEST_LEN.get(self.algorithm) != len(self.digest):
            raise InvalidArgument("digest", "is not of a known algorithm and its length")
        check_text("content_type", self.content_type, 1, MAX_CONTENT_TYPE)
        if not _CONTENT_TYPE.fullmatch(self.content_type):
            raise InvalidArgument("content_type", "must be like text/plain, in lower case")
        if self.have is not None:
            check_int("have", self.have, 0, self.size)
        if len(self.have_digest) != (len(self.digest) if self.have else 0):
            raise InvalidArgument("have_digest", "is there where something is held, and complete")

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
        if self.have is not None:
            body["have"] = self.have
        if self.have_digest:
            body["have_digest"] = self.have_digest
        return body

    @classmethod
    def from_body(cls, body: object) -> ManifestItem:
        """Reads an item.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        name, size = take(body, "name", str), take(body, "size", int)
        digest, algorithm = take(body, "digest", bytes), take(body, "algorithm", str)
        content_type = take_if(body, "content_type", str)
        have, have_digest = take_if(body, "have", int), take_if(body, "have_digest", bytes)
        return from_peer(
            lambda: cls(
                name,
                size,
                digest,
                algorithm,
                ANY_CONTENT if content_type is None else content_type,
                have,
                have_digest or b"",
            )
        )


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
        check_int("flow", self.flow, 1, U16_MAX)
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
        flow = take(body, "flow", int)
        items = tuple(map(ManifestItem.from_body, take_all(body, "items", dict)))
        return from_peer(lambda: cls(flow, items))
