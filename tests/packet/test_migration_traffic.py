# SPDX-License-Identifier: Apache-2.0
"""A gate is replaced while frames arrive: by one with the same maps, with others, and with larger.

    sender: raw socket ---veth---> [gate] receiver: raw socket

Each number is sent once, and again some time later, from 1 frame to 1,500 frames after; so what was
admitted before a replacement comes again after it. Handshake frames are sent in the same way. What
the receiver's socket hears is what was admitted.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Link
from assent.dataplane.migrate import Migration
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER, DEFAULT, Profile
from assent.dataplane.tables import GateConfig
from assent.demo.lab import inside, links_of
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, Flags, Header

from . import sender
from .builds import ALL_OTHER, ONE_MORE_INSTRUCTION, OTHER_SESSIONS, variant
from .conftest import Rig
from .sender import packed
from .twin import IN_VM

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        IN_VM, reason="loads dozens of gates, at seconds each where the CPU is emulated"
    ),
]

INSTANCE, OUT, IN = "one", "out0", "fab0"
LAGS = (1, 7, 60, 400, 1500)
FRAMES = 60_000
"""More than are needed, however long the replacements take."""
RATE = 5_000
"""Numbers a second; of frames it is more than three times that."""
BETWEEN = 1_500
"""Frames at least, that arrive between two replacements."""
MEANWHILE = 500
"""Frames that arrive at least between two steps of a migration."""
AGAIN = 1_500
HANDSHAKE_EVERY = 16
PATIENCE_S = 60
ENOUGH = (1 << 32) - 1


class Peer(Rig):
    """In session, with credit for all that may come."""

    rx_window = ENOUGH
    skew_limit = 0


class Reopened(Peer):
    """The same, in a gate that was opened again."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.tables = gate.tables
        self.session = gate.tables.sessions.get(self.remote, self.local)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Names of the two namespaces; one queue, so it keeps the frames in order."""
    names = tuple(f"migration-{os.getpid()}-{end}" for end in ("sender", "receiver"))
    with ExitStack() as undo:
        for name in names:
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            with inside(name):  # or the kernel itself would send frames on the cable
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", IN, "netns", names[1], *queues]
        _ip("link", "add", OUT, "netns", names[0], *queues, "type", "veth", *peer)
        _ip("-n", names[0], "link", "set", OUT, "up")
        _ip("-n", names[1], "link", "set", IN, "up")
        yield names[0], names[1]


@pytest.fixture(scope="session")
def builds() -> dict[str, Path]:
    return {
        "packaged": packaged("gate"),
        "same": variant(program=ONE_MORE_INSTRUCTION),
        "sessions": variant(*OTHER_SESSIONS),
        "all": variant(*ALL_OTHER),
    }


class Ears:
    """Hears what the gate lets through; counts it."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        force = 33  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, force, 256 << 20)
        self._socket.bind((IN, ETHERTYPE))
        self._thread = threading.Thread(target=self._listen)
        self._changed = threading.Condition()
        self._last: bytes | None = None
        self.heard: list[bytes] = []

    def __enter__(self) -> Ears:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._last = b""
            self._thread.join(PATIENCE_S)
        self._socket.close()

    def _listen(self) -> None:
        self._socket.settimeout(1)
        while self._last is None or (self._last and self._last not in self.heard[-1:]):
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                continue
            with self._changed:
                self.heard.append(frame)
                self._changed.notify_all()

    def wait(self, beyond: int) -> int:
        """Waits until more frames than that have been heard; returns how many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) > beyond, PATIENCE_S)
            return len(self.heard)

    def finish(self, last: bytes) -> None:
        """Hears all up to this frame."""
        self._last = last
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the last frame was not heard"

    @property
    def missed(self) -> int:
        """Frames for which the socket had no room."""
        statistics = 6  # PACKET_STATISTICS
        _, dropped = (
            int.from_bytes(self._socket.getsockopt(263, statistics, 8)[at : at + 4], "little")
            for at in (0, 4)
        )
        return dropped


class Mouth:
    """Has rounds sent: the next number, one of before, one to be refused, and now and then a
    handshake frame and one of before."""

    def __init__(self, namespace: str, rig: Rig, folder: Path) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((OUT, 0))
        self._data = [rig.frame(seq=seq) for seq in range(1, FRAMES + 1)]
        file = folder / "rounds"
        file.write_bytes(b"".join(map(packed, self._rounds(rig))))
        enter = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
        self._process = subprocess.Popen(
            [*enter, sys.executable, sender.__file__, OUT, file, str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.sent = 0
        """Numbers that have been sent, once it has stopped."""

    def _rounds(self, rig: Rig) -> Iterator[list[bytes]]:
        begin = rig.peer_time
        greetings = [
            rig.handshake(timestamp=begin + number)
            for number in range(FRAMES // HANDSHAKE_EVERY + 1)
        ]
        bad = [
            rig.frame(seq=FRAMES + 1, flip=1),
            rig.frame(seq=FRAMES + 2, src=rig.stranger),
            rig.frame(seq=FRAMES + 3, dst=rig.stranger),
            rig.frame(seq=FRAMES + 4, flow=2),
        ]
        choice = random.Random(1)
        for at, frame in enumerate(self._data):
            frames = [frame, self._data[max(0, at - choice.choice(LAGS))], bad[at % len(bad)]]
            if at % HANDSHAKE_EVERY == 0:
                number = at // HANDSHAKE_EVERY
                # One of before comes first: a newer one would have it refused by its age alone.
                before = max(0, number - choice.choice((1, 2, 30)))
                frames += [greetings[before], greetings[number]]
            yield frames

    def __enter__(self) -> Mouth:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._socket.close()

    def stop(self) -> None:
        said, _ = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0
        self.sent = int(said)
        assert self.sent < FRAMES, "it fell silent before the end"

    def again(self) -> bytes:
        """Sends the last numbers once more, within a replay window; then a new one: returns it."""
        for frame in self._data[max(0, self.sent - AGAIN) : self.sent + 1]:
            self._socket.send(frame)
        self.sent += 1
        return self._data[self.sent - 1]


Replacement = tuple[str, Profile]

CASES: dict[str, list[Replacement]] = {
    "same": [("same", CHAPTER), ("packaged", CHAPTER)] * 3,
    "sessions": [("sessions", CHAPTER), ("packaged", CHAPTER)] * 3,
    "all": [("all", CHAPTER), ("packaged", CHAPTER)] * 3,
    "profile": [("packaged", DEFAULT), ("packaged", CHAPTER)],
}


def _stretch(patch: pytest.MonkeyPatch, ears: Ears) -> None:
    """Has a good many frames arrive within the moments that matter.

    They are those between the first copy and the replacement; and those between that and the
    opening, where data is let through.
    """
    fill, settle = Migration.fill, Migration.settle

    def filled(migration: Migration) -> None:
        fill(migration)
        ears.wait(len(ears.heard) + MEANWHILE)

    def settled(migration: Migration) -> None:
        settle(migration)
        if not migration.shut:
            ears.wait(len(ears.heard) + MEANWHILE)

    patch.setattr(Migration, "fill", filled)
    patch.setattr(Migration, "settle", settled)


@pytest.mark.parametrize("case", CASES)
def test_traffic(
    case: str,
    pin_root: Path,
    cable: tuple[str, str],
    builds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None is admitted twice, none wrongly; and none is lost, unless flows had to be made anew."""
    sending, receiver = cable
    with ExitStack() as stack:
        stack.enter_context(inside(receiver))  # where the gate's interface is
        gate = Gate.open(INSTANCE, CHAPTER, pin_root)
        stack.callback(lambda: gate.close())
        rig: Rig = Peer(gate)
        gate.tables.config.write(GateConfig(handshake_interval=0, handshake_burst=1))
        gate.attach(IN)
        ears = stack.enter_context(Ears(receiver))
        mouth = stack.enter_context(Mouth(sending, rig, tmp_path))
        heard = ears.wait(BETWEEN)
        _stretch(monkeypatch, ears)
        programs = {gate.program.id}
        for build, profile in CASES[case]:
            gate.close()
            gate = Gate.open(INSTANCE, profile, pin_root, builds[build])
            assert gate.adopted
            assert ("flows" in {n for n, f in gate.migrated.items() if f == "carried"}) == (
                case in ("all", "profile")
            )
            with Link.open_pinned(pin_root / INSTANCE / "links" / IN) as link:
                assert link.program_id == gate.program.id
            programs.add(gate.program.id)
            rig = Reopened(gate)
            for flow in (1, 2):  # an endpoint opens the flow again
                rig.tables.flows.set_open(rig.tables.flows.slot_of(rig.session, flow), True)
            heard = ears.wait(heard + BETWEEN)
        mouth.stop()
        ears.finish(mouth.again())
        counted = gate.tables.counters.read()
        assert ears.missed == 0
        with links_of(sending) as links:
            stats = links.link("get", ifname=OUT)[0].get_attr("IFLA_STATS64")
            assert stats["tx_dropped"] == 0

    assert len(programs) == len(CASES[case]) + 1
    seen: Counter[tuple[int, int]] = Counter()
    for frame in ears.heard:
        header = Header.decode(frame[ETHERNET_HEADER_LEN : ETHERNET_HEADER_LEN + HEADER_LEN])
        if header.flow:
            assert (header.src, header.dst, header.flow) == (rig.remote, rig.local, 1)
            seen[1, header.seq] += 1
        else:
            assert (header.src, header.flags) == (rig.guest, Flags.SYN | Flags.BLOCK)
            seen[0, header.timestamp] += 1
    assert max(seen.values()) == 1, "a frame was admitted twice"
    data = {seq for flow, seq in seen if flow}
    sent = set(range(1, mouth.sent + 1))
    assert data <= sent
    if case in ("same", "sessions"):
        assert data == sent, "a frame was lost"
    else:  # what was refused has been sent again
        assert data >= set(range(mouth.sent - AGAIN, mouth.sent + 1))
    if case == "same":
        refused = {name for name, totals in counted.items() if totals.frames}
        assert refused == {
            "admitted", "replay", "bad_tag", "unknown_source", "unknown_destination", "no_credit",
        }  # fmt: skip
