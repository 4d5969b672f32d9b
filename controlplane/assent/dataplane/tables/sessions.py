# SPDX-License-Identifier: Apache-2.0
"""sessions[(remote, local)], with the flow slots and replay windows that sessions own."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import EXIST, NOEXIST, Map
from assent.dataplane.slots import RunAllocator
from assent.dataplane.tables import batch
from assent.dataplane.tables.batch import PairColumns, PairSpec, PolicyFlags, SessionColumns, Shape
from assent.dataplane.tables.bloom import BloomFilter
from assent.dataplane.tables.counters import TallyTable
from assent.dataplane.tables.flows import FlowTable
from assent.dataplane.tables.limits import NO_LIMITS, TermLimits
from assent.dataplane.tables.units import (
    MS,
    SEC,
    STATE_LEN,
    index,
    pair,
    pair_state,
)
from assent.errors import InvalidArgument, NotFound, ResourceExhausted
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.siphash import KEY_LEN

# Longest that a CPU may go on with a session entry that has been replaced. It is one frame's
# verdict, some 100 ns; interrupts and a hypervisor may stretch it.
GRACE_NS: Final = SEC
CONTROL_FLOW: Final = 0
CONTROL_REPLAY_LEN: Final = 1024
DATA_REPLAY_LEN: Final = 2048
SHARED_TALLY: Final = 0
REBUILD_AT_ONCE: Final = 4096
"""Pairs up to which the bloom filter is rebuilt with a removal, at most once a second; else by
tidy()."""
PAIR: Final = 2 * CELLID_LEN
_Runs = list[tuple[int, int]]
_Slots = list[int]
_Keys = list[bytes]
_Groups = list[tuple[Shape, list[int]]]
# The rx_window and tx_window fields of a flow have 32 bits.
_MAX_WINDOW = (1 << 32) - 1
# Flow numbers have 16 bits, and so has their count.
_MAX_FLOW = 0xFFFE
_SKEW_LIMIT: Final = attrgetter("skew_limit")
_MAX_GRANT_SHIFT = 16
_MAX_PAYLOAD = 0xFFFF
_MAX_SKEW_MS = (1 << 32) - 1
SKEW_LIMIT_MAX_NS: Final = _MAX_SKEW_MS * MS
_NO_STATE = bytes(STATE_LEN)
_NO_KEY: Final = bytes(KEY_LEN)
# What an entry says of a live session, and no longer once that has ended.
_SESSION_ALONE: Final = (
    "flow_base", "flow_count", "payload_max", "session_id", "clock_offset", "skew_limit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """A flow to open.

    Attributes:
        flow: 0 = control, data from 1.
        rx_window: 64-byte blocks that the peer may send at first.
        tx_window: blocks that we may send at first.
        replay_len: sequence numbers in the replay window; None = 1,024 for flow 0, else 2,048.
    """

    flow: int
    rx_window: int = 0
    tx_window: int = 0
    replay_len: int | None = None

    @property
    def window_len(self) -> int:
        """The replay window in force."""
        if self.replay_len is not None:
            return self.replay_len
        return CONTROL_REPLAY_LEN if self.flow == CONTROL_FLOW else DATA_REPLAY_LEN


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session to install.

    Attributes:
        remote: the cell that sends.
        local: the cell of this host that receives.
        session_id: names the session in events.
        rx_header_key: 16 bytes, the key of arriving frames' tags.
        tx_header_key: of leaving frames' tags; None = nothing leaves through the kernel's stack.
        clock_offset: the sender's clock minus our monotonic clock, ns.
        skew_limit: ns either way that a timestamp may be off, in whole ms; 0 = not checked.
        payload_max: bytes that a data frame may carry; 0 = what fits a frame.
        grant_shift: the unit of the `grant` field is 64 << grant_shift bytes.
        flows: flows to open; flow 0 is opened in any case.
    """

    remote: CellID
    local: CellID
    session_id: int
    rx_header_key: bytes = field(repr=False)
    tx_header_key: bytes | None = field(default=None, repr=False)
    clock_offset: int = 0
    skew_limit: int = 30 * SEC
    payload_max: int = 0
    grant_shift: int = 0
    flows: tuple[FlowSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """What stands in the session table, without its keys.

    Attributes:
        remote, local: the pair.
        established: a header key is live, so the flows below are.
        alternate: the neighbouring epoch's header key is live too.
        covenanted: the local cell has agreed to hear from the remote one.
        quarantined: and has suspended that.
        observed: what policy refuses is admitted, counted and told.
        bare: 40-byte UTCP frames are admitted.
        control: flow 0 and handshakes are admitted whatever consent says.
        leased: its data ends with the gate's lease.
        limits: what its data is held to; None = to none.
        session_id, clock_offset, skew_limit, payload_max: as installed; ns, bytes.
        flow_base, flow_count: slots in the flow table; flow f lives at flow_base + f.
        tally: slot of its counts; 0 = shared with others.
        handshake_newest: timestamp of the newest handshake frame that the gate admitted, ns.
        data_due: when the sender would be level again with the rate in `limits`, monotonic ns.
    """

    remote: CellID
    local: CellID
    established: bool
    alternate: bool
    covenanted: bool
    quarantined: bool
    observed: bool
    bare: bool
    control: bool
    leased: bool
    limits: TermLimits | None
    session_id: int
    clock_offset: int
    skew_limit: int
    payload_max: int
    flow_base: int
    flow_count: int
    tally: int
    handshake_newest: int
    data_due: int


class SessionTable:
    """sessions[(remote, local)], with the flow slots and replay windows that sessions own.

    An entry is provisioned (handshake frames can be told from junk), then installed (a session is
    live), then uninstalled or deleted. Every change is one map update: a frame meets the entry as
    it was or as it is, nothing between.

    A handshake frame that the gate admits in the microsecond between this table's read and its
    write is forgotten by `handshake_newest`, and the gate would admit its copy once more. The
    handshake itself refuses that copy.
    """

    def __init__(
        self,
        btf: Btf,
        maps: Mapping[str, Map],
        flows: FlowTable,
        bloom: BloomFilter,
        tallies: TallyTable,
        *,
        connections: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Takes stock of what the maps hold, and builds the bloom filter of it.

        Args:
            btf: of the gate's object.
            maps: by name: sessions, flows, replay.
            flows: the flow table on the same map.
            bloom: the filter before this table.
            tallies: where pairs count.
            connections: how many sessions may be live; None = as many as there are pairs.
            clock: monotonic, ns.
        """
        self._sessions = maps["sessions"]
        self._flow_map = maps["flows"]
        self._replay_map = maps["replay"]
        self._flows = flows
        self._bloom = bloom
        self._tally_table = tallies
        self._session = btf.map_value("sessions")
        self._flow = btf.map_value("flows")
        self._chunk = btf.map_value("replay")
        flags = btf.enum("assent_session_flag")
        self._established = flags["ASSENT_SESSION_ESTABLISHED"]
        self._alternate = flags["ASSENT_SESSION_ALTERNATE"]
        self._bits = PolicyFlags.from_enum(flags)
        self._policy = self._bits.mask
        # struct assent_replay_chunk: 64-bit words, of which each holds 32 sequence numbers.
        words = self._chunk.size // 8
        self._chunk_numbers = words * 32
        entries = self.list()
        slots = [(one.flow_base, one.flow_count) for one in entries if one.established]
        self._slots = RunAllocator("flow slots", self._flow_map.max_entries, GRACE_NS, clock, slots)
        self._chunks = RunAllocator(
            "replay chunks", self._replay_map.max_entries, GRACE_NS, clock, self._rings(slots)
        )
        taken = [(SHARED_TALLY, 1), *((one.tally, 1) for one in entries if one.tally)]
        self._tallies = RunAllocator("tallies", tallies.capacity, GRACE_NS, clock, taken)
        self._count = len(entries)
        self._live = len(slots)
        self._live_max = self._sessions.max_entries if connections is None else connections
        self._has_left = False
        self._rebuild_bloom()

    def __len__(self) -> int:
        return self._count

    def provision(
        self,
        remote: CellID,
        local: CellID,
        admission_key: bytes,
        covenanted: bool,
        quarantined: bool = False,
        *,
        departing_key: bytes | None = None,
        observed: bool = False,
        bare: bool = False,
        control: bool = False,
        leased: bool = False,
        limits: TermLimits | None = None,
    ) -> None:
        """Makes a peer known, or changes its admission key and consent. A live session goes on.

        What the gate has counted of a rate goes on too, under other limits.

        Args:
            remote: the cell that sends.
            local: the cell of this host.
            admission_key: 16 bytes, the key of the handshake frames' tags.
            covenanted: the local cell has agreed to hear from it.
            quarantined: and has suspended that.
            departing_key: the key of our own handshake frames' tags; None = none leave through the
                kernel's stack.
            observed: what policy refuses is admitted, counted and told.
            bare: 40-byte UTCP frames are admitted, which prove nothing.
            control: flow 0 and handshakes are admitted whatever consent says.
            leased: its data ends with the gate's lease, see ConfigTable.renew_lease().
            limits: what its data is held to; None = to none.

        Raises:
            InvalidArgument: a key is not 16 bytes.
            ResourceExhausted: the table is full.
        """
        key = pair(remote, local)
        states = {
            "admission": pair_state(admission_key, remote, local),
            "departing_admission": _departing(departing_key, remote, local),
        }
        policy = self._policy_values(
            PairSpec(
                remote, local, admission_key, covenanted, quarantined, departing_key,
                observed, bare, control, leased, limits,
            )
        )  # fmt: skip
        found = self._sessions.lookup(key)
        if found is None:
            self._create(key, self._session.pack(**states, **policy, tally=self._new_tally()))
            return
        old = self._session.unpack(found)
        policy["flags"] |= old.flags & ~self._policy
        self._sessions.update(key, old.replace(**states, **policy).pack(), EXIST)

    def set_consent(
        self,
        remote: CellID,
        local: CellID,
        covenanted: bool,
        quarantined: bool = False,
        *,
        observed: bool = False,
        bare: bool = False,
        control: bool = False,
        leased: bool = False,
        limits: TermLimits | None = None,
    ) -> None:
        """Grants, suspends or withdraws consent; from the next frame on. See provision().

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        policy = self._policy_values(
            PairSpec(
                remote, local, _NO_KEY, covenanted, quarantined, None,
                observed, bare, control, leased, limits,
            )
        )  # fmt: skip
        policy["flags"] |= old.flags & ~self._policy
        self._sessions.update(pair(remote, local), old.replace(**policy).pack(), EXIST)

    def install(self, spec: SessionSpec) -> SessionEntry:
        """Makes a session live. One that was live is replaced, its flows with it.

        A failure at any step leaves the table as it was.

        Raises:
            InvalidArgument: the specification makes no sense.
            NotFound: the pair is not provisioned.
            ResourceExhausted: no room for one more live session, its flows or replay windows.
        """
        flows = self._checked(spec)
        key = pair(spec.remote, spec.local)
        current = pair_state(spec.rx_header_key, spec.remote, spec.local)
        flow_count = max(flows) + 1
        # Packed before anything is allocated, so that a value that does not fit costs nothing.
        line0 = {
            "current": current,
            "flow_count": flow_count,
            "session_id": spec.session_id,
            "clock_offset": spec.clock_offset,
            "skew_limit": -(-spec.skew_limit // MS),
            "payload_max": spec.payload_max,
            "alternate": _NO_STATE,
            "departing": _departing(spec.tx_header_key, spec.remote, spec.local),
        }
        self._session.pack(**line0)
        was_live = self._record(spec.remote, spec.local).flags & self._established
        if not was_live and self._live >= self._live_max:
            raise ResourceExhausted(
                f"{self._live} sessions are live, and no more may be. Use a larger profile"
            )

        base = self._slots.allocate(flow_count)
        rings: _Runs = []
        try:
            lines = []
            for number in range(flow_count):
                values = {}
                if (flow := flows.get(number)) is not None:
                    count = self._ring_chunks(flow.window_len)
                    rings.append((self._chunks.allocate(count), count))
                    values = _flow_values(flow, spec.grant_shift, *rings[-1])
                lines.append(self._flow.pack(**values))
            self._clear_rings(rings)
            self._flow_map.update_batch(
                [index(base + number) for number in range(flow_count)], lines
            )
            # Read again: as late as can be, for the sake of what the gate writes in the entry.
            old = self._record(spec.remote, spec.local)
            flags = old.flags & self._policy | self._established
            fresh = old.replace(**line0, flow_base=base, flags=flags)
            self._sessions.update(key, fresh.pack(), EXIST)
        except BaseException:
            for ring in rings:
                self._chunks.release(*ring)
            self._slots.release(base, flow_count)
            raise
        self._live += 1
        self._retire(old)
        return self._entry(key, fresh)

    def provision_many(self, pairs: Sequence[PairSpec]) -> None:
        """Provisions many pairs with a few system calls; all or none. See install_many()."""
        self.install_many((), pairs)

    def install_many(self, specs: Sequence[SessionSpec], pairs: Sequence[PairSpec] = ()) -> None:
        """Makes many sessions live with a few system calls; all or none.

        The tables are as if install() had been called for each, and provision() for each of the
        pairs before; which slots they use may differ.

        Args:
            specs: sessions.
            pairs: to be provisioned, or changed, in the same step; those of `specs` that are
                provisioned already need not be among them.

        Raises:
            InvalidArgument: one makes no sense; the field begins with `sessions[i]` or `pairs[i]`.
            NotFound: the pair of a session is not provisioned.
            ResourceExhausted: no room for all of them. Nothing has changed.
        """
        pair_keys, session_keys = batch.keys_of(pairs), batch.keys_of(specs)
        rows = batch.unique_rows(pair_keys, session_keys)
        keys = b"".join(rows)
        columns = PairColumns(pairs, pair_keys, self._bits)
        spec_rows = array("I", [rows[key] for key in session_keys])
        flow_counts, groups = self._shapes(specs)
        sessions = self._session_columns(specs, session_keys, spec_rows, flow_counts)

        found = self._bloom.look(keys)
        before = batch.look_up(self._sessions, keys, found)
        self._check_known(specs, spec_rows, len(pairs), found)
        fresh = [row for row, known in enumerate(found) if not known]
        flags = batch.column(before, self._session.size, self._session.offsetof("flags"))
        live = [row for row in spec_rows if flags[row] & self._established]
        self._check_room(len(fresh), len(specs) - len(live))

        taken = _Taken()
        entries = bytearray(before)
        written = False
        try:
            batch.set_tallies(entries, fresh, self._new_tallies(len(fresh), taken))
            columns.pack(entries)
            for shape, members in groups:
                self._open_flows(shape, members, sessions.flow_base, taken)
            sessions.pack(entries, self._policy)
            new_keys = b"".join([keys[row * PAIR : row * PAIR + PAIR] for row in fresh])
            self._let_through(new_keys)
            written = True
            self._sessions.update_packed(keys, entries, len(rows))
        except BaseException:
            if written:
                self._take_back(keys, before, found)
            taken.give_back(retire=written)
            raise
        self._count += len(fresh)
        self._live += len(specs)
        self._retire_many(before, live)

    def delete_many(self, pairs: Sequence[tuple[CellID, CellID]]) -> int:
        """Forgets many peers with a few system calls, their live sessions included.

        Args:
            pairs: (remote, local); those that are not provisioned are passed over.

        Returns:
            How many were provisioned.
        """
        keys = b"".join({pair(remote, local): None for remote, local in pairs})
        found = self._bloom.look(keys)
        before = batch.look_up(self._sessions, keys, found)
        rows = [row for row in range(len(found)) if found[row]]
        self._sessions.delete_packed(
            b"".join([keys[row * PAIR : row * PAIR + PAIR] for row in rows])
        )
        flags, tallies = (
            batch.column(before, self._session.size, self._session.offsetof(name))
            for name in ("flags", "tally")
        )
        self._retire_many(before, [row for row in rows if flags[row] & self._established])
        own = [(tallies[row], 1) for row in rows if tallies[row] != SHARED_TALLY]
        for run in batch.merged(own):
            self._tallies.retire(*run)
        self._left(len(rows))
        return len(rows)

    def compare_many(self, pairs: Sequence[PairSpec]) -> bytes:
        """Compares entries with what they should be: keys of handshakes, and policy.

        Returns:
            A byte a pair: 0 = as it should be, else enum an_difference.
        """
        columns = PairColumns(pairs, batch.keys_of(pairs), self._bits)
        found = bytearray(b"\1" * len(pairs))
        return columns.compare(batch.look_up(self._sessions, columns.keys, found), found)

    def key_batches(self) -> Iterator[_Keys]:
        """Yields all pairs, 32 bytes each, in batches; in no order."""
        for keys, _, _ in self._sessions.batches():
            yield [keys[at : at + PAIR] for at in range(0, len(keys), PAIR)]

    def live_many(self, pairs: Sequence[tuple[CellID, CellID, int]]) -> bytes:
        """Which pairs (remote, local, session id) have that live session: a byte each, 0 = not."""
        keys = b"".join([remote.raw + local.raw for remote, local, _ in pairs])
        found = bytearray(b"\1" * len(pairs))
        entries = batch.look_up(self._sessions, keys, found)
        return batch.live_with(entries, found, [ident for _, _, ident in pairs])

    def rekey(
        self, remote: CellID, local: CellID, rx_header_key: bytes, alternate: bytes | None = None
    ) -> None:
        """Replaces a live session's header keys; its flows go on.

        Args:
            remote: the cell that sends.
            local: the cell of this host.
            rx_header_key: 16 bytes, of the current epoch.
            alternate: of the neighbouring epoch, in its grace window; None = there is none.

        Raises:
            InvalidArgument: a key is not 16 bytes.
            NotFound: the pair has no live session.
        """
        old = self._record(remote, local)
        if not old.flags & self._established:
            raise NotFound(f"{remote} has no live session with {local}")
        changes: dict[str, Any] = {
            "current": pair_state(rx_header_key, remote, local),
            "alternate": _NO_STATE,
            "flags": old.flags & ~self._alternate,
        }
        if alternate is not None:
            changes["alternate"] = pair_state(alternate, remote, local)
            changes["flags"] = old.flags | self._alternate
        self._sessions.update(pair(remote, local), old.replace(**changes).pack(), EXIST)

    def uninstall(self, remote: CellID, local: CellID) -> None:
        """Ends a live session; the peer stays provisioned. Nothing happens where none is live.

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        ended = old.replace(
            current=_NO_STATE,
            alternate=_NO_STATE,
            departing=_NO_STATE,
            flags=old.flags & self._policy,
            **dict.fromkeys(_SESSION_ALONE, 0),
        )
        self._sessions.update(pair(remote, local), ended.pack(), EXIST)
        self._retire(old)

    def delete(self, remote: CellID, local: CellID) -> None:
        """Forgets a peer, its live session included.

        Raises:
            NotFound: the pair is not provisioned.
        """
        old = self._record(remote, local)
        self._sessions.delete(pair(remote, local))
        self._retire(old)
        if old.tally != SHARED_TALLY:
            self._tallies.retire(old.tally, 1)
        self._left(1)

    def _left(self, count: int) -> None:
        if not count:
            return
        self._count -= count
        self._has_left = True
        if self._count <= REBUILD_AT_ONCE and self._bloom.is_settled:
            self.tidy()

    def tidy(self) -> bool:
        """Rebuilds the bloom filter, where pairs have left since. Returns whether it did.

        Until then those pairs' frames are told from known ones by the exact table alone.
        """
        if not self._has_left:
            return False
        self._rebuild_bloom()
        return True

    def get(self, remote: CellID, local: CellID) -> SessionEntry:
        """Returns an entry.

        Raises:
            NotFound: the pair is not provisioned.
        """
        return self._entry(pair(remote, local), self._record(remote, local))

    def list(self) -> list[SessionEntry]:
        """Returns all entries, in no order."""
        return [
            self._entry(key, self._session.unpack(value)) for key, value in self._sessions.items()
        ]

    def _create(self, key: bytes, value: bytes) -> None:
        """Adds an entry: to the filter first, so that no frame finds it there and not here."""
        self._bloom.add(key)
        self._sessions.update(key, value, NOEXIST)
        self._count += 1
        if self._bloom.is_crowded:
            self._rebuild_bloom()

    def _rebuild_bloom(self) -> None:
        self._bloom.rebuild(self._keys())
        self._has_left = False

    def _keys(self) -> bytes:
        return b"".join([keys for keys, _, _ in self._sessions.batches()])

    def _let_through(self, new_keys: bytes) -> None:
        """Pairs that are about to be added; a filter that is full makes way for a larger one."""
        if self._bloom.fits(len(new_keys) // PAIR):
            self._bloom.add(new_keys)
        else:
            self._bloom.rebuild(self._keys() + new_keys)
            self._has_left = False

    def _check_room(self, fresh: int, live: int) -> None:
        if self._count + fresh > self._sessions.max_entries:
            raise ResourceExhausted(
                f"map sessions is full: it holds {self._sessions.max_entries} entries"
            )
        if self._live + live > self._live_max:
            raise ResourceExhausted(
                f"{self._live} sessions are live, no more than {self._live_max} may be, and "
                f"{live} more are asked for. Use a larger profile"
            )

    def _check_known(
        self, specs: Sequence[SessionSpec], rows: array[int], provisioned: int, found: bytearray
    ) -> None:
        for at, row in enumerate(rows):
            if row >= provisioned and not found[row]:
                raise NotFound(
                    f"sessions[{at}]: {specs[at].local} does not know {specs[at].remote}: "
                    "provision the pair first"
                )

    def _session_columns(
        self,
        specs: Sequence[SessionSpec],
        keys: Sequence[bytes],
        rows: array[int],
        flow_counts: array[int],
    ) -> SessionColumns:
        try:
            if specs and not (
                min(map(_SKEW_LIMIT, specs)) >= 0
                and max(map(_SKEW_LIMIT, specs)) <= _MAX_SKEW_MS * MS
            ):
                raise OverflowError("skew_limit")
            return SessionColumns(specs, keys, rows, flow_counts)
        except OverflowError:
            # Whose number it was, one by one.
            for at, spec in enumerate(specs):
                with _named(f"sessions[{at}]"):
                    self._checked(spec)
                    self._session.pack(session_id=spec.session_id, clock_offset=spec.clock_offset)
            raise

    def _shapes(self, specs: Sequence[SessionSpec]) -> tuple[array[int], _Groups]:
        """Sorts sessions by what their flows are, and checks each kind.

        Returns:
            How many flows each one has, and for each shape which sessions have it.
        """
        # The same tuple of flows is met by its identity; another that is equal, by its value.
        alike: dict[tuple[int, int], _Slots] = {}
        for at, spec in enumerate(specs):
            key = id(spec.flows), spec.grant_shift
            members = alike.get(key)
            if members is None:
                alike[key] = [at]
            else:
                members.append(at)
        groups: dict[tuple[tuple[FlowSpec, ...], int], _Slots] = {}
        for members in alike.values():
            spec = specs[members[0]]
            groups.setdefault((spec.flows, spec.grant_shift), []).extend(members)
        counts = array("H", bytes(2 * len(specs)))
        shaped = []
        for members in groups.values():
            with _named(f"sessions[{members[0]}]"):
                shape = self._shape(specs[members[0]])
            for at in members:
                counts[at] = shape.flow_count
            shaped.append((shape, members))
        return counts, shaped

    def _shape(self, spec: SessionSpec) -> Shape:
        flows = self._checked(spec)
        lines, rings = [], []
        for number in range(max(flows) + 1):
            flow = flows.get(number)
            chunks = 0 if flow is None else self._ring_chunks(flow.window_len)
            rings.append(chunks)
            values = {} if flow is None else _flow_values(flow, spec.grant_shift, 0, chunks)
            lines.append(self._flow.pack(**values))
        return Shape(b"".join(lines), tuple(rings))

    def _open_flows(
        self, shape: Shape, members: Sequence[int], flow_base: array[int], taken: _Taken
    ) -> None:
        """Writes the flows and replay rings of sessions that are alike, and says where they are."""
        count, length = len(members), shape.flow_count
        runs = taken.allocate(self._slots, count, length)
        for member, base in zip(members, batch.firsts(runs, length), strict=True):
            flow_base[member] = base
        bases = array("I")
        for chunks in shape.rings:
            rings = taken.allocate(self._chunks, count, chunks) if chunks else []
            for start, number in rings:
                batch.clear_rings(self._replay_map, *self._empty_chunks, start, number, chunks)
            bases.extend(batch.firsts(rings, chunks) if chunks else array("I", bytes(4 * count)))
        lines = shape.flow_lines(bases.tobytes(), count)
        keys = b"".join([batch.slots_between(at, at + n * length) for at, n in runs])
        self._flow_map.update_packed(keys, lines, count * length)

    def _take_back(self, keys: bytes, before: bytearray, found: bytearray) -> None:
        """Puts the entries of a batch back as they were."""
        size = self._session.size
        old = [row for row in range(len(found)) if found[row]]
        new = [row for row in range(len(found)) if not found[row]]
        self._sessions.delete_packed(b"".join([keys[at * PAIR : (at + 1) * PAIR] for at in new]))
        self._sessions.update_packed(
            b"".join([keys[at * PAIR : (at + 1) * PAIR] for at in old]),
            b"".join([before[at * size : (at + 1) * size] for at in old]),
            len(old),
        )
        self._has_left = True

    def _retire_many(self, entries: bytearray, rows: Sequence[int]) -> None:
        """As _retire(), for some entries that lie side by side; all of them were live."""
        bases = batch.column(entries, self._session.size, self._session.offsetof("flow_base"))
        at = self._session.offsetof("flow_count")
        counts = memoryview(entries).cast("H")[at // 2 :: self._session.size // 2]
        slots = list(batch.merged([(bases[row], counts[row]) for row in rows]))
        for run in batch.merged(self._rings(slots)):
            self._chunks.retire(*run)
        for start, count in slots:
            for slot in range(start, start + count):
                self._flows.shut(slot)
            self._slots.retire(start, count)
        self._live -= len(rows)

    def _new_tallies(self, count: int, taken: _Taken) -> _Slots:
        """Slots to count in, their counts at zero; the shared one where there are no others."""
        own: _Slots = []
        try:
            own += batch.firsts(taken.allocate(self._tallies, count, 1), 1)
        except ResourceExhausted:
            with contextlib.suppress(ResourceExhausted):
                while True:
                    own += batch.firsts(taken.allocate(self._tallies, 1, 1), 1)
        self._tally_table.clear(own)
        return own + [SHARED_TALLY] * (count - len(own))

    def _new_tally(self) -> int:
        """A slot to count in, its counts at zero; the shared one where there is no other."""
        try:
            slot = self._tallies.allocate(1)
        except ResourceExhausted:
            return SHARED_TALLY
        self._tally_table.clear([slot])
        return slot

    def _checked(self, spec: SessionSpec) -> dict[int, FlowSpec]:
        flows = {flow.flow: flow for flow in spec.flows}
        if len(flows) != len(spec.flows):
            raise InvalidArgument("flows", "a flow is given twice")
        flows.setdefault(CONTROL_FLOW, FlowSpec(CONTROL_FLOW))
        if not 0 <= spec.skew_limit <= _MAX_SKEW_MS * MS:
            raise InvalidArgument("skew_limit", f"must be from 0 to {_MAX_SKEW_MS} ms")
        if not 0 <= spec.payload_max <= _MAX_PAYLOAD:
            raise InvalidArgument("payload_max", f"must be from 0 to {_MAX_PAYLOAD} bytes")
        if not 0 <= spec.grant_shift <= _MAX_GRANT_SHIFT:
            raise InvalidArgument("grant_shift", f"must be from 0 to {_MAX_GRANT_SHIFT}")
        for flow in flows.values():
            if not 0 <= flow.flow <= _MAX_FLOW:
                raise InvalidArgument("flow", f"must be from 0 to {_MAX_FLOW}")
            if (
                not 0
                <= min(flow.rx_window, flow.tx_window)
                <= max(flow.rx_window, flow.tx_window)
                <= _MAX_WINDOW
            ):
                raise InvalidArgument("window", "must be from 0 to 2**32 - 1 blocks")
            if not 1 <= flow.window_len <= self._max_replay:
                raise InvalidArgument("replay_len", f"must be from 1 to {self._max_replay}")
        return flows

    @cached_property
    def _max_replay(self) -> int:
        # ASSENT_REPLAY_MAX is a macro, and BTF has no macros: it is four chunks' worth.
        return 4 * self._chunk_numbers

    @cached_property
    def _empty_chunks(self) -> tuple[bytes, bytes]:
        """A ring's first chunk, and any other one.

        Numbers start at 1. Number 0 counts as seen: generation 0, bit 0 of the first word.
        """
        first = self._chunk.pack(word=(1, *[0] * (self._chunk.size // 8 - 1)))
        return first, bytes(self._chunk.size)

    def _ring_chunks(self, replay_len: int) -> int:
        """Chunks of a ring that is long enough that no word inside the window has been reused."""
        needed = -(-(replay_len + 31) // self._chunk_numbers)
        return 1 << (needed - 1).bit_length()

    def _clear_rings(self, rings: _Runs) -> None:
        first, clear = self._empty_chunks
        keys, values = [], []
        for base, count in rings:
            keys += [index(base + i) for i in range(count)]
            values += [first, *[clear] * (count - 1)]
        self._replay_map.update_batch(keys, values)

    def _retire(self, old: Record) -> None:
        if not old.flags & self._established:
            return
        self._live -= 1
        for ring in self._rings([(old.flow_base, old.flow_count)]):
            self._chunks.retire(*ring)
        for slot in range(old.flow_base, old.flow_base + old.flow_count):
            self._flows.shut(slot)
        self._slots.retire(old.flow_base, old.flow_count)

    def _rings(self, slots: _Runs) -> Iterator[tuple[int, int]]:
        """Yields the runs of replay chunks that the flows in these runs of slots own."""
        size = self._flow.size
        base, length, mask = (
            self._flow.offsetof(name) for name in ("replay_base", "replay_len", "replay_mask")
        )
        for start, count in slots:
            lines = self._flows.lines(start, count)
            bases = batch.column(lines, size, base)
            lengths = memoryview(lines).cast("H")[length // 2 :: size // 2].tolist()
            masks = lines[mask::size]
            for first, window, chunks in zip(bases, lengths, masks, strict=True):
                if window:
                    yield first, chunks + 1

    def _policy_values(self, spec: PairSpec) -> dict[str, int]:
        """What an entry says of a pair's policy; its keys are not looked at."""
        limits = spec.limits or NO_LIMITS
        return {"flags": self._bits.of(spec), **_limit_values(limits)}

    def _record(self, remote: CellID, local: CellID) -> Record:
        found = self._sessions.lookup(pair(remote, local))
        if found is None:
            raise NotFound(f"{local} does not know {remote}: provision the pair first")
        return self._session.unpack(found)

    def _entry(self, key: bytes, record: Record) -> SessionEntry:
        half = len(key) // 2
        policy = self._bits.named(record.flags)
        return SessionEntry(
            remote=CellID(key[:half]),
            local=CellID(key[half:]),
            established=bool(record.flags & self._established),
            alternate=bool(record.flags & self._alternate),
            covenanted=policy["covenanted"],
            quarantined=policy["quarantined"],
            observed=policy["observed"],
            bare=policy["bare"],
            control=policy["control"],
            leased=policy["leased"],
            limits=_limits_of(record) if policy["terms"] else None,
            session_id=record.session_id,
            clock_offset=record.clock_offset,
            skew_limit=record.skew_limit * MS,
            payload_max=record.payload_max,
            flow_base=record.flow_base,
            flow_count=record.flow_count,
            tally=record.tally,
            handshake_newest=record.handshake_newest,
            data_due=record.data_due,
        )


class _Taken:
    """What a batch has allocated, until it is known that it stays."""

    def __init__(self) -> None:
        self._runs: list[tuple[RunAllocator, int, int]] = []

    def allocate(self, source: RunAllocator, count: int, length: int) -> _Runs:
        runs = source.allocate_many(count, length)
        self._runs += [(source, start, number * length) for start, number in runs]
        return runs

    def give_back(self, *, retire: bool) -> None:
        """Takes everything back; `retire`: the dataplane may have seen it."""
        for source, start, length in self._runs:
            (source.retire if retire else source.release)(start, length)
        self._runs.clear()


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Says whose field is wrong."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}.{error.field}", error.problem) from None


def _departing(key: bytes | None, remote: CellID, local: CellID) -> bytes:
    """State of the tags of what we send; zeros where nothing is sent."""
    return _NO_STATE if key is None else pair_state(key, local, remote)


def _flow_values(flow: FlowSpec, grant_shift: int, base: int, chunks: int) -> dict[str, int]:
    return {
        "rx_granted": flow.rx_window,
        "tx_granted": flow.tx_window,
        "rx_window": flow.rx_window,
        "tx_window": flow.tx_window,
        "replay_base": base,
        "replay_len": flow.window_len,
        "replay_mask": chunks - 1,
        "grant_shift": grant_shift,
    }


def _limit_values(limits: TermLimits) -> dict[str, int]:
    return {
        "data_interval": limits.interval_ns,
        "data_burst": limits.burst_ns,
        "payload_limit": limits.payload_limit,
        "open_from": limits.open_from,
        "open_until": limits.open_until,
    }


def _limits_of(record: Record) -> TermLimits:
    return TermLimits(
        interval_ns=record.data_interval,
        burst_ns=record.data_burst,
        payload_limit=record.payload_limit,
        open_from=record.open_from,
        open_until=record.open_until,
    )
