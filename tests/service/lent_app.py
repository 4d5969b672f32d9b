# SPDX-License-Identifier: Apache-2.0
"""An application without privileges, on a lent ring: it echoes, or asks an echo.

    lent_app.py SOCKET TOKEN serve LABEL         echoes each message of each flow
    lent_app.py SOCKET TOKEN ask REMOTE LABEL COUNT SIZE
    lent_app.py SOCKET TOKEN hold REMOTE LABEL   defines a flow, and says what becomes of it

It prints a line of JSON for each thing that has happened.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from assent.errors import AssentError
from assent.transport.blocking import Endpoint, Flow
from assent.transport.errors import EndedError


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def serve(endpoint: Endpoint, label: str) -> None:
    with endpoint.listen(label) as flows:
        say(listening=label)
        for flow in flows:
            threading.Thread(target=echo, args=(flow,), daemon=True).start()


def echo(flow: Flow) -> None:
    count = 0
    try:
        while True:
            flow.send(flow.recv())
            count += 1
    except EndedError:
        flow.close()
        say(echoed=count)
    except AssentError as error:
        flow.abort()
        say(broken=str(error))


def ask(endpoint: Endpoint, remote: str, label: str, count: int, size: int) -> None:
    right = 0
    with endpoint.open_flow(remote, label=label) as flow:
        info = endpoint.info
        assert info is not None
        say(ring=info.interface, backend=info.backend.name, uid=os.getuid())
        for number in range(count):
            message = bytes((number + at) % 251 for at in range(size))
            flow.send(message)
            right += flow.recv() == message
    say(right=right)


def hold(endpoint: Endpoint, remote: str, label: str) -> None:
    flow = endpoint.open_flow(remote, label=label)
    flow.send(b"x" * 5000)
    say(holding=len(flow.recv()))
    try:
        flow.recv()
    except AssentError as error:
        say(over=type(error).__name__, reason=str(error))
    sys.stdin.read()


def main(socket: str, token: str, role: str, *rest: str) -> None:
    with Endpoint(socket=Path(socket), token=token) as endpoint:
        if role == "serve":
            serve(endpoint, *rest)
        elif role == "ask":
            remote, label, count, size = rest
            ask(endpoint, remote, label, int(count), int(size))
        else:
            hold(endpoint, *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
