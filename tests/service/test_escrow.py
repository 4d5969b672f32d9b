# SPDX-License-Identifier: Apache-2.0
"""service/escrow.py: session keys that a daemon finds again after it was killed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from assent.handshake.keys import SessionKeys
from assent.service.escrow import Escrow
from assent.wire.cellid import CellID

REMOTE, LOCAL = CellID(b"r" * 16), CellID(b"l" * 16)
KEYS = SessionKeys(7, b"a" * 32, b"b" * 16, b"c" * 32, b"d" * 16)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def escrow(directory: Path) -> Escrow:
    return Escrow(directory)


def test_keys_come_back_as_they_went_in(escrow: Escrow, directory: Path):
    escrow.put(1, REMOTE, LOCAL, KEYS)
    assert Escrow(directory).get(1, REMOTE, LOCAL) == KEYS


def test_only_root_may_look(escrow: Escrow, directory: Path):
    escrow.put(1, REMOTE, LOCAL, KEYS)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600]


def test_keys_of_another_pair_are_no_keys(escrow: Escrow):
    escrow.put(1, REMOTE, LOCAL, KEYS)
    assert escrow.get(1, LOCAL, REMOTE) is None
    assert escrow.get(2, REMOTE, LOCAL) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"\xa0", b"\x81\x01"])
def test_a_torn_file_is_no_keys(escrow: Escrow, directory: Path, content: bytes):
    (directory / "1.key").write_bytes(content)
    assert escrow.get(1, REMOTE, LOCAL) is None


def test_keys_of_the_wrong_length_are_no_keys(escrow: Escrow):
    escrow.put(1, REMOTE, LOCAL, SessionKeys(7, b"short", b"b" * 16, b"c" * 32, b"d" * 16))
    assert escrow.get(1, REMOTE, LOCAL) is None


def test_removed_keys_are_gone(escrow: Escrow, directory: Path):
    escrow.put(1, REMOTE, LOCAL, KEYS)
    escrow.remove(1)
    escrow.remove(1)
    assert list(directory.iterdir()) == []


def test_only_the_sessions_named_are_kept(escrow: Escrow, directory: Path):
    for number in (1, 2):
        escrow.put(number, REMOTE, LOCAL, KEYS)
    (directory / "3.draft").write_bytes(b"half")
    assert escrow.retain({2}) == 2
    assert [path.name for path in directory.iterdir()] == ["2.key"]


def test_a_draft_that_a_crash_left_is_no_obstacle(escrow: Escrow, directory: Path):
    (directory / "1.draft").write_bytes(b"half")
    escrow.put(1, REMOTE, LOCAL, KEYS)
    assert escrow.get(1, REMOTE, LOCAL) == KEYS


def test_a_directory_that_outlives_a_boot_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("assent.service.escrow.file_system_of", lambda _: "ext4")
    Escrow(tmp_path / "disk")
    assert "not on tmpfs" in caplog.text
    caplog.clear()
    monkeypatch.setattr("assent.service.escrow.file_system_of", lambda _: "tmpfs")
    Escrow(tmp_path / "memory")
    assert not caplog.text
