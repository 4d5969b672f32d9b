# SPDX-License-Identifier: Apache-2.0
"""What is proposed, what there is to see of a covenant, and what can become of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from assent.covenant.machine import State
from assent.covenant.payloads import (
    Clause,
    Data,
    Defer,
    Duration,
    Escalate,
    ExitProtocol,
    Reject,
    Violation,
)
from assent.covenant.terms import TermSet
from assent.wire.cellid import CellID


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one agent proposes to others (seed 3.1), without who they are.

    Attributes:
        terms: What is owed, allowed and bounded.
        duration: From when, reviewed how often, until when.
        misericordia_clauses: At least one: what protects an agent at risk.
        exit_protocol: How it ends.
        durable: It outlives the transport that it was made over.
    """

    terms: TermSet
    duration: Duration
    misericordia_clauses: tuple[Clause, ...]
    exit_protocol: ExitProtocol
    durable: bool = False


@dataclass(frozen=True, slots=True)
class PeerView:
    """Another party of a covenant.

    Attributes:
        agent_id: Its UUID.
        name: As this host calls its cell; "" where it does not know it.
        role: In the covenant.
        public_key: Ed25519, 32 bytes, as it stands now.
        cell: That follows from the key.
        bound: It has signed the version in force.
        quarantined: The condition that AIOS has found; "" where none.
        link: Name of the transport that it is reached by; "" where there is none now.
    """

    agent_id: UUID
    name: str
    role: str
    public_key: bytes
    cell: CellID
    bound: bool
    quarantined: str
    link: str


@dataclass(frozen=True, slots=True)
class CovenantView:
    """A covenant or negotiation, as it stands; times are Unix µs, 0 where there is none.

    Attributes:
        handle: Names it on this host, from its first frame on.
        covenant_id: Names it between its parties; 0 until it is accepted.
        state: See `machine`.
        local: The cell of this host.
        local_name: Its name.
        agent_id: The local agent's UUID.
        role: The local agent's.
        initiator: Whether this host offered.
        multi: Three parties or more.
        durable: It outlives its transport.
        version: In force; 0 before there is one.
        proposal: In force, or on the table.
        amendment: On the table beside what is in force.
        amendment_by_us: Whether this host proposed that.
        peers: The other parties.
        deferrals: How often it has been deferred.
        questions: Of the newest DEFER.
        rejection: The newest REJECT, of the offer or of an amendment.
        created_at: When the version in force was made.
        notice_ends: When the notice period is over.
        reason: Why it ended, or went back to idle.
        updated_at: Of the last change.
    """

    handle: int
    covenant_id: int
    state: State
    local: CellID
    local_name: str
    agent_id: UUID
    role: str
    initiator: bool
    multi: bool
    durable: bool
    version: int
    proposal: Proposal
    amendment: Proposal | None
    amendment_by_us: bool
    peers: tuple[PeerView, ...]
    deferrals: int
    questions: Defer | None
    rejection: Reject | None
    created_at: int
    notice_ends: int
    reason: str
    updated_at: int


@dataclass(frozen=True, slots=True)
class CovenantNews:
    """Something that became of a covenant.

    Attributes:
        view: How it stands now.
        kind: "offered", "offer-received", "accepted", "rejected", "deferred", "informed", "bound",
            "covenanted", "amending", "amended", "amendment-rejected", "reviewed", "revoking",
            "terminated", "timeout", "data", "violation", "escalated", "quarantined", "cleared" or
            "failed".
        text: In words.
        data: What a DATA frame carried.
        violation: What AIOS found, here or at a peer.
        time: Unix µs.
    """

    view: CovenantView
    kind: str
    text: str
    data: Data | None = field(default=None, repr=False)
    violation: Violation | Escalate | None = None
    time: int = 0
