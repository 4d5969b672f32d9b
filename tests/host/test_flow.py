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
