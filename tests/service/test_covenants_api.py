# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Covenants: what reaches the keeper, and how what it says comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from assent.cli import covenant_file
from assent.covenant.machine import State
from assent.covenant.payloads import (
    Clause,
    Data,
    Defer,
    Duration,
    Escalate,
    Evidence,
    ExitProtocol,
    Justification,
    Question,
    Reason,
    Reject,
    Violation,
)
from assent.covenant.policy import Policy
from assent.covenant.terms import (
    Burst,
    Constraint,
    DailyWindow,
    Deferrals,
    Obligation,
    Other,
    PayloadSize,
    Permission,
    Rate,
    TermSet,
    TermTimer,
    Unknown,
)
from assent.covenant.values import CovenantNews, CovenantView, PeerView, Proposal
from assent.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from assent.service.covenants.transports import RemoteTarget
from assent.service.records import LocalCell, RemoteCell
from assent.service.server import ApiServer
from assent.service.servicers import covenant_messages as messages
from assent.service.servicers.covenants import CovenantsServicer
from assent.v1 import cells_pb2
from assent.v1 import covenants_pb2 as pb
from assent.v1.covenants_pb2_grpc import CovenantsStub, add_CovenantsServicer_to_server
from assent.wire.cellid import CellID

from .conftest import by_name, refused

NOW = 1_763_733_600_000_000
LEFT, RIGHT, THIRD = (CellID(bytes([byte]) * 16) for byte in (0x11, 0x22, 0x33))
LEFT_AGENT = UUID("11111111-1111-8111-8111-111111111111")
RIGHT_AGENT = UUID("22222222-2222-8222-8222-222222222222")

TERMS = TermSet(
    obligations=(Obligation("answer", "responder", "answer within a day", "Reports are read."),),
    permissions=(Permission("reports", "initiator", "send", (1, 2), ("text/*",), "daily"),),
    constraints=(
        Constraint("pace", "initiator", Rate(2048)),
        Constraint("room", "initiator", Burst(512, 1)),
        Constraint("size", "*", PayloadSize(1400), "as it fits"),
        Constraint("hours", "*", DailyWindow(1350, 360, (0, 4))),
        Constraint("patience", "*", TermTimer("T_offer", 90_000_000)),
        Constraint("talk", "*", Deferrals(2)),
        Constraint("place", "*", Other("stays in the rack")),
    ),
)
CLAUSE = Clause("protection", "Heard first.", "a review is asked for", "no violation is charged")
PROPOSAL = Proposal(
    TERMS,
    Duration(NOW, 86_400_000_000, NOW + 10**12, 9),
    (CLAUSE,),
    ExitProtocol(30_000_000, True, "isolation"),
    True,
)
PEER = PeerView(RIGHT_AGENT, "right", "responder", b"\x05" * 32, RIGHT, True, "", "fabric")
VIEW = CovenantView(
    handle=3,
    covenant_id=0xFFFFFFFF,
    state=State.COVENANTED,
    local=LEFT,
    local_name="left",
    agent_id=LEFT_AGENT,
    role="initiator",
    initiator=True,
    multi=False,
    durable=True,
    version=1,
    proposal=PROPOSAL,
    amendment=None,
    amendment_by_us=False,
    peers=(PEER,),
    deferrals=0,
    questions=None,
    rejection=None,
    created_at=NOW,
    notice_ends=0,
    reason="",
    updated_at=NOW + 1,
)
CHAIN = (
    Evidence("log", "as text", NOW, "meter"),
    Evidence("record", {"frame": b"\x01\x02", 7: [True, None]}, NOW, "gate"),
)
WHY = Justification("Reports.", (Reason("pace", "too fast", "insufficient"),), CHAIN)
DEFER = Defer((Question("pace", "why so fast?"),), "Reports.", ("counters",), 5_000_000)
POLICY = Policy(
    flows=(1, 2),
    rate_max=2048,
    burst_max=4096,
    payload_max=1400,
    content_types=("text/*",),
    duration_max=10**12,
    notice_max=10**8,
    durable=True,
    amendments=True,
)

TERMS_OUT = pb.Terms(
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
            description="daily",
        )
    ],
    constraints=[
        pb.Constraint(id="pace", party="initiator", rate_blocks_per_second=2048),
        pb.Constraint(id="room", party="initiator", burst=pb.Burst(blocks=512, flow=1)),
        pb.Constraint(id="size", party="*", payload_bytes=1400, description="as it fits"),
        pb.Constraint(
            id="hours",
            party="*",
            time_window=pb.TimeWindow(from_minute=1350, to_minute=360, days=[0, 4]),
        ),
        pb.Constraint(
            id="patience", party="*", timer=pb.TimerTerm(timer="T_offer", microseconds=90_000_000)
        ),
        pb.Constraint(id="talk", party="*", deferrals=2),
        pb.Constraint(id="place", party="*", other="stays in the rack"),
    ],
)
PROPOSAL_OUT = pb.CovenantProposal(
    terms=TERMS_OUT,
    duration=pb.CovenantDuration(
        start_unix_us=NOW,
        review_interval_us=86_400_000_000,
        end_unix_us=NOW + 10**12,
        max_versions=9,
    ),
    misericordia_clauses=[
        pb.Clause(
            type="protection",
            description="Heard first.",
            trigger="a review is asked for",
            action="no violation is charged",
        )
    ],
    exit_protocol=pb.ExitProtocol(
        notice_period_us=30_000_000, mutual_required=True, fallback_state="isolation"
    ),
    durable=True,
)
JUSTIFICATION = pb.Justification(
    comprehension_proof="Reports.",
    rejection_reasons=[
        pb.RejectionReason(term_ref="pace", rationale="too fast", severity="insufficient")
    ],
    evidence_chain=[
        pb.EvidenceItem(type="log", content="as text", time_unix_us=NOW, source="meter")
    ],
)
DEFERRAL = pb.Deferral(
    questions=[pb.Question(about="pace", specificity="why so fast?")],
    current_understanding="Reports.",
    evidence_needed=["counters"],
    timeout_us=5_000_000,
)
POLICY_OUT = pb.CovenantPolicy(
    flows=[1, 2],
    rate_max_blocks_per_second=2048,
    burst_max_blocks=4096,
    payload_max_bytes=1400,
    content_types=["text/*"],
    duration_max_us=10**12,
    notice_max_us=10**8,
    durable=True,
    amendments=True,
)
REMOTE = pb.OfferRemote(cell=by_name("right"))


class FakeKeeper:
    """Records what it is asked, and answers with its view.

    Attributes:
        calls: Name and arguments, in order.
        current: The view.
        failure: What calls that change something fail with.
        told: What watchers hear.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.current = VIEW
        self.failure: Exception | None = None
        self.told: list[CovenantNews] = []
        self.found: Policy | None = POLICY

    def _did(self, *call: object) -> CovenantView:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure
        return self.current

    async def offer(
        self,
        local: CellID,
        remotes: Sequence[RemoteTarget],
        proposal: Proposal,
        roles: Sequence[str] = (),
    ) -> CovenantView:
        return self._did("offer", local, list(remotes), proposal, tuple(roles))

    def accept(self, handle: int) -> CovenantView:
        return self._did("accept", handle)

    def reject(
        self, handle: int, justification: Justification, counter_terms: TermSet | None
    ) -> CovenantView:
        return self._did("reject", handle, justification, counter_terms)

    def defer(self, handle: int, defer: Defer) -> CovenantView:
        return self._did("defer", handle, defer)

    def inform(self, handle: int, content_type: str, data: bytes) -> CovenantView:
        return self._did("inform", handle, content_type, data)

    def send(self, handle: int, content_type: str, data: bytes) -> CovenantView:
        return self._did("send", handle, content_type, data)

    def amend(self, handle: int, proposal: Proposal) -> CovenantView:
        return self._did("amend", handle, proposal)

    def review(self, handle: int, kind: str, note: str) -> CovenantView:
        return self._did("review", handle, kind, note)

    def revoke(self, handle: int, reason: str, now: bool) -> CovenantView:
        return self._did("revoke", handle, reason, now)

    def rotate(self, local: CellID) -> list[CovenantView]:
        return [self._did("rotate", local)]

    def views(self, ended: bool = False) -> list[CovenantView]:
        return [self._did("views", ended)]

    def view(self, handle: int) -> CovenantView:
        if handle != VIEW.handle:
            raise NotFound(f"covenant: there is no {handle}")
        return self.current

    def export(self, handle: int) -> bytes:
        self._did("export", handle)
        return b"\xa0"

    def evidence(self, count: int, handle: int | None = None) -> Sequence[Mapping[str, object]]:
        self._did("evidence", count, handle)
        return [{"number": 7, "agent": LEFT_AGENT, "frame": b"\x01", "nested": [{"a": 1.5}]}]

    async def watch(self, handle: int = 0) -> AsyncIterator[CovenantNews]:
        self._did("watch", handle)
        for each in self.told:
            yield each

    def policy(self, local: CellID, remote: CellID | None) -> Policy | None:
        self._did("policy", local, remote)
        return self.found

    def set_policy(self, local: CellID, remote: CellID | None, policy: Policy | None) -> None:
        self._did("set_policy", local, remote, policy)
        self.found = policy


class FakeRegistry:
    """Knows one local cell and two remote ones, by name."""

    def local(self, ref: CellID | str) -> Any:
        return self._found({"left": LEFT}, ref)

    def remote(self, ref: CellID | str) -> Any:
        return self._found({"right": RIGHT, "third": THIRD}, ref)

    def only_local(self) -> Any:
        return self.local("left")

    @staticmethod
    def _found(cells: dict[str, CellID], ref: CellID | str) -> Any:
        for name, cell in cells.items():
            if ref in (name, cell):
                kind = LocalCell if "left" in cells else RemoteCell
                made = object.__new__(kind)
                object.__setattr__(made, "id", cell)
                return made
        raise NotFound(f"cell: there is no {ref}")


@pytest.fixture
def keeper() -> FakeKeeper:
    return FakeKeeper()


@pytest.fixture
async def covenants(keeper: FakeKeeper, tmp_path: Path) -> AsyncIterator[Any]:
    servicer = CovenantsServicer(FakeRegistry(), keeper, lambda: NOW)  # type: ignore[arg-type]
    register = (
        "assent.v1.Covenants",
        lambda server: add_CovenantsServicer_to_server(servicer, server),
    )
    path = tmp_path / "api" / "api.sock"
    async with (
        ApiServer(path, None, [register]),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        yield CovenantsStub(channel)


def changed(message: Message, change: Callable[[Any], object]) -> Any:
    """A copy in which something is otherwise."""
    copy = type(message)()
    copy.CopyFrom(message)
    change(copy)
    return copy


CALLS = [
    pytest.param(
        "Offer",
        pb.OfferRequest(remotes=[REMOTE], proposal=PROPOSAL_OUT),
        ("offer", LEFT, [RemoteTarget(RIGHT, "")], PROPOSAL, ()),
        id="offer",
    ),
    pytest.param("Accept", pb.AcceptRequest(handle=3), ("accept", 3), id="accept"),
    pytest.param(
        "Reject",
        pb.RejectRequest(handle=3, justification=JUSTIFICATION, counter_terms=TERMS_OUT),
        ("reject", 3, replace(WHY, evidence_chain=CHAIN[:1]), TERMS),
        id="reject",
    ),
    pytest.param(
        "Reject",
        pb.RejectRequest(handle=3, justification=JUSTIFICATION),
        ("reject", 3, replace(WHY, evidence_chain=CHAIN[:1]), None),
        id="reject-without-counter-terms",
    ),
    pytest.param(
        "Defer", pb.DeferRequest(handle=3, deferral=DEFERRAL), ("defer", 3, DEFER), id="defer"
    ),
    pytest.param(
        "Defer",
        pb.DeferRequest(handle=3, deferral=changed(DEFERRAL, lambda d: d.ClearField("timeout_us"))),
        ("defer", 3, replace(DEFER, timeout=None)),
        id="defer-for-as-long-as-the-terms-say",
    ),
    pytest.param(
        "Inform",
        pb.InformRequest(handle=3, content_type="text/plain", data=b"x"),
        ("inform", 3, "text/plain", b"x"),
        id="inform",
    ),
    pytest.param(
        "Send",
        pb.SendRequest(handle=3, content_type="a/b", data=b"x"),
        ("send", 3, "a/b", b"x"),
        id="send",
    ),
    *(
        pytest.param(
            "Review",
            pb.ReviewRequest(handle=3, kind=f"REVIEW_KIND_{kind.upper()}", note="n"),
            ("review", 3, kind, "n"),
            id=f"review-{kind}",
        )
        for kind in ("check", "report", "request", "clear")
    ),
    pytest.param(
        "Revoke",
        pb.RevokeRequest(handle=3, reason="moving out", now=True),
        ("revoke", 3, "moving out", True),
        id="revoke",
    ),
]


@pytest.mark.parametrize(("method", "request_", "call"), CALLS)
async def test_a_call_reaches_the_keeper_as_it_was_meant(
    covenants: Any, keeper: FakeKeeper, method: str, request_: Message, call: tuple[Any, ...]
) -> None:
    reply = await getattr(covenants, method)(request_)
    assert (reply.handle, reply.state) == (3, pb.COVENANT_STATE_COVENANTED)
    assert keeper.calls == [call]


class TestOffer:
    async def test_over_several_transports_with_roles(
        self, covenants: Any, keeper: FakeKeeper
    ) -> None:
        urls = ("wss://right.example:7443/covenant", "h2://[2001:db8::1]/covenant")
        await covenants.Offer(
            pb.OfferRequest(
                local=by_name("left"),
                remotes=[
                    pb.OfferRemote(cell=by_name("right"), url=urls[0], role="reader"),
                    pb.OfferRemote(cell=by_name("third"), url=urls[1], role="witness"),
                ],
                proposal=PROPOSAL_OUT,
            )
        )
        targets = [RemoteTarget(RIGHT, urls[0]), RemoteTarget(THIRD, urls[1])]
        assert keeper.calls == [("offer", LEFT, targets, PROPOSAL, ("reader", "witness"))]

    async def test_starts_now_where_it_does_not_say(
        self, covenants: Any, keeper: FakeKeeper
    ) -> None:
        proposal = changed(PROPOSAL_OUT, lambda p: p.duration.ClearField("start_unix_us"))
        await covenants.Offer(pb.OfferRequest(remotes=[REMOTE], proposal=proposal))
        assert keeper.calls[0][3] == PROPOSAL

    @pytest.mark.parametrize(
        "url",
        [
            *("ws://h:1/covenant", "http://h/covenant", "wss://h:1", "wss://h:1/other", "wss:///x"),
            *("h2://h:99999", "h2://h:0", "h2://h:x", "wss://u@h/covenant", "h2://h?a", "h2://["),
        ],
    )
    async def test_no_other_transport_is_tried(
        self, covenants: Any, keeper: FakeKeeper, url: str
    ) -> None:
        remote = pb.OfferRemote(cell=by_name("right"), url=url)
        request = pb.OfferRequest(remotes=[REMOTE, remote], proposal=PROPOSAL_OUT)
        said = "remotes[1].url: needs wss://HOST[:PORT]/covenant or h2://HOST[:PORT]"
        assert await refused(covenants.Offer(request)) == (StatusCode.INVALID_ARGUMENT, said)
        assert keeper.calls == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda r: r.ClearField("remotes"), "remotes: needs at least one"),
            (lambda r: r.remotes[0].ClearField("cell"), "remotes[0].cell: needs the id or the"),
            (
                lambda r: r.remotes.add(cell=by_name("third"), role="witness"),
                "remotes[0].role: is missing: others have one",
            ),
            (lambda r: r.ClearField("proposal"), "proposal.terms: is missing"),
            (lambda r: r.proposal.ClearField("duration"), "proposal.duration: is missing"),
            (
                lambda r: r.proposal.ClearField("exit_protocol"),
                "proposal.exit_protocol: is missing",
            ),
            (
                lambda r: r.proposal.ClearField("misericordia_clauses"),
                "proposal.misericordia_clauses: needs at least one",
            ),
            (
                lambda r: setattr(r.proposal.duration, "end_unix_us", 1),
                "proposal.duration.end: must be after start",
            ),
            (
                lambda r: setattr(r.proposal.misericordia_clauses[0], "type", ""),
                "proposal.misericordia_clauses[0].type: must have 1 to 64 bytes",
            ),
        ],
    )
    async def test_what_is_missing_or_wrong_is_named(
        self, covenants: Any, keeper: FakeKeeper, change: Callable[[Any], object], said: str
    ) -> None:
        request = changed(pb.OfferRequest(remotes=[REMOTE], proposal=PROPOSAL_OUT), change)
        code, message = await refused(covenants.Offer(request))
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith(said)
        assert keeper.calls == []

    async def test_a_cell_that_nobody_knows(self, covenants: Any, keeper: FakeKeeper) -> None:
        remote = pb.OfferRemote(cell=by_name("stranger"))
        request = pb.OfferRequest(remotes=[remote], proposal=PROPOSAL_OUT)
        assert (await refused(covenants.Offer(request)))[0] is StatusCode.NOT_FOUND
        assert keeper.calls == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.constraints.add(id="x", party="*"), "constraints[7].limit: is missing"),
        (
            lambda t: t.constraints.add(id="x", party="*", unknown_kind="colour"),
            "constraints[7].unknown_kind: cannot be proposed",
        ),
        (
            lambda t: setattr(t.constraints[0], "rate_blocks_per_second", 0),
            "constraints[0].rate_blocks_per_second: must be an integer from 1",
        ),
        (
            lambda t: setattr(t.constraints[2], "payload_bytes", 0),
            "constraints[2].payload_bytes: must be an integer from 1",
        ),
        (
            lambda t: setattr(t.constraints[5], "deferrals", 256),
            "constraints[5].deferrals: must be an integer from 0 to 255",
        ),
        (lambda t: setattr(t.constraints[6], "other", ""), "constraints[6].other: must have 1"),
        (
            lambda t: setattr(t.constraints[1].burst, "blocks", 32768),
            "constraints[1].burst.blocks: must be an integer from 1 to 32767",
        ),
        (
            lambda t: t.constraints[3].time_window.ClearField("days"),
            "constraints[3].time_window.days: must be a list of 1",
        ),
        (
            lambda t: setattr(t.constraints[4].timer, "timer", "T_x"),
            "constraints[4].timer.timer: must be one of T_offer",
        ),
        (lambda t: setattr(t.constraints[0], "id", ""), "constraints[0].id: must have 1 to 64"),
        (
            lambda t: setattr(t.constraints[0], "id", "reports"),
            "constraints[0].id: reports is there twice",
        ),
        (
            lambda t: t.permissions[0].flows.append(8),
            "permissions[0].flows[2]: must be an integer from 1 to 7",
        ),
        (
            lambda t: setattr(t.permissions[0], "description", "\x1b"),
            "permissions[0].description: must not contain control characters",
        ),
        (lambda t: setattr(t.obligations[0], "duty", ""), "obligations[0].duty: must have 1 to 64"),
    ],
)
async def test_a_term_that_cannot_be_is_named(
    covenants: Any, keeper: FakeKeeper, change: Callable[[Any], object], said: str
) -> None:
    terms = changed(TERMS_OUT, change)
    for call, place in (
        (covenants.Amend(pb.AmendRequest(handle=3, terms=terms)), "terms"),
        (
            covenants.Reject(
                pb.RejectRequest(handle=3, justification=JUSTIFICATION, counter_terms=terms)
            ),
            "counter_terms",
        ),
    ):
        code, message = await refused(call)
        assert code is StatusCode.INVALID_ARGUMENT
        assert message.startswith(f"{place}.{said}")
    assert keeper.calls == []


class TestAmend:
    async def test_what_is_left_out_stays(self, covenants: Any, keeper: FakeKeeper) -> None:
        strange = replace(TERMS, extensions={"colour": "blue"})
        keeper.current = replace(VIEW, proposal=replace(PROPOSAL, terms=strange))
        protocol = pb.ExitProtocol(notice_period_us=1, fallback_state="isolation")
        await covenants.Amend(pb.AmendRequest(handle=3, exit_protocol=protocol))
        expected = replace(
            PROPOSAL, terms=strange, exit_protocol=ExitProtocol(1, False, "isolation")
        )
        assert keeper.calls == [("amend", 3, expected)]

    async def test_all_at_once(self, covenants: Any, keeper: FakeKeeper) -> None:
        await covenants.Amend(
            pb.AmendRequest(
                handle=3,
                terms=pb.Terms(permissions=TERMS_OUT.permissions),
                duration=pb.CovenantDuration(review_interval_us=5),
                misericordia_clauses=[pb.Clause(type="fallback")],
                exit_protocol=pb.ExitProtocol(),
            )
        )
        expected = Proposal(
            TermSet(permissions=TERMS.permissions),
            Duration(NOW, 5),
            (Clause("fallback", "", "", ""),),
            ExitProtocol(0, False, ""),
            True,
        )
        assert keeper.calls == [("amend", 3, expected)]

    @pytest.mark.parametrize(
        "request_", [pb.AmendRequest(handle=3), pb.AmendRequest(handle=3, terms=TERMS_OUT)]
    )
    async def test_of_nothing(
        self, covenants: Any, keeper: FakeKeeper, request_: pb.AmendRequest
    ) -> None:
        said = "terms: or something else must differ from what is in force"
        code = StatusCode.INVALID_ARGUMENT
        assert await refused(covenants.Amend(request_)) == (code, said)
        assert keeper.calls == []


@pytest.mark.parametrize(
    ("method", "request_", "said"),
    [
        ("Reject", pb.RejectRequest(handle=3), "justification.comprehension_proof: must have 1"),
        (
            "Reject",
            pb.RejectRequest(
                handle=3, justification=pb.Justification(comprehension_proof="understood")
            ),
            "justification.rejection_reasons: must be a list of 1",
        ),
        (
            "Reject",
            pb.RejectRequest(
                handle=3,
                justification=pb.Justification(rejection_reasons=[pb.RejectionReason()]),
            ),
            "justification.rejection_reasons[0].term_ref: must have 1",
        ),
        ("Defer", pb.DeferRequest(handle=3), "deferral.questions: must be a list of 1"),
        (
            "Defer",
            pb.DeferRequest(handle=3, deferral=pb.Deferral(questions=[pb.Question()])),
            "deferral.questions[0].about: must have 1",
        ),
        ("Review", pb.ReviewRequest(handle=3), "kind: needs CHECK, REPORT, REQUEST or CLEAR"),
        ("Review", pb.ReviewRequest(handle=3, kind=9), "kind: needs CHECK, REPORT, REQUEST"),
        ("Send", pb.SendRequest(handle=3), "content_type: is missing"),
        ("Inform", pb.InformRequest(handle=3), "content_type: is missing"),
        ("Evidence", pb.EvidenceRequest(), "count: needs 1 to 10000, got 0"),
        ("Evidence", pb.EvidenceRequest(count=10_001), "count: needs 1 to 10000, got 10001"),
        ("Rotate", pb.RotateRequest(local=cells_pb2.CellRef()), "local: needs the id or the name"),
        (
            "SetPolicy",
            pb.SetCovenantPolicyRequest(policy=pb.CovenantPolicy(flows=[8])),
            "policy.flows: are 1 to 7, not 8",
        ),
        (
            "GetPolicy",
            pb.GetCovenantPolicyRequest(remote=cells_pb2.CellRef()),
            "remote: needs the id or the name",
        ),
        *(
            (method, getattr(pb, f"{message}Request")(handle=2**63), "handle: needs 1 to")
            for method, message in (
                *((name, name) for name in ("Accept", "Reject", "Defer", "Inform", "Send")),
                *((name, name) for name in ("Amend", "Review", "Revoke", "Export")),
                ("Get", "GetCovenant"),
            )
        ),
        ("Accept", pb.AcceptRequest(), "handle: needs 1 to 9223372036854775807, got 0"),
    ],
)
async def test_what_cannot_be_asks_the_keeper_nothing(
    covenants: Any, keeper: FakeKeeper, method: str, request_: Message, said: str
) -> None:
    code, message = await refused(getattr(covenants, method)(request_))
    assert code is StatusCode.INVALID_ARGUMENT
    assert message.startswith(said)
    assert keeper.calls == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NotFound("covenant: there is no 3"), StatusCode.NOT_FOUND),
        (FailedPrecondition("it is revoking"), StatusCode.FAILED_PRECONDITION),
        (Unavailable("right cannot be reached"), StatusCode.UNAVAILABLE),
        (ResourceExhausted("too many are open"), StatusCode.RESOURCE_EXHAUSTED),
        (TimeoutError("right does not answer"), StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_what_the_keeper_refuses_comes_back_in_its_words(
    covenants: Any, keeper: FakeKeeper, failure: Exception, code: StatusCode
) -> None:
    keeper.failure = failure
    assert await refused(covenants.Accept(pb.AcceptRequest(handle=3))) == (code, str(failure))


class TestShown:
    async def got(self, covenants: Any, keeper: FakeKeeper, **values: Any) -> pb.Covenant:
        keeper.current = replace(VIEW, **values)
        return await covenants.Get(pb.GetCovenantRequest(handle=3))

    async def test_in_force(self, covenants: Any, keeper: FakeKeeper) -> None:
        found = await self.got(covenants, keeper)
        assert found.in_words[0].startswith("left may send on flows 1, 2: at most 2,048 blocks/s")
        assert "answer: right owes: answer within a day (Reports are read.)" in found.in_words
        del found.in_words[:]
        assert found == pb.Covenant(
            handle=3,
            covenant_id=0xFFFFFFFF,
            state=pb.COVENANT_STATE_COVENANTED,
            local={"value": bytes(LEFT)},
            local_name="left",
            agent_id=str(LEFT_AGENT),
            role="initiator",
            initiator=True,
            durable=True,
            version=1,
            proposal=PROPOSAL_OUT,
            peers=[
                pb.CovenantPeer(
                    agent_id=str(RIGHT_AGENT),
                    name="right",
                    role="responder",
                    public_key=b"\x05" * 32,
                    cell={"value": bytes(RIGHT)},
                    bound=True,
                    link="fabric",
                )
            ],
            created_unix_us=NOW,
            updated_unix_us=NOW + 1,
        )

    @pytest.mark.parametrize("state", State)
    async def test_every_state_has_its_name(
        self, covenants: Any, keeper: FakeKeeper, state: State
    ) -> None:
        found = await self.got(covenants, keeper, state=state)
        name = pb.CovenantState.Name(found.state).removeprefix("COVENANT_STATE_")
        assert name.lower().replace("_", "-") == state.value

    async def test_what_an_amendment_changes(self, covenants: Any, keeper: FakeKeeper) -> None:
        constraints = (
            *TERMS.constraints[1:],
            Constraint("fresh", "*", Other("no reruns")),
        )
        permissions = (replace(TERMS.permissions[0], flows=(1,)),)
        amendment = replace(
            PROPOSAL,
            terms=TermSet(TERMS.obligations, permissions, constraints),
            duration=Duration(NOW + 1_000_000, 0, 0, 0),
            misericordia_clauses=(Clause("fallback", "Help.", "", ""),),
            exit_protocol=ExitProtocol(60_000_000, False, ""),
        )
        found = await self.got(
            covenants, keeper, state=State.AMENDING, amendment=amendment, amendment_by_us=True
        )
        assert found.amendment_by_us
        marks = "".join(line[0] for line in found.amendment_changes)
        assert marks == "-~+~~~~~-+"
        assert found.amendment_changes[1] == "~ reports: flows: 1, 2 -> 1"
        assert list(found.amendment_changes)[3:] == [
            "~ reviews: every 1 day -> none",
            "~ start: 2025-11-21 14:00:00Z -> 2025-11-21 14:00:01Z",
            "~ end: 2025-12-03 03:46:40Z -> none",
            "~ versions at most: 9 -> none",
            "~ exit: 30 s of notice, all must agree, back to isolation -> "
            "1 min of notice, back to nothing",
            "- protection clause: Heard first.",
            "+ fallback clause: Help.",
        ]

    async def test_questions(self, covenants: Any, keeper: FakeKeeper) -> None:
        found = await self.got(covenants, keeper, questions=DEFER, deferrals=2)
        assert (found.questions, found.deferrals) == (DEFERRAL, 2)

    async def test_a_rejection_with_counter_terms(self, covenants: Any, keeper: FakeKeeper) -> None:
        counter = replace(TERMS, obligations=())
        found = (await self.got(covenants, keeper, rejection=Reject(WHY, counter))).rejection
        assert list(found.counter_changes) == [
            "- answer: right owes: answer within a day (Reports are read.)"
        ]
        assert found.counter_terms.constraints == TERMS_OUT.constraints
        assert [item.content for item in found.justification.evidence_chain] == [
            "as text",
            '{"frame": "0102", "7": [true, null]}',
        ]

    async def test_a_blind_rejection_has_no_justification(
        self, covenants: Any, keeper: FakeKeeper
    ) -> None:
        found = (await self.got(covenants, keeper, rejection=Reject(None))).rejection
        assert not found.HasField("justification")
        assert not found.HasField("counter_terms")

    async def test_a_kind_that_is_not_known_here(self, covenants: Any, keeper: FakeKeeper) -> None:
        strange = TermSet(constraints=(Constraint("x", "*", Unknown("colour")),))
        found = await self.got(covenants, keeper, proposal=replace(PROPOSAL, terms=strange))
        assert found.proposal.terms.constraints[0].unknown_kind == "colour"

    async def test_extreme_numbers(self, covenants: Any, keeper: FakeKeeper) -> None:
        most = 2**64 - 1
        extreme = replace(
            PROPOSAL,
            duration=Duration(most - 1, most, most, 2**32 - 1),
            exit_protocol=ExitProtocol(most, False, ""),
        )
        found = await self.got(
            covenants, keeper, amendment=extreme, created_at=most, notice_ends=most
        )
        assert found.amendment.duration.end_unix_us == most
        assert any("s after 1970" in line for line in found.amendment_changes)

    async def test_one_that_is_not_there(self, covenants: Any) -> None:
        call = covenants.Get(pb.GetCovenantRequest(handle=4))
        assert await refused(call) == (StatusCode.NOT_FOUND, "covenant: there is no 4")


@pytest.mark.parametrize("ended", [False, True])
async def test_list(covenants: Any, keeper: FakeKeeper, ended: bool) -> None:
    reply = await covenants.List(pb.ListCovenantsRequest(ended=ended))
    assert [covenant.handle for covenant in reply.covenants] == [3]
    assert keeper.calls == [("views", ended)]


async def test_rotate(covenants: Any, keeper: FakeKeeper) -> None:
    reply = await covenants.Rotate(pb.RotateRequest(local=by_name("left")))
    assert [covenant.handle for covenant in reply.covenants] == [3]
    assert keeper.calls == [("rotate", LEFT)]


async def test_export(covenants: Any, keeper: FakeKeeper) -> None:
    assert (await covenants.Export(pb.ExportRequest(handle=3))).document == b"\xa0"
    assert keeper.calls == [("export", 3)]


async def test_evidence_is_json(covenants: Any, keeper: FakeKeeper) -> None:
    reply = await covenants.Evidence(pb.EvidenceRequest(count=5, handle=3))
    assert [json.loads(record) for record in reply.records] == [
        {"number": 7, "agent": str(LEFT_AGENT), "frame": "01", "nested": [{"a": 1.5}]}
    ]
    await covenants.Evidence(pb.EvidenceRequest(count=1))
    assert keeper.calls == [("evidence", 5, 3), ("evidence", 1, None)]


class TestPolicy:
    async def test_shown(self, covenants: Any, keeper: FakeKeeper) -> None:
        reply = await covenants.GetPolicy(pb.GetCovenantPolicyRequest(remote=by_name("right")))
        assert reply.policy == POLICY_OUT
        assert keeper.calls == [("policy", LEFT, RIGHT)]

    async def test_none(self, covenants: Any, keeper: FakeKeeper) -> None:
        keeper.found = None
        reply = await covenants.GetPolicy(pb.GetCovenantPolicyRequest(local=by_name("left")))
        assert not reply.HasField("policy")
        assert keeper.calls == [("policy", LEFT, None)]

    async def test_set(self, covenants: Any, keeper: FakeKeeper) -> None:
        reply = await covenants.SetPolicy(pb.SetCovenantPolicyRequest(policy=POLICY_OUT))
        assert reply.policy == POLICY_OUT
        assert keeper.calls[0] == ("set_policy", LEFT, None, POLICY)

    async def test_removed(self, covenants: Any, keeper: FakeKeeper) -> None:
        request = pb.SetCovenantPolicyRequest(remote=by_name("right"))
        assert not (await covenants.SetPolicy(request)).HasField("policy")
        assert keeper.calls[0] == ("set_policy", LEFT, RIGHT, None)


class TestWatch:
    async def test_news(self, covenants: Any, keeper: FakeKeeper) -> None:
        violation = Violation(1, "malice", RIGHT_AGENT, CHAIN[:1], "quarantine", "DATA before BIND")
        escalate = Escalate(1, "malice", RIGHT_AGENT, (), "clock")
        keeper.told = [
            CovenantNews(VIEW, "data", "data came", Data(1, "text/plain", b"hi"), None, NOW),
            CovenantNews(VIEW, "violation", "a breach", None, violation, NOW),
            CovenantNews(VIEW, "escalated", "a threat", None, escalate, NOW),
        ]
        call = covenants.Watch(pb.WatchCovenantsRequest(handle=3))
        first, second, third = [each async for each in call]
        assert (first.kind, first.text, first.time_unix_us) == ("data", "data came", NOW)
        assert first.covenant.handle == 3
        assert first.data == pb.CovenantData(content_type="text/plain", data=b"hi")
        assert not first.HasField("finding")
        assert second.finding == pb.Finding(
            violation_class="malice",
            agent_id=str(RIGHT_AGENT),
            response_level="quarantine",
            description="DATA before BIND",
            evidence_chain=JUSTIFICATION.evidence_chain,
        )
        assert third.finding.response_level == "escalate"
        assert keeper.calls == [("watch", 3)]

    async def test_of_one_that_is_not_there(self, covenants: Any, keeper: FakeKeeper) -> None:
        call = covenants.Watch(pb.WatchCovenantsRequest(handle=4))
        assert (await refused(call.read()))[0] is StatusCode.NOT_FOUND
        assert keeper.calls == []

    async def test_of_all(self, covenants: Any, keeper: FakeKeeper) -> None:
        assert [each async for each in covenants.Watch(pb.WatchCovenantsRequest())] == []
        assert keeper.calls == [("watch", 0)]


def test_the_operator_s_example_is_one_that_can_be_offered() -> None:
    text = (Path(__file__).parents[2] / "docs" / "covenants.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    found = messages.proposal("proposal", covenant_file.parse("docs", example), NOW)
    assert {term.kind for term in found.terms.constraints} == {
        *("rate", "burst", "payload_size", "time_window", "timer", "deferrals", "other")
    }
    assert found.durable
