# SPDX-License-Identifier: Apache-2.0
"""Where the package keeps its compiled BPF objects."""

from __future__ import annotations

from pathlib import Path

from assent.errors import NotFound


def packaged(name: str) -> Path:
    """Returns the path of a compiled object.

    Args:
        name: as in bpf/, without endings: "gate".

    Raises:
        NotFound: it has not been built.
    """
    path = Path(__file__).resolve().parents[1] / "objects" / f"{name}.bpf.o"
    if not path.exists():
        raise NotFound(f"{path} has not been built: run `make -C bpf`")
    return path
