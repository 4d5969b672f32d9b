# SPDX-License-Identifier: Apache-2.0
"""service/flow_desk.py: two ends joined in memory, under a clock and over a link of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assent.errors import FailedPrecondition, NotFound, Unavailable
from assent.service.definitions import Definition, Definitions, Heard, Notes
from assent.service.flow_board import LISTENERS_MAX, WAITING_MAX, FlowBoard, Listener, Offer
from assent.service.flow_desk import (
    ASK_PATIENCE,
    ASK_REPEAT,
    CLAIM_PATIENCE,
    SECOND,
    FlowDesk,
    FlowOffice,
    FlowPolicy,
    FlowRefused,
    Refusal,
    Wanted,
)
from assent.service.records import StoredSession
from assent.wire.cellid import CellID
from assent.wire.control import Close, ControlTag, Define, Delivery, FlowClass, Tag

LOW, HIGH = CellID(b"l" * 16), CellID(b"r" * 16)
FLOWS = (1, 2, 3)
REPLAY = 1000
ANY = Wanted(0, Delivery.ORDERED, FlowClass.STANDARD, "echo")


class End:
    """One end: its desk, the gate's lines, who listens, and what it has sent."""

    def __init__(self, root: Path, local: CellID, remote: CellID, *, initiator: bool) -> None:
        self.stored = StoredSession(
            7 if initiator else 9, remote, local, 1, initiator, bytes(6), 0, 0, 0, 1500
        )
        self.mtu = 1500 if initiator else 1400
        self.board = FlowBoard()
        self.definitions = Definitions(root / str(local)[:8])
        self.policy = FlowPolicy()
        self.driven: set[int] = set()
        self.closed: list[tuple[int, str]] = []
        self.ended: list[str] = []
        self.settled: list[tuple[int, int, int]] = []
        self.shut_flows: list[int] = []
        self.lines = {
            flow: SimpleNamespace(
                rx_open=0, tx_pending=0, rx_next=0, rx_highest=0, tx_seq=0, tx_spent=0
            )
            for flow in FLOWS
        }
        self.seq = 0
        self.sent: list[tuple[int, ControlTag]] = []
        self.desk = self.make(0)

    def make(self, now: int, rtt: int = 0) -> FlowDesk:
        """The desk that a daemon makes at its start."""
        office = FlowOffice(
            self.board,
            self.definitions,
            self.policy,
            lambda _, flow: flow in self.driven,
            lambda _, flow, close: self.closed.append((flow, close.reason)),
            lambda _, reason: self.ended.append(reason),
        )
        return FlowDesk(self, office, now, rtt)

    def open_flows(self) -> Iterator[int]:
        return iter(self.lines)

    def line(self, flow: int) -> Any:
        return self.lines[flow]

    def shut(self, flow: int) -> None:
        self.lines[flow].rx_open = 0
        self.shut_flows.append(flow)

    def take_seq(self) -> int:
        self.seq += 1
        return self.seq

    def retire(self, flow: int) -> None:
        line = self.lines[flow]
        line.tx_seq, line.tx_pending = line.tx_seq + REPLAY, 0

    def settle(self, flow: int, seq: int, spent: int) -> bool:
        self.settled.append((flow, seq, spent))
        self.lines[flow].rx_highest, self.lines[flow].rx_next = seq, seq + 1
        return True

    def send_tag(self, seq: int, tag: ControlTag, granted: int = 0) -> None:
        assert (granted != 0) == (tag.tag == Tag.CLOSE)
        self.sent.append((seq, tag))

    def take(self, tag: ControlTag, now: int) -> None:
        """As LiveSession does it."""
        if tag.tag == Tag.DEFINE:
            self.desk.on_define(Define.from_body(tag.body), tag.ref, now)
        elif tag.tag == Tag.CLOSE:
            close = Close.from_body(tag.body)
            assert close.flow is not None
            self.desk.on_close(close.flow, tag.ref, close)
            self.send_tag(self.take_seq(), ControlTag(Tag.GRANT, tag.ref, None))
        else:
            self.desk.on_receipt(tag.ref)

    def drive(self, flow: int) -> None:
        """An application opens a flow."""
        self.driven.add(flow)
        self.lines[flow].rx_open = 1

    def leave(self, flow: int, *, orderly: bool) -> None:
        """And closes it, or dies."""
        self.driven.discard(flow)
        if orderly:
            self.lines[flow].rx_open = 0

    def flows(self) -> list[int]:
        return [definition.flow for definition in self.desk.definitions()]


class Rig:
    """Both ends, and the link between them."""

    def __init__(self, root: Path) -> None:
        self.left = End(root, LOW, HIGH, initiator=True)
        self.right = End(root, HIGH, LOW, initiator=False)
        self.now = 1_000 * SECOND

    def pass_on(self, *, lose: Callable[[ControlTag], bool] = lambda _: False) -> int:
        """Carries what was sent to the other end, until all is quiet; returns how many tags."""
        carried = 0
        while self.left.sent or self.right.sent:
            for here, there in ((self.left, self.right), (self.right, self.left)):
                sent, here.sent = here.sent, []
                for _, tag in sent:
                    if not lose(tag):
                        carried += 1
                        there.take(tag, self.now)
        return carried

    def pass_time(
        self, duration: int, *, lose: Callable[[ControlTag], bool] = lambda _: False
    ) -> None:
        """Time passes as the owner would let it: from deadline to deadline."""
        until = self.now + duration
        while True:
            due = [
                at
                for end in (self.left, self.right)
                if (at := end.desk.next_deadline()) is not None and at <= until
            ]
            if not due:
                break
            self.now = max(self.now, min(due))
            for end in (self.left, self.right):
                end.desk.tick(self.now)
            self.pass_on(lose=lose)
        self.now = until

    def define(self, wanted: Wanted = ANY) -> asyncio.Future[Definition]:
        answer = self.left.desk.define(wanted, self.now)
        self.pass_on()
        return answer

    def restart(self, end: End) -> None:
        """A daemon is killed, and another one takes over. Its listeners are gone."""
        end.board = FlowBoard()
        end.desk = end.make(self.now)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def listener(rig: Rig) -> Iterator[Listener]:
    """Somebody at the right listens for "echo"."""
    with rig.right.board.listening(HIGH, None, "echo") as made:
        yield made


def nothing_but_close(tag: ControlTag) -> bool:
    return tag.tag != Tag.CLOSE


# Asking


async def test_a_flow_is_agreed_on_and_offered(rig: Rig, listener: Listener):
    wanted = Wanted(2, Delivery.UNORDERED, FlowClass.BULK, "echo")
    definition = rig.define(wanted).result()
    offer = await listener.take()
    assert (offer.remote, offer.local, offer.session) == (LOW, HIGH, 9)
    # The smaller of both sides' frames.
    expected = Definition(2, Delivery.UNORDERED, FlowClass.BULK, 1400, "echo", ours=True)
    assert definition == expected
    assert offer.definition == replace(expected, ours=False)
    assert rig.left.desk.next_deadline() is None
    assert rig.right.desk.next_deadline() is None


async def test_any_flow_is_the_first_that_is_free_from_the_asker_s_end(rig: Rig):
    with (
        rig.right.board.listening(HIGH, None, "echo"),
        rig.left.board.listening(LOW, None, "echo"),
    ):
        assert rig.define().result().flow == 1
        answer = rig.right.desk.define(ANY, rig.now)
        rig.pass_on()
        assert answer.result().flow == 3
        assert rig.define().result().flow == 2
        with pytest.raises(FailedPrecondition, match="no flow that is free"):
            rig.left.desk.define(ANY, rig.now)


@pytest.mark.parametrize("flow", [0, 2])
async def test_where_nobody_listens_no_flow_is_given(rig: Rig, flow: int):
    """For another label, of another peer, or at another cell is nobody."""
    with (
        rig.right.board.listening(HIGH, None, "other"),
        rig.right.board.listening(HIGH, CellID(b"x" * 16), "echo"),
        rig.right.board.listening(LOW, None, "echo"),
    ):
        answer = rig.define(replace(ANY, flow=flow))
        with pytest.raises(FlowRefused) as refused:
            answer.result()
    assert refused.value.reason == Refusal.UNHEARD.value
    assert rig.left.flows() == rig.right.flows() == []


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (replace(ANY, delivery=Delivery.BEST_EFFORT), Refusal.DELIVERY),
        (replace(ANY, flow_class=FlowClass.URGENT), Refusal.CLASS),
    ],
)
async def test_what_policy_does_not_permit_is_refused(
    rig: Rig, listener: Listener, wanted: Wanted, reason: Refusal
):
    rig.right.policy = FlowPolicy.named(["ordered"], ["standard", "bulk"])
    rig.right.desk = rig.right.make(rig.now)
    with pytest.raises(FlowRefused, match=reason.value):
        rig.define(wanted).result()
    assert rig.right.flows() == []
    assert not listener.waiting


async def test_a_flow_that_is_not_open_is_refused_at_once(rig: Rig, listener: Listener):
    with pytest.raises(FailedPrecondition, match="no such flow"):
        rig.left.desk.define(replace(ANY, flow=5), rig.now)
    assert rig.left.sent == []
    # And by a peer, of which nothing is remembered.
    del rig.right.lines[3]
    with pytest.raises(FlowRefused, match=Refusal.SHUT.value):
        rig.define(replace(ANY, flow=3)).result()
    assert rig.right.definitions.get(9) == Notes()


async def test_a_flow_that_somebody_drives_without_a_word_is_taken(rig: Rig, listener: Listener):
    rig.left.driven.add(1)
    with pytest.raises(FailedPrecondition, match=Refusal.TAKEN.value):
        rig.left.desk.define(replace(ANY, flow=1), rig.now)
    rig.right.driven.add(2)
    with pytest.raises(FlowRefused, match=Refusal.TAKEN.value):
        rig.define(replace(ANY, flow=2)).result()
    # Who takes any is given the next one.
    assert rig.define().result().flow == 3


@pytest.mark.parametrize("end", ["left", "right"])
async def test_a_flow_that_was_left_unfinished_is_not_given(rig: Rig, listener: Listener, end: str):
    getattr(rig, end).lines[1].tx_pending = 1
    getattr(rig, end).lines[2].rx_highest = 5
    assert rig.define().result().flow == 3
    assert rig.right.flows() == [3]


async def test_both_ask_for_one_flow_at_once_and_the_initiator_has_it(rig: Rig, listener: Listener):
    with rig.left.board.listening(LOW, None, "echo"):
        ours = rig.left.desk.define(replace(ANY, flow=2), rig.now)
        theirs = rig.right.desk.define(replace(ANY, flow=2), rig.now)
        rig.pass_on()
    assert ours.result().ours
    with pytest.raises(FlowRefused, match=Refusal.TAKEN.value):
        theirs.result()
    (definition,) = rig.right.desk.definitions()
    assert not definition.ours


async def test_who_takes_any_flow_gives_way_to_another_one(rig: Rig, listener: Listener):
    with rig.left.board.listening(LOW, None, "echo"):
        rig.left.driven.add(1)
        rig.right.driven.add(1)
        ours = rig.left.desk.define(replace(ANY, flow=3), rig.now)
        theirs = rig.right.desk.define(ANY, rig.now)
        rig.pass_on()
    assert (ours.result().flow, theirs.result().flow) == (3, 2)
    assert sorted(rig.left.flows()) == sorted(rig.right.flows()) == [2, 3]


# Loss, repetition, lateness


async def test_a_question_is_repeated_until_it_is_answered(rig: Rig, listener: Listener):
    answer = rig.left.desk.define(ANY, rig.now)
    lost = [2]

    def lose(_: ControlTag) -> bool:
        lost[0] -= 1
        return lost[0] >= 0

    rig.pass_on(lose=lose)
    rig.pass_time(ASK_REPEAT, lose=lose)
    assert not answer.done()
    rig.pass_time(3 * ASK_REPEAT, lose=lose)
    assert answer.result().flow == 1
    assert len(listener.waiting) == 1


async def test_a_question_gets_through_where_most_of_its_repeats_are_lost(
    rig: Rig, listener: Listener
):
    answer = rig.left.desk.define(ANY, rig.now)
    lost = [9]

    def lose(_: ControlTag) -> bool:
        lost[0] -= 1
        return lost[0] >= 0

    rig.pass_on(lose=lose)
    rig.pass_time(ASK_PATIENCE, lose=lose)
    assert answer.result().flow == 1
    assert len(listener.waiting) == 1


async def test_a_repeated_question_has_the_same_answer(rig: Rig):
    """Also where somebody listens by now: the asker may have taken the refusal."""
    rig.left.desk.define(ANY, rig.now)
    ((_, question),) = rig.left.sent
    rig.right.take(question, rig.now)
    with rig.right.board.listening(HIGH, None, "echo") as listener:
        rig.right.take(question, rig.now)
        first, second = (tag.body for _, tag in rig.right.sent)
        assert first == second
        assert not listener.waiting
    assert rig.right.flows() == []


async def test_a_repeated_question_is_offered_once(rig: Rig, listener: Listener):
    rig.left.desk.define(ANY, rig.now)
    ((_, question),) = rig.left.sent
    for _ in range(3):
        rig.right.take(question, rig.now)
    assert len(listener.waiting) == 1
    assert len(rig.right.sent) == 3


async def test_an_asker_waits_so_long_and_then_gives_the_flow_back(rig: Rig, listener: Listener):
    answer = rig.left.desk.define(ANY, rig.now)
    rig.pass_on(lose=lambda tag: Define.from_body(tag.body).accepted is not None)
    rig.pass_time(ASK_PATIENCE, lose=nothing_but_close)
    with pytest.raises(TimeoutError, match="does not answer"):
        answer.result()
    # The peer had accepted: it learns, and the flow is not given again before it has confirmed.
    assert rig.right.closed == [(1, "")]
    assert rig.left.flows() == [1]
    rig.pass_time(60 * SECOND)
    assert rig.left.flows() == []
    assert rig.left.desk.next_deadline() is None
    # Its application has it still, so another flow is given.
    assert rig.define().result().flow == 2
    rig.right.desk.release(1, rig.now)
    rig.pass_on()
    assert rig.right.flows() == [2]


async def test_a_far_peer_is_waited_for_longer(tmp_path: Path):
    rig = Rig(tmp_path)
    rig.left.desk = rig.left.make(rig.now, rtt=1200 * SECOND)
    answer = rig.left.desk.define(ANY, rig.now)
    rig.left.sent.clear()
    rig.pass_time(1700 * SECOND, lose=lambda _: True)
    assert not answer.done()
    rig.pass_time(4 * 1200 * SECOND, lose=lambda _: True)
    with pytest.raises(TimeoutError):
        answer.result()


async def test_who_asked_and_left_has_no_flow(rig: Rig, listener: Listener):
    answer = rig.left.desk.define(ANY, rig.now)
    answer.cancel()
    rig.pass_on()
    assert rig.left.flows() == []
    assert rig.right.closed == [(1, "")]


async def test_a_late_question_and_a_late_close_mean_nothing(rig: Rig, listener: Listener):
    rig.left.desk.define(replace(ANY, flow=1), rig.now)
    question = rig.left.sent[0][1]
    rig.pass_on()
    for end in (rig.left, rig.right):
        end.desk.release(1, rig.now)
    close = rig.left.sent[0][1]
    rig.pass_on()
    assert rig.left.flows() == rig.right.flows() == []
    rig.define(replace(ANY, flow=1)).result()
    rig.right.closed.clear()
    before = rig.right.desk.definitions()
    rig.right.take(close, rig.now)
    rig.right.take(question, rig.now)
    assert rig.right.desk.definitions() == before
    assert rig.right.closed == []
    # The close is confirmed all the same; the question has no answer.
    assert [tag.tag for _, tag in rig.right.sent] == [Tag.GRANT]


# Releasing


async def test_a_flow_is_free_once_both_sides_are_done(rig: Rig, listener: Listener):
    rig.define(replace(ANY, flow=1)).result()
    rig.left.desk.release(1, rig.now)
    rig.pass_on()
    assert rig.right.closed == [(1, "")]
    with pytest.raises(FailedPrecondition, match=Refusal.TAKEN.value):
        rig.left.desk.define(replace(ANY, flow=1), rig.now)
    rig.left.desk.release(1, rig.now)  # idempotent
    assert rig.left.sent == []
    rig.right.desk.release(1, rig.now)
    rig.pass_on()
    # Who is done already need not be told.
    assert rig.left.closed == [(1, "")]
    assert rig.define(replace(ANY, flow=1)).result().flow == 1


async def test_what_an_application_left_unfinished_is_over_with_both_releases(
    rig: Rig, listener: Listener
):
    """Whatever was lost of it: the next ones begin where both have ended."""
    rig.define(replace(ANY, flow=1)).result()
    for end in (rig.left, rig.right):
        end.drive(1)
    sent = rig.left.lines[1]
    sent.tx_seq, sent.tx_spent, sent.tx_pending = 90, 270, 1
    rig.right.lines[1].rx_highest, rig.right.lines[1].rx_next = 80, 60
    rig.left.leave(1, orderly=False)
    assert rig.left.desk.sweep(rig.now) == [1]
    rig.pass_on()
    # The other one is at work still: nothing is done to its line.
    assert rig.right.settled == []
    rig.right.leave(1, orderly=True)
    rig.right.desk.release(1, rig.now)
    assert rig.right.settled == [(1, 90 + REPLAY, 270)]
    rig.pass_on()
    assert rig.left.settled == [(1, REPLAY, 0)]
    assert rig.define(replace(ANY, flow=1)).result().flow == 1


async def test_a_release_while_the_application_is_there_settles_nothing(
    rig: Rig, listener: Listener
):
    rig.define(replace(ANY, flow=1)).result()
    rig.left.drive(1)
    rig.left.desk.release(1, rig.now)
    ((_, close),) = rig.left.sent
    assert Close.from_body(close.body) == Close("", 1)
    rig.right.desk.release(1, rig.now)
    rig.pass_on()
    assert rig.left.settled == rig.right.settled == []


async def test_a_close_is_repeated_until_it_is_confirmed(rig: Rig, listener: Listener):
    rig.define(replace(ANY, flow=1)).result()
    rig.right.desk.release(1, rig.now)
    rig.left.desk.release(1, rig.now)
    rig.pass_on(lose=lambda tag: tag.tag == Tag.GRANT)
    assert rig.left.flows() == rig.right.flows() == [1]
    rig.pass_time(SECOND)
    assert rig.left.flows() == rig.right.flows() == []
    assert rig.right.closed == [(1, "")]


async def test_what_is_not_defined_is_not_released(rig: Rig):
    with pytest.raises(NotFound, match="flow 1 is not defined"):
        rig.left.desk.release(1, rig.now)
    assert rig.left.sent == []


async def test_an_application_that_died_is_done_with_its_flow(rig: Rig, listener: Listener):
    rig.define().result()
    rig.left.drive(1)
    rig.right.drive(1)
    for _ in range(3):
        rig.now += 10 * SECOND
        assert rig.left.desk.sweep(rig.now) == rig.right.desk.sweep(rig.now) == []
    rig.right.leave(1, orderly=False)
    assert rig.right.desk.sweep(rig.now) == [1]
    assert rig.right.shut_flows == [1]
    rig.pass_on()
    assert rig.left.closed == [(1, "")]
    rig.left.leave(1, orderly=True)
    assert rig.left.desk.sweep(rig.now) == [1]
    rig.pass_on()
    assert rig.left.flows() == rig.right.flows() == []


async def test_an_application_that_never_came_is_not_waited_for(rig: Rig, listener: Listener):
    rig.define().result()
    rig.left.drive(1)
    rig.now += CLAIM_PATIENCE - 1
    assert rig.right.desk.sweep(rig.now) == []
    rig.now += 1
    assert rig.left.desk.sweep(rig.now) == []
    assert rig.right.desk.sweep(rig.now) == [1]


async def test_an_offer_that_nobody_takes_is_given_back(rig: Rig):
    with rig.right.board.listening(HIGH, None, "echo"):
        rig.define().result()
    assert rig.right.desk.sweep(rig.now) == [1]
    rig.pass_on()
    assert rig.left.closed == [(1, "")]


async def test_an_application_that_is_gone_before_the_answer_is_known(rig: Rig, listener: Listener):
    """The CLOSE overtakes the acceptance."""
    answer = rig.left.desk.define(ANY, rig.now)
    rig.pass_on(lose=lambda tag: Define.from_body(tag.body).accepted is not None)
    rig.right.desk.release(1, rig.now)
    rig.pass_time(2 * SECOND)
    with pytest.raises(Unavailable, match="has ended at once"):
        answer.result()
    assert rig.left.flows() == rig.right.flows() == []


async def test_a_session_s_end_is_that_of_all_questions(rig: Rig, listener: Listener):
    answer = rig.left.desk.define(ANY, rig.now)
    rig.left.desk.end("renewed")
    assert rig.left.ended == ["renewed"]
    with pytest.raises(Unavailable, match="renewed"):
        answer.result()
    assert rig.left.desk.next_deadline() is None
    rig.pass_on()
    assert len(listener.waiting) == 1
    rig.right.desk.end("renewed")
    assert not listener.waiting


# Restarts


async def test_definitions_outlive_the_daemon(rig: Rig, listener: Listener):
    before = rig.define(Wanted(2, Delivery.BEST_EFFORT, FlowClass.TENSOR, "echo")).result()
    for end in (rig.left, rig.right):
        end.drive(2)
        rig.restart(end)
    assert rig.left.desk.definition(2) == before
    assert rig.right.desk.definition(2) == replace(before, ours=False)
    for end in (rig.left, rig.right):
        assert end.desk.sweep(rig.now + 3600 * SECOND) == []
        assert end.sent == []


async def test_an_asker_that_was_killed_gives_the_flow_back(rig: Rig, listener: Listener):
    rig.left.desk.define(ANY, rig.now)
    rig.restart(rig.left)
    rig.pass_on()
    assert rig.right.closed == [(1, "")]
    assert rig.left.flows() == []
    assert rig.left.desk.next_deadline() is None


async def test_one_that_was_killed_after_it_accepted_gives_the_same_answer(
    rig: Rig, listener: Listener
):
    answer = rig.left.desk.define(ANY, rig.now)
    rig.pass_on(lose=lambda tag: Define.from_body(tag.body).accepted is not None)
    rig.restart(rig.right)
    rig.pass_time(SECOND)
    assert answer.result().flow == 1
    # The offer was lost with the daemon.
    rig.now += CLAIM_PATIENCE
    assert rig.right.desk.sweep(rig.now) == [1]
    rig.pass_on()
    assert rig.left.closed == [(1, "")]


@pytest.mark.parametrize("who", ["left", "right"])
async def test_a_close_that_was_not_confirmed_is_said_again(rig: Rig, listener: Listener, who: str):
    rig.define().result()
    end: End = getattr(rig, who)
    end.desk.release(1, rig.now)
    end.sent.clear()
    rig.restart(end)
    rig.pass_on()
    other = rig.right if end is rig.left else rig.left
    assert other.closed == [(1, "")]
    other.desk.release(1, rig.now)
    rig.pass_on()
    assert rig.left.flows() == rig.right.flows() == []


async def test_a_late_question_means_nothing_after_a_restart(rig: Rig, listener: Listener):
    rig.left.desk.define(ANY, rig.now)
    question = rig.left.sent[0][1]
    rig.pass_on()
    for end in (rig.left, rig.right):
        end.desk.release(1, rig.now)
    rig.pass_on()
    rig.restart(rig.right)
    with rig.right.board.listening(HIGH, None, "echo") as again:
        rig.right.take(question, rig.now)
        assert not again.waiting
    assert rig.right.flows() == rig.right.sent == []


async def test_a_flow_that_was_lent_when_a_daemon_was_killed_serves_no_more(
    rig: Rig, listener: Listener
):
    """How far its numbers had come is not known, and none may be used twice."""
    rig.left.desk.lend(1)
    rig.left.desk.lend(2)
    rig.left.desk.take_back(2)
    rig.restart(rig.left)
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="was lent when a daemon was killed"):
            rig.left.desk.require_sound(1)
        rig.restart(rig.left)
    rig.left.desk.require_sound(2)
    assert rig.define().result().flow == 2
    with pytest.raises(FailedPrecondition, match="renew the session"):
        rig.left.desk.define(replace(ANY, flow=1), rig.now)


# What is kept


def test_notes_come_back_as_they_were(tmp_path: Path):
    kept = Definitions(tmp_path / "kept")
    definition = Definition(3, Delivery.UNORDERED, FlowClass.URGENT, 1400, "ä", ours=True)
    notes = Notes(77, {3: definition}, {3: Heard(9), 1: Heard(4, "no")}, {2})
    kept.put(5, notes)
    assert kept.get(5) == notes
    assert kept.get(6) == Notes()
    path = tmp_path / "kept" / "5.cbor"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    kept.put(6, Notes())
    assert kept.retain({6}) == 1
    assert kept.get(5) == Notes()
    kept.remove(6)
    kept.remove(6)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"\x01",
        b"\xa0",
        b"\xa4gversion\x01crtt\x00eflows\x81\x81\x01eheard\x80",
        b"\xa4gversion\x01crtt\x00eflows\x80eheard\x81\x01",
        b"\xa4gversion\x02crtt\x00eflows\x80eheard\x80",
    ],
)
def test_notes_that_cannot_be_read_are_none(tmp_path: Path, content: bytes):
    kept = Definitions(tmp_path)
    (tmp_path / "5.cbor").write_bytes(content)
    assert kept.get(5) == Notes()


# Listeners


def offer(flow: int, declined: list[int], remote: CellID = LOW, session: int = 1) -> Offer:
    definition = Definition(flow, Delivery.ORDERED, FlowClass.STANDARD, 1500, "", ours=False)
    return Offer(remote, HIGH, session, definition, lambda: declined.append(flow))


async def test_who_listens_for_one_cell_goes_first_and_then_who_has_the_fewest_waiting():
    board, declined = FlowBoard(), list[int]()
    with (
        board.listening(HIGH) as one,
        board.listening(HIGH) as two,
        board.listening(HIGH, LOW) as special,
    ):
        for flow in (1, 2):
            assert board.post(offer(flow, declined))
        other = CellID(b"x" * 16)
        for flow in (3, 4):
            assert board.post(offer(flow, declined, other))
        assert [len(each.waiting) for each in (one, two, special)] == [1, 1, 2]


async def test_what_a_listener_leaves_goes_to_the_next_or_back():
    board, declined = FlowBoard(), list[int]()
    with board.listening(HIGH) as heir:
        with board.listening(HIGH, LOW):
            board.post(offer(1, declined))
        assert (await heir.take()).definition.flow == 1
        board.post(offer(2, declined))
        board.post(offer(3, declined, session=2))
        board.forget(2)
    assert declined == [2]


async def test_listeners_and_what_waits_for_them_are_bounded():
    import contextlib

    from assent.errors import ResourceExhausted

    board, declined = FlowBoard(), list[int]()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(board.listening(HIGH))
        for number in range(WAITING_MAX):
            assert board.post(offer(number, declined))
        assert not board.post(offer(7, declined))
        assert len(first.waiting) == WAITING_MAX
        for _ in range(LISTENERS_MAX - 1):
            stack.enter_context(board.listening(LOW))
        with pytest.raises(ResourceExhausted, match="listen for flows already"):
            stack.enter_context(board.listening(HIGH))
