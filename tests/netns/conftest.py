from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from rich.console import Console

from assent.client import Client
from assent.demo.lab import HOST_INTERFACE
from assent.demo.nodes import Nodes
from assent.v1.cells_pb2 import CellRef, CreateLocalRequest, CreateRemoteRequest
from assent.v1.common_pb2 import Consent
from assent.v1.fabric_pb2 import AttachRequest
from assent.v1.grants_pb2 import SetGrantRequest
from assent.v1.keys_pb2 import SetPskRequest
from assent.v1.sessions_pb2 import ConnectRequest, ListSessionsRequest


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
    """left and right on a switch, gated, introduced and connected; over the API, to be quick."""
    with Nodes(("left", "right"), Console(file=io.StringIO())) as nodes:
        nodes.start_all()
        with nodes.client("left") as left, nodes.client("right") as right:
            introduce({"left": left, "right": right}, os.urandom(32))
        yield nodes


def introduce(clients: dict[str, Client], psk: bytes) -> None:
    """What an operator does with a dozen commands on two hosts."""
    cells = {}
    for name, client in clients.items():
        cells[name] = client.cells.CreateLocal(
            CreateLocalRequest(name=name, interface=HOST_INTERFACE)
        )
        client.fabric.Attach(AttachRequest(interface=HOST_INTERFACE))
    for name, client in clients.items():
        other = cells["right" if name == "left" else "left"]
        ref = CellRef(name=other.name)
        client.cells.CreateRemote(
            CreateRemoteRequest(
                name=other.name, public_key=other.public_key, consent=Consent.CONSENT_STANDING
            )
        )
        client.keys.SetPsk(SetPskRequest(remote=ref, psk=psk))
        client.grants.Set(SetGrantRequest(remote=ref, flow=1, window_blocks=32767))
    clients["left"].sessions.Connect(ConnectRequest(remote=CellRef(name="right")))


@pytest.fixture
def digest():
    def of(path: Path) -> str:
        return blake3(path.read_bytes()).hexdigest()

    return of


def highest_seq(nodes: Nodes, name: str) -> int:
    with nodes.client(name) as client:
        session = client.sessions.List(ListSessionsRequest()).sessions[0]
    return next(flow.rx_highest_seq for flow in session.flows if flow.flow == 1)


def python(nodes: Nodes, name: str, code: str, *args: str) -> subprocess.Popen[str]:
    """Python on a host; sys.argv[1] is its daemon's socket, then come the others."""
    node = nodes[name]
    return subprocess.Popen(
        node.host.command(sys.executable, "-c", code, str(node.socket), *args),
        stdout=subprocess.PIPE,
        text=True,
    )
