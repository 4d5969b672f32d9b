# SPDX-License-Identifier: Apache-2.0
"""Hosts in network namespaces on one switch of veth links; gone when the context is left.

        left          right         rogue         one namespace each, interface fab0
          |             |             |           veth
        --+-------------+-------------+--         bridge sw0, in the switch's namespace

Namespaces are entered with setns through nsenter, not `ip netns exec`, which would hide the pins.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

HOST_INTERFACE = "fab0"
BRIDGE = "sw0"
_NETNS_DIR = Path("/run/netns")
PREFIX = "assent-demo-"


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the lab.

    Attributes:
        name: "left", "right", "rogue".
        netns: name of its network namespace.
        mac: of its interface, as text.
    """

    name: str
    netns: str
    mac: str

    def command(self, *argv: str) -> list[str]:
        """The same command, inside this host's network namespace."""
        return ["nsenter", f"--net={_NETNS_DIR / self.netns}", "--", *argv]


@dataclass(frozen=True, slots=True)
class Lab:
    """The laid-out network.

    Attributes:
        label: unique to this run; part of every name that it makes.
        hosts: by name.
        switch: the switch itself, as a place to run things in; its ports are named after hosts.
    """

    label: str
    hosts: dict[str, Host]
    switch: Host

    def link_drops(self, host: str) -> int:
        """Frames that the switch's port could not hand to that host's interface."""
        with links_of(self.switch.netns) as switch:
            link = switch.link("get", ifname=host)[0]
            stats = link.get_attr("IFLA_STATS64")
            return int(stats["tx_dropped"])


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in that namespace meanwhile; sockets made inside stay there."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


@contextlib.contextmanager
def links_of(namespace: str) -> Iterator[Any]:
    """Netlink in that namespace.

    Not pyroute2's NetNS: that forks, and a process that has threads (gRPC's) must not.
    """
    with inside(namespace):
        links = IPRoute()
    with links:
        yield links


@contextlib.contextmanager
def open_lab(names: Sequence[str]) -> Iterator[Lab]:
    """Lays out the hosts and takes them away again, whatever happens in between."""
    label = f"{PREFIX}{os.getpid()}"
    with contextlib.ExitStack() as undo:
        switch_ns = f"{label}-switch"
        make_namespace(switch_ns, undo)
        with links_of(switch_ns) as switch:
            switch.link("add", ifname=BRIDGE, kind="bridge")
            switch.link("set", ifname=BRIDGE, state="up")
        hosts = {name: _add_host(label, name, switch_ns, undo) for name in names}
        yield Lab(label, hosts, Host("switch", switch_ns, ""))


def make_namespace(name: str, undo: contextlib.ExitStack) -> None:
    """Adds a network namespace, which `undo` removes."""
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    undo.callback(netns.remove, name)
    with links_of(name) as links:
        links.link("set", ifname="lo", state="up")


def _add_host(label: str, name: str, switch_ns: str, undo: contextlib.ExitStack) -> Host:
    host_ns = f"{label}-{name}"
    make_namespace(host_ns, undo)
    with links_of(switch_ns) as switch, links_of(host_ns) as host:
        switch.link("add", ifname=name, kind="veth", peer={"ifname": HOST_INTERFACE})
        inner = switch.link_lookup(ifname=HOST_INTERFACE)[0]
        switch.link("set", index=inner, net_ns_fd=host_ns)
        bridge = switch.link_lookup(ifname=BRIDGE)[0]
        switch.link("set", ifname=name, master=bridge, state="up")
        host.link("set", ifname=HOST_INTERFACE, state="up")
        mac = host.link("get", ifname=HOST_INTERFACE)[0].get_attr("IFLA_ADDRESS")
    return Host(name, host_ns, mac)
