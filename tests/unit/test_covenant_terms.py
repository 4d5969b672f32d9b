import tomllib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.covenant.fields import PayloadError
from assent.covenant.terms import (
    DEFAULT_BURST,
    Allowance,
    Burst,
    Constraint,
    DailyWindow,
    Deferrals,
    Obligation,
    Other,
    PayloadSize,
    Permission,
    Rate,
    TermsBreach,
    TermSet,
    TermTimer,
    Timers,
    Unknown,
    allowance,
    terms_from_plain,
    terms_hash,
    to_plain,
)
from assent.errors import InvalidArgument

from .covenant_values import TERMS, term_sets

SEND = Permission("send", "initiator", "send", (1, 2))
BODY = {"id": "c", "party": "*", "kind": "rate", "blocks_per_second": 5}
WEEK = 7 * 86_400_000_000


def terms(*constraints, permissions=(SEND,)):
    numbered = (
        each if isinstance(each, Constraint) else Constraint(f"c{at}", *each)
        for at, each in enumerate(constraints)
    )
    return TermSet((), tuple(permissions), tuple(numbered))


def unix_us(*when):
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000


# ---- codec


@given(term_sets)
def test_terms_round_trip_in_both_forms(made):
    assert TermSet.from_body(made.to_body()) == made
    assert terms_from_plain(to_plain(made)) == made
    assert terms_hash(TermSet.from_body(made.to_body())) == terms_hash(made)


def test_the_hash_is_kept_and_depends_on_every_term():
    assert terms_hash(TERMS) is terms_hash(TERMS)
    fewer = replace(TERMS, obligations=TERMS.obligations[:1])
    assert terms_hash(fewer) != terms_hash(TERMS)
    assert terms_hash(replace(fewer, obligations=TERMS.obligations)) == terms_hash(TERMS)


@pytest.mark.parametrize(
    ("limit", "fields"),
    [
        (Rate(5), {"kind": "rate", "blocks_per_second": 5}),
        (Burst(5), {"kind": "burst", "blocks": 5}),
        (Burst(5, 2), {"kind": "burst", "blocks": 5, "flow": 2}),
        (PayloadSize(5), {"kind": "payload_size", "bytes": 5}),
        (
            DailyWindow(60, 30, (0, 6)),
            {"kind": "time_window", "from_minute": 60, "to_minute": 30, "days": [0, 6]},
        ),
        (
            TermTimer("T_bind", 5_000),
            {"kind": "timer", "timer": "T_bind", "microseconds": 5_000},
        ),
        (Deferrals(0), {"kind": "deferrals", "count": 0}),
        (Other("be kind"), {"kind": "other", "value": "be kind"}),
        (Unknown("colour"), {"kind": "colour"}),
    ],
)
def test_a_constraint_is_a_flat_map(limit, fields):
    constraint = Constraint("c", "initiator", limit)
    assert constraint.to_body() == {"id": "c", "party": "initiator", **fields}
    assert Constraint.from_body(constraint.to_body()) == constraint


def test_a_kind_that_is_not_known_is_kept_with_its_fields():
    body = {"id": "c", "party": "*", "kind": "colour", "shade": ["dark", 3]}
    read = Constraint.from_body(body)
    assert read.limit == Unknown("colour")
    assert read.extensions == {"shade": ["dark", 3]}
    assert read.to_body() == body


def test_a_flow_of_0_that_is_spelled_out_is_kept():
    body = {"id": "c", "party": "*", "kind": "burst", "blocks": 5, "flow": 0}
    read = Constraint.from_body(body)
    assert read.limit == Burst(5)
    assert read.to_body() == body


@pytest.mark.parametrize("make", [lambda: Unknown("rate"), lambda: Constraint("c", "*", 5)])
def test_a_limit_is_one_of_the_kinds(make):
    with pytest.raises(InvalidArgument, match=r"kind|limit"):
        make()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**BODY, "blocks_per_second": 0}, "blocks_per_second"),
        ({**BODY, "blocks_per_second": 1 << 32}, "blocks_per_second"),
        ({**BODY, "blocks_per_second": True}, "blocks_per_second"),
        ({"id": "c", "party": "*", "kind": "rate"}, "blocks_per_second: is missing"),
        ({**BODY, "kind": None}, "kind"),
        ({**BODY, "kind": 1}, "kind"),
        ({**BODY, "id": ""}, "id"),
        ({**BODY, "party": "x" * 65}, "party"),
        ({**BODY, "description": None}, "description"),
        ({**BODY, "description": "\x07"}, "description"),
        ({**BODY, "kind": "burst", "blocks": 0}, "blocks"),
        ({**BODY, "kind": "burst", "blocks": 32_768}, "blocks"),
        ({**BODY, "kind": "burst", "blocks": 1, "flow": 8}, "flow"),
        ({**BODY, "kind": "burst", "blocks": 1, "flow": None}, "flow"),
        ({**BODY, "kind": "payload_size", "bytes": 0}, "bytes"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 2}, "days"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 2, "days": []}, "days"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 2, "days": [7]}, "days"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 2, "days": [1, 0]}, "days"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 2, "days": [1, 1]}, "days"),
        ({**BODY, "kind": "time_window", "from_minute": 1, "to_minute": 1, "days": [1]}, "to_min"),
        ({**BODY, "kind": "time_window", "from_minute": 1440, "to_minute": 1, "days": [1]}, "from"),
        ({**BODY, "kind": "time_window", "from_minute": 0, "to_minute": 1441, "days": [1]}, "to_m"),
        ({**BODY, "kind": "timer", "timer": "T_tea", "microseconds": 5_000}, "timer"),
        ({**BODY, "kind": "timer", "timer": "T_bind", "microseconds": 999}, "microseconds"),
        (
            {**BODY, "kind": "timer", "timer": "T_bind", "microseconds": 366 * 86_400_000_000 + 1},
            "microseconds",
        ),
        ({**BODY, "kind": "deferrals", "count": 256}, "count"),
        ({**BODY, "kind": "deferrals", "count": -1}, "count"),
        ({**BODY, "kind": "other", "value": ""}, "value"),
    ],
)
def test_a_constraint_out_of_range_is_refused_by_name(body, field):
    with pytest.raises(PayloadError, match=field):
        Constraint.from_body(body)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"flows": ()}, "flows"),
        ({"flows": (0,)}, r"flows\[0\]"),
        ({"flows": (8,)}, r"flows\[0\]"),
        ({"flows": (2, 1)}, r"flows\[1\]"),
        ({"flows": (1, 1)}, r"flows\[1\]"),
        ({"flows": [1]}, "flows"),
        ({"flows": (True,)}, r"flows\[0\]"),
        ({"content_types": ("text",)}, r"content_types\[0\]"),
        ({"content_types": ("*/*",)}, r"content_types\[0\]"),
        ({"content_types": ("text/",)}, r"content_types\[0\]"),
        ({"content_types": ("a/b/c",)}, r"content_types\[0\]"),
        ({"content_types": ("text/plain", 1)}, r"content_types\[1\]"),
        ({"action": ""}, "action"),
    ],
)
def test_a_permission_out_of_range_is_refused_by_name(fields, field):
    with pytest.raises(InvalidArgument, match=field):
        replace(SEND, **fields)


def test_an_action_other_than_send_needs_no_flows():
    assert allowance(terms(permissions=[Permission("p", "*", "read")]), "initiator").flows == {}


# ---- what contradicts itself


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        ([("*", Rate(1)), ("*", Rate(2))], r"constraints\[1\]: c1 says again what c0 says"),
        ([("initiator", Rate(1)), ("initiator", Rate(1))], "c1 says again"),
        ([("*", PayloadSize(1)), ("*", PayloadSize(2))], "c1 says again"),
        ([("*", Burst(1)), ("*", Burst(2))], "c1 says again"),
        ([("*", Burst(1, 2)), ("*", Burst(2, 2))], "c1 says again"),
        ([("*", TermTimer("T_bind", 5_000)), ("initiator", TermTimer("T_bind", 6_000))], "c1 says"),
        ([("*", Deferrals(1)), ("initiator", Deferrals(2))], "c1 says again"),
        ([("*", Rate(1)), ("*", Burst(1, 3))], r"constraints\[1\]: c1 .* flow 3"),
        ([("responder", Burst(1))], "c0 bounds responder, which may not send on any flow"),
        ([("*", TermTimer("T_heartbeat", 180_000_000))], "c0: T_heartbeat must be less"),
        ([("*", TermTimer("T_heartbeat_timeout", 60_000_000))], "c0: T_heartbeat must be less"),
    ],
)
def test_terms_that_contradict_themselves_are_refused_by_id(constraints, reason):
    with pytest.raises(InvalidArgument, match=reason):
        terms(*constraints)


def test_what_looks_alike_but_is_not_the_same_is_fine():
    terms(
        ("*", Rate(1)),
        ("initiator", Rate(2)),
        ("*", Burst(1)),
        ("*", Burst(1, 1)),
        ("*", DailyWindow(1, 2, (0,))),
        ("*", DailyWindow(1, 2, (0,))),
        ("*", Other("a")),
        ("*", Other("b")),
        ("*", Unknown("x")),
        ("*", Unknown("x")),
        ("*", TermTimer("T_heartbeat", 200_000_000)),
        ("*", TermTimer("T_heartbeat_timeout", 600_000_000)),
    )


def test_an_id_stands_once_among_all_terms():
    with pytest.raises(InvalidArgument, match=r"permissions\[0\].id: send is there twice"):
        TermSet((Obligation("send", "*", "log"),), (SEND,))


def test_a_peers_contradiction_is_the_peers_mistake():
    with pytest.raises(PayloadError, match="says again"):
        TermSet.from_body({**TermSet().to_body(), "constraints": [BODY, {**BODY, "id": "d"}]})


# ---- allowance


def test_nothing_is_allowed_that_is_not_permitted():
    assert allowance(TermSet(), "initiator") == Allowance()
    assert allowance(terms(), "responder").flows == {}
    with pytest.raises(TermsBreach, match="do not let"):
        allowance(terms(), "responder").check("text/plain", 1, 0)


def test_an_allowance_is_that_of_the_role():
    made = allowance(TERMS, "initiator")
    assert made.flows == {1: 2048, 2: 2048}
    assert made.rate_blocks_per_second == 1000
    assert made.payload_max == 65_536
    assert made.content_types == ("text/*", "application/octet-stream")
    assert made.windows == (DailyWindow(540, 1080, (0, 1, 2, 3, 4)),)
    assert allowance(TERMS, "responder") == Allowance({1: DEFAULT_BURST}, 0, 65_536)
    with pytest.raises(TypeError):
        made.flows[3] = 1


def test_of_several_bounds_the_strictest_holds():
    made = terms(
        ("*", Rate(5)),
        ("initiator", Rate(9)),
        ("*", PayloadSize(9)),
        ("initiator", PayloadSize(5)),
        ("*", Burst(9)),
        ("initiator", Burst(5, 2)),
    )
    allowed = allowance(made, "initiator")
    assert (allowed.rate_blocks_per_second, allowed.payload_max) == (5, 5)
    assert allowed.flows == {1: 9, 2: 5}


def test_permissions_add_up():
    both = [
        replace(SEND, content_types=("text/plain",)),
        Permission("all", "*", "send", (5,), ("text/plain", "image/*")),
    ]
    allowed = allowance(terms(permissions=both), "initiator")
    assert tuple(allowed.flows) == (1, 2, 5)
    assert allowed.content_types == ("text/plain", "image/*")
    free = allowance(terms(permissions=[both[0], replace(both[1], content_types=())]), "initiator")
    assert free.content_types == ()


def test_data_is_held_to_the_allowance():
    allowed = replace(allowance(TERMS, "initiator"), windows=())
    allowed.check("text/plain", 65_536, 0)
    for content_type, size, reason in (
        ("text/plain", 65_537, "65537 bytes"),
        ("image/png", 1, "type of content"),
        ("text", 1, "type of content"),
        ("textual/plain", 1, "type of content"),
    ):
        with pytest.raises(TermsBreach, match=reason):
            allowed.check(content_type, size, 0)


# ---- time windows: 2026-11-16 was a Monday


@pytest.mark.parametrize(
    ("now", "begins", "ends"),
    [
        ((2026, 11, 16, 9), (2026, 11, 16, 9), (2026, 11, 16, 18)),
        ((2026, 11, 16, 17, 59, 59), (2026, 11, 16, 9), (2026, 11, 16, 18)),
        ((2026, 11, 16, 18), (2026, 11, 17, 9), (2026, 11, 17, 18)),
        ((2026, 11, 16, 8, 59), (2026, 11, 16, 9), (2026, 11, 16, 18)),
        ((2026, 11, 20, 18), (2026, 11, 23, 9), (2026, 11, 23, 18)),
        ((2026, 11, 22, 12), (2026, 11, 23, 9), (2026, 11, 23, 18)),
    ],
)
def test_office_hours(now, begins, ends):
    allowed = allowance(TERMS, "initiator")
    assert allowed.open_interval(unix_us(*now)) == (unix_us(*begins), unix_us(*ends))


@pytest.mark.parametrize(
    ("now", "begins", "ends"),
    [
        ((2026, 11, 16, 12), (2026, 11, 22, 22), (2026, 11, 23, 6)),
        ((2026, 11, 16, 5), (2026, 11, 15, 22), (2026, 11, 16, 6)),
        ((2026, 11, 22, 23), (2026, 11, 22, 22), (2026, 11, 23, 6)),
        ((2026, 11, 23, 5, 59), (2026, 11, 22, 22), (2026, 11, 23, 6)),
        ((2026, 11, 23, 6), (2026, 11, 29, 22), (2026, 11, 30, 6)),
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_of_its_beginning(now, begins, ends):
    allowed = Allowance({1: 1}, windows=(DailyWindow(1320, 360, (6,)),))
    assert allowed.open_interval(unix_us(*now)) == (unix_us(*begins), unix_us(*ends))


def test_windows_that_touch_are_one():
    windows = (DailyWindow(0, 1440, (0, 1)), DailyWindow(1200, 60, (1,)))
    allowed = Allowance({1: 1}, windows=windows)
    whole = unix_us(2026, 11, 16), unix_us(2026, 11, 18, 1)
    assert allowed.open_interval(unix_us(2026, 11, 17, 12)) == whole
    assert allowed.open_interval(unix_us(2026, 11, 14)) == whole


@pytest.mark.parametrize(
    "windows",
    [
        (),
        (DailyWindow(0, 1440, tuple(range(7))),),
        (DailyWindow(0, 720, tuple(range(7))), DailyWindow(720, 1440, tuple(range(7)))),
        (DailyWindow(600, 599, tuple(range(7))), DailyWindow(590, 610, tuple(range(7)))),
    ],
)
def test_windows_without_a_gap_are_always(windows):
    assert Allowance({1: 1}, windows=windows).open_interval(unix_us(2026, 11, 16)) == (0, 0)


@given(
    st.lists(
        st.builds(
            DailyWindow,
            st.integers(0, 700),
            st.integers(701, 1440),
            st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
        )
        | st.builds(
            DailyWindow,
            st.integers(800, 1439),
            st.integers(1, 799),
            st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(2 * WEEK, 3000 * WEEK),
)
def test_an_interval_is_what_the_minutes_say(windows, now):
    def is_open(unix_us):
        minute = unix_us // 60_000_000
        day, of_day = (minute // 1440 + 3) % 7, minute % 1440
        return any(
            (
                window.from_minute <= of_day < window.from_minute + window.length
                and day in window.days
            )
            or (of_day + 1440 < window.from_minute + window.length and (day - 1) % 7 in window.days)
            for window in windows
        )

    begins, ends = Allowance({1: 1}, windows=tuple(windows)).open_interval(now)
    if (begins, ends) == (0, 0):
        assert all(is_open(now + hour * 3_600_000_000) for hour in range(168))
        return
    assert ends > now
    assert is_open(begins)
    assert is_open(ends - 1)
    assert not is_open(ends)
    assert not is_open(begins - 1)
    assert is_open(now) == (begins <= now)


def test_data_outside_of_its_window_is_a_breach():
    allowed = allowance(TERMS, "initiator")
    allowed.check("text/plain", 1, unix_us(2026, 11, 16, 9))
    with pytest.raises(TermsBreach, match="at this time"):
        allowed.check("text/plain", 1, unix_us(2026, 11, 16, 8))


# ---- timers


def test_the_timers_of_the_seed_hold_where_the_terms_say_nothing():
    seconds = {
        "offer": 30,
        "defer": 120,
        "bind": 10,
        "heartbeat": 60,
        "heartbeat_timeout": 180,
        "amend": 60,
        "clock_skew": 30,
    }
    timers = Timers.of(TermSet())
    assert timers == Timers()
    assert {name: getattr(timers, name) // 1_000_000 for name in seconds} == seconds
    assert timers.max_deferrals == 3


@pytest.mark.parametrize("name", ["T_offer", "T_defer", "T_bind", "T_amend", "T_clock_skew"])
def test_every_timer_can_be_agreed_on(name):
    timers = Timers.of(terms(("*", TermTimer(name, 5_000))))
    assert timers == replace(Timers(), **{name.removeprefix("T_"): 5_000})


def test_deferrals_can_be_agreed_on():
    assert Timers.of(terms(("*", Deferrals(0)))).max_deferrals == 0


# ---- files for people


def test_a_toml_file_holds_terms():
    text = """
        [[permissions]]
        id = "push"
        party = "initiator"
        action = "send"
        flows = [1]
        content_types = ["text/*"]

        [[constraints]]
        id = "rate"
        party = "initiator"
        kind = "rate"
        blocks_per_second = 1_000
    """
    made = terms_from_plain(tomllib.loads(text))
    assert made.constraints == (Constraint("rate", "initiator", Rate(1000)),)
    assert made.obligations == ()


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        ({"constraints": [BODY, {**BODY, "id": "d", "party": "x"},
                          {**BODY, "blocks_per_second": 0}]},
         r"^constraints\[2\]\.blocks_per_second: "),
        ({"constraints": [5]}, r"^constraints\[0\]: must be a map"),
        ({"constraints": {}}, "^constraints: must be a list"),
        ({"permissions": [{**SEND.to_body(), "flows": [9]}]}, r"^permissions\[0\]\.flows\[0\]: "),
        ({"obligations": [{"id": "a"}]}, r"^obligations\[0\]\.party: is missing"),
        ([], "must be a map"),
        ({"obligations": [{}] * 65}, "^obligations: must be a list of 0 to 64"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named_by_its_place(mapping, field):
    with pytest.raises(InvalidArgument, match=field):
        terms_from_plain(mapping)


def test_an_offer_does_not_leave_lists_out():
    with pytest.raises(PayloadError, match="obligations: is missing"):
        TermSet.from_body({"permissions": [], "constraints": []})
