# SPDX-License-Identifier: Apache-2.0
"""Stores of two hosts on a switch."""

from __future__ import annotations

import json
import time

import pytest

from assent.demo.nodes import DemoError, Nodes
from assent.storage.blocks import BlockStore

from .conftest import widen

pytestmark = pytest.mark.netns

MIB = 1 << 20


class Stores:
    """A store a host."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        for name in ("left", "right"):
            self.run(name, "init", "--limit", "100MiB")

    def options(self, name: str) -> list[str]:
        return ["--store", str(self.nodes.scratch / f"{name}.store")]

    def run(self, name: str, *arguments: object) -> str:
        return self.nodes.ask(name, "store", *map(str, arguments), *self.options(name))

    def sync(self, *arguments: str):
        return json.loads(self.run("left", "sync", "right", "--json", *arguments))

    def serve(self, *arguments: str):
        return self.nodes.background("right", "store", "serve", *arguments, *self.options("right"))

    def get(self, name: str, file: str) -> bytes:
        target = self.nodes.scratch / f"{name}.{file}"
        self.run(name, "get", file, "--output", target)
        return target.read_bytes()


@pytest.fixture
def stores(pair) -> Stores:
    widen(pair, 2, 3, window=8192)
    return Stores(pair)


def test_stores_become_alike(stores, random_file):
    theirs, ours = random_file("theirs.bin", 8 * MIB), random_file("ours.bin", 3 * MIB)
    stores.run("right", "put", theirs)
    stores.run("left", "put", ours)
    with pytest.raises(DemoError, match="nobody listens for 'storage'"):
        stores.sync()
    stores.serve("--follow", "files")
    assert stores.sync("--pull-only")[0]["fetched"] > 8 * MIB
    assert len(json.loads(stores.run("right", "ls", "--json"))["dags"]["files"]) == 1
    assert stores.sync() == [], "nothing was lacking here"
    for name in ("left", "right"):
        for file in (theirs, ours):
            assert stores.get(name, file.name) == file.read_bytes()


def test_what_was_fetched_is_kept_when_the_peer_dies(stores, random_file):
    theirs = random_file("theirs.bin", 60 * MIB)
    stores.run("right", "put", theirs)
    server = stores.serve()
    command = ("store", "sync", "right", "--json", *stores.options("left"))
    syncing = stores.nodes.on_terminal("left", *command)
    with BlockStore(stores.nodes.scratch / "left.store") as ours:
        deadline = time.monotonic() + 30
        while ours.usage < 4 * MIB:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        server.kill()
        with pytest.raises(DemoError):
            syncing.result(45)
        kept = ours.usage
    assert ours.limit > kept >= 4 * MIB
    stores.serve()
    (event,) = stores.sync()
    assert event["fetched"] <= 61 * MIB - kept
    assert stores.get("left", "theirs.bin") == theirs.read_bytes()
