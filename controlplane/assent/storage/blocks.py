# SPDX-License-Identifier: Apache-2.0
"""Blocks on disk, each named by its BLAKE3 hash, and the heads of the DAGs that they form.

    store.json                format and size limit
    blocks/ab/cd/abcd...      one file a block, 64 hexadecimal digits
    heads/<name in hex>       one file a DAG: its heads, a line each
    staged/                   what is being written
    usage, lock               bytes in use, told before they are; who may change it now

A block appears under its name by a rename, after its bytes are on the disk: a crash at any point
leaves whole blocks, and at worst a staged file that the next collection removes. Heads are
published after the directories of all blocks are on the disk too, so that what they reach is there.
What a block says is checked against its name whenever it is read. Several processes and threads may
share a store.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.wire.control_storage import HASH_LEN, MAX_BLOCK, MAX_DAG, MAX_HASHES

Bytes = bytes | bytearray | memoryview

FORMAT: Final = 1
LIMIT_MIN: Final = MAX_BLOCK
_SETTINGS: Final = "store.json"
_USAGE_LEN: Final = 8


class BlockDamagedError(FailedPrecondition):
    """A block on disk was not what its name says; it is gone now, and can be fetched anew."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection has removed.

    Attributes:
        blocks: How many blocks.
        freed: Their bytes.
        kept: Blocks that are left.
    """

    blocks: int
    freed: int
    kept: int


def hash_of(data: Bytes) -> bytes:
    """The name of a block: BLAKE3, 32 bytes."""
    return blake3(data).digest()


class BlockStore:
    """A store in a directory.

    Attributes:
        path: The directory.
        limit: Bytes of blocks that it may hold.
    """

    def __init__(self, path: Path) -> None:
        """Opens a store.

        Raises:
            NotFound: There is none.
            FailedPrecondition: There is one that this version cannot read.
        """
        self.path = path
        self.limit = _read_limit(path / _SETTINGS)
        self._blocks = path / "blocks"
        self._heads = path / "heads"
        self._staged = path / "staged"
        self._thread = threading.RLock()
        self._depth = 0
        # Directories whose entries a crash could still lose.
        self._unsynced: set[Path] = set()
        with contextlib.ExitStack() as undo:
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._lock)
            self._usage = os.open(path / "usage", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._usage)
            with self._locked():
                if len(os.pread(self._usage, _USAGE_LEN, 0)) != _USAGE_LEN:
                    self._set_usage(self._count())
            undo.pop_all()

    @classmethod
    def create(cls, path: Path, limit: int) -> BlockStore:
        """Makes an empty store, and the directory if it is not there.

        Args:
            path: Where.
            limit: Bytes of blocks that it may hold, at least 1 MiB.

        Raises:
            AlreadyExists: There is one.
            InvalidArgument: The limit is too low.
        """
        if limit < LIMIT_MIN:
            raise InvalidArgument("limit", f"must be at least {LIMIT_MIN} bytes")
        if (path / _SETTINGS).exists():
            raise AlreadyExists(f"{path} is a store already")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("blocks", "heads", "staged"):
            (path / folder).mkdir(mode=0o700, exist_ok=True)
        # Last: without it, there is no store.
        settings = json.dumps({"format": FORMAT, "limit": limit}).encode()
        _replace(path / "staged", path / _SETTINGS, settings)
        return cls(path)

    def close(self) -> None:
        """Lets go of the store."""
        os.close(self._lock)
        os.close(self._usage)

    def __enter__(self) -> BlockStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- blocks

    def put(self, data: Bytes) -> bytes:
        """Keeps a block; one that is there already costs nothing.

        Returns:
            Its name.

        Raises:
            InvalidArgument: It is larger than 1 MiB.
            ResourceExhausted: The store is full.
        """
        view = memoryview(data)
        if view.nbytes > MAX_BLOCK:
            raise InvalidArgument("block", f"has at most {MAX_BLOCK} bytes")
        name = hash_of(data)
        path = self._path(name)
        if self.hold(name):
            return name
        self._check_room(self.usage, view.nbytes)
        staged = _stage(self._staged, view)
        try:
            with self._locked():
                if not path.exists():
                    used = self.usage
                    self._check_room(used, view.nbytes)
                    # Told first: after a crash between the two, the store holds less than it says.
                    self._set_usage(used + view.nbytes)
                    self._make_directory(path.parent)
                    staged.rename(path)
                    self._unsynced.add(path.parent)
        finally:
            staged.unlink(missing_ok=True)
        return name

    def get(self, name: bytes) -> bytes:
        """A block's bytes.

        Raises:
            NotFound: It is not here.
            BlockDamagedError: It was, but not as its name says.
        """
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"block {name.hex()} is not in the store") from None
        if hash_of(data) != name:
            self._remove(name)
            raise BlockDamagedError(f"block {name.hex()} was damaged on disk; it is removed")
        return data

    def hold(self, name: bytes) -> bool:
        """Whether a block is here; if so, it counts as new, and no collection takes it for a while.

        Its bytes are not looked at.
        """
        return _renewed(self._path(name))

    def size_of(self, name: bytes) -> int:
        """Bytes of a block.

        Raises:
            NotFound: It is not here.
        """
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"block {name.hex()} is not in the store") from None

    def names(self) -> Iterator[bytes]:
        """All blocks, in order of their names."""
        for folder in sorted(self._blocks.glob("??/??")):
            for path in sorted(folder.iterdir()):
                with contextlib.suppress(ValueError):
                    yield bytes.fromhex(path.name)

    @property
    def usage(self) -> int:
        """Bytes of blocks, never less than there are."""
        return int.from_bytes(os.pread(self._usage, _USAGE_LEN, 0), "little")

    # -- heads

    def dags(self) -> list[str]:
        """The names of all DAGs that have heads."""
        return sorted(bytes.fromhex(path.name).decode() for path in self._heads.iterdir())

    def heads(self, dag: str) -> tuple[bytes, ...]:
        """A DAG's heads in order of their names; none if there is no such DAG.

        Raises:
            FailedPrecondition: The file is damaged.
        """
        try:
            lines = self._heads_path(dag).read_text().split()
        except FileNotFoundError:
            return ()
        try:
            heads = tuple(map(bytes.fromhex, lines))
        except ValueError:
            heads = (b"",)
        if any(len(head) != HASH_LEN for head in heads):
            raise FailedPrecondition(f"the heads of {dag!r} are damaged on disk")
        return heads

    def change_heads(
        self, dag: str, change: Callable[[tuple[bytes, ...]], Sequence[bytes]]
    ) -> tuple[bytes, ...]:
        """Replaces a DAG's heads, in one step for whoever else does.

        Args:
            dag: 1 to 63 bytes.
            change: Told the heads that are; says those that shall be. All that these reach must be
                in the store.

        Returns:
            The new heads.

        Raises:
            InvalidArgument: The name is too long, or empty.
            ResourceExhausted: There would be more than 32.
        """
        path = self._heads_path(dag)
        with self._locked():
            before = self.heads(dag)
            heads = tuple(sorted(set(change(before))))
            if len(heads) > MAX_HASHES:
                raise ResourceExhausted(f"{dag!r} would have more than {MAX_HASHES} heads")
            if heads != before:
                self._flush()
                text = "".join(f"{head.hex()}\n" for head in heads)
                _replace(self._staged, path, text.encode())
        return heads

    def drop(self, dag: str) -> None:
        """Forgets a DAG; the next collection removes what no other one reaches.

        Raises:
            NotFound: There is none of that name.
        """
        with self._locked():
            try:
                self._heads_path(dag).unlink()
            except FileNotFoundError:
                raise NotFound(f"there is no DAG {dag!r}") from None

    # -- collection

    def collect(self, keep: Callable[[bytes], bool], before: float) -> Collected:
        """Removes blocks, and staged files that nobody finishes.

        Args:
            keep: Says of a block's name whether it stays.
            before: Unix time, s; what was put since then stays in any case, for it may not yet be
                reachable.
        """
        removed = freed = kept = used = 0
        with self._locked():
            for path in self._staged.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
            for name in list(self.names()):
                path = self._path(name)
                status = path.stat()
                if status.st_mtime >= before or keep(name):
                    kept += 1
                    used += status.st_size
                    continue
                path.unlink()
                removed += 1
                freed += status.st_size
            # What a crash had made too large is right again.
            self._set_usage(used)
        return Collected(removed, freed, kept)

    # -- inside

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds off other threads, and other processes."""
        with self._thread:
            self._depth += 1
            try:
                if self._depth == 1:
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _path(self, name: bytes) -> Path:
        if len(name) != HASH_LEN:
            raise InvalidArgument("name", f"must have {HASH_LEN} bytes")
        digits = name.hex()
        return self._blocks / digits[:2] / digits[2:4] / digits

    def _heads_path(self, dag: str) -> Path:
        raw = dag.encode()
        if not 1 <= len(raw) <= MAX_DAG:
            raise InvalidArgument("dag", f"must have 1 to {MAX_DAG} bytes")
        return self._heads / raw.hex()

    def _check_room(self, used: int, more: int) -> None:
        if used + more > self.limit:
            raise ResourceExhausted(
                f"the store is full: {used} of {self.limit} bytes, and {more} more do not fit"
            )

    def _make_directory(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._unsynced.update((self._blocks, folder.parent))

    def _flush(self) -> None:
        """Makes the names of all blocks outlive a crash."""
        for folder in sorted(self._unsynced):
            _sync_directory(folder)
        self._unsynced.clear()

    def _remove(self, name: bytes) -> None:
        with self._locked(), contextlib.suppress(FileNotFoundError):
            path = self._path(name)
            size = path.stat().st_size
            path.unlink()
            self._set_usage(max(0, self.usage - size))

    def _set_usage(self, used: int) -> None:
        os.pwrite(self._usage, used.to_bytes(_USAGE_LEN, "little"), 0)

    def _count(self) -> int:
        return sum(self._path(name).stat().st_size for name in self.names())


def _read_limit(path: Path) -> int:
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path.parent} is no store; make one with `assent store init`") from None
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise FailedPrecondition(f"{path} is not of a store that this version can read")
    limit = settings.get("limit")
    if type(limit) is not int or limit < LIMIT_MIN:
        raise FailedPrecondition(f"{path} has no usable size limit")
    return limit


def _renewed(path: Path) -> bool:
    """Whether a file is there; it counts as new then."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _stage(folder: Path, data: Bytes) -> Path:
    """Writes a file that nobody knows of yet; its bytes are on the disk."""
    fd, name = tempfile.mkstemp(dir=folder)
    with open(fd, "wb") as file:  # noqa: PTH123
        try:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        except BaseException:
            Path(name).unlink()
            raise
    return Path(name)


def _replace(staging: Path, path: Path, data: bytes) -> None:
    """Writes a file in one step that outlives a crash."""
    _stage(staging, data).replace(path)
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
