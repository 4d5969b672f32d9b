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
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFMTU: Final = 0x8921
_SIOCGIFHWADDR: Final = 0x8927
_IFREQ: Final = 40
_NAME: Final = 16
# <linux/if.h>
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40


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


def is_up(name: str) -> bool:
    """Whether an interface has been set up, whatever its carrier says.

    Raises:
        FailedPrecondition: There is none of that name.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        return bool(_flags(asker, name) & _IFF_UP)


def is_running(name: str) -> bool:
    """Whether frames can pass: the interface is there, set up, and has a carrier."""
    wanted = _IFF_UP | _IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        try:
            return _flags(asker, name) & wanted == wanted
        except FailedPrecondition:
            return False


def set_up(name: str) -> None:
    """Sets an interface up. Idempotent.

    Raises:
        FailedPrecondition: There is none of that name, or the system refuses.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        wanted = _flags(asker, name) | _IFF_UP
        request = struct.pack(f"{_NAME}sH{_IFREQ - _NAME - 2}x", name.encode(), wanted)
        try:
            fcntl.ioctl(asker, _SIOCSIFFLAGS, request)
        except OSError as error:
            raise FailedPrecondition(
                f"interface: {name!r} cannot be set up: {error.strerror}"
            ) from error


def _flags(asker: socket.socket, name: str) -> int:
    request = struct.pack(f"{_NAME}s{_IFREQ - _NAME}x", name.encode())
    try:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(asker, _SIOCGIFFLAGS, request), _NAME)
    except OSError as error:
        raise FailedPrecondition(f"interface: there is no interface {name!r}") from error
    return int(flags)
