# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.dataplane import bpffs
from assent.dataplane.gate import PIN_ROOT, Gate

from ..packet.builds import ONE_MORE_INSTRUCTION, variant

HERE = Path(__file__).resolve().parent
BPF = HERE.parents[1] / "bpf"


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests load BPF programs and make network namespaces: run them as root")


@pytest.fixture
def pin_root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory in the BPF file system for this test alone."""
    bpffs.ensure(PIN_ROOT)
    root = PIN_ROOT.parent / f"assent-test-{os.getpid()}-{abs(hash(request.node.nodeid)):x}"
    yield root
    for path in list(root.iterdir()) if root.is_dir() else []:
        if path.name.startswith("_"):  # of a daemon that died as it began
            for pin in sorted(path.rglob("*"), reverse=True):
                pin.rmdir() if pin.is_dir() else pin.unlink()
            path.rmdir()
        else:
            Gate.remove(path.name, root)
    if root.is_dir():
        root.rmdir()


@pytest.fixture(scope="session")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """storm.c, compiled."""
    made = tmp_path_factory.mktemp("storm") / "storm"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command = ["gcc", *flags, f"-I{BPF / 'include'}", str(HERE / "storm.c"), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return made


@pytest.fixture(scope="session")
def other_gate() -> Path:
    """The gate from the same sources, with one more instruction: another program to the kernel."""
    return variant(program=ONE_MORE_INSTRUCTION)
