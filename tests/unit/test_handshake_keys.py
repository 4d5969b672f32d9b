import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.handshake.keys import (
    SealError,
    aad,
    admission_key,
    confirmation_key,
    derive_session_keys,
    nonce,
    open_,
    seal,
)
from assent.wire.cellid import CellID

A = CellID(bytes(range(16)))
B = CellID(bytes(range(16, 32)))
SPLIT = (bytes(range(32)), bytes(range(32, 64)))
PSK = bytes(range(100, 132))
PLACE = {"src": A, "dst": B, "epoch": 1, "flow": 2, "seq": 3}
KEY = bytes(range(32))


def hkdf(secret, length, info, salt=bytes(32)):
    """RFC 5869 from its text, for one block of output."""
    prk = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(prk, info + b"\x01", hashlib.sha256)[:length]


def test_the_session_keys_are_hkdf_over_direction_and_epoch():
    keys = derive_session_keys(SPLIT, initiator=True, local=A, peer=B, epoch=0x01020304)
    there = bytes.fromhex("01020304") + A.raw + B.raw
    back = bytes.fromhex("01020304") + B.raw + A.raw
    assert keys.tx_payload == hkdf(SPLIT[0], 32, b"assent payload v1" + there)
    assert keys.tx_header == hkdf(SPLIT[0], 16, b"assent header v1" + there)
    assert keys.rx_payload == hkdf(SPLIT[1], 32, b"assent payload v1" + back)
    assert keys.rx_header == hkdf(SPLIT[1], 16, b"assent header v1" + back)
    assert keys.epoch == 0x01020304


def test_confirmation_and_admission_keys():
    info = b"assent confirm v1" + bytes(3) + b"\x05" + A.raw + B.raw
    assert confirmation_key(SPLIT, A, B, 5) == hkdf(SPLIT[0], 32, info)
    expected = hkdf(PSK, 16, A.raw + B.raw, b"assent-admission-v1")
    assert admission_key(PSK, A, B) == expected
    assert admission_key(PSK, B, A) != expected


@given(st.integers(1, (1 << 32) - 1))
def test_both_sides_hold_the_same_keys_exchanged(epoch):
    ours = derive_session_keys(SPLIT, initiator=True, local=A, peer=B, epoch=epoch)
    theirs = derive_session_keys(SPLIT, initiator=False, local=B, peer=A, epoch=epoch)
    assert (ours.tx_payload, ours.tx_header) == (theirs.rx_payload, theirs.rx_header)
    assert (ours.rx_payload, ours.rx_header) == (theirs.tx_payload, theirs.tx_header)


def test_no_two_keys_coincide():
    keys = [
        key
        for epoch in (1, 2)
        for local, peer in ((A, B), (B, A))
        for session in [
            derive_session_keys(SPLIT, initiator=True, local=local, peer=peer, epoch=epoch)
        ]
        for key in (
            session.tx_payload[:16],
            session.rx_payload[:16],
            session.tx_header,
            session.rx_header,
            confirmation_key(SPLIT, local, peer, epoch)[:16],
        )
    ]
    assert len(set(keys)) == len(keys)


def test_secrets_are_not_shown():
    keys = derive_session_keys(SPLIT, initiator=True, local=A, peer=B, epoch=9)
    assert repr(keys) == "SessionKeys(epoch=9)"


def test_nonce_and_aad_are_the_designs():
    assert nonce(0x01020304, 0x0506, 0x0708090A).hex() == "00000102030405060708090a"
    assert aad(A, B, 0x01020304, 0x0506) == A.raw + B.raw + bytes.fromhex("010203040506")
    assert len(aad(A, B, 0, 0)) == 38


@pytest.mark.parametrize(
    "call",
    [
        lambda: nonce(1 << 32, 0, 0),
        lambda: nonce(0, 1 << 16, 0),
        lambda: nonce(0, 0, -1),
        lambda: aad(A, B, 1 << 32, 0),
        lambda: aad(A, B, 0, 1 << 16),
        lambda: admission_key(b"short", A, B),
        lambda: confirmation_key((b"short", b""), A, B, 1),
        lambda: derive_session_keys(SPLIT, initiator=True, local=A, peer=B, epoch=1 << 32),
        lambda: derive_session_keys((b"", b""), initiator=True, local=A, peer=B, epoch=1),
    ],
)
def test_what_does_not_fit_is_a_local_error(call):
    with pytest.raises(InvalidArgument):
        call()


@given(st.binary(max_size=200))
def test_seal_and_open_are_inverse(plaintext):
    sealed = seal(KEY, plaintext, **PLACE)
    assert len(sealed) == len(plaintext) + 16
    assert open_(KEY, sealed, **PLACE) == plaintext


@pytest.mark.parametrize(
    "changes",
    [{"src": B}, {"dst": A}, {"epoch": 2}, {"flow": 3}, {"seq": 4}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_seal_holds_only_in_its_place(changes):
    sealed = seal(KEY, b"payload", **PLACE)
    with pytest.raises(SealError) as caught:
        open_(KEY, sealed, **{**PLACE, **changes})
    assert isinstance(caught.value, RemoteError)


def test_every_byte_of_a_sealed_payload_counts():
    sealed = seal(KEY, b"payload", **PLACE)
    for offset in range(len(sealed)):
        forged = bytearray(sealed)
        forged[offset] ^= 0x80
        with pytest.raises(SealError):
            open_(KEY, bytes(forged), **PLACE)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_sealed_payload_shorter_than_its_tag_does_not_open(length):
    with pytest.raises(SealError):
        open_(KEY, bytes(length), **PLACE)
