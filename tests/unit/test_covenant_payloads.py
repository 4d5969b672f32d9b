from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assent.covenant.payloads import (
    AgentDescriptor,
    Amend,
    BoundAgent,
    CovenantObject,
    Data,
    Duration,
    Escalate,
    Evidence,
    ExitProtocol,
    Offer,
    PayloadError,
    Reject,
    Review,
    Revoke,
    Violation,
    decode,
    encode,
)
from assent.errors import InvalidArgument, LocalError, RemoteError
from assent.wire import cbor
from assent.wire.tcpup import FrameType

from .covenant_values import (
    BIND,
    DEFER,
    DURATION,
    JUSTIFICATION,
    LEFT,
    OBJECT,
    OFFER,
    PAYLOADS,
    REJECT,
    TERMS,
    payloads,
)

KINDS = list(PAYLOADS)


def by_name(kind):
    return kind.name


def places(body, path=()):
    """Every place in a body, with the value that stands there."""
    yield path, body
    if isinstance(body, dict):
        for key, value in body.items():
            yield from places(value, (*path, key))
    elif isinstance(body, list):
        for at, value in enumerate(body):
            yield from places(value, (*path, at))


def with_value(body, path, value):
    if not path:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


def without(body, path):
    copy = dict(body) if isinstance(body, dict) else list(body)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


@given(payloads)
def test_every_payload_round_trips(drawn):
    kind, payload = drawn
    raw = encode(payload)
    assert decode(kind, raw) == payload
    assert encode(decode(kind, raw)) == raw
    assert raw == cbor.encode(payload.to_body())
    assert type(payload).from_body(payload.to_body()) == payload


@given(payloads, st.data())
def test_a_changed_byte_is_refused_or_means_what_it_says(drawn, data):
    kind, payload = drawn
    raw = bytearray(encode(payload))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(kind, bytes(raw))
    except PayloadError:
        return
    assert cbor.encode(read.to_body()) == bytes(raw) == encode(read)


@given(payloads, st.data())
def test_a_payload_cut_short_is_refused(drawn, data):
    kind, payload = drawn
    raw = encode(payload)
    with pytest.raises(PayloadError):
        decode(kind, raw[: data.draw(st.integers(0, len(raw) - 1))])


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_every_field_is_typed_and_the_error_says_which(kind):
    body = PAYLOADS[kind].to_body()
    for path, _ in places(body):
        free = "content" in path or (path and path[-1] == "extensions")
        if not path or free:
            continue
        wrong = with_value(body, path, object())
        with pytest.raises(PayloadError) as caught:
            type(PAYLOADS[kind]).from_body(wrong)
        name = next(part for part in reversed(path) if isinstance(part, str))
        assert name in str(caught.value), path


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_every_field_that_is_needed_is_missed(kind):
    optional = {"description", "timeout", "counter_terms", "justification", "rotation"}
    body = PAYLOADS[kind].to_body()
    for path, _ in places(body):
        if not path or "content" in path[:-1] or not isinstance(path[-1], str):
            continue
        lacking = without(body, path)
        at_top = len(path) == 1
        if (
            path[-1] in optional
            and (at_top or path[-1] == "description")
            and not (
                path[-1] == "description" and kind in {FrameType.VIOLATION, FrameType.ESCALATE}
            )
            and "misericordia_clauses" not in path
        ):
            type(PAYLOADS[kind]).from_body(lacking)
            continue
        with pytest.raises(PayloadError, match=f"{path[-1]}: is missing"):
            type(PAYLOADS[kind]).from_body(lacking)


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_true_is_no_integer_and_null_is_nothing(kind):
    body = PAYLOADS[kind].to_body()
    for path, value in places(body):
        if not path or "content" in path:
            continue
        if type(value) is int:
            with pytest.raises(PayloadError):
                type(PAYLOADS[kind]).from_body(with_value(body, path, True))
        with pytest.raises(PayloadError):
            type(PAYLOADS[kind]).from_body(with_value(body, path, None))


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_unknown_keys_are_kept_in_every_map_and_written_back(kind):
    body = PAYLOADS[kind].to_body()
    for path, value in places(body):
        if not isinstance(value, dict) or "content" in path:
            continue
        more = with_value(body, path, {**value, "x-later": {"a": [1, 2.5]}, "a": None})
        raw = cbor.encode(more)
        read = decode(kind, raw)
        assert encode(read) == raw
        assert read.to_body() == more
        assert read != PAYLOADS[kind]


def test_the_seeds_extensions_map_is_kept_as_it_stands():
    offer = replace(OFFER, extensions={"extensions": {"anything": [None]}})
    read = decode(FrameType.OFFER, encode(offer))
    assert read.extensions["extensions"] == {"anything": [None]}


def test_extensions_cannot_be_changed_afterwards():
    mine = {"x": 1}
    payload = Revoke(1, "done", mine)
    mine["y"] = 2
    assert payload.extensions == {"x": 1}
    with pytest.raises(TypeError):
        payload.extensions["z"] = 1


@pytest.mark.parametrize(
    "extensions",
    [{"reason": "x"}, {"covenant_id": 1}, {1: 2}, {f"{n}": n for n in range(65)}, {"a\nb": 1}, [1]],
)
def test_extensions_that_are_fields_or_too_many_are_refused(extensions):
    with pytest.raises(InvalidArgument):
        Revoke(1, "done", extensions)


@pytest.mark.parametrize(
    ("key", "value"), [("end", 0), ("max_versions", 0)], ids=["end", "max_versions"]
)
def test_a_zero_that_says_what_its_absence_says_is_kept_for_the_hash(key, value):
    body = {**DURATION.to_body(), key: value}
    read = Duration.from_body(body)
    assert getattr(read, key) == 0
    assert read.to_body() == body
    assert read != DURATION
    with pytest.raises(InvalidArgument, match=key):
        Duration(1, 1, **{key: 5, "extensions": {key: 0}})


def test_a_payload_that_is_no_map_is_refused():
    for raw in (b"\x80", b"\x00", b"\xf6", b"\x60"):
        for kind in KINDS:
            with pytest.raises(PayloadError, match=r"map|missing"):
                decode(kind, raw)


def test_a_payload_that_is_not_deterministic_is_refused():
    body = PAYLOADS[FrameType.REVOKE].to_body()
    unsorted = cbor2.dumps(dict(reversed(body.items())))
    with pytest.raises(PayloadError, match="order"):
        decode(FrameType.REVOKE, unsorted)
    with pytest.raises(PayloadError, match="ends early"):
        decode(FrameType.REVOKE, b"")


def test_a_heartbeat_has_no_payload():
    with pytest.raises(InvalidArgument, match="HEARTBEAT"):
        decode(FrameType.HEARTBEAT, b"\xa0")


def test_remote_and_local_errors_do_not_mix():
    body = PAYLOADS[FrameType.REVOKE].to_body()
    with pytest.raises(RemoteError):
        Revoke.from_body({**body, "covenant_id": -1})
    with pytest.raises(LocalError):
        Revoke(-1, "")


def test_a_blind_rejection_is_read_for_what_it_is():
    assert decode(FrameType.REJECT, b"\xa0") == Reject(None)
    assert encode(Reject(None)) == b"\xa0"


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: replace(OFFER, misericordia_clauses=()), "misericordia_clauses"),
        (lambda: replace(OFFER, agents=OFFER.agents[:1]), "agents"),
        (lambda: replace(OFFER, agents=OFFER.agents[:1] * 2), r"agents\[1\].agent_id"),
        (lambda: replace(OFFER, agents=list(OFFER.agents)), "agents"),
        (lambda: replace(OFFER, terms={}), "terms"),
        (lambda: replace(OFFER, agents=(OFFER.agents[0], BIND.bound_agents[1])), r"agents\[1\]"),
        (lambda: replace(OBJECT, version=0), "version"),
        (lambda: replace(OBJECT, id=1 << 32), "id"),
        (lambda: replace(BIND, bound_agents=()), "bound_agents"),
        (lambda: replace(BIND, terms_hash=bytes(31)), "terms_hash"),
        (lambda: replace(BIND, covenant_id=True), "covenant_id"),
        (lambda: Duration(5, 1, 5), "end"),
        (lambda: Duration(5, 1, 4), "end"),
        (lambda: Duration(-1, 1), "start"),
        (lambda: Duration(1 << 64, 1), "start"),
        (lambda: ExitProtocol(1, 0, "x"), "mutual_required"),
        (lambda: replace(DEFER, questions=()), "questions"),
        (lambda: replace(DEFER, timeout=True), "timeout"),
        (lambda: replace(DEFER, evidence_needed=("",)), r"evidence_needed\[0\]"),
        (lambda: replace(DEFER, evidence_needed=("x",) * 65), "evidence_needed"),
        (lambda: replace(JUSTIFICATION, rejection_reasons=()), "rejection_reasons"),
        (lambda: replace(JUSTIFICATION, comprehension_proof=""), "comprehension_proof"),
        (lambda: replace(REJECT, justification={}), "justification"),
        (lambda: replace(REJECT, counter_terms=JUSTIFICATION), "counter_terms"),
        (lambda: AgentDescriptor(LEFT, "", bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "r" * 65, bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "ü" * 33, bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "a\tb", bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "a\u202eb", bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "\ud800", bytes(32), ()), "role"),
        (lambda: AgentDescriptor(LEFT, "r", bytes(31), ()), "public_key"),
        (lambda: AgentDescriptor(LEFT, "r", bytearray(32), ()), "public_key"),
        (lambda: AgentDescriptor(LEFT, "r", bytes(32), ("x",) * 65), "capabilities"),
        (lambda: AgentDescriptor(LEFT.bytes, "r", bytes(32), ()), "agent_id"),
        (lambda: BoundAgent(LEFT, "r", bytes(32), bytes(63)), "bind_signature"),
        (lambda: Data(1, "text/plain", "text"), "data"),
        (lambda: Data(1, "", b""), "content_type"),
        (lambda: Revoke(1, "a\x1b[2J"), "reason"),
        (lambda: Revoke(1, "a\x9bb"), "reason"),
        (lambda: Revoke(1, "a\u2066b"), "reason"),
        (lambda: Revoke(1, "\ud800"), "reason"),
        (lambda: Revoke(1, "x" * 4097), "reason"),
        (lambda: Revoke(1, "ü" * 2049), "reason"),
        (lambda: Review(1, 1, bytes(32), "gossip", ""), "kind"),
        (lambda: Violation(1, "sin", LEFT, (), "notice", ""), "violation_class"),
        (lambda: Violation(1, "error", LEFT, (), "prison", ""), "response_level"),
        (lambda: Amend(1, 0, OBJECT, bytes(64)), "covenant_version"),
        (lambda: Amend(1, 1, OBJECT, bytes(64), OBJECT), "rotation"),
    ],
)
def test_a_local_value_out_of_range_is_refused_by_name(build, field):
    with pytest.raises(InvalidArgument, match=f"^{field}"):
        build()


@pytest.mark.parametrize("text", ["", "x" * 4096, "ü" * 2048, "a\u00a0b", "👩\u200d🔬", "混ぜる"])
def test_texts_that_are_fine(text):
    assert decode(FrameType.REVOKE, encode(Revoke(1, text))).reason == text


def test_no_role_is_all_roles():
    agents = (replace(OFFER.agents[0], role="*"), OFFER.agents[1])
    with pytest.raises(InvalidArgument, match=r"agents\[0\].role"):
        replace(OFFER, agents=agents)


def test_a_nested_error_says_where():
    body = OFFER.to_body()
    wrong = with_value(body, ("terms", "constraints", 0, "blocks_per_second"), 0)
    for refused in (
        lambda: Offer.from_body(wrong),
        lambda: decode(FrameType.OFFER, cbor.encode(wrong)),
    ):
        with pytest.raises(PayloadError, match=r"terms\.constraints\[0\]\.blocks_per_second: "):
            refused()


def test_content_is_anything_but_has_to_fit():
    deep = []
    for _ in range(20):
        deep = [deep]
    payload = replace(
        PAYLOADS[FrameType.VIOLATION], evidence_chain=(Evidence("log", deep, 0, "me"),)
    )
    with pytest.raises(InvalidArgument):
        encode(payload)
    with pytest.raises(InvalidArgument, match="body"):
        encode(replace(payload, evidence_chain=(Evidence("log", {1: 2}, 0, "me"),)))


def test_a_payload_too_large_is_refused():
    with pytest.raises(InvalidArgument, match="at most"):
        encode(Data(1, "text/plain", bytes(300_000)))
    with pytest.raises(PayloadError, match="at most"):
        decode(FrameType.DATA, bytes(300_000))


def test_a_uuid_on_the_wire_is_16_bytes_of_a_known_version():
    body = PAYLOADS[FrameType.ESCALATE].to_body()
    assert body["subject_agent"] == LEFT.bytes
    for wrong in (bytes(16), bytes(15), b"\xff" * 16, str(LEFT), LEFT):
        with pytest.raises(PayloadError, match="subject_agent"):
            Escalate.from_body({**body, "subject_agent": wrong})


def test_values_read_twice_are_shared_and_equal_those_read_anew():
    raw = encode(OFFER)
    first, second = decode(FrameType.OFFER, raw), decode(FrameType.OFFER, raw)
    assert first.terms is second.terms
    assert first.terms == TERMS == Offer.from_body(OFFER.to_body()).terms


def test_a_value_that_is_replaced_is_encoded_anew():
    assert decode(FrameType.OFFER, encode(OFFER)) == OFFER
    shorter = replace(
        decode(FrameType.OFFER, encode(OFFER)), misericordia_clauses=OFFER.misericordia_clauses * 2
    )
    assert decode(FrameType.OFFER, encode(shorter)) == shorter != OFFER


def test_the_hash_of_an_object_leaves_out_the_signatures():
    unsigned = replace(OBJECT, agents=tuple(agent.unsigned for agent in OBJECT.agents))
    assert unsigned != OBJECT
    assert unsigned.digest == OBJECT.digest
    assert CovenantObject.from_body(OBJECT.to_body()).digest == OBJECT.digest
    assert replace(OBJECT, version=2).digest != OBJECT.digest
