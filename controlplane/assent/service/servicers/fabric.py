# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric."""

from __future__ import annotations

import platform
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from assent.dataplane.explain import Explanation
from assent.dataplane.gate import Attachment, Gate
from assent.errors import NotFound, ResourceExhausted
from assent.service import fields
from assent.service.events import EventHub, Interest, Sighting
from assent.service.examiner import FRAMES_MAX, Examiner
from assent.service.fabric import Guarded
from assent.service.interfaces import InterfaceInfo
from assent.service.registry import Promises, Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.service.sessions import SessionManager
from assent.v1 import fabric_pb2
from assent.v1.fabric_pb2_grpc import FabricServicer as Base
from assent.wire.cellid import CellID


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
        return fabric_pb2.Status(
            version=_version(),
            instance=self._facts.instance,
            profile=self._facts.profile,
            adopted=self._gate.adopted,
            pin_directory=str(self._facts.pin_directory),
            program_id=self._gate.program.id,
            kernel=platform.release(),
            interfaces=[_interface(*found) for found in self._guarded.interfaces()],
            local_cells=local_cells,
            remote_cells=remote_cells,
            sessions=self._sessions.count(),
            credit_capacity_blocks=self._ledger.capacity,
            credit_promised_blocks=self._ledger.promised,
            uptime_ns=time.monotonic_ns() - self._facts.started_at,
        )

    async def Attach(  # noqa: N802
        self, request: fabric_pb2.AttachRequest, context: Context
    ) -> fabric_pb2.Interface:
        """Gates an interface."""
        interface = fields.interface("interface", request.interface)
        mode = translate.attach_mode("mode", request.mode)
        return _interface(*self._guarded.attach(interface, mode))

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
        return fabric_pb2.Counters(
            counters=[
                fabric_pb2.Counter(
                    reason=reason, frames=total.frames, bytes=total.bytes, events=total.events
                )
                for reason, total in self._gate.tables.counters.read().items()
            ]
        )

    async def WatchEvents(  # noqa: N802
        self, request: fabric_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[fabric_pb2.Event]:
        """Frames that the gate refuses, from now on."""
        cell = self._cell_of(request) if request.HasField("cell") else None
        interest = Interest.checked(request.reasons, cell, self._gate.tables.reasons)
        with self._hub.watch(interest) as watch:
            # The client learns that it is watching before anything has been refused.
            await context.send_initial_metadata(())
            async for seen, missed in watch:
                yield self._event(seen, missed)

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

    def _event(self, seen: Sighting, missed: int) -> fabric_pb2.Event:
        message = fabric_pb2.Event(
            time_unix_ns=seen.time,
            reason=seen.reason,
            interface=seen.interface,
            session_id=seen.session_id,
            frame_len=seen.frame_len,
            head=seen.head,
            suppressed=missed,
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
        return message

    def _explanation(self, index: int, found: Explanation) -> fabric_pb2.Explanation:
        message = fabric_pb2.Explanation(
            index=index,
            ethertype=found.ethertype,
            verdict=found.verdict,
            reason=found.reason,
            stage=found.stage,
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


def _interface(attachment: Attachment, info: InterfaceInfo) -> fabric_pb2.Interface:
    return fabric_pb2.Interface(
        name=info.name,
        index=info.index,
        mode=translate.attach_mode_out(attachment.mode),
        mac=fields.mac_text(info.mac),
        mtu=info.mtu,
    )


def _version() -> str:
    try:
        return metadata.version("assent")
    except metadata.PackageNotFoundError:
        return "unknown"
