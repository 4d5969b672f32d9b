# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.wire.control import (
    MAX_BLOCK,
    MAX_HASHES,
    BlockPut,
    BlockWant,
    ControlError,
    ControlTag,
    DagSync,
    Tag,
    decode_tags,
    encode_tags,
)
from assent.wire.control_storage import MAX_INLINE

NAME = bytes(range(32))

hashes = st.binary(min_size=32, max_size=32)
names = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=15)


def some(low):
    return st.lists(hashes, min_size=low, max_size=MAX_HASHES, unique=True).map(tuple)


def carried(tag, body):
    """What a peer reads."""
    ((read,), skipped) = decode_tags(encode_tags([ControlTag(tag, 9, body.to_body())]))
    assert skipped == 0
    return type(body).from_body(read.body)


@settings(deadline=None)
@given(st.builds(BlockWant, some(1), st.integers(0, 7)))
def test_a_want_arrives_as_it_was(want):
    assert carried(Tag.BLOCK_WANT, want) == want


@settings(deadline=None)
@given(hashes, st.none() | st.integers(0, MAX_BLOCK))
def test_a_put_arrives_as_it_was(name, size):
    put = BlockPut(name, size)
    assert carried(Tag.BLOCK_PUT, put) == put


@settings(deadline=None)
@given(hashes, st.binary(max_size=MAX_INLINE))
def test_a_small_block_travels_in_its_tag(name, data):
    put = BlockPut(name, len(data), data)
    assert carried(Tag.BLOCK_PUT, put) == put


@settings(deadline=None)
@given(st.builds(DagSync, names, some(0), st.booleans()))
def test_heads_arrive_as_they_were(sync):
    assert carried(Tag.DAG_SYNC, sync) == sync


def test_the_largest_bodies_fit_a_tag():
    many = tuple(bytes([n]) * 32 for n in range(MAX_HASHES))
    assert carried(Tag.BLOCK_WANT, BlockWant(many, 7)).hashes == many
    assert carried(Tag.DAG_SYNC, DagSync("d" * 63, many, True)).heads == many
    assert carried(Tag.BLOCK_PUT, BlockPut(NAME, MAX_INLINE, bytes(MAX_INLINE))).data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hashes", []),
        ("hashes", [NAME, NAME]),
        ("hashes", [NAME[:31]]),
        ("hashes", ["x" * 32]),
        ("hashes", NAME),
        ("hashes", [bytes([n]) * 32 for n in range(MAX_HASHES + 1)]),
        ("priority", -1),
        ("priority", 8),
        ("priority", False),
    ],
)
def test_a_want_out_of_range_is_the_peers_mistake(key, value):
    with pytest.raises(ControlError, match=key):
        BlockWant.from_body({**BlockWant((NAME,)).to_body(), key: value})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"size": 1}, "hash"),
        ({"hash": NAME + b"\0", "size": 1}, "hash"),
        ({"hash": NAME, "size": -1}, "size"),
        ({"hash": NAME, "size": MAX_BLOCK + 1}, "size"),
        ({"hash": NAME, "size": None}, "size"),
        ({"hash": NAME, "data": b""}, "data"),
        ({"hash": NAME, "size": 1, "data": b"ab"}, "data"),
        ({"hash": NAME, "size": 1, "data": "a"}, "data"),
        ({"hash": NAME, "size": MAX_INLINE + 1, "data": bytes(MAX_INLINE + 1)}, "data"),
    ],
)
def test_a_put_out_of_range_is_the_peers_mistake(body, why):
    with pytest.raises(ControlError, match=why):
        BlockPut.from_body(body)


def test_a_put_does_not_show_its_block():
    assert "secret" not in repr(BlockPut(NAME, 6, b"secret"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dag", ""),
        ("dag", "x" * 64),
        ("dag", "a\nb"),
        ("dag", b"a"),
        ("heads", [NAME, NAME]),
        ("heads", [b""]),
        ("heads", [bytes([n]) * 32 for n in range(MAX_HASHES + 1)]),
        ("want", 1),
        ("want", None),
    ],
)
def test_heads_out_of_range_are_the_peers_mistake(key, value):
    with pytest.raises(ControlError, match=key):
        DagSync.from_body({**DagSync("a", (NAME,), True).to_body(), key: value})


def test_local_values_out_of_range_are_local_errors():
    for build in (
        lambda: BlockWant(()),
        lambda: BlockWant((NAME,), 8),
        lambda: BlockPut(b"", 1),
        lambda: BlockPut(NAME, None, b""),
        lambda: DagSync("", (), True),
    ):
        with pytest.raises(InvalidArgument):
            build()
