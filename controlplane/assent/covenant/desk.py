# SPDX-License-Identifier: Apache-2.0
"""What every part of the engine works with: who we are, what goes out, and what has happened.

Frames wait in an outbox, each under its covenant's handle, until the owner takes them: what has
happened can be carried out first (stored, told to the gate), and where that fails, `take_back`
drops the frames that would have told the peer otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import UUID

from assent.covenant import payloads
from assent.covenant.agreement import Covenant, Link, Party
from assent.covenant.immune import Condition, Immune, Verdict
from assent.covenant.payloads import Data, Escalate, Payload, Violation
from assent.wire.tcpup import CovenantFrame, FrameFlag, FrameType

SKEW_US: Final = 30_000_000
"""T_clock_skew (seed 7.2), where the terms say nothing else."""

DRIFT: Final = 1_000
"""Of so many microseconds a clock may gain or lose one without being called manipulated."""

_NO_FLAGS: Final = FrameFlag(0)


class Signer(Protocol):
    """Who we are: `assent.identity.keys.Identity` is one."""

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Signs; 64 bytes."""


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that became of a covenant; `kind` as in `values.CovenantNews`.

    Attributes:
        handle: Whose; 0 where no covenant is concerned.
        kind: What.
        text: In words.
        data: What a DATA frame carried.
        violation: What was found.
        agent_id: Whom it is about, where it is about one.
        verdict: Of our own AIOS.
    """

    handle: int
    kind: str
    text: str
    data: Data | None = field(default=None, repr=False)
    violation: Violation | Escalate | None = None
    agent_id: UUID | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame that waits to be sent."""

    handle: int
    link: Link
    frame: bytes = field(repr=False)


class Desk:
    """Shared by the engine's parts.

    Args:
        agent_id: Our UUID.
        signer: Our key. Others of ours are added while a rotation is under way.
        immune: Judges.
        wall: Unix µs.
        quarantined: Agents that were in quarantine before, and why.
        monotonic: ns; with it, a step of the wall clock does not show in a covenant's timestamps.
    """

    def __init__(
        self,
        agent_id: UUID,
        signer: Signer,
        immune: Immune,
        wall: Callable[[], int],
        quarantined: Mapping[UUID, str],
        monotonic: Callable[[], int] | None = None,
    ) -> None:
        self.agent_id = agent_id
        self._signers = {signer.public_key: signer}
        self.immune = immune
        self.wall = wall
        self._monotonic = monotonic
        self.quarantined = dict(quarantined)
        """Agents that have nothing left but HEARTBEAT, REVIEW and REVOKE, and why."""
        self._outbox: list[Outgoing] = []
        self._events: list[Happened] = []

    def add_signer(self, signer: Signer) -> None:
        """A key that covenants may be rotated to."""
        self._signers[signer.public_key] = signer

    def sign(self, covenant: Covenant, message: bytes) -> bytes:
        """Signs with the key that we have in a covenant."""
        return self._signers[covenant.public_key].sign(message)

    def take_frames(self) -> list[Outgoing]:
        """What waits to be sent, oldest first."""
        frames, self._outbox = self._outbox, []
        return frames

    def take_events(self) -> list[Happened]:
        """What has happened, oldest first."""
        events, self._events = self._events, []
        return events

    def take_back(self, handle: int) -> None:
        """Drops what waits to be sent for a covenant."""
        self._outbox = [one for one in self._outbox if one.handle != handle]

    def tell(self, covenant: Covenant, kind: str, text: str, **details: Any) -> None:
        """Notes that something became of a covenant."""
        covenant.updated_at = self.wall()
        self._events.append(Happened(covenant.handle, kind, text, **details))

    def tell_of_agent(self, kind: str, text: str, agent_id: UUID, **details: Any) -> None:
        """Notes something about an agent."""
        self._events.append(Happened(0, kind, text, agent_id=agent_id, **details))

    def send(
        self,
        covenant: Covenant,
        kind: FrameType,
        payload: Payload | None = None,
        flags: FrameFlag = _NO_FLAGS,
        *,
        to: Party | None = None,
        covenant_id: int | None = None,
    ) -> None:
        """Signs a frame and queues it for all parties that are reached now, or for one.

        Raises:
            InvalidArgument: It is too large; nothing has changed.
        """
        sequence, time = covenant.tx_sequence + 1, self.timestamp(covenant)
        frame = CovenantFrame(
            kind,
            flags,
            covenant.covenant_id if covenant_id is None else covenant_id,
            sequence,
            self.agent_id,
            time,
            payloads.encode(payload) if payload is not None else b"",
        )
        raw = frame.sealed(self._signers[covenant.public_key].sign)
        covenant.tx_sequence, covenant.tx_time = sequence, time
        links = covenant.links() if to is None else [to.link]
        for link in links:
            if link is not None:
                self._outbox.append(Outgoing(covenant.handle, link, raw))

    def timestamp(self, covenant: Covenant) -> int:
        """The time that a frame sent now bears, Unix µs.

        The peers take a step of our clock for manipulation. So a covenant keeps to the time of its
        first frame, carried on by the monotonic clock, and follows the wall clock slowly; and it
        never goes back.
        """
        wall = self.wall()
        if self._monotonic is not None:
            now = self._monotonic() // 1_000
            ahead = wall - now
            if covenant.clock_ahead is not None:
                slack = max(0, now + covenant.clock_ahead - covenant.tx_time) // DRIFT
                ahead = min(max(ahead, covenant.clock_ahead - slack), covenant.clock_ahead + slack)
            covenant.clock_ahead = ahead
            wall = now + ahead
        return max(wall, covenant.tx_time)

    def forward(self, covenant: Covenant, raw: bytes, origin: Party) -> None:
        """Passes a party's frame on to all others, as it is."""
        for link in covenant.links():
            if link != origin.link:
                self._outbox.append(Outgoing(covenant.handle, link, raw))

    def answer_stranger(
        self, link: Link, public_key: bytes, kind: FrameType, payload: Payload, flags: FrameFlag
    ) -> None:
        """Answers a frame for which nothing is kept."""
        frame = CovenantFrame(
            kind, flags, 0, 0, self.agent_id, self.wall(), payloads.encode(payload)
        )
        raw = frame.sealed(self._signers[public_key].sign)
        self._outbox.append(Outgoing(0, link, raw))

    # The immune layer's arm

    def report(
        self,
        covenant: Covenant,
        condition: Condition,
        agent_id: UUID,
        description: str,
        now: int,
        frame: bytes = b"",
    ) -> None:
        """Has a condition judged, and carries out what follows in a covenant."""
        verdict = self.immune.judge(
            condition, agent_id, covenant.covenant_id, description, now, frame
        )
        if verdict is None:
            return
        self.send(
            covenant,
            FrameType.VIOLATION,
            verdict.violation(),
            FrameFlag.URGENT if verdict.quarantines else _NO_FLAGS,
        )
        if verdict.level.value == "escalate":
            self.send(covenant, FrameType.ESCALATE, verdict.escalation(), FrameFlag.URGENT)
        self.tell(
            covenant,
            "escalated" if verdict.level.value == "escalate" else "violation",
            f"{verdict.condition.value}: {description}",
            violation=verdict.violation(),
            agent_id=agent_id,
            verdict=verdict,
        )
        if verdict.quarantines:
            self.quarantined[agent_id] = verdict.condition.value
            self.tell_of_agent("quarantined", verdict.condition.value, agent_id, verdict=verdict)
