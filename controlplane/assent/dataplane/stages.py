# SPDX-License-Identifier: Apache-2.0
"""Which of the gate's checks decided, by its verdict: the one list, in the order of the checks."""

from __future__ import annotations

from typing import Final

from assent.dataplane.reasons import ADMITTED

RELAYED: Final = "relayed"
NOT_FABRIC: Final = "not_fabric"
TRUNCATED: Final = "truncated"

STAGES: Final[dict[str, str]] = {
    NOT_FABRIC: "ethertype",
    TRUNCATED: "capture",
    "malformed_length": "length",
    "unknown_destination": "destination",
    "unknown_source": "source",
    "bare_frame": "flags",
    "malformed_flags": "flags",
    "no_covenant": "consent",
    "quarantined": "consent",
    "outside_window": "window",
    "lease_expired": "lease",
    "no_session": "session",
    "unknown_flow": "flow",
    "bad_tag": "tag",
    "clock_skew": "clock",
    "replay": "replay",
    "no_endpoint": "endpoint",
    "rate_limited": "rate",
    "over_rate": "rate",
    "no_credit": "credit",
    "contended": "commit",
    "oversize": "size",
    "no_lamp": "lamp",
    "stacked_vlan": "vlan",
    "not_local": "source",
    "lwf_malformed": "lwf header",
    "lwf_unauthorized": "lwf source",
    "lwf_unknown_hint": "lwf route",
    "lwf_not_relayable": "lwf flags",
    "lwf_loop": "lwf loop",
    RELAYED: "lwf relay",
    ADMITTED: "delivery",
}

_VERDICTS: Final = {
    ADMITTED: "admit",
    RELAYED: "relay",
    NOT_FABRIC: "pass",
    TRUNCATED: "undecided",
}


def stage_of(reason: str) -> str:
    """Returns the stage that decides with a reason; "unknown" for a newer gate's reason."""
    return STAGES.get(reason, "unknown")


def verdict_of(reason: str) -> str:
    """Returns what becomes of the frame: admit, relay, drop, pass or undecided."""
    return _VERDICTS.get(reason, "drop")
