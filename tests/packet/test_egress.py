# SPDX-License-Identifier: Apache-2.0
"""What leaves: every verdict, what is stamped, what is charged, and what a refusal leaves alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from assent.dataplane.tables import SEC, FlowSpec, TermLimits
from assent.errors import ResourceExhausted
from assent.wire.cellid import CellID
from assent.wire.fabric import Flags, block_cost, signed_bytes
from assent.wire.siphash import siphash24

from .recycled import private_gate
from .two_gates import (
    ADMISSION,
    BACK_ADMISSION,
    BACK_KEY,
    CREDIT,
    GUEST,
    HERE,
    KEY,
    S_VLAN,
    STRANGER,
    TC_OK,
    TC_SHOT,
    THERE,
    VLAN,
    WINDOW,
    TwoGates,
    foreign_frames,
    header_of,
)

BLOCK = Flags.BLOCK
COST = block_cost(100)


@pytest.fixture
def gates() -> Iterator[TwoGates]:
    with private_gate() as sender, private_gate() as receiver:
        yield TwoGates(sender, receiver)


# What is stamped


def test_a_raw_frame_is_stamped_charged_and_admitted_by_its_receiver(gates: TwoGates):
    sent = gates.frame()
    before = time.clock_gettime_ns(time.CLOCK_TAI)
    left = gates.pass_out(sent)
    after = time.clock_gettime_ns(time.CLOCK_TAI)
    header = header_of(left)
    assert before <= header.timestamp <= after
    assert (header.grant, header.nack_slot) == (WINDOW, 0)
    assert header.tag == siphash24(KEY, signed_bytes(header))
    assert replace(header, timestamp=0, tag=0, grant=0) == header_of(sent)
    assert left[:14] + left[78:] == sent[:14] + sent[78:]
    assert (gates.line().tx_spent, gates.line().tx_seq) == (COST, 1)
    assert gates.arrive(left) == "admitted"


def test_a_sequence_number_is_charged_once(gates: TwoGates):
    first = gates.pass_out(gates.frame(seq=5))
    again = gates.pass_out(gates.frame(seq=5))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (COST, 5)
    assert gates.arrive(first) == "admitted"
    assert gates.arrive(again) == "replay"
    gates.pass_out(gates.frame(seq=4))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (COST, 5)
    gates.pass_out(gates.frame(seq=6))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (2 * COST, 6)


def test_numbers_wrap(gates: TwoGates):
    gates.set_line(tx_seq=0xFFFF_FFFF)
    gates.pass_out(gates.frame(seq=0))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (COST, 0)
    gates.pass_out(gates.frame(seq=0xFFFF_FFFF))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (COST, 0)


def test_credit_is_spent_to_its_last_block_and_never_past_it(gates: TwoGates):
    whole = 64 * (CREDIT - 1)
    gates.refuse(gates.frame(payload_len=whole + 1), "no_credit")
    gates.pass_out(gates.frame(payload_len=whole))
    assert gates.line().tx_spent == CREDIT
    gates.refuse(gates.frame(seq=2, payload_len=0, flags=BLOCK), "no_credit")
    # What has been paid for may be said again.
    gates.pass_out(gates.frame(payload_len=whole))
    gates.sender.tables.flows.raise_tx_granted(gates.session.flow_base + 1, CREDIT + 1)
    gates.pass_out(gates.frame(seq=2, payload_len=0, flags=BLOCK))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (CREDIT + 1, 2)


def test_books_that_are_overdrawn_let_nothing_go(gates: TwoGates):
    gates.set_line(tx_spent=CREDIT + 1)
    gates.refuse(gates.frame(), "no_credit")


def test_a_lamp_costs_its_sender_nothing(gates: TwoGates):
    gates.set_line(tx_spent=CREDIT)
    left = gates.pass_out(gates.frame(flags=Flags.DATA | Flags.LAMP | BLOCK))
    assert (gates.line().tx_spent, gates.line().tx_seq) == (CREDIT, 1)
    assert gates.arrive(left) == "admitted"


def test_a_control_frame_costs_nothing(gates: TwoGates):
    left = gates.pass_out(gates.frame(flow=0, seq=3))
    assert (gates.line(0).tx_spent, gates.line(0).tx_seq) == (0, 3)
    assert header_of(left).grant == 0
    assert gates.arrive(left) == "admitted"


@pytest.mark.parametrize("kind", [Flags.SYN, Flags.SYN | Flags.ACK, Flags.ACK])
def test_a_handshake_frame_is_stamped_under_the_admission_key(gates: TwoGates, kind: Flags):
    gates.sender.tables.sessions.uninstall(THERE, HERE)
    left = gates.pass_out(gates.frame(flow=0, flags=kind | BLOCK, grant=9, nack_slot=9))
    header = header_of(left)
    assert (header.grant, header.nack_slot) == (0, 0)
    assert header.tag == siphash24(ADMISSION, signed_bytes(header))
    assert gates.arrive(left) == "admitted"


def test_the_grant_is_told_in_its_unit_and_modulo_its_width(gates: TwoGates):
    gates.install(grant_shift=3, flows=(FlowSpec(1, WINDOW, CREDIT),))
    assert header_of(gates.pass_out(gates.frame(seq=1))).grant == WINDOW >> 3
    gates.sender.tables.flows.raise_rx_granted(gates.session.flow_base + 1, (0x1_0005 << 3) + 7)
    assert header_of(gates.pass_out(gates.frame(seq=2))).grant == 5


def arrived(gates: TwoGates, *numbers: int) -> None:
    """Frames of the other direction arrive at the sender's gate."""
    gates.sender.tables.flows.set_open(gates.session.flow_base + 1, True)
    for number in numbers:
        frame = gates.frame(key=BACK_KEY, src=THERE, dst=HERE, seq=number)
        assert gates.sender.program.test_run(frame).retval == 2


@pytest.mark.parametrize(
    ("got", "awaited", "missing"),
    [
        ((), 0, 0),  # no endpoint has said what it awaits
        ((), 1, 0),  # nothing has come past it
        ((1, 2), 3, 0),
        ((1, 3), 2, 2),
        ((1, 2, 3), 2, 0),  # it has come, and its endpoint has not looked yet
        ((1, 3, 4, 9), 5, 5),
        ((40,), 7, 7),
    ],
)
def test_what_is_missing_in_the_other_direction_is_named(
    gates: TwoGates, got: tuple[int, ...], awaited: int, missing: int
):
    gates.install(skew_limit=0)
    arrived(gates, *got)
    gates.set_line(rx_next=awaited)
    # Whatever the sender says of it itself.
    for seq, (flags, slot) in enumerate([(Flags.DATA, 0), (Flags.DATA | Flags.NACK, 77)], start=1):
        header = header_of(
            gates.pass_out(gates.frame(seq=seq, flags=flags | BLOCK, nack_slot=slot))
        )
        assert header.nack_slot == missing
        assert bool(header.flags & Flags.NACK) == bool(missing)
        assert header.tag == siphash24(KEY, signed_bytes(header))


def test_one_vlan_tag_is_looked_under(gates: TwoGates):
    left = gates.pass_out(gates.frame(tags=VLAN))
    header = header_of(left, 18)
    assert header.tag == siphash24(KEY, signed_bytes(header))
    assert gates.line().tx_spent == COST
    assert gates.arrive(left) == "admitted"


# What is made elsewhere


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        (KEY, {}),
        (KEY, {"seq": 77, "flow": 3}),  # the library's own affair
        (KEY, {"flow": 0}),
        (KEY, {"payload_len": 3400}),  # more than the credit that is left: it was charged before
        (ADMISSION, {"flow": 0, "flags": Flags.SYN | BLOCK}),
    ],
)
def test_a_frame_with_its_tag_leaves_as_it_is(
    gates: TwoGates, key: bytes, fields: dict[str, object]
):
    sent = gates.frame(key=key, **fields)
    before = gates.books()
    assert gates.pass_out(sent) == sent
    assert gates.books() == before


# What is refused


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("malformed_length", {"length": 63}),
        ("malformed_length", {"length": 10}),
        ("malformed_length", {"length": 0}),
        ("malformed_length", {"length": 64}),
        ("malformed_length", {"length": 64 + 129}),
        ("malformed_length", {"length": 64 + 127}),
        ("malformed_flags", {"flags": Flags.DATA | BLOCK | 0x0200}),
        ("malformed_flags", {"flags": Flags.DATA | BLOCK | 0x0040}),
        ("not_local", {"src": STRANGER}),
        ("not_local", {"src": THERE, "dst": HERE, "key": BACK_KEY}),
        ("no_session", {"dst": STRANGER}),
        ("no_session", {"dst": HERE}),
        ("no_session", {"dst": GUEST}),
        ("no_session", {"dst": GUEST, "key": KEY}),
        ("no_session", {"dst": GUEST, "flow": 0, "flags": Flags.SYN | BLOCK}),
        ("bad_tag", {"tag": 1}),
        ("bad_tag", {"key": BACK_KEY}),
        ("bad_tag", {"key": ADMISSION}),
        ("bad_tag", {"key": KEY, "flow": 0, "flags": Flags.SYN | BLOCK}),
        ("bad_tag", {"key": BACK_ADMISSION, "flow": 0, "flags": Flags.SYN | BLOCK}),
        ("bare_frame", {"flags": Flags.DATA}),
        ("unknown_flow", {"flow": 3}),
        ("unknown_flow", {"flow": 0xFFFF}),
        ("no_credit", {"flow": 2}),
        ("stacked_vlan", {"tags": VLAN * 2}),
        ("stacked_vlan", {"tags": VLAN * 3}),
        ("stacked_vlan", {"tags": VLAN * 5}),
        ("stacked_vlan", {"tags": S_VLAN}),
        ("stacked_vlan", {"tags": S_VLAN + VLAN}),
    ],
)
def test_what_may_not_leave_does_not(gates: TwoGates, reason: str, fields: dict[str, object]):
    gates.refuse(gates.frame(**fields), reason)


def test_nothing_leaves_to_whom_nothing_was_agreed_with(gates: TwoGates):
    for frame in (gates.frame(), gates.frame(key=KEY)):
        gates.provision(covenanted=False)
        gates.refuse(frame, "no_covenant")
        gates.provision(quarantined=True)
        gates.refuse(frame, "quarantined")
        gates.provision()
        gates.pass_out(frame)


def test_data_leaves_in_its_window_and_under_its_lease(gates: TwoGates):
    far = (1 << 63) - 1
    for frame in (gates.frame(), gates.frame(key=KEY)):
        gates.provision(limits=TermLimits(open_from=far))
        gates.refuse(frame, "outside_window")
        gates.provision(limits=TermLimits(open_until=1))
        gates.refuse(frame, "outside_window")
        gates.provision(leased=True, limits=TermLimits(open_until=far))
        gates.refuse(frame, "lease_expired")
        gates.sender.tables.config.renew_lease(far)
        gates.pass_out(frame)
        gates.sender.tables.config.renew_lease(1)


def test_rate_and_payload_are_held_to_where_they_arrive(gates: TwoGates):
    gates.provision(limits=TermLimits(SEC, 0, payload_limit=1))
    before = gates.sender.map("sessions").lookup(bytes(THERE) + bytes(HERE))
    gates.pass_out(gates.frame())
    assert gates.sender.map("sessions").lookup(bytes(THERE) + bytes(HERE)) == before


def test_flow_0_leaves_whatever_consent_says_where_covenants_are_made(gates: TwoGates):
    control, syn = gates.frame(flow=0), gates.frame(flow=0, flags=Flags.SYN | BLOCK)
    closed = TermLimits(open_until=1)
    for covenanted, quarantined, reason in (
        (False, False, "no_covenant"),
        (False, True, "no_covenant"),
        (True, True, "quarantined"),
    ):
        policy = {"covenanted": covenanted, "quarantined": quarantined}
        gates.provision(**policy)
        for frame in (control, syn):
            gates.refuse(frame, reason)
        gates.provision(**policy, control=True, leased=True, limits=closed)
        gates.refuse(gates.frame(), reason)
        for frame in (control, syn):
            gates.pass_out(frame)


def test_a_session_that_ended_sends_nothing(gates: TwoGates):
    frame = gates.frame(key=KEY)
    gates.sender.tables.sessions.uninstall(THERE, HERE)
    gates.refuse(gates.frame(), "no_session")
    gates.refuse(frame, "no_session")
    gates.sender.tables.sessions.delete(THERE, HERE)
    gates.refuse(gates.frame(flow=0, flags=Flags.SYN | BLOCK), "no_session")


def test_a_session_without_a_departing_key_sends_nothing(gates: TwoGates):
    gates.install(tx_header_key=None)
    gates.refuse(gates.frame(), "no_session")
    gates.refuse(gates.frame(tag=1), "no_session")


# Observed sessions


@pytest.mark.parametrize(
    ("reason", "policy", "fields"),
    [
        ("no_covenant", {"covenanted": False}, {}),
        ("no_credit", {}, {"flow": 2}),
        ("unknown_flow", {}, {"flow": 3}),
        ("outside_window", {"limits": TermLimits(open_until=1)}, {}),
        ("lease_expired", {"leased": True}, {}),
    ],
)
def test_policy_is_noted_in_an_observed_session(
    gates: TwoGates, reason: str, policy: dict[str, Any], fields: dict[str, object]
):
    gates.provision(observed=True, **policy)
    header = header_of(gates.pass_out(gates.frame(**fields)))
    assert header.tag == siphash24(KEY, signed_bytes(header))
    found = gates.counted()[reason]
    assert (found.frames, found.observed, found.events + found.suppressed) == (0, 1, 1)
    if fields:
        assert gates.line(2).tx_spent == 0


@pytest.mark.parametrize(
    ("reason", "policy", "fields"),
    [
        ("quarantined", {"quarantined": True}, {}),
        ("quarantined", {"quarantined": True, "covenanted": False}, {}),
        ("bad_tag", {}, {"tag": 5}),
        ("not_local", {}, {"src": STRANGER}),
        ("malformed_length", {}, {"length": 65}),
    ],
)
def test_an_observed_session_forgives_nothing_else(
    gates: TwoGates, reason: str, policy: dict[str, bool], fields: dict[str, object]
):
    gates.provision(observed=True, **policy)
    gates.refuse(gates.frame(**fields), reason)


# Bare frames


def bare(gates: TwoGates, length: int | None = None, **fields: object) -> bytes:
    """A 40-byte UTCP frame with its payload, which is not padded to blocks."""
    usual = {"flags": Flags.DATA, "payload_len": 30}
    whole = gates.frame(**{**usual, **fields})
    body = whole[14:54] + bytes(30)
    return whole[:14] + (body if length is None else body.ljust(length, b"\0")[:length])


def test_bare_frames_leave_where_they_are_spoken(gates: TwoGates):
    gates.refuse(bare(gates), "bare_frame")
    gates.provision(bare=True)
    before = gates.books()
    assert gates.pass_out(bare(gates)) == bare(gates)
    assert gates.books() == before
    gates.refuse(bare(gates, 71), "malformed_length")
    gates.refuse(bare(gates, 69), "malformed_length")
    gates.refuse(bare(gates, flags=Flags.DATA | Flags.LAMP), "malformed_flags")
    gates.refuse(bare(gates, src=STRANGER), "not_local")
    gates.refuse(bare(gates, dst=STRANGER), "no_session")
    gates.provision(bare=True, covenanted=False)
    gates.refuse(bare(gates), "no_covenant")


# What is told


def test_every_refusal_is_told_or_counted_as_suppressed(gates: TwoGates):
    frame = gates.frame(src=STRANGER)
    with gates.sender.tables.events() as events:
        for _ in range(20):
            gates.refuse(frame, "not_local")
        told = events.read()
    found = gates.counted()["not_local"]
    assert found.frames == 20 == found.events + found.suppressed
    assert len(told) == found.events >= 1
    first = told[0]
    assert (first.leaving, first.observed, first.session_id) == (True, False, 0)
    assert (first.frame_len, first.head) == (len(frame), frame[:106])


def test_an_observed_frame_is_told_as_it_leaves(gates: TwoGates):
    gates.provision(observed=True)
    with gates.sender.tables.events() as events:
        left = gates.pass_out(gates.frame(flow=2))
        (told,) = events.read()
    assert (told.reason, told.leaving, told.observed) == ("no_credit", True, True)
    assert (told.session_id, told.head) == (7, left[:106])


# What is not ours, and gates that are not whole


def empty_config(gates: TwoGates) -> None:
    table = gates.sender.map("config")
    table.update(bytes(4), bytes(table.value_size))


def no_home(gates: TwoGates) -> None:
    gates.sender.tables.config.change(home_count=0)


def empty_bloom(gates: TwoGates) -> None:
    table = gates.sender.map("bloom")
    for index in range(table.max_entries):
        table.update(index.to_bytes(4, "little"), bytes(8))


def bloom_beyond_its_map(gates: TwoGates) -> None:
    gates.sender.tables.config.change(bloom=gates.sender.map("bloom").max_entries << 32)


def flows_beyond_their_map(gates: TwoGates) -> None:
    edit_session(gates, flow_base=gates.sender.map("flows").max_entries)


def replay_beyond_its_map(gates: TwoGates) -> None:
    for flow in (0, 1):
        gates.set_line(flow, replay_base=gates.sender.map("replay").max_entries)


def full_of_others(gates: TwoGates) -> None:
    sessions, table = gates.sender.tables.sessions, gates.sender.map("sessions")
    sessions.delete(THERE, HERE)
    with contextlib.suppress(ResourceExhausted):
        for number in range(1, 1 << 20):
            sessions.provision(CellID(number.to_bytes(16, "big")), HERE, KEY, covenanted=True)
    with pytest.raises(ResourceExhausted):
        sessions.provision(THERE, HERE, KEY, covenanted=True)
    assert len(dict(table.items())) >= table.max_entries


def edit_session(gates: TwoGates, **values: int) -> None:
    from assent.dataplane.btf import Btf
    from assent.dataplane.objects import packaged

    layout = Btf.from_object(packaged("gate")).map_value("sessions")
    key = bytes(THERE) + bytes(HERE)
    table = gates.sender.map("sessions")
    table.update(key, layout.unpack(table.lookup(key) or b"").replace(**values).pack())


@pytest.mark.parametrize(
    ("broken", "arriving", "leaving"),
    [
        (empty_config, "unknown_destination", "not_local"),
        (no_home, "unknown_destination", "not_local"),
        # The filter is before arriving frames alone: strangers of whom there are many.
        (empty_bloom, "unknown_source", None),
        (bloom_beyond_its_map, "unknown_source", None),
        (full_of_others, "unknown_source", "no_session"),
        (flows_beyond_their_map, "unknown_flow", "unknown_flow"),
        (replay_beyond_its_map, "unknown_flow", None),
    ],
)
def test_a_gate_that_is_not_whole_is_shut(
    gates: TwoGates,
    broken: Callable[[TwoGates], None],
    arriving: str,
    leaving: str | None,
):
    gates.install(skew_limit=0)
    gates.sender.tables.flows.set_open(gates.session.flow_base + 1, True)
    broken(gates)
    for flow in (0, 1):
        frame = gates.frame(key=BACK_KEY, src=THERE, dst=HERE, flow=flow)
        before = gates.sender.tables.counters.read()
        assert gates.sender.program.test_run(frame).retval == 1
        after = gates.sender.tables.counters.read()
        assert after[arriving].frames == before[arriving].frames + 1
    if leaving is not None:
        for frame in (gates.frame(), gates.frame(flow=0)):
            gates.refuse(frame, leaving)
    else:
        gates.pass_out(gates.frame())
    for frame in foreign_frames():
        gates.ignore(frame)


def test_what_is_not_ours_passes_untouched(gates: TwoGates):
    for frame in foreign_frames():
        gates.ignore(frame)


def test_relayed_frames_leave_untouched(gates: TwoGates):
    macs = gates.frame()[:12]
    for tags in (b"", VLAN, VLAN * 2, S_VLAN + VLAN):
        frame = macs + tags + b"\x4c\x57" + bytes(100)
        verdict, run = gates.leave(frame)
        assert (verdict, run.data) == (None, frame)
        assert run.retval not in (TC_OK, TC_SHOT)


def test_clocks_are_tai_on_both_sides(gates: TwoGates):
    """The receiver learnt the sender's clock from handshakes, which tell CLOCK_TAI."""
    left = gates.pass_out(gates.frame())
    assert abs(header_of(left).timestamp - time.clock_gettime_ns(time.CLOCK_TAI)) < 60 * SEC
