# SPDX-License-Identifier: Apache-2.0
"""What a daemon is told at its start: defaults, then a TOML file, then flags."""

from __future__ import annotations

import pwd
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from assent.credit.lamp import BLOCKS_DEFAULT, LampAllowance
from assent.dataplane.profiles import PROFILES
from assent.dataplane.tables.sessions import SKEW_LIMIT_MAX_NS
from assent.errors import InvalidArgument
from assent.wire.control import GRANT_SHIFT_MAX

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")
DELIVERIES: tuple[str, ...] = ("ordered", "unordered", "best-effort")
FLOW_CLASSES: tuple[str, ...] = ("urgent", "tensor", "standard", "bulk")

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# A unix socket address holds 108 bytes with its final zero.
_SOCKET_PATH_MAX = 107
_BLOCKS_MAX = 1 << 40
# A frame is sent again after a second at the earliest.
_PATIENCE_MIN = 10_000_000_000
_FLOW_MAX = 7
_WINDOW_MAX = 0x7FFF
_UID_MAX = 0xFFFF_FFFE
_RINGS_MAX = 64
_PORT_MAX = 65_535
_HOST_PORT = re.compile(
    r"(?:\[(?P<bracketed>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]{1,253})):(?P<port>[0-9]{1,5})"
)

HostPort = tuple[str, int]
"""A host's name or address, and a TCP port."""
ANY_LABEL = "*"


class ConfigError(Exception):
    """A setting is unknown, of the wrong type or out of range; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Whose processes may be lent rings, with a token besides.

    Attributes:
        uid: The user.
        cells: Names of the local cells that it may speak for.
        labels: What it may define flows for, and listen for; ANY_LABEL = anything.
        flows: Which it may open by number, without asking the peer.
        rings: How many it may have at a time.
    """

    uid: int
    cells: frozenset[str]
    labels: frozenset[str]
    flows: frozenset[int]
    rings: int

    def may_use(self, label: str) -> bool:
        """Whether it may use flows for a label."""
        return ANY_LABEL in self.labels or label in self.labels


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
        handshake_patience_ns: How long a handshake may take: some round trips. By the profile.
        grant_shift: The least unit of grants that is asked of peers, 64 << grant_shift bytes. By
            the profile.
        lamp_blocks_per_second: What each remote cell may send under LAMP, without credit; 0 = none.
        lamp_burst_blocks: And at once.
        relay_route_lifetime_ns: How long the LWF relay finds a source where it registered last.
        socket_group: Group that may use the API besides root; none where None.
        default_flows: How many flows, from 1 on, a cell with standing consent is given windows for
            when it is made known; 0 = an operator grants each.
        default_window_blocks: Each of those windows, in blocks of 64 bytes.
        flow_deliveries: Which deliveries peers may define flows with, of DELIVERIES.
        flow_classes: And which classes, of FLOW_CLASSES.
        lend_socket: Where unprivileged applications may ask for rings; nowhere where None.
        lend_packet_sockets: Whether they are lent AF_PACKET sockets where AF_XDP cannot be had.
            Whoever holds one can bind it to any interface of the daemon's network namespace.
        applications: Who may ask, each a table of the file.
        covenant_wss: Where covenants are spoken over WebSocket, (host, port); nowhere where None.
        covenant_h2: The same over HTTP/2.
        covenant_certificate: Of this host, a PEM chain; with `covenant_key`, needed to listen.
        covenant_key: Its private key, PEM.
        covenant_client_ca: Whose certificates clients must show, PEM; where None, none.
        covenant_ca: Whose certificates servers must show, PEM; the system's where None.
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
    handshake_patience_ns: int
    grant_shift: int
    lamp_blocks_per_second: int
    lamp_burst_blocks: int
    relay_route_lifetime_ns: int
    socket_group: str | None
    default_flows: int
    default_window_blocks: int
    flow_deliveries: frozenset[str]
    flow_classes: frozenset[str]
    lend_socket: Path | None
    lend_packet_sockets: bool
    applications: tuple[Application, ...]
    covenant_wss: HostPort | None
    covenant_h2: HostPort | None
    covenant_certificate: Path | None
    covenant_key: Path | None
    covenant_client_ca: Path | None
    covenant_ca: Path | None
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
        # One that does not exist is told of where the gate is opened.
        sizes = PROFILES.get(profile, PROFILES["default"])
        lamp = _lamp(values)
        wss, h2 = (_host_port(values, key) for key in ("covenant_wss", "covenant_h2"))
        certificate, key = (
            _optional_path(values, name) for name in ("covenant_certificate", "covenant_key")
        )
        _check_listeners(wss, h2, certificate, key)
        return cls(
            instance=instance,
            socket=socket,
            state_dir=_path(values, "state_dir", f"/var/lib/assent/{instance}"),
            run_dir=run_dir,
            pin_root=_path(values, "pin_root", "/sys/fs/bpf/assent"),
            profile=profile,
            credit_capacity_blocks=_number(values, "credit_capacity_blocks", 1 << 20, _BLOCKS_MAX),
            skew_limit_ns=_skew_limit(values, profile),
            peer_timeout_ns=_number(values, "peer_timeout_ns", sizes.peer_timeout_ns, 1 << 62),
            handshake_patience_ns=_number(
                values, "handshake_patience_ns", sizes.patience_ns, 1 << 62, least=_PATIENCE_MIN
            ),
            grant_shift=_number(values, "grant_shift", sizes.grant_shift, GRANT_SHIFT_MAX, least=0),
            lamp_blocks_per_second=lamp.rate,
            lamp_burst_blocks=lamp.burst,
            relay_route_lifetime_ns=_number(
                values, "relay_route_lifetime_ns", 600_000_000_000, 1 << 62
            ),
            socket_group=_optional_text(values, "socket_group"),
            default_flows=_number(values, "default_flows", 0, _FLOW_MAX, least=0),
            default_window_blocks=_number(values, "default_window_blocks", 4096, _WINDOW_MAX),
            flow_deliveries=_some_of(values, "flow_deliveries", DELIVERIES),
            flow_classes=_some_of(values, "flow_classes", FLOW_CLASSES),
            lend_socket=_lend_socket(values, socket),
            lend_packet_sockets=_truth(values, "lend_packet_sockets"),
            applications=_applications(values),
            covenant_wss=wss,
            covenant_h2=h2,
            covenant_certificate=certificate,
            covenant_key=key,
            covenant_client_ca=_optional_path(values, "covenant_client_ca"),
            covenant_ca=_optional_path(values, "covenant_ca"),
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


def _lamp(values: Mapping[str, object]) -> LampAllowance:
    rate = _number(values, "lamp_blocks_per_second", BLOCKS_DEFAULT, 1 << 62, least=0)
    burst = _number(values, "lamp_burst_blocks", BLOCKS_DEFAULT, 1 << 62, least=0)
    try:
        return LampAllowance(rate, burst)
    except InvalidArgument as error:
        raise ConfigError(str(error)) from None


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


def _optional_path(values: Mapping[str, object], key: str) -> Path | None:
    return None if values.get(key) is None else _path(values, key, "")


def _host_port(values: Mapping[str, object], key: str) -> HostPort | None:
    """`host:port`, where an IPv6 address stands in brackets."""
    value = _optional_text(values, key)
    if value is None:
        return None
    found = _HOST_PORT.fullmatch(value)
    if found is None or not 1 <= int(found["port"]) <= _PORT_MAX:
        raise ConfigError(f"{key}: needs host:port, got {value!r}")
    return found["bracketed"] or found["host"], int(found["port"])


def _check_listeners(
    wss: HostPort | None, h2: HostPort | None, certificate: Path | None, key: Path | None
) -> None:
    if (certificate is None) != (key is None):
        missing, given = "covenant_key", "covenant_certificate"
        if certificate is None:
            missing, given = given, missing
        raise ConfigError(f"{missing}: is needed with {given}")
    for name, listener in (("covenant_wss", wss), ("covenant_h2", h2)):
        if listener is not None and certificate is None:
            raise ConfigError(f"{name}: needs covenant_certificate and covenant_key")
    if wss is not None and wss == h2:
        raise ConfigError("covenant_h2: is where covenant_wss listens")


def _number(values: Mapping[str, object], key: str, default: int, most: int, least: int = 1) -> int:
    value = values.get(key, default)
    # bool is an int in Python, not in a configuration.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{key}: needs a whole number, got {_kind(value)}")
    if not least <= value <= most:
        raise ConfigError(f"{key}: needs {least} to {most}, got {value}")
    return value


def _choice(values: Mapping[str, object], key: str, default: str, choices: tuple[str, ...]) -> str:
    value = _text(values, key, default)
    if value not in choices:
        raise ConfigError(f"{key}: needs one of {', '.join(choices)}, got {value!r}")
    return value


def _truth(values: Mapping[str, object], key: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: needs true or false, got {_kind(value)}")
    return value


def _lend_socket(values: Mapping[str, object], api: Path) -> Path | None:
    path = _optional_path(values, "lend_socket")
    if path is None:
        if values.get("applications"):
            raise ConfigError("lend_socket: is needed with applications")
        return None
    if len(bytes(path)) > _SOCKET_PATH_MAX:
        raise ConfigError(f"lend_socket: a unix socket's path has at most {_SOCKET_PATH_MAX} bytes")
    if path.parent == api.parent:
        raise ConfigError("lend_socket: needs a directory of its own: all may enter that one")
    return path


def _applications(values: Mapping[str, object]) -> tuple[Application, ...]:
    tables = values.get("applications", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("applications: needs tables, [[applications]]")
    found = []
    for number, table in enumerate(tables):
        try:
            found.append(_application(table))
        except ConfigError as error:
            raise ConfigError(f"applications[{number}].{error}") from None
    return tuple(found)


def _application(table: Mapping[str, object]) -> Application:
    unknown = sorted(set(table) - {"user", "cells", "labels", "flows", "rings"})
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such setting")
    flows = table.get("flows", [])
    if not isinstance(flows, list) or any(
        type(flow) is not int or not 1 <= flow <= _FLOW_MAX for flow in flows
    ):
        raise ConfigError(f"flows: needs a list of numbers from 1 to {_FLOW_MAX}")
    return Application(
        uid=_uid(table),
        cells=_texts(table, "cells"),
        labels=_texts(table, "labels"),
        flows=frozenset(flows),
        rings=_number(table, "rings", 1, _RINGS_MAX),
    )


def _uid(table: Mapping[str, object]) -> int:
    user = table.get("user")
    if isinstance(user, str):
        try:
            user = pwd.getpwnam(user).pw_uid
        except (KeyError, ValueError):
            raise ConfigError(f"user: this host has no user {user!r}") from None
    if type(user) is not int or not 1 <= user <= _UID_MAX:
        raise ConfigError("user: needs the name or the number of an unprivileged user")
    return user


def _texts(table: Mapping[str, object], key: str) -> frozenset[str]:
    value = table.get(key)
    if not isinstance(value, list) or not value or any(not isinstance(each, str) for each in value):
        raise ConfigError(f"{key}: needs a list of text")
    return frozenset(value)


def _some_of(values: Mapping[str, object], key: str, names: tuple[str, ...]) -> frozenset[str]:
    """Some of a few names; all of them where not said."""
    value = values.get(key, list(names))
    if not isinstance(value, list) or not value or any(name not in names for name in value):
        raise ConfigError(f"{key}: needs a list of some of {', '.join(names)}")
    return frozenset(value)


def _kind(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a fraction", str: "text"}
    return names.get(type(value), "a list or table" if isinstance(value, list | dict) else "a date")
