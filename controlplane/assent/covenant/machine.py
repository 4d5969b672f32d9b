# SPDX-License-Identifier: Apache-2.0
"""The covenant's state machine, as data (seed TCP/UP, sections 4.1 to 4.4).

`TRANSITIONS` is the seed's complete table, row by row, in its order. What the table leaves open is
in `ADDITIONS`, each row with its reason:

- The seed's diagram has the acceptor answer the offerer's BIND with its own, and both end in
  COVENANTED; the table has no row for a BIND that arrives in ACCEPTED. Here it is noted, and
  answered; where it carried MUTUAL the covenant is active at once.
- A covenant of three or more (`MULTI_STEPS`) is active when the BIND arrives that carries
  everybody's signature. A BIND without MUTUAL changes nothing but what is known.
- An unjustified REJECT is no rejection, so the offer stands, and its timer leads out.
- Consent can be withdrawn at any time: a REVOKE without GRACEFUL ends a covenant without notice,
  and while an amendment is on the table a covenant can be revoked as before.
- A transport that is gone ends what was bound to it (seed 5.3); a durable covenant stays.
- Whoever negotiates may give up, and what AIOS has judged as malice ends a negotiation.

A pair of state and input that is in neither table is illegal: for a call, it raises; for a frame,
the frame is dropped and counted, and nothing changes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class State(enum.StrEnum):
    """The ten covenant states (seed 4.1)."""

    IDLE = "idle"
    OFFER_SENT = "offer-sent"
    OFFER_RECEIVED = "offer-received"
    DEFERRED = "deferred"
    ACCEPTED = "accepted"
    BINDING = "binding"
    COVENANTED = "covenanted"
    AMENDING = "amending"
    REVOKING = "revoking"
    TERMINATED = "terminated"


IN_FORCE: Final = frozenset({State.COVENANTED, State.AMENDING, State.REVOKING})
"""States in which the covenant's terms hold, and data may flow."""
ENDED: Final = frozenset({State.IDLE, State.TERMINATED})
"""States in which nothing is agreed and nothing is under way."""


class Input(enum.StrEnum):
    """What can happen to a covenant: a call (`send`), a frame (`receive`), time, or the link."""

    SEND_OFFER = "send OFFER"
    RECEIVE_OFFER = "receive OFFER"
    RECEIVE_ACCEPT = "receive ACCEPT"
    RECEIVE_REJECT = "receive REJECT (justified)"
    RECEIVE_BLIND_REJECT = "receive REJECT (unjustified)"
    RECEIVE_DEFER = "receive DEFER"
    OFFER_TIMEOUT = "T_offer expires"
    SEND_ACCEPT = "send ACCEPT"
    SEND_REJECT = "send REJECT"
    SEND_DEFER = "send DEFER"
    RECEIVE_INFO = "receive additional info"
    SEND_INFO = "send additional info"
    DEFER_TIMEOUT = "T_defer expires"
    DEFERRALS_SPENT = "max deferrals reached"
    SEND_BIND = "send BIND"
    RECEIVE_BIND = "receive BIND"
    RECEIVE_MUTUAL_BIND = "receive BIND (MUTUAL)"
    BIND_TIMEOUT = "T_bind expires"
    SEND_DATA = "send DATA"
    RECEIVE_DATA = "receive DATA"
    SEND_AMEND = "send AMEND"
    RECEIVE_AMEND = "receive AMEND"
    SEND_REVOKE = "send REVOKE (graceful)"
    RECEIVE_REVOKE = "receive REVOKE (graceful)"
    VIOLATION = "AIOS detects violation"
    HEARTBEAT_TIMEOUT = "T_heartbeat expires (no response)"
    AMEND_AGREED = "ACCEPT of the amendment"
    AMEND_REFUSED = "REJECT of the amendment"
    AMEND_TIMEOUT = "T_amend expires"
    NOTICE_EXPIRED = "notice period expires"
    ALL_CONFIRMED = "all agents confirm termination"
    REVOKE_NOW = "REVOKE (not graceful)"
    REVIEW = "REVIEW"
    HEARTBEAT = "HEARTBEAT"
    LINK_LOST = "transport closed"
    WITHDRAW = "withdrawn"


class Action(enum.StrEnum):
    """What a transition does besides changing the state."""

    START_OFFER = "transmit OFFER, start T_offer"
    EVALUATE = "parse terms, begin evaluation"
    PREPARE_BIND = "verify signature, prepare BIND"
    LOG_REJECTION = "log justification"
    REPORT_BLIND = "log, send VIOLATION"
    PARSE_QUESTIONS = "parse questions, start T_defer"
    LOG_TIMEOUT = "log, notify"
    START_BIND = "transmit BIND, start T_bind"
    TRANSMIT = "transmit"
    REEVALUATE = "evaluate with the new evidence"
    RESUME_OFFER = "start T_offer again"
    NOTE_BIND = "note the signature"
    ANSWER_BIND = "note the signature, answer with BIND"
    ACTIVATE = "covenant is active, start T_heartbeat"
    PROPOSE = "transmit AMEND, start T_amend"
    EVALUATE_AMEND = "evaluate the amendment, start T_amend"
    BEGIN_NOTICE = "begin notice period"
    RESPOND = "send VIOLATION, respond by class"
    UPDATE = "update covenant, increment version"
    REVERT = "revert to current terms"
    END = "agents revert to isolation"
    NONE = "none"


Transition = tuple[State, Action]
Table = Mapping[tuple[State, Input], Transition]

TRANSITIONS: Final[Table] = MappingProxyType(
    {
        (State.IDLE, Input.SEND_OFFER): (State.OFFER_SENT, Action.START_OFFER),
        (State.IDLE, Input.RECEIVE_OFFER): (State.OFFER_RECEIVED, Action.EVALUATE),
        (State.OFFER_SENT, Input.RECEIVE_ACCEPT): (State.ACCEPTED, Action.PREPARE_BIND),
        (State.OFFER_SENT, Input.RECEIVE_REJECT): (State.IDLE, Action.LOG_REJECTION),
        (State.OFFER_SENT, Input.RECEIVE_BLIND_REJECT): (State.OFFER_SENT, Action.REPORT_BLIND),
        (State.OFFER_SENT, Input.RECEIVE_DEFER): (State.DEFERRED, Action.PARSE_QUESTIONS),
        (State.OFFER_SENT, Input.OFFER_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        (State.OFFER_RECEIVED, Input.SEND_ACCEPT): (State.ACCEPTED, Action.TRANSMIT),
        (State.OFFER_RECEIVED, Input.SEND_REJECT): (State.IDLE, Action.TRANSMIT),
        (State.OFFER_RECEIVED, Input.SEND_DEFER): (State.DEFERRED, Action.PARSE_QUESTIONS),
        (State.DEFERRED, Input.RECEIVE_INFO): (State.OFFER_RECEIVED, Action.REEVALUATE),
        (State.DEFERRED, Input.SEND_INFO): (State.OFFER_SENT, Action.RESUME_OFFER),
        (State.DEFERRED, Input.DEFER_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        (State.DEFERRED, Input.DEFERRALS_SPENT): (State.IDLE, Action.LOG_TIMEOUT),
        (State.ACCEPTED, Input.SEND_BIND): (State.BINDING, Action.START_BIND),
        (State.BINDING, Input.RECEIVE_MUTUAL_BIND): (State.COVENANTED, Action.ACTIVATE),
        (State.BINDING, Input.BIND_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        (State.COVENANTED, Input.SEND_DATA): (State.COVENANTED, Action.TRANSMIT),
        (State.COVENANTED, Input.RECEIVE_DATA): (State.COVENANTED, Action.NONE),
        (State.COVENANTED, Input.SEND_AMEND): (State.AMENDING, Action.PROPOSE),
        (State.COVENANTED, Input.RECEIVE_AMEND): (State.AMENDING, Action.EVALUATE_AMEND),
        (State.COVENANTED, Input.SEND_REVOKE): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.COVENANTED, Input.RECEIVE_REVOKE): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.COVENANTED, Input.VIOLATION): (State.COVENANTED, Action.RESPOND),
        (State.COVENANTED, Input.HEARTBEAT_TIMEOUT): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.AMENDING, Input.AMEND_AGREED): (State.COVENANTED, Action.UPDATE),
        (State.AMENDING, Input.AMEND_REFUSED): (State.COVENANTED, Action.REVERT),
        (State.AMENDING, Input.AMEND_TIMEOUT): (State.COVENANTED, Action.REVERT),
        (State.REVOKING, Input.NOTICE_EXPIRED): (State.TERMINATED, Action.END),
        (State.REVOKING, Input.ALL_CONFIRMED): (State.TERMINATED, Action.END),
        (State.TERMINATED, Input.SEND_OFFER): (State.OFFER_SENT, Action.START_OFFER),
    }
)
"""The seed's complete table (4.3)."""

ADDITIONS: Final[Table] = MappingProxyType(
    {
        # The acceptor's half of the handshake, and covenants of more than two.
        (State.ACCEPTED, Input.RECEIVE_BIND): (State.BINDING, Action.ANSWER_BIND),
        (State.ACCEPTED, Input.RECEIVE_MUTUAL_BIND): (State.BINDING, Action.ANSWER_BIND),
        (State.BINDING, Input.RECEIVE_BIND): (State.BINDING, Action.NOTE_BIND),
        (State.ACCEPTED, Input.BIND_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        # The offer that waits for its evaluation does not wait for ever.
        (State.OFFER_RECEIVED, Input.OFFER_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        # The old terms hold while new ones are on the table.
        (State.AMENDING, Input.SEND_DATA): (State.AMENDING, Action.TRANSMIT),
        (State.AMENDING, Input.RECEIVE_DATA): (State.AMENDING, Action.NONE),
        (State.AMENDING, Input.SEND_REVOKE): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.AMENDING, Input.RECEIVE_REVOKE): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.AMENDING, Input.HEARTBEAT_TIMEOUT): (State.REVOKING, Action.BEGIN_NOTICE),
        (State.AMENDING, Input.VIOLATION): (State.AMENDING, Action.RESPOND),
        # And during the notice.
        (State.REVOKING, Input.SEND_DATA): (State.REVOKING, Action.TRANSMIT),
        (State.REVOKING, Input.RECEIVE_DATA): (State.REVOKING, Action.NONE),
        (State.REVOKING, Input.SEND_REVOKE): (State.REVOKING, Action.TRANSMIT),
        (State.REVOKING, Input.RECEIVE_REVOKE): (State.REVOKING, Action.NONE),
        (State.REVOKING, Input.VIOLATION): (State.REVOKING, Action.RESPOND),
        # Consent withdrawn without notice.
        **{
            (state, Input.REVOKE_NOW): (State.TERMINATED, Action.END)
            for state in (State.COVENANTED, State.AMENDING, State.REVOKING)
        },
        # What is said of a covenant without changing it.
        **{
            (state, what): (state, Action.NONE)
            for state in (State.COVENANTED, State.AMENDING, State.REVOKING)
            for what in (Input.REVIEW, Input.HEARTBEAT)
        },
        # What a lost transport, a change of mind or a verdict of malice does to a negotiation,
        **{
            (state, what): (State.IDLE, Action.LOG_TIMEOUT)
            for state in (
                State.OFFER_SENT,
                State.OFFER_RECEIVED,
                State.DEFERRED,
                State.ACCEPTED,
                State.BINDING,
            )
            for what in (Input.LINK_LOST, Input.WITHDRAW)
        },
        # and to a covenant that is not durable.
        **{
            (state, Input.LINK_LOST): (State.TERMINATED, Action.END)
            for state in (State.COVENANTED, State.AMENDING, State.REVOKING)
        },
    }
)
"""What the table leaves open."""

STEPS: Final[Table] = MappingProxyType({**TRANSITIONS, **ADDITIONS})
"""Both."""

MULTI_STEPS: Final[Table] = MappingProxyType(
    {
        (State.ACCEPTED, Input.RECEIVE_ACCEPT): (State.ACCEPTED, Action.PREPARE_BIND),
        (State.ACCEPTED, Input.RECEIVE_REJECT): (State.IDLE, Action.LOG_REJECTION),
        (State.ACCEPTED, Input.RECEIVE_BLIND_REJECT): (State.ACCEPTED, Action.REPORT_BLIND),
        (State.ACCEPTED, Input.RECEIVE_DEFER): (State.DEFERRED, Action.PARSE_QUESTIONS),
        (State.ACCEPTED, Input.OFFER_TIMEOUT): (State.IDLE, Action.LOG_TIMEOUT),
        (State.DEFERRED, Input.RECEIVE_ACCEPT): (State.DEFERRED, Action.PREPARE_BIND),
        (State.DEFERRED, Input.RECEIVE_REJECT): (State.IDLE, Action.LOG_REJECTION),
        (State.DEFERRED, Input.RECEIVE_BLIND_REJECT): (State.DEFERRED, Action.REPORT_BLIND),
        (State.DEFERRED, Input.RECEIVE_DEFER): (State.DEFERRED, Action.PARSE_QUESTIONS),
    }
)
"""The offerer of three or more, where each acceptor answers in its own time."""
