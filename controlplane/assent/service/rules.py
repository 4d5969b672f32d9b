# SPDX-License-Identifier: Apache-2.0
"""Which covenant or rule decided on a frame, in words for people; never a secret.

The gate says why. What that reason rests on is looked up here, in the desired state and the gate's
own tables as they stand: a moment later than the verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from assent.covenant.consent import Consent
from assent.dataplane.tables import SEC, GateConfig, SessionEntry, Tables
from assent.errors import LocalError, NotFound
from assent.service.covenants.records import StoredGate
from assent.service.flow_zero import is_handshake
from assent.service.records import LocalCell, RemoteCell
from assent.service.sightings import Sighting
from assent.service.store import Store
from assent.wire.cellid import CellID

_SHOWN_DIGITS: Final = 16
_LAST_SECOND: Final = 253_402_300_799
"""Unix time of the end of the year 9999: what is later cannot be written as a date."""

# Reasons that rest on the frame alone.
_PLAIN: Final[dict[str, str]] = {
    "malformed_length": "frame format: its length is not what its header says",
    "malformed_flags": "frame format: its flags mean nothing",
    "stacked_vlan": "frame format: at most one VLAN tag, of 802.1Q",
    "contended": "another frame of the same number was decided on at the same moment",
    "lwf_malformed": "LWF frame format",
    "lwf_not_relayable": "its sender: not to be relayed",
    "lwf_loop": "relay: each frame once",
}


class Rules:
    """Says what decided.

    Args:
        store: The desired state.
        tables: The gate's.
    """

    def __init__(self, store: Store, tables: Tables) -> None:
        self._store = store
        self._tables = tables
        self._makers: dict[str, Callable[[Sighting], str]] = {
            "unknown_destination": lambda seen: (
                f"cells of this host: {self._name(seen.local)} is none"
            ),
            "not_local": lambda seen: f"cells of this host: {self._name(seen.local)} is none",
            "unknown_source": self._unknown_source,
            "bare_frame": lambda seen: f"bare frames of {self._name(seen.remote)}: not allowed",
            "no_covenant": self._consent,
            "quarantined": self._consent,
            "no_session": lambda seen: f"session with {self._name(seen.remote)}: none is live",
            "unknown_flow": self._unknown_flow,
            "bad_tag": self._bad_tag,
            "clock_skew": self._clock_skew,
            "replay": self._replay,
            "no_endpoint": lambda seen: f"{_flow(seen)}: no endpoint has it open",
            "rate_limited": self._rate,
            "no_credit": self._grant,
            "oversize": self._oversize,
            "no_lamp": self._lamp,
            "over_rate": self._agreed_rate,
            "outside_window": self._agreed_hours,
            "lease_expired": lambda seen: f"{self._covenant(seen)}: it ended with the daemon",
            "lwf_unknown_hint": lambda seen: f"relay routes: none to {_hint(seen, 'dest')}",
            "lwf_unauthorized": lambda seen: f"relay sources: {_hint(seen, 'source')} is none",
        }

    def of(self, seen: Sighting) -> str:
        """The rule that refused a frame, or that was put aside for it."""
        try:
            rule = self._rule(seen)
        except LocalError:
            # What it rested on has gone since.
            return ""
        return f"{rule}; operator: {self._observed(seen)} is observed" if seen.would_drop else rule

    def _rule(self, seen: Sighting) -> str:
        maker = self._makers.get(seen.reason)
        return maker(seen) if maker else _PLAIN.get(seen.reason, "")

    def _unknown_source(self, seen: Sighting) -> str:
        remote = self._known(seen.remote)
        if remote is None:
            return f"cells that {self._name(seen.local)} knows: {self._name(seen.remote)} is none"
        return f"pre-shared key with {remote.name}: none is set"

    def _consent(self, seen: Sighting) -> str:
        remote = self._known(seen.remote)
        # What stands in the gate decided, whatever has been said since.
        if remote is not None and self._is_of_covenants(seen, remote):
            return self._agreement(seen, remote)
        fallback = Consent.QUARANTINED if seen.reason == "quarantined" else Consent.NONE
        consent = fallback if remote is None else remote.consent
        if (consent is Consent.QUARANTINED) != (seen.reason == "quarantined"):
            consent = fallback
        return f"consent of {self._name(seen.remote)}: {consent.value}"

    def _is_of_covenants(self, seen: Sighting, remote: RemoteCell) -> bool:
        return remote.consent.is_negotiated or (
            seen.reason == "quarantined" and remote.consent is not Consent.QUARANTINED
        )

    def _agreement(self, seen: Sighting, remote: RemoteCell) -> str:
        if seen.reason != "quarantined":
            return f"covenant with {remote.name}: none is in force"
        agent = self._store.covenants.agent_of(remote.public_key)
        condition = agent.condition if agent is not None and agent.quarantined else "cleared since"
        return f"immune system on {remote.name}: {condition}"

    def _governor(self, seen: Sighting) -> StoredGate:
        if seen.remote is None or seen.local is None:
            raise NotFound("the frame has no header")
        found = self._store.covenants.governor(seen.remote, seen.local)
        if found is None:
            raise NotFound("no covenant is in force")
        return found

    def _covenant(self, seen: Sighting) -> str:
        covenant = self._store.covenants.get(self._governor(seen).handle)
        return f"covenant {covenant.covenant_id:#010x} with {self._name(seen.remote)}"

    def _agreed_rate(self, seen: Sighting) -> str:
        gate = self._governor(seen)
        return f"{self._covenant(seen)}: {gate.rate} blocks/s, {gate.burst} at once"

    def _agreed_hours(self, seen: Sighting) -> str:
        gate = self._governor(seen)
        bounds = (_utc(gate.open_from), _utc(gate.open_until))
        return f"{self._covenant(seen)}: from {bounds[0]} to {bounds[1]}"

    def _unknown_flow(self, seen: Sighting) -> str:
        return f"session {seen.session_id}: {_flow(seen)} is not open"

    def _bad_tag(self, seen: Sighting) -> str:
        if _is_handshake(seen):
            return f"pre-shared key with {self._name(seen.remote)}: the tag is not made with it"
        return f"header key of session {seen.session_id}: the tag is not made with it"

    def _clock_skew(self, seen: Sighting) -> str:
        return f"skew limit {self._session(seen).skew_limit / SEC:g} s"

    def _replay(self, seen: Sighting) -> str:
        if _is_handshake(seen):
            return f"handshake frames of {self._name(seen.remote)}: each newer than the one before"
        if seen.is_bare:
            return f"bare frames of {self._name(seen.remote)}: each number once"
        session = self._session(seen)
        if seen.header is None or seen.header.flow >= session.flow_count:
            return f"{_flow(seen)}, which is not open: each timestamp later than the one before"
        line = self._tables.flows.read(self._tables.flows.slot_of(session, seen.header.flow))
        return f"replay window of {_flow(seen)}: {line.replay_len} numbers"

    def _rate(self, seen: Sighting) -> str:
        config = self._tables.config.read()
        if _is_handshake(seen):
            rate = _per_second(config.handshake_interval, config.handshake_burst)
            return f"handshake rate: {rate}"
        kind = "bare frames" if seen.is_bare else "control"
        return f"{kind} rate: {_per_second(config.control_interval, config.control_burst)}"

    def _grant(self, seen: Sighting) -> str:
        if seen.header is None:
            return "grant"
        session = self._session(seen)
        line = self._tables.flows.read(self._tables.flows.slot_of(session, seen.header.flow))
        if seen.leaving:
            giver, blocks = self._name(seen.remote), line.tx_window
        else:
            giver, blocks = self._name(seen.local), line.rx_window
        return f"grant of {_flow(seen)} by {giver}: {blocks} blocks"

    def _oversize(self, seen: Sighting) -> str:
        session = self._session(seen)
        limit = session.limits.payload_limit if session.limits is not None else 0
        if limit and not 0 < session.payload_max < limit:
            return f"{self._covenant(seen)}: {limit} bytes a frame"
        return f"payload limit {session.payload_max} bytes"

    def _lamp(self, seen: Sighting) -> str:
        config: GateConfig = self._tables.config.read()
        rate, burst = SEC // config.lamp_interval, config.lamp_burst // config.lamp_interval
        return f"lamp allowance: {rate} blocks/s, {burst} at once"

    def _observed(self, seen: Sighting) -> str:
        remote, local = (self._find(cell) for cell in (seen.remote, seen.local))
        observed = local if local is not None and local.observe else remote
        return self._name(seen.remote) if observed is None else observed.name

    def _session(self, seen: Sighting) -> SessionEntry:
        if seen.remote is None or seen.local is None:
            raise NotFound("the frame has no header")
        return self._tables.sessions.get(seen.remote, seen.local)

    def _find(self, cell: CellID | None) -> LocalCell | RemoteCell | None:
        if cell is None:
            return None
        try:
            return self._store.cell(cell)
        except NotFound:
            return None

    def _known(self, cell: CellID | None) -> RemoteCell | None:
        found = self._find(cell)
        return found if isinstance(found, RemoteCell) else None

    def _name(self, cell: CellID | None) -> str:
        if cell is None:
            return "?"
        found = self._find(cell)
        return str(cell)[:_SHOWN_DIGITS] if found is None else found.name


def _flow(seen: Sighting) -> str:
    return "flow ?" if seen.header is None else f"flow {seen.header.flow}"


def _hint(seen: Sighting, side: str) -> str:
    return "?" if seen.lwf is None else str(getattr(seen.lwf, side))[:_SHOWN_DIGITS]


def _is_handshake(seen: Sighting) -> bool:
    return (
        seen.header is not None
        and not seen.is_bare
        and seen.header.flow == 0
        and is_handshake(seen.header.flags)
    )


def _utc(unix_us: int) -> str:
    """A bound in UTC; a dash where there is none."""
    if not unix_us:
        return "-"
    moment = datetime.fromtimestamp(min(unix_us // 1_000_000, _LAST_SECOND), UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _per_second(interval: int, burst: int) -> str:
    """A rate limit as people say it; see GateConfig for what the gate is told."""
    return f"{SEC // interval}/s, burst {burst // interval + 1}"
