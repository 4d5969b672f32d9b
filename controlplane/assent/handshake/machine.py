"""The table of the UTCP state machine, as data (seed UTCP, State Machine).

What it means, and what stands beside it, is told in `assent.handshake.utcp`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assent.wire.fabric import Flags


class State(enum.Enum):
    """Where a connection stands."""

    CLOSED = "closed"
    SYN_SENT = "syn-sent"
    SYN_RCVD = "syn-rcvd"
    ESTABLISHED = "established"
    FIN_WAIT = "fin-wait"


class Input(enum.Enum):
    """What can happen to a connection."""

    CONNECT = "connect()"
    CLOSE = "close()"
    SYN = "SYN"
    SYN_ACK = "SYN-ACK"
    ACK = "ACK"
    DATA = "DATA"
    FIN = "FIN"
    TIMEOUT = "30 s timeout"


class Action(enum.Enum):
    """What a connection does about it."""

    SEND_SYN = "send SYN, start the 30 s timer"
    SEND_SYN_ACK = "send SYN-ACK"
    SEND_ACK = "send ACK, register the peer"
    READY = "connection ready"
    DELIVER = "deliver"
    SEND_FIN = "send FIN"
    ANSWER_FIN = "send ACK, clean up"
    CLEAN_UP = "clean up"
    IGNORE = "nothing"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: where an input leads, and what is done on the way."""

    next_state: State
    action: Action


TRANSITIONS: Final[Mapping[tuple[State, Input], Transition]] = MappingProxyType(
    {
        (State.CLOSED, Input.CONNECT): Transition(State.SYN_SENT, Action.SEND_SYN),
        (State.SYN_SENT, Input.SYN_ACK): Transition(State.ESTABLISHED, Action.SEND_ACK),
        (State.CLOSED, Input.SYN): Transition(State.SYN_RCVD, Action.SEND_SYN_ACK),
        (State.SYN_RCVD, Input.ACK): Transition(State.ESTABLISHED, Action.READY),
        (State.ESTABLISHED, Input.DATA): Transition(State.ESTABLISHED, Action.DELIVER),
        (State.ESTABLISHED, Input.CLOSE): Transition(State.FIN_WAIT, Action.SEND_FIN),
        (State.ESTABLISHED, Input.FIN): Transition(State.CLOSED, Action.ANSWER_FIN),
        (State.FIN_WAIT, Input.ACK): Transition(State.CLOSED, Action.CLEAN_UP),
    }
    | {(state, Input.TIMEOUT): Transition(State.CLOSED, Action.CLEAN_UP) for state in State}
)

# Taken where both sides connect at once, and only by the cell with the higher CellID.
YIELD: Final = Transition(State.SYN_RCVD, Action.SEND_SYN_ACK)

# A frame that was accepted before and comes again, byte for byte. The state stays.
REPEATS: Final[Mapping[tuple[State, Input], Action]] = MappingProxyType(
    {
        (State.SYN_RCVD, Input.SYN): Action.SEND_SYN_ACK,
        (State.ESTABLISHED, Input.SYN_ACK): Action.SEND_ACK,
        (State.ESTABLISHED, Input.ACK): Action.IGNORE,
    }
)

HANDSHAKE_INPUTS: Final[Mapping[int, Input]] = MappingProxyType(
    {
        Flags.SYN: Input.SYN,
        Flags.SYN | Flags.ACK: Input.SYN_ACK,
        Flags.ACK: Input.ACK,
    }
)
ENDING_INPUTS: Final[Mapping[int, Input]] = MappingProxyType(
    {Flags.FIN: Input.FIN, Flags.FIN | Flags.ACK: Input.ACK}
)
