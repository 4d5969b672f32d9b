# SPDX-License-Identifier: Apache-2.0
"""Consent of a local cell to hear from a remote one, and what it opens in the gate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class GateBits:
    """The consent bits of a session entry.

    Attributes:
        covenanted: The local cell agreed to hear from the remote one.
        quarantined: And has suspended that.
        control: Flow 0 and handshakes are heard whatever the other two say: covenants are
            negotiated, reviewed and revoked there.
    """

    covenanted: bool
    quarantined: bool
    control: bool = False


class Consent(Enum):
    """What a local cell has agreed to; the value is how the store spells it."""

    NONE = "none"
    """Known, so that it can be refused by name; nothing of it is admitted."""
    STANDING = "standing"
    """Agreed to by this host's operator."""
    QUARANTINED = "quarantined"
    """Agreed to before, and suspended."""
    COVENANT = "covenant"
    """What its covenants say, and until there is one, nothing but negotiation."""

    @property
    def bits(self) -> GateBits:
        """What the gate is told; of a negotiated one, while no covenant is in force."""
        return GateBits(
            covenanted=self in {Consent.STANDING, Consent.QUARANTINED},
            quarantined=self is Consent.QUARANTINED,
            control=self is Consent.COVENANT,
        )

    @property
    def admits(self) -> bool:
        """Whether handshakes and flow 0 of the remote cell may pass."""
        return self in {Consent.STANDING, Consent.COVENANT}

    @property
    def is_negotiated(self) -> bool:
        """Whether covenants decide, and not this host's operator."""
        return self is Consent.COVENANT
