# SPDX-License-Identifier: Apache-2.0
"""What a daemon is told at its start: defaults, then a TOML file, then flags."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from assent.dataplane.profiles import PROFILES
from assent.dataplane.tables.sessions import SKEW_LIMIT_MAX_NS

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# A unix socket address holds 108 bytes with its final zero.
_SOCKET_PATH_MAX = 107
_BLOCKS_MAX = 1 << 40


class ConfigError(Exception):
    """A setting is unknown, of the wrong type or out of range; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one daemon.

    Attributes:
        instance: Name of the fabric instance; several may share a host.
        socket: Unix socket of the API.
        state_dir: Desired state and key files; survives a boot.
        run_dir: Session keys, locks and the socket; belongs on tmpfs.
        pin_root: Directory on bpffs under which the instance pins its dataplane.
        profile: Name of the sizing profile of the maps.
        credit_capacity_blocks: What the node may promise in all, in blocks of 64 bytes.
        skew_limit_ns: How far a peer's timestamp may be off its known clock, either way; 0 = not
            checked, which only a profile says (deep-space).
        peer_timeout_ns: Silence after which a session is given up. Longer than the 30 s of a
            handshake, so that sessions outlive a restart of the peer's daemon.
        relay_route_lifetime_ns: How long the LWF relay finds a source where it registered last.
        socket_group: Group that may use the API besides root; none where None.
        log_level: Least severe level that is logged.
        log_format: `text` (key=value) or `json`, one line a record.
    """

    instance: str
    socket: Path
    state_dir: Path
    run_dir: Path
    pin_root: Path
    profile: str
    credit_capacity_blocks: int
    skew_limit_ns: int
    peer_timeout_ns: int
    relay_route_lifetime_ns: int
    socket_group: str | None
    log_level: LogLevel
    log_format: LogFormat

    @classmethod
    def build(cls, values: Mapping[str, object]) -> Config:
        """Makes a configuration of named settings; what is not named has its default.

        Args:
            values: Settings by field name, as TOML or the command line give them.

        Raises:
            ConfigError: A key is unknown, or its value is of the wrong type or out of range.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"{unknown[0]}: no such setting")
        instance = _text(values, "instance", "default")
        if not _INSTANCE.fullmatch(instance):
            raise ConfigError("instance: needs 1 to 32 of a-z, 0-9 and '-', not beginning with '-'")
        run_dir = _path(values, "run_dir", f"/run/assent/{instance}")
        socket = _path(values, "socket", str(run_dir / "api.sock"))
        if len(bytes(socket)) > _SOCKET_PATH_MAX:
            raise ConfigError(f"socket: a unix socket's path has at most {_SOCKET_PATH_MAX} bytes")
        profile = _text(values, "profile", "default")
        return cls(
            instance=instance,
            socket=socket,
            state_dir=_path(values, "state_dir", f"/var/lib/assent/{instance}"),
            run_dir=run_dir,
            pin_root=_path(values, "pin_root", "/sys/fs/bpf/assent"),
            profile=profile,
            credit_capacity_blocks=_number(values, "credit_capacity_blocks", 1 << 20, _BLOCKS_MAX),
            skew_limit_ns=_skew_limit(values, profile),
            peer_timeout_ns=_number(values, "peer_timeout_ns", 300_000_000_000, 1 << 62),
            relay_route_lifetime_ns=_number(
                values, "relay_route_lifetime_ns", 600_000_000_000, 1 << 62
            ),
            socket_group=_optional_text(values, "socket_group"),
            log_level=cast("LogLevel", _choice(values, "log_level", "info", LOG_LEVELS)),
            log_format=cast("LogFormat", _choice(values, "log_format", "text", LOG_FORMATS)),
        )


def load(path: Path | None, flags: Mapping[str, object]) -> Config:
    """Merges a TOML file, where one is named, with flags; flags win.

    Args:
        path: TOML file of top-level keys named like the fields of Config.
        flags: Settings given on the command line.

    Raises:
        ConfigError: The file cannot be read or parsed, or a setting is wrong.
    """
    values: dict[str, object] = {}
    if path is not None:
        try:
            values.update(tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
    values.update(flags)
    return Config.build(values)


def _skew_limit(values: Mapping[str, object], profile: str) -> int:
    """The profile's, unless another one is asked for; a setting cannot turn the check off."""
    if "skew_limit_ns" in values or profile not in PROFILES:
        usual = PROFILES["default"].skew_limit_ns
        return _number(values, "skew_limit_ns", usual, SKEW_LIMIT_MAX_NS)
    return PROFILES[profile].skew_limit_ns


def _optional_text(values: Mapping[str, object], key: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{key}: needs text, got {_kind(value)}")
    if not value:
        raise ConfigError(f"{key}: is empty")
    return value


def _text(values: Mapping[str, object], key: str, default: str) -> str:
    value = _optional_text(values, key)
    return default if value is None else value


def _path(values: Mapping[str, object], key: str, default: str) -> Path:
    path = Path(_text(values, key, default))
    if not path.is_absolute():
        raise ConfigError(f"{key}: needs an absolute path, got {str(path)!r}")
    return path


def _number(values: Mapping[str, object], key: str, default: int, most: int) -> int:
    value = values.get(key, default)
    # bool is an int in Python, not in a configuration.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{key}: needs a whole number, got {_kind(value)}")
    if not 1 <= value <= most:
        raise ConfigError(f"{key}: needs 1 to {most}, got {value}")
    return value


def _choice(values: Mapping[str, object], key: str, default: str, choices: tuple[str, ...]) -> str:
    value = _text(values, key, default)
    if value not in choices:
        raise ConfigError(f"{key}: needs one of {', '.join(choices)}, got {value!r}")
    return value


def _kind(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a fraction", str: "text"}
    return names.get(type(value), "a list or table" if isinstance(value, list | dict) else "a date")
