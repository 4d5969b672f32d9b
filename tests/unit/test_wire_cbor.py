import math
import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.wire import cbor
from assent.wire.cbor import MAX_DEPTH, MAX_ITEMS, CborError, Raw, check, decode, encode, split

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.floats(allow_nan=False, width=16)
    | st.floats(allow_nan=False, width=32)
    | st.binary(max_size=40)
    | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=30), inner, max_size=4)
    ),
    max_leaves=30,
)


def raw(text):
    return bytes.fromhex(text)


def nested(depth):
    return b"\x81" * depth + b"\x00"


@given(values)
def test_every_value_round_trips(value):
    encoded = encode(value)
    assert decode(encoded) == value
    assert encode(decode(encoded)) == encoded


@given(values, st.data())
def test_what_is_changed_in_one_place_is_refused_or_encodes_as_it_stands(value, data):
    encoded = bytearray(encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    changed = bytes(encoded)
    try:
        read = decode(changed)
    except CborError:
        return
    assert encode(read) == changed


@given(values, st.data())
def test_what_is_cut_short_is_refused(value, data):
    encoded = encode(value)
    with pytest.raises(CborError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_encode_as_they_stand(buf):
    try:
        read = decode(buf)
    except CborError:
        return
    assert encode(read) == buf


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends early"),
        ("18", "ends early"),
        ("62 61", "ends early"),
        ("82 00", "ends early"),
        ("a1 61 61", "ends early"),
        ("5b ffffffffffffffff", "ends early"),
        ("7b 8000000000000000", "ends early"),
        ("00 00", "after the end"),
        ("80 80", "after the end"),
        ("c0 00", "tags"),
        ("d9 d9f7 00", "tags"),
        ("c2 41 01", "tags"),
        ("5f 41 00 ff", "indefinite"),
        ("7f 61 61 ff", "indefinite"),
        ("9f ff", "indefinite"),
        ("bf ff", "indefinite"),
        ("ff", "indefinite"),
        ("f7", "simple"),
        ("e0", "simple"),
        ("f3", "simple"),
        ("f8 20", "simple"),
        ("f8 ff", "simple"),
        ("fc", "simple"),
        ("1c", "simple"),
        ("5d 00", "simple"),
        ("18 17", "shortest"),
        ("19 00ff", "shortest"),
        ("1a 0000ffff", "shortest"),
        ("1b 00000000ffffffff", "shortest"),
        ("38 17", "shortest"),
        ("58 01 00", "shortest"),
        ("78 01 61", "shortest"),
        ("98 01 00", "shortest"),
        ("b8 01 61 61 00", "shortest"),
        ("fa 3f800000", "shortest"),
        ("fa 33800000", "shortest"),
        ("fa 38000000", "shortest"),
        ("fa 7f800000", "shortest"),
        ("fa 00000000", "shortest"),
        ("fb 3ff0000000000000", "shortest"),
        ("fb 36a0000000000000", "shortest"),
        ("fb 7ff8000000000000", "shortest"),
        ("fb 8000000000000000", "shortest"),
        ("f9 7e01", "shortest"),
        ("f9 fe00", "shortest"),
        ("61 80", "UTF-8"),
        ("61 ff", "UTF-8"),
        ("62 c0 80", "UTF-8"),
        ("62 c1 bf", "UTF-8"),
        ("62 c3 28", "UTF-8"),
        ("61 c3", "UTF-8"),
        ("63 e0 9f bf", "UTF-8"),
        ("63 ed a0 80", "UTF-8"),
        ("64 f0 8f bf bf", "UTF-8"),
        ("64 f4 90 80 80", "UTF-8"),
        ("64 f5 80 80 80", "UTF-8"),
        ("69 61 61 61 61 61 61 61 61 80", "UTF-8"),
        ("a1 00 00", "not text"),
        ("a1 41 61 00", "not text"),
        ("a1 80 00", "not text"),
        ("a2 61 62 00 61 61 00", "not in order"),
        ("a2 62 61 61 00 61 62 00", "not in order"),
        ("a2 61 61 00 61 61 00", "twice"),
        ("a1 61 61 a2 60 00 60 00", "twice"),
        ("9b ffffffffffffffff", "too many"),
        ("bb ffffffffffffffff", "too many"),
        ("9a 00100000", "too many"),
    ],
)
def test_what_is_not_deterministic_is_refused_for_that_reason(text, reason):
    with pytest.raises(CborError, match=reason) as caught:
        decode(raw(text))
    assert isinstance(caught.value, RemoteError)


@pytest.mark.parametrize(
    "text",
    [
        "00", "17", "18 18", "19 0100", "1a 00010000", "1b 0000000100000000", "20",
        "3b ffffffffffffffff", "40", "60", "62 c3bc", "63 efbfbf", "64 f48fbfbf", "63 ed9fbf", "80",
        "a0", "f4", "f5", "f6",
        "f9 0000", "f9 8000", "f9 7c00", "f9 7e00", "f9 0001", "fa 33c00000", "fa 00000001",
        "fa 477fe001", "fb 3ff0000000000001", "fb 7fefffffffffffff", "fb 0000000000000001",
        "fb 3690000000000000",
        "a2 61 61 00 61 62 00", "a2 61 62 00 62 61 61 00",
    ],
)  # fmt: skip
def test_the_shortest_forms_are_read_and_come_out_again(text):
    assert encode(decode(raw(text))) == raw(text)


def test_every_half_and_its_longer_forms():
    for bits in range(1 << 16):
        half = b"\xf9" + bits.to_bytes(2, "big")
        value = struct.unpack("!e", half[1:])[0]
        if math.isnan(value):
            if bits != 0x7E00:
                with pytest.raises(CborError, match="shortest"):
                    check(half)
            continue
        check(half)
        for form, head in (("!f", b"\xfa"), ("!d", b"\xfb")):
            with pytest.raises(CborError, match="shortest"):
                check(head + struct.pack(form, value))


@given(st.floats(width=32, allow_nan=False))
def test_a_single_in_eight_bytes_is_refused(value):
    with pytest.raises(CborError, match="shortest"):
        check(b"\xfb" + struct.pack("!d", value))


def test_depth_and_count_and_size_have_bounds():
    check(nested(MAX_DEPTH))
    with pytest.raises(CborError, match="deeper"):
        check(nested(MAX_DEPTH + 1))
    check(b"\x99" + (MAX_ITEMS - 1).to_bytes(2, "big") + bytes(MAX_ITEMS - 1))
    with pytest.raises(CborError, match="too many"):
        check(b"\x99" + MAX_ITEMS.to_bytes(2, "big") + bytes(MAX_ITEMS))
    check(b"\x41\x00", max_size=2)
    with pytest.raises(CborError, match="at most 1 bytes"):
        check(b"\x41\x00", max_size=1)


def test_a_tower_of_hostile_depth_is_refused_without_a_deep_stack():
    with pytest.raises(CborError, match="deeper"):
        check(b"\x81" * 200_000)


@pytest.mark.parametrize(
    "value", [1 << 64, {1: 2}, {"a": object()}, "\ud800", {"a", "b"}, [[[]] * 3000] * 2]
)
def test_what_has_no_encoding_within_the_bounds_is_the_callers_mistake(value):
    with pytest.raises(InvalidArgument, match="body"):
        encode(value)


def test_encoding_is_that_of_the_reference_decoder():
    value = {"bb": [1.5, -1, None], "a": {"z": b"\x00", "aa": True}}
    assert cbor2.loads(encode(value)) == value
    assert encode(value).hex() == "a26161a2617a4100626161f562626283f93e0020f6"


def test_split_leaves_values_unread():
    whole = encode({"a": [1, 2], "bb": {"c": 1}, "ccc": 3})
    parts = split(whole, {"bb"})
    assert parts == {"a": [1, 2], "bb": encode({"c": 1}), "ccc": 3}
    assert type(parts["bb"]) is Raw


@pytest.mark.parametrize("value", [[], 1, "a", {f"{n:03}": n for n in range(129)}])
def test_split_leaves_alone_what_is_no_map_of_a_bearable_size(value):
    assert split(encode(value), ()) is None


@given(st.dictionaries(st.text(max_size=8), values, max_size=6))
def test_split_reads_what_decode_reads(value):
    assert split(encode(value), ()) == value


@given(st.integers(0, 7), st.integers(0, (1 << 64) - 1))
def test_heads_are_shortest(major, argument):
    head = cbor.head(major, argument)
    assert head[0] >> 5 == major
    assert len(head) == 1 + (
        0 if argument < 24 else next(n for n in (1, 2, 4, 8) if argument < 1 << 8 * n)
    )
