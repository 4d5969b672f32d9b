# SPDX-License-Identifier: Apache-2.0
"""Numiport's replay window in the kernel: the verifier takes it, and both say the same of packets.

Each question goes to both; what they remember stays the same, word by word.
"""

from __future__ import annotations

import platform
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.dataplane.libbpf import Map, Object, Program
from assent.numiport.replay import NO_CLOCK, ReplayWindow
from assent.numiport.wire import NumiportError

from .twin import ROOT

SOURCE = Path(__file__).with_name("numi_replay.bpf.c")
SLOTS, SEQS, FIRST = 4, 512, (1 << 32) - 20
BASE = 64
"""Its words begin with the second chunk."""
ZERO = (0).to_bytes(4, "little")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Object]:
    made = tmp_path_factory.mktemp("numi") / "numi_replay.bpf.o"
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
             "-Wno-unused-parameter", f"-I{ROOT / 'bpf' / 'include'}",
             "-isystem", f"/usr/include/{platform.machine()}-linux-gnu"]  # fmt: skip
    subprocess.run(["clang", *flags, "-c", str(SOURCE), "-o", str(made)], check=True)
    with Object.open(made) as opened:
        opened.load()
        yield opened


@pytest.fixture
def program(loaded: Object) -> Iterator[Program]:
    with loaded.map("windows") as windows, loaded.map("chunks") as chunks:
        windows.update(ZERO, struct.pack("<QIIHHI", FIRST + SLOTS - 1, BASE, SEQS, SLOTS, 3, 0))
        for chunk in range(64):
            chunks.update(chunk.to_bytes(4, "little"), bytes(512))
        with loaded.program("numi_replay") as found:
            yield found


def in_kernel(program: Program, slot: int, seq: int, latest: int) -> int:
    question = bytes(16) + struct.pack("<QQII", slot, latest, seq, 0)
    return program.test_run(question).retval


def in_user_space(window: ReplayWindow, slot: int, seq: int, latest: int) -> int:
    try:
        window.take(slot, seq, latest)
    except NumiportError as refused:
        return refused.fault
    return 0


def remembered(chunks: Map, slot: int) -> int:
    """How many numbers of a slot the kernel's words have."""
    words = [
        struct.unpack("<64Q", chunks.lookup(chunk.to_bytes(4, "little")) or b"")
        for chunk in range(64)
    ]
    return sum(
        (word & 0xFFFFFFFF).bit_count()
        for chunk in words
        for word in chunk
        if word and word >> 32 == slot & 0xFFFFFFFF
    )


def test_the_kernel_says_what_user_space_says(program: Program, loaded: Object) -> None:
    window = ReplayWindow(FIRST, SLOTS, SEQS)
    draw = random.Random(7)
    newest = FIRST
    said = set()
    for _ in range(4000):
        slot = max(0, newest + draw.randrange(-6, 3))
        seq = draw.randrange(SEQS + 20)
        latest = draw.choice([NO_CLOCK, newest + 1])
        found = in_kernel(program, slot, seq, latest)
        assert found == in_user_space(window, slot, seq, latest)
        said.add(found)
        newest = max(newest, slot) if not found and draw.random() < 0.1 else newest
    assert len(said) == 4
    with loaded.map("windows") as windows, loaded.map("chunks") as chunks:
        kept = struct.unpack("<QIIHHI", windows.lookup(ZERO) or b"")
        assert kept == (window.newest, BASE, SEQS, SLOTS, 3, 0)
        for slot in range(window.newest - SLOTS + 1, window.newest + 1):
            assert remembered(chunks, slot) == window.count(slot)
        assert not any(chunks.lookup(ZERO) or b"\1")


def test_nothing_is_taken_twice_in_the_kernel(program: Program) -> None:
    for seq in range(SEQS):
        assert in_kernel(program, FIRST + 1, seq, NO_CLOCK) == 0
    for seq in range(SEQS):
        assert in_kernel(program, FIRST + 1, seq, NO_CLOCK) != 0
