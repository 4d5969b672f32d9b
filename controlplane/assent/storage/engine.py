# SPDX-License-Identifier: Apache-2.0
"""The exchange of blocks with one peer: bytes in, bytes out, no socket and no clock.

Both sides run the same engine. Each tells the heads of a DAG when it is asked for them and whenever
they have changed (DAG_SYNC). Who wants a DAG walks from the heads that it was told along the links,
asks for what it lacks (BLOCK_WANT), nodes before leaves, with at most 64 blocks on their way, and
keeps what it gets (BLOCK_PUT) if it hashes to its name. When all is there, the heads are merged
with its own, and told: both sides end with the same ones.

What is fetched stays in the store, whatever becomes of the exchange: `begin` on another flow goes
on where the last one broke off. A block is served to any peer that knows its name: only who was
told of a DAG, or has the block, knows it.

A message is a sequence of control tags; after a BLOCK_PUT without `data`, which is then the only
tag, the block's bytes follow to the end of the message.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from assent.errors import LocalError, NotFound, RemoteError, ResourceExhausted
from assent.storage import dag as dags
from assent.storage.blocks import BlockDamagedError, BlockStore, Bytes, hash_of
from assent.wire.control import (
    MAX_HASHES,
    MAX_TAGS,
    TAG_MAX_LEN,
    BlockPut,
    BlockWant,
    ControlTag,
    DagSync,
    Tag,
    decode_tag,
    decode_tags,
    encode_tags,
)
from assent.wire.control_storage import LAST_PRIORITY, MAX_BLOCK, MAX_INLINE

IN_FLIGHT: Final = 64
"""Blocks asked for at once."""
SERVED_MAX: Final = 1024
"""Wants of a peer that may wait: a peer that keeps to its own bound never comes near."""
DAGS_MAX: Final = 64
FETCH_MAX: Final = 1 << 20
"""Links that one synchronization follows at most."""
MESSAGE_MAX: Final = TAG_MAX_LEN + MAX_BLOCK
_TAGS_LEN: Final = MAX_TAGS * TAG_MAX_LEN
_NODE_PRIORITY: Final = 0
_LEAF_PRIORITY: Final = 1

Message = list[Bytes]


class SyncError(RemoteError):
    """A peer that does not keep to the exchange."""


@dataclass(frozen=True, slots=True)
class Synced:
    """A DAG is whole again, with the peer's heads in it.

    Attributes:
        dag: Its name.
        heads: All its heads now.
        blocks: How many blocks were fetched for it.
        fetched: Their bytes.
    """

    dag: str
    heads: tuple[bytes, ...]
    blocks: int
    fetched: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A DAG could not be fetched; its heads are as they were, what was fetched is kept.

    Attributes:
        dag: Its name.
        reason: For people.
    """

    dag: str
    reason: str


Event = Synced | Failed


@dataclass(slots=True)
class _Fetch:
    """One DAG's way from a peer's heads to all that they reach.

    Attributes:
        dag: Its name.
        known: Nodes below which all is here: our own heads.
        heads: As the peer told them.
        nodes: Nodes to look at, the next one last.
        leaves: Leaves to look at.
        asked: What is on its way, and whether as a node.
        seen_nodes: Nodes that were ever to be looked at.
        seen_leaves: The same of leaves.
        blocks: How many blocks were fetched.
        fetched: Their bytes.
    """

    dag: str
    known: frozenset[bytes]
    heads: set[bytes] = field(default_factory=set)
    nodes: list[bytes] = field(default_factory=list)
    leaves: deque[bytes] = field(default_factory=deque)
    asked: dict[bytes, bool] = field(default_factory=dict)
    seen_nodes: set[bytes] = field(default_factory=set)
    seen_leaves: set[bytes] = field(default_factory=set)
    blocks: int = 0
    fetched: int = 0

    def add_nodes(self, links: Iterable[bytes]) -> None:
        """Adds nodes to look at."""
        for link in links:
            if link not in self.seen_nodes and link not in self.known:
                self.seen_nodes.add(link)
                self.nodes.append(link)

    def add_leaves(self, links: Iterable[bytes]) -> None:
        """Adds leaves to look at."""
        for link in links:
            if link not in self.seen_leaves:
                self.seen_leaves.add(link)
                self.leaves.append(link)

    @property
    def too_large(self) -> bool:
        """Whether it has more links than are followed."""
        return len(self.seen_nodes) + len(self.seen_leaves) > FETCH_MAX

    @property
    def finished(self) -> bool:
        """Whether nothing is left to look at, and nothing on its way."""
        return not (self.nodes or self.leaves or self.asked)


@dataclass(slots=True)
class _Heads:
    """What is known of a DAG on this flow.

    Attributes:
        told: The heads that we told last; None before that.
        theirs: The peer's; None before it told them.
        theirs_wants: Whether the peer takes ours.
        broken: Whether our own taking has failed, and is over on this flow.
    """

    told: tuple[bytes, ...] | None = None
    theirs: tuple[bytes, ...] | None = None
    theirs_wants: bool = False
    broken: bool = False


class StorageEngine:
    """One side of the exchange.

    Args:
        store: Where blocks and heads are.
        share: DAGs whose heads the peer is told; None shares all that there are. Where it is empty,
            no block is served either.
        follow: DAGs that are taken from the peer.
        thorough: Whether what is here already is walked over too, and its blocks checked.

    Attributes:
        fetched: Bytes of blocks that the peer has sent so far, over all flows.
    """

    def __init__(
        self,
        store: BlockStore,
        *,
        share: Collection[str] | None,
        follow: Collection[str],
        thorough: bool = False,
    ) -> None:
        self._store = store
        self._share = None if share is None else frozenset(share)
        self._follow = frozenset(follow)
        self._thorough = thorough
        self.fetched = 0
        self._heads: dict[str, _Heads] = {}
        # The first one is under way, the others wait.
        self._fetches: dict[str, _Fetch] = {}
        # Asked for by a fetch that has failed: what comes of it was not unasked for.
        self._late: set[bytes] = set()
        self._tags: deque[ControlTag] = deque()
        self._wants: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self._serving: tuple[deque[bytes], ...] = tuple(deque() for _ in range(LAST_PRIORITY + 1))

    # -- what an application does

    def begin(self) -> None:
        """A flow to the peer stands, the first one or another: all DAGs followed are asked for."""
        interrupted = {dag: fetch.heads for dag, fetch in self._fetches.items()}
        self._tags.clear()
        for queue in (*self._wants, *self._serving):
            queue.clear()
        self._heads.clear()
        self._fetches.clear()
        self._late.clear()
        for dag in sorted(self._follow):
            self._tell(dag)
        for dag, heads in interrupted.items():
            self._fetch(dag, heads)

    def changed(self, dag: str) -> None:
        """A DAG's heads are new: a peer that was told the old ones is told."""
        told = self._heads.get(dag)
        if told is not None and told.told is not None and told.told != self._ours(dag):
            self._tell(dag)

    def settled(self, dag: str) -> bool:
        """Whether both sides have of a DAG what they want."""
        heads = self._heads.get(dag)
        if heads is None or heads.theirs is None or dag in self._fetches:
            return False
        return not heads.theirs_wants or not heads.told or heads.told == heads.theirs

    # -- what the flow brings

    def receive(self, message: Bytes) -> list[Event]:
        """Takes a message of the peer.

        Raises:
            ControlError: It is malformed; nothing has changed.
            SyncError: The peer does not keep to the exchange: a block that was not asked for or is
                not what its name says, more wants or DAGs than may wait. The exchange is over.
        """
        view = memoryview(message).cast("B")
        if len(view) > MESSAGE_MAX:
            raise SyncError(f"a message has at most {MESSAGE_MAX} bytes, not {len(view)}")
        first, end = decode_tag(bytes(view[:TAG_MAX_LEN])) if view else (None, 0)
        if first is not None and first.tag == Tag.BLOCK_PUT:
            put = BlockPut.from_body(first.body)
            if put.size is not None and put.data is None:
                return self._on_block(put, view[end:])
        if len(view) > _TAGS_LEN:
            raise SyncError("bytes after the tags of a message")
        tags, _ = decode_tags(bytes(view))
        events: list[Event] = []
        # All are read before the first one counts.
        for take, body in [self._read(tag) for tag in tags]:
            events += take(body)
        return events

    def next_message(self) -> Message | None:
        """What is to be sent next, at most one block at a time; None where there is nothing."""
        if self._tags:
            return [encode_tags([self._tags.popleft()])]
        for priority, queue in enumerate(self._wants):
            if queue:
                names = tuple(queue.popleft() for _ in range(min(MAX_HASHES, len(queue))))
                return [encode_tags([_tag(Tag.BLOCK_WANT, BlockWant(names, priority))])]
        return self._next_block()

    # -- inside: telling

    def _ours(self, dag: str) -> tuple[bytes, ...]:
        if self._share is not None and dag not in self._share:
            return ()
        return self._store.heads(dag)

    def _tell(self, dag: str) -> None:
        heads = self._of(dag)
        heads.told = self._ours(dag)
        wants = dag in self._follow and not heads.broken
        self._tags.append(_tag(Tag.DAG_SYNC, DagSync(dag, heads.told, wants)))

    def _of(self, dag: str) -> _Heads:
        if dag not in self._heads and len(self._heads) == max(DAGS_MAX, len(self._follow)):
            raise SyncError(f"more than {DAGS_MAX} DAGs")
        return self._heads.setdefault(dag, _Heads())

    # -- inside: tags

    def _read(self, tag: ControlTag) -> tuple[Callable[[Any], list[Event]], object]:
        """A tag's typed body, and who takes it."""
        if tag.tag == Tag.DAG_SYNC:
            return self._on_sync, DagSync.from_body(tag.body)
        if tag.tag == Tag.BLOCK_WANT:
            return self._on_want, BlockWant.from_body(tag.body)
        if tag.tag == Tag.BLOCK_PUT:
            put = BlockPut.from_body(tag.body)
            if put.size is not None and put.data is None:
                raise SyncError("a block that follows its tag has a message of its own")
            return self._on_small_put, put
        raise SyncError(f"{Tag(tag.tag).name} has no place here")

    def _on_sync(self, sync: DagSync) -> list[Event]:
        heads = self._of(sync.dag)
        heads.theirs, heads.theirs_wants = sync.heads, sync.want
        ours = self._store.heads(sync.dag) if sync.dag in self._follow else ()
        if heads.told is None or heads.told != self._ours(sync.dag):
            self._tell(sync.dag)
        if sync.dag not in self._follow or heads.broken:
            return []
        news = sync.heads if self._thorough else [head for head in sync.heads if head not in ours]
        return self._fetch(sync.dag, news) if news else []

    def _on_want(self, want: BlockWant) -> list[Event]:
        if sum(map(len, self._serving)) + len(want.hashes) > SERVED_MAX:
            raise SyncError(f"more than {SERVED_MAX} blocks asked for at once")
        self._serving[want.priority].extend(want.hashes)
        return []

    def _on_small_put(self, put: BlockPut) -> list[Event]:
        if put.data is not None:
            return self._on_block(put, memoryview(put.data))
        if not self._expected(put.hash):
            return []
        return self._fail(f"the peer lacks block {put.hash.hex()} of it")

    def _on_block(self, put: BlockPut, data: memoryview) -> list[Event]:
        if len(data) != put.size:
            raise SyncError(f"a block of {put.size} bytes came with {len(data)}")
        if hash_of(data) != put.hash:
            raise SyncError("a block is not what its name says")
        if not self._expected(put.hash):
            return []
        fetch = next(iter(self._fetches.values()))
        try:
            if fetch.asked.pop(put.hash):
                self._expand(fetch, bytes(data))
            self._store.put(data)
        except (LocalError, dags.NodeError) as refusal:
            return self._fail(str(refusal))
        fetch.blocks += 1
        fetch.fetched += len(data)
        self.fetched += len(data)
        return self._advance()

    def _expected(self, name: bytes) -> bool:
        """Whether a block is waited for; False if it comes too late.

        Raises:
            SyncError: It was never asked for.
        """
        for fetch in itertools.islice(self._fetches.values(), 1):
            if name in fetch.asked:
                return True
        if name not in self._late:
            raise SyncError("a block that was not asked for")
        self._late.remove(name)
        return False

    # -- inside: fetching

    def _fetch(self, dag: str, heads: Iterable[bytes]) -> list[Event]:
        if dag not in self._fetches:
            known = frozenset(() if self._thorough else self._store.heads(dag))
            self._fetches[dag] = _Fetch(dag, known)
        fetch = self._fetches[dag]
        fetch.heads.update(heads)
        fetch.add_nodes(heads)
        return self._advance()

    def _advance(self) -> list[Event]:
        """Asks for as much as may be on its way, of one DAG after the other."""
        events: list[Event] = []
        while self._fetches:
            fetch = next(iter(self._fetches.values()))
            try:
                self._look(fetch)
                if not fetch.finished:
                    break
                merged = dags.merge(self._store, fetch.dag, fetch.heads)
            except (LocalError, dags.NodeError) as refusal:
                events.append(self._give_up(fetch, str(refusal)))
                continue
            del self._fetches[fetch.dag]
            events.append(Synced(fetch.dag, merged, fetch.blocks, fetch.fetched))
            self.changed(fetch.dag)
        return events

    def _look(self, fetch: _Fetch) -> None:
        """Goes on with a walk as far as blocks are here, and asks for those that are not."""
        while len(fetch.asked) < IN_FLIGHT and (fetch.leaves or fetch.nodes):
            is_node = not fetch.leaves
            name = fetch.nodes.pop() if is_node else fetch.leaves.popleft()
            if name in fetch.asked:
                fetch.asked[name] |= is_node
                continue
            block = self._here(name, is_node)
            if block is None:
                fetch.asked[name] = is_node
                self._wants[_NODE_PRIORITY if is_node else _LEAF_PRIORITY].append(name)
            elif is_node:
                self._expand(fetch, block)

    def _here(self, name: bytes, is_node: bool) -> bytes | None:
        """A block that is in the store; of a leaf, nothing but that it is there."""
        if not self._store.hold(name):
            return None
        if not is_node and not self._thorough:
            return b""
        try:
            return self._store.get(name)
        except (NotFound, BlockDamagedError):
            return None

    def _expand(self, fetch: _Fetch, block: bytes) -> None:
        node = dags.Node.decode(block)
        fetch.add_nodes(node.nodes)
        fetch.add_leaves(node.leaves)
        if fetch.too_large:
            raise ResourceExhausted(f"more than {FETCH_MAX} blocks of it are not here")

    def _fail(self, reason: str) -> list[Event]:
        """Gives the fetch up that is under way."""
        failed = self._give_up(next(iter(self._fetches.values())), reason)
        return [failed, *self._advance()]

    def _give_up(self, fetch: _Fetch, reason: str) -> Failed:
        unsent = {name for queue in self._wants for name in queue}
        self._late |= fetch.asked.keys() - unsent
        for queue in self._wants:
            queue.clear()
        del self._fetches[fetch.dag]
        self._of(fetch.dag).broken = True
        self._tell(fetch.dag)
        return Failed(fetch.dag, reason)

    # -- inside: serving

    def _next_block(self) -> Message | None:
        """The next block asked for; small ones, and those that are not here, many at once."""
        tags: list[ControlTag] = []
        for queue in self._serving:
            while queue and len(tags) < MAX_TAGS:
                block = self._served(queue[0])
                if block is not None and len(block) > MAX_INLINE:
                    if tags:
                        return [encode_tags(tags)]
                    put = BlockPut(queue.popleft(), len(block))
                    return [encode_tags([_tag(Tag.BLOCK_PUT, put)]), block]
                size = None if block is None else len(block)
                tags.append(_tag(Tag.BLOCK_PUT, BlockPut(queue.popleft(), size, block)))
        return [encode_tags(tags)] if tags else None

    def _served(self, name: bytes) -> bytes | None:
        if self._share is not None and not self._share:
            return None
        try:
            return self._store.get(name)
        except (NotFound, BlockDamagedError):
            return None


def _tag(tag: Tag, body: BlockPut | BlockWant | DagSync) -> ControlTag:
    return ControlTag(tag, 0, body.to_body())
