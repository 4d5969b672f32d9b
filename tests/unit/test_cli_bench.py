# SPDX-License-Identifier: Apache-2.0
"""`assent bench` of endpoints: what it measures with, and how it tells what came of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assent.errors import NotFound

from .test_cli import plain_environment, run

__all__ = ["plain_environment"]  # a fixture

MEASUREMENTS = {
    "fabric": (["--seconds", "0.5", "--rounds", "3", "--questions", "400"], (0.5, 3, 400), {}),
    "handshake": (
        ["--handshakes", "7", "--renewals", "8"],
        (),
        {"handshakes": 7, "renewals": 8},
    ),
    "incast": (["--senders", "9", "--size", "10", "--rounds", "2"], (9, 10, 2), {}),
    "memory": (["--connections", "1000"], (1000,), {}),
}
DEFAULTS = {
    "fabric": ((2.0, 5, 5000), {}),
    "handshake": ((), {"handshakes": 100, "renewals": 200}),
    "incast": ((1000, 65536, 5), {}),
    "memory": ((10_000,), {}),
}
RESULT = {"figure": 42, "kernel": "6.1"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def measure(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append((args, kwargs))
        return RESULT

    for name in MEASUREMENTS:
        monkeypatch.setattr(f"assent.bench.{name}.measure", measure)
        monkeypatch.setattr(
            f"assent.bench.report.{name}_section", lambda result: ["a line", str(result["figure"])]
        )
    return calls


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_what_is_asked_for_is_measured(name: str, asked: list[Any]) -> None:
    options, args, kwargs = MEASUREMENTS[name]
    assert json.loads(run(None, "bench", name, *options, "--json").stdout) == RESULT
    assert asked == [(args, kwargs)]


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_without_options_it_is_the_usual_amount_and_a_page(name: str, asked: list[Any]) -> None:
    assert run(None, "bench", name).stdout.splitlines() == ["a line", "42"]
    assert asked == [DEFAULTS[name]]


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("fabric", "--seconds", "0"),
        ("fabric", "--rounds", "0"),
        ("fabric", "--questions", "99"),
        ("handshake", "--handshakes", "0"),
        ("incast", "--senders", "1"),
        ("incast", "--senders", "2001"),
        ("memory", "--connections", "99"),
        ("memory", "--connections", "30001"),
    ],
)
def test_amounts_that_make_no_measurement_are_refused(
    name: str, option: str, value: str, asked: list[Any]
) -> None:
    assert run(None, "bench", name, option, value).exit_code == 2
    assert asked == []


def test_all_of_it_begins_with_a_look_for_the_peers(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any], tmp_path: Any
) -> None:
    def missing() -> None:
        raise NotFound("the module 'net' is missing")

    monkeypatch.setattr("assent.bench.extra.require_peers", missing)
    page = tmp_path / "bench.md"
    result = run(None, "bench", "all", "--output", str(page))
    assert result.exit_code != 0
    assert "'net' is missing" in result.stderr
    assert asked == []
    assert not page.exists()
