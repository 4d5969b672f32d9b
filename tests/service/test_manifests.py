# SPDX-License-Identifier: Apache-2.0
"""service/manifests.py: what peers announce is kept until it is taken, and is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from assent.errors import ResourceExhausted
from assent.service.manifests import PENDING_MAX, WATCHERS_MAX, Announced, ManifestBoard
from assent.wire.cellid import CellID
from assent.wire.control import Manifest, ManifestItem

ONE, TWO = CellID(b"1" * 16), CellID(b"2" * 16)


def announced(remote: CellID = ONE, flow: int = 1, name: str = "a") -> Announced:
    return Announced(remote, Manifest(flow, (ManifestItem(name, 1, bytes(32)),)))


async def take(watch: AsyncIterator[Announced], count: int = 1) -> list[Announced]:
    async with asyncio.timeout(5):
        return [await anext(watch) for _ in range(count)]


async def test_what_nobody_watches_waits_for_the_next_watcher():
    board = ManifestBoard()
    first, second = announced(name="1"), announced(name="2")
    assert board.post(first)
    assert board.post(second)
    async with contextlib.aclosing(board.watch(None)) as watch:
        assert await take(watch, 2) == [first, second]
    # Taken once, it is gone.
    async with contextlib.aclosing(board.watch(None)) as watch:
        board_is_quiet = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        assert not board_is_quiet.done()
        assert board.post(third := announced(name="3"))
        assert await board_is_quiet == third


async def test_every_watcher_gets_what_it_asked_for():
    board = ManifestBoard()
    all_, only_two, only_flow_3 = board.watch(None), board.watch(TWO), board.watch(None, 3)
    watches = (all_, only_two, only_flow_3)
    asked = [asyncio.ensure_future(anext(watch)) for watch in watches]
    await asyncio.sleep(0)
    board.post(announced(ONE, 1))
    board.post(announced(TWO, 1))
    board.post(announced(ONE, 3))
    assert await asyncio.gather(*asked) == [
        announced(ONE, 1),
        announced(TWO, 1),
        announced(ONE, 3),
    ]
    assert await take(all_, 2) == [announced(TWO, 1), announced(ONE, 3)]
    for watch in watches:
        await watch.aclose()


async def test_what_is_not_asked_for_stays():
    board = ManifestBoard()
    board.post(announced(ONE, 1))
    board.post(announced(ONE, 2))
    async with contextlib.aclosing(board.watch(ONE, 2)) as watch:
        assert await take(watch) == [announced(ONE, 2)]
    async with contextlib.aclosing(board.watch(ONE)) as watch:
        assert await take(watch) == [announced(ONE, 1)]


async def test_what_a_watcher_leaves_behind_waits_for_the_next():
    board = ManifestBoard()
    async with contextlib.aclosing(board.watch(None)) as watch:
        asked = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        board.post(announced(name="taken"))
        board.post(announced(name="left"))
        assert await asked == announced(name="taken")
    async with contextlib.aclosing(board.watch(None)) as watch:
        assert await take(watch) == [announced(name="left")]


def test_a_remote_cell_may_leave_64_waiting_and_no_more():
    board = ManifestBoard()
    assert all(board.post(announced()) for _ in range(PENDING_MAX))
    assert not board.post(announced())
    assert board.post(announced(TWO))
    board.forget(ONE)
    assert board.post(announced())


async def test_a_watcher_that_does_not_read_is_bounded_too():
    board = ManifestBoard()
    async with contextlib.aclosing(board.watch(None)) as watch:
        asked = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        assert all(board.post(announced()) for _ in range(PENDING_MAX))
        assert not board.post(announced())
        await asked


async def test_watchers_are_bounded():
    board = ManifestBoard()
    watches = [board.watch(None) for _ in range(WATCHERS_MAX + 1)]
    asked = [asyncio.ensure_future(anext(watch)) for watch in watches]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="64 clients watch"):
        await asked.pop()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
