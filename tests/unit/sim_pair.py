"""Two hosts of the simulator with one flow between them, and what must be true in the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from assent.sim.world import (
    SECOND,
    START,
    FlowReport,
    GateReport,
    Link,
    LinkReport,
    Stop,
    Traffic,
    World,
)
from assent.wire.control import Delivery

LEFT, RIGHT = 0, 1
HOSTS = (LEFT, RIGHT)
SILENCE = 30 * SECOND
# How long the hosts are watched after both were done: what was lost last is asked for by then.
SETTLING = 20
NEVER_AGAIN = 2**64 - 1


@dataclass(frozen=True)
class Plan:
    """What two hosts do, over which links; (left's, right's) where there are two of a thing."""

    links: tuple[Link, Link]
    traffic: tuple[Traffic, Traffic]
    seed: int = 1
    delivery: Delivery = Delivery.ORDERED
    windows: tuple[int, int] = (16_384, 16_384)
    rates: tuple[int, int] = (0, 0)
    grant_shift: int = 0
    replay_len: int = 2048
    receipt_fraction: int = 0
    lamp: bool = False
    rtt_hint: int = 0
    interface: int = 0

    @property
    def rtt(self) -> int:
        return sum(link.delay + link.jitter + link.reorder_delay for link in self.links)


def both(link: Link) -> tuple[Link, Link]:
    return link, link


@dataclass
class Played:
    """What came of a plan.

    Attributes:
        flows: as they were when both were done.
        settled: as they were a while later.
    """

    plan: Plan
    flows: tuple[FlowReport, FlowReport]
    settled: tuple[FlowReport, FlowReport]
    gates: tuple[GateReport, ...]
    links: tuple[LinkReport, ...]
    done: bool
    time: int
    trace: tuple[int, ...] = field(default=())


def pair(world: World, plan: Plan) -> tuple[int, int]:
    """Lays the links, sets up sessions under fixed keys, and opens both sides of the flow."""
    forward, backward = (world.add_link(link) for link in plan.links)
    world.route(LEFT, RIGHT, forward)
    world.route(RIGHT, LEFT, backward)
    for host in HOSTS:
        world.set_cell(host, bytes([host + 1]) * 16)
        if plan.interface:
            world.set_interface(host, plan.interface)
    for host in HOSTS:
        world.introduce(host, 1 - host, bytes(16))
        world.establish(host, 1 - host, bytes([2 - host]) * 16, 0, 0)
    left, right = (world.add_flow(**config(plan, host)) for host in HOSTS)
    return left, right


def config(plan: Plan, host: int) -> dict[str, object]:
    mine, theirs = plan.traffic[host], plan.traffic[1 - host]
    stall = mine.stall or (0, 0)
    return {
        "host": host,
        "peer": 1 - host,
        "number": 1,
        "tx_payload_key": bytes([host + 1]) * 32,
        "rx_payload_key": bytes([2 - host]) * 32,
        "tx_header_key": bytes([host + 1]) * 16,
        "epoch": 1,
        "mtu": 1500,
        "rx_window": plan.windows[host],
        "tx_window": plan.windows[1 - host],
        "replay_len": plan.replay_len,
        "grant_shift": plan.grant_shift,
        "rx_blocks_per_second": plan.rates[host],
        "delivery": plan.delivery,
        "receipt_fraction": plan.receipt_fraction,
        "lamp": plan.lamp,
        "rtt_hint": plan.rtt_hint,
        "messages": mine.messages,
        "size_min": mine.size[0],
        "size_max": mine.size[1],
        "gap": mine.gap,
        "coalesce": mine.coalesce,
        "stall_from": stall[0],
        "stall_until": stall[1],
        "pattern": plan.seed,
        "expected": theirs.messages,
        "expected_min": theirs.size[0],
        "expected_max": theirs.size[1],
    }


def play(plan: Plan, limit: int = 100_000 * SECOND) -> Played:
    """Runs a plan until both are done or failed, then on for a while; raises `Broken`."""
    with World(plan.seed) as world:
        flows = pair(world, plan)
        done = world.run(START + limit) is Stop.DONE
        time = world.now - START
        left, right = (world.flow(one) for one in flows)
        world.run(world.now + SETTLING * max(plan.rtt, SECOND))
        left_later, right_later = (world.flow(one) for one in flows)
        return Played(
            plan,
            (left, right),
            (left_later, right_later),
            tuple(world.gate(host) for host in HOSTS),
            tuple(world.link(number) for number in (0, 1)),
            done,
            time,
        )


def assert_delivered(played: Played) -> None:
    """All messages of both directions were read as the flow promises, and both have ended."""
    for host, flow in enumerate(played.flows):
        assert not flow.error, f"{host}: {flow.sentence}"
        expected = played.plan.traffic[1 - host].messages
        assert flow.messages_written == played.plan.traffic[host].messages
        if played.plan.delivery is Delivery.BEST_EFFORT:
            assert flow.messages_read <= expected
        else:
            assert flow.messages_read == expected
        assert flow.ended_at
        assert flow.drained_at
    assert played.done


def assert_books_balance(played: Played) -> None:
    """All credit is back: what was charged was consumed, and is granted again.

    Where a link loses frames, some that carry no message may be missing when all is done; whatever
    came after them waits for them.
    """
    lost = sum(link.lost + link.overflowed + link.obscured for link in played.links)
    for host, flow in enumerate(played.settled):
        books, theirs = flow.books, played.settled[1 - host].books
        assert theirs.tx_granted <= books.rx_granted
        assert books.rx_spent <= theirs.tx_spent <= theirs.tx_granted
        assert books.rx_granted - books.rx_spent <= books.rx_window
        if not lost:
            assert books.rx_granted - books.rx_spent == books.rx_window
            assert books.rx_spent == theirs.tx_spent


def assert_honest(played: Played) -> None:
    """The gates refused nothing but what they had seen."""
    for gate in played.gates:
        assert gate.refused == 0, f"reason {gate.last}"


def check(played: Played) -> Played:
    assert_delivered(played)
    assert_books_balance(played)
    assert_honest(played)
    return played


def with_loss(plan: Plan, loss: float) -> Plan:
    return replace(plan, links=tuple(replace(link, loss=loss) for link in plan.links))
