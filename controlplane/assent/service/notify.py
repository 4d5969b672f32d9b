# SPDX-License-Identifier: Apache-2.0
"""Tells the service manager how the daemon is doing: the sd_notify(3) datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Sends one state, such as `READY=1`, to whoever $NOTIFY_SOCKET names; nobody is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    # "@" stands for the zero byte of an abstract address.
    target = "\0" + address[1:] if address[0] == "@" else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.sendto(state.encode(), target)
