# SPDX-License-Identifier: Apache-2.0
"""What a host must have before a daemon can work on it, each told in one line."""

from __future__ import annotations

import os
from pathlib import Path

from assent.dataplane import bpffs
from assent.errors import FailedPrecondition

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


def check(pin_root: Path) -> None:
    """Checks the host.

    Args:
        pin_root: Where the dataplane will be pinned.

    Raises:
        FailedPrecondition: The first thing that is missing, and what to do about it.
    """
    if os.geteuid() != 0:
        raise FailedPrecondition(
            "this needs root: it loads BPF programs and opens packet sockets; run it with sudo"
        )
    if not _KERNEL_BTF.exists():
        raise FailedPrecondition(
            f"{_KERNEL_BTF} is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF"
        )
    bpffs.ensure(pin_root)
