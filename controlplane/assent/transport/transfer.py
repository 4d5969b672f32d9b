# SPDX-License-Identifier: Apache-2.0
"""Files over a flow: verified by BLAKE3, resumed where they broke off, published whole.

    sender                                receiver
    MANIFEST on flow 0: names, sizes,     what it holds of each already, from a transfer that broke
      BLAKE3 digests              ----->
                                  <-----  MANIFEST on the flow: how much, and its digest
    MANIFEST: where each begins,          (0 where that is not the beginning of this file)
      then one message a file     ----->  `.part` files, hashed as they grow
                                  <-----  MANIFEST: all of each, under the announced digest
    an empty message and the next batch, or END

What goes over the flow are messages; each MANIFEST is a message of control tags as on flow 0.
"""

from __future__ import annotations

import contextlib
import hmac
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.transport.blocking import Flow
from assent.transport.errors import EndedError
from assent.wire.control import (
    ControlError,
    ControlTag,
    Manifest,
    ManifestItem,
    Tag,
    decode_tags,
    encode_tags,
)

ALGORITHM: Final = "blake3"
BATCH_LEN: Final = 1300
"""Bytes that the items of one batch may take: they are announced in one frame."""

_ITEM_LEN: Final = 180
_CHUNK: Final = 4 << 20
_MANIFEST_MAX: Final = 64 << 10

OnProgress = Callable[[ManifestItem, int], None]
"""Told of an item how many of its bytes have been moved."""


class DigestMismatchError(RemoteError):
    """All bytes arrived, and they are not the ones that were announced."""


class ManifestError(RemoteError):
    """The peer's message is not the manifest that had to come."""


# Sending


def digest_of(path: Path) -> bytes:
    """BLAKE3 of a file."""
    with path.open("rb") as file, _mapped(file, os.fstat(file.fileno()).st_size) as memory:
        return blake3(memory).digest()


def manifest_of(path: Path, content_type: str | None = None) -> ManifestItem:
    """Describes a file that is about to be sent.

    Raises:
        InvalidArgument: it is not a regular file that can be read.
    """
    try:
        if not path.is_file():
            raise InvalidArgument("file", f"{path} is not a regular file")
        item = ManifestItem(path.name, path.stat().st_size, digest_of(path), ALGORITHM)
    except OSError as error:
        raise InvalidArgument("file", f"cannot read {path}: {error.strerror}") from error
    return replace(item, content_type=content_type) if content_type else item


def files_in(paths: Iterable[Path]) -> list[Path]:
    """The files that are meant by paths, of which a directory means what lies in it.

    Raises:
        InvalidArgument: two have the same name, which would overwrite each other at the receiver; a
            directory has another inside, for whose name a manifest has no room; there is nothing.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if path.is_dir() and file.is_dir():
                raise InvalidArgument("file", f"{file} is a directory inside a directory")
            if file.name in found:
                raise InvalidArgument("file", f"{found[file.name]} and {file} have the same name")
            found[file.name] = file
    if not found:
        raise InvalidArgument("file", "there is nothing to send")
    return list(found.values())


def batches_of(items: Sequence[ManifestItem]) -> Iterator[Sequence[ManifestItem]]:
    """The items in batches that can be announced in one frame each."""
    batch: list[ManifestItem] = []
    taken = 0
    for item in items:
        needed = _ITEM_LEN + len(item.name.encode()) + len(item.content_type)
        if batch and taken + needed > BATCH_LEN:
            yield batch
            batch, taken = [], 0
        batch.append(item)
        taken += needed
    if batch:
        yield batch


def send_files(
    flow: Flow,
    files: Sequence[tuple[Path, ManifestItem]],
    announce: Callable[[Sequence[ManifestItem]], None],
    on_progress: OnProgress,
) -> dict[str, int]:
    """Sends files, and waits until the receiver has verified them.

    Args:
        flow: an open, ordered flow, on which nothing was sent before.
        files: with what was found of each by `manifest_of`.
        announce: has the daemon announce a batch.
        on_progress: told of what is on its way.

    Returns:
        By name, how many bytes the receiver held already.

    Raises:
        FailedPrecondition: a file shrank since it was looked at.
        ManifestError: the receiver answers something else.
        DigestMismatchError: what arrived is not what was announced; the file has changed meanwhile.
        FlowError: the flow broke; sent again, the files go on from where they are.
    """
    paths = {item.name: path for path, item in files}
    resumed: dict[str, int] = {}
    batches = list(batches_of([item for _, item in files]))
    for number, batch in enumerate(batches):
        if number:
            flow.send(b"")
        announce(batch)
        answer = _manifest_from(flow.recv(_MANIFEST_MAX), flow.number, batch)
        starts = [_start(paths[held.name], held) for held in answer]
        _send_manifest(flow, [_holding(item, at) for item, at in zip(batch, starts, strict=True)])
        for item, at in zip(batch, starts, strict=True):
            resumed[item.name] = at
            _send_rest(flow, paths[item.name], item, at, on_progress)
        for held in _manifest_from(flow.recv(_MANIFEST_MAX), flow.number, batch):
            if held != _holding(replace(held, have=None, have_digest=b""), held.size):
                raise DigestMismatchError(f"{held.name}: what arrived is not what was announced")
    # Everything is verified. Whether its end is heard is for the closing of the flow to see.
    flow.finish()
    return resumed


def _start(path: Path, held: ManifestItem) -> int:
    """From where a file is to be sent: 0, unless its receiver holds its very beginning."""
    if not held.have:
        return 0
    with path.open("rb") as file, _mapped(file, held.have) as memory:
        same = hmac.compare_digest(blake3(memory).digest(), held.have_digest)
    return held.have if same else 0


def _send_rest(
    flow: Flow, path: Path, item: ManifestItem, start: int, on_progress: OnProgress
) -> None:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < item.size:
            raise FailedPrecondition(f"{path} is shorter than what was announced")
        with _mapped(file, item.size) as memory, memory[start:] as rest:
            flow.send(rest, progress=lambda sent: on_progress(item, start + sent))
    on_progress(item, item.size)


# Receiving


def receive_files(
    flow: Flow,
    manifests: Iterator[Sequence[ManifestItem]],
    directory: Path,
    on_progress: OnProgress,
) -> Iterator[tuple[ManifestItem, Path, int]]:
    """Receives announced files; each appears under its name only when it is whole and right.

    What arrives of a file is kept in `.NAME.part` until then. If the transfer breaks, the next one
    of the same content goes on from there.

    Args:
        flow: the flow on which they come, ordered.
        manifests: what is announced for this flow; asked for once a batch.
        directory: where the files go. One of the same name is replaced.
        on_progress: told of what has arrived.

    Yields:
        Each file's item, its path, and how many bytes of it were held before.

    Raises:
        InvalidArgument: a digest is of a kind not known.
        ManifestError: the sender says something else than what had to come.
        DigestMismatchError: the bytes are not the announced ones; nothing is kept of them.
        FlowError: the flow broke; what arrived is kept.
    """
    while True:
        batch = next(manifests)
        for item in batch:
            if item.algorithm != ALGORITHM:
                raise InvalidArgument("algorithm", f"{item.algorithm!r} is not known")
        with contextlib.ExitStack() as undo:
            parts = [undo.enter_context(_Part(directory, item)) for item in batch]
            _send_manifest(flow, [part.held() for part in parts])
            begun = _manifest_from(flow.recv(_MANIFEST_MAX), flow.number, batch)
            for part, item in zip(parts, begun, strict=True):
                part.resume(item.have or 0)
                resumed = part.size
                part.fill(flow, on_progress)
                yield item, part.publish(), resumed
            _send_manifest(flow, [_holding(item, item.size) for item in batch])
        if not _is_followed(flow):
            return


def _is_followed(flow: Flow) -> bool:
    """Whether another batch is announced, or that was all."""
    try:
        word = flow.recv(0)
    except EndedError:
        return False
    return not word


class _Part:
    """A file that is arriving: `.NAME.part`, as long as what has come of it.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, directory: Path, item: ManifestItem) -> None:
        self._item = item
        self._target = directory / item.name
        # Of this content and no other: what broke off of another version is not its beginning.
        self._path = directory / f".{item.name}.{item.digest.hex()[:16]}.part"
        self._file: Any = None
        self._hash = blake3()
        self.size = 0

    def __enter__(self) -> _Part:
        self._file = self._path.open("a+b")
        os.truncate(self._file.fileno(), min(self._length(), self._item.size))
        self.size = self._length()
        with _mapped(self._file, self.size) as memory:
            self._hash.update(memory)
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        if not self.size:
            self._path.unlink(missing_ok=True)

    def held(self) -> ManifestItem:
        """What is here of it already, for the sender."""
        return _holding(self._item, self.size, self._hash.digest())

    def resume(self, start: int) -> None:
        """The sender begins there: where what is here ends, or at 0.

        Raises:
            ManifestError: it begins elsewhere.
        """
        if start == self.size:
            return
        if start:
            raise ManifestError(f"{self._item.name}: the sender begins where nobody asked it to")
        os.truncate(self._file.fileno(), 0)
        self._hash, self.size = blake3(), 0

    def fill(self, flow: Flow, on_progress: OnProgress) -> None:
        """Takes in the rest: one message.

        Raises:
            ManifestError: it is not as long as what is missing.
        """
        on_progress(self._item, self.size)
        chunk = memoryview(bytearray(min(_CHUNK, max(1, self._item.size - self.size))))
        ended = False
        while not ended:
            count, ended = flow.recv_some(chunk)
            if self.size + count > self._item.size or (
                ended and self.size + count < self._item.size
            ):
                raise ManifestError(f"{self._item.name}: another length than what was announced")
            self._file.write(chunk[:count])
            self._file.flush()
            self._hash.update(chunk[:count])
            self.size += count
            on_progress(self._item, self.size)

    def publish(self) -> Path:
        """Gives it its name: who looks there sees the old file or the whole new one.

        Raises:
            DigestMismatchError: it is not what was announced; it is removed.
        """
        if not hmac.compare_digest(self._hash.digest(), self._item.digest):
            self.size = 0  # nothing of it is worth keeping
            raise DigestMismatchError(
                f"{self._item.name}: {self._item.size} bytes arrived, but not the announced ones"
            )
        os.fchmod(self._file.fileno(), 0o644)
        self._path.replace(self._target)
        return self._target

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size


# Both


def _holding(item: ManifestItem, have: int, digest: bytes | None = None) -> ManifestItem:
    """The item, of which so much is there."""
    told = item.digest if digest is None else digest
    return replace(item, have=have, have_digest=told if have else b"")


def _send_manifest(flow: Flow, items: Sequence[ManifestItem]) -> None:
    body = Manifest(flow.number, tuple(items)).to_body()
    flow.send(encode_tags([ControlTag(Tag.MANIFEST, 0, body)]))


def _manifest_from(
    message: bytes, number: int, batch: Sequence[ManifestItem]
) -> Sequence[ManifestItem]:
    """Reads a manifest of the items of a batch, in their order.

    Raises:
        ManifestError: it is something else.
    """
    try:
        tags, _ = decode_tags(message)
        (body,) = (tag.body for tag in tags if tag.tag == Tag.MANIFEST)
        manifest = Manifest.from_body(body)
    except (ControlError, ValueError) as error:
        raise ManifestError(f"the peer's message is not a manifest: {error}") from error
    told = [(item.name, item.size, item.digest) for item in manifest.items]
    if manifest.flow != number or told != [(item.name, item.size, item.digest) for item in batch]:
        raise ManifestError("the peer speaks of other files than those that were announced")
    return manifest.items


@contextlib.contextmanager
def _mapped(file: Any, size: int) -> Iterator[memoryview]:
    """The file's first bytes in memory; an empty buffer for none, which cannot be mapped."""
    if not size:
        yield memoryview(b"")
        return
    with (
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as memory,
        memoryview(memory) as view,
    ):
        yield view
