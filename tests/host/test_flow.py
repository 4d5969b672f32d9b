"""The endpoint's engine behind the real verdict, over a hostile link, in virtual time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "controlplane" / "assent" / "native"


@pytest.fixture(scope="module")
def flow_sim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("flow") / "flow_sim"
    subprocess.run(
        [
            "gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
            "-Wno-unused-parameter", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
            f"-I{ROOT / 'bpf' / 'include'}", f"-I{NATIVE}",
            str(Path(__file__).parent / "flow_sim.c"), str(NATIVE / "flow.c"),
            str(NATIVE / "aead.c"), "-lcrypto", "-o", str(binary),
        ],
        check=True,
    )  # fmt: skip
    return binary


def simulate(binary: Path, *numbers: int) -> dict[str, int]:
    done = subprocess.run(
        [str(binary), *map(str, numbers)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{numbers}: {done.stderr}"
    return json.loads(done.stdout)


def test_a_healthy_link_carries_no_nack_and_no_retransmission(flow_sim):
    counts = simulate(flow_sim, 1, 5_000_000, 0, 0, 0, 16384)
    assert counts["nacks"] == 0
    assert counts["retransmissions"] == 0
    assert counts["no_credit"] == 0
    # A receipt an eighth of the window, and one for the tail.
    cost = sum(1 + -(-(min(1392, 5_000_000 - at) + 16) // 64) for at in range(0, 5_000_000, 1392))
    assert counts["receipts"] <= cost / (16384 / 8) + 2


def test_loss_is_repaired(flow_sim):
    counts = simulate(flow_sim, 2, 1_000_000, 30, 0, 0, 16384)
    assert counts["nacks"] > 0
    assert counts["retransmissions"] > 0
    assert counts["no_credit"] == 0


def test_duplicates_die_as_replays(flow_sim):
    counts = simulate(flow_sim, 3, 1_000_000, 0, 50, 0, 16384)
    assert counts["replays"] > 100
    assert counts["retransmissions"] == 0


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(1, 2**31),
    size=st.integers(1, 200_000),
    loss=st.integers(0, 40),
    duplicate=st.integers(0, 30),
    reorder=st.integers(0, 50),
    window=st.integers(128, 32767),
)
def test_every_byte_arrives_once_and_credit_is_never_overdrawn(
    flow_sim, seed, size, loss, duplicate, reorder, window
):
    simulate(flow_sim, seed, size, loss, duplicate, reorder, window)


def test_an_honest_sender_is_paced_by_its_grants_alone(flow_sim):
    counts = simulate(flow_sim, 4, 1_000_000, 0, 0, 0, 1024, 100_000)
    cost = sum(1 + -(-(min(1392, 1_000_000 - at) + 16) // 64) for at in range(0, 1_000_000, 1392))
    # All but the window, its burst, takes the rate's time, and little more.
    least = (cost - 1024) // 100
    assert least <= counts["virtual_ms"] <= least * 1.25
    assert counts["nacks"] == counts["retransmissions"] == counts["no_credit"] == 0
    # It is told of its grants without asking: an eighth of the window each time.
    assert counts["probes"] <= 2
    assert counts["receipts"] <= cost / (1024 / 8) + 4


def test_a_rate_above_the_links_costs_nothing(flow_sim):
    paced = simulate(flow_sim, 5, 1_000_000, 0, 0, 0, 8192, 1_000_000_000)
    free = simulate(flow_sim, 5, 1_000_000, 0, 0, 0, 8192)
    assert paced["virtual_ms"] <= free["virtual_ms"] + 1
    assert paced["left_frames"] == free["left_frames"]


def test_a_slow_rate_is_not_spent_on_probes(flow_sim):
    counts = simulate(flow_sim, 6, 20_000, 0, 0, 0, 128, 5)
    # One in four seconds, so that the receiver does not think it gone.
    assert counts["probes"] <= counts["virtual_ms"] / 4000 + 8
    # A frame a second says that it goes on.
    assert counts["receipts"] <= counts["virtual_ms"] / 1000 + counts["probes"] + 8


@pytest.mark.parametrize("loss", [0, 10, 25, 40])
@pytest.mark.parametrize("rate", [50, 1000, 20_000, 2_000_000])
def test_no_rate_stalls_on_a_hostile_link(flow_sim, rate, loss):
    size = min(200_000, 64 * (256 + 10 * rate))
    for back_rate in (0, max(rate, 50)):
        simulate(flow_sim, 7 + loss, size, loss, 10, 20, 256, rate, back_rate)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(1, 2**31),
    size=st.integers(1, 100_000),
    loss=st.integers(0, 40),
    duplicate=st.integers(0, 30),
    reorder=st.integers(0, 50),
    window=st.integers(128, 32767),
    rate=st.integers(100, 2_000_000),
    back_rate=st.integers(100, 2_000_000),
)
def test_who_spends_only_what_it_was_granted_is_never_over_the_rate(
    flow_sim, seed, size, loss, duplicate, reorder, window, rate, back_rate
):
    simulate(flow_sim, seed, size, loss, duplicate, reorder, window, rate, back_rate)
