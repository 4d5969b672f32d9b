# SPDX-License-Identifier: Apache-2.0
"""What a covenant in force makes the gate do, for each of its other parties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from assent.covenant.agreement import Covenant, Party
from assent.covenant.document import object_hash
from assent.covenant.terms import Allowance, allowance
from assent.handshake.keys import AEAD_TAG_LEN, covenant_psk
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity, noise_public_of
from assent.service.covenants.gatekeeper import GateGrant
from assent.wire.cellid import CellID

BURST_SLACK: Final = 8
"""The gate lets a sender run ahead by its windows and an eighth: what a clock's grain may shift."""

RECEIPT_BLOCKS: Final = 1_024
"""Room for the receipts of a party that may not send on a flow on which we may."""
_NO_PAYLOAD: Final = 1
"""Less than any payload has, its AEAD tag included; 0 would be no limit."""


def windows(covenant: Covenant, party: Party) -> dict[int, int]:
    """The windows, in blocks by flow, that a covenant promises to a party.

    Where we may send, it needs some room for its receipts, whether it may send itself or not.
    """
    terms = covenant.proposal.terms
    receipts = dict.fromkeys(allowance(terms, covenant.role).flows, RECEIPT_BLOCKS)
    return receipts | dict(allowance(terms, party.role).flows)


def pledge(covenant: Covenant, party: Party, identity: Identity, local: CellID) -> GateGrant:
    """What one of the others may send to us, as the gate is told.

    Args:
        covenant: In force.
        party: The other.
        identity: Ours.
        local: Our cell.
    """
    allowed = allowance(covenant.proposal.terms, party.role)
    flows = windows(covenant, party)
    duration = covenant.proposal.duration
    ends = [at for at in (duration.end, covenant.notice_ends) if at]
    return GateGrant(
        local=local,
        remote=from_public_key(party.public_key),
        flows=flows,
        rate=allowed.rate_blocks_per_second,
        burst=_burst(flows),
        payload_limit=_payload_limit(allowed),
        open_from_us=duration.start,
        open_until_us=min(ends, default=0),
        leased=not covenant.durable,
        psk=_secret(covenant, party, identity),
        content_types=allowed.content_types,
        windows=allowed.windows,
    )


def _burst(flows: Mapping[int, int]) -> int:
    blocks = sum(flows.values())
    return blocks + blocks // BURST_SLACK + 1


def _payload_limit(allowed: Allowance) -> int:
    """Bytes of a frame's payload; who may not send sends headers only."""
    if not allowed.flows:
        return _NO_PAYLOAD
    return allowed.payload_max + AEAD_TAG_LEN if allowed.payload_max else 0


def _secret(covenant: Covenant, party: Party, identity: Identity) -> bytes:
    """A pre-shared key that both have and nobody else, where the operators have set none.

    It follows from the first version: amendments leave it as it is.
    """
    first = covenant.history[0].draft
    return covenant_psk(
        identity.noise_private, noise_public_of(party.public_key), object_hash(first)
    )
