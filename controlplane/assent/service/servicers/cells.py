# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Cells."""

from __future__ import annotations

import asyncio

from assent.identity.cellid import PUBLIC_KEY_LEN
from assent.identity.keys import noise_public_of
from assent.service import fields
from assent.service.cell_table import CellTable
from assent.service.records import LocalCell, RemoteCell
from assent.service.registry import Registry
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import cells_pb2
from assent.v1.cells_pb2_grpc import CellsServicer as Base


class CellsServicer(Base):
    """Who exists."""

    def __init__(self, registry: Registry, table: CellTable) -> None:
        self._registry = registry
        self._table = table

    async def CreateLocal(  # noqa: N802
        self, request: cells_pb2.CreateLocalRequest, context: Context
    ) -> cells_pb2.Cell:
        """Makes an identity on this host."""
        name = fields.name("name", request.name)
        interface = fields.interface("interface", request.interface)
        return self._shown(self._registry.create_local(name, interface))

    async def CreateRemote(  # noqa: N802
        self, request: cells_pb2.CreateRemoteRequest, context: Context
    ) -> cells_pb2.Cell:
        """Makes a remote cell known."""
        name = fields.name("name", request.name)
        key = fields.exact_bytes("public_key", request.public_key, PUBLIC_KEY_LEN)
        # Not every 32 bytes are a key that a handshake could use.
        noise_public_of(key)
        consent = translate.consent("consent", request.consent)
        mac = fields.optional_mac("mac", request.mac)
        return self._shown(self._registry.create_remote(name, key, consent, mac))

    async def Get(  # noqa: N802
        self, request: cells_pb2.GetCellRequest, context: Context
    ) -> cells_pb2.Cell:
        """One cell."""
        return self._shown(self._registry.cell(translate.cell_ref("cell", request.cell)))

    async def List(  # noqa: N802
        self, request: cells_pb2.ListCellsRequest, context: Context
    ) -> cells_pb2.ListCellsResponse:
        """All cells."""
        cells = [self._shown(cell) for cell in self._registry.cells()]
        return cells_pb2.ListCellsResponse(cells=cells)

    async def SetConsent(  # noqa: N802
        self, request: cells_pb2.SetConsentRequest, context: Context
    ) -> cells_pb2.Cell:
        """Consent given, suspended or taken back."""
        ref = translate.cell_ref("cell", request.cell)
        consent = translate.consent("consent", request.consent)
        return self._shown(self._registry.set_consent(ref, consent))

    async def SetPolicy(  # noqa: N802
        self, request: cells_pb2.SetPolicyRequest, context: Context
    ) -> cells_pb2.Cell:
        """What is relaxed for a cell."""
        ref = translate.cell_ref("cell", request.cell)
        observe = request.observe if request.HasField("observe") else None
        bare = request.allow_bare if request.HasField("allow_bare") else None
        return self._shown(self._registry.set_policy(ref, observe=observe, bare=bare))

    async def Move(  # noqa: N802
        self, request: cells_pb2.MoveCellRequest, context: Context
    ) -> cells_pb2.Cell:
        """Has a local cell speak through another interface."""
        ref = translate.cell_ref("cell", request.cell)
        interface = standby = None
        if request.HasField("interface"):
            interface = fields.interface("interface", request.interface)
        if request.HasField("standby"):
            standby = request.standby and fields.interface("standby", request.standby)
        return self._shown(self._registry.move_local(ref, interface, standby))

    async def ListTable(  # noqa: N802
        self, request: cells_pb2.ListCellTableRequest, context: Context
    ) -> cells_pb2.ListCellTableResponse:
        """Where cells are."""
        rows: list[cells_pb2.CellTableRow] = []
        for page in self._table.pages():
            rows += [translate.cell_row(row) for row in page]
            await asyncio.sleep(0)
        return cells_pb2.ListCellTableResponse(rows=rows)

    async def Delete(  # noqa: N802
        self, request: cells_pb2.DeleteCellRequest, context: Context
    ) -> cells_pb2.DeleteCellResponse:
        """Removes a cell."""
        self._registry.delete_cell(translate.cell_ref("cell", request.cell))
        return cells_pb2.DeleteCellResponse()

    def _shown(self, cell: LocalCell | RemoteCell) -> cells_pb2.Cell:
        return translate.cell(cell, has_psk=self._registry.has_psk(cell.id))
