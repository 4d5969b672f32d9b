# SPDX-License-Identifier: Apache-2.0
"""Each verdict of the gate, asked of the compiled program (BPF_PROG_TEST_RUN).

A refused frame must move its own reason's counter, and nothing else: every map is compared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from assent.dataplane.reasons import ADMITTED, reasons
from assent.dataplane.tables import SEC, FlowSpec, TermLimits
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import FLAGS_KNOWN, Flags, block_cost

from .conftest import tagged

XDP_PASS, XDP_REDIRECT = 2, 4
AF_XDP = 44
HOUR = 3600 * SEC
FAR = (1 << 63) - 1
DATA = Flags.DATA | Flags.BLOCK

# Reasons that no single arriving fabric frame can bring about.
EXEMPT = {
    "contended": "needs CPUs that race for one word: tests/host/test_headers.c races threads",
    "not_local": "is said of frames that leave: test_egress.py",
    **{
        name: "is said of LWF frames: test_relay.py"
        for name in reasons().names
        if name.startswith("lwf_") or name == "relayed"
    },
}


def spend_handshakes(rig: Any) -> bytes:
    config = rig.tables.config.read()
    rig.tables.config.write(replace(config, handshake_interval=HOUR, handshake_burst=HOUR))
    now = rig.peer_time
    rig.admit(rig.handshake(timestamp=now))
    rig.admit(rig.handshake(timestamp=now + 1))
    return rig.handshake(timestamp=now + 2)


def spend_control(rig: Any) -> bytes:
    config = rig.tables.config.read()
    rig.tables.config.write(replace(config, control_interval=HOUR, control_burst=HOUR))
    rig.admit(rig.control(seq=1))
    rig.admit(rig.control(seq=2))
    return rig.control(seq=3)


def after(first: dict[str, Any], then: dict[str, Any]) -> Callable[[Any], bytes]:
    """One frame that is admitted, then the one that is not."""

    def act(rig: Any) -> bytes:
        rig.admit(rig.frame(**first))
        return rig.frame(**then)

    return act


def second_handshake(later: int) -> Callable[[Any], bytes]:
    def act(rig: Any) -> bytes:
        now = rig.peer_time
        rig.admit(rig.handshake(timestamp=now))
        return rig.handshake(timestamp=now + later)

    return act


def consent(
    covenanted: bool, quarantined: bool, kind: str = "frame", **fields: Any
) -> Callable[[Any], bytes]:
    def act(rig: Any) -> bytes:
        for cell in (rig.remote, rig.guest):
            rig.tables.sessions.set_consent(cell, rig.local, covenanted, quarantined)
        return getattr(rig, kind)(**fields)

    return act


def uninstalled(rig: Any) -> bytes:
    rig.tables.sessions.uninstall(rig.remote, rig.local)
    return rig.frame()


def deleted(rig: Any) -> bytes:
    rig.tables.sessions.delete(rig.remote, rig.local)
    return rig.frame()


def not_local_any_more(rig: Any) -> bytes:
    rig.tables.locals.delete(rig.local)
    return rig.frame()


def old_key(rig: Any) -> bytes:
    rig.tables.sessions.rekey(rig.remote, rig.local, b"n" * 16)
    return rig.frame()


def oversized(rig: Any) -> bytes:
    rig.install(payload_max=100)
    rig.admit(rig.frame(payload_len=100))
    return rig.frame(seq=2, payload_len=101)


def lamp(blocks: int, **fields: Any) -> Callable[[Any], bytes]:
    """A frame under LAMP, where senders have an allowance of so many blocks."""

    def act(rig: Any) -> bytes:
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, lamp_interval=HOUR, lamp_burst=blocks * HOUR))
        return rig.frame(flags=DATA | Flags.LAMP, **fields)

    return act


def spend_lamp(rig: Any) -> bytes:
    rig.admit(lamp(3, seq=1, flow=2)(rig))
    rig.admit(lamp(3, seq=2, flow=2, payload_len=64)(rig))
    return lamp(3, seq=3, flow=2)(rig)


def held(
    kind: str = "frame", *, limits: TermLimits | None = None, lease: int = 0, **fields: Any
) -> Callable[[Any], bytes]:
    """A frame of a pair in a covenant; `lease`: when that ends, monotonic ns; 0 = it needs none."""

    def act(rig: Any) -> bytes:
        rig.tables.sessions.set_consent(
            rig.remote, rig.local, True, control=True, leased=bool(lease), limits=limits
        )
        if lease:
            rig.tables.config.renew_lease(lease)
        return getattr(rig, kind)(**fields)

    return act


def rate(blocks: int) -> TermLimits:
    """So many blocks, and no more within the time that a test takes."""
    return TermLimits(interval_ns=HOUR, burst_ns=blocks * HOUR)


def spend_rate(rig: Any) -> bytes:
    rig.admit(held(limits=rate(3), seq=1)(rig))
    rig.admit(rig.frame(seq=2, payload_len=64))
    return rig.frame(seq=3)


def spend_rate_on_lamps(rig: Any) -> bytes:
    rig.admit(held(limits=rate(1), seq=1, flags=DATA | Flags.LAMP)(rig))
    return rig.frame(seq=2)


def without_covenant(quarantined: bool, covenanted: bool = False) -> Callable[[Any], bytes]:
    """Data of a pair whose control is admitted."""

    def act(rig: Any) -> bytes:
        rig.tables.sessions.set_consent(
            rig.remote, rig.local, covenanted, quarantined, control=True
        )
        return rig.frame()

    return act


def altered(offset: int) -> Callable[[Any], bytes]:
    """A byte of the signed header is changed after it was tagged."""

    def act(rig: Any) -> bytes:
        frame = bytearray(rig.frame(payload_len=64))
        frame[14 + offset] ^= 0x01
        return bytes(frame)

    return act


Row = tuple[str, str, Callable[[Any], bytes]]
REFUSED: list[Row] = [
    ("malformed_length", "no header at all", lambda r: r.frame(length=0)),
    ("malformed_length", "one byte short", lambda r: r.frame(length=63)),
    ("malformed_length", "a bare 40-byte header", lambda r: r.frame(length=40)),
    ("malformed_length", "payload missing", lambda r: r.frame(payload_len=1, length=64)),
    ("malformed_length", "padding missing", lambda r: r.frame(payload_len=1, length=65)),
    ("malformed_length", "a block too many", lambda r: r.frame(length=128)),
    ("malformed_length", "a byte too many", lambda r: r.frame(payload_len=64, length=129)),
    ("malformed_length", "the longest claim", lambda r: r.frame(payload_len=0xFFFF, length=128)),
    ("unknown_destination", "a stranger", lambda r: r.frame(dst=r.stranger)),
    ("unknown_destination", "the sender itself", lambda r: r.frame(dst=r.remote)),
    ("unknown_destination", "removed", not_local_any_more),
    ("unknown_source", "a stranger", lambda r: r.frame(src=r.stranger)),
    ("unknown_source", "a stranger's SYN", lambda r: r.handshake(src=r.stranger)),
    ("unknown_source", "a cell of this host", lambda r: r.frame(src=r.local)),
    ("unknown_source", "deleted", deleted),
    ("bare_frame", "data", lambda r: r.frame(flags=Flags.DATA)),
    ("bare_frame", "SYN", lambda r: r.handshake(flags=Flags.SYN)),
    *(
        ("malformed_flags", f"bit {bit:#06x}", lambda r, bit=bit: r.frame(flags=DATA | bit))
        for bit in (1 << i for i in range(16))
        if not bit & FLAGS_KNOWN
    ),
    ("no_session", "provisioned only", lambda r: r.frame(src=r.guest)),
    ("no_session", "its control flow", lambda r: r.control(src=r.guest)),
    ("no_session", "uninstalled", uninstalled),
    ("no_session", "FIN-ACK is no handshake", lambda r: r.handshake(Flags.FIN | Flags.ACK)),
    ("no_session", "SYN on a data flow", lambda r: r.handshake(Flags.SYN, flow=1)),
    ("no_covenant", "data", consent(False, False)),
    ("no_covenant", "handshake", consent(False, False, "handshake")),
    ("no_covenant", "quarantined too", consent(False, True)),
    ("quarantined", "data", consent(True, True)),
    ("quarantined", "control", consent(True, True, "control")),
    ("quarantined", "handshake", consent(True, True, "handshake")),
    ("unknown_flow", "never opened", lambda r: r.frame(flow=3)),
    ("unknown_flow", "beyond the last", lambda r: r.frame(flow=6)),
    ("unknown_flow", "the highest", lambda r: r.frame(flow=0xFFFF)),
    *(
        ("bad_tag", f"bit {bit} of the tag", lambda r, bit=bit: r.frame(flip=1 << bit))
        for bit in (0, 7, 31, 32, 63)
    ),
    *(
        ("bad_tag", f"byte {offset} altered", altered(offset))
        # Not src, dst, flags, payload_len and flow: those are refused before the tag is asked.
        for offset in (32, 33, 34, 35, *range(42, 56))
    ),
    ("bad_tag", "the admission key in a session", lambda r: r.frame(key=r.admission_key)),
    ("bad_tag", "a session's key in a SYN", lambda r: r.handshake(key=r.header_key)),
    ("bad_tag", "a key of the past", old_key),
    ("bad_tag", "all zero", lambda r: r.frame(key=bytes(16))),
    ("clock_skew", "ahead", lambda r: r.frame(timestamp=r.peer_time + r.skew_limit + SEC)),
    ("clock_skew", "behind", lambda r: r.frame(timestamp=r.peer_time - r.skew_limit - SEC)),
    ("clock_skew", "zero", lambda r: r.frame(timestamp=0)),
    ("clock_skew", "the end of time", lambda r: r.frame(timestamp=2**64 - 1)),
    ("clock_skew", "control", lambda r: r.control(timestamp=r.peer_time + 2 * r.skew_limit)),
    ("replay", "number 0", lambda r: r.frame(seq=0)),
    ("replay", "number 0 of control", lambda r: r.control(seq=0)),
    ("replay", "twice", after({"seq": 1}, {"seq": 1})),
    ("replay", "older than the window", after({"seq": 5000}, {"seq": 5000 - 2048})),
    ("replay", "long past", after({"seq": 100_000}, {"seq": 1})),
    ("replay", "half of all numbers ahead", after({"seq": 10}, {"seq": 10 + 2**31})),
    ("replay", "a handshake frame twice", second_handshake(0)),
    ("replay", "an older handshake frame", second_handshake(-1)),
    ("rate_limited", "handshake", spend_handshakes),
    ("rate_limited", "control", spend_control),
    ("no_endpoint", "a flow that nobody has open", lambda r: r.frame(flow=5)),
    ("oversize", "a byte too many", oversized),
    ("no_lamp", "a payload larger than the allowance", lamp(2, payload_len=65)),
    ("no_lamp", "the allowance is spent", spend_lamp),
    ("no_lamp", "credit is no substitute", lamp(0)),
    ("no_covenant", "data where control passes", without_covenant(False)),
    ("no_covenant", "the same, quarantined", without_covenant(True)),
    ("quarantined", "data where control passes", without_covenant(True, True)),
    ("over_rate", "a frame larger than the burst", held(limits=rate(2), payload_len=65)),
    ("over_rate", "the burst is spent", spend_rate),
    ("over_rate", "LAMP spends it too", spend_rate_on_lamps),
    ("over_rate", "LAMP is no way around", held(limits=rate(0), flags=DATA | Flags.LAMP)),
    ("over_rate", "before the credit that is not there", held(limits=rate(0), flow=2)),
    ("no_credit", "within its rate", held(limits=rate(1), flow=2)),
    ("replay", "is told before the rate", held(limits=rate(0), seq=0)),
    ("outside_window", "before it opens", held(limits=TermLimits(open_from=FAR))),
    ("outside_window", "after it has closed", held(limits=TermLimits(open_until=1))),
    ("outside_window", "closes first", held(limits=TermLimits(open_from=FAR, open_until=1))),
    ("outside_window", "LAMP", held(limits=TermLimits(open_until=1), flags=DATA | Flags.LAMP)),
    ("outside_window", "a flow that is not open", held(limits=TermLimits(open_until=1), flow=3)),
    ("lease_expired", "a while ago", held(lease=1)),
    ("lease_expired", "within an open window", held(lease=1, limits=TermLimits())),
    ("lease_expired", "a forgery", held(lease=1, flip=1)),
    ("oversize", "for its terms", held(limits=TermLimits(payload_limit=9), payload_len=10)),
    ("stacked_vlan", "two tags", lambda r: tagged(r.frame(), 0x8100, 0x8100)),
    ("stacked_vlan", "four tags", lambda r: tagged(r.frame(), *[0x8100] * 4)),
    ("stacked_vlan", "deeper than anybody looks", lambda r: tagged(r.frame(), *[0x8100] * 5)),
    ("stacked_vlan", "a service tag", lambda r: tagged(r.frame(), 0x88A8)),
    ("stacked_vlan", "two kinds of tags", lambda r: tagged(r.frame(), 0x88A8, 0x8100)),
    ("stacked_vlan", "a stranger's", lambda r: tagged(r.frame(src=r.stranger), 0x8100, 0x8100)),
    ("bad_tag", "under a VLAN tag", lambda r: tagged(r.frame(flip=1), 0x8100)),
    ("malformed_length", "a VLAN tag, and no header", lambda r: tagged(r.frame(length=0), 0x8100)),
    ("malformed_length", "a VLAN tag, a byte short", lambda r: tagged(r.frame(length=63), 0x8100)),
    ("no_credit", "a flow with none", lambda r: r.frame(flow=2)),
    ("no_credit", "no payload, but a header", lambda r: r.frame(flow=2, payload_len=0)),
]


@pytest.mark.parametrize(
    ("reason", "case", "act"), REFUSED, ids=lambda v: str(v) if isinstance(v, str) else ""
)
def test_refused(rig: Any, reason: str, case: str, act: Callable[[Any], bytes]) -> None:
    rig.refuse(act(rig), reason)


def test_every_reason_has_a_row() -> None:
    tested = {reason for reason, _, _ in REFUSED}
    assert tested.isdisjoint(EXEMPT)
    assert tested | set(EXEMPT) | {ADMITTED} == set(reasons().names)


class TestAdmitted:
    def test_data_goes_to_the_stack_where_no_socket_is(self, rig: Any) -> None:
        rig.admit(rig.frame(payload_len=rig.mtu_payload), XDP_PASS)
        flow = rig.flow()
        assert flow.rx_spent == block_cost(rig.mtu_payload)
        assert flow.rx_highest == 1

    def test_data_goes_to_its_queues_socket(self, rig: Any) -> None:
        slot = rig.tables.flows.slot_of(rig.session, 1)
        with socket.socket(AF_XDP, socket.SOCK_RAW) as xsk:
            # A test run's frames arrive by the loopback interface, queue 0.
            place = socket.if_nametoindex("lo") % 64 * 64
            entry = place.to_bytes(4, "little")
            rig.gate.map("sockets").update(entry, xsk.fileno().to_bytes(4, "little"))
            rig.admit(rig.frame(seq=1), XDP_PASS)  # taken behind the kernel's stack
            rig.tables.flows.set_open(slot, True, to_ring=True)
            rig.admit(rig.frame(seq=2), XDP_REDIRECT)
            rig.gate.map("sockets").delete(entry)
            rig.admit(rig.frame(seq=3), XDP_PASS)  # nobody has that queue
            rig.admit(rig.control(seq=1), XDP_PASS)
            rig.admit(rig.handshake(), XDP_PASS)

    def test_flow_0_costs_no_credit(self, rig: Any) -> None:
        rig.admit(rig.control(payload_len=640))
        assert (rig.flow(0).rx_spent, rig.flow(0).rx_highest) == (0, 1)

    @pytest.mark.parametrize("kind", [Flags.SYN, Flags.SYN | Flags.ACK, Flags.ACK])
    def test_handshake(self, rig: Any, kind: Flags) -> None:
        now = rig.peer_time
        rig.admit(rig.handshake(kind, timestamp=now, payload_len=200))
        assert rig.tables.sessions.get(rig.guest, rig.local).handshake_newest == now

    def test_handshake_frames_are_admitted_into_a_live_session(self, rig: Any) -> None:
        """A peer that has lost its state must be able to start again."""
        before = rig.flow(0)
        rig.admit(rig.handshake(src=rig.remote))
        assert rig.flow(0) == before

    @pytest.mark.parametrize("flags", [Flags.FIN, Flags.NACK, Flags.DATA | Flags.LAMP])
    def test_other_flags_are_frames_of_the_session(self, rig: Any, flags: Flags) -> None:
        rig.admit(rig.frame(flags=flags | Flags.BLOCK))

    def test_either_key_in_the_grace_window(self, rig: Any) -> None:
        fresh = b"n" * 16
        rig.tables.sessions.rekey(rig.remote, rig.local, fresh, alternate=rig.header_key)
        rig.admit(rig.frame(seq=1))
        rig.admit(rig.frame(seq=2, key=fresh))
        rig.refuse(rig.frame(seq=3, key=b"x" * 16), "bad_tag")
        rig.tables.sessions.rekey(rig.remote, rig.local, fresh)
        rig.refuse(rig.frame(seq=3), "bad_tag")
        rig.admit(rig.frame(seq=3, key=fresh))


class TestVlan:
    def test_one_tag_is_looked_under(self, rig: Any) -> None:
        rig.admit(tagged(rig.frame(seq=1, payload_len=100), 0x8100))
        rig.refuse(tagged(rig.frame(seq=1), 0x8100), "replay")
        rig.refuse(rig.frame(seq=1), "replay")
        rig.admit(tagged(rig.handshake(), 0x8100))
        rig.admit(tagged(rig.control(), 0x8100))

    @pytest.mark.parametrize("tags", [(0x8100,), (0x8100, 0x8100), (0x88A8,), (0x88A8, 0x8100)])
    def test_what_is_not_ours_passes_under_tags(self, rig: Any, tags: tuple[int, ...]) -> None:
        ipv4 = EthernetHeader(b"\xff" * 6, b"\x04" * 6, 0x0800).encode() + bytes(60)
        rig.ignore(tagged(ipv4, *tags))

    def test_every_ethertype_under_a_tag(self, rig: Any) -> None:
        before = rig.state()
        for ethertype in range(1 << 16):
            frame = tagged(bytes(12) + ethertype.to_bytes(2, "big") + bytes(4), 0x8100)
            if ethertype not in {0x88B5, 0x4C57}:
                assert rig.gate.program.test_run(frame).retval == XDP_PASS
        assert rig.state() == before

    def test_a_tag_cut_off_passes(self, rig: Any) -> None:
        for length in range(14, 18):
            rig.ignore(tagged(rig.frame(), 0x8100)[:length])


class TestNotOurs:
    @pytest.mark.parametrize(
        "ethertype", [0x0800, 0x86DD, 0x0806, 0x8100, 0x88B4, 0x88B6, 0xB588, 0x574C, 0x88CC]
    )
    @pytest.mark.parametrize("length", [0, 1, 46, 64, 1500])
    def test_passes_untouched(self, rig: Any, ethertype: int, length: int) -> None:
        head = EthernetHeader(b"\xff" * 6, b"\x04" * 6, ethertype).encode()
        rig.ignore(head + b"\xa5" * length)

    def test_every_ethertype_but_two(self, rig: Any) -> None:
        before = rig.state()
        for ethertype in range(1 << 16):
            frame = bytes(12) + ethertype.to_bytes(2, "big") + bytes(4)
            if ethertype not in {0x88B5, 0x4C57}:
                assert rig.gate.program.test_run(frame).retval == XDP_PASS
        assert rig.state() == before


def walk_to(rig: Any, seq: int) -> None:
    """Leaves flow 1 as if every number up to `seq` had been admitted, one after the other."""
    flow, replay = rig.flow(), rig.gate.map("replay")
    words = (flow.replay_mask + 1) * 64
    newest = seq // 32
    ring = [0] * words
    for generation in range(newest - words + 1, newest + 1):
        ring[generation % words] = generation << 32 | 0xFFFF_FFFF
    ring[newest % words] = newest << 32 | (2 << seq % 32) - 1
    for chunk in range(flow.replay_mask + 1):
        value = b"".join(word.to_bytes(8, "little") for word in ring[64 * chunk : 64 * chunk + 64])
        replay.update((flow.replay_base + chunk).to_bytes(4, "little"), value)
    slot = (rig.session.flow_base + 1).to_bytes(4, "little")
    rig.gate.map("flows").update(slot, flow.replace(rx_highest=seq).pack())


class TestReplayWindow:
    def test_oldest_is_admitted_and_one_older_is_not(self, rig: Any) -> None:
        rig.admit(rig.frame(seq=5000))
        rig.refuse(rig.frame(seq=5000 - 2048), "replay")
        rig.admit(rig.frame(seq=5000 - 2047))
        rig.refuse(rig.frame(seq=5000 - 2047), "replay")

    def test_every_number_of_a_window_once(self, rig: Any) -> None:
        rig.tables.flows.raise_rx_granted(rig.session.flow_base + 1, 10_000)
        for seq in range(4000, 4000 - 2048, -1):
            rig.admit(rig.frame(seq=seq))
        spent = rig.flow().rx_spent
        for seq in range(4000 - 2047, 4001):
            assert rig.run(rig.frame(seq=seq))[0] == "replay"
        assert rig.flow().rx_spent == spent == 2048

    def test_jump_beyond_the_window(self, rig: Any) -> None:
        for seq in (1, 3000, 2**31 - 1):
            rig.admit(rig.frame(seq=seq))
            assert rig.flow().rx_highest == seq
        rig.refuse(rig.frame(seq=3000), "replay")

    def test_a_forged_jump_changes_nothing(self, rig: Any) -> None:
        rig.refuse(rig.frame(seq=2**31 - 1, flip=1), "bad_tag")
        rig.admit(rig.frame(seq=1))

    def test_numbers_wrap(self, rig: Any) -> None:
        walk_to(rig, 2**32 - 100)
        for seq in (2**32 - 2, 2, 2**32 - 1, 0, 1):
            rig.admit(rig.frame(seq=seq))
        assert rig.flow().rx_highest == 2
        for seq in (2**32 - 2, 2**32 - 1, 0, 1, 2, 2**32 - 100, 2**32 + 2 - 2048):
            rig.refuse(rig.frame(seq=seq), "replay")
        rig.admit(rig.frame(seq=2**32 - 99))

    @pytest.mark.parametrize("length", [1, 31, 32, 33, 2017, 2018, 4096, 8192])
    def test_any_length(self, rig: Any, length: int) -> None:
        rig.install(flows=(FlowSpec(1, 10_000, replay_len=length),))
        newest = 30_000
        rig.admit(rig.frame(seq=newest))
        rig.refuse(rig.frame(seq=newest - length), "replay")
        if length > 1:
            rig.admit(rig.frame(seq=newest - length + 1))

    def test_flows_have_windows_of_their_own(self, rig: Any) -> None:
        for flow in (0, 1, 4):
            rig.admit(rig.frame(flow=flow, seq=1))
        for flow in (0, 1, 4):
            rig.refuse(rig.frame(flow=flow, seq=1), "replay")


class TestCredit:
    @pytest.mark.parametrize("payload_len", [0, 1, 64, 65, 1408])
    def test_exact_fit_and_one_block_short(self, rig: Any, payload_len: int) -> None:
        cost = block_cost(payload_len)
        rig.install(flows=(FlowSpec(1, cost), FlowSpec(2, cost - 1)))
        rig.refuse(rig.frame(flow=2, payload_len=payload_len), "no_credit")
        rig.admit(rig.frame(flow=1, payload_len=payload_len))
        assert rig.flow(1).rx_spent == rig.flow(1).rx_granted == cost
        rig.refuse(rig.frame(flow=1, seq=2), "no_credit")

    def test_a_refused_number_may_come_again(self, rig: Any) -> None:
        rig.refuse(rig.frame(flow=2), "no_credit")
        rig.tables.flows.raise_rx_granted(rig.session.flow_base + 2, 1)
        rig.admit(rig.frame(flow=2))

    def test_a_duplicate_is_not_charged(self, rig: Any) -> None:
        rig.admit(rig.frame())
        rig.refuse(rig.frame(), "replay")
        assert rig.flow().rx_spent == 1


class TestGrants:
    def granted(self, rig: Any, *fields: int, known: int = 0, shift: int = 0) -> list[int]:
        rig.install(flows=(FlowSpec(1, rig.rx_window, known),), grant_shift=shift)
        seen = []
        for seq, grant in enumerate(fields, start=1):
            rig.admit(rig.frame(seq=seq, grant=grant))
            seen.append(rig.flow().tx_granted)
        return seen

    def test_advance(self, rig: Any) -> None:
        assert self.granted(rig, 50, 60, 61, known=50) == [50, 60, 61]

    def test_lost_and_reordered(self, rig: Any) -> None:
        """A lost one is made up for by the next; an older one changes nothing."""
        assert self.granted(rig, 90, 70, 89, 91, known=50) == [90, 90, 90, 91]

    def test_wraps_at_16_bits(self, rig: Any) -> None:
        assert self.granted(rig, 4, 65_535, 5, known=65_530) == [65_540, 65_540, 65_541]

    def test_half_the_range_ahead_is_behind(self, rig: Any) -> None:
        assert self.granted(rig, 0x8000, 0xFFFF, 0x7FFF) == [0, 0, 0x7FFF]

    def test_in_units(self, rig: Any) -> None:
        assert self.granted(rig, 12, 13, 0xFFFF, 20, known=50, shift=2) == [50, 52, 52, 80]

    def test_a_refused_frame_grants_nothing(self, rig: Any) -> None:
        rig.refuse(rig.frame(grant=60, flow=2), "no_credit")
        rig.refuse(rig.frame(grant=60, flip=1), "bad_tag")
        assert rig.flow().tx_granted == rig.tx_window

    def test_control_frames_grant_nothing(self, rig: Any) -> None:
        rig.admit(rig.control(grant=60))
        assert rig.flow(0).tx_granted == 0


class TestRate:
    """The gate's clock goes in ticks of some ms, so rates here are an hour a frame."""

    @pytest.mark.parametrize("burst", [0, 1, 15])
    def test_handshakes_in_a_burst(self, rig: Any, burst: int) -> None:
        config = rig.tables.config.read()
        rig.tables.config.write(
            replace(config, handshake_interval=HOUR, handshake_burst=burst * HOUR)
        )
        now = rig.peer_time
        for i in range(burst + 1):
            rig.admit(rig.handshake(timestamp=now + i))
        rig.refuse(rig.handshake(timestamp=now + burst + 1), "rate_limited")
        rig.admit(rig.handshake(src=rig.remote))  # another peer's allowance is its own

    def test_a_junk_handshake_costs_nothing(self, rig: Any) -> None:
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, handshake_interval=HOUR, handshake_burst=0))
        rig.refuse(rig.handshake(flip=1), "bad_tag")
        rig.admit(rig.handshake())

    def test_control_in_a_burst(self, rig: Any) -> None:
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, control_interval=HOUR, control_burst=9 * HOUR))
        for seq in range(1, 11):
            rig.admit(rig.control(seq=seq))
        rig.refuse(rig.control(seq=11), "rate_limited")
        rig.admit(rig.frame())  # data is limited by credit alone

    def test_replays_are_told_before_the_rate(self, rig: Any) -> None:
        rig.refuse(spend_control(rig), "rate_limited")
        rig.refuse(rig.control(seq=1), "replay")


class TestSkew:
    @pytest.mark.parametrize("side", [-1, 1])
    def test_within_the_limit(self, rig: Any, side: int) -> None:
        """To the second: the exact edge is in tests/host, where time stands still."""
        inside = rig.skew_limit - SEC
        rig.admit(rig.frame(timestamp=rig.peer_time + side * inside))

    @pytest.mark.parametrize("timestamp", [0, 1, 2**63, 2**64 - 1])
    def test_no_limit(self, rig: Any, timestamp: int) -> None:
        rig.install(skew_limit=0)
        rig.admit(rig.frame(timestamp=timestamp))

    def test_an_offset_below_zero(self, rig: Any) -> None:
        """The peer booted after us: its clock shows less than ours."""
        rig.install(clock_offset=-SEC)
        now = rig.peer_time - rig.clock_offset - SEC
        rig.admit(rig.frame(timestamp=now))
        rig.refuse(rig.frame(seq=2, timestamp=now + 40 * SEC), "clock_skew")


class TestEvents:
    def test_the_first_refusal_of_each_reason_is_reported(self, rig: Any) -> None:
        rig.tables.config.write(replace(rig.tables.config.read(), event_interval=HOUR))
        bad, stray = rig.frame(flip=1), rig.frame(src=rig.stranger)
        with rig.tables.events() as events:
            for frame in (bad, bad, stray, stray, bad):
                rig.run(frame)
            found = events.read()
        # Each CPU reports for itself; the kernel may have run the frames on several.
        assert {event.reason for event in found} == {"bad_tag", "unknown_source"}
        by_reason = {event.reason: event for event in found}
        assert by_reason["bad_tag"].session_id == 7
        assert by_reason["unknown_source"].session_id == 0
        assert by_reason["bad_tag"].head == bad[:106]
        assert by_reason["bad_tag"].frame_len == len(bad)
        counters = rig.tables.counters.read()
        assert sum(totals.events for totals in counters.values()) == len(found)

    def test_a_short_frame_is_reported_as_far_as_it_goes(self, rig: Any) -> None:
        frame = rig.frame(length=30)
        with rig.tables.events() as events:
            rig.run(frame)
            (event,) = events.read()
        assert event.reason == "malformed_length"
        assert event.head == frame
        assert event.frame_len == 44

    def test_reading_stops_at_the_limit(self, rig: Any) -> None:
        rig.tables.config.write(replace(rig.tables.config.read(), event_interval=0))
        with rig.tables.events() as events:
            for _ in range(10):
                rig.run(rig.frame(flip=1))
            assert [len(events.read(4)) for _ in range(4)] == [4, 4, 2, 0]

    def test_admission_is_no_event(self, rig: Any) -> None:
        with rig.tables.events() as events:
            rig.admit(rig.frame())
            assert events.read() == []
