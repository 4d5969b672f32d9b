# SPDX-License-Identifier: Apache-2.0
"""Directories that the daemon makes for others to enter."""

from __future__ import annotations

import grp
import os
from pathlib import Path

from assent.errors import FailedPrecondition


def group_id(group: str | None) -> int | None:
    """The number of a group; None where none is named.

    Raises:
        FailedPrecondition: There is no such group.
    """
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise FailedPrecondition(f"socket_group: no group named {group!r}") from error


def make_shared(path: Path, gid: int | None) -> None:
    """Makes a directory that its owner and one group may enter (0750).

    One that is there keeps its mode: whoever made it, a service manager for instance, has decided.
    """
    if path.is_dir():
        return
    path.mkdir(mode=0o750, parents=True)
    path.chmod(0o750)
    if gid is not None:
        os.chown(path, -1, gid)
