import contextlib

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.errors import InvalidArgument, LocalError, RemoteError
from assent.wire.control import (
    MAX_BODY,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TAGS,
    Close,
    ControlError,
    ControlTag,
    CovenantParcel,
    CovenantPiece,
    Grant,
    Hail,
    HailPayload,
    Manifest,
    ManifestItem,
    Tag,
    decode_body,
    decode_tag,
    decode_tags,
    encode_body,
    encode_tags,
)

OFFER = HailPayload(
    versions=(1,),
    caps=("tensor",),
    grant_shift=3,
    epoch=7,
    time=1_000,
    grants={1: 1024, 2: 0},
    mtu=9000,
    lead=5,
)
ITEM = ManifestItem("weights.bin", 1 << 40, bytes(range(32)))
BODIES = [
    Hail(b"noise"),
    OFFER,
    Grant(1, 1 << 63),
    Manifest(2, (ITEM, ManifestItem("ünïcode.txt", 0, bytes(32)))),
    Close("going down for maintenance"),
    Close(""),
    Close("", 7, 0xFFFF_FFFF, (1 << 64) - 1),
    CovenantParcel(1, 0),
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def raw(*parts):
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else p for p in parts)


# ---- tags


def test_a_tag_starts_a_block_and_is_padded_to_one():
    payload = encode_tags([ControlTag(Tag.GRANT, 0x01020304, {"flow": 1, "granted": 2})])
    body = cbor2.dumps({"flow": 1, "granted": 2}, canonical=True)
    assert payload[:8].hex() == f"0004{len(body):04x}01020304"
    assert payload[8 : 8 + len(body)] == body
    assert len(payload) == 64
    assert not any(payload[8 + len(body) :])


def test_tags_round_trip_in_order():
    tags = tuple(ControlTag(tag, int(tag), {"n": bytes(50)}) for tag in Tag)
    assert decode_tags(encode_tags(tags)) == (tags, 0)


@settings(deadline=None)
@given(values)
def test_bodies_round_trip(value):
    try:
        payload = encode_tags([ControlTag(Tag.COVENANT, 1, value)])
    except LocalError:
        return
    assert decode_tags(payload) == ((ControlTag(Tag.COVENANT, 1, value),), 0)


def test_unknown_tags_are_skipped_and_counted_without_a_look_at_their_body():
    known = encode_tags([ControlTag(Tag.CLOSE, 0, {"reason": ""})])
    unknown = raw("0fff 0003 00000000 ff1f9f", bytes(53))
    tags, skipped = decode_tags(unknown + known + unknown)
    assert [tag.tag for tag in tags] == [Tag.CLOSE]
    assert skipped == 2


def test_one_tag_is_read_whatever_follows_it():
    payload = encode_tags([ControlTag(Tag.BLOCK_PUT, 3, {"size": 60})])
    tag, end = decode_tag(payload + b"no tag at all")
    assert (tag, end) == (ControlTag(Tag.BLOCK_PUT, 3, {"size": 60}), len(payload))
    assert decode_tag(raw("0fff 0000 00000000", bytes(56)) + b"rest") == (None, 64)
    assert decode_tag(bytes(64) + payload, 64) == (tag, 64 + len(payload))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 63])
def test_a_tag_that_is_not_all_there_is_refused(length):
    payload = encode_tags([ControlTag(Tag.CLOSE, 0, {"reason": ""})])
    with pytest.raises(ControlError, match="over the end"):
        decode_tag(payload[:length])


def test_an_empty_payload_has_no_tags():
    assert decode_tags(b"") == ((), 0)


@pytest.mark.parametrize("length", [1, 8, 63, 65])
def test_a_payload_of_broken_blocks_is_refused(length):
    with pytest.raises(ControlError, match="64-byte blocks"):
        decode_tags(bytes(length))


def test_a_length_beyond_the_payload_is_refused():
    with pytest.raises(ControlError, match="over the end"):
        decode_tags(raw("0004 0039 00000000", bytes(56)))


@pytest.mark.parametrize("offset", [10, 63])
def test_padding_must_be_zero(offset):
    payload = bytearray(encode_tags([ControlTag(Tag.GRANT, 0, 1)]))
    payload[offset] = 1
    with pytest.raises(ControlError, match="padding"):
        decode_tags(bytes(payload))


def test_at_most_16_tags_a_frame():
    tags = [ControlTag(Tag.GRANT, n, 0) for n in range(MAX_TAGS)]
    payload = encode_tags(tags)
    assert len(decode_tags(payload)[0]) == MAX_TAGS
    with pytest.raises(ControlError, match="16 tags"):
        decode_tags(payload + payload[:64])
    with pytest.raises(InvalidArgument, match="tags"):
        encode_tags([*tags, tags[0]])


@pytest.mark.parametrize(
    "tag", [ControlTag(-1, 0, 0), ControlTag(1 << 16, 0, 0), ControlTag(1, -1, 0)]
)
def test_encode_refuses_numbers_out_of_range(tag):
    with pytest.raises(InvalidArgument, match="tag or ref"):
        encode_tags([tag])


@settings(deadline=None)
@given(st.binary(max_size=256))
def test_decoding_anything_gives_tags_or_a_remote_error(buf):
    with contextlib.suppress(RemoteError):
        decode_tags(buf)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_decoding_any_body_gives_a_value_or_a_remote_error(buf):
    try:
        value = decode_body(buf)
    except RemoteError:
        return
    assert encode_body(value) is not None


# ---- the bounds of CBOR


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "ends early"),
        ("19 01", "ends early"),
        ("43 0102", "ends early"),
        ("82 01", "ends early"),
        ("a1 61 61", "ends early"),
        ("5b 7fffffffffffffff", "ends early"),
        ("9b 7fffffffffffffff", "items"),
        ("bb 7fffffffffffffff", "items"),
        ("01 01", "after the end"),
        ("c1 01", "tags"),
        ("9f 01 ff", "indefinite"),
        ("bf ff", "indefinite"),
        ("5f 41 61 ff", "indefinite"),
        ("7f ff", "indefinite"),
        ("1c", "indefinite"),
        ("ff", "simple"),
        ("f7", "simple"),
        ("f8 20", "simple"),
        ("18 17", "shortest"),
        ("19 00ff", "shortest"),
        ("1a 0000ffff", "shortest"),
        ("1b 00000000ffffffff", "shortest"),
        ("78 01 61", "shortest"),
        ("98 01 00", "shortest"),
        ("a2 6161 01 6161 02", "twice"),
        ("a1 01 02", "wrong kind"),
        ("a1 4161 02", "wrong kind"),
        ("a1 20 02", "wrong kind"),
        ("a1 80 02", "wrong kind"),
        ("a1 a0 02", "wrong kind"),
        ("61 ff", "not CBOR"),
    ],
)
def test_what_bodies_may_not_contain(body, why):
    with pytest.raises(ControlError, match=why):
        decode_body(raw(body))


def test_integer_keys_belong_to_grants_and_nothing_else():
    assert decode_body(cbor2.dumps({"grants": {1: 2}})) == {"grants": {1: 2}}
    for body in (
        {"other": {1: 2}},
        {"grants": {"1": 2}},
        {"grants": {-1: 2}},
        {"grants": [{1: 2}]},
        {"a": {"grants": {1: 2}}},
        [{"grants": {1: 2}}, {1: 2}],
    ):
        with pytest.raises(ControlError, match="wrong kind"):
            decode_body(cbor2.dumps(body))
    with pytest.raises(ControlError, match="twice"):
        decode_body(raw("a1 66", b"grants", "a2 01 02 01 03"))


def test_depth_is_bounded():
    assert decode_body(b"\x81" * MAX_DEPTH + b"\x00") is not None
    with pytest.raises(ControlError, match="deeper"):
        decode_body(b"\x81" * (MAX_DEPTH + 1) + b"\x00")


def test_a_body_of_nothing_but_nesting_is_refused_without_recursion():
    with pytest.raises(ControlError, match="deeper"):
        decode_body(b"\x81" * MAX_BODY)


def test_items_are_bounded():
    fits = cbor2.dumps([0] * (MAX_ITEMS - 1))
    assert len(decode_body(fits)) == MAX_ITEMS - 1
    with pytest.raises(ControlError, match="items"):
        decode_body(cbor2.dumps([0] * MAX_ITEMS))
    with pytest.raises(ControlError, match="items"):
        decode_body(cbor2.dumps([[0] * 200, [0] * 200]))


def test_size_is_bounded_both_ways():
    assert decode_body(encode_body(bytes(MAX_BODY - 3))) == bytes(MAX_BODY - 3)
    with pytest.raises(ControlError, match="1400"):
        decode_body(cbor2.dumps(bytes(MAX_BODY)))
    with pytest.raises(InvalidArgument, match="body"):
        encode_body(bytes(MAX_BODY))


@pytest.mark.parametrize("body", [{1: 2}, object(), cbor2.CBORTag(1, 2), "\ud800", [[]] * 400])
def test_encode_refuses_what_decode_would(body):
    with pytest.raises(InvalidArgument, match="body"):
        encode_body(body)


def test_encoding_is_canonical():
    assert encode_body({"bb": 1, "a": 2}) == encode_body({"a": 2, "bb": 1})


# ---- typed bodies


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_typed_bodies_round_trip(body):
    assert type(body).from_body(decode_body(encode_body(body.to_body()))) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_unknown_keys_are_ignored_and_left_out(body):
    read = type(body).from_body({**body.to_body(), "later": 1})
    assert read == body
    assert "later" not in read.to_body()


def test_a_close_may_say_what_was_consumed():
    close = Close("", 7, 1, 2, 0xFFFF_FFFF)
    assert Close.from_body(close.to_body()) == close
    with pytest.raises(ControlError, match="awaited"):
        Close.from_body({**close.to_body(), "awaited": "41"})


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_field_is_needed_and_typed(body):
    good = body.to_body()
    for key in good:
        lacking = {name: value for name, value in good.items() if name != key}
        with pytest.raises(ControlError, match=key):
            type(body).from_body(lacking)
        for wrong in (None, True, object()):
            with pytest.raises(ControlError, match=key):
                type(body).from_body({**good, key: wrong})
    for wrong in (None, [], 1, "text"):
        with pytest.raises(ControlError, match="must be a map"):
            type(body).from_body(wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("versions", []),
        ("versions", [0]),
        ("versions", [1] * 17),
        ("versions", ["1"]),
        ("versions", [True]),
        ("caps", ["x"] * 33),
        ("caps", [""]),
        ("caps", ["x" * 65]),
        ("caps", ["a\nb"]),
        ("caps", [1]),
        ("grant_shift", -1),
        ("grant_shift", 16),
        ("epoch", 0),
        ("epoch", 1 << 32),
        ("time", 0),
        ("time", 1 << 64),
        ("grants", {0: 1}),
        ("grants", {1 << 16: 1}),
        ("grants", {1: -1}),
        ("grants", {1: (0x7FFF << 3) + 1}),
        ("grants", {1: True}),
        ("grants", {"1": 1}),
        ("mtu", 511),
        ("mtu", 1 << 16),
        ("lead", -1),
        ("lead", 1_001),
    ],
)
def test_an_offer_out_of_range_is_the_peers_mistake(key, value):
    with pytest.raises(ControlError, match=key):
        HailPayload.from_body({**OFFER.to_body(), key: value})


def test_an_offer_keeps_its_own_copy_of_the_grants():
    grants = {1: 1}
    offer = HailPayload((1,), (), 0, 1, 1, grants, 1500)
    grants[2] = 2
    assert offer.grants == {1: 1}
    with pytest.raises(TypeError):
        offer.grants[3] = 3


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\x7f",
        "\x9b",
        "x" * 256,
        "ü" * 128,
    ],
)
def test_a_manifest_names_plain_files_only(name):
    with pytest.raises(InvalidArgument, match="name"):
        ManifestItem(name, 0, bytes(32))
    with pytest.raises(ControlError, match="name"):
        ManifestItem.from_body({**ITEM.to_body(), "name": name})


@pytest.mark.parametrize("name", ["...", ".hidden", "x" * 255, "a b", "ü" * 127, "-rf"])
def test_odd_but_plain_names_are_fine(name):
    assert ManifestItem(name, 0, bytes(32)).name == name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", -1),
        ("size", 1 << 64),
        ("digest", bytes(31)),
        ("algorithm", "md5"),
        ("algorithm", ""),
        ("algorithm", "BLAKE3"),
    ],
)
def test_a_manifest_item_out_of_range(key, value):
    with pytest.raises(ControlError, match=r"size|digest"):
        ManifestItem.from_body({**ITEM.to_body(), key: value})


def test_what_is_known_of_an_item_s_content_travels_with_it():
    assert "content_type" not in ITEM.to_body(), "older peers know no such key"
    assert ManifestItem.from_body(ITEM.to_body()).content_type == "application/octet-stream"
    item = ManifestItem("a.txt", 1, bytes(32), content_type="text/vnd.a-b+c.1")
    assert ManifestItem.from_body(item.to_body()) == item


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text",
        "text/",
        "/plain",
        "Text/plain",
        "a/b/c",
        "a/b;c=d",
        "a b/c",
        "a/*",
        "a/" + "b" * 126,
    ],
)
def test_a_content_type_is_one_word_of_one_spelling(content_type):
    with pytest.raises(InvalidArgument, match="content_type"):
        ManifestItem("a", 0, bytes(32), content_type=content_type)
    with pytest.raises(ControlError, match="content_type"):
        ManifestItem.from_body({**ITEM.to_body(), "content_type": content_type})


def test_a_content_type_is_text():
    with pytest.raises(ControlError, match="content_type"):
        ManifestItem.from_body({**ITEM.to_body(), "content_type": b"a/b"})


@pytest.mark.parametrize(("have", "digest"), [(None, b""), (0, b""), (5, bytes(32))])
def test_an_answer_says_what_its_sender_holds(have, digest):
    item = ManifestItem("a", 5, bytes(32), "blake3", have=have, have_digest=digest)
    assert ManifestItem.from_body(decode_body(encode_body(item.to_body()))) == item
    assert ("have" in item.to_body()) == (have is not None)


@pytest.mark.parametrize(
    ("have", "digest"),
    [(-1, b""), (6, bytes(32)), (0, bytes(32)), (5, b""), (5, bytes(31)), (True, b""), (None, b"")],
)
def test_an_answer_cannot_hold_what_is_not_there(have, digest):
    body = {**ManifestItem("a", 5, bytes(32), "blake3").to_body(), "have": have}
    with pytest.raises(ControlError, match="have"):
        ManifestItem.from_body({**body, "have_digest": digest})
    with pytest.raises(ControlError, match="have_digest"):
        ManifestItem.from_body({**body, "have": 0, "have_digest": "text"})


def test_a_digest_of_what_is_held_needs_to_say_how_much():
    body = ManifestItem("a", 5, bytes(32)).to_body()
    with pytest.raises(ControlError, match="have_digest"):
        ManifestItem.from_body({**body, "have_digest": bytes(32)})


def test_a_parcel_may_carry_a_piece():
    parcel = CovenantParcel((1 << 64) - 1, 2, 3, b"\x05", CovenantPiece(4, True, b"frame"))
    assert CovenantParcel.from_body(decode_body(encode_body(parcel.to_body()))) == parcel
    with pytest.raises(ControlError, match="a body must be a map"):
        CovenantParcel.from_body({**parcel.to_body(), "piece": None})


def test_local_values_out_of_range_are_local_errors():
    for build in (
        lambda: Grant(0, 1),
        lambda: Grant(1, -1),
        lambda: Grant(1, 1 << 64),
        lambda: Manifest(1, ()),
        lambda: Manifest(0, (ITEM,)),
        lambda: Hail(b"", 0),
        lambda: Close("x" * 256),
        lambda: Close("", None, 1, 2),
        lambda: Close("", 1, 1),
        lambda: Close("", 1, None, 2),
        lambda: Close("", 1, 1 << 32, 2),
        lambda: Close("", 1, 1, 2, 1 << 32),
        lambda: Close("", None, None, None, 1),
        lambda: Close("", 1, 1, 1 << 64),
        lambda: Close("", 1, -1, 2),
        lambda: Close("a\x1b[0m"),
        lambda: Close("\ud800"),
        lambda: CovenantParcel(0, 1),
        lambda: CovenantParcel(1, -1),
        lambda: CovenantParcel(1, 1, 1 << 64),
        lambda: CovenantParcel(1, 1, 0, bytes(9)),
        lambda: CovenantPiece(-1, True, b"x"),
        lambda: CovenantPiece(0, True, b""),
    ):
        with pytest.raises(InvalidArgument):
            build()
