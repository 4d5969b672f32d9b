# SPDX-License-Identifier: Apache-2.0
"""Agents for measurements: engines of the project's own, and what they propose to each other."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from uuid import UUID

from assent.client import Client
from assent.covenant.desk import Happened, Signer
from assent.covenant.engine import Engine, Invited
from assent.covenant.payloads import Clause, Duration, ExitProtocol
from assent.covenant.terms import (
    Burst,
    Constraint,
    Obligation,
    PayloadSize,
    Permission,
    Rate,
    TermSet,
    TermTimer,
)
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition
from assent.identity.agent import agent_id_of
from assent.identity.keys import Identity
from assent.service.bindings import http2
from assent.service.bindings.links import Link
from assent.v1 import covenants_pb2

FLOW: Final = 1
BLOCKS: Final = 64
"""The window that is agreed on."""
HEARTBEAT_US: Final = 3_600_000_000
"""Longer than a measurement: heartbeats would be measured with it."""
RATE: Final = 1_000_000
PATIENCE_S: Final = 30.0


class Trusting:
    """A directory in which every agent is known, and goes by the UUID of its key."""

    def key_of(self, agent_id: UUID) -> bytes | None:
        """See Directory."""
        return None

    def agent_of(self, public_key: bytes) -> UUID | None:
        """See Directory."""
        return None

    def is_known(self, public_key: bytes) -> bool:
        """See Directory."""
        return True


def engine(identity: Signer) -> Engine:
    """An engine of an agent, with clocks and random numbers of this host."""
    handles = itertools.count(1)
    return Engine(
        agent_id_of(identity.public_key),
        identity,
        Trusting(),
        lambda: time.time_ns() // 1_000,
        os.urandom,
        lambda: next(handles),
        monotonic=time.monotonic_ns,
    )


def proposal() -> Proposal:
    """Terms of each kind that the gate enforces, for both roles; no longer than terms are."""
    send = (Permission("send", "*", "send", (FLOW,), ("application/octet-stream",)),)
    constraints = (
        Constraint("rate", "*", Rate(RATE)),
        Constraint("burst", "*", Burst(BLOCKS)),
        Constraint("payload", "*", PayloadSize(4096)),
        Constraint("heartbeat", "*", TermTimer("T_heartbeat", HEARTBEAT_US)),
        Constraint("silence", "*", TermTimer("T_heartbeat_timeout", 2 * HEARTBEAT_US)),
    )
    report = Obligation("report", "responder", "report", "what came of it, once a day")
    clause = Clause("protection", "a silent party is asked first", "silence", "a review")
    return Proposal(
        TermSet((report,), send, constraints),
        Duration(0, 0),
        (clause,),
        ExitProtocol(1_000_000, False, "isolated"),
    )


def accept_all(client: Client) -> None:
    """Sets a policy that accepts what the agents of measurements offer."""
    client.covenants.SetPolicy(
        covenants_pb2.SetCovenantPolicyRequest(
            policy=covenants_pb2.CovenantPolicy(flows=[FLOW], amendments=True)
        )
    )


@dataclass(slots=True)
class _Agent:
    """An agent on a link of its own."""

    engine: Engine
    handle: int = 0
    news: asyncio.Queue[Happened] = field(default_factory=asyncio.Queue)


class Agents:
    """Agents that make covenants with a daemon over HTTP/2, one a link. The owner of their links.

    Args:
        public_key: Of the daemon's agent.
    """

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key
        self._agents: dict[Link, _Agent] = {}

    async def join(self, identity: Identity, connector: http2.Connector) -> Link:
        """Makes a covenant; returns when it is in force.

        Raises:
            FailedPrecondition: It came to nothing.
            TimeoutError: The daemon does not answer.
        """
        agent = _Agent(engine(identity))
        link = await connector.open_stream(agent.engine.agent_id)
        self._agents[link] = agent
        agent.engine.link_opened(link, single=True)
        invited = Invited(agent_id_of(self._public_key), self._public_key, link)
        covenant = agent.engine.offer(proposal(), [invited], time.monotonic_ns())
        agent.handle = covenant.handle
        self._carry_out(agent)
        await self.expect(link, "covenanted")
        return link

    async def expect(self, link: Link, kind: str) -> Happened:
        """Waits for news of a kind.

        Raises:
            FailedPrecondition: The covenant ends instead.
            TimeoutError: There is no such news.
        """
        agent = self._agents[link]
        async with asyncio.timeout(PATIENCE_S):
            while True:
                news = await agent.news.get()
                if news.kind == kind:
                    return news
                if news.kind in {"rejected", "deferred", "timeout", "terminated", "failed"}:
                    raise FailedPrecondition(f"the covenant came to nothing: {news.text}")

    def send(self, link: Link, data: bytes) -> bytes:
        """Sends application data; returns the frame that carried it."""
        agent = self._agents[link]
        agent.engine.send(agent.handle, "application/octet-stream", data, time.monotonic_ns())
        return self._carry_out(agent)[-1]

    def refused(self) -> Mapping[str, int]:
        """Frames of the daemon's that an agent refused, by why."""
        found: dict[str, int] = {}
        for agent in self._agents.values():
            for why, count in agent.engine.refused.items():
                found[why] = found.get(why, 0) + count
        return found

    # As the owner of links

    def opened(self, link: Link) -> None:
        """See LinkOwner."""

    def received(self, link: Link, frame: bytes) -> None:
        """See LinkOwner."""
        agent = self._agents[link]
        agent.engine.receive(link, frame, time.monotonic_ns())
        self._carry_out(agent)

    def closed(self, link: Link, reason: str) -> None:
        """See LinkOwner."""
        agent = self._agents.get(link)
        if agent is not None:
            agent.engine.link_closed(link, time.monotonic_ns())
            self._carry_out(agent)

    def _carry_out(self, agent: _Agent) -> list[bytes]:
        for event in agent.engine.take_events():
            agent.news.put_nowait(event)
        frames = agent.engine.take_frames()
        for one in frames:
            cast("Link", one.link).send(one.frame)
        return [one.frame for one in frames]
