# SPDX-License-Identifier: Apache-2.0
"""The gate's counters as rows of tables: by reason, by interface and by pair of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from assent.v1.fabric_pb2 import Counter, Counters, InterfaceCounters, PairCounters

ADMITTED: Final = frozenset({"admitted", "relayed"})
"""Verdicts that let a frame go on."""
ELSEWHERE: Final = "(elsewhere)"
OTHERS: Final = "(others)"
REASONS_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Sums:
    """What became of frames in one place and direction."""

    admitted: int = 0
    bytes: int = 0
    dropped: int = 0
    would_drop: int = 0
    events: int = 0
    suppressed: int = 0
    reasons: str = ""

    @classmethod
    def of(cls, counters: Iterable[Counter]) -> Sums:
        """Adds up one line a reason; bytes are those of admitted frames."""
        lines = list(counters)
        admitted = [line for line in lines if line.reason in ADMITTED]
        dropped = {line.reason: line.frames for line in lines if line.reason not in ADMITTED}
        return cls(
            admitted=sum(line.frames for line in admitted),
            bytes=sum(line.bytes for line in admitted),
            dropped=sum(dropped.values()),
            would_drop=sum(line.would_drop for line in lines),
            events=sum(line.events for line in lines),
            suppressed=sum(line.suppressed for line in lines),
            reasons=ranked(dropped),
        )

    @property
    def frames(self) -> int:
        """All of them."""
        return self.admitted + self.dropped


def ranked(frames: dict[str, int]) -> str:
    """The most frequent reasons, as in "bad_tag 5, replay 3"; how many more there are."""
    listed = sorted(((count, name) for name, count in frames.items() if count), reverse=True)
    said = [f"{name} {count:,}" for count, name in listed[:REASONS_SHOWN]]
    if len(listed) > REASONS_SHOWN:
        said.append(f"{len(listed) - REASONS_SHOWN} more reasons")
    return ", ".join(said)


def occurred(line: Counter) -> bool:
    """Whether anything was counted."""
    return bool(line.frames or line.would_drop)


def interface_name(interface: InterfaceCounters) -> str:
    """What to call an interface."""
    if not interface.index:
        return ELSEWHERE
    return interface.name or f"#{interface.index}"


def by_interface(counters: Counters) -> Iterator[tuple[str, str, Sums]]:
    """Yields (interface, "in" or "out", sums) where anything was counted."""
    for interface in counters.interfaces:
        for direction, lines in (("in", interface.arriving), ("out", interface.leaving)):
            sums = Sums.of(lines)
            if sums.frames:
                yield interface_name(interface), direction, sums


def by_pair(counters: Counters) -> Iterator[tuple[str, str, PairCounters]]:
    """Yields (remote, local, counts): the busiest pairs, then all that share their counts."""
    for pair in counters.pairs:
        remote = pair.remote_name or pair.remote.value.hex()[:16]
        yield remote, pair.local_name or pair.local.value.hex()[:16], pair
    if counters.other_pairs:
        yield OTHERS, f"{counters.other_pairs:,} pairs", counters.others


def pair_reasons(pair: PairCounters) -> str:
    """Why its frames were refused."""
    return ranked({line.reason: line.frames for line in pair.reasons})
