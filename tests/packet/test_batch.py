# SPDX-License-Identifier: Apache-2.0
"""tables/batch.py and SessionTable's *_many: a thousand at once are what one by one would be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.packet.conftest import XDP_DROP, XDP_PASS

from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Map
from assent.dataplane.profiles import CHAPTER, Profile
from assent.dataplane.slots import RunAllocator
from assent.dataplane.tables import SEC, FlowSpec, PairSpec, SessionSpec, TermLimits
from assent.errors import InvalidArgument, NotFound, ResourceExhausted
from assent.handshake.keys import admission_key, admission_keys
from assent.identity.cellid import from_public_key, from_public_keys
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

from .twin import IN_VM

pytestmark = pytest.mark.skipif(IN_VM, reason="is about speed and tables, not about the kernel")

LOCAL = CellID(b"l" * 16)
ROOMY = replace(CHAPTER, sessions=64, connections=64, flows=512, replay_chunks=512)
TIGHT = replace(CHAPTER, sessions=8, connections=6, flows=20, replay_chunks=24, tallies=3)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate.private(ROOMY) as private:
        private.tables.locals.put(LOCAL, 0)
        yield private


@pytest.fixture
def tight() -> Iterator[Gate]:
    with Gate.private(TIGHT) as private:
        yield private


def cell(number: int) -> CellID:
    return CellID(number.to_bytes(2, "big") * 8)


def pair_of(number: int, **changes: Any) -> PairSpec:
    usual = PairSpec(
        cell(number),
        LOCAL,
        bytes([number]) * 16,
        covenanted=True,
        departing_key=bytes([100 + number]) * 16 if number % 2 else None,
        observed=number % 3 == 0,
        bare=number % 5 == 0,
        control=number % 2 == 0,
        leased=number % 7 == 0,
        limits=limits_of(number) if number % 4 == 0 else None,
    )
    return replace(usual, **changes)


def limits_of(number: int) -> TermLimits:
    return TermLimits(number, 2 * number, 3 * number, 4 * number, 5 * number)


def session_of(number: int, **changes: Any) -> SessionSpec:
    flows = ((), (FlowSpec(1, 10, 20),), (FlowSpec(2, 5, 6, replay_len=4000), FlowSpec(4)))
    usual = SessionSpec(
        cell(number),
        LOCAL,
        session_id=number,
        rx_header_key=bytes([50 + number]) * 16,
        tx_header_key=bytes([150 + number]) * 16 if number % 2 else None,
        clock_offset=-number * SEC,
        skew_limit=number * SEC,
        payload_max=number,
        grant_shift=number % 4,
        flows=flows[number % 3],
    )
    return replace(usual, **changes)


def provision(gate: Gate, spec: PairSpec) -> None:
    gate.tables.sessions.provision(
        spec.remote,
        spec.local,
        spec.admission_key,
        spec.covenanted,
        spec.quarantined,
        departing_key=spec.departing_key,
        observed=spec.observed,
        bare=spec.bare,
        control=spec.control,
        leased=spec.leased,
        limits=spec.limits,
    )


def seen(gate: Gate) -> dict[bytes, object]:
    """All that the maps say, by pair; slots, which may differ, are followed to what is there."""
    layout = gate.tables.sessions._session
    chunks = dict(gate.map("replay").items())
    found: dict[bytes, object] = {}
    used: list[tuple[str, int]] = []
    for key, value in gate.map("sessions").items():
        entry = layout.unpack(value)
        flows = []
        for slot in range(entry.flow_base, entry.flow_base + entry.flow_count):
            line = gate.tables.flows.read(slot)
            used.append(("flow", slot))
            count = line.replay_mask + 1 if line.replay_len else 0
            ring = range(line.replay_base, line.replay_base + count)
            used += [("chunk", at) for at in ring]
            flows.append(
                (
                    line.replace(replay_base=0).pack(),
                    [chunks[at.to_bytes(4, "little")] for at in ring],
                )
            )
        if entry.tally:
            used.append(("tally", entry.tally))
        assert gate.tables.tallies.read(entry.tally).frames == {}
        found[key] = (entry.replace(flow_base=0, tally=bool(entry.tally)).pack(), flows)
    assert len(used) == len(set(used)), "nothing is used twice"
    assert all(gate.tables.bloom.look(key)[0] for key in found), "nobody is kept out"
    return found


def state(gate: Gate) -> dict[str, dict[bytes, bytes]]:
    return {name: dict(gate.map(name).items()) for name in ("sessions", "flows", "replay")}


def frame(number: int, key: bytes, sent_at: int) -> bytes:
    header = Header(
        cell(number), LOCAL, seq=1, flags=Flags.DATA | Flags.BLOCK, flow=0, timestamp=sent_at
    )
    header = replace(header, tag=siphash24(key, signed_bytes(header)))
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + header.encode()


def test_many_are_what_one_by_one_would_be(gate: Gate):
    with Gate.private(ROOMY) as other:
        for number in range(1, 30):
            provision(other, pair_of(number))
        for number in range(1, 20):
            other.tables.sessions.install(session_of(number))
        gate.tables.sessions.install_many(
            [session_of(number) for number in range(1, 20)],
            [pair_of(number) for number in range(1, 30)],
        )
        assert seen(gate) == seen(other)
        assert len(gate.tables.sessions) == 29


def test_what_is_there_already_is_changed_as_one_by_one(gate: Gate):
    """Half of the pairs exist, some in session; consent and keys change, live sessions go on."""
    with Gate.private(ROOMY) as other:
        for one in (gate, other):
            for number in range(1, 16):
                provision(one, pair_of(number, quarantined=True))
            for number in range(1, 8):
                one.tables.sessions.install(session_of(number, session_id=number + 500))
        for number in range(1, 30):
            provision(other, pair_of(number))
        for number in range(5, 20):
            other.tables.sessions.install(session_of(number))
        gate.tables.sessions.provision_many([pair_of(number) for number in range(1, 30)])
        gate.tables.sessions.install_many([session_of(number) for number in range(5, 20)])
        assert seen(gate) == seen(other)


def test_installed_sessions_admit_their_peers_and_nobody_else(gate: Gate):
    numbers = range(1, 60)
    gate.tables.sessions.install_many(
        [session_of(number, clock_offset=0) for number in numbers],
        [pair_of(number) for number in numbers],
    )
    for number in numbers:
        now = time.monotonic_ns()
        genuine = frame(number, session_of(number).rx_header_key, now)
        assert gate.program.test_run(genuine).retval == XDP_PASS
        assert gate.program.test_run(genuine).retval == XDP_DROP, "a replay"
        assert gate.program.test_run(frame(number, b"x" * 16, now)).retval == XDP_DROP
    assert gate.program.test_run(frame(99, b"x" * 16, now)).retval == XDP_DROP
    counts = {name: one.frames for name, one in gate.tables.counters.read().items() if one.frames}
    assert counts == {"admitted": 59, "replay": 59, "bad_tag": 59, "unknown_source": 1}


def test_removed_ones_leave_nothing_and_make_room(gate: Gate):
    numbers = range(1, 60)
    pairs = [pair_of(number) for number in numbers]
    for _ in range(3):
        gate.tables.sessions.install_many([session_of(number) for number in numbers], pairs)
        assert len(gate.tables.sessions) == 59
        gone = [(pair.remote, LOCAL) for pair in pairs]
        assert gate.tables.sessions.delete_many([*gone, (cell(999), LOCAL)]) == 59
        assert (len(gate.tables.sessions), dict(gate.map("sessions").items())) == (0, {})
        assert gate.tables.sessions.delete_many(gone) == 0
        gate.tables.sessions.tidy()
        assert not gate.tables.bloom.look(bytes(pairs[0].remote) + bytes(LOCAL))[0]
        # What a CPU may still be reading rests for a second.
        tables = gate.tables.sessions
        for allocator in (tables._slots, tables._chunks, tables._tallies):
            allocator._grace_ns = 0


@pytest.mark.parametrize(
    ("sessions", "pairs", "message"),
    [
        (range(1, 7), range(1, 10), "sessions is full: it holds 8"),
        (range(1, 8), range(1, 9), "no more than 6"),
        ([2, 5, 8, 3], [2, 5, 8, 3], "flow slots"),
        ([2, 5, 8], [2, 5, 8], "replay chunks"),
    ],
)
def test_too_many_change_nothing(tight: Gate, sessions: list[int], pairs: list[int], message: str):
    """Of pairs, live sessions, flow slots and replay chunks: one that is held stays, whole."""
    if message == "flow slots":
        changes: dict[str, Any] = {"flows": (FlowSpec(6, replay_len=1),)}
    elif message == "replay chunks":
        changes = {"flows": (FlowSpec(1, replay_len=8192), FlowSpec(2, replay_len=1))}
    else:
        changes = {"flows": ()}
    before = state(tight)
    with pytest.raises(ResourceExhausted, match=message):
        tight.tables.sessions.install_many(
            [session_of(number, **changes) for number in sessions],
            [pair_of(number) for number in pairs],
        )
    assert state(tight)["sessions"] == before["sessions"] == {}
    assert len(tight.tables.sessions) == 0
    # All room is there again.
    tight.tables.sessions.install_many(
        [session_of(number, flows=()) for number in range(1, 7)],
        [pair_of(number) for number in range(1, 9)],
    )
    assert len(seen(tight)) == 8


def test_a_failure_half_way_is_undone(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    """The kernel writes some entries of a batch and then refuses."""
    for number in (3, 4):
        provision(gate, pair_of(number, quarantined=True))
    gate.tables.sessions.install(session_of(3, session_id=77))
    before, free = seen(gate), gate.tables.sessions._slots.free
    write: Callable[..., None] = Map.update_packed
    calls = 0

    def fail_late(table: Map, keys: bytes, values: bytes, count: int) -> None:
        nonlocal calls
        if table.name == "sessions" and not calls:
            calls += 1
            half = count // 2
            write(table, keys[: half * 32], values[: half * table.value_size], half)
            raise ResourceExhausted("map sessions is full")
        write(table, keys, values, count)

    monkeypatch.setattr(Map, "update_packed", fail_late)
    numbers = range(1, 20)
    with pytest.raises(ResourceExhausted):
        gate.tables.sessions.install_many(
            [session_of(number) for number in numbers], [pair_of(number) for number in numbers]
        )
    assert calls == 1
    assert seen(gate) == before
    assert len(gate.tables.sessions) == 2
    # What a CPU may have seen rests, the rest is free; nothing is gone.
    slots = gate.tables.sessions._slots
    assert slots.free + slots.retiring == free


@pytest.mark.parametrize(
    ("sessions", "pairs", "field"),
    [
        ([{}, {"skew_limit": -1}], [{}, {}], "sessions[1].skew_limit"),
        ([{}, {"payload_max": 1 << 16}], [{}, {}], "sessions[1].payload_max"),
        ([{}, {"session_id": -1}], [{}, {}], "sessions[1].session_id"),
        ([{}, {"clock_offset": 1 << 63}], [{}, {}], "sessions[1].clock_offset"),
        ([{}, {"rx_header_key": b"short"}], [{}, {}], "sessions[1].rx_header_key"),
        ([{"tx_header_key": b"short"}, {}], [{}, {}], "sessions[0].tx_header_key"),
        ([{}, {"flows": (FlowSpec(1), FlowSpec(1))}], [{}, {}], "sessions[1].flows"),
        ([{}, {"flows": (FlowSpec(1, -1),)}], [{}, {}], "sessions[1].window"),
        ([{}, {"grant_shift": 17}], [{}, {}], "sessions[1].grant_shift"),
        ([{}, {"remote": cell(1)}], [{}, {}], "sessions[1]"),
        ([{}, {}], [{}, {"remote": cell(1)}], "pairs[1]"),
        ([{}, {}], [{}, {"admission_key": b""}], "pairs[1].admission_key"),
    ],
)
def test_what_makes_no_sense_is_named(
    gate: Gate, sessions: list[dict[str, Any]], pairs: list[dict[str, Any]], field: str
):
    with pytest.raises(InvalidArgument) as refused:
        gate.tables.sessions.install_many(
            [session_of(at, **changes) for at, changes in enumerate(sessions, start=1)],
            [pair_of(at, **changes) for at, changes in enumerate(pairs, start=1)],
        )
    assert refused.value.field == field
    assert seen(gate) == {}


def test_a_session_of_an_unknown_pair_is_named(gate: Gate):
    provision(gate, pair_of(1))
    before = seen(gate)
    with pytest.raises(NotFound, match=r"sessions\[1\]"):
        gate.tables.sessions.install_many([session_of(1), session_of(2)])
    assert seen(gate) == before


def test_nothing_is_nothing(gate: Gate):
    gate.tables.sessions.install_many([])
    gate.tables.sessions.provision_many([])
    assert gate.tables.sessions.delete_many([]) == 0
    assert gate.tables.sessions.compare_many([]) == b""
    assert seen(gate) == {}


def test_comparing_tells_what_differs(gate: Gate):
    pairs = [pair_of(number) for number in range(1, 6)]
    gate.tables.sessions.provision_many(pairs[:4])
    assert gate.tables.sessions.compare_many(pairs) == bytes([0, 0, 0, 0, 1])
    wanted = [
        replace(pairs[0], admission_key=b"x" * 16),
        replace(pairs[1], departing_key=b"x" * 16),
        replace(pairs[2], observed=not pairs[2].observed),
        replace(pairs[3], covenanted=False),
    ]
    assert gate.tables.sessions.compare_many(wanted) == bytes([2, 2, 3, 3])


def test_live_ones_are_told_by_their_number(gate: Gate):
    gate.tables.sessions.install_many([session_of(1)], [pair_of(1), pair_of(2)])
    asked = [(cell(1), LOCAL, 1), (cell(1), LOCAL, 2), (cell(2), LOCAL, 0), (cell(3), LOCAL, 3)]
    assert gate.tables.sessions.live_many(asked) == bytes([1, 0, 0, 0])


def test_pairs_share_a_tally_where_there_are_no_more(tight: Gate):
    tight.tables.sessions.provision_many([pair_of(number) for number in range(1, 9)])
    tallies = sorted(entry.tally for entry in tight.tables.sessions.list())
    assert tallies == [0, 0, 0, 0, 0, 1, 2, 3]


def test_the_filter_grows_with_a_batch():
    """4,000 pairs at once are more than its least size is for, and all of them get through."""
    profile = Profile("filter", 1, 8192, 8, 64, 64, 16)
    with Gate.private(profile) as gate:
        pairs = [
            PairSpec(CellID(at.to_bytes(16, "big")), LOCAL, b"k" * 16, True) for at in range(4000)
        ]
        gate.tables.sessions.provision_many(pairs)
        keys = b"".join(bytes(pair.remote) + bytes(LOCAL) for pair in pairs)
        assert gate.tables.bloom.words > 512
        assert all(gate.tables.bloom.look(keys))
        assert not gate.tables.bloom.is_crowded


def test_names_and_keys_of_many_are_those_of_each():
    publics = [bytes([at]) * 31 + b"\x07" for at in range(50)]
    assert from_public_keys(publics) == [from_public_key(key) for key in publics]
    assert from_public_keys([]) == []
    with pytest.raises(InvalidArgument):
        from_public_keys([b"short"])
    pairs = [(cell(at), cell(at + 1)) for at in range(50)]
    expected = [admission_key(psk, *pair) for psk, pair in zip(publics, pairs, strict=True)]
    assert admission_keys(publics, pairs) == expected
    assert admission_keys([], []) == []
    with pytest.raises(InvalidArgument):
        admission_keys([b"short"], pairs[:1])
    with pytest.raises(InvalidArgument):
        admission_keys(publics, pairs[:1])


def test_runs_are_split_where_free_space_is_and_given_back_where_it_is_not():
    used = [(at, 1) for at in range(10, 50, 10)]
    slots = RunAllocator("slots", 50, 0, lambda: 0, used)
    runs = slots.allocate_many(9, 4)
    starts = [start + 4 * at for start, count in runs for at in range(count)]
    taken = {slot for start in starts for slot in range(start, start + 4)}
    assert len(starts) == 9
    assert len(taken) == 36
    assert not taken & {10, 20, 30, 40}
    free = slots.free
    with pytest.raises(ResourceExhausted):
        slots.allocate_many(3, 4)
    assert slots.free == free
    assert slots.allocate_many(0, 4) == []
