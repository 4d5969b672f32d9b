# SPDX-License-Identifier: Apache-2.0
"""service/live.py under a clock that the test owns, on a gate that nothing is attached to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.packet.recycled import private_gate

from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.objects import packaged
from assent.dataplane.tables import SEQ_MAX, FlowSpec, SessionSpec
from assent.errors import RemoteError, ResourceExhausted, Unavailable
from assent.handshake.keys import SealError, SessionKeys
from assent.service.definitions import Definitions
from assent.service.flow_board import FlowBoard
from assent.service.flow_desk import FlowOffice, FlowPolicy, Wanted
from assent.service.flow_zero import DATA, FIN, FIN_ACK, FlowZero, ForgedFrame, Opened
from assent.service.live import (
    FIN_PATIENCE,
    FIN_REPEAT,
    HEARTBEAT,
    SECOND,
    Dataplane,
    LiveSession,
    Phase,
)
from assent.service.manifests import PENDING_MAX, ManifestBoard
from assent.service.records import StoredSession
from assent.wire.cellid import CellID
from assent.wire.control import (
    Close,
    ControlTag,
    Define,
    Delivery,
    FlowClass,
    Grant,
    Manifest,
    ManifestItem,
    Tag,
)
from assent.wire.fabric import Flags, Frame

from .conftest import eventually

LOCAL, REMOTE = CellID(b"l" * 16), CellID(b"r" * 16)
OURS = SessionKeys(7, b"a" * 32, b"b" * 16, b"c" * 32, b"d" * 16)
THEIRS = SessionKeys(7, b"c" * 32, b"d" * 16, b"a" * 32, b"b" * 16)
STORED = StoredSession(1, REMOTE, LOCAL, 7, True, b"\x02" * 6, 0, 0, 0, 1500)
PATIENCE = 60 * SECOND
ITEM = ManifestItem("a", 1, bytes(32))


class Rig:
    """One live session with flows 1 and 3, and the peer's end of its flow 0."""

    def __init__(self, gate: Gate) -> None:
        sessions = gate.tables.sessions
        sessions.provision(REMOTE, LOCAL, b"k" * 16, covenanted=True)
        flows = (FlowSpec(1, 100, 50), FlowSpec(3, 30, 0))
        self.entry = sessions.install(SessionSpec(REMOTE, LOCAL, 1, OURS.rx_header, flows=flows))
        self.flows = gate.tables.flows
        self.board = ManifestBoard()
        self.peer = FlowZero(REMOTE, LOCAL, THEIRS, lambda: 1)
        self.peer_seq = 0
        self.sent: list[bytes] = []
        self.ended: list[str] = []
        self.now = 1_000 * SECOND
        self.live = self.session()

    def session(self, *, confirmed: bool = True, office: FlowOffice | None = None) -> LiveSession:
        return LiveSession(
            STORED,
            OURS,
            self.entry,
            Dataplane(self.flows),
            self.board,
            clock=lambda: 1,
            transmit=self.sent.append,
            on_end=lambda _, reason: self.ended.append(reason),
            mtu=1500,
            patience=PATIENCE,
            now=self.now,
            confirmed=confirmed,
            fresh=True,
            office=office,
        )

    def heard(self) -> list[Opened]:
        """What the peer makes of all that was sent since it was last asked."""
        frames = [Frame.decode(raw) for raw in self.sent]
        self.sent.clear()
        return [self.peer.open(frame.header, frame.payload) for frame in frames]

    def say(self, flags: Flags = DATA, tags: Sequence[ControlTag] = ()) -> None:
        """The peer sends a frame."""
        self.peer_seq += 1
        frame = Frame.decode(self.peer.frame(self.peer_seq, flags, tags))
        self.live.receive(frame.header, frame.payload, self.now)

    def pass_time(self, duration: int) -> None:
        """Time passes as the owner would let it: from deadline to deadline."""
        until = self.now + duration
        while (due := self.live.next_deadline()) is not None and due <= until:
            self.now = max(due, self.now)
            self.live.tick(self.now)
        self.now = until


@pytest.fixture
def rig() -> Iterator[Rig]:
    with private_gate() as gate:
        yield Rig(gate)


def grant_of(flow: int, blocks: int, ref: int = 0) -> ControlTag:
    return ControlTag(Tag.GRANT, ref, Grant(flow, blocks).to_body())


def manifest_of(ref: int, flow: int = 1) -> ControlTag:
    return ControlTag(Tag.MANIFEST, ref, Manifest(flow, (ITEM,)).to_body())


# Time


async def test_a_heartbeat_repeats_every_grant(rig: Rig):
    rig.pass_time(HEARTBEAT - 1)
    assert not rig.sent
    rig.pass_time(1)
    (beat,) = rig.heard()
    told = tuple(
        ControlTag(Tag.GRANT, 0, Grant(*one).to_body()) for one in ((1, 100, 100), (3, 30, 30))
    )
    assert beat == Opened(DATA, told, 0)
    rig.pass_time(3 * HEARTBEAT)
    assert len(rig.heard()) == 3


async def test_a_silent_peer_is_given_up_and_told(rig: Rig):
    rig.pass_time(PATIENCE)
    assert rig.ended == ["the peer is silent"]
    assert rig.heard()[-1].flags == FIN
    assert rig.live.phase is Phase.ENDED
    assert rig.live.next_deadline() is None


async def test_any_frame_of_the_peer_s_is_a_sign_of_life(rig: Rig):
    for _ in range(5):
        rig.pass_time(PATIENCE - SECOND)
        rig.say()
    assert rig.live.phase is Phase.ESTABLISHED


async def test_data_that_passes_by_is_a_sign_of_life(rig: Rig):
    """Data flows do not pass the daemon; the gate's counters do."""
    layout = Btf.from_object(packaged("gate")).map_value("flows")
    slot = rig.live.slot(1)
    for number in range(1, 5):
        rig.pass_time(PATIENCE - SECOND)
        at = slot * layout.size + layout.offsetof("rx_highest")
        rig.flows._memory[at : at + 4] = number.to_bytes(4, "little")
    rig.pass_time(PATIENCE - SECOND)
    assert rig.live.phase is Phase.ESTABLISHED


async def test_silence_that_is_our_own_will_is_no_silence(rig: Rig):
    rig.live.suspended = True
    rig.pass_time(10 * PATIENCE)
    assert rig.live.phase is Phase.ESTABLISHED


# Credit


async def test_a_grant_of_the_peer_s_raises_and_never_lowers(rig: Rig):
    slot = rig.live.slot(1)
    rig.say(tags=[grant_of(1, 90)])
    rig.say(tags=[grant_of(1, 70)])
    assert rig.flows.read(slot).tx_granted == 90


@pytest.mark.parametrize("tag", [grant_of(2, 1), grant_of(9, 1), grant_of(1, 1 << 62)])
async def test_a_grant_that_cannot_be_is_refused_with_its_whole_frame(rig: Rig, tag: ControlTag):
    slot = rig.live.slot(1)
    before = rig.flows.read(slot)
    with pytest.raises(RemoteError, match="a grant that cannot be"):
        rig.say(tags=[grant_of(1, 80), tag])
    assert rig.flows.read(slot) == before


# Manifests


async def test_a_manifest_is_acknowledged_by_its_ref_with_what_is_granted(rig: Rig):
    rig.say(tags=[manifest_of(77)])
    assert rig.heard() == [Opened(DATA, (grant_of(1, 100, ref=77),), 0)]


async def test_a_manifest_that_comes_again_is_acknowledged_again_and_delivered_once(rig: Rig):
    for _ in range(3):
        rig.say(tags=[manifest_of(77)])
    assert len(rig.heard()) == 3
    watch = rig.board.watch(None)
    assert (await anext(watch)).manifest == Manifest(1, (ITEM,))
    rest = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not rest.done()
    rest.cancel()


async def test_a_manifest_that_there_is_no_room_for_is_not_acknowledged(rig: Rig):
    for ref in range(1, PENDING_MAX + 1):
        rig.say(tags=[manifest_of(ref)])
    assert len(rig.heard()) == PENDING_MAX
    rig.say(tags=[manifest_of(PENDING_MAX + 1)])
    assert rig.heard() == []
    rig.board.forget(REMOTE)
    rig.say(tags=[manifest_of(PENDING_MAX + 1)])
    assert len(rig.heard()) == 1


async def test_a_manifest_for_a_flow_that_is_not_open_is_refused(rig: Rig):
    with pytest.raises(RemoteError, match="flow 2, which is not open"):
        rig.say(tags=[manifest_of(1, flow=2)])
    assert rig.heard() == []


async def test_an_announcement_is_repeated_until_it_is_acknowledged(rig: Rig):
    announcing = asyncio.ensure_future(rig.live.announce(1, (ITEM,)))
    await eventually(lambda: len(rig.sent) >= 2, "it is repeated")
    seqs = [Frame.decode(raw).header.seq for raw in rig.sent]
    first, second = rig.heard()[:2]
    assert first.tags == second.tags
    assert first.tags[0].ref == seqs[0]
    assert len(set(seqs)) == len(seqs)
    assert not announcing.done()
    rig.say(tags=[grant_of(1, 60, ref=first.tags[0].ref)])
    await announcing
    assert rig.flows.read(rig.live.slot(1)).tx_granted == 60


async def test_an_announcement_ends_with_its_session(rig: Rig):
    announcing = asyncio.ensure_future(rig.live.announce(1, (ITEM,)))
    await asyncio.sleep(0)
    rig.say(FIN)
    with pytest.raises(Unavailable, match="the session has ended: closed by the peer"):
        await announcing


# What is refused, and what is skipped


async def test_unknown_tags_are_skipped_and_counted(rig: Rig):
    rig.say(tags=[ControlTag(999, 0, None), ControlTag(Tag.TENSOR, 0, {}), grant_of(1, 60)])
    assert rig.live.unknown_tags == 2
    assert rig.flows.read(rig.live.slot(1)).tx_granted == 60


@pytest.mark.parametrize("at", [32, 42, 44, 48, 56, 63])
async def test_a_header_that_was_touched_is_forged(rig: Rig, at: int):
    raw = bytearray(rig.peer.frame(1, DATA, [grant_of(1, 60)]))
    raw[at] ^= 0x01
    frame = Frame.decode(bytes(raw))
    with pytest.raises(ForgedFrame):
        rig.live.receive(frame.header, frame.payload, rig.now)
    assert rig.flows.read(rig.live.slot(1)).tx_granted == 50


async def test_a_payload_that_was_touched_does_not_open(rig: Rig):
    frame = Frame.decode(rig.peer.frame(1, DATA, [grant_of(1, 60)]))
    touched = bytes([frame.payload[0] ^ 1]) + frame.payload[1:]
    with pytest.raises(SealError):
        rig.live.receive(frame.header, touched, rig.now)
    assert rig.flows.read(rig.live.slot(1)).tx_granted == 50


async def test_a_kind_of_frame_that_no_session_knows_is_refused(rig: Rig):
    with pytest.raises(ForgedFrame, match="no meaning"):
        rig.say(Flags.NACK | Flags.BLOCK)


async def test_sequence_numbers_end_before_they_repeat(rig: Rig):
    slot = rig.live.slot(0)
    layout = Btf.from_object(packaged("gate")).map_value("flows")
    at = slot * layout.size + layout.offsetof("tx_seq")
    rig.flows._memory[at : at + 4] = (SEQ_MAX - 2).to_bytes(4, "little")
    assert rig.flows.take_seq(slot) == SEQ_MAX - 1
    with pytest.raises(ResourceExhausted, match="renew it"):
        rig.flows.take_seq(slot)


# The end


async def test_a_fin_is_answered_and_ends_it(rig: Rig):
    rig.say(FIN, [ControlTag(Tag.CLOSE, 0, Close("maintenance").to_body())])
    assert [opened.flags for opened in rig.heard()] == [FIN_ACK]
    assert rig.ended == ["closed by the peer"]
    # What still arrives has no effect.
    rig.say(tags=[grant_of(1, 99)])
    assert rig.flows.read(rig.live.slot(1)).tx_granted == 50


async def test_closing_waits_for_the_answer(rig: Rig):
    rig.live.begin_close(rig.now)
    assert [opened.flags for opened in rig.heard()] == [FIN]
    assert rig.live.phase is Phase.CLOSING
    rig.say(FIN_ACK)
    await rig.live.wait_ended()
    assert rig.ended == ["closed here"]


async def test_closing_repeats_its_fin_and_is_patient_for_a_while(rig: Rig):
    rig.live.begin_close(rig.now)
    rig.pass_time(FIN_REPEAT)
    assert [opened.flags for opened in rig.heard()] == [FIN, FIN]
    rig.pass_time(FIN_PATIENCE)
    await rig.live.wait_ended()
    assert rig.ended == ["closed here, without an answer"]


async def test_an_answer_to_no_fin_of_ours_means_nothing(rig: Rig):
    rig.say(FIN_ACK)
    assert rig.live.phase is Phase.ESTABLISHED


async def test_what_is_abandoned_says_nothing(rig: Rig):
    rig.live.abandon("renewed")
    assert not rig.sent
    assert not rig.ended
    assert rig.live.phase is Phase.ENDED


async def test_a_responder_s_session_is_established_when_it_is_confirmed(rig: Rig):
    live = rig.session(confirmed=False)
    assert live.phase is Phase.UNCONFIRMED
    live.confirm()
    assert live.phase is Phase.ESTABLISHED


# Flows that are defined


def define_of(flow: int, ref: int, accepted: bool | None = None) -> ControlTag:
    define = Define(flow, Delivery.ORDERED, FlowClass.STANDARD, 1400, "echo", accepted)
    return ControlTag(Tag.DEFINE, ref, define.to_body())


def close_of(flow: int, ref: int, last: tuple[int, ...] = ()) -> ControlTag:
    return ControlTag(Tag.CLOSE, ref, Close("", flow, *last).to_body())


class Office:
    """What desks share, for one session; and what the session tells it."""

    def __init__(self, directory: Path) -> None:
        self.board = FlowBoard()
        self.closed: list[int] = []
        self.ended: list[str] = []
        self.office = FlowOffice(
            self.board,
            Definitions(directory),
            FlowPolicy(),
            lambda session, flow: False,
            lambda stored, flow, reason: self.closed.append(flow),
            lambda stored, reason: self.ended.append(reason),
        )


@pytest.fixture
def office(rig: Rig, tmp_path: Path) -> Office:
    made = Office(tmp_path)
    rig.live = rig.session(office=made.office)
    return made


async def test_where_nothing_can_be_defined_the_tag_is_unknown(rig: Rig):
    rig.say(tags=[define_of(1, 5)])
    assert rig.live.unknown_tags == 1
    assert not rig.sent


async def test_a_flow_is_defined_used_and_released_over_flow_zero(rig: Rig, office: Office):
    with office.board.listening(LOCAL, None, "echo") as listener:
        rig.say(tags=[define_of(3, 5)])
        assert (await listener.take()).definition.flow == 3
    (answer,) = rig.heard()
    assert answer == Opened(DATA, (define_of(3, 5, True),), 0)
    slot = rig.live.slot(3)
    # What the peer has sent of it and was lost counts as consumed; its window is whole again.
    rig.say(tags=[close_of(3, 6, (40, 25))])
    assert office.closed == [3]
    (confirmed,) = rig.heard()
    assert confirmed == Opened(DATA, (grant_of(3, 55, ref=6),), 0)
    line = rig.flows.read(slot)
    assert (line.rx_highest, line.rx_next, line.rx_spent, line.rx_granted) == (40, 41, 25, 55)
    desk = rig.live.desk
    assert desk is not None
    desk.release(3, rig.now)
    (close,) = rig.heard()
    ref = close.tags[0].ref
    # Our numbers go on behind a gap that no late frame comes over.
    assert close.tags == (close_of(3, ref, (line.replay_len, 0, 41)), grant_of(3, 55))
    assert rig.live.next_deadline() is not None
    rig.say(tags=[grant_of(3, 0, ref=ref)])
    assert desk.definitions() == []


@pytest.mark.parametrize("last", [(40, 31), (0x8000_0000, 1)])
async def test_books_that_cannot_be_are_not_taken_over(
    rig: Rig, office: Office, last: tuple[int, int]
):
    before = rig.flows.read(rig.live.slot(3))
    rig.say(tags=[close_of(3, 6, last)])
    assert rig.flows.read(rig.live.slot(3)) == before
    assert len(rig.heard()) == 1


async def test_a_close_of_a_flow_that_is_not_open_is_refused_with_its_frame(
    rig: Rig, office: Office
):
    slot = rig.live.slot(1)
    before = rig.flows.read(slot)
    with pytest.raises(RemoteError, match="an end of flow 2, which is not open"):
        rig.say(tags=[grant_of(1, 80), close_of(2, 6)])
    assert rig.flows.read(slot) == before
    assert not rig.sent


async def test_questions_of_a_desk_are_repeated_by_the_session_s_clock(rig: Rig, office: Office):
    desk = rig.live.desk
    assert desk is not None
    wanted = Wanted(0, Delivery.ORDERED, FlowClass.STANDARD, "echo")
    answer = desk.define(wanted, rig.now)
    rig.pass_time(SECOND)
    asked = [opened.tags[0] for opened in rig.heard()]
    assert len(asked) >= 3
    assert all(tag == asked[0] for tag in asked)
    rig.live.drop("over")
    with pytest.raises(Unavailable, match="over"):
        answer.result()
    assert office.ended == ["over"]


async def test_a_session_that_is_closing_gives_no_flow(rig: Rig, office: Office):
    with office.board.listening(LOCAL, None, "echo") as listener:
        rig.live.begin_close(rig.now)
        rig.sent.clear()
        rig.say(tags=[define_of(3, 5)])
        assert not rig.sent
        assert not listener.waiting
