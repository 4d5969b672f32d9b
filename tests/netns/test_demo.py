"""The demo end to end, as a user starts it, with a small file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyroute2 import netns

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

ATTACKS = {
    "unknown_destination": "unknown_destination",
    "unknown_source": "unknown_source",
    "forged_tag": "bad_tag",
    "replay": "replay",
    "malformed_length": "malformed_length",
}


def start_demo(file: Path, output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            str(Path(sys.executable).parent / "assent"),
            "demo",
            "--file",
            str(file),
            "--output",
            str(output),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leftovers(pid: int) -> list[str]:
    """Whatever still carries the name of a demo's process."""
    label = f"demo-{pid}"
    found = [name for name in netns.listnetns() if label in name]
    for root in (Path("/sys/fs/bpf/assent"), Path("/run/assent")):
        if root.is_dir():
            found += [str(path) for path in root.iterdir() if label in path.name]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if label in command:
            found.append(command)
    return found


def test_a_small_file_crosses_and_nothing_else_does(random_file, tmp_path):
    output = tmp_path / "demo.json"
    demo = start_demo(random_file("small.bin", 8 << 20), output)
    said, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, said
    assert leftovers(demo.pid) == []

    figures = json.loads(output.read_text())
    assert figures["failures"] == []
    assert figures["file_bytes"] == 8 << 20
    assert figures["sha256_match"] is True
    assert figures["goodput_mbit_s"] > 0
    assert figures["io_backend"] in {"af_xdp", "af_packet"}
    assert figures["xdp_mode"] == "native"
    assert figures["verdict_ns"] > 0
    assert figures["frames_admitted"] > (8 << 20) // 1500
    assert figures["frames_admitted_unexplained"] == 0
    assert set(figures["attacks"]) == {*ATTACKS, "overspend"}
    overspend = figures["attacks"]["overspend"]
    assert overspend["admitted"] == 0
    assert set(overspend["dropped"]) == {"no_credit", "quarantined"}
    assert overspend["dropped"]["no_credit"] > 0
    assert sum(overspend["dropped"].values()) >= 10_000
    assert figures["quarantined_for"] == "covenant terms violated repeatedly"
    for name, reason in ATTACKS.items():
        attack = figures["attacks"][name]
        assert attack["sent"] >= 10_000
        assert attack["admitted"] == 0
        assert attack["dropped"][reason] >= 10_000


@pytest.mark.parametrize(
    ("number", "after"),
    [
        # All daemons run, and all interfaces are gated.
        (signal.SIGINT, "rogue# assent keys generate-psk"),
        # Everybody knows everybody, and covenants are being agreed on.
        (signal.SIGTERM, "3."),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(random_file, tmp_path, number, after):
    output = tmp_path / "demo.json"
    demo = start_demo(random_file("small.bin", 1 << 20), output)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(after):
            break
    else:
        pytest.fail(f"the demo did not come to {after!r}")
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not output.exists()
    deadline = time.monotonic() + 10
    while leftovers(demo.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(demo.pid) == []


def test_a_file_that_is_not_there_is_named(tmp_path):
    demo = start_demo(tmp_path / "absent", tmp_path / "demo.json")
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "absent is not a regular file" in said
    assert len(said.strip().splitlines()) == 1
