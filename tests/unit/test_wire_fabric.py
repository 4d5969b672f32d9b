import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.wire.cellid import CellID
from assent.wire.fabric import (
    ETHERTYPE,
    FLAGS_KNOWN,
    HEADER_LEN,
    Flags,
    Frame,
    FrameError,
    Header,
    block_cost,
    header_tag,
    padded_len,
    serial_before,
    signed_bytes,
    with_tag,
)
from assent.wire.siphash import siphash24

SRC = CellID(bytes(range(0x10, 0x20)))
DST = CellID(bytes(range(0x20, 0x30)))
HEADER = Header(
    SRC,
    DST,
    seq=0x01020304,
    flags=Flags.BLOCK | Flags.LAMP | Flags.DATA | Flags.NACK,
    payload_len=0x0506,
    flow=0x0708,
    grant=0x090A,
    nack_slot=0x0B0C0D0E,
    timestamp=0x1112131415161718,
    tag=0x2122232425262728,
)
ENCODED = (
    "101112131415161718191a1b1c1d1e1f"  # src
    "202122232425262728292a2b2c2d2e2f"  # dst
    "01020304"  # seq
    "8118"  # flags
    "0506"  # payload_len
    "0708"  # flow
    "090a"  # grant
    "0b0c0d0e"  # nack_slot
    "1112131415161718"  # timestamp
    "2827262524232221"  # tag, little-endian
)
FIELD_BITS = {
    "seq": 32,
    "flags": 16,
    "payload_len": 16,
    "flow": 16,
    "grant": 16,
    "nack_slot": 32,
    "timestamp": 64,
    "tag": 64,
}

cells = st.binary(min_size=16, max_size=16).map(CellID)
headers = st.builds(
    Header,
    cells,
    cells,
    flags=st.integers(0, 0xFFFF).map(Flags),
    **{
        name: st.integers(0, (1 << bits) - 1)
        for name, bits in FIELD_BITS.items()
        if name != "flags"
    },
)


def frame(payload=b"", flags=Flags.BLOCK | Flags.DATA):
    return Frame(Header(SRC, DST, 1, flags, len(payload), flow=1), payload)


def test_the_layout_is_the_designs_table():
    assert HEADER.encode().hex() == ENCODED
    assert Header.decode(bytes.fromhex(ENCODED)) == HEADER


def test_constants():
    assert ETHERTYPE == 0x88B5
    assert HEADER_LEN == 64
    assert sum(Flags) == FLAGS_KNOWN


@given(headers)
def test_headers_round_trip(header):
    assert Header.decode(header.encode()) == header
    assert len(header.encode()) == HEADER_LEN


@given(st.binary(min_size=64, max_size=64))
def test_any_64_bytes_are_some_header(buf):
    assert Header.decode(buf).encode() == buf


def test_a_header_is_read_from_the_front_of_a_longer_buffer():
    assert Header.decode(bytes.fromhex(ENCODED) + b"more") == HEADER


@pytest.mark.parametrize("length", [0, 1, 40, 63])
def test_a_short_header_is_a_remote_error(length):
    with pytest.raises(FrameError) as caught:
        Header.decode(bytes(length))
    assert isinstance(caught.value, RemoteError)


@pytest.mark.parametrize(("field", "bits"), FIELD_BITS.items())
@pytest.mark.parametrize("beyond", [-1, "over"])
def test_a_field_that_does_not_fit_is_named(field, bits, beyond):
    header = dataclasses.replace(HEADER, **{field: 1 << bits if beyond == "over" else beyond})
    with pytest.raises(InvalidArgument, match=f"{bits} bits") as caught:
        header.encode()
    assert caught.value.field == field


@given(headers, st.integers(0, (1 << 64) - 1))
def test_with_tag_replaces_the_tag_alone(header, tag):
    expected = dataclasses.replace(header, tag=tag)
    assert with_tag(header.encode(), tag) == expected.encode()
    assert with_tag(signed_bytes(header), tag) == expected.encode()
    assert signed_bytes(expected) == signed_bytes(header) == header.encode()[:56]


@given(st.binary(min_size=16, max_size=16), headers)
def test_the_tag_is_siphash_over_what_is_signed(key, header):
    assert header_tag(key, header) == siphash24(key, signed_bytes(header))
    assert header_tag(key, dataclasses.replace(header, tag=0)) == header_tag(key, header)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_tag_needs_a_key_of_16_bytes(length):
    with pytest.raises(InvalidArgument, match="needs 16 bytes"):
        header_tag(bytes(length), HEADER)


def test_a_tag_needs_a_header_that_fits():
    with pytest.raises(InvalidArgument, match="grant"):
        header_tag(bytes(16), dataclasses.replace(HEADER, grant=1 << 16))


@pytest.mark.parametrize("length", [0, 55, 57, 63, 65])
def test_with_tag_refuses_another_length(length):
    with pytest.raises(InvalidArgument, match="header"):
        with_tag(bytes(length), 0)


@pytest.mark.parametrize("tag", [-1, 1 << 64])
def test_with_tag_refuses_a_tag_beyond_64_bits(tag):
    with pytest.raises(InvalidArgument, match="tag"):
        with_tag(bytes(64), tag)


@pytest.mark.parametrize(
    ("payload_len", "padded", "cost"),
    [(0, 0, 1), (1, 64, 2), (63, 64, 2), (64, 64, 2), (65, 128, 3), (1400, 1408, 23)],
)
def test_padding_and_cost(payload_len, padded, cost):
    assert padded_len(payload_len) == padded
    assert block_cost(payload_len) == cost


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1400])
def test_frames_round_trip_in_whole_blocks(length):
    sent = frame(bytes(range(256)) * 6)
    sent = frame(sent.payload[:length])
    encoded = sent.encode()
    assert len(encoded) % 64 == 0
    assert len(encoded) == 64 * block_cost(length)
    assert Frame.decode(encoded) == sent


@given(st.binary(max_size=200))
def test_frames_round_trip(payload):
    assert Frame.decode(frame(payload).encode()) == frame(payload)


@pytest.mark.parametrize("change", [-64, -1, 1, 64])
def test_a_frame_of_another_length_is_refused(change):
    encoded = frame(b"x" * 70).encode()
    buf = encoded[:change] if change < 0 else encoded + bytes(change)
    with pytest.raises(FrameError, match="payload_len"):
        Frame.decode(buf)


@pytest.mark.parametrize("offset", range(64 + 70, 64 + 128))
def test_any_bit_in_the_padding_is_refused(offset):
    encoded = bytearray(frame(b"x" * 70).encode())
    encoded[offset] = 1
    with pytest.raises(FrameError, match="padding"):
        Frame.decode(bytes(encoded))


def test_a_bare_frame_is_refused():
    with pytest.raises(FrameError, match="BLOCK"):
        Frame.decode(frame(flags=Flags.DATA).encode())


@pytest.mark.parametrize("bit", [bit for bit in range(16) if not FLAGS_KNOWN >> bit & 1])
def test_an_unknown_flag_is_refused_in_a_frame_and_kept_in_a_header(bit):
    encoded = frame(flags=Flags.BLOCK | Flags(1 << bit)).encode()
    assert Header.decode(encoded).flags == Flags.BLOCK | Flags(1 << bit)
    with pytest.raises(FrameError, match="unknown flags"):
        Frame.decode(encoded)


def test_encode_refuses_a_payload_that_the_header_belies():
    with pytest.raises(InvalidArgument, match="payload_len"):
        Frame(frame().header, b"x").encode()


@given(st.binary(max_size=256))
def test_decoding_anything_gives_a_frame_or_a_remote_error(buf):
    try:
        decoded = Frame.decode(buf)
    except RemoteError:
        return
    assert decoded.encode() == buf


@pytest.mark.parametrize(
    ("a", "b", "before"),
    [
        (0, 1, True),
        (1, 0, False),
        (5, 5, False),
        (0xFFFFFFFF, 0, True),
        (0, 0xFFFFFFFF, False),
        (0, 0x7FFFFFFF, True),
        (0, 0x80000000, False),  # RFC 1982 leaves this pair without an order
        (0x80000000, 0, False),
        (0xFFFFFF00, 0x00000100, True),
    ],
)
def test_serial_order(a, b, before):
    assert serial_before(a, b) is before


@given(st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 31) - 1))
def test_serial_order_is_one_sided_within_half_the_range(a, ahead):
    b = (a + ahead) & 0xFFFFFFFF
    assert serial_before(a, b)
    assert not serial_before(b, a)
