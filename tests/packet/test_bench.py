# SPDX-License-Identifier: Apache-2.0
"""The stopwatch measures what it says, or fails. How fast is not asked here."""

from __future__ import annotations

import pytest

from assent.bench import verdict
from assent.errors import FailedPrecondition, NotFound

NAMES = {
    "admit",
    "unknown_dst",
    "unknown_src",
    "bad_tag",
    "replay",
    "no_credit",
    "pass_ipv4",
}


def test_figures() -> None:
    figures = verdict.measure(repeat=1000, runs=3)
    assert set(figures["xdp"]) == {f"{name}_ns" for name in NAMES}
    assert set(figures["ratio"]) == NAMES
    assert set(figures["peer"]) == {"xdp_filter_ns"}
    assert all(value > 0 for value in figures["xdp"].values())
    assert (figures["repeat"], figures["runs"]) == (1000, 3)


def test_the_wrong_verdict_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rewind, the second frame is a replay."""
    monkeypatch.setattr(verdict, "_aim", lambda *_: None)
    with pytest.raises(FailedPrecondition, match="admit should count"):
        verdict.measure(repeat=10, runs=1)


def test_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "_PEER_FOLDERS", ("/nonexistent",))
    with pytest.raises(NotFound, match="xdp-tools"):
        verdict.measure(repeat=10, runs=1)
