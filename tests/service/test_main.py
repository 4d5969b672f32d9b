# SPDX-License-Identifier: Apache-2.0
"""The `assentd` command: one clear line where it cannot start, order when it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from assent.errors import FailedPrecondition
from assent.service import preflight
from assent.service.main import main

from .conftest import PIN_ROOT, Place, api_at, eventually

ASSENTD = (sys.executable, "-m", "assent.service.main")


def flags_of(place: Place) -> list[str]:
    config = place.config
    return [
        f"--instance={config.instance}",
        f"--state-dir={config.state_dir}",
        f"--run-dir={config.run_dir}",
        f"--pin-root={config.pin_root}",
        f"--profile={config.profile}",
    ]


def run(*arguments: str, **options: object) -> tuple[int, str]:
    done = subprocess.run(
        [*ASSENTD, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload]
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--instance", "../x"], "assentd: instance: needs 1 to 32"),
        (["--credit-capacity", "0"], "assentd: credit_capacity_blocks: needs 1 to"),
        (["--config", "/nonexistent.toml"], "assentd: /nonexistent.toml: No such file"),
    ],
)
def test_a_wrong_setting_exits_2_with_one_line(arguments: Sequence[str], said: str):
    code, output = run(*arguments)
    assert code == 2
    assert output.startswith(said)
    assert output.count("\n") == 1


def test_without_root_it_says_so(place: Place):
    # The rights go once everything is imported: a checkout may be readable by root alone.
    program = (
        "import os, sys; from assent.service import config, daemon, logs, main, notify; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *flags_of(place)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    code, output = done.returncode, done.stderr
    assert code == 1
    assert output.startswith("assentd: this needs root")
    assert output.count("\n") == 1


def test_pins_need_bpffs(place: Place):
    code, output = run(*flags_of(place), "--pin-root", str(place.root))
    assert code == 1
    assert "not in a BPF file system" in output


def test_a_kernel_without_btf_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "_KERNEL_BTF", Path("/nonexistent"))
    with pytest.raises(FailedPrecondition, match="CONFIG_DEBUG_INFO_BTF"):
        preflight.check(PIN_ROOT)


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    umask = os.umask(0o022)
    try:
        monkeypatch.setitem(sys.modules, "assent.service.daemon", None)
        assert main(["--instance", "missing"]) == 1
    finally:
        os.umask(umask)
    assert capsys.readouterr().err.startswith("assentd: import of assent.service.daemon halted")


def launch(place: Place, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*ASSENTD, *flags_of(place), *flags],
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order(place: Place, number: int):
    address = f"\0{place.instance}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        process = launch(place, "--log-format=json", NOTIFY_SOCKET=f"@{place.instance}")
        try:
            assert manager.recv(64) == b"READY=1"
            async with api_at(place.config.socket) as api:
                assert (await api.status()).instance == place.instance
            process.send_signal(number)
            assert manager.recv(64) == b"STOPPING=1"
            _, output = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    # The dataplane stays, the socket goes; every line of the log is one JSON object.
    assert (place.pins / "programs" / "gate").exists()
    assert not place.config.socket.exists()
    events = [json.loads(line)["event"] for line in output.decode().splitlines()]
    assert events[-1] == "daemon stopped"


async def test_a_second_process_is_refused(place: Place):
    process = launch(place)
    try:
        await eventually(place.config.socket.exists, "the first daemon listens")
        code, output = run(*flags_of(place))
        assert code == 1
        assert output.splitlines()[-1].startswith("assentd: run_dir: another daemon works in")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_secrets_have_no_flag():
    """What stands in argv, everyone on the host can read."""
    done = subprocess.run([*ASSENTD, "--help"], capture_output=True, text=True, check=True)
    assert "psk" not in done.stdout.lower()
