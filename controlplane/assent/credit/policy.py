# SPDX-License-Identifier: Apache-2.0
"""How wide each window is to be.

    fixed       each is what it was set to
    fair share  what the node may promise is divided among the peers that are there: those that are
                at work get equal shares, up to a ceiling; the others keep the floor

Both are functions of what is known at the moment; the two-phase change of `credit.window` carries
out what they say, and the ledger lets no window be widened before another one's credit has come
back. A covenant's windows are its terms' and stand outside of both.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from assent.errors import InvalidArgument

Key = TypeVar("Key", bound=Hashable)

FLOOR_DEFAULT: Final = 64
STEP: Final = 8
"""A share that has changed by less than one part in so many is left as it is."""


class PolicyKind(enum.StrEnum):
    """How windows come about."""

    FIXED = "fixed"
    FAIR_SHARE = "fair-share"


@dataclass(frozen=True, slots=True)
class CreditPolicy:
    """How a node divides what it may promise.

    Attributes:
        kind: The rule.
        floor: Under fair share, blocks that each window has at the least, peer there or not.
        ceiling: And at the most; 0 = what it was set to is its ceiling.

    Raises:
        InvalidArgument: The bounds contradict each other.
    """

    kind: PolicyKind = PolicyKind.FIXED
    floor: int = FLOOR_DEFAULT
    ceiling: int = 0

    def __post_init__(self) -> None:
        if self.floor < 1:
            raise InvalidArgument("floor_blocks", "needs at least 1 block")
        if self.ceiling and self.ceiling < self.floor:
            raise InvalidArgument("ceiling_blocks", f"is less than the floor of {self.floor}")

    def first(self, window: int) -> int:
        """The window that a session begins with.

        Args:
            window: What was set for the flow, blocks.
        """
        return min(self.floor, self.most(window)) if self.is_shared else window

    def most(self, window: int) -> int:
        """The widest that a flow's window may become; one of 0 stays."""
        return self.ceiling if window and self.is_shared and self.ceiling else window

    @property
    def is_shared(self) -> bool:
        """Whether windows depend on who else is there."""
        return self.kind is PolicyKind.FAIR_SHARE


@dataclass(frozen=True, slots=True)
class Claim:
    """One window under fair share.

    Attributes:
        least: What it must not fall below, blocks.
        most: What it must not exceed.
        times: How often it is to be backed.
        is_active: Whether its peer is there and at work.
    """

    least: int
    most: int
    times: int = 1
    is_active: bool = False


def fair_shares(universe: int, claims: Mapping[Key, Claim]) -> dict[Key, int]:
    """Divides blocks among windows: max-min fair among the active ones, the least for the others.

    Args:
        universe: Blocks to be divided.
        claims: Who asks; their least parts together must fit.

    Returns:
        A window for each. Times `times`, they are no more than the universe together.

    Raises:
        InvalidArgument: Not even the least parts fit.
    """
    shares = {key: claim.least for key, claim in claims.items()}
    left = universe - sum(claim.least * claim.times for claim in claims.values())
    if left < 0:
        raise InvalidArgument("floor_blocks", f"all floors together need {-left} blocks more")
    # Water rises over all at once; who is full stands aside, and the rest goes on.
    rising = {key: claim for key, claim in claims.items() if claim.is_active}
    level = 0
    for stop in sorted({edge for one in rising.values() for edge in (one.least, one.most)}):
        wet = [one.times for one in rising.values() if one.least <= level < one.most]
        rise = min(stop - level, left // sum(wet)) if wet else stop - level
        left -= rise * sum(wet)
        level += rise
        if level < stop:
            break
    for key, claim in rising.items():
        shares[key] = max(claim.least, min(level, claim.most))
    return shares


def next_windows(
    free: int, held: Mapping[Key, int], shares: Mapping[Key, int], times: Mapping[Key, int]
) -> dict[Key, int]:
    """The windows to ask for now, on the way to the shares.

    What is owed under a window cannot be taken back, so one is widened only by what is free; and
    one whose share has hardly changed is left alone.

    Args:
        free: Blocks that are promised to nobody.
        held: What is reserved for each, blocks; not less than its window.
        shares: What each is to become.
        times: How often each is backed.

    Returns:
        Those that change.
    """
    found: dict[Key, int] = {}
    for key in sorted(shares, key=lambda key: held[key] - shares[key]):
        now, wanted = held[key], shares[key]
        if abs(wanted - now) * STEP < now:
            continue
        if wanted > now:
            more = min(wanted - now, free // times[key])
            if more * STEP < now or not more:
                continue
            free -= more * times[key]
            wanted = now + more
        found[key] = wanted
    return found
