# SPDX-License-Identifier: Apache-2.0
"""What a peer is scheduled, paced and acknowledged by (seed 5.3 to 5.5 and appendix C).

A profile is read from TOML over one that is built in:

    profile = "cross-dc"

    [classes.p1]
    credit = 1_048_576      # bytes per slot
    margin_ns = 60_000_000

    [arbitration]
    burst_p1 = 16

A key that is not known is refused: a bound that is misspelt must not be one that is missing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

from assent.errors import InvalidArgument

MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
KIB: Final = 1024
MIB: Final = 1024 * KIB

PACKET_MAX: Final = 65_507
"""Bytes that a UDP datagram over IPv4 holds. Any budget pays for one."""
CREDIT_MAX: Final = 1 << 30
SLOT_LEAST: Final = MILLISECOND
SLOT_MOST: Final = 8 * SECOND
PERMILLE: Final = 1_000
_TIME_MOST: Final = 3_600 * SECOND


def _number(default: int, least: int, most: int) -> Any:
    """A setting with its bounds, both included."""
    return field(default=default, metadata={"least": least, "most": most})


class _Section:
    """Whole numbers, each within its own bounds."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value, least, most = getattr(self, one.name), *one.metadata.values()
            # bool is an int in Python, not in a configuration.
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidArgument(one.name, f"needs a whole number, not {value!r:.40}")
            if not least <= value <= most:
                raise InvalidArgument(one.name, f"needs {least} to {most}, got {value}")
        self._check()

    def _check(self) -> None:
        """What more must hold.

        Raises:
            InvalidArgument: Settings contradict each other.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSettings(_Section):
    """One class of service towards one peer.

    Attributes:
        credit: bytes per slot, B_c: the rate of refill is credit / slot length, and no more than
            this is ever saved up.
        floor: bytes per slot that neither ECN scaling nor a stake's cap goes below, B_min. P2 is
            also served so many in every slot for which it has them.
        ceiling: bytes per slot that no cap goes above, B_max.
        margin_ns: how long before the end of its slot a packet must have left.
        queue_packets: that may wait; more are refused.
        queue_bytes: and their bytes.
    """

    credit: int = _number(MIB, PACKET_MAX, CREDIT_MAX)
    floor: int = _number(PACKET_MAX, PACKET_MAX, CREDIT_MAX)
    ceiling: int = _number(CREDIT_MAX, PACKET_MAX, CREDIT_MAX)
    margin_ns: int = _number(0, 0, SLOT_MOST)
    queue_packets: int = _number(4096, 1, 1 << 20)
    queue_bytes: int = _number(8 * MIB, PACKET_MAX, CREDIT_MAX)

    def _check(self) -> None:
        if not self.floor <= self.credit <= self.ceiling:
            raise InvalidArgument(
                "credit", f"needs {self.floor} (floor) to {self.ceiling} (ceiling)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """The settings of P0 (votes), P1 (shreds), P2 (repair) and P3 (background)."""

    p0: ClassSettings
    p1: ClassSettings
    p2: ClassSettings
    p3: ClassSettings

    def in_order(self) -> tuple[ClassSettings, ClassSettings, ClassSettings, ClassSettings]:
        """By class number."""
        return self.p0, self.p1, self.p2, self.p3


@dataclass(frozen=True, slots=True, kw_only=True)
class Arbitration(_Section):
    """How classes take turns.

    Attributes:
        burst_p0: M0, packets of P0 in a row after which one of P1 or P2 has its turn.
        burst_p1: M1, packets of P1 in a row after which one of P2 has its turn.
        quantum_p1: q1, bytes that P1 may send in a round of the deficit round robin.
        quantum_p2: q2, the same of P2.
        bursts: N, nominal bursts in a slot: a peer's phase is less than slot length / N.
    """

    burst_p0: int = _number(8, 1, 1 << 16)
    burst_p1: int = _number(8, 1, 1 << 16)
    quantum_p1: int = _number(64 * KIB, KIB, CREDIT_MAX)
    quantum_p2: int = _number(64 * KIB, KIB, CREDIT_MAX)
    bursts: int = _number(128, 1, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecn(_Section):
    """The scale of a slot's credits by the CE marks of the slot before (5.4).

    Attributes:
        high_permille: marks of at least so many thousandths scale by `high_scale`.
        high_scale: thousandths.
        raised_permille: and of at least so many by `raised_scale`.
        raised_scale: thousandths.
        calm_permille: marks of less than this, in `calm_slots` slots in a row, scale by
            `calm_scale`.
        calm_scale: thousandths.
        calm_slots: how many.
        step_permille: thousandths of its credit by which a class's budget changes, at most, from
            one slot to the next. The scale's own greatest step is 300.
    """

    high_permille: int = _number(20, 1, PERMILLE)
    high_scale: int = _number(700, 1, PERMILLE)
    raised_permille: int = _number(10, 1, PERMILLE)
    raised_scale: int = _number(850, 1, PERMILLE)
    calm_permille: int = _number(2, 0, PERMILLE)
    calm_scale: int = _number(980, 1, PERMILLE)
    calm_slots: int = _number(16, 1, 1 << 16)
    step_permille: int = _number(300, 1, PERMILLE)

    def _check(self) -> None:
        if not self.calm_permille <= self.raised_permille <= self.high_permille:
            raise InvalidArgument("raised_permille", "needs calm_permille to high_permille")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(_Section):
    """The lead that a packet has on its launch time (5.5).

    Attributes:
        initial_ns: at first.
        least_ns: the least that tuning arrives at.
        most_ns: and the most.
        step_ns: by which it changes.
        target_permille: packets in a thousand that may be late.
    """

    initial_ns: int = _number(500 * MICROSECOND, MICROSECOND, SECOND)
    least_ns: int = _number(200 * MICROSECOND, MICROSECOND, SECOND)
    most_ns: int = _number(2 * MILLISECOND, MICROSECOND, SECOND)
    step_ns: int = _number(50 * MICROSECOND, 1, SECOND)
    target_permille: int = _number(1, 1, PERMILLE)

    def _check(self) -> None:
        if not self.least_ns <= self.initial_ns <= self.most_ns:
            raise InvalidArgument("initial_ns", "needs least_ns to most_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots(_Section):
    """How long slots are, and how well that is known (5.6).

    Attributes:
        length_ns: until beacons have told.
        least_ns: the shortest that beacons are believed to tell.
        most_ns: and the longest.
        drift_ppm: how far the map of slots may run off while no beacon comes, millionths.
    """

    length_ns: int = _number(400 * MILLISECOND, SLOT_LEAST, SLOT_MOST)
    least_ns: int = _number(300 * MILLISECOND, SLOT_LEAST, SLOT_MOST)
    most_ns: int = _number(700 * MILLISECOND, SLOT_LEAST, SLOT_MOST)
    drift_ppm: int = _number(200, 1, 1_000_000)

    def _check(self) -> None:
        if not self.least_ns <= self.length_ns <= self.most_ns:
            raise InvalidArgument("length_ns", "needs least_ns to most_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability(_Section):
    """Acknowledgments, one fast resend, and the replay window (5.3).

    Attributes:
        ack_packets: an ACK_RLE is sent after so many packets,
        ack_interval_ns: or this long after the first of them.
        ack_bytes: that its ranges take, at most.
        nack_entries: of a NACK_LIST, at most.
        nack_window_ns: before the slot's end, in which one is allowed.
        resend_fraction: P0 is sent again where no ACK came in slot length / this,
        resend_most_ns: or in this, whichever is less.
        replay_slots: W, slots that the replay window spans.
    """

    ack_packets: int = _number(16, 1, 1 << 16)
    ack_interval_ns: int = _number(5 * MILLISECOND, MICROSECOND, SECOND)
    ack_bytes: int = _number(64, 4, 64)
    nack_entries: int = _number(8, 1, 8)
    nack_window_ns: int = _number(10 * MILLISECOND, 0, SECOND)
    resend_fraction: int = _number(8, 1, 1 << 16)
    resend_most_ns: int = _number(20 * MILLISECOND, MICROSECOND, SECOND)
    replay_slots: int = _number(4, 4, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mtu(_Section):
    """Path MTU discovery (7).

    Attributes:
        base_payload: bytes of a datagram that are taken to pass.
        most_payload: and the most that are tried.
        probe_interval_ns: between two searches.
    """

    base_payload: int = _number(1200, 1200, PACKET_MAX)
    most_payload: int = _number(8952, 1200, PACKET_MAX)
    probe_interval_ns: int = _number(60 * SECOND, MILLISECOND, _TIME_MOST)

    def _check(self) -> None:
        if self.most_payload < self.base_payload:
            raise InvalidArgument("most_payload", f"is less than base_payload {self.base_payload}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors(_Section):
    """How long a neighbor set is kept (5.7).

    Attributes:
        ttl_least_slots: the shortest, before jitter.
        ttl_most_slots: the longest.
        parents_least: distinct upstream parents that the diversity guard asks for.
    """

    ttl_least_slots: int = _number(2, 1, 1 << 16)
    ttl_most_slots: int = _number(4, 1, 1 << 16)
    parents_least: int = _number(2, 1, 1 << 10)

    def _check(self) -> None:
        if self.ttl_most_slots < self.ttl_least_slots:
            raise InvalidArgument("ttl_most_slots", "is less than ttl_least_slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All that is configured towards a peer; the defaults are appendix C's.

    Attributes:
        name: of the profile that this one is, or was made from.
    """

    name: str
    classes: Classes
    arbitration: Arbitration = field(default_factory=Arbitration)
    ecn: Ecn = field(default_factory=Ecn)
    guard: Guard = field(default_factory=Guard)
    slots: Slots = field(default_factory=Slots)
    reliability: Reliability = field(default_factory=Reliability)
    mtu: Mtu = field(default_factory=Mtu)
    neighbors: Neighbors = field(default_factory=Neighbors)


INTRA_DC: Final = Profile(
    name="intra-dc",
    classes=Classes(
        # Its floor is its credit: votes are never scaled down.
        p0=ClassSettings(
            credit=64 * KIB,
            floor=64 * KIB,
            ceiling=64 * KIB,
            margin_ns=2 * MILLISECOND,
            queue_packets=1024,
            queue_bytes=256 * KIB,
        ),
        p1=ClassSettings(
            credit=2 * MIB,
            floor=512 * KIB,
            ceiling=8 * MIB,
            margin_ns=5 * MILLISECOND,
            queue_packets=8192,
            queue_bytes=8 * MIB,
        ),
        p2=ClassSettings(
            credit=MIB,
            floor=256 * KIB,
            ceiling=4 * MIB,
            margin_ns=2 * MILLISECOND,
            queue_packets=4096,
            queue_bytes=4 * MIB,
        ),
        p3=ClassSettings(
            credit=256 * KIB,
            floor=64 * KIB,
            ceiling=256 * KIB,
            queue_packets=1024,
            queue_bytes=MIB,
        ),
    ),
)
_FAR: Final = INTRA_DC.classes
# What leaves later than a path's delay before the end of the slot arrives after it.
CROSS_DC: Final = replace(
    INTRA_DC,
    name="cross-dc",
    classes=Classes(
        p0=replace(_FAR.p0, margin_ns=45 * MILLISECOND),
        p1=replace(_FAR.p1, margin_ns=50 * MILLISECOND),
        p2=replace(_FAR.p2, margin_ns=45 * MILLISECOND),
        p3=_FAR.p3,
    ),
)
PROFILES: Final[Mapping[str, Profile]] = {one.name: one for one in (INTRA_DC, CROSS_DC)}

_Table = TypeVar("_Table")


def loads(text: str) -> Profile:
    """Reads a profile; what the text does not say is as in the profile that it names.

    Args:
        text: TOML; `profile` names one that is built in, intra-dc where it is left out.

    Raises:
        InvalidArgument: It is not TOML, or a setting is unknown, of the wrong type, out of range,
            or contradicts another one; the error names table and key.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidArgument("profile", f"is not TOML: {error}") from None
    return from_tables(values)


def from_tables(values: Mapping[str, object]) -> Profile:
    """As `loads`, of what tomllib has read."""
    tables = dict(values)
    name = tables.pop("profile", INTRA_DC.name)
    if not isinstance(name, str) or name not in PROFILES:
        raise InvalidArgument("profile", f"needs one of {', '.join(PROFILES)}, not {name!r:.40}")
    if "name" in tables:
        raise InvalidArgument("name", "no such setting; a profile is named by `profile`")
    return _merged(PROFILES[name], tables, "")


def dumps(profile: Profile) -> str:
    """A profile as TOML, every setting of it; `loads` gives the same profile again."""
    lines = [f'profile = "{profile.name}"']
    for section in fields(profile)[1:]:
        table = getattr(profile, section.name)
        if isinstance(table, Classes):
            for one in fields(table):
                lines += _written(f"classes.{one.name}", getattr(table, one.name))
        else:
            lines += _written(section.name, table)
    return "\n".join(lines) + "\n"


def _written(name: str, table: Any) -> list[str]:
    return ["", f"[{name}]", *(f"{one.name} = {getattr(table, one.name)}" for one in fields(table))]


def _merged(base: _Table, values: object, path: str) -> _Table:
    """A table over its defaults."""
    if not isinstance(values, Mapping):
        raise InvalidArgument(path, f"needs a table, as in [{path}]")
    known = {one.name for one in fields(base)}  # type: ignore[arg-type]
    changed: dict[str, object] = {}
    for key, value in values.items():
        place = f"{path}.{key}" if path else str(key)
        if key not in known:
            raise InvalidArgument(place, "no such setting")
        # Sections and their settings are the two kinds of fields that there are.
        old = getattr(base, key)
        changed[key] = value if isinstance(old, int) else _merged(old, value, place)
    try:
        return replace(base, **changed)  # type: ignore[type-var]
    except InvalidArgument as error:
        place = f"{path}.{error.field}" if path else error.field
        raise InvalidArgument(place, error.problem) from None
