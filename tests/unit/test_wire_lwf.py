# SPDX-License-Identifier: Apache-2.0
"""The LWF codec: what is written is read again, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.identity.hint import ForeignHintError, hint_of, signed, verify_frame
from assent.identity.keys import Identity, SignatureError
from assent.wire.crc32c import crc32c
from assent.wire.ethernet import FrameError
from assent.wire.lwf import (
    HEADER_LEN,
    MAGIC,
    NOBODY,
    TRAILER_LEN,
    Flags,
    Frame,
    FrameClass,
    Header,
    Hint,
    Service,
)

SOMEBODY = Hint(bytes(range(24)))
ANYBODY = Hint(bytes(range(24, 48)))
SENDER = Identity.from_seed(b"\x07" * 32)

hints = st.binary(min_size=24, max_size=24).map(Hint)
headers = st.builds(
    Header,
    dest=hints,
    source=hints,
    service=st.integers(0, 2**16 - 1),
    payload_len=st.integers(0, 2**16 - 1),
    frame_class=st.integers(0, 255),
    session=st.binary(min_size=16, max_size=16),
    sequence=st.integers(0, 2**32 - 1),
    version=st.integers(0, 255),
    flags=st.integers(0, 255),
    entropy_difficulty=st.integers(0, 255),
    timestamp=st.integers(0, 2**64 - 1),
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    payload = draw(st.binary(max_size=1500))
    length = HEADER_LEN + len(payload) + TRAILER_LEN
    header = replace(
        draw(headers),
        payload_len=len(payload),
        version=draw(st.sampled_from((1, 2))),
        frame_class=draw(st.sampled_from([each for each in FrameClass if each.longest >= length])),
    )
    return Frame(header, payload, draw(st.binary(min_size=64, max_size=64)))


class TestHeader:
    def test_it_stands_where_the_format_says(self) -> None:
        header = Header(
            SOMEBODY,
            ANYBODY,
            service=0x0102,
            payload_len=0x0304,
            frame_class=5,
            session=b"s" * 16,
            sequence=0x060708090A0B0C0D & 0xFFFFFFFF,
            version=2,
            flags=0x0E,
            entropy_difficulty=0x0F,
            timestamp=0x1011121314151617,
        )
        assert header.encode() == (
            b"LWF\0" + bytes(range(48)) + b"s" * 16
            + bytes.fromhex("0a0b0c0d 0102 0304 05 02 0e 0f 1011121314151617")
        )  # fmt: skip

    @given(headers)
    def test_round_trip(self, header: Header) -> None:
        raw = header.encode()
        assert len(raw) == HEADER_LEN
        assert Header.decode(raw + b"more") == header

    @given(st.binary(min_size=HEADER_LEN, max_size=HEADER_LEN))
    def test_any_bytes_behind_the_magic_are_a_header(self, raw: bytes) -> None:
        raw = MAGIC + raw[4:]
        assert Header.decode(raw).encode() == raw

    @pytest.mark.parametrize("length", range(HEADER_LEN))
    def test_one_that_is_cut_off_is_refused(self, length: int) -> None:
        with pytest.raises(FrameError, match="88 bytes"):
            Header.decode(Header(SOMEBODY, ANYBODY).encode()[:length])

    @pytest.mark.parametrize("at", range(4))
    def test_another_magic_is_refused(self, at: int) -> None:
        raw = bytearray(Header(SOMEBODY, ANYBODY).encode())
        raw[at] ^= 1
        with pytest.raises(FrameError, match="magic"):
            Header.decode(bytes(raw))

    @pytest.mark.parametrize(
        ("field", "bits"),
        [
            ("sequence", 32),
            ("service", 16),
            ("payload_len", 16),
            ("frame_class", 8),
            ("version", 8),
            ("flags", 8),
            ("entropy_difficulty", 8),
            ("timestamp", 64),
        ],
    )
    @pytest.mark.parametrize("beyond", [-1, 0])
    def test_a_field_that_does_not_fit_is_named(self, field: str, bits: int, beyond: int) -> None:
        value = -1 if beyond else 1 << bits
        with pytest.raises(InvalidArgument, match=f"^{field}: does not fit {bits} bits"):
            replace(Header(SOMEBODY, ANYBODY), **{field: value}).encode()

    def test_a_session_has_16_bytes(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^session: needs 16 bytes, not 15"):
            Header(SOMEBODY, ANYBODY, session=bytes(15)).encode()

    def test_numbers_of_the_format(self) -> None:
        assert [(flag.name, flag.value) for flag in Flags] == [
            ("ENCRYPTED", 0x01),
            ("SIGNED", 0x02),
            ("RELAYABLE", 0x04),
            ("HAS_ENTROPY", 0x08),
            ("FRAGMENTED", 0x10),
            ("PRIORITY", 0x20),
        ]
        assert Service.RELAY_FORWARD == 5
        assert Service.SWARM_BLOCK == 0x0B03


class TestFrame:
    @given(frames())
    def test_round_trip(self, frame: Frame) -> None:
        assert Frame.decode(frame.encode()) == frame

    @given(frames(), st.data())
    def test_one_bit_that_turned_is_noticed(self, frame: Frame, data: st.DataObject) -> None:
        raw = bytearray(frame.encode())
        bit = data.draw(st.integers(0, 8 * len(raw) - 1))
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            Frame.decode(bytes(raw))

    @given(frames(), st.data())
    def test_another_length_is_refused(self, frame: Frame, data: st.DataObject) -> None:
        raw = frame.encode()
        short = raw[: data.draw(st.integers(0, len(raw) - 1))]
        for other in (short, raw + b"\0"):
            with pytest.raises(FrameError):
                Frame.decode(other)

    @pytest.mark.parametrize("version", [0, 3, 255])
    def test_another_version_is_refused(self, version: int) -> None:
        with pytest.raises(InvalidArgument, match=r"^version: must be 1 or 2"):
            Frame(Header(SOMEBODY, ANYBODY, version=version)).encode()

    @pytest.mark.parametrize("number", range(5, 255))
    def test_another_class_is_refused(self, number: int) -> None:
        with pytest.raises(InvalidArgument, match=r"^frame_class: there is no such class"):
            Frame(Header(SOMEBODY, ANYBODY, frame_class=number)).encode()

    @pytest.mark.parametrize("frame_class", [each for each in FrameClass if each.longest < 60_000])
    def test_a_class_holds_so_much_and_no_more(self, frame_class: FrameClass) -> None:
        room = frame_class.longest - HEADER_LEN - TRAILER_LEN
        for length, fits in ((room, True), (room + 1, False)):
            if length < 0:
                continue
            header = Header(SOMEBODY, ANYBODY, payload_len=length, frame_class=frame_class)
            if fits:
                assert len(Frame(header, bytes(length)).encode()) == frame_class.longest
            else:
                with pytest.raises(InvalidArgument, match=r"^frame_class: does not hold"):
                    Frame(header, bytes(length)).encode()

    def test_this_trailer_is_too_long_for_micro(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^frame_class"):
            Frame(Header(SOMEBODY, ANYBODY, frame_class=FrameClass.MICRO)).encode()

    @pytest.mark.parametrize(
        ("length", "found"),
        [(124, 0), (128, 0), (129, 1), (512, 1), (1350, 2), (4096, 3), (9000, 4), (9001, 255)],
    )
    def test_the_smallest_class_that_holds_a_frame(self, length: int, found: int) -> None:
        assert FrameClass.of(length) == found

    def test_the_payload_must_be_as_long_as_the_header_says(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^payload_len"):
            Frame(Header(SOMEBODY, ANYBODY, payload_len=1)).encode()
        with pytest.raises(InvalidArgument, match=r"^signature: needs 64 bytes"):
            Frame(Header(SOMEBODY, ANYBODY), signature=b"").encode()


class TestCrc:
    @pytest.mark.parametrize(
        ("data", "crc"),
        [
            # RFC 3720, appendix B.4; and the usual check value.
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
            (b"123456789", 0xE3069283),
            (b"", 0),
        ],
    )
    def test_published_values(self, data: bytes, crc: int) -> None:
        assert crc32c(data) == crc


class TestHint:
    @pytest.mark.parametrize(
        ("data", "digest"),
        [
            # BLAKE3's published vectors: nothing, one zero byte, and "abc".
            (b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
            (b"\0", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
            (b"abc", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
        ],
    )
    def test_the_hash_is_the_published_one(self, data: bytes, digest: str) -> None:
        assert blake3(data).hexdigest() == digest

    @given(st.binary(min_size=32, max_size=32))
    def test_of_a_key(self, key: bytes) -> None:
        assert bytes(hint_of(key)) == blake3(key).digest()[:24]

    def test_of_something_else(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^public_key: needs 32 bytes, not 31"):
            hint_of(bytes(31))

    def test_text(self) -> None:
        assert Hint.parse(str(SOMEBODY)) == SOMEBODY
        for text in ("", "00" * 23, "00" * 25, "zz" * 24):
            with pytest.raises(InvalidArgument, match=r"^hint: must be 48"):
                Hint.parse(text)
        with pytest.raises(InvalidArgument, match=r"^hint: needs 24 bytes"):
            Hint(bytes(23))

    def test_nobody_is_false(self) -> None:
        assert not NOBODY
        assert SOMEBODY


class TestSignature:
    def frame(self) -> Frame:
        return signed(Frame(Header(SOMEBODY, NOBODY, payload_len=5), b"hello"), SENDER)

    def test_it_verifies(self) -> None:
        frame = self.frame()
        assert frame.header.source == hint_of(SENDER.public_key)
        verify_frame(Frame.decode(frame.encode()), SENDER.public_key)

    @pytest.mark.parametrize(
        "change",
        [
            {"dest": ANYBODY},
            {"sequence": 1},
            {"timestamp": 1},
            {"flags": 1},
            {"session": b"\1" * 16},
            {"service": 5},
        ],
    )
    def test_a_changed_header_does_not(self, change: dict[str, object]) -> None:
        frame = self.frame()
        other = replace(frame, header=replace(frame.header, **change))
        with pytest.raises(SignatureError):
            verify_frame(Frame.decode(other.encode()), SENDER.public_key)

    def test_a_changed_payload_or_signature_does_not(self) -> None:
        frame = self.frame()
        for other in (replace(frame, payload=b"hollo"), replace(frame, signature=bytes(64))):
            with pytest.raises(SignatureError):
                verify_frame(other, SENDER.public_key)

    def test_another_key_is_somebody_else(self) -> None:
        with pytest.raises(ForeignHintError):
            verify_frame(self.frame(), Identity.from_seed(b"\x08" * 32).public_key)
