# SPDX-License-Identifier: Apache-2.0
"""`assent covenant watch`: what becomes of covenants, as it happens."""

from __future__ import annotations

import json as jsonlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer

from assent.cli.context import JsonFlag, connect, wants_json

if TYPE_CHECKING:
    from assent.client import ApiError
    from assent.v1.covenants_pb2 import CovenantNews

_RETRY_SECONDS: Final = 1.0
# How a stream ends with its daemon: the socket is gone, or the call is cancelled on the way down.
_GONE: Final = frozenset({"UNAVAILABLE", "CANCELLED"})


def register(noun: typer.Typer) -> None:
    """Adds the command of this module."""
    noun.command()(watch)


def watch(
    ctx: typer.Context,
    handle: Annotated[
        int, typer.Argument(metavar="[HANDLE]", min=0, help="Only of this covenant.")
    ] = 0,
    json: JsonFlag = False,
) -> None:
    """Show what becomes of covenants, until interrupted.

    When the daemon stops, this waits for it, and goes on.
    """
    show = _print_json if wants_json(ctx, json) else _printer()
    with _Watch(ctx, handle) as news:
        for each in news:
            show(each)


class _Watch:
    """News from now on, whatever becomes of the daemon, until interrupted."""

    def __init__(self, ctx: typer.Context, handle: int) -> None:
        self._ctx = ctx
        self._handle = handle
        self._enough = threading.Event()
        self._call: Any = None
        self._former: Any = None

    def __enter__(self) -> Self:
        # Raised in the middle of a read, an interrupt would leave gRPC's stream unreadable.
        self._former = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._former)

    def __iter__(self) -> Iterator[CovenantNews]:
        from assent.client import ApiError

        has_been_there = False
        is_away = False
        while not self._enough.is_set():
            try:
                for each in self._stream():
                    if is_away:
                        _say("the daemon is back: see `assent covenant list` for what was missed")
                    has_been_there, is_away = True, False
                    if each is not None:
                        yield each
            except ApiError as error:
                if not self._enough.is_set() and not (has_been_there and _is_gone(error)):
                    raise
            if has_been_there and not is_away and not self._enough.is_set():
                _say("the daemon is gone; waiting for it")
                is_away = True
            self._enough.wait(_RETRY_SECONDS)

    def _stream(self) -> Iterator[CovenantNews | None]:
        """None once the daemon watches, then the news."""
        from assent.v1.covenants_pb2 import WatchCovenantsRequest

        with connect(self._ctx) as client:
            self._call = client.covenants.Watch(WatchCovenantsRequest(handle=self._handle))
            try:
                if self._enough.is_set():
                    return
                self._call.initial_metadata()
                if self._call.is_active():
                    yield None
                yield from self._call
            finally:
                self._call.cancel()

    def _interrupt(self, *_: object) -> None:
        if self._enough.is_set():
            raise KeyboardInterrupt
        self._enough.set()
        if self._call is not None:
            self._call.cancel()


def _is_gone(error: ApiError) -> bool:
    return error.code in _GONE


def _say(text: str) -> None:
    print(f"assent: {text}", file=sys.stderr, flush=True)


def _print_json(news: CovenantNews) -> None:
    from assent.cli.render import to_dict

    print(jsonlib.dumps(to_dict(news)), flush=True)


def _printer() -> Callable[[CovenantNews], None]:
    """What prints news for people: in colour on a terminal, whatever its width."""
    from assent.cli.covenant_page import news_parts

    if not sys.stdout.isatty():
        return lambda news: print("".join(news_parts(news)[:3]), flush=True)
    from rich.text import Text

    from assent.cli.covenant_page import console

    out = console()

    def show(news: CovenantNews) -> None:
        before, kind, after, style = news_parts(news)
        out.print(Text.assemble(before, (kind, style), after), soft_wrap=True)

    return show
