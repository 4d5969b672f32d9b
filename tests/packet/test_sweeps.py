# SPDX-License-Identifier: Apache-2.0
"""Small domains, asked whole: every EtherType, every set of flags, every length, every number of a
replay window. The gate and its twin on the host must agree, and both must say what is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assent._native import lib as native

from assent.dataplane.tables import FlowSpec
from assent.errors import InvalidArgument
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, FLAGS_KNOWN, Flags, Header, padded_len
from assent.wire.lwf import ETHERTYPE as LWF_ETHERTYPE

from .twin import IN_VM, Twin

# Another kernel is asked enough by what is left, and by test_differential.py.
pytestmark = pytest.mark.skipif(IN_VM, reason="sweeps take too long where no CPU helps")

EVERY_U16 = range(1 << 16)
WRAP = 1 << 32
# A session with room for every frame of a sweep.
ROOMY = (FlowSpec(1, 10_000_000, 50),)


@pytest.fixture
def twin(rig: Any, tmp_path: Path) -> Twin:
    rig.install(flows=ROOMY, skew_limit=0)
    return Twin(rig.gate, tmp_path)


def framed(key: bytes, header: Header) -> bytes:
    """As Rig.frame(), and quick."""
    tag = native.an_header_tag(key, header.encode())
    body = replace(header, tag=tag).encode() + bytes(padded_len(header.payload_len))
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body


class TestEtherTypes:
    @pytest.mark.parametrize("length", [0, 4, 64])
    def test_two_of_all_are_ours(self, rig: Any, twin: Twin, length: int) -> None:
        body = rig.frame()[14 : 14 + length].ljust(length, b"\0")
        verdicts = twin.feed(bytes(12) + kind.to_bytes(2, "big") + body for kind in EVERY_U16)
        ours = {kind: verdict for kind, verdict in zip(EVERY_U16, verdicts, strict=True) if verdict}
        assert ours == {
            ETHERTYPE: "admitted" if length == 64 else "malformed_length",
            LWF_ETHERTYPE: "lwf_malformed",
        }


class TestFlags:
    @staticmethod
    def expected(flags: int) -> str:
        if not flags & Flags.BLOCK:
            return "bare_frame"
        return "malformed_flags" if flags & ~FLAGS_KNOWN else "admitted"

    def test_every_set_on_a_data_flow(self, rig: Any, twin: Twin) -> None:
        header = rig.header()
        verdicts = twin.feed(
            framed(rig.header_key, replace(header, seq=flags + 1, flags=Flags(flags)))
            for flags in EVERY_U16
        )
        assert verdicts == [self.expected(flags) for flags in EVERY_U16]

    def test_every_set_on_flow_0(self, rig: Any, twin: Twin) -> None:
        """Three sets are handshakes, whose tag is made under another key."""
        handshakes = {Flags.BLOCK | Flags.SYN, Flags.BLOCK | Flags.ACK}
        handshakes.add(Flags.BLOCK | Flags.SYN | Flags.ACK)
        header = rig.header(flow=0)
        verdicts = twin.feed(
            framed(rig.header_key, replace(header, seq=flags + 1, flags=Flags(flags)))
            for flags in EVERY_U16
        )
        assert verdicts == [
            "bad_tag" if flags in handshakes else self.expected(flags) for flags in EVERY_U16
        ]

    def test_every_set_under_the_admission_key(self, rig: Any, twin: Twin) -> None:
        handshakes = {Flags.BLOCK | Flags.SYN, Flags.BLOCK | Flags.ACK}
        handshakes.add(Flags.BLOCK | Flags.SYN | Flags.ACK)
        header = rig.header(src=rig.guest, flow=0)
        verdicts = twin.feed(
            framed(
                rig.admission_key,
                replace(header, flags=Flags(flags), timestamp=header.timestamp + flags),
            )
            for flags in EVERY_U16
        )
        # Whoever is no session yet may say these three things, and nothing else.
        assert verdicts == [
            "no_session" if wanted == "admitted" and flags not in handshakes else wanted
            for flags, wanted in ((flags, self.expected(flags)) for flags in EVERY_U16)
        ]


FRAMES = {
    "data": lambda rig: rig.frame(payload_len=1408),
    "data of odd length": lambda rig: rig.frame(payload_len=1391),
    "probe": lambda rig: rig.frame(payload_len=0),
    "control": lambda rig: rig.control(payload_len=640),
    "SYN": lambda rig: rig.handshake(Flags.SYN, payload_len=200),
    "SYN-ACK": lambda rig: rig.handshake(Flags.SYN | Flags.ACK, payload_len=200),
    "ACK": lambda rig: rig.handshake(Flags.ACK, payload_len=64),
}


class TestLengths:
    @pytest.mark.parametrize("kind", FRAMES)
    def test_only_the_whole_frame_is_admitted(self, rig: Any, twin: Twin, kind: str) -> None:
        """The kernel itself refuses to run what has no Ethernet header: below 14 bytes."""
        whole = FRAMES[kind](rig)
        longer = [whole + bytes(more) for more in range(1, 130)]
        cut = [whole[:length] for length in range(len(whole))]
        verdicts = twin.feed([*longer, *cut, whole])
        assert verdicts[: len(longer)] == ["malformed_length"] * len(longer)
        assert verdicts[len(longer) : -1] == [
            None if length < 14 else "malformed_length" for length in range(len(whole))
        ]
        assert verdicts[-1] == "admitted"

    @pytest.mark.parametrize("length", [0, 1, 13])
    def test_no_ethernet_header(self, rig: Any, length: int) -> None:
        with pytest.raises(InvalidArgument, match="14 bytes"):
            rig.gate.program.test_run(rig.frame()[:length])

    def test_every_payload_len_in_a_frame_of_every_block_count(self, rig: Any, twin: Twin) -> None:
        """The header's claim against what is there: it fits for 64 claims of each size, or 1."""
        header = rig.header()
        for blocks in (1, 22):
            verdicts = twin.feed(
                framed(rig.header_key, replace(header, seq=1, payload_len=claim))[:78]
                + bytes(64 * blocks)
                for claim in EVERY_U16
            )
            fitting = [claim for claim in EVERY_U16 if verdicts[claim] != "malformed_length"]
            assert fitting == [claim for claim in EVERY_U16 if -(-claim // 64) == blocks]
            # All of them have one number: the first is admitted, the others are replays of it.
            found = Counter(verdicts[claim] for claim in fitting)
            rig.install(flows=ROOMY, skew_limit=0)
            assert found == Counter({"admitted": 1, "replay": len(fitting) - 1})


def at(rig: Any, highest: int, seen: bool) -> None:
    """Leaves flow 1 where `highest` has arrived, and before it everything or nothing."""
    flow = rig.flow()
    words = 64 * (flow.replay_mask + 1)
    newest = highest // 32
    ring = [0] * words
    for age in range(words):
        generation = (newest - age) % (WRAP // 32)
        ring[generation % words] = generation << 32 | (0xFFFF_FFFF if seen else 0)
    bit = 1 << highest % 32
    ring[newest % words] = newest << 32 | (2 * bit - 1 if seen else bit)
    for chunk in range(flow.replay_mask + 1):
        value = b"".join(word.to_bytes(8, "little") for word in ring[64 * chunk : 64 * chunk + 64])
        rig.gate.map("replay").update((flow.replay_base + chunk).to_bytes(4, "little"), value)
    slot = (rig.session.flow_base + 1).to_bytes(4, "little")
    rig.gate.map("flows").update(slot, flow.replace(rx_highest=highest).pack())


HIGHS = [
    2048,
    2049,
    5000,
    65_535,
    2**31 - 1,
    2**31,
    2**31 + 100,
    WRAP - 2,
    WRAP - 1,
    0,
    1,
    31,
    2047,
]


class TestReplayWindow:
    window = 2048

    def numbers(self, highest: int) -> list[int]:
        return [(highest + step) % WRAP for step in range(-self.window - 1, 2)]

    def frames(self, rig: Any, numbers: list[int]) -> Iterator[bytes]:
        header = rig.header()
        return (framed(rig.header_key, replace(header, seq=seq)) for seq in numbers)

    @pytest.mark.parametrize("highest", HIGHS)
    def test_where_all_was_seen_only_the_next_is_fresh(
        self, rig: Any, twin: Twin, highest: int
    ) -> None:
        at(rig, highest, seen=True)
        numbers = self.numbers(highest)
        verdicts = twin.feed(self.frames(rig, [*numbers, *numbers]))
        assert verdicts == [*["replay"] * (self.window + 1), "replay", "admitted"] + ["replay"] * (
            self.window + 3
        )
        assert rig.flow().rx_highest == (highest + 1) % WRAP

    @pytest.mark.parametrize("highest", HIGHS)
    def test_where_nothing_was_seen_all_of_the_window_is_fresh_once(
        self, rig: Any, twin: Twin, highest: int
    ) -> None:
        at(rig, highest, seen=False)
        numbers = self.numbers(highest)
        verdicts = twin.feed(self.frames(rig, [*numbers, *numbers]))
        once = ["replay", "replay", *["admitted"] * (self.window - 1), "replay", "admitted"]
        assert verdicts == once + ["replay"] * len(numbers)

    @pytest.mark.parametrize("highest", [5000, WRAP - 1, 0])
    def test_half_of_all_numbers_is_the_edge_of_ahead(
        self, rig: Any, twin: Twin, highest: int
    ) -> None:
        """The last ring's length before that edge depends on what the ring's words stand for."""
        at(rig, highest, seen=True)
        ring = 2048 * (rig.flow().replay_mask + 1)
        behind = [(highest + 2**31 + step) % WRAP for step in range(ring)]
        assert twin.feed(self.frames(rig, behind)) == ["replay"] * ring
        assert twin.feed(self.frames(rig, [(highest + 2**31 - 1 - ring) % WRAP])) == ["admitted"]
