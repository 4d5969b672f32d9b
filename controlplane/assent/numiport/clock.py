# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Slot:
    """A slot in time.

    Attributes:
        number: Absolute.
        start: ns, CLOCK_TAI or virtual.
        length: ns.
    """

    number: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """When the next one starts, ns."""
        return self.start + self.length
