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


def test_nothing_is_listened_to_unless_it_is_said():
    config = Config.build({})
    assert (config.covenant_wss, config.covenant_h2) == (None, None)
    assert (config.covenant_certificate, config.covenant_key) == (None, None)
    assert (config.covenant_client_ca, config.covenant_ca) == (None, None)


def test_where_covenants_are_heard():
    config = Config.build(
        {
            "covenant_wss": "[::1]:8443",
            "covenant_h2": "host.example:443",
            "covenant_certificate": "/etc/cert.pem",
            "covenant_key": "/etc/key.pem",
            "covenant_client_ca": "/etc/ca.pem",
            "covenant_ca": "/etc/roots.pem",
        }
    )
    assert config.covenant_wss == ("::1", 8443)
    assert config.covenant_h2 == ("host.example", 443)
    assert config.covenant_certificate == Path("/etc/cert.pem")
    assert config.covenant_key == Path("/etc/key.pem")
    assert config.covenant_client_ca == Path("/etc/ca.pem")
    assert config.covenant_ca == Path("/etc/roots.pem")


def test_two_listeners_cannot_share_an_address():
    values = {"covenant_certificate": "/c", "covenant_key": "/k"}
    with pytest.raises(ConfigError, match="covenant_h2: is where covenant_wss listens"):
        Config.build({**values, "covenant_wss": "[::]:1", "covenant_h2": "[::]:1"})


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
        ({"covenant_wss": "host"}, "covenant_wss: needs host:port, got 'host'"),
        ({"covenant_wss": ":443"}, "covenant_wss: needs host:port"),
        ({"covenant_wss": "host:0"}, "covenant_wss: needs host:port"),
        ({"covenant_h2": "host:65536"}, "covenant_h2: needs host:port"),
        ({"covenant_h2": "::1:443"}, "covenant_h2: needs host:port"),
        ({"covenant_h2": "https://host:443"}, "covenant_h2: needs host:port"),
        ({"covenant_h2": 443}, "covenant_h2: needs text, got a number"),
        ({"covenant_wss": "h:1"}, "covenant_wss: needs covenant_certificate and covenant_key"),
        ({"covenant_certificate": "/c"}, "covenant_key: is needed with covenant_certificate"),
        ({"covenant_key": "/k"}, "covenant_certificate: is needed with covenant_key"),
        ({"covenant_key": "k"}, "covenant_key: needs an absolute path, got 'k'"),
        ({"covenant_ca": "ca"}, "covenant_ca: needs an absolute path, got 'ca'"),
        ({"covenant_client_ca": 1}, "covenant_client_ca: needs text, got a number"),
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
