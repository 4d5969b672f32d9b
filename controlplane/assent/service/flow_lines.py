# SPDX-License-Identifier: Apache-2.0
"""The one field of a flow's line that the control plane writes while a session lives.

`tx_seq` of flow 0 must be in the map before a frame carries it: a daemon that was killed reads
there how far it had come, and no nonce is ever used twice.
"""

from __future__ import annotations

import mmap
import sys
from types import TracebackType
from typing import Final, Self

from assent.dataplane.btf import Layout
from assent.dataplane.libbpf import Map
from assent.errors import ResourceExhausted

SEQ_MAX: Final = 1 << 31
"""A session is renewed before half of the sequence space is used (RFC 1982 comparison)."""


class FlowLines:
    """A second mapping of the `flows` map, for these writes alone. A context manager.

    Args:
        table: The `flows` map; it may be closed afterwards.
        layout: Of its values.
    """

    def __init__(self, table: Map, layout: Layout) -> None:
        self._size = layout.size
        self._tx_seq = layout.offsetof("tx_seq")
        length = -(-table.max_entries * layout.size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(table.fd, length, mmap.MAP_SHARED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._memory.close()

    def take_seq(self, slot: int) -> int:
        """The next sequence number of a flow that the daemon itself drives; recorded as used.

        Raises:
            ResourceExhausted: The session must be renewed first.
        """
        at = slot * self._size + self._tx_seq
        seq = int.from_bytes(self._memory[at : at + 4], sys.byteorder) + 1
        if seq >= SEQ_MAX:
            raise ResourceExhausted("the session has used up its sequence numbers: renew it")
        self._memory[at : at + 4] = seq.to_bytes(4, sys.byteorder)
        return seq
