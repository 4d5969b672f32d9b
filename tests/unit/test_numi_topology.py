# SPDX-License-Identifier: Apache-2.0
"""Neighbor sets: how long they are kept, when they are asked for early, how diverse they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.profiles import Neighbors as Section
from assent.numiport.topology import (
    DiversityGuard,
    NeighborCache,
    Neighbors,
    Settings,
    Tree,
    stake_order,
)

SLOT = 400_000_000


def peer(number: int) -> bytes:
    return number.to_bytes(4, "big")


@dataclass
class Mapping:
    """Parents by slot; everybody from 0 to 9 is a candidate."""

    parents: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    asked: list[tuple[Hashable, int]] = field(default_factory=list)

    def neighbors(self, branch: Hashable, slot: int) -> Neighbors:
        self.asked.append((branch, slot))
        return Neighbors(self.parents.get(slot, (peer(1),)), (peer(20), peer(21)))

    def candidates(self, branch: Hashable, slot: int) -> Sequence[bytes]:
        del branch, slot
        return [peer(number) for number in (1, 2, 2, 3, 4, 5, 6, 7, 8, 9)]


def cached(
    mapping: Mapping, settings: Settings | None = None, seed: bytes = b"me"
) -> NeighborCache:
    return NeighborCache(mapping, settings or Settings(), seed)


def life(cache: NeighborCache, mapping: Mapping, branch: Hashable) -> int:
    """How long the set that is asked for at 0 is kept, in hundredths of a slot."""
    cache.neighbors(branch, 0, 0, SLOT)
    before = len(mapping.asked)
    hundredths = 0
    while len(mapping.asked) == before:
        hundredths += 1
        cache.neighbors(branch, hundredths // 100, hundredths * SLOT // 100, SLOT)
    return hundredths


def test_a_set_is_kept_for_two_to_four_slots_and_a_jitter() -> None:
    lives = []
    for number in range(200):
        mapping = Mapping()
        lives.append(life(cached(mapping, seed=peer(number)), mapping, "leader"))
    assert min(lives) >= 200
    assert max(lives) <= 501
    assert len(set(lives)) > 50
    assert min(lives) < 250
    assert max(lives) > 450


def test_the_same_host_does_the_same_again() -> None:
    lives = set()
    for _ in range(3):
        mapping = Mapping()
        lives.add(life(cached(mapping), mapping, "leader"))
    assert len(lives) == 1


def test_branches_are_kept_apart() -> None:
    mapping = Mapping()
    cache = cached(mapping)
    for branch in ("a", "b", "a", "b"):
        cache.neighbors(branch, 0, 0, SLOT)
    assert mapping.asked == [("a", 0), ("b", 0)]
    assert (cache.counts.hits, cache.counts.refreshed) == (2, 2)


@pytest.mark.parametrize(
    ("report", "early"),
    [
        ({"loss_permille": 100}, True),
        ({"ce_permille": 20}, True),
        ({"loss_permille": 99, "ce_permille": 19}, False),
        ({}, False),
    ],
)
def test_loss_and_marks_refresh_early(report: dict[str, int], early: bool) -> None:
    mapping = Mapping()
    cache = cached(mapping)
    cache.neighbors("a", 5, 0, SLOT)
    assert cache.report("a", 5, **report) is early
    assert list(cache.due(1)) == (["a"] if early else [])
    cache.neighbors("a", 6, 1, SLOT)
    assert len(mapping.asked) == 1 + early
    assert cache.counts.early == early


def test_a_storm_of_reports_is_one_refresh_a_slot() -> None:
    mapping = Mapping()
    cache = cached(mapping)
    cache.neighbors("a", 5, 0, SLOT)
    for now in range(100):
        cache.report("a", 5, loss_permille=500)
        cache.neighbors("a", 6, now, SLOT)
    assert mapping.asked == [("a", 5), ("a", 6)]
    assert not cache.report("unknown", 5, loss_permille=1000)


def test_what_the_mapping_says_stays_and_standbys_come_besides() -> None:
    mapping = Mapping()
    found = cached(mapping).neighbors("a", 0, 0, SLOT)
    assert found == Neighbors((peer(1),), (peer(20), peer(21)), (peer(2),))


def test_a_profile_says_the_same_as_the_defaults() -> None:
    assert Settings.of(Section()) == Settings()
    settings = Settings.of(Section(ttl_least_slots=3, ttl_most_slots=3, parents_least=9))
    assert (settings.ttl_least, settings.ttl_most, settings.parents_least) == (3, 3, 9)


def test_many_parents_need_no_standbys() -> None:
    mapping = Mapping({0: (peer(1), peer(2), peer(3))})
    assert cached(mapping).neighbors("a", 0, 0, SLOT).standbys == ()


def test_parents_of_slots_past_count_for_a_window() -> None:
    mapping = Mapping({0: (peer(1),), 5: (peer(2),), 10: (peer(3),), 40: (peer(4),)})
    cache = cached(mapping, Settings(window=11, parents_least=3))
    standbys = [
        len(cache.neighbors("a", slot, slot * SLOT, SLOT).standbys) for slot in (0, 5, 10, 40)
    ]
    assert standbys == [2, 1, 0, 2]
    assert cache.counts.lacking == 3


def test_standbys_are_bounded_and_none_is_there_twice() -> None:
    mapping = Mapping()
    settings = Settings(parents_least=50, standbys_most=4)
    found = cached(mapping, settings).neighbors("a", 0, 0, SLOT)
    assert found.standbys == (peer(2), peer(3), peer(4), peer(5))
    settings = Settings(parents_least=50, standbys_most=40)
    found = cached(mapping, settings).neighbors("a", 0, 0, SLOT)
    assert len(set(found.standbys)) == len(found.standbys) == 8


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=60), st.integers(1, 9))
def test_the_guard_counts_distinct_parents_of_the_window(
    seen: list[tuple[int, int]], window: int
) -> None:
    guard = DiversityGuard(3, window)
    seen.sort()
    for slot, number in seen:
        guard.saw(slot, [peer(number)])
    for slot in range(21, 30):
        expected = {peer(number) for at, number in seen if slot - window < at <= slot}
        assert guard.distinct(slot) == expected
        assert guard.lacking(slot) == max(0, 3 - len(expected))


def test_branches_are_bounded() -> None:
    mapping = Mapping()
    cache = cached(mapping, Settings(branches_most=3))
    for branch in (0, 1, 2, 0, 3):
        cache.neighbors(branch, 0, 0, SLOT)
    assert len(cache) == 3
    del mapping.asked[:]
    for branch in (0, 2, 3):
        cache.neighbors(branch, 0, 0, SLOT)
    assert mapping.asked == []


def test_a_set_is_not_used_for_a_slot_before_it() -> None:
    mapping = Mapping()
    cache = cached(mapping)
    cache.neighbors("a", 9, 0, SLOT)
    cache.neighbors("a", 8, 0, SLOT)
    assert mapping.asked == [("a", 9), ("a", 8)]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ttl_most", {"ttl_least": 5}),
        ("ttl_most", {"ttl_least": 0}),
        ("parents_least", {"parents_least": 0}),
        ("window", {"window": 0}),
        ("branches_most", {"branches_most": 0}),
        ("standbys_most", {"standbys_most": -1}),
        ("loss_permille", {"loss_permille": 0}),
        ("ce_permille", {"ce_permille": 1001}),
    ],
)
def test_settings_that_leave_nothing(field: str, values: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Settings(**values)
    assert refused.value.field == field


# -- the reference shuffle ------------------------------------------------------------------------


@given(
    stakes=st.dictionaries(st.binary(min_size=1, max_size=4), st.integers(0, 1 << 40), max_size=40),
    seed=st.binary(max_size=8),
)
def test_everybody_has_one_place_and_stake_comes_first(
    stakes: dict[bytes, int], seed: bytes
) -> None:
    order = stake_order(seed, stakes)
    assert sorted(order) == sorted(stakes)
    assert order == stake_order(seed, dict(reversed(stakes.items())))
    staked = [bool(stakes[one]) for one in order]
    assert staked == sorted(staked, reverse=True)


def test_places_go_by_stake() -> None:
    stakes = {b"a": 6, b"b": 3, b"c": 1, b"d": 0}
    firsts = Counter(stake_order(peer(seed), stakes)[0] for seed in range(4000))
    assert abs(firsts[b"a"] - 2400) < 150
    assert abs(firsts[b"b"] - 1200) < 150
    assert abs(firsts[b"c"] - 400) < 100
    assert firsts[b"d"] == 0
    second = Counter(
        order[1] for seed in range(4000) if (order := stake_order(peer(seed), stakes))[0] == b"a"
    )
    assert abs(second[b"b"] / second[b"c"] - 3) < 0.5


@pytest.mark.parametrize("stakes", [{b"a": -1}, {b"a": 1 << 63, b"b": 1 << 63}])
def test_stakes_that_there_are_not(stakes: dict[bytes, int]) -> None:
    with pytest.raises(InvalidArgument):
        stake_order(b"", stakes)


@given(count=st.integers(1, 300), fanout=st.integers(1, 20))
def test_a_tree_reaches_everybody_once(count: int, fanout: int) -> None:
    tree = Tree(tuple(peer(number) for number in range(count)), fanout)
    reached = [tree.order[0]]
    for one in reached:
        found = tree.neighbors(one)
        assert len(found.children) <= fanout
        for child in found.children:
            assert tree.neighbors(child).parents == (one,)
            reached.append(child)
    assert sorted(reached) == sorted(tree.order)
    assert tree.neighbors(tree.order[0]).parents == ()


@pytest.mark.parametrize(("count", "fanout", "depth"), [(1, 200, 0), (201, 200, 1), (202, 200, 2)])
def test_how_deep_a_tree_is(count: int, fanout: int, depth: int) -> None:
    assert Tree(tuple(peer(number) for number in range(count)), fanout).depth == depth


def test_trees_that_there_are_not() -> None:
    with pytest.raises(InvalidArgument):
        Tree((), 2)
    with pytest.raises(InvalidArgument):
        Tree((b"a",), 0)
    with pytest.raises(InvalidArgument):
        Tree((b"a",), 1).neighbors(b"b")
