# SPDX-License-Identifier: Apache-2.0
"""AIOS, the immune layer: what it looks for, and how it answers (seed TCP/UP, section 8).

It watches every frame, and every report of others who watch for it: the gate's counters, the
announcements of flow 0. What it finds is judged by one table, `RESPONSES`. A verdict names an agent
only where that agent can have done it: a forged signature is held against whoever is at the other
end of the link, not against the name that was forged.

Escalation asks for a human. Until one has looked, the agent is quarantined as well: the level above
must not be the milder one.
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from assent.covenant.payloads import Escalate, Evidence, Violation

STRIKES: Final = 3
"""Breaches of a covenant's terms by one agent from which on they are no error any more."""
REPEAT_NS: Final = 1_000_000_000
"""Least time between two verdicts of one condition on one agent: frames answer frames."""
_FRAME_KEPT: Final = 512
_MEMORY: Final = 65_536


class Condition(enum.StrEnum):
    """What AIOS detects (seed 8.2); the terms' breach once as an error, once as malice."""

    FORGED_SIGNATURE = "frame signature invalid"
    BLIND_REJECT = "REJECT without Justification Object"
    EARLY_DATA = "DATA sent before BIND"
    HEARTBEAT_TIMEOUT = "heartbeat timeout"
    TERMS_BREACHED = "covenant terms violated"
    TERMS_BREACHED_AGAIN = "covenant terms violated repeatedly"
    REPEATED_DEFER = "repeated DEFER without new evidence"
    SEQUENCE_REGRESSION = "sequence number regression"
    CLOCK_ANOMALY = "timestamp anomaly"


class ThreatClass(enum.StrEnum):
    """What kind of breach it is (seed 3.7)."""

    ERROR = "error"
    IGNORANCE = "ignorance"
    MALICE = "malice"
    SYSTEMIC_STRESS = "systemic_stress"


class Level(enum.StrEnum):
    """How it is answered (seed 3.7)."""

    NOTICE = "notice"
    QUARANTINE = "quarantine"
    REFACTOR = "refactor"
    ESCALATE = "escalate"


RESPONSES: Final[Mapping[Condition, tuple[ThreatClass, Level]]] = MappingProxyType(
    {
        Condition.FORGED_SIGNATURE: (ThreatClass.MALICE, Level.QUARANTINE),
        Condition.BLIND_REJECT: (ThreatClass.ERROR, Level.NOTICE),
        Condition.EARLY_DATA: (ThreatClass.MALICE, Level.QUARANTINE),
        Condition.HEARTBEAT_TIMEOUT: (ThreatClass.SYSTEMIC_STRESS, Level.NOTICE),
        Condition.TERMS_BREACHED: (ThreatClass.ERROR, Level.NOTICE),
        Condition.TERMS_BREACHED_AGAIN: (ThreatClass.MALICE, Level.QUARANTINE),
        Condition.REPEATED_DEFER: (ThreatClass.IGNORANCE, Level.NOTICE),
        Condition.SEQUENCE_REGRESSION: (ThreatClass.MALICE, Level.QUARANTINE),
        Condition.CLOCK_ANOMALY: (ThreatClass.MALICE, Level.ESCALATE),
    }
)
"""The seed's table (8.2)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What AIOS has found.

    Attributes:
        condition: What was seen.
        agent_id: Who did it.
        covenant_id: Where; 0 where no covenant is concerned.
        description: In words.
        evidence: What it rests on.
    """

    condition: Condition
    agent_id: UUID
    covenant_id: int
    description: str
    evidence: tuple[Evidence, ...]

    @property
    def threat(self) -> ThreatClass:
        """Its class."""
        return RESPONSES[self.condition][0]

    @property
    def level(self) -> Level:
        """Its response level."""
        return RESPONSES[self.condition][1]

    @property
    def quarantines(self) -> bool:
        """Whether the agent is left nothing but HEARTBEAT, REVIEW and REVOKE (seed 8.3)."""
        return self.level in {Level.QUARANTINE, Level.ESCALATE}

    def violation(self) -> Violation:
        """What the participants are told."""
        return Violation(
            covenant_id=self.covenant_id,
            violation_class=self.threat.value,
            violating_agent=self.agent_id,
            evidence_chain=self.evidence,
            response_level=self.level.value,
            description=self.description,
        )

    def escalation(self) -> Escalate:
        """What calls a human."""
        return Escalate(
            covenant_id=self.covenant_id,
            threat_class=self.threat.value,
            subject_agent=self.agent_id,
            evidence_chain=self.evidence,
            description=self.description,
        )


class Immune:
    """Judges; what follows from a verdict is carried out by the engine.

    Args:
        source: Who speaks, in evidence.
        wall: Unix µs.
    """

    def __init__(self, source: str, wall: Callable[[], int]) -> None:
        self._source = source
        self._wall = wall
        self._said: OrderedDict[tuple[UUID, Condition], int] = OrderedDict()
        self._strikes: OrderedDict[tuple[UUID, int], int] = OrderedDict()

    def judge(
        self,
        condition: Condition,
        agent_id: UUID,
        covenant_id: int,
        description: str,
        now: int,
        frame: bytes = b"",
    ) -> Verdict | None:
        """A verdict; None where the same was said of the agent less than a second ago.

        Args:
            condition: What was seen.
            agent_id: Who did it.
            covenant_id: Where.
            description: In words.
            now: Monotonic ns.
            frame: What showed it, where a frame did.
        """
        key = agent_id, condition
        last = self._said.get(key)
        if last is not None and now - last < REPEAT_NS:
            return None
        self._said[key] = now
        self._said.move_to_end(key)
        _forget_oldest(self._said)
        return Verdict(
            condition, agent_id, covenant_id, description, (self._evidence(description, frame),)
        )

    def breach(self, agent_id: UUID, covenant_id: int, count: int = 1) -> Condition:
        """Counts breaches of terms; which condition that makes."""
        key = agent_id, covenant_id
        strikes = self._strikes.pop(key, 0) + count
        self._strikes[key] = strikes
        _forget_oldest(self._strikes)
        return Condition.TERMS_BREACHED if strikes < STRIKES else Condition.TERMS_BREACHED_AGAIN

    def forgive(self, agent_id: UUID) -> None:
        """A REVIEW has cleared an agent: it begins anew."""
        for key in [key for key in self._strikes if key[0] == agent_id]:
            del self._strikes[key]
        for seen in [key for key in self._said if key[0] == agent_id]:
            del self._said[seen]

    def _evidence(self, description: str, frame: bytes) -> Evidence:
        if not frame:
            return Evidence("observation", description, self._wall(), self._source)
        content = {
            "frame": frame[:_FRAME_KEPT],
            "length": len(frame),
            "sha256": hashlib.sha256(frame).digest(),
        }
        return Evidence("message", content, self._wall(), self._source)


def _forget_oldest(memory: OrderedDict[Any, int]) -> None:
    if len(memory) > _MEMORY:
        memory.popitem(last=False)
