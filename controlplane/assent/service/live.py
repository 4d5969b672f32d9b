# SPDX-License-Identifier: Apache-2.0
"""One live session: its flow 0, its credit, and how it ends.

    UNCONFIRMED  the responder has keys, the initiator has not confirmed them yet
    ESTABLISHED  both sides have
    CLOSING      a FIN is out and its answer awaited
    ENDED        nothing is sent or taken any more

The owner passes frames and time in, and removes the session from gate and store when `on_end` is
called. Everything that another process must find after a crash lies in the maps, not here.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assent.dataplane.btf import Record
from assent.dataplane.tables import FlowTable, SessionEntry
from assent.errors import FailedPrecondition, InvalidArgument, RemoteError, Unavailable
from assent.handshake.keys import SessionKeys
from assent.service.flow_desk import FlowDesk, FlowOffice
from assent.service.flow_zero import CONTROL_FLOW, DATA, FIN, FIN_ACK, FlowZero, room_for_tags
from assent.service.live_windows import LiveWindows
from assent.service.manifests import Announced, ManifestBoard
from assent.service.records import StoredSession
from assent.wire.control import (
    MAX_BODY,
    TAG_HEAD_LEN,
    Close,
    ControlTag,
    Define,
    Grant,
    Manifest,
    ManifestItem,
    Tag,
    encode_tags,
)
from assent.wire.fabric import Flags, Header

log = logging.getLogger(__name__)

SECOND: Final = 1_000_000_000
HEARTBEAT: Final = 10 * SECOND
"""Silence after which a heartbeat is sent. It repeats all grants, in case one was lost."""
FIN_REPEAT: Final = SECOND // 2
FIN_PATIENCE: Final = 3 * SECOND
ANNOUNCE_REPEAT: Final = SECOND // 5
ANNOUNCE_PATIENCE: Final = 5 * SECOND
_REFS_MAX: Final = 256


class Phase(enum.Enum):
    """Where a live session stands."""

    UNCONFIRMED = "unconfirmed"
    ESTABLISHED = "established"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class FlowState:
    """One flow's books, in cumulative blocks and sequence numbers."""

    flow: int
    rx_granted: int
    rx_spent: int
    tx_granted: int
    tx_spent: int
    rx_highest: int
    tx_seq: int


@dataclass(frozen=True, slots=True)
class Dataplane:
    """The tables that a live session reads and writes."""

    flows: FlowTable


class LiveSession:
    """A session that stands in the gate.

    Args:
        stored: Its public part.
        keys: Its keys.
        entry: Where its flows are.
        dataplane: The flow tables.
        board: Takes what the peer announces.
        clock: Wall clock, ns of TAI.
        transmit: Sends one frame to the peer.
        on_end: Called once, with the reason, when the session is to be removed.
        on_covenant: Takes the body of a COVENANT tag; False where such tags are not known.
        permits: Whether the peer may announce this; what it may not is not acknowledged.
        mtu: The largest frame that both sides take, bytes.
        patience: Silence after which the peer is given up, ns.
        now: Monotonic ns.
        confirmed: Whether both sides are known to have the keys.
        office: What it takes to define flows; None = DEFINE is not known.
        rtt: Of the handshake, ns; 0 = not known.
        owed: The most that may be promised and not consumed, blocks by flow, where that may be more
            than the windows; see LiveWindows.
        fresh: Whether the session has just begun.
        on_freed: Called when less is promised than before.
    """

    def __init__(
        self,
        stored: StoredSession,
        keys: SessionKeys,
        entry: SessionEntry,
        dataplane: Dataplane,
        board: ManifestBoard,
        *,
        clock: Callable[[], int],
        transmit: Callable[[bytes], None],
        on_end: Callable[[LiveSession, str], None],
        on_covenant: Callable[[object], bool] = lambda _: False,
        permits: Callable[[Manifest], bool] = lambda _: True,
        mtu: int,
        patience: int,
        now: int,
        confirmed: bool,
        office: FlowOffice | None = None,
        rtt: int = 0,
        owed: Mapping[int, int] = MappingProxyType({}),
        fresh: bool = False,
        on_freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.stored = stored
        self.keys = keys
        self.entry = entry
        self.mtu = mtu
        self.phase = Phase.ESTABLISHED if confirmed else Phase.UNCONFIRMED
        self.suspended = False
        self.unknown_tags = 0
        self._flows = dataplane.flows
        self._board = board
        self._zero = FlowZero(stored.local, stored.remote, keys, clock)
        self._transmit = transmit
        self._on_end = on_end
        self._on_covenant = on_covenant
        self._permits = permits
        self._patience = patience
        self._heard_at = now
        self._sent_at = now
        self._marks = self._progress()
        self._fin_until = 0
        self._told = False
        self._ended = asyncio.Event()
        # Announcements of ours that wait for the peer, and refs of the peer's that we have taken.
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._taken: OrderedDict[int, None] = OrderedDict()
        self.windows = LiveWindows(
            self._flows,
            entry,
            self.open_flows(),
            owed=owed,
            fresh=fresh,
            ask=self._ask,
            on_freed=on_freed,
            now=now,
        )
        # Last: it may speak at once.
        self.desk = None if office is None else FlowDesk(self, office, now, rtt)

    def __repr__(self) -> str:
        return f"LiveSession({self.stored.id}, {self.phase.value})"

    # What it is

    def flows(self) -> list[FlowState]:
        """The books of flow 0 and of every open data flow."""
        return flow_states(self._flows, self.entry)

    def open_flows(self) -> Iterator[int]:
        """The data flows that are open."""
        return open_flows(self._flows, self.entry)

    def has_flow(self, flow: int) -> bool:
        """Whether a data flow is open."""
        return flow in self.open_flows()

    def slot(self, flow: int) -> int:
        """The slot of a flow."""
        return self._flows.slot_of(self.entry, flow)

    def rx_window(self, flow: int) -> int:
        """The window that we have promised for a flow, in blocks; 0 where it is not open.

        While it is changed, the wider one.
        """
        return self.windows.promised(flow)

    @property
    def heard_at(self) -> int:
        """When the peer was heard last, monotonic ns, as far as the last tick has seen."""
        return self._heard_at

    @property
    def covenant_room(self) -> int:
        """Bytes of CBOR that the body of a COVENANT tag may have in one frame."""
        return min(room_for_tags(self.mtu) - TAG_HEAD_LEN, MAX_BODY)

    # For its desk

    def line(self, flow: int) -> Record:
        """The books of a flow as they lie in the gate."""
        return self._flows.read(self.slot(flow))

    def shut(self, flow: int) -> None:
        """Has the gate refuse a flow's frames until an endpoint opens it again."""
        self._flows.set_open(self.slot(flow), False)

    def retire(self, flow: int) -> None:
        """Ends what an endpoint that is gone has sent on a flow."""
        self._flows.retire(self.slot(flow))

    def settle(self, flow: int, seq: int, spent: int) -> bool:
        """Takes over what a peer that is done with a flow has said of it."""
        return self._flows.settle(self.slot(flow), seq, spent)

    def take_seq(self) -> int:
        """The next number of flow 0, recorded as used.

        Raises:
            ResourceExhausted: The session has used up its sequence numbers.
        """
        return self._flows.take_seq(self.slot(CONTROL_FLOW))

    def send_tag(self, seq: int, tag: ControlTag, granted: int = 0) -> None:
        """Sends a tag in a frame of a number that was taken for it; after the end, nothing.

        Args:
            seq: The number.
            tag: What is to be said.
            granted: A flow whose grant goes with it; 0 = none.
        """
        if self.phase is not Phase.ENDED:
            grants = [self._grant_tag(granted, 0)] if granted else []
            self._send_as(seq, DATA, [tag, *grants])

    # Covenants

    def send_covenant(self, body: object) -> None:
        """Sends the body of one COVENANT tag, once; it may be lost. After the end, nothing.

        Raises:
            InvalidArgument: It has no place in a tag.
            ResourceExhausted: The session has used up its sequence numbers.
        """
        if self.phase is Phase.ENDED:
            return
        # Encoded before a number is taken for it.
        tag = ControlTag(Tag.COVENANT, 0, body)
        if len(encode_tags([tag])) > room_for_tags(self.mtu):
            raise InvalidArgument("body", "does not fit a frame")
        self._send(DATA, [tag])

    # Announcements

    async def announce(self, flow: int, items: tuple[ManifestItem, ...]) -> None:
        """Announces items to the peer; returns when its daemon has all of them.

        Raises:
            InvalidArgument: An item does not fit a frame.
            FailedPrecondition: The session is not established, or has no such flow.
            TimeoutError: The peer did not take them in time.
            Unavailable: The session ended meanwhile.
        """
        if self.phase is not Phase.ESTABLISHED:
            raise FailedPrecondition("the session is not established")
        if not self.has_flow(flow):
            raise FailedPrecondition(f"flow: the session has no flow {flow}")
        manifests = list(_split(flow, items, room_for_tags(self.mtu)))
        try:
            # Four round trips, where those are long: two may be lost.
            async with asyncio.timeout(max(ANNOUNCE_PATIENCE, 4 * self._rtt) / SECOND):
                for manifest in manifests:
                    await self._announce_one(manifest)
        except TimeoutError:
            raise TimeoutError("the peer did not take the manifest in time") from None

    async def _announce_one(self, manifest: Manifest) -> None:
        body = manifest.to_body()
        # A number that no announcement of this session had before, across restarts as well.
        ref = seq = self.take_seq()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[ref] = answer
        try:
            while True:
                self._send_as(seq, DATA, [ControlTag(Tag.MANIFEST, ref, body)])
                repeat = max(ANNOUNCE_REPEAT, 5 * self._rtt // 4)
                done, _ = await asyncio.wait({answer}, timeout=repeat / SECOND)
                if done:
                    return answer.result()
                seq = self.take_seq()
        finally:
            del self._awaited[ref]

    # Frames

    def receive(self, header: Header, payload: bytes, now: int) -> None:
        """Takes in a flow-0 frame of this session.

        Raises:
            RemoteError: It is not the peer's, or malformed. Nothing has changed.
        """
        if self.phase is Phase.ENDED:
            return
        opened = self._zero.open(header, payload)
        actions = [self._action(tag, header.seq, now) for tag in opened.tags]
        self._heard_at = now
        self.unknown_tags += opened.skipped
        for action in actions:
            action()
        if opened.flags == FIN:
            self._send(FIN_ACK)
            self._finish("closed by the peer")
        elif opened.flags == FIN_ACK and (self._told or self.phase is Phase.CLOSING):
            self._finish("closed here")

    def confirm(self) -> None:
        """The initiator has proved that it has the keys."""
        if self.phase is Phase.UNCONFIRMED:
            self.phase = Phase.ESTABLISHED

    # The end

    def begin_close(self, now: int) -> None:
        """Tells the peer; the session ends when it has answered, or when patience is over."""
        if self.phase in {Phase.UNCONFIRMED, Phase.ESTABLISHED}:
            self.phase = Phase.CLOSING
            self._fin_until = now + FIN_PATIENCE
            self._sent_at = now
            self._send_fin()

    async def wait_ended(self) -> None:
        """Waits until the session has ended, for whatever reason."""
        await self._ended.wait()

    def farewell(self) -> None:
        """Tells the peer that the session is about to be dropped, while it may still be spoken to.

        Once the gate has been told, nothing leaves any more, a farewell neither.
        """
        if self.phase is not Phase.ENDED:
            self._send_fin()
            self._told = True

    def drop(self, reason: str) -> None:
        """Tells the peer once, without waiting, and ends here and now."""
        if self.phase is not Phase.ENDED:
            if not self._told:
                self._send_fin()
            self._finish(reason)

    def abandon(self, reason: str) -> None:
        """Ends without a word: another session has taken its place, or the gate has lost it.

        `on_end` is not called.
        """
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        for answer in self._awaited.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"the session has ended: {reason}"))
        if self.desk is not None:
            self.desk.end(reason)
        self._ended.set()

    # Time

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns; None once ended."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase is Phase.CLOSING:
            return min(self._fin_until, self._sent_at + FIN_REPEAT)
        due = min(self._sent_at + HEARTBEAT, self._heard_at + self._patience)
        desk = None if self.desk is None else self.desk.next_deadline()
        windows = self.windows.next_deadline() if self.phase is Phase.ESTABLISHED else None
        return min(at for at in (due, desk, windows) if at is not None)

    def tick(self, now: int) -> None:
        """Does what is due."""
        if self.phase is Phase.ENDED:
            return
        if self.phase is Phase.CLOSING:
            if now >= self._fin_until:
                self._finish("closed here, without an answer")
            elif now >= self._sent_at + FIN_REPEAT:
                self._sent_at = now
                self._send_fin()
            return
        if self.desk is not None:
            self.desk.tick(now)
        # Data flows do not pass here, but their counters show that the peer lives.
        marks = self._progress()
        if marks != self._marks or self.suspended:
            self._marks, self._heard_at = marks, now
        if now >= self._heard_at + self._patience:
            self.drop("the peer is silent")
        elif now >= self._sent_at + HEARTBEAT:
            self.beat(now)
        if self.phase is Phase.ESTABLISHED:
            self.windows.tick(now)

    def beat(self, now: int) -> None:
        """Sends a heartbeat: all grants, and a sign of life."""
        self._sent_at = now
        self._send(DATA, [self.windows.tag(flow) for flow in self.open_flows()])

    # Within

    @property
    def _rtt(self) -> int:
        """Of the handshake, ns; 0 = not known."""
        return 0 if self.desk is None else self.desk.rtt

    def _progress(self) -> tuple[int, ...]:
        return tuple(self._flows.read(self.slot(flow)).rx_highest for flow in self.open_flows())

    def _ask(self, tags: Callable[[int], list[ControlTag]]) -> None:
        """Sends questions, which bear the number of their first frame."""
        seq = self.take_seq()
        self._send_as(seq, DATA, tags(seq))

    def _send(self, flags: Flags, tags: Iterable[ControlTag] = ()) -> None:
        self._send_as(self.take_seq(), flags, tags)

    def _send_as(self, seq: int, flags: Flags, tags: Iterable[ControlTag] = ()) -> None:
        self._transmit(self._zero.frame(seq, flags, tuple(tags)))

    def _send_fin(self) -> None:
        self._send(FIN, [ControlTag(Tag.CLOSE, 0, Close("").to_body())])

    def _grant_tag(self, flow: int, ref: int) -> ControlTag:
        granted = self._flows.read(self.slot(flow)).rx_granted
        return ControlTag(Tag.GRANT, ref, Grant(flow, granted).to_body())

    def _finish(self, reason: str) -> None:
        self.abandon(reason)
        self._on_end(self, reason)

    def _action(self, tag: ControlTag, seq: int, now: int) -> Callable[[], None]:
        """What a tag asks for. Its body is read here, before anything of the frame has effect."""
        if tag.tag == Tag.GRANT:
            grant = Grant.from_body(tag.body)
            self.windows.check(grant)
            return lambda: self._on_grant(grant, tag.ref, seq)
        if tag.tag == Tag.MANIFEST:
            manifest = Manifest.from_body(tag.body)
            if not self.has_flow(manifest.flow):
                raise RemoteError(f"a manifest for flow {manifest.flow}, which is not open")
            return lambda: self._on_manifest(manifest, tag.ref)
        if tag.tag == Tag.COVENANT:
            return lambda: self._on_covenant_tag(tag.body)
        if tag.tag == Tag.DEFINE:
            define = Define.from_body(tag.body)
            return lambda: self._on_define(define, tag.ref, now)
        if tag.tag == Tag.CLOSE:
            close = Close.from_body(tag.body)
            if close.flow is not None and not self.has_flow(close.flow):
                raise RemoteError(f"an end of flow {close.flow}, which is not open")
            return lambda: self._on_close(close, tag.ref)
        return self._on_unknown

    def _on_unknown(self) -> None:
        self.unknown_tags += 1

    def _on_define(self, define: Define, ref: int, now: int) -> None:
        if self.desk is None:
            self._on_unknown()
        elif self.phase in {Phase.UNCONFIRMED, Phase.ESTABLISHED}:
            self.desk.on_define(define, ref, now)

    def _on_close(self, close: Close, ref: int) -> None:
        if close.flow is None:
            log.info("peer closes", extra={"session": self.stored.id, "reason": close.reason})
            return
        if self.desk is not None:
            self.desk.on_close(close.flow, ref, close)
        self._send(DATA, [self._grant_tag(close.flow, ref)])

    def _on_covenant_tag(self, body: object) -> None:
        if not self._on_covenant(body):
            self.unknown_tags += 1

    def _on_grant(self, grant: Grant, ref: int, seq: int) -> None:
        if not self.windows.take(grant, seq):
            return
        if grant.window is not None:
            if ref:
                self._send(DATA, [self._grant_tag(grant.flow, ref)])
            return
        self.windows.answered(grant.flow, ref)
        answer = self._awaited.get(ref)
        if answer is not None and not answer.done():
            answer.set_result(None)
        if self.desk is not None:
            self.desk.on_receipt(ref)

    def _on_manifest(self, manifest: Manifest, ref: int) -> None:
        if ref not in self._taken:
            if not self._permits(manifest):
                return
            if not self._board.post(Announced(self.stored.remote, manifest)):
                # Not acknowledged, so the peer asks again, and in the end tells its user.
                log.warning("manifest refused: too many wait", extra={"session": self.stored.id})
                return
            self._taken[ref] = None
            if len(self._taken) > _REFS_MAX:
                self._taken.popitem(last=False)
        self._send(DATA, [self._grant_tag(manifest.flow, ref)])


def open_flows(table: FlowTable, entry: SessionEntry) -> Iterator[int]:
    """The data flows of a session that are open."""
    for flow in range(CONTROL_FLOW + 1, entry.flow_count):
        if table.read(table.slot_of(entry, flow)).replay_len:
            yield flow


def flow_states(table: FlowTable, entry: SessionEntry) -> list[FlowState]:
    """The books of a session's flow 0 and of every open data flow."""
    found = []
    for flow in (CONTROL_FLOW, *open_flows(table, entry)):
        line = table.read(table.slot_of(entry, flow))
        found.append(
            FlowState(
                flow,
                line.rx_granted,
                line.rx_spent,
                line.tx_granted,
                line.tx_spent,
                line.rx_highest,
                line.tx_seq,
            )
        )
    return found


def _split(flow: int, items: tuple[ManifestItem, ...], room: int) -> Iterator[Manifest]:
    """As few manifests as hold all items, each of which fits a frame.

    Raises:
        InvalidArgument: One item alone does not fit.
    """
    batch: tuple[ManifestItem, ...] = ()
    for item in items:
        longer = (*batch, item)
        if _fits(Manifest(flow, longer), room):
            batch = longer
            continue
        if not batch or not _fits(Manifest(flow, (item,)), room):
            raise InvalidArgument("items", f"{item.name!r} does not fit a frame")
        yield Manifest(flow, batch)
        batch = (item,)
    if batch:
        yield Manifest(flow, batch)


def _fits(manifest: Manifest, room: int) -> bool:
    try:
        return len(encode_tags([ControlTag(Tag.MANIFEST, 0, manifest.to_body())])) <= room
    except InvalidArgument:
        return False
