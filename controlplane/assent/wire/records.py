# SPDX-License-Identifier: Apache-2.0
"""Records: what the opened payload of a data frame consists of (docs/wire-fabric.md).

A head of two bytes (MORE, END, 14 bits of length), then so many bytes; record after record, to the
end. A message is what the records up to the first one without MORE carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assent._native import ffi, lib
from assent.errors import RemoteError

_HEAD_LEN: Final = 2
_FAULTS: Final = {
    lib.AN_RECORDS_FINE: "more records than a frame holds",
    lib.AN_RECORDS_SHORT: "a payload ends within the head of a record",
    lib.AN_RECORDS_OVERRUN: "a record runs over the end of its payload",
    lib.AN_RECORDS_END: "an end that carries something",
    lib.AN_RECORDS_FOLLOWED: "a record after the last one",
}


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
    most = len(plain) // _HEAD_LEN
    spans = ffi.new("uint32_t[]", 3 * most)
    count = lib.an_records_split(plain, len(plain), True, spans, most)
    if count < 0:
        raise RecordError(_FAULTS[lib.an_records_fault(plain, len(plain), True)])
    found = ffi.unpack(spans, 3 * count) if count else []
    return tuple(
        Record(
            plain[start : start + length],
            more=bool(flags & lib.AN_RECORD_MORE),
            end=bool(flags & lib.AN_RECORD_END),
        )
        for start, length, flags in zip(found[::3], found[1::3], found[2::3], strict=True)
    )
