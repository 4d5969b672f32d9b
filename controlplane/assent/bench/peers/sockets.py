# SPDX-License-Identifier: Apache-2.0
"""The kernel's own transports, through plain blocking sockets: TCP in bulk, UDP for questions."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from assent.bench.peers.part import PORT, WARM_UP, Job, Meter, ask, main, ready

_AT_ONCE: Final = 64
"""Messages in one write: more did not make it faster."""
_BUFFER: Final = 1 << 20


def receive_bulk(job: Job) -> Mapping[str, Any]:
    """Takes what one TCP connection brings."""
    meter, buffer = Meter(), bytearray(_BUFFER)
    with socket.create_server((job.address, PORT)) as server:
        ready()
        connection, _ = server.accept()
        with connection:
            while size := connection.recv_into(buffer):
                meter.add(size, 0)
    return meter.report()


def send_bulk(job: Job) -> Mapping[str, Any]:
    """Fills one TCP connection."""
    batch = bytes(job.size * _AT_ONCE)
    with socket.create_connection((job.address, PORT)) as connection:
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            connection.sendall(batch)
    return {}


def receive_ping(job: Job) -> Mapping[str, Any]:
    """Sends each datagram back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((job.address, PORT))
        ready()
        for _ in range(WARM_UP + job.count):
            server.sendto(*server.recvfrom(2048))
    return {}


def send_ping(job: Job) -> Mapping[str, Any]:
    """Sends a datagram and waits for it to come back, again and again."""
    question = bytes(job.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((job.address, PORT))

        def once() -> None:
            client.send(question)
            client.recv(2048)

        return ask(job.count, once)


if __name__ == "__main__":
    main(
        {
            ("receive", "bulk"): receive_bulk,
            ("send", "bulk"): send_bulk,
            ("receive", "ping"): receive_ping,
            ("send", "ping"): send_ping,
        }
    )
