# SPDX-License-Identifier: Apache-2.0
"""What the fuzz programs for Atheris (libFuzzer for Python) have in common: their command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris


def main(read: Callable[[bytes], None], write_seeds: Callable[[Path], None]) -> None:
    """Fuzzes, with libFuzzer's options; or, by `--seeds DIRECTORY`, writes seeds and ends.

    Args:
        read: Takes one input, and raises where it breaks a claim.
        write_seeds: Writes inputs to begin with; it makes the directory.
    """
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(Path(sys.argv[2]))
        return
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
