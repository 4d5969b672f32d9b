# SPDX-License-Identifier: Apache-2.0
"""What is here runs inside the virtual machine: `make vm-test`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from assent.bench.hosts import PAIR, introduce
from assent.demo.nodes import Nodes

if "ASSENT_VM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    """The demo's hosts, two of them, introduced and connected; over the API, to be quick."""
    with pytest.MonkeyPatch.context() as patient, Nodes(PAIR, Console()) as nodes:
        # An emulated CPU takes its time: two daemons start at once, and so do two commands.
        patient.setattr("assent.demo.nodes._START_S", 300)
        nodes.start_all()
        introduce(nodes)
        yield nodes
