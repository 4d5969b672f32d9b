# SPDX-License-Identifier: Apache-2.0
"""TLS for the bindings over TCP: 1.3 and nothing older (seed, section 5.4).

Version 1.3 (RFC 8446) knows neither renegotiation nor compression; the options that forbid them
stay set all the same, for they cost nothing.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from assent.errors import FailedPrecondition, InvalidArgument, NotFound
from assent.identity.keys import require_private

ALPN_HTTP2: Final = "h2-tcpup"
"""Seed, section 6.1."""
ALPN_WEBSOCKET: Final = "http/1.1"
PATH: Final = "/covenant"
"""Where both bindings are found."""
HTTPS_PORT: Final = 443


def server_context(
    certificate: Path, key: Path, *, alpn: str, client_ca: Path | None = None
) -> ssl.SSLContext:
    """A listener's TLS.

    Args:
        certificate: PEM, the chain from the server's own upwards.
        key: PEM, not encrypted, open to its owner alone.
        alpn: `ALPN_HTTP2` or `ALPN_WEBSOCKET`.
        client_ca: PEM; clients must have a certificate that one of these signed. None = clients
            need none.

    Raises:
        NotFound: A file is not there.
        FailedPrecondition: Others than its owner may touch the key, or a file is not what it
            should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, alpn)
    _present(context, certificate, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    *,
    alpn: str,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext:
    """TLS towards a listener, whose name must be in its certificate.

    Args:
        alpn: `ALPN_HTTP2` or `ALPN_WEBSOCKET`.
        ca: PEM; who is trusted to sign servers' certificates. None = the system's.
        certificate: PEM; shown to servers that ask. With `key`, or not at all.
        key: PEM, not encrypted, open to its owner alone.

    Raises:
        InvalidArgument: Only one of `certificate` and `key` is given.
        NotFound: A file is not there.
        FailedPrecondition: Others than its owner may touch the key, or a file is not what it
            should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context, alpn)
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, ca)
    if (certificate is None) != (key is None):
        raise InvalidArgument("key", "goes with a certificate, and a certificate with its key")
    if certificate is not None and key is not None:
        _present(context, certificate, key)
    return context


def require_strict(context: ssl.SSLContext, *, client: bool) -> None:
    """Makes sure that a context was made for this.

    Raises:
        InvalidArgument: It would speak an older TLS, or not check whom a client has reached.
    """
    if context.minimum_version != ssl.TLSVersion.TLSv1_3:
        raise InvalidArgument("ssl", "must speak TLS 1.3 and nothing older")
    if client and not (context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED):
        raise InvalidArgument("ssl", "must check the server's certificate and its name")


def split_url(url: str, scheme: str) -> SplitResult:
    """Takes a peer's URL apart: `scheme://host[:port]/covenant`.

    Raises:
        InvalidArgument: It is of another form; plain-text schemes are refused by name.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidArgument("url", "is not a URL") from None
    if parts.scheme in {"ws", "http"}:
        raise InvalidArgument("url", f"{parts.scheme}:// is not encrypted: use {scheme}://")
    if parts.scheme != scheme or not parts.hostname or port == 0:
        raise InvalidArgument("url", f"must be {scheme}://host[:port]{PATH}")
    if parts.path != PATH or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidArgument("url", f"must end in {PATH}, and name no user and no query")
    return parts


def _restrict(context: ssl.SSLContext, alpn: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([alpn])


def _present(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _require_private(key)
    if not certificate.is_file():
        raise NotFound(f"{certificate} is not there")
    try:
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        raise FailedPrecondition(
            f"{certificate} and {key} are not a PEM certificate and its unencrypted key"
        ) from None


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    if not ca.is_file():
        raise NotFound(f"{ca} is not there")
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError):
        raise FailedPrecondition(f"{ca} holds no PEM certificates") from None


def _require_private(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound(f"{path} is not there") from None
    require_private(path, status)
