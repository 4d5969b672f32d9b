# SPDX-License-Identifier: Apache-2.0
"""A whole transfer, captured at the switch: no byte of any frame is left unexplained."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from assent.demo.nodes import Nodes
from assent.demo.wiretap import raw_socket
from assent.transport.dissect import Dissected, Kind, dissect, keyring, load_keys
from assent.wire.control import Manifest, Tag, decode_tags

pytestmark = pytest.mark.netns

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


@contextlib.contextmanager
def tapped(nodes: Nodes) -> Iterator[list[bytes]]:
    """Frames of both directions, as they pass the switch's port to the right host."""
    frames: list[bytes] = []
    over = threading.Event()
    with raw_socket(nodes.lab.switch, "right", _ETH_P_ALL) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        raw.settimeout(0.1)

        def listen() -> None:
            while True:
                try:
                    frames.append(raw.recv(1 << 16))
                except TimeoutError:
                    if over.is_set():
                        return

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield frames
        finally:
            over.set()
            thread.join()


def messages_of(frames: list[Dissected]) -> list[bytes]:
    """What one side has sent on its flow, put together."""
    data = {said.header.seq: said for said in frames if said.kind is Kind.DATA}
    messages, message, ended = [], b"", False
    for seq in sorted(data):
        for record in data[seq].records:
            assert not ended, "a record after the end"
            ended = record.end
            message += record.data
            if not (record.more or record.end):
                messages.append(message)
                message = b""
    assert ended
    return messages


def test_every_frame_of_a_transfer_is_understood_to_its_last_byte(pair, random_file):
    file = random_file("small.bin", 400_000)
    keys = pair.scratch / "keys"
    pair.cli("left", "dissect", "keys", "right", "--output", str(keys))
    assert keys.stat().st_mode & 0o777 == 0o600
    with tapped(pair) as frames:
        receiver = pair.background(
            "right", "recv", "--from", "left", "--dir", str(pair.scratch), "--json"
        )
        pair.background("left", "send", str(file), "--to", "right", "--json").result(60)
        receiver.result(60)
    ring = keyring(load_keys(keys.read_text()))
    said = [each for each in (dissect(frame, ring) for frame in frames) if each is not None]
    kinds = Counter(each.kind for each in said)
    assert not any(each.closed or each.skipped for each in said)
    assert kinds[Kind.DATA] > 400_000 // 1_500
    tags = [tag for each in said if not each.header.flow for tag in each.tags]
    announced = [Manifest.from_body(tag.body) for tag in tags if tag.tag == Tag.MANIFEST]
    assert announced[0].items[0].size == 400_000

    ends = {each.header.src for each in said if each.header.flow}
    assert len(ends) == 2
    sent = {
        end: messages_of([each for each in said if each.header.src == end and each.header.flow])
        for end in ends
    }
    (whole,) = (
        message for messages in sent.values() for message in messages if len(message) > 9_999
    )
    assert whole == file.read_bytes()
    for messages in sent.values():
        for message in messages:
            if message is not whole:
                assert decode_tags(message)[0][0].tag == Tag.MANIFEST

    capture = pair.scratch / "a.pcap"
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1)
    capture.write_bytes(
        head + b"".join(struct.pack("<IIII", 0, 0, len(f), len(f)) + f for f in frames)
    )
    told = pair.cli("left", "dissect", "frames", str(capture), "--keys", str(keys))
    assert told.count(": data,") == kinds[Kind.DATA]
