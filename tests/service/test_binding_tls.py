# SPDX-License-Identifier: Apache-2.0
"""bindings/tls.py and bindings/links.py: what is demanded before anything is sent."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.service.binding_rig import Authority, Party, frame

from assent.errors import FailedPrecondition, InvalidArgument, NotFound
from assent.service.bindings import tls
from assent.service.bindings.links import (
    FRAME_MAX,
    BindingError,
    Limits,
    Meter,
    Refusal,
    Refusals,
    require_whole,
)
from assent.service.bindings.sockets import _site


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def party(authority: Authority) -> Party:
    return authority.party("localhost")


def test_contexts_speak_nothing_older_than_tls_13(authority: Authority, party: Party):
    server = tls.server_context(party.certificate, party.key, alpn=tls.ALPN_HTTP2)
    client = tls.client_context(alpn=tls.ALPN_HTTP2, ca=authority.path)
    for context in (server, client):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
    assert server.verify_mode == ssl.CERT_NONE
    assert client.check_hostname
    assert client.verify_mode == ssl.CERT_REQUIRED


def test_the_system_s_authorities_are_trusted_where_none_is_named():
    assert tls.client_context(alpn=tls.ALPN_WEBSOCKET).verify_mode == ssl.CERT_REQUIRED


def test_clients_need_a_certificate_where_an_authority_is_named(authority: Authority, party: Party):
    context = tls.server_context(
        party.certificate, party.key, alpn=tls.ALPN_HTTP2, client_ca=authority.path
    )
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_touch_is_refused(party: Party, mode: int):
    party.key.chmod(mode)
    with pytest.raises(FailedPrecondition, match="open to others"):
        tls.server_context(party.certificate, party.key, alpn=tls.ALPN_HTTP2)


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_is_named(
    authority: Authority, party: Party, tmp_path: Path, missing: str
):
    paths = {"certificate": party.certificate, "key": party.key, "client_ca": authority.path}
    paths[missing] = tmp_path / "nowhere"
    with pytest.raises(NotFound, match="nowhere is not there"):
        tls.server_context(alpn=tls.ALPN_HTTP2, **paths)


def test_a_key_that_is_no_file_is_refused(party: Party, tmp_path: Path):
    with pytest.raises(FailedPrecondition, match="not a regular file"):
        tls.server_context(party.certificate, tmp_path, alpn=tls.ALPN_HTTP2)


def test_a_key_of_another_certificate_is_refused(authority: Authority, party: Party):
    other = authority.party("other")
    with pytest.raises(FailedPrecondition, match="are not a PEM certificate and its"):
        tls.server_context(party.certificate, other.key, alpn=tls.ALPN_HTTP2)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(party: Party):
    key = ec.generate_private_key(ec.SECP256R1())
    party.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(FailedPrecondition, match="unencrypted") as refusal:
        tls.server_context(party.certificate, party.key, alpn=tls.ALPN_HTTP2)
    assert "secret" not in str(refusal.value)


def test_an_authority_without_certificates_is_refused(party: Party, tmp_path: Path):
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(FailedPrecondition, match="holds no PEM certificates"):
        tls.client_context(alpn=tls.ALPN_HTTP2, ca=empty)


def test_a_client_s_certificate_goes_with_its_key(authority: Authority, party: Party):
    with pytest.raises(InvalidArgument, match="key: goes with"):
        tls.client_context(alpn=tls.ALPN_HTTP2, ca=authority.path, certificate=party.certificate)


# Shared bounds


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", Refusal.MALFORMED),
        (frame(b"")[:-1], Refusal.MALFORMED),
        (frame(b"x")[:-1], Refusal.MALFORMED),
        (frame(b"x") + b"x", Refusal.MALFORMED),
        (frame(bytes(FRAME_MAX)), Refusal.OVERSIZED),
    ],
)
def test_what_is_not_one_whole_frame_is_refused(data: bytes, refusal: Refusal):
    with pytest.raises(BindingError) as error:
        require_whole(data)
    assert error.value.refusal is refusal


def test_a_whole_frame_is_let_through_whatever_it_says():
    require_whole(frame(b""))
    require_whole(b"\xff" * 12 + frame(b"x")[12:])
    require_whole(frame(bytes(FRAME_MAX - len(frame(b"")))))


@pytest.mark.parametrize("name", ["connections", "handshake_timeout", "reset_burst", "fragments"])
def test_a_bound_of_nothing_is_refused(name: str):
    with pytest.raises(InvalidArgument, match=name):
        Limits(**{name: 0})


def test_a_queue_holds_two_of_the_longest_frames_at_least():
    Limits(queued_bytes=2 * FRAME_MAX)
    with pytest.raises(InvalidArgument, match="queued_bytes"):
        Limits(queued_bytes=2 * FRAME_MAX - 1)


def test_a_meter_lets_a_burst_through_and_then_so_many_a_second():
    now = 0.0
    meter = Meter(2, 3, lambda: now)
    assert [meter.spend() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [meter.spend() for _ in range(2)] == [True, False]
    now = 100.0
    assert [meter.spend() for _ in range(4)] == [True, True, True, False]


def test_refusals_are_all_counted_and_logged_within_reason(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    now = 0.0
    refusals = Refusals("http2", lambda: now)
    for _ in range(500):
        refusals.add(Refusal.CROWDED, "peer", "no place")
    assert refusals.counts == {Refusal.CROWDED: 500}
    assert len(caplog.records) == 100
    now = 1.0
    refusals.add(Refusal.TEXT, "peer", "text")
    assert vars(caplog.records[-1])["unlogged"] == 400
    assert vars(caplog.records[-1])["refusal"] == "text"


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_counts_for_whoever_has_it(host: str, site: str):
    assert _site(host) == site
