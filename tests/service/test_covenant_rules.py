# SPDX-License-Identifier: Apache-2.0
"""service/rules.py, where a covenant decided: what its terms say is what people are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from assent.covenant.consent import Consent
from assent.identity.keys import Identity
from assent.service.covenants.records import StoredGate
from assent.service.records import LocalCell, RemoteCell
from assent.service.rules import Rules
from assent.service.sightings import Sighting
from assent.service.store import Store
from assent.wire.fabric import Flags, Header

US, PEER = Identity.from_seed(b"\x01" * 32), Identity.from_seed(b"\x02" * 32)
AGENT = UUID("018f4a5e-7c3b-8d2a-9e1f-0123456789ab")
HEADER = Header(PEER.cell_id, US.cell_id, 9, Flags.DATA | Flags.BLOCK, 0, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state.db") as made:
        made.add_local(LocalCell(US.cell_id, "us", US.public_key, "lo", tmp_path / "unused.pem"))
        made.add_remote(RemoteCell(PEER.cell_id, "peer", PEER.public_key, Consent.COVENANT, None))
        yield made


@pytest.fixture
def agreed(store: Store) -> Store:
    handle = store.covenants.add(US.cell_id, 0xABC, "covenanted", b"", durable=True, updated_at=1)
    gate = StoredGate(
        handle, US.cell_id, PEER.cell_id, open=True, leased=True, flows={1: 64}, rate=500,
        burst=64, payload_limit=528, content_types=(), windows=(), bound_from=0, bound_until=0,
        open_from=1_700_000_000_000_000, open_until=0,
    )  # fmt: skip
    store.covenants.put_gate(gate)
    return store


def said(store: Store, reason: str) -> str:
    limits = SimpleNamespace(payload_limit=528)
    session = SimpleNamespace(limits=limits, payload_max=1408)
    tables = SimpleNamespace(sessions=SimpleNamespace(get=lambda remote, local: session))
    return Rules(store, cast("Any", tables)).of(Sighting(1, reason, "lo", 1, 106, b"", HEADER))


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("over_rate", "covenant 0x00000abc with peer: 500 blocks/s, 64 at once"),
        ("outside_window", "covenant 0x00000abc with peer: from 2023-11-14 22:13:20Z to -"),
        ("lease_expired", "covenant 0x00000abc with peer: it ended with the daemon"),
        ("oversize", "covenant 0x00000abc with peer: 528 bytes a frame"),
    ],
)
def test_the_terms_that_refused_a_frame_are_named(agreed: Store, reason: str, rule: str):
    assert said(agreed, reason) == rule


@pytest.mark.parametrize("reason", ["over_rate", "outside_window", "lease_expired"])
def test_of_a_covenant_that_has_gone_since_nothing_is_said(store: Store, reason: str):
    assert said(store, reason) == ""


def test_without_a_covenant_that_is_what_is_said(store: Store):
    assert said(store, "no_covenant") == "covenant with peer: none is in force"


def test_the_immune_system_s_finding_is_named(agreed: Store):
    agreed.covenants.bind_agent(AGENT, PEER.public_key)
    agreed.covenants.set_quarantine(AGENT, "flooding", 1)
    assert said(agreed, "quarantined") == "immune system on peer: flooding"
    agreed.covenants.set_quarantine(AGENT, None, 2)
    assert said(agreed, "quarantined") == "immune system on peer: cleared since"
