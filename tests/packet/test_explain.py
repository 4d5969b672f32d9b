# SPDX-License-Identifier: Apache-2.0
"""The explainer on the maps of a gate: it says what the gate then does, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from assent.dataplane.explain import Explainer, Explanation
from assent.dataplane.reasons import ADMITTED, reasons
from assent.dataplane.stages import STAGES, stage_of
from assent.errors import InvalidArgument
from assent.wire.captures import HEAD_LEN
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import Flags

from .test_verdicts import REFUSED

ADMITTED_FRAMES: list[tuple[str, Callable[[Any], bytes]]] = [
    ("data", lambda r: r.frame()),
    ("a full frame", lambda r: r.frame(payload_len=r.mtu_payload)),
    ("no payload", lambda r: r.frame(payload_len=0)),
    ("control", lambda r: r.control()),
    ("the first handshake frame", lambda r: r.handshake()),
    ("a handshake into a live session", lambda r: r.handshake(src=r.remote)),
    ("an ACK", lambda r: r.handshake(Flags.ACK)),
]


@pytest.fixture
def explainer(rig: Any) -> Iterator[Explainer]:
    with Explainer(rig.gate) as made:
        yield made


def explained(rig: Any, explainer: Explainer, data: bytes, frame_len: int = 0) -> Explanation:
    """Explains a frame; twice, for the first answer must not change the second one."""
    before = rig.state()
    with rig.tables.events() as ring:
        ring.read()
        found = explainer.explain(data, frame_len)
        assert explainer.explain(data, frame_len).reason == found.reason
        assert ring.read() == []
    assert rig.state() == before
    return found


@pytest.mark.parametrize(
    ("reason", "case", "act"), REFUSED, ids=lambda v: str(v) if isinstance(v, str) else ""
)
def test_what_is_refused(
    rig: Any, explainer: Explainer, reason: str, case: str, act: Callable[[Any], bytes]
) -> None:
    frame = act(rig)
    found = explained(rig, explainer, frame)
    assert (found.verdict, found.reason) == ("drop", reason)
    bloom = reason == "unknown_source" and found.consulted[-1].map == "bloom"
    assert found.stage == ("bloom" if bloom else stage_of(reason))
    rig.refuse(frame, reason)


@pytest.mark.parametrize(
    ("case", "act"), ADMITTED_FRAMES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_is_admitted_once(
    rig: Any, explainer: Explainer, case: str, act: Callable[[Any], bytes]
) -> None:
    frame = act(rig)
    found = explained(rig, explainer, frame)
    assert (found.verdict, found.reason, found.stage) == ("admit", ADMITTED, "delivery")
    rig.admit(frame)
    assert explained(rig, explainer, frame).reason == "replay"
    rig.refuse(frame, "replay")


@pytest.mark.parametrize("act", [act for _, act in ADMITTED_FRAMES])
def test_the_beginning_and_the_length_are_enough(
    rig: Any, explainer: Explainer, act: Callable[[Any], bytes]
) -> None:
    frame = act(rig)
    found = explained(rig, explainer, frame[:HEAD_LEN], len(frame))
    whole = explainer.explain(frame)
    assert (found.reason, found.header) == (whole.reason, whole.header)
    assert [each.map for each in found.consulted] == [each.map for each in whole.consulted]
    assert found.reason == ADMITTED


@pytest.mark.parametrize("payload_len", [4000, 9000, 0xFFFF])
def test_frames_longer_than_a_page(rig: Any, explainer: Explainer, payload_len: int) -> None:
    found = explained(rig, explainer, rig.frame(payload_len=payload_len))
    blocks = 1 + -(-payload_len // 64)
    assert found.reason == (ADMITTED if blocks <= rig.rx_window else "no_credit")


def test_the_last_block_of_credit(rig: Any, explainer: Explainer) -> None:
    rig.admit(rig.frame(seq=1, payload_len=1408))
    left = rig.rx_window - 23
    for seq in range(2, 2 + left):
        assert explainer.explain(rig.frame(seq=seq, payload_len=0)).reason == ADMITTED
        rig.admit(rig.frame(seq=seq, payload_len=0))
    frame = rig.frame(seq=2 + left, payload_len=0)
    assert explained(rig, explainer, frame).reason == "no_credit"
    rig.refuse(frame, "no_credit")


@pytest.mark.parametrize("keep", [14, 15, 54, HEAD_LEN - 1])
def test_a_capture_that_ends_too_early_is_not_decided(
    rig: Any, explainer: Explainer, keep: int
) -> None:
    frame = rig.frame()
    found = explained(rig, explainer, frame[:keep], len(frame))
    assert (found.verdict, found.reason, found.stage) == ("undecided", "truncated", "capture")
    assert found.header is None


def test_a_capture_without_an_ethertype_is_not_decided(rig: Any, explainer: Explainer) -> None:
    found = explained(rig, explainer, b"\0" * 13, 100)
    assert (found.reason, found.ethertype) == ("truncated", 0)


@pytest.mark.parametrize("ethertype", [0x0800, 0x86DD, 0x0806, 0x8100, 0x88B6, 0x574C])
def test_what_is_not_ours(rig: Any, explainer: Explainer, ethertype: int) -> None:
    frame = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ethertype).encode() + bytes(100)
    found = explained(rig, explainer, frame)
    assert (found.verdict, found.reason, found.stage) == ("pass", "not_fabric", "ethertype")
    assert (found.ethertype, found.header, found.consulted) == (ethertype, None, ())


@pytest.mark.parametrize("length", [0, 1, 13])
def test_what_has_no_ethernet_header(rig: Any, explainer: Explainer, length: int) -> None:
    found = explained(rig, explainer, b"\x88" * length)
    assert (found.verdict, found.reason, found.ethertype) == ("pass", "not_fabric", 0)


def test_a_frame_is_not_shorter_than_its_beginning(rig: Any, explainer: Explainer) -> None:
    with pytest.raises(InvalidArgument, match="original_len"):
        explainer.explain(rig.frame(), HEAD_LEN - 1)


class TestConsulted:
    def tables(self, found: Explanation) -> list[tuple[str, bool]]:
        return [(each.map, each.found) for each in found.consulted]

    def test_of_data(self, rig: Any, explainer: Explainer) -> None:
        found = explainer.explain(rig.frame(seq=5, payload_len=64))
        assert self.tables(found) == [
            (name, True) for name in ("locals", "bloom", "sessions", "flows", "replay")
        ]
        says = {each.map: each.says for each in found.consulted}
        assert says["sessions"] == "session 7, established covenanted"
        assert f"open, {rig.rx_window} blocks of credit left, 2 needed" in says["flows"]
        assert says["replay"] == "not marked"
        assert found.session_id == 7
        assert found.header is not None
        assert (found.header.flow, found.header.seq) == (1, 5)

    def test_of_a_replay(self, rig: Any, explainer: Explainer) -> None:
        rig.admit(rig.frame(seq=5))
        found = explainer.explain(rig.frame(seq=5))
        assert found.consulted[-1].says == "seen before"

    def test_of_control(self, rig: Any, explainer: Explainer) -> None:
        found = explainer.explain(rig.control())
        assert [each.map for each in found.consulted][-1] == "config"

    def test_of_a_handshake(self, rig: Any, explainer: Explainer) -> None:
        found = explainer.explain(rig.handshake())
        assert [each.map for each in found.consulted] == ["locals", "bloom", "sessions", "config"]

    def test_of_strangers(self, rig: Any, explainer: Explainer) -> None:
        found = explainer.explain(rig.frame(dst=rig.stranger))
        assert self.tables(found) == [("locals", False)]
        found = explainer.explain(rig.frame(src=rig.stranger))
        assert self.tables(found) == [("locals", True), ("bloom", False)]

    def test_of_strangers_that_pass_the_filter(self, rig: Any, explainer: Explainer) -> None:
        rig.gate.map("sessions").delete(bytes(rig.guest) + bytes(rig.local))
        found = explainer.explain(rig.frame(src=rig.guest))
        assert self.tables(found) == [("locals", True), ("bloom", True), ("sessions", False)]
        assert found.stage == "source"

    def test_of_an_unknown_flow(self, rig: Any, explainer: Explainer) -> None:
        found = explainer.explain(rig.frame(flow=6))
        assert self.tables(found)[-1] == ("flows", False)

    def test_a_length_that_lies_consults_nothing(self, rig: Any, explainer: Explainer) -> None:
        assert explainer.explain(rig.frame(length=65)).consulted == ()

    def test_no_key_is_told(self, rig: Any, explainer: Explainer) -> None:
        said = repr(explainer.explain(rig.frame()).consulted) + repr(
            explainer.explain(rig.handshake())
        )
        assert rig.header_key.hex() not in said
        assert rig.admission_key.hex() not in said


def test_every_reason_has_a_stage() -> None:
    assert set(reasons().names) <= set(STAGES)
    assert stage_of("reason_99") == "unknown"
