# SPDX-License-Identifier: Apache-2.0
"""Runs test_numi_wire.c, built with the sanitizers; and compares what it reads with plain rules."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from assent.numiport.wire import Flaw

from ..packet import twin
from ..unit.numi_packets import END, VECTORS, covered_of, datagram_of, flaw_of, record
from . import cases

SOURCE = cases.HERE / "test_numi_wire.c"
NATIVE = cases.HERE.parents[1] / "controlplane" / "assent" / "numiport" / "native"


@pytest.fixture(scope="module")
def program() -> Path:
    command = ["gcc", *cases.FLAGS, f"-I{NATIVE}", str(SOURCE)]
    inputs = [SOURCE, NATIVE / "wire.c", NATIVE / "numi.h", cases.HERE / "cases.h", *twin.HEADERS]
    return twin.kept(SOURCE.stem, command, inputs)


@pytest.mark.parametrize("case", cases.names(SOURCE))
def test_numi_wire(program: Path, case: str) -> None:
    cases.run(program, case)


def test_no_case_is_forgotten(program: Path) -> None:
    cases.none_is_forgotten(program, SOURCE)


def walked(program: Path, datagrams: list[bytes]) -> list[tuple[Flaw | None, bytes]]:
    given = b"".join(len(each).to_bytes(2, "big") + each for each in datagrams)
    done = subprocess.run([program, "walk"], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split(" ") for line in done.stdout.decode().splitlines()]
    assert len(lines) == len(datagrams)
    return [(Flaw(int(flaw)) if int(flaw) else None, bytes.fromhex(under)) for flaw, under in lines]


def test_vectors(program: Path) -> None:
    datagrams = [datagram_of(vector) for vector in VECTORS]
    expected = [(None, covered_of(vector)) for vector in VECTORS]
    assert walked(program, datagrams) == expected


def test_the_walk_is_the_same_in_both_languages(program: Path) -> None:
    """Packets that are marred in one place or two, and sections of TLVs of all kinds."""
    chance = random.Random(1)
    whole = [datagram_of(vector) for vector in VECTORS]
    datagrams = []
    for _ in range(4000):
        marred = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 2)):
            marred[chance.randrange(len(marred))] = chance.choice((0, 1, 2, 3, 4, 8, 16, 255))
        datagrams.append(bytes(marred)[: chance.choice((None, None, chance.randrange(300)))])
    for _ in range(4000):
        kinds = [chance.randint(0, 10) for _ in range(chance.randint(0, 10))]
        flags = (4 in kinds) * 2 + (2 in kinds) * 8 + (6 in kinds) * 32
        header = bytes([1, flags << 2 | chance.randint(0, 3)]) + bytes(30)
        lengths = {1: (7, 11), 2: (4,), 3: (0, 4), 4: (4, 32), 5: (2,), 6: (2,), 8: (16,), 9: (16,)}
        tlvs = b"".join(
            record(kind, chance.randbytes(chance.choice(lengths.get(kind, (0, 5))))[:40])
            for kind in kinds
        )
        datagrams.append(header + tlvs + END)
    expected = [flaw_of(each) for each in datagrams]
    found = walked(program, datagrams)
    assert [flaw for flaw, _ in found] == [flaw for flaw, _ in expected]
    assert [under for flaw, under in found if not flaw] == [
        under for flaw, under in expected if not flaw
    ]
    # Each flaw was met, and so were packets.
    assert {flaw for flaw, _ in found} == {None, *Flaw}
