"""What an endpoint does when it cannot have what it wants."""

from __future__ import annotations

import json
import re
import time

import pytest

from assent.demo.nodes import DemoError

from .conftest import highest_seq, python, widen

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


def test_a_taken_queue_falls_back_with_the_reason_and_a_taken_flow_is_refused(
    pair, random_file, digest
):
    widen(pair, 2, window=1024)
    inbox = ("--dir", str(pair.scratch), "--json")
    first = pair.background("right", "recv", "--from", "left", *inbox)
    # One AF_XDP socket has the interface's only queue.
    second = pair.background("right", "recv", "--from", "left", "--flow", "2", *inbox)
    with pytest.raises(DemoError, match="flow 1 is driven by another process"):
        pair.background("right", "recv", "--from", "left", *inbox)

    file = random_file("both.bin", 2 << 20)
    for flow, receiver, backend in (("1", first, "af_xdp"), ("2", second, "af_packet")):
        sender = pair.background(
            "left", "send", str(file), "--to", "right", "--flow", flow, "--json"
        )
        sent, received = sender.result(60), receiver.result(60)
        assert received["backend"] == backend
        assert received["blake3"] == sent["blake3"] == digest(file)
        if backend == "af_packet":
            reason = received["fallback_reason"]
            assert re.fullmatch(r"AF_XDP on fab0.*: binding the socket: .*busy", reason)


def test_what_a_killed_receiver_leaves_is_named_and_a_renewed_session_mends_it(
    pair, random_file, digest
):
    inbox = ("--dir", str(pair.scratch), "--json")
    receiver = pair.background("right", "recv", "--from", "left", *inbox)
    sender = pair.background(
        "left", "send", str(random_file("lost.bin", 256 << 20)), "--to", "right", "--json"
    )
    deadline = time.monotonic() + 30
    while highest_seq(pair, "right") < 1000 and time.monotonic() < deadline:
        pass
    receiver.kill()
    sender.kill()
    with pytest.raises(DemoError, match="left this flow unfinished: renew the session"):
        pair.background("left", "send", str(random_file("x", 10)), "--to", "right", "--json")

    pair.cli("left", "sessions", "connect", "right", "--renew")
    file = random_file("again.bin", 1 << 20)
    receiver = pair.background("right", "recv", "--from", "left", *inbox)
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    assert sender.result(60)["blake3"] == receiver.result(60)["blake3"] == digest(file)


def test_a_session_that_ends_ends_its_endpoints(pair, random_file):
    receiver = pair.background(
        "right", "recv", "--from", "left", "--dir", str(pair.scratch), "--json"
    )
    sender = pair.background(
        "left", "send", str(random_file("large.bin", 256 << 20)), "--to", "right", "--json"
    )
    pair.cli("left", "sessions", "close", "right")
    with pytest.raises(DemoError, match="the session has ended"):
        sender.result(20)
    with pytest.raises(DemoError, match="the session has ended"):
        receiver.result(20)


def test_an_empty_file_and_one_of_a_byte_arrive(pair, random_file):
    for size in (0, 1):
        file = random_file(f"{size}.bin", size)
        inbox = pair.scratch / f"inbox{size}"
        inbox.mkdir()
        receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
        sender = pair.background("left", "send", str(file), "--to", "right", "--json")
        assert sender.result(60)["blake3"] == receiver.result(60)["blake3"]
        assert (inbox / file.name).read_bytes() == file.read_bytes()


# A receiver that paces its grants: of one message, by a sender that waits for its last receipt.
PACED_RECEIVER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from assent.transport.blocking import Endpoint

path, size, rate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sink = bytearray(size)
with Endpoint(socket=path) as endpoint:
    connection = endpoint.connect("left")
    plain = endpoint.core.client.sessions.OpenFlow
    def paced(request):
        handle = plain(request)
        handle.rx_blocks_per_second = rate
        return handle
    endpoint.core.client.sessions.OpenFlow = paced
    with connection.flow(2) as flow:
        print("open", flush=True)
        assert flow.recv_into(sink) == size
    print(json.dumps(asdict(flow.stats)), flush=True)
"""

SENDER = """
import json, os, sys, time
from dataclasses import asdict
from pathlib import Path
from assent.transport.blocking import Endpoint

path, size = Path(sys.argv[1]), int(sys.argv[2])
with Endpoint(socket=path) as endpoint, endpoint.connect("right").flow(2) as flow:
    started = time.monotonic()
    flow.send(os.urandom(size))
    flow.drain()
    seconds = time.monotonic() - started
print(json.dumps({"seconds": seconds, "stats": asdict(flow.stats)}), flush=True)
"""


def test_a_peer_held_to_a_rate_sends_at_that_rate_and_is_receipted_to_the_end(pair):
    window, rate, size = 2048, 20_000, 2 << 20
    widen(pair, 2, window=window)
    with python(pair, "right", PACED_RECEIVER, str(size), str(rate)) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "open\n"
        with python(pair, "left", SENDER, str(size)) as sender:
            sent = json.loads(sender.communicate(timeout=60)[0])
        received = json.loads(receiver.stdout.readline())
    assert receiver.returncode == sender.returncode == 0
    assert received["rx_payload"] == size
    # The last receipt comes when all that was sent is granted: the window but once, the rest and
    # it as well at the rate.
    assert sent["seconds"] >= size / 64 / rate
    assert sent["seconds"] < 3 * size / 64 / rate + 1
    assert sent["stats"]["probes_sent"] < 20
    assert sent["stats"]["tx_payload"] == size
