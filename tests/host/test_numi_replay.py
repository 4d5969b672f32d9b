# SPDX-License-Identifier: Apache-2.0
"""Runs test_numi_replay.c, built with the sanitizers; its cases are listed by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import cases

SOURCE = cases.HERE / "test_numi_replay.c"


@pytest.fixture(scope="module")
def program() -> Path:
    return cases.build(SOURCE)


@pytest.mark.parametrize("case", cases.names(SOURCE))
def test_replay(program: Path, case: str) -> None:
    cases.run(program, case)


def test_no_case_is_forgotten(program: Path) -> None:
    cases.none_is_forgotten(program, SOURCE)
