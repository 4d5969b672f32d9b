from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.errors import InvalidArgument, RemoteError
from assent.identity.agent import agent_id_of
from assent.identity.keys import Identity, SignatureError, verify
from assent.wire.tcpup import (
    FRAME_OVERHEAD,
    HEADER_LEN,
    PAYLOAD_MAX,
    CovenantFrame,
    FrameFlag,
    FrameType,
    TcpupError,
    agent_uuid,
    frame_length,
)

SIGNER = Identity.from_seed(bytes(range(32)))
AGENT = agent_id_of(SIGNER.public_key)
F, T = FrameFlag, FrameType

# Section 2.4 of the seed, flag by flag.
APPLIES = {
    F.MISERICORDIA: {T.OFFER, T.AMEND},
    F.VERSIONED: {T.AMEND},
    F.MULTI: {T.OFFER, T.BIND},
    F.DURABLE: {T.OFFER},
    F.JUSTIFIED: {T.REJECT, T.DEFER},
    F.EVIDENCE: {T.DEFER},
    F.MUTUAL: {T.BIND},
    F.GRACEFUL: {T.REVOKE},
    F.URGENT: {T.VIOLATION, T.ESCALATE},
    F.ENCRYPTED: {T.DATA},
    F.COMPRESSED: {T.DATA},
}
NEEDED = {T.OFFER: F.MISERICORDIA, T.AMEND: F.VERSIONED}


def frame(kind=T.DATA, flags=None, payload=b"\xa0", **fields):
    flags = NEEDED.get(kind, F(0)) if flags is None else flags
    payload = b"" if kind is T.HEARTBEAT else payload
    made = CovenantFrame(kind, flags, 7, 3, AGENT, 1_780_000_000_000_000, payload)
    return replace(made, **fields).signed(SIGNER.sign)


def with_flags(raw, flags):
    return raw[:1] + int(flags).to_bytes(2, "big") + raw[3:]


frames = st.builds(
    CovenantFrame,
    kind=st.just(T.DATA),
    flags=st.sampled_from([F(0), F.ENCRYPTED, F.ENCRYPTED | F.COMPRESSED]),
    covenant_id=st.integers(0, (1 << 32) - 1),
    sequence=st.integers(0, (1 << 32) - 1),
    agent_id=st.uuids(version=4),
    timestamp=st.integers(0, (1 << 64) - 1),
    payload=st.binary(max_size=200),
    signature=st.binary(min_size=64, max_size=64),
)


def test_the_layout_is_that_of_section_10():
    signed = frame(T.BIND, F.MUTUAL | F.MULTI, b"\xa1\x61\x61\x00")
    raw = signed.encode()
    assert raw[0] == 0x14
    assert raw[1:3].hex() == "2200"
    assert raw[3] == 0
    assert raw[4:8].hex() == "00000007"
    assert raw[8:12].hex() == "00000003"
    assert raw[12:16].hex() == "00000004"
    assert raw[16:32] == AGENT.bytes
    assert raw[32:40] == (1_780_000_000_000_000).to_bytes(8, "big")
    assert raw[40:72] == signed.signature[:32]
    assert raw[72:76] == b"\xa1\x61\x61\x00"
    assert raw[76:] == signed.signature[32:]
    assert signed.signed_bytes() == raw[:40] + raw[72:76]


def test_a_heartbeat_is_a_header_and_the_tail():
    raw = frame(T.HEARTBEAT).encode()
    assert len(raw) == FRAME_OVERHEAD == HEADER_LEN + 32
    assert CovenantFrame.decode(raw).payload == b""


@given(frames)
def test_frames_round_trip(made):
    raw = made.encode()
    assert CovenantFrame.decode(raw) == made
    assert frame_length(raw[:16]) == len(raw)


@given(frames, st.data())
def test_a_changed_byte_is_refused_or_read_as_it_stands(made, data):
    raw = bytearray(made.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = CovenantFrame.decode(bytes(raw))
    except TcpupError:
        return
    assert read.encode() == bytes(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_come_out_as_they_stand(buf):
    try:
        read = CovenantFrame.decode(buf)
    except TcpupError:
        return
    assert read.encode() == buf


def test_what_is_wrong_with_a_frame_is_the_peers_mistake():
    assert issubclass(TcpupError, RemoteError)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 71, 103])
def test_a_frame_cut_short_is_refused(length):
    with pytest.raises(TcpupError, match=r"begins with|comes as"):
        CovenantFrame.decode(frame().encode()[:length])


def test_a_byte_too_many_is_refused():
    with pytest.raises(TcpupError, match="comes as"):
        CovenantFrame.decode(frame().encode() + b"\x00")


@pytest.mark.parametrize("kind", range(16))
def test_types_from_0xc_are_refused(kind):
    raw = frame().encode()
    changed = bytes([0x10 | kind]) + raw[1:]
    if kind < 0xC:
        changed = with_flags(changed, NEEDED.get(T(kind), 0))
        if kind == T.HEARTBEAT:
            changed = changed[:12] + bytes(4) + changed[16:72] + changed[73:]
        assert CovenantFrame.decode(changed).kind == kind
    else:
        with pytest.raises(TcpupError, match="reserved"):
            CovenantFrame.decode(changed)


@pytest.mark.parametrize("version", [0, 2, 15])
def test_another_version_is_refused(version):
    raw = frame().encode()
    with pytest.raises(TcpupError, match=f"version {version}"):
        CovenantFrame.decode(bytes([version << 4 | 5]) + raw[1:])


def test_every_flag_is_allowed_where_the_seed_names_it_and_nowhere_else():
    for kind in T:
        raw = frame(kind).encode()
        for bit in range(16):
            flag = 1 << bit
            flags = flag | int(NEEDED.get(kind, 0))
            allowed = flag in F.__members__.values() and kind in APPLIES[F(flag)]
            if allowed or flags == NEEDED.get(kind, 0):
                assert CovenantFrame.decode(with_flags(raw, flags)).flags == flags
                continue
            with pytest.raises(TcpupError, match="does not have the flags"):
                CovenantFrame.decode(with_flags(raw, flags))
            with pytest.raises(InvalidArgument, match="flags"):
                CovenantFrame(kind, F(flags), 0, 0, AGENT, 0).signed_bytes()


@pytest.mark.parametrize("kind", NEEDED)
def test_the_flag_that_a_type_needs_must_be_there(kind):
    with pytest.raises(TcpupError, match=F(NEEDED[kind]).name):
        CovenantFrame.decode(with_flags(frame(kind).encode(), 0))


def test_a_blind_rejection_is_read():
    assert CovenantFrame.decode(frame(T.REJECT, F(0)).encode()).flags == F(0)


def test_the_reserved_byte_must_be_zero():
    raw = frame().encode()
    with pytest.raises(TcpupError, match="reserved byte"):
        CovenantFrame.decode(raw[:3] + b"\x01" + raw[4:])


def test_a_heartbeat_with_a_payload_is_refused():
    raw = frame().encode()
    with pytest.raises(TcpupError, match="no payload"):
        CovenantFrame.decode(b"\x19" + raw[1:])
    with pytest.raises(InvalidArgument, match="payload"):
        CovenantFrame(T.HEARTBEAT, F(0), 0, 0, AGENT, 0, b"\xa0").signed_bytes()


def test_a_payload_over_the_bound_is_refused_from_its_header_alone():
    raw = frame().encode()
    huge = raw[:12] + (PAYLOAD_MAX + 1).to_bytes(4, "big")
    with pytest.raises(TcpupError, match="at most"):
        frame_length(huge)
    assert frame_length(raw[:12] + PAYLOAD_MAX.to_bytes(4, "big")) == PAYLOAD_MAX + 104
    with pytest.raises(TcpupError, match="at most 0 bytes"):
        CovenantFrame.decode(raw, payload_max=0)
    with pytest.raises(InvalidArgument, match="payload"):
        frame(payload=bytes(PAYLOAD_MAX + 1))


def test_both_halves_of_a_signature_count():
    raw = frame().encode()
    whole = CovenantFrame.decode(raw)
    verify(SIGNER.public_key, whole.signed_bytes(), whole.signature)
    for place in (40, 71, len(raw) - 32, len(raw) - 1):
        forged = bytearray(raw)
        forged[place] ^= 1
        read = CovenantFrame.decode(bytes(forged))
        with pytest.raises(SignatureError):
            verify(SIGNER.public_key, read.signed_bytes(), read.signature)


@pytest.mark.parametrize("place", [2, 4, 8, 20, 33, 39, 72])
def test_the_signature_covers_header_and_payload(place):
    raw = bytearray(frame(flags=F.ENCRYPTED).encode())
    raw[place] ^= 0x20 if place == 2 else 1
    read = CovenantFrame.decode(bytes(raw))
    with pytest.raises(SignatureError):
        verify(SIGNER.public_key, read.signed_bytes(), read.signature)


@pytest.mark.parametrize(
    "raw",
    [
        bytes(16),
        b"\xff" * 16,
        UUID(int=(1 << 76) | (1 << 62)).bytes,
        UUID(int=(1 << 76) | (3 << 62)).bytes,
        UUID(int=(9 << 76) | (2 << 62)).bytes,
        UUID(int=2 << 62).bytes,
    ],
)
def test_an_agent_needs_a_uuid_with_variant_and_version(raw):
    with pytest.raises(InvalidArgument, match="agent_id"):
        agent_uuid(raw)
    whole = frame().encode()
    with pytest.raises(TcpupError, match="agent_id"):
        CovenantFrame.decode(whole[:16] + raw + whole[32:])
    with pytest.raises(InvalidArgument, match="agent_id"):
        frame(agent_id=UUID(bytes=raw))


@pytest.mark.parametrize("version", range(1, 9))
def test_versions_1_to_8_are_agents(version):
    uuid = UUID(int=version << 76 | 2 << 62 | 5)
    assert agent_uuid(uuid.bytes) == uuid


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_agent_id_has_16_bytes(length):
    with pytest.raises(InvalidArgument, match="16 bytes"):
        agent_uuid(bytes(length))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("covenant_id", -1),
        ("covenant_id", 1 << 32),
        ("sequence", 1 << 32),
        ("timestamp", 1 << 64),
        ("timestamp", -1),
        ("sequence", "1"),
    ],
)
def test_a_field_that_does_not_fit_is_the_callers_mistake(field, value):
    with pytest.raises(InvalidArgument, match=field):
        frame(**{field: value})


def test_an_unsigned_frame_is_not_encoded():
    with pytest.raises(InvalidArgument, match="signature"):
        CovenantFrame(T.DATA, F(0), 0, 0, AGENT, 0, b"\xa0").encode()


def test_the_id_of_an_agent_follows_from_its_first_key():
    assert str(AGENT) == str(agent_id_of(SIGNER.public_key))
    assert AGENT.version == 8
    assert AGENT.variant == "specified in RFC 4122"
    assert agent_uuid(AGENT.bytes) == AGENT
    assert agent_id_of(Identity.from_seed(bytes(32)).public_key) != AGENT
    with pytest.raises(InvalidArgument, match="public_key"):
        agent_id_of(bytes(31))
