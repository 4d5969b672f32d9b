# SPDX-License-Identifier: Apache-2.0
"""A gate from its creation to its end: pins, adoption, replacement, limits, and what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assent.dataplane import profiles
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Link, Map, Object, enable_run_stats
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER, DEFAULT, Profile
from assent.dataplane.slots import RunAllocator
from assent.dataplane.tables import FlowSpec, GateConfig, SessionSpec
from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.wire.cellid import CellID

ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(16)


def cell(number: int) -> CellID:
    return CellID(number.to_bytes(16, "big"))


@pytest.fixture
def interface(request: pytest.FixtureRequest) -> Iterator[str]:
    """A veth of one's own; its name has a dot, as those of VLAN interfaces do."""
    name = f"as{abs(hash((request.node.nodeid, os.getpid()))) % 10**8}.1"
    subprocess.run(
        ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True
    )
    yield name
    subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def compiled(
    tmp_path: Path, program: str, header: str = "tables.h", old: str = "", new: str = ""
) -> Path:
    """A gate with another program, or with a line of a shared header changed."""
    sources = tmp_path / "bpf"
    shutil.copytree(ROOT / "bpf", sources)
    (sources / "gate.bpf.c").write_text(program)
    shared = sources / "include" / "assent" / header
    text = shared.read_text()
    assert old in text
    shared.write_text(text.replace(old, new) if old else text)
    out = tmp_path / "objects"
    subprocess.run(["make", "-s", "-C", sources, f"OUT={out}", f"{out}/gate.bpf.o"], check=True)
    return out / "gate.bpf.o"


NEWER = """
#include "gate.h"
SEC("xdp") int gate(struct xdp_md *ctx)
{
	int action = gate_run(ctx);

	return action == XDP_DROP ? XDP_ABORTED : action;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
OTHER = """
#include "gate.h"
SEC("xdp") int other(struct xdp_md *ctx) { return XDP_PASS; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def ids(gate: Gate) -> dict[str, int]:
    return {name: gate.map(name).id for name in gate.map_names} | {"program": gate.program.id}


class TestOpen:
    def test_creates_pins_and_adopts(self, pin_root: Path) -> None:
        with Gate.open("one", CHAPTER, pin_root) as gate:
            assert not gate.adopted
            assert gate.tables.config.read() == GateConfig()
            gate.tables.config.write(GateConfig(event_interval=5))
            gate.tables.locals.put(cell(1), 3)
            made = ids(gate)
        pins = {str(p.relative_to(pin_root)) for p in pin_root.rglob("*") if p.is_file()}
        assert pins == {
            "one/programs/egress",
            "one/programs/gate",
            *(f"one/maps/{name}" for name in made if name != "program"),
        }
        with Gate.open("one", CHAPTER, pin_root) as gate:
            assert gate.adopted
            assert ids(gate) == made
            assert gate.tables.config.read().event_interval == 5
            assert [local.index for local in gate.tables.locals.list()] == [3]
            gate.destroy()
        assert not pin_root.exists()

    def test_instances_are_apart(self, pin_root: Path) -> None:
        with Gate.open("one", CHAPTER, pin_root) as one, Gate.open("two", CHAPTER, pin_root) as two:
            one.tables.locals.put(cell(1), 0)
            assert two.tables.locals.list() == []
            one.destroy()
            assert (pin_root / "two").is_dir()
            two.destroy()

    def test_the_allocator_is_rebuilt(self, pin_root: Path) -> None:
        spec = SessionSpec(cell(1), cell(2), 1, KEY, flows=(FlowSpec(1), FlowSpec(3)))
        with Gate.open("one", CHAPTER, pin_root) as gate:
            gate.tables.sessions.provision(cell(1), cell(2), KEY, covenanted=True)
            first = gate.tables.sessions.install(spec)
        with Gate.open("one", CHAPTER, pin_root) as gate:
            sessions = gate.tables.sessions
            assert sessions.list() == [first]
            sessions.provision(cell(3), cell(2), KEY, covenanted=True)
            second = sessions.install(SessionSpec(cell(3), cell(2), 2, KEY, flows=(FlowSpec(1),)))
            assert second.flow_base >= first.flow_base + first.flow_count
            rings = set()
            for entry in (first, second):
                for number in range(entry.flow_count):
                    flow = gate.tables.flows.read(entry.flow_base + number)
                    if flow.replay_len:
                        ring = range(flow.replay_base, flow.replay_base + flow.replay_mask + 1)
                        assert rings.isdisjoint(ring)
                        rings.update(ring)

    @pytest.mark.parametrize("name", ["", "A", "a_b", "a/b", "..", "a" * 33, "a b", "é"])
    def test_names(self, pin_root: Path, name: str) -> None:
        with pytest.raises(InvalidArgument, match="instance"):
            Gate.open(name, CHAPTER, pin_root)

    def test_remains_of_dead_processes_are_swept(self, pin_root: Path) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        (pin_root / f"_new-one-{dead.pid}" / "maps").mkdir(parents=True)
        with Gate.open("one", CHAPTER, pin_root) as gate:
            assert [path.name for path in pin_root.iterdir()] == ["one"]
            gate.destroy()

    def test_a_failure_leaves_nothing(
        self, pin_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: object, path: Path) -> None:
            raise FailedPrecondition("no")

        monkeypatch.setattr("assent.dataplane.libbpf.Program.pin", fail)
        with pytest.raises(FailedPrecondition, match="no"):
            Gate.open("one", CHAPTER, pin_root)
        assert list(pin_root.iterdir()) == []
        pin_root.rmdir()


class TestProfiles:
    @pytest.mark.parametrize("profile", [CHAPTER, DEFAULT], ids=lambda p: p.name)
    def test_capacities(self, profile: Profile) -> None:
        with Gate.private(profile) as gate:
            for name, count in profile.capacities().items():
                assert gate.map(name).max_entries == count

    def test_the_objects_own_are_the_default_ones(self) -> None:
        with Object.open(packaged("gate")) as loaded:
            loaded.load()
            for name, count in DEFAULT.capacities().items():
                with loaded.map(name) as table:
                    assert table.max_entries == count

    def test_by_name(self) -> None:
        assert profiles.profile("large").sessions == 1_000_000
        with pytest.raises(NotFound, match="chapter, default, deep-space, large"):
            profiles.profile("huge")


class TestReplacement:
    def test_a_newer_program_takes_over(
        self, pin_root: Path, tmp_path: Path, interface: str
    ) -> None:
        newer = compiled(tmp_path, NEWER)
        unknown = bytes(12) + b"\x88\xb5" + bytes(64)
        with Gate.open("one", CHAPTER, pin_root) as gate:
            gate.tables.locals.put(cell(1), 3)
            gate.attach(interface)
            before = ids(gate)
            assert gate.program.test_run(unknown).retval == 1
        with Gate.open("one", CHAPTER, pin_root, newer) as gate:
            after = ids(gate)
            assert gate.adopted
            assert gate.program.test_run(unknown).retval == 0
            assert after.pop("program") != before.pop("program")
            assert after == before
            assert gate.tables.locals.list()[0].index == 3
            (pin,) = (pin_root / "one" / "links").iterdir()
            with Link.open_pinned(pin) as link:
                assert link.program_id == gate.program.id
        with Gate.open("one", CHAPTER, pin_root, newer) as gate:
            assert gate.program.test_run(unknown).retval == 0

    def test_half_an_instance_is_refused(self, pin_root: Path) -> None:
        Gate.open("one", CHAPTER, pin_root).close()
        Map.unpin(pin_root / "one" / "maps" / "replay")
        with pytest.raises(FailedPrecondition, match=r"not whole.*replay"):
            Gate.open("one", CHAPTER, pin_root)


@pytest.mark.netns
class TestAttach:
    @pytest.mark.parametrize("mode", ["native", "generic"])
    def test_attach_and_detach(self, pin_root: Path, interface: str, mode: Any) -> None:
        with Gate.open("one", CHAPTER, pin_root) as gate:
            made = gate.attach(interface, mode)
            assert (made.ifname, made.mode) == (interface, mode)
            assert gate.attach(interface, mode) == made
            assert gate.attachments() == [made]
        with Gate.open("one", CHAPTER, pin_root) as gate:
            assert gate.attachments() == [made]
            gate.detach(interface)
            assert gate.attachments() == []
            with pytest.raises(NotFound):
                gate.detach(interface)

    def test_one_gate_an_interface(self, pin_root: Path, interface: str) -> None:
        with Gate.open("one", CHAPTER, pin_root) as one, Gate.open("two", CHAPTER, pin_root) as two:
            one.attach(interface)
            with pytest.raises(AlreadyExists, match="another XDP program"):
                two.attach(interface)
            with pytest.raises(AlreadyExists, match="mode native"):
                one.attach(interface, "generic")

    def test_destroy_detaches(self, pin_root: Path, interface: str) -> None:
        with Gate.open("one", CHAPTER, pin_root) as gate:
            gate.attach(interface)
            gate.destroy()
        shown = subprocess.run(
            ["ip", "link", "show", interface], capture_output=True, text=True, check=True
        )
        assert "xdp" not in shown.stdout

    def test_an_interface_that_went(self, pin_root: Path, interface: str) -> None:
        with Gate.open("one", CHAPTER, pin_root) as gate:
            gate.attach(interface)
            subprocess.run(["ip", "link", "del", interface], check=True)
            assert [found.ifindex for found in gate.attachments()] == [0]
            with pytest.raises(NotFound, match="no interface"):
                gate.attach(interface)
            subprocess.run(
                ["ip", "link", "add", interface, "type", "veth", "peer", "name", f"{interface}p"],
                check=True,
            )
            assert gate.attach(interface).ifindex > 0
            assert len(gate.attachments()) == 1

    def test_modes(self, pin_root: Path, interface: str) -> None:
        with (
            Gate.open("one", CHAPTER, pin_root) as gate,
            pytest.raises(InvalidArgument, match="native, generic"),
        ):
            gate.attach(interface, "fast")  # type: ignore[arg-type]

    def test_no_native_xdp(self, pin_root: Path) -> None:
        with (
            Gate.open("one", CHAPTER, pin_root) as gate,
            pytest.raises(FailedPrecondition, match="use mode generic"),
        ):
            gate.attach("lo", "native")


class TestLimits:
    def test_a_full_session_table(self, rig: Any) -> None:
        sessions = rig.tables.sessions
        for number in range(CHAPTER.sessions - 2):  # the rig has made two
            sessions.provision(cell(number), rig.local, KEY, covenanted=True)
        before = rig.state()
        with pytest.raises(
            ResourceExhausted, match=f"sessions is full: it holds {CHAPTER.sessions}"
        ):
            sessions.provision(cell(99), rig.local, KEY, covenanted=True)
        with pytest.raises(NotFound, match="provision"):
            sessions.install(rig.spec(remote=cell(99)))
        after = rig.state()
        # The filter may go on letting the pair through that the table had no room for.
        assert {**after, "bloom": before["bloom"]} == before
        rig.install()  # what is there can still be replaced

    def test_no_flow_slots(self, rig: Any) -> None:
        before = rig.state()
        with pytest.raises(ResourceExhausted, match="flow slots"):
            rig.install(flows=(FlowSpec(CHAPTER.flows),))
        assert rig.state() == before

    def test_no_replay_chunks(self, rig: Any) -> None:
        before = rig.state()
        wanted = tuple(FlowSpec(number, replay_len=8192) for number in range(1, 60))
        with pytest.raises(ResourceExhausted, match="replay chunks"):
            rig.install(flows=wanted)
        assert rig.state() == before
        rig.install()  # what was taken has been given back
        rig.admit(rig.frame())

    @pytest.mark.parametrize("failing", ["replay", "flows", "sessions"])
    def test_a_failing_step_leaves_nothing_behind(
        self, rig: Any, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        sessions = rig.tables.sessions
        free = (sessions._slots.free, sessions._chunks.free)
        table_before = dict(rig.gate.map("sessions").items())
        for name in ("update", "update_batch"):
            real = getattr(Map, name)

            def fail(self: Map, *args: Any, real: Any = real) -> None:
                if self.name == failing:
                    raise ResourceExhausted("as if")
                real(self, *args)

            monkeypatch.setattr(Map, name, fail)
        with pytest.raises(ResourceExhausted, match="as if"):
            rig.install()
        monkeypatch.undo()
        assert dict(rig.gate.map("sessions").items()) == table_before
        assert (sessions._slots.free, sessions._chunks.free) == free
        rig.admit(rig.frame())

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"rx_header_key": b"short"}, "key"),
            ({"flows": (FlowSpec(1), FlowSpec(1))}, "flows"),
            ({"flows": (FlowSpec(-1),)}, "flow"),
            ({"flows": (FlowSpec(0x10000),)}, "flow"),
            ({"flows": (FlowSpec(1, rx_window=-1),)}, "window"),
            ({"flows": (FlowSpec(1, tx_window=2**32),)}, "window"),
            ({"flows": (FlowSpec(1, replay_len=0),)}, "replay_len"),
            ({"flows": (FlowSpec(1, replay_len=8193),)}, "replay_len"),
            ({"grant_shift": 17}, "grant_shift"),
            ({"session_id": 2**32}, "session_id"),
            ({"skew_limit": -1}, "skew_limit"),
            ({"clock_offset": 2**63}, "clock_offset"),
        ],
    )
    def test_nonsense(self, rig: Any, changes: dict[str, Any], field: str) -> None:
        before = rig.state()
        with pytest.raises(InvalidArgument) as caught:
            rig.install(**changes)
        assert caught.value.field == field
        assert rig.state() == before


class TestSessions:
    def test_provisioning_again_leaves_the_session_alone(self, rig: Any) -> None:
        rig.admit(rig.frame())
        rig.tables.sessions.provision(rig.remote, rig.local, b"n" * 16, covenanted=True)
        assert rig.tables.sessions.get(rig.remote, rig.local) == rig.session
        rig.admit(rig.frame(seq=2))
        rig.refuse(rig.handshake(src=rig.remote), "bad_tag")
        rig.admit(rig.handshake(src=rig.remote, key=b"n" * 16))

    def test_what_the_gate_wrote_survives_replacement(self, rig: Any) -> None:
        syn = rig.handshake(src=rig.remote)
        rig.admit(syn)
        rig.install()
        rig.refuse(syn, "replay")
        rig.tables.sessions.uninstall(rig.remote, rig.local)
        rig.refuse(syn, "replay")

    def test_a_new_session_starts_anew(self, rig: Any) -> None:
        rig.admit(rig.frame(payload_len=640))
        old = rig.session
        new = rig.install(session_id=8)
        assert new.flow_base != old.flow_base
        assert rig.tables.flows.read(old.flow_base + 1).replay_len == 0
        assert rig.flow().rx_spent == 0
        rig.admit(rig.frame())

    def test_uninstall_goes_back_to_provisioned(self, rig: Any) -> None:
        rig.tables.sessions.uninstall(rig.remote, rig.local)
        entry = rig.tables.sessions.get(rig.remote, rig.local)
        assert not entry.established
        assert entry.covenanted
        rig.admit(rig.handshake(src=rig.remote))
        rig.tables.sessions.uninstall(rig.remote, rig.local)

    def test_delete(self, rig: Any) -> None:
        rig.tables.sessions.delete(rig.remote, rig.local)
        with pytest.raises(NotFound):
            rig.tables.sessions.get(rig.remote, rig.local)
        assert [entry.remote for entry in rig.tables.sessions.list()] == [rig.guest]

    def test_keys_are_not_shown(self, rig: Any) -> None:
        assert rig.header_key.hex() not in repr(rig.spec())
        assert "rx_header_key" not in repr(rig.spec())

    def test_grants_only_rise(self, rig: Any) -> None:
        slot = rig.tables.flows.slot_of(rig.session, 1)
        rig.tables.flows.raise_rx_granted(slot, 5000)
        rig.tables.flows.raise_rx_granted(slot, 4000)
        rig.tables.flows.raise_tx_granted(slot, 60)
        assert (rig.flow().rx_granted, rig.flow().tx_granted) == (5000, 60)
        with pytest.raises(NotFound, match="no flow 9"):
            rig.tables.flows.slot_of(rig.session, 9)
        with pytest.raises(InvalidArgument):
            rig.tables.flows.raise_rx_granted(slot, -1)
        with pytest.raises(InvalidArgument):
            rig.tables.flows.read(CHAPTER.flows)


class TestAllocator:
    def test_reuse_waits_for_the_grace_and_comes_last(self) -> None:
        now = [0]
        slots = RunAllocator("slots", 10, grace_ns=5, clock=lambda: now[0])
        assert [slots.allocate(4), slots.allocate(4)] == [0, 4]
        slots.retire(0, 4)
        assert slots.allocate(2) == 8
        with pytest.raises(ResourceExhausted, match="4 wait"):
            slots.allocate(1)
        now[0] = 4
        with pytest.raises(ResourceExhausted):
            slots.allocate(1)
        now[0] = 5
        assert slots.allocate(3) == 0

    def test_released_runs_join(self) -> None:
        slots = RunAllocator("slots", 9, 0, lambda: 0)
        runs = [slots.allocate(3) for _ in range(3)]
        for start in (runs[0], runs[2], runs[1]):
            slots.release(start, 3)
        assert slots.allocate(9) == 0

    def test_starts_with_what_is_used(self) -> None:
        slots = RunAllocator("slots", 10, 0, lambda: 0, used=[(6, 2), (1, 3)])
        assert slots.free == 5
        assert [slots.allocate(2), slots.allocate(2), slots.allocate(1)] == [4, 8, 0]


class TestMaps:
    def test_listing_is_whole_while_entries_come_and_go(self, rig: Any) -> None:
        table = rig.gate.map("locals")
        stay = {bytes(cell(number)) for number in range(1, 31)}
        for key in stay:
            table.update(key, bytes(8))
        seen = []
        for i, (key, _) in enumerate(table.items()):
            seen.append(key)
            table.update(bytes(cell(1000 + i % 20)), bytes(8))
        assert stay <= set(seen)
        assert len(seen) == len(set(seen))

    def test_run_statistics(self, rig: Any) -> None:
        with enable_run_stats():
            rig.gate.program.test_run(rig.frame(flip=1), repeat=10)
            assert rig.gate.program.run_stats() >= (0, 0)

    def test_a_frame_of_an_interface(self, rig: Any) -> None:
        """What the program sees as the interface is what its event says."""
        with rig.tables.events() as events:
            rig.gate.program.test_run(rig.frame(flip=1), ifindex=1)
            (event,) = events.read()
        assert event.ifindex == 1

    def test_errors_name_the_map(self, rig: Any) -> None:
        table = rig.gate.map("locals")
        with pytest.raises(NotFound, match="locals"):
            table.delete(bytes(16))
        with pytest.raises(InvalidArgument, match="locals takes 16 bytes"):
            table.lookup(b"x")
        with pytest.raises(NotFound, match="locals"):
            table.update(bytes(16), bytes(8), 2)
        table.update(bytes(16), bytes(8), 1)
        with pytest.raises(AlreadyExists, match="locals"):
            table.update(bytes(16), bytes(8), 1)
        for number in range(CHAPTER.locals - 2):
            table.update(bytes(cell(number + 1)), bytes(8))
        with pytest.raises(ResourceExhausted, match="locals is full: it holds 64 entries"):
            table.update(b"\xff" * 16, bytes(8))
        assert len(dict(table.items())) == CHAPTER.locals

    def test_after_close(self) -> None:
        gate = Gate.private(CHAPTER)
        gate.close()
        gate.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            gate.map("locals").lookup(bytes(16))


class TestMissing:
    """What is missing is named, and what to do about it."""

    def python(self, code: str, *before: str, **options: Any) -> str:
        command = [*before, sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
        path = str(ROOT / "controlplane")
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": path},
            **options,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_no_right(self) -> None:
        """Without capabilities: what fails first is the making of a map."""
        said = self.python(
            """
            from assent.dataplane.gate import Gate
            from assent.dataplane.profiles import CHAPTER
            from assent.errors import FailedPrecondition
            try:
                Gate.private(CHAPTER)
            except FailedPrecondition as error:
                print(error)
            """,
            # Without rights, but able to read a checkout that only root may.
            *("setpriv", "--inh-caps=-all", "--bounding-set=-all"),
        )
        assert "needs root" in said
        assert "CAP_BPF" in said

    def test_bpffs_is_mounted_where_it_is_not(self) -> None:
        said = self.python(
            """
            import subprocess
            from pathlib import Path
            from assent.dataplane.gate import Gate
            from assent.dataplane.profiles import CHAPTER
            subprocess.run(["umount", "/sys/fs/bpf"], check=True)
            assert not list(Path("/sys/fs/bpf").iterdir())
            with Gate.open("one", CHAPTER) as gate:
                print(gate.adopted)
                gate.destroy()
            """,
            *("unshare", "-m", "--propagation", "private"),
        )
        assert said == "False\n"

    def test_pins_need_a_bpf_file_system(self, tmp_path: Path) -> None:
        with pytest.raises(FailedPrecondition, match=r"not in a BPF file system.*/sys/fs/bpf"):
            Gate.open("one", CHAPTER, tmp_path)

    def test_no_object(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="make -C bpf"):
            Gate.private(CHAPTER, tmp_path / "gate.bpf.o")

    def test_no_btf(self, tmp_path: Path) -> None:
        stripped = tmp_path / "gate.bpf.o"
        subprocess.run(
            ["llvm-objcopy", "--remove-section", ".BTF", "--remove-section", ".BTF.ext",
             packaged("gate"), stripped],
            check=True,
        )  # fmt: skip
        with pytest.raises(FailedPrecondition, match=r"carries no BTF.*clang -g"):
            Gate.private(CHAPTER, stripped)

    def test_no_program(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no program 'gate'"):
            Gate.private(CHAPTER, compiled(tmp_path, OTHER))

    def test_the_verifiers_reason_is_in_the_error(self, tmp_path: Path) -> None:
        from assent.dataplane.libbpf import BpfError

        unbounded = NEWER.replace("gate_run(ctx)", "*(int *)(long)ctx->data")
        with pytest.raises(BpfError, match="invalid access to packet"):
            Gate.private(CHAPTER, compiled(tmp_path, unbounded))
