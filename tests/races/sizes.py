# SPDX-License-Identifier: Apache-2.0
"""How long the suites of this folder go on: seconds, or with SOAK=1 until it hurts."""

from __future__ import annotations

import os
import random

SOAK = os.environ.get("SOAK", "0") not in {"", "0"}

RACE_FRAMES = 10_000_000 if SOAK else 100_032
SWAPS = 1_000 if SOAK else 30
KILLS = 1_000


def seed() -> int:
    """What randomness begins with: SEED, so that a failure can be run again, or any number."""
    return int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
