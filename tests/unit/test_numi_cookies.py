# SPDX-License-Identifier: Apache-2.0
"""Retry cookies, and what may be sent to a source that is not authenticated."""

import hashlib
import itertools
import json
import random as random_module
import tracemalloc
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument
from assent.numiport.cookies import (
    COOKIE_LEN,
    FACTOR,
    FAILURES_WINDOW,
    ROUND_TRIP,
    SECRET_LIFETIME,
    SUSPICION,
    WINDOW_SLOTS,
    Allowance,
    CookieJar,
    Door,
    Source,
)
from assent.numiport.wire import COOKIE_MAX, Fault, NumiportError

HOME = Source(IPv4Address("192.0.2.1"), 8000)
SLOT = 1000 * WINDOW_SLOTS
LIFETIME = SECRET_LIFETIME


def seeded(seed=1):
    return random_module.Random(seed).randbytes


def jar(now=0, **changes):
    return CookieJar(now, **{"random": seeded(), **changes})


def refused(book, source, cookie, slot=SLOT, now=0):
    with pytest.raises(NumiportError) as caught:
        book.check(source, cookie, slot, now)
    assert caught.value.fault is Fault.BAD_COOKIE
    return True


# -- sources ---------------------------------------------------------------------------------------


def test_a_source_is_its_address_and_port():
    assert HOME.raw == bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]) + b"\x1f\x40"
    assert Source(IPv6Address("2001:db8::1"), 1).raw.hex() == "20010db8" + "0" * 23 + "1" + "0001"


def test_an_address_and_the_one_that_it_is_mapped_to_are_one_source():
    mapped = Source(IPv6Address("::ffff:192.0.2.1"), 8000)
    assert mapped == HOME
    assert len({mapped, HOME}) == 1
    assert Source(HOME.address, 8001) != HOME


@pytest.mark.parametrize("port", [-1, 1 << 16])
def test_a_port_has_16_bits(port):
    with pytest.raises(InvalidArgument, match="port"):
        Source(HOME.address, port)


# -- cookies ---------------------------------------------------------------------------------------


def hmac_sha256(key, message):
    """RFC 2104 from its text."""
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0")) + inner).digest()


def test_a_cookie_is_what_its_document_says():
    book = jar()
    secret, former = book.secrets(0)
    cookie = book.bake(HOME, SLOT + 5, 0)
    assert len(cookie) == COOKIE_LEN <= COOKIE_MAX
    assert cookie[0] == secret.generation == (former.generation + 1) % 256
    assert cookie[8:16] == (1000).to_bytes(8, "big")
    covered = b"numiport-retry" + HOME.raw + cookie[:16]
    assert cookie[16:] == hmac_sha256(secret.key, covered)[:16]
    # With the padding of SHA-256 it is one block: a kernel program counts on that.
    assert len(covered) == 48 <= 64 - 9


# The same file serves whoever writes this in C.
VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "numiport_security.json").read_text()
)["cookies"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["address"])
def test_the_vectors(vector):
    first = (vector["generation"] - 1) % 256
    secret, tail = (bytes.fromhex(vector[name]) for name in ("secret", "random"))
    # In the order in which it is drawn: the first generation and its secret, the second's.
    drawn = iter([bytes([first]), bytes(32), secret, tail])
    book = CookieJar(0, random=lambda _count: next(drawn))
    source_ = Source(ip_address(vector["address"]), vector["port"])
    cookie = book.bake(source_, vector["slot"], 0)
    assert cookie.hex() == vector["cookie"]
    book.check(source_, cookie, vector["slot"], 0)


def test_a_good_cookie_is_taken_and_no_two_are_alike():
    book = jar()
    cookies = [book.bake(HOME, SLOT, 0) for _ in range(100)]
    assert len(set(cookies)) == 100
    for cookie in cookies:
        book.check(HOME, cookie, SLOT, 0)


@pytest.mark.parametrize(
    "other",
    [
        Source(IPv4Address("192.0.2.2"), 8000),
        Source(IPv4Address("192.0.2.1"), 8001),
        Source(IPv6Address("::192.0.2.1"), 8000),
        Source(IPv6Address("2001:db8::1"), 8000),
    ],
)
def test_a_cookie_is_one_sources(other):
    book = jar()
    assert refused(book, other, book.bake(HOME, SLOT, 0))
    book.check(other, book.bake(other, SLOT, 0), SLOT, 0)


def test_every_bit_of_a_cookie_counts():
    book = jar()
    cookie = book.bake(HOME, SLOT, 0)
    for bit in range(8 * COOKIE_LEN):
        forged = bytearray(cookie)
        forged[bit // 8] ^= 1 << bit % 8
        assert refused(book, HOME, bytes(forged))
    book.check(HOME, cookie, SLOT, 0)


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_a_cookie_has_32_bytes(length):
    book = jar()
    cookie = book.bake(HOME, SLOT, 0).ljust(length, b"\0")[:length]
    assert refused(book, HOME, cookie)


def test_a_cookie_of_another_node_or_another_start_is_refused():
    assert refused(jar(), HOME, jar(random=seeded(2)).bake(HOME, SLOT, 0))


@pytest.mark.parametrize(
    ("later", "good"),
    [
        (0, True),
        (WINDOW_SLOTS - 1, True),
        (WINDOW_SLOTS, True),
        (2 * WINDOW_SLOTS - 1, True),
        (2 * WINDOW_SLOTS, False),
        (-1, False),
        (100 * WINDOW_SLOTS, False),
    ],
)
def test_a_cookie_is_good_in_its_window_of_slots_and_in_the_next(later, good):
    book = jar()
    cookie = book.bake(HOME, SLOT, 0)
    if good:
        book.check(HOME, cookie, SLOT + later, 0)
    else:
        assert refused(book, HOME, cookie, SLOT + later)


def test_a_cookie_of_the_first_and_of_the_last_slot():
    book = jar()
    for slot in (0, (1 << 64) - 1):
        book.check(HOME, book.bake(HOME, slot, 0), slot, 0)


@pytest.mark.parametrize("slot", [-1, 1 << 64])
def test_a_slot_has_64_bits(slot):
    book = jar()
    with pytest.raises(InvalidArgument, match="slot"):
        book.bake(HOME, slot, 0)
    with pytest.raises(InvalidArgument, match="slot"):
        book.check(HOME, bytes(32), slot, 0)


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "good"),
    [
        (LIFETIME - 1, True),
        (LIFETIME, True),
        (2 * LIFETIME - 1, True),
        (2 * LIFETIME, False),
        (100 * LIFETIME, False),
    ],
)
def test_a_secret_is_honoured_for_one_more_lifetime(later, good):
    book = jar()
    cookie = book.bake(HOME, SLOT, 0)
    if good:
        book.check(HOME, cookie, SLOT, later)
    else:
        assert refused(book, HOME, cookie, now=later)


def test_a_rotation_in_steps_keeps_the_last_secret_and_no_more():
    book = jar()
    cookies = [(time, book.bake(HOME, SLOT, time)) for time in range(0, 5 * LIFETIME, LIFETIME)]
    for time, cookie in cookies:
        if time >= 3 * LIFETIME:
            book.check(HOME, cookie, SLOT, 4 * LIFETIME)
        else:
            assert refused(book, HOME, cookie, now=4 * LIFETIME)


@given(st.lists(st.integers(0, 5 * LIFETIME // 2), min_size=1, max_size=300))
def test_generations_follow_each_other_and_no_secret_comes_again(steps):
    book = jar()
    keys = {}
    for now in itertools.accumulate(steps):
        current, former = book.secrets(now)
        # A kernel program has two places, and picks one by the lowest bit.
        assert (current.generation - former.generation) % 256 == 1
        assert now - current.born < LIFETIME
        for secret in (current, former):
            assert keys.setdefault(secret.key, secret) is secret
        cookie = book.bake(HOME, SLOT, now)
        book.check(HOME, cookie, SLOT, now)


def test_secrets_are_not_shown():
    current, former = jar().secrets(0)
    shown = repr(current) + repr(former) + repr(jar())
    for secret in (current, former):
        assert secret.key.hex() not in shown
        assert repr(secret.key)[2:-1] not in shown


def test_a_generation_that_is_not_kept_is_refused_without_a_hash(monkeypatch):
    book = jar()
    current, former = book.secrets(0)
    cookie = book.bake(HOME, SLOT, 0)

    def hashed(*_arguments):
        raise AssertionError("a hash was made")

    monkeypatch.setattr("hmac.digest", hashed)
    for generation in set(range(256)) - {current.generation, former.generation}:
        assert refused(book, HOME, bytes([generation]) + cookie[1:])


def test_a_flood_of_bad_cookies_leaves_the_jar_as_it_was():
    book = jar()
    before = book.secrets(0)
    noise = seeded(3)
    for _ in range(2000):
        assert refused(book, HOME, noise(32))
    assert book.secrets(0) == before


@pytest.mark.parametrize("lifetime", [0, -1])
def test_a_secret_has_a_lifetime(lifetime):
    with pytest.raises(InvalidArgument, match="lifetime"):
        jar(lifetime=lifetime)


# -- who must show one -----------------------------------------------------------------------------


def door(**changes):
    return Door(jar(), **{"failures_max": 3, **changes})


def let_in(entrance, source, now=0, cookie=None, known=True):
    try:
        entrance.check(source, cookie, SLOT, now, known=known)
    except NumiportError as error:
        return error.fault
    return None


def failing(entrance, source, count, now=0):
    for _ in range(count):
        entrance.fail(source, now)


def test_whoever_is_not_known_shows_a_cookie():
    entrance = door()
    assert let_in(entrance, HOME, known=False) is Fault.NO_COOKIE
    assert let_in(entrance, HOME, cookie=bytes(32), known=False) is Fault.BAD_COOKIE
    cookie = entrance._jar.bake(HOME, SLOT, 0)
    assert let_in(entrance, HOME, cookie=cookie, known=False) is None
    assert len(entrance) == 0


def test_a_peer_shows_none_and_whatever_it_shows_is_not_looked_at():
    entrance = door()
    assert let_in(entrance, HOME) is None
    assert let_in(entrance, HOME, cookie=b"x") is None


def test_a_peer_from_whose_address_too_much_fails_shows_cookies_for_a_while():
    entrance = door()
    failing(entrance, HOME, 3)
    assert let_in(entrance, HOME) is None
    failing(entrance, HOME, 1)
    assert let_in(entrance, HOME) is Fault.NO_COOKIE
    assert let_in(entrance, HOME, cookie=bytes(32)) is Fault.BAD_COOKIE
    assert let_in(entrance, HOME, cookie=entrance._jar.bake(HOME, SLOT, 0)) is None
    assert let_in(entrance, Source(HOME.address, 8001)) is None
    assert let_in(entrance, HOME, now=SUSPICION - 1) is Fault.NO_COOKIE
    assert let_in(entrance, HOME, now=SUSPICION) is None


def test_what_fails_now_and_then_is_nothing():
    entrance = door()
    for turn in range(20):
        failing(entrance, HOME, 3, turn * FAILURES_WINDOW)
        assert let_in(entrance, HOME, turn * FAILURES_WINDOW) is None


def test_suspicion_lasts_from_window_to_window():
    entrance = door()
    failing(entrance, HOME, 4)
    failing(entrance, HOME, 1, FAILURES_WINDOW)
    assert let_in(entrance, HOME, now=SUSPICION - 1) is Fault.NO_COOKIE
    failing(entrance, HOME, 4, SUSPICION - 1)
    assert let_in(entrance, HOME, now=2 * SUSPICION - 2) is Fault.NO_COOKIE
    assert let_in(entrance, HOME, now=2 * SUSPICION - 1) is None


def test_an_alarm_makes_everybody_show_cookies_while_it_lasts():
    entrance = door()
    entrance.forced = True
    assert let_in(entrance, HOME) is Fault.NO_COOKIE
    assert let_in(entrance, HOME, cookie=entrance._jar.bake(HOME, SLOT, 0)) is None
    entrance.forced = False
    assert let_in(entrance, HOME) is None


def test_failures_are_counted_for_so_many_addresses():
    entrance = door(sources_max=2)
    for number in range(5):
        failing(entrance, source(number), 4)
        assert len(entrance) <= 2
    assert [let_in(entrance, source(number)) for number in range(5)] == [None] * 3 + [
        Fault.NO_COOKIE
    ] * 2


@pytest.mark.parametrize("name", ["failures_max", "window", "suspicion", "sources_max"])
def test_a_door_of_nothing_is_the_callers_mistake(name):
    with pytest.raises(InvalidArgument, match=name):
        door(**{name: 0})


# -- amplification ---------------------------------------------------------------------------------


def spends(book, source, size, now=0):
    try:
        book.spend(source, size, now)
    except NumiportError as error:
        return error.fault is not Fault.AMPLIFICATION
    return True


def source(number):
    return Source(IPv4Address(number), 8000)


def test_three_times_what_came_may_be_sent_and_not_a_byte_more():
    book = Allowance()
    book.receive(HOME, 100, 0)
    book.spend(HOME, 200, 0)
    with pytest.raises(NumiportError) as caught:
        book.spend(HOME, 101, 0)
    assert caught.value.fault is Fault.AMPLIFICATION
    book.spend(HOME, 100, 0)
    assert not spends(book, HOME, 1)
    book.receive(HOME, 1, 0)
    assert spends(book, HOME, 3)
    assert not spends(book, HOME, 1)


def test_who_has_sent_nothing_is_sent_nothing():
    book = Allowance()
    assert not spends(book, HOME, 1)
    assert not spends(book, HOME, 0)
    assert len(book) == 0


def test_what_one_source_sent_is_no_others():
    book = Allowance()
    book.receive(HOME, 1000, 0)
    assert not spends(book, Source(HOME.address, 8001), 1)
    assert not spends(book, source(1), 1)


@pytest.mark.parametrize(
    ("later", "good"), [(0, True), (ROUND_TRIP - 1, True), (ROUND_TRIP, False)]
)
def test_what_is_left_ends_with_its_window(later, good):
    book = Allowance()
    book.receive(HOME, 100, 0)
    assert spends(book, HOME, 300, later) == good


def test_a_window_begins_with_a_packet_and_not_with_the_next():
    book = Allowance()
    book.receive(HOME, 100, 0)
    book.receive(HOME, 100, ROUND_TRIP - 1)
    assert spends(book, HOME, 600, ROUND_TRIP - 1)
    book.receive(HOME, 10, ROUND_TRIP)
    assert not spends(book, HOME, 31, ROUND_TRIP)
    assert spends(book, HOME, 30, ROUND_TRIP)


def test_a_source_that_is_authenticated_has_no_account():
    book = Allowance()
    book.receive(HOME, 100, 0)
    book.forget(HOME)
    book.forget(HOME)
    assert len(book) == 0
    assert not spends(book, HOME, 1)


def test_who_was_forgotten_has_to_send_again():
    book = Allowance(sources_max=2)
    for number in (1, 2, 3):
        book.receive(source(number), 100, 0)
    assert len(book) == 2
    assert not spends(book, source(1), 1)
    assert spends(book, source(2), 300)
    assert spends(book, source(3), 300)


def test_the_source_whose_window_began_first_is_forgotten_first():
    book = Allowance(sources_max=3)
    book.receive(source(1), 100, 0)
    book.receive(source(2), 100, 1)
    # The window of 1 is over and begins anew, behind that of 2.
    for number in (1, 3, 4):
        book.receive(source(number), 100, ROUND_TRIP)
    assert not spends(book, source(2), 1, ROUND_TRIP)
    for number in (1, 3, 4):
        assert spends(book, source(number), 300, ROUND_TRIP)


events = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 5),
        st.integers(0, 2000),
        st.integers(0, ROUND_TRIP // 3),
    ),
    max_size=200,
)


@given(events, st.integers(1, 4))
def test_whatever_comes_no_source_is_sent_more_than_three_times_what_came_from_it(steps, places):
    book = Allowance(sources_max=places)
    received = dict.fromkeys(range(6), 0)
    sent = dict.fromkeys(range(6), 0)
    now = 0
    # Of each source, what came and was sent, with the time.
    recent = {number: [] for number in range(6)}
    for arrives, number, size, later in steps:
        now += later
        if arrives:
            book.receive(source(number), size, now)
            received[number] += size
            recent[number].append((now, size, 0))
        elif spends(book, source(number), size, now):
            sent[number] += size
            recent[number].append((now, 0, size))
            # And not with what came a round trip ago, or before.
            window = [entry for entry in recent[number] if entry[0] > now - ROUND_TRIP]
            came = sum(entry[1] for entry in window)
            assert size <= FACTOR * came
        assert sent[number] <= FACTOR * received[number]
        assert len(book) <= places


def test_a_flood_from_many_sources_is_bounded_in_memory_and_in_bytes_to_each():
    limit = 256
    book = Allowance(sources_max=limit)
    noise = random_module.Random(5)
    victims = [source(number) for number in range(3)]
    to_victim = dict.fromkeys(victims, 0)
    from_victim = dict.fromkeys(victims, 0)

    def flood(count):
        now = 0
        for turn in range(count):
            now += noise.randrange(1000)
            forged = noise.choice(victims) if turn % 8 == 0 else source(noise.getrandbits(32))
            size = noise.randrange(36, 200)
            book.receive(forged, size, now)
            if forged in from_victim:
                from_victim[forged] += size
            for _ in range(4):
                if spends(book, forged, 72, now) and forged in to_victim:
                    to_victim[forged] += 72
            assert len(book) <= limit

    flood(3000)  # all places are taken
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    flood(10000)
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    mine = [tracemalloc.Filter(True, "*/numiport/cookies.py")]
    grown = sum(
        entry.size_diff
        for entry in after.filter_traces(mine).compare_to(before.filter_traces(mine), "filename")
    )
    # Those that were there before are not traced, so at most all places are new.
    assert grown < limit * 1000
    for victim in victims:
        assert 0 < to_victim[victim] <= FACTOR * from_victim[victim]


@pytest.mark.parametrize("changes", [{"window": 0}, {"sources_max": 0}])
def test_a_book_of_nothing_is_the_callers_mistake(changes):
    with pytest.raises(InvalidArgument, match=next(iter(changes))):
        Allowance(**changes)


def test_a_size_is_not_negative():
    book = Allowance()
    with pytest.raises(InvalidArgument, match="size"):
        book.receive(HOME, -1, 0)
    book.receive(HOME, 1, 0)
    with pytest.raises(InvalidArgument, match="size"):
        book.spend(HOME, -1, 0)
    assert spends(book, HOME, 3)
    assert not spends(book, HOME, 1)
