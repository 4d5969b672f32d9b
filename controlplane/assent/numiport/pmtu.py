# SPDX-License-Identifier: Apache-2.0
"""How large a datagram may be: packetization-layer path MTU discovery (seed 7, 10.8; RFC 8899).

Sans-IO: time and outcomes in, probes out. All sizes are bytes of UDP payload, so that nothing here
depends on the version of IP. A size is used for data only after a probe of exactly that size was
acknowledged; what the kernel, an ICMP message or the peer claims can lower the size or say what to
probe next, and never raises it.

            base acknowledged            nothing left to try
    BASE ----------------------> SEARCHING -----------------> COMPLETE
     | ^                           |   ^                        |  |
     | |  black hole, EMSGSIZE     |   '------- raise timer ----'  |
     | '---------------------------+-------------------------------'
     | base lost            base acknowledged
     '-----------> ERROR ----------------------> SEARCHING

SEARCHING tries what the peer or the cache remembers, then the cap, then the sizes of ordinary
Ethernet, then halves what is left. A size fails after `max_probes` probes in a row went unanswered,
or at once when the kernel refuses to send it; it is then avoided for a while that doubles each time
that it fails again. So loss that has nothing to do with size costs at most one such while.

Loss of data above the base makes a size suspect: it is probed on its own, and only where that fails
too is it a black hole. A path that swallows some sizes and not others is handled alike: what failed
is the size, and data stay below it.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument
from assent.numiport import profiles
from assent.numiport.wire import PACKET_MAX

SECOND: Final = 1_000_000_000
ORDINARY: Final = (1472, 1452)
"""What fits the 1,500 bytes of Ethernet, over IPv4 and IPv6."""
_HEADERS: Final = {4: 28, 6: 48}
"""IP and UDP, without options."""
GSO_SEGMENTS_MAX: Final = 64
GSO_BYTES_MAX: Final = 65_507
_FAILED_MAX: Final = 32
_PROBE_IDS: Final = 1 << 32


class State(enum.Enum):
    """RFC 8899, section 5.2; DISABLED is having no `PathMtu`."""

    BASE = "base"
    ERROR = "error"
    SEARCHING = "searching"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a search goes by.

    Attributes:
        base: Where it starts; expected to pass everywhere.
        least: What is used where not even the base passes.
        most: The cap of the search.
        step: A gain of fewer bytes than this is not worth a probe, unless it ends at the cap.
        max_probes: Unanswered probes after which a size has failed (RFC 8899: MAX_PROBES).
        probe_after: When an answer is overdue, ns; RFC 8899 asks for a second or more.
        raise_after: Between two searches, and between two confirmations of what was found, ns.
        avoid: How long a size that failed is avoided, ns; doubles each time that it fails.
        avoid_most: What `avoid` grows to, ns.
    """

    base: int = 1200
    least: int = 512
    most: int = 1472
    step: int = 8
    max_probes: int = 3
    probe_after: int = SECOND
    raise_after: int = 60 * SECOND
    avoid: int = 60 * SECOND
    avoid_most: int = 600 * SECOND

    def __post_init__(self) -> None:
        """Checks the order of the sizes and times.

        Raises:
            InvalidArgument: They contradict each other.
        """
        if not 0 < self.least <= self.base <= self.most <= PACKET_MAX:
            raise InvalidArgument("most", f"needs 0 < least <= base <= most <= {PACKET_MAX}")
        if self.step < 1 or self.max_probes < 1:
            raise InvalidArgument("max_probes", "needs a step and a number of probes of 1 or more")
        if self.probe_after < SECOND or self.raise_after < self.probe_after:
            raise InvalidArgument("probe_after", "needs a second, and no more than raise_after")
        if not 0 < self.avoid <= self.avoid_most:
            raise InvalidArgument("avoid", "needs more than 0, and no more than avoid_most")

    @classmethod
    def of(cls, section: profiles.Mtu) -> Settings:
        """What a profile says; searches are a second apart at least."""
        interval = max(section.probe_interval_ns, SECOND)
        most = min(section.most_payload, PACKET_MAX)
        return cls(base=section.base_payload, most=most, raise_after=interval)


@dataclass(frozen=True, slots=True)
class Probe:
    """A datagram to be padded to `size` and sent with DF, that the peer must acknowledge."""

    id: int
    size: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A size that failed."""

    until: int
    avoided: int


@dataclass(slots=True)
class Counts:
    """What became of probes, since the start."""

    acked: int = 0
    lost: int = 0
    refused: int = 0
    black_holes: int = 0


class PathMtu:
    """The search for one peer.

    The owner sends what `probe` returns, reports what becomes of it (`acked`, `refused`; silence is
    noticed here), tells of data (`data_acked`, `data_lost`, `refused`), and comes back when
    `next_deadline` has come.

    Args:
        settings: What the search goes by.
        now: ns, of a clock that never steps.
        hint: A size that passed once, to be tried first.
    """

    __slots__ = (
        "_confirm_at",
        "_deadline",
        "_doubt",
        "_failed",
        "_hint",
        "_ids",
        "_next_id",
        "_raise_at",
        "_settings",
        "_sure_until",
        "_suspect",
        "_target",
        "_tries",
        "counts",
        "size",
        "state",
    )

    def __init__(self, settings: Settings, now: int, hint: int | None = None) -> None:
        self._settings = settings
        self._hint = hint
        self._failed: dict[int, Failure] = {}
        self._ids: set[int] = set()
        self._next_id = 0
        self._suspect = False
        self._doubt: int | None = None
        self._tries = 0
        self.counts = Counts()
        self.state = State.BASE
        self.size = settings.base
        """What data may have now."""
        self._target: int | None = settings.base
        self._deadline = self._raise_at = self._confirm_at = self._sure_until = now

    @property
    def failed(self) -> tuple[int, ...]:
        """The sizes that are avoided, ascending; some of them perhaps no longer."""
        return tuple(sorted(self._failed))

    @property
    def remembered(self) -> int:
        """What to try first after a restart, and to tell the peer in its PMTU TLV."""
        return max(self.size, self._settings.base)

    def probe(self, now: int) -> Probe | None:
        """The probe that is due now; None while none is. Notices probes that stay unanswered."""
        if self._target is None:
            self._look_again(now)
        elif self._tries and now >= self._deadline:
            self.counts.lost += 1
            if self._tries >= self._settings.max_probes:
                self._fail(self._target, now)
        if self._target is None or now < self._deadline:
            return None
        self._tries += 1
        self._deadline = now + self._settings.probe_after
        self._next_id = (self._next_id + 1) % _PROBE_IDS
        self._ids.add(self._next_id)
        return Probe(self._next_id, self._target)

    def acked(self, probe: int, now: int) -> bool:
        """Takes in that a probe arrived.

        Returns:
            Whether it is one of the probes that are out; late answers to earlier ones are not.
        """
        if probe not in self._ids or self._target is None:
            return False
        self.counts.acked += 1
        if self._suspect:
            self._sure_until = now + self._settings.probe_after
        if self._target >= self.size:
            self._adopt(self._target, now)
        if self.state in {State.BASE, State.ERROR}:
            self.state = State.SEARCHING
        self._go_on(now)
        return True

    def refused(self, size: int, now: int) -> None:
        """Takes in that the kernel would not send a datagram of `size` (EMSGSIZE)."""
        if size <= self._settings.least:
            return
        self.counts.refused += 1
        if size == self._target:
            self._fail(size, now)
        elif size <= self.size:
            self._avoid(size, now)
            self._fall(now)

    def too_big(self, room: int, now: int) -> None:
        """Takes in what an ICMP message or the kernel says of the path: at most `room` bytes.

        Anybody may have written that: it lowers the size no further than the base, and is forgotten
        with the next search.
        """
        if room >= self._ceiling(now) or room < self._settings.least:
            return
        self._failed[room + 1] = Failure(now + self._settings.raise_after, self._settings.avoid)
        self._trim()
        most = max(room, self._settings.base)
        if self.size > most:
            self._hint = room
            self._restart(now)
        elif self._target is not None and self._target > most:
            self._go_on(now)

    def data_acked(self, size: int, now: int) -> None:
        """Takes in that data of `size` arrived: nothing that large need be confirmed by a probe."""
        if size >= self.size:
            self._confirm_at = now + self._settings.raise_after
        if self._doubt is not None and size >= self._doubt:
            self._doubt = None
        if self._suspect and self._target is not None and size >= self._target:
            self._go_on(now)

    def data_lost(self, size: int, now: int) -> None:
        """Takes in that data of `size` was lost: where it is above the base, that size is probed.

        One size at a time, after what is being probed already, and not the moment after another
        such doubt was cleared: where much is lost of all sizes, the search must go on.
        """
        if self._settings.base < size <= self.size and now >= self._sure_until:
            self._doubt = max(size, self._doubt or 0)
            if self._target is None:
                self._go_on(now)

    def hint(self, size: int) -> None:
        """Takes in the peer's PMTU TLV: what to try first in the next search."""
        self._hint = size

    def next_deadline(self) -> int:
        """When `probe` is to be called, ns."""
        if self._target is not None:
            return self._deadline
        return min(self._raise_at, self._confirm_at)

    # -- the search -------------------------------------------------------------------------------

    def _look_again(self, now: int) -> None:
        """Nothing is being probed: is a search due, or a confirmation of what is used?"""
        if now >= self._raise_at:
            self.state = State.SEARCHING
            self._search(now)
        if self._target is None and now >= self._confirm_at:
            self._aim(self.size, now, suspect=True)

    def _go_on(self, now: int) -> None:
        """What was probed is decided: a doubt comes first, then the search."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None and doubt <= self.size:
            self._aim(doubt, now, suspect=True)
        elif self.state is State.SEARCHING:
            self._search(now)
        else:
            self._aim(None, now)

    def _search(self, now: int) -> None:
        """Aims at the next size; none is left: the search is complete."""
        self._aim(self._candidate(now), now)
        if self._target is None:
            self.state = State.COMPLETE
            self._raise_at = now + self._settings.raise_after

    def _candidate(self, now: int) -> int | None:
        least, high = self.size + self._settings.step, self._ceiling(now)
        hint, self._hint = self._hint, None
        if hint is not None and least <= hint <= high:
            return hint
        if self.size < high == self._settings.most:
            return high
        if high < least:
            return None
        ordinary = (size for size in ORDINARY if least <= size <= high)
        return next(ordinary, (self.size + high + 1) // 2)

    def _ceiling(self, now: int) -> int:
        """The most that is worth trying: below all that failed lately."""
        avoided = (
            size - 1
            for size, failure in self._failed.items()
            if size > self.size and failure.until > now
        )
        return min(avoided, default=self._settings.most)

    def _adopt(self, size: int, now: int) -> None:
        self.size = size
        self._failed.pop(size, None)
        self._confirm_at = now + self._settings.raise_after

    def _fail(self, size: int, now: int) -> None:
        """A probe of this size does not pass."""
        if self.state in {State.BASE, State.ERROR}:
            # Not even the base: a probe now and then tells when the path is back.
            self.state = State.ERROR
            self.size = self._settings.least
            self._aim(self._settings.base, now)
            self._deadline = now + self._settings.probe_after
            return
        self._avoid(size, now)
        if size <= self.size:
            self._fall(now)
        else:
            self._go_on(now)

    def _fall(self, now: int) -> None:
        """What was in use does not pass any longer: back to the base, and up again from there."""
        self.counts.black_holes += 1
        self._hint = None
        self._restart(now)

    def _restart(self, now: int) -> None:
        self.state, self.size, self._doubt = State.BASE, self._settings.base, None
        self._aim(self._settings.base, now)

    def _aim(self, size: int | None, now: int, *, suspect: bool = False) -> None:
        self._target, self._suspect = size, suspect
        self._tries = 0
        self._deadline = now
        self._ids.clear()

    def _avoid(self, size: int, now: int) -> None:
        before = self._failed.get(size)
        length = self._settings.avoid
        if before is not None:
            length = min(2 * before.avoided, self._settings.avoid_most)
        self._failed[size] = Failure(now + length, length)
        self._trim()

    def _trim(self) -> None:
        while len(self._failed) > _FAILED_MAX:
            del self._failed[min(self._failed, key=lambda size: self._failed[size].until)]


class Paths:
    """The paths to all peers, and what is remembered of those that are gone: at most `most`.

    Args:
        settings: What each search goes by.
        most: Peers; of more, those that were used longest ago are forgotten.
        remembered: Sizes by peer, of an earlier life.
    """

    __slots__ = ("_hints", "_most", "_paths", "_settings")

    def __init__(
        self, settings: Settings, most: int = 4096, remembered: Mapping[bytes, int] | None = None
    ) -> None:
        if most < 1:
            raise InvalidArgument("most", f"needs 1 or more, got {most}")
        self._settings = settings
        self._most = most
        self._paths: OrderedDict[bytes, PathMtu] = OrderedDict()
        self._hints = OrderedDict(list((remembered or {}).items())[-most:])

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[tuple[bytes, PathMtu]]:
        return iter(self._paths.items())

    def path(self, peer: bytes, now: int) -> PathMtu:
        """The path to a peer; a new one tries first what was found before."""
        found = self._paths.get(peer)
        if found is None:
            found = self._paths[peer] = PathMtu(self._settings, now, self._hints.pop(peer, None))
            if len(self._paths) > self._most:
                self._forget(*self._paths.popitem(last=False))
        self._paths.move_to_end(peer)
        return found

    def gone(self, peer: bytes) -> None:
        """Ends the search for a peer that left; what was found is remembered."""
        path = self._paths.pop(peer, None)
        if path is not None:
            self._forget(peer, path)

    def remembered(self) -> dict[bytes, int]:
        """What to keep over a restart."""
        return dict(self._hints) | {peer: path.remembered for peer, path in self._paths.items()}

    def _forget(self, peer: bytes, path: PathMtu) -> None:
        self._hints[peer] = path.remembered
        self._hints.move_to_end(peer)
        while len(self._hints) > self._most:
            self._hints.popitem(last=False)


def room(mtu: int, version: int) -> int:
    """What an MTU leaves for a UDP payload, bytes.

    Args:
        mtu: Of a link or a path, as the kernel and ICMP messages have it.
        version: Of IP: 4 or 6.
    """
    return max(0, mtu - _HEADERS[version])


def segments(size: int, length: int) -> int:
    """How many datagrams of `length` bytes one send with UDP_SEGMENT may carry; 0: none fits.

    Args:
        size: What the path takes (`PathMtu.size`).
        length: Of each datagram but the last, which may be shorter.
    """
    if not 0 < length <= size:
        return 0
    return min(GSO_SEGMENTS_MAX, GSO_BYTES_MAX // length)
