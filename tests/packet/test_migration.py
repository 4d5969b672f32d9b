# SPDX-License-Identifier: Apache-2.0
"""A pinned gate whose maps have another layout or size is adopted with all that they hold."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assent.dataplane import bpffs, clsact, gate, migrate
from assent.dataplane.btf import Btf, Field, Layout
from assent.dataplane.convert import Converter
from assent.dataplane.egress import EgressState
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Link, Map, Program
from assent.dataplane.migrate import ARRAY, HASH, LRU_HASH, XSKMAP, Fate, Shape
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER, DEFAULT, Profile
from assent.dataplane.tables import SEC, FlowSpec, GateConfig, SessionSpec, TermLimits
from assent.errors import FailedPrecondition, ResourceExhausted
from assent.wire.cellid import CellID
from assent.wire.fabric import Flags

from .builds import ALL_OTHER, OTHER_SESSIONS, ROOT, variant
from .conftest import XDP_DROP, Rig
from .twin import IN_VM

pytestmark = pytest.mark.skipif(
    IN_VM, reason="loads dozens of gates, at seconds each where the CPU is emulated"
)
INSTANCE = "one"
KEY = bytes(16)
FAR = (1 << 63) - 1
# What a session's entry had not yet, before there were covenants in it.
LINE_4 = frozenset(
    {
        *("data_interval", "data_burst", "data_due", "open_from", "open_until"),
        *("payload_limit", "terms_reserved"),
    }
)

SOAK = os.environ.get("SOAK", "0") not in {"", "0"}


@pytest.fixture(scope="session")
def builds() -> dict[str, Path]:
    return {
        "packaged": packaged("gate"),
        "sessions": variant(*OTHER_SESSIONS),
        "all": variant(*ALL_OTHER),
    }


class Timeless(Rig):
    """Its frames do not age, so that they can be shown to the gate again much later."""

    skew_limit = 0

    def refuse(self, frame: bytes, reason: str) -> None:
        """Asserts the reason alone: looking at all of a large gate takes long."""
        verdict, run = self.run(frame)
        assert (verdict, run.retval) == (reason, XDP_DROP)


class Adopted(Timeless):
    """What a Rig has set up, in a gate that was opened again."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.tables = gate.tables
        self.session = gate.tables.sessions.get(self.remote, self.local)


def members(gate: Gate, btf: Btf, name: str) -> dict[bytes, dict[str, Any]]:
    """A map's values by key, each by member."""
    layout = btf.map_value(name)
    return {key: layout.unpack(value).as_dict() for key, value in gate.map(name).items()}


class Books:
    """All that must be carried over."""

    def __init__(self, gate: Gate, path: Path) -> None:
        btf = Btf.from_object(path)
        names = ("sessions", "flows", "replay", "locals", "config", "lwf_sources")
        self.maps = {name: members(gate, btf, name) for name in names}
        self.counters = gate.tables.counters.read()
        self.by_interface = gate.tables.counters.by_interface()
        self.tallies = [gate.tables.tallies.read(slot) for slot in range(4)]
        self.interfaces = {
            key: block for key, block in gate.map("interfaces").items() if any(block)
        }

    def assert_carried(self, later: Books, taken_away: bool) -> None:
        """Every member that both know holds what it held; others are zero."""
        for name, entries in self.maps.items():
            found = later.maps[name]
            if name not in ("flows", "replay"):
                assert found.keys() == entries.keys()
            for key in found.keys() & entries.keys():
                self._compare(name, entries[key], found[key], taken_away)
        assert later.counters == self.counters
        assert later.by_interface == self.by_interface
        assert later.tallies == self.tallies
        assert later.interfaces == self.interfaces

    @staticmethod
    def _compare(name: str, old: dict[str, Any], new: dict[str, Any], taken_away: bool) -> None:
        for member, value in new.items():
            was = old.get(member, 0)
            if name == "flows" and taken_away and old["rx_open"]:
                if member == "rx_open":
                    assert value == 0
                    continue
                if member == "tx_pending":
                    assert value == 1
                    continue
            if name == "config" and member in ("bloom", "bloom_seed"):
                continue  # the filter is built anew each time that its table is opened
            if isinstance(value, bytes) and isinstance(was, bytes):
                length = min(len(value), len(was))
                assert value[:length] == was[:length]
                assert not any(value[length:])
            elif isinstance(value, tuple) and not isinstance(was, tuple):
                assert not any(value)
            else:
                assert value == was, (name, member)


def filled(gate: Gate) -> tuple[Rig, list[bytes]]:
    """A gate at work, and frames that it has admitted."""
    rig = Timeless(gate)
    tables = gate.tables
    tables.config.write(GateConfig(event_interval=12345))
    tables.config.renew_lease(FAR)
    terms = TermLimits(1, SEC, 2000, 1, FAR)
    tables.sessions.set_consent(
        rig.remote, rig.local, True, control=True, leased=True, limits=terms
    )
    gate.map("lwf_sources").update(bytes(range(24)), bytes(range(16)))
    for ifindex in (6, 5, 7):
        gate.tables.counters.give_block(ifindex)
    frames = [rig.frame(seq=seq, payload_len=640) for seq in (1, 2, 4)]
    frames += [rig.control(seq=1), rig.handshake(), rig.handshake(src=rig.remote)]
    for frame in frames:
        rig.admit(frame)
    for _ in range(3):
        rig.refuse(rig.frame(flip=1, seq=9), "bad_tag")
    tables.flows.raise_rx_granted(tables.flows.slot_of(rig.session, 1), 1234)
    return rig, frames


def goes_on(rig: Rig, frames: list[bytes], seq: int) -> bytes:
    """What was admitted is refused, and what comes next is admitted; returns the latter."""
    for flow in (1, 2, 4):
        rig.tables.flows.set_open(rig.tables.flows.slot_of(rig.session, flow), True)
    for frame in frames:
        rig.refuse(frame, "replay")
    rig.refuse(rig.frame(seq=seq, flip=1), "bad_tag")
    rig.refuse(rig.frame(src=rig.stranger), "unknown_source")
    rig.refuse(rig.frame(dst=rig.stranger), "unknown_destination")
    frame = rig.frame(seq=seq, payload_len=640)
    rig.admit(frame)
    rig.admit(rig.handshake(Flags.SYN | Flags.ACK, timestamp=rig.peer_time + seq))
    return frame


def layout(*members: tuple[str, int] | Field, name: str = "thing") -> Layout:
    """A struct without padding: members by name and size, or as they are."""
    fields, at = [], 0
    for member in members:
        given = member if isinstance(member, Field) else Field(member[0], 0, member[1], "int")
        fields.append(replace(given, offset=at))
        at += given.size
    return Layout(name, at, tuple(fields))


class TestConverter:
    def carry(self, old: Layout, new: Layout, /, **values: Any) -> dict[str, Any]:
        made = Converter("map m", old, new)(old.pack(**values))
        return new.unpack(made).as_dict()

    def test_members_are_found_by_name(self) -> None:
        old = layout(("a", 4), ("b", 8), ("gone", 2), ("c", 2))
        new = layout(("c", 2), ("b", 8), ("added", 4), ("a", 4))
        assert self.carry(old, new, a=1, b=2, gone=3, c=4) == {"c": 4, "b": 2, "added": 0, "a": 1}

    def test_a_default_is_for_what_was_not_there(self) -> None:
        old, new = layout(("a", 4)), layout(("a", 4), ("b", 4))
        made = Converter("map m", old, new, {"a": 8, "b": 9})(old.pack(a=1))
        assert new.unpack(made).as_dict() == {"a": 1, "b": 9}

    @pytest.mark.parametrize("value", [0, 1, 255])
    def test_numbers_may_change_their_width(self, value: int) -> None:
        narrow, wide = layout(("a", 1)), layout(("a", 8))
        assert self.carry(narrow, wide, a=value) == {"a": value}
        assert self.carry(wide, narrow, a=value) == {"a": value}

    def test_a_number_that_does_not_fit(self) -> None:
        with pytest.raises(FailedPrecondition, match="map m: member a of thing") as caught:
            self.carry(layout(("a", 8)), layout(("a", 2)), a=0xABCDE)
        assert str(0xABCDE) not in str(caught.value)

    def test_signs(self) -> None:
        signed = layout(Field("a", 0, 4, "int", signed=True))
        assert self.carry(signed, layout(Field("a", 0, 8, "int", signed=True)), a=-5) == {"a": -5}
        with pytest.raises(FailedPrecondition, match="member a"):
            self.carry(signed, layout(("a", 8)), a=-5)

    @pytest.mark.parametrize("kind", ["ints", "bytes"])
    def test_arrays_grow_and_shrink(self, kind: str) -> None:
        width = 8 if kind == "ints" else 1
        short, long = (
            layout(Field("a", 0, width * count, kind, count=count), ("b", 4)) for count in (2, 4)
        )
        assert tuple(self.carry(short, long, a=(1, 2), b=7)["a"]) == (1, 2, 0, 0)
        assert tuple(self.carry(long, short, a=(1, 2, 0, 0), b=7)["a"]) == (1, 2)
        with pytest.raises(FailedPrecondition, match="member a"):
            self.carry(long, short, a=(1, 2, 0, 3), b=7)

    def test_structs_within(self) -> None:
        inner, outer = layout(("x", 4), ("y", 4)), layout(("y", 8), ("z", 4), ("x", 4))
        old = layout(Field("s", 0, 8, "struct", layout=inner), ("a", 4))
        new = layout(("a", 4), Field("s", 0, 16, "struct", layout=outer))
        assert self.carry(old, new, s={"x": 1, "y": 2}, a=3)["s"].as_dict() == {
            "y": 2, "z": 0, "x": 1,
        }  # fmt: skip

    def test_another_kind(self) -> None:
        old, new = layout(("a", 4)), layout(Field("a", 0, 4, "bytes", count=4))
        with pytest.raises(FailedPrecondition, match="member a of thing has become something"):
            Converter("map m", old, new)

    def test_a_session_of_before_there_were_terms(self) -> None:
        """It comes over as one that is held to none."""
        new = Btf.from_object(packaged("gate")).map_value("sessions")
        members = tuple(field for field in new.fields if field.name not in LINE_4)
        old = replace(new, size=256, fields=members)
        before = {"flags": 5, "session_id": 7, "bare_seen": 9, "departing_admission": b"\1" * 32}
        carried = new.unpack(Converter("map sessions", old, new)(old.pack(**before)))
        assert carried == new.unpack(new.pack(**before))
        assert not any(carried.pack()[256:])
        shapes = [Shape(HASH, 8, 0, layout(("key", 32)), one) for one in (old, new)]
        essential = dict.fromkeys(("config", "locals", "flows", "replay"), shapes[1])
        fates = migrate.plan(
            "x", essential | {"sessions": shapes[0]}, essential | {"sessions": shapes[1]}
        ).fates
        assert {name for name, fate in fates.items() if fate is Fate.CARRIED} == {"sessions"}


NUMBER = layout(("value", 4), name="")


def shapes(**changed: Shape | None) -> dict[str, Shape]:
    """Maps of a gate, some of them other ones, or missing."""
    names = ("config", "locals", "sessions", "flows", "replay", "counters", "bloom")
    usual: dict[str, Shape | None] = {name: Shape(ARRAY, 8, 0, NUMBER, NUMBER) for name in names}
    return {name: shape for name, shape in {**usual, **changed}.items() if shape is not None}


class TestPlan:
    def fates(self, old: dict[str, Shape], new: dict[str, Shape]) -> dict[str, str]:
        found = migrate.plan("one", old, new).fates
        return {name: str(fate) for name, fate in found.items() if fate is not Fate.KEPT}

    def test_the_same(self) -> None:
        plan = migrate.plan("one", shapes(), shapes())
        assert not plan.is_needed
        assert not plan.shut

    @pytest.mark.parametrize(
        ("name", "with_it", "shut"),
        [
            ("counters", set(), False),
            ("sessions", set(), False),
            ("bloom", {"config"}, False),
            ("flows", {"config"}, True),
            ("replay", {"config"}, True),
        ],
    )
    def test_one_is_larger(self, name: str, with_it: set[str], shut: bool) -> None:
        new = shapes(**{name: Shape(ARRAY, 9, 0, NUMBER, NUMBER)})
        assert self.fates(shapes(), new) == dict.fromkeys({name, *with_it}, "carried")
        assert migrate.plan("one", shapes(), new).shut is shut

    def test_what_was_for_the_moment_begins_anew(self) -> None:
        old = shapes(
            seen=Shape(LRU_HASH, 8, 0, NUMBER, NUMBER), doors=Shape(XSKMAP, 8, 0, None, None)
        )
        new = shapes(
            seen=Shape(LRU_HASH, 9, 0, NUMBER, NUMBER), doors=Shape(XSKMAP, 9, 0, None, None)
        )
        assert self.fates(old, new) == {"seen": "renewed", "doors": "renewed"}

    def test_what_is_not_there(self) -> None:
        assert self.fates(shapes(counters=None), shapes()) == {"counters": "created"}
        assert self.fates(shapes(), shapes(counters=None)) == {}
        with pytest.raises(FailedPrecondition, match="not whole: it has no map replay"):
            migrate.plan("one", shapes(replay=None), shapes())

    @pytest.mark.parametrize(
        "other",
        [
            {"counters": Shape(HASH, 8, 0, NUMBER, NUMBER)},
            {"replay": Shape(ARRAY, 8, 0, NUMBER, layout(("value", 8), name=""))},
        ],
    )
    def test_another_kind(self, other: dict[str, Shape]) -> None:
        with pytest.raises(FailedPrecondition, match=f"map {next(iter(other))} has become"):
            migrate.plan("one", shapes(), shapes(**other))


class TestLayouts:
    """Each direction: a newer gate, and one of before."""

    @pytest.mark.parametrize("other", ["sessions", "all"])
    @pytest.mark.parametrize("forward", [True, False], ids=["to_packaged", "from_packaged"])
    def test_all_is_carried_over(
        self, pin_root: Path, builds: dict[str, Path], other: str, forward: bool
    ) -> None:
        first, second = builds[other], builds["packaged"]
        if not forward:
            first, second = second, first
        with Gate.open(INSTANCE, CHAPTER, pin_root, first) as old:
            _, frames = filled(old)
            before = Books(old, first)
        with Gate.open(INSTANCE, CHAPTER, pin_root, second) as new:
            assert new.adopted
            carried = {name for name, fate in new.migrated.items() if fate == "carried"}
            assert carried == (
                {"sessions"} if other == "sessions" else {"sessions", "counters", "flows", "config"}
            )
            before.assert_carried(Books(new, second), other == "all")
            frames.append(goes_on(Adopted(new), frames, 5))
            ids = {name: new.map(name).id for name in new.map_names}
        with Gate.open(INSTANCE, CHAPTER, pin_root, second) as again:
            assert again.migrated == {}
            assert {name: again.map(name).id for name in again.map_names} == ids
        assert [path.name for path in pin_root.iterdir()] == [INSTANCE]
        with Gate.open(INSTANCE, CHAPTER, pin_root, first) as back:
            assert back.migrated
            goes_on(Adopted(back), frames, 6)

    def test_what_does_not_fit_any_more_is_refused(
        self, pin_root: Path, builds: dict[str, Path]
    ) -> None:
        with Gate.open(INSTANCE, CHAPTER, pin_root, builds["sessions"]) as gate:
            rig, _ = filled(gate)
            rig.install(session_id=1 << 32)
            before = pinned(pin_root)
        with pytest.raises(FailedPrecondition, match="map sessions: member session_id"):
            Gate.open(INSTANCE, CHAPTER, pin_root)
        assert pinned(pin_root) == before
        with Gate.open(INSTANCE, CHAPTER, pin_root, builds["sessions"]) as gate:
            assert gate.migrated == {}
            Adopted(gate).admit(Adopted(gate).frame(seq=1))

    def test_a_map_that_was_not_there_is_created(self, pin_root: Path) -> None:
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            _, frames = filled(gate)
        for name in ("bloom", "lwf_seen", "tallies"):
            Map.unpin(pin_root / INSTANCE / "maps" / name)
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            created = {name for name, fate in gate.migrated.items() if fate == "created"}
            assert created == {"bloom", "lwf_seen", "tallies"}
            goes_on(Adopted(gate), frames, 5)
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            assert gate.migrated == {}

    @pytest.mark.parametrize("name", ["replay", "flows", "sessions", "locals", "config"])
    def test_a_damaged_instance_is_refused(self, pin_root: Path, name: str) -> None:
        Gate.open(INSTANCE, CHAPTER, pin_root).close()
        Map.unpin(pin_root / INSTANCE / "maps" / name)
        with pytest.raises(FailedPrecondition, match=rf"not whole.*{name}"):
            Gate.open(INSTANCE, CHAPTER, pin_root)

    def test_an_open_flow_is_taken_from_its_endpoint(
        self, pin_root: Path, builds: dict[str, Path]
    ) -> None:
        """It holds the old line, and reads there that it is over."""
        with Gate.open(INSTANCE, CHAPTER, pin_root, builds["all"]) as gate:
            rig, _ = filled(gate)
            line = rig.tables.flows.slot_of(rig.session, 1)
            endpoints = Map.open_pinned(pin_root / INSTANCE / "maps" / "flows")
            layout = Btf.from_object(builds["all"]).map_value("flows")
        with endpoints, Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            old = layout.unpack(endpoints.lookup(line.to_bytes(4, "little")) or b"")
            new = gate.tables.flows.read(line)
            closed = gate.tables.flows.read(line + 4)
            assert (old.replay_len, old.rx_open) == (0, 0)
            assert (new.rx_open, new.tx_pending, new.replay_len) == (0, 1, 2048)
            assert (closed.rx_open, closed.tx_pending) == (0, 0)
            Adopted(gate).refuse(Adopted(gate).frame(seq=5), "no_endpoint")


def pinned(pin_root: Path) -> dict[str, int]:
    """Everything that is pinned, by path, and the kernel's numbers."""
    found = {}
    for pin in pin_root.rglob("*"):
        kind = {"maps": Map, "programs": Program}.get(pin.parent.name)
        if kind is not None:
            with kind.open_pinned(pin) as thing:
                found[str(pin.relative_to(pin_root))] = thing.id
    return found


class TestProfiles:
    def test_there_and_back(self, pin_root: Path) -> None:
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            _, frames = filled(gate)
            before = Books(gate, packaged("gate"))
        for seq, profile in ((5, DEFAULT), (6, CHAPTER)):
            with Gate.open(INSTANCE, profile, pin_root) as gate:
                assert gate.adopted
                for name, count in profile.capacities().items():
                    assert gate.map(name).max_entries == count
                after = Books(gate, packaged("gate"))
                before.assert_carried(after, taken_away=True)
                frames.append(goes_on(Adopted(gate), frames, seq))
                before = Books(gate, packaged("gate"))

    @pytest.mark.parametrize(
        ("name", "smaller"),
        [
            ("sessions", replace(CHAPTER, sessions=1)),
            ("sessions", replace(CHAPTER, connections=0)),
            ("flows", replace(CHAPTER, flows=5)),
            ("replay", replace(CHAPTER, replay_chunks=4)),
            ("locals", replace(CHAPTER, locals=1)),
            ("tallies", replace(CHAPTER, tallies=1)),
            ("lwf_sources", replace(CHAPTER, relay_sources=1)),
        ],
    )
    def test_too_small(self, pin_root: Path, name: str, smaller: Profile) -> None:
        smaller = replace(smaller, relay_routes=32)  # so that there is something to do at all
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            rig, frames = filled(gate)
            rig.tables.locals.put(rig.guest, 1)
            gate.map("lwf_sources").update(bytes(24), bytes(16))
            before, pins = Books(gate, packaged("gate")), pinned(pin_root)
        with pytest.raises(ResourceExhausted, match=f"map {name}: "):
            Gate.open(INSTANCE, smaller, pin_root)
        assert pinned(pin_root) == pins
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            assert gate.migrated == {}
            before.assert_carried(Books(gate, packaged("gate")), taken_away=False)
            Adopted(gate).refuse(frames[0], "replay")

    def test_as_small_as_can_be(self, pin_root: Path) -> None:
        """What sessions that are gone have left behind takes no room."""
        with Gate.open(INSTANCE, DEFAULT, pin_root) as gate:
            rig = Timeless(gate)
            for number in range(100, 180):
                remote = CellID(number.to_bytes(16, "big"))
                rig.tables.sessions.provision(remote, rig.local, KEY, covenanted=True)
                spec = SessionSpec(remote, rig.local, number, KEY, flows=(FlowSpec(1, 10),))
                rig.tables.sessions.install(spec)
            for number in range(100, 180):
                rig.tables.sessions.delete(CellID(number.to_bytes(16, "big")), rig.local)
            rig.admit(rig.frame())
        with Gate.open(INSTANCE, CHAPTER, pin_root) as gate:
            goes_on(Adopted(gate), [], 2)


@pytest.fixture
def attached(pin_root: Path) -> Iterator[str]:
    """The name of an interface of one's own."""
    name = f"am{os.getpid()}"
    command = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"]
    subprocess.run(command, check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


class BoomError(Exception):
    """A step that fails."""


# All that a migration does to the kernel.
STEPS: tuple[tuple[Any, str], ...] = (
    (Map, "pin"), (Program, "pin"), (Link, "pin"), (Link, "update_program"), (Map, "update"),
    (Map, "update_batch"), (Map, "update_per_cpu"), (bpffs, "exchange"), (gate, "_remove_tree"),
    (migrate, "wait_for_readers"), (Path, "mkdir"), (Path, "rmdir"), (clsact, "put"),
)  # fmt: skip


def before_steps(patch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Has `act` called with its number before each step, from 1."""
    taken = [0]

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **options: Any) -> Any:
            taken[0] += 1
            act(taken[0])
            return real(*args, **options)

        patch.setattr(owner, name, step)

    for owner, name in STEPS:
        wrap(owner, name)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pytest
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from tests.packet.test_migration import before_steps

def act(step):
    if step == {number}:
        os.kill(os.getpid(), signal.SIGKILL)

before_steps(pytest.MonkeyPatch(), act)
Gate.open({instance!r}, CHAPTER, Path({pin_root!r}))
"""


def open_failing(pin_root: Path, number: int) -> bool:
    """Opens the packaged gate; the step of that number fails. Returns whether there was none."""

    def act(step: int) -> None:
        if step == number:
            raise BoomError

    with pytest.MonkeyPatch.context() as patch:
        before_steps(patch, act)
        try:
            Gate.open(INSTANCE, CHAPTER, pin_root).close()
        except BoomError:
            return False
        return True


def open_killed(pin_root: Path, number: int) -> bool:
    """The same in a process of its own, which is killed before that step."""
    code = KILLED.format(root=str(ROOT), number=number, instance=INSTANCE, pin_root=str(pin_root))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "controlplane")},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


@pytest.mark.netns
class TestInterruptions:
    """From the older build to the packaged one, with a step that fails: then the next one opens."""

    def interrupt(
        self,
        pin_root: Path,
        builds: dict[str, Path],
        interface: str,
        number: int,
        attempt: Callable[[Path, int], bool],
        follower: str,
    ) -> bool:
        with Gate.open(INSTANCE, CHAPTER, pin_root, builds["all"]) as old:
            _, frames = filled(old)
            old.attach(interface)
            counted = old.tables.counters.read()
        program = f"{INSTANCE}/programs/gate"
        was = pinned(pin_root)[program]
        is_over = attempt(pin_root, number)
        is_new = pinned(pin_root)[program] != was
        with Gate.open(INSTANCE, CHAPTER, pin_root, builds[follower]) as found:
            if is_new == (follower == "packaged"):
                assert found.migrated == {}, "it was there, whole"
            with Link.open_pinned(pin_root / INSTANCE / "links" / interface) as link:
                assert link.program_id == found.program.id
            ifindex = socket.if_nametoindex(interface)
            assert found.egress.state(ifindex) is EgressState.ATTACHED
            assert [path.name for path in pin_root.iterdir()] == [INSTANCE]
            parts = {path.name for path in (pin_root / INSTANCE).iterdir()}
            assert parts == {"maps", "programs", "links"}
            for name, totals in found.tables.counters.read().items():
                assert totals.frames >= counted[name].frames
            goes_on(Adopted(found), frames, 5)
            found.destroy()
        return is_over

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("follower", ["packaged", "all"])
    def test_a_step_that_fails(
        self, pin_root: Path, builds: dict[str, Path], attached: str, follower: str
    ) -> None:
        """At each step; under `make soak` with either follower, else with one or the other."""
        stride = 1 if SOAK else 2
        number = stride if follower == "all" else 1
        while not self.interrupt(pin_root, builds, attached, number, open_failing, follower):
            number += stride
        assert number > 40, "so many steps there are"

    @pytest.mark.timeout(600)
    def test_a_process_that_is_killed(
        self, pin_root: Path, builds: dict[str, Path], attached: str
    ) -> None:
        """At every third step: those before and after are of the same kind."""
        number = 1
        while not self.interrupt(
            pin_root, builds, attached, number, open_killed, ("packaged", "all")[number % 2]
        ):
            number += 3
        assert number > 40
