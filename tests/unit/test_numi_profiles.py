# SPDX-License-Identifier: Apache-2.0
"""Profiles of Numiport: appendix C's defaults, and what TOML may say."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport import profiles
from assent.numiport.profiles import CROSS_DC, INTRA_DC, KIB, MIB, PROFILES

MS = profiles.MILLISECOND


def test_defaults_are_those_of_appendix_c():
    classes = INTRA_DC.classes.in_order()
    assert [one.credit for one in classes] == [64 * KIB, 2 * MIB, 1 * MIB, 256 * KIB]
    assert (INTRA_DC.classes.p0.floor, INTRA_DC.classes.p2.floor) == (64 * KIB, 256 * KIB)
    turns = INTRA_DC.arbitration
    assert (turns.burst_p0, turns.burst_p1) == (8, 8)
    assert (turns.quantum_p1, turns.quantum_p2) == (64 * KIB, 64 * KIB)
    guard = INTRA_DC.guard
    assert (guard.initial_ns, guard.least_ns, guard.most_ns) == (500_000, 200_000, 2_000_000)
    assert (guard.step_ns, guard.target_permille) == (50_000, 1)
    word = INTRA_DC.reliability
    assert (word.ack_packets, word.ack_interval_ns, word.replay_slots) == (16, 5 * MS, 4)
    assert (word.ack_bytes, word.nack_entries, word.nack_window_ns) == (64, 8, 10 * MS)
    assert (INTRA_DC.mtu.base_payload, INTRA_DC.mtu.probe_interval_ns) == (1200, 60_000 * MS)
    assert INTRA_DC.slots.length_ns == 400 * MS


def test_the_scale_is_that_of_section_5_4():
    ecn = INTRA_DC.ecn
    assert (ecn.high_permille, ecn.high_scale) == (20, 700)
    assert (ecn.raised_permille, ecn.raised_scale) == (10, 850)
    assert (ecn.calm_permille, ecn.calm_scale, ecn.calm_slots) == (2, 980, 16)


def test_margins_widen_across_data_centers():
    for near, far in zip(INTRA_DC.classes.in_order(), CROSS_DC.classes.in_order(), strict=True):
        assert far.margin_ns >= near.margin_ns
        assert replace(far, margin_ns=0) == replace(near, margin_ns=0)
    assert CROSS_DC.classes.p1.margin_ns > 40 * MS


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_is_written_is_read_again(profile):
    assert profiles.loads(profiles.dumps(profile)) == profile


@given(st.data())
def test_any_profile_is_read_as_it_was_written(data):
    guard = data.draw(
        st.builds(
            profiles.Guard,
            initial_ns=st.integers(300_000, 400_000),
            least_ns=st.integers(1_000, 300_000),
            most_ns=st.integers(400_000, 10**9),
            step_ns=st.integers(1, 10**9),
        )
    )
    p1 = data.draw(
        st.builds(
            profiles.ClassSettings,
            credit=st.integers(10**6, 10**7),
            floor=st.integers(profiles.PACKET_MAX, 10**6),
            ceiling=st.integers(10**7, profiles.CREDIT_MAX),
            queue_packets=st.integers(1, 1 << 20),
        )
    )
    changed = replace(CROSS_DC, guard=guard, classes=replace(CROSS_DC.classes, p1=p1))
    assert profiles.loads(profiles.dumps(changed)) == changed


def test_what_is_left_out_is_the_named_profiles():
    read = profiles.loads('profile = "cross-dc"\n[classes.p1]\ncredit = 1_048_576\n')
    assert read.classes.p1 == replace(CROSS_DC.classes.p1, credit=MIB)
    assert replace(read, classes=CROSS_DC.classes) == CROSS_DC
    assert profiles.loads("") == INTRA_DC


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("profile = 'near'", "profile", "needs one of intra-dc, cross-dc, not 'near'"),
        ("profile = 3", "profile", "needs one of"),
        ("name = 'mine'", "name", "no such setting"),
        ("profile =", "profile", "is not TOML"),
        ("[queues]\n", "queues", "no such setting"),
        ("guard = 3", "guard", "needs a table"),
        ("classes = []", "classes", "needs a table"),
        ("[classes.p4]\ncredit = 1", "classes.p4", "no such setting"),
        ("[classes.p1]\ncredits = 1", "classes.p1.credits", "no such setting"),
        ("[classes]\np1 = 7", "classes.p1", "needs a table"),
        ("[classes.p1]\ncredit = true", "classes.p1.credit", "needs a whole number, not True"),
        ("[classes.p1]\ncredit = 1.5", "classes.p1.credit", "needs a whole number, not 1.5"),
        ("[classes.p1]\ncredit = '1'", "classes.p1.credit", "needs a whole number"),
        ("[classes.p1]\ncredit = {}", "classes.p1.credit", "needs a whole number"),
        ("[classes.p1]\ncredit = 65506", "classes.p1.credit", "needs 65507 to 1073741824"),
        ("[classes.p2]\ncredit = 262143", "classes.p2.credit", "needs 262144 (floor)"),
        ("[classes.p0]\ncredit = 65537", "classes.p0.credit", "to 65536 (ceiling)"),
        ("[arbitration]\nbursts = 0", "arbitration.bursts", "needs 1 to"),
        ("[guard]\ninitial_ns = 2_000_001", "guard.initial_ns", "needs least_ns to most_ns"),
        ("[slots]\nlength_ns = 900_000_000", "slots.length_ns", "needs least_ns to most_ns"),
        ("[ecn]\nraised_permille = 21", "ecn.raised_permille", "needs calm_permille"),
        ("[reliability]\nack_bytes = 65", "reliability.ack_bytes", "needs 4 to 64"),
        ("[reliability]\nreplay_slots = 3", "reliability.replay_slots", "needs 4 to 64"),
        ("[mtu]\nbase_payload = 9000", "mtu.most_payload", "is less than base_payload 9000"),
        ("[neighbors]\nttl_least_slots = 5", "neighbors.ttl_most_slots", "is less than"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(text, field, problem):
    with pytest.raises(InvalidArgument) as caught:
        profiles.loads(text)
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_deep_nesting_is_no_profile():
    with pytest.raises(InvalidArgument) as caught:
        profiles.loads("x = " + "[" * 20_000)
    assert caught.value.field == "profile"


def test_every_setting_has_bounds_that_hold_its_default():
    for section in fields(INTRA_DC)[1:]:
        table = getattr(INTRA_DC, section.name)
        tables = table.in_order() if section.name == "classes" else (table,)
        for one in tables:
            for setting in fields(one):
                for beyond in (setting.metadata["least"] - 1, setting.metadata["most"] + 1):
                    with pytest.raises(InvalidArgument) as caught:
                        replace(one, **{setting.name: beyond})
                    assert caught.value.field == setting.name
