# SPDX-License-Identifier: Apache-2.0
"""Keys, cookies, handshake and wire together: a peer's first packet, with a shared key and without.

with a key      packet: PSK_ID, SESSION_ID, HDR_MAC  ->  find key -> header MAC -> open
without         message 1  ->  cookie  ->  message 1 and cookie  ->  message 2  ->  packet
"""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from assent.identity.keys import Identity
from assent.numiport.cookies import FACTOR, Allowance, CookieJar, Source
from assent.numiport.keys import TAG_LEN, Ends, Lane
from assent.numiport.mac import HeaderMac
from assent.numiport.noise import Initiator, Responder, SessionCache
from assent.numiport.psk import Psk, PskStore
from assent.numiport.sessions import Heard, Places, SessionIds
from assent.numiport.wire import (
    Class,
    Fault,
    Header,
    NumiportError,
    Packet,
    Stream,
    Tlvs,
    covered,
    decode,
    encode,
)

ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
KEY = bytes(range(1, 33))
SECOND = 10**9
NOW = 1_800_000_000 * SECOND
SLOT = 300_000_000
HOME = Source(IPv4Address("192.0.2.1"), 8000)


def refused(fault, call):
    with pytest.raises(NumiportError) as caught:
        call()
    assert caught.value.fault is fault


def sealed(lane, secrets, plaintext, header, tlvs):
    """A packet as it goes out: header MAC and seal are made over the same head."""
    blank = Packet(header, tlvs, bytes(len(plaintext)), bytes(TAG_LEN))
    signed = HeaderMac(secrets.mac).sign(blank)
    place = {"slot": header.slot, "stream": header.stream, "seq": header.seq}
    body = lane.seal(plaintext, covered(encode(signed)), cls=header.cls, **place)
    return encode(replace(signed, payload=body[:-TAG_LEN], tag=body[-TAG_LEN:]))


def opened(lane, datagram):
    packet = decode(datagram)
    header = packet.header
    return lane.open(
        packet.payload + packet.tag,
        covered(datagram),
        cls=header.cls,
        slot=header.slot,
        stream=header.stream,
        seq=header.seq,
    )


class Known:
    """A node that shares a key with its peer, as it is from one start to the next."""

    def __init__(self, identity, peer, directory):
        self.identity = identity
        self.peer = peer.public_key
        self.ends = Ends.of_psk(identity.public_key, self.peer)
        self.keys = PskStore()
        self.keys.add(Psk(psk_id=9, peer=self.peer, epoch=4, starts=0, key=KEY))
        with SessionIds(directory) as ids:
            self.session_id = ids.take(NOW)
        self.places = Places()
        self.heard = Heard()

    def send(self, plaintext, slot=SLOT, stream=Stream.SHRED):
        psk = self.keys.current(self.peer, NOW)
        lane = Lane(
            psk.secrets,
            self.session_id,
            self.ends,
            sender=self.identity.public_key,
            epoch=psk.epoch,
        )
        header = Header(Class.P1, slot, stream, self.places.take(slot, stream))
        tlvs = Tlvs(psk_id=psk.psk_id, session_id=self.session_id)
        return sealed(lane, psk.secrets, plaintext, header, tlvs)

    def receive(self, datagram):
        """What is done with a packet of a source that is not known: cheapest first."""
        tlvs = decode(datagram).tlvs
        psk = self.keys.find(tlvs.psk_id, NOW)
        HeaderMac(psk.secrets.mac).verify(datagram)
        self.heard.check(tlvs.session_id)
        lane = Lane(psk.secrets, tlvs.session_id, self.ends, sender=psk.peer, epoch=psk.epoch)
        plaintext = opened(lane, datagram)
        self.heard.take(tlvs.session_id)
        return plaintext


@pytest.fixture
def nodes(tmp_path):
    return Known(ALICE, BOB, tmp_path / "alice"), Known(BOB, ALICE, tmp_path / "bob")


def test_the_first_packet_of_a_peer_with_a_key_carries_data(nodes):
    alice, bob = nodes
    assert bob.receive(alice.send(b"to bob")) == b"to bob"
    assert alice.receive(bob.send(b"to alice")) == b"to alice"


def test_every_bit_of_a_first_packet_counts(nodes):
    alice, bob = nodes
    datagram = alice.send(b"shred")
    faults = set()
    for bit in range(8 * len(datagram)):
        forged = bytearray(datagram)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NumiportError) as caught:
            bob.receive(bytes(forged))
        faults.add(caught.value.fault)
    assert faults == {Fault.MALFORMED, Fault.UNKNOWN_PSK, Fault.HDR_MAC_FAIL, Fault.AEAD_FAIL}
    assert bob.receive(datagram) == b"shred"


def test_a_packet_that_is_reflected_to_its_sender_does_not_open(nodes):
    alice, _ = nodes
    # The header MAC has one key for both ways; the seal tells them apart.
    refused(Fault.AEAD_FAIL, lambda: alice.receive(alice.send(b"shred")))


def test_after_a_restart_in_the_same_slot_no_packet_has_a_former_ones_nonce(tmp_path, nodes):
    alice, bob = nodes
    before = alice.send(b"the same words")
    alice = Known(ALICE, BOB, tmp_path / "alice")
    after = alice.send(b"the same words")
    assert decode(before).header == decode(after).header
    assert decode(before).payload != decode(after).payload
    assert bob.receive(before) == bob.receive(after) == b"the same words"
    # What was sent before may not be sent again by others now.
    refused(Fault.REPLAY, lambda: bob.receive(before))
    assert bob.receive(alice.send(b"and more")) == b"and more"


def test_a_key_that_is_over_is_not_tried(nodes):
    alice, bob = nodes
    datagram = alice.send(b"shred")
    bob.keys.remove(9, NOW)
    refused(Fault.UNKNOWN_PSK, lambda: bob.receive(datagram))


# -- without a key ---------------------------------------------------------------------------------


class Stranger:
    """A node as a source that is not known meets it: it answers, or refuses."""

    def __init__(self, directory):
        self.jar = CookieJar(0)
        self.allowance = Allowance()
        self.cache = SessionCache()
        self.ids = SessionIds(directory)
        self.responder = Responder(BOB, self.cache, self.ids.take, lambda _peer: True)
        self.handshakes = 0

    def receive(self, source, datagram, now):
        self.allowance.receive(source, len(datagram), now)
        packet = decode(datagram)
        if packet.tlvs.retry_cookie is None:
            return self.send(source, Tlvs(retry_cookie=self.jar.bake(source, SLOT, now)), b"", now)
        self.jar.check(source, packet.tlvs.retry_cookie, SLOT, now)
        self.handshakes += 1
        reply = self.responder.answer(packet.payload, epochs=(4,), now=now, tai=NOW)
        return self.send(source, Tlvs(), reply, now)

    def send(self, source, tlvs, payload, now):
        datagram = plain(tlvs, payload)
        self.allowance.spend(source, len(datagram), now)
        return datagram


def plain(tlvs, payload):
    return encode(Packet(Header(Class.P0, SLOT, Stream.CTRL, 0), tlvs, payload))


@pytest.fixture
def bob(tmp_path):
    node = Stranger(tmp_path / "bob")
    yield node
    node.ids.close()


@pytest.fixture
def begun(tmp_path):
    with SessionIds(tmp_path / "alice") as ids:
        return Initiator(ALICE, BOB.public_key, 4, ids.take(NOW), 0)


def exchange(begun, bob, source=HOME, now=0):
    """Message 1, the cookie, message 1 with it, and what came back."""
    retry = bob.receive(source, plain(Tlvs(), begun.data_to_send(now)), now)
    begun.retry(decode(retry).tlvs.retry_cookie, now)
    hello = plain(Tlvs(retry_cookie=begun.cookie), begun.data_to_send(now))
    return bob.receive(source, hello, now)


def test_a_peer_without_a_key_is_heard_after_a_cookie_and_one_round_trip(begun, bob):
    session = begun.receive(decode(exchange(begun, bob)).payload)
    header = Header(Class.P1, SLOT, Stream.SHRED, session.places.take(SLOT, Stream.SHRED))
    datagram = sealed(session.tx, session.secrets, b"shred", header, Tlvs())
    (theirs,) = bob.cache.candidates(ALICE.public_key, 0)
    HeaderMac(theirs.secrets.mac).verify(datagram)
    assert opened(theirs.rx, datagram) == b"shred"
    bob.cache.confirm(theirs)
    assert bob.cache.get(ALICE.public_key, 4) is theirs


def test_without_the_cookie_of_its_own_address_nobody_costs_a_handshake(begun, bob):
    message = begun.data_to_send(0)
    theirs = decode(bob.receive(HOME, plain(Tlvs(), message), 0)).tlvs.retry_cookie
    elsewhere = Source(IPv4Address("192.0.2.2"), 8000)
    for cookie in (theirs, bytes(32), b""):
        datagram = plain(Tlvs(retry_cookie=cookie), message)
        refused(Fault.BAD_COOKIE, lambda: bob.receive(elsewhere, datagram, 0))  # noqa: B023
    assert (bob.handshakes, bob.cache.pending) == (0, 0)


def test_the_shortest_packet_pays_for_a_cookie_and_not_for_two(bob):
    shortest = plain(Tlvs(), b"")
    cookie = bob.receive(HOME, shortest, 0)
    assert len(shortest) < len(cookie) <= FACTOR * len(shortest)
    refused(Fault.AMPLIFICATION, lambda: bob.send(HOME, Tlvs(), bytes(60), 0))


def test_a_flood_gets_cookies_alone_and_less_than_three_times_what_it_sent(begun, bob):
    message = begun.data_to_send(0)
    came = went = 0
    for number in range(500):
        forged = Source(IPv4Address(number), 8000)
        datagram = plain(Tlvs(), message if number % 2 else b"")
        came += len(datagram)
        went += len(bob.receive(forged, datagram, number))
    assert went <= FACTOR * came
    assert (bob.handshakes, bob.cache.pending, bob.ids._next) == (0, 0, 0)
    # And a peer that is no part of it is heard meanwhile.
    assert begun.receive(decode(exchange(begun, bob, now=SECOND)).payload)
