# SPDX-License-Identifier: Apache-2.0
"""Numiport's handshake, against Noise as it is written down here, and against hostile peers."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from assent.errors import FailedPrecondition, InvalidArgument
from assent.handshake.values import Timers
from assent.identity.keys import Identity
from assent.numiport.keys import Ends, Suite, Suites
from assent.numiport.noise import (
    COOKIES_MAX,
    NO_PSK,
    OFFER_MAX,
    TIMERS,
    Initiator,
    Responder,
    SessionCache,
)
from assent.numiport.wire import Fault, NumiportError

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "noise_ikpsk2.json").read_text())
ALICE, BOB, EVE = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
PSK = bytes(range(32))
EPOCH = 7
SECOND = 10**9
TAI = 1_800_000_000 * SECOND
PLACE = {"cls": 1, "slot": 5, "stream": 0, "seq": 0}


# -- Noise, as its specification (revision 34) has it ----------------------------------------------


def blake2s_hmac(key, *parts):
    block = key.ljust(64, b"\0")
    inner = hashlib.blake2s(bytes(byte ^ 0x36 for byte in block) + b"".join(parts)).digest()
    return hashlib.blake2s(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def noise_hkdf(chaining_key, material, outputs):
    secret = blake2s_hmac(chaining_key, material)
    made = [b""]
    for number in range(1, outputs + 1):
        made.append(blake2s_hmac(secret, made[-1], bytes([number])))
    return made[1:]


def public_of(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private, public):
    other = X25519PublicKey.from_public_bytes(public)
    return X25519PrivateKey.from_private_bytes(private).exchange(other)


class Symmetric:
    """SymmetricState of section 5.2, with the CipherState that it has."""

    def __init__(self, name, prologue):
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else hashlib.blake2s(name).digest()
        self.ck, self.k, self.n = self.h, None, 0
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = hashlib.blake2s(self.h + data).digest()

    def mix_key(self, material):
        self.ck, self.k = noise_hkdf(self.ck, material, 2)
        self.n = 0

    def mix_key_and_hash(self, material):
        self.ck, extra, self.k = noise_hkdf(self.ck, material, 3)
        self.mix_hash(extra)
        self.n = 0

    def encrypt(self, plaintext):
        number = bytes(4) + self.n.to_bytes(8, "little")
        sealed = ChaCha20Poly1305(self.k).encrypt(number, plaintext, self.h)
        self.n += 1
        self.mix_hash(sealed)
        return sealed

    def decrypt(self, sealed):
        number = bytes(4) + self.n.to_bytes(8, "little")
        plaintext = ChaCha20Poly1305(self.k).decrypt(number, sealed, self.h)
        self.n += 1
        self.mix_hash(sealed)
        return plaintext


class IKpsk2:
    """Both messages of the pattern: e, es, s, ss; and e, ee, se, psk."""

    def __init__(self, prologue, responder_public):
        self.state = Symmetric(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", prologue)
        self.state.mix_hash(responder_public)
        self.responder_public = responder_public

    def mix_ephemeral(self, public):
        self.state.mix_hash(public)
        self.state.mix_key(public)  # section 9.2: where a psk is used

    def write_1(self, static, ephemeral, payload):
        self.static, self.ephemeral = static, ephemeral
        self.mix_ephemeral(public_of(ephemeral))
        self.state.mix_key(dh(ephemeral, self.responder_public))
        sealed_static = self.state.encrypt(public_of(static))
        self.state.mix_key(dh(static, self.responder_public))
        return public_of(ephemeral) + sealed_static + self.state.encrypt(payload)

    def read_1(self, static, message):
        self.remote_ephemeral = message[:32]
        self.mix_ephemeral(self.remote_ephemeral)
        self.state.mix_key(dh(static, self.remote_ephemeral))
        self.remote_static = self.state.decrypt(message[32:80])
        self.state.mix_key(dh(static, self.remote_static))
        return self.state.decrypt(message[80:])

    def write_2(self, ephemeral, psk, payload):
        self.mix_ephemeral(public_of(ephemeral))
        self.state.mix_key(dh(ephemeral, self.remote_ephemeral))
        self.state.mix_key(dh(ephemeral, self.remote_static))
        self.state.mix_key_and_hash(psk)
        return public_of(ephemeral) + self.state.encrypt(payload)

    def read_2(self, psk, message):
        self.mix_ephemeral(message[:32])
        self.state.mix_key(dh(self.ephemeral, message[:32]))
        self.state.mix_key(dh(self.static, message[:32]))
        self.state.mix_key_and_hash(psk)
        return self.state.decrypt(message[32:])

    def split(self):
        return noise_hkdf(self.state.ck, b"", 2)


def master_of(noise):
    """What the two sides share, as the module's document has it."""
    prk = hmac.digest(bytes(32), b"".join(noise.split()), "sha256")
    return hmac.digest(prk, b"numiport/noise" + noise.state.h + b"\x01", "sha256")


def mac_key_of(master):
    prk = hmac.digest(bytes(32), master, "sha256")
    return hmac.digest(prk, b"numiport/hmac\x01", "sha256")


def test_noise_as_written_here_is_cacophonys_vector():
    def field(name):
        return bytes.fromhex(VECTOR[name])

    psk = bytes.fromhex(VECTOR["init_psks"][0])
    first, second, third, fourth = (
        (bytes.fromhex(entry["payload"]), bytes.fromhex(entry["ciphertext"]))
        for entry in VECTOR["messages"][:4]
    )
    noise = IKpsk2(field("init_prologue"), field("init_remote_static"))
    assert noise.write_1(field("init_static"), field("init_ephemeral"), first[0]) == first[1]
    responder = IKpsk2(field("resp_prologue"), field("init_remote_static"))
    assert responder.read_1(field("resp_static"), first[1]) == first[0]
    assert responder.write_2(field("resp_ephemeral"), psk, second[0]) == second[1]
    assert noise.read_2(psk, second[1]) == second[0]
    assert noise.state.h == responder.state.h == field("handshake_hash")
    for key, (payload, sealed) in zip(noise.split(), (third, fourth), strict=True):
        assert ChaCha20Poly1305(key).encrypt(bytes(12), payload, b"") == sealed


# -- two nodes -------------------------------------------------------------------------------------


class Numbers:
    """Session ids as a node has them: rising numbers."""

    def __init__(self):
        self.last = 0

    def __call__(self, now):
        self.last = max(self.last + 1, now)
        return self.last.to_bytes(8, "big") + bytes(8)


class Node:
    def __init__(self, identity, *, psk=PSK, permit=lambda _peer: True, suites=None, **bounds):
        self.identity = identity
        self.psk = psk
        self.suites = suites
        self.take_id = Numbers()
        self.cache = SessionCache(**bounds)
        self.responder = Responder(
            identity, self.cache, self.take_id, permit, psk=psk, suites=suites
        )

    def initiate(self, peer, *, epoch=EPOCH, now=0, tai=TAI, **changes):
        return Initiator(
            self.identity,
            peer.identity.public_key,
            epoch,
            self.take_id(tai),
            now,
            **{"psk": self.psk, "suites": self.suites, **changes},
        )

    def answer(self, message, *, epochs=(EPOCH,), now=0, **changes):
        return self.responder.answer(message, epochs=epochs, now=now, tai=TAI, **changes)

    def pending(self, peer, now=0):
        return self.cache.candidates(peer.identity.public_key, now)[-1]


def pair(**changes):
    return Node(ALICE, **changes), Node(BOB, **changes)


def shake(alice, bob, **changes):
    begun = alice.initiate(bob, **changes)
    session = begun.receive(bob.answer(begun.data_to_send(0), epochs=(begun._epoch,)))
    return session, bob.pending(alice)


def refused(fault, call):
    with pytest.raises(NumiportError) as caught:
        call()
    assert caught.value.fault is fault
    assert caught.value.__cause__ is None


def counts(node):
    return len(node.cache), node.cache.pending, node.take_id.last


def test_two_nodes_share_a_session_after_one_round_trip():
    alice, bob = pair()
    ours, theirs = shake(alice, bob)
    assert (ours.peer, theirs.peer) == (BOB.public_key, ALICE.public_key)
    assert (ours.local_id, ours.remote_id) == (theirs.remote_id, theirs.local_id)
    assert (ours.epoch, theirs.epoch) == (EPOCH, EPOCH)
    assert ours.secrets.mac == theirs.secrets.mac
    for one, other in ((ours, theirs), (theirs, ours)):
        sealed = one.tx.seal(b"shred", b"aad", **PLACE)
        assert other.rx.open(sealed, b"aad", **PLACE) == b"shred"
        refused(Fault.AEAD_FAIL, lambda: one.rx.open(sealed, b"aad", **PLACE))  # noqa: B023
    assert ours.places.take(5, 0) == theirs.places.take(5, 0) == 0


@pytest.mark.parametrize("psk", [PSK, NO_PSK], ids=["psk", "no psk"])
def test_both_messages_and_the_keys_are_what_noise_makes_of_them(psk):
    node = Node(ALICE, psk=psk)
    ephemeral = bytes(range(1, 33))
    begun = node.initiate(Node(BOB), random=lambda count: ephemeral[:count], offer=b"caps")
    session_id = TAI.to_bytes(8, "big") + bytes(8)
    hello = ALICE.public_key + session_id + EPOCH.to_bytes(8, "big") + b"caps"
    written = IKpsk2(b"numiport-noise", BOB.noise_public)
    message = begun.data_to_send(0)
    assert message == written.write_1(ALICE.noise_private, ephemeral, hello)

    # A responder that is not ours.
    noise = IKpsk2(b"numiport-noise", BOB.noise_public)
    assert noise.read_1(BOB.noise_private, message) == hello
    theirs = bytes(range(16))
    session = begun.receive(noise.write_2(bytes(range(2, 34)), psk, theirs + b"yes"))
    assert (session.local_id, session.remote_id, session.offer) == (session_id, theirs, b"yes")
    assert session.secrets.mac == mac_key_of(master_of(noise))

    # And an initiator that is not ours.
    bob = Node(BOB, psk=psk)
    reply = bob.answer(message, offer=b"well")
    assert written.read_2(psk, reply) == session_id + b"well"
    assert bob.pending(node).secrets.mac == mac_key_of(master_of(written))
    assert bob.pending(node).offer == b"caps"


def test_our_own_vector():
    """The same file serves whoever writes this in C."""
    path = Path(__file__).parents[1] / "vectors" / "numiport_security.json"
    named = json.loads(path.read_text())["noise"]
    vector = {name: bytes.fromhex(text) for name, text in named.items() if name != "epoch"}
    epoch = named["epoch"]
    initiator = Identity.from_seed(vector["initiator_seed"])
    responder = Identity.from_seed(vector["responder_seed"])
    begun = Initiator(
        initiator,
        responder.public_key,
        epoch,
        vector["initiator_session_id"],
        0,
        psk=vector["psk"],
        offer=vector["initiator_offer"],
        random=lambda _count: vector["initiator_ephemeral"],
    )
    cache = SessionCache()
    answering = Responder(
        responder,
        cache,
        lambda _now: vector["responder_session_id"],
        lambda _peer: True,
        psk=vector["psk"],
        random=lambda _count: vector["responder_ephemeral"],
    )
    message = begun.data_to_send(0)
    reply = answering.answer(
        message, epochs=(epoch,), now=0, tai=0, offer=vector["responder_offer"]
    )
    assert (message, reply) == (vector["message_1"], vector["message_2"])
    session = begun.receive(reply)
    (theirs,) = cache.candidates(initiator.public_key, 0)
    assert session.secrets.mac == theirs.secrets.mac == mac_key_of(vector["master"])
    assert (theirs.offer, session.offer) == (vector["initiator_offer"], vector["responder_offer"])


def test_the_salt_names_the_initiator_first():
    alice, bob = pair()
    ours, theirs = shake(alice, bob)
    secrets, ends = ours.secrets, Ends(ALICE.public_key, BOB.public_key)
    assert ours.tx._salt == theirs.rx._salt == secrets.salt(ours.local_id, ends, EPOCH)
    assert ours.rx._salt == theirs.tx._salt == secrets.salt(theirs.local_id, ends, EPOCH)


def test_no_two_sessions_share_a_key():
    alice, bob = pair()
    macs = set()
    for _ in range(5):
        session, theirs = shake(alice, bob)
        bob.cache.confirm(theirs)
        macs |= {session.secrets.mac, session.secrets.aead, session.secrets.siv}
    assert len(macs) == 15


def test_both_have_the_suite_of_p0():
    alice, bob = pair(suites=Suites(p0=Suite.AES_256_GCM_SIV))
    ours, theirs = shake(alice, bob)
    sealed = ours.tx.seal(b"vote", b"", **{**PLACE, "cls": 0})
    assert theirs.rx.open(sealed, b"", **{**PLACE, "cls": 0}) == b"vote"


def test_secrets_are_not_shown():
    session, theirs = shake(*pair())
    shown = repr(session) + repr(theirs)
    for secret in (session.secrets.mac, session.secrets.aead, PSK):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@pytest.mark.parametrize("length", [0, 1, OFFER_MAX])
def test_an_answer_is_never_three_times_its_message(length):
    alice, bob = pair()
    begun = alice.initiate(bob)
    message = begun.data_to_send(0)
    reply = bob.answer(message, offer=bytes(length))
    assert len(reply) <= 3 * len(message)
    assert begun.receive(reply).offer == bytes(length)


# -- the responder ---------------------------------------------------------------------------------


def test_every_byte_of_message_1_counts_and_nothing_is_kept_of_forgeries():
    alice, bob = pair()
    message = alice.initiate(bob).data_to_send(0)
    before = counts(bob)
    for offset in range(len(message)):
        forged = bytearray(message)
        forged[offset] ^= 1
        refused(Fault.AEAD_FAIL, lambda: bob.answer(bytes(forged)))  # noqa: B023
    for length in (0, 1, 95, 96, 1201):
        refused(Fault.AEAD_FAIL, lambda: bob.answer(bytes(length)))  # noqa: B023
    assert counts(bob) == before
    assert bob.answer(message)


def test_a_message_to_somebody_else_is_refused():
    alice, bob = pair()
    message = alice.initiate(Node(EVE)).data_to_send(0)
    refused(Fault.AEAD_FAIL, lambda: bob.answer(message))


def hello_to_bob(peer_id, *, static=ALICE.noise_private, session_id=b"\xff" * 16, epoch=EPOCH):
    noise = IKpsk2(b"numiport-noise", BOB.noise_public)
    hello = peer_id + session_id + epoch.to_bytes(8, "big")
    return noise.write_1(static, bytes(range(1, 33)), hello)


@pytest.mark.parametrize(
    "claimed",
    [EVE.public_key, BOB.public_key, bytes(32), bytes(31) + b"\x80", b"\xff" * 32],
    ids=["another", "the responder", "low order", "zero", "no point"],
)
def test_nobody_speaks_for_another_peer(claimed):
    bob = Node(BOB)
    before = counts(bob)
    refused(Fault.UNKNOWN_PEER, lambda: bob.answer(hello_to_bob(claimed)))
    assert counts(bob) == before
    assert bob.answer(hello_to_bob(ALICE.public_key))


def test_a_peer_without_permission_is_refused():
    asked = []

    def permit(peer):
        asked.append(peer)
        return False

    alice, bob = Node(ALICE), Node(BOB, permit=permit)
    message = alice.initiate(bob).data_to_send(0)
    before = counts(bob)
    refused(Fault.UNKNOWN_PEER, lambda: bob.answer(message))
    assert counts(bob) == before
    assert asked == [ALICE.public_key]


@pytest.mark.parametrize("epochs", [(), (EPOCH - 1,), (EPOCH + 1, EPOCH + 2)])
def test_a_session_of_another_epoch_is_refused(epochs):
    alice, bob = pair()
    message = alice.initiate(bob).data_to_send(0)
    before = counts(bob)
    refused(Fault.UNKNOWN_PSK, lambda: bob.answer(message, epochs=epochs))
    assert counts(bob) == before
    assert bob.answer(message, epochs=(EPOCH - 1, EPOCH))


@pytest.mark.parametrize("payload", [b"", bytes(55), bytes(56 + OFFER_MAX + 1)])
def test_a_message_that_says_too_little_or_too_much_is_refused(payload):
    noise = IKpsk2(b"numiport-noise", BOB.noise_public)
    message = noise.write_1(ALICE.noise_private, bytes(range(1, 33)), payload)
    bob = Node(BOB)
    before = counts(bob)
    refused(Fault.MALFORMED, lambda: bob.answer(message))
    assert counts(bob) == before


def test_the_same_message_is_answered_the_same_while_its_session_is_pending():
    alice, bob = pair()
    message = alice.initiate(bob).data_to_send(0)
    reply = bob.answer(message)
    after = counts(bob)
    assert bob.answer(message, now=TIMERS.lifetime - 1) == reply
    assert counts(bob) == after
    assert bob.answer(message, now=TIMERS.lifetime) != reply


def test_a_message_that_is_sent_again_later_does_not_disturb_a_session():
    alice, bob = pair()
    begun = alice.initiate(bob)
    message = begun.data_to_send(0)
    begun.receive(bob.answer(message))
    session = bob.pending(alice)
    bob.cache.confirm(session)
    before = counts(bob)
    refused(Fault.REPLAY, lambda: bob.answer(message))
    assert counts(bob) == before
    assert bob.cache.candidates(ALICE.public_key, 0) == (session,)


def test_an_older_message_does_not_take_the_place_of_a_newer_one():
    alice, bob = pair()
    older = alice.initiate(bob).data_to_send(0)
    newer = alice.initiate(bob)
    reply = bob.answer(newer.data_to_send(0))
    refused(Fault.REPLAY, lambda: bob.answer(older))
    assert newer.receive(reply).secrets.mac == bob.pending(alice).secrets.mac


def test_a_message_after_a_restart_leaves_the_session_until_it_is_proved():
    alice, bob = pair()
    _, former = shake(alice, bob)
    bob.cache.confirm(former)
    _, pending = shake(alice, bob)
    assert bob.cache.candidates(ALICE.public_key, 0) == (former, pending)
    assert bob.cache.get(ALICE.public_key, EPOCH) is former
    bob.cache.confirm(pending)
    assert bob.cache.candidates(ALICE.public_key, 0) == (pending,)
    assert bob.cache.get(ALICE.public_key, EPOCH) is pending


def test_where_both_begin_the_lower_id_goes_on():
    alice, bob = pair()
    low, high = sorted((alice, bob), key=lambda node: node.identity.public_key)
    from_low, from_high = low.initiate(high), high.initiate(low)
    before = counts(low)
    begun = (high.identity.public_key,)
    assert low.answer(from_high.data_to_send(0), begun=begun) is None
    assert counts(low) == before
    reply = high.answer(from_low.data_to_send(0), begun=(low.identity.public_key,))
    assert from_low.receive(reply).secrets.mac == high.pending(low).secrets.mac


@pytest.mark.parametrize("length", [31, 33])
def test_the_key_of_the_mesh_has_32_bytes(length):
    with pytest.raises(InvalidArgument, match="psk"):
        Node(BOB, psk=bytes(length))


def test_an_offer_is_bounded_on_both_sides():
    alice, bob = pair()
    with pytest.raises(InvalidArgument, match="offer"):
        alice.initiate(bob, offer=bytes(OFFER_MAX + 1))
    message = alice.initiate(bob).data_to_send(0)
    before = counts(bob)
    with pytest.raises(InvalidArgument, match="offer"):
        bob.answer(message, offer=bytes(OFFER_MAX + 1))
    assert counts(bob) == before


# -- the initiator ---------------------------------------------------------------------------------


def test_a_message_is_sent_again_until_the_handshake_is_given_up():
    alice, bob = pair()
    begun = alice.initiate(bob, now=100)
    times, messages = [], set()
    while (now := begun.next_deadline()) < 100 + TIMERS.lifetime:
        times.append(now - 100)
        messages.add(begun.data_to_send(now))
        assert begun.data_to_send(now) is None
    assert [later // 10**6 for later in times[:5]] == [0, 200, 600, 1000, 1400]
    assert len(messages) == 1
    with pytest.raises(FailedPrecondition, match="over"):
        begun.data_to_send(now)
    assert begun.next_deadline() is None
    with pytest.raises(FailedPrecondition, match="over"):
        begun.receive(bob.answer(messages.pop()))


def test_the_timers_are_the_callers():
    alice, bob = pair()
    begun = alice.initiate(bob, timers=Timers(lifetime=30 * SECOND, resend_first=SECOND))
    begun.data_to_send(0)
    assert begun.next_deadline() == SECOND


def test_a_cookie_is_sent_at_once_and_from_then_on():
    alice, bob = pair()
    begun = alice.initiate(bob)
    message = begun.data_to_send(0)
    assert begun.cookie is None
    begun.retry(b"cookie", 5)
    assert begun.next_deadline() == 5
    assert begun.data_to_send(5) == message
    assert begun.cookie == b"cookie"
    begun.retry(b"newer", 6)
    assert begun.cookie == b"newer"


def test_only_a_few_cookies_are_followed():
    alice, bob = pair()
    begun = alice.initiate(bob)
    for number in range(COOKIES_MAX):
        begun.retry(bytes([number]), 0)
        begun.data_to_send(0)
    before = begun.next_deadline(), begun.cookie
    refused(Fault.BAD_COOKIE, lambda: begun.retry(b"one more", 0))
    assert (begun.next_deadline(), begun.cookie) == before


def test_every_byte_of_message_2_counts_and_a_forgery_changes_nothing():
    alice, bob = pair()
    begun = alice.initiate(bob)
    reply = bob.answer(begun.data_to_send(0))
    for offset in range(len(reply)):
        forged = bytearray(reply)
        forged[offset] ^= 1
        refused(Fault.AEAD_FAIL, lambda: begun.receive(bytes(forged)))  # noqa: B023
    for length in (0, 47, 48, 1201):
        refused(Fault.AEAD_FAIL, lambda: begun.receive(bytes(length)))  # noqa: B023
    assert begun.receive(reply).secrets.mac == bob.pending(alice).secrets.mac


def test_after_the_answer_the_handshake_is_over():
    alice, bob = pair()
    begun = alice.initiate(bob)
    reply = bob.answer(begun.data_to_send(0))
    begun.receive(reply)
    assert begun.next_deadline() is None
    with pytest.raises(FailedPrecondition):
        begun.receive(reply)
    with pytest.raises(FailedPrecondition):
        begun.data_to_send(0)


@pytest.mark.parametrize("payload", [b"", bytes(15), bytes(16 + OFFER_MAX + 1)])
def test_an_answer_that_says_too_little_or_too_much_is_refused(payload):
    alice, bob = pair()
    begun = alice.initiate(bob)
    noise = IKpsk2(b"numiport-noise", BOB.noise_public)
    noise.read_1(BOB.noise_private, begun.data_to_send(0))
    reply = noise.write_2(bytes(range(1, 33)), PSK, payload)
    refused(Fault.MALFORMED, lambda: begun.receive(reply))
    assert begun.next_deadline() is not None


def test_another_key_of_the_mesh_shows_in_message_2():
    alice, bob = Node(ALICE), Node(BOB, psk=bytes(range(1, 33)))
    begun = alice.initiate(bob)
    reply = bob.answer(begun.data_to_send(0))
    refused(Fault.AEAD_FAIL, lambda: begun.receive(reply))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"epoch": -1}, "epoch"),
        ({"epoch": 1 << 64}, "epoch"),
        ({"psk": bytes(31)}, "psk"),
    ],
)
def test_what_does_not_fit_is_the_callers_mistake(changes, name):
    alice, bob = pair()
    with pytest.raises(InvalidArgument, match=name):
        alice.initiate(bob, **changes)


@pytest.mark.parametrize(
    ("peer", "session_id", "name"),
    [
        (ALICE.public_key, bytes(16), "responder"),
        (BOB.public_key[:31], bytes(16), "responder"),
        (bytes(32), bytes(16), "public_key"),
        (BOB.public_key, bytes(15), "session_id"),
    ],
)
def test_a_peer_that_cannot_be_is_the_callers_mistake(peer, session_id, name):
    with pytest.raises(InvalidArgument, match=name):
        Initiator(ALICE, peer, EPOCH, session_id, 0)


# -- the cache -------------------------------------------------------------------------------------


def identities(count):
    return [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, count + 1)]


def test_sessions_are_kept_by_peer_and_epoch_and_the_newest_epoch_is_tried_first():
    alice, bob = pair()
    held = {}
    for epoch in (7, 8):
        _, held[epoch] = shake(alice, bob, epoch=epoch)
        bob.cache.confirm(held[epoch])
    assert bob.cache.get(ALICE.public_key, 7) is held[7]
    assert bob.cache.get(ALICE.public_key, 8) is held[8]
    assert bob.cache.get(EVE.public_key, 8) is None
    assert bob.cache.candidates(ALICE.public_key, 0) == (held[8], held[7])
    assert bob.cache.retire(8) == 1
    assert bob.cache.candidates(ALICE.public_key, 0) == (held[8],)
    bob.cache.drop(ALICE.public_key)
    bob.cache.drop(ALICE.public_key)
    assert (len(bob.cache), bob.cache.candidates(ALICE.public_key, 0)) == (0, ())
    assert not bob.cache._epochs


def test_the_session_that_was_unused_for_longest_goes_first():
    bob = Node(BOB, sessions_max=2)
    first, second, third = [Node(identity) for identity in identities(3)]
    for node in (first, second):
        bob.cache.confirm(shake(node, bob)[1])
    bob.cache.get(first.identity.public_key, EPOCH)
    bob.cache.confirm(shake(third, bob)[1])
    assert len(bob.cache) == 2
    assert bob.cache.get(second.identity.public_key, EPOCH) is None
    assert bob.cache.get(first.identity.public_key, EPOCH) is not None


def test_a_session_in_the_place_of_another_pushes_nobody_out():
    bob = Node(BOB, sessions_max=2)
    first, second = [Node(identity) for identity in identities(2)]
    for node in (first, second, first, first):
        bob.cache.confirm(shake(node, bob)[1])
    assert len(bob.cache) == 2


def test_many_identities_push_out_what_is_pending_and_nothing_that_is_proved():
    bob = Node(BOB, pending_max=3)
    proved = shake(Node(ALICE), bob)[1]
    bob.cache.confirm(proved)
    nodes = [Node(identity) for identity in identities(8)]
    for node in nodes:
        bob.answer(node.initiate(bob).data_to_send(0))
        assert bob.cache.pending <= 3
        assert len(bob.cache._replies) == bob.cache.pending
    assert [bool(bob.cache.candidates(node.identity.public_key, 0)) for node in nodes] == [
        False
    ] * 5 + [True] * 3
    assert bob.cache.candidates(ALICE.public_key, 0) == (proved,)


def test_one_identity_has_one_pending_session():
    alice, bob = pair()
    for _ in range(5):
        bob.answer(alice.initiate(bob).data_to_send(0))
    assert bob.cache.pending == len(bob.cache._replies) == 1


def test_what_is_not_proved_in_time_is_forgotten():
    alice, bob = pair()
    bob.answer(alice.initiate(bob).data_to_send(0))
    bob.answer(Node(EVE).initiate(bob).data_to_send(0), now=1)
    assert bob.cache.candidates(ALICE.public_key, TIMERS.lifetime) == ()
    assert bob.cache.pending == 1
    assert bob.cache.candidates(EVE.public_key, TIMERS.lifetime + 1) == ()
    assert bob.cache.pending == len(bob.cache._replies) == 0


def test_a_session_that_came_too_late_to_be_pending_is_kept_all_the_same():
    alice, bob = pair()
    _, session = shake(alice, bob)
    bob.cache.candidates(ALICE.public_key, TIMERS.lifetime)
    assert bob.cache.pending == 0
    bob.cache.confirm(session)
    assert bob.cache.get(ALICE.public_key, EPOCH) is session


@pytest.mark.parametrize("name", ["sessions_max", "pending_max", "lifetime"])
def test_a_cache_of_nothing_is_the_callers_mistake(name):
    with pytest.raises(InvalidArgument, match=name):
        SessionCache(**{name: 0})
