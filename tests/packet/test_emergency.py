# SPDX-License-Identifier: Apache-2.0
"""docs/emergency.md: every recipe is run as it stands, on a pinned gate, and does what it says.

A recipe is an indented block below a line <!-- run: NAME -->. The variables at the page's beginning
are this test's.
"""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assent.dataplane.gate import PIN_ROOT, Gate
from assent.dataplane.profiles import CHAPTER
from assent.demo.lab import inside
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header

from .conftest import Rig

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "emergency.md").read_text()
INTERFACE = "by0.7"
SAVED = "/run/assent-config.json"
TC_OK, TC_SHOT = 0, 2


def blocks(kind: str) -> dict[str, str]:
    """The page's blocks of a kind, by name."""
    found = re.findall(rf"<!-- {kind}:? ?([a-z-]*) -->\n((?:    .*\n)+)", PAGE)
    assert len(found) == PAGE.count(f"<!-- {kind}")
    return {name: textwrap.dedent(text) for name, text in found}


RECIPES = blocks("run")


class Hand:
    """A gate without a daemon, on an interface, and somebody with the page at hand."""

    def __init__(self, rig: Rig, gate_path: Path, netns: str, scratch: Path) -> None:
        self.rig = rig
        self.path = gate_path
        self._netns = netns
        self._saved = scratch / "config.json"
        self._ran: set[str] = set()

    def run(self, name: str) -> str:
        """Runs a recipe; returns what it says."""
        recipe = RECIPES[name].replace(SAVED, str(self._saved))
        recipe = recipe.replace("INTERFACE=eth1", f"INTERFACE={INTERFACE}")
        environment = {
            "PATH": os.environ["PATH"],
            "GATE": str(self.path),
            "REMOTE": bytes(self.rig.remote).hex(),
            "LOCAL": bytes(self.rig.local).hex(),
        }
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self._netns}", "--", "bash", "-euo", "pipefail"],
            input=recipe,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        # Debian's bpftool speaks of its own modes there; nobody else does.
        assert all("libbpf" in line for line in done.stderr.splitlines()), done.stderr
        return done.stdout

    def arrive(self, seq: int) -> str | None:
        """The verdict on a data frame of the remote cell."""
        return self.rig.run(self.rig.frame(seq=seq))[0]

    def leave(self, seq: int) -> tuple[str, int]:
        """The verdict on a data frame to the remote cell, and what the program returned."""
        header = Header(
            self.rig.local, self.rig.remote, seq=seq, flags=Flags.DATA | Flags.BLOCK, flow=1
        )
        frame = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()
        before = self.rig.tables.counters.read("leaving")
        run = self.rig.gate.egress.program.test_run(frame)
        after = self.rig.tables.counters.read("leaving")
        (moved,) = (name for name in after if after[name].frames != before[name].frames)
        return moved, run.retval

    @property
    def links(self) -> list[str]:
        return [path.name for path in (self.path / "links").iterdir()]


@pytest.fixture
def hand(pin_root: Path, tmp_path: Path) -> Iterator[Hand]:
    netns = f"assent-hand-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        with inside(netns):
            add = ["ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "there"]
            subprocess.run(add, check=True)
            with Gate.open("hand", CHAPTER, pin_root) as gate:
                gate.attach(INTERFACE)
                rig = Rig(gate)
                rig.install(tx_header_key=bytes(16))
                yield Hand(rig, pin_root / "hand", netns, tmp_path)
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


def test_the_page_begins_with_what_the_recipes_need() -> None:
    text = blocks("set")[""]
    values = dict(re.findall(r"^([A-Z]+)=(\S+)", text, re.MULTILINE))
    assert Path(values["GATE"]) == PIN_ROOT / "default"
    assert set(values) == {"GATE", "REMOTE", "LOCAL"}
    assert len(values["REMOTE"]) == len(values["LOCAL"]) == 32


def test_every_recipe_is_tested() -> None:
    source = Path(__file__).read_text()
    assert RECIPES
    for name in RECIPES:
        assert f'run("{name}")' in source


def test_every_map_and_program_is_explained(hand: Hand) -> None:
    explained = set(re.findall(r"`([a-z_]+)`", PAGE.split("\n## Is the gate attached?")[0]))
    assert set(hand.rig.gate.map_names) <= explained
    for program in (hand.path / "programs").iterdir():
        assert f"`programs/{program.name}`" in PAGE


def test_the_session_flags_are_the_gates() -> None:
    source = (ROOT / "bpf" / "include" / "assent" / "tables.h").read_text()
    flags = re.findall(r"ASSENT_SESSION_([A-Z]+) = (0x[0-9a-f]+)", source)
    assert flags
    for name, bit in flags:
        assert f"| `{name}` | {bit} |" in PAGE
        assert f'{bit}: "{name.lower()}"' in RECIPES["known"]


def test_looking(hand: Hand) -> None:
    assert set(hand.run("tree").split()) == {str(hand.path), *map(str, hand.path.rglob("*"))}
    fields = hand.run("fields")
    assert '"home_count": 1' in fields
    # Where the recipes find `flags`.
    assert re.search(r"'flags' type_id=\d+ bits_offset=256\n", fields)
    attached = hand.run("attached")
    assert re.search(rf"^{re.escape(INTERFACE)}\(\d+\) driver id \d+$", attached, re.MULTILINE)
    assert re.search(rf"^{re.escape(INTERFACE)}\(\d+\) clsact/egress ", attached, re.MULTILINE)
    assert len(re.findall(r"^\d+: xdp  prog ", attached, re.MULTILINE)) == 1
    assert re.findall(r"^\d+: (\S+)  name (\S+)", attached, re.MULTILINE) == [
        ("sched_cls", "egress"),
        ("xdp", "gate"),
    ]


def test_counters(hand: Hand) -> None:
    frame = hand.rig.frame(seq=1)
    for verdict in ("admitted", "replay", "replay"):
        assert hand.rig.run(frame)[0] == verdict
    assert hand.leave(1) == ("admitted", TC_OK)
    size = len(frame)
    assert sorted(hand.run("counters").splitlines()) == [
        f"elsewhere arriving admitted 1 frames {size} bytes",
        f"elsewhere arriving replay 2 frames {2 * size} bytes",
        "elsewhere leaving admitted 1 frames 78 bytes",
    ]


def test_counters_of_an_interface(hand: Hand) -> None:
    # What test runs show a program is the loopback.
    hand.rig.tables.counters.give_block(1)
    assert hand.arrive(1) == "admitted"
    (line,) = hand.run("counters").splitlines()
    assert line.startswith("ifindex 1 arriving admitted 1 frames ")


def test_who_is_known(hand: Hand) -> None:
    rig = hand.rig
    rig.tables.sessions.set_consent(rig.guest, rig.local, True, True, observed=True)
    local = bytes(rig.local).hex()
    assert sorted(hand.run("known").splitlines()) == [
        f"REMOTE={bytes(rig.remote).hex()} LOCAL={local} session_id 7 flags established,covenanted",
        f"REMOTE={bytes(rig.guest).hex()} LOCAL={local} session_id 0 "
        "flags covenanted,quarantined,observed",
    ]


def test_quarantine_and_lift(hand: Hand) -> None:
    rig = hand.rig
    assert hand.arrive(1) == "admitted"
    assert hand.leave(1) == ("admitted", TC_OK)
    before = rig.state()["sessions"]
    hand.run("quarantine")
    assert hand.arrive(2) == "quarantined"
    assert hand.leave(2) == ("quarantined", TC_SHOT)
    assert rig.run(rig.handshake(src=rig.remote))[0] == "quarantined"
    # Another cell is not touched, and the entry is otherwise as it was.
    assert rig.run(rig.handshake())[0] == "admitted"
    hand.run("quarantine")  # twice is once
    quarantined = rig.tables.sessions.get(rig.remote, rig.local)
    assert quarantined == replace(rig.session, quarantined=True)
    hand.run("lift")
    assert hand.arrive(2) == "admitted"
    assert hand.leave(2) == ("admitted", TC_OK)
    key = bytes(rig.remote) + bytes(rig.local)
    assert rig.state()["sessions"][key] == before[key]


def test_quarantine_makes_nobody_known(hand: Hand) -> None:
    """The recipe fails where there is no entry, and leaves none."""
    hand.rig.tables.sessions.delete(hand.rig.remote, hand.rig.local)
    count = len(hand.rig.state()["sessions"])
    with pytest.raises(AssertionError, match="there is no such entry"):
        hand.run("quarantine")
    assert len(hand.rig.state()["sessions"]) == count


def test_cut_off(hand: Hand) -> None:
    rig = hand.rig
    assert hand.arrive(1) == "admitted"
    hand.run("cut-off")
    assert hand.arrive(2) == "unknown_source"
    assert hand.leave(1)[1] == TC_SHOT
    assert rig.run(rig.handshake())[0] == "admitted"


def test_close_and_open(hand: Hand) -> None:
    rig = hand.rig
    assert hand.arrive(1) == "admitted"
    before = rig.state()["config"]
    hand.run("close")
    assert hand.arrive(2) == "unknown_destination"
    assert rig.run(rig.handshake())[0] == "unknown_destination"
    assert hand.leave(1) == ("not_local", TC_SHOT)
    rig.ignore(bytes(12) + b"\x08\x00" + bytes(50))
    hand.run("open")
    assert rig.state()["config"] == before
    assert hand.arrive(2) == "admitted"
    assert hand.leave(1) == ("admitted", TC_OK)


def test_let_go(hand: Hand, pin_root: Path) -> None:
    assert len(hand.links) == 1
    attached = hand.run("attached")
    assert f"{INTERFACE}(" in attached
    hand.run("let-go")
    assert hand.links == []
    # Nothing of ours holds the link, and the kernel takes the program off by itself.
    left = subprocess.run(["bpftool", "net"], capture_output=True, text=True, check=True).stdout
    assert f"{INTERFACE}(" not in left
    # The maps stay: a daemon that returns finds them, and attaches the gate again.
    with Gate.open("hand", CHAPTER, pin_root) as gate:
        assert gate.adopted
        assert gate.attachments() == []
        assert gate.tables.sessions.get(hand.rig.remote, hand.rig.local) == hand.rig.session
        gate.attach(INTERFACE)
        assert hand.arrive(1) == "admitted"
