# SPDX-License-Identifier: Apache-2.0
"""Pre-shared keys of Numiport: which are taken when, and what rotation may not do."""

import hashlib
import hmac
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from assent.numiport.psk import PER_PEER, Psk, PskStore
from assent.numiport.wire import PSK_IDS_MAX, Fault, NumiportError

PEER, OTHER = bytes([1]) * 32, bytes([2]) * 32
SECOND = 10**9
OVERLAP = 10 * SECOND
DAY = 100 * SECOND


def psk(epoch, *, psk_id=None, peer=PEER, starts=None, key=None):
    return Psk(
        psk_id=epoch if psk_id is None else psk_id,
        peer=peer,
        epoch=epoch,
        starts=epoch * DAY if starts is None else starts,
        key=hashlib.sha256(b"%d" % epoch).digest() if key is None else key,
    )


def store(*epochs, **changes):
    filled = PskStore(**{"overlap": OVERLAP, **changes})
    for epoch in epochs:
        filled.add(psk(epoch))
    return filled


def taken(keys, psk_id, now):
    try:
        return keys.find(psk_id, now).psk_id == psk_id
    except NumiportError:
        return False


def sent(keys, now, advertised=None):
    try:
        return keys.current(PEER, now, advertised).psk_id
    except NotFound:
        return None


# -- one key ---------------------------------------------------------------------------------------


def test_the_key_is_the_master_secret():
    key = psk(1).key
    prk = hmac.digest(bytes(32), key, "sha256")
    assert psk(1).secrets.mac == hmac.digest(prk, b"numiport/hmac\x01", "sha256")


def test_keys_are_not_shown():
    key = psk(1)
    shown = repr(key) + str(key) + repr(store(1, 2))
    assert shown.startswith(f"Psk(psk_id=1, peer={PEER!r}, epoch=1, starts={DAY})")
    for secret in (key.key, key.secrets.mac, key.secrets.aead, key.secrets.siv):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"psk_id": -1}, "psk_id"),
        ({"psk_id": 1 << 32}, "psk_id"),
        ({"peer": bytes(31)}, "peer"),
        ({"key": bytes(31) + b"x" * 2}, "key"),
        ({"key": b"x" * 31}, "key"),
        ({"key": bytes(32)}, "key: is all zeros"),
    ],
)
def test_a_key_that_does_not_fit_is_the_callers_mistake(changes, name):
    with pytest.raises(InvalidArgument, match=name):
        psk(1, **changes)


@pytest.mark.parametrize("epoch", [-1, 1 << 64])
def test_an_epoch_has_64_bits(epoch):
    with pytest.raises(InvalidArgument, match="epoch"):
        psk(epoch, psk_id=1, key=b"x" * 32)


# -- what is taken, and what is sent with ----------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "accepted", "current"),
    [
        (1 * DAY - OVERLAP - 1, (), None),
        (1 * DAY - OVERLAP, (1,), None),
        (1 * DAY, (1,), 1),
        (2 * DAY - OVERLAP - 1, (1,), 1),
        (2 * DAY - OVERLAP, (1, 2), 1),
        (2 * DAY - 1, (1, 2), 1),
        (2 * DAY, (1, 2), 2),
        (2 * DAY + OVERLAP - 1, (1, 2), 2),
        (2 * DAY + OVERLAP, (2,), 2),
        (100 * DAY, (2,), 2),
    ],
)
def test_a_rotation_overlaps(now, accepted, current):
    keys = store(1, 2)
    assert keys.accepted(PEER, now) == accepted
    assert tuple(psk_id for psk_id in (1, 2) if taken(keys, psk_id, now)) == accepted
    assert sent(keys, now) == current


def test_without_an_overlap_one_key_follows_the_other():
    keys = store(1, 2, overlap=0)
    assert keys.accepted(PEER, 2 * DAY - 1) == (1,)
    assert keys.accepted(PEER, 2 * DAY) == (2,)


@pytest.mark.parametrize(
    ("now", "advertised", "expected"),
    [
        # The peer says nothing, or takes what we would send with.
        (2 * DAY, None, 2),
        (2 * DAY, (1, 2), 2),
        # The peer has not got the new key, or has let the former go already.
        (2 * DAY, (1,), 1),
        (2 * DAY - 1, (2,), 2),
        # Both that we take: what we would send with.
        (2 * DAY - 1, (1, 2), 1),
        # Nothing that we take.
        (2 * DAY + OVERLAP, (1,), None),
        (2 * DAY - OVERLAP - 1, (2,), None),
        (2 * DAY, (), None),
        (2 * DAY, (3, 4), None),
    ],
)
def test_what_is_sent_with_follows_what_the_peer_takes(now, advertised, expected):
    assert sent(store(1, 2), now, advertised) == expected


def test_a_key_is_found_by_its_id_and_says_whose_it_is():
    keys = store(1)
    theirs = psk(1, psk_id=77, peer=OTHER)
    keys.add(theirs)
    assert keys.find(77, DAY) is theirs
    assert keys.accepted(OTHER, DAY) == (77,)
    assert keys.accepted(PEER, DAY) == (1,)
    assert keys.accepted(bytes(32), DAY) == ()
    with pytest.raises(NotFound):
        keys.current(bytes(32), DAY)


def test_an_id_that_is_unknown_is_the_peers_mistake():
    with pytest.raises(NumiportError, match="not taken") as caught:
        store(1).find(2, DAY)
    assert caught.value.fault is Fault.UNKNOWN_PSK


@given(
    st.lists(st.integers(0, 3 * OVERLAP), min_size=1, max_size=PER_PEER),
    st.integers(-2 * OVERLAP, 20 * OVERLAP),
)
def test_never_more_than_two_keys_are_taken_and_what_is_sent_with_is_one_of_them(gaps, now):
    keys = PskStore(overlap=OVERLAP)
    starts = list(itertools.accumulate(2 * OVERLAP + gap for gap in gaps))
    for epoch, start in enumerate(starts):
        keys.add(psk(epoch, starts=start))
    accepted = keys.accepted(PEER, now)
    assert len(accepted) <= 2 <= PSK_IDS_MAX
    # From the first start on there is always one to send with.
    assert (sent(keys, now) in accepted) == (now >= starts[0])


@given(st.integers(-OVERLAP // 2, OVERLAP // 2), st.integers(DAY // 2, 4 * DAY))
def test_peers_whose_clocks_differ_by_less_than_the_overlap_always_hear_each_other(skew, now):
    keys = store(1, 2, 3)
    current = sent(keys, now)
    if current is not None and now >= DAY + OVERLAP:
        assert taken(store(1, 2, 3), current, now + skew)


def test_the_next_change_is_told_until_there_is_none():
    keys = store(1, 2)
    times = []
    while (change := keys.next_change(times[-1] if times else 0)) is not None:
        times.append(change)
    assert times == [
        1 * DAY - OVERLAP,
        1 * DAY,
        1 * DAY + OVERLAP,
        2 * DAY - OVERLAP,
        2 * DAY,
        2 * DAY + OVERLAP,
    ]
    assert PskStore().next_change(0) is None


# -- adding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (psk(3, psk_id=1), AlreadyExists, "id 1"),
        (psk(3, psk_id=1, peer=OTHER), AlreadyExists, "id 1"),
        (psk(2, psk_id=9, starts=9 * DAY, key=b"x" * 32), InvalidArgument, "epoch: must be above"),
        (psk(1, psk_id=9, starts=9 * DAY, key=b"x" * 32), InvalidArgument, "epoch"),
        (psk(3, starts=2 * DAY + 2 * OVERLAP - 1), InvalidArgument, "starts"),
        (psk(3, starts=0), InvalidArgument, "starts"),
        (psk(3, key=psk(2).key), InvalidArgument, "key: is one"),
        (psk(3, key=psk(1).key), InvalidArgument, "key: is one"),
        (psk(3, peer=bytes([3]) * 32), ResourceExhausted, "2 peers"),
    ],
)
def test_what_is_no_rotation_is_refused_and_nothing_changes(key, error, match):
    keys = store(1, 2, peers_max=2)
    keys.add(psk(1, psk_id=77, peer=OTHER))
    before = repr(keys), keys.accepted(PEER, 2 * DAY), keys.accepted(PEER, 9 * DAY)
    with pytest.raises(error, match=match) as caught:
        keys.add(key)
    assert key.key.hex() not in str(caught.value)
    assert (repr(keys), keys.accepted(PEER, 2 * DAY), keys.accepted(PEER, 9 * DAY)) == before


def test_a_peer_has_three_keys_until_the_first_expires():
    keys = store(1, 2, 3)
    with pytest.raises(FailedPrecondition, match="already"):
        keys.add(psk(4))
    assert keys.expire(2 * DAY + OVERLAP - 1) == ()
    assert keys.expire(2 * DAY + OVERLAP) == (1,)
    assert len(keys) == 2
    keys.add(psk(4))
    assert keys.accepted(PEER, 3 * DAY) == (2, 3)
    assert not taken(keys, 1, DAY)


def test_the_last_key_never_expires():
    keys = store(1)
    assert keys.expire(10**30) == ()
    assert taken(keys, 1, 10**30)


def test_without_an_overlap_two_keys_do_not_start_at_once():
    keys = store(1, overlap=0)
    with pytest.raises(InvalidArgument, match="starts"):
        keys.add(psk(2, starts=DAY))


@pytest.mark.parametrize("changes", [{"overlap": -1}, {"peers_max": 0}])
def test_a_store_of_nothing_is_the_callers_mistake(changes):
    with pytest.raises(InvalidArgument, match=next(iter(changes))):
        PskStore(**changes)


# -- removing --------------------------------------------------------------------------------------


def test_a_key_that_has_not_started_is_removed_and_the_one_before_it_goes_on():
    keys = store(1, 2)
    keys.remove(2, 2 * DAY - 1)
    assert keys.accepted(PEER, 5 * DAY) == (1,)
    assert sent(keys, 5 * DAY) == 1
    assert not taken(keys, 2, 2 * DAY)


def test_with_a_key_that_has_started_those_before_it_go_too():
    keys = store(1, 2, 3)
    keys.remove(2, 2 * DAY)
    for psk_id in (1, 2):
        assert not taken(keys, psk_id, 2 * DAY)
    assert sent(keys, 2 * DAY) is None
    assert sent(keys, 3 * DAY) == 3
    assert len(keys) == 1


def test_a_former_key_is_removed_within_its_grace():
    keys = store(1, 2)
    keys.remove(1, 2 * DAY)
    assert keys.accepted(PEER, 2 * DAY) == (2,)


def test_with_its_last_key_a_peer_is_gone_and_its_place_is_free():
    keys = store(1, peers_max=1)
    keys.remove(1, DAY)
    assert repr(keys) == "PskStore(0 keys of 0 peers)"
    keys.add(psk(1, psk_id=2, peer=OTHER))
    with pytest.raises(NotFound, match="id 1"):
        keys.remove(1, DAY)
    assert len(keys) == 1
