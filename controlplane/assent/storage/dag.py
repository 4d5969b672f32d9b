# SPDX-License-Identifier: Apache-2.0
"""DAGs of blocks: nodes that link to nodes and to leaves; files and histories made of them.

A node is a block of deterministic CBOR, {"data": bytes, "leaves": [hash, ...], "nodes": [hash,
...]}. A leaf is any block. A link says which of the two it leads to, so that nothing is guessed
from a block's bytes, and a hash cannot be part of what it names, so that no walk goes in circles.

A file is a tree: leaves of 256 KiB, under nodes of at most 1,024 links; `data` of the root is a map
of its name and size. A DAG's history is a chain of commits: the first link leads to what was added,
the others to the heads before.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from assent.errors import FailedPrecondition, InvalidArgument, NotFound, RemoteError
from assent.storage.blocks import BlockDamagedError, BlockStore, Collected
from assent.wire import cbor
from assent.wire.control_body import U64_MAX, check_int
from assent.wire.control_manifest import check_name
from assent.wire.control_storage import HASH_LEN

CHUNK_LEN: Final = 256 * 1024
FANOUT: Final = 1024
MAX_LINKS: Final = 2048
MAX_DATA: Final = 64 * 1024
COMMIT: Final = cbor.encode({"commit": 1})


class NodeError(RemoteError):
    """A block that should be a node of a DAG, and is not."""


class Blocks(Protocol):
    """Where blocks are; a `BlockStore`, or anything like it."""

    def get(self, name: bytes) -> bytes:
        """A block's bytes."""

    def hold(self, name: bytes) -> bool:
        """Whether a block is here; no collection takes it for a while then."""

    def put(self, data: bytes) -> bytes:
        """Keeps a block."""


@dataclass(frozen=True, slots=True)
class Node:
    """A block with links.

    Attributes:
        data: What it says itself, at most 64 KiB.
        nodes: Hashes of nodes.
        leaves: Hashes of other blocks; together at most 2,048 links.
    """

    data: bytes = b""
    nodes: tuple[bytes, ...] = ()
    leaves: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.data) > MAX_DATA:
            raise InvalidArgument("data", f"must have at most {MAX_DATA} bytes")
        if len(self.nodes) + len(self.leaves) > MAX_LINKS:
            raise InvalidArgument("nodes", f"and leaves must be at most {MAX_LINKS}")
        if any(len(link) != HASH_LEN for link in (*self.nodes, *self.leaves)):
            raise InvalidArgument("nodes", f"and leaves must have {HASH_LEN} bytes each")

    def encode(self) -> bytes:
        """The block."""
        return cbor.encode(
            {"data": self.data, "leaves": list(self.leaves), "nodes": list(self.nodes)}
        )

    @classmethod
    def decode(cls, block: bytes) -> Node:
        """Reads a block.

        Raises:
            NodeError: It is no node.
        """
        try:
            body = cbor.decode(block)
        except cbor.CborError as refusal:
            raise NodeError(f"a block is no node: {refusal}") from None
        if not isinstance(body, dict) or body.keys() != {"data", "leaves", "nodes"}:
            raise NodeError("a block is no node: it is no map of data, leaves and nodes")
        data, leaves, nodes = body["data"], body["leaves"], body["nodes"]
        if type(data) is not bytes or type(leaves) is not list or type(nodes) is not list:
            raise NodeError("a block is no node: a field has the wrong type")
        if any(type(link) is not bytes for link in (*leaves, *nodes)):
            raise NodeError("a block is no node: a link is not a hash")
        try:
            return cls(data, tuple(nodes), tuple(leaves))
        except InvalidArgument as refusal:
            raise NodeError(f"a block is no node: {refusal}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a store.

    Attributes:
        root: Its root node.
        name: As it was put, a plain file name of at most 255 bytes.
        size: Bytes.
    """

    root: bytes
    name: str
    size: int

    def __post_init__(self) -> None:
        check_name(self.name)
        check_int("size", self.size, 0, U64_MAX)


def put_file(blocks: Blocks, file: BinaryIO, name: str) -> Entry:
    """Keeps a file's bytes as a tree.

    Args:
        blocks: Where.
        file: Read to its end.
        name: What the root says of it.

    Raises:
        InvalidArgument: The name is not a plain file name.
        ResourceExhausted: The store is full.
    """
    check_name(name)
    size = 0
    leaves: list[bytes] = []
    nodes: list[bytes] = []
    while chunk := file.read(CHUNK_LEN):
        size += len(chunk)
        leaves.append(blocks.put(chunk))
        if len(leaves) == FANOUT:
            nodes.append(blocks.put(Node(leaves=tuple(leaves)).encode()))
            leaves = []
    if nodes and leaves:
        nodes.append(blocks.put(Node(leaves=tuple(leaves)).encode()))
        leaves = []
    while len(nodes) > FANOUT:
        groups = (nodes[at : at + FANOUT] for at in range(0, len(nodes), FANOUT))
        nodes = [blocks.put(Node(nodes=tuple(group)).encode()) for group in groups]
    data = cbor.encode({"file": name, "size": size})
    root = blocks.put(Node(data, tuple(nodes), tuple(leaves)).encode())
    return Entry(root, name, size)


def read_file(blocks: Blocks, root: bytes) -> Iterator[bytes]:
    """A file's bytes in order, a block at a time.

    Raises:
        NotFound: A block is not here.
        BlockDamagedError: One was damaged.
        NodeError: The root is not a file's, or its tree is not.
    """
    entry = entry_of(root, Node.decode(blocks.get(root)))
    if entry is None:
        raise NodeError(f"{root.hex()} is not a file's root")
    ahead = [(root, True)]
    left = entry.size
    while ahead:
        name, is_node = ahead.pop()
        block = blocks.get(name)
        if is_node:
            node = Node.decode(block)
            ahead += ((link, False) for link in reversed(node.leaves))
            ahead += ((link, True) for link in reversed(node.nodes))
        else:
            left -= len(block)
            if left < 0:
                break
            yield block
    if left:
        raise NodeError(f"{entry.name!r} is not as long as its root says")


def entry_of(name: bytes, node: Node) -> Entry | None:
    """What a root says of its file; None for any other node."""
    try:
        said = cbor.decode(node.data)
    except cbor.CborError:
        return None
    if not isinstance(said, dict):
        return None
    file, size = said.get("file"), said.get("size")
    if type(file) is not str or type(size) is not int:
        return None
    try:
        return Entry(name, file, size)
    except InvalidArgument:
        return None


def commit(store: BlockStore, dag: str, root: bytes) -> bytes:
    """Adds a node to a DAG's history, as the one head that it has from now on.

    Args:
        store: Where it and all that it reaches is.
        dag: 1 to 63 bytes.
        root: The node.

    Returns:
        The new head.
    """

    def added(heads: tuple[bytes, ...]) -> tuple[bytes]:
        return (store.put(Node(COMMIT, (root, *heads)).encode()),)

    (head,) = store.change_heads(dag, added)
    return head


def merge(store: BlockStore, dag: str, heads: Iterable[bytes]) -> tuple[bytes, ...]:
    """Takes over heads of which all is in the store; those that another one reaches are no heads.

    Returns:
        The DAG's heads.

    Raises:
        FailedPrecondition: Not all is in the store.
        ResourceExhausted: There would be too many.
    """
    theirs = tuple(heads)
    return store.change_heads(dag, lambda ours: _tips(store, {*ours, *theirs}))


def _tips(blocks: Blocks, candidates: set[bytes]) -> list[bytes]:
    if len(candidates) < 2:
        return list(candidates)
    reached = set[bytes]()
    for head in candidates:
        reached.update(_load(blocks, head).nodes)
    for name, node in walk(blocks, tuple(reached)):
        if node is not None:
            reached.add(name)
    return [head for head in candidates if head not in reached]


def walk(blocks: Blocks, roots: Iterable[bytes]) -> Iterator[tuple[bytes, Node | None]]:
    """All blocks that some nodes reach, themselves included: name and node, None for a leaf.

    Raises:
        FailedPrecondition: A node is missing or damaged; leaves are not looked at.
    """
    ahead = list(roots)
    # A block may be linked to both ways, and is then both.
    nodes, leaves = set(ahead), set[bytes]()
    while ahead:
        name = ahead.pop()
        node = _load(blocks, name)
        yield name, node
        for link in node.nodes:
            if link not in nodes:
                nodes.add(link)
                ahead.append(link)
        for link in node.leaves:
            if link not in leaves:
                leaves.add(link)
                yield link, None


def _load(blocks: Blocks, name: bytes) -> Node:
    try:
        return Node.decode(blocks.get(name))
    except (NotFound, BlockDamagedError, NodeError) as lack:
        raise FailedPrecondition(f"the DAG is not whole: {lack}") from None


def entries(store: BlockStore, dag: str) -> Iterator[Entry]:
    """The files of a DAG's history, the newest first.

    Raises:
        FailedPrecondition: The DAG is not whole.
    """
    ahead = list(store.heads(dag))
    seen = set(ahead)
    while ahead:
        name = ahead.pop(0)
        node = _load(store, name)
        if node.data != COMMIT or not node.nodes:
            continue
        entry = entry_of(node.nodes[0], _load(store, node.nodes[0]))
        if entry is not None:
            yield entry
        for link in node.nodes[1:]:
            if link not in seen:
                seen.add(link)
                ahead.append(link)


def collect(store: BlockStore, grace: float, now: float | None = None) -> Collected:
    """Removes what no DAG reaches.

    Args:
        store: What to clean.
        grace: What is younger stays, s: it may be on its way into a DAG.
        now: Unix time, s; the clock's where it is not given.

    Raises:
        FailedPrecondition: A DAG is not whole, so that what it reaches cannot be told.
    """
    before = (time.time() if now is None else now) - grace
    heads = [head for dag in store.dags() for head in store.heads(dag)]
    reached = {name for name, _ in walk(store, set(heads))}
    return store.collect(reached.__contains__, before)
