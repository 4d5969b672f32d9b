# SPDX-License-Identifier: Apache-2.0
"""The payloads of TCP/UP frames (seed TCP/UP, section 3), docs/covenant.cddl.

Each is a frozen value; `encode` and `decode` are its canonical CBOR, `to_body` and `from_body` the
map in it. A HEARTBEAT has no payload. Rotation, Amend, Review, Revoke and Escalate are ours: the
seed names their frames and leaves their insides open.

Times are in microseconds, since the Unix epoch where they are points in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, TypeVar, cast
from uuid import UUID

from assent.covenant.fields import (
    NONE,
    U32_MAX,
    Body,
    Extensions,
    PayloadError,
    check_bytes,
    check_count,
    check_int,
    check_kind,
    check_kinds,
    check_name,
    check_names,
    check_text,
    encode_map,
    keep_extensions,
    listed,
    opened,
    read_all,
    read_one,
    take,
)
from assent.covenant.terms import ALL, TermSet
from assent.errors import InvalidArgument
from assent.wire import cbor
from assent.wire.tcpup import FrameType, agent_uuid, check_agent_id

SEVERITIES: Final = ("incompatible", "insufficient", "unclear")
EVIDENCE_TYPES: Final = ("observation", "log", "message", "record")
VIOLATION_CLASSES: Final = ("error", "ignorance", "malice", "systemic_stress")
RESPONSE_LEVELS: Final = ("notice", "quarantine", "refactor", "escalate")
REVIEW_KINDS: Final = ("check", "report", "request", "clear")
CLAUSE_TYPES: Final = ("protection", "override", "fallback")

HASH_LEN: Final = 32
KEY_LEN: Final = 32
SIGNATURE_LEN: Final = 64

_B = TypeVar("_B", bound=Body)


def _agent(field: str, raw: object) -> UUID:
    check_bytes(field, raw, 16)
    try:
        return agent_uuid(cast("bytes", raw))
    except InvalidArgument as refusal:
        raise InvalidArgument(field, refusal.problem) from None


def _check_one_of(field: str, value: object, values: tuple[str, ...]) -> None:
    if type(value) is not str or value not in values:
        missing = "is missing" if value is None else f"must be one of {', '.join(values)}"
        raise InvalidArgument(field, missing)


def _check_texts(field: str, values: tuple[str, ...]) -> None:
    check_count(field, values)
    for at, value in enumerate(values):
        check_text(f"{field}[{at}]", value, 1)


def _check_optional(field: str, value: object, kind: type) -> None:
    if value is not None and type(value) is not kind:
        raise InvalidArgument(field, f"must be {kind.__name__}")


def _read_optional(field: str, kind: type[_B], left: dict[str, Any]) -> _B | None:
    return read_one(field, kind, left.pop(field)) if field in left else None


def _check_agents(field: str, agents: tuple[AgentDescriptor, ...] | tuple[BoundAgent, ...]) -> None:
    """No two of them have one id, one role or one key; "*" is no role."""
    for what in ("agent_id", "role", "public_key"):
        values: list[object] = [getattr(agent, what) for agent in agents]
        for at, value in enumerate(values):
            if value in values[:at]:
                raise InvalidArgument(f"{field}[{at}].{what}", "is that of another agent too")
        if ALL in values:
            raise InvalidArgument(f"{field}[{values.index(ALL)}].role", "stands for all roles")


def _content(left: dict[str, Any]) -> object:
    if "content" not in left:
        raise InvalidArgument("content", "is missing")
    return left.pop("content")


@dataclass(frozen=True, slots=True)
class AgentDescriptor(Body):
    """An agent, as an OFFER names it (seed 3.1).

    Attributes:
        agent_id: Its UUID.
        role: Unique among the agents of a covenant; "*" is none.
        public_key: Ed25519, 32 bytes.
        capabilities: What it says that it can do.
        extensions: Keys that are not known here.
    """

    agent_id: UUID
    role: str
    public_key: bytes
    capabilities: tuple[str, ...]
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_agent_id("agent_id", self.agent_id)
        check_name("role", self.role)
        check_bytes("public_key", self.public_key, KEY_LEN)
        check_names("capabilities", self.capabilities)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            _agent("agent_id", pop("agent_id", None)),
            pop("role", None),
            pop("public_key", None),
            listed("capabilities", pop("capabilities", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Duration(Body):
    """How long a covenant lasts (seed 3.1).

    Attributes:
        start: From when on it holds.
        review_interval: Between two scheduled reviews; 0: none.
        end: 0: open.
        max_versions: 0: as many as are agreed to.
        extensions: Keys that are not known here.
    """

    SHARED: ClassVar[bool] = True
    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"end": 0, "max_versions": 0})

    start: int
    review_interval: int
    end: int = 0
    max_versions: int = 0
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("start", self.start)
        check_int("review_interval", self.review_interval)
        check_int("end", self.end)
        check_int("max_versions", self.max_versions, 0, U32_MAX)
        if self.end and self.end <= self.start:
            raise InvalidArgument("end", "must be after start")
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("start", None),
            pop("review_interval", None),
            take(left, "end", 0),
            take(left, "max_versions", 0),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Clause(Body):
    """What protects an agent at risk (seed 3.1).

    Attributes:
        type: See `CLAUSE_TYPES`; others are kept.
        description: For people.
        trigger: When it applies.
        action: What happens then.
        extensions: Keys that are not known here.
    """

    SHARED: ClassVar[bool] = True

    type: str
    description: str
    trigger: str
    action: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("type", self.type)
        check_text("description", self.description)
        check_text("trigger", self.trigger)
        check_text("action", self.action)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("type", None),
            pop("description", None),
            pop("trigger", None),
            pop("action", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class ExitProtocol(Body):
    """How a covenant is left (seed 3.1).

    Attributes:
        notice_period: From REVOKE to the end.
        mutual_required: Whether all must agree to the end.
        fallback_state: What the agents go back to.
        extensions: Keys that are not known here.
    """

    SHARED: ClassVar[bool] = True

    notice_period: int
    mutual_required: bool
    fallback_state: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("notice_period", self.notice_period)
        check_kind("mutual_required", self.mutual_required, bool)
        check_text("fallback_state", self.fallback_state)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("notice_period", None),
            pop("mutual_required", None),
            pop("fallback_state", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Offer(Body):
    """What an OFFER says (seed 3.1).

    Attributes:
        terms: What is owed, allowed and bounded.
        agents: All parties, the offering one among them: 2 to 64.
        duration: How long it is to last.
        misericordia_clauses: At least one.
        exit_protocol: How it is left.
        extensions: Keys that are not known here; the seed's `extensions` map is one of them.
    """

    UNREAD: ClassVar[frozenset[str]] = frozenset(
        {"terms", "agents", "duration", "misericordia_clauses", "exit_protocol"}
    )

    terms: TermSet
    agents: tuple[AgentDescriptor, ...]
    duration: Duration
    misericordia_clauses: tuple[Clause, ...]
    exit_protocol: ExitProtocol
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_kind("terms", self.terms, TermSet)
        check_kinds("agents", self.agents, AgentDescriptor, 2)
        _check_agents("agents", self.agents)
        check_kind("duration", self.duration, Duration)
        check_kinds("misericordia_clauses", self.misericordia_clauses, Clause, 1)
        check_kind("exit_protocol", self.exit_protocol, ExitProtocol)
        if self.extensions:
            keep_extensions(self, ())

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            read_one("terms", TermSet, pop("terms", None)),
            read_all("agents", AgentDescriptor, pop("agents", None)),
            read_one("duration", Duration, pop("duration", None)),
            read_all("misericordia_clauses", Clause, pop("misericordia_clauses", None)),
            read_one("exit_protocol", ExitProtocol, pop("exit_protocol", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class AgentConfirmation(Body):
    """Who accepts (seed 3.2).

    Attributes:
        agent_id: The accepting agent.
        public_key: Ed25519, 32 bytes.
        signature: 64 bytes over `document.confirmation_bytes` of the terms.
        extensions: Keys that are not known here.
    """

    agent_id: UUID
    public_key: bytes
    signature: bytes
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_agent_id("agent_id", self.agent_id)
        check_bytes("public_key", self.public_key, KEY_LEN)
        check_bytes("signature", self.signature, SIGNATURE_LEN)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            _agent("agent_id", pop("agent_id", None)),
            pop("public_key", None),
            pop("signature", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Accept(Body):
    """What an ACCEPT says (seed 3.2).

    Attributes:
        covenant_id: Assigned by the accepting agent.
        terms_hash: SHA-256 of the accepted terms.
        agent_confirmation: Who accepts.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    terms_hash: bytes
    agent_confirmation: AgentConfirmation
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_bytes("terms_hash", self.terms_hash, HASH_LEN)
        check_kind("agent_confirmation", self.agent_confirmation, AgentConfirmation)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("terms_hash", None),
            read_one("agent_confirmation", AgentConfirmation, pop("agent_confirmation", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Reason(Body):
    """Why a term is rejected (seed 3.3).

    Attributes:
        term_ref: The term's id.
        rationale: Why.
        severity: See `SEVERITIES`; others are kept.
        extensions: Keys that are not known here.
    """

    term_ref: str
    rationale: str
    severity: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("term_ref", self.term_ref)
        check_text("rationale", self.rationale, 1)
        check_name("severity", self.severity)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("term_ref", None),
            pop("rationale", None),
            pop("severity", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Evidence(Body):
    """One thing that was seen (seed 3.3).

    Attributes:
        type: See `EVIDENCE_TYPES`; others are kept.
        content: Any CBOR within the bounds.
        timestamp: When.
        source: By whom, or where.
        extensions: Keys that are not known here.
    """

    type: str
    content: object = field(hash=False)
    timestamp: int
    source: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("type", self.type)
        check_int("timestamp", self.timestamp)
        check_text("source", self.source)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("type", None),
            _content(left),
            pop("timestamp", None),
            pop("source", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Justification(Body):
    """That an offer was understood, and why it is rejected all the same (seed 3.3).

    Attributes:
        comprehension_proof: The offer, in the rejecting agent's words.
        rejection_reasons: At least one.
        evidence_chain: At most 64.
        extensions: Keys that are not known here.
    """

    comprehension_proof: str
    rejection_reasons: tuple[Reason, ...]
    evidence_chain: tuple[Evidence, ...]
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_text("comprehension_proof", self.comprehension_proof, 1)
        check_kinds("rejection_reasons", self.rejection_reasons, Reason, 1)
        check_kinds("evidence_chain", self.evidence_chain, Evidence)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("comprehension_proof", None),
            read_all("rejection_reasons", Reason, pop("rejection_reasons", None)),
            read_all("evidence_chain", Evidence, pop("evidence_chain", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Reject(Body):
    """What a REJECT says (seed 3.3).

    Attributes:
        justification: None only in a blind rejection, which is read so that it can be reported.
        counter_terms: What the rejecting agent would agree to.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType(
        {"justification": None, "counter_terms": None}
    )

    justification: Justification | None
    counter_terms: TermSet | None = None
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        _check_optional("justification", self.justification, Justification)
        _check_optional("counter_terms", self.counter_terms, TermSet)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        return cls(
            _read_optional("justification", Justification, left),
            _read_optional("counter_terms", TermSet, left),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Question(Body):
    """What a deferring agent wants to know (seed 3.4).

    Attributes:
        about: The term or aspect.
        specificity: What kind of answer it expects.
        extensions: Keys that are not known here.
    """

    about: str
    specificity: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_text("about", self.about, 1)
        check_text("specificity", self.specificity)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("about", None),
            pop("specificity", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Defer(Body):
    """What a DEFER says (seed 3.4).

    Attributes:
        questions: At least one.
        current_understanding: What was understood so far.
        evidence_needed: What would settle the questions; at most 64.
        timeout: How long the deferring agent waits; None: as the terms say.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"timeout": None})

    questions: tuple[Question, ...]
    current_understanding: str
    evidence_needed: tuple[str, ...]
    timeout: int | None = None
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_kinds("questions", self.questions, Question, 1)
        check_text("current_understanding", self.current_understanding)
        _check_texts("evidence_needed", self.evidence_needed)
        if self.timeout is not None:
            check_int("timeout", self.timeout)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        if "timeout" in left:
            check_int("timeout", left["timeout"])
        return cls(
            read_all("questions", Question, pop("questions", None)),
            pop("current_understanding", None),
            listed("evidence_needed", pop("evidence_needed", None)),
            pop("timeout", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class BoundAgent(Body):
    """An agent of a covenant object (seed 3.5).

    Attributes:
        agent_id: Its UUID.
        role: Unique among the agents of a covenant.
        public_key: Ed25519, 32 bytes.
        bind_signature: 64 bytes over `document.bind_bytes`; empty until it has signed.
        extensions: Keys that are not known here.
    """

    SHARED: ClassVar[bool] = True

    agent_id: UUID
    role: str
    public_key: bytes
    bind_signature: bytes
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_agent_id("agent_id", self.agent_id)
        check_name("role", self.role)
        check_bytes("public_key", self.public_key, KEY_LEN)
        check_bytes("bind_signature", self.bind_signature, 0, SIGNATURE_LEN)
        if self.extensions:
            keep_extensions(self)

    @property
    def unsigned(self) -> BoundAgent:
        """The same agent before it has signed."""
        return replace(self, bind_signature=b"") if self.bind_signature else self

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            _agent("agent_id", pop("agent_id", None)),
            pop("role", None),
            pop("public_key", None),
            pop("bind_signature", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class CovenantObject(Body):
    """What a covenant is (seed 3.5): all that was agreed to, and by whom.

    Attributes:
        id: The covenant's, 32 bits.
        version: From 1.
        terms: What is owed, allowed and bounded.
        duration: How long it lasts.
        misericordia_clauses: At least one.
        exit_protocol: How it is left.
        creation_time: When this version was made.
        agents: All parties, 2 to 64.
        extensions: Keys that are not known here.
    """

    UNREAD: ClassVar[frozenset[str]] = Offer.UNREAD

    id: int
    version: int
    terms: TermSet
    duration: Duration
    misericordia_clauses: tuple[Clause, ...]
    exit_protocol: ExitProtocol
    creation_time: int
    agents: tuple[BoundAgent, ...]
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("id", self.id, 0, U32_MAX)
        check_int("version", self.version, 1, U32_MAX)
        check_kind("terms", self.terms, TermSet)
        check_kind("duration", self.duration, Duration)
        check_kinds("misericordia_clauses", self.misericordia_clauses, Clause, 1)
        check_kind("exit_protocol", self.exit_protocol, ExitProtocol)
        check_int("creation_time", self.creation_time)
        check_kinds("agents", self.agents, BoundAgent, 2)
        _check_agents("agents", self.agents)
        if self.extensions:
            keep_extensions(self)

    @property
    def digest(self) -> bytes:
        """SHA-256 of its canonical CBOR with every bind_signature empty, made once."""
        try:
            return self._digest
        except AttributeError:
            members = self.members()
            members["agents"] = tuple(agent.unsigned for agent in self.agents)
            digest = hashlib.sha256(encode_map(members)).digest()
            object.__setattr__(self, "_digest", digest)
            return digest

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("id", None),
            pop("version", None),
            read_one("terms", TermSet, pop("terms", None)),
            read_one("duration", Duration, pop("duration", None)),
            read_all("misericordia_clauses", Clause, pop("misericordia_clauses", None)),
            read_one("exit_protocol", ExitProtocol, pop("exit_protocol", None)),
            pop("creation_time", None),
            read_all("agents", BoundAgent, pop("agents", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Bind(Body):
    """What a BIND says (seed 3.5).

    Attributes:
        covenant_id: The covenant's.
        covenant_version: The object's.
        terms_hash: SHA-256 of the terms.
        bound_agents: All agents, with the signatures that the sender has.
        covenant_object: What is agreed to.
        extensions: Keys that are not known here.
    """

    UNREAD: ClassVar[frozenset[str]] = frozenset({"bound_agents", "covenant_object"})

    covenant_id: int
    covenant_version: int
    terms_hash: bytes
    bound_agents: tuple[BoundAgent, ...]
    covenant_object: CovenantObject
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_int("covenant_version", self.covenant_version, 1, U32_MAX)
        check_bytes("terms_hash", self.terms_hash, HASH_LEN)
        check_kinds("bound_agents", self.bound_agents, BoundAgent, 1)
        check_kind("covenant_object", self.covenant_object, CovenantObject)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("covenant_version", None),
            pop("terms_hash", None),
            read_all("bound_agents", BoundAgent, pop("bound_agents", None)),
            read_one("covenant_object", CovenantObject, pop("covenant_object", None)),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Data(Body):
    """Application data (seed 3.6).

    Attributes:
        covenant_id: The covenant's.
        content_type: Its MIME type.
        data: The data itself.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    content_type: str
    data: bytes
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_name("content_type", self.content_type)
        check_kind("data", self.data, bytes)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("content_type", None),
            pop("data", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Violation(Body):
    """A breach that the immune layer has seen (seed 3.7).

    Attributes:
        covenant_id: The covenant's.
        violation_class: One of `VIOLATION_CLASSES`.
        violating_agent: Who did it.
        evidence_chain: At most 64.
        response_level: One of `RESPONSE_LEVELS`.
        description: For people.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    violation_class: str
    violating_agent: UUID
    evidence_chain: tuple[Evidence, ...]
    response_level: str
    description: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        _check_one_of("violation_class", self.violation_class, VIOLATION_CLASSES)
        check_agent_id("violating_agent", self.violating_agent)
        check_kinds("evidence_chain", self.evidence_chain, Evidence)
        _check_one_of("response_level", self.response_level, RESPONSE_LEVELS)
        check_text("description", self.description)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("violation_class", None),
            _agent("violating_agent", pop("violating_agent", None)),
            read_all("evidence_chain", Evidence, pop("evidence_chain", None)),
            pop("response_level", None),
            pop("description", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Rotation(Body):
    """A new key of an agent (seed 7.4).

    Attributes:
        agent_id: Whose.
        public_key: The new one.
        proof: 64 bytes by the new key, over `document.rotation_bytes`.
        authorization: 64 bytes by the old key, over the same.
        extensions: Keys that are not known here.
    """

    agent_id: UUID
    public_key: bytes
    proof: bytes
    authorization: bytes
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_agent_id("agent_id", self.agent_id)
        check_bytes("public_key", self.public_key, KEY_LEN)
        check_bytes("proof", self.proof, SIGNATURE_LEN)
        check_bytes("authorization", self.authorization, SIGNATURE_LEN)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            _agent("agent_id", pop("agent_id", None)),
            pop("public_key", None),
            pop("proof", None),
            pop("authorization", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Amend(Body):
    """What an AMEND says: a new version of the covenant, for the others to agree to.

    Attributes:
        covenant_id: The covenant's.
        covenant_version: The new version: the current one plus 1.
        covenant_object: The new object, its agents without signatures.
        bind_signature: The proposer's, 64 bytes over `document.bind_bytes` of the object.
        rotation: The proposer's new key, where it changes.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"rotation": None})
    UNREAD: ClassVar[frozenset[str]] = frozenset({"covenant_object"})

    covenant_id: int
    covenant_version: int
    covenant_object: CovenantObject
    bind_signature: bytes
    rotation: Rotation | None = None
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_int("covenant_version", self.covenant_version, 1, U32_MAX)
        check_kind("covenant_object", self.covenant_object, CovenantObject)
        check_bytes("bind_signature", self.bind_signature, SIGNATURE_LEN)
        _check_optional("rotation", self.rotation, Rotation)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("covenant_version", None),
            read_one("covenant_object", CovenantObject, pop("covenant_object", None)),
            pop("bind_signature", None),
            _read_optional("rotation", Rotation, left),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Review(Body):
    """A question about a covenant's health, or the answer (seed 2.3).

    Attributes:
        covenant_id: The covenant's.
        covenant_version: The version that its sender holds; 0: none.
        terms_hash: SHA-256 of that version's terms.
        kind: One of `REVIEW_KINDS`.
        note: For people.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    covenant_version: int
    terms_hash: bytes
    kind: str
    note: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_int("covenant_version", self.covenant_version, 0, U32_MAX)
        check_bytes("terms_hash", self.terms_hash, HASH_LEN)
        _check_one_of("kind", self.kind, REVIEW_KINDS)
        check_text("note", self.note)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("covenant_version", None),
            pop("terms_hash", None),
            pop("kind", None),
            pop("note", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Revoke(Body):
    """That a covenant is to end (seed 2.3).

    Attributes:
        covenant_id: The covenant's.
        reason: For people.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    reason: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        check_text("reason", self.reason)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("reason", None),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Escalate(Body):
    """A threat that a human has to look at (seed 2.3).

    Attributes:
        covenant_id: The covenant's.
        threat_class: One of `VIOLATION_CLASSES`.
        subject_agent: Whom it is about.
        evidence_chain: At most 64.
        description: For people.
        extensions: Keys that are not known here.
    """

    covenant_id: int
    threat_class: str
    subject_agent: UUID
    evidence_chain: tuple[Evidence, ...]
    description: str
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_int("covenant_id", self.covenant_id, 0, U32_MAX)
        _check_one_of("threat_class", self.threat_class, VIOLATION_CLASSES)
        check_agent_id("subject_agent", self.subject_agent)
        check_kinds("evidence_chain", self.evidence_chain, Evidence)
        check_text("description", self.description)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("covenant_id", None),
            pop("threat_class", None),
            _agent("subject_agent", pop("subject_agent", None)),
            read_all("evidence_chain", Evidence, pop("evidence_chain", None)),
            pop("description", None),
            left or NONE,
        )


Payload = (
    Offer | Accept | Reject | Defer | Bind | Data | Amend | Review | Revoke | Violation | Escalate
)

KINDS: Final[Mapping[FrameType, type[Payload]]] = MappingProxyType(
    {
        FrameType.OFFER: Offer,
        FrameType.ACCEPT: Accept,
        FrameType.REJECT: Reject,
        FrameType.DEFER: Defer,
        FrameType.BIND: Bind,
        FrameType.DATA: Data,
        FrameType.AMEND: Amend,
        FrameType.REVIEW: Review,
        FrameType.REVOKE: Revoke,
        FrameType.VIOLATION: Violation,
        FrameType.ESCALATE: Escalate,
    }
)


def encode(payload: Payload) -> bytes:
    """Canonical CBOR of a payload.

    Raises:
        InvalidArgument: It is larger or deeper than a payload may be.
    """
    encoded = payload.encoded
    try:
        cbor.check(encoded)
    except cbor.CborError as refusal:
        raise InvalidArgument("payload", str(refusal)) from None
    return encoded


def decode(kind: FrameType, payload: bytes) -> Payload:
    """Reads the payload of a frame of that kind.

    Raises:
        InvalidArgument: `kind` is HEARTBEAT, which has none.
        PayloadError: It is not deterministic CBOR within the bounds, or a field of it is not what
            it should be.
    """
    reader = KINDS.get(kind)
    if reader is None:
        raise InvalidArgument("kind", f"{kind.name} has no payload")
    try:
        cbor.check(payload)
        return reader.read_raw(payload)
    except cbor.CborError as refusal:
        raise PayloadError(f"not a payload: {refusal}") from None
    except InvalidArgument as refusal:
        raise PayloadError(f"{kind.name}: {refusal}") from None
