# SPDX-License-Identifier: Apache-2.0
"""Two or three TCP/UP agents joined in memory, with clocks that tests turn by hand.

    A --------- link --------- B        A offers; of three, B and C accept, and all frames
    |                                   between B and C pass through A.
    +---------- link --------- C

A link is the pair of its ends' names, in order: ("A", "B").
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from assent.covenant import payloads, snapshot
from assent.covenant.agreement import Covenant
from assent.covenant.desk import Happened
from assent.covenant.engine import Engine, Invited
from assent.covenant.machine import State
from assent.covenant.payloads import (
    Clause,
    Defer,
    Duration,
    ExitProtocol,
    Justification,
    Payload,
    Question,
    Reason,
)
from assent.covenant.terms import (
    Constraint,
    Limit,
    Permission,
    TermSet,
    TermTimer,
)
from assent.covenant.values import Proposal
from assent.identity.agent import agent_id_of
from assent.identity.keys import Identity
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

SECOND = 1_000_000
"""µs"""
NS = 1_000
"""ns in a µs"""
EPOCH = 1_780_000_000 * SECOND
NOTICE = 30 * SECOND
TEXT = "text/plain"
NO_FLAGS = FrameFlag(0)
JUSTIFICATION = Justification(
    "you want to send text", (Reason("push", "not today", "incompatible"),), ()
)
QUESTIONS = Defer((Question("push", "how much"),), "it is about text", ("a log",))
OTHER_QUESTIONS = Defer((Question("push", "how often"),), "it is about text", ())
_IDENTITIES: dict[str, Identity] = {}

Link = tuple[str, str]


def identity_of(name: str) -> Identity:
    """The same key for the same name, always."""
    if name not in _IDENTITIES:
        _IDENTITIES[name] = Identity.from_seed(hashlib.sha256(name.encode()).digest())
    return _IDENTITIES[name]


def agent(name: str) -> UUID:
    """A name's UUID."""
    return agent_id_of(identity_of(name).public_key)


def terms(*limits: Limit, types: tuple[str, ...] = (), party: str = "*") -> TermSet:
    """Everybody may send; `limits` bound that."""
    return TermSet(
        (),
        (Permission("push", "*", "send", (1,), types),),
        tuple(Constraint(f"limit{at}", party, each) for at, each in enumerate(limits)),
    )


def timer(name: str, seconds: float) -> TermTimer:
    """A timer that the terms set."""
    return TermTimer(name, round(seconds * SECOND))


def proposal(
    *limits: Limit,
    durable: bool = False,
    notice: int = NOTICE,
    review: int = 0,
    end: int = 0,
    start: int = 0,
    most: int = 0,
    types: tuple[str, ...] = (),
) -> Proposal:
    """Something to agree on."""
    return Proposal(
        terms(*limits, types=types),
        Duration(start, review, end, most),
        (Clause("protection", "whoever is in distress may say so", "distress", "rest"),),
        ExitProtocol(notice, False, "isolated"),
        durable,
    )


class KnownAgents:
    """A directory: everybody is known, unless a test says otherwise."""

    def __init__(self) -> None:
        self.keys: dict[UUID, bytes] = {}
        self.strangers: set[bytes] = set()

    def key_of(self, agent_id: UUID) -> bytes | None:
        """The key that a UUID is bound to."""
        return self.keys.get(agent_id)

    def agent_of(self, public_key: bytes) -> UUID | None:
        """The UUID that a key is bound to."""
        return next((one for one, key in self.keys.items() if key == public_key), None)

    def is_known(self, public_key: bytes) -> bool:
        """Whether its owner has been introduced."""
        return public_key not in self.strangers


@dataclass(eq=False)
class Agent:
    """One agent of a world.

    Attributes:
        name: "A", "B", ...
        engine: What is tested.
        directory: What it knows of others.
        events: All that it has told of.
        wall_off: How far its wall clock is off, µs.
    """

    name: str
    engine: Engine
    directory: KnownAgents
    events: list[Happened] = field(default_factory=list)
    wall_off: int = 0

    @property
    def id(self) -> UUID:
        """Its UUID."""
        return self.engine.agent_id

    @property
    def identity(self) -> Identity:
        """Its key."""
        return identity_of(self.name)

    @property
    def covenant(self) -> Covenant:
        """Its newest covenant."""
        return list(self.engine.covenants())[-1]

    @property
    def handle(self) -> int:
        """Of its newest covenant."""
        return self.covenant.handle

    @property
    def state(self) -> State:
        """Of its newest covenant."""
        return self.covenant.state

    def kinds(self) -> list[str]:
        """What it has told of, by kind."""
        return [one.kind for one in self.events]

    def told(self, kind: str) -> list[Happened]:
        """What it has told of a kind."""
        return [one for one in self.events if one.kind == kind]

    def everything(self) -> tuple[object, ...]:
        """All that a dropped frame must not change, as values."""
        return (
            [(snapshot.dump(one), dict(one.deadlines)) for one in self.engine.covenants()],
            self.engine.next_deadline(),
            dict(self.engine.quarantined),
            len(self.events),
        )


@dataclass(eq=False)
class Sent:
    """A frame under way."""

    sender: str
    receiver: str
    link: Link
    raw: bytes

    @property
    def frame(self) -> CovenantFrame:
        """As the receiver reads it."""
        return CovenantFrame.decode(self.raw)

    @property
    def kind(self) -> FrameType:
        """What it is."""
        return self.frame.kind


class World:
    """Agents, links between the first and each other one, and time.

    Args:
        names: The agents.
        proved: Links know who is at their other end from the transport.
    """

    def __init__(self, names: str = "AB", *, proved: bool = True) -> None:
        self.now = 5_000 * SECOND * NS
        self.proved = proved
        self.under_way: list[Sent] = []
        self.log: list[Sent] = []
        self.agents: dict[str, Agent] = {}
        for name in names:
            self.agents[name] = self.make_agent(name)
        for name in names[1:]:
            self.connect(names[0], name)

    def __getitem__(self, name: str) -> Agent:
        return self.agents[name]

    def make_agent(self, name: str) -> Agent:
        """A new agent, which has forgotten everything if there was one of the name."""
        directory, handles = KnownAgents(), itertools.count(1)
        random = itertools.count(int.from_bytes(name[:1].encode()) << 24 | 1)
        holder: list[Agent] = []
        engine = Engine(
            agent(name),
            identity_of(name),
            directory,
            lambda: self.wall + holder[0].wall_off,
            lambda size: next(random).to_bytes(size, "big"),
            lambda: next(handles),
            monotonic=lambda: self.now,
        )
        holder.append(Agent(name, engine, directory))
        return holder[0]

    @property
    def wall(self) -> int:
        """The right time, Unix µs."""
        return EPOCH + self.now // NS

    # Links

    def connect(self, left: str, right: str, *, single: bool = False, label: str = "") -> Link:
        """Opens a link between two agents; a label makes it another one than before."""
        link = (left + label, right)
        for here, there in ((left, right), (right, left)):
            self[here].engine.link_opened(
                link, agent_id=agent(there) if self.proved else None, single=single
            )
        return link

    def disconnect(self, link: Link) -> None:
        """Closes a link at both ends; what was under way on it is lost."""
        self.under_way = [one for one in self.under_way if one.link != link]
        for name in self.ends(link):
            self[name].engine.link_closed(link, self.now)
        self.collect()

    def ends(self, link: Link) -> tuple[str, str]:
        """The agents that a link joins."""
        return link[0][0], link[1]

    def link(self, other: str = "B") -> Link:
        """The link between A and another."""
        return "A", other

    # Frames

    def collect(self) -> None:
        """Takes events and frames from all agents; the frames are under way then."""
        for one in self.agents.values():
            one.events += one.engine.take_events()
            for outgoing in one.engine.take_frames():
                left, right = self.ends(outgoing.link)  # type: ignore[arg-type]
                receiver = right if one.name == left else left
                sent = Sent(one.name, receiver, outgoing.link, outgoing.frame)  # type: ignore[arg-type]
                self.under_way.append(sent)
                self.log.append(sent)

    def deliver(self, sent: Sent) -> None:
        """Has a frame arrive."""
        self[sent.receiver].engine.receive(sent.link, sent.raw, self.now)
        self.collect()

    def inject(self, receiver: str, raw: bytes, link: Link | None = None) -> None:
        """Has any bytes arrive at an agent."""
        other = receiver if receiver != "A" else "B"
        self.deliver(Sent("?", receiver, link or self.link(other), raw))

    def settle(self) -> None:
        """Delivers everything in order until nothing is under way."""
        self.collect()
        while self.under_way:
            self.deliver(self.under_way.pop(0))

    def lose(self) -> list[Sent]:
        """Loses what is under way."""
        self.collect()
        lost, self.under_way = self.under_way, []
        return lost

    def sent(self, kind: FrameType, sender: str | None = None) -> list[Sent]:
        """All frames of a kind that were ever sent."""
        return [
            one for one in self.log if one.kind is kind and (sender is None or one.sender == sender)
        ]

    # Time

    def jump(self, seconds: float) -> None:
        """Time goes on, and nobody looks at the clock."""
        self.now += round(seconds * SECOND) * NS

    def wait(self, seconds: float) -> None:
        """Time goes on; everybody's timers run out when they are due, and frames arrive."""
        until = self.now + round(seconds * SECOND) * NS
        while True:
            due = [one.engine.next_deadline() for one in self.agents.values()]
            at = min((each for each in due if each is not None), default=until + 1)
            if at > until:
                break
            self.now = max(self.now, at)
            self.tick()
            self.settle()
        self.now = until

    def tick(self) -> None:
        """Everybody's timers that have run out."""
        for one in self.agents.values():
            one.engine.tick(self.now)
        self.collect()

    # Steps that tests take again and again

    def invited(self, *names: str, link: Link | None = None) -> Sequence[Invited]:
        """Agents to whom A offers."""
        roles = ("responder", "third", "fourth")
        return [
            Invited(agent(name), identity_of(name).public_key, link or self.link(name), role)
            for name, role in zip(names, roles, strict=False)
        ]

    def offer(self, wanted: Proposal | None = None, **options: object) -> None:
        """A offers to all others; the OFFER is under way then."""
        self.jump(0.001)
        names = [name for name in self.agents if name != "A"]
        self["A"].engine.offer(
            wanted or proposal(),
            self.invited(*names),
            self.now,
            **options,  # type: ignore[arg-type]
        )
        self.collect()

    def covenanted(self, wanted: Proposal | None = None) -> World:
        """All agree."""
        self.offer(wanted)
        self.settle()
        for name in self.agents:
            if name != "A":
                self[name].engine.accept(self[name].handle, self.now)
                self.settle()
        assert {one.state for one in self.agents.values()} == {State.COVENANTED}
        return self

    def states(self) -> tuple[State, ...]:
        """Everybody's, by name."""
        return tuple(one.state for one in self.agents.values())

    def restart(self, name: str) -> None:
        """An agent goes on from what it has stored, without any link."""
        before = self[name]
        stored = [snapshot.dump(one) for one in before.engine.covenants() if one.in_force]
        for state_link in [one for one in self._links() if name in self.ends(one)]:
            self.disconnect(state_link)
        after = self.make_agent(name)
        after.directory, after.events = before.directory, before.events
        self.agents[name] = after
        for raw in stored:
            after.engine.restore(snapshot.load(raw), self.now)
        self.collect()

    def _links(self) -> list[Link]:
        return list(
            dict.fromkeys(
                link
                for one in self.agents.values()
                for link in list(one.engine._links)  # type: ignore[misc]
            )
        )

    # Frames that no engine of ours would send

    def forge(
        self,
        sender: str,
        kind: FrameType,
        payload: Payload | bytes | None = None,
        flags: FrameFlag = NO_FLAGS,
        *,
        signer: str | None = None,
        **changes: object,
    ) -> bytes:
        """A frame that a sender signs, next in its sequence, with fields changed at will."""
        covenant = self[sender].covenant if list(self[sender].engine.covenants()) else None
        sequence = covenant.tx_sequence + 1 if covenant else 0
        body = (
            payload if isinstance(payload, bytes) else payloads.encode(payload) if payload else b""
        )
        frame = CovenantFrame(
            kind,
            flags,
            covenant.covenant_id if covenant else 0,
            sequence,
            agent(sender),
            self.wall + self[sender].wall_off,
            body or b"",
        )
        frame = replace(frame, **changes)  # type: ignore[arg-type]
        return frame.signed(identity_of(signer or sender).sign).encode()
