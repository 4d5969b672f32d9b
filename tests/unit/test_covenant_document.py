import hashlib
from dataclasses import replace
from uuid import UUID

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assent.covenant.document import (
    FORMAT,
    SignedVersion,
    VerifyError,
    bind_bytes,
    confirmation_bytes,
    export,
    make_rotation,
    object_hash,
    rotation_bytes,
    verify_bind,
    verify_export,
    verify_rotation,
)
from assent.covenant.payloads import BoundAgent, CovenantObject
from assent.covenant.terms import Constraint, Rate, TermSet, terms_hash
from assent.errors import InvalidArgument, RemoteError
from assent.identity.agent import agent_id_of
from assent.identity.keys import Identity, SignatureError, verify
from assent.wire import cbor

from .covenant_values import CLAUSES, DURATION, EXIT, TERMS

LEFT, RIGHT, THIRD, NEW = (Identity.from_seed(bytes([n]) * 32) for n in range(1, 5))
LEFT_ID, RIGHT_ID, THIRD_ID = (agent_id_of(each.public_key) for each in (LEFT, RIGHT, THIRD))


def agent(identity, agent_id, role):
    return BoundAgent(agent_id, role, identity.public_key, b"")


def signed(covenant, *identities):
    message = bind_bytes(covenant)
    agents = tuple(
        replace(one, bind_signature=identity.sign(message))
        for one, identity in zip(covenant.agents, identities, strict=True)
    )
    return replace(covenant, agents=agents)


DRAFT = CovenantObject(
    7,
    1,
    TERMS,
    DURATION,
    CLAUSES,
    EXIT,
    1_780_000_000_000_000,
    (agent(LEFT, LEFT_ID, "initiator"), agent(RIGHT, RIGHT_ID, "responder")),
)
FIRST = signed(DRAFT, LEFT, RIGHT)
SECOND_DRAFT = replace(
    DRAFT,
    version=2,
    creation_time=DRAFT.creation_time + 1,
    terms=replace(TERMS, constraints=(Constraint("rate", "*", Rate(5)),)),
)
SECOND = signed(SECOND_DRAFT, LEFT, RIGHT)
ROTATION = make_rotation(
    LEFT_ID, LEFT.public_key, NEW.public_key, 7, 3, old_sign=LEFT.sign, new_sign=NEW.sign
)
THIRD_DRAFT = replace(
    SECOND_DRAFT,
    version=3,
    agents=(agent(NEW, LEFT_ID, "initiator"), agent(RIGHT, RIGHT_ID, "responder")),
)
ROTATED = signed(THIRD_DRAFT, NEW, RIGHT)
HISTORY = [SignedVersion(FIRST), SignedVersion(SECOND), SignedVersion(ROTATED, ROTATION)]


def refused(versions, match, version, agent_id=None):
    with pytest.raises(VerifyError, match=match) as caught:
        verify_export(export(versions))
    assert (caught.value.version, caught.value.agent_id) == (version, agent_id)
    assert isinstance(caught.value, RemoteError)


# ---- what is signed


def test_what_is_signed_has_a_label_of_its_own():
    digest = terms_hash(TERMS)
    assert confirmation_bytes(digest) == b"assent-covenant-accept-v1\0" + digest
    assert bind_bytes(DRAFT) == b"assent-covenant-bind-v1\0" + object_hash(DRAFT)
    assert rotation_bytes(LEFT_ID, b"o" * 32, b"n" * 32, 7, 2) == (
        b"assent-covenant-rotate-v1\0" + LEFT_ID.bytes + b"o" * 32 + b"n" * 32 + b"\0\0\0\7\0\0\0\2"
    )


def test_the_hash_is_that_of_the_canonical_object_without_signatures():
    body = FIRST.to_body()
    for one in body["agents"]:
        one["bind_signature"] = b""
    expected = hashlib.sha256(cbor2.dumps(body, canonical=True)).digest()
    assert object_hash(FIRST) == object_hash(DRAFT) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"id": 8},
        {"version": 2},
        {"terms": TermSet()},
        {"creation_time": 1},
        {"extensions": {"x": 1}},
        {"exit_protocol": replace(EXIT, mutual_required=True)},
        {"duration": replace(DURATION, end=DURATION.start + 1)},
        {"misericordia_clauses": CLAUSES * 2},
        {"agents": DRAFT.agents[::-1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_an_object_is_signed(change):
    changed = replace(FIRST, **change)
    with pytest.raises(SignatureError):
        verify_bind(changed, LEFT_ID, FIRST.agents[0].bind_signature)


def test_a_bind_signature_is_that_of_its_agent():
    verify_bind(DRAFT, LEFT_ID, FIRST.agents[0].bind_signature)
    for agent_id, signature in (
        (RIGHT_ID, FIRST.agents[0].bind_signature),
        (THIRD_ID, FIRST.agents[0].bind_signature),
        (LEFT_ID, b""),
        (LEFT_ID, bytes(64)),
    ):
        with pytest.raises(SignatureError):
            verify_bind(DRAFT, agent_id, signature)


def test_a_rotation_is_signed_by_both_keys_for_one_place():
    verify_rotation(ROTATION, LEFT.public_key, 7, 3)
    for rotation, key, covenant_id, version in (
        (ROTATION, RIGHT.public_key, 7, 3),
        (ROTATION, LEFT.public_key, 8, 3),
        (ROTATION, LEFT.public_key, 7, 4),
        (replace(ROTATION, agent_id=RIGHT_ID), LEFT.public_key, 7, 3),
        (replace(ROTATION, public_key=THIRD.public_key), LEFT.public_key, 7, 3),
        (replace(ROTATION, proof=ROTATION.authorization), LEFT.public_key, 7, 3),
        (replace(ROTATION, authorization=ROTATION.proof), LEFT.public_key, 7, 3),
    ):
        with pytest.raises(SignatureError):
            verify_rotation(rotation, key, covenant_id, version)


def test_a_signature_made_for_one_purpose_is_worth_nothing_for_another():
    confirmation = LEFT.sign(confirmation_bytes(object_hash(DRAFT)))
    with pytest.raises(SignatureError):
        verify_bind(DRAFT, LEFT_ID, confirmation)
    with pytest.raises(SignatureError):
        verify(LEFT.public_key, object_hash(DRAFT), FIRST.agents[0].bind_signature)


# ---- exported files


def test_an_export_says_what_was_checked():
    raw = export(HISTORY)
    report = verify_export(raw)
    assert report.covenant_id == 7
    assert report.sha256 == hashlib.sha256(raw).digest()
    assert [one.covenant_object for one in report.versions] == [FIRST, SECOND, ROTATED]
    assert [one.rotated for one in report.versions] == [None, None, LEFT_ID]
    assert [one.object_hash for one in report.versions] == [
        object_hash(each) for each in (DRAFT, SECOND_DRAFT, THIRD_DRAFT)
    ]
    assert report.versions[1].terms_hash == terms_hash(SECOND.terms)


def test_an_export_is_canonical_and_readable_elsewhere():
    raw = export(HISTORY)
    body = cbor2.loads(raw)
    assert body["format"] == FORMAT
    assert cbor2.dumps(body, canonical=True) == raw
    assert [set(version) for version in body["versions"]] == [
        {"object"},
        {"object"},
        {"object", "rotation"},
    ]


def test_three_parties_are_as_good_as_two():
    draft = replace(DRAFT, agents=(*DRAFT.agents, agent(THIRD, THIRD_ID, "observer")))
    report = verify_export(export([SignedVersion(signed(draft, LEFT, RIGHT, THIRD))]))
    assert len(report.versions[0].covenant_object.agents) == 3


def test_extensions_of_the_object_are_signed_with_it():
    draft = replace(DRAFT, extensions={"x-note": ["a", 1]})
    report = verify_export(export([SignedVersion(signed(draft, LEFT, RIGHT))]))
    assert report.versions[0].covenant_object.extensions == {"x-note": ["a", 1]}


def test_every_agent_has_to_have_signed():
    agents = (FIRST.agents[0], DRAFT.agents[1])
    refused([SignedVersion(replace(FIRST, agents=agents))], "has not signed", 1, RIGHT_ID)


def test_a_signature_over_something_else_is_found_with_its_version_and_agent():
    agents = (SECOND.agents[0], replace(SECOND.agents[1], bind_signature=bytes(64)))
    versions = [SignedVersion(FIRST), SignedVersion(replace(SECOND, agents=agents))]
    refused(versions, "did not sign", 2, RIGHT_ID)


def test_terms_that_were_changed_afterwards_are_found():
    changed = replace(FIRST, terms=TermSet())
    refused([SignedVersion(changed)], "did not sign", 1, LEFT_ID)


@pytest.mark.parametrize(
    ("versions", "match", "version"),
    [
        ([SECOND], "where version 1 should be", 2),
        ([FIRST, FIRST], "where version 2 should be", 1),
        ([FIRST, ROTATED], "where version 2 should be", 3),
    ],
)
def test_versions_have_no_gaps(versions, match, version):
    refused([SignedVersion(each) for each in versions], match, version)


def test_an_export_holds_a_version():
    with pytest.raises(VerifyError, match="no version"):
        verify_export(export([]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": 8}, "another covenant"),
        ({"creation_time": 1}, "older"),
        ({"agents": DRAFT.agents[::-1]}, "other agents"),
        (
            {"agents": (*DRAFT.agents, agent(THIRD, THIRD_ID, "observer"))},
            "other agents",
        ),
        (
            {"agents": (replace(DRAFT.agents[0], role="boss"), DRAFT.agents[1])},
            "other agents",
        ),
    ],
)
def test_a_version_follows_the_one_before(change, match):
    draft = replace(SECOND_DRAFT, **change)
    by_id = {LEFT_ID: LEFT, RIGHT_ID: RIGHT, THIRD_ID: THIRD}
    second = signed(draft, *(by_id[one.agent_id] for one in draft.agents))
    refused([SignedVersion(FIRST), SignedVersion(second)], match, 2)


def test_a_key_does_not_change_without_a_rotation():
    refused([*HISTORY[:2], SignedVersion(ROTATED)], "its key has changed", 3, LEFT_ID)


def test_a_rotation_needs_both_signatures():
    for broken in (
        replace(ROTATION, proof=bytes(64)),
        replace(ROTATION, authorization=bytes(64)),
        make_rotation(
            LEFT_ID, LEFT.public_key, NEW.public_key, 7, 2, old_sign=LEFT.sign, new_sign=NEW.sign
        ),
    ):
        refused([*HISTORY[:2], SignedVersion(ROTATED, broken)], "signed by both keys", 3, LEFT_ID)


def test_a_rotation_is_to_the_key_that_the_object_names():
    other = make_rotation(
        LEFT_ID, LEFT.public_key, THIRD.public_key, 7, 3, old_sign=LEFT.sign, new_sign=THIRD.sign
    )
    refused([*HISTORY[:2], SignedVersion(ROTATED, other)], "another key", 3, LEFT_ID)
    same = make_rotation(
        LEFT_ID, LEFT.public_key, LEFT.public_key, 7, 2, old_sign=LEFT.sign, new_sign=LEFT.sign
    )
    refused([HISTORY[0], SignedVersion(SECOND, same)], "another key", 2, LEFT_ID)


def test_a_rotation_is_of_an_agent_that_takes_part():
    stray = replace(ROTATION, agent_id=THIRD_ID)
    refused([HISTORY[0], SignedVersion(SECOND, stray)], "no part in it", 2)


def test_a_first_version_rotates_nothing():
    refused([SignedVersion(FIRST, ROTATION)], "first version", 1)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"format": "other", "versions": []}, "format"),
        ({"versions": []}, "format"),
        ({"format": FORMAT}, "list of versions"),
        ({"format": FORMAT, "versions": {}}, "list of versions"),
        ({"format": FORMAT, "versions": [], "more": 1}, "nothing else"),
        ({"format": FORMAT, "versions": [5]}, "version 1: is malformed: .*map"),
        ({"format": FORMAT, "versions": [{}]}, "version 1: is malformed: object: is missing"),
        (
            {"format": FORMAT, "versions": [{"object": FIRST.to_body(), "x": 1}]},
            "version 1: is mal",
        ),
        (
            {"format": FORMAT, "versions": [{"object": {**FIRST.to_body(), "id": -1}}]},
            "version 1: is malformed: object.id",
        ),
        ([], "map"),
    ],
)
def test_a_file_of_another_shape_is_refused(body, match):
    with pytest.raises(VerifyError, match=match):
        verify_export(cbor.encode(body))


def test_a_version_with_something_beside_its_rotation_is_refused():
    version = {"object": FIRST.to_body(), "rotation": ROTATION.to_body(), "x": 1}
    with pytest.raises(VerifyError, match="more than"):
        verify_export(cbor.encode({"format": FORMAT, "versions": [version]}))


@pytest.mark.parametrize("raw", [b"", b"\x00\x00", b"not a covenant", bytes(2_000_000)])
def test_what_is_no_covenant_at_all_is_refused(raw):
    with pytest.raises(VerifyError, match="not an exported covenant"):
        verify_export(raw)


@settings(max_examples=60)
@given(st.data())
def test_no_byte_of_an_export_can_be_changed(data):
    raw = bytearray(export(HISTORY))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerifyError):
        verify_export(bytes(raw))


@settings(max_examples=60)
@given(st.data())
def test_an_export_cut_short_is_refused(data):
    raw = export(HISTORY)
    with pytest.raises(VerifyError):
        verify_export(raw[: data.draw(st.integers(0, len(raw) - 1))])


def test_a_history_too_long_for_a_file_is_the_callers_mistake():
    with pytest.raises(InvalidArgument):
        export([SignedVersion(FIRST)] * 2_000)


def test_an_error_names_its_agent_in_words():
    assert str(VerifyError("did not sign this", 2, UUID(int=5))).startswith("version 2: agent 0000")
