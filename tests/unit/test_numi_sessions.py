# SPDX-License-Identifier: Apache-2.0
"""No nonce twice: session ids over crashes, and the places of a session."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from assent.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from assent.numiport.keys import Ends, Secrets, nonce
from assent.numiport.sessions import SEQ_END, Heard, Moment, Places, SessionIds, number_of
from assent.numiport.wire import Fault, NumiportError

MORTAL = Path(__file__).with_name("numi_mortal.py")
NOON = 1_800_000_000 * 10**9
SECOND = 10**9


def ids(directory, **changes):
    # The worst: randomness that repeats, so that the number alone tells ids apart.
    return SessionIds(directory, **{"random": bytes, "block": 4, **changes})


def taken(directory, count=1, now=0, **changes):
    with ids(directory, **changes) as book:
        return [number_of(book.take(now)) for _ in range(count)]


# -- what an id is ---------------------------------------------------------------------------------


def test_an_id_is_a_number_and_eight_random_bytes(tmp_path):
    with SessionIds(tmp_path, random=lambda count: b"\xaa" * count) as book:
        first = book.take(NOON)
        second = book.take(NOON - SECOND)
    assert first == NOON.to_bytes(8, "big") + b"\xaa" * 8
    assert second == (NOON + 1).to_bytes(8, "big") + b"\xaa" * 8
    assert (number_of(first), number_of(second)) == (NOON, NOON + 1)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_only_16_bytes_are_an_id(length):
    with pytest.raises(InvalidArgument, match="session_id"):
        number_of(bytes(length))


def test_numbers_rise_from_block_to_block_and_from_start_to_start(tmp_path):
    numbers = taken(tmp_path, 10) + taken(tmp_path, 10) + taken(tmp_path, 1) + taken(tmp_path, 5)
    assert numbers == sorted(set(numbers))


def test_what_a_start_has_not_used_is_not_used_by_the_next(tmp_path):
    assert taken(tmp_path, 1) == [0]
    assert taken(tmp_path, 1) == [4]


@pytest.mark.parametrize("later", [0, NOON - SECOND, NOON, NOON + 1])
def test_a_clock_that_goes_back_or_stands_still_gives_no_number_twice(tmp_path, later):
    before = taken(tmp_path, 9, NOON)
    after = taken(tmp_path, 9, later)
    assert min(after) > max(before)


def test_where_the_file_is_lost_numbers_go_on_from_the_clock(tmp_path):
    before = taken(tmp_path, 3, NOON)
    (tmp_path / "sessions").unlink()
    assert taken(tmp_path, 1, NOON + SECOND) == [NOON + SECOND]
    assert max(before) < NOON + SECOND


def test_where_the_file_is_lost_and_the_clock_wrong_the_random_half_differs(tmp_path):
    given = set()
    for _ in range(20):
        with SessionIds(tmp_path) as book:
            given.add(book.take(0))
        (tmp_path / "sessions").unlink()
    assert len(given) == 20
    assert {number_of(session_id) for session_id in given} == {0}


def test_the_directory_and_its_files_are_the_owners_alone(tmp_path):
    directory = tmp_path / "deep" / "state"
    directory.parent.mkdir()
    directory.mkdir(mode=0o755)
    taken(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"sessions": 0o600, "sessions.lock": 0o600}


# -- who may take them -----------------------------------------------------------------------------


def test_one_process_at_a_time_has_the_directory(tmp_path):
    with ids(tmp_path) as book:
        book.take(0)
        # A lock belongs to an open file, not to a process: a second one in here is another's.
        with pytest.raises(FailedPrecondition, match="in use"):
            ids(tmp_path)
        assert number_of(book.take(0)) == 1
    assert taken(tmp_path) == [4]


def test_a_lock_is_not_left_behind_by_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "sessions").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="damaged"):
            ids(tmp_path)


def test_a_closed_book_gives_nothing(tmp_path):
    book = ids(tmp_path)
    book.close()
    book.close()
    with pytest.raises(FailedPrecondition):
        book.take(0)
    assert not (tmp_path / "sessions").exists()


def test_a_fork_does_not_take_its_parents_numbers(tmp_path, monkeypatch):
    with ids(tmp_path) as book:
        book.take(0)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(FailedPrecondition, match="not this process's"):
            book.take(0)


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_has_numbers(tmp_path, block):
    with pytest.raises(InvalidArgument, match="block"):
        ids(tmp_path / "new", block=block)
    assert not (tmp_path / "new").exists()


def test_numbers_end(tmp_path):
    last = (1 << 64) - 6
    with ids(tmp_path) as book:
        assert number_of(book.take(last)) == last
        for _ in range(3):
            book.take(0)
        for now in (0, 1 << 70):
            with pytest.raises(ResourceExhausted):
                book.take(now)


# -- damage and failure ----------------------------------------------------------------------------


def test_a_file_that_is_damaged_in_any_bit_is_refused_and_left_alone(tmp_path):
    taken(tmp_path, 1, NOON)
    path = tmp_path / "sessions"
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(FailedPrecondition, match="damaged"):
            ids(tmp_path)
        assert path.read_bytes() == bad
    for bad in (good[:-1], good + b"\0", b"", good[:16]):
        path.write_bytes(bad)
        with pytest.raises(FailedPrecondition, match="damaged"):
            ids(tmp_path)
    path.write_bytes(good)
    assert taken(tmp_path) == [NOON + 4]


@pytest.mark.parametrize("failing", ["open", "fsync", "replace", "directory"])
def test_what_cannot_be_written_is_not_handed_out(tmp_path, monkeypatch, failing):
    before = taken(tmp_path, 3)
    with ids(tmp_path) as book, monkeypatch.context() as patch:
        real_fsync = os.fsync

        def fail(*_arguments, **_named):
            raise OSError(errno.EIO, "the disk is gone")

        def fail_directory(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                fail()
            real_fsync(fd)

        if failing == "replace":
            patch.setattr(Path, "replace", fail)
        elif failing == "directory":
            patch.setattr(os, "fsync", fail_directory)
        else:
            patch.setattr(os, failing, fail)
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                book.take(0)
        patch.undo()
        during = [number_of(book.take(0)) for _ in range(6)]
    after = taken(tmp_path, 3)
    numbers = before + during + after
    assert numbers == sorted(set(numbers))


def test_a_draft_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / "sessions.draft").symlink_to(victim)
    taken(state)
    assert victim.read_bytes() == b"precious"
    assert not (state / "sessions.draft").exists()


# -- crashes ---------------------------------------------------------------------------------------


def test_a_process_that_is_killed_at_any_line_never_gave_a_number_that_is_given_again(tmp_path):
    done = subprocess.run(
        [sys.executable, str(MORTAL), str(tmp_path)], capture_output=True, check=True, timeout=120
    )
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == b""
    # Three blocks of two, each with its file: some hundred lines, at each of which one died.
    assert len(lives) > 100
    assert [life["killed"] for life in lives] == [True] * (len(lives) - 1) + [False]
    numbers = [
        number_of(bytes.fromhex(life["given"])[at : at + 16])
        for life in lives
        for at in range(0, len(life["given"]) // 2, 16)
    ]
    assert len({len(life["given"]) // 32 for life in lives}) == 6, "some died after each id"
    assert numbers == sorted(set(numbers))


class Crash(BaseException):
    """The process ends here; nothing that is written in Python for failures takes place."""


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("time", [1, 2, 3])
def test_after_a_crash_at_any_moment_numbers_rise(tmp_path, moment, time):
    numbers = []
    count = 0

    def reach(come_to):
        nonlocal count
        count += come_to is moment
        if come_to is moment and count == time:
            raise Crash

    before = taken(tmp_path, 3)
    with contextlib.suppress(Crash), ids(tmp_path, block=2, reach=reach) as book:
        for _ in range(8):
            session_id = book.take(0)
            numbers.append(number_of(session_id))
    assert (count == time) == (moment is not Moment.OPENED or time == 1)
    numbers = [*before, *numbers, *taken(tmp_path, 3)]
    assert numbers == sorted(set(numbers))


class Disk:
    """What a disk has kept when the power goes: what was synchronized, and of the rest, anything.

    Names are on the disk when their directory is synchronized, contents when the file is; before,
    a name may be the former or the new one, and a content nothing, half or all.
    """

    def __init__(self, directory, monkeypatch):
        self.directory = directory
        self.files = {}  # by inode, the number of a file
        self.numbers = itertools.count()
        self.synced = {}  # by that number, the content on the disk
        self.names = {}  # the name's file on the disk
        self.kept = []  # whatever a power cut may have left, at some time
        real_open, real_fsync, real_replace = os.open, os.fsync, Path.replace

        def open_(path, flags, *arguments, **named):
            fd = real_open(path, flags, *arguments, **named)
            if flags & os.O_EXCL:
                self.files[os.fstat(fd).st_ino] = next(self.numbers)
            self.note()
            return fd

        def fsync(fd):
            self.note()
            real_fsync(fd)
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                self.names = self.current_names()
            else:
                number = self.files[status.st_ino]
                self.synced[number] = Path(f"/proc/self/fd/{fd}").read_bytes()
            self.note()

        def replace(path, target):
            self.note()
            done = real_replace(path, target)
            self.note()
            return done

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)

    def current_names(self):
        return {
            path.name: self.files[path.stat().st_ino]
            for path in self.directory.iterdir()
            if path.stat().st_ino in self.files
        }

    def current_contents(self):
        return {
            self.files[path.stat().st_ino]: path.read_bytes()
            for path in self.directory.iterdir()
            if path.stat().st_ino in self.files
        }

    def note(self, _moment=None):
        contents = self.current_contents()
        for names in (self.names, self.current_names()):
            number = names.get("sessions")
            if number is None:
                self.kept.append(None)
            elif number in self.synced:
                self.kept.append(self.synced[number])
            else:
                whole = contents[number]
                self.kept += [b"", whole[: len(whole) // 2], whole]


def test_after_a_power_cut_at_any_point_numbers_rise(tmp_path, monkeypatch):
    state = tmp_path / "state"
    state.mkdir()
    cuts = []
    with monkeypatch.context() as patch:
        disk = Disk(state, patch)
        given = []
        for _ in range(3):
            with ids(state, block=2, reach=disk.note) as book:
                for _ in range(5):
                    disk.kept.clear()
                    number = number_of(book.take(0))
                    # What is cut off within the call has given away nothing of it.
                    cuts += [(list(given), kept) for kept in disk.kept]
                    given.append(number)
                    disk.kept.clear()
                    disk.note()
                    cuts += [(list(given), kept) for kept in disk.kept]
    assert given == sorted(set(given))
    assert len(cuts) > 100
    for index, (before, kept) in enumerate(cuts):
        copy = tmp_path / str(index)
        copy.mkdir()
        if kept is not None:
            (copy / "sessions").write_bytes(kept)
        after = taken(copy, 3)
        assert min(after) > max(before, default=-1)


def test_directories_that_are_made_are_on_the_disk_too(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(fd):
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    ids(tmp_path / "a" / "b").close()
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "a")]
    synced.clear()
    ids(tmp_path / "a" / "b").close()
    assert synced == []


def test_a_disk_that_is_not_synchronized_would_have_been_found_out(tmp_path, monkeypatch):
    # The model above, held to itself: without fsync it must show what goes wrong.
    state = tmp_path / "state"
    state.mkdir()
    disk = Disk(state, monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    with ids(state, reach=disk.note) as book:
        book.take(0)
        disk.kept.clear()
        disk.note()
    assert None in disk.kept
    assert b"" in disk.kept


# -- what a peer has been heard with ---------------------------------------------------------------


def session(number, tail=b"\0"):
    return number.to_bytes(8, "big") + tail * 8


def test_a_peers_sessions_replace_each_other_and_do_not_come_back():
    heard = Heard()
    assert [heard.take(session(number)) for number in (5, 5, 7, 7, 9)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    for former in (5, 7, 8, 0):
        for call in (heard.check, heard.take):
            with pytest.raises(NumiportError) as caught:
                call(session(former))
            assert caught.value.fault is Fault.REPLAY
    assert heard.take(session(9)) is False


def test_a_session_of_the_same_number_and_other_bytes_is_a_former_one():
    heard = Heard()
    heard.take(session(5))
    with pytest.raises(NumiportError) as caught:
        heard.take(session(5, b"\1"))
    assert caught.value.fault is Fault.REPLAY


def test_to_look_at_a_session_changes_nothing():
    heard = Heard()
    heard.check(session(9))
    assert heard.take(session(5)) is True
    heard.check(session(9))
    assert heard.take(session(5)) is False


@pytest.mark.parametrize("length", [0, 15, 17])
def test_what_is_no_session_is_the_callers_mistake(length):
    heard = Heard()
    for call in (heard.check, heard.take):
        with pytest.raises(InvalidArgument, match="session_id"):
            call(bytes(length))
    assert heard.take(session(0)) is True


# -- places ----------------------------------------------------------------------------------------


def test_places_are_numbered_by_slot_and_stream():
    places = Places()
    assert [places.take(7, 0), places.take(7, 0), places.take(7, 1), places.take(8, 0)] == [
        0,
        1,
        0,
        0,
    ]
    assert places.take(7, 0, count=10) == 2
    assert places.take(7, 0) == 12


def test_what_is_forgotten_is_refused():
    places = Places(slots=2)
    for slot in (5, 6, 7):
        places.take(slot, 0)
    assert len(places) == 2
    for slot in (0, 4, 5):
        with pytest.raises(FailedPrecondition, match="over"):
            places.take(slot, 0)
    assert places.take(6, 0) == 1
    assert len(places) == 2


def test_a_slot_between_those_that_are_kept_does_not_push_out_an_older_one_for_nothing():
    places = Places(slots=2)
    places.take(10, 0)
    places.take(20, 0)
    with pytest.raises(FailedPrecondition, match="over"):
        places.take(9, 0)
    assert places.take(10, 0) == 1
    assert places.take(15, 0) == 0
    with pytest.raises(FailedPrecondition, match="over"):
        places.take(10, 0)


def test_a_number_that_would_wrap_makes_its_slot_invalid():
    places = Places()
    assert places.take(7, 0, count=SEQ_END - 1) == 0
    assert places.take(7, 0) == SEQ_END - 1
    places.take(7, 1)
    for stream in (0, 1, 2):
        with pytest.raises(ResourceExhausted, match="slot 7"):
            places.take(7, stream)
    assert places.take(8, 0) == 0


def test_a_slot_has_eight_streams_at_most():
    places = Places()
    for stream in range(8):
        places.take(1, stream)
    with pytest.raises(ResourceExhausted, match="streams"):
        places.take(1, 8)
    assert places.take(1, 7) == 1


@pytest.mark.parametrize(
    ("slot", "stream", "count"),
    [(-1, 0, 1), (1 << 64, 0, 1), (0, -1, 1), (0, 1 << 32, 1), (0, 0, 0), (0, 0, -1)],
)
def test_a_place_that_does_not_fit_is_the_callers_mistake(slot, stream, count):
    places = Places()
    with pytest.raises(InvalidArgument, match="place"):
        places.take(slot, stream, count)
    assert len(places) == 0


def test_at_least_one_slot_is_kept():
    with pytest.raises(InvalidArgument, match="slots"):
        Places(slots=0)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(1, 3)), max_size=80),
)
def test_no_place_is_handed_out_twice_in_whatever_order_slots_come(slots, wishes):
    places = Places(slots)
    given = []
    for slot, stream, count in wishes:
        try:
            first = places.take(slot, stream, count)
        except FailedPrecondition:
            continue
        given += [(slot, stream, seq) for seq in range(first, first + count)]
        assert len(places) <= slots
    assert len(given) == len(set(given))


# -- all of it together ----------------------------------------------------------------------------


class Node:
    """One of two peers: its disk, its clock and what it has in memory."""

    def __init__(self, peer, directory):
        self.peer = peer
        self.directory = directory
        self.now = NOON
        self.start()

    def start(self):
        self.book = SessionIds(self.directory, block=2)
        self.open_session()

    def open_session(self):
        self.session_id = self.book.take(self.now)
        self.places = Places()


class NonceMachine(RuleBasedStateMachine):
    """Two peers that send, are killed, rotate keys and lose their clocks: no nonce comes twice."""

    @initialize()
    def set_up(self):
        self.folder = tempfile.TemporaryDirectory()
        # No power is cut here, so nothing needs to wait for the disk.
        self.fsync = mock.patch("os.fsync")
        self.fsync.start()
        names = [bytes([number]) * 32 for number in (1, 2)]
        self.ends = Ends.of_psk(*names)
        self.nodes = [Node(name, Path(self.folder.name) / name.hex()[:2]) for name in names]
        self.secrets = [Secrets.from_master(bytes([number]) * 32) for number in (1, 2)]
        self.epoch = 0
        self.slot = 1000
        self.used = set()
        self.count = 0

    @rule(
        node=st.integers(0, 1),
        slot=st.integers(-3, 1),
        stream=st.integers(0, 3),
        count=st.integers(1, 3),
        key=st.integers(0, 1),
    )
    def send(self, node, slot, stream, count, key):
        sender = self.nodes[node]
        self.slot += max(slot, 0)
        slot += self.slot
        first = sender.places.take(slot, stream, count)
        salt = self.secrets[key].salt(sender.session_id, self.ends, self.epoch)
        direction = self.ends.direction_from(sender.peer)
        for seq in range(first, first + count):
            self.used.add((key, nonce(salt, slot, stream, seq, direction)))
            self.count += 1

    @rule(node=st.integers(0, 1), back=st.integers(0, 5))
    def kill(self, node, back):
        mortal = self.nodes[node]
        mortal.book.close()
        mortal.now -= back * SECOND
        mortal.start()

    @rule(node=st.integers(0, 1))
    def lose_the_disk(self, node):
        mortal = self.nodes[node]
        mortal.book.close()
        (mortal.directory / "sessions").unlink()
        mortal.now = NOON
        mortal.start()

    @rule(node=st.integers(0, 1))
    def open_another_session(self, node):
        self.nodes[node].open_session()

    @rule()
    def rotate(self):
        self.epoch += 1

    @rule()
    def rotate_back(self):
        self.epoch = max(self.epoch - 1, 0)

    @invariant()
    def no_nonce_came_twice(self):
        if hasattr(self, "used"):
            assert len(self.used) == self.count

    def teardown(self):
        if hasattr(self, "nodes"):
            for node in self.nodes:
                node.book.close()
            self.fsync.stop()
            self.folder.cleanup()


TestNonces = NonceMachine.TestCase


def test_a_lock_is_flock_and_goes_with_its_process(tmp_path):
    taken(tmp_path)
    with (tmp_path / "sessions.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FailedPrecondition, match="in use"):
            ids(tmp_path)
