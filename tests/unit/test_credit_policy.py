# SPDX-License-Identifier: Apache-2.0
"""credit/policy.py: who gets how much of a universe that is finite."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.credit.policy import (
    STEP,
    Claim,
    CreditPolicy,
    PolicyKind,
    fair_shares,
    next_windows,
)
from assent.errors import InvalidArgument

CLAIMS = st.dictionaries(
    st.integers(0, 12),
    st.builds(
        lambda least, more, times, at_work: Claim(least, least + more, times, at_work),
        st.integers(0, 50),
        st.integers(0, 1000),
        st.integers(1, 3),
        st.booleans(),
    ),
)


def active(least: int, most: int, times: int = 1) -> Claim:
    return Claim(least, most, times, is_active=True)


@pytest.mark.parametrize(
    ("universe", "claims", "shares"),
    [
        (100, {}, {}),
        (100, {"a": Claim(10, 90)}, {"a": 10}),
        (100, {"a": active(10, 90)}, {"a": 90}),
        (100, {"a": active(10, 200)}, {"a": 100}),
        (100, {"a": active(10, 200), "b": active(10, 200)}, {"a": 50, "b": 50}),
        (100, {"a": active(10, 200), "b": Claim(10, 200)}, {"a": 90, "b": 10}),
        (100, {"a": active(10, 20), "b": active(10, 200)}, {"a": 20, "b": 80}),
        (100, {"a": active(10, 200), "b": active(70, 200)}, {"a": 30, "b": 70}),
        (101, {"a": active(10, 200), "b": active(10, 200)}, {"a": 50, "b": 50}),
        (100, {"a": active(10, 200, times=3), "b": active(10, 200)}, {"a": 25, "b": 25}),
        (20, {"a": active(10, 200), "b": active(10, 200)}, {"a": 10, "b": 10}),
    ],
)
def test_shares(universe: int, claims: dict[str, Claim], shares: dict[str, int]):
    assert fair_shares(universe, claims) == shares


def test_floors_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgument, match="all floors together need 5 blocks more"):
        fair_shares(15, {"a": Claim(10, 20), "b": Claim(10, 20)})


@given(st.integers(0, 3000), CLAIMS)
def test_shares_fit_and_are_max_min_fair(extra: int, claims: dict[int, Claim]):
    universe = extra + sum(claim.least * claim.times for claim in claims.values())
    shares = fair_shares(universe, claims)
    used = sum(shares[key] * claim.times for key, claim in claims.items())
    assert used <= universe
    for key, claim in claims.items():
        assert claim.least <= shares[key] <= max(claim.least, claim.most)
        if not claim.is_active:
            assert shares[key] == claim.least
    hungry = [key for key, one in claims.items() if one.is_active and shares[key] < one.most]
    # Who could take more has no less than anybody who was given more than the least.
    for key in hungry:
        for other, one in claims.items():
            if one.is_active and shares[other] > one.least:
                assert shares[key] >= shares[other] or shares[key] == claims[key].least
    if hungry:
        assert universe - used < sum(one.times for one in claims.values() if one.is_active)


@given(
    st.integers(0, 500), st.dictionaries(st.integers(0, 9), st.tuples(*[st.integers(1, 300)] * 3))
)
def test_windows_never_take_more_than_is_free(free: int, flows: dict[int, tuple[int, int, int]]):
    held = {key: one[0] for key, one in flows.items()}
    shares = {key: one[1] for key, one in flows.items()}
    times = {key: 1 + one[2] % 3 for key, one in flows.items()}
    found = next_windows(free, held, shares, times)
    taken = sum(max(0, blocks - held[key]) * times[key] for key, blocks in found.items())
    assert taken <= free
    for key, blocks in found.items():
        assert min(held[key], shares[key]) <= blocks <= max(held[key], shares[key])


def test_a_share_that_has_hardly_changed_is_left_alone():
    assert next_windows(100, {"a": 100}, {"a": 100 + 100 // STEP - 1}, {"a": 1}) == {}
    assert next_windows(100, {"a": 100}, {"a": 100 - 100 // STEP + 1}, {"a": 1}) == {}
    assert next_windows(100, {"a": 100}, {"a": 150}, {"a": 1}) == {"a": 150}


def test_what_is_free_is_given_now_and_the_rest_when_it_has_come_back():
    """Those that become narrower are asked at once; what they give back serves later."""
    found = next_windows(30, {"a": 100, "b": 10}, {"a": 50, "b": 60}, {"a": 1, "b": 1})
    assert found == {"a": 50, "b": 40}


@pytest.mark.parametrize(
    ("policy", "window", "first", "most"),
    [
        (CreditPolicy(), 500, 500, 500),
        (CreditPolicy(PolicyKind.FAIR_SHARE, 64, 0), 500, 64, 500),
        (CreditPolicy(PolicyKind.FAIR_SHARE, 64, 4000), 500, 64, 4000),
        (CreditPolicy(PolicyKind.FAIR_SHARE, 64, 0), 10, 10, 10),
        (CreditPolicy(PolicyKind.FAIR_SHARE, 64, 4000), 0, 0, 0),
    ],
)
def test_what_a_window_begins_with_and_may_become(
    policy: CreditPolicy, window: int, first: int, most: int
):
    assert (policy.first(window), policy.most(window)) == (first, most)


@pytest.mark.parametrize(("floor", "ceiling"), [(0, 0), (-1, 5), (9, 8)])
def test_bounds_that_make_no_sense_are_refused(floor: int, ceiling: int):
    with pytest.raises(InvalidArgument):
        CreditPolicy(PolicyKind.FAIR_SHARE, floor, ceiling)
