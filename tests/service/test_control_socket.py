# SPDX-License-Identifier: Apache-2.0
"""service/control_socket.py: only this cell's flow 0 wakes the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from assent.errors import FailedPrecondition
from assent.service.control_socket import ControlSocket
from assent.wire.cellid import CellID
from assent.wire.fabric import Flags, Header

from .conftest import eventually, ip

LOCAL, REMOTE = CellID(bytes(range(16))), CellID(b"r" * 16)
GOOD = Header(REMOTE, LOCAL, 1, Flags.DATA | Flags.BLOCK)
ETHERNET = b"\xff" * 6 + b"\x02\0\0\0\0\x09"
OURS = b"\x88\xb5"
LAST = replace(GOOD, seq=999).encode()


@pytest.fixture
def far_end(dummy: str) -> Iterator[socket.socket]:
    """The other end of the cable."""
    for name in (dummy, f"{dummy}p"):
        ip("link", "set", name, "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far:
        far.bind((f"{dummy}p", 0))
        yield far


@contextlib.contextmanager
def listening(interface: str, received: list[bytes], *, gated: bool = True):
    control = ControlSocket(LOCAL, interface, lambda: gated, received.append)
    control.open()
    try:
        yield control
    finally:
        control.close()


def other_cell(word: int) -> bytes:
    raw = bytearray(bytes(LOCAL))
    raw[4 * word] ^= 0x80
    return replace(GOOD, dst=CellID(bytes(raw))).encode()


async def test_only_flow_0_of_this_cell_arrives(dummy: str, far_end: socket.socket):
    received: list[bytes] = []
    with listening(dummy, received):
        far_end.send(ETHERNET + OURS + replace(GOOD, flow=1).encode())
        far_end.send(ETHERNET + OURS + replace(GOOD, flow=0x100).encode())
        for word in range(4):
            far_end.send(ETHERNET + OURS + other_cell(word))
        far_end.send(ETHERNET + b"\x08\x00" + GOOD.encode())
        far_end.send(ETHERNET + OURS + GOOD.encode()[:40])
        far_end.send(ETHERNET + OURS + GOOD.encode())
        far_end.send(ETHERNET + OURS + LAST)
        await eventually(lambda: len(received) >= 2, "two frames")
    assert received == [ETHERNET + OURS + GOOD.encode(), ETHERNET + OURS + LAST]


async def test_what_this_host_sends_does_not_come_back(dummy: str, far_end: socket.socket):
    received: list[bytes] = []
    with listening(dummy, received) as control:
        control.send(b"\xff" * 6, GOOD.encode())
        far_end.send(ETHERNET + OURS + LAST)
        await eventually(lambda: received, "a frame")
    assert received == [ETHERNET + OURS + LAST]


async def test_frames_leave_with_the_interface_s_address(dummy: str, far_end: socket.socket):
    far_end.close()
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far,
        listening(dummy, []) as control,
    ):
        far.bind((f"{dummy}p", 0x88B5))
        far.settimeout(5)
        ip("link", "set", dummy, "address", "02:00:00:00:00:42")
        control.send(b"\x02\0\0\0\0\x07", GOOD.encode())
        frame = far.recv(2048)
    assert frame == b"\x02\0\0\0\0\x07" + b"\x02\0\0\0\0\x42" + OURS + GOOD.encode()


async def test_an_ungated_interface_is_not_believed(
    dummy: str, far_end: socket.socket, caplog: pytest.LogCaptureFixture
):
    received: list[bytes] = []
    with listening(dummy, received, gated=False) as control:
        for _ in range(3):
            far_end.send(ETHERNET + OURS + GOOD.encode())
        await eventually(lambda: control.discarded == 3, "three frames discarded")
    assert received == []
    assert caplog.text.count("not gated") == 1


async def test_a_flood_does_not_starve_the_loop(dummy: str, far_end: socket.socket):
    turns: list[int] = []
    received: list[bytes] = []

    async def other_work() -> None:
        while len(received) < 200:
            turns.append(len(received))
            await asyncio.sleep(0)

    with listening(dummy, received):
        for _ in range(200):
            far_end.send(ETHERNET + OURS + GOOD.encode())
        async with asyncio.timeout(10):
            await other_work()
    assert len([at for at in turns if 0 < at < 200]) >= 2


async def test_a_missing_interface_is_named():
    control = ControlSocket(LOCAL, "nowhere0", lambda: True, lambda _: None)
    with pytest.raises(FailedPrecondition, match="no interface 'nowhere0'"):
        control.open()
    assert not control.is_open


async def test_sending_on_a_downed_interface_is_counted(dummy: str):
    with listening(dummy, []) as control:
        control.send(b"\xff" * 6, GOOD.encode())
        assert control.unsent == 1
