# SPDX-License-Identifier: Apache-2.0
"""The evidence log: what happened to covenants, in a chain that shows where it was changed.

One JSON object a line, of which each holds the SHA-256 of the line before it (64 zeros in the very
first):

    {"number": 7, "at": 1700000000000000, "previous": "<64 digits>", "record": {...}}

The file is rotated by size, and the oldest part forgotten. The chain goes on from part to part, so
that only its beginning can be missing. It shows changes to whoever has kept a later hash: who can
write the file can also write another chain.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from assent.closing import Closing
from assent.errors import AssentError, InvalidArgument

log = logging.getLogger(__name__)

PART_BYTES: Final = 64 << 20
PARTS: Final = 4
RECORD_MAX: Final = 2 << 20
"""Bytes of a line: two chains of evidence of the largest frame, in hexadecimal digits."""
_BLOCK: Final = 1 << 16
_ORIGIN: Final = "0" * 64


class EvidenceBroken(AssentError):  # noqa: N818 - says what is wrong
    """The chain does not hold; the message names the part and the line."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of the log.

    Attributes:
        number: From 1, without a gap.
        at: Unix time, microseconds.
        record: What happened; bytes as hexadecimal digits.
    """

    number: int
    at: int
    record: Mapping[str, Any]


class EvidenceLog(Closing):
    """Appends to the log of one daemon. Use it as a context manager.

    What is appended has been handed to the operating system when `append` returns, so it outlives
    the daemon; with `sync`, it has reached the disk.

    Args:
        path: Of the newest part; older ones have .1, .2 and so on behind it. Mode 0600.
        part_bytes: Size after which a new part begins.
        parts: How many there are at most, the newest included.
        unix_us: Unix time, microseconds.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        part_bytes: int = PART_BYTES,
        parts: int = PARTS,
        unix_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        if part_bytes < 1 or parts < 2:
            raise InvalidArgument("parts", "needs at least 2, of at least 1 byte")
        self._path = path
        self._part_bytes = part_bytes
        self._parts = parts
        self._unix_us = unix_us
        self._fd = self._opened()
        try:
            self._size = self._cut_torn()
            self._number, self._previous = self._head()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Closes the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(self, record: Mapping[str, object], *, sync: bool = False) -> Evidence:
        """Adds what happened.

        Args:
            record: Of text, whole numbers, truth values, lists and maps, and of bytes, UUIDs and
                enums. What it is about stands under `covenant` and `agent`, for `tail`.
            sync: Wait until it is on the disk: for violations.

        Raises:
            InvalidArgument: It is too long, or holds something else.
            OSError: It cannot be written. The log is as before.
        """
        found = Evidence(self._number + 1, self._unix_us(), _plain_map(record))
        line = _line(found, self._previous)
        if len(line) > RECORD_MAX:
            raise InvalidArgument("record", f"has {len(line)} bytes, at most {RECORD_MAX} may be")
        if self._size and self._size + len(line) > self._part_bytes:
            self._rotate()
        self._write(line)
        if sync:
            os.fsync(self._fd)
        self._size += len(line)
        self._number, self._previous = found.number, _digest(line)
        return found

    def tail(self, count: int, covenant: object = None, agent: object = None) -> list[Evidence]:
        """The last records, in the order in which they were written.

        Args:
            count: How many, at most.
            covenant: Only those whose `covenant` is this; None = all.
            agent: Only those whose `agent` is this; None = all.
        """
        wanted = {
            key: _plain(value)
            for key, value in (("covenant", covenant), ("agent", agent))
            if value is not None
        }
        found: list[Evidence] = []
        for line in self._backwards():
            if len(found) >= count:
                break
            with contextlib.suppress(ValueError, KeyError, TypeError):
                each, _ = _read(line)
                if all(each.record.get(key) == value for key, value in wanted.items()):
                    found.append(each)
        return found[::-1]

    def verify(self) -> int:
        """Walks the whole chain.

        Returns:
            How many records it holds.

        Raises:
            EvidenceBroken: A line was changed, left out or put in.
        """
        count = 0
        number, previous = 0, _ORIGIN
        for path in self._existing():
            with path.open("rb") as file:
                for at, line in enumerate(file, start=1):
                    try:
                        found, link = _read(line)
                    except (ValueError, KeyError, TypeError):
                        raise EvidenceBroken(f"{path.name}, line {at}: is no record") from None
                    # The oldest part may begin anywhere; what it begins with, nobody can check.
                    begins = count == 0 and found.number > 1
                    if not begins and (found.number, link) != (number + 1, previous):
                        raise EvidenceBroken(
                            f"{path.name}, line {at}: does not follow the line before it"
                        )
                    count += 1
                    number, previous = found.number, _digest(line)
        if (number, previous) != (self._number, self._previous):
            raise EvidenceBroken(f"{self._path.name}: its last line is not the one written last")
        return count

    # Within

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        os.fchmod(fd, 0o600)
        return fd

    def _part(self, number: int) -> Path:
        return self._path if not number else self._path.with_name(f"{self._path.name}.{number}")

    def _existing(self) -> list[Path]:
        """The parts that there are, the oldest first."""
        paths = (self._part(number) for number in range(self._parts - 1, -1, -1))
        return [path for path in paths if path.exists()]

    def _backwards(self) -> Iterator[bytes]:
        for path in reversed(self._existing()):
            yield from _lines_backwards(path)

    def _cut_torn(self) -> int:
        """Cuts off what a crash left of a last record; returns the size of what is whole."""
        size = os.fstat(self._fd).st_size
        whole = size
        while whole and os.pread(self._fd, 1, whole - 1) != b"\n":
            start = max(0, whole - _BLOCK)
            whole = start + os.pread(self._fd, whole - start, start).rfind(b"\n") + 1
        if whole != size:
            log.warning(
                "torn record cut off", extra={"file": str(self._path), "bytes": size - whole}
            )
            os.ftruncate(self._fd, whole)
        return whole

    def _head(self) -> tuple[int, str]:
        """Number and hash of the last line; where it is damaged, the chain goes on behind it."""
        last: str | None = None
        passed = 0
        for line in self._backwards():
            last = last or _digest(line)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return _read(line)[0].number + passed, last
            log.error("damaged record", extra={"file": str(self._path)})
            passed += 1
        return passed, last or _ORIGIN

    def _rotate(self) -> None:
        os.fsync(self._fd)
        for number in range(self._parts - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._part(number - 1).rename(self._part(number))
        fd = self._opened()
        os.close(self._fd)
        self._fd, self._size = fd, 0

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # Half a line would break the chain for all that follow.
            os.ftruncate(self._fd, self._size)
            raise


def _line(found: Evidence, previous: str) -> bytes:
    whole = {
        "number": found.number,
        "at": found.at,
        "previous": previous,
        "record": found.record,
    }
    return json.dumps(whole, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _read(line: bytes) -> tuple[Evidence, str]:
    """A line, and the hash that it holds."""
    whole = json.loads(line)
    number, at, previous, record = (whole[key] for key in ("number", "at", "previous", "record"))
    if (type(number), type(at), type(previous), type(record)) != (int, int, str, dict):
        raise ValueError("not a line of this log")
    return Evidence(number, at, record), previous


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their ends, the last one first."""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        left = b""
        while at:
            step = min(at, _BLOCK)
            at -= step
            file.seek(at)
            first, *whole = (file.read(step) + left).split(b"\n")
            # What stands before the first line end may have begun in the block before.
            ended = [line + b"\n" for line in whole[:-1]]
            tail = [whole[-1]] if whole and whole[-1] else []
            yield from reversed(ended + tail)
            left = first + b"\n" if whole else first
        if left:
            yield left


def _plain_map(record: Mapping[str, object]) -> dict[str, Any]:
    return {str(key): _plain(value) for key, value in record.items()}


def _plain(value: object) -> Any:
    """A value as JSON has it.

    Raises:
        InvalidArgument: JSON has no such thing.
    """
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return _plain_map(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise InvalidArgument("record", f"holds a {type(value).__name__}")
