# SPDX-License-Identifier: Apache-2.0
"""Where a local cell's flow-0 frames arrive: an AF_PACKET socket that data frames never wake.

The gate passes admitted flow-0 frames on to the kernel's stack; data frames for which no AF_XDP
socket is bound come the same way. A classic BPF filter on the socket tells them apart in the
kernel.

Everything here is called on one event loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from ctypes import addressof, create_string_buffer
from typing import Final

from assent.errors import FailedPrecondition, Unavailable
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

ETHERTYPE: Final = 0x88B5

_ETH_LEN: Final = 14
_DST_CELL: Final = _ETH_LEN + 16
_FLOW: Final = _ETH_LEN + 40
# Largest frame that an Ethernet interface carries, with room to spare.
_FRAME_MAX: Final = 65_536
# Frames taken per wake-up, so that a flood cannot starve the rest of the daemon.
_BATCH: Final = 64

# <linux/filter.h>, <linux/if_packet.h>, <asm/socket.h>
_SO_ATTACH_FILTER: Final = 26
_BPF_LD_W_ABS: Final = 0x20
_BPF_LD_H_ABS: Final = 0x28
_BPF_JEQ_K: Final = 0x15
_BPF_RET_K: Final = 0x06
_SKF_AD_PKTTYPE: Final = 0xFFFFF000 + 4
_PACKET_OUTGOING: Final = 4


def flow_zero_filter(cell: CellID) -> bytes:
    """The socket filter: an array of `struct sock_filter`.

    Admits frames that came from outside, are of flow 0 and name `cell` as their destination. A load
    past a frame's end refuses the frame.
    """
    checks = [(_BPF_LD_H_ABS, 12, ETHERTYPE), (_BPF_LD_H_ABS, _FLOW, 0)]
    checks += [
        (_BPF_LD_W_ABS, _DST_CELL + 4 * at, word)
        for at, word in enumerate(struct.unpack("!4I", bytes(cell)))
    ]
    # Layout: outgoing?, then a load and a compare for each check, then admit, then refuse.
    refuse = 2 + 2 * len(checks) + 1
    program = [
        struct.pack("=HBBI", _BPF_LD_W_ABS, 0, 0, _SKF_AD_PKTTYPE),
        struct.pack("=HBBI", _BPF_JEQ_K, refuse - 2, 0, _PACKET_OUTGOING),
    ]
    for load, offset, value in checks:
        program.append(struct.pack("=HBBI", load, 0, 0, offset))
        here = len(program)
        program.append(struct.pack("=HBBI", _BPF_JEQ_K, 0, refuse - here - 1, value))
    program.append(struct.pack("=HBBI", _BPF_RET_K, 0, 0, _FRAME_MAX))
    program.append(struct.pack("=HBBI", _BPF_RET_K, 0, 0, 0))
    return b"".join(program)


class ControlSocket:
    """The flow-0 socket of one local cell.

    Args:
        cell: Frames for this cell only.
        interface: In the network namespace of the process.
        gated: Tells whether the gate decides on the interface; while it does not, nothing has
            checked what arrives for replays and rate, so it is discarded.
        receive: Called with each frame, from its Ethernet header on. It must not raise.
    """

    def __init__(
        self,
        cell: CellID,
        interface: str,
        gated: Callable[[], bool],
        receive: Callable[[bytes], None],
    ) -> None:
        self._cell = cell
        self._interface = interface
        self._gated = gated
        self._receive = receive
        self._socket: socket.socket | None = None
        self._index = 0
        self._told_ungated = False
        self.discarded = 0
        """Frames that arrived while the interface was not gated."""
        self.unsent = 0
        """Frames that the system did not take; the protocol's timers send them again."""

    @property
    def is_open(self) -> bool:
        """Whether frames can arrive."""
        return self._socket is not None

    @property
    def index(self) -> int:
        """Number of the interface that it is bound to."""
        return self._index

    def open(self) -> None:
        """Starts listening, on the running event loop.

        Raises:
            FailedPrecondition: The interface does not exist.
            Unavailable: The system refuses a socket.
        """
        # Protocol 0 until the filter is in place: nothing arrives unfiltered.
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise Unavailable(f"no packet socket: {error.strerror}") from error
        try:
            code = flow_zero_filter(self._cell)
            kept = create_string_buffer(code, len(code))
            # struct sock_fprog
            program = struct.pack("@HP", len(code) // 8, addressof(kept))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            sock.bind((self._interface, ETHERTYPE))
            self._index = socket.if_nametoindex(self._interface)
        except OSError as error:
            sock.close()
            if error.errno in (errno.ENODEV, errno.ENXIO):
                raise FailedPrecondition(
                    f"interface: there is no interface {self._interface!r}"
                ) from error
            raise Unavailable(f"{self._interface}: {error.strerror}") from error
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Stops listening. Idempotent."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def send(self, mac: bytes, frame: bytes) -> None:
        """Sends one fabric frame; losing it is not an error, the protocol repeats what matters.

        Args:
            mac: Destination, 6 bytes.
            frame: From the fabric header on.
        """
        if self._socket is None:
            self.unsent += 1
            return
        # Asked for each time: an interface's address may change.
        source: bytes = self._socket.getsockname()[4]
        packet = mac + source + ETHERTYPE.to_bytes(2, "big") + frame
        try:
            self._socket.send(packet)
        except OSError as error:
            self.unsent += 1
            log.debug(
                "frame not sent", extra={"interface": self._interface, "error": error.strerror}
            )

    def _readable(self) -> None:
        gated = self._gated()
        for _ in range(_BATCH):
            if self._socket is None:
                return
            try:
                frame, address = self._socket.recvfrom(_FRAME_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                # Reported once when the interface goes down; the socket revives with it.
                if error.errno != errno.ENETDOWN:
                    log.warning(
                        "control socket lost",
                        extra={"interface": self._interface, "error": error.strerror},
                    )
                    self.close()
                return
            if address[2] == _PACKET_OUTGOING:
                continue
            if not gated:
                self._discard()
                continue
            self._told_ungated = False
            self._receive(frame)

    def _discard(self) -> None:
        self.discarded += 1
        if not self._told_ungated:
            self._told_ungated = True
            log.warning(
                "control frames discarded: the interface is not gated",
                extra={"interface": self._interface},
            )
