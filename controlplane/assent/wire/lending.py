# SPDX-License-Identifier: Apache-2.0
"""What an application and the daemon say to each other about a ring that is lent.

Over a unix socket that keeps messages apart (SOCK_SEQPACKET), one deterministic CBOR map each:

    asked     {"ask": number, "op": name, ...}
    answered  {"ask": the same number, "ok": {...}} or {..., "error": kind, "message": text}
    told      {"event": name, ...}

With the answer to `ring` come the descriptors (SCM_RIGHTS): socket, frames' memory (AF_XDP alone),
bell, page, doorbell. Of an application the daemon believes nothing but this form.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from assent.errors import RemoteError
from assent.wire import cbor
from assent.wire.control import Delivery, FlowClass

MESSAGE_MAX: Final = 4096
FDS_MAX: Final = 5
_ITEMS_MAX: Final = 128
_NUMBER_MAX: Final = (1 << 64) - 1

_T = TypeVar("_T")


class LendingError(RemoteError):
    """A message that is not of this form."""


class Op(enum.Enum):
    """What is asked for."""

    RING = "ring"
    CONNECT = "connect"
    OPEN = "open"
    DEFINE = "define"
    LISTEN = "listen"
    MUTE = "mute"
    RELEASE = "release"


class Event(enum.Enum):
    """What is told."""

    OFFER = "offer"
    """A peer has defined a flow for a listener; it is lent already."""
    CLOSED = "closed"
    """The peer's application is done with a flow."""
    ENDED = "ended"
    """A flow is taken back: its session is over."""


@dataclass(frozen=True, slots=True)
class LentRing:
    """A ring, but for its descriptors.

    Attributes:
        local: The cell that it is for, 16 bytes.
        interface: Where it leads.
        mac: Of the interface, 6 bytes.
        mtu: Of the interface, bytes.
        backend: `enum an_backend`.
        zero_copy: Whether frames are not copied by the driver.
        lines: How many flows it has room for.
        reason: Why it is not AF_XDP; "" where it is.
    """

    local: bytes
    interface: str
    mac: bytes
    mtu: int
    backend: int
    zero_copy: bool
    lines: int
    reason: str


@dataclass(frozen=True, slots=True)
class LentFlow:
    """A flow of a lent ring. Holds keys.

    Attributes:
        index: Its place on the page.
        flow: Its number in the session.
        session: The session's id on this host.
        epoch: The session's key epoch.
        remote: The peer, 16 bytes.
        remote_name: What this host calls it.
        local_mac: 6 bytes.
        remote_mac: 6 bytes.
        mtu: The largest fabric frame, bytes.
        delivery: What it promises of its messages.
        flow_class: Its priority.
        label: Which listener it is for; "" where none is.
        rtt: Of the handshake, ns; 0 = not known.
        lamp: Whether frames may go under LAMP.
        rate: What the peer is to be granted a second, in blocks; 0 = as it is consumed.
    """

    index: int
    flow: int
    session: int
    epoch: int
    remote: bytes
    remote_name: str
    local_mac: bytes
    remote_mac: bytes
    mtu: int
    delivery: Delivery
    flow_class: FlowClass
    label: str
    rtt: int
    lamp: bool
    rate: int
    tx_payload_key: bytes = field(repr=False)
    rx_payload_key: bytes = field(repr=False)
    tx_header_key: bytes = field(repr=False)


_FLOW_KINDS: Final[Mapping[str, type[Any]]] = {
    "index": int,
    "flow": int,
    "session": int,
    "epoch": int,
    "remote": bytes,
    "remote_name": str,
    "local_mac": bytes,
    "remote_mac": bytes,
    "mtu": int,
    "delivery": int,
    "flow_class": int,
    "label": str,
    "rtt": int,
    "lamp": bool,
    "rate": int,
    "tx_payload_key": bytes,
    "rx_payload_key": bytes,
    "tx_header_key": bytes,
}
_RING_KINDS: Final[Mapping[str, type[Any]]] = {
    "local": bytes,
    "interface": str,
    "mac": bytes,
    "mtu": int,
    "backend": int,
    "zero_copy": bool,
    "lines": int,
    "reason": str,
}


def encode(message: Mapping[str, object]) -> bytes:
    """One message."""
    return cbor.encode(dict(message), MESSAGE_MAX, _ITEMS_MAX)


def decode(raw: bytes) -> dict[str, object]:
    """Reads one message.

    Raises:
        LendingError: It is not a map of this form.
    """
    try:
        message = cbor.decode(raw, MESSAGE_MAX, _ITEMS_MAX)
    except cbor.CborError as error:
        raise LendingError(str(error)) from None
    if not isinstance(message, dict):
        raise LendingError("a message is a map")
    return message


def take(message: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    """The value at a key, of exactly this type; integers are not negative.

    Raises:
        LendingError: It is missing or another one.
    """
    value = message.get(key)
    if type(value) is not kind:
        raise LendingError(f"{key}: missing, or not {kind.__name__}")
    if isinstance(value, int) and not 0 <= value <= _NUMBER_MAX:
        raise LendingError(f"{key}: out of range")
    return value


def flow_out(flow: LentFlow) -> dict[str, object]:
    """A flow as a map."""
    values = {each.name: getattr(flow, each.name) for each in fields(LentFlow)}
    return values | {"delivery": int(flow.delivery), "flow_class": int(flow.flow_class)}


def flow_in(message: Mapping[str, object]) -> LentFlow:
    """Reads a flow.

    Raises:
        LendingError: A field is missing or of the wrong type.
    """
    values: dict[str, Any] = {key: take(message, key, kind) for key, kind in _FLOW_KINDS.items()}
    try:
        values["delivery"] = Delivery(values["delivery"])
        values["flow_class"] = FlowClass(values["flow_class"])
    except ValueError as error:
        raise LendingError(str(error)) from None
    return LentFlow(**values)


def ring_out(ring: LentRing) -> dict[str, object]:
    """A ring as a map."""
    return {each.name: getattr(ring, each.name) for each in fields(LentRing)}


def ring_in(message: Mapping[str, object]) -> LentRing:
    """Reads a ring.

    Raises:
        LendingError: A field is missing or of the wrong type.
    """
    values: dict[str, Any] = {key: take(message, key, kind) for key, kind in _RING_KINDS.items()}
    return LentRing(**values)
