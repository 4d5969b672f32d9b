# SPDX-License-Identifier: Apache-2.0
"""The gate's program is replaced again and again, while frames arrive as fast as they can.

    sender: storm ---veth---> [gate] receiver: storm, listening

Each swap is what a newer daemon does at its start: it adopts the pinned gate, takes stock of its
maps, and puts its own program in the old one's place. `make soak` does so 1,000 times, `make test`
a few dozen.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Link
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import SEC, FlowSpec, SessionSpec
from assent.demo.lab import inside, links_of
from assent.wire.cellid import CellID

from .sizes import SOAK, SWAPS

pytestmark = [pytest.mark.netns, pytest.mark.timeout(1800 if SOAK else 180)]

INSTANCE = "swapped"
OUT, IN = "out0", "fab0"
KEY = bytes(range(16))
LOCAL, REMOTE, STRANGER = (CellID(bytes([number]) * 16) for number in (0x10, 0x20, 0x30))
CLOCK_OFFSET = 1_700_000_000 * SEC
FRAMES_BETWEEN_SWAPS = 200
"""Genuine ones, at the least."""
_PATIENCE_S = 30


@dataclass(frozen=True)
class Cable:
    """Names of the two namespaces that it joins; one queue, so it keeps the frames in order."""

    sender: str
    receiver: str

    def counts(self, namespace: str, ifname: str) -> dict[str, int]:
        """What the kernel counted at one end."""
        with links_of(namespace) as links:
            found: dict[str, int] = links.link("get", ifname=ifname)[0].get_attr("IFLA_STATS64")
            return found


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable(*(f"races-{os.getpid()}-{end}" for end in ("sender", "receiver")))
    with ExitStack() as undo:
        for name in (made.sender, made.receiver):
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            with inside(name):  # or the kernel itself would send frames on the cable
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", IN, "netns", made.receiver, *queues]
        _ip("link", "add", OUT, "netns", made.sender, *queues, "type", "veth", *peer)
        _ip("-n", made.sender, "link", "set", OUT, "up")
        _ip("-n", made.receiver, "link", "set", IN, "up")
        yield made


def _put_session(gate: Gate) -> int:
    """Returns the slot of flow 1, which has credit for all that may come; flow 2 has none."""
    tables = gate.tables
    tables.locals.put(LOCAL, 0)
    tables.sessions.provision(REMOTE, LOCAL, KEY, covenanted=True)
    flows = (FlowSpec(1, (1 << 32) - 1), FlowSpec(2))
    session = tables.sessions.install(
        SessionSpec(REMOTE, LOCAL, 1, rx_header_key=KEY, clock_offset=CLOCK_OFFSET, flows=flows)
    )
    for flow in (1, 2):
        tables.flows.set_open(tables.flows.slot_of(session, flow), True)
    return tables.flows.slot_of(session, 1)


def _await_frames(gate: Gate, slot: int, beyond: int) -> int:
    """Waits until frames have been admitted; returns the highest number of all."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        highest = int(gate.tables.flows.read(slot).rx_highest)
        if highest > beyond:
            return highest
        assert time.monotonic() < deadline, "no frame is admitted any more"


def _figures(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in (line.split() for line in text.splitlines())}


def test_swaps_under_load(
    cable: Cable,
    storm: Path,
    other_gate: Path,
    pin_root: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """None lost, none wrongly passed, none counted twice or not at all, and no verdict wrong."""
    builds = (packaged("gate"), other_gate)
    with ExitStack() as stack:
        gate = Gate.open(INSTANCE, CHAPTER, pin_root)
        stack.callback(lambda: gate.close())
        slot = _put_session(gate)
        with inside(cable.receiver):
            gate.attach(IN)
        before = cable.counts(cable.sender, OUT)
        cells = [bytes(cell).hex() for cell in (REMOTE, LOCAL, STRANGER)]
        ends = [f"/run/netns/{cable.sender}", OUT, f"/run/netns/{cable.receiver}", IN]
        blowing = stack.enter_context(
            subprocess.Popen(
                [storm, *ends, *cells, KEY.hex(), str(CLOCK_OFFSET)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(blowing.kill)
        highest = _await_frames(gate, slot, 0)
        seen = {gate.program.id}
        began = time.monotonic()
        for number in range(1, SWAPS + 1):
            gate.close()
            gate = Gate.open(INSTANCE, CHAPTER, pin_root, builds[number % 2])
            assert gate.adopted
            assert len(gate.tables.sessions) == 1
            with Link.open_pinned(pin_root / INSTANCE / "links" / IN) as link:
                assert link.program_id == gate.program.id
            seen.add(gate.program.id)
            highest = _await_frames(gate, slot, highest + FRAMES_BETWEEN_SWAPS)
        took = time.monotonic() - began
        said, complaint = blowing.communicate(timeout=60)
        assert blowing.returncode == 0, complaint
        sent = _figures(said)
        counted = {
            name: totals.frames for name, totals in gate.tables.counters.read().items() if totals
        }
        flow = gate.tables.flows.read(slot)
        after = cable.counts(cable.sender, OUT)

    print(f"{SWAPS} swaps in {took:.1f} s", sent)
    record_property("sent", str(sent))
    assert len(seen) == SWAPS + 1, "each swap brings a program of its own"
    came = {name: sent.pop(name) for name in ("received", "lost", "wrong", "missed")}
    total = sum(sent.values())
    assert came == {
        "received": sent["admitted"] + sent["foreign"], "lost": 0, "wrong": 0, "missed": 0,
    }  # fmt: skip
    # Nothing was dropped outside the gate, so what it has seen is what was sent.
    assert after["tx_packets"] - before["tx_packets"] == total
    assert after["tx_dropped"] == before["tx_dropped"]
    del sent["foreign"]
    assert counted == sent, "each frame met the verdict that it was made for"
    assert min(sent.values()) > 0
    assert flow.rx_spent == 2 * sent["admitted"]
    assert flow.rx_highest == sent["admitted"]


def test_the_builds_differ(other_gate: Path) -> None:
    """Or nothing would have been swapped."""
    with Gate.private(CHAPTER) as one, Gate.private(CHAPTER, other_gate) as other:
        assert one.program.tag != other.program.tag
