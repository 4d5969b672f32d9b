# SPDX-License-Identifier: Apache-2.0
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import FailedPrecondition, InvalidArgument, NotFound
from assent.storage import dag as dags
from assent.storage.blocks import BlockStore, hash_of
from assent.storage.dag import Node, NodeError
from assent.wire import cbor

MIB = 1 << 20
LINK = bytes(range(32))


@pytest.fixture
def store(tmp_path):
    with BlockStore.create(tmp_path / "store", 64 * MIB) as made:
        yield made


def put_node(store, *nodes, data=b"", leaves=()):
    return store.put(Node(data, nodes, tuple(leaves)).encode())


def age(store):
    for name in store.names():
        digits = name.hex()
        os.utime(store.path / "blocks" / digits[:2] / digits[2:4] / digits, (100, 100))


hashes = st.binary(min_size=32, max_size=32)
links = st.lists(hashes, max_size=9).map(tuple)


@settings(deadline=None)
@given(st.builds(Node, st.binary(max_size=99), links, links))
def test_a_node_is_read_as_it_was(node):
    assert Node.decode(node.encode()) == node


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"text",
        bytes(1 << 20),
        cbor.encode([]),
        cbor.encode({"data": b"", "leaves": []}),
        cbor.encode({"data": b"", "leaves": [], "nodes": [], "more": 1}),
        cbor.encode({"data": "", "leaves": [], "nodes": []}),
        cbor.encode({"data": b"", "leaves": {}, "nodes": []}),
        cbor.encode({"data": b"", "leaves": [], "nodes": ["x" * 32]}),
        cbor.encode({"data": b"", "leaves": [LINK[:31]], "nodes": []}),
        cbor.encode({"data": b"", "leaves": [LINK] * 2049, "nodes": []}),
        cbor.encode({"data": bytes(64 * 1024 + 1), "leaves": [], "nodes": []}),
        Node().encode() + b"\0",
    ],
)
def test_what_is_no_node_is_refused(block):
    with pytest.raises(NodeError, match="no node"):
        Node.decode(block)


def test_a_node_s_bounds_are_its_maker_s_too():
    for build in (
        lambda: Node(bytes(64 * 1024 + 1)),
        lambda: Node(nodes=(b"",)),
        lambda: Node(leaves=(LINK,) * 2049),
    ):
        with pytest.raises(InvalidArgument):
            build()


# ---- files


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 5])
def test_a_file_is_read_as_it_was(store, size):
    data = os.urandom(size)
    entry = dags.put_file(store, io.BytesIO(data), "a.bin")
    assert (entry.name, entry.size) == ("a.bin", size)
    assert b"".join(dags.read_file(store, entry.root)) == data


@pytest.mark.parametrize("chunks", [3, 4, 5, 16, 17, 64, 65, 70])
def test_a_large_file_is_a_tree_of_small_nodes(store, monkeypatch, chunks):
    monkeypatch.setattr(dags, "CHUNK_LEN", 4)
    monkeypatch.setattr(dags, "FANOUT", 4)
    data = b"".join(n.to_bytes(4, "big") for n in range(chunks))[:-1]
    entry = dags.put_file(store, io.BytesIO(data), "tree")
    assert b"".join(dags.read_file(store, entry.root)) == data
    for _, node in dags.walk(store, [entry.root]):
        assert node is None or len(node.nodes) + len(node.leaves) <= 4


def test_the_same_bytes_are_kept_once(store):
    chunk = os.urandom(256 * 1024)
    dags.put_file(store, io.BytesIO(chunk * 8), "a")
    assert store.usage < 2 * len(chunk)


def test_what_is_no_file_is_not_read_as_one(store):
    with pytest.raises(NodeError, match="not a file"):
        next(dags.read_file(store, put_node(store)))
    with pytest.raises(NodeError, match="no node"):
        next(dags.read_file(store, store.put(b"text")))
    with pytest.raises(NotFound):
        next(dags.read_file(store, LINK))


@pytest.mark.parametrize("said", [0, 3, 5])
def test_a_file_of_another_length_than_its_root_says_is_refused(store, said):
    data = cbor.encode({"file": "a", "size": said})
    root = put_node(store, data=data, leaves=[store.put(b"four")])
    with pytest.raises(NodeError, match="not as long"):
        list(dags.read_file(store, root))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        [],
        {"file": 1, "size": 1},
        {"file": "a", "size": -1},
        {"file": "a"},
        {"file": "../a", "size": 1},
        {"file": "..", "size": 1},
        {"file": "\x1b[2J", "size": 1},
    ],
)
def test_other_data_makes_no_file(said):
    data = said if type(said) is bytes else cbor.encode(said)
    assert dags.entry_of(LINK, Node(data)) is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb"])
def test_a_file_needs_a_plain_name(store, name):
    with pytest.raises(InvalidArgument, match="name"):
        dags.put_file(store, io.BytesIO(b"x"), name)
    assert list(store.names()) == []


# ---- histories


def test_a_history_has_one_head_and_lists_the_newest_first(store):
    roots = [dags.put_file(store, io.BytesIO(bytes([n])), f"file {n}").root for n in range(3)]
    heads = [dags.commit(store, "notes", root) for root in roots]
    assert store.heads("notes") == (heads[2],)
    assert [entry.name for entry in dags.entries(store, "notes")] == ["file 2", "file 1", "file 0"]
    assert list(dags.entries(store, "other")) == []


def test_heads_that_another_one_reaches_are_heads_no_more(store):
    old = put_node(store, data=b"old")
    mid = put_node(store, old, data=b"mid")
    new = put_node(store, mid, data=b"new")
    other = put_node(store, old, data=b"other")
    assert dags.merge(store, "a", [old]) == (old,)
    assert dags.merge(store, "a", [new]) == (new,)
    assert dags.merge(store, "a", [old, mid]) == (new,)
    assert dags.merge(store, "a", [other]) == tuple(sorted((new, other)))
    assert dags.merge(store, "a", []) == tuple(sorted((new, other)))


def test_two_heads_become_one_with_the_next_commit(store):
    left, right = put_node(store, data=b"l"), put_node(store, data=b"r")
    dags.merge(store, "a", [left, right])
    head = dags.commit(store, "a", put_node(store, data=b"x"))
    assert store.heads("a") == (head,)
    assert set(Node.decode(store.get(head)).nodes[1:]) == {left, right}


def test_heads_of_which_something_is_missing_are_not_merged(store):
    whole = put_node(store, data=b"whole")
    lacking = put_node(store, LINK)
    dags.merge(store, "a", [whole])
    for head in (LINK, lacking):
        with pytest.raises(FailedPrecondition, match="not whole"):
            dags.merge(store, "a", [head])
    assert store.heads("a") == (whole,)


# ---- collection


def test_a_collection_keeps_what_a_head_reaches(store):
    kept = dags.put_file(store, io.BytesIO(b"kept"), "kept")
    dags.commit(store, "a", kept.root)
    gone = dags.put_file(store, io.BytesIO(b"gone"), "gone")
    age(store)
    done = dags.collect(store, grace=10, now=200)
    assert done.blocks == 2
    assert done.kept == 3
    assert b"".join(dags.read_file(store, kept.root)) == b"kept"
    assert not store.hold(gone.root)


def test_a_dropped_dag_is_collected(store):
    dags.commit(store, "a", put_node(store))
    age(store)
    store.drop("a")
    assert dags.collect(store, 10, now=200).kept == 0


def test_a_collection_takes_nothing_young(store):
    store.put(b"on its way into a DAG")
    assert dags.collect(store, grace=60).blocks == 0


def test_a_block_linked_to_as_leaf_and_as_node_keeps_what_it_reaches(store):
    inner = put_node(store, leaves=[store.put(b"deep")])
    dags.merge(store, "a", [put_node(store, inner, leaves=[inner])])
    age(store)
    assert dags.collect(store, 10, now=200).blocks == 0
    assert store.hold(hash_of(b"deep"))


def test_nothing_is_collected_while_a_dag_is_not_whole(store):
    inner = put_node(store, leaves=[store.put(b"deep")])
    dags.merge(store, "a", [put_node(store, inner)])
    digits = inner.hex()
    (store.path / "blocks" / digits[:2] / digits[2:4] / digits).unlink()
    age(store)
    with pytest.raises(FailedPrecondition, match="not whole"):
        dags.collect(store, 10, now=200)
    assert store.hold(hash_of(b"deep"))
