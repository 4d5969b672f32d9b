# SPDX-License-Identifier: Apache-2.0
import pytest
from assent._native import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.wire.control import (
    MAX_GAPS,
    Close,
    ControlError,
    ControlTag,
    Define,
    Delivery,
    FlowClass,
    Gaps,
    Grant,
    Tag,
    decode_gaps,
    decode_tags,
    encode_gaps,
    encode_tags,
)
from assent.wire.control_body import U32_MAX
from assent.wire.control_flow import GAPS_SPAN

DEFINE = Define(7, Delivery.ORDERED, FlowClass.STANDARD, 1500, "files")

flows = st.integers(1, 0xFFFF)
u64 = st.integers(0, (1 << 64) - 1)
labels = st.text(st.characters(exclude_categories=("C",)), max_size=15)


@st.composite
def defines(draw):
    accepted = draw(st.none() | st.booleans())
    return Define(
        draw(flows),
        draw(st.sampled_from(Delivery)),
        draw(st.sampled_from(FlowClass)),
        draw(st.integers(512, 0xFFFF)),
        draw(labels),
        accepted,
        draw(labels) if accepted is False else "",
    )


@st.composite
def gaps(draw):
    """Near each other or far; some wrap."""
    lengths = st.integers(1, 40) | st.integers(1, GAPS_SPAN // (2 * MAX_GAPS))
    steps = draw(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=MAX_GAPS))
    ranges, after = [], draw(st.integers(0, U32_MAX) | st.integers(U32_MAX - 2000, U32_MAX))
    for skip, count in steps:
        first = (after + skip) & U32_MAX
        ranges.append((first, count))
        after = first + count
    return Gaps(tuple(ranges))


def test_numbers_are_those_of_the_engine():
    assert (Delivery.ORDERED, Delivery.UNORDERED, Delivery.BEST_EFFORT) == (
        lib.AN_ORDERED,
        lib.AN_UNORDERED,
        lib.AN_BEST_EFFORT,
    )
    assert (FlowClass.URGENT, FlowClass.TENSOR, FlowClass.STANDARD, FlowClass.BULK) == (
        lib.AN_URGENT,
        lib.AN_TENSOR,
        lib.AN_STANDARD,
        lib.AN_BULK,
    )


def carried(tag, body):
    """What a peer reads."""
    ((read,), skipped) = decode_tags(encode_tags([ControlTag(tag, 9, body.to_body())]))
    assert skipped == 0
    return type(body).from_body(read.body)


@settings(deadline=None)
@given(defines())
def test_a_definition_arrives_as_it_was(define):
    assert carried(Tag.DEFINE, define) == define


@settings(deadline=None)
@given(gaps())
def test_gaps_arrive_as_they_were(missing):
    assert carried(Tag.GAPS, missing) == missing


@settings(deadline=None)
@given(st.builds(Grant, flows, u64, st.none() | u64))
def test_a_grant_arrives_as_it_was(grant):
    assert carried(Tag.GRANT, grant) == grant


@settings(deadline=None)
@given(st.builds(Close, labels, st.none() | flows))
def test_a_close_arrives_as_it_was(close):
    assert carried(Tag.CLOSE, close) == close


def test_a_question_says_nothing_of_its_answer():
    assert DEFINE.to_body() == {
        "flow": 7,
        "delivery": 0,
        "class": 2,
        "mtu": 1500,
        "label": "files",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flow", 0),
        ("flow", 1 << 16),
        ("flow", True),
        ("delivery", -1),
        ("delivery", 3),
        ("delivery", "ordered"),
        ("class", 4),
        ("class", None),
        ("mtu", 511),
        ("mtu", 1 << 16),
        ("label", "x" * 64),
        ("label", "ü" * 32),
        ("label", "a\x1b[2J"),
        ("label", b"files"),
        ("accepted", 1),
        ("accepted", None),
        ("reason", "x"),
        ("reason", 1),
    ],
)
def test_a_definition_out_of_range_is_the_peers_mistake(key, value):
    with pytest.raises(ControlError, match=key):
        Define.from_body({**DEFINE.to_body(), key: value})


@pytest.mark.parametrize("key", ["flow", "delivery", "class", "mtu", "label"])
def test_a_definition_needs_all_of_its_question(key):
    body = DEFINE.to_body()
    del body[key]
    with pytest.raises(ControlError, match=key):
        Define.from_body(body)


def test_a_reason_belongs_to_a_refusal():
    refusal = Define(1, Delivery.ORDERED, FlowClass.BULK, 1500, "a", False, "nobody listens")
    assert carried(Tag.DEFINE, refusal) == refusal
    with pytest.raises(InvalidArgument, match="refusal"):
        Define(1, Delivery.ORDERED, FlowClass.BULK, 1500, "a", True, "why not")


def test_a_grant_without_a_window_is_what_older_peers_send():
    assert Grant(1, 2).to_body() == {"flow": 1, "granted": 2}
    assert Grant.from_body({"flow": 1, "granted": 2}).window is None


@pytest.mark.parametrize("window", [-1, 1 << 64, True, None, "1"])
def test_a_window_out_of_range_is_refused(window):
    with pytest.raises(ControlError, match="window"):
        Grant.from_body({"flow": 1, "granted": 2, "window": window})


@pytest.mark.parametrize("flow", [0, -1, 1 << 16, None, True])
def test_a_close_of_no_flow_that_exists_is_refused(flow):
    with pytest.raises(ControlError, match="flow"):
        Close.from_body({"reason": "", "flow": flow})


def test_gaps_are_told_by_their_distance():
    missing = Gaps(((10, 2), (13, 1), (100, 5)))
    assert missing.to_body() == {"gaps": [10, 2, 1, 1, 86, 5]}
    assert Gaps.from_body({"gaps": [10, 2, 1, 1, 86, 5]}) == missing


def test_the_longest_list_of_gaps_fits_a_tag():
    skip, count = GAPS_SPAN // MAX_GAPS - 70_000, 70_000
    far = ((U32_MAX - 1 + i * (skip + count)) & U32_MAX for i in range(MAX_GAPS))
    missing = Gaps(tuple((first, count) for first in far))
    assert carried(Tag.GAPS, missing) == missing


@pytest.mark.parametrize(
    "told",
    [
        [],
        [1],
        [1, 1, 1],
        [-1, 1],
        [1 << 32, 1],
        [1, 0],
        [1, -1],
        [1, True],
        [1, GAPS_SPAN + 1],
        [1, 1, 0, 1],
        [5, 2, -1, 1],
        [1, 1, GAPS_SPAN - 1, 1],
        [1, 1, U32_MAX, 1],
        [1, 1, 1 << 32, 1],
        [1, 1, (1 << 32) + 5, 1],
        [1, 1, 1 << 63, 1],
        [1, 1] * (MAX_GAPS + 1),
        "no list",
    ],
)
def test_gaps_that_cannot_be_are_refused(told):
    with pytest.raises(ControlError, match="gaps"):
        Gaps.from_body({"gaps": told})


@pytest.mark.parametrize("base", [0, 1, U32_MAX])
def test_gaps_reach_less_than_half_around(base):
    last = (base + GAPS_SPAN - 1) & U32_MAX
    assert Gaps(((base, GAPS_SPAN),)).gaps
    assert Gaps(((base, 1), (last, 1))).gaps
    with pytest.raises(InvalidArgument, match="within half"):
        Gaps(((base, 1), (last, 2)))


@pytest.mark.parametrize("later", [5, 9, 10])
def test_gaps_rise_and_do_not_touch(later):
    with pytest.raises(InvalidArgument, match="must rise"):
        Gaps(((5, 1), (9, 1), (later, 1)))


# A GAPS frame's payload, which the engine writes and reads in C.


def in_c(gaps):
    return ffi.new("struct an_gap[]", [{"first": first, "count": n} for first, n in gaps])


def written_by_c(gaps, room):
    """What it writes of the ranges, and how many of them."""
    out, written = ffi.new("uint8_t[]", room), ffi.new("uint32_t *")
    length = lib.an_gaps_encode(in_c(gaps), len(gaps), out, room, written)
    return bytes(ffi.buffer(out, length)), written[0]


def read_by_c(plain):
    """The ranges; None where it refuses them."""
    found = ffi.new("struct an_gap[]", lib.AN_GAPS_READ_MAX)
    count = lib.an_gaps_decode(plain, len(plain), found)
    return None if count < 0 else tuple((found[i].first, found[i].count) for i in range(count))


def read_by_python(plain):
    try:
        return decode_gaps(plain).gaps
    except ControlError:
        return None


@given(gaps())
def test_gaps_are_written_in_c_as_in_python_and_read_by_both(missing):
    assert MAX_GAPS == lib.AN_GAPS_READ_MAX
    plain, written = written_by_c(missing.gaps, 2048)
    assert written == min(len(missing.gaps), lib.AN_GAPS_MAX)
    assert plain == encode_gaps(Gaps(missing.gaps[:written]))
    assert read_by_c(plain) == read_by_python(plain) == missing.gaps[:written]
    whole = encode_gaps(missing)
    assert read_by_c(whole) == read_by_python(whole) == missing.gaps


@given(gaps(), st.integers(0, 1024))
def test_of_gaps_without_room_c_writes_the_first(missing, room):
    plain, written = written_by_c(missing.gaps, room)
    assert len(plain) <= room
    more = missing.gaps[: written + 1]
    assert plain == (encode_gaps(Gaps(missing.gaps[:written])) if written else b"")
    assert written == min(len(missing.gaps), lib.AN_GAPS_MAX) or len(encode_gaps(Gaps(more))) > room


def tag_of(told, tag=Tag.GAPS, ref=0, **others):
    return encode_tags([ControlTag(tag, ref, {"gaps": told, **others})])


# At the bounds of each of its parts.
edges = st.sampled_from([-1, 0, 1, 23, 24, 255, 256, 0xFFFF, 1 << 16, GAPS_SPAN, U32_MAX, 1 << 32])
numbers = edges | st.integers(0, 300) | st.integers(0, U32_MAX)


@settings(max_examples=500)
@given(st.lists(numbers, max_size=8) | st.integers(120, 130).map(lambda n: [1, 1] * n))
def test_whatever_numbers_stand_in_gaps_c_and_python_read_alike(told):
    plain = tag_of(told)
    assert read_by_c(plain) == read_by_python(plain)


@settings(max_examples=500)
@given(gaps(), st.data())
def test_whatever_bytes_stand_in_gaps_c_and_python_read_alike(missing, data):
    plain = bytearray(encode_gaps(missing))
    # Its head, or all that it says: beyond, there are zeros.
    end = data.draw(st.sampled_from([30, len(plain)]))
    for _ in range(data.draw(st.integers(1, 3))):
        plain[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    assert read_by_c(bytes(plain)) == read_by_python(bytes(plain))


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        bytes(64),
        bytes(63),
        tag_of([1, 1])[:63],
        tag_of([1, 1]) + b"\0",
        tag_of([1, 1]) + bytes(64),
        tag_of([1, 1]) * 2,
        tag_of([1, 1]) + tag_of([1, 1], tag=99),
        tag_of([1, 1])[:-1] + b"\1",
        tag_of([1, 1], ref=1),
        tag_of([1, 1], tag=Tag.GRANT),
        tag_of([1, 1], tag=99),
        tag_of([1, 1], also=1),
        tag_of([1, 1.0]),
        tag_of("gaps"),
        tag_of([True, 1]),
        encode_tags([ControlTag(Tag.GAPS, 0, {"gap": [1, 1]})]),
        encode_tags([ControlTag(Tag.GAPS, 0, [1, 1])]),
        # The same, in longer forms.
        b"\0\5\0\x0a\0\0\0\0\xa1\x64gaps\x82\x18\1\1".ljust(64, b"\0"),
        b"\0\5\0\x0a\0\0\0\0\xa1\x64gaps\x98\2\1\1".ljust(64, b"\0"),
        b"\0\5\0\x0a\0\0\0\0\xa1\x64gaps\x9f\1\1\xff".ljust(64, b"\0"),
    ],
)
def test_gaps_in_another_form_are_refused_in_c_and_in_python(plain):
    assert read_by_c(plain) is None
    assert read_by_python(plain) is None
