# SPDX-License-Identifier: Apache-2.0
"""Places to send between, from a rack to Mars: data, and what follows from it alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from assent.sim.world import MICROSECOND, MILLISECOND, SECOND, START, Link

MTU: Final = 1500
# Of a full frame: its payload, the messages' bytes in it (without the AEAD tag and one record's
# head), and what it costs.
PAYLOAD: Final = (MTU - 64) // 64 * 64
CONTENT: Final = PAYLOAD - 16 - 2
BLOCKS: Final = 1 + PAYLOAD // 64
ON_WIRE: Final = 14 + 64 + PAYLOAD + 24
REPLAY_MAX: Final = 8192
# What an engine keeps of the window for frames that are not data, and a receipt's share of it.
_NUMBERS: Final = REPLAY_MAX - 128
_FIELD: Final = 0x7FFF
_MIB: Final = 1 << 20
_GIGA: Final = 1_000_000_000
_MEGA: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file that goes from one host (or several) to another.

    Attributes:
        name: For the command line.
        title: For readers.
        rate: bit/s of the narrow link, each way.
        rtt: ns there and back, without queues and transmission.
        size: bytes of the file, of each sender.
        loss: probability a frame, each way.
        queue: bytes that may wait for the narrow link; 0 = the sender's own interface is the
            narrow link, and makes the sender wait.
        interface: bit/s of the hosts' interfaces; 0 = the link's.
        flows: How many flows carry the file, a share each; TCP has as many connections.
        window: blocks that a flow's sender is granted; 0 = what `windows` reckons.
        spread: How many bandwidth-delay products the windows together hold.
        outages: Intervals, ns from the beginning, in which the forward and the backward link carry
            nothing.
        senders: Hosts that send to the one receiver.
        message: bytes of a message.
        seed: Of the run.
    """

    name: str
    title: str
    rate: int
    rtt: int
    size: int
    loss: float = 0.0
    queue: int = 0
    interface: int = 0
    flows: int = 1
    window: int = 0
    spread: float = 2.0
    outages: tuple[tuple[int, int], ...] = ()
    senders: int = 1
    message: int = 65_536
    seed: int = 1

    @property
    def product(self) -> int:
        """The bandwidth-delay product, bytes."""
        return self.rate * self.rtt // (8 * SECOND)

    @property
    def grant_shift(self) -> int:
        """The least unit of grants in which a window fits half the field's range."""
        shift = 0
        while self._blocks() > _FIELD << shift:
            shift += 1
        return shift

    @property
    def blocks(self) -> int:
        """Each flow's window in blocks: whole units of grants."""
        unit = 1 << self.grant_shift
        return max(self._blocks() // unit, 4) * unit

    @property
    def window_bytes(self) -> int:
        """What all windows together hold of the file, bytes."""
        return self.flows * (self.blocks // BLOCKS) * CONTENT

    def _blocks(self) -> int:
        if self.window:
            return self.window
        frames = math.ceil(self.spread * self.product / ON_WIRE / self.flows) + 64
        return min(frames, _NUMBERS) * BLOCKS

    def link(self) -> Link:
        """One direction of the narrow link."""
        outages = tuple((START + begin, START + end) for begin, end in self.outages)
        return Link(self.rate, self.rtt // 2, queue=self.queue, loss=self.loss, outages=outages)

    def share(self, flow: int) -> int:
        """Messages of the file that a flow carries."""
        total = -(-self.size // self.message)
        return total // self.flows + (flow < total % self.flows)

    @property
    def carried(self) -> int:
        """Bytes of a sender's file, in whole messages."""
        return sum(self.share(flow) for flow in range(self.flows)) * self.message

    @property
    def bound(self) -> int:
        """Ns that any protocol needs that begins with a round trip of greetings.

        A round trip, then what the link needs for all the bytes (without headers, without loss, but
        with the outages), then the way there.
        """
        sent = self._clear_of_outages(
            self.rtt, self.senders * self.carried * 8 * SECOND // self.rate
        )
        return sent + self.rtt // 2

    @property
    def window_bound(self) -> int:
        """Ns that the windows allow at best: one of them in a round trip; without outages."""
        rounds = max(self.carried / self.window_bytes - 1, 0)
        return round(self.rtt * (1.5 + rounds))

    def _clear_of_outages(self, begin: int, needed: int) -> int:
        at = begin
        for lost_from, lost_until in sorted(self.outages):
            if at >= lost_until:
                continue
            clear = max(lost_from - at, 0)
            if clear >= needed:
                break
            needed -= clear
            at = lost_until
        return at + needed


PLACES: Final[tuple[Scenario, ...]] = (
    Scenario(
        "datacentre",
        "Data centre, 10 Gbit/s, 10 µs",
        rate=10 * _GIGA,
        rtt=10 * MICROSECOND,
        size=256 * _MIB,
        window=16_384,
    ),
    Scenario(
        "wan",
        "WAN, 100 Mbit/s, 80 ms, 0.1 % loss",
        rate=100 * _MEGA,
        rtt=80 * MILLISECOND,
        size=128 * _MIB,
        loss=0.001,
        spread=3.0,
    ),
    Scenario(
        "midpath",
        "The same, narrow in mid-path, 1.5 MB of buffer",
        rate=100 * _MEGA,
        rtt=80 * MILLISECOND,
        size=128 * _MIB,
        loss=0.001,
        queue=1_500_000,
        interface=_GIGA,
        spread=1.5,
    ),
    Scenario(
        "geostationary",
        "Geostationary, 20 Mbit/s, 600 ms, 1 % loss",
        rate=20 * _MEGA,
        rtt=600 * MILLISECOND,
        size=64 * _MIB,
        loss=0.01,
        spread=4.0,
    ),
    Scenario(
        "moon",
        "Moon, 100 Mbit/s, 2.56 s, 0.1 % loss",
        rate=100 * _MEGA,
        rtt=2_560 * MILLISECOND,
        size=256 * _MIB,
        loss=0.001,
        flows=8,
        spread=3.0,
    ),
    Scenario(
        "mars",
        "Mars, 1 Mbit/s, 20 min, 0.1 % loss, occultation of 10 min",
        rate=_MEGA,
        rtt=1_200 * SECOND,
        size=192 * _MIB,
        loss=0.001,
        flows=32,
        spread=2.0,
        outages=((1_800 * SECOND, 2_400 * SECOND),),
    ),
)

# The same file over the same link, the other end ever farther away.
DISTANCES: Final = tuple(
    Scenario(
        name,
        f"10 MiB, 10 Mbit/s, {name}, 0.1 % loss",
        rate=10 * _MEGA,
        rtt=rtt,
        size=10 * _MIB,
        loss=0.001,
        spread=8.0,
    )
    for name, rtt in (
        ("100 µs", 100 * MICROSECOND),
        ("1 ms", MILLISECOND),
        ("10 ms", 10 * MILLISECOND),
        ("80 ms", 80 * MILLISECOND),
        ("300 ms", 300 * MILLISECOND),
        ("600 ms", 600 * MILLISECOND),
        ("2.56 s", 2_560 * MILLISECOND),
        ("10 s", 10 * SECOND),
        ("1 min", 60 * SECOND),
        ("8 min", 480 * SECOND),
        ("20 min", 1_200 * SECOND),
        ("44 min", 2_640 * SECOND),
    )
)

INCAST: Final = Scenario(
    "incast",
    "Incast, 64 senders, 10 Gbit/s, 40 µs, 1 MiB of buffer",
    rate=10 * _GIGA,
    rtt=40 * MICROSECOND,
    size=_MIB,
    queue=_MIB,
    interface=10 * _GIGA,
    senders=64,
    window=240,
)

SCENARIOS: Final = (*PLACES, INCAST)


def find(name: str) -> Scenario | None:
    """The scenario of this name."""
    return next((one for one in SCENARIOS if one.name == name), None)


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    """The same with other weather."""
    return replace(scenario, seed=seed)
