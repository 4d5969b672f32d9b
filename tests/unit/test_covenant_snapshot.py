# SPDX-License-Identifier: Apache-2.0
"""covenant/snapshot.py: a covenant in every state, as bytes and back."""

from __future__ import annotations

from dataclasses import fields

import cbor2
import pytest

from assent.covenant import snapshot
from assent.covenant.agreement import Covenant, Party
from assent.covenant.machine import State
from assent.errors import RemoteError
from assent.identity.keys import Identity

from .covenant_world import World, agent, proposal, timer
from .test_covenant_machine import PLACES

# What is not stored: transports, time, and what only a negotiation needs.
VOLATILE = {"document", "deadlines", "clock_ahead", "data_due", "parties", "amendment", "lapsed"}
VOLATILE_OF_PARTIES = {"link", "clock_ahead", "deferring", "defer_digest", "heard_at"}


def same(left: Covenant, right: Covenant) -> bool:
    """Whether two are alike in all that is stored."""
    return all(
        getattr(left, each.name) == getattr(right, each.name)
        for each in fields(Covenant)
        if each.name not in VOLATILE
    ) and all(
        getattr(left.parties[one], each.name) == getattr(right.parties[one], each.name)
        for one in left.parties
        for each in fields(Party)
        if each.name not in VOLATILE_OF_PARTIES
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_covenant_in_any_state_comes_back_as_it_was(place: str):
    world = World()
    covenant = world[PLACES[place][0](world)].covenant
    raw = snapshot.dump(covenant)
    loaded = snapshot.load(raw)
    assert loaded.state is PLACES[place][1]
    assert same(loaded, covenant)
    assert snapshot.dump(loaded) == raw
    assert not loaded.deadlines
    assert all(party.link is None for party in loaded.parties.values())


def test_every_state_is_among_them():
    assert {state for _, state, _, _ in PLACES.values()} == set(State)


def test_amendments_rotations_and_what_came_before_come_back():
    world = World().covenanted(proposal(timer("T_amend", 1)))
    world["A"].engine.amend(1, proposal(timer("T_amend", 1), notice=3), world.now)
    world.lose()
    world.wait(1)
    world["A"].engine.rotate(1, Identity.from_seed(bytes(32)), world.now)
    covenant = world["A"].covenant
    covenant.past.append(tuple(covenant.history))
    covenant.suspended_by.add(agent("B"))
    raw = snapshot.dump(covenant)
    loaded = snapshot.load(raw)
    assert snapshot.dump(loaded) == raw
    assert loaded.amendment is not None
    assert loaded.amendment.rotation is not None
    assert covenant.amendment is not None
    assert loaded.amendment.document == covenant.amendment.document
    assert [one.document for one in loaded.lapsed] == [one.document for one in covenant.lapsed]
    assert loaded.past == covenant.past
    assert same(loaded, covenant)


def test_a_covenant_of_three_comes_back():
    covenant = World("ABC").covenanted()["B"].covenant
    loaded = snapshot.load(snapshot.dump(covenant))
    assert loaded.multi
    assert loaded.order == covenant.order
    assert same(loaded, covenant)


def test_another_format_is_refused():
    body = cbor2.loads(snapshot.dump(World().covenanted()["A"].covenant))
    body["format"] = 2
    with pytest.raises(ValueError, match="format 2"):
        snapshot.load(cbor2.dumps(body))


def test_terms_that_make_no_sense_are_refused():
    body = cbor2.loads(snapshot.dump(World().covenanted()["A"].covenant))
    body["proposal"]["terms"]["permissions"] = [1]
    with pytest.raises(RemoteError):
        snapshot.load(cbor2.dumps(body))


def test_no_secret_is_stored():
    world = World().covenanted()
    raw = snapshot.dump(world["A"].covenant)
    assert world["A"].identity.seed not in raw
