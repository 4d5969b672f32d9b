# SPDX-License-Identifier: Apache-2.0
"""A measured daemon's listener for covenants."""

from __future__ import annotations

import socket

from assent.bench.authority import Authority


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def listener(authority: Authority, port: int) -> str:
    """Settings, in TOML, of a daemon that speaks HTTP/2 on the loopback interface."""
    papers = authority.issue("daemon")
    return (
        f'covenant_h2 = "127.0.0.1:{port}"\n'
        f'covenant_certificate = "{papers.certificate}"\n'
        f'covenant_key = "{papers.key}"\n'
    )
