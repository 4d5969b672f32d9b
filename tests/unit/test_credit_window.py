# SPDX-License-Identifier: Apache-2.0
"""credit/window.py: windows that change while data flows, over a network that loses and reorders.

The model below is what the gate, the engines and the daemons do with a flow's books; only the
windows' protocol is the real one. What must hold at every moment, whatever happens:

    sum of (granted - consumed) over all flows  <=  what is reserved  <=  the universe
    what a sender believes to be consumed       <=  what is consumed
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.credit.ledger import Ledger
from assent.credit.window import ASK_FIRST, LOOK, SETTLED, Books, FlowWindow, Order
from assent.errors import InvalidArgument, ResourceExhausted

CAPACITY = 300
FIRST = 40


@dataclass
class Message:
    """A GRANT with a window, or the answer to one."""

    flow: int
    seq: int
    ref: int
    granted: int
    window: int | None


@dataclass
class Receiver:
    """A flow's line on the receiver's host, and its engine."""

    window: int = FIRST
    granted: int = FIRST
    spent: int = 0
    consumed: int = 0
    engine_window: int = FIRST
    """What the engine read last: it may be preempted between reading and granting."""
    replaced_at: int | None = None
    """When another took the place of what the engine read; None = that stands in the line still."""

    def read_window(self) -> None:
        self.engine_window, self.replaced_at = self.window, None

    def write_window(self, blocks: int, now: int) -> None:
        if self.replaced_at is None and blocks != self.window:
            self.replaced_at = now
        self.window = blocks


@dataclass
class Sender:
    """The same flow's line on the sender's host."""

    window: int = FIRST
    granted: int = FIRST
    spent: int = 0
    flight: list[int] = field(default_factory=list)
    """Costs of frames on their way, in order."""
    grants: list[int] = field(default_factory=list)
    """Grants on their way back."""

    @property
    def believed(self) -> int:
        return self.granted - self.window


class World:
    """One receiving host with several flows, each from a sender of its own."""

    def __init__(self, flows: int) -> None:
        self.now = 0
        self.ledger: Ledger[int] = Ledger(CAPACITY)
        self.receivers = [Receiver() for _ in range(flows)]
        self.senders = [Sender() for _ in range(flows)]
        self.seq = self.back_seq = 0
        self.to_senders: list[Message] = []
        self.to_receiver: list[Message] = []
        self.kept = [FIRST] * flows
        """What survives a crash: the most that may be owed under each window."""
        self.wanted = [FIRST] * flows
        for flow in range(flows):
            self.ledger.reserve(flow, FIRST)
        self.start(told=True)
        self.orders = [Order(0) for _ in range(flows)]
        self.newest_seen = [0] * flows

    def start(self, *, told: bool) -> None:
        self.windows = [
            FlowWindow(one.window, owed, told=told or owed <= one.window, now=self.now)
            for one, owed in zip(self.receivers, self.kept, strict=True)
        ]
        self.refs: dict[int, tuple[int, int]] = {}

    # The steps that hypothesis orders

    def want(self, flow: int, blocks: int) -> None:
        window = self.windows[flow]
        needed = max(blocks, window.told)
        if needed > self.ledger.held(flow):
            try:
                self.ledger.widen(flow, needed)
            except ResourceExhausted:
                return
        self.kept[flow] = max(self.kept[flow], blocks)
        self.wanted[flow] = blocks
        self._write(flow, window.want(blocks, self.now))
        self._settle(flow)

    def crash_receiver(self) -> None:
        """The daemon is killed; lines and store stay, and what it wanted is wanted again."""
        self.start(told=False)
        self.to_receiver.clear()
        for flow, blocks in enumerate(self.wanted):
            self._write(flow, self.windows[flow].want(blocks, self.now))
            held = self.ledger.held(flow)
            assert held >= self.windows[flow].told

    def crash_sender(self, flow: int) -> None:
        self.orders[flow] = Order(self.newest_seen[flow])

    def pass_time(self, duration: int) -> None:
        self.now += duration
        for flow, window in enumerate(self.windows):
            one = self.receivers[flow]
            if one.replaced_at is not None and self.now - one.replaced_at >= SETTLED:
                one.read_window()  # nobody is preempted for so long
            level = one.spent == one.consumed
            window.look(Books(one.granted, one.spent, one.spent, one.spent + level), self.now)
            self._settle(flow)
            if (told := window.ask(self.now)) is not None:
                if self.refs.get(flow, (0, -1))[1] != window.question:
                    self.refs[flow] = self.seq + 1, window.question
                self.seq += 1
                message = Message(flow, self.seq, self.refs[flow][0], one.granted, told)
                self.to_senders.append(message)

    def heartbeat(self) -> None:
        for flow, window in enumerate(self.windows):
            self.seq += 1
            granted = self.receivers[flow].granted
            self.to_senders.append(Message(flow, self.seq, 0, granted, window.told))

    def deliver_question(self, pick: int, *, keep: bool) -> None:
        """One of the messages arrives, in any order; `keep`: or is lost, or comes again."""
        if not self.to_senders:
            return
        message = self.to_senders[pick % len(self.to_senders)]
        if not keep:
            self.to_senders.remove(message)
        sender = self.senders[message.flow]
        if not self.orders[message.flow].takes(message.seq):
            return
        self.newest_seen[message.flow] = max(self.newest_seen[message.flow], message.seq)
        assert message.window is not None
        sender.window = message.window
        sender.granted = max(sender.granted, message.granted)
        if message.ref:
            self.to_receiver.append(Message(message.flow, 0, message.ref, 0, None))

    def deliver_answer(self, pick: int) -> None:
        if not self.to_receiver:
            return
        message = self.to_receiver.pop(pick % len(self.to_receiver))
        ref, question = self.refs.get(message.flow, (0, 0))
        if ref == message.ref:
            self._write(message.flow, self.windows[message.flow].answered(question))

    def lose(self, pick: int) -> None:
        for box in (self.to_senders, self.to_receiver):
            if box:
                box.pop(pick % len(box))

    def send(self, flow: int, blocks: int) -> None:
        sender = self.senders[flow]
        cost = min(blocks, sender.granted - sender.spent)
        if cost > 0:
            sender.spent += cost
            sender.flight.append(cost)

    def arrive(self, flow: int) -> None:
        sender, receiver = self.senders[flow], self.receivers[flow]
        if sender.flight:
            cost = sender.flight.pop(0)
            assert receiver.granted - receiver.spent >= cost, "the gate would refuse it"
            receiver.spent += cost

    def consume(self, flow: int, blocks: int) -> None:
        receiver = self.receivers[flow]
        receiver.consumed += min(blocks, receiver.spent - receiver.consumed)
        receiver.granted = max(receiver.granted, receiver.consumed + receiver.engine_window)
        self.senders[flow].grants.append(receiver.granted)

    def read_window(self, flow: int) -> None:
        self.receivers[flow].read_window()

    def take_grant(self, flow: int, pick: int) -> None:
        sender = self.senders[flow]
        if sender.grants:
            sender.granted = max(sender.granted, sender.grants.pop(pick % len(sender.grants)))

    # What the daemon does besides

    def _write(self, flow: int, window: int | None) -> None:
        if window is not None:
            self.receivers[flow].write_window(window, self.now)

    def _settle(self, flow: int) -> None:
        """Books give back what is owed no longer; the store first."""
        told = self.windows[flow].told
        if told < self.ledger.held(flow):
            self.kept[flow] = told
            self.ledger.release(flow)
            self.ledger.reserve(flow, max(told, 1))

    def check(self) -> None:
        owed = 0
        for flow, (sender, receiver) in enumerate(zip(self.senders, self.receivers, strict=True)):
            assert sender.believed <= receiver.consumed <= receiver.spent <= receiver.granted
            assert sender.granted <= receiver.granted
            assert receiver.granted - receiver.consumed <= self.ledger.held(flow)
            owed += receiver.granted - receiver.consumed
        assert owed <= self.ledger.promised <= CAPACITY

    def run_out(self) -> None:
        """From here on nothing is lost, and everybody goes on using the flows."""
        for _ in range(80):
            for flow, receiver in enumerate(self.receivers):
                self.read_window(flow)
                self.send(flow, 7)
                while self.senders[flow].flight:
                    self.arrive(flow)
                self.consume(flow, receiver.spent)
                while self.senders[flow].grants:
                    self.take_grant(flow, 0)
            self.pass_time(SETTLED)
            while self.to_senders:
                self.deliver_question(0, keep=False)
            while self.to_receiver:
                self.deliver_answer(0)
            self.heartbeat()
            self.check()

    def check_settled(self) -> None:
        for flow, blocks in enumerate(self.wanted):
            assert self.receivers[flow].window == self.senders[flow].window == blocks
            assert self.windows[flow].is_settled
            assert self.ledger.held(flow) == max(blocks, 1)


STEPS = {
    "want": 3, "crash_receiver": 1, "crash_sender": 1, "tick": 5, "settle": 2, "heartbeat": 2,
    "question": 5, "repeat": 1, "answer": 5, "lose": 1, "send": 6, "arrive": 9, "consume": 9,
    "read_window": 4, "take_grant": 12,
}  # fmt: skip
"""What may happen, and how often."""


def step(world: World, what: str, flow: int, number: int) -> None:
    """One step of a history."""
    match what:
        case "want":
            world.want(flow, number)
        case "crash_receiver":
            world.crash_receiver()
        case "crash_sender":
            world.crash_sender(flow)
        case "tick":
            world.pass_time(LOOK)
        case "settle":
            world.pass_time(SETTLED + LOOK)
        case "heartbeat":
            world.heartbeat()
        case "question":
            world.deliver_question(number, keep=False)
        case "repeat":
            world.deliver_question(number, keep=True)
        case "answer":
            world.deliver_answer(number)
        case "lose":
            world.lose(number)
        case "send":
            world.send(flow, 1 + number % 30)
        case "arrive":
            world.arrive(flow)
        case "consume":
            world.consume(flow, number)
        case "read_window":
            world.read_window(flow)
        case "take_grant":
            world.take_grant(flow, number)


def test_a_window_widened_while_it_is_narrowed_does_not_make_the_first_one_count_for_longer():
    """What was replaced a second ago is not granted by, however often it was changed since."""
    world = World(1)
    for what, number in (
        ("send", 28), ("want", 0), ("arrive", 0), ("tick", 0), ("tick", 0), ("tick", 0),
        ("want", 4), ("tick", 0), ("consume", 49), ("settle", 0), ("heartbeat", 0),
        ("question", 0), ("question", 0), ("answer", 0),
    ):  # fmt: skip
        step(world, what, 0, number)
        world.check()
    assert world.receivers[0].granted == FIRST
    world.run_out()
    world.check_settled()


@settings(max_examples=max(200, settings().max_examples))
@given(st.integers(0, 2**32), st.integers(10, 400))
def test_the_universe_is_finite_and_receipts_are_true_whatever_happens(seed: int, length: int):
    world = World(3)
    chance = random.Random(seed)
    for what in chance.choices(list(STEPS), list(STEPS.values()), k=length):
        step(world, what, chance.randrange(3), chance.choice((chance.randrange(150), 0)))
        world.check()
    world.run_out()
    world.check_settled()


def fresh(window: int = 100, owed: int = 0) -> FlowWindow:
    return FlowWindow(window, owed, told=True, now=0)


def test_a_wider_window_waits_for_the_sender():
    window = fresh()
    assert window.want(150, 0) is None
    assert (window.window, window.told) == (100, 150)
    assert window.ask(0) == 150
    assert window.answered(window.question) == 150
    assert window.is_settled
    assert window.next_deadline() is None


def test_a_question_is_repeated_ever_more_seldom():
    window = fresh()
    window.want(150, 0)
    asked = []
    while len(asked) < 5:
        now = window.next_deadline()
        assert now is not None
        assert window.ask(now) == 150
        assert window.ask(now) is None
        asked.append(now)
    assert asked == [0, ASK_FIRST, 3 * ASK_FIRST, 7 * ASK_FIRST, 15 * ASK_FIRST]


def test_an_answer_to_what_is_wanted_no_longer_widens_nothing():
    window = fresh()
    window.want(150, 0)
    question = window.question
    window.want(120, 1)
    assert window.answered(question) is None
    assert window.window == 100
    assert window.ask(1) == 120


def test_a_narrower_window_holds_at_once_and_is_told_as_it_is_used_up():
    window = fresh()
    assert window.want(50, 0) == 50
    assert (window.window, window.told) == (50, 100)
    books = Books(granted=100, spent=0, highest=0, next=0)
    for now in (SETTLED, SETTLED + LOOK):
        window.look(books, now)
    assert window.told == 100
    books = Books(granted=100, spent=30, highest=3, next=4)
    for now in (SETTLED + 2 * LOOK, SETTLED + 3 * LOOK):
        window.look(books, now)
    assert window.ask(SETTLED + 3 * LOOK) == 70
    assert not window.is_settled


def test_what_was_granted_by_the_narrower_window_shows_that_nothing_more_is_owed():
    window = fresh()
    window.want(50, 0)
    window.look(Books(120, 110, 9, 7), SETTLED)
    assert window.told == 100
    window.look(Books(121, 115, 10, 8), SETTLED + LOOK)
    assert window.told == 50


def test_a_look_too_early_is_none():
    """An endpoint may be about to grant by the window that it read before."""
    window = fresh()
    window.want(50, 0)
    for now in (0, SETTLED - 1):
        window.look(Books(100, 100, 9, 10), now)
    assert window.told == 100


def test_blocks_behind_a_gap_do_not_count_as_used_up():
    window = fresh()
    window.want(50, 0)
    for at in range(4):
        window.look(Books(100, 99, 100, 1), SETTLED + at * LOOK)
    assert window.told == 100


def test_a_window_within_what_is_owed_needs_no_answer():
    window = fresh()
    window.want(50, 0)
    assert window.want(80, 1) == 80
    assert window.told == 100


def test_after_a_restart_the_sender_is_asked_once():
    window = FlowWindow(100, told=False, now=5)
    assert window.ask(5) == 100
    assert window.answered(window.question) is None
    assert window.is_settled


@pytest.mark.parametrize("blocks", [-1, -100])
def test_there_is_no_negative_window(blocks: int):
    window = fresh()
    with pytest.raises(InvalidArgument, match="window_blocks: needs 0 or more"):
        window.want(blocks, 0)
    assert window.is_settled


@pytest.mark.parametrize(
    ("seen", "seq", "taken"),
    [(0, 1, True), (5, 5, False), (5, 4, False), (5, 6, True), (0xFFFFFFFF, 0, True),
     (1, 0x80000002, False)],
)  # fmt: skip
def test_only_newer_frames_are_followed(seen: int, seq: int, taken: bool):
    order = Order(seen)
    assert order.takes(seq) is taken
    assert order.takes(seq) is False
