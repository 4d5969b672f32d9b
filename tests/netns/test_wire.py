"""What the native endpoint puts on the wire, read by the Python codecs: one format, two authors."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

import pytest

from assent.demo.wiretap import capture
from assent.handshake.keys import open_
from assent.transport.access import access_of
from assent.v1.cells_pb2 import CellRef
from assent.v1.sessions_pb2 import OpenFlowRequest
from assent.wire.control import Tag, decode_tags
from assent.wire.fabric import Flags, Frame, serial_before, signed_bytes
from assent.wire.siphash import siphash24

MORE, END, LENGTH = 0x8000, 0x4000, 0x3FFF

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.mark.parametrize("backend", ["af_xdp", "af_packet"])
def test_captured_frames_decode_and_open_to_the_file(pair, random_file, backend):
    file = random_file("small.bin", 300_000)
    with pair.client("left") as left:
        handle = left.sessions.OpenFlow(OpenFlowRequest(remote=CellRef(name="right"), flow=1))
    access = access_of(handle)
    frames: list[bytes] = []
    over = threading.Event()
    tap = threading.Thread(
        target=lambda: frames.extend(
            capture(pair.lab.switch, "right", bytes(access.local), 100_000, 60, over.is_set)
        )
    )
    tap.start()
    options = ("--dir", str(pair.scratch), "--backend", backend, "--json")
    receiver = pair.background("right", "recv", "--from", "left", *options)
    sender = pair.background(
        "left", "send", str(file), "--to", "right", "--backend", backend, "--json"
    )
    sent, received = sender.result(60), receiver.result(60)
    over.set()
    tap.join()
    assert sent["backend"] == received["backend"] == backend

    content: dict[int, bytes] = {}
    for raw in frames:
        frame = Frame.decode(raw[14:])
        header = frame.header
        assert header.tag == siphash24(access.tx_header_key, signed_bytes(header))
        assert (header.src, header.dst, header.flow) == (access.local, access.remote, 1)
        assert header.flags & Flags.BLOCK
        if frame.payload:
            content[header.seq] = open_(
                access.tx_payload_key,
                frame.payload,
                src=header.src,
                dst=header.dst,
                epoch=access.epoch,
                flow=1,
                seq=header.seq,
            )
    numbers = sorted(content)
    assert all(serial_before(a, b) for a, b in itertools.pairwise(numbers))
    manifest, sent_file = messages_in(content[number] for number in numbers)
    assert decode_tags(manifest)[0][0].tag == Tag.MANIFEST
    assert sent_file == file.read_bytes()


def messages_in(plaintexts: Iterable[bytes]) -> list[bytes]:
    """Messages, put together from the records of frames in their order; END ends them."""
    found, message = [], bytearray()
    for plain in plaintexts:
        at = 0
        while at < len(plain):
            head = int.from_bytes(plain[at : at + 2])
            if head & END:
                assert head == END
                assert plain[at + 2 :] == b""
                return found
            length = head & LENGTH
            assert at + 2 + length <= len(plain)
            message += plain[at + 2 : at + 2 + length]
            at += 2 + length
            if not head & MORE:
                found.append(bytes(message))
                message.clear()
    raise AssertionError("the flow was not ended")
