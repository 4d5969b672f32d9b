# SPDX-License-Identifier: Apache-2.0
"""Two engines, joined in memory: bytes in, bytes out."""

import io
import os
from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assent.errors import RemoteError
from assent.storage import dag as dags
from assent.storage import engine as engines
from assent.storage.blocks import BlockStore, hash_of
from assent.storage.dag import Node
from assent.storage.engine import Failed, StorageEngine, Synced, SyncError
from assent.wire.control import (
    BlockPut,
    BlockWant,
    Close,
    ControlError,
    ControlTag,
    DagSync,
    Tag,
    decode_tag,
    decode_tags,
    encode_tags,
)

MIB = 1 << 20


class Side:
    """A store, its engine, and what has happened."""

    def __init__(self, path, limit=64 * MIB, **policy):
        self.store = BlockStore.create(path, limit)
        self.policy = {"share": None, "follow": ("notes",), **policy}
        self.anew()

    def anew(self):
        self.engine = StorageEngine(self.store, **self.policy)
        self.events = []
        self.sent = []

    def file(self, data, dag="notes"):
        entry = dags.put_file(self.store, io.BytesIO(data), "file")
        dags.commit(self.store, dag, entry.root)
        return entry.root

    def take(self, message):
        self.events += self.engine.receive(message)

    def messages(self):
        while (message := self.engine.next_message()) is not None:
            joined = b"".join(message)
            self.sent.append(joined)
            yield joined

    def names(self):
        return set(self.store.names())

    def tags(self, kind):
        """All that it has sent of one kind, BLOCK_PUTs with bytes after them too."""
        for message in self.sent:
            first, _ = decode_tag(message)
            tags = [first]
            if first.tag != Tag.BLOCK_PUT or "data" in first.body or "size" not in first.body:
                tags, _ = decode_tags(message)
            yield from (tag.body for tag in tags if tag.tag == kind)


@pytest.fixture
def sides(tmp_path):
    left, right = Side(tmp_path / "left"), Side(tmp_path / "right")
    yield left, right
    left.store.close()
    right.store.close()


def connect(left, right):
    for side in (left, right):
        side.engine.begin()


def talk(left, right, most=10_000):
    """Lets both speak in turns until neither has anything to say, or `most` were said."""
    ways = deque([(left, right), (right, left)])
    silent = said = 0
    while silent < 2 and said < most:
        speaker, listener = ways[0]
        ways.rotate()
        message = next(speaker.messages(), None)
        silent = silent + 1 if message is None else 0
        said += message is not None
        if message is not None:
            listener.take(message)


def sync(left, right):
    connect(left, right)
    talk(left, right)


def message(tag, body, after=b""):
    return encode_tags([ControlTag(tag, 0, body.to_body())]) + after


# ---- what it is for


@pytest.mark.parametrize("size", [0, 100, 3 * MIB])
def test_a_file_comes_over(sides, size):
    left, right = sides
    data = os.urandom(size)
    root = left.file(data)
    sync(left, right)
    assert b"".join(dags.read_file(right.store, root)) == data
    assert right.store.heads("notes") == left.store.heads("notes")
    ((synced,), ()) = right.events, left.events
    assert synced.heads == left.store.heads("notes")
    assert synced.fetched == left.store.usage
    assert left.engine.settled("notes")
    assert right.engine.settled("notes")


def test_two_histories_become_one_on_both_sides(sides):
    left, right = sides
    left.file(b"left")
    right.file(b"right")
    sync(left, right)
    assert left.names() == right.names()
    assert left.store.heads("notes") == right.store.heads("notes")
    assert len(left.store.heads("notes")) == 2
    assert left.engine.settled("notes")
    assert right.engine.settled("notes")
    left.file(b"both")
    left.engine.changed("notes")
    talk(left, right)
    assert right.store.heads("notes") == left.store.heads("notes")
    assert len(right.store.heads("notes")) == 1


def test_nothing_is_sent_twice(sides):
    left, right = sides
    chunk = os.urandom(256 * 1024)
    left.file(chunk * 3 + b"end")
    right.store.put(b"end")
    sync(left, right)
    puts = [body["hash"] for body in left.tags(Tag.BLOCK_PUT)]
    assert len(puts) == len(set(puts))
    assert hash_of(chunk) in puts
    assert hash_of(b"end") not in puts, "it was there already"


def test_peers_that_agree_say_so_in_one_message_each(sides):
    left, right = sides
    left.file(b"data")
    sync(left, right)
    for side in sides:
        side.anew()
    sync(left, right)
    assert [len(side.sent) for side in sides] == [1, 1]
    assert left.engine.settled("notes")


def test_only_what_is_new_is_walked(sides, monkeypatch):
    left, right = sides
    for n in range(20):
        left.file(b"%d" % n)
    sync(left, right)
    left.file(b"new")
    for side in sides:
        side.anew()
    read = []
    get = right.store.get
    monkeypatch.setattr(right.store, "get", lambda name: read.append(name) or get(name))
    monkeypatch.setattr(dags, "merge", lambda store, dag, heads: tuple(heads))
    sync(left, right)
    (synced,) = right.events
    assert synced.blocks == 3
    assert read == [], "what hangs below a head of one's own is here"


def test_who_only_follows_shows_nothing(tmp_path):
    left, right = Side(tmp_path / "l", follow=()), Side(tmp_path / "r", share=())
    root = left.file(b"shared")
    secret = right.file(b"secret", dag="notes")
    sync(left, right)
    assert right.store.hold(root)
    assert not left.store.hold(secret)
    right.take(message(Tag.BLOCK_WANT, BlockWant((secret,))))
    (answer,) = right.messages()
    assert BlockPut.from_body(decode_tag(answer)[0].body) == BlockPut(secret, None)


def test_a_dag_that_is_not_shared_is_not_told(tmp_path):
    left = Side(tmp_path / "l", share=("public",), follow=())
    left.file(b"x", dag="private")
    left.file(b"y", dag="public")
    for dag, told in (("private", 0), ("public", 1), ("no such", 0)):
        left.take(message(Tag.DAG_SYNC, DagSync(dag, (), True)))
        (answer,) = left.messages()
        assert len(DagSync.from_body(decode_tag(answer)[0].body).heads) == told


def test_what_is_not_followed_is_not_fetched(sides):
    _, right = sides
    right.take(message(Tag.DAG_SYNC, DagSync("other", (bytes(32),), True)))
    (answer,) = right.messages()
    assert DagSync.from_body(decode_tag(answer)[0].body) == DagSync("other", (), False)
    assert right.store.dags() == []


# ---- bounds


def test_wants_in_flight_are_bounded(sides, monkeypatch):
    monkeypatch.setattr(dags, "CHUNK_LEN", 2000)
    left, right = sides
    left.file(os.urandom(2000 * 300))
    connect(left, right)
    most = 0
    for _ in range(1000):
        for said in right.messages():
            left.take(said)
        wanted = sum(len(body["hashes"]) for body in right.tags(Tag.BLOCK_WANT))
        got = right.store.names()
        most = max(most, wanted - len(list(got)))
        answer = next(left.messages(), None)
        if answer is None:
            break
        right.take(answer)
    assert 32 < most <= engines.IN_FLIGHT
    assert right.store.heads("notes") == left.store.heads("notes")


def test_small_blocks_share_messages_and_large_ones_stand_alone(sides):
    left, _ = sides
    small = [left.store.put(os.urandom(50)) for _ in range(20)]
    large = left.store.put(bytes(9000))
    left.take(message(Tag.BLOCK_WANT, BlockWant((*small[:10], large, *small[10:]))))
    sent = list(left.messages())
    assert [len(said) > 5000 for said in sent] == [False, True, False]
    served = [body["hash"] for body in left.tags(Tag.BLOCK_PUT)]
    assert served == [*small[:10], large, *small[10:]]


def test_what_is_urgent_is_served_first(sides):
    left, _ = sides
    late, early = left.store.put(bytes(5000)), left.store.put(bytes(6000))
    left.take(message(Tag.BLOCK_WANT, BlockWant((late,), 7)))
    left.take(message(Tag.BLOCK_WANT, BlockWant((early,), 0)))
    list(left.messages())
    assert [body["hash"] for body in left.tags(Tag.BLOCK_PUT)] == [early, late]


def test_a_peer_that_wants_too_much_at_once_is_refused(sides):
    left, _ = sides
    wants = [bytes([n // 256, n % 256]) + bytes(30) for n in range(engines.SERVED_MAX + 1)]
    for at in range(0, engines.SERVED_MAX, 32):
        left.take(message(Tag.BLOCK_WANT, BlockWant(tuple(wants[at : at + 32]))))
    with pytest.raises(SyncError, match="at once"):
        left.take(message(Tag.BLOCK_WANT, BlockWant((wants[-1],))))


def test_a_peer_that_names_too_many_dags_is_refused(sides):
    left, _ = sides
    for n in range(engines.DAGS_MAX):
        left.take(message(Tag.DAG_SYNC, DagSync(f"{n}", (), False)))
    with pytest.raises(SyncError, match="DAGs"):
        left.take(message(Tag.DAG_SYNC, DagSync("more", (), False)))


def test_a_dag_without_end_is_given_up(sides, monkeypatch):
    monkeypatch.setattr(engines, "FETCH_MAX", 50)
    left, right = sides
    for n in range(60):
        left.file(b"%d" % n)
    sync(left, right)
    (failed,) = right.events
    assert "more than 50 blocks" in failed.reason
    assert right.store.heads("notes") == ()


# ---- failures


def test_a_full_store_says_so_and_the_peer_need_not_wait(tmp_path):
    left, right = Side(tmp_path / "l"), Side(tmp_path / "r", limit=MIB)
    left.file(os.urandom(3 * MIB))
    sync(left, right)
    (failed,) = right.events
    assert isinstance(failed, Failed)
    assert "full" in failed.reason
    assert right.store.heads("notes") == ()
    assert left.engine.settled("notes"), "right wants no more"


def test_a_peer_that_lacks_what_it_told_fails_the_dag_and_not_the_exchange(sides):
    left, right = sides
    root = left.store.put(Node(leaves=(bytes(32),)).encode())
    left.store.change_heads("notes", lambda _: (root,))
    sync(left, right)
    (failed,) = right.events
    assert f"lacks block {bytes(32).hex()}" in failed.reason
    assert right.store.heads("notes") == ()
    assert right.names() == {root}, "what was right is kept"
    talk(left, right)


def test_a_head_that_is_no_node_fails_the_dag(sides):
    left, right = sides
    text = left.store.put(b"text")
    left.store.change_heads("notes", lambda _: (text,))
    sync(left, right)
    (failed,) = right.events
    assert "no node" in failed.reason
    assert right.names() == set()


def test_another_dag_goes_on_after_one_has_failed(tmp_path):
    left = Side(tmp_path / "l", follow=())
    right = Side(tmp_path / "r", follow=("a", "b", "c"))
    left.store.change_heads("b", lambda _: (left.store.put(b"text"),))
    for dag in "ac":
        left.file(os.urandom(MIB), dag)
    sync(left, right)
    assert {event.dag for event in right.events if isinstance(event, Synced)} == {"a", "c"}
    assert {event.dag for event in right.events if isinstance(event, Failed)} == {"b"}
    assert all(right.engine.settled(dag) for dag in "abc")


def test_a_damaged_block_is_fetched_anew_where_that_is_asked_for(sides):
    left, right = sides
    data = os.urandom(MIB)
    root = left.file(data)
    sync(left, right)
    leaf = hash_of(data[: 256 * 1024]).hex()
    (right.store.path / "blocks" / leaf[:2] / leaf[2:4] / leaf).write_bytes(b"damaged")
    right.policy["thorough"] = True
    for side in sides:
        side.anew()
    sync(left, right)
    (synced,) = right.events
    assert synced.blocks == 1
    assert b"".join(dags.read_file(right.store, root)) == data


# ---- a broken flow


@pytest.mark.parametrize("said", [1, 2, 3, 5, 8, 13])
def test_another_flow_goes_on_where_the_last_one_broke_off(sides, monkeypatch, said):
    monkeypatch.setattr(dags, "CHUNK_LEN", 2000)
    left, right = sides
    left.file(os.urandom(2000 * 10))
    connect(left, right)
    talk(left, right, most=said)
    before = right.names()
    for side in sides:
        side.sent.clear()
    sync(left, right)
    assert right.names() == left.names()
    again = {body["hash"] for body in left.tags(Tag.BLOCK_PUT)}
    assert not again & before, "what had arrived is not sent again"


def test_a_peer_that_starts_anew_does_not_lose_what_had_arrived(sides, monkeypatch):
    monkeypatch.setattr(dags, "CHUNK_LEN", 2000)
    left, right = sides
    left.file(os.urandom(2000 * 10))
    connect(left, right)
    talk(left, right, most=9)
    before = right.names()
    assert before
    for side in sides:
        side.anew()
    sync(left, right)
    assert right.names() == left.names()
    assert not {body["hash"] for body in left.tags(Tag.BLOCK_PUT)} & before


# ---- a peer that does not keep to it


def asking(side):
    """A side that has asked for one block, a head."""
    block = Node(b"x" * 2000).encode()
    side.engine.begin()
    side.take(message(Tag.DAG_SYNC, DagSync("notes", (hash_of(block),), False)))
    list(side.messages())
    return block


def test_a_block_that_is_not_what_its_name_says_is_refused(sides):
    _, right = sides
    block = asking(right)
    for bad in (block[:-1] + b"y", bytes(len(block))):
        with pytest.raises(SyncError, match="not what its name says"):
            right.take(message(Tag.BLOCK_PUT, BlockPut(hash_of(block), len(bad)), bad))
    small = BlockPut(hash_of(block), 1, b"x")
    with pytest.raises(SyncError, match="not what its name says"):
        right.take(message(Tag.BLOCK_PUT, small))
    assert right.names() == set()
    right.take(message(Tag.BLOCK_PUT, BlockPut(hash_of(block), len(block)), block))
    assert right.names() == {hash_of(block)}


def test_a_block_that_was_not_asked_for_is_refused(sides):
    _, right = sides
    asking(right)
    for unasked in (
        message(Tag.BLOCK_PUT, BlockPut(hash_of(b"spam" * 999), 3996), b"spam" * 999),
        message(Tag.BLOCK_PUT, BlockPut(hash_of(b"spam"), 4, b"spam")),
        message(Tag.BLOCK_PUT, BlockPut(hash_of(b"spam"), None)),
    ):
        with pytest.raises(SyncError, match="not asked for"):
            right.take(unasked)
    assert right.names() == set()


def test_a_block_comes_once(sides):
    _, right = sides
    block = asking(right)
    put = message(Tag.BLOCK_PUT, BlockPut(hash_of(block), len(block)), block)
    right.take(put)
    with pytest.raises(SyncError, match="not asked for"):
        right.take(put)


@pytest.mark.parametrize("change", [-1, 1, -1999])
def test_a_block_of_another_size_than_told_is_refused(sides, change):
    _, right = sides
    block = asking(right)
    with pytest.raises(SyncError, match="came with"):
        right.take(message(Tag.BLOCK_PUT, BlockPut(hash_of(block), len(block) + change), block))
    assert right.names() == set()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"x", "over the end"),
        (bytes(63), "over the end"),
        (message(Tag.DAG_SYNC, DagSync("a", (), True)) + b"x", "64-byte"),
        (message(Tag.DAG_SYNC, DagSync("a", (), True)) + bytes(64 * 1024), "bytes after|HAIL|tags"),
        (bytes(engines.MESSAGE_MAX + 1), "at most"),
        (message(Tag.CLOSE, Close("")), "no place"),
        (message(Tag.DAG_SYNC, DagSync("a", (), True)).replace(b"want", b"wand"), "want"),
        (
            message(Tag.DAG_SYNC, DagSync("a", (), True))
            + message(Tag.BLOCK_PUT, BlockPut(bytes(32), 64))
            + bytes(64),
            "message of its own|not CBOR|ends early",
        ),
    ],
)
def test_a_message_that_is_none_changes_nothing(sides, said, why):
    left, _ = sides
    with pytest.raises(RemoteError, match=why):
        left.take(said)
    assert list(left.messages()) == []


def test_one_bad_tag_spoils_its_message_alone(sides):
    left, _ = sides
    good, bad = DagSync("a", (), True).to_body(), {"dag": "a"}
    with pytest.raises(ControlError):
        left.take(
            encode_tags([ControlTag(Tag.DAG_SYNC, 0, good), ControlTag(Tag.DAG_SYNC, 0, bad)])
        )
    assert list(left.messages()) == [], "the good one did not count"
    left.take(message(Tag.DAG_SYNC, DagSync("a", (), True)))
    assert len(list(left.messages())) == 1


def test_an_empty_message_and_unknown_tags_say_nothing(sides):
    left, _ = sides
    left.take(b"")
    left.take(bytes.fromhex("0fff000000000000") + bytes(56))
    assert list(left.messages()) == []


# ---- whatever the DAGs are


@st.composite
def histories(draw):
    """Nodes, each with links to some of those before; and which of them each side has."""
    count = draw(st.integers(1, 12))
    shapes = [draw(st.sets(st.integers(0, max(0, n - 1)), max_size=3)) for n in range(count)]
    sides = [draw(st.sets(st.integers(0, count - 1), max_size=3)) for _ in range(2)]
    return shapes, sides


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_both_sides_end_with_the_same_whole_dag(tmp_path_factory, history):
    shapes, have = history
    nodes = []
    for n, links in enumerate(shapes):
        below = tuple(hash_of(nodes[link]) for link in sorted(links) if link < n)
        nodes.append(Node(b"%d" % n, below, (hash_of(b"leaf%d" % (n % 5)),)).encode())
    folder = tmp_path_factory.mktemp("sync")
    left, right = Side(folder / "left"), Side(folder / "right")
    for side, heads in zip((left, right), have, strict=True):
        ahead = list(heads)
        while ahead:
            n = ahead.pop()
            side.store.put(nodes[n])
            side.store.put(b"leaf%d" % (n % 5))
            ahead += [link for link in shapes[n] if link < n]
        dags.merge(side.store, "notes", [hash_of(nodes[n]) for n in heads])
    sync(left, right)
    assert left.store.heads("notes") == right.store.heads("notes")
    assert left.names() == right.names()
    assert left.engine.settled("notes")
    assert right.engine.settled("notes")
    left.store.close()
    right.store.close()
