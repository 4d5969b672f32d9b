# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Fabric."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from assent.dataplane.gate import Attachment, Gate
from assent.service import fields
from assent.service.fabric import Guarded
from assent.service.interfaces import InterfaceInfo
from assent.service.registry import Promises, Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.service.sessions import SessionManager
from assent.v1 import fabric_pb2
from assent.v1.fabric_pb2_grpc import FabricServicer as Base


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
    """

    def __init__(
        self,
        facts: HostFacts,
        gate: Gate,
        guarded: Guarded,
        registry: Registry,
        sessions: SessionManager,
        ledger: Promises,
    ) -> None:
        self._facts = facts
        self._gate = gate
        self._guarded = guarded
        self._registry = registry
        self._sessions = sessions
        self._ledger = ledger

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
