# SPDX-License-Identifier: Apache-2.0
"""Raw sockets in a host's namespace: what rogue sends with, and what it listens with."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from assent.demo.lab import Host, inside
from assent.wire.fabric import ETHERTYPE

_BURST = 128
_PAUSE_S = 0.0001
_PACKET_OUTGOING = 4
_ETH_P_ALL = 0x0003
# <linux/if_packet.h>
_SOL_PACKET = 263
_PACKET_QDISC_BYPASS = 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it
_CAPTURE_BUFFER = 32 << 20
_CONTROL_FLOW = b"\0\0"


@contextlib.contextmanager
def raw_socket(host: Host, interface: str, protocol: int = 0) -> Iterator[socket.socket]:
    """An AF_PACKET socket in the host's namespace; protocol 0 receives nothing.

    What it sends goes past the host's own gate: an attacker would see to that.
    """
    with inside(host.netns):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw:
        raw.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        raw.bind((interface, protocol))
        yield raw


def send_all(raw: socket.socket, frames: Sequence[bytes]) -> int:
    """Sends in bursts small enough for a veth's ring; returns how many the kernel took."""
    sent = 0
    for index, frame in enumerate(frames):
        with contextlib.suppress(OSError):
            raw.send(frame)
            sent += 1
        if index % _BURST == _BURST - 1:
            time.sleep(_PAUSE_S)
    return sent


def capture(
    switch: Host,
    port: str,
    source: bytes,
    count: int,
    timeout_s: float,
    done: Callable[[], bool] = lambda: False,
) -> list[bytes]:
    """Listens on a port of the switch for data frames from one cell to the host behind it.

    Args:
        switch: where the port is.
        port: its name.
        source: CellID of the sender, 16 bytes.
        count: how many to take.
        timeout_s: how long to listen at most.
        done: asked when nothing has come by for a tenth of a second; True ends it.

    Returns:
        As many frames as came by.
    """
    captured: list[bytes] = []
    until = time.monotonic() + timeout_s
    # Only sockets for all protocols see what a port sends out.
    with raw_socket(switch, port, _ETH_P_ALL) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BUFFER)
        raw.settimeout(0.1)
        while len(captured) < count and time.monotonic() < until:
            try:
                frame, address = raw.recvfrom(4096)
            except TimeoutError:
                if done():
                    break
                continue
            ours = address[1] == ETHERTYPE and address[2] == _PACKET_OUTGOING
            if ours and frame[14:30] == source and frame[54:56] != _CONTROL_FLOW:
                captured.append(frame)
    return captured
