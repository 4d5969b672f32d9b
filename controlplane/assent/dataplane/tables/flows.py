# SPDX-License-Identifier: Apache-2.0
"""flows[slot], shared memory: no system call to read it or to raise a grant."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from assent.dataplane.btf import Layout, Record
from assent.dataplane.libbpf import Map
from assent.dataplane.tables.units import BYTE_ORDER
from assent.errors import InvalidArgument, NotFound, ResourceExhausted

if TYPE_CHECKING:
    from assent.dataplane.tables.sessions import SessionEntry

SEQ_MAX = 1 << 31
"""A session is renewed before half of the sequence space is used (RFC 1982 comparison)."""
# C compares credit as unsigned, and nothing may come near the wrap.
_MAX_BLOCKS = 1 << 62


class FlowTable:
    """Accounting of all flows."""

    def __init__(self, table: Map, layout: Layout) -> None:
        self._layout = layout
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

    def set_open(self, slot: int, is_open: bool) -> None:
        """Says whether an endpoint takes the flow's frames; endpoints say so themselves."""
        at = self._at(slot) + self._layout.offsetof("rx_open")
        self._memory[at : at + 2] = int(is_open).to_bytes(2, BYTE_ORDER)

    def shut(self, slot: int) -> None:
        """Closes a flow: the gate refuses its frames as of an unknown flow."""
        # One aligned 16-bit field that only the control plane writes: a plain store will do.
        at = self._at(slot) + self._layout.offsetof("replay_len")
        self._memory[at : at + 2] = bytes(2)

    def close(self) -> None:
        """Unmaps the table. Idempotent."""
        self._memory.close()

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
