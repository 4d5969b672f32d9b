# SPDX-License-Identifier: Apache-2.0
"""The windows of one live session's flows: those that we grant by, and those that the peer does.

The protocol is `assent.credit.window`; here it meets flow 0 and the lines in shared memory. A GRANT
with a window tells; where it has a ref, it asks for an answer, which is a GRANT with that ref and
no window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from assent.credit.window import Books, FlowWindow, Order
from assent.dataplane.btf import Record
from assent.dataplane.tables import FlowTable, SessionEntry
from assent.errors import FailedPrecondition, RemoteError
from assent.service.flow_zero import CONTROL_FLOW
from assent.wire.control import GRANT_UNITS_MAX, ControlTag, Grant, Tag

_BLOCKS_MAX: Final = 1 << 62


class LiveWindows:
    """Both halves of the window protocol, for every flow of a session that is open.

    Args:
        table: The flow lines.
        entry: Where the session's are.
        flows: Which of them are open data flows.
        owed: The most that may be promised and not consumed, blocks by flow, where that is known to
            be more than the window.
        fresh: Whether the session has just begun, so that both sides know its windows.
        ask: Sends tags, each with the ref that it is given: the number of the first frame.
        on_freed: Called when less is owed than before.
        now: Monotonic ns.
    """

    def __init__(
        self,
        table: FlowTable,
        entry: SessionEntry,
        flows: Iterable[int],
        *,
        owed: Mapping[int, int],
        fresh: bool,
        ask: Callable[[Callable[[int], list[ControlTag]]], None],
        on_freed: Callable[[], None],
        now: int,
    ) -> None:
        self._table = table
        self._entry = entry
        self._ask = ask
        self._on_freed = on_freed
        seen = table.read(table.slot_of(entry, CONTROL_FLOW)).rx_highest
        self._windows = {}
        self._orders = {}
        for flow in flows:
            window = int(self._line(flow).rx_window)
            more = owed.get(flow, 0)
            # Where no change was under way, the peer reckons with it; the next heartbeat says so.
            told = fresh or more <= window
            self._windows[flow] = FlowWindow(window, more, told=told, now=now)
            self._orders[flow] = Order(seen)
        # Of each flow, the newest question: its ref, and which one it was.
        self._asked: dict[int, tuple[int, int]] = {}

    # What we grant

    def promised(self, flow: int) -> int:
        """What must be reserved for a flow, blocks; 0 where it is not open."""
        window = self._windows.get(flow)
        return 0 if window is None else window.told

    def target(self, flow: int) -> int:
        """What a flow's window is, or is about to become; 0 where it is not open."""
        window = self._windows.get(flow)
        return 0 if window is None else window.target

    def widest(self, flow: int) -> int:
        """The widest window that the session's grants can express, blocks."""
        return GRANT_UNITS_MAX << int(self._line(flow).grant_shift)

    def want(self, flow: int, blocks: int, now: int) -> None:
        """Sets what a flow's window is to become; `promised` is reserved for that already.

        Raises:
            FailedPrecondition: The flow is not open, or its grants cannot express so much.
        """
        window = self._windows.get(flow)
        if window is None:
            raise FailedPrecondition(f"flow: the session has no flow {flow}")
        if blocks > self.widest(flow):
            raise FailedPrecondition(
                f"window_blocks: the session's grants express {self.widest(flow)} at the most"
            )
        self._write(flow, window.want(blocks, now))

    def ask_again(self, now: int) -> None:
        """Has the peer answer for every flow, though it has answered before."""
        for window in self._windows.values():
            window.ask_again(now)

    def tag(self, flow: int) -> ControlTag:
        """What a heartbeat says of a flow."""
        return self._tag(flow, 0)

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns; None while nothing is."""
        due = (window.next_deadline() for window in self._windows.values())
        return min((at for at in due if at is not None), default=None)

    def tick(self, now: int) -> None:
        """Looks at what is owed, and asks what is to be asked."""
        due = []
        freed = False
        for flow, window in self._windows.items():
            at = window.next_deadline()
            if at is None or at > now:
                continue
            before = window.told
            window.look(Books.of(self._line(flow)), now)
            freed |= window.told < before
            if window.ask(now) is not None:
                due.append(flow)
        if due:
            self._ask(lambda seq: [self._question(flow, seq) for flow in due])
        if freed:
            self._on_freed()

    def answered(self, flow: int, ref: int) -> None:
        """The peer answers a question; another ref is another matter's."""
        asked = self._asked.get(flow)
        if asked is not None and asked[0] == ref:
            self._write(flow, self._windows[flow].answered(asked[1]))

    # What the peer grants

    def check(self, grant: Grant) -> None:
        """Looks at a grant of the peer's before it has effect.

        Raises:
            RemoteError: It cannot be.
        """
        impossible = grant.granted >= _BLOCKS_MAX or grant.flow not in self._windows
        if impossible or (grant.window or 0) > self.widest(grant.flow):
            raise RemoteError(f"a grant that cannot be, for flow {grant.flow}")

    def take(self, grant: Grant, seq: int) -> bool:
        """Takes in a grant of the peer's.

        Args:
            grant: After `check`.
            seq: Of the frame that it came in.

        Returns:
            Whether it may be answered: it has not been overtaken.
        """
        slot = self._table.slot_of(self._entry, grant.flow)
        if grant.window is not None:
            if not self._orders[grant.flow].takes(seq):
                return False
            # Before the grant: what is granted beyond the window is taken for a receipt.
            self._table.set_tx_window(slot, grant.window)
        self._table.raise_tx_granted(slot, grant.granted)
        return True

    # Within

    def _question(self, flow: int, seq: int) -> ControlTag:
        question = self._windows[flow].question
        ref, asked = self._asked.get(flow, (0, -1))
        if asked != question:
            ref = seq
            self._asked[flow] = ref, question
        return self._tag(flow, ref)

    def _tag(self, flow: int, ref: int) -> ControlTag:
        granted = self._line(flow).rx_granted
        return ControlTag(Tag.GRANT, ref, Grant(flow, granted, self.promised(flow)).to_body())

    def _line(self, flow: int) -> Record:
        return self._table.read(self._table.slot_of(self._entry, flow))

    def _write(self, flow: int, window: int | None) -> None:
        if window is not None:
            self._table.set_rx_window(self._table.slot_of(self._entry, flow), window)
