# SPDX-License-Identifier: Apache-2.0
"""Where RELAY_FORWARD frames arrive that the gate has passed up.

It is one AF_PACKET socket for all interfaces, behind a filter in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from ctypes import addressof, create_string_buffer
from types import TracebackType
from typing import Final, Self

from assent.errors import Unavailable
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.lwf import ETHERTYPE, MAGIC, Service

log = logging.getLogger(__name__)

_SERVICE: Final = ETHERNET_HEADER_LEN + 72
_FRAME_MAX: Final = 65_536
# Frames taken per wake-up, so that a flood cannot starve the rest of the daemon.
_BATCH: Final = 64

# <linux/filter.h>, <linux/if_packet.h>, <asm/socket.h>
_SO_ATTACH_FILTER: Final = 26
_LD_W_ABS: Final = 0x20
_LD_H_ABS: Final = 0x28
_JEQ_K: Final = 0x15
_JGT_K: Final = 0x25
_RET_K: Final = 0x06
_SKF_AD: Final = 0xFFFFF000
_SKF_AD_PKTTYPE: Final = _SKF_AD + 4
_SKF_AD_VLAN_TAG_PRESENT: Final = _SKF_AD + 48
_PACKET_MULTICAST: Final = 2  # 0 = to this host, 1 = to all; more = to others, or leaving


def registration_filter() -> bytes:
    """The socket filter: an array of `struct sock_filter`.

    Admits RELAY_FORWARD frames that came to this host or to a group that it is of, without a VLAN
    tag: a route has none to send back. A load past a frame's end refuses the frame.
    """
    checks = [
        (_LD_W_ABS, _SKF_AD_PKTTYPE, _JGT_K, _PACKET_MULTICAST, False),
        (_LD_W_ABS, _SKF_AD_VLAN_TAG_PRESENT, _JEQ_K, 0, True),
        (_LD_W_ABS, ETHERNET_HEADER_LEN, _JEQ_K, int.from_bytes(MAGIC, "big"), True),
        (_LD_H_ABS, _SERVICE, _JEQ_K, Service.RELAY_FORWARD, True),
    ]
    program = []
    for number, (load, offset, compare, value, go_on) in enumerate(checks):
        # To the refusal, which follows the admission.
        away = 2 * (len(checks) - number - 1) + 1
        program.append(struct.pack("=HBBI", load, 0, 0, offset))
        jumps = (0, away) if go_on else (away, 0)
        program.append(struct.pack("=HBBI", compare, *jumps, value))
    program.append(struct.pack("=HBBI", _RET_K, 0, 0, _FRAME_MAX))
    program.append(struct.pack("=HBBI", _RET_K, 0, 0, 0))
    return b"".join(program)


class RelaySocket:
    """Takes registrations. Use it as an async context manager.

    Args:
        gated: Whether the gate decides on an interface; where it does not, nobody has asked who may
            register and how often, so what arrives is discarded.
        receive: Called with the interface and the frame, from its Ethernet header on. It must not
            raise.

    Raises:
        Unavailable: On entering, where the system refuses a socket.
    """

    def __init__(self, gated: Callable[[str], bool], receive: Callable[[str, bytes], None]) -> None:
        self._gated = gated
        self._receive = receive
        self._socket: socket.socket | None = None
        self.discarded = 0
        """Frames that arrived where the gate does not decide."""

    async def __aenter__(self) -> Self:
        # Of all interfaces at once; such a socket cannot be made first and bound later.
        try:
            sock = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE)
            )
        except OSError as error:
            raise Unavailable(f"no packet socket: {error.strerror}") from error
        try:
            code = registration_filter()
            kept = create_string_buffer(code, len(code))
            # struct sock_fprog
            program = struct.pack("@HP", len(code) // 8, addressof(kept))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            # What came before the filter was in place has not been through it.
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recv(1)
        except OSError as error:
            sock.close()
            raise Unavailable(f"no packet socket: {error.strerror}") from error
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if self._socket is None:
                return
            try:
                frame, address = self._socket.recvfrom(_FRAME_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("registrations not read", extra={"error": error.strerror})
                return
            interface = address[0]
            if self._gated(interface):
                self._receive(interface, frame)
            else:
                self.discarded += 1
