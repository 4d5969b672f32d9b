# SPDX-License-Identifier: Apache-2.0
"""Endpoints: what applications use to send and receive over flows; see docs/transport.md.

Here for asyncio; `assent.transport.blocking` has the same for threads. `utcp_send` and `utcp_recv`
are the simplest that there is.
"""

from assent.transport.aio import Connection, Endpoint, Flow, Listener
from assent.transport.errors import (
    ClosedError,
    EndedError,
    FlowError,
    MessageTooLongError,
    PortError,
    RenewedError,
    SessionOverError,
    WouldBlockError,
)
from assent.transport.ring import Backend, FlowStats, PortInfo
from assent.transport.utcp import utcp_recv, utcp_send
from assent.wire.control import Delivery, FlowClass

__all__ = [
    "Backend",
    "ClosedError",
    "Connection",
    "Delivery",
    "EndedError",
    "Endpoint",
    "Flow",
    "FlowClass",
    "FlowError",
    "FlowStats",
    "Listener",
    "MessageTooLongError",
    "PortError",
    "PortInfo",
    "RenewedError",
    "SessionOverError",
    "WouldBlockError",
    "utcp_recv",
    "utcp_send",
]
