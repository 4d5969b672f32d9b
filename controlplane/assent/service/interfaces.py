# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a network interface, in the network namespace of the process."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

from assent.errors import FailedPrecondition

# <linux/sockios.h>
_SIOCGIFMTU: Final = 0x8921
_SIOCGIFHWADDR: Final = 0x8927
_IFREQ: Final = 40
_NAME: Final = 16


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    """One interface.

    Attributes:
        name: Its name.
        index: Its number.
        mac: Its address, 6 bytes.
        mtu: Bytes after the Ethernet header.
    """

    name: str
    index: int
    mac: bytes
    mtu: int


def describe(name: str) -> InterfaceInfo:
    """Asks for an interface.

    Raises:
        FailedPrecondition: There is none of that name.
    """
    request = struct.pack(f"{_NAME}s{_IFREQ - _NAME}x", name.encode())
    try:
        index = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
            hardware = fcntl.ioctl(asker, _SIOCGIFHWADDR, request)
            (mtu,) = struct.unpack_from("i", fcntl.ioctl(asker, _SIOCGIFMTU, request), _NAME)
    except OSError as error:
        raise FailedPrecondition(f"interface: there is no interface {name!r}") from error
    # struct sockaddr: a family of 2 bytes, then the address.
    return InterfaceInfo(name, index, hardware[_NAME + 2 : _NAME + 8], mtu)
