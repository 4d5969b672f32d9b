from dataclasses import replace

import pytest
from hypothesis import given

from assent.covenant.render import changes, describe, duration_text, size_text
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

from .covenant_values import TERMS, term_sets


def test_terms_in_words():
    assert describe(TERMS, {"initiator": "left"}) == [
        "left may send on flows 1, 2: at most 1,000 blocks/s (64 kB/s); 2,048 blocks (131 kB) under"
        " way; payloads up to 65.5 kB; text/*, application/octet-stream; Mon to Fri from 09:00 to"
        " 18:00 UTC",
        "responder may send on flow 1: at any rate; 4,096 blocks (262 kB) under way; payloads up to"
        " 65.5 kB; any content; at any time",
        "log: every party owes: log (Keep a log of what was sent for thirty days)",
        "report: responder owes: report",
        "push: left may send on flows 1, 2: text/*, application/octet-stream",
        "answer: responder may send on flow 1: any content (Answers)",
        "rate: left sends at most 1,000 blocks/s (64 kB/s)",
        "burst: left sends with at most 2,048 blocks (131 kB) under way on each flow",
        "size: every party sends payloads of at most 65,536 bytes",
        "office: left sends Mon to Fri from 09:00 to 18:00 UTC",
        "beat: a heartbeat is sent every 30 s",
    ]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Rate(1), "a sends at most 1 block/s (64 B/s)"),
        (Rate(1_000_000), "a sends at most 1,000,000 blocks/s (64 MB/s)"),
        (Burst(1, 2), "a sends with at most 1 block (64 B) under way on flow 2"),
        (DailyWindow(1320, 360, (0, 1, 6)),
         "a sends Mon, Tue, Sun from 22:00 to 06:00 the next day UTC"),
        (DailyWindow(0, 1440, tuple(range(7))), "a sends daily from 00:00 to 24:00 UTC"),
        (DailyWindow(0, 1, (0, 1, 2, 4, 5, 6)),
         "a sends Mon to Wed, Fri to Sun from 00:00 to 00:01 UTC"),
        (TermTimer("T_offer", 90_000_000), "an offer waits 1 min 30 s for an answer"),
        (Deferrals(1), "an offer may be deferred 1 time"),
        (Deferrals(2), "an offer may be deferred 2 times"),
        (Other("no sarcasm"), "no sarcasm (not enforced by the gate)"),
        (Unknown("colour"),
         "a constraint of the kind 'colour', not understood here and not enforced"),
    ],
)  # fmt: skip
def test_a_constraint_in_words(limit, words):
    send = Permission("send", "a", "send", (2,))
    assert describe(TermSet((), (send,), (Constraint("c", "a", limit),)))[-1] == f"c: {words}"


def test_windows_and_bursts_that_differ_are_told_apart():
    send = Permission("send", "a", "send", (1, 2))
    made = TermSet(
        (),
        (send,),
        (
            Constraint("b", "a", Burst(5, 1)),
            Constraint("m", "a", DailyWindow(0, 60, (0,))),
            Constraint("n", "a", DailyWindow(120, 180, (0,))),
        ),
    )
    first = describe(made)[0]
    assert "blocks under way: 5 on 1, 4,096 on 2" in first
    assert "Mon from 00:00 to 01:00 UTC and Mon from 02:00 to 03:00 UTC" in first


def test_what_is_not_understood_is_said():
    odd = Obligation("o", "*", "dance", extensions={"tempo": 120})
    assert describe(TermSet((odd,))) == [
        "o: every party owes: dance; says more than is understood here: tempo"
    ]


def test_an_action_that_opens_no_flow_is_told_as_it_is():
    read = Permission("p", "*", "read logs")
    assert describe(TermSet((), (read,))) == ["p: every party may read logs"]


def test_changes_in_words():
    push, answer = TERMS.permissions
    new = TermSet(
        TERMS.obligations[:1],
        (push, replace(answer, flows=(1, 2), content_types=("text/*",), description="")),
        (
            Constraint("rate", "initiator", Rate(2000)),
            *TERMS.constraints[1:3],
            Constraint("office", "initiator", Deferrals(1)),
            Constraint("gap", "*", Other("silence")),
        ),
    )
    assert changes(TERMS, new, {"initiator": "left"}) == [
        "removed report: responder owes: report",
        "removed beat: a heartbeat is sent every 30 s",
        "changed answer: flows: 1 -> 1, 2; content: any -> text/*; description: Answers -> none",
        "changed rate: at most 1,000 blocks/s (64 kB/s) -> at most 2,000 blocks/s (128 kB/s)",
        "changed office: left sends Mon to Fri from 09:00 to 18:00 UTC -> an offer may be deferred"
        " 1 time",
        "added gap: silence (not enforced by the gate)",
    ]


def test_every_field_of_a_term_shows_when_it_changes():
    for term, changed, words in (
        (
            Obligation("x", "a", "log"),
            Obligation("x", "b", "scan"),
            "party: a -> b; duty: log -> scan",
        ),
        (
            Permission("x", "a", "read"),
            Permission("x", "a", "write", (1,)),
            "action: read -> write; flows: none -> 1",
        ),
        (
            Constraint("x", "a", Other("u")),
            Constraint("x", "*", Other("v"), "why"),
            "party: a -> every party; u (not enforced by the gate) -> v (not enforced by the gate);"
            " description: none -> why",
        ),
        (
            Obligation("x", "a", "log"),
            Obligation("x", "a", "log", extensions={"k": 1}),
            "what it says beyond what is understood here",
        ),
    ):
        kinds = {Obligation: "obligations", Permission: "permissions", Constraint: "constraints"}
        old, new = (TermSet(**{kinds[type(one)]: (one,)}) for one in (term, changed))
        assert changes(old, new) == [f"changed x: {words}"]


def test_sizes_that_look_alike_are_told_apart():
    old, new = (TermSet((), (), (Constraint("s", "*", PayloadSize(n)),)) for n in (65_536, 65_537))
    (line,) = changes(old, new)
    assert "65,536 bytes -> payloads of at most 65,537 bytes" in line


def test_extensions_of_the_set_count_as_a_change():
    (line,) = changes(TERMS, replace(TERMS, extensions={"x": 1}))
    assert "beyond what is understood" in line


@given(term_sets, term_sets)
def test_any_terms_are_one_line_each_and_alike_only_if_equal(old, new):
    lines = describe(old)
    count = len(old.obligations) + len(old.permissions) + len(old.constraints)
    assert len(lines) >= count
    assert all("\n" not in line for line in lines)
    assert changes(old, old) == []
    assert bool(changes(old, new)) == (set_of(old) != set_of(new))


def set_of(terms):
    listed = (*terms.obligations, *terms.permissions, *terms.constraints)
    return sorted((term.id, repr(term)) for term in listed), dict(terms.extensions)


@pytest.mark.parametrize(
    ("microseconds", "words"),
    [
        (0, "0 µs"),
        (1, "1 µs"),
        (1_500, "1 ms 500 µs"),
        (90_000_000, "1 min 30 s"),
        (86_400_000_000, "1 day"),
        (366 * 86_400_000_000, "366 days"),
        (3_600_000_000, "1 h"),
    ],
)
def test_lengths_of_time(microseconds, words):
    assert duration_text(microseconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1 kB"), (65_536, "65.5 kB"), (999_600, "1 MB"),
     (1_500_000_000, "1.5 GB"), (10**15, "1,000 TB")],
)  # fmt: skip
def test_sizes(size, words):
    assert size_text(size) == words
