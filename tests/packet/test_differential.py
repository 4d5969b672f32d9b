# SPDX-License-Identifier: Apache-2.0
"""The gate in the kernel and the same headers compiled for the host decide alike on each frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assent.dataplane.reasons import ADMITTED, reasons
from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.dataplane.tables import SEC, FlowSpec, SessionSpec
from assent.wire.cellid import CellID
from assent.wire.lwf import Hint

from . import twin as twins
from .twin import DifferenceError, Twin

FRAMES = 20_000 if twins.IN_VM else 500_000
SEEDS = (1, 2)
# Reasons that need several CPUs at once, or are said of frames that leave.
EXEMPT = {"contended", "not_local"}


def provide_peers(rig: Any) -> None:
    """Next to the rig's: peers whose sessions differ in what a verdict looks at."""
    tables = rig.tables
    second = CellID(b"\x11" * 16)
    tables.locals.put(second, 1)
    for number, local in enumerate((rig.local, second, second)):
        remote = CellID(bytes([0x50 + number]) * 16)
        tables.sessions.provision(remote, local, bytes([number]) * 16, covenanted=True)
        tables.sessions.install(
            SessionSpec(
                remote,
                local,
                session_id=100 + number,
                rx_header_key=bytes([0x80 + number]) * 16,
                clock_offset=-number * SEC,
                skew_limit=0 if number else 30 * SEC,
                grant_shift=number,
                flows=(
                    FlowSpec(1, 1000, 1000),
                    FlowSpec(2, 1000, 1000, replay_len=1),
                    FlowSpec(3, 1000, 1000, replay_len=8192),
                ),
            )
        )
    tables.sessions.rekey(
        CellID(b"\x51" * 16), second, bytes([0x90]) * 16, alternate=bytes([0x81]) * 16
    )


def provide_relay(rig: Any) -> None:
    """Ways by the loopback's port and to the host itself; and who may register."""
    relay = RelayTable(rig.gate)
    for number in range(8):
        hop = NextHop(1, bytes([2, 0, 0, 0, 0, number]), bytes([2, 0, 0, 0, 1, number]))
        relay.put_route(Route(Hint(bytes([number + 1]) * 24), hop))
    relay.put_route(Route(Hint(b"\x70" * 24), None, local=True))
    for number in range(4):
        relay.add_source(Hint(bytes([0x80 + number]) * 24))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_difference(rig: Any, tmp_path: Path, seed: int) -> None:
    provide_peers(rig)
    provide_relay(rig)
    report = Twin(rig.gate, tmp_path).generate(FRAMES, seed)
    assert report.frames == FRAMES
    assert report.verdicts[ADMITTED] > FRAMES / 5
    assert report.verdicts["not_ours"] > FRAMES / 100
    if not twins.IN_VM:  # where there are too few frames for all kinds to be among them
        rare = {name for name, count in report.verdicts.items() if count < FRAMES / 10_000}
        assert rare == EXEMPT, "frames.c makes too few of these to say anything"
    assert set(report.verdicts) == {*reasons().names, "not_ours"}


class TestItNotices:
    """What the comparison is worth: each of these makes the two sides differ by the least."""

    def other(self, rig: Any, monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
        """The kernel's flow 1 becomes another one after the snapshot was taken."""
        take = twins.snapshot

        def take_and_change(gate: Any, path: Path) -> None:
            take(gate, path)
            slot = (rig.session.flow_base + 1).to_bytes(4, "little")
            gate.map("flows").update(slot, rig.flow().replace(**changes).pack())

        monkeypatch.setattr(twins, "snapshot", take_and_change)

    def test_state_before_any_frame(
        self, rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.other(rig, monkeypatch, tx_seq=1)
        with pytest.raises(DifferenceError, match=r"state differs: flows\[\d+\]"):
            Twin(rig.gate, tmp_path).feed([])

    @pytest.mark.skipif(twins.IN_VM, reason="the compiler is not what is asked there")
    def test_a_twin_of_other_headers(
        self, rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A window that is one longer on one side shows at the first frame of that age."""
        wrong = tmp_path / "bpf" / "assent"
        wrong.mkdir(parents=True)
        for header in (twins.ROOT / "bpf" / "include" / "assent").glob("*.h"):
            text = header.read_text()
            if header.name == "replay.h":
                assert text.count("age >=") == 1
                text = text.replace("age >=", "age >")
            (wrong / header.name).write_text(text)
        monkeypatch.setattr(twins, "BUILD", tmp_path)
        monkeypatch.setattr(twins, "INCLUDES", [f"-I{wrong.parent}", *twins.INCLUDES])
        made = twins.build()
        monkeypatch.setattr(twins, "program", lambda: made)
        twin = Twin(rig.gate, tmp_path)
        fine = [rig.frame(seq=5000), rig.frame(seq=5000 - 2047)]
        with pytest.raises(DifferenceError, match="the action"):
            twin.feed([*fine, rig.frame(seq=5000 - 2048)])
