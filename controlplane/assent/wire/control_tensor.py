# SPDX-License-Identifier: Apache-2.0
"""TENSOR: bytes for a registered memory region (seed UTCP, Tensor Extensions)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import (
    U64_MAX,
    check_answer,
    check_int,
    check_text,
    from_peer,
    put_answer,
    take,
    take_all,
    take_answer,
)

MAX_REGION: Final = 255
MAX_DIMENSIONS: Final = 16
TENSOR_SIZE_MAX: Final = (1 << 63) - 1

# What the array interface calls a typestr, of plain numbers alone; one spelling each.
_DTYPE: Final = re.compile(r"\|[biu]1|[<>](?:[iu][248]|f(?:2|4|8|16)|c(?:8|16|32))")


def item_size(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        InvalidArgument: It is no dtype of plain numbers, like "<f4".
    """
    if not _DTYPE.fullmatch(dtype):
        raise InvalidArgument("dtype", "must be of plain numbers, like <f4")
    return int(dtype[2:])


@dataclass(frozen=True, slots=True)
class Tensor:
    """Announces the next message as bytes of a region, or answers it (TENSOR).

    Attributes:
        name: The region; 1 to 255 bytes.
        dtype: Of the whole region: "<f4" and the like.
        shape: Of the whole region, at most 16 dimensions; its bytes fit 63 bits.
        offset: Where the bytes belong, from the region's beginning in C order; whole elements.
        size: How many there are; whole elements.
        accepted: None in an announcement; in its answer, whether the bytes are in place.
        reason: For people; in a refusal alone; at most 255 bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    accepted: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        check_text("name", self.name, 1, MAX_REGION)
        each = item_size(self.dtype)
        if len(self.shape) > MAX_DIMENSIONS:
            raise InvalidArgument("shape", f"must have at most {MAX_DIMENSIONS} dimensions")
        for length in self.shape:
            check_int("shape", length, 0, U64_MAX)
        if math.prod(self.shape) * each > TENSOR_SIZE_MAX:
            raise InvalidArgument("shape", "is too large")
        check_int("offset", self.offset, 0, self.region_size)
        check_int("size", self.size, 0, self.region_size - self.offset)
        if self.offset % each or self.size % each:
            raise InvalidArgument("offset", "and size must be whole elements")
        check_answer(self.accepted, self.reason)

    @property
    def region_size(self) -> int:
        """Bytes of the whole region."""
        return math.prod(self.shape) * item_size(self.dtype)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        body: dict[str, object] = {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "offset": self.offset,
            "size": self.size,
        }
        return put_answer(body, self.accepted, self.reason)

    @classmethod
    def from_body(cls, body: object) -> Tensor:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        name, dtype = take(body, "name", str), take(body, "dtype", str)
        shape = take_all(body, "shape", int)
        offset, size = take(body, "offset", int), take(body, "size", int)
        accepted, reason = take_answer(body)
        return from_peer(lambda: cls(name, dtype, shape, offset, size, accepted, reason))
