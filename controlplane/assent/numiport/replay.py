# SPDX-License-Identifier: Apache-2.0
"""The replay window of one peer's stream (seed 5.3, appendix A): no packet is taken twice.

The window itself is C, the gate's own (bpf/include/assent/numi_replay.h says how it works).
"""

from __future__ import annotations

from typing import Final

from assent._numi import ffi, lib
from assent.errors import InvalidArgument
from assent.numiport.wire import Fault, NumiportError

SLOTS: Final[int] = lib.ASSENT_NUMI_REPLAY_SLOTS
SLOTS_MAX: Final[int] = lib.ASSENT_NUMI_REPLAY_SLOTS_MAX
SEQS: Final[int] = lib.ASSENT_NUMI_REPLAY_SEQS
SEQS_MAX: Final[int] = lib.ASSENT_NUMI_REPLAY_SEQS_MAX
NO_CLOCK: Final = (1 << 64) - 1
"""As `latest`: no slot is in the future."""

_PROBLEMS: Final = {
    Fault.REPLAY: "a packet that was seen before, or whose number is beyond the window's",
    Fault.STALE_SLOT: "a packet of a slot that has left the window",
    Fault.FUTURE_SLOT: "a packet of a slot that is too far ahead",
}


class ReplayWindow:
    """The numbers that were taken of the newest slots.

    Args:
        first: The first slot that it takes packets of. Who was started anew does not know what it
            had taken before, and begins with the slot after the present one.
        slots: W, how many slots it spans: 4 to 64.
        seqs: Numbers of each slot that it remembers: a power of two, 32 to 65,536. What goes
            beyond is refused.

    Raises:
        InvalidArgument: There is no such window.
    """

    __slots__ = ("_window", "slots")

    def __init__(self, first: int, slots: int = SLOTS, seqs: int = SEQS) -> None:
        if not SLOTS <= slots <= SLOTS_MAX:
            raise InvalidArgument("slots", f"needs {SLOTS} to {SLOTS_MAX}, got {slots}")
        if not 32 <= seqs <= SEQS_MAX or seqs & (seqs - 1):
            raise InvalidArgument("seqs", f"needs a power of two, 32 to {SEQS_MAX}, got {seqs}")
        window = lib.numi_replay_new(slots, seqs, first)
        if window == ffi.NULL:
            raise MemoryError
        self._window = ffi.gc(window, lib.numi_replay_free)
        self.slots = slots

    @property
    def newest(self) -> int:
        """What is `slots` older is stale: the newest slot that was heard, from the first W on.

        It never falls.
        """
        return int(lib.numi_replay_newest(self._window))

    def check(self, slot: int, seq: int, latest: int = NO_CLOCK) -> None:
        """Checks that a packet would be taken; changes nothing.

        Args:
            slot: Its slot.
            seq: Its number within slot and stream.
            latest: The newest slot that can be, by the caller's clock.

        Raises:
            NumiportError: REPLAY, STALE_SLOT or FUTURE_SLOT.
        """
        self._judge(lib.numi_replay_check(self._window, slot, seq, latest))

    def take(self, slot: int, seq: int, latest: int = NO_CLOCK) -> None:
        """Takes a packet after all else about it was verified, and refuses it from then on.

        Raises:
            NumiportError: REPLAY, STALE_SLOT or FUTURE_SLOT; nothing has changed.
        """
        self._judge(lib.numi_replay_take(self._window, slot, seq, latest))

    def count(self, slot: int) -> int:
        """How many packets of a slot were taken; 0 for a slot outside the window."""
        return int(lib.numi_replay_count(self._window, slot))

    def occupancy(self) -> int:
        """How many packets of all slots in the window were taken."""
        newest = self.newest
        return sum(self.count(slot) for slot in range(max(0, newest - self.slots + 1), newest + 1))

    def _judge(self, verdict: int) -> None:
        if verdict:
            fault = Fault(verdict)
            raise NumiportError(fault, _PROBLEMS[fault])
