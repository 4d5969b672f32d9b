# SPDX-License-Identifier: Apache-2.0
import pytest
from assent._native import lib
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
    decode_tags,
    encode_tags,
)
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
    steps = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1))
    ranges, after = [], draw(st.integers(0, (1 << 32) - GAPS_SPAN))
    for skip, count in steps[:MAX_GAPS]:
        ranges.append((after + skip, count))
        after += skip + count
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
    first = (1 << 32) - 1 - 63 * (MAX_GAPS - 1)
    missing = Gaps(tuple((first + 63 * i, 1) for i in range(MAX_GAPS)))
    assert carried(Tag.GAPS, missing) == missing


@pytest.mark.parametrize(
    "told",
    [
        [],
        [1],
        [1, 1, 1],
        [-1, 1],
        [1 << 32, 1],
        [(1 << 32) - 1, 2],
        [1, 0],
        [1, -1],
        [1, True],
        [1, GAPS_SPAN + 1],
        [1, 1, 0, 1],
        [5, 2, -1, 1],
        [1, 1, GAPS_SPAN - 1, 1],
        [1, 1, 1 << 63, 1],
        [1, 1] * (MAX_GAPS + 1),
        "no list",
    ],
)
def test_gaps_that_cannot_be_are_refused(told):
    with pytest.raises(ControlError, match="gaps"):
        Gaps.from_body({"gaps": told})


def test_gaps_reach_over_a_whole_window_and_no_further():
    assert Gaps(((1, GAPS_SPAN),)).gaps
    assert Gaps(((1, 1), (GAPS_SPAN, 1))).gaps
    with pytest.raises(InvalidArgument, match="within"):
        Gaps(((1, 1), (GAPS_SPAN + 1, 1)))
