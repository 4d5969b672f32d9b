"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s against the cacophony vectors."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from assent.errors import FailedPrecondition, InvalidArgument, RemoteError
from assent.handshake.noise import MESSAGE_MAX, PROTOCOL, HandshakeError, NoiseIK, prologue
from assent.wire.cellid import CellID

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "noise_ikpsk2.json").read_text())


def field(name):
    return bytes.fromhex(VECTOR[name])


PSK = bytes.fromhex(VECTOR["init_psks"][0])
MESSAGES = [
    (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"]))
    for message in VECTOR["messages"]
]


def initiate(**changes):
    return NoiseIK.initiate(
        **{
            "static": field("init_static"),
            "remote_static": field("init_remote_static"),
            "psk": PSK,
            "ephemeral": field("init_ephemeral"),
            "prologue": field("init_prologue"),
            **changes,
        }
    )


def respond(**changes):
    return NoiseIK.respond(
        **{
            "static": field("resp_static"),
            "psk": PSK,
            "ephemeral": field("resp_ephemeral"),
            "prologue": field("resp_prologue"),
            **changes,
        }
    )


def complete(initiator, responder):
    responder.read_message(initiator.write_message(b"one"))
    initiator.read_message(responder.write_message(b"two"))
    return initiator.split(), responder.split()


def test_the_vector_is_for_our_protocol():
    assert VECTOR["protocol_name"].encode() == PROTOCOL


def test_the_published_vector_both_ways():
    initiator, responder = initiate(), respond()
    (first, first_sealed), (second, second_sealed), *transport = MESSAGES
    assert initiator.write_message(first) == first_sealed
    assert responder.read_message(first_sealed) == first
    assert responder.write_message(second) == second_sealed
    assert initiator.read_message(second_sealed) == second
    assert initiator.handshake_hash == responder.handshake_hash == field("handshake_hash")
    assert initiator.split() == responder.split()
    for index, (payload, sealed) in enumerate(transport):
        key = initiator.split()[index % 2]
        nonce = bytes(4) + (index // 2).to_bytes(8, "little")
        assert ChaCha20Poly1305(key).encrypt(nonce, payload, b"") == sealed


def test_a_clone_stands_at_the_same_point_and_is_independent():
    initiator, responder = initiate(), respond()
    responder.clone().read_message(initiator.clone().write_message(b"elsewhere"))
    first = initiator.write_message(MESSAGES[0][0])
    assert first == MESSAGES[0][1]
    responder.read_message(first)
    assert responder.clone().write_message(MESSAGES[1][0]) == MESSAGES[1][1]
    sealed = responder.write_message(MESSAGES[1][0])
    twin = initiator.clone()
    assert twin.read_message(sealed) == MESSAGES[1][0]
    assert initiator.read_message(sealed) == MESSAGES[1][0]
    assert twin.split() == initiator.split() == initiator.clone().split()


def test_a_forged_message_costs_a_clone_and_the_original_goes_on():
    initiator, responder = initiate(), respond()
    responder.read_message(initiator.write_message(MESSAGES[0][0]))
    sealed = responder.write_message(MESSAGES[1][0])
    forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(HandshakeError, match="does not verify"):
            initiator.clone().read_message(forged)
    twin = initiator.clone()
    assert twin.read_message(sealed) == MESSAGES[1][0]
    with pytest.raises(HandshakeError):
        initiator.read_message(forged)
    with pytest.raises(FailedPrecondition):
        initiator.read_message(sealed)
    # What a failure has spoiled is not handed on.
    assert initiator.clone().read_message(sealed) == MESSAGES[1][0]
    assert twin.split() == responder.split()


def test_the_responder_learns_who_it_talks_to():
    initiator, responder = initiate(), respond()
    with pytest.raises(FailedPrecondition, match="before message 1"):
        _ = responder.remote_static
    responder.read_message(initiator.write_message(b""))
    public = X25519PrivateKey.from_private_bytes(field("init_static")).public_key()
    assert responder.remote_static == public.public_bytes_raw()
    assert initiator.remote_static == field("init_remote_static")


def test_the_prologue_names_protocol_and_cells():
    src, dst = CellID(bytes(16)), CellID(bytes(range(16)))
    assert prologue(src, dst) == b"assent-utcp-v1" + bytes(16) + bytes(range(16))


@pytest.mark.parametrize(
    "changes",
    [
        {"prologue": b"other"},
        {"static": bytes(range(32))},
    ],
)
def test_message_1_does_not_verify_for_another_responder(changes):
    responder = respond(**changes)
    with pytest.raises(HandshakeError, match="does not verify") as caught:
        responder.read_message(MESSAGES[0][1])
    assert isinstance(caught.value, RemoteError)
    assert caught.value.__cause__ is None
    with pytest.raises(FailedPrecondition):
        _ = responder.remote_static


def test_another_psk_shows_in_message_2():
    initiator, responder = initiate(), respond(psk=bytes(range(32)))
    responder.read_message(initiator.write_message(b""))
    with pytest.raises(HandshakeError):
        initiator.read_message(responder.write_message(b""))


@pytest.mark.parametrize("turn", [0, 1])
def test_every_byte_of_a_message_counts_and_the_original_survives(turn):
    initiator, responder = initiate(), respond()
    reader = responder
    message = initiator.write_message(b"x")
    if turn:
        responder.read_message(message)
        reader, message = initiator, responder.write_message(b"y")
    for offset in range(len(message)):
        forged = bytearray(message)
        forged[offset] ^= 1
        with pytest.raises(HandshakeError):
            reader.clone().read_message(bytes(forged))
    assert reader.read_message(message) in {b"x", b"y"}


@pytest.mark.parametrize("length", [0, 95, MESSAGE_MAX + 1])
def test_messages_of_impossible_length_are_refused(length):
    responder = respond()
    with pytest.raises(HandshakeError, match="length"):
        responder.read_message(bytes(length))


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_an_ephemeral_of_low_order_is_refused(point):
    with pytest.raises(HandshakeError):
        respond().read_message(point + MESSAGES[0][1][32:])


def test_a_responder_key_of_low_order_is_refused():
    with pytest.raises(HandshakeError):
        initiate(remote_static=bytes(32)).write_message(b"")


def test_messages_have_their_turn():
    initiator, responder = initiate(), respond()
    for call in (
        lambda: initiator.read_message(MESSAGES[1][1]),
        lambda: responder.write_message(b""),
        initiator.split,
        lambda: initiator.handshake_hash,
    ):
        with pytest.raises(FailedPrecondition):
            call()
    complete(initiator, responder)
    for call in (
        lambda: initiator.write_message(b""),
        lambda: initiator.read_message(MESSAGES[1][1]),
        lambda: responder.write_message(b""),
        lambda: responder.read_message(MESSAGES[0][1]),
    ):
        with pytest.raises(FailedPrecondition):
            call()


def test_after_a_failure_a_handshake_is_of_no_use():
    responder = respond()
    with pytest.raises(HandshakeError):
        responder.read_message(bytes(96))
    with pytest.raises(FailedPrecondition):
        responder.read_message(MESSAGES[0][1])


def test_the_payload_is_bounded():
    with pytest.raises(InvalidArgument, match="payload"):
        initiate().write_message(bytes(MESSAGE_MAX - 95))
    assert len(initiate().write_message(bytes(MESSAGE_MAX - 96))) == MESSAGE_MAX


@pytest.mark.parametrize("name", ["static", "remote_static", "psk", "ephemeral"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_have_32_bytes(name, length):
    with pytest.raises(InvalidArgument, match=name):
        initiate(**{name: bytes(length)})


def test_other_randomness_gives_other_keys():
    first, _ = complete(initiate(), respond())
    second, _ = complete(initiate(), respond(ephemeral=bytes(range(1, 33))))
    assert len({*first, *second}) == 4


def test_secrets_are_not_shown():
    handshake = initiate()
    assert repr(PSK)[2:-1] not in repr(handshake)
