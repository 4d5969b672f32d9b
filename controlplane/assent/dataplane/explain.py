# SPDX-License-Identifier: Apache-2.0
"""What a gate would decide on a frame, asked without changing anything.

explain.bpf.c runs the gate's own checks on the gate's own maps, and writes to no map but one that
nobody else has. Each frame is judged as if it arrived now: by today's clock, and with no account of
the frames that were asked about before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assent.closing import Closing
from assent.dataplane.btf import Btf, Record
from assent.dataplane.explain_relay import Consulted, relay_consulted
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Object
from assent.dataplane.objects import packaged
from assent.dataplane.stages import NOT_FABRIC, TRUNCATED, stage_of, verdict_of
from assent.dataplane.tables import SEC
from assent.errors import InvalidArgument
from assent.wire.captures import VERDICT_LEN
from assent.wire.ethernet import ETHERNET_HEADER_LEN
from assent.wire.fabric import ETHERTYPE, HEADER_LEN, Header
from assent.wire.lwf import ETHERTYPE as LWF_ETHERTYPE
from assent.wire.lwf import HEADER_LEN as LWF_HEADER_LEN
from assent.wire.lwf import FrameError
from assent.wire.lwf import Header as LwfHeader

_OBJECT: Final = "explain"
_MAP: Final = "explanations"
_ONLY: Final = bytes(4)
_WORD_NUMBERS: Final = 32
_VLAN_ETHERTYPES: Final = frozenset({0x8100, 0x88A8})


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict that was not carried out.

    Attributes:
        ethertype: 0 where the frame is too short for one.
        verdict: admit, relay, drop, pass or undecided.
        reason: The gate's name of it; "not_fabric" or "truncated" where it has none.
        stage: Which check decided.
        session_id: 0 where no session was found.
        header: The frame's header, where it is of the fabric and whole.
        lwf: The frame's header, where it is an LWF frame's and whole.
        would_drop: Why it would be refused, were its session not observed; "" where it would not.
        consulted: Map entries, in the order in which they were looked at.
    """

    ethertype: int
    verdict: str
    reason: str
    stage: str
    session_id: int = 0
    header: Header | None = None
    lwf: LwfHeader | None = None
    would_drop: str = ""
    consulted: tuple[Consulted, ...] = ()


class Explainer(Closing):
    """Explains frames by a gate's maps. A context manager; the gate must outlive it.

    Args:
        gate: Whose maps are asked.

    Raises:
        FailedPrecondition: BPF is not permitted.
        BpfError: The kernel refuses the program.
    """

    def __init__(self, gate: Gate) -> None:
        path = packaged(_OBJECT)
        btf = Btf.from_object(path)
        self._layout = btf.map_value(_MAP)
        self._tables = btf.enum("explain_table")
        self._answers = btf.enum("explain_answer")
        self._session_flags = btf.enum("assent_session_flag")
        self._reasons = gate.tables.reasons
        with contextlib.ExitStack() as undo, Object.open(path) as loaded:
            for name in gate.map_names:
                loaded.reuse_map(name, gate.map(name))
            loaded.load()
            self._answer = undo.enter_context(loaded.map(_MAP))
            self._program = undo.enter_context(loaded.program(_OBJECT))
            undo.pop_all()

    def explain(self, data: bytes, frame_len: int = 0) -> Explanation:
        """Explains one frame.

        Args:
            data: The frame, or its beginning, from the Ethernet header.
            frame_len: Bytes of the whole frame; 0 = `data` is all of it.

        Raises:
            InvalidArgument: The frame is shorter than its beginning.
        """
        frame_len = frame_len or len(data)
        if frame_len < len(data):
            raise InvalidArgument("original_len", f"is {frame_len}, and {len(data)} are given")
        ethertype = int.from_bytes(data[12:14], "big") if len(data) >= ETHERNET_HEADER_LEN else 0
        if len(data) < ETHERNET_HEADER_LEN <= frame_len:
            return _plain(ethertype, TRUNCATED)
        if len(data) < ETHERNET_HEADER_LEN:
            # The kernel runs no frame without an Ethernet header, and the gate passes it.
            return _plain(ethertype, NOT_FABRIC)
        record = self._run(data[:VERDICT_LEN], frame_len)
        cut_off = len(data) < min(frame_len, VERDICT_LEN)
        if record.answer == self._answers["EXPLAIN_NOT_FABRIC"]:
            # Behind the tags of a frame that was cut off there may be anything.
            unknown = cut_off and ethertype in _VLAN_ETHERTYPES
            return _plain(ethertype, TRUNCATED if unknown else NOT_FABRIC)
        if record.answer == self._answers["EXPLAIN_TRUNCATED"]:
            return _plain(ethertype, TRUNCATED)
        reason = self._reasons.name(record.reason)
        header, lwf = _headers(data, record.offset)
        consulted: Iterator[Consulted] = iter(())
        if header is not None:
            consulted = self._consulted(reason, record, header)
        elif lwf is not None:
            consulted = relay_consulted(reason, record, lwf, self._noted(record))
        admitted = record.observed and verdict_of(reason) == "admit"
        return Explanation(
            ethertype=ethertype,
            verdict=verdict_of(reason),
            reason=reason,
            stage=self._stage(reason, record),
            would_drop=self._reasons.name(record.observed) if admitted else "",
            session_id=record.session_id,
            header=header,
            lwf=lwf,
            consulted=tuple(consulted),
        )

    def close(self) -> None:
        """Unloads the program. Idempotent."""
        self._program.close()
        self._answer.close()

    def _run(self, head: bytes, frame_len: int) -> Record:
        self._answer.update(_ONLY, self._layout.pack(frame_len=frame_len))
        self._program.test_run(head)
        return self._layout.unpack(self._answer.lookup(_ONLY) or bytes(self._layout.size))

    def _consulted(self, reason: str, record: Record, header: Header) -> Iterator[Consulted]:
        """Puts what the program noted into words. An entry that is missing ends the look."""
        if reason in {"malformed_length", "stacked_vlan"}:
            return
        has = self._noted(record)
        local = "EXPLAIN_LOCALS" in has
        says = "a cell of this host" if local else ""
        yield Consulted("locals", str(header.dst), local, says)
        if not local:
            return
        passed = "EXPLAIN_BLOOM" in has
        yield Consulted("bloom", f"{header.src} to {header.dst}", passed, "perhaps known" * passed)
        if not passed:
            return
        known = "EXPLAIN_SESSIONS" in has
        pair = f"{header.src} to {header.dst}"
        yield Consulted("sessions", pair, known, self._session(record) if known else "")
        if "EXPLAIN_LEASE" in has:
            yield Consulted("config", "0", True, _lease(record))
        if "EXPLAIN_FLOWS" in has:
            key = f"slot {record.flow_slot}, flow {header.flow}"
            yield Consulted("flows", key, True, _flow(record, header.flow))
        elif reason == "unknown_flow":
            yield Consulted("flows", f"flow {header.flow}", False)
        if "EXPLAIN_REPLAY" in has:
            key = f"chunk {record.replay_chunk}, number {header.seq}"
            yield Consulted("replay", key, True, _window(record, header.seq))
        if "EXPLAIN_CONFIG" in has:
            ahead = record.due / SEC
            yield Consulted("config", "0", True, f"the sender runs {ahead:.3f} s ahead of its rate")

    def _stage(self, reason: str, record: Record) -> str:
        if reason == "unknown_source" and "EXPLAIN_BLOOM" not in self._noted(record):
            return "bloom"
        return stage_of(reason)

    def _noted(self, record: Record) -> set[str]:
        return {name for name, bit in self._tables.items() if record.consulted & bit}

    def _session(self, record: Record) -> str:
        flags = [
            name.removeprefix("ASSENT_SESSION_").lower()
            for name, bit in self._session_flags.items()
            if record.session_flags & bit
        ]
        said = f"session {record.session_id}, {' '.join(flags) or 'no flags'}"
        if record.handshake:
            said += f", newest handshake at {record.newest} ns"
        return ", ".join([said, *_terms(record)])


def _headers(data: bytes, offset: int) -> tuple[Header | None, LwfHeader | None]:
    """The header behind the Ethernet one, of whichever kind it is, where it is whole."""
    kind = int.from_bytes(data[offset - 2 : offset], "big")
    body = data[offset:]
    if kind == ETHERTYPE and len(body) >= HEADER_LEN:
        return Header.decode(body), None
    if kind == LWF_ETHERTYPE and len(body) >= LWF_HEADER_LEN:
        with contextlib.suppress(FrameError):
            return None, LwfHeader.decode(body)
    return None, None


def _plain(ethertype: int, reason: str) -> Explanation:
    return Explanation(ethertype, verdict_of(reason), reason, stage_of(reason))


def _terms(record: Record) -> Iterator[str]:
    """What the terms of a covenant say of a data frame."""
    if record.opens_in:
        yield f"let in from {record.opens_in / SEC:.3f} s from now"
    if record.has_end:
        yield f"let in for another {record.closes_in / SEC:.3f} s"
    if record.payload_limit:
        yield f"payload limit {record.payload_limit} bytes"
    if record.has_rate:
        yield f"{record.data_ahead / SEC:.3f} s ahead of the rate in its terms"


def _lease(record: Record) -> str:
    if not record.lease_left:
        return "the lease of covenants has run out"
    return f"the lease of covenants lasts another {record.lease_left / SEC:.3f} s"


def _flow(record: Record, number: int) -> str:
    said = f"highest number {record.rx_highest}"
    if record.skew:
        said += f", timestamp {record.skew / SEC:+.3f} s off (limit {record.skew_limit / SEC:g} s)"
    if number == 0:
        return said
    left = max(record.rx_granted - record.rx_spent, 0)
    state = "open" if record.rx_open else "no endpoint"
    return f"{said}, {state}, {left} blocks of credit left, {record.cost} needed"


def _window(record: Record, seq: int) -> str:
    seen = record.replay_word >> _WORD_NUMBERS == seq // _WORD_NUMBERS and (
        record.replay_word >> (seq % _WORD_NUMBERS) & 1
    )
    return "seen before" if seen else "not marked"
