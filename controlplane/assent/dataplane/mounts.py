# SPDX-License-Identifier: Apache-2.0
"""Which file system a path lies on."""

from __future__ import annotations

from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(path: Path) -> str:
    """The type of the file system that a path lies on, or would lie on once made."""
    best, kind = -1, "unknown"
    resolved = path.resolve()
    for line in _MOUNTS.read_text().splitlines():
        # "36 35 98:0 /root /mount-point options [optional ...] - fs-type source options"
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        # Of mounts on one point the last one covers the others.
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind
