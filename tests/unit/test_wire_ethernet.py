import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.wire.ethernet import BROADCAST, EthernetHeader, FrameError, format_mac, parse_mac

MAC = bytes.fromhex("02005e1000af")


@pytest.mark.parametrize("text", ["02:00:5e:10:00:af", "02:00:5E:10:00:AF", "02-00-5e-10-00-af"])
def test_parse_mac_reads_both_notations(text):
    assert parse_mac(text) == MAC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02005e1000af",
        "02:00:5e:10:00",
        "02:00:5e:10:00:af:01",
        "02:00-5e:10:00:af",
        "02:00:5e:10:00:ag",
        "2:0:5e:10:0:af",
        " 02:00:5e:10:00:af",
        "02:00:5e:10:00:af\n",
        "\u0660\u0662:00:5e:10:00:af",
    ],
)
def test_parse_mac_refuses_anything_else(text):
    with pytest.raises(InvalidArgument, match="mac") as caught:
        parse_mac(text)
    assert caught.value.field == "mac"


@given(st.binary(min_size=6, max_size=6))
def test_format_and_parse_are_inverse(mac):
    assert parse_mac(format_mac(mac)) == mac


def test_format_mac_refuses_another_length():
    with pytest.raises(InvalidArgument, match="mac"):
        format_mac(b"12345")


def test_broadcast():
    assert format_mac(BROADCAST) == "ff:ff:ff:ff:ff:ff"


def test_header_layout():
    header = EthernetHeader(BROADCAST, MAC, 0x88B5)
    assert header.encode().hex() == "ffffffffffff02005e1000af88b5"
    assert EthernetHeader.decode(header.encode() + b"payload") == header


@given(
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=6, max_size=6),
    st.integers(0x0600, 0xFFFF),
)
def test_encode_and_decode_are_inverse(dst, src, ethertype):
    header = EthernetHeader(dst, src, ethertype)
    assert EthernetHeader.decode(header.encode()) == header


@pytest.mark.parametrize("length", range(14))
def test_a_short_frame_is_a_remote_error(length):
    with pytest.raises(FrameError, match="14 bytes") as caught:
        EthernetHeader.decode(bytes(length))
    assert isinstance(caught.value, RemoteError)


@pytest.mark.parametrize("ethertype", [0, 46, 1500, 0x05FF])
def test_a_length_field_is_not_an_ethertype(ethertype):
    with pytest.raises(FrameError, match="length"):
        EthernetHeader.decode(BROADCAST + MAC + ethertype.to_bytes(2, "big"))
    with pytest.raises(InvalidArgument, match="ethertype"):
        EthernetHeader(BROADCAST, MAC, ethertype).encode()


@pytest.mark.parametrize(
    "header",
    [EthernetHeader(b"short", MAC, 0x88B5), EthernetHeader(MAC, b"toolong", 0x88B5)],
)
def test_encode_refuses_an_address_of_another_length(header):
    with pytest.raises(InvalidArgument, match="needs 6 bytes"):
        header.encode()


def test_encode_refuses_a_number_beyond_16_bits():
    with pytest.raises(InvalidArgument, match="ethertype"):
        EthernetHeader(MAC, MAC, 0x10000).encode()
