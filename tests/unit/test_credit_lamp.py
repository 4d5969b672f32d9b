# SPDX-License-Identifier: Apache-2.0
"""credit/lamp.py: what may be said without credit, and what pays for the answer."""

from __future__ import annotations

import pytest

from assent.credit.lamp import LampAllowance, funds_reply, reply_window
from assent.dataplane.tables.config import GateConfig
from assent.errors import InvalidArgument


def test_the_usual_allowance_is_the_gate_s():
    gate = GateConfig()
    usual = LampAllowance()
    assert (usual.interval_ns, usual.burst_ns) == (gate.lamp_interval, gate.lamp_burst)


def test_a_rate_and_a_burst_as_the_gate_reckons_them():
    lamp = LampAllowance(rate=1000, burst=16)
    assert (lamp.interval_ns, lamp.burst_ns) == (1_000_000, 16_000_000)
    assert lamp.is_lit


def test_without_a_rate_nothing_fits():
    lamp = LampAllowance(rate=0, burst=16)
    assert not lamp.is_lit
    assert lamp.burst_ns == 0


@pytest.mark.parametrize(
    ("rate", "burst", "field"),
    [
        (-1, 64, "lamp_blocks_per_second"),
        (32_768, 64, "lamp_blocks_per_second"),
        (64, 1, "lamp_burst_blocks"),
        (64, 32_768, "lamp_burst_blocks"),
        (0, -1, "lamp_burst_blocks"),
    ],
)
def test_an_allowance_that_makes_no_sense_is_refused(rate: int, burst: int, field: str):
    with pytest.raises(InvalidArgument, match=field):
        LampAllowance(rate, burst)


@pytest.mark.parametrize(("mtu", "blocks"), [(100, 8), (512, 8), (1500, 23), (9000, 140)])
def test_an_answer_is_a_frame_of_the_link(mtu: int, blocks: int):
    assert reply_window(mtu) == blocks


@pytest.mark.parametrize(
    ("lit", "ours", "theirs", "funded"),
    [(True, 0, 0, True), (False, 0, 0, False), (True, 1, 0, False), (True, 0, 1, False)],
)
def test_only_who_may_speak_under_lamp_alone_pays_for_an_answer(
    lit: bool, ours: int, theirs: int, funded: bool
):
    assert funds_reply(lit_by_peer=lit, our_window=ours, their_window=theirs) is funded
