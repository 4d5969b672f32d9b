# SPDX-License-Identifier: Apache-2.0
"""The kernel in the virtual machine. What its verifier says is tests/packet/test_verifier.py."""

from __future__ import annotations

import os

from ..packet import verifier


def test_the_kernel_is_the_one_that_was_fetched() -> None:
    assert os.uname().release == os.environ["ASSENT_VM"]
    assert os.uname().release.startswith("6.1.")


def test_its_verifier_takes_every_program() -> None:
    """All of every object; and it has a record, so that what grows is seen here too."""
    measured = verifier.measure()
    assert measured.keys() == {path.name.split(".")[0] for path in verifier.sources()}
    assert all(measured.values())
    assert verifier.kernel() in verifier.recorded()
