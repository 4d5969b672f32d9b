# SPDX-License-Identifier: Apache-2.0
"""What the tests of bindings share: certificates, an owner that remembers, frames."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from assent.service.bindings.links import Link
from assent.wire.tcpup import FRAME_OVERHEAD

HOST = "127.0.0.1"


def frame(payload: bytes = b"payload") -> bytes:
    """Bytes of a frame's length; nothing else of it is looked at."""
    head = b"\x15" + bytes(11) + len(payload).to_bytes(4, "big")
    return head + bytes(56) + payload + bytes(FRAME_OVERHEAD - 72)


@dataclass
class Owner:
    """Remembers what happened to its links; answers with what it got, where `echo`."""

    echo: bool = False
    links: list[Link] = field(default_factory=list)
    frames: list[tuple[Link, bytes]] = field(default_factory=list)
    ends: list[tuple[Link, str]] = field(default_factory=list)

    def opened(self, link: Link) -> None:
        assert link.is_open
        assert link not in self.links
        self.links.append(link)

    def received(self, link: Link, frame: bytes) -> None:
        assert link.is_open
        self.frames.append((link, frame))
        if frame == BUG:
            raise ZeroDivisionError("a bug of the owner's")
        if self.echo:
            link.send(frame)

    def closed(self, link: Link, reason: str) -> None:
        assert not link.is_open
        assert link in self.links
        assert link not in [one for one, _ in self.ends], "closed twice"
        self.ends.append((link, reason))


BUG = frame(b"stumble over this")


@dataclass(frozen=True)
class Party:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = directory / f"{name}.pem"
        signed = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_usage(sign=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def party(self, name: str) -> Party:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        address = HOST if name == "localhost" else name
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        signed = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(_usage(sign=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        party = Party(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        party.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        party.key.touch(mode=0o600)
        party.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return party

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def stranger(ca: Path, alpn: str | None = None) -> ssl.SSLContext:
    """TLS of a client that is not ours."""
    context = ssl.create_default_context(cafile=str(ca))
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context
