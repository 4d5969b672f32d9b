# SPDX-License-Identifier: Apache-2.0
"""The `assent` command, as people run it, against an API that records what it is asked.

In-process runs go through typer's own runner; what depends on the process (terminals, signals,
pipes, what is imported) runs as a process. Both talk to a real gRPC server on a real unix socket.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.message import Message
from typer.testing import CliRunner, Result

import assent
from assent.cli import psk_file, render, sizes
from assent.cli.failure import one_line
from assent.cli.main import app
from assent.errors import InvalidArgument, NotFound
from assent.identity.cellid import from_public_key
from assent.v1 import (
    cells_pb2,
    cells_pb2_grpc,
    common_pb2,
    fabric_pb2,
    fabric_pb2_grpc,
    grants_pb2,
    grants_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

SERVICES = {
    "Cells": (cells_pb2, cells_pb2_grpc),
    "Fabric": (fabric_pb2, fabric_pb2_grpc),
    "Grants": (grants_pb2, grants_pb2_grpc),
    "Keys": (keys_pb2, keys_pb2_grpc),
    "Sessions": (sessions_pb2, sessions_pb2_grpc),
}
PACKAGE_PARENT = Path(assent.__file__).resolve().parents[1]

PUBLIC_KEY = bytes(range(32))
KEY_HEX = PUBLIC_KEY.hex()
ID_HEX = str(from_public_key(PUBLIC_KEY))
ID = common_pb2.CellId(value=bytes.fromhex(ID_HEX))
PSK = bytes(range(100, 132))
PSK_HEX = PSK.hex()
MAC = "02:00:00:00:00:0b"

BOB_REF = cells_pb2.CellRef(name="bob")
BOB = cells_pb2.Cell(
    id=ID,
    name="bob",
    public_key=PUBLIC_KEY,
    consent=common_pb2.CONSENT_STANDING,
    mac=MAC,
    has_psk=True,
)
ALICE = cells_pb2.Cell(
    id=common_pb2.CellId(value=b"\xaa" * 16),
    name="alice",
    public_key=b"\xbb" * 32,
    local=True,
    interface="veth0",
)
VETH0 = fabric_pb2.Interface(
    name="veth0",
    index=7,
    mode=fabric_pb2.ATTACH_MODE_GENERIC,
    mac="02:00:00:00:00:0a",
    mtu=1500,
    egress=fabric_pb2.EGRESS_STATE_ATTACHED,
)
WAS_UP = fabric_pb2.Interface(was_up=True)
WAS_UP.MergeFrom(VETH0)
STATUS = fabric_pb2.Status(
    version="0.1.0",
    instance="lab",
    profile="chapter",
    adopted=True,
    pin_directory="/sys/fs/bpf/assent/lab",
    program_id=42,
    kernel="6.1.0-18-amd64",
    interfaces=[VETH0],
    ungated=[
        fabric_pb2.UngatedInterface(
            name="eth9", mode=fabric_pb2.ATTACH_MODE_NATIVE, reason="there is no such interface"
        )
    ],
    local_cells=1,
    remote_cells=3,
    sessions=2,
    credit_capacity_blocks=1 << 20,
    credit_promised_blocks=4096,
    uptime_ns=93_784 * 10**9,
)
COUNTERS = fabric_pb2.Counters(
    counters=[
        fabric_pb2.Counter(reason="admitted", frames=12_345, bytes=999, events=1),
        fabric_pb2.Counter(reason="bad_tag", frames=2, bytes=128),
        fabric_pb2.Counter(reason="replay"),
    ]
)
GRANT = grants_pb2.Grant(
    remote=ID,
    remote_name="bob",
    flow=1,
    window_blocks=4096,
    granted_blocks=5000,
    spent_blocks=900,
    live_window_blocks=2048,
    reserved_blocks=8192,
)
POLICY = grants_pb2.CreditPolicy(
    kind=grants_pb2.CREDIT_POLICY_KIND_FAIR_SHARE, floor_blocks=64, ceiling_blocks=4096
)
FAIR_SHARE = "fair share: windows from 64 (4 KiB) blocks to 4,096 (256 KiB) blocks"
SESSION = sessions_pb2.Session(
    id=9,
    local=ALICE.id,
    remote=ID,
    remote_name="bob",
    state=sessions_pb2.SESSION_STATE_ESTABLISHED,
    origin=sessions_pb2.SESSION_ORIGIN_HANDSHAKE,
    epoch=3,
    initiator=True,
    remote_mac=MAC,
    flows=[
        sessions_pb2.Flow(
            flow=1,
            rx_granted_blocks=4096,
            rx_spent_blocks=10,
            tx_granted_blocks=2048,
            tx_spent_blocks=20,
            rx_highest_seq=5,
            tx_seq=6,
        )
    ],
    established_at_unix_ns=1_700_000_000 * 10**9,
    clock_offset_ns=-1_500_000,
)
KEYS = keys_pb2.ListKeysResponse(
    keys=[
        keys_pb2.KeyInfo(remote=ID, remote_name="bob", has_psk=True, psk_set_at=1_700_000_000),
        keys_pb2.KeyInfo(remote=ALICE.id, remote_name="carol"),
    ]
)

BOB_JSON = {
    "id": ID_HEX,
    "name": "bob",
    "public_key": KEY_HEX,
    "local": False,
    "consent": "standing",
    "mac": MAC,
    "interface": "",
    "has_psk": True,
    "observe": False,
    "allow_bare": False,
    "standby": "",
}
ALICE_JSON = {
    "id": "aa" * 16,
    "name": "alice",
    "public_key": "bb" * 32,
    "local": True,
    "consent": None,
    "mac": "",
    "interface": "veth0",
    "has_psk": False,
    "observe": False,
    "allow_bare": False,
    "standby": "",
}
VETH0_JSON = {
    "name": "veth0",
    "index": 7,
    "mode": "generic",
    "mac": "02:00:00:00:00:0a",
    "mtu": 1500,
    "egress": "attached",
    "was_up": False,
}
STATUS_JSON = {
    "version": "0.1.0",
    "instance": "lab",
    "profile": "chapter",
    "adopted": True,
    "pin_directory": "/sys/fs/bpf/assent/lab",
    "program_id": 42,
    "kernel": "6.1.0-18-amd64",
    "interfaces": [VETH0_JSON],
    "local_cells": 1,
    "remote_cells": 3,
    "sessions": 2,
    "credit_capacity_blocks": 1 << 20,
    "credit_promised_blocks": 4096,
    "uptime_ns": 93_784 * 10**9,
    "ungated": [{"name": "eth9", "mode": "native", "reason": "there is no such interface"}],
    "observed_cells": 0,
    "bare_cells": 0,
    "observed_names": [],
    "bare_names": [],
}
COUNTERS_JSON = [
    {
        "reason": reason,
        "frames": frames,
        "bytes": size,
        "events": events,
        "suppressed": 0,
        "would_drop": 0,
    }
    for reason, frames, size, events in (
        ("admitted", 12_345, 999, 1),
        ("bad_tag", 2, 128, 0),
        ("replay", 0, 0, 0),
    )
]
NO_OTHER_COUNTERS: dict[str, object] = {
    "leaving": [],
    "interfaces": [],
    "pairs": [],
    "others": None,
    "other_pairs": 0,
}
COUNTERS_HEAD = "REASON WAY FRAMES BYTES WOULD_DROP EVENTS SUPPRESSED"
GRANT_JSON = {
    "remote": ID_HEX,
    "remote_name": "bob",
    "flow": 1,
    "window_blocks": 4096,
    "granted_blocks": 5000,
    "spent_blocks": 900,
    "lamp": False,
    "live_window_blocks": 2048,
    "reserved_blocks": 8192,
}
POLICY_JSON = {"kind": "fair_share", "floor_blocks": 64, "ceiling_blocks": 4096}
SESSION_JSON = {
    "id": 9,
    "local": "aa" * 16,
    "remote": ID_HEX,
    "remote_name": "bob",
    "state": "established",
    "origin": "handshake",
    "epoch": 3,
    "initiator": True,
    "remote_mac": MAC,
    "flows": [
        {
            "flow": 1,
            "rx_granted_blocks": 4096,
            "rx_spent_blocks": 10,
            "tx_granted_blocks": 2048,
            "tx_spent_blocks": 20,
            "rx_highest_seq": 5,
            "tx_seq": 6,
        }
    ],
    "established_at_unix_ns": 1_700_000_000 * 10**9,
    "clock_offset_ns": -1_500_000,
}
KEYS_JSON = [
    {"remote": ID_HEX, "remote_name": "bob", "has_psk": True, "psk_set_at": 1_700_000_000},
    {"remote": "aa" * 16, "remote_name": "carol", "has_psk": False, "psk_set_at": 0},
]


class FakeApi:
    """All five services: records requests, and answers as it is told.

    Attributes:
        socket: Where it listens.
        requests: What was asked, in order: method (as in `Cells.Get`) and request.
        replies: What to answer, by method.
        failures: What to fail with, by method: status and message.
        asked: Set when a request has come.
        hold: While not set, requests wait.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.requests: list[tuple[str, Message]] = []
        self.replies: dict[str, Message] = {}
        self.failures: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.asked = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def register(self, server: grpc.Server) -> None:
        for name, (messages, stubs) in SERVICES.items():
            methods = messages.DESCRIPTOR.services_by_name[name].methods_by_name
            handlers = {method: self._handler(f"{name}.{method}") for method in methods}
            servicer = type(f"Fake{name}", (getattr(stubs, f"{name}Servicer"),), handlers)
            getattr(stubs, f"add_{name}Servicer_to_server")(servicer(), server)

    def _handler(self, method: str) -> Any:
        def handle(_servicer: object, request: Message, context: grpc.ServicerContext) -> Message:
            self.requests.append((method, request))
            self.asked.set()
            self.hold.wait(30)
            if method in self.failures:
                context.abort(*self.failures[method])
            return self.replies[method]

        return handle


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    fake = FakeApi(tmp_path / "api.sock")
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        fake.register(server)
        server.add_insecure_port(f"unix:{fake.socket}")
        server.start()
        yield fake
        fake.hold.set()
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASSENT_SOCKET", "ASSENT_INSTANCE", "ASSENT_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def run(api: FakeApi | None, *args: str, given: str | bytes | None = None) -> Result:
    socket = ("--socket", str(api.socket)) if api else ()
    return CliRunner().invoke(app, [*socket, *args], input=given, prog_name="assent")


def start(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    """Starts the command as a process; its warnings are errors, too."""
    environment = {"PYTHONPATH": str(PACKAGE_PARENT), "TERM": "xterm-256color"}
    environment |= options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "assent.cli.main", *args],
        env={**os.environ, **environment},
        **options,
    )


def finish(*args: str, given: bytes = b"", **options: Any) -> tuple[int, str, str]:
    """Runs the command as a process: exit code, stdout, stderr."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start(*args, **pipes, **options) as process:
        out, err = process.communicate(given, timeout=60)
    return process.returncode, out.decode(), err.decode()


def squeezed(text: str) -> list[str]:
    """Lines with their runs of spaces made one: what a table says, not how wide it is."""
    return [" ".join(line.split()) for line in text.splitlines()]


def each(commands: list[Any]) -> pytest.MarkDecorator:
    """Gives a test each of the commands."""
    cases = [pytest.param(command.values, id=command.id) for command in commands]
    return pytest.mark.parametrize("command", cases)


def check_command(api: FakeApi, command: Sequence[Any], *group: str) -> None:
    """It asks one thing, and says it to people and, with --json before it or after it, in JSON."""
    args, method, request, reply, lines, expected = command
    api.replies[method] = reply
    shown = run(api, *group, *args)
    assert (shown.exit_code, shown.stderr) == (0, "")
    said = squeezed(shown.stdout)
    assert [line for line in lines if line not in said] == []
    after, before = run(api, *group, *args, "--json"), run(api, "--json", *group, *args)
    assert (after.exit_code, after.stderr) == (0, "")
    assert json.loads(after.stdout) == expected
    assert before.stdout == after.stdout
    assert api.requests == [(method, request)] * 3


# Command line, method, request, reply, lines of its human output, JSON.
COMMANDS = [
    pytest.param(
        ["status"],
        "Fabric.GetStatus",
        fabric_pb2.GetStatusRequest(),
        STATUS,
        [
            "version 0.1.0",
            "instance lab, up 1 d 2 h",
            "dataplane program 42, found in place",
            "pins /sys/fs/bpf/assent/lab",
            "cells 1 local, 3 remote",
            "sessions 2",
            "credit 4,096 (256 KiB) of 1,048,576 (64 MiB) blocks promised",
            "INTERFACE INDEX MODE EGRESS MAC MTU",
            "veth0 7 generic attached 02:00:00:00:00:0a 1500",
            "INTERFACE STATE REASON",
            "eth9 not gated there is no such interface",
        ],
        STATUS_JSON,
        id="status",
    ),
    pytest.param(
        ["attach", "veth0"],
        "Fabric.Attach",
        fabric_pb2.AttachRequest(interface="veth0", mode=fabric_pb2.ATTACH_MODE_NATIVE),
        VETH0,
        ["veth0 is gated (generic)"],
        VETH0_JSON,
        id="attach",
    ),
    pytest.param(
        ["attach", "veth0", "--mode", "generic"],
        "Fabric.Attach",
        fabric_pb2.AttachRequest(interface="veth0", mode=fabric_pb2.ATTACH_MODE_GENERIC),
        VETH0,
        ["veth0 is gated (generic)"],
        VETH0_JSON,
        id="attach-generic",
    ),
    pytest.param(
        ["attach", "veth0", "--up"],
        "Fabric.Attach",
        fabric_pb2.AttachRequest(
            interface="veth0", mode=fabric_pb2.ATTACH_MODE_NATIVE, bring_up=True
        ),
        WAS_UP,
        [
            "veth0 is gated (generic)",
            "note: veth0 was up before, so frames may have passed undecided; to leave no such "
            "moment, attach it while it is down, with --up",
        ],
        VETH0_JSON | {"was_up": True},
        id="attach-up",
    ),
    pytest.param(
        ["detach", "veth0"],
        "Fabric.Detach",
        fabric_pb2.DetachRequest(interface="veth0"),
        fabric_pb2.DetachResponse(),
        ["veth0 is no longer gated"],
        {},
        id="detach",
    ),
    pytest.param(
        ["counters"],
        "Fabric.GetCounters",
        fabric_pb2.GetCountersRequest(interfaces=True, pairs_max=20),
        COUNTERS,
        [COUNTERS_HEAD, "admitted in 12,345 999 0 1 0", "bad_tag in 2 128 0 0 0"],
        {"counters": COUNTERS_JSON[:2], **NO_OTHER_COUNTERS},
        id="counters",
    ),
    pytest.param(
        ["counters", "--all"],
        "Fabric.GetCounters",
        fabric_pb2.GetCountersRequest(interfaces=True, pairs_max=20),
        COUNTERS,
        [
            COUNTERS_HEAD,
            "admitted in 12,345 999 0 1 0",
            "bad_tag in 2 128 0 0 0",
            "replay in 0 0 0 0 0",
        ],
        {"counters": COUNTERS_JSON, **NO_OTHER_COUNTERS},
        id="counters-all",
    ),
    pytest.param(
        ["cells", "create", "alice", "--interface", "veth0"],
        "Cells.CreateLocal",
        cells_pb2.CreateLocalRequest(name="alice", interface="veth0"),
        ALICE,
        [f"alice lives on veth0 as {'aa' * 16}"],
        ALICE_JSON,
        id="cells-create",
    ),
    pytest.param(
        ["cells", "add", "bob", "--public-key", KEY_HEX.upper()],
        "Cells.CreateRemote",
        cells_pb2.CreateRemoteRequest(
            name="bob", public_key=PUBLIC_KEY, consent=common_pb2.CONSENT_NONE
        ),
        BOB,
        [f"bob is known as {ID_HEX}, consent: standing"],
        BOB_JSON,
        id="cells-add",
    ),
    pytest.param(
        ["cells", "add", "bob", "--public-key", KEY_HEX, "--consent", "standing", "--mac", MAC],
        "Cells.CreateRemote",
        cells_pb2.CreateRemoteRequest(
            name="bob", public_key=PUBLIC_KEY, consent=common_pb2.CONSENT_STANDING, mac=MAC
        ),
        BOB,
        [f"bob is known as {ID_HEX}, consent: standing"],
        BOB_JSON,
        id="cells-add-all",
    ),
    pytest.param(
        ["cells", "add", "bob", "--public-key", KEY_HEX, "--consent", "covenant"],
        "Cells.CreateRemote",
        cells_pb2.CreateRemoteRequest(
            name="bob", public_key=PUBLIC_KEY, consent=common_pb2.CONSENT_COVENANT
        ),
        BOB,
        [f"bob is known as {ID_HEX}, consent: standing"],
        BOB_JSON,
        id="cells-add-covenant",
    ),
    pytest.param(
        ["cells", "list"],
        "Cells.List",
        cells_pb2.ListCellsRequest(),
        cells_pb2.ListCellsResponse(cells=[BOB, ALICE]),
        [
            "NAME ID KIND CONSENT POLICY PSK INTERFACE MAC",
            f"alice {'aa' * 16} local - - - veth0 -",
            f"bob {ID_HEX} remote standing - yes - {MAC}",
        ],
        {"cells": [ALICE_JSON, BOB_JSON]},
        id="cells-list",
    ),
    pytest.param(
        ["cells", "show", "bob"],
        "Cells.Get",
        cells_pb2.GetCellRequest(cell=BOB_REF),
        BOB,
        [f"id {ID_HEX}", f"public key {KEY_HEX}", "kind remote", "consent standing", "psk yes"],
        BOB_JSON,
        id="cells-show",
    ),
    pytest.param(
        ["cells", "show", ("aa" * 16).upper()],
        "Cells.Get",
        cells_pb2.GetCellRequest(cell=cells_pb2.CellRef(id=ALICE.id)),
        ALICE,
        ["name alice", "kind local", "mac -", "interface veth0"],
        ALICE_JSON,
        id="cells-show-by-id",
    ),
    pytest.param(
        ["cells", "remove", "bob"],
        "Cells.Delete",
        cells_pb2.DeleteCellRequest(cell=BOB_REF),
        cells_pb2.DeleteCellResponse(),
        ["bob is removed"],
        {},
        id="cells-remove",
    ),
    pytest.param(
        ["cells", "policy", "bob", "--observe", "--no-bare"],
        "Cells.SetPolicy",
        cells_pb2.SetPolicyRequest(cell=BOB_REF, observe=True, allow_bare=False),
        BOB,
        ["bob: nothing is relaxed"],
        BOB_JSON,
        id="cells-policy",
    ),
    *(
        pytest.param(
            ["cells", "consent", "bob", word],
            "Cells.SetConsent",
            cells_pb2.SetConsentRequest(cell=BOB_REF, consent=value),
            BOB,
            ["bob: consent is standing"],
            BOB_JSON,
            id=f"cells-consent-{word}",
        )
        for word, value in (
            ("none", common_pb2.CONSENT_NONE),
            ("standing", common_pb2.CONSENT_STANDING),
            ("quarantined", common_pb2.CONSENT_QUARANTINED),
            ("covenant", common_pb2.CONSENT_COVENANT),
        )
    ),
    pytest.param(
        ["keys", "list"],
        "Keys.List",
        keys_pb2.ListKeysRequest(),
        KEYS,
        [
            "REMOTE ID PSK SET AT",
            f"bob {ID_HEX} yes 2023-11-14 22:13:20Z",
            f"carol {'aa' * 16} no -",
        ],
        {"keys": KEYS_JSON},
        id="keys-list",
    ),
    pytest.param(
        ["keys", "remove", "bob"],
        "Keys.DeletePsk",
        keys_pb2.DeletePskRequest(remote=BOB_REF),
        keys_pb2.DeletePskResponse(),
        ["bob: pre-shared key is removed"],
        {},
        id="keys-remove",
    ),
    pytest.param(
        ["grants", "set", "bob", "1", "256KiB"],
        "Grants.Set",
        grants_pb2.SetGrantRequest(remote=BOB_REF, flow=1, window_blocks=4096),
        GRANT,
        ["bob, flow 1: window is 4,096 (256 KiB) blocks"],
        GRANT_JSON,
        id="grants-set",
    ),
    pytest.param(
        ["grants", "list"],
        "Grants.List",
        grants_pb2.ListGrantsRequest(),
        grants_pb2.ListGrantsResponse(grants=[GRANT], policy=POLICY),
        [
            f"policy: {FAIR_SHARE}",
            "REMOTE FLOW WINDOW LAMP IN FORCE RESERVED GRANTED SPENT",
            "bob 1 4,096 no 2,048 8,192 5,000 900",
        ],
        {"grants": [GRANT_JSON], "policy": POLICY_JSON},
        id="grants-list",
    ),
    pytest.param(
        ["grants", "set", "bob", "1", "--lamp"],
        "Grants.Set",
        grants_pb2.SetGrantRequest(remote=BOB_REF, flow=1, window_blocks=0, lamp=True),
        grants_pb2.Grant(remote=ID, remote_name="bob", flow=1, lamp=True),
        ["bob, flow 1: window is 0 (0 B) blocks, open for LAMP"],
        GRANT_JSON
        | dict.fromkeys(
            (
                "window_blocks",
                "granted_blocks",
                "spent_blocks",
                "live_window_blocks",
                "reserved_blocks",
            ),
            0,
        )
        | {"lamp": True},
        id="grants-set-lamp",
    ),
    pytest.param(
        ["grants", "policy"],
        "Grants.GetPolicy",
        grants_pb2.GetCreditPolicyRequest(),
        POLICY,
        [FAIR_SHARE],
        POLICY_JSON,
        id="grants-policy",
    ),
    pytest.param(
        ["grants", "policy", "fair-share", "--floor", "4KiB", "--ceiling", "4096"],
        "Grants.SetPolicy",
        grants_pb2.SetCreditPolicyRequest(
            kind=grants_pb2.CREDIT_POLICY_KIND_FAIR_SHARE, floor_blocks=64, ceiling_blocks=4096
        ),
        POLICY,
        [FAIR_SHARE],
        POLICY_JSON,
        id="grants-policy-fair",
    ),
    pytest.param(
        ["grants", "policy", "fixed"],
        "Grants.SetPolicy",
        grants_pb2.SetCreditPolicyRequest(kind=grants_pb2.CREDIT_POLICY_KIND_FIXED),
        grants_pb2.CreditPolicy(kind=grants_pb2.CREDIT_POLICY_KIND_FIXED, floor_blocks=64),
        ["fixed: each window is what it was set to"],
        {"kind": "fixed", "floor_blocks": 64, "ceiling_blocks": 0},
        id="grants-policy-fixed",
    ),
    pytest.param(
        ["grants", "shift", "bob", "4"],
        "Grants.SetShift",
        grants_pb2.SetGrantShiftRequest(remote=BOB_REF, shift=4),
        grants_pb2.SetGrantShiftResponse(),
        ["bob: grant shift is 4, from the next session on"],
        {},
        id="grants-shift",
    ),
    pytest.param(
        ["grants", "shift", "bob", "auto"],
        "Grants.SetShift",
        grants_pb2.SetGrantShiftRequest(remote=BOB_REF),
        grants_pb2.SetGrantShiftResponse(),
        ["bob: grant shift is auto, from the next session on"],
        {},
        id="grants-shift-auto",
    ),
    pytest.param(
        ["cells", "move", "alice", "--interface", "veth1", "--standby", "none"],
        "Cells.Move",
        cells_pb2.MoveCellRequest(
            cell=cells_pb2.CellRef(name="alice"), interface="veth1", standby=""
        ),
        cells_pb2.Cell(name="alice", local=True, interface="veth1"),
        ["alice lives on veth1"],
        dict.fromkeys(ALICE_JSON, "")
        | {"name": "alice", "local": True, "interface": "veth1", "consent": None, "id": None}
        | dict.fromkeys(("has_psk", "observe", "allow_bare"), False),
        id="cells-move",
    ),
    pytest.param(
        ["cells", "table"],
        "Cells.ListTable",
        cells_pb2.ListCellTableRequest(),
        cells_pb2.ListCellTableResponse(
            rows=[
                cells_pb2.CellTableRow(
                    cell=ID, name="bob", mac=MAC, lwf_hint=b"\xab\xcd", stale=True, relay=True
                )
            ]
        ),
        ["CELL NAME MAC LWF HINT FLAGS", f"{ID_HEX} bob {MAC} abcd stale+relay"],
        {
            "rows": [
                {
                    "cell": ID_HEX,
                    "name": "bob",
                    "mac": MAC,
                    "lwf_hint": "abcd",
                    "valid": False,
                    "stale": True,
                    "relay": True,
                }
            ]
        },
        id="cells-table",
    ),
    pytest.param(
        ["sessions", "list", "--pcb"],
        "Sessions.ListControlBlocks",
        sessions_pb2.ListControlBlocksRequest(),
        sessions_pb2.ListControlBlocksResponse(
            capacity=16,
            blocks=[
                sessions_pb2.ControlBlock(
                    state=sessions_pb2.SESSION_STATE_SYN_SENT,
                    remote=ID,
                    remote_name="bob",
                    local=ALICE.id,
                    local_seq=2,
                    remote_seq=1,
                    last_active_unix_ns=1_700_000_000 * 10**9,
                )
            ],
        ),
        [
            "REMOTE CELL STATE LOCAL SEQ REMOTE SEQ LAST ACTIVE DKH TRUST",
            f"bob {ID_HEX} syn_sent 2 1 2023-11-14 22:13:20Z 0",
        ],
        {
            "capacity": 16,
            "blocks": [
                {
                    "state": "syn_sent",
                    "remote": ID_HEX,
                    "remote_name": "bob",
                    "local": "aa" * 16,
                    "local_seq": 2,
                    "remote_seq": 1,
                    "last_active_unix_ns": 1_700_000_000 * 10**9,
                    "dkh_trust": 0,
                }
            ],
        },
        id="sessions-list-pcb",
    ),
    pytest.param(
        ["grants", "show", "bob", "1"],
        "Grants.Get",
        grants_pb2.GetGrantRequest(remote=BOB_REF, flow=1),
        GRANT,
        ["remote bob", "window 4,096 (256 KiB) blocks", "granted 5,000", "spent 900"],
        GRANT_JSON,
        id="grants-show",
    ),
    pytest.param(
        ["grants", "remove", "bob", "1"],
        "Grants.Delete",
        grants_pb2.DeleteGrantRequest(remote=BOB_REF, flow=1),
        grants_pb2.DeleteGrantResponse(),
        ["bob, flow 1: grant is removed"],
        {},
        id="grants-remove",
    ),
    pytest.param(
        ["sessions", "connect", "bob"],
        "Sessions.Connect",
        sessions_pb2.ConnectRequest(remote=BOB_REF),
        SESSION,
        ["bob: session 9 is established"],
        SESSION_JSON,
        id="sessions-connect",
    ),
    pytest.param(
        ["sessions", "connect", "bob", "--renew"],
        "Sessions.Connect",
        sessions_pb2.ConnectRequest(remote=BOB_REF, renew=True),
        SESSION,
        ["bob: session 9 is established"],
        SESSION_JSON,
        id="sessions-connect-renew",
    ),
    pytest.param(
        ["sessions", "list"],
        "Sessions.List",
        sessions_pb2.ListSessionsRequest(),
        sessions_pb2.ListSessionsResponse(sessions=[SESSION]),
        [
            "REMOTE ID STATE ORIGIN EPOCH FLOWS MAC SINCE",
            f"bob 9 established handshake 3 1 {MAC} 2023-11-14 22:13:20Z",
        ],
        {"sessions": [SESSION_JSON]},
        id="sessions-list",
    ),
    pytest.param(
        ["sessions", "show", "bob"],
        "Sessions.Get",
        sessions_pb2.GetSessionRequest(remote=BOB_REF),
        SESSION,
        [
            "state established",
            f"remote bob ({ID_HEX})",
            "role initiator",
            "clock offset -1.500 ms",
            "FLOW RX GRANTED RX SPENT RX SEQ TX GRANTED TX SPENT TX SEQ",
            "1 4,096 10 5 2,048 20 6",
        ],
        SESSION_JSON,
        id="sessions-show",
    ),
    pytest.param(
        ["sessions", "close", "bob"],
        "Sessions.Close",
        sessions_pb2.CloseSessionRequest(remote=BOB_REF),
        sessions_pb2.CloseSessionResponse(),
        ["bob: session is closed"],
        {},
        id="sessions-close",
    ),
]


class TestCommands:
    @each(COMMANDS)
    def test_for_people_and_for_programs(self, api: FakeApi, command: Sequence[Any]) -> None:
        check_command(api, command)

    def test_what_is_relaxed_is_not_forgotten(self, api: FakeApi) -> None:
        relaxed = cells_pb2.Cell()
        relaxed.CopyFrom(BOB)
        relaxed.observe = relaxed.allow_bare = True
        api.replies["Cells.SetPolicy"] = api.replies["Cells.Get"] = relaxed
        api.replies["Cells.List"] = cells_pb2.ListCellsResponse(cells=[relaxed])
        status = fabric_pb2.Status(
            observed_cells=20, bare_cells=1, observed_names=["alice", "bob"], bare_names=["bob"]
        )
        api.replies["Fabric.GetStatus"] = status
        observed = "observe: what policy refuses is admitted"
        assert observed in run(api, "cells", "policy", "bob", "--observe", "--bare").stdout
        assert "observe+bare" in run(api, "cells", "list").stdout
        assert observed in run(api, "cells", "show", "bob").stdout
        assert squeezed(run(api, "status").stdout)[-5:] == [
            "CELL POLICY",
            f"alice {observed}",
            f"bob {observed}",
            "bob 40-byte frames are admitted, which prove nothing",
            "and 18 more: see `assent cells list`",
        ]
        assert run(api, "cells", "policy", "bob").exit_code == 2

    @pytest.mark.parametrize(
        ("args", "method", "reply", "line"),
        [
            (["counters"], "Fabric.GetCounters", fabric_pb2.Counters(), "not seen a frame"),
            (["cells", "list"], "Cells.List", cells_pb2.ListCellsResponse(), "cells create --help"),
            (["keys", "list"], "Keys.List", keys_pb2.ListKeysResponse(), "cells add --help"),
            (["grants", "list"], "Grants.List", grants_pb2.ListGrantsResponse(), "set --help"),
            (
                ["sessions", "list"],
                "Sessions.List",
                sessions_pb2.ListSessionsResponse(),
                "connect --help",
            ),
            (["status"], "Fabric.GetStatus", fabric_pb2.Status(), "attach --help"),
        ],
    )
    def test_nothing_to_show_says_what_to_do(
        self, api: FakeApi, args: list[str], method: str, reply: Message, line: str
    ) -> None:
        api.replies[method] = reply
        result = run(api, *args)
        assert result.exit_code == 0
        assert line in result.stdout.splitlines()[-1]

    def test_every_method_but_those_of_applications_has_a_command(self) -> None:
        methods = {
            f"{name}.{method}"
            for name, (messages, _) in SERVICES.items()
            for method in messages.DESCRIPTOR.services_by_name[name].methods_by_name
        }
        applications = {
            "Sessions.OpenFlow",
            "Sessions.DefineFlow",
            "Sessions.AcceptFlows",
            "Sessions.ReleaseFlow",
            "Sessions.WatchSession",
            "Sessions.Announce",
            "Sessions.WatchManifests",
        }
        # Keys.SetPsk below, the others in test_cli_watch.py.
        elsewhere = {"Keys.SetPsk", "Fabric.WatchEvents", "Fabric.Explain"}
        assert {param.values[1] for param in COMMANDS} == methods - applications - elsewhere

    def test_socket_of_the_environment(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        api.replies["Fabric.GetStatus"] = STATUS
        monkeypatch.setenv("ASSENT_SOCKET", str(api.socket))
        assert run(None, "status").exit_code == 0
        assert len(api.requests) == 1


class TestCells:
    def test_public_key_from_a_file(self, api: FakeApi, tmp_path: Path) -> None:
        api.replies["Cells.CreateRemote"] = BOB
        for content in (PUBLIC_KEY, KEY_HEX.encode(), f"{KEY_HEX}\n".encode()):
            (tmp_path / "bob.pub").write_bytes(content)
            result = run(api, "cells", "add", "bob", "--public-key", f"@{tmp_path / 'bob.pub'}")
            assert result.exit_code == 0
        assert {request.public_key for _, request in api.requests} == {PUBLIC_KEY}

    @pytest.mark.parametrize("key", ["", "00", KEY_HEX + "00", "zz" * 32, "é" * 64])
    def test_bad_public_key(self, api: FakeApi, key: str) -> None:
        result = run(api, "cells", "add", "bob", "--public-key", key)
        assert result.exit_code == 2
        assert result.stderr.startswith("assent: --public-key: needs 64 hexadecimal digits")
        assert api.requests == []

    def test_export_is_one_line(self, api: FakeApi) -> None:
        api.replies["Cells.Get"] = BOB
        for flag in ((), ("--json",)):
            result = run(api, "cells", "export", "bob", *flag)
            assert result.stdout.count("\n") == 1
            assert json.loads(result.stdout) == {
                "name": "bob",
                "id": ID_HEX,
                "public_key": KEY_HEX,
                "mac": MAC,
            }

    def test_what_is_exported_can_be_added(self, api: FakeApi, tmp_path: Path) -> None:
        """From a pipe and from a file; the receiving host decides name and consent."""
        api.replies |= {"Cells.Get": BOB, "Cells.CreateRemote": BOB}
        exported = run(api, "cells", "export", "bob").stdout
        (tmp_path / "bob.json").write_text(exported)
        run(api, "cells", "add", "--from", "-", given=exported)
        run(api, "cells", "add", "robert", "--from", str(tmp_path / "bob.json"))
        run(api, "cells", "add", "--from", "-", "--consent", "standing", given=exported)
        plain = cells_pb2.CreateRemoteRequest(
            name="bob", public_key=PUBLIC_KEY, consent=common_pb2.CONSENT_NONE, mac=MAC
        )
        renamed = cells_pb2.CreateRemoteRequest()
        renamed.CopyFrom(plain)
        renamed.name = "robert"
        agreed = cells_pb2.CreateRemoteRequest()
        agreed.CopyFrom(plain)
        agreed.consent = common_pb2.CONSENT_STANDING
        assert [request for _, request in api.requests[1:]] == [plain, renamed, agreed]

    def test_output_of_show_can_be_added_too(self, api: FakeApi) -> None:
        api.replies["Cells.CreateRemote"] = BOB
        assert run(api, "cells", "add", "--from", "-", given=json.dumps(BOB_JSON)).exit_code == 0

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("", "is not a line"),
            ("[]", "is not a line"),
            ("\xff", "is not a line"),
            ("[" * 60_000, "is not a line"),
            (json.dumps({"name": "bob"}), "lacks public_key"),
            (json.dumps({"public_key": KEY_HEX}), "lacks name"),
            (json.dumps({"public_key": KEY_HEX, "name": 7}), "lacks name"),
            (json.dumps({"public_key": "00", "name": "bob"}), "public_key: needs 64"),
            (
                json.dumps({"public_key": "00" * 32, "name": "bob", "id": ID_HEX}),
                "id that is not that of its public_key",
            ),
        ],
    )
    def test_damaged_export(self, api: FakeApi, line: str, problem: str) -> None:
        result = run(api, "cells", "add", "--from", "-", given=line.encode("latin-1"))
        assert result.exit_code == 2
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1
        assert api.requests == []

    @pytest.mark.parametrize(
        ("args", "problem"),
        [
            ([], "NAME: is missing"),
            (["bob"], "--public-key: is missing"),
            (["--public-key", KEY_HEX], "NAME: is missing"),
            (["bob", "--public-key", KEY_HEX, "--from", "-"], "--public-key: is already in"),
            (["bob", "--public-key", KEY_HEX, "--consent", "quarantined"], "--consent"),
        ],
    )
    def test_add_needs_one_source(self, api: FakeApi, args: list[str], problem: str) -> None:
        result = run(api, "cells", "add", *args, given=json.dumps(BOB_JSON))
        assert result.exit_code == 2
        assert problem in result.stderr
        assert api.requests == []

    def test_id_in_groups(self, api: FakeApi) -> None:
        api.replies["Cells.Get"] = ALICE
        run(api, "cells", "show", ":".join(["aa"] * 16))
        assert api.requests[0][1] == cells_pb2.GetCellRequest(cell=cells_pb2.CellRef(id=ALICE.id))

    def test_half_an_id(self, api: FakeApi) -> None:
        result = run(api, "cells", "show", "aa:bb")
        assert (result.exit_code, api.requests) == (2, [])
        assert "32 hexadecimal digits" in result.stderr


@pytest.fixture
def psk(tmp_path: Path) -> Path:
    path = tmp_path / "psk"
    path.touch(0o600)
    path.write_text(f"{PSK_HEX}\n")
    return path


EXPECTED_PSK = keys_pb2.SetPskRequest(remote=BOB_REF, psk=PSK)


class TestSetPsk:
    @pytest.fixture(autouse=True)
    def accepting(self, api: FakeApi) -> None:
        api.replies["Keys.SetPsk"] = keys_pb2.SetPskResponse()

    def test_from_a_file(self, api: FakeApi, psk: Path) -> None:
        result = run(api, "keys", "set-psk", "bob", "--file", str(psk))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "bob: pre-shared key is set\n"
        assert api.requests == [("Keys.SetPsk", EXPECTED_PSK)]

    @pytest.mark.parametrize("where", [["-"], ["--file", "-"]])
    def test_from_standard_input(self, api: FakeApi, where: list[str]) -> None:
        result = run(api, "keys", "set-psk", "bob", *where, "--json", given=PSK_HEX)
        assert (result.exit_code, json.loads(result.stdout)) == (0, {})
        assert api.requests == [("Keys.SetPsk", EXPECTED_PSK)]

    @pytest.mark.parametrize(
        "form",
        [
            PSK,
            PSK_HEX.upper().encode(),
            b"ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=\n",
            f"  {PSK_HEX}\r\n".encode(),
        ],
        ids=["raw", "hex", "base64", "padded"],
    )
    def test_forms(self, api: FakeApi, psk: Path, form: bytes) -> None:
        psk.write_bytes(form)
        assert run(api, "keys", "set-psk", "bob", "-f", str(psk)).exit_code == 0
        assert api.requests == [("Keys.SetPsk", EXPECTED_PSK)]

    def test_replace(self, api: FakeApi, psk: Path) -> None:
        run(api, "keys", "set-psk", "bob", "--file", str(psk), "--replace")
        assert api.requests[0][1].replace

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
    def test_file_that_others_can_touch(self, api: FakeApi, psk: Path, mode: int) -> None:
        psk.chmod(mode)
        result = run(api, "keys", "set-psk", "bob", "--file", str(psk))
        assert result.exit_code == 1
        assert result.stderr == (
            f"assent: {psk} can be read or changed by others than its owner (mode {mode:04o}); "
            f"run `chmod 600 {psk}`, and change the key if it has been seen\n"
        )
        assert api.requests == []

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hunter2 hunter2",
            PSK_HEX[:-1].encode(),
            PSK_HEX[:32].encode(),
            b"correct horse battery staple, 32",
            PSK + b"\n",
            PSK[:-1],
            b"\xff" * 64,
            b"secret" * 1000,
        ],
    )
    def test_what_is_not_a_key_is_not_repeated(
        self, api: FakeApi, psk: Path, content: bytes
    ) -> None:
        psk.write_bytes(content)
        result = run(api, "keys", "set-psk", "bob", "--file", str(psk))
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr == (
            "assent: psk: needs 64 hexadecimal digits, 44 characters of base64 or 32 random bytes; "
            "correct it and try again\n"
        )
        assert api.requests == []

    def test_zeros_are_not_a_key(self, api: FakeApi, psk: Path) -> None:
        for zeros in (bytes(32), b"00" * 32):
            psk.write_bytes(zeros)
            assert run(api, "keys", "set-psk", "bob", "--file", str(psk)).exit_code == 2
        assert api.requests == []

    @pytest.mark.parametrize(
        "args",
        [
            ["bob", PSK_HEX],
            ["bob", "-", PSK_HEX],
            ["bob", PSK_HEX, "--file", "-"],
            ["bob", f"--psk={PSK_HEX}"],
            ["bob", "--psk", PSK_HEX],
            ["bob", "-", f"--replace={PSK_HEX}"],
        ],
    )
    def test_key_on_the_command_line_is_refused_and_not_echoed(
        self, api: FakeApi, args: list[str]
    ) -> None:
        result = run(api, "keys", "set-psk", *args, given=PSK_HEX)
        assert result.exit_code == 2
        assert PSK_HEX not in result.stdout + result.stderr
        assert result.stderr.count("\n") == 1
        assert api.requests == []

    @pytest.mark.parametrize("args", [[], ["-", "--file", "/dev/null"]])
    def test_one_source(self, api: FakeApi, args: list[str]) -> None:
        result = run(api, "keys", "set-psk", "bob", *args)
        assert result.exit_code == 2
        assert "give either --file FILE or `-`" in result.stderr

    def test_missing_file(self, api: FakeApi, tmp_path: Path) -> None:
        result = run(api, "keys", "set-psk", "bob", "--file", str(tmp_path / "no"))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"assent: {tmp_path / 'no'}: No such file")

    def test_refused_by_the_daemon(self, api: FakeApi, psk: Path) -> None:
        api.failures["Keys.SetPsk"] = (grpc.StatusCode.ALREADY_EXISTS, "bob has a pre-shared key")
        result = run(api, "keys", "set-psk", "bob", "--file", str(psk))
        assert result.exit_code == 1
        assert result.stderr == (
            "assent: bob has a pre-shared key (ALREADY_EXISTS); pass --replace to change it\n"
        )

    def test_never_echoed_even_when_debugging(self, api: FakeApi, psk: Path) -> None:
        """Neither a success nor a failure with a traceback shows the key in any form."""
        seen = []
        for failing in (False, True):
            if failing:
                api.failures["Keys.SetPsk"] = (grpc.StatusCode.INTERNAL, "no")
            args = ("--socket", str(api.socket), "keys", "set-psk", "bob", "--file", str(psk))
            code, out, err = finish(*args, env={"ASSENT_DEBUG": "1"})
            seen.append(out + err)
            assert code == int(failing)
        assert "Traceback" in seen[1]
        for form in (PSK_HEX, "defghijklmnop", "ZGVmZ2hp"):
            assert form not in "".join(seen)

    def test_terminal_is_asked_without_echo(self, api: FakeApi) -> None:
        ours, theirs = pty.openpty()
        with (
            start(
                *("--socket", str(api.socket), "keys", "set-psk", "bob", "-"),
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                # No controlling terminal: the question goes to stderr, the answer comes from stdin.
                start_new_session=True,
            ) as process,
            os.fdopen(ours, "rb+", buffering=0) as terminal,
        ):
            os.close(theirs)
            assert process.stderr is not None
            # By the time that it asks, echo is off.
            question = process.stderr.read(len("pre-shared key for bob: "))
            terminal.write(f"{PSK_HEX}\n".encode())
            rest = process.stderr.read()
            shown = read_terminal(terminal.fileno())
        assert process.returncode == 0
        assert question == b"pre-shared key for bob: "
        assert api.requests == [("Keys.SetPsk", EXPECTED_PSK)]
        assert b"is set" in shown
        assert PSK_HEX.encode() not in question + rest + shown


def read_terminal(fd: int) -> bytes:
    """All that a process wrote to a terminal, read after the last one has closed it."""
    chunks = []
    while True:
        try:
            chunk = os.read(fd, 65_536)
        except OSError:  # EIO: nobody holds the other end
            return b"".join(chunks)
        chunks.append(chunk)


class TestGeneratePsk:
    def test_printed(self) -> None:
        first, second = (run(None, "keys", "generate-psk").stdout for _ in range(2))
        assert re.fullmatch(r"[0-9a-f]{64}\n", first)
        assert first != second

    def test_printed_as_json(self) -> None:
        reply = json.loads(run(None, "keys", "generate-psk", "--json").stdout)
        assert list(reply) == ["psk"]
        assert len(bytes.fromhex(reply["psk"])) == 32

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_file_is_its_owners_alone(self, tmp_path: Path, umask: int) -> None:
        path = tmp_path / "psk"
        before = os.umask(umask)
        try:
            result = run(None, "keys", "generate-psk", "--output", str(path))
        finally:
            os.umask(before)
        assert result.exit_code == 0
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(psk_file.read(str(path), "bob")) == 32
        assert path.read_text().strip() not in result.stdout + result.stderr

    def test_file_named_in_json(self, tmp_path: Path) -> None:
        path = tmp_path / "psk"
        result = run(None, "keys", "generate-psk", "-o", str(path), "--json")
        assert json.loads(result.stdout) == {"output": str(path)}

    def test_never_overwritten(self, psk: Path) -> None:
        result = run(None, "keys", "generate-psk", "--output", str(psk))
        assert result.exit_code == 1
        assert result.stderr == (
            f"assent: {psk} exists, and a key is never overwritten; "
            "name another file, or remove it\n"
        )
        assert psk.read_text() == f"{PSK_HEX}\n"

    def test_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "psk").symlink_to(tmp_path / "elsewhere")
        assert run(None, "keys", "generate-psk", "-o", str(tmp_path / "psk")).exit_code == 1
        assert not (tmp_path / "elsewhere").exists()

    def test_failed_write_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        result = run(None, "keys", "generate-psk", "--output", str(tmp_path / "psk"))
        assert result.exit_code == 1
        assert "No space left" in result.stderr
        assert not (tmp_path / "psk").exists()


class TestErrors:
    """One line, which names what is wrong and what to do."""

    @pytest.mark.parametrize(
        ("args", "method", "status", "said", "line", "code"),
        [
            (
                ["cells", "show", "bob"],
                "Cells.Get",
                "NOT_FOUND",
                "no cell 'bob'",
                "no cell 'bob' (NOT_FOUND); see `assent cells list`",
                1,
            ),
            (
                ["grants", "set", "bob", "9", "1"],
                "Grants.Set",
                "INVALID_ARGUMENT",
                "flow: needs 1 to 7, got 9",
                "flow: needs 1 to 7, got 9 (INVALID_ARGUMENT); "
                "flows are 1 to 7, a window has 1 to 32767 blocks of 64 bytes",
                2,
            ),
            (
                ["attach", "no/such"],
                "Fabric.Attach",
                "INVALID_ARGUMENT",
                "interface: needs the name of an interface",
                "interface: needs the name of an interface (INVALID_ARGUMENT); "
                "correct it and try again",
                2,
            ),
            (
                ["sessions", "connect", "bob"],
                "Sessions.Connect",
                "DEADLINE_EXCEEDED",
                "bob does not answer",
                "bob does not answer (DEADLINE_EXCEEDED); check that the peer is up, "
                "knows this cell and has the same pre-shared key",
                1,
            ),
            (
                ["grants", "set", "bob", "1", "32767"],
                "Grants.Set",
                "RESOURCE_EXHAUSTED",
                "10 blocks are left",
                "10 blocks are left (RESOURCE_EXHAUSTED); "
                "ask for less or free some: see `assent status`",
                1,
            ),
            (
                ["status"],
                "Fabric.GetStatus",
                "INTERNAL",
                "internal error",
                "internal error (INTERNAL); see the daemon's log",
                1,
            ),
            (
                ["status"],
                "Fabric.GetStatus",
                "UNAVAILABLE",
                "it is\nstopping \x1b[31m",
                "it is stopping \\x1b[31m (UNAVAILABLE); try again in a moment",
                1,
            ),
        ],
    )
    def test_of_the_daemon(
        self,
        api: FakeApi,
        args: list[str],
        method: str,
        status: str,
        said: str,
        line: str,
        code: int,
    ) -> None:
        api.failures[method] = (grpc.StatusCode[status], said)
        result = run(api, *args, "--json")
        assert result.stderr == f"assent: {line}\n"
        assert (result.exit_code, result.stdout) == (code, "")

    def test_no_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "api.sock"
        code, out, err = finish("--socket", str(path), "status")
        assert (code, out) == (1, "")
        assert err == (
            f"assent: there is no socket at {path}; start the daemon with "
            f"`assentd --socket {path}`, or name its socket with --socket\n"
        )

    def test_no_daemon_of_that_instance(self) -> None:
        code, _, err = finish("status", env={"ASSENT_INSTANCE": "not-there"})
        assert code == 1
        assert "no socket at /run/assent/not-there/api.sock" in err
        assert "`assentd --instance not-there`" in err

    def test_bad_instance(self) -> None:
        code, _, err = finish("status", env={"ASSENT_INSTANCE": "../x"})
        assert code == 2
        assert err.startswith("assent: ASSENT_INSTANCE: needs 1 to 63")

    def test_not_a_daemon(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = run(None, "--socket", str(tmp_path / "file"), "status")
        assert result.exit_code == 1
        assert str(tmp_path / "file") in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("args", "line"),
        [
            (["frobnicate"], "no such command 'frobnicate'; see `assent --help`"),
            (["cells", "list", "--wrong"], "no such option: --wrong"),
            (["cells", "show"], "missing argument 'NAME'; see `assent cells show --help`"),
            (["cells", "create", "a"], "missing option '--interface'; see `assent cells create "),
            (["cells"], "missing command; see `assent cells --help`"),
            (["attach", "veth0", "--mode", "warp"], "invalid value for '--mode': "),
            (["cells", "consent", "bob", "maybe"], "invalid value for"),
            (["grants", "show", "bob", "x"], "invalid value for 'FLOW': "),
            (["grants", "show", "bob", "4294967296"], "invalid value for 'FLOW': "),
            (["grants", "set", "bob", "1", "many"], "BLOCKS: needs a number of 64-byte blocks"),
            (["status", "extra"], "got unexpected extra argument"),
            (["cells", "show", "\udcff"], "an argument is not valid UTF-8; "),
        ],
    )
    def test_of_usage(self, api: FakeApi, args: list[str], line: str) -> None:
        result = run(api, *args)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"assent: {line}")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
        assert api.requests == []

    def test_bug_is_one_line_too(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        api.replies["Fabric.GetStatus"] = STATUS
        monkeypatch.setattr(sizes, "show_duration", lambda span: 1 // 0)
        result = run(api, "status")
        assert result.exit_code == 1
        assert result.stderr == (
            "assent: unexpected ZeroDivisionError: integer division or modulo by zero; "
            "this is a bug, ASSENT_DEBUG=1 shows where\n"
        )

    def test_traceback_only_when_debugging(
        self, api: FakeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api.failures["Fabric.GetStatus"] = (grpc.StatusCode.INTERNAL, "no")
        assert "Traceback" not in run(api, "status").stderr
        monkeypatch.setenv("ASSENT_DEBUG", "1")
        said = run(api, "status").stderr
        assert said.startswith("Traceback")
        assert said.splitlines()[-1] == "assent: no (INTERNAL); see the daemon's log"

    def test_interrupted(self, api: FakeApi) -> None:
        """Ctrl-C while the daemon works: no word, and the shell's own code for it."""
        api.hold.clear()
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        with start("--socket", str(api.socket), "sessions", "connect", "bob", **pipes) as process:
            assert api.asked.wait(30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, b"", b"")

    def test_reader_that_has_gone(self, api: FakeApi) -> None:
        api.replies["Fabric.GetStatus"] = STATUS
        reading, writing = os.pipe()
        os.close(reading)
        with start(
            "--socket", str(api.socket), "status", stdout=writing, stderr=subprocess.PIPE
        ) as process:
            os.close(writing)
            _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (1, b"")


class TestOutput:
    def show_on_terminal(self, api: FakeApi, *args: str, **env: str) -> str:
        api.replies["Cells.List"] = cells_pb2.ListCellsResponse(cells=[ALICE, BOB])
        ours, theirs = pty.openpty()
        args = args or ("cells", "list")
        with (
            start("--socket", str(api.socket), *args, stdout=theirs, env=env) as process,
            os.fdopen(ours, "rb", buffering=0),
        ):
            os.close(theirs)
            shown = read_terminal(ours)
        assert process.returncode == 0
        return shown.decode()

    def test_colour_on_a_terminal(self, api: FakeApi) -> None:
        assert re.search(r"\x1b\[32mstanding", self.show_on_terminal(api))

    def test_an_open_way_past_the_gate_is_red(self, api: FakeApi) -> None:
        bypassed = fabric_pb2.Interface(egress=fabric_pb2.EGRESS_STATE_BYPASSED)
        api.replies["Fabric.GetStatus"] = fabric_pb2.Status(
            interfaces=[VETH0, bypassed], ungated=STATUS.ungated
        )
        shown = self.show_on_terminal(api, "status")
        for word in ("bypassed", "not gated"):
            assert re.search(rf"\x1b\[1;31m{word}", shown)
        assert not re.search(r"31mattached", shown)

    def test_no_color_is_honoured(self, api: FakeApi) -> None:
        shown = self.show_on_terminal(api, NO_COLOR="1")
        assert "standing" in shown
        assert not re.search(r"\x1b\[(?:\d+;)*[349]\d", shown)

    def test_narrow_terminal_loses_nothing(self, api: FakeApi) -> None:
        """Columns fold; their characters are all there."""
        shown = self.show_on_terminal(api, COLUMNS="60", NO_COLOR="1")
        assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown.splitlines()) <= 60
        assert "…" not in shown

    def test_no_colour_and_no_folding_in_a_pipe(self, api: FakeApi) -> None:
        api.replies["Cells.List"] = cells_pb2.ListCellsResponse(cells=[ALICE, BOB])
        for env in ({"COLUMNS": "20"}, {"FORCE_COLOR": "1"}):
            _, out, _ = finish("--socket", str(api.socket), "cells", "list", env=env)
            assert "\x1b" not in out
            assert len(out.splitlines()) == 3
            assert ID_HEX in out

    def test_names_cannot_drive_the_terminal(self, api: FakeApi) -> None:
        evil = "\x1b]0;owned\x07[bold]x[/bold]\n:smile:"
        api.replies["Cells.List"] = cells_pb2.ListCellsResponse(cells=[cells_pb2.Cell(name=evil)])
        api.replies["Cells.Get"] = cells_pb2.Cell(name=evil)
        for args in (["list"], ["show", "x"]):
            out = run(api, "cells", *args).stdout
            assert "\\x1b]0;owned\\x07[bold]x[/bold] :smile:" in out
            assert "\x1b" not in out
            assert "\x07" not in out

    def test_secrets_are_not_rendered(self) -> None:
        handle = sessions_pb2.FlowHandle(flow=1, tx_payload_key=PSK, tx_header_key=PSK)
        shown = render.to_dict(handle)
        assert PSK_HEX not in json.dumps(shown)
        assert not [name for name in shown if name.endswith("_key")]

    def test_enum_of_a_newer_daemon(self) -> None:
        assert render.enum_name(common_pb2.Consent.DESCRIPTOR, 77) == "77"

    def test_every_enum_value_has_its_short_name(self) -> None:
        states = sessions_pb2.SessionState.DESCRIPTOR
        assert [render.enum_name(states, number) for number in states.values_by_number] == [
            None,
            "closed",
            "syn_sent",
            "syn_rcvd",
            "established",
            "fin_wait",
            "lost",
        ]

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a\n\tb", "a b"),
            ("\x9b31m", "\\x9b31m"),
            ("\u202egnp", "\\u202egnp"),
            ("grün", "grün"),
            ("\udcff", "\\udcff"),
        ],
    )
    def test_one_line(self, text: str, shown: str) -> None:
        assert one_line(text) == shown


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "blocks"),
        [
            ("1", 1),
            ("32767", 32_767),
            ("64B", 1),
            ("127B", 1),
            ("64 B", 1),
            ("1KiB", 16),
            ("1kB", 15),
            ("100KB", 1562),
            ("2MiB", 32_768),
            ("1.5MiB", 24_576),
            ("1MB", 15_625),
            ("1GiB", 1 << 24),
            ("1GB", 15_625_000),
            ("1TiB", 1 << 34),
            ("18446744073709551615", (1 << 64) - 1),
        ],
    )
    def test_parsed(self, text: str, blocks: int) -> None:
        assert sizes.parse_blocks(text) == blocks

    @pytest.mark.parametrize(
        "text",
        [
            *("", "0", "63B", "0.5", "-1", "1e3", "2mib", "MiB", "1 2", "\u0663", "1.MiB", "inf"),
            *("18446744073709551616", "9" * 20 + "TiB", "9" * 5000),
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgument, match="BLOCKS"):
            sizes.parse_blocks(text)

    @pytest.mark.parametrize(
        ("count", "shown"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (1 << 40, "1 TiB"),
        ],
    )
    def test_bytes_shown(self, count: int, shown: str) -> None:
        assert sizes.show_bytes(count) == shown

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")],
    )
    def test_durations_shown(self, seconds: int, shown: str) -> None:
        assert sizes.show_duration(seconds * 10**9 + 5) == shown


class TestBench:
    RESULT: ClassVar = {
        "xdp": {"admit_ns": 97.1, "bad_tag_ns": 80.0},
        "peer": {"xdp_filter_ns": 19.0},
        "ratio": {"admit": 5.111, "bad_tag": 4.211},
        "bloom": {"check_ns": 3.5},
        "kernel": "6.1.0",
        "repeat": 1000,
        "runs": 3,
    }

    @pytest.fixture(autouse=True)
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
        """What was to be measured; the measurement itself has its own tests, and needs root."""
        calls: list[dict[str, int]] = []

        def measure(**asked: int) -> dict[str, Any]:
            calls.append(asked)
            return self.RESULT

        monkeypatch.setattr("assent.bench.verdict.measure", measure)
        return calls

    def test_for_people(self, asked: list[dict[str, int]]) -> None:
        result = run(None, "bench", "verdict", "--repeat", "1000", "--runs", "3")
        assert (result.exit_code, result.stderr) == (0, "")
        assert asked == [{"repeat": 1000, "runs": 3}]
        assert squeezed(result.stdout) == [
            "VERDICT NS RATIO",
            "admit 97.10 5.111",
            "bad_tag 80.00 4.211",
            "xdp_filter 19.00 1.000",
            "PART NS",
            "a look at the bloom filter 3.50 -",
            "",
            "kernel 6.1.0, median of 3 runs of 1,000 frames",
        ]

    def test_for_programs(self, asked: list[dict[str, int]]) -> None:
        assert json.loads(run(None, "bench", "verdict", "--json").stdout) == self.RESULT
        assert asked == [{"repeat": 1_000_000, "runs": 5}]

    def test_what_it_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measure(**asked: int) -> dict[str, Any]:
            raise NotFound("no peer: install xdp-tools")

        monkeypatch.setattr("assent.bench.verdict.measure", measure)
        result = run(None, "bench", "verdict")
        assert result.exit_code == 1
        assert result.stderr == ("assent: no peer: install xdp-tools\n")

    def test_numbers_have_a_floor(self, asked: list[dict[str, int]]) -> None:
        assert run(None, "bench", "verdict", "--runs", "0").exit_code == 2
        assert asked == []

    def test_latency(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result = {"times": 7, "p50_ms": 1.5, "p99_ms": 3.0, "max_ms": 4.0, "call_p50_ms": 2.0}
        monkeypatch.setattr("assent.bench.latency.measure", lambda times: result)
        assert json.loads(run(None, "bench", "latency", "--json").stdout) == result
        shown = squeezed(run(None, "bench", "latency", "--times", "7").stdout)
        assert shown[0] == (
            "first frame refused 1.5 ms in the median, 3.0 ms for 99 of 100, 4.0 ms at most"
        )

    def test_scale(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bloom = {"ns": 9.0, "words": 1024, "fill": 0.16}
        bloom |= {"expected_rate": 0.007, "measured_rate": 0.0072, "strangers": 1_000_000}
        result = {"cells": 2000, "few": 1000, "frames": 1000, "admit_ns": 190.0}
        result |= {"admit_few_ns": 100.0, "copy_ns": 20.0, "ratio": 1.9, "bloom": bloom}
        result |= {"admit_rows_ns": 120.0, "in_a_row": 16}
        monkeypatch.setattr("assent.bench.scale.measure", lambda cells, frames: result)
        assert json.loads(run(None, "bench", "scale", "--json").stdout) == result
        shown = squeezed(run(None, "bench", "scale").stdout)
        assert shown[:3] == [
            "2,000 cells 190.0 ns a frame",
            "1,000 cells 100.0 ns a frame",
            "ratio 1.9",
        ]
        assert shown[-1] == "strangers past it 0.720% of 1,000,000 (expected 0.700%)"

    def test_covenant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result = {
            "in_memory": {
                "covenants_per_second": 1100, "floor_per_second": 1300, "floor_ratio": 1.2,
                "tls_per_second": 900, "tls_ratio": 0.8,
            },
            "at_once": {
                "covenants": 2000, "memory_mib": 90.5, "memory_before_mib": 80.5, "seconds": 7.5,
                "covenants_per_second": 267,
            },
            "first_frame": {"p50_ms": 9.0, "p99_ms": 12.0, "max_ms": 13.0},
            "quarantine": {"p50_ms": 1.5, "p99_ms": 3.0, "max_ms": 4.0},
            "goals": {
                "covenants_per_second": 1000, "memory_mib": 1024, "first_frame_p99_ms": 20.0,
                "quarantine_p99_ms": 5.0,
            },
        }  # fmt: skip
        asked: list[tuple[int, ...]] = []
        monkeypatch.setattr(
            "assent.bench.covenant.measure", lambda *counts: asked.append(counts) or result
        )
        assert json.loads(run(None, "bench", "covenant", "--json").stdout) == result
        shown = run(None, "bench", "covenant", "--covenants", "2000", "--times", "7").stdout
        assert asked == [(10_000, 60, 200), (2000, 7, 7)]
        assert squeezed(shown) == [
            "covenants a second 1,100 on one core (wanted: 1,000)",
            "their signatures alone 1,300; a covenant takes 1.2 times as long",
            "mutual TLS 1.3 900 handshakes a second; a covenant takes 0.8 times as long",
            "2,000 at once 90.5 MiB, 80.5 MiB before (wanted: 1,024); 7.5 s, 267 a second",
            "last BIND to first frame 9.0 ms in the median, 12.0 ms for 99 of 100 "
            "(wanted: 20), 13.0 ms at most",
            "verdict to first refusal 1.5 ms in the median, 3.0 ms for 99 of 100 "
            "(wanted: 5), 4.0 ms at most",
        ]
        assert run(None, "bench", "covenant", "--covenants", "0").exit_code == 2


class TestVersion:
    @pytest.mark.parametrize("args", [["--version"], ["version"]])
    def test_plain(self, args: list[str]) -> None:
        result = run(None, *args)
        assert (result.exit_code, result.stdout) == (0, f"assent {assent.__version__}\n")

    def test_plain_as_json(self) -> None:
        for args in (["version", "--json"], ["--json", "version"], ["--json", "--version"]):
            assert json.loads(run(None, *args).stdout) == {"version": assent.__version__}

    def test_verbose(self) -> None:
        facts = json.loads(run(None, "version", "--verbose", "--json").stdout)
        assert facts["kernel"] == os.uname().release
        assert facts["btf"] == Path("/sys/kernel/btf/vmlinux").exists()
        assert facts["libbpf"] is None or re.fullmatch(r"\d+\.\d+", facts["libbpf"])
        assert facts["object"] is None or Path(facts["object"]).name == "gate.bpf.o"
        assert set(facts["features"]) == {
            "libbpf_binding",
            "native_endpoint",
            "bpf_filesystem",
            "bpf_jit",
        }

    def test_verbose_for_people(self) -> None:
        said = squeezed(run(None, "version", "-v").stdout)
        assert said[0] == f"assent {assent.__version__}"
        assert f"kernel {os.uname().release}" in said


class TestHelp:
    def test_without_arguments(self) -> None:
        result = run(None)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: assent")

    @pytest.mark.parametrize(
        "noun", ["", "cells", "keys", "grants", "sessions", "bench", "send", "recv"]
    )
    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_of_each_noun(self, noun: str, flag: str) -> None:
        result = run(None, *noun.split(), flag)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: assent {noun}".rstrip())

    def test_imports_nothing_heavy(self) -> None:
        """Help and completion are quick because gRPC, Rich and cryptography are not loaded."""
        program = (
            "import sys\n"
            "from assent.cli.main import main\n"
            "sys.argv = ['assent', '--help']\n"
            "try:\n"
            "    main()\n"
            "except SystemExit as stop:\n"
            "    heavy = {'grpc', 'google.protobuf', 'rich', 'cryptography', 'nacl'}\n"
            "    sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else stop.code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: assent")
