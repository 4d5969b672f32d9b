# SPDX-License-Identifier: Apache-2.0
"""A window that changes while its flow is in use, without I/O: both halves.

A grant is a receipt too: the sender takes (granted - window) to be consumed, and lets go of it. So
the window that it reckons with must never be less than what the receiver still owes:

    granted - consumed  <=  the sender's window                                            (1)

The receiver grants up to consumed + window, and so keeps (1) in every order of events by this:

    wider      the sender is told first; the receiver's own window follows its answer
    narrower   the receiver's own window is lowered first. What was promised before stays promised
               until it is used: the sender is told less and less, as it is seen to be used up

What is owed cannot be read from the line, as that does not say what is consumed; `FlowWindow`
bounds it from above. Nothing here must be remembered over a crash but that bound: the windows stand
in the line of either side, and telling a window again is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from assent.errors import InvalidArgument

SECOND: Final = 1_000_000_000
SETTLED: Final = SECOND
"""After so long nobody reckons any more with a window that was replaced, ns: an endpoint reads it
each time that it grants."""
LOOK: Final = SECOND // 4
"""Between two looks at a flow whose window is being narrowed, ns."""
ASK_FIRST: Final = SECOND // 5
ASK_MAX: Final = 60 * SECOND
_NUMBERS: Final = 1 << 32
_HALF: Final = 1 << 31


class Line(Protocol):
    """What is read of a flow's line; see `struct assent_flow`."""

    rx_granted: int
    rx_spent: int
    rx_highest: int
    rx_next: int


@dataclass(frozen=True, slots=True)
class Books:
    """One look at a receiver's books: cumulative blocks, and sequence numbers.

    Attributes:
        granted: Promised to the sender.
        spent: Charged as it arrived.
        highest: The highest number that has arrived.
        next: All numbers before it are consumed; 0 = as 1.
    """

    granted: int
    spent: int
    highest: int
    next: int

    @classmethod
    def of(cls, line: Line) -> Books:
        """The books that a line holds."""
        return cls(line.rx_granted, line.rx_spent, line.rx_highest, line.rx_next)

    @property
    def is_level(self) -> bool:
        """Whether all that has arrived is consumed."""
        return (self.next or 1) == (self.highest + 1) % _NUMBERS


class FlowWindow:
    """The receiver's half, for one flow.

    The owner writes what `want` and `answered` return to the line, at once; calls `look` when
    `next_deadline` has come; and then tells the sender what `ask` returns.

    Args:
        window: What stands in the line, blocks.
        owed: The most that may be promised and not consumed, where that is known to be more.
        told: Whether the sender is known to reckon with `window`.
        now: Monotonic ns.
    """

    __slots__ = (
        "_answered",
        "_ask_after",
        "_ask_at",
        "_last",
        "_look_at",
        "_lowered_at",
        "_mark",
        "_owed",
        "_target",
        "_window",
        "question",
    )

    def __init__(self, window: int, owed: int = 0, *, told: bool, now: int) -> None:
        self._window = self._target = window
        self._owed = max(window, owed)
        self._answered = told
        self.question = 0
        """Counts the questions; the same one may be put several times."""
        self._ask_after = ASK_FIRST
        self._ask_at = self._lowered_at = now
        self._look_at = now + SETTLED
        self._mark: int | None = None
        self._last: Books | None = None

    @property
    def window(self) -> int:
        """What the receiver grants by."""
        return self._window

    @property
    def target(self) -> int:
        """What it is to become."""
        return self._target

    @property
    def told(self) -> int:
        """What the sender is to reckon with. It is also what must be reserved."""
        return max(self._target, self._owed)

    @property
    def is_settled(self) -> bool:
        """Whether both sides have the window that is wanted, and nothing more is owed."""
        return self._answered and self._target == self._window == self._owed

    def want(self, blocks: int, now: int) -> int | None:
        """Sets what the window is to become. What `told` is then must be reserved before.

        Returns:
            What is to be written to the line now; None = nothing.

        Raises:
            InvalidArgument: There is no such window.
        """
        if blocks < 0:
            raise InvalidArgument("window_blocks", f"needs 0 or more, got {blocks}")
        if blocks == self._target:
            return None
        before, self._target = self.told, blocks
        self._retell(before, now)
        if blocks >= self._window:
            # Where more is owed still, the sender reckons with as much already.
            return self._widened() if self._answered else None
        self._window = blocks
        self._lowered_at = now
        self._mark = self._last = None
        self._look_at = now + SETTLED
        return blocks

    def look(self, books: Books, now: int) -> None:
        """Takes in the books: what was owed under a wider window may have been used up."""
        if self._owed == self._window or now < self._look_at:
            return
        self._look_at = now + LOOK
        last, self._last = self._last, books
        if self._mark is None:
            self._mark = books.granted
        if books.granted > self._mark:
            # Granted anew, and by the narrower window.
            self._owe(self._window, now)
        elif books.is_level and books == last:
            # All has been consumed, and nobody was about to change that.
            self._owe(max(self._window, books.granted - books.spent), now)

    def ask(self, now: int) -> int | None:
        """The window to tell the sender now, and to ask whether it has it; None = nothing."""
        if self._answered or now < self._ask_at:
            return None
        self._ask_at = now + self._ask_after
        self._ask_after = min(2 * self._ask_after, ASK_MAX)
        return self.told

    def answered(self, question: int) -> int | None:
        """The sender reckons with a window that it was told.

        Args:
            question: What `question` was when it was told. Only an answer to the newest one counts:
                the sender may have been told another window since, and then this one again.

        Returns:
            What is to be written to the line now; None = nothing.
        """
        if question != self.question:
            return None
        self._answered = True
        return self._widened() if self._target > self._window else None

    def ask_again(self, now: int) -> None:
        """Has the sender be asked once more, though it has answered."""
        self._answered = False
        self.question += 1
        self._ask_at, self._ask_after = now, ASK_FIRST

    def next_deadline(self) -> int | None:
        """When `look` and `ask` are due, monotonic ns; None while nothing is."""
        due = []
        if not self._answered:
            due.append(self._ask_at)
        if self._owed > self._window:
            due.append(self._look_at)
        return min(due, default=None)

    def _widened(self) -> int:
        self._window = self._target
        self._owed = max(self._owed, self._window)
        return self._window

    def _owe(self, blocks: int, now: int) -> None:
        before, self._owed = self.told, min(self._owed, blocks)
        self._retell(before, now)

    def _retell(self, before: int, now: int) -> None:
        """Where the sender is to reckon with another window, its answer counts anew."""
        if self.told != before:
            self.ask_again(now)


class Order:
    """The sender's half: which of the windows that it is told is the newest.

    A frame that was overtaken says what was true once, and may be false by now.

    Args:
        seen: The highest number that has arrived on flow 0: whoever was here before may have
            followed frames up to that one.
    """

    __slots__ = ("_newest",)

    def __init__(self, seen: int) -> None:
        self._newest = seen

    def takes(self, seq: int) -> bool:
        """Whether a frame's window is to be followed: it is newer than all before (RFC 1982)."""
        if not 0 < (seq - self._newest) % _NUMBERS < _HALF:
            return False
        self._newest = seq
        return True
