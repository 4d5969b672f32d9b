# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from assent.errors import AlreadyExists
from assent.identity.keys import Identity
from assent.service.key_files import KeyFiles
from assent.service.records import LocalCell

IDENTITY = Identity.from_seed(bytes(range(32)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def files(directory: Path) -> KeyFiles:
    return KeyFiles(directory)


def cell_of(path: Path) -> LocalCell:
    return LocalCell(IDENTITY.cell_id, path.stem, IDENTITY.public_key, "fab0", path)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_key_appears_when_the_cell_is_committed(files: KeyFiles, directory: Path) -> None:
    path = files.path("home")
    with files.appearing(path, IDENTITY):
        assert not path.exists()
    assert names(directory) == {"home.pem"}
    assert Identity.load(path).cell_id == IDENTITY.cell_id


def test_a_key_that_is_refused_leaves_nothing(files: KeyFiles, directory: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.appearing(files.path("home"), IDENTITY):
        raise ZeroDivisionError
    assert names(directory) == set()


def test_a_key_is_not_overwritten(files: KeyFiles) -> None:
    files.require_absent(files.path("home"))
    IDENTITY.save(files.path("home"))
    with pytest.raises(AlreadyExists):
        files.require_absent(files.path("home"))


def test_a_key_vanishes_with_its_cell(files: KeyFiles, directory: Path) -> None:
    path = files.path("home")
    IDENTITY.save(path)
    with pytest.raises(ZeroDivisionError), files.vanishing(path):
        raise ZeroDivisionError
    assert names(directory) == {"home.pem"}
    with files.vanishing(path):
        assert not path.exists()
    assert names(directory) == set()
    with files.vanishing(path):  # it is gone already
        pass
    assert names(directory) == set()


@pytest.mark.parametrize("committed", [False, True])
def test_what_a_crash_leaves_is_settled_by_what_the_store_says(
    files: KeyFiles, directory: Path, committed: bool
) -> None:
    """A creation that was committed is completed; a deletion that was not is taken back."""
    path = files.path("home")
    unfinished = files.appearing(path, IDENTITY)
    unfinished.__enter__()
    assert names(directory) == {"home.draft"}
    files.settle([cell_of(path)] if committed else [])
    assert names(directory) == ({"home.pem"} if committed else set())
    unfinished.gen.close()  # type: ignore[attr-defined]
    assert names(directory) == ({"home.pem"} if committed else set())


def test_only_drafts_are_settled(files: KeyFiles, directory: Path) -> None:
    """A key file without a cell may be somebody's: it stays. One that was being written goes."""
    IDENTITY.save(files.path("somebody"))
    (directory / ".home.draft.k3x").write_bytes(b"half")
    files.settle([])
    assert names(directory) == {"somebody.pem"}


def test_a_draft_beside_its_key_is_removed(files: KeyFiles, directory: Path) -> None:
    path = files.path("home")
    IDENTITY.save(path)
    (directory / "home.draft").write_bytes(b"older")
    files.settle([cell_of(path)])
    assert names(directory) == {"home.pem"}
    assert Identity.load(path).cell_id == IDENTITY.cell_id
