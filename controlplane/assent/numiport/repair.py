# SPDX-License-Identifier: Apache-2.0
"""Repair: what a slot left missing is asked for, and given, after the slot (seed 5.3, 10.2).

Sans-IO. Payloads of the repair stream, class P2; all integers are big-endian:

    ask    1  count u8  0 u16  id u32  slot u64  { first u32, index u16, run u16 } * 1 to 32
    give   2  0 u8  index u16  id u32  slot u64  first u32  total u16  0 u16  the shred
    deny   3  count u8  reason u16  id u32  slot u64  { as of ask }

`first` names a group within the slot, `index` a shred of it, `run` how many from there on; `total`
is the group's number of shreds. A shred that is given is no more genuine than one that came in
time: whoever takes it checks it as that.

`Requester` asks one peer at a time for each shred, and the next one after a denial or a timeout.
`Server` answers from what the caller has, fairly between peers, each peer within a credit that
refills continuously; what waits too long is dropped, for by then another has been asked. Both are
bounded in all they keep.
"""

from __future__ import annotations

import enum
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, TypeAlias

from assent.errors import InvalidArgument
from assent.numiport.fec import TOTAL_MAX, GroupKey
from assent.numiport.wire import PACKET_MAX, Fault, NumiportError

SECOND: Final = 1_000_000_000
MS: Final = 1_000_000
RUNS_MAX: Final = 32
ASKED_MAX: Final = 64
"""Shreds that one request may ask for."""
SLOT_LEN: Final = 400 * MS

_ASK, _GIVE, _DENY = 1, 2, 3
_HEAD: Final = struct.Struct(">BBHIQ")
_RUN: Final = struct.Struct(">IHH")
_GROUP: Final = struct.Struct(">IHH")
_KEEP_IDS: Final = 1 << 32

Shred: TypeAlias = tuple[GroupKey, int]
"""A group, and the index of a shred in it."""


class Denial(enum.IntEnum):
    """Why nothing is given."""

    NOT_THERE = 1
    NOT_OVER = 2
    """The slot is not over: until then FEC makes up for what is lost."""
    BUSY = 3


@dataclass(frozen=True, slots=True)
class Run:
    """Shreds of one group, in a row."""

    first: int
    index: int
    run: int


def _check_runs(runs: tuple[Run, ...]) -> None:
    if not 1 <= len(runs) <= RUNS_MAX or sum(run.run for run in runs) > ASKED_MAX:
        raise InvalidArgument("runs", f"needs 1 to {RUNS_MAX}, {ASKED_MAX} shreds at most")
    if any(run.run < 1 or run.index + run.run > TOTAL_MAX for run in runs):
        raise InvalidArgument("runs", f"needs indexes below {TOTAL_MAX}")


def _shreds(slot: int, runs: tuple[Run, ...]) -> list[Shred]:
    return [
        (GroupKey(slot, run.first), index)
        for run in runs
        for index in range(run.index, run.index + run.run)
    ]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Raises:
        InvalidArgument: It asks for nothing, or for more than one request may.
    """

    id: int
    slot: int
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        _check_runs(self.runs)

    @property
    def shreds(self) -> list[Shred]:
        """What it asks for."""
        return _shreds(self.slot, self.runs)


@dataclass(frozen=True, slots=True)
class Give:
    """One shred."""

    id: int
    key: GroupKey
    index: int
    total: int
    shred: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """What of a request is not given, and why.

    Raises:
        InvalidArgument: It denies nothing, or more than a request may ask for.
    """

    id: int
    slot: int
    reason: Denial
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        _check_runs(self.runs)

    @property
    def shreds(self) -> list[Shred]:
        """What is denied."""
        return _shreds(self.slot, self.runs)


Message: TypeAlias = Ask | Give | Deny


def encode(message: Message) -> bytes:
    """The payload of a message."""
    match message:
        case Ask():
            head = _HEAD.pack(_ASK, len(message.runs), 0, message.id, message.slot)
            return head + _packed(message.runs)
        case Deny():
            head = _HEAD.pack(_DENY, len(message.runs), message.reason, message.id, message.slot)
            return head + _packed(message.runs)
        case Give():
            key = message.key
            head = _HEAD.pack(_GIVE, 0, message.index, message.id, key.slot)
            return head + _GROUP.pack(key.first, message.total, 0) + message.shred


def decode(payload: bytes) -> Message:
    """Reads a payload of the repair stream.

    Raises:
        NumiportError: MALFORMED: it is none.
    """
    if len(payload) < _HEAD.size:
        raise NumiportError(Fault.MALFORMED, "a repair message that ends early")
    kind, count, number, ident, slot = _HEAD.unpack_from(payload)
    body = payload[_HEAD.size :]
    if kind == _GIVE and not count and len(body) > _GROUP.size:
        first, total, zero = _GROUP.unpack_from(body)
        if number < total <= TOTAL_MAX and not zero:
            return Give(ident, GroupKey(slot, first), number, total, body[_GROUP.size :])
    if kind in {_ASK, _DENY} and len(body) == count * _RUN.size:
        runs = tuple(Run(*run) for run in _RUN.iter_unpack(body))
        try:
            if kind == _DENY:
                return Deny(ident, slot, Denial(number), runs)
            if not number:
                return Ask(ident, slot, runs)
        except (InvalidArgument, ValueError) as error:
            raise NumiportError(Fault.MALFORMED, "a repair message of no sense") from error
    raise NumiportError(Fault.MALFORMED, "no repair message")


def _packed(runs: tuple[Run, ...]) -> bytes:
    return b"".join(_RUN.pack(run.first, run.index, run.run) for run in runs)


def runs_of(shreds: Iterable[Shred]) -> list[Run]:
    """The fewest runs that name these shreds of one slot."""
    runs: list[Run] = []
    for key, index in sorted(set(shreds)):
        last = runs[-1] if runs else None
        if last and last.first == key.first and last.index + last.run == index:
            runs[-1] = Run(last.first, last.index, last.run + 1)
        else:
            runs.append(Run(key.first, index, 1))
    return runs


@dataclass(frozen=True, slots=True)
class Settings:
    """What repair goes by.

    Attributes:
        timeout: After which another peer is asked, ns; what waits so long is not served any more.
        tries: Peers asked for one shred, until it is given up.
        wanted_most: Shreds that are wanted at once.
        out_most: Shreds that one peer is asked for and has not given.
        rate: Bytes a second that one peer is served,
        burst: and that it may have at once.
        queue_most: Shreds that wait for one peer.
        peers_most: Peers that are served.
        slots_back: Slots that are served, before the present one.
    """

    timeout: int = 100 * MS
    tries: int = 6
    wanted_most: int = 16_384
    out_most: int = 256
    rate: int = 256 * 1024 * SECOND // SLOT_LEN
    burst: int = 256 * 1024
    queue_most: int = 256
    peers_most: int = 1024
    slots_back: int = 512

    def __post_init__(self) -> None:
        """Checks that all are 1 or more, and that any shred can be paid for.

        Raises:
            InvalidArgument: One of them leaves nothing.
        """
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise InvalidArgument(one.name, "needs 1 or more")
        if self.burst < PACKET_MAX:
            raise InvalidArgument("burst", f"needs a packet's {PACKET_MAX} or more")


# -- asking ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Wanted:
    """A shred that is wanted; `asked` is the request that is out, None while it is ready to be."""

    peers: tuple[bytes, ...]
    tries: int = 0
    asked: int | None = None


@dataclass(slots=True)
class _Out:
    peer: bytes
    slot: int
    shreds: set[Shred]
    due: int


@dataclass(slots=True)
class RequesterCounts:
    """What became of what was wanted, since the start."""

    given: int = 0
    unasked: int = 0
    denied: int = 0
    timeouts: int = 0
    given_up: int = 0
    refused: int = 0


class Requester:
    """Asks for what is missing.

    Args:
        settings: What it goes by.
    """

    __slots__ = ("_next_id", "_out", "_out_by_peer", "_ready", "_settings", "_wanted", "counts")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted: dict[Shred, _Wanted] = {}
        self._ready: dict[Shred, None] = {}
        self._out: OrderedDict[int, _Out] = OrderedDict()
        self._out_by_peer: dict[bytes, int] = {}
        self._next_id = 0
        self.counts = RequesterCounts()

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, shreds: Iterable[Shred], peers: Sequence[bytes]) -> int:
        """Wants shreds of a slot that is over.

        Args:
            shreds: What is missing; what is wanted already stays as it is.
            peers: Whom to ask, the best first. Shreds are spread over them.

        Returns:
            How many are wanted that were not; the rest is wanted already, or too much.

        Raises:
            InvalidArgument: There is nobody to ask.
        """
        if not peers:
            raise InvalidArgument("peers", "needs somebody to ask")
        before = len(self._wanted)
        for shred in shreds:
            if shred in self._wanted:
                continue
            if len(self._wanted) >= self._settings.wanted_most:
                self.counts.refused += 1
                continue
            turn = (shred[0].first + shred[1]) // ASKED_MAX % len(peers)
            self._wanted[shred] = _Wanted((*peers[turn:], *peers[:turn]))
            self._ready[shred] = None
        return len(self._wanted) - before

    def poll(self, now: int) -> list[tuple[bytes, Ask]]:
        """What to ask now, and whom; ns."""
        self._time_out(now)
        groups: dict[tuple[bytes, int], list[Shred]] = {}
        for shred in list(self._ready):
            wanted = self._wanted[shred]
            peer = wanted.peers[wanted.tries % len(wanted.peers)]
            if self._out_by_peer.get(peer, 0) >= self._settings.out_most:
                continue
            del self._ready[shred]
            self._out_by_peer[peer] = self._out_by_peer.get(peer, 0) + 1
            groups.setdefault((peer, shred[0].slot), []).append(shred)
        return [
            (peer, self._ask(peer, slot, part, now))
            for (peer, slot), shreds in groups.items()
            for part in _parts(sorted(shreds))
        ]

    def given(self, peer: bytes, message: Give) -> bool:
        """Takes in a shred; whether it was wanted of that peer, and is wanted still."""
        shred = (message.key, message.index)
        out = self._out.get(message.id)
        if out is None or out.peer != peer or shred not in out.shreds:
            self.counts.unasked += 1
            return False
        self.counts.given += 1
        self._settle(message.id, out, shred)
        del self._wanted[shred]
        return True

    def denied(self, peer: bytes, message: Deny) -> None:
        """Takes in a denial: of what it names and was asked for, the next peer is asked."""
        out = self._out.get(message.id)
        denied = out.shreds.intersection(message.shreds) if out and out.peer == peer else ()
        if out is None or not denied:
            self.counts.unasked += 1
            return
        self.counts.denied += 1
        self._give_back(message.id, out, denied)

    def arrived(self, shreds: Iterable[Shred]) -> None:
        """Takes in that shreds are wanted no longer: FEC gave them back, or they came late."""
        for shred in shreds:
            wanted = self._wanted.pop(shred, None)
            self._ready.pop(shred, None)
            if wanted is not None and wanted.asked is not None:
                self._settle(wanted.asked, self._out[wanted.asked], shred)

    def forget_before(self, slot: int) -> None:
        """Wants nothing any more of slots before this one."""
        self.arrived([shred for shred in self._wanted if shred[0].slot < slot])

    def next_deadline(self) -> int | None:
        """When a request will have waited too long, ns; None while none is out."""
        return next((out.due for out in self._out.values()), None)

    def _ask(self, peer: bytes, slot: int, shreds: list[Shred], now: int) -> Ask:
        self._next_id = (self._next_id + 1) % _KEEP_IDS
        for shred in shreds:
            self._wanted[shred].asked = self._next_id
        due = now + self._settings.timeout
        self._out[self._next_id] = _Out(peer, slot, set(shreds), due)
        return Ask(self._next_id, slot, tuple(runs_of(shreds)))

    def _time_out(self, now: int) -> None:
        while self._out:
            ident, out = next(iter(self._out.items()))
            if out.due > now:
                break
            self.counts.timeouts += 1
            self._give_back(ident, out, out.shreds)

    def _give_back(self, ident: int, out: _Out, shreds: Iterable[Shred]) -> None:
        """What a request has not brought is to be asked of the next peer, or given up."""
        for shred in sorted(shreds):
            self._settle(ident, out, shred)
            wanted = self._wanted[shred]
            wanted.asked = None
            wanted.tries += 1
            if wanted.tries >= self._settings.tries:
                del self._wanted[shred]
                self.counts.given_up += 1
            else:
                self._ready[shred] = None

    def _settle(self, ident: int, out: _Out, shred: Shred) -> None:
        out.shreds.discard(shred)
        self._out_by_peer[out.peer] -= 1
        if not self._out_by_peer[out.peer]:
            del self._out_by_peer[out.peer]
        if not out.shreds:
            del self._out[ident]


def _parts(shreds: list[Shred]) -> list[list[Shred]]:
    """Parts that fit a request each."""
    parts: list[list[Shred]] = []
    runs = 0
    before: Shred | None = None
    for shred in shreds:
        joins = before is not None and shred == (before[0], before[1] + 1)
        if not parts or len(parts[-1]) == ASKED_MAX or (runs == RUNS_MAX and not joins):
            parts.append([])
            runs, joins = 0, False
        runs += not joins
        parts[-1].append(shred)
        before = shred
    return parts


# -- giving ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A shred that is to be given."""

    ask: int
    shred: Shred
    cost: int
    expires_at: int


@dataclass(slots=True)
class _Served:
    """A peer: what waits for it, and what it may have. Costs are in billionths of a byte."""

    credit: int
    filled_at: int
    queue: deque[_Waiting] = field(default_factory=deque)


@dataclass(slots=True)
class ServerCounts:
    """What became of the shreds that were asked for, since the start."""

    given: int = 0
    bytes_given: int = 0
    not_there: int = 0
    not_over: int = 0
    busy: int = 0
    expired: int = 0


class Server:
    """Answers what peers ask for.

    Args:
        lookup: The number of shreds of a group, and the bytes of one of them; None = not there.
        settings: What it goes by.
    """

    __slots__ = ("_lookup", "_peers", "_settings", "counts")

    def __init__(
        self, lookup: Callable[[GroupKey, int], tuple[int, bytes] | None], settings: Settings
    ) -> None:
        self._lookup = lookup
        self._settings = settings
        self._peers: OrderedDict[bytes, _Served] = OrderedDict()
        self.counts = ServerCounts()

    def __len__(self) -> int:
        return len(self._peers)

    def asked(self, peer: bytes, message: Ask, slot: int, now: int) -> Deny | None:
        """Takes in a request of an authenticated peer.

        Args:
            peer: Who asks.
            message: For what.
            slot: The present slot.
            now: ns.

        Returns:
            A denial, to be sent at once; what it does not name, `poll` will give.
        """
        shreds = message.shreds
        if message.slot >= slot:
            self.counts.not_over += len(shreds)
            return Deny(message.id, message.slot, Denial.NOT_OVER, message.runs)
        served = self._served(peer, now)
        if served is None or len(served.queue) + len(shreds) > self._settings.queue_most:
            self.counts.busy += len(shreds)
            return Deny(message.id, message.slot, Denial.BUSY, message.runs)
        absent = []
        for shred in shreds:
            found = self._find(shred) if slot - message.slot <= self._settings.slots_back else None
            if found is None:
                absent.append(shred)
                continue
            expires_at = now + self._settings.timeout
            cost = len(found[1]) * SECOND
            served.queue.append(_Waiting(message.id, shred, cost, expires_at))
        self.counts.not_there += len(absent)
        if not absent:
            return None
        return Deny(message.id, message.slot, Denial.NOT_THERE, tuple(runs_of(absent)))

    def poll(self, now: int, most: int = 64) -> list[tuple[bytes, Give]]:
        """What to give now: a shred of each peer in turn, as its credit has it.

        Args:
            now: ns.
            most: Shreds.
        """
        given: list[tuple[bytes, Give]] = []
        turn = deque(peer for peer, served in self._peers.items() if served.queue)
        while turn and len(given) < most:
            peer = turn.popleft()
            answer = self._next(self._peers[peer], now)
            if answer is not None:
                given.append((peer, answer))
                turn.append(peer)
                # Whoever was served last is the last to be served by the next poll.
                self._peers.move_to_end(peer)
        return given

    def next_deadline(self, now: int) -> int | None:
        """When `poll` has something to do, ns; None while nothing waits."""
        heads = [(served, served.queue[0]) for served in self._peers.values() if served.queue]
        return min((self._ready_at(served, head, now) for served, head in heads), default=None)

    def _ready_at(self, served: _Served, head: _Waiting, now: int) -> int:
        lacking = max(0, head.cost - self._credit(served, now))
        return min(now + -(-lacking // self._settings.rate), head.expires_at)

    def _next(self, served: _Served, now: int) -> Give | None:
        """The next shred for a peer; None: nothing waits, or there is no credit for it."""
        while served.queue:
            head = served.queue[0]
            credit = self._credit(served, now)
            if now < head.expires_at and credit < head.cost:
                return None
            served.queue.popleft()
            found = self._find(head.shred)
            if now >= head.expires_at or found is None or len(found[1]) * SECOND > head.cost:
                self.counts.expired += 1
                continue
            served.credit, served.filled_at = credit - head.cost, now
            self.counts.given += 1
            self.counts.bytes_given += len(found[1])
            return Give(head.ask, *head.shred, *found)
        return None

    def _credit(self, served: _Served, now: int) -> int:
        grown = served.credit + max(0, now - served.filled_at) * self._settings.rate
        return min(grown, self._settings.burst * SECOND)

    def _find(self, shred: Shred) -> tuple[int, bytes] | None:
        """What is there of a shred, where a packet can hold it."""
        found = self._lookup(*shred)
        return found if found is not None and 0 < len(found[1]) <= PACKET_MAX else None

    def _served(self, peer: bytes, now: int) -> _Served | None:
        """The books of a peer; None: there is room for none more.

        Books are forgotten only when they say no more than new ones would.
        """
        found = self._peers.get(peer)
        if found is not None:
            return found
        if len(self._peers) >= self._settings.peers_most:
            full = self._settings.burst * SECOND
            idle = (
                one
                for one, served in self._peers.items()
                if not served.queue and self._credit(served, now) == full
            )
            victim = next(idle, None)
            if victim is None:
                return None
            del self._peers[victim]
        made = self._peers[peer] = _Served(self._settings.burst * SECOND, now)
        return made
