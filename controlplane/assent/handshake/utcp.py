"""The UTCP connection: its state machine and its handshake, without I/O (seed UTCP, State Machine).

Theory of operation
===================

A connection joins two cells that were introduced to each other beforehand: each knows the other's
CellID, its Ed25519 public key and a pre-shared key. The three frames of the handshake each carry
one HAIL on flow 0:

    initiator                                              responder
    CLOSED    --- SYN: Noise message 1 {offer} --------->  CLOSED
    SYN_SENT                                               SYN_RCVD     KeysReady
              <-- SYN-ACK: Noise message 2 {offer} ------
    ESTABLISHED                                                         Established (initiator)
              --- ACK: {epoch} under the confirmation key ->
                                                           ESTABLISHED  Established (responder)

The initiator holds the session's keys once it has read message 2, and may send data right behind
its ACK. The responder therefore learns its keys, and says so with `KeysReady`, before its SYN-ACK
leaves: the dataplane is ready before the first frame of the session can arrive.

`TRANSITIONS` is the seed's table. What the seed leaves open is in `REPEATS`: a frame that was lost
is sent again, so a frame that arrived is seen again, and must be answered again without any change
of state. And where both sides call `connect` at once, the cell with the lower CellID stays the
initiator; the other drops its own attempt and answers. Every other pair of state and frame raises
`UnexpectedFrame`, every other pair of state and call `IllegalTransition`.

A frame is checked in full before anything changes. Its Noise message is read on a copy of the
handshake, and the copy takes the original's place together with state, timers and counters, or not
at all. A forged, damaged or misplaced frame leaves no trace.

Three things make a captured handshake worthless. Its frames are tagged under a key that follows
from the pre-shared key, and each has a newer timestamp than the one before, which the gate insists
on. The offer inside carries a time that must be newer than any accepted from this peer. And the
responder's share of the keys is new each time, so that only the live initiator can confirm them.

Timestamps of handshake frames never go back, even if the clock does; the offer says by how much
they run ahead of the clock (`lead`), so that the peer still learns the true offset between the
clocks. Frames of a session carry the clock as it is.

Every `now` is a monotonic clock in ns. The owner calls `tick` when `next_deadline` has come, and
passes on what `frames_to_send` returns after every call that may have queued something.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from assent.errors import (
    InvalidArgument,
    ResourceExhausted,
)
from assent.handshake.keys import (
    SealError,
    SessionKeys,
    admission_key,
    confirmation_key,
    derive_session_keys,
    open_,
    seal,
)
from assent.handshake.machine import (
    ENDING_INPUTS,
    HANDSHAKE_INPUTS,
    REPEATS,
    TRANSITIONS,
    YIELD,
    Action,
    Input,
    State,
    Transition,
)
from assent.handshake.noise import NoiseIK, prologue
from assent.handshake.values import (
    LIFETIME,
    OFFER_MAX,
    RESEND_FIRST,
    SECOND,
    VERSION,
    AdmissionError,
    Closed,
    CloseReason,
    Deliver,
    Established,
    Event,
    HailRefused,
    IllegalTransition,
    KeysReady,
    LocalOffer,
    PeerIdentity,
    SynReceived,
    Timers,
    UnexpectedFrame,
)
from assent.identity.keys import Identity, Random
from assent.wire.control import (
    ControlError,
    ControlTag,
    Hail,
    HailPayload,
    Tag,
    decode_body,
    decode_tags,
    encode_body,
    encode_tags,
)
from assent.wire.fabric import (
    FLAGS_KNOWN,
    Flags,
    Frame,
    FrameError,
    Header,
    header_tag,
)

__all__ = [
    "EPOCH_MAX",
    "LIFETIME",
    "OFFER_MAX",
    "OUTBOX_MAX",
    "REPEATS",
    "RESEND_FIRST",
    "RESEND_MAX",
    "SECOND",
    "SEQ_MAX",
    "TRANSITIONS",
    "VERSION",
    "YIELD",
    "Action",
    "AdmissionError",
    "CloseReason",
    "Closed",
    "Connection",
    "Deliver",
    "Established",
    "Event",
    "HailRefused",
    "IllegalTransition",
    "Input",
    "KeysReady",
    "LocalOffer",
    "PeerIdentity",
    "State",
    "SynReceived",
    "Timers",
    "Transition",
    "UnexpectedFrame",
]

RESEND_MAX: Final = Timers().resend_max
OUTBOX_MAX: Final = 64
SEQ_MAX: Final = 0x7FFF_FFF0
EPOCH_MAX: Final = 0xFFFF_FFFF


Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What a completed Noise handshake settles."""

    keys: SessionKeys
    confirm_key: bytes = field(repr=False)
    peer_offer: HailPayload
    clock_offset: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One handshake. Never changed, only replaced, so that a step is taken whole or not at all.

    Attributes:
        initiator: Whether this side began.
        epoch: What we proposed or settled.
        noise: The Noise handshake after our newest message.
        sent: Our Noise message, for sending again.
        accepted: The peer's newest HAIL content that we took, for knowing it again.
        confirmation: The initiator's sealed confirmation.
        agreed: Set once keys exist.
    """

    initiator: bool
    epoch: int
    noise: NoiseIK = field(repr=False)
    sent: bytes = field(repr=False)
    accepted: bytes = field(default=b"", repr=False)
    confirmation: bytes = field(default=b"", repr=False)
    agreed: _Agreed | None = None


class Connection:
    """One end of a UTCP connection to one peer.

    The object outlives sessions: after CLOSED it can connect or answer again, and still remembers
    what it must not accept twice. Three numbers are worth storing across restarts, and are given
    back to the constructor: `last_timestamp`, `newest_hail_time`, `last_epoch`.

    Attributes:
        state: Where the connection stands.
        last_timestamp: The newest timestamp of a handshake frame sent, ns. Later ones are greater.
        newest_hail_time: The newest offer time accepted from the peer, ns.
        last_epoch: The newest epoch that keys were made for.
    """

    def __init__(
        self,
        identity: Identity,
        peer: PeerIdentity,
        policy: LocalOffer,
        clock: Clock,
        random: Random,
        *,
        last_timestamp: int = 0,
        newest_hail_time: int = 0,
        last_epoch: int = 0,
        timers: Timers = Timers(),  # noqa: B008 - it cannot be changed
    ) -> None:
        """Makes a closed connection.

        Args:
            identity: Who we are.
            peer: Who the other is.
            policy: What we offer.
            clock: Reads our wall clock, ns of TAI where the host keeps it.
            random: Returns as many random bytes as it is asked for.
            last_timestamp: See the class.
            newest_hail_time: See the class.
            last_epoch: See the class.
            timers: How long it waits.

        Raises:
            InvalidArgument: The peer is this cell itself.
        """
        if identity.cell_id == peer.cell_id:
            raise InvalidArgument("peer", "is this cell itself")
        self.state = State.CLOSED
        self.last_timestamp = last_timestamp
        self.newest_hail_time = newest_hail_time
        self.last_epoch = last_epoch
        self._identity = identity
        self._local = identity.cell_id
        self._peer = peer
        self._peer_static = peer.noise_public
        self._policy = policy
        self._clock = clock
        self._random = random
        self._admission_tx = admission_key(peer.psk, self._local, peer.cell_id)
        self._admission_rx = admission_key(peer.psk, peer.cell_id, self._local)
        self._attempt: _Attempt | None = None
        self._lead = 0
        self._handshake_seq = 0
        self._session_seq = 0
        self._expires: int | None = None
        self._resend_at: int | None = None
        self._timers = timers
        self._resend_after = timers.resend_first
        self._asked_again = False
        self._asked_at = 0
        self._outbox: list[Frame] = []

    def __repr__(self) -> str:
        return f"Connection({self._local.short} to {self._peer.cell_id.short}, {self.state.value})"

    @property
    def last_active(self) -> int | None:
        """When the connection last went on, monotonic ns; None where it is closed."""
        return None if self._expires is None else self._expires - self._timers.lifetime

    @property
    def is_forsaken(self) -> bool:
        """Whether the peer whose SYN we answered seems to have given its handshake up.

        It has neither confirmed the session nor asked again, though its SYN has been due since. No
        frame says so for certain: only who wants a session now has a reason not to wait any longer.
        """
        return (
            self.state is State.SYN_RCVD
            and not self._asked_again
            and self._resend_after > self._timers.resend_first
        )

    @property
    def next_seq(self) -> int:
        """The number of the next handshake frame."""
        return self._handshake_seq + 1

    # ---- calls

    def connect(self, now: int, epoch: int) -> None:
        """Begins a handshake.

        Args:
            now: Monotonic ns.
            epoch: The epoch that we propose; greater than `last_epoch`. The peer may settle on a
                greater one.

        Raises:
            IllegalTransition: The connection is not CLOSED.
            InvalidArgument: The epoch is not greater than the last one, or does not fit 32 bits.
        """
        transition = self._call(Input.CONNECT)
        if not self.last_epoch < epoch <= EPOCH_MAX:
            raise InvalidArgument("epoch", "must be greater than the last one and fit 32 bits")
        lead, stamp = self._next_stamp()
        noise = NoiseIK.initiate(
            static=self._identity.noise_private,
            remote_static=self._peer_static,
            psk=self._peer.psk,
            ephemeral=self._random(32),
            prologue=prologue(self._local, self._peer.cell_id),
        )
        offer = self._policy.at(epoch=epoch, time=stamp, lead=lead)
        sent = noise.write_message(encode_body(offer.to_body()))
        self._enter(transition, now, _Attempt(True, epoch, noise, sent))
        self._lead, self.last_timestamp = lead, stamp
        self._send_again()

    def close(self, now: int) -> None:
        """Ends the session; `Closed` follows when the peer has answered, or its time is over.

        Args:
            now: Monotonic ns.

        Raises:
            IllegalTransition: The connection is not ESTABLISHED.
        """
        self._enter(self._call(Input.CLOSE), now, self._attempt)
        self._send_again()

    def send(self, payload: bytes) -> None:
        """Seals a control payload and queues it as a DATA frame on flow 0.

        Args:
            payload: What `encode_tags` returned.

        Raises:
            IllegalTransition: The connection is not ESTABLISHED.
            ResourceExhausted: 64 frames wait to be fetched with `frames_to_send`, or half of the
                sequence numbers are used and the session must be renewed.
            InvalidArgument: The payload is too long for a frame.
        """
        if self.state is not State.ESTABLISHED:
            raise IllegalTransition(f"nothing can be sent in state {self.state.value}")
        if len(self._outbox) >= OUTBOX_MAX:
            raise ResourceExhausted("too many frames wait to be sent")
        if self._session_seq >= SEQ_MAX:
            raise ResourceExhausted("the sequence numbers of this session are used up")
        self._queue_session(Flags.DATA, payload)

    def touch(self, now: int) -> None:
        """Notes that the peer was heard on a path that does not pass here, such as a data flow.

        Does nothing unless the connection is ESTABLISHED.
        """
        if self.state is State.ESTABLISHED:
            self._expires = now + self._timers.lifetime

    # ---- time

    def next_deadline(self) -> int | None:
        """When `tick` is due, monotonic ns; None while nothing is."""
        due = [at for at in (self._expires, self._resend_at) if at is not None]
        return min(due, default=None)

    def tick(self, now: int) -> list[Event]:
        """Does what is due: gives up after its lifetime, sends again before that.

        Args:
            now: Monotonic ns. Calling too early or too often does no harm.
        """
        if self._expires is not None and now >= self._expires:
            return self._clean_up(CloseReason.TIMEOUT)
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_after = min(2 * self._resend_after, self._timers.resend_max)
            self._resend_at = now + self._resend_after
            self._send_again()
        return []

    # ---- frames

    def frames_to_send(self) -> list[Frame]:
        """Takes what is queued, oldest first. At most 64 frames are ever held."""
        frames, self._outbox = self._outbox, []
        return frames

    def receive(self, header: Header, payload: bytes, now: int) -> list[Event]:
        """Takes in one frame. Whatever is raised, nothing has changed.

        Repetition of session frames is not looked for here: the gate's replay window admits each
        sequence number once.

        Args:
            header: As decoded.
            payload: `header.payload_len` bytes, without padding.
            now: Monotonic ns.

        Returns:
            What became of it, in order; empty where a repeated frame was answered again.

        Raises:
            FrameError: The payload is not as long as the header says, or BLOCK is not set.
            AdmissionError: The cells are not these, or the tag does not verify.
            UnexpectedFrame: The frame has no place in this state.
            ControlError: The payload is not one HAIL, or the offer in it is malformed.
            HandshakeError: The Noise message does not verify.
            HailRefused: The peer's static key is not the one introduced, its time is not newer than
                the last, its epoch is behind ours, or there is no common version.
            SealError: A sealed payload or the confirmation does not open.
        """
        if len(payload) != header.payload_len:
            raise FrameError("the payload's length and payload_len disagree")
        if not header.flags & Flags.BLOCK:
            raise FrameError("a bare frame: BLOCK is not set")
        if header.src != self._peer.cell_id or header.dst != self._local:
            raise AdmissionError("the frame is not between these two cells")
        kind = header.flags & ~Flags.BLOCK
        what = HANDSHAKE_INPUTS.get(kind) if header.flow == 0 else None
        if what is not None:
            _check_tag(self._admission_rx, header)
            return self._receive_handshake(what, header, payload, now)
        return self._receive_session(_session_input(kind, header.flow), header, payload, now)

    def _receive_handshake(
        self, what: Input, header: Header, payload: bytes, now: int
    ) -> list[Event]:
        transition = TRANSITIONS.get((self.state, what))
        if self.state is State.SYN_SENT and what is Input.SYN:
            if self._local < self._peer.cell_id:
                return []
            transition = YIELD
        if transition is None:
            self._answer_again(what, _hail(payload).noise)
            return []
        if transition.action is Action.SEND_SYN_ACK:
            return self._take_syn(transition, header, _hail(payload).noise, now)
        if transition.action is Action.SEND_ACK:
            return self._take_syn_ack(transition, header, _hail(payload).noise, now)
        if transition.action is Action.READY:
            return self._take_ack(transition, _hail(payload).noise, now)
        # FIN_WAIT waits for the ACK of its FIN, which is FIN|ACK, and not for this one.
        raise self._unexpected(what)

    def _receive_session(
        self, what: Input | None, header: Header, payload: bytes, now: int
    ) -> list[Event]:
        agreed = self._attempt.agreed if self._attempt else None
        if what is None or agreed is None:
            raise self._unexpected(what)
        _check_tag(agreed.keys.rx_header, header)
        transition = TRANSITIONS.get((self.state, what))
        if transition is None or transition.action is Action.READY:
            raise self._unexpected(what)
        content = b""
        if payload:
            content = open_(
                agreed.keys.rx_payload,
                payload,
                src=header.src,
                dst=header.dst,
                epoch=agreed.keys.epoch,
                flow=header.flow,
                seq=header.seq,
            )
        if transition.action is Action.DELIVER:
            self._expires = now + self._timers.lifetime
            return [Deliver(header, content)]
        if transition.action is Action.ANSWER_FIN:
            self._queue_session(Flags.FIN | Flags.ACK, b"")
            return self._clean_up(CloseReason.PEER)
        return self._clean_up(CloseReason.LOCAL)

    # ---- the handshake's steps: check everything, then commit

    def _take_syn(
        self, transition: Transition, header: Header, message: bytes, now: int
    ) -> list[Event]:
        noise = NoiseIK.respond(
            static=self._identity.noise_private,
            psk=self._peer.psk,
            ephemeral=self._random(32),
            prologue=prologue(self._peer.cell_id, self._local),
        )
        theirs = self._read_offer(noise, message)
        epoch = max(theirs.epoch, self.last_epoch + 1)
        if epoch > EPOCH_MAX:
            raise HailRefused("the epochs are used up")
        lead, stamp = self._next_stamp()
        ours = self._policy.at(epoch=epoch, time=stamp, lead=lead)
        sent = noise.write_message(encode_body(ours.to_body()))
        agreed = self._agree(noise, theirs, header, now, epoch=epoch, initiator=False)
        self._enter(transition, now, _Attempt(False, epoch, noise, sent, message, agreed=agreed))
        self._lead, self.last_timestamp = lead, stamp
        self.newest_hail_time, self.last_epoch = theirs.time, epoch
        self._send_again()
        return [SynReceived(self._peer.cell_id), KeysReady(*_facts(agreed, initiator=False))]

    def _take_syn_ack(
        self, transition: Transition, header: Header, message: bytes, now: int
    ) -> list[Event]:
        attempt = self._held_attempt()
        noise = attempt.noise.clone()
        theirs = self._read_offer(noise, message)
        if theirs.epoch < attempt.epoch:
            raise HailRefused("the peer settled on an epoch behind the one proposed")
        agreed = self._agree(noise, theirs, header, now, epoch=theirs.epoch, initiator=True)
        confirmation = seal(
            agreed.confirm_key,
            encode_body({"epoch": theirs.epoch}),
            src=self._local,
            dst=self._peer.cell_id,
            epoch=theirs.epoch,
            flow=0,
            seq=0,
        )
        done = replace(
            attempt,
            epoch=theirs.epoch,
            noise=noise,
            accepted=message,
            confirmation=confirmation,
            agreed=agreed,
        )
        rtt = now - self._asked_at
        self._enter(transition, now, done)
        self.newest_hail_time, self.last_epoch = theirs.time, theirs.epoch
        self._queue_handshake(Flags.ACK, confirmation)
        return [Established(*_facts(agreed, initiator=True), rtt)]

    def _take_ack(self, transition: Transition, confirmation: bytes, now: int) -> list[Event]:
        attempt, agreed = self._held_attempt(), self._held_agreed()
        content = open_(
            agreed.confirm_key,
            confirmation,
            src=self._peer.cell_id,
            dst=self._local,
            epoch=attempt.epoch,
            flow=0,
            seq=0,
        )
        if decode_body(content) != {"epoch": attempt.epoch}:
            raise SealError("the confirmation is for another epoch")
        rtt = now - self._asked_at
        self._enter(transition, now, replace(attempt, accepted=confirmation))
        return [Established(*_facts(agreed, initiator=False), rtt)]

    def _answer_again(self, what: Input, message: bytes) -> None:
        action = REPEATS.get((self.state, what))
        attempt = self._attempt
        if action is None or attempt is None or message != attempt.accepted:
            raise self._unexpected(what)
        if action is Action.SEND_SYN_ACK:
            self._asked_again = True
            self._send_again()
        elif action is Action.SEND_ACK:
            self._queue_handshake(Flags.ACK, attempt.confirmation)

    def _read_offer(self, noise: NoiseIK, message: bytes) -> HailPayload:
        sealed = noise.read_message(message)
        if not hmac.compare_digest(noise.remote_static, self._peer_static):
            raise HailRefused("the peer's static key is not the one introduced")
        offer = HailPayload.from_body(decode_body(sealed))
        if offer.time <= self.newest_hail_time:
            raise HailRefused("the offer is not newer than the last one accepted")
        if VERSION not in offer.versions:
            raise HailRefused("there is no common version")
        return offer

    def _agree(
        self,
        noise: NoiseIK,
        offer: HailPayload,
        header: Header,
        now: int,
        *,
        epoch: int,
        initiator: bool,
    ) -> _Agreed:
        split = noise.split()
        cells = (self._local, self._peer.cell_id)
        keys = derive_session_keys(
            split, initiator=initiator, local=cells[0], peer=cells[1], epoch=epoch
        )
        confirm_key = confirmation_key(split, *(cells if initiator else cells[::-1]), epoch)
        # The header's time, not the offer's: a frame that is sent again repeats the offer.
        return _Agreed(keys, confirm_key, offer, header.timestamp - offer.lead - now)

    # ---- state

    def _call(self, what: Input) -> Transition:
        transition = TRANSITIONS.get((self.state, what))
        if transition is None:
            raise IllegalTransition(f"{what.value} in state {self.state.value}")
        return transition

    def _unexpected(self, what: Input | None) -> UnexpectedFrame:
        name = what.value if what else "a frame with no meaning here"
        return UnexpectedFrame(f"{name} in state {self.state.value}")

    def _held_attempt(self) -> _Attempt:
        if self._attempt is None:
            raise AssertionError("a state other than CLOSED has an attempt")
        return self._attempt

    def _held_agreed(self) -> _Agreed:
        agreed = self._held_attempt().agreed
        if agreed is None:
            raise AssertionError("a state after the handshake has keys")
        return agreed

    def _enter(self, transition: Transition, now: int, attempt: _Attempt | None) -> None:
        self.state = transition.next_state
        self._attempt = attempt
        self._expires = now + self._timers.lifetime
        self._resend_after = self._timers.resend_first
        self._asked_again = False
        if self.state is State.ESTABLISHED:
            self._resend_at = None
        else:
            self._resend_at = now + self._resend_after
        if self.state in {State.SYN_SENT, State.SYN_RCVD}:
            self._session_seq = 0
            self._asked_at = now

    def _clean_up(self, reason: CloseReason) -> list[Event]:
        self.state = State.CLOSED
        self._attempt = None
        self._expires = self._resend_at = None
        return [Closed(reason)]

    # ---- sending

    def _next_stamp(self) -> tuple[int, int]:
        """How far timestamps must run ahead of the clock, and the next one."""
        clock = self._clock()
        lead = max(0, self.last_timestamp + 1 - clock)
        return lead, clock + lead

    def _stamp(self) -> int:
        """A timestamp for a handshake frame: receivers refuse those that are not newer."""
        self.last_timestamp = max(self._clock() + self._lead, self.last_timestamp + 1)
        return self.last_timestamp

    def _send_again(self) -> None:
        """Queues the frame that this state repeats until it is answered."""
        if self.state is State.SYN_SENT:
            self._queue_handshake(Flags.SYN, self._held_attempt().sent)
        elif self.state is State.SYN_RCVD:
            self._queue_handshake(Flags.SYN | Flags.ACK, self._held_attempt().sent)
        elif self.state is State.FIN_WAIT:
            self._queue_session(Flags.FIN, b"")

    def _queue_handshake(self, flags: Flags, message: bytes) -> None:
        payload = encode_tags([ControlTag(Tag.HAIL, 0, Hail(message, VERSION).to_body())])
        self._handshake_seq += 1
        self._queue(self._admission_tx, flags, self._handshake_seq, payload, self._stamp())

    def _queue_session(self, flags: Flags, payload: bytes) -> None:
        keys = self._held_agreed().keys
        seq = self._session_seq + 1
        if payload:
            payload = seal(
                keys.tx_payload,
                payload,
                src=self._local,
                dst=self._peer.cell_id,
                epoch=keys.epoch,
                flow=0,
                seq=seq,
            )
        # The bare clock: the offset that the peer has learned from us leaves the lead out.
        self._queue(keys.tx_header, flags, seq, payload, self._clock())
        self._session_seq = seq

    def _queue(self, key: bytes, flags: Flags, seq: int, payload: bytes, timestamp: int) -> None:
        # Everything queued here is sent again or asked for again, so a full outbox loses nothing.
        if len(self._outbox) >= OUTBOX_MAX:
            return
        header = Header(
            self._local,
            self._peer.cell_id,
            seq,
            flags | Flags.BLOCK,
            len(payload),
            timestamp=timestamp,
        )
        tag = header_tag(key, header)
        self._outbox.append(Frame(replace(header, tag=tag), payload))


def _check_tag(key: bytes, header: Header) -> None:
    expected = header_tag(key, header).to_bytes(8, "little")
    if not hmac.compare_digest(expected, header.tag.to_bytes(8, "little")):
        raise AdmissionError("the tag does not verify")


def _session_input(kind: int, flow: int) -> Input | None:
    if flow == 0 and kind in ENDING_INPUTS:
        return ENDING_INPUTS[kind]
    if kind & Flags.DATA and not kind & (Flags.SYN | Flags.FIN | ~FLAGS_KNOWN):
        return Input.DATA
    return None


def _hail(payload: bytes) -> Hail:
    tags, _ = decode_tags(payload)
    if len(tags) != 1 or tags[0].tag != Tag.HAIL:
        raise ControlError("a handshake frame carries one HAIL")
    hail = Hail.from_body(tags[0].body)
    if hail.version != VERSION:
        raise HailRefused("there is no common version")
    return hail


def _facts(agreed: _Agreed, *, initiator: bool) -> tuple[SessionKeys, HailPayload, int, int, bool]:
    return agreed.keys, agreed.peer_offer, agreed.clock_offset, agreed.keys.epoch, initiator
