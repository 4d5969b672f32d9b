# SPDX-License-Identifier: Apache-2.0
"""The gate's bloom filter: most strangers are turned away by one word. See bloom.h."""

from __future__ import annotations

import mmap
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from assent.closing import Closing
from assent.dataplane.libbpf import Map
from assent.dataplane.tables.config import ConfigTable
from assent.dataplane.tables.units import SEC

PAIR_LEN: Final = 32
WORD_BITS: Final = 64
LEAST_WORDS: Final = 512
"""4 KiB, 2^15 bits: room for 2,048 pairs at the target rate."""
BITS_A_PAIR: Final = 16
"""At which some 0.8 % of strangers get past the filter, and are told by the exact table."""
# Longest that a CPU may go on with the filter that was swapped out; beyond, no need to ask.
_GRACE_NS: Final = SEC


class BloomFilter(Closing):
    """One filter, in one of the map's two halves. Close it when done.

    Pairs are added to the filter at work, which only ever lets more through. They leave it when it
    is built anew in the idle half and swapped in by one store.
    """

    def __init__(
        self, table: Map, config: ConfigTable, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._config = config
        self._clock = clock
        self._half = table.max_entries // 2
        length = -(-table.max_entries * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(table.fd, length, mmap.MAP_SHARED)
        self._swapped_at = -_GRACE_NS
        self._count = 0

    @property
    def words(self) -> int:
        """64-bit words of the filter at work."""
        return self._at()[1]

    @property
    def fill(self) -> float:
        """The part of its bits that are set, 0 to 1."""
        first, words = self._at()
        held = self._memory[first * 8 : (first + words) * 8]
        return int.from_bytes(held, "little").bit_count() / (words * WORD_BITS)

    @property
    def rate(self) -> float:
        """The part of strangers that get past the filter, 0 to 1, from the words as they are."""
        first, words = self._at()
        held = memoryview(self._memory)[first * 8 : (first + words) * 8].cast("Q")
        try:
            return sum((word.bit_count() / WORD_BITS) ** 3 for word in held) / words
        finally:
            held.release()

    @property
    def is_settled(self) -> bool:
        """Whether a rebuild would not have to wait for those who still read the idle half."""
        return self._clock() - self._swapped_at >= _GRACE_NS

    @property
    def is_crowded(self) -> bool:
        """Whether it holds more pairs than its size is for, and a larger one is possible."""
        words = self.words
        return words < self._half and self._count * BITS_A_PAIR > words * WORD_BITS

    def fits(self, more: int) -> bool:
        """Whether it would not be crowded with so many more pairs."""
        words = self.words
        return words >= self._half or (self._count + more) * BITS_A_PAIR <= words * WORD_BITS

    def look(self, pairs: bytes) -> bytearray:
        """Which pairs it lets through, a byte each: 0 = not in the table, else perhaps.

        Args:
            pairs: 32 bytes each.
        """
        from assent._native import ffi, lib

        first, words = self._at()
        seen = bytearray(len(pairs) // PAIR_LEN)
        with ffi.from_buffer(self._memory) as base, ffi.from_buffer(seen) as out:
            lib.an_bloom_look(
                ffi.cast("uint64_t *", base),
                first,
                words - 1,
                self._seed(),
                pairs,
                len(seen),
                ffi.cast("uint8_t *", out),
            )
        return seen

    def add(self, pairs: bytes) -> None:
        """Lets pairs through, from the next frame on.

        Args:
            pairs: 32 bytes each: sender and receiver.
        """
        self._set(*self._at(), pairs)
        self._count += len(pairs) // PAIR_LEN

    def passed(self, pairs: bytes) -> int:
        """Returns how many of some pairs get past the filter: all that it holds, and few others.

        Args:
            pairs: 32 bytes each.
        """
        return sum(self.look(pairs))

    def rebuild(self, pairs: bytes) -> None:
        """Puts a filter of exactly these pairs in place.

        Args:
            pairs: 32 bytes each. All that are in the session table, or frames get lost.
        """
        if not any(self._config.record().bloom_seed):
            self._config.change(bloom_seed=(secrets.randbits(64), secrets.randbits(64)))
        if not self.is_settled:
            # A CPU may still be reading the half that is about to be cleared.
            from assent._native import lib

            lib.an_wait_for_readers()
        count = len(pairs) // PAIR_LEN
        words = LEAST_WORDS
        while words < self._half and count * BITS_A_PAIR > words * WORD_BITS:
            words *= 2
        first = self._half if self._at()[0] == 0 else 0
        self._memory[first * 8 : (first + words) * 8] = bytes(words * 8)
        self._set(first, words, pairs)
        self._config.change(bloom=first << 32 | words - 1)
        self._swapped_at = self._clock()
        self._count = count

    def close(self) -> None:
        """Unmaps it. Idempotent."""
        self._memory.close()

    def _at(self) -> tuple[int, int]:
        descriptor = self._config.record().bloom
        return descriptor >> 32, (descriptor & 0xFFFFFFFF) + 1

    def _set(self, first: int, words: int, pairs: bytes) -> None:
        from assent._native import ffi, lib

        with ffi.from_buffer(self._memory) as base:
            lib.an_bloom_add(
                ffi.cast("uint64_t *", base),
                first,
                words - 1,
                self._seed(),
                pairs,
                len(pairs) // PAIR_LEN,
            )

    def _seed(self) -> Any:
        from assent._native import ffi

        return ffi.new("uint64_t[2]", list(self._config.record().bloom_seed))
