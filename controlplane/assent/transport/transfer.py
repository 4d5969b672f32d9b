# SPDX-License-Identifier: Apache-2.0
"""Files over a flow: sent from, and received into, mapped memory."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.transport.endpoint import FlowEndpoint, Progress
from assent.wire.control import ManifestItem

DIGEST = "sha256"
_STEP_MS = 100
_LINGER_MS = 400
_CHUNK = 1 << 20

OnProgress = Callable[[int], None]


class DigestMismatchError(RemoteError):
    """All bytes arrived, and they are not the ones that were announced."""


@contextlib.contextmanager
def _mapped(file: Any, size: int, access: int) -> Iterator[Any]:
    """The file's bytes in memory; an empty buffer for an empty file, which cannot be mapped."""
    if not size:
        yield bytearray()
        return
    with mmap.mmap(file.fileno(), size, access=access) as memory:
        yield memory


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, DIGEST).digest()


def manifest_of(path: Path) -> ManifestItem:
    """Describes a file that is about to be sent.

    Raises:
        InvalidArgument: it is not a regular file that can be read.
    """
    try:
        if not path.is_file():
            raise InvalidArgument("file", f"{path} is not a regular file")
        return ManifestItem(
            name=path.name, size=path.stat().st_size, digest=digest_of(path), algorithm=DIGEST
        )
    except OSError as error:
        raise InvalidArgument("file", f"cannot read {path}: {error.strerror}") from error


def send_file(endpoint: FlowEndpoint, path: Path, size: int, on_progress: OnProgress) -> None:
    """Sends a file's first ``size`` bytes and waits until the peer has receipted the last one.

    Args:
        endpoint: an open flow.
        path: the file.
        size: bytes, as announced.
        on_progress: told how many bytes the peer has receipted, now and then.

    Raises:
        FailedPrecondition: the file shrank since it was announced.
        FlowError: the flow broke.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise FailedPrecondition(f"{path} is shorter than what was announced")
        with _mapped(file, size, mmap.ACCESS_READ) as source:
            if size:
                before = endpoint.stats().tx_payload
                with endpoint.sending(source):
                    while endpoint.run(_STEP_MS) is not Progress.SENT:
                        on_progress(endpoint.stats().tx_payload - before)
    on_progress(size)


def receive_file(
    endpoint: FlowEndpoint, item: ManifestItem, directory: Path, on_progress: OnProgress
) -> Path:
    """Receives an announced file; it appears under its name only when it is whole and right.

    Args:
        endpoint: an open flow.
        item: what was announced.
        directory: where it goes. A file of that name is replaced.
        on_progress: told how many bytes have arrived in order, now and then.

    Returns:
        The file's path.

    Raises:
        InvalidArgument: the announced digest is of a kind not known.
        DigestMismatchError: the bytes are not the announced ones; nothing is kept.
        FlowError: the flow broke; nothing is kept.
    """
    if item.algorithm != DIGEST:
        raise InvalidArgument("algorithm", f"{item.algorithm!r} is not known; use {DIGEST}")
    target = directory / item.name
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".", suffix=".part") as part:
        os.truncate(part.fileno(), item.size)
        with _mapped(part, item.size, mmap.ACCESS_WRITE) as sink:
            if item.size:
                before = endpoint.stats().rx_payload
                with endpoint.receiving(sink):
                    while endpoint.run(_STEP_MS) is not Progress.RECEIVED:
                        on_progress(endpoint.stats().rx_payload - before)
        endpoint.linger(_LINGER_MS)
        if not hmac.compare_digest(digest_of(Path(part.name)), item.digest):
            raise DigestMismatchError(
                f"{item.name}: all {item.size} bytes arrived, but not the announced ones"
            )
        # Published by link and rename: a reader sees the old file or the whole new one.
        staged = directory / f".{item.name}.{os.getpid()}.done"
        os.link(part.name, staged)
        staged.replace(target)
        target.chmod(0o644)
    on_progress(item.size)
    return target
