# SPDX-License-Identifier: Apache-2.0
"""LWF frames through relays: real gates on veth cables between network namespaces."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assent.client import Client
from assent.dataplane.gate import Gate
from assent.errors import AssentError
from assent.identity.hint import hint_of
from assent.identity.keys import Identity
from assent.v1.fabric_pb2 import AttachRequest, GetCountersRequest, GetStatusRequest
from assent.v1.relay_pb2 import ListRoutesRequest, ListSourcesRequest, RelayRoute
from assent.wire.lwf import NOBODY, Flags, Frame, FrameClass, Hint, Service

from .relay_chain import PIN_ROOT, Station, eventually, ip, stations

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

CHAIN = ("a", "r1", "r2", "r3", "b")
VLAN = bytes.fromhex("81006005")


@pytest.fixture
def chain() -> Iterator[dict[str, Station]]:
    """a, three relays, and b in a row; every relay knows the ways to all in both directions."""
    cables = list(itertools.pairwise(CHAIN))
    with stations(CHAIN, cables) as made:
        for at, name in enumerate(CHAIN):
            neighbours = [*CHAIN[max(at - 1, 0) : at], *CHAIN[at + 1 : at + 2]]
            made[name].gated(*neighbours)
        for at, name in enumerate(CHAIN[1:-1], start=1):
            for other in CHAIN[:at]:
                made[name].route(made[other].hint, made[CHAIN[at - 1]])
            for other in CHAIN[at + 1 :]:
                made[name].route(made[other].hint, made[CHAIN[at + 1]])
        yield made


class TestForwarding:
    @pytest.mark.parametrize("last", range(2, len(CHAIN)))
    def test_each_hop_has_its_addresses_and_all_else_is_as_it_was(
        self, chain: dict[str, Station], last: int
    ) -> None:
        first, there, before = chain["a"], chain[CHAIN[last]], chain[CHAIN[last - 1]]
        frame = first.frame(there.hint, os.urandom(500), timestamp=last)
        with there.listening(before) as sock:
            first.send(chain["r1"], frame)
            arrived = sock.recv(2048)
        assert arrived[14:] == frame
        assert arrived[:6] == there.interface(before.name).mac
        assert arrived[6:12] == before.interface(there.name).mac
        for name in CHAIN[1:last]:
            assert chain[name].count("relayed") == 1
        assert there.count("admitted") == 1

    def test_there_and_back_in_all_classes_that_the_cable_holds(
        self, chain: dict[str, Station]
    ) -> None:
        a, b = chain["a"], chain["b"]
        cases = [
            (FrameClass.MINI, 0, 1, 0),
            (FrameClass.MINI, 356, 1, 1),
            (FrameClass.STANDARD, 1194, 2, Flags.RELAYABLE),
            (FrameClass.VARIABLE, 1344, 2, Flags.RELAYABLE | Flags.ENCRYPTED),
        ]
        for number, (frame_class, payload, version, flags) in enumerate(cases):
            for source, dest, near, far in ((a, b, "r1", "r3"), (b, a, "r3", "r1")):
                frame = source.frame(
                    dest.hint,
                    os.urandom(payload),
                    frame_class=frame_class,
                    version=version,
                    flags=flags,
                    sequence=number,
                )
                with dest.listening(chain[far]) as sock:
                    source.send(chain[near], frame)
                    assert sock.recv(2048)[14:] == frame
        assert [chain[name].count("relayed") for name in CHAIN[1:-1]] == [2 * len(cases)] * 3

    def test_one_interface_counts_what_it_relays(self, chain: dict[str, Station]) -> None:
        relay = chain["r1"]
        assert relay.gate is not None
        with chain["b"].listening(chain["r3"]) as sock:
            chain["a"].send(relay, chain["a"].frame(chain["b"].hint))
            sock.recv(2048)
        counted = relay.gate.tables.counters.by_interface()
        assert counted[relay.interface("a").index]["relayed"].frames == 1
        assert counted[relay.interface("r2").index]["relayed"].frames == 0

    def test_what_is_refused_goes_nowhere(self, chain: dict[str, Station]) -> None:
        """Each is refused at the first relay: the frame that follows is the first that arrives."""
        a, b, relay = chain["a"], chain["b"], chain["r1"]
        nobody = Hint(b"\x99" * 24)
        last = a.frame(b.hint, sequence=9)
        with b.listening(chain["r3"]) as sock:
            a.send(relay, a.frame(nobody))
            a.send(relay, a.frame(b.hint, version=2))
            a.send(relay, a.frame(b.hint)[:-1])
            a.send(relay, a.frame(b.hint, service=Service.RELAY_FORWARD))
            a.send(relay, last)
            assert sock.recv(2048)[14:] == last
        for reason in ("unknown_hint", "not_relayable", "malformed", "unauthorized"):
            assert relay.count(f"lwf_{reason}") == 1
        assert chain["r2"].count("relayed") == 1

    def test_the_same_frame_does_not_arrive_twice(self, chain: dict[str, Station]) -> None:
        a, b = chain["a"], chain["b"]
        first, then = a.frame(b.hint, sequence=1), a.frame(b.hint, sequence=2)
        with b.listening(chain["r3"]) as sock:
            for frame in (first, first, then):
                a.send(chain["r1"], frame)
            assert [sock.recv(2048)[14:] for _ in range(2)] == [first, then]
        assert chain["r1"].count("lwf_loop") == 1

    def test_an_interface_that_went_leads_nowhere(self, chain: dict[str, Station]) -> None:
        a, b, relay = chain["a"], chain["b"], chain["r1"]
        ip("-n", relay.namespace, "link", "del", "to-r2")
        a.send(relay, a.frame(b.hint))
        eventually(lambda: relay.count("lwf_unknown_hint") == 1, "the frame is refused")
        assert relay.count("relayed") == 0


def test_a_ring_is_left_after_one_round() -> None:
    """
    a --- r1 --- r2      every relay sends on to the next one, and none of them delivers
            \\   /
             r3
    """
    names = ("a", "r1", "r2", "r3")
    cables = [("a", "r1"), ("r1", "r2"), ("r2", "r3"), ("r3", "r1")]
    nobody = Hint(b"\x77" * 24)
    with stations(names, cables) as made:
        made["a"].gated("r1")
        for name, before, after in (("r1", "r3", "r2"), ("r2", "r1", "r3"), ("r3", "r2", "r1")):
            made[name].gated(before, after, *(("a",) if name == "r1" else ()))
            made[name].route(nobody, made[after])
        for sequence in range(1, 4):
            made["a"].send(made["r1"], made["a"].frame(nobody, sequence=sequence))
            eventually(
                lambda expected=sequence: made["r1"].count("lwf_loop") == expected,
                "the frame came back to the first relay",
            )
            # It was refused there, so nobody sees it again.
            for name in names[1:]:
                assert made[name].count("relayed") == sequence
        assert made["r2"].count("lwf_loop") == made["r3"].count("lwf_loop") == 0


_LAUNCHER = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).setns(os.open(sys.argv[1], os.O_RDONLY), 0x40000000):
    raise SystemExit("setns failed")
from assent.service.main import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Relay:
    """A station whose gate a daemon runs."""

    station: Station
    root: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def instance(self) -> str:
        return f"relay-{self.station.name}"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "api.sock"

    def start(self) -> None:
        flags = {
            "--instance": self.instance,
            "--state-dir": self.root / "state",
            "--run-dir": self.root / "run",
            "--pin-root": PIN_ROOT,
            "--profile": "chapter",
            "--log-level": "debug",
        }
        arguments = [str(part) for pair in flags.items() for part in pair]
        namespace = f"/run/netns/{self.station.namespace}"
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, namespace, *arguments], stdout=log, stderr=log
            )
        eventually(self._answers, f"{self.station.name} answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.root / "log").read_text()
        with contextlib.suppress(AssentError), Client(self.socket) as client:
            client.fabric.GetStatus(GetStatusRequest())
            return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def remove(self) -> None:
        self.kill()
        Gate.remove(self.instance, PIN_ROOT)
        shutil.rmtree(self.root, ignore_errors=True)

    def attach(self, *towards: str) -> None:
        with Client(self.socket) as client:
            for name in towards:
                client.fabric.Attach(AttachRequest(interface=f"to-{name}"))

    def cli(self, *arguments: str) -> Any:
        """Runs `assent relay`, as a user would type it; returns its JSON."""
        command = [sys.executable, "-m", "assent.cli.main", "--socket", str(self.socket)]
        done = subprocess.run(
            [*command, "--json", "relay", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def allow(self, name: str, identity: Identity) -> None:
        self.cli("add-source", name, "--public-key", identity.public_key.hex())

    def count(self, reason: str) -> int:
        with Client(self.socket) as client:
            reply = client.fabric.GetCounters(GetCountersRequest())
        return sum(each.frames for each in reply.counters if each.reason == reason)

    def registered(self) -> dict[bytes, RelayRoute]:
        with Client(self.socket) as client:
            routes = client.relay.ListRoutes(ListRoutesRequest()).routes
        return {route.hint: route for route in routes if route.registered}

    def refusals(self, name: str) -> dict[str, int]:
        with Client(self.socket) as client:
            sources = client.relay.ListSources(ListSourcesRequest()).sources
        (found,) = (each.refusals for each in sources if each.name == name)
        return {each.reason: each.frames for each in found}


@dataclass
class Mesh:
    """a --- r1 --- r2 --- b, daemons on both relays; a may register at both."""

    a: Station
    b: Station
    r1: Relay
    r2: Relay

    def registration(self, dest: Hint = NOBODY, *, timestamp: int, **fields: Any) -> bytes:
        return self.a.frame(dest, service=Service.RELAY_FORWARD, timestamp=timestamp, **fields)

    def register(self, timestamp: int = 1) -> None:
        """a registers at r1."""
        self.a.send(self.r1.station, self.registration(timestamp=timestamp))
        eventually(lambda: bytes(self.a.hint) in self.r1.registered(), "r1 knows a")


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    names = ("a", "r1", "r2", "b")
    cables = [("a", "r1"), ("r1", "r2"), ("r2", "b")]
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(stations(names, cables))
        made["a"].gated("r1")
        made["b"].gated("r2")
        relays = {}
        for name, neighbours in (("r1", ("a", "r2")), ("r2", ("r1", "b"))):
            relay = Relay(made[name], Path(tempfile.mkdtemp(prefix="assent-relay-", dir="/tmp")))
            undo.callback(relay.remove)
            relay.start()
            relay.attach(*neighbours)
            relay.cli("set-route", str(relay.station.hint), "--local")
            relay.allow("a", made["a"].identity)
            relays[name] = relay
        r2 = made["r2"]
        mac = r2.interface("r1").mac.hex(":")
        relays["r1"].cli("set-route", str(r2.hint), "--interface", "to-r2", "--via", mac)
        yield Mesh(made["a"], made["b"], relays["r1"], relays["r2"])


class TestRegistration:
    def test_the_way_back_is_there_when_its_destination_has_registered(self, mesh: Mesh) -> None:
        a, b, r1, r2 = mesh.a, mesh.b, mesh.r1, mesh.r2
        b.send(r2.station, b.frame(a.hint, b"too early"))
        eventually(lambda: r2.count("lwf_unknown_hint") == 1, "nobody knows a yet")

        mesh.register()
        route = r1.registered()[bytes(a.hint)]
        assert (route.source_name, route.interface) == ("a", "to-a")
        assert (route.mac, route.installed) == (a.interface("r1").mac.hex(":"), True)
        assert 0 < route.expires_in_ns <= 600 * 10**9

        # At the second relay by the first, which sends on what is for another one.
        a.send(r1.station, mesh.registration(r2.station.hint, timestamp=2))
        eventually(lambda: bytes(a.hint) in r2.registered(), "r2 knows a")
        route = r2.registered()[bytes(a.hint)]
        assert route.interface == "to-r1"
        assert route.mac == r1.station.interface("r2").mac.hex(":")

        frame = b.frame(a.hint, os.urandom(1000))
        with a.listening(r1.station) as sock:
            b.send(r2.station, frame)
            arrived = sock.recv(2048)
        assert arrived[14:] == frame
        assert arrived[:6] == a.interface("r1").mac
        assert arrived[6:12] == r1.station.interface("a").mac
        assert [r1.count("relayed"), r2.count("relayed")] == [2, 1]

    def test_a_stranger_is_refused_in_the_kernel(self, mesh: Mesh) -> None:
        stranger = Station("a")
        frame = stranger.frame(NOBODY, service=Service.RELAY_FORWARD, timestamp=1)
        mesh.a.send(mesh.r1.station, frame)
        eventually(lambda: mesh.r1.count("lwf_unauthorized") == 1, "the gate refuses it")
        assert mesh.r1.registered() == {}
        assert mesh.r1.count("admitted") == 0

    def test_a_forged_signature_registers_nobody(self, mesh: Mesh) -> None:
        forger = Identity.generate()
        genuine = Frame.decode(mesh.registration(timestamp=1))
        forged = Frame(genuine.header, signature=forger.sign(genuine.signed_bytes))
        mesh.a.send(mesh.r1.station, forged.encode())
        eventually(lambda: mesh.r1.refusals("a") == {"SignatureError": 1}, "r1 refuses it")
        assert mesh.r1.count("admitted") == 1
        assert mesh.r1.registered() == {}
        # The forged frame had the very header of the genuine one, which the gate has seen now.
        mesh.a.send(mesh.r1.station, genuine.encode())
        eventually(lambda: mesh.r1.count("lwf_loop") == 1, "the gate knows that header")
        mesh.register(timestamp=2)

    def test_a_damaged_frame_registers_nobody(self, mesh: Mesh) -> None:
        frame = bytearray(mesh.registration(timestamp=1))
        frame[-1] ^= 1
        mesh.a.send(mesh.r1.station, bytes(frame))
        eventually(lambda: mesh.r1.refusals("a") == {"FrameError": 1}, "r1 refuses it")
        assert mesh.r1.registered() == {}

    def test_what_was_sent_before_registers_nobody(self, mesh: Mesh) -> None:
        """The same frame is refused in the kernel, an older one by the daemon; by the next one
        too, for the store remembers."""
        withheld = mesh.registration(timestamp=4)
        mesh.register(timestamp=5)
        mesh.a.send(mesh.r1.station, mesh.registration(timestamp=5))
        eventually(lambda: mesh.r1.count("lwf_loop") == 1, "the gate knows the frame")
        mesh.a.send(mesh.r1.station, withheld)
        eventually(lambda: mesh.r1.refusals("a") == {"Replayed": 1}, "r1 refuses it")

        mesh.r1.cli("delete-route", "a")
        mesh.r1.kill()
        mesh.r1.start()
        again = mesh.registration(timestamp=5, sequence=1)
        mesh.a.send(mesh.r1.station, again)
        eventually(lambda: mesh.r1.refusals("a") == {"Replayed": 1}, "r1 remembers")
        assert mesh.r1.registered() == {}
        mesh.register(timestamp=6)

    def test_whom_nobody_allows_any_more_is_forgotten(self, mesh: Mesh) -> None:
        mesh.register()
        mesh.r1.cli("remove-source", "a")
        assert mesh.r1.registered() == {}
        mesh.a.send(mesh.r1.station, mesh.registration(timestamp=2))
        eventually(lambda: mesh.r1.count("lwf_unauthorized") == 1, "the gate refuses it")

    def test_relaying_goes_on_without_the_daemon(self, mesh: Mesh) -> None:
        mesh.register()
        mesh.r1.kill()
        frame = mesh.b.frame(mesh.a.hint)
        with mesh.a.listening(mesh.r1.station) as sock:
            mesh.r2.station.send(mesh.r1.station, frame)
            assert sock.recv(2048)[14:] == frame
        mesh.r1.start()
        assert bytes(mesh.a.hint) in mesh.r1.registered()

    def test_the_cli_shows_it(self, mesh: Mesh) -> None:
        mesh.register()
        (source,) = mesh.r1.cli("sources")["sources"]
        assert (source["name"], source["registrations"]) == ("a", 1)
        assert source["hint"] == str(mesh.a.hint) == str(hint_of(mesh.a.identity.public_key))
        shown = {route["hint"]: route for route in mesh.r1.cli("routes")["routes"]}
        assert shown[str(mesh.a.hint)]["registered"] is True
        assert shown[str(mesh.r1.station.hint)]["local"] is True
        assert shown[str(mesh.r2.station.hint)]["interface"] == "to-r2"
        assert all(route["installed"] for route in shown.values())
