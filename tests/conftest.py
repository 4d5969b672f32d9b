# SPDX-License-Identifier: Apache-2.0
"""How hypothesis draws, for all tests.

By default the same cases are tried each time: whether a test passes is a matter of what was
changed, not of luck. Where one of `AT_RANDOM` is set, as `make soak` does, they are drawn anew.

EXAMPLES says how many cases a property is tried with. One that says so itself is tried as often as
it says. How long a case takes is no property of the code: on a busy machine it may be long.
"""

from __future__ import annotations

import os

from hypothesis import settings

AT_RANDOM = {"SOAK", "EXAMPLES", "SIM_EXAMPLES", "ASSENT_COVENANT_EXAMPLES"}

# Before any module of tests is imported: settings that are made there begin with these.
settings.register_profile(
    "assent",
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    deadline=None,
    derandomize=AT_RANDOM.isdisjoint(os.environ),
)
settings.load_profile("assent")
