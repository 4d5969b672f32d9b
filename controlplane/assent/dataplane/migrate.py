# SPDX-License-Identifier: Apache-2.0
"""Carries what a gate's maps hold over to maps of another layout or size, while frames arrive.

Maps of the same layout and size are kept, and nothing is copied. Of the others:

    fill()       into new maps that nobody reads yet, while the old program is at work
    (the new program takes the old one's place in every attachment)
    settle()     what the old program wrote since then; it runs no more
    (the new instance becomes the one that is opened)
    reopen()     lets through what has been shut meanwhile

Nothing may be admitted twice. So from the moment that the new program is at work to reopen(), it
refuses every frame that might be one which the old program admitted after fill():

- where flows, replay windows or sockets are made anew: all, as of an unknown destination;
- where sessions are: handshake frames, frames without a tag, and frames of observed sessions on
  flows that are not open, as replays or by their rate. Data goes on.

An endpoint holds its flow's line by mmap, and goes on writing the old one. So a flow that one had
open is left unfinished (`tx_pending`), as by an endpoint that crashed: the session must be renewed
first, and no number that it may have used since is ever used again. The old line is shut, which the
endpoint sees.

This module knows maps and layouts; pins and attachments are gate.py's.
"""

from __future__ import annotations

import errno
import mmap
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Any, Final

from assent.dataplane.btf import Btf, Layout
from assent.dataplane.convert import Converter
from assent.dataplane.libbpf import BpfError, Map
from assent.dataplane.tables.bloom import BloomFilter
from assent.dataplane.tables.config import ConfigTable, GateConfig
from assent.dataplane.tables.locals import LocalTable
from assent.dataplane.tables.sessions import GRACE_NS, SHARED_TALLY
from assent.dataplane.tables.units import BYTE_ORDER, index, number
from assent.errors import FailedPrecondition, ResourceExhausted

# enum bpf_map_type
HASH, ARRAY, PERCPU_ARRAY, LRU_HASH, DEVMAP, XSKMAP, RINGBUF = 1, 2, 6, 9, 14, 17, 27
_MMAPABLE: Final = 0x400
# Those that the creator chooses; the kernel adds some of its own.
_CHOSEN_FLAGS: Final = _MMAPABLE | 0x1
_ESSENTIAL: Final = frozenset({"config", "locals", "sessions", "flows", "replay"})
"""Without these there has never been a gate: one that lacks them was damaged."""
_SHUT_FOR: Final = frozenset({"flows", "replay", "sockets"})
# Of these, only what sessions own counts; the rest is left over from sessions that are gone.
_OWNED: Final = ("flows", "replay", "tallies")
_COUNTED: Final = ("counters", "tallies")
# Words of a session under which no handshake, bare or observed frame is admitted.
_SHUT_WORDS: Final = {
    "handshake_newest": (1 << 64) - 1, "observed_newest": (1 << 64) - 1, "bare_due": 1 << 63,
}  # fmt: skip
# Members of a counter that are points in time, not counts.
_TIMES: Final = frozenset({"next_event"})
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {"config": asdict(GateConfig())}
_BATCH: Final = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """What a map is, whoever made it. `key` and `value` are None where nothing describes them."""

    type: int
    max_entries: int
    flags: int
    key: Layout | None
    value: Layout | None

    @property
    def described(self) -> bool:
        """Whether both layouts are known."""
        return self.key is not None and self.value is not None


class Fate(StrEnum):
    """What becomes of a map."""

    KEPT = "kept"
    CREATED = "created"
    """The old gate had none of that name."""
    CARRIED = "carried"
    """Made anew, with what it held."""
    RENEWED = "renewed"
    """Made anew, and empty: what it held was for the moment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each of the new gate's maps.

    Attributes:
        fates: by name.
        shut: the new gate begins with all frames of the fabric refused.
    """

    fates: Mapping[str, Fate]
    shut: bool

    @property
    def is_needed(self) -> bool:
        """Whether any map is to be made."""
        return any(fate is not Fate.KEPT for fate in self.fates.values())

    def names(self, *fates: Fate) -> tuple[str, ...]:
        """Maps of these fates."""
        return tuple(name for name, fate in self.fates.items() if fate in fates)


def shapes_of_object(btf: Btf, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """What an object declares; `sizes` stand in place of its own numbers of entries."""
    shapes = {}
    for name in btf.map_names:
        said = btf.map_declaration(name)
        count = sizes.get(name, said.max_entries)
        shapes[name] = Shape(said.type, count, said.flags & _CHOSEN_FLAGS, said.key, said.value)
    return shapes


def shapes_of_maps(maps: Mapping[str, Map]) -> dict[str, Shape]:
    """What maps are, by what the kernel keeps of them."""
    known: dict[int, Btf] = {}
    shapes = {}
    for name, table in maps.items():
        key = value = None
        if table.btf_id:
            btf = known.setdefault(table.btf_id, Btf.from_kernel(table.btf_id))
            if table.btf_key_type_id and table.btf_value_type_id:
                key = btf.shape_of(table.btf_key_type_id)
                value = btf.shape_of(table.btf_value_type_id)
        flags = table.flags & _CHOSEN_FLAGS
        shapes[name] = Shape(table.type, table.max_entries, flags, key, value)
    return shapes


def plan(instance: str, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Plan:
    """Decides what becomes of each map.

    Raises:
        FailedPrecondition: the old gate is not whole, or a map cannot be carried over.
    """
    fates = {name: _fate(instance, name, old.get(name), shape) for name, shape in new.items()}
    made = {name for name, fate in fates.items() if fate is not Fate.KEPT}
    shut = bool(made & _SHUT_FOR)
    if (shut or "bloom" in made) and fates["config"] is Fate.KEPT:
        # Its own, for it says other things than the old one meanwhile.
        fates["config"] = Fate.CARRIED
    return Plan(fates, shut)


def _fate(instance: str, name: str, old: Shape | None, new: Shape) -> Fate:
    if old is None:
        if name in _ESSENTIAL:
            raise FailedPrecondition(
                f"gate {instance} is not whole: it has no map {name}. Destroy it, and open it again"
            )
        return Fate.CREATED
    if _is_same(old, new):
        return Fate.KEPT
    if new.type in (RINGBUF, XSKMAP, LRU_HASH):
        return Fate.RENEWED
    carriable = old.type == new.type and new.type in (HASH, ARRAY, PERCPU_ARRAY, DEVMAP)
    if not carriable or (name == "replay" and old.value != new.value):
        raise FailedPrecondition(
            f"gate {instance}: its map {name} has become something of another kind. Destroy it "
            "(its sessions must be set up again), then open it"
        )
    return Fate.CARRIED


def _is_same(old: Shape, new: Shape) -> bool:
    outside = (old.type, old.max_entries, old.flags) == (new.type, new.max_entries, new.flags)
    # The kernel keeps no layouts of some kinds of maps, where there is but one possible.
    return outside and (not old.described or (old.key, old.value) == (new.key, new.value))


@dataclass(slots=True)
class _Owned:
    """Entries of arrays that sessions own, and how many sessions are live."""

    live: int = 0
    must_shut: bool = False
    slots: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _OWNED})


class Migration:
    """One gate's, from old maps to new ones. See the module for the order of calls."""

    def __init__(
        self,
        btf: Btf,
        old: Mapping[str, Map],
        new: Mapping[str, Shape],
        plan: Plan,
        shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        """Reads the layouts, and nothing of the maps.

        Args:
            btf: of the new gate.
            old: maps of the old gate, by name.
            new: what the new maps are, or will be.
            plan: what is to become of them.
            shapes: of the old maps, where the caller has asked already.

        Raises:
            FailedPrecondition: a member has become something of another kind.
        """
        self.plan = plan
        self._old = old
        self._shapes = new
        shapes = shapes or shapes_of_maps(old)
        self._new: Mapping[str, Map] = {}
        self._seen: dict[str, dict[bytes, Any]] = {}
        flags = btf.enum("assent_session_flag")
        self._established = flags["ASSENT_SESSION_ESTABLISHED"]
        self._risky = flags["ASSENT_SESSION_OBSERVED"] | flags["ASSENT_SESSION_BARE"]
        self._old_shapes = shapes
        self._keys: dict[str, Converter] = {}
        self._values: dict[str, Converter] = {}
        for name in {*plan.names(Fate.CARRIED), *_ESSENTIAL}:
            before, after = shapes[name], new[name]
            if before.key and before.value and after.key and after.value:
                owner = f"map {name}"
                self._keys[name] = Converter(owner, before.key, after.key)
                self._values[name] = Converter(
                    owner, before.value, after.value, _DEFAULTS.get(name)
                )

    @cached_property
    def shut(self) -> bool:
        """Whether the new gate begins with all frames refused."""
        # Rates do not hold observed sessions back, and bare frames know no rising timestamp.
        return self.plan.shut or (self._is_made("sessions") and self._owned.must_shut)

    # Before there are new maps

    def check(self, connections: int) -> None:
        """Makes sure that all that the maps hold has room in the new ones.

        Args:
            connections: sessions that may be live.

        Raises:
            ResourceExhausted: it has not; the message names the map.
            FailedPrecondition: a value does not fit its member's new form.
        """
        if self._owned.live > connections:
            raise ResourceExhausted(
                f"map sessions: {self._owned.live} sessions are live, and the profile has room for "
                f"{connections}. Use a larger one, or end sessions first"
            )
        for name in self.plan.names(Fate.CARRIED):
            room = self._shapes[name].max_entries
            if name == "bloom":
                continue
            if self._shapes[name].type == HASH:
                self._check_room(name, sum(1 for _ in self._old[name].items()), room, "entries")
            elif name in _OWNED:
                self._check_room(name, max(self._owned.slots[name], default=-1) + 1, room, "slots")
            else:
                used = max((number(key) for key, _ in self._entries(name)), default=-1) + 1
                self._check_room(name, used, room, "entries")

    @staticmethod
    def _check_room(name: str, used: int, room: int, what: str) -> None:
        if used > room:
            raise ResourceExhausted(
                f"map {name}: {used} {what} are in use, and the new one has room for {room}. Use a "
                "larger profile, or end sessions first"
            )

    # From here on with new maps

    def bind(self, new: Mapping[str, Map]) -> None:
        """Names the new gate's maps, those that are kept among them."""
        self._new = new

    def fill(self) -> None:
        """Copies all that the old maps hold into the new ones, and shuts what must be shut.

        Raises:
            FailedPrecondition: a value does not fit its member's new form.
            ResourceExhausted: something came that there is no room for.
        """
        for name in self.plan.names(Fate.CARRIED):
            if name == "bloom":
                continue
            if name == "sessions":
                self._put(name, self._sessions(_SHUT_WORDS))
            elif self._old[name].per_cpu:
                self._fill_per_cpu(name)
            else:
                entries = list(self._entries(name))
                self._seen[name] = dict(entries) if name in ("flows", "replay") else {}
                self._put(name, self._converted(name, entries))
        config = ConfigTable(self._new["config"], self._config_layout)
        if self._is_made("bloom"):
            if self._is_made("config"):
                config.change(bloom=0)
            with BloomFilter(self._new["bloom"], config) as bloom:
                bloom.rebuild(b"".join(key for key, _ in self._new_sessions()))
        if self.shut:
            config.change(home_count=0)

    def settle(self) -> None:
        """Copies what the old program wrote since fill(). It must not be at work any more."""
        for name in ("flows", "replay"):
            if not self._is_made(name):
                continue
            seen = self._seen[name]
            moved = [(key, value) for key, value in self._entries(name) if seen.get(key) != value]
            self._put(name, self._converted(name, moved))
        if self._is_made("flows"):
            self._leave_unfinished()
        elif self._is_made("sockets"):
            self._shut_lines(self._new["flows"], self._layout("flows"), ("rx_open",))

    def reopen(self) -> None:
        """Lets through what has been shut. May be called again, by whoever finishes another's work.

        The old gate refuses everything from now on, where it should still be at work: on an
        interface that cannot be reached.
        """
        if self._is_made("sessions"):
            self._put("sessions", self._sessions({}))
        config = ConfigTable(self._new["config"], self._config_layout)
        LocalTable(self._new["locals"], self._layout("locals"), config).settle()
        if self._is_made("flows"):
            before = self._old_layout("flows")
            self._shut_lines(self._old["flows"], before, ("replay_len", "rx_open"))
        if self.plan.shut and self._is_made("config"):
            before = self._old_layout("config")
            if _has(before, "home_count"):
                ConfigTable(self._old["config"], before).change(home_count=0)

    def add_counts(self) -> None:
        """Adds what the old program counted since fill()."""
        for name in _COUNTED:
            if self._is_made(name) and name in self._old:
                self._add_counts(name)

    # Inside

    @property
    def _config_layout(self) -> Layout:
        return self._layout("config")

    def _layout(self, name: str) -> Layout:
        return _present(name, self._shapes[name].value)

    def _old_layout(self, name: str) -> Layout:
        return _present(name, self._old_shapes[name].value)

    def _is_made(self, name: str) -> bool:
        return self.plan.fates.get(name, Fate.KEPT) is not Fate.KEPT

    def _converted(
        self, name: str, entries: Iterable[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        if name not in self._values:  # plain, and of a size: the kernel would have refused others
            yield from entries
            return
        convert_key, convert = self._keys[name], self._values[name]
        for key, value in entries:
            yield convert_key(key), convert(value)

    def _put(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        table = self._new[name]
        if table.type == DEVMAP:
            for key, value in entries:
                try:
                    table.update(key, value)
                except BpfError as error:  # an interface of another namespace: its port is empty
                    if error.errno != errno.EINVAL:
                        raise
            return
        rest = iter(entries)
        while batch := list(islice(rest, _BATCH)):
            table.update_batch([key for key, _ in batch], [value for _, value in batch])

    def _entries(self, name: str) -> Iterator[tuple[bytes, Any]]:
        """Entries of an old map that are in use; of a per-CPU map, with each CPU's value."""
        table = self._old[name]
        if name in _OWNED:
            yield from _at(table, self._owned.slots[name])
        elif table.type == DEVMAP:
            keys = map(index, range(table.max_entries))
            yield from ((key, value) for key in keys if (value := table.lookup(key)) is not None)
        elif table.per_cpu:
            yield from ((key, cpus) for key, cpus in table.items_per_cpu() if any(map(any, cpus)))
        elif table.type == ARRAY:
            yield from ((key, value) for key, value in table.items() if any(value))
        else:
            yield from table.items()

    def _sessions(self, words: Mapping[str, int]) -> Iterator[tuple[bytes, bytes]]:
        """The old sessions in their new layout, with other values in some of the gate's words."""
        layout = self._layout("sessions")
        spans = [
            (layout.offsetof(name), word.to_bytes(8, BYTE_ORDER))
            for name, word in words.items()
            if _has(layout, name)
        ]
        for key, value in self._converted("sessions", self._old["sessions"].items()):
            changed = bytearray(value)
            for at, word in spans:
                changed[at : at + 8] = word
            yield key, bytes(changed)

    def _new_sessions(self) -> Iterator[tuple[bytes, bytes]]:
        return self._converted("sessions", self._old["sessions"].items())

    @cached_property
    def _owned(self) -> _Owned:
        """What sessions own. It does not change meanwhile: there is one control plane, this one."""
        owned = _Owned()
        session, line = self._layout("sessions"), self._layout("flows")
        flags, base, count, tally = (
            _reader(session, name) for name in ("flags", "flow_base", "flow_count", "tally")
        )
        slots: list[int] = []
        tallies = {SHARED_TALLY}
        for _, value in self._new_sessions():
            tallies.add(tally(value))
            owned.must_shut |= flags(value) & self._risky == self._risky
            if flags(value) & self._established:
                owned.live += 1
                slots += range(base(value), base(value) + count(value))
        owned.slots["flows"] = slots
        if "tallies" in self._old:
            owned.slots["tallies"] = sorted(tallies)
        chunk, mask, length = (
            _reader(line, name) for name in ("replay_base", "replay_mask", "replay_len")
        )
        for _, value in self._converted("flows", _at(self._old["flows"], slots)):
            if length(value):
                owned.slots["replay"] += range(chunk(value), chunk(value) + mask(value) + 1)
        return owned

    def _fill_per_cpu(self, name: str) -> None:
        convert = self._values[name]
        self._seen[name] = dict(self._entries(name))
        for key, cpus in self._seen[name].items():
            self._new[name].update_per_cpu(key, [convert(value) for value in cpus])

    def _add_counts(self, name: str) -> None:
        convert, layout, table = self._values[name], self._layout(name), self._new[name]
        words = struct.Struct(f"={layout.size // 8}Q")  # a counter is nothing but words
        times = {layout.offsetof(member) // 8 for member in _TIMES if _has(layout, member)}
        none = [bytes(self._old[name].value_size)]
        for key, cpus in self._entries(name):
            seen = self._seen[name].get(key, none * len(cpus))
            if seen == cpus:
                continue
            last = [words.unpack(convert(value)) for value in cpus]
            first = [words.unpack(convert(value)) for value in seen]
            # The gate counts at the same time, so as little as can be lies between these two.
            now = table.lookup_per_cpu(key) or []
            table.update_per_cpu(
                key,
                [
                    words.pack(*_sum_of(words.unpack(value), end, begin, times))
                    for value, end, begin in zip(now, last, first, strict=True)
                ],
            )

    def _leave_unfinished(self) -> None:
        """Takes flows that an endpoint has open away from it: in the new lines it has crashed."""
        layout = self._layout("flows")
        is_open, opened, pending = (
            _reader(layout, "rx_open"), layout.offsetof("rx_open"), layout.offsetof("tx_pending"),
        )  # fmt: skip
        changed = []
        for key, value in self._converted("flows", self._entries("flows")):
            if is_open(value):
                line = bytearray(value)
                line[opened : opened + 2] = bytes(2)
                line[pending : pending + 2] = (1).to_bytes(2, BYTE_ORDER)
                changed.append((key, bytes(line)))
        self._put("flows", changed)

    def _shut_lines(self, table: Map, layout: Layout, members: Iterable[str]) -> None:
        """Zeroes members of the lines that sessions own, each by one store."""
        if not table.flags & _MMAPABLE:
            return
        spans = [(layout.offsetof(name), layout.sizeof(name)) for name in members
                 if _has(layout, name)]  # fmt: skip
        length = -(-table.max_entries * layout.size // mmap.PAGESIZE) * mmap.PAGESIZE
        with mmap.mmap(table.fd, length) as memory:
            for slot in self._owned.slots["flows"]:
                for at, size in spans:
                    start = slot * layout.size + at
                    memory[start : start + size] = bytes(size)


def plan_of(old: Mapping[str, Map], new: Mapping[str, Map]) -> Plan:
    """The plan by which these new maps were made, as far as reopen() asks."""
    fates = {}
    for name, table in new.items():
        if name not in old:
            fates[name] = Fate.CREATED
        elif old[name].id == table.id:
            fates[name] = Fate.KEPT
        else:
            fates[name] = Fate.CARRIED
    made = {name for name, fate in fates.items() if fate is not Fate.KEPT}
    return Plan(fates, bool(made & _SHUT_FOR))


def wait_for_readers() -> None:
    """Returns when no program that was at work at the call is at work any more."""
    from assent._native import lib

    if lib.an_wait_for_readers():  # the kernel does not do that for us, with nohz_full for one
        time.sleep(GRACE_NS / 1e9)


def _at(table: Map, slots: list[int]) -> Iterator[tuple[bytes, Any]]:
    """Entries of an array at some places; of a per-CPU array, with each CPU's value."""
    if 4 * len(slots) > table.max_entries:  # many: all of them in batches is faster
        wanted = set(map(index, slots))
        entries: Iterator[tuple[bytes, Any]] = (
            table.items_per_cpu() if table.per_cpu else table.items()
        )
        yield from ((key, value) for key, value in entries if key in wanted)
        return
    read: Callable[[bytes], Any] = table.lookup_per_cpu if table.per_cpu else table.lookup
    for key in map(index, slots):
        if (value := read(key)) is not None:
            yield key, value


def _has(layout: Layout, name: str) -> bool:
    return any(member.name == name for member in layout.fields)


def _present(name: str, layout: Layout | None) -> Layout:
    if layout is None:
        raise FailedPrecondition(f"the kernel keeps no layout of map {name}: it is none of ours")
    return layout


def _reader(layout: Layout, name: str) -> Callable[[bytes], int]:
    """A function that takes one number out of a value; 0 where the layout has no such member."""
    if not _has(layout, name):
        return lambda value: 0
    start, end = layout.offsetof(name), layout.offsetof(name) + layout.sizeof(name)
    return lambda value: int.from_bytes(value[start:end], BYTE_ORDER)


def _sum_of(
    now: tuple[int, ...], last: tuple[int, ...], first: tuple[int, ...], times: set[int]
) -> Iterator[int]:
    """`now`, and what `last` counts more than `first`; of points in time, the later one."""
    for at, (value, end, begin) in enumerate(zip(now, last, first, strict=True)):
        yield max(value, end) if at in times else (value + end - begin) % (1 << 64)
