# SPDX-License-Identifier: Apache-2.0
"""What lives as long as a session, kept where a daemon that was killed finds it again."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path


class SessionFiles:
    """One file a session, mode 0600 in a directory of mode 0700.

    Args:
        directory: Made where it is missing.
        suffix: Of the files' names.
    """

    def __init__(self, directory: Path, suffix: str) -> None:
        self._directory = directory
        self._suffix = suffix
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)

    def write(self, session: int, body: bytes) -> None:
        """Keeps the body for a session; the file appears whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        path = self._path(session)
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(body)
        draft.replace(path)

    def read(self, session: int) -> bytes | None:
        """The body kept for a session; None where there is none."""
        try:
            return self._path(session).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, session: int) -> None:
        """Forgets a session; none is not an error."""
        self._path(session).unlink(missing_ok=True)

    def retain(self, sessions: Set[int]) -> int:
        """Forgets all but the sessions named, drafts included; returns how many."""
        kept = {self._path(session) for session in sessions}
        lost = [path for path in self._directory.iterdir() if path not in kept]
        for path in lost:
            path.unlink()
        return len(lost)

    def _path(self, session: int) -> Path:
        return self._directory / f"{session}{self._suffix}"
