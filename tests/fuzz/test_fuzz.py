# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing (libFuzzer) of each C parser, built for the host with ASan and UBSan.

A run in the test suite is short and starts from the seeds below; `make fuzz` goes on for longer.
What breaks a claim is left in build/fuzz as crash-<target>-*; give it to build/host/fuzz_<target>
to see it again (those of gate and egress need ASSENT_TABLES=build/fuzz/gate.tables).

| target | of | what is fed |
|---|---|---|
| gate | bpf/gate.h: verdict.h and relay.h, whole | sequences of arriving frames |
| egress | bpf/egress.bpf.c: departure.h, whole | sequences of leaving frames |
| frame | bpf/frame.h | one frame: EtherTypes and VLAN tags |
| lwf | bpf/include/assent/lwf.h | one LWF frame |
| flow | controlplane/assent/native/flow.c | frames, and turns of the engine |
| numiport | bpf/include/assent/numiport.h and its codec | one datagram of Numiport |
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import Profile
from assent.dataplane.relay import NextHop, RelayTable, Route
from assent.dataplane.tables import FlowSpec, TermLimits
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import Flags
from assent.wire.lwf import ETHERTYPE as LWF_ETHERTYPE
from assent.wire.lwf import NOBODY, TRAILER_LEN, Hint, Service
from assent.wire.lwf import Flags as LwfFlags
from assent.wire.lwf import Header as LwfHeader

from ..packet import twin
from ..packet.conftest import Rig, tagged
from ..unit.numi_packets import VECTORS, datagram_of
from . import libfuzzer

HERE = Path(__file__).resolve().parent
NATIVE = twin.ROOT / "controlplane" / "assent" / "native"
NUMI = twin.ROOT / "controlplane" / "assent" / "numiport" / "native"
FUZZER = ["-fsanitize=fuzzer", "-Wno-unused-const-variable", "-Wno-unused-function"]
# Small, for it is set back before each input; the rig sets up three sessions, and one once more.
TINY = Profile(
    "tiny",
    locals=4,
    sessions=8,
    connections=8,
    flows=24,
    replay_chunks=32,
    tallies=8,
    interfaces=1,
    relay_routes=8,
    relay_sources=4,
    relay_ports=4,
    # An input has 64 frames: none of them may be forgotten.
    relay_seen=128,
)
UNHEARD, SUSPENDED = CellID(b"\x61" * 16), CellID(b"\x62" * 16)
WATCHED, UNPROVEN = CellID(b"\x63" * 16), CellID(b"\x64" * 16)
BOUND = CellID(b"\x65" * 16)
MS = 1_000_000
# Of the fuzzers' clocks: both begin here, and the gate's goes on by a millisecond a frame.
BEGIN = 1_000_000 * MS
TERMS = TermLimits(MS, 20 * MS, 500, BEGIN, BEGIN + 30 * MS)
AWAY, HERE_TOO, EXPIRED = (Hint(bytes([fill]) * 24) for fill in (0xAA, 0xBB, 0xCC))
TX_KEY, TX_ADMISSION = bytes(range(32, 48)), bytes(range(48, 64))
LOOPBACK = 1


def build(name: str) -> Path:
    plain = ["-fno-vectorize", "-fno-slp-vectorize"]
    source = HERE / f"fuzz_{name}.c"
    sources, flags, inputs = {
        "gate": ([source, twin.HOST / "gate_host.c", twin.HOST / "maps.c"], plain, []),
        "egress": ([source, twin.HOST / "maps.c"], plain, [twin.ROOT / "bpf" / "egress.bpf.c"]),
        "frame": ([source], plain, []),
        "lwf": ([source], plain, []),
        "flow": (
            [
                source,
                *sorted(NATIVE.glob("flow*.c")),
                *(NATIVE / f"{part}.c" for part in ("aead", "gaps", "pool", "records")),
            ],
            ["-D_GNU_SOURCE", f"-I{NATIVE}", "-lcrypto"],
            list(NATIVE.glob("*.h")),
        ),
        "numiport": ([source, NUMI / "wire.c"], [f"-I{NUMI}", "-lcrypto"], [NUMI / "numi.h"]),
    }[name]
    return twin.compiled(f"fuzz_{name}", "clang", sources, [*FUZZER, *flags], inputs)


def lwf_frame(**fields: Any) -> bytes:
    """An LWF frame, whole, to a destination that there is a way to."""
    header = LwfHeader(AWAY, EXPIRED, version=2, flags=LwfFlags.RELAYABLE, timestamp=1)
    header = replace(header, **fields)
    ethernet = EthernetHeader(b"\x02" * 6, b"\x04" * 6, LWF_ETHERTYPE).encode()
    return ethernet + header.encode() + bytes(header.payload_len + TRAILER_LEN)


def lwf_frames() -> dict[str, bytes]:
    return {
        "lwf": lwf_frame(),
        "lwf-payload": lwf_frame(payload_len=100, frame_class=1),
        "lwf-micro": lwf_frame(frame_class=0)[: 14 + 128],
        "lwf-here": lwf_frame(dest=HERE_TOO),
        "lwf-expired": lwf_frame(dest=EXPIRED),
        "lwf-old": lwf_frame(version=1, flags=0),
        "lwf-registers": lwf_frame(source=AWAY, service=Service.RELAY_FORWARD),
        "lwf-registers-anywhere": lwf_frame(
            dest=NOBODY, source=AWAY, service=Service.RELAY_FORWARD
        ),
    }


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The tables that inputs of gate and egress start with; and frames that are at home there."""
    libfuzzer.KEPT.mkdir(parents=True, exist_ok=True)
    path = libfuzzer.KEPT / "gate.tables"
    with Gate.private(TINY) as gate:
        rig = Rig(gate)
        sessions = rig.tables.sessions
        for cell, covenanted, policy in (
            (UNHEARD, False, {}),
            (SUSPENDED, True, {"quarantined": True}),
            (WATCHED, True, {"observed": True}),
            (UNPROVEN, True, {"bare": True}),
            (BOUND, True, {"control": True, "leased": True, "limits": TERMS}),
            (rig.remote, True, {}),
        ):
            sessions.provision(
                cell, rig.local, rig.admission_key, covenanted, departing_key=TX_ADMISSION, **policy
            )
        flows = (FlowSpec(1, 100, 50), FlowSpec(2), FlowSpec(3, 5, 5))
        rig.install(remote=WATCHED, skew_limit=0, flows=flows, tx_header_key=TX_KEY)
        rig.install(remote=BOUND, skew_limit=0, flows=flows, tx_header_key=TX_KEY)
        rig.tables.config.renew_lease(BEGIN + 20 * MS)
        rig.install(skew_limit=0, flows=flows, tx_header_key=TX_KEY, payload_max=900)
        relay = RelayTable(gate)
        relay.put_route(Route(AWAY, NextHop(LOOPBACK, b"\x02" * 6, b"\x06" * 6)))
        relay.put_route(Route(HERE_TOO, None, local=True))
        hop = NextHop(LOOPBACK, b"\x02" * 6, b"\x06" * 6)
        relay.put_route(Route(EXPIRED, hop, registered=True, expires=1))
        relay.add_source(AWAY)
        twin.snapshot(gate, path)
        flood = [rig.handshake(timestamp=rig.peer_time + more) for more in range(20)]
        data = rig.frame(payload_len=200)
        frames = {
            **{f"flood-{number:02}": frame for number, frame in enumerate(flood)},
            "unheard": rig.frame(src=UNHEARD),
            "suspended": rig.frame(src=SUSPENDED),
            "watched": rig.frame(src=WATCHED, payload_len=64),
            "bound": rig.frame(src=BOUND, payload_len=100),
            "bound-control": rig.control(src=BOUND),
            "bound-bare": rig.bare(src=BOUND),
            "data": data,
            "later": rig.frame(seq=40),
            "lamp": rig.frame(seq=2, flags=Flags.DATA | Flags.LAMP | Flags.BLOCK),
            "control": rig.control(payload_len=64),
            "syn": rig.handshake(Flags.SYN, payload_len=100),
            "ack": rig.handshake(Flags.ACK),
            "bare": rig.bare(),
            "unproven": rig.bare(src=UNPROVEN, payload=b"plain"),
            "short": rig.frame(length=20),
            "tagged": tagged(data, 0x8100),
            "twice-tagged": tagged(data, 0x88A8, 0x8100),
            "deep": tagged(data, *[0x8100] * 5),
            "foreign": data[:12] + b"\x08\x00" + bytes(50),
        }
        return path, frames | lwf_frames()


def departing(frames: dict[str, bytes]) -> dict[str, bytes]:
    """The same frames, the other way: to whom they came from."""
    turned = {}
    for name, frame in frames.items():
        at = 18 if frame[12:14] == b"\x81\x00" else 14
        turned[name] = (
            frame[:at] + frame[at + 16 : at + 32] + frame[at : at + 16] + frame[at + 32 :]
        )
        turned[f"{name}-unstamped"] = turned[name][: at + 56] + bytes(8) + turned[name][at + 64 :]
    return turned


def record(head: bytes, frame: bytes) -> bytes:
    return head + struct.pack("<H", len(frame)) + frame


def gate_seeds(frames: dict[str, bytes]) -> dict[str, bytes]:
    """Each frame alone and twice; and all, with the help that the target offers."""
    records = {name: record(bytes(2), frame) for name, frame in frames.items()}
    seeds = {**records, **{f"{name}-twice": each * 2 for name, each in records.items()}}
    seeds["flood"] = b"".join(records[f"flood-{number:02}"] for number in range(20))
    for how in (0x2F, 0x6F, 0x1F, 0x3F):
        seeds[f"all-{how:x}"] = b"".join(
            record(bytes([how, whose]), frame)
            for frame in frames.values()
            for whose in (0, 1, 4, 6)
        )
    seeds["relay"] = b"".join(
        record(bytes([0x80, whose]), lwf_frame(sequence=whose)) for whose in (0, 1, 2, 0x80, 0x81)
    )
    return seeds


def egress_seeds(frames: dict[str, bytes]) -> dict[str, bytes]:
    """Each frame in one piece; and all, in pieces and with help."""
    frames = departing(frames)
    seeds = {name: record(bytes([0, 0, 255, 0]), frame) for name, frame in frames.items()}
    for how in (0x27, 0x2F, 0x37, 0x77):
        seeds[f"all-{how:x}"] = b"".join(
            record(bytes([how, whose, linear, 0]), frame)
            for frame in frames.values()
            for whose, linear in ((0, 14), (1, 255), (4, 60))
        )
    for beside in (1, 3, 4, 8):
        seeds[f"beside-{beside}"] = record(bytes([0x37, 0, 255, beside]), frames["data"])
    return seeds


def flow_seeds() -> dict[str, bytes]:
    """Frames that the engine takes, and turns between them; each after how the flow is."""
    header = struct.Struct(">16s16sIHHHHIQQ")

    def record(what: int, seq: int, flags: int, plain: bytes = b"", nack: int = 0) -> bytes:
        length = len(plain) + 16 if plain else 0
        raw = header.pack(b"\2" * 16, b"\1" * 16, seq, flags, length, 1, 256, nack, 0, 0)
        frame = bytes(12) + b"\x88\xb5" + raw + plain
        return struct.pack("<BH", what, len(frame)) + frame

    def message(body: bytes, flags: int = 0) -> bytes:
        return struct.pack(">H", len(body) | flags) + body

    turn = struct.pack("<BH", 0x01, 8)
    later = struct.pack("<BH", 0xC1, 31)
    finish = struct.pack("<BH", 0x01, 0xFF)
    data, nack, void = Flags.DATA | Flags.BLOCK, Flags.NACK | Flags.BLOCK, Flags.FIN | Flags.BLOCK
    lamp = data | Flags.LAMP
    short, long = message(b"hello") + message(b""), message(bytes(1300), 0x8000)
    sealed = b"".join(record(0x2E, seq, data, short) for seq in (1, 2, 3))
    parts = record(0x2E, 1, data, long) + record(0x2E, 2, data, short) + turn
    end = record(0x2E, 1, data, message(b"", 0x4000)) + turn
    gap = record(0x2E, 1, data, short) + record(0x2E, 9, data, short) + turn * 3
    body = b"\xa1\x64gaps\x84\x01\x02\x01\x03"
    gaps = struct.pack(">HHI", 5, len(body), 0) + body
    gaps += bytes(-len(gaps) % 64)
    asks = turn + record(0x2E, 1, nack, gaps) + turn + record(0x26, 2, nack, nack=3) + turn
    probe = record(0x26, 1, data) + turn + record(0x26, 2, data) + turn
    voids = record(0x26, 1, void, nack=3) + turn + record(0x26, 2, void, nack=23) + turn
    lamps = record(0x0E, 1, lamp, short) + turn * 2
    ack = turn + record(0x06, 1, Flags.ACK | Flags.BLOCK, nack=1) + turn
    seeds = {
        "sealed": sealed + turn,
        "parts": parts,
        "end": end + finish,
        "gap": gap,
        "asks": asks,
        "probe": probe,
        "voids": voids,
        "lamps": lamps,
        "ack": ack,
        "quiet": turn + later * 6,
        "raw": record(0, 1, data),
    }
    return {
        f"{name}-{how}": bytes([how]) + seed
        for name, seed in seeds.items()
        for how in (0x00, 0x01, 0x02, 0x0C, 0x10)
    }


def run(name: str, seeds: dict[str, bytes], scratch: Path, tables: Path | None = None) -> None:
    given = scratch / "seeds"
    given.mkdir()
    for seed, data in seeds.items():
        (given / seed).write_bytes(data)
    environment = {"ASSENT_TABLES": str(tables or "")}
    libfuzzer.run(name, [str(build(name)), "-len_control=20"], given, scratch, environment)


Tables = tuple[Path, dict[str, bytes]]


def test_gate(tables: Tables, tmp_path: Path) -> None:
    path, frames = tables
    run("gate", gate_seeds(frames), tmp_path, path)


def test_egress(tables: Tables, tmp_path: Path) -> None:
    path, frames = tables
    run("egress", egress_seeds(frames), tmp_path, path)


def test_frame(tables: Tables, tmp_path: Path) -> None:
    run("frame", tables[1], tmp_path)


def test_lwf(tmp_path: Path) -> None:
    run("lwf", {name: frame[14:] for name, frame in lwf_frames().items()}, tmp_path)


def test_flow(tmp_path: Path) -> None:
    run("flow", flow_seeds(), tmp_path)


def test_numiport(tmp_path: Path) -> None:
    seeds = {
        f"{number}-{how:x}": bytes([how]) + datagram_of(vector)
        for number, vector in enumerate(VECTORS)
        for how in (0x0, 0xD, 0xF)
    }
    run("numiport", seeds, tmp_path)
