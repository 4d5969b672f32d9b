# SPDX-License-Identifier: Apache-2.0
"""aioquic: one QUIC stream, driven without its event loop, which would only make it slower.

`job.options` has `certificate` and `key`, paths, and `datagram`, the size of a UDP
payload.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_header

from assent.bench.peers.part import PORT, Job, Meter, main, ready

_WINDOW: Final = 16 << 20
_AHEAD: Final = 2 << 20
"""Bytes that wait in the sending stream: more than any congestion window here."""
_AT_ONCE: Final = 64
"""Messages in one write."""
_SOCKET_BUFFER: Final = 4 << 20
_TURN: Final = 64
"""Datagrams that are read before the connection is asked what it wants to send."""


def _settings(job: Job, *, client: bool) -> QuicConfiguration:
    settings = QuicConfiguration(
        is_client=client,
        alpn_protocols=["bench"],
        max_datagram_size=job.options["datagram"],
        max_data=_WINDOW,
        max_stream_data=_WINDOW,
    )
    if client:
        settings.verify_mode = ssl.CERT_NONE
    else:
        settings.load_cert_chain(job.options["certificate"], job.options["key"])
    return settings


class _Loop:
    """One connection on one socket."""

    def __init__(self, connection: QuicConnection, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self.connection = connection
        self._socket = sock

    def send(self) -> None:
        """Sends what is due."""
        for datagram, address in self.connection.datagrams_to_send(time.monotonic()):
            self._socket.sendto(datagram, address)

    def receive(self, *, wait: bool) -> list[events.QuicEvent]:
        """Takes in what has arrived; waits for it until the connection's next timer."""
        timer = self.connection.get_timer()
        patience = max(0.0, timer - time.monotonic()) if timer is not None else None
        for turn in range(_TURN):
            blocking = wait and not turn
            self._socket.settimeout((patience or None) if blocking and patience != 0.0 else 0)
            try:
                data, address = self._socket.recvfrom(65_536)
            except (BlockingIOError, TimeoutError):
                break
            self.connection.receive_datagram(data, address, time.monotonic())
        now = time.monotonic()
        timer = self.connection.get_timer()
        if timer is not None and timer <= now:
            self.connection.handle_timer(now)
        found = []
        while (event := self.connection.next_event()) is not None:
            found.append(event)
        return found


def receive_bulk(job: Job) -> Mapping[str, Any]:
    """Takes what one stream brings."""
    meter = Meter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((job.address, PORT))
        ready()
        first, address = sock.recvfrom(65_536)
        header = pull_quic_header(Buffer(data=first), host_cid_length=8)
        loop = _Loop(
            QuicConnection(
                configuration=_settings(job, client=False),
                original_destination_connection_id=header.destination_cid,
            ),
            sock,
        )
        loop.connection.receive_datagram(first, address, time.monotonic())
        while True:
            loop.send()
            for event in loop.receive(wait=True):
                if isinstance(event, events.StreamDataReceived):
                    if event.data:
                        meter.add(len(event.data), 0)
                    if event.end_stream:
                        loop.connection.close()
                        loop.send()
                if isinstance(event, events.ConnectionTerminated):
                    return meter.report()


def send_bulk(job: Job) -> Mapping[str, Any]:
    """Fills one stream."""
    batch = bytes(job.size * _AT_ONCE)
    address = job.address, PORT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        connection = QuicConnection(configuration=_settings(job, client=True))
        loop = _Loop(connection, sock)
        connection.connect(address, time.monotonic())
        stream, written, end = None, 0, 0.0
        while True:
            loop.send()
            for event in loop.receive(wait=True):
                if isinstance(event, events.HandshakeCompleted):
                    stream, end = connection.get_next_available_stream_id(), 0.0
                if isinstance(event, events.ConnectionTerminated):
                    return {}
            now = time.monotonic()
            if stream is None:
                continue
            end = end or now + job.seconds
            if now < end:
                # There is no way to ask how much of it waits.
                sender = connection._streams[stream].sender if written else None
                while sender is None or sender._buffer_stop - sender._buffer_start < _AHEAD:
                    connection.send_stream_data(stream, batch)
                    written += len(batch)
                    sender = connection._streams[stream].sender
            elif written:
                connection.send_stream_data(stream, b"", end_stream=True)
                written = 0


if __name__ == "__main__":
    main({("receive", "bulk"): receive_bulk, ("send", "bulk"): send_bulk})
