# SPDX-License-Identifier: Apache-2.0
"""Runs a scenario: the fabric's engine from its first SYN on, and the TCP model beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from assent.handshake.utcp import RESEND_FIRST, LocalOffer
from assent.sim.meeting import Meeting, Session, timers_for, wall_offset
from assent.sim.scenarios import MTU, REPLAY_MAX, Scenario
from assent.sim.world import FOREVER, SECOND, START, FlowReport, Stop, TcpReport, World

_RECEIVER: Final = 0
# Buckets of throughput in the least time that the file can take.
_BUCKETS: Final = 120
# After how many times the least time a run is given up.
_PATIENCE: Final = 2_000
# Blocks of credit for the side that sends receipts alone.
_BACK_WINDOW: Final = 16_384
# What a host of today has room for on a connection at least (Linux: tcp_rmem), bytes.
_TCP_WINDOW: Final = 6 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one protocol made of a scenario.

    Attributes:
        protocol: Its name, for readers.
        time: ns from the first frame to the last byte read; 0 = it did not get there.
        delivered: bytes.
        use: How much of the time the narrow link's transmitter worked, 0 to 1.
        frames: That the senders' side sent.
        retransmissions: Among them.
        control: Frames without content, from either side.
        dropped: Frames for which the link's queue had no room.
        failure: Why it did not get there; empty where it did.
        sample: ns of a bucket of `samples`.
        samples: bytes read in each.
    """

    protocol: str
    time: int
    delivered: int
    use: float
    frames: int
    retransmissions: int
    control: int
    dropped: int
    failure: str
    sample: int
    samples: tuple[int, ...]

    @property
    def goodput(self) -> float:
        """bit/s."""
        return self.delivered * 8 * SECOND / self.time if self.time else 0.0


def lay_links(world: World, scenario: Scenario) -> tuple[int, int]:
    """Lays the narrow link each way between the receiver (host 0) and all senders (from 1 on)."""
    forward, backward = world.add_link(scenario.link()), world.add_link(scenario.link())
    for sender in range(1, scenario.senders + 1):
        world.route(sender, _RECEIVER, forward)
        world.route(_RECEIVER, sender, backward)
    if scenario.interface:
        for host in range(scenario.senders + 1):
            world.set_interface(host, scenario.interface)
    return forward, backward


class _FabricRun:
    """A world in which the senders connect, and send as soon as they may."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self.scenario = scenario
        self.forward, self.backward = lay_links(world, scenario)
        self.sample = max(scenario.bound // _BUCKETS, 1)
        self.sinks: list[int] = []
        self.sources: list[int] = []
        timers = timers_for(scenario.rtt)
        hint = scenario.rtt if timers.resend_first > RESEND_FIRST else 0
        self.meeting = Meeting(world, scenario.senders + 1, scenario.seed, timers, hint, self._open)
        for sender in range(1, scenario.senders + 1):
            self.meeting.introduce(sender, _RECEIVER, self._offers())

    def _offers(self) -> tuple[LocalOffer, LocalOffer]:
        scenario = self.scenario
        shift = scenario.grant_shift
        flows = range(1, scenario.flows + 1)
        sender = LocalOffer(dict.fromkeys(flows, _BACK_WINDOW), shift, MTU)
        receiver = LocalOffer(dict.fromkeys(flows, scenario.blocks), shift, MTU)
        return sender, receiver

    def _open(self, session: Session) -> None:
        for flow in session.offered.grants:
            number = self.world.add_flow(**self._config(session, flow))
            (self.sources if session.initiator else self.sinks).append(number)

    def _config(self, session: Session, flow: int) -> dict[str, Any]:
        messages, size = self.scenario.share(flow - 1), self.scenario.message
        sends = session.initiator
        return {
            "host": session.host,
            "peer": session.peer,
            "number": flow,
            "tx_payload_key": session.keys.tx_payload,
            "rx_payload_key": session.keys.rx_payload,
            "tx_header_key": session.keys.tx_header,
            "epoch": session.keys.epoch,
            "mtu": min(MTU, session.agreed.mtu),
            "rx_window": session.offered.grants[flow],
            "tx_window": session.agreed.grants[flow],
            "replay_len": REPLAY_MAX,
            "grant_shift": session.grant_shift,
            "rtt_hint": session.rtt,
            "wall": wall_offset(session.host),
            "messages": messages if sends else 0,
            "size_min": size,
            "size_max": size,
            "expected": 0 if sends else messages,
            "expected_min": size,
            "expected_max": size,
            "sample": 0 if sends else self.sample,
            "pattern": self.scenario.seed + flow,
        }

    def run(self, until: int) -> None:
        """Until all that was to be sent is read and receipted, or time is up."""
        pairs = 2 * self.scenario.senders * self.scenario.flows
        while self.world.now < until:
            deadline = self.meeting.next_deadline()
            stop = self.world.run(until if deadline is None else min(deadline, until))
            if stop is Stop.CONTROL:
                self.meeting.take()
            elif stop is Stop.DONE and len(self.sources) + len(self.sinks) == pairs:
                return
            elif deadline is not None and self.world.now >= deadline:
                self.meeting.tick()


def run_fabric(scenario: Scenario) -> Outcome:
    """The engine behind the real verdict, handshake included."""
    with World(scenario.seed, scenario.senders + 1, scenario.flows) as world:
        made = _FabricRun(world, scenario)
        made.run(_horizon(scenario))
        sinks = [world.flow(number) for number in made.sinks]
        sources = [world.flow(number) for number in made.sources]
        time = _fabric_time(scenario, sinks)
        return Outcome(
            protocol="Assent",
            time=time,
            delivered=sum(one.bytes_read for one in sinks),
            use=_use(world, made.forward, time),
            frames=sum(one.tx_frames for one in sources),
            retransmissions=sum(one.retransmissions for one in sources),
            control=sum(one.control_frames for one in (*sinks, *sources)),
            dropped=world.link(made.forward).overflowed,
            failure="" if time else _fabric_failure([*sources, *sinks]),
            sample=made.sample,
            samples=_added([world.samples(number) for number in made.sinks]),
        )


def _horizon(scenario: Scenario) -> int:
    return min(START + _PATIENCE * scenario.bound, FOREVER - 1)


def _fabric_time(scenario: Scenario, sinks: Sequence[FlowReport]) -> int:
    expected = scenario.senders * scenario.carried
    if sum(one.bytes_read for one in sinks) < expected:
        return 0
    return max(one.last_read_at for one in sinks) - START


def _fabric_failure(flows: Sequence[FlowReport]) -> str:
    if not flows:
        return "no session came about"
    return next((one.sentence for one in flows if one.error), "it was not done in time")


def run_tcp(scenario: Scenario, *, patient: bool = False) -> Outcome:
    """The TCP model over the same links, with the same seed.

    Args:
        scenario: Where, and how much.
        patient: Its timers follow the distance; without that they are Linux's.
    """
    with World(scenario.seed, scenario.senders + 1) as world:
        forward, _ = lay_links(world, scenario)
        sample = max(scenario.bound // _BUCKETS, 1)
        numbers = [
            world.add_tcp(
                sender,
                _RECEIVER,
                scenario.share(flow) * scenario.message,
                window=_tcp_window(scenario),
                patient_rtt=scenario.rtt if patient else 0,
                sample=sample,
            )
            for sender in range(1, scenario.senders + 1)
            for flow in range(scenario.flows)
        ]
        world.run(_horizon(scenario))
        reports = [world.tcp(number) for number in numbers]
        time = max(one.completed_at for one in reports) - START
        if not all(one.completed_at for one in reports):
            time = 0
        return Outcome(
            protocol="TCP, patient" if patient else "TCP",
            time=time,
            delivered=sum(one.bytes_read for one in reports),
            use=_use(world, forward, time),
            frames=sum(one.segments for one in reports),
            retransmissions=sum(one.retransmissions for one in reports),
            control=sum(one.acks for one in reports),
            dropped=world.link(forward).overflowed,
            failure="" if time else _tcp_failure(reports),
            sample=sample,
            samples=_added([world.samples(number + 1) for number in numbers]),
        )


def _tcp_window(scenario: Scenario) -> int:
    """As much room as the fabric's receiver has, and what a host has anyway."""
    return max(scenario.window_bytes // scenario.flows, _TCP_WINDOW)


def _tcp_failure(reports: Sequence[TcpReport]) -> str:
    failed = [one for one in reports if one.failed_at]
    if not failed:
        return "it was not done in time"
    after = max(one.failed_at for one in failed) - START
    what = "gave up" if any(one.bytes_read for one in failed) else "found no connection"
    return f"{what} after {after / SECOND:.0f} s"


def _use(world: World, link: int, time: int) -> float:
    return min(world.link(link).busy / time, 1.0) if time else 0.0


def _added(columns: Sequence[Sequence[int]]) -> tuple[int, ...]:
    longest = max((len(column) for column in columns), default=0)
    total = [0] * longest
    for column in columns:
        for at, count in enumerate(column):
            total[at] += count
    return tuple(total)
