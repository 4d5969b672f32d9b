# SPDX-License-Identifier: Apache-2.0
"""The search for a path's MTU, over a path in virtual time that swallows what it likes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.pmtu import (
    SECOND,
    PathMtu,
    Paths,
    Settings,
    State,
    room,
    segments,
)
from assent.numiport.profiles import Mtu

RTT = SECOND // 100
JUMBO = Settings(most=8972)


class Path:
    """A peer that acknowledges what arrives, behind a path that says what may pass.

    Claims throughout: a size above the base is used only after a probe of it has arrived.
    """

    def __init__(
        self,
        passes: Callable[[int], bool],
        settings: Settings | None = None,
        *,
        mtu: int | None = None,
        loss: float = 0,
        seed: int = 1,
        hint: int | None = None,
    ) -> None:
        self.passes = passes
        self.settings = settings or Settings()
        self.mtu = mtu
        self.loss = loss
        self.random = random.Random(seed)
        self.now = 1_000 * SECOND
        self.path = PathMtu(self.settings, self.now, hint)
        self.arrived = {self.settings.base, self.settings.least}
        self.probes: list[int] = []
        self.sizes: list[int] = [self.path.size]

    def _arrives(self, size: int) -> bool:
        return self.passes(size) and self.random.random() >= self.loss

    def run(self, seconds: float, data: Iterable[int] = ()) -> None:
        """Lets time pass; each tenth of a second data of these sizes go out, where they fit."""
        end = self.now + int(seconds * SECOND)
        data_at = self.now
        sizes = tuple(data)
        while self.now < end:
            self._probe()
            if sizes and self.now >= data_at:
                data_at += SECOND // 10
                self._data(sizes)
            next_at = self.path.next_deadline()
            self.now = max(min(next_at, data_at if sizes else end, end), self.now + RTT)
        self._probe()

    def _probe(self) -> None:
        for _ in range(64):
            probe = self.path.probe(self.now)
            if probe is None:
                break
            self.probes.append(probe.size)
            if self.mtu is not None and probe.size > self.mtu:
                self.path.refused(probe.size, self.now)
            elif self._arrives(probe.size):
                self.now += RTT
                self.arrived.add(probe.size)
                assert self.path.acked(probe.id, self.now)
            self._watch()
        else:
            pytest.fail("it probes without end")

    def _data(self, sizes: Iterable[int]) -> None:
        for wanted in sizes:
            size = min(wanted, self.path.size)
            if self._arrives(size):
                self.path.data_acked(size, self.now)
            else:
                self.path.data_lost(size, self.now)
            self._watch()

    def _watch(self) -> None:
        if self.path.size != self.sizes[-1]:
            self.sizes.append(self.path.size)
        assert self.path.size in self.arrived
        assert self.settings.least <= self.path.size <= self.settings.most
        assert len(self.path.failed) <= 32


def up_to(limit: int) -> Callable[[int], bool]:
    return lambda size: size <= limit


def test_the_base_is_used_before_anything_is_known() -> None:
    path = PathMtu(Settings(), 0)
    assert (path.state, path.size) == (State.BASE, 1200)
    probe = path.probe(0)
    assert probe is not None
    assert probe.size == 1200


def test_an_ordinary_path_takes_two_probes() -> None:
    world = Path(up_to(1472))
    world.run(1)
    assert world.probes == [1200, 1472]
    assert (world.path.state, world.path.size) == (State.COMPLETE, 1472)
    assert world.sizes == [1200, 1472]


def test_a_jumbo_cap_over_ordinary_ethernet() -> None:
    world = Path(up_to(1472), JUMBO)
    world.run(60)
    assert world.path.size == 1472
    assert world.probes[:5] == [1200, 8972, 8972, 8972, 1472]


@given(limit=st.integers(1200, 9100))
def test_a_black_hole_of_all_that_is_larger(limit: int) -> None:
    world = Path(up_to(limit), JUMBO)
    world.run(50, data=[1000])
    assert world.path.state is State.COMPLETE
    assert min(limit, 8972) - JUMBO.step < world.path.size <= min(limit, 8972)
    assert world.path.counts.black_holes == 0


@given(first=st.integers(1201, 1472), length=st.integers(1, 200))
def test_a_black_hole_of_chosen_sizes_is_avoided_by_probes(first: int, length: int) -> None:
    world = Path(lambda size: not first <= size < first + length)
    world.run(120)
    assert world.passes(world.path.size)
    assert world.path.size >= first - Settings().step


def test_data_of_a_size_that_is_swallowed_find_the_hole() -> None:
    world = Path(lambda size: not 1300 <= size < 1350)
    world.run(1)
    assert world.path.size == 1472
    world.run(10, data=[1310])
    assert 1292 < world.path.size < 1300
    assert world.path.counts.black_holes == 1
    assert 1310 in world.path.failed


def test_a_size_that_fails_again_is_avoided_for_twice_as_long() -> None:
    world = Path(lambda size: not 1300 <= size < 1350)
    falls = []
    for _ in range(6000):
        before = world.path.counts.black_holes
        world.run(0.5, data=[1310])
        if world.path.counts.black_holes > before:
            falls.append(world.now)
    apart = [(b - a) / SECOND for a, b in itertools.pairwise(falls)]
    assert 60 <= apart[0] < 130
    assert apart[1] > 1.5 * apart[0]
    assert apart[2] > 1.5 * apart[1]
    assert max(apart) < 700


def test_the_path_shrinks_and_data_tell() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.passes = up_to(1400)
    world.run(20, data=[1472])
    assert 1392 < world.path.size <= 1400
    assert world.path.counts.black_holes == 1


def test_the_path_shrinks_while_a_search_is_on() -> None:
    world = Path(up_to(5000), JUMBO)
    world.run(3)
    assert world.path.state is State.SEARCHING
    world.run(10)
    assert world.path.size > 1472
    world.passes = up_to(1300)
    world.run(12, data=[9000])
    assert world.path.size <= 1300


def test_the_path_shrinks_and_nobody_says_anything() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.passes = up_to(1300)
    world.run(90)
    assert 1292 < world.path.size <= 1300


def test_the_path_shrinks_below_the_base_and_comes_back() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.passes = up_to(700)
    world.run(90)
    assert (world.path.state, world.path.size) == (State.ERROR, 512)
    assert world.path.remembered == 1200
    world.passes = up_to(1472)
    world.run(200)
    assert (world.path.state, world.path.size) == (State.COMPLETE, 1472)


def test_the_path_grows_and_is_found_larger() -> None:
    world = Path(up_to(1300))
    world.run(120)
    assert world.path.size <= 1300
    world.passes = up_to(1472)
    world.run(1200)
    assert world.path.size == 1472
    assert world.path.counts.black_holes == 0


@given(seed=st.integers(0, 10_000))
def test_loss_of_probes_is_no_black_hole_for_long(seed: int) -> None:
    world = Path(up_to(1472), loss=0.3, seed=seed)
    world.run(1800)
    assert world.path.size > 1200
    world.loss = 0
    world.run(1300)
    assert (world.path.state, world.path.size) == (State.COMPLETE, 1472)


@given(seed=st.integers(0, 1_000))
def test_loss_of_data_and_probes_does_not_stop_the_search(seed: int) -> None:
    world = Path(up_to(1472), loss=0.1, seed=seed)
    world.run(30, data=[1472, 1300, 600])
    assert world.path.size >= 1300
    assert len(world.probes) < 100


def test_two_lost_probes_of_three_change_nothing() -> None:
    path = PathMtu(Settings(), 0)
    now = 0
    for answer in (False, False, True, False, False, True):
        probe = path.probe(now)
        assert probe is not None
        assert path.probe(now) is None
        if answer:
            assert path.acked(probe.id, now)
        now += SECOND
    assert (path.state, path.size) == (State.COMPLETE, 1472)
    assert (path.counts.lost, path.failed) == (4, ())


def test_an_answer_to_any_try_of_the_same_size_counts() -> None:
    path = PathMtu(Settings(), 0)
    first, second = path.probe(0), path.probe(SECOND)
    assert first is not None
    assert second is not None
    assert first.size == second.size
    assert path.acked(first.id, SECOND)
    assert not path.acked(second.id, SECOND)
    assert path.state is State.SEARCHING


def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    path = PathMtu(Settings(), 0)
    assert not path.acked(1, 0)
    assert not path.acked(77, 0)
    assert (path.state, path.size, path.counts.acked) == (State.BASE, 1200, 0)


@given(mtu=st.integers(1200, 1472))
def test_the_kernel_refuses_and_no_time_is_lost(mtu: int) -> None:
    world = Path(lambda _: True, mtu=mtu)
    start = world.now
    world.run(0.5)
    assert world.path.state is State.COMPLETE
    assert mtu - 8 < world.path.size <= mtu
    assert world.now - start < SECOND
    assert world.path.counts.lost == 0


def test_data_that_the_kernel_refuses_lower_the_size_at_once() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.path.refused(1472, world.now)
    assert (world.path.state, world.path.size) == (State.BASE, 1200)
    world.mtu = 1400
    world.run(1)
    assert 1392 < world.path.size <= 1400


def test_a_refusal_below_the_base_ends_in_error() -> None:
    world = Path(lambda _: True, mtu=1000)
    world.run(5)
    assert (world.path.state, world.path.size) == (State.ERROR, 512)
    assert len(world.probes) < 10
    world.path.refused(512, world.now)
    assert world.path.size == 512


def test_what_the_kernel_says_of_the_path_is_probed_first() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.passes = up_to(1360)
    world.path.too_big(1360, world.now)
    assert world.path.size == 1200
    del world.probes[:]
    world.run(1)
    assert world.probes == [1200, 1360]
    assert world.path.size == 1360


def test_a_forged_word_of_the_path_costs_one_search() -> None:
    world = Path(up_to(1472))
    world.run(1)
    for told in (-1, 0, 68, 511, 1472, 1473, 1 << 40):
        world.path.too_big(told, world.now)
        assert (world.path.state, world.path.size) == (State.COMPLETE, 1472)
    world.path.too_big(600, world.now)
    assert world.path.size == 1200
    world.run(130)
    assert world.path.size == 1472


def test_a_word_of_the_path_stops_probes_beyond_it() -> None:
    world = Path(up_to(1472), JUMBO)
    assert world.path.acked(world.path.probe(world.now).id, world.now)  # type: ignore[union-attr]
    probe = world.path.probe(world.now)
    assert probe is not None
    assert probe.size == 8972
    world.path.too_big(1472, world.now)
    world.run(0.5)
    assert world.path.size == 1472


def test_what_was_remembered_is_tried_first_and_not_believed() -> None:
    world = Path(up_to(1400), JUMBO, hint=1396)
    world.run(0.5)
    assert world.probes[:2] == [1200, 1396]
    assert world.path.size == 1396
    for lie in (0, -5, 1201, 8973, 65535):
        world = Path(up_to(1400), JUMBO, hint=lie)
        world.run(0.1)
        assert world.path.size == 1200


def test_the_peers_word_shortens_the_next_search() -> None:
    world = Path(up_to(1400), JUMBO)
    world.path.hint(1400)
    world.run(0.5)
    assert world.path.size == 1400


def test_data_that_arrive_spare_the_confirmation() -> None:
    world = Path(up_to(1472), Settings(raise_after=600 * SECOND))
    world.run(1)
    del world.probes[:]
    world.run(590, data=[1472])
    assert world.probes == []
    assert world.path.next_deadline() > world.now


def test_loss_at_the_base_says_nothing() -> None:
    world = Path(up_to(1472))
    world.run(1)
    before = len(world.probes)
    for size in (1, 1200, 1473, 9000):
        world.path.data_lost(size, world.now)
    world.run(1)
    assert len(world.probes) == before


def test_data_that_arrive_clear_a_doubt() -> None:
    world = Path(up_to(1472))
    world.run(1)
    world.path.data_lost(1400, world.now)
    probe = world.path.probe(world.now)
    assert probe is not None
    assert probe.size == 1400
    world.path.data_acked(1472, world.now)
    assert world.path.probe(world.now + SECOND) is None
    assert world.path.size == 1472


def test_failed_sizes_are_bounded() -> None:
    path = PathMtu(JUMBO, 0)
    for told in range(8000, 7000, -1):
        path.too_big(told, 0)
    assert len(path.failed) == 32


def test_paths_are_bounded_and_remembered() -> None:
    paths = Paths(Settings(), most=2)
    for peer in (b"a", b"b", b"c"):
        path = paths.path(peer, 0)
        for now in (0, 1):
            probe = path.probe(now)
            assert probe is not None
            assert path.acked(probe.id, now)
    assert [peer for peer, _ in paths] == [b"b", b"c"]
    assert paths.remembered() == {b"a": 1472, b"b": 1472, b"c": 1472}
    paths.gone(b"b")
    paths.gone(b"b")
    assert len(paths) == 1
    again = Paths(Settings(most=8972), most=2, remembered=paths.remembered())
    path = again.path(b"c", 0)
    probe = path.probe(0)
    assert probe is not None
    assert path.acked(probe.id, 0)
    probe = path.probe(0)
    assert probe is not None
    assert probe.size == 1472
    assert len(paths.remembered()) <= 4


@pytest.mark.parametrize(
    ("size", "length", "most"),
    [(1472, 1300, 50), (1472, 1472, 44), (1472, 1473, 0), (1472, 0, 0), (1472, 100, 64)],
)
def test_segments_stay_within_the_path_and_the_datagram(size: int, length: int, most: int) -> None:
    assert segments(size, length) == most
    assert segments(size, length) * length <= 65_507


def test_a_profile_says_how_far_to_search() -> None:
    settings = Settings.of(Mtu(base_payload=1300, most_payload=60_000, probe_interval_ns=1_000_000))
    assert (settings.base, settings.most, settings.raise_after) == (1300, 8972, SECOND)


def test_what_an_mtu_leaves() -> None:
    assert (room(1500, 4), room(1500, 6), room(20, 4)) == (1472, 1452, 0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("most", {"most": 1199}),
        ("most", {"least": 0}),
        ("most", {"base": 100}),
        ("most", {"most": 8973}),
        ("max_probes", {"max_probes": 0}),
        ("max_probes", {"step": 0}),
        ("probe_after", {"probe_after": SECOND - 1}),
        ("probe_after", {"raise_after": SECOND - 1}),
        ("avoid", {"avoid": 0}),
        ("avoid", {"avoid_most": 1}),
    ],
)
def test_settings_that_contradict_each_other(field: str, values: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Settings(**values)
    assert refused.value.field == field


def test_paths_need_room_for_one() -> None:
    with pytest.raises(InvalidArgument):
        Paths(Settings(), most=0)
