# SPDX-License-Identifier: Apache-2.0
"""Two and three agents that do what they like, over links that lose, double and overtake.

Safety: no DATA is delivered that was not sent in a covenant in force, to a covenant in force, of
the same id, and none twice; and what is in force anywhere is signed by all, and the same for all.

Liveness: once nobody acts any more, timers lead out of everything that is under way; and where
frames then arrive as links deliver them, an offer leads to a covenant.

ASSENT_COVENANT_EXAMPLES sets how many worlds are tried.
"""

from __future__ import annotations

import os
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from assent.covenant.document import bind_bytes, object_hash, verify_bind
from assent.covenant.machine import IN_FORCE, State
from assent.covenant.payloads import Data
from assent.covenant.terms import Deferrals
from assent.errors import LocalError
from assent.identity.keys import Identity

from .covenant_world import (
    JUSTIFICATION,
    NS,
    OTHER_QUESTIONS,
    QUESTIONS,
    SECOND,
    TEXT,
    Agent,
    World,
    proposal,
    timer,
)

EXAMPLES = int(os.environ.get("ASSENT_COVENANT_EXAMPLES", "120"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
NEGOTIATING = set(State) - IN_FORCE - {State.IDLE, State.TERMINATED}
PAUSES = st.sampled_from([0.001, 0.5, 2.0, 6.0, 31.0, 61.0, 130.0])
PLACES = st.integers(0, 1_000)


def _binds(who: Agent) -> bool:
    """Whether anything is in force for an agent."""
    return any(one.in_force for one in who.engine.covenants())


class Agents(RuleBasedStateMachine):
    """Two agents; `Three` has one more."""

    names = "AB"

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.names)
        self.tokens: dict[bytes, tuple[int, UUID]] = {}
        self.delivered: set[tuple[str, bytes]] = set()
        self.seen = dict.fromkeys(self.names, 0)
        self.objects: dict[tuple[int, int], bytes] = {}
        self.checked: set[bytes] = set()
        self.counter = 0

    @initialize(proved=st.booleans())
    def begin(self, proved: bool) -> None:
        """Links may or may not know who is at their other end."""
        if not proved:
            self.world = World(self.names, proved=False)

    # What agents do

    @rule(durable=st.booleans(), notice=st.sampled_from([0, 3, 40]), fast=st.booleans())
    def offer(self, durable: bool, notice: int, fast: bool) -> None:
        """A offers to all."""
        limits = [timer("T_bind", 1), timer("T_heartbeat", 2), timer("T_heartbeat_timeout", 9)]
        wanted = proposal(
            *(limits if fast else []), Deferrals(2), durable=durable, notice=notice * SECOND
        )
        self.world.jump(0.001)
        invited = self.world.invited(*self.names[1:])
        self.attempt(lambda: self.world["A"].engine.offer(wanted, invited, self.world.now))

    @precondition(lambda self: not any(map(_binds, self.world.agents.values())))
    @rule(durable=st.booleans())
    def agree_on_one(self, durable: bool) -> None:
        """For once all goes well; without that, most worlds never see a covenant."""
        world = self.world
        self.forgive()
        world.jump(0.001)
        wanted = proposal(timer("T_amend", 5), durable=durable)
        invited = world.invited(*self.names[1:])
        if not self.attempt(lambda: world["A"].engine.offer(wanted, invited, world.now)):
            return
        world.settle()
        for name in self.names[1:]:
            if world[name].state is State.OFFER_RECEIVED:
                world[name].engine.accept(world[name].handle, world.now)
        world.settle()

    @rule(data=st.data(), what=st.sampled_from(["accept", "accept", "reject", "defer", "defer2"]))
    def decide(self, data: st.DataObject, what: str) -> None:
        """An agent decides on an offer or an amendment."""
        who = self.someone(data)
        handle, engine, now = self.something(data, who), who.engine, self.world.now
        if what == "accept":
            self.attempt(lambda: engine.accept(handle, now))
        elif what == "reject":
            self.attempt(lambda: engine.reject(handle, JUSTIFICATION))
        else:
            asked = QUESTIONS if what == "defer" else OTHER_QUESTIONS
            self.attempt(lambda: engine.defer(handle, asked, now))

    @rule()
    def all_accept(self) -> None:
        """Everybody accepts whatever is on the table, and hears of it later."""
        for who in self.world.agents.values():
            for covenant in list(who.engine.covenants()):
                handle, engine = covenant.handle, who.engine
                self.attempt(lambda: engine.accept(handle, self.world.now))  # noqa: B023

    @rule(data=st.data())
    def inform(self, data: st.DataObject) -> None:
        """An agent answers questions."""
        who = self.someone(data)
        handle = self.something(data, who)
        self.attempt(lambda: who.engine.inform(handle, TEXT, b"more", self.world.now))

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """An agent sends what nobody else sends."""
        who = self.someone(data)
        handle = self.something(data, who)
        self.counter += 1
        token = self.counter.to_bytes(4, "big")
        if self.attempt(lambda: who.engine.send(handle, TEXT, token, self.world.now)):
            covenant = who.engine.covenant(handle)
            assert covenant.state in IN_FORCE
            self.tokens[token] = covenant.covenant_id, who.id

    @rule(data=st.data(), notice=st.sampled_from([1, 20]), rotates=st.booleans())
    def amend(self, data: st.DataObject, notice: int, rotates: bool) -> None:
        """An agent proposes a version, or another key."""
        who = self.someone(data)
        handle = self.something(data, who)
        self.counter += 1
        if rotates:
            key = Identity.from_seed(self.counter.to_bytes(32, "big"))
            self.attempt(lambda: who.engine.rotate(handle, key, self.world.now))
            return
        covenants = [one for one in who.engine.covenants() if one.handle == handle]
        durable = bool(covenants) and covenants[0].durable
        wanted = proposal(timer("T_amend", 5), durable=durable, notice=notice * SECOND)
        self.attempt(lambda: who.engine.amend(handle, wanted, self.world.now))

    @rule(data=st.data(), kind=st.sampled_from(["check", "report", "request", "clear"]))
    def review(self, data: st.DataObject, kind: str) -> None:
        """An agent asks, or says, how it stands."""
        who = self.someone(data)
        handle = self.something(data, who)
        self.attempt(lambda: who.engine.review(handle, kind, ""))

    @rule(data=st.data(), graceful=st.booleans())
    def revoke(self, data: st.DataObject, graceful: bool) -> None:
        """An agent has had enough."""
        who = self.someone(data)
        handle = self.something(data, who)
        self.attempt(lambda: who.engine.revoke(handle, "enough", self.world.now, graceful=graceful))

    @rule()
    def forgive(self) -> None:
        """Operators look into it: links of this world make the innocent look guilty."""
        for who in self.world.agents.values():
            for other in self.world.agents.values():
                who.engine.clear(other.id)
            for covenant in who.engine.covenants():
                covenant.suspended_by.clear()
        self.world.collect()

    # What links do

    @precondition(lambda self: self.world.under_way)
    @rule()
    def deliver(self) -> None:
        """The oldest frame arrives."""
        self.world.deliver(self.world.under_way.pop(0))

    @precondition(lambda self: self.world.under_way)
    @rule()
    def deliver_all(self) -> None:
        """All arrive, in order."""
        self.world.settle()

    @precondition(lambda self: self.world.under_way)
    @rule(place=PLACES)
    def overtake(self, place: int) -> None:
        """Any frame arrives."""
        self.world.deliver(self.world.under_way.pop(place % len(self.world.under_way)))

    @precondition(lambda self: self.world.log)
    @rule(place=PLACES)
    def double(self, place: int) -> None:
        """A frame arrives that was sent before, and perhaps has arrived."""
        self.world.deliver(self.world.log[-1 - place % min(len(self.world.log), 20)])

    @precondition(lambda self: self.world.under_way)
    @rule(place=PLACES)
    def lose(self, place: int) -> None:
        """A frame is lost."""
        del self.world.under_way[place % len(self.world.under_way)]

    @rule(name=st.sampled_from("BC"))
    def break_link(self, name: str) -> None:
        """A link breaks and is there again; durable covenants are attached to it."""
        if name not in self.names:
            return
        world = self.world
        world.disconnect(world.link(name))
        world.connect("A", name)
        for covenant in world["A"].engine.covenants():
            if covenant.in_force and covenant.durable:
                self.attempt(
                    lambda handle=covenant.handle: world["A"].engine.attach(  # type: ignore[misc]
                        handle, world[name].id, world.link(name)
                    )
                )

    @rule(pause=PAUSES)
    def wait(self, pause: float) -> None:
        """Time goes on, and nothing arrives meanwhile."""
        self.world.jump(pause)
        self.world.tick()

    # What must hold

    @invariant()
    def data_is_of_a_covenant_in_force(self) -> None:
        """No DATA outside of a covenant, on either side, and none twice."""
        for name, who in self.world.agents.items():
            fresh, self.seen[name] = who.events[self.seen[name] :], len(who.events)
            for event in fresh:
                if event.kind != "data":
                    continue
                assert isinstance(event.data, Data)
                covenant_id, sender = self.tokens[event.data.data]
                covenant = who.engine.covenant(event.handle)
                assert covenant.history
                assert event.data.covenant_id == covenant_id == covenant.covenant_id
                assert event.agent_id == sender
                assert (name, event.data.data) not in self.delivered
                self.delivered.add((name, event.data.data))

    @invariant()
    def what_is_in_force_is_signed_by_all_and_one(self) -> None:
        """Every version that anybody holds has all signatures, and is the same for all."""
        for who in self.world.agents.values():
            for covenant in who.engine.covenants():
                for version in covenant.history:
                    document = version.document
                    digest = object_hash(document)
                    self.agree(document.id, document.version, digest)
                    if digest not in self.checked:
                        for one in document.agents:
                            verify_bind(document, one.agent_id, one.bind_signature)
                        assert bind_bytes(document).endswith(digest)
                        self.checked.add(digest)

    def agree(self, covenant_id: int, version: int, digest: bytes) -> None:
        """Everybody means the same by a version of a covenant."""
        assert self.objects.setdefault((covenant_id, version), digest) == digest

    @invariant()
    def timers_are_set_for_whatever_waits(self) -> None:
        """Nothing waits without a timer that leads out of it."""
        for who in self.world.agents.values():
            for covenant in who.engine.covenants():
                assert bool(covenant.deadlines) is not covenant.ended

    def teardown(self) -> None:
        """Nobody acts any more: everything comes to rest; and then an offer leads to a covenant."""
        world = self.world
        world.under_way.clear()
        quiet = world.now + 2_000 * SECOND * NS
        while world.now < quiet:
            due = [one.engine.next_deadline() for one in world.agents.values()]
            world.now = min([at for at in due if at is not None] + [quiet])
            world.tick()
            world.under_way.clear()
        for who in world.agents.values():
            for covenant in who.engine.covenants():
                assert covenant.ended, covenant.state
        self.forgive()
        for name in self.names[1:]:
            world.disconnect(world.link(name))
            world.connect("A", name)
        for who in world.agents.values():
            # Keys may have been rotated: those who are left go on with their first one.
            who.engine.use_key(who.identity)
        world.covenanted()

    # Helpers

    def attempt(self, call: object) -> bool:
        """Does what may be refused, which then has changed nothing."""
        try:
            call()  # type: ignore[operator]
        except LocalError:
            done = False
        else:
            done = True
        self.world.collect()
        return done

    def someone(self, data: st.DataObject) -> Agent:
        """Any agent."""
        return self.world[data.draw(st.sampled_from(self.names))]

    def something(self, data: st.DataObject, who: Agent) -> int:
        """Any covenant of an agent, the newest more often; 1 where there is none."""
        handles = [one.handle for one in who.engine.covenants()] or [1]
        return data.draw(st.sampled_from([*handles[-3:], handles[-1], handles[-1]]))


class Three(Agents):
    """Three agents."""

    names = "ABC"


TestTwoAgents = Agents.TestCase
TestTwoAgents.settings = SETTINGS
TestThreeAgents = Three.TestCase
TestThreeAgents.settings = SETTINGS
