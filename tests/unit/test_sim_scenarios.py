"""The scenarios: what follows from their numbers, what comes of them, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from assent.cli.main import app
from assent.sim import plots, report
from assent.sim.run import run_fabric, run_tcp
from assent.sim.scenarios import (
    BLOCKS,
    DISTANCES,
    REPLAY_MAX,
    SCENARIOS,
    Scenario,
    find,
    with_seed,
)
from assent.sim.world import MILLISECOND, SECOND

SMALL = Scenario(
    "small", "A small one", rate=100_000_000, rtt=20 * MILLISECOND, size=1 << 20, loss=0.01, seed=2
)


@pytest.mark.parametrize("scenario", [*SCENARIOS, *DISTANCES], ids=lambda one: one.name)
def test_a_window_fits_the_grant_field_and_the_replay_window(scenario):
    unit = 1 << scenario.grant_shift
    assert scenario.blocks % unit == 0
    assert scenario.blocks // unit <= 0x7FFF
    assert scenario.blocks // BLOCKS <= REPLAY_MAX - 64


def test_names_are_unique():
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)
    assert find("mars").title.startswith("Mars")
    assert find("pluto") is None


def test_the_bound_is_a_round_trip_the_transmission_and_the_way():
    one = replace(SMALL, size=65_536 * 100, rate=65_536 * 800, rtt=2 * SECOND)
    assert one.carried == 65_536 * 100
    assert one.bound == (2 + 1 + 1) * SECOND


def test_an_outage_during_the_transmission_is_added_to_the_bound():
    one = replace(SMALL, size=65_536 * 1000, rate=65_536 * 800, rtt=2 * SECOND)
    assert one.bound == 13 * SECOND
    seconds = {
        ((3, 5),): 2,
        ((0, 1),): 0,
        ((1, 4),): 2,
        ((12, 20),): 0,
        ((13, 20),): 0,
        ((3, 4), (5, 7)): 3,
        ((5, 7), (3, 4)): 3,
    }
    for outages, longer in seconds.items():
        given = tuple((begin * SECOND, end * SECOND) for begin, end in outages)
        assert replace(one, outages=given).bound == (13 + longer) * SECOND


def test_all_senders_share_the_link():
    assert replace(SMALL, senders=4).bound > 3 * (SMALL.bound - SMALL.rtt)


def test_a_file_is_shared_out_among_the_flows_in_whole_messages():
    one = replace(SMALL, size=10 * SMALL.message + 1, flows=4)
    assert [one.share(flow) for flow in range(4)] == [3, 3, 3, 2]
    assert one.carried == 11 * one.message


def test_a_window_in_a_round_trip_is_the_other_bound():
    one = replace(SMALL, window=100 * BLOCKS)
    assert one.window_bound > one.carried / one.window_bytes * one.rtt


def test_the_fabric_sends_a_file_with_its_handshake():
    made = run_fabric(SMALL)
    assert made.delivered == SMALL.carried
    assert not made.failure
    assert SMALL.bound < made.time < 2 * SMALL.bound
    assert made.retransmissions > 0
    assert sum(made.samples) == made.delivered


def test_on_a_clean_link_the_fabric_sends_nothing_twice():
    made = run_fabric(replace(SMALL, loss=0.0))
    assert made.retransmissions == made.dropped == 0
    # A receipt an eighth of the window, and what ends the flow.
    assert made.control <= 8 * SMALL.carried / SMALL.window_bytes + 12


def test_tcp_sends_the_same_file():
    made = run_tcp(SMALL)
    assert made.delivered == SMALL.carried
    assert made.time > SMALL.bound
    assert sum(made.samples) == made.delivered


def test_the_same_seed_is_the_same_result_and_another_is_not():
    assert run_fabric(SMALL) == run_fabric(SMALL)
    assert run_tcp(SMALL) == run_tcp(SMALL)
    assert run_fabric(with_seed(SMALL, 3)) != run_fabric(SMALL)


def test_several_flows_share_the_work():
    made = run_fabric(replace(SMALL, flows=4, size=4 << 20))
    assert made.delivered == 4 << 20
    assert not made.failure


def test_sixty_four_senders_lose_nothing_for_lack_of_buffer():
    """Each grant is backed by room on the way: incast drops TCP's segments and no frame."""
    ours, theirs = run_fabric(find("incast")), run_tcp(find("incast"))
    assert ours.dropped == ours.retransmissions == 0
    assert theirs.dropped > 0
    assert ours.time < theirs.time


def test_the_handshake_and_the_flow_hold_at_mars():
    far = replace(find("mars"), size=4 << 20, flows=2, outages=())
    made = run_fabric(far)
    assert made.delivered == far.carried
    assert made.time < 2 * far.bound
    assert run_tcp(far).failure == "found no connection after 127 s"
    assert run_tcp(far, patient=True).time > made.time


def test_a_link_that_is_out_for_good_is_said_to_have_given_no_session():
    dead = replace(SMALL, outages=((0, 10**9 * SECOND),))
    made = run_fabric(replace(dead, rtt=2 * MILLISECOND))
    assert made.time == made.delivered == 0
    assert made.failure == "no session came about"


@pytest.mark.parametrize(
    ("ns", "words"),
    [
        (12_345, "12.3 µs"),
        (1_500_000, "1.50 ms"),
        (1_500_000_000, "1.50 s"),
        (90 * SECOND, "90.0 s"),
        (150 * SECOND, "2.50 min"),
        (7201 * SECOND, "2.00 h"),
    ],
)
def test_times_are_told_with_three_digits(ns, words):
    assert report.duration(ns) == words


@pytest.mark.parametrize(
    ("bits", "words"),
    [(12.0, "12.0 bit/s"), (1500.0, "1.50 kbit/s"), (2e6, "2.00 Mbit/s"), (9.9e9, "9.90 Gbit/s")],
)
def test_rates_are_told_with_three_digits(bits, words):
    assert report.rate(bits) == words


def results():
    plain = run_tcp(SMALL)
    failed = replace(plain, time=0, failure="found no connection after 127 s")
    ours = replace(plain, protocol="Assent")
    return [report.Result(SMALL, (ours, failed, replace(plain, protocol="TCP, patient")))]


def test_the_page_has_a_table_a_scenario_and_one_of_distances():
    page = report.markdown(results(), results())
    assert "## A small one" in page
    assert "found no connection after 127 s" in page
    rows = [line for line in page.splitlines() if line.startswith("| Assent |")]
    assert len(rows) == 1
    assert rows[0].count("|") == 9
    assert "| small |" in page


def test_the_numbers_are_json():
    told = json.loads(report.as_json(results(), []))
    (scenario,) = told["scenarios"]
    assert scenario["bound"] == SMALL.bound
    assert [one["protocol"] for one in scenario["outcomes"]] == ["Assent", "TCP", "TCP, patient"]
    assert told["distances"] == []


def test_pictures_are_drawn_and_the_same_run_draws_the_same_ones(tmp_path):
    made = plots.draw(results(), results(), tmp_path)
    assert {path.name for path in made} == {
        *("throughput.png", "progress.png", "times.png", "distance.png")
    }
    first = [path.read_bytes() for path in made]
    assert [path.read_bytes() for path in plots.draw(results(), results(), tmp_path)] == first
    assert all(content.startswith(b"\x89PNG") for content in first)


def invoke(*arguments):
    return CliRunner().invoke(app, ["sim", *arguments])


def test_the_command_lists_all_scenarios():
    told = invoke("list")
    assert told.exit_code == 0
    assert all(one.name in told.output for one in SCENARIOS)


def test_the_command_runs_what_is_named():
    told = invoke("run", "incast", "--json")
    assert told.exit_code == 0
    (scenario,) = json.loads(told.stdout)["scenarios"]
    assert scenario["name"] == "incast"
    assert scenario["outcomes"][0]["dropped"] == 0


def test_the_command_tells_a_name_that_there_is_not():
    told = invoke("run", "pluto")
    assert told.exit_code != 0
    assert "'pluto' is no scenario; there are datacentre" in told.output


def test_the_command_writes_its_table(tmp_path):
    told = invoke("run", "incast", "--output", str(tmp_path / "sim"))
    assert told.exit_code == 0
    assert (tmp_path / "sim" / "table.md").read_text().startswith("# Any distance")
    assert (tmp_path / "sim" / "results.json").exists()
    assert (tmp_path / "sim" / "times.png").exists()
