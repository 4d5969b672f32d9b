# SPDX-License-Identifier: Apache-2.0
"""Numiport's header MAC: against Python's own HMAC, and against everything that is altered."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.mac import KEY_LEN, STATE_LEN, HeaderMac
from assent.numiport.wire import (
    Class,
    Fault,
    Flaw,
    Header,
    MalformedError,
    NumiportError,
    Packet,
    Stream,
    Tlvs,
    covered,
    decode,
    encode,
)

from .numi_packets import MAC_KEY, VECTORS, datagram_of, packet_of
from .test_numi_wire import NAMES, packets

KEY = bytes(range(32))
SHRED = Packet(
    Header(Class.P1, 9, Stream.SHRED, 3, 32, 31), Tlvs(psk_id=1), b"shred", tag=bytes(16)
)
keys = st.binary(min_size=KEY_LEN, max_size=KEY_LEN)


def expected(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()[:16]


def fails(key: HeaderMac, datagram: bytes) -> None:
    with pytest.raises(NumiportError) as caught:
        key.verify(datagram)
    assert caught.value.fault is Fault.HDR_MAC_FAIL
    assert caught.value.kind == "hdr_mac_fail"


class TestVectors:
    @pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
    def test_the_mac_of_a_packet(self, vector: dict[str, Any]) -> None:
        mac, datagram = HeaderMac(MAC_KEY), datagram_of(vector)
        assert mac.of(datagram) == bytes.fromhex(vector["tlvs"]["hdr_mac"])
        mac.verify(datagram)

    @pytest.mark.parametrize("vector", [VECTORS[0], VECTORS[1], VECTORS[2]], ids=NAMES[:3])
    def test_it_is_put_where_it_belongs(self, vector: dict[str, Any]) -> None:
        packet = packet_of(vector)
        bare = replace(packet, tlvs=replace(packet.tlvs, hdr_mac=None))
        assert HeaderMac(MAC_KEY).sign(bare) == packet

    def test_the_states_are_those_after_the_key(self) -> None:
        mac = HeaderMac(KEY)
        states = (mac.inner, mac.outer)
        assert states == tuple(
            struct.pack("=8I", *state_after(bytes(byte ^ pad for byte in KEY.ljust(64, b"\0"))))
            for pad in (0x36, 0x5C)
        )
        assert {len(state) for state in states} == {STATE_LEN}


def state_after(block: bytes) -> list[int]:
    """SHA-256's state after one block, as FIPS 180-4 writes it down, and no faster."""

    def cube_root_bits(prime: int) -> int:
        low, high = 0, prime << 32
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**3 <= prime << 96 else (low, middle - 1)
        return low & 0xFFFFFFFF

    def square_root_bits(prime: int) -> int:
        low, high = 0, prime << 32
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**2 <= prime << 64 else (low, middle - 1)
        return low & 0xFFFFFFFF

    def rotated(x: int, by: int) -> int:
        return (x >> by | x << (32 - by)) & 0xFFFFFFFF

    primes = [n for n in range(2, 312) if all(n % d for d in range(2, n))]
    words = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        early, late = words[t - 15], words[t - 2]
        small0 = rotated(early, 7) ^ rotated(early, 18) ^ early >> 3
        small1 = rotated(late, 17) ^ rotated(late, 19) ^ late >> 10
        words.append((small1 + words[t - 7] + small0 + words[t - 16]) & 0xFFFFFFFF)
    start = [square_root_bits(prime) for prime in primes[:8]]
    a, b, c, d, e, f, g, h = start
    for prime, word in zip(primes[:64], words, strict=True):
        big1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)
        t1 = h + big1 + (e & f ^ ~e & g) + cube_root_bits(prime) + word
        big0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)
        t2 = big0 + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (
            (t1 + t2) & 0xFFFFFFFF, a, b, c, (d + t1) & 0xFFFFFFFF, e, f, g
        )  # fmt: skip
    return [(x + y) & 0xFFFFFFFF for x, y in zip(start, (a, b, c, d, e, f, g, h), strict=True)]


class TestProperties:
    @given(keys, packets())
    def test_it_is_the_first_half_of_hmac_sha256(self, key: bytes, packet: Packet) -> None:
        datagram = encode(packet)
        assert HeaderMac(key).of(datagram) == expected(key, covered(datagram))

    @given(keys, packets())
    def test_what_is_signed_is_right(self, key: bytes, packet: Packet) -> None:
        signed = HeaderMac(key).sign(packet)
        assert signed.tlvs.hdr_mac == expected(key, covered(encode(packet)))
        assert replace(signed, tlvs=replace(signed.tlvs, hdr_mac=packet.tlvs.hdr_mac)) == packet
        HeaderMac(key).verify(encode(signed))

    @given(packets(), st.data())
    def test_cookie_payload_and_tag_are_not_under_it(
        self, packet: Packet, data: st.DataObject
    ) -> None:
        signed = HeaderMac(KEY).sign(packet)
        other = replace(
            signed,
            tlvs=replace(signed.tlvs, retry_cookie=data.draw(st.none() | st.binary(max_size=32))),
            payload=bytes(len(signed.payload)),
            tag=None,
        )
        HeaderMac(KEY).verify(encode(other))

    @given(packets(), st.data())
    def test_a_bit_of_the_rest_is(self, packet: Packet, data: st.DataObject) -> None:
        bare = replace(packet, tlvs=replace(packet.tlvs, retry_cookie=None))
        datagram = bytearray(encode(HeaderMac(KEY).sign(bare)))
        head_len = len(datagram) - len(bare.payload) - len(bare.tag or b"")
        bit = data.draw(st.integers(0, 8 * head_len - 1))
        datagram[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NumiportError) as caught:
            HeaderMac(KEY).verify(bytes(datagram))
        assert caught.value.fault in {Fault.HDR_MAC_FAIL, Fault.MALFORMED}


class TestRefusals:
    def test_every_bit_of_the_mac(self) -> None:
        signed = HeaderMac(KEY).sign(SHRED)
        mac = signed.tlvs.hdr_mac
        assert mac is not None
        for bit in range(128):
            altered = bytearray(mac)
            altered[bit // 8] ^= 1 << bit % 8
            tlvs = replace(signed.tlvs, hdr_mac=bytes(altered))
            fails(HeaderMac(KEY), encode(replace(signed, tlvs=tlvs)))

    def test_one_without_a_mac(self) -> None:
        fails(HeaderMac(KEY), encode(SHRED))

    @pytest.mark.parametrize("bit", range(0, 256, 5))
    def test_one_under_another_key(self, bit: int) -> None:
        other = bytearray(KEY)
        other[bit // 8] ^= 1 << bit % 8
        fails(HeaderMac(bytes(other)), encode(HeaderMac(KEY).sign(SHRED)))

    @pytest.mark.parametrize(
        "field", [{"slot": 10}, {"seq": 4}, {"cls": Class.P2}, {"shred_idx": 30}]
    )
    def test_one_whose_header_was_altered(self, field: dict[str, Any]) -> None:
        signed = HeaderMac(KEY).sign(SHRED)
        fails(HeaderMac(KEY), encode(replace(signed, header=replace(signed.header, **field))))

    def test_one_whose_payload_became_longer(self) -> None:
        signed = HeaderMac(KEY).sign(SHRED)
        fails(HeaderMac(KEY), encode(replace(signed, payload=b"shreds")))

    def test_one_whose_tlvs_changed_places(self) -> None:
        mac = HeaderMac(KEY)
        first, second = b"\2\0\4\0\0\0\7\0", b"\5\0\2\4\xb0\0\0\0"
        head = bytes.fromhex("01 20 0000000000000001 00000000 00000001 0000 0000 0000") + bytes(8)

        def whole(*tlvs: bytes) -> bytes:
            return head + b"".join(tlvs) + b"\0\0\0\0"

        good = mac.of(whole(first, second))
        record = b"\x08\x00\x10" + good + b"\0"
        mac.verify(whole(first, second, record))
        mac.verify(whole(record, first, second))
        fails(mac, whole(second, first, record))

    def test_what_is_no_packet(self) -> None:
        for call in (HeaderMac(KEY).verify, HeaderMac(KEY).of):
            with pytest.raises(MalformedError) as caught:
                call(bytes(35))
            assert caught.value.flaw is Flaw.LENGTH

    @pytest.mark.parametrize("length", [0, 31, 33, 64])
    def test_a_key_of_another_length(self, length: int) -> None:
        with pytest.raises(InvalidArgument, match=rf"^key: needs 32 bytes, not {length}"):
            HeaderMac(bytes(length))

    def test_the_key_is_not_shown(self) -> None:
        shown = repr(HeaderMac(KEY))
        assert shown == "HeaderMac(secret)"

    def test_a_packet_that_has_no_room_for_it(self) -> None:
        full = replace(SHRED, tlvs=Tlvs(), payload=bytes(8972 - 36 - 16))
        assert decode(encode(full)) == full
        with pytest.raises(InvalidArgument, match=r"^packet"):
            HeaderMac(KEY).sign(full)
