# SPDX-License-Identifier: Apache-2.0
"""The gate's accounting of flows, as an endpoint sees it: shared memory, 64 bytes a flow."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Final

from assent import _native
from assent.dataplane.libbpf import Map

_ffi: Any = _native.ffi
_lib: Any = _native.lib

LINE_LEN: Final[int] = _lib.AN_LINE_LEN


class Lines:
    """All lines of one gate, mapped once for a ring's flows.

    Raises:
        NotFound: nothing is pinned there.
    """

    def __init__(self, pin: Path) -> None:
        with Map.open_pinned(pin) as table:
            length = -(-table.max_entries * LINE_LEN // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory = mmap.mmap(table.fd, length)
        self._native = _ffi.from_buffer("uint8_t[]", self._memory, require_writable=True)

    def native(self, slot: int) -> Any:
        """A flow's line, as cffi knows it."""
        return self._native + slot * LINE_LEN

    def credit(self, slot: int) -> int:
        """Blocks of 64 bytes that may be sent on a flow now."""
        return int(_lib.an_line_credit(self.native(slot)))

    def close(self) -> None:
        """Unmaps them; no flow may use them any more."""
        _ffi.release(self._native)
        self._memory.close()
