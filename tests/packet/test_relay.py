# SPDX-License-Identifier: Apache-2.0
"""The LWF relay, asked of the compiled program (BPF_PROG_TEST_RUN).

A refused frame must move its own reason's counter, and nothing else: every map is compared. A
relayed one must keep every byte but the twelve of its Ethernet addresses.
"""

from __future__ import annotations

import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from assent.dataplane.btf import Btf
from assent.dataplane.explain import Explainer
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import TestRun
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.relay import SEC, NextHop, RelayConfig, RelayTable, Route
from assent.dataplane.stages import stage_of
from assent.errors import InvalidArgument, NotFound, ResourceExhausted
from assent.wire.ethernet import EthernetHeader
from assent.wire.lwf import (
    ETHERTYPE,
    HEADER_LEN,
    NOBODY,
    SHORT_TRAILER_LEN,
    TRAILER_LEN,
    Flags,
    FrameClass,
    Header,
    Hint,
    Service,
)
from assent.wire.siphash import siphash24

XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4
LO = 1
THERE = b"\x02\0\0\0\0\x09"
OURS = b"\x02\0\0\0\0\x01"
NEXT_HOP = NextHop(LO, THERE, OURS)
HOUR = 3600 * SEC
SECRET = bytes(range(16))
MAPS = ("lwf_routes", "lwf_sources", "lwf_seen", "lwf_config")
VLAN = bytes.fromhex("81006005")

AWAY = Hint(b"\xaa" * 24)
HERE = Hint(b"\xbb" * 24)
EXPIRED = Hint(b"\xcc" * 24)
STRANGER = Hint(b"\xdd" * 24)
SENDER = Hint(b"\xee" * 24)


class Relay:
    """A private gate whose relay knows ways to AWAY and HERE, and to EXPIRED no more; SENDER may
    register."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.gate = rig.gate
        self.table = RelayTable(rig.gate, random=lambda count: SECRET[:count])
        self.table.put_route(Route(AWAY, NEXT_HOP))
        self.table.put_route(Route(HERE, None, local=True))
        self.table.put_route(Route(EXPIRED, NEXT_HOP, registered=True, expires=1))
        self.table.add_source(SENDER)

    def header(self, **fields: object) -> Header:
        usual = Header(AWAY, STRANGER, timestamp=1)
        return replace(usual, **fields)  # type: ignore[arg-type]

    def frame(
        self,
        *,
        trailer: int = TRAILER_LEN,
        length: int | None = None,
        vlan: bytes = b"",
        **fields: object,
    ) -> bytes:
        """An Ethernet frame.

        Args:
            trailer: its length.
            length: bytes after the Ethernet header, where it is not what the header says.
            vlan: tags.
            **fields: of the header.
        """
        header = self.header(**fields)
        body = header.encode() + b"\x5a" * header.payload_len + b"\xa5" * trailer
        if length is not None:
            body = body.ljust(length, b"\0")[:length]
        ethernet = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode()
        return ethernet[:12] + vlan + ethernet[12:] + body

    def registration(self, **fields: object) -> bytes:
        usual = {"dest": NOBODY, "source": SENDER, "service": Service.RELAY_FORWARD}
        return self.frame(**{**usual, **fields})  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        state = self.rig.state()
        state |= {name: dict(self.gate.map(name).items()) for name in MAPS}
        state["lwf_ports"] = self.table.ports()
        return state

    def run(self, frame: bytes) -> tuple[str, TestRun]:
        """Returns the verdict that was counted, and what came of the frame."""
        before = self.rig.tables.counters.read()
        run = self.gate.program.test_run(frame)
        after = self.rig.tables.counters.read()
        moved = [name for name, totals in after.items() if totals != before[name]]
        assert len(moved) == 1, "one frame, one verdict"
        assert after[moved[0]].frames == before[moved[0]].frames + 1
        assert after[moved[0]].bytes == before[moved[0]].bytes + len(frame)
        return moved[0], run

    def relay(self, frame: bytes, hop: NextHop = NEXT_HOP) -> None:
        """Asserts that a frame goes on, that its addresses and nothing else are changed, and that
        it is remembered and nothing else is."""
        before = self.state()
        verdict, run = self.run(frame)
        after = self.state()
        assert (verdict, run.retval) == ("relayed", XDP_REDIRECT)
        assert run.data == hop.dst + hop.src + frame[12:]
        self._remembered(before, after, frame)
        assert after == before

    def admit(self, frame: bytes) -> None:
        """Asserts that a frame is passed up as it is, and that it is remembered."""
        before = self.state()
        verdict, run = self.run(frame)
        after = self.state()
        assert (verdict, run.retval, run.data) == ("admitted", XDP_PASS, frame)
        self._remembered(before, after, frame)
        assert after == before

    def refuse(self, frame: bytes, reason: str) -> None:
        """Asserts the reason, and that nothing but its counter changed."""
        before = self.state()
        verdict, run = self.run(frame)
        after = self.state()
        assert (verdict, run.retval, run.data) == (reason, XDP_DROP, frame)
        number = self.rig.tables.reasons.number(reason).to_bytes(4, "little")
        assert before["counters"].pop(number) != after["counters"].pop(number)
        assert before == after

    def _remembered(self, before: dict[str, Any], after: dict[str, Any], frame: bytes) -> None:
        at = 18 if frame[12:14] == VLAN[:2] else 14
        mark = siphash24(SECRET, frame[at : at + HEADER_LEN]).to_bytes(8, "little")
        assert mark not in before["lwf_seen"]
        assert after.pop("lwf_seen") == before.pop("lwf_seen") | {mark: b"\1"}
        for state in (before, after):
            state.pop("counters")
            if frame[at + 72 : at + 74] == b"\0\5":
                state.pop("lwf_sources")  # its rate: test_a_registration_is_charged


@pytest.fixture
def relay(rig: Any) -> Relay:
    return Relay(rig)


@pytest.fixture
def veth() -> Iterator[str]:
    """An interface of this namespace that leads nowhere; the test may remove it."""
    name = f"r{uuid.uuid4().hex[:10]}"
    run = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"]
    subprocess.run(run, check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


RELAYABLE = [
    ("version 1", {"version": 1}),
    ("version 1, not signed", {"version": 1, "flags": 0x01}),
    ("version 2", {"version": 2, "flags": Flags.RELAYABLE}),
    ("version 2, all flags", {"version": 2, "flags": 0xFF}),
]
LENGTHS = [
    # class, payload, trailer
    (FrameClass.MICRO, 0, SHORT_TRAILER_LEN),
    (FrameClass.MICRO, 4, SHORT_TRAILER_LEN),
    (FrameClass.MINI, 0, SHORT_TRAILER_LEN),
    (FrameClass.MINI, 0, TRAILER_LEN),
    (FrameClass.MINI, 512 - HEADER_LEN - TRAILER_LEN, TRAILER_LEN),
    (FrameClass.STANDARD, 1350 - HEADER_LEN - SHORT_TRAILER_LEN, SHORT_TRAILER_LEN),
    (FrameClass.STANDARD, 1350 - HEADER_LEN - TRAILER_LEN, TRAILER_LEN),
    (FrameClass.BIG, 1000, TRAILER_LEN),
    (FrameClass.BIG, 3000, SHORT_TRAILER_LEN),
    (FrameClass.JUMBO, 3000, TRAILER_LEN),
    (FrameClass.VARIABLE, 0, SHORT_TRAILER_LEN),
    (FrameClass.VARIABLE, 3000, TRAILER_LEN),
]


class TestRelaying:
    @pytest.mark.parametrize(("case", "fields"), RELAYABLE, ids=lambda v: str(v)[:20])
    @pytest.mark.parametrize("service", [*Service, 0, 0xFFFF])
    def test_versions_and_services(
        self, relay: Relay, case: str, fields: dict[str, int], service: int
    ) -> None:
        source = SENDER if service == Service.RELAY_FORWARD else STRANGER
        frame = relay.frame(**fields, service=service, source=source)
        relay.relay(frame)

    @pytest.mark.parametrize(("frame_class", "payload", "trailer"), LENGTHS)
    def test_classes_and_trailers(
        self, relay: Relay, frame_class: FrameClass, payload: int, trailer: int
    ) -> None:
        relay.relay(relay.frame(frame_class=frame_class, payload_len=payload, trailer=trailer))

    @pytest.mark.parametrize(
        "frame_class", [FrameClass.MICRO, FrameClass.MINI, FrameClass.STANDARD]
    )
    def test_a_frame_that_is_filled_up_to_its_class(
        self, relay: Relay, frame_class: FrameClass
    ) -> None:
        full = frame_class.longest
        relay.relay(relay.frame(frame_class=frame_class, length=full))
        relay.refuse(
            relay.frame(frame_class=frame_class, sequence=1, length=full + 1), "lwf_malformed"
        )
        relay.refuse(
            relay.frame(frame_class=frame_class, sequence=1, length=full - 1), "lwf_malformed"
        )

    def test_the_vlan_tag_stays(self, relay: Relay) -> None:
        relay.relay(relay.frame(vlan=VLAN, payload_len=100))

    @pytest.mark.parametrize("tags", [VLAN * 2, b"\x88\xa8\0\5", b"\x88\xa8\0\5" + VLAN])
    def test_other_tags_are_refused(self, relay: Relay, tags: bytes) -> None:
        relay.refuse(relay.frame(vlan=tags), "stacked_vlan")

    def test_each_route_has_its_own_addresses(self, relay: Relay) -> None:
        hop = NextHop(LO, b"\x0a" * 6, b"\x0c" * 6)
        relay.table.put_route(Route(STRANGER, hop))
        relay.relay(relay.frame(dest=STRANGER), hop)
        relay.relay(relay.frame())

    def test_a_route_in_its_time(self, relay: Relay) -> None:
        relay.table.put_route(
            Route(STRANGER, NEXT_HOP, registered=True, expires=time.monotonic_ns() + HOUR)
        )
        relay.relay(relay.frame(dest=STRANGER))

    def test_own_hints_go_up(self, relay: Relay) -> None:
        relay.admit(relay.frame(dest=HERE))
        # Nobody relays it, so nobody asks.
        relay.admit(relay.frame(dest=HERE, version=2, flags=0))


Row = tuple[str, str, Callable[[Relay], bytes]]


def seen(change: dict[str, Any]) -> Callable[[Relay], bytes]:
    def act(relay: Relay) -> bytes:
        relay.run(relay.frame(payload_len=9))
        return relay.frame(**{"payload_len": 9, **change})

    return act


def no_route_any_more(relay: Relay) -> bytes:
    relay.table.delete_route(AWAY)
    return relay.frame()


def spent(relay: Relay) -> bytes:
    relay.table.configure(RelayConfig(HOUR, HOUR))
    for sequence in (1, 2):
        assert relay.run(relay.registration(sequence=sequence))[0] == "admitted"
    return relay.registration(sequence=3)


def spent_for_another(relay: Relay) -> bytes:
    spent(relay)
    return relay.registration(dest=AWAY, sequence=4)


def disallowed(relay: Relay) -> bytes:
    relay.table.delete_source(SENDER)
    return relay.registration()


def magic(at: int) -> Callable[[Relay], bytes]:
    def act(relay: Relay) -> bytes:
        frame = bytearray(relay.frame())
        frame[14 + at] ^= 0x20
        return bytes(frame)

    return act


REFUSED: list[Row] = [
    *(("lwf_malformed", f"magic, byte {at}", magic(at)) for at in range(4)),
    *(
        ("lwf_malformed", f"version {v}", lambda r, v=v: r.frame(version=v, flags=Flags.RELAYABLE))
        for v in (0, 3, 0x81, 255)
    ),
    *(
        ("lwf_malformed", f"class {c}", lambda r, c=c: r.frame(frame_class=c))
        for c in (5, 6, 127, 254)
    ),
    ("lwf_malformed", "nothing", lambda r: r.frame(length=0)),
    ("lwf_malformed", "no trailer", lambda r: r.frame(trailer=0)),
    ("lwf_malformed", "no header under a tag", lambda r: r.frame(vlan=VLAN, length=87)),
    ("lwf_malformed", "payload missing", lambda r: r.frame(payload_len=100, length=156)),
    ("lwf_malformed", "the longest claim", lambda r: r.frame(payload_len=0xFFFF, length=500)),
    ("lwf_malformed", "more than a trailer", lambda r: r.frame(trailer=TRAILER_LEN + 1)),
    ("lwf_malformed", "too long for micro", lambda r: r.frame(frame_class=0, payload_len=5)),
    (
        "lwf_malformed",
        "too long for mini",
        lambda r: r.frame(frame_class=1, payload_len=512 - HEADER_LEN - TRAILER_LEN + 1),
    ),
    ("lwf_unknown_hint", "a stranger", lambda r: r.frame(dest=STRANGER)),
    ("lwf_unknown_hint", "one bit off", lambda r: r.frame(dest=Hint(b"\xaa" * 23 + b"\xab"))),
    ("lwf_unknown_hint", "nobody", lambda r: r.frame(dest=NOBODY)),
    ("lwf_unknown_hint", "expired", lambda r: r.frame(dest=EXPIRED)),
    ("lwf_unknown_hint", "removed", no_route_any_more),
    ("lwf_unknown_hint", "a registration elsewhere", lambda r: r.registration(dest=STRANGER)),
    ("lwf_not_relayable", "no flags", lambda r: r.frame(version=2, flags=0)),
    (
        "lwf_not_relayable",
        "all the others",
        lambda r: r.frame(version=2, flags=0xFF & ~Flags.RELAYABLE),
    ),
    ("lwf_loop", "the same", seen({})),
    ("lwf_loop", "another trailer", seen({"trailer": SHORT_TRAILER_LEN})),
    ("lwf_loop", "under a tag", seen({"vlan": VLAN})),
    ("lwf_unauthorized", "a stranger", lambda r: r.registration(source=STRANGER)),
    ("lwf_unauthorized", "in nobody's name", lambda r: r.registration(source=NOBODY)),
    ("lwf_unauthorized", "to an own hint", lambda r: r.registration(source=STRANGER, dest=HERE)),
    ("lwf_unauthorized", "to another", lambda r: r.registration(source=STRANGER, dest=AWAY)),
    ("lwf_unauthorized", "not any more", disallowed),
    ("rate_limited", "too many registrations", spent),
    ("rate_limited", "to another relay", spent_for_another),
]


class TestRefusals:
    @pytest.mark.parametrize(
        ("reason", "case", "act"), REFUSED, ids=lambda v: str(v) if isinstance(v, str) else ""
    )
    def test_refused(
        self, relay: Relay, reason: str, case: str, act: Callable[[Relay], bytes]
    ) -> None:
        relay.refuse(act(relay), reason)

    def test_every_reason_is_there(self, relay: Relay) -> None:
        of_the_relay = {name for name in relay.rig.tables.reasons.names if name.startswith("lwf_")}
        assert of_the_relay <= {reason for reason, _, _ in REFUSED}

    @pytest.mark.parametrize("vlan", [b"", VLAN])
    @pytest.mark.parametrize("frame_class", [FrameClass.MINI, FrameClass.VARIABLE])
    @pytest.mark.parametrize("payload", [0, 20])
    def test_every_length_but_the_right_ones(
        self, relay: Relay, vlan: bytes, frame_class: FrameClass, payload: int
    ) -> None:
        right = {HEADER_LEN + payload + SHORT_TRAILER_LEN, HEADER_LEN + payload + TRAILER_LEN}
        right |= {frame_class.longest}
        lengths = range(520)
        relayed = set()
        for length in lengths:
            frame = relay.frame(
                vlan=vlan,
                frame_class=frame_class,
                payload_len=payload,
                sequence=length,
                length=length,
            )
            run = relay.gate.program.test_run(frame)
            if run.retval == XDP_REDIRECT:
                relayed.add(length)
                assert run.data == THERE + OURS + frame[12:]
            else:
                assert (run.retval, run.data) == (XDP_DROP, frame)
        assert relayed == right & set(lengths)
        counted = relay.rig.tables.counters.read()
        assert counted["relayed"].frames == len(relayed)
        assert counted["lwf_malformed"].frames == len(lengths) - len(relayed)

    @pytest.mark.parametrize("cut", range(1, 9))
    def test_an_ethernet_frame_that_ends_early(self, relay: Relay, cut: int) -> None:
        """Down to the Ethernet header, and into the tag, under which anything may be."""
        frame = relay.frame(vlan=VLAN, length=4)[:-cut]
        before = relay.state()
        run = relay.gate.program.test_run(frame)
        if len(frame) < 18:
            assert (run.retval, relay.state()) == (XDP_PASS, before)
        else:
            assert run.retval == XDP_DROP

    def test_a_port_whose_interface_has_gone(self, relay: Relay, veth: str) -> None:
        hop = NextHop(socket.if_nametoindex(veth), THERE, OURS)
        relay.table.put_route(Route(STRANGER, hop))
        relay.relay(relay.frame(dest=STRANGER), hop)
        subprocess.run(["ip", "link", "del", veth], check=True, capture_output=True)
        relay.refuse(relay.frame(dest=STRANGER, sequence=1), "lwf_unknown_hint")
        found = relay.table.route(STRANGER)
        assert found is not None
        assert found.next_hop is None
        relay.relay(relay.frame())

    def test_a_gate_that_nobody_made_a_relay_of(self, rig: Any) -> None:
        """No route, no frame."""
        bare = Relay.__new__(Relay)
        bare.rig, bare.gate = rig, rig.gate
        assert bare.run(bare.frame())[0] == "lwf_unknown_hint"
        assert bare.run(bare.registration())[0] == "lwf_unauthorized"


class TestRegistrations:
    @pytest.mark.parametrize("dest", [NOBODY, HERE])
    @pytest.mark.parametrize("version", [1, 2])
    def test_an_allowed_one_is_passed_up(self, relay: Relay, dest: Hint, version: int) -> None:
        relay.admit(relay.registration(dest=dest, version=version))

    def test_one_for_another_relay_goes_there(self, relay: Relay) -> None:
        verdict, run = relay.run(relay.registration(dest=AWAY))
        assert (verdict, run.retval) == ("relayed", XDP_REDIRECT)
        assert run.data[14:] == relay.registration(dest=AWAY)[14:]

    def test_the_kernel_learns_nothing_by_itself(self, relay: Relay) -> None:
        routes = relay.table.routes()
        relay.admit(relay.registration())
        assert relay.table.routes() == routes

    def test_a_registration_is_charged(self, relay: Relay) -> None:
        relay.table.configure(RelayConfig(HOUR, HOUR))
        layout = Btf.from_object(packaged("gate")).map_value("lwf_sources")

        def due() -> int:
            value = relay.gate.map("lwf_sources").lookup(bytes(SENDER))
            return int(layout.unpack(value).due)

        assert due() == 0
        before = time.monotonic_ns()
        relay.admit(relay.registration(sequence=1))
        # The kernel's coarse clock may be a tick behind.
        assert before - SEC < due() - HOUR <= time.monotonic_ns()
        relay.admit(relay.registration(sequence=2))
        assert before - SEC < due() - 2 * HOUR <= time.monotonic_ns()
        relay.refuse(relay.registration(sequence=3), "rate_limited")
        # Other frames of the same source are not registrations.
        relay.relay(relay.frame(source=SENDER))

    def test_what_a_source_has_used_stays_used(self, relay: Relay) -> None:
        frame = spent(relay)
        relay.table.add_source(SENDER)
        relay.refuse(frame, "rate_limited")

    def test_a_frame_that_was_seen_costs_nothing(self, relay: Relay) -> None:
        relay.admit(relay.registration())
        relay.refuse(relay.registration(), "lwf_loop")


class TestMemory:
    def test_each_field_of_the_header_counts(self, relay: Relay) -> None:
        relay.relay(relay.frame())
        for change in (
            {"source": SENDER},
            {"session": b"\1" * 16},
            {"sequence": 1},
            {"service": 1, "timestamp": 9},
            {"service": 2},
            {"payload_len": 1},
            {"frame_class": 1},
            {"version": 2, "flags": 4},
            {"flags": 2},
            {"entropy_difficulty": 1},
            {"timestamp": 2},
        ):
            relay.relay(relay.frame(**change))
        relay.refuse(relay.frame(), "lwf_loop")

    def test_it_is_bounded_and_the_newest_stay(self, relay: Relay) -> None:
        room = CHAPTER.relay_seen
        run = relay.gate.program.test_run
        for sequence in range(3 * room):
            assert run(relay.frame(sequence=sequence)).retval == XDP_REDIRECT
        assert 0 < len(dict(relay.gate.map("lwf_seen").items())) <= room
        for sequence in range(3 * room - 16, 3 * room):
            assert run(relay.frame(sequence=sequence)).retval == XDP_DROP
        assert relay.rig.tables.counters.read()["lwf_loop"].frames == 16

    def test_a_refused_frame_is_not_remembered(self, relay: Relay) -> None:
        frame = relay.frame(dest=STRANGER)
        relay.refuse(frame, "lwf_unknown_hint")
        relay.table.put_route(Route(STRANGER, NEXT_HOP))
        relay.relay(frame)

    def test_every_gate_has_its_own_secret(self, relay: Relay) -> None:
        with Gate.private(CHAPTER) as other:
            RelayTable(other).put_route(Route(AWAY, NEXT_HOP))
            for gate in (relay.gate, other):
                gate.program.test_run(relay.frame())
            one, another = (dict(gate.map("lwf_seen").items()) for gate in (relay.gate, other))
            assert one.keys() != another.keys()

    def test_the_secret_stays_and_is_not_shown(self, relay: Relay) -> None:
        again = RelayTable(relay.gate, random=lambda count: b"x" * count)
        assert "<secret>" in repr(again._record())
        relay.relay(relay.frame())
        again.configure(RelayConfig(5, 7))
        assert again.config() == RelayConfig(5, 7)
        relay.refuse(relay.frame(), "lwf_loop")


class TestTables:
    def test_routes_are_read_as_they_were_written(self, relay: Relay) -> None:
        wanted = [
            Route(AWAY, NEXT_HOP),
            Route(HERE, None, local=True),
            Route(EXPIRED, NEXT_HOP, registered=True, expires=1),
        ]
        assert relay.table.routes() == wanted
        assert [relay.table.route(route.hint) for route in wanted] == wanted
        assert relay.table.route(STRANGER) is None
        assert RelayTable(relay.gate).routes() == wanted

    def test_a_full_table_touches_no_old_route(self, relay: Relay) -> None:
        taken = len(relay.table.routes())
        for number in range(CHAPTER.relay_routes - taken):
            relay.table.put_route(Route(Hint(number.to_bytes(24, "big")), NEXT_HOP))
        before = relay.state()
        with pytest.raises(ResourceExhausted, match="has 64 routes, and room for no more"):
            relay.table.put_route(Route(STRANGER, NEXT_HOP))
        assert relay.state() == before
        relay.table.put_route(Route(AWAY, NextHop(LO, OURS, THERE)))  # one that is there
        relay.table.delete_route(HERE)
        relay.table.put_route(Route(STRANGER, NEXT_HOP))

    def test_a_full_table_takes_no_other_source(self, relay: Relay) -> None:
        for number in range(CHAPTER.relay_sources - 1):
            relay.table.add_source(Hint(number.to_bytes(24, "big")))
        before = relay.table.sources()
        with pytest.raises(ResourceExhausted, match="has 64 sources, and room for no more"):
            relay.table.add_source(STRANGER)
        assert relay.table.sources() == before
        relay.table.add_source(SENDER)
        relay.table.delete_source(SENDER)
        relay.table.add_source(STRANGER)

    def test_ports_are_given_out_and_come_back(self, veth: str) -> None:
        there = socket.if_nametoindex(veth)
        with Gate.private(replace(CHAPTER, relay_ports=1)) as gate:
            table = RelayTable(gate)
            table.put_route(Route(AWAY, NEXT_HOP))
            assert table.ports() == {0: LO}
            with pytest.raises(ResourceExhausted, match="has 1 interfaces"):
                table.put_route(Route(HERE, NextHop(there, THERE, OURS)))
            assert table.ports() == {0: LO}
            table.delete_route(AWAY)
            table.put_route(Route(HERE, NextHop(there, THERE, OURS)))
            assert table.ports() == {0: there}

    def test_a_port_that_routes_still_name_is_not_given_away(self, relay: Relay, veth: str) -> None:
        """A route to an interface that has gone must not lead to another one."""
        gone = NextHop(socket.if_nametoindex(f"{veth}p"), THERE, OURS)
        relay.table.put_route(Route(STRANGER, gone))
        subprocess.run(["ip", "link", "del", veth], check=True, capture_output=True)
        name = f"{veth}2"[-15:]
        subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", veth],
            check=True,
            capture_output=True,
        )
        fresh = NextHop(socket.if_nametoindex(name), OURS, THERE)
        relay.table.put_route(Route(SENDER, fresh))
        relay.refuse(relay.frame(dest=STRANGER), "lwf_unknown_hint")
        relay.relay(relay.frame(dest=SENDER), fresh)

    @pytest.mark.parametrize(
        ("route", "said"),
        [
            (Route(AWAY, None), "next_hop: must be given"),
            (Route(AWAY, NEXT_HOP, local=True), "next_hop: must be given"),
        ],
    )
    def test_a_route_leads_somewhere(self, relay: Relay, route: Route, said: str) -> None:
        with pytest.raises(InvalidArgument, match=said):
            relay.table.put_route(route)

    def test_what_is_not_there(self, relay: Relay) -> None:
        with pytest.raises(NotFound):
            relay.table.delete_route(STRANGER)
        with pytest.raises(NotFound):
            relay.table.delete_source(STRANGER)
        with pytest.raises(NotFound, match="no interface 2147483647"):
            relay.table.put_route(Route(STRANGER, NextHop((1 << 31) - 1, THERE, OURS)))
        with pytest.raises(InvalidArgument, match="dst: needs 6 bytes"):
            NextHop(LO, b"", OURS)


@pytest.fixture
def explainer(relay: Relay) -> Iterator[Explainer]:
    with Explainer(relay.gate) as made:
        yield made


class TestExplanations:
    """The explainer says what the gate then does, and changes nothing."""

    def explained(self, relay: Relay, explainer: Explainer, frame: bytes) -> Any:
        before = relay.state()
        found = explainer.explain(frame)
        cut = frame[:106]
        assert explainer.explain(cut, len(frame)).reason == found.reason
        assert relay.state() == before
        return found

    @pytest.mark.parametrize(
        ("reason", "case", "act"), REFUSED, ids=lambda v: str(v) if isinstance(v, str) else ""
    )
    def test_of_what_is_refused(
        self,
        relay: Relay,
        explainer: Explainer,
        reason: str,
        case: str,
        act: Callable[[Relay], bytes],
    ) -> None:
        frame = act(relay)
        found = self.explained(relay, explainer, frame)
        assert (found.verdict, found.reason, found.stage) == ("drop", reason, stage_of(reason))
        relay.refuse(frame, reason)

    def test_of_what_is_relayed_once(self, relay: Relay, explainer: Explainer) -> None:
        for vlan in (b"", VLAN):
            frame = relay.frame(vlan=vlan, sequence=len(vlan))
            found = self.explained(relay, explainer, frame)
            assert (found.verdict, found.reason) == ("relay", "relayed")
            assert found.lwf == relay.header(sequence=len(vlan))
            assert [(each.map, each.found) for each in found.consulted] == [
                ("lwf_routes", True),
                ("lwf_ports", True),
                ("lwf_seen", False),
            ]
            assert found.consulted[0].says == "port 0, next hop 02:00:00:00:00:09"
            relay.relay(frame)
            again = self.explained(relay, explainer, frame)
            assert (again.reason, again.consulted[-1].says) == ("lwf_loop", "came by before")

    def test_of_what_goes_up(self, relay: Relay, explainer: Explainer) -> None:
        found = self.explained(relay, explainer, relay.frame(dest=HERE))
        assert (found.verdict, found.reason) == ("admit", "admitted")
        assert found.consulted[0].says == "to this host's stack"
        found = self.explained(relay, explainer, relay.registration())
        assert (found.verdict, found.reason) == ("admit", "admitted")
        assert [each.map for each in found.consulted] == ["lwf_sources", "lwf_seen"]

    @pytest.mark.parametrize("keep", [15, 60, 14 + HEADER_LEN - 1])
    def test_of_a_capture_that_ends_too_early(
        self, relay: Relay, explainer: Explainer, keep: int
    ) -> None:
        found = explainer.explain(relay.frame()[:keep], len(relay.frame()))
        assert (found.verdict, found.reason) == ("undecided", "truncated")

    def test_of_a_capture_that_ends_in_a_tag(self, relay: Relay, explainer: Explainer) -> None:
        frame = relay.frame(vlan=VLAN)
        assert explainer.explain(frame[:16], len(frame)).reason == "truncated"
        assert explainer.explain(frame[:16]).reason == "not_fabric"

    def test_no_secret_is_told(self, relay: Relay, explainer: Explainer) -> None:
        assert SECRET.hex() not in repr(self.explained(relay, explainer, relay.frame()))


def test_events_tell_of_refused_frames(relay: Relay) -> None:
    tables = relay.rig.tables
    tables.config.listen(["lwf_unknown_hint"], [], tables.reasons)
    frame = relay.frame(dest=STRANGER)
    with tables.events() as ring:
        ring.read()
        assert relay.run(frame)[0] == "lwf_unknown_hint"
        (event,) = ring.read()
    assert (event.reason, event.frame_len) == ("lwf_unknown_hint", len(frame))
    assert event.head[: 14 + HEADER_LEN] == frame[: 14 + HEADER_LEN]


def test_c_and_python_have_the_same_numbers() -> None:
    btf = Btf.from_object(packaged("gate"))
    flags = {f"ASSENT_LWF_{flag.name}": flag.value for flag in Flags}
    assert btf.enum("assent_lwf_flag") == flags
    classes = {f"ASSENT_LWF_{each.name}": each.value for each in FrameClass}
    assert btf.enum("assent_lwf_class") == classes
    layout = btf.struct("assent_lwf_header")
    assert layout.size == HEADER_LEN
    names = ["magic", "dest", "source", "session", "sequence", "service_type", "payload_len"]
    names += ["frame_class", "version", "flags", "entropy_difficulty", "timestamp"]
    assert [field.name for field in layout.fields] == names
