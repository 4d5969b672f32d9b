# SPDX-License-Identifier: Apache-2.0
"""`assent tokens`: what it asks of the daemon, and what it makes of the answers."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assent.v1 import common_pb2, tokens_pb2, tokens_pb2_grpc

from . import test_cli
from .test_cli import ALICE, FakeApi, api, check_command, each, plain_environment, run

__all__ = ["api", "plain_environment"]  # fixtures

SECRET = "7.c2VjcmV0"
TOKEN = tokens_pb2.Token(
    id=7,
    uid=65534,
    cell=common_pb2.CellId(value=ALICE.id.value),
    cell_name="alice",
    created_at=1_700_000_000,
    expires_at=1_700_086_400,
    rings=1,
)
TOKEN_JSON = {
    "id": 7,
    "uid": 65534,
    "cell": "aa" * 16,
    "cell_name": "alice",
    "created_at": 1_700_000_000,
    "expires_at": 1_700_086_400,
    "rings": 1,
}
CREATED = tokens_pb2.CreateTokenResponse(token=TOKEN, secret=SECRET)
DAY_S = 86_400


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_cli.SERVICES, "Tokens", (tokens_pb2, tokens_pb2_grpc))


COMMANDS = [
    pytest.param(
        ["create", "65534", "--for", "1d"],
        "Tokens.Create",
        tokens_pb2.CreateTokenRequest(uid=65534, lifetime_s=DAY_S),
        CREATED,
        [SECRET],
        TOKEN_JSON | {"secret": SECRET},
        id="create",
    ),
    pytest.param(
        ["create", "nobody", "--cell", "alice"],
        "Tokens.Create",
        tokens_pb2.CreateTokenRequest(
            uid=65534, cell=test_cli.cells_pb2.CellRef(name="alice"), lifetime_s=30 * DAY_S
        ),
        CREATED,
        [SECRET],
        TOKEN_JSON | {"secret": SECRET},
        id="create-by-name",
    ),
    pytest.param(
        ["list"],
        "Tokens.List",
        tokens_pb2.ListTokensRequest(),
        tokens_pb2.ListTokensResponse(tokens=[TOKEN]),
        [
            "TOKEN USER CELL CREATED EXPIRES RINGS",
            "7 nobody alice 2023-11-14 22:13:20Z 2023-11-15 22:13:20Z 1",
        ],
        {"tokens": [TOKEN_JSON]},
        id="list",
    ),
    pytest.param(
        ["revoke", "7"],
        "Tokens.Revoke",
        tokens_pb2.RevokeTokenRequest(id=7),
        tokens_pb2.RevokeTokenResponse(),
        ["token 7 is revoked"],
        {},
        id="revoke",
    ),
]


@each(COMMANDS)
def test_for_people_and_for_programs(api: FakeApi, command: Sequence[Any]) -> None:
    check_command(api, command, "tokens")


def test_every_method_has_a_command() -> None:
    methods = tokens_pb2.DESCRIPTOR.services_by_name["Tokens"].methods_by_name
    assert {param.values[1] for param in COMMANDS} == {f"Tokens.{name}" for name in methods}


def test_a_token_goes_to_a_file_of_its_user(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: owners.append((uid, gid)))
    api.replies["Tokens.Create"] = CREATED
    path = tmp_path / "token"
    result = run(api, "tokens", "create", "65534", "--output", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert path.read_text() == f"{SECRET}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert owners == [(65534, -1)]
    assert SECRET not in result.stdout
    # Nothing is asked for that could not be kept.
    api.requests.clear()
    result = run(api, "tokens", "create", "65534", "--output", str(path))
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert api.requests == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create", "no such user"], "USER: this host has no user 'no such user'"),
        (["create", "65534", "--for", "soon"], "--for: needs a span of time"),
        (["revoke", "0"], "invalid value for 'TOKEN'"),
        (["revoke", "x"], "invalid value for 'TOKEN'"),
    ],
)
def test_what_cannot_be_asked_for(api: FakeApi, args: list[str], said: str) -> None:
    result = run(api, "tokens", *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert api.requests == []


def test_no_tokens_say_how_to_make_one(api: FakeApi) -> None:
    api.replies["Tokens.List"] = tokens_pb2.ListTokensResponse()
    assert "tokens create --help" in run(api, "tokens", "list").stdout
