# SPDX-License-Identifier: Apache-2.0
"""What a covenant obliges to, allows and bounds, and what of it the gate enforces.

The TermSet of an OFFER (seed TCP/UP, section 3.1) holds obligations, permissions and constraints,
for whose insides the seed has no schema: this module and docs/covenant.cddl are one. A term has an
id, unique in its set, and binds a `party`: a role, or "*" for all of them.

A set that contradicts itself cannot be made, so what is read out of one (`allowance`, `Timers.of`)
is never in doubt. Times are in microseconds, as everywhere in TCP/UP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, TypeVar, cast

from assent.covenant.fields import (
    NONE,
    U32_MAX,
    Body,
    Extensions,
    PayloadError,
    check_count,
    check_int,
    check_kinds,
    check_name,
    check_names,
    check_text,
    in_order,
    keep_extensions,
    listed,
    opened,
    read_all,
    take,
)
from assent.errors import InvalidArgument, RemoteError

__all__ = [
    "ALL",
    "DEFAULT_BURST",
    "SEND",
    "Allowance",
    "Burst",
    "Constraint",
    "DailyWindow",
    "Deferrals",
    "Obligation",
    "Other",
    "PayloadError",
    "PayloadSize",
    "Permission",
    "Rate",
    "TermSet",
    "TermTimer",
    "Timers",
    "Unknown",
    "allowance",
    "terms_from_plain",
    "terms_hash",
    "to_plain",
]

ALL: Final = "*"
"""Every party."""
SEND: Final = "send"
"""The action that opens flows."""
FLOW_MAX: Final = 7
BURST_MAX: Final = 0x7FFF
DEFAULT_BURST: Final = 4096
"""Blocks of 64 bytes that may be under way on a flow for which the terms say nothing."""
DEFAULT_DEFERRALS: Final = 3
MILLISECOND: Final = 1_000
SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
DAY: Final = 1_440 * MINUTE
TIMER_MAX: Final = 366 * DAY

_MONDAY: Final = 4 * DAY
"""1970 began on a Thursday."""


@dataclass(frozen=True, slots=True)
class Obligation(Body):
    """What a party owes.

    Attributes:
        id: Unique among all terms of the set.
        party: A role, or "*".
        duty: A short name of it.
        description: For people.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"description": ""})

    id: str
    party: str
    duty: str
    description: str = ""
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("id", self.id)
        check_name("party", self.party)
        check_name("duty", self.duty)
        check_text("description", self.description)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("id", None),
            pop("party", None),
            pop("duty", None),
            take(left, "description", ""),
            left or NONE,
        )


@dataclass(frozen=True, slots=True)
class Permission(Body):
    """What a party may do.

    Attributes:
        id: Unique among all terms of the set.
        party: A role, or "*".
        action: "send", which opens flows, or any other name, which is kept and not enforced.
        flows: 1 to 7, rising; those on which the party may send.
        content_types: Of DATA; none: any. "type/*" stands for all subtypes.
        description: For people.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"description": ""})

    id: str
    party: str
    action: str
    flows: tuple[int, ...] = ()
    content_types: tuple[str, ...] = ()
    description: str = ""
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("id", self.id)
        check_name("party", self.party)
        check_name("action", self.action)
        check_count("flows", self.flows, 1 if self.action == SEND else 0)
        _check_rising("flows", self.flows, 1, FLOW_MAX)
        check_names("content_types", self.content_types)
        for at, content_type in enumerate(self.content_types):
            kind, slash, subtype = content_type.partition("/")
            if not (kind and slash and subtype) or kind == ALL or content_type.count("/") > 1:
                raise InvalidArgument(f"content_types[{at}]", 'must be "type/subtype" or "type/*"')
        check_text("description", self.description)
        if self.extensions:
            keep_extensions(self)

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            pop("id", None),
            pop("party", None),
            pop("action", None),
            listed("flows", pop("flows", None)),
            listed("content_types", pop("content_types", None)),
            take(left, "description", ""),
            left or NONE,
        )


def _check_rising(name: str, values: tuple[int, ...], low: int, high: int) -> None:
    """Integers in range, each larger than the one before."""
    last = low - 1
    for at, value in enumerate(values):
        check_int(f"{name}[{at}]", value, low, high)
        if value <= last:
            raise InvalidArgument(f"{name}[{at}]", "must be larger than the one before")
        last = value


def _slots(kind: type[_Limit]) -> tuple[str, ...]:
    return kind.__slots__


class _Limit:
    """What a constraint bounds. Its fields stand in the constraint's map, beside `kind`."""

    __slots__ = ()
    KIND: ClassVar[str]

    @property
    def kind(self) -> str:
        """How the wire names it."""
        return self.KIND

    def fields(self) -> dict[str, object]:
        """Its part of the constraint's map."""
        return {name: getattr(self, name) for name in _slots(type(self))}

    @classmethod
    def read(cls, left: dict[str, Any]) -> Self:
        """Takes its fields out of a constraint's map.

        Raises:
            InvalidArgument: One is missing, of the wrong type, or out of range.
        """
        return cls(*[left.pop(name, None) for name in _slots(cls)])


@dataclass(frozen=True, slots=True)
class Rate(_Limit):
    """How fast a party may send, on all flows together.

    Attributes:
        blocks_per_second: 64-byte blocks as the fabric charges them, 1 to 2^32-1.
    """

    KIND: ClassVar[str] = "rate"

    blocks_per_second: int

    def __post_init__(self) -> None:
        check_int("blocks_per_second", self.blocks_per_second, 1, U32_MAX)


@dataclass(frozen=True, slots=True)
class Burst(_Limit):
    """How much of a party may be under way.

    Attributes:
        blocks: 64-byte blocks, 1 to 32,767.
        flow: On that flow alone, 1 to 7; 0: on each of its flows.
    """

    KIND: ClassVar[str] = "burst"

    blocks: int
    flow: int = 0

    def __post_init__(self) -> None:
        check_int("blocks", self.blocks, 1, BURST_MAX)
        check_int("flow", self.flow, 0, FLOW_MAX)

    def fields(self) -> dict[str, object]:
        """Its part of the constraint's map; a flow of 0 is left out."""
        return {"blocks": self.blocks, "flow": self.flow} if self.flow else {"blocks": self.blocks}

    @classmethod
    def read(cls, left: dict[str, Any]) -> Self:
        """Takes its fields out of a constraint's map."""
        return cls(left.pop("blocks", None), take(left, "flow", 0))


@dataclass(frozen=True, slots=True)
class PayloadSize(_Limit):
    """How large one payload of a party may be.

    Attributes:
        bytes: 1 to 2^32-1.
    """

    KIND: ClassVar[str] = "payload_size"

    bytes: int

    def __post_init__(self) -> None:
        check_int("bytes", self.bytes, 1, U32_MAX)


@dataclass(frozen=True, slots=True)
class DailyWindow(_Limit):
    """When a party may send, in UTC. Several windows of a party add up.

    Attributes:
        from_minute: Minute of the day, 0 to 1,439.
        to_minute: 1 to 1,440; less than `from_minute`: of the next day.
        days: Of its beginning: 0 (Monday) to 6, rising, at least one.
    """

    KIND: ClassVar[str] = "time_window"

    from_minute: int
    to_minute: int
    days: tuple[int, ...]

    def __post_init__(self) -> None:
        check_int("from_minute", self.from_minute, 0, 1_439)
        check_int("to_minute", self.to_minute, 1, 1_440)
        if self.from_minute == self.to_minute:
            raise InvalidArgument("to_minute", "must differ from from_minute")
        check_count("days", self.days, 1)
        _check_rising("days", self.days, 0, 6)

    def fields(self) -> dict[str, object]:
        """Its part of the constraint's map."""
        return {
            "days": self.days,
            "to_minute": self.to_minute,
            "from_minute": self.from_minute,
        }

    @classmethod
    def read(cls, left: dict[str, Any]) -> Self:
        """Takes its fields out of a constraint's map."""
        pop = left.pop
        days = listed("days", pop("days", None))
        return cls(pop("from_minute", None), pop("to_minute", None), days)

    @property
    def length(self) -> int:
        """Minutes from its beginning to its end."""
        return (self.to_minute - self.from_minute) % 1_440 or 1_440


@dataclass(frozen=True, slots=True)
class TermTimer(_Limit):
    """One of the timers of the covenant itself (seed 4.4, 7.2).

    Attributes:
        timer: "T_offer", "T_defer", "T_bind", "T_heartbeat", "T_heartbeat_timeout", "T_amend" or
            "T_clock_skew".
        microseconds: From a millisecond to 366 days.
    """

    KIND: ClassVar[str] = "timer"

    timer: str
    microseconds: int

    def __post_init__(self) -> None:
        check_name("timer", self.timer)
        if self.timer not in _TIMERS:
            raise InvalidArgument("timer", f"must be one of {', '.join(_TIMERS)}")
        check_int("microseconds", self.microseconds, MILLISECOND, TIMER_MAX)


@dataclass(frozen=True, slots=True)
class Deferrals(_Limit):
    """How often an offer may be deferred before the negotiation ends (seed 4.3).

    Attributes:
        count: 0 to 255.
    """

    KIND: ClassVar[str] = "deferrals"

    count: int

    def __post_init__(self) -> None:
        check_int("count", self.count, 0, 255)


@dataclass(frozen=True, slots=True)
class Other(_Limit):
    """Something between the parties that no machine enforces.

    Attributes:
        value: For people, 1 to 4,096 bytes.
    """

    KIND: ClassVar[str] = "other"

    value: str

    def __post_init__(self) -> None:
        check_text("value", self.value, 1)


@dataclass(frozen=True, slots=True)
class Unknown(_Limit):
    """A constraint of a kind that is not known here: kept, with its fields among the extensions.

    Attributes:
        name: Its kind, as the wire has it.
    """

    KIND: ClassVar[str] = ""

    name: str

    def __post_init__(self) -> None:
        check_name("kind", self.name)
        if self.name in _LIMITS:
            raise InvalidArgument("kind", f"{self.name} has a class of its own")

    @property
    def kind(self) -> str:
        """How the wire names it."""
        return self.name

    def fields(self) -> dict[str, object]:
        """None that it knows."""
        return {}


Limit = Rate | Burst | PayloadSize | DailyWindow | TermTimer | Deferrals | Other | Unknown

_LIMITS: Final[Mapping[str, type[_Limit]]] = MappingProxyType(
    {
        kind.KIND: kind
        for kind in (Rate, Burst, PayloadSize, DailyWindow, TermTimer, Deferrals, Other)
    }
)
_TIMERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T_offer": "offer",
        "T_defer": "defer",
        "T_bind": "bind",
        "T_heartbeat": "heartbeat",
        "T_heartbeat_timeout": "heartbeat_timeout",
        "T_amend": "amend",
        "T_clock_skew": "clock_skew",
    }
)


@dataclass(frozen=True, slots=True)
class Constraint(Body):
    """A bound on what a party may do, or on the covenant itself.

    Attributes:
        id: Unique among all terms of the set.
        party: A role, or "*".
        limit: What it bounds, and how far.
        description: For people.
        extensions: Keys that are not known here.
    """

    OPTIONAL: ClassVar[Extensions] = MappingProxyType({"description": "", "flow": 0})

    id: str
    party: str
    limit: Limit
    description: str = ""
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_name("id", self.id)
        check_name("party", self.party)
        if not isinstance(self.limit, _Limit):
            raise InvalidArgument("limit", "must be one of the kinds of constraint")
        check_text("description", self.description)
        if self.extensions:
            keep_extensions(self, {"kind", *self.limit.fields()})

    @property
    def kind(self) -> str:
        """How the wire names what it bounds."""
        return self.limit.kind

    def members(self) -> dict[str, Any]:
        """What stands in the map: the limit's fields beside its kind."""
        found = {"id": self.id, "kind": self.limit.kind, "party": self.party, **self.limit.fields()}
        if self.description:
            found["description"] = self.description
        return in_order(found | dict(self.extensions))

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        ident, party, kind = pop("id", None), pop("party", None), pop("kind", None)
        check_name("kind", kind)
        known = _LIMITS.get(kind)
        limit = cast("Limit", Unknown(kind) if known is None else known.read(left))
        return cls(ident, party, limit, take(left, "description", ""), left or NONE)


_T = TypeVar("_T", bound=_Limit)


@dataclass(frozen=True, slots=True)
class TermSet(Body):
    """All terms of a covenant. No two have one id, and none contradicts another.

    Attributes:
        obligations: At most 64.
        permissions: At most 64.
        constraints: At most 64.
        extensions: Keys that are not known here.
    """

    SHARED: ClassVar[bool] = True

    obligations: tuple[Obligation, ...] = ()
    permissions: tuple[Permission, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    extensions: Extensions = field(default_factory=lambda: NONE, hash=False)

    def __post_init__(self) -> None:
        check_kinds("obligations", self.obligations, Obligation)
        check_kinds("permissions", self.permissions, Permission)
        check_kinds("constraints", self.constraints, Constraint)
        seen: set[str] = set()
        for place, terms in self._places():
            for at, term in enumerate(terms):
                if term.id in seen:
                    raise InvalidArgument(f"{place}[{at}].id", f"{term.id} is there twice")
                seen.add(term.id)
        if self.constraints:
            _check_consistent(self)
        if self.extensions:
            keep_extensions(self)

    def _places(self) -> Iterator[tuple[str, tuple[Obligation | Permission | Constraint, ...]]]:
        yield "obligations", self.obligations
        yield "permissions", self.permissions
        yield "constraints", self.constraints

    @classmethod
    def read(cls, body: object) -> Self:
        """Reads a map; `from_body` says how."""
        left = opened(body)
        pop = left.pop
        return cls(
            read_all("obligations", Obligation, pop("obligations", None)),
            read_all("permissions", Permission, pop("permissions", None)),
            read_all("constraints", Constraint, pop("constraints", None)),
            left or NONE,
        )

    def limits(self, kind: type[_T], role: str = "") -> Iterator[_T]:
        """The limits of one kind; with a role, those that bind it."""
        for constraint in self.constraints:
            if isinstance(constraint.limit, kind) and (not role or constraint.party in {role, ALL}):
                yield constraint.limit


def _check_consistent(terms: TermSet) -> None:
    """Refuses terms of which one cannot hold beside another; the message names the later one."""
    seen: dict[object, str] = {}
    for at, constraint in enumerate(terms.constraints):
        place, limit = f"constraints[{at}]", constraint.limit
        about = _about(constraint)
        if about is not None:
            if about in seen:
                other = seen[about]
                raise InvalidArgument(place, f"{constraint.id} says again what {other} says")
            seen[about] = constraint.id
        if isinstance(limit, Burst) and not _opens(terms, constraint.party, limit.flow):
            what = f"flow {limit.flow}" if limit.flow else "any flow"
            raise InvalidArgument(
                place, f"{constraint.id} bounds {constraint.party}, which may not send on {what}"
            )
    timers = Timers.of(terms)
    if timers.heartbeat >= timers.heartbeat_timeout:
        at, culprit = next(
            (at, each)
            for at, each in enumerate(terms.constraints)
            if isinstance(each.limit, TermTimer) and each.limit.timer.startswith("T_heartbeat")
        )
        raise InvalidArgument(
            f"constraints[{at}]",
            f"{culprit.id}: T_heartbeat must be less than T_heartbeat_timeout",
        )


def _about(constraint: Constraint) -> object:
    """What a constraint settles, so that no second one may; None where several add up."""
    match constraint.limit:
        case Burst(flow=flow):
            return "burst", constraint.party, flow
        case TermTimer(timer=timer):
            return "timer", timer
        case Deferrals():
            return "deferrals"
        case Rate() | PayloadSize():
            return constraint.kind, constraint.party
    return None


def _opens(terms: TermSet, party: str, flow: int) -> bool:
    """Whether a permission lets some of that party send on that flow (0: on any)."""
    return any(
        permission.action == SEND
        and (ALL in {party, permission.party} or permission.party == party)
        and (not flow or flow in permission.flows)
        for permission in terms.permissions
    )


def terms_hash(terms: TermSet) -> bytes:
    """SHA-256 of the terms' canonical CBOR, 32 bytes (seed 3.2); made once.

    Raises:
        InvalidArgument: An extension is not CBOR.
    """
    return terms.digest


def to_plain(terms: TermSet) -> dict[str, object]:
    """The terms in the shape of their CBOR, for files that people write (TOML, JSON)."""
    return terms.to_body()


def terms_from_plain(mapping: object) -> TermSet:
    """Reads what `to_plain` gives, or tomllib.loads; lists that are empty may be left out.

    Raises:
        InvalidArgument: The mapping does not hold terms; the field says where, as in
            "constraints[2].blocks_per_second".
    """
    body = opened(mapping)
    for name in ("obligations", "permissions", "constraints"):
        body.setdefault(name, [])
    return TermSet.read(body)


class TermsBreach(RemoteError):  # noqa: N818 - it names what happened
    """Data that its sender's terms do not allow."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one role may send under a set of terms.

    Attributes:
        flows: Blocks that may be under way, by flow; none: nothing may be sent.
        rate_blocks_per_second: 0: not limited.
        payload_max: Bytes of one payload; 0: what fits.
        content_types: Empty: any.
        windows: When; empty: always.
    """

    flows: Mapping[int, int] = field(default_factory=dict, hash=False)
    rate_blocks_per_second: int = 0
    payload_max: int = 0
    content_types: tuple[str, ...] = ()
    windows: tuple[DailyWindow, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "flows", MappingProxyType(dict(self.flows)))

    def check(self, content_type: str, size: int, unix_us: int) -> None:
        """Checks one piece of application data.

        Args:
            content_type: As its DATA frame says.
            size: Bytes.
            unix_us: When it was sent.

        Raises:
            TermsBreach: The terms do not allow it.
        """
        if not self.flows:
            raise TermsBreach("the terms do not let its sender send")
        if self.payload_max and size > self.payload_max:
            raise TermsBreach(f"{size} bytes, and the terms allow {self.payload_max}")
        if self.content_types and not any(
            content_type == allowed
            or (allowed.endswith("/*") and content_type.startswith(allowed[:-1]))
            for allowed in self.content_types
        ):
            raise TermsBreach("the terms do not allow this type of content")
        begins, _ = self.open_interval(unix_us)
        if unix_us < begins:
            raise TermsBreach("the terms do not allow it at this time")

    def open_interval(self, unix_us: int) -> tuple[int, int]:
        """The interval in which sending is allowed: the current one, or the next.

        Args:
            unix_us: The time, in microseconds since the Unix epoch.

        Returns:
            Its beginning and its end, in the same unit; (0, 0): always.
        """
        if not self.windows:
            return 0, 0
        # A stretch of touching windows is shorter than a week, or has no end at all. So two weeks
        # around now hold the whole of it.
        week = unix_us - (unix_us - _MONDAY) % (7 * DAY)
        pieces = sorted(
            (begins, begins + window.length * MINUTE)
            for window in self.windows
            for day in window.days
            for begins in (
                week + ((day + 7 * turn) * 1_440 + window.from_minute) * MINUTE
                for turn in (-2, -1, 0, 1)
            )
        )
        begins, ends = pieces[0]
        for piece in pieces[1:]:
            if piece[0] <= ends:
                ends = max(ends, piece[1])
                continue
            if ends > unix_us:
                break
            begins, ends = piece
        return (0, 0) if ends - begins > 8 * DAY else (max(begins, 0), ends)


def allowance(terms: TermSet, sender_role: str) -> Allowance:
    """What a role may send: where several constraints bind it, the strictest holds.

    Time windows add up instead, and so do the flows and content types of its permissions.
    """
    sends = [
        permission
        for permission in terms.permissions
        if permission.action == SEND and permission.party in {sender_role, ALL}
    ]
    bursts = list(terms.limits(Burst, sender_role))
    flows = {
        flow: min(
            (burst.blocks for burst in bursts if burst.flow in {0, flow}), default=DEFAULT_BURST
        )
        for flow in sorted({flow for permission in sends for flow in permission.flows})
    }
    types: tuple[str, ...] = ()
    if all(permission.content_types for permission in sends):
        types = tuple(dict.fromkeys(each for one in sends for each in one.content_types))
    return Allowance(
        flows,
        min((rate.blocks_per_second for rate in terms.limits(Rate, sender_role)), default=0),
        min((size.bytes for size in terms.limits(PayloadSize, sender_role)), default=0),
        types,
        tuple(terms.limits(DailyWindow, sender_role)),
    )


@dataclass(frozen=True, slots=True)
class Timers:
    """A covenant's timers (seed 4.4 and 7.2), in microseconds; and how often it may be deferred.

    Attributes:
        offer: For an answer to an OFFER.
        defer: In DEFERRED, for more information.
        bind: For the other side's BIND.
        heartbeat: From one HEARTBEAT to the next.
        heartbeat_timeout: Without any, before the peer counts as gone.
        amend: For an answer to an AMEND.
        clock_skew: How far in the past a frame may have been sent.
        max_deferrals: Of one offer.
    """

    offer: int = 30 * SECOND
    defer: int = 120 * SECOND
    bind: int = 10 * SECOND
    heartbeat: int = 60 * SECOND
    heartbeat_timeout: int = 180 * SECOND
    amend: int = 60 * SECOND
    clock_skew: int = 30 * SECOND
    max_deferrals: int = DEFAULT_DEFERRALS

    @classmethod
    def of(cls, terms: TermSet) -> Timers:
        """The defaults, and what the terms say instead."""
        said = {_TIMERS[limit.timer]: limit.microseconds for limit in terms.limits(TermTimer)}
        for limit in terms.limits(Deferrals):
            said["max_deferrals"] = limit.count
        return cls(**said)
