# SPDX-License-Identifier: Apache-2.0
"""The flow engine behind the real verdict, over a hostile link, in virtual time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import cases

ORDERED, UNORDERED, BEST_EFFORT = range(3)
LONGEST = 1390
"""Bytes of a message that fills a frame."""
FRAME_BLOCKS = 23


def build(source: str) -> Path:
    return cases.build(cases.HERE / source, [*cases.ENGINE_FLAGS, "-lcrypto"], [cases.engine()])


@pytest.fixture(scope="module")
def flow_sim() -> Path:
    return build("flow_sim.c")


def simulate(binary: Path, **scenario: int) -> dict[str, int]:
    arguments = [f"{name}={value}" for name, value in scenario.items()]
    done = subprocess.run([str(binary), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return json.loads(done.stdout)


# -- healthy links --


def test_a_healthy_link_carries_no_nack_and_no_retransmission(flow_sim):
    counts = simulate(flow_sim, messages=4000, size=LONGEST)
    assert counts["read"] == 4000
    assert counts["nacks"] == counts["gaps"] == counts["voids"] == 0
    assert counts["retransmissions"] == 0
    assert counts["no_credit"] == 0
    # One receipt each eighth of the window, and one for the end.
    assert counts["receipts"] <= 4000 * FRAME_BLOCKS / (16384 / 8) + 2
    assert counts["probes"] == 0


@pytest.mark.parametrize("fraction", [2, 4, 32])
def test_receipts_ride_at_most_once_a_fraction_of_the_window(flow_sim, fraction):
    counts = simulate(flow_sim, messages=4000, size=LONGEST, fraction=fraction)
    assert counts["receipts"] <= 4000 * FRAME_BLOCKS * fraction / 16384 + 2


def test_messages_that_share_frames_take_few_of_them(flow_sim):
    apart = simulate(flow_sim, messages=2000, size=64, burst=64)
    together = simulate(flow_sim, messages=2000, size=64, burst=64, coalesce=1)
    assert apart["left_frames"] >= 2000
    # 21 records of 66 bytes fit a plaintext of 1,392.
    assert together["left_frames"] <= 2000 / 21 * 1.5


def test_a_frame_leaves_within_the_turn_that_it_was_written_in(flow_sim):
    counts = simulate(flow_sim, messages=1, size=10, hint=1)
    # There and, for the receipt of the end, back.
    assert counts["virtual_ns"] <= 450_000


# -- loss --


@pytest.mark.parametrize("delivery", [ORDERED, UNORDERED])
def test_loss_is_repaired(flow_sim, delivery):
    counts = simulate(flow_sim, messages=1000, size=1000, loss=30, seed=2, delivery=delivery)
    assert counts["read"] == 1000
    assert counts["gaps"] > 0
    assert counts["retransmissions"] > 0
    assert counts["no_credit"] == 0


def test_at_30_percent_loss_most_of_what_survives_is_goodput(flow_sim):
    counts = simulate(flow_sim, messages=20_000, size=LONGEST, loss=30, delay=5, burst=2, hint=1)
    # Two frames a turn leave, seven tenths of them arrive.
    assert 20_000 / (counts["turns"] * 2 * 0.7) > 0.6


def test_one_missing_number_is_named_in_a_nack(flow_sim):
    counts = simulate(flow_sim, messages=300, size=LONGEST, loss=1, burst=1, seed=5)
    assert counts["nacks"] > 0
    assert counts["gaps"] <= counts["nacks"]


def test_duplicates_die_as_replays(flow_sim):
    counts = simulate(flow_sim, messages=1000, size=1000, duplicate=50, seed=3)
    assert counts["replays"] > 100
    assert counts["retransmissions"] == 0


def test_asks_do_not_ask_for_one_another_for_ever(flow_sim):
    counts = simulate(flow_sim, messages=500, size=5000, vary=1, loss=55, both=1, window=128)
    # Most frames are data, though more than half are lost either way.
    assert counts["gaps"] + counts["nacks"] < counts["left_frames"] / 4


@pytest.mark.parametrize("seed", range(8))
def test_more_than_half_may_be_lost(flow_sim, seed):
    simulate(flow_sim, messages=200, size=3000, vary=1, loss=55, both=1, seed=seed + 1)


def test_best_effort_gives_up_what_is_lost_and_gets_its_credit_back(flow_sim):
    counts = simulate(
        flow_sim, messages=2000, size=1300, loss=20, duplicate=10, delivery=BEST_EFFORT, window=512
    )
    # All of the credit: 30 times the window went through, and the books were held to the block.
    assert 0.7 * 2000 < counts["read"] < 0.9 * 2000
    assert counts["voids"] > 100


# -- credit --


def test_a_reader_that_stops_stops_the_sender_and_nothing_is_lost(flow_sim):
    counts = simulate(flow_sim, messages=500, size=1000, window=512, stall=10_000_000)
    # 100 s, more than three times the limit of silence.
    assert counts["virtual_ns"] > 100e9
    assert counts["read"] == 500
    assert counts["no_credit"] == 0
    assert counts["probes"] < 40


def test_both_ways_at_once_a_reader_may_stop(flow_sim):
    simulate(flow_sim, messages=200, size=1000, window=256, both=1, stall=6_000_000)


@pytest.mark.parametrize("delivery", [ORDERED, UNORDERED, BEST_EFFORT])
@pytest.mark.parametrize("shift", [1, 4, 7, 10])
@pytest.mark.parametrize("loss", [0, 15])
def test_grants_may_be_told_in_units_of_many_blocks(flow_sim, shift, loss, delivery):
    # It ends only when what is left over of a unit is receipted too.
    simulate(
        flow_sim, messages=300, size=1300, vary=1, shift=shift, window=4096, loss=loss,
        delivery=delivery, replay=4096,
    )  # fmt: skip


@pytest.mark.parametrize("loss", [0, 20])
@pytest.mark.parametrize(("before", "after"), [(512, 4096), (4096, 512), (2048, 2048)])
def test_a_window_may_change(flow_sim, before, after, loss):
    simulate(flow_sim, messages=1000, size=1300, window=before, rewindow=after, loss=loss)


def test_a_wider_window_is_faster(flow_sim):
    narrow = simulate(flow_sim, messages=2000, size=1300, window=256)
    widened = simulate(flow_sim, messages=2000, size=1300, window=256, rewindow=16384)
    assert widened["virtual_ns"] < 0.7 * narrow["virtual_ns"]


def test_a_lent_line_keeps_the_same_books(flow_sim):
    for delivery in (ORDERED, UNORDERED, BEST_EFFORT):
        simulate(
            flow_sim, messages=1000, size=1300, window=512, lent=1, loss=10, reorder=10, both=1,
            delivery=delivery,
        )  # fmt: skip


def test_without_any_credit_messages_go_under_lamp(flow_sim):
    counts = simulate(flow_sim, messages=20, size=100, window=0, lamp=1)
    # And the end.
    assert counts["lamps"] == 21
    assert counts["no_lamp"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_goes_under_lamp_is_repaired(flow_sim, seed):
    simulate(flow_sim, messages=30, size=700, vary=1, window=0, lamp=1, loss=25, seed=seed + 1)


def test_lamp_yields_to_credit(flow_sim):
    counts = simulate(flow_sim, messages=300, size=300, window=1024, lamp=1)
    assert counts["lamps"] <= 1


# -- time and place --


@pytest.mark.parametrize("loss", [0, 5, 20])
@pytest.mark.parametrize("rtt_us", [20, 600_000, 1_200_000_000])
def test_the_same_rules_hold_at_any_distance(flow_sim, rtt_us, loss):
    step = max(rtt_us * 1000 // 200, 10_000)
    counts = simulate(
        flow_sim, messages=300, size=1300, loss=loss, hint=1, replay=8192, window=32767,
        step=step, delay=max(rtt_us * 500 // step, 1),
    )  # fmt: skip
    # A few round trips, however long they are; and no faster than a turn is.
    trips = counts["virtual_ns"] / max(rtt_us * 1000, 200_000)
    assert trips < (1.9 if loss == 0 else 20)


def test_the_round_trip_is_learned(flow_sim):
    counts = simulate(flow_sim, messages=3000, size=1300, loss=10, delay=200)
    assert 4_000_000 < counts["rtt_ns"] < 12_000_000


def test_a_peer_that_moves_is_followed(flow_sim):
    for loss in (0, 20):
        counts = simulate(flow_sim, messages=500, size=1000, move=1, loss=loss)
        assert counts["moves"] == 1


@pytest.mark.parametrize("loss", [0, 20])
def test_an_outage_is_outlived(flow_sim, loss):
    counts = simulate(flow_sim, messages=500, size=1000, window=512, outage=1_000_000, loss=loss)
    # It took 10 s; within a second or two all goes on.
    assert counts["virtual_ns"] < 13e9


def test_windows_of_8192_numbers_are_used(flow_sim):
    simulate(
        flow_sim, messages=20_000, size=50, window=32767, replay=8192, delay=500, burst=64,
        loss=5, hint=1,
    )  # fmt: skip


# -- rates --


def test_an_honest_sender_is_paced_by_its_grants_alone(flow_sim):
    counts = simulate(flow_sim, messages=720, size=LONGEST, window=1024, rate=100_000)
    cost = 720 * FRAME_BLOCKS
    # All but the window, its burst, takes the rate's time, and little more.
    least = (cost - 1024) * 10_000
    assert least <= counts["virtual_ns"] <= least * 1.25
    assert counts["nacks"] == counts["retransmissions"] == counts["no_credit"] == 0
    # It is told of its grants without asking: an eighth of the window each time.
    assert counts["probes"] <= 2
    assert counts["receipts"] <= cost / (1024 / 8) + 4


def test_a_rate_above_the_links_costs_nothing(flow_sim):
    paced = simulate(flow_sim, messages=720, size=LONGEST, window=8192, rate=1_000_000_000)
    free = simulate(flow_sim, messages=720, size=LONGEST, window=8192)
    assert paced["virtual_ns"] <= free["virtual_ns"] + 1_000_000
    assert paced["left_frames"] <= free["left_frames"] + 1


def test_a_slow_rate_is_not_spent_on_probes(flow_sim):
    counts = simulate(flow_sim, messages=15, size=1300, window=128, rate=5)
    seconds = counts["virtual_ns"] / 1e9
    # One in four seconds, so that the receiver does not think it gone.
    assert counts["probes"] <= seconds / 4 + 8
    # A frame a second says that it goes on.
    assert counts["receipts"] <= seconds + counts["probes"] + 8


@pytest.mark.parametrize("loss", [0, 10, 25, 40])
@pytest.mark.parametrize("rate", [50, 1000, 20_000, 2_000_000])
def test_no_rate_stalls_on_a_hostile_link(flow_sim, rate, loss):
    size = min(200_000, 64 * (256 + 10 * rate))
    for back_rate in (0, max(rate, 50)):
        simulate(
            flow_sim, seed=7 + loss, messages=-(-size // 1000), size=1000, loss=loss, duplicate=10,
            reorder=20, window=256, rate=rate, back_rate=back_rate,
        )  # fmt: skip


# -- whatever --

links = {
    "seed": st.integers(1, 2**31),
    "loss": st.integers(0, 40),
    "duplicate": st.integers(0, 30),
    "reorder": st.integers(0, 50),
    "window": st.integers(128, 32767),
    "burst": st.integers(1, 64),
    "delay": st.integers(1, 100),
    "hint": st.integers(0, 1),
    "replay": st.sampled_from([256, 2048, 4096, 8192]),
    "coalesce": st.integers(0, 1),
    "both": st.integers(0, 1),
    "lent": st.integers(0, 1),
    "move": st.integers(0, 1),
}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.integers(1, 300), size=st.integers(0, 5000), **links)
def test_every_message_arrives_once_in_order_and_credit_is_never_overdrawn(flow_sim, **scenario):
    simulate(flow_sim, vary=1, **scenario)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    messages=st.integers(1, 300),
    size=st.integers(0, 1300),
    delivery=st.sampled_from([UNORDERED, BEST_EFFORT]),
    **links,
)
def test_messages_that_may_overtake_arrive_once_each(flow_sim, **scenario):
    simulate(flow_sim, vary=1, **scenario)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(1, 2**31),
    messages=st.integers(1, 100),
    loss=st.integers(0, 40),
    duplicate=st.integers(0, 30),
    reorder=st.integers(0, 50),
    window=st.integers(128, 32767),
    rate=st.integers(100, 2_000_000),
    back_rate=st.integers(100, 2_000_000),
    delivery=st.sampled_from([ORDERED, UNORDERED, BEST_EFFORT]),
)
def test_who_spends_only_what_it_was_granted_is_never_over_the_rate(flow_sim, **scenario):
    simulate(flow_sim, size=1000, **scenario)


def test_records_gaps_and_pool():
    binary = build("test_flow_parts.c")
    done = subprocess.run([str(binary)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
