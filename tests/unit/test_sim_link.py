"""The simulator's links: when a frame arrives, or that it does not."""

import pytest

from assent.errors import InvalidArgument
from assent.sim.world import MILLISECOND, SECOND, START, Link, World

EMPTY = bytes(64)


def send(link, frames, *, gap=0, seed=1, length=64):
    """Sends control frames that nobody knows; returns what the link made of them."""
    with World(seed) as world:
        number = world.add_link(link)
        world.route(0, 1, number)
        for _ in range(frames):
            world.send(0, 1, bytes(length))
            world.run(world.now + gap)
        world.run(world.now + 1000 * SECOND)
        return world.link(number), world.gate(1)


def arrived(gate):
    return gate.admitted + gate.replayed + gate.refused


def test_all_frames_of_a_good_link_arrive():
    link, gate = send(Link(10**9, MILLISECOND), 1000)
    assert link.frames == arrived(gate) == 1000
    assert link.lost == link.overflowed == link.obscured == link.duplicated == 0


def test_the_transmitter_works_as_long_as_the_rate_says():
    link, _ = send(Link(8_000_000, MILLISECOND), 10, length=986)
    # Ethernet's header, and 24 bytes of preamble, check sequence and gap.
    assert link.busy == 10 * (986 + 14 + 24) * 1000


def test_a_frame_arrives_after_its_transmission_and_the_delay():
    with World(1) as world:
        world.route(0, 1, world.add_link(Link(8_000_000, 5 * MILLISECOND)))
        world.send(0, 1, EMPTY)
        takes = (64 + 14 + 24) * 1000
        world.run(START + takes + 5 * MILLISECOND - 1)
        assert arrived(world.gate(1)) == 0
        world.run(START + takes + 5 * MILLISECOND)
        assert arrived(world.gate(1)) == 1


@pytest.mark.parametrize("loss", [0.001, 0.1, 0.5])
def test_loss_is_as_frequent_as_it_is_said_to_be(loss):
    link, gate = send(Link(10**9, 0, loss=loss), 20_000)
    assert link.lost == pytest.approx(20_000 * loss, rel=0.3)
    assert arrived(gate) == 20_000 - link.lost


def test_bursts_are_as_long_as_the_state_lasts():
    link, _ = send(Link(10**9, 0, burst_enter=0.01, burst_leave=0.1, burst_loss=1.0), 50_000)
    # In the bad state a frame in eleven.
    assert link.lost == pytest.approx(50_000 / 11, rel=0.2)


def test_a_duplicate_is_a_second_arrival():
    link, gate = send(Link(10**9, 0, duplicate=0.2), 5000)
    assert link.duplicated == pytest.approx(1000, rel=0.2)
    assert arrived(gate) == 5000 + link.duplicated


def test_what_leaves_in_an_outage_is_lost():
    outages = ((START + 2 * SECOND, START + 4 * SECOND),)
    link, gate = send(Link(10**9, 0, outages=outages), 10, gap=SECOND)
    assert link.obscured == 2
    assert arrived(gate) == 8


def test_a_full_queue_drops_what_comes_last():
    with World(1) as world:
        number = world.add_link(Link(1_000_000, 0, queue=10_000))
        world.route(0, 1, number)
        world.set_interface(0, 10**9)
        for _ in range(50):
            world.send(0, 1, bytes(986))
        world.run(START + 10 * SECOND)
        link = world.link(number)
    assert link.queue_max <= 10_000
    assert 50 - link.overflowed in range(9, 12)


def test_an_interface_without_a_rate_waits_for_the_link():
    with World(1) as world:
        number = world.add_link(Link(1_000_000, 0, queue=1000))
        world.route(0, 1, number)
        for _ in range(50):
            world.send(0, 1, bytes(986))
        world.run(START + 10 * SECOND)
        assert world.link(number).overflowed == 0


def test_the_same_seed_is_the_same_weather():
    rough = Link(10**9, MILLISECOND, jitter=MILLISECOND, loss=0.1, duplicate=0.1, reorder=0.2)
    assert send(rough, 2000, seed=7) == send(rough, 2000, seed=7)
    assert send(rough, 2000, seed=7) != send(rough, 2000, seed=8)


def test_a_link_without_a_rate_is_refused():
    with World(1) as world, pytest.raises(InvalidArgument, match="link"):
        world.add_link(Link(0, 0))


def test_more_outages_than_a_link_can_have_are_refused():
    outages = tuple((at, at + 1) for at in range(65))
    with World(1) as world, pytest.raises(InvalidArgument, match="outages"):
        world.add_link(Link(1, 0, outages=outages))


def test_a_route_needs_its_hosts_and_its_link():
    with World(1) as world:
        world.add_link(Link(1, 0))
        for route in ((0, 2, 0), (2, 0, 0), (0, 1, 1)):
            with pytest.raises(InvalidArgument, match="link"):
                world.route(*route)
