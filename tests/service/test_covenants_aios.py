# SPDX-License-Identifier: Apache-2.0
"""The immune layer of a whole daemon, against an agent that speaks to it over WebSocket.

test: a cell's key, an engine of its own, forged frames  --- wss, loopback --->  daemon "right"
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.covenant_world import KnownAgents, proposal

from assent.covenant import payloads
from assent.covenant.agreement import Covenant
from assent.covenant.engine import Engine, Invited
from assent.covenant.machine import State
from assent.covenant.payloads import (
    Data,
    Payload,
    Reject,
    Violation,
)
from assent.identity.agent import agent_id_of
from assent.identity.keys import Identity
from assent.service.bindings import tls, websocket
from assent.service.bindings.links import Link
from assent.v1 import common_pb2
from assent.v1 import covenants_pb2 as pb
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

from .binding_rig import HOST, Authority
from .conftest import Place, daemon_in, eventually
from .covenant_hosts import COVENANTED, IDLE, RECEIVED, TERMINATED, Side

ROGUE = Identity.from_seed(b"\x09" * 32)
NO_FLAGS = FrameFlag(0)


@dataclass
class Agent:
    """A peer that keeps to the protocol as long as it is asked to."""

    engine: Engine
    peer_key: bytes
    link: Any = None
    frames: list[CovenantFrame] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def opened(self, link: Link) -> None:
        self.link = link
        self.engine.link_opened(link)

    def received(self, link: Link, frame: bytes) -> None:
        self.frames.append(CovenantFrame.decode(frame))
        self.engine.receive(link, frame, time.monotonic_ns())
        self.flush()

    def closed(self, link: Link, reason: str) -> None:
        self.ends.append(reason)
        self.engine.link_closed(link, time.monotonic_ns())

    def flush(self) -> None:
        self.engine.take_events()
        for outgoing in self.engine.take_frames():
            self.link.send(outgoing.frame)

    @property
    def covenant(self) -> Covenant:
        return list(self.engine.covenants())[-1]

    def offer(self, **limits: Any) -> None:
        invited = Invited(agent_id_of(self.peer_key), self.peer_key, self.link)
        self.engine.offer(proposal(**limits), [invited], time.monotonic_ns())
        self.flush()

    def speak(
        self,
        kind: FrameType,
        payload: Payload | None = None,
        flags: FrameFlag = NO_FLAGS,
        *,
        signer: Identity = ROGUE,
        **changes: Any,
    ) -> bytes:
        """Sends a frame that no engine of ours would; what it sent."""
        covenant = self.covenant
        frame = CovenantFrame(
            kind,
            flags,
            covenant.covenant_id,
            covenant.tx_sequence + 1,
            self.engine.agent_id,
            time.time_ns() // 1000,
            payloads.encode(payload) if payload is not None else b"",
        )
        frame = replace(frame, **changes)
        covenant.tx_sequence = max(covenant.tx_sequence, frame.sequence)
        raw = frame.signed(signer.sign).encode()
        self.link.send(raw)
        return raw

    def data(self, kind: str = "text/plain", **changes: Any) -> bytes:
        return self.speak(FrameType.DATA, Data(self.covenant.covenant_id, kind, b"x"), **changes)

    async def told(self, kind: FrameType) -> Any:
        """The first frame of a kind that comes."""
        frame = await eventually(
            lambda: next((one for one in self.frames if one.kind is kind), None), f"a {kind.name}"
        )
        return payloads.decode(kind, frame.payload)


@dataclass
class Rig:
    """A daemon, and the agent that is connected to it."""

    right: Side
    agent: Agent

    async def agree(self, **limits: Any) -> int:
        self.agent.offer(**limits)
        handle = (await self.right.newest(RECEIVED)).handle
        await self.right.accept(handle)
        await self.right.until(handle, COVENANTED)
        await eventually(lambda: self.agent.covenant.state is State.COVENANTED, "both agree")
        return handle

    async def condemned(self, condition: str) -> None:
        """The agent is held apart, in the gate too, and the log has the frame."""

        async def there() -> bool:
            return condition in await self.right.quarantined("rogue")

        await eventually(there, f"quarantine for {condition}")
        assert "quarantined" in await self.right.says("rogue")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("aios"))


@pytest.fixture
def place(authority: Authority, tmp_path: Path) -> Any:
    party = authority.party("localhost")
    import socket

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    made = Place(
        covenant_wss=f"{HOST}:{port}",
        covenant_certificate=str(party.certificate),
        covenant_key=str(party.key),
    )
    yield made
    made.remove()


@pytest.fixture
async def rig(place: Place, authority: Authority) -> AsyncIterator[Rig]:
    async with daemon_in(place) as api:
        right = Side("right", place, api)
        key = (await api.local("right", "lo")).public_key
        await api.remote("rogue", ROGUE.public_key, common_pb2.CONSENT_COVENANT)
        await api.psk("rogue")
        agent = await connected(place, authority, key)
        yield Rig(right, agent)
        agent.link.close("done")


async def connected(place: Place, authority: Authority, key: bytes) -> Agent:
    handles = itertools.count(1)
    engine = Engine(
        agent_id_of(ROGUE.public_key),
        ROGUE,
        KnownAgents(),
        lambda: time.time_ns() // 1000,
        os.urandom,
        lambda: next(handles),
    )
    agent = Agent(engine, key)
    context = tls.client_context(alpn=tls.ALPN_WEBSOCKET, ca=authority.path)
    listener = place.config.covenant_wss
    assert listener is not None
    await websocket.connect(f"wss://{HOST}:{listener[1]}/covenant", context, agent)
    return agent


# What leads to quarantine


async def test_a_forged_signature(rig: Rig):
    handle = await rig.agree()
    raw = rig.agent.data(signer=Identity.from_seed(b"\x0a" * 32))
    await rig.condemned("frame signature invalid")
    said = await rig.agent.told(FrameType.VIOLATION)
    assert (said.violation_class, said.response_level) == ("malice", "quarantine")
    (dropped,) = [one for one in await rig.right.evidence(handle=handle) if "refused" in one]
    assert (dropped["refused"], dropped["bytes"]) == ("bad_signature", raw.hex())
    assert (await rig.right.get(handle)).state == COVENANTED


async def test_a_sequence_that_goes_back(rig: Rig):
    await rig.agree()
    rig.agent.data(sequence=1)
    await rig.condemned("sequence number regression")


async def test_a_clock_that_goes_back_calls_a_human(rig: Rig):
    await rig.agree()
    rig.agent.data()
    rig.agent.data(timestamp=time.time_ns() // 1000 - 5_000_000)
    await rig.condemned("timestamp anomaly")
    said = await rig.agent.told(FrameType.ESCALATE)
    assert said.threat_class == "malice"


async def test_data_before_the_covenant(rig: Rig):
    rig.agent.offer()
    await rig.right.newest(RECEIVED)
    rig.agent.data()
    await rig.condemned("DATA sent before BIND")
    # Nothing was agreed to, and a REVIEW can end it all the same.
    (ended,) = await rig.right.list(ended=True)
    assert ended.state == IDLE
    await rig.right.covenants.Review(
        pb.ReviewRequest(handle=ended.handle, kind=pb.REVIEW_KIND_CLEAR)
    )
    assert await rig.right.says("rogue") == {"control"}


async def test_terms_that_are_broken_again_and_again(rig: Rig):
    handle = await rig.agree(types=("text/*",))
    rig.agent.data("image/png")
    said: Violation = await rig.agent.told(FrameType.VIOLATION)
    assert (said.violation_class, said.response_level) == ("error", "notice")
    assert "quarantined" not in await rig.right.says("rogue")
    for _ in range(2):
        rig.agent.data("image/png")
    await rig.condemned("covenant terms violated repeatedly")
    # A REVIEW ends it.
    await rig.right.covenants.Review(
        pb.ReviewRequest(handle=handle, kind=pb.REVIEW_KIND_CLEAR, note="explained")
    )
    assert "quarantined" not in await rig.right.says("rogue")
    assert await rig.right.quarantined("rogue") == ""


# What is noticed


async def test_a_rejection_without_a_reason(rig: Rig):
    handle = await rig.agree()
    request = pb.AmendRequest(handle=handle, duration=pb.CovenantDuration(end_unix_us=0))
    request.exit_protocol.CopyFrom(pb.ExitProtocol(notice_period_us=5, fallback_state="apart"))
    await rig.right.covenants.Amend(request)
    await eventually(lambda: rig.agent.covenant.state is State.AMENDING, "it has heard")
    rig.agent.speak(FrameType.REJECT, Reject(None, None))
    said = await rig.agent.told(FrameType.VIOLATION)
    assert (said.violation_class, said.response_level) == ("error", "notice")
    assert "quarantined" not in await rig.right.says("rogue")


# What quarantine leaves


async def test_under_quarantine_a_covenant_can_still_be_revoked(rig: Rig):
    handle = await rig.agree(notice=0)
    rig.agent.data(sequence=1)
    await rig.condemned("sequence number regression")
    rig.agent.engine.revoke(
        rig.agent.covenant.handle, "enough", time.monotonic_ns(), graceful=False
    )
    rig.agent.flush()
    await rig.right.until(handle, TERMINATED)
    assert not await rig.right.open_for("rogue")


async def test_who_brings_nothing_but_junk_is_disconnected_and_the_log_stays_small(rig: Rig):
    await rig.agree()
    before = len(await rig.right.evidence(10_000))
    for _ in range(200):
        rig.agent.link.send(b"\x15" + bytes(103))
    await eventually(lambda: rig.agent.ends, "it is disconnected")
    refused = [one for one in (await rig.right.evidence(10_000))[before:] if "refused" in one]
    assert 1 <= len(refused) <= 65
