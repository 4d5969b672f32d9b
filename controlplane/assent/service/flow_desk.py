# SPDX-License-Identifier: Apache-2.0
"""Which flows of one session are agreed on: DEFINE and CLOSE on flow 0 (design, "Flow 0").

Theory of operation
===================

A flow is free, or it has one definition, which both sides know:

    asker                                             peer
    asked     --- DEFINE {flow, delivery, ...} ---->  somebody listens for it: open
    open      <-- DEFINE {accepted} ----------------
              ... data ...
    done here --- CLOSE {flow} -------------------->  its application learns that
              <-- GRANT, under the CLOSE's ref ------
    (and the same from the peer; what both are done with is free)

A question is repeated until it is answered, and each has the number of its first frame as its ref.
Refs of one side rise, so for each flow the newest that was heard tells a question that is repeated,
which gets the same answer, from one that is late, which means nothing any more.

An asker that gives up cannot know whether the peer has accepted, so it says CLOSE, and the flow is
free once that is confirmed. Where both sides ask for the same flow at once, the session's initiator
has it. What is agreed is written down before it is said (definitions.py): a daemon that was killed
finds all of it again, gives up what had no answer, and repeats what was not confirmed.

Whether an application is there is told by the flow's line and its lock. One that never came, or is
gone, is done with the flow: see `sweep`.

However it ended, a flow that is free is whole again. CLOSE says how far its sender had come, and
once the receiver's own application is done too, it counts all of that as arrived and consumed: what
was lost of it is paid for and will not come. Numbers go on behind a gap as wide as the replay
window, so that what is late is refused as too old.

Owner's clock, ns, monotonic. All state is bounded by the number of flows of a session.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from assent.dataplane.btf import Record
from assent.errors import FailedPrecondition, LocalError, NotFound, Unavailable
from assent.service.definitions import Definition, Definitions, Heard, Notes
from assent.service.flow_board import FlowBoard, Offer
from assent.service.records import StoredSession
from assent.wire.control import Close, ControlTag, Define, Delivery, FlowClass, Tag

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
ASK_REPEAT: Final = SECOND // 5
"""At first; later ones are twice as far apart each, and none nearer than the peer's distance."""
ASK_REPEAT_MAX: Final = SECOND // 2
"""Somebody waits for the answer: where a link loses a third both ways, it still comes in time."""
CLOSE_REPEAT_MAX: Final = 10 * SECOND
ASK_PATIENCE: Final = 5 * SECOND
CLAIM_PATIENCE: Final = 15 * SECOND
"""How long an application may take from a flow's definition to opening it."""


class Refusal(enum.Enum):
    """Why a flow is not given; the value is what the peer is told, and stays as it is."""

    UNHEARD = "nobody listens for it"
    TAKEN = "the flow is taken"
    SPOILT = "the flow was lent when a daemon was killed: renew the session"
    SHUT = "the session has no such flow"
    UNFINISHED = "an earlier application left the flow unfinished: renew the session"
    DELIVERY = "this delivery is not permitted"
    CLASS = "this class is not permitted"


_ABOUT_THE_NUMBER: Final = frozenset(
    each.value for each in (Refusal.TAKEN, Refusal.SPOILT, Refusal.SHUT, Refusal.UNFINISHED)
)


class FlowRefused(LocalError):  # noqa: N818 - says what happened
    """The peer does not give a flow.

    Attributes:
        flow: Which.
        reason: In its words.
    """

    def __init__(self, flow: int, reason: str) -> None:
        super().__init__(f"flow {flow} is refused: {reason}")
        self.flow = flow
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FlowPolicy:
    """What peers may define."""

    deliveries: frozenset[Delivery] = frozenset(Delivery)
    classes: frozenset[FlowClass] = frozenset(FlowClass)

    @classmethod
    def named(cls, deliveries: Iterable[str], classes: Iterable[str]) -> FlowPolicy:
        """Of names as a configuration has them: in lower case, with hyphens."""
        return cls(
            frozenset(Delivery[_member(name)] for name in deliveries),
            frozenset(FlowClass[_member(name)] for name in classes),
        )

    def refusal(self, define: Define) -> Refusal | None:
        """What speaks against a flow, if anything does."""
        if define.delivery not in self.deliveries:
            return Refusal.DELIVERY
        return None if define.flow_class in self.classes else Refusal.CLASS


@dataclass(frozen=True, slots=True)
class FlowOffice:
    """What the desks of all sessions share.

    Attributes:
        board: Who listens.
        definitions: Where notes are kept.
        policy: What peers may define.
        is_driven: Whether a process drives a flow, by session id and flow.
        on_closed: Told that a peer is done with a flow, and what it says.
        on_ended: Told that a session is over, and all its flows; its lines in the gate are not
            another's yet.
    """

    board: FlowBoard
    definitions: Definitions
    policy: FlowPolicy
    is_driven: Callable[[int, int], bool]
    on_closed: Callable[[StoredSession, int, Close], None]
    on_ended: Callable[[StoredSession, str], None]


class Link(Protocol):
    """What a desk needs of its session."""

    stored: StoredSession
    mtu: int

    def open_flows(self) -> Iterable[int]:
        """The data flows that are open."""

    def line(self, flow: int) -> Record:
        """The books of one of them."""

    def shut(self, flow: int) -> None:
        """Has the gate refuse the frames of one of them: nobody takes them any more."""

    def retire(self, flow: int) -> None:
        """Ends what was sent on one of them: see `FlowTable.retire`."""

    def settle(self, flow: int, seq: int, spent: int) -> bool:
        """Takes over what a peer that is done has said: see `FlowTable.settle`."""

    def take_seq(self) -> int:
        """The next number of flow 0, recorded as used."""

    def send_tag(self, seq: int, tag: ControlTag, granted: int = 0) -> None:
        """Sends a tag in a frame of that number, and with it what is granted on a flow."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a local application asks for.

    Attributes:
        flow: 0 = any that is free.
        delivery: What it shall promise of its messages.
        flow_class: Its priority.
        label: Which of the peer's listeners is meant.
    """

    flow: int
    delivery: Delivery
    flow_class: FlowClass
    label: str


@dataclass(slots=True, eq=False)
class _Repeated:
    """A question that waits for its answer."""

    ref: int
    tag: ControlTag
    granted: int
    due: int
    interval: int


@dataclass(slots=True, eq=False)
class _Ask:
    """A DEFINE that waits for its answer, and whoever waits for it."""

    wanted: Wanted
    others: list[int]
    until: int
    answer: asyncio.Future[Definition] = field(repr=False)
    question: _Repeated | None = None
    flow: int = 0


class FlowDesk:
    """The definitions of one session.

    Args:
        link: The session.
        office: What is shared with other sessions.
        now: Monotonic ns.
        rtt: Of the session's handshake, ns; 0 = not known, or as it is noted.
    """

    def __init__(self, link: Link, office: FlowOffice, now: int, rtt: int = 0) -> None:
        self._link = link
        self._office = office
        self._notes: Notes = office.definitions.get(link.stored.id)
        self._is_noted = not rtt
        if rtt:
            self._notes.rtt = rtt
        # Lent by a daemon before this one: how far their numbers have come, nobody knows.
        self._spoilt = frozenset(self._notes.lent)
        self._asks: dict[int, _Ask] = {}
        self._closings: dict[int, _Repeated] = {}
        # When an application is given up that has not come yet; None = it has come.
        self._claims: dict[int, int | None] = {}
        self._take_up(now)

    # What it is

    @property
    def rtt(self) -> int:
        """Of the handshake, ns; 0 = not known."""
        return self._notes.rtt

    @rtt.setter
    def rtt(self, value: int) -> None:
        self._notes.rtt = value
        self._is_noted = False

    def note(self) -> None:
        """Writes down what was measured, once somebody builds on it.

        Not before: a file for each session would be dear to those who shake hands by the thousand.
        """
        if not self._is_noted:
            self._save()

    def definition(self, flow: int) -> Definition | None:
        """What is agreed on a flow; None where nothing is."""
        return self._notes.flows.get(flow)

    def definitions(self) -> list[Definition]:
        """All that is agreed."""
        return list(self._notes.flows.values())

    # Lent flows

    def require_sound(self, flow: int) -> None:
        """Makes sure that a flow's numbers are known, so that none is used twice.

        Raises:
            FailedPrecondition: It was lent when a daemon was killed.
        """
        if flow in self._spoilt:
            raise FailedPrecondition(f"flow: flow {flow}: {Refusal.SPOILT.value}")

    def lend(self, flow: int) -> None:
        """Writes down that a flow's numbers are kept elsewhere from now on."""
        self._notes.lent.add(flow)
        self._save()

    def take_back(self, flow: int) -> None:
        """Its numbers are in the gate again."""
        self._notes.lent.discard(flow)
        self._save()

    # Calls

    def define(self, wanted: Wanted, now: int) -> asyncio.Future[Definition]:
        """Asks the peer for a flow.

        Returns:
            What becomes of it: the definition, or `FlowRefused`, `TimeoutError`, `Unavailable`.

        Raises:
            FailedPrecondition: The flow is taken or not open, or all are.
        """
        if wanted.flow:
            refusal = self._unusable(wanted.flow)
            if refusal is not None:
                raise FailedPrecondition(f"flow: flow {wanted.flow}: {refusal.value}")
        candidates = [wanted.flow] if wanted.flow else self._free()
        if not candidates:
            raise FailedPrecondition("flow: the session has no flow that is free")
        answer: asyncio.Future[Definition] = asyncio.get_running_loop().create_future()
        until = now + max(ASK_PATIENCE, 4 * self.rtt)
        self._ask_next(_Ask(wanted, candidates, until, answer), now)
        return answer

    def release(self, flow: int, now: int) -> None:
        """This side is done with a flow. Idempotent.

        Raises:
            NotFound: It is not defined.
        """
        definition = self._notes.flows.get(flow)
        if definition is None:
            raise NotFound(f"flow: flow {flow} is not defined")
        if not definition.here_done:
            if flow not in self._spoilt and self._is_idle(flow):
                self._link.retire(flow)
            self._settle(flow, definition.last)
            self._set(replace(definition, here_done=True))
            self._claims.pop(flow, None)
            self._close(flow, now)

    # Tags

    def on_define(self, define: Define, ref: int, now: int) -> None:
        """The peer asks for a flow, or answers."""
        if define.accepted is not None:
            self._on_answer(define, ref, now)
            return
        heard = self._notes.heard.get(define.flow)
        if heard is not None and ref < heard.ref:
            return
        if heard is None or ref > heard.ref:
            heard = Heard(ref, self._consider(define, ref, now))
        body = replace(
            define, mtu=min(define.mtu, self._link.mtu), accepted=not heard.refusal,
            reason=heard.refusal,
        )  # fmt: skip
        self._link.send_tag(self._link.take_seq(), ControlTag(Tag.DEFINE, ref, body.to_body()))

    def on_close(self, flow: int, ref: int, close: Close) -> None:
        """The peer is done with a flow. Whoever calls this confirms it to the peer.

        Args:
            flow: Which.
            ref: Of its CLOSE.
            close: What it says.
        """
        last = None if close.seq is None or close.spent is None else (close.seq, close.spent)
        heard = self._notes.heard.get(flow)
        if heard is not None and ref <= heard.ref:
            return
        self._notes.heard[flow] = Heard(ref)
        self._settle(flow, last)
        definition = self._notes.flows.get(flow)
        if definition is None or definition.there_done:
            self._save()
            return
        self._set(replace(definition, there_done=True, last=last))
        if not definition.asked:
            self._office.on_closed(self._link.stored, flow, close)

    def on_receipt(self, ref: int) -> None:
        """The peer has confirmed something; perhaps a CLOSE."""
        for flow, closing in list(self._closings.items()):
            if closing.ref == ref:
                del self._closings[flow]
                self._set(replace(self._notes.flows[flow], told=True))

    # Time

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns; None where nothing is."""
        due = [closing.due for closing in self._closings.values()]
        for ask in self._asks.values():
            due += [ask.until, *([ask.question.due] if ask.question else [])]
        return min(due, default=None)

    def tick(self, now: int) -> None:
        """Repeats what has no answer, and gives up what is asked for in vain."""
        for ask in list(self._asks.values()):
            if now >= ask.until or ask.answer.done():
                self._give_up(ask, now)
            elif ask.question is not None:
                self._repeat(ask.question, now, ASK_REPEAT_MAX)
        for closing in self._closings.values():
            self._repeat(closing, now, CLOSE_REPEAT_MAX)

    def sweep(self, now: int) -> list[int]:
        """Releases flows whose application is gone, or has never come; returns which.

        A line that is open belongs to somebody who holds, or held, the lock; so locks are tried
        only where nobody can be about to take them.
        """
        gone = []
        for flow, definition in list(self._notes.flows.items()):
            if definition.asked or definition.here_done:
                continue
            if self._link.line(flow).rx_open:
                self._claims[flow] = None
            until = self._claims.setdefault(flow, now + CLAIM_PATIENCE)
            if until is not None and now < until:
                continue
            if not self._office.is_driven(self._link.stored.id, flow):
                gone.append(flow)
                self._link.shut(flow)
                self.release(flow, now)
        return gone

    def end(self, reason: str) -> None:
        """The session has ended, and with it all that was agreed."""
        for ask in self._asks.values():
            if not ask.answer.done():
                ask.answer.set_exception(Unavailable(f"the session has ended: {reason}"))
        self._asks.clear()
        self._closings.clear()
        self._office.board.forget(self._link.stored.id)
        self._office.on_ended(self._link.stored, reason)

    # Asking

    def _ask_next(self, ask: _Ask, now: int) -> None:
        """Asks for the next flow that may do.

        Raises:
            FailedPrecondition: None is left.
        """
        while ask.others:
            flow = ask.others.pop(0)
            if self._unusable(flow) is None:
                break
        else:
            raise FailedPrecondition("flow: the session has no flow that is free")
        wanted = ask.wanted
        definition = Definition(
            flow, wanted.delivery, wanted.flow_class, self._link.mtu, wanted.label,
            ours=True, asked=True,
        )  # fmt: skip
        self._set(definition)
        ask.flow = flow
        ask.question = self._question(Tag.DEFINE, definition.tag().to_body(), now)
        self._asks[flow] = ask

    def _on_answer(self, define: Define, ref: int, now: int) -> None:
        ask = self._asks.get(define.flow)
        if ask is None or ask.question is None or ask.question.ref != ref:
            return
        if define.accepted and ask.answer.done():
            self._give_up(ask, now)
            return
        del self._asks[define.flow]
        definition = self._notes.flows[define.flow]
        if not define.accepted:
            self._drop(define.flow)
            self._on_refusal(ask, define.reason, now)
            return
        definition = replace(definition, asked=False, mtu=min(definition.mtu, define.mtu))
        self._set(definition)
        if definition.there_done:
            self.release(define.flow, now)
            ask.answer.set_exception(Unavailable("the peer's application has ended at once"))
            return
        self._claims[define.flow] = now + CLAIM_PATIENCE
        ask.answer.set_result(definition)

    def _on_refusal(self, ask: _Ask, reason: str, now: int) -> None:
        """Asks for another flow, where that may help and the asker takes any."""
        if ask.answer.done():
            return
        if ask.wanted.flow == 0 and reason in _ABOUT_THE_NUMBER:
            try:
                self._ask_next(ask, now)
            except LocalError as error:
                ask.answer.set_exception(error)
            return
        ask.answer.set_exception(FlowRefused(ask.flow, reason))

    def _give_up(self, ask: _Ask, now: int) -> None:
        """Nobody waits for an answer any more; the peer may have accepted all the same."""
        del self._asks[ask.flow]
        definition = self._notes.flows[ask.flow]
        # No application has ever had it here, so none of the peer's is waited for.
        self._set(replace(definition, asked=False, here_done=True, there_done=True))
        self._close(ask.flow, now)
        if not ask.answer.done():
            ask.answer.set_exception(TimeoutError("the peer does not answer"))

    # Being asked

    def _consider(self, define: Define, ref: int, now: int) -> str:
        """Takes in a new question; returns why it is refused, "" where it is not."""
        refusal = self._refusal(define)
        if refusal is None:
            self._yield(define.flow, now)
            self._notes.flows[define.flow] = definition = Definition(
                define.flow, define.delivery, define.flow_class,
                min(define.mtu, self._link.mtu), define.label, ours=False,
            )  # fmt: skip
            self._notes.heard[define.flow] = Heard(ref)
            self._save()
            self._claims[define.flow] = now + CLAIM_PATIENCE
            if not self._office.board.post(self._offer(definition)):
                self._notes.flows.pop(define.flow)
                refusal = Refusal.UNHEARD
        if refusal is None:
            return ""
        if refusal is not Refusal.SHUT:
            self._notes.heard[define.flow] = Heard(ref, refusal.value)
            self._save()
        log.info(
            "flow refused",
            extra={
                "session": self._link.stored.id,
                "flow": define.flow,
                "label": define.label,
                "reason": refusal.value,
            },
        )
        return refusal.value

    def _refusal(self, define: Define) -> Refusal | None:
        stored = self._link.stored
        held = self._notes.flows.get(define.flow)
        if held is not None and not (held.asked and not stored.initiator):
            return Refusal.TAKEN
        unusable = None if held is not None else self._unusable(define.flow)
        if unusable is not None:
            return unusable
        refusal = self._office.policy.refusal(define)
        if refusal is not None:
            return refusal
        if not self._office.board.is_heard(stored.local, stored.remote, define.label):
            return Refusal.UNHEARD
        return None

    def _yield(self, flow: int, now: int) -> None:
        """Both sides ask for a flow, and the peer is to have it."""
        ask = self._asks.pop(flow, None)
        if ask is not None:
            self._on_refusal(ask, Refusal.TAKEN.value, now)

    def _offer(self, definition: Definition) -> Offer:
        stored = self._link.stored

        def decline() -> None:
            # Swept with the next ones whose application is gone: there is no clock here.
            if definition.flow in self._notes.flows:
                self._claims[definition.flow] = 0

        return Offer(stored.remote, stored.local, stored.id, definition, decline)

    # Within

    def _take_up(self, now: int) -> None:
        """Goes on where a daemon before this one was stopped."""
        for flow, definition in list(self._notes.flows.items()):
            if definition.asked:
                self._notes.flows[flow] = replace(
                    definition, asked=False, here_done=True, there_done=True
                )
            if self._notes.flows[flow].here_done and not definition.told:
                self._close(flow, now)
            else:
                self._claims[flow] = now + CLAIM_PATIENCE

    def _free(self) -> list[int]:
        """Flows that may be asked for; the two sides begin at either end, to be less in the way."""
        found = [flow for flow in self._link.open_flows() if self._unusable(flow) is None]
        return found if self._link.stored.initiator else found[::-1]

    def _unusable(self, flow: int) -> Refusal | None:
        """What speaks against a flow's number, as far as this side knows."""
        if flow in self._notes.flows:
            return Refusal.TAKEN
        if flow not in self._link.open_flows():
            return Refusal.SHUT
        if flow in self._spoilt:
            return Refusal.SPOILT
        line = self._link.line(flow)
        if self._office.is_driven(self._link.stored.id, flow):
            return Refusal.TAKEN
        if line.tx_pending or max(line.rx_next, 1) != line.rx_highest + 1:
            return Refusal.UNFINISHED
        return None

    def _set(self, definition: Definition) -> None:
        if definition.is_over:
            self._notes.flows.pop(definition.flow, None)
        else:
            self._notes.flows[definition.flow] = definition
        self._save()

    def _drop(self, flow: int) -> None:
        self._notes.flows.pop(flow, None)
        self._save()

    def _save(self) -> None:
        self._is_noted = True
        self._office.definitions.put(self._link.stored.id, self._notes)

    def _close(self, flow: int, now: int) -> None:
        """Says that this side is done, and, where that is known, how far it had come."""
        close = Close("", flow)
        if flow not in self._spoilt and self._is_idle(flow):
            line = self._link.line(flow)
            close = Close("", flow, line.tx_seq, line.tx_spent, line.rx_next)
        self._closings[flow] = self._question(Tag.CLOSE, close.to_body(), now, granted=flow)

    def _settle(self, flow: int, last: tuple[int, int] | None) -> None:
        """The next ones to drive a flow begin where the peer's application has ended."""
        if last is None or flow in self._spoilt or not self._is_idle(flow):
            return
        if not self._link.settle(flow, *last):
            log.warning(
                "flow not settled: the peer's books cannot be",
                extra={"session": self._link.stored.id, "flow": flow},
            )

    def _is_idle(self, flow: int) -> bool:
        """Whether nobody drives a flow, so that its line is the daemon's."""
        return not self._link.line(flow).rx_open and not self._office.is_driven(
            self._link.stored.id, flow
        )

    def _question(self, kind: Tag, body: object, now: int, granted: int = 0) -> _Repeated:
        """Asks, for the first time."""
        ref = self._link.take_seq()
        tag = ControlTag(kind, ref, body)
        interval = max(ASK_REPEAT, self.rtt + self.rtt // 2)
        self._link.send_tag(ref, tag, granted)
        return _Repeated(ref, tag, granted, now + interval, interval)

    def _repeat(self, question: _Repeated, now: int, most: int) -> None:
        if now >= question.due:
            question.interval = min(2 * question.interval, max(most, 2 * self.rtt))
            question.due = now + question.interval
            self._link.send_tag(self._link.take_seq(), question.tag, question.granted)


def _member(name: str) -> str:
    return name.upper().replace("-", "_")
