# SPDX-License-Identifier: Apache-2.0
"""Records for the session table by the thousand: packed by C, column by column.

What the layouts are, C knows (tables.h); a column is one field of all records, side by side.
Nothing here decides anything: see SessionTable.install_many.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from assent.dataplane.libbpf import Map
from assent.dataplane.tables.limits import NO_LIMITS, TermLimits
from assent.dataplane.tables.units import MS
from assent.errors import InvalidArgument
from assent.wire.cellid import CellID
from assent.wire.siphash import KEY_LEN

if TYPE_CHECKING:
    from assent.dataplane.tables.sessions import SessionSpec

_NO_KEY: Final = bytes(KEY_LEN)
# Replay chunks cleared by one system call: half a mebibyte.
_CHUNKS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class PairSpec:
    """A pair to provision; see SessionTable.provision for what the fields mean."""

    remote: CellID
    local: CellID
    admission_key: bytes = field(repr=False)
    covenanted: bool
    quarantined: bool = False
    departing_key: bytes | None = field(default=None, repr=False)
    observed: bool = False
    bare: bool = False
    control: bool = False
    leased: bool = False
    limits: TermLimits | None = None


@dataclass(frozen=True, slots=True)
class PolicyFlags:
    """Bits of enum assent_session_flag that the control plane's policy decides."""

    covenanted: int
    quarantined: int
    observed: int
    bare: int
    control: int
    leased: int
    terms: int

    @classmethod
    def from_enum(cls, flags: Mapping[str, int]) -> PolicyFlags:
        """Picks them out of the enumeration's members."""
        return cls(*(flags[f"ASSENT_SESSION_{name.upper()}"] for name in cls.__slots__))

    @property
    def mask(self) -> int:
        """All of them."""
        return sum(astuple(self))

    def of(self, spec: PairSpec) -> int:
        """The bits that a pair is to have."""
        return (
            self.covenanted * spec.covenanted
            | self.quarantined * spec.quarantined
            | self.observed * spec.observed
            | self.bare * spec.bare
            | self.control * spec.control
            | self.leased * spec.leased
            | self.terms * (spec.limits is not None)
        )

    def named(self, flags: int) -> dict[str, bool]:
        """Which of them are set, by name."""
        return {name: bool(flags & getattr(self, name)) for name in self.__slots__}


class PairColumns:
    """struct an_pair_columns of some pairs.

    Raises:
        InvalidArgument: a key has not 16 bytes; the field says whose.
    """

    def __init__(
        self, specs: Sequence[PairSpec], keys: Sequence[bytes], flags: PolicyFlags
    ) -> None:
        from assent._native import ffi

        self.count = len(specs)
        self.keys = b"".join(keys)
        admission = _keys("pairs", "admission_key", [spec.admission_key for spec in specs])
        departing, has = _optional_keys(
            "pairs", "departing_key", [spec.departing_key for spec in specs]
        )
        policy = array("I", [flags.of(spec) for spec in specs])
        limits = [spec.limits or NO_LIMITS for spec in specs]
        self.struct: Any = ffi.new("struct an_pair_columns *")
        self._kept = _point(
            self.struct,
            pairs=self.keys,
            admission=admission,
            departing=departing,
            has_departing=has,
            policy=policy,
            data_interval=array("Q", map(attrgetter("interval_ns"), limits)),
            data_burst=array("Q", map(attrgetter("burst_ns"), limits)),
            open_from=array("Q", map(attrgetter("open_from"), limits)),
            open_until=array("Q", map(attrgetter("open_until"), limits)),
            payload_limit=array("I", map(attrgetter("payload_limit"), limits)),
        )
        self.struct.policy_mask = flags.mask

    def pack(self, entries: bytearray) -> None:
        """Writes them into entries 0 to count - 1."""
        from assent._native import ffi, lib

        with ffi.from_buffer(entries) as raw:
            lib.an_pack_pairs(ffi.cast("uint8_t *", raw), self.struct, self.count)

    def compare(self, entries: bytearray, found: bytearray) -> bytes:
        """How entries differ from what they should be: enum an_difference, a byte each."""
        from assent._native import ffi, lib

        differences = ffi.new("uint8_t[]", max(self.count, 1))
        with ffi.from_buffer(entries) as raw, ffi.from_buffer(found) as seen:
            lib.an_compare_pairs(
                ffi.cast("uint8_t *", raw),
                ffi.cast("uint8_t *", seen),
                self.struct,
                self.count,
                differences,
            )
        return bytes(ffi.buffer(differences, self.count))


class SessionColumns:
    """struct an_session_columns of some sessions; where their flows are is set by the caller.

    Raises:
        InvalidArgument: a key has not 16 bytes; the field says whose.
        OverflowError: a number does not fit its field.
    """

    def __init__(
        self,
        specs: Sequence[SessionSpec],
        keys: Sequence[bytes],
        rows: array[int],
        flow_counts: array[int],
    ) -> None:
        from assent._native import ffi

        self.count = len(specs)
        self.flow_base = array("I", bytes(4 * self.count))
        departing, has = _optional_keys(
            "sessions", "tx_header_key", [spec.tx_header_key for spec in specs]
        )
        self.struct: Any = ffi.new("struct an_session_columns *")
        self._kept = _point(
            self.struct,
            rows=rows,
            pairs=b"".join(keys),
            arriving=_keys("sessions", "rx_header_key", [spec.rx_header_key for spec in specs]),
            departing=departing,
            has_departing=has,
            session_id=array("I", map(attrgetter("session_id"), specs)),
            clock_offset=array("q", map(attrgetter("clock_offset"), specs)),
            skew_limit=array("I", [-(-spec.skew_limit // MS) for spec in specs]),
            payload_max=array("H", map(attrgetter("payload_max"), specs)),
            flow_count=flow_counts,
            flow_base=self.flow_base,
        )

    def pack(self, entries: bytearray, policy_mask: int) -> None:
        """Makes entries live; of their flags, those in the mask stay."""
        from assent._native import ffi, lib

        self.struct.policy_mask = policy_mask
        with ffi.from_buffer(entries) as raw:
            lib.an_pack_sessions(ffi.cast("uint8_t *", raw), self.struct, self.count)


@dataclass(frozen=True, slots=True)
class Shape:
    """What sessions with the same flows have in common.

    Attributes:
        lines: the lines of all flows, as bytes, but for where their replay rings are.
        rings: chunks of each flow's ring; 0 = the flow is not open.
    """

    lines: bytes
    rings: tuple[int, ...]

    @property
    def flow_count(self) -> int:
        """Flow slots of a session."""
        return len(self.rings)

    def flow_lines(self, bases: bytes, count: int) -> bytes:
        """The lines of `count` such sessions; the rings' bases flow by flow, 32 bits each."""
        from assent._native import ffi, lib

        lines = ffi.new("uint8_t[]", len(self.lines) * count)
        lib.an_pack_flows(
            lines,
            self.lines,
            self.flow_count,
            ffi.cast("uint32_t *", ffi.from_buffer(bases)),
            count,
        )
        return bytes(ffi.buffer(lines))


def keys_of(specs: Iterable[PairSpec] | Iterable[SessionSpec]) -> list[bytes]:
    """Their keys in the session table."""
    return [one.remote.raw + one.local.raw for one in specs]


def unique_rows(pairs: Sequence[bytes], sessions: Sequence[bytes]) -> dict[bytes, int]:
    """Numbers the keys of a batch: those of the pairs in order, then those of other sessions.

    Raises:
        InvalidArgument: a pair is there twice.
    """
    rows = dict(zip(pairs, range(len(pairs)), strict=True))
    if len(rows) != len(pairs):
        _fail_twice("pairs", pairs)
    if len(set(sessions)) != len(sessions):
        _fail_twice("sessions", sessions)
    for key in sessions:
        if key not in rows:
            rows[key] = len(rows)
    return rows


def absent(differences: bytes) -> int:
    """How many of the entries that SessionTable.compare_many compared are not there at all."""
    from assent._native import lib

    return differences.count(lib.AN_ABSENT)


def column(table: bytearray | bytes, entry_size: int, offset: int) -> list[int]:
    """A 32-bit field of all entries that lie side by side."""
    return memoryview(table).cast("I")[offset // 4 :: entry_size // 4].tolist()


def merged(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same slots in as few runs (start, length) as there can be."""
    held: tuple[int, int] | None = None
    for start, length in sorted(runs):
        if held is not None and sum(held) == start:
            held = held[0], held[1] + length
            continue
        if held is not None:
            yield held
        held = start, length
    if held is not None:
        yield held


def look_up(table: Map, keys: bytes, found: bytearray) -> bytearray:
    """Reads the entries that may be there.

    Args:
        table: of the entries.
        keys: side by side.
        found: a byte a key: 0 = it is not there. Becomes 0 where it turns out that it is not.

    Returns:
        The entries side by side; zeros where there is none.

    Raises:
        OSError: the kernel refuses.
    """
    from assent._native import ffi, lib

    entries = bytearray(len(found) * table.value_size)
    with ffi.from_buffer(entries) as raw, ffi.from_buffer(found) as seen:
        failed = lib.an_map_lookup(
            table.fd,
            keys,
            table.key_size,
            len(found),
            ffi.cast("uint8_t *", raw),
            table.value_size,
            ffi.cast("uint8_t *", seen),
        )
    if failed:
        raise OSError(-failed, f"reading map {table.name}")
    return entries


def set_tallies(entries: bytearray, rows: Sequence[int], tallies: Sequence[int]) -> None:
    """Says where some entries count."""
    from assent._native import ffi, lib

    with ffi.from_buffer(entries) as raw:
        lib.an_set_tallies(
            ffi.cast("uint8_t *", raw), _ints("I", rows), _ints("I", tallies), len(rows)
        )


def live_with(entries: bytearray, found: bytearray, session_ids: Sequence[int]) -> bytes:
    """Which entries hold the live session of that number: a byte each, 0 = not."""
    from assent._native import ffi, lib

    alive = ffi.new("uint8_t[]", max(len(found), 1))
    with ffi.from_buffer(entries) as raw, ffi.from_buffer(found) as seen:
        lib.an_compare_sessions(
            ffi.cast("uint8_t *", raw),
            ffi.cast("uint8_t *", seen),
            _ints("I", session_ids),
            len(found),
            alive,
        )
    return bytes(ffi.buffer(alive, len(found)))


def clear_rings(table: Map, first: bytes, rest: bytes, start: int, count: int, chunks: int) -> None:
    """Empties `count` replay rings of `chunks` chunks each that lie side by side.

    Args:
        table: the replay map.
        first: a ring's first chunk, empty.
        rest: any other one.
        start: the first ring's first chunk.
        count: of rings.
        chunks: of a ring.
    """
    at_once = max(_CHUNKS_AT_ONCE // chunks, 1)
    values = (first + rest * (chunks - 1)) * min(at_once, count)
    for ring in range(0, count, at_once):
        number = min(at_once, count - ring) * chunks
        at = start + ring * chunks
        table.update_packed(slots_between(at, at + number), values, number)


def slots_between(start: int, end: int) -> bytes:
    """Keys of an array's entries from `start` to before `end`."""
    return array("I", range(start, end)).tobytes()


def firsts(runs: Iterable[tuple[int, int]], length: int) -> Iterator[int]:
    """First slots of the runs that RunAllocator.allocate_many returned."""
    return chain.from_iterable(
        range(start, start + count * length, length) for start, count in runs
    )


def _fail_twice(where: str, keys: Sequence[bytes]) -> None:
    seen = set()
    for at, key in enumerate(keys):
        if key in seen:
            raise InvalidArgument(f"{where}[{at}]", "the pair is given twice")
        seen.add(key)


def _keys(where: str, name: str, keys: Sequence[bytes]) -> bytes:
    joined = b"".join(keys)
    if set(map(len, keys)) - {KEY_LEN}:
        at = next(at for at, key in enumerate(keys) if len(key) != KEY_LEN)
        raise InvalidArgument(
            f"{where}[{at}].{name}", f"takes {KEY_LEN} bytes, these are {len(keys[at])}"
        )
    return joined


def _optional_keys(where: str, name: str, keys: Sequence[bytes | None]) -> tuple[bytes, bytes]:
    """Keys side by side, zeros where there is none; and a byte each: whether there is one."""
    has = bytes([key is not None for key in keys])
    return _keys(where, name, [_NO_KEY if key is None else key for key in keys]), has


def _ints(kind: str, values: Sequence[int]) -> Any:
    from assent._native import ffi

    names = {"I": "uint32_t *"}
    return ffi.from_buffer(names[kind], array(kind, values))


def _point(struct: Any, **columns: bytes | array[int]) -> list[Any]:
    """Points a struct's members at columns; they last as long as what is returned."""
    from assent._native import ffi

    kinds = {field: kind.type.cname for field, kind in ffi.typeof(struct).item.fields}
    kept = []
    for name, column in columns.items():
        raw = ffi.from_buffer(column)
        setattr(struct, name, ffi.cast(kinds[name], raw))
        kept.append(raw)
    return kept
