# SPDX-License-Identifier: Apache-2.0
"""Sends rounds of frames at a steady pace; a process of its own, so that nothing holds it up.

    python sender.py INTERFACE FILE ROUNDS_A_SECOND

The file has one round after the other: a 16-bit count of frames, and each frame after its 16-bit
length, in the host's byte order. Ends with the file, or with stdin; prints how many rounds it sent.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_LENGTH = struct.Struct("=H")
_BURST = 10
"""Rounds between two looks at the clock."""


def rounds(data: bytes) -> Iterator[list[bytes]]:
    """Yields the rounds of a file."""
    at = 0
    while at < len(data):
        (count,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        frames = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            frames.append(data[at : at + length])
            at += length
        yield frames


def packed(frames: list[bytes]) -> bytes:
    """Returns a round as it stands in the file."""
    parts = [_LENGTH.pack(len(frame)) + frame for frame in frames]
    return _LENGTH.pack(len(frames)) + b"".join(parts)


def main(interface: str, path: str, rate: str) -> None:
    """Sends; see the module."""
    wanted = list(rounds(Path(path).read_bytes()))
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((interface, 0))
        begin = time.monotonic()
        for frames in wanted:
            if sent % _BURST == 0:
                ahead = begin + sent / float(rate) - time.monotonic()
                if select.select([sys.stdin], [], [], max(0, ahead))[0]:
                    break
            for frame in frames:
                raw.send(frame)
            sent += 1
    print(sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
