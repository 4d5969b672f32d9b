# SPDX-License-Identifier: Apache-2.0
"""What a host must have before a daemon can work on it, each told in one line."""

from __future__ import annotations

import os
from pathlib import Path

from assent.errors import FailedPrecondition

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
_MOUNTS = Path("/proc/self/mounts")


def check(pin_root: Path) -> None:
    """Checks the host.

    Args:
        pin_root: Where the dataplane will be pinned.

    Raises:
        FailedPrecondition: The first thing that is missing, and what to do about it.
    """
    if os.geteuid() != 0:
        raise FailedPrecondition(
            "assentd needs root: it loads BPF programs and opens packet sockets"
        )
    if not _KERNEL_BTF.exists():
        raise FailedPrecondition(
            f"{_KERNEL_BTF} is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF"
        )
    kind = file_system_of(pin_root)
    if kind != "bpf":
        raise FailedPrecondition(
            f"pin_root: {pin_root} lies on {kind}, not on bpffs: "
            "mount -t bpf bpf /sys/fs/bpf, or name another place"
        )


def file_system_of(path: Path) -> str:
    """The type of the file system that a path lies on, or would lie on once made."""
    best, kind = -1, "unknown"
    resolved = path.resolve()
    for line in _MOUNTS.read_text().splitlines():
        _, where, found, *_ = line.split(" ")
        mount = Path(where.replace("\\040", " "))
        # A later mount on the same place hides an earlier one.
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), found
    return kind
