# SPDX-License-Identifier: Apache-2.0
"""A daemon is killed with SIGKILL between any two steps of what it does: see faults.py.

A cycle: the daemon starts, an operator asks it for everything that can be asked, and it dies at a
fault. Then, without it, the gate is whole and decides; a new daemon takes over, finds what was
acknowledged, and what was not either whole or absent; and the operator, who repeats the call that
was not answered, gets it.

`make test` dies once at each step, `make soak` 1,000 times anywhere. SEED repeats a run.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assent.client import ApiError, Client
from assent.dataplane.gate import Gate
from assent.dataplane.objects import packaged
from assent.demo.lab import links_of
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, keys_pb2, sessions_pb2

from .doomed import Doomed
from .faults import MOMENTS, Fault, every_step
from .hosts import Launcher, Site, ip, open_site
from .operations import CABLE, DUMMY, PSK, Operation, State, by_name, script
from .sizes import KILLS, SOAK, seed

pytestmark = [pytest.mark.netns, pytest.mark.timeout(3600 if SOAK else 300)]

# The first start alone comes to these: see test_a_gate_appears_whole_or_not_at_all.
CREATION_ONLY = {"map.pin"}


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    made.close()


def _make_cell(client: Client, name: str) -> bytes:
    made = client.cells.CreateLocal(cells_pb2.CreateLocalRequest(name=name, interface=CABLE))
    return bytes(made.public_key)


def _introduce(client: Client, name: str, public_key: bytes) -> None:
    client.cells.CreateRemote(
        cells_pb2.CreateRemoteRequest(
            name=name, public_key=public_key, consent=common_pb2.CONSENT_STANDING
        )
    )
    client.keys.SetPsk(keys_pb2.SetPskRequest(remote=by_name(name), psk=PSK))
    client.grants.Set(grants_pb2.SetGrantRequest(remote=by_name(name), flow=1, window_blocks=1000))


@contextmanager
def _doomed(pin_root: Path, launcher: Launcher) -> Iterator[Doomed]:
    with ExitStack() as stack:
        left = stack.enter_context(open_site("left", pin_root, launcher))
        right = stack.enter_context(open_site("right", pin_root, launcher))
        for name, ends in ((CABLE, (left, right)), (DUMMY, (left, left))):
            peer = "peer" if ends[0] is ends[1] else name
            ip(
                *("link", "add", name, "netns", ends[0].namespace, "type", "veth"),
                *("peer", "name", peer, "netns", ends[1].namespace),
            )
        for site in (left, right):
            with links_of(site.namespace) as links:
                for link in links.link_lookup():
                    links.link("set", index=link, state="up")
            site.start()
        keys = {}
        for site, names in ((left, ["left"]), (right, ["right", "spare"])):
            assert site.await_api(), site.log.read_text()
            with site.client() as client:
                client.fabric.Attach(fabric_pb2.AttachRequest(interface=CABLE))
                keys |= {name: _make_cell(client, name) for name in names}
        with right.client() as client:
            _introduce(client, "left", keys["left"])
        with left.client() as client:
            for name in ("right", "spare"):
                _introduce(client, name, keys[name])
            client.sessions.Connect(sessions_pb2.ConnectRequest(remote=by_name("right")))
        made = Doomed(left)
        stack.callback(made.close)
        left.kill()
        yield made


@dataclass
class Reaper:
    """Kills the daemon, and sees what is left.

    Attributes:
        doomed: the host.
        builds: of the gate; each daemon replaces the one before's.
        died: how often, by the call that was under way.
    """

    doomed: Doomed
    builds: tuple[Path, Path]
    died: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.script = script(Identity.generate().public_key)
        self._turn = 0

    def _build(self) -> Path:
        return self.builds[self._turn % 2]

    def rehearse(self, record: Path) -> Counter[str]:
        """Goes through all of it without a fault; returns how often it comes to each step."""
        self._turn += 1
        site = self.doomed.site
        site.start(gate=self._build(), record=record)
        assert site.await_api()
        with site.client() as client:
            state = self._carry_out(client, self.doomed.base, self.script)
            self._settle(client, state)
        site.kill()
        return Counter(record.read_text().split())

    def cycle(self, fault: Fault) -> bool:
        """One death, and what follows. Returns whether it came to the fault."""
        self._turn += 1
        site, state = self.doomed.site, self.doomed.base
        site.start(gate=self._build(), fault=fault)
        answered, under_way = 0, None
        if has_answered := site.await_api():
            with site.client() as client:
                for operation in self.script:
                    try:
                        operation.call(client)
                    except ApiError:
                        under_way = operation
                        break
                    answered, state = answered + 1, operation.apply(state)
        if reached := not has_answered or under_way is not None or not site.is_running:
            status = site.reap()
            assert status == -signal.SIGKILL, f"it ended by itself: {site.log.read_text()}"
            self.died[under_way.name if under_way else "idle" if has_answered else "start"] += 1
        else:
            site.kill()
        detaching = under_way is not None and under_way.name == "detach"
        self.doomed.check_dataplane(state["guarded"].keys() - ({DUMMY} if detaching else set()))

        site.start(gate=self._build())
        assert site.await_api(), site.log.read_text()
        with site.client() as client:
            found = self.doomed.observe(client)
            allowed = under_way.outcomes(state) if under_way else [state]
            assert found in allowed, f"died {fault} in {under_way}"
            self.doomed.check_all(client, found)
            if under_way and found == under_way.apply(state):
                answered += 1  # or else the operator repeats it
            self._settle(client, self._carry_out(client, found, self.script[answered:]))
        site.kill()
        return reached

    def _carry_out(self, client: Client, state: State, operations: list[Operation]) -> State:
        for operation in operations:
            operation.call(client)
            state = operation.apply(state)
        return state

    def _settle(self, client: Client, state: State) -> None:
        assert state == self.doomed.observe(client) == self.doomed.base
        self.doomed.check_all(client, state)


@pytest.fixture
def reaper(pin_root: Path, launcher: Launcher, other_gate: Path) -> Iterator[Reaper]:
    with _doomed(pin_root, launcher) as doomed:
        yield Reaper(doomed, (packaged("gate"), other_gate))


def _faults(times: Counter[str], chance: random.Random) -> Iterator[Fault]:
    """Each step once; or in a soak, any that may be reached."""
    if not SOAK:
        for step in sorted(times):
            yield Fault(step, chance.choice(MOMENTS), chance.randint(1, times[step]))
        return
    for _ in range(KILLS):
        step = chance.choice(sorted(times))
        yield Fault(step, chance.choice(MOMENTS), chance.randint(1, times[step]))


def test_the_gate_outlives_every_daemon(
    reaper: Reaper, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    number = seed() if SOAK else 1
    print(f"SEED={number}")
    chance = random.Random(number)
    times = reaper.rehearse(tmp_path / "steps")
    assert set(every_step()) - times.keys() <= CREATION_ONLY, "a step that nothing comes to"
    reached, missed = 0, []
    for fault in _faults(times, chance):
        try:
            if reaper.cycle(fault):
                reached += 1
            else:
                missed.append(fault)
        except BaseException as error:
            error.add_note(f"SEED={number}, died {fault}, after {reached} kills")
            raise
    print(f"{reached} kills", dict(reaper.died), "not reached:", [str(each) for each in missed])
    record_property("kills", reached)
    # Timers fire as they will, so that a step is now and then come to less often.
    assert len(missed) <= max(3, reached // 20)


def test_a_gate_appears_whole_or_not_at_all(
    pin_root: Path, launcher: Launcher, tmp_path: Path
) -> None:
    """The first start of a host, killed at each step; the second start is like a first one."""
    number = seed() if SOAK else 1
    chance = random.Random(number)
    with open_site("fresh", pin_root, launcher) as site:

        def begin_anew() -> None:
            Gate.remove(site.instance, pin_root)
            for directory in (site.state_dir, site.run_dir):
                shutil.rmtree(directory)

        record = tmp_path / "steps"
        site.start(record=record)
        assert site.await_api(), site.log.read_text()
        site.kill()
        pinned = _pinned(site)
        assert pinned.keys() == {"maps", "programs", "links"}
        assert pinned["programs"] == {"gate", "egress"}
        times = Counter(record.read_text().split())
        assert times.keys() >= CREATION_ONLY | {"program.pin", "file.rename", "map.update"}
        for step, moment in [(step, moment) for step in sorted(times) for moment in MOMENTS]:
            begin_anew()
            site.start(fault=Fault(step, moment, chance.randint(1, times[step])))
            if site.await_api():
                site.kill()  # it came to the fault less often, this time
            else:
                assert site.reap() == -signal.SIGKILL
            whole = site.pins.exists()
            if whole:
                assert _pinned(site) == pinned
            site.start()
            assert site.await_api(), site.log.read_text()
            with site.client() as client:
                status = client.fabric.GetStatus(fabric_pb2.GetStatusRequest())
            assert status.adopted == whole
            assert _pinned(site) == pinned
            assert not [path for path in pin_root.iterdir() if path.name.startswith("_")]
            site.kill()


def _pinned(site: Site) -> dict[str, set[str]]:
    return {part.name: {pin.name for pin in part.iterdir()} for part in site.pins.iterdir()}
