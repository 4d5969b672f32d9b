# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Cells over the socket of a running daemon."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest
from grpc import StatusCode

from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Program
from assent.dataplane.objects import packaged
from assent.handshake.keys import admission_key
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, keys_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

from .conftest import PSK, Api, Place, by_name, daemon_in, refused

NONE = common_pb2.CONSENT_NONE
STANDING = common_pb2.CONSENT_STANDING
KEY = Identity.from_seed(b"\x01" * 32).public_key
OTHER_KEY = Identity.from_seed(b"\x02" * 32).public_key

CreateLocal = cells_pb2.CreateLocalRequest
CreateRemote = cells_pb2.CreateRemoteRequest
SetConsent = cells_pb2.SetConsentRequest
Ref = cells_pb2.CellRef


def remote_request(**changes: object) -> cells_pb2.CreateRemoteRequest:
    usual: dict[str, object] = {"name": "away", "public_key": KEY, "consent": STANDING}
    return CreateRemote(**(usual | changes))  # type: ignore[arg-type]


async def test_a_local_cell_is_made_stored_and_told_to_the_gate(api: Api, place: Place, dummy: str):
    cell = await api.local("home", dummy)
    assert (cell.name, cell.local, cell.interface) == ("home", True, dummy)
    assert cell.id.value == bytes(from_public_key(cell.public_key))
    assert list(place.map("locals")) == [cell.id.value]
    key_file = place.config.state_dir / "keys" / "home.pem"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert Identity.load(key_file).public_key == cell.public_key
    assert await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("home"))) == cell


async def test_a_remote_cell_without_a_key_is_unknown_to_the_gate(
    api: Api, place: Place, dummy: str
):
    await api.local("home", dummy)
    cell = await api.remote("away", KEY, mac="02:00:00:00:00:01")
    assert (cell.local, cell.consent, cell.mac, cell.has_psk) == (
        False,
        STANDING,
        "02:00:00:00:00:01",
        False,
    )
    assert place.map("sessions") == {}


async def test_cells_are_listed_local_ones_first(api: Api, dummy: str):
    await api.remote("a-remote", KEY)
    await api.local("z-local", dummy)
    reply = await api.cells.List(cells_pb2.ListCellsRequest())
    assert [cell.name for cell in reply.cells] == ["z-local", "a-remote"]


async def test_a_cell_is_found_by_its_id(api: Api):
    cell = await api.remote("away", KEY)
    assert await api.cells.Get(cells_pb2.GetCellRequest(cell=Ref(id=cell.id))) == cell


@pytest.mark.parametrize(
    ("call", "request_of", "said"),
    [
        ("CreateLocal", lambda: CreateLocal(name="", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="A", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="../x", interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="x" * 64, interface="lo"), "name: needs 1 to 63"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface=""), "interface: needs the name"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface="a/b"), "interface: needs"),
        ("CreateLocal", lambda: CreateLocal(name="a", interface="x" * 16), "interface: needs"),
        ("CreateRemote", lambda: remote_request(name="a b"), "name: needs 1 to 63"),
        (
            "CreateRemote",
            lambda: remote_request(public_key=b"short"),
            "public_key: needs 32 bytes, got 5",
        ),
        ("CreateRemote", lambda: remote_request(public_key=bytes(32)), "public_key: is not"),
        ("CreateRemote", lambda: remote_request(consent=0), "consent: needs NONE"),
        ("CreateRemote", lambda: remote_request(consent=9), "consent: needs NONE"),
        ("CreateRemote", lambda: remote_request(mac="nonsense"), "mac: needs six pairs"),
        (
            "CreateRemote",
            lambda: remote_request(mac="ff:ff:ff:ff:ff:ff"),
            "mac: needs a unicast address",
        ),
        ("Get", lambda: cells_pb2.GetCellRequest(), "cell: needs the id or the name"),
        (
            "Get",
            lambda: cells_pb2.GetCellRequest(cell=Ref(id=common_pb2.CellId(value=b"x"))),
            "cell.id: needs 16 bytes, got 1",
        ),
        ("Get", lambda: cells_pb2.GetCellRequest(cell=by_name("A")), "cell.name: needs 1 to 63"),
        ("SetConsent", lambda: SetConsent(consent=STANDING), "cell: needs the id or the name"),
        ("SetConsent", lambda: SetConsent(cell=by_name("away")), "consent: needs NONE"),
        ("Delete", lambda: cells_pb2.DeleteCellRequest(), "cell: needs the id or the name"),
    ],
)
async def test_what_can_never_be_is_refused_by_its_field(
    api: Api, place: Place, dummy: str, call: str, request_of: Callable[[], object], said: str
):
    await api.local("home", dummy)
    before = place.everything()
    code, message = await refused(getattr(api.cells, call)(request_of()))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(said)
    assert place.everything() == before


@pytest.mark.parametrize(
    ("call", "request_of"),
    [
        ("Get", lambda: cells_pb2.GetCellRequest(cell=by_name("nobody"))),
        ("SetConsent", lambda: SetConsent(cell=by_name("nobody"), consent=STANDING)),
        ("SetConsent", lambda: SetConsent(cell=by_name("home"), consent=STANDING)),
        ("Delete", lambda: cells_pb2.DeleteCellRequest(cell=by_name("nobody"))),
    ],
)
async def test_what_is_not_there_is_not_found(
    api: Api, place: Place, dummy: str, call: str, request_of: Callable[[], object]
):
    await api.local("home", dummy)
    before = place.everything()
    code, message = await refused(getattr(api.cells, call)(request_of()))
    assert code is StatusCode.NOT_FOUND
    assert "cell" in message
    assert place.everything() == before


async def test_an_interface_that_is_missing_is_named(api: Api, place: Place):
    before = place.everything()
    code, message = await refused(api.local("home", "nowhere0"))
    assert code is StatusCode.FAILED_PRECONDITION
    assert message == "interface: there is no interface 'nowhere0'"
    assert place.everything() == before


async def test_a_name_is_taken_once(api: Api, place: Place, dummy: str):
    await api.local("home", dummy)
    before = place.everything()
    for call in (api.local("home", dummy), api.remote("home", KEY)):
        code, message = await refused(call)
        assert (code, message) == (
            StatusCode.ALREADY_EXISTS,
            "name: a cell named 'home' exists",
        )
    assert place.everything() == before


async def test_a_key_is_taken_once(api: Api, place: Place):
    await api.remote("away", KEY)
    before = place.everything()
    code, message = await refused(api.remote("again", KEY))
    assert (code, message) == (
        StatusCode.ALREADY_EXISTS,
        "public_key: it is the key of cell 'away'",
    )
    assert place.everything() == before


async def test_a_private_key_that_lies_there_is_never_overwritten(
    api: Api, place: Place, dummy: str
):
    orphan = place.config.state_dir / "keys" / "home.pem"
    orphan.write_text("somebody's")
    before = place.everything()
    code, _ = await refused(api.local("home", dummy))
    assert code is StatusCode.ALREADY_EXISTS
    assert orphan.read_text() == "somebody's"
    assert place.everything() == before


async def test_consent_is_in_the_gate_when_the_call_returns(api: Api, place: Place, dummy: str):
    home = await api.local("home", dummy)
    away = await api.remote("away", KEY, common_pb2.CONSENT_NONE)
    await api.psk("away")
    pair = away.id.value + home.id.value
    # enum assent_session_flag: covenanted 0x4, quarantined 0x8; flags follow the 32-byte state.
    for consent, flags in (
        (common_pb2.CONSENT_STANDING, 0x4),
        (common_pb2.CONSENT_QUARANTINED, 0xC),
        (common_pb2.CONSENT_NONE, 0x0),
    ):
        cell = await api.cells.SetConsent(SetConsent(cell=by_name("away"), consent=consent))
        assert cell.consent == consent
        assert int.from_bytes(place.map("sessions")[pair][32:36], "little") == flags


async def test_a_deleted_remote_cell_leaves_nothing(api: Api, place: Place, dummy: str):
    await api.local("home", dummy)
    before = place.everything()
    await api.remote("away", KEY)
    await api.psk("away")
    await api.grant("away", 1, 100)
    assert len(place.map("sessions")) == 1
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("away")))
    assert place.everything() == before
    assert (await api.status()).credit_promised_blocks == 0


async def test_a_deleted_local_cell_leaves_nothing(api: Api, place: Place, dummy: str):
    await api.remote("away", KEY)
    await api.psk("away")
    before = place.everything()
    await api.local("home", dummy)
    assert len(place.map("sessions")) == 1
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("home")))
    assert place.everything() == before


async def test_every_local_cell_knows_every_remote_one_with_a_key(
    api: Api, place: Place, dummy: str
):
    ids = {(await api.local(name, dummy)).id.value for name in ("one", "two")}
    away = await api.remote("away", KEY)
    other = await api.remote("other", OTHER_KEY)
    await api.psk("away")
    await api.psk("other")
    third = (await api.local("three", dummy)).id.value
    expected = {peer.id.value + local for peer in (away, other) for local in (*ids, third)}
    assert set(place.map("sessions")) == expected


async def test_a_full_table_of_local_cells_leaves_nothing_half_made(
    api: Api, place: Place, dummy: str
):
    """The chapter profile has room for 64 cells of this host."""
    for number in range(64):
        await api.local(f"cell-{number}", dummy)
    before = place.everything()
    code, message = await refused(api.local("one-too-many", dummy))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert "locals" in message
    assert place.everything() == before


async def test_a_full_table_of_sessions_leaves_nothing_half_made(
    api: Api, place: Place, dummy: str
):
    """The chapter profile has room for 64 pairs: two local cells and 32 remote ones."""
    await api.local("one", dummy)
    await api.local("two", dummy)
    for number in range(33):
        key = Identity.from_seed(bytes([number + 1]) * 32).public_key
        await api.remote(f"remote-{number}", key)
    for number in range(32):
        await api.psk(f"remote-{number}")
    before = place.everything()
    code, message = await refused(api.psk("remote-32"))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert "sessions" in message
    assert place.everything() == before

    # Half of another pair would fit now, and half is not enough.
    await api.keys.DeletePsk(keys_pb2.DeletePskRequest(remote=by_name("remote-0")))
    await api.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("two")))
    for number in (0, 32):
        await api.psk(f"remote-{number}")
    before = place.everything()
    assert len(place.map("sessions")) == 33
    code, _ = await refused(api.local("three", dummy))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert place.everything() == before


class TestPolicy:
    """What is relaxed for a cell is in the gate when the call returns, and never by default."""

    async def set(self, api: Api, name: str, **policy: bool) -> cells_pb2.Cell:
        request = cells_pb2.SetPolicyRequest(cell=by_name(name), **policy)
        return await api.cells.SetPolicy(request)

    def flags(self, place: Place) -> set[str]:
        """Of the one pair that the gate knows, what is relaxed."""
        btf = Btf.from_object(packaged("gate"))
        (value,) = place.map("sessions").values()
        flags = btf.map_value("sessions").unpack(value).flags
        bits = btf.enum("assent_session_flag")
        known = {"observed": "ASSENT_SESSION_OBSERVED", "bare": "ASSENT_SESSION_BARE"}
        return {name for name, bit in known.items() if flags & bits[bit]}

    @pytest.fixture
    async def pair(self, api: Api, dummy: str) -> None:
        await api.local("home", dummy)
        await api.remote("away", KEY)
        await api.psk("away")

    async def test_nothing_by_default(self, api: Api, place: Place, pair: None):
        cell = await api.cells.Get(cells_pb2.GetCellRequest(cell=by_name("away")))
        assert (cell.observe, cell.allow_bare) == (False, False)
        assert self.flags(place) == set()
        status = await api.status()
        assert (status.observed_cells, status.bare_cells) == (0, 0)

    async def test_a_remote_cell(self, api: Api, place: Place, pair: None):
        cell = await self.set(api, "away", observe=True)
        assert (cell.observe, cell.allow_bare) == (True, False)
        assert self.flags(place) == {"observed"}
        cell = await self.set(api, "away", allow_bare=True)
        assert (cell.observe, cell.allow_bare) == (True, True)
        assert self.flags(place) == {"observed", "bare"}
        status = await api.status()
        assert (status.observed_cells, status.bare_cells) == (1, 1)
        assert (list(status.observed_names), list(status.bare_names)) == (["away"], ["away"])
        await self.set(api, "away", observe=False, allow_bare=False)
        assert self.flags(place) == set()

    async def test_a_local_cell_for_all_its_pairs(self, api: Api, place: Place, pair: None):
        assert (await self.set(api, "home", observe=True)).observe
        assert self.flags(place) == {"observed"}
        # Either of the two will do, so the pair stays observed until neither is.
        await self.set(api, "away", observe=True)
        await self.set(api, "home", observe=False)
        assert self.flags(place) == {"observed"}
        await self.set(api, "away", observe=False)
        assert self.flags(place) == set()

    async def test_consent_and_policy_are_apart(self, api: Api, place: Place, pair: None):
        await self.set(api, "away", observe=True)
        request = SetConsent(cell=by_name("away"), consent=common_pb2.CONSENT_QUARANTINED)
        assert (await api.cells.SetConsent(request)).observe
        assert self.flags(place) == {"observed"}

    async def test_it_outlives_the_daemon(self, place: Place, dummy: str):
        async with daemon_in(place) as api:
            await api.local("home", dummy)
            await api.remote("away", KEY)
            await api.psk("away")
            await self.set(api, "away", observe=True, allow_bare=True)
        async with daemon_in(place) as api:
            assert self.flags(place) == {"observed", "bare"}
            assert (await api.status()).observed_cells == 1

    async def test_bare_frames_of_a_cell_of_this_host(self, api: Api, place: Place, pair: None):
        before = place.everything()
        with_bare = cells_pb2.SetPolicyRequest(cell=by_name("home"), allow_bare=True)
        code, message = await refused(api.cells.SetPolicy(with_bare))
        assert code is StatusCode.INVALID_ARGUMENT
        assert message == "allow_bare: can be said of remote cells only"
        assert place.everything() == before

    async def test_nobody(self, api: Api):
        request = cells_pb2.SetPolicyRequest(cell=by_name("nobody"), observe=True)
        code, _ = await refused(api.cells.SetPolicy(request))
        assert code is StatusCode.NOT_FOUND

    async def test_what_it_does(self, api: Api, place: Place, pair: None):
        """A handshake frame without consent: refused, or admitted and told as would_drop."""
        away, home = from_public_key(KEY), CellID(next(iter(place.map("locals"))))
        await api.cells.SetConsent(SetConsent(cell=by_name("away"), consent=NONE))
        place.tell_all()
        stream = api.fabric.WatchEvents()
        await stream.write(fabric_pb2.WatchEventsRequest(reasons=["no_covenant"]))
        await stream.initial_metadata()

        async def syn(timestamp: int) -> fabric_pb2.Event:
            header = Header(away, home, 1, Flags.SYN | Flags.BLOCK, 0, timestamp=timestamp)
            key = admission_key(PSK, away, home)
            header = replace(header, tag=siphash24(key, signed_bytes(header)))
            ethernet = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode()
            with Program.open_pinned(place.pins / "programs" / "gate") as gate:
                gate.test_run(ethernet + header.encode())
            while not (told := await asyncio.wait_for(stream.read(), 10)).HasField("event"):
                pass
            return told.event

        event = await syn(1)
        assert (event.would_drop, event.rule) == (False, "consent of away: none")
        await self.set(api, "away", observe=True)
        before = await api.counters()
        event = await syn(2)
        assert event.would_drop
        assert event.rule == "consent of away: none; operator: away is observed"
        after = await api.counters()
        assert after["admitted"] == before["admitted"] + 1
        assert after["no_covenant"] == before["no_covenant"]
        reply = await api.fabric.GetCounters(fabric_pb2.GetCountersRequest(pairs_max=5))
        (line,) = (each for each in reply.counters if each.reason == "no_covenant")
        assert (line.frames, line.would_drop, line.events + line.suppressed) == (1, 1, 2)
        (pair_counts,) = reply.pairs
        assert (pair_counts.remote_name, pair_counts.local_name) == ("away", "home")
        assert (pair_counts.admitted, pair_counts.would_drop, pair_counts.dropped) == (1, 1, 1)
        stream.cancel()
