# SPDX-License-Identifier: Apache-2.0
"""Who the neighbors are, for a few slots at a time (seed 5.7).

Turbine's mapping is the caller's, and stays authoritative: a `Source` says who the parents and
children of this host are in a slot. What it said is kept for two to four slots and a jitter of up
to one more, so that not all hosts ask at once, and no set grows old enough to be aimed at. A branch
that loses much, or whose packets come marked, is asked for anew before that.

The diversity guard watches how many distinct parents a branch had over a window of slots. Where
they are too few, other validators are added as standbys: never in a parent's place, but to be asked
for repair, and heard.

`stake_order` and `Tree` are a reference for tests and simulations: a shuffle in which each place
goes to a validator with a probability in proportion to its stake, and a tree of fixed fanout over
it. They are not Solana's own, whose shuffle is of another generator.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from blake3 import blake3

from assent.errors import InvalidArgument
from assent.numiport import profiles

PERMILLE: Final = 1000
_DRAW_LEN: Final = 16
"""A draw of 128 bits below a total of less than 2^64 favours nobody by more than 2^-64."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """A neighbor set.

    Attributes:
        parents: Who sends to this host, by the mapping.
        children: Whom it sends to.
        standbys: Who may be asked besides the parents; the guard's.
    """

    parents: tuple[bytes, ...]
    children: tuple[bytes, ...]
    standbys: tuple[bytes, ...] = ()


class Source(Protocol):
    """Turbine's mapping, as the caller has it."""

    def neighbors(self, branch: Hashable, slot: int) -> Neighbors:
        """The parents and children of this host in a branch and slot."""

    def candidates(self, branch: Hashable, slot: int) -> Sequence[bytes]:
        """Who may be a standby, the most wanted first; this host is not among them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the cache goes by.

    Attributes:
        ttl_least: Slots that a set is kept, at least,
        ttl_most: and at most, before the jitter.
        parents_least: Distinct parents that a branch should have had over the window.
        window: Slots that the guard looks back.
        standbys_most: Standbys of one set.
        loss_permille: Loss from which on a branch is asked for anew,
        ce_permille: and marks.
        branches_most: Branches that are kept; of more, those used longest ago are forgotten.
    """

    ttl_least: int = 2
    ttl_most: int = 4
    parents_least: int = 2
    window: int = 8
    standbys_most: int = 4
    loss_permille: int = 100
    ce_permille: int = 20
    branches_most: int = 1024

    def __post_init__(self) -> None:
        """Checks the bounds.

        Raises:
            InvalidArgument: One of them leaves nothing, or they contradict each other.
        """
        if not 1 <= self.ttl_least <= self.ttl_most:
            raise InvalidArgument("ttl_most", "needs 1 <= ttl_least <= ttl_most")
        for name in ("parents_least", "window", "branches_most"):
            if getattr(self, name) < 1:
                raise InvalidArgument(name, "needs 1 or more")
        if self.standbys_most < 0:
            raise InvalidArgument("standbys_most", "needs 0 or more")
        for name in ("loss_permille", "ce_permille"):
            if not 0 < getattr(self, name) <= PERMILLE:
                raise InvalidArgument(name, f"needs 1 to {PERMILLE}")

    @classmethod
    def of(cls, section: profiles.Neighbors) -> Settings:
        """What a profile says."""
        return cls(section.ttl_least_slots, section.ttl_most_slots, section.parents_least)


class DiversityGuard:
    """The parents that one branch had over the last slots.

    Args:
        least: Distinct parents that there should be.
        window: Slots that count, the newest among them.
    """

    __slots__ = ("_least", "_seen", "_window")

    def __init__(self, least: int, window: int) -> None:
        self._least = least
        self._window = window
        self._seen: deque[tuple[int, frozenset[bytes]]] = deque(maxlen=window)

    def saw(self, slot: int, parents: Sequence[bytes]) -> None:
        """Notes who the parents are in a slot; slots do not go back."""
        if self._seen and self._seen[-1][0] >= slot:
            parents = (*self._seen.pop()[1], *parents)
        self._seen.append((slot, frozenset(parents)))

    def distinct(self, slot: int) -> frozenset[bytes]:
        """Who was a parent in the window that ends with `slot`."""
        recent = (parents for seen, parents in self._seen if slot - self._window < seen <= slot)
        return frozenset[bytes]().union(*recent)

    def lacking(self, slot: int) -> int:
        """How many distinct parents are wanting; 0 = there are enough."""
        return max(0, self._least - len(self.distinct(slot)))


@dataclass(slots=True)
class _Branch:
    guard: DiversityGuard
    neighbors: Neighbors
    slot: int
    expires_at: int


@dataclass(slots=True)
class Counts:
    """What the cache did since it began."""

    hits: int = 0
    refreshed: int = 0
    early: int = 0
    lacking: int = 0


class NeighborCache:
    """The neighbor sets of this host.

    Args:
        source: The mapping.
        settings: How long sets are kept, and when they are asked for early.
        seed: What the jitter is drawn from; a host's own, so that hosts differ.
    """

    __slots__ = ("_branches", "_seed", "_settings", "_source", "counts")

    def __init__(self, source: Source, settings: Settings, seed: bytes) -> None:
        self._source = source
        self._settings = settings
        self._seed = seed
        self._branches: OrderedDict[Hashable, _Branch] = OrderedDict()
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._branches)

    def neighbors(self, branch: Hashable, slot: int, now: int, slot_length: int) -> Neighbors:
        """The neighbor set of a branch, from the cache while it is fresh.

        Args:
            branch: What the mapping tells apart, a leader or a group of shreds.
            slot: The present slot.
            now: ns.
            slot_length: ns.
        """
        kept = self._branches.get(branch)
        if kept is not None and now < kept.expires_at and slot >= kept.slot:
            self.counts.hits += 1
            self._branches.move_to_end(branch)
            return kept.neighbors
        return self._refresh(branch, kept, slot, now, slot_length)

    def report(
        self, branch: Hashable, slot: int, *, loss_permille: int = 0, ce_permille: int = 0
    ) -> bool:
        """Takes in how a branch fared in a slot.

        Args:
            branch: The branch.
            slot: The slot that is told of. What happened before the set was asked for says nothing
                about it; so there is one early refresh a slot at most.
            loss_permille: Lost packets, in thousandths.
            ce_permille: Marked packets, in thousandths.

        Returns:
            Whether the set will be asked for anew with its next use.
        """
        kept = self._branches.get(branch)
        poor = (
            loss_permille >= self._settings.loss_permille
            or ce_permille >= self._settings.ce_permille
        )
        if kept is None or not poor or slot < kept.slot or not kept.expires_at:
            return False
        kept.expires_at = 0
        self.counts.early += 1
        return True

    def due(self, now: int) -> Iterator[Hashable]:
        """The branches whose sets are no longer fresh: to be asked for ahead of their next use."""
        return (branch for branch, kept in self._branches.items() if now >= kept.expires_at)

    def _refresh(
        self, branch: Hashable, kept: _Branch | None, slot: int, now: int, slot_length: int
    ) -> Neighbors:
        settings = self._settings
        found = self._source.neighbors(branch, slot)
        guard = kept.guard if kept else DiversityGuard(settings.parents_least, settings.window)
        guard.saw(slot, found.parents)
        found = replace(found, standbys=self._standbys(branch, slot, guard, found))
        expires_at = now + self._ttl(branch, slot, slot_length)
        self._branches[branch] = _Branch(guard, found, slot, expires_at)
        self._branches.move_to_end(branch)
        if len(self._branches) > settings.branches_most:
            self._branches.popitem(last=False)
        self.counts.refreshed += 1
        return found

    def _standbys(
        self, branch: Hashable, slot: int, guard: DiversityGuard, found: Neighbors
    ) -> tuple[bytes, ...]:
        lacking = guard.lacking(slot)
        if not lacking:
            return ()
        self.counts.lacking += 1
        known = guard.distinct(slot)
        new = (peer for peer in self._source.candidates(branch, slot) if peer not in known)
        distinct = dict.fromkeys(new)
        return tuple(distinct)[: min(lacking, self._settings.standbys_most)]

    def _ttl(self, branch: Hashable, slot: int, slot_length: int) -> int:
        """From `ttl_least` to `ttl_most` slots, and up to one more of jitter; ns."""
        draw = _draws(self._seed + repr((branch, slot)).encode())
        span = self._settings.ttl_most - self._settings.ttl_least + 1
        slots = self._settings.ttl_least + next(draw) % span
        return slots * slot_length + next(draw) % slot_length


def _draws(seed: bytes) -> Iterator[int]:
    """Numbers of 128 bits that follow from a seed alone."""
    hasher = blake3(seed)
    at = 0
    while True:
        yield int.from_bytes(hasher.digest(length=_DRAW_LEN, seek=at), "big")
        at += _DRAW_LEN


def stake_order(seed: bytes, stakes: Mapping[bytes, int]) -> list[bytes]:
    """All validators in an order that follows from the seed, the higher staked rather first.

    Each place goes to one of those that are left, with a probability in proportion to its stake;
    those without stake come last, each as likely as the other. The order of `stakes` is of no
    account.

    Raises:
        InvalidArgument: A stake is negative, or all together reach 2^64.
    """
    if any(stake < 0 for stake in stakes.values()) or sum(stakes.values()) >= 1 << 64:
        raise InvalidArgument("stakes", "needs 0 or more each, and less than 2^64 together")
    draws = _draws(seed)
    staked = sorted(peer for peer, stake in stakes.items() if stake)
    unstaked = sorted(peer for peer, stake in stakes.items() if not stake)
    order = _drawn(staked, [stakes[peer] for peer in staked], draws)
    return order + _drawn(unstaked, [1] * len(unstaked), draws)


def _drawn(peers: list[bytes], weights: list[int], draws: Iterator[int]) -> list[bytes]:
    """Draws all peers without putting them back; O(n log n), by a Fenwick tree of what is left."""
    size = 1 << len(peers).bit_length()
    sums = [0, *weights] + [0] * (size - len(weights))
    for at in range(1, size + 1):
        parent = at + (at & -at)
        if parent <= size:
            sums[parent] += sums[at]
    left = sum(weights)
    order = []
    for _ in peers:
        rest = next(draws) % left
        at, step = 0, size
        while step:
            if at + step <= size and sums[at + step] <= rest:
                at += step
                rest -= sums[at]
            step >>= 1
        order.append(peers[at])
        left -= weights[at]
        place = at + 1
        while place <= size:
            sums[place] -= weights[at]
            place += place & -place
    return order


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of fixed fanout: the first of the order is the root, the next `fanout` its children.

    Attributes:
        order: Validators, each once.
        fanout: Children of each; 200 in Turbine.

    Raises:
        InvalidArgument: There is nobody, or the fanout is 0.
    """

    order: tuple[bytes, ...]
    fanout: int

    def __post_init__(self) -> None:
        if not self.order or self.fanout < 1:
            raise InvalidArgument("order", "needs a validator, and a fanout of 1 or more")

    def neighbors(self, peer: bytes) -> Neighbors:
        """Whom a validator hears, and whom it sends to.

        Raises:
            InvalidArgument: It is not in the tree.
        """
        if peer not in self.order:
            raise InvalidArgument("peer", "is not in the tree")
        at = self.order.index(peer)
        parents = (self.order[(at - 1) // self.fanout],) if at else ()
        first = at * self.fanout + 1
        return Neighbors(parents, self.order[first : first + self.fanout])

    @property
    def depth(self) -> int:
        """Hops from the root to the farthest."""
        depth, at = 0, len(self.order) - 1
        while at:
            at = (at - 1) // self.fanout
            depth += 1
        return depth
