# SPDX-License-Identifier: Apache-2.0
"""BLOCK_WANT, BLOCK_PUT, DAG_SYNC: blocks named by their BLAKE3 hash (seed UTCP, NexFS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import check_int, check_text, from_peer, take, take_all, take_if

HASH_LEN: Final = 32
MAX_HASHES: Final = 32
MAX_BLOCK: Final = 1 << 20
MAX_INLINE: Final = 1024
MAX_DAG: Final = 63
LAST_PRIORITY: Final = 7


def _check_hashes(name: str, hashes: Sequence[bytes], low: int) -> None:
    if not low <= len(hashes) <= MAX_HASHES:
        raise InvalidArgument(name, f"must be {low} to {MAX_HASHES} of them")
    if any(len(each) != HASH_LEN for each in hashes):
        raise InvalidArgument(name, f"must have {HASH_LEN} bytes each")
    if len(set(hashes)) != len(hashes):
        raise InvalidArgument(name, "must not repeat")


@dataclass(frozen=True, slots=True)
class BlockWant:
    """Asks for blocks (BLOCK_WANT); each is answered by one BLOCK_PUT.

    Attributes:
        hashes: 1 to 32 of them, none twice.
        priority: 0 (first) to 7 (last).
    """

    hashes: tuple[bytes, ...]
    priority: int = 0

    def __post_init__(self) -> None:
        _check_hashes("hashes", self.hashes, 1)
        check_int("priority", self.priority, 0, LAST_PRIORITY)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"hashes": list(self.hashes), "priority": self.priority}

    @classmethod
    def from_body(cls, body: object) -> BlockWant:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        hashes, priority = take_all(body, "hashes", bytes), take(body, "priority", int)
        return from_peer(lambda: cls(hashes, priority))


@dataclass(frozen=True, slots=True)
class BlockPut:
    """A block, or that its sender does not have it (BLOCK_PUT).

    Attributes:
        hash: BLAKE3 of the block, 32 bytes.
        size: Bytes of it, at most 1 MiB; None says that the sender does not have it.
        data: The block, where it fits the tag (1,024 bytes); None where it follows the tag in the
            same message.
    """

    hash: bytes
    size: int | None
    data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_hashes("hash", (self.hash,), 1)
        if self.size is not None:
            check_int("size", self.size, 0, MAX_BLOCK)
        if self.data is not None and (len(self.data) != self.size or len(self.data) > MAX_INLINE):
            raise InvalidArgument("data", f"must have `size` bytes, at most {MAX_INLINE}")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {"hash": self.hash}
        if self.size is not None:
            body["size"] = self.size
        if self.data is not None:
            body["data"] = self.data
        return body

    @classmethod
    def from_body(cls, body: object) -> BlockPut:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        name = take(body, "hash", bytes)
        size, data = take_if(body, "size", int), take_if(body, "data", bytes)
        return from_peer(lambda: cls(name, size, data))


@dataclass(frozen=True, slots=True)
class DagSync:
    """The newest nodes of a DAG as its sender knows them (DAG_SYNC).

    Attributes:
        dag: Which DAG; 1 to 63 bytes.
        heads: Hashes of nodes that no other node links to, at most 32, none twice.
        want: Whether its sender takes what the receiver has, and so is told of newer heads.
    """

    dag: str
    heads: tuple[bytes, ...]
    want: bool

    def __post_init__(self) -> None:
        check_text("dag", self.dag, 1, MAX_DAG)
        _check_hashes("heads", self.heads, 0)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"dag": self.dag, "heads": list(self.heads), "want": self.want}

    @classmethod
    def from_body(cls, body: object) -> DagSync:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        dag, heads = take(body, "dag", str), take_all(body, "heads", bytes)
        want = take(body, "want", bool)
        return from_peer(lambda: cls(dag, heads, want))
