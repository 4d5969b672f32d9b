# SPDX-License-Identifier: Apache-2.0
"""Numiport's codec: what is written is read again; what deviates is refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from assent._numi import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.numiport.wire import (
    COOKIE_MAX,
    HEAD_MAX,
    HEADER_LEN,
    MAC_LEN,
    NACKS_MAX,
    PACKET_MAX,
    PSK_IDS_MAX,
    RANGES_MAX,
    SESSION_LEN,
    TAG_LEN,
    AckRange,
    Cap,
    Caps,
    Class,
    Fault,
    Flags,
    Flaw,
    Header,
    MalformedError,
    NumiportError,
    Packet,
    Stream,
    Tlvs,
    TlvType,
    covered,
    decode,
    encode,
)

from .numi_packets import END, VECTORS, covered_of, datagram_of, flaw_of, packet_of, record

VOTE = Packet(Header(Class.P0, 5, Stream.VOTE, 7), payload=b"vote")
NAMES = [vector["name"] for vector in VECTORS]

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


def exactly(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[AckRange, ...]:
    """Ranges that rise, some of which touch."""
    edges = sorted(draw(st.sets(st.integers(0, 0x10000), max_size=2 * RANGES_MAX)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    apart = [AckRange(start, min(end - start, 0xFFFF)) for start, end in pairs]
    if apart and len(apart) < RANGES_MAX and apart[-1].end <= 0xFFFF and draw(st.booleans()):
        apart.append(AckRange(apart[-1].end, 1))
    return tuple(apart)


caps = st.builds(
    Caps,
    bitmap=u32.map(Cap),
    pmtu=u16,
    ecn=st.booleans(),
    psk_ids=st.lists(u32, max_size=PSK_IDS_MAX).map(tuple),
)
all_tlvs = st.builds(
    Tlvs,
    caps=st.none() | caps,
    psk_id=st.none() | u32,
    ack_rle=st.none() | ranges(),
    nack_list=st.none() | st.lists(u32, max_size=NACKS_MAX).map(tuple),
    pmtu=st.none() | u16,
    ecn_summary=st.none() | st.integers(0, 1000),
    retry_cookie=st.none() | st.binary(max_size=COOKIE_MAX),
    hdr_mac=st.none() | exactly(MAC_LEN),
    session_id=st.none() | exactly(SESSION_LEN),
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    tlvs = draw(all_tlvs)
    fec_total = draw(st.just(0) | u16)
    header = Header(
        draw(st.sampled_from([Class.P0, Class.P1] if tlvs.nack_list is not None else list(Class))),
        draw(u64),
        draw(st.sampled_from(Stream)),
        draw(u32),
        fec_total,
        draw(st.integers(0, fec_total - 1)) if fec_total else 0,
    )
    may_be_only = tlvs.ack_rle is not None or tlvs.nack_list is not None
    ack_only = may_be_only and draw(st.booleans())
    payload = b"" if ack_only else draw(st.binary(max_size=1500))
    return Packet(header, tlvs, payload, draw(st.none() | exactly(TAG_LEN)), ack_only)


def head(flags: int = 0, cls: int = 0, stream: int = 1, plen: int = 0) -> bytes:
    """A header, by hand."""
    return (
        bytes([1, flags << 2 | cls])
        + (5).to_bytes(8, "big")
        + stream.to_bytes(4, "big")
        + (7).to_bytes(4, "big")
        + bytes(4)
        + plen.to_bytes(2, "big")
        + bytes(8)
    )


def refused(datagram: bytes, flaw: Flaw) -> None:
    """It is refused for that reason, by each of those that read; and nothing is written of it."""
    for read in (decode, covered):
        with pytest.raises(MalformedError) as caught:
            read(datagram)
        assert caught.value.flaw is flaw
    assert caught.value.fault is Fault.MALFORMED
    assert caught.value.kind == "malformed"
    assert isinstance(caught.value, RemoteError)
    native = ffi.new("struct numi_head *")
    ffi.memmove(native, b"\xa5" * ffi.sizeof("struct numi_head"), ffi.sizeof("struct numi_head"))
    assert lib.numi_decode(datagram, len(datagram), native) == flaw
    assert set(bytes(ffi.buffer(native))) == {0xA5}
    assert flaw_of(datagram)[0] is flaw


class TestVectors:
    @pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
    def test_it_is_read(self, vector: dict[str, Any]) -> None:
        assert decode(datagram_of(vector)) == packet_of(vector)

    @pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
    def test_it_is_written(self, vector: dict[str, Any]) -> None:
        written = encode(packet_of(vector))
        assert (written == datagram_of(vector)) == vector["in_order"]
        assert len(written) == len(datagram_of(vector))
        assert decode(written) == packet_of(vector)

    @pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
    def test_so_much_is_covered(self, vector: dict[str, Any]) -> None:
        assert covered(datagram_of(vector)) == covered_of(vector)

    def test_numbers_of_the_format(self) -> None:
        assert [(each.name, each.value) for each in TlvType] == [
            ("END", 0),
            ("CAPS", 1),
            ("PSK_ID", 2),
            ("ACK_RLE", 3),
            ("NACK_LIST", 4),
            ("PMTU", 5),
            ("ECN_SUMMARY", 6),
            ("RETRY_COOKIE", 7),
            ("HDR_MAC", 8),
            ("SESSION_ID", 9),
        ]
        assert [(each.name, each.value) for each in Flags] == [
            ("ACK_ONLY", 0x01),
            ("NACK", 0x02),
            ("FEC", 0x04),
            ("PSK_ID", 0x08),
            ("CTRL", 0x10),
            ("ECN_SUMMARY", 0x20),
        ]
        assert [(each.name, each.value) for each in Class] == [
            ("P0", 0), ("P1", 1), ("P2", 2), ("P3", 3)
        ]  # fmt: skip
        assert [(each.name, each.value) for each in Stream] == [
            ("SHRED", 0), ("VOTE", 1), ("REPAIR", 2), ("CTRL", 3)
        ]  # fmt: skip
        assert (HEADER_LEN, PACKET_MAX, TAG_LEN, MAC_LEN) == (32, 8972, 16, 16)
        assert (COOKIE_MAX, 4 * RANGES_MAX, NACKS_MAX) == (32, 64, 8)

    def test_faults_are_counted_by_name(self) -> None:
        assert [fault.counter for fault in Fault] == [
            "malformed",
            "hdr_mac_fail",
            "aead_fail",
            "replay",
            "stale_slot",
            "future_slot",
            "unknown_peer",
            "unknown_psk",
            "no_cookie",
            "bad_cookie",
            "amplification",
        ]
        assert [fault.value for fault in Fault] == list(range(1, lib.ASSENT_NUMI_FAULTS))
        assert lib.numi_fault_name(lib.ASSENT_NUMI_FAULTS) == ffi.NULL
        assert NumiportError(Fault.REPLAY, "again").kind == "replay"


class TestRoundTrips:
    @given(packets())
    def test_a_packet(self, packet: Packet) -> None:
        datagram = encode(packet)
        assert decode(datagram) == packet
        assert flaw_of(datagram) == (None, covered(datagram))

    @given(packets(), st.data())
    def test_any_change_of_a_head_is_read_as_the_plain_rules_have_it(
        self, packet: Packet, data: st.DataObject
    ) -> None:
        datagram = bytearray(encode(packet))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, min(len(datagram), HEAD_MAX) - 1))
            datagram[at] = data.draw(st.integers(0, 255))
        check(bytes(datagram))

    @given(packets(), st.data())
    def test_any_cut_and_any_addition(self, packet: Packet, data: st.DataObject) -> None:
        datagram = encode(packet)
        check(datagram[: data.draw(st.integers(0, len(datagram)))])
        check(datagram + data.draw(st.binary(min_size=1, max_size=20)))

    @given(st.binary(max_size=400))
    def test_any_bytes(self, datagram: bytes) -> None:
        check(datagram)

    @given(st.lists(st.tuples(st.integers(0, 11), st.binary(max_size=70)), max_size=12))
    def test_any_tlvs(self, found: list[tuple[int, bytes]]) -> None:
        kinds = {kind for kind, _ in found}
        flags = (4 in kinds) * 2 + (2 in kinds) * 8 + (6 in kinds) * 32
        check(head(flags) + b"".join(record(*each) for each in found) + END)


def check(datagram: bytes) -> None:
    """C and the plain rules are of one mind; what is read says all that there was."""
    flaw, under = flaw_of(datagram)
    if flaw is not None:
        refused(datagram, flaw)
        return
    packet = decode(datagram)
    assert covered(datagram) == under
    written = encode(packet)
    assert decode(written) == packet
    assert len(written) == len(datagram)
    assert written[:HEADER_LEN] == datagram[:HEADER_LEN]


class TestHeader:
    @pytest.mark.parametrize("length", range(36))
    def test_one_that_is_cut_off_is_refused(self, length: int) -> None:
        refused((head() + END)[:length], Flaw.LENGTH)

    @pytest.mark.parametrize("version", [0, 2, 255])
    def test_another_version_is_refused(self, version: int) -> None:
        refused(bytes([version]) + (head() + END)[1:], Flaw.VERSION)

    @pytest.mark.parametrize("bit", range(64))
    def test_a_reserved_bit_is_refused(self, bit: int) -> None:
        datagram = bytearray(head() + END)
        datagram[24 + bit // 8] = 1 << bit % 8
        refused(bytes(datagram), Flaw.RESERVED)

    @pytest.mark.parametrize("stream", [4, 0x100, 0xFFFFFFFF])
    def test_a_stream_that_there_is_not_is_refused(self, stream: int) -> None:
        refused(head(stream=stream) + END, Flaw.STREAM)

    @pytest.mark.parametrize(("total", "index"), [(0, 1), (1, 1), (32, 32), (32, 0xFFFF)])
    def test_an_index_outside_its_group_is_refused(self, total: int, index: int) -> None:
        datagram = bytearray(head(flags=4) + END)
        datagram[18:22] = total.to_bytes(2, "big") + index.to_bytes(2, "big")
        refused(bytes(datagram), Flaw.FEC)
        with pytest.raises(InvalidArgument, match=r"^shred_idx"):
            Header(Class.P1, 1, Stream.SHRED, 1, total, index)

    @pytest.mark.parametrize("flags", range(1, 64))
    def test_flags_of_what_is_not_there_are_refused(self, flags: int) -> None:
        refused(head(flags=flags) + END, Flaw.FLAGS)

    @pytest.mark.parametrize(
        ("needed", "stream", "tlv"),
        [
            (Flags.NACK, 1, record(4, bytes(4))),
            (Flags.PSK_ID, 1, record(2, bytes(4))),
            (Flags.ECN_SUMMARY, 1, record(6, bytes(2))),
            (Flags.CTRL, 3, b""),
        ],
    )
    def test_what_is_there_needs_its_flag(self, needed: Flags, stream: int, tlv: bytes) -> None:
        decode(head(needed, stream=stream) + tlv + END)
        refused(head(0, stream=stream) + tlv + END, Flaw.FLAGS)

    def test_a_group_needs_its_flag(self) -> None:
        datagram = bytearray(head() + END)
        datagram[19] = 1
        refused(bytes(datagram), Flaw.FLAGS)
        datagram[1] = 4 << 2
        assert decode(bytes(datagram)).header.fec_total == 1

    def test_ack_only_means_no_payload(self) -> None:
        receipts = record(3, bytes.fromhex("00000001"))
        assert decode(head(1) + receipts + END).ack_only
        refused(head(1, plen=1) + receipts + END + b"x", Flaw.FLAGS)

    @pytest.mark.parametrize("cls", [2, 3])
    def test_nobody_asks_again_for_p2_and_p3(self, cls: int) -> None:
        refused(head(2, cls) + record(4, bytes(4)) + END, Flaw.NACK_CLASS)
        with pytest.raises(InvalidArgument, match=r"^nack_list"):
            Packet(Header(Class(cls), 1, Stream.REPAIR, 1), Tlvs(nack_list=(1,)))

    @pytest.mark.parametrize("plen", [0, 1, 3, 5, 0xFFFF])
    def test_plen_is_the_payloads_length(self, plen: int) -> None:
        refused(head(plen=plen) + END + b"four", Flaw.PLEN)

    @pytest.mark.parametrize("more", [*range(1, 16), 17, 32])
    def test_a_tag_has_16_bytes(self, more: int) -> None:
        sealed = decode(head(plen=4) + END + b"four" + b"t" * 16)
        assert (sealed.payload, sealed.tag) == (b"four", b"t" * 16)
        refused(head(plen=4) + END + b"four" + bytes(more), Flaw.PLEN)

    def test_a_datagram_has_so_many_bytes_at_most(self) -> None:
        payload = bytes(PACKET_MAX - 36)
        longest = Packet(VOTE.header, payload=payload)
        datagram = encode(longest)
        assert len(datagram) == PACKET_MAX
        assert decode(datagram) == longest
        refused(datagram + b"\0", Flaw.LENGTH)
        for more in (replace(longest, payload=payload + b"\0"), replace(longest, tag=bytes(16))):
            with pytest.raises(InvalidArgument, match=r"^packet: a datagram"):
                encode(more)


LONGEST = {
    TlvType.CAPS: (7, 23),
    TlvType.PSK_ID: (4, 4),
    TlvType.ACK_RLE: (0, 64),
    TlvType.NACK_LIST: (0, 32),
    TlvType.PMTU: (2, 2),
    TlvType.ECN_SUMMARY: (2, 2),
    TlvType.RETRY_COOKIE: (0, 32),
    TlvType.HDR_MAC: (16, 16),
    TlvType.SESSION_ID: (16, 16),
}
FLAG_OF = {
    TlvType.PSK_ID: Flags.PSK_ID,
    TlvType.NACK_LIST: Flags.NACK,
    TlvType.ECN_SUMMARY: Flags.ECN_SUMMARY,
}


def value_of(kind: TlvType, length: int) -> bytes:
    """One that such a TLV may have, where it may have the length."""
    if kind is TlvType.ACK_RLE:
        return b"".join((4 * i).to_bytes(2, "big") + b"\0\3" for i in range(length // 4 + 1))[
            :length
        ]
    return bytes(length)


class TestTlvs:
    def test_without_an_end_it_is_refused(self) -> None:
        refused(head() + record(5, b"\4\0"), Flaw.UNENDED)
        refused(head() + record(5, b"\4\0") + END[:3], Flaw.UNENDED)

    @pytest.mark.parametrize("kind", [*range(10, 256)])
    def test_a_type_that_there_is_not_is_refused(self, kind: int) -> None:
        refused(head() + record(kind, b"") + END, Flaw.TLV_TYPE)

    @pytest.mark.parametrize("kind", LONGEST)
    def test_one_that_comes_twice_is_refused(self, kind: TlvType) -> None:
        once = record(kind, value_of(kind, LONGEST[kind][0]))
        flags = FLAG_OF.get(kind, Flags(0))
        decode(head(flags) + once + END)
        refused(head(flags) + once + once + END, Flaw.TLV_TWICE)

    @pytest.mark.parametrize("kind", LONGEST)
    def test_its_length_is_bounded(self, kind: TlvType) -> None:
        least, most = LONGEST[kind]
        step = 1 if kind is TlvType.RETRY_COOKIE else 4
        flags = FLAG_OF.get(kind, Flags(0))
        for length in range(most + 9):
            datagram = head(flags) + record(kind, value_of(kind, length)) + END
            if least <= length <= most and (length - least) % step == 0:
                decode(datagram)
            else:
                refused(datagram, Flaw.TLV_LENGTH)

    @pytest.mark.parametrize("length", [0xFF, 0x100, 0xFFFF])
    def test_a_length_beyond_the_datagram_is_refused(self, length: int) -> None:
        for kind in TlvType:
            raw = bytes([kind]) + length.to_bytes(2, "big") + bytes(200)
            refused(head() + raw, Flaw.TLV_LENGTH)

    @pytest.mark.parametrize("kind", LONGEST)
    def test_one_that_is_cut_off_is_refused(self, kind: TlvType) -> None:
        whole = head(FLAG_OF.get(kind, Flags(0))) + record(kind, value_of(kind, LONGEST[kind][1]))
        for length in range(36, len(whole)):
            refused(whole[:length], Flaw.UNENDED)
        decode(whole + END)

    @pytest.mark.parametrize("kind", LONGEST)
    def test_padding_is_zero(self, kind: TlvType) -> None:
        for length in {LONGEST[kind], (5, 5), (6, 6)} if kind == 7 else {LONGEST[kind]}:
            value = value_of(kind, length[1])
            raw = record(kind, value)
            for at in range(3 + len(value), len(raw)):
                marred = raw[:at] + b"\1" + raw[at + 1 :]
                refused(head(FLAG_OF.get(kind, Flags(0))) + marred + END, Flaw.TLV_PADDING)

    def test_the_end_is_four_zeros(self) -> None:
        refused(head() + b"\0\0\0\1", Flaw.TLV_PADDING)
        refused(head() + b"\0\0\1\0", Flaw.TLV_LENGTH)
        refused(head() + b"\0\1\0\0", Flaw.TLV_LENGTH)

    def test_nothing_is_read_after_the_end(self) -> None:
        refused(head() + END + record(5, b"\4\0"), Flaw.PLEN)
        assert decode(head(plen=8) + END + record(5, b"\4\0")).tlvs == Tlvs()

    @pytest.mark.parametrize(
        "told",
        [
            "0000 0000",
            "ffff 0002",
            "0001 ffff 0001 0001",
            "0004 0002 0000 0002",
            "0000 0002 0001 0002",
            "0000 0002 0000 0002",
            "0000 ffff fffe 0001",
        ],
    )
    def test_ranges_rise_and_do_not_overlap(self, told: str) -> None:
        refused(head() + record(3, bytes.fromhex(told)) + END, Flaw.TLV_VALUE)
        pairs = bytes.fromhex(told)
        numbers = [int.from_bytes(pairs[i : i + 2], "big") for i in range(0, len(pairs), 2)]
        with pytest.raises(InvalidArgument):
            Tlvs(ack_rle=tuple(map(AckRange, numbers[::2], numbers[1::2])))

    def test_ranges_may_touch(self) -> None:
        told = bytes.fromhex("0000 0002 0002 0001 fffe 0002")
        packet = decode(head() + record(3, told) + END)
        assert packet.tlvs.ack_rle == (AckRange(0, 2), AckRange(2, 1), AckRange(0xFFFE, 2))

    @pytest.mark.parametrize("ratio", [1001, 0xFFFF])
    def test_no_more_than_all_is_marked(self, ratio: int) -> None:
        refused(head(Flags.ECN_SUMMARY) + record(6, ratio.to_bytes(2, "big")) + END, Flaw.TLV_VALUE)
        with pytest.raises(InvalidArgument, match=r"^ecn_summary"):
            Tlvs(ecn_summary=ratio)

    def test_ecn_is_yes_or_no(self) -> None:
        refused(head() + record(1, bytes(6) + b"\2") + END, Flaw.TLV_VALUE)

    def test_the_longest_head(self) -> None:
        whole = b"".join(record(kind, value_of(kind, LONGEST[kind][1])) for kind in LONGEST)
        datagram = head(0x2A) + whole + END
        assert len(datagram) == HEAD_MAX
        packet = decode(datagram)
        assert encode(packet) == datagram
        assert len(covered(datagram)) == HEAD_MAX - 36 - 20


class TestValues:
    @pytest.mark.parametrize(
        ("field", "make"),
        [
            ("slot", lambda value: Header(Class.P0, value, Stream.VOTE, 0)),
            ("seq", lambda value: Header(Class.P0, 0, Stream.VOTE, value)),
            ("fec_total", lambda value: Header(Class.P0, 0, Stream.VOTE, 0, value)),
            ("shred_idx", lambda value: Header(Class.P0, 0, Stream.VOTE, 0, 1, value)),
            ("bitmap", lambda value: Caps(value)),
            ("pmtu", lambda value: Caps(pmtu=value)),
            ("psk_ids", lambda value: Caps(psk_ids=(value,))),
            ("start", lambda value: AckRange(value, 1)),
            ("run", lambda value: AckRange(0, value)),
            ("psk_id", lambda value: Tlvs(psk_id=value)),
            ("pmtu", lambda value: Tlvs(pmtu=value)),
            ("nack_list", lambda value: Tlvs(nack_list=(value,))),
            ("ecn_summary", lambda value: Tlvs(ecn_summary=value)),
        ],
    )
    @pytest.mark.parametrize("value", [-1, 1 << 64])
    def test_a_number_that_does_not_fit_is_named(
        self, field: str, make: Callable[[int], object], value: int
    ) -> None:
        with pytest.raises(InvalidArgument) as caught:
            make(value)
        assert caught.value.field == field

    @pytest.mark.parametrize(
        ("field", "fields"),
        [
            ("ack_rle", {"ack_rle": tuple(AckRange(2 * i, 1) for i in range(17))}),
            ("nack_list", {"nack_list": tuple(range(9))}),
            ("retry_cookie", {"retry_cookie": bytes(33)}),
            ("hdr_mac", {"hdr_mac": bytes(15)}),
            ("hdr_mac", {"hdr_mac": b""}),
            ("session_id", {"session_id": bytes(17)}),
        ],
    )
    def test_what_is_too_long_is_named(self, field: str, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            Tlvs(**fields)
        assert caught.value.field == field

    def test_caps_tell_of_four_keys_at_most(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^psk_ids: has 5, and 4 are the most"):
            Caps(psk_ids=(1, 2, 3, 4, 5))

    def test_a_tag_has_16_bytes(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^tag: needs 16 bytes, not 15"):
            replace(VOTE, tag=bytes(15))

    @pytest.mark.parametrize("fields", [{}, {"payload": b"x", "tlvs": Tlvs(ack_rle=())}])
    def test_ack_only_needs_receipts_alone(self, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument, match=r"^ack_only"):
            Packet(VOTE.header, **fields, ack_only=True)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("psk_id_count", 5), ("range_count", 17), ("nack_count", 9), ("cookie_len", 33)],
    )
    def test_c_writes_nothing_of_a_list_that_is_too_long(self, field: str, value: int) -> None:
        native = ffi.new("struct numi_head *")
        setattr(native, field, value)
        out = ffi.new("uint8_t[]", b"\xa5" * HEAD_MAX)
        assert lib.numi_encode(native, out) == -Flaw.TLV_LENGTH
        assert set(bytes(ffi.buffer(out, HEAD_MAX))) == {0xA5}

    def test_what_both_can_is_what_counts(self) -> None:
        ours = Caps(Cap.ETF | Cap.GSO | Cap.PMTU, 1400, True, (1, 2))
        theirs = Caps(Cap.GSO | Cap.PMTU | Cap(1 << 31), 1300, False, (2, 3))
        assert ours.common(theirs) == Caps(Cap.GSO | Cap.PMTU, 1300, False, (2,))
        assert theirs.common(ours) == ours.common(theirs)
        assert ours.common(Caps()) == Caps()
