from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from assent.demo.lab import HOST_INTERFACE
from assent.demo.nodes import Nodes
from assent.v1.sessions_pb2 import ListSessionsRequest


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests make network namespaces: run them as root (sudo make test)")


@pytest.fixture
def random_file(tmp_path: Path):
    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
        return path

    return make


@pytest.fixture
def pair() -> Iterator[Nodes]:
    """left and right on a switch, gated, introduced and connected."""
    with Nodes(("left", "right"), Console(file=io.StringIO())) as nodes:
        nodes.start_all()
        for name in ("left", "right"):
            nodes.cli(name, "cells", "create", name, "--interface", HOST_INTERFACE)
            nodes.cli(name, "attach", HOST_INTERFACE)
            (nodes.scratch / f"{name}.cell").write_text(nodes.cli(name, "cells", "export", name))
        psk = nodes.scratch / "psk"
        nodes.cli("left", "keys", "generate-psk", "--output", str(psk))
        for here, there in (("left", "right"), ("right", "left")):
            card = str(nodes.scratch / f"{there}.cell")
            nodes.cli(here, "cells", "add", "--from", card, "--consent", "standing")
            nodes.cli(here, "keys", "set-psk", there, "--file", str(psk))
            nodes.cli(here, "grants", "set", there, "1", "32767")
        nodes.cli("left", "sessions", "connect", "right")
        yield nodes


@pytest.fixture
def digest():
    def of(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return of


def highest_seq(nodes: Nodes, name: str) -> int:
    with nodes.client(name) as client:
        session = client.sessions.List(ListSessionsRequest()).sessions[0]
    return next(flow.rx_highest_seq for flow in session.flows if flow.flow == 1)
