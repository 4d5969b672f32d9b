# SPDX-License-Identifier: Apache-2.0
"""Sizes of a gate.

Maps are allocated whole when the gate is created: memory is reserved, not hoped for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from assent.errors import NotFound

_SECOND: Final = 1_000_000_000
COUNTERS_PER_BLOCK: Final = 2 * 64
"""Directions, and the reasons that there may ever be: see tables.h on `counters`."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How many of each thing a gate has room for.

    Attributes:
        name: of the profile.
        locals: cells on this host.
        sessions: pairs (remote cell, local cell) that are provisioned or in session.
        connections: of those, how many may be in session at a time.
        flows: flow slots (64 bytes each); a session takes one for control and one for each flow.
        replay_chunks: parts of replay windows (512 bytes each). A window of up to 2,017 sequence
            numbers takes one, the usual 2,048 take two, 8,192 take eight.
        tallies: pairs that count on their own (256 bytes each on every CPU); more share one tally.
        interfaces: that count on their own (8 KiB each on every CPU); more share one block.
        relay_routes: destinations that the LWF relay knows a way to (32 bytes each).
        relay_sources: who may register a way to itself there.
        relay_ports: interfaces that it sends by.
        relay_seen: frames that it remembers, against loops.
        skew_limit_ns: how far a peer's timestamp may be off its known clock, either way, where the
            daemon is not told otherwise; 0 = not checked.
        patience_ns: how long a handshake may take, and a peer be silent while one is under way.
        peer_timeout_ns: silence after which a session is given up.
        grant_shift: the least unit of grants that is asked of peers, 64 << grant_shift bytes.
        replay_len: sequence numbers in the replay window of a data flow, at the least.
    """

    name: str
    locals: int
    sessions: int
    connections: int
    flows: int
    replay_chunks: int
    tallies: int
    interfaces: int = 7
    relay_routes: int = 64
    relay_sources: int = 64
    relay_ports: int = 16
    relay_seen: int = 1024
    skew_limit_ns: int = 30 * _SECOND
    patience_ns: int = 30 * _SECOND
    peer_timeout_ns: int = 300 * _SECOND
    grant_shift: int = 0
    replay_len: int = 2048

    def capacities(self) -> dict[str, int]:
        """Returns max_entries by map name."""
        return {
            "locals": self.locals,
            "sessions": self.sessions,
            "flows": self.flows,
            "replay": self.replay_chunks,
            "tallies": self.tallies + 1,  # and the shared one
            "bloom": 2 * self.bloom_words,
            "counters": (self.interfaces + 1) * COUNTERS_PER_BLOCK,
            "lwf_routes": self.relay_routes,
            "lwf_sources": self.relay_sources,
            "lwf_ports": self.relay_ports,
            "lwf_seen": self.relay_seen,
        }

    @property
    def bloom_words(self) -> int:
        """64-bit words of the largest bloom filter: 16 bits a pair, and 4 KiB at the least."""
        return max(512, 1 << (self.sessions * 16 // 64 - 1).bit_length())


# UTCP's kernel: 64 cells, 16 connections at a time. About 400 kB.
CHAPTER = Profile(
    "chapter",
    locals=64,
    sessions=64,
    connections=16,
    flows=256,
    replay_chunks=256,
    tallies=64,
)
# A host of a data centre: each session with control and one flow of the usual window. About 140 MB,
# and 4 MB a CPU.
DEFAULT = Profile(
    "default",
    locals=256,
    sessions=65_536,
    connections=65_536,
    flows=131_072,
    replay_chunks=196_608,
    tallies=16_383,
    interfaces=31,
    relay_routes=4096,
    relay_sources=4096,
    relay_ports=64,
    relay_seen=65_536,
)
# The same where light takes minutes: nobody's clock can be held against anybody, an answer takes
# its time, and there is much on the way. Fewer sessions, with longer windows: about 180 MB.
DEEP_SPACE = replace(
    DEFAULT,
    name="deep-space",
    connections=16_384,
    skew_limit_ns=0,
    patience_ns=7200 * _SECOND,
    peer_timeout_ns=4 * 3600 * _SECOND,
    grant_shift=5,
    replay_len=8192,
)
# A million. About 2 GB, and 34 MB a CPU.
LARGE = Profile(
    "large",
    locals=65_536,
    sessions=1_000_000,
    connections=1_000_000,
    flows=2_000_000,
    replay_chunks=3_000_000,
    tallies=131_071,
    interfaces=127,
    relay_routes=65_536,
    relay_sources=65_536,
    relay_ports=1024,
    relay_seen=1_048_576,
)

PROFILES = {profile.name: profile for profile in (CHAPTER, DEFAULT, DEEP_SPACE, LARGE)}


def profile(name: str) -> Profile:
    """Returns a profile by name.

    Raises:
        NotFound: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise NotFound(f"no profile {name!r}: there are {', '.join(PROFILES)}") from None
