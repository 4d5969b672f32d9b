# SPDX-License-Identifier: Apache-2.0
"""`assent store` on one host; with a peer, see tests/netns/test_storage.py."""

import json
import os

import pytest
from typer.testing import CliRunner

from assent.cli.main import app
from assent.storage.blocks import BlockStore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path, monkeypatch):
    path = tmp_path / "store"
    monkeypatch.setenv("ASSENT_STORE", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["store", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def made(store):
    run("init", "--limit", "16MiB")
    return store


def test_a_store_is_made_with_a_limit(store):
    assert "may hold 1.5 GiB" in run("init", "--limit", "1.5GiB").stdout
    with BlockStore(store) as opened:
        assert opened.limit == 3 * MIB * 512
    assert "is a store already" in run("init", code=1).stderr


@pytest.mark.parametrize("limit", ["", "much", "10 GB/s", "-1", "1KiB"])
def test_a_limit_that_is_none_is_refused(store, limit):
    assert "limit:" in run("init", "--limit", limit, code=2).stderr
    assert not store.exists()


@pytest.mark.parametrize(
    "command",
    [["put", "/etc/passwd"], ["get", "x"], ["ls"], ["drop", "x"], ["gc"], ["sync", "x"], ["serve"]],
)
def test_without_a_store_nothing_is_active(store, command):
    assert "assent store init" in run(*command, code=1).stderr
    assert not store.exists()


def test_what_is_put_is_listed_and_comes_back(made, tmp_path):
    data = os.urandom(2 * MIB)
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "b.bin").write_bytes(b"b")
    put = json.loads(run("put", "a.bin", "b.bin", "--json").stdout)
    listed = json.loads(run("ls", "--json").stdout)
    assert listed["dags"]["files"] == put["dags"]["files"][::-1]
    assert listed["limit"] == 16 * MIB
    shown = run("ls").stdout
    assert "a.bin" in shown
    assert "of 16 MiB in use" in shown
    root = put["dags"]["files"][0]["root"]
    for what in ("a.bin", root):
        run("get", what, "-o", "out")
        assert (tmp_path / "out").read_bytes() == data
    (tmp_path / "a.bin").unlink()
    run("get", "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == data


def test_the_newest_of_a_name_is_meant(made, tmp_path):
    for text in ("old", "new"):
        (tmp_path / "note").write_text(text)
        run("put", "note")
    assert run("get", "note", "-o", "-").stdout == "new"


def test_what_is_not_there_leaves_no_file(made, tmp_path):
    assert "no file 'x'" in run("get", "x", code=1).stderr
    assert "not in the store" in run("get", "ab" * 32, code=1).stderr
    assert "not a regular file" in run("put", "x", code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_damaged_file_is_not_written(made, tmp_path):
    (tmp_path / "a").write_text("data")
    run("put", "a")
    with BlockStore(made) as opened:
        leaf = next(name for name in opened.names() if opened.get(name) == b"data").hex()
    (made / "blocks" / leaf[:2] / leaf[2:4] / leaf).write_text("date")
    assert "damaged" in run("get", "a", "-o", "out", code=1).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "store"]


def test_a_dropped_history_is_collected(made, tmp_path):
    (tmp_path / "a").write_text("data")
    run("put", "a", "--dag", "notes")
    assert "0 blocks removed" in run("gc", "--grace", "0").stdout
    run("drop", "notes")
    assert "no DAG" in run("drop", "notes", code=1).stderr
    assert "0 blocks removed" in run("gc").stdout, "it is young"
    assert json.loads(run("gc", "--grace", "0", "--json").stdout)["blocks"] == 3
    assert "no files" in run("ls").stdout
