# SPDX-License-Identifier: Apache-2.0
"""Records: what the opened payload of a data frame consists of (docs/wire-fabric.md).

A head of two bytes (MORE, END, 14 bits of length), then so many bytes; record after record, to the
end. A message is what the records up to the first one without MORE carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assent.errors import RemoteError

MORE: Final = 0x8000
END: Final = 0x4000
HEAD_LEN: Final = 2
_LENGTH: Final = 0x3FFF


class RecordError(RemoteError):
    """A payload that is no sequence of records."""


@dataclass(frozen=True, slots=True)
class Record:
    """A part of a message, or the end of all.

    Attributes:
        data: The part.
        more: Whether the message goes on in the next data frame.
        end: Whether no message follows, ever.
    """

    data: bytes
    more: bool = False
    end: bool = False


def decode_records(plain: bytes) -> tuple[Record, ...]:
    """Reads an opened payload, to its last byte.

    Raises:
        RecordError: It is empty, a record runs over its end, MORE is not on the last record, or
            END comes with anything else.
    """
    records: list[Record] = []
    at = 0
    while at < len(plain) or not records:
        if at + HEAD_LEN > len(plain):
            raise RecordError("a payload ends within the head of a record")
        if records and (records[-1].more or records[-1].end):
            raise RecordError("a record after the last one")
        head = int.from_bytes(plain[at : at + HEAD_LEN], "big")
        at += HEAD_LEN
        length = head & _LENGTH
        if head & END and head != END:
            raise RecordError("an end that carries something")
        if at + length > len(plain):
            raise RecordError("a record runs over the end of its payload")
        records.append(Record(plain[at : at + length], bool(head & MORE), bool(head & END)))
        at += length
    return tuple(records)
