# SPDX-License-Identifier: Apache-2.0
"""COVENANT: TCP/UP over flow 0, in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import U64_MAX, check_int, from_peer, take

BEYOND_LEN: Final = 8


@dataclass(frozen=True, slots=True)
class CovenantPiece:
    """A part of a TCP/UP frame.

    Attributes:
        number: Counts the pieces between two incarnations, from 0, over all frames; 64 bits.
        last: Whether its frame ends with it.
        data: At least one byte, as many as fit.
    """

    number: int
    last: bool
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_int("number", self.number, 0, U64_MAX)
        if not self.data:
            raise InvalidArgument("data", "must not be empty")

    def to_body(self) -> dict[str, object]:
        """The piece as a CBOR map."""
        return {"number": self.number, "last": self.last, "data": self.data}

    @classmethod
    def from_body(cls, body: object) -> CovenantPiece:
        """Reads a piece.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        number, last = take(body, "number", int), take(body, "last", bool)
        data = take(body, "data", bytes)
        return from_peer(lambda: cls(number, last, data))


@dataclass(frozen=True, slots=True)
class CovenantParcel:
    """Carries TCP/UP over flow 0 (COVENANT): what has arrived, and perhaps one piece more.

    Attributes:
        sender: The incarnation that speaks: 64 random bits, not 0, new whenever it has forgotten
            what was said.
        receiver: The incarnation that it speaks to; 0 = not known yet, and nothing but this.
        next: The first piece that has not arrived.
        beyond: Bit i of byte i / 8, from the least significant on, says that piece `next + 1 + i`
            has; at most 8 bytes.
        piece: None where there is only to acknowledge.
    """

    sender: int
    receiver: int
    next: int = 0
    beyond: bytes = b""
    piece: CovenantPiece | None = None

    def __post_init__(self) -> None:
        check_int("from", self.sender, 1, U64_MAX)
        check_int("to", self.receiver, 0, U64_MAX)
        check_int("next", self.next, 0, U64_MAX)
        if len(self.beyond) > BEYOND_LEN:
            raise InvalidArgument("beyond", f"must have at most {BEYOND_LEN} bytes")

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {
            "from": self.sender,
            "to": self.receiver,
            "next": self.next,
            "beyond": self.beyond,
        }
        if self.piece is not None:
            body["piece"] = self.piece.to_body()
        return body

    @classmethod
    def from_body(cls, body: object) -> CovenantParcel:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        sender, receiver = take(body, "from", int), take(body, "to", int)
        arrived, beyond = take(body, "next", int), take(body, "beyond", bytes)
        piece = None
        if isinstance(body, dict) and "piece" in body:
            piece = CovenantPiece.from_body(body["piece"])
        return from_peer(lambda: cls(sender, receiver, arrived, beyond, piece))
