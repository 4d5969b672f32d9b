# SPDX-License-Identifier: Apache-2.0
"""Who is there, and who is known: local cells, few and many; the bloom filter; what pairs count."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER, DEFAULT, PROFILES, Profile
from assent.dataplane.tables import GateConfig
from assent.dataplane.tables.bloom import BITS_A_PAIR, LEAST_WORDS
from assent.wire.cellid import CellID

MANY = Profile(
    "many", locals=64, sessions=8192, connections=4, flows=16, replay_chunks=32, tallies=4
)


def cell(number: int) -> CellID:
    return CellID(b"cell" + number.to_bytes(12, "big"))


@pytest.fixture
def roomy() -> Iterator[Gate]:
    with Gate.private(MANY) as gate:
        yield gate


class TestLocals:
    def known(self, rig: Any, dst: CellID) -> bool:
        verdict, _ = rig.run(rig.frame(dst=dst))
        assert verdict in {"unknown_destination", "unknown_source"}
        return bool(verdict == "unknown_source")

    @pytest.mark.parametrize("count", [1, 3, 4, 5, 20])
    def test_several_on_one_host(self, rig: Any, count: int) -> None:
        rig.tables.locals.delete(rig.local)
        for number in range(count):
            rig.tables.locals.put(cell(number), number)
        assert [self.known(rig, cell(number)) for number in range(count + 2)] == (
            [True] * count + [False] * 2
        )
        for number in range(count):
            rig.tables.locals.delete(cell(number))
            left = [self.known(rig, cell(other)) for other in range(count)]
            assert left == [other > number for other in range(count)]

    def test_in_any_order(self, rig: Any) -> None:
        """What config[0] says is at every step what the table says."""
        dice = random.Random(5)
        present = {rig.local}
        cells = [cell(number) for number in range(8)]
        for _ in range(200):
            one = dice.choice(cells)
            if one in present:
                rig.tables.locals.delete(one)
                present.discard(one)
            else:
                rig.tables.locals.put(one, dice.randrange(100))
                present.add(one)
            assert {each for each in cells if self.known(rig, each)} == present - {rig.local}
            assert {row.cell for row in rig.tables.locals.list()} == present
            assert not rig.tables.locals.settle()

    def test_each_has_sessions_of_its_own(self, rig: Any) -> None:
        rig.tables.locals.put(cell(1), 1)
        rig.refuse(rig.frame(dst=cell(1)), "unknown_source")
        rig.tables.sessions.provision(rig.remote, cell(1), rig.admission_key, covenanted=True)
        rig.refuse(rig.frame(dst=cell(1)), "no_session")
        session = rig.tables.sessions.install(rig.spec(local=cell(1), session_id=9))
        rig.tables.flows.set_open(rig.tables.flows.slot_of(session, 1), True)
        rig.admit(rig.frame(dst=cell(1)))
        rig.admit(rig.frame())

    def test_the_rates_stay_as_they_are(self, rig: Any) -> None:
        config = GateConfig(event_interval=5, control_burst=6)
        rig.tables.config.write(config)
        rig.tables.locals.put(cell(1), 1)
        assert rig.tables.config.read() == config

    def test_what_another_hand_did_is_put_right(self, rig: Any) -> None:
        rig.tables.config.change(home_count=0)
        rig.refuse(rig.frame(), "unknown_destination")
        assert rig.tables.locals.settle()
        rig.admit(rig.frame())


def fill(gate: Gate, count: int, local: CellID) -> None:
    for number in range(count):
        gate.tables.sessions.provision(cell(number), local, bytes(16), covenanted=True)


class TestBloom:
    local = CellID(b"L" * 16)

    def strangers(self, gate: Gate, count: int) -> float:
        """The part of random strangers that the filter lets through to the exact table."""
        bloom, config = gate.tables.bloom, gate.tables.config.record()
        pairs = b"".join(secrets.token_bytes(16) + bytes(self.local) for _ in range(count))
        return float(bloom.passed(pairs) / count) if config.bloom else 1.0

    def test_lets_everybody_through_that_is_known(self, roomy: Gate) -> None:
        fill(roomy, 3000, self.local)
        pairs = b"".join(bytes(cell(number)) + bytes(self.local) for number in range(3000))
        assert roomy.tables.bloom.passed(pairs) == 3000

    @pytest.mark.parametrize("count", [1, 500, 2048])
    def test_turns_strangers_away(self, roomy: Gate, count: int) -> None:
        fill(roomy, count, self.local)
        assert roomy.tables.bloom.words == LEAST_WORDS
        assert self.strangers(roomy, 100_000) < 0.012
        assert abs(self.strangers(roomy, 100_000) - roomy.tables.bloom.rate) < 0.004

    def test_grows_with_its_pairs(self, roomy: Gate) -> None:
        fill(roomy, 2049, self.local)
        assert roomy.tables.bloom.words == 2 * LEAST_WORDS
        fill(roomy, 4097, self.local)
        assert roomy.tables.bloom.words == 4 * LEAST_WORDS
        assert self.strangers(roomy, 100_000) < 0.012

    def test_forgets_who_leaves(self, roomy: Gate) -> None:
        fill(roomy, 400, self.local)
        full = roomy.tables.bloom.fill
        for number in range(300):
            roomy.tables.sessions.delete(cell(number), self.local)
        # With the first of them, or when it is told to: to wait for readers each time takes long.
        assert roomy.tables.sessions.tidy()
        assert not roomy.tables.sessions.tidy()
        assert roomy.tables.bloom.fill < full / 3
        pairs = b"".join(bytes(cell(number)) + bytes(self.local) for number in range(300))
        assert roomy.tables.bloom.passed(pairs) < 15
        kept = b"".join(bytes(cell(number)) + bytes(self.local) for number in range(300, 400))
        assert roomy.tables.bloom.passed(kept) == 100

    def test_halves_take_turns(self, roomy: Gate) -> None:
        halves = set()
        for number in range(4):
            fill(roomy, number + 1, self.local)
            roomy.tables.sessions.delete(cell(number), self.local)
            roomy.tables.sessions.tidy()
            halves.add(roomy.tables.config.record().bloom >> 32)
        assert halves == {0, roomy.map("bloom").max_entries // 2}

    def test_without_a_word_of_it_nobody_is_known(self, rig: Any) -> None:
        words = rig.gate.map("bloom")
        for number in range(words.max_entries):
            words.update(number.to_bytes(4, "little"), bytes(8))
        rig.refuse(rig.frame(), "unknown_source")

    def test_beyond_the_map_nobody_is_known(self, rig: Any) -> None:
        rig.tables.config.change(bloom=(rig.gate.map("bloom").max_entries << 32) | 511)
        rig.refuse(rig.frame(), "unknown_source")

    def test_its_seed_is_the_gates_own(self) -> None:
        seeds = set()
        for _ in range(2):
            with Gate.private(MANY) as gate:
                assert len(gate.tables.sessions) == 0
                seeds.add(gate.tables.config.record().bloom_seed)
        assert len(seeds) == 2

    @pytest.mark.parametrize("name", PROFILES)
    def test_profiles_have_room_for_all_their_pairs(self, name: str) -> None:
        profile = PROFILES[name]
        words = profile.capacities()["bloom"] // 2
        assert words >= LEAST_WORDS
        assert words & (words - 1) == 0
        assert words * 64 >= profile.sessions * BITS_A_PAIR or words == LEAST_WORDS

    def test_the_default_is_four_kibibytes_until_more_is_needed(self) -> None:
        assert LEAST_WORDS * 64 == 1 << 15
        assert DEFAULT.bloom_words == 1 << 14


class TestTallies:
    def tally(self, rig: Any, remote: CellID) -> dict[str, int]:
        entry = rig.tables.sessions.get(remote, rig.local)
        return dict(rig.tables.tallies.read(entry.tally).frames)

    def test_each_pair_has_its_own(self, rig: Any) -> None:
        rig.admit(rig.frame(seq=1, payload_len=100))
        rig.admit(rig.frame(seq=2))
        rig.run(rig.frame(seq=2))
        rig.run(rig.handshake(flip=1))
        rig.run(rig.frame(src=rig.stranger))
        assert self.tally(rig, rig.remote) == {"admitted": 2, "replay": 1}
        assert self.tally(rig, rig.guest) == {"bad_tag": 1}
        entry = rig.tables.sessions.get(rig.remote, rig.local)
        assert rig.tables.tallies.read(entry.tally).bytes == 14 * 2 + 64 + 128 + 64

    def test_begins_at_zero_for_the_next_pair(self, rig: Any) -> None:
        rig.run(rig.handshake(flip=1))
        rig.tables.sessions.delete(rig.guest, rig.local)
        rig.tables.sessions.provision(rig.stranger, rig.local, rig.admission_key, covenanted=True)
        assert self.tally(rig, rig.stranger) == {}

    def test_more_pairs_than_tallies_share_one(self, roomy: Gate) -> None:
        fill(roomy, 10, cell(99))
        slots = [entry.tally for entry in roomy.tables.sessions.list()]
        assert sorted(slots) == [0] * 6 + [1, 2, 3, 4]


class TestInterfaces:
    def test_count_on_their_own(self, rig: Any) -> None:
        """The loopback is interface 1 of every network namespace."""
        rig.run(rig.frame(flip=1))
        block = rig.tables.counters.give_block(1)
        assert block == rig.tables.counters.give_block(1) != 0
        before = rig.tables.counters.by_interface()
        rig.run(rig.frame(flip=1))
        after = rig.tables.counters.by_interface()
        assert (before[0]["bad_tag"].frames, before[1]["bad_tag"].frames) == (1, 0)
        assert (after[0]["bad_tag"].frames, after[1]["bad_tag"].frames) == (1, 1)
        assert rig.tables.counters.read()["bad_tag"].frames == 2

    def test_share_the_last_resort(self, rig: Any) -> None:
        given = [rig.tables.counters.give_block(ifindex) for ifindex in range(1, 16)]
        assert given == [*range(1, CHAPTER.interfaces + 1), *[0] * (15 - CHAPTER.interfaces)]

    def test_any_number_will_do_but_for_a_slot_that_is_taken(self, rig: Any) -> None:
        counters, slots = rig.tables.counters, rig.gate.map("interfaces").max_entries
        assert counters.give_block(5 * slots + 1) == 1
        assert counters.give_block(5 * slots + 1) == 1
        assert counters.give_block(1) == 0
        rig.run(rig.frame(flip=1))  # on interface 1
        found = counters.by_interface()
        assert (found[0]["bad_tag"].frames, found[5 * slots + 1]["bad_tag"].frames) == (1, 0)


class TestEvents:
    """Every refused frame is told or counted as suppressed; filters and rate are the kernel's."""

    def counts(self, rig: Any, reason: str) -> tuple[int, int, int]:
        totals = rig.tables.counters.read()[reason]
        return totals.frames, totals.events, totals.suppressed

    def test_nobody_listens(self, rig: Any) -> None:
        rig.listen([])
        with rig.tables.events() as ring:
            for _ in range(5):
                rig.run(rig.frame(flip=1))
            assert ring.read() == []
        assert self.counts(rig, "bad_tag") == (5, 0, 5)

    def test_by_reason(self, rig: Any) -> None:
        rig.listen(["replay"])
        with rig.tables.events() as ring:
            rig.run(rig.frame(flip=1))
            rig.run(rig.frame(seq=0))
            assert [event.reason for event in ring.read()] == ["replay"]

    def test_by_cell(self, rig: Any) -> None:
        rig.tables.config.write(GateConfig(event_interval=0))
        rig.listen(None, rig.stranger, rig.guest)
        with rig.tables.events() as ring:
            rig.run(rig.frame(flip=1))
            rig.run(rig.frame(src=rig.stranger))
            rig.run(rig.frame(dst=rig.stranger))
            rig.run(rig.handshake(flip=1))
            rig.run(rig.frame(length=20))
            assert len(ring.read()) == 3
        assert self.counts(rig, "bad_tag") == (2, 1, 1)
        assert self.counts(rig, "malformed_length") == (1, 0, 1)

    def test_more_cells_than_there_is_room_for_are_all(self, rig: Any) -> None:
        rig.listen(None, *(cell(number) for number in range(5)))
        with rig.tables.events() as ring:
            rig.run(rig.frame(flip=1))
            assert len(ring.read()) == 1

    def test_an_event_says_how_many_were_not_told(self, rig: Any) -> None:
        rig.listen([])
        for _ in range(7):
            rig.run(rig.frame(flip=1))
        rig.listen()
        with rig.tables.events() as ring:
            while not (told := ring.read()):
                rig.run(rig.frame(flip=1))
        frames, events, suppressed = self.counts(rig, "bad_tag")
        assert events + suppressed == frames
        # Each CPU tells of its own; the kernel may have run the frames on several.
        assert told[-1].suppressed <= suppressed

    def test_a_full_ring_counts_as_suppressed(self, rig: Any) -> None:
        rig.tables.config.write(GateConfig(event_interval=0))
        with rig.tables.events() as ring:
            rig.gate.program.test_run(rig.frame(flip=1), repeat=5000)
            told = len(ring.read(10_000))
        frames, events, suppressed = self.counts(rig, "bad_tag")
        assert (frames, events + suppressed) == (5000, 5000)
        assert told == events < 5000
