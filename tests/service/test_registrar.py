# SPDX-License-Identifier: Apache-2.0
"""Who proves to be allowed to is registered where his frame came from, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.packet.recycled import private_gate

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.errors import AssentError, FailedPrecondition, ResourceExhausted
from assent.identity.hint import hint_of, signed
from assent.identity.keys import Identity, SignatureError
from assent.service.interfaces import describe
from assent.service.registrar import Registrar, Registrations, Replayed, UnauthorizedSource
from assent.service.relay_reconciler import RelayReconciler
from assent.service.relay_records import RelaySource, StaticRoute
from assent.service.relay_socket import registration_filter
from assent.service.store import Store
from assent.wire.ethernet import EthernetHeader
from assent.wire.lwf import ETHERTYPE, NOBODY, Frame, FrameError, Header, Hint, Service

SENDER, STRANGER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
HINT = hint_of(SENDER.public_key)
OWN = Hint(b"\x0a" * 24)
MAC = b"\x02\0\0\0\0\x07"
LIFETIME = 1000
NOW = 50_000


class Rig:
    """A registrar on a private gate; SENDER may register, OWN is the relay's."""

    def __init__(self, gate: Gate, store: Store) -> None:
        self.now = NOW
        self.store = store
        self.table = RelayTable(gate)
        self.reconciler = RelayReconciler(store, self.table, clock=lambda: self.now)
        self.registrar = Registrar(store, self.table, LIFETIME, clock=lambda: self.now)
        with self.reconciler.change(HINT):
            store.relay.add_source(RelaySource(HINT, "sender", SENDER.public_key))
        with self.reconciler.change(OWN):
            store.relay.set_route(StaticRoute(OWN))

    def frame(
        self, identity: Identity = SENDER, mac: bytes = MAC, payload: bytes = b"", **fields: object
    ) -> bytes:
        header = Header(NOBODY, HINT, Service.RELAY_FORWARD, payload_len=len(payload), timestamp=1)
        frame = signed(Frame(replace(header, **fields), payload), identity)  # type: ignore[arg-type]
        return self.ethernet(frame.encode(), mac)

    @staticmethod
    def ethernet(body: bytes, mac: bytes = MAC, ethertype: int = ETHERTYPE) -> bytes:
        return EthernetHeader(b"\xff" * 6, mac, ethertype).encode() + body

    def state(self) -> object:
        return self.table.routes(), self.table.sources(), self.store.relay.newest(HINT)

    def refuse(self, frame: bytes, kind: type[AssentError], interface: str = "lo") -> str:
        """Asserts the error, and that nothing has changed."""
        before = self.state()
        with pytest.raises(kind) as error:
            self.registrar.register(interface, frame)
        assert self.state() == before
        return str(error.value)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with private_gate() as gate, Store(tmp_path / "state.db") as store:
        yield Rig(gate, store)


@pytest.mark.parametrize("dest", [NOBODY, OWN])
@pytest.mark.parametrize("payload", [b"", b"anything"])
@pytest.mark.parametrize("version", [1, 2])
def test_an_allowed_source_is_found_where_it_is(
    rig: Rig, dest: Hint, payload: bytes, version: int
) -> None:
    rig.registrar.register("lo", rig.frame(dest=dest, payload=payload, version=version))
    info = describe("lo")
    expected = Route(
        HINT, NextHop(info.index, MAC, info.mac), registered=True, expires=NOW + LIFETIME
    )
    assert rig.table.route(HINT) == expected
    assert rig.store.relay.newest(HINT) == 1


def test_a_newer_frame_moves_it(rig: Rig) -> None:
    rig.registrar.register("lo", rig.frame())
    rig.now += 10
    elsewhere = b"\x02\0\0\0\0\x08"
    route = rig.registrar.register("lo", rig.frame(timestamp=2, mac=elsewhere))
    assert route.next_hop is not None
    assert (route.next_hop.dst, route.expires) == (elsewhere, NOW + 10 + LIFETIME)
    assert rig.table.route(HINT) == route


class TestRefusals:
    def test_an_unknown_source(self, rig: Rig) -> None:
        rig.refuse(rig.frame(STRANGER), UnauthorizedSource)

    def test_a_signature_of_somebody_else(self, rig: Rig) -> None:
        genuine = Frame.decode(rig.frame()[14:])
        forged = replace(genuine, signature=STRANGER.sign(genuine.signed_bytes))
        rig.refuse(rig.ethernet(forged.encode()), SignatureError)

    @pytest.mark.parametrize("flags", [0x00, 0x01])
    def test_no_signature(self, rig: Rig, flags: int) -> None:
        """Whatever its flags say, version 1's UNSIGNED among them."""
        genuine = Frame.decode(rig.frame(flags=flags)[14:])
        rig.refuse(rig.ethernet(replace(genuine, signature=bytes(64)).encode()), SignatureError)

    def test_every_bit_counts(self, rig: Rig) -> None:
        frame = rig.frame(payload=b"12")
        for bit in range(14 * 8, len(frame) * 8):
            other = bytearray(frame)
            other[bit // 8] ^= 1 << bit % 8
            rig.refuse(bytes(other), FrameError)

    @pytest.mark.parametrize("timestamp", [0, 4, 5])
    def test_no_newer_than_before(self, rig: Rig, timestamp: int) -> None:
        rig.registrar.register("lo", rig.frame(timestamp=5))
        rig.refuse(rig.frame(timestamp=timestamp, sequence=9), Replayed)
        rig.registrar.register("lo", rig.frame(timestamp=6))

    def test_no_newer_than_before_it_was_removed(self, rig: Rig) -> None:
        rig.registrar.register("lo", rig.frame(timestamp=5))
        with rig.reconciler.change(HINT):
            rig.store.relay.delete_source(HINT)
        assert rig.table.route(HINT) is None
        rig.refuse(rig.frame(timestamp=6), UnauthorizedSource)
        with rig.reconciler.change(HINT):
            rig.store.relay.add_source(RelaySource(HINT, "again", SENDER.public_key))
        rig.refuse(rig.frame(timestamp=5), Replayed)
        rig.registrar.register("lo", rig.frame(timestamp=6))

    def test_a_forged_time_does_not_count(self, rig: Rig) -> None:
        genuine = Frame.decode(rig.frame(timestamp=1)[14:])
        later = replace(genuine, header=replace(genuine.header, timestamp=1 << 62))
        rig.refuse(rig.ethernet(later.encode()), SignatureError)
        rig.registrar.register("lo", rig.frame(timestamp=1))

    def test_a_time_beyond_what_the_store_holds(self, rig: Rig) -> None:
        rig.refuse(rig.frame(timestamp=1 << 63), FrameError)
        rig.registrar.register("lo", rig.frame(timestamp=(1 << 63) - 1))

    def test_another_service_and_another_relay(self, rig: Rig) -> None:
        rig.refuse(rig.frame(service=Service.DATA_TRANSPORT), FrameError)
        rig.refuse(rig.frame(dest=Hint(b"\x0b" * 24)), FrameError)

    @pytest.mark.parametrize("mac", [bytes(6), b"\xff" * 6, b"\x01\0\0\0\0\x07"])
    def test_from_no_station(self, rig: Rig, mac: bytes) -> None:
        rig.refuse(rig.frame(mac=mac), FrameError)

    @pytest.mark.parametrize("length", range(14 + 156))
    def test_a_frame_that_ends_early(self, rig: Rig, length: int) -> None:
        rig.refuse(rig.frame()[:length], FrameError)

    def test_another_ethertype(self, rig: Rig) -> None:
        rig.refuse(rig.ethernet(rig.frame()[14:], ethertype=0x88B5), FrameError)

    def test_an_interface_that_has_gone(self, rig: Rig) -> None:
        rig.refuse(rig.frame(), FailedPrecondition, interface="nowhere0")

    def test_what_an_operator_has_set_stays(self, rig: Rig) -> None:
        with rig.reconciler.change(HINT):
            rig.store.relay.set_route(StaticRoute(HINT, "lo", b"\x02\0\0\0\0\x01"))
        said = rig.refuse(rig.frame(), FailedPrecondition)
        assert said == "an operator has set the way to 'sender'"

    def test_a_full_table_touches_no_old_route(self, rig: Rig) -> None:
        for number in range(CHAPTER.relay_routes - 1):
            rig.table.put_route(Route(Hint(bytes([number + 100]) * 24), None, local=True))
        said = rig.refuse(rig.frame(), ResourceExhausted)
        assert said == "the relay has 64 routes, and room for no more"
        rig.table.delete_route(Hint(bytes([100]) * 24))
        rig.registrar.register("lo", rig.frame())


class TestCounts:
    def test_of_those_who_are_known(self, rig: Rig) -> None:
        for frame in (
            rig.frame(timestamp=1),
            rig.frame(timestamp=2),
            rig.frame(timestamp=2),
            rig.frame(STRANGER),
            rig.frame(dest=Hint(b"\x0b" * 24), timestamp=3),
            b"",
        ):
            rig.registrar.receive("lo", frame)
        assert rig.registrar.of(HINT) == Registrations(2, {"Replayed": 1, "FrameError": 1})
        assert rig.registrar.of(hint_of(STRANGER.public_key)) == Registrations()
        rig.registrar.forget(HINT)
        assert rig.registrar.of(HINT) == Registrations()


class TestSweep:
    def test_a_route_ends_with_its_time(self, rig: Rig) -> None:
        rig.registrar.register("lo", rig.frame())
        rig.now = NOW + LIFETIME - 1
        assert rig.reconciler.sweep().counts() == {}
        rig.now += 1
        assert rig.reconciler.sweep().counts() == {"routes_expired": 1}
        assert rig.table.route(HINT) is None

    def test_a_route_ends_with_its_source(self, rig: Rig) -> None:
        rig.registrar.register("lo", rig.frame())
        rig.store.relay.delete_source(HINT)
        assert rig.reconciler.sweep().counts() == {"sources_removed": 1, "routes_removed": 1}

    def test_a_static_route_goes_before_a_registered_one(self, rig: Rig) -> None:
        rig.registrar.register("lo", rig.frame())
        mac = b"\x02\0\0\0\0\x01"
        rig.store.relay.set_route(StaticRoute(HINT, "lo", mac))
        assert rig.reconciler.sweep().counts() == {"routes_written": 1}
        info = describe("lo")
        assert rig.table.route(HINT) == Route(HINT, NextHop(info.index, mac, info.mac))

    def test_what_another_hand_changed_is_put_right(self, rig: Rig) -> None:
        rig.registrar.register("lo", rig.frame())
        wanted = rig.state()
        info = describe("lo")
        wrong = NextHop(info.index, MAC, b"\x0e" * 6)
        expires = NOW + LIFETIME
        rig.table.put_route(Route(HINT, wrong, registered=True, expires=expires))
        rig.table.put_route(Route(OWN, wrong))
        rig.table.put_route(Route(Hint(b"\x0c" * 24), wrong))
        rig.table.add_source(OWN)
        rig.table.delete_source(HINT)
        assert rig.reconciler.sweep().counts() == {
            "sources_added": 1,
            "sources_removed": 1,
            "routes_written": 2,
            "routes_removed": 1,
        }
        assert rig.state() == wanted
        assert rig.reconciler.sweep().counts() == {}

    def test_a_failed_change_is_taken_back(self, rig: Rig) -> None:
        before = rig.state()

        def fail() -> None:
            with rig.reconciler.change(HINT):
                rig.store.relay.delete_source(HINT)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert rig.state() == before
        assert [source.name for source in rig.store.relay.sources()] == ["sender"]


def test_the_filter_jumps_to_its_end_and_no_further() -> None:
    """Each comparison that fails leads to the last instruction, which refuses."""
    code = registration_filter()
    assert len(code) % 8 == 0
    count = len(code) // 8
    for at in range(count):
        instruction, yes, no = code[8 * at], code[8 * at + 2], code[8 * at + 3]
        if instruction in {0x15, 0x25}:
            assert {at + 1 + yes, at + 1 + no} == {at + 1, count - 1}
    assert code[-16:-8] == b"\x06\0\0\0\0\0\1\0"
    assert code[-8:] == b"\x06\0\0\0\0\0\0\0"
