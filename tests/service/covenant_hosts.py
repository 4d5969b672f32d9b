# SPDX-License-Identifier: Apache-2.0
"""Hosts whose daemons agree on covenants, and frames that show what their gates make of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cbor2

from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Map, Program
from assent.dataplane.objects import packaged
from assent.dataplane.reasons import reasons
from assent.dataplane.tables.counters import CounterTable
from assent.dataplane.tables.flows import FlowTable
from assent.service.handshakes import wall_clock
from assent.v1 import cells_pb2, common_pb2, sessions_pb2
from assent.v1 import covenants_pb2 as pb
from assent.v1.covenants_pb2_grpc import CovenantsStub
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, padded_len, signed_bytes
from assent.wire.siphash import siphash24

from .conftest import (
    INTERFACE,
    WAIT_SECONDS,
    Api,
    Host,
    Place,
    by_name,
    eventually,
)

IDLE = pb.COVENANT_STATE_IDLE
SENT = pb.COVENANT_STATE_OFFER_SENT
RECEIVED = pb.COVENANT_STATE_OFFER_RECEIVED
DEFERRED = pb.COVENANT_STATE_DEFERRED
COVENANTED = pb.COVENANT_STATE_COVENANTED
AMENDING = pb.COVENANT_STATE_AMENDING
REVOKING = pb.COVENANT_STATE_REVOKING
TERMINATED = pb.COVENANT_STATE_TERMINATED

IN_FORCE = {COVENANTED, AMENDING, REVOKING}

WINDOW = 64
TEXT = "text/plain"
WHY = pb.Justification(
    comprehension_proof="you want to send text",
    rejection_reasons=[
        pb.RejectionReason(term_ref="push", rationale="not today", severity="incompatible")
    ],
)
QUESTIONS = pb.Deferral(
    questions=[pb.Question(about="push", specificity="how much")],
    current_understanding="it is about text",
    evidence_needed=["a log"],
)
_GATE = Btf.from_object(packaged("gate"))
_FLAGS = _GATE.enum("assent_session_flag")


def terms(
    *limits: pb.Constraint,
    flows: Sequence[int] = (1,),
    types: Sequence[str] = (),
    both: bool = False,
) -> pb.Terms:
    """The initiator may send on some flows, each with a window of WINDOW blocks."""
    return pb.Terms(
        permissions=[
            pb.Permission(
                id="push",
                party="*" if both else "initiator",
                action="send",
                flows=flows,
                content_types=types,
            )
        ],
        constraints=[
            pb.Constraint(id="burst", party="*", burst=pb.Burst(blocks=WINDOW)),
            *limits,
        ],
    )


def rate(blocks: int) -> pb.Constraint:
    return pb.Constraint(id="rate", party="initiator", rate_blocks_per_second=blocks)


def payload(octets: int) -> pb.Constraint:
    return pb.Constraint(id="size", party="initiator", payload_bytes=octets)


def timer(name: str, seconds: float) -> pb.Constraint:
    return pb.Constraint(
        id=name, party="*", timer=pb.TimerTerm(timer=name, microseconds=round(seconds * 1e6))
    )


def proposal(
    *limits: pb.Constraint,
    durable: bool = False,
    notice: float = 0.3,
    mutual: bool = False,
    **changes: Any,
) -> pb.CovenantProposal:
    """Something to agree on."""
    return pb.CovenantProposal(
        terms=terms(*limits, **changes),
        duration=pb.CovenantDuration(),
        misericordia_clauses=[
            pb.Clause(type="protection", description="heard first", trigger="need", action="rest")
        ],
        exit_protocol=pb.ExitProtocol(
            notice_period_us=round(notice * 1e6), mutual_required=mutual, fallback_state="isolated"
        ),
        durable=durable,
    )


def flags_of(entry: Record) -> set[str]:
    """What the gate has been told of a pair."""
    return {
        flag.removeprefix("ASSENT_SESSION_").lower()
        for flag, bit in _FLAGS.items()
        if entry.flags & bit
    }


class Side:
    """One host, its daemon's API, and its gate."""

    def __init__(self, name: str, place: Place, api: Api) -> None:
        self.name = name
        self.place = place
        self.api = api
        self.covenants: Any = CovenantsStub(api.channel)
        self._numbers = itertools.count(1)

    # Covenants

    async def offer(
        self, *names: str, what: pb.CovenantProposal | None = None, url: str = ""
    ) -> int:
        """Offers; the handle."""
        remotes = [pb.OfferRemote(cell=by_name(name), url=url) for name in names]
        request = pb.OfferRequest(remotes=remotes, proposal=what or proposal())
        return (await self.covenants.Offer(request, timeout=WAIT_SECONDS)).handle

    async def accept(self, handle: int) -> pb.Covenant:
        return await self.covenants.Accept(pb.AcceptRequest(handle=handle))

    async def revoke(self, handle: int, *, now: bool = False) -> pb.Covenant:
        return await self.covenants.Revoke(pb.RevokeRequest(handle=handle, reason="over", now=now))

    async def get(self, handle: int) -> pb.Covenant:
        return await self.covenants.Get(pb.GetCovenantRequest(handle=handle))

    async def list(self, *, ended: bool = False) -> list[pb.Covenant]:
        reply = await self.covenants.List(pb.ListCovenantsRequest(ended=ended))
        return list(reply.covenants)

    async def until(self, handle: int, *states: int) -> pb.Covenant:
        """Waits until a covenant is in one of these states."""

        async def there() -> pb.Covenant | None:
            found = await self.get(handle)
            return found if found.state in states else None

        wanted = " or ".join(pb.CovenantState.Name(state) for state in states)
        return await eventually(there, f"covenant {handle} of {self.name} is {wanted}")

    async def newest(self, *states: int, above: int = 0) -> pb.Covenant:
        """Waits for a covenant in one of these states, and returns the newest."""

        async def there() -> pb.Covenant | None:
            found = [
                one
                for one in await self.list(ended=True)
                if one.state in states and one.handle > above
            ]
            return max(found, key=lambda one: one.handle, default=None)

        wanted = " or ".join(pb.CovenantState.Name(state) for state in states)
        return await eventually(there, f"a covenant of {self.name} is {wanted}")

    async def policy(self, policy: pb.CovenantPolicy | None, remote: str = "") -> None:
        request = pb.SetCovenantPolicyRequest(policy=policy)
        if remote:
            request.remote.CopyFrom(by_name(remote))
        await self.covenants.SetPolicy(request)

    async def evidence(self, count: int = 1000, handle: int = 0) -> list[dict[str, Any]]:
        reply = await self.covenants.Evidence(pb.EvidenceRequest(count=count, handle=handle))
        return [json.loads(record) for record in reply.records]

    async def quarantined(self, name: str) -> str:
        """For what a peer is held apart."""
        found = [
            peer.quarantined
            for one in await self.list(ended=True)
            for peer in one.peers
            if peer.name == name
        ]
        return next(filter(None, found), "")

    def derived(self) -> list[str]:
        """What the store holds of covenants in force: gates, and keys that nobody has set."""
        return [
            row
            for row in self.place.rows()
            if 'INTO "covenant_gates"' in row
            or ('INTO "psks"' in row and not row.endswith("NULL);"))
        ]

    async def open_for(self, name: str) -> bool:
        """Whether a peer's data passes: gate, store and API must say the same."""
        stored = any('INTO "covenant_gates"' in row for row in self.derived())
        in_force = any(
            peer.name == name
            for one in await self.list()
            if one.state in IN_FORCE
            for peer in one.peers
        )
        gate = "covenanted" in await self.says(name)
        found = {"stored": stored, "in force": in_force, "open": gate}
        assert len(set(found.values())) == 1, f"{self.name}: {found}"
        return gate

    # Sessions and the gate

    def entry(self, remote: CellID, local: CellID) -> Record | None:
        """A pair as the gate has it."""
        raw = self.place.map("sessions").get(bytes(remote) + bytes(local))
        return None if raw is None else _GATE.map_value("sessions").unpack(raw)

    async def cell(self, name: str = "") -> CellID:
        """A cell, this host's own where no name is given."""
        request = cells_pb2.GetCellRequest(cell=by_name(name or self.name))
        return CellID((await self.api.cells.Get(request)).id.value)

    async def pair(self, name: str) -> Record:
        """A peer's pair as the gate has it."""
        entry = self.entry(await self.cell(name), await self.cell())
        assert entry is not None
        return entry

    async def says(self, name: str) -> set[str]:
        """What the gate has been told of a peer: "covenanted", "quarantined", ..."""
        entry = self.entry(await self.cell(name), await self.cell())
        if entry is None:
            return set()
        return flags_of(entry)

    async def windows(self, name: str) -> dict[int, int]:
        """The windows of the session with a peer, by flow."""
        session = await self.api.session(name)
        if session is None:
            return {}
        return {flow.flow: flow.rx_granted_blocks for flow in session.flows if flow.flow}

    async def counted(self) -> dict[str, int]:
        return {name: frames for name, frames in (await self.api.counters()).items() if frames}

    async def send(
        self,
        other: Side,
        flow: int = 1,
        size: int = 0,
        **fields: Any,
    ) -> str:
        """What the other's gate makes of a frame of the session, as if it had arrived."""
        return other.decide((await self.voice(other))(flow, size, **fields))

    async def voice(self, other: Side) -> Callable[..., bytes]:
        """Makes frames of the session with another host, whatever becomes of that."""

        async def keys() -> tuple[sessions_pb2.Session, bytes] | None:
            session = await self.api.session(other.name)
            if session is not None:
                path = self.place.config.run_dir / "sessions" / f"{session.id}.key"
                with contextlib.suppress(FileNotFoundError):  # it was renewed meanwhile
                    return session, cbor2.loads(path.read_bytes())["tx_header"]
            return None

        session, key = await eventually(keys, f"{self.name} is in session with {other.name}")
        return partial(self._frame, session, key)

    def _frame(
        self,
        session: sessions_pb2.Session,
        key: bytes,
        flow: int = 1,
        size: int = 0,
        **fields: Any,
    ) -> bytes:
        # Flow 0 is the daemon's own: ahead of its numbers, which the replay window still has.
        seq = next(self._numbers) + (0 if flow else session.flows[0].tx_seq + 400)
        header = Header(
            CellID(session.local.value),
            CellID(session.remote.value),
            seq,
            Flags.DATA | Flags.BLOCK,
            size,
            flow,
            timestamp=wall_clock(),
        )
        header = replace(header, **fields)
        header = replace(header, tag=siphash24(key, signed_bytes(header)))
        body = header.encode() + bytes(padded_len(size))
        return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body

    def decide(self, frame: bytes) -> str:
        """What our gate makes of a frame, by the counter that moves; without the daemon."""
        before = self.counts()
        with Program.open_pinned(self.place.pins / "programs" / "gate") as gate:
            gate.test_run(frame)
        after = self.counts()
        # Flow 0 of the daemons may be admitted meanwhile; nothing else goes on.
        refused = [name for name in after if after[name] > before[name] and name != "admitted"]
        assert len(refused) <= 1
        return refused[0] if refused else "admitted"

    def counts(self) -> dict[str, int]:
        """Arriving frames, by verdict."""
        maps = self.place.pins / "maps"
        with (
            Map.open_pinned(maps / "counters") as counters,
            Map.open_pinned(maps / "interfaces") as interfaces,
        ):
            totals = CounterTable(_GATE, counters, interfaces, reasons()).read()
        return {name: count.frames for name, count in totals.items()}

    def lease(self) -> tuple[int, int]:
        """How long the gate lets data of leased covenants pass, and now; monotonic ns."""
        (value,) = self.place.map("config").values()
        return int(_GATE.map_value("config").unpack(value).lease_until), time.monotonic_ns()

    def end_lease(self) -> None:
        """As if the daemon had not renewed it for long."""
        layout = _GATE.map_value("config")
        with Map.open_pinned(self.place.pins / "maps" / "config") as table:
            config = layout.unpack(table.lookup(bytes(4)) or b"")
            table.update(bytes(4), config.replace(lease_until=1).pack())

    async def open_flow(self, name: str, flow: int = 1) -> None:
        """As an endpoint does that takes the flow's frames."""
        entry = await self.pair(name)
        assert flow < entry.flow_count
        with (
            Map.open_pinned(self.place.pins / "maps" / "flows") as table,
            contextlib.closing(FlowTable(table, _GATE)) as flows,
        ):
            flows.set_open(entry.flow_base + flow, True)


@contextlib.asynccontextmanager
async def entered(*hosts: Host) -> AsyncIterator[list[Side]]:
    """The running daemons of some hosts."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Side(host.name, host.place, await stack.enter_async_context(host.enter()))
            for host in hosts
        ]


async def introduce(*sides: Side, psk: bool = True, attach: bool = True) -> None:
    """Every host has a cell, and knows all others, whose consent is left to covenants."""
    keys = {}
    for side in sides:
        interface = INTERFACE if attach else "lo"
        keys[side.name] = (await side.api.local(side.name, interface)).public_key
        if attach:
            await side.api.attach()
    for here, there in itertools.permutations(sides, 2):
        await here.api.remote(there.name, keys[there.name], common_pb2.CONSENT_COVENANT)
        if psk:
            await here.api.psk(there.name)


async def agree(
    left: Side, right: Side, what: pb.CovenantProposal | None = None, *, url: str = ""
) -> tuple[int, int]:
    """A covenant in force that left has offered; its handle on either side."""
    ours = await left.offer(right.name, what=what, url=url)
    theirs = (await right.newest(RECEIVED)).handle
    await right.accept(theirs)
    for side, handle in ((left, ours), (right, theirs)):
        await side.until(handle, COVENANTED)
    return ours, theirs


async def in_session(left: Side, right: Side, windows: dict[int, int] | None = None) -> None:
    """Waits until both have a session whose windows are those agreed on."""
    wanted = {1: WINDOW} if windows is None else windows

    async def there() -> bool:
        at_right, session = await right.windows(left.name), await left.api.session(right.name)
        if session is None or session.state != sessions_pb2.SESSION_STATE_ESTABLISHED:
            return False
        granted = {one.flow: one.tx_granted_blocks for one in session.flows if one.flow}
        return at_right == granted == wanted

    await eventually(there, f"a session in which {left.name} may send {wanted}")
