# SPDX-License-Identifier: Apache-2.0
"""`assent tokens`: what unprivileged applications show to be lent rings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from assent.cli.context import JsonFlag, cell_ref, connect, wants_json
from assent.errors import AlreadyExists, InvalidArgument

_SECOND_NS = 1_000_000_000
_SECOND_US = 1_000_000


def register(root: typer.Typer) -> None:
    """Adds the commands of this module."""
    noun = typer.Typer(help="Tokens, with which unprivileged applications are lent rings.")
    noun.command()(create)
    noun.command("list")(list_tokens)
    noun.command()(revoke)
    root.add_typer(noun, name="tokens")


def create(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose processes may show it.")],
    cell: Annotated[
        str | None, typer.Option(metavar="CELL", help="The cell of this host that it is good for.")
    ] = None,
    lifetime: Annotated[
        str, typer.Option("--for", metavar="SPAN", help="How long, as in 12h or 30d.")
    ] = "30d",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new file of that user's, mode 0600; else stdout."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make a token; this is the only time that it is shown."""
    from assent.cli import covenant_spans, render
    from assent.v1.tokens_pb2 import CreateTokenRequest

    request = CreateTokenRequest(
        uid=_uid(user), lifetime_s=covenant_spans.parse("--for", lifetime) // _SECOND_US
    )
    if cell is not None:
        request.cell.CopyFrom(cell_ref(cell))
    if output is not None and output.exists():
        raise AlreadyExists(f"{output} is there already")
    with connect(ctx) as client:
        reply = client.tokens.Create(request)
    as_json = wants_json(ctx, json)
    if output is None:
        # The one place where it is printed: it is what was asked for, and stands nowhere else.
        shown = render.to_dict(reply.token) | {"secret": reply.secret}
        render.print_json(shown) if as_json else print(reply.secret)
        return
    _write(output, reply.secret, request.uid)
    said = f"{output} holds token {reply.token.id} for cell {reply.token.cell_name}"
    render.emit(as_json, reply.token, lambda: render.line(said))


def list_tokens(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the tokens that are good; never their secrets."""
    from assent.cli import render
    from assent.v1.tokens_pb2 import ListTokensRequest

    with connect(ctx) as client:
        reply = client.tokens.List(ListTokensRequest())
    rows = [
        (
            token.id,
            _user(token.uid),
            token.cell_name,
            render.when(token.created_at * _SECOND_NS),
            render.when(token.expires_at * _SECOND_NS),
            token.rings,
        )
        for token in reply.tokens
    ]
    render.emit(
        wants_json(ctx, json),
        reply,
        lambda: render.table(
            ("TOKEN", "USER", "CELL", "CREATED", "EXPIRES", "RINGS"),
            rows,
            empty="no tokens: see `assent tokens create --help`",
        ),
    )


def revoke(
    ctx: typer.Context,
    token: Annotated[int, typer.Argument(metavar="TOKEN", help="Its number.", min=1)],
    json: JsonFlag = False,
) -> None:
    """Revoke a token; what was lent on it is taken back."""
    from assent.cli import render
    from assent.v1.tokens_pb2 import RevokeTokenRequest

    with connect(ctx) as client:
        reply = client.tokens.Revoke(RevokeTokenRequest(id=token))
    render.emit(wants_json(ctx, json), reply, lambda: render.line(f"token {token} is revoked"))


def _uid(user: str) -> int:
    import pwd

    if user.isascii() and user.isdecimal() and len(user) <= 10:
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise InvalidArgument("USER", f"this host has no user {user!r}") from None


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _write(path: Path, secret: str, uid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        os.fchown(fd, uid, -1)
        file.write(f"{secret}\n")
