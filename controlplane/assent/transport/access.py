# SPDX-License-Identifier: Apache-2.0
"""From the daemon's flow handle to what an endpoint needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from assent.v1.sessions_pb2 import FlowHandle
from assent.wire.cellid import CellID
from assent.wire.control import Delivery, FlowClass
from assent.wire.ethernet import parse_mac


@dataclass(frozen=True, slots=True)
class FlowAccess:
    """What it takes to drive one flow of a session. Holds keys.

    Attributes:
        rx_blocks_per_second: What the peer is granted on this flow in a second, beyond the window
            that it began with; 0 = all that was consumed, at once. Of a rate that several flows
            share, this flow's part.
        delivery: What the flow promises of its messages.
        flow_class: Its priority among the flows of one ring.
        rtt_ns: Round-trip time of the handshake; 0 = not known.
        lamp: Whether a short message may go out where no credit stands.
        session: Number of the session in this host.
    """

    local: CellID
    remote: CellID
    local_mac: bytes
    remote_mac: bytes
    interface: str
    mtu: int
    epoch: int
    flow: int
    slot: int
    flows_pin: Path
    sockets_pin: Path
    lock_path: Path
    tx_payload_key: bytes = field(repr=False)
    rx_payload_key: bytes = field(repr=False)
    tx_header_key: bytes = field(repr=False)
    rx_blocks_per_second: int = 0
    delivery: Delivery = Delivery.ORDERED
    flow_class: FlowClass = FlowClass.STANDARD
    rtt_ns: int = 0
    lamp: bool = False
    session: int = 0


def access_of(handle: FlowHandle) -> FlowAccess:
    """Reads a handle as the daemon returns it.

    Raises:
        InvalidArgument: an address in it is not one.
    """
    return FlowAccess(
        local=CellID(handle.session.local.value),
        remote=CellID(handle.session.remote.value),
        local_mac=parse_mac(handle.local_mac),
        remote_mac=parse_mac(handle.remote_mac),
        interface=handle.interface,
        mtu=handle.mtu,
        epoch=handle.session.epoch,
        flow=handle.flow,
        slot=handle.flow_slot,
        flows_pin=Path(handle.flows_pin),
        sockets_pin=Path(handle.sockets_pin),
        lock_path=Path(handle.lock_path),
        tx_payload_key=handle.tx_payload_key,
        rx_payload_key=handle.rx_payload_key,
        tx_header_key=handle.tx_header_key,
        rx_blocks_per_second=handle.rx_blocks_per_second,
        delivery=delivery_of(handle.delivery),
        flow_class=class_of(handle.flow_class),
        rtt_ns=handle.rtt_ns,
        lamp=handle.lamp,
        session=handle.session.id,
    )


# The API's numbers begin with "unspecified", those of the wire do not have it.


def delivery_of(number: int) -> Delivery:
    """What the API says of a flow's delivery; ordered where it says nothing."""
    return Delivery(max(number - 1, 0))


def class_of(number: int) -> FlowClass:
    """What the API says of a flow's class; standard where it says nothing."""
    return FlowClass(number - 1) if number else FlowClass.STANDARD
