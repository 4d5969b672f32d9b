# SPDX-License-Identifier: Apache-2.0
"""flows[slot], shared memory: no system call to read it or to raise a grant."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Map
from assent.dataplane.tables.units import BYTE_ORDER
from assent.errors import InvalidArgument, NotFound, ResourceExhausted

if TYPE_CHECKING:
    from assent.dataplane.tables.sessions import SessionEntry

SEQ_MAX = 1 << 31
"""A session is renewed before half of the sequence space is used (RFC 1982 comparison)."""
# C compares credit as unsigned, and nothing may come near the wrap.
_MAX_BLOCKS = 1 << 62
_MAX_WINDOW = (1 << 32) - 1


class FlowTable:
    """Accounting of all flows."""

    def __init__(self, table: Map, btf: Btf) -> None:
        self._layout = layout = btf.map_value("flows")
        self._opened = btf.enum("assent_open")
        self._count = table.max_entries
        length = -(-table.max_entries * layout.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(table.fd, length, mmap.MAP_SHARED)

    def read(self, slot: int) -> Record:
        """Returns a flow's accounting; each field is whole, the fields together are no snapshot."""
        at = self._at(slot)
        return self._layout.unpack(self._memory[at : at + self._layout.size])

    def lines(self, slot: int, count: int) -> bytes:
        """Returns the accounting of consecutive flows as it lies in the map."""
        at, end = self._at(slot), self._at(slot + count - 1) + self._layout.size
        return self._memory[at:end]

    @staticmethod
    def slot_of(session: SessionEntry, flow: int) -> int:
        """Returns the slot of one of a session's flows.

        Raises:
            NotFound: the session has no such flow.
        """
        if not 0 <= flow < session.flow_count:
            raise NotFound(f"session {session.session_id} has no flow {flow}")
        return session.flow_base + flow

    def raise_rx_granted(self, slot: int, blocks: int) -> None:
        """Promises the peer more: the cumulative grant, in blocks; never lowers it."""
        self._raise(slot, "rx_granted", blocks)

    def raise_tx_granted(self, slot: int, blocks: int) -> None:
        """Takes in what the peer promised: cumulative, in blocks; never lowers it."""
        self._raise(slot, "tx_granted", blocks)

    def set_rx_window(self, slot: int, blocks: int) -> None:
        """Says by which window the flow's endpoint grants; see assent.credit.window."""
        self._store(slot, "rx_window", blocks)

    def set_tx_window(self, slot: int, blocks: int) -> None:
        """Says by which window the peer grants, so what of its grants is a receipt."""
        self._store(slot, "tx_window", blocks)

    def take_seq(self, slot: int) -> int:
        """The next number of a flow that the caller itself drives; recorded as used.

        It is in the map before a frame carries it: whoever is killed reads there how far it had
        come, and no nonce is ever used twice.

        Raises:
            ResourceExhausted: the session must be renewed first.
        """
        at = self._at(slot) + self._layout.offsetof("tx_seq")
        seq = int.from_bytes(self._memory[at : at + 4], BYTE_ORDER) + 1
        if seq >= SEQ_MAX:
            raise ResourceExhausted("the session has used up its sequence numbers: renew it")
        self._memory[at : at + 4] = seq.to_bytes(4, BYTE_ORDER)
        return seq

    def set_open(self, slot: int, is_open: bool, *, to_ring: bool = False) -> None:
        """Says whether an endpoint takes the flow's frames; endpoints say so themselves.

        Args:
            slot: of the flow.
            is_open: whether any does.
            to_ring: it takes them by AF_XDP, so they do not go to the kernel's stack.
        """
        at = self._at(slot) + self._layout.offsetof("rx_open")
        where = ("TO_RING" if to_ring else "TO_STACK") if is_open else "SHUT"
        self._memory[at : at + 2] = self._opened[f"ASSENT_{where}"].to_bytes(2, BYTE_ORDER)

    def retire(self, slot: int) -> None:
        """Ends what an endpoint that is gone has sent: nothing of it is waited for any more.

        Numbers go on behind a gap as wide as the replay window: whatever of it is still on its way
        is refused as too old once the peer knows (see `settle`).
        """
        line = self.read(slot)
        seq = line.tx_seq + line.replay_len
        if seq < SEQ_MAX:
            self._write(slot, "tx_seq", 4, seq)
        self._write(slot, "tx_pending", 2, 0)

    def settle(self, slot: int, seq: int, spent: int) -> bool:
        """Takes over what a peer that is done has said of a flow that is shut; False if it lies.

        What it sent and was lost has been paid for, and will not come: it counts as consumed.

        Args:
            slot: Of the flow.
            seq: The last number that the peer has used, or given up.
            spent: Blocks that it has spent, cumulative.
        """
        line = self.read(slot)
        if not line.rx_highest <= seq < SEQ_MAX or spent > line.rx_granted:
            return False
        # The gate writes these only for frames that it admits, and it admits none now.
        self._write(slot, "rx_highest", 4, seq)
        self._write(slot, "rx_next", 4, seq + 1)
        self._raise(slot, "rx_spent", spent)
        self._raise(slot, "rx_granted", max(spent, line.rx_spent) + line.rx_window)
        return True

    def shut(self, slot: int) -> None:
        """Closes a flow: the gate refuses its frames as of an unknown flow."""
        # One aligned 16-bit field that only the control plane writes: a plain store will do.
        at = self._at(slot) + self._layout.offsetof("replay_len")
        self._memory[at : at + 2] = bytes(2)

    def close(self) -> None:
        """Unmaps the table. Idempotent."""
        self._memory.close()

    def _store(self, slot: int, name: str, value: int) -> None:
        # One aligned 32-bit field that only the control plane writes: a plain store will do.
        if not 0 <= value <= _MAX_WINDOW:
            raise InvalidArgument("window_blocks", f"must be from 0 to {_MAX_WINDOW}")
        at = self._at(slot) + self._layout.offsetof(name)
        self._memory[at : at + 4] = value.to_bytes(4, BYTE_ORDER)

    def _write(self, slot: int, name: str, size: int, value: int) -> None:
        at = self._at(slot) + self._layout.offsetof(name)
        self._memory[at : at + size] = value.to_bytes(size, BYTE_ORDER)

    def _raise(self, slot: int, name: str, blocks: int) -> None:
        if not 0 <= blocks < _MAX_BLOCKS:
            raise InvalidArgument("blocks", "must be from 0 to 2**62")
        from assent._native import ffi, lib

        at = self._at(slot) + self._layout.offsetof(name)
        with ffi.from_buffer(self._memory) as base:
            lib.an_counter_raise(ffi.cast("uint64_t *", base + at), blocks)

    def _at(self, slot: int) -> int:
        if not 0 <= slot < self._count:
            raise InvalidArgument("slot", f"must be from 0 to {self._count - 1}")
        return slot * self._layout.size
