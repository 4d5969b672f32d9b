# SPDX-License-Identifier: Apache-2.0
"""Packages that only measurements need: what ours is compared with."""

from __future__ import annotations

import importlib.util

from assent.errors import NotFound

PEERS = ("aioquic", "net")
"""Modules of the extra `bench`."""


def require_peers() -> None:
    """Makes sure that the peers are installed.

    Raises:
        NotFound: One is not.
    """
    for name in PEERS:
        if importlib.util.find_spec(name) is None:
            raise NotFound(
                f"the module {name!r} is missing: run `make bench`, or install assent[bench]"
            )
