# SPDX-License-Identifier: Apache-2.0
"""Numiport's packets for tests: the vectors, and a reader written apart from the one in C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from assent.numiport.wire import (
    AckRange,
    Cap,
    Caps,
    Class,
    Flaw,
    Header,
    Packet,
    Stream,
    Tlvs,
    TlvType,
)

_FILE = json.loads((Path(__file__).parents[1] / "vectors" / "numiport.json").read_text())
MAC_KEY = bytes.fromhex(_FILE["mac_key"])
VECTORS: list[dict[str, Any]] = _FILE["packets"]
HEX_FIELDS = ("retry_cookie", "hdr_mac", "session_id")


def datagram_of(vector: dict[str, Any]) -> bytes:
    parts = [part for part, _ in vector["head"]]
    return bytes.fromhex("".join([*parts, vector["payload"], vector["tag"] or ""]))


def covered_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(part for part, under in vector["head"] if under))


def packet_of(vector: dict[str, Any]) -> Packet:
    header, tlvs = dict(vector["header"]), dict(vector["tlvs"])
    header["cls"], header["stream"] = Class(header["cls"]), Stream(header["stream"])
    if "caps" in tlvs:
        caps = tlvs["caps"]
        tlvs["caps"] = Caps(Cap(caps["bitmap"]), caps["pmtu"], caps["ecn"], tuple(caps["psk_ids"]))
    if "ack_rle" in tlvs:
        tlvs["ack_rle"] = tuple(AckRange(*pair) for pair in tlvs["ack_rle"])
    if "nack_list" in tlvs:
        tlvs["nack_list"] = tuple(tlvs["nack_list"])
    for name in HEX_FIELDS:
        if name in tlvs:
            tlvs[name] = bytes.fromhex(tlvs[name])
    return Packet(
        Header(**header),
        Tlvs(**tlvs),
        bytes.fromhex(vector["payload"]),
        bytes.fromhex(vector["tag"]) if vector["tag"] else None,
        vector.get("ack_only", False),
    )


def record(kind: int, value: bytes) -> bytes:
    """A TLV as it is on the wire."""
    raw = bytes([kind]) + len(value).to_bytes(2, "big") + value
    return raw + bytes(-len(raw) % 4)


END = record(0, b"")
# Lengths that a type's value may have.
LENGTHS = {
    TlvType.END: {0},
    TlvType.CAPS: {7, 11, 15, 19, 23},
    TlvType.PSK_ID: {4},
    TlvType.ACK_RLE: set(range(0, 68, 4)),
    TlvType.NACK_LIST: set(range(0, 36, 4)),
    TlvType.PMTU: {2},
    TlvType.ECN_SUMMARY: {2},
    TlvType.RETRY_COOKIE: set(range(33)),
    TlvType.HDR_MAC: {16},
    TlvType.SESSION_ID: {16},
}


def flaw_of(datagram: bytes) -> tuple[Flaw | None, bytes]:
    """What is wrong with a datagram, in the order in which it is looked at, by the plain rules.

    Returns:
        The flaw, or None and what is under the header MAC.
    """
    if not 36 <= len(datagram) <= 8972:
        return Flaw.LENGTH, b""
    number = {
        name: int.from_bytes(datagram[at : at + size], "big")
        for name, at, size in (
            ("stream", 10, 4),
            ("fec_total", 18, 2),
            ("shred_idx", 20, 2),
            ("plen", 22, 2),
        )
    }
    if datagram[0] != 1:
        return Flaw.VERSION, b""
    if any(datagram[24:32]):
        return Flaw.RESERVED, b""
    if number["stream"] > 3:
        return Flaw.STREAM, b""
    if number["shred_idx"] >= (number["fec_total"] or 1):
        return Flaw.FEC, b""
    values: dict[int, bytes] = {}
    under, at = datagram[:32], 32
    while 0 not in values:
        kind, raw = datagram[at : at + 1], datagram[at + 1 : at + 3]
        if len(datagram) < at + 4:
            return Flaw.UNENDED, b""
        if kind[0] not in LENGTHS:
            return Flaw.TLV_TYPE, b""
        if kind[0] in values:
            return Flaw.TLV_TWICE, b""
        length = int.from_bytes(raw, "big")
        if length not in LENGTHS[TlvType(kind[0])]:
            return Flaw.TLV_LENGTH, b""
        end = at + 3 + length
        following = end + -end % 4
        if len(datagram) < following:
            return Flaw.UNENDED, b""
        if any(datagram[end:following]):
            return Flaw.TLV_PADDING, b""
        values[kind[0]] = datagram[at + 3 : end]
        if kind[0] not in (7, 8):
            under += datagram[at:following]
        at = following
    return _flaw_of_values(datagram, number, values, at), under


def _flaw_of_values(
    datagram: bytes, number: dict[str, int], values: dict[int, bytes], head_len: int
) -> Flaw | None:
    if 1 in values and values[1][6] > 1:
        return Flaw.TLV_VALUE
    if 6 in values and int.from_bytes(values[6], "big") > 1000:
        return Flaw.TLV_VALUE
    told = values.get(3, b"")
    seen: set[int] = set()
    highest = -1
    for where in range(0, len(told), 4):
        start = int.from_bytes(told[where : where + 2], "big")
        run = int.from_bytes(told[where + 2 : where + 4], "big")
        numbers = range(start, start + run)
        if not numbers or numbers[0] <= highest or numbers[-1] > 0xFFFF:
            return Flaw.TLV_VALUE
        assert seen.isdisjoint(numbers)
        seen.update(numbers)
        highest = numbers[-1]
    flags, cls = datagram[1] >> 2, datagram[1] & 3
    due = (4 in values) * 2 + (number["fec_total"] > 0) * 4 + (2 in values) * 8
    due += (number["stream"] == 3) * 16 + (6 in values) * 32
    if flags & ~1 != due:
        return Flaw.FLAGS
    if flags & 1 and (number["plen"] or not values.keys() & {3, 4}):
        return Flaw.FLAGS
    if 4 in values and cls > 1:
        return Flaw.NACK_CLASS
    if len(datagram) - head_len - number["plen"] not in (0, 16):
        return Flaw.PLEN
    return None
