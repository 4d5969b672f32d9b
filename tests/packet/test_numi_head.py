# SPDX-License-Identifier: Apache-2.0
"""Numiport's parser and header MAC in the kernel (numi_head.bpf.c): verdicts as in user space."""

from __future__ import annotations

import platform
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.dataplane.libbpf import Map, Object, Program
from assent.numiport.mac import HeaderMac
from assent.numiport.wire import HEAD_MAX, Flaw, MalformedError, NumiportError

from ..unit.numi_packets import MAC_KEY, VECTORS, datagram_of
from ..unit.test_numi_wire import NAMES
from . import twin

SOURCE = Path(__file__).with_name("numi_head.bpf.c")
MATCHES = 0x100
# What the kernel lets a test run have without fragments.
LONGEST_FRAME = 3000


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The program, with the states of MAC_KEY in its map."""
    clang = shutil.which("clang")
    assert clang is not None
    command = [
        *(clang, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
        *("-Wno-unused-parameter", f"-I{twin.ROOT / 'bpf' / 'include'}"),
        *("-isystem", f"/usr/include/{platform.machine()}-linux-gnu", "-c", str(SOURCE)),
    ]
    made = twin.kept("numi_head.bpf.o", command, [SOURCE, *twin.HEADERS])
    with Object.open(made) as parts:
        parts.load()
        with parts.map("scratches") as scratches, parts.program("numi_head") as loaded:
            put_key(scratches, HeaderMac(MAC_KEY))
            yield loaded


def put_key(scratches: Map, key: HeaderMac) -> None:
    states = key.inner + key.outer
    scratches.update(bytes(4), states.ljust(scratches.value_size, b"\0"))


def verdict(program: Program, datagram: bytes) -> tuple[Flaw | None, bool]:
    found = program.test_run(datagram).retval
    return (Flaw(found), False) if 0 < found < MATCHES else (None, found == MATCHES)


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_vectors(program: Program, vector: dict[str, object]) -> None:
    assert verdict(program, datagram_of(vector)) == (None, True)


def in_user_space(datagram: bytes) -> tuple[Flaw | None, bool]:
    try:
        HeaderMac(MAC_KEY).verify(datagram)
    except MalformedError as error:
        return error.flaw, False
    except NumiportError:
        return None, False
    return None, True


def test_every_bit_of_every_head(program: Program) -> None:
    found = set()
    for vector in VECTORS:
        whole = datagram_of(vector)
        for bit in range(8 * min(len(whole), HEAD_MAX)):
            marred = bytearray(whole)
            marred[bit // 8] ^= 1 << bit % 8
            expected = in_user_space(bytes(marred))
            assert verdict(program, bytes(marred)) == expected
            found.add(expected)
    # What the MAC does not cover, what it does, and what is no packet.
    assert {(None, True), (None, False), (Flaw.RESERVED, False)} < found


def test_marred_ones_at_random(program: Program) -> None:
    chance = random.Random(2)
    whole = [datagram_of(vector) for vector in VECTORS]
    for _ in range(3000):
        marred = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            marred[chance.randrange(len(marred))] = chance.choice((0, 1, 2, 3, 4, 8, 16, 255))
        datagram = bytes(marred)[: chance.choice((None, None, chance.randrange(14, 200)))]
        assert verdict(program, datagram) == in_user_space(datagram)


@pytest.mark.parametrize("plen", [0, 1, 1228, LONGEST_FRAME - 60])
def test_a_payload_is_not_looked_at(program: Program, plen: int) -> None:
    head = bytes.fromhex("01 20 0000000000000009 00000001 00000001 0000 0000")
    head += plen.to_bytes(2, "big") + bytes(8) + bytes.fromhex("02 0004 00000001 00")
    end, payload = bytes(4), bytes(plen)
    mac = HeaderMac(MAC_KEY).of(head + end + payload)
    datagram = head + b"\x08\x00\x10" + mac + b"\0" + end + payload
    assert verdict(program, datagram) == (None, True)
    assert verdict(program, datagram + bytes(16)) == (None, True)
    assert verdict(program, datagram + b"\0") == (Flaw.PLEN, False)
    assert verdict(program, datagram[:54] + b"\1" + datagram[55:])[1] is False
