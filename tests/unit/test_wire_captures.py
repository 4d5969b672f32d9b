# SPDX-License-Identifier: Apache-2.0
"""Captures: what is written can be read, by a reader that shares nothing with the writer too."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.wire.captures import CapturedFrame, CaptureError, read_capture
from assent.wire.pcapng import PcapngWriter

FRAME = bytes(range(100))
OTHER = b"\xee" * 61
MICROSECONDS, NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D


def pcap(
    *frames: tuple[bytes, int], order: str = "<", magic: int = MICROSECONDS, network: int = 1
) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, network)
    records = (struct.pack(f"{order}IIII", 7, 9, len(d), n) + d for d, n in frames)
    return head + b"".join(records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", linktype: int = 1, snaplen: int = 0) -> bytes:
    return block(1, struct.pack(f"{order}HHI", linktype, 0, snaplen), order)


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def enhanced(data: bytes, original: int, order: str = "<", number: int = 0) -> bytes:
    return block(
        6, struct.pack(f"{order}IIIII", number, 0, 0, len(data), original) + pad(data), order
    )


def simple(data: bytes, original: int, order: str = "<") -> bytes:
    return block(3, struct.pack(f"{order}I", original) + pad(data), order)


def obsolete(data: bytes, original: int, order: str = "<") -> bytes:
    fixed = struct.pack(f"{order}HHIIII", 0, 0, 0, 0, len(data), original)
    return block(2, fixed + pad(data), order)


def frames(buf: bytes) -> list[tuple[bytes, int]]:
    return [(frame.data, frame.original_len) for frame in read_capture(buf)]


class TestPcap:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("magic", [MICROSECONDS, NANOSECONDS])
    def test_either_byte_order_and_clock(self, order: str, magic: int) -> None:
        buf = pcap((FRAME, 100), (OTHER, 1500), order=order, magic=magic)
        assert frames(buf) == [(FRAME, 100), (OTHER, 1500)]

    def test_no_frames(self) -> None:
        assert frames(pcap()) == []

    @pytest.mark.parametrize(
        ("buf", "problem"),
        [
            (pcap()[:23], "ends within its file header"),
            (pcap((FRAME, 100))[:30], "ends within the header of frame 1"),
            (pcap((OTHER, 61), (FRAME, 100))[:-1], "ends within frame 2"),
            (pcap((FRAME, 99)), "frame 1 has an impossible length (100 of 99)"),
            (pcap(network=101), "its frames are of link type 101, not 1 (Ethernet)"),
            (pcap(network=1 | 1 << 26), "its frames end in a check sequence"),
        ],
    )
    def test_damaged(self, buf: bytes, problem: str) -> None:
        with pytest.raises(CaptureError) as failure:
            frames(buf)
        assert str(failure.value).startswith(problem)

    def test_length_beyond_reason(self) -> None:
        buf = pcap() + struct.pack("<IIII", 0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
        with pytest.raises(CaptureError, match="impossible length"):
            frames(buf)


class TestPcapng:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", [enhanced, simple, obsolete])
    def test_either_byte_order_and_all_packet_blocks(
        self, order: str, kind: Callable[..., bytes]
    ) -> None:
        buf = section(order) + interface(order) + kind(FRAME, 100, order) + kind(OTHER, 61, order)
        assert frames(buf) == [(FRAME, 100), (OTHER, 61)]

    def test_simple_blocks_are_cut_at_the_interfaces_limit(self) -> None:
        buf = section() + interface(snaplen=60) + simple(FRAME[:60], 100)
        assert frames(buf) == [(FRAME[:60], 100)]

    def test_sections_have_interfaces_of_their_own(self) -> None:
        first = section("<") + interface("<", linktype=113)
        second = section(">") + interface(">") + enhanced(FRAME, 100, ">")
        assert frames(first + second) == [(FRAME, 100)]

    def test_unknown_blocks_are_skipped(self) -> None:
        buf = section() + block(0x0BAD, b"\0" * 8) + interface() + enhanced(FRAME, 100)
        assert frames(buf) == [(FRAME, 100)]

    @pytest.mark.parametrize(
        ("buf", "problem"),
        [
            (section()[:11], "ends within the block at byte 0"),
            (section()[:-2], "ends within the block at byte 0"),
            (section() + b"\0" * 8, "ends within the block at byte 28"),
            (section()[:8] + bytes(4) + section()[12:], "the section at byte 0 has no byte order"),
            (section() + enhanced(FRAME, 100), "frame 1 is of interface 0, which is not described"),
            (section() + interface(linktype=0), ""),
            (
                section() + interface(linktype=0) + enhanced(FRAME, 100),
                "its frames are of link type 0, not 1 (Ethernet)",
            ),
            (section() + block(1, b""), "the block at byte 28 is too short for its type"),
            (section() + block(6, b""), "the block at byte 28 is too short for its type"),
            (section() + interface() + simple(b"", 8), "frame 1 has an impossible length (8 of 8)"),
            (section() + interface() + enhanced(FRAME, 99), "frame 1 has an impossible length"),
            (
                section() + struct.pack("<II", 5, 13) + bytes(8),
                "the block at byte 28 has an impossible length (13)",
            ),
            (
                section() + struct.pack("<IIII", 5, 16, 0, 12),
                "the block at byte 28 has two lengths that differ",
            ),
        ],
    )
    def test_damaged(self, buf: bytes, problem: str) -> None:
        if not problem:  # nobody's link type matters before there is a frame
            assert frames(buf) == []
            return
        with pytest.raises(CaptureError) as failure:
            frames(buf)
        assert str(failure.value).startswith(problem)


@pytest.mark.parametrize(
    ("buf", "problem"),
    [(b"", "is empty"), (b"\0", "is neither"), (b"PK\3\4" + bytes(100), "is neither")],
)
def test_not_a_capture(buf: bytes, problem: str) -> None:
    with pytest.raises(CaptureError, match=problem):
        frames(buf)


@given(st.binary(max_size=200), st.sampled_from([pcap(), section() + interface(), b""]))
def test_nothing_but_capture_errors(noise: bytes, head: bytes) -> None:
    try:
        found = list(read_capture(head + noise))
    except CaptureError:
        return
    assert all(isinstance(frame, CapturedFrame) for frame in found)


Options = dict[int, bytes]


def blocks(buf: bytes) -> list[tuple[int, bytes]]:
    """The blocks of a little-endian file: type and body."""
    found = []
    while buf:
        kind, length = struct.unpack_from("<II", buf)
        assert length % 4 == 0
        assert struct.unpack_from("<I", buf, length - 4) == (length,)
        found.append((kind, buf[8 : length - 4]))
        buf = buf[length:]
    return found


def options(buf: bytes) -> Options:
    found = {}
    while buf:
        code, length = struct.unpack_from("<HH", buf)
        if code == 0:
            assert buf == bytes(4)
            break
        found[code] = buf[4 : 4 + length]
        buf = buf[4 + length + -length % 4 :]
    return found


class TestWriter:
    def test_block_by_block(self) -> None:
        writer = PcapngWriter("the program", snaplen=78)
        time_ns = 1_700_000_000_123_456_789
        buf = writer.begin()
        buf += writer.frame("eth0", time_ns, FRAME[:78], 1500, "bad_tag: left to right")
        buf += writer.frame("eth1", time_ns + 1, OTHER, 61)
        buf += writer.frame("eth0", time_ns + 2, b"", 0, "é")
        kinds, bodies = zip(*blocks(buf), strict=True)
        assert kinds == (0x0A0D0D0A, 1, 6, 1, 6, 6)
        assert struct.unpack_from("<IHHq", bodies[0]) == (0x1A2B3C4D, 1, 0, -1)
        assert options(bodies[0][16:]) == {4: b"the program"}
        for body, name in ((bodies[1], b"eth0"), (bodies[3], b"eth1")):
            assert struct.unpack_from("<HHI", body) == (1, 0, 78)
            assert options(body[8:]) == {2: name, 9: b"\x09"}
        number, high, low, captured, original = struct.unpack_from("<IIIII", bodies[2])
        assert (number, high << 32 | low, captured, original) == (0, time_ns, 78, 1500)
        assert bodies[2][20:98] == FRAME[:78]
        assert options(bodies[2][100:]) == {1: b"bad_tag: left to right"}
        assert struct.unpack_from("<I", bodies[4]) == (1,)
        assert bodies[4][20:] == pad(OTHER)
        assert struct.unpack_from("<I", bodies[5]) == (0,)
        assert options(bodies[5][20:]) == {1: "é".encode()}

    @given(st.lists(st.tuples(st.binary(max_size=90), st.text(max_size=40))))
    def test_what_is_written_is_read(self, given: list[tuple[bytes, str]]) -> None:
        writer = PcapngWriter("x")
        buf = writer.begin()
        for data, comment in given:
            buf += writer.frame("eth0", 0, data, len(data) + 5, comment)
        assert frames(buf) == [(data, len(data) + 5) for data, _ in given]
