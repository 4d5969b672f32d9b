# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from assent.dataplane.explain import Explanation
from assent.dataplane.gate import Gate
from assent.dataplane.pair_counts import PairCounts, busiest
from assent.dataplane.reasons import ADMITTED
from assent.dataplane.tables import CounterTotals, Tally
from assent.errors import AssentError, InvalidArgument, NotFound, ResourceExhausted
from assent.service import fields
from assent.service.credit import Promises
from assent.service.events import EventHub, Interest, Summary, Told, Watch, interface_name
from assent.service.examiner import FRAMES_MAX, Examiner
from assent.service.fabric import Guard, Guarded, Ungated
from assent.service.records import RemoteCell
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.service.sessions import SessionManager
from assent.v1 import fabric_pb2
from assent.v1.fabric_pb2_grpc import FabricServicer as Base
from assent.wire.cellid import CellID

PAIRS_MAX: Final = 10_000
"""Pairs that one call lists."""
RELAXED_MAX: Final = 16
"""Cells whose names the status gives."""
_DIRECTIONS: Final = {
    False: fabric_pb2.DIRECTION_ARRIVING,
    True: fabric_pb2.DIRECTION_LEAVING,
}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while a daemon runs; `started_at` is monotonic ns."""

    instance: str
    profile: str
    pin_directory: Path
    started_at: int


class FabricServicer(Base):
    """The host's dataplane.

    Args:
        facts: What stays.
        gate: The dataplane.
        guarded: Its interfaces.
        registry: Counts cells.
        sessions: Counts sessions.
        ledger: Counts credit.
        hub: Refused frames.
        examiner: Explains frames.
    """

    def __init__(
        self,
        facts: HostFacts,
        gate: Gate,
        guarded: Guarded,
        registry: Registry,
        sessions: SessionManager,
        ledger: Promises,
        hub: EventHub,
        examiner: Examiner,
    ) -> None:
        self._facts = facts
        self._gate = gate
        self._guarded = guarded
        self._registry = registry
        self._sessions = sessions
        self._ledger = ledger
        self._hub = hub
        self._examiner = examiner

    async def GetStatus(  # noqa: N802
        self, request: fabric_pb2.GetStatusRequest, context: Context
    ) -> fabric_pb2.Status:
        """How the host stands."""
        local_cells, remote_cells = self._registry.counts()
        observed, bare = self._registry.relaxed_counts()
        relaxed = self._registry.relaxed(RELAXED_MAX)
        return fabric_pb2.Status(
            version=_version(),
            instance=self._facts.instance,
            profile=self._facts.profile,
            adopted=self._gate.adopted,
            pin_directory=str(self._facts.pin_directory),
            program_id=self._gate.program.id,
            kernel=platform.release(),
            interfaces=[_interface(guard) for guard in self._guarded.guards()],
            ungated=[_ungated(found) for found in self._guarded.ungated()],
            local_cells=local_cells,
            remote_cells=remote_cells,
            sessions=self._sessions.count(),
            credit_capacity_blocks=self._ledger.capacity,
            credit_promised_blocks=self._ledger.promised,
            uptime_ns=time.monotonic_ns() - self._facts.started_at,
            observed_cells=observed,
            bare_cells=bare,
            observed_names=[cell.name for cell in relaxed if cell.observe],
            bare_names=[
                cell.name for cell in relaxed if isinstance(cell, RemoteCell) and cell.bare
            ],
        )

    async def Attach(  # noqa: N802
        self, request: fabric_pb2.AttachRequest, context: Context
    ) -> fabric_pb2.Interface:
        """Gates an interface."""
        interface = fields.interface("interface", request.interface)
        mode = translate.attach_mode("mode", request.mode)
        guard, was_open = self._guarded.attach(interface, mode, bring_up=request.bring_up)
        return _interface(guard, was_up=was_open)

    async def Detach(  # noqa: N802
        self, request: fabric_pb2.DetachRequest, context: Context
    ) -> fabric_pb2.DetachResponse:
        """Takes the gate off an interface."""
        self._guarded.detach(fields.interface("interface", request.interface))
        return fabric_pb2.DetachResponse()

    async def GetCounters(  # noqa: N802
        self, request: fabric_pb2.GetCountersRequest, context: Context
    ) -> fabric_pb2.Counters:
        """What the gate has decided."""
        if request.pairs_max > PAIRS_MAX:
            raise InvalidArgument("pairs_max", f"at most {PAIRS_MAX}")
        counters = self._gate.tables.counters
        message = fabric_pb2.Counters(
            counters=_counters(counters.read("arriving")),
            leaving=_counters(counters.read("leaving")),
        )
        if request.interfaces:
            arriving = counters.by_interface("arriving")
            leaving = counters.by_interface("leaving")
            for index in arriving.keys() & leaving.keys():
                message.interfaces.add(
                    name=interface_name(index) if index else "",
                    index=index,
                    arriving=_counters(arriving[index]),
                    leaving=_counters(leaving[index]),
                )
        if request.pairs_max:
            # Sixty thousand entries take a while, in which others are to be served.
            found = await asyncio.to_thread(busiest, self._gate, request.pairs_max)
            message.pairs.extend(self._pair(each) for each in found.pairs)
            message.others.CopyFrom(_tally(found.others))
            message.other_pairs = found.other_pairs
        return message

    async def WatchEvents(  # noqa: N802
        self, request_iterator: AsyncIterator[fabric_pb2.WatchEventsRequest], context: Context
    ) -> AsyncIterator[fabric_pb2.WatchEventsResponse]:
        """Frames that the gate refuses, from now on, until the client has seen enough."""
        request = await anext(request_iterator, None)
        if request is None:
            raise InvalidArgument("request", "is missing: it says what is to be watched")
        cell = self._cell_of(request) if request.HasField("cell") else None
        interest = Interest.checked(request.reasons, cell, self._gate.tables.reasons)
        with self._hub.watch(interest) as watch:
            # The client learns that it is watching before anything has been refused.
            await context.send_initial_metadata(())
            ending = asyncio.create_task(self._until_enough(request_iterator, watch), name="watch")
            try:
                async for item in watch:
                    if isinstance(item, Told):
                        yield fabric_pb2.WatchEventsResponse(event=self._event(item))
                    else:
                        yield fabric_pb2.WatchEventsResponse(summary=_summary(item, cell))
            finally:
                ending.cancel()
                await asyncio.gather(ending, return_exceptions=True)

    async def _until_enough(
        self, requests: AsyncIterator[fabric_pb2.WatchEventsRequest], watch: Watch
    ) -> None:
        try:
            async for _ in requests:
                raise InvalidArgument("request", "one says what is to be watched, and no other")
            self._hub.finish(watch)
        except AssentError as error:
            watch.fail(error)

    async def Explain(  # noqa: N802
        self, request_iterator: AsyncIterator[fabric_pb2.Frame], context: Context
    ) -> AsyncIterator[fabric_pb2.Explanation]:
        """What the gate would decide on each frame."""
        index = 0
        async for frame in request_iterator:
            if index == FRAMES_MAX:
                raise ResourceExhausted(f"frames: at most {FRAMES_MAX} a call")
            found = self._examiner.explain(frame.data, frame.original_len)
            yield self._explanation(index, found)
            index += 1

    def _cell_of(self, request: fabric_pb2.WatchEventsRequest) -> CellID:
        """The cell to watch. By its id it may be unknown here: strangers are worth watching."""
        ref = translate.cell_ref("cell", request.cell)
        return ref if isinstance(ref, CellID) else self._registry.cell(ref).id

    def _name(self, cell: CellID) -> str:
        try:
            return self._registry.cell(cell).name
        except NotFound:
            return ""

    def _event(self, told: Told) -> fabric_pb2.Event:
        seen = told.seen
        message = fabric_pb2.Event(
            time_unix_ns=seen.time,
            reason=seen.reason,
            interface=seen.interface,
            session_id=seen.session_id,
            frame_len=seen.frame_len,
            head=seen.head,
            suppressed=told.suppressed,
            direction=_DIRECTIONS[seen.leaving],
            would_drop=seen.would_drop,
            rule=told.rule,
            vlan=seen.vlan,
        )
        if (header := seen.header) is not None:
            message.src.CopyFrom(translate.cell_id(header.src))
            message.dst.CopyFrom(translate.cell_id(header.dst))
            message.src_name = self._name(header.src)
            message.dst_name = self._name(header.dst)
            message.flow = header.flow
            message.seq = header.seq
            message.flags = header.flags
            message.payload_len = header.payload_len
        if (lwf := seen.lwf) is not None:
            message.lwf_source = bytes(lwf.source)
            message.lwf_destination = bytes(lwf.dest)
            message.payload_len = lwf.payload_len
        return message

    def _pair(self, each: PairCounts) -> fabric_pb2.PairCounters:
        message = _tally(each.tally)
        message.remote.CopyFrom(translate.cell_id(each.remote))
        message.local.CopyFrom(translate.cell_id(each.local))
        message.remote_name = self._name(each.remote)
        message.local_name = self._name(each.local)
        return message

    def _explanation(self, index: int, found: Explanation) -> fabric_pb2.Explanation:
        message = fabric_pb2.Explanation(
            index=index,
            ethertype=found.ethertype,
            verdict=found.verdict,
            reason=found.reason,
            stage=found.stage,
            would_drop=found.would_drop,
            consulted=[
                fabric_pb2.MapEntry(map=each.map, key=each.key, found=each.found, says=each.says)
                for each in found.consulted
            ],
        )
        if (header := found.header) is not None:
            message.src_cell.CopyFrom(translate.cell_id(header.src))
            message.dst_cell.CopyFrom(translate.cell_id(header.dst))
            message.src_name = self._name(header.src)
            message.dst_name = self._name(header.dst)
            message.flow = header.flow
            message.seq = header.seq
        return message


def _interface(guard: Guard, *, was_up: bool = False) -> fabric_pb2.Interface:
    return fabric_pb2.Interface(
        name=guard.info.name,
        index=guard.info.index,
        mode=translate.attach_mode_out(guard.attachment.mode),
        mac=fields.mac_text(guard.info.mac),
        mtu=guard.info.mtu,
        egress=translate.egress_state(guard.egress),
        was_up=was_up,
    )


def _ungated(found: Ungated) -> fabric_pb2.UngatedInterface:
    return fabric_pb2.UngatedInterface(
        name=found.wanted.name,
        mode=translate.attach_mode_out(found.wanted.mode),
        reason=found.reason,
    )


def _counters(totals: Mapping[str, CounterTotals]) -> list[fabric_pb2.Counter]:
    return [
        fabric_pb2.Counter(
            reason=reason,
            frames=total.frames,
            bytes=total.bytes,
            events=total.events,
            suppressed=total.suppressed,
            would_drop=total.observed,
        )
        for reason, total in totals.items()
    ]


def _tally(tally: Tally) -> fabric_pb2.PairCounters:
    dropped = {reason: frames for reason, frames in tally.frames.items() if reason != ADMITTED}
    return fabric_pb2.PairCounters(
        admitted=tally.frames.get(ADMITTED, 0),
        bytes=tally.bytes,
        would_drop=tally.observed,
        dropped=sum(dropped.values()),
        reasons=[
            fabric_pb2.ReasonFrames(reason=reason, frames=frames)
            for reason, frames in dropped.items()
        ],
    )


def _summary(summary: Summary, cell: CellID | None) -> fabric_pb2.WatchSummary:
    return fabric_pb2.WatchSummary(
        reasons=[
            fabric_pb2.WatchedReason(
                reason=each.reason,
                counted=each.counted,
                told=each.told,
                suppressed=each.suppressed,
            )
            for each in summary.reasons
        ],
        last=summary.last,
        of_all_cells=cell is not None,
    )


def _version() -> str:
    try:
        return metadata.version("assent")
    except metadata.PackageNotFoundError:
        return "unknown"
