# SPDX-License-Identifier: Apache-2.0
"""A gate full of sessions, and frames from them in random order: what a busy host looks like.

A frame that was admitted is a replay the next time, so each is used once: a crowd makes a million
of them before anything is measured. The bench program takes them one after the other.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final, Self

from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Map, Object, Program
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import Profile
from assent.dataplane.tables import SEC, FlowSpec, GateConfig, SessionSpec, Tables
from assent.dataplane.tables.batch import PairSpec
from assent.errors import FailedPrecondition
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, SIGNED_LEN, Flags, Header

XDP_DROP, XDP_PASS = 1, 2  # uapi/linux/bpf.h, enum xdp_action
FLOW: Final = 1
_AT_ONCE: Final = 65_536
_KEY: Final = bytes(range(16))
_LOCAL: Final = CellID(b"\x02" * CELLID_LEN)
_SEQ_AT: Final = 32
_SEED: Final = 20_240_607
# Any frame: the program puts the header into it.
FRAME: Final = EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + bytes(HEADER_LEN)


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a run of frames: ns a frame, and frames by verdict."""

    ns: float
    verdicts: dict[str, int]


class Crowd:
    """A gate with sessions. A context manager: what it has loaded is gone at the end.

    Args:
        profile: Sizes of its maps.
        frames: Room for so many headers.

    Raises:
        FailedPrecondition: BPF is not permitted.
        ResourceExhausted: No memory for maps of that size.
    """

    def __init__(self, profile: Profile, frames: int) -> None:
        path = packaged("bench")
        self._random = Random(_SEED)  # noqa: S311 - the same crowd in every measurement
        self._stack = contextlib.ExitStack()
        self._cells: list[bytes] = []
        self._next_seq = array("I")
        with contextlib.ExitStack() as undo:
            loaded = undo.enter_context(Object.open(path))
            for name, count in profile.capacities().items():
                if name in loaded.map_names:
                    loaded.set_max_entries(name, count)
            loaded.set_max_entries("bench_frames", frames)
            loaded.load()
            maps = {name: undo.enter_context(loaded.map(name)) for name in loaded.map_names}
            btf = Btf.from_object(path)
            self._cursor = btf.map_value("bench_cursors")
            self._cursors: Map = maps["bench_cursors"]
            self._frames: Map = maps["bench_frames"]
            self.tables = Tables(btf, maps)
            undo.callback(self.tables.close)
            self._programs: dict[str, Program] = {
                name: undo.enter_context(loaded.program(name))
                for name in ("bench_random", "bench_copy", "bench_bloom")
            }
            self._stack = undo.pop_all()
        self.tables.config.write(GateConfig())
        self.tables.locals.put(_LOCAL, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settle(self, cells: int) -> None:
        """Puts so many cells in session, each with one data flow and credit to spare."""
        self._cells = [self._random.randbytes(CELLID_LEN) for _ in range(cells)]
        self._next_seq = array("I", [1]) * cells
        clock_offset = -time.monotonic_ns()  # the frames are stamped 0
        for first in range(0, cells, _AT_ONCE):
            remotes = [CellID(raw) for raw in self._cells[first : first + _AT_ONCE]]
            self.tables.sessions.install_many(
                [
                    SessionSpec(
                        remote,
                        _LOCAL,
                        session_id=1,
                        rx_header_key=_KEY,
                        clock_offset=clock_offset,
                        skew_limit=3600 * SEC,
                        flows=(FlowSpec(FLOW, rx_window=(1 << 32) - 1, replay_len=1024),),
                    )
                    for remote in remotes
                ],
                [PairSpec(remote, _LOCAL, _KEY, covenanted=True) for remote in remotes],
            )
        for slot in range(2 * cells):
            self.tables.flows.set_open(slot, True)

    def speak(self, count: int, in_a_row: int = 1) -> None:
        """Lays out genuine headers of cells that are picked at random.

        Args:
            count: so many headers.
            in_a_row: headers of one cell before the next is picked.
        """
        from assent._native import lib

        rest = Header(_LOCAL, _LOCAL, 0, Flags.DATA | Flags.BLOCK, 0, FLOW).encode()
        after = rest[_SEQ_AT + 4 : SIGNED_LEN]
        destination = bytes(_LOCAL)
        tag_of, cells, seqs, pick = (
            lib.an_header_tag,
            self._cells,
            self._next_seq,
            self._random.randrange,
        )

        def headers() -> Iterator[bytes]:
            cell = 0
            for number in range(count):
                if number % in_a_row == 0:
                    cell = pick(len(cells))
                seq = seqs[cell]
                seqs[cell] = seq + 1
                header = cells[cell] + destination + seq.to_bytes(4, "big") + after
                yield header + tag_of(_KEY, header + bytes(8)).to_bytes(8, "little")

        self._lay_out(headers(), count)

    def strangers(self, count: int) -> None:
        """Lays out headers of cells that nobody knows."""
        rest = bytes(_LOCAL) + bytes(HEADER_LEN - 2 * CELLID_LEN)
        self._lay_out((self._random.randbytes(CELLID_LEN) + rest for _ in range(count)), count)

    def run(self, program: str, count: int) -> Turn:
        """Runs a program on the next headers.

        Args:
            program: bench_random, bench_copy or bench_bloom.
            count: So many frames.
        """
        before = self.tables.counters.read()
        run = self._programs[program].test_run(FRAME, count)
        after = self.tables.counters.read()
        verdicts = {
            name: totals.frames - before[name].frames
            for name, totals in after.items()
            if totals.frames != before[name].frames
        }
        if run.retval not in (XDP_DROP, XDP_PASS):
            raise FailedPrecondition(f"{program} has no frames to run on")
        return Turn(run.cpu_ns / count, verdicts)

    def passed(self) -> int:
        """How many headers bench_bloom has let pass since the last rewind."""
        raw = self._cursors.lookup(bytes(4)) or b""
        passed: int = self._cursor.unpack(raw).passed
        return passed

    def rewind(self, count: int) -> None:
        """Begins anew with the first of so many headers."""
        self._cursors.update(bytes(4), self._cursor.pack(count=count))

    def _lay_out(self, headers: Iterator[bytes], count: int) -> None:
        for first in range(0, count, _AT_ONCE):
            part = range(first, min(first + _AT_ONCE, count))
            raw = b"".join(islice(headers, len(part)))
            self._frames.update_packed(array("I", part).tobytes(), raw, len(part))
        self.rewind(count)
