# SPDX-License-Identifier: Apache-2.0
"""A covenant as bytes, for the store, and back.

The bytes are this program's own: canonical CBOR, read by no peer. Secrets are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import cbor2

from assent.covenant.agreement import Amendment, Covenant, Party, Version
from assent.covenant.machine import State
from assent.covenant.payloads import (
    Clause,
    CovenantObject,
    Defer,
    Duration,
    ExitProtocol,
    Reject,
    Rotation,
)
from assent.covenant.terms import TermSet, Timers
from assent.covenant.values import Proposal

_FORMAT: Final = 1


def dump(covenant: Covenant) -> bytes:
    """All that must be known of a covenant after a restart, and for its history."""
    body = {
        "format": _FORMAT,
        "handle": covenant.handle,
        "agent": covenant.agent_id.bytes,
        "key": covenant.public_key,
        "role": covenant.role,
        "initiator": covenant.initiator,
        "proposal": _proposal_body(covenant.proposal),
        "parties": [_party_body(party) for party in covenant.parties.values()],
        "order": [agent.bytes for agent in covenant.order],
        "state": covenant.state.value,
        "id": covenant.covenant_id,
        "history": [_version_body(version) for version in covenant.history],
        "past": [[_version_body(version) for version in versions] for versions in covenant.past],
        "deferrals": covenant.deferrals,
        "tx": [covenant.tx_sequence, covenant.tx_time],
        "amendment": _amendment_body(covenant.amendment) if covenant.amendment else None,
        "lapsed": [_amendment_body(one) for one in covenant.lapsed],
        "signature": covenant.signature,
        "leaving": covenant.leaving,
        "notice_ends": covenant.notice_ends,
        "questions": covenant.questions.to_body() if covenant.questions else None,
        "rejection": covenant.rejection.to_body() if covenant.rejection else None,
        "reason": covenant.reason,
        "updated_at": covenant.updated_at,
        "suspended_by": sorted(agent.bytes for agent in covenant.suspended_by),
    }
    return cbor2.dumps(body, canonical=True)


def load(raw: bytes) -> Covenant:
    """What `dump` wrote; without transports and timers.

    Raises:
        ValueError: It is of another format.
        RemoteError: It has been tampered with.
    """
    body: Mapping[str, Any] = cbor2.loads(raw)
    if body["format"] != _FORMAT:
        raise ValueError(f"a covenant of format {body['format']}, this program knows {_FORMAT}")
    parties = [_party(one) for one in body["parties"]]
    history = [_version(one) for one in body["history"]]
    proposal = _proposal(body["proposal"])
    return Covenant(
        body["handle"],
        UUID(bytes=body["agent"]),
        body["key"],
        body["role"],
        body["initiator"],
        proposal,
        {party.agent_id: party for party in parties},
        tuple(UUID(bytes=agent) for agent in body["order"]),
        state=State(body["state"]),
        covenant_id=body["id"],
        document=history[-1].draft if history else None,
        history=history,
        past=[tuple(_version(one) for one in versions) for versions in body["past"]],
        timers=Timers.of(proposal.terms),
        deferrals=body["deferrals"],
        tx_sequence=body["tx"][0],
        tx_time=body["tx"][1],
        amendment=_amendment(body["amendment"]) if body["amendment"] else None,
        lapsed=[_amendment(one) for one in body["lapsed"]],
        signature=body["signature"],
        leaving=body["leaving"],
        notice_ends=body["notice_ends"],
        questions=Defer.from_body(body["questions"]) if body["questions"] else None,
        rejection=Reject.from_body(body["rejection"]) if body["rejection"] else None,
        reason=body["reason"],
        updated_at=body["updated_at"],
        suspended_by={UUID(bytes=agent) for agent in body["suspended_by"]},
    )


def _proposal_body(proposal: Proposal) -> dict[str, object]:
    return {
        "terms": proposal.terms.to_body(),
        "duration": proposal.duration.to_body(),
        "clauses": [clause.to_body() for clause in proposal.misericordia_clauses],
        "exit": proposal.exit_protocol.to_body(),
        "durable": proposal.durable,
    }


def _proposal(body: Mapping[str, Any]) -> Proposal:
    return Proposal(
        TermSet.from_body(body["terms"]),
        Duration.from_body(body["duration"]),
        tuple(Clause.from_body(clause) for clause in body["clauses"]),
        ExitProtocol.from_body(body["exit"]),
        body["durable"],
    )


def _party_body(party: Party) -> dict[str, object]:
    return {
        "agent": party.agent_id.bytes,
        "role": party.role,
        "key": party.public_key,
        "former_key": party.former_key,
        "capabilities": list(party.capabilities),
        "rx": [party.rx_sequence, party.rx_time, party.rx_signature],
        "id": party.covenant_id,
        "signature": party.signature,
        "leaving": party.leaving,
        "url": party.url,
    }


def _party(body: Mapping[str, Any]) -> Party:
    return Party(
        UUID(bytes=body["agent"]),
        body["role"],
        body["key"],
        tuple(body["capabilities"]),
        rx_sequence=body["rx"][0],
        rx_time=body["rx"][1],
        rx_signature=body["rx"][2],
        covenant_id=body["id"],
        signature=body["signature"],
        former_key=body["former_key"],
        leaving=body["leaving"],
        url=body["url"],
    )


def _version_body(version: Version) -> dict[str, object]:
    rotation = version.rotation.to_body() if version.rotation else None
    return {"object": version.document.to_body(), "rotation": rotation}


def _version(body: Mapping[str, Any]) -> Version:
    rotation = Rotation.from_body(body["rotation"]) if body["rotation"] else None
    return Version.of(CovenantObject.from_body(body["object"]), rotation)


def _amendment_body(amendment: Amendment) -> dict[str, object]:
    return {
        "proposer": amendment.proposer.bytes,
        "object": amendment.document.to_body(),
        "sequence": amendment.sequence,
        "signatures": {str(agent): each for agent, each in amendment.signatures.items()},
        "rotation": amendment.rotation.to_body() if amendment.rotation else None,
    }


def _amendment(body: Mapping[str, Any]) -> Amendment:
    return Amendment(
        UUID(bytes=body["proposer"]),
        CovenantObject.from_body(body["object"]),
        {UUID(agent): each for agent, each in body["signatures"].items()},
        Rotation.from_body(body["rotation"]) if body["rotation"] else None,
        body["sequence"],
    )
