# SPDX-License-Identifier: Apache-2.0
"""Covenants as they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast
from uuid import UUID

from assent.covenant.agreement import Covenant, Party, proposal_of
from assent.covenant.values import CovenantView, PeerView
from assent.errors import NotFound
from assent.identity.cellid import from_public_key
from assent.service.store import Store
from assent.wire.cellid import CellID

if TYPE_CHECKING:
    from assent.service.bindings.links import Link


def view_of(
    covenant: Covenant, local: CellID, store: Store, quarantined: Mapping[UUID, str]
) -> CovenantView:
    """What there is to see of a covenant.

    Args:
        covenant: As the engine has it, or had it.
        local: The cell of this host.
        store: Knows names.
        quarantined: Agents, and why.
    """
    amendment = covenant.amendment
    created = covenant.history[-1].draft.creation_time if covenant.history else 0
    return CovenantView(
        handle=covenant.handle,
        covenant_id=covenant.covenant_id,
        state=covenant.state,
        local=local,
        local_name=_name(store, local),
        agent_id=covenant.agent_id,
        role=covenant.role,
        initiator=covenant.initiator,
        multi=covenant.multi,
        durable=covenant.durable,
        version=covenant.version,
        proposal=covenant.proposal,
        amendment=(
            proposal_of(amendment.document, durable=covenant.durable) if amendment else None
        ),
        amendment_by_us=amendment is not None and amendment.proposer == covenant.agent_id,
        peers=tuple(_peer(one, covenant, store, quarantined) for one in covenant.parties.values()),
        deferrals=covenant.deferrals,
        questions=covenant.questions,
        rejection=covenant.rejection,
        created_at=created,
        notice_ends=covenant.notice_ends,
        reason=covenant.reason,
        updated_at=covenant.updated_at,
    )


def _peer(
    party: Party, covenant: Covenant, store: Store, quarantined: Mapping[UUID, str]
) -> PeerView:
    cell = from_public_key(party.public_key)
    link = cast("Link | None", party.link)
    return PeerView(
        agent_id=party.agent_id,
        name=_name(store, cell),
        role=party.role,
        public_key=party.public_key,
        cell=cell,
        bound=bool(covenant.history and party.signature),
        quarantined=quarantined.get(party.agent_id, ""),
        link="" if link is None else link.name,
    )


def _name(store: Store, cell: CellID) -> str:
    try:
        return store.cell(cell).name
    except NotFound:
        return ""
