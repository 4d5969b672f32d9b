# SPDX-License-Identifier: Apache-2.0
"""Names of the gate's verdicts, from the one list of them: enum assent_reason in reason.h.

"admitted" is number 0; every other name is a reason to refuse: "bad_tag", "no_credit".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assent.dataplane.btf import Btf
from assent.dataplane.objects import packaged
from assent.errors import InvalidArgument

ADMITTED = "admitted"
_PREFIXES = ("ASSENT_DROP_", "ASSENT_")
_COUNT = "ASSENT_REASON_COUNT"


@dataclass(frozen=True, slots=True)
class Reasons:
    """The verdicts of one compiled gate.

    Attributes:
        names: by number.
    """

    names: tuple[str, ...]

    @classmethod
    def from_btf(cls, btf: Btf) -> Reasons:
        """Reads the enumeration; numbers without a name would be a fault in the object."""
        numbers = btf.enum("assent_reason")
        count = numbers.pop(_COUNT)
        by_number = {number: _plain(name) for name, number in numbers.items()}
        return cls(tuple(by_number[number] for number in range(count)))

    def name(self, number: int) -> str:
        """Returns a verdict's name; one that a newer gate knows comes back as "reason_<number>"."""
        if 0 <= number < len(self.names):
            return self.names[number]
        return f"reason_{number}"

    def number(self, name: str) -> int:
        """Returns a verdict's number.

        Raises:
            InvalidArgument: there is no such verdict.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise InvalidArgument(
                "reason", f"{name!r} is none of {', '.join(self.names)}"
            ) from None


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).lower()
    return name.lower()


@cache
def reasons(object_path: Path | None = None) -> Reasons:
    """Returns the verdicts of the packaged gate, or of another object; read once.

    Raises:
        NotFound: the object has not been built.
    """
    return Reasons.from_btf(Btf.from_object(object_path or packaged("gate")))
