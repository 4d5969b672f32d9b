# SPDX-License-Identifier: Apache-2.0
"""What an endpoint, a connection and a flow tell of themselves, in either flavour."""

from __future__ import annotations

from assent.transport.core import ConnectionCore, EndpointCore, FlowCore
from assent.transport.ring import FlowStats, PortInfo
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass


class EndpointFace:
    """A cell of this host, in this process."""

    def __init__(self, core: EndpointCore) -> None:
        self._core = core

    @property
    def core(self) -> EndpointCore:
        """What both flavours share."""
        return self._core

    @property
    def local(self) -> CellID:
        """The cell."""
        return self._core.local

    @property
    def info(self) -> PortInfo | None:
        """Which sockets are in use, and why not better ones; None before the first flow."""
        return self._core.info()


class ConnectionFace:
    """The session with one remote cell."""

    def __init__(self, core: ConnectionCore) -> None:
        self._core = core

    @property
    def remote(self) -> CellID:
        """The peer."""
        return self._core.remote

    @property
    def name(self) -> str:
        """What this host calls the peer."""
        return self._core.name


class FlowFace:
    """Messages, both ways, with one remote cell."""

    def __init__(self, core: FlowCore) -> None:
        self._core = core

    @property
    def remote(self) -> CellID:
        """The peer."""
        return self._core.access.remote

    @property
    def number(self) -> int:
        """Its number in the session."""
        return self._core.access.flow

    @property
    def label(self) -> str | None:
        """What it was defined for; None where it was opened by its number."""
        return self._core.label

    @property
    def delivery(self) -> Delivery:
        """What it promises of its messages."""
        return self._core.access.delivery

    @property
    def flow_class(self) -> FlowClass:
        """Its priority."""
        return self._core.access.flow_class

    @property
    def message_max(self) -> int:
        """Bytes of a message that fits one frame: all that one may have, unless it is ordered."""
        return self._core.ring.message_max()

    @property
    def credit(self) -> int:
        """Blocks of 64 bytes that the peer has room for now. A frame costs one and its payload."""
        return self._core.credit

    @property
    def stats(self) -> FlowStats:
        """The counts so far."""
        return self._core.stats

    @property
    def may_be_lost(self) -> bool:
        """Whether something was sent that the peer has not receipted."""
        return self._core.may_be_lost

    @property
    def core(self) -> FlowCore:
        """What both flavours share."""
        return self._core
