# SPDX-License-Identifier: Apache-2.0
"""What a covenant says of a pair, in the gate: control, window, lease, payload, rate.

What is refused stands in test_verdicts.py, the exact edges of time in tests/host/test_headers.c.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import pytest

from assent.dataplane.explain import Explainer
from assent.dataplane.tables import NO_LIMITS, SEC, GateConfig, PairSpec, TermLimits
from assent.errors import InvalidArgument
from assent.wire.fabric import Flags

from .test_policy import observed

HOUR = 3600 * SEC
FAR = (1 << 63) - 1
DATA = Flags.DATA | Flags.BLOCK
OPEN = TermLimits(open_from=1, open_until=FAR)
CLOSED = TermLimits(open_until=1)


def bind(rig: Any, covenanted: bool = True, quarantined: bool = False, **policy: Any) -> None:
    """Says what `local` agreed to hear from `remote`."""
    rig.tables.sessions.set_consent(rig.remote, rig.local, covenanted, quarantined, **policy)


class TestControl:
    @pytest.mark.parametrize(
        ("covenanted", "quarantined", "refusal"),
        [
            (False, False, "no_covenant"),
            (False, True, "no_covenant"),
            (True, True, "quarantined"),
            (True, False, None),
        ],
    )
    def test_flow_0_and_handshakes_pass_whatever_consent_says(
        self, rig: Any, covenanted: bool, quarantined: bool, refusal: str | None
    ) -> None:
        bind(rig, covenanted, quarantined)
        if refusal is not None:
            for frame in (rig.control(), rig.handshake(src=rig.remote), rig.frame()):
                rig.refuse(frame, refusal)
        bind(rig, covenanted, quarantined, control=True)
        rig.admit(rig.control())
        rig.admit(rig.handshake(src=rig.remote))
        if refusal is not None:
            rig.refuse(rig.frame(), refusal)
        else:
            rig.admit(rig.frame())

    def test_terms_and_lease_are_about_data(self, rig: Any) -> None:
        rate = replace(CLOSED, interval_ns=HOUR, payload_limit=1)
        bind(rig, leased=True, limits=rate)
        rig.admit(rig.control(payload_len=200))
        rig.admit(rig.handshake(src=rig.remote, payload_len=200))
        assert rig.tables.sessions.get(rig.remote, rig.local).data_due == 0

    def test_what_is_not_genuine_is_refused_on_flow_0_too(self, rig: Any) -> None:
        bind(rig, False, True, control=True)
        rig.refuse(rig.control(flip=1), "bad_tag")
        rig.refuse(rig.control(seq=0), "replay")
        rig.refuse(rig.control(src=rig.guest), "no_session")
        rig.refuse(rig.handshake(src=rig.remote, flip=1), "bad_tag")

    def test_flow_0_is_held_to_its_rate(self, rig: Any) -> None:
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, control_interval=HOUR, control_burst=0))
        bind(rig, False, control=True)
        rig.admit(rig.control(seq=1))
        rig.refuse(rig.control(seq=2), "rate_limited")

    def test_bare_frames_are_data(self, rig: Any) -> None:
        bind(rig, False, bare=True, control=True)
        rig.refuse(rig.bare(), "no_covenant")
        bind(rig, bare=True, control=True, limits=CLOSED)
        rig.refuse(rig.bare(), "outside_window")
        bind(rig, bare=True, control=True, leased=True)
        rig.refuse(rig.bare(), "lease_expired")
        bind(rig, bare=True, limits=TermLimits(payload_limit=5))
        rig.refuse(rig.bare(payload=b"123456"), "oversize")
        rig.admit(rig.bare(payload=b"12345"))


class TestData:
    def test_in_an_open_window_and_under_a_lease(self, rig: Any) -> None:
        bind(rig, leased=True, limits=OPEN)
        rig.refuse(rig.frame(), "lease_expired")
        rig.tables.config.renew_lease(time.monotonic_ns() + HOUR)
        rig.admit(rig.frame(seq=1))
        rig.tables.config.renew_lease(0)
        rig.refuse(rig.frame(seq=2), "lease_expired")

    def test_a_lease_is_no_affair_of_pairs_that_need_none(self, rig: Any) -> None:
        rig.tables.config.renew_lease(1)
        rig.admit(rig.frame(seq=1))
        bind(rig, limits=OPEN)
        rig.admit(rig.frame(seq=2))

    def test_the_last_byte_of_the_payload_limit(self, rig: Any) -> None:
        bind(rig, limits=TermLimits(payload_limit=100))
        rig.admit(rig.frame(seq=1, payload_len=100))
        rig.refuse(rig.frame(seq=2, payload_len=101), "oversize")

    def test_the_last_block_of_a_burst(self, rig: Any) -> None:
        """An admitted frame is charged for its blocks, to the rate and to its credit alike."""
        bind(rig, limits=TermLimits(HOUR, 5 * HOUR))
        before = time.monotonic_ns()
        rig.admit(rig.frame(seq=1, payload_len=129))
        rig.refuse(rig.frame(seq=2, payload_len=1), "over_rate")
        rig.admit(rig.frame(seq=2))
        due = rig.tables.sessions.get(rig.remote, rig.local).data_due
        assert 5 * HOUR - SEC < due - before < 5 * HOUR + SEC
        assert rig.flow().rx_spent == 5
        rig.refuse(rig.frame(seq=3), "over_rate")

    def test_a_duplicate_is_not_charged(self, rig: Any) -> None:
        bind(rig, limits=TermLimits(HOUR, 2 * HOUR))
        rig.admit(rig.frame(seq=1))
        rig.refuse(rig.frame(seq=1), "replay")
        rig.admit(rig.frame(seq=2))

    def test_what_the_rate_refuses_may_come_again(self, rig: Any) -> None:
        bind(rig, limits=TermLimits(HOUR, 0))
        rig.refuse(rig.frame(grant=90), "over_rate")
        assert rig.flow().tx_granted == rig.tx_window
        bind(rig, limits=NO_LIMITS)
        rig.admit(rig.frame(grant=90))

    def test_rates_are_each_senders_own(self, rig: Any) -> None:
        bind(rig, limits=TermLimits(HOUR, HOUR))
        rig.admit(rig.frame(seq=1))
        rig.refuse(rig.frame(seq=2), "over_rate")
        session = rig.tables.sessions.install(rig.spec(remote=rig.guest, session_id=8))
        rig.tables.flows.set_open(rig.tables.flows.slot_of(session, 1), True)
        rig.admit(rig.frame(src=rig.guest))


class TestObserved:
    def test_terms_are_noted(self, rig: Any) -> None:
        for seq, (reason, policy) in enumerate(
            [
                ("outside_window", {"limits": CLOSED}),
                ("lease_expired", {"leased": True}),
                ("oversize", {"limits": TermLimits(payload_limit=9)}),
                ("over_rate", {"limits": TermLimits(HOUR, 0)}),
            ],
            start=1,
        ):
            bind(rig, observed=True, **policy)
            observed(rig, rig.frame(seq=seq, payload_len=10), reason)

    def test_quarantine_holds_for_data_alone(self, rig: Any) -> None:
        bind(rig, True, True, observed=True, control=True)
        rig.refuse(rig.frame(), "quarantined")
        rig.admit(rig.control())
        rig.admit(rig.handshake(src=rig.remote))

    def test_control_without_a_covenant_breaks_nothing(self, rig: Any) -> None:
        bind(rig, False, observed=True, control=True)
        with rig.tables.events() as ring:
            ring.read()
            rig.admit(rig.control())
            assert ring.read() == []
        observed(rig, rig.frame(), "no_covenant")


class TestTables:
    LIMITS = TermLimits(1, 2, 3, 4, 5)

    def test_an_entry_says_what_was_written(self, rig: Any) -> None:
        for control, leased, limits in itertools.product(
            (False, True), (False, True), (None, NO_LIMITS, self.LIMITS)
        ):
            bind(rig, control=control, leased=leased, limits=limits)
            found = rig.tables.sessions.get(rig.remote, rig.local)
            assert (found.control, found.leased, found.limits) == (control, leased, limits)

    def test_sessions_come_and_go_under_the_same_terms(self, rig: Any) -> None:
        bind(rig, control=True, leased=True, limits=self.LIMITS)
        sessions = rig.tables.sessions
        for act in (
            lambda: rig.install(),
            lambda: sessions.install_many([rig.spec(session_id=9)]),
            lambda: sessions.rekey(rig.remote, rig.local, b"n" * 16),
            lambda: sessions.uninstall(rig.remote, rig.local),
            lambda: rig.install(),
        ):
            act()
            found = sessions.get(rig.remote, rig.local)
            assert (found.control, found.leased, found.limits) == (True, True, self.LIMITS)

    @pytest.mark.parametrize("many", [False, True])
    def test_what_the_gate_has_counted_survives_other_terms(self, rig: Any, many: bool) -> None:
        bind(rig, limits=TermLimits(HOUR, HOUR))
        rig.admit(rig.frame())
        due = rig.tables.sessions.get(rig.remote, rig.local).data_due
        assert due
        spec = PairSpec(
            rig.remote, rig.local, rig.admission_key, True, limits=TermLimits(HOUR, 2 * HOUR)
        )
        if many:
            rig.tables.sessions.provision_many([spec])
        else:
            bind(rig, limits=spec.limits)
        assert rig.tables.sessions.get(rig.remote, rig.local).data_due == due
        assert not any(rig.tables.sessions.compare_many([spec]))
        rig.admit(rig.frame(seq=2))
        rig.refuse(rig.frame(seq=3), "over_rate")

    @pytest.mark.parametrize(
        "changes",
        [
            {"control": True},
            {"leased": False},
            {"limits": None},
            *({"limits": {name: 9}} for name in TermLimits.__slots__),
        ],
    )
    def test_every_difference_is_found_and_repaired(
        self, rig: Any, changes: dict[str, Any]
    ) -> None:
        usual = PairSpec(
            rig.remote, rig.local, rig.admission_key, True, leased=True, limits=self.LIMITS
        )
        limits = changes.get("limits")
        if isinstance(limits, dict):
            changes = {"limits": replace(self.LIMITS, **limits)}
        wanted = replace(usual, **changes)
        sessions = rig.tables.sessions
        sessions.provision_many([usual])
        assert not any(sessions.compare_many([usual]))
        assert sessions.compare_many([wanted]) == b"\x03"
        sessions.provision_many([wanted])
        assert not any(sessions.compare_many([wanted]))
        assert sessions.get(rig.remote, rig.local).limits == wanted.limits

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("interval_ns", -1),
            ("interval_ns", HOUR + 1),
            ("burst_ns", 1 << 63),
            ("payload_limit", 1 << 32),
            ("payload_limit", -1),
            ("open_from", 1 << 63),
            ("open_until", -5),
        ],
    )
    def test_limits_out_of_range(self, field: str, value: int) -> None:
        with pytest.raises(InvalidArgument, match=f"{field}: must be from 0 to"):
            TermLimits(**{field: value})

    def test_the_lease_is_not_a_rate(self, rig: Any) -> None:
        rig.tables.config.renew_lease(77)
        assert rig.tables.config.read() == GateConfig(lease_until=77)
        rig.tables.config.write(GateConfig(lease_until=5, lamp_burst=6))
        assert rig.tables.config.read() == GateConfig(lease_until=77, lamp_burst=6)

    @pytest.mark.parametrize("until", [-1, 1 << 63])
    def test_a_lease_until_no_time(self, rig: Any, until: int) -> None:
        before = rig.state()
        with pytest.raises(InvalidArgument, match="until_ns"):
            rig.tables.config.renew_lease(until)
        assert rig.state() == before


class TestExplained:
    def says(self, rig: Any, frame: bytes) -> dict[str, str]:
        with Explainer(rig.gate) as explainer:
            return {each.map: each.says for each in explainer.explain(frame).consulted}

    def test_of_data(self, rig: Any) -> None:
        now = time.monotonic_ns()
        limits = TermLimits(HOUR, 3 * HOUR, 100, 1, now + 2 * HOUR)
        bind(rig, control=True, leased=True, limits=limits)
        rig.tables.config.renew_lease(now + HOUR)
        rig.admit(rig.frame(payload_len=64))
        found = self.says(rig, rig.frame(seq=2))
        said = found["sessions"].split(", ")
        assert said[:2] == ["session 7", "established covenanted control terms leased"]
        assert said[2].startswith("let in for another 7")
        assert said[3] == "payload limit 100 bytes"
        assert said[4].endswith(" s ahead of the rate in its terms")
        assert float(said[4].split()[0]) == pytest.approx(7200, abs=5)
        assert found["config"].startswith("the lease of covenants lasts another 3")

    def test_of_what_came_too_early(self, rig: Any) -> None:
        bind(rig, leased=True, limits=TermLimits(open_from=time.monotonic_ns() + HOUR))
        found = self.says(rig, rig.frame())
        assert ", let in from 3" in found["sessions"]
        assert found["sessions"].endswith(" s from now")
        assert "config" not in found

    def test_of_what_came_too_late(self, rig: Any) -> None:
        bind(rig, leased=True, limits=CLOSED)
        assert self.says(rig, rig.frame())["sessions"].endswith("let in for another 0.000 s")
        bind(rig, leased=True)
        assert self.says(rig, rig.frame())["config"] == "the lease of covenants has run out"

    def test_of_control_and_of_what_has_no_covenant(self, rig: Any) -> None:
        bind(rig, leased=True, limits=CLOSED)
        plain = "session 7, established covenanted terms leased"
        assert self.says(rig, rig.control())["sessions"] == plain
        bind(rig, False, leased=True, limits=CLOSED)
        assert self.says(rig, rig.frame())["sessions"] == "session 7, established terms leased"

    def test_the_lease_of_a_lamp_and_its_allowance(self, rig: Any) -> None:
        bind(rig, leased=True)
        rig.tables.config.renew_lease(FAR)
        with Explainer(rig.gate) as explainer:
            found = explainer.explain(rig.frame(flags=DATA | Flags.LAMP)).consulted
        said = [each.says for each in found if each.map == "config"]
        assert len(said) == 2
        assert said[0].startswith("the lease of covenants lasts another")
        assert said[1].startswith("the sender runs 0.000 s ahead")
