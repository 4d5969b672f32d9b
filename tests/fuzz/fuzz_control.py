# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of what reads flow 0: tags, their bodies, and each kind of body.

A program of its own, for Atheris (libFuzzer for Python) has to instrument what it imports:

    python tests/fuzz/fuzz_control.py build/fuzz/control -runs=1000000

The options are libFuzzer's; `--seeds DIRECTORY` writes one of each to begin with, and ends. An
input's first byte says what the rest is: a whole payload, or one body. Of whatever is read, only a
ControlError may come out; what is read encodes, and reads again as it was. No input may take long
or build much: both are bounded for every single one.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import process_time

import atheris
from atheris_target import main

with atheris.instrument_imports(include=["assent"]):
    from assent.wire.control import (
        BlockPut,
        BlockWant,
        Close,
        ControlError,
        ControlTag,
        CovenantParcel,
        CovenantPiece,
        DagSync,
        Define,
        Delivery,
        FlowClass,
        Gaps,
        Grant,
        Hail,
        HailPayload,
        Manifest,
        ManifestItem,
        Tag,
        Tensor,
        decode_body,
        decode_tag,
        decode_tags,
        encode_body,
        encode_tags,
    )
    from assent.wire.control_body import walk

KINDS = {
    Tag.HAIL: Hail,
    Tag.DEFINE: Define,
    Tag.MANIFEST: Manifest,
    Tag.GRANT: Grant,
    Tag.GAPS: Gaps,
    Tag.COVENANT: CovenantParcel,
    Tag.BLOCK_WANT: BlockWant,
    Tag.BLOCK_PUT: BlockPut,
    Tag.DAG_SYNC: DagSync,
    Tag.TENSOR: Tensor,
    Tag.CLOSE: Close,
}
OFFER = 0xF0
SECONDS_MAX = 2.0
MEMORY_MAX = 1 << 20
# Every input is timed; tracing memory is slow, so that only one of so many has it measured.
TRACED = 64


def read_kind(kind: type, body: object) -> None:
    """One typed body: what is accepted is in range, so that it can be sent on as it is."""
    try:
        value = kind.from_body(body)
    except ControlError:
        return
    assert kind.from_body(decode_body(encode_body(value.to_body()))) == value


def read_body(raw: bytes, kinds: list[type]) -> None:
    body = decode_body(raw)
    # What the fast check takes, the slow one takes too.
    walk(raw)
    # As it is written, for NaN equals nothing.
    assert encode_body(decode_body(encode_body(body))) == encode_body(body)
    for kind in kinds:
        read_kind(kind, body)


def read_payload(raw: bytes) -> None:
    tags, skipped = decode_tags(raw)
    again, none = decode_tags(encode_tags(tags))
    assert encode_tags(again) == encode_tags(tags)
    assert none == 0
    for tag in tags:
        read_kind(KINDS[Tag(tag.tag)], tag.body)
    offset = found = 0
    while offset < len(raw):
        one, offset = decode_tag(raw, offset)
        found += 1
        assert one is None or repr(one) in map(repr, tags)
    assert found == len(tags) + skipped


def read_one(data: bytes) -> None:
    what, raw = data[0], data[1:]
    try:
        if what == OFFER:
            read_body(raw, [HailPayload])
        elif what in KINDS:
            read_body(raw, [KINDS[Tag(what)]])
        elif what & 1:
            read_body(raw, [*KINDS.values(), HailPayload])
        else:
            read_payload(raw)
    except ControlError:
        pass


def peak_of(data: bytes) -> int:
    """Bytes of memory that reading it has needed at most."""
    tracemalloc.start()
    try:
        read_one(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


_count = 0


def read(data: bytes) -> None:
    """One input."""
    global _count
    if not data:
        return
    _count += 1
    began = process_time()
    if _count % TRACED:
        read_one(data)
    else:
        peak = peak_of(data)
        assert peak < MEMORY_MAX + 64 * len(data), peak
    assert process_time() - began < SECONDS_MAX


def samples() -> list[tuple[Tag, object]]:
    name = bytes(range(32))
    item = ManifestItem("weights.bin", 1 << 40, name, "blake3", "application/x-raw", 5, name)
    piece = CovenantPiece(4, True, b"frame")
    return [
        (Tag.HAIL, Hail(b"noise")),
        (Tag.DEFINE, Define(7, Delivery.ORDERED, FlowClass.STANDARD, 1500, "files")),
        (Tag.DEFINE, Define(7, Delivery.BEST_EFFORT, FlowClass.URGENT, 512, "", False, "no")),
        (Tag.MANIFEST, Manifest(2, (item, ManifestItem("ünïcode.txt", 0, name)))),
        (Tag.GRANT, Grant(1, 1 << 63, 1024)),
        (Tag.GAPS, Gaps(((10, 2), (13, 1), (100, 5)))),
        (Tag.COVENANT, CovenantParcel((1 << 64) - 1, 2, 3, b"\x05", piece)),
        (Tag.BLOCK_WANT, BlockWant((name, bytes(32)), 3)),
        (Tag.BLOCK_PUT, BlockPut(name, 1 << 20)),
        (Tag.BLOCK_PUT, BlockPut(name, 3, b"abc")),
        (Tag.DAG_SYNC, DagSync("notes", (name,), True)),
        (Tag.TENSOR, Tensor("layer.0/weight", "<f4", (128, 64), 256, 1024)),
        (Tag.TENSOR, Tensor("a", "|u1", (), 0, 1, False, "not registered")),
        (Tag.CLOSE, Close("going down", 3)),
    ]


def write_seeds(folder: Path) -> None:
    """One body of each kind, the same in a payload, and all of them together."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = [ControlTag(tag, 9, value.to_body()) for tag, value in samples()]
    for number, tag in enumerate(tags):
        name = f"{number}-{Tag(tag.tag).name.lower()}"
        (folder / name).write_bytes(bytes([tag.tag]) + encode_body(tag.body))
        (folder / f"payload-{name}").write_bytes(b"\0" + encode_tags([tag]))
    (folder / "payload").write_bytes(b"\0" + encode_tags(tags))
    offer = HailPayload((1,), ("tensor",), 3, 7, 1_000, {1: 1024, 2: 0}, 9000, 5)
    (folder / "offer").write_bytes(bytes([OFFER]) + encode_body(offer.to_body()))


if __name__ == "__main__":
    main(read, write_seeds)
