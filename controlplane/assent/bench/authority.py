# SPDX-License-Identifier: Apache-2.0
"""Certificates for a measurement: Ed25519 throughout, as covenants are, and good for an hour."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

NAME: Final = "localhost"
_ADDRESSES: Final = ("127.0.0.1", "::1")
_AGE: Final = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Papers:
    """What one side shows, as PEM files.

    Attributes:
        certificate: Of `NAME` and of the loopback addresses.
        key: Its private key, open to its owner alone.
    """

    certificate: Path
    key: Path


class Authority:
    """Signs certificates.

    Args:
        folder: Where the files go; private.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ca.pem"
        self._folder = folder
        self._key = Ed25519PrivateKey.generate()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        own = (
            _begin(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_subject(self._key), critical=False)
            .add_extension(_usage(signs=True), critical=True)
        )
        self.path.write_bytes(own.sign(self._key, None).public_bytes(serialization.Encoding.PEM))

    def issue(self, label: str) -> Papers:
        """A certificate with a key of its own; `label` names the files."""
        key = Ed25519PrivateKey.generate()
        names: list[x509.GeneralName] = [x509.DNSName(NAME)]
        names += [x509.IPAddress(ipaddress.ip_address(one)) for one in _ADDRESSES]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        issued = (
            _begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]), self._name, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(_usage(signs=False), critical=True)
        )
        papers = Papers(self._folder / f"{label}.pem", self._folder / f"{label}.key")
        papers.certificate.write_bytes(
            issued.sign(self._key, None).public_bytes(serialization.Encoding.PEM)
        )
        papers.key.touch(mode=0o600)
        papers.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return papers


def _begin(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AGE)
        .not_valid_after(now + _AGE)
    )


def _subject(key: Ed25519PrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
