"""The TCP model: what is known of CUBIC, SACK and the timers, seen from outside."""

from __future__ import annotations

import pytest

from assent.errors import InvalidArgument
from assent.sim.world import FOREVER, MILLISECOND, SECOND, START, Link, Stop, World

MSS = 1448
ROOM = 1 << 30
FAST = 10_000_000_000
HEAD = 66 + 24


class Path:
    """One connection over one link each way."""

    def __init__(self, link, size, *, back=None, window=ROOM, seed=1, interface=0, **more):
        self.world = World(seed)
        self.forward = self.world.add_link(link)
        backward = self.world.add_link(back or Link(FAST, link.delay))
        self.world.route(0, 1, self.forward)
        self.world.route(1, 0, backward)
        if interface:
            self.world.set_interface(0, interface)
        self.number = self.world.add_tcp(0, 1, size, window=window, **more)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.world.close()

    def at(self, ns):
        self.world.run(START + ns)
        return self.report()

    def end(self):
        assert self.world.run(FOREVER) is Stop.DONE
        return self.report()

    def report(self):
        return self.world.tcp(self.number)


def outage(begin, end):
    return ((START + begin, START + end),)


def test_the_handshake_takes_a_round_trip_and_ten_segments_follow_at_once():
    with Path(Link(FAST, 50 * MILLISECOND), 1000 * MSS) as path:
        assert path.at(99 * MILLISECOND).segments == 0
        assert path.at(101 * MILLISECOND).segments == 10


def test_slow_start_doubles_in_a_round_trip():
    with Path(Link(FAST, 50 * MILLISECOND), 10_000 * MSS) as path:
        # A moment after each burst has left; the delayed ACK of the odd segment is among them.
        sent = [path.at((100 * round_ + 50) * MILLISECOND).segments for round_ in range(1, 8)]
    bursts = [after - before for before, after in zip([0, *sent], sent, strict=False)]
    assert bursts == [10, 20, 40, 80, 160, 320, 640]


def test_a_clean_link_is_filled_and_nothing_is_sent_twice():
    size = 20_000 * MSS
    with Path(Link(1_000_000_000, 5 * MILLISECOND), size) as path:
        done = path.end()
    assert done.bytes_read == size
    assert done.segments == 20_000
    assert done.retransmissions == done.timeouts == done.reductions == 0
    least = size * (MSS + HEAD) * 8 / MSS + 15 * MILLISECOND
    assert least <= done.completed_at - START <= 1.3 * least


def test_every_second_segment_is_acknowledged():
    with Path(Link(1_000_000_000, MILLISECOND), 1000 * MSS) as path:
        done = path.end()
    assert 500 <= done.acks <= 520


def test_a_last_odd_segment_is_acknowledged_after_40_ms():
    with Path(Link(FAST, MILLISECOND), MSS) as path:
        path.world.run(START + 43 * MILLISECOND)
        assert path.report().acks == 0
        path.world.run(START + 44 * MILLISECOND)
        assert path.report().acks == 1


def test_the_receivers_window_is_not_passed():
    with Path(Link(FAST, 50 * MILLISECOND), 10_000 * MSS, window=32 * MSS) as path:
        done = path.end()
    # A window a round trip.
    assert done.completed_at - START >= (10_000 / 32) * 100 * MILLISECOND
    assert done.retransmissions == 0


def test_one_loss_is_repaired_without_the_timer_and_the_window_shrinks_to_seven_tenths():
    size = 3000 * MSS
    # An instant in which one segment of a long burst leaves.
    link = Link(100_000_000, 20 * MILLISECOND, outages=outage(300_000_000, 300_100_000))
    with Path(link, size) as path:
        before = path.at(299 * MILLISECOND)
        done = path.end()
    assert done.bytes_read == size
    assert done.retransmissions == 1
    assert done.reductions == 1
    assert done.timeouts == 0
    assert before.window < done.threshold / 0.7 < 2.2 * before.window


def test_what_is_lost_twice_is_sent_a_third_time_without_the_timer():
    link = Link(100_000_000, 20 * MILLISECOND, loss=0.02)
    with Path(link, 20_000 * MSS) as path:
        done = path.end()
    assert done.bytes_read == 20_000 * MSS
    # 2 % of 2 % of 20,000 segments are lost twice.
    assert done.retransmissions > 20_000 * 0.02
    assert done.timeouts <= 2


@pytest.mark.parametrize("loss", [0.0003, 0.001, 0.005])
def test_throughput_under_loss_is_what_rfc_9438_says(loss):
    """The larger of CUBIC's and Reno's windows, RFC 9438, figures 5 and 4.3."""
    rtt = 0.1
    link = Link(50_000_000, 50 * MILLISECOND, loss=loss)
    with Path(link, 90_000 * MSS) as path:
        # Not slow start, which ends with the first loss, wherever that is.
        second = 0
        while (early := path.at(second * SECOND)).bytes_read < 30_000 * MSS:
            second += 1
        done = path.end()
    cubic = (0.4 * 3.7 / 1.2) ** 0.25 * rtt**0.75 / loss**0.75
    reno = (1.5 / loss) ** 0.5
    taken = (done.completed_at - START) / SECOND - second
    window = (done.bytes_read - early.bytes_read) / MSS * rtt / taken
    assert 0.7 * max(cubic, reno) <= window <= 1.8 * max(cubic, reno)


def test_a_queue_that_overflows_is_found_and_repaired():
    link = Link(100_000_000, 20 * MILLISECOND, queue=500_000)
    with Path(link, 20_000 * MSS, interface=1_000_000_000) as path:
        done = path.end()
        dropped = path.world.link(path.forward).overflowed
    assert done.bytes_read == 20_000 * MSS
    assert 0 < dropped <= done.retransmissions
    assert done.completed_at - START <= 1.3 * 20_000 * (MSS + HEAD) * 80


def test_a_lost_tail_waits_for_the_timer():
    link = Link(FAST, 50 * MILLISECOND, outages=outage(90 * MILLISECOND, 200 * MILLISECOND))
    with Path(link, 10 * MSS) as path:
        done = path.end()
    assert done.timeouts == 1
    # A smoothed round trip of 100 ms, and 4 times its deviation of 50 ms.
    assert done.completed_at - START >= (100 + 300) * MILLISECOND


def test_the_timer_doubles_while_nothing_arrives():
    link = Link(FAST, 50 * MILLISECOND, outages=outage(90 * MILLISECOND, 20 * SECOND))
    with Path(link, 10 * MSS) as path:
        timeouts = [path.at(ms * MILLISECOND).timeouts for ms in (399, 401, 999, 1001, 2199, 2201)]
        done = path.end()
    assert timeouts == [0, 1, 1, 2, 2, 3]
    assert done.bytes_read == 10 * MSS


def test_a_syn_is_repeated_six_times_and_given_up_after_127_seconds():
    link = Link(FAST, 50 * MILLISECOND, outages=outage(0, 10_000 * SECOND))
    with Path(link, 10 * MSS) as path:
        done = path.end()
        assert path.world.link(path.forward).frames == 7
    assert done.failed_at == START + 127 * SECOND
    assert done.completed_at == done.bytes_read == 0


def test_a_connection_is_given_up_after_fifteen_timeouts():
    link = Link(FAST, 50 * MILLISECOND, outages=outage(90 * MILLISECOND, 10**6 * SECOND))
    with Path(link, 10 * MSS) as path:
        done = path.end()
    assert done.timeouts == 15
    assert 900 * SECOND <= done.failed_at - START <= 1200 * SECOND


def test_at_mars_it_finds_no_connection_and_a_patient_one_does():
    far = Link(1_000_000, 600 * SECOND)
    with Path(far, 10 * MSS, back=far) as path:
        assert path.end().failed_at == START + 127 * SECOND
    with Path(far, 10 * MSS, back=far, patient_rtt=1200 * SECOND) as path:
        done = path.end()
    assert done.failed_at == done.timeouts == 0
    assert 1800 * SECOND <= done.completed_at - START <= 1801 * SECOND


@pytest.mark.parametrize("seed", range(20))
def test_all_bytes_arrive_in_any_weather(seed):
    rough = Link(
        50_000_000,
        10 * MILLISECOND,
        jitter=MILLISECOND,
        queue=100_000,
        loss=0.05,
        duplicate=0.05,
        reorder=0.1,
        reorder_delay=20 * MILLISECOND,
    )
    size = 500 * MSS + seed
    with Path(rough, size, back=rough, seed=seed) as path:
        done = path.end()
        assert sum(path.world.samples(path.number + 1)) in (0, size)
    assert done.bytes_read == size
    assert done.completed_at


def test_the_same_seed_is_the_same_connection():
    rough = Link(50_000_000, 10 * MILLISECOND, loss=0.02, reorder=0.1, reorder_delay=MILLISECOND)

    def run(seed):
        with Path(rough, 500 * MSS, seed=seed) as path:
            return path.end()

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_samples_add_up_to_what_was_read():
    with Path(Link(100_000_000, MILLISECOND), 1000 * MSS, sample=10 * MILLISECOND) as path:
        path.end()
        samples = path.world.samples(path.number + 1)
    assert sum(samples) == 1000 * MSS
    assert len(samples) == pytest.approx(1000 * (MSS + HEAD) * 8 / 100e6 * 100, abs=3)


@pytest.mark.parametrize(
    ("host", "peer", "size", "window"),
    [(0, 0, 1, ROOM), (0, 2, 1, ROOM), (0, 1, 0, ROOM), (0, 1, 1, 1)],
)
def test_a_connection_that_cannot_be_is_refused(host, peer, size, window):
    with World(1) as world, pytest.raises(InvalidArgument, match="connection"):
        world.add_tcp(host, peer, size, window=window)
