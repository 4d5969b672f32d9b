"""Covenant values for tests: one of each, and hypothesis strategies for any of them."""

from uuid import UUID

from hypothesis import strategies as st

from assent.covenant.payloads import (
    RESPONSE_LEVELS,
    REVIEW_KINDS,
    VIOLATION_CLASSES,
    Accept,
    AgentConfirmation,
    AgentDescriptor,
    Amend,
    Bind,
    BoundAgent,
    Clause,
    CovenantObject,
    Data,
    Defer,
    Duration,
    Escalate,
    Evidence,
    ExitProtocol,
    Justification,
    Offer,
    Question,
    Reason,
    Reject,
    Review,
    Revoke,
    Rotation,
    Violation,
)
from assent.covenant.terms import (
    Burst,
    Constraint,
    DailyWindow,
    Deferrals,
    Obligation,
    Other,
    PayloadSize,
    Permission,
    Rate,
    TermSet,
    TermTimer,
    Unknown,
)
from assent.wire.tcpup import FrameType

LEFT, RIGHT = (UUID(int=8 << 76 | 2 << 62 | n) for n in (1, 2))
TERMS = TermSet(
    (
        Obligation("log", "*", "log", "Keep a log of what was sent for thirty days"),
        Obligation("report", "responder", "report"),
    ),
    (
        Permission("push", "initiator", "send", (1, 2), ("text/*", "application/octet-stream")),
        Permission("answer", "responder", "send", (1,), (), "Answers"),
    ),
    (
        Constraint("rate", "initiator", Rate(1000)),
        Constraint("burst", "initiator", Burst(2048)),
        Constraint("size", "*", PayloadSize(65_536)),
        Constraint("office", "initiator", DailyWindow(540, 1080, (0, 1, 2, 3, 4))),
        Constraint("beat", "*", TermTimer("T_heartbeat", 30_000_000)),
    ),
)
DURATION = Duration(1_780_000_000_000_000, 86_400_000_000)
CLAUSES = (Clause("protection", "Whoever is in distress may say so", "distress", "a day's rest"),)
EXIT = ExitProtocol(60_000_000, False, "isolation")
OFFER = Offer(
    TERMS,
    (
        AgentDescriptor(LEFT, "initiator", b"\x01" * 32, ("transfer",)),
        AgentDescriptor(RIGHT, "responder", b"\x02" * 32, ()),
    ),
    DURATION,
    CLAUSES,
    EXIT,
)
ACCEPT = Accept(7, TERMS.digest, AgentConfirmation(RIGHT, b"\x02" * 32, b"\x03" * 64))
JUSTIFICATION = Justification(
    "You want to send at 1,000 blocks a second",
    (Reason("rate", "too much for this link", "incompatible"),),
    (Evidence("observation", {"load": [0.5, None, True]}, 1_780_000_000_000_000, "monitor"),),
)
REJECT = Reject(JUSTIFICATION, TermSet(TERMS.obligations))
DEFER = Defer((Question("rate", "a number"),), "it is about a transfer", ("a signed log",), 0)
OBJECT = CovenantObject(
    7,
    1,
    TERMS,
    DURATION,
    CLAUSES,
    EXIT,
    1_780_000_000_000_000,
    (
        BoundAgent(LEFT, "initiator", b"\x01" * 32, b"\x04" * 64),
        BoundAgent(RIGHT, "responder", b"\x02" * 32, b""),
    ),
)
BIND = Bind(7, 1, TERMS.digest, OBJECT.agents, OBJECT)
ROTATION = Rotation(LEFT, b"\x05" * 32, b"\x06" * 64, b"\x07" * 64)
PAYLOADS = {
    FrameType.OFFER: OFFER,
    FrameType.ACCEPT: ACCEPT,
    FrameType.REJECT: REJECT,
    FrameType.DEFER: DEFER,
    FrameType.BIND: BIND,
    FrameType.DATA: Data(7, "text/plain", b"hello"),
    FrameType.AMEND: Amend(7, 2, OBJECT, b"\x08" * 64, ROTATION),
    FrameType.REVIEW: Review(7, 1, TERMS.digest, "report", "all well"),
    FrameType.REVOKE: Revoke(7, "done"),
    FrameType.VIOLATION: Violation(
        7, "malice", LEFT, JUSTIFICATION.evidence_chain, "quarantine", "DATA before BIND"
    ),
    FrameType.ESCALATE: Escalate(7, "malice", LEFT, (), "clock manipulation"),
}

_shown = st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")).filter(str.isprintable)
names = st.text(_shown, min_size=1, max_size=16)
texts = st.text(_shown, max_size=40)
words = st.text(_shown, min_size=1, max_size=40)
times = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
keys = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
agents = st.integers(0, (1 << 60) - 1).map(lambda n: UUID(int=8 << 76 | 2 << 62 | n))
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | texts
    | st.binary(max_size=9) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
extensions = st.dictionaries(texts.map("x-".__add__), anything, max_size=2)


def tuples(of, low=0, most=3):
    return st.lists(of, min_size=low, max_size=most).map(tuple)


def risings(low, high, least=0):
    return st.sets(st.integers(low, high), min_size=least).map(lambda each: tuple(sorted(each)))


parties = st.sampled_from(["initiator", "responder", "*"])
content_types = st.sampled_from(["text/*", "text/plain", "application/cbor"])
limits = st.one_of(
    st.builds(Rate, st.integers(1, (1 << 32) - 1)),
    st.builds(PayloadSize, st.integers(1, (1 << 32) - 1)),
    st.builds(DailyWindow, st.integers(0, 700), st.integers(701, 1440), risings(0, 6, least=1)),
    st.builds(TermTimer, st.sampled_from(["T_offer", "T_bind"]), st.integers(1_000, 1 << 40)),
    st.builds(Deferrals, st.integers(0, 255)),
    st.builds(Other, words),
    st.builds(Unknown, names.map("x-".__add__)),
)


ONCE = {"T_offer", "T_bind", "deferrals"}


def _term_set(obligations, permissions, constraints, more):
    unique = {}
    for term in (*obligations, *permissions, *constraints):
        unique.setdefault(term.id, term)
    kept = {id(term) for term in unique.values()}
    seen, sane = set(), []
    for constraint in constraints:
        about = constraint.kind if constraint.kind != "timer" else constraint.limit.timer
        settled = {what for what, _ in seen} if about in ONCE else set()
        if (
            id(constraint) in kept
            and (about, constraint.party) not in seen
            and about not in settled
        ):
            sane.append(constraint)
            seen.add((about, constraint.party))
    return TermSet(
        tuple(term for term in obligations if id(term) in kept),
        tuple(term for term in permissions if id(term) in kept),
        tuple(sane),
        more,
    )


term_sets = st.builds(
    _term_set,
    tuples(st.builds(Obligation, names, parties, names, texts, extensions)),
    tuples(
        st.builds(
            Permission, names, parties, st.just("send"), risings(1, 7, least=1),
            tuples(content_types), texts, extensions,
        )
    ),
    tuples(st.builds(Constraint, names, parties, limits, texts, extensions)),
    extensions,
)  # fmt: skip
durations = st.builds(
    Duration, st.integers(0, 1 << 40), times, st.just(0) | st.integers(1 << 41, 1 << 60), u32,
    extensions,
)  # fmt: skip
clauses = tuples(st.builds(Clause, names, texts, texts, texts, extensions), 1)
exits = st.builds(ExitProtocol, times, st.booleans(), texts, extensions)
evidence = tuples(st.builds(Evidence, names, anything, times, texts, extensions))


def parties_of(kind, *rest):
    def distinct(several):
        fields = ("agent_id", "role", "public_key")
        return all(len({getattr(one, name) for one in several}) == len(several) for name in fields)

    made = st.builds(kind, agents, names.filter("*".__ne__), keys, *rest, extensions)
    return tuples(made, 2, 3).filter(distinct)


objects = st.builds(
    CovenantObject, u32, st.integers(1, (1 << 32) - 1), term_sets, durations, clauses, exits, times,
    parties_of(BoundAgent, signatures | st.just(b"")), extensions,
)  # fmt: skip
justifications = st.builds(
    Justification,
    words,
    tuples(st.builds(Reason, names, words, names, extensions), 1),
    evidence,
    extensions,
)
rotations = st.builds(Rotation, agents, keys, signatures, signatures, extensions)
STRATEGIES = {
    FrameType.OFFER: st.builds(
        Offer, term_sets, parties_of(AgentDescriptor, tuples(names)), durations, clauses, exits,
        extensions,
    ),
    FrameType.ACCEPT: st.builds(
        Accept, u32, keys, st.builds(AgentConfirmation, agents, keys, signatures, extensions),
        extensions,
    ),
    FrameType.REJECT: st.builds(
        Reject, st.none() | justifications, st.none() | term_sets, extensions
    ),
    FrameType.DEFER: st.builds(
        Defer, tuples(st.builds(Question, words, texts, extensions), 1), texts, tuples(words),
        st.none() | times, extensions,
    ),
    FrameType.BIND: st.builds(
        Bind, u32, st.integers(1, 9), keys,
        tuples(st.builds(BoundAgent, agents, names, keys, signatures, extensions), 1),
        objects, extensions,
    ),
    FrameType.DATA: st.builds(Data, u32, names, st.binary(max_size=80), extensions),
    FrameType.AMEND: st.builds(
        Amend, u32, st.integers(1, 9), objects, signatures, st.none() | rotations, extensions
    ),
    FrameType.REVIEW: st.builds(
        Review, u32, u32, keys, st.sampled_from(REVIEW_KINDS), texts, extensions
    ),
    FrameType.REVOKE: st.builds(Revoke, u32, texts, extensions),
    FrameType.VIOLATION: st.builds(
        Violation, u32, st.sampled_from(VIOLATION_CLASSES), agents, evidence,
        st.sampled_from(RESPONSE_LEVELS), texts, extensions,
    ),
    FrameType.ESCALATE: st.builds(
        Escalate, u32, st.sampled_from(VIOLATION_CLASSES), agents, evidence, texts, extensions
    ),
}  # fmt: skip
payloads = st.sampled_from(sorted(STRATEGIES)).flatmap(
    lambda kind: st.tuples(st.just(kind), STRATEGIES[kind])
)
