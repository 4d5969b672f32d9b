# SPDX-License-Identifier: Apache-2.0
"""From the daemon's flow handle to what an endpoint needs."""

from __future__ import annotations

from pathlib import Path

from assent.transport.endpoint import FlowAccess
from assent.v1.sessions_pb2 import FlowHandle
from assent.wire.cellid import CellID
from assent.wire.ethernet import parse_mac


def access_of(handle: FlowHandle) -> FlowAccess:
    """Reads a handle as Sessions.OpenFlow returns it.

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
    )
