# SPDX-License-Identifier: Apache-2.0
"""What rogue sends: frames of each kind that the gate must refuse.

Each attack makes whole Ethernet frames from what an attacker on the link can know: addresses,
CellIDs (they are in every header), captured frames, and, for the overspender, its own session.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assent import _native
from assent.handshake.keys import seal
from assent.transport.access import FlowAccess
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, Flags, Frame, Header, block_cost, with_tag

_PAYLOAD_LEN = 256
_DATA = Flags.DATA | Flags.BLOCK


@dataclass(frozen=True, slots=True)
class Target:
    """What rogue knows of its victim and of the victim's friend."""

    victim: CellID
    victim_mac: bytes
    friend: CellID
    own_mac: bytes


@dataclass(frozen=True, slots=True)
class Attack:
    """A kind of attack.

    Attributes:
        name: in the report.
        reason: the drop reason that each of its frames must be counted under.
        frames: the frames, made beforehand.
    """

    name: str
    reason: str
    frames: Sequence[bytes]


def unknown_destination(target: Target, count: int, rng: random.Random) -> Attack:
    """Addressed to cells that do not live there."""
    return Attack(
        "unknown_destination",
        "unknown_destination",
        [_frame(target, _header(target.friend, _cell(rng), seq, rng)) for seq in _numbers(count)],
    )


def unknown_source(target: Target, count: int, rng: random.Random) -> Attack:
    """From cells that the victim never heard of."""
    return Attack(
        "unknown_source",
        "unknown_source",
        [_frame(target, _header(_cell(rng), target.victim, seq, rng)) for seq in _numbers(count)],
    )


def forged_tag(target: Target, count: int, rng: random.Random) -> Attack:
    """In the friend's name, with fresh numbers and a guessed tag."""
    return Attack(
        "forged_tag",
        "bad_tag",
        [
            _frame(target, _header(target.friend, target.victim, seq + (1 << 20), rng))
            for seq in _numbers(count)
        ],
    )


def replay(captured: Sequence[bytes], count: int) -> Attack:
    """Genuine frames, as captured on the link, sent again."""
    return Attack("replay", "replay", [captured[index % len(captured)] for index in range(count)])


def malformed_length(target: Target, count: int, rng: random.Random) -> Attack:
    """Cut short, drawn out, or with a length that is not theirs."""

    def broken(seq: int) -> bytes:
        whole = _frame(target, _header(target.friend, target.victim, seq, rng))
        kind = seq % 4
        if kind == 0:
            return whole[: 14 + rng.randrange(HEADER_LEN)]
        if kind == 1:
            return whole[: -rng.randrange(1, _PAYLOAD_LEN)]
        if kind == 2:
            return whole + bytes(rng.randrange(1, 200))
        lie = rng.choice([0, 1, _PAYLOAD_LEN + 1, 0xFFFF, 0x8000])
        return whole[:52] + struct.pack("!H", lie) + whole[54:]

    return Attack("malformed_length", "malformed_length", [broken(seq) for seq in _numbers(count)])


def overspend(access: FlowAccess, start_seq: int, count: int) -> Attack:
    """A genuine peer, frames in perfect order, and no credit left for them."""
    frames = [
        sealed_frame(access, start_seq + index, bytes(_PAYLOAD_LEN - 16)) for index in range(count)
    ]
    return Attack("overspend", "no_credit", frames)


def spend_all(access: FlowAccess, start_seq: int, credit: int) -> list[bytes]:
    """The frames that use up a grant of `credit` blocks to its last one."""
    cost = block_cost(_PAYLOAD_LEN)
    bodies = [bytes(_PAYLOAD_LEN - 16)] * (credit // cost) + [b""] * (credit % cost)
    return [sealed_frame(access, start_seq + index, body) for index, body in enumerate(bodies)]


def sealed_frame(access: FlowAccess, seq: int, plain: bytes) -> bytes:
    """A genuine data frame of a session, as its endpoint would make it; header-only for b""."""
    payload = b""
    if plain:
        payload = seal(
            access.tx_payload_key,
            plain,
            src=access.local,
            dst=access.remote,
            epoch=access.epoch,
            flow=access.flow,
            seq=seq,
        )
    header = Header(
        src=access.local,
        dst=access.remote,
        seq=seq,
        flags=_DATA if plain else Flags.BLOCK,
        payload_len=len(payload),
        flow=access.flow,
        grant=0,
        nack_slot=0,
        timestamp=time.clock_gettime_ns(time.CLOCK_TAI),
        tag=0,
    )
    raw = header.encode()
    lib: Any = _native.lib
    tagged = with_tag(raw, lib.an_header_tag(access.tx_header_key, raw))
    ethernet = EthernetHeader(access.remote_mac, access.local_mac, ETHERTYPE).encode()
    return ethernet + tagged + Frame(header, payload).encode()[HEADER_LEN:]


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _cell(rng: random.Random) -> CellID:
    return CellID(rng.randbytes(16))


def _header(src: CellID, dst: CellID, seq: int, rng: random.Random) -> Header:
    return Header(
        src=src,
        dst=dst,
        seq=seq,
        flags=_DATA,
        payload_len=_PAYLOAD_LEN,
        flow=1,
        grant=0,
        nack_slot=0,
        timestamp=time.clock_gettime_ns(time.CLOCK_TAI),
        tag=rng.getrandbits(64),
    )


def _frame(target: Target, header: Header) -> bytes:
    ethernet = EthernetHeader(target.victim_mac, target.own_mac, ETHERTYPE).encode()
    return ethernet + Frame(header, bytes(_PAYLOAD_LEN)).encode()
