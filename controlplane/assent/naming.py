# SPDX-License-Identifier: Apache-2.0
"""Cells as people and programs name them."""

from __future__ import annotations

import re

from assent.v1.cells_pb2 import CellRef
from assent.v1.common_pb2 import CellId
from assent.wire.cellid import CellID

_CELLID = re.compile(r"[0-9a-fA-F]{32}")


def cell_ref(cell: CellID | str) -> CellRef:
    """A cell by its id or name; of a text, 32 hexadecimal digits are an id, all else is a name.

    Raises:
        InvalidArgument: It has colons, as only an id has, but is not an id.
    """
    if isinstance(cell, CellID):
        return CellRef(id=CellId(value=cell.raw))
    # Grouped by dashes, an id could be a name; names have no colons.
    if ":" in cell or _CELLID.fullmatch(cell):
        return CellRef(id=CellId(value=CellID.parse(cell).raw))
    return CellRef(name=cell)
