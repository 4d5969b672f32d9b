# SPDX-License-Identifier: Apache-2.0
"""service/config.py: settings and their errors, each in one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from assent.service.config import Config, ConfigError, load


def test_defaults_follow_the_instance():
    config = Config.build({"instance": "lab"})
    assert config.socket == Path("/run/assent/lab/api.sock")
    assert config.state_dir == Path("/var/lib/assent/lab")
    assert config.run_dir == Path("/run/assent/lab")
    assert config.pin_root == Path("/sys/fs/bpf/assent")
    assert (config.profile, config.credit_capacity_blocks) == ("default", 1 << 20)
    assert config.skew_limit_ns == 30_000_000_000
    assert (config.log_level, config.log_format, config.socket_group) == ("info", "text", None)


def test_a_profile_may_check_no_clock():
    assert Config.build({"profile": "deep-space"}).skew_limit_ns == 0
    assert Config.build({"profile": "deep-space", "skew_limit_ns": 5}).skew_limit_ns == 5
    assert Config.build({"profile": "chapter"}).skew_limit_ns == 30_000_000_000


def test_the_socket_follows_the_run_dir():
    assert Config.build({"run_dir": "/tmp/x"}).socket == Path("/tmp/x/api.sock")


def test_flags_win_over_the_file(tmp_path: Path):
    file = tmp_path / "assentd.toml"
    file.write_text('instance = "lab"\nprofile = "chapter"\ncredit_capacity_blocks = 5\n')
    config = load(file, {"profile": "large"})
    assert (config.instance, config.profile, config.credit_capacity_blocks) == ("lab", "large", 5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"speed": 1}, "speed: no such setting"),
        ({"instance": 1}, "instance: needs text, got a number"),
        ({"instance": ""}, "instance: is empty"),
        ({"instance": "../x"}, "instance: needs 1 to 32"),
        ({"instance": "x" * 33}, "instance: needs 1 to 32"),
        ({"state_dir": "here"}, "state_dir: needs an absolute path, got 'here'"),
        ({"socket": "/" + "x" * 107}, "socket: a unix socket's path has at most 107 bytes"),
        ({"credit_capacity_blocks": "5"}, "credit_capacity_blocks: needs a whole number, got text"),
        ({"credit_capacity_blocks": True}, "credit_capacity_blocks: needs a whole number"),
        ({"credit_capacity_blocks": 1.5}, "credit_capacity_blocks: needs a whole number"),
        ({"credit_capacity_blocks": 0}, "credit_capacity_blocks: needs 1 to"),
        ({"skew_limit_ns": 0}, "skew_limit_ns: needs 1 to"),
        ({"skew_limit_ns": 2**32 * 10**6}, "skew_limit_ns: needs 1 to"),
        ({"peer_timeout_ns": []}, "peer_timeout_ns: needs a whole number, got a list or table"),
        ({"log_level": "loud"}, "log_level: needs one of debug, info, warning, error, got 'loud'"),
        ({"log_format": "xml"}, "log_format: needs one of text, json, got 'xml'"),
        ({"profile": {}}, "profile: needs text, got a list or table"),
        ({"socket_group": 0}, "socket_group: needs text, got a number"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(values: dict[str, object], said: str):
    with pytest.raises(ConfigError) as failure:
        Config.build(values)
    assert str(failure.value).startswith(said)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"instance = ", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"[daemon]\ninstance = 'x'", "daemon: no such setting"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, said: str):
    file = tmp_path / "assentd.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(file, {})


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file"):
        load(tmp_path / "nothing.toml", {})
