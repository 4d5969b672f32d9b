"""The CellID: a 128-bit name for a node, independent of any address.

Source: seed UTCP, Identity-Centric Addressing. How one is derived from a MAC address or from a key
is the business of `assent.identity.cellid`; on the wire it is 16 opaque bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument

CELLID_LEN: Final = 16

_HEX_DIGITS: Final = re.compile(r"[0-9A-Fa-f]+")


@dataclass(frozen=True, slots=True, order=True, repr=False)
class CellID:
    """One node's name. Ordered as a big-endian number, which is also byte order.

    Attributes:
        raw: The 16 bytes as they stand in a header.

    Raises:
        InvalidArgument: `raw` does not have 16 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != CELLID_LEN:
            raise InvalidArgument("cell_id", f"needs {CELLID_LEN} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> CellID:
        """Reads 32 hexadecimal digits.

        The digits may stand in groups of whole bytes, set apart by single colons or single dashes
        (not both).

        Raises:
            InvalidArgument: The text is anything else.
        """
        groups = text.split(":" if ":" in text else "-")
        digits = "".join(groups)
        if (
            len(digits) != 2 * CELLID_LEN
            or not _HEX_DIGITS.fullmatch(digits)
            or any(not group or len(group) % 2 for group in groups)
        ):
            raise InvalidArgument("cell_id", "must be 32 hexadecimal digits")
        return cls(bytes.fromhex(digits))

    @property
    def short(self) -> str:
        """The first 8 hexadecimal digits: enough to tell cells apart in a log, not an identity."""
        return self.raw[:4].hex()

    def __bytes__(self) -> bytes:
        return self.raw

    def __repr__(self) -> str:
        return f"CellID({self})"

    def __str__(self) -> str:
        return self.raw.hex()
