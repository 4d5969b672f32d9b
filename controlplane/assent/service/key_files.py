# SPDX-License-Identifier: Apache-2.0
"""The private keys of local cells, which come and go with their cells, whatever happens meanwhile.

    create   draft  ->  store commits  ->  key file
    delete   key file  ->  draft  ->  store commits  ->  nothing

A file cannot be part of the store's transaction. So while the store has not answered, a key is a
draft; and whoever finds one at the start asks the store what was meant.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from assent.errors import AlreadyExists
from assent.identity.keys import Identity
from assent.service.records import LocalCell

log = logging.getLogger(__name__)

_SUFFIX: Final = ".pem"
_DRAFT: Final = ".draft"
_NEXT: Final = ".next"


class KeyFiles:
    """One file a cell, mode 0600, in a directory of mode 0700.

    Args:
        directory: Made where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the key of a cell of that name is kept."""
        return self._directory / f"{name}{_SUFFIX}"

    def require_absent(self, path: Path) -> None:
        """Makes sure that no key would be overwritten.

        Raises:
            AlreadyExists: A file is there.
        """
        if path.exists():
            raise AlreadyExists(f"{path} is there already, and keys are not overwritten")

    @contextlib.contextmanager
    def appearing(self, path: Path, identity: Identity) -> Iterator[None]:
        """Keeps a key, if the block, which commits the cell, succeeds; see `require_absent`.

        Raises:
            OSError: It cannot be written.
        """
        draft = _draft_of(path)
        draft.unlink(missing_ok=True)
        identity.save(draft)
        try:
            yield
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        draft.rename(path)

    @contextlib.contextmanager
    def vanishing(self, path: Path) -> Iterator[None]:
        """Forgets a key, if the block, which commits the cell's end, succeeds; none is no error."""
        draft = _draft_of(path)
        with contextlib.suppress(FileNotFoundError):
            path.rename(draft)
        try:
            yield
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                draft.rename(path)
            raise
        draft.unlink(missing_ok=True)

    def keep_next(self, name: str, identity: Identity) -> None:
        """Keeps the key that a cell is about to have, in place of another such one.

        Raises:
            OSError: It cannot be written.
        """
        self.drop_next(name)
        identity.save(self._next(name))

    def next_of(self, name: str) -> Identity | None:
        """The key that a cell was about to have."""
        path = self._next(name)
        return Identity.load(path) if path.exists() else None

    def drop_next(self, name: str) -> None:
        """Forgets it; none is no error."""
        self._next(name).unlink(missing_ok=True)

    def _next(self, name: str) -> Path:
        return self._directory / f"{name}{_NEXT}"

    def settle(self, cells: Iterable[LocalCell]) -> None:
        """Ends what a crash has left half done; before anybody reads a key."""
        kept = {cell.key_file for cell in cells}
        for path in list(self._directory.iterdir()):
            if path.name.startswith("."):  # a file that was still being written
                path.unlink()
            elif path.suffix == _DRAFT:
                self._settle_draft(path, kept)

    def _settle_draft(self, draft: Path, kept: set[Path]) -> None:
        path = draft.with_suffix(_SUFFIX)
        if path in kept and not path.exists():
            draft.rename(path)
            log.warning("key file completed after a crash", extra={"file": str(path)})
        else:
            draft.unlink()
            log.warning("key file of no cell removed after a crash", extra={"file": str(draft)})


def _draft_of(path: Path) -> Path:
    return path.with_suffix(_DRAFT)
