# SPDX-License-Identifier: Apache-2.0
"""BPF filters on clsact, where the kernel's stack hands frames to an interface.

All of it in the network namespace of the calling thread. Names and numbers are those of
<linux/rtnetlink.h>, <linux/pkt_sched.h> and <linux/pkt_cls.h>.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from dataclasses import dataclass
from typing import Final

from assent.dataplane import rtnetlink
from assent.dataplane.libbpf import Program
from assent.dataplane.rtnetlink import NetlinkError, attribute, attributes
from assent.errors import AlreadyExists, FailedPrecondition, NotFound

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_KIND, _OPTIONS, _CHAIN = 1, 2, 11
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION: Final = 1
_ALL_PROTOCOLS: Final = 0x0300  # ETH_P_ALL, in network order
_TCMSG: Final = struct.Struct("=BxxxiIII")
_CLSACT: Final = 0xFFFFFFF1
_HANDLE: Final = 0xFFFF0000
_LEAVING: Final = 0xFFFFFFF3
_ARRIVING: Final = 0xFFFFFFF2
FIRST: Final = 1
"""Priority of a filter that is to be asked before all others."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter for frames that leave, as it stands.

    Attributes:
        priority, handle: where it stands; lower priorities are asked first.
        kind: "bpf", "u32", ...
        name: of a BPF filter; "" otherwise.
        program_id: the kernel's number of its program; 0 = it has none.
        decides: its program's answer is the verdict (direct action).
    """

    priority: int
    handle: int
    kind: str
    name: str
    program_id: int
    decides: bool

    def is_at(self, handle: int) -> bool:
        """Whether it stands where put() puts a filter of that handle."""
        return (self.priority, self.kind, self.handle) == (FIRST, "bpf", handle)


def ensure(ifindex: int) -> bool:
    """Makes sure that an interface has clsact. Returns whether it was missing.

    Raises:
        AlreadyExists: The older "ingress" queueing discipline is in its place.
        NotFound: No such interface.
    """
    if _discipline(ifindex) == "clsact":
        return False
    body = _TCMSG.pack(0, ifindex, _HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
    try:
        rtnetlink.request(
            f"adding clsact to interface {ifindex}",
            _NEWQDISC,
            body,
            rtnetlink.CREATE | rtnetlink.EXCL,
        )
    except AlreadyExists:
        if (found := _discipline(ifindex)) == "clsact":
            return False
        raise AlreadyExists(
            f"interface {ifindex} has the queueing discipline {found}, which leaves no place for "
            "clsact: `tc qdisc del dev ... ingress`, and put its filters on clsact"
        ) from None
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise FailedPrecondition(
                "this kernel was built without clsact (CONFIG_NET_SCH_INGRESS)"
            ) from None
        raise
    return True


def exists(ifindex: int) -> bool:
    """Whether an interface has clsact."""
    return _discipline(ifindex) == "clsact"


def remove_unused(ifindex: int) -> None:
    """Takes clsact off an interface, unless somebody has a filter there."""
    if not exists(ifindex) or filters(ifindex) or _filters(ifindex, _ARRIVING):
        return
    body = _TCMSG.pack(0, ifindex, _HANDLE, _CLSACT, 0)
    with contextlib.suppress(NotFound):
        rtnetlink.request(f"removing clsact from interface {ifindex}", _DELQDISC, body)


def put(ifindex: int, handle: int, name: str, program: Program) -> None:
    """Has a program decide on frames that leave, or puts another in its place in one step.

    Raises:
        NotFound: No such interface, or it has no clsact.
    """
    options = (
        attribute(_BPF_FD, struct.pack("=I", program.fd))
        + attribute(_BPF_NAME, name.encode() + b"\0")
        + attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = _place(ifindex, handle) + attribute(_OPTIONS, options)
    doing = f"attaching the egress program to interface {ifindex}"
    try:
        rtnetlink.request(doing, _NEWTFILTER, body, rtnetlink.CREATE)
    except NetlinkError as error:
        if error.errno != errno.EINVAL or exists(ifindex):
            raise
        raise NotFound(f"{doing}: it has no clsact") from None


def take(ifindex: int, handle: int) -> None:
    """Removes such a filter.

    Raises:
        NotFound: It is not there.
    """
    doing = f"removing the egress program from interface {ifindex}"
    if not any(each.is_at(handle) for each in filters(ifindex)):
        raise NotFound(f"{doing}: it is not there")
    rtnetlink.request(doing, _DELTFILTER, _place(ifindex, handle))


def filters(ifindex: int) -> list[Filter]:
    """The filters for frames that leave, in the order in which they are asked."""
    return _filters(ifindex, _LEAVING)


def _filters(ifindex: int, parent: int) -> list[Filter]:
    body = _TCMSG.pack(0, ifindex, 0, parent, 0)
    found = []
    for message in rtnetlink.dump(f"listing filters of interface {ifindex}", _GETTFILTER, body):
        _, index, handle, _, info = _TCMSG.unpack_from(message)
        said = attributes(message[_TCMSG.size :])
        # Without a handle it is the heading of those with this priority; other chains are entered
        # from the first one alone.
        if index != ifindex or not handle or any(said.get(_CHAIN, b"")):
            continue
        options = attributes(said.get(_OPTIONS, b""))
        kind = rtnetlink.text(said.get(_KIND, b""))
        is_bpf = kind == "bpf"
        found.append(
            Filter(
                priority=info >> 16,
                handle=handle,
                kind=kind,
                name=rtnetlink.text(options.get(_BPF_NAME, b"")) if is_bpf else "",
                program_id=_number(options.get(_BPF_ID)) if is_bpf else 0,
                decides=is_bpf and bool(_number(options.get(_BPF_FLAGS)) & _DIRECT_ACTION),
            )
        )
    return found


def _discipline(ifindex: int) -> str:
    """The kind of what holds the place of clsact; "" = nothing."""
    body = _TCMSG.pack(0, ifindex, 0, 0, 0)
    for message in rtnetlink.dump("listing queueing disciplines", _GETQDISC, body):
        _, index, handle, _, _ = _TCMSG.unpack_from(message)
        if index == ifindex and handle == _HANDLE:
            return rtnetlink.text(attributes(message[_TCMSG.size :]).get(_KIND, b""))
    return ""


def _place(ifindex: int, handle: int) -> bytes:
    info = FIRST << 16 | _ALL_PROTOCOLS
    return _TCMSG.pack(0, ifindex, handle, _LEAVING, info) + attribute(_KIND, b"bpf\0")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value else 0
