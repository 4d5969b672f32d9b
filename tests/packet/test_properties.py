# SPDX-License-Identifier: Apache-2.0
"""What the gate promises whatever is sent, asked of the compiled program with generated traffic.

- A sequence number of a flow is admitted at most once.
- Credit is never negative: no more is spent than was granted.
- What the peer has granted is known exactly from the newest frame that arrived, whatever was lost,
  repeated or overtaken on the way; nothing mints credit, nothing loses it for good.
- A frame that is not admitted changes nothing but its counter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from assent.dataplane.gate import Gate
from assent.dataplane.profiles import Profile
from assent.dataplane.tables import FlowSpec
from assent.wire.fabric import Flags, block_cost

from .conftest import Rig
from .twin import IN_VM

EXAMPLES = settings(max_examples=10 if IN_VM else 80, deadline=None)
# Each example has a gate of its own, and often reads all of its state: one with little of it.
SMALL = Profile("small", locals=4, sessions=4, connections=4, flows=16, replay_chunks=32, tallies=4)
WINDOW = 64
UNLIMITED = 10**6


@contextlib.contextmanager
def fresh(*flows: FlowSpec, **changes: object) -> Iterator[Rig]:
    """A gate without a past, and a session with these flows. Time limits nothing there."""
    with Gate.private(SMALL) as gate:
        rig = Rig(gate)
        config = rig.tables.config.read()
        rig.tables.config.write(replace(config, handshake_interval=0, control_interval=0))
        rig.install(flows=flows, **changes)
        yield rig


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame of a hostile or broken peer: `kind` says in what way."""

    kind: str
    flow: int
    seq: int
    payload_len: int


KINDS = ("good", "good", "good", "forged", "other key", "cut", "no flags", "stale", "stranger")
# Around a window's length, so that all of old, late, repeated and new come up; and at the wrap.
NUMBERS = st.one_of(
    st.integers(0, 3 * WINDOW), st.integers(2**31 - 2, 2**31 + 2), st.integers(2**32 - 3, 2**32 - 1)
)
FRAMES = st.builds(
    Sent,
    kind=st.sampled_from(KINDS),
    flow=st.sampled_from((0, 1, 1, 1, 2, 3, 9)),
    seq=NUMBERS,
    payload_len=st.sampled_from((0, 1, 64, 200)),
)


def encode(rig: Any, sent: Sent) -> bytes:
    fields: dict[str, Any] = {"flow": sent.flow, "seq": sent.seq, "payload_len": sent.payload_len}
    match sent.kind:
        case "forged":
            fields["flip"] = 1 << sent.seq % 64
        case "other key":
            fields["key"] = b"k" * 16
        case "cut":
            fields["length"] = 64 + sent.payload_len // 2 + (0 if sent.payload_len else 1)
        case "no flags":
            fields["flags"] = Flags.DATA
        case "stale":
            fields["timestamp"] = rig.peer_time - 2 * rig.skew_limit
        case "stranger":
            fields["src"] = rig.stranger
    return bytes(rig.frame(**fields))


def kept_state(rig: Any) -> dict[str, Any]:
    state: dict[str, Any] = rig.state()
    del state["counters"]
    return state


@EXAMPLES
@given(
    frames=st.lists(FRAMES, max_size=30),
    repeats=st.lists(st.integers(0, 29), max_size=10),
    room=st.integers(0, 40),
)
def test_at_most_once_never_overdrawn_and_refusals_leave_no_mark(
    frames: list[Sent], repeats: list[int], room: int
) -> None:
    with fresh(
        FlowSpec(1, room, replay_len=WINDOW),
        FlowSpec(2, replay_len=WINDOW),
        FlowSpec(3, UNLIMITED, replay_len=WINDOW),
    ) as stage:
        admitted: set[tuple[int, int]] = set()
        spent = {1: 0, 2: 0}
        for sent in [*frames, *(frames[i] for i in repeats if i < len(frames))]:
            before = kept_state(stage)
            verdict, _ = stage.run(encode(stage, sent))
            if verdict != "admitted":
                assert kept_state(stage) == before, verdict
                continue
            assert sent.kind == "good"
            assert (sent.flow, sent.seq) not in admitted
            admitted.add((sent.flow, sent.seq))
            if sent.flow in spent:
                spent[sent.flow] += block_cost(sent.payload_len)
            for number, blocks in spent.items():
                flow = stage.flow(number)
                assert flow.rx_spent == blocks <= flow.rx_granted


@EXAMPLES
@given(
    steps=st.lists(st.integers(0, 900), min_size=1, max_size=30),
    fates=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=30, max_size=30),
    start=st.integers(0, 2**17),
    shift=st.integers(0, 6),
)
def test_cumulative_grants_survive_loss_repetition_and_reordering(
    steps: list[int],
    fates: list[tuple[int, int]],
    start: int,
    shift: int,
) -> None:
    """The peer raises its grant with each frame. `fates`: how often a frame arrives, how late."""
    with fresh(FlowSpec(1, UNLIMITED, start << shift), grant_shift=shift) as stage:
        granted, on_the_way = start, []
        history = [start << shift]
        for at, (step, (copies, delay)) in enumerate(zip(steps, fates, strict=False)):
            granted += step
            history.append(granted << shift)
            on_the_way += [(at + delay, at + 1)] * copies
        newest = start << shift
        for _, seq in sorted(on_the_way, key=lambda arrival: arrival[0]):
            units = history[seq] >> shift
            verdict, _ = stage.run(stage.frame(seq=seq, grant=units % 2**16))
            if verdict == "admitted":
                newest = max(newest, history[seq])
            # Neither minted nor lost: just the newest of what has arrived.
            assert stage.flow().tx_granted == newest
        # One frame that does arrive makes up for all that did not.
        stage.admit(stage.frame(seq=len(steps) + 1, grant=granted % 2**16))
        assert stage.flow().tx_granted == granted << shift


@EXAMPLES
@given(grants=st.lists(st.integers(0, 2**16 - 1), max_size=30), start=st.integers(0, 2**20))
def test_known_grants_never_shrink_and_never_jump_half_a_field(
    grants: list[int], start: int
) -> None:
    with fresh(FlowSpec(1, UNLIMITED, start)) as stage:
        known = start
        for at, grant in enumerate(grants, 1):
            stage.admit(stage.frame(seq=at, grant=grant))
            found = stage.flow().tx_granted
            assert known <= found < known + 2**15
            assert found == known or found % 2**16 == grant
            known = found


@EXAMPLES
@given(
    costs=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    raises=st.lists(st.integers(0, 6), min_size=40, max_size=40),
)
def test_what_is_admitted_is_what_there_was_room_for(costs: list[int], raises: list[int]) -> None:
    """A model of the flow's books, with an endpoint that grants more between frames."""
    with fresh(FlowSpec(1, 4)) as stage:
        slot = stage.tables.flows.slot_of(stage.session, 1)
        granted, spent = 4, 0
        for seq, (blocks, more) in enumerate(zip(costs, raises, strict=False), 1):
            verdict, _ = stage.run(stage.frame(seq=seq, payload_len=64 * blocks))
            fits = spent + 1 + blocks <= granted
            assert verdict == ("admitted" if fits else "no_credit")
            spent += 1 + blocks if fits else 0
            granted += more
            stage.tables.flows.raise_rx_granted(slot, granted)
            flow = stage.flow()
            assert (flow.rx_granted, flow.rx_spent) == (granted, spent)
