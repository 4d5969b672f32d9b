# SPDX-License-Identifier: Apache-2.0
"""How much is drawn at random: EXAMPLES says how many cases a property is tried with.

A property that says so itself is tried as often as it says. How long a case takes is no property of
the code: on a busy machine it may be long.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "assent", max_examples=int(os.environ.get("EXAMPLES", "60")), deadline=None
)
settings.load_profile("assent")
