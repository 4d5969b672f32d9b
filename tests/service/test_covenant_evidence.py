# SPDX-License-Identifier: Apache-2.0
"""service/covenants/evidence.py: a chain that crashes cannot break and changes cannot hide in."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest

from assent.covenant.consent import Consent
from assent.errors import InvalidArgument
from assent.service.covenants.evidence import RECORD_MAX, EvidenceBroken, EvidenceLog

AGENT = UUID("018f4a5e-7c3b-8d2a-9e1f-0123456789ab")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


@pytest.fixture
def log(path: Path) -> Iterator[EvidenceLog]:
    with EvidenceLog(path, unix_us=count(1).__next__) as opened:
        yield opened


def events(log: EvidenceLog, count: int = 100) -> list[object]:
    return [each.record["event"] for each in log.tail(count)]


def test_what_is_appended_is_in_the_file_at_once(log: EvidenceLog, path: Path):
    log.append({"event": "bound", "covenant": 7})
    log.append({"event": "revoked", "covenant": 7}, sync=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["number"], line["at"]) for line in lines] == [(1, 1), (2, 2)]
    assert lines[0]["previous"] == "0" * 64
    assert log.verify() == 2


def test_the_file_is_the_daemon_s_alone(log: EvidenceLog, path: Path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    EvidenceLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_values_that_json_has_not_are_written_as_text(log: EvidenceLog):
    log.append({"raw": b"\x01\xff", "agent": AGENT, "consent": Consent.NONE, "list": (1, [None])})
    (found,) = log.tail(1)
    assert found.record == {
        "raw": "01ff", "agent": str(AGENT), "consent": "none", "list": [1, [None]]
    }  # fmt: skip


@pytest.mark.parametrize("value", [object(), 1.5, {1, 2}, {"deep": [object()]}])
def test_what_cannot_be_written_is_refused_and_nothing_changes(
    log: EvidenceLog, path: Path, value: object
):
    log.append({"event": "first"})
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="record"):
        log.append({"event": value})
    assert path.read_bytes() == before
    log.append({"event": "second"})
    assert log.verify() == 2


def test_a_record_that_is_too_long_is_refused(log: EvidenceLog, path: Path):
    with pytest.raises(InvalidArgument, match=f"at most {RECORD_MAX}"):
        log.append({"event": "x" * RECORD_MAX})
    assert path.read_bytes() == b""


def test_the_tail_can_be_of_one_covenant_or_agent(log: EvidenceLog):
    for number in range(6):
        log.append({"event": number, "covenant": number % 2, "agent": AGENT if number > 3 else "x"})
    assert events(log, 2) == [4, 5]
    assert events(log, 0) == []
    assert [each.record["event"] for each in log.tail(2, covenant=1)] == [3, 5]
    assert [each.record["event"] for each in log.tail(9, agent=AGENT)] == [4, 5]
    assert [each.record["event"] for each in log.tail(9, covenant=0, agent=AGENT)] == [4]
    assert log.tail(9, covenant=2) == []


def test_lines_longer_than_a_block_are_read_backwards(log: EvidenceLog):
    for number in range(4):
        log.append({"event": number, "padding": "x" * 100_000 * number})
    assert events(log) == [0, 1, 2, 3]
    assert log.verify() == 4


def test_the_chain_goes_on_after_a_restart(log: EvidenceLog, path: Path):
    log.append({"event": 1})
    log.close()
    log.close()
    with EvidenceLog(path) as again:
        assert again.append({"event": 2}).number == 2
        assert again.verify() == 2


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_torn_record_is_cut_off_and_told(
    log: EvidenceLog, path: Path, left: int, caplog: pytest.LogCaptureFixture
):
    log.append({"event": 1})
    whole = path.stat().st_size
    log.append({"event": 2})
    size = whole + left if left > 0 else path.stat().st_size + left
    os.truncate(path, size)
    with EvidenceLog(path) as again:
        assert path.stat().st_size == whole
        assert "torn record cut off" in caplog.text
        assert again.append({"event": 3}).number == 2
        assert events(again) == [1, 3]
        assert again.verify() == 2


def test_a_file_that_is_torn_from_the_beginning(path: Path, caplog: pytest.LogCaptureFixture):
    path.write_bytes(bytes(200_000))
    with EvidenceLog(path) as log:
        assert path.stat().st_size == 0
        assert log.append({"event": 1}).number == 1
        assert log.verify() == 1
    assert "torn record cut off" in caplog.text


def _change(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"two", b"TWO"), *lines[2:]]


def _leave_out(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def _put_in(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[1], *lines[2:]]


def _exchange(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _spoil(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b"[]\n", *lines[2:]]


def _cut_the_end(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


@pytest.mark.parametrize("tamper", [_change, _leave_out, _put_in, _exchange, _spoil, _cut_the_end])
def test_whatever_is_changed_is_found(log: EvidenceLog, path: Path, tamper):
    for word in ("one", "two", "three", "four"):
        log.append({"event": word})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(tamper(lines)))
    with pytest.raises(EvidenceBroken, match=r"evidence\.log"):
        log.verify()


def test_a_damaged_last_line_stays_and_the_chain_goes_on_behind_it(
    log: EvidenceLog, path: Path, caplog: pytest.LogCaptureFixture
):
    log.append({"event": 1})
    with path.open("ab") as file:
        file.write(b"damaged\n")
    with EvidenceLog(path) as again:
        assert "damaged record" in caplog.text
        assert again.append({"event": 2}).number == 3
        assert events(again) == [1, 2]
        with pytest.raises(EvidenceBroken, match="line 2: is no record"):
            again.verify()


def test_parts_are_bounded_and_the_chain_runs_through_them(path: Path):
    with EvidenceLog(path, part_bytes=1_000, parts=3) as log:
        for number in range(40):
            log.append({"event": number})
        parts = sorted(each.name for each in path.parent.iterdir())
        assert parts == ["evidence.log", "evidence.log.1", "evidence.log.2"]
        for part in path.parent.iterdir():
            assert part.stat().st_size <= 1_000
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
        kept = events(log)
        assert kept == list(range(40 - len(kept), 40))
        assert log.verify() == len(kept) < 40
    with EvidenceLog(path, part_bytes=1_000, parts=3) as again:
        assert again.append({"event": 40}).number == 41


def test_a_crash_in_the_middle_of_a_rotation_loses_nothing(log: EvidenceLog, path: Path):
    log.append({"event": 1})
    log.close()
    path.rename(path.with_name("evidence.log.1"))
    with EvidenceLog(path) as again:
        assert again.append({"event": 2}).number == 2
        assert events(again) == [1, 2]
        assert again.verify() == 2


def test_a_part_that_was_taken_away_is_found(path: Path):
    with EvidenceLog(path, part_bytes=300, parts=4) as log:
        for number in range(6):
            log.append({"event": number})
        path.with_name("evidence.log.1").unlink()
        with pytest.raises(EvidenceBroken, match="does not follow"):
            log.verify()


def test_a_full_disk_leaves_no_half_line(
    log: EvidenceLog, path: Path, monkeypatch: pytest.MonkeyPatch
):
    log.append({"event": 1})
    before = path.read_bytes()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        with pytest.raises(OSError, match="No space left"):
            log.append({"event": 2})
    assert path.read_bytes() == before
    log.append({"event": 3})
    assert log.verify() == 2


@pytest.mark.parametrize(("part_bytes", "parts"), [(0, 2), (1, 1)])
def test_sizes_that_make_no_sense(path: Path, part_bytes: int, parts: int):
    with pytest.raises(InvalidArgument):
        EvidenceLog(path, part_bytes=part_bytes, parts=parts)
    assert not path.exists()
