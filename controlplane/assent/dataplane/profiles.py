# SPDX-License-Identifier: Apache-2.0
"""Sizes of a gate.

Maps are allocated whole when the gate is created: memory is reserved, not hoped for.
"""

from __future__ import annotations

from dataclasses import dataclass

from assent.errors import NotFound


@dataclass(frozen=True, slots=True)
class Profile:
    """How many of each thing a gate has room for.

    Attributes:
        name: of the profile.
        locals: cells on this host.
        sessions: pairs (remote cell, local cell) that are provisioned or in session.
        flows: flow slots (64 bytes each); a session takes one for control and one for each flow.
        replay_chunks: parts of replay windows (512 bytes each). A window of up to 2,017 sequence
            numbers takes one, the usual 2,048 take two, 8,192 take eight.
    """

    name: str
    locals: int
    sessions: int
    flows: int
    replay_chunks: int

    def capacities(self) -> dict[str, int]:
        """Returns max_entries by map name."""
        return {
            "locals": self.locals,
            "sessions": self.sessions,
            "flows": self.flows,
            "replay": self.replay_chunks,
        }


# UTCP's kernel: 64 cells, 16 sessions at a time. About 200 kB.
CHAPTER = Profile("chapter", locals=64, sessions=16, flows=256, replay_chunks=256)
# A host of a data centre: each session with control and one flow of the usual window. About 130 MB.
DEFAULT = Profile("default", locals=256, sessions=65_536, flows=131_072, replay_chunks=196_608)
# The same for a million. About 2 GB.
LARGE = Profile(
    "large", locals=65_536, sessions=1_000_000, flows=2_000_000, replay_chunks=3_000_000
)

PROFILES = {profile.name: profile for profile in (CHAPTER, DEFAULT, LARGE)}


def profile(name: str) -> Profile:
    """Returns a profile by name.

    Raises:
        NotFound: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise NotFound(f"no profile {name!r}: there are {', '.join(PROFILES)}") from None
