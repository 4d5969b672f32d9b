# SPDX-License-Identifier: Apache-2.0
"""A covenant in force: DATA, AMEND, REVIEW, REVOKE, HEARTBEAT, and how it ends.

A new version is in force on each side as soon as that side knows that all have signed it: the
proposer signs in its AMEND, the others in their ACCEPT. With two parties the acceptor knows when it
accepts. Should its ACCEPT be lost with the transport, or come after T_amend, the proposer still
takes over what both have signed: the next REVIEW makes the acceptor repeat it.

The end is certain: whatever a peer does or does not do, the notice period runs out.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from assent.covenant.agreement import (
    US,
    Amendment,
    Covenant,
    OutOfPlace,
    Party,
    Timer,
    Version,
    proposal_of,
)
from assent.covenant.desk import Desk
from assent.covenant.document import (
    bind_bytes,
    confirmation_bytes,
    verify_bind,
    verify_rotation,
)
from assent.covenant.immune import Condition
from assent.covenant.machine import Input, State
from assent.covenant.negotiation import TermsDiffer
from assent.covenant.payloads import (
    Accept,
    AgentConfirmation,
    Amend,
    Data,
    Escalate,
    Justification,
    Reject,
    Review,
    Revoke,
    Rotation,
    Violation,
)
from assent.covenant.terms import (
    Allowance,
    TermsBreach,
    TermSet,
    Timers,
    allowance,
    terms_hash,
)
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition, InvalidArgument
from assent.identity.keys import SignatureError, verify
from assent.wire.tcpup import FrameFlag, FrameType

_BLOCK: Final = 64
_SECOND: Final = 1_000_000_000
_LENIENCE: Final = _SECOND
"""ns by which a peer may be ahead of its rate before it is called a breach."""
REVIEW_MIN_US: Final = 1_000_000
"""Reviews do not come more often, whatever the covenant says."""
LAPSED_MAX: Final = 8
"""Amendments that lapsed one after the other, and may still turn out to be agreed to."""


class Fellowship:
    """What can become of covenants in force, for all covenants of one agent.

    Args:
        desk: What the engine's parts share.
        rename: Called with a covenant, a party and its new key, when a rotation is in force.
    """

    def __init__(self, desk: Desk, rename: Callable[[Covenant, UUID, bytes], None]) -> None:
        self._desk = desk
        self._rename = rename

    # In force

    def activate(self, covenant: Covenant, now: int) -> None:
        """A first version is in force."""
        for party in covenant.parties.values():
            party.deferring = False
            party.heard_at = now
        self._start_clocks(covenant, now)
        covenant.reason = ""
        self._desk.tell(covenant, "covenanted", f"version {covenant.version} is in force")

    def _start_clocks(self, covenant: Covenant, now: int) -> None:
        covenant.timers = Timers.of(covenant.proposal.terms)
        covenant.arm(Timer.HEARTBEAT, now, covenant.timers.heartbeat)
        self._listen(covenant)
        duration = covenant.proposal.duration
        if duration.review_interval:
            covenant.arm(Timer.REVIEW, now, max(duration.review_interval, REVIEW_MIN_US))
        if duration.end:
            covenant.arm(Timer.END, now, max(0, duration.end - self._desk.wall()))

    # DATA

    def send_data(self, covenant: Covenant, content_type: str, data: bytes, now: int) -> None:
        """Sends application data within the terms.

        Raises:
            FailedPrecondition: The terms do not allow it, or we are quarantined.
        """
        covenant.require(Input.SEND_DATA)
        if covenant.suspended_by:
            raise FailedPrecondition(
                f"covenant {covenant.handle}: a party has quarantined us, so it takes no data"
            )
        allowed = allowance(covenant.proposal.terms, covenant.role)
        payload = Data(covenant.covenant_id, content_type, data)
        at = self._desk.timestamp(covenant)
        ahead = covenant.data_due.get(covenant.agent_id, 0) - now
        breach = self._breach(covenant, allowed, payload, at, ahead)
        if breach:
            raise FailedPrecondition(f"covenant {covenant.handle}: {breach}")
        self._desk.send(covenant, FrameType.DATA, payload)
        self._charge(covenant, covenant.agent_id, allowed, data, now)
        covenant.step(Input.SEND_DATA)

    def on_data(
        self, covenant: Covenant, party: Party, data: Data, sent_at: int, raw: bytes, now: int
    ) -> None:
        """Takes in application data, if the terms allow it.

        It is held against its terms as of when it was sent: what was right then cannot become a
        breach on its way. How far a timestamp may be off is settled by T_clock_skew.

        Args:
            covenant: In force.
            party: Who has sent it.
            data: What it has sent.
            sent_at: The frame's timestamp, Unix µs.
            raw: The frame.
            now: Monotonic ns.

        Raises:
            TermsDiffer: It names another covenant.
        """
        covenant.expect(Input.RECEIVE_DATA)
        if data.covenant_id != covenant.covenant_id:
            raise TermsDiffer("DATA: the covenant id is not that of the frame")
        allowed = allowance(covenant.proposal.terms, party.role)
        sent_ns = sent_at * US
        ahead = covenant.data_due.get(party.agent_id, 0) - sent_ns - _LENIENCE
        breach = self._breach(covenant, allowed, data, sent_at, ahead)
        if breach:
            self.breached(covenant, party.agent_id, breach, now, raw=raw)
            return
        self._charge(covenant, party.agent_id, allowed, data.data, sent_ns)
        covenant.step(Input.RECEIVE_DATA)
        self._desk.tell(
            covenant,
            "data",
            f"{len(data.data)} bytes of {data.content_type}",
            data=data,
            agent_id=party.agent_id,
        )

    def breached(
        self,
        covenant: Covenant,
        agent_id: UUID,
        what: str,
        now: int,
        *,
        count: int = 1,
        raw: bytes = b"",
    ) -> None:
        """An agent has broken the terms: once it is an error, again and again it is malice."""
        condition = self._desk.immune.breach(agent_id, covenant.covenant_id, count)
        self._desk.report(covenant, condition, agent_id, what, now, raw)

    def _breach(
        self, covenant: Covenant, allowed: Allowance, data: Data, at: int, ahead: int
    ) -> str:
        """What the terms have against data, by when it was sent and ns ahead of its rate."""
        if at < covenant.proposal.duration.start:
            return "the covenant has not begun yet"
        try:
            allowed.check(data.content_type, len(data.data), at)
        except TermsBreach as breach:
            return str(breach)
        if allowed.rate_blocks_per_second and ahead > _burst_ns(allowed):
            return f"more than the {allowed.rate_blocks_per_second} blocks a second agreed"
        return ""

    def _charge(
        self, covenant: Covenant, agent_id: UUID, allowed: Allowance, data: bytes, now: int
    ) -> None:
        if allowed.rate_blocks_per_second:
            blocks = 1 + -(-len(data) // _BLOCK)
            due = max(covenant.data_due.get(agent_id, 0), now)
            covenant.data_due[agent_id] = due + blocks * _SECOND // allowed.rate_blocks_per_second

    # AMEND

    def amend(
        self, covenant: Covenant, proposal: Proposal, now: int, new_key: RotationOrder | None = None
    ) -> None:
        """Proposes a new version.

        Raises:
            FailedPrecondition: The covenant has as many versions as it may.
            InvalidArgument: What cannot be amended would change.
        """
        covenant.require(Input.SEND_AMEND)
        version = covenant.version + 1
        most = covenant.proposal.duration.max_versions
        if most and version > most:
            raise FailedPrecondition(f"covenant {covenant.handle} may have {most} versions at most")
        if proposal.durable != covenant.durable:
            raise InvalidArgument("durable", "is settled with the first version")
        keys = {covenant.agent_id: new_key.public_key} if new_key else {}
        document = covenant.draft(version, proposal, self._desk.wall(), keys)
        to_sign = bind_bytes(document)
        signature = new_key.sign(to_sign) if new_key else self._desk.sign(covenant, to_sign)
        rotation = new_key.rotation if new_key else None
        heard = {str(agent): party.rx_sequence for agent, party in covenant.parties.items()}
        payload = Amend(
            covenant.covenant_id, version, document, signature, rotation, {"heard": heard}
        )
        flags = FrameFlag.VERSIONED | FrameFlag.MISERICORDIA
        self._desk.send(covenant, FrameType.AMEND, payload, flags)
        covenant.step(Input.SEND_AMEND)
        covenant.amendment = Amendment(
            covenant.agent_id,
            document,
            {covenant.agent_id: signature},
            rotation,
            covenant.tx_sequence,
        )
        covenant.arm(Timer.AMEND, now, covenant.timers.amend)
        self._desk.tell(covenant, "amending", f"version {version} proposed by us")

    def on_amend(self, covenant: Covenant, party: Party, amend: Amend, now: int) -> None:
        """A party proposes a new version.

        Where two propose at once, the one with the lower UUID goes first; even if its own proposal
        has lapsed meanwhile, because the other may still agree to that.

        Raises:
            OutOfPlace: It has no place here.
            TermsDiffer: It changes what cannot be amended, or is not the next version.
            SignatureError: It is not signed by its proposer.
        """
        yields = (
            covenant.state is State.AMENDING
            and covenant.amendment is not None
            and covenant.amendment.proposer == covenant.agent_id
            and party.agent_id.bytes < covenant.agent_id.bytes
        )
        if not yields:
            covenant.expect(Input.RECEIVE_AMEND)
        document = amend.covenant_object
        self._check_amendment(covenant, party, amend)
        if _goes_after_ours(covenant, party, amend):
            raise OutOfPlace("an AMEND of when ours was on the table, which goes first")
        if yields:
            covenant.step(Input.AMEND_REFUSED)
            self._desk.tell(covenant, "amendment-rejected", "another amendment goes first")
        covenant.step(Input.RECEIVE_AMEND)
        covenant.amendment = Amendment(
            party.agent_id, document, {party.agent_id: amend.bind_signature}, amend.rotation
        )
        covenant.arm(Timer.AMEND, now, covenant.timers.amend)
        self._desk.tell(
            covenant, "amending", f"version {document.version} proposed", agent_id=party.agent_id
        )

    def _check_amendment(self, covenant: Covenant, party: Party, amend: Amend) -> None:
        document, rotation = amend.covenant_object, amend.rotation
        if amend.covenant_id != covenant.covenant_id or document.id != covenant.covenant_id:
            raise TermsDiffer("AMEND: the covenant id is not that of the frame")
        if not amend.covenant_version == document.version == covenant.version + 1:
            raise TermsDiffer(f"AMEND: the next version is {covenant.version + 1}")
        most = covenant.proposal.duration.max_versions
        if most and document.version > most:
            raise TermsDiffer(f"AMEND: there may be {most} versions at most")
        keys: Mapping[UUID, bytes] = {}
        if rotation is not None:
            if rotation.agent_id != party.agent_id:
                raise TermsDiffer("AMEND: an agent can rotate its own key only")
            verify_rotation(rotation, party.public_key, covenant.covenant_id, document.version)
            keys = {party.agent_id: rotation.public_key}
        proposal = proposal_of(document, durable=covenant.durable)
        expected = covenant.draft(document.version, proposal, document.creation_time, keys)
        if bind_bytes(expected) != bind_bytes(document):
            raise TermsDiffer("AMEND: it changes who the parties are")
        Timers.of(document.terms)
        key = keys.get(party.agent_id, party.public_key)
        verify(key, bind_bytes(document), amend.bind_signature)

    def accept_amendment(self, covenant: Covenant, now: int) -> None:
        """Agrees to the version on the table."""
        amendment = self._to_decide(covenant, Input.AMEND_AGREED)
        desk, document = self._desk, amendment.document
        digest = terms_hash(document.terms)
        signature = desk.sign(covenant, bind_bytes(document))
        confirmation = AgentConfirmation(
            covenant.agent_id, covenant.public_key, desk.sign(covenant, confirmation_bytes(digest))
        )
        extensions = {"bind_signature": signature, "covenant_version": document.version}
        payload = Accept(covenant.covenant_id, digest, confirmation, extensions)
        amendment.signatures[covenant.agent_id] = signature
        desk.send(covenant, FrameType.ACCEPT, payload)
        self._update_if_all_agree(covenant, now)

    def reject_amendment(
        self, covenant: Covenant, justification: Justification, counter_terms: TermSet | None
    ) -> None:
        """Does not agree to the version on the table, and says why."""
        self._to_decide(covenant, Input.AMEND_REFUSED)
        rejection = Reject(justification, counter_terms)
        self._desk.send(covenant, FrameType.REJECT, rejection, FrameFlag.JUSTIFIED)
        covenant.step(Input.AMEND_REFUSED)
        covenant.amendment, covenant.rejection = None, rejection
        self._desk.tell(covenant, "amendment-rejected", "rejected by us")

    def _to_decide(self, covenant: Covenant, what: Input) -> Amendment:
        covenant.require(what)
        amendment = covenant.amendment
        if amendment is None or covenant.agent_id in amendment.signatures:
            raise FailedPrecondition(
                f"covenant {covenant.handle}: the amendment waits for the other parties"
            )
        return amendment

    def on_accept(self, covenant: Covenant, party: Party, accept: Accept, now: int) -> None:
        """A party agrees to the version on the table.

        Raises:
            OutOfPlace: There is none, or the party has agreed already.
            TermsDiffer: It agrees to something else.
            SignatureError: It has not signed.
        """
        if not (covenant.lapsed and covenant.state is State.COVENANTED):
            covenant.expect(Input.AMEND_AGREED)
        waiting = [covenant.amendment] if covenant.amendment else []
        waiting += reversed(covenant.lapsed)
        open_to_it = [one for one in waiting if party.agent_id not in one.signatures]
        if not open_to_it:
            raise OutOfPlace("an ACCEPT that nobody waits for")
        confirmed = accept.agent_confirmation
        if accept.covenant_id != covenant.covenant_id:
            raise TermsDiffer("ACCEPT: the covenant id is not that of the frame")
        if (confirmed.agent_id, confirmed.public_key) != (party.agent_id, party.public_key):
            raise TermsDiffer("ACCEPT: the confirmation is another agent's")
        amendment, found = _agreed_to(open_to_it, party, accept)
        verify(party.public_key, confirmation_bytes(accept.terms_hash), confirmed.signature)
        amendment.signatures.update(found)
        if amendment is covenant.amendment:
            self._update_if_all_agree(covenant, now)
        elif len(amendment.signatures) == len(covenant.order):
            self._revive(covenant, amendment, now)

    def _revive(self, covenant: Covenant, amendment: Amendment, now: int) -> None:
        """All have agreed to what has lapsed here: it comes before anything newer."""
        if covenant.state is State.AMENDING:
            covenant.step(Input.AMEND_REFUSED)
            self._desk.tell(covenant, "amendment-rejected", "another version was agreed to before")
        covenant.step(Input.SEND_AMEND)
        covenant.amendment = amendment
        self._update_if_all_agree(covenant, now)

    def on_reject(self, covenant: Covenant, party: Party, reject: Reject) -> None:
        """A party does not agree to the version on the table."""
        covenant.expect(Input.AMEND_REFUSED)
        amendment = covenant.amendment
        if amendment is None or party.agent_id in amendment.signatures:
            raise OutOfPlace("a REJECT that nobody waits for")
        covenant.step(Input.AMEND_REFUSED)
        covenant.amendment, covenant.rejection = None, reject
        self._desk.tell(covenant, "amendment-rejected", "rejected", agent_id=party.agent_id)

    def _update_if_all_agree(self, covenant: Covenant, now: int) -> None:
        amendment = covenant.amendment
        if amendment is None or len(amendment.signatures) < len(covenant.order):
            return
        covenant.step(Input.AMEND_AGREED)
        covenant.amendment = None
        self._take_over(covenant, amendment, now)

    def _take_over(self, covenant: Covenant, amendment: Amendment, now: int) -> None:
        """A new version is in force."""
        document = covenant.document = amendment.document
        covenant.lapsed.clear()
        covenant.history.append(Version(document, dict(amendment.signatures), amendment.rotation))
        covenant.proposal = proposal_of(document, durable=covenant.durable)
        for party in covenant.parties.values():
            party.signature = amendment.signatures.get(party.agent_id, party.signature)
        self._start_clocks(covenant, now)
        if amendment.rotation is not None:
            self._rename(covenant, amendment.proposer, amendment.rotation.public_key)
        self._desk.tell(covenant, "amended", f"version {document.version} is in force")

    # REVIEW

    def review(self, covenant: Covenant, kind: str, note: str) -> None:
        """Asks for, or gives, an account of how the covenant stands."""
        covenant.require(Input.REVIEW)
        self._desk.send(covenant, FrameType.REVIEW, self._account(covenant, kind, note))

    def on_review(self, covenant: Covenant, party: Party, review: Review, now: int) -> None:
        """A party asks for, or gives, an account.

        Raises:
            TermsDiffer: It names another covenant.
        """
        covenant.expect(Input.REVIEW)
        if review.covenant_id != covenant.covenant_id:
            raise TermsDiffer("REVIEW: the covenant id is not that of the frame")
        if review.kind == "clear":
            covenant.suspended_by.discard(party.agent_id)
        self._desk.tell(
            covenant,
            "reviewed",
            f"{review.kind}: {review.note}" if review.note else review.kind,
            agent_id=party.agent_id,
        )
        self._compare(covenant, party, review, now)
        if review.kind == "check" and covenant.in_force:
            self._desk.send(
                covenant, FrameType.REVIEW, self._account(covenant, "report", ""), to=party
            )

    def _compare(self, covenant: Covenant, party: Party, review: Review, now: int) -> None:
        """Whether both speak of the same version."""
        own = terms_hash(covenant.proposal.terms)
        version = covenant.version
        if review.covenant_version == version and hmac.compare_digest(review.terms_hash, own):
            return
        amendment = covenant.amendment or covenant.lapsed
        if review.covenant_version == version + 1 and amendment is not None:
            # Its ACCEPT is on its way, or will be sent again when it hears what we hold.
            if review.kind != "check":
                self.review(covenant, "report", "")
            return
        if review.covenant_version + 1 == version:
            # It has not heard that we agreed.
            self._repeat_acceptance(covenant, party)
            return
        self._desk.tell(
            covenant,
            "failed",
            f"a party holds version {review.covenant_version}, we hold {version}",
            agent_id=party.agent_id,
        )

    def _repeat_acceptance(self, covenant: Covenant, party: Party) -> None:
        """Says again that we have signed the version in force, to a proposer that missed it."""
        version = covenant.history[-1]
        document, signatures = version.draft, version.signatures
        if document.version < 2:
            return
        digest = terms_hash(document.terms)
        confirmation = AgentConfirmation(
            covenant.agent_id,
            covenant.public_key,
            self._desk.sign(covenant, confirmation_bytes(digest)),
        )
        extensions: dict[str, object] = {
            "bind_signature": signatures[covenant.agent_id],
            "covenant_version": document.version,
        }
        if covenant.multi:
            # It may have missed others as well.
            extensions["signatures"] = {str(one): each for one, each in signatures.items()}
        payload = Accept(covenant.covenant_id, digest, confirmation, extensions)
        self._desk.send(covenant, FrameType.ACCEPT, payload, to=party)

    def _account(self, covenant: Covenant, kind: str, note: str) -> Review:
        digest = terms_hash(covenant.proposal.terms)
        return Review(covenant.covenant_id, covenant.version, digest, kind, note)

    # REVOKE

    def revoke(self, covenant: Covenant, reason: str, now: int, *, graceful: bool) -> None:
        """Begins the notice period, agrees to end it early, or ends without notice."""
        if not graceful:
            covenant.require(Input.REVOKE_NOW)
            self._desk.send(covenant, FrameType.REVOKE, Revoke(covenant.covenant_id, reason))
            self._end(covenant, Input.REVOKE_NOW, reason or "revoked by us")
            return
        covenant.require(Input.SEND_REVOKE)
        if covenant.leaving:
            raise FailedPrecondition(f"covenant {covenant.handle}: we have revoked it already")
        payload = Revoke(covenant.covenant_id, reason)
        self._desk.send(covenant, FrameType.REVOKE, payload, FrameFlag.GRACEFUL)
        covenant.leaving = True
        self._begin_notice(covenant, Input.SEND_REVOKE, reason or "revoked by us", now)

    def on_revoke(
        self, covenant: Covenant, party: Party, revoke: Revoke, now: int, *, graceful: bool
    ) -> None:
        """A party withdraws its consent.

        Raises:
            TermsDiffer: It names another covenant.
        """
        if revoke.covenant_id != covenant.covenant_id:
            raise TermsDiffer("REVOKE: the covenant id is not that of the frame")
        reason = revoke.reason or "revoked by a party"
        if not graceful:
            covenant.expect(Input.REVOKE_NOW)
            self._end(covenant, Input.REVOKE_NOW, reason)
            return
        covenant.expect(Input.RECEIVE_REVOKE)
        party.leaving = True
        self._begin_notice(covenant, Input.RECEIVE_REVOKE, reason, now)
        if covenant.in_force:
            # The acknowledgement: a REVOKE would end the notice period.
            self._desk.send(covenant, FrameType.HEARTBEAT, to=party)

    def _begin_notice(self, covenant: Covenant, what: Input, reason: str, now: int) -> None:
        began = covenant.state is not State.REVOKING
        covenant.step(what)
        if began:
            notice = covenant.proposal.exit_protocol.notice_period
            covenant.amendment = None
            covenant.reason = reason
            covenant.notice_ends = self._desk.wall() + notice
            covenant.arm(Timer.NOTICE, now, notice)
            covenant.arm(Timer.HEARTBEAT, now, covenant.timers.heartbeat)
            self._desk.tell(covenant, "revoking", reason)
        if covenant.leaving and all(party.leaving for party in covenant.parties.values()):
            self._end(covenant, Input.ALL_CONFIRMED, covenant.reason)

    def _end(self, covenant: Covenant, what: Input, reason: str) -> None:
        covenant.step(what)
        covenant.reason = reason
        covenant.amendment = None
        self._desk.tell(covenant, "terminated", reason)

    # HEARTBEAT, VIOLATION, ESCALATE

    def heard(self, covenant: Covenant, party: Party, now: int) -> None:
        """A party lives."""
        party.heard_at = now
        if covenant.state in (State.COVENANTED, State.AMENDING):
            self._listen(covenant)

    def _listen(self, covenant: Covenant) -> None:
        """Every party that reaches us itself is to be heard, not just any of them."""
        longest_silent = min(party.heard_at for party in covenant.reached())
        covenant.arm(Timer.LIVENESS, longest_silent, covenant.timers.heartbeat_timeout)

    def on_violation(self, covenant: Covenant, party: Party, found: Violation | Escalate) -> None:
        """Another agent's AIOS has found something: it is told to people, and believed of us.

        Raises:
            TermsDiffer: It names another covenant.
        """
        if found.covenant_id != covenant.covenant_id:
            raise TermsDiffer("VIOLATION or ESCALATE: the covenant id is not that of the frame")
        accused = found.violating_agent if isinstance(found, Violation) else found.subject_agent
        if (
            isinstance(found, Violation)
            and accused == covenant.agent_id
            and found.response_level in ("quarantine", "escalate")
        ):
            covenant.suspended_by.add(party.agent_id)
        kind = "violation" if isinstance(found, Violation) else "escalated"
        self._desk.tell(covenant, kind, found.description, violation=found, agent_id=party.agent_id)

    # Time

    def tick(self, covenant: Covenant, timer: Timer, now: int) -> None:
        """Does what a timer that has run out asks for."""
        del covenant.deadlines[timer]
        _TICKS[timer](self, covenant, now)

    def _beat(self, covenant: Covenant, now: int) -> None:
        covenant.arm(Timer.HEARTBEAT, now, covenant.timers.heartbeat)
        self._desk.send(covenant, FrameType.HEARTBEAT)

    def _silence(self, covenant: Covenant, now: int) -> None:
        reason, timeout = "no sign of life", covenant.timers.heartbeat_timeout * US
        for party in covenant.reached():
            if now - party.heard_at >= timeout:
                self._desk.report(
                    covenant,
                    Condition.HEARTBEAT_TIMEOUT,
                    party.agent_id,
                    "no frame for too long",
                    now,
                )
        # Who hears us, though we do not hear it, is to know.
        payload = Revoke(covenant.covenant_id, reason)
        self._desk.send(covenant, FrameType.REVOKE, payload, FrameFlag.GRACEFUL)
        covenant.leaving = True
        self._begin_notice(covenant, Input.HEARTBEAT_TIMEOUT, reason, now)

    def _amend_over(self, covenant: Covenant, now: int) -> None:
        covenant.step(Input.AMEND_TIMEOUT)
        amendment, covenant.amendment = covenant.amendment, None
        if amendment is not None and covenant.agent_id in amendment.signatures:
            # Who agreed in time and was not heard holds the new version, with our signature on it.
            covenant.lapsed.append(amendment)
            del covenant.lapsed[:-LAPSED_MAX]
        self._desk.tell(covenant, "timeout", "the amendment was not agreed to in time")

    def _notice_over(self, covenant: Covenant, now: int) -> None:
        self._end(covenant, Input.NOTICE_EXPIRED, covenant.reason)

    def _review_due(self, covenant: Covenant, now: int) -> None:
        interval = max(covenant.proposal.duration.review_interval, REVIEW_MIN_US)
        covenant.arm(Timer.REVIEW, now, interval)
        self.review(covenant, "check", "")

    def _duration_over(self, covenant: Covenant, now: int) -> None:
        self._end(covenant, Input.REVOKE_NOW, "its duration is over")


def _goes_after_ours(covenant: Covenant, party: Party, amend: Amend) -> bool:
    """Whether an AMEND was made by one who had not heard of ours yet, which has lapsed here."""
    heard = amend.extensions.get("heard")
    newest = heard.get(str(covenant.agent_id)) if isinstance(heard, Mapping) else None
    return (
        isinstance(newest, int)
        and covenant.agent_id.bytes < party.agent_id.bytes
        and any(
            one.proposer == covenant.agent_id and one.sequence > newest for one in covenant.lapsed
        )
    )


def _agreed_to(
    waiting: Iterable[Amendment], party: Party, accept: Accept
) -> tuple[Amendment, dict[UUID, bytes]]:
    """The version that a party agrees to, and the signatures under it that its ACCEPT brings.

    Raises:
        TermsDiffer: It is none of those that wait for it, or it is not signed.
        SignatureError: A signature is not that of its agent.
    """
    matching = [
        one
        for one in waiting
        if hmac.compare_digest(accept.terms_hash, terms_hash(one.document.terms))
    ]
    if not matching:
        raise TermsDiffer("ACCEPT: the terms hash is not that of the amendment")
    signature = accept.extensions.get("bind_signature")
    if not isinstance(signature, bytes):
        raise TermsDiffer("ACCEPT: the new version is not signed (bind_signature)")
    amendment = matching[0]
    for other in matching[1:]:
        # Of versions with the same terms, the signature says which is meant.
        with contextlib.suppress(SignatureError):
            verify_bind(other.document, party.agent_id, signature)
            amendment = other
    found = {party.agent_id: signature}
    verify_bind(amendment.document, party.agent_id, signature)
    others = accept.extensions.get("signatures")
    for agent in amendment.document.agents:
        theirs = others.get(str(agent.agent_id)) if isinstance(others, Mapping) else None
        if isinstance(theirs, bytes) and agent.agent_id not in amendment.signatures:
            verify_bind(amendment.document, agent.agent_id, theirs)
            found[agent.agent_id] = theirs
    return amendment, found


class RotationOrder:
    """A change of our own key: the new one signs, and the old one has agreed.

    Args:
        public_key: The new key.
        sign: Signs with it.
        rotation: What the parties are shown.
    """

    __slots__ = ("public_key", "rotation", "sign")

    def __init__(
        self, public_key: bytes, sign: Callable[[bytes], bytes], rotation: Rotation
    ) -> None:
        self.public_key = public_key
        self.sign = sign
        self.rotation = rotation


def _burst_ns(allowed: Allowance) -> int:
    blocks = max(allowed.flows.values(), default=0)
    return blocks * _SECOND // allowed.rate_blocks_per_second


_TICKS: Final[Mapping[Timer, Callable[[Fellowship, Covenant, int], None]]] = MappingProxyType(
    {
        Timer.HEARTBEAT: Fellowship._beat,
        Timer.LIVENESS: Fellowship._silence,
        Timer.AMEND: Fellowship._amend_over,
        Timer.NOTICE: Fellowship._notice_over,
        Timer.REVIEW: Fellowship._review_due,
        Timer.END: Fellowship._duration_over,
    }
)

__all__ = ["LAPSED_MAX", "REVIEW_MIN_US", "US", "Fellowship", "RotationOrder"]
