# SPDX-License-Identifier: Apache-2.0
import struct
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from assent.cli.main import app
from assent.errors import RemoteError
from assent.handshake.keys import seal
from assent.transport.dissect import (
    DirectionKeys,
    DissectError,
    Kind,
    dissect,
    dump_keys,
    keyring,
    load_keys,
)
from assent.wire.cellid import CellID
from assent.wire.control import Close, ControlTag, Gaps, Hail, Tag, encode_gaps, encode_tags
from assent.wire.fabric import Flags, Frame, Header, header_tag
from assent.wire.records import Record

SRC, DST = CellID(bytes(range(16))), CellID(bytes(range(16, 32)))
KEYS = DirectionKeys(SRC, DST, 3, bytes(range(32)), bytes(range(16)))
RING = keyring([KEYS])
ETHERNET = bytes(range(12)) + b"\x88\xb5"
MISSING = Gaps(((9, 2), (20, 1)))
GAPS = encode_gaps(MISSING)
ANSWERING = encode_tags([ControlTag(Tag.GAPS, 1, MISSING.to_body())])


def frame(flags, plain=None, *, flow=1, nack_slot=0, key=KEYS, clear=False):
    payload = b""
    if plain is not None:
        payload = (
            plain
            if clear
            else seal(key.payload_key, plain, src=SRC, dst=DST, epoch=key.epoch, flow=flow, seq=7)
        )
    header = Header(SRC, DST, 7, flags | Flags.BLOCK, len(payload), flow, nack_slot=nack_slot)
    header = replace(header, tag=header_tag(key.header_key, header))
    return ETHERNET + Frame(header, payload).encode()


@pytest.mark.parametrize(
    ("kind", "captured"),
    [
        (Kind.DATA, frame(Flags.DATA, b"\0\1a")),
        (Kind.DATA, frame(Flags.DATA | Flags.NACK, b"\0\1a", nack_slot=3)),
        (Kind.DATA, frame(Flags.DATA | Flags.LAMP, b"\0\1a")),
        (Kind.PROBE, frame(Flags.DATA)),
        (Kind.PROBE, frame(Flags.DATA | Flags.NACK, nack_slot=3)),
        (Kind.RECEIPT, frame(Flags(0))),
        (Kind.NACK, frame(Flags.NACK, nack_slot=3)),
        (Kind.GAPS, frame(Flags.NACK, GAPS, nack_slot=9)),
        (Kind.VOID, frame(Flags.FIN, nack_slot=2)),
        (Kind.ACK, frame(Flags.ACK, nack_slot=2)),
        (Kind.HEARTBEAT, frame(Flags.DATA, flow=0)),
        (Kind.CONTROL, frame(Flags.DATA, GAPS, flow=0)),
        (
            Kind.CLOSE,
            frame(Flags.FIN, encode_tags([ControlTag(Tag.CLOSE, 0, Close("").to_body())]), flow=0),
        ),
        (Kind.CLOSE, frame(Flags.FIN | Flags.ACK, flow=0)),
        (
            Kind.HANDSHAKE,
            frame(
                Flags.SYN,
                encode_tags([ControlTag(Tag.HAIL, 0, Hail(b"x" * 90).to_body())]),
                flow=0,
                clear=True,
            ),
        ),
    ],
)
def test_each_kind_of_frame_is_told(kind, captured):
    assert dissect(captured, RING).kind is kind
    tagged = captured[:12] + b"\x81\x00\x00\x05" + captured[12:]
    assert dissect(tagged, RING).kind is kind


def test_what_a_frame_carries_is_opened():
    said = dissect(frame(Flags.DATA, b"\0\1a\x40\0"), RING)
    assert said.records == (Record(b"a"), Record(b"", end=True))
    assert not said.closed
    assert dissect(frame(Flags.NACK, GAPS, nack_slot=9), RING).missing == ((9, 2), (20, 1))
    assert dissect(frame(Flags.NACK, nack_slot=3), RING).missing == ((3, 1),)
    assert dissect(frame(Flags.DATA), RING).missing == ()


def test_without_keys_a_payload_stays_closed():
    said = dissect(frame(Flags.DATA, b"\0\1a"), keyring([]))
    assert said.closed
    assert said.records == ()


def test_the_key_of_the_right_epoch_is_found():
    older = replace(KEYS, epoch=2, payload_key=bytes(32), header_key=bytes(16))
    ring = keyring([older, KEYS])
    assert dissect(frame(Flags.DATA, b"\0\1a"), ring).records == (Record(b"a"),)
    assert dissect(frame(Flags.DATA, b"\0\1b", key=older), ring).records == (Record(b"b"),)


def test_other_frames_are_not_ours():
    assert dissect(bytes(12) + b"\x08\x00" + bytes(50), RING) is None


def changed(captured, at, byte):
    at %= len(captured)
    return captured[:at] + bytes([captured[at] ^ byte]) + captured[at + 1 :]


@pytest.mark.parametrize(
    ("captured", "why"),
    [
        (frame(Flags.DATA | Flags.SYN), "mean nothing on a data flow"),
        (frame(Flags.FIN, b"\0\0"), "mean nothing on a data flow"),
        (frame(Flags.FIN | Flags.NACK, nack_slot=2), "mean nothing on a data flow"),
        (frame(Flags.ACK | Flags.NACK, nack_slot=2), "mean nothing on a data flow"),
        (frame(Flags(0), b"\0\0"), "mean nothing on a data flow"),
        (frame(Flags.NACK, nack_slot=2, flow=0), "mean nothing on flow 0"),
        (frame(Flags.DATA, b"\0\2a"), "over the end"),
        (frame(Flags.DATA, b""), "shorter than its seal"),
        (frame(Flags.DATA, bytes(16), clear=True), "shorter than its seal"),
        (frame(Flags.DATA, bytes(40), clear=True), "does not open"),
        (frame(Flags.NACK, GAPS, nack_slot=8), "not the first of the gaps"),
        (frame(Flags.NACK, GAPS + GAPS, nack_slot=9), "one GAPS"),
        (frame(Flags.NACK, ANSWERING, nack_slot=9), "another form"),
        (frame(Flags.NACK, b"\0\1a", nack_slot=9), "64-byte"),
        (frame(Flags.SYN, GAPS, flow=0, clear=True), "one HAIL"),
        (changed(frame(Flags.DATA), 60, 1), "none of the keys"),
        (changed(frame(Flags.DATA, b"\0\1a"), -1, 1), "padding"),
        (frame(Flags.DATA) + b"\0", "disagree"),
        (frame(Flags.DATA)[:70], "64 bytes"),
    ],
)
def test_a_frame_with_a_byte_that_means_nothing_is_refused(captured, why):
    with pytest.raises(RemoteError, match=why):
        dissect(captured, RING)


def test_keys_are_read_as_they_were_written():
    given = [KEYS, replace(KEYS, header_key=None)]
    assert load_keys(dump_keys(given)) == given
    assert load_keys("\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "[]",
        "{}",
        dump_keys([KEYS]).replace("3", '"3"', 1),
        dump_keys([replace(KEYS, payload_key=bytes(31))]),
        dump_keys([replace(KEYS, header_key=bytes(15))]),
        dump_keys([KEYS]).replace(SRC.raw.hex(), "zz"),
    ],
)
def test_other_files_hold_no_keys_and_are_not_repeated(text):
    with pytest.raises(DissectError) as caught:
        load_keys(text)
    assert "secret" not in str(caught.value)


def pcap_of(*frames):
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1)
    return head + b"".join(struct.pack("<IIII", 0, 0, len(f), len(f)) + f for f in frames)


def test_a_capture_is_decoded_on_the_command_line(tmp_path):
    (tmp_path / "keys").write_text(dump_keys([KEYS]))
    data, gaps = frame(Flags.DATA, b"\0\1a\x40\0"), frame(Flags.NACK, GAPS, nack_slot=9)
    (tmp_path / "a.pcap").write_bytes(pcap_of(data, gaps))
    command = ["dissect", "frames", str(tmp_path / "a.pcap")]
    done = CliRunner().invoke(app, [*command, "--keys", str(tmp_path / "keys")])
    assert done.exit_code == 0, done.output
    for told in ("seq 7: data", "record: 1 bytes", "end", "missing: 9 to 10", "missing: 20"):
        assert told in done.stdout
    assert "closed" in CliRunner().invoke(app, command).stdout
    (tmp_path / "a.pcap").write_bytes(pcap_of(data, changed(data, -1, 1)))
    done = CliRunner().invoke(app, [*command, "--keys", str(tmp_path / "keys")])
    assert done.exit_code == 1
    assert "1: padding is not zero" in done.stdout
    assert "1 frames are not what they should be" in done.stderr
