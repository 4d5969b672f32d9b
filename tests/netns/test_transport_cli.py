"""The commands that use flows: pipe, ping, perf, and files that go on where they broke off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from assent.demo.nodes import Nodes

from .conftest import highest_seq

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

ASSENT = Path(sys.executable).parent / "assent"


@contextlib.contextmanager
def running(nodes: Nodes, name: str, *args: str, stdin: Any = None) -> Iterator[Any]:
    """`assent` on a host, once it has said something."""
    process = subprocess.Popen(
        nodes[name].host.command(str(ASSENT), "--socket", str(nodes[name].socket), *args),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: Any) -> str:
    return process.stderr.readline().decode()


def test_pipe_joins_both_ways_byte_for_byte(pair, tmp_path):
    files = {}
    for name, size in (("left", 3_000_001), ("right", 1_000_003)):
        files[name] = tmp_path / name
        # With every byte, and what a terminal or a text mode would change.
        files[name].write_bytes(bytes(range(256)) + b"\r\n\x04\x1a" + os.urandom(size))
    with (
        files["left"].open("rb") as left_in,
        files["right"].open("rb") as right_in,
        running(pair, "right", "pipe", "left", "--listen", stdin=right_in) as right,
    ):
        assert "waiting for left" in first_line(right)
        with running(pair, "left", "pipe", "right", stdin=left_in) as left:
            got = {}
            # Both at once: whoever is not read from stops the other.
            with ThreadPoolExecutor() as readers:
                for name, process in (("left", left), ("right", right)):
                    got[name] = readers.submit(process.communicate, timeout=60)
            for process in (left, right):
                assert process.returncode == 0
    got = {name: each.result()[0] for name, each in got.items()}
    assert got["left"] == files["right"].read_bytes()
    assert got["right"] == files["left"].read_bytes()


def nodes_try(nodes: Nodes, name: str, *args: str) -> str:
    done = subprocess.run(
        nodes[name].host.command(str(ASSENT), "--socket", str(nodes[name].socket), *args),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_ping_tells_how_long_answers_take_and_its_other_side_ends_with_ctrl_c(pair):
    with running(pair, "right", "ping", "--serve") as server:
        assert "answering" in first_line(server)
        told = json.loads(
            pair.ask("left", "ping", "right", "--count", "20", "--interval", "0", "--json")
        )
        shown = pair.ask("left", "ping", "right", "-c", "2", "-i", "0", "-s", "1000")
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert told["sent"] == told["received"] == 20
    assert 0 < told["min_us"] <= told["p50_us"] <= told["p99_us"] <= told["max_us"] < 5e6
    assert "1000 bytes: number 1, " in shown
    assert "right: 2 sent, 2 answered" in shown


def test_ping_of_a_host_where_nobody_listens_says_so(pair):
    assert "nobody listens" in nodes_try(pair, "left", "ping", "right", "--count", "1")


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        (("--size", "65536"), "mbit_s"),
        (("--size", "64", "--coalesce", "--class", "bulk"), "messages_s"),
        (("--size", "1200", "--delivery", "unordered"), "mbit_s"),
        (("--size", "64", "--latency"), "p50_us"),
    ],
)
def test_perf_measures(pair, options, unit):
    with running(pair, "right", "perf", "--serve") as server:
        assert "measuring" in first_line(server)
        told = json.loads(pair.ask("left", "perf", "right", "--seconds", "0.5", *options, "--json"))
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert told["sent"] == told["received"] > 0
    assert told[unit] > 0


def test_a_message_that_its_delivery_cannot_carry_is_refused_before_anything_is_sent(pair):
    with running(pair, "right", "perf", "--serve") as server:
        assert "measuring" in first_line(server)
        said = nodes_try(
            pair, "left", "perf", "right", "--size", "9000", "--delivery", "best-effort"
        )
    assert "a message of this flow has at most" in said
    assert "pass a smaller --size" in said


def test_a_transfer_that_broke_goes_on_where_it_broke_off(pair, random_file, digest):
    file = random_file("large.bin", 256 << 20)
    inbox = pair.scratch / "inbox"
    inbox.mkdir()
    into = ("--dir", str(inbox), "--json")
    receiver = pair.background("right", "recv", "--from", "left", *into)
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    deadline = time.monotonic() + 30
    while highest_seq(pair, "right") < 20_000 and time.monotonic() < deadline:
        pass
    sender.kill()
    receiver.kill()
    (part,) = inbox.iterdir()
    assert part.name.startswith(".large.bin.")
    assert 0 < part.stat().st_size < 256 << 20

    pair.cli("left", "sessions", "connect", "right", "--renew")
    receiver = pair.background("right", "recv", "--from", "left", *into)
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    sent, received = sender.result(60), receiver.result(60)
    assert sent["blake3"] == received["blake3"] == digest(file)
    assert sent["files"][0]["resumed"] == received["files"][0]["resumed"] > 0
    assert digest(inbox / "large.bin") == digest(file)
    assert [each.name for each in inbox.iterdir()] == ["large.bin"]
    assert received["stats"]["rx_payload"] < (256 << 20) - received["files"][0]["resumed"] + 10_000


def test_a_part_that_is_not_the_files_beginning_is_begun_anew(pair, random_file, digest):
    file = random_file("whole.bin", 2 << 20)
    inbox = pair.scratch / "inbox"
    inbox.mkdir()
    (inbox / f".whole.bin.{digest(file)[:16]}.part").write_bytes(os.urandom(1 << 20))
    receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
    sender = pair.background("left", "send", str(file), "--to", "right", "--json")
    assert sender.result(60)["files"][0]["resumed"] == 0
    assert receiver.result(60)["files"][0]["resumed"] == 0
    assert digest(inbox / "whole.bin") == digest(file)


def test_a_directory_arrives_with_all_its_files_in_several_batches(pair, random_file, digest):
    outbox, inbox = pair.scratch / "outbox", pair.scratch / "inbox"
    outbox.mkdir()
    inbox.mkdir()
    sizes = {f"file-{number:02}.bin": number * 1000 for number in range(20)}
    for name, size in sizes.items():
        (outbox / name).write_bytes(os.urandom(size))
    receiver = pair.background("right", "recv", "--from", "left", "--dir", str(inbox), "--json")
    sender = pair.background("left", "send", str(outbox), "--to", "right", "--json")
    sent, received = sender.result(60), receiver.result(60)
    assert sent["bytes"] == received["bytes"] == sum(sizes.values())
    assert [Path(each["file"]).name for each in received["files"]] == list(sizes)
    for name in sizes:
        assert digest(inbox / name) == digest(outbox / name)
