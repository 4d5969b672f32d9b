# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.wire.control import ControlError, ControlTag, Tag, Tensor, decode_tags, encode_tags
from assent.wire.control_tensor import MAX_DIMENSIONS, item_size

GRADIENT = Tensor("layer.0/weight", "<f4", (128, 64), 256, 1024)
DTYPES = ["|b1", "|i1", "|u1", "<i2", ">u4", "<i8", "<f2", "<f4", ">f8", "<f16", "<c8", "<c16"]

names = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=40)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=6)))
    whole = math.prod(shape)
    offset = draw(st.integers(0, whole))
    size = draw(st.integers(0, whole - offset))
    each = item_size(dtype)
    accepted = draw(st.none() | st.booleans())
    reason = draw(names) if accepted is False else ""
    return Tensor(draw(names), dtype, shape, offset * each, size * each, accepted, reason)


@settings(deadline=None)
@given(tensors())
def test_an_announcement_arrives_as_it_was(tensor):
    ((read,), _) = decode_tags(encode_tags([ControlTag(Tag.TENSOR, 3, tensor.to_body())]))
    assert Tensor.from_body(read.body) == tensor


def test_a_region_has_the_size_of_its_shape():
    assert GRADIENT.region_size == 128 * 64 * 4
    assert Tensor("scalar", "<f8", (), 0, 8).region_size == 8


@pytest.mark.parametrize(
    "dtype",
    ["", "f4", "=f4", "<f3", "<b1", "|f4", "|O8", "<U4", "|V8", "<M8[ns]", "<f4 ", "<i16", "<F4"],
)
def test_only_plain_numbers_travel(dtype):
    with pytest.raises(ControlError, match="dtype"):
        Tensor.from_body({**GRADIENT.to_body(), "dtype": dtype})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", "x" * 256),
        ("name", "\x1b[2J"),
        ("name", 1),
        ("dtype", b"<f4"),
        ("shape", [1] * (MAX_DIMENSIONS + 1)),
        ("shape", [-1]),
        ("shape", [1 << 64]),
        ("shape", [True]),
        ("shape", [1 << 62, 2]),
        ("shape", [1 << 63] * MAX_DIMENSIONS),
        ("shape", "12"),
        ("offset", -4),
        ("offset", 128 * 64 * 4 + 4),
        ("offset", 1),
        ("size", -4),
        ("size", 128 * 64 * 4),
        ("size", 1 << 64),
        ("size", False),
        ("accepted", None),
        ("reason", "x"),
    ],
)
def test_an_announcement_out_of_range_is_the_peers_mistake(key, value):
    with pytest.raises(ControlError, match=r"offset|" + key):
        Tensor.from_body({**GRADIENT.to_body(), key: value})


def test_bytes_are_whole_elements():
    with pytest.raises(InvalidArgument, match="whole elements"):
        Tensor("a", "<f4", (4,), 2, 4)
    with pytest.raises(InvalidArgument, match="whole elements"):
        Tensor("a", "<f4", (4,), 0, 6)
