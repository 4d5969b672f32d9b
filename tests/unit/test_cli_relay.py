# SPDX-License-Identifier: Apache-2.0
"""`assent relay`: what it asks of the daemon, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from assent.identity.hint import hint_of
from assent.v1 import relay_pb2, relay_pb2_grpc

from . import test_cli
from .test_cli import FakeApi, api, check_command, each, plain_environment, run

__all__ = ["api", "plain_environment"]  # fixtures

KEY = bytes(range(32))
HINT = bytes(hint_of(KEY))
HINT_HEX = HINT.hex()
MAC = "02:00:00:00:00:09"
BY_HINT = relay_pb2.Destination(hint=HINT)
HOP = relay_pb2.NextHop(interface="eth1", mac=MAC)
SOURCE = relay_pb2.RelaySource(
    name="away",
    hint=HINT,
    public_key=KEY,
    newest_timestamp=5,
    registrations=3,
    refusals=[
        relay_pb2.Refusal(reason="Replayed", frames=1),
        relay_pb2.Refusal(reason="SignatureError", frames=1),
    ],
)
SOURCE_JSON = {
    "name": "away",
    "hint": HINT_HEX,
    "public_key": KEY.hex(),
    "newest_timestamp": 5,
    "registrations": 3,
    "refusals": [
        {"reason": "Replayed", "frames": 1},
        {"reason": "SignatureError", "frames": 1},
    ],
}
STATIC = relay_pb2.RelayRoute(hint=HINT, interface="eth1", mac=MAC, installed=True)
WAITING = relay_pb2.RelayRoute(hint=HINT, source_name="away", interface="eth1", mac=MAC)
LOCAL = relay_pb2.RelayRoute(hint=HINT, local=True, installed=True)
REGISTERED = relay_pb2.RelayRoute(
    hint=HINT,
    source_name="away",
    interface="eth1",
    mac=MAC,
    registered=True,
    expires_in_ns=1_500_000_000,
    installed=True,
)


def route_json(**values: object) -> dict[str, object]:
    usual: dict[str, object] = {
        "hint": HINT_HEX,
        "source_name": "",
        "interface": "eth1",
        "mac": MAC,
        "local": False,
        "registered": False,
        "expires_in_ns": 0,
        "installed": True,
    }
    return usual | values


COMMANDS = [
    pytest.param(
        ["add-source", "away", "--public-key", KEY.hex()],
        "Relay.AddSource",
        relay_pb2.AddSourceRequest(name="away", public_key=KEY),
        SOURCE,
        [f"away may register as {HINT_HEX}"],
        SOURCE_JSON,
        id="add-source",
    ),
    pytest.param(
        ["remove-source", "away"],
        "Relay.RemoveSource",
        relay_pb2.RemoveSourceRequest(source=relay_pb2.SourceRef(name="away")),
        relay_pb2.RemoveSourceResponse(),
        ["away may not register any more"],
        {},
        id="remove-source",
    ),
    pytest.param(
        ["remove-source", HINT_HEX],
        "Relay.RemoveSource",
        relay_pb2.RemoveSourceRequest(source=relay_pb2.SourceRef(hint=HINT)),
        relay_pb2.RemoveSourceResponse(),
        [f"{HINT_HEX} may not register any more"],
        {},
        id="remove-source-by-hint",
    ),
    pytest.param(
        ["sources"],
        "Relay.ListSources",
        relay_pb2.ListSourcesRequest(),
        relay_pb2.ListSourcesResponse(sources=[SOURCE]),
        ["NAME HINT REGISTERED REFUSED", f"away {HINT_HEX} 3 2"],
        {"sources": [SOURCE_JSON]},
        id="sources",
    ),
    pytest.param(
        ["set-route", HINT_HEX, "--interface", "eth1", "--via", MAC],
        "Relay.SetRoute",
        relay_pb2.SetRouteRequest(destination=BY_HINT, next_hop=HOP),
        STATIC,
        [f"{HINT_HEX}: by eth1 to {MAC}"],
        route_json(),
        id="set-route",
    ),
    pytest.param(
        ["set-route", "away", "--interface", "eth1", "--via", MAC],
        "Relay.SetRoute",
        relay_pb2.SetRouteRequest(
            destination=relay_pb2.Destination(source_name="away"), next_hop=HOP
        ),
        WAITING,
        [f"away: by eth1 to {MAC}, when the interface is there"],
        route_json(source_name="away", installed=False),
        id="set-route-by-name",
    ),
    pytest.param(
        ["set-route", KEY.hex(), "--local"],
        "Relay.SetRoute",
        relay_pb2.SetRouteRequest(destination=relay_pb2.Destination(public_key=KEY), local=True),
        LOCAL,
        [f"{HINT_HEX}: to this host's own stack"],
        route_json(interface="", mac="", local=True),
        id="set-route-local-by-key",
    ),
    pytest.param(
        ["delete-route", HINT_HEX],
        "Relay.DeleteRoute",
        relay_pb2.DeleteRouteRequest(destination=BY_HINT),
        relay_pb2.DeleteRouteResponse(),
        [f"{HINT_HEX}: no way there"],
        {},
        id="delete-route",
    ),
    pytest.param(
        ["routes"],
        "Relay.ListRoutes",
        relay_pb2.ListRoutesRequest(),
        relay_pb2.ListRoutesResponse(routes=[STATIC, LOCAL, REGISTERED]),
        [
            "DESTINATION NAME INTERFACE VIA KIND EXPIRES IN FORCE",
            f"{HINT_HEX} - eth1 {MAC} static - yes",
            f"{HINT_HEX} - - - local - yes",
            f"{HINT_HEX} away eth1 {MAC} registered 2 s yes",
        ],
        {
            "routes": [
                route_json(),
                route_json(interface="", mac="", local=True),
                route_json(source_name="away", registered=True, expires_in_ns=1_500_000_000),
            ]
        },
        id="routes",
    ),
]


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_cli.SERVICES, "Relay", (relay_pb2, relay_pb2_grpc))


@pytest.fixture
def relay(_served: None, api: FakeApi) -> FakeApi:
    return api


@each(COMMANDS)
def test_for_people_and_for_programs(relay: FakeApi, command: Sequence[Any]) -> None:
    check_command(relay, command, "relay")


def test_every_method_has_a_command() -> None:
    methods = relay_pb2.DESCRIPTOR.services_by_name["Relay"].methods_by_name
    assert {param.values[1] for param in COMMANDS} == {f"Relay.{method}" for method in methods}


@pytest.mark.parametrize(
    ("args", "method", "reply", "line"),
    [
        (["sources"], "Relay.ListSources", relay_pb2.ListSourcesResponse(), "add-source --help"),
        (["routes"], "Relay.ListRoutes", relay_pb2.ListRoutesResponse(), "set-route --help"),
    ],
)
def test_nothing_to_show_says_what_to_do(
    relay: FakeApi, args: list[str], method: str, reply: Message, line: str
) -> None:
    relay.replies[method] = reply
    assert line in run(relay, "relay", *args).stdout


@pytest.mark.parametrize("content", [KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n"])
def test_a_key_from_a_file(relay: FakeApi, tmp_path: Path, content: bytes) -> None:
    relay.replies["Relay.AddSource"] = SOURCE
    (tmp_path / "key").write_bytes(content)
    result = run(relay, "relay", "add-source", "away", "--public-key", f"@{tmp_path / 'key'}")
    assert result.exit_code == 0
    assert relay.requests[0][1] == relay_pb2.AddSourceRequest(name="away", public_key=KEY)


def test_the_hint_of_a_key(relay: FakeApi) -> None:
    assert run(relay, "relay", "hint", KEY.hex()).stdout == f"{HINT_HEX}\n"
    assert json.loads(run(relay, "relay", "hint", KEY.hex(), "--json").stdout) == {"hint": HINT_HEX}
    assert relay.requests == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["set-route", HINT_HEX], "--interface: and --via are needed"),
        (["set-route", HINT_HEX, "--via", MAC], "--interface: and --via are needed"),
        (["set-route", HINT_HEX, "--local", "--via", MAC], "--local: leads to no interface"),
        (["set-route", HINT_HEX, "--local", "--interface", "x"], "--local: leads to no interface"),
        (["add-source", "away", "--public-key", "00"], "--public-key: needs 64 hexadecimal"),
        (["hint", "zz"], "PUBLIC_KEY: needs 64 hexadecimal digits"),
    ],
)
def test_bad_arguments_ask_nothing(relay: FakeApi, args: list[str], said: str) -> None:
    result = run(relay, "relay", *args)
    assert result.exit_code != 0
    assert said in result.stderr
    assert relay.requests == []
