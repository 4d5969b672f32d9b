# SPDX-License-Identifier: Apache-2.0
"""What an operator may loosen: observed sessions, bare frames, the lamp allowance, sizes.

An observed session admits what policy refuses, counts it and tells of it. It never admits what is
not genuine, not new, or quarantined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from assent.dataplane.tables import SEC, FlowSpec
from assent.wire.fabric import Flags

from .conftest import XDP_DROP, XDP_PASS

HOUR = 3600 * SEC
DATA = Flags.DATA | Flags.BLOCK


def observe(rig: Any, covenanted: bool = True, quarantined: bool = False) -> None:
    for cell in (rig.remote, rig.guest):
        rig.tables.sessions.set_consent(cell, rig.local, covenanted, quarantined, observed=True)


def observed(rig: Any, frame: bytes, reason: str, retval: int = XDP_PASS) -> None:
    """Asserts that a frame is admitted, counted as what it would have been, and told."""
    before = rig.tables.counters.read()[reason]
    rig.tables.config.write(replace(rig.tables.config.read(), event_interval=0))
    with rig.tables.events() as ring:
        ring.read()
        rig.admit(frame, retval)
        (event,) = ring.read()
    after = rig.tables.counters.read()[reason]
    assert (event.reason, event.observed, event.frame_len) == (reason, True, len(frame))
    assert after == replace(before, observed=before.observed + 1, events=before.events + 1)


def no_control_rate(rig: Any) -> None:
    config = rig.tables.config.read()
    rig.tables.config.write(
        replace(
            config,
            control_interval=HOUR,
            control_burst=0,
            handshake_interval=HOUR,
            handshake_burst=0,
        )
    )


class TestObserved:
    def test_no_covenant(self, rig: Any) -> None:
        observe(rig, covenanted=False)
        observed(rig, rig.frame(seq=1), "no_covenant")
        observed(rig, rig.control(seq=1), "no_covenant")
        observed(rig, rig.handshake(), "no_covenant")

    def test_credit(self, rig: Any) -> None:
        observe(rig)
        spent = rig.flow(2).rx_spent
        observed(rig, rig.frame(flow=2), "no_credit")
        assert rig.flow(2).rx_spent == spent, "never more than was granted"

    def test_credit_of_a_part(self, rig: Any) -> None:
        rig.install(flows=(FlowSpec(1, 3),))
        observe(rig)
        rig.admit(rig.frame(seq=1, payload_len=64))
        observed(rig, rig.frame(seq=2, payload_len=64), "no_credit")
        assert (rig.flow().rx_spent, rig.flow().rx_granted) == (2, 3)

    def test_size(self, rig: Any) -> None:
        rig.install(payload_max=10)
        observe(rig)
        observed(rig, rig.frame(payload_len=11), "oversize")

    def test_rate_of_control(self, rig: Any) -> None:
        no_control_rate(rig)
        observe(rig)
        rig.admit(rig.control(seq=1))
        observed(rig, rig.control(seq=2), "rate_limited")

    def test_rate_of_handshakes(self, rig: Any) -> None:
        no_control_rate(rig)
        observe(rig)
        now = rig.peer_time
        rig.admit(rig.handshake(timestamp=now))
        observed(rig, rig.handshake(timestamp=now + 1), "rate_limited")

    def test_lamp(self, rig: Any) -> None:
        rig.tables.config.write(replace(rig.tables.config.read(), lamp_burst=0))
        observe(rig)
        observed(rig, rig.frame(flags=DATA | Flags.LAMP), "no_lamp")
        assert rig.flow().rx_spent == 0

    @pytest.mark.parametrize("flow", [3, 6, 0xFFFF])
    def test_a_flow_that_is_not_open(self, rig: Any, flow: int) -> None:
        observe(rig)
        now = rig.peer_time
        observed(rig, rig.frame(flow=flow, timestamp=now), "unknown_flow")
        rig.refuse(rig.frame(flow=flow, timestamp=now), "replay")
        rig.refuse(rig.frame(flow=flow, timestamp=now - 1), "replay")
        observed(rig, rig.frame(flow=flow, timestamp=now + 1), "unknown_flow")

    def test_the_first_reason_is_the_one_that_counts(self, rig: Any) -> None:
        observe(rig, covenanted=False)
        observed(rig, rig.frame(flow=2), "no_covenant")

    def test_what_policy_admits_is_no_event(self, rig: Any) -> None:
        observe(rig)
        with rig.tables.events() as ring:
            rig.admit(rig.frame())
            assert ring.read() == []

    @pytest.mark.parametrize(
        ("reason", "act"),
        [
            ("bad_tag", lambda r: r.frame(flip=1)),
            ("bad_tag", lambda r: r.frame(flip=1, flow=3)),
            ("bad_tag", lambda r: r.handshake(flip=1)),
            ("clock_skew", lambda r: r.frame(timestamp=0)),
            ("clock_skew", lambda r: r.frame(timestamp=0, flow=3)),
            ("replay", lambda r: r.frame(seq=0)),
            ("no_session", lambda r: r.frame(src=r.guest)),
            ("no_endpoint", lambda r: r.frame(flow=5)),
            ("malformed_flags", lambda r: r.frame(flags=DATA | 0x20)),
            ("bare_frame", lambda r: r.bare()),
        ],
    )
    def test_what_is_not_genuine_or_not_new_is_refused(
        self, rig: Any, reason: str, act: Callable[[Any], bytes]
    ) -> None:
        observe(rig, covenanted=False)
        rig.refuse(act(rig), reason)

    def test_quarantine_holds(self, rig: Any) -> None:
        observe(rig, quarantined=True)
        for frame in (rig.frame(), rig.control(), rig.handshake()):
            rig.refuse(frame, "quarantined")

    def test_a_duplicate_is_a_replay(self, rig: Any) -> None:
        observe(rig)
        observed(rig, rig.frame(flow=2, seq=9), "no_credit")
        rig.refuse(rig.frame(flow=2, seq=9), "replay")

    def test_is_never_the_default(self, rig: Any) -> None:
        for entry in rig.tables.sessions.list():
            assert not entry.observed
            assert not entry.bare


class TestBare:
    """40-byte frames, from a cell that is allowed to send them."""

    @pytest.fixture(autouse=True)
    def allowed(self, rig: Any) -> None:
        rig.tables.sessions.set_consent(rig.remote, rig.local, covenanted=True, bare=True)

    def test_go_to_the_stack_and_touch_no_flow(self, rig: Any) -> None:
        before = rig.state()["flows"]
        for payload in (b"", b"short", b"p" * 6, b"p" * 7, b"p" * 1400):
            rig.admit(rig.bare(seq=1 + len(payload), payload=payload))
        assert rig.state()["flows"] == before

    def test_once(self, rig: Any) -> None:
        for seq in (5, 3, 31, 0, 64, 70):
            rig.admit(rig.bare(seq=seq))
        for seq in (5, 3, 31, 0, 64, 70, 1):
            rig.refuse(rig.bare(seq=seq), "replay")

    @pytest.mark.parametrize("more", [-1, 1, 6, 20])
    def test_of_no_other_length(self, rig: Any, more: int) -> None:
        frame = rig.bare(payload=b"p" * 20)
        rig.refuse((frame + bytes(20))[: len(frame) + more], "malformed_length")

    def test_padding_is_ethernets_and_no_more(self, rig: Any) -> None:
        rig.refuse(rig.bare(payload=b"p") + b"\0", "malformed_length")
        rig.admit(rig.bare(payload=b"p"))

    @pytest.mark.parametrize("bit", [0x0020, 0x0040, 0x0080, 0x0100, 0x4000])
    def test_flags_are_utcps(self, rig: Any, bit: int) -> None:
        rig.refuse(rig.bare(flags=Flags(bit)), "malformed_flags")

    def test_from_nobody_else(self, rig: Any) -> None:
        rig.refuse(rig.bare(src=rig.guest), "bare_frame")
        rig.refuse(rig.bare(src=rig.stranger), "unknown_source")
        rig.refuse(rig.bare(dst=rig.stranger), "unknown_destination")

    def test_at_a_bounded_rate(self, rig: Any) -> None:
        no_control_rate(rig)
        rig.admit(rig.bare(seq=1))
        rig.refuse(rig.bare(seq=2), "rate_limited")
        rig.admit(rig.control(seq=1))  # what nobody can forge has a rate of its own

    def test_consent_holds(self, rig: Any) -> None:
        rig.tables.sessions.set_consent(rig.remote, rig.local, covenanted=False, bare=True)
        rig.refuse(rig.bare(), "no_covenant")
        rig.tables.sessions.set_consent(rig.remote, rig.local, True, True, bare=True)
        rig.refuse(rig.bare(), "quarantined")

    def test_every_truncation(self, rig: Any) -> None:
        frame = rig.bare(payload=b"p" * 10)
        for length in range(14, len(frame)):
            assert rig.run(frame[:length])[1].retval == XDP_DROP
        rig.admit(frame)


class TestLamp:
    def test_needs_no_credit_and_spends_none(self, rig: Any) -> None:
        rig.admit(rig.frame(flow=2, flags=DATA | Flags.LAMP, payload_len=64))
        assert (rig.flow(2).rx_spent, rig.flow(2).rx_granted) == (0, 0)

    def test_its_grant_funds_the_reply(self, rig: Any) -> None:
        rig.admit(rig.frame(flow=2, flags=DATA | Flags.LAMP, grant=40))
        assert rig.flow(2).tx_granted == 40

    def test_is_admitted_once(self, rig: Any) -> None:
        rig.admit(rig.frame(flow=2, flags=DATA | Flags.LAMP))
        rig.refuse(rig.frame(flow=2, flags=DATA | Flags.LAMP), "replay")

    def test_allowances_are_each_senders_own(self, rig: Any) -> None:
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, lamp_interval=HOUR, lamp_burst=HOUR))
        rig.admit(rig.frame(seq=1, flags=DATA | Flags.LAMP))
        rig.refuse(rig.frame(seq=2, flags=DATA | Flags.LAMP), "no_lamp")
        other = rig.spec(remote=rig.guest, session_id=8)
        session = rig.tables.sessions.install(other)
        rig.tables.flows.set_open(rig.tables.flows.slot_of(session, 1), True)
        rig.admit(rig.frame(src=rig.guest, flags=DATA | Flags.LAMP))
