# SPDX-License-Identifier: Apache-2.0
"""BPF filters on clsact, where the kernel's stack hands frames to an interface.

All of it in the network namespace of the calling thread. pyroute2's plain socket is used, which
has no event loop and no thread behind it, so it may be called wherever those are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pyroute2 import IPRSocket
from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nla,
    nlmsg,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELQDISC,
    RTM_DELTFILTER,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TC_H_CLSACT,
)
from pyroute2.netlink.rtnl.tcmsg import tcmsg
from pyroute2.netlink.rtnl.tcmsg.sched_bpf import TCA_BPF_FLAG_ACT_DIRECT
from pyroute2.protocols import ETH_P_ALL

from assent.dataplane.libbpf import Program
from assent.errors import AlreadyExists, FailedPrecondition, LocalError, NotFound

# <linux/pkt_sched.h>
_HANDLE: Final = 0xFFFF0000
_LEAVING: Final = 0xFFFFFFF3
_ARRIVING: Final = 0xFFFFFFF2
_SECONDS: Final = 5.0
FIRST: Final = 1
"""Priority of a filter that is to be asked before all others."""


class _RefusedError(LocalError):
    """The kernel refused a request for a reason of its own.

    Attributes:
        errno: the kernel's error number.
    """

    def __init__(self, doing: str, number: int) -> None:
        super().__init__(f"{doing}: {os.strerror(number)}")
        self.errno = number


class _Traffic(nlmsg):  # type: ignore[misc]
    """A queueing discipline, or a filter: pyroute2's knows neither its chain nor its program."""

    fields = tcmsg.fields
    nla_map = (
        (1, "TCA_KIND", "asciiz"),
        (2, "TCA_OPTIONS", "options"),
        (11, "TCA_CHAIN", "uint32"),
    )

    class options(nla):  # type: ignore[misc]  # noqa: N801 - nla_map names it
        """Of a BPF filter. They are decoded when they are asked for."""

        nla_map = (
            (6, "TCA_BPF_FD", "uint32"),
            (7, "TCA_BPF_NAME", "asciiz"),
            (8, "TCA_BPF_FLAGS", "uint32"),
            (11, "TCA_BPF_ID", "uint32"),
        )


class _Done(nlmsg):  # type: ignore[misc]
    """The end of a list, or why it ends early."""

    fields = (("error", "i"),)


_ANSWERS: Final = {RTM_NEWQDISC: _Traffic, RTM_NEWTFILTER: _Traffic, NLMSG_DONE: _Done}


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
    doing = f"adding clsact to interface {ifindex}"
    try:
        _request(doing, RTM_NEWQDISC, _clsact(ifindex), NLM_F_CREATE | NLM_F_EXCL)
    except AlreadyExists:
        if (found := _discipline(ifindex)) == "clsact":
            return False
        raise AlreadyExists(
            f"interface {ifindex} has the queueing discipline {found}, which leaves no place for "
            "clsact: `tc qdisc del dev ... ingress`, and put its filters on clsact"
        ) from None
    except _RefusedError as error:
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
    with contextlib.suppress(NotFound):
        _request(f"removing clsact from interface {ifindex}", RTM_DELQDISC, _clsact(ifindex))


def put(ifindex: int, handle: int, name: str, program: Program) -> None:
    """Has a program decide on frames that leave, or puts another in its place in one step.

    Raises:
        NotFound: No such interface, or it has no clsact.
    """
    filter_ = _place(ifindex, handle)
    options = [
        ("TCA_BPF_FD", program.fd),
        ("TCA_BPF_NAME", name),
        ("TCA_BPF_FLAGS", TCA_BPF_FLAG_ACT_DIRECT),
    ]
    filter_["attrs"].append(("TCA_OPTIONS", {"attrs": options}))
    doing = f"attaching the egress program to interface {ifindex}"
    try:
        _request(doing, RTM_NEWTFILTER, filter_, NLM_F_CREATE)
    except _RefusedError as error:
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
    _request(doing, RTM_DELTFILTER, _place(ifindex, handle))


def filters(ifindex: int) -> list[Filter]:
    """The filters for frames that leave, in the order in which they are asked."""
    return _filters(ifindex, _LEAVING)


def _filters(ifindex: int, parent: int) -> list[Filter]:
    doing = f"listing filters of interface {ifindex}"
    found = []
    for each in _list(doing, RTM_GETTFILTER, _traffic(ifindex, parent=parent)):
        # Without a handle it is the heading of those with this priority; other chains are entered
        # from the first one alone.
        if each["index"] != ifindex or not each["handle"] or each.get_attr("TCA_CHAIN"):
            continue
        kind = each.get_attr("TCA_KIND") or ""
        options = each.get_attr("TCA_OPTIONS") if kind == "bpf" else None
        bpf = dict(options["attrs"]) if options else {}
        found.append(
            Filter(
                priority=each["info"] >> 16,
                handle=each["handle"],
                kind=kind,
                name=_text(bpf.get("TCA_BPF_NAME", "")),
                program_id=bpf.get("TCA_BPF_ID", 0),
                decides=bool(bpf.get("TCA_BPF_FLAGS", 0) & TCA_BPF_FLAG_ACT_DIRECT),
            )
        )
    return found


def _discipline(ifindex: int) -> str:
    """The kind of what holds the place of clsact; "" = nothing."""
    for each in _list("listing queueing disciplines", RTM_GETQDISC, _traffic(ifindex)):
        if each["index"] == ifindex and each["handle"] == _HANDLE:
            return str(each.get_attr("TCA_KIND"))
    return ""


def _text(value: str | bytes) -> str:
    """A name; pyroute2 leaves as it is what is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _clsact(ifindex: int) -> _Traffic:
    return _traffic(ifindex, _HANDLE, TC_H_CLSACT, kind="clsact")


def _place(ifindex: int, handle: int) -> _Traffic:
    info = FIRST << 16 | socket.htons(ETH_P_ALL)
    return _traffic(ifindex, handle, _LEAVING, info, kind="bpf")


def _traffic(
    ifindex: int, handle: int = 0, parent: int = 0, info: int = 0, kind: str = ""
) -> _Traffic:
    message = _Traffic()
    message.update(index=ifindex, handle=handle, parent=parent, info=info)
    if kind:
        message["attrs"].append(("TCA_KIND", kind))
    return message


def _request(doing: str, kind: int, message: _Traffic, flags: int = 0) -> None:
    """Asks for a change.

    Args:
        doing: For the error's message.
        kind: RTM_...
        message: What is to change.
        flags: NLM_F_CREATE, NLM_F_EXCL.

    Raises:
        AlreadyExists, NotFound, FailedPrecondition: EEXIST, ENOENT or ENODEV, EPERM.
        _RefusedError: It is refused for another reason.
    """
    _ask(doing, kind, message, NLM_F_ACK | flags)


def _list(doing: str, kind: int, message: _Traffic) -> list[Any]:
    """All that the kernel lists. Errors as for _request()."""
    return _ask(doing, kind, message, NLM_F_DUMP)


def _ask(doing: str, kind: int, message: _Traffic, flags: int) -> list[Any]:
    found: list[Any] = []
    with IPRSocket() as kernel:
        # The kernel answers within the call; this is for a bug, not for a wait.
        kernel.socket.settimeout(_SECONDS)
        kernel.register_policy(_ANSWERS)
        kernel.put(message, kind, NLM_F_REQUEST | flags)
        while True:
            for answer in kernel.get():
                refusal = answer["header"]["error"]
                if isinstance(refusal, (NetlinkError, OSError)):
                    _fail(doing, refusal.args[0])
                if refusal is not None:
                    raise refusal
                if answer["header"]["type"] in (NLMSG_ERROR, NLMSG_DONE):
                    if answer["error"]:
                        _fail(doing, -answer["error"])
                    return found
                found.append(answer)


def _fail(doing: str, number: int) -> NoReturn:
    if number == errno.EEXIST:
        raise AlreadyExists(f"{doing}: it is there already")
    if number in (errno.ENOENT, errno.ENODEV):
        raise NotFound(f"{doing}: {os.strerror(number)}")
    if number in (errno.EPERM, errno.EACCES):
        raise FailedPrecondition(f"{doing}: not permitted, this needs CAP_NET_ADMIN")
    raise _RefusedError(doing, number)
