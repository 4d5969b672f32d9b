# SPDX-License-Identifier: Apache-2.0
"""Many TCP connections to one receiver, all at once; each carries `job.size` bytes."""

from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from assent.bench.peers.part import PORT, Gathering, Job, main, ready

_PIECE: Final = 64 << 10
_GO: Final = b"go"


def receive(job: Job) -> Mapping[str, Any]:
    """Takes what all connections bring.

    Returns:
        What Gathering tells.
    """
    _allow(job.count)
    buffer = bytearray(_PIECE)
    gathering = Gathering(job.count, job.size)
    with socket.create_server((job.address, PORT), backlog=job.count) as server:
        ready()
        connections = [server.accept()[0] for _ in range(job.count)]
        with selectors.DefaultSelector() as selector:
            for number, connection in enumerate(connections):
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, number)
            connections[0].send(_GO)
            while selector.get_map():
                for key, _ in selector.select():
                    connection = connections[key.data]
                    if gathering.add(key.data, connection.recv_into(buffer)):
                        selector.unregister(connection)
        for connection in connections:
            connection.close()
    return gathering.report()


def send(job: Job) -> Mapping[str, Any]:
    """Fills all connections, each as far as it can take something.

    Returns:
        {"retransmissions": segments that this host's TCP has sent again meanwhile}.
    """
    _allow(job.count)
    address = job.address, PORT
    connections = [socket.create_connection(address) for _ in range(job.count)]
    before = _retransmitted()
    connections[0].recv(len(_GO))
    data = memoryview(bytes(job.size))
    at = [0] * job.count
    with selectors.DefaultSelector() as selector:
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_WRITE, number)
        while selector.get_map():
            for key, _ in selector.select():
                place = at[key.data]
                at[key.data] += connections[key.data].send(data[place : place + _PIECE])
                if at[key.data] == job.size:
                    selector.unregister(connections[key.data])
    for connection in connections:
        connection.setblocking(True)
        connection.recv(1)  # until the receiver closes it
        connection.close()
    return {"retransmissions": _retransmitted() - before}


def _allow(connections: int) -> None:
    """Lets this process have so many sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 64), hard))


def _retransmitted() -> int:
    """Segments that TCP of this network namespace has sent again (RFC 1213, tcpRetransSegs)."""
    names, values = (
        line.split()
        for line in Path("/proc/self/net/snmp").read_text().splitlines()
        if line.startswith("Tcp:")
    )
    return int(dict(zip(names, values, strict=True))["RetransSegs"])


if __name__ == "__main__":
    main({("receive", "incast"): receive, ("send", "incast"): send})
