from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from rich.console import Console

from assent.bench.hosts import PAIR, introduce
from assent.demo.lab import HOST_INTERFACE
from assent.demo.nodes import Nodes
from assent.v1.cells_pb2 import CellRef, DeleteCellRequest, ListCellsRequest
from assent.v1.fabric_pb2 import DetachRequest
from assent.v1.grants_pb2 import SetGrantRequest
from assent.v1.sessions_pb2 import ConnectRequest, ListSessionsRequest


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests make network namespaces: run them as root (sudo make test)")


@pytest.fixture
def random_file(tmp_path: Path):
    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for number, at in enumerate(range(0, size, len(block))):
                # All of it fresh would cost the kernel more than the transfer: this is as good, for
                # each part begins elsewhere in the block.
                turn = number * 7919 % len(block)
                file.write((block[turn:] + block[:turn])[: size - at])
        return path

    return make


@contextlib.contextmanager
def open_daemons() -> Iterator[Nodes]:
    """left and right on a switch, with a daemon each."""
    with Nodes(PAIR, Console(file=io.StringIO())) as nodes:
        nodes.start_all()
        yield nodes


@pytest.fixture(scope="module")
def daemons() -> Iterator[Nodes]:
    """For all tests of a module: to start a daemon and to stop it takes more than a second."""
    with open_daemons() as nodes:
        yield nodes


@pytest.fixture
def pair(daemons: Nodes) -> Iterator[Nodes]:
    """left and right, gated, introduced and connected; over the API, to be quick.

    The next test finds nothing of this one: neither its cells, with all that hangs on them, nor its
    files and processes.
    """
    shared = daemons.scratch
    with tempfile.TemporaryDirectory(dir=shared) as scratch:
        daemons.scratch = Path(scratch)
        try:
            introduce(daemons)
            yield daemons
        finally:
            daemons.scratch = shared
            daemons.stop_commands()
            _forget(daemons)


def _forget(nodes: Nodes) -> None:
    for name in PAIR:
        with nodes.client(name) as client:
            for cell in client.cells.List(ListCellsRequest()).cells:
                client.cells.Delete(DeleteCellRequest(cell=CellRef(id=cell.id)))
            client.fabric.Detach(DetachRequest(interface=HOST_INTERFACE))


def widen(nodes: Nodes, *flows: int, window: int) -> None:
    """Gives flows a window, both ways, and a session that has them."""
    for here, there in (PAIR, PAIR[::-1]):
        with nodes.client(here) as client:
            for flow in flows:
                client.grants.Set(
                    SetGrantRequest(remote=CellRef(name=there), flow=flow, window_blocks=window)
                )
    # Flows belong to a session from its beginning.
    with nodes.client(PAIR[0]) as client:
        client.sessions.Connect(ConnectRequest(remote=CellRef(name=PAIR[1]), renew=True))


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
