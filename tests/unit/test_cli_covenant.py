# SPDX-License-Identifier: Apache-2.0
"""`assent covenant`: what it asks of the daemon, and what it makes of the answers."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message

from assent.cli import covenant_file, covenant_page
from assent.cli import covenant_spans as spans
from assent.covenant.document import SignedVersion, bind_bytes, export
from assent.covenant.payloads import (
    BoundAgent,
    Clause,
    CovenantObject,
    Duration,
    ExitProtocol,
)
from assent.covenant.terms import Permission, TermSet
from assent.errors import InvalidArgument
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, common_pb2, covenants_pb2_grpc
from assent.v1 import covenants_pb2 as pb

from . import test_cli
from .test_cli import FakeApi, api, plain_environment, run, squeezed, start

__all__ = ["api", "plain_environment"]  # fixtures

NOW = 1_763_733_600_000_000
DAY = 86_400_000_000
LEFT, RIGHT = common_pb2.CellId(value=b"\x11" * 16), common_pb2.CellId(value=b"\x22" * 16)
LEFT_AGENT = "11111111-1111-8111-8111-111111111111"
RIGHT_AGENT = "22222222-2222-8222-8222-222222222222"

TOML = """
durable = true

[[obligations]]
id = "answer"
party = "responder"
duty = "answer within a day"
description = "Reports are read."

[[permissions]]
id = "reports"
party = "initiator"
flows = [1, 2]
content_types = ["text/*"]

[[constraints]]
id = "pace"
party = "initiator"
kind = "rate"
blocks_per_second = "128KiB"

[[constraints]]
id = "room"
party = "initiator"
kind = "burst"
blocks = 512
flow = 1

[[constraints]]
id = "size"
kind = "payload_size"
bytes = 1400

[[constraints]]
id = "hours"
kind = "time_window"
from = "22:30"
to = "06:00"
days = ["Mon", "fri"]

[[constraints]]
id = "always"
kind = "time_window"
from = "00:00"
to = "24:00"

[[constraints]]
id = "patience"
kind = "timer"
timer = "T_offer"
span = "1m30s"

[[constraints]]
id = "talk"
kind = "deferrals"
count = 2

[[constraints]]
id = "place"
kind = "other"
value = "stays in the rack"

[[clauses]]
type = "protection"
description = "Whoever cannot keep up is heard first."
trigger = "an agent asks for a review"
action = "no violation is charged before it"

[duration]
review_interval = "1d"
end = "30d"
max_versions = 9

[exit]
notice = "5m"
mutual = true
fallback = "silence"
"""
TERMS = pb.Terms(
    obligations=[
        pb.Obligation(
            id="answer",
            party="responder",
            duty="answer within a day",
            description="Reports are read.",
        )
    ],
    permissions=[
        pb.Permission(
            id="reports",
            party="initiator",
            action="send",
            flows=[1, 2],
            content_types=["text/*"],
        )
    ],
    constraints=[
        pb.Constraint(id="pace", party="initiator", rate_blocks_per_second=2048),
        pb.Constraint(id="room", party="initiator", burst=pb.Burst(blocks=512, flow=1)),
        pb.Constraint(id="size", party="*", payload_bytes=1400),
        pb.Constraint(
            id="hours",
            party="*",
            time_window=pb.TimeWindow(from_minute=1350, to_minute=360, days=[0, 4]),
        ),
        pb.Constraint(
            id="always", party="*", time_window=pb.TimeWindow(to_minute=1440, days=range(7))
        ),
        pb.Constraint(
            id="patience", party="*", timer=pb.TimerTerm(timer="T_offer", microseconds=90_000_000)
        ),
        pb.Constraint(id="talk", party="*", deferrals=2),
        pb.Constraint(id="place", party="*", other="stays in the rack"),
    ],
)
CLAUSE = pb.Clause(
    type="protection",
    description="Whoever cannot keep up is heard first.",
    trigger="an agent asks for a review",
    action="no violation is charged before it",
)
PROPOSAL = pb.CovenantProposal(
    terms=TERMS,
    duration=pb.CovenantDuration(
        review_interval_us=DAY, end_unix_us=NOW + 30 * DAY, max_versions=9
    ),
    misericordia_clauses=[CLAUSE],
    exit_protocol=pb.ExitProtocol(
        notice_period_us=300_000_000, mutual_required=True, fallback_state="silence"
    ),
    durable=True,
)
SHORT = """
[[permissions]]
id = "reports"
flows = [1]
[[clauses]]
type = "protection"
description = "d"
trigger = "t"
action = "a"
"""
SHORT_PROPOSAL = pb.CovenantProposal(
    terms=pb.Terms(permissions=[pb.Permission(id="reports", party="*", action="send", flows=[1])]),
    duration=pb.CovenantDuration(review_interval_us=7 * DAY),
    misericordia_clauses=[pb.Clause(type="protection", description="d", trigger="t", action="a")],
    exit_protocol=pb.ExitProtocol(notice_period_us=30_000_000, fallback_state="isolation"),
)
PEER = pb.CovenantPeer(
    agent_id=RIGHT_AGENT,
    name="right",
    role="responder",
    public_key=b"\x05" * 32,
    cell=RIGHT,
    bound=True,
    link="websocket to 192.0.2.7:7443",
)
DEFERRAL = pb.Deferral(
    questions=[pb.Question(about="pace", specificity="why so fast?")],
    current_understanding="Reports on flow 1.",
    evidence_needed=["a week of counters"],
)
WHY = pb.Justification(
    comprehension_proof="Reports on flows 1 and 2.",
    rejection_reasons=[
        pb.RejectionReason(term_ref="pace", rationale="too fast", severity="insufficient")
    ],
    evidence_chain=[pb.EvidenceItem(type="log", content="full", source="meter")],
)
REJECTION = pb.Rejection(
    justification=WHY,
    counter_terms=TERMS,
    counter_changes=["~ pace: 2,048 blocks/s becomes 1,000 blocks/s"],
)


def made(**values: object) -> pb.Covenant:
    """A covenant in force, but for what is said."""
    usual: dict[str, Any] = {
        "handle": 3,
        "covenant_id": 0xC0FFEE,
        "state": pb.COVENANT_STATE_COVENANTED,
        "local": LEFT,
        "local_name": "left",
        "agent_id": LEFT_AGENT,
        "role": "initiator",
        "initiator": True,
        "durable": True,
        "version": 1,
        "proposal": PROPOSAL,
        "in_words": ["initiator may send on flows 1 and 2"],
        "peers": [PEER],
        "created_unix_us": NOW,
        "updated_unix_us": NOW + 1_000_000,
    }
    return pb.Covenant(**(usual | values))


IN_FORCE = made()
OFFERED = made(state=pb.COVENANT_STATE_OFFER_SENT, version=0, covenant_id=0, created_unix_us=0)
RECEIVED = made(state=pb.COVENANT_STATE_OFFER_RECEIVED, version=0, initiator=False)
REJECTED = made(
    state=pb.COVENANT_STATE_IDLE, version=0, reason="rejected by right", rejection=REJECTION
)
DEFERRED = made(state=pb.COVENANT_STATE_DEFERRED, version=0, deferrals=1, questions=DEFERRAL)
AMENDING = made(
    state=pb.COVENANT_STATE_AMENDING,
    amendment=PROPOSAL,
    amendment_changes=["+ video may be sent on flow 3", "- reports", "~ pace: faster"],
)
REVOKING = made(
    state=pb.COVENANT_STATE_REVOKING, notice_ends_unix_us=NOW + 60_000_000, reason="moving out"
)
QUARANTINED = made(
    peers=[
        pb.CovenantPeer(
            agent_id=RIGHT_AGENT,
            name="right",
            role="responder",
            cell=RIGHT,
            bound=True,
            quarantined="DATA sent before BIND",
        )
    ]
)
ENDED = made(handle=2, state=pb.COVENANT_STATE_TERMINATED, reason="its notice is over")
SAID = "covenant 3 with right is covenanted, version 1"
OVER = threading.Event()
"""While it is not set, the streams of this test's server last."""
NO_TERMS = TermSet()
POLICY = pb.CovenantPolicy(
    flows=[1, 2],
    rate_max_blocks_per_second=2048,
    burst_max_blocks=4096,
    payload_max_bytes=1400,
    content_types=["text/*"],
    duration_max_us=30 * DAY,
    notice_max_us=300_000_000,
    durable=True,
)


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_cli.SERVICES, "Covenants", (pb, covenants_pb2_grpc))
    monkeypatch.setattr(spans, "now", lambda: NOW)


@pytest.fixture
def covenants(_served: None, api: FakeApi) -> Iterator[FakeApi]:
    OVER.clear()
    yield api
    OVER.set()


@pytest.fixture
def terms(tmp_path: Path) -> str:
    path = tmp_path / "terms.toml"
    path.write_text(TOML)
    return str(path)


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    return str(path)


@contextlib.contextmanager
def serving(fake: FakeApi) -> Iterator[grpc.Server]:
    with ThreadPoolExecutor(max_workers=4) as pool:
        server = grpc.server(pool)
        fake.register(server)
        server.add_insecure_port(f"unix:{fake.socket}")
        OVER.clear()
        server.start()
        yield server
        OVER.set()
        server.stop(None).wait()


def lasting(told: Iterable[pb.CovenantNews]) -> Any:
    """A stream that does not end by itself, for as long as the server is there."""
    yield from told
    OVER.wait(20)


def watching(api: FakeApi, *args: str) -> subprocess.Popen[bytes]:
    return start(
        *("--socket", str(api.socket), "covenant", "watch", *args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def on_a_terminal(api: FakeApi, *args: str, until: str = "") -> str:
    """What a command prints on a terminal of 100 columns; with `until`, interrupted after that."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    arguments = ("--socket", str(api.socket), *args)
    with start(*arguments, stdin=far, stdout=far, stderr=far) as process:
        os.close(far)
        shown = b""
        while True:
            try:
                shown += os.read(near, 4096)
            except OSError:  # how Linux says that nobody has the other side open
                break
            if until and until.encode() in shown:
                process.send_signal(signal.SIGINT)
        process.wait(30)
    os.close(near)
    assert process.returncode == 0, shown
    return shown.decode()


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def remote(name: str = "right", **values: str) -> pb.OfferRemote:
    return pb.OfferRemote(cell=cells_pb2.CellRef(name=name), **values)


COMMANDS = [
    pytest.param(
        ["list"],
        "List",
        pb.ListCovenantsRequest(),
        pb.ListCovenantsResponse(covenants=[IN_FORCE]),
        [
            "HANDLE WITH STATE VERSION CHANGED NOTE",
            "3 right covenanted 1 2025-11-21 14:00:01Z -",
        ],
        id="list",
    ),
    pytest.param(
        ["list", "--all"],
        "List",
        pb.ListCovenantsRequest(ended=True),
        pb.ListCovenantsResponse(covenants=[IN_FORCE, ENDED]),
        ["2 right terminated 1 2025-11-21 14:00:01Z its notice is over"],
        id="list-all",
    ),
    pytest.param(
        ["show", "3"],
        "Get",
        pb.GetCovenantRequest(handle=3),
        IN_FORCE,
        ["covenant 3 with right", "initiator may send on flows 1 and 2"],
        id="show",
    ),
    pytest.param(
        ["accept", "3"], "Accept", pb.AcceptRequest(handle=3), IN_FORCE, [SAID], id="accept"
    ),
    pytest.param(
        [
            *("reject", "3", "--because", "pace (insufficient): too fast", "--because", "size: no"),
            *("--understood", " Reports. "),
        ],
        "Reject",
        pb.RejectRequest(
            handle=3,
            justification=pb.Justification(
                comprehension_proof="Reports.",
                rejection_reasons=[
                    WHY.rejection_reasons[0],
                    pb.RejectionReason(term_ref="size", rationale="no", severity="incompatible"),
                ],
            ),
        ),
        REJECTED,
        ["covenant 3 with right is idle: rejected by right"],
        id="reject",
    ),
    pytest.param(
        [
            *("defer", "3", "--ask", "pace: why: so fast?", "--understood", "Reports."),
            *("--need", "a week of counters", "--timeout", "2m"),
        ],
        "Defer",
        pb.DeferRequest(
            handle=3,
            deferral=pb.Deferral(
                questions=[pb.Question(about="pace", specificity="why: so fast?")],
                current_understanding="Reports.",
                evidence_needed=["a week of counters"],
                timeout_us=120_000_000,
            ),
        ),
        DEFERRED,
        ["covenant 3 with right is deferred: 1 question to answer"],
        id="defer",
    ),
    pytest.param(
        ["inform", "3", "Here are the counters."],
        "Inform",
        pb.InformRequest(handle=3, content_type="text/plain", data=b"Here are the counters."),
        OFFERED,
        ["covenant 3 with right is offer-sent"],
        id="inform",
    ),
    pytest.param(
        ["send", "3", "hello", "--content-type", "text/markdown"],
        "Send",
        pb.SendRequest(handle=3, content_type="text/markdown", data=b"hello"),
        IN_FORCE,
        ["covenant 3: sent 5 bytes as text/markdown"],
        id="send",
    ),
    pytest.param(
        ["review", "3"],
        "Review",
        pb.ReviewRequest(handle=3, kind=pb.REVIEW_KIND_CHECK),
        IN_FORCE,
        [SAID],
        id="review",
    ),
    pytest.param(
        ["review", "3", "all is well", "--report"],
        "Review",
        pb.ReviewRequest(handle=3, kind=pb.REVIEW_KIND_REPORT, note="all is well"),
        IN_FORCE,
        [SAID],
        id="review-report",
    ),
    pytest.param(
        ["review", "3", "--request"],
        "Review",
        pb.ReviewRequest(handle=3, kind=pb.REVIEW_KIND_REQUEST),
        QUARANTINED,
        [f"{SAID}: quarantined: right"],
        id="review-request",
    ),
    pytest.param(
        ["review", "3", "--clear"],
        "Review",
        pb.ReviewRequest(handle=3, kind=pb.REVIEW_KIND_CLEAR),
        IN_FORCE,
        [SAID],
        id="review-clear",
    ),
    pytest.param(
        ["revoke", "3", "--reason", "moving out"],
        "Revoke",
        pb.RevokeRequest(handle=3, reason="moving out"),
        REVOKING,
        ["covenant 3 with right is revoking, version 1: ends 2025-11-21 14:01:00Z"],
        id="revoke",
    ),
    pytest.param(
        ["revoke", "3", "--now", "--reason", "moving out"],
        "Revoke",
        pb.RevokeRequest(handle=3, reason="moving out", now=True),
        ENDED,
        ["covenant 2 with right is terminated, version 1: its notice is over"],
        id="revoke-now",
    ),
    pytest.param(
        ["rotate", "--local", "left"],
        "Rotate",
        pb.RotateRequest(local=cells_pb2.CellRef(name="left")),
        pb.RotateResponse(covenants=[AMENDING]),
        ["3 right amending 1 2025-11-21 14:00:01Z waits for your decision"],
        id="rotate",
    ),
    pytest.param(
        ["policy", "show", "right"],
        "GetPolicy",
        pb.GetCovenantPolicyRequest(remote=cells_pb2.CellRef(name="right")),
        pb.GetCovenantPolicyResponse(policy=POLICY),
        [
            "flows 1, 2",
            "rate up to 2,048 (128 KiB) blocks a second",
            "burst up to 4,096 (256 KiB) blocks",
            "payload up to 1,400 bytes",
            "content types text/*",
            "duration up to 30 d",
            "notice up to 5 min",
            "durable accepted too",
            "amendments wait for a decision",
        ],
        id="policy-show",
    ),
    pytest.param(
        ["policy", "show", "--local", "left"],
        "GetPolicy",
        pb.GetCovenantPolicyRequest(local=cells_pb2.CellRef(name="left")),
        pb.GetCovenantPolicyResponse(),
        ["none: what is offered waits for a decision"],
        id="policy-show-none",
    ),
    pytest.param(
        [
            *("policy", "set", "--flow", "2", "--flow", "1", "--rate-max", "128KiB"),
            *("--burst-max", "4096", "--payload-max", "1400", "--content-type", "text/*"),
            *("--duration-max", "30d", "--notice-max", "5m", "--durable"),
        ],
        "SetPolicy",
        pb.SetCovenantPolicyRequest(policy=POLICY),
        pb.SetCovenantPolicyResponse(policy=POLICY),
        ["flows 1, 2"],
        id="policy-set",
    ),
    pytest.param(
        ["policy", "set", "right", "--none"],
        "SetPolicy",
        pb.SetCovenantPolicyRequest(remote=cells_pb2.CellRef(name="right")),
        pb.SetCovenantPolicyResponse(),
        ["none: what is offered waits for a decision"],
        id="policy-set-none",
    ),
]


@pytest.mark.parametrize(("args", "method", "request_", "reply", "lines"), COMMANDS)
def test_commands(
    covenants: FakeApi,
    args: list[str],
    method: str,
    request_: Message,
    reply: Message,
    lines: list[str],
) -> None:
    covenants.replies[f"Covenants.{method}"] = reply
    result = run(covenants, "covenant", *args)
    assert (result.exit_code, result.stderr) == (0, "")
    said = squeezed(result.stdout)
    assert [line for line in lines if line not in said] == []
    shown = run(covenants, "covenant", *args, "--json")
    assert set(json.loads(shown.stdout)) == {field.name for field in reply.DESCRIPTOR.fields}
    assert covenants.requests == [(f"Covenants.{method}", request_)] * 2


def test_every_method_has_a_command() -> None:
    methods = set(pb.DESCRIPTOR.services_by_name["Covenants"].methods_by_name)
    elsewhere = {"Offer", "Amend", "Watch", "Evidence", "Export"}
    assert {param.values[1] for param in COMMANDS} | elsewhere == methods


def test_in_json_states_kinds_and_cells_are_as_people_write_them(covenants: FakeApi) -> None:
    covenants.replies["Covenants.Get"] = AMENDING
    shown = json.loads(run(covenants, "covenant", "show", "3", "--json").stdout)
    assert (shown["state"], shown["local"]) == ("amending", "11" * 16)
    assert shown["peers"][0]["public_key"] == "05" * 32
    assert shown["amendment"]["terms"]["constraints"][2]["payload_bytes"] == 1400
    assert shown["amendment"]["terms"]["constraints"][2]["other"] is None
    assert (shown["questions"], shown["rejection"]) == (None, None)


@pytest.mark.parametrize(
    ("args", "method", "reply", "line"),
    [
        (["list"], "List", pb.ListCovenantsResponse(), "offer --help"),
        (["rotate"], "Rotate", pb.RotateResponse(), "no covenant had to be amended"),
        (["evidence"], "Evidence", pb.EvidenceResponse(), "no evidence has been recorded"),
    ],
)
def test_nothing_to_show_says_so(
    covenants: FakeApi, args: list[str], method: str, reply: Message, line: str
) -> None:
    covenants.replies[f"Covenants.{method}"] = reply
    assert line in run(covenants, "covenant", *args).stdout


@pytest.mark.parametrize(
    ("covenant", "note"),
    [
        (IN_FORCE, ""),
        (OFFERED, ""),
        (RECEIVED, "waits for your decision"),
        (DEFERRED, "1 question to answer"),
        (made(state=pb.COVENANT_STATE_DEFERRED, initiator=False), "waits for their answer"),
        (AMENDING, "waits for your decision"),
        (made(state=pb.COVENANT_STATE_AMENDING, amendment_by_us=True), "waits for the others"),
        (REVOKING, "ends 2025-11-21 14:01:00Z"),
        (REJECTED, "rejected by right"),
        (ENDED, "its notice is over"),
        (QUARANTINED, "quarantined: right"),
    ],
)
def test_what_an_operator_should_know_first(covenant: pb.Covenant, note: str) -> None:
    assert covenant_page.note(covenant) == note


class TestShow:
    def shown(self, covenants: FakeApi, covenant: pb.Covenant) -> list[str]:
        covenants.replies["Covenants.Get"] = covenant
        result = run(covenants, "covenant", "show", "3")
        assert (result.exit_code, result.stderr) == (0, "")
        return squeezed(result.stdout)

    def test_in_force(self, covenants: FakeApi) -> None:
        assert self.shown(covenants, IN_FORCE) == [
            "covenant 3 with right",
            "state covenanted, version 1 of 2025-11-21 14:00:00Z",
            f"here left as initiator, agent {LEFT_AGENT}",
            f"there right as responder, agent {RIGHT_AGENT}, signed, over websocket to "
            "192.0.2.7:7443",
            "id 0x00c0ffee",
            "runs from 1970-01-01 00:00:00Z, to 2025-12-21 14:00:00Z, reviewed every 1 d, "
            "at most 9 versions, survives its transport",
            "exit 5 min of notice, all must agree, back to silence",
            "",
            "terms",
            "initiator may send on flows 1 and 2",
            "",
            "misericordia",
            "protection Whoever cannot keep up is heard first. (when an agent asks for a review: "
            "no violation is charged before it)",
        ]

    def test_an_amendment_is_shown_as_what_it_changes(self, covenants: FakeApi) -> None:
        said = self.shown(covenants, AMENDING)
        at = said.index("amendment to version 2, proposed by the other side")
        assert said[at + 1 : at + 4] == [
            "+ video may be sent on flow 3",
            "- reports",
            "~ pace: faster",
        ]
        assert said[1].endswith(", waits for your decision")

    def test_questions(self, covenants: FakeApi) -> None:
        said = self.shown(covenants, DEFERRED)
        at = said.index("questions")
        assert said[at + 1 : at + 4] == [
            "pace why so fast?",
            "needed a week of counters",
            "understood Reports on flow 1.",
        ]
        assert "deferred 1 time" in said[1]

    def test_quarantine_says_why_and_how_to_end_it(self, covenants: FakeApi) -> None:
        said = self.shown(covenants, QUARANTINED)
        at = said.index("quarantine")
        assert said[at + 1 : at + 3] == [
            "right DATA sent before BIND",
            "to end it `assent covenant review 3 --clear`, or revoke it",
        ]
        assert ", no link" in said[3]

    def test_notice(self, covenants: FakeApi) -> None:
        said = self.shown(covenants, REVOKING)
        assert said[1].endswith(", ends 2025-11-21 14:01:00Z")
        assert "reason moving out" in said

    def test_a_rejection_and_what_would_be_accepted(self, covenants: FakeApi) -> None:
        said = self.shown(covenants, REJECTED)
        assert said[said.index("last rejection") :] == [
            "last rejection",
            "understood Reports on flows 1 and 2.",
            "insufficient pace: too fast",
            "evidence meter (log): full",
            "",
            "counter-terms",
            "~ pace: 2,048 blocks/s becomes 1,000 blocks/s",
        ]

    def test_what_peers_write_cannot_drive_the_terminal(self, covenants: FakeApi) -> None:
        hostile = made(
            reason="\x1b[2J\x07", in_words=["\x1b]0;x\x07[bold]"], peers=[PEER], role="a\nb"
        )
        said = "\n".join(self.shown(covenants, hostile))
        assert "\x1b" not in said
        assert "\x07" not in said
        assert "\\x1b]0;x\\x07[bold]" in said
        assert "left as a b" in said

    def test_times_that_no_calendar_has(self, covenants: FakeApi) -> None:
        far = made(
            proposal=pb.CovenantProposal(duration=pb.CovenantDuration(end_unix_us=2**64 - 1))
        )
        assert any("s after 1970" in line for line in self.shown(covenants, far))

    def test_fits_a_terminal_of_a_hundred_columns(self, covenants: FakeApi) -> None:
        covenants.replies["Covenants.Get"] = AMENDING
        shown = on_a_terminal(covenants, "covenant", "show", "3")
        plain = without_colour(shown)
        assert max(map(len, plain.splitlines())) <= 100
        assert "\x1b[32m" in shown
        assert "\x1b[31m" in shown


class TestOffer:
    def offered(self, covenants: FakeApi, *args: str) -> pb.OfferRequest:
        covenants.replies["Covenants.Offer"] = OFFERED
        result = run(covenants, "covenant", "offer", *args)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "covenant 3 with right is offer-sent\n"
        ((method, request),) = covenants.requests
        assert method == "Covenants.Offer"
        assert isinstance(request, pb.OfferRequest)
        return request

    def test_all_of_a_file(self, covenants: FakeApi, terms: str) -> None:
        request = self.offered(covenants, "right", "--terms", terms)
        assert request == pb.OfferRequest(remotes=[remote()], proposal=PROPOSAL)

    def test_what_a_file_leaves_out(self, covenants: FakeApi, short: str) -> None:
        request = self.offered(covenants, "right", "--terms", short)
        assert request == pb.OfferRequest(remotes=[remote()], proposal=SHORT_PROPOSAL)

    def test_flags_go_before_the_file(self, covenants: FakeApi, terms: str) -> None:
        request = self.offered(
            covenants,
            *("right", "--terms", terms, "--no-durable", "--notice", "1h", "--local", "left"),
            *("--review-interval", "12h", "--end", "2026-01-01T00:00:00Z"),
            *("--via", "wss://right.example:7443/covenant", "--role", "witness"),
        )
        expected = pb.CovenantProposal()
        expected.CopyFrom(PROPOSAL)
        expected.durable = False
        expected.exit_protocol.notice_period_us = 3_600_000_000
        expected.duration.review_interval_us = DAY // 2
        expected.duration.end_unix_us = 1_767_225_600_000_000
        assert request == pb.OfferRequest(
            local=cells_pb2.CellRef(name="left"),
            remotes=[remote(url="wss://right.example:7443/covenant", role="witness")],
            proposal=expected,
        )

    def test_no_end(self, covenants: FakeApi, terms: str) -> None:
        request = self.offered(covenants, "right", "--terms", terms, "--end", "0s")
        assert request.proposal.duration.end_unix_us == 0

    def test_several_remotes(self, covenants: FakeApi, short: str) -> None:
        request = self.offered(
            covenants,
            *("right", "third", "--terms", short, "--via", "third=h2://192.0.2.9:443"),
            *("--role", "right=reader", "--role", "third=witness"),
        )
        assert list(request.remotes) == [
            remote(role="reader"),
            remote("third", url="h2://192.0.2.9:443", role="witness"),
        ]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["right", "right"], "REMOTE: is named twice"),
            (["right", "--via", "ws://h:1/covenant"], "--via: needs wss://HOST[:PORT]/covenant"),
            (["right", "--via", "wss://h:1/other"], "--via: needs wss://HOST[:PORT]/covenant"),
            (["right", "--via", "wss://h:0/covenant"], "--via: needs wss://HOST[:PORT]/covenant"),
            (["right", "--via", "h2://:1"], "--via: needs wss://HOST[:PORT]/covenant"),
            (["right", "--via", "h2://h:99999"], "--via: needs wss://HOST[:PORT]/covenant"),
            (["right", "--via", "third=h2://h:1"], "--via: third is not among the remotes"),
            (["right", "third", "--via", "h2://h:1"], "--via: needs REMOTE= before it"),
            (["right", "--role", "a", "--role", "b"], "--role: is given twice for right"),
            (["right", "--notice", "soon"], "--notice: needs a span of time like 30s"),
            (["right", "--end", "2026-01-01T00:00:00"], "--end: needs a span like 30d, or a time"),
            (["right", "--end", "1900-01-01"], "--end: lies before 1970"),
            (["right", "--wait", "--timeout", "0s"], "--timeout: needs more than no time"),
            (["right", "--review-interval", "9999999999w"], "--review-interval: is longer than"),
        ],
    )
    def test_bad_options_ask_nothing(
        self, covenants: FakeApi, short: str, args: list[str], said: str
    ) -> None:
        result = run(covenants, "covenant", "offer", *args, "--terms", short)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"assent: {said}")
        assert len(result.stderr.splitlines()) == 1
        assert covenants.requests == []

    def test_terms_and_clauses_are_needed(self, covenants: FakeApi, tmp_path: Path) -> None:
        file = tmp_path / "x.toml"
        file.write_text("durable = true\n")
        result = run(covenants, "covenant", "offer", "right", "--terms", str(file))
        assert "has no obligations, permissions or constraints" in result.stderr
        file.write_text('[[permissions]]\nid = "a"\n')
        result = run(covenants, "covenant", "offer", "right", "--terms", str(file))
        assert "clauses: needs at least one: what protects an agent at risk" in result.stderr
        assert covenants.requests == []

    def test_a_file_that_is_not_there(self, covenants: FakeApi, tmp_path: Path) -> None:
        result = run(covenants, "covenant", "offer", "right", "--terms", str(tmp_path / "no"))
        assert result.exit_code == 1
        assert "No such file or directory" in result.stderr
        assert covenants.requests == []


def news(kind: str, covenant: pb.Covenant, **values: Any) -> pb.CovenantNews:
    return pb.CovenantNews(
        time_unix_us=NOW + 123_456, kind=kind, text="so it is", covenant=covenant, **values
    )


class TestWait:
    """`offer --wait`: the outcome is the exit code."""

    def waited(
        self, covenants: FakeApi, short: str, told: list[pb.CovenantNews], *args: str
    ) -> Any:
        covenants.replies["Covenants.Offer"] = OFFERED
        covenants.replies.setdefault("Covenants.Get", OFFERED)
        covenants.replies["Covenants.Watch"] = iter(told)
        return run(covenants, "covenant", "offer", "right", "--terms", short, "--wait", *args)

    def test_agreed(self, covenants: FakeApi, short: str) -> None:
        told = [
            news("accepted", made(state=pb.COVENANT_STATE_ACCEPTED)),
            news("covenanted", IN_FORCE),
        ]
        result = self.waited(covenants, short, told)
        assert (result.exit_code, result.stdout) == (0, f"{SAID}\n")
        assert covenants.requests[1:] == [
            ("Covenants.Watch", pb.WatchCovenantsRequest(handle=3)),
            ("Covenants.Get", pb.GetCovenantRequest(handle=3)),
        ]

    def test_agreed_before_the_watch_began(self, covenants: FakeApi, short: str) -> None:
        covenants.replies["Covenants.Get"] = IN_FORCE
        result = self.waited(covenants, short, [])
        assert (result.exit_code, result.stdout) == (0, f"{SAID}\n")

    def test_rejected_says_why_and_what_would_be_accepted(
        self, covenants: FakeApi, short: str
    ) -> None:
        result = self.waited(covenants, short, [news("rejected", REJECTED)])
        assert (result.exit_code, result.stderr) == (1, "")
        assert squeezed(result.stdout) == [
            "covenant 3 with right is idle",
            "rejected by right",
            "",
            "last rejection",
            "understood Reports on flows 1 and 2.",
            "insufficient pace: too fast",
            "evidence meter (log): full",
            "",
            "counter-terms",
            "~ pace: 2,048 blocks/s becomes 1,000 blocks/s",
        ]

    def test_rejected_for_programs(self, covenants: FakeApi, short: str) -> None:
        result = self.waited(covenants, short, [news("rejected", REJECTED)], "--json")
        assert result.exit_code == 1
        shown = json.loads(result.stdout)
        assert shown["rejection"]["justification"]["comprehension_proof"].startswith("Reports")

    def test_questions_are_shown_meanwhile(self, covenants: FakeApi, short: str) -> None:
        told = [news("deferred", DEFERRED), news("covenanted", IN_FORCE)]
        result = self.waited(covenants, short, told)
        assert result.exit_code == 0
        said = squeezed(result.stdout)
        assert "pace why so fast?" in said
        assert said[-1] == SAID

    def test_nobody_decides(self, covenants: FakeApi, short: str) -> None:
        def for_ever() -> Iterator[pb.CovenantNews]:
            gone.wait(20)
            yield from ()

        gone = threading.Event()
        covenants.replies["Covenants.Offer"] = OFFERED
        covenants.replies["Covenants.Get"] = OFFERED
        covenants.replies["Covenants.Watch"] = for_ever()  # type: ignore[assignment]
        result = run(
            covenants,
            *("covenant", "offer", "right", "--terms", short, "--wait", "--timeout", "300ms"),
        )
        gone.set()
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "assent: covenant 3 with right is offer-sent after 0.3 s; it is still open: see "
            "`assent covenant show 3`\n"
        )

    def test_refused_by_the_daemon(self, covenants: FakeApi, short: str) -> None:
        covenants.failures["Covenants.Offer"] = (grpc.StatusCode.NOT_FOUND, "cell: no right")
        result = run(covenants, "covenant", "offer", "right", "--terms", short, "--wait")
        assert result.exit_code == 1
        assert result.stderr.startswith("assent: cell: no right (NOT_FOUND); ")
        assert [method for method, _ in covenants.requests] == ["Covenants.Offer"]


class TestAmend:
    def amended(self, covenants: FakeApi, *args: str) -> list[tuple[str, Message]]:
        covenants.replies["Covenants.Get"] = IN_FORCE
        covenants.replies["Covenants.Amend"] = AMENDING
        result = run(covenants, "covenant", "amend", "3", *args)
        assert (result.exit_code, result.stderr) == (0, "")
        assert squeezed(result.stdout) == [
            "covenant 3 with right is amending, version 1",
            "",
            "amendment to version 2, proposed by the other side",
            "+ video may be sent on flow 3",
            "- reports",
            "~ pace: faster",
        ]
        return covenants.requests

    def test_what_a_file_leaves_out_stays(self, covenants: FakeApi, tmp_path: Path) -> None:
        file = tmp_path / "x.toml"
        file.write_text('[[permissions]]\nid = "reports"\nflows = [1]\n')
        assert self.amended(covenants, "--terms", str(file)) == [
            ("Covenants.Amend", pb.AmendRequest(handle=3, terms=SHORT_PROPOSAL.terms))
        ]

    def test_one_option_changes_one_thing(self, covenants: FakeApi) -> None:
        protocol = pb.ExitProtocol()
        protocol.CopyFrom(PROPOSAL.exit_protocol)
        protocol.notice_period_us = 60_000_000
        duration = pb.CovenantDuration()
        duration.CopyFrom(PROPOSAL.duration)
        duration.end_unix_us = 0
        assert self.amended(covenants, "--notice", "1m", "--end", "0s") == [
            ("Covenants.Get", pb.GetCovenantRequest(handle=3)),
            (
                "Covenants.Amend",
                pb.AmendRequest(handle=3, duration=duration, exit_protocol=protocol),
            ),
        ]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "--terms: or another option is needed: nothing would change"),
            (["--notice", "x"], "--notice: needs a span of time"),
            (["--end", "x"], "--end: needs a span like 30d"),
        ],
    )
    def test_bad_options_ask_nothing(self, covenants: FakeApi, args: list[str], said: str) -> None:
        result = run(covenants, "covenant", "amend", "3", *args)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"assent: {said}")
        assert covenants.requests == []

    def test_durable_cannot_be_amended(self, covenants: FakeApi, terms: str) -> None:
        result = run(covenants, "covenant", "amend", "3", "--terms", terms)
        assert "durable: is settled by the offer, and cannot be amended" in result.stderr
        assert covenants.requests == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["reject", "3", "--because", "too fast", "--understood", "x"], '--because: needs "TERM: '),
        (["reject", "3", "--because", ": no", "--understood", "x"], '--because: needs "TERM: '),
        (["reject", "3", "--because", "(unclear): x", "--understood", "x"], "--because: needs"),
        (["reject", "3", "--because", "a:b", "--understood", " "], "--understood: must say some"),
        (["reject", "3", "--because", "a:b"], "missing option '--understood'"),
        (["reject", "3", "--understood", "a"], "missing option '--because'"),
        (["defer", "3", "--ask", "why", "--understood", "x", "--need", "y"], '--ask: needs "TERM'),
        (["defer", "3", "--ask", "a:b", "--understood", "x", "--need", ""], "--need: must say"),
        (["defer", "3", "--ask", "a:b", "--understood", "x"], "missing option '--need'"),
        (["revoke", "3", "--reason", ""], "--reason: must say something"),
        (["revoke", "3"], "missing option '--reason'"),
        (["review", "3", "--clear", "--report"], "--clear, --report, --request: only one"),
        (["send", "3"], "TEXT: or --file is needed, and not both"),
        (["inform", "3", "x", "--file", "y"], "TEXT: or --file is needed, and not both"),
        (["accept", "0"], "invalid value for 'HANDLE'"),
        (["show", "three"], "invalid value for 'HANDLE'"),
        (["show", str(2**64)], "invalid value for 'HANDLE'"),
        (["evidence", "-n", "0"], "invalid value for '--count'"),
        (["policy", "set"], "--flow: or another bound is needed"),
        (["policy", "set", "--durable"], "--flow: or another bound is needed"),
        (["policy", "set", "--flow", "8"], "invalid value for '--flow'"),
        (["policy", "set", "--rate-max", "fast"], "--rate-max: needs a number of 64-byte blocks"),
        (["policy", "set", "--burst-max", "9TiB"], "--burst-max: needs at most"),
        (["policy", "set", "--notice-max", "x"], "--notice-max: needs a span"),
        (["policy", "set", "--none", "--flow", "1"], "--none: leaves nothing to be bounded"),
    ],
)
def test_bad_arguments_ask_nothing(covenants: FakeApi, args: list[str], said: str) -> None:
    result = run(covenants, "covenant", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"assent: {said}")
    assert len(result.stderr.splitlines()) == 1
    assert covenants.requests == []


class TestContent:
    @pytest.fixture(autouse=True)
    def sending(self, covenants: FakeApi) -> None:
        covenants.replies["Covenants.Send"] = IN_FORCE

    def test_from_a_file(self, covenants: FakeApi, tmp_path: Path) -> None:
        file = tmp_path / "x"
        file.write_bytes(b"\x00\x01")
        assert run(covenants, "covenant", "send", "3", "--file", str(file)).exit_code == 0
        assert covenants.requests[0][1] == pb.SendRequest(
            handle=3, content_type="application/octet-stream", data=b"\x00\x01"
        )

    def test_from_standard_input(self, covenants: FakeApi) -> None:
        args = ("covenant", "send", "3", "-f", "-", "--content-type", "a/b")
        assert run(covenants, *args, given=b"abc").exit_code == 0
        assert covenants.requests[0][1] == pb.SendRequest(handle=3, content_type="a/b", data=b"abc")

    def test_too_much(self, covenants: FakeApi, tmp_path: Path) -> None:
        file = tmp_path / "x"
        file.write_bytes(bytes((256 << 10) + 1))
        result = run(covenants, "covenant", "send", "3", "--file", str(file))
        assert (result.exit_code, covenants.requests) == (2, [])
        assert "--file: has more than 262,144 bytes: send it on a flow" in result.stderr


def test_counter_terms_of_a_file(covenants: FakeApi, short: str) -> None:
    covenants.replies["Covenants.Reject"] = REJECTED
    args = ("reject", "3", "--because", "a: b", "--understood", "c", "--counter", short)
    assert run(covenants, "covenant", *args).exit_code == 0
    request = covenants.requests[0][1]
    assert isinstance(request, pb.RejectRequest)
    assert request.counter_terms == SHORT_PROPOSAL.terms


def test_counter_terms_must_be_some(covenants: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[exit]\n")
    args = ("reject", "3", "--because", "a: b", "--understood", "c", "--counter", str(file))
    result = run(covenants, "covenant", *args)
    assert "has no obligations, permissions or constraints" in result.stderr
    assert covenants.requests == []


class TestExport:
    def test_to_a_new_file(self, covenants: FakeApi, tmp_path: Path) -> None:
        covenants.replies["Covenants.Export"] = pb.ExportResponse(document=b"\xa0")
        file = tmp_path / "x"
        result = run(covenants, "covenant", "export", "3", "-o", str(file))
        assert result.exit_code == 0
        assert result.stdout == (f"{file} holds covenant 3: see `assent covenant verify {file}`\n")
        assert file.read_bytes() == b"\xa0"
        assert covenants.requests == [("Covenants.Export", pb.ExportRequest(handle=3))]

    def test_no_file_is_replaced(self, covenants: FakeApi, tmp_path: Path) -> None:
        covenants.replies["Covenants.Export"] = pb.ExportResponse(document=b"\xa0")
        file = tmp_path / "x"
        file.write_bytes(b"dear")
        result = run(covenants, "covenant", "export", "3", "-o", str(file))
        assert result.exit_code == 1
        assert "File exists" in result.stderr
        assert file.read_bytes() == b"dear"

    def test_refused_leaves_no_file(self, covenants: FakeApi, tmp_path: Path) -> None:
        covenants.failures["Covenants.Export"] = (
            grpc.StatusCode.FAILED_PRECONDITION,
            "covenant 3 was never in force",
        )
        file = tmp_path / "x"
        result = run(covenants, "covenant", "export", "3", "-o", str(file))
        assert result.exit_code == 1
        assert "covenant 3 was never in force (FAILED_PRECONDITION)" in result.stderr
        assert not file.exists()


def signed(version: int, *owners: Identity, terms: TermSet = NO_TERMS) -> CovenantObject:
    """A version of a covenant, signed by the owners of these keys."""
    parties = zip((LEFT_AGENT, RIGHT_AGENT), ("initiator", "responder"), owners, strict=True)
    agents = tuple(
        BoundAgent(UUID(agent), role, owner.public_key, b"") for agent, role, owner in parties
    )
    bare = CovenantObject(
        0xC0FFEE,
        version,
        terms,
        Duration(NOW, 0),
        (Clause("protection", "d", "t", "a"),),
        ExitProtocol(0, False, ""),
        NOW,
        agents,
    )
    text = bind_bytes(bare)
    bound = (
        replace(agent, bind_signature=owner.sign(text))
        for agent, owner in zip(agents, owners, strict=True)
    )
    return replace(bare, agents=tuple(bound))


class TestVerify:
    ONE, OTHER = (Identity.from_seed(bytes([byte]) * 32) for byte in (1, 2))

    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        permitted = TermSet(permissions=(Permission("reports", "initiator", "send", (1,)),))
        versions = [
            SignedVersion(signed(1, self.ONE, self.OTHER)),
            SignedVersion(signed(2, self.ONE, self.OTHER, terms=permitted)),
        ]
        path = tmp_path / "covenant.cbor"
        path.write_bytes(export(versions))
        return path

    def test_what_holds_needs_no_daemon(self, whole: Path) -> None:
        result = run(None, "covenant", "verify", str(whole))
        assert (result.exit_code, result.stderr) == (0, "")
        said = squeezed(result.stdout)
        assert said[0] == (
            f"{whole} holds: covenant 0x00c0ffee, 2 versions, each signed by all of its 2 agents"
        )
        assert said[2] == "VERSION MADE SHA-256 OF ITS TERMS KEY CHANGED"
        assert said[3].startswith("1 2025-11-21 14:00:00Z ")
        assert f"{LEFT_AGENT} initiator {self.ONE.public_key.hex()}" in said
        assert "terms of version 2" in said
        assert any(line.startswith("reports: initiator may send on flow 1") for line in said)

    def test_for_programs(self, whole: Path) -> None:
        shown = json.loads(run(None, "covenant", "verify", str(whole), "--json").stdout)
        assert shown["covenant_id"] == 0xC0FFEE
        assert shown["sha256"] == hashlib.sha256(whole.read_bytes()).hexdigest()
        assert [version["version"] for version in shown["versions"]] == [1, 2]
        assert shown["versions"][0]["rotated"] is None
        assert shown["versions"][1]["agents"][1] == {
            "agent_id": RIGHT_AGENT,
            "role": "responder",
            "public_key": self.OTHER.public_key.hex(),
        }

    def refused(self, path: Path) -> str:
        """The one line that says why a file does not hold."""
        result = run(None, "covenant", "verify", str(path))
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"assent: {path} does not hold: ")
        assert line.endswith("; do not rely on it")
        return line

    def test_a_signature_of_somebody_else(self, tmp_path: Path) -> None:
        good = signed(1, self.ONE, self.OTHER)
        forged = replace(good.agents[1], bind_signature=good.agents[0].bind_signature)
        path = tmp_path / "x"
        path.write_bytes(export([SignedVersion(replace(good, agents=(good.agents[0], forged)))]))
        assert f"version 1: agent {RIGHT_AGENT}: did not sign this" in self.refused(path)

    def test_another_key_without_a_rotation(self, tmp_path: Path) -> None:
        third = Identity.from_seed(b"\3" * 32)
        versions = [signed(1, self.ONE, self.OTHER), signed(2, self.ONE, third)]
        path = tmp_path / "x"
        path.write_bytes(export([SignedVersion(version) for version in versions]))
        assert f"version 2: agent {RIGHT_AGENT}: its key has changed" in self.refused(path)

    def test_a_version_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(export([SignedVersion(signed(2, self.ONE, self.OTHER))]))
        assert "version 2: is where version 1 should be" in self.refused(path)

    @pytest.mark.parametrize("content", [b"", b"\xa0", b"\xff", b"GIF89a", bytes((1 << 20) + 9)])
    def test_what_is_no_export(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x"
        path.write_bytes(content)
        self.refused(path)

    def test_a_changed_byte_anywhere(self, whole: Path) -> None:
        raw = whole.read_bytes()
        for at in range(0, len(raw), 37):
            whole.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            self.refused(whole)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        result = run(None, "covenant", "verify", str(tmp_path / "no"))
        assert result.exit_code == 1
        assert "No such file or directory" in result.stderr


def test_evidence(covenants: FakeApi) -> None:
    records = [
        {"number": 7, "at": NOW, "record": {"covenant": 3, "kind": "violation", "why": "a b\x1b"}},
        {"number": 8, "at": NOW, "record": {"covenant": 3, "frame": {"a": 1}, "note": ""}},
    ]
    covenants.replies["Covenants.Evidence"] = pb.EvidenceResponse(records=map(json.dumps, records))
    result = run(covenants, "covenant", "evidence", "3", "-n", "5")
    assert result.stdout.splitlines() == [
        "2025-11-21 14:00:00Z number=7 covenant=3 kind=violation why='a b\\x1b'",
        '2025-11-21 14:00:00Z number=8 covenant=3 frame={"a": 1}',
    ]
    assert json.loads(run(covenants, "covenant", "evidence", "--json").stdout) == records
    assert [request for _, request in covenants.requests] == [
        pb.EvidenceRequest(count=5, handle=3),
        pb.EvidenceRequest(count=20),
    ]


class TestFile:
    def read(self, tmp_path: Path, text: str | bytes) -> pb.CovenantProposal:
        path = tmp_path / "x.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return covenant_file.read(path)

    def test_all_of_it(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, TOML) == PROPOSAL

    def test_an_end_counts_from_the_start(self, tmp_path: Path) -> None:
        text = '[duration]\nstart = 2026-01-01T00:00:00Z\nend = "1d"\n'
        duration = self.read(tmp_path, text).duration
        assert duration.start_unix_us == 1_767_225_600_000_000
        assert duration.end_unix_us == duration.start_unix_us + DAY

    def test_a_day_begins_at_midnight_in_utc(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, "[duration]\nend = 2026-01-01\n")
        assert found.duration.end_unix_us == 1_767_225_600_000_000

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"\xff", "x.toml: is not TOML: "),
            ("a = ", "x.toml: is not TOML: "),
            (" " * ((1 << 20) + 1), "x.toml: has more than 1,048,576 bytes"),
            ("durable = 1", "durable: needs true or false"),
            ("permission = []", "permission: is not a key that is known here"),
            ("permissions = 1", "permissions: needs tables, as in [[permissions]]"),
            ("permissions = [1]", "permissions: needs tables, as in [[permissions]]"),
            ("exit = 1", "exit: needs a table, as in [exit]"),
            ("[exit]\nnotice = 30", "exit.notice: needs text"),
            ('[exit]\nnotice = "30"', "exit.notice: needs a span of time like 30s, 5m, 2h or 7d"),
            ("[exit]\nperiod = 1", "exit.period: is not a key that is known here"),
            ("[duration]\nmax_versions = -1", "duration.max_versions: needs a whole number"),
            ("[duration]\nmax_versions = true", "duration.max_versions: needs a whole number"),
            ("[duration]\nmax_versions = 4294967296", "duration.max_versions: needs a whole num"),
            ("[duration]\nend = 2026-01-01T00:00:00", "duration.end: needs a span like 30d"),
            ("[duration]\nend = 1", "duration.end: needs a span like 30d, or a time"),
            ("[[obligations]]\nduty = 'x'", "obligations[0].id: is missing"),
            ("[[obligations]]\nid = 'x'", "obligations[0].duty: is missing"),
            ("[[obligations]]\nid = 1\nduty = 'x'", "obligations[0].id: needs text"),
            ("[[permissions]]\nid = 'a'\nflows = 1", "permissions[0].flows: needs a list of whole"),
            ("[[permissions]]\nid='a'\nflows=['1']", "permissions[0].flows[0]: needs a whole numb"),
            (
                "[[permissions]]\nid='a'\ncontent_types='x'",
                "permissions[0].content_types: needs a ",
            ),
            ("[[permissions]]\nid = 'a'\nflow = [1]", "permissions[0].flow: is not a key that is"),
            ("[[constraints]]\nid = 'a'", "constraints[0].kind: is missing"),
            ("[[constraints]]\nid = 'a'\nkind = 'x'", "constraints[0].kind: needs one of rate, bu"),
            (
                "[[constraints]]\nid = 'a'\nkind = 'rate'\nblocks_per_second = '1x'",
                "constraints[0].blocks_per_second: needs a number of 64-byte blocks",
            ),
            (
                "[[constraints]]\nid = 'a'\nkind = 'rate'\nblocks_per_second = 1\nbytes = 1",
                "constraints[0].bytes: is not a key that is known here",
            ),
            (
                "[[constraints]]\nid='a'\nkind='time_window'\nfrom='8:00'\nto='9:00'",
                "constraints[0].from: needs a time of day in UTC",
            ),
            (
                "[[constraints]]\nid='a'\nkind='time_window'\nfrom='08:00'\nto='24:01'",
                "constraints[0].to: needs a time of day in UTC",
            ),
            (
                "[[constraints]]\nid='a'\nkind='time_window'\nfrom='08:60'\nto='09:00'",
                "constraints[0].from: needs a time of day in UTC",
            ),
            (
                "[[constraints]]\nid='a'\nkind='time_window'\nfrom='08:00'\nto='09:00'\ndays=['x']",
                "constraints[0].days: needs days out of mon, tue",
            ),
            ("[[clauses]]\ntype = 'protection'", "clauses[0].description: is missing"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, text: str | bytes, said: str) -> None:
        with pytest.raises(InvalidArgument) as refused:
            self.read(tmp_path, text)
        assert said in str(refused.value)


class TestSpans:
    @pytest.mark.parametrize(
        ("text", "span"),
        [
            ("30s", 30_000_000),
            ("5m", 300_000_000),
            ("2h", 7_200_000_000),
            ("7d", 7 * DAY),
            ("1w", 7 * DAY),
            ("1h30m", 5_400_000_000),
            (" 250MS ", 250_000),
            ("5us", 5),
            ("0s", 0),
        ],
    )
    def test_parsed(self, text: str, span: int) -> None:
        assert spans.parse("x", text) == span

    @pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1.5h", "1 h", "1y", "1s2", "٣s"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgument, match="x: needs a span of time"):
            spans.parse("x", text)

    @pytest.mark.parametrize(
        ("span", "shown"),
        [
            (0, "0 s"),
            (1, "1 µs"),
            (30_000_000, "30 s"),
            (90 * 60_000_000, "1 h 30 min"),
            (DAY + 1_000, "1 d 1 ms"),
        ],
    )
    def test_shown(self, span: int, shown: str) -> None:
        assert spans.show(span) == shown


class TestWatch:
    TOLD = (
        news("covenanted", IN_FORCE),
        news("data", IN_FORCE, data=pb.CovenantData(content_type="text/plain", data=b"hi")),
        news(
            "violation",
            QUARANTINED,
            finding=pb.Finding(
                violation_class="malice",
                agent_id=RIGHT_AGENT,
                response_level="quarantine",
                description="DATA sent before BIND \x1b",
            ),
        ),
    )
    LINES = (
        "14:00:00.123Z    3 right           covenanted         so it is",
        "14:00:00.123Z    3 right           data               so it is [text/plain, 2 bytes]",
        "14:00:00.123Z    3 right           violation          so it is [malice, quarantine: "
        "DATA sent before BIND \\x1b]",
    )

    def test_a_line_an_event_until_interrupted(self, covenants: FakeApi) -> None:
        covenants.replies["Covenants.Watch"] = lasting(self.TOLD)
        with watching(covenants, "3") as process:
            assert process.stdout is not None
            assert [process.stdout.readline().decode() for _ in self.TOLD] == [
                f"{line}\n" for line in self.LINES
            ]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, b"", b"")
        assert covenants.requests == [("Covenants.Watch", pb.WatchCovenantsRequest(handle=3))]

    def test_for_programs(self, covenants: FakeApi) -> None:
        covenants.replies["Covenants.Watch"] = lasting(self.TOLD)
        with watching(covenants, "--json") as process:
            assert process.stdout is not None
            shown = [json.loads(process.stdout.readline()) for _ in self.TOLD]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        assert [each["kind"] for each in shown] == ["covenanted", "data", "violation"]
        assert shown[1]["data"] == {"content_type": "text/plain", "data": b"hi".hex()}
        assert shown[2]["finding"]["violation_class"] == "malice"

    def test_refused(self, covenants: FakeApi) -> None:
        covenants.failures["Covenants.Watch"] = (grpc.StatusCode.NOT_FOUND, "covenant: no 9")
        result = run(covenants, "covenant", "watch", "9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("assent: covenant: no 9 (NOT_FOUND); ")
        assert len(covenants.requests) == 1

    def test_no_daemon(self, tmp_path: Path) -> None:
        result = run(FakeApi(tmp_path / "no.sock"), "covenant", "watch")
        assert result.exit_code == 1
        assert "there is no socket at" in result.stderr

    def test_survives_the_daemon(self, tmp_path: Path) -> None:
        fake = FakeApi(tmp_path / "api.sock")
        with serving(fake) as server:
            fake.replies["Covenants.Watch"] = lasting(self.TOLD[:1])
            process = watching(fake)
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().decode() == f"{self.LINES[0]}\n"
            server.stop(None).wait()
        assert process.stderr.readline() == b"assent: the daemon is gone; waiting for it\n"
        with serving(fake):
            fake.replies["Covenants.Watch"] = lasting(self.TOLD[1:])
            assert process.stdout.readline().decode() == f"{self.LINES[1]}\n"
            assert process.stderr.readline() == (
                b"assent: the daemon is back: see `assent covenant list` for what was missed\n"
            )
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        assert process.returncode == 0

    def test_in_colour_on_a_terminal(self, covenants: FakeApi) -> None:
        covenants.replies["Covenants.Watch"] = lasting(self.TOLD)
        shown = on_a_terminal(covenants, "covenant", "watch", until="BIND")
        assert "\x1b[31mviolation" in shown
