# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of what reads covenants: frames, payloads, exported files.

A program of its own, for Atheris (libFuzzer for Python) has to instrument what it imports:

    python tests/fuzz/fuzz_covenant.py build/fuzz/covenant -runs=1000000

The options are libFuzzer's; `--seeds DIRECTORY` writes one of each to begin with, and ends. An
input's first byte says what the rest is. Of whatever is read, only a RemoteError may come out, and
what is read encodes to the bytes that it was read from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from atheris_target import main

with atheris.instrument_imports(include=["assent"]):
    from assent.covenant import document, payloads, render
    from assent.errors import RemoteError
    from assent.wire.tcpup import CovenantFrame, FrameType

FRAME, EXPORT = 0xF0, 0xF1
KINDS = {int(kind): kind for kind in payloads.KINDS}


def read_frame(raw: bytes) -> None:
    frame = CovenantFrame.decode(raw)
    assert frame.encode() == raw
    if frame.kind is not FrameType.HEARTBEAT:
        read_payload(frame.kind, frame.payload)


def read_payload(kind: FrameType, raw: bytes) -> None:
    payload = payloads.decode(kind, raw)
    assert payloads.encode(payload) == raw
    anew = type(payload).from_body(payload.to_body())
    assert anew == payload
    # Without what reading has left behind.
    assert payloads.encode(anew) == raw
    if isinstance(payload, payloads.Offer):
        for line in render.describe(payload.terms):
            assert "\n" not in line
            assert "\x1b" not in line
    if isinstance(payload, payloads.Bind):
        document.bind_bytes(payload.covenant_object)


def read_export(raw: bytes) -> None:
    report = document.verify_export(raw)
    assert report.versions


def read(data: bytes) -> None:
    """One input."""
    if not data:
        return
    what, raw = data[0], data[1:]
    try:
        if what in KINDS:
            read_payload(KINDS[what], raw)
        elif what == EXPORT:
            read_export(raw)
        else:
            read_frame(raw)
    except RemoteError:
        pass


def write_seeds(folder: Path) -> None:
    """One payload of each kind, a frame around each, and an export."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
    from covenant_values import LEFT, OBJECT, PAYLOADS

    from assent.wire.tcpup import FrameFlag

    needed = {FrameType.OFFER: FrameFlag.MISERICORDIA, FrameType.AMEND: FrameFlag.VERSIONED}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, payload in PAYLOADS.items():
        raw = payloads.encode(payload)
        (folder / kind.name.lower()).write_bytes(bytes([kind]) + raw)
        flags = needed.get(kind, FrameFlag(0))
        frame = CovenantFrame(kind, flags, 7, 1, LEFT, 1, raw, bytes(64))
        (folder / f"frame-{kind.name.lower()}").write_bytes(bytes([FRAME]) + frame.encode())
    beat = CovenantFrame(FrameType.HEARTBEAT, FrameFlag(0), 7, 1, LEFT, 1, b"", bytes(64))
    (folder / "frame-heartbeat").write_bytes(bytes([FRAME]) + beat.encode())
    exported = document.export([document.SignedVersion(OBJECT)] * 2)
    (folder / "export").write_bytes(bytes([EXPORT]) + exported)


if __name__ == "__main__":
    main(read, write_seeds)
