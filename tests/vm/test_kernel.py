# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel and our objects: what its verifier says to each program."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from assent.dataplane.objects import packaged

OBJECTS = sorted(path.name.split(".")[0] for path in packaged("gate").parent.glob("*.bpf.o"))
PINS = Path("/sys/fs/bpf/assent-vm")


def test_the_kernel_is_the_one_that_was_fetched() -> None:
    assert os.uname().release == os.environ["ASSENT_VM"]
    assert os.uname().release.startswith("6.1.")


@pytest.mark.parametrize("name", OBJECTS)
def test_the_verifier_takes_every_program_with_room_to_spare(name):
    """The limit is a million instructions; what comes near it is refused by another kernel."""
    PINS.mkdir(exist_ok=True)  # bpftool makes the last directory only
    done = subprocess.run(
        ["bpftool", "--debug", "prog", "loadall", packaged(name), PINS / name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:]
    programs = list((PINS / name).iterdir())
    verdicts = re.findall(r"^processed (\d+) insns \(limit (\d+)\)", done.stdout, re.MULTILINE)
    assert len(verdicts) == len(programs) > 0
    for processed, limit in verdicts:
        assert int(processed) < int(limit) // 10
    for program in programs:
        program.unlink()
    (PINS / name).rmdir()
    PINS.rmdir()
