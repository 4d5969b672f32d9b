import base64
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RemoteError,
)
from assent.identity.cellid import from_mac, from_public_key
from assent.identity.keys import (
    Identity,
    SignatureError,
    generate_psk,
    noise_public_of,
    parse_psk,
    verify,
)
from assent.wire.cellid import CellID

# RFC 8032, section 7.1, TEST 1 and TEST 2
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
SEED_2 = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")

LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


# ---- CellID


def test_a_cellid_from_a_mac_is_fnv_big_endian():
    mac = bytes.fromhex("02005e100001")
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in mac:
        value = (value ^ byte) * ((1 << 88) + 0x13B) % (1 << 128)
    assert from_mac(mac).raw == value.to_bytes(16, "big")


def test_a_cellid_from_a_key_is_siphash_128_under_the_fixed_key():
    expected = bindings.crypto_shorthash_siphashx24(PUBLIC, b"assent-cellid-v1")
    assert from_public_key(PUBLIC).raw == expected


@pytest.mark.parametrize("length", [0, 5, 7])
def test_from_mac_refuses_another_length(length):
    with pytest.raises(InvalidArgument, match="mac"):
        from_mac(bytes(length))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_from_public_key_refuses_another_length(length):
    with pytest.raises(InvalidArgument, match="public_key"):
        from_public_key(bytes(length))


@pytest.mark.parametrize(
    "text",
    [
        "00112233445566778899aabbccddeeff",
        "00112233445566778899AABBCCDDEEFF",
        "0011:2233:4455:6677:8899:aabb:ccdd:eeff",
        "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
        "00112233-4455-6677-8899-aabbccddeeff",
    ],
)
def test_parse_reads_every_grouping(text):
    cell = CellID.parse(text)
    assert cell.raw == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert str(cell) == "00112233445566778899aabbccddeeff"
    assert cell.short == "00112233"
    assert bytes(cell) == cell.raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 31,
        "0" * 33,
        "g" * 32,
        " " + "0" * 32,
        "0" * 32 + "\n",
        "0011:2233-4455:6677:8899:aabb:ccdd:eeff",
        "0" * 16 + "::" + "0" * 16,
        ":" + "0" * 32,
        "0:" + "0" * 31,
        "\u0660" * 32,
    ],
)
def test_parse_refuses_anything_else(text):
    with pytest.raises(InvalidArgument, match="cell_id"):
        CellID.parse(text)


@given(st.binary(min_size=16, max_size=16))
def test_text_round_trips(raw):
    assert CellID.parse(str(CellID(raw))) == CellID(raw)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_cells_order_as_their_bytes_and_hash_as_values(a, b):
    assert (CellID(a) < CellID(b)) == (int.from_bytes(a, "big") < int.from_bytes(b, "big"))
    assert len({CellID(a), CellID(bytes(a))}) == 1


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_cellid_has_16_bytes(length):
    with pytest.raises(InvalidArgument, match="16 bytes"):
        CellID(bytes(length))


# ---- Identity


def test_the_public_key_is_that_of_rfc_8032():
    identity = Identity.from_seed(SEED)
    assert identity.public_key == PUBLIC
    assert identity.cell_id == from_public_key(PUBLIC)


def test_signing_is_that_of_rfc_8032():
    assert Identity.from_seed(SEED).sign(b"") == SIGNATURE
    verify(PUBLIC, b"", SIGNATURE)


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (PUBLIC, b"other", SIGNATURE),
        (PUBLIC, b"", SIGNATURE[:63]),
        (PUBLIC, b"", b""),
        (PUBLIC, b"", SIGNATURE[:32] + bytes(32)),
        (Identity.from_seed(SEED_2).public_key, b"", SIGNATURE),
        (b"\xff" * 32, b"", SIGNATURE),
    ],
)
def test_a_wrong_signature_is_a_remote_error(public, message, signature):
    with pytest.raises(SignatureError) as caught:
        verify(public, message, signature)
    assert isinstance(caught.value, RemoteError)


def test_every_bit_of_a_signature_counts():
    for bit in range(512):
        forged = bytearray(SIGNATURE)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureError):
            verify(PUBLIC, b"", bytes(forged))


def test_verify_with_a_key_of_another_length_is_a_local_error():
    with pytest.raises(InvalidArgument, match="public_key"):
        verify(PUBLIC[:31], b"", SIGNATURE)


@given(st.binary(min_size=32, max_size=32))
def test_the_noise_keys_are_one_pair_and_follow_from_the_public_key(seed):
    identity = Identity.from_seed(seed)
    derived = X25519PrivateKey.from_private_bytes(identity.noise_private).public_key()
    assert derived.public_bytes_raw() == identity.noise_public
    assert noise_public_of(identity.public_key) == identity.noise_public


def test_generate_takes_its_randomness_from_the_caller():
    asked = []

    def random(count):
        asked.append(count)
        return SEED

    assert Identity.generate(random).public_key == PUBLIC
    assert asked == [32]
    assert Identity.generate().public_key != Identity.generate().public_key


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length):
    with pytest.raises(InvalidArgument, match="seed"):
        Identity.from_seed(bytes(length))


@pytest.mark.parametrize("key", [*LOW_ORDER, b"\xff" * 32, b"\x02" + bytes(31)])
def test_points_that_no_key_leads_to_are_refused(key):
    with pytest.raises(InvalidArgument, match="not a usable"):
        noise_public_of(key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_noise_public_of_refuses_another_length(length):
    with pytest.raises(InvalidArgument, match="needs 32 bytes"):
        noise_public_of(bytes(length))


def test_secrets_are_not_shown():
    identity = Identity.from_seed(SEED)
    for text in (repr(identity), str(identity)):
        assert SEED.hex() not in text
        assert repr(SEED)[2:-1] not in text
        assert repr(identity.noise_private)[2:-1] not in text
        assert str(identity.cell_id) in text


# ---- key files


def test_a_key_file_round_trips_and_is_private(tmp_path):
    path = tmp_path / "identity.pem"
    Identity.from_seed(SEED).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert Identity.load(path).seed == SEED
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_file_is_never_overwritten(tmp_path):
    path = tmp_path / "identity.pem"
    Identity.from_seed(SEED).save(path)
    before = path.read_bytes()
    with pytest.raises(AlreadyExists, match="not overwritten"):
        Identity.from_seed(SEED_2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_dangling_link_is_not_followed_on_saving(tmp_path):
    path = tmp_path / "identity.pem"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        Identity.from_seed(SEED).save(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "identity.pem"
    Identity.from_seed(SEED).save(path)
    path.chmod(mode)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        Identity.load(path)
    path.chmod(0o400)
    assert Identity.load(path).seed == SEED


def test_missing_files_and_directories_are_not_found(tmp_path):
    with pytest.raises(NotFound):
        Identity.load(tmp_path / "none.pem")
    with pytest.raises(NotFound):
        Identity.from_seed(SEED).save(tmp_path / "none" / "identity.pem")


def private(path, content):
    path.touch(0o600)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"not a key", SEED, b"x" * 10_000])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, content):
    path = private(tmp_path / "identity.pem", content)
    with pytest.raises(FailedPrecondition, match="not an unencrypted PEM") as caught:
        Identity.load(path)
    assert "not a key" not in str(caught.value)


def test_keys_of_another_kind_and_encrypted_keys_are_refused(tmp_path):
    def pem(key, protection):
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
        )

    other = pem(generate_private_key(SECP256R1()), serialization.NoEncryption())
    with pytest.raises(FailedPrecondition, match="Ed25519"):
        Identity.load(private(tmp_path / "other.pem", other))
    sealed = pem(X25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"pw"))
    with pytest.raises(FailedPrecondition, match="unencrypted"):
        Identity.load(private(tmp_path / "sealed.pem", sealed))


def test_a_directory_in_the_keys_place_is_refused(tmp_path):
    with pytest.raises((FailedPrecondition, IsADirectoryError)):
        Identity.load(tmp_path)


# ---- pre-shared keys


def test_generate_psk_takes_32_bytes_from_the_caller():
    assert generate_psk(lambda count: bytes(range(count))) == bytes(range(32))
    assert len(generate_psk()) == 32


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_parse_psk_reads_hex_and_base64(psk):
    assert parse_psk(psk.hex()) == psk
    assert parse_psk(psk.hex().upper()) == psk
    assert parse_psk(base64.b64encode(psk).decode() + "\n") == psk


@pytest.mark.parametrize(
    "text",
    ["", "00" * 31, "zz" * 32, "A" * 44, "A" * 43, "!" * 44, "é" * 44, "ab " * 21 + "c", "secret"],
)
def test_parse_psk_refuses_anything_else_without_repeating_it(text):
    with pytest.raises(InvalidArgument, match="psk") as caught:
        parse_psk(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("text", ["00" * 32, base64.b64encode(bytes(32)).decode()])
def test_a_psk_of_zeros_is_refused(text):
    with pytest.raises(InvalidArgument, match="zeros"):
        parse_psk(text)
