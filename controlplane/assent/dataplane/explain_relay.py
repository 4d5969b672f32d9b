# SPDX-License-Identifier: Apache-2.0
"""What a verdict looked at, in words; here, of the LWF relay."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from assent.dataplane.btf import Record
from assent.dataplane.tables.units import SEC
from assent.wire.ethernet import format_mac
from assent.wire.lwf import Header, Service


@dataclass(frozen=True, slots=True)
class Consulted:
    """One map entry that a verdict looked at.

    Attributes:
        map: Its map.
        key: Its key, in words.
        found: Whether it is there.
        says: What it says that matters here; "" where it is not there.
    """

    map: str
    key: str
    found: bool
    says: str = ""


def relay_consulted(
    reason: str, record: Record, header: Header, has: Collection[str]
) -> Iterator[Consulted]:
    """Puts what the program noted of an LWF frame into words.

    An entry that is missing ends the look.

    Args:
        reason: The verdict.
        record: What the program noted.
        header: The frame's.
        has: Names of the entries that it found.
    """
    if reason in {"lwf_malformed", "stacked_vlan"}:
        return
    registers = header.service == Service.RELAY_FORWARD
    if registers:
        found = "EXPLAIN_LWF_SOURCES" in has
        says = f"may register, {record.due / SEC:.3f} s ahead of its rate" if found else ""
        yield Consulted("lwf_sources", str(header.source), found, says)
        if reason in {"lwf_unauthorized", "rate_limited"}:
            return
    if header.dest or not registers:
        yield from _route(reason, record, header, has)
        if reason in {"lwf_unknown_hint", "lwf_not_relayable"}:
            return
    seen = "EXPLAIN_LWF_SEEN" in has
    yield Consulted("lwf_seen", "its fingerprint", seen, "came by before" if seen else "")


def _route(
    reason: str, record: Record, header: Header, has: Collection[str]
) -> Iterator[Consulted]:
    known = "EXPLAIN_LWF_ROUTES" in has
    yield Consulted("lwf_routes", str(header.dest), known, _way(record) if known else "")
    if not known or record.route_local or record.route_expired or reason == "lwf_not_relayable":
        return
    yield Consulted("lwf_ports", str(record.route_port), "EXPLAIN_LWF_PORTS" in has)


def _way(record: Record) -> str:
    if record.route_local:
        return "to this host's stack"
    said = f"port {record.route_port}, next hop {format_mac(record.next_hop)}"
    if record.route_expired:
        return f"{said}, expired"
    return f"{said}, for {record.route_left / SEC:.0f} s more" if record.route_left else said
