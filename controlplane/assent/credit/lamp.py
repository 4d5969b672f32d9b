# SPDX-License-Identifier: Apache-2.0
"""Lamp: what may be said where no grant stands, and what the answer is paid with (seed Tether).

A frame with LAMP needs no credit: it is charged to an allowance that its receiver keeps for each
sender, small and refilled as time passes, with the gate's own arithmetic (a theoretical arrival
time: each block an interval after the one before, ahead of the clock by the burst at the most).

Its `grant` field funds the answer. That is no mere number: the answer's sender takes what is
granted beyond the window for receipts, so the answer is funded by a window, and the window is
reserved like any other. One answer's worth stands at a time, so that is all that a Lamp can make
anybody keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control import MTU_MIN
from assent.wire.fabric import BLOCK_LEN

SECOND: Final = 1_000_000_000
LAMP_CAP: Final = "lamp"
"""The capability with which a host says that frames under LAMP are heard."""
BLOCKS_DEFAULT: Final = 64
FRAME_BLOCKS_MAX: Final = 16
"""The largest frame that is sent under LAMP."""
_BLOCKS_MAX: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class LampAllowance:
    """What one sender may say without credit.

    Attributes:
        rate: Blocks a second; 0 = nothing may be.
        burst: Blocks at once.

    Raises:
        InvalidArgument: A number is out of range, or there is a rate and no frame fits.
    """

    rate: int = BLOCKS_DEFAULT
    burst: int = BLOCKS_DEFAULT

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= _BLOCKS_MAX:
            raise InvalidArgument("lamp_blocks_per_second", f"needs 0 to {_BLOCKS_MAX}")
        least = 2 if self.rate else 0  # a header, and something to say
        if not least <= self.burst <= _BLOCKS_MAX:
            raise InvalidArgument("lamp_burst_blocks", f"needs {least} to {_BLOCKS_MAX}")

    @property
    def is_lit(self) -> bool:
        """Whether anything may be said at all."""
        return self.rate > 0

    @property
    def interval_ns(self) -> int:
        """What a block costs, ns; as the gate is told."""
        return SECOND // self.rate if self.rate else SECOND

    @property
    def burst_ns(self) -> int:
        """How far a sender may run ahead, ns; as the gate is told."""
        return self.burst * self.interval_ns if self.rate else 0


def reply_window(mtu: int) -> int:
    """The window that funds one answer: a frame as large as the link takes, blocks.

    Args:
        mtu: The largest fabric frame that both sides take, bytes.
    """
    return max(mtu, MTU_MIN) // BLOCK_LEN


def funds_reply(*, lit_by_peer: bool, our_window: int, their_window: int) -> bool:
    """Whether a flow needs a window for an answer: we may speak only under LAMP, and have none.

    Args:
        lit_by_peer: The peer hears frames under LAMP.
        our_window: What we grant, blocks.
        their_window: What the peer grants.
    """
    return lit_by_peer and their_window == 0 and our_window == 0
