# SPDX-License-Identifier: Apache-2.0
"""Consent of a local cell to hear from a remote one, and what it opens in the gate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class GateBits:
    """The two consent bits of a session entry.

    Attributes:
        covenanted: The local cell agreed to hear from the remote one.
        quarantined: And has suspended that.
    """

    covenanted: bool
    quarantined: bool


class Consent(Enum):
    """What a local cell has agreed to; the value is how the store spells it."""

    NONE = "none"
    """Known, so that it can be refused by name; nothing of it is admitted."""
    STANDING = "standing"
    """Agreed to by this host's operator."""
    QUARANTINED = "quarantined"
    """Agreed to before, and suspended."""

    @property
    def bits(self) -> GateBits:
        """What the gate is told."""
        return GateBits(
            covenanted=self is not Consent.NONE,
            quarantined=self is Consent.QUARANTINED,
        )

    @property
    def admits(self) -> bool:
        """Whether any frame of the remote cell may pass."""
        return self is Consent.STANDING
