# SPDX-License-Identifier: Apache-2.0
"""No nonce twice, whatever happens to the process (seed Numiport, sections 5.8 and 8).

Across starts: a session id is a number that only rises, and 8 random bytes. Numbers are reserved on
disk before the first of them is used, a block at a time, so that a process that was killed at any
point, or a machine that lost its power, never hands one out again.

    lock -> read limit -> draft: limit + block -> fsync -> rename -> fsync directory -> hand out

The number is no lower than the clock, so that it rises even where the file was lost, and peers can
tell an old session from a new one. Where the clock has gone back as well, or an old copy of the
disk is brought back, the random bytes are still others.

Within a session: `Places` hands out the sequence numbers of a slot and stream, each once, and
forgets old slots only in refusing them from then on.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from assent.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from assent.identity.keys import Random
from assent.numiport.keys import SESSION_ID_LEN
from assent.numiport.wire import Fault, NumiportError

BLOCK: Final = 1024
SLOTS: Final = 8
SEQ_END: Final = 1 << 32
"""Of sequence numbers, the first that is none."""

_RANDOM_LEN: Final = 8
_NUMBER_END: Final = 1 << 64
_SLOT_END: Final = 1 << 64
_STREAM_END: Final = 1 << 32
_STREAMS_MAX: Final = 8

_FILE: Final = "sessions"
_DRAFT: Final = "sessions.draft"
_LOCK: Final = "sessions.lock"
_RECORD: Final = struct.Struct("!8sQ")
_MAGIC: Final = b"NUMISES1"
_CHECK_LEN: Final = 8


class Moment(enum.Enum):
    """Between two steps of a reservation, so that tests can end a process there."""

    OPENED = enum.auto()
    """The directory is locked and its file read."""
    DRAFTED = enum.auto()
    """There is a draft, and nothing in it."""
    WRITTEN = enum.auto()
    """The draft is written, and not yet on the disk."""
    SYNCED = enum.auto()
    """The draft is on the disk, and has not got its name."""
    RENAMED = enum.auto()
    """It has its name, which may not be on the disk."""
    RESERVED = enum.auto()
    """All is on the disk, and no number of the block is used."""
    TAKEN = enum.auto()
    """A number is used up, and its session id has not been seen by anybody."""


def _go_on(_moment: Moment) -> None:
    pass


class SessionIds:
    """Session ids that no other start of this node has had, nor will have.

    Used by one thread. One process has the directory, and others are refused while it does.

    Args:
        directory: Made where it is missing, mode 0700.
        random: Where the other half of each id comes from.
        block: How many numbers are reserved at a time.
        reach: Called at each `Moment`; for tests.

    Raises:
        FailedPrecondition: Another process has the directory, or its file is damaged.
        InvalidArgument: `block` is not positive.
        OSError: The directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        random: Random = os.urandom,
        block: int = BLOCK,
        reach: Callable[[Moment], None] = _go_on,
    ) -> None:
        if block < 1:
            raise InvalidArgument("block", "must be positive")
        self._directory = directory
        self._random = random
        self._block = block
        self._reach = reach
        self._owner = os.getpid()
        self._next = self._end = 0
        _make(directory)
        self._lock = _locked(directory / _LOCK)
        try:
            self._limit = _read(directory / _FILE)
            reach(Moment.OPENED)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets the directory go; what was reserved and not used is lost. Twice is no error."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def take(self, now: int) -> bytes:
        """A new session id, 16 bytes; on the disk as used before this returns.

        Args:
            now: CLOCK_TAI, ns.

        Raises:
            FailedPrecondition: It is closed, or belongs to the process that this one was forked
                from.
            ResourceExhausted: All numbers are used, or the clock is beyond them.
            OSError: It cannot be written; nothing is handed out.
        """
        if self._lock < 0 or self._owner != os.getpid():
            raise FailedPrecondition("session ids are not this process's to take")
        if self._next == self._end:
            self._reserve(now)
        number = self._next
        self._next += 1
        self._reach(Moment.TAKEN)
        return number.to_bytes(SESSION_ID_LEN - _RANDOM_LEN, "big") + self._random(_RANDOM_LEN)

    def _reserve(self, now: int) -> None:
        start = max(self._limit, now)
        end = start + self._block
        if end >= _NUMBER_END:
            raise ResourceExhausted("no session numbers are left")
        self._write(end)
        # Only now: after a failure the next call writes again.
        self._next, self._end, self._limit = start, end, end
        self._reach(Moment.RESERVED)

    def _write(self, limit: int) -> None:
        draft = self._directory / _DRAFT
        # What a former process left half done; it may even be a link to elsewhere.
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            self._reach(Moment.DRAFTED)
            file.write(_encode(limit))
            file.flush()
            self._reach(Moment.WRITTEN)
            os.fsync(file.fileno())
        self._reach(Moment.SYNCED)
        draft.replace(self._directory / _FILE)
        self._reach(Moment.RENAMED)
        with _opened(self._directory) as directory:
            os.fsync(directory)


def number_of(session_id: bytes) -> int:
    """The number in a session id: of two sessions of one peer, the newer has the higher.

    Raises:
        InvalidArgument: It does not have 16 bytes.
    """
    if len(session_id) != SESSION_ID_LEN:
        raise InvalidArgument("session_id", f"needs {SESSION_ID_LEN} bytes, not {len(session_id)}")
    return int.from_bytes(session_id[: SESSION_ID_LEN - _RANDOM_LEN], "big")


class Heard:
    """The newest session of a peer under one key, so that its former ones cannot come back.

    A peer that is started again numbers its packets anew, so its replay windows begin anew as well;
    what it sent before could then be sent again by others, under the former session.
    """

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: bytes | None = None

    def check(self, session_id: bytes) -> None:
        """Makes sure that a session is the peer's newest, or newer; before a packet is opened.

        Args:
            session_id: Of the packet.

        Raises:
            NumiportError: REPLAY: it is a former one.
            InvalidArgument: It does not have 16 bytes.
        """
        number = number_of(session_id)
        if self._newest is None or session_id == self._newest:
            return
        if number <= number_of(self._newest):
            raise NumiportError(Fault.REPLAY, "is of a former session")

    def take(self, session_id: bytes) -> bool:
        """Takes down that a packet of a session was opened, and was the peer's.

        Returns:
            Whether the session is new: replay windows begin anew.

        Raises:
            NumiportError: REPLAY: it is a former one.
            InvalidArgument: It does not have 16 bytes.
        """
        self.check(session_id)
        is_new = session_id != self._newest
        self._newest = session_id
        return is_new


class Places:
    """The places in one session that have been sealed: each (slot, stream, seq) is taken once.

    Args:
        slots: How many slots are kept; of these, the newest. Older ones are refused.

    Raises:
        InvalidArgument: `slots` is not positive.
    """

    __slots__ = ("_next", "_slots")

    def __init__(self, slots: int = SLOTS) -> None:
        if slots < 1:
            raise InvalidArgument("slots", "must be positive")
        self._slots = slots
        # By slot: the next number of each stream, or None where one has wrapped. Once there are as
        # many as are kept there always are, so what is lower than all of them may have been there.
        self._next: dict[int, dict[int, int] | None] = {}

    def take(self, slot: int, stream: int, count: int = 1) -> int:
        """Takes the next sequence numbers of a slot and stream.

        Args:
            slot: 64 bits.
            stream: 32 bits.
            count: How many.

        Returns:
            The first of them.

        Raises:
            InvalidArgument: A number is out of range.
            FailedPrecondition: The slot is older than those that are kept.
            ResourceExhausted: There are not as many, and the slot is invalid from now on (seed,
                appendix B); or it has too many streams.
        """
        if not 0 <= slot < _SLOT_END or not 0 <= stream < _STREAM_END or count < 1:
            raise InvalidArgument("place", "slot, stream or count is out of range")
        streams = self._streams(slot)
        if streams is None:
            raise ResourceExhausted(f"the sequence numbers of slot {slot} are used up")
        first = streams.get(stream, 0)
        if stream not in streams and len(streams) >= _STREAMS_MAX:
            raise ResourceExhausted(f"slot {slot} has {_STREAMS_MAX} streams already")
        if first + count > SEQ_END:
            self._next[slot] = None
            raise ResourceExhausted(f"the sequence numbers of slot {slot} are used up")
        streams[stream] = first + count
        return first

    def _streams(self, slot: int) -> dict[int, int] | None:
        if slot in self._next:
            return self._next[slot]
        while len(self._next) >= self._slots:
            oldest = min(self._next)
            if slot < oldest:
                raise FailedPrecondition(f"slot {slot} is over: {self._slots} newer ones are kept")
            del self._next[oldest]
        return self._next.setdefault(slot, {})

    def __len__(self) -> int:
        return len(self._next)


def _encode(limit: int) -> bytes:
    record = _RECORD.pack(_MAGIC, limit)
    return record + _check(record)


def _check(record: bytes) -> bytes:
    return hashlib.sha256(record).digest()[:_CHECK_LEN]


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            raw = file.read(_RECORD.size + _CHECK_LEN + 1)
    except FileNotFoundError:
        return 0
    record, check = raw[: _RECORD.size], raw[_RECORD.size :]
    if len(record) != _RECORD.size or check != _check(record) or record[:8] != _MAGIC:
        # Not begun anew by itself: whoever damages files may want to see an old number again.
        raise FailedPrecondition(
            f"{path} is damaged; without it, session numbers go on from the clock"
        )
    _, limit = _RECORD.unpack(record)
    return int(limit)


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FailedPrecondition(f"{path.parent} is in use by another process") from None
    return fd


def _make(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    # A file lasts no longer than the names that lead to it.
    for path in missing:
        with _opened(path.parent) as parent:
            os.fsync(parent)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
