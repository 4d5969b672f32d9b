# SPDX-License-Identifier: Apache-2.0
"""rtnetlink, as little of it as is needed: a request and its answer, by a socket of its own.

Everything happens in the network namespace of the calling thread and takes some microseconds. There
is no event loop and no thread behind it, so it may be called wherever those are.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from assent.errors import AlreadyExists, FailedPrecondition, LocalError, NotFound

ACK: Final = 0x4
CREATE: Final = 0x400
EXCL: Final = 0x200
_REQUEST: Final = 0x1
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_RECEIVE: Final = 1 << 16
_SECONDS: Final = 5.0

_numbers = itertools.count(1)


class NetlinkError(LocalError):
    """The kernel refused a request.

    Attributes:
        errno: the kernel's error number.
    """

    def __init__(self, doing: str, number: int) -> None:
        super().__init__(f"{doing}: {os.strerror(number)}")
        self.errno = number


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded; attributes nest by concatenation."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in a message's tail, by type; of two of one type, the last."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return found


def text(value: bytes) -> str:
    """An attribute that is a string."""
    return value.rstrip(b"\0").decode(errors="replace")


def request(doing: str, kind: int, body: bytes, flags: int = 0) -> None:
    """Asks for a change.

    Args:
        doing: For the error's message.
        kind: RTM_...
        body: Message and attributes.
        flags: CREATE, EXCL.

    Raises:
        AlreadyExists, NotFound, FailedPrecondition: EEXIST, ENOENT or ENODEV, EPERM.
        NetlinkError: It is refused for another reason.
    """
    for answer, _ in _exchange(doing, kind, body, _REQUEST | ACK | flags):
        raise NetlinkError(f"{doing}: an answer of type {answer}", errno.EPROTO)


def dump(doing: str, kind: int, body: bytes) -> Iterator[bytes]:
    """Yields all that the kernel lists: each a message with its attributes.

    Raises:
        As for request().
    """
    for _, found in _exchange(doing, kind, body, _REQUEST | _DUMP):
        yield found


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """What one datagram holds: type, sequence number and body of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, number, data[at + _HEADER.size : at + size]
        at += size + -size % 4


def _exchange(doing: str, kind: int, body: bytes, flags: int) -> Iterator[tuple[int, bytes]]:
    number = next(_numbers) & 0xFFFFFFFF
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as asker:
        # The kernel answers within the call; this is for a bug, not for a wait.
        asker.settimeout(_SECONDS)
        asker.send(header + body)
        while True:
            for answer, to, found in messages(asker.recv(_RECEIVE)):
                if to != number:
                    continue
                if answer in (_ERROR, _DONE):
                    (code,) = struct.unpack_from("=i", found) if len(found) >= 4 else (0,)
                    if code:
                        _fail(doing, -code)
                    return
                yield answer, found


def _fail(doing: str, number: int) -> None:
    if number == errno.EEXIST:
        raise AlreadyExists(f"{doing}: it is there already")
    if number in (errno.ENOENT, errno.ENODEV):
        raise NotFound(f"{doing}: {os.strerror(number)}")
    if number in (errno.EPERM, errno.EACCES):
        raise FailedPrecondition(f"{doing}: not permitted, this needs CAP_NET_ADMIN")
    raise NetlinkError(doing, number)
