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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from assent.dataplane.tables import FlowTable, SessionEntry
from assent.errors import FailedPrecondition, InvalidArgument, RemoteError, Unavailable
from assent.handshake.keys import SessionKeys
from assent.service.flow_zero import CONTROL_FLOW, DATA, FIN, FIN_ACK, FlowZero, room_for_tags
from assent.service.manifests import Announced, ManifestBoard
from assent.service.records import StoredSession
from assent.wire.control import (
    MAX_BODY,
    TAG_HEAD_LEN,
    Close,
    ControlTag,
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
_BLOCKS_MAX: Final = 1 << 62


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

    def __repr__(self) -> str:
        return f"LiveSession({self.stored.id}, {self.phase.value})"

    # What it is

    def flows(self) -> list[FlowState]:
        """The books of flow 0 and of every open data flow."""
        return flow_states(self._flows, self.entry)

    def has_flow(self, flow: int) -> bool:
        """Whether a data flow is open."""
        return flow in self._open_flows()

    def slot(self, flow: int) -> int:
        """The slot of a flow."""
        return self._flows.slot_of(self.entry, flow)

    def rx_window(self, flow: int) -> int:
        """The window that we promised for a flow, in blocks; 0 where it is not open."""
        return int(self._flows.read(self.slot(flow)).rx_window) if self.has_flow(flow) else 0

    @property
    def covenant_room(self) -> int:
        """Bytes of CBOR that the body of a COVENANT tag may have in one frame."""
        return min(room_for_tags(self.mtu) - TAG_HEAD_LEN, MAX_BODY)

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
            async with asyncio.timeout(ANNOUNCE_PATIENCE / SECOND):
                for manifest in manifests:
                    await self._announce_one(manifest)
        except TimeoutError:
            raise TimeoutError("the peer did not take the manifest in time") from None

    async def _announce_one(self, manifest: Manifest) -> None:
        body = manifest.to_body()
        # A number that no announcement of this session had before, across restarts as well.
        ref = seq = self._take_seq()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[ref] = answer
        try:
            while True:
                self._send_as(seq, DATA, [ControlTag(Tag.MANIFEST, ref, body)])
                done, _ = await asyncio.wait({answer}, timeout=ANNOUNCE_REPEAT / SECOND)
                if done:
                    return answer.result()
                seq = self._take_seq()
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
        actions = [self._action(tag) for tag in opened.tags]
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
        self._ended.set()

    # Time

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns; None once ended."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase is Phase.CLOSING:
            return min(self._fin_until, self._sent_at + FIN_REPEAT)
        return min(self._sent_at + HEARTBEAT, self._heard_at + self._patience)

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
        # Data flows do not pass here, but their counters show that the peer lives.
        marks = self._progress()
        if marks != self._marks or self.suspended:
            self._marks, self._heard_at = marks, now
        if now >= self._heard_at + self._patience:
            self.drop("the peer is silent")
        elif now >= self._sent_at + HEARTBEAT:
            self._sent_at = now
            self._send(DATA, [self._grant_tag(flow, 0) for flow in self._open_flows()])

    # Within

    def _open_flows(self) -> Iterator[int]:
        return open_flows(self._flows, self.entry)

    def _progress(self) -> tuple[int, ...]:
        return tuple(self._flows.read(self.slot(flow)).rx_highest for flow in self._open_flows())

    def _take_seq(self) -> int:
        return self._flows.take_seq(self.slot(CONTROL_FLOW))

    def _send(self, flags: Flags, tags: Iterable[ControlTag] = ()) -> None:
        self._send_as(self._take_seq(), flags, tags)

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

    def _action(self, tag: ControlTag) -> Callable[[], None]:
        """What a tag asks for. Its body is read here, before anything of the frame has effect."""
        if tag.tag == Tag.GRANT:
            grant = Grant.from_body(tag.body)
            if grant.granted >= _BLOCKS_MAX or not self.has_flow(grant.flow):
                raise RemoteError(f"a grant that cannot be, for flow {grant.flow}")
            return lambda: self._on_grant(grant, tag.ref)
        if tag.tag == Tag.MANIFEST:
            manifest = Manifest.from_body(tag.body)
            if not self.has_flow(manifest.flow):
                raise RemoteError(f"a manifest for flow {manifest.flow}, which is not open")
            return lambda: self._on_manifest(manifest, tag.ref)
        if tag.tag == Tag.COVENANT:
            return lambda: self._on_covenant_tag(tag.body)
        if tag.tag == Tag.CLOSE:
            close = Close.from_body(tag.body)
            return lambda: log.info(
                "peer closes", extra={"session": self.stored.id, "reason": close.reason}
            )
        return self._on_unknown

    def _on_unknown(self) -> None:
        self.unknown_tags += 1

    def _on_covenant_tag(self, body: object) -> None:
        if not self._on_covenant(body):
            self.unknown_tags += 1

    def _on_grant(self, grant: Grant, ref: int) -> None:
        self._flows.raise_tx_granted(self.slot(grant.flow), grant.granted)
        answer = self._awaited.get(ref)
        if answer is not None and not answer.done():
            answer.set_result(None)

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
