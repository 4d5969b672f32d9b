# SPDX-License-Identifier: Apache-2.0
"""No program becomes much more work to the verifier without somebody saying so in verifier.json.

Long before the kernel's limit (1,000,000 instructions) is met, growth shows a loop or a branch that
the verifier cannot fold, and that another kernel may refuse.
"""

from __future__ import annotations

import pytest

from .verifier import RECORD, Figures, kernel, measure, recorded

GROWTH = 1.2
# Another kernel's verifier folds otherwise: its figures only say the order of magnitude.
GROWTH_ELSEWHERE = 3.0
LIMIT = 1_000_000


def too_much(measured: Figures, record: Figures, growth: float) -> list[str]:
    """Says what is above its record, or has none."""
    found = []
    for name, programs in measured.items():
        for program, instructions in programs.items():
            known = record.get(name, {}).get(program)
            if known is None:
                found.append(f"{name}/{program} is not in the record: {instructions}")
            elif instructions > growth * known:
                found.append(f"{name}/{program} grew from {known} to {instructions}")
    return found


def test_no_program_outgrew_its_record() -> None:
    record = recorded()
    here = record.get(kernel())
    nearest = here or record[max(record, key=lambda series: [*map(int, series.split("."))])]
    found = too_much(measure(), nearest, GROWTH if here else GROWTH_ELSEWHERE)
    assert not found, f"if that is meant, run `make verifier-record` and commit {RECORD.name}"


def test_no_record_is_near_the_kernels_limit() -> None:
    for figures in recorded().values():
        for programs in figures.values():
            assert max(programs.values()) < LIMIT / 4


@pytest.mark.parametrize(
    ("instructions", "complaints"), [(100, 0), (120, 0), (121, 1), (1, 0), (10_000, 1)]
)
def test_what_counts_as_growth(instructions: int, complaints: int) -> None:
    measured = {"gate": {"gate": instructions}}
    assert len(too_much(measured, {"gate": {"gate": 100}}, GROWTH)) == complaints


def test_a_program_without_a_record() -> None:
    assert too_much({"new": {"entry": 1}}, {}, GROWTH) == ["new/entry is not in the record: 1"]
