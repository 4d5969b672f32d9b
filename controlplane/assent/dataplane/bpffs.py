# SPDX-License-Identifier: Apache-2.0
"""The BPF file system, where what outlives a process is pinned.

Mounts belong to mount namespaces: `ip netns exec` makes a new one and mounts /sys afresh, without
this one. Whoever needs both enters the network namespace alone (setns).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from assent.dataplane.mounts import file_system_of
from assent.errors import FailedPrecondition

_FS_TYPE = "bpf"
_STANDARD = Path("/sys/fs/bpf")


def ensure(path: Path) -> None:
    """Makes sure that `path` lies in a BPF file system; mounts the standard one if need be.

    Raises:
        FailedPrecondition: it does not, and that cannot be helped.
    """
    if _is_inside(path):
        return
    wanted = f"{path} is not in a BPF file system"
    command = f"mount -t bpf bpf {_STANDARD}"
    if not path.is_relative_to(_STANDARD):
        raise FailedPrecondition(f"{wanted}: choose a place under {_STANDARD}, or mount one there")
    if os.geteuid() != 0:
        raise FailedPrecondition(f"{wanted}, and mounting one needs root: `{command}`")
    if not _STANDARD.is_dir():
        raise FailedPrecondition(
            f"{wanted}, and {_STANDARD} does not exist: mount sysfs at /sys, on a kernel with "
            "CONFIG_BPF_SYSCALL"
        )
    _mount(_STANDARD)
    if not _is_inside(path):
        raise FailedPrecondition(f"{wanted}, although one was mounted at {_STANDARD}")


def exchange(one: Path, other: Path) -> None:
    """Exchanges two directories' names, in one step (Linux 5.16 and later).

    Raises:
        FailedPrecondition: the kernel does not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    here, flags = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), flags):
        problem = os.strerror(ctypes.get_errno())
        raise FailedPrecondition(f"exchanging {one} and {other} failed: {problem}")


def _is_inside(path: Path) -> bool:
    return file_system_of(path) == _FS_TYPE


def _mount(point: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(point), _FS_TYPE.encode(), 0, b"mode=0700"):
        problem = os.strerror(ctypes.get_errno())
        raise FailedPrecondition(
            f"mounting a BPF file system at {point} failed ({problem}): has the kernel "
            "CONFIG_BPF_SYSCALL, and this process CAP_SYS_ADMIN?"
        )
