# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import threading

import pytest
from blake3 import blake3

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.storage import blocks
from assent.storage.blocks import LIMIT_MIN, BlockDamagedError, BlockStore, hash_of
from assent.wire.control import MAX_BLOCK

MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    with BlockStore.create(tmp_path / "store", 16 * MIB) as made:
        yield made


def file_of(store, name):
    digits = name.hex()
    return store.path / "blocks" / digits[:2] / digits[2:4] / digits


def set_heads(store, dag, *heads):
    return store.change_heads(dag, lambda _: heads)


# ---- making and opening


def test_a_store_is_made_once(tmp_path):
    path = tmp_path / "a" / "store"
    BlockStore.create(path, LIMIT_MIN).close()
    with pytest.raises(AlreadyExists, match="already"):
        BlockStore.create(path, LIMIT_MIN)
    with BlockStore(path) as store:
        assert store.limit == LIMIT_MIN
        assert list(store.names()) == []
    assert path.stat().st_mode & 0o777 == 0o700


def test_what_is_no_store_is_not_opened(tmp_path):
    with pytest.raises(NotFound, match="assent store init"):
        BlockStore(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    ["", "{", "[]", '{"format": 2, "limit": 2000000}', '{"format": 1}', '{"format":1,"limit":"x"}'],
)
def test_settings_that_cannot_be_read_are_refused(tmp_path, settings):
    BlockStore.create(tmp_path, LIMIT_MIN).close()
    (tmp_path / "store.json").write_text(settings)
    with pytest.raises(FailedPrecondition):
        BlockStore(tmp_path)


def test_a_limit_that_holds_no_block_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="limit"):
        BlockStore.create(tmp_path / "store", LIMIT_MIN - 1)
    assert not (tmp_path / "store").exists()


# ---- blocks


@pytest.mark.parametrize("size", [0, 1, 1000, MAX_BLOCK])
def test_a_block_is_what_was_put(store, size):
    data = os.urandom(size)
    name = store.put(data)
    assert name == blake3(data).digest()
    assert store.get(name) == data
    assert store.hold(name)
    assert store.size_of(name) == size
    assert list(store.names()) == [name]
    assert store.usage == size


def test_a_block_stands_two_directories_deep(store):
    name = store.put(b"data")
    assert file_of(store, name).read_bytes() == b"data"
    assert list((store.path / "staged").iterdir()) == []


def test_whatever_holds_bytes_can_be_put(store):
    assert store.put(bytearray(b"x")) == store.put(memoryview(b"x")) == store.put(b"x")


def test_a_block_is_kept_once(store):
    store.put(b"data")
    store.put(b"data")
    assert store.usage == 4


def test_a_block_too_large_is_refused(store):
    with pytest.raises(InvalidArgument, match="block"):
        store.put(bytes(MAX_BLOCK + 1))
    assert store.usage == 0
    assert list(store.names()) == []


def test_what_is_not_there_is_not_found(store):
    for ask in (store.get, store.size_of):
        with pytest.raises(NotFound, match="not in the store"):
            ask(bytes(32))
    assert not store.hold(bytes(32))


@pytest.mark.parametrize("name", [b"", bytes(31), b"../../../etc/passwd"])
def test_a_name_is_a_hash(store, name):
    for ask in (store.get, store.size_of, store.hold):
        with pytest.raises(InvalidArgument, match="name"):
            ask(name)


@pytest.mark.parametrize("damage", [b"", b"date", b"data and more"])
def test_a_damaged_block_is_told_and_removed(store, damage):
    name = store.put(b"data")
    file_of(store, name).write_bytes(damage)
    with pytest.raises(BlockDamagedError, match="damaged"):
        store.get(name)
    assert not store.hold(name)
    assert store.put(b"data") == name
    assert store.get(name) == b"data"


def test_a_full_store_takes_nothing_more(tmp_path):
    with BlockStore.create(tmp_path / "store", LIMIT_MIN) as store:
        kept = store.put(bytes(LIMIT_MIN - 1))
        store.put(b"1")
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="full"):
                store.put(b"2")
        assert store.usage == LIMIT_MIN
        assert list((store.path / "staged").iterdir()) == []
        assert store.put(bytes(LIMIT_MIN - 1)) == kept, "what is there already needs no room"


def test_usage_is_counted_anew_where_it_is_lost(store):
    store.put(b"data")
    (store.path / "usage").unlink()
    with BlockStore(store.path) as again:
        assert again.usage == 4


def test_files_of_others_are_no_blocks(store):
    name = store.put(b"data")
    file_of(store, name).with_name("README").write_text("hello")
    assert list(store.names()) == [name]


# ---- heads


def test_heads_outlive_the_store_object(store):
    name = store.put(b"x")
    assert store.heads("notes") == ()
    assert set_heads(store, "notes", name) == (name,)
    assert set_heads(store, "ünïcode/../x", name) == (name,)
    with BlockStore(store.path) as again:
        assert again.heads("notes") == (name,)
        assert again.dags() == ["notes", "ünïcode/../x"]


def test_heads_are_sorted_and_few(store):
    names = [bytes([n]) * 32 for n in range(33)]
    assert set_heads(store, "a", *reversed(names[:32])) == tuple(names[:32])
    with pytest.raises(ResourceExhausted, match="32 heads"):
        set_heads(store, "a", *names)
    assert store.heads("a") == tuple(names[:32])


@pytest.mark.parametrize("dag", ["", "x" * 64])
def test_a_dag_needs_a_name(store, dag):
    with pytest.raises(InvalidArgument, match="dag"):
        set_heads(store, dag)
    with pytest.raises(InvalidArgument, match="dag"):
        store.heads(dag)


@pytest.mark.parametrize("text", ["no hash\n", "abcd\n"])
def test_damaged_heads_are_told(store, text):
    set_heads(store, "a", bytes(32))
    (store.path / "heads" / b"a".hex()).write_text(text)
    with pytest.raises(FailedPrecondition, match="damaged"):
        store.heads("a")


def test_a_dag_can_be_dropped(store):
    set_heads(store, "a", bytes(32))
    store.drop("a")
    assert store.dags() == []
    with pytest.raises(NotFound, match="no DAG"):
        store.drop("a")


def test_a_refused_change_changes_nothing(store):
    set_heads(store, "a", bytes(32))

    def refuse(_):
        raise ValueError

    with pytest.raises(ValueError):
        store.change_heads("a", refuse)
    assert store.heads("a") == (bytes(32),)
    store.put(b"not locked any more")


# ---- crashes


def test_a_block_is_on_disk_before_it_has_its_name_and_its_directory_before_a_head(
    store, monkeypatch
):
    done = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: done.append("data"))
    monkeypatch.setattr(blocks, "_sync_directory", lambda folder: done.append(folder.name))
    name = store.put(b"data")
    assert done == ["data"]
    set_heads(store, "a", name)
    digits = name.hex()
    assert set(done[1:4]) == {"blocks", digits[:2], digits[2:4]}
    assert done[4:] == ["data", "heads"]


class Crash(BaseException):
    pass


@pytest.mark.parametrize("step", ["fdatasync", "pwrite", "rename"])
def test_a_crash_while_putting_leaves_whole_blocks_and_enough_room_told(store, monkeypatch, step):
    first = store.put(b"first")

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(type(store.path), "rename", crash)
        else:
            patch.setattr(os, step, crash)
        with pytest.raises(Crash):
            store.put(b"second")
    with BlockStore(store.path) as again:
        assert list(again.names()) == [first]
        assert again.usage >= 5
        assert again.get(again.put(b"second")) == b"second"
        # The next collection sets right what the crash left too large.
        again.collect(lambda _: True, 0)
        assert again.usage == 11


def test_what_a_killed_writer_has_staged_is_removed_once_it_is_old(store):
    staged = store.path / "staged" / "left"
    staged.write_bytes(b"half a blo")
    os.utime(staged, (100, 100))
    store.collect(lambda _: True, 100)
    assert staged.exists()
    store.collect(lambda _: True, 101)
    assert not staged.exists()


# ---- collection


def test_a_collection_keeps_what_is_reachable_or_young(store):
    kept, old, young = store.put(b"kept"), store.put(b"old one"), store.put(b"young")
    for name in (kept, old):
        os.utime(file_of(store, name), (100, 100))
    done = store.collect(lambda name: name == kept, 200)
    assert (done.blocks, done.freed, done.kept) == (1, 7, 2)
    assert set(store.names()) == {kept, young}
    assert store.usage == 9


def test_what_is_held_or_put_again_is_young(store):
    held, put = store.put(b"held"), store.put(b"put")
    for name in (held, put):
        os.utime(file_of(store, name), (100, 100))
    assert store.hold(held)
    assert store.put(b"put") == put
    assert store.collect(lambda _: False, 200).blocks == 0


# ---- several at once


def test_threads_share_a_store(store):
    def work(seed):
        for n in range(30):
            store.put(f"{seed * n}".encode())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.usage == sum(map(store.size_of, store.names()))


PUT_SOME = """
import sys
from pathlib import Path
from assent.storage.blocks import BlockStore
with BlockStore(Path(sys.argv[1])) as store:
    for n in range(40):
        store.put(f"{int(sys.argv[2]) * n}".encode())
"""


def test_processes_share_a_store(store):
    commands = [[sys.executable, "-c", PUT_SOME, str(store.path), seed] for seed in "12"]
    workers = [subprocess.Popen(command) for command in commands]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert store.usage == sum(map(store.size_of, store.names()))
    assert store.hold(hash_of(b"78"))
