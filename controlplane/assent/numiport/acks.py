# SPDX-License-Identifier: Apache-2.0
"""Receipts: when they are due, what they say, and what is sent again (seed 5.3).

The books are C (native/acks.h says how they are kept); here they take and give values. One
`Receiver` and one `Sender` serve one peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from assent._numi import ffi, lib
from assent.errors import InvalidArgument
from assent.numiport.profiles import Reliability
from assent.numiport.wire import AckRange, Class, Stream

SEQS_MAX: Final[int] = lib.NUMI_ACK_SEQS
"""Numbers from here on cannot be told of: ACK_RLE has 16 bits for them."""
WATCHED_MAX: Final[int] = lib.NUMI_ACK_WATCHED
_NEVER: Final = (1 << 64) - 1
_RANGE_LEN: Final = 4
_RESENDS: Final = 64
_DEFAULT: Final = Reliability()


def _config(settings: Reliability, seqs: int) -> Any:
    if not 64 <= seqs <= SEQS_MAX or seqs & (seqs - 1):
        raise InvalidArgument("seqs", f"needs a power of two, 64 to {SEQS_MAX}, got {seqs}")
    return ffi.new(
        "struct numi_ack_config *",
        {
            "slots": settings.replay_slots,
            "seqs": seqs,
            "packets": settings.ack_packets,
            "ranges": settings.ack_bytes // _RANGE_LEN,
            "interval": settings.ack_interval_ns,
            "nacks": settings.nack_entries,
            "resend_fraction": settings.resend_fraction,
            "nack_window": settings.nack_window_ns,
            "resend_most": settings.resend_most_ns,
        },
    )


def _made(books: Any, free: Any) -> Any:
    if books == ffi.NULL:
        raise MemoryError
    return ffi.gc(books, free)


def _deadline(time: int) -> int | None:
    return None if time == _NEVER else time


class Receiver:
    """What has arrived from a peer and is to be told.

    Args:
        settings: How often, and how much.
    """

    __slots__ = ("_books",)

    def __init__(self, settings: Reliability = _DEFAULT) -> None:
        made = lib.numi_ack_rx_new(_config(settings, SEQS_MAX))
        self._books = _made(made, lib.numi_ack_rx_free)

    def note(
        self, slot: int, stream: Stream, seq: int, now: int, *, calls_for_receipt: bool = True
    ) -> bool:
        """Notes a packet that the replay window has taken.

        Args:
            slot: Its slot.
            stream: Its stream.
            seq: Its number.
            now: ns.
            calls_for_receipt: False for what is but a receipt itself (ACK_ONLY).

        Returns:
            Whether it can be told of: its slot is not gone, its number is below 65,536.
        """
        noted = lib.numi_ack_note(self._books, slot, stream, seq, calls_for_receipt, now)
        return bool(noted)

    def due(self, now: int) -> tuple[int, Stream] | None:
        """The slot and stream whose receipt has been due the longest; None while none is."""
        slot, stream = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        if not lib.numi_ack_due(self._books, now, slot, stream):
            return None
        return slot[0], Stream(stream[0])

    def write(self, slot: int, stream: Stream) -> tuple[AckRange, ...]:
        """The receipt of a slot and stream, to be sent now with whatever goes there."""
        ranges = ffi.new("struct numi_ack_range[]", lib.NUMI_ACK_RANGES)
        count = lib.numi_ack_write(self._books, slot, stream, ranges)
        return tuple(AckRange(ranges[i].start, ranges[i].run) for i in range(count))

    def missing(
        self, slot: int, stream: Stream, cls: Class, slot_end: int, now: int
    ) -> tuple[int, ...]:
        """What to ask for in a NACK_LIST now: each number once, nothing but at the slot's end."""
        seqs = ffi.new("uint32_t[]", lib.NUMI_ACK_NACKS)
        count = lib.numi_ack_missing(self._books, slot, stream, cls, slot_end, now, seqs)
        return tuple(seqs[0:count])

    def next_deadline(self) -> int | None:
        """When a receipt will be due, ns; None while none will."""
        return _deadline(lib.numi_ack_rx_deadline(self._books))


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the packets of a slot and stream.

    Attributes:
        sent: Packets.
        acked: Those that a receipt came for.
        largest_acked: Bytes of the largest of them; 0 = there is none.
        largest_lost: Bytes of the largest of the others.
    """

    sent: int
    acked: int
    largest_acked: int
    largest_lost: int

    @property
    def lost_permille(self) -> int:
        """The part that no receipt came for, in thousandths."""
        return (self.sent - self.acked) * 1000 // self.sent if self.sent else 0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sender has counted since it began.

    Attributes:
        unsent: Numbers in receipts that were never sent.
        unwatched: Packets of P0 that too many others kept from being sent again.
        resent: Packets of P0 that were due again.
        nacked: Numbers asked for that were heeded,
        nacks_unheeded: and that were not: a wrong class, a wrong time, not sent, or acknowledged.
    """

    unsent: int
    unwatched: int
    resent: int
    nacked: int
    nacks_unheeded: int


class Sender:
    """What was sent to a peer, and what it has told of it.

    Args:
        settings: When P0 is sent again, and when a NACK is heeded.
        seqs: Numbers of each slot and stream that it keeps books of: a power of two.
    """

    __slots__ = ("_books",)

    def __init__(self, settings: Reliability = _DEFAULT, seqs: int = 4096) -> None:
        made = lib.numi_ack_tx_new(_config(settings, seqs))
        self._books = _made(made, lib.numi_ack_tx_free)

    def sent(
        self,
        slot: int,
        stream: Stream,
        seq: int,
        *,
        cls: Class,
        size: int,
        slot_length: int,
        now: int,
        handle: int = 0,
    ) -> bool:
        """Takes in that a packet was sent for the first time.

        Args:
            slot: Its slot.
            stream: Its stream.
            seq: Its number.
            cls: Its class; P0 is sent again where no receipt comes.
            size: Of the datagram, bytes.
            slot_length: ns.
            now: ns.
            handle: What `resend` calls it, of P0: the sealed bytes are sent again as they are.

        Returns:
            Whether books are kept of it: its slot is not gone, and its number within bounds.
        """
        return bool(
            lib.numi_ack_sent(self._books, slot, stream, seq, cls, size, handle, slot_length, now)
        )

    def acked(self, slot: int, stream: Stream, ranges: Sequence[AckRange]) -> int:
        """Takes in a receipt; how many packets it tells of for the first time."""
        told = ffi.new("struct numi_ack_range[]", [(one.start, one.run) for one in ranges])
        return int(lib.numi_ack_acked(self._books, slot, stream, told, len(ranges)))

    def nacked(
        self,
        slot: int,
        stream: Stream,
        cls: Class,
        seqs: Sequence[int],
        *,
        slot_end: int,
        slack: int,
        now: int,
    ) -> int:
        """Takes in a NACK_LIST; how many of its numbers are heeded.

        Of P0 they are due to be sent again at once, where they have not been; of P1 they are a word
        of what repair will be asked for after the slot.

        Args:
            slot: The slot,
            stream: the stream,
            cls: and the class of the packet that it came with.
            seqs: The numbers.
            slot_end: When the slot ends, ns.
            slack: How much later than it was sent the list may arrive, ns: the way, and what the
                clock is uncertain by.
            now: ns.
        """
        wanted = ffi.new("uint32_t[]", list(seqs))
        return int(
            lib.numi_ack_nacked(
                self._books, slot, stream, cls, wanted, len(seqs), slot_end, slack, now
            )
        )

    def resend(self, now: int) -> tuple[int, ...]:
        """The handles of P0's packets that are due to be sent again: each is given out once."""
        handles = ffi.new("uint64_t[]", _RESENDS)
        count = lib.numi_ack_resend(self._books, now, handles, _RESENDS)
        return tuple(handles[0:count])

    def next_deadline(self) -> int | None:
        """When `resend` will have something, ns; None while nothing waits."""
        return _deadline(lib.numi_ack_tx_deadline(self._books))

    def summary(self, slot: int, stream: Stream) -> Summary | None:
        """What became of a slot and stream; None where nothing is known of it."""
        found = ffi.new("struct numi_ack_summary *")
        if not lib.numi_ack_summary(self._books, slot, stream, found):
            return None
        return Summary(found.sent, found.acked, found.largest_acked, found.largest_lost)

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        found = ffi.new("struct numi_ack_counts *")
        lib.numi_ack_counts(self._books, found)
        return Counts(
            found.unsent, found.unwatched, found.resent, found.nacked, found.nacks_unheeded
        )
