# SPDX-License-Identifier: Apache-2.0
"""Numiport's keys, salts, nonces and seals, against primitives that are put together here."""

import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.numiport import keys
from assent.numiport.keys import Direction, Ends, Lane, Secrets, Suite, Suites, nonce
from assent.numiport.wire import Class, Fault, NumiportError

MASTER = bytes(range(32))
A, B, C = (bytes([first]) * 32 for first in (0x0A, 0x0B, 0x0C))
ENDS = Ends(A, B)
SESSION = bytes(range(0x40, 0x50))
PLACE = {"cls": Class.P1, "slot": 0x0102030405060708, "stream": 2, "seq": 0x0A0B0C0D}
AAD = bytes(range(60))
SIV = Suites(p0=Suite.AES_256_GCM_SIV)

_MASK = 0xFFFFFFFF


def hkdf(secret, info):
    """RFC 5869 from its text, with an empty salt, for one block of output."""
    return hmac.digest(hmac.digest(bytes(32), secret, hashlib.sha256), info + b"\x01", "sha256")


def rotated(word, left):
    return (word << left | word >> (32 - left)) & _MASK


def quarter(words, a, b, c, d, rotations, extra=(0, 0)):
    """The quarter round of ChaCha; BLAKE's has words of a message in it, and turns right."""
    for left, word in zip((rotations[:2], rotations[2:]), extra, strict=True):
        words[a] = (words[a] + words[b] + word) & _MASK
        words[d] = rotated(words[d] ^ words[a], left[0])
        words[c] = (words[c] + words[d]) & _MASK
        words[b] = rotated(words[b] ^ words[c], left[1])


COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def blake3_keyed(key, message):
    """BLAKE3's keyed mode (its paper, section 2) for what fits into one block, 32 bytes."""
    iv = struct.unpack("<4I", bytes.fromhex("67e6096a85ae67bb72f36e3c3af54fa5"))
    block = list(struct.unpack("<16I", message.ljust(64, b"\0")))
    chunk_start_end_root_keyed = 1 | 2 | 8 | 16
    words = [*struct.unpack("<8I", key), *iv, 0, 0, len(message), chunk_start_end_root_keyed]
    for _ in range(7):
        for index, places in enumerate(COLUMNS + DIAGONALS):
            extra = block[2 * index : 2 * index + 2]
            quarter(words, *places, rotations=(16, 20, 24, 25), extra=extra)
        block = [block[i] for i in (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)]
    return struct.pack("<8I", *(words[i] ^ words[i + 8] for i in range(8)))


def xchacha20_poly1305(key, number, plaintext, aad):
    """draft-irtf-cfrg-xchacha-03, sections 2.2 and 2.3, on OpenSSL's ChaCha20-Poly1305."""
    words = list(struct.unpack("<16I", b"expand 32-byte k" + key + number[:16]))
    for _ in range(10):
        for places in COLUMNS + DIAGONALS:
            quarter(words, *places, rotations=(16, 12, 8, 7))
    subkey = struct.pack("<8I", *words[:4], *words[12:])
    return ChaCha20Poly1305(subkey).encrypt(bytes(4) + number[16:], plaintext, aad)


def secrets():
    return Secrets.from_master(MASTER)


def lane(**changes):
    given = {
        "secrets": secrets(),
        "session_id": SESSION,
        "ends": ENDS,
        "sender": A,
        "epoch": 7,
        **changes,
    }
    return Lane(given.pop("secrets"), given.pop("session_id"), given.pop("ends"), **given)


# -- what the tests themselves stand on ------------------------------------------------------------


def test_blake3_as_written_here_is_blake3():
    key = b"whats the Elvish word for friend"
    published = "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
    assert blake3_keyed(key, b"").hex() == published


def test_xchacha20_poly1305_as_written_here_is_the_drafts():
    sealed = xchacha20_poly1305(
        bytes(range(0x80, 0xA0)),
        bytes(range(0x40, 0x58)),
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it.",
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )


def test_aes_256_gcm_siv_is_rfc_8452s():
    key, number = bytes([1, *bytes(31)]), bytes([3, *bytes(11)])
    sealed = AESGCMSIV(key).encrypt(number, bytes([1, *bytes(7)]), b"")
    assert sealed.hex() == "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"


# -- keys and salts --------------------------------------------------------------------------------


def test_the_keys_are_hkdf_of_the_master_secret():
    assert secrets().mac == hkdf(MASTER, b"numiport/hmac")
    assert secrets().aead == hkdf(MASTER, b"numiport/aead")
    assert secrets().siv == hkdf(MASTER, b"numiport/aead/aes-256-gcm-siv")


def test_the_salt_is_hkdf_over_session_ends_and_epoch():
    info = b"nonce-salt" + SESSION + A + B + bytes.fromhex("0000000000000007")
    assert secrets().salt(SESSION, ENDS, 7) == hkdf(MASTER, info)


def test_no_part_of_a_salts_place_may_be_changed():
    salts = {
        secrets().salt(SESSION, ENDS, 7),
        secrets().salt(SESSION, ENDS, 8),
        secrets().salt(bytes(16), ENDS, 7),
        secrets().salt(SESSION, Ends(B, A), 7),
        secrets().salt(SESSION, Ends(A, C), 7),
        Secrets.from_master(bytes(32)).salt(SESSION, ENDS, 7),
    }
    assert len(salts) == 6


def test_secrets_are_not_shown():
    assert repr(secrets()) == "Secrets()"
    shown = repr(lane()) + str(lane())
    assert not any(secret.hex() in shown for secret in (MASTER, secrets().aead))
    assert not hasattr(lane(), "__dict__")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_master_secret_has_32_bytes(length):
    with pytest.raises(InvalidArgument, match="master"):
        Secrets.from_master(bytes(length))


# -- ends ------------------------------------------------------------------------------------------


def test_without_a_handshake_the_lower_id_stands_first():
    assert Ends.of_psk(A, B) == Ends.of_psk(B, A) == Ends(A, B)


def test_the_direction_follows_from_the_sender():
    assert Ends(B, A).direction_from(B) is Direction.TO_RESPONDER
    assert Ends(B, A).direction_from(A) is Direction.TO_INITIATOR
    assert (Direction.TO_RESPONDER, Direction.TO_INITIATOR) == (0, 1)
    with pytest.raises(InvalidArgument, match="sender"):
        ENDS.direction_from(C)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (A, A, "responder"),
        (A[:31], B, "initiator"),
        (A, B + b"\0", "responder"),
        (b"", b"", "in"),
    ],
)
def test_ends_are_two_ids_of_32_bytes(one, other, name):
    with pytest.raises(InvalidArgument, match=name):
        Ends(one, other)


# -- nonces ----------------------------------------------------------------------------------------


def test_the_nonce_is_blake3_of_the_place():
    salt = secrets().salt(SESSION, ENDS, 7)
    place = bytes.fromhex("0102030405060708" + "00000002" + "0a0b0c0d" + "01")
    expected = blake3_keyed(salt, place)[:24]
    assert nonce(salt, 0x0102030405060708, 2, 0x0A0B0C0D, Direction.TO_INITIATOR) == expected


places = st.tuples(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.sampled_from(Direction),
)
# Of few values each, so that most places differ in little.
near_places = st.tuples(
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.sampled_from(Direction)
)
salts_of = st.tuples(
    st.sampled_from([SESSION, bytes(16), bytes(15) + b"\1"]),
    st.sampled_from([Ends(A, B), Ends(B, A), Ends(A, C)]),
    st.integers(0, 2),
)


@given(st.lists(st.tuples(salts_of, st.one_of(near_places, places)), max_size=60, unique=True))
def test_no_two_places_have_one_nonce(where):
    nonces = {
        nonce(secrets().salt(*session), slot, stream, seq, direction)
        for session, (slot, stream, seq, direction) in where
    }
    assert len(nonces) == len(where)


def test_all_places_of_a_small_domain_have_their_own_nonce_and_so_have_their_halves():
    salt = secrets().salt(SESSION, ENDS, 7)
    nonces = {
        nonce(salt, slot, stream, seq, direction)
        for slot in range(16)
        for stream in range(4)
        for seq in range(64)
        for direction in Direction
    }
    assert len(nonces) == len({number[:12] for number in nonces}) == 16 * 4 * 64 * 2


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"slot": 1 << 64}, "place"),
        ({"slot": -1}, "place"),
        ({"stream": 1 << 32}, "place"),
        ({"seq": 1 << 32}, "place"),
        ({"seq": -1}, "place"),
    ],
)
def test_a_place_that_does_not_fit_is_the_callers_mistake(changes, name):
    with pytest.raises(InvalidArgument, match=name):
        lane().seal(b"", AAD, **{**PLACE, **changes})
    with pytest.raises(InvalidArgument, match=name):
        lane().open(bytes(16), AAD, **{**PLACE, **changes})


def test_a_salt_has_32_bytes():
    with pytest.raises(InvalidArgument, match="salt"):
        nonce(bytes(31), 0, 0, 0, Direction.TO_RESPONDER)


# -- seals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "byte"), [(A, b"\0"), (B, b"\1")], ids=["there", "back"])
def test_a_seal_is_xchacha20_poly1305_under_the_nonce_of_its_place(sender, byte):
    salt = hkdf(MASTER, b"nonce-salt" + SESSION + A + B + bytes(7) + b"\7")
    place = bytes.fromhex("0102030405060708" + "00000002" + "0a0b0c0d") + byte
    number = blake3_keyed(salt, place)[:24]
    expected = xchacha20_poly1305(hkdf(MASTER, b"numiport/aead"), number, b"a shred", AAD)
    assert lane(sender=sender).seal(b"a shred", AAD, **PLACE) == expected


def test_p0_may_have_aes_256_gcm_siv_and_nothing_else_has():
    number = nonce(
        secrets().salt(SESSION, ENDS, 7), PLACE["slot"], 2, PLACE["seq"], Direction.TO_RESPONDER
    )
    key = hkdf(MASTER, b"numiport/aead/aes-256-gcm-siv")
    vote = lane(suites=SIV).seal(b"a vote", AAD, **{**PLACE, "cls": Class.P0})
    assert vote == AESGCMSIV(key).encrypt(number[:12], b"a vote", AAD)
    for cls in (Class.P1, Class.P2, Class.P3):
        place = {**PLACE, "cls": cls}
        assert lane(suites=SIV).seal(b"x", AAD, **place) == lane().seal(b"x", AAD, **place)


suites = pytest.mark.parametrize("suites", [Suites(), SIV], ids=["xchacha", "siv"])


@suites
@pytest.mark.parametrize("cls", list(Class))
@given(st.binary(max_size=200), st.binary(max_size=100))
def test_open_is_the_inverse_of_seal(suites, cls, plaintext, aad):
    place = {**PLACE, "cls": cls}
    sealed = lane(suites=suites).seal(plaintext, aad, **place)
    assert len(sealed) == len(plaintext) + keys.TAG_LEN
    assert lane(suites=suites).open(sealed, aad, **place) == plaintext


@suites
@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": bytes(16)},
        {"sender": B},
        {"ends": Ends(B, A)},
        {"ends": Ends(A, C)},
        {"epoch": 8},
        {"secrets": Secrets.from_master(bytes(32))},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_seal_holds_in_its_session_and_direction_alone(suites, changes):
    place = {**PLACE, "cls": Class.P0}
    sealed = lane(suites=suites).seal(b"payload", AAD, **place)
    with pytest.raises(NumiportError) as caught:
        lane(suites=suites, **changes).open(sealed, AAD, **place)
    assert caught.value.fault is Fault.AEAD_FAIL
    assert isinstance(caught.value, RemoteError)
    assert caught.value.__cause__ is None


@suites
@pytest.mark.parametrize(
    "changes", [{"slot": 1}, {"stream": 3}, {"seq": 0}], ids=lambda changes: next(iter(changes))
)
def test_a_seal_holds_in_its_place_alone(suites, changes):
    place = {**PLACE, "cls": Class.P0}
    sealed = lane(suites=suites).seal(b"payload", AAD, **place)
    with pytest.raises(NumiportError) as caught:
        lane(suites=suites).open(sealed, AAD, **{**place, **changes})
    assert caught.value.fault is Fault.AEAD_FAIL


def test_a_seal_of_one_suite_does_not_open_in_the_other():
    place = {**PLACE, "cls": Class.P0}
    sealed = lane(suites=SIV).seal(b"payload", AAD, **place)
    with pytest.raises(NumiportError) as caught:
        lane().open(sealed, AAD, **place)
    assert caught.value.fault is Fault.AEAD_FAIL


@suites
def test_every_byte_of_a_seal_and_of_what_it_covers_counts(suites):
    place = {**PLACE, "cls": Class.P0}
    held = lane(suites=suites)
    sealed = held.seal(b"payload", AAD, **place)
    for offset in range(len(sealed)):
        forged = bytearray(sealed)
        forged[offset] ^= 0x80
        with pytest.raises(NumiportError):
            held.open(bytes(forged), AAD, **place)
    for offset in range(len(AAD)):
        forged = bytearray(AAD)
        forged[offset] ^= 1
        with pytest.raises(NumiportError):
            held.open(sealed, bytes(forged), **place)
    assert held.open(sealed, AAD, **place) == b"payload"


@suites
@pytest.mark.parametrize("length", [0, 1, 15])
def test_what_is_shorter_than_a_tag_does_not_open(suites, length):
    with pytest.raises(NumiportError) as caught:
        lane(suites=suites).open(bytes(length), AAD, **{**PLACE, "cls": Class.P0})
    assert caught.value.fault is Fault.AEAD_FAIL


@suites
def test_a_payload_is_as_long_as_a_header_can_say(suites):
    place = {**PLACE, "cls": Class.P0}
    held = lane(suites=suites)
    assert len(held.seal(bytes(0xFFFF), AAD, **place)) == 0xFFFF + 16
    with pytest.raises(InvalidArgument, match="plaintext"):
        held.seal(bytes(0x10000), AAD, **place)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"session_id": bytes(15)}, "session_id"),
        ({"session_id": bytes(17)}, "session_id"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": 1 << 64}, "epoch"),
        ({"sender": C}, "sender"),
    ],
)
def test_a_lane_of_what_does_not_fit_is_the_callers_mistake(changes, name):
    with pytest.raises(InvalidArgument, match=name):
        lane(**changes)


def test_where_openssl_has_no_siv_it_is_refused_before_a_packet_is(monkeypatch):
    def absent(_key):
        raise keys.UnsupportedAlgorithm("no")

    monkeypatch.setattr(keys, "AESGCMSIV", absent)
    with pytest.raises(FailedPrecondition, match=r"3\.2"):
        Suites(p0=Suite.AES_256_GCM_SIV)
    assert Suites().of(Class.P0) is Suite.XCHACHA20_POLY1305


# The same file serves whoever writes this in C.
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "numiport_security.json").read_text())[
    "keys"
]


def vector(name):
    return bytes.fromhex(VECTOR[name])


def test_the_vector_is_what_primitives_make_of_it():
    place = struct.pack(">QII", VECTOR["slot"], VECTOR["stream"], VECTOR["seq"])
    ends = vector("initiator") + vector("responder") + VECTOR["epoch"].to_bytes(8, "big")
    salt = hkdf(vector("master"), b"nonce-salt" + vector("session_id") + ends)
    assert salt == vector("salt")
    for seal in VECTOR["seals"]:
        number = blake3_keyed(salt, place + bytes([seal["direction"]]))[:24]
        sealed = xchacha20_poly1305(vector("aead"), number, vector("plaintext"), vector("aad"))
        assert (number.hex(), sealed.hex()) == (seal["nonce"], seal["xchacha20_poly1305"])


@pytest.mark.parametrize("seal", VECTOR["seals"], ids=["there", "back"])
def test_the_vector(seal):
    ours = Secrets.from_master(vector("master"))
    assert (ours.mac, ours.aead, ours.siv) == (vector("mac"), vector("aead"), vector("siv"))
    ends = Ends(vector("initiator"), vector("responder"))
    assert ours.salt(vector("session_id"), ends, VECTOR["epoch"]) == vector("salt")
    sender = (ends.initiator, ends.responder)[seal["direction"]]
    place = {name: VECTOR[name] for name in ("slot", "stream", "seq")}
    for suite in Suite:
        held = Lane(
            ours,
            vector("session_id"),
            ends,
            sender=sender,
            epoch=VECTOR["epoch"],
            suites=Suites(p0=suite),
        )
        sealed = bytes.fromhex(seal[suite.name.lower()])
        assert held.seal(vector("plaintext"), vector("aad"), cls=Class.P0, **place) == sealed
        assert held.open(sealed, vector("aad"), cls=Class.P0, **place) == vector("plaintext")


def test_libsodium_seals_as_is_written_here():
    key, number = bytes(range(32)), bytes(range(24))
    sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(b"x" * 70, AAD, number, key)
    assert sealed == xchacha20_poly1305(key, number, b"x" * 70, AAD)
