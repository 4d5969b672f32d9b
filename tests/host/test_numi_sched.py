# SPDX-License-Identifier: Apache-2.0
"""Runs test_numi_sched.c, built with the sanitizers; its cases are listed by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import cases

SOURCE = cases.HERE / "test_numi_sched.c"
NATIVE = cases.NATIVE.parent / "numiport" / "native"


@pytest.fixture(scope="module")
def program() -> Path:
    return cases.build(SOURCE, [f"-I{NATIVE}"], [NATIVE / "sched.c"])


@pytest.mark.parametrize("case", cases.names(SOURCE))
def test_sched(program: Path, case: str) -> None:
    cases.run(program, case)


def test_no_case_is_forgotten(program: Path) -> None:
    cases.none_is_forgotten(program, SOURCE)
