# SPDX-License-Identifier: Apache-2.0
"""News of network interfaces, as the kernel announces them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

log = logging.getLogger(__name__)

# <linux/rtnetlink.h>
_RTMGRP_LINK: Final = 1
_RECEIVE: Final = 1 << 16
# Datagrams taken at one wake-up: they are not read, only taken away.
_BATCH: Final = 256


class LinkWatch:
    """Calls back when an interface of this network namespace appears, changes or goes.

    Use it as an async context manager. Several announcements at once are one call: who is called
    looks for himself.

    Args:
        changed: Called on the event loop. Must not raise.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        listener = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            listener.bind((0, _RTMGRP_LINK))
            asyncio.get_running_loop().add_reader(listener.fileno(), self._readable)
        except BaseException:
            listener.close()
            raise
        self._socket = listener
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(_BATCH):
            try:
                self._socket.recv(_RECEIVE)
            except BlockingIOError:
                break
            except OSError as error:
                # More than the socket holds: what was lost is found by looking.
                log.debug("announcements lost", extra={"error": error.strerror})
        self._changed()
