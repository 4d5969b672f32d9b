# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing (libFuzzer) of each C parser, built for the host with ASan and UBSan.

A run in the test suite is short and starts from the seeds below. `make fuzz` sets FUZZ_RUNS, keeps
the corpus that it finds in build/fuzz/<target>, and goes on from there the next time. What breaks a
claim is left in build/fuzz as crash-<target>-*; give it to build/host/fuzz_<target> to see it again
(the gate's target needs ASSENT_TABLES=build/fuzz/gate.tables).
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import Profile
from assent.dataplane.tables import FlowSpec
from assent.wire.cellid import CellID
from assent.wire.fabric import Flags

from ..packet import twin
from ..packet.conftest import Rig

HERE = Path(__file__).resolve().parent
NATIVE = twin.ROOT / "controlplane" / "assent" / "native"
KEPT = twin.ROOT / "build" / "fuzz"
FUZZER = ["-fsanitize=fuzzer", "-Wno-unused-const-variable", "-Wno-unused-function"]
RUNS = os.environ.get("FUZZ_RUNS")
SHORT_SECONDS = 4
# Small, for it is set back before each input; the rig sets up two sessions, one after the other.
TINY = Profile("tiny", locals=4, sessions=4, flows=12, replay_chunks=16)
UNHEARD, SUSPENDED = CellID(b"\x61" * 16), CellID(b"\x62" * 16)


def build(name: str) -> Path:
    if name == "gate":
        sources = [HERE / "fuzz_gate.c", twin.HOST / "gate_host.c", twin.HOST / "maps.c"]
        flags = ["-fno-vectorize", "-fno-slp-vectorize"]
    else:
        sources = [HERE / "fuzz_flow.c", NATIVE / "flow.c", NATIVE / "aead.c"]
        flags = ["-D_GNU_SOURCE", f"-I{NATIVE}", "-lcrypto"]
    inputs = list(NATIVE.glob("*.h"))
    return twin.compiled(f"fuzz_{name}", "clang", sources, [*FUZZER, *flags], inputs)


def gate_tables(path: Path) -> dict[str, bytes]:
    """Writes the tables that inputs start with, and returns frames that are at home there."""
    with Gate.private(TINY) as gate:
        rig = Rig(gate)
        rig.install(skew_limit=0, flows=(FlowSpec(1, 100, 50), FlowSpec(2), FlowSpec(3, 5)))
        for cell, covenanted in ((UNHEARD, False), (SUSPENDED, True)):
            rig.tables.sessions.provision(cell, rig.local, rig.admission_key, covenanted=covenanted)
        rig.tables.sessions.set_consent(SUSPENDED, rig.local, True, True)
        twin.snapshot(gate, path)
        flood = [rig.handshake(timestamp=rig.peer_time + more) for more in range(20)]
        return {
            **{f"flood-{number:02}": frame for number, frame in enumerate(flood)},
            "unheard": rig.frame(src=UNHEARD),
            "suspended": rig.frame(src=SUSPENDED),
            "data": rig.frame(payload_len=200),
            "later": rig.frame(seq=40),
            "control": rig.control(payload_len=64),
            "syn": rig.handshake(Flags.SYN, payload_len=100),
            "ack": rig.handshake(Flags.ACK),
            "bare": rig.frame(flags=Flags.DATA),
            "short": rig.frame(length=20),
        }


def gate_seeds(frames: dict[str, bytes]) -> dict[str, bytes]:
    """Each frame alone and twice; and all, with the help that the target offers."""
    records = {
        name: bytes([0, 0]) + struct.pack("<H", len(frame)) + frame
        for name, frame in frames.items()
    }
    seeds = {**records, **{f"{name}-twice": record * 2 for name, record in records.items()}}
    seeds["flood"] = b"".join(records[f"flood-{number:02}"] for number in range(20))
    for how in (0x2F, 0x6F, 0x1F, 0x3F):
        seeds[f"all-{how:x}"] = b"".join(
            bytes([how, whose]) + record[2:] for record in records.values() for whose in (0, 1)
        )
    return seeds


def flow_seeds() -> dict[str, bytes]:
    """Frames that the engine takes, and turns between them."""
    header = struct.Struct(">16s16sIHHHHIQQ")

    def record(what: int, seq: int, flags: int, payload_len: int, nack: int = 0) -> bytes:
        raw = header.pack(b"\2" * 16, b"\1" * 16, seq, flags, payload_len, 1, 256, nack, 0, 0)
        frame = bytes(12) + b"\x88\xb5" + raw
        return struct.pack("<BH", what, len(frame)) + frame

    turn = struct.pack("<BH", 0x01, 8)
    later = struct.pack("<BH", 0xC1, 31)
    data = Flags.DATA | Flags.BLOCK
    sealed = b"".join(record(0x0E, seq, data, 116) for seq in (1, 2, 3))
    full = b"".join(record(0x0E, seq, data, 1408) for seq in (1, 2, 3, 4))
    gap = record(0x0E, 1, data, 116) + record(0x0E, 9, data, 116) + turn * 3
    nack = turn + b"".join(record(0x26, n, Flags.NACK | Flags.BLOCK, 0, n) for n in (1, 2, 3))
    probe = record(0x06, 1, data, 0) + turn + record(0x06, 2, data, 0) + turn
    return {
        "sealed": sealed + turn,
        "full": full + turn,
        "gap": gap,
        "nack": nack + turn,
        "probe": probe,
        "quiet": turn + later * 6,
        "raw": record(0, 1, data, 0),
    }


def fuzz(name: str, seeds: dict[str, bytes], scratch: Path, tables: Path | None) -> str:
    KEPT.mkdir(parents=True, exist_ok=True)
    given = scratch / "seeds"
    given.mkdir()
    for seed, data in seeds.items():
        (given / seed).write_bytes(data)
    corpus = KEPT / name if RUNS else scratch / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    effort = [f"-runs={RUNS}"] if RUNS else [f"-max_total_time={SHORT_SECONDS}"]
    done = subprocess.run(
        [
            *(str(build(name)), *effort, "-seed=1", "-max_len=8192", "-len_control=20"),
            *("-print_final_stats=1", f"-artifact_prefix={KEPT}/crash-{name}-"),
            *(str(corpus), str(given)),
        ],
        env={**os.environ, "ASSENT_TABLES": str(tables or "")},
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


def executed(log: str) -> int:
    (line,) = (line for line in log.splitlines() if "number_of_executed_units" in line)
    return int(line.split()[-1])


def test_gate(tmp_path: Path) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    tables = KEPT / "gate.tables"
    log = fuzz("gate", gate_seeds(gate_tables(tables)), tmp_path, tables)
    print(log[-1500:])
    assert executed(log) >= int(RUNS or 1000)


def test_flow(tmp_path: Path) -> None:
    log = fuzz("flow", flow_seeds(), tmp_path, None)
    print(log[-1500:])
    assert executed(log) >= int(RUNS or 1000)
